//go:build lab

package identity

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/labtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// siteFile is the site as it begins: no lab overlay, no probes, nobody but the operator to see the relay's own ways.
const siteFile = `site: projetpro
domain: projetpro.lab
timezone: Europe/Paris
ntp: [203.0.113.3]
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
  client-relay:    {role: relay,       address: 10.0.10.4}
  srv-supervision: {role: supervision, address: 10.0.10.11}
  srv-prod:        {role: prod,        address: 10.0.10.20}
  srv-pre-prod:    {role: preprod,     address: 10.0.10.21}
server: {nodes: [client-relay], port: 7443, enrol_port: 7444}
flows:
  - {name: admin,   from: vpn,          to: client-relay, ports: [ssh]}
  - {name: bastion, from: client-relay, to: all,          ports: [ssh]}
ssh: {port: 202, users: [operator], max_auth_tries: 4}
accounts:
  operator: {name: Operator, sudo: true, ssh_keys: [%q]}
`

var (
	once sync.Once
	// early are tokens that were made at the beginning, so that they are old by the time they are used.
	early struct{ expired, used string }
)

// begin sets the site up, once: as docs/bootstrap.md says, for it can only be done once.
func begin(t *testing.T) {
	t.Helper()
	done := false
	once.Do(func() {
		bootstrap(t)
		done = true
	})
	if early.used == "" && !done {
		t.Fatal("the site was not set up")
	}
}

// whole is begin, with every machine of the site enrolled: what tests find that are run alone.
func whole(t *testing.T) {
	t.Helper()
	begin(t)
	if node(t, spare).GetState() != v1.NodeState_NODE_STATE_WANTED {
		return
	}
	put(t, spare, "/etc/infractl/join-token", token(t, spare))
	labtest.Eventually(t, 60*time.Second, spare+" is taken up", func() bool { return inSync(t, spare) })
}

func TestDayZeroAsTheBootstrapPageSays(t *testing.T) { begin(t) }

// bootstrap follows docs/bootstrap.md: sections 2, 3, 4, 6b and 7. Section 1 is how the VMs were made. The page's commands
// are typed as they stand there, with --yes where a person would answer.
func bootstrap(t *testing.T) {
	writeSite(t)
	serverAndFirstAdmin(t)
	relayFromItsConsole(t)
	routerFromTheRelay(t)
	theRest(t)
}

func writeSite(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(site.SSHKey())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if err := site.WriteSite(fmt.Sprintf(siteFile, public)); err != nil {
		t.Fatal(err)
	}
}

func serverAndFirstAdmin(t *testing.T) {
	t.Helper()
	step("the server and the first admin")
	out := must(t, demo.Relay, "infractl-server", "init", "--site", "projetpro", "--address", "10.0.10.4")
	code := regexp.MustCompile(`admin code\s+(\S+)`).FindStringSubmatch(out)
	if code == nil || !strings.Contains(out, "recovery key") {
		t.Fatalf("init printed: %s", out)
	}
	must(t, demo.Relay, "systemctl", "restart", "infractl-firewall.service")
	must(t, demo.Relay, "systemctl", "enable", "--now", "infractl-server.service")
	r, err := site.Lab.VM(demo.Relay).ExecIn(t.Context(), strings.NewReader(code[1]+"\n"), "infractl", "login", "--name", "anna")
	if err != nil || r.Code != 0 {
		t.Fatalf("login: %v %s%s", err, r.Stdout, r.Stderr)
	}
	if out := must(t, demo.Relay, "infractl", "whoami"); !strings.Contains(out, "anna") {
		t.Errorf("whoami: %s", out)
	}
	if out := must(t, demo.Relay, "stat", "-c", "%a", "/root/.config/infractl"); strings.TrimSpace(out) != "700" {
		t.Errorf("the operator's folder has mode %s", out)
	}
	// The admin's own machine stands in the admin network: the folder goes there.
	for _, name := range strings.Fields(must(t, demo.Relay, "ls", "/root/.config/infractl")) {
		data, err := site.Lab.VM(demo.Relay).ReadFile(t.Context(), "/root/.config/infractl/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(site.ConfigDir(), name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	infractl(t, 0, "whoami")
	early.expired = token(t, spare, "--ttl", "1m")
}

func relayFromItsConsole(t *testing.T) {
	t.Helper()
	step("the relay, from its console")
	content, err := os.ReadFile(site.File)
	if err != nil {
		t.Fatal(err)
	}
	put(t, demo.Relay, "/root/site.yaml", string(content))
	must(t, demo.Relay, "sh", "-c", "umask 077; infractl token create --node client-relay > /etc/infractl/join-token")
	labtest.Eventually(t, 10*time.Second, "node list shows the relay online", func() bool { return online(t, demo.Relay) })
	out, code := in(t, demo.Relay, "infractl", "apply", "-f", "/root/site.yaml", "--host", "client-relay", "--at-console", "client-relay", "--yes")
	if code != 0 {
		t.Fatalf("apply at the console: code %d\n%s", code, out)
	}
	step("%s", lastLine(out))
	if !audited(t, "", "ok", "need no login witness") {
		t.Error("the apply at the console is not in the audit log")
	}
	// SSH to the relay comes from the admin network alone now.
	if code := login(t, "10.0.10.4"); code != 0 {
		t.Errorf("login to the relay from the admin network: code %d", code)
	}
	if _, code := in(t, demo.Prod, "nc", "-z", "-w", "1", "10.0.10.4", "202"); code == 0 {
		t.Error("the relay's sshd is open to the LAN")
	}
}

func routerFromTheRelay(t *testing.T) {
	t.Helper()
	step("the router, from the relay")
	put(t, demo.Router, "/var/lib/cloud/seed/infractl/join-token", must(t, demo.Relay, "infractl", "token", "create", "--node", "vrouter"))
	labtest.Eventually(t, 10*time.Second, "node list shows the router online", func() bool { return online(t, demo.Router) })
	out, code := in(t, demo.Relay, "infractl", "apply", "-f", "/root/site.yaml", "--host", "vrouter", "--yes")
	if code != 0 {
		t.Fatalf("apply to the router: code %d\n%s", code, out)
	}
	step("%s", lastLine(out))
	if _, err := site.Lab.VM(demo.Router).ReadFile(t.Context(), "/var/lib/cloud/seed/infractl/join-token"); err == nil {
		t.Error("the used token is still there")
	}
}

// theRest enrols the other machines; each is taken up by itself.
func theRest(t *testing.T) {
	t.Helper()
	step("the rest, by themselves")
	early.used = token(t, demo.Prod)
	put(t, demo.Prod, "/etc/infractl/join-token", early.used)
	put(t, demo.Preprod, "/etc/infractl/agent.env", "INFRACTL_JOIN_TOKEN="+token(t, demo.Preprod))
	must(t, demo.Preprod, "systemctl", "restart", "infractl-agent")
	labtest.Eventually(t, 60*time.Second, demo.Preprod+" is taken up", func() bool { return inSync(t, demo.Preprod) })
	if out := agentSays(t, demo.Prod); !strings.Contains(out, "identity  none") || node(t, demo.Prod).GetState() != v1.NodeState_NODE_STATE_WANTED {
		t.Errorf("a machine with the template's mark enrolled: %s", out)
	}
	must(t, demo.Prod, "rm", "/etc/infractl/template")
	labtest.Eventually(t, 60*time.Second, demo.Prod+" is taken up", func() bool { return inSync(t, demo.Prod) })
	for _, name := range []string{demo.Relay, demo.Router, demo.Prod, demo.Preprod} {
		labtest.Eventually(t, 60*time.Second, name+" is in sync", func() bool { return inSync(t, name) })
		if out := infractl(t, 0, "ssh", name, "--user", "operator", "--", "hostname"); strings.TrimSpace(out) != name {
			t.Errorf("infractl ssh %s said %q", name, out)
		}
	}
}

// login makes a real login from the admin network and returns its exit code.
func login(t *testing.T, address string) int {
	t.Helper()
	r, err := site.Lab.Namespace(demo.Operator).Exec(t.Context(), "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2", "-i", site.SSHKey(), "-l", "operator", "-p", "202", address, "true")
	if err != nil {
		t.Fatal(err)
	}
	return r.Code
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
