package app

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/identity"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/sshca"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// InitResult is what Init made and shows this once.
type InitResult struct {
	Site string `json:"site"`
	// Fingerprint is that of the site's root certificate, as join tokens carry it.
	Fingerprint string `json:"fingerprint"`
	// AdminCode is good for one login until AdminCodeExpires.
	AdminCode        string    `json:"admin_code"`
	AdminCodeExpires time.Time `json:"admin_code_expires"`
	// RecoveryKey opens the server's backups. It is stored nowhere: it belongs on paper.
	RecoveryKey string   `json:"recovery_key"`
	Addresses   []string `json:"addresses"`
	DataDir     string   `json:"data_dir"`
	KeyDir      string   `json:"key_dir"`
}

// Init sets a new server up: certificate authority, database, settings, first admin code, recovery key. It never touches a
// server that exists: Exists.
func Init(ctx context.Context, cfg Config) (*InitResult, error) {
	const op = "set the server up"
	cfg.setDefaults()
	if err := certs.ValidateName("site", cfg.Site); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := cfg.checkAddresses(); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if _, err := os.Stat(cfg.settings()); err == nil {
		return nil, errs.Wrap(op, errs.New(errs.Exists, "there is a server already").At(cfg.DataDir).
			WithHint("start it with: infractl-server run; make a new admin code with: infractl-server admin-code"))
	}
	for _, dir := range []string{cfg.DataDir, cfg.KeyDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errs.Wrap(op, errs.New(errs.Internal, "%w", err).At(dir))
		}
	}
	authority, err := certs.Create(cfg.caDir(), cfg.Site, cfg.Clock)
	if errs.Is(err, errs.Exists) {
		err = errs.New(errs.Exists, "an init that was cut short, or another server, has left its keys here").At(cfg.KeyDir).
			WithHint("if no server ever ran with them, remove %s and %s, then try again", cfg.KeyDir, cfg.DataDir)
	}
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	code, expires, err := identity.NewCodes(cfg.codesDir(), cfg.Clock).Create()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	recovery, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := certs.WriteFile(cfg.recipient(), []byte(recovery.Recipient().String()+"\n"), 0o600); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := secret.CreateKey(cfg.storeKey()); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if _, err := sshca.Ensure(cfg.sshDir()); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := firstAudit(ctx, cfg, authority); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := openFirstboot(cfg.Firstboot); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if err := cfg.writeSettings(); err != nil { // last: from here on there is a server
		return nil, errs.Wrap(op, err)
	}
	return &InitResult{Site: cfg.Site, Fingerprint: authority.Fingerprint(), AdminCode: code, AdminCodeExpires: expires,
		RecoveryKey: recovery.String(), Addresses: cfg.Addresses, DataDir: cfg.DataDir, KeyDir: cfg.KeyDir}, nil
}

// firstAudit makes the database and begins its audit log.
func firstAudit(ctx context.Context, cfg Config, authority *certs.Authority) (err error) {
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: cfg.storeDir(), Clock: cfg.Clock, Logger: cfg.Log})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = s.AppendAudit(ctx, store.AuditEntry{Time: cfg.Clock.Now(), Actor: "local/root", Action: "init", Target: cfg.Site,
		Result: "ok", Message: "authority " + authority.Fingerprint()})
	return err
}

// openFirstboot asks the first-boot firewall of this machine, which the agent's package installs, to let agents and
// operators in. The agent reads the folder; the file may be there before the agent is.
func openFirstboot(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errs.New(errs.Internal, "%w", err).At(dir)
	}
	data, err := json.Marshal(struct {
		Ports []int `json:"ports"`
	}{[]int{7443, 7444}})
	if err != nil {
		return err
	}
	return certs.WriteFile(filepath.Join(dir, "server.json"), append(data, '\n'), 0o644)
}

// AdminCode makes a new admin code for a server that is set up. The server need not run, and may.
func AdminCode(cfg Config) (code string, expires time.Time, err error) {
	cfg.setDefaults()
	if err := cfg.readSettings(); err != nil {
		return "", time.Time{}, err
	}
	return identity.NewCodes(cfg.codesDir(), cfg.Clock).Create()
}
