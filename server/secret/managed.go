package secret

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	"github.com/infractl/infractl/server/store"
)

// managedLength is the length of a managed secret: 142 bits.
const managedLength = 24

// base62 can stand unquoted in every file that has to hold a secret: shell, PHP, SQL, a URL.
const base62 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// managed reports whether a secret belongs to something that the server keeps, such as an instance: no person sets, lists or removes it.
// Names of people's secrets have no slash.
func managed(name string) bool { return strings.Contains(name, "/") }

// Make returns the current version of a managed secret; one that does not exist is made first. It may be called again after a crash.
func (v *Vault) Make(ctx context.Context, name, operator string) (version string, err error) {
	for {
		it, err := v.table.Get(ctx, name)
		if err == nil {
			return it.Value.current().ID, nil
		}
		if !errs.Is(err, errs.NotFound) {
			return "", errs.Wrap("read secret", err)
		}
		id, err := v.newManaged(ctx, name, operator, true)
		if !errs.Is(err, errs.Exists) {
			return id, err
		}
	}
}

// Current returns the current version of a secret; NotFound when there is none.
func (v *Vault) Current(ctx context.Context, name string) (version string, err error) {
	it, err := v.table.Get(ctx, name)
	if err != nil {
		return "", errs.Wrap("read secret", err)
	}
	return it.Value.current().ID, nil
}

// Renew gives a managed secret a new random value and returns its version. The former one stays for a while.
func (v *Vault) Renew(ctx context.Context, name, operator string) (version string, err error) {
	return v.newManaged(ctx, name, operator, false)
}

func (v *Vault) newManaged(ctx context.Context, name, operator string, onlyNew bool) (string, error) {
	if !managed(name) {
		return "", errs.New(errs.Internal, "%s is no managed secret", name)
	}
	rec, err := v.put(ctx, name, randomBase62(managedLength), version{Operator: operator, Generated: true}, onlyNew)
	if err != nil {
		return "", err
	}
	return rec.current().ID, nil
}

// Revert makes a former version of a managed secret the current one again, and forgets those that came after it. It may be called again
// after a crash. Precondition when that version is forgotten already.
func (v *Vault) Revert(ctx context.Context, name, to string) error {
	return v.keep(ctx, name, func(versions []version) ([]version, error) {
		at := slices.IndexFunc(versions, func(have version) bool { return have.ID == to })
		if at < 0 {
			return nil, errs.New(errs.Precondition, "version %.80q of secret %s is forgotten", to, name)
		}
		kept := slices.Clone(versions[:at+1])
		kept[at].Replaced = time.Time{}
		return kept, nil
	})
}

// ForgetFormer forgets all versions of managed secrets but the current ones.
func (v *Vault) ForgetFormer(ctx context.Context, names ...string) error {
	for _, name := range names {
		err := v.keep(ctx, name, func(versions []version) ([]version, error) { return versions[len(versions)-1:], nil })
		if err != nil {
			return err
		}
	}
	return nil
}

// keep keeps those versions of a managed secret that choose returns, and forgets the others.
func (v *Vault) keep(ctx context.Context, name string, choose func([]version) ([]version, error)) error {
	const op = "forget versions of a secret"
	for {
		it, err := v.table.Get(ctx, name)
		if err != nil {
			return errs.Wrap(op, err)
		}
		rec, all := it.Value, it.Value.Versions
		if rec.Versions, err = choose(all); err != nil {
			return errs.Wrap(op, err)
		}
		if len(rec.Versions) == len(all) {
			return nil
		}
		head, err := v.table.PutOp(name, rec, it.Revision)
		if err != nil {
			return errs.Wrap(op, err)
		}
		ops := []store.Op{head}
		for _, old := range all {
			if !slices.ContainsFunc(rec.Versions, func(have version) bool { return have.ID == old.ID }) {
				ops = append(ops, store.Delete{Kind: KindValue, Name: valueName(name, old.ID), Expect: store.Any})
			}
		}
		_, err = v.cfg.Store.Write(ctx, ops...)
		if !errs.Is(err, errs.Conflict) {
			return errs.Wrap(op, err)
		}
	}
}

// Forget removes managed secrets with all their versions, for good; absent ones are no error.
func (v *Vault) Forget(ctx context.Context, names ...string) error {
	for _, name := range names {
		it, err := v.table.Get(ctx, name)
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return errs.Wrap("remove secret", err)
		}
		ops := []store.Op{store.Delete{Kind: KindSecret, Name: name, Expect: it.Revision}}
		for _, old := range it.Value.Versions {
			ops = append(ops, store.Delete{Kind: KindValue, Name: valueName(name, old.ID), Expect: store.Any})
		}
		if _, err := v.cfg.Store.Write(ctx, ops...); err != nil {
			return errs.Wrap("remove secret", err)
		}
	}
	return nil
}

// randomBase62 returns random characters; bytes that would make some of them likelier are thrown away.
func randomBase62(length int) secret.Value {
	out := make([]byte, 0, length)
	raw := make([]byte, 2*length)
	for len(out) < length {
		_, _ = rand.Read(raw) // it never fails
		for _, b := range raw {
			if b < 4*62 && len(out) < length {
				out = append(out, base62[b%62])
			}
		}
	}
	clear(raw)
	return secret.New(out)
}
