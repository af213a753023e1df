package npmtest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

type certificate struct {
	id       int
	provider string
	domains  []string
	email    string
	key      string // of a custom one: replies hold it
	expires  time.Time
	deleted  bool // its files are gone, and a host may still name it
}

type accessList struct {
	id     int
	fields map[string]any
}

// CustomKey is the private key that replies about custom certificates hold: it must be seen nowhere.
const CustomKey = "-----BEGIN PRIVATE KEY----- of the fake"

// AddCertificate adds a custom certificate, as somebody uploads it, and returns its id.
func (f *Fake) AddCertificate(names ...string) int {
	f.Lock()
	defer f.Unlock()
	f.nextID++
	f.certs = append(f.certs, &certificate{id: f.nextID, provider: "other", domains: names, key: CustomKey, expires: f.now().Add(90 * 24 * time.Hour)})
	return f.nextID
}

// Emails returns the addresses that certificates were asked for with, by their first name.
func (f *Fake) Emails() map[string]string {
	f.Lock()
	defer f.Unlock()
	out := map[string]string{}
	for _, c := range f.certs {
		out[c.domains[0]] = c.email
	}
	return out
}

func (f *Fake) certificate(id int) *certificate {
	for _, c := range f.certs {
		if c.id == id && !c.deleted {
			return c
		}
	}
	return nil
}

// danglingCertificate reports whether a file that nginx wants is gone: nothing can be written for anybody then.
func (f *Fake) danglingCertificate(*row) bool {
	return slices.ContainsFunc(f.hosts, func(h *row) bool {
		return h.enabled && slices.ContainsFunc(f.certs, func(c *certificate) bool {
			return c.deleted && c.provider == "letsencrypt" && c.id == number(h.fields["certificate_id"])
		})
	})
}

func (f *Fake) certificateReply(c *certificate) map[string]any {
	meta := map[string]any{"dns_challenge": false}
	if c.key != "" {
		meta = map[string]any{"certificate": "-----BEGIN CERTIFICATE-----", "certificate_key": c.key}
	}
	return map[string]any{"id": c.id, "provider": c.provider, "nice_name": strings.Join(c.domains, ", "), "domain_names": c.domains,
		"expires_on": f.time(c.expires), "meta": meta}
}

func (f *Fake) certificates(w http.ResponseWriter, r *http.Request, path string, parts []string) {
	if len(parts) == 0 {
		switch r.Method {
		case http.MethodGet:
			out := []any{}
			for _, c := range f.certs {
				if !c.deleted {
					out = append(out, f.certificateReply(c))
				}
			}
			f.answer(w, http.StatusOK, out)
		case http.MethodPost:
			f.request(w, r)
		default:
			f.fail(w, http.StatusNotFound, "Not Found - "+path)
		}
		return
	}
	id, err := strconv.Atoi(parts[0])
	c := f.certificate(id)
	switch {
	case err != nil:
		f.fail(w, http.StatusBadRequest, "Internal Error")
	case c == nil:
		f.missing(w, r, id)
	case r.Method == http.MethodGet:
		out := f.certificateReply(c)
		used := []any{}
		for _, h := range f.hosts {
			if number(h.fields["certificate_id"]) == id {
				used = append(used, f.reply(h))
			}
		}
		out["proxy_hosts"], out["redirection_hosts"], out["dead_hosts"] = used, []any{}, []any{}
		f.answer(w, http.StatusOK, out)
	case r.Method == http.MethodDelete:
		c.deleted = true // whoever uses it
		f.answer(w, http.StatusOK, true)
	default:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	}
}

// request is a request of a certificate by HTTP-01.
func (f *Fake) request(w http.ResponseWriter, r *http.Request) {
	body, ok := f.body(w, r)
	if !ok {
		return
	}
	meta, _ := body["meta"].(map[string]any)
	if _, old := meta["letsencrypt_email"]; old && f.o.Minor >= 13 {
		f.fail(w, http.StatusBadRequest, "data/meta must NOT have additional properties")
		return
	}
	if gate := f.CertificateGate; gate != nil { // certbot takes its time; the rest of the API goes on
		f.Unlock()
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		f.Lock()
	}
	names := texts(body["domain_names"])
	if f.CertbotBusy > 0 {
		f.CertbotBusy--
		f.certificateFails(w, "Another instance of Certbot is already running.")
		return
	}
	for _, n := range names {
		if detail, bad := f.Unproven[n]; bad {
			f.certificateFails(w, "Command failed: certbot certonly --config '/etc/letsencrypt.ini' --authenticator webroot\n"+
				"  Domain: "+n+"\n  Type:   unauthorized\n  Detail: "+detail)
			return
		}
	}
	f.nextID++
	c := &certificate{id: f.nextID, provider: "letsencrypt", domains: names, email: User, expires: f.now().Add(90 * 24 * time.Hour)}
	if f.o.Minor < 13 {
		c.email = "undefined"
		if e, sent := meta["letsencrypt_email"]; sent {
			c.email = fmt.Sprint(e)
		}
	}
	f.certs = append(f.certs, c)
	f.answer(w, http.StatusCreated, f.certificateReply(c))
}

// certificateFails has the reason in the debug part alone.
func (f *Fake) certificateFails(w http.ResponseWriter, trace string) {
	f.answer(w, http.StatusInternalServerError, map[string]any{"error": map[string]any{"code": 500, "message": "Internal Error"},
		"debug": map[string]any{"stack": strings.Split(trace, "\n"), "previous": nil}})
}
