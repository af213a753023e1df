package host_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// blocksOf is what the kernel says of one file.
func blocksOf(t *testing.T, file string) uint64 {
	t.Helper()
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(info.Sys().(*syscall.Stat_t).Blocks) * 512
}

func TestBlocksAreThoseOfTheFolderAlone(t *testing.T) {
	root := t.TempDir()
	h := host.New(host.Config{Root: root})
	write := func(name string, size int) string {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Repeat("x", size)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("outside/big", 4<<20)
	one := write("in/a/one", 1<<20)
	two := write("in/a/b/two", 100)
	want := blocksOf(t, one) + blocksOf(t, two)
	for _, dir := range []string{"in", "in/a", "in/a/b"} {
		want += blocksOf(t, filepath.Join(root, dir))
	}
	measure := func() uint64 {
		t.Helper()
		got, err := h.Blocks(t.Context(), "/in")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := measure(); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	if err := os.Link(one, filepath.Join(root, "in/a/b/again")); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"in/folder": "../outside", "in/file": "../outside/big", "in/loop": "."} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		want += blocksOf(t, filepath.Join(root, name))
	}
	sparse, err := os.Create(filepath.Join(root, "in/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	sparse.Close()
	want += blocksOf(t, sparse.Name())
	if got := measure(); got != want {
		t.Errorf("with links and a hole %d bytes, want %d", got, want)
	}
}

func TestBlocksWhileThingsGoAway(t *testing.T) {
	root := t.TempDir()
	h := host.New(host.Config{Root: root})
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			dir := filepath.Join(root, "in", "d")
			_ = os.MkdirAll(filepath.Join(dir, "below"), 0o755) // it goes away at once
			_ = os.WriteFile(filepath.Join(dir, "below", "f"), []byte("x"), 0o600)
			_ = os.RemoveAll(dir)
			_ = os.Symlink("/", dir)
			_ = os.Remove(dir)
		}
	}()
	if err := os.MkdirAll(filepath.Join(root, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if got, err := h.Blocks(t.Context(), "/in"); err != nil || got > 1<<20 {
			t.Fatalf("%d bytes, %v", got, err)
		}
	}
	close(stop)
	<-ended
}

func TestBlocksOfNothingAndInNoTime(t *testing.T) {
	h := host.New(host.Config{Root: t.TempDir()})
	if _, err := h.Blocks(t.Context(), "/none"); !errs.Is(err, errs.NotFound) {
		t.Errorf("without a folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Blocks(ctx, "/"); err == nil {
		t.Error("it goes on after its time")
	}
	ran := false
	host.Quietly(func() { ran = true })
	if !ran {
		t.Error("nothing was done")
	}
}
