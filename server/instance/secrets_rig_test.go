package instance_test

import (
	"context"

	sec "github.com/infractl/infractl/internal/secret"
)

// faultySecrets are the vault, each call of which that changes something is a point.
type faultySecrets struct{ s *server }

func (f faultySecrets) Make(ctx context.Context, name, who string) (string, error) {
	if err := f.s.hit(ctx, "make secret"); err != nil {
		return "", err
	}
	return f.s.vault.Make(ctx, name, who)
}
func (f faultySecrets) Renew(ctx context.Context, name, who string) (string, error) {
	if err := f.s.hit(ctx, "renew secret"); err != nil {
		return "", err
	}
	return f.s.vault.Renew(ctx, name, who)
}
func (f faultySecrets) Current(ctx context.Context, name string) (string, error) {
	return f.s.vault.Current(ctx, name)
}
func (f faultySecrets) Own(ctx context.Context, name string) (sec.Value, error) {
	return f.s.vault.Own(ctx, name)
}
func (f faultySecrets) Forget(ctx context.Context, names ...string) error {
	return f.s.vault.Forget(ctx, names...)
}

func (f faultySecrets) Revert(ctx context.Context, name, version string) error {
	if err := f.s.hit(ctx, "revert secret"); err != nil {
		return err
	}
	return f.s.vault.Revert(ctx, name, version)
}
func (f faultySecrets) ForgetFormer(ctx context.Context, names ...string) error {
	if err := f.s.hit(ctx, "forget former secrets"); err != nil {
		return err
	}
	return f.s.vault.ForgetFormer(ctx, names...)
}
