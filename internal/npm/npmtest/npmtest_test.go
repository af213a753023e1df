package npmtest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/npm/npmtest"
)

type rig struct {
	t     *testing.T
	fake  *npmtest.Fake
	token string
}

func newRig(t *testing.T, o npmtest.Options) *rig {
	r := &rig{t: t, fake: npmtest.New(o)}
	status, body := r.ask("POST", "/api/tokens", `{"identity":"Ops@example.test ","secret":"`+npmtest.Password+`"}`)
	var got struct{ Token string }
	if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil || got.Token == "" {
		t.Fatalf("log-in: %d %s", status, body)
	}
	r.token = "Bearer " + got.Token
	return r
}

func (r *rig) ask(method, path, body string) (int, string) {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if r.token != "" {
		req.Header.Set("Authorization", r.token)
	}
	w := httptest.NewRecorder()
	r.fake.ServeHTTP(w, req)
	if w.Header().Get("X-Infractl-Fake") == "" {
		r.t.Error("it does not say that it is a fake")
	}
	return w.Code, strings.TrimSpace(w.Body.String())
}

func body(name string, more ...string) string {
	fields := append([]string{`"domain_names":["` + name + `"]`, `"forward_scheme":"http"`, `"forward_host":"h"`, `"forward_port":80`,
		`"advanced_config":""`}, more...)
	return "{" + strings.Join(fields, ",") + "}"
}

const hosts = "/api/nginx/proxy-hosts"

// TestQuirks names what the fake keeps of each release; a client that passes against it has met all of them.
func TestQuirks(t *testing.T) {
	type step struct {
		method, path, body string
		status             int
		says               string
	}
	post := func(b string, status int, says string) step { return step{"POST", hosts, b, status, says} }
	fails := func(name string) func(*npmtest.Fake) {
		return func(f *npmtest.Fake) { f.Refused[name] = "nginx: [emerg] no" }
	}
	for name, c := range map[string]struct {
		minor   int
		sqlite  bool
		prepare func(*npmtest.Fake)
		token   string // in place of the right one; "-" is none
		steps   []step
	}{
		"2.10: booleans are 0 and 1":          {minor: 10, steps: []step{post(body("a.test"), 201, `"enabled":1`)}},
		"2.12: booleans are booleans":         {minor: 12, steps: []step{post(body("a.test"), 201, `"enabled":true`)}},
		"locations are null when left out":    {minor: 15, steps: []step{post(body("a.test"), 201, `"locations":null`)}},
		"unknown field is refused":            {minor: 15, steps: []step{post(body("a.test", `"id":1`), 400, "data must NOT have additional properties")}},
		"2.12 refuses trust_forwarded_proto":  {minor: 12, steps: []step{post(body("a.test", `"trust_forwarded_proto":false`), 400, "additional")}},
		"2.15 takes trust_forwarded_proto":    {minor: 15, steps: []step{post(body("a.test", `"trust_forwarded_proto":false`), 201, "")}},
		"2.10 names one failure, with should": {minor: 10, steps: []step{post(`{}`, 400, "data should have required property")}},
		"2.10 on MariaDB needs advanced_config": {minor: 10, steps: []step{
			post(`{"domain_names":["a.test"],"forward_scheme":"http","forward_host":"h","forward_port":80}`, 500, "")}},
		"201 comes before nginx is asked, then offline": {minor: 15, prepare: fails("a.test"), steps: []step{
			post(body("a.test"), 201, `"meta":{}`), {"GET", hosts + "/1", "", 200, `"nginx_online":false`}}},
		"the row is there after a 500": {minor: 12, prepare: func(f *npmtest.Fake) { f.Broken = "x" }, steps: []step{
			post(body("a.test"), 500, ""), post(body("a.test"), 400, "a.test is already in use")}},
		"a redirection's name is in use": {minor: 15, prepare: func(f *npmtest.Fake) { f.AddOther("redirection-hosts", "a.test") },
			steps: []step{post(body("a.test"), 400, "already in use")}},
		"SQLite knows a name in another case": {minor: 15, sqlite: true, steps: []step{post(body("a.test"), 201, ""), post(body("A.test"), 400, "in use")}},
		"MariaDB does not":                    {minor: 15, steps: []step{post(body("a.test"), 201, ""), post(body("A.test"), 201, "")}},
		"enabled already is a 400":            {minor: 15, steps: []step{post(body("a.test"), 201, ""), {"POST", hosts + "/1/enable", "", 400, "Host is already enabled"}}},
		"PUT enabled:false leaves the site up, and disable says already": {minor: 15, steps: []step{post(body("a.test"), 201, ""),
			{"PUT", hosts + "/1", `{"enabled":false}`, 200, `"enabled":false`}, {"POST", hosts + "/1/disable", "", 400, "already disabled"}}},
		"2.10: a missing host is an empty object": {minor: 10, steps: []step{{"GET", hosts + "/999", "", 200, "{}"}}},
		"2.12: a missing host":                    {minor: 12, steps: []step{{"GET", hosts + "/999", "", 404, "Item Not Found - 999"}}},
		"2.15: a missing host":                    {minor: 15, steps: []step{{"GET", hosts + "/999", "", 404, `"Not Found - 999"`}}},
		"delete frees the name and no id": {minor: 15, steps: []step{post(body("a.test"), 201, `"id":1`), {"DELETE", hosts + "/1", "", 200, "true"},
			{"DELETE", hosts + "/1", "", 404, ""}, post(body("a.test"), 201, `"id":2`)}},
		"unknown access list is taken, and the host open": {minor: 15, steps: []step{post(body("a.test", `"access_list_id":77`), 201, `"access_list_id":77`)}},
		"2.12: no token":                     {minor: 12, token: "-", steps: []step{{"GET", hosts, "", 403, "Permission Denied"}}},
		"2.15: no token is a 404 by path":    {minor: 15, token: "-", steps: []step{{"GET", hosts, "", 404, "Not Found - /nginx/proxy-hosts"}}},
		"2.15: no token at POST is a 500":    {minor: 15, token: "-", steps: []step{post(body("a.test"), 500, "")}},
		"bad token is a 500":                 {minor: 12, token: "Bearer x", steps: []step{{"GET", hosts, "", 500, ""}}},
		"lower-case bearer is no token":      {minor: 12, token: "bearer token-1", steps: []step{{"GET", hosts, "", 403, ""}}},
		"null as a token":                    {minor: 15, token: "Bearer null", steps: []step{{"GET", hosts, "", 400, "Empty token"}}},
		"dead backend answers in HTML":       {minor: 15, prepare: func(f *npmtest.Fake) { f.Down = true }, steps: []step{{"GET", "/api/", "", 502, "<html>"}}},
		"broken JSON":                        {minor: 15, steps: []step{post("{", 400, "Internal Error")}},
		"2.15 refuses letsencrypt keys":      {minor: 15, steps: []step{{"POST", "/api/nginx/certificates", `{"domain_names":["a.test"],"meta":{"letsencrypt_email":"a"}}`, 400, "data/meta must NOT"}}},
		"2.12 takes letsencrypt keys":        {minor: 12, steps: []step{{"POST", "/api/nginx/certificates", `{"domain_names":["a.test"],"meta":{"letsencrypt_email":"a"}}`, 201, ""}}},
		"the authority's words are in debug": {minor: 15, prepare: func(f *npmtest.Fake) { f.Unproven["a.test"] = "no A record" }, steps: []step{{"POST", "/api/nginx/certificates", `{"domain_names":["a.test"],"meta":{}}`, 500, `"message":"Internal Error"`}}},
		"a deleted certificate in use breaks everybody": {minor: 15, steps: []step{
			{"POST", "/api/nginx/certificates", `{"domain_names":["a.test"],"meta":{}}`, 201, `"id":1`}, post(body("a.test", `"certificate_id":1`), 201, ""),
			{"DELETE", "/api/nginx/certificates/1", "", 200, ""}, post(body("b.test"), 500, "")}},
		"access list without items is a 500 that leaves a row": {minor: 15, steps: []step{
			{"POST", "/api/nginx/access-lists", `{"name":"l"}`, 500, ""}, {"GET", "/api/nginx/access-lists", "", 200, `"name":"l"`}}},
		"a deleted access list opens its hosts": {minor: 15, steps: []step{{"POST", "/api/nginx/access-lists", `{"name":"l","items":[]}`, 201, `"id":1`},
			post(body("a.test", `"access_list_id":1`), 201, ""), {"DELETE", "/api/nginx/access-lists/1", "", 200, ""}, {"GET", hosts + "/2", "", 200, `"access_list_id":0`}}},
		"replies hold private keys": {minor: 15, prepare: func(f *npmtest.Fake) { f.AddCertificate("a.test") }, steps: []step{{"GET", "/api/nginx/certificates", "", 200, npmtest.CustomKey}}},
		"times of MariaDB":          {minor: 15, steps: []step{post(body("a.test"), 201, `2026-11-24T12:00:00.000Z`)}},
		"times of SQLite":           {minor: 15, sqlite: true, steps: []step{post(body("a.test"), 201, `"2026-11-24 12:00:00"`)}},
		"no more than 15 names in 2.10": {minor: 10, steps: []step{post(strings.Replace(body("a.test"), `["a.test"]`,
			`["`+strings.Join(strings.Fields(strings.Repeat("n ", 16)), `","`)+`"]`, 1), 400, "more than 15")}},
		"expiry is refused from 2.12": {minor: 12, steps: []step{{"POST", "/api/tokens", `{"identity":"a","secret":"b","expiry":"1d"}`, 400, "additional"}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, npmtest.Options{Minor: c.minor, SQLite: c.sqlite, Clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))})
			if c.prepare != nil {
				c.prepare(r.fake)
			}
			if c.token != "" {
				r.token = strings.TrimPrefix(c.token, "-")
			}
			for i, s := range c.steps {
				status, got := r.ask(s.method, s.path, s.body)
				if status != s.status || !strings.Contains(got, s.says) {
					t.Errorf("step %d: %s %s: %d %s, want %d and %q", i+1, s.method, s.path, status, got, s.status, s.says)
				}
			}
		})
	}
}

func TestTokensEnd(t *testing.T) {
	for minor, want := range map[int]int{12: http.StatusUnauthorized, 15: http.StatusBadRequest} {
		now := clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))
		r := newRig(t, npmtest.Options{Minor: minor, Clock: now})
		now.Advance(25 * time.Hour)
		if status, got := r.ask("GET", hosts, ""); status != want || !strings.Contains(got, "Token has expired") {
			t.Errorf("2.%d: %d %s", minor, status, got)
		}
	}
}

func TestFrontServesWhatNginxHas(t *testing.T) {
	r := newRig(t, npmtest.Options{Minor: 15})
	r.ask("POST", hosts, body("a.test"))
	for host, want := range map[string]string{"a.test": "a.test served by h", "b.test": "Congratulations"} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest("GET", fmt.Sprintf("http://%s/", host), nil)
		r.fake.Front().ServeHTTP(w, req)
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %s", host, w.Body)
		}
	}
}
