package fleet

import (
	"context"
	"time"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/store"
)

// serverRecord is the name of the one record of KindServer.
const serverRecord = "state"

// Downtimes kept, and the shortest absence that counts as one: a restart does not.
const (
	maxDowntimes = 100
	minDowntime  = 2 * time.Minute
	// AliveEvery is how often a running server says so.
	AliveEvery = time.Minute
)

// ServerState is what the server remembers of itself.
type ServerState struct {
	// Alive is when it last said that it runs.
	Alive time.Time `json:"alive"`
	// Downtimes are when it did not run, oldest first.
	Downtimes []Downtime `json:"downtimes,omitempty"`
	// Restores counts how often its state was put back from a backup; after each one, join counters may jump forward once.
	Restores int `json:"restores,omitempty"`
	// Restore is the latest of them, nil for none.
	Restore *Restore `json:"restore,omitempty"`
}

// Downtime is a time in which the server did not run.
type Downtime struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// WasDown reports whether the server did not run at t.
func (s ServerState) WasDown(t time.Time) bool {
	for _, d := range s.Downtimes {
		if !t.Before(d.From) && !t.After(d.To) {
			return true
		}
	}
	return false
}

// ServerState returns what the server remembers of itself; the zero state before its first start.
func (f *Fleet) ServerState(ctx context.Context) (ServerState, error) {
	it, err := f.servers().Get(ctx, serverRecord)
	if errs.Is(err, errs.NotFound) {
		return ServerState{}, nil
	}
	return it.Value, err
}

// Alive notes that the server runs at now. A gap since the last note becomes a downtime.
func (f *Fleet) Alive(ctx context.Context, now time.Time) error {
	return f.updateServer(ctx, func(s *ServerState) {
		if !s.Alive.IsZero() && now.Sub(s.Alive) > minDowntime {
			s.Downtimes = append(s.Downtimes, Downtime{From: s.Alive, To: now})
			if extra := len(s.Downtimes) - maxDowntimes; extra > 0 {
				s.Downtimes = s.Downtimes[extra:]
			}
		}
		s.Alive = now
	})
}

func (f *Fleet) servers() *store.Table[ServerState] {
	return store.NewTable(f.store, KindServer, store.JSON[ServerState]())
}

func (f *Fleet) updateServer(ctx context.Context, change func(*ServerState)) error {
	return Retry(ctx, func() error {
		it, err := f.servers().Get(ctx, serverRecord)
		if err != nil && !errs.Is(err, errs.NotFound) {
			return err
		}
		change(&it.Value)
		_, err = f.servers().Put(ctx, serverRecord, it.Value, it.Revision)
		return err
	})
}

// Retry calls step again as long as it fails because somebody else was faster, 20 times at most.
func Retry(ctx context.Context, step func() error) error {
	var err error
	for range 20 {
		if err = step(); !errs.Is(err, errs.Conflict) && !errs.Is(err, errs.Exists) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}
