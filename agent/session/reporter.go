package session

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// factsEvery is how often facts are read while nothing happens.
const factsEvery = time.Minute

// reporter makes reports: only the parts that changed since the last one of the session.
type reporter struct {
	read  func(context.Context) *v1.HostFacts
	state func() *v1.HostState
	// containers is how the stacks were at the last look; nil on a host without.
	containers func() *v1.ContainersReport
	// observed are clock and router; nil on a probe.
	observed Observed

	mu         sync.Mutex
	facts      *v1.HostFacts
	taken      time.Time
	readingNow bool
	readAgain  bool
	// Of the present session:
	sequence uint64
	sent     map[string][sha256.Size]byte
}

// refresh reads the facts again if they are older than limit. It reports whether they were read.
func (r *reporter) refresh(ctx context.Context, limit time.Duration) bool {
	r.mu.Lock()
	if r.readingNow || (r.facts != nil && time.Since(r.taken) < limit) {
		r.readAgain = r.readAgain || limit == 0 // what is being read may be older than the change
		r.mu.Unlock()
		return false
	}
	r.readingNow = true
	r.mu.Unlock()
	for {
		facts := r.read(ctx)
		if facts != nil {
			validText(facts)
		}
		r.mu.Lock()
		if ctx.Err() != nil { // it was cut short and may have gaps
			r.readingNow, r.taken = false, time.Time{}
			r.mu.Unlock()
			return false
		}
		r.facts, r.taken = facts, time.Now()
		again := r.readAgain
		r.readAgain, r.readingNow = false, again
		r.mu.Unlock()
		if !again {
			return true
		}
	}
}

// restart makes the next report the first of a session: with all parts.
func (r *reporter) restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence, r.sent = 0, map[string][sha256.Size]byte{}
}

// full makes the next report have all parts.
func (r *reporter) full() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = map[string][sha256.Size]byte{}
}

// next returns the next report, nil when nothing changed.
func (r *reporter) next() *v1.ConnectRequest {
	state := r.state()
	var stacks *v1.ContainersReport
	if r.containers != nil {
		stacks = r.containers()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	report := &v1.Report{}
	if r.facts != nil && r.changed("facts", r.facts) {
		report.Facts = r.facts
	}
	if state != nil && r.changed("state", state) {
		report.State = state
	}
	if stacks != nil && r.changed("containers", stacks) {
		report.Containers = stacks
	}
	r.observe(report)
	if report.Facts == nil && report.State == nil && report.Containers == nil && report.Clock == nil && report.Router == nil {
		return nil
	}
	r.sequence++
	report.Sequence = r.sequence
	return &v1.ConnectRequest{Message: &v1.ConnectRequest_Report{Report: report}}
}

// observe adds clock and router.
func (r *reporter) observe(report *v1.Report) {
	if r.observed == nil {
		return
	}
	if c := r.observed.Clock(); c != nil && r.changed("clock", c) {
		report.Clock = c
	}
	if n := r.observed.Router(); n != nil && r.changed("router", n) {
		report.Router = n
	}
}

func (r *reporter) changed(part string, m proto.Message) bool {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return true
	}
	digest := sha256.Sum256(data)
	if r.sent[part] == digest {
		return false
	}
	r.sent[part] = digest
	return true
}
