package sshd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// The unit's settings close no way, and systemd reads all of its files again for them, which is slow: they come with the additions,
// beside what other providers add, and not in the window of a commit.

func (p *Provider) unitFile() host.File { return p.file(unitDropIn, unitText, 0o644) }

// unitHash is the part of loadedFile that says which settings systemd has read.
func unitHash() string { return fmt.Sprintf("%x\n", sha256.Sum256([]byte(unitText))) }

// unitLoaded takes that part out of loadedFile.
func unitLoaded(loaded []byte) string {
	_, unit, _ := strings.Cut(string(loaded), "\n")
	return unit
}

// unitState says whether the settings are in place, and what loadedFile holds.
func (p *Provider) unitState() (ok bool, loaded string, err error) {
	data, err := p.host.ReadFile(loadedFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, "", errs.Wrap("read "+loadedFile, err)
	}
	same, err := p.host.InSync(p.unitFile())
	return same && unitLoaded(data) == unitHash(), string(data), err
}

func (p *Provider) unitChanges() ([]*v1.Change, error) {
	ok, _, err := p.unitState()
	if ok || err != nil {
		return nil, err
	}
	return []*v1.Change{{Provider: p.Name(), Subject: unitDropIn, Action: v1.ChangeAction_CHANGE_ACTION_UPDATE,
		After: lines([]byte(unitText), nil), Risk: v1.Risk_RISK_NONE}}, nil
}

func (p *Provider) applyUnit(ctx context.Context) error {
	_, loaded, err := p.unitState()
	if err != nil {
		return err
	}
	if _, err := p.host.Write(p.unitFile()); err != nil {
		return err
	}
	if err := p.host.Systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	config, _, _ := strings.Cut(loaded, "\n")
	_, err = p.host.Write(p.file(loadedFile, config+"\n"+unitHash(), 0o600))
	return err
}

func (p *Provider) verifyUnit() error {
	ok, _, err := p.unitState()
	if err == nil && !ok {
		err = errs.New(errs.Internal, "%s is not what was written", unitDropIn)
	}
	return err
}
