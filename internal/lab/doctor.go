package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Finding is one thing that the lab needs, and whether the machine has it.
type Finding struct {
	What string
	OK   bool
	// Note says what was found, or what is missing and what to do about it.
	Note string
}

// diskNeeded is the free space in bytes that engine, images and the disks of a lab take.
const diskNeeded = 5 << 30

// Doctor checks whether the machine can carry a lab. It changes nothing.
func Doctor(ctx context.Context, cacheDir string) []Finding {
	var list []Finding
	add := func(what string, ok bool, good, bad string) {
		note := good
		if !ok {
			note = bad
		}
		list = append(list, Finding{What: what, OK: ok, Note: note})
	}
	l, err := newLab(Config{CacheDir: cacheDir})
	if err != nil {
		return []Finding{{What: "cache folder", Note: err.Error()}}
	}

	add("root", os.Geteuid() == 0, "yes", "run it as root: it makes namespaces and mounts")
	set, err := boundingSet()
	var lack []string
	for bit, name := range capabilities() {
		switch name {
		case "SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_CHROOT", "MKNOD":
			if set&(1<<bit) == 0 {
				lack = append(lack, name)
			}
		}
	}
	add("capabilities", err == nil && len(lack) == 0, "enough", "missing: "+strings.Join(lack, " "))

	engine := runningEngine(ctx)
	missing := missingPackages()
	switch {
	case engine != nil:
		add("Docker engine", true, "answers at "+engine.DaemonHost()+" and will be used", "")
		_ = engine.Close()
	default:
		add("Docker engine", true, "none runs; the lab starts its own", "")
	}
	add("programs", len(missing) == 0, "all there", "will be installed with apt-get: "+strings.Join(missing, " "))

	kernel := []struct {
		what string
		argv []string
		bad  string
	}{
		{"network namespaces, veth", []string{"unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"}, "the kernel has no veth"},
		{"bridges", []string{"unshare", "-n", "ip", "link", "add", "b0", "type", "bridge"}, "the kernel has no bridge"},
		{"iptables with conntrack", []string{"unshare", "-n", "iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"}, "firewall trials can't run"},
		{"iptables nat", []string{"unshare", "-n", "iptables", "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"}, "nested Docker engines can't run"},
	}
	for _, k := range kernel {
		result, err := run(ctx, hostEnv(), nil, k.argv...)
		if err == nil {
			err = result.OK(k.argv...)
		}
		add(k.what, err == nil, "work", fmt.Sprintf("%s: %v", k.bad, err))
	}
	files, _ := os.ReadFile("/proc/filesystems")
	add("overlay file system", strings.Contains(string(files), "\toverlay\n"), "there", "the engine falls back to slow copies")
	_, err = os.Stat("/dev/net/tun")
	add("/dev/net/tun", err == nil, "there", "missing: WireGuard in user space can't run")
	_, err = os.Stat("/proc/self/ns/cgroup")
	add("cgroup namespaces", err == nil, "there", "VMs can't manage their own cgroups")
	add("cgroups", cgroupLayout() != "", cgroupLayout(), "no hierarchy of systemd is mounted at "+cgroupRoot)

	_, err = hostRecipe()
	add("package sources", err == nil, "usable", fmt.Sprint(err))
	free := freeSpace(l.cfg.CacheDir)
	add("disk for "+l.cfg.CacheDir, free >= diskNeeded, fmt.Sprintf("%d GiB free", free>>30), fmt.Sprintf("%d GiB free, 5 needed", free>>30))
	add("memory", memoryAvailable() >= 2<<20, fmt.Sprintf("%d MiB available", memoryAvailable()>>10), fmt.Sprintf("%d MiB available, 2048 needed", memoryAvailable()>>10))
	return list
}

// cgroupLayout names the layout of the machine, "" where systemd has no hierarchy.
func cgroupLayout() string {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return "version 2 (the lab was not tried on it)"
	}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "systemd", "cgroup.procs")); err == nil {
		return "version 1, with systemd's hierarchy"
	}
	return ""
}

// freeSpace returns the bytes free for the nearest existing folder of a path.
func freeSpace(dir string) uint64 {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return st.Bavail * uint64(st.Bsize)
}

// memoryAvailable returns KiB.
func memoryAvailable() int64 {
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib
		}
	}
	return 0
}
