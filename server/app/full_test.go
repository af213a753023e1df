package app

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const fullDir = "INFRACTL_TEST_FULL_DIR"

// A full disk: writes are refused in clear words, reading goes on, sessions stay, nothing that was acknowledged is lost, and
// when there is room everything goes on by itself. The disk is a small one that only a process of its own sees.
func TestAFullDiskStopsWritesAndNothingElse(t *testing.T) {
	if dir := os.Getenv(fullDir); dir != "" {
		onSmallDisk(t, dir)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAFullDiskStopsWritesAndNothingElse$", "-test.v")
	cmd.Env = append(os.Environ(), fullDir+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onSmallDisk(t *testing.T, dir string) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *Config) { c.DataDir = filepath.Join(dir, "data") })
	anna := f.login("anna")
	m := f.node(anna, "web")
	stream, _ := m.mustOpen()
	report := func(sequence uint64, hostname string) {
		_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: &v1.Report{Sequence: sequence,
			Facts: &v1.HostFacts{Hostname: hostname, Warnings: []string{strings.Repeat("a long warning ", 4000)}}}}})
	}
	tokens := v1.NewTokenServiceClient(anna.conn)
	create := func() error {
		_, err := tokens.CreateToken(t.Context(), &v1.CreateTokenRequest{Node: "later"})
		return err
	}
	if err := create(); err != nil {
		t.Fatal(err)
	}

	filler := fill(t, dir)
	var err error
	for range 2000 { // what the database has of free pages is used up first
		if err = create(); err != nil {
			break
		}
	}
	wantCode(t, err, errs.Exhausted)
	if err == nil || !strings.Contains(err.Error(), "disk of the database is full") || !strings.Contains(errs.HintOf(errs.FromGRPC(err)), "df -h") {
		t.Errorf("error %v, hint %q", err, errs.HintOf(errs.FromGRPC(err)))
	}
	f.app.health.Look(t.Context())
	if text := anna.findings(t); !strings.Contains(text, "server disk: the server's disk is full") {
		t.Errorf("findings:\n%s", text)
	}
	report(1, "web-of-now")
	var b bytes.Buffer
	if _, err := Backup(t.Context(), f.cfg, false, &b); errs.CodeOf(err) != errs.Exhausted {
		t.Errorf("backup: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.cfg.DataDir, ".backup-*")); len(left) > 0 {
		t.Errorf("the backup left %v", left)
	}
	list, err := tokens.ListTokens(t.Context(), &v1.ListTokensRequest{})
	if err != nil || len(list.GetTokens()) == 0 {
		t.Errorf("reading: %v, %v", list, err)
	}
	if _, live := f.app.hub.Live("web"); !live {
		t.Error("the session is gone")
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := create(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	f.app.health.Look(t.Context())
	if text := anna.findings(t); strings.Contains(text, "disk is full") {
		t.Errorf("findings:\n%s", text)
	}
	_ = stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Heartbeat{Heartbeat: &v1.Heartbeat{}}})
	for asked := false; !asked; {
		msg, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		asked = msg.GetFullReport() != nil
	}
	report(2, "web-of-now")
	f.eventually("the report is there", func() bool {
		n, err := f.app.fleet.Node(t.Context(), "web")
		return err == nil && n.Facts.M.GetHostname() == "web-of-now"
	})
	f.stop()
	f.start() // and all of it is on disk
	if _, err := f.app.fleet.Node(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if _, err := f.app.store.VerifyAudit(t.Context()); err != nil {
		t.Error(err)
	}
}

// fill takes all room of a disk.
func fill(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for piece := make([]byte, 64<<10); ; {
		if _, err = f.Write(piece); err == nil {
			continue
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if len(piece) == 1 {
			return f.Name()
		}
		piece = piece[:len(piece)/2]
	}
}
