package lab

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/infractl/infractl/internal/errs"
)

const netnsDir = "/run/netns"

// siteNetns names the namespace that holds the bridges of a lab.
func siteNetns(lab string) string { return "infractl-" + lab }

// hostNetns names the namespace of a NamespaceSpec.
func hostNetns(lab, name string) string { return siteNetns(lab) + "-" + name }

func bridgeName(network string) string { return "br-" + network }

// portName names the bridge's end of a cable. Hosts are numbered, VMs first, so that it always fits into 15 bytes.
func portName(host int, card string) string { return fmt.Sprintf("p%d-%s", host, card) }

// bridgeBatch is the ip batch that makes the bridges, one per network, none with an address.
func bridgeBatch(networks []Network) string {
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, n := range networks {
		name := bridgeName(n.Name)
		fmt.Fprintf(&b, "link add %s type bridge\n", name)
		fmt.Fprintf(&b, "link set %s addrgenmode none\n", name)
		fmt.Fprintf(&b, "link set %s up\n", name)
	}
	return b.String()
}

// cableBatch is the ip batch, run in the site's namespace, that lays a cable from each card to its bridge. target is what
// ip accepts as a namespace: a process id or a name. Cut cables stay down.
func cableBatch(host int, owner, target string, cards []Interface, cut []string) string {
	var b strings.Builder
	for _, c := range cards {
		if c.Network == "" {
			continue
		}
		mac := c.MAC
		if mac == "" {
			mac = MACFor(owner, c.Name)
		}
		port := portName(host, c.Name)
		fmt.Fprintf(&b, "link add %s type veth peer name %s address %s netns %s\n", port, c.Name, mac, target)
		fmt.Fprintf(&b, "link set %s master %s addrgenmode none\n", port, bridgeName(c.Network))
		if !slices.Contains(cut, c.Name) {
			fmt.Fprintf(&b, "link set %s up\n", port)
		}
	}
	return b.String()
}

// addressBatch is the ip batch, run in the host's namespace, that brings cards, addresses and routes up.
func addressBatch(cards []Interface, routes []Route) string {
	var b strings.Builder
	b.WriteString("link set lo up\n")
	for _, c := range cards {
		for _, a := range c.Addresses {
			fmt.Fprintf(&b, "addr add %s dev %s", a, c.Name)
			if a.Addr().Is6() {
				b.WriteString(" nodad")
			}
			b.WriteString("\n")
		}
		if c.Network != "" {
			fmt.Fprintf(&b, "link set %s up\n", c.Name)
		}
	}
	for _, r := range routes {
		dst := r.Dst.Masked().String()
		if r.Dst.Bits() == 0 {
			dst = "default"
		}
		fmt.Fprintf(&b, "route add %s via %s\n", dst, r.Via)
	}
	return b.String()
}

// sysctlArgs is the command, run in the host's namespace, that sets its sysctls; nil where it has none.
func sysctlArgs(sysctls map[string]string) []string {
	if len(sysctls) == 0 {
		return nil
	}
	argv := []string{"sysctl", "-q", "-w"}
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		argv = append(argv, key+"="+sysctls[key])
	}
	return argv
}

// inNetns prefixes argv so that it runs in a network namespace, given as a file.
func inNetns(file string, argv ...string) []string {
	return append([]string{"nsenter", "--net=" + file, "--"}, argv...)
}

func netnsFile(name string) string { return filepath.Join(netnsDir, name) }

func netnsExists(name string) bool {
	_, err := os.Stat(netnsFile(name))
	return err == nil
}

// makeNetworks makes the site's namespace with its bridges, and the light hosts.
func (l *Lab) makeNetworks(ctx context.Context) error {
	site := siteNetns(l.cfg.Name)
	if err := must(ctx, "", "ip", "netns", "add", site); err != nil {
		return errs.Wrap("make the site's network namespace", err)
	}
	if err := must(ctx, bridgeBatch(l.cfg.Networks), "ip", "-n", site, "-batch", "-"); err != nil {
		return errs.Wrap("make the bridges", err)
	}
	// Where the kernel filters bridged frames it does so per namespace; a switch does not filter.
	off := inNetns(netnsFile(site), "sysctl", "-q", "-w", "-e",
		"net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0", "net.bridge.bridge-nf-call-arptables=0")
	if err := must(ctx, "", off...); err != nil {
		return errs.Wrap("turn filtering on bridges off", err)
	}
	for i, ns := range l.cfg.Namespaces {
		name := hostNetns(l.cfg.Name, ns.Name)
		if err := must(ctx, "", "ip", "netns", "add", name); err != nil {
			return errs.Wrap("make namespace "+ns.Name, err)
		}
		if err := l.plug(ctx, len(l.cfg.VMs)+i, ns.Name, name, netnsFile(name), ns.Interfaces, ns.Routes, ns.Sysctls, 0); err != nil {
			return errs.Wrap("connect namespace "+ns.Name, err)
		}
	}
	return nil
}

// plug lays the cables of one host and gives it sysctls, addresses and routes.
func (l *Lab) plug(ctx context.Context, index int, owner, target, file string, cards []Interface, routes []Route,
	sysctls map[string]string, delay time.Duration) error {
	site := siteNetns(l.cfg.Name)
	if cables := cableBatch(index, owner, target, cards, l.cutCables(owner)); cables != "" {
		if err := must(ctx, cables, "ip", "-n", site, "-batch", "-"); err != nil {
			return err
		}
	}
	if argv := sysctlArgs(sysctls); argv != nil {
		if err := must(ctx, "", inNetns(file, argv...)...); err != nil {
			return err
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return must(ctx, addressBatch(cards, routes), inNetns(file, "ip", "-batch", "-")...)
}

// unplug removes what is left of a host's cables. The kernel clears a dead namespace some time after its last process;
// until then the names are taken.
func (l *Lab) unplug(ctx context.Context, index int, cards []Interface) {
	for _, c := range cards {
		if c.Network != "" {
			_, _ = run(ctx, hostEnv(), nil, "ip", "-n", siteNetns(l.cfg.Name), "link", "del", portName(index, c.Name))
		}
	}
}

// setCable sets the bridge's end of a cable up or down.
func (l *Lab) setCable(ctx context.Context, index int, card, state string) error {
	return must(ctx, "", "ip", "-n", siteNetns(l.cfg.Name), "link", "set", portName(index, card), state)
}

// removeNetworks ends what still runs in the lab's namespaces and removes them.
func (l *Lab) removeNetworks(ctx context.Context) error {
	names := []string{siteNetns(l.cfg.Name)}
	for _, ns := range l.cfg.Namespaces {
		names = append(names, hostNetns(l.cfg.Name, ns.Name))
	}
	var list []error
	for _, name := range names {
		if !netnsExists(name) {
			continue
		}
		endProcessesIn(netnsFile(name))
		if err := must(ctx, "", "ip", "netns", "del", name); err != nil {
			list = append(list, errs.Wrap("remove namespace "+name, err))
		}
	}
	return errs.Join(list...)
}

// endProcessesIn kills every process whose network namespace is the given one.
func endProcessesIn(file string) {
	var want unix.Stat_t
	if unix.Stat(file, &want) != nil {
		return
	}
	for range 3 { // a process may fork while we look
		found := false
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			var got unix.Stat_t
			if unix.Stat("/proc/"+e.Name()+"/ns/net", &got) == nil && got.Ino == want.Ino && got.Dev == want.Dev {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// dropNetnsMount removes the mount that the first "ip netns add" of a machine leaves behind, if nothing is in it.
func dropNetnsMount() {
	entries, err := os.ReadDir(netnsDir)
	if err != nil || len(entries) > 0 {
		return
	}
	for unix.Unmount(netnsDir, unix.MNT_DETACH) == nil {
	}
	_ = os.Remove(netnsDir)
}
