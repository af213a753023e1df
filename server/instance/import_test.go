package instance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (s *server) beginImport(names ...string) (string, error) {
	res, err := s.service.ImportInstances(ctx(), &v1.ImportInstancesRequest{Node: "srv-prod", Names: names})
	return res.GetOperationId(), err
}

func (s *server) adopt(names ...string) {
	s.t.Helper()
	id, err := s.beginImport(names...)
	s.ended(id, err)
}

// parts are what is there of a client that infractl did not make.
func (h *host) parts() (out []string) {
	for _, f := range h.foreign {
		out = append(out, strings.TrimSpace(f.GetKind()+" "+f.GetName()+" "+f.GetState()))
	}
	return out
}

func (h *host) part(name string) *v1.FoundInstance {
	return h.foreign[slices.IndexFunc(h.foreign, func(f *v1.FoundInstance) bool { return f.GetName() == name })]
}

func TestImportShowsFirstWhatItWouldDo(t *testing.T) {
	s := serving(t)
	h := s.hosts["srv-prod"]
	for _, name := range []string{"dupont", "half", "Old", "lonely", "away", "mixed"} {
		h.client(name)
	}
	h.foreign = slices.DeleteFunc(h.foreign, func(f *v1.FoundInstance) bool { return f.GetName() == "half_mariadb" })
	h.part("lonely_dolibarr").Details["networks"] = "bridge"
	h.part("/working_dir/clients/away").Details["elsewhere"] = "/working_dir/clients"
	h.part("mixed_mariadb").State = "exited"
	h.part("dupont_dolibarr").Details["writes"] = "/working_dir/clients/dupont/www /srv/dupont"
	before := h.parts()
	preview, err := s.service.ImportInstances(ctx(), &v1.ImportInstancesRequest{Node: "srv-prod"})
	if err != nil || preview.GetOperationId() != "" || !slices.Equal(h.parts(), before) {
		t.Fatalf("%v, %v", preview, err)
	}
	says := map[string]string{"Old": "write old", "away": "move it there", "dupont": "a purge waits until that is removed", "half": "half_mariadb is missing",
		"lonely": "docker network connect lonely_network lonely_dolibarr", "mixed": "start both, or stop both"}
	for _, c := range preview.GetCandidates() {
		text := strings.Join(c.GetProblems(), "\n")
		if c.GetReady() != (c.GetName() == "dupont") || !strings.Contains(text, says[c.GetName()]) && c.GetName() != "Old" {
			t.Errorf("%s: ready %t: %s", c.GetName(), c.GetReady(), text)
		}
		if c.GetReady() {
			plan := strings.Join(c.GetPlan(), "\n")
			for _, want := range []string{"none is made, changed or restarted", "joins dupont_network", "dupont.dolibarr.projetpro.example"} {
				if !strings.Contains(plan, want) {
					t.Errorf("the plan says nothing of %q:\n%s", want, plan)
				}
			}
			if !strings.Contains(text, "has a host for dupont.dolibarr.projetpro.example that infractl did not make") || strings.Contains(text, "/www") {
				t.Errorf("problems:\n%s", text)
			}
		}
	}
	for name, code := range map[string]errs.Code{"half": errs.Precondition, "nobody": errs.NotFound} {
		if _, err := s.beginImport("dupont", name); !errs.Is(err, code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.service.ImportInstances(ctx(), &v1.ImportInstancesRequest{Node: "client-relay"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("a node without instances: %v", err)
	}
	delete(s.image, frontImage)
	if _, err := s.beginImport("dupont"); !errs.Is(err, errs.Precondition) || !strings.Contains(errs.HintOf(err), "image build front") {
		t.Errorf("without a front: %v", err)
	}
}

func TestLifeOfAnAdoptedInstance(t *testing.T) {
	s := serving(t)
	h := s.hosts["srv-prod"]
	h.client("dupont")
	before := h.parts()
	s.adopt("dupont")
	i := s.get("dupont")
	if i.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE || i.GetVersion() != "15.0.3" || !i.GetAdopted() || i.GetLimits().GetMemoryBytes() != 0 ||
		i.GetUrl() != "https://dupont.dolibarr.projetpro.example/" || i.GetAdminLogin() != "InfraS" {
		t.Errorf("instance %v", i)
	}
	if !slices.Equal(h.parts(), before) {
		t.Errorf("parts %q became %q", before, h.parts())
	}
	spec := h.spec.GetDolibarr().GetInstances()[0]
	if a := spec.GetAdopted(); a.GetAppContainer() != "dupont_dolibarr" || a.GetFolder() != "/working_dir/clients/dupont" || !slices.Equal(a.GetVolumes(), []string{"dupont_data"}) ||
		spec.GetLimits().GetMemoryBytes() != 0 || len(spec.GetSecrets()) > 0 {
		t.Errorf("the host is told %v", spec)
	}
	if got := s.auditOf(); len(got) > 0 {
		t.Errorf("the audit finds %q", got)
	}
	if _, err := s.begin("dupont"); !errs.Is(err, errs.Exists) {
		t.Errorf("its name: %v", err)
	}
	for name, call := range map[string]func() error{
		"rename": func() error {
			_, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "dupont", NewName: "durand"})
			return err
		},
		"cron": func() error {
			on := true
			_, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "dupont", Cron: &on})
			return err
		},
		"disk space": func() error {
			_, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "dupont", Limits: &v1.InstanceLimits{DiskBytes: 10 << 30}})
			return err
		},
		"purge without a deletion": func() error {
			_, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "dupont", Early: true})
			return err
		},
	} {
		if err := call(); !errs.Is(err, errs.Precondition) || errs.HintOf(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, errs.HintOf(err))
		}
	}
	conf, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "dupont", Limits: &v1.InstanceLimits{MemoryBytes: 1 << 30}})
	s.ended(conf.GetOperationId(), err)
	if got := h.spec.GetDolibarr().GetInstances()[0].GetLimits(); got.GetMemoryBytes() != 1<<30 || got.GetMilliCpus() != 0 || got.GetPids() != 0 {
		t.Errorf("limits %v", got)
	}
	pw, err := s.service.ResetPassword(ctx(), &v1.ResetPasswordRequest{Name: "dupont"})
	if err != nil || pw.GetLogin() != "InfraS" || len(pw.GetPassword()) < 16 || h.passwords[i.GetId()] == "" {
		t.Errorf("password of %s: %v", pw.GetLogin(), err)
	}
	if err := s.instances.Watch(ctx()); err != nil {
		t.Errorf("watch: %v", err)
	}
	s.suspend("dupont")
	if got := s.get("dupont"); got.GetState() != v1.InstanceState_INSTANCE_STATE_SUSPENDED || h.part("dupont_dolibarr").GetState() != "exited" {
		t.Errorf("suspended: %v", got.GetState())
	}
	if got := s.auditOf(); len(got) > 0 {
		t.Errorf("the audit of a suspended one finds %q", got)
	}
	res, err := s.service.ResumeInstance(ctx(), &v1.ResumeInstanceRequest{Name: "dupont"})
	s.ended(res.GetOperationId(), err)
	h.part("dupont_dolibarr").State = "exited"
	h.foreign = slices.DeleteFunc(h.foreign, func(f *v1.FoundInstance) bool { return f.GetName() == "dupont_mariadb" })
	if got := s.auditOf(); !slices.Equal(got, []string{"different container dupont_dolibarr dupont srv-prod", "missing container dupont_mariadb dupont srv-prod"}) {
		t.Errorf("the audit finds %q", got)
	}
	h.foreign = append(h.foreign, &v1.FoundInstance{Kind: "volume", Name: "since", Instance: "dupont", Details: map[string]string{"mounted": "true"}})
	s.purge("dupont")
	s.nothingLeft()
	got, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "dupont"})
	if err != nil || !strings.Contains(got.GetDestructionCertificate(), "volume dupont_data") || len(h.foreign) > 0 {
		t.Errorf("%v, %v, left %q", got, err, h.parts())
	}
}

func TestStoppedOneIsAdoptedSuspended(t *testing.T) {
	s := serving(t)
	h := s.hosts["srv-prod"]
	h.client("dupont")
	h.part("dupont_dolibarr").State, h.part("dupont_mariadb").State = "exited", "exited"
	s.adopt("dupont")
	if i := s.get("dupont"); i.GetState() != v1.InstanceState_INSTANCE_STATE_SUSPENDED || i.GetVersion() != "15" || h.part("dupont_mariadb").GetState() != "exited" {
		t.Errorf("instance %v", i)
	}
	res, err := s.service.ResumeInstance(ctx(), &v1.ResumeInstanceRequest{Name: "dupont"})
	s.ended(res.GetOperationId(), err)
	if i := s.get("dupont"); i.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE || i.GetVersion() != "15.0.3" {
		t.Errorf("resumed %v", i)
	}
}

func TestImportThatFailsLeavesEverythingAsItWas(t *testing.T) {
	for name, breaks := range map[string]func(s *server, h *host){
		"its login page is not there": func(s *server, _ *host) {
			s.fail = func(_ int, point string) error {
				if point == "task Probe" {
					return errs.New(errs.Precondition, "its login page answers 500")
				}
				return nil
			}
		},
		"its host cannot reach it": func(_ *server, h *host) {
			h.problem = "dolibarr: instance dupont: its container dupont_dolibarr is gone"
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serving(t)
			h := s.hosts["srv-prod"]
			h.client("martin")
			h.client("dupont")
			before := h.parts()
			s.mu.Lock()
			breaks(s, h)
			s.mu.Unlock()
			id, err := s.beginImport("dupont", "martin")
			if err != nil {
				t.Fatal(err)
			}
			s.want(s.still(id), failed)
			if !slices.Equal(h.parts(), before) {
				t.Errorf("parts %q became %q", before, h.parts())
			}
			s.nothingLeft()
			for _, f := range s.auditOf() {
				if !strings.HasPrefix(f, "orphan ") {
					t.Errorf("the audit finds %s", f)
				}
			}
		})
	}
}

func TestAdoptionThatWasGivenUpDestroysNothing(t *testing.T) {
	s := serving(t)
	h := s.hosts["srv-prod"]
	h.client("dupont")
	before := h.parts()
	s.mu.Lock()
	s.fail = func(_ int, point string) error {
		if point == "task Probe" || strings.Contains(point, "not adopted after all") {
			return errs.New(errs.Internal, "the disk is full")
		}
		return nil
	}
	s.mu.Unlock()
	id, err := s.beginImport("dupont")
	if err != nil {
		t.Fatal(err)
	}
	s.want(s.still(id), v1.OperationState_OPERATION_STATE_STUCK)
	if _, err := s.engine.Cancel(ctx(), id, "anna"); err != nil {
		t.Fatal(err)
	}
	s.still(id)
	if i := s.get("dupont"); i.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN || !strings.Contains(i.GetProblem(), "--disown") {
		t.Errorf("instance %v", i)
	}
	for _, early := range []bool{false, true} {
		if _, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "dupont", Early: early}); !errs.Is(err, errs.Precondition) ||
			!strings.Contains(errs.HintOf(err), "--disown") {
			t.Errorf("purged: %v (%s)", err, errs.HintOf(err))
		}
	}
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	del, err := s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: "dupont", Disown: true})
	s.ended(del.GetOperationId(), err)
	s.nothingLeft()
	if !slices.Equal(h.parts(), before) {
		t.Errorf("parts %q became %q", before, h.parts())
	}
}

func TestNameThatAnotherProxyHostServesIsToldAndStopsNothing(t *testing.T) {
	s := serving(t)
	s.hosts["srv-prod"].client("dupont")
	gate := s.hosts[s.where.ProxyNode()]
	gate.problem = "proxy: dupont.dolibarr.projetpro.example is served by a proxy host of Nginx Proxy Manager, which infractl did not make"
	gate.degraded = []string{gate.problem}
	id, err := s.beginImport("dupont")
	op := s.ended(id, err)
	if !strings.Contains(fmt.Sprint(op.GetSteps()), "which infractl did not make") {
		t.Errorf("it is not said:\n%s", describe(op))
	}
	if i := s.get("dupont"); i.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE || !strings.Contains(i.GetProblem(), "which infractl did not make") {
		t.Errorf("instance %v", i)
	}
	s.suspend("dupont")
	conf, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "dupont", Limits: &v1.InstanceLimits{Pids: 200}})
	s.ended(conf.GetOperationId(), err)
}

func TestAdoptedIsLetGo(t *testing.T) {
	s := serving(t)
	h := s.hosts["srv-prod"]
	h.client("dupont")
	before := h.parts()
	s.adopt("dupont")
	s.want(s.create("acme"), succeeded)
	if _, err := s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: "acme", Disown: true}); !errs.Is(err, errs.Precondition) {
		t.Errorf("one of ours: %v", err)
	}
	s.purge("acme")
	if _, err := s.service.ResetPassword(ctx(), &v1.ResetPasswordRequest{Name: "dupont"}); err != nil {
		t.Error(err)
	}
	del, err := s.service.DeleteInstance(ctx(), &v1.DeleteInstanceRequest{Name: "dupont", Disown: true})
	s.ended(del.GetOperationId(), err)
	if _, err := s.service.GetInstance(ctx(), &v1.GetInstanceRequest{Name: "dupont"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("after it was let go: %v", err)
	}
	if !slices.Equal(h.parts(), before) {
		t.Errorf("parts %q became %q", before, h.parts())
	}
	s.nothingLeft()
}
