package probe_test

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/agent/probe"
	"github.com/infractl/infractl/agent/session/sessiontest"
	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	"github.com/infractl/infractl/internal/probing/sshtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	opened   = v1.ProbeOutcome_PROBE_OUTCOME_OPEN
	refused  = v1.ProbeOutcome_PROBE_OUTCOME_REFUSED
	dropped  = v1.ProbeOutcome_PROBE_OUTCOME_DROPPED
	rejected = v1.ProbeOutcome_PROBE_OUTCOME_REJECTED
)

func split(t *testing.T, address string) (string, uint32) {
	t.Helper()
	h, p, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return h, uint32(n)
}

func see(t *testing.T, p *probe.Prober, probes ...*v1.Probe) []*v1.ProbeObservation {
	t.Helper()
	for _, x := range probes {
		if x.Timeout == nil {
			x.Timeout = durationpb.New(2 * time.Second)
		}
	}
	result, err := p.Probe(t.Context(), &v1.ProbeTask{Probes: probes})
	if err != nil {
		t.Fatal(err)
	}
	return result.GetObservations()
}

func tcpListener(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return listener.Addr().String()
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port := split(t, listener.Addr().String())
	return port
}

func TestTCPAndBanner(t *testing.T) {
	p := probe.New(probe.Config{})
	_, talks := split(t, tcpListener(t, func(c net.Conn) { _, _ = c.Write([]byte("hello\r\nSSH-2.0-test\r\n")) }))
	_, silent := split(t, tcpListener(t, func(c net.Conn) { time.Sleep(time.Second) }))
	const local = "127.0.0.1"
	short := durationpb.New(100 * time.Millisecond)
	got := see(t, p,
		&v1.Probe{Id: "open", Kind: v1.ProbeKind_PROBE_KIND_TCP, Address: local, Port: talks},
		&v1.Probe{Id: "closed", Kind: v1.ProbeKind_PROBE_KIND_TCP, Address: local, Port: freePort(t)},
		&v1.Probe{Id: "banner", Kind: v1.ProbeKind_PROBE_KIND_SSH_BANNER, Address: local, Port: talks},
		&v1.Probe{Id: "no banner", Kind: v1.ProbeKind_PROBE_KIND_SSH_BANNER, Address: local, Port: silent, Timeout: short},
	)
	want := []v1.ProbeOutcome{opened, refused, opened, rejected}
	for i, o := range got {
		if o.GetOutcome() != want[i] {
			t.Errorf("%s: got %s (%s), want %s", o.GetId(), o.GetOutcome(), o.GetDetail(), want[i])
		}
	}
	if got[2].GetDetail() != "SSH-2.0-test" {
		t.Errorf("got banner %q", got[2].GetDetail())
	}
}

func TestListenAnswersProbes(t *testing.T) {
	p := probe.New(probe.Config{})
	tcp, udp := freePort(t), freePort(t)
	taken, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, busy := split(t, taken.LocalAddr().String())
	ready := make(chan struct{})
	done := make(chan *v1.ListenResult, 1)
	go func() {
		result, err := p.Listen(t.Context(), &v1.ListenTask{TcpPorts: []uint32{tcp}, UdpPorts: []uint32{udp, busy},
			Duration: durationpb.New(500 * time.Millisecond)}, func() { close(ready) })
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	<-ready
	got := see(t, p,
		&v1.Probe{Id: "tcp", Kind: v1.ProbeKind_PROBE_KIND_TCP, Address: "127.0.0.1", Port: tcp},
		&v1.Probe{Id: "udp", Kind: v1.ProbeKind_PROBE_KIND_UDP, Address: "127.0.0.1", Port: udp},
		&v1.Probe{Id: "udp closed", Kind: v1.ProbeKind_PROBE_KIND_UDP, Address: "127.0.0.1", Port: freePort(t)},
		&v1.Probe{Id: "udp silent", Kind: v1.ProbeKind_PROBE_KIND_UDP, Address: "127.0.0.1", Port: busy,
			Timeout: durationpb.New(200 * time.Millisecond)},
	)
	want := []v1.ProbeOutcome{opened, opened, refused, dropped}
	for i, o := range got {
		if o.GetOutcome() != want[i] {
			t.Errorf("%s: got %s (%s), want %s", o.GetId(), o.GetOutcome(), o.GetDetail(), want[i])
		}
	}
	result := <-done
	if len(result.GetTcpPorts()) != 1 || len(result.GetUdpPorts()) != 1 || result.GetUdpPorts()[0] != udp {
		t.Errorf("got %v, want tcp %d and udp %d", result, tcp, udp)
	}
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	signer, err := sshtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestLogin(t *testing.T) {
	h := host.New(host.Config{Root: t.TempDir()})
	key, err := probe.Key(h, "/var/lib/infractl")
	if err != nil {
		t.Fatal(err)
	}
	again, err := probe.Key(h, "/var/lib/infractl")
	if err != nil || probe.PublicKey(again) != probe.PublicKey(key) {
		t.Fatalf("the key changed, or error %v", err)
	}
	hostKey, other := newSigner(t), newSigner(t)
	server, err := sshtest.Start(hostKey, &ssh.ServerConfig{PublicKeyCallback: sshtest.Only("ops", key.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	port := uint32(server.Port())
	p := probe.New(probe.Config{Key: func() (ssh.Signer, error) { return key, nil }})
	login := func(id, user string, keys ...string) *v1.Probe {
		return &v1.Probe{Id: id, Kind: v1.ProbeKind_PROBE_KIND_SSH_LOGIN, Address: "127.0.0.1", Port: port, User: user, HostKeys: keys}
	}
	good := probe.PublicKey(hostKey)
	got := see(t, p, login("ok", "ops", good), login("wrong user", "root", good),
		login("wrong host key", "ops", probe.PublicKey(other)), login("no host key", "ops"),
		login("two host keys", "ops", probe.PublicKey(other), good))
	want := []v1.ProbeOutcome{opened, rejected, rejected, rejected, opened}
	for i, o := range got {
		if o.GetOutcome() != want[i] {
			t.Errorf("%s: got %s (%s), want %s", o.GetId(), o.GetOutcome(), o.GetDetail(), want[i])
		}
	}
}

func TestServer(t *testing.T) {
	server := sessiontest.New(t, nil)
	config := func(authority *sessiontest.Server) func() (*tls.Config, error) {
		return func() (*tls.Config, error) {
			key, err := certs.NewKey()
			if err != nil {
				return nil, err
			}
			csr, err := certs.MakeCSR(key)
			if err != nil {
				return nil, err
			}
			id, err := authority.Issue(csr, "web1")
			if err != nil {
				return nil, err
			}
			cred, err := mtls.NewCredential(key, id.GetCertificatePem(), id.GetRootPem())
			if err != nil {
				return nil, err
			}
			return mtls.ClientConfig(mtls.ClientOptions{RootPEM: server.Authority.RootPEM(), Site: sessiontest.Site,
				Clock: clock.System{}, Certificate: func() (*tls.Certificate, error) { return cred.TLS, nil }})
		}
	}
	_, port := split(t, server.Address)
	way := func() *v1.Probe {
		return &v1.Probe{Id: "server", Kind: v1.ProbeKind_PROBE_KIND_SERVER, Address: "127.0.0.1", Port: port}
	}
	if o := see(t, probe.New(probe.Config{TLS: config(server)}), way())[0]; o.GetOutcome() != opened {
		t.Errorf("got %s (%s), want open", o.GetOutcome(), o.GetDetail())
	}
	foreign := sessiontest.New(t, nil)
	if o := see(t, probe.New(probe.Config{TLS: config(foreign)}), way())[0]; o.GetOutcome() != rejected {
		t.Errorf("foreign certificate: got %s (%s), want rejected", o.GetOutcome(), o.GetDetail())
	}
}

func TestBadTasks(t *testing.T) {
	p := probe.New(probe.Config{})
	good := v1.Probe{Id: "x", Kind: v1.ProbeKind_PROBE_KIND_TCP, Address: "127.0.0.1", Port: 1}
	tests := map[string]*v1.ProbeTask{
		"ErrName": {Probes: []*v1.Probe{{Kind: good.Kind, Address: "localhost", Port: 1}}},
		"ErrPort": {Probes: []*v1.Probe{{Kind: good.Kind, Address: good.Address, Port: 70000}}},
		"ErrKind": {Probes: []*v1.Probe{{Kind: 77, Address: good.Address, Port: 1}}},
		"ErrMany": {Probes: make([]*v1.Probe, probe.MaxProbes+1)},
	}
	for name, task := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := p.Probe(t.Context(), task); !errs.Is(err, errs.Invalid) {
				t.Errorf("got %v, want Invalid", err)
			}
		})
	}
	t.Run("CancelReturns", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Listen(ctx, &v1.ListenTask{Duration: durationpb.New(time.Minute)}, func() {}); !errs.Is(err, errs.Canceled) {
			t.Errorf("got %v, want Canceled", err)
		}
	})
}
