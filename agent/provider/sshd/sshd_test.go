package sshd

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write the golden files")

func spec(port uint32, addresses ...string) *v1.SshdSpec {
	return &v1.SshdSpec{UserCaKeys: []string{oneCA}, Port: port, ListenAddresses: addresses, AllowUsers: []string{"operator", "developer"},
		AllowFrom: []string{"10.0.10.4/32", "10.0.20.0/24"}, MaxAuthTries: 4, MaxSessions: 10, ClientAliveIntervalSeconds: 30,
		Peers: []string{"client-relay"}}
}

func at(stage provider.Stage, s *v1.SshdSpec, laggards ...string) wish {
	return wish{Spec: s, Stage: stage, Laggards: laggards}
}

type env = providertest.Env[*v1.SshdSpec]

func environment(m *fakeMachine, faults *providertest.Faults) env {
	return env{Root: m.root, Provider: m.provider(faults), State: m.state,
		Restart: func() provider.Provider[*v1.SshdSpec] { return m.provider(faults) }}
}

func TestConformance(t *testing.T) {
	for name, socket := range map[string]bool{"ssh.service": false, "ssh.socket": true} {
		t.Run(name, func(t *testing.T) {
			suite := providertest.Suite[*v1.SshdSpec]{
				New: func(t *testing.T, faults *providertest.Faults) env {
					return environment(newMachine(t, socket, distribution), faults)
				},
				Steps: []providertest.Step[*v1.SshdSpec]{
					{Name: "first widening", Wish: at(provider.Widening, spec(202, "10.0.10.4"))},
					{Name: "first narrowing", Wish: at(provider.Narrowing, spec(202, "10.0.10.4"))},
					{Name: "widening what is narrow", Wish: at(provider.Widening, spec(202, "10.0.10.4")), NoChange: true},
				},
				MaxFaults: 25,
			}
			if !socket {
				suite.Steps = append(suite.Steps,
					providertest.Step[*v1.SshdSpec]{Name: "other port, widening", Wish: at(provider.Widening, spec(203, "10.0.10.4"))},
					providertest.Step[*v1.SshdSpec]{Name: "other port, widening again", Wish: at(provider.Widening, spec(203, "10.0.10.4")), NoChange: true},
					providertest.Step[*v1.SshdSpec]{Name: "laggard holds the port", Wish: at(provider.Narrowing, spec(203, "10.0.10.4"), "client-relay"), NoChange: true},
					providertest.Step[*v1.SshdSpec]{Name: "other port, narrowing", Wish: at(provider.Narrowing, spec(203, "10.0.10.4"), "srv-prod")})
				suite.Drifts, suite.Refusals = drifts(), refusals()
			}
			providertest.Run(t, suite)
		})
	}
}

func drifts() []providertest.Drift[*v1.SshdSpec] {
	edit := func(file, text string) func(*testing.T, env) {
		return func(t *testing.T, e env) { write(t, e.Root+file, text+read(t, e.Root+file)) }
	}
	return []providertest.Drift[*v1.SshdSpec]{
		{Name: "drop-in edited", Do: edit(dropIn, "PermitRootLogin yes\n")},
		{Name: "drop-in removed", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+dropIn)) }},
		{Name: "port added in the main file", After: 7, Do: func(t *testing.T, e env) {
			// the line stays, commented out: so the main file is not what it was, and only the drop-in can be compared
			edit("/etc/ssh/sshd_config.d/00-infractl.conf", "Port 2222\n")(t, e)
		}},
		{Name: "drop-in broken", Do: edit(dropIn, "broken\n")},
		{Name: "authorities removed", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+caFile)) }},
		{Name: "authority added", Do: edit(caFile, otherCA+"\n")},
		{Name: "unit's drop-in removed", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+unitDropIn)) }},
		{Name: "sysctl set back", Do: func(t *testing.T, e env) {
			write(t, e.Root+sysctlPath("net.ipv4.ip_nonlocal_bind"), "0\n")
		}},
		{Name: "sshd stopped", Do: func(t *testing.T, e env) {
			write(t, e.Root+"/proc/net/tcp", "")
		}},
		{Name: "sshd not started at boot", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+serviceLinks()[0])) }},
	}
}

func refusals() []providertest.Refusal[*v1.SshdSpec] {
	with := func(change func(*v1.SshdSpec)) wish {
		s := spec(202)
		change(s)
		return at(provider.Widening, s)
	}
	remove := func(name string) func(*testing.T, env) {
		return func(t *testing.T, e env) { must(t, os.Remove(e.Root+name)) }
	}
	add := func(text string) func(*testing.T, env) {
		return func(t *testing.T, e env) { write(t, e.Root+mainFile, read(t, e.Root+mainFile)+text) }
	}
	return []providertest.Refusal[*v1.SshdSpec]{
		{Name: "nobody allowed", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.AllowUsers = nil })},
		{Name: "root allowed", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.AllowUsers = []string{"root"} })},
		{Name: "line end in a user", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.AllowUsers = []string{"a\nPermitRootLogin yes"} })},
		{Name: "authority that is none", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.UserCaKeys = []string{"ssh-ed25519 x"} })},
		{Name: "line end in an authority", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.UserCaKeys = []string{oneCA + "\n" + otherCA} })},
		{Name: "no port", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.Port = 0 })},
		{Name: "port too high", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.Port = 70000 })},
		{Name: "name instead of an address", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.ListenAddresses = []string{"relay"} })},
		{Name: "prefix that is none", Code: errs.Invalid, Wish: with(func(s *v1.SshdSpec) { s.AllowFrom = []string{"10.0.0.0/99"} })},
		{Name: "sshd not installed", Code: errs.Precondition, Wish: at(provider.Widening, spec(202)), Prepare: remove("/usr/sbin/sshd")},
		{Name: "no host key", Code: errs.Precondition, Wish: at(provider.Widening, spec(202)), Prepare: remove("/etc/ssh/ssh_host_ed25519_key")},
		{Name: "file of others broken", Code: errs.Precondition, Wish: at(provider.Widening, spec(202)), Prepare: add("broken\n")},
		{Name: "user denied elsewhere", Code: errs.Precondition, Wish: at(provider.Widening, spec(202)), Prepare: add("DenyUsers oper*\n")},
		{Name: "match block that opens again", Code: errs.Precondition, Wish: at(provider.Narrowing, spec(202)),
			Prepare: add("Match User developer\nPermitRootLogin yes\n")},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		write(t, file, got)
	}
	if d := cmp.Diff(read(t, file), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func applied(t *testing.T, p *Provider, w wish) {
	t.Helper()
	ctx := context.Background()
	pl, err := p.Plan(ctx, w)
	must(t, err)
	must(t, p.Apply(ctx, pl))
	must(t, p.Verify(ctx, w))
}

func TestFilesAreAsGolden(t *testing.T) {
	m := newMachine(t, false, distribution)
	p := m.provider(&providertest.Faults{})
	applied(t, p, at(provider.Widening, spec(202, "10.0.10.4")))
	golden(t, "widened.conf", read(t, m.root+dropIn))
	if d := cmp.Diff([]string{"sshd listens on 0.0.0.0 port 22", "sshd listens on :: port 22"}, p.Widened(context.Background())); d != "" {
		t.Errorf("widened (-want +got):\n%s", d)
	}
	applied(t, p, at(provider.Narrowing, spec(202, "10.0.10.4")))
	golden(t, "narrowed.conf", read(t, m.root+dropIn))
	golden(t, "unit.conf", read(t, m.root+unitDropIn))
	if got := p.Widened(context.Background()); got != nil {
		t.Errorf("still widened: %v", got)
	}
}

func TestNothingOldIsClosedByWidening(t *testing.T) {
	text := "Port 22\nPort 2222\nListenAddress 192.168.8.30\nAllowGroups adm*\nAuthorizedKeysFile /etc/keys/%u\n" +
		"AuthenticationMethods publickey,password\nAllowTcpForwarding no\n" + includeLine + "\n"
	m := newMachine(t, false, text)
	p := m.provider(&providertest.Faults{})
	applied(t, p, at(provider.Widening, spec(202, "10.0.10.4")))
	now := parseEffective([]byte(m.running))
	for key, want := range map[string]string{
		"listenaddress":          "10.0.10.4:202 192.168.8.30:22 192.168.8.30:2222",
		"authorizedkeysfile":     keysFile + " /etc/keys/%u",
		"authenticationmethods":  "publickey publickey,password",
		"allowtcpforwarding":     "local",
		"passwordauthentication": "yes",
		"permitrootlogin":        "without-password",
		"allowgroups":            "",
		"allowusers": "operator@10.0.10.4/32 operator@10.0.20.0/24 developer@10.0.10.4/32 developer@10.0.20.0/24 " +
			"carol dave erin",
	} {
		if got := strings.Join(now[key], " "); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	applied(t, p, at(provider.Narrowing, spec(202, "10.0.10.4")))
	if got := parseEffective([]byte(m.running))["listenaddress"]; !cmp.Equal(got, []string{"10.0.10.4:202"}) {
		t.Errorf("narrow: %v", got)
	}
}

func TestRollbackStartsADeadServer(t *testing.T) {
	for name, boot := range map[string]string{"while running": "degraded", "at boot": "initializing"} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, false, distribution)
			p := m.provider(&providertest.Faults{})
			ctx := context.Background()
			w := at(provider.Narrowing, spec(202, "10.0.10.4"))
			pl, err := p.Plan(ctx, w)
			must(t, err)
			snap, err := p.Snapshot(ctx, pl)
			must(t, err)
			must(t, p.Apply(ctx, pl))
			write(t, m.root+dropIn, "broken\n")
			_, _ = m.systemctl([]string{"stop", service})
			m.boot = boot
			must(t, p.Rollback(ctx, snap))
			if !m.service || !strings.Contains(m.running, "listenaddress 0.0.0.0:22") {
				t.Errorf("service %v, runs\n%s", m.service, m.running)
			}
		})
	}
}

func TestBrokenNeighbourStopsBeforeAnythingChanges(t *testing.T) {
	m := newMachine(t, false, distribution)
	p := m.provider(&providertest.Faults{})
	ctx := context.Background()
	pl, err := p.Plan(ctx, at(provider.Widening, spec(202)))
	must(t, err)
	write(t, m.root+"/etc/ssh/sshd_config.d/00-aaa.conf", "UsePAM no\n") // sorts before ours
	if err := p.Apply(ctx, pl); errs.CodeOf(err) != errs.Precondition {
		t.Fatalf("err = %v", err)
	}
	if _, err := os.Lstat(m.root + dropIn); err == nil {
		t.Error("the drop-in is there")
	}
}

func TestBrokenDropInIsMendedWhileWidening(t *testing.T) {
	m := newMachine(t, false, distribution)
	p := m.provider(&providertest.Faults{})
	w := spec(202, "10.0.10.4")
	applied(t, p, at(provider.Widening, w))
	applied(t, p, at(provider.Narrowing, w))
	write(t, m.root+dropIn, "broken\n")
	applied(t, p, at(provider.Widening, w))
	golden(t, "narrowed.conf", read(t, m.root+dropIn))
}

func TestNoOpPlanRunsOneProcess(t *testing.T) {
	m := newMachine(t, false, distribution)
	faults := &providertest.Faults{}
	p := m.provider(faults)
	w := at(provider.Narrowing, spec(202, "10.0.10.4"))
	applied(t, p, w)
	faults.Reset()
	pl, err := p.Plan(context.Background(), w)
	must(t, err)
	if len(pl.Changes) != 0 || len(faults.Ops()) != 1 {
		t.Errorf("%d changes, calls %v", len(pl.Changes), faults.Ops())
	}
}
