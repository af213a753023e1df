package probing

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// strictServer lets one key in and ends a connection after two that it does not know. It counts connections.
func strictServer(t *testing.T, hostKey ssh.Signer, allowed ssh.PublicKey) (port uint32, connections *atomic.Int32) {
	t.Helper()
	connections = &atomic.Int32{}
	config := &ssh.ServerConfig{MaxAuthTries: 2, PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) == string(allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("no")
	}}
	config.AddHostKey(hostKey)
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
			connections.Add(1)
			go serve(conn, config)
		}
	}()
	return uint32(listener.Addr().(*net.TCPAddr).Port), connections
}

func serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, in, err := c.Accept()
		if err != nil {
			return
		}
		for r := range in {
			_ = r.Reply(r.Type == "exec", nil)
			if r.Type == "exec" {
				_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
				channel.Close()
			}
		}
	}
}

func TestLoginTriesAllKeys(t *testing.T) {
	hostKey, good := newSigner(t), newSigner(t)
	a, b, c, d := newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	tests := map[string]struct {
		keys        []ssh.Signer
		hostKey     ssh.Signer
		want        v1.ProbeOutcome
		connections int32
	}{
		"FirstKey":       {[]ssh.Signer{good, a}, hostKey, v1.ProbeOutcome_PROBE_OUTCOME_OPEN, 1},
		"SecondKey":      {[]ssh.Signer{a, good}, hostKey, v1.ProbeOutcome_PROBE_OUTCOME_OPEN, 1},
		"FifthKey":       {[]ssh.Signer{a, b, c, d, good}, hostKey, v1.ProbeOutcome_PROBE_OUTCOME_OPEN, 3},
		"NoKeyFits":      {[]ssh.Signer{a, b, c}, hostKey, v1.ProbeOutcome_PROBE_OUTCOME_REJECTED, 2},
		"WrongHostStops": {[]ssh.Signer{a, b, good}, a, v1.ProbeOutcome_PROBE_OUTCOME_REJECTED, 1},
		"NoKeys":         {nil, hostKey, v1.ProbeOutcome_PROBE_OUTCOME_REJECTED, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, connections := strictServer(t, hostKey, good.PublicKey())
			p := New(Config{Keys: func(*v1.Probe) ([]ssh.Signer, error) { return tt.keys, nil }})
			result, err := p.Probe(t.Context(), &v1.ProbeTask{Probes: []*v1.Probe{{
				Kind: v1.ProbeKind_PROBE_KIND_SSH_LOGIN, Address: "127.0.0.1", Port: port, User: "ops",
				HostKeys: []string{string(ssh.MarshalAuthorizedKey(tt.hostKey.PublicKey()))}}}})
			if err != nil {
				t.Fatal(err)
			}
			got := result.GetObservations()[0]
			if got.GetOutcome() != tt.want {
				t.Errorf("got %s (%s), want %s", got.GetOutcome(), got.GetDetail(), tt.want)
			}
			// The kernel opens a connection before the server counts it.
			for wait := 0; connections.Load() < tt.connections && wait < 500; wait++ {
				time.Sleep(10 * time.Millisecond)
			}
			if n := connections.Load(); n != tt.connections {
				t.Errorf("got %d connections, want %d", n, tt.connections)
			}
		})
	}
}
