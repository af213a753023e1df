package packages

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type env = providertest.Env[*v1.PackagesSpec]

func add(present, hold []string) wish {
	return wish{Spec: &v1.PackagesSpec{Present: present, Hold: hold}, Stage: provider.Additions}
}

func away(names ...string) wish {
	return wish{Spec: &v1.PackagesSpec{Absent: names}, Stage: provider.Services}
}

func TestConformance(t *testing.T) {
	machines := map[string]*fakeMachine{}
	on := func(e env) *fakeMachine { return machines[e.Root] }
	providertest.Run(t, providertest.Suite[*v1.PackagesSpec]{
		New: func(t *testing.T, faults *providertest.Faults) env {
			m := newMachine(t)
			machines[m.root] = m
			return env{Root: m.root, Provider: m.provider(faults), State: m.state,
				Restart: func() provider.Provider[*v1.PackagesSpec] { return m.provider(faults) }}
		},
		Steps: []providertest.Step[*v1.PackagesSpec]{
			{Name: "nothing named", Wish: add(nil, nil), NoChange: true},
			{Name: "installed", Wish: add([]string{"tcpdump", "htop"}, nil)},
			{Name: "again", Wish: add([]string{"tcpdump", "htop"}, nil), NoChange: true},
			{Name: "one more and holds", Wish: add([]string{"htop", "fresh", "bash"}, []string{"htop", "openssh-server", "not-there"})},
			{Name: "hold released", Wish: add([]string{"htop"}, []string{"openssh-server"})},
			{Name: "removal at the services", Wish: away("nano", "not-there")},
			{Name: "removed again", Wish: away("nano", "not-there"), NoChange: true},
			{Name: "additions leave the absent alone", Wish: wish{Spec: &v1.PackagesSpec{Absent: []string{"htop"},
				Hold: []string{"openssh-server"}}, Stage: provider.Additions}, NoChange: true},
		},
		Drifts: []providertest.Drift[*v1.PackagesSpec]{
			{Name: "removed by hand", After: 2, Do: func(t *testing.T, e env) {
				if _, err := on(e).run([]string{"dpkg", "--purge", "--", "htop"}); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "hold taken away", After: 5, Do: func(t *testing.T, e env) {
				if _, err := on(e).run([]string{"apt-mark", "unhold", "--", "openssh-server"}); err != nil {
					t.Fatal(err)
				}
			}},
			{Name: "interrupted", After: 2, Do: func(t *testing.T, e env) {
				on(e).write(t, "/var/lib/dpkg/updates/0001", "")
				if err := on(e).each([]string{"htop"}, func(p *paragraph) { p.status = "install ok half-configured" }); err != nil {
					t.Fatal(err)
				}
			}},
		},
		Refusals: []providertest.Refusal[*v1.PackagesSpec]{
			{Name: "option as a name", Code: errs.Invalid, Wish: add([]string{"--purge"}, nil)},
			{Name: "removal as a name", Code: errs.Invalid, Wish: add([]string{"htop-"}, nil)},
			{Name: "version in a name", Code: errs.Invalid, Wish: add([]string{"htop=1"}, nil)},
			{Name: "to be there and away", Code: errs.Invalid, Wish: wish{Stage: provider.Additions,
				Spec: &v1.PackagesSpec{Present: []string{"htop"}, Absent: []string{"htop"}}}},
			{Name: "another firewall", Code: errs.Denied, Wish: add([]string{"firewalld"}, nil)},
			{Name: "way in removed", Code: errs.Denied, Wish: away("openssh-server")},
			{Name: "essential package removed", Code: errs.Denied, Wish: away("bash")},
			{Name: "engine in use removed", Code: errs.Denied, Wish: away("docker.io"), Prepare: func(t *testing.T, e env) {
				on(e).write(t, "/proc/9/comm", "dockerd\n")
				addStatus(t, on(e), "docker.io")
			}},
			{Name: "something else would go too", Code: errs.Denied, Wish: away("libpcap0"), Prepare: func(t *testing.T, e env) {
				addStatus(t, on(e), "libpcap0", "tcpdump")
			}},
			{Name: "no dpkg", Code: errs.Precondition, Wish: add([]string{"htop"}, nil), Prepare: func(t *testing.T, e env) {
				if err := os.Remove(e.Root + statusFile); err != nil {
					t.Fatal(err)
				}
			}},
		},
		// Notes for the next run, none of which changes what a host is.
		Ignore: []string{"run/*", "var/lib/dpkg/updates", "var/lib/infractl/packages/last"},
	})
}

func addStatus(t *testing.T, m *fakeMachine, names ...string) {
	t.Helper()
	list := m.read()
	for _, n := range names {
		list = append(list, paragraph{name: n, status: "install ok installed", rest: "Version: 1\n"})
	}
	if err := m.save(list); err != nil {
		t.Fatal(err)
	}
}

// apply plans, takes the snapshot and applies, as the engine does.
func apply(t *testing.T, p *Provider, w wish) (snapshot []byte, err error) {
	t.Helper()
	pl, err := p.Plan(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if snapshot, err = p.Snapshot(t.Context(), pl); err != nil {
		t.Fatal(err)
	}
	return snapshot, p.Apply(t.Context(), pl)
}

func TestAptFailuresAreToldWithAHint(t *testing.T) {
	tests := []struct {
		name, at, says string
		code           errs.Code
		want           string
	}{
		{"disk full", "apt-get -y", "E: You don't have enough free space in /var/cache/apt/archives/.", errs.Exhausted, "disk is full"},
		{"disk full in dpkg", "apt-get -y", "dpkg: error processing archive x (--unpack): cannot copy: failed to write (No space left on device)\nE: Sub-process /usr/bin/dpkg returned an error code (1)", errs.Exhausted, "disk is full"},
		{"lock", "apt-get -y", "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 71 (unattended-upgr)", errs.Unavailable, "unattended-upgr"},
		{"mirror", "update", "Err:1 http://mirror.example bookworm InRelease\n  Temporary failure resolving 'mirror.example'\nE: Failed to fetch http://mirror.example/x", errs.Unavailable, "mirror.example"},
		{"conflict", "-s", "E: Packages need to be removed but remove is disabled.", errs.Precondition, "beside a package"},
		{"unmet", "-s", "E: Unable to correct problems, you have held broken packages.", errs.Precondition, "depends on"},
		{"script", "apt-get -y", "E: Sub-process /usr/bin/dpkg returned an error code (1)", errs.Precondition, "script"},
		{"unsigned", "update", "E: The repository 'http://x y Release' is not signed.", errs.Denied, "not signed"},
		{"else", "apt-get -y", "E: Something new", errs.Internal, "Something new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			p := m.provider(&providertest.Faults{})
			before := m.read()
			m.fail[tt.at] = tt.says
			snapshot, err := apply(t, p, add([]string{"fresh"}, nil))
			if errs.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.want) || errs.HintOf(err) == "" {
				t.Errorf("code %q, hint %q: %v", errs.CodeOf(err), errs.HintOf(err), err)
			}
			delete(m.fail, tt.at)
			if err := p.Rollback(t.Context(), snapshot); err != nil {
				t.Fatal(err)
			}
			if after := m.read(); !slices.Equal(after, before) {
				t.Errorf("the old state is not kept: %v", after)
			}
		})
	}
}

func TestUnknownPackageIsToldAfterALookAtTheMirrors(t *testing.T) {
	m := newMachine(t)
	_, err := apply(t, m.provider(&providertest.Faults{}), add([]string{"nosuch"}, nil))
	if !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "nosuch") || errs.HintOf(err) == "" {
		t.Errorf("err = %v", err)
	}
	if len(m.ran) != 1 || !strings.HasSuffix(m.ran[0], "update") {
		t.Errorf("ran %q", m.ran)
	}
}

func TestListsAreRenewedOnceADay(t *testing.T) {
	m := newMachine(t)
	updates := func(name string) int {
		if _, err := apply(t, m.provider(&providertest.Faults{}), add([]string{name}, nil)); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, line := range m.ran {
			if strings.HasSuffix(line, "update") {
				n++
			}
		}
		return n
	}
	if n := updates("htop"); n != 1 {
		t.Errorf("%d updates at first, want 1", n)
	}
	if n := updates("jq"); n != 1 {
		t.Errorf("%d updates after a second package, want 1", n)
	}
	m.write(t, stampFile, fixed{}.Now().Add(-25*time.Hour).Format(time.RFC3339))
	if n := updates("lynx"); n != 2 {
		t.Errorf("%d updates after a day, want 2", n)
	}
}

func TestOldListsDoWhereTheMirrorIsAway(t *testing.T) {
	m := newMachine(t)
	m.fail["update"] = "E: Failed to fetch http://mirror.example/x"
	if _, err := apply(t, m.provider(&providertest.Faults{}), add([]string{"htop"}, nil)); err != nil {
		t.Error(err)
	}
}

func TestRivalThatComesAlongIsRefused(t *testing.T) {
	m := newMachine(t)
	if _, err := apply(t, m.provider(&providertest.Faults{}), add([]string{"trap"}, nil)); !errs.Is(err, errs.Denied) || m.has("trap") {
		t.Errorf("err = %v", err)
	}
}

func TestRestartedAgentJoinsWhatRuns(t *testing.T) {
	m := newMachine(t)
	m.units[unitPrefix+"0123456789ab.service"] = "activating"
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(20 * time.Millisecond)
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, err := m.aptGet([]string{"apt-get", "install", "--", "htop"}); err != nil {
			t.Error(err)
		}
		m.units[unitPrefix+"0123456789ab.service"] = "active"
	}()
	_, err := apply(t, m.provider(&providertest.Faults{}), add([]string{"htop"}, nil))
	<-ended
	if err != nil || len(m.ran) > 0 || len(m.units) > 0 {
		t.Errorf("ran %q, units %v, err %v", m.ran, m.units, err)
	}
}

func TestStoppedAgentLeavesAptAtWork(t *testing.T) {
	m := newMachine(t)
	p := m.provider(&providertest.Faults{})
	pl, err := p.Plan(t.Context(), add([]string{"htop"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := p.Snapshot(t.Context(), pl)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	unit := unitPrefix + "0123456789ab.service"
	m.units[unit] = "activating"
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := p.Apply(ctx, pl); err == nil {
		t.Fatal("no error from an apply that was stopped")
	}
	if err := p.Rollback(t.Context(), snapshot); !errs.Is(err, errs.Unavailable) || m.units[unit] != "activating" {
		t.Errorf("rollback: %v, unit %q", err, m.units[unit])
	}
}

func TestRollbackAfterASecondTryRemovesWhatTheFirstInstalled(t *testing.T) {
	m := newMachine(t)
	before := m.read()
	p := m.provider(&providertest.Faults{})
	if err := p.store(run{Wanted: []string{"tcpdump"}, Packages: []string{"libpcap0", "tcpdump"}}); err != nil {
		t.Fatal(err)
	}
	addStatus(t, m, "libpcap0") // the first try was cut here
	m.fail["apt-get -y"] = "E: Sub-process /usr/bin/dpkg returned an error code (1)"
	snapshot, err := apply(t, p, add([]string{"tcpdump"}, nil))
	if err == nil {
		t.Fatal("no error")
	}
	if err := p.Rollback(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	if after := m.read(); !slices.Equal(after, before) {
		t.Errorf("got %v", after)
	}
}

func TestPlanWithNothingToDoRunsNoProcess(t *testing.T) {
	m := newMachine(t)
	faults := &providertest.Faults{}
	for _, w := range []wish{add([]string{"nano"}, nil), away("not-there")} {
		if _, err := m.provider(faults).Plan(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	if ops := faults.Ops(); len(ops) > 0 {
		t.Errorf("it did %v", ops)
	}
}
