package zone

import (
	"net/netip"
	"strconv"
	"strings"
)

const hexDigits = "0123456789abcdef"

// ReverseName is the name under which an address has its PTR record, without final dot.
func ReverseName(a netip.Addr) string {
	if a.Is4() {
		return reverse(a, 4)
	}
	return reverse(a, 32)
}

// reverse is the name of the first labels of an address: octets of IPv4, nibbles of IPv6.
func reverse(a netip.Addr, labels int) string {
	var parts []string
	suffix := "in-addr.arpa"
	if a.Is4() {
		for _, o := range a.As4() {
			parts = append(parts, strconv.Itoa(int(o)))
		}
	} else {
		suffix = "ip6.arpa"
		for _, o := range a.As16() {
			parts = append(parts, string(hexDigits[o>>4]), string(hexDigits[o&15]))
		}
	}
	var b strings.Builder
	for i := labels - 1; i >= 0; i-- {
		b.WriteString(parts[i] + ".")
	}
	return b.String() + suffix
}

// ReverseZones returns the names of the zones that hold the reverse names of a network. Zones end between two octets (IPv4) or nibbles
// (IPv6). A network that ends elsewhere has several, at most 128; one longer than /24 shares the zone of its /24 with its neighbours.
func ReverseZones(p netip.Prefix) []string {
	p = p.Masked()
	step, most := 8, 24
	if p.Addr().Is6() {
		step, most = 4, 124
	}
	bits := min((p.Bits()+step-1)/step*step, most)
	count := 1
	if bits > p.Bits() {
		count = 1 << (bits - p.Bits())
	}
	var out []string
	at := p.Addr()
	for range count {
		out = append(out, reverse(at, max(bits, step)/step))
		at = plus(at, max(bits, step))
	}
	return out
}

// plus is the first address of the next network of that length.
func plus(a netip.Addr, bits int) netip.Addr {
	raw := a.AsSlice()
	add := uint16(1) << ((8 - bits%8) % 8)
	for i := (bits - 1) / 8; i >= 0; i-- {
		sum := uint16(raw[i]) + add
		raw[i] = byte(sum)
		if add = sum >> 8; add == 0 {
			break
		}
	}
	next, _ := netip.AddrFromSlice(raw)
	return next
}
