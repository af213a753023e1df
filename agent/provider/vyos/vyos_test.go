package vyos

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/vyos"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// fresh is a router as its image starts, with things of others.
	fresh = `set interfaces ethernet eth0 address 192.0.2.7/24
set interfaces ethernet eth0 hw-id 00:0c:29:4d:ef:e0
set interfaces loopback lo
set service ssh port 22
set system host-name vyos
set system login user vyos authentication encrypted-password MARKERHASH
set system console device ttyS0 speed 115200`
	peerKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	userKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU operator@example"
	ownKey  = "QEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEg=" // 32 bytes, of nobody
)

func spec(v vyos.Version) *v1.HostSpec {
	tcp := func(hook v1.FirewallHook, flow, from, to string, port uint32) *v1.FirewallRule {
		return &v1.FirewallRule{Hook: hook, Protocol: "tcp", Flow: flow, Ports: []*v1.PortRange{{First: port, Last: port}},
			From: &v1.Endpoint{Prefixes: []string{from}}, To: &v1.Endpoint{Prefixes: []string{to}}}
	}
	return &v1.HostSpec{
		Site: "s", Node: "vrouter", Role: "router",
		System:   &v1.SystemSpec{Hostname: "vrouter", Domain: "s.lab", Timezone: "Europe/Paris"},
		Accounts: &v1.AccountsSpec{Accounts: []*v1.Account{{Name: "operator", Sudo: true, SshLogin: true, SshKeys: []string{userKey}}}},
		Sshd:     &v1.SshdSpec{Port: 202, ListenAddresses: []string{"10.0.10.1"}, AllowUsers: []string{"operator"}},
		Firewall: &v1.FirewallSpec{Router: true, InsidePrefixes: []string{"10.0.10.0/24"}, Rules: []*v1.FirewallRule{
			tcp(v1.FirewallHook_FIREWALL_HOOK_INPUT, "bastion", "10.0.10.4/32", "10.0.10.1/32", 202),
			tcp(v1.FirewallHook_FIREWALL_HOOK_FORWARD, "a", "10.0.10.4/32", "10.0.20.4/32", 80)}},
		Time: &v1.TimeSpec{Servers: []string{"0.pool.ntp.org"}, Allow: []string{"10.0.10.0/24"}},
		Router: &v1.RouterSpec{Platform: v.String(),
			Interfaces: []*v1.RouterInterface{{Name: "eth0", Addresses: []string{"192.168.8.30/24"}, Outside: true}, {Name: "eth1", Addresses: []string{"10.0.10.1/24"}}},
			Routes:     []*v1.RouterRoute{{Prefix: "0.0.0.0/0", Via: "192.168.8.1"}},
			SourceNat:  []*v1.SourceNat{{Description: "lan", Source: "10.0.10.0/24", Interface: "eth0"}},
			Wireguard: &v1.WireguardSpec{Interface: "wg0", Addresses: []string{"10.0.20.1/24"}, Port: 51820,
				Peers: []*v1.WireguardPeer{{Name: "laptop", PublicKey: peerKey, AllowedIps: []string{"10.0.20.2/32"}}}}},
	}
}

// without is a spec with other flows and no peer.
func without(s *v1.HostSpec) *v1.HostSpec {
	out := proto.Clone(s).(*v1.HostSpec)
	out.Firewall.Rules = out.Firewall.Rules[:1]
	out.Router.Wireguard.Peers = nil
	out.Sshd.Port = 2022
	return out
}

func want(s *v1.HostSpec) wish { return wish{Spec: s, Stage: provider.Widening} }

type env = providertest.Env[*v1.HostSpec]

func TestConformance(t *testing.T) {
	// 1.5 differs from 1.4 in one line of what is rendered, which other tests look at.
	releases := map[vyos.Version]string{vyos.V13: "1.3.8", vyos.V14: "1.4.0"}
	for v, release := range releases {
		t.Run(v.String(), func(t *testing.T) {
			machines := map[string]*fakeRouter{}
			first := spec(v)
			other := map[vyos.Version]vyos.Version{vyos.V13: vyos.V14, vyos.V14: vyos.V15}[v]
			providertest.Run(t, providertest.Suite[*v1.HostSpec]{
				New: func(t *testing.T, faults *providertest.Faults) env {
					f := newFake(t, v, release, fresh)
					must(t, os.MkdirAll(f.root+"/config/auth/infractl", 0o755))
					// A key that is there keeps the state comparable: a new one is random.
					for _, path := range []string{keyFile, keyFile13} {
						must(t, f.write(path, ownKey+"\n"))
					}
					machines[f.root] = f
					return env{Root: f.root, Provider: f.provider(faults), State: f.state}
				},
				Steps: []providertest.Step[*v1.HostSpec]{
					{Name: "fresh image", Wish: want(first)},
					{Name: "nothing new", Wish: want(first), NoChange: true},
					{Name: "fewer flows, no peer", Wish: want(without(first))},
				},
				Secrets: []string{"MARKERHASH", ownKey},
				Drifts: []providertest.Drift[*v1.HostSpec]{
					{Name: "a rule by hand", Do: func(t *testing.T, e env) {
						f := machines[e.Root]
						f.running = vyos.Applied(vyos.NewChecker(v), f.running, vyos.Difference{Set: []vyos.Line{{"nat", "source", "rule", "7", "translation", "address", "masquerade"}}})
					}},
					{Name: "a tunnel that is gone", After: 1, Do: func(t *testing.T, e env) {
						f := machines[e.Root]
						f.running = vyos.Applied(vyos.NewChecker(v), f.running, vyos.Difference{Delete: []vyos.Line{{"interfaces", "wireguard", "wg0"}}})
					}},
				},
				Refusals: []providertest.Refusal[*v1.HostSpec]{
					{Name: "another release", Wish: want(spec(other)), Code: errs.Precondition},
					{Name: "an unknown release", Wish: want(first), Code: errs.NotFound, Prepare: func(t *testing.T, e env) {
						must(t, machines[e.Root].write(versionJSON, `{"version": "1.2.9"}`))
					}},
					{Name: "a key that is none", Wish: want(first), Code: errs.Precondition, Prepare: func(t *testing.T, e env) {
						must(t, machines[e.Root].write(keyFile, "not a key"))
						must(t, machines[e.Root].write(keyFile13, "not a key"))
					}},
				},
				MaxFaults: 3,
			})
		})
	}
}

func apply(t *testing.T, p *Provider, s *v1.HostSpec) error {
	t.Helper()
	pl, err := p.Plan(context.Background(), want(s))
	must(t, err)
	return p.Apply(context.Background(), pl)
}

func TestARefusedCommitLeavesTheOldConfiguration(t *testing.T) {
	f := newFake(t, vyos.V14, "1.4.0", fresh)
	must(t, f.write(keyFile, ownKey))
	f.refuse = "[[interfaces wireguard wg0]] failed\n" + ownKey + " is no good"
	before, _ := f.state()
	err := apply(t, f.provider(nil), spec(vyos.V14))
	if errs.CodeOf(err) != errs.Precondition || !strings.Contains(err.Error(), "VyOS refuses") || !strings.Contains(err.Error(), "wg0") {
		t.Errorf("got %v, want a refusal that says what VyOS said", err)
	}
	if strings.Contains(err.Error(), ownKey) {
		t.Errorf("the error shows the key: %v", err)
	}
	if after, _ := f.state(); after != before {
		t.Errorf("the configuration changed:\n%s", after)
	}
	if found, _ := os.ReadDir(f.root + scriptFolder); len(found) != 0 {
		t.Errorf("scripts with keys are left: %v", found)
	}
}

func TestCommitIsSavedOnlyWhenKept(t *testing.T) {
	f := newFake(t, vyos.V15, "1.5-rolling-202410280006", fresh)
	p := f.provider(nil)
	must(t, apply(t, p, spec(vyos.V15)))
	must(t, p.Verify(context.Background(), want(spec(vyos.V15))))
	if len(f.saved) != 7 {
		t.Errorf("%d lines are saved before the commit is kept", len(f.saved))
	}
	if len(f.scripts) != 1 {
		t.Errorf("%d sessions for one apply, want one commit", len(f.scripts))
	}
	must(t, p.Keep(context.Background(), want(spec(vyos.V15))))
	if len(f.saved) != len(f.running) {
		t.Errorf("%d lines saved of %d", len(f.saved), len(f.running))
	}
	for _, s := range f.scripts {
		if strings.Contains(s, "reboot") || strings.Contains(s, "commit-confirm") {
			t.Errorf("a script reboots:\n%s", s)
		}
	}
}

func TestTheTunnelsKeyIsMadeOnceOnTheRouter(t *testing.T) {
	for v, path := range map[vyos.Version]string{vyos.V13: keyFile13, vyos.V14: keyFile} {
		f := newFake(t, v, map[vyos.Version]string{vyos.V13: "1.3.8", vyos.V14: "1.4.0"}[v], fresh)
		p := f.provider(nil)
		must(t, apply(t, p, spec(v)))
		first, err := os.ReadFile(f.root + path)
		must(t, err)
		if info, err := os.Stat(f.root + path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key's file: %v %v, want 0600", info.Mode(), err)
		}
		must(t, apply(t, p, without(spec(v))))
		must(t, apply(t, p, spec(v)))
		if again, _ := os.ReadFile(f.root + path); string(again) != string(first) {
			t.Error("the key changed when the last peer went and came back: every peer would need the new one")
		}
		report := p.Report(context.Background(), spec(v))
		if want, _ := public(strings.TrimSpace(string(first))); report.GetWireguardPublicKey() != want || want == "" {
			t.Errorf("reported %q, want %q", report.GetWireguardPublicKey(), want)
		}
	}
}

func TestOthersPartsStay(t *testing.T) {
	f := newFake(t, vyos.V14, "1.4.0", fresh)
	must(t, apply(t, f.provider(nil), spec(vyos.V14)))
	for _, l := range []vyos.Line{{"interfaces", "ethernet", "eth0", "hw-id", "00:0c:29:4d:ef:e0"}, {"interfaces", "loopback", "lo"},
		{"system", "login", "user", "vyos", "authentication", "encrypted-password", "MARKERHASH"}} {
		if !slices.ContainsFunc(f.running, func(o vyos.Line) bool { return slices.Equal(o, l) }) {
			t.Errorf("%s is gone", l)
		}
	}
	if slices.ContainsFunc(f.running, func(o vyos.Line) bool { return slices.Contains(o, "192.0.2.7/24") }) {
		t.Error("the old address is still there")
	}
}

func TestReleaseIsFoundInOldPlacesToo(t *testing.T) {
	f := newFake(t, vyos.V13, "1.3.8", fresh)
	must(t, os.Remove(f.root+versionJSON))
	p := f.provider(nil)
	if _, _, err := p.Version(); errs.CodeOf(err) != errs.NotFound {
		t.Errorf("got %v, want not found", err)
	}
	must(t, f.write(versionText, "Version:      VyOS 1.3.8\nBuilt by: x\n"))
	if v, text, err := p.Version(); v != vyos.V13 || text != "1.3.8" || err != nil {
		t.Errorf("got %v %q %v", v, text, err)
	}
}
