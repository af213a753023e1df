package app

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// A server whose database is gone or damaged says so and names the way back. It never begins with an empty one.
func TestALostDatabaseIsNeverReplacedByAnEmptyOne(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"cut off": func(path string) error { return os.Truncate(path, 8192+100) },
		"foreign": func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("not a database\n", 1000)), 0o600)
		},
		"overwrite": overwrite,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.login("anna")
			data := f.backup()
			f.stop()
			path := filepath.Join(f.cfg.storeDir(), "infractl.db")
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			a, err := New(t.Context(), f.cfg)
			if err == nil {
				a.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(errs.HintOf(err), "infractl-server restore") {
				t.Errorf("error %v, hint %q", err, errs.HintOf(err))
			}
			if info, serr := os.Stat(path); name == "gone" && serr == nil {
				t.Errorf("it made a new one of %d bytes", info.Size())
			}
			cfg := f.cfg
			cfg.Addresses = nil
			if _, err := Restore(t.Context(), cfg, strings.NewReader(string(data)), f.recoveryKey(), true); err != nil {
				t.Fatalf("the way that the hint names: %v", err)
			}
			f.start()
		})
	}
}

// overwrite destroys pages in the middle.
func overwrite(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteAt([]byte(strings.Repeat("garbage ", 2048)), 4096)
	return err
}

func TestARestoreThatWasCutShortKeepsTheServerFromStarting(t *testing.T) {
	f := newFixture(t)
	f.stop()
	path := filepath.Join(f.cfg.DataDir, "restore.pending")
	if err := os.WriteFile(path, []byte(`{"staged":"/none","keys":"/none","former_keys":"/none"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New(t.Context(), f.cfg)
	wantCode(t, err, errs.Precondition)
	if !strings.Contains(errs.HintOf(err), "infractl-server restore --finish") {
		t.Errorf("hint = %q", errs.HintOf(err))
	}
	if err := FinishRestore(f.cfg); err != nil {
		t.Fatal(err)
	}
	f.start()
}

// A clock that is put forward or back by a day breaks nothing for good: agents come back, operators stay logged in, a token is
// good again when the clock is.
func TestAJumpOfTheClockByADayHeals(t *testing.T) {
	for name, off := range map[string]time.Duration{"forward": 24 * time.Hour, "back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			anna := f.login("anna")
			f.wanted(nil)
			m, other := f.node(anna, "web"), f.node(anna, "dns")
			right := f.clock.Now()
			tok := f.token(anna, &v1.CreateTokenRequest{Node: "late"})
			ended := make(chan error, 1)
			stream, _ := m.mustOpen()
			go func() { ended <- work(stream) }()

			f.clock.Advance(off)
			f.app.health.Look(t.Context()) // as it does every few seconds
			if err := <-ended; errs.CodeOf(errs.FromGRPC(err)) != errs.Unavailable {
				t.Errorf("the session ended with %v", err)
			}
			anna.conn = f.dialMain(anna.cred)
			if text := anna.findings(t); !strings.Contains(text, "server clock: the server's clock was put "+name+" by 24h0m0s") {
				t.Errorf("findings:\n%s", text)
			}
			if err := f.app.clean(t.Context()); err != nil {
				t.Error(err)
			}
			for _, x := range []*machine{m, other} { // their own clocks are right
				stream := connectAt(t, f, x, right)
				defer stream.CloseSend() // the test ends it
			}
			f.app.health.Look(t.Context())
			if text := anna.findings(t); !strings.Contains(text, "2 hosts agree that the server's clock is 24h0m0s") {
				t.Errorf("findings:\n%s", text)
			}

			f.clock.Advance(-off)
			f.app.health.Look(t.Context())
			anna.conn = f.dialMain(anna.cred)
			for _, x := range []*machine{m, other} {
				connectAt(t, f, x, f.clock.Now())
			}
			f.app.health.Look(t.Context())
			if text := anna.findings(t); strings.Contains(text, "clock") {
				t.Errorf("the clock is right again, and the findings are:\n%s", text)
			}
			resp, err := f.dialEnrol().Enrol(t.Context(), f.machine("late").request(tok))
			if err != nil || resp.GetState() != v1.EnrolmentState_ENROLMENT_STATE_ISSUED {
				t.Errorf("the token of before: %v, %v", resp, err)
			}
		})
	}
}

func connectAt(t *testing.T, f *fixture, m *machine, local time.Time) testStream {
	t.Helper()
	m.conn = f.dialMain(m.cred)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	hello := m.hello()
	hello.LocalTime = timestamppb.New(local)
	stream, err := v1.NewSessionServiceClient(m.conn).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: hello}})
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("%s does not come back: %v", m.name, err)
	}
	return stream
}
