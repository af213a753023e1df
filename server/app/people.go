package app

import (
	"context"
	"path/filepath"

	"github.com/infractl/infractl/internal/site"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/identity"
	"github.com/infractl/infractl/server/sshca"
)

// sshDir is the folder of the key that makes certificates for logins by SSH.
func (c *Config) sshDir() string { return filepath.Join(c.KeyDir, "ssh-ca") }

// people is the part of the server that knows operators.
type people struct {
	live      *access.Live
	ssh       *sshca.Authority
	operators *identity.Operators
}

func (a *App) openPeople() (err error) {
	a.people.live = access.NewLive()
	a.people.ssh, err = sshca.Open(sshca.Config{Dir: a.cfg.sshDir(), Records: a.store, Clock: a.cfg.Clock})
	return err
}

// currentSite returns the newest revision's site.
func (o *operations) currentSite(ctx context.Context) (*site.Site, error) {
	s, _, err := o.revisions.Load(ctx, 0)
	return s, err
}
