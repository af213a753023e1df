package npmtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// valid checks a host's body as the release's schema does: up to 2.11 the first failure, later all of them.
func (f *Fake) valid(w http.ResponseWriter, body map[string]any, create bool) bool {
	var failed []string
	bad := func(format string, args ...any) { failed = append(failed, f.must(fmt.Sprintf(format, args...))) }
	if create {
		for _, k := range []string{"domain_names", "forward_scheme", "forward_host", "forward_port"} {
			if _, ok := body[k]; !ok {
				bad("data must have required property '%s'", k)
			}
		}
	} else if len(body) == 0 && f.o.Minor >= 12 {
		bad("data must NOT have fewer than 1 properties")
	}
	known := strings.Fields(`domain_names forward_scheme forward_host forward_port certificate_id access_list_id ssl_forced hsts_enabled
		hsts_subdomains http2_support block_exploits caching_enabled allow_websocket_upgrade enabled advanced_config meta locations`)
	if f.o.Minor >= 14 {
		known = append(known, "trust_forwarded_proto")
	}
	for k := range body {
		if !slices.Contains(known, k) {
			bad("data must NOT have additional properties")
		}
	}
	if names, ok := body["domain_names"]; ok {
		f.validNames(names, bad)
	}
	if port, ok := body["forward_port"]; ok && (number(port) < 1 || number(port) > 65535) {
		bad("data/forward_port must be <= 65535")
	}
	if s, ok := body["forward_scheme"]; ok && s != "http" && s != "https" {
		bad("data/forward_scheme must be equal to one of the allowed values")
	}
	if len(failed) == 0 {
		return true
	}
	if f.o.Minor < 12 {
		failed = failed[:1]
	}
	f.fail(w, http.StatusBadRequest, strings.Join(failed, ", "))
	return false
}

func (f *Fake) validNames(names any, bad func(string, ...any)) {
	list, ok := names.([]any)
	limit := 100
	if f.o.Minor <= 10 {
		limit = 15
	}
	switch {
	case !ok:
		bad("data/domain_names must be array")
	case len(list) == 0:
		bad("data/domain_names must NOT have fewer than 1 items")
	case len(list) > limit:
		bad("data/domain_names must NOT have more than %d items", limit)
	}
	for i, n := range texts(names) {
		if strings.ContainsAny(n, "&|@!#%^();:/\\}{=+?<>,~'\"` ") {
			bad("data/domain_names/%d must match pattern", i)
		}
	}
}

func (f *Fake) time(t time.Time) string {
	if f.o.SQLite {
		return t.UTC().Format(time.DateTime)
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}
