package health

import (
	"fmt"

	"golang.org/x/sys/unix"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// What is left on a disk in bytes when a person should hear of it, and when writes are about to fail.
const (
	roomLow  = 256 << 20
	roomGone = 16 << 20
)

func (h *Health) lookAtDisk() *v1.Finding {
	free, files, err := h.cfg.Room(h.cfg.DataDir)
	hint := "free space there: df -h " + h.cfg.DataDir + "; nothing that was acknowledged is lost, and the server goes on by itself"
	f := &v1.Finding{Severity: v1.Severity_SEVERITY_ERROR, Where: "server disk", Hint: hint}
	switch {
	case err != nil:
		f.Message, f.Hint = "the free space of the server's disk is not known: "+err.Error(), "look at the file system of "+h.cfg.DataDir
	case !files:
		f.Message, f.Hint = "the server's disk takes no more files", "free inodes there: df -i "+h.cfg.DataDir
	case free < roomGone:
		f.Message = fmt.Sprintf("the server's disk is full (%d MiB free): changes are refused, reading goes on", free>>20)
	case free < roomLow:
		f.Severity = v1.Severity_SEVERITY_WARNING
		f.Message = fmt.Sprintf("the server's disk is nearly full: %d MiB free", free>>20)
	default:
		return nil
	}
	return f
}

// room asks the kernel. A file system that does not count its files has room for more.
func room(dir string) (free uint64, files bool, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false, err
	}
	return st.Bavail * uint64(st.Bsize), st.Files == 0 || st.Ffree > 32, nil
}
