package system

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	blockBegin = "# BEGIN infractl: changes between these lines are undone"
	blockEnd   = "# END infractl"
	ownAddress = "127.0.1.1" // where Debian and Ubuntu put a host's own name
	maxEntries = 10000
)

// check refuses values that would break the files that they stand in.
func check(spec *v1.SystemSpec) error {
	bad := func(where, hint, format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At(where).WithHint("%s", hint)
	}
	const label = `[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?`
	name := regexp.MustCompile(`^` + label + `(\.` + label + `)*$`)
	isName := func(s string) bool { return len(s) <= 253 && name.MatchString(s) }
	if h := spec.GetHostname(); h != "" && (!isName(h) || strings.Contains(h, ".")) {
		return bad("hostname", "use letters, digits and hyphens", "%q is no short host name", h)
	}
	for _, domain := range append([]string{spec.GetDomain()}, spec.GetSearch()...) {
		if domain != "" && !isName(domain) {
			return bad("domain", "write it as example.lan", "%q is no domain", domain)
		}
	}
	if len(spec.GetHosts()) > maxEntries || len(spec.GetNameservers()) > 16 || len(spec.GetSearch()) > 32 || len(spec.GetSysctls()) > 1000 {
		return bad("system", "shorten the lists", "more hosts, name servers, domains or kernel settings than a host should have")
	}
	for _, e := range spec.GetHosts() {
		if !isAddress(e.GetAddress()) || len(e.GetNames()) == 0 || !all(e.GetNames(), isName) {
			return bad("hosts", "give an address and its names", "%s %v is no line of a hosts file", e.GetAddress(), e.GetNames())
		}
	}
	if !all(spec.GetNameservers(), isAddress) {
		return bad("nameservers", "give addresses, not names", "%v are no addresses", spec.GetNameservers())
	}
	if tz := spec.GetTimezone(); tz != "" && !regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`).MatchString(tz) {
		return bad("timezone", "write it as Europe/Paris", "%q is no time zone", tz)
	}
	for key, value := range spec.GetSysctls() {
		if !validKey(key) || value == "" || len(value) > 1000 || strings.ContainsAny(value, "\n\r\x00") {
			return bad("sysctls", "write it as vm.swappiness: 10", "%q = %q is no kernel setting", key, value)
		}
	}
	return nil
}

func isAddress(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func all(list []string, ok func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !ok(s) })
}

// hosts is the hosts file: our block first, so that it wins over what others left, then all other lines. The line of the
// host's own name goes, because the block has it.
func hosts(old string, spec *v1.SystemSpec) string {
	var b strings.Builder
	b.WriteString(blockBegin + "\n")
	if !slices.ContainsFunc(spec.GetHosts(), func(e *v1.HostsEntry) bool { return slices.Contains(e.GetNames(), spec.GetHostname()) }) {
		own := spec.GetHostname()
		if spec.GetDomain() != "" {
			own += "." + spec.GetDomain() + " " + own
		}
		b.WriteString(ownAddress + " " + own + "\n")
	}
	for _, e := range spec.GetHosts() {
		b.WriteString(e.GetAddress() + " " + strings.Join(e.GetNames(), " ") + "\n")
	}
	b.WriteString(blockEnd + "\n")
	foreign := foreignLines(old, b.String())
	b.WriteString(foreign)
	if !strings.Contains(foreign, "localhost") {
		b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	}
	return b.String()
}

// foreignLines are the lines that others wrote. A block whose end somebody deleted ends where it differs from ours.
func foreignLines(old, block string) string {
	var b strings.Builder
	lines := slices.Collect(strings.Lines(old))
	ours := slices.Collect(strings.Lines(block))
	end := func(from int) int {
		for i := from; i < len(lines); i++ {
			switch strings.TrimSpace(lines[i]) {
			case blockEnd:
				return i
			case blockBegin:
				return from - 1
			}
		}
		return from - 1
	}
	for i := 0; i < len(lines); i++ {
		line := strings.TrimSuffix(lines[i], "\n") + "\n"
		text := strings.TrimSpace(line)
		switch {
		case text == blockBegin:
			i = end(i + 1)
		case text == blockEnd, slices.Contains(ours, line):
		case strings.HasPrefix(text, ownAddress+" "), strings.HasPrefix(text, ownAddress+"\t"):
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}
