package app

import (
	"context"
	"path/filepath"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/secret"
)

// storeKey is the file that opens what the store keeps of secrets.
func (c *Config) storeKey() string {
	if c.StoreKey != "" {
		return c.StoreKey
	}
	return filepath.Join(c.KeyDir, "store.key")
}

func (a *App) openVault(ctx context.Context) (err error) {
	a.vault, err = secret.Open(ctx, secret.Config{Store: a.store, Nodes: a.fleet, KeyFile: a.cfg.storeKey(), Clock: a.cfg.Clock,
		Log: a.cfg.Log.Named("secrets")})
	return err
}

// wantedSpecs is the current revision as secrets and consoles see it.
type wantedSpecs struct{ revisions *revision.Revisions }

func (w wantedSpecs) derive(ctx context.Context) (*revision.Derived, error) {
	number, err := w.revisions.Current(ctx)
	if err != nil || number == 0 {
		return nil, err
	}
	return w.revisions.Derive(ctx, number)
}

// Specs implements secret.Wanted.
func (w wantedSpecs) Specs(ctx context.Context) (map[string]secret.Spec, error) {
	d, err := w.derive(ctx)
	if d == nil || err != nil {
		return nil, err
	}
	out := make(map[string]secret.Spec, len(d.Specs))
	for node, s := range d.Specs {
		out[node] = secret.Spec{Spec: s.Spec, Digest: s.Digest}
	}
	return out, nil
}

// Changed implements secret.Wanted.
func (w wantedSpecs) Changed() { w.revisions.Changed() }

// HostSpecs implements console.Wanted.
func (w wantedSpecs) HostSpecs(ctx context.Context) (map[string]*v1.HostSpec, error) {
	d, err := w.derive(ctx)
	if d == nil || err != nil {
		return nil, err
	}
	out := make(map[string]*v1.HostSpec, len(d.Specs))
	for node, s := range d.Specs {
		out[node] = s.Spec
	}
	return out, nil
}
