package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	mdns "github.com/miekg/dns"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/internal/zone"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

const file = `
site: corp
domain: corp.lab
public_domain: corp.example
public_address: 203.0.113.80
ntp: [203.0.113.3]
networks:
  lan: {cidr: 10.0.10.0/24}
nodes:
  relay: {role: relay, address: 10.0.10.4}
  srv: {role: services, address: 10.0.10.10}
server: {nodes: [relay]}
flows:
  - {name: bastion, from: relay, to: all, ports: [ssh]}
  - {name: admin, from: lan, to: relay, ports: [ssh]}
ssh: {users: [op]}
accounts:
  op: {sudo: true, ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO9QDrqAzMuTQRjqNMTgL/tfdiWp0SM7NcpVt6tSUKIU op"]}
dns: {primary: srv, forwarders: [203.0.113.1]}
proxy: {driver: caddy, node: srv, domain: erp.corp.example}
`

const running = v1.InstanceMode_INSTANCE_MODE_RUNNING

func loadSite(t *testing.T, change ...string) *site.Site {
	t.Helper()
	s, findings := site.Load(site.Source{File: "site.yaml", Content: []byte(strings.NewReplacer(change...).Replace(file))})
	if s == nil {
		t.Fatalf("refused: %v", findings)
	}
	return s
}

type rig struct {
	store  store.Store
	clock  *clock.Fake
	keeper *Keeper
	specs  map[string]*v1.HostSpec
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Clock: r.clock, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r.store, r.keeper = s, NewKeeper(s, r.clock)
	return r
}

// HostSpecs implements Wanted.
func (r *rig) HostSpecs(context.Context) (map[string]*v1.HostSpec, error) { return r.specs, nil }

// serial derives a revision and returns the serial of a zone.
func (r *rig) serial(t *testing.T, revision uint64, s *site.Site, res site.Resources, name string) uint32 {
	t.Helper()
	specs, err := s.HostSpecs(res)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.keeper.Serials(t.Context(), revision, s, res, specs); err != nil {
		t.Fatal(err)
	}
	r.specs = specs
	for _, z := range specs["srv"].GetDns().GetZones() {
		if z.GetName() == name {
			return z.GetSerial()
		}
	}
	t.Fatalf("there is no zone %s", name)
	return 0
}

func TestSerialsGrowWithTheContentAlone(t *testing.T) {
	r := newRig(t)
	first, second := loadSite(t), loadSite(t, "  srv: {", "  web: {role: prod, address: 10.0.10.20}\n  srv: {")
	views := loadSite(t, "dns: {", "dns: {views: true, ")
	none, one := site.Resources{}, site.Resources{Instances: []site.Instance{{Mode: running, Name: "a", Node: "web"}}}
	day2 := func() { r.clock.Advance(24 * time.Hour) }
	for _, step := range []struct {
		name     string
		before   func()
		revision uint64
		site     *site.Site
		res      site.Resources
		zone     string
		want     uint32
	}{
		{"a plan before anything is stored", nil, 0, first, none, "corp.lab", 2026112400},
		{"the first revision", nil, 1, first, none, "corp.lab", 2026112400},
		{"the same content, another revision", nil, 2, first, none, "corp.lab", 2026112400},
		{"a plan of another content", nil, 0, second, none, "corp.lab", 2026112401},
		{"the plan again: nothing was stored", nil, 0, second, none, "corp.lab", 2026112401},
		{"another content", nil, 3, second, none, "corp.lab", 2026112401},
		{"the old revision, as it was", nil, 1, first, none, "corp.lab", 2026112400},
		{"the newest, still", nil, 3, second, none, "corp.lab", 2026112401},
		{"back to the first content is one more", nil, 4, first, none, "corp.lab", 2026112402},
		{"a new day changes nothing", day2, 4, first, none, "corp.lab", 2026112402},
		{"an instance is not in this zone", nil, 4, first, one, "corp.lab", 2026112402},
		{"an instance came on the new day", nil, 4, first, one, "erp.corp.example", 2026112500},
		{"an instance went", nil, 4, first, none, "erp.corp.example", 2026112501},
		{"a change on the new day", nil, 5, second, none, "corp.lab", 2026112500},
		{"views, and the first content", nil, 6, views, none, "corp.lab", 2026112501},
		{"the outside view", nil, 6, views, none, "corp.example", 2026112500},
		{"no views again", nil, 7, first, none, "corp.lab", 2026112501},
	} {
		if step.before != nil {
			step.before()
		}
		if got := r.serial(t, step.revision, step.site, step.res, step.zone); got != step.want {
			t.Errorf("%s: got %d, want %d", step.name, got, step.want)
		}
	}
}

func TestContentsGoToNodesThatNameThem(t *testing.T) {
	r := newRig(t)
	s := loadSite(t)
	r.serial(t, 1, s, site.Resources{}, "corp.lab")
	former := r.specs["srv"].GetDns().GetZones()
	r.serial(t, 1, s, site.Resources{Instances: []site.Instance{{Mode: running, Name: "a"}}}, "corp.lab")
	c := NewContents(r.keeper, r)
	fetch := func(node, digest string) (string, error) {
		var text []byte
		err := c.Fetch(t.Context(), node, &v1.FetchContentRequest{Digest: digest}, func(m *v1.FetchContentResponse) error {
			text = append(text, m.GetData()...)
			return nil
		})
		return string(text), err
	}
	for _, z := range append(former, r.specs["srv"].GetDns().GetZones()...) {
		text, err := fetch("srv", z.GetContentDigest())
		if err != nil || zone.Digest([]byte(text)) != z.GetContentDigest() {
			t.Errorf("zone %s: %v", z.GetName(), err)
		}
		if _, err := fetch("relay", z.GetContentDigest()); !errs.Is(err, errs.Denied) {
			t.Errorf("another node gets zone %s: %v", z.GetName(), err)
		}
	}
	if _, err := fetch("srv", "sha256:"+strings.Repeat("0", 64)); !errs.Is(err, errs.Denied) {
		t.Errorf("an unknown content: %v", err)
	}
	if _, err := fetch("srv", "sha256:../../x"); !errs.Is(err, errs.Invalid) {
		t.Errorf("no digest: %v", err)
	}
	// What changed a moment ago stays: a name server may still be at it. Then contents that no zone remembers go.
	for i := range remembered + 3 {
		r.serial(t, 1, s, site.Resources{Instances: []site.Instance{{Mode: running, Name: fmt.Sprintf("b%d", i)}}}, "corp.lab")
	}
	kept := func() int {
		list, err := r.store.List(t.Context(), KindContent, store.ListOptions{NamesOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := kept(); n < remembered+3 {
		t.Errorf("%d contents are kept of %d fresh ones", n, remembered+3)
	}
	r.clock.Advance(time.Hour)
	r.serial(t, 1, s, site.Resources{Instances: []site.Instance{{Mode: running, Name: "later"}}}, "corp.lab")
	if n := kept(); n > 2+remembered {
		t.Errorf("%d contents are kept", n)
	}
}

// Load implements Sites.
func (f fixed) Load(context.Context, uint64) (*site.Site, uint64, error) { return f.site, 1, nil }

// Check implements Sites.
func (f fixed) Check(src *v1.SiteSource) (*site.Site, []*v1.Finding, error) {
	s, findings := site.Load(site.SourceFromProto(src))
	return s, findings, nil
}

// Present implements Sites.
func (f fixed) Present(context.Context) (site.Resources, error) { return f.res, nil }

type fixed struct {
	site *site.Site
	res  site.Resources
}

func TestChecksCompareAnswers(t *testing.T) {
	f := fixed{loadSite(t), site.Resources{Instances: []site.Instance{{Mode: running, Name: "a", Node: "srv"}}}}
	wrong := map[string]string{"relay.corp.lab": "10.6.6.6"}
	refuse := false
	exchange := func(_ context.Context, m *mdns.Msg, _ string) (*mdns.Msg, error) {
		a := new(mdns.Msg)
		a.SetReply(m)
		if refuse {
			a.Rcode = mdns.RcodeRefused
			return a, nil
		}
		for _, r := range f.site.DNSRecords(f.res, m.RecursionDesired) {
			if mdns.Fqdn(r.GetName()) == m.Question[0].Name && mdns.StringToType[r.GetType()] == m.Question[0].Qtype {
				value := r.GetValue()
				if w := wrong[r.GetName()]; w != "" {
					value = w
				}
				if _, err := netip.ParseAddr(value); err != nil {
					value = mdns.Fqdn(value)
				}
				rr, err := mdns.NewRR(fmt.Sprintf("%s 60 IN %s %s", mdns.Fqdn(r.GetName()), r.GetType(), value))
				if err != nil {
					return nil, err
				}
				a.Answer = append(a.Answer, rr)
			}
		}
		return a, nil
	}
	s := NewService(Config{Sites: f, Exchange: zonetest.Exchange(exchange)})
	resp, err := s.CheckRecords(t.Context(), &v1.CheckRecordsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetBad() != 1 || resp.GetGood() != 7 || resp.GetChecks()[0].GetProblem() != "it is 10.6.6.6" || resp.GetChecks()[0].GetServer() != "10.0.10.10" {
		t.Errorf("got %v", resp)
	}
	resp, err = s.CheckRecords(t.Context(), &v1.CheckRecordsRequest{Public: true})
	if err != nil || resp.GetGood() != 1 || resp.GetBad() != 0 || resp.GetChecks()[0].GetServer() != "203.0.113.1" {
		t.Errorf("public: %v, %v", resp, err)
	}
	refuse = true
	resp, err = s.CheckRecords(t.Context(), &v1.CheckRecordsRequest{})
	if err != nil || resp.GetGood() != 0 || !strings.Contains(resp.GetChecks()[0].GetProblem(), "REFUSED") {
		t.Errorf("refused: %v, %v", resp, err)
	}
	list, err := s.ListRecords(t.Context(), &v1.ListRecordsRequest{Source: &v1.SiteSource{File: "x", Content: []byte("site: [")}})
	if !errs.Is(err, errs.Invalid) {
		t.Errorf("a broken file: %v, %v", list, err)
	}
	list, err = s.ListRecords(t.Context(), &v1.ListRecordsRequest{Source: &v1.SiteSource{File: "x", Content: []byte(file)}, Public: true})
	if err != nil || len(list.GetRecords()) != 1 || list.GetRecords()[0].GetValue() != "203.0.113.80" {
		t.Errorf("got %v, %v", list, err)
	}
}
