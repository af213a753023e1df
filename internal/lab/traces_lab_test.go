//go:build lab

package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traces is what a lab may leave on the machine. Where other labs or tests run at the same time only what bears the
// lab's name is compared, and what the machine has once: links, rules, sysctls.
type traces struct {
	Namespaces, Links, Mounts, Processes, Rules, Sysctls, Cgroups, Volumes, Engine []string
}

func look(t *testing.T, cfg Config) traces {
	t.Helper()
	probe, err := newLab(cfg)
	if err != nil {
		t.Fatal(err)
	}
	name, cache := siteNetns(cfg.Name), probe.cfg.CacheDir
	tr := traces{Namespaces: named(folder(netnsDir), name), Links: folder("/sys/class/net")}
	others := 0
	for _, lab := range folder(labsDir) {
		if lab != cfg.Name+".json" {
			others++
		}
	}
	tr.Mounts = mountsBelow(filepath.Join(cache, "labs", cfg.Name))
	for _, pid := range folder("/proc") {
		if cgroups, _ := os.ReadFile("/proc/" + pid + "/cgroup"); strings.Contains(string(cgroups), "/"+name) {
			tr.Processes = append(tr.Processes, pid)
		}
	}
	if others == 0 {
		tr.Engine = slices.DeleteFunc(folder(runDir), func(s string) bool { return s == "lock" })
		tr.Mounts = append(tr.Mounts, mountsBelow(cache)...)
		tr.Mounts = append(tr.Mounts, mountsBelow(runDir)...)
		for _, pid := range folder("/proc") {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.Contains(string(line), runDir) && startTime(number(pid)) != "" {
				tr.Engine = append(tr.Engine, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		tr.Volumes = folder(filepath.Join(cache, "engine", "containers"))
	}
	tr.Volumes = append(tr.Volumes, folder(filepath.Join(cache, "labs", cfg.Name))...)
	for _, argv := range [][]string{{"iptables-save"}, {"ip6tables-save"}} {
		out, _ := exec.Command(argv[0], argv[1:]...).Output()
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
				tr.Rules = append(tr.Rules, line)
			}
		}
	}
	for _, pattern := range []string{"/proc/sys/net/ipv4/*", "/proc/sys/net/ipv4/conf/all/*", "/proc/sys/net/ipv6/conf/all/*", "/proc/sys/net/bridge/*",
		"/proc/sys/kernel/*", "/proc/sys/vm/*", "/proc/sys/fs/*", "/proc/sys/fs/inotify/*"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if strings.HasSuffix(file, "-nr") || strings.HasSuffix(file, "-state") || strings.HasSuffix(file, "ns_last_pid") ||
				strings.HasSuffix(file, "/stat_refresh") || strings.HasSuffix(file, "/compact_memory") {
				continue // counters, and files whose reading does something
			}
			if value, err := os.ReadFile(file); err == nil {
				tr.Sysctls = append(tr.Sysctls, file+" = "+strings.TrimSpace(string(value)))
			}
		}
	}
	tr.Cgroups = cgroupDirs(name)
	return tr
}

func named(list []string, prefix string) []string {
	var found []string
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			found = append(found, s)
		}
	}
	return found
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func folder(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// crashEngine kills the lab's own engine. It leaves one alone that another lab needs, or that belongs to the machine.
func crashEngine(ctx context.Context, t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile(enginePidfile)
	if err != nil || len(folder(labsDir)) != 1 || ownEngine(ctx) == nil {
		t.Log("the engine is not ours alone and stays")
		return false
	}
	pid := number(strings.TrimSpace(string(data)))
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if !waitGone(func() bool { return startTime(pid) != "" }, 5*time.Second) {
		t.Fatal("the engine does not die")
	}
	return true
}
