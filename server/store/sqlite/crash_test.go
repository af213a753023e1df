package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/server/store"
)

// crashDir is how the child process of TestKilledProcessLosesNothing learns where to write.
const crashDir = "INFRACTL_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeForever(dir)
	}
	os.Exit(m.Run())
}

// writeForever writes from several goroutines and prints each name once its write was acknowledged.
func writeForever(dir string) {
	s, err := Open(context.Background(), Config{Dir: dir, Clock: clock.System{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d/%d", w, i)
				if _, err := s.Write(context.Background(), store.Put{Kind: "k", Name: name, Data: make([]byte, 500)}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				if _, err := s.AppendAudit(context.Background(), store.AuditEntry{Target: name}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(name)
				mu.Unlock()
			}
		}()
	}
	select {}
}

func TestKilledProcessLosesNothing(t *testing.T) {
	for round := range 3 {
		dir := t.TempDir()
		var acknowledged []string
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
			if len(acknowledged) == 200*(round+1) {
				cmd.Process.Kill() // what is still in the pipe is read on: it was acknowledged too
			}
		}
		cmd.Wait()
		timer.Stop()
		if len(acknowledged) < 200*(round+1) {
			t.Fatalf("the child wrote only %d records", len(acknowledged))
		}
		checkAll(t, dir, acknowledged)
	}
}

func checkAll(t *testing.T, dir string, acknowledged []string) {
	t.Helper()
	ctx := context.Background()
	s := openAt(t, dir, clock.System{})
	defer s.Close()
	records, err := s.List(ctx, "k", store.ListOptions{NamesOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, r := range records {
		there[r.Name] = true
	}
	entries, err := s.ListAudit(ctx, store.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	audited := map[string]bool{}
	for _, e := range entries {
		audited[e.Target] = true
	}
	var lost []string
	for _, name := range acknowledged {
		if !there[name] || !audited[name] {
			lost = append(lost, name)
		}
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %s", len(lost), len(acknowledged), strings.Join(lost[:min(len(lost), 10)], " "))
	}
	if _, err := s.VerifyAudit(ctx); err != nil {
		t.Error(err)
	}
}
