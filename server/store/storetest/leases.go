package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

func testLease(t *testing.T, f *fixture) {
	ctx := context.Background()
	const ttl = time.Minute
	a := must[store.Lease](t)(f.Acquire(ctx, "leader", "a", ttl))
	if want := store.Stamp(f.clock.Now().Add(ttl)); !a.Expires.Equal(want) || a.Holder != "a" || a.Token == 0 {
		t.Errorf("lease = %+v, want one of a until %s", a, want)
	}
	_, err := f.Acquire(ctx, "leader", "b", ttl)
	wantCode(t, "acquire what another has", err, errs.Conflict)
	if err == nil || !strings.Contains(err.Error(), "held by a") {
		t.Errorf("the error does not name the holder: %v", err)
	}
	must[store.Lease](t)(f.Acquire(ctx, "another", "b", ttl))

	f.clock.Advance(ttl / 2)
	if again := must[store.Lease](t)(f.Acquire(ctx, "leader", "a", ttl)); again.Token != a.Token || !again.Expires.After(a.Expires) {
		t.Errorf("acquired again: %+v, want the token of %+v and more time", again, a)
	}
	f.clock.Advance(ttl / 2)
	a = must[store.Lease](t)(f.Renew(ctx, a, ttl))

	f.clock.Advance(ttl)
	_, err = f.Renew(ctx, a, ttl)
	wantCode(t, "renew what has expired", err, errs.Conflict)
	b := must[store.Lease](t)(f.Acquire(ctx, "leader", "b", ttl))
	if b.Token <= a.Token {
		t.Errorf("token %d does not follow %d", b.Token, a.Token)
	}
	if err := f.Release(ctx, a); err != nil {
		t.Errorf("release of a lost lease: %v", err)
	}
	_, err = f.Acquire(ctx, "leader", "a", ttl)
	wantCode(t, "acquire after the loser released", err, errs.Conflict)
	if err := f.Release(ctx, b); err != nil {
		t.Fatal(err)
	}
	_, err = f.Renew(ctx, b, ttl)
	wantCode(t, "renew what was released", err, errs.Conflict)
	if c := must[store.Lease](t)(f.Acquire(ctx, "leader", "b", ttl)); c.Token <= b.Token {
		t.Errorf("token %d after a release does not follow %d", c.Token, b.Token)
	}
	_, err = f.Acquire(ctx, "leader", "", ttl)
	wantCode(t, "acquire for nobody", err, errs.Invalid)
	_, err = f.Acquire(ctx, "leader", "a", 0)
	wantCode(t, "acquire for no time", err, errs.Invalid)
}

func testLeaseRace(t *testing.T, f *fixture) {
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 20 {
		wg.Go(func() {
			_, err := f.Acquire(context.Background(), "leader", fmt.Sprintf("server-%d", i), time.Minute)
			switch {
			case err == nil:
				won.Add(1)
			case !errs.Is(err, errs.Conflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 20 got the lease", won.Load())
	}
}
