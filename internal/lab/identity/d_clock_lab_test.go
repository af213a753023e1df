//go:build lab

package identity

import (
	"crypto/rand"
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// setClock moves the clock of an agent and restarts it; "" puts it right.
func setClock(t *testing.T, vm, offset string) {
	t.Helper()
	env := "INFRACTL_CLOCK_OFFSET=" + offset + "\n"
	if offset == "" {
		env = ""
	}
	put(t, vm, "/etc/infractl/agent.env", env)
	must(t, vm, "systemctl", "restart", "infractl-agent")
}

func TestAClockThreeDaysBehindIsNoObstacleAndIsShown(t *testing.T) {
	whole(t)
	infractl(t, 0, "node", "revoke", spare, "--yes")
	infractl(t, 0, "node", "forget", spare, "--yes")
	labtest.Eventually(t, 10*time.Second, "the identity is set aside", func() bool { return len(aside(t, spare, "revoked")) > 1 })
	setClock(t, spare, "-72h")
	put(t, spare, "/etc/infractl/join-token", token(t, spare))
	labtest.Eventually(t, 30*time.Second, "it is taken up", func() bool { return inSync(t, spare) })
	within := func(got, want time.Duration) bool { return (got - want).Abs() < 5*time.Second }
	if skew := node(t, spare).GetSkew().AsDuration(); !within(skew, -72*time.Hour) {
		t.Errorf("the server sees a skew of %s", skew)
	}
	if out := agentSays(t, spare); !strings.Contains(out, "clock") || !strings.Contains(out, "72h") {
		t.Errorf("the agent says: %s", out)
	}
	if out, _ := site.Infractl(t.Context(), "status"); !strings.Contains(out.Stdout, "its clock is 72h") || !strings.Contains(out.Stdout, "behind") {
		t.Errorf("status does not tell: %s", out.Stdout)
	}
	apply(t, 0, edited(t, "max_auth_tries: 4", "max_auth_tries: 5"))
	began := sessionOf(t, spare)
	setClock(t, spare, "")
	labtest.Eventually(t, 20*time.Second, "it is back with a right clock", func() bool {
		return sessionOf(t, spare) != began && online(t, spare) && within(node(t, spare).GetSkew().AsDuration(), 0)
	})
	apply(t, 0, site.File)
	settled(t)
}

func TestAnAgentThatWronglyBelievesItHasExpiredAsksForTheTime(t *testing.T) {
	whole(t)
	before := node(t, demo.Prod)
	began := sessionOf(t, demo.Prod)
	setClock(t, demo.Prod, "240h")
	labtest.Eventually(t, 20*time.Second, "it is in session", func() bool {
		now := sessionOf(t, demo.Prod)
		return now != began && strings.HasPrefix(now, "connected") && node(t, demo.Prod).GetSkew().AsDuration() > 239*time.Hour
	})
	if after := node(t, demo.Prod); after.GetJoinCounter() != before.GetJoinCounter() || after.GetSerial() != before.GetSerial() {
		t.Errorf("its certificate was replaced: counter %d, serial %s", after.GetJoinCounter(), after.GetSerial())
	}
	setClock(t, demo.Prod, "")
	labtest.Eventually(t, 20*time.Second, "it is in session again", func() bool {
		return node(t, demo.Prod).GetSkew().AsDuration() < time.Minute && inSync(t, demo.Prod)
	})
	settled(t)
}

// expire gives a machine, whose agent is stopped, a certificate that has ended: as its own, by the site's authority, for the
// same key.
func expire(t *testing.T, vm string) {
	t.Helper()
	data, err := site.Lab.VM(demo.Relay).ReadFile(t.Context(), "/var/lib/infractl-server-keys/ca/issuing.pem")
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := certs.DecodeCerts(data)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := certs.DecodeKey(data)
	if err != nil {
		t.Fatal(err)
	}
	store := mtls.NewCredentials(filepath.Join(site.Lab.VM(vm).Root(), "var/lib/infractl/identity"))
	old, err := store.Current()
	if err != nil {
		t.Fatal(err)
	}
	leaf := *old.Leaf
	leaf.NotBefore, leaf.NotAfter = issuing[0].NotBefore, time.Now().Add(-time.Minute)
	der, err := x509.CreateCertificate(rand.Reader, &leaf, issuing[0], leaf.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := mtls.NewCredential(old.Key(), certs.EncodeCerts(made, issuing[0]), old.RootPEM)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.WriteCandidate(cred); err != nil {
		t.Fatal(err)
	}
	if err := store.Promote(); err != nil {
		t.Fatal(err)
	}
}

func TestAnAgentWhoseCertificateExpiredWhileItWasOffComesBack(t *testing.T) {
	whole(t)
	before := node(t, demo.Prod)
	must(t, demo.Prod, "systemctl", "stop", "infractl-agent")
	labtest.Eventually(t, 10*time.Second, "it is offline", func() bool { return !online(t, demo.Prod) })
	expire(t, demo.Prod)
	must(t, demo.Prod, "systemctl", "start", "infractl-agent")
	labtest.Eventually(t, 20*time.Second, "it is online", func() bool { return online(t, demo.Prod) })
	after := node(t, demo.Prod, v1.NodeState_NODE_STATE_ONLINE)
	if after.GetJoinCounter() != before.GetJoinCounter()+1 || after.GetSerial() == before.GetSerial() {
		t.Errorf("join counter %d and %d, serial %s and %s", before.GetJoinCounter(), after.GetJoinCounter(), before.GetSerial(), after.GetSerial())
	}
	if !audited(t, demo.Prod, "ok", "recovered after expiry") {
		t.Error("the recovery is not in the audit log")
	}
	settled(t)
}
