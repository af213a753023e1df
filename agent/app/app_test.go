package app_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/app"
	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const tokenPath = "/etc/infractl/join-token"

type machine struct {
	t    testing.TB
	root string
	cfg  app.Config
	stop func()
}

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, root: t.TempDir()}
	m.write("/etc/machine-id", strings.Repeat("0", 32))
	m.write("/etc/hostname", "web1\n")
	m.cfg = app.Config{Root: m.root, Log: hclog.NewNullLogger(), Getenv: func(string) string { return "" },
		Backoff:   enrol.Backoff{Base: time.Millisecond, Max: 20 * time.Millisecond},
		Providers: func(*host.Host, hclog.Logger) *app.Providers { return &app.Providers{} }}
	return m
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	file := filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) start() {
	m.t.Helper()
	a, err := app.New(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() { defer close(gone); _ = a.Run(ctx) }()
	m.stop = func() { cancel(); <-gone }
	m.t.Cleanup(m.stop)
}

func (m *machine) asides(reason string) int {
	found, err := filepath.Glob(m.root + app.DefaultStateDir + "/identity." + reason + "-*")
	if err != nil {
		m.t.Fatal(err)
	}
	return len(found)
}

func planTask(t *testing.T, id string) *v1.Task {
	t.Helper()
	content, digest, err := hostspec.Encode(&v1.HostSpec{Site: "lab", Node: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Minute)),
		Work: &v1.Task_Plan{Plan: &v1.PlanTask{Spec: content, SpecDigest: digest}}}
}

func TestFromTokenToSessionAndBack(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.start() // before there is a token
	m.write(tokenPath, server.Token(t, "one"))
	x := server.Next(t)
	if x.Hello.GetProbe() || !strings.HasPrefix(x.Hello.GetWitnessKey(), "ssh-ed25519 ") {
		t.Errorf("got hello %v", x.Hello)
	}
	x.SendTask(t, planTask(t, "p1"))
	if r := x.Result(t, "p1"); r.GetError() != nil {
		t.Errorf("got %v", r)
	}
	first := x.Hello.GetWitnessKey()
	m.stop()
	m.start() // the identity is still there
	x = server.Next(t)
	if x.Hello.GetWitnessKey() != first {
		t.Error("the witness key changed with a restart")
	}
	serial := x.Identity.Serial
	x.End(server.RevokedError(t, serial))
	m.write(tokenPath, server.Token(t, "two"))
	x = server.Next(t)
	if x.Identity.Serial == serial || x.Hello.GetWitnessKey() == first || m.asides("revoked") != 1 {
		t.Errorf("got serial %s, %d set aside; want everything new", x.Identity.Serial, m.asides("revoked"))
	}
}

func TestCloneEnrolsAnew(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write(tokenPath, server.Token(t, "one"))
	m.start()
	x := server.Next(t)
	serial, witness := x.Identity.Serial, x.Hello.GetWitnessKey()
	m.stop()
	m.write("/etc/machine-id", strings.Repeat("1", 32))
	m.start()
	server.NoSession(t, 100*time.Millisecond)
	m.write(tokenPath, server.Token(t, "two"))
	x = server.Next(t)
	if x.Identity.Serial == serial || x.Hello.GetWitnessKey() == witness || m.asides("cloned") != 1 {
		t.Errorf("got serial %s, %d set aside; want everything new", x.Identity.Serial, m.asides("cloned"))
	}
}

func TestDamagedIdentityWaitsForAToken(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.write(tokenPath, server.Token(t, "one"))
	m.start()
	server.Next(t)
	m.stop()
	for _, file := range []string{"identity.pem", "identity.candidate.pem"} {
		if path := app.DefaultStateDir + "/identity/" + file; host.New(host.Config{Root: m.root}).Exists(path) {
			m.write(path, "broken")
		}
	}
	m.write(tokenPath, server.Token(t, "two"))
	m.start()
	server.Next(t)
	if m.asides("damaged") != 1 {
		t.Errorf("got %d set aside, want 1", m.asides("damaged"))
	}
}

func TestProbeManagesNothing(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	m.cfg.Probe, m.cfg.StateDir = "operator", "/probe"
	m.write(tokenPath, "another agent's token, not to be touched")
	m.write("/probe/join-token", server.Token(t, "one"))
	m.start()
	x := server.Next(t)
	if !x.Hello.GetProbe() {
		t.Error("the hello does not say that it is a probe")
	}
	x.SendTask(t, planTask(t, "p1"))
	if r := x.Result(t, "p1"); r.GetError().GetCode() != string(errs.Denied) {
		t.Errorf("got %v, want denied", r)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	m := newMachine(t)
	ready := make(chan struct{})
	m.cfg.Notify = func(state string) {
		if state == "READY=1" {
			close(ready)
		}
	}
	m.start()
	<-ready // it has the lock
	m.cfg.Notify = nil
	a, err := app.New(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := a.Run(ctx); !errs.Is(err, errs.Exists) {
		t.Errorf("got %v, want refused", err)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"OKVersion", []string{"version"}, 0, "devel"},
		{"OKStatus", []string{"status", "--state-dir", dir}, 0, "waiting for a join token"},
		{"ErrRevertNothing", []string{"revert"}, 1, "give either"},
		{"ErrRevertUnknown", []string{"revert", "--commit", "none", "--state-dir", dir}, 1, "none"},
		{"OKRevertNothingAtBoot", []string{"revert", "--boot", "--state-dir", dir}, 0, ""},
		{"ErrUnknownCommand", []string{"fly"}, 1, "unknown command"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			if code := app.Execute(t.Context(), tt.args, &out, &out); code != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("got code %d and %q, want %d and %q", code, out.String(), tt.code, tt.want)
			}
		})
	}
}
