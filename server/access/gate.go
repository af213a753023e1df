package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"runtime/debug"
	"sync"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// GateConfig is what a Gate needs.
type GateConfig struct {
	// Listener is where the gate stands.
	Listener  Listener
	Table     Table
	Fleet     *fleet.Fleet
	Authority *certs.Authority
	Recorder  *Recorder
	// Live knows the calls of operators; nil cuts none.
	Live  *Live
	Clock clock.Clock
	Log   hclog.Logger
}

// Gate stands in front of every method of one listener.
type Gate struct{ cfg GateConfig }

// NewGate returns a gate.
func NewGate(cfg GateConfig) *Gate { return &Gate{cfg: cfg} }

// Options returns the server options that put the gate in place.
func (g *Gate) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.StatsHandler(watcher{g}),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return unknownMethod() }),
	}
}

func unknownMethod() error { return status.Error(codes.Unimplemented, "there is no such method here") }

func (g *Gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	markSeen(ctx)
	call, ctx, end := g.live(ctx, info.FullMethod)
	defer end()
	ctx, rule, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if err := g.checkSize(ctx, info.FullMethod, rule, req); err != nil {
		return nil, err
	}
	resp, err = g.guard(info.FullMethod, func() (any, error) { return handler(ctx, req) })
	if err != nil {
		err = call.verdict(err)
	}
	if rule.Audit {
		g.audit(ctx, info.FullMethod, rule, req, err)
	}
	return resp, g.outward(ctx, info.FullMethod, err)
}

func (g *Gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	markSeen(ss.Context())
	call, ctx, end := g.live(ss.Context(), info.FullMethod)
	defer end()
	ctx, rule, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	wrapped := &gatedStream{ServerStream: ss, ctx: ctx, gate: g, method: info.FullMethod, rule: rule}
	err = call.run(func() error {
		_, err := g.guard(info.FullMethod, func() (any, error) { return nil, handler(srv, wrapped) })
		return err
	})
	if rule.Audit {
		g.audit(ctx, info.FullMethod, rule, wrapped.request(), err)
	}
	return g.outward(ctx, info.FullMethod, err)
}

// gatedStream carries the caller and checks the size of what comes in.
type gatedStream struct {
	grpc.ServerStream
	ctx    context.Context
	gate   *Gate
	method string
	rule   Rule
	mu     sync.Mutex
	first  any // the first message, for the audit log
}

func (s *gatedStream) request() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

func (s *gatedStream) Context() context.Context { return s.ctx }

func (s *gatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		if status.Code(err) == codes.ResourceExhausted {
			s.gate.refuse(s.ctx, s.method, ReasonTooLarge, err)
		}
		return err
	}
	s.mu.Lock()
	if s.first == nil {
		s.first = m
	}
	s.mu.Unlock()
	return s.gate.checkSize(s.ctx, s.method, s.rule, m)
}

// admit returns a context with the caller, or the refusal.
func (g *Gate) admit(ctx context.Context, method string) (context.Context, Rule, error) {
	caller := g.caller(ctx)
	ctx = WithCaller(ctx, caller)
	rule, ok := g.cfg.Table[method]
	if !ok || rule.Listener != g.cfg.Listener {
		err := unknownMethod()
		g.refuse(ctx, method, ReasonMethod, err)
		return ctx, rule, err
	}
	if g.cfg.Listener != Main { // no identities there; the services behind check tokens, keys and codes themselves
		return ctx, rule, nil
	}
	caller, reason, err := g.identify(ctx, caller)
	ctx = WithCaller(ctx, caller)
	if err == nil {
		reason, err = checkRule(caller, rule)
	}
	if err != nil {
		err = errs.ToGRPC(err)
		g.refuse(ctx, method, reason, err)
		return ctx, rule, err
	}
	return ctx, rule, nil
}

func checkRule(c Caller, rule Rule) (Reason, error) {
	switch c.Identity.Kind {
	case certs.KindNode:
		if !rule.Nodes {
			return ReasonCaller, errs.New(errs.Denied, "%s is a node, and this call is for operators", c.Actor)
		}
	case certs.KindOperator:
		if len(rule.Roles) == 0 {
			return ReasonCaller, errs.New(errs.Denied, "%s is an operator, and this call is for nodes", c.Actor)
		}
		if !rule.Allows(c.Identity.Role) {
			return ReasonRole, errs.New(errs.Denied, "%s has the role %s, which may not do this", c.Actor, c.Identity.Role).
				WithHint("ask somebody with the role %s", rule.Roles[len(rule.Roles)-1])
		}
	default: // a service reads pages over HTTP, and calls nothing
		return ReasonCaller, errs.New(errs.Denied, "%s may not call anything", c.Actor)
	}
	return "", nil
}

// caller reads what the connection says, and trusts none of it yet.
func (g *Gate) caller(ctx context.Context) Caller {
	c := Caller{Actor: "unknown"}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return c
	}
	if g.cfg.Listener == Socket {
		c.Actor = "local/root"
		return c
	}
	c.Address = p.Addr.String()
	if host, _, err := net.SplitHostPort(c.Address); err == nil {
		c.Address = host
	}
	c.Actor = "address/" + c.Address
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return c
	}
	id, err := mtls.PeerIdentity(ctx)
	if err != nil {
		return c
	}
	c.Identity, c.KeyHash, c.Actor = id, certs.KeyHash(info.State.PeerCertificates[0]), id.String()
	return c
}

func (g *Gate) checkSize(ctx context.Context, method string, rule Rule, m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	size := proto.Size(msg)
	if size <= rule.MaxMessage {
		return nil
	}
	err := errs.ToGRPC(errs.New(errs.Exhausted, "the message has %d bytes, more than %d", size, rule.MaxMessage))
	g.refuse(ctx, method, ReasonTooLarge, err)
	return err
}

// guard turns a panic of a handler into an error: one bad call must not take the fleet's server down.
func (g *Gate) guard(method string, call func() (any, error)) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			g.cfg.Log.Error("panic", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			resp, err = nil, errs.New(errs.Internal, "panic in %s", method)
		}
	}()
	return call()
}

// outward logs what a peer is not told, once, and returns the error as gRPC sends it.
func (g *Gate) outward(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	sent := errs.ToGRPC(err)
	if status.Code(sent) == codes.Internal {
		g.cfg.Log.Error("call failed", "method", method, "actor", CallerFrom(ctx).Actor, "error", err)
	}
	return sent
}

func (g *Gate) refuse(ctx context.Context, method string, reason Reason, err error) {
	c := CallerFrom(ctx)
	out := errs.FromGRPC(err)
	g.cfg.Recorder.Refused(ctx, reason, store.AuditEntry{
		Actor: c.Actor, Role: string(c.Identity.Role), Source: c.Address, Action: method,
		Node: c.node(), Result: string(errs.CodeOf(out)), Message: out.Error(),
	})
}

func (g *Gate) audit(ctx context.Context, method string, rule Rule, req any, err error) {
	c := CallerFrom(ctx)
	entry := store.AuditEntry{Actor: c.Actor, Role: string(c.Identity.Role), Source: c.Address, Action: method,
		Target: Target(req), Node: c.node(), Result: "ok"}
	if msg, ok := req.(proto.Message); ok && !rule.Secret {
		if data, merr := (proto.MarshalOptions{Deterministic: true}).Marshal(msg); merr == nil {
			sum := sha256.Sum256(data)
			entry.Request = "sha256:" + hex.EncodeToString(sum[:])
		}
	}
	if err != nil {
		out := errs.FromGRPC(err)
		entry.Result, entry.Message = string(errs.CodeOf(out)), out.Error()
	}
	g.cfg.Recorder.Write(ctx, entry)
}

func (c Caller) node() string {
	if c.Identity.Kind == certs.KindNode {
		return c.Identity.Name
	}
	return ""
}

// Target says in words what a request is about: the first of its fields that names something.
func Target(req any) string {
	switch r := req.(type) {
	case interface{ GetName() string }:
		return r.GetName()
	case interface{ GetEnrolmentId() string }:
		return r.GetEnrolmentId()
	case interface{ GetCommitId() string }:
		return r.GetCommitId()
	case interface{ GetNumber() uint64 }:
		return fmt.Sprintf("revision %d", r.GetNumber())
	case interface{ GetNode() string }:
		return r.GetNode()
	case interface{ GetId() string }:
		return r.GetId()
	}
	return ""
}
