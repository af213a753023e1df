package sshd

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
)

const (
	oneCA   = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU"
	otherCA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOSdCr9KPhnIv7pCdzoSyGflHW2bMORsoA9kYj66mdOd"
)

// trusts returns the authorities that sshd trusts by what it runs with.
func trusts(t *testing.T, m *fakeMachine) []string {
	t.Helper()
	file := parseEffective([]byte(m.running)).first("trustedusercakeys")
	if file == "none" {
		if _, err := os.Stat(m.root + caFile); err == nil {
			t.Error("the file is there and is not used")
		}
		return nil
	}
	var keys []string
	for line := range strings.Lines(read(t, m.root+file)) {
		if !strings.HasPrefix(line, "#") {
			keys = append(keys, strings.TrimSpace(line))
		}
	}
	return keys
}

func TestAuthoritiesComeWideningAndGoNarrowing(t *testing.T) {
	m := newMachine(t, false, "TrustedUserCAKeys /etc/ssh/theirs.pub\n"+includeLine+"\n")
	write(t, m.root+"/etc/ssh/theirs.pub", "# a remark\n"+otherCA+" theirs\n")
	p := m.provider(&providertest.Faults{})
	wish := func(stage provider.Stage, keys ...string) wish {
		s := spec(202, "10.0.10.4")
		s.UserCaKeys = keys
		return at(stage, s)
	}
	for _, step := range []struct {
		stage  provider.Stage
		wanted []string
		want   []string
	}{
		{provider.Widening, []string{oneCA}, []string{oneCA, otherCA}},
		{provider.Narrowing, []string{oneCA}, []string{oneCA}},
		{provider.Widening, []string{otherCA}, []string{otherCA, oneCA}},
		{provider.Narrowing, []string{otherCA}, []string{otherCA}},
		{provider.Widening, nil, []string{otherCA}},
		{provider.Narrowing, nil, nil},
		{provider.Widening, []string{oneCA}, []string{oneCA}},
	} {
		applied(t, p, wish(step.stage, step.wanted...))
		if diff := cmp.Diff(step.want, trusts(t, m)); diff != "" {
			t.Errorf("%v of %v (-want +got):\n%s", step.stage, step.wanted, diff)
		}
	}
}

func TestRollbackPutsTheFormerAuthoritiesBack(t *testing.T) {
	m := newMachine(t, false, distribution)
	p := m.provider(&providertest.Faults{})
	applied(t, p, at(provider.Widening, spec(202, "10.0.10.4")))
	applied(t, p, at(provider.Narrowing, spec(202, "10.0.10.4")))
	next := spec(202, "10.0.10.4")
	next.UserCaKeys = nil
	pl, err := p.Plan(t.Context(), at(provider.Narrowing, next))
	must(t, err)
	snap, err := p.Snapshot(t.Context(), pl)
	must(t, err)
	must(t, p.Apply(t.Context(), pl))
	if got := trusts(t, m); got != nil {
		t.Errorf("still trusted: %v", got)
	}
	must(t, p.Rollback(t.Context(), snap))
	if diff := cmp.Diff([]string{oneCA}, trusts(t, m)); diff != "" {
		t.Errorf("after the rollback (-want +got):\n%s", diff)
	}
}
