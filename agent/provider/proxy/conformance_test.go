package proxy

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/agent/provider/providertest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/npm/npmtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type env = providertest.Env[*v1.ProxySpec]

func drivers() []string { return []string{DriverNPM, DriverCaddy} }

// TestConformance is the one suite that both drivers pass.
func TestConformance(t *testing.T) {
	for _, driver := range drivers() {
		t.Run(driver, func(t *testing.T) {
			// The suite has its wishes before a machine is there, so the address of the API is always the same one.
			wishes := func(hosts ...*v1.ProxyHostSpec) wish {
				s := specFor(driver, nil, hosts...)
				if driver == DriverNPM {
					s.Api = "http://10.0.10.10:81"
				}
				return want(s)
			}
			internal := site("grafana.example.test", 3000, "10.0.20.0/24", "10.0.10.4/32")
			internal.Internal = true
			both := site("b.example.test", 81)
			both.Domains = append(both.Domains, "www.b.example.test")
			machines := map[string]*machine{}
			providertest.Run(t, providertest.Suite[*v1.ProxySpec]{
				New: func(t *testing.T, faults *providertest.Faults) env {
					m := newMachine(t, driver, faults)
					machines[m.root] = m
					fresh := func() provider.Provider[*v1.ProxySpec] {
						p := m.provider()
						p.cfg.API = faulty{faults, m}
						return p
					}
					return env{Root: m.root, Provider: fresh(), Restart: fresh, State: m.state, Foreign: m.foreign}
				},
				Steps: []providertest.Step[*v1.ProxySpec]{
					{Name: "two hosts", Wish: wishes(site("a.example.test", 80), internal)},
					{Name: "the same", Wish: wishes(site("a.example.test", 80), internal), NoChange: true},
					{Name: "one moves, one comes, one goes", Wish: wishes(site("a.example.test", 8080), both)},
				},
				Secrets: []string{npmtest.Password},
				Drifts: []providertest.Drift[*v1.ProxySpec]{
					{Name: "a host was changed", Do: func(t *testing.T, e env) {
						if m := machines[e.Root]; m.npm != nil {
							m.npm.Change("a.example.test", "forward_port", 9.0)
						} else {
							m.caddy.loaded = strings.ReplaceAll(m.caddy.loaded, "10.0.10.20:8080", "10.0.10.20:9")
						}
					}},
					{Name: "a host was removed", Do: func(t *testing.T, e env) {
						if m := machines[e.Root]; m.npm != nil {
							m.npm.Drop("a.example.test")
						} else {
							must(t, os.Remove(e.Root+caddyConf))
						}
					}},
				},
				Refusals: []providertest.Refusal[*v1.ProxySpec]{
					{Name: "upper case", Code: errs.Invalid, Wish: wishes(site("A.example.test", 80))},
					{Name: "one name twice", Code: errs.Invalid, Wish: wishes(site("a.example.test", 80), site("a.example.test", 81))},
					{Name: "target with a path", Code: errs.Invalid, Wish: wishes(&v1.ProxyHostSpec{Domains: []string{"a.test"}, Target: "http://x:80/y"})},
					{Name: "allow that is no prefix", Code: errs.Invalid, Wish: wishes(site("a.test", 80, "all"))},
					{Name: "unknown driver", Code: errs.Invalid, Wish: want(&v1.ProxySpec{Driver: "apache"})},
					{Name: "somebody else's", Code: map[string]errs.Code{DriverNPM: errs.Exists, DriverCaddy: errs.Precondition}[driver],
						Wish: wishes(site("foreign.example.test", 80)), Prepare: func(t *testing.T, e env) {
							if m := machines[e.Root]; m.caddy != nil {
								m.caddy.changed = true
							}
						}},
				},
				Ignore:    []string{"var/lib/infractl/proxy/certificates.json", "var/lib/infractl/proxy/api-password"},
				MaxFaults: 8,
			})
		})
	}
}

func each(t *testing.T, test func(t *testing.T, m *machine, p *Provider)) {
	for _, driver := range drivers() {
		t.Run(driver, func(t *testing.T) {
			m := newMachine(t, driver, &providertest.Faults{})
			test(t, m, m.provider())
		})
	}
}

func TestHostsOfOthersStay(t *testing.T) {
	each(t, func(t *testing.T, m *machine, p *Provider) {
		before, err := m.foreign()
		must(t, err)
		must(t, m.apply(p, m.spec(site("a.example.test", 80))))
		must(t, m.apply(p, m.spec()))
		after, err := m.foreign()
		must(t, err)
		if before != after {
			t.Errorf("foreign hosts:\n%s\nbecame\n%s", before, after)
		}
	})
}

func TestNameOfAnInstanceThatOthersServeHoldsNoOtherBack(t *testing.T) {
	m := newMachine(t, DriverNPM, &providertest.Faults{})
	p := m.provider()
	before, err := m.foreign()
	must(t, err)
	adopted := site("foreign.example.test", 80)
	adopted.Instance = "foreign"
	spec := m.spec(adopted, site("a.example.test", 80))
	for range 2 {
		if err := m.apply(p, spec); !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "foreign.example.test is served by") {
			t.Errorf("applied: %v", err)
		}
	}
	if got, err := m.foreign(); err != nil || got != before {
		t.Errorf("the host of others became %s, %v", got, err)
	}
	pl, err := p.Plan(context.Background(), want(spec))
	if err != nil || len(pl.Changes) != 1 || pl.Changes[0].GetSubject() != "foreign.example.test" {
		t.Errorf("planned %v, %v", pl.Changes, err)
	}
	if err := p.Verify(context.Background(), want(spec)); !errs.Is(err, errs.RolledBack) {
		t.Errorf("verified: %v", err)
	}
	m.npm.Drop("foreign.example.test")
	must(t, m.apply(p, spec))
	must(t, p.Verify(context.Background(), want(spec)))
}

func TestPlanShowsWhatDiffersAndNothingElse(t *testing.T) {
	each(t, func(t *testing.T, m *machine, p *Provider) {
		must(t, m.apply(p, m.spec(site("a.example.test", 80), site("b.example.test", 80), site("c.example.test", 80))))
		pl, err := p.Plan(context.Background(), want(m.spec(site("a.example.test", 80), site("b.example.test", 81))))
		must(t, err)
		var got []string
		for _, c := range pl.Changes {
			got = append(got, strings.ToLower(strings.TrimPrefix(c.GetAction().String(), "CHANGE_ACTION_"))+" "+c.GetSubject())
		}
		if text := strings.Join(got, ", "); text != "update b.example.test, delete c.example.test" {
			t.Errorf("planned: %s", text)
		}
	})
}

func TestVerifySeesWhatIsNotServed(t *testing.T) {
	each(t, func(t *testing.T, m *machine, p *Provider) {
		spec := m.spec(site("a.example.test", 80))
		must(t, m.apply(p, spec))
		m.plain.Close()
		if err := p.Verify(context.Background(), want(spec)); !errs.Is(err, errs.Unavailable) || errs.HintOf(err) == "" {
			t.Errorf("got %v", err)
		}
	})
}

func TestCaddyKeepsItsConfigurationWhenANewOneIsBad(t *testing.T) {
	m := newMachine(t, DriverCaddy, &providertest.Faults{})
	p := m.provider()
	bad := site("b.example.test", 80)
	bad.Target = "10.66.66.66:80" // what the fake refuses
	if err := m.apply(p, m.spec(bad)); err == nil || m.caddy.loaded != "" {
		t.Errorf("a first bad one: %v", err)
	}
	must(t, m.apply(p, m.spec(site("a.example.test", 80))))
	before, err := m.state()
	must(t, err)
	file, err := os.ReadFile(m.root + caddyConf)
	must(t, err)
	if err := m.apply(p, m.spec(bad)); !errs.Is(err, errs.Invalid) {
		t.Errorf("a bad one: %v", err)
	}
	after, err := m.state()
	must(t, err)
	now, err := os.ReadFile(m.root + caddyConf)
	must(t, err)
	if before != after || string(file) != string(now) {
		t.Error("the old configuration is not in force any more")
	}
}

func TestRollbackToAnUnknownStateRemovesNothing(t *testing.T) {
	m := newMachine(t, DriverNPM, &providertest.Faults{})
	p, ctx := m.provider(), context.Background()
	must(t, m.apply(p, m.spec(site("a.example.test", 80))))
	m.npm.Lock()
	m.npm.Down = true
	m.npm.Unlock()
	pl, err := p.Plan(ctx, want(m.spec(site("a.example.test", 81))))
	must(t, err)
	snapshot, err := p.Snapshot(ctx, pl)
	must(t, err)
	m.npm.Lock()
	m.npm.Down = false
	m.npm.Unlock()
	must(t, p.Rollback(ctx, snapshot))
	if got := m.npm.Dump(true); !strings.Contains(got, "a.example.test") {
		t.Error("hosts that nobody had looked at were deleted")
	}
}

func TestAHostThatNginxRefusesTakesNoOtherWithIt(t *testing.T) {
	m := newMachine(t, DriverNPM, &providertest.Faults{})
	m.npm.Refused["a.example.test"] = "nginx: [emerg] no"
	err := m.apply(m.provider(), m.spec(site("a.example.test", 80), site("b.example.test", 80)))
	if !errs.Is(err, errs.RolledBack) || !strings.Contains(err.Error(), "[emerg]") { // else the engine would take b back too
		t.Errorf("got %v", err)
	}
	if got := m.npm.Dump(true); !strings.Contains(got, "b.example.test") || strings.Contains(got, "a.example.test") {
		t.Errorf("hosts: %s", got)
	}
}
