package lab

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDirs lists a top-level cgroup and all below it in every hierarchy, the deepest first. With version 2 there is one
// hierarchy, with version 1 one per controller.
func cgroupDirs(name string) []string {
	roots := []string{filepath.Join(cgroupRoot, name)}
	tops, _ := os.ReadDir(cgroupRoot)
	for _, top := range tops {
		roots = append(roots, filepath.Join(cgroupRoot, top.Name(), name))
	}
	var dirs []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil
		})
	}
	return dirs
}

// removeCgroups removes a top-level cgroup with all below it. One that still has a process stays.
func removeCgroups(name string) {
	for _, dir := range cgroupDirs(name) {
		_ = unix.Rmdir(dir)
	}
}

// endProcessesInCgroup kills what still runs in a top-level cgroup: VMs whose engine forgot them.
func endProcessesInCgroup(name string) {
	for range 50 {
		found := false
		for _, dir := range cgroupDirs(name) {
			list, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, field := range strings.Fields(string(list)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
					found = true
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		if !found {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
