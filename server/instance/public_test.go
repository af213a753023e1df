package instance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	acmeName = "acme.dolibarr.projetpro.example"
	ownName  = "erp.acme.example"
)

// public asks for names, as the node h.
func (w *world) public(h *host, task *v1.PublicTask) *v1.PublicResult {
	out := &v1.PublicResult{}
	for _, n := range task.GetNames() {
		w.asked[n.GetName()]++
		sight := &v1.PublicSight{Name: n.GetName(), State: v1.PublicState_PUBLIC_STATE_SERVED, Version: n.GetVersion(), Issuer: "CN=R3",
			Begins: timestamppb.New(w.clock.Now().Add(-24 * time.Hour)), Ends: timestamppb.New(w.clock.Now().Add(89 * 24 * time.Hour))}
		told := slices.ContainsFunc(h.spec.GetProxy().GetHosts(), func(p *v1.ProxyHostSpec) bool { return slices.Contains(p.GetDomains(), n.GetName()) })
		switch other := w.sights[n.GetName()]; {
		case other != nil:
			sight = other
		case !told:
			sight = &v1.PublicSight{Name: n.GetName(), State: v1.PublicState_PUBLIC_STATE_WRONG, Message: "the proxy was not told of it"}
		}
		out.Names = append(out.Names, sight)
	}
	for _, q := range task.GetQuestions() {
		out.Answers = append(out.Answers, &v1.PublicAnswer{Question: q, Problem: w.deaf[q.GetName()]})
	}
	return out
}

// serve says how a name is served from now on.
func (s *server) serve(sight *v1.PublicSight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sights[sight.GetName()] = sight
}

func wrong(name string) *v1.PublicSight {
	return &v1.PublicSight{Name: name, State: v1.PublicState_PUBLIC_STATE_WRONG, Message: "its certificate is signed by itself", Hint: "journalctl -u caddy"}
}

func withDomain(r *v1.CreateInstanceRequest) { r.Domains = []string{ownName} }

func said(op *v1.Operation, step string) string {
	for _, st := range op.GetSteps() {
		if st.GetName() == step {
			return st.GetMessage()
		}
	}
	return ""
}

func TestCreateProvesNamesAndTLS(t *testing.T) {
	s := serving(t)
	op := s.create("acme", withDomain)
	s.want(op, succeeded)
	if got := said(op, "names"); got != "10.0.10.10 says "+acmeName+" A 10.0.10.10" {
		t.Errorf("names: %q", got)
	}
	for _, part := range []string{acmeName + " is served, its certificate lasts until 2030-03-31", ownName + " is served"} {
		if got := said(op, "tls"); !strings.Contains(got, part) {
			t.Errorf("tls: %q lacks %q", got, part)
		}
	}
	if s.asked[acmeName] != 1 || s.asked[ownName] != 1 {
		t.Errorf("asked for %v", s.asked)
	}
	if got := s.get("acme").GetCertificate(); !strings.Contains(got, "by ACME; is served, its certificate lasts until 2030-03-31") {
		t.Errorf("shown: %q", got)
	}
}

func TestCreateThatTheWorldDoesNotReachLeavesNothing(t *testing.T) {
	for outcome, c := range map[string]struct {
		prepare func(s *server)
		says    string
		hint    string
	}{
		"the default name has a wrong certificate": {func(s *server) { s.serve(wrong(acmeName)) },
			acmeName + " is not served as it should be: its certificate is signed by itself", "journalctl -u caddy"},
		"the name server does not know it": {func(s *server) { s.deaf[acmeName] = "it answers nothing, not 10.0.10.10" },
			"the name server 10.0.10.10 does not know " + acmeName + ": it answers nothing", "infractl dns check"},
		"the proxy's agent goes away": {func(s *server) {
			s.fail = func(_ int, point string) error {
				if point == "task Public" {
					return errs.New(errs.Unavailable, "the node is away")
				}
				return nil
			}
		}, "the node is away", ""},
	} {
		t.Run(outcome, func(t *testing.T) {
			s := serving(t)
			c.prepare(s)
			op := s.create("acme", withDomain)
			s.want(op, failed)
			if !strings.Contains(op.GetMessage(), c.says) || !strings.Contains(op.GetHint(), c.hint) {
				t.Errorf("message %q, hint %q", op.GetMessage(), op.GetHint())
			}
			s.nothingLeft()
			for _, node := range []string{"srv-dhcp-dns", "srv-prod"} {
				if strings.Contains(s.hosts[node].spec.String(), acmeName) {
					t.Errorf("%s still knows of it", node)
				}
			}
		})
	}
}

func TestCustomersOwnNameIsOnlyTold(t *testing.T) {
	s := serving(t)
	s.serve(wrong(ownName))
	op := s.create("acme", withDomain)
	s.want(op, succeeded)
	if got := said(op, "tls"); !strings.Contains(got, ownName+" is not served as it should be: its certificate is signed by itself; journalctl") {
		t.Errorf("tls: %q", got)
	}
	if got := s.get("acme").GetCertificate(); !strings.Contains(got, ownName+" is not served") {
		t.Errorf("shown: %q", got)
	}
}

func TestRefusedCertificateOfACustomersOwnNameUndoesNothing(t *testing.T) {
	for problem, ok := range map[string]bool{
		"proxy: " + ownName + ": the authority refuses it":                            true,
		"proxy: " + ownName + " and " + acmeName + ": the authority refuses them":     false,
		"dolibarr: instance acme: " + ownName + " is no name that its front can have": false,
	} {
		t.Run(problem, func(t *testing.T) {
			s := serving(t)
			for _, h := range s.hosts {
				h.problem = problem
			}
			op := s.create("acme", withDomain)
			if got := op.GetState() == succeeded; got != ok {
				t.Errorf("succeeded %t, want %t\n%s", got, ok, describe(op))
			}
		})
	}
}

func TestQueuedCertificateIsAwaitedByNobody(t *testing.T) {
	s := serving(t)
	s.serve(&v1.PublicSight{Name: acmeName, State: v1.PublicState_PUBLIC_STATE_QUEUED, Message: "its certificate waits for its turn",
		Due: timestamppb.New(s.clock.Now().Add(49 * time.Hour))})
	op := s.create("acme")
	s.want(op, succeeded)
	const when = "is served from 2030-01-03 01:00 UTC on: its certificate waits for its turn"
	if got := said(op, "tls"); !strings.Contains(got, when) {
		t.Errorf("tls: %q", got)
	}
	if got := s.get("acme").GetCertificate(); !strings.Contains(got, when) {
		t.Errorf("shown: %q", got)
	}
	if got := s.auditOf(); len(got) > 0 {
		t.Errorf("the audit finds %q", got)
	}
	// What is not served yet is asked for again, what is served is not.
	s.want(s.create("beta"), succeeded)
	s.mu.Lock()
	delete(s.sights, acmeName)
	s.asked = map[string]int{}
	s.mu.Unlock()
	for range 2 {
		if err := s.instances.Watch(ctx()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.get("acme").GetCertificate(); !strings.Contains(got, "is served, its certificate lasts") || s.asked[acmeName] != 1 || len(s.asked) != 1 {
		t.Errorf("shown %q, asked for %v", got, s.asked)
	}
}

func TestOnlyNewNamesUndoAnOperation(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.serve(wrong(acmeName))
	for outcome, begin := range map[string]func() (string, error){
		"restart": func() (string, error) {
			res, err := s.service.RestartInstance(ctx(), &v1.RestartInstanceRequest{Name: "acme"})
			return res.GetOperationId(), err
		},
		"a further name": func() (string, error) {
			res, err := s.service.ConfigureInstance(ctx(), &v1.ConfigureInstanceRequest{Name: "acme", AddDomains: []string{ownName}})
			return res.GetOperationId(), err
		},
	} {
		id, err := begin()
		if op := s.ended(id, err); !strings.HasPrefix(said(op, "tls"), "not as it should be: ") {
			t.Errorf("%s: tls says %q", outcome, said(op, "tls"))
		}
	}
	s.serve(wrong("gamma.dolibarr.projetpro.example"))
	res, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "gamma"})
	if err != nil {
		t.Fatal(err)
	}
	op := s.still(res.GetOperationId())
	s.want(op, failed)
	if got := s.get("acme"); got.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE {
		t.Errorf("after the failed rename: %v", got)
	}
}

func TestSuspendedInstanceHasNoLoginPage(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	s.suspend("acme")
	s.serve(wrong(acmeName))
	s.serve(wrong("beta.dolibarr.projetpro.example"))
	res, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "beta"})
	s.ended(res.GetOperationId(), err)
}

func TestAuditComparesCertificates(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme", withDomain), succeeded)
	s.want(s.create("beta"), succeeded)
	s.want(s.create("gamma"), succeeded)
	days := func(name string, past, left int) *v1.PublicSight {
		return &v1.PublicSight{Name: name, State: v1.PublicState_PUBLIC_STATE_SERVED, Begins: timestamppb.New(s.clock.Now().AddDate(0, 0, -past)),
			Ends: timestamppb.New(s.clock.Now().AddDate(0, 0, left))}
	}
	const beta, gamma = "beta.dolibarr.projetpro.example", "gamma.dolibarr.projetpro.example"
	s.serve(days(acmeName, 76, 14))
	s.serve(days(beta, 3, 3)) // one of a short life
	s.serve(days(gamma, 80, 10))
	s.serve(wrong(ownName))
	want := []string{"missing certificate " + ownName + " acme srv-dhcp-dns", "different certificate " + gamma + " gamma srv-dhcp-dns"}
	if got := s.auditOf(); !slices.Equal(got, want) {
		t.Errorf("findings %q\nwant %q", got, want)
	}
	other := wrong(ownName)
	other.Ends = timestamppb.New(s.clock.Now())
	s.serve(other)
	s.serve(days(gamma, 1, 89))
	if got := s.auditOf(); !slices.Equal(got, []string{"different certificate " + ownName + " acme srv-dhcp-dns"}) {
		t.Errorf("findings %q", got)
	}
	s.host("srv-dhcp-dns", func(h *host) { h.away = true })
	if got := s.auditOf(); !slices.Contains(got, "different certificate srv-dhcp-dns  srv-dhcp-dns") {
		t.Errorf("a proxy that cannot be asked is not told of: %q", got)
	}
}

func TestSiteWithoutManagedProxyIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.where = unmanagedSite(t)
	s := w.serve()
	t.Cleanup(func() { s.stop() })
	op := s.create("acme")
	s.want(op, succeeded)
	if got := said(op, "tls"); !strings.HasPrefix(got, "skipped: no reverse proxy that infractl manages") {
		t.Errorf("tls: %q", got)
	}
	if got := said(op, "names"); !strings.Contains(got, "says "+acmeName) {
		t.Errorf("names: %q", got)
	}
	if got := s.auditOf(); len(got) > 0 {
		t.Errorf("the audit finds %q", got)
	}
}

func TestPublicRecordsAreSetWhileAnInstanceIsOpened(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	if got := s.published.Load(); got != 1 {
		t.Errorf("published %d times by a creation", got)
	}
	res, err := s.service.RenameInstance(ctx(), &v1.RenameInstanceRequest{Name: "acme", NewName: "beta"})
	s.ended(res.GetOperationId(), err)
	if got := s.published.Load(); got != 2 {
		t.Errorf("published %d times by a creation and a rename", got)
	}
}
