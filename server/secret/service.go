package secret

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// Limits of the length of a random value, in characters of 6 bits.
const (
	minLength     = 16
	defaultLength = 32
	maxLength     = 128
)

// alphabet has 64 characters, so that a random byte's six bits choose one without bias; all are safe in URLs and shells.
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Service is the SecretService.
type Service struct {
	v1.UnimplementedSecretServiceServer
	vault   *Vault
	deliver Deliverer
}

// NewService returns the service over a vault. deliver brings new versions to the hosts that use them.
func NewService(v *Vault, deliver Deliverer) *Service { return &Service{vault: v, deliver: deliver} }

// checkName refuses what no secret of people can be called. Those of an instance change with what knows them, and not by themselves.
func checkName(name string) error {
	if managed(name) {
		return errs.New(errs.Invalid, "secret %.80q is not one that people set", name).
			WithHint("infractl instance password NAME --database gives an instance's database new passwords, without --database its administrator")
	}
	return secret.CheckName(name)
}

// SetSecret implements v1.SecretServiceServer.
func (s *Service) SetSecret(ctx context.Context, req *v1.SetSecretRequest) (*v1.SetSecretResponse, error) {
	value := secret.New(req.GetValue())
	clear(req.Value) // the gate may still look at the request; what it sees is no secret any more
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	if err := secret.CheckValue(value); err != nil {
		return nil, err
	}
	who := access.CallerFrom(ctx).Identity.Name
	stored, id, err := s.store(ctx, req.GetName(), value, version{Operator: who}, req.GetOnlyNew())
	if err != nil {
		return nil, err
	}
	return &v1.SetSecretResponse{Secret: stored, RolloutId: id}, nil
}

// RotateSecret implements v1.SecretServiceServer. A secret that does not exist is made: the first value of a password may be random too.
func (s *Service) RotateSecret(ctx context.Context, req *v1.RotateSecretRequest) (*v1.RotateSecretResponse, error) {
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	length := req.GetLength()
	if length == 0 {
		length = defaultLength
	}
	if length < minLength || length > maxLength {
		return nil, errs.New(errs.Invalid, "a random secret has %d to %d characters, not %d", minLength, maxLength, length)
	}
	who := access.CallerFrom(ctx).Identity.Name
	stored, id, err := s.store(ctx, req.GetName(), random(int(length)), version{Operator: who, Generated: true}, false)
	if err != nil {
		return nil, err
	}
	return &v1.RotateSecretResponse{Secret: stored, RolloutId: id}, nil
}

func random(length int) secret.Value {
	raw := make([]byte, length)
	_, _ = rand.Read(raw) // it never fails
	for i, b := range raw {
		raw[i] = alphabet[b&63]
	}
	return secret.New(raw)
}

// store keeps a new version and brings it to the hosts that use it.
func (s *Service) store(ctx context.Context, name string, value secret.Value, next version, onlyNew bool) (*v1.Secret, string, error) {
	rec, err := s.vault.put(ctx, name, value, next, onlyNew)
	if err != nil {
		return nil, "", err
	}
	if w := s.vault.want(); w != nil {
		w.Changed()
	}
	uses, err := s.vault.uses(ctx)
	if err != nil {
		return nil, "", stored(name, err)
	}
	out := toProto(rec, uses[name])
	if uses[name] == nil || s.deliver == nil {
		return out, "", nil
	}
	reason := "secret " + name + " was set"
	if next.Generated {
		reason = "secret " + name + " was rotated"
	}
	id, err := s.deliver.Deliver(ctx, access.CallerFrom(ctx).Actor, reason)
	if err != nil {
		return nil, "", stored(name, err)
	}
	return out, id, nil
}

// stored says that only what comes after storing failed.
func stored(name string, err error) error {
	return errs.New(errs.CodeOf(err), "secret %s has its new value, but it is not on its way to the hosts: %w", name, err).
		WithHint("infractl apply brings it there; infractl secret list")
}

func toProto(rec record, u *use) *v1.Secret {
	cur := rec.current()
	out := &v1.Secret{Name: rec.Name, Version: cur.ID, Updated: timestamppb.New(cur.Time), Operator: cur.Operator, Generated: cur.Generated}
	if u != nil {
		out.UsedBy = u.by
	}
	return out
}

// ListSecrets implements v1.SecretServiceServer.
func (s *Service) ListSecrets(ctx context.Context, _ *v1.ListSecretsRequest) (*v1.ListSecretsResponse, error) {
	items, err := s.vault.table.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, errs.Wrap("list secrets", err)
	}
	uses, err := s.vault.uses(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.ListSecretsResponse{}
	maps.DeleteFunc(uses, func(name string, _ *use) bool { return managed(name) })
	for _, it := range items {
		if managed(it.Name) {
			continue
		}
		out.Secrets = append(out.Secrets, toProto(it.Value, uses[it.Name]))
		delete(uses, it.Name)
	}
	for name, u := range uses {
		out.Secrets = append(out.Secrets, &v1.Secret{Name: name, UsedBy: u.by, Missing: true})
	}
	slices.SortFunc(out.Secrets, func(a, b *v1.Secret) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// RemoveSecret implements v1.SecretServiceServer.
func (s *Service) RemoveSecret(ctx context.Context, req *v1.RemoveSecretRequest) (*v1.RemoveSecretResponse, error) {
	const op = "remove secret"
	if err := checkName(req.GetName()); err != nil {
		return nil, err
	}
	uses, err := s.vault.uses(ctx)
	if err != nil {
		return nil, err
	}
	if u := uses[req.GetName()]; u != nil {
		return nil, errs.New(errs.Precondition, "secret %s is used by %s", req.GetName(), strings.Join(u.by, ", ")).
			WithHint("take it out of the site first, and apply that")
	}
	it, err := s.vault.table.Get(ctx, req.GetName())
	if errs.Is(err, errs.NotFound) {
		return nil, errs.New(errs.NotFound, "there is no secret %s", req.GetName()).WithHint("infractl secret list")
	}
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	ops := []store.Op{store.Delete{Kind: KindSecret, Name: it.Name, Expect: it.Revision}}
	for _, old := range it.Value.Versions {
		ops = append(ops, store.Delete{Kind: KindValue, Name: valueName(it.Name, old.ID), Expect: store.Any})
	}
	if _, err := s.vault.cfg.Store.Write(ctx, ops...); err != nil {
		return nil, errs.Wrap(op, err)
	}
	if w := s.vault.want(); w != nil {
		w.Changed()
	}
	return &v1.RemoveSecretResponse{}, nil
}
