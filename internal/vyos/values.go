package vyos

import (
	"encoding/base64"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// check says what is wrong with a value of some kind; nil means nothing.
type check func(v Version, s string) error

func wrong(kind, s string) error { return errs.New(errs.Invalid, "%q is no %s", s, kind) }

// matching makes a check from a pattern; VyOS anchors its own at both ends without saying so.
func matching(kind, pattern string) check {
	re := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(_ Version, s string) error {
		if !re.MatchString(s) {
			return wrong(kind, s)
		}
		return nil
	}
}

func oneOf(kind string, words ...string) check {
	return func(_ Version, s string) error {
		if !slices.Contains(words, s) {
			return errs.New(errs.Invalid, "%q is no %s: %s", s, kind, strings.Join(words, ", "))
		}
		return nil
	}
}

// number is a whole number from 1 to high.
func number(kind string, high int) check {
	return func(_ Version, s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < 1 || n > high || s != strconv.Itoa(n) {
			return errs.New(errs.Invalid, "%q is no %s from 1 to %d", s, kind, high)
		}
		return nil
	}
}

func address(_ Version, s string) error {
	if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
		return wrong("IP address", s)
	}
	return nil
}

func address4(_ Version, s string) error {
	if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
		return wrong("IPv4 address", s)
	}
	return nil
}

// network is a true prefix: no bits behind its length.
func network(_ Version, s string) error {
	if p, err := netip.ParsePrefix(s); err != nil || p.Masked() != p {
		return wrong("network", s)
	}
	return nil
}

func network4(v Version, s string) error {
	if p, err := netip.ParsePrefix(s); err != nil || !p.Addr().Is4() {
		return wrong("IPv4 network", s)
	}
	return network(v, s)
}

func network6(v Version, s string) error {
	if p, err := netip.ParsePrefix(s); err != nil || !p.Addr().Is6() {
		return wrong("IPv6 network", s)
	}
	return network(v, s)
}

// ifAddress is an address with its length, or a way to get one.
func ifAddress(_ Version, s string) error {
	if s == "dhcp" || s == "dhcpv6" {
		return nil
	}
	if _, err := netip.ParsePrefix(s); err != nil {
		return wrong("address with prefix length", s)
	}
	return nil
}

// match is what firewall and NAT rules match addresses with: an address, a network or a range, each maybe negated.
func match(v Version, s string) error {
	s = strings.TrimPrefix(s, "!")
	if low, high, ok := strings.Cut(s, "-"); ok {
		if address(v, low) == nil && address(v, high) == nil {
			return nil
		}
		return wrong("range of addresses", s)
	}
	if address(v, s) == nil || network(v, s) == nil {
		return nil
	}
	return wrong("address or network", s)
}

func translation(v Version, s string) error {
	if s == "masquerade" {
		return nil
	}
	return match(v, s)
}

// ports are a port or a range; 1.4 and later take lists and service names too, which are not used here.
func ports(_ Version, s string) error {
	low, high, ranged := strings.Cut(s, "-")
	a, err := strconv.Atoi(low)
	b := a
	if err == nil && ranged {
		b, err = strconv.Atoi(high)
	}
	if err != nil || a < 1 || b > 65535 || a > b {
		return wrong("port or range of ports", s)
	}
	return nil
}

func mac(_ Version, s string) error {
	if m, err := net.ParseMAC(s); err != nil || len(m) != 6 || !strings.Contains(s, ":") {
		return wrong("MAC address", s)
	}
	return nil
}

func base64Key(_ Version, s string) error {
	if raw, err := base64.StdEncoding.DecodeString(s); err != nil || len(raw) == 0 {
		return wrong("base64 value", s)
	}
	return nil
}

// wireguardKey is 32 bytes in base64, as 43 characters and an equals sign.
func wireguardKey(_ Version, s string) error {
	if raw, err := base64.StdEncoding.DecodeString(s); err != nil || len(raw) != 32 || len(s) != 44 {
		return errs.New(errs.Invalid, "the value is no WireGuard key") // it may be a private one: it is not repeated
	}
	return nil
}

func timezone(_ Version, s string) error {
	if _, err := time.LoadLocation(s); err != nil || s == "" || s == "Local" {
		return wrong("time zone", s)
	}
	return nil
}

func description(v Version, s string) error {
	limit := 255
	if v == V13 {
		limit = 256
	}
	if s == "" || len(s) > limit {
		return errs.New(errs.Invalid, "a description has 1 to %d characters", limit)
	}
	return nil
}

// ruleSet is the name of a rule set; 1.3 is stricter in length and looser in letters, so that both rules hold.
func ruleSet() check {
	return func(v Version, s string) error {
		// No pattern: it is asked for every word of a name, which patterns make slow.
		if s == "" || strings.ContainsRune("_.-", rune(s[0])) || !plain(s) || strings.ContainsAny(s, "/:@+=") {
			return wrong("name of a rule set", s)
		}
		if v == V13 && (len(s) > 28 || strings.HasPrefix(s, "VZONE")) {
			return errs.New(errs.Invalid, "%q is no name of a rule set: 28 characters at most, not beginning with VZONE", s)
		}
		return nil
	}
}

func host() check {
	name := domain()
	return func(v Version, s string) error {
		if address(v, s) == nil {
			return nil
		}
		return name(v, s)
	}
}

func domain() check {
	return matching("domain name", `[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*`)
}

func prefixOrAddress(v Version, s string) error {
	if address(v, s) == nil {
		return nil
	}
	return network(v, s)
}

func ifName() check {
	return matching("name of an interface", `!?(eth|lan|wg|eno|ens|enp|enx|lo|bond|br)[A-Za-z0-9.*]*`)
}
