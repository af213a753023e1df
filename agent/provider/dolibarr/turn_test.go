package dolibarr

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/images"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// turnRig has an instance that runs behind a front, and an agent that can be killed.
type turnRig struct {
	*diskRig
	// at is at which call the agent is killed: that one and all that follow fail. calls counts them.
	at, calls int
}

func newTurn(t *testing.T) *turnRig {
	r := &turnRig{diskRig: newDisk(t)}
	r.engine.fault = r.killed
	r.begin()
	return r
}

func (r *turnRig) killed(op string) error {
	if r.calls++; r.at > 0 && r.calls >= r.at {
		return errs.New(errs.Internal, "killed at %s", op)
	}
	return nil
}

// begin is a new process of the agent, which is killed at a call; at 0 never.
func (r *turnRig) begin(at ...int) {
	r.at, r.calls = 0, 0
	if len(at) > 0 {
		r.at = at[0]
	}
	r.Provider = New(Config{FrontWait: 500 * time.Millisecond, ConfWait: time.Millisecond, Host: host.New(host.Config{Root: r.root, Fault: r.killed}), Engine: r.engine,
		Images: testImages{r.engine}, Fetcher: testFetcher{}, Transport: r.engine})
}

// passwords makes the wish name other versions of the database's passwords.
func (r *turnRig) passwords(version string) {
	for _, ref := range r.inst.Secrets {
		if strings.HasSuffix(ref.Name, "/db") || strings.HasSuffix(ref.Name, "/db-root") {
			ref.Version = version
		}
	}
}

func (r *turnRig) try() error {
	pl, err := r.Plan(r.t.Context(), wish{Spec: r.spec})
	if err != nil || len(pl.Changes) == 0 {
		return err
	}
	return r.Apply(r.t.Context(), pl)
}

// works says that the application can log into its database.
func (r *turnRig) works() bool {
	return slices.Contains(r.engine.takes[acmeID], r.engine.confs[acmeID])
}

// settled wants the database to take one version and no other, and nothing to be left of the way there.
func (r *turnRig) settled(version string) {
	r.t.Helper()
	want := "VALUEOFdb0" + version
	if got := r.engine.takes[acmeID]; len(got) != 1 || got[0] != want || r.engine.confs[acmeID] != want {
		r.t.Errorf("the database takes %q and conf.php has %q, want %s", got, r.engine.confs[acmeID], want)
	}
	if len(r.engine.sqls) == 0 { // it came to nothing, and its copy of the password in force goes with the next change
		return
	}
	if last := r.engine.sqls[len(r.engine.sqls)-1]; !strings.Contains(last, "ALTER USER 'root'@'localhost' IDENTIFIED BY 'VALUEOFdbroot0"+version+"'") {
		r.t.Errorf("root's is not changed: %s", last)
	}
	for _, file := range []string{"db", "db-root", "web/db"} {
		data, err := os.ReadFile(filepath.Join(r.root, r.secretsDir(acmeID), file))
		if err != nil || !strings.HasSuffix(string(data), version) {
			r.t.Errorf("%s: %v, of another version", file, err)
		}
	}
	if r.host.Exists(r.formerDir(acmeID)) {
		r.t.Error("former passwords are left on the disk")
	}
	must(r.t, r.Verify(r.t.Context(), wish{Spec: r.spec}))
	if pl, err := r.Plan(r.t.Context(), wish{Spec: r.spec}); err != nil || len(pl.Changes) > 0 {
		r.t.Errorf("afterwards: %v, %v", pl.Changes, err)
	}
}

func TestOtherPasswordsOfADatabase(t *testing.T) {
	r := newTurn(t)
	containers := func() (ids []string) {
		for _, part := range []string{"db", "app"} {
			ids = append(ids, r.engine.find(containerName(acmeID, part)).ID)
		}
		return ids
	}
	before := containers()
	r.passwords("v2")
	pl, err := r.Plan(t.Context(), wish{Spec: r.spec})
	if err != nil || len(pl.Changes) != 1 || !strings.Contains(strings.Join(pl.Changes[0].After, "\n"), "secret db: changed, in the database too") {
		t.Errorf("plan: %v, %v", pl.Changes, err)
	}
	must(t, r.try())
	r.settled("v2")
	if !slices.Equal(before, containers()) {
		t.Error("containers were made anew for it")
	}
	if shown := r.exposed(); strings.Contains(shown, "VALUEOF") {
		t.Errorf("a password can be seen: %s", shown)
	}
}

// TestAgentThatDiesWithOtherPasswords kills the agent at each thing that it does in turn. The application must be able to log in at once, and
// the next agent must come to the new passwords, to the former ones, or to others still.
func TestAgentThatDiesWithOtherPasswords(t *testing.T) {
	for _, next := range []string{"v2", "v1", "v3"} {
		t.Run(next, func(t *testing.T) {
			for n := 1; ; n++ {
				r := newTurn(t)
				r.passwords("v2")
				r.begin(n)
				_ = r.try() // it is killed
				if r.calls < n {
					if n < 15 {
						t.Errorf("only %d calls", n)
					}
					return
				}
				if !r.works() {
					t.Fatalf("killed at call %d: the application cannot log in any more", n)
				}
				r.begin()
				r.passwords(next)
				if err := r.try(); err != nil {
					t.Fatalf("killed at call %d, and then: %v", n, err)
				}
				r.settled(next)
			}
		})
	}
}

// TestAgentThatDiesTwiceWithOtherPasswords kills it on its way to v2, and again on its way to v3.
func TestAgentThatDiesTwiceWithOtherPasswords(t *testing.T) {
	for first := 3; first < 22; first += 3 {
		for second := 3; second < 22; second += 2 {
			r := newTurn(t)
			for i, at := range []int{first, second} {
				r.passwords([]string{"v2", "v3"}[i])
				r.begin(at)
				_ = r.try() // it is killed
				if !r.works() {
					t.Fatalf("killed at %d and %d: the application cannot log in any more", first, second)
				}
			}
			r.begin()
			must(t, r.try())
			r.settled("v3")
		}
	}
}

func TestPasswordsThatCannotBeTriedAreTakenBack(t *testing.T) {
	for name, harm := range map[string]func(r *turnRig){
		"the tool refuses": func(r *turnRig) { r.engine.refuse = `{"ok":false,"error":"no room"}` },
		"no page":          func(r *turnRig) { r.engine.version = "no" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTurn(t)
			r.passwords("v2")
			harm(r)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			pl, err := r.Plan(ctx, wish{Spec: r.spec})
			must(t, err)
			if err := r.Apply(ctx, pl); err == nil {
				t.Error("nothing was said")
			}
			if !r.works() || !slices.Contains(r.engine.takes[acmeID], "VALUEOFdb0v1") {
				t.Errorf("the database takes %q, conf.php has %s", r.engine.takes[acmeID], r.engine.confs[acmeID])
			}
			r.engine.refuse, r.engine.version = "", "19.0.4"
			must(t, r.try())
			r.settled("v2")
		})
	}
}

func TestSuspendedInstanceGetsItsPasswordsWhenItComesBack(t *testing.T) {
	r := newTurn(t)
	r.inst.Mode = v1.InstanceMode_INSTANCE_MODE_SUSPENDED
	must(t, r.try())
	r.passwords("v2")
	if pl, err := r.Plan(t.Context(), wish{Spec: r.spec}); err != nil || len(pl.Changes) > 0 {
		t.Errorf("while it is suspended: %v, %v", pl.Changes, err)
	}
	r.inst.Mode = runningMode
	must(t, r.try())
	r.settled("v2")
}

func TestFormerPasswordsStayAsLongAsPHPMayUseThem(t *testing.T) {
	m := regexp.MustCompile(`(?m)^opcache.revalidate_freq = ([0-9]+)$`).FindSubmatch(images.Web()["php.ini"])
	if m == nil {
		t.Fatal("php.ini does not say how long PHP goes on with a file that it has read")
	}
	if seconds, err := time.ParseDuration(string(m[1]) + "s"); err != nil || seconds+2*time.Second > confWait {
		t.Errorf("PHP goes on for %s, and they are good for %s: %v", seconds, confWait, err)
	}
}

func TestRollbackOfPasswordsNeedsNoServer(t *testing.T) {
	r := newTurn(t)
	r.passwords("v2")
	pl, err := r.Plan(t.Context(), wish{Spec: r.spec})
	must(t, err)
	snap, err := r.Snapshot(t.Context(), pl)
	must(t, err)
	must(t, r.Apply(t.Context(), pl))
	r.cfg.Fetcher = nil
	must(t, r.Rollback(t.Context(), snap))
	r.passwords("v1")
	r.settled("v1")
}

var (
	learnForm  = regexp.MustCompile(`ALTER USER 'dolibarr'@'%' IDENTIFIED (.*);`)
	quotedForm = regexp.MustCompile(`'([A-Za-z0-9]+)'`)
)

// learn is what a database does with statements about its application's account.
func (e *testEngine) learn(id, statements string) {
	if m := learnForm.FindStringSubmatch(statements); m != nil {
		e.takes[id] = nil
		for _, value := range quotedForm.FindAllStringSubmatch(m[1], -1) {
			e.takes[id] = append(e.takes[id], value[1])
		}
	}
}
