package facts

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
)

// sockets finds the listening sockets of sshd's processes. Where systemd holds the socket (ssh.socket), sshd has none
// between logins; the sshd provider knows better then.
type sockets struct{ host *host.Host }

// Listening implements SSH.
func (s sockets) Listening(context.Context) (ports []uint32, addresses []string, err error) {
	listening := map[string]netip.AddrPort{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := s.host.ReadFile(file)
		if err != nil {
			continue // IPv6 may be off
		}
		parseListening(string(data), listening)
	}
	names, err := s.host.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, nil, errs.Wrap("list processes", err)
	}
	for _, name := range names {
		if comm, err := s.host.ReadFile(name); err != nil || strings.TrimSpace(string(comm)) != "sshd" {
			continue
		}
		links, err := s.host.Glob(path.Dir(name) + "/fd/*")
		if err != nil {
			continue // it has just ended
		}
		for _, link := range links {
			target, err := os.Readlink(s.host.Path(link))
			if err != nil {
				continue
			}
			if at, ok := listening[target]; ok {
				ports = append(ports, uint32(at.Port()))
				addresses = append(addresses, at.Addr().String())
			}
		}
	}
	slices.Sort(ports)
	slices.Sort(addresses)
	return slices.Compact(ports), slices.Compact(addresses), nil
}

// parseListening reads /proc/net/tcp or tcp6 and adds sockets in state LISTEN by the name that links to them have.
func parseListening(text string, into map[string]netip.AddrPort) {
	const listen = "0A"
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		at, ok := parseAddress(fields[1])
		if ok {
			into["socket:["+fields[9]+"]"] = at
		}
	}
}

// parseAddress reads the kernel's form: groups of four bytes, each in the machine's order, and the port.
func parseAddress(text string) (netip.AddrPort, bool) {
	address, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	number, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	ip, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip, uint16(number)), true
}
