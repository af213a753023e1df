package app_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/app"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/internal/hostspec"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// countedFirewall counts how often what was kept is put back.
type countedFirewall struct{ repairs atomic.Int32 }

func (f *countedFirewall) Repair(context.Context) ([]string, error) {
	f.repairs.Add(1)
	return nil, nil
}
func (f *countedFirewall) Foreign(context.Context) ([]string, error) { return nil, nil }

func (m *machine) exists(path string) bool {
	_, err := os.Stat(filepath.Join(m.root, path))
	return err == nil
}

func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("not so: %s", what)
		}
	}
}

func applyTask(t *testing.T, id string) *v1.Task {
	t.Helper()
	content, digest, err := hostspec.Encode(&v1.HostSpec{Site: "lab", Node: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	return &v1.Task{Id: id, NotAfter: timestamppb.New(time.Now().Add(time.Minute)), Work: &v1.Task_Apply{Apply: &v1.ApplyTask{
		Spec: content, SpecDigest: digest, Pass: v1.Pass_PASS_WIDEN, CommitId: id, SiteRevision: 1}}}
}

func TestACopyHealsButPutsNothingOfItsOriginalBack(t *testing.T) {
	server, m := sessiontest.New(t, nil), newMachine(t)
	fw := &countedFirewall{}
	m.cfg.Providers = func(*host.Host, hclog.Logger) *app.Providers { return &app.Providers{Firewall: fw} }
	m.write(tokenPath, server.Token(t, "one"))
	m.start()
	server.Next(t)
	m.stop()
	before := fw.repairs.Load()
	m.start()
	server.Next(t)
	m.stop()
	if fw.repairs.Load() == before {
		t.Fatal("the machine itself does not put its firewall back")
	}

	m.write("/etc/machine-id", strings.Repeat("1", 32))
	const commit = app.DefaultStateDir + "/commits/c1/"
	m.write(commit+"armed.json", `{"id": "c1", "steps": []}`)
	before = fw.repairs.Load()
	m.start()
	m.eventually("the identity is set aside", func() bool { return m.asides("cloned") == 1 })
	if !m.exists(commit + "reverted.json") {
		t.Error("an open commit did not heal on the copy")
	}
	m.stop()
	m.start() // without an identity, and later with one of its own and no spec yet
	m.write(tokenPath, server.Token(t, "two"))
	server.Next(t)
	m.stop()
	m.start()
	x := server.Next(t)
	if n := fw.repairs.Load() - before; n != 0 {
		t.Errorf("the original's firewall was put back %d times on the copy", n)
	}

	x.SendTask(t, applyTask(t, "a1"))
	if r := x.Result(t, "a1"); r.GetError() != nil {
		t.Fatalf("got %v", r)
	}
	m.stop()
	m.start()
	server.Next(t)
	if fw.repairs.Load() == before {
		t.Error("with a spec of its own it does not put its own firewall back")
	}
}
