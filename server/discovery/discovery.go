// Package discovery is what Prometheus reads of the server over HTTP: which metrics pages there are, and the server's own.
package discovery

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/server/fleet"
)

// The pages.
const (
	PathTargets = "/discovery/prometheus"
	PathMetrics = "/metrics"
)

// scrapeLimit bounds one answer.
const scrapeLimit = 8 * time.Second

// Config is what a Server needs.
type Config struct {
	// SiteName is the site's name.
	SiteName string
	Site     fleet.Site
	Fleet    *fleet.Fleet
	// Gatherer holds the server's metrics.
	Gatherer prometheus.Gatherer
	// Addresses returns host:port of the server's own page, in order of preference.
	Addresses func() []string
	// Admit decides who may read a page; its error is what is answered.
	Admit func(ctx context.Context, state tls.ConnectionState, addr, page string, scrapes func(context.Context, string) (bool, error)) error
	Log   hclog.Logger
}

// Server answers Prometheus. It is given connections that are through their TLS handshake.
type Server struct {
	cfg   Config
	http  *http.Server
	queue *queue
}

type stateKey struct{}

// New returns a server; Serve makes it work.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, queue: newQueue()}
	mux := http.NewServeMux()
	mux.Handle("GET "+PathTargets, s.admitted(http.HandlerFunc(s.targets)))
	mux.Handle("GET "+PathMetrics, s.admitted(promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: scrapeLimit, ErrorHandling: promhttp.ContinueOnError})))
	mux.Handle("/", s.admitted(http.NotFoundHandler())) // even that a page does not exist is for those who may read
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: cfg.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, stateKey{}, t.state)
			}
			return ctx
		}}
	return s
}

// Serve answers until Close.
func (s *Server) Serve() error { return s.http.Serve(s.queue) }

// Take hands a connection over; it is closed when there are too many.
func (s *Server) Take(c net.Conn, state tls.ConnectionState) {
	s.queue.put(&conn{Conn: c, state: state})
}

// Close ends all connections.
func (s *Server) Close() error { return errs.Join(s.http.Close(), s.queue.Close()) }

// admitted asks at every request: a connection outlives both its certificate and the trust in it.
func (s *Server) admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state, ok := r.Context().Value(stateKey{}).(tls.ConnectionState)
		var err error = errs.New(errs.Unauthenticated, "the connection has no certificate")
		if ok {
			err = s.cfg.Admit(r.Context(), state, r.RemoteAddr, r.URL.Path, s.scrapes)
		}
		if err != nil {
			http.Error(w, "you may not read this page", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// scrapes reports whether the current revision has the site's metrics read from a node.
func (s *Server) scrapes(ctx context.Context, node string) (bool, error) {
	w, ok, err := fleet.WantedNode(ctx, s.cfg.Site, node)
	return ok && w.Metrics.GetScraper(), err
}

// Group is one target group of Prometheus' HTTP service discovery.
type Group struct {
	// Targets are host:port.
	Targets []string `json:"targets"`
	// Labels are those of all targets of the group.
	Labels map[string]string `json:"labels"`
}

// Groups returns the metrics pages of enrolled, not revoked nodes of the current revision, and the server's own page last.
func (s *Server) Groups(ctx context.Context) ([]Group, error) {
	wanted, _, err := s.cfg.Site.Wanted(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := s.cfg.Fleet.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	enrolled := make(map[string]bool, len(nodes))
	for i := range nodes {
		enrolled[nodes[i].Name] = !nodes[i].IsRevoked()
	}
	out := []Group{}
	for _, w := range wanted {
		addrs := w.Metrics.GetListenAddresses()
		if len(addrs) == 0 || !enrolled[w.Name] {
			continue
		}
		labels := s.labels("node")
		labels["node"], labels["role"] = w.Name, w.Role
		labels["__meta_infractl_node"], labels["__meta_infractl_role"] = w.Name, w.Role
		out = append(out, Group{Targets: []string{net.JoinHostPort(addrs[0], strconv.Itoa(int(w.Metrics.GetPort())))}, Labels: labels})
	}
	if own := s.cfg.Addresses(); len(own) > 0 {
		labels := s.labels("server")
		labels["job"], labels["role"] = "infractl-server", "server"
		out = append(out, Group{Targets: own[:1], Labels: labels})
	}
	return out, nil
}

func (s *Server) labels(kind string) map[string]string {
	return map[string]string{"site": s.cfg.SiteName, "__scheme__": "https", "__metrics_path__": PathMetrics,
		"__meta_infractl_site": s.cfg.SiteName, "__meta_infractl_kind": kind}
}

func (s *Server) targets(w http.ResponseWriter, r *http.Request) {
	groups, err := s.Groups(r.Context())
	if err != nil {
		s.cfg.Log.Error("targets not listed", "error", err)
		http.Error(w, "the targets cannot be listed now", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(groups); err != nil {
		s.cfg.Log.Debug("targets not sent", "error", err)
	}
}
