package instance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/store"
)

func (s *server) auditOf() []string {
	s.t.Helper()
	res, err := s.service.AuditInstances(ctx(), &v1.AuditInstancesRequest{})
	if err != nil {
		s.t.Fatalf("audit: %v", err)
	}
	var out []string
	for _, f := range res.GetFindings() {
		out = append(out, strings.Join([]string{f.GetKind(), f.GetWhat(), f.GetName(), f.GetInstance(), f.GetNode()}, " "))
	}
	return out
}

func TestAuditFindsDifferencesBothWays(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.want(s.create("beta"), succeeded)
	s.suspend("beta")
	if got := s.auditOf(); len(got) > 0 {
		t.Fatalf("all is well, and the audit finds %q", got)
	}
	id := s.get("acme").GetId()
	h := s.hosts["srv-prod"]
	h.have[id]["volume infractl-"+id+"-documents"] = false
	h.have["zzzzzzzz"] = map[string]bool{"volume infractl-zzzzzzzz-data": true}
	h.foreign = []*v1.FoundInstance{{Kind: "container", Name: "old_dolibarr", Instance: "old"}}
	s.hosts["srv-pre-prod"].have[id] = map[string]bool{"container infractl-" + id + "-db": true}
	s.hosts["srv-pre-prod"].names[id] = "acme"
	want := []string{
		"orphan container infractl-" + id + "-db acme srv-pre-prod",
		"orphan volume infractl-zzzzzzzz-data  srv-prod",
		"missing volume infractl-" + id + "-documents acme srv-prod",
		"orphan container old_dolibarr old srv-prod",
	}
	if got := s.auditOf(); !slices.Equal(got, want) {
		t.Errorf("findings %q\nwant %q", got, want)
	}
	s.host("srv-pre-prod", func(h *host) { h.away = true })
	if got := s.auditOf(); !slices.ContainsFunc(got, func(f string) bool { return strings.Contains(f, "front srv-pre-prod") }) {
		t.Errorf("a host that cannot be asked is not told of: %q", got)
	}
	if _, err := s.service.AuditInstances(ctx(), &v1.AuditInstancesRequest{Node: "client-relay"}); !errs.Is(err, errs.NotFound) {
		t.Errorf("a node without instances: %v", err)
	}
	if err := s.instances.DailyAudit(ctx()); err != nil {
		t.Fatal(err)
	}
	findings, err := s.instances.Findings(ctx())
	if err != nil || len(findings) != 1 || !strings.Contains(findings[0].GetMessage(), "4 differences") {
		t.Errorf("status says %v, %v", findings, err)
	}
	entries, err := s.store.ListAudit(ctx(), store.AuditFilter{Action: "instance.audit", Limit: 10})
	if err != nil || len(entries) != 1 || entries[0].Result == "ok" {
		t.Errorf("audit log %v, %v", entries, err)
	}
}

func TestSickInstanceIsShownAsBroken(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.want(s.create("beta"), succeeded)
	id := s.get("acme").GetId()
	s.hosts["srv-prod"].have[id]["container infractl-"+id+"-app"] = false
	if err := s.instances.Watch(ctx()); err != nil {
		t.Fatal(err)
	}
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN || !strings.Contains(got.GetProblem(), "infractl-"+id+"-app") {
		t.Errorf("instance %v", got)
	}
	if got := s.get("beta").GetState(); got != v1.InstanceState_INSTANCE_STATE_ACTIVE {
		t.Errorf("its neighbour is %v", got)
	}
	counts, err := s.instances.Overview(ctx(), func(*v1.Instance) {})
	if err != nil || counts["broken"] != 1 || counts["active"] != 1 || len(counts) != 7 {
		t.Errorf("counts %v, %v", counts, err)
	}
	findings, err := s.instances.Findings(ctx())
	if err != nil || len(findings) != 1 || findings[0].GetWhere() != "instance acme" || findings[0].GetSeverity() != v1.Severity_SEVERITY_ERROR {
		t.Errorf("status says %v, %v", findings, err)
	}
	s.hosts["srv-prod"].have[id]["container infractl-"+id+"-app"] = true
	if err := s.instances.Watch(ctx()); err != nil || s.get("acme").GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE {
		t.Errorf("still broken: %v, %v", s.get("acme"), err)
	}
	// What the host itself reports counts at once.
	for _, told := range []func(){
		func() {
			s.host("srv-prod", func(h *host) { h.degraded = []string{"dolibarr: instance acme: the database does not start"} })
		},
		func() {
			s.host("srv-prod", func(h *host) { h.degraded = nil })
			s.host("srv-prod", func(h *host) {
				h.drift = []*v1.Change{{Provider: "dolibarr", Subject: "container infractl-" + id + "-app"}}
			})
		},
	} {
		told()
		if a, b := s.get("acme"), s.get("beta"); a.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN || b.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE {
			t.Errorf("%v and its neighbour %v", a, b)
		}
	}
}

func TestArchivedInstancesArePurgedWhenTheirTimeIsOver(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.want(s.create("beta"), succeeded)
	s.remove("acme", 21)
	sweep := func() {
		t.Helper()
		if err := s.instances.Sweep(ctx()); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if got := s.get("acme").GetState(); got != v1.InstanceState_INSTANCE_STATE_ARCHIVED {
		t.Fatalf("it is %v", got)
	}
	s.clock.Advance(20 * 24 * time.Hour)
	sweep()
	sweep()
	entries, err := s.store.ListAudit(ctx(), store.AuditFilter{Action: "instance.notice", Limit: 10})
	if err != nil || len(entries) != 1 {
		t.Errorf("%d notices, %v", len(entries), err)
	}
	if findings, _ := s.instances.Findings(ctx()); len(findings) != 1 || !strings.Contains(findings[0].GetHint(), "resume acme") {
		t.Errorf("status says %v", findings)
	}
	s.clock.Advance(2 * 24 * time.Hour)
	sweep()
	s.eventually("purge", func() bool { return s.get("acme").GetState() == v1.InstanceState_INSTANCE_STATE_PURGED })
	if got := s.get("beta").GetState(); got != v1.InstanceState_INSTANCE_STATE_ACTIVE {
		t.Errorf("its neighbour is %v", got)
	}
}

func TestTemplatesFollowTheImages(t *testing.T) {
	s := serving(t)
	refresh := func() {
		t.Helper()
		if err := s.instances.RefreshTemplates(ctx()); err != nil {
			t.Fatal(err)
		}
		s.eventually("end of templates", func() bool {
			open, err := s.engine.Open(ctx())
			return err == nil && len(open) == 0
		})
	}
	made := func(node string) string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Join(s.hosts[node].templates, ", ")
	}
	refresh()
	if got := made("srv-prod"); got != "" {
		t.Errorf("a host that is not what it should be made %s", got)
	}
	if _, err := s.Deliver(ctx(), "anna", "the site"); err != nil {
		t.Fatal(err)
	}
	list, err := s.instances.Archives(ctx(), "srv-prod")
	if err != nil || len(list) != 2 {
		t.Errorf("archives %q, %v", list, err)
	}
	if list, _ := s.instances.Archives(ctx(), "client-relay"); len(list) > 0 {
		t.Errorf("archives of the relay %q", list)
	}
	refresh()
	refresh()
	for _, node := range []string{"srv-prod", "srv-pre-prod"} {
		if got := made(node); got != "19.0.4 sha256:id-"+appImage {
			t.Errorf("%s made %s", node, got)
		}
	}
	s.want(s.create("acme"), succeeded)
	s.mu.Lock()
	s.image[appImage] = site.ImageArchive{Digest: "sha256:new", ImageID: "sha256:new"}
	s.mu.Unlock()
	s.revisions.Changed()
	if _, err := s.Deliver(ctx(), "anna", "new image"); err != nil {
		t.Fatal(err)
	}
	refresh()
	refresh()
	if got := made("srv-prod"); got != "19.0.4 sha256:id-"+appImage+", 19.0.4 sha256:new" {
		t.Errorf("made %s", got)
	}
}

func TestLostTemplateIsMadeAgain(t *testing.T) {
	s := serving(t)
	if _, err := s.Deliver(ctx(), "anna", "the site"); err != nil {
		t.Fatal(err)
	}
	refresh := func() int {
		t.Helper()
		s.clock.Advance(2 * time.Hour)
		if err := s.instances.RefreshTemplates(ctx()); err != nil {
			t.Fatal(err)
		}
		s.eventually("end of templates", func() bool {
			open, err := s.engine.Open(ctx())
			return err == nil && len(open) == 0
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.hosts["srv-prod"].templates)
	}
	if n := refresh() + refresh(); n != 2 {
		t.Fatalf("%d templates, want the same one twice", n)
	}
	s.want(s.create("warm"), succeeded)
	s.want(s.create("cold", func(r *v1.CreateInstanceRequest) { r.Cold = true }), succeeded)
	if n := refresh(); n != 1 {
		t.Errorf("made again without need: %d", n)
	}
	s.host("srv-prod", func(h *host) { h.warm = map[string]bool{} })
	op := s.create("acme")
	s.want(op, succeeded)
	if said := op.GetSteps()[3].GetMessage(); !strings.HasPrefix(said, "installed") {
		t.Errorf("step install says %q", said)
	}
	if n := refresh(); n != 2 {
		t.Errorf("%d templates, want another one", n)
	}
}

func TestPasswordOfAServerThatStoppedIsTakenIn(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	name := "instance/" + s.get("acme").GetId() + "/admin"
	version, err := s.vault.Renew(ctx(), name, "operator/anna") // and there the server stopped
	if err != nil {
		t.Fatal(err)
	}
	if err := s.instances.Watch(ctx()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Deliver(ctx(), "anna", "all"); err != nil {
		t.Fatal(err)
	}
	if refs := s.hosts["srv-prod"].spec.GetDolibarr().GetInstances()[0].GetSecrets(); refs[0].GetName() != name || refs[0].GetVersion() != version {
		t.Errorf("the host is told of %v, want %s", refs[0], version)
	}
}

func TestTemplateThatFailsIsNotTriedAllTheTime(t *testing.T) {
	s := serving(t)
	if _, err := s.Deliver(ctx(), "anna", "the site"); err != nil {
		t.Fatal(err)
	}
	tries := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, p := range s.log {
			if p == "task Template" {
				n++
			}
		}
		return n
	}
	s.mu.Lock()
	s.fail = func(_ int, point string) error {
		if point == "task Template" {
			return errs.New(errs.Precondition, "planted")
		}
		return nil
	}
	s.mu.Unlock()
	for range 3 {
		if err := s.instances.RefreshTemplates(ctx()); err != nil {
			t.Fatal(err)
		}
		s.eventually("end of templates", func() bool {
			open, err := s.engine.Open(ctx())
			return err == nil && len(open) == 0
		})
	}
	if n := tries(); n != 2 {
		t.Errorf("%d tries on two hosts", n)
	}
	s.clock.Advance(2 * time.Hour)
	if err := s.instances.RefreshTemplates(ctx()); err != nil {
		t.Fatal(err)
	}
	s.eventually("another try", func() bool { return tries() == 4 })
}

func TestNetworksOfWhatNoRecordKnowsAreNotGivenOut(t *testing.T) {
	s := serving(t)
	// As after a backup of the server was put back: the host has what was made since.
	s.hosts["srv-prod"].have["zzzzzzzz"] = map[string]bool{"network infractl-zzzzzzzz": true}
	s.hosts["srv-prod"].subnets["zzzzzzzz"] = "10.210.0.0/28"
	if err := s.instances.Watch(ctx()); err != nil {
		t.Fatal(err)
	}
	s.want(s.create("acme"), succeeded)
	if got := s.get("acme").GetSubnet(); got != "10.210.0.16/28" {
		t.Errorf("network %s", got)
	}
}

func TestCreationThatWasGivenUpCanBePurged(t *testing.T) {
	s := serving(t)
	s.mu.Lock()
	s.fail = func(_ int, point string) error {
		if point == "task Install" || point == "task Purge" {
			return errs.New(errs.Internal, "the disk is broken")
		}
		return nil
	}
	s.mu.Unlock()
	op := s.create("acme")
	s.want(op, v1.OperationState_OPERATION_STATE_STUCK)
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN || !strings.Contains(got.GetProblem(), op.GetId()) {
		t.Errorf("instance %v", got)
	}
	if _, err := s.engine.Cancel(ctx(), op.GetId(), "anna"); err != nil {
		t.Fatal(err)
	}
	s.eventually("end", func() bool {
		now, err := s.engine.Get(ctx(), op.GetId())
		return err == nil && operation.Ended(now.GetState())
	})
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_BROKEN || !strings.Contains(got.GetProblem(), "purge acme --early") {
		t.Errorf("instance %v", got)
	}
	res, err := s.service.PurgeInstance(ctx(), &v1.PurgeInstanceRequest{Name: "acme", Early: true})
	s.ended(res.GetOperationId(), err)
	s.want(s.create("acme"), succeeded)
}

func BenchmarkListOfAHundred(b *testing.B) {
	w := newWorld(b)
	w.hosts["srv-prod"].memory = 1 << 40
	s := w.serve()
	defer s.stop()
	for i := range 100 {
		s.want(s.create(fmt.Sprintf("inst%03d", i)), succeeded)
	}
	b.ResetTimer()
	for b.Loop() {
		list, err := s.service.ListInstances(ctx(), &v1.ListInstancesRequest{})
		if err != nil || len(list.GetInstances()) != 100 {
			b.Fatalf("%d, %v", len(list.GetInstances()), err)
		}
	}
}
