package dns

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type env = providertest.Env[*v1.DnsSpec]

func want(spec *v1.DnsSpec) wish { return wish{Spec: spec, Stage: provider.Services} }

// corp is a zone with some machines.
func (s server) corp(view, name string, serial uint32, hosts ...string) *v1.DnsZone {
	z := &zone.Zone{Name: name, View: view, Primary: "srv." + name, Contact: "hostmaster." + name}
	z.Add(zone.Record{Name: name, Type: "NS", Value: "srv." + name}, zone.Record{Name: "srv." + name, Type: "A", Value: "10.0.10.10"})
	for i, h := range hosts {
		z.Add(zone.Record{Name: h + "." + name, Type: "A", Value: fmt.Sprintf("10.0.%d.%d", 20+i/250, 1+i%250)})
	}
	text := z.Text()
	s.contents[zone.Digest(text)] = text
	return &v1.DnsZone{Name: name, View: view, Serial: serial, ContentDigest: zone.Digest(text)}
}

func base(zones ...*v1.DnsZone) *v1.DnsSpec {
	return &v1.DnsSpec{ListenAddresses: []string{"10.0.10.10", "fd00::10"}, Forwarders: []string{"203.0.113.1"},
		RecursionFrom: []string{"10.0.10.0/24", "fd00::/64"}, ValidateExcept: []string{"corp.lab"}, Zones: zones}
}

func TestConformance(t *testing.T) {
	s := server{map[string][]byte{}}
	transfer := base(s.corp("", "corp.lab", 2026112402, "a", "b"), s.corp("", "more.lab", 2026112400))
	transfer.TransferTo, transfer.TransferKey = []string{"10.0.10.11"}, &v1.SecretRef{Name: "dns-transfer", Version: "v1"}
	views := base(s.corp("inside", "corp.lab", 2026112403, "a"), s.corp("outside", "corp.example", 2026112400))
	views.Views = []*v1.DnsView{{Name: inside, Clients: []string{"10.0.10.0/24"}, Recursion: true}, {Name: outside}}
	secondary := base(&v1.DnsZone{Name: "corp.lab", Serial: 3, Primaries: []string{"10.0.10.10"}})
	secondary.TransferKey = &v1.SecretRef{Name: "dns-transfer", Version: "v2"}
	acme := base(s.corp("", "corp.lab", 2026112404, "a"), s.corp("", "_acme-challenge.corp.lab", 1))
	acme.Zones[1].Dynamic, acme.Zones[1].UpdateKey = true, &v1.SecretRef{Name: "acme", Version: "v1"}
	broken := base(s.corp("", "corp.lab", 1))
	broken.Zones[0].Name = "../../etc/passwd"
	escape := base(s.corp("", "corp.lab", 1))
	escape.Forwarders = []string{"1.1.1.1; }; //"}
	providertest.Run(t, providertest.Suite[*v1.DnsSpec]{
		New: func(t *testing.T, faults *providertest.Faults) env {
			m := newMachine(t)
			return env{Root: m.root, Provider: m.provider(s, faults), State: m.state,
				Restart: func() provider.Provider[*v1.DnsSpec] { return m.provider(s, faults) }}
		},
		Steps: []providertest.Step[*v1.DnsSpec]{
			{Name: "first zone", Wish: want(base(s.corp("", "corp.lab", 2026112400, "a", "gone")))},
			{Name: "the same again", Wish: want(base(s.corp("", "corp.lab", 2026112400, "a", "gone"))), NoChange: true},
			{Name: "another name in it", Wish: want(base(s.corp("", "corp.lab", 2026112401, "a", "b")))},
			{Name: "another zone, transfers", Wish: want(transfer)},
			{Name: "views", Wish: want(views)},
			{Name: "a copy of another's", Wish: want(secondary)},
			{Name: "a zone that changes by itself", Wish: want(acme)},
		},
		Secrets: []string{tsig},
		Drifts: []providertest.Drift[*v1.DnsSpec]{
			{Name: "serial set back by hand", After: 1, Do: func(t *testing.T, e env) {
				file := e.Root + zoneDir + "/corp.lab.zone"
				text, err := os.ReadFile(file)
				must(t, err)
				must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "2026112400", "2026112399", 1)), 0o644))
			}},
			{Name: "configuration edited by hand", Do: func(t *testing.T, e env) {
				must(t, os.WriteFile(e.Root+"/etc/bind/named.conf.options", []byte("options { recursion yes; };\n"), 0o644))
			}},
			{Name: "key file readable by all", After: 4, Do: func(t *testing.T, e env) { must(t, os.Chmod(e.Root+keyFile, 0o644)) }},
			{Name: "zone file gone", After: 1, Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+zoneDir+"/corp.lab.zone")) }},
			{Name: "not started at boot", Do: func(t *testing.T, e env) { must(t, os.Remove(e.Root+links()[0])) }},
			{Name: "service dead", Do: func(t *testing.T, e env) { must(t, os.RemoveAll(e.Root+"/proc/88")) }},
		},
		Refusals: []providertest.Refusal[*v1.DnsSpec]{
			{Name: "zone that leads out of the folder", Code: errs.Invalid, Wish: want(broken)},
			{Name: "forwarder that is no address", Code: errs.Invalid, Wish: want(escape)},
			{Name: "bind9 not installed", Code: errs.Precondition, Wish: want(base(s.corp("", "corp.lab", 1))), Prepare: func(t *testing.T, e env) {
				must(t, os.Remove(e.Root+"/usr/sbin/named"))
			}},
		},
	})
}

// A zone edited by hand is shown line by line, and nothing is written. What mends it has a serial of its own: the edit may have been served.
func TestAHandEditIsShownAndMended(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	w := want(base(s.corp("", "corp.lab", 2026112400, "a")))
	apply(t, p, w)
	file := m.root + zoneDir + "/corp.lab.zone"
	text, err := os.ReadFile(file)
	must(t, err)
	edited := strings.Replace(string(text), "a.corp.lab. 3600 IN A 10.0.20.1", "a.corp.lab. 3600 IN A 10.6.6.6", 1)
	must(t, os.WriteFile(file, []byte(edited), 0o644))
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	const soa = "corp.lab. 3600 IN SOA srv.corp.lab. hostmaster.corp.lab. %d 3600 900 1209600 3600 "
	if len(pl.Changes) != 1 || fmt.Sprint(pl.Changes[0].GetBefore()) != fmt.Sprintf("["+soa+"a.corp.lab. 3600 IN A 10.6.6.6]", 2026112400) ||
		fmt.Sprint(pl.Changes[0].GetAfter()) != fmt.Sprintf("["+soa+"a.corp.lab. 3600 IN A 10.0.20.1]", 2026112401) {
		t.Errorf("got %v", pl.Changes)
	}
	if now, _ := os.ReadFile(file); string(now) != edited {
		t.Error("planning changed the file")
	}
	apply(t, p, w)
	if now, _ := os.ReadFile(file); string(now) != strings.Replace(string(text), "2026112400", "2026112401", 1) {
		t.Errorf("mended it is\n%s", now)
	}
	if pl, err = p.Plan(t.Context(), w); err != nil || len(pl.Changes) > 0 {
		t.Errorf("the second plan has %v, %v", pl.Changes, err)
	}
}

func apply(t *testing.T, p *Provider, w wish) {
	t.Helper()
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	must(t, p.Apply(t.Context(), pl))
	must(t, p.Verify(t.Context(), w))
}

// The first apply keeps what was there, later ones leave that alone, and a first one that fails leaves no copies.
func TestOriginalsAreKeptOnce(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	const file = "/etc/bind/named.conf.local"
	must(t, os.Chmod(m.root+file, 0o640))
	before, err := os.ReadFile(m.root + file)
	must(t, err)
	w := want(base(s.corp("", "corp.lab", 2026112400, "a")))
	pl, err := p.Plan(t.Context(), w)
	must(t, err)
	if !strings.Contains(fmt.Sprint(pl.Changes), `zone \"old.lab\" {`) {
		t.Errorf("the plan does not show the lines that go: %v", pl.Changes)
	}
	snapshot, err := p.Snapshot(t.Context(), pl)
	must(t, err)
	copied := func() string {
		t.Helper()
		text, err := os.ReadFile(m.root + file + original)
		must(t, err)
		info, err := os.Stat(m.root + file + original)
		must(t, err)
		if info.Mode() != 0o640 {
			t.Errorf("the copy has mode %s", info.Mode())
		}
		return string(text)
	}
	must(t, p.Apply(t.Context(), pl))
	if got := copied(); got != string(before) {
		t.Errorf("the copy is %q", got)
	}
	must(t, p.Rollback(t.Context(), snapshot))
	if left, err := filepath.Glob(m.root + "/etc/bind/*" + original); err != nil || len(left) > 0 {
		t.Errorf("after the rollback there is %v, %v", left, err)
	}
	if text, err := os.ReadFile(m.root + file); err != nil || string(text) != string(before) {
		t.Errorf("after the rollback the file is %q, %v", text, err)
	}

	apply(t, p, w)
	must(t, os.WriteFile(m.root+file, []byte("// by hand\n"), 0o640))
	apply(t, p, w)
	if got := copied(); got != string(before) {
		t.Errorf("after an edit by hand the copy is %q", got)
	}
}

// A site that gets views has the same zone as before, in the inside one: a second node goes on with its copy.
func TestViewsGoOnWithTheSerial(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	apply(t, p, want(base(s.corp("", "corp.lab", 2026112407, "a"))))
	views := base(s.corp(inside, "corp.lab", 2026112400, "b"), s.corp(outside, "corp.example", 2026112400))
	views.Views = []*v1.DnsView{{Name: inside, Clients: []string{"10.0.10.0/24"}, Recursion: true}, {Name: outside}}
	w := want(views)
	apply(t, p, w)
	if got, err := p.serial(t.Context(), w.Spec.Zones[0]); err != nil || got != 2026112408 {
		t.Errorf("in the inside view it has serial %d, %v", got, err)
	}
}

// A server that was restored from a backup gives serials that were used already: what is served never goes back, and each change of
// the content is newer than what a second node has.
func TestSerialsNeverGoBack(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	for _, step := range []struct {
		name   string
		host   string
		serial uint32
		want   uint32
	}{
		{"the first", "a", 2026112407, 2026112407},
		{"restored, the content as it was", "a", 2026112400, 2026112407},
		{"restored, an older content", "old", 2026112400, 2026112408},
		{"the same again", "old", 2026112400, 2026112408},
		{"a change by the restored server", "b", 2026112401, 2026112409},
		{"a serial that is served, for another content", "c", 2026112409, 2026112410},
		{"the next day", "d", 2026112500, 2026112500},
		{"far ahead", "e", 4000000000, 4000000000},
		{"the last number of all", "f", 1<<32 - 1, 1<<32 - 1},
		{"behind it comes 1", "g", 1<<32 - 2, 1},
	} {
		w := want(base(s.corp("", "corp.lab", step.serial, step.host)))
		apply(t, p, w)
		got, err := p.serial(t.Context(), w.Spec.Zones[0])
		if err != nil || got != step.want {
			t.Errorf("%s: served with %d, want %d, %v", step.name, got, step.want, err)
		}
		if pl, err := p.Plan(t.Context(), w); err != nil || len(pl.Changes) > 0 {
			t.Errorf("%s: the second plan has %v, %v", step.name, pl.Changes, err)
		}
	}
}

// A node that serves names no more keeps its name server as it is: nobody who still asks it is cut off by that.
func TestANodeWithoutTheSectionIsLeftAlone(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	apply(t, p, want(base(s.corp("", "corp.lab", 2026112400, "a"))))
	before, err := m.state()
	must(t, err)
	b := provider.Bind(p, func(h *v1.HostSpec) (*v1.DnsSpec, bool) { return h.GetDns(), h.GetDns() != nil }, Stages()...)
	for _, stage := range Stages() {
		if step, err := b.Plan(t.Context(), &v1.HostSpec{}, stage, nil); step != nil || err != nil {
			t.Errorf("there is something to do: %v, %v", step, err)
		}
		must(t, b.Keep(t.Context(), &v1.HostSpec{}, stage, nil))
	}
	if after, err := m.state(); after != before || before == "" || err != nil {
		t.Errorf("bind serves\n%s\nand not\n%s: %v", after, before, err)
	}
}

// What named-checkzone refuses never takes the old zone's place; what bind refuses without a word is noticed, and taken back.
func TestTheOldZoneStays(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(m *fakeMachine, s server, z *v1.DnsZone)
		want  string
	}{
		"content that is no zone": {func(_ *fakeMachine, s server, z *v1.DnsZone) {
			text := []byte("corp.lab. 3600 IN SOA srv.corp.lab. h.corp.lab. SERIAL 1 1 1 1\na.corp.lab. 3600 IN A 10.0.0\n")
			z.ContentDigest = zone.Digest(text)
			s.contents[z.ContentDigest] = text
		}, "no master file"},
		"a file read in": {func(_ *fakeMachine, s server, z *v1.DnsZone) {
			text := []byte("corp.lab. 3600 IN SOA srv.corp.lab. h.corp.lab. SERIAL 1 1 1 1\n$INCLUDE /etc/shadow\n")
			z.ContentDigest = zone.Digest(text)
			s.contents[z.ContentDigest] = text
		}, "no master file"},
		"queued, and refused without a word": {func(m *fakeMachine, _ server, _ *v1.DnsZone) { m.refuseZone = "corp.lab" },
			"still serves zone corp.lab with serial 2026112400, and not 2026112401"},
		"content of another digest": {func(_ *fakeMachine, s server, z *v1.DnsZone) {
			s.contents[z.ContentDigest] = []byte("something else")
		}, "another content"},
	} {
		t.Run(name, func(t *testing.T) {
			s := server{map[string][]byte{}}
			m := newMachine(t)
			p := m.provider(s, &providertest.Faults{})
			apply(t, p, want(base(s.corp("", "corp.lab", 2026112400, "a"))))
			before, _ := m.state()
			z := s.corp("", "corp.lab", 2026112401, "a", "b")
			c.spoil(m, s, z)
			p = m.provider(s, &providertest.Faults{})
			w := want(base(z))
			pl, err := p.Plan(t.Context(), w)
			must(t, err)
			snapshot, err := p.Snapshot(t.Context(), pl)
			must(t, err)
			if err := p.Apply(t.Context(), pl); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			m.refuseZone = ""
			must(t, p.Rollback(context.Background(), snapshot))
			if after, _ := m.state(); after != before {
				t.Errorf("bind serves\n%s\nand not\n%s", after, before)
			}
		})
	}
}

func TestStageKeepsWhatIsWantedAlone(t *testing.T) {
	s := server{map[string][]byte{}}
	m := newMachine(t)
	p := m.provider(s, &providertest.Faults{})
	must(t, p.Stage(t.Context(), base(s.corp("", "corp.lab", 1, "a"))))
	next := s.corp("", "corp.lab", 2, "b")
	must(t, p.Stage(t.Context(), base(next)))
	have, err := os.ReadDir(m.root + contents)
	must(t, err)
	if len(have) != 1 || "sha256:"+have[0].Name() != next.GetContentDigest() {
		t.Errorf("got %v", have)
	}
	// Without a server, what was staged is enough.
	alone := New(Config{Host: p.host, Exchange: zonetest.Exchange(m.exchange)})
	apply(t, alone, want(base(next)))
}
