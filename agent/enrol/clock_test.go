package enrol

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

func TestClockSurvivesAStepOfTheMachine(t *testing.T) {
	right := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	machine := clock.NewFake(right.Add(-72 * time.Hour))
	var steady time.Duration
	c := NewClock(machine, func() time.Duration { return steady })
	c.Follow(right)
	pass := func(d time.Duration) { steady += d; machine.Advance(d); right = right.Add(d) }
	check := func(when string) {
		t.Helper()
		if got := c.Now(); !got.Equal(right) {
			t.Errorf("%s: got %s, want %s", when, got, right)
		}
	}
	pass(time.Minute)
	check("before the step")
	machine.Advance(72 * time.Hour) // NTP sets the clock
	check("after the step")
	pass(time.Hour)
	check("an hour later")
	if got := c.Offset(); got != 0 {
		t.Errorf("got offset %s, want 0", got)
	}
	machine.Advance(-time.Hour) // somebody sets it wrong
	check("after a step back")
}

func TestBackoff(t *testing.T) {
	b := Backoff{Base: time.Second, Max: 30 * time.Second}
	asked, err := status.New(codes.Unavailable, "busy").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(5 * time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	wrapped := errs.Wrap("connect", errs.FromGRPC(asked.Err()))
	for n := range 100 {
		if got := b.Delay(n, nil); got < 0 || got > b.Max || (n == 0 && got > b.Base) {
			t.Errorf("try %d: got %s", n, got)
		}
		if got := b.Delay(n, wrapped); got < 5*time.Second || got > 8*time.Second {
			t.Errorf("try %d: got %s, want the 5 s that the server asked for and a little more", n, got)
		}
	}
}

func TestRaceTakesTheAddressThatAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	started := time.Now()
	conn, err := race(context.Background(), []string{closed.Addr().String(), listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if took := time.Since(started); took > stagger {
		t.Errorf("took %s: a refused address must not be waited for", took)
	}
	if _, err := race(context.Background(), []string{closed.Addr().String()}); err == nil {
		t.Error("got a connection, want an error")
	}
}
