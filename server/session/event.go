package session

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// Events of one node that are written: many people may log in at once, and nobody may fill the audit log for long.
const (
	eventRate  = rate.Limit(1)
	eventBurst = 200
)

// eventSkew is how far the host's time of an event may be from now without being told.
const eventSkew = 30 * time.Second

// hostEvents bounds and writes what nodes tell of themselves.
type hostEvents struct {
	mu    sync.Mutex
	nodes map[string]*nodeEvents
}

type nodeEvents struct {
	limit      *rate.Limiter
	suppressed int
}

// allow reports whether an event of a node is written, and how many before it were not.
func (e *hostEvents) allow(node string) (ok bool, before int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes == nil {
		e.nodes = make(map[string]*nodeEvents)
	}
	n := e.nodes[node]
	if n == nil {
		n = &nodeEvents{limit: rate.NewLimiter(eventRate, eventBurst)}
		e.nodes[node] = n
	}
	if !n.limit.Allow() {
		n.suppressed++
		return false, 0
	}
	before, n.suppressed = n.suppressed, 0
	return true, before
}

// event writes what happened on a host into the audit log, in the name of the node: it may claim nothing of anybody else.
func (s *Service) event(ctx context.Context, caller access.Caller, ev *v1.HostEvent) {
	if err := checkEvent(ev); err != nil {
		s.refuse(ctx, caller, access.ReasonMalformed, "%s", err.Error())
		return // the session is worth more than a message of a newer agent
	}
	ok, before := s.events.allow(caller.Identity.Name)
	if !ok {
		return
	}
	entry := store.AuditEntry{Actor: caller.Actor, Node: caller.Identity.Name, Source: ev.GetSource(), Action: ev.GetAction(),
		Target: ev.GetTarget() + "@" + caller.Identity.Name, Result: ev.GetResult(), Message: ev.GetMessage()}
	if at := ev.GetTime(); at != nil && s.cfg.Clock.Now().Sub(at.AsTime()).Abs() > eventSkew {
		entry.Message += ", at " + at.AsTime().UTC().Format(time.RFC3339) + " by the host's clock"
	}
	if before > 0 {
		entry.Message += fmt.Sprintf(" (%d events before this one were too many and are not in this log)", before)
	}
	s.cfg.Recorder.Write(ctx, entry)
}

func checkEvent(ev *v1.HostEvent) error {
	word := regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}(\.[a-z][a-z0-9_]{0,30}){1,3}$`)
	switch {
	case !word.MatchString(ev.GetAction()):
		return errs.New(errs.Invalid, "%.40q is no action", ev.GetAction())
	case len(ev.GetTarget()) > 64 || len(ev.GetMessage()) > 1000:
		return errs.New(errs.Invalid, "the event exceeds its limits")
	case ev.GetResult() != "ok" && !regexp.MustCompile(`^[a-z_]{1,32}$`).MatchString(ev.GetResult()):
		return errs.New(errs.Invalid, "%.40q is no result", ev.GetResult())
	}
	if _, err := netip.ParseAddr(ev.GetSource()); err != nil && ev.GetSource() != "" {
		return errs.New(errs.Invalid, "%.40q is no address", ev.GetSource())
	}
	return nil
}
