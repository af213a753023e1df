package dolibarr

import (
	"strings"
	"testing"

	"github.com/infractl/infractl/internal/dolibarr"
	"github.com/infractl/infractl/internal/lab/dolibarrtest"
)

// TestPasswordsOnARealDatabase goes the way of turn with a real MariaDB and PHP: after each step the application shows its login page.
func TestPasswordsOnARealDatabase(t *testing.T) {
	db := dolibarrtest.StartDB(t)
	s := dolibarrtest.NewSite(t, db, dolibarrtest.Trees(t, "19.0.4")[0])
	if _, _, out, err := s.Run(dolibarr.VerbInstall, s.Input()); err != nil {
		t.Fatalf("install: %v\n%s", err, out)
	}
	address := s.Web()
	works := func(after string) {
		t.Helper()
		if code, page := s.Page(address + "/index.php"); code != 200 || !strings.Contains(page, "@ 19.0.4</title>") {
			t.Fatalf("after %s the login page answers %d: %.300s", after, code, page)
		}
	}
	configure := func() error {
		_, _, _, err := s.Run(dolibarr.VerbConfigure, dolibarr.InstallInput{})
		return err
	}
	learn := func(passwords ...string) {
		t.Helper()
		db.Query(strings.Replace(takes(secretDB, passwords...), "'"+dbUser+"'", "'"+s.Database+"'", 1))
	}
	works("its installation")
	former, others := dolibarrtest.Secrets()["db"], []string{"another0Password1234567", "third0Password123456789"}
	for _, next := range others {
		learn(next, former, "left0OfATry0CutOff12345")
		works("the database has learned it")
		s.Secret("db", next)
		if err := configure(); err != nil {
			t.Fatalf("configure with the new password: %v", err)
		}
		works("conf.php has it")
		learn(next)
		works("the database has forgotten the former")
		s.Secret("db", former)
		if err := configure(); err == nil {
			t.Error("the former password is still good")
		}
		s.Secret("db", next)
		former = next
	}
	if !s.Login(address, s.Input().AdminLogin, dolibarrtest.Secrets()["admin"]) {
		t.Error("the administrator cannot log in")
	}
}
