package app

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

func TestInitToRunningServerTakesUnderTwoSeconds(t *testing.T) {
	begun := time.Now()
	f := newFixture(t)
	anna := f.login("anna")
	id, err := v1.NewOperatorServiceClient(anna.conn).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	took := time.Since(begun)
	if err != nil {
		t.Fatal(err)
	}
	if took > 2*time.Second {
		t.Errorf("init, start and login took %s", took)
	}
	if id.GetName() != "anna" || id.GetRole() != v1.Role_ROLE_ADMIN || id.GetSite() != testSite {
		t.Errorf("identity = %v", id)
	}
}

func TestInitLeavesWhatItShould(t *testing.T) {
	f := newFixture(t)
	if !strings.HasPrefix(f.made.RecoveryKey, "AGE-SECRET-KEY-1") || !strings.HasPrefix(f.made.Fingerprint, "sha256:") {
		t.Errorf("result = %+v", f.made)
	}
	var ports struct{ Ports []int }
	data, err := os.ReadFile(filepath.Join(f.cfg.Firstboot, "server.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &ports); err != nil || len(ports.Ports) != 2 || ports.Ports[0] != 7443 || ports.Ports[1] != 7444 {
		t.Errorf("server.json = %s, %v", data, err)
	}
	for _, dir := range []string{f.cfg.DataDir, f.cfg.DataDir + "-keys"} {
		err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return nil // database files come and go
			}
			if info.Mode().Perm()&0o077 != 0 && filepath.Base(path) != "root.pem" {
				t.Errorf("%s has mode %o", path, info.Mode().Perm())
			}
			data, err := os.ReadFile(path)
			if err == nil && (strings.Contains(string(data), f.made.RecoveryKey) || strings.Contains(string(data), f.made.AdminCode)) {
				t.Errorf("%s holds a secret that is stored nowhere", path)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(f.cfg.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	_, err = Init(t.Context(), f.cfg)
	wantCode(t, err, errs.Exists)
}

func TestInitRefusesBadInput(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"site name":   func(c *Config) { c.Site = "Bad Name" },
		"no address":  func(c *Config) { c.Addresses = nil },
		"any address": func(c *Config) { c.Addresses = []string{"0.0.0.0"} },
		"odd address": func(c *Config) { c.Addresses = []string{"a b"} },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), Site: testSite, Addresses: []string{"10.0.0.1"}}
			change(&cfg)
			_, err := Init(t.Context(), cfg)
			wantCode(t, err, errs.Invalid)
			if _, err := os.Stat(cfg.DataDir); err == nil {
				t.Error("it left something behind")
			}
		})
	}
}

func TestAdminCodeIsGoodForOneLogin(t *testing.T) {
	f := newFixture(t)
	client := v1.NewOperatorServiceClient(f.dialSocket())
	_, csr := newKey(t)
	login := func(code string) error {
		_, err := client.Login(t.Context(), &v1.LoginRequest{Code: code, Name: "anna", Csr: csr})
		return err
	}
	wantCode(t, login("AAAAA-AAAAA-AAAAA-AAAAA"), errs.Denied)
	if _, err := client.Login(t.Context(), &v1.LoginRequest{Code: f.made.AdminCode, Name: "anna", Csr: []byte("x")}); err == nil {
		t.Error("a bad request was accepted")
	}
	if err := login(strings.ToLower(f.made.AdminCode)); err != nil { // the bad request has not used it up
		t.Errorf("first use: %v", err)
	}
	wantCode(t, login(f.made.AdminCode), errs.Denied)
	code, _, err := AdminCode(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(25 * time.Hour)
	wantCode(t, login(code), errs.Denied)
	if got := f.refused(access.ReasonLogin); got != 3 {
		t.Errorf("refused logins counted: %d", got)
	}
}

func TestSocketIsForItsUsersAndForLoginOnly(t *testing.T) {
	f := newFixture(t)
	_, err := v1.NewOperatorServiceClient(f.dialSocket()).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("GetIdentity on the socket: %v", err)
	}
	other := newFixture(t, func(c *Config) { c.SocketUIDs = []uint32{uint32(os.Getuid()) + 1} })
	_, csr := newKey(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := v1.NewOperatorServiceClient(other.dialSocket()).Login(ctx, &v1.LoginRequest{Code: other.made.AdminCode,
		Name: "anna", Csr: csr}); err == nil {
		t.Error("another user logged in")
	}
	if other.refused(access.ReasonSocketPeer) == 0 {
		t.Error("it was not counted")
	}
}

func TestLoginAgainRevokesTheFormerKey(t *testing.T) {
	f := newFixture(t)
	first := f.login("anna")
	second := f.login("anna")
	_, err := v1.NewOperatorServiceClient(first.conn).GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	wantCode(t, err, errs.Revoked)
	if _, err := v1.NewOperatorServiceClient(second.conn).GetIdentity(t.Context(), &v1.GetIdentityRequest{}); err != nil {
		t.Error(err)
	}
}

func TestOperatorRenews(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.clock.Advance(5 * 24 * time.Hour)
	client := v1.NewOperatorServiceClient(anna.conn)
	csr, err := certs.MakeCSR(anna.cred.Key())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.RenewOperator(t.Context(), &v1.RenewOperatorRequest{Csr: csr})
	if err != nil {
		t.Fatal(err)
	}
	if !resp.GetIdentity().GetNotAfter().AsTime().After(anna.cred.Leaf.NotAfter) {
		t.Error("the new certificate does not last longer")
	}
	_, foreign := newKey(t)
	_, err = client.RenewOperator(t.Context(), &v1.RenewOperatorRequest{Csr: foreign})
	wantCode(t, err, errs.Denied)
	f.clock.Advance(3 * 24 * time.Hour) // the connection outlives its certificate, the call does not
	_, err = client.GetIdentity(t.Context(), &v1.GetIdentityRequest{})
	wantCode(t, err, errs.Unauthenticated)
	if f.refused(access.ReasonExpired) != 1 {
		t.Error("not counted")
	}
}

func TestMutatingCallsAreAudited(t *testing.T) {
	f := newFixture(t)
	anna := f.login("anna")
	f.token(anna, &v1.CreateTokenRequest{Node: "web"})
	viewer := f.operator("vera", certs.RoleViewer)
	_, err := v1.NewTokenServiceClient(viewer.conn).CreateToken(t.Context(), &v1.CreateTokenRequest{Node: "web"})
	wantCode(t, err, errs.Denied)
	entries, err := f.app.store.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"local/root init testsite ok",
		"local/root /infractl.v1.OperatorService/Login anna ok",
		"operator/anna /infractl.v1.TokenService/CreateToken web ok",
		"operator/vera /infractl.v1.TokenService/CreateToken  denied",
	}
	var got []string
	for _, e := range entries {
		got = append(got, strings.Join([]string{e.Actor, e.Action, e.Target, e.Result}, " "))
		if strings.Contains(e.Message+e.Request, f.made.AdminCode) {
			t.Error("a secret in the audit log")
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
