package app

import (
	"sync"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/metrics"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// newMetrics makes the metrics page, which follows the spec that the engine has stored.
func (a *App) newMetrics() (*metrics.Service, error) {
	engine, err := docker.New(docker.Config{Socket: a.host.Path(docker.DefaultSocket), Log: a.log.Named("metrics")})
	if err != nil {
		return nil, errs.Wrap("set the metrics page up", err)
	}
	spec := &storedSpec{digest: func() string { return a.engine.State().GetSpecDigest() }, read: a.engine.Spec}
	return metrics.New(metrics.Config{Host: a.host, StateDir: a.cfg.StateDir, Spec: spec.metrics, Issuer: a.issuer,
		Registry: a.registry, Containers: engine, Clock: a.clock, Log: a.log.Named("metrics")}), nil
}

// issuer is the session, while the server knows of it.
func (a *App) issuer() metrics.Issuer {
	if s := a.current(); s != nil && s.Status().Connected {
		return s
	}
	return nil
}

// storedSpec reads the stored spec anew only when it is another one.
type storedSpec struct {
	digest func() string
	read   func() *v1.HostSpec

	mu   sync.Mutex
	of   string
	have *v1.MetricsSpec
}

func (s *storedSpec) metrics() *v1.MetricsSpec {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.digest()
	if now == s.of {
		return s.have
	}
	spec := s.read()
	if spec == nil {
		return s.have // it could not be read: what is known goes on
	}
	s.of, s.have = now, spec.GetMetrics()
	return s.have
}
