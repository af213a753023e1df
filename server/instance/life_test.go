package instance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (s *server) ended(id string, err error) *v1.Operation {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v (%s)", err, errs.HintOf(err))
	}
	op := s.still(id)
	s.want(op, succeeded)
	return op
}

func (s *server) suspend(name string) {
	s.t.Helper()
	res, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: name})
	s.ended(res.GetOperationId(), err)
}

func (s *server) remove(name string, days uint32) {
	s.t.Helper()
	res, err := s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: name, KeepDays: &days})
	s.ended(res.GetOperationId(), err)
}

func (s *server) purge(name string) {
	s.t.Helper()
	s.remove(name, 21)
	res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: name, Early: true})
	s.ended(res.GetOperationId(), err)
}

func TestLifeOfAnInstance(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	state := func(want v1.InstanceState, mode v1.InstanceMode) {
		t.Helper()
		i := s.get("acme")
		got := s.hosts["srv-prod"].spec.GetDolibarr().GetInstances()[0].GetMode()
		if i.GetState() != want || got != mode {
			t.Errorf("%v on the host %v; want %v, %v", i.GetState(), got, want, mode)
		}
	}
	s.suspend("acme")
	state(v1.InstanceState_INSTANCE_STATE_SUSPENDED, v1.InstanceMode_INSTANCE_MODE_SUSPENDED)
	if s.get("acme").GetSuspendedAt() == nil {
		t.Error("no time of suspension")
	}
	if _, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: "acme"}); !errs.Is(err, errs.Precondition) {
		t.Errorf("suspended twice: %v", err)
	}
	if _, err := s.service.RestartInstance(ctx(), &v1.RestartInstanceRequest{Name: "acme"}); !errs.Is(err, errs.Precondition) {
		t.Errorf("restarted while suspended: %v", err)
	}
	res, err := s.service.ResumeInstance(ctx(), &v1.ResumeInstanceRequest{Name: "acme"})
	s.ended(res.GetOperationId(), err)
	state(v1.InstanceState_INSTANCE_STATE_ACTIVE, v1.InstanceMode_INSTANCE_MODE_RUNNING)
	again, err := s.service.RestartInstance(ctx(), &v1.RestartInstanceRequest{Name: "acme"})
	s.ended(again.GetOperationId(), err)
	state(v1.InstanceState_INSTANCE_STATE_ACTIVE, v1.InstanceMode_INSTANCE_MODE_RUNNING)
	if s.get("acme").GetSuspendedAt() != nil {
		t.Error("still a time of suspension")
	}
	if _, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme", Early: true}); !errs.Is(err, errs.Precondition) {
		t.Errorf("purged without a deletion: %v", err)
	}
	s.remove("acme", 21)
	state(v1.InstanceState_INSTANCE_STATE_ARCHIVED, v1.InstanceMode_INSTANCE_MODE_ARCHIVED)
	if got := s.get("acme").GetPurgeAfter().AsTime(); !got.Equal(s.clock.Now().Add(21 * 24 * time.Hour)) {
		t.Errorf("purged after %s", got)
	}
	if _, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme"}); !errs.Is(err, errs.Precondition) || !strings.Contains(errs.HintOf(err), "--early") {
		t.Errorf("purged before its time: %v", err)
	}
	back, err := s.service.ResumeInstance(ctx(), &v1.ResumeInstanceRequest{Name: "acme"})
	s.ended(back.GetOperationId(), err)
	if got := s.get("acme"); got.GetPurgeAfter() != nil {
		t.Errorf("still to be purged: %v", got)
	}
}

func TestPurgeLeavesOnlyACertificate(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.acme.example"} }), succeeded)
	id := s.get("acme").GetId()
	s.purge("acme")
	res, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "acme"})
	if err != nil || res.GetInstance().GetState() != v1.InstanceState_INSTANCE_STATE_PURGED {
		t.Fatalf("%v, %v", res, err)
	}
	text := res.GetDestructionCertificate()
	for _, want := range []string{"CERTIFICATE OF DESTRUCTION", "CERTIFICAT DE DESTRUCTION", "acme", id, "Acme SARL", "erp.acme.example", "srv-prod",
		"volume infractl-" + id + "-data", "Inventory before", "signed", "2030-01-01"} {
		if !strings.Contains(text, want) {
			t.Errorf("the certificate lacks %q:\n%s", want, text)
		}
	}
	if res.GetInstance().GetCompany() != "" || len(res.GetInstance().GetDomains()) > 0 {
		t.Errorf("kept beside the certificate: %v", res.GetInstance())
	}
	for _, kept := range []string{"secret", "secret.value", "instance.name", "instance.subnet"} {
		if list := s.records(kept); len(list) > 0 {
			t.Errorf("%s: %v", kept, list)
		}
	}
	s.mu.Lock()
	if h := s.hosts["srv-prod"]; len(h.have) > 0 || len(h.spec.GetDolibarr().GetInstances()) > 0 {
		t.Errorf("the host has %v", h.have)
	}
	s.mu.Unlock()
	if list, _ := s.service.ListInstances(ctx(), &v1.ListInstancesRequest{}); len(list.GetInstances()) > 0 {
		t.Errorf("listed: %v", list)
	}
	if list, _ := s.service.ListInstances(ctx(), &v1.ListInstancesRequest{All: true}); len(list.GetInstances()) != 1 {
		t.Errorf("not listed with all: %v", list)
	}
	// The name and the network are free, the id is not.
	s.want(s.create("acme"), succeeded)
	if got := s.get("acme"); got.GetId() == id || got.GetSubnet() != "10.210.0.0/28" {
		t.Errorf("instance %v", got)
	}
}

func TestNothingIsReusedWhileSomethingIsLeft(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.remove("acme", 21)
	// The host is away: nothing can be destroyed, so nothing is given back.
	s.host("srv-prod", func(h *host) { h.away = true })
	res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme", Early: true})
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("some tries", func() bool {
		op, err := s.engine.Get(ctx(), res.GetOperationId())
		return err == nil && op.GetSteps()[0].GetAttempts() > 2
	})
	s.want(s.create("other", func(r *v1.CreateInstanceRequest) { r.Preprod = true }), succeeded)
	if got := s.get("other").GetSubnet(); got == "10.210.0.0/28" {
		t.Errorf("the network of what is still there was given to another")
	}
	if _, err := s.begin("acme", func(r *v1.CreateInstanceRequest) { r.Preprod = true }); !errs.Is(err, errs.Exists) {
		t.Errorf("the name of what is still there: %v", err)
	}
	s.host("srv-prod", func(h *host) { h.away = false })
	s.want(s.still(res.GetOperationId()), succeeded)
}

func TestPurgeWaitsForThePublicNameServer(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.registrarAway.Store(3)
	s.purge("acme")
	if got := s.retracted.Load(); got != 1 {
		t.Errorf("public records were removed %d times", got)
	}
	if s.registrarAway.Load() >= 0 {
		t.Error("it was certified although the names were public still")
	}
}

func TestPurgeThatLeavesSomethingIsNotCertified(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	id := s.get("acme").GetId()
	s.remove("acme", 21)
	s.host("srv-prod", func(h *host) {
		h.foreign = []*v1.FoundInstance{{Kind: "volume", Name: "infractl-" + id + "-data", Id: id}}
	})
	res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme", Early: true})
	if err != nil {
		t.Fatal(err)
	}
	op := s.still(res.GetOperationId())
	if op.GetState() != v1.OperationState_OPERATION_STATE_HALTED || !strings.Contains(op.GetMessage(), "still has volume infractl-"+id+"-data") {
		t.Fatalf("%s", describe(op))
	}
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN {
		t.Errorf("shown as %v", got.GetState())
	}
	s.host("srv-prod", func(h *host) { h.foreign = nil })
	if _, err := s.engine.Retry(ctx(), op.GetId(), "anna"); err != nil {
		t.Fatal(err)
	}
	s.want(s.still(op.GetId()), succeeded)
}

func TestConfigureChangesWhatIsSet(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.acme.example"} }), succeeded)
	off := false
	res, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "acme", Cron: &off, Language: "en",
		Limits: &v1.InstanceLimits{MemoryBytes: 1 << 30}, AddDomains: []string{"shop.acme.example"}, RemoveDomains: []string{"erp.acme.example"}})
	s.ended(res.GetOperationId(), err)
	i, spec := s.get("acme"), s.hosts["srv-prod"].spec.GetDolibarr().GetInstances()[0]
	if i.GetCron() || i.GetLanguage() != "en" || i.GetLimits().GetMemoryBytes() != 1<<30 || i.GetLimits().GetPids() != 256 ||
		!slices.Equal(i.GetDomains(), []string{"acme.dolibarr.projetpro.example", "shop.acme.example"}) {
		t.Errorf("instance %v", i)
	}
	if spec.GetCron() || spec.GetLimits().GetMemoryBytes() != 1<<30 || !slices.Equal(spec.GetDomains(), i.GetDomains()) {
		t.Errorf("spec %v", spec)
	}
	for name, req := range map[string]*v1.ConfigureInstanceRequest{
		"default name":   {RemoveDomains: []string{"acme.dolibarr.projetpro.example"}},
		"unknown name":   {RemoveDomains: []string{"x.example"}},
		"language":       {Language: "de"},
		"too small":      {Limits: &v1.InstanceLimits{MemoryBytes: 1}},
		"an inside name": {AddDomains: []string{"acme.projetpro.lab"}},
	} {
		req.Name = "acme"
		if _, err := s.service.ConfigureInstance(ctx(), req); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "acme", Limits: &v1.InstanceLimits{MemoryBytes: 60 << 30}}); !errs.Is(err, errs.Exhausted) {
		t.Errorf("more than the host has: %v", err)
	}
	s.want(s.create("beta"), succeeded)
	if _, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "beta", AddDomains: []string{"shop.acme.example"}}); !errs.Is(err, errs.Exists) {
		t.Errorf("another's name: %v", err)
	}
}

func TestChangeThatFailsIsTakenBack(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.host("srv-prod", func(h *host) { h.away = true })
	res, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	s.want(s.still(res.GetOperationId()), failed)
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE || got.GetSuspendedAt() != nil {
		t.Errorf("instance %v", got)
	}
	renamed, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "beta"})
	if err != nil {
		t.Fatal(err)
	}
	s.want(s.still(renamed.GetOperationId()), failed)
	if got := s.get("acme"); got.GetName() != "acme" || got.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE {
		t.Errorf("instance %v", got)
	}
	s.host("srv-prod", func(h *host) { h.away = false })
	s.want(s.create("beta"), succeeded)
}

func TestRenameKeepsEverythingElse(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme", func(r *v1.CreateInstanceRequest) { r.Domains = []string{"erp.acme.example"} }), succeeded)
	s.want(s.create("other"), succeeded)
	before := s.get("acme")
	for name, code := range map[string]errs.Code{"other": errs.Exists, "Beta": errs.Invalid, "www": errs.Invalid} {
		if _, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: name}); !errs.Is(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	res, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "beta"})
	s.ended(res.GetOperationId(), err)
	now := s.get("beta")
	if now.GetId() != before.GetId() || now.GetSubnet() != before.GetSubnet() ||
		!slices.Equal(now.GetDomains(), []string{"beta.dolibarr.projetpro.example", "erp.acme.example"}) {
		t.Errorf("instance %v", now)
	}
	if _, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "acme"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("the former name: %v", err)
	}
	s.want(s.create("acme"), succeeded)
}

func TestPasswordIsShownOnceThenReplaced(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	ask := func() string {
		t.Helper()
		res, err := s.service.ResetPassword(ctx(), &v1.ResetPasswordRequest{Name: "acme"})
		if err != nil || res.GetLogin() != "admin" || len(res.GetPassword()) != 24 {
			t.Fatalf("%v, %v", res.GetLogin(), err)
		}
		return res.GetPassword()
	}
	id := s.get("acme").GetId()
	first := ask()
	if got := s.hosts["srv-prod"].passwords[id]; got != "" {
		t.Error("the first password was set anew")
	}
	second := ask()
	if first == second || s.hosts["srv-prod"].passwords[id] == "" {
		t.Error("the second password is not a new one that was set")
	}
	for _, kind := range []string{"operation", "instance", "task"} {
		for _, data := range s.records(kind) {
			if strings.Contains(data, first) || strings.Contains(data, second) {
				t.Errorf("a record of kind %s holds the password", kind)
			}
		}
	}
	s.suspend("acme")
	if _, err := s.service.ResetPassword(ctx(), &v1.ResetPasswordRequest{Name: "acme"}); !errs.Is(err, errs.Precondition) {
		t.Errorf("while suspended: %v", err)
	}
}

func TestModulesAreSetOnTheHost(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	res, err := s.service.SetModules(ctx(), &v1.SetModulesRequest{Name: "acme", Enable: []string{"Facture"}})
	if err != nil || !slices.Equal(res.GetModules(), []string{"Facture"}) || !slices.Equal(s.get("acme").GetModules(), []string{"Facture"}) {
		t.Errorf("%v, %v", res, err)
	}
	for _, req := range []*v1.SetModulesRequest{{Enable: []string{"a b"}}, {Enable: []string{"Facture"}, Disable: []string{"Facture"}}} {
		req.Name = "acme"
		if _, err := s.service.SetModules(ctx(), req); !errs.Is(err, errs.Invalid) {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestOneOperationAtATime(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	release := make(chan struct{})
	s.mu.Lock()
	s.fail = func(_ int, point string) error {
		if strings.HasPrefix(point, "deliver") {
			<-release
		}
		return nil
	}
	s.mu.Unlock()
	res, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get("acme").GetState(); got != v1.InstanceState_INSTANCE_STATE_CHANGING {
		t.Errorf("shown as %v", got)
	}
	_, err = s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: "acme"})
	if !errs.Is(err, errs.Conflict) || !strings.Contains(errs.HintOf(err), res.GetOperationId()) {
		t.Errorf("got %v, hint %q", err, errs.HintOf(err))
	}
	close(release)
	s.want(s.still(res.GetOperationId()), succeeded)
}

func TestUnknownInstances(t *testing.T) {
	s := serving(t)
	for _, name := range []string{"nobody", "", strings.Repeat("x", 300), "a\x00b"} {
		if _, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: name}); !errs.Is(err, errs.NotFound) {
			t.Errorf("%.20q: %v", name, err)
		}
		if _, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: name}); !errs.Is(err, errs.NotFound) {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}
