package lab

import (
	"os"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// capabilities lists the kernel's names by bit, without "CAP_".
func capabilities() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
		"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
		"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
		"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
		"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
		"CHECKPOINT_RESTORE",
	}
}

// keptFromVMs are the capabilities that reach the machine's kernel, clock and hardware. No VM gets them.
func keptFromVMs() []string {
	return []string{"SYS_MODULE", "SYS_BOOT", "SYS_TIME", "SYS_RAWIO", "MAC_ADMIN", "MAC_OVERRIDE"}
}

// droppedCaps returns what a VM must do without: what it must not have, and what this process does not have either,
// because the engine can't hand on more than it has.
func droppedCaps(bounding uint64) []string {
	drop := keptFromVMs()
	for bit, name := range capabilities() {
		if bounding&(1<<bit) != 0 {
			continue
		}
		known := false
		for _, d := range drop {
			known = known || d == name
		}
		if !known {
			drop = append(drop, name)
		}
	}
	return drop
}

// boundingSet reads the capability bounding set of this process.
func boundingSet() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, errs.Wrap("read the capability bounding set", err)
	}
	return parseBounding(string(status))
}

func parseBounding(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return 0, errs.New(errs.Internal, "CapBnd: %w", err)
			}
			return set, nil
		}
	}
	return 0, errs.New(errs.Internal, "/proc/self/status has no CapBnd line")
}
