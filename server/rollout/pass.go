package rollout

import (
	"context"
	"strings"
	"time"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// group is one wave of a pass.
type group struct {
	nodes []string
	// limit is how many of them change at once.
	limit int
	// budgets are how many of a role change at once, here and elsewhere.
	budgets map[string]uint32
}

// choice says what happens with a node now.
type choice struct {
	do verb
	// at is when a held node is looked at again; zero: at the next event.
	at time.Time
	// cast are the witnesses of a commit; nil for a pass without.
	cast *casting
}

type verb int

const (
	skip   verb = iota // not in this pass, unless something changes
	hold               // it may begin soon, and the pass waits for it
	start              // it begins now
	resume             // its task is under way already
)

// pass brings the nodes of the groups through one pass. It returns when nothing is under way and nobody is waited for, or
// when the rollout must stop and what was under way has ended.
func (x *run) pass(ctx context.Context, pass v1.Pass, groups []group) error {
	total := 0
	for _, g := range groups {
		total = max(total, g.limit)
	}
	for {
		if err := x.checkStop(ctx); err != nil {
			return x.abandon(err)
		}
		var next time.Time
		held := false
		if x.stop == 0 && !x.paused {
			var err error
			if held, next, err = x.begin(ctx, pass, groups, total); err != nil {
				return x.abandon(err)
			}
		}
		held = held || x.paused && x.pending(pass, groups)
		if len(x.active) == 0 && (!held || x.stop != 0) {
			return ctx.Err()
		}
		if err := x.next(ctx, next); err != nil {
			return x.abandon(err)
		}
	}
}

// pending reports whether a node still has the pass before it.
func (x *run) pending(pass v1.Pass, groups []group) bool {
	for _, g := range groups {
		for _, name := range g.nodes {
			if n := x.nodes[name]; n != nil && x.todo(n, pass) {
				return true
			}
		}
	}
	return false
}

// next waits for a result, an event, or a time, and settles the result.
func (x *run) next(ctx context.Context, at time.Time) error {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case res := <-x.results:
		return x.settle(ctx, res)
	case <-x.r.wake:
	case <-timer:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// abandon waits for the goroutines of tasks under way, whose tasks go on, and returns err.
func (x *run) abandon(err error) error {
	for _, w := range x.active {
		w.cancel()
	}
	for range x.active {
		<-x.results
	}
	clear(x.active)
	return err
}

// begin starts what may start. held says that a node is waited for, next when to look again without an event.
func (x *run) begin(ctx context.Context, pass v1.Pass, groups []group, total int) (held bool, next time.Time, err error) {
	look := newLookup(x.r.cfg.Fleet)
	for _, g := range groups {
		busy := 0
		for _, name := range g.nodes {
			if x.active[name] != nil {
				busy++
			}
		}
		for _, name := range g.nodes {
			n := x.nodes[name]
			if n == nil || x.active[name] != nil {
				continue
			}
			if busy >= g.limit || len(x.active) >= total || x.spent(g, name) {
				held = held || x.todo(n, pass)
				continue
			}
			c, err := x.choose(ctx, look, n, pass)
			if err != nil {
				return false, next, err
			}
			switch c.do {
			case start:
				began, err := x.start(ctx, n, pass, c)
				if err != nil {
					return false, next, err
				}
				if began {
					busy++
				}
				held = true
			case resume:
				x.goOn(ctx, n)
				busy++
			case hold:
				held = true
				if !c.at.IsZero() && (next.IsZero() || c.at.Before(next)) {
					next = c.at
				}
			}
			if x.stop != 0 {
				return held, next, nil
			}
		}
	}
	return held, next, nil
}

// spent reports whether as many nodes of a node's role are at work as may be.
func (x *run) spent(g group, name string) bool {
	role := x.view.Nodes[name].Role
	most, ok := g.budgets[role]
	if !ok {
		return false
	}
	at := uint32(0)
	for other := range x.active {
		if x.view.Nodes[other].Role == role {
			at++
		}
	}
	return at >= most
}

// choose says what happens with a node that is not at work.
func (x *run) choose(ctx context.Context, look *lookup, n *nodeRecord, pass v1.Pass) (choice, error) {
	const waiting = v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING
	_, live := x.r.cfg.Hub.Live(n.Node)
	if n.Task != nil {
		if !live {
			return choice{do: skip}, nil
		}
		return choice{do: resume}, nil
	}
	if !x.todo(n, pass) {
		return choice{do: skip}, nil
	}
	node, err := look.node(ctx, n.Node)
	if err != nil {
		return choice{}, err
	}
	if node == nil {
		x.say(n.Node, waiting, "has not enrolled yet")
		return choice{do: skip}, nil
	}
	if !live {
		x.say(n.Node, waiting, "offline; it is taken up when it connects")
		return choice{do: skip}, nil
	}
	if why := node.Held(); why != "" {
		x.say(n.Node, waiting, why)
		return choice{do: skip}, nil
	}
	if bad := x.knownBad(node, pass); bad != nil {
		return choice{do: skip}, x.refuseKnownBad(ctx, n.Node, bad)
	}
	now := x.r.cfg.Clock.Now()
	// A time that is further away was made by a clock that has been put back since.
	if wait := n.RetryAt.Sub(now); wait > 0 && wait <= 2*x.r.times.BackoffMax {
		return choice{do: hold, at: time.Now().Add(n.RetryAt.Sub(now))}, nil
	}
	if because, ok := x.locks.mayChange(n.Node, x.view.Nodes[n.Node].Critical); !ok {
		x.say(n.Node, waiting, "waits for "+because)
		return choice{do: hold}, nil
	}
	cast, err := x.caster(look).cast(ctx, n.Node, pass)
	if err != nil {
		return choice{}, err
	}
	switch {
	case len(cast.missing) > 0:
		return x.withoutWitness(n, pass, strings.Join(cast.missing, ", ")), nil
	case len(cast.busy) > 0:
		x.say(n.Node, waiting, "waits for "+strings.Join(cast.busy, ", ")+" to be at rest")
		return choice{do: hold}, nil
	}
	delete(x.alone, n.Node)
	return choice{do: start, cast: cast}, nil
}

// withoutWitness waits for witnesses with a limit that all nodes share; then the pass is made without, once: what needs no
// commit is done, and the agent stops before the commit.
func (x *run) withoutWitness(n *nodeRecord, pass v1.Pass, missing string) choice {
	message := "waits for " + missing
	if missing == operatorName {
		message = "waits for an operator to take the witness's place; keep infractl apply running"
	}
	if !x.alone[n.Node] {
		x.say(n.Node, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, message)
	}
	since, ok := x.waits[missing]
	if !ok {
		since = time.Now()
		x.waits[missing] = since
	}
	if at := since.Add(x.r.times.Patience); time.Now().Before(at) {
		return choice{do: hold, at: at}
	}
	if pass == v1.Pass_PASS_WIDEN && !x.alone[n.Node] {
		return choice{do: start}
	}
	x.say(n.Node, v1.NodeRolloutState_NODE_ROLLOUT_STATE_WAITING, message)
	return choice{do: skip}
}

func (x *run) caster(look *lookup) *caster {
	return &caster{
		view: x.view, look: look, rest: x.locks.atRest, atConsole: x.h.AtConsole,
		live:     x.r.sessionOf,
		operator: func() bool { return x.r.operatorPresent(x.id) },
	}
}

func (r *Rollouts) sessionOf(name string) (string, bool) {
	s, ok := r.cfg.Hub.Live(name)
	return s.ID, ok
}
