package enrol

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Config is what an Enroller needs.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// Store is where the identity goes.
	Store *Store
	// Log is told of what happens, without repeating itself.
	Log hclog.Logger
	// Getenv reads the environment of the unit.
	Getenv func(string) string
	// TokenFiles are the places of the join token; nil means TokenFiles().
	TokenFiles []string
	// Node returns the name that the machine believes to have.
	Node func() string
	// Version is the agent's version.
	Version string
	// Backoff spreads retries; the zero value means 1 s to 60 s.
	Backoff Backoff
	// Poll is the interval at which a token is looked for in the first minute (then four times as long); 0 means 500 ms.
	Poll time.Duration
	// Waiting is told what the machine waits for, in words; it may be nil.
	Waiting func(string)
}

// Enroller turns a join token into an identity.
type Enroller struct {
	cfg    Config
	tokens tokens
	said   string
}

// pending is an enrolment that was begun. It is on disk before the first call, so that a lost reply is repeated with the
// same id and key and gets the same answer.
type pending struct {
	EnrolmentID string `json:"enrolment_id"`
	TokenID     string `json:"token_id"`
	Fingerprint string `json:"fingerprint"`
	// Node is the name that it began under.
	Node string `json:"node"`
}

const (
	pendingFile    = "enrolment.json"
	pendingKeyFile = "enrolment.key"
)

// New returns an Enroller.
func New(cfg Config) *Enroller {
	if cfg.TokenFiles == nil {
		cfg.TokenFiles = TokenFiles()
	}
	if cfg.Backoff.Max == 0 {
		cfg.Backoff = Backoff{Base: time.Second, Max: time.Minute}
	}
	if cfg.Poll == 0 {
		cfg.Poll = 500 * time.Millisecond
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) {}
	}
	return &Enroller{cfg: cfg, tokens: tokens{cfg.Host, cfg.TokenFiles, cfg.Getenv}}
}

// Run waits for a join token and enrols with it. It returns nil when the identity is in the store as the candidate, and
// otherwise only ctx's error: a token that is refused, a server that is away and a person who has not approved yet are
// all waited for, and a new token is taken up as soon as it is there.
func (e *Enroller) Run(ctx context.Context) error {
	for try := 0; ; try++ {
		token, err := e.waitToken(ctx)
		if err != nil {
			return err
		}
		again, err := e.attempt(ctx, token, try)
		if err == nil && again == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := again
		switch {
		case err == nil:
			e.say("waiting for approval", "token", token.ID, "hint", "infractl node list; infractl node approve ID")
			try = -1
		case final(err):
			// The same token may become good again (a restored server), but nothing is gained by asking often.
			wait = e.cfg.Backoff.Delay(30, err)
			e.say("enrolment refused", "error", err, "hint", errs.HintOf(err))
		default:
			wait = e.cfg.Backoff.Delay(try, err)
			e.say("enrolment failed, trying again", "error", err)
		}
		if err := e.waitOrNewToken(ctx, wait, token); err != nil {
			return err
		}
	}
}

// final reports whether repeating the same request cannot help.
func final(err error) bool {
	switch errs.CodeOf(err) {
	case errs.Denied, errs.Unauthenticated, errs.Invalid, errs.NotFound, errs.Exists, errs.Precondition, errs.Revoked:
		return true
	}
	return false
}

// waitToken returns the join token as soon as there is one.
func (e *Enroller) waitToken(ctx context.Context) (*jointoken.Token, error) {
	for n := 0; ; n++ {
		token, err := e.find()
		if err == nil {
			return token, nil
		}
		e.say("waiting for a join token", "reason", err, "hint", errs.HintOf(err))
		wait := e.cfg.Poll
		if n > 120 {
			wait *= 4
		}
		if err := Sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (e *Enroller) find() (*jointoken.Token, error) {
	if e.cfg.Host.Exists(TemplateMark) {
		return nil, errs.New(errs.Precondition, "this machine is marked as a template").At(TemplateMark).
			WithHint("remove %s on a machine that is no template", TemplateMark)
	}
	return e.tokens.find(e.cfg.Store.UsedTokens())
}

// waitOrNewToken waits for d, but no longer than until another token than old is found.
func (e *Enroller) waitOrNewToken(ctx context.Context, d time.Duration, old *jointoken.Token) error {
	deadline := time.Now().Add(d)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return ctx.Err()
		}
		if err := Sleep(ctx, min(left, e.cfg.Poll)); err != nil {
			return err
		}
		token, err := e.find()
		if err != nil || token.ID != old.ID || token.Fingerprint != old.Fingerprint {
			return nil
		}
	}
}

// say logs a state once, however often it is met again.
func (e *Enroller) say(state string, args ...any) {
	text := state
	for _, a := range args {
		if err, ok := a.(error); ok {
			text += ": " + err.Error()
		}
	}
	if text != e.said {
		e.said = text
		e.cfg.Log.Info(state, args...)
		e.cfg.Waiting(text)
	}
}

// attempt asks once. A positive again means that the server wants to be asked again then.
func (e *Enroller) attempt(ctx context.Context, token *jointoken.Token, try int) (again time.Duration, err error) {
	const op = "enrol"
	fingerprint, err := ReadFingerprint(e.cfg.Host, e.cfg.Getenv)
	if err != nil {
		return 0, errs.New(errs.Unavailable, "%w", err) // the machine is still starting: try again soon
	}
	var cloned *ClonedError
	if err := e.cfg.Store.CheckMachine(fingerprint); errors.As(err, &cloned) {
		// The disk was copied while its machine was enrolling: the id and key that it began with are the other's.
		e.cfg.Log.Warn("an enrolment of another machine is set aside", "error", err)
		if err := e.cfg.Store.SetAside("cloned"); err != nil {
			return 0, err
		}
		err = e.cfg.Store.CheckMachine(fingerprint)
		if err != nil {
			return 0, err
		}
	} else if err != nil {
		return 0, err
	}
	key, begun, err := e.begin(token)
	if err != nil {
		return 0, err
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		return 0, err
	}
	conn, err := dialPinned(token.Addresses, try, token.Fingerprint, token.Site)
	if err != nil {
		return 0, errs.Wrap(op, err)
	}
	defer conn.Close()
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	response, err := conn.Enrol(ctx, &v1.EnrolRequest{
		TokenId: token.ID, TokenSecret: token.Secret.Reveal(), EnrolmentId: begun.EnrolmentID, Csr: csr,
		Fingerprint: fingerprint, Node: e.cfg.Node(), AgentVersion: e.cfg.Version,
		LocalTime: timestamppb.New(e.cfg.Store.clock.Machine()),
	})
	if err != nil {
		return 0, errs.Wrap(op, errs.FromGRPC(err))
	}
	if response.GetServerTime() == nil {
		return 0, errs.New(errs.Internal, "the server's answer has no time")
	}
	if err := conn.follow(e.cfg.Store.clock, response.GetServerTime().AsTime()); err != nil {
		return 0, errs.Wrap(op, err)
	}
	switch response.GetState() {
	case v1.EnrolmentState_ENROLMENT_STATE_PENDING:
		return min(max(response.GetRetryAfter().AsDuration(), e.cfg.Poll), maxRetryAfter), nil
	case v1.EnrolmentState_ENROLMENT_STATE_ISSUED:
	default:
		return 0, errs.New(errs.Internal, "the server's answer has state %s", response.GetState())
	}
	store := e.cfg.Store
	if id := response.GetIdentity(); id.GetSite() != token.Site {
		return 0, errs.New(errs.Internal, "the server's answer is for site %q", id.GetSite())
	} else if len(id.GetEnrolAddresses()) == 0 {
		id.EnrolAddresses = token.Addresses
	}
	id, err := store.Propose(key, response.GetIdentity(), token.Fingerprint, 1)
	if err != nil {
		return 0, errs.Wrap(op, err)
	}
	skew := store.clock.Machine().Sub(store.clock.Now())
	e.cfg.Log.Info("enrolled", "site", id.Identity.Site, "node", id.Identity.Name, "serial", id.Serial(), "skew", skew)
	if err := errs.Join(store.SaveClock(), e.Finish()); err != nil {
		e.cfg.Log.Warn("cannot clean up after enrolment", "error", err)
	}
	return 0, nil
}

// begin returns key and enrolment id for a token; both are on disk. A new token begins a new enrolment with the same key, and
// so does a new name where the token names nobody: a person approves what was seen.
func (e *Enroller) begin(token *jointoken.Token) (signer, pending, error) {
	store := e.cfg.Store
	if err := store.mkdir(); err != nil {
		return nil, pending{}, err
	}
	key, err := certs.ReadKey(e.cfg.Host.Path(store.path(pendingKeyFile)))
	if errs.Is(err, errs.NotFound) {
		if key, err = certs.NewKey(); err == nil {
			err = certs.WriteKey(e.cfg.Host.Path(store.path(pendingKeyFile)), key)
		}
	}
	if err != nil {
		return nil, pending{}, errs.Wrap("make key", err)
	}
	var begun pending
	err = store.readJSON(store.path(pendingFile), &begun)
	node := e.cfg.Node()
	if err == nil && begun.TokenID == token.ID && begun.Fingerprint == token.Fingerprint && (token.ID != "" || begun.Node == node) {
		return key, begun, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.cfg.Log.Warn("the enrolment that was begun cannot be read and is begun anew", "error", err)
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, pending{}, errs.Wrap("make enrolment id", err)
	}
	begun = pending{EnrolmentID: hex.EncodeToString(raw), TokenID: token.ID, Fingerprint: token.Fingerprint, Node: node}
	return key, begun, store.writeJSON(store.path(pendingFile), begun, 0o600)
}

// Finish forgets the enrolment that led to the present identity: its token is marked as used and its files go. It is
// called again at start, in case the agent was stopped just before.
func (e *Enroller) Finish() error {
	store := e.cfg.Store
	var begun pending
	if err := store.readJSON(store.path(pendingFile), &begun); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err := store.addUsedToken(begun.TokenID); err != nil {
		return err
	}
	if err := e.tokens.remove(begun.TokenID); err != nil {
		return err
	}
	if err := e.cfg.Host.Remove(store.path(pendingKeyFile)); err != nil {
		return err
	}
	return e.cfg.Host.Remove(store.path(pendingFile))
}
