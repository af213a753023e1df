package instance_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/store"
)

const day = 24 * time.Hour

// templates lets the server look at templates after some time, and says whether the host still has that version's.
func (s *server) templates(after time.Duration, version string) bool {
	s.t.Helper()
	s.clock.Advance(after)
	for range 2 { // the second look changes nothing
		if err := s.instances.DropTemplates(ctx()); err != nil {
			s.t.Fatalf("templates: %v", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts["srv-prod"].warm[version]
}

// leftover are the templates that an audit complains of.
func (s *server) leftover() (names []string) {
	s.t.Helper()
	res, err := s.service.AuditInstances(ctx(), &v1.AuditInstancesRequest{Node: "srv-prod"})
	if err != nil {
		s.t.Fatalf("audit: %v", err)
	}
	for _, f := range res.GetFindings() {
		if f.GetWhat() == "template" {
			names = append(names, f.GetName())
		}
	}
	return names
}

func TestTemplateThatNobodyUsesGoesAfterAWeek(t *testing.T) {
	s := serving(t)
	const version = "19.0.4" // the site's default
	s.mu.Lock()
	s.hosts["srv-prod"].warm["18.0.1"], s.hosts["srv-prod"].warm[version] = true, true
	s.mu.Unlock()
	if got := s.leftover(); len(got) != 1 || !strings.HasPrefix(got[0], "18.0.1-") {
		t.Errorf("the audit finds %q", got)
	}
	if err := s.instances.Watch(ctx()); err != nil { // the server takes them in
		t.Fatal(err)
	}
	if got := s.leftover(); len(got) != 0 {
		t.Errorf("one whose time runs is complained of: %q", got)
	}
	if !s.templates(6*day, "18.0.1") {
		t.Fatal("it goes too early")
	}
	s.mu.Lock()
	s.hosts["srv-prod"].away = true
	s.mu.Unlock()
	s.templates(3*day, "18.0.1")
	s.mu.Lock()
	s.hosts["srv-prod"].away = false
	s.mu.Unlock()
	if got := s.leftover(); len(got) != 1 {
		t.Errorf("one that should have gone is not complained of: %q", got)
	}
	if s.templates(0, "18.0.1") {
		t.Error("it does not go")
	}
	if !s.templates(100*day, version) {
		t.Error("that of the default version goes")
	}
	if log := s.audited(); !strings.Contains(log, "instance.template.drop template/srv-prod/18.0.1") {
		t.Errorf("the audit log does not say so: %s", log)
	}
}

func TestTemplateThatIsUsedAgainStays(t *testing.T) {
	s := serving(t)
	s.mu.Lock()
	s.hosts["srv-prod"].warm["19.0.4"], s.hosts["srv-prod"].warm["18.0.1"] = true, true
	s.image["infractl/dolibarr:18.0.1"] = s.image[appImage]
	s.mu.Unlock()
	if err := s.instances.Watch(ctx()); err != nil {
		t.Fatal(err)
	}
	s.templates(6*day, "18.0.1")
	s.want(s.create("acme", func(r *v1.CreateInstanceRequest) { r.Version = "18.0.1" }), succeeded)
	if !s.templates(30*day, "18.0.1") {
		t.Error("the template of a version in use goes")
	}
}

// audited are the lines of the audit log.
func (s *server) audited() string {
	s.t.Helper()
	list, err := s.store.ListAudit(ctx(), store.AuditFilter{})
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	var lines []string
	for _, e := range list {
		lines = append(lines, e.Action+" "+e.Target)
	}
	return strings.Join(lines, "\n")
}
