package dolibarr

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/pages"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// frontSocket is Caddy's admin endpoint, inside its container: no address of any network has one. A folder in memory over one of the
	// image has that one's mode and another owner, so that it is /tmp, which every image has for everybody.
	frontSocket = "unix//tmp/admin.sock"
	// frontPort is where Caddy listens inside its container.
	frontPort = 80
	// healthPath answers "ok" and the digest of the configuration that runs.
	healthPath = "/.infractl/health"
)

// hidden are paths that nobody may ask for from outside: the installer answers even where it is locked, and conf.php lies beside the code.
var hidden = []string{"/install*", "/conf", "/conf/*"}

// domainForm keeps wildcards and the placeholders of Caddy out of its configuration.
var domainForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

type object = map[string]any

// frontConfig makes Caddy's configuration of a host's front, and the digest that its health answer carries. full says of which instances the
// space is used up. Errors: Invalid for a domain that is none or that two instances have.
func frontConfig(spec *v1.DolibarrSpec, full func(*v1.InstanceSpec) bool) (config []byte, digest string, err error) {
	trusted, err := trustedRanges(spec.GetFront().GetTrustedProxies())
	if err != nil {
		return nil, "", err
	}
	routes, failures, err := frontRoutes(spec.GetInstances(), trusted, full)
	if err != nil {
		return nil, "", err
	}
	text, err := json.Marshal([]any{routes, failures})
	if err != nil {
		return nil, "", errs.Wrap("write the front's configuration", err)
	}
	sum := sha256.Sum256(text)
	digest = hex.EncodeToString(sum[:8])
	health := object{"match": []any{object{"path": []string{healthPath}}}, "terminal": true, "handle": []any{plain(200, healthBody(digest))}}
	server := object{
		"listen": []string{":80"}, "protocols": []string{"h1"}, "automatic_https": object{"disable": true},
		"read_header_timeout": int64(30e9), "idle_timeout": int64(120e9),
		"routes": slices.Concat([]any{health}, routes, []any{object{"handle": []any{plain(404, "This name is not served here.\n")}}}),
		"errors": object{"routes": failures},
	}
	text, err = json.MarshalIndent(object{
		"admin": object{"listen": frontSocket, "config": object{"persist": false}},
		"apps":  object{"http": object{"servers": object{"front": server}}},
	}, "", " ")
	return append(text, '\n'), digest, errs.Wrap("write the front's configuration", err)
}

func healthBody(digest string) string { return "ok " + digest + "\n" }

// trustedRanges are the addresses whose X-Forwarded headers count. Caddy drops those of all others.
func trustedRanges(list []string) ([]string, error) {
	out := []string{}
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, errs.New(errs.Invalid, "%.60q is no address of a trusted proxy", text)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		out = append(out, prefix.Masked().String())
	}
	return out, nil
}

// frontRoutes are one route for each instance, and what is shown when an application does not answer.
func frontRoutes(instances []*v1.InstanceSpec, trusted []string, full func(*v1.InstanceSpec) bool) (routes, failures []any, err error) {
	routes, failures = []any{}, []any{}
	owner, hosts := map[string]string{}, map[string][]string{}
	for _, inst := range instances {
		for _, domain := range inst.GetDomains() {
			if !domainForm.MatchString(domain) || len(domain) > 253 {
				return nil, nil, errs.New(errs.Invalid, "instance %s: %.80q is no domain", inst.GetName(), domain)
			}
			if other, taken := owner[domain]; taken {
				return nil, nil, errs.New(errs.Invalid, "instance %s: %s belongs to instance %s, too", inst.GetName(), domain, other)
			}
			owner[domain] = inst.GetName()
		}
		if len(inst.GetDomains()) == 0 {
			continue
		}
		handle, err := answers(inst, trusted, full(inst))
		if err != nil {
			return nil, nil, err
		}
		routes = append(routes, object{"match": []any{object{"host": inst.GetDomains()}}, "terminal": true,
			"handle": []any{object{"handler": "subroute", "routes": handle}}})
		if inst.GetMode() == v1.InstanceMode_INSTANCE_MODE_RUNNING {
			hosts[inst.GetLanguage()] = append(hosts[inst.GetLanguage()], inst.GetDomains()...)
		}
	}
	const down = "{http.error.status_code} in [502, 503, 504]"
	for _, language := range []string{"en", "fr", ""} {
		page, err := pages.Page{Kind: pages.Unreachable, Language: language}.Handler()
		if err != nil {
			return nil, nil, err
		}
		match := object{"expression": down}
		if language != "" {
			if len(hosts[language]) == 0 {
				continue
			}
			match["host"] = hosts[language]
		}
		failures = append(failures, object{"match": []any{match}, "terminal": true, "handle": []any{page}})
	}
	return routes, failures, nil
}

// answers are the routes of one instance. The Host header goes on as it came: Dolibarr makes its links of it.
func answers(inst *v1.InstanceSpec, trusted []string, full bool) ([]any, error) {
	routes := []any{object{"match": []any{object{"path": hidden}}, "terminal": true, "handle": []any{plain(404, "Not found.\n")}}}
	var page pages.Page
	switch inst.GetMode() {
	case v1.InstanceMode_INSTANCE_MODE_RUNNING:
		if full {
			static, err := pages.Page{Kind: pages.Full, Language: inst.GetLanguage()}.Handler()
			if err != nil {
				return nil, err
			}
			routes = append(routes, object{"match": bringsData(), "terminal": true, "handle": []any{static}})
		}
		return append(routes, object{"handle": []any{object{"handler": "reverse_proxy", "trusted_proxies": trusted,
			"transport": object{"protocol": "http", "dial_timeout": int64(5e9), "keep_alive": object{"max_idle_conns_per_host": 4}},
			"upstreams": []any{object{"dial": appName(inst) + ":80"}}}}}), nil
	case v1.InstanceMode_INSTANCE_MODE_CLOSED:
		page = pages.Page{Kind: pages.Maintenance, Language: inst.GetLanguage()}
	default:
		page = pages.Page{Kind: pages.Suspended, Language: inst.GetLanguage()}
	}
	static, err := page.Handler()
	return append(routes, object{"handle": []any{static}}), err
}

// Numbers above 64 KiB and above 16 KiB: more than a form sends. A form with a place for a file sends its fields as parts of a body of
// several, so that the smaller bound is not zero: who edits a customer's record sends some 10 KiB.
const (
	above64K = `^(6553[7-9]|655[4-9][0-9]|65[6-9][0-9]{2}|6[6-9][0-9]{3}|[7-9][0-9]{4}|[0-9]{6,})$`
	above16K = `^(1638[5-9]|1639[0-9]|16[4-9][0-9]{2}|1[7-9][0-9]{3}|[2-9][0-9]{4}|[0-9]{6,})$`
)

// bringsData matches requests that bring more than a form: by their length, and those that do not tell it. Caddy keeps the header of a length
// that was told, and there is none beside a body in chunks.
func bringsData() []any {
	methods := []string{"POST", "PUT", "PATCH"}
	pattern := func(p string) object { return object{"pattern": p} }
	return []any{
		object{"method": methods, "header_regexp": object{"Content-Length": pattern(above64K)}},
		object{"method": methods, "header_regexp": object{"Content-Length": pattern(above16K), "Content-Type": pattern(`(?i)^\s*multipart/`)}},
		object{"method": methods, "header": object{"Content-Length": nil}},
	}
}

func plain(status int, body string) object {
	return object{"handler": "static_response", "status_code": status, "body": body,
		"headers": object{"Content-Type": []string{"text/plain; charset=utf-8"}, "Cache-Control": []string{"no-store"}}}
}

// mainDomain is the name that people open.
func mainDomain(inst *v1.InstanceSpec) string {
	if len(inst.GetDomains()) == 0 {
		return ""
	}
	return strings.ToLower(inst.GetDomains()[0])
}
