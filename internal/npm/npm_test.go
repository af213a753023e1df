package npm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/npm"
	"github.com/infractl/infractl/internal/npm/npmtest"
	"github.com/infractl/infractl/internal/secret"
)

type rig struct {
	*npm.Client
	fake  *npmtest.Fake
	log   *bytes.Buffer
	clock *clock.Fake
	hook  func(*http.Request, *http.Response) error
}

// RoundTrip lets a test lose an answer after the request was carried out.
func (r *rig) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && r.hook != nil {
		err = r.hook(req, res)
	}
	return res, err
}

func newRig(t *testing.T, o npmtest.Options) *rig {
	t.Helper()
	r := &rig{log: &bytes.Buffer{}, clock: clock.NewFake(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))}
	o.Clock = r.clock
	r.fake = npmtest.New(o)
	server := httptest.NewServer(r.fake)
	t.Cleanup(server.Close)
	client, err := npm.New(npm.Config{Base: server.URL, User: npmtest.User, Transport: r, Clock: r.clock, Pause: time.Millisecond,
		Password: func(context.Context) (secret.Value, error) { return secret.New([]byte(npmtest.Password)), nil },
		Log:      hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: r.log})})
	must(t, err)
	r.Client = client
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each runs a test against every mode of the fake.
func each(t *testing.T, test func(t *testing.T, r *rig, minor int)) {
	for _, o := range []npmtest.Options{{Minor: 10}, {Minor: 12}, {Minor: 15}, {Minor: 15, SQLite: true}} {
		t.Run(fmt.Sprintf("2.%d, sqlite %t", o.Minor, o.SQLite), func(t *testing.T) { test(t, newRig(t, o), o.Minor) })
	}
}

func acme() npm.Host {
	return npm.Host{Domains: []string{"acme.example.test"}, Scheme: "http", Target: "10.0.10.20", Port: 8080, Websockets: true,
		Labels: map[string]string{"instance": "acme"}}
}

func TestEnsureMakesChangesAndRepeatsNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		r.fake.AddHost("other.example.test", "web", 80)
		foreign := r.fake.Dump(false)
		made, err := r.Ensure(ctx, acme())
		must(t, err)
		if made.Online == nil || !*made.Online || !made.Ours || !made.Enabled {
			t.Errorf("made: %+v", made)
		}
		r.fake.Calls()
		_, err = r.Ensure(ctx, acme())
		must(t, err)
		for _, call := range r.fake.Calls() {
			if !strings.HasPrefix(call, "GET ") {
				t.Errorf("the second time did %s", call)
			}
		}
		want := acme()
		want.Target = "10.0.10.21"
		moved, err := r.Ensure(ctx, want)
		must(t, err)
		if moved.ID != made.ID || moved.Target != "10.0.10.21" {
			t.Errorf("moved: %+v", moved)
		}
		must(t, r.Delete(ctx, made.ID))
		must(t, r.Delete(ctx, made.ID))
		if got := r.fake.Dump(true); got != "" {
			t.Errorf("left: %s", got)
		}
		if d := cmp.Diff(foreign, r.fake.Dump(false)); d != "" {
			t.Errorf("somebody else's host changed:\n%s", d)
		}
	})
}

func TestHostsOfOthersAreNeverTouched(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		id := r.fake.AddHost("acme.example.test", "web", 80)
		r.fake.AddOther("redirection-hosts", "old.example.test")
		before := r.fake.Dump(false)
		_, err := r.Ensure(ctx, acme())
		if !errs.Is(err, errs.Exists) || errs.HintOf(err) == "" {
			t.Errorf("ensure: %v", err)
		}
		if err := r.Delete(ctx, id); !errs.Is(err, errs.Denied) {
			t.Errorf("delete: %v", err)
		}
		if err := r.Disable(ctx, id); !errs.Is(err, errs.Denied) {
			t.Errorf("disable: %v", err)
		}
		redirected := acme()
		redirected.Domains = []string{"old.example.test"}
		if _, err := r.Ensure(ctx, redirected); !errs.Is(err, errs.Exists) || !strings.Contains(err.Error(), "redirection-hosts") {
			t.Errorf("a name of a redirection: %v", err)
		}
		if d := cmp.Diff(before, r.fake.Dump(false)); d != "" {
			t.Errorf("changed:\n%s", d)
		}
	})
}

func TestWhatNginxRefusesIsPutBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		r.fake.Refused["acme.example.test"] = `nginx: [emerg] host not found in "x"`
		_, err := r.Ensure(ctx, acme())
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "[emerg]") {
			t.Errorf("a new one: %v", err)
		}
		if got := r.fake.Dump(true); got != "" {
			t.Errorf("left after a refusal: %s", got)
		}
		delete(r.fake.Refused, "acme.example.test")
		_, err = r.Ensure(ctx, acme())
		must(t, err)
		before := r.fake.Dump(true)
		r.fake.Refused["www.example.test"] = "nginx: [emerg] no"
		want := acme()
		want.Domains = append(want.Domains, "www.example.test")
		if _, err := r.Ensure(ctx, want); !errs.Is(err, errs.Invalid) {
			t.Errorf("a change: %v", err)
		}
		if d := cmp.Diff(before, r.fake.Dump(true)); d != "" {
			t.Errorf("not put back:\n%s", d)
		}
	})
}

func TestNginxBrokenBySomethingElseLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		r.fake.Broken = "nginx: [emerg] cannot load certificate"
		if _, err := r.Ensure(ctx, acme()); err == nil {
			t.Error("no error")
		}
		r.fake.Broken = ""
		if got := r.fake.Dump(true); got != "" {
			t.Errorf("left: %s", got)
		}
		_, err := r.Ensure(ctx, acme())
		must(t, err)
		before := r.fake.Dump(true)
		r.fake.Broken = "nginx: [emerg] cannot load certificate"
		want := acme()
		want.Port = 81
		if _, err := r.Ensure(ctx, want); err == nil {
			t.Error("no error")
		}
		if d := cmp.Diff(before, r.fake.Dump(true)); d != "" {
			t.Errorf("the row was left changed:\n%s", d)
		}
	})
}

func TestALostAnswerIsLookedForBeforeItIsRepeated(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		lost := false
		r.hook = func(req *http.Request, res *http.Response) error {
			if req.Method == http.MethodPost && strings.HasSuffix(req.URL.Path, "/proxy-hosts") && !lost {
				lost = true
				return errors.Join(errors.New("connection reset"), res.Body.Close())
			}
			return nil
		}
		_, err := r.Ensure(context.Background(), acme())
		must(t, err)
		posts := 0
		for _, c := range r.fake.Calls() {
			if c == "POST /api/nginx/proxy-hosts" {
				posts++
			}
		}
		if !lost || posts != 1 {
			t.Errorf("lost %t, %d requests", lost, posts)
		}
	})
}

func TestTokens(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		list := func() { _, err := r.Hosts(ctx); must(t, err) }
		list()
		list()
		if n := r.fake.Logins(); n != 1 {
			t.Errorf("%d log-ins, want a cached token", n)
		}
		r.clock.Advance(25 * time.Hour)
		list()
		if n := r.fake.Logins(); n != 2 {
			t.Errorf("%d log-ins after its end", n)
		}
		r.fake.KillTokens() // 500 from the API
		_, err := r.Ensure(ctx, acme())
		must(t, err)
		if n := r.fake.Logins(); n != 3 {
			t.Errorf("%d log-ins after the token died", n)
		}
	})
}

func TestRealErrorsLogInOnceAtMost(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		if _, err := r.Host(ctx, 999); !errs.Is(err, errs.NotFound) {
			t.Errorf("a missing host: %v", err)
		}
		r.fake.Broken = "x"
		_, _ = r.Ensure(ctx, acme())
		if n := r.fake.Logins(); n != 1 {
			t.Errorf("%d log-ins", n)
		}
	})
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		prepare func(*npmtest.Fake)
		options npmtest.Options
		code    errs.Code
	}{
		"dead backend":          {func(f *npmtest.Fake) { f.Down = true }, npmtest.Options{Minor: 15}, errs.Unavailable},
		"nobody's installation": {func(f *npmtest.Fake) { f.NoUser = true }, npmtest.Options{Minor: 15}, errs.Precondition},
		"second factor":         {func(f *npmtest.Fake) { f.TwoFactor = true }, npmtest.Options{Minor: 15}, errs.Denied},
		"too old":               {func(*npmtest.Fake) {}, npmtest.Options{Minor: 8}, errs.Precondition},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.options)
			c.prepare(r.fake)
			if _, err := r.Hosts(ctx); !errs.Is(err, c.code) || errs.HintOf(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, minor := range []int{10, 12, 15} {
		r := newRig(t, npmtest.Options{Minor: minor})
		wrong, err := npm.New(npm.Config{Base: "http://" + strings.TrimPrefix(serverOf(t, r.fake), "http://"), User: npmtest.User,
			Password: func(context.Context) (secret.Value, error) { return secret.New([]byte("a wrong one")), nil }})
		must(t, err)
		if _, err := wrong.Hosts(ctx); !errs.Is(err, errs.Denied) || strings.Contains(err.Error(), "a wrong one") {
			t.Errorf("2.%d, wrong password: %v", minor, err)
		}
	}
	for name, h := range map[string]npm.Host{
		"upper case": {Domains: []string{"ACME.example.test"}}, "long label": {Domains: []string{strings.Repeat("a", 64) + ".test"}},
		"no name": {}, "spaces": {Domains: []string{"a b"}},
	} {
		h.Scheme, h.Target, h.Port = "http", "a", 80
		r := newRig(t, npmtest.Options{Minor: 15})
		if _, err := r.Ensure(ctx, h); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := npm.New(npm.Config{Base: "10.0.10.10:81"}); !errs.Is(err, errs.Invalid) {
		t.Errorf("address without a scheme: %v", err)
	}
}

func serverOf(t *testing.T, f *npmtest.Fake) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func TestCertificates(t *testing.T) {
	each(t, func(t *testing.T, r *rig, minor int) {
		ctx := context.Background()
		r.fake.CertbotBusy = 1
		one, err := r.RequestCertificate(ctx, []string{"acme.example.test"}, "admin@example.test")
		must(t, err)
		again, err := r.RequestCertificate(ctx, []string{"acme.example.test"}, "admin@example.test")
		must(t, err)
		if one.ID == 0 || one.ID != again.ID || !one.Expires.After(r.clock.Now()) {
			t.Errorf("%+v, then %+v", one, again)
		}
		want := npmtest.User // who asks, from 2.13
		if minor < 13 {
			want = "admin@example.test"
		}
		if got := r.fake.Emails()["acme.example.test"]; got != want {
			t.Errorf("asked with %q, want %q", got, want)
		}
		h := acme()
		h.CertificateID, h.Forced, h.HTTP2 = one.ID, true, true
		made, err := r.Ensure(ctx, h)
		must(t, err)
		if err := r.DeleteCertificate(ctx, one.ID); !errs.Is(err, errs.Precondition) {
			t.Errorf("deleting one in use: %v", err)
		}
		must(t, r.Delete(ctx, made.ID))
		must(t, r.DeleteCertificate(ctx, one.ID))
		must(t, r.DeleteCertificate(ctx, one.ID))
		_, err = r.Ensure(ctx, acme())
		must(t, err) // nginx is whole
	})
}

func TestARefusedCertificateSaysWhyAndNoMore(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		r.fake.Unproven["acme.example.test"] = "203.0.113.9: Invalid response: 404"
		_, err := r.RequestCertificate(context.Background(), []string{"acme.example.test"}, "")
		if err == nil || !strings.Contains(err.Error(), "Invalid response: 404") || strings.Contains(err.Error(), "certonly") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBodiesAreNeverLogged(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		r.fake.AddCertificate("acme.example.test")
		list, err := r.Certificates(ctx)
		must(t, err)
		printed := fmt.Sprintf("%+v %s", list, r.log)
		for _, word := range []string{npmtest.CustomKey, npmtest.Password, "token-1"} {
			if strings.Contains(printed, word) {
				t.Errorf("printed: %s", word)
			}
		}
		if !strings.Contains(printed, "/nginx/certificates") {
			t.Error("the log has no line of the call")
		}
	})
}

func TestAccessLists(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		allow := []string{"10.0.20.0/24", "10.0.10.4/32"}
		id, err := r.EnsureAccessList(ctx, allow)
		must(t, err)
		again, err := r.EnsureAccessList(ctx, []string{allow[1], allow[0]})
		must(t, err)
		h := acme()
		h.AccessListID = id
		made, err := r.Ensure(ctx, h)
		must(t, err)
		if id == 0 || id != again || made.AccessListID != id {
			t.Errorf("%d, %d, %d", id, again, made.AccessListID)
		}
		if err := r.DeleteAccessList(ctx, id); !errs.Is(err, errs.Precondition) {
			t.Errorf("deleting one in use would open the host: %v", err)
		}
		must(t, r.Delete(ctx, made.ID))
		must(t, r.DeleteAccessList(ctx, id))
		must(t, r.DeleteAccessList(ctx, id))
	})
}

func TestDisabledHostIsEnabledAgain(t *testing.T) {
	each(t, func(t *testing.T, r *rig, _ int) {
		ctx := context.Background()
		made, err := r.Ensure(ctx, acme())
		must(t, err)
		must(t, r.Disable(ctx, made.ID))
		must(t, r.Disable(ctx, made.ID)) // "already disabled" is success
		got, err := r.Ensure(ctx, acme())
		must(t, err)
		if !got.Enabled {
			t.Error("still disabled")
		}
	})
}

func TestOneWriterAtATime(t *testing.T) {
	r := newRig(t, npmtest.Options{Minor: 15})
	var wg sync.WaitGroup
	failed := make([]error, 8)
	for i := range failed {
		wg.Go(func() { _, failed[i] = r.Ensure(context.Background(), acme()) })
	}
	wg.Wait()
	must(t, errors.Join(failed...))
	if n := strings.Count(r.fake.Dump(true), "acme.example.test\"]"); n != 1 {
		t.Errorf("%d hosts", n)
	}
}

func TestACancelledCertificateReturns(t *testing.T) {
	r := newRig(t, npmtest.Options{Minor: 15})
	gate := make(chan struct{})
	r.fake.CertificateGate = gate
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := r.RequestCertificate(ctx, []string{"slow.example.test"}, "")
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	close(gate)
}
