package sqlite

import (
	"context"
	"time"

	"github.com/infractl/infractl/server/store"
)

// Acquire implements store.Leases.
func (s *Store) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (store.Lease, error) {
	if err := store.CheckLease(name, holder, ttl); err != nil {
		return store.Lease{}, err
	}
	var got store.Lease
	err := s.submit(ctx, 0, func(tx *txn) error {
		have, err := tx.lease(name)
		if err != nil {
			return err
		}
		valid := have.Holder != "" && tx.now.Before(have.Expires)
		if valid && have.Holder != holder {
			return store.HeldBy(have, tx.now)
		}
		got = store.Lease{Name: name, Holder: holder, Token: have.Token, Expires: store.Stamp(tx.now.Add(ttl))}
		if !valid {
			got.Token++
		}
		return tx.putLease(got)
	})
	if err != nil {
		return store.Lease{}, err
	}
	return got, nil
}

// Renew implements store.Leases.
func (s *Store) Renew(ctx context.Context, lease store.Lease, ttl time.Duration) (store.Lease, error) {
	if err := store.CheckLease(lease.Name, lease.Holder, ttl); err != nil {
		return store.Lease{}, err
	}
	got := lease
	err := s.submit(ctx, 0, func(tx *txn) error {
		have, err := tx.lease(lease.Name)
		if err != nil {
			return err
		}
		if have.Holder != lease.Holder || have.Token != lease.Token || !tx.now.Before(have.Expires) {
			return store.LostLease(lease)
		}
		got.Expires = store.Stamp(tx.now.Add(ttl))
		return tx.putLease(got)
	})
	if err != nil {
		return store.Lease{}, err
	}
	return got, nil
}

// Release implements store.Leases.
func (s *Store) Release(ctx context.Context, lease store.Lease) error {
	if err := store.CheckLease(lease.Name, lease.Holder, 1); err != nil {
		return err
	}
	return s.submit(ctx, 0, func(tx *txn) error {
		have, err := tx.lease(lease.Name)
		if err != nil || have.Holder != lease.Holder || have.Token != lease.Token {
			return err
		}
		have.Holder = ""
		return tx.putLease(have)
	})
}

func (t *txn) lease(name string) (store.Lease, error) {
	l := store.Lease{Name: name}
	var expires int64
	_, err := t.row(`SELECT holder, token, expires FROM leases WHERE name = ?`, []any{name}, &l.Holder, &l.Token, &expires)
	l.Expires = stamp(expires)
	return l, err
}

func (t *txn) putLease(l store.Lease) error {
	_, err := t.exec(`INSERT INTO leases (name, holder, token, expires) VALUES (?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = excluded.token, expires = excluded.expires`,
		l.Name, l.Holder, l.Token, l.Expires.UnixMicro())
	return err
}
