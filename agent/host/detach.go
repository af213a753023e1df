package host

import (
	"os"
	"os/exec"
	"syscall"

	"github.com/infractl/infractl/internal/errs"
)

// Detach starts a program in a session of its own that outlives this process.
func (h *Host) Detach(argv ...string) error {
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return errs.Wrap("start "+argv[0], err)
	}
	defer null.Close()
	c.Stdin, c.Stdout, c.Stderr = null, null, null
	if err := c.Start(); err != nil {
		return errs.Wrap("start "+argv[0], err)
	}
	go c.Wait() //nolint:errcheck // reaps the child while this process lives; its outcome is in the commit's record
	return nil
}
