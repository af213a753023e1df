package proxy

import (
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/npm"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Certificate says where a host's certificate comes from.
type Certificate string

// The certificates.
const (
	// Own is a certificate of the host's own names from the authority.
	Own Certificate = "own"
	// Wildcard is the one certificate for all names of a domain.
	Wildcard Certificate = "wildcard"
	// Internal comes from our own authority.
	Internal Certificate = "internal"
	// None is plain HTTP.
	None Certificate = "none"
	// Waiting says that its turn in the queue has not come.
	Waiting Certificate = "waiting"
)

// Host is one host of the proxy.
type Host struct {
	// Domains are its names, the main one first.
	Domains []string `json:"domains"`
	// Scheme, Address and Port say where its requests go.
	Scheme  string `json:"scheme"`
	Address string `json:"address"`
	Port    int    `json:"port"`
	// Allow are the prefixes that may use it, sorted; empty means everybody.
	Allow []string `json:"allow,omitempty"`
	// Instance is the instance that it belongs to.
	Instance string `json:"instance,omitempty"`
	// Certificate says where its certificate comes from.
	Certificate Certificate `json:"certificate"`
}

func (h *Host) target() string {
	return h.Scheme + "://" + net.JoinHostPort(h.Address, strconv.Itoa(h.Port))
}

// lines are the host for people.
func (h *Host) lines() []string {
	out := []string{"names: " + strings.Join(h.Domains, " "), "to: " + h.target(), "certificate: " + string(h.Certificate)}
	if len(h.Allow) > 0 {
		out = append(out, "only from: "+strings.Join(h.Allow, " "))
	}
	return out
}

// wanted checks a spec and returns its hosts; what is not Internal has no certificate yet.
func wanted(spec *v1.ProxySpec) ([]Host, error) {
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).At("proxy").WithHint("infractl site check")
	}
	if d := spec.GetDriver(); d != DriverNPM && d != DriverCaddy {
		return nil, bad("%.40q is no driver", d)
	}
	if t := spec.GetTlsProvider(); t != "" && t != "letsencrypt" && t != "internal" {
		return nil, bad("%.40q is no provider of certificates", t)
	}
	if w := spec.GetWildcard(); w != "" && !npm.ValidName(w) {
		return nil, bad("%.80q is no domain name", w)
	}
	for _, a := range spec.GetListenAddresses() {
		if _, err := netip.ParseAddr(a); err != nil {
			return nil, bad("%.80q is no address", a)
		}
	}
	if len(spec.GetHosts()) > 10000 {
		return nil, bad("%d hosts", len(spec.GetHosts()))
	}
	seen := map[string]bool{}
	var out []Host
	for _, s := range spec.GetHosts() {
		h := Host{Scheme: s.GetScheme(), Instance: s.GetInstance()}
		if len(s.GetDomains()) == 0 || len(s.GetDomains()) > 100 {
			return nil, bad("a host has %d names", len(s.GetDomains()))
		}
		for _, d := range s.GetDomains() {
			if !npm.ValidName(d) || seen[d] {
				return nil, bad("%.80q is no domain name in lower case, or comes twice", d)
			}
			seen[d] = true
			h.Domains = append(h.Domains, d)
		}
		address, port, err := net.SplitHostPort(s.GetTarget())
		n, perr := strconv.Atoi(port)
		if _, aerr := netip.ParseAddr(address); err != nil || perr != nil || n < 1 || n > 65535 || aerr != nil && !npm.ValidName(address) {
			return nil, bad("%s: %.80q is no target", h.Domains[0], s.GetTarget())
		}
		h.Address, h.Port = address, n
		if h.Scheme == "" {
			h.Scheme = "http"
		}
		if h.Scheme != "http" && h.Scheme != "https" {
			return nil, bad("%s: %.20q is neither http nor https", h.Domains[0], h.Scheme)
		}
		for _, a := range s.GetAllow() {
			if _, err := netip.ParsePrefix(a); err != nil {
				return nil, bad("%s: %.60q is no prefix", h.Domains[0], a)
			}
			h.Allow = append(h.Allow, a)
		}
		slices.Sort(h.Allow)
		h.Allow = slices.Compact(h.Allow)
		if s.GetInternal() || spec.GetTlsProvider() == "internal" {
			h.Certificate = Internal
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.Domains[0], b.Domains[0]) })
	return out, nil
}

// under reports whether one wildcard certificate of domain is good for all names.
func under(names []string, domain string) bool {
	return domain != "" && !slices.ContainsFunc(names, func(n string) bool {
		_, parent, _ := strings.Cut(n, ".")
		return parent != domain
	})
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
