// Package app wires the server: store, authority, services, listeners. A temporary folder and ports of 0 are enough to start
// it in a test.
package app

import (
	"context"
	"crypto"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/backup"
	"github.com/infractl/infractl/server/discovery"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/health"
	"github.com/infractl/infractl/server/identity"
	"github.com/infractl/infractl/server/image"
	"github.com/infractl/infractl/server/secret"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/store"
	"github.com/infractl/infractl/server/store/sqlite"
)

// Addresses are where a server listens.
type Addresses struct {
	Sessions  string
	Enrolment string
	Socket    string
}

// App is a server. New makes it listen, Run makes it work.
type App struct {
	cfg         Config
	store       store.Store
	authority   *certs.Authority
	certificate *mtls.ServerCertificate
	registry    *prometheus.Registry
	recorder    *access.Recorder
	fleet       *fleet.Fleet
	hub         *session.Hub
	enrolment   *session.Enrolment
	codes       *identity.Codes
	operations  *operations
	people      people
	vault       *secret.Vault
	images      *image.Library
	health      *health.Health

	listeners listeners
	servers   []*grpc.Server
	serving   sync.WaitGroup
	pages     *discovery.Server
	close     sync.Once
	closed    error
}

type listeners struct{ sessions, enrolment, socket net.Listener }

// New opens the server in cfg.DataDir and its listeners. The caller calls Run, or Close.
func New(ctx context.Context, cfg Config) (*App, error) {
	const op = "start server"
	cfg.setDefaults()
	if err := cfg.readSettings(); err != nil {
		return nil, errs.Wrap(op, err)
	}
	a := &App{cfg: cfg, registry: prometheus.NewRegistry()}
	if err := a.open(ctx); err != nil {
		return nil, errs.Join(errs.Wrap(op, err), a.Close())
	}
	return a, nil
}

func (a *App) open(ctx context.Context) (err error) {
	cfg := a.cfg
	if err := cfg.checkState(); err != nil {
		return err
	}
	backup.RemoveLeftovers(cfg.DataDir)
	if a.authority, err = certs.Open(cfg.caDir(), cfg.Clock); err != nil {
		return err
	}
	if a.authority.Site() != cfg.Site {
		return errs.New(errs.Precondition, "the authority is that of site %q, not %q", a.authority.Site(), cfg.Site).At(cfg.KeyDir)
	}
	if _, err := a.authority.RenewIssuing(); err != nil {
		cfg.Log.Error("issuing certificate not renewed", "error", err)
	}
	a.certificate, err = mtls.NewServerCertificate(mtls.ServerCertificateConfig{
		Issue: func(pub crypto.PublicKey) (*certs.Issued, error) {
			return a.authority.IssueServer(pub, serverName, cfg.dnsNames(), cfg.ips())
		},
		Clock: cfg.Clock, Logger: cfg.Log,
	})
	if err != nil {
		return err
	}
	s, err := sqlite.Open(ctx, sqlite.Config{Dir: cfg.storeDir(), Clock: cfg.Clock, Logger: cfg.Log})
	if err != nil {
		return err
	}
	a.store = s
	a.fleet = fleet.New(s)
	if err := a.fleet.Alive(ctx, cfg.Clock.Now()); err != nil {
		return err
	}
	a.registry.MustRegister(mtls.NewExpiryCollector(
		mtls.ExpirySource{Which: "root", NotAfter: func() time.Time { return a.authority.Root().NotAfter }},
		mtls.ExpirySource{Which: "issuing", NotAfter: func() time.Time { return a.authority.Issuing().NotAfter }},
		mtls.ExpirySource{Which: "server", NotAfter: a.certificate.NotAfter},
	))
	a.recorder = access.NewRecorder(access.RecorderConfig{Audit: s, Clock: cfg.Clock, Log: cfg.Log.Named("access"), Registry: a.registry})
	a.codes = identity.NewCodes(cfg.codesDir(), cfg.Clock)
	a.hub, err = session.NewHub(ctx, session.HubConfig{Store: s, Fleet: a.fleet, Clock: cfg.Clock,
		Log: cfg.Log.Named("session"), Registry: a.registry})
	if err != nil {
		return err
	}
	if err := a.openVault(ctx); err != nil {
		return err
	}
	if err := a.openImages(ctx); err != nil {
		return err
	}
	if err := a.openPeople(); err != nil {
		return err
	}
	a.health = a.newHealth()
	a.operations = newOperations(a)
	if err := a.listen(); err != nil {
		return err
	}
	a.serve()
	return nil
}

func (a *App) listen() (err error) {
	on := func(what, address string) net.Listener {
		if err != nil {
			return nil
		}
		var l net.Listener
		if l, err = net.Listen("tcp", address); err != nil {
			err = errs.New(errs.Precondition, "cannot listen for %s: %w", what, err).At(address).
				WithHint("is another infractl-server at work? ss -ltnp")
		}
		return l
	}
	a.listeners.sessions = on("sessions", a.cfg.Sessions)
	a.listeners.enrolment = on("enrolment", a.cfg.Enrolment)
	if err == nil {
		a.listeners.socket, err = listenSocket(a.cfg.Socket)
	}
	return err
}

// Addresses returns where the server listens.
func (a *App) Addresses() Addresses {
	text := func(l net.Listener) string {
		if l == nil {
			return ""
		}
		return l.Addr().String()
	}
	return Addresses{Sessions: text(a.listeners.sessions), Enrolment: text(a.listeners.enrolment),
		Socket: text(a.listeners.socket)}
}

// advertised returns host:port of the two TCP listeners, as others reach them.
func (a *App) advertised() (sessions, enrolment []string) {
	_, sessionPort, _ := net.SplitHostPort(a.listeners.sessions.Addr().String())
	_, enrolPort, _ := net.SplitHostPort(a.listeners.enrolment.Addr().String())
	for _, host := range a.cfg.Addresses {
		sessions = append(sessions, net.JoinHostPort(host, sessionPort))
		enrolment = append(enrolment, net.JoinHostPort(host, enrolPort))
	}
	return sessions, enrolment
}

// serve registers the services and accepts connections.
func (a *App) serve() {
	cfg := a.cfg
	site := a.health.Site(withInstances{a.operations.site(), a.operations.instances})
	a.enrolment = session.NewEnrolment(session.EnrolmentConfig{Fleet: a.fleet, Hub: a.hub, Site: site, Authority: a.authority,
		Recorder: a.recorder, Addresses: a.advertised, Clock: cfg.Clock, Log: cfg.Log.Named("enrolment"), Limits: cfg.Limits,
		Login: func(ctx context.Context, req *v1.LoginOperatorRequest) (*v1.OperatorIdentity, error) {
			return a.people.operators.Redeem(ctx, req)
		}})
	sessions := session.NewService(session.ServiceConfig{Hub: a.hub, Fleet: a.fleet, Site: site, Authority: a.authority,
		Confirmer: a.operations.confirmer(), Secrets: a.vault, Images: a.operations.images, Contents: a.operations.contents, Attacher: a.operations.consoles, Recorder: a.recorder, Addresses: a.advertised, Clock: cfg.Clock,
		Log: cfg.Log.Named("session"), Heartbeat: cfg.Heartbeat})
	who := identity.Config{Fleet: a.fleet, Hub: a.hub, Site: site, Authority: a.authority, Recorder: a.recorder, Codes: a.codes,
		LastPoll: a.enrolment.LastPoll, Addresses: a.advertised, ServerNotAfter: a.certificate.NotAfter,
		Version: version.String(), Clock: cfg.Clock, Log: cfg.Log.Named("identity"),
		Live: a.people.live, SSH: a.people.ssh, CurrentSite: a.operations.currentSite}
	operators := identity.NewOperators(who)
	a.people.operators = operators
	nodes := identity.NewNodes(who)
	a.pages = a.newPages(site)

	main := a.server(access.Main, a.tlsFor(access.Main), access.MaxMessage)
	v1.RegisterSessionServiceServer(main, sessions)
	v1.RegisterOperatorServiceServer(main, operators)
	v1.RegisterTokenServiceServer(main, identity.NewTokens(who))
	v1.RegisterNodeServiceServer(main, nodes)
	a.operations.register(main)
	a.accept(main, a.listeners.sessions)
	a.servePages(nodes)

	enrol := a.server(access.Enrol, a.tlsFor(access.Enrol), mtls.MaxEnrolMessage, grpc.KeepaliveParams(keepalive.ServerParameters{
		Time: mtls.KeepaliveTime, Timeout: mtls.KeepaliveTimeout, MaxConnectionIdle: time.Minute}))
	v1.RegisterEnrolmentServiceServer(enrol, a.enrolment)
	a.accept(enrol, limit(a.listeners.enrolment, maxEnrolConns))

	socket := a.server(access.Socket, peerCred{uids: cfg.SocketUIDs, failed: a.socketRefused}, mtls.MaxEnrolMessage)
	v1.RegisterOperatorServiceServer(socket, operators)
	v1.RegisterBackupServiceServer(socket, backup.NewService(cfg.source(a.store)))
	a.accept(socket, a.listeners.socket)
}

func (a *App) tlsFor(where access.Listener) credentials.TransportCredentials {
	g := guard(credentials.NewTLS(mtls.ServerConfig(mtls.ServerOptions{
		Certificate: a.certificate.Get, Roots: a.authority.RootPool(), Site: a.authority.Site(), Clock: a.cfg.Clock,
		RequireClient: where == access.Main,
	})), func(addr net.Addr, err error) { a.handshakeFailed(where, addr, err) })
	if where == access.Main {
		g.pages = a.pages
	}
	return g
}

func (a *App) gate(where access.Listener) *access.Gate {
	return access.NewGate(access.GateConfig{Listener: where, Table: access.Methods(), Fleet: a.fleet, Authority: a.authority,
		Recorder: a.recorder, Live: a.people.live, Clock: a.cfg.Clock, Log: a.cfg.Log.Named("access")})
}

func (a *App) server(where access.Listener, creds credentials.TransportCredentials, maxMessage int, more ...grpc.ServerOption) *grpc.Server {
	opts := append(mtls.ServerGRPC(maxMessage), grpc.Creds(creds))
	s := grpc.NewServer(append(append(opts, a.gate(where).Options()...), more...)...)
	a.servers = append(a.servers, s)
	return s
}

func (a *App) accept(s *grpc.Server, l net.Listener) {
	a.serving.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			a.cfg.Log.Error("listener ended", "address", l.Addr(), "error", err)
		}
	})
}

func (a *App) handshakeFailed(where access.Listener, addr net.Addr, err error) {
	source := addr.String()
	if host, _, serr := net.SplitHostPort(source); serr == nil {
		source = host
	}
	a.recorder.Refused(context.Background(), access.ReasonHandshake, store.AuditEntry{Actor: "address/" + source, Source: source,
		Action: "handshake " + string(where), Result: string(errs.Unauthenticated), Message: err.Error()})
}

func (a *App) socketRefused(uid uint32) {
	a.recorder.Refused(context.Background(), access.ReasonSocketPeer, store.AuditEntry{Actor: "local/uid-" + itoa(uid),
		Action: "connect to socket", Result: string(errs.Denied), Message: "only root may use the socket"})
}

// stopGrace is how long calls under way may take to end by themselves.
const stopGrace = 300 * time.Millisecond

// stopServers tells agents that the server stops, lets short calls end, and cuts the rest.
func (a *App) stopServers() {
	if a.hub != nil {
		a.hub.EndAll()
	}
	hard := time.AfterFunc(stopGrace, func() {
		for _, s := range a.servers {
			s.Stop()
		}
	})
	defer hard.Stop()
	var stopping sync.WaitGroup
	for _, s := range a.servers {
		stopping.Go(s.GracefulStop)
	}
	stopping.Wait()
}

// Close stops everything and closes the store. Agents reconnect by themselves when the server is back.
func (a *App) Close() error {
	a.close.Do(func() {
		a.stopServers()
		if a.pages != nil {
			_ = a.pages.Close()
		}
		for _, l := range []net.Listener{a.listeners.sessions, a.listeners.enrolment, a.listeners.socket} {
			if l != nil {
				_ = l.Close()
			}
		}
		a.serving.Wait()
		if a.listeners.socket != nil {
			_ = os.Remove(a.cfg.Socket)
		}
		if a.store != nil {
			a.closed = a.store.Close()
		}
	})
	return a.closed
}
