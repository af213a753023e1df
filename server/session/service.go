package session

import (
	"context"
	"crypto/x509"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
)

// Protocol is the number of the session protocol.
const Protocol = 1

// ServiceConfig is what a Service needs.
type ServiceConfig struct {
	Hub       *Hub
	Fleet     *fleet.Fleet
	Site      fleet.Site
	Authority *certs.Authority
	Confirmer Confirmer
	// Secrets gives values to nodes; nil where none are kept.
	Secrets Secrets
	// Contents gives large texts to nodes; nil where none are kept.
	Contents Contents
	// Images gives image archives to nodes; nil where none are kept.
	Images Images
	// Attacher carries consoles; nil where there are none.
	Attacher Attacher
	Recorder *access.Recorder
	// Addresses returns host:port of the session and of the enrolment listeners, as agents reach them.
	Addresses func() (sessions, enrolment []string)
	Clock     clock.Clock
	Log       hclog.Logger
	// Heartbeat is the interval that agents are told: 15 s unless set. Three misses end a session.
	Heartbeat time.Duration
	// HelloTimeout is how long an agent may take to introduce itself: 10 s unless set.
	HelloTimeout time.Duration
}

// Service is the SessionService.
type Service struct {
	v1.UnimplementedSessionServiceServer
	cfg ServiceConfig

	mu     sync.Mutex
	renews map[string]*rate.Limiter
	events hostEvents
}

// NewService returns the service.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = 10 * time.Second
	}
	return &Service{cfg: cfg, renews: make(map[string]*rate.Limiter)}
}

// missed is how many heartbeats may stay away.
const missed = 3

// Messages of one session beyond this rate end it: an agent that talks so much is broken or hostile.
const (
	messageRate  = rate.Limit(100)
	messageBurst = 1000
)

// Connect implements the session stream.
func (s *Service) Connect(stream grpc.BidiStreamingServer[v1.ConnectRequest, v1.ConnectResponse]) error {
	caller := access.CallerFrom(stream.Context())
	in := newReader(stream)
	hello, err := s.hello(stream.Context(), in)
	if err != nil {
		if errs.Is(err, errs.Invalid) {
			s.refuse(stream.Context(), caller, access.ReasonMalformed, "%s", err.Error())
		}
		return err
	}
	node, err := s.admit(stream.Context(), caller, hello)
	if err != nil {
		return err
	}
	c := newConn(LiveSession{ID: newID(), Node: node.Name, Since: s.cfg.Clock.Now(), Hello: hello, Address: caller.Address})
	c.sendControl(&v1.ConnectResponse{Message: &v1.ConnectResponse_Welcome{Welcome: &v1.Welcome{
		ServerTime:   timestamppb.New(s.cfg.Clock.Now()),
		Heartbeat:    durationpb.New(s.cfg.Heartbeat),
		SessionId:    c.info.ID,
		WantedDigest: s.wantedDigest(stream.Context(), node.Name),
		JoinCounter:  node.JoinCounter,
	}}})
	log := s.cfg.Log.With("node", node.Name, "session", c.info.ID)
	log.Info("session began", "address", caller.Address, "agent", hello.GetAgentVersion(), "boot", hello.GetBootId())
	s.cfg.Hub.heard(node.Name, skewOf(hello.GetLocalTime(), s.cfg.Clock), hello.GetLocalTime() != nil)
	s.cfg.Hub.attach(c)
	defer s.cfg.Hub.detach(c)
	if s.revoked(stream.Context(), caller) { // between the gate and here; from here on, Cut finds the session
		c.end(errs.New(errs.Unavailable, "the identity was withdrawn"))
	}

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.write(stream)
	}()
	err = s.serve(stream.Context(), c, in, caller)
	c.end(err) // stops the writer
	select {
	case <-sent:
	case <-time.After(time.Second): // it hangs on a peer that does not read; the end of the stream frees it
	}
	log.Info("session ended", "reason", err)
	return s.told(stream.Context(), caller, err)
}

// told makes sure that whoever was cut off because of a revocation is told so at once.
func (s *Service) told(ctx context.Context, caller access.Caller, err error) error {
	if rev, rerr := s.cfg.Fleet.Revoked.Get(context.WithoutCancel(ctx), caller.KeyHash); rerr == nil {
		return access.RevokedError(s.cfg.Authority, caller.Identity.Serial, caller.KeyHash, rev.Value.Identity)
	}
	return err
}

func (s *Service) revoked(ctx context.Context, caller access.Caller) bool {
	_, err := s.cfg.Fleet.Revoked.Get(ctx, caller.KeyHash)
	return err == nil
}

// hello waits for the first message, which must be a Hello within limits.
func (s *Service) hello(ctx context.Context, in *reader) (*v1.Hello, error) {
	timer := time.NewTimer(s.cfg.HelloTimeout)
	defer timer.Stop()
	var first *v1.ConnectRequest
	select {
	case m, ok := <-in.messages:
		if !ok {
			return nil, in.err
		}
		first = m
	case <-timer.C:
		return nil, errs.New(errs.Timeout, "no hello within %s", s.cfg.HelloTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h := first.GetHello()
	switch {
	case h == nil:
		return nil, errs.New(errs.Invalid, "the first message of a session must be a hello")
	case h.GetProtocol() != Protocol:
		return nil, errs.New(errs.Precondition, "the agent speaks protocol %d, this server %d", h.GetProtocol(), Protocol).
			WithHint("install the infractl-agent of the server's version")
	case len(h.GetBootId()) > 64 || len(h.GetAgentVersion()) > 64 || len(h.GetWitnessKey()) > 1024:
		return nil, errs.New(errs.Invalid, "the hello exceeds its limits")
	}
	if err := checkWitnessKey(h.GetWitnessKey()); err != nil {
		return nil, err
	}
	return h, fleet.CheckFingerprint(h.GetFingerprint())
}

// checkWitnessKey refuses what is no key. It goes into files of other hosts, whose applies would fail because of it.
func checkWitnessKey(line string) error {
	if line == "" {
		return nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) != line {
		return errs.New(errs.Invalid, "the witness key is not a key alone, in authorized_keys form")
	}
	return nil
}

// serve handles messages until the session ends, and returns why.
func (s *Service) serve(ctx context.Context, c *conn, in *reader, caller access.Caller) error {
	silence := time.NewTimer(missed * s.cfg.Heartbeat)
	defer silence.Stop()
	limit := rate.NewLimiter(messageRate, messageBurst)
	reports := &reportSequence{}
	for {
		select {
		case m, ok := <-in.messages:
			if !ok {
				return in.err
			}
			if !limit.Allow() {
				s.refuse(ctx, caller, access.ReasonRate, "more than %d messages a second", int(messageRate))
				return errs.New(errs.Exhausted, "too many messages")
			}
			if !s.cfg.Clock.Now().Before(caller.Identity.NotAfter) {
				return errs.New(errs.Unavailable, "the certificate of this session has expired; connect with the new one")
			}
			silence.Reset(missed * s.cfg.Heartbeat)
			if err := s.handle(ctx, c, caller, m, reports); err != nil {
				return err
			}
		case <-silence.C:
			return errs.New(errs.Unavailable, "nothing was heard for %s", missed*s.cfg.Heartbeat)
		case <-c.ended:
			return c.cause
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Service) handle(ctx context.Context, c *conn, caller access.Caller, m *v1.ConnectRequest, reports *reportSequence) error {
	node := c.info.Node
	var err error
	switch m := m.GetMessage().(type) {
	case *v1.ConnectRequest_Heartbeat:
		local := m.Heartbeat.GetLocalTime()
		s.cfg.Hub.heard(node, skewOf(local, s.cfg.Clock), local != nil)
		if s.revoked(ctx, caller) { // by another server
			return errs.New(errs.Unavailable, "the identity was withdrawn")
		}
		if reports.lost {
			reports.lost = false
			c.sendControl(&v1.ConnectResponse{Message: &v1.ConnectResponse_FullReport{FullReport: &v1.FullReportRequest{}}})
		}
		return nil
	case *v1.ConnectRequest_Report:
		if reports.gap(m.Report.GetSequence()) {
			c.sendControl(&v1.ConnectResponse{Message: &v1.ConnectResponse_FullReport{FullReport: &v1.FullReportRequest{}}})
		}
		if err = s.report(ctx, node, m.Report); errs.Is(err, errs.Exhausted) {
			// The disk is full. The session goes on, and all is asked for again until there is room.
			s.cfg.Log.Error("report not stored", "node", node, "error", err)
			reports.lost, err = true, nil
		}
	case *v1.ConnectRequest_Accepted:
		err = s.cfg.Hub.accepted(ctx, node, m.Accepted.GetTaskId())
	case *v1.ConnectRequest_Progress:
		err = s.cfg.Hub.progress(node, m.Progress)
	case *v1.ConnectRequest_Result:
		if err = s.cfg.Hub.finish(ctx, node, m.Result); err == nil {
			c.sendControl(&v1.ConnectResponse{Message: &v1.ConnectResponse_Acknowledge{
				Acknowledge: &v1.TaskAcknowledge{TaskId: m.Result.GetTaskId()}}})
		}
	case *v1.ConnectRequest_Event:
		s.event(ctx, caller, m.Event)
	default: // a second hello, or a message of a newer protocol
		err = errs.New(errs.Invalid, "unexpected message in a session")
	}
	s.cfg.Hub.heard(node, 0, false)
	if errs.Is(err, errs.Denied) {
		s.refuse(ctx, caller, access.ReasonForeign, "%s", err.Error())
	}
	return err
}

// reportSequence notices reports that got lost.
type reportSequence struct {
	last uint64
	// lost says that one could not be stored.
	lost bool
}

func (r *reportSequence) gap(seq uint64) bool {
	missing := seq != r.last+1
	r.last = seq
	return missing
}

func skewOf(local *timestamppb.Timestamp, clk clock.Clock) time.Duration {
	if local == nil {
		return 0
	}
	return local.AsTime().Sub(clk.Now()).Round(time.Millisecond)
}

// Confirm implements SessionService: the decision is the rollout's.
func (s *Service) Confirm(ctx context.Context, req *v1.ConfirmRequest) (*v1.ConfirmResponse, error) {
	if req.GetCommitId() == "" || len(req.GetCommitId()) > 64 || len(req.GetSpecDigest()) > 128 {
		return nil, errs.New(errs.Invalid, "a confirmation needs commit_id and spec_digest")
	}
	return s.cfg.Confirmer.Confirm(ctx, access.CallerFrom(ctx).Identity.Name, req)
}

// RenewCertificate implements SessionService: the same node, the same key, one more time.
func (s *Service) RenewCertificate(ctx context.Context, req *v1.RenewCertificateRequest) (*v1.RenewCertificateResponse, error) {
	caller := access.CallerFrom(ctx)
	if !s.mayRenew(caller.Identity.Name) {
		s.refuse(ctx, caller, access.ReasonRate, "too many renewals")
		return nil, errs.New(errs.Exhausted, "too many renewals").WithHint("the agent tries again later")
	}
	hash, err := csrKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	if hash != caller.KeyHash {
		return nil, errs.New(errs.Denied, "a renewal must be signed by the key that the identity is bound to")
	}
	issued, err := s.cfg.Authority.IssueNode(req.GetCsr(), caller.Identity.Name)
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Fleet.UpdateNode(ctx, caller.Identity.Name, func(n *fleet.Node) error {
		if n.KeyHash != hash || n.IsRevoked() {
			return errs.New(errs.Conflict, "the identity was changed meanwhile")
		}
		// Counted from what the agent has shown, so that a renewal whose answer was lost may be repeated.
		n.JoinCounter = max(n.KnownCounter, 1) + 1
		n.Serial, n.NotAfter = issued.Serial, issued.NotAfter
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.RenewCertificateResponse{
		Identity: nodeIdentity(s.cfg.Authority, s.cfg.Addresses, n.Name, issued.ChainPEM), JoinCounter: n.JoinCounter,
	}, nil
}

// mayRenew bounds what one node can make the authority sign.
func (s *Service) mayRenew(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return allow(s.renews, node)
}

func allow(limits map[string]*rate.Limiter, node string) bool {
	l := limits[node]
	if l == nil {
		l = rate.NewLimiter(rate.Every(time.Minute), 10)
		limits[node] = l
	}
	return l.Allow()
}

// csrKey returns the hash of the key of a certificate request, which proves that the caller holds the key.
func csrKey(der []byte) (string, error) {
	csr, err := parseCSR(der)
	if err != nil {
		return "", err
	}
	return fleet.KeyHash(csr.PublicKey)
}

func parseCSR(der []byte) (*x509.CertificateRequest, error) {
	if len(der) == 0 || len(der) > certs.MaxCSR {
		return nil, errs.New(errs.Invalid, "a certificate request has 1 to %d bytes", certs.MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate request cannot be read: %w", err)
	}
	if csr.PublicKeyAlgorithm != x509.ECDSA && csr.PublicKeyAlgorithm != x509.Ed25519 {
		return nil, errs.New(errs.Invalid, "the key is neither ECDSA nor Ed25519")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errs.New(errs.Invalid, "the certificate request is not signed by its own key: %w", err)
	}
	return csr, nil
}

func nodeIdentity(a *certs.Authority, addresses func() (sessions, enrolment []string), node string, chain []byte) *v1.NodeIdentity {
	sessions, enrolment := addresses()
	return &v1.NodeIdentity{Site: a.Site(), Node: node, CertificatePem: chain, RootPem: a.RootPEM(),
		ServerAddresses: sessions, EnrolAddresses: enrolment}
}
