package session

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/errs"
)

// EnrolmentLimits bound the calls of the enrolment listener, in calls a second and calls at once. A whole site may stand
// behind one address, so that the limit per address is not tight.
type EnrolmentLimits struct {
	PerAddress      float64
	PerAddressBurst int
	Total           float64
	TotalBurst      int
}

func (l *EnrolmentLimits) setDefaults() {
	if l.PerAddress == 0 {
		l.PerAddress, l.PerAddressBurst = 20, 60
	}
	if l.Total == 0 {
		l.Total, l.TotalBurst = 100, 300
	}
}

// When a machine is told to come back that called too often, or found the pending lane full.
const (
	retryRate = 3 * time.Second
	retryFull = time.Minute
)

// retryLater returns err as gRPC sends it, with the time after which to try again; agents add jitter of their own.
func retryLater(err error, after time.Duration) error {
	sent := errs.ToGRPC(err)
	st, derr := status.Convert(sent).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if derr != nil {
		return sent
	}
	return st.Err()
}

// maxAddresses is how many addresses the limiter remembers.
const maxAddresses = 10000

// limiter counts calls per address and in total.
type limiter struct {
	cfg   EnrolmentLimits
	total *rate.Limiter

	mu  sync.Mutex
	per map[string]*rate.Limiter
}

func newLimiter(cfg EnrolmentLimits) *limiter {
	return &limiter{cfg: cfg, total: rate.NewLimiter(rate.Limit(cfg.Total), cfg.TotalBurst),
		per: make(map[string]*rate.Limiter)}
}

// allow returns Exhausted when address, or everybody together, calls too often.
func (l *limiter) allow(address string) error {
	now := time.Now()
	l.mu.Lock()
	one := l.per[address]
	if one == nil {
		if len(l.per) >= maxAddresses {
			l.forget(now)
		}
		one = rate.NewLimiter(rate.Limit(l.cfg.PerAddress), l.cfg.PerAddressBurst)
		l.per[address] = one
	}
	l.mu.Unlock()
	if !one.AllowN(now, 1) {
		return errs.New(errs.Exhausted, "too many calls from this address").WithHint("the agent tries again by itself")
	}
	if !l.total.AllowN(now, 1) {
		return errs.New(errs.Exhausted, "too many machines enrol at once").WithHint("the agent tries again by itself")
	}
	return nil
}

// forget drops the addresses that have not called for a while: their limiters are full again.
func (l *limiter) forget(now time.Time) {
	for a, one := range l.per {
		if one.TokensAt(now) >= float64(l.cfg.PerAddressBurst) {
			delete(l.per, a)
		}
	}
	if len(l.per) >= maxAddresses {
		clear(l.per)
	}
}
