package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// snapshot is what Rollback needs. It holds no password: only whether one was locked.
type snapshot struct {
	Version int          `json:"version"`
	Users   []userBefore `json:"users"`
	Files   []host.File  `json:"files"`
}

type userBefore struct {
	Name   string `json:"name"`
	Absent bool   `json:"absent,omitempty"`
	// HomeExisted says that /home/NAME was there before the account.
	HomeExisted bool   `json:"home_existed,omitempty"`
	Gecos       string `json:"gecos,omitempty"`
	Shell       string `json:"shell,omitempty"`
	Expire      string `json:"expire,omitempty"`
	Locked      bool   `json:"locked,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	have, err := p.look()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, a := range pl.Wish.Spec.GetAccounts() {
		names = append(names, a.GetName())
	}
	names = append(names, have.kept...)
	paths := []string{sudoersFile, keptFile}
	for name := range have.keys {
		paths = append(paths, KeysDir+"/"+name)
	}
	s := snapshot{Version: 1, Users: []userBefore{}}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if _, has := have.keys[name]; !has {
			paths = append(paths, KeysDir+"/"+name)
		}
		u, ok := have.users[name]
		if !ok {
			s.Users = append(s.Users, userBefore{Name: name, Absent: true, HomeExisted: p.host.Exists("/home/" + name)})
			continue
		}
		s.Users = append(s.Users, userBefore{Name: name, Gecos: u.gecos, Shell: u.shell, Expire: u.expire, Locked: u.locked})
	}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure: each way that comes back counts.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 || len(s.Files) == 0 {
		return errs.New(errs.Invalid, "this is no snapshot of accounts: %v", err)
	}
	// Keys and sudo first: they are the ways in.
	_, err := p.host.Restore(s.Files)
	failed := []error{err, p.host.Remove(sideSudoers)}
	have, err := p.look()
	if err != nil {
		return errs.Join(append(failed, err)...)
	}
	for _, before := range s.Users {
		now, exists := have.users[before.Name]
		switch {
		case before.Absent:
			failed = append(failed, p.unmake(ctx, before, now, exists))
		case exists:
			failed = append(failed, p.putBack(ctx, before, now))
		default:
			failed = append(failed, errs.New(errs.Precondition, "account %s is gone and cannot be brought back", before.Name))
		}
	}
	return errs.Join(failed...)
}

// unmake takes an account away that was not there before. Its home goes too as long as nobody put anything into it.
func (p *Provider) unmake(ctx context.Context, before userBefore, now user, exists bool) error {
	home := "/home/" + before.Name
	if exists {
		if !now.person() {
			return errs.New(errs.Precondition, "account %s has user id %d and is left alone", before.Name, now.uid)
		}
		if _, err := p.host.Run(ctx, "userdel", "-f", "--", before.Name); err != nil {
			return errs.Wrap("take account "+before.Name+" away", err)
		}
	}
	if before.HomeExisted || !p.host.Exists(home) {
		return nil
	}
	untouched, err := p.fromSkeleton(home)
	if err != nil || !untouched {
		return err
	}
	return errs.Wrap("remove "+home, p.host.RemoveAll(home))
}

// fromSkeleton reports whether a home folder holds nothing but what useradd copied into it.
func (p *Provider) fromSkeleton(home string) (bool, error) {
	root := p.host.Path(home)
	untouched := true
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, root)
		if d.IsDir() {
			if rel != "" && !p.host.Exists("/etc/skel"+rel) {
				untouched = false
				return filepath.SkipAll
			}
			return nil
		}
		mine, err := p.host.Stat(home + rel)
		if err != nil {
			return err
		}
		skeleton, err := p.host.Stat("/etc/skel" + rel)
		if err != nil {
			return err
		}
		if skeleton.Absent || mine.Mode.Type() != skeleton.Mode.Type() || !bytes.Equal(mine.Data, skeleton.Data) {
			untouched = false
			return filepath.SkipAll
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return untouched, errs.Wrap("look at "+home, err)
}

func (p *Provider) putBack(ctx context.Context, before userBefore, now user) error {
	argv := []string{"usermod"}
	if now.gecos != before.Gecos {
		argv = append(argv, "-c", before.Gecos)
	}
	if now.shell != before.Shell {
		argv = append(argv, "-s", before.Shell)
	}
	if now.expire != before.Expire {
		argv = append(argv, "-e", before.Expire)
	}
	switch {
	case now.locked && !before.Locked:
		argv = append(argv, "-U")
	case !now.locked && before.Locked:
		argv = append(argv, "-L")
	}
	if len(argv) == 1 {
		return nil
	}
	_, err := p.host.Run(ctx, append(argv, "--", before.Name)...)
	return errs.Wrap("put account "+before.Name+" back", err)
}
