package firewall

import (
	"context"
	"testing"

	"github.com/infractl/infractl/agent/provider"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Short words for specs in tests.
const (
	in  = v1.FirewallHook_FIREWALL_HOOK_INPUT
	out = v1.FirewallHook_FIREWALL_HOOK_OUTPUT
	fwd = v1.FirewallHook_FIREWALL_HOOK_FORWARD
)

func tcp(hook v1.FirewallHook, flow string, port uint32, from, to *v1.Endpoint, peers ...string) *v1.FirewallRule {
	return &v1.FirewallRule{
		Hook: hook, Protocol: "tcp", Ports: []*v1.PortRange{{First: port, Last: port}}, From: from, To: to, Flow: flow,
		Reason: "test", Peers: peers,
	}
}

func containers(r *v1.FirewallRule) *v1.FirewallRule {
	r.Containers = true
	return r
}

func addrs(list ...string) *v1.Endpoint { return &v1.Endpoint{Prefixes: list} }

func anyone() *v1.Endpoint { return nil }

func internet() *v1.Endpoint { return &v1.Endpoint{Internet: true} }

func spec(rules ...*v1.FirewallRule) *v1.FirewallSpec {
	return &v1.FirewallSpec{Rules: rules, InsidePrefixes: allInside}
}

func dockerSpec(rules ...*v1.FirewallRule) *v1.FirewallSpec {
	s := spec(rules...)
	s.DockerHost = true
	return s
}

func wishFor(s *v1.FirewallSpec, stage provider.Stage, laggards ...string) provider.Wish[*v1.FirewallSpec] {
	return provider.Wish[*v1.FirewallSpec]{Spec: s, Stage: stage, Laggards: laggards}
}

// applied plans, applies and verifies; kept makes it durable too.
func applied(t testing.TB, p *Provider, w provider.Wish[*v1.FirewallSpec]) {
	t.Helper()
	ctx := context.Background()
	plan, err := p.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(ctx, plan); err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(ctx, w); err != nil {
		t.Fatal(err)
	}
}

func kept(t testing.TB, p *Provider, w provider.Wish[*v1.FirewallSpec]) {
	t.Helper()
	applied(t, p, w)
	if err := p.Keep(context.Background(), w); err != nil {
		t.Fatal(err)
	}
}
