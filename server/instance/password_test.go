package instance_test

import (
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (s *server) rotate(name string) *v1.Operation {
	s.t.Helper()
	res, err := s.service.RotateDatabase(ctx(), &v1.RotateDatabaseRequest{Name: name})
	if err != nil {
		s.t.Fatalf("rotate: %v", err)
	}
	return s.still(res.GetOperationId())
}

// database is the version of an instance's database password that its host has.
func (s *server) database(name string) string {
	s.t.Helper()
	i := s.get(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[i.GetNode()].databases[i.GetId()]
}

// onePassword wants record, vault and host to agree, and the vault to have no other version; former is one that must not be it.
func (s *server) onePassword(name, former string) {
	s.t.Helper()
	i := s.get(name)
	for _, part := range []string{"db", "db-root"} {
		full := site.SecretName(i.GetId(), part)
		current, err := s.vault.Current(ctx(), full)
		if err != nil {
			s.t.Fatalf("%v", err)
		}
		if part == "db" && (current != s.database(name) || current == former) {
			s.t.Errorf("the vault has %s, the host %s, and it was %s", current, s.database(name), former)
		}
		if kept := s.values(full); len(kept) != 1 || !strings.HasSuffix(kept[0], current) {
			s.t.Errorf("kept are %q, current is %s", kept, current)
		}
		if !strings.Contains(strings.Join(s.records("instance"), "\n"), current) {
			s.t.Errorf("the record does not name %s", current)
		}
	}
}

// values are the names of a secret's values that are kept.
func (s *server) values(name string) (list []string) {
	for _, rec := range s.records("secret.value") {
		if name, ok := strings.CutPrefix(strings.Fields(rec)[0], name+"/"); ok {
			list = append(list, name)
		}
	}
	return list
}

func TestDatabaseGetsNewPasswords(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	former := s.database("acme")
	op := s.rotate("acme")
	s.want(op, succeeded)
	s.onePassword("acme", former)
	var steps []string
	for _, step := range op.GetSteps() {
		steps = append(steps, step.GetName())
	}
	if got := strings.Join(steps, " "); got != "passwords database probe forget" {
		t.Errorf("steps: %s", got)
	}
}

func TestPasswordsThatFailAreTakenBack(t *testing.T) {
	for name, harm := range map[string]func(s *server){
		"the host": func(s *server) { s.hosts["srv-prod"].problem = "instance acme: passwords of the database: no room" },
		"the page": func(s *server) {
			s.fail = func(_ int, point string) error {
				if point == "task Probe" {
					return errs.New(errs.Precondition, "its login page answers 500")
				}
				return nil
			}
		},
		"a host that is away": func(s *server) { s.hosts["srv-prod"].away = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := serving(t)
			s.want(s.create("acme"), succeeded)
			former := s.database("acme")
			s.mu.Lock()
			harm(s)
			s.mu.Unlock()
			s.want(s.rotate("acme"), failed)
			s.mu.Lock()
			s.fail, s.hosts["srv-prod"].problem, s.hosts["srv-prod"].away = nil, "", false
			s.mu.Unlock()
			if _, err := s.Deliver(ctx(), "anna", "again"); err != nil {
				t.Fatal(err)
			}
			s.onePassword("acme", "")
			if got := s.database("acme"); got != former {
				t.Errorf("the host has %s, want %s", got, former)
			}
			s.want(s.rotate("acme"), succeeded)
			s.onePassword("acme", former)
		})
	}
}

func TestPasswordsAreForInstancesThatRun(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	res, err := s.service.SuspendInstance(ctx(), &v1.SuspendInstanceRequest{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	s.want(s.still(res.GetOperationId()), succeeded)
	if _, err := s.service.RotateDatabase(ctx(), &v1.RotateDatabaseRequest{Name: "acme"}); !errs.Is(err, errs.Precondition) || errs.HintOf(err) == "" {
		t.Errorf("of a suspended one: %v", err)
	}
	s.hosts["srv-prod"].client("dupont")
	s.adopt("dupont")
	if _, err := s.service.RotateDatabase(ctx(), &v1.RotateDatabaseRequest{Name: "dupont"}); !errs.Is(err, errs.Precondition) {
		t.Errorf("of an adopted one: %v", err)
	}
}

// TestForgottenPasswordsAreNotComeBackTo is about an operation that fails so late that the host has the new password for good.
func TestForgottenPasswordsAreNotComeBackTo(t *testing.T) {
	s := serving(t)
	s.want(s.create("acme"), succeeded)
	former, id := s.database("acme"), s.get("acme").GetId()
	s.mu.Lock()
	s.fail = func(_ int, point string) error {
		if point != "task Probe" {
			return nil
		}
		if err := s.vault.ForgetFormer(ctx(), site.SecretName(id, "db"), site.SecretName(id, "db-root")); err != nil {
			return err
		}
		return errs.New(errs.Precondition, "its login page answers 500")
	}
	s.mu.Unlock()
	s.want(s.rotate("acme"), failed)
	s.onePassword("acme", former)
}
