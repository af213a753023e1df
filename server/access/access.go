// Package access decides who may call what: it reads the caller's identity from the certificate, looks it up in the one
// table of methods, refuses what stands in no line of it, and writes the audit log.
package access

import (
	"context"

	"github.com/infractl/infractl/certs"
)

// Caller is who a call comes from. Operators' roles are those stored now, not those of the certificate.
type Caller struct {
	// Identity is that of the certificate; zero on the enrolment listener and the Unix socket.
	Identity certs.Identity
	// KeyHash is the hash of the certificate's key, as fleet.KeyHash writes it.
	KeyHash string
	// Actor is how audit names the caller: "operator/anna", "node/web1", "local/root", or an address.
	Actor string
	// Address is the IP address that the call came from, "" on the Unix socket.
	Address string
}

type callerKey struct{}

// WithCaller returns a context that carries c; interceptors and tests use it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns the caller of the call that ctx belongs to; the zero Caller where no interceptor ran.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
