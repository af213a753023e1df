// Package labtest holds what the end-to-end tests say again and again: run this there, and want that.
package labtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/lab"
)

// commandLimit bounds one command in a machine.
const commandLimit = 150 * time.Second

// CLI is infractl as the operator runs it: a *demo.Site.
type CLI interface {
	Infractl(ctx context.Context, args ...string) (lab.Result, error)
}

// Infractl runs the command line, wants an exit code, and returns all that was printed.
func Infractl(t *testing.T, cli CLI, wantCode int, args ...string) string {
	t.Helper()
	r, err := cli.Infractl(t.Context(), args...)
	if err != nil {
		t.Fatalf("infractl %v: %v", args, err)
	}
	if r.Code != wantCode {
		t.Fatalf("infractl %v: code %d, want %d\n%s%s", args, r.Code, wantCode, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// In runs a command in a machine and returns all that it printed and its exit code.
func In(t *testing.T, l *lab.Lab, vm string, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	r, err := l.VM(vm).Exec(ctx, argv...)
	if err != nil {
		t.Fatalf("%s: %v: %v", vm, argv, err)
	}
	return r.Stdout + r.Stderr, r.Code
}

// Must runs a command in a machine, wants it to succeed, and returns what it printed on standard output.
func Must(t *testing.T, l *lab.Lab, vm string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	out, err := l.VM(vm).Must(ctx, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Eventually polls until f is true.
func Eventually(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// Settled waits until infractl status is green.
func Settled(t *testing.T, cli CLI, limit time.Duration) {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Log(last)
		}
	}()
	Eventually(t, limit, "status is green", func() bool {
		r, err := cli.Infractl(t.Context(), "status")
		if err != nil {
			t.Fatal(err)
		}
		last = r.Stdout + r.Stderr
		return r.Code == 0
	})
}

// Edited writes a site file with one text replaced by another, and returns its path.
func Edited(t *testing.T, file, old, replacement string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), old) {
		t.Fatalf("the site file has no %q", old)
	}
	path := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(string(content), old, replacement, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
