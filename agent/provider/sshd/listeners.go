package sshd

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

const (
	// pause is the time between two looks at the sockets.
	pause = 50 * time.Millisecond
	// bannerWait is how long an SSH server may take to say what it is.
	bannerWait = 3 * time.Second
)

type listener = netip.AddrPort

func compareListeners(a, b listener) int { return a.Compare(b) }

// combine joins listeners. Where all addresses of a family are listened on, single ones of the same port go: the kernel
// would refuse them.
func combine(lists ...[]listener) []listener {
	all := slices.Concat(lists...)
	var result []listener
	for _, l := range all {
		every := netip.IPv4Unspecified()
		if l.Addr().Is6() {
			every = netip.IPv6Unspecified()
		}
		if l.Addr() == every || !slices.Contains(all, netip.AddrPortFrom(every, l.Port())) {
			result = append(result, l)
		}
	}
	slices.SortFunc(result, compareListeners)
	return slices.Compact(result)
}

// without returns the listeners of a that are not in b.
func without(a, b []listener) []listener {
	return slices.DeleteFunc(slices.Clone(a), func(l listener) bool { return slices.Contains(b, l) })
}

func parseListeners(values []string) ([]listener, error) {
	var list []listener
	for _, v := range values {
		l, err := netip.ParseAddrPort(v)
		if err != nil {
			return nil, errs.New(errs.Internal, "sshd -T names a listener that cannot be read: %q", v)
		}
		list = append(list, netip.AddrPortFrom(l.Addr().Unmap(), l.Port()))
	}
	return combine(list), nil
}

// socket is one listening TCP socket of the host.
type socket struct {
	listener
	inode string
}

// sockets reads the listening TCP sockets.
func (p *Provider) sockets() ([]socket, error) {
	var list []socket
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := p.host.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, errs.Wrap("read the listening sockets", err)
		}
		list = append(list, parseSockets(string(data))...)
	}
	return list, nil
}

func parseSockets(text string) []socket {
	var list []socket
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
			continue
		}
		if l, ok := parseProcAddress(f[1]); ok {
			list = append(list, socket{listener: l, inode: f[9]})
		}
	}
	return list
}

// parseProcAddress reads 0100007F:0016: groups of four bytes in the machine's order, then the port.
func parseProcAddress(text string) (listener, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	number, errPort := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || errPort != nil || len(raw)%4 != 0 {
		return listener{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4]) // every architecture that Ubuntu and Debian servers run on is little-endian
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(number)), ok
}

// ipv6 reports whether the kernel has IPv6 in use; without it no IPv6 listener can be expected.
func (p *Provider) ipv6() bool {
	data, err := p.host.ReadFile("/proc/net/if_inet6")
	return err == nil && len(data) > 0
}

// differing returns which wanted listeners are missing and which unwanted ones are still there.
func (p *Provider) differing(wanted, unwanted []listener) (missing, left []listener, err error) {
	list, err := p.sockets()
	if err != nil {
		return nil, nil, err
	}
	have := func(l listener) bool {
		return slices.ContainsFunc(list, func(s socket) bool { return s.listener == l })
	}
	v6 := p.ipv6()
	for _, l := range wanted {
		if (v6 || l.Addr().Is4()) && !have(l) {
			missing = append(missing, l)
		}
	}
	for _, l := range unwanted {
		if have(l) {
			left = append(left, l)
		}
	}
	return missing, left, nil
}

func (p *Provider) waitForSockets(ctx context.Context, wanted, unwanted []listener) error {
	ctx, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	for {
		missing, left, err := p.differing(wanted, unwanted)
		if err != nil {
			return err
		}
		if len(missing)+len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errs.New(errs.Unavailable, "sshd does not listen as wanted: missing %v, still open %v", missing, left).
				WithHint("journalctl -u ssh says why")
		case <-time.After(pause):
		}
	}
}

// banners connects to each listener and reads who answers. An old listener on an address that the host lost is passed over.
func (p *Provider) banners(ctx context.Context, t target) error {
	local, err := p.local()
	if err != nil {
		return err
	}
	v6 := p.ipv6()
	for _, l := range t.listeners {
		absent := !l.Addr().IsUnspecified() && !slices.Contains(local, l.Addr())
		switch {
		case l.Addr().Is6() && !v6, absent && !slices.Contains(t.wanted, l):
			continue
		case absent:
			return errs.New(errs.Precondition, "sshd is to listen on %s, which is not an address of this host", l.Addr()).
				WithHint("compare the node's address in the site with `ip address`")
		}
		if err := p.banner(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

func (p *Provider) banner(ctx context.Context, l listener) error {
	addr := l.Addr()
	switch {
	case addr == netip.IPv4Unspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case addr == netip.IPv6Unspecified():
		addr = netip.IPv6Loopback()
	}
	target := netip.AddrPortFrom(addr, l.Port()).String()
	ctx, cancel := context.WithTimeout(ctx, bannerWait)
	defer cancel()
	conn, err := p.dial.DialContext(ctx, "tcp", target)
	if err != nil {
		return errs.New(errs.Unavailable, "sshd does not take connections on %s: %w", target, err).
			WithHint("journalctl -u ssh says why")
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a connection without deadlines only makes the read longer
	}
	buffer := make([]byte, 255)
	n, err := conn.Read(buffer)
	if !strings.HasPrefix(string(buffer[:n]), "SSH-2.0-") {
		return errs.New(errs.Unavailable, "no SSH server answers on %s: got %q, %v", target, buffer[:n], err).
			WithHint("ss -ltnp shows which program has the port")
	}
	return nil
}
