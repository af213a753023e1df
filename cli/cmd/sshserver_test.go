package cmd_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"
)

// sshServer starts an SSH server that lets the account "operator" in with a key that it writes to a file: sshd KEYFILE
// The answers of the fake then know $SSHPORT and $HOSTKEY.
func sshServer(ts *testscript.TestScript, neg bool, args []string) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(key, "")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(block), 0o600))
	allowed, err := ssh.NewSignerFromKey(key)
	ts.Check(err)
	_, host, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	hostKey, err := ssh.NewSignerFromKey(host)
	ts.Check(err)
	config := &ssh.ServerConfig{PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if meta.User() == "operator" && string(key.Marshal()) == string(allowed.PublicKey().Marshal()) {
			return nil, nil
		}
		return nil, errors.New("no")
	}}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSSH(conn, config)
		}
	}()
	f := ts.Value(fakeKey{}).(*fake)
	f.set("SSHPORT", strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
	f.set("HOSTKEY", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey()))))
	_, port, err := net.SplitHostPort(f.addr)
	ts.Check(err)
	f.set("PORT", port)
}

func serveSSH(conn net.Conn, config *ssh.ServerConfig) {
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
