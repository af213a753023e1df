package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
)

// MaxRecoveries is how often a node may come back after an expiry of its own doing, until a person clears it.
const MaxRecoveries = 5

// nonceLife is how long a nonce may be signed.
const nonceLife = time.Minute

// nonces makes nonces that need no memory until they are used: time, random bytes, and a MAC over both and the node.
type nonces struct {
	clock clock.Clock
	key   [32]byte

	mu   sync.Mutex
	used map[string]time.Time
}

func newNonces(clk clock.Clock) *nonces {
	n := &nonces{clock: clk, used: make(map[string]time.Time)}
	_, _ = rand.Read(n.key[:])
	return n
}

const nonceHead = 8 + 16

func (n *nonces) make(node string) []byte {
	out := make([]byte, nonceHead)
	binary.BigEndian.PutUint64(out, uint64(n.clock.Now().UnixNano()))
	_, _ = rand.Read(out[8:])
	return append(out, n.mac(node, out)...)
}

func (n *nonces) mac(node string, head []byte) []byte {
	m := hmac.New(sha256.New, n.key[:])
	m.Write(head)
	m.Write([]byte(node))
	return m.Sum(nil)
}

// use reports whether the nonce was made for node, is fresh, and was not used before.
func (n *nonces) use(node string, nonce []byte) bool {
	if len(nonce) != nonceHead+sha256.Size ||
		subtle.ConstantTimeCompare(nonce[nonceHead:], n.mac(node, nonce[:nonceHead])) != 1 {
		return false
	}
	now := n.clock.Now()
	made := time.Unix(0, int64(binary.BigEndian.Uint64(nonce)))
	if now.Sub(made) > nonceLife || made.After(now) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, t := range n.used {
		if now.Sub(t) > nonceLife {
			delete(n.used, k)
		}
	}
	if _, again := n.used[string(nonce)]; again {
		return false
	}
	n.used[string(nonce)] = made
	return true
}

// Challenge implements EnrolmentService. It says nothing about whether there is such a node.
func (e *Enrolment) Challenge(ctx context.Context, req *v1.ChallengeRequest) (*v1.ChallengeResponse, error) {
	if err := e.limits.allow(access.CallerFrom(ctx).Address); err != nil {
		e.refuse(ctx, access.ReasonRate, req.GetNode(), err)
		return nil, retryLater(err, retryRate)
	}
	if err := certs.ValidateName("node", req.GetNode()); err != nil {
		return nil, err
	}
	return &v1.ChallengeResponse{Nonce: e.nonces.make(req.GetNode()), ServerTime: timestamppb.New(e.cfg.Clock.Now())}, nil
}

// RecoverMessage returns what a node signs to recover, before hashing.
func RecoverMessage(node string, nonce []byte, counter uint64) []byte {
	out := append([]byte("infractl recover\n"+node+"\n"), nonce...)
	return binary.BigEndian.AppendUint64(out, counter)
}

// Recover implements EnrolmentService: a certificate for a node that was away while its last one expired.
func (e *Enrolment) Recover(ctx context.Context, req *v1.RecoverRequest) (*v1.RecoverResponse, error) {
	if err := e.limits.allow(access.CallerFrom(ctx).Address); err != nil {
		e.refuse(ctx, access.ReasonRate, req.GetNode(), err)
		return nil, retryLater(err, retryRate)
	}
	hash, err := e.proveKey(req)
	if err != nil {
		return nil, e.refusal(ctx, access.ReasonRecovery, req.GetNode(), err)
	}
	if rev, err := e.cfg.Fleet.Revoked.Get(ctx, hash); err == nil {
		return nil, e.refusal(ctx, access.ReasonRevoked, req.GetNode(),
			access.RevokedError(e.cfg.Authority, "", hash, rev.Value.Identity))
	}
	issued, err := e.cfg.Authority.IssueNode(req.GetCsr(), req.GetNode())
	if err != nil {
		return nil, err
	}
	state, err := e.cfg.Fleet.ServerState(ctx)
	if err != nil {
		return nil, err
	}
	var v verdict
	n, err := e.cfg.Fleet.UpdateNode(ctx, req.GetNode(), func(n *fleet.Node) error {
		if n.KeyHash != hash || n.IsRevoked() {
			return errs.New(errs.Denied, "this key is not bound to the node")
		}
		if v = judgeRecovery(n, req, state); v.setAside != "" || v.refuse != "" {
			return errUnchanged
		}
		if !e.mayReturn(n.Name) {
			return errs.New(errs.Exhausted, "the node recovers too often").WithHint("the agent tries again later")
		}
		grant(n, req, state, v)
		n.Serial, n.NotAfter = issued.Serial, issued.NotAfter
		return nil
	})
	switch {
	case errs.Is(err, errs.NotFound):
		err = errs.New(errs.Denied, "this key is not bound to the node")
		return nil, e.refusal(ctx, access.ReasonRecovery, req.GetNode(), err)
	case v.setAside != "":
		a := setAsideOf(req.GetNode(), req.GetFingerprint(), "", access.CallerFrom(ctx).Address, v.setAside)
		a.Counter = req.GetJoinCounter()
		if err := e.cfg.Fleet.AddSetAside(ctx, a, e.cfg.Clock.Now(), maxSetAside); err != nil {
			return nil, err
		}
		return nil, e.refusal(ctx, access.ReasonClone, req.GetNode(), asideAnswer(a))
	case v.refuse != "":
		return nil, e.refusal(ctx, access.ReasonRecovery, req.GetNode(), errs.New(errs.Precondition, "%s", v.refuse).
			At("node "+req.GetNode()).WithHint("infractl node clear %s", req.GetNode()))
	case err != nil:
		return nil, e.refusal(ctx, access.ReasonRecovery, req.GetNode(), err)
	}
	e.cfg.Log.Info("identity recovered", "node", n.Name, "recoveries", n.Recoveries, "serial", issued.Serial)
	e.cfg.Recorder.Write(ctx, auditEntry(access.CallerFrom(ctx), v1.EnrolmentService_Recover_FullMethodName, n.Name, "ok",
		"recovered after expiry, serial "+issued.Serial))
	return &v1.RecoverResponse{
		Identity:   nodeIdentity(e.cfg.Authority, e.cfg.Addresses, n.Name, issued.ChainPEM),
		ServerTime: timestamppb.New(e.cfg.Clock.Now()), JoinCounter: n.JoinCounter,
	}, nil
}

// mayReturn bounds the recoveries of one node; it is asked once the node is known to be the one that asks.
func (e *Enrolment) mayReturn(node string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return allow(e.returns, node)
}

// proveKey returns the hash of the key that signed both the request for a certificate and the nonce.
func (e *Enrolment) proveKey(req *v1.RecoverRequest) (string, error) {
	if err := certs.ValidateName("node", req.GetNode()); err != nil {
		return "", err
	}
	if err := fleet.CheckFingerprint(req.GetFingerprint()); err != nil {
		return "", err
	}
	csr, err := parseCSR(req.GetCsr())
	if err != nil {
		return "", err
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return "", errs.New(errs.Invalid, "the key is not ECDSA")
	}
	if !e.nonces.use(req.GetNode(), req.GetNonce()) {
		return "", errs.New(errs.Denied, "the nonce is not a fresh one of this server").WithHint("ask for a new challenge")
	}
	sum := sha256.Sum256(RecoverMessage(req.GetNode(), req.GetNonce(), req.GetJoinCounter()))
	if len(req.GetSignature()) > 128 || !ecdsa.VerifyASN1(pub, sum[:], req.GetSignature()) {
		return "", errs.New(errs.Denied, "the nonce is not signed by the key of the request")
	}
	return fleet.KeyHash(pub)
}

func judgeRecovery(n *fleet.Node, req *v1.RecoverRequest, state fleet.ServerState) verdict {
	if !fleet.SameMachine(n.Fingerprint.M, req.GetFingerprint()) {
		return verdict{setAside: "another machine shows this node's key: a cloned disk"}
	}
	v := judgeCounter(n, req.GetJoinCounter(), state.Restores)
	if v.setAside == "" && v.refuse == "" && counts(n, state) && n.Recoveries >= MaxRecoveries {
		v.refuse = "the node has come back after an expiry too often"
	}
	return v
}

// counts reports whether a recovery is the node's own doing: not when the server was away as the certificate expired, and
// not when it only repeats one whose answer was lost.
func counts(n *fleet.Node, state fleet.ServerState) bool {
	return !state.WasDown(n.NotAfter) && !n.Recovering
}

func grant(n *fleet.Node, req *v1.RecoverRequest, state fleet.ServerState, v verdict) {
	if counts(n, state) {
		n.Recoveries++
	}
	if req.GetJoinCounter() > n.JoinCounter {
		n.JumpEpoch = state.Restores
	}
	n.KnownCounter = max(n.KnownCounter, req.GetJoinCounter())
	n.JoinCounter = n.KnownCounter + 1
	n.Recovering = true
	if v.alarm != "" {
		n.Alarm = v.alarm
	}
}
