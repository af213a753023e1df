package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// TestNoWeekHasMoreNewCertificatesThanAllowed lets names come and go, authorities refuse and agents restart, for months.
func TestNoWeekHasMoreNewCertificatesThanAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perWeek := rapid.IntRange(1, 5).Draw(t, "per week")
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		l, have := newLedger(), map[string]bool{}
		type request struct {
			at   time.Time
			name string
		}
		var requested []request
		asked := map[string]bool{} // since its entry was made
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(60*time.Hour)).Draw(t, "later")))
			wanted := rapid.SliceOfDistinct(rapid.IntRange(0, 14), rapid.ID[int]).Draw(t, "wanted")
			var keys []string
			for _, n := range wanted {
				keys = append(keys, fmt.Sprintf("n%d.example.test", n))
			}
			for k := range asked { // what left the queue may be asked for anew, and counts anew
				if l.Certificates[k] == nil {
					delete(asked, k)
				}
			}
			admitted := l.admit(now, keys, have, perWeek)
			if !slices.ContainsFunc(keys, func(k string) bool { return !admitted[k] }) && len(admitted) != len(keys) {
				t.Fatalf("admitted %v of %v", admitted, keys)
			}
			for _, k := range sortedKeys(admitted) {
				if l.Certificates[k] == nil || !slices.Contains(keys, k) {
					t.Fatalf("%s was admitted, and nobody wants it", k)
				}
				if have[k] || asked[k] {
					continue
				}
				asked[k] = true
				requested = append(requested, request{now, k})
				if rapid.Bool().Draw(t, "refused") {
					l.fail(now, k)
				} else {
					have[k] = true
				}
			}
			if rapid.Bool().Draw(t, "restart") {
				data, err := json.Marshal(l)
				if err != nil {
					t.Fatal(err)
				}
				l = newLedger()
				if err := strictjson.Unmarshal(data, l); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			for _, r := range requested {
				if now.Sub(r.at) < week {
					n++
				}
			}
			if n > perWeek {
				t.Fatalf("%d new certificates within a week, want at most %d: %v", n, perWeek, requested)
			}
		}
	})
}

func TestQueueIsInOrderAndEndsAfterWeeks(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	l, have := newLedger(), map[string]bool{}
	keys := []string{"late.example.test"}
	for i := range 80 {
		keys = append(keys, fmt.Sprintf("n%02d.example.test", i))
	}
	if got := l.admit(now, keys[1:], have, 40); len(got) != 40 || !got["n00.example.test"] || got["n40.example.test"] {
		t.Fatalf("first week: %d", len(got))
	}
	for k := range l.admit(now.Add(time.Hour), keys, have, 40) {
		have[k] = true
	}
	if got := l.admit(now.Add(week), keys, have, 40); len(got) != 80 || got["late.example.test"] {
		t.Errorf("second week: %d, late %t", len(got), got["late.example.test"])
	}
	if got := l.admit(now.Add(2*week), keys, have, 40); len(got) != 81 {
		t.Errorf("third week: %d", len(got))
	}
}

// TestTurnIsWhenTheQueueLetsThrough lets time pass until each certificate is let through: that is when its turn was foretold.
func TestTurnIsWhenTheQueueLetsThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perWeek := rapid.IntRange(1, 4).Draw(t, "per week")
		now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		l, have := newLedger(), map[string]bool{}
		var keys []string
		admit := func() map[string]bool {
			out := l.admit(now, keys, have, perWeek)
			for k := range out {
				have[k] = true
			}
			return out
		}
		for n := range rapid.IntRange(1, 12).Draw(t, "names") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "hours")) * time.Hour)
			keys = append(keys, fmt.Sprintf("n%02d.example.test", n))
			admit()
		}
		last := keys[len(keys)-1]
		due := l.turn(now, last, perWeek)
		for step := 0; !have[last]; step++ {
			if step > 20*7*24 {
				t.Fatal("it never comes")
			}
			now = now.Add(time.Hour)
			admit()
			if have[last] != !now.Before(due) {
				t.Fatalf("let through %t at %s, foretold for %s", have[last], now, due)
			}
		}
	})
}

func TestCertificatesThatAreThereCostNothing(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	l := newLedger()
	got := l.admit(now, []string{"a.test", "b.test", "c.test"}, map[string]bool{"a.test": true, "b.test": true}, 1)
	if len(got) != 3 {
		t.Errorf("admitted %v: one is new, two were there", got)
	}
}

func TestRefusedOnesWaitLongerEachTime(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	l := newLedger()
	for _, wait := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
		if !l.admit(now, []string{"a.test"}, nil, 1)["a.test"] {
			t.Fatalf("not asked for at %s", now)
		}
		l.fail(now, "a.test")
		if l.admit(now.Add(wait-time.Second), []string{"a.test"}, nil, 1)["a.test"] {
			t.Errorf("asked for again before %s were over", wait)
		}
		now = now.Add(wait)
	}
}

func TestNamesOverTheBudgetWaitAndComeByThemselves(t *testing.T) {
	each(t, func(t *testing.T, m *machine, p *Provider) {
		ctx := context.Background()
		var hosts []*v1.ProxyHostSpec
		for i := range 5 {
			hosts = append(hosts, site(fmt.Sprintf("n%d.example.test", i), 80))
		}
		spec := m.spec(hosts...)
		spec.CertificatesPerWeek = 2
		pl, err := p.Plan(ctx, want(spec))
		must(t, err)
		waiting := 0
		for _, c := range pl.Changes {
			if strings.Contains(strings.Join(c.GetAfter(), "\n"), "certificate: waiting") {
				waiting++
			}
		}
		if waiting != 3 {
			t.Errorf("the plan shows %d that wait, want 3", waiting)
		}
		must(t, m.apply(p, spec))
		again, err := p.Plan(ctx, want(spec))
		must(t, err)
		if len(again.Changes) != 0 {
			t.Errorf("waiting is planned again: %v", again.Changes)
		}
		if got := strings.Join(p.Warnings(), "\n"); !strings.Contains(got, "3 names wait") {
			t.Errorf("warnings: %s", got)
		}
		p = m.provider() // a restart forgets nothing
		for _, c := range []struct {
			later time.Duration
			left  int
		}{{24 * time.Hour, 3}, {6 * 24 * time.Hour, 1}, {week, 0}} {
			m.clock.Advance(c.later)
			_, err := p.Tend(ctx)
			must(t, err)
			data, err := os.ReadFile(m.root + recordFile)
			must(t, err)
			if got := strings.Count(string(data), `"certificate":"waiting"`); got != c.left {
				t.Errorf("after %s more, %d wait, want %d", c.later, got, c.left)
			}
			must(t, p.Verify(ctx, want(spec)))
		}
		if got := p.Warnings(); len(got) != 0 {
			t.Errorf("warnings at the end: %v", got)
		}
	})
}

func TestARefusedCertificateTakesNoOtherHostWithIt(t *testing.T) {
	m := newMachine(t, DriverNPM, &providertest.Faults{})
	p := m.provider()
	m.npm.Unproven["a.example.test"] = "no valid A records found"
	spec := m.spec(site("a.example.test", 80), site("b.example.test", 80))
	if err := m.apply(p, spec); !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "no valid A records") {
		t.Errorf("got %v", err)
	}
	if got := m.npm.Dump(true); !strings.Contains(got, "b.example.test") || strings.Contains(got, "a.example.test") {
		t.Errorf("hosts: %s", got)
	}
	if got := strings.Join(p.Warnings(), "\n"); !strings.Contains(got, "a.example.test") {
		t.Errorf("warnings: %s", got)
	}
	done, err := p.Tend(context.Background())
	if err != nil || len(done) > 0 {
		t.Errorf("asked again at once: %v, %v", done, err)
	}
	delete(m.npm.Unproven, "a.example.test")
	m.clock.Advance(61 * time.Minute)
	if done, err = p.Tend(context.Background()); err != nil || !slices.Equal(done, []string{"a.example.test"}) {
		t.Errorf("an hour later: %v, %v", done, err)
	}
}

func TestNamesUnderAWildcardNeedNoCertificateOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, m *machine, p *Provider) {
		if m.npm != nil {
			m.npm.AddCertificate("*.example.test")
		} else {
			for _, f := range []string{wildcardCert, wildcardKey} {
				must(t, os.WriteFile(m.root+f, nil, 0o600))
			}
		}
		spec := m.spec(site("a.example.test", 80), site("b.example.test", 80), site("c.other.test", 80))
		spec.Wildcard, spec.CertificatesPerWeek = "example.test", 1
		must(t, m.apply(p, spec))
		data, err := os.ReadFile(m.root + recordFile)
		must(t, err)
		if n := strings.Count(string(data), `"certificate":"wildcard"`); n != 2 {
			t.Errorf("%d under the wildcard: %s", n, data)
		}
		l, err := p.readLedger()
		must(t, err)
		if got := sortedKeys(l.Certificates); !slices.Equal(got, []string{"c.other.test"}) {
			t.Errorf("queue: %v", got)
		}
	})
}

func TestDamagedQueueIsNoEmptyQueue(t *testing.T) {
	m := newMachine(t, DriverCaddy, &providertest.Faults{})
	p := m.provider()
	must(t, m.apply(p, m.spec(site("a.example.test", 80))))
	must(t, os.WriteFile(m.root+ledgerFile, []byte("{"), 0o600))
	if _, err := p.Plan(context.Background(), want(m.spec())); !errs.Is(err, errs.Precondition) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}
