package app_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/app"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/system"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type foreignRules struct{}

func (foreignRules) Repair(context.Context) ([]string, error) { return nil, nil }
func (foreignRules) Foreign(context.Context) ([]string, error) {
	return []string{"fail2ban is active"}, nil
}

func TestWarningsAreReported(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.cfg.Providers = func(h *host.Host, _ hclog.Logger) *app.Providers {
		return &app.Providers{Firewall: foreignRules{}, System: system.New(system.Config{Host: h})}
	}
	content, _, err := hostspec.Encode(&v1.HostSpec{System: &v1.SystemSpec{Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}}})
	if err != nil {
		t.Fatal(err)
	}
	m.write(app.DefaultStateDir+"/spec.bin", string(content))
	m.write(tokenPath, server.Token(t, "one"))
	m.start()
	got := server.Next(t).Wait(t, "facts", func(r *v1.ConnectRequest) bool { return r.GetReport().GetFacts() != nil })
	want := []string{"fail2ban is active", "kernel setting net.ipv4.no_such_thing does not exist on this kernel"}
	if diff := cmp.Diff(want, got.GetReport().GetFacts().GetWarnings()); diff != "" {
		t.Error(diff)
	}
}
