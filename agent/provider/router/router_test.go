package router

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const dockerNAT = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n" +
	"-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n"

const (
	keyOne = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
	keyTwo = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
)

func dnat(flow string, port uint32, target string) *v1.DestinationNat {
	return &v1.DestinationNat{Interface: "eth0", Protocol: "tcp", Ports: &v1.PortRange{First: port, Last: port}, Target: target, Flow: flow}
}

func firstSpec() *v1.RouterSpec {
	return &v1.RouterSpec{
		Platform: "linux",
		Interfaces: []*v1.RouterInterface{
			{Name: "eth0", Addresses: []string{"192.168.8.30/24"}, Outside: true},
			{Name: "eth1", Addresses: []string{"10.0.10.1/24"}},
		},
		Routes:         []*v1.RouterRoute{{Prefix: "0.0.0.0/0", Via: "192.168.8.1"}},
		SourceNat:      []*v1.SourceNat{{Source: "10.0.10.0/24", Interface: "eth0", Excluded: []string{"198.51.100.0/24"}}},
		DestinationNat: []*v1.DestinationNat{dnat("web", 80, "10.0.10.10"), dnat("old", 8080, "10.0.10.20")},
		Wireguard: &v1.WireguardSpec{Interface: "wg0", Port: 51820, Addresses: []string{"10.0.20.1/24"}, Peers: []*v1.WireguardPeer{
			{Name: "one", PublicKey: keyOne, AllowedIps: []string{"10.0.20.11/32"}},
			{Name: "two", PublicKey: keyTwo, AllowedIps: []string{"10.0.20.12/32"}},
		}},
	}
}

func secondSpec() *v1.RouterSpec {
	s := firstSpec()
	s.DestinationNat = []*v1.DestinationNat{dnat("web", 80, "10.0.10.20"), dnat("tls", 443, "10.0.10.10")}
	s.DestinationNat[1].From = []string{"203.0.113.0/24"}
	s.SourceNat = append(s.SourceNat, &v1.SourceNat{Source: "10.0.20.0/24", Interface: "eth0"})
	s.Routes = append(s.Routes, &v1.RouterRoute{Prefix: "10.9.0.0/16", Via: "10.0.10.10"})
	s.Wireguard.Peers = s.Wireguard.Peers[:1]
	s.Wireguard.Interface = "wg1"
	return s
}

func thirdSpec() *v1.RouterSpec {
	s := firstSpec()
	s.DestinationNat, s.Routes, s.Wireguard = nil, nil, nil
	return s
}

func wishFor(s *v1.RouterSpec, stage provider.Stage) wish { return wish{Spec: s, Stage: stage} }

func machine(t *testing.T, w *world, legacy, kernel bool, f *providertest.Faults) (*host.Host, wgRunner) {
	t.Helper()
	root := t.TempDir()
	run := wgRunner{ns: w.router, root: root, legacy: legacy, kernel: kernel, mu: &sync.Mutex{}, conf: map[string]string{}}
	program := filepath.Join(root, "/usr/bin/wireguard-go")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil { //nolint:gosec // a program that is looked for
		t.Fatal(err)
	}
	if f == nil {
		return host.New(host.Config{Root: root, Runner: run}), run
	}
	return host.New(host.Config{Root: root, Runner: f.Runner(run), Fault: f.Op}), run
}

func suite(legacy, kernel bool) (s providertest.Suite[*v1.RouterSpec], worlds map[string]*world) {
	worlds = map[string]*world{}
	s.Ignore = []string{"var/lib/infractl/wireguard/*"} // the key is made once and survives a rollback
	s.New = func(t *testing.T, f *providertest.Faults) providertest.Env[*v1.RouterSpec] {
		w := newRouter(t)
		h, run := machine(t, w, legacy, kernel, f)
		restore := []string{"iptables-restore", "--noflush"}
		if legacy {
			restore[0] = "iptables-legacy-restore"
		}
		rules := filepath.Join(t.TempDir(), "rules")
		if err := os.WriteFile(rules, []byte(dockerNAT), 0o600); err != nil {
			t.Fatal(err)
		}
		nstest.MustRun(t, nstest.Inside(w.router, append(restore, rules)...)...)
		worlds[run.root] = w
		return providertest.Env[*v1.RouterSpec]{Provider: New(Config{Host: h}), Root: run.root, State: run.state, Foreign: run.foreign,
			Restart: func() provider.Provider[*v1.RouterSpec] { return New(Config{Host: h}) }}
	}
	return s, worlds
}

func TestConforms(t *testing.T) {
	t.Parallel()
	s, worlds := suite(false, false)
	s.MaxFaults = 3
	for _, step := range []struct {
		name string
		wish wish
	}{
		{"widening", wishFor(firstSpec(), provider.Widening)},
		{"narrowing changes nothing", wishFor(firstSpec(), provider.Narrowing)},
		{"second widening, with another tunnel", wishFor(secondSpec(), provider.Widening)},
		{"second narrowing", wishFor(secondSpec(), provider.Narrowing)},
		{"all but masquerading gone", wishFor(thirdSpec(), provider.Narrowing)},
	} {
		s.Steps = append(s.Steps, providertest.Step[*v1.RouterSpec]{Name: step.name, Wish: step.wish,
			NoChange: strings.Contains(step.name, "nothing")})
	}
	drift := func(name string, commands ...string) {
		s.Drifts = append(s.Drifts, providertest.Drift[*v1.RouterSpec]{Name: name, After: 2,
			Do: func(t *testing.T, env providertest.Env[*v1.RouterSpec]) {
				for _, c := range commands {
					nstest.MustRun(t, nstest.Inside(worlds[env.Root].router, strings.Fields(c)...)...)
				}
			}})
	}
	drift("translation deleted", "iptables -t nat -D INFRACTL-PRE 1")
	drift("jump not first", "iptables -t nat -D PREROUTING 1", "iptables -t nat -A PREROUTING -j INFRACTL-PRE")
	drift("route deleted", "ip route del default")
	drift("tunnel down", "ip link set wg0 down")
	drift("address added to the tunnel", "ip address add 10.0.20.1/24 dev wg0")
	drift("peer's route deleted", "ip route del 10.0.20.11/32")
	refusal := func(name string, code errs.Code, change func(*v1.RouterSpec), prepare ...string) {
		spec := firstSpec()
		change(spec)
		s.Refusals = append(s.Refusals, providertest.Refusal[*v1.RouterSpec]{Name: name, Code: code, Wish: wishFor(spec, provider.Widening),
			Prepare: func(t *testing.T, env providertest.Env[*v1.RouterSpec]) {
				if len(prepare) > 0 {
					nstest.MustRun(t, nstest.Inside(worlds[env.Root].router, prepare...)...)
				}
			}})
	}
	refusal("somebody else's wg0", errs.Precondition, func(*v1.RouterSpec) {}, "ip", "link", "add", "wg0", "type", "bridge")
	providertest.Run(t, s)
}

func TestConformsWithTheLegacyBackendAndWireGuardInTheKernel(t *testing.T) {
	t.Parallel()
	s, _ := suite(true, true)
	s.MaxFaults = 3
	s.Steps = []providertest.Step[*v1.RouterSpec]{{Name: "narrowing at once", Wish: wishFor(firstSpec(), provider.Narrowing)}}
	providertest.Run(t, s)
}

func TestRefusesWhatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*v1.RouterSpec){
		"target is IPv6":            func(s *v1.RouterSpec) { s.DestinationNat[0].Target = "fd00::1" },
		"port range turned round":   func(s *v1.RouterSpec) { s.DestinationNat[0].Ports = &v1.PortRange{First: 9, Last: 8} },
		"protocol that has no port": func(s *v1.RouterSpec) { s.DestinationNat[0].Protocol = "icmp" },
		"interface with a space":    func(s *v1.RouterSpec) { s.SourceNat[0].Interface = "eth0 -j ACCEPT" },
		"source that is no network": func(s *v1.RouterSpec) { s.SourceNat[0].Source = "10.0.10.1/24" },
		"route over nothing":        func(s *v1.RouterSpec) { s.Routes[0].Via = "" },
		"key twice":                 func(s *v1.RouterSpec) { s.Wireguard.Peers[1].PublicKey = keyOne },
		"address twice":             func(s *v1.RouterSpec) { s.Wireguard.Peers[1].AllowedIps = []string{"10.0.20.11/32"} },
		"key of another length":     func(s *v1.RouterSpec) { s.Wireguard.Peers[1].PublicKey = "AgI=" },
		"interface of no address":   func(s *v1.RouterSpec) { s.DestinationNat[0].Interface = "eth9" },
		"tunnel without a port":     func(s *v1.RouterSpec) { s.Wireguard.Port = 0 },
		"excluded that is nothing":  func(s *v1.RouterSpec) { s.SourceNat[0].Excluded = []string{"everything"} },
		"interface's own address":   func(s *v1.RouterSpec) { s.Interfaces[0].Addresses = []string{"192.168.8.30"} },
		"from that is no prefix":    func(s *v1.RouterSpec) { s.DestinationNat[0].From = []string{"! 1.2.3.4"} },
		"tunnel of a long name":     func(s *v1.RouterSpec) { s.Wireguard.Interface = "wg0123456789abcdef" },
	} {
		spec := firstSpec()
		change(spec)
		if _, err := fromSpec(spec); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
}

// made applies and keeps a wish.
func made(t *testing.T, p *Provider, w wish) {
	t.Helper()
	ctx := context.Background()
	pl, err := p.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{p.Apply(ctx, pl), p.Verify(ctx, w), p.Keep(ctx, w)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

const (
	passWait = 5 * time.Second
	dropWait = 200 * time.Millisecond
)

type traffic struct{ ns, to, want, why string }

func expect(t *testing.T, list ...traffic) {
	t.Helper()
	for _, x := range list {
		wait := passWait
		if x.want == "closed" {
			wait = dropWait
		}
		if got := ask(t, x.ns, x.to, wait); got != x.want {
			t.Errorf("%s: %s answered as to %q, want %q", x.why, x.to, got, x.want)
		}
	}
}

func TestTrafficThroughTheTranslation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, run := machine(t, w, false, false, nil)
	p := New(Config{Host: h})
	for _, port := range []int{80, 443, 8080} {
		tellPeer(t, w.services, port)
		tellPeer(t, w.prod, port)
	}
	tellPeer(t, w.outside, 80)
	made(t, p, wishFor(firstSpec(), provider.Widening))
	expect(t,
		traffic{w.outside, "192.168.8.30:80", "192.168.8.1", "a published port, with the customer's own address"},
		traffic{w.outside, "192.168.8.30:443", "closed", "a port that nobody published"},
		traffic{w.prod, "203.0.113.7:80", "192.168.8.30", "inside to outside is masqueraded"},
		traffic{w.prod, "192.168.8.30:80", "10.0.10.1", "from inside to the outside address, in the target's own network"},
		traffic{w.prod, "10.0.10.10:80", "10.0.10.20", "inside to inside is left alone"},
	)
	made(t, p, wishFor(firstSpec(), provider.Narrowing))
	made(t, p, wishFor(secondSpec(), provider.Widening))
	expect(t,
		traffic{w.outside, "192.168.8.30:8080", "192.168.8.1", "an old port while widened"},
		traffic{w.outside, "192.168.8.30:443", "closed", "a new port for others"},
	)
	if got := p.Widened(context.Background()); len(got) != 2 || !strings.Contains(got[1], "8080") {
		t.Errorf("widened: %q", got)
	}
	made(t, p, wishFor(secondSpec(), provider.Narrowing))
	expect(t, traffic{w.outside, "192.168.8.30:8080", "closed", "a port that is published no more"})
	if got := p.Widened(context.Background()); len(got) != 0 {
		t.Errorf("widened after narrowing: %q", got)
	}
	if conf := run.conf["wg1"]; strings.Contains(conf, keyTwo) || !strings.Contains(conf, keyOne) || run.conf["wg0"] != "" {
		t.Error("a removed peer or interface is still there")
	}
}

// without is a machine that lacks a program.
type without struct {
	host.Runner
	program string
}

func (w without) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	if cmd.Argv[0] == w.program {
		return host.New(host.Config{}).RunCmd(ctx, host.Cmd{Argv: []string{"no-such-program-" + w.program}}) // the real error
	}
	return w.Runner.Run(ctx, cmd)
}

func TestMissingProgramsOfTheTunnelSayWhatToInstall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		program, hint string
		kernel        bool
	}{
		{"wg", "apt-get install wireguard-tools", true},
		{"wireguard-go", "apt-get install wireguard-go", false},
	} {
		h, run := machine(t, newRouter(t), false, tt.kernel, nil)
		if tt.program == "wireguard-go" {
			if err := os.Remove(h.Path("/usr/bin/wireguard-go")); err != nil {
				t.Fatal(err)
			}
		}
		p := New(Config{Host: host.New(host.Config{Root: run.root, Runner: without{run, tt.program}})})
		w := wishFor(firstSpec(), provider.Widening)
		pl, err := p.Plan(t.Context(), w)
		if err == nil {
			err = p.Apply(t.Context(), pl)
		}
		if !errs.Is(err, errs.Precondition) || errs.HintOf(err) != tt.hint {
			t.Errorf("without %s: %v, hint %q, want %q", tt.program, err, errs.HintOf(err), tt.hint)
		}
	}
}

func TestComesBackAfterAReboot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, run := machine(t, w, false, true, nil)
	p := New(Config{Host: h})
	made(t, p, wishFor(firstSpec(), provider.Narrowing))
	want, err := run.state()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(h.Path(keyFile("wg0")))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the key's file: %v, %v", info, err)
	}
	nstest.MustRun(t, nstest.Inside(w.router, "iptables", "-t", "nat", "-F")...)
	nstest.MustRun(t, nstest.Inside(w.router, "iptables", "-t", "nat", "-X")...)
	nstest.MustRun(t, "ip", "-n", w.router, "link", "del", "wg0")
	nstest.MustRun(t, "ip", "-n", w.router, "route", "del", "default")
	run.forget("wg0")
	if err := Boot(context.Background(), h); err != nil {
		t.Fatal(err)
	}
	done, err := p.Repair(context.Background())
	if err != nil || !slices.Equal(done, []string{"route to 0.0.0.0/0"}) {
		t.Fatalf("Repair = %q, %v", done, err)
	}
	if got, err := run.state(); err != nil || sortedLines(got) != sortedLines(want) {
		t.Errorf("after the reboot %v\n%s\nwant\n%s", err, got, want)
	}
	nstest.MustRun(t, nstest.Inside(w.router, "iptables", "-t", "nat", "-D", "PREROUTING", "1")...)
	nstest.MustRun(t, "ip", "-n", w.router, "link", "del", "wg0")
	run.forget("wg0")
	done, err = p.Repair(context.Background())
	if err != nil || !slices.Equal(done, []string{"NAT", "tunnel wg0"}) {
		t.Fatalf("second Repair = %q, %v", done, err)
	}
	if got, err := run.state(); err != nil || sortedLines(got) != sortedLines(want) {
		t.Errorf("after the repair %v\n%s\nwant\n%s", err, got, want)
	}
	if err := UpTunnel(context.Background(), h); err != nil {
		t.Errorf("UpTunnel: %v", err)
	}
	if r := p.Report(context.Background(), nil); r.GetPlatform() != "linux" || len(r.GetWireguardPublicKey()) != 44 {
		t.Errorf("report: %v", r)
	}
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestTheHostsOwnConfigurationIsOnlyLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h, _ := machine(t, w, false, false, nil)
	p := New(Config{Host: h})
	nstest.MustRun(t, "ip", "-n", w.router, "route", "add", "default", "via", "10.0.10.10")
	spec := firstSpec()
	spec.Interfaces[1].Addresses = append(spec.Interfaces[1].Addresses, "10.0.11.1/24")
	spec.Interfaces = append(spec.Interfaces, &v1.RouterInterface{Name: "eth7", Addresses: []string{"10.7.0.1/24"}})
	made(t, p, wishFor(spec, provider.Narrowing))
	got := strings.Join(p.Warnings(context.Background(), spec), "\n")
	for _, want := range []string{"eth1 does not have the address 10.0.11.1/24", "eth7 of the site is not there", "leads to 10.0.10.10"} {
		if !strings.Contains(got, want) {
			t.Errorf("warnings %q do not say %q", got, want)
		}
	}
	if strings.Count(got, "\n") != 2 {
		t.Errorf("warnings: %q", got)
	}
	if out := nstest.MustRun(t, "ip", "-n", w.router, "route", "show", "default"); !strings.Contains(out, "10.0.10.10") {
		t.Errorf("the host's own route became %q", out)
	}
}
