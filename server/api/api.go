// Package api is what operators call to see and change the site: plans, revisions, rollouts, flows and the audit log. Who may
// call what is decided before a call gets here, in package access.
package api

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/flowcheck"
	"github.com/infractl/infractl/server/operation"
	"github.com/infractl/infractl/server/revision"
	"github.com/infractl/infractl/server/rollout"
	"github.com/infractl/infractl/server/store"
)

// Hub reaches the agents; *session.Hub is it.
type Hub interface {
	flowcheck.Hub
}

// Fleet knows the enrolled identities; *fleet.Fleet is it.
type Fleet interface {
	Node(ctx context.Context, name string) (fleet.Node, error)
	Nodes(ctx context.Context) ([]fleet.Node, error)
}

// Config is what the services need.
type Config struct {
	Revisions *revision.Revisions
	Rollouts  *rollout.Rollouts
	// Operations are those of steps.
	Operations *operation.Engine
	Hub        Hub
	Fleet      Fleet
	Audit      store.Audit
	Clock      clock.Clock
	Log        hclog.Logger
}

// API are the services.
type API struct {
	Site    *SiteService
	Rollout *RolloutService
	// Operation shows and steers rollouts and operations of steps alike.
	Operation *OperationService
	Flow      *FlowService
	Audit     *AuditService
	Stack     *StackService
}

// New returns the services.
func New(cfg Config) *API {
	checker := flowcheck.New(flowcheck.Config{Hub: cfg.Hub, Nodes: cfg.Fleet, Clock: cfg.Clock, Log: cfg.Log})
	return &API{
		Site:      &SiteService{cfg: cfg},
		Rollout:   &RolloutService{cfg: cfg},
		Operation: &OperationService{cfg: cfg},
		Flow:      &FlowService{cfg: cfg, checker: checker},
		Audit:     &AuditService{cfg: cfg},
		Stack:     &StackService{cfg: cfg},
	}
}

// Register puts the services on a server.
func (a *API) Register(s grpc.ServiceRegistrar) {
	v1.RegisterSiteServiceServer(s, a.Site)
	v1.RegisterRolloutServiceServer(s, a.Rollout)
	v1.RegisterOperationServiceServer(s, a.Operation)
	v1.RegisterFlowServiceServer(s, a.Flow)
	v1.RegisterAuditServiceServer(s, a.Audit)
	v1.RegisterStackServiceServer(s, a.Stack)
}

// actor is the caller's name in revisions, rollouts and the audit log.
func actor(ctx context.Context) string {
	if a := access.CallerFrom(ctx).Actor; a != "" {
		return a
	}
	return "unknown"
}

func isAdmin(ctx context.Context) bool {
	return access.CallerFrom(ctx).Identity.Role == certs.RoleAdmin
}

// mayWitness reports whether the caller may take a witness's place.
func mayWitness(ctx context.Context) bool {
	role := access.CallerFrom(ctx).Identity.Role
	return role == certs.RoleAdmin || role == certs.RoleOperator
}

// bounded returns a limit of a list: what was asked for, or the usual, and never more than most.
func bounded(asked, usual, most uint32) int {
	if asked == 0 {
		asked = usual
	}
	return int(min(asked, most))
}

// maxNames bounds the names in a request.
const maxNames = 10000

func checkNames(names []string) error {
	if len(names) > maxNames {
		return errs.New(errs.Invalid, "more than %d nodes are named", maxNames)
	}
	for _, n := range names {
		if len(n) > 255 {
			return errs.New(errs.Invalid, "%.40q... is not a node's name", n)
		}
	}
	return nil
}

// SiteInfo is what identities and status need to know of the site; it implements fleet.Site.
type SiteInfo struct {
	Revisions *revision.Revisions
	Rollouts  *rollout.Rollouts
}

var _ fleet.Site = SiteInfo{}

// Wanted implements fleet.Site.
func (s SiteInfo) Wanted(ctx context.Context) ([]fleet.Wanted, bool, error) {
	return s.Revisions.Wanted(ctx)
}

// Status implements fleet.Site.
func (s SiteInfo) Status(ctx context.Context) (fleet.SiteStatus, error) {
	out := fleet.SiteStatus{}
	loaded, number, err := s.Revisions.Load(ctx, 0)
	if errs.Is(err, errs.NotFound) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.Revision, out.NotManaged = number, loaded.NotManaged
	ro, err := s.Rollouts.Get(ctx, "")
	if errs.Is(err, errs.NotFound) {
		out.Findings = append(out.Findings, &v1.Finding{
			Severity: v1.Severity_SEVERITY_WARNING, Message: "the newest revision was never rolled out", Hint: "infractl apply",
		})
		return out, nil
	}
	if err != nil {
		return out, err
	}
	out.RolloutID, out.RolloutState = ro.GetId(), rollout.StateWord(ro.GetState())
	out.Findings = rolloutFindings(ro, number)
	return out, nil
}

func rolloutFindings(ro *v1.Rollout, newest uint64) []*v1.Finding {
	switch {
	case ro.GetRevision() != newest:
		return []*v1.Finding{{
			Severity: v1.Severity_SEVERITY_WARNING, Message: "the newest revision was never rolled out", Hint: "infractl apply",
		}}
	case ro.GetState() == v1.RolloutState_ROLLOUT_STATE_HALTED:
		return []*v1.Finding{{
			Severity: v1.Severity_SEVERITY_ERROR, Message: "rollout " + ro.GetId() + " halted: " + ro.GetReason(),
			Hint: "correct the site file and apply it, or mend the node, infractl node clear NODE, and infractl operation retry " + ro.GetId(),
		}}
	case ro.GetState() == v1.RolloutState_ROLLOUT_STATE_PAUSED:
		return []*v1.Finding{{
			Severity: v1.Severity_SEVERITY_WARNING, Message: "rollout " + ro.GetId() + " is paused: " + ro.GetMessage(),
			Hint: "infractl operation resume " + ro.GetId(),
		}}
	case ro.GetState() == v1.RolloutState_ROLLOUT_STATE_INCOMPLETE:
		return []*v1.Finding{{
			Severity: v1.Severity_SEVERITY_WARNING, Message: "rollout " + ro.GetId() + " is incomplete: " + ro.GetReason(),
		}}
	}
	return nil
}
