package cmd_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/cli/cmd"
	"github.com/infractl/infractl/internal/clock"
)

func TestAnInterruptedCommandExits130(t *testing.T) {
	dir := t.TempDir()
	f, stop, err := startFake(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	config := filepath.Join(dir, "config")
	if err := f.logIn(config); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.answers, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.answers, "NodeService.GetStatus.json"), []byte(`{"hang": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	var stdout, stderr bytes.Buffer
	code := cmd.Run(ctx, []string{"--config", config, "status"},
		cmd.Process{In: strings.NewReader(""), Out: &stdout, Err: &stderr, Clock: clock.NewFake(fakeNow())})
	if code != cmd.ExitInterrupted || stderr.String() != "interrupted\n" || stdout.Len() != 0 {
		t.Errorf("got code %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
	}
}
