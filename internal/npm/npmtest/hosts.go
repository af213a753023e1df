package npmtest

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// serve answers what needs a token.
func (f *Fake) serve(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(strings.TrimPrefix(path, "/nginx/"), "/")
	switch {
	case path == "/users/me" && r.Method == http.MethodGet:
		f.answer(w, http.StatusOK, map[string]any{"id": 1, "email": User})
	case path == "/nginx/"+parts[0] && parts[0] == "proxy-hosts":
		f.allHosts(w, r)
	case (parts[0] == "redirection-hosts" || parts[0] == "dead-hosts") && len(parts) == 1 && r.Method == http.MethodGet:
		f.answer(w, http.StatusOK, f.replies(f.others[parts[0]]))
	case parts[0] == "proxy-hosts" && len(parts) <= 3:
		f.oneHost(w, r, path, parts[1:])
	case parts[0] == "certificates":
		f.certificates(w, r, path, parts[1:])
	case parts[0] == "access-lists":
		f.accessLists(w, r, path, parts[1:])
	default:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	}
}

func (f *Fake) allHosts(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		f.answer(w, http.StatusOK, f.replies(f.hosts))
	case http.MethodPost:
		if body, ok := f.body(w, r); ok && f.valid(w, body, true) && f.free(w, texts(body["domain_names"]), 0) {
			f.create(w, body)
		}
	default:
		f.fail(w, http.StatusNotFound, "Not Found - "+r.URL.Path)
	}
}

func (f *Fake) create(w http.ResponseWriter, body map[string]any) {
	if _, sent := body["advanced_config"]; !sent && f.o.Minor <= 11 && !f.o.SQLite {
		f.fail(w, http.StatusInternalServerError, "Internal Error") // the column has no default there
		return
	}
	f.nextID++
	h := &row{id: f.nextID, fields: map[string]any{"certificate_id": 0.0, "access_list_id": 0.0, "locations": nil, "advanced_config": ""},
		meta: map[string]any{}, enabled: true}
	h.set(body)
	if body["enabled"] == false {
		h.enabled = false
	}
	_, sentCertificate := body["certificate_id"]
	if !sentCertificate || f.o.Minor < 12 && number(body["certificate_id"]) == 0 {
		h.clearTLS()
	}
	f.hosts = append(f.hosts, h)
	reply := f.reply(h) // before nginx is tested
	if !f.configure(h) {
		f.fail(w, http.StatusInternalServerError, "Internal Error") // and the row stays
		return
	}
	f.answer(w, http.StatusCreated, reply)
}

func (h *row) set(body map[string]any) {
	for k, v := range body {
		switch k {
		case "meta":
			h.meta, _ = v.(map[string]any)
		case "enabled":
		default:
			h.fields[k] = v
		}
	}
}

func (h *row) clearTLS() {
	for _, k := range []string{"ssl_forced", "http2_support", "hsts_enabled"} {
		h.fields[k] = false
	}
}

// configure writes a host's file, tests nginx and reports false when nginx was broken by something else.
func (f *Fake) configure(h *row) bool {
	if f.Broken != "" || f.danglingCertificate(h) {
		return false
	}
	for _, d := range h.domains() {
		if text, bad := f.Refused[d]; bad {
			h.meta["nginx_online"], h.meta["nginx_err"] = false, text
			h.served = false
			return true
		}
	}
	h.meta["nginx_online"], h.meta["nginx_err"] = true, nil
	h.served = h.enabled
	return true
}

func (f *Fake) oneHost(w http.ResponseWriter, r *http.Request, path string, parts []string) {
	id, err := strconv.Atoi(parts[0])
	if err != nil {
		f.fail(w, http.StatusBadRequest, "Internal Error")
		return
	}
	at := slices.IndexFunc(f.hosts, func(h *row) bool { return h.id == id })
	if at < 0 {
		f.missing(w, r, id)
		return
	}
	h, verb := f.hosts[at], strings.Join(parts[1:], "")
	switch {
	case r.Method == http.MethodPost && verb == "enable", r.Method == http.MethodPost && verb == "disable":
		f.turn(w, h, verb)
	case verb != "":
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	case r.Method == http.MethodGet:
		f.answer(w, http.StatusOK, f.reply(h))
	case r.Method == http.MethodPut:
		f.put(w, r, h)
	case r.Method == http.MethodDelete:
		f.hosts = slices.Delete(f.hosts, at, at+1)
		if f.Broken != "" {
			f.fail(w, http.StatusInternalServerError, "Internal Error")
			return
		}
		f.answer(w, http.StatusOK, true)
	default:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	}
}

func (f *Fake) missing(w http.ResponseWriter, r *http.Request, id int) {
	switch {
	case f.o.Minor <= 11 && r.Method == http.MethodGet:
		f.answer(w, http.StatusOK, map[string]any{})
	case f.o.Minor <= 12:
		f.fail(w, http.StatusNotFound, fmt.Sprintf("Item Not Found - %d", id))
	default:
		f.fail(w, http.StatusNotFound, fmt.Sprintf("Not Found - %d", id))
	}
}

func (f *Fake) put(w http.ResponseWriter, r *http.Request, h *row) {
	body, ok := f.body(w, r)
	if !ok || !f.valid(w, body, false) || !f.free(w, texts(body["domain_names"]), h.id) {
		return
	}
	meta := h.meta
	h.set(body)
	if _, sent := body["meta"]; !sent {
		h.meta = meta
	} else { // what nginx said is kept until the next test
		for _, k := range []string{"nginx_online", "nginx_err"} {
			if v, had := meta[k]; had {
				h.meta[k] = v
			}
		}
	}
	if number(body["certificate_id"]) == 0 && f.o.Minor < 12 {
		h.clearTLS()
	}
	if body["enabled"] == false {
		h.enabled = false // the row says so, and the site stays up
		f.answer(w, http.StatusOK, f.reply(h))
		return
	}
	if !f.configure(h) {
		f.fail(w, http.StatusInternalServerError, "Internal Error")
		return
	}
	f.answer(w, http.StatusOK, f.reply(h))
}

func (f *Fake) turn(w http.ResponseWriter, h *row, verb string) {
	want := verb == "enable"
	if h.enabled == want {
		f.fail(w, http.StatusBadRequest, "Host is already "+verb+"d")
		return
	}
	h.enabled = want
	if !want {
		h.served = false
	} else if !f.configure(h) {
		f.fail(w, http.StatusInternalServerError, "Internal Error")
		return
	}
	f.answer(w, http.StatusOK, true)
}

// free answers 400 for a name that another host has, disabled ones and other lists included.
func (f *Fake) free(w http.ResponseWriter, names []string, self int) bool {
	for _, h := range slices.Concat(f.hosts, f.others["redirection-hosts"], f.others["dead-hosts"]) {
		for _, d := range h.domains() {
			for _, n := range names {
				if h.id != self && (n == d || f.o.SQLite && strings.EqualFold(n, d)) {
					f.fail(w, http.StatusBadRequest, n+" is already in use")
					return false
				}
			}
		}
	}
	return true
}

func (f *Fake) replies(list []*row) []any {
	out := []any{}
	for _, h := range list {
		out = append(out, f.reply(h))
	}
	return out
}

func (f *Fake) reply(h *row) map[string]any {
	meta := map[string]any{}
	for k, v := range h.meta {
		meta[k] = v
	}
	out := map[string]any{"id": h.id, "meta": meta, "enabled": f.boolean(h.enabled), "owner_user_id": 1, "certificate": nil,
		"created_on": f.time(f.now()), "modified_on": f.time(f.now())}
	for k, v := range h.fields {
		if b, ok := v.(bool); ok {
			v = f.boolean(b)
		}
		out[k] = v
	}
	if f.o.Minor <= 11 {
		out["use_default_location"], out["ipv6"] = 1, 1
	}
	return out
}

func (f *Fake) boolean(b bool) any {
	switch {
	case f.o.Minor >= 12:
		return b
	case b:
		return 1
	}
	return 0
}

func number(v any) int {
	if n, ok := v.(float64); ok && n == math.Trunc(n) {
		return int(n)
	}
	return 0
}
