// Package accounts makes the site's people: their login, their SSH keys, their right to become root.
//
// Additions makes accounts, adds keys and sudo. Narrowing leaves exactly the wanted keys, takes sudo away and locks the
// accounts that are no longer wanted; it deletes no account and no home folder. An account that was not made by infractl is
// touched only when the site names it.
package accounts

import (
	"context"
	"os"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The files of this provider. The sshd provider names KeysDir/%u as AuthorizedKeysFile.
const (
	KeysDir     = "/etc/ssh/infractl-keys"
	sudoersFile = "/etc/sudoers.d/infractl"
	keptFile    = "/var/lib/infractl/accounts/kept.json"
	sideSudoers = "/run/infractl/accounts/sudoers"
)

// Config makes a Provider.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Log gets what is worth knowing beyond errors; nil means none.
	Log hclog.Logger
}

// Provider implements provider.Provider for accounts.
type Provider struct {
	host *host.Host
	log  hclog.Logger
}

var _ provider.Provider[*v1.AccountsSpec] = (*Provider)(nil)

// New returns the provider.
func New(cfg Config) *Provider {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	return &Provider{host: cfg.Host, log: cfg.Log}
}

// Stages are the stages that the provider takes part in.
func Stages() []provider.Stage { return []provider.Stage{provider.Additions, provider.Narrowing} }

// Name implements provider.Provider.
func (p *Provider) Name() string { return "accounts" }

type (
	wish = provider.Wish[*v1.AccountsSpec]
	plan = provider.Plan[*v1.AccountsSpec]
)

// Plan implements provider.Provider. Errors: Invalid for names and keys that can't be, Precondition when sudo is missing.
func (p *Provider) Plan(_ context.Context, w wish) (provider.Plan[*v1.AccountsSpec], error) {
	result := plan{Wish: w}
	work, err := p.work(w)
	if err != nil {
		return result, err
	}
	result.Changes = work.changes(p.Name())
	return result, nil
}

// Apply implements provider.Provider.
func (p *Provider) Apply(ctx context.Context, pl plan) error {
	work, err := p.work(pl.Wish)
	if err != nil {
		return err
	}
	// Who is ours is written down first: an account that a crash leaves behind must be known as ours.
	if _, err := p.host.Write(work.kept.want); err != nil {
		return err
	}
	for _, u := range work.users {
		if err := p.applyUser(ctx, u); err != nil {
			return err
		}
	}
	if len(work.keys) > 0 || work.folder {
		if err := p.folder(ctx, KeysDir); err != nil {
			return err
		}
	}
	for _, f := range work.keys {
		if _, err := p.host.Write(f.want); err != nil {
			return err
		}
	}
	return p.applySudoers(ctx, work.sudoers)
}

// folder makes a folder that every account can enter. The agent's umask may be tighter than that.
func (p *Provider) folder(ctx context.Context, path string) error {
	if err := p.host.Mkdir(path, 0o755); err != nil {
		return err
	}
	have, err := p.host.Stat(path)
	if err != nil || have.Mode.Perm() == 0o755 {
		return err
	}
	_, err = p.host.Run(ctx, "chmod", "0755", path)
	return errs.Wrap("open "+path+" to its readers", err)
}

func (p *Provider) applyUser(ctx context.Context, u userWork) error {
	switch {
	case u.create:
		_, err := p.host.Run(ctx, u.useradd...)
		return errs.Wrap("make account "+u.name, err)
	case len(u.usermod) > 0:
		argv := append(append([]string{"usermod"}, u.usermod...), "--", u.name)
		_, err := p.host.Run(ctx, argv...)
		return errs.Wrap("change account "+u.name, err)
	}
	return nil
}

// applySudoers lets visudo judge the file before sudo sees it: sudo refuses everybody when one file is wrong.
func (p *Provider) applySudoers(ctx context.Context, f fileWork) error {
	if !f.differs() {
		return nil
	}
	if !f.want.Absent {
		side := f.want
		side.Path = sideSudoers
		if _, err := p.host.Write(side); err != nil {
			return err
		}
		_, err := p.host.Run(ctx, "visudo", "-c", "-q", "-f", sideSudoers)
		if gone := p.host.Remove(sideSudoers); err == nil {
			err = gone
		}
		if err != nil {
			return errs.Wrap("check "+sudoersFile, err)
		}
	}
	_, err := p.host.Write(f.want)
	return err
}

// Verify implements provider.Provider: the accounts resolve, are neither locked nor expired, their key files are ones that
// sshd takes, and sudo grants what it should. The login itself is proven by witnesses.
func (p *Provider) Verify(ctx context.Context, w wish) error {
	have, err := p.look()
	if err != nil {
		return err
	}
	for _, a := range w.Spec.GetAccounts() {
		if err := p.verifyAccount(ctx, have, a); err != nil {
			return err
		}
	}
	if w.Stage != provider.Narrowing {
		return nil
	}
	for _, name := range have.kept {
		if u, ok := have.users[name]; ok && !wanted(w.Spec, name) && !u.closed() {
			return errs.New(errs.Internal, "account %s is not locked", name)
		}
	}
	return nil
}

func (p *Provider) verifyAccount(ctx context.Context, have present, a *v1.Account) error {
	name := a.GetName()
	u, ok := have.users[name]
	switch {
	case !ok:
		return errs.New(errs.Internal, "account %s does not exist", name)
	case u.closed():
		return errs.New(errs.Internal, "account %s is locked or expired", name)
	}
	for path, perm := range map[string]os.FileMode{KeysDir: 0o755, KeysDir + "/" + name: 0o644} {
		f, err := p.host.Stat(path)
		if err != nil {
			return err
		}
		if f.Absent || f.Mode.Perm() != perm || f.UID != os.Geteuid() {
			return errs.New(errs.Internal, "sshd will not read it: want owner root and mode %04o", perm).At(path)
		}
	}
	if !a.GetSudo() {
		return nil
	}
	out, err := p.host.Run(ctx, "sudo", "-n", "-l", "-U", name)
	if err != nil {
		return errs.Wrap("ask sudo about "+name, err)
	}
	if !strings.Contains(string(out.Stdout), "NOPASSWD: ALL") {
		return errs.New(errs.Precondition, "account %s may not become root: %s is not read by sudo", name, sudoersFile).
			WithHint("/etc/sudoers needs the line @includedir /etc/sudoers.d")
	}
	return nil
}

// Keep implements provider.Provider; what was applied is on disk already.
func (p *Provider) Keep(context.Context, wish) error { return nil }

func wanted(spec *v1.AccountsSpec, name string) bool {
	for _, a := range spec.GetAccounts() {
		if a.GetName() == name {
			return true
		}
	}
	return false
}
