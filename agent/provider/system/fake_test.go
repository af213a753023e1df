package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/providertest"
)

// fakeMachine does to a folder what hostname, sysctl and systemd-resolved do to a machine.
type fakeMachine struct{ root string }

func (m fakeMachine) Run(_ context.Context, cmd host.Cmd) (host.Output, error) {
	argv := cmd.Argv
	switch argv[0] {
	case "hostname":
		return host.Output{}, os.WriteFile(m.root+liveHostname, []byte(argv[2]+"\n"), 0o644)
	case "chmod":
		return host.Output{}, os.Chmod(m.root+argv[2], 0o755)
	case "sysctl":
		key, value, _ := strings.Cut(argv[3], "=")
		// the kernel answers numbers in a row with tabs
		return host.Output{}, os.WriteFile(m.root+sysctlPath(key), []byte(strings.ReplaceAll(value, " ", "\t")+"\n"), 0o644)
	case "systemctl":
		return host.Output{}, m.resolved()
	}
	return host.Output{Code: 127}, fmt.Errorf("no such program: %s", argv[0])
}

// resolved starts: it reads its drop-ins and writes the servers that it uses.
func (m fakeMachine) resolved() error {
	text := ""
	files, _ := filepath.Glob(m.root + "/etc/systemd/resolved.conf.d/*.conf")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if servers, ok := strings.CutPrefix(strings.TrimSpace(line), "DNS="); ok {
				for _, s := range strings.Fields(servers) {
					text += "nameserver " + s + "\n"
				}
			}
		}
	}
	return os.WriteFile(m.root+resolvedUplinks, []byte(text+"nameserver 192.168.8.1\n"), 0o644)
}

// folder is in memory: thousands of small writes to disk, each of them synced, would take minutes.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "infractl-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newMachine(t *testing.T, stub bool) fakeMachine {
	t.Helper()
	m := fakeMachine{folder(t)}
	for name, text := range map[string]string{
		hostnameFile: "debian\n", liveHostname: "debian\n", timezoneFile: "Etc/UTC\n",
		hostsFile:                  "127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n\n10.1.1.1 printer # theirs\n",
		zoneinfo + "/Europe/Paris": "TZif", zoneinfo + "/Etc/UTC": "TZif",
		"/proc/sys/vm/swappiness": "60\n", "/proc/sys/kernel/dmesg_restrict": "0\n",
		"/proc/sys/net/ipv4/ip_forward":         "0\n",
		"/proc/sys/net/ipv4/tcp_rmem":           "4096\t131072\t6291456\n",
		"/lib/systemd/systemd-resolved":         "",
		"/run/systemd/resolve/stub-resolv.conf": "nameserver 127.0.0.53\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(m.root+name), 0o755), os.WriteFile(m.root+name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	err := os.Symlink("/usr/share/zoneinfo/Etc/UTC", m.root+localtimeFile)
	if stub {
		err = errors.Join(err, os.Symlink("../run/systemd/resolve/stub-resolv.conf", m.root+resolvFile), m.resolved())
	} else {
		err = errors.Join(err, os.WriteFile(m.root+resolvFile, []byte("nameserver 192.168.8.1\n"), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m fakeMachine) provider(faults *providertest.Faults) *Provider {
	return New(Config{Host: host.New(host.Config{Root: m.root, Runner: faults.Runner(m), Fault: faults.Op})})
}
