package sitefile

import (
	"fmt"
	"net/mail"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// bad is what a scalar says about text that it cannot be.
type bad struct{ message, hint string }

func (b *bad) Error() string { return b.message }

// Hint says what to write.
func (b *bad) Hint() string { return b.hint }

func refuse(text []byte, what, hint string) error {
	s := string(text)
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:57], "") + "..."
	}
	return &bad{fmt.Sprintf("%q is no %s", s, what), hint}
}

// Addr is an IP address.
type Addr struct{ netip.Addr }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Addr) UnmarshalText(text []byte) error {
	v, err := netip.ParseAddr(string(text))
	if err != nil || v.Zone() != "" || v.Is4In6() {
		return refuse(text, "IP address", "an address is like 10.0.10.4, without a prefix length")
	}
	a.Addr = v
	return nil
}

// Prefix is a network in CIDR form.
type Prefix struct{ netip.Prefix }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefix) UnmarshalText(text []byte) error {
	v, err := netip.ParsePrefix(string(text))
	if err != nil || v.Addr().Is4In6() {
		return refuse(text, "network in CIDR form", "a network is like 10.0.10.0/24")
	}
	if v != v.Masked() {
		return refuse(text, "network: it has host bits", fmt.Sprintf("did you mean %s?", v.Masked()))
	}
	p.Prefix = v
	return nil
}

// Port is a port number.
type Port uint16

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Port) UnmarshalText(text []byte) error {
	v, ok := portNumber(string(text))
	if !ok {
		return refuse(text, "port", "a port is a number from 1 to 65535")
	}
	*p = Port(v)
	return nil
}

func portNumber(s string) (uint16, bool) {
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), err == nil && v > 0 && s[0] != '+' && s[0] != '0'
}

// PortSpec is one entry of a flow's ports.
type PortSpec struct {
	// SSH means the port of the ssh section; the other fields are then empty.
	SSH bool
	// Proto is tcp or udp.
	Proto string
	// First and Last are the ends of the range.
	First, Last uint16
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *PortSpec) UnmarshalText(text []byte) error {
	const hint = "write 443/tcp, 53/udp, 1000-1010/tcp or ssh; ports go from 1 to 65535"
	if string(text) == "ssh" {
		p.SSH = true
		return nil
	}
	numbers, proto, _ := strings.Cut(string(text), "/")
	first, last, ranged := strings.Cut(numbers, "-")
	if !ranged {
		last = first
	}
	f, ok1 := portNumber(first)
	l, ok2 := portNumber(last)
	if !ok1 || !ok2 || f > l || proto != "tcp" && proto != "udp" {
		return refuse(text, "port with its protocol", hint)
	}
	*p = PortSpec{Proto: proto, First: f, Last: l}
	return nil
}

// Duration is a length of time.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s, days := strings.CutSuffix(string(text), "d")
	if days {
		n, err := strconv.ParseUint(s, 10, 16)
		if err == nil && n > 0 {
			*d = Duration(n) * Duration(24*time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v <= 0 {
		return refuse(text, "length of time", "write 30s, 5m, 4h or 90d")
	}
	*d = Duration(v)
	return nil
}

// String returns the shortest form that reads back.
func (d Duration) String() string {
	v := time.Duration(d)
	if v >= 24*time.Hour && v%(24*time.Hour) == 0 {
		return strconv.Itoa(int(v/(24*time.Hour))) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Size is a number of bytes.
type Size uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *Size) UnmarshalText(text []byte) error {
	s := string(text)
	shift := map[byte]uint{'K': 10, 'M': 20, 'G': 30}
	if s != "" {
		if by, ok := shift[s[len(s)-1]]; ok {
			if n, err := strconv.ParseUint(s[:len(s)-1], 10, 24); err == nil && n > 0 {
				*z = Size(n << by)
				return nil
			}
		}
	}
	return refuse(text, "size", "write 512M or 2G")
}

var (
	domainForm   = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hostForm     = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	scheduleForm = regexp.MustCompile(`^(hourly|daily at ([01][0-9]|2[0-3]):[0-5][0-9]|weekly on (Mon|Tue|Wed|Thu|Fri|Sat|Sun) at ([01][0-9]|2[0-3]):[0-5][0-9])$`)
	windowForm   = regexp.MustCompile(`^(Mon|Tue|Wed|Thu|Fri|Sat|Sun) (([01][0-9]|2[0-3]):[0-5][0-9])-(([01][0-9]|2[0-3]):[0-5][0-9])$`)
)

// DomainName is a DNS name of two labels or more, in lower case.
type DomainName string

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DomainName) UnmarshalText(text []byte) error {
	if len(text) > 200 || !domainForm.Match(text) {
		return refuse(text, "domain name", "write it like example.org, in lower case")
	}
	*d = DomainName(text)
	return nil
}

// NTPServer is the name or address of a time server.
type NTPServer string

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *NTPServer) UnmarshalText(text []byte) error {
	if !isHostOrAddr(string(text)) {
		return refuse(text, "name or address of a time server", "write it like 0.pool.ntp.org")
	}
	*n = NTPServer(text)
	return nil
}

// HostOrAddr is a name or address of a machine.
type HostOrAddr string

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HostOrAddr) UnmarshalText(text []byte) error {
	if !isHostOrAddr(string(text)) {
		return refuse(text, "name or address", "write it like vpn.example.org or 203.0.113.9")
	}
	*h = HostOrAddr(text)
	return nil
}

func isHostOrAddr(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" && !a.Is4In6()
	}
	// A name of digits and dots that is no address is an address with a slip, never a host.
	return len(s) <= 253 && hostForm.MatchString(s) && strings.Trim(s, "0123456789.") != ""
}

// SSHKey is a line of authorized_keys without options.
type SSHKey string

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *SSHKey) UnmarshalText(text []byte) error {
	const hint = `a key is like "ssh-ed25519 AAAA... name@machine", the content of a .pub file`
	line := strings.TrimSpace(string(text))
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 || strings.ContainsAny(line, "\n\r") {
		return refuse(text, "public SSH key", hint)
	}
	switch key.Type() {
	case ssh.KeyAlgoDSA: //nolint:staticcheck // named only to be refused
		return refuse(text, "key that is accepted: DSA is broken", "make one with: ssh-keygen -t ed25519")
	case ssh.KeyAlgoRSA:
		if ck, ok := key.(ssh.CryptoPublicKey); ok {
			if r, ok := ck.CryptoPublicKey().(interface{ Size() int }); ok && r.Size() < 384 {
				return refuse(text, "key that is accepted: RSA needs 3072 bits", "make one with: ssh-keygen -t ed25519")
			}
		}
	}
	*k = SSHKey(line)
	return nil
}

// Fingerprint returns the key's SHA-256 fingerprint.
func (k SSHKey) Fingerprint() string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k))
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// RelPath is a path below the folder of the site file.
type RelPath string

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *RelPath) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" || path.IsAbs(s) || path.Clean(s) != s || s == "." || s == ".." || strings.HasPrefix(s, "../") ||
		strings.ContainsAny(s, "\\\n\r\t\"'") {
		return refuse(text, "path below the site file's folder", "write it like stacks/services.yml")
	}
	*p = RelPath(s)
	return nil
}

// HostPort is a node, host or name with a port.
type HostPort struct {
	// Host is the node, host or name.
	Host string
	// Port is the port.
	Port uint16
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *HostPort) UnmarshalText(text []byte) error {
	host, port, _ := strings.Cut(string(text), ":")
	n, ok := portNumber(port)
	if !ok || !isHostOrAddr(host) {
		return refuse(text, "host with a port", "write it like srv-supervision:3000")
	}
	*h = HostPort{host, n}
	return nil
}

// Email is a mail address.
type Email string

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Email) UnmarshalText(text []byte) error {
	a, err := mail.ParseAddress(string(text))
	if err != nil || a.Address != string(text) {
		return refuse(text, "mail address", "write it like admin@example.org")
	}
	*e = Email(text)
	return nil
}

// URL is an https URL.
type URL string

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *URL) UnmarshalText(text []byte) error {
	v, err := url.Parse(string(text))
	if err != nil || v.Scheme != "https" || v.Host == "" || v.User != nil {
		return refuse(text, "https URL", "write it like https://acme.example.org/directory")
	}
	*u = URL(text)
	return nil
}

// Schedule says when something repeats.
type Schedule string

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Schedule) UnmarshalText(text []byte) error {
	if !scheduleForm.Match(text) {
		return refuse(text, "schedule", "write hourly, daily at 02:00, or weekly on Sun at 02:00")
	}
	*s = Schedule(text)
	return nil
}

// Window is a time of the week.
type Window string

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(text []byte) error {
	m := windowForm.FindStringSubmatch(string(text))
	if m == nil || m[2] == m[4] {
		return refuse(text, "window", "write it like Sun 02:00-05:00")
	}
	*w = Window(text)
	return nil
}
