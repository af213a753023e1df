package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
)

// file returns a path in the lab's folder.
func (s *Site) file(parts ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, parts...)...)
}

// ConfigDir is the operator's folder: identity and settings.
func (s *Site) ConfigDir() string { return s.file("operator") }

// SSHKey is the operator's private SSH key, made for this lab.
func (s *Site) SSHKey() string { return s.file("operator", "id_ed25519") }

// writeFiles writes the operator's SSH key, the site file, the overlay with that key, and the env file.
func (s *Site) writeFiles() error {
	// What an earlier lab left belongs to another authority.
	if err := os.RemoveAll(s.ConfigDir()); err != nil {
		return errs.Wrap("prepare the lab's folder", err)
	}
	for _, dir := range []string{s.ConfigDir(), s.file("site"), s.file("bin")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return errs.Wrap("prepare the lab's folder", err)
		}
	}
	var err error
	if s.public, err = newSSHKey(s.SSHKey()); err != nil {
		return err
	}
	example := filepath.Join(s.opts.Root, "examples/projetpro")
	s.File, s.Overlay = s.file("site", "site.yaml"), s.file("site", "lab.yaml")
	content := s.opts.Site
	if content == "" {
		data, err := os.ReadFile(filepath.Join(example, "site.yaml"))
		if err != nil {
			return errs.Wrap("read the example site", err)
		}
		content = string(data)
	}
	if err := s.SetOverlay(s.opts.Overlay); err != nil {
		return err
	}
	if err := s.WriteSite(content); err != nil {
		return err
	}
	files := map[string]string{
		s.file("bin", "infractl"): s.wrapper(),
		s.file("env"):             fmt.Sprintf("export PATH=%q:$PATH\nexport INFRACTL_OVERLAY=%q\n", s.file("bin"), s.Overlay),
	}
	for path, text := range files {
		mode := os.FileMode(0o644)
		if filepath.Dir(path) == s.file("bin") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			return errs.Wrap("prepare the lab's folder", err)
		}
	}
	return nil
}

// WriteSite replaces the site file, without its stacks unless the lab runs them.
func (s *Site) WriteSite(content string) error {
	if !s.opts.Stacks {
		content = withoutStacks(content)
	} else if err := s.writeStacks(); err != nil {
		return err
	}
	return errs.Wrap("write the site file", os.WriteFile(s.File, []byte(content), 0o644))
}

// SetOverlay writes the lab overlay: the example's, the operator's SSH key, and more lines.
func (s *Site) SetOverlay(more string) error {
	example, err := os.ReadFile(filepath.Join(s.opts.Root, "examples/projetpro/lab.yaml"))
	if err != nil {
		return errs.Wrap("read the lab overlay", err)
	}
	keys := fmt.Sprintf("\naccounts:\n  operator: {ssh_keys: [%q]}\n", s.public)
	return errs.Wrap("write the lab overlay", os.WriteFile(s.Overlay, []byte(string(example)+keys+more), 0o644))
}

// wrapper runs infractl where the operator is, with the operator's identity.
func (s *Site) wrapper() string {
	return fmt.Sprintf("#!/bin/sh\n# infractl as the lab's operator, from the operator's side of the VPN.\n"+
		"exec nsenter --net=%s env INFRACTL_CONFIG=%s INFRACTL_SSH_IDENTITY=%s %s \"$@\"\n",
		s.Lab.Namespace(Operator).NetnsPath(), s.ConfigDir(), s.SSHKey(), filepath.Join(s.opts.Bin, "infractl"))
}

func newSSHKey(path string) (public string, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", errs.Wrap("make an SSH key", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "operator of the lab")
	if err != nil {
		return "", errs.Wrap("make an SSH key", err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		return "", errs.Wrap("make an SSH key", err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", errs.Wrap("make an SSH key", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPub))), nil
}

// Infractl runs the command line as the operator and returns what it wrote. A code other than 0 is no error here: look at
// the result.
func (s *Site) Infractl(ctx context.Context, args ...string) (lab.Result, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
	}
	return s.Lab.Namespace(Operator).Exec(ctx, append([]string{"env", "INFRACTL_CONFIG=" + s.ConfigDir(),
		"INFRACTL_SSH_IDENTITY=" + s.SSHKey(), filepath.Join(s.opts.Bin, "infractl")}, args...)...)
}

// Must runs the command line as the operator and fails unless it ends with 0.
func (s *Site) Must(ctx context.Context, args ...string) (string, error) {
	r, err := s.Infractl(ctx, args...)
	if err != nil {
		return "", err
	}
	return r.Stdout, r.OK(append([]string{"infractl"}, args...)...)
}

// login exchanges the admin code of init for the operator's identity, over the server's Unix socket.
func (s *Site) login(ctx context.Context, initOutput string) error {
	var made struct {
		AdminCode string `json:"admin_code"`
	}
	if err := json.Unmarshal([]byte(initOutput), &made); err != nil {
		return errs.New(errs.Internal, "the output of infractl-server init does not parse: %w", err)
	}
	socket := filepath.Join(s.Lab.VM(Relay).Root(), "run/infractl-server/admin.sock")
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return errs.New(errs.Timeout, "the server made no socket").WithHint("infractl-lab exec client-relay -- journalctl -u infractl-server")
		}
		time.Sleep(20 * time.Millisecond)
	}
	code := s.file("operator", "code")
	if err := os.WriteFile(code, []byte(made.AdminCode+"\n"), 0o600); err != nil {
		return errs.Wrap("log in", err)
	}
	defer os.Remove(code)
	in, err := os.Open(code)
	if err != nil {
		return errs.Wrap("log in", err)
	}
	defer in.Close()
	cmd := s.Lab.Namespace(Operator).Command(ctx, filepath.Join(s.opts.Bin, "infractl"), "login", "--socket", socket, "--name", "demo",
		"--config", s.ConfigDir())
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return errs.New(errs.Internal, "log in: %w: %s", err, out)
	}
	return nil
}
