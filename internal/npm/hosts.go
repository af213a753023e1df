package npm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// Mark stands in the meta of what we made.
const (
	markKey   = "managed_by"
	markValue = "infractl"
)

// Host is one proxy host.
type Host struct {
	// ID is its number; 0 for one that is not there yet.
	ID int
	// Domains are its names, lower-case.
	Domains []string
	// Scheme, Target and Port say where its requests go.
	Scheme, Target string
	Port           int
	// CertificateID and AccessListID are 0 without one.
	CertificateID, AccessListID int
	// Forced sends plain HTTP to HTTPS; HTTP2 and HSTS belong to TLS too.
	Forced, HTTP2, HSTS bool
	// Websockets lets connections be upgraded.
	Websockets bool
	// Enabled says whether it is served.
	Enabled bool
	// Ours says that it carries our mark; others are never touched.
	Ours bool
	// Labels are kept beside the mark.
	Labels map[string]string
	// Online is what nginx said at the last test: nil before it, Problem is its text.
	Online  *bool
	Problem string
}

// Kind is a list of hosts that names can stand in.
type kind string

const (
	proxyHosts kind = "proxy-hosts"
	redirects  kind = "redirection-hosts"
	dead       kind = "dead-hosts"
)

type hostReply struct {
	ID            int                        `json:"id"`
	Domains       []string                   `json:"domain_names"`
	Scheme        string                     `json:"forward_scheme"`
	Target        string                     `json:"forward_host"`
	Port          int                        `json:"forward_port"`
	CertificateID int                        `json:"certificate_id"`
	AccessListID  int                        `json:"access_list_id"`
	Forced        flag                       `json:"ssl_forced"`
	HTTP2         flag                       `json:"http2_support"`
	HSTS          flag                       `json:"hsts_enabled"`
	Websockets    flag                       `json:"allow_websocket_upgrade"`
	Enabled       flag                       `json:"enabled"`
	Meta          map[string]json.RawMessage `json:"meta"`
}

func (r *hostReply) host() Host {
	h := Host{ID: r.ID, Scheme: r.Scheme, Target: r.Target, Port: r.Port, CertificateID: r.CertificateID, AccessListID: r.AccessListID,
		Forced: bool(r.Forced), HTTP2: bool(r.HTTP2), HSTS: bool(r.HSTS), Websockets: bool(r.Websockets), Enabled: bool(r.Enabled)}
	for _, d := range r.Domains {
		h.Domains = append(h.Domains, strings.ToLower(d))
	}
	for key, raw := range r.Meta {
		var text string
		switch isText := json.Unmarshal(raw, &text) == nil; {
		case key == "nginx_online":
			var online *flag
			if json.Unmarshal(raw, &online) == nil && online != nil {
				h.Online = (*bool)(online)
			}
		case key == "nginx_err":
			h.Problem = printable(text)
		case key == markKey:
			h.Ours = text == markValue
		case isText:
			if h.Labels == nil {
				h.Labels = map[string]string{}
			}
			h.Labels[key] = text
		}
	}
	return h
}

// body is what every version accepts: the whole list of fields, each time, since PUT keeps what is left out.
func (h *Host) body(v Version, create bool) map[string]any {
	meta := map[string]any{markKey: markValue}
	for k, text := range h.Labels {
		meta[k] = text
	}
	b := map[string]any{
		"domain_names": h.Domains, "forward_scheme": h.Scheme, "forward_host": h.Target, "forward_port": h.Port,
		"certificate_id": h.CertificateID, "access_list_id": h.AccessListID,
		"ssl_forced": h.Forced, "http2_support": h.HTTP2, "hsts_enabled": h.HSTS, "hsts_subdomains": false,
		"block_exploits": false, "caching_enabled": false, "allow_websocket_upgrade": h.Websockets,
		"advanced_config": "", "locations": []any{}, "meta": meta,
	}
	if create {
		b["enabled"] = true // PUT with enabled:false leaves the site up: only enable and disable change it
	}
	if v.AtLeast(14) {
		b["trust_forwarded_proto"] = false
	}
	return b
}

// same reports whether nothing of what we set differs.
func (h *Host) same(o *Host) bool {
	return slices.Equal(sorted(h.Domains), sorted(o.Domains)) && h.Scheme == o.Scheme && h.Target == o.Target && h.Port == o.Port &&
		h.CertificateID == o.CertificateID && h.AccessListID == o.AccessListID && h.Forced == o.Forced && h.HTTP2 == o.HTTP2 &&
		h.HSTS == o.HSTS && h.Websockets == o.Websockets && fmt.Sprint(h.Labels) == fmt.Sprint(o.Labels)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// check refuses names that the API would take and nginx would not.
func (h *Host) check(v Version) error {
	limit := 100
	if !v.AtLeast(11) {
		limit = 15
	} else if v.Minor == 11 && v.Revision < 2 {
		limit = 30
	}
	bad := func(format string, args ...any) error {
		return errs.New(errs.Invalid, format, args...).WithHint("infractl site check")
	}
	if len(h.Domains) == 0 || len(h.Domains) > limit {
		return bad("a host of Nginx Proxy Manager %d.%d has 1 to %d names, not %d", v.Major, v.Minor, limit, len(h.Domains))
	}
	for _, d := range h.Domains {
		if !ValidName(d) {
			return bad("%.80q is no domain name in lower case", d)
		}
	}
	if h.Scheme != "http" && h.Scheme != "https" || h.Target == "" || len(h.Target) > 255 || h.Port < 1 || h.Port > 65535 {
		return bad("%s: %.20q %.80q port %d is no target", h.Domains[0], h.Scheme, h.Target, h.Port)
	}
	return nil
}

// ValidName reports whether name is a host name in lower case of at most 253 bytes, with labels of at most 63.
func ValidName(name string) bool {
	if len(name) > 253 || name == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// Hosts returns all proxy hosts, ours and those of others.
func (c *Client) Hosts(ctx context.Context) ([]Host, error) { return c.list(ctx, proxyHosts) }

func (c *Client) list(ctx context.Context, k kind) ([]Host, error) {
	if _, err := c.Probe(ctx); err != nil {
		return nil, err
	}
	var got []hostReply
	if err := c.call(ctx, request{method: http.MethodGet, path: "/nginx/" + string(k), into: &got}); err != nil {
		return nil, errs.Wrap("list "+string(k), err)
	}
	out := make([]Host, 0, len(got))
	for i := range got {
		out = append(out, got[i].host())
	}
	return out, nil
}

// Host reads one proxy host. Errors: NotFound, which releases before 2.12 say with an empty object.
func (c *Client) Host(ctx context.Context, id int) (Host, error) {
	var got hostReply
	path := fmt.Sprintf("/nginx/%s/%d", proxyHosts, id)
	if err := c.call(ctx, request{method: http.MethodGet, path: path, into: &got}); err != nil {
		return Host{}, err
	}
	if got.ID == 0 {
		return Host{}, errs.New(errs.NotFound, "there is no proxy host %d", id)
	}
	return got.host(), nil
}

// Taken returns the names that stand in lists other than that of the proxy hosts, with the list: none of them can be ours.
func (c *Client) Taken(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	for _, k := range []kind{redirects, dead} {
		list, err := c.list(ctx, k)
		if err != nil {
			return nil, err
		}
		for _, h := range list {
			for _, d := range h.Domains {
				out[d] = string(k)
			}
		}
	}
	return out, nil
}

// find returns the one proxy host that has a name of want's. Errors: Exists when it is not ours, or when two have them.
func find(list []Host, want *Host) (*Host, error) {
	var found *Host
	for i := range list {
		h := &list[i]
		at := slices.IndexFunc(h.Domains, func(d string) bool { return slices.Contains(want.Domains, d) })
		switch {
		case at < 0:
		case !h.Ours:
			return nil, errs.New(errs.Exists, "%s is a name of proxy host %d, which infractl did not make", h.Domains[at], h.ID).
				WithHint("remove that host in Nginx Proxy Manager, or take the name out of the site")
		case found != nil:
			return nil, errs.New(errs.Exists, "the names of %s stand in the proxy hosts %d and %d", want.Domains[0], found.ID, h.ID).
				WithHint("remove one of them in Nginx Proxy Manager")
		default:
			found = h
		}
	}
	return found, nil
}
