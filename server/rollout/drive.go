package rollout

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// maxWindow bounds how long a drive looks, whatever an agent says about the time that remains.
const maxWindow = 10 * time.Minute

// drive makes the witnesses of one commit look until all have seen their way open or the window has ended. It lives in
// memory: a restarted server begins a new one at the agent's next question.
type drive struct {
	r        *Rollouts
	deadline time.Time
	expire   *time.Timer

	mu      sync.Mutex
	rec     commitRecord
	changed chan struct{} // closed and replaced at each change
	// closed is the last that witnesses saw of ways that did not open, by need. A witness that did not answer saw nothing.
	closed map[string]string
}

// startDrive returns the drive of a commit, and begins it if need be.
func (r *Rollouts) startDrive(rec commitRecord, remaining time.Duration) *drive {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.drives[rec.ID]; d != nil {
		return d
	}
	d := &drive{
		r: r, rec: rec, deadline: time.Now().Add(min(remaining, maxWindow)), changed: make(chan struct{}), closed: map[string]string{},
	}
	r.drives[rec.ID] = d
	// It says that the agent did ask, so it stays until the result is in, or never comes.
	d.expire = time.AfterFunc(until(d.deadline)+r.times.TaskLife, func() { r.endDrive(rec.ID) })
	go d.run()
	return d
}

func (r *Rollouts) driveOf(id string) *drive {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drives[id]
}

// endDrive forgets the drive of a commit; there is none when the agent never asked.
func (r *Rollouts) endDrive(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.drives[id]; d != nil {
		d.expire.Stop()
		delete(r.drives, id)
	}
}

func (d *drive) run() {
	ctx, cancel := context.WithDeadline(context.Background(), d.deadline)
	defer cancel()
	d.mu.Lock()
	rec := d.rec
	d.mu.Unlock()
	if len(rec.waitingFor()) == 0 {
		d.put(ctx, nil)
	}
	var looks sync.WaitGroup
	var asks []need
	for _, n := range rec.Needs {
		switch {
		case n.Report != nil:
		case n.From == "":
			asks = append(asks, n)
		default:
			looks.Go(func() { d.look(ctx, n) })
		}
	}
	if len(asks) > 0 {
		looks.Go(func() { d.ask(ctx, asks) })
	}
	looks.Wait()
}

// look makes one witness look until it sees its way open.
func (d *drive) look(ctx context.Context, n need) {
	for try := 0; ; try++ {
		open, saw, detail := d.r.probe(ctx, n, try, d.deadline)
		if open {
			d.put(ctx, map[string]report{n.ID: {By: n.From, Detail: detail, Time: d.r.cfg.Clock.Now().UTC()}})
			return
		}
		d.mu.Lock()
		if saw {
			d.closed[n.ID] = detail
		}
		done := decided(&d.rec) != nil
		d.mu.Unlock()
		if done || !pause(ctx, d.r.times.ProbeRetry) {
			return
		}
	}
}

// sawClosed returns what the witness of a need last saw of a way that did not open; ok is false when it saw nothing.
func (d *drive) sawClosed(need string) (detail string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	detail, ok = d.closed[need]
	return detail, ok
}

// ask asks the operators that watch, again and again until one has reported.
func (d *drive) ask(ctx context.Context, needs []need) {
	timeout := durationpb.New(d.r.times.ProbeTimeout)
	for try := 0; ; try++ {
		req := &v1.WitnessRequest{CommitId: d.rec.ID, Node: d.rec.Node}
		d.mu.Lock()
		for _, n := range needs {
			for _, have := range d.rec.Needs {
				if have.ID == n.ID && have.Report == nil {
					req.Probes = append(req.Probes, n.probe(try, timeout))
				}
			}
		}
		done := decided(&d.rec) != nil
		d.mu.Unlock()
		if done || len(req.Probes) == 0 {
			return
		}
		d.r.askOperator(d.rec.Rollout, req)
		if !pause(ctx, d.r.times.OperatorRetry) {
			return
		}
	}
}

// put stores reports and tells those that wait.
func (d *drive) put(ctx context.Context, reports map[string]report) {
	for {
		rec, err := d.r.store(ctx, d.rec.ID, reports)
		if err == nil {
			d.set(rec)
			return
		}
		d.r.cfg.Log.Error("could not store a witness's report", "commit", d.rec.ID, "error", err)
		if !pause(ctx, d.r.times.ProbeRetry) {
			return
		}
	}
}

func (d *drive) set(rec commitRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(rec.waitingFor()) > len(d.rec.waitingFor()) {
		return // an older picture
	}
	// The identity never changes, and is read without the lock.
	d.rec.Needs, d.rec.Confirmed, d.rec.Refused, d.rec.Outcome = rec.Needs, rec.Confirmed, rec.Refused, rec.Outcome
	close(d.changed)
	d.changed = make(chan struct{})
}

// wait answers when the commit is decided, or says after d for whom it waits.
func (d *drive) wait(ctx context.Context, most time.Duration) (*v1.ConfirmResponse, error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		d.mu.Lock()
		answer, waiting, changed := decided(&d.rec), d.rec.waitingFor(), d.changed
		d.mu.Unlock()
		if answer != nil {
			return answer, nil
		}
		select {
		case <-changed:
			continue
		case <-ctx.Done():
			return nil, errs.Wrap("confirm", ctx.Err())
		case <-timer.C:
		}
		// The revision may have changed while nobody reported.
		rec, err := d.r.store(ctx, d.rec.ID, nil)
		if err != nil {
			return nil, err
		}
		d.set(rec)
		if answer := decided(&rec); answer != nil {
			return answer, nil
		}
		return &v1.ConfirmResponse{Decision: v1.ConfirmDecision_CONFIRM_DECISION_PENDING, WaitingFor: waiting}, nil
	}
}

// probe makes a witness open one way, once. saw says that it did look, whatever it found.
func (r *Rollouts) probe(ctx context.Context, n need, try int, notAfter time.Time) (open, saw bool, detail string) {
	timeout := min(r.times.ProbeTimeout, until(notAfter))
	ctx, cancel := context.WithTimeout(ctx, timeout+2*time.Second)
	defer cancel()
	task := &v1.Task{
		Id: "probe-" + randomHex(8), NotAfter: timestamppb.New(r.cfg.Clock.Now().Add(timeout)),
		Work: &v1.Task_Probe{Probe: &v1.ProbeTask{Probes: []*v1.Probe{n.probe(try, durationpb.New(timeout))}}},
	}
	res, err := r.cfg.Hub.Do(ctx, n.From, task, nil)
	if err != nil {
		return false, false, clip(err.Error())
	}
	if e := res.GetError(); e != nil {
		return false, false, clip(e.GetMessage())
	}
	for _, o := range res.GetProbe().GetObservations() {
		if o.GetId() == n.ID {
			return opened(n.Kind, o.GetOutcome()), o.GetOutcome() != 0, clip(outcomeWord(o.GetOutcome()) + " " + o.GetDetail())
		}
	}
	return false, false, "the witness did not report"
}

// opened reports whether what a probe saw proves the way. For a mere connection a refusal does too.
func opened(kind v1.ProbeKind, o v1.ProbeOutcome) bool {
	switch o {
	case v1.ProbeOutcome_PROBE_OUTCOME_OPEN:
		return true
	case v1.ProbeOutcome_PROBE_OUTCOME_REFUSED:
		return kind == v1.ProbeKind_PROBE_KIND_TCP || kind == v1.ProbeKind_PROBE_KIND_UDP
	}
	return false
}
