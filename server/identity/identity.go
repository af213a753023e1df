// Package identity is what operators call about identities: their own, join tokens, and nodes.
package identity

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/site"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/session"
	"github.com/infractl/infractl/server/sshca"
)

// Hub knows the live sessions; *session.Hub is it.
type Hub interface {
	Live(node string) (session.LiveSession, bool)
	LastSeen(node string) (time.Time, time.Duration)
	Cut(node string)
	Ask(ctx context.Context, node string, task *v1.Task) (*v1.TaskResult, error)
	// Touched tells watchers that the node's record was changed.
	Touched(node string)
}

// Config is what the services need.
type Config struct {
	Fleet     *fleet.Fleet
	Hub       Hub
	Site      fleet.Site
	Authority *certs.Authority
	Recorder  *access.Recorder
	Codes     *Codes
	// Live ends what a removed operator has under way; it is that of the gates.
	Live *access.Live
	// SSH makes certificates for logins by SSH.
	SSH *sshca.Authority
	// CurrentSite returns the newest revision's site; NotFound without one.
	CurrentSite func(context.Context) (*site.Site, error)
	// LastPoll returns when a waiting machine last asked: session.Enrolment.LastPoll.
	LastPoll func(enrolment string) time.Time
	// Addresses returns host:port of the session and of the enrolment listeners, as others reach them.
	Addresses func() (sessions, enrolment []string)
	// ServerNotAfter returns when the server's certificate ends.
	ServerNotAfter func() time.Time
	Version        string
	Clock          clock.Clock
	Log            hclog.Logger
}

// roleOf turns a role of certificates into that of the contract.
func roleOf(r certs.Role) v1.Role {
	switch r {
	case certs.RoleViewer:
		return v1.Role_ROLE_VIEWER
	case certs.RoleAuditor:
		return v1.Role_ROLE_AUDITOR
	case certs.RoleOperator:
		return v1.Role_ROLE_OPERATOR
	case certs.RoleAdmin:
		return v1.Role_ROLE_ADMIN
	}
	return v1.Role_ROLE_UNSPECIFIED
}

func callerName(ctx context.Context) string { return access.CallerFrom(ctx).Identity.Name }
