// Package client connects the command line to the server with the operator's identity, which lives in a folder of the
// operator's and nowhere else.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/mtls"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Settings are what the command line remembers beside the identity.
type Settings struct {
	// Site is the site's name.
	Site string `json:"site"`
	// Servers are host:port of the API.
	Servers []string `json:"servers"`
	// Role is the operator's role at the last login.
	Role string `json:"role"`
}

// Folder is the operator's folder: identity and settings.
type Folder struct {
	dir   string
	creds *mtls.Credentials
}

// DefaultDir returns $INFRACTL_CONFIG, or infractl below the user's configuration folder.
func DefaultDir() (string, error) {
	if dir := os.Getenv("INFRACTL_CONFIG"); dir != "" {
		return dir, nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", errs.New(errs.Precondition, "no configuration folder: %w", err).WithHint("set INFRACTL_CONFIG to a folder")
	}
	return filepath.Join(base, "infractl"), nil
}

// loginHint says how to get an identity.
const loginHint = "ask an admin for a code (infractl operator add NAME), then: infractl login; the first admin's comes from the server's " +
	"machine: infractl-server admin-code"

// NewFolder returns the operator's folder at dir.
func NewFolder(dir string) *Folder { return &Folder{dir: dir, creds: mtls.NewCredentials(dir)} }

// Dir returns the folder's path.
func (f *Folder) Dir() string { return f.dir }

func (f *Folder) settingsFile() string { return filepath.Join(f.dir, "settings.json") }

// Settings reads the settings; Unauthenticated says that there was no login.
func (f *Folder) Settings() (Settings, error) {
	var s Settings
	data, err := os.ReadFile(f.settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, f.noLogin()
	}
	if err != nil {
		return s, errs.Wrap("read settings", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, errs.New(errs.Invalid, "settings do not parse: %w", err).At(f.settingsFile()).WithHint("log in again: infractl login")
	}
	return s, nil
}

func (f *Folder) noLogin() error {
	return errs.New(errs.Unauthenticated, "not logged in").At(f.dir).WithHint("%s", loginHint)
}

// Credential reads the identity; Unauthenticated says that there is none.
func (f *Folder) Credential() (*mtls.Credential, error) {
	cred, err := f.creds.Current()
	if errs.Is(err, errs.NotFound) {
		return nil, f.noLogin()
	}
	return cred, err
}

// Store keeps an identity that the server gave for key.
func (f *Folder) Store(key *KeyAndCSR, id *v1.OperatorIdentity) error {
	cred, err := mtls.NewCredential(key.Key, id.GetCertificatePem(), id.GetRootPem())
	if err != nil {
		return errs.Wrap("store identity", err)
	}
	if err := f.creds.WriteCandidate(cred); err != nil {
		return err
	}
	if err := f.creds.Promote(); err != nil {
		return err
	}
	settings := Settings{Site: id.GetSite(), Servers: id.GetServerAddresses(), Role: id.GetRole().String()}
	if old, err := f.Settings(); err == nil && len(settings.Servers) == 0 && old.Site == settings.Site {
		settings.Servers = old.Servers
	}
	data, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return errs.Wrap("store settings", err)
	}
	return certs.WriteFile(f.settingsFile(), append(data, '\n'), 0o600)
}

// Options say how to connect.
type Options struct {
	// Server replaces the stored addresses: host:port.
	Server string
	// Clock is the operator's clock.
	Clock clock.Clock
	// DialTimeout bounds the connection to one address; 0 means 5 s.
	DialTimeout time.Duration
	// NotRenewed is told why a renewal that was due did not happen; the present certificate still works. It may be nil.
	NotRenewed func(error)
}

// Connect opens a connection to the first server that answers, and renews the identity when two thirds of its life are over.
// Errors: Unauthenticated without an identity that the server accepts, Unavailable when no server answers.
func (f *Folder) Connect(ctx context.Context, o Options) (*grpc.ClientConn, error) {
	settings, err := f.Settings()
	if err != nil {
		return nil, err
	}
	cred, err := f.Credential()
	if err != nil {
		return nil, err
	}
	if o.Clock.Now().After(cred.Leaf.NotAfter) {
		return nil, errs.New(errs.Unauthenticated, "the certificate of %s expired at %s", cred.Identity.Name,
			cred.Leaf.NotAfter.UTC().Format(time.RFC3339)).WithHint("%s", loginHint)
	}
	servers := settings.Servers
	if o.Server != "" {
		if _, _, err := net.SplitHostPort(o.Server); err != nil {
			return nil, errs.New(errs.Invalid, "server address %q is not HOST:PORT", o.Server).WithHint("for example: --server 10.0.10.5:7443")
		}
		servers = []string{o.Server}
	}
	conn, err := f.dialAny(ctx, servers, settings, cred, o)
	if err != nil {
		return nil, err
	}
	if o.Clock.Now().After(certs.RenewAt(cred.Leaf)) {
		// A failed renewal is tried again by the next call; the present certificate still works.
		if err := f.renew(ctx, conn, cred); err != nil && o.NotRenewed != nil {
			o.NotRenewed(err)
		}
	}
	return conn, nil
}

// TLS returns the configuration with which this operator reaches any server of the site.
func (f *Folder) TLS(clk clock.Clock) (*tls.Config, error) {
	settings, err := f.Settings()
	if err != nil {
		return nil, err
	}
	cred, err := f.Credential()
	if err != nil {
		return nil, err
	}
	return clientTLS(settings, cred, clk)
}

func clientTLS(s Settings, cred *mtls.Credential, clk clock.Clock) (*tls.Config, error) {
	return mtls.ClientConfig(mtls.ClientOptions{RootPEM: cred.RootPEM, Site: s.Site, Clock: clk,
		Certificate: func() (*tls.Certificate, error) { return cred.TLS, nil }})
}

func (f *Folder) dialAny(ctx context.Context, servers []string, s Settings, cred *mtls.Credential, o Options) (*grpc.ClientConn, error) {
	if o.DialTimeout == 0 {
		o.DialTimeout = 5 * time.Second
	}
	cfg, err := clientTLS(s, cred, o.Clock)
	if err != nil {
		return nil, err
	}
	var failed error
	for _, addr := range servers {
		conn, err := dial(ctx, addr, o.DialTimeout, cfg)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failed = err
	}
	if failed == nil {
		failed = errs.New(errs.Precondition, "no server address is known").WithHint("name one: --server HOST:PORT")
	}
	return nil, failed
}

// renewTimeout bounds a renewal, so that a server that is slow with it delays nobody.
const renewTimeout = 5 * time.Second

// renew asks for a new certificate for the present key: the server takes a request by no other.
func (f *Folder) renew(ctx context.Context, conn *grpc.ClientConn, cred *mtls.Credential) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	csr, err := certs.MakeCSR(cred.Key())
	if err != nil {
		return errs.Wrap("renew identity", err)
	}
	answer, err := v1.NewOperatorServiceClient(conn).RenewOperator(ctx, &v1.RenewOperatorRequest{Csr: csr})
	if err != nil {
		return errs.Wrap("renew identity", errs.FromGRPC(err))
	}
	return f.Store(&KeyAndCSR{Key: cred.Key(), CSR: csr}, answer.GetIdentity())
}
