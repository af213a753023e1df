package cmd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// A rollout may cut the operator's own way for a while: a commit reverts after its window, a server restarts. A lost watch is
// taken up again for watchPatience; what is watched does not depend on it.
const (
	watchPatience = 2 * time.Minute
	watchPause    = time.Second
)

// watch follows a rollout to its end, shows each change once, and takes a witness's place when the server asks for it. The
// rollout as last seen is returned with an error too.
func (a *app) watch(ctx context.Context, conn *grpc.ClientConn, id, identity string) (*v1.Rollout, error) {
	api, show := v1.NewRolloutServiceClient(conn), newProgress(a)
	help := &witness{app: a, api: api, people: v1.NewOperatorServiceClient(conn), identity: identity, note: show.note}
	defer help.close()
	// Observations belong to the rollout that is watched: they end with it.
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel()
	var last *v1.Rollout
	w := &watcher{what: "rollout", id: id, show: show}
	w.open = func(stream context.Context, opts ...grpc.CallOption) (func() error, error) {
		messages, err := api.WatchRollout(stream, &v1.WatchRolloutRequest{Id: w.id}, opts...)
		if err != nil {
			return nil, err
		}
		return func() error {
			m, err := messages.Recv()
			if err != nil {
				return err
			}
			if r := m.GetRollout(); r != nil {
				last, w.id = r, r.GetId()
				w.ended = rolloutEnded(r.GetState())
				show.say(r.GetMessage())
				show.update(rowsOfRollout(r))
			}
			if req := m.GetWitnessRequest(); req != nil {
				looking.Go(func() { help.look(ctx, req) })
			}
			return nil
		}, nil
	}
	err := w.follow(ctx)
	return last, err
}

// watchOperation follows an operation of steps until it moves no further by itself. It is returned with an error too.
func (a *app) watchOperation(ctx context.Context, conn *grpc.ClientConn, id string) (*v1.Operation, error) {
	show := newProgress(a)
	return a.watchOperationOn(ctx, conn, id, show, func(now *v1.Operation) {
		if !operationStill(now.GetState()) {
			show.say(now.GetMessage())
		}
		show.update(rowsOfOperation(now))
	})
}

// watchOperationOn does the same for one of several operations that are shown together; see hears of each change.
func (a *app) watchOperationOn(ctx context.Context, conn *grpc.ClientConn, id string, show *progress, see func(*v1.Operation)) (*v1.Operation, error) {
	api := v1.NewOperationServiceClient(conn)
	var last *v1.Operation
	w := &watcher{what: "operation", id: id, show: show}
	w.open = func(stream context.Context, opts ...grpc.CallOption) (func() error, error) {
		messages, err := api.WatchOperation(stream, &v1.WatchOperationRequest{Id: w.id}, opts...)
		if err != nil {
			return nil, err
		}
		return func() error {
			m, err := messages.Recv()
			if err != nil {
				return err
			}
			last, w.id = m.GetOperation(), m.GetOperation().GetId()
			w.ended = operationStill(last.GetState())
			see(last)
			return nil
		}, nil
	}
	err := w.follow(ctx)
	return last, err
}

func rolloutEnded(s v1.RolloutState) bool {
	switch s {
	case v1.RolloutState_ROLLOUT_STATE_UNSPECIFIED, v1.RolloutState_ROLLOUT_STATE_RUNNING, v1.RolloutState_ROLLOUT_STATE_PAUSED:
		return false
	}
	return true
}

// operationStill says that an operation ended, or waits for a person.
func operationStill(s v1.OperationState) bool {
	switch s {
	case v1.OperationState_OPERATION_STATE_UNSPECIFIED, v1.OperationState_OPERATION_STATE_RUNNING,
		v1.OperationState_OPERATION_STATE_PAUSED, v1.OperationState_OPERATION_STATE_UNDOING:
		return false
	}
	return true
}

// watcher is one watch over several streams.
type watcher struct {
	what string
	id   string
	show *progress
	// open begins a stream; what it returns takes in one message.
	open  func(ctx context.Context, opts ...grpc.CallOption) (receive func() error, err error)
	ended bool
	lost  time.Time // when the watch was lost; zero while it is live
}

// follow follows what is watched to its end.
func (w *watcher) follow(ctx context.Context) error {
	for {
		err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && w.ended:
			return nil
		case err != nil && !errs.Is(errs.FromGRPC(err), errs.Unavailable):
			return err
		case err != nil && w.id == "": // it never began: that is for the operator to know at once
			return err
		}
		if err := w.pause(ctx, err); err != nil {
			return err
		}
	}
}

// once follows one stream to its end.
func (w *watcher) once(ctx context.Context) error {
	if w.lost.IsZero() {
		return w.receive(ctx, func() {})
	}
	// A call that waits for the server to come back waits for ever without a limit.
	stream, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(time.Until(w.lost.Add(watchPatience)), cancel)
	defer limit.Stop()
	err := w.receive(stream, func() { limit.Stop() }, grpc.WaitForReady(true))
	if stream.Err() != nil && ctx.Err() == nil {
		return errs.New(errs.Unavailable, "no answer in time")
	}
	return err
}

func (w *watcher) receive(stream context.Context, live func(), opts ...grpc.CallOption) error {
	receive, err := w.open(stream, opts...)
	if err != nil {
		return err
	}
	for {
		err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		live()
		if !w.lost.IsZero() {
			w.lost = time.Time{}
			w.show.note("connected again")
		}
	}
}

// pause waits before the watch is taken up again, and gives up after watchPatience.
func (w *watcher) pause(ctx context.Context, err error) error {
	if w.lost.IsZero() {
		w.lost = time.Now()
		w.show.note("the connection to the server is lost; the %s goes on, and so does this watch when it is back", w.what)
	}
	if time.Since(w.lost) > watchPatience {
		return errs.New(errs.Unavailable, "the server does not answer: %v", err).
			WithHint("follow the %s later: infractl operation watch %s", w.what, w.id)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watchPause):
		return nil
	}
}
