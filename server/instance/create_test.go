package instance_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestCreateMakesAWorkingInstance(t *testing.T) {
	s := serving(t)
	op := s.create("acme", func(r *v1.CreateInstanceRequest) {
		r.Domains, r.Modules = []string{"erp.acme.example"}, []string{"Societe", "Facture"}
	})
	s.want(op, succeeded)
	var steps []string
	for _, st := range op.GetSteps() {
		steps = append(steps, st.GetName())
	}
	if got := strings.Join(steps, " "); got != "place secrets host install open probe names tls" {
		t.Errorf("steps %s", got)
	}
	i := s.get("acme")
	if i.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE || i.GetNode() != "srv-prod" || i.GetUrl() != "https://acme.dolibarr.projetpro.example/" ||
		i.GetSubnet() != "10.210.0.0/28" || !slices.Equal(i.GetDomains(), []string{"acme.dolibarr.projetpro.example", "erp.acme.example"}) || len(i.GetId()) != 8 {
		t.Errorf("instance %v", i)
	}
	spec := s.hosts["srv-prod"].spec.GetDolibarr()
	if len(spec.GetInstances()) != 1 || spec.GetInstances()[0].GetMode() != v1.InstanceMode_INSTANCE_MODE_RUNNING || spec.GetFront().GetPort() != 80 {
		t.Errorf("spec %v", spec)
	}
	proxied := 0
	for _, h := range s.hosts["srv-dhcp-dns"].spec.GetProxy().GetHosts() {
		if h.GetInstance() == "acme" {
			proxied++
		}
	}
	if proxied != 2 {
		t.Errorf("%d names at the proxy, want 2", proxied)
	}
	for _, ref := range spec.GetInstances()[0].GetSecrets() {
		if !strings.HasPrefix(ref.GetName(), "instance/"+i.GetId()+"/") || ref.GetVersion() == "" {
			t.Errorf("secret %v", ref)
		}
	}
}

// TestCreateDeliversTwice guards the time that a creation takes: each delivery is a rollout.
func TestCreateDeliversTwice(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	var deliveries []string
	for _, p := range s.log {
		if strings.HasPrefix(p, "deliver") {
			deliveries = append(deliveries, p)
		}
	}
	if len(deliveries) != 2 {
		t.Errorf("deliveries %q, want the closed host and the opening", deliveries)
	}
}

// TestCreateThatFailsAnywhereLeavesNothing fails each thing that the server asks of others in turn, until none is left to fail.
func TestCreateThatFailsAnywhereLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, code := range []errs.Code{errs.Precondition, errs.Exhausted, errs.Internal} {
		for n := 0; ; n++ {
			w := newWorld(t)
			var planted atomic.Value
			w.fail = func(at int, point string) error {
				if at >= 1 && at == n+1 { // the first one measures the host, before anything is accepted
					planted.Store(point)
					return errs.New(code, "planted fault at %s", point)
				}
				return nil
			}
			s := w.serve()
			op := s.create("acme")
			hit, _ := planted.Load().(string)
			if hit == "" {
				s.want(op, succeeded)
				s.stop()
				if n < 8 {
					t.Errorf("only %d points were tried", n)
				}
				break
			}
			if op.GetState() == succeeded {
				// A fault of a server that is busy, or of a Deliver that is tried again, may be waited out.
				if code != errs.Exhausted {
					t.Errorf("%s at %s: succeeded", code, hit)
				}
				s.stop()
				continue
			}
			s.want(op, failed)
			if !strings.Contains(op.GetMessage(), "planted fault") {
				t.Errorf("%s at %s: the message says %q", code, hit, op.GetMessage())
			}
			s.nothingLeft()
			s.want(s.create("acme"), succeeded)
			s.stop()
		}
	}
}

func TestTwoCreationsOfOneNameMakeOne(t *testing.T) {
	s := serving(t)
	var wg sync.WaitGroup
	ids, faults := make([]string, 8), make([]error, 8)
	for i := range ids {
		wg.Go(func() { ids[i], faults[i] = s.begin("acme") })
	}
	wg.Wait()
	ok := 0
	for i, err := range faults {
		switch {
		case err == nil:
			ok++
			s.want(s.still(ids[i]), succeeded)
		case !errs.Is(err, errs.Exists):
			t.Errorf("got %v, want that it exists", err)
		}
	}
	if ok != 1 {
		t.Errorf("%d creations were accepted", ok)
	}
	if _, err := s.begin("acme"); !errs.Is(err, errs.Exists) {
		t.Errorf("a name that is there: %v", err)
	}
}

func TestManyCreationsAtOnceAllSucceed(t *testing.T) {
	s := serving(t)
	s.slow = make(chan struct{})
	var ids []string
	for i := range 12 {
		id, err := s.begin(fmt.Sprintf("many%02d", i))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	go func() {
		for {
			select {
			case s.slow <- struct{}{}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	subnets, names := map[string]bool{}, map[string]bool{}
	for _, id := range ids {
		s.want(s.still(id), succeeded)
	}
	list, err := s.service.ListInstances(t.Context(), &v1.ListInstancesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list.GetInstances() {
		subnets[i.GetSubnet()], names[i.GetId()] = true, true
	}
	if len(subnets) != 12 || len(names) != 12 {
		t.Errorf("%d networks and %d ids for 12 instances", len(subnets), len(names))
	}
	if peak := s.hosts["srv-prod"].loadPeak; peak > 4 { // half of its eight cores
		t.Errorf("%d installations at once", peak)
	}
}

func TestRefusedBeforeAnythingHappens(t *testing.T) {
	s := serving(t)
	s.want(s.create("taken", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.taken.example"} }), succeeded)
	before := s.points
	for _, tt := range []struct {
		name   string
		change func(*v1.CreateInstanceRequest)
		code   errs.Code
		hint   string
	}{
		{"Acme", nil, errs.Invalid, "write acme"},
		{"a", nil, errs.Invalid, "small letters"},
		{"acme.example", nil, errs.Invalid, "small letters"},
		{"-acme", nil, errs.Invalid, "small letters"},
		{"acme-", nil, errs.Invalid, "small letters"},
		{"acme;rm", nil, errs.Invalid, "small letters"},
		{"../etc", nil, errs.Invalid, "small letters"},
		{strings.Repeat("a", 32), nil, errs.Invalid, "small letters"},
		{"www", nil, errs.Invalid, "another"},
		{"srv-prod", nil, errs.Invalid, "another"},
		{"grafana", nil, errs.Invalid, "another"},
		{"taken", nil, errs.Exists, "infractl instance show taken"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Version = "19" }, errs.Invalid, "all three numbers"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Version = "18.0.1" }, errs.Precondition, "infractl image build dolibarr --version 18.0.1"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.taken.example"} }, errs.Exists, "infractl instance show taken"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"x.projetpro.lab"} }, errs.Invalid, "example.org"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Node = "srv-pre-prod" }, errs.Invalid, "srv-prod"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Language = "de" }, errs.Invalid, "fr or en"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Modules = []string{"Societe;"} }, errs.Invalid, "Societe"},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Company = "a\nb" }, errs.Invalid, ""},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Limits = &v1.InstanceLimits{MemoryBytes: 1} }, errs.Invalid, ""},
		{"acme", func(r *v1.CreateInstanceRequest) { r.Limits = &v1.InstanceLimits{MemoryBytes: 60 << 30} }, errs.Exhausted, "dolibarr.prod"},
	} {
		var change []func(*v1.CreateInstanceRequest)
		if tt.change != nil {
			change = append(change, tt.change)
		}
		_, err := s.begin(tt.name, change...)
		if !errs.Is(err, tt.code) || !strings.Contains(errs.HintOf(err), tt.hint) {
			t.Errorf("%s: %v, hint %q; want %s and %q", tt.name, err, errs.HintOf(err), tt.code, tt.hint)
		}
	}
	if s.points != before {
		t.Errorf("hosts were asked for something: %q", s.log[before:])
	}
}

func TestDryRunOnlySays(t *testing.T) {
	s := serving(t)
	res, err := s.service.CreateInstance(t.Context(), &v1.CreateInstanceRequest{Name: "acme", DryRun: true})
	if err != nil || res.GetOperationId() != "" || len(res.GetPlan()) != 8 || res.GetInstance().GetNode() != "srv-prod" {
		t.Errorf("%v, %v", res, err)
	}
	s.nothingLeft()
}

func TestFullHostIsRefusedAndRoomComesBack(t *testing.T) {
	s := serving(t)
	s.host("srv-prod", func(h *host) { h.memory = 768<<20 + 600<<20 }) // room for two with half their limit
	s.want(s.create("one"), succeeded)
	s.want(s.create("two"), succeeded)
	_, err := s.begin("three")
	if !errs.Is(err, errs.Exhausted) || !strings.Contains(err.Error(), "srv-prod has promised") {
		t.Fatalf("got %v", err)
	}
	// Preproduction is another host.
	s.want(s.create("three", func(r *v1.CreateInstanceRequest) { r.Preprod = true }), succeeded)
	if got := s.get("three"); got.GetNode() != "srv-pre-prod" || !got.GetPreprod() {
		t.Errorf("instance %v", got)
	}
	s.purge("one")
	s.want(s.create("four"), succeeded)
}

func TestAbsentProxyMakesCreateFailAndLeavesNothing(t *testing.T) {
	s := serving(t)
	s.host("srv-dhcp-dns", func(h *host) { h.away = true })
	op := s.create("acme")
	s.want(op, failed)
	if !strings.Contains(op.GetMessage(), "srv-dhcp-dns") {
		t.Errorf("message %q", op.GetMessage())
	}
	s.nothingLeft()
	s.host("srv-dhcp-dns", func(h *host) { h.away = false })
	s.want(s.create("acme"), succeeded)
}

func TestRefusedDeliveriesLeaveNothing(t *testing.T) {
	s := serving(t)
	s.fail = func(_ int, point string) error {
		if strings.HasPrefix(point, "deliver") {
			return errs.New(errs.Precondition, "rollout r000001 was halted").WithHint("infractl apply")
		}
		return nil
	}
	op := s.create("acme")
	s.want(op, failed)
	if !strings.Contains(op.GetMessage(), "was halted") || op.GetHint() != "infractl apply" {
		t.Errorf("message %q, hint %q", op.GetMessage(), op.GetHint())
	}
	s.nothingLeft()
}

func TestHostThatWasNeverBroughtUpIsNotChosen(t *testing.T) {
	s := serving(t)
	s.host("srv-prod", func(h *host) { h.digest = "" })
	if _, err := s.begin("acme"); !errs.Is(err, errs.Exhausted) || !strings.Contains(err.Error(), "never brought up") {
		t.Errorf("got %v", err)
	}
}

func TestComplaintsCountOnlyWhereTheyConcern(t *testing.T) {
	for problem, ok := range map[string]bool{
		"dolibarr: instance other: the database never starts":                  true,
		"proxy: erp.other.example: no certificate":                             true,
		"containers: stack web: it does not stay up":                           true,
		"dolibarr: instance acme: the database never starts":                   false,
		"proxy: acme.dolibarr.projetpro.example: no certificate":               false,
		"proxy: Nginx Proxy Manager does not answer":                           false,
		"dns: named does not answer":                                           false,
		"containers: stack web\ndolibarr: instance acme: it does not stay up.": false,
	} {
		t.Run(problem, func(t *testing.T) {
			s := serving(t)
			s.want(s.create("other", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.other.example"} }), succeeded)
			for _, h := range s.hosts {
				h.problem = problem
			}
			op := s.create("acme")
			if got := op.GetState() == succeeded; got != ok {
				t.Errorf("succeeded %t, want %t\n%s", got, ok, describe(op))
			}
		})
	}
}

func TestWrongVersionOfTheImageIsFound(t *testing.T) {
	s := serving(t)
	s.fail = func(_ int, point string) error {
		if point == "task Probe" {
			s.mu.Lock()
			for id := range s.hosts["srv-prod"].installed {
				s.hosts["srv-prod"].installed[id] = "18.0.0"
			}
			s.mu.Unlock()
		}
		return nil
	}
	op := s.create("acme")
	s.want(op, failed)
	if !strings.Contains(op.GetMessage(), `"18.0.0"`) {
		t.Errorf("message %q", op.GetMessage())
	}
	s.nothingLeft()
}
