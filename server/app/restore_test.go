package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/backup"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

func (f *fixture) recoveryKey() age.Identity {
	f.Helper()
	key, err := backup.ParseKey([]byte(f.made.RecoveryKey))
	if err != nil {
		f.Fatal(err)
	}
	return key
}

func (f *fixture) backup() []byte {
	f.Helper()
	var b bytes.Buffer
	if _, err := Backup(f.Context(), f.cfg, false, &b); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// restored stops the server, puts it back in other folders, and starts it there.
func (f *fixture) restored(data []byte) *Restored {
	f.Helper()
	f.stop()
	f.cfg.DataDir = filepath.Join(f.TempDir(), "data")
	f.cfg.KeyDir = ""
	cfg := f.cfg
	cfg.Addresses = nil
	done, err := Restore(f.Context(), cfg, bytes.NewReader(data), f.recoveryKey(), false)
	if err != nil {
		f.Fatal(err)
	}
	f.start()
	return done
}

func (f *fixture) revision(number string) {
	f.Helper()
	if _, err := f.app.store.Write(f.Context(), store.Put{Kind: "revision", Name: "000000000" + number, Data: []byte(`{"number":` + number + `}`)}); err != nil {
		f.Fatal(err)
	}
}

func (p *person) nodeStates(t *testing.T) map[string]v1.NodeState {
	t.Helper()
	list, err := v1.NewNodeServiceClient(p.conn).ListNodes(t.Context(), &v1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]v1.NodeState{}
	for _, n := range list.GetNodes() {
		out[n.GetName()] = n.GetState()
	}
	return out
}

func (p *person) findings(t *testing.T) string {
	t.Helper()
	st, err := v1.NewNodeServiceClient(p.conn).GetStatus(t.Context(), &v1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range st.GetFindings() {
		b.WriteString(f.GetWhere() + ": " + f.GetMessage() + " [" + f.GetHint() + "]\n")
	}
	return b.String()
}

// says opens a session and reports that a spec of these revisions was kept.
func (m *machine) says(site, resources uint64) {
	m.f.Helper()
	m.conn = m.f.dialMain(m.cred)
	stream, _ := m.mustOpen()
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: &v1.Report{Sequence: 1, Facts: &v1.HostFacts{Hostname: m.name},
		State: &v1.HostState{SpecDigest: "d", SiteRevision: site, ResourceRevision: resources}}}})
}

func TestARestoredServerKnowsItsFleetAndWaitsForIt(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.revision("3")
	same, newer, away, probe := f.node(anna, "same"), f.node(anna, "newer"), f.node(anna, "away"), f.node(anna, "probe")
	away.mustOpen()
	data := f.backup()

	// What happens after the backup is not in it.
	f.clock.Advance(time.Minute)
	bob := f.login("bob")
	late := f.node(anna, "late")
	if _, err := v1.NewNodeServiceClient(anna.conn).RevokeNode(t.Context(), &v1.RevokeNodeRequest{Name: "away"}); err != nil {
		t.Fatal(err)
	}
	same.counter, newer.counter = 4, 2 // they renewed

	done := f.restored(data)
	if done.SiteRevision != 3 || done.Nodes != 4 || done.Operators != 1 || len(done.Moved) > 0 {
		t.Errorf("restored = %+v", done)
	}
	anna.conn = f.dialMain(anna.cred)
	const awaited, online, paused = v1.NodeState_NODE_STATE_AWAITING_RECONNECT, v1.NodeState_NODE_STATE_ONLINE, v1.NodeState_NODE_STATE_CONFLICT_PAUSED
	for name, state := range anna.nodeStates(t) {
		if state != awaited {
			t.Errorf("%s is %s", name, state)
		}
	}
	if text := anna.findings(t); !strings.Contains(text, "node same: was not heard since the server was restored") {
		t.Errorf("findings:\n%s", text)
	}
	same.says(3, 0)
	newer.says(4, 0)
	probe.conn = f.dialMain(probe.cred)
	hello := probe.hello()
	hello.Probe = true
	stream, err := v1.NewSessionServiceClient(probe.conn).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Hello{Hello: hello}})
	want := map[string]v1.NodeState{"same": online, "newer": paused, "away": awaited, "probe": online}
	f.eventually("each node is what it says", func() bool {
		got := anna.nodeStates(t)
		for name, state := range want {
			if got[name] != state {
				return false
			}
		}
		return len(got) == len(want)
	})
	text := anna.findings(t)
	if !strings.Contains(text, "it reports site revision 4, and the backup of") || !strings.Contains(text, "infractl node resume newer") {
		t.Errorf("findings:\n%s", text)
	}
	if n, err := f.app.fleet.Node(t.Context(), "newer"); err != nil || !strings.Contains(n.Held(), "paused after the restore") {
		t.Errorf("held = %q, %v", n.Held(), err)
	}

	nodes := v1.NewNodeServiceClient(anna.conn)
	if n, err := nodes.ResumeNode(t.Context(), &v1.ResumeNodeRequest{Name: "newer"}); err != nil || n.GetNode().GetState() != online {
		t.Errorf("resume: %v, %v", n, err)
	}
	_, err = nodes.ResumeNode(t.Context(), &v1.ResumeNodeRequest{Name: "newer"})
	wantCode(t, err, errs.Precondition)
	_, err = nodes.ResumeNode(t.Context(), &v1.ResumeNodeRequest{Name: "nobody"})
	wantCode(t, err, errs.NotFound)

	_, err = v1.NewOperatorServiceClient(f.dialMain(bob.cred)).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	wantCode(t, err, errs.Unauthenticated)
	if hint := errs.HintOf(errs.FromGRPC(err)); !strings.Contains(hint, "infractl-server admin-code") {
		t.Errorf("an operator of after the backup is told %q", hint)
	}
	late.conn = f.dialMain(late.cred)
	_, _, err = late.open(t.Context())
	wantCode(t, err, errs.Precondition)
	for _, action := range []string{v1.BackupService_CreateBackup_FullMethodName, "restore", "node.pause", v1.NodeService_ResumeNode_FullMethodName} {
		entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{Action: action})
		if err != nil || len(entries) == 0 {
			// The backup's own entry is written behind the copy.
			if action != v1.BackupService_CreateBackup_FullMethodName {
				t.Errorf("%s is not audited: %v", action, err)
			}
		}
	}
}

// A session that begins is no proof: what the machine knows comes with its first report, and a later one changes nothing.
func TestANodeIsJudgedOnceByItsFirstReport(t *testing.T) {
	r := &fleet.Restore{SiteRevision: 3, ResourceRevision: 7, Backup: time.Now()}
	for name, c := range map[string]struct {
		state  *v1.HostState
		paused bool
	}{
		"never applied":   {nil, false},
		"older":           {&v1.HostState{SiteRevision: 2, ResourceRevision: 7}, false},
		"the same":        {&v1.HostState{SiteRevision: 3, ResourceRevision: 7}, false},
		"newer site":      {&v1.HostState{SiteRevision: 4, ResourceRevision: 1}, true},
		"newer resources": {&v1.HostState{SiteRevision: 3, ResourceRevision: 8}, true},
	} {
		n := &fleet.Node{Name: "web", Awaited: time.Now()}
		if n.Held() == "" {
			t.Errorf("%s: managed before it was heard", name)
		}
		if !r.Heard(n, c.state) || (n.Paused != "") != c.paused || (n.Held() != "") != c.paused {
			t.Errorf("%s: paused %q", name, n.Paused)
		}
		before := *n
		if r.Heard(n, &v1.HostState{SiteRevision: 99}) || n.Paused != before.Paused {
			t.Errorf("%s: judged again", name)
		}
	}
}

func TestABackupIsMadeByTheRunningServerOrWithoutOne(t *testing.T) {
	f := newFixture(t)
	running := f.backup()
	entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{Action: v1.BackupService_CreateBackup_FullMethodName})
	if err != nil || len(entries) != 1 || entries[0].Actor != "local/root" || entries[0].Result != "ok" {
		t.Errorf("audit = %v, %v", entries, err)
	}
	f.stop()
	alone := f.backup()
	for _, data := range [][]byte{running, alone} {
		if _, err := backup.Verify(t.Context(), bytes.NewReader(data), f.recoveryKey(), f.clock, f.cfg.Log); err != nil {
			t.Error(err)
		}
	}
	f.start()
}

func TestOnlyRootMayAskForABackup(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.SocketUIDs = []uint32{uint32(os.Getuid()) + 1} })
	var b bytes.Buffer
	if _, err := Backup(t.Context(), f.cfg, false, &b); err == nil || b.Len() > 0 {
		t.Errorf("another user got %d bytes, %v", b.Len(), err)
	}
}

func TestAddressesOfARestoreReplaceThoseOfTheBackup(t *testing.T) {
	f := newFixture(t)
	data := f.backup()
	f.stop()
	for _, c := range []struct {
		addresses []string
		want      string
	}{{nil, "127.0.0.1"}, {[]string{"10.9.9.9"}, "10.9.9.9"}} {
		cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), Addresses: c.addresses}
		done, err := Restore(t.Context(), cfg, bytes.NewReader(data), f.recoveryKey(), false)
		if err != nil || strings.Join(done.Addresses, " ") != c.want {
			t.Fatalf("restore: %v, %v", done, err)
		}
		if err := cfg.readSettingsForTest(); err != nil || strings.Join(cfg.Addresses, " ") != c.want {
			t.Errorf("addresses = %v, %v", cfg.Addresses, err)
		}
	}
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), Addresses: []string{"a b"}}
	_, err := Restore(t.Context(), cfg, bytes.NewReader(data), f.recoveryKey(), false)
	wantCode(t, err, errs.Invalid)
	if _, err := os.Stat(cfg.DataDir); err == nil {
		t.Error("a bad address left a server behind")
	}
	f.start()
}

func (c *Config) readSettingsForTest() error {
	c.Addresses = nil
	c.setDefaults()
	return c.readSettings()
}
