package npmtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

func (f *Fake) status(w http.ResponseWriter) {
	body := map[string]any{"status": "OK", "version": map[string]any{"major": 2, "minor": f.o.Minor, "revision": 1}}
	if f.o.Minor >= 13 {
		body["setup"] = !f.NoUser
	}
	f.answer(w, http.StatusOK, body)
}

func (f *Fake) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (f *Fake) fail(w http.ResponseWriter, status int, message string) {
	body := map[string]any{"error": map[string]any{"code": status, "message": message}}
	if status == http.StatusInternalServerError && f.o.Minor <= 12 {
		body = map[string]any{"error": map[string]any{"message": message}}
	}
	if f.o.Minor >= 13 && message == "Token has expired" {
		body["error"].(map[string]any)["message_i18n"] = map[string]any{"key": "error.expired"}
	}
	f.answer(w, status, body)
}

// body reads a JSON body as the API does.
func (f *Fake) body(w http.ResponseWriter, r *http.Request) (map[string]any, bool) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		f.fail(w, http.StatusBadRequest, "Payload is undefined")
		return nil, false
	}
	var body map[string]any
	if json.NewDecoder(r.Body).Decode(&body) != nil {
		f.fail(w, http.StatusBadRequest, "Internal Error")
		return nil, false
	}
	return body, true
}

func (f *Fake) logIn(w http.ResponseWriter, r *http.Request) {
	body, ok := f.body(w, r)
	if !ok {
		return
	}
	f.logins++
	identity := strings.ToLower(strings.TrimSpace(fmt.Sprint(body["identity"])))
	switch {
	case body["expiry"] != nil && f.o.Minor >= 12:
		f.fail(w, http.StatusBadRequest, "data must NOT have additional properties")
	case body["secret"] == nil:
		f.fail(w, http.StatusBadRequest, f.must("data must have required property 'secret'"))
	case identity == User && body["secret"] == Password && f.TwoFactor:
		f.answer(w, http.StatusOK, map[string]any{"requires_2fa": true, "challenge_token": "c"})
	case identity == User && body["secret"] == Password:
		token := fmt.Sprintf("token-%d", f.logins)
		expires := f.now().Add(24 * time.Hour)
		f.tokens[token] = expires
		f.answer(w, http.StatusOK, map[string]any{"token": token, "expires": expires.UTC().Format("2006-01-02T15:04:05.000Z")})
	case f.o.Minor >= 13:
		f.fail(w, http.StatusBadRequest, "Invalid email or password")
	case f.o.Minor == 12:
		f.fail(w, http.StatusUnauthorized, "Invalid email or password")
	case identity == User:
		f.fail(w, http.StatusUnauthorized, "Invalid password")
	default:
		f.fail(w, http.StatusUnauthorized, "No relevant user found")
	}
}

// must words a failed check as the release does.
func (f *Fake) must(message string) string {
	if f.o.Minor < 12 {
		return strings.ReplaceAll(strings.Replace(message, "must", "should", 1), "data/", "data.")
	}
	return message
}

// authorised checks the token. From 2.13 there is neither 401 nor 403.
func (f *Fake) authorised(w http.ResponseWriter, r *http.Request, path string) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	expires, known := f.tokens[token]
	switch {
	case !ok && f.o.Minor < 13:
		f.fail(w, http.StatusForbidden, "Permission Denied")
	case !ok && r.Method == http.MethodPost && path == "/nginx/proxy-hosts":
		f.fail(w, http.StatusInternalServerError, "Internal Error")
	case !ok:
		f.fail(w, http.StatusNotFound, "Not Found - "+path)
	case token == "null":
		f.fail(w, http.StatusBadRequest, "Empty token")
	case !known:
		f.fail(w, http.StatusInternalServerError, "Internal Error")
	case f.now().After(expires) && f.o.Minor < 13:
		f.fail(w, http.StatusUnauthorized, "Token has expired")
	case f.now().After(expires):
		f.fail(w, http.StatusBadRequest, "Token has expired")
	default:
		return true
	}
	return false
}
