package app

import (
	"sync"

	"github.com/infractl/infractl/agent/metrics"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// newMetrics makes the metrics page, which follows the spec that the engine has stored.
func (a *App) newMetrics() *metrics.Service {
	spec := &storedSpec{digest: func() string { return a.engine.State().GetSpecDigest() }, read: a.engine.Spec}
	cfg := metrics.Config{Host: a.host, StateDir: a.cfg.StateDir, Spec: spec.metrics, Issuer: a.issuer, Registry: a.registry,
		Clock: a.clock, Log: a.log.Named("metrics")}
	if s := a.providers.Stacks; s != nil {
		cfg.Containers = s.Engine
	}
	return metrics.New(cfg)
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
