package session_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

const week = 7 * 24 * time.Hour

func TestOnlyAGenuineNoticeEndsAnIdentity(t *testing.T) {
	server, foreign := sessiontest.New(t, nil), sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	serial := x.Identity.Serial
	var refusals atomic.Int32
	var answer atomic.Pointer[error]
	server.Set(func(s *sessiontest.Server) {
		s.Call = func(string, certs.Identity) error { refusals.Add(1); return *answer.Load() }
	})
	for name, err := range map[string]error{
		"denied":          errs.New(errs.Denied, "you are revoked, says somebody"),
		"revoked by word": errs.New(errs.Revoked, "you are revoked"),
		"unauthenticated": errs.New(errs.Unauthenticated, "who are you"),
		"overload":        errs.New(errs.Exhausted, "busy"),
		"other serial":    server.RevokedError(t, "00000000000000000000000000000001"),
		"foreign signer":  foreign.RevokedError(t, serial),
	} {
		answer.Store(&err)
		before := refusals.Load()
		x.End(err)
		eventually(t, name+" is tried again", func() bool { return refusals.Load() > before+2 })
		select {
		case err := <-a.ended:
			t.Fatalf("%s ended the identity: %v", name, err)
		default:
		}
	}
	genuine := server.RevokedError(t, serial)
	answer.Store(&genuine)
	select {
	case err := <-a.ended:
		var revoked *session.RevokedError
		if !errors.As(err, &revoked) || revoked.Serial != serial {
			t.Fatalf("got %v, want revoked", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the genuine notice changed nothing")
	}
}

// TestRevokedKeyEndsEachOfItsCertificates: a renewal whose answer was lost leaves the agent with an older serial number than
// the server knows.
func TestRevokedKeyEndsEachOfItsCertificates(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	list, err := a.store.Identities()
	if err != nil {
		t.Fatal(err)
	}
	x.End(server.RevokedKeyError(t, "00000000000000000000000000000001", certs.KeyHash(list[0].Leaf)))
	var revoked *session.RevokedError
	if err := <-a.ended; !errors.As(err, &revoked) {
		t.Fatalf("got %v, want revoked", err)
	}
}

func TestRevocationCutsALiveStream(t *testing.T) {
	server := sessiontest.New(t, nil)
	a := newAgent(t, server)
	x := a.start()
	x.End(server.RevokedError(t, x.Identity.Serial))
	var revoked *session.RevokedError
	if err := <-a.ended; !errors.As(err, &revoked) {
		t.Fatalf("got %v, want revoked", err)
	}
}

func TestRenewalByCandidate(t *testing.T) {
	clk := clock.NewAdjustable(clock.System{})
	server := sessiontest.New(t, clk)
	a := newAgent(t, server)
	a.clock = clk
	x := a.start()
	old := x.Identity.Serial
	clk.SetOffset(week * 7 / 10)
	x = server.Next(t) // the stream comes again, with the new certificate
	if x.Identity.Serial == old || server.Renewals() != 1 {
		t.Fatalf("got serial %s after %d renewals, want a new one after 1", x.Identity.Serial, server.Renewals())
	}
	if got := x.Hello.GetJoinCounter(); got != 2 {
		t.Errorf("got join counter %d, want 2", got)
	}
	eventually(t, "promoted", func() bool {
		list, err := a.store.Identities()
		return err == nil && len(list) == 1 && !list[0].Candidate && list[0].Serial() == x.Identity.Serial
	})
}

func TestRefusedCandidateIsDropped(t *testing.T) {
	clk := clock.NewAdjustable(clock.System{})
	server := sessiontest.New(t, clk)
	a := newAgent(t, server)
	a.clock = clk
	x := a.start()
	old := x.Identity.Serial
	server.Set(func(s *sessiontest.Server) {
		s.Call = func(method string, id certs.Identity) error {
			if method == "Connect" && id.Serial != old {
				return errs.New(errs.Internal, "this server has a defect")
			}
			return nil
		}
	})
	clk.SetOffset(week * 7 / 10)
	x = server.Next(t)
	if x.Identity.Serial != old {
		t.Errorf("got serial %s, want the old one", x.Identity.Serial)
	}
	eventually(t, "the old one stands alone", func() bool {
		list, err := a.store.Identities()
		return err == nil && len(list) == 1 && list[0].Serial() == old
	})
}

func TestExpiredCertificateIsRecovered(t *testing.T) {
	t.Run("WhileItWasOff", func(t *testing.T) {
		clk := clock.NewAdjustable(clock.System{})
		server := sessiontest.New(t, clk)
		a := newAgent(t, server)
		a.clock = clk
		old := a.start().Identity.Serial
		a.stop()
		clk.SetOffset(2 * week)
		x := a.start()
		if x.Identity.Serial == old || server.Recovers() != 1 || x.Hello.GetJoinCounter() != 2 {
			t.Errorf("got serial %s, %d recoveries, counter %d", x.Identity.Serial, server.Recovers(), x.Hello.GetJoinCounter())
		}
	})
	t.Run("AndItsClockStoodStill", func(t *testing.T) {
		clk := clock.NewAdjustable(clock.System{})
		server := sessiontest.New(t, clk)
		a := newAgent(t, server)
		a.start()
		a.stop()
		clk.SetOffset(2 * week)
		a.start()
		if server.Recovers() != 1 {
			t.Errorf("got %d recoveries, want 1", server.Recovers())
		}
	})
	t.Run("NotWhenOnlyTheAgentsClockIsWrong", func(t *testing.T) {
		server := sessiontest.New(t, nil)
		a := newAgent(t, server)
		a.start()
		a.stop()
		for _, wrong := range []time.Duration{3 * 365 * 24 * time.Hour, -3 * 365 * 24 * time.Hour} {
			a.clock.SetOffset(wrong)
			a.start()
			a.stop()
		}
		if server.Recovers() != 0 {
			t.Errorf("got %d recoveries, want none", server.Recovers())
		}
	})
	t.Run("RevokedMeanwhile", func(t *testing.T) {
		clk := clock.NewAdjustable(clock.System{})
		server := sessiontest.New(t, clk)
		a := newAgent(t, server)
		a.clock = clk
		serial := a.start().Identity.Serial
		a.stop()
		clk.SetOffset(2 * week)
		notice := server.RevokedError(t, serial)
		server.Set(func(s *sessiontest.Server) { s.RecoverError = notice })
		a.run()
		var revoked *session.RevokedError
		if err := <-a.ended; !errors.As(err, &revoked) {
			t.Fatalf("got %v, want revoked", err)
		}
	})
}
