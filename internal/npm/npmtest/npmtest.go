// Package npmtest is a fake of Nginx Proxy Manager's REST API for tests. It is no proxy, and says so in each answer
// (X-Infractl-Fake). It keeps the quirks of the releases 2.10, 2.12 and 2.15 that a client must survive; its test names each.
package npmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/infractl/infractl/internal/clock"
)

// The account that the fake knows.
const (
	User     = "ops@example.test"
	Password = "a-password-of-the-fake"
)

// Options make a Fake.
type Options struct {
	// Minor is the release: 10, 12 or 15 of 2.x.
	Minor int
	// SQLite writes times without a zone and finds names that differ by case equal; MariaDB does neither.
	SQLite bool
	// Clock is for the life of tokens; nil means the system's.
	Clock clock.Clock
}

// Fake is one installation. Its fields may be set between requests, under Lock where requests run.
type Fake struct {
	sync.Mutex
	o Options

	// Down answers everything with the HTML of a dead backend.
	Down bool
	// Broken makes every test of nginx fail, as something else's fault does; it is nginx's text.
	Broken string
	// Refused are names whose configuration nginx refuses, with its text.
	Refused map[string]string
	// Unproven are names for which the authority finds no proof, with its detail.
	Unproven map[string]string
	// CertbotBusy is how many requests of certificates find another certbot running.
	CertbotBusy int
	// CertificateGate holds requests of certificates until it is closed; nil holds none.
	CertificateGate chan struct{}
	// NoUser is an installation that nobody has taken yet.
	NoUser bool
	// TwoFactor asks for a second factor.
	TwoFactor bool

	nextID int
	hosts  []*row
	others map[string][]*row // redirection-hosts and dead-hosts
	certs  []*certificate
	lists  []*accessList
	tokens map[string]time.Time
	logins int
	log    []string
	now    func() time.Time
}

// New returns an installation without hosts.
func New(o Options) *Fake {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	return &Fake{o: o, Refused: map[string]string{}, Unproven: map[string]string{}, others: map[string][]*row{},
		tokens: map[string]time.Time{}, now: o.Clock.Now}
}

type row struct {
	id       int
	fields   map[string]any
	meta     map[string]any
	enabled  bool
	served   bool // its file is in nginx
	existsIn string
}

func (r *row) domains() []string { return texts(r.fields["domain_names"]) }

func texts(v any) []string {
	var out []string
	if list, ok := v.([]any); ok {
		for _, e := range list {
			out = append(out, fmt.Sprint(e))
		}
	}
	return out
}

// Calls returns method and path of each request since the last time.
func (f *Fake) Calls() []string {
	f.Lock()
	defer f.Unlock()
	out := f.log
	f.log = nil
	return out
}

// Logins returns how often a password was checked.
func (f *Fake) Logins() int {
	f.Lock()
	defer f.Unlock()
	return f.logins
}

// KillTokens makes all tokens worthless, as a new key of the installation does.
func (f *Fake) KillTokens() {
	f.Lock()
	defer f.Unlock()
	clear(f.tokens)
}

// AddHost adds a proxy host as somebody did in the console and returns its id.
func (f *Fake) AddHost(name, target string, port int) int {
	f.Lock()
	defer f.Unlock()
	f.nextID++
	f.hosts = append(f.hosts, &row{id: f.nextID, enabled: true, served: true, meta: map[string]any{"nginx_online": true, "nginx_err": nil},
		fields: map[string]any{"domain_names": []any{name}, "forward_scheme": "http", "forward_host": target, "forward_port": float64(port),
			"certificate_id": 0.0, "access_list_id": 0.0, "advanced_config": "# by hand", "ssl_forced": false}})
	return f.nextID
}

// AddOther adds a name to redirection-hosts or dead-hosts.
func (f *Fake) AddOther(list, name string) {
	f.Lock()
	defer f.Unlock()
	f.nextID++
	f.others[list] = append(f.others[list], &row{id: f.nextID, enabled: true, meta: map[string]any{}, existsIn: list,
		fields: map[string]any{"domain_names": []any{name}, "certificate_id": 0.0}})
}

// Change sets a field of the host that has a name, as somebody does in the console.
func (f *Fake) Change(name, field string, to any) {
	f.Lock()
	defer f.Unlock()
	if r := f.byName(name); r != nil {
		r.fields[field] = to
	}
}

// Drop deletes the host that has a name, as somebody does in the console.
func (f *Fake) Drop(name string) {
	f.Lock()
	defer f.Unlock()
	f.hosts = slices.DeleteFunc(f.hosts, func(r *row) bool { return slices.Contains(r.domains(), name) })
}

func (f *Fake) byName(name string) *row {
	for _, r := range f.hosts {
		if slices.Contains(r.domains(), name) {
			return r
		}
	}
	return nil
}

// Dump returns all hosts, certificates in use and access lists in use as text, without their ids, sorted. ours picks those with or
// without the mark of infractl.
func (f *Fake) Dump(ours bool) string {
	f.Lock()
	defer f.Unlock()
	var out []string
	for _, r := range f.hosts {
		if (r.meta["managed_by"] == "infractl") != ours {
			continue
		}
		fields := map[string]any{"meta": r.meta, "enabled": r.enabled, "served": r.served}
		for k, v := range r.fields {
			fields[k] = v
		}
		fields["certificate_id"], fields["access_list_id"] = "none", "none"
		if c := f.certificate(number(r.fields["certificate_id"])); c != nil {
			fields["certificate_id"] = strings.Join(c.domains, " ")
		}
		if l := f.list(number(r.fields["access_list_id"])); l != nil {
			fields["access_list_id"] = fmt.Sprint(l.fields["clients"])
		}
		text, _ := json.Marshal(fields)
		out = append(out, string(text))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// ServeHTTP implements http.Handler for the console's port.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.Lock()
	defer f.Unlock()
	f.log = append(f.log, r.Method+" "+r.URL.RequestURI())
	w.Header().Set("X-Infractl-Fake", "this is no Nginx Proxy Manager")
	if f.Down {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		_, _ = w.Write([]byte("<html><body><h1>502 Bad Gateway</h1></body></html>"))
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api")
	switch {
	case !ok:
		f.fail(w, http.StatusNotFound, "Not Found - "+r.URL.Path)
	case path == "":
		http.Redirect(w, r, "/api/", http.StatusFound)
	case path == "/" && r.Method == http.MethodGet:
		f.status(w)
	case path == "/tokens" && r.Method == http.MethodPost:
		f.logIn(w, r)
	case f.authorised(w, r, path):
		f.serve(w, r, path)
	}
}

// Front answers like nginx on port 80: hosts that are served by their name, all others with the page of a new installation.
func (f *Fake) Front() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.Lock()
		defer f.Unlock()
		w.Header().Set("X-Infractl-Fake", "this is no Nginx Proxy Manager")
		for _, h := range f.hosts {
			if !h.served || !slices.Contains(h.domains(), r.Host) {
				continue
			}
			if h.fields["ssl_forced"] == true {
				http.Redirect(w, r, "https://"+r.Host+r.URL.RequestURI(), http.StatusMovedPermanently)
				return
			}
			fmt.Fprintf(w, "%s served by %v", r.Host, h.fields["forward_host"])
			return
		}
		fmt.Fprint(w, "Congratulations! You've successfully started the Nginx Proxy Manager.")
	})
}
