package app

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/backup"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// source is the server as a backup sees it.
func (c *Config) source(s store.Store) backup.Source {
	return backup.Source{DataDir: c.DataDir, KeyDir: c.KeyDir, StoreKey: c.storeKey(), Store: s, Version: version.String(),
		Clock: c.Clock, Log: c.Log.Named("backup")}
}

// Site returns the name of the site that is set up in cfg's folders.
func Site(cfg Config) (string, error) {
	cfg.setDefaults()
	return cfg.Site, cfg.readSettings()
}

// Backup writes a backup to w: the running server makes it, over its socket, or this process where no server runs.
func Backup(ctx context.Context, cfg Config, withImages bool, w io.Writer) (*v1.BackupSummary, error) {
	cfg.setDefaults()
	if err := cfg.readSettings(); err != nil {
		return nil, err
	}
	if conn, err := new(net.Dialer).DialContext(ctx, "unix", cfg.Socket); err == nil {
		_ = conn.Close()
		return backup.Ask(ctx, cfg.Socket, withImages, w)
	}
	if err := cfg.checkState(); err != nil {
		return nil, err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: cfg.storeDir(), Clock: cfg.Clock, Logger: cfg.Log})
	if err != nil {
		return nil, err
	}
	m, err := cfg.source(s).Write(ctx, w, withImages)
	entry := store.AuditEntry{Time: cfg.Clock.Now(), Actor: "local/root", Action: v1.BackupService_CreateBackup_FullMethodName, Result: "ok",
		Message: "while no server ran"}
	if err != nil {
		entry.Result, entry.Message = string(errs.CodeOf(err)), err.Error()
	}
	_, aerr := s.AppendAudit(ctx, entry)
	if err := errs.Join(err, aerr, s.Close()); err != nil {
		return nil, err
	}
	return m.Summary(), nil
}

// Restored is what Restore did, for people.
type Restored struct {
	*backup.Result
	// Halted are the rollouts and operations that were at work when the backup was made.
	Halted []string
	// Addresses are those of the server's settings.
	Addresses []string
}

// Restore puts a server back from a backup into cfg's folders. Addresses in cfg replace those of the backup. force moves what
// is there aside; see backup.Target.
func Restore(ctx context.Context, cfg Config, from io.Reader, key age.Identity, force bool) (*Restored, error) {
	addresses := cfg.Addresses
	cfg.setDefaults()
	out := &Restored{}
	t := cfg.target()
	t.Force = force
	t.Settings = func(data []byte) ([]byte, error) {
		var s settings
		if err := json.Unmarshal(data, &s); err != nil {
			return nil, err
		}
		if len(addresses) > 0 {
			s.Addresses = addresses
			check := Config{Addresses: addresses, Names: s.Names}
			if err := check.checkAddresses(); err != nil {
				return nil, err
			}
		}
		out.Addresses = s.Addresses
		data, err := json.MarshalIndent(s, "", "  ")
		return append(data, '\n'), err
	}
	t.Mark = func(ctx context.Context, s store.Store, m *backup.Manifest) (err error) {
		out.Halted, err = markRestored(ctx, cfg, s, m)
		return err
	}
	res, err := t.Restore(ctx, from, key)
	if err != nil {
		return nil, err
	}
	out.Result = res
	return out, openFirstboot(cfg.Firstboot)
}

// FinishRestore does what a restore that was cut short left to do.
func FinishRestore(cfg Config) error {
	cfg.setDefaults()
	return errs.Join(cfg.target().Finish(), openFirstboot(cfg.Firstboot))
}

func (c *Config) target() backup.Target {
	return backup.Target{DataDir: c.DataDir, KeyDir: c.KeyDir, Clock: c.Clock, Log: c.Log.Named("restore")}
}

// markRestored begins the new epoch in the copy.
func markRestored(ctx context.Context, cfg Config, s store.Store, m *backup.Manifest) (halted []string, err error) {
	now := cfg.Clock.Now()
	if halted, err = rollout.HaltForRestore(ctx, s, now); err != nil {
		return nil, err
	}
	stopped, err := operation.HaltForRestore(ctx, s)
	if err != nil {
		return nil, err
	}
	halted = append(halted, stopped...)
	if err := session.DropTasks(ctx, s); err != nil {
		return nil, err
	}
	err = fleet.New(s).Restored(ctx, fleet.Restore{Time: now, Backup: m.Made, ID: m.ID, SiteRevision: m.SiteRevision,
		ResourceRevision: m.ResourceRevision})
	if err != nil {
		return nil, err
	}
	_, err = s.AppendAudit(ctx, store.AuditEntry{Time: now, Actor: "local/root", Action: "restore", Target: m.Site, Result: "ok",
		Message: "from backup " + m.ID + " made " + m.Made.Format("2006-01-02T15:04:05Z")})
	return halted, err
}

// checkState refuses to start over: a server that was set up has a database, and one that is gone or empty was lost.
func (c *Config) checkState() error {
	const hint = "infractl-server restore FILE --force (what is here is moved aside, not removed); see docs/disaster.md"
	if backup.Unfinished(c.DataDir) {
		return errs.New(errs.Precondition, "a restore was cut short").At(c.DataDir).WithHint("infractl-server restore --finish")
	}
	path := filepath.Join(c.storeDir(), "infractl.db")
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return errs.New(errs.Precondition, "the database is gone").At(path).WithHint("%s", hint)
	}
	if err != nil {
		return errs.New(errs.Internal, "%w", err).At(path)
	}
	if info.Size() == 0 {
		return errs.New(errs.Precondition, "the database is empty").At(path).WithHint("%s", hint)
	}
	return nil
}
