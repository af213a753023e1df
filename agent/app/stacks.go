package app

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/provider/containers"
	"github.com/infractl/infractl/agent/session"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Stacks are the container stacks of this host, and the engine that they run on.
type Stacks struct {
	*containers.Provider
	// Engine is the connection to the engine.
	Engine  *docker.Engine
	fetcher *lateFetcher
}

func newStacks(h *host.Host, log hclog.Logger) *Stacks {
	engine, err := docker.New(docker.Config{Socket: h.Path(docker.DefaultSocket), Log: log.Named("docker")})
	if err != nil { // the path of the default socket is always good
		panic(err)
	}
	fetcher := &lateFetcher{}
	return &Stacks{Engine: engine, fetcher: fetcher, Provider: containers.New(containers.Config{Host: h, Engine: engine,
		Fetcher: fetcher, Log: log.Named("containers")})}
}

// lateFetcher is the session as the provider of container stacks sees it, which is made before there is a session.
type lateFetcher struct {
	mu      sync.Mutex
	session *session.Session
}

func (f *lateFetcher) set(s *session.Session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session = s
}

func (f *lateFetcher) get() (*session.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.session == nil {
		return nil, errs.New(errs.Unavailable, "there is no connection to the server")
	}
	return f.session, nil
}

// Image implements containers.Fetcher.
func (f *lateFetcher) Image(ctx context.Context, digest string, offset uint64, each func(uint64, []byte) error) error {
	s, err := f.get()
	if err != nil {
		return err
	}
	return s.FetchImage(ctx, digest, offset, each)
}

// Content implements dns.Fetcher.
func (f *lateFetcher) Content(ctx context.Context, digest string) ([]byte, error) {
	s, err := f.get()
	if err != nil {
		return nil, err
	}
	return s.FetchContent(ctx, digest)
}

// Secrets implements containers.Fetcher.
func (f *lateFetcher) Secrets(ctx context.Context, refs []*v1.SecretRef) ([]*v1.SecretValue, error) {
	s, err := f.get()
	if err != nil {
		return nil, err
	}
	return s.FetchSecrets(ctx, refs)
}

// keepStacks brings containers back that are gone, and looks how the stacks are, never beside an apply.
func (a *App) keepStacks(ctx context.Context) {
	if a.providers.Stacks == nil {
		return
	}
	var done []string
	var err error
	alone := a.engine.Alone(ctx, func() { done, err = a.providers.Stacks.Repair(ctx) })
	if err = errs.Join(alone, err); err != nil && ctx.Err() == nil {
		a.log.Warn("cannot repair the container stacks", "error", err)
	}
	for _, line := range done {
		a.log.Warn("containers were started again", "what", line)
	}
	a.providers.Stacks.Report(ctx)
	if s := a.current(); s != nil {
		s.Report()
	}
}
