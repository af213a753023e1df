package app

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/console"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

type attachStream = grpc.BidiStreamingClient[v1.AttachRequest, v1.AttachResponse]

// attach answers the next AttachTask of a session by opening its stream.
func (m *machine) attach(stream testStream) attachStream {
	m.f.Helper()
	for {
		msg, err := stream.Recv()
		if err != nil {
			m.f.Error(err)
			return nil
		}
		task := msg.GetTask()
		if task.GetAttach() == nil {
			continue
		}
		_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Accepted{Accepted: &v1.TaskAccepted{TaskId: task.GetId()}}})
		s, err := v1.NewSessionServiceClient(m.conn).Attach(m.f.Context())
		if err != nil {
			m.f.Error(err)
			return nil
		}
		_ = s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_AttachId{AttachId: task.GetAttach().GetAttachId()}})
		_ = s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_Output{Output: &v1.ConsoleOutput{Data: []byte("begun")}}})
		return s
	}
}

func quickConsoles(c *Config) { c.Consoles = console.Limits{Recheck: 20 * time.Millisecond} }

func TestConsoleOverTheRealListener(t *testing.T) {
	f := newFixture(t, quickConsoles)
	anna := f.login("anna")
	m := f.node(anna, "web")
	session, _ := m.mustOpen()
	agent := make(chan attachStream, 1)
	go func() { agent <- m.attach(session) }()
	logs, err := v1.NewConsoleServiceClient(anna.conn).StreamLogs(t.Context(), &v1.StreamLogsRequest{Node: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := logs.Recv(); err != nil || string(first.GetOutput().GetData()) != "begun" {
		t.Fatalf("got %v, %v", first, err)
	}
	s := <-agent
	_ = s.Send(&v1.AttachRequest{Message: &v1.AttachRequest_Output{Output: &v1.ConsoleOutput{Ended: true}}})
	if last, err := logs.Recv(); err != nil || !last.GetOutput().GetEnded() {
		t.Fatalf("got %v, %v", last, err)
	}
	if _, err := logs.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
	if recs, err := f.app.store.List(t.Context(), "task", store.ListOptions{}); err != nil || len(recs) != 0 {
		t.Errorf("%d tasks are stored, %v", len(recs), err)
	}
}

func TestConsoleNeedsALiveNode(t *testing.T) {
	f := newFixture(t, quickConsoles)
	anna := f.login("anna")
	f.node(anna, "web")
	logs, err := v1.NewConsoleServiceClient(anna.conn).StreamLogs(t.Context(), &v1.StreamLogsRequest{Node: "web"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = logs.Recv()
	wantCode(t, err, errs.Unavailable)
}

func TestRevocationCutsAConsole(t *testing.T) {
	for _, who := range []string{"operator", "node"} {
		t.Run(who, func(t *testing.T) {
			f := newFixture(t, quickConsoles)
			anna := f.login("anna")
			otto := f.operator("otto", certs.RoleOperator)
			m := f.node(anna, "web")
			stream, _ := m.mustOpen()
			agent := make(chan attachStream, 1)
			go func() { agent <- m.attach(stream) }()
			logs, err := v1.NewConsoleServiceClient(otto.conn).StreamLogs(t.Context(), &v1.StreamLogsRequest{Node: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := logs.Recv(); err != nil {
				t.Fatal(err)
			}
			s := <-agent
			cred := otto.cred
			if who == "node" {
				cred = m.cred
			}
			if _, err := f.app.fleet.Revoked.Put(t.Context(), certs.KeyHash(cred.Leaf), fleet.Revocation{Identity: who}, store.Any); err != nil {
				t.Fatal(err)
			}
			if _, err = logs.Recv(); err == nil {
				t.Error("the operator's stream goes on")
			}
			if _, err := s.Recv(); err == nil {
				t.Error("the agent's stream goes on")
			}
		})
	}
}

// lockedBuffer collects what many goroutines log.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestSecretsOverTheRealListener sets a secret as operators do and looks for its value in all that the server logs, audits,
// answers and keeps.
func TestSecretsOverTheRealListener(t *testing.T) {
	log := &lockedBuffer{}
	f := newFixture(t, func(c *Config) { c.Log = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log}) })
	anna := f.login("anna")
	m := f.node(anna, "web")
	secrets := v1.NewSecretServiceClient(anna.conn)
	const planted = "planted-value-8f3a1c"
	set, err := secrets.SetSecret(t.Context(), &v1.SetSecretRequest{Name: "db-root", Value: []byte(planted)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = secrets.SetSecret(t.Context(), &v1.SetSecretRequest{Name: "db-root", Value: []byte(planted), OnlyNew: true})
	wantCode(t, err, errs.Exists)
	_, err = secrets.SetSecret(t.Context(), &v1.SetSecretRequest{Name: "BAD", Value: []byte(planted)})
	wantCode(t, err, errs.Invalid)
	_, err = secrets.SetSecret(t.Context(), &v1.SetSecretRequest{Name: "huge", Value: bytes.Repeat([]byte(planted), 10000)})
	wantCode(t, err, errs.Invalid)
	if _, err := secrets.RotateSecret(t.Context(), &v1.RotateSecretRequest{Name: "db-root"}); err != nil {
		t.Fatal(err)
	}
	_, err = v1.NewSessionServiceClient(m.conn).FetchSecrets(t.Context(), &v1.FetchSecretsRequest{
		Refs: []*v1.SecretRef{{Name: "db-root", Version: set.GetSecret().GetVersion()}}})
	wantCode(t, err, errs.Denied)
	list, err := secrets.ListSecrets(t.Context(), &v1.ListSecretsRequest{})
	if err != nil || len(list.GetSecrets()) != 1 {
		t.Fatalf("list = %v, %v", list, err)
	}
	entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range entries {
		seen[e.Action+" "+e.Result] = true
		if e.Action == v1.SecretService_SetSecret_FullMethodName && e.Request != "" {
			t.Errorf("the audit log has a digest of a request with a value: %s", e.Request)
		}
		if strings.Contains(e.Message+e.Target+e.Request, planted) {
			t.Errorf("the audit log has the value: %+v", e)
		}
	}
	for _, want := range []string{v1.SecretService_SetSecret_FullMethodName + " ok", v1.SecretService_RotateSecret_FullMethodName + " ok",
		v1.SessionService_FetchSecrets_FullMethodName + " denied"} {
		if !seen[want] {
			t.Errorf("not audited: %s", want)
		}
	}
	if log.String() == "" || strings.Contains(log.String()+list.String()+set.String(), planted) {
		t.Error("a log line or an answer has the value, or nothing was logged")
	}
	recs, err := f.app.store.List(t.Context(), secret.KindValue, store.ListOptions{})
	if err != nil || len(recs) != 2 {
		t.Fatalf("%d values are stored, %v", len(recs), err)
	}
	for _, r := range recs {
		if bytes.Contains(r.Data, []byte(planted)) {
			t.Error("a value is stored as it is")
		}
	}
}

func TestAnOlderServerGetsAStoreKey(t *testing.T) {
	f := newFixture(t)
	f.stop()
	key := f.app.cfg.storeKey()
	if err := errs.Join(os.Remove(key), f.forgetProof()); err != nil {
		t.Fatal(err)
	}
	f.start()
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("store key: %v, %v", info, err)
	}
}

// forgetProof makes the store that of a server from before there were secrets.
func (f *fixture) forgetProof() error {
	s, err := openStore(f.T, f.app.cfg)
	if err != nil {
		return err
	}
	_, err = s.Write(f.Context(), store.Delete{Kind: secret.KindProof, Name: "store-key", Expect: store.Any})
	return errs.Join(err, s.Close())
}

func openStore(t *testing.T, cfg Config) (store.Store, error) {
	return sqlite.Open(t.Context(), sqlite.Config{Dir: cfg.storeDir(), Clock: cfg.Clock, Logger: cfg.Log})
}
