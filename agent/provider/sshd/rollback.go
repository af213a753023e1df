package sshd

import (
	"context"
	"encoding/json"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// snapshot is what Rollback needs.
type snapshot struct {
	Version int         `json:"version"`
	Files   []host.File `json:"files"`
	Sysctls []sysctl    `json:"sysctls,omitempty"`
	// SocketActive and ServiceActive say who had the port.
	SocketActive  bool `json:"socket_active,omitempty"`
	ServiceActive bool `json:"service_active,omitempty"`
	// Units says that systemd has to read its files again.
	Units bool `json:"units,omitempty"`
	// Addition says that only the unit's settings were added.
	Addition bool `json:"addition,omitempty"`
	// Listening are sshd's sockets that were open.
	Listening []listener `json:"listening,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(ctx context.Context, pl plan) ([]byte, error) {
	if pl.Wish.Stage == provider.Additions {
		files, err := p.host.Snapshot(unitDropIn, loadedFile)
		if err != nil {
			return nil, err
		}
		return json.Marshal(snapshot{Version: 1, Addition: true, Files: files})
	}
	t, err := p.target(ctx, pl.Wish, again)
	if err != nil {
		return nil, err
	}
	s := snapshot{Version: 1, Units: t.unitsStale()}
	if s.SocketActive, err = p.active(ctx, socketU); err != nil {
		return nil, err
	}
	if s.ServiceActive, err = p.active(ctx, service); err != nil {
		return nil, err
	}
	paths := append(append([]string{loadedFile}, socketLinks()...), serviceLinks()...)
	for _, f := range t.files() {
		paths = append(paths, f.Path)
	}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	for _, want := range t.sysctls {
		live, err := p.liveSysctl(want.Key)
		if err != nil {
			return nil, err
		}
		s.Sysctls = append(s.Sysctls, sysctl{want.Key, live})
	}
	// A socket of systemd stands for both families in one line of the kernel, so what counts is what is really there.
	open, err := p.sockets()
	if err != nil {
		return nil, err
	}
	for _, l := range t.before {
		for _, have := range open {
			if have.listener == l {
				s.Listening = append(s.Listening, l)
			}
		}
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure, and works whether sshd is running, failed or gone, and
// from the unit that runs early in boot, where waiting for a start would wait for itself.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 || len(s.Files) == 0 {
		return errs.New(errs.Invalid, "this is no snapshot of sshd: %v", err)
	}
	_, err := p.host.Restore(s.Files)
	if s.Addition {
		return errs.Join(err, p.host.Systemctl(ctx, "daemon-reload"))
	}
	failed := []error{err, errs.Wrap("clear "+trialDir, p.host.RemoveAll(trialDir))}
	if !p.host.Exists(privsepDir) {
		failed = append(failed, p.host.Mkdir(privsepDir, 0o755))
	}
	failed = append(failed, p.setSysctls(ctx, s.Sysctls))
	if s.Units {
		failed = append(failed, p.host.Systemctl(ctx, "daemon-reload"))
	}
	now, err := p.unitsNow(ctx)
	failed = append(failed, err)
	if now.boot {
		failed = append(failed, p.startAtBoot(ctx, s))
		return errs.Join(failed...)
	}
	failed = append(failed, p.bringBack(ctx, s, now), p.waitForSockets(ctx, s.Listening, nil))
	return errs.Join(failed...)
}

// unitsNow is what systemd does at the moment of a rollback.
type unitsNow struct {
	socket, service bool
	// boot says that ssh may be waiting for us: a start of it would then not end before we do.
	boot bool
}

func (p *Provider) unitsNow(ctx context.Context) (unitsNow, error) {
	var now unitsNow
	var failed [3]error
	now.socket, failed[0] = p.active(ctx, socketU)
	now.service, failed[1] = p.active(ctx, service)
	state, err := p.state(ctx, "is-system-running")
	failed[2] = err
	starting := state == "initializing" || state == "starting"
	now.boot = p.host.Booting() || starting && !now.socket && !now.service
	return now, errs.Join(failed[:]...)
}

// startAtBoot queues the right unit and takes the wrong one out of the queue.
func (p *Provider) startAtBoot(ctx context.Context, s snapshot) error {
	right, wrong := service, socketU
	if s.SocketActive {
		right, wrong = socketU, service
	}
	return errs.Join(p.host.Systemctl(ctx, "--no-block", "stop", wrong), p.host.Systemctl(ctx, "--no-block", "start", right))
}

func (p *Provider) bringBack(ctx context.Context, s snapshot, now unitsNow) error {
	if s.SocketActive {
		// The service may hold the ports that the socket needs, or run with what is undone.
		if now.service {
			if err := p.host.Systemctl(ctx, "stop", service); err != nil {
				return err
			}
		}
		if err := p.host.Systemctl(ctx, "start", socketU); err != nil || !s.ServiceActive {
			return err
		}
		return p.host.Systemctl(ctx, "start", service)
	}
	if now.socket {
		if err := p.host.Systemctl(ctx, "stop", socketU); err != nil {
			return err
		}
	}
	if now.service {
		if err := p.host.Systemctl(ctx, "reload", service); err == nil {
			return nil
		}
	}
	// It failed, failed too often, or was stopped: each of them may be started.
	_ = p.host.Systemctl(ctx, "reset-failed", service)
	return p.host.Systemctl(ctx, "restart", service)
}
