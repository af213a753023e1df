package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/zone/zonetest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: noon.AddDate(-1, 0, 0),
		NotAfter: noon.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// sign makes a certificate; without an authority it signs itself.
func (a *authority) sign(t *testing.T, name string, from, to time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: from, NotAfter: to}
	parent, signer := leaf, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// publicRig is a proxy that serves some names, as its record says and as it really does.
type publicRig struct {
	p       *Provider
	secure  *httptest.Server
	certs   map[string]func() *tls.Certificate
	pages   map[string]http.HandlerFunc
	trusted *authority
	local   *authority
	asked   atomic.Int64
}

const version = "19.0.4"

func newPublicRig(t *testing.T, directory string, hosts ...Host) *publicRig {
	t.Helper()
	r := &publicRig{certs: map[string]func() *tls.Certificate{}, pages: map[string]http.HandlerFunc{},
		trusted: newAuthority(t, "R3"), local: newAuthority(t, "infractl proxy - 2026 ECC Root")}
	front := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if page := r.pages[req.Host]; page != nil {
			page(w, req)
			return
		}
		fmt.Fprintf(w, "<html><title>Login @ %s</title></html>", version)
	})
	plain := httptest.NewServer(front)
	t.Cleanup(plain.Close)
	r.secure = httptest.NewUnstartedServer(front)
	r.secure.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that turn away are the trial
	r.secure.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		r.asked.Add(1)
		if make := r.certs[hello.ServerName]; make != nil {
			if c := make(); c != nil {
				return c, nil
			}
		}
		return nil, errors.New("no certificate")
	}}
	r.secure.StartTLS()
	t.Cleanup(r.secure.Close)
	root := folder(t)
	r.p = New(Config{Host: host.New(host.Config{Root: root}), Clock: clock.NewFake(noon), Pause: time.Millisecond,
		Roots: func() (*x509.CertPool, error) { return r.trusted.pool(), nil },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasSuffix(address, ":443") {
				return (&net.Dialer{}).DialContext(ctx, network, r.secure.Listener.Addr().String())
			}
			return (&net.Dialer{}).DialContext(ctx, network, plain.Listener.Addr().String())
		}})
	local := root + filepath.Join(caddyStorage, "pki", "authorities", "local")
	must(t, os.MkdirAll(local, 0o755))
	must(t, os.WriteFile(local+"/root.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.local.cert.Raw}), 0o644))
	must(t, r.p.writeRecord(&v1.ProxySpec{Driver: DriverCaddy, AcmeDirectory: directory, CertificatesPerWeek: 2, ListenAddresses: []string{"10.0.10.10"}}, hosts))
	return r
}

func (r *publicRig) serve(name string, c *tls.Certificate) {
	r.certs[name] = func() *tls.Certificate { return c }
}

func (r *publicRig) see(t *testing.T, wait time.Duration, names ...*v1.PublicName) []*v1.PublicSight {
	t.Helper()
	res, err := r.p.Public(t.Context(), &v1.PublicTask{Names: names, Wait: durationpb.New(wait)})
	must(t, err)
	return res.GetNames()
}

func host1(certificate Certificate) Host {
	return Host{Domains: []string{"acme.example.test"}, Scheme: "http", Address: "10.0.10.20", Port: 80, Instance: "acme", Certificate: certificate}
}

func TestPublicNames(t *testing.T) {
	t.Parallel()
	const name, private = "acme.example.test", "https://203.0.113.7:14000/dir"
	day := 24 * time.Hour
	page := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}
	}
	good := func(t *testing.T, r *publicRig) {
		r.serve(name, r.trusted.sign(t, name, noon.Add(-day), noon.Add(80*day)))
	}
	for outcome, c := range map[string]struct {
		certificate Certificate
		directory   string
		prepare     func(t *testing.T, r *publicRig)
		state       v1.PublicState
		message     string
		hint        string
	}{
		"a good certificate is served":           {Own, "", good, v1.PublicState_PUBLIC_STATE_SERVED, "", ""},
		"so is one of the wildcard":              {Wildcard, "", good, v1.PublicState_PUBLIC_STATE_SERVED, "", ""},
		"one that names Let's Encrypt is public": {Own, publicDirectory, good, v1.PublicState_PUBLIC_STATE_SERVED, "", ""},
		"one of a private directory is reported": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, newAuthority(t, "Pebble").sign(t, name, noon.Add(-day), noon.Add(80*day)))
		}, v1.PublicState_PUBLIC_STATE_SERVED, "private authority", ""},
		"one of nobody's authority is wrong where the directory is public": {Own, "", func(t *testing.T, r *publicRig) {
			r.serve(name, newAuthority(t, "Pebble").sign(t, name, noon.Add(-day), noon.Add(80*day)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "not trusted", "journalctl -u caddy"},
		"an ended one is wrong": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, r.trusted.sign(t, name, noon.Add(-90*day), noon.Add(-time.Hour)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "ended at 2026-11-24T11:00:00Z", "journalctl"},
		"one of tomorrow is wrong": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, r.trusted.sign(t, name, noon.Add(day), noon.Add(80*day)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "not valid before", ""},
		"one for another name is wrong": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, r.trusted.sign(t, "beta.example.test", noon.Add(-day), noon.Add(80*day)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "other names", ""},
		"one that signed itself is wrong, whatever the directory": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, (*authority)(nil).sign(t, name, noon.Add(-day), noon.Add(80*day)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "signed by itself", ""},
		"one of the proxy's own authority is wrong, whatever the directory": {Own, private, func(t *testing.T, r *publicRig) {
			r.serve(name, r.local.sign(t, name, noon.Add(-time.Hour), noon.Add(11*time.Hour)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "proxy's own authority", ""},
		"one of the proxy's own authority is right where it is wanted": {Internal, "", func(t *testing.T, r *publicRig) {
			r.serve(name, r.local.sign(t, name, noon.Add(-time.Hour), noon.Add(11*time.Hour)))
		}, v1.PublicState_PUBLIC_STATE_SERVED, "must be told of it", ""},
		"another one is wrong there": {Internal, "", func(t *testing.T, r *publicRig) {
			r.serve(name, newAuthority(t, "x").sign(t, name, noon.Add(-time.Hour), noon.Add(11*time.Hour)))
		}, v1.PublicState_PUBLIC_STATE_WRONG, "not of the proxy's own", ""},
		"none is wrong":           {Own, "", func(*testing.T, *publicRig) {}, v1.PublicState_PUBLIC_STATE_WRONG, "no certificate for it", "port 80"},
		"no TLS is told of":       {None, "", func(*testing.T, *publicRig) {}, v1.PublicState_PUBLIC_STATE_SERVED, "without TLS", ""},
		"an unknown one is wrong": {"", "", func(*testing.T, *publicRig) {}, v1.PublicState_PUBLIC_STATE_WRONG, "not told of it", "infractl plan"},
		"another version is wrong": {Own, "", func(t *testing.T, r *publicRig) {
			good(t, r)
			r.pages[name] = page(200, "<title>Login @ 18.0.0</title>")
		}, v1.PublicState_PUBLIC_STATE_WRONG, "says version 18.0.0, not 19.0.4", ""},
		"a database that is away is wrong": {Own, "", func(t *testing.T, r *publicRig) {
			good(t, r)
			r.pages[name] = page(202, "database down")
		}, v1.PublicState_PUBLIC_STATE_WRONG, "answers 202", "infractl instance logs"},
		"another page is wrong": {Own, "", func(t *testing.T, r *publicRig) {
			good(t, r)
			r.pages[name] = page(200, "<title>nginx</title>")
		}, v1.PublicState_PUBLIC_STATE_WRONG, "not Dolibarr's", ""},
		"a front that is away is wrong": {Own, "", func(t *testing.T, r *publicRig) {
			good(t, r)
			r.pages[name] = page(502, "")
		}, v1.PublicState_PUBLIC_STATE_WRONG, "the proxy answers 502", "journalctl"},
		"a proxy that is away is wrong": {Own, "", func(_ *testing.T, r *publicRig) {
			r.secure.Close()
		}, v1.PublicState_PUBLIC_STATE_WRONG, "the proxy does not answer", "journalctl"},
	} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			var hosts []Host
			if c.certificate != "" {
				hosts = append(hosts, host1(c.certificate))
			}
			r := newPublicRig(t, c.directory, hosts...)
			c.prepare(t, r)
			got := r.see(t, 0, &v1.PublicName{Name: name, Version: version})[0]
			if got.GetState() != c.state || !strings.Contains(got.GetMessage(), c.message) || c.message == "" && got.GetMessage() != "" || !strings.Contains(got.GetHint(), c.hint) {
				t.Errorf("got %v", got)
			}
			if served := c.state == v1.PublicState_PUBLIC_STATE_SERVED; served && (got.GetVersion() != version || (got.GetEnds() == nil) != (c.certificate == None)) {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestPublicNamesAreWaitedFor(t *testing.T) {
	t.Parallel()
	const name = "acme.example.test"
	r := newPublicRig(t, "", host1(Own))
	cert := r.trusted.sign(t, name, noon, noon.Add(time.Hour*24*90))
	r.certs[name] = func() *tls.Certificate {
		if r.asked.Load() < 4 {
			return nil
		}
		return cert
	}
	if got := r.see(t, time.Minute, &v1.PublicName{Name: name, Version: version})[0]; got.GetState() != v1.PublicState_PUBLIC_STATE_SERVED {
		t.Errorf("a certificate that came late: %v", got)
	}
	if n := r.asked.Load(); n != 4 {
		t.Errorf("asked %d times", n)
	}
	// Nobody waits for what cannot become right.
	r.pages[name] = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<title>x @ 18.0.0</title>") }
	if got := r.see(t, time.Minute, &v1.PublicName{Name: name, Version: version})[0]; got.GetState() != v1.PublicState_PUBLIC_STATE_WRONG {
		t.Errorf("another version: %v", got)
	}
	if n := r.asked.Load(); n != 5 {
		t.Errorf("another version was asked for again: %d", n)
	}
}

func TestForeignNamesAreWaitedForALittle(t *testing.T) {
	t.Parallel()
	const own, foreign = "acme.example.test", "erp.acme.test"
	there, late := host1(Own), host1(Own)
	late.Domains = []string{foreign}
	r := newPublicRig(t, "", there, late)
	r.serve(own, r.trusted.sign(t, own, noon, noon.Add(time.Hour*24*90)))
	tries, cert := 0, r.trusted.sign(t, foreign, noon, noon.Add(time.Hour*24*90))
	r.certs[foreign] = func() *tls.Certificate {
		if tries++; tries < 3 {
			return nil
		}
		return cert
	}
	got := r.see(t, time.Minute, &v1.PublicName{Name: own, Version: version}, &v1.PublicName{Name: foreign, Version: version, Foreign: true})
	if got[0].GetState() != v1.PublicState_PUBLIC_STATE_SERVED || got[1].GetState() != v1.PublicState_PUBLIC_STATE_SERVED {
		t.Errorf("a foreign name whose certificate came soon: %v", got)
	}
	r.certs[foreign] = nil
	got = r.see(t, time.Minute, &v1.PublicName{Name: own, Version: version}, &v1.PublicName{Name: foreign, Version: version, Foreign: true})
	if got[0].GetState() != v1.PublicState_PUBLIC_STATE_SERVED || got[1].GetState() != v1.PublicState_PUBLIC_STATE_WRONG {
		t.Errorf("a foreign name that does not come: %v", got)
	}
}

func TestPublicNamesOfTheQueue(t *testing.T) {
	t.Parallel()
	third := host1(Waiting)
	refused := Host{Domains: []string{"erp.beta.test"}, Scheme: "http", Address: "10.0.10.20", Port: 80, Certificate: Waiting}
	r := newPublicRig(t, "", third, refused)
	l := newLedger()
	l.Certificates["one.test"] = &entry{Wanted: noon.Add(-72 * time.Hour), Requested: noon.Add(-72 * time.Hour)}
	l.Certificates["two.test"] = &entry{Wanted: noon.Add(-48 * time.Hour), Requested: noon.Add(-48 * time.Hour)}
	l.Certificates["before.test"] = &entry{Wanted: noon.Add(-2 * time.Hour)}
	l.Certificates["acme.example.test"] = &entry{Wanted: noon.Add(-time.Hour)}
	l.Certificates["erp.beta.test"] = &entry{Wanted: noon.Add(-200 * time.Hour), Requested: noon.Add(-200 * time.Hour), Tries: 2, Next: noon.Add(time.Hour)}
	must(t, r.p.writeLedger(l))
	got := r.see(t, 0, &v1.PublicName{Name: "acme.example.test", Version: version}, &v1.PublicName{Name: "erp.beta.test"})
	if got[0].GetState() != v1.PublicState_PUBLIC_STATE_QUEUED || !got[0].GetDue().AsTime().Equal(noon.Add(-48*time.Hour).Add(week)) {
		t.Errorf("the queued one: %v", got[0])
	}
	if got[1].GetState() != v1.PublicState_PUBLIC_STATE_WRONG || !strings.Contains(got[1].GetMessage(), "refused its certificate 2 times; it is asked again at 2026-11-24T13:00:00Z") {
		t.Errorf("the refused one: %v", got[1])
	}
	if r.asked.Load() != 0 {
		t.Error("the proxy was asked for what it cannot serve")
	}
}

func TestPublicNamesAtNginxProxyManager(t *testing.T) {
	t.Parallel()
	plain, queued := host1(None), host1(Waiting)
	plain.Domains = []string{"acme.corp.lab"}
	r := newPublicRig(t, "", plain, queued)
	must(t, r.p.writeRecord(&v1.ProxySpec{Driver: DriverNPM, Api: "http://10.0.10.10:81", ApiUser: "x", CertificatesPerWeek: 2}, []Host{plain, queued}))
	l := newLedger()
	l.Certificates["acme.example.test"] = &entry{Wanted: noon.Add(-2 * time.Hour), Requested: noon.Add(-2 * time.Hour), Tries: 1, Next: noon.Add(time.Hour)}
	must(t, r.p.writeLedger(l))
	got := r.see(t, 0, &v1.PublicName{Name: "acme.corp.lab", Version: version}, &v1.PublicName{Name: "acme.example.test", Version: version})
	if got[0].GetState() != v1.PublicState_PUBLIC_STATE_SERVED || !strings.Contains(got[0].GetMessage(), "driver npm has no authority") {
		t.Errorf("an inside name: %v", got[0])
	}
	if got[1].GetState() != v1.PublicState_PUBLIC_STATE_WRONG || !strings.Contains(got[1].GetHint(), "log of the container of Nginx Proxy Manager") {
		t.Errorf("a refused one: %v", got[1])
	}
}

func TestPublicAsksNameServers(t *testing.T) {
	t.Parallel()
	r := newPublicRig(t, "")
	rounds := 0
	r.p.cfg.Exchange = zonetest.Exchange(func(_ context.Context, m *mdns.Msg, server string) (*mdns.Msg, error) {
		if server != "10.0.10.10:53" {
			return nil, errors.New("no route")
		}
		a := new(mdns.Msg)
		a.SetReply(m)
		if rounds++; rounds > 2 {
			rr, err := mdns.NewRR(m.Question[0].Name + " 60 IN A 10.0.10.10")
			a.Answer = append(a.Answer, rr)
			return a, err
		}
		return a, nil
	})
	question := func(server, value string) *v1.PublicQuestion {
		return &v1.PublicQuestion{Server: server, Name: "acme.example.test", Type: "A", Values: []string{value}}
	}
	ask := func(wait time.Duration, q *v1.PublicQuestion) string {
		res, err := r.p.Public(t.Context(), &v1.PublicTask{Questions: []*v1.PublicQuestion{q}, Wait: durationpb.New(wait)})
		must(t, err)
		return res.GetAnswers()[0].GetProblem()
	}
	if got := ask(0, question("10.0.10.10", "10.0.10.10")); got != "it answers nothing, not 10.0.10.10" {
		t.Errorf("before it knows: %q", got)
	}
	if got := ask(time.Minute, question("10.0.10.10", "10.0.10.10")); got != "" {
		t.Errorf("when it has been told: %q", got)
	}
	if got := ask(0, question("10.0.10.10", "10.0.10.99")); got != "it answers 10.0.10.10, not 10.0.10.99" {
		t.Errorf("another address: %q", got)
	}
	if got := ask(0, question("10.0.10.11", "10.0.10.10")); !strings.Contains(got, "does not answer") {
		t.Errorf("away: %q", got)
	}
}

func TestPublicTasksThatCannotBe(t *testing.T) {
	t.Parallel()
	r := newPublicRig(t, "")
	if _, err := r.p.Public(t.Context(), &v1.PublicTask{Wait: durationpb.New(time.Hour)}); !errs.Is(err, errs.Invalid) {
		t.Errorf("an hour: %v", err)
	}
	if _, err := r.p.Public(t.Context(), &v1.PublicTask{Names: make([]*v1.PublicName, publicMost+1)}); !errs.Is(err, errs.Invalid) {
		t.Errorf("too many: %v", err)
	}
	must(t, r.p.host.Remove(recordFile))
	if _, err := r.p.Public(t.Context(), &v1.PublicTask{Names: []*v1.PublicName{{Name: "a.test"}}}); !errs.Is(err, errs.Precondition) {
		t.Errorf("no proxy: %v", err)
	}
}
