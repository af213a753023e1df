// Package probe gives the agent its eyes: it opens connections for the server, and proves logins with a key of its own.
package probe

import (
	"crypto/tls"

	"golang.org/x/crypto/ssh"

	"github.com/infractl/infractl/internal/probing"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Prober carries out probes and listens for those of others.
type Prober = probing.Prober

// MaxProbes is the largest number of probes of one task.
const MaxProbes = probing.MaxProbes

// Config is what a Prober needs.
type Config struct {
	// Key is the witness key, for logins; nil means that logins are rejected.
	Key func() (ssh.Signer, error)
	// TLS is the configuration with which the agent reaches its server, for PROBE_KIND_SERVER.
	TLS func() (*tls.Config, error)
}

// New returns a Prober.
func New(cfg Config) *Prober {
	var keys func(*v1.Probe) ([]ssh.Signer, error)
	if cfg.Key != nil {
		keys = func(*v1.Probe) ([]ssh.Signer, error) {
			key, err := cfg.Key()
			if err != nil {
				return nil, err
			}
			return []ssh.Signer{key}, nil
		}
	}
	return probing.New(probing.Config{Keys: keys, TLS: cfg.TLS})
}
