package lab

import (
	"context"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// VMStatus is what Status tells about one VM.
type VMStatus struct {
	Name string
	// State is what systemd says: running, degraded, starting; "off" or "gone" where it can't be asked.
	State string
	Pid   int
	// MemoryKiB is the proportional memory of all processes in the VM.
	MemoryKiB int64
	// CablesOut lists the cards without a cable.
	CablesOut []string
}

// Status asks every VM, in their order.
func (l *Lab) Status(ctx context.Context) []VMStatus {
	memory := memoryByPidNamespace()
	list := make([]VMStatus, len(l.cfg.VMs))
	for i, name := range l.cfg.VMNames() {
		vm := l.vms[name]
		list[i] = VMStatus{Name: name, State: "gone", Pid: vm.Pid(), CablesOut: l.cutCables(name)}
		if vm.usable() == nil && vm.refresh(ctx) == nil {
			list[i].State = "off"
		}
		if vm.Pid() == 0 {
			continue
		}
		list[i].MemoryKiB = memory[pidNamespace(strconv.Itoa(vm.Pid()))]
		if result, err := vm.Exec(ctx, "systemctl", "is-system-running"); err == nil {
			list[i].State = strings.TrimSpace(result.Stdout)
		}
	}
	return list
}

func pidNamespace(pid string) uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/"+pid+"/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// memoryByPidNamespace adds up the proportional set sizes of all processes, in KiB.
func memoryByPidNamespace() map[uint64]int64 {
	sums := map[uint64]int64{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		rollup, _ := os.ReadFile("/proc/" + e.Name() + "/smaps_rollup")
		for line := range strings.Lines(string(rollup)) {
			if value, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
				sums[pidNamespace(e.Name())] += kib
			}
		}
	}
	return sums
}
