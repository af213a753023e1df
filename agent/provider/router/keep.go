package router

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/iptables"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// KeptFile holds what the last kept commit made: what boot and repair put back.
const KeptFile = "/var/lib/infractl/router/kept.json"

const snapshotKind = "infractl router snapshot"

// loadKept reads kept.json. Where nothing was kept, errors.Is(err, fs.ErrNotExist) holds.
func loadKept(h *host.Host) (Desired, error) {
	var d Desired
	data, err := h.ReadFile(KeptFile)
	if err != nil {
		return d, err
	}
	if err := strictjson.Unmarshal(data, &d); err != nil || d.Version != 1 {
		return Desired{}, errs.New(errs.Precondition, "what the router last kept can't be read: version %d, %w", d.Version, err).
			At(KeptFile).WithHint("what is in the kernel still stands; move the file away, and apply again")
	}
	return d, nil
}

// snapshot is all that Rollback needs. The tunnel's key is not in it: it is made once and stays where it is.
type snapshot struct {
	Kind    string          `json:"kind"`
	Version int             `json:"version"`
	NAT     *iptables.Table `json:"nat"`
	Routes  []Route         `json:"routes,omitempty"`
	Tunnels []deviceState   `json:"tunnels,omitempty"`
	Files   []host.File     `json:"files"`
}

// deviceState is an interface as it was; Tunnel is nil where there was none.
type deviceState struct {
	Device string  `json:"device"`
	Tunnel *Tunnel `json:"tunnel,omitempty"`
}

// Snapshot implements provider.Provider.
func (p *Provider) Snapshot(ctx context.Context, pl plan) ([]byte, error) {
	s := snapshot{Kind: snapshotKind, Version: 1}
	old, want, err := p.target(pl.Wish)
	if err != nil {
		return nil, errs.Wrap("snapshot router", err)
	}
	now, err := readNAT(ctx, p.host)
	if err != nil {
		return nil, errs.Wrap("snapshot router", err)
	}
	ours := now.Ours()
	s.NAT = &ours
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return nil, errs.Wrap("snapshot router", err)
	}
	s.Routes = l.staticRoutes()
	for _, device := range devices(old, want) {
		live, err := readTunnel(ctx, p.host, l, device)
		if err != nil {
			return nil, errs.Wrap("snapshot router", err)
		}
		state := deviceState{Device: device}
		if live != nil {
			state.Tunnel = &live.Tunnel
		}
		s.Tunnels = append(s.Tunnels, state)
	}
	if s.Files, err = p.host.Snapshot(KeptFile, unitFile, unitLink); err != nil {
		return nil, errs.Wrap("snapshot router", err)
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure. While the host boots only files and translations are put
// back: interfaces and routes come later, from kept.json.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil {
		return errs.New(errs.Invalid, "this is no snapshot of the router: %w", err)
	}
	if s.Kind != snapshotKind || s.Version != 1 || s.NAT == nil {
		return errs.New(errs.Invalid, "this is no snapshot of the router: kind %q, version %d", s.Kind, s.Version)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	failed := []error{iptables.BringBack(ctx, p.host, iptables.NAT(), iptables.V4, *s.NAT)}
	if !p.host.Booting() {
		failed = append(failed, p.routesBack(ctx, s.Routes))
		// What has to go first: one unit makes the interface, whatever its name.
		for _, gone := range []bool{true, false} {
			for _, t := range s.Tunnels {
				if (t.Tunnel == nil) == gone {
					failed = append(failed, p.tunnelBack(ctx, t))
				}
			}
		}
	}
	changed, err := p.host.Restore(s.Files)
	failed = append(failed, err)
	if changed && !p.host.Booting() && len(s.Tunnels) > 0 {
		failed = append(failed, p.host.Systemctl(ctx, "daemon-reload"))
	}
	return errs.Wrap("roll back router", errors.Join(failed...))
}

// routesBack makes the marked routes those of the snapshot.
func (p *Provider) routesBack(ctx context.Context, was []Route) error {
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return err
	}
	now := l.staticRoutes()
	drop := slices.DeleteFunc(slices.Clone(now), func(r Route) bool { return slices.Contains(was, r) })
	set := slices.DeleteFunc(slices.Clone(was), func(r Route) bool { return slices.Contains(now, r) })
	return setRoutes(ctx, p.host, set, drop)
}

func (p *Provider) tunnelBack(ctx context.Context, was deviceState) error {
	l, err := readLinks(ctx, p.host)
	if err != nil {
		return err
	}
	if was.Tunnel == nil {
		if !l.exists(was.Device) && !hasUnit(p.host, was.Device) {
			return nil
		}
		return removeTunnel(ctx, p.host, was.Device)
	}
	live, err := readTunnel(ctx, p.host, l, was.Device)
	if err != nil {
		return err
	}
	return installTunnel(ctx, p.host, was.Tunnel, live)
}
