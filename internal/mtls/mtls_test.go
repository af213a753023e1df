package mtls

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
)

const site = "projetpro"

func start() time.Time { return time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC) }

// world is an authority with a server.
type world struct {
	clock *clock.Fake
	ca    *certs.Authority
	cert  *ServerCertificate
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{clock: clock.NewFake(start())}
	var err error
	if w.ca, err = certs.Create(filepath.Join(t.TempDir(), "ca"), site, w.clock); err != nil {
		t.Fatal(err)
	}
	w.cert, err = NewServerCertificate(ServerCertificateConfig{
		Issue:  func(pub crypto.PublicKey) (*certs.Issued, error) { return w.ca.IssueServer(pub, "relay", nil, nil) },
		Clock:  w.clock,
		Logger: hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) server(requireClient bool) *tls.Config {
	return ServerConfig(ServerOptions{Certificate: w.cert.Get, Roots: w.ca.RootPool(), Site: site, Clock: w.clock, RequireClient: requireClient})
}

// pair issues a certificate for a new key.
func (w *world) pair(t *testing.T, issue func(ca *certs.Authority, key crypto.Signer, csr []byte) (*certs.Issued, error)) *tls.Certificate {
	t.Helper()
	key, err := certs.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := certs.MakeCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := issue(w.ca, key, csr)
	if err != nil {
		t.Fatal(err)
	}
	pair := &tls.Certificate{PrivateKey: key}
	chain, err := certs.DecodeCerts(issued.ChainPEM)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

func asNode(ca *certs.Authority, _ crypto.Signer, csr []byte) (*certs.Issued, error) {
	return ca.IssueNode(csr, "web1")
}

func asOperator(ca *certs.Authority, _ crypto.Signer, csr []byte) (*certs.Issued, error) {
	return ca.IssueOperator(csr, "jane", certs.RoleAdmin, 0)
}

func asServer(ca *certs.Authority, key crypto.Signer, _ []byte) (*certs.Issued, error) {
	return ca.IssueServer(key.Public(), "relay", nil, nil)
}

func (w *world) client(t *testing.T, pair *tls.Certificate, clk clock.Clock, server string) *tls.Config {
	t.Helper()
	cfg, err := ClientConfig(ClientOptions{RootPEM: w.ca.RootPEM(), Site: site, Server: server, Clock: clk,
		Certificate: func() (*tls.Certificate, error) { return pair, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// handshake connects both over loopback and lets the server answer with one byte: in TLS 1.3 a client learns only then
// that its certificate was refused.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		conn := tls.Server(raw, server)
		if err := conn.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = conn.Write([]byte{1})
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn := tls.Client(raw, client)
	if clientErr = conn.Handshake(); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	raw.Close()
	return <-done, clientErr
}

func TestServerLetsInOnlyClientsOfItsSite(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	node, operator := w.pair(t, asNode), w.pair(t, asOperator)
	cases := map[string]struct {
		pair *tls.Certificate
		age  time.Duration // of the certificate, by the server's clock
		want string        // part of the server's error
	}{
		"node":                       {node, 0, ""},
		"node, clock behind":         {node, -23 * time.Hour, ""},
		"operator":                   {operator, 0, ""},
		"expired node":               {node, certs.NodeLife + time.Minute, "expired"},
		"expired operator":           {operator, certs.OperatorLife + time.Minute, "expired"},
		"node before its time":       {node, -25 * time.Hour, "not yet valid"},
		"server":                     {w.pair(t, asServer), 0, "incompatible key usage"},
		"node of another authority":  {stranger.pair(t, asNode), 0, "unknown authority"},
		"no certificate":             {&tls.Certificate{}, 0, "didn't provide a certificate"},
		"certificate without issuer": {&tls.Certificate{PrivateKey: node.PrivateKey, Certificate: node.Certificate[:1]}, 0, "unknown authority"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			server := w.server(true)
			server.Time = clock.NewFake(start().Add(c.age)).Now
			serverErr, clientErr := handshake(t, server, w.client(t, c.pair, w.clock, ""))
			if c.want == "" {
				if serverErr != nil || clientErr != nil {
					t.Errorf("errors: %v, %v", serverErr, clientErr)
				}
				return
			}
			if serverErr == nil || !strings.Contains(serverErr.Error(), c.want) || clientErr == nil {
				t.Errorf("server: %v, client: %v, want %q", serverErr, clientErr, c.want)
			}
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		client := w.client(t, node, w.clock, "")
		client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if serverErr, clientErr := handshake(t, w.server(true), client); serverErr == nil || clientErr == nil {
			t.Error("TLS 1.2 was accepted")
		}
	})
	t.Run("enrolment asks for none", func(t *testing.T) {
		if serverErr, clientErr := handshake(t, w.server(false), w.client(t, &tls.Certificate{}, w.clock, "")); serverErr != nil || clientErr != nil {
			t.Errorf("errors: %v, %v", serverErr, clientErr)
		}
	})
}

// as returns a server that shows pair, whoever it is.
func as(pair *tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{*pair}, NextProtos: []string{"h2"}}
}

func (w *world) withRoot(pair *tls.Certificate) *tls.Certificate {
	return &tls.Certificate{PrivateKey: pair.PrivateKey, Certificate: append(pair.Certificate[:2:2], w.ca.Root().Raw)}
}

func TestClientTalksOnlyToItsServer(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	node := w.pair(t, asNode)
	cases := map[string]struct {
		server *tls.Config
		name   string
		clock  clock.Clock
		want   string
	}{
		"any server of the site":       {w.server(true), "", w.clock, ""},
		"the named server":             {w.server(true), "relay", w.clock, ""},
		"another server":               {w.server(true), "other", w.clock, "not the server"},
		"server of another authority":  {stranger.server(false), "", w.clock, "not under the site's root"},
		"node that plays the server":   {as(node), "", w.clock, "incompatible key usage"},
		"operator that plays it":       {as(w.pair(t, asOperator)), "", w.clock, "incompatible key usage"},
		"foreign leaf, genuine root":   {as(w.withRoot(stranger.pair(t, asServer))), "", w.clock, "not under the site's root"},
		"clock after the server's end": {w.server(true), "", clock.NewFake(start().Add(certs.ServerLife + time.Hour)), "expired at"},
		"clock years behind":           {w.server(true), "", clock.NewFake(start().Add(-3 * certs.ServerLife)), "not valid before"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := handshake(t, c.server, w.client(t, node, c.clock, c.name))
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want %q", err, c.want)
			}
		})
	}
	t.Run("corrected clock", func(t *testing.T) {
		clk := clock.NewAdjustable(clock.NewFake(time.Unix(0, 0)))
		clk.SetOffset(start().Sub(time.Unix(0, 0)))
		if _, err := handshake(t, w.server(true), w.client(t, node, clk, "")); err != nil {
			t.Error(err)
		}
	})
}

func TestPinnedClientNeedsTheRootAndNoClock(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	bare := w.pair(t, asServer)
	bare.Certificate = bare.Certificate[:2]
	cases := map[string]struct {
		server      *tls.Config
		fingerprint string
		site        string
		want        string
	}{
		"genuine":                    {w.server(false), w.ca.Fingerprint(), site, ""},
		"other root":                 {stranger.server(false), w.ca.Fingerprint(), site, "not the one that the token pins"},
		"root not shown":             {as(bare), w.ca.Fingerprint(), site, "not the one that the token pins"},
		"empty pin":                  {w.server(false), "", site, "not the one that the token pins"},
		"foreign leaf, genuine root": {as(w.withRoot(stranger.pair(t, asServer))), w.ca.Fingerprint(), site, "not under the site's root"},
		"node that plays the server": {as(w.withRoot(w.pair(t, asNode))), w.ca.Fingerprint(), site, "incompatible key usage"},
		"other site":                 {w.server(false), w.ca.Fingerprint(), "another", "not the server of site another"},
		"pin of the issuing":         {w.server(false), certs.FingerprintOf(w.ca.Issuing()), site, "pins a certificate that is no root"},
		"pin of the leaf":            {as(bare), fingerprintOf(t, bare), site, "pins a certificate that is no root"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var chain []*x509.Certificate
			_, err := handshake(t, c.server, PinnedClientConfig(PinnedOptions{Fingerprint: c.fingerprint, Site: c.site,
				Chain: func(got []*x509.Certificate) { chain = got }}))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || chain != nil {
					t.Errorf("error = %v, chain of %d, want %q", err, len(chain), c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(chain) != 3 || !chain[2].Equal(w.ca.Root()) {
				t.Fatalf("chain of %d", len(chain))
			}
			if err := CheckValidity(chain, start()); err != nil {
				t.Error(err)
			}
			for _, off := range []time.Duration{-48 * time.Hour, certs.ServerLife + time.Hour} {
				if err := CheckValidity(chain, start().Add(off)); !errs.Is(err, errs.Unauthenticated) || errs.HintOf(err) == "" {
					t.Errorf("validity at %s: %v", off, err)
				}
			}
		})
	}
}

func fingerprintOf(t *testing.T, pair *tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return certs.FingerprintOf(leaf)
}

func TestServerCertificateRenewsItself(t *testing.T) {
	w := newWorld(t)
	first, _ := w.cert.Get(nil)
	w.clock.Advance(certs.ServerLife/3*2 - time.Minute)
	if c, _ := w.cert.Get(nil); c != first {
		t.Error("renewed too early")
	}
	w.clock.Advance(2 * time.Minute)
	second, _ := w.cert.Get(nil)
	if second == first {
		t.Fatal("not renewed at two thirds")
	}
	if want := w.clock.Now().Add(certs.ServerLife); !w.cert.NotAfter().Equal(want) {
		t.Errorf("ends at %s, want %s", w.cert.NotAfter(), want)
	}
	fail := true
	calls := 0
	w.cert.cfg.Issue = func(pub crypto.PublicKey) (*certs.Issued, error) {
		if calls++; fail {
			return nil, errs.New(errs.Precondition, "no")
		}
		return w.ca.IssueServer(pub, "relay", nil, nil)
	}
	w.clock.Advance(certs.ServerLife / 4 * 3)
	for range 5 {
		if c, err := w.cert.Get(nil); c != second || err != nil {
			t.Fatal("a failed renewal must leave the present certificate in use")
		}
	}
	if calls != 1 {
		t.Errorf("%d tries within a minute", calls)
	}
	fail = false
	w.clock.Advance(renewRetry)
	if c, _ := w.cert.Get(nil); c == second {
		t.Error("not tried again")
	}
	third, _ := w.cert.Get(nil)
	if err := w.cert.Reissue(); err != nil {
		t.Fatal(err)
	}
	if c, _ := w.cert.Get(nil); c == third {
		t.Error("not reissued")
	}
}

func TestPeerIdentityNeedsATLSPeer(t *testing.T) {
	if _, err := PeerIdentity(context.Background()); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("error = %v", err)
	}
}
