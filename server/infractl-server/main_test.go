package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/server/app"
)

func try(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = execute(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	initArgs := []string{"init", "--data-dir", data, "--site", "projetpro", "--address", "10.0.10.4", "--firstboot-dir",
		filepath.Join(dir, "firstboot.d"), "-o", "json"}
	code, out, errOut := try(t, initArgs...)
	var made app.InitResult
	if code != 0 || json.Unmarshal([]byte(out), &made) != nil || made.AdminCode == "" || made.Site != "projetpro" {
		t.Fatalf("init: %d %s %s", code, out, errOut)
	}
	if code, _, errOut := try(t, initArgs...); code != 1 || !strings.Contains(errOut, "hint: ") {
		t.Errorf("second init: %d %s", code, errOut)
	}
	if code, out, _ := try(t, "admin-code", "--data-dir", data); code != 0 || len(strings.TrimSpace(out)) != 23 {
		t.Errorf("admin-code: %d %q", code, out)
	}
	if code, _, errOut := try(t, "admin-code", "--data-dir", dir); code != 1 || !strings.Contains(errOut, "infractl-server init") {
		t.Errorf("admin-code without a server: %d %s", code, errOut)
	}
	if code, out, _ := try(t, "version"); code != 0 || !strings.HasPrefix(out, "infractl-server ") {
		t.Errorf("version: %d %q", code, out)
	}
	for name, args := range map[string][]string{
		"no site":        {"init", "--data-dir", filepath.Join(dir, "x"), "--address", "10.0.0.1"},
		"no address":     {"init", "--data-dir", filepath.Join(dir, "x"), "--site", "a"},
		"unknown format": {"init", "--data-dir", filepath.Join(dir, "x"), "-o", "xml"},
		"unknown flag":   {"run", "--nothing"},
		"log level":      {"run", "--data-dir", data, "--log-level", "loud"},
	} {
		if code, _, errOut := try(t, args...); code != 1 || errOut == "" {
			t.Errorf("%s: %d %q", name, code, errOut)
		}
	}
}

func TestInitSaysWhatComesNext(t *testing.T) {
	dir := t.TempDir()
	code, out, errOut := try(t, "init", "--data-dir", filepath.Join(dir, "data"), "--site", "projetpro", "--address", "10.0.10.4",
		"--firstboot-dir", filepath.Join(dir, "firstboot.d"))
	if code != 0 {
		t.Fatalf("init: %d %s", code, errOut)
	}
	_, rest, _ := strings.Cut(out, "\nnext:\n")
	for _, step := range []string{"systemctl restart infractl-firewall.service", "systemctl enable --now infractl-server", "infractl login"} {
		var ok bool
		if _, rest, ok = strings.Cut(rest, step); !ok {
			t.Errorf("no step %q, or not in this order:\n%s", step, out)
		}
	}
}

func TestRunStopsWhenTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "infractl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "s.sock")
	if code, _, errOut := try(t, "init", "--data-dir", data, "--site", "a", "--address", "127.0.0.1", "--firstboot-dir", ""); code != 0 {
		t.Fatal(errOut)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var errOut bytes.Buffer
	go func() {
		done <- execute(ctx, []string{"run", "--data-dir", data, "--listen", "127.0.0.1:0", "--listen-enrolment", "127.0.0.1:0",
			"--socket", socket}, &bytes.Buffer{}, &errOut)
	}()
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Since(begun) > 10*time.Second {
			t.Fatal("it does not start")
		}
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("code %d: %s", code, errOut.String())
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left")
	}
}
