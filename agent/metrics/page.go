package metrics

import (
	"context"
	"crypto/tls"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
)

// turnLimit is how long a scrape waits for the one before it. Prometheus gives up after 10 s.
const turnLimit = 5 * time.Second

// page answers scrapes, one at a time.
type page struct {
	cfg     Config
	handler http.Handler
	more    *containers
	refused *prometheus.CounterVec
	turn    chan struct{}

	mu      sync.Mutex
	clients []string
}

func newPage(cfg Config, node prometheus.Collector, more *containers) *page {
	p := &page{cfg: cfg, more: more, turn: make(chan struct{}, 1), refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "infractl_agent_metrics_refused_total", Help: "Requests for the metrics page that were refused, by reason."},
		[]string{"reason"})}
	for _, reason := range []string{"client", "expired", "busy"} {
		p.refused.WithLabelValues(reason)
	}
	for _, c := range []prometheus.Collector{p.refused, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), node} {
		if err := cfg.Registry.Register(c); err != nil {
			cfg.Log.Error("a metric is left out", "error", err)
		}
	}
	// Uncompressed: the page crosses one LAN, and compressing costs more than all of the rest. Its time is bounded by what the
	// collectors and the list of containers may take.
	answer := promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{Registry: cfg.Registry, ErrorHandling: promhttp.ContinueOnError,
		ErrorLog: errorLog{cfg.Log}, DisableCompression: true})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", p.oneByOne(promhttp.InstrumentMetricHandler(cfg.Registry, p.withContainers(answer))))
	p.handler = p.admitted(mux)
	return p
}

// server returns the HTTP server for one listener, with the certificate that k holds.
func (p *page) server(k *keeper) *http.Server {
	config := func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := k.current()
		if m == nil {
			return nil, errs.New(errs.Unavailable, "there is no certificate")
		}
		return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*m.tls}, ClientCAs: m.roots,
			ClientAuth: tls.RequireAndVerifyClientCert, Time: p.cfg.Clock.Now, NextProtos: []string{"http/1.1"},
			SessionTicketsDisabled: true}, nil
	}
	return &http.Server{Handler: p.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog:     p.cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		TLSConfig:    &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: config, NextProtos: []string{"http/1.1"}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
}

func (p *page) allow(clients []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients = clients
}

// admitted lets those in whom the spec names, and nobody whose certificate has ended since the handshake.
func (p *page) admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reason := p.judge(r.TLS)
		if reason == "" {
			next.ServeHTTP(w, r)
			return
		}
		p.refused.WithLabelValues(reason).Inc()
		p.cfg.Log.Debug("metrics page refused", "address", r.RemoteAddr, "reason", reason)
		http.Error(w, "you may not read this page", http.StatusForbidden)
	})
}

func (p *page) judge(state *tls.ConnectionState) (reason string) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "client"
	}
	id, err := certs.ParseIdentity(state.VerifiedChains[0][0])
	if err != nil {
		return "client"
	}
	if !p.cfg.Clock.Now().Before(id.NotAfter) {
		return "expired"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.clients, id.URI()) {
		return "client"
	}
	return ""
}

// withContainers adds the text about containers, which is made beside the rest. Text of the plain kind is the only form.
func (p *page) withContainers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := make(chan []byte, 1)
		go func() { text <- p.more.text(r.Context()) }()
		r.Header.Set("Accept", "text/plain;version=0.0.4")
		next.ServeHTTP(w, r)
		_, _ = w.Write(<-text) // whoever went away misses it
	})
}

// oneByOne makes scrapes wait for each other: what one costs is the most that the page costs.
func (p *page) oneByOne(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), turnLimit)
		defer cancel()
		select {
		case p.turn <- struct{}{}:
			defer func() { <-p.turn }()
			next.ServeHTTP(w, r)
		case <-ctx.Done():
			p.refused.WithLabelValues("busy").Inc()
			http.Error(w, "another scrape is at work", http.StatusServiceUnavailable)
		}
	})
}

// errorLog is promhttp's log.
type errorLog struct{ log hclog.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) { l.log.Warn("a part of the metrics page is missing", "error", v) }
