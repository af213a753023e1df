package cmd

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/secret"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestPeerConfigIsWhatWireGuardReads(t *testing.T) {
	peer := &v1.Peer{Name: "anna-laptop", Addresses: []string{"10.0.20.2"}}
	tun := &v1.Tunnel{PublicKey: "PUB=", Endpoint: "203.0.113.9:51820", AllowedIps: []string{"10.0.10.0/24", "10.0.20.0/24"},
		Nameservers: []string{"10.0.10.10"}, Search: "projetpro.lab"}
	want := `# anna-laptop, made by infractl
[Interface]
PrivateKey = PRIV=
Address = 10.0.20.2/32
DNS = 10.0.10.10, projetpro.lab

[Peer]
PublicKey = PUB=
Endpoint = 203.0.113.9:51820
AllowedIPs = 10.0.10.0/24, 10.0.20.0/24
PersistentKeepalive = 25
`
	if diff := cmp.Diff(want, peerConfig(secret.New([]byte("PRIV=")), peer, tun)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestTunnelKeysAreKeysAndDiffer(t *testing.T) {
	private, public, err := tunnelKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := tunnelKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{string(private.Reveal()), public} {
		if raw, err := base64.StdEncoding.DecodeString(k); err != nil || len(raw) != 32 {
			t.Error("a key is no 32 bytes in base64")
		}
	}
	if string(private.Reveal()) == string(other.Reveal()) || string(private.Reveal()) == public {
		t.Error("two keys are the same")
	}
}

func TestConfigurationFileIsNeverOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peer.conf")
	first, err := (&peerOptions{file: path}).open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&peerOptions{file: path}).open(); !errs.Is(err, errs.Invalid) {
		t.Errorf("a file that exists: %v", err)
	}
	if err := first.write("text"); err != nil {
		t.Fatal(err)
	}
	first.discard()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v: want a file with mode 0600", info, err)
	}
	second, err := (&peerOptions{file: filepath.Join(filepath.Dir(path), "unused.conf")}).open()
	if err != nil {
		t.Fatal(err)
	}
	second.discard()
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "unused.conf")); !os.IsNotExist(err) {
		t.Errorf("a file that was not written stays: %v", err)
	}
}
