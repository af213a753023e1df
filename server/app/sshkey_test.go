package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/store"
)

const sshSite = `site: testsite
domain: testsite.lab
networks:
  wan: {cidr: 192.168.8.0/24, gateway: 192.168.8.1}
  lan: {cidr: 10.0.10.0/24, gateway: 10.0.10.1}
  vpn: {cidr: 10.0.20.0/24}
nodes:
  vrouter:
    role: router
    platform: linux
    interfaces:
      eth0: {network: wan, address: 192.168.8.30}
      eth1: {network: lan, address: 10.0.10.1}
      eth2: {network: vpn, address: 10.0.20.1}
  client-relay: {role: relay, address: 10.0.10.4}
  srv-prod:     {role: prod,  address: 10.0.10.20}
server: {nodes: [client-relay], port: 7443, enrol_port: 7444}
flows:
  - {name: admin,   from: vpn,          to: client-relay, ports: [ssh]}
  - {name: bastion, from: client-relay, to: all,          ports: [ssh]}
ssh: {port: 202, users: [%s]}
accounts:
%s`

// applied stores a site in which these accounts may log in.
func (f *fixture) applied(users ...string) {
	f.Helper()
	accounts := ""
	for _, u := range users {
		accounts += fmt.Sprintf("  %s: {name: Somebody, sudo: true, ssh_keys: [%q]}\n", u, strings.TrimSpace(sshKey(f.T)))
	}
	_, err := f.app.operations.revisions.Append(f.Context(), revision.AppendRequest{Operator: "anna", Source: &v1.SiteSource{
		File: "site.yaml", Content: []byte(fmt.Sprintf(sshSite, strings.Join(users, ", "), accounts))}})
	if err != nil {
		f.Fatal(err, errs.HintOf(err))
	}
}

func sshKey(t *testing.T) string {
	t.Helper()
	key, _ := newKey(t)
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(pub))
}

func sign(t *testing.T, p *person, principal, node string) (*ssh.Certificate, error) {
	t.Helper()
	resp, err := operators(p).SignSshKey(t.Context(), &v1.SignSshKeyRequest{PublicKey: sshKey(t), Principal: principal, Node: node})
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(resp.GetCertificate()))
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate), nil
}

func TestSSHCertificatesAreForOneAccountAndAudited(t *testing.T) {
	f := newFixture(t)
	otto := f.operator("otto", certs.RoleOperator)
	_, err := sign(t, otto, "operator", "srv-prod")
	wantCode(t, err, errs.NotFound) // there is no site
	f.applied("operator", "developer", "otta")
	cert, err := sign(t, otto, "operator", "srv-prod")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"operator"}, cert.ValidPrincipals); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"source-address": "10.0.10.4"}, cert.CriticalOptions); diff != "" {
		t.Error(diff)
	}
	if got := time.Unix(int64(cert.ValidBefore), 0).Sub(f.clock.Now()); got > 10*time.Minute || got < 9*time.Minute {
		t.Errorf("it lives %s", got)
	}
	var entry store.AuditEntry
	if !f.audited(func(e store.AuditEntry) bool { entry = e; return e.Action == "ssh.certificate" && e.Result == "ok" }) {
		t.Fatal("not audited")
	}
	if want := fmt.Sprintf("infractl operator/otto %d", entry.Seq); cert.KeyId != want {
		t.Errorf("key id %q, want %q", cert.KeyId, want)
	}
	if entry.Node != "srv-prod" || entry.Target != "operator@srv-prod" || !strings.Contains(entry.Message, fmt.Sprintf("serial %d,", cert.Serial)) {
		t.Errorf("entry %+v", entry)
	}
	relay, err := sign(t, otto, "developer", "client-relay")
	if err != nil {
		t.Fatal(err)
	}
	if _, forwards := relay.Extensions["permit-port-forwarding"]; !forwards || relay.Serial != cert.Serial+1 || len(relay.CriticalOptions) != 0 {
		t.Errorf("the relay's: %v, serial %d, %v", relay.Extensions, relay.Serial, relay.CriticalOptions)
	}
	for name, tt := range map[string]struct {
		principal, node string
		want            errs.Code
	}{
		"root": {"root", "srv-prod", errs.Denied}, "nobody's account": {"mallory", "srv-prod", errs.Denied},
		"two at once": {"operator,root", "srv-prod", errs.Denied}, "no node": {"operator", "srv-none", errs.NotFound},
		"no account": {"", "srv-prod", errs.Denied},
	} {
		_, err := sign(t, otto, tt.principal, tt.node)
		if got := errs.CodeOf(errs.FromGRPC(err)); got != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !f.audited(func(e store.AuditEntry) bool { return e.Action == "ssh.certificate" && e.Result == string(errs.Denied) }) {
		t.Error("refusals are not audited")
	}
	_, err = operators(otto).SignSshKey(t.Context(), &v1.SignSshKeyRequest{PublicKey: "nothing", Principal: "operator", Node: "srv-prod"})
	wantCode(t, err, errs.Invalid)
	_, err = sign(t, f.operator("vera", certs.RoleViewer), "operator", "srv-prod")
	wantCode(t, err, errs.Denied)
}

func TestAnAccountOfOnesOwnIsTheOnlyOne(t *testing.T) {
	f := newFixture(t)
	f.applied("operator", "otto")
	otto := f.operator("otto", certs.RoleOperator)
	_, err := sign(t, otto, "operator", "srv-prod")
	wantCode(t, err, errs.Denied)
	if _, err := sign(t, otto, "otto", "srv-prod"); err != nil {
		t.Error(err)
	}
}

func TestHostsTrustTheAuthority(t *testing.T) {
	f := newFixture(t)
	f.applied("operator")
	d, err := f.app.operations.revisions.Derive(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for node, spec := range d.Specs {
		if diff := cmp.Diff([]string{f.app.people.ssh.PublicKey()}, spec.Spec.GetSshd().GetUserCaKeys()); diff != "" {
			t.Errorf("%s: %s", node, diff)
		}
	}
	key := f.app.people.ssh.PublicKey()
	f.stop()
	f.start()
	if got := f.app.people.ssh.PublicKey(); got != key {
		t.Error("a restart changed the key")
	}
}

func TestLoginsOnHostsAreAudited(t *testing.T) {
	f := newFixture(t)
	m := f.node(f.login("anna"), "web")
	stream, _ := m.mustOpen()
	send := func(ev *v1.HostEvent) {
		t.Helper()
		if err := stream.Send(&v1.ConnectRequest{Message: &v1.ConnectRequest_Event{Event: ev}}); err != nil {
			t.Fatal(err)
		}
	}
	good := &v1.HostEvent{Time: timestamppb.New(f.clock.Now().Add(-time.Hour)), Action: "ssh.login", Target: "operator", Source: "10.0.10.4",
		Message: "break-glass: key SHA256:x", Result: "ok"}
	bad := []*v1.HostEvent{
		{Action: "init", Target: "operator", Result: "ok"},
		{Action: "ssh.login", Target: strings.Repeat("x", 65), Result: "ok"},
		{Action: "ssh.login", Source: "nowhere", Result: "ok"},
		{Action: "ssh.login", Result: "O K"},
		{Action: "ssh.login", Message: strings.Repeat("x", 1001), Result: "ok"},
	}
	for _, ev := range bad {
		send(ev)
	}
	send(good)
	f.eventually("the login is audited", func() bool {
		return f.audited(func(e store.AuditEntry) bool {
			return e.Actor == "node/web" && e.Node == "web" && e.Action == "ssh.login" && e.Target == "operator@web" && e.Source == "10.0.10.4" &&
				strings.HasPrefix(e.Message, "break-glass: key SHA256:x, at ")
		})
	})
	if got := f.refused(access.ReasonMalformed); got != len(bad) {
		t.Errorf("%d refused, want %d", got, len(bad))
	}
	// Too many are dropped, and that is told by the next one. The session lives on.
	for range 300 {
		send(good)
	}
	f.eventually("most of them are audited", func() bool {
		n := 0
		f.audited(func(e store.AuditEntry) bool {
			if e.Action == "ssh.login" {
				n++
			}
			return false
		})
		return n >= 200 && n < 290
	})
	if _, live := f.app.hub.Live("web"); !live {
		t.Error("the session ended")
	}
}
