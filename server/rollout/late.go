package rollout

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/fleet"
)

// linger waits, after the passes, for nodes that may still come. more says that there is something to do again.
func (x *run) linger(ctx context.Context) (more bool, err error) {
	deadline := time.Now().Add(x.r.times.Patience)
	for {
		if err := x.checkStop(ctx); err != nil || x.stop != 0 {
			return false, err
		}
		if x.paused {
			x.r.await(ctx, 0)
			if err := ctx.Err(); err != nil {
				return false, err
			}
			deadline = time.Now().Add(x.r.times.Patience)
			continue
		}
		widen, narrow, hopeful, err := x.late(ctx)
		if err != nil {
			return false, err
		}
		if len(widen) > 0 {
			return true, x.addWaves(ctx, widen)
		}
		if narrow {
			return true, nil
		}
		if !hopeful || !time.Now().Before(deadline) {
			return false, nil
		}
		x.r.await(ctx, min(until(deadline)+time.Millisecond, x.r.times.BackoffMin))
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
}

// late returns the nodes that could begin pass 1 now, whether one could begin pass 2, and whether it makes sense to wait.
func (x *run) late(ctx context.Context) (widen []string, narrow, hopeful bool, err error) {
	look := newLookup(x.r.cfg.Fleet)
	for _, name := range x.order {
		n := x.nodes[name]
		for _, pass := range []v1.Pass{v1.Pass_PASS_WIDEN, v1.Pass_PASS_NARROW} {
			if n.Task == nil && !x.todo(n, pass) {
				continue
			}
			c, err := x.choose(ctx, look, n, pass)
			if err != nil {
				return nil, false, false, err
			}
			ready := c.do == start || c.do == resume
			node, err := look.node(ctx, name)
			if err != nil {
				return nil, false, false, err
			}
			hopeful = hopeful || node != nil
			narrow = narrow || ready && (pass == v1.Pass_PASS_NARROW || c.do == resume)
			if ready && pass == v1.Pass_PASS_WIDEN && c.do == start {
				widen = append(widen, name)
			}
			break
		}
	}
	return widen, narrow, hopeful, nil
}

// addWaves gives nodes that missed their wave one of their own.
func (x *run) addWaves(ctx context.Context, names []string) error {
	extra := wavesFrom(x.view.Waves(names))
	x.mu.Lock()
	for i := range x.h.Waves {
		x.h.Waves[i].Nodes = slices.DeleteFunc(slices.Clone(x.h.Waves[i].Nodes), func(n string) bool { return slices.Contains(names, n) })
	}
	last := uint32(0)
	for _, w := range x.h.Waves {
		last = max(last, w.Number)
	}
	x.h.Waves = slices.DeleteFunc(x.h.Waves, func(w wave) bool { return len(w.Nodes) == 0 })
	for i, w := range extra {
		w.Number, w.Reason = last+uint32(i)+1, "late: could not be changed in their wave"
		x.h.Waves = append(x.h.Waves, w)
		for _, name := range w.Nodes {
			x.nodes[name].Wave = w.Number
			x.dirty[name] = true
		}
	}
	waves := slices.Clone(x.h.Waves)
	x.mu.Unlock()
	if err := x.flush(ctx); err != nil {
		return err
	}
	_, err := x.r.headers.Update(ctx, x.id, func(h *header) error {
		h.Waves = waves
		return nil
	})
	return errs.Wrap("store rollout", err)
}

// reconciler begins a rollout for nodes that are behind while none is at work: new ones, and those that were away.
type reconciler struct {
	r *Rollouts
	// looked is when it last looked, seen what it saw then and since when.
	looked time.Time
	seen   string
	since  time.Time
	// tried says in what situation a node was last tried, and when.
	tried map[string]trial
}

type trial struct {
	situation string
	time      time.Time
}

func newReconciler(r *Rollouts) *reconciler { return &reconciler{r: r, tried: map[string]trial{}} }

// look begins a rollout when nodes are behind and the fleet has been quiet for a moment. It returns when to look again
// without an event, 0 for never.
func (c *reconciler) look(ctx context.Context) (time.Duration, error) {
	settle := c.r.times.Settle
	if rest := settle - time.Since(c.looked); rest > 0 {
		return rest, nil
	}
	c.looked = time.Now()
	last, ok, err := c.r.newestPlain(ctx)
	if err != nil || !ok {
		return 0, err
	}
	newest, _, err := c.r.newest(ctx)
	if err != nil {
		return 0, err
	}
	current, err := c.r.cfg.Revisions.Current(ctx)
	if err != nil {
		return 0, err
	}
	// A halted rollout is not taken up behind the operator's back, nor is a revision that nobody has begun to roll out.
	if last.Revision != current || held(last.State) || held(newest.State) {
		return 0, nil
	}
	view, err := c.r.cfg.Revisions.View(ctx, current)
	if err != nil {
		c.r.cfg.Log.Warn("cannot tell which nodes are behind", "error", err)
		return c.r.times.LateRetry, nil
	}
	behind, situations, err := c.behind(ctx, last, view)
	if err != nil {
		return 0, err
	}
	if len(behind) == 0 {
		c.seen = ""
		return c.r.times.LateRetry, nil
	}
	if seen := strings.Join(behind, " "); seen != c.seen {
		c.seen, c.since = seen, time.Now()
	}
	if time.Since(c.since) < settle {
		return settle, nil
	}
	c.seen = ""
	for name, situation := range situations {
		c.tried[name] = trial{situation: situation, time: time.Now()}
	}
	_, err = c.r.Start(ctx, StartRequest{Revision: current, Operator: "system", Nodes: behind, automatic: true, scope: last.Scope})
	return settle, err
}

// behind returns the nodes that are not what the view wants and could begin now, in a situation that they were not tried in
// lately.
func (c *reconciler) behind(ctx context.Context, last header, view *View) ([]string, map[string]string, error) {
	nodes, err := c.r.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return nil, nil, errs.Wrap("read fleet", err)
	}
	x := &run{r: c.r, view: view, known: map[string]known{}, locks: newLocks()}
	look := newLookup(c.r.cfg.Fleet)
	for i := range nodes {
		if n := &nodes[i]; !n.IsRevoked() {
			x.known[n.Name] = known{everKept: everKept(n), widened: n.State.M.GetWidenedDigest(), narrowed: n.State.M.GetNarrowedDigest()}
			look.seen[n.Name] = n
		}
	}
	// Nobody watches yet; without an operator a node that needs one waits.
	cast := &caster{view: view, look: look, rest: x.locks.atRest, live: c.r.sessionOf, operator: func() bool { return false }}
	laggards := x.laggards()
	var behind []string
	situations := map[string]string{}
	for _, name := range view.Order {
		node := look.seen[name]
		session, live := c.r.sessionOf(name)
		if node == nil || !live || node.Held() != "" {
			continue
		}
		if len(last.Scope) > 0 && !slices.Contains(last.Scope, name) && (everKept(node) || node.State.M.GetSpecDigest() != "") {
			continue // the operator left it out; a new node is taken up all the same
		}
		late, err := c.isBehind(ctx, view.Nodes[name].Digest, node, laggards)
		if err != nil {
			return nil, nil, err
		}
		if !late || x.knownBad(node, v1.Pass_PASS_WIDEN) != nil || x.knownBad(node, v1.Pass_PASS_NARROW) != nil {
			continue
		}
		chosen, err := cast.cast(ctx, name, v1.Pass_PASS_WIDEN)
		if err != nil {
			return nil, nil, err
		}
		if len(chosen.missing) > 0 {
			continue
		}
		situation := view.Nodes[name].Digest + " " + session
		for _, n := range chosen.needs {
			situation += " " + n.Session
		}
		if t, ok := c.tried[name]; ok && t.situation == situation && time.Since(t.time) < c.r.times.LateRetry {
			continue
		}
		behind = append(behind, name)
		situations[name] = situation
	}
	return behind, situations, nil
}

// isBehind reports whether a node is not all that it should be. One that was narrowed with laggards which still lag is.
func (c *reconciler) isBehind(ctx context.Context, digest string, node *fleet.Node, laggards []string) (bool, error) {
	s := node.State.M
	if s.GetWidenedDigest() != digest {
		return true, nil
	}
	if s.GetNarrowedDigest() == digest {
		return false, nil
	}
	it, err := c.r.standings.Get(ctx, node.Name)
	if errs.Is(err, errs.NotFound) {
		return true, nil
	}
	if err != nil {
		return false, errs.Wrap("read standing of "+node.Name, err)
	}
	stands := it.Value.Digest == digest && len(it.Value.Laggards) > 0 &&
		!slices.ContainsFunc(it.Value.Laggards, func(l string) bool { return !slices.Contains(laggards, l) })
	return !stands, nil
}
