package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// reader turns a stream's messages into a channel, so that a session can wait for other things too. err is set before the
// channel is closed.
type reader struct {
	messages chan *v1.ConnectRequest
	err      error
}

func newReader(stream grpc.BidiStreamingServer[v1.ConnectRequest, v1.ConnectResponse]) *reader {
	r := &reader{messages: make(chan *v1.ConnectRequest)}
	go func() {
		defer close(r.messages)
		for {
			m, err := stream.Recv()
			if err != nil {
				r.err = err
				return
			}
			select {
			case r.messages <- m:
			case <-stream.Context().Done():
				r.err = stream.Context().Err()
				return
			}
		}
	}()
	return r
}

// write sends what is queued until the session ends.
func (c *conn) write(stream grpc.BidiStreamingServer[v1.ConnectRequest, v1.ConnectResponse]) {
	for {
		for m := c.next(); m != nil; m = c.next() {
			if err := stream.Send(m); err != nil {
				c.end(err)
				return
			}
			select {
			case <-c.ended:
				return
			default:
			}
		}
		select {
		case <-c.wake:
		case <-c.ended:
			return
		}
	}
}

// report puts what changed into the node's record.
func (s *Service) report(ctx context.Context, node string, r *v1.Report) error {
	if r.GetFacts() == nil && r.GetState() == nil && r.GetContainers() == nil && r.GetRouter() == nil && r.GetClock() == nil {
		return nil
	}
	state, err := s.cfg.Fleet.ServerState(ctx)
	if err != nil {
		return errs.Wrap("store report", err)
	}
	changed, paused := false, false
	n, err := s.cfg.Fleet.UpdateNode(ctx, node, func(n *fleet.Node) error {
		// The first report of a session has all parts; with it a node that was awaited is heard.
		changed = (r.GetState() != nil || r.GetSequence() == 1) && state.Restore.Heard(n, r.GetState())
		paused = changed && n.Paused != ""
		if f := r.GetFacts(); f != nil && !proto.Equal(f, n.Facts.M) {
			n.Facts.M, changed = f, true
		}
		if st := r.GetState(); st != nil && !proto.Equal(st, n.State.M) {
			n.State.M, changed = st, true
		}
		changed = s.clockReport(n, r.GetClock()) || changed
		if rt := r.GetRouter(); rt != nil && !proto.Equal(rt, n.Router.M) {
			n.Router.M, changed = rt, true
		}
		if c := r.GetContainers(); c != nil && !proto.Equal(c, n.Containers.M) {
			n.Containers.M, changed = c, true
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return errs.Wrap("store report", err)
	}
	if changed {
		if paused {
			s.tellPaused(ctx, n)
		}
		s.cfg.Hub.watchers.publish(NodeEvent{Node: node, Reported: true})
	}
	return nil
}

// clockReport puts how a node keeps time into its record, and since when.
func (s *Service) clockReport(n *fleet.Node, c *v1.ClockReport) (changed bool) {
	if c == nil || proto.Equal(c, n.Clock.M) {
		return false
	}
	if n.Clock.M == nil || n.Clock.M.GetSynchronised() != c.GetSynchronised() {
		n.ClockSince = s.cfg.Clock.Now()
	}
	n.Clock.M = c
	return true
}

// tellPaused tells of a node that was just found to know more than the restored server.
func (s *Service) tellPaused(ctx context.Context, n fleet.Node) {
	s.cfg.Log.Warn("node paused after the restore of the server", "node", n.Name, "because", n.Paused)
	s.cfg.Recorder.Write(ctx, store.AuditEntry{Actor: "system", Action: "node.pause", Target: n.Name, Node: n.Name, Result: "ok",
		Message: n.Paused})
}

// errUnchanged ends an update that would write what is there already.
const errUnchanged = unchangedError("unchanged")

type unchangedError string

func (e unchangedError) Error() string { return string(e) }

func (s *Service) wantedDigest(ctx context.Context, node string) string {
	wanted, _, err := s.cfg.Site.Wanted(ctx)
	if err != nil {
		s.cfg.Log.Warn("wanted digest not known", "node", node, "error", err)
		return ""
	}
	for _, w := range wanted {
		if w.Name == node {
			return w.Digest
		}
	}
	return ""
}

func (s *Service) refuse(ctx context.Context, c access.Caller, reason access.Reason, format string, args ...any) {
	s.cfg.Recorder.Refused(ctx, reason, store.AuditEntry{
		Actor: c.Actor, Source: c.Address, Action: v1.SessionService_Connect_FullMethodName,
		Node: c.Identity.Name, Result: string(errs.Denied), Message: fmt.Sprintf(format, args...),
	})
}

// newID returns 16 random bytes in hexadecimal. crypto/rand never fails.
func newID() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}
