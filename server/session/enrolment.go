package session

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// EnrolmentConfig is what an Enrolment needs.
type EnrolmentConfig struct {
	Fleet     *fleet.Fleet
	Hub       *Hub
	Site      fleet.Site
	Authority *certs.Authority
	Recorder  *access.Recorder
	// Addresses returns host:port of the session and of the enrolment listeners, as agents reach them.
	Addresses func() (sessions, enrolment []string)
	Clock     clock.Clock
	Log       hclog.Logger
	// Limits bound the calls; zero fields have defaults.
	Limits EnrolmentLimits
	// Login exchanges an operator's login code for an identity; a code that cannot be used is Denied.
	Login func(context.Context, *v1.LoginOperatorRequest) (*v1.OperatorIdentity, error)
}

// Enrolment is the EnrolmentService.
type Enrolment struct {
	v1.UnimplementedEnrolmentServiceServer
	cfg      EnrolmentConfig
	limits   *limiter
	logins   *limiter
	enrolIDs *regexp.Regexp
	nonces   *nonces

	mu    sync.Mutex
	polls map[string]time.Time // last poll of each waiting enrolment
	// returns bound what one node can make the authority sign by recovering.
	returns map[string]*rate.Limiter
}

// NewEnrolment returns the service.
func NewEnrolment(cfg EnrolmentConfig) *Enrolment {
	cfg.Limits.setDefaults()
	return &Enrolment{
		cfg: cfg, limits: newLimiter(cfg.Limits), logins: newLimiter(loginLimits()), enrolIDs: regexp.MustCompile(`^[A-Za-z0-9_-]{16,64}$`),
		nonces: newNonces(cfg.Clock), polls: make(map[string]time.Time),
		returns: make(map[string]*rate.Limiter),
	}
}

// How long a waiting machine is told to wait: with a token, somebody is about to let it in.
const (
	retryWithToken = 2 * time.Second
	retryUnknown   = 15 * time.Second
)

// request is an EnrolRequest that was looked at.
type request struct {
	*v1.EnrolRequest
	keyHash string
	address string
}

// Enrol implements EnrolmentService.
func (e *Enrolment) Enrol(ctx context.Context, in *v1.EnrolRequest) (*v1.EnrolResponse, error) {
	caller := access.CallerFrom(ctx)
	if err := e.limits.allow(caller.Address); err != nil {
		e.refuse(ctx, access.ReasonRate, in.GetNode(), err)
		return nil, retryLater(err, retryRate)
	}
	req, err := e.check(in, caller.Address)
	if err != nil {
		e.refuse(ctx, access.ReasonMalformed, in.GetNode(), err)
		return nil, err
	}
	var resp *v1.EnrolResponse
	err = fleet.Retry(ctx, func() error {
		resp, err = e.enrol(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	resp.ServerTime = timestamppb.New(e.cfg.Clock.Now())
	return resp, nil
}

func (e *Enrolment) check(in *v1.EnrolRequest, address string) (*request, error) {
	if !e.enrolIDs.MatchString(in.GetEnrolmentId()) {
		return nil, errs.New(errs.Invalid, "the enrolment id is not 16 to 64 letters, digits, - and _")
	}
	// A machine with a token may believe what it likes; the token decides its name.
	if err := certs.ValidateName("node", in.GetNode()); err != nil && in.GetTokenId() == "" {
		return nil, err
	}
	if len(in.GetNode()) > 255 || len(in.GetTokenId()) > 64 || len(in.GetTokenSecret()) > 128 || len(in.GetAgentVersion()) > 64 {
		return nil, errs.New(errs.Invalid, "the request exceeds its limits")
	}
	if err := fleet.CheckFingerprint(in.GetFingerprint()); err != nil {
		return nil, err
	}
	hash, err := csrKey(in.GetCsr())
	return &request{EnrolRequest: in, keyHash: hash, address: address}, err
}

// refusal is an error that was counted and audited for a reason.
func (e *Enrolment) refusal(ctx context.Context, reason access.Reason, node string, err error) error {
	e.refuse(ctx, reason, node, err)
	return err
}

// enrol does one try. Conflict and Exists mean that somebody else wrote meanwhile: it is tried again from the start.
func (e *Enrolment) enrol(ctx context.Context, req *request) (*v1.EnrolResponse, error) {
	if _, err := e.cfg.Fleet.Revoked.Get(ctx, req.keyHash); err == nil {
		return nil, e.refusal(ctx, access.ReasonRevoked, req.GetNode(), errs.New(errs.Denied, "this machine's key was revoked").
			WithHint("enrol with a new key"))
	}
	tok, err := e.token(ctx, req)
	if err != nil {
		return nil, err
	}
	known, err := e.cfg.Fleet.Enrolments.Get(ctx, req.GetEnrolmentId())
	switch {
	case errs.Is(err, errs.NotFound):
	case err != nil:
		return nil, err
	case known.Value.KeyHash != req.keyHash:
		return nil, e.refusal(ctx, access.ReasonToken, req.GetNode(),
			errs.New(errs.Denied, "this enrolment id belongs to another key"))
	case known.Value.State == fleet.EnrolmentIssued:
		return e.repeat(ctx, req, known.Value)
	case known.Value.State == fleet.EnrolmentApproved:
		return e.issue(ctx, req, known, tok, known.Value.Node)
	case known.Value.Token != req.GetTokenId(), tok == nil && known.Value.Asked != req.GetNode():
		// What a person sees in the lane and approves must not become something else in between.
		return nil, e.refusal(ctx, access.ReasonToken, req.GetNode(),
			errs.New(errs.Denied, "this enrolment began under another name or with another token").
				WithHint("begin a new enrolment; the agent does so by itself"))
	}
	name, note, err := e.place(ctx, req, tok)
	if err != nil {
		return nil, err
	}
	if note != "" {
		return e.wait(ctx, req, known, tok, name, note)
	}
	return e.issue(ctx, req, known, tok, name)
}

// token returns the token that the request shows and that may be used by it, nil if it shows none.
func (e *Enrolment) token(ctx context.Context, req *request) (*store.Item[fleet.Token], error) {
	if req.GetTokenId() == "" {
		return nil, nil
	}
	deny := func(what, hint string) (*store.Item[fleet.Token], error) {
		err := errs.New(errs.Denied, "the join token %s", what).WithHint("%s", hint)
		return nil, e.refusal(ctx, access.ReasonToken, req.GetNode(), err)
	}
	const again = "make a new one with: infractl token create"
	it, err := e.cfg.Fleet.Tokens.Get(ctx, req.GetTokenId())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	t := it.Value
	sum := sha256.Sum256([]byte(req.GetTokenSecret()))
	// An unknown id and a wrong secret get the same answer.
	if err != nil || subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(t.SecretHash)) != 1 {
		return deny("is not one of this site", again)
	}
	mine := t.Enrolment == req.GetEnrolmentId() && t.KeyHash == req.keyHash
	switch {
	case t.Revoked:
		return deny("was revoked", again)
	case mine && t.UsedBy == "":
		return &it, nil // it waits for approval, and was in time when it came
	case t.Enrolment != "" && !mine:
		return deny("was used already", again+"; a token is good for one machine")
	case !e.cfg.Clock.Now().Before(t.Expires):
		return deny("has expired", again)
	}
	return &it, nil
}

// place decides which name the machine gets, and why it has to wait, if it has to.
func (e *Enrolment) place(ctx context.Context, req *request, tok *store.Item[fleet.Token]) (name, note string, err error) {
	if tok == nil {
		if note, err = e.taken(ctx, req, req.GetNode()); note != "" {
			note = "; " + note
		}
		return req.GetNode(), "no join token" + note, err
	}
	wanted, applied, err := e.cfg.Site.Wanted(ctx)
	if err != nil {
		return "", "", err
	}
	if tok.Value.Role != "" {
		return e.placeByRole(ctx, req, tok.Value.Role, wanted)
	}
	name = tok.Value.Node
	// On a new site a token for a node by name is enough: nothing is sent to it before a site is applied.
	if applied && !slices.ContainsFunc(wanted, func(w fleet.Wanted) bool { return w.Name == name }) {
		return name, "the site has no node of this name", nil
	}
	note, err = e.taken(ctx, req, name)
	return name, note, err
}

// placeByRole gives the first node of the role that has no identity: the one that the machine is called, if there is such
// a one.
func (e *Enrolment) placeByRole(ctx context.Context, req *request, role string, wanted []fleet.Wanted) (name, note string, err error) {
	nodes, err := e.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return "", "", err
	}
	has := make(map[string]bool, len(nodes))
	for i := range nodes {
		has[nodes[i].Name] = nodes[i].KeyHash != req.keyHash
	}
	for _, w := range wanted {
		if w.Role == role && !has[w.Name] && (name == "" || w.Name == req.GetNode()) {
			name = w.Name
		}
	}
	if name == "" {
		return req.GetNode(), "the site has no node of the role " + role + " without an identity", nil
	}
	note, err = e.taken(ctx, req, name)
	return name, note, err
}

// taken says why a name that has an identity already cannot simply be given to the machine.
func (e *Enrolment) taken(ctx context.Context, req *request, name string) (note string, err error) {
	n, err := e.cfg.Fleet.Node(ctx, name)
	switch {
	case errs.Is(err, errs.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case n.IsRevoked():
		return "", e.refusal(ctx, access.ReasonRevoked, name, errs.New(errs.Precondition, "the node was revoked").
			At("node "+name).WithHint("to let a new machine have its name: infractl node forget %s", name))
	case n.KeyHash == req.keyHash && fleet.SameMachine(n.Fingerprint.M, req.GetFingerprint()):
		return "", nil // the same host, which lost its certificate but not its key
	case n.KeyHash == req.keyHash:
		return "this node's key on another machine: a cloned disk?", nil
	case fleet.SameMachine(n.Fingerprint.M, req.GetFingerprint()):
		return "the node has an identity, and its machine comes with a new key: rebuilt?", nil
	default:
		return "the node has an identity on another machine: revoke and forget that first, or approve this one in its place", nil
	}
}

// repeat gives the answer again that an agent may have lost.
func (e *Enrolment) repeat(ctx context.Context, req *request, known fleet.Enrolment) (*v1.EnrolResponse, error) {
	n, err := e.cfg.Fleet.Node(ctx, known.Node)
	if errs.Is(err, errs.NotFound) || (err == nil && (n.EnrolmentID != known.ID || n.KeyHash != known.KeyHash || n.IsRevoked())) {
		return nil, e.refusal(ctx, access.ReasonToken, known.Node,
			errs.New(errs.Denied, "this enrolment was used, and the identity that it gave is gone").
				WithHint("make a new token with: infractl token create; and a new enrolment"))
	}
	if err != nil {
		return nil, err
	}
	if !fleet.SameMachine(n.Fingerprint.M, req.GetFingerprint()) {
		return nil, e.refusal(ctx, access.ReasonClone, known.Node,
			errs.New(errs.Denied, "this enrolment was used by another machine"))
	}
	if e.cfg.Clock.Now().Sub(known.Created) > fleet.MaxTokenLife {
		return nil, e.refusal(ctx, access.ReasonToken, known.Node, errs.New(errs.Denied, "this enrolment is over"))
	}
	return &v1.EnrolResponse{State: v1.EnrolmentState_ENROLMENT_STATE_ISSUED,
		Identity: nodeIdentity(e.cfg.Authority, e.cfg.Addresses, known.Node, known.Chain)}, nil
}

// issue gives the identity: node, enrolment and token are written in one step or not at all.
func (e *Enrolment) issue(ctx context.Context, req *request, known store.Item[fleet.Enrolment], tok *store.Item[fleet.Token], name string) (*v1.EnrolResponse, error) {
	issued, err := e.cfg.Authority.IssueNode(req.GetCsr(), name)
	if err != nil {
		return nil, err
	}
	now := e.cfg.Clock.Now()
	former, err := e.cfg.Fleet.NodeTable.Get(ctx, name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	n := fleet.Node{Name: name, KeyHash: req.keyHash, Serial: issued.Serial, NotAfter: issued.NotAfter, JoinCounter: 1,
		JumpEpoch: -1, Enrolled: now, EnrolmentID: req.GetEnrolmentId(), AgentVersion: req.GetAgentVersion(),
		Address: req.address, KnownBad: former.Value.KnownBad}
	if state, err := e.cfg.Fleet.ServerState(ctx); err == nil {
		n.JumpEpoch = state.Restores
	}
	n.Fingerprint.M = req.GetFingerprint()
	var ops []store.Op
	if former.Revision != store.Absent && former.Value.KeyHash != req.keyHash {
		// A person has put this machine in the former one's place; the former one must hear of it.
		op, err := e.cfg.Fleet.Revoked.PutOp(former.Value.KeyHash, fleet.Revocation{Identity: "node/" + name, Time: now,
			Reason: "another machine was approved in its place"}, store.Any)
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	op, err := e.cfg.Fleet.NodeTable.PutOp(name, n, former.Revision)
	if err != nil {
		return nil, err
	}
	ops = append(ops, op)
	en := e.record(req, known.Value)
	en.State, en.Node, en.Note, en.Chain, en.Created = fleet.EnrolmentIssued, name, "", issued.ChainPEM, now
	if op, err = e.cfg.Fleet.Enrolments.PutOp(en.ID, en, known.Revision); err != nil {
		return nil, err
	}
	ops = append(ops, op)
	if tok != nil {
		t := tok.Value
		t.Enrolment, t.KeyHash, t.UsedBy = en.ID, req.keyHash, name
		if op, err = e.cfg.Fleet.Tokens.PutOp(t.ID, t, tok.Revision); err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	if err := e.cfg.Fleet.Write(ctx, ops...); err != nil {
		return nil, err
	}
	if former.Revision != store.Absent && former.Value.KeyHash != req.keyHash {
		e.cfg.Hub.Cut(name)
	}
	e.mu.Lock()
	delete(e.polls, en.ID)
	e.mu.Unlock()
	e.cfg.Log.Info("identity issued", "node", name, "serial", issued.Serial, "address", req.address, "enrolment", en.ID)
	entry := auditEntry(access.CallerFrom(ctx), v1.EnrolmentService_Enrol_FullMethodName, name, "ok",
		"identity issued, serial "+issued.Serial)
	e.cfg.Recorder.Write(ctx, entry)
	return &v1.EnrolResponse{State: v1.EnrolmentState_ENROLMENT_STATE_ISSUED,
		Identity: nodeIdentity(e.cfg.Authority, e.cfg.Addresses, name, issued.ChainPEM)}, nil
}

// record returns the enrolment's record as this request makes it.
func (e *Enrolment) record(req *request, known fleet.Enrolment) fleet.Enrolment {
	now := e.cfg.Clock.Now()
	en := known
	if en.ID == "" {
		en = fleet.Enrolment{ID: req.GetEnrolmentId(), State: fleet.EnrolmentPending, KeyHash: req.keyHash, Created: now}
	}
	en.Fingerprint.M, en.Asked, en.Token = req.GetFingerprint(), req.GetNode(), req.GetTokenId()
	en.Address, en.AgentVersion, en.LastSeen = req.address, req.GetAgentVersion(), now
	en.Skew = skewOf(req.GetLocalTime(), e.cfg.Clock)
	return en
}

func (e *Enrolment) refuse(ctx context.Context, reason access.Reason, node string, err error) {
	var target *errs.Error
	message := err.Error()
	if errors.As(err, &target) && target.Message != "" {
		message = target.Message
	}
	if certs.ValidateName("node", node) != nil {
		node = ""
	}
	e.cfg.Recorder.Refused(ctx, reason, auditEntry(access.CallerFrom(ctx), v1.EnrolmentService_Enrol_FullMethodName, node,
		string(errs.CodeOf(err)), message))
}

func pendingAnswer(hasToken bool) *v1.EnrolResponse {
	wait := retryUnknown
	if hasToken {
		wait = retryWithToken
	}
	return &v1.EnrolResponse{State: v1.EnrolmentState_ENROLMENT_STATE_PENDING, RetryAfter: durationpb.New(wait)}
}
