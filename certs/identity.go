package certs

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/infractl/infractl/internal/errs"
)

// Kind says what an identity is.
type Kind string

// The kinds of identity. A probe is a node that manages nothing.
const (
	KindNode     Kind = "node"
	KindOperator Kind = "operator"
	KindServer   Kind = "server"
	// KindService is a part of a node that is no agent; see Service.
	KindService Kind = "service"
)

// Role is what an operator may do; server/api holds the table.
type Role string

// The roles of operators.
const (
	RoleViewer   Role = "viewer"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
	RoleAuditor  Role = "auditor"
)

// Roles lists the roles in the order in which help texts show them.
func Roles() []Role { return []Role{RoleViewer, RoleOperator, RoleAdmin, RoleAuditor} }

// Valid reports whether r is one of Roles.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }

// ParseRole returns the role called text, or an Invalid error that lists the roles.
func ParseRole(text string) (Role, error) {
	if r := Role(text); r.Valid() {
		return r, nil
	}
	var names []string
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return "", errs.New(errs.Invalid, "unknown role %.40q", text).WithHint("use one of %s", strings.Join(names, ", "))
}

// Identity is who a verified certificate speaks for.
type Identity struct {
	Kind Kind
	Site string
	Name string
	// Role is set for operators only.
	Role Role
	// Serial is the certificate's serial number as SerialHex writes it.
	Serial string
	// NotAfter is when the certificate expires. A connection may outlive its certificate, so calls check it too.
	NotAfter time.Time
}

// String returns "node/web1", the form that audit and logs use.
func (id Identity) String() string { return string(id.Kind) + "/" + id.Name }

// URI returns the URI SAN that names the identity.
func (id Identity) URI() string {
	return Scheme + "://" + id.Site + "/" + string(id.Kind) + "/" + id.Name
}

// IsNode reports whether the identity is the node called name.
func (id Identity) IsNode(name string) bool { return id.Kind == KindNode && id.Name == name }

// rolePrefix marks the one Organization that carries an operator's role. The subject is written by the authority alone
// (a request's subject is dropped), so it is as strong as an extension of our own would be, needs no registered OID, and
// openssl x509 -subject shows it to people.
const rolePrefix = "infractl:"

// ParseIdentity reads the identity of a certificate whose chain was verified already. It is strict: exactly one URI SAN
// in our form, the one extended usage of the kind, other names for servers only, a role for operators only.
// Anything else is Unauthenticated.
func ParseIdentity(cert *x509.Certificate) (Identity, error) {
	refuse := func(why string) (Identity, error) {
		return Identity{}, errs.New(errs.Unauthenticated, "certificate is not an infractl identity: %s", why)
	}
	switch {
	case cert == nil:
		return refuse("there is none")
	case cert.IsCA:
		return refuse("it is an authority")
	case len(cert.URIs) != 1:
		return refuse("it must have exactly one URI name")
	}
	id, ok := parseURI(cert.URIs[0])
	if !ok {
		return refuse("its URI is not " + Scheme + "://SITE/KIND/NAME")
	}
	usage := x509.ExtKeyUsageClientAuth
	if id.isServer() {
		usage = x509.ExtKeyUsageServerAuth
	} else if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
		return refuse("a " + string(id.Kind) + " has no other names")
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{usage}) || len(cert.UnknownExtKeyUsage) > 0 {
		return refuse("its extended usage does not fit a " + string(id.Kind))
	}
	if id.Kind == KindOperator {
		if len(cert.Subject.Organization) != 1 {
			return refuse("an operator has exactly one role")
		}
		text, marked := strings.CutPrefix(cert.Subject.Organization[0], rolePrefix)
		if id.Role = Role(text); !marked || !id.Role.Valid() {
			return refuse("its role is unknown")
		}
	} else if len(cert.Subject.Organization) != 0 {
		return refuse("only an operator has a role")
	}
	if id.Serial = SerialHex(cert.SerialNumber); id.Serial == "" {
		return refuse("its serial number is not of ours")
	}
	id.NotAfter = cert.NotAfter
	return id, nil
}

func parseURI(u *url.URL) (Identity, bool) {
	kind, name, found := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	id := Identity{Kind: Kind(kind), Site: u.Host, Name: name}
	switch id.Kind {
	case KindNode, KindOperator, KindServer, KindService:
	default:
		return Identity{}, false
	}
	named := isLabel(name)
	if id.Kind == KindService {
		_, _, named = splitService(name)
	}
	if !found || !isLabel(id.Site) || !named {
		return Identity{}, false
	}
	// The text must be the canonical one: no user, port, query, fragment or escape hides in it.
	return id, u.String() == id.URI()
}
