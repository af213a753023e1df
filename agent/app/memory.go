package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// lookAtMemory is how often the agent looks whether it has come to rest.
const lookAtMemory = 2 * time.Second

// saveMemory trades a little time for a small resident set: the agent is idle nearly always, on machines that are not ours. Until
// ctx ends, what a burst of work needed goes back to the kernel as soon as it is over; Go alone would take minutes.
func saveMemory(ctx context.Context) {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)
	tick := time.NewTicker(lookAtMemory)
	defer tick.Stop()
	rest := rester{release: debug.FreeOSMemory}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			rest.look(collections())
		}
	}
}

// rester calls release once after each burst of collections.
type rester struct {
	release      func()
	seen, served uint64
}

// look is told how many collections there were until now, those that release makes included.
func (r *rester) look(now uint64) {
	moved := now != r.seen
	r.seen = now
	if moved || now == r.served {
		return
	}
	r.release()
	r.seen = now + 1 // release is a collection too
	r.served = r.seen
}

// collections is how many garbage collections there were.
func collections() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
