package session

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/internal/mtls"
)

// gauges are what the agent shows of its session.
type gauges struct {
	up prometheus.Gauge
}

func newGauges(registerer prometheus.Registerer, s *Session) *gauges {
	g := &gauges{up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "infractl_agent_session_up",
		Help: "Whether the agent has a session with its server."})}
	if registerer == nil {
		return g
	}
	skew := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "infractl_agent_clock_skew_seconds",
		Help: "How far the machine's clock is ahead of the server's, in seconds."},
		func() float64 { return -s.clock.Offset().Seconds() })
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "infractl_agent_tasks_running",
		Help: "How many tasks the agent is at work on."}, func() float64 {
		s.tasks.mu.Lock()
		defer s.tasks.mu.Unlock()
		return float64(len(s.tasks.running))
	})
	expiry := mtls.NewExpiryCollector(mtls.ExpirySource{Which: "node", NotAfter: func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.current == nil {
			return time.Time{}
		}
		return s.current.Leaf.NotAfter
	}})
	for _, c := range []prometheus.Collector{g.up, skew, running, expiry} {
		// A second session of the same agent (after a new enrolment) takes the place of the first.
		registerer.Unregister(c)
		if err := registerer.Register(c); err != nil {
			s.log.Error("cannot register a gauge", "error", err)
		}
	}
	return g
}
