package firewall

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables/nstest"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// dockerRules are chains as Docker makes them, and rules of an operator, which must all stay as they are.
const dockerRules = `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-USER - [0:0]
:MINE - [0:0]
-A INPUT -p tcp -m tcp --dport 9999 -j MINE
-A MINE -s 192.0.2.1/32 -j DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -s 192.0.2.9/32 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
`

// foreignV6 is a rule of an operator.
const foreignV6 = "*filter\n-A INPUT -s 2001:db8::bad/128 -j DROP\nCOMMIT\n"

func firstSpec() *v1.FirewallSpec {
	return dockerSpec(
		tcp(in, "bastion", 202, addrs("10.99.0.4", "fd99::4"), anyone(), "relay"),
		containers(tcp(in, "web", 8080, internet(), anyone())),
		tcp(in, "scrape", 9100, addrs("10.99.0.5"), anyone(), "other"),
		containers(tcp(out, "updates", 443, anyone(), internet())),
	)
}

func secondSpec() *v1.FirewallSpec {
	return dockerSpec(
		tcp(in, "bastion", 2022, addrs("10.99.0.4", "fd99::4"), anyone(), "relay"),
		tcp(in, "scrape", 9101, addrs("10.99.0.5"), anyone(), "other"),
		containers(tcp(out, "updates", 443, anyone(), internet())),
	)
}

// bench is a suite with the namespaces of its machines, by root.
type bench struct {
	suite providertest.Suite[*v1.FirewallSpec]
	run   nstest.Runner
	ns    map[string]string
	// rules are what iptables-restore is given on a fresh machine, and files what stands there.
	rules map[family]string
	files []host.File
}

// newBench makes a suite whose machines begin where the wishes before were kept: that is done once, and then copied.
func newBench(t *testing.T, legacy bool, rules string, before ...provider.Wish[*v1.FirewallSpec]) *bench {
	b := &bench{run: nstest.Runner{Legacy: legacy}, ns: map[string]string{}, rules: map[family]string{v4: rules, v6: foreignV6}}
	h, _, run := b.machine(t, &providertest.Faults{})
	p := New(Config{Host: h})
	for _, w := range before {
		kept(t, p, w)
	}
	var err error
	if b.files, err = h.Snapshot(KeptFile, RulesFileV4, RulesFileV6); err != nil {
		t.Fatal(err)
	}
	for _, f := range []family{v4, v6} {
		b.rules[f] = nstest.MustRun(t, nstest.Inside(run.NS, run.Program(f.Save()))...)
	}
	b.suite = providertest.Suite[*v1.FirewallSpec]{
		MaxFaults: 3, // the first bench tries every call; the others differ from it in their rules, not in their calls
		New: func(t *testing.T, f *providertest.Faults) providertest.Env[*v1.FirewallSpec] {
			h, root, run := b.machine(t, f)
			if _, err := h.Restore(b.files); err != nil {
				t.Fatal(err)
			}
			return providertest.Env[*v1.FirewallSpec]{
				Provider: New(Config{Host: h}), Root: root,
				State:   func() (string, error) { return saved(run) },
				Foreign: func() (string, error) { return foreign(run) },
				Restart: func() provider.Provider[*v1.FirewallSpec] { return New(Config{Host: h}) },
			}
		},
	}
	return b
}

func (b *bench) machine(t *testing.T, f *providertest.Faults) (*host.Host, string, nstest.Runner) {
	root, run := t.TempDir(), b.run
	run.NS = nstest.New(t, "conf")
	b.ns[root] = run.NS
	for f, text := range b.rules {
		restoreText(t, run.NS, run.Program(f.Restore()), text)
	}
	return host.New(host.Config{Root: root, Runner: f.Runner(run), Fault: f.Op}), root, run
}

func (b *bench) step(name string, wish provider.Wish[*v1.FirewallSpec]) {
	b.suite.Steps = append(b.suite.Steps, providertest.Step[*v1.FirewallSpec]{Name: name, Wish: wish})
}

// drift runs commands on a machine behind the provider's back.
func (b *bench) drift(name string, commands ...string) {
	b.suite.Drifts = append(b.suite.Drifts, providertest.Drift[*v1.FirewallSpec]{
		Name: name, Do: func(t *testing.T, env providertest.Env[*v1.FirewallSpec]) {
			for _, c := range commands {
				nstest.MustRun(t, nstest.Inside(b.ns[env.Root], strings.Fields(c)...)...)
			}
		},
	})
}

// refusal puts a file on a machine, or a rule into the other backend.
func (b *bench) refusal(name string, files map[string]string, commands ...string) {
	b.suite.Refusals = append(b.suite.Refusals, providertest.Refusal[*v1.FirewallSpec]{
		Name: name, Code: errs.Precondition, Wish: wishFor(firstSpec(), provider.Widening),
		Prepare: func(t *testing.T, env providertest.Env[*v1.FirewallSpec]) {
			for path, content := range files {
				path = filepath.Join(env.Root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o755); err != nil { //nolint:gosec // a program that is looked for
					t.Fatal(err)
				}
			}
			for _, c := range commands {
				nstest.MustRun(t, nstest.Inside(b.ns[env.Root], strings.Fields(c)...)...)
			}
		},
	})
}

func TestConformsOnADockerHost(t *testing.T) {
	widened, narrowed := wishFor(firstSpec(), provider.Widening), wishFor(firstSpec(), provider.Narrowing)
	t.Run("nothing of ours before", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, false, dockerRules)
		b.suite.MaxFaults = 0
		b.step("widening", widened)
		providertest.Run(t, b.suite)
	})
	t.Run("widened before", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, false, dockerRules, widened)
		b.step("narrowing with a laggard", wishFor(firstSpec(), provider.Narrowing, "other"))
		providertest.Run(t, b.suite)
	})
	t.Run("narrowed before", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, false, dockerRules, widened, narrowed)
		b.step("widening to a second revision", wishFor(secondSpec(), provider.Widening))
		providertest.Run(t, b.suite)
	})
	t.Run("second revision widened before", func(t *testing.T) {
		t.Parallel()
		second := wishFor(secondSpec(), provider.Widening)
		b := newBench(t, false, dockerRules, widened, narrowed, second)
		b.step("narrowing", wishFor(secondSpec(), provider.Narrowing))
		b.suite.Steps = append(b.suite.Steps, providertest.Step[*v1.FirewallSpec]{Name: "in sync", Wish: second, NoChange: true})
		providertest.Run(t, b.suite)
	})
}

func TestConformsOnAPlainHostWithTheLegacyBackend(t *testing.T) {
	t.Parallel()
	b := newBench(t, true, "*filter\n-A INPUT -s 192.0.2.1/32 -j DROP\nCOMMIT\n")
	b.step("narrowing at once", wishFor(firstSpec(), provider.Narrowing))
	providertest.Run(t, b.suite)
}

func TestDriftAndRefusals(t *testing.T) {
	t.Parallel()
	b := newBench(t, false, dockerRules)
	b.suite.MaxFaults = 1
	b.step("narrowing at once", wishFor(firstSpec(), provider.Narrowing))
	b.drift("rule deleted", "iptables -D INFRACTL-IN 1")
	b.drift("jump deleted", "ip6tables -D INPUT 1")
	b.drift("jump not first", "iptables -D FORWARD 1", "iptables -A FORWARD -j INFRACTL-FWD")
	b.drift("jump stands twice", "iptables -I INPUT -j INFRACTL-IN")
	b.drift("chain flushed", "iptables -F INFRACTL-FWD")
	b.drift("chain of our prefix added", "iptables -N INFRACTL-X")
	b.drift("drop inserted first", "ip6tables -I INFRACTL-OUT -j DROP")
	b.drift("everything of IPv6 flushed", "ip6tables -F", "ip6tables -X",
		"ip6tables -A INPUT -s 2001:db8::bad/128 -j DROP")
	b.refusal("ufw is active", map[string]string{"/etc/ufw/ufw.conf": "# c\nENABLED=yes\n", "/usr/sbin/ufw": ""})
	b.refusal("firewalld runs", map[string]string{"/run/firewalld.pid": "12\n", "/proc/12/comm": "firewalld"})
	b.refusal("Docker uses nftables", map[string]string{"/etc/docker/daemon.json": `{"firewall-backend":"nftables","log-level":"info"}`})
	b.refusal("rules in the legacy backend", map[string]string{"/proc/net/ip_tables_names": "nat\nfilter\n"},
		"iptables-legacy -A INPUT -s 192.0.2.1 -j DROP")
	providertest.Run(t, b.suite)
}
