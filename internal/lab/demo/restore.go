package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// smallSite is a site with all machines and little on them: what trials of the server itself need.
const smallSite = `site: projetpro
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
  srv-dhcp-dns:    {role: services,    address: 10.0.10.10}
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

const smallOverlay = `probes:
  internet: {network: outside, address: 192.168.8.1}
  operator: {network: vpn, address: 10.0.20.10}
rollout: {window: 10s}
`

// BootSmall builds the lab with a site that has little on it, without Docker in the VMs, and applies it.
func BootSmall(ctx context.Context, o Options) (*Site, error) {
	o.Customize = func(cfg *lab.Config) {
		for i := range cfg.VMs {
			cfg.VMs[i].NestedDocker = false
		}
	}
	s, err := Boot(ctx, o)
	if err != nil {
		return s, err
	}
	if err := s.WriteSite(fmt.Sprintf(smallSite, s.public)); err != nil {
		return s, err
	}
	if err := os.WriteFile(s.Overlay, []byte(smallOverlay), 0o644); err != nil {
		return s, errs.Wrap("write the lab overlay", err)
	}
	return s, s.Apply(ctx)
}

// keepRecoveryKey takes the recovery key from what init printed, as a person writes it down.
func (s *Site) keepRecoveryKey(initOutput string) error {
	var made struct {
		RecoveryKey string `json:"recovery_key"`
	}
	if err := json.Unmarshal([]byte(initOutput), &made); err != nil || made.RecoveryKey == "" {
		return errs.New(errs.Internal, "infractl-server init printed no recovery key: %w", err)
	}
	s.RecoveryKey = made.RecoveryKey
	return nil
}

// backupPath is where backups lie on the relay.
const backupPath = "/root/infractl.age"

// Backup makes the running server back itself up and takes the file off its machine.
func (s *Site) Backup(ctx context.Context) ([]byte, error) {
	relay := s.Lab.VM(Relay)
	if _, err := relay.Must(ctx, "rm", "-f", backupPath); err != nil {
		return nil, err
	}
	if _, err := relay.Must(ctx, "infractl-server", "backup", "--out", backupPath); err != nil {
		return nil, errs.Wrap("back the server up", err)
	}
	return relay.ReadFile(ctx, backupPath)
}

// Restored says how putting the server back went.
type Restored struct {
	// Output is what infractl-server restore printed.
	Output string
	// Back is the time from the start of the restore until the server knew of every other machine again: a session, and
	// what it reports. Command is the part of it that the command took.
	Back, Command time.Duration
	// Boot is how long the new machine took to come up, before the restore.
	Boot time.Duration
}

// RestoreServer loses the server's machine with its disk, builds a new one in its place, and restores the server there from a
// backup and the recovery key alone. It returns when all other machines are back.
func (s *Site) RestoreServer(ctx context.Context, backup []byte) (*Restored, error) {
	relay := s.Lab.VM(Relay)
	begun := time.Now()
	if err := relay.Rebuild(ctx); err != nil {
		return nil, err
	}
	if err := relay.WaitBooted(ctx); err != nil {
		return nil, err
	}
	if err := relay.WriteFile(ctx, backupPath, 0o600, backup); err != nil {
		return nil, err
	}
	r := &Restored{Boot: time.Since(begun)}
	begun = time.Now()
	if err := s.restore(ctx, r); err != nil {
		return r, err
	}
	r.Command = time.Since(begun)
	cfg := s.Lab.Config()
	var others []string
	for _, name := range append(cfg.VMNames(), Operator) {
		if name != Relay {
			others = append(others, name)
		}
	}
	err := s.WaitOnline(ctx, 2*time.Minute, others...)
	r.Back = time.Since(begun)
	return r, err
}

// restore types what the drill in docs/disaster.md says.
func (s *Site) restore(ctx context.Context, r *Restored, more ...string) error {
	relay := s.Lab.VM(Relay)
	argv := append([]string{"infractl-server", "restore", backupPath, "--key", "-"}, more...)
	out, err := relay.ExecIn(ctx, strings.NewReader(s.RecoveryKey+"\n"), argv...)
	if err != nil {
		return err
	}
	r.Output = out.Stdout + out.Stderr
	if err := out.OK(argv...); err != nil {
		return err
	}
	if _, err := relay.Must(ctx, "systemctl", "restart", "infractl-firewall.service"); err != nil {
		return err
	}
	_, err = relay.Must(ctx, "systemctl", "enable", "--now", "infractl-server.service")
	return err
}

// RestoreOver puts the server back to a backup on its own machine; what was there is moved aside.
func (s *Site) RestoreOver(ctx context.Context, backup []byte) (*Restored, error) {
	relay := s.Lab.VM(Relay)
	if err := relay.WriteFile(ctx, backupPath, 0o600, backup); err != nil {
		return nil, err
	}
	if _, err := relay.Must(ctx, "systemctl", "stop", "infractl-server.service"); err != nil {
		return nil, err
	}
	r := &Restored{}
	return r, s.restore(ctx, r, "--force")
}

// EnrolRelay gives the relay's agent a new identity: its machine is another one now.
func (s *Site) EnrolRelay(ctx context.Context) error {
	for _, args := range [][]string{{"node", "revoke", Relay, "--reason", "its machine is lost", "--yes"}, {"node", "forget", Relay, "--yes"}} {
		if _, err := s.Must(ctx, args...); err != nil {
			return err
		}
	}
	token, err := s.Must(ctx, "token", "create", "--node", Relay)
	if err != nil {
		return err
	}
	if err := s.Lab.VM(Relay).WriteFile(ctx, "/etc/infractl/join-token", 0o600, []byte(token)); err != nil {
		return err
	}
	return s.WaitOnline(ctx, 30*time.Second, Relay)
}
