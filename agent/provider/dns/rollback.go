package dns

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/strictjson"
)

// snapshot is what Rollback needs.
type snapshot struct {
	Version int         `json:"version"`
	Kind    string      `json:"kind"`
	Files   []host.File `json:"files"`
	Running bool        `json:"running,omitempty"`
}

const kind = "dns"

// Snapshot implements provider.Provider: every file that Apply may touch, as it is.
func (p *Provider) Snapshot(_ context.Context, pl plan) ([]byte, error) {
	l, err := p.look(pl.Wish.Spec)
	if err != nil {
		return nil, err
	}
	paths := append([]string{stateFile, keyFile, checkFile}, links()...)
	for _, f := range l.conf {
		paths = append(paths, f.Path, f.Path+original)
	}
	for _, z := range append(l.zones, l.begin...) {
		paths = append(paths, zoneFile(z), zoneFile(z)+beside)
	}
	paths = append(paths, l.stale...)
	s := snapshot{Version: 1, Kind: kind, Running: l.running}
	if s.Files, err = p.host.Snapshot(paths...); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Rollback implements provider.Provider. It goes on after a failure.
func (p *Provider) Rollback(ctx context.Context, data []byte) error {
	var s snapshot
	if err := strictjson.Unmarshal(data, &s); err != nil || s.Version != 1 || s.Kind != kind {
		return errs.New(errs.Invalid, "this is no snapshot of the name server: %v", err)
	}
	_, err := p.host.Restore(s.Files)
	if p.host.Booting() {
		return err // the service has not started yet
	}
	verb := "stop"
	if s.Running {
		verb = "restart"
	}
	_, started := p.host.Run(ctx, "systemctl", verb, unit)
	return errs.Join(err, started)
}

// statusSerial reads "serial: 2026112400" of rndc zonestatus.
func statusSerial(text string) (uint32, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "serial: "); ok {
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				break
			}
			return uint32(n), nil
		}
	}
	return 0, errs.New(errs.NotFound, "the name server has no serial for the zone")
}
