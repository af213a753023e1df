//go:build lab

package demo

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab/labtest"
	"github.com/infractl/infractl/internal/lab/scan"
)

// talking is a stack of one service that reads a secret and says so.
const talking = `services:
  talk:
    image: infractl-lab/busybox:1
    pull_policy: never
    restart: unless-stopped
    command: [sh, -c, "echo up; wc -c < /run/secrets/talk-key; exec httpd -f -p 8090"]
    secrets: [talk-key]
    healthcheck:
      test: [CMD, test, -s, /run/secrets/talk-key]
      interval: 2s
      timeout: 2s
      retries: 10
secrets:
  talk-key: {external: true}
`

// withTalk writes the site with the stack in it.
func withTalk(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"site.yaml": string(content) + "\nstacks:\n  talk: {node: " + Prod + ", compose: talk.yml}\n", "talk.yml": talking,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.yaml")
}

// TestSecretsConsolesAndNoLeak brings a secret to a container, looks at it from the operator's side, rotates it, and then looks for
// all its values everywhere.
func TestSecretsConsolesAndNoLeak(t *testing.T) {
	raw := make([]byte, 12)
	_, _ = rand.Read(raw)
	value := "planted-" + hex.EncodeToString(raw)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"set": infractl(t, 0, "secret", "set", "talk-key", "-f", file)}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out, code := in(t, Prod, "docker", "tag", "infractl-lab/busybox", "infractl-lab/busybox:1"); code != 0 {
		t.Fatal(out)
	}
	file = withTalk(t)
	defer restore(t)
	texts["apply"] = apply(t, 0, file)
	texts["list"] = infractl(t, 0, "secret", "list", "-o", "json")
	if !strings.Contains(texts["list"], "stack talk on "+Prod) {
		t.Errorf("list: %s", texts["list"])
	}

	if out := infractl(t, 0, "logs", Prod, "--tail", "20"); !strings.Contains(out, "infractl-agent") {
		t.Errorf("the agent's log: %s", out)
	}
	infractl(t, 0, "logs", Prod, "kernel", "--tail", "1")
	if out := infractl(t, 0, "logs", "--stack", "talk"); !strings.Contains(out, "talk  up") {
		t.Errorf("the stack's log: %s", out)
	}
	infractl(t, 1, "logs", "--stack", "nothing")
	infractl(t, 1, "exec", "talk/none", "-n", "--", "true")
	infractl(t, 42, "exec", "talk/talk", "-n", "--", "sh", "-c", "exit 42")
	read := func() string { return infractl(t, 0, "exec", "talk/talk", "-n", "--", "cat", "/run/secrets/talk-key") }
	if got := read(); got != value {
		t.Fatalf("the container has a value of %d bytes, want %d", len(got), len(value))
	}

	texts["rotate"] = infractl(t, 0, "secret", "rotate", "talk-key")
	rotated := ""
	labtest.Eventually(t, time.Minute, "the container has the new value", func() bool {
		r, err := site.Infractl(t.Context(), "exec", "talk/talk", "-n", "--", "cat", "/run/secrets/talk-key")
		rotated = r.Stdout
		return err == nil && r.Code == 0 && rotated != value && rotated != ""
	})
	if len(rotated) != 32 {
		t.Errorf("a random value of %d bytes", len(rotated))
	}
	infractl(t, 1, "secret", "remove", "talk-key", "--yes")

	// A command that is cut off does not stay.
	follow := site.Lab.Namespace(Operator)
	p, err := follow.StartProcess(t.Context(), "env", "INFRACTL_CONFIG="+site.ConfigDir(), filepath.Join(site.opts.Bin, "infractl"),
		"exec", "talk/talk", "-n", "--", "sleep", "98765")
	if err != nil {
		t.Fatal(err)
	}
	runs := func() bool { _, code := in(t, Prod, "pgrep", "-f", "^sleep 98765$"); return code == 0 }
	labtest.Eventually(t, 20*time.Second, "the command runs", runs)
	p.Stop()
	labtest.Eventually(t, 20*time.Second, "the command is gone", func() bool { return !runs() })

	texts["audit"] = infractl(t, 0, "audit", "--limit", "1000", "-o", "json")
	for _, want := range []string{"console.logs", "console.exec", "SetSecret", "RotateSecret"} {
		if !strings.Contains(texts["audit"], want) {
			t.Errorf("the audit log has no %s", want)
		}
	}
	texts["plan"] = infractl(t, 0, "plan", "-f", file, "--overlay", site.Overlay, "-o", "json")
	infractl(t, 0, "rollout", "watch") // the new value's delivery may still be on its way
	texts["status"] = infractl(t, 0, "status", "-o", "json")
	leaks, err := scan.Lab(t.Context(), site.Lab, scan.Target{Values: []string{value, rotated}, Texts: texts, Spare: scan.DefaultSpare()})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leaks {
		t.Errorf("a secret is where it must not be: %s", l)
	}
	// The scan can fail: the file that the container reads is found when it is not spared.
	if leaks, err = scan.Lab(t.Context(), site.Lab, scan.Target{Values: []string{rotated}}); err != nil || len(leaks) == 0 {
		t.Errorf("without spared files the scan finds %v, %v", leaks, err)
	}
}
