//go:build lab

package operators

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// siteFile is a site of three machines: router, relay and one behind them.
const siteFile = `site: projetpro
domain: projetpro.lab
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
ssh: {port: 202, users: [operator], max_auth_tries: 4}
accounts:
  operator: {name: Operator, sudo: true, ssh_keys: [%q]}
`

// site is the one lab of this package.
var site *demo.Site

func TestMain(m *testing.M) {
	os.Exit(demo.Suite{
		Name: "people", Limit: 5 * time.Minute,
		Change:  func(o *demo.Options) { o.Customize = machines },
		Prepare: func(context.Context, *demo.Site) error { return writeSite() },
	}.Run(&site, m.Run))
}

func machines(cfg *lab.Config) {
	cfg.VMs = slices.DeleteFunc(cfg.VMs, func(vm lab.VMSpec) bool {
		return vm.Name != demo.Relay && vm.Name != demo.Router && vm.Name != demo.Prod
	})
	for i := range cfg.VMs {
		cfg.VMs[i].NestedDocker = false
	}
}

func writeSite() error {
	data, err := os.ReadFile(site.SSHKey())
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return err
	}
	return site.WriteSite(fmt.Sprintf(siteFile, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))))
}

// person runs the command line in the admin network with a folder of their own.
type person struct{ dir string }

func newPerson(t *testing.T) person { return person{filepath.Join(t.TempDir(), "config")} }

// admin is who set the site up.
func admin() person { return person{site.ConfigDir()} }

// run runs the command line with input and wants a code.
func (p person) run(t *testing.T, wantCode int, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := site.Lab.Namespace(demo.Operator).Command(ctx, append([]string{filepath.Join(os.Getenv("INFRACTL_BIN"), "infractl")}, args...)...)
	cmd.Env = append(os.Environ(), "INFRACTL_CONFIG="+p.dir, "INFRACTL_SSH_IDENTITY="+site.SSHKey())
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("infractl %v: %v", args, err)
	}
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Fatalf("infractl %v: code %d, want %d\n%s", args, code, wantCode, out)
	}
	return string(out)
}

// entries returns the newest entries of the audit log with that action.
func entries(t *testing.T, action string) []*v1.AuditEntry {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := site.Infractl(ctx, "audit", "--action", action, "-o", "json")
	if err != nil || r.Code != 0 {
		t.Fatalf("audit: %v %s", err, r.Stderr)
	}
	var list v1.ListAuditResponse
	if err := protojson.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatal(err)
	}
	return list.GetEntries()
}
