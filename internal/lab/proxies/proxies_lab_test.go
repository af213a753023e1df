//go:build lab

package proxies

import (
	"context"
	"os"
	"testing"
	"time"
)

func TestProxyOnARealService(t *testing.T) {
	bin := os.Getenv("INFRACTL_BIN")
	if bin == "" {
		t.Fatal("INFRACTL_BIN must name the folder of the built programs; use make e2e")
	}
	dir, err := os.MkdirTemp("", "infractl-proxies-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	defer cancel()
	output, err := Run(ctx, Options{Root: "../../..", Bin: bin, Dir: dir, Name: "proxies"})
	t.Log(output)
	if err != nil {
		t.Fatal(err)
	}
}
