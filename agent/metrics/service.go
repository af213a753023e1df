// Package metrics is the agent's metrics page: node_exporter's collectors, containers under cAdvisor's names, and the agent's
// own numbers, over mutual TLS on the port that the host's spec names.
//
// It is no provider: it follows the spec that is stored on the host, so that it starts, moves and stops with it, waits for an
// address that comes late, and goes on when a reboot or a new certificate comes between.
package metrics

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/clock"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// followEvery is how often the stored spec is looked at.
const followEvery = 2 * time.Second

// Issuer asks the server for certificates of services; *session.Session is one.
type Issuer interface {
	Issue(ctx context.Context, purpose v1.Purpose, csr []byte) (*v1.IssueCertificateResponse, error)
}

// Config is what a Service needs.
type Config struct {
	// Host is the machine.
	Host *host.Host
	// StateDir is the agent's folder; the scraper's files go below it.
	StateDir string
	// Spec returns what is wanted now; nil means no page.
	Spec func() *v1.MetricsSpec
	// Issuer returns the present session; nil while there is none.
	Issuer func() Issuer
	// Registry holds the agent's own metrics.
	Registry *prometheus.Registry
	// Containers lists containers; nil where there is no engine.
	Containers Engine
	// Clock is the agent's clock.
	Clock clock.Clock
	Log   hclog.Logger
}

// Service keeps the page.
type Service struct {
	cfg     Config
	page    *page
	cert    *keeper
	scraper *scraper
	usage   *Usage

	mu        sync.Mutex
	listening map[string]*listener // by host:port
	waiting   map[string]string    // addresses that cannot be listened on, and why
	problem   string
}

type listener struct {
	net.Listener
	server *http.Server
}

// New returns a service. It registers what the page adds to the agent's metrics. There is one per process: node_exporter's
// collectors keep their state in package variables.
func New(cfg Config) *Service {
	reader := newReader(cfg.Host)
	list := newList(cfg.Containers, reader, cfg.Log)
	node := newNodeCollector(cfg.Host, reader, cfg.Log)
	s := &Service{cfg: cfg, listening: map[string]*listener{}, waiting: map[string]string{}}
	s.page = newPage(cfg, node, &containers{list: list, reader: reader, now: time.Now})
	s.cert = newKeeper(cfg, v1.Purpose_PURPOSE_METRICS)
	s.scraper = newScraper(cfg)
	s.usage = &Usage{host: cfg.Host, list: list, reader: reader}
	return s
}

// Usage measures what host and containers use.
func (s *Service) Usage() *Usage { return s.usage }

// Run follows the spec until ctx ends; then the page is gone.
func (s *Service) Run(ctx context.Context) {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	defer s.listen(nil)
	for {
		s.follow(ctx, s.cfg.Spec())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *Service) follow(ctx context.Context, spec *v1.MetricsSpec) {
	s.scraper.follow(ctx, spec.GetScraper())
	if spec == nil {
		s.cert.forget()
		s.listen(nil)
		s.tell("")
		return
	}
	s.page.allow(spec.GetClients())
	if err := s.cert.follow(ctx, ips(spec)); err != nil && !s.cert.usable() {
		s.tell("the metrics page waits for its certificate: " + err.Error())
		return
	}
	s.listen(spec)
}

func ips(spec *v1.MetricsSpec) []net.IP {
	var out []net.IP
	for _, a := range spec.GetListenAddresses() {
		if ip := net.ParseIP(a); ip != nil {
			out = append(out, ip)
		}
	}
	return out
}

// listen listens where spec says and nowhere else. An address that is not there yet is tried again.
func (s *Service) listen(spec *v1.MetricsSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var want []string
	for _, ip := range ips(spec) {
		want = append(want, net.JoinHostPort(ip.String(), strconv.Itoa(int(spec.GetPort()))))
	}
	for at, l := range s.listening {
		if !slices.Contains(want, at) {
			_ = l.server.Close()
			delete(s.listening, at)
			s.cfg.Log.Info("metrics page closed", "address", at)
		}
	}
	for at := range s.waiting {
		if !slices.Contains(want, at) {
			delete(s.waiting, at)
		}
	}
	for _, at := range want {
		if s.listening[at] != nil {
			continue
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			if s.waiting[at] == "" {
				s.cfg.Log.Warn("metrics page cannot listen, tried again", "address", at, "error", err)
			}
			s.waiting[at] = err.Error()
			continue
		}
		delete(s.waiting, at)
		s.listening[at] = s.serve(l, at)
	}
}

func (s *Service) serve(l net.Listener, at string) *listener {
	server := s.page.server(s.cert)
	s.cfg.Log.Info("metrics page open", "address", at)
	go func() {
		_ = server.ServeTLS(l, "", "") // it ends when follow closes it, or its listener breaks:
		s.mu.Lock()
		defer s.mu.Unlock()
		if mine := s.listening[at]; mine != nil && mine.server == server {
			delete(s.listening, at) // then follow opens it again
		}
	}()
	return &listener{Listener: l, server: server}
}

func (s *Service) tell(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem != problem && problem != "" {
		s.cfg.Log.Warn(problem)
	}
	s.problem = problem
}

// Warnings are what people should know: why the page, or the scraper's certificate, is not there.
func (s *Service) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.problem != "" && len(s.listening) == 0 {
		out = append(out, s.problem)
	}
	for at, why := range s.waiting {
		out = append(out, "the metrics page cannot listen on "+at+": "+why)
	}
	slices.Sort(out)
	return append(out, s.scraper.warnings()...)
}

// Listening returns the addresses of the page, sorted.
func (s *Service) Listening() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.listening {
		out = append(out, l.Addr().String())
	}
	slices.Sort(out)
	return out
}
