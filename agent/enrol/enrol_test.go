package enrol_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	machineA = "0123456789abcdef0123456789abcdef"
	machineB = "fedcba9876543210fedcba9876543210"
	dir      = "/var/lib/infractl"
)

type machine struct {
	t     testing.TB
	root  string
	host  *host.Host
	env   map[string]string
	clock clock.Clock
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, root: t.TempDir(), env: map[string]string{}, clock: clock.System{}}
	m.host = host.New(host.Config{Root: m.root})
	m.write("/etc/machine-id", machineA+"\n")
	return m
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	if _, err := m.host.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) store() *enrol.Store {
	return enrol.NewStore(m.host, dir, enrol.NewClock(m.clock, nil))
}

func (m *machine) enroller(store *enrol.Store) *enrol.Enroller {
	return enrol.New(enrol.Config{Host: m.host, Store: store, Log: hclog.NewNullLogger(), Version: "test",
		Getenv: func(name string) string { return m.env[name] }, Node: func() string { return "web1" },
		Backoff: enrol.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond}, Poll: 5 * time.Millisecond})
}

// run enrols within ten seconds.
func (m *machine) run(store *enrol.Store) *enrol.Identity {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Second)
	defer cancel()
	if err := m.enroller(store).Run(ctx); err != nil {
		m.t.Fatal(err)
	}
	list, err := store.Identities()
	if err != nil {
		m.t.Fatal(err)
	}
	return list[0]
}

// refused checks that the agent goes on trying without success for a while.
func (m *machine) refused(store *enrol.Store) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 150*time.Millisecond)
	defer cancel()
	if err := m.enroller(store).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		m.t.Fatalf("got %v, want to be still waiting", err)
	}
	if _, err := store.Identities(); !errs.Is(err, errs.NotFound) {
		m.t.Fatalf("got %v, want no identity", err)
	}
}

func TestTokenPlaces(t *testing.T) {
	for _, path := range enrol.TokenFiles() {
		t.Run(path, func(t *testing.T) {
			server, m := sessiontest.New(t, nil), newMachine(t)
			m.write(path, server.Token(t, "one")+"\n")
			id := m.run(m.store())
			if got, want := id.Identity.URI(), "infractl://lab/node/web1"; got != want || !id.Candidate {
				t.Errorf("got %s candidate %t, want %s as candidate", got, id.Candidate, want)
			}
			if m.host.Exists(path) {
				t.Error("the token is still there")
			}
			info, err := os.Stat(m.host.Path(dir + "/identity"))
			if err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("identity folder: mode %v, error %v, want 0700", info.Mode(), err)
			}
		})
	}
	t.Run("Environment", func(t *testing.T) {
		server, m := sessiontest.New(t, nil), newMachine(t)
		m.env[enrol.TokenVariable] = server.Token(t, "one")
		m.run(m.store())
		if err := m.store().SetAside("revoked"); err != nil {
			t.Fatal(err)
		}
		m.refused(m.store()) // the token in the environment stays, but it was used
	})
}

func TestEnrolsWhenTheTokenComesLater(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	go func() {
		time.Sleep(50 * time.Millisecond)
		path := m.host.Path("/etc/infractl/join-token")
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		text := server.Token(t, "one")
		_ = os.WriteFile(path, []byte(text[:20]), 0o600) // half written
		time.Sleep(20 * time.Millisecond)
		_ = os.WriteFile(path, []byte(text), 0o600)
	}()
	m.run(m.store())
}

func TestLostReplyIsRepeatedWithTheSameIDAndKey(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write("/etc/infractl/join-token", server.Token(t, "one"))
	var mu sync.Mutex
	seen := map[string]int{}
	server.Enrolled = func(r *v1.EnrolRequest) (*v1.EnrolResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.GetEnrolmentId()]++
		response, err := server.IssueResponse(r.GetCsr(), "web1")
		if seen[r.GetEnrolmentId()] < 3 {
			return nil, errs.New(errs.Unavailable, "the reply is lost")
		}
		return response, err
	}
	// The agent is restarted between the tries, too.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
	_ = m.enroller(m.store()).Run(ctx)
	cancel()
	m.run(m.store())
	if len(seen) != 1 {
		t.Errorf("got %d enrolment ids, want 1", len(seen))
	}
}

func TestRefusedTokenIsReplacedByANewOne(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write("/etc/infractl/join-token", server.Token(t, "old"))
	server.Enrolled = func(r *v1.EnrolRequest) (*v1.EnrolResponse, error) {
		if r.GetTokenId() == "old" {
			return nil, errs.New(errs.Denied, "the token has expired").WithHint("make a new one")
		}
		return server.IssueResponse(r.GetCsr(), "web1")
	}
	store := m.store()
	m.refused(store)
	go func() {
		time.Sleep(30 * time.Millisecond)
		_ = os.WriteFile(m.host.Path("/etc/infractl/join-token"), []byte(server.Token(t, "new")), 0o600)
	}()
	m.run(store)
	if got := store.UsedTokens(); len(got) != 1 || got[0] != "new" {
		t.Errorf("got used tokens %v, want [new]", got)
	}
}

func TestPendingThenApproved(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write("/etc/infractl/join-token", server.Token(t, "one"))
	var mu sync.Mutex
	asked := 0
	server.Enrolled = func(r *v1.EnrolRequest) (*v1.EnrolResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if asked++; asked < 4 {
			return server.Pending(10 * time.Millisecond), nil
		}
		return server.IssueResponse(r.GetCsr(), "other-name")
	}
	if got := m.run(m.store()).Identity.Name; got != "other-name" {
		t.Errorf("got name %q, want the one that the server gave", got)
	}
}

// TestNewNameBeginsANewEnrolment: a machine may be named while it waits, and a person approves what was seen.
func TestNewNameBeginsANewEnrolment(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	text, err := (&jointoken.Token{Addresses: []string{server.EnrolAddress}, Fingerprint: server.Authority.Fingerprint(),
		Site: sessiontest.Site}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.write("/etc/infractl/join-token", text)
	var mu sync.Mutex
	name := "localhost"
	ids := map[string]string{}
	server.Enrolled = func(r *v1.EnrolRequest) (*v1.EnrolResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		ids[r.GetEnrolmentId()] = r.GetNode()
		if r.GetNode() == "localhost" {
			name = "web1"
			return server.Pending(time.Millisecond), nil
		}
		return server.IssueResponse(r.GetCsr(), "web1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = enrol.New(enrol.Config{Host: m.host, Store: m.store(), Log: hclog.NewNullLogger(), Poll: time.Millisecond,
		Getenv: func(string) string { return "" }, Node: func() string { mu.Lock(); defer mu.Unlock(); return name }}).Run(ctx)
	if err != nil || len(ids) != 2 {
		t.Errorf("ids %v, %v", ids, err)
	}
}

func TestWrongPin(t *testing.T) {
	server, other, m := sessiontest.New(t, nil), sessiontest.New(t, nil), newMachine(t)
	other.EnrolAddress = server.EnrolAddress
	m.write("/etc/infractl/join-token", other.Token(t, "one"))
	server.Enrolled = func(*v1.EnrolRequest) (*v1.EnrolResponse, error) {
		t.Error("the secret was sent to another server")
		return nil, errs.New(errs.Internal, "never")
	}
	m.refused(m.store())
}

func TestClockDaysOff(t *testing.T) {
	for name, offset := range map[string]time.Duration{"Behind": -72 * time.Hour, "Ahead": 72 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			server, m := sessiontest.New(t, nil), newMachine(t)
			m.clock = clock.System{Offset: offset}
			m.write("/etc/infractl/join-token", server.Token(t, "one"))
			store := m.store()
			m.run(store)
			if off := time.Since(store.Clock().Now()); off.Abs() > 2*time.Second {
				t.Errorf("the corrected clock is %s off", off)
			}
			if got := m.store().Clock().Offset() + offset; got.Abs() > 2*time.Second {
				t.Errorf("after a restart the clock is %s off", got)
			}
		})
	}
}

func TestTemplateDoesNotEnrol(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write("/etc/infractl/join-token", server.Token(t, "one"))
	m.write(enrol.TemplateMark, "")
	m.refused(m.store())
}

func TestCheckMachine(t *testing.T) {
	base := &v1.HostFingerprint{MachineId: machineA, ProductSerial: "S1", MacAddresses: []string{"02:00:00:00:00:01"}}
	tests := []struct {
		name    string
		present *v1.HostFingerprint
		cloned  string
	}{
		{"OKSame", base, ""},
		{"OKOtherMACs", &v1.HostFingerprint{MachineId: machineA, ProductSerial: "S1", MacAddresses: []string{"02:00:00:00:00:02"}}, ""},
		{"OKSerialNotReadable", &v1.HostFingerprint{MachineId: machineA}, ""},
		{"ErrOtherMachineID", &v1.HostFingerprint{MachineId: machineB, ProductSerial: "S1"}, "machine-id"},
		{"ErrOtherSerial", &v1.HostFingerprint{MachineId: machineA, ProductSerial: "S2"}, "serial"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			store := newMachine(t).store()
			if err := store.CheckMachine(base); err != nil {
				t.Fatal(err)
			}
			err := store.CheckMachine(tt.present)
			var cloned *enrol.ClonedError
			if got := errors.As(err, &cloned); got != (tt.cloned != "") || (got && !strings.Contains(cloned.Why, tt.cloned)) {
				t.Errorf("got %v, want %q", err, tt.cloned)
			}
			// A serial that was not readable once is not forgotten.
			if err := store.CheckMachine(&v1.HostFingerprint{MachineId: machineA, ProductSerial: "S3"}); err == nil {
				t.Error("the serial was forgotten")
			}
		})
	}
}
