// Package sshtest is an SSH server for tests. It lets in whom its configuration lets in, and answers every command with success.
package sshtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
)

// Server listens on a port of loopback until it is closed.
type Server struct {
	listener    net.Listener
	connections atomic.Int32
}

// Start starts a server with a host key; config says who may log in.
func Start(hostKey ssh.Signer, config *ssh.ServerConfig) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	config.AddHostKey(hostKey)
	s := &Server{listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go serve(conn, config)
		}
	}()
	return s, nil
}

// Port is where it listens.
func (s *Server) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// Connections is how many there were.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Close ends it; connections that are open go on.
func (s *Server) Close() { _ = s.listener.Close() }

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

// Only lets one user in with one key; an empty user is every user.
func Only(user string, allowed ssh.PublicKey) func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
	return func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if (user == "" || meta.User() == user) && bytes.Equal(key.Marshal(), allowed.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("no")
	}
}

// NewSigner makes a key.
func NewSigner() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
}
