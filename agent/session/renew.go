package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/status"

	"github.com/infractl/infractl/agent/enrol"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	renewTimeout = 15 * time.Second
	// Retries of a renewal that failed.
	renewRetry    = time.Minute
	maxRenewRetry = time.Hour
	// lastMinutes is how long before its end a certificate is replaced even in the middle of a task.
	lastMinutes = 10 * time.Minute
	// spread is the part of a certificate's life over which renewals of a fleet that enrolled at once are spread.
	spread = 60
)

// renewal is the state of renewing; guarded by Session.mu.
type renewal struct {
	running bool
	next    time.Time // not before, after a failure
	failed  int
	due     map[string]time.Time // by serial number
}

// dueAt returns when a certificate is to be renewed: after two thirds of its life and a random while.
func (r *renewal) dueAt(id *enrol.Identity) time.Time {
	if at, ok := r.due[id.Serial()]; ok {
		return at
	}
	at := certs.RenewAt(id.Leaf)
	if life := id.Leaf.NotAfter.Sub(at); life > 0 {
		at = at.Add(time.Duration(rand.Int64N(int64(life/spread) + 1)))
	}
	r.due = map[string]time.Time{id.Serial(): at}
	return at
}

// renewWhenDue begins a renewal when it is time, and asks for a new connection once there is a certificate to prove and
// nothing runs that the change could disturb.
func (l *link) renewWhenDue(ctx context.Context) error {
	now := l.clock.Now()
	list, err := l.store.Identities()
	if err != nil {
		return nil // read again with the next heartbeat; the session needs it no more
	}
	if newest := list[0]; newest.Candidate && newest.Serial() != l.id.Serial() {
		l.mu.Lock()
		wait := now.Before(l.renewal.next)
		l.mu.Unlock()
		if !wait && (!l.tasks.busy() || l.id.Leaf.NotAfter.Sub(now) < lastMinutes) {
			return errAgain
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.renewal
	if r.running || now.Before(r.dueAt(l.id)) || now.Before(r.next) {
		return nil
	}
	r.running = true
	go l.renew(ctx)
	return nil
}

// renew asks for a new certificate and stores it as the candidate.
func (l *link) renew(ctx context.Context) {
	err := l.askRenewal(ctx)
	l.mu.Lock()
	r := &l.renewal
	r.running = false
	if err == nil {
		r.failed, r.next = 0, time.Time{}
	} else {
		backoff := enrol.Backoff{Base: renewRetry, Max: maxRenewRetry}
		r.next = l.clock.Now().Add(renewRetry/2 + backoff.Delay(r.failed, err))
		r.failed++
	}
	l.mu.Unlock()
	if err != nil {
		l.log.Error("certificate not renewed", "error", err, "not_after", l.id.Leaf.NotAfter)
		return
	}
	l.log.Info("certificate renewed, to be proven by the next connection")
	if !l.tasks.busy() {
		l.again <- struct{}{}
	}
}

func (l *link) askRenewal(ctx context.Context) error {
	csr, err := certs.MakeCSR(l.id.Key())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	answer, err := l.client.RenewCertificate(ctx, &v1.RenewCertificateRequest{Csr: csr})
	if err != nil {
		return errs.Wrap("renew certificate", errs.FromGRPC(err))
	}
	given := answer.GetIdentity()
	if given.GetSite() != l.id.Identity.Site || given.GetNode() != l.id.Identity.Name {
		return errs.New(errs.Internal, "the server's answer is for another node")
	}
	if len(given.GetEnrolAddresses()) == 0 {
		given.EnrolAddresses = l.id.Enrol
	}
	roots, err := certs.DecodeCerts(l.id.RootPEM)
	if err != nil {
		return err
	}
	_, err = l.store.Propose(l.id.Key(), given, certs.FingerprintOf(roots[0]), answer.GetJoinCounter())
	return err
}

// proven is called when the server has welcomed the identity of this link: a candidate becomes the present one; a
// candidate that just failed while the one before it works is dropped, and renewed anew later.
func (l *link) proven() {
	if l.id.Candidate {
		if err := l.store.Promote(); err != nil {
			l.log.Error("cannot promote the new certificate", "error", err)
			return
		}
		l.log.Info("new certificate proven", "serial", l.id.Serial(), "not_after", l.id.Leaf.NotAfter)
		return
	}
	list, err := l.store.Identities()
	l.mu.Lock()
	refused := l.refused
	l.mu.Unlock()
	if err != nil || !list[0].Candidate || list[0].Serial() != refused {
		return
	}
	l.log.Warn("the new certificate did not work and is dropped", "serial", list[0].Serial())
	if err := l.store.DropCandidate(); err != nil {
		l.log.Error("cannot drop the new certificate", "error", err)
	}
	l.mu.Lock()
	l.renewal.next = l.clock.Now().Add(renewRetry)
	l.mu.Unlock()
}

// judge looks for a genuine notice of revocation in an error; it is the only thing that ends an identity.
func (s *Session) judge(err error, held []*enrol.Identity) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		st, ok := e.(interface{ GRPCStatus() *status.Status })
		if !ok {
			continue
		}
		for _, d := range st.GRPCStatus().Details() {
			notice, ok := d.(*v1.RevocationNotice)
			if !ok {
				continue
			}
			for _, id := range held {
				_, verr := certs.VerifyNotice(id.RootPEM, id.Identity.Site, id.Serial(), certs.KeyHash(id.Leaf), notice.GetSignature())
				if verr == nil {
					return &RevokedError{Serial: id.Serial()}
				}
				s.log.Warn("a notice of revocation is not for this identity", "error", verr)
			}
		}
	}
	return err
}
