package host_test

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(string(out), "Z")
}

func TestEndProcess(t *testing.T) {
	h := host.New(host.Config{})
	for name, script := range map[string]string{"obedient": "sleep 300", "stubborn": "trap '' HUP; echo; sleep 300"} {
		t.Run(name, func(t *testing.T) {
			c := exec.Command("sh", "-c", script)
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- c.Wait() }()
			if err := h.EndProcess(t.Context(), c.Process.Pid, func(context.Context) bool { return alive(c.Process.Pid) }); err != nil {
				t.Fatal(err)
			}
			<-done
		})
	}
	if err := h.EndProcess(t.Context(), 1, func(context.Context) bool { return true }); !errs.Is(err, errs.Invalid) {
		t.Errorf("process 1: %v", err)
	}
	if err := h.EndProcess(t.Context(), syscall.Getpid(), func(context.Context) bool { return false }); err != nil {
		t.Errorf("a process that is another by now: %v", err)
	}
}
