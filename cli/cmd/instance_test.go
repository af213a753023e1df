package cmd

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func quietApp() *app { return &app{proc: Process{Out: io.Discard, Err: io.Discard}} }

func TestCoresAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		milli := rapid.Uint32Range(1, maxCPUs*1000).Draw(t, "milli")
		var p cpuFlag
		if err := p.Set(cpus(milli)); err != nil || uint32(p) != milli {
			t.Fatalf("%d is written %s and read %d, %v", milli, cpus(milli), p, err)
		}
	})
	for _, bad := range []string{"", ".", "0", "0.000", "0.0001", "-1", "1e3", "+1", "1.-1", "1025000", "NaN", "0x10", "1,5", "é"} {
		if err := new(cpuFlag).Set(bad); err == nil {
			t.Errorf("%q is taken for a number of cores", bad)
		}
	}
}

// applied is an instance after everything that a plan asks for was done.
func applied(now *v1.Instance, p *instancePlan) *v1.Instance {
	after := &v1.Instance{Name: p.name, Cron: true, Language: "fr", Limits: &v1.InstanceLimits{}}
	if now != nil {
		after = proto.Clone(now).(*v1.Instance)
	}
	if c := p.create; c != nil {
		after.State, after.Version, after.Node = v1.InstanceState_INSTANCE_STATE_ACTIVE, c.GetVersion(), c.GetNode()
		after.Preprod, after.Company = c.GetPreprod(), c.GetCompany()
		after.Domains, after.Modules, after.AdminLogin = c.GetDomains(), c.GetModules(), c.GetAdminLogin()
		after.Language = orElse(c.GetLanguage(), "fr")
		if c.GetLimits() != nil {
			after.Limits = c.GetLimits()
		}
	}
	if c := p.configure; c != nil {
		if c.GetLimits() != nil {
			proto.Merge(after.Limits, c.GetLimits())
		}
		if c.Cron != nil {
			after.Cron = c.GetCron()
		}
		after.Language = orElse(c.GetLanguage(), after.GetLanguage())
		after.Domains = append(after.Domains, c.GetAddDomains()...)
	}
	after.Modules = append(after.Modules, p.enable.GetEnable()...)
	return after
}

// fileOf draws a file of one instance.
func fileOf(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("instances:\n  acme:\n    country: FR\n")
	line := func(key string, values ...string) {
		if v := rapid.SampledFrom(append(values, "")).Draw(t, key); v != "" {
			b.WriteString("    " + key + ": " + v + "\n")
		}
	}
	line("version", "19.0.4")
	line("language", "fr", "en")
	line("cron", "true", "false")
	line("domains", "[a.example]", "[a.example, b.example]")
	line("modules", "[societe]", "[Facture, societe]")
	line("limits", "{memory: 512M}", "{memory: 1G, cpus: 0.5, pids: 100, disk: 5G}")
	return b.String()
}

func TestASecondApplyOfAFileDoesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "customers.yaml")
	rapid.Check(t, func(t *rapid.T) {
		if err := os.WriteFile(path, []byte(fileOf(t)), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := quietApp().readInstances(path)
		if err != nil {
			t.Fatal(err)
		}
		var now *v1.Instance
		if rapid.Bool().Draw(t, "there") {
			now = &v1.Instance{Name: "acme", State: v1.InstanceState_INSTANCE_STATE_ACTIVE, Version: "19.0.4",
				Cron: rapid.Bool().Draw(t, "cron now"), Language: "fr",
				Limits: &v1.InstanceLimits{MemoryBytes: 768 << 20}, Modules: []string{"FACTURE"}, Domains: []string{"acme.lab", "b.example"}}
		}
		var list []*v1.Instance
		if now != nil {
			list = append(list, now)
		}
		first := planInstances(file, list)[0]
		after := applied(now, first)
		second := planInstances(file, []*v1.Instance{after})[0]
		if !second.idle() || len(second.blocks) > 0 {
			t.Fatalf("the second plan is %s: %q %q", second.word(), second.lines, second.blocks)
		}
	})
}

func FuzzInstanceFile(f *testing.F) {
	f.Add([]byte("instances:\n  acme: {version: 19.0.4, limits: {memory: 1G, cpus: 0.5}, cron: false}\n"))
	f.Add([]byte("instances: {A: {}, a/b: {modules: [x]}}"))
	f.Add([]byte("instances: []"))
	path := filepath.Join(f.TempDir(), "f.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := quietApp().readInstances(path)
		if err != nil {
			return
		}
		for _, p := range planInstances(file, nil) {
			if !instanceNameForm.MatchString(p.name) || p.create == nil {
				t.Errorf("%q passed", p.name)
			}
		}
	})
}

func TestTheListFits80Columns(t *testing.T) {
	a := &app{clock: clock.NewFake(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC))}
	var b bytes.Buffer
	w, err := output.New(&b, output.Table, 80)
	if err != nil {
		t.Fatal(err)
	}
	long := &v1.Instance{Name: "a-name-that-is-31-letters-long-", State: v1.InstanceState_INSTANCE_STATE_ARCHIVED, Version: "19.0.4",
		Node: "srv-pre-prod-of-paris", Domains: []string{"a-name-that-is-31-letters-long-.customers.projetpro.example", "b"},
		PurgeAfter: timestamppb.New(time.Date(2030, 1, 9, 0, 0, 0, 0, time.UTC))}
	if err := a.showInstances(w, []*v1.Instance{long, {Name: "b", Problem: strings.Repeat("a long story ", 30)}}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(b.String(), long.GetName()) {
		t.Errorf("a name is cut:\n%s", b.String())
	}
}
