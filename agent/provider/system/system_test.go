package system

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var update = flag.Bool("update", false, "write the golden files")

type env = providertest.Env[*v1.SystemSpec]

func spec() *v1.SystemSpec {
	return &v1.SystemSpec{Hostname: "srv-prod", Domain: "projetpro.lab", Timezone: "Europe/Paris",
		Hosts: []*v1.HostsEntry{{Address: "10.0.10.4", Names: []string{"client-relay.projetpro.lab", "client-relay"}},
			{Address: "10.0.10.20", Names: []string{"srv-prod.projetpro.lab", "srv-prod"}}},
		Nameservers: []string{"10.0.10.10", "10.0.10.11"}, Search: []string{"projetpro.lab"},
		Sysctls: map[string]string{"vm.swappiness": "10", "net.ipv4.ip_forward": "1", "net.ipv4.tcp_rmem": "4096 131072 8388608",
			"kernel.not_here": "1"}}
}

func with(change func(*v1.SystemSpec)) *v1.SystemSpec {
	s := spec()
	change(s)
	return s
}

func at(stage provider.Stage, s *v1.SystemSpec) wish { return wish{Spec: s, Stage: stage} }

func TestConformance(t *testing.T) {
	fewer := with(func(s *v1.SystemSpec) {
		s.Sysctls = map[string]string{"kernel.dmesg_restrict": "1"}
		s.Hosts, s.Timezone, s.Nameservers = s.Hosts[:1], "Etc/UTC", s.Nameservers[:1]
	})
	for name, stub := range map[string]bool{"resolv.conf": false, "systemd-resolved": true} {
		t.Run(name, func(t *testing.T) {
			providertest.Run(t, providertest.Suite[*v1.SystemSpec]{
				New: func(t *testing.T, faults *providertest.Faults) env {
					m := newMachine(t, stub)
					return env{Root: m.root, Provider: m.provider(faults)}
				},
				Steps: []providertest.Step[*v1.SystemSpec]{
					{Name: "additions", Wish: at(provider.Additions, spec())},
					{Name: "widening", Wish: at(provider.Widening, spec())},
					{Name: "additions again", Wish: at(provider.Additions, spec()), NoChange: true},
					{Name: "less, additions", Wish: at(provider.Additions, fewer)},
					{Name: "less, widening", Wish: at(provider.Widening, fewer)},
					{Name: "nothing wanted", Wish: at(provider.Additions, &v1.SystemSpec{})},
				},
				Drifts:   drifts(),
				Refusals: refusals(),
			})
		})
	}
}

func drifts() []providertest.Drift[*v1.SystemSpec] {
	set := func(file, text string) func(*testing.T, env) {
		return func(t *testing.T, e env) { must(t, os.WriteFile(e.Root+file, []byte(text), 0o644)) }
	}
	return []providertest.Drift[*v1.SystemSpec]{
		{Name: "host name set by hand", After: 1, Do: set(liveHostname, "other\n")},
		{Name: "hosts file replaced", After: 4, Do: set(hostsFile, "127.0.0.1\tlocalhost\n\n10.1.1.1 printer # theirs\n")},
		{Name: "kernel setting set back", After: 1, Do: set("/proc/sys/vm/swappiness", "60\n")},
		{Name: "network setting set back", After: 2, Do: set("/proc/sys/net/ipv4/ip_forward", "0\n")},
		{Name: "settings file removed", After: 2, Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+netFile)) }},
		{Name: "time zone changed", After: 1, Do: func(t *testing.T, e env) {
			must(t, os.Remove(e.Root+localtimeFile))
			must(t, os.Symlink("/usr/share/zoneinfo/Etc/UTC", e.Root+localtimeFile))
		}},
	}
}

func refusals() []providertest.Refusal[*v1.SystemSpec] {
	refuse := func(name string, change func(*v1.SystemSpec)) providertest.Refusal[*v1.SystemSpec] {
		return providertest.Refusal[*v1.SystemSpec]{Name: name, Code: errs.Invalid, Wish: at(provider.Additions, with(change))}
	}
	return []providertest.Refusal[*v1.SystemSpec]{
		refuse("host name with a dot", func(s *v1.SystemSpec) { s.Hostname = "a.b" }),
		refuse("option as host name", func(s *v1.SystemSpec) { s.Hostname = "-F" }),
		refuse("line end in a domain", func(s *v1.SystemSpec) { s.Domain = "lab\n1.1.1.1 bank" }),
		refuse("name as name server", func(s *v1.SystemSpec) { s.Nameservers = []string{"dns"} }),
		refuse("hosts entry without name", func(s *v1.SystemSpec) { s.Hosts[0].Names = nil }),
		refuse("time zone that leads elsewhere", func(s *v1.SystemSpec) { s.Timezone = "../../etc/shadow" }),
		refuse("time zone that is not there", func(s *v1.SystemSpec) { s.Timezone = "Europe/Atlantis" }),
		refuse("folder as time zone", func(s *v1.SystemSpec) { s.Timezone = "Europe" }),
		refuse("kernel setting that leads elsewhere", func(s *v1.SystemSpec) { s.Sysctls["net/../../../etc/passwd"] = "x" }),
		refuse("line end in a kernel setting", func(s *v1.SystemSpec) { s.Sysctls["vm.swappiness"] = "1\nkernel.sysrq = 1" }),
		{Name: "no time zone database", Code: errs.Precondition, Wish: at(provider.Additions, spec()), Prepare: func(t *testing.T, e env) {
			must(t, os.RemoveAll(e.Root+zoneinfo))
		}},
		{Name: "unreadable record", Code: errs.Precondition, Wish: at(provider.Additions, spec()), Prepare: func(t *testing.T, e env) {
			must(t, os.MkdirAll(filepath.Dir(e.Root+originalFile), 0o755))
			must(t, os.WriteFile(e.Root+originalFile, []byte("{"), 0o600))
		}},
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

func applied(t *testing.T, p *Provider, w wish) {
	t.Helper()
	ctx := context.Background()
	pl, err := p.Plan(ctx, w)
	must(t, err)
	must(t, p.Apply(ctx, pl))
	must(t, p.Verify(ctx, w))
}

func TestFilesAreAsGolden(t *testing.T) {
	own, stub := newMachine(t, false), newMachine(t, true)
	for _, m := range []fakeMachine{own, stub} {
		p := m.provider(&providertest.Faults{})
		applied(t, p, at(provider.Additions, spec()))
		applied(t, p, at(provider.Widening, spec()))
	}
	for name, path := range map[string]string{"hosts": own.root + hostsFile, "resolv.conf": own.root + resolvFile,
		"resolved.conf": stub.root + resolvedFile, "sysctl.conf": own.root + sysctlFile, "sysctl-net.conf": own.root + netFile} {
		got, file := read(t, path), filepath.Join("testdata", name)
		if *update {
			must(t, os.WriteFile(file, []byte(got), 0o644))
		}
		if d := cmp.Diff(read(t, file), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	if target, err := os.Readlink(stub.root + resolvFile); err != nil || !strings.Contains(target, "stub") {
		t.Errorf("the stub's link is %q, %v", target, err)
	}
}

func TestSettingThatIsNoLongerWantedGoesBack(t *testing.T) {
	m := newMachine(t, false)
	p := m.provider(&providertest.Faults{})
	applied(t, p, at(provider.Additions, spec()))
	applied(t, p, at(provider.Additions, with(func(s *v1.SystemSpec) { s.Sysctls = nil })))
	if got := read(t, m.root+"/proc/sys/vm/swappiness"); got != "60\n" {
		t.Errorf("swappiness = %q", got)
	}
	if _, err := os.Lstat(m.root + originalFile); err == nil {
		t.Error("the record is still there")
	}
}

func TestSettingThatTheKernelLacksIsAWarning(t *testing.T) {
	m := newMachine(t, false)
	p := m.provider(&providertest.Faults{})
	applied(t, p, at(provider.Additions, spec()))
	want := []string{"kernel setting kernel.not_here does not exist on this kernel"}
	if d := cmp.Diff(want, p.Warnings(spec())); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestPathOfASettingFollowsItsFirstSeparator(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":            "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/ip_forward":            "/proc/sys/net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net/ipv4/conf/eth0.1/rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
	} {
		if got := sysctlPath(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}

func TestHostsFileIsStableAndKeepsForeignLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom([]string{"127.0.0.1 localhost", "10.1.1.1 printer", "# note", "", "::1 localhost", "127.0.1.1 old",
			blockBegin, blockEnd, "127.0.1.10 theirs"})
		old := strings.Join(rapid.SliceOf(line).Draw(t, "lines"), "\n")
		once := hosts(old, spec())
		if twice := hosts(once, spec()); twice != once {
			t.Fatalf("not stable (-once +twice):\n%s", cmp.Diff(once, twice))
		}
		if strings.Contains(old, "127.0.1.10 theirs") && !strings.Contains(old, blockBegin) && !strings.Contains(once, "127.0.1.10 theirs") {
			t.Fatal("a foreign line is gone")
		}
	})
}
