package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// soak watches the nodes of a wave that this rollout changed, before the next wave begins. One that drifts, degrades or goes
// away meanwhile halts the rollout. When it ends is stored, so that a restarted server neither forgets nor repeats it.
func (x *run) soak(ctx context.Context, w wave) error {
	if w.Soak == 0 || w.Number <= x.h.Soaked || x.stop != 0 {
		return nil
	}
	nodes := x.changedIn(w)
	if len(nodes) == 0 {
		return nil
	}
	if x.h.SoakUntil.IsZero() {
		if err := x.beginSoak(ctx, w, nodes); err != nil {
			return err
		}
	}
	s := &soaking{x: x, nodes: nodes, away: map[string]time.Time{}}
	for {
		if err := x.checkStop(ctx); err != nil || x.stop != 0 {
			return err
		}
		over := !x.r.cfg.Clock.Now().Before(x.h.SoakUntil)
		steady, err := s.look(ctx, over)
		if err != nil || x.stop != 0 {
			return err
		}
		if over && steady {
			return x.store(ctx, func(h *header) { h.Soaked, h.SoakUntil = w.Number, time.Time{} })
		}
		wait := x.r.times.SoakLook
		if rest := x.h.SoakUntil.Sub(x.r.cfg.Clock.Now()); rest > 0 {
			wait = min(wait, rest)
		}
		x.r.await(ctx, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// changedIn returns the nodes of a wave that this rollout changed and that kept it.
func (x *run) changedIn(w wave) []string {
	var out []string
	for _, name := range w.Nodes {
		if n := x.nodes[name]; n != nil && n.Tasks > n.Retried && n.WidenDigest == x.view.Nodes[name].Digest && n.State != v1.NodeRolloutState_NODE_ROLLOUT_STATE_FAILED {
			out = append(out, name)
		}
	}
	return out
}

// beginSoak stores what the hosts look like now, and until when they are watched.
func (x *run) beginSoak(ctx context.Context, w wave, nodes []string) error {
	for _, name := range nodes {
		picture, err := x.picture(ctx, name)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			picture = "" // it is away; whether it comes back is seen soon enough
		}
		if err := x.update(ctx, name, func(n *nodeRecord) { n.Picture = picture }); err != nil {
			return err
		}
	}
	until := x.r.cfg.Clock.Now().Add(w.Soak).UTC()
	return x.store(ctx, func(h *header) { h.SoakUntil = until })
}

// picture identifies what differs between a host and its wish. After pass 1 that is what pass 2 will close, and it does not
// change by itself.
func (x *run) picture(ctx context.Context, name string) (string, error) {
	vn := x.view.Nodes[name]
	ctx, cancel := context.WithTimeout(ctx, x.r.times.Survey)
	defer cancel()
	changes, err := Look(ctx, x.r.cfg.Hub, name, vn.Content, vn.Digest, x.r.cfg.Clock.Now().Add(x.r.times.Survey))
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, c := range changes {
		fmt.Fprintf(sum, "%q %q %d %q\n", c.GetProvider(), c.GetSubject(), c.GetAction(), c.GetBefore())
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// soaking is the watch over one wave.
type soaking struct {
	x     *run
	nodes []string
	away  map[string]time.Time
}

// look halts the rollout when a node is not as it was. steady says that nothing is left to be waited for; with last, the
// hosts themselves are compared with what they were.
func (s *soaking) look(ctx context.Context, last bool) (steady bool, err error) {
	x, look := s.x, newLookup(s.x.r.cfg.Fleet)
	steady = true
	for _, name := range s.nodes {
		node, err := look.node(ctx, name)
		if err != nil {
			return false, err
		}
		why, calm := s.judge(name, node != nil && len(node.State.M.GetDegraded()) > 0)
		if why == "" && calm && last && x.nodes[name].Picture != "" {
			why, calm = s.compare(ctx, name)
		}
		if why == "" {
			steady = steady && calm
			continue
		}
		x.halt(fmt.Sprintf("%s %s while its wave soaked", name, why))
		x.r.audit(ctx, "rollout.soak", "rollout/"+x.id, name, string(errs.Precondition), why)
		return false, x.update(ctx, name, func(n *nodeRecord) {
			n.Unsteady, n.Message = why, why+" while its wave soaked"
			n.Error = &taskError{Code: string(errs.Precondition), Message: n.Message, Hint: "infractl node show " + name}
		})
	}
	return steady, nil
}

// judge says what is wrong with a node by what it reports. A lost session is given time to come back: agents reconnect, and
// all of them do after a restart of this server.
func (s *soaking) judge(name string, degraded bool) (why string, calm bool) {
	if degraded {
		return "is degraded", false
	}
	if _, live := s.x.r.cfg.Hub.Live(name); live {
		delete(s.away, name)
		return "", true
	}
	since, ok := s.away[name]
	if !ok {
		since = time.Now()
		s.away[name] = since
	}
	if time.Since(since) >= s.x.r.times.Grace {
		return "went away", false
	}
	return "", false
}

func (s *soaking) compare(ctx context.Context, name string) (why string, calm bool) {
	now, err := s.x.picture(ctx, name)
	switch errs.CodeOf(err) {
	case "":
	case errs.Unavailable, errs.Timeout, errs.Canceled, errs.Exhausted:
		return "", false // absence and overload are never taken for failure; it is asked again
	default:
		return "could not be looked at (" + strings.TrimSpace(clip(err.Error())) + ")", false
	}
	if now != s.x.nodes[name].Picture {
		return "drifted", false
	}
	return "", true
}

// store changes the header, in the store and here.
func (x *run) store(ctx context.Context, change func(*header)) error {
	_, err := x.r.headers.Update(ctx, x.id, func(h *header) error {
		change(h)
		return nil
	})
	if err != nil {
		return errs.Wrap("store rollout", err)
	}
	x.mu.Lock()
	change(&x.h)
	x.mu.Unlock()
	x.r.publish(x.id)
	return nil
}
