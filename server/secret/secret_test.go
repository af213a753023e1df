package secret_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// rig is a vault on a real store, with a site that the test makes up.
type rig struct {
	*testing.T
	dir     string
	store   *sqlite.Store
	clock   *clock.Fake
	log     bytes.Buffer
	vault   *secret.Vault
	service *secret.Service

	specs     map[string]secret.Spec
	nodes     []fleet.Node
	changed   int
	delivered []string
	refuse    error
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, dir: t.TempDir(), clock: clock.NewFake(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))}
	r.open()
	t.Cleanup(func() { r.store.Close() })
	return r
}

func (r *rig) open() {
	r.Helper()
	log := hclog.New(&hclog.LoggerOptions{Output: &r.log, Level: hclog.Trace})
	s, err := sqlite.Open(r.Context(), sqlite.Config{Dir: filepath.Join(r.dir, "store"), Clock: r.clock, Logger: log})
	if err != nil {
		r.Fatal(err)
	}
	r.store = s
	r.vault, err = secret.Open(r.Context(), secret.Config{Store: s, Nodes: r, KeyFile: r.keyFile(), Clock: r.clock, Log: log})
	if err != nil {
		r.Fatal(err)
	}
	r.vault.Use(r)
	r.service = secret.NewService(r.vault, r)
}

func (r *rig) reopen() {
	r.Helper()
	if err := r.store.Close(); err != nil {
		r.Fatal(err)
	}
	r.open()
}

func (r *rig) keyFile() string { return filepath.Join(r.dir, "store.key") }

func (r *rig) Specs(context.Context) (map[string]secret.Spec, error) { return r.specs, nil }
func (r *rig) Changed()                                              { r.changed++ }
func (r *rig) Nodes(context.Context) ([]fleet.Node, error)           { return r.nodes, nil }
func (r *rig) Deliver(_ context.Context, operator, reason string) (string, error) {
	r.delivered = append(r.delivered, operator+": "+reason)
	return "r000001-abc", r.refuse
}

func (r *rig) ctx() context.Context {
	return access.WithCaller(r.Context(), access.Caller{Actor: "operator/anna", Identity: certs.Identity{Kind: certs.KindOperator, Name: "anna"}})
}

func (r *rig) set(name, value string) *v1.Secret {
	r.Helper()
	out, err := r.service.SetSecret(r.ctx(), &v1.SetSecretRequest{Name: name, Value: []byte(value)})
	if err != nil {
		r.Fatal(err)
	}
	return out.GetSecret()
}

// want makes a site in which a stack on node names secrets, at their present versions.
func (r *rig) want(node string, names ...string) {
	r.Helper()
	var res site.Resources
	if err := r.vault.Resources(r.Context(), &res); err != nil {
		r.Fatal(err)
	}
	stack := &v1.StackSpec{Name: "services"}
	for _, n := range names {
		stack.Secrets = append(stack.Secrets, &v1.SecretRef{Name: n, Version: res.Secrets[n]})
	}
	if r.specs == nil {
		r.specs = map[string]secret.Spec{}
	}
	r.specs[node] = secret.Spec{Digest: "digest-of-" + node, Spec: &v1.HostSpec{Containers: &v1.ContainersSpec{Stacks: []*v1.StackSpec{stack}}}}
}

func (r *rig) fetch(node, name, version string) (string, error) {
	values, err := r.vault.Fetch(r.Context(), node, []*v1.SecretRef{{Name: name, Version: version}})
	if err != nil {
		return "", err
	}
	return string(values[0].GetValue()), nil
}

func wantCode(t testing.TB, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(err); got != want {
		t.Errorf("code = %q, want %q (%v)", got, want, err)
	}
}

func TestSetFetchAndRotate(t *testing.T) {
	r := newRig(t)
	first := r.set("db-root", "one")
	r.want("web", "db-root")
	if got, err := r.fetch("web", "db-root", first.GetVersion()); got != "one" || err != nil {
		t.Fatalf("fetched %q, %v", got, err)
	}
	if len(r.delivered) != 0 {
		t.Errorf("nothing used it, and it was delivered: %v", r.delivered)
	}
	out, err := r.service.RotateSecret(r.ctx(), &v1.RotateSecretRequest{Name: "db-root"})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetRolloutId() != "r000001-abc" || !out.GetSecret().GetGenerated() || out.GetSecret().GetOperator() != "anna" {
		t.Errorf("answer = %v", out)
	}
	if diff := cmp.Diff([]string{"operator/anna: secret db-root was rotated"}, r.delivered); diff != "" {
		t.Error(diff)
	}
	r.want("web", "db-root")
	value, err := r.fetch("web", "db-root", out.GetSecret().GetVersion())
	if err != nil || !regexp.MustCompile(`^[A-Za-z0-9_-]{32}$`).MatchString(value) {
		t.Errorf("random value has %d characters, %v", len(value), err)
	}
	if r.changed != 2 {
		t.Errorf("told of %d changes, want 2", r.changed)
	}
	r.reopen()
	if got, err := r.fetch("web", "db-root", out.GetSecret().GetVersion()); got != value || err != nil {
		t.Errorf("after a restart: %q, %v", got, err)
	}
}

func TestAFailedDeliverySaysThatTheValueIsStored(t *testing.T) {
	r := newRig(t)
	r.want("web", "db-root")
	r.refuse = errs.New(errs.Unavailable, "the store is slow")
	_, err := r.service.SetSecret(r.ctx(), &v1.SetSecretRequest{Name: "db-root", Value: []byte("one")})
	wantCode(t, err, errs.Unavailable)
	if err == nil || !strings.Contains(err.Error(), "has its new value") {
		t.Errorf("error = %v", err)
	}
}

func TestBadInputIsRefused(t *testing.T) {
	r := newRig(t)
	r.set("there", "x")
	for name, c := range map[string]struct {
		req  *v1.SetSecretRequest
		want errs.Code
	}{
		"empty":    {&v1.SetSecretRequest{Name: "a"}, errs.Invalid},
		"huge":     {&v1.SetSecretRequest{Name: "a", Value: make([]byte, 64<<10+1)}, errs.Invalid},
		"odd name": {&v1.SetSecretRequest{Name: "../a", Value: []byte("x")}, errs.Invalid},
		"no name":  {&v1.SetSecretRequest{Value: []byte("x")}, errs.Invalid},
		"exists":   {&v1.SetSecretRequest{Name: "there", Value: []byte("x"), OnlyNew: true}, errs.Exists},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.service.SetSecret(r.ctx(), c.req)
			wantCode(t, err, c.want)
		})
	}
	for length, want := range map[uint32]errs.Code{15: errs.Invalid, 129: errs.Invalid, 16: "", 128: ""} {
		_, err := r.service.RotateSecret(r.ctx(), &v1.RotateSecretRequest{Name: "there", Length: length})
		wantCode(t, err, want)
	}
	if out, err := r.service.RotateSecret(r.ctx(), &v1.RotateSecretRequest{Name: "fresh"}); err != nil || out.GetSecret().GetVersion() == "" {
		t.Errorf("a first random value: %v, %v", out, err)
	}
}

func TestOnlyWantedVersionsAreGiven(t *testing.T) {
	r := newRig(t)
	old := r.set("db-root", "one").GetVersion()
	other := r.set("other", "two").GetVersion()
	r.want("web", "db-root", "unset")
	r.want("mail")
	for name, c := range map[string]struct {
		node, secret, version string
		want                  errs.Code
	}{
		"own":             {"web", "db-root", old, ""},
		"another node":    {"mail", "db-root", old, errs.Denied},
		"unknown node":    {"nobody", "db-root", old, errs.Denied},
		"not named":       {"web", "other", other, errs.Denied},
		"swapped version": {"web", "db-root", other, errs.Denied},
		"no version":      {"web", "unset", "", errs.Precondition},
		"never set":       {"web", "unset", "1-aa", errs.Precondition},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.fetch(c.node, c.secret, c.version)
			wantCode(t, err, c.want)
		})
	}
	_, err := r.vault.Fetch(t.Context(), "web", make([]*v1.SecretRef, secret.MaxRefs+1))
	wantCode(t, err, errs.Invalid)

	r.set("db-root", "three")
	r.want("web", "db-root")
	if _, err := r.fetch("web", "db-root", old); err != nil {
		t.Errorf("an apply that is under way: %v", err)
	}
	r.clock.Advance(16 * time.Minute)
	_, err = r.fetch("web", "db-root", old)
	wantCode(t, err, errs.Denied)
}

func TestListShowsUsesAndWhatIsMissing(t *testing.T) {
	r := newRig(t)
	r.set("db-root", "one")
	r.set("idle", "two")
	r.want("web", "db-root", "unset")
	list, err := r.service.ListSecrets(r.ctx(), &v1.ListSecretsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list.GetSecrets() {
		line := s.GetName() + ":" + strings.Join(s.GetUsedBy(), ",")
		if s.GetMissing() {
			line += " missing"
		}
		got = append(got, line)
	}
	want := []string{"db-root:stack services on web", "idle:", "unset:stack services on web missing"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err = r.service.RemoveSecret(r.ctx(), &v1.RemoveSecretRequest{Name: "db-root"})
	wantCode(t, err, errs.Precondition)
	if _, err = r.service.RemoveSecret(r.ctx(), &v1.RemoveSecretRequest{Name: "idle"}); err != nil {
		t.Fatal(err)
	}
	_, err = r.service.RemoveSecret(r.ctx(), &v1.RemoveSecretRequest{Name: "idle"})
	wantCode(t, err, errs.NotFound)
	if values, err := r.store.List(t.Context(), secret.KindValue, store.ListOptions{Prefix: "idle/"}); err != nil || len(values) != 0 {
		t.Errorf("%d values are left, %v", len(values), err)
	}
	if _, err := r.service.RotateSecret(r.ctx(), &v1.RotateSecretRequest{Name: "unset"}); err != nil {
		t.Errorf("the site names it, so that it can be made at random: %v", err)
	}
}

func TestOldVersionsGoWhenNobodyIsBehind(t *testing.T) {
	r := newRig(t)
	r.set("db-root", "one")
	r.set("db-root", "two")
	r.want("web", "db-root")
	r.nodes = []fleet.Node{{Name: "web"}}
	values := func() int {
		if err := r.vault.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		list, err := r.store.List(t.Context(), secret.KindValue, store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	r.clock.Advance(time.Hour)
	if got := values(); got != 2 {
		t.Errorf("a node is behind, and %d versions are kept", got)
	}
	r.nodes[0].State.M = &v1.HostState{NarrowedDigest: "digest-of-web", Degraded: []string{"the stack did not come up"}}
	if got := values(); got != 2 {
		t.Errorf("a node is degraded, and %d versions are kept", got)
	}
	r.nodes[0].State.M = &v1.HostState{NarrowedDigest: "digest-of-web"}
	if got := values(); got != 1 {
		t.Errorf("nobody is behind, and %d versions are kept", got)
	}
	r.nodes = nil
	for range 30 {
		r.set("db-root", "again")
	}
	r.nodes = []fleet.Node{{Name: "web"}}
	if got := values(); got != 20 {
		t.Errorf("%d versions are kept, want 20", got)
	}
}

func TestRecordsCannotBeSwapped(t *testing.T) {
	r := newRig(t)
	a := r.set("a", "value-of-a").GetVersion()
	b := r.set("b", "value-of-b").GetVersion()
	r.want("web", "a", "b")
	get := func(name string) store.Record {
		rec, err := r.store.Get(t.Context(), secret.KindValue, name)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	ra, rb := get("a/"+a), get("b/"+b)
	flipped := bytes.Clone(rb.Data)
	flipped[len(flipped)-1] ^= 1
	for what, data := range map[string][]byte{"another's record": rb.Data, "one bit": flipped, "cut short": ra.Data[:10], "empty": {}} {
		if _, err := r.store.Write(t.Context(), store.Put{Kind: secret.KindValue, Name: "a/" + a, Data: data, Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
		if got, err := r.fetch("web", "a", a); err == nil {
			t.Errorf("%s: fetched %q", what, got)
		}
	}
}

func TestStoreKey(t *testing.T) {
	r := newRig(t)
	info, err := os.Stat(r.keyFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info, err)
	}
	wantCode(t, secret.CreateKey(r.keyFile()), errs.Exists)
	version := r.set("a", "one").GetVersion()
	r.want("web", "a")
	good, err := os.ReadFile(r.keyFile())
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"missing": func() error { return os.Remove(r.keyFile()) },
		"another": func() error { return os.Rename(otherKey(t), r.keyFile()) },
		"damaged": func() error { return os.WriteFile(r.keyFile(), []byte("INFRACTL-STORE-KEY-1-AAAA\n"), 0o600) },
		"open to others": func() error {
			return errs.Join(os.WriteFile(r.keyFile(), good, 0o644), os.Chmod(r.keyFile(), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			r.reopen()
			if _, err := r.fetch("web", "a", version); err == nil || errs.HintOf(err) == "" {
				t.Errorf("error = %v, hint %q", err, errs.HintOf(err))
			}
			if _, err := r.service.SetSecret(r.ctx(), &v1.SetSecretRequest{Name: "b", Value: []byte("x")}); err == nil {
				t.Error("a new value was stored")
			}
			if list, err := r.service.ListSecrets(r.ctx(), &v1.ListSecretsRequest{}); err != nil || len(list.GetSecrets()) != 1 {
				t.Errorf("list = %v, %v", list, err)
			}
		})
	}
	if err := errs.Join(os.WriteFile(r.keyFile(), good, 0o600), os.Chmod(r.keyFile(), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	if got, err := r.fetch("web", "a", version); got != "one" || err != nil {
		t.Errorf("with the key back: %q, %v", got, err)
	}
}

func otherKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "other.key")
	if err := secret.CreateKey(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestNoValueIsAtRestOrInLogs looks for values in every file of the store and in all that was logged and answered.
func TestNoValueIsAtRestOrInLogs(t *testing.T) {
	r := newRig(t)
	raw := make([]byte, 20)
	_, _ = rand.Read(raw)
	plain := "planted-" + hex.EncodeToString(raw)
	s := r.set("db-root", plain)
	r.want("web", "db-root")
	if _, err := r.fetch("web", "db-root", s.GetVersion()); err != nil {
		t.Fatal(err)
	}
	_, err := r.fetch("mail", "db-root", s.GetVersion())
	if err == nil || strings.Contains(err.Error(), plain) {
		t.Errorf("error = %v", err)
	}
	if strings.Contains(r.log.String()+s.String(), plain) {
		t.Error("the log or an answer holds the value")
	}
	files := 0
	err = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(plain)) || bytes.Contains(data, raw) {
			t.Errorf("%s holds the value", path)
		}
		return err
	})
	if err != nil || files < 2 {
		t.Fatalf("looked at %d files, %v", files, err)
	}
}
