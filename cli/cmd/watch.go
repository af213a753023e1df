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
// taken up again for watchPatience; the rollout does not depend on it.
const (
	watchPatience = 2 * time.Minute
	watchPause    = time.Second
)

// watch follows a rollout to its end, shows each change once, and takes a witness's place when the server asks for it. The
// rollout as last seen is returned with an error too.
func (a *app) watch(ctx context.Context, conn *grpc.ClientConn, id, identity string) (*v1.Rollout, error) {
	api, show := v1.NewRolloutServiceClient(conn), newProgress(a)
	w := &watcher{api: api, id: id, show: show, witness: &witness{app: a, api: api, identity: identity, note: show.note}}
	defer w.witness.close()
	// Observations belong to the rollout that is watched: they end with it.
	ctx, cancel := context.WithCancel(ctx)
	defer w.looking.Wait()
	defer cancel()
	for {
		err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return w.last, ctx.Err()
		case err == nil && w.ended():
			return w.last, nil
		case err != nil && !errs.Is(errs.FromGRPC(err), errs.Unavailable):
			return w.last, err
		case err != nil && w.id == "": // it never began: that is for the operator to know at once
			return nil, err
		}
		if err := w.pause(ctx, err); err != nil {
			return w.last, err
		}
	}
}

// watcher is one watch over several streams.
type watcher struct {
	api     v1.RolloutServiceClient
	id      string
	show    *progress
	witness *witness
	last    *v1.Rollout
	lost    time.Time // when the watch was lost; zero while it is live
	looking sync.WaitGroup
}

func (w *watcher) ended() bool {
	s := w.last.GetState()
	return s != v1.RolloutState_ROLLOUT_STATE_UNSPECIFIED && s != v1.RolloutState_ROLLOUT_STATE_RUNNING
}

// once follows one stream to its end.
func (w *watcher) once(ctx context.Context) error {
	if w.lost.IsZero() {
		return w.receive(ctx, ctx, func() {})
	}
	// A call that waits for the server to come back waits for ever without a limit.
	stream, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.AfterFunc(time.Until(w.lost.Add(watchPatience)), cancel)
	defer limit.Stop()
	err := w.receive(stream, ctx, func() { limit.Stop() }, grpc.WaitForReady(true))
	if stream.Err() != nil && ctx.Err() == nil {
		return errs.New(errs.Unavailable, "no answer in time")
	}
	return err
}

// receive follows one stream; what it starts lives as long as ctx, which is longer.
func (w *watcher) receive(stream, ctx context.Context, live func(), opts ...grpc.CallOption) error {
	messages, err := w.api.WatchRollout(stream, &v1.WatchRolloutRequest{Id: w.id}, opts...)
	if err != nil {
		return err
	}
	for {
		m, err := messages.Recv()
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
		if r := m.GetRollout(); r != nil {
			w.last, w.id = r, r.GetId()
			w.show.update(r)
		}
		if req := m.GetWitnessRequest(); req != nil {
			w.looking.Go(func() { w.witness.look(ctx, req) })
		}
	}
}

// pause waits before the watch is taken up again, and gives up after watchPatience.
func (w *watcher) pause(ctx context.Context, err error) error {
	if w.lost.IsZero() {
		w.lost = time.Now()
		w.show.note("the connection to the server is lost; the rollout goes on, and so does this watch when it is back")
	}
	if time.Since(w.lost) > watchPatience {
		return errs.New(errs.Unavailable, "the server does not answer: %v", err).WithHint("follow the rollout later: infractl rollout watch %s", w.id)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watchPause):
		return nil
	}
}
