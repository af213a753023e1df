package enrol

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
)

// Backoff spreads retries with full jitter from the first one on, so that agents that lost one server at one moment do not
// come back at one moment.
type Backoff struct {
	// Base bounds the first wait.
	Base time.Duration
	// Max bounds every wait.
	Max time.Duration
}

// Delay returns how long to wait before try number n (0 is the first retry): at least what the server asked for in err's
// RetryInfo, and a random time.
func (b Backoff) Delay(n int, err error) time.Duration {
	limit := b.Max
	if n < 30 && b.Base<<n < b.Max {
		limit = b.Base << n
	}
	if asked := RetryAfter(err); asked > 0 {
		return asked + time.Duration(rand.Int64N(int64(asked/4+b.Base)+1))
	}
	return time.Duration(rand.Int64N(int64(limit) + 1))
}

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = 10 * time.Minute

// RetryAfter returns how long the server wants not to be asked, 0 when it does not say. It looks through the whole chain: an
// error that was turned into ours still holds the status that it came from.
func RetryAfter(err error) time.Duration {
	for ; err != nil; err = errors.Unwrap(err) {
		st, ok := err.(interface{ GRPCStatus() *status.Status })
		if !ok {
			continue
		}
		for _, d := range st.GRPCStatus().Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				return min(info.GetRetryDelay().AsDuration(), maxRetryAfter)
			}
		}
	}
	return 0
}

// Sleep waits for d, or until ctx ends and returns its error.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
