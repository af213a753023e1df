package npmtest

import (
	"net/http"
	"slices"
	"strconv"
)

func (f *Fake) list(id int) *accessList {
	for _, l := range f.lists {
		if l.id == id {
			return l
		}
	}
	return nil
}

func (f *Fake) users(id int) int {
	n := 0
	for _, h := range f.hosts {
		if number(h.fields["access_list_id"]) == id {
			n++
		}
	}
	return n
}

func (f *Fake) accessLists(w http.ResponseWriter, r *http.Request, path string, parts []string) {
	switch {
	case len(parts) == 0 && r.Method == http.MethodGet:
		out := []any{}
		for _, l := range f.lists {
			out = append(out, f.listReply(l))
		}
		f.answer(w, http.StatusOK, out)
		return
	case len(parts) == 0 && r.Method == http.MethodPost:
		f.makeList(w, r)
		return
	case len(parts) != 1:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
		return
	}
	id, _ := strconv.Atoi(parts[0])
	l := f.list(id)
	switch {
	case l == nil:
		f.missing(w, r, id)
	case r.Method == http.MethodGet:
		f.answer(w, http.StatusOK, f.listReply(l))
	case r.Method == http.MethodPut:
		if body, ok := f.body(w, r); ok {
			for k, v := range body { // items and clients replace the whole set
				l.fields[k] = v
			}
			f.answer(w, http.StatusOK, f.listReply(l))
		}
	case r.Method == http.MethodDelete:
		for _, h := range f.hosts { // they are open now
			if number(h.fields["access_list_id"]) == id {
				h.fields["access_list_id"] = 0.0
			}
		}
		f.lists = slices.DeleteFunc(f.lists, func(o *accessList) bool { return o.id == id })
		f.answer(w, http.StatusOK, true)
	default:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	}
}

func (f *Fake) makeList(w http.ResponseWriter, r *http.Request) {
	body, ok := f.body(w, r)
	if !ok {
		return
	}
	if _, old := body["meta"]; old && f.o.Minor >= 13 {
		f.fail(w, http.StatusBadRequest, "data must NOT have additional properties")
		return
	}
	f.nextID++
	l := &accessList{id: f.nextID, fields: map[string]any{"satisfy_any": false, "pass_auth": true, "clients": []any{}}}
	for k, v := range body {
		l.fields[k] = v
	}
	f.lists = append(f.lists, l)
	if _, sent := body["items"]; !sent {
		f.fail(w, http.StatusInternalServerError, "Internal Error") // and the row stays
		return
	}
	f.answer(w, http.StatusCreated, f.listReply(l))
}

func (f *Fake) listReply(l *accessList) map[string]any {
	out := map[string]any{"id": l.id, "proxy_host_count": f.users(l.id), "owner_user_id": 1}
	for k, v := range l.fields {
		if b, ok := v.(bool); ok {
			v = f.boolean(b)
		}
		out[k] = v
	}
	return out
}
