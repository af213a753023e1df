package probing

import (
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/probing/sshtest"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	signer, err := sshtest.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// strictServer lets one key in and ends a connection after two that it does not know.
func strictServer(t *testing.T, hostKey ssh.Signer, allowed ssh.PublicKey) *sshtest.Server {
	t.Helper()
	s, err := sshtest.Start(hostKey, &ssh.ServerConfig{MaxAuthTries: 2, PublicKeyCallback: sshtest.Only("", allowed)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestLoginTriesAllKeys(t *testing.T) {
	hostKey, good := newSigner(t), newSigner(t)
	a, b, c, d := newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	tests := map[string]struct {
		keys        []ssh.Signer
		hostKey     ssh.Signer
		want        v1.ProbeOutcome
		connections int
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
			server := strictServer(t, hostKey, good.PublicKey())
			p := New(Config{Keys: func(*v1.Probe) ([]ssh.Signer, error) { return tt.keys, nil }})
			result, err := p.Probe(t.Context(), &v1.ProbeTask{Probes: []*v1.Probe{{
				Kind: v1.ProbeKind_PROBE_KIND_SSH_LOGIN, Address: "127.0.0.1", Port: uint32(server.Port()), User: "ops",
				HostKeys: []string{string(ssh.MarshalAuthorizedKey(tt.hostKey.PublicKey()))}}}})
			if err != nil {
				t.Fatal(err)
			}
			got := result.GetObservations()[0]
			if got.GetOutcome() != tt.want {
				t.Errorf("got %s (%s), want %s", got.GetOutcome(), got.GetDetail(), tt.want)
			}
			// The kernel opens a connection before the server counts it.
			for wait := 0; server.Connections() < tt.connections && wait < 500; wait++ {
				time.Sleep(10 * time.Millisecond)
			}
			if n := server.Connections(); n != tt.connections {
				t.Errorf("got %d connections, want %d", n, tt.connections)
			}
		})
	}
}
