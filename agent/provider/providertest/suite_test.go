package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// toy writes two files and runs a command between them; flaw is the fault that the suite must find.
type toy struct {
	host *host.Host
	flaw string
}

func (p *toy) Name() string { return "toy" }

func (p *toy) files(w provider.Wish[string]) []host.File {
	var list []host.File
	for _, name := range []string{"/etc/a", "/etc/b"} {
		list = append(list, host.File{Path: name, Data: []byte(w.Spec), Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()})
	}
	return list
}

func (p *toy) Plan(_ context.Context, w provider.Wish[string]) (provider.Plan[string], error) {
	plan := provider.Plan[string]{Wish: w}
	if w.Spec == "" {
		return plan, errs.New(errs.Invalid, "nothing wished").WithHint("wish for something")
	}
	for _, f := range p.files(w) {
		same, err := p.host.InSync(f)
		if err != nil {
			return plan, err
		}
		if !same || p.flaw == "plan never empty" {
			plan.Changes = append(plan.Changes, &v1.Change{Provider: "toy", Subject: f.Path,
				Action: v1.ChangeAction_CHANGE_ACTION_UPDATE, Risk: v1.Risk_RISK_NONE})
		}
	}
	if p.flaw == "plan writes" {
		_, err := p.host.WriteFile("/etc/planned", nil, 0o600)
		return plan, err
	}
	if p.flaw == "prints a secret" && len(plan.Changes) > 0 {
		plan.Changes[0].After = []string{w.Spec}
	}
	return plan, nil
}

func (p *toy) Snapshot(context.Context, provider.Plan[string]) ([]byte, error) {
	paths := []string{"/etc/a", "/etc/b"}
	if p.flaw == "forgets a file" {
		paths = paths[:1]
	}
	files, err := p.host.Snapshot(paths...)
	if err != nil {
		return nil, err
	}
	return json.Marshal(files)
}

func (p *toy) Apply(ctx context.Context, plan provider.Plan[string]) error {
	for i, f := range p.files(plan.Wish) {
		if i == 1 && p.flaw == "not idempotent" {
			f.Data = append(f.Data, "applied\n"...)
			if have, err := p.host.Stat(f.Path); err == nil {
				f.Data = append(f.Data, have.Data...)
			}
		}
		if _, err := p.host.Write(f); err != nil {
			return err
		}
		if _, err := p.host.Run(ctx, "true", f.Path); err != nil && p.flaw != "ignores errors" {
			return err
		}
	}
	if p.flaw == "touches foreign files" {
		_, err := p.host.WriteFile("/etc/foreign", []byte("ours now"), 0o644)
		return err
	}
	return nil
}

func (p *toy) Verify(context.Context, provider.Wish[string]) error { return nil }
func (p *toy) Keep(context.Context, provider.Wish[string]) error   { return nil }

func (p *toy) Rollback(_ context.Context, snapshot []byte) error {
	var files []host.File
	err := json.Unmarshal(snapshot, &files)
	if err != nil && p.flaw != "takes any snapshot" {
		return errs.New(errs.Invalid, "this is no snapshot of toy: %w", err)
	}
	_, err = p.host.Restore(files)
	return err
}

func toySuite(flaw string) Suite[string] {
	wish := func(s string) provider.Wish[string] { return provider.Wish[string]{Spec: s, Stage: provider.Services} }
	return Suite[string]{
		New: func(t *testing.T, faults *Faults) Env[string] {
			root := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Join(root, "etc"), 0o755),
				os.WriteFile(filepath.Join(root, "etc/foreign"), []byte("theirs"), 0o644)); err != nil {
				t.Fatal(err)
			}
			h := host.New(host.Config{Root: root, Runner: faults.Runner(deaf{}), Fault: faults.Op})
			return Env[string]{Root: root, Provider: &toy{host: h, flaw: flaw}, Foreign: func() (string, error) {
				data, err := os.ReadFile(filepath.Join(root, "etc/foreign"))
				return string(data), err
			}}
		},
		Steps: []Step[string]{
			{Name: "first", Wish: wish("MARKER-1")},
			{Name: "second", Wish: wish("MARKER-2")},
			{Name: "same again", Wish: wish("MARKER-2"), NoChange: true},
		},
		Secrets: []string{"MARKER"},
		Drifts: []Drift[string]{{Name: "file removed", Do: func(t *testing.T, env Env[string]) {
			if err := os.Remove(filepath.Join(env.Root, "etc/b")); err != nil {
				t.Fatal(err)
			}
		}}},
		Refusals: []Refusal[string]{{Name: "empty wish", Code: errs.Invalid}},
	}
}

// deaf is a runner whose commands do nothing.
type deaf struct{}

func (deaf) Run(context.Context, host.Cmd) (host.Output, error) { return host.Output{}, nil }

func TestGoodProviderPasses(t *testing.T) { Run(t, toySuite("")) }

func TestFlawIsFound(t *testing.T) {
	flaws := map[string]string{
		"plan never empty":      "apply then plan is empty",
		"plan writes":           "planning writes nothing",
		"forgets a file":        "rollback gives the same bytes, also twice",
		"not idempotent":        "apply twice equals once",
		"touches foreign files": "apply then plan is empty",
		"prints a secret":       "no secret is printed",
		"ignores errors":        "cancelled context returns promptly",
		"takes any snapshot":    "unknown snapshot is refused",
	}
	for flaw, by := range flaws {
		t.Run(flaw, func(t *testing.T) {
			for _, c := range cases[string]() {
				if c.name != by {
					continue
				}
				if err := c.run(t, toySuite(flaw), 0); err == nil {
					t.Errorf("case %q did not find it", by)
				}
				return
			}
			t.Errorf("there is no case %q", by)
		})
	}
}

func TestFaultHitsTheCallThatItWasTold(t *testing.T) {
	for mode, want := range map[Mode]string{
		FailBefore:  "ok fail ok",
		CrashBefore: "ok fail fail",
		CrashAfter:  "ok fail fail",
		FailAfter:   "ok fail ok",
	} {
		faults := &Faults{}
		h := host.New(host.Config{Root: t.TempDir(), Runner: faults.Runner(deaf{}), Fault: faults.Op})
		faults.Arm(2, mode)
		var got []string
		for range 3 {
			word := "ok"
			if _, err := h.Run(context.Background(), "true"); err != nil {
				word = "fail"
			}
			got = append(got, word)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("mode %d: %s, want %s", mode, s, want)
		}
	}
}

func TestSpreadKeepsFirstAndLast(t *testing.T) {
	for _, c := range []struct {
		n, limit int
		want     string
	}{{0, 5, "[]"}, {3, 5, "[1 2 3]"}, {9, 3, "[1 5 9]"}, {100, 1, "[1]"}} {
		if got := fmt.Sprint(spread(c.n, c.limit)); got != c.want {
			t.Errorf("spread(%d, %d) = %s, want %s", c.n, c.limit, got, c.want)
		}
	}
}

func TestQuickRunsTryEachCaseOfFaultsAtAStepThatChanges(t *testing.T) {
	for name, c := range map[string]struct {
		unchanged []bool // of each step
		want      string // the steps of the first six cases
	}{
		"one step":                   {[]bool{false}, "[0 0 0 0 0 0]"},
		"one that changes nothing":   {[]bool{false, true, false}, "[0 2 0 2 0 2]"},
		"none that changes anything": {[]bool{true, true}, "[0 0 0 0 0 0]"},
	} {
		t.Run(name, func(t *testing.T) {
			var s Suite[string]
			for _, same := range c.unchanged {
				s.Steps = append(s.Steps, Step[string]{NoChange: same})
			}
			var got []int
			for n := range 6 {
				got = append(got, s.quick(n))
			}
			if fmt.Sprint(got) != c.want {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}
