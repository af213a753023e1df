package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/demo"
)

// captured are the files of the end state that Ansible is to reach on a node.
func captured(node string) []string {
	files := []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/sysctl.d/90-infractl-net.conf",
		"/etc/sysctl.d/90-infractl-sshd.conf", "/etc/chrony/conf.d/infractl.conf", "/etc/chrony/sources.d/infractl.sources",
		"/etc/sudoers.d/infractl", "/etc/ssh/infractl-keys/operator", "/etc/ssh/infractl-keys/developer",
		"/etc/ssh/sshd_config.d/00-infractl.conf", "/etc/systemd/system/ssh.service.d/infractl.conf",
		"/etc/ssh/infractl-user-ca.pub", "/var/lib/infractl/firewall/rules.v4", "/var/lib/infractl/firewall/rules.v6"}
	if node == nameServer {
		files = append(files, "/etc/bind/named.conf", "/etc/bind/named.conf.options", "/etc/bind/named.conf.local")
		for _, zone := range []string{"10.0.10.in-addr.arpa", "20.0.10.in-addr.arpa", "dolibarr.projetpro.example", "projetpro.lab"} {
			files = append(files, "/var/lib/bind/infractl/"+zone+".zone")
		}
	}
	return files
}

// nameServer is the node that answers for the site's names.
const nameServer = "srv-dhcp-dns"

// capture copies the end state's files out of the VMs and returns the playbook's folder.
func capture(ctx context.Context, s *demo.Site, dir string) (string, error) {
	for _, node := range demo.Nodes() {
		for _, path := range captured(node) {
			data, err := s.Lab.VM(node).ReadFile(ctx, path)
			if err != nil {
				return "", errs.Wrap("capture "+path+" of "+node, err)
			}
			to := filepath.Join(dir, "files", node, path)
			if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
				return "", errs.Wrap("capture", err)
			}
			if err := os.WriteFile(to, data, 0o600); err != nil {
				return "", errs.Wrap("capture", err)
			}
		}
	}
	// What the router's kernel holds of address translation is in no file.
	nat, err := s.Lab.VM(demo.Router).Must(ctx, "iptables-save", "-t", "nat")
	if err != nil {
		return "", errs.Wrap("capture the address translation", err)
	}
	return dir, errs.Wrap("capture", os.WriteFile(filepath.Join(dir, "files", demo.Router, "nat.v4"), []byte(nat), 0o600))
}

// compareWithAnsible brings the same VMs, made anew without agents, to the same end state with Ansible, and compares.
func compareWithAnsible(ctx context.Context, o Options, r *Report, dir string, first, noop float64) error {
	if err := ensureAnsible(ctx); err != nil {
		return err
	}
	cfg := lab.DefaultSite("bench", filepath.Join(o.Dir, "fleet"))
	cfg.Replace = true
	l, err := lab.Create(ctx, cfg)
	if err != nil {
		return errs.Wrap("create the lab for Ansible", err)
	}
	defer l.Down(context.WithoutCancel(ctx)) //nolint:errcheck // the lab's own report says what stayed
	if err := l.StartVM(ctx, cfg.VMNames()...); err != nil {
		return err
	}
	if err := l.WaitBooted(ctx, cfg.VMNames()...); err != nil {
		return err
	}
	key := filepath.Join(dir, "id_ed25519")
	for _, node := range demo.Nodes() {
		if err := prepareForAnsible(ctx, l.VM(node), key); err != nil {
			return errs.Wrap("prepare "+node, err)
		}
	}
	for _, name := range []string{"site.yml", "ansible.cfg"} {
		if err := copyFile(filepath.Join(o.Root, "internal/lab/bench/ansible", name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	firstAnsible, err := play(ctx, l, dir, key, 22)
	if err != nil {
		return errs.Wrap("first run of Ansible", err)
	}
	if p, err := endState(ctx, l); err != nil {
		return errs.Wrap("after Ansible", err)
	} else {
		r.All("end state by probe, Ansible", p.ok, p.total, "the same probe")
	}
	again, err := play(ctx, l, dir, key, 202)
	if err != nil {
		return errs.Wrap("second run of Ansible", err)
	}
	anchor := "ansible-core of Debian 12, pipelining, ControlPersist, forks 6, no facts; same VMs, same files, same run"
	r.AtLeast("first apply against Ansible", firstAnsible/first, 8, "times faster", fmt.Sprintf("Ansible %.1f s; %s", firstAnsible, anchor))
	r.AtLeast("no-op apply against Ansible", again/noop, 40, "times faster", fmt.Sprintf("Ansible %.1f s; %s", again, anchor))
	return nil
}

func ensureAnsible(ctx context.Context) error {
	if _, err := exec.LookPath("ansible-playbook"); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", "install", "-y", "--no-install-recommends", "ansible-core", "openssh-client")
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errs.New(errs.Precondition, "install Ansible: %w: %s", err, out)
	}
	return nil
}

// prepareForAnsible gives a VM what Ansible needs to begin: an account with a key and sudo.
func prepareForAnsible(ctx context.Context, vm *lab.VM, key string) error {
	public, err := exec.CommandContext(ctx, "ssh-keygen", "-y", "-f", key).Output()
	if err != nil {
		return errs.New(errs.Internal, "read the key: %w", err)
	}
	for _, argv := range [][]string{
		{"useradd", "-m", "-s", "/bin/bash", "-p", "*", "-N", "-g", "users", "operator"},
		{"install", "-d", "-m", "700", "-o", "operator", "/home/operator/.ssh"},
		// As in the template's first-boot firewall: without a rule that tracks connections, the kernel knows none of those that
		// are open when the rules come, and Ansible would cut itself off.
		{"iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
	} {
		if _, err := vm.Must(ctx, argv...); err != nil {
			return err
		}
	}
	if err := vm.WriteFile(ctx, "/home/operator/.ssh/authorized_keys", 0o644, public); err != nil {
		return err
	}
	return vm.WriteFile(ctx, "/etc/sudoers.d/bench", 0o440, []byte("operator ALL=(ALL) NOPASSWD: ALL\n"))
}

// play runs the playbook from the operator's namespace through the relay, and returns its wall time in seconds.
func play(ctx context.Context, l *lab.Lab, dir, key string, port int) (float64, error) {
	if err := os.WriteFile(filepath.Join(dir, "inventory.ini"), []byte(inventory(dir, key, port)), 0o600); err != nil {
		return 0, errs.Wrap("write the inventory", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 150*time.Second)
	defer cancel()
	begun := time.Now()
	cmd := l.Namespace(demo.Operator).Command(ctx, "env", "-C", dir, "ANSIBLE_CONFIG="+filepath.Join(dir, "ansible.cfg"),
		"HOME="+dir, "LC_ALL=C.UTF-8", "ansible-playbook", "site.yml")
	out, err := cmd.CombinedOutput()
	took := time.Since(begun).Seconds()
	if err != nil {
		return 0, errs.New(errs.Internal, "ansible-playbook: %w\n%s", err, tail(string(out), 3000))
	}
	return took, nil
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

func inventory(dir, key string, port int) string {
	addresses := map[string]string{demo.Router: "10.0.10.1", demo.Relay: "10.0.10.4", nameServer: "10.0.10.10", "srv-supervision": "10.0.10.11",
		demo.Prod: "10.0.10.20", demo.Preprod: "10.0.10.21"}
	var b strings.Builder
	b.WriteString("[site]\n")
	hop := fmt.Sprintf("ssh -i %s -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p %d -W %%h:%%p operator@10.0.10.4", key, port)
	for _, node := range demo.Nodes() {
		fmt.Fprintf(&b, "%s ansible_host=%s", node, addresses[node])
		if node != demo.Relay {
			fmt.Fprintf(&b, " ansible_ssh_common_args='-o ProxyCommand=\"%s\"'", hop)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "[site:vars]\nansible_user=operator\nansible_port=%d\nansible_ssh_private_key_file=%s\nansible_ssh_control_path_dir=%s/.cp\n"+
		"timezone=Europe/Paris\naccounts=[\"operator\",\"developer\"]\n", port, key, dir)
	return b.String()
}
