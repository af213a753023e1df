package identity

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// OperatorLife is the life of an operator's certificate: a week, renewed by use, so that a free weekend logs nobody out.
const OperatorLife = 7 * 24 * time.Hour

// Operators is the OperatorService.
type Operators struct {
	v1.UnimplementedOperatorServiceServer
	cfg Config

	mu    sync.Mutex
	signs map[string]*rate.Limiter // SSH certificates, by operator
}

// NewOperators returns the service.
func NewOperators(cfg Config) *Operators { return &Operators{cfg: cfg} }

// Login implements OperatorService. The code makes an admin; logging in again under a name replaces its former key.
func (o *Operators) Login(ctx context.Context, req *v1.LoginRequest) (*v1.LoginResponse, error) {
	if err := certs.ValidateName("operator", req.GetName()); err != nil {
		return nil, err
	}
	hash, err := csrHash(req.GetCsr())
	if err != nil { // before the code is used up
		return nil, err
	}
	former, err := o.cfg.Fleet.Operators.Get(ctx, req.GetName())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if err := o.cfg.Codes.Use(req.GetCode()); err != nil {
		c := access.CallerFrom(ctx)
		o.cfg.Recorder.Refused(ctx, access.ReasonLogin, store.AuditEntry{Actor: c.Actor, Source: c.Address,
			Action: v1.OperatorService_Login_FullMethodName, Target: req.GetName(), Result: string(errs.Denied),
			Message: "admin code refused"})
		return nil, err
	}
	issued, err := o.cfg.Authority.IssueOperator(req.GetCsr(), req.GetName(), certs.RoleAdmin, OperatorLife)
	if err != nil {
		return nil, err
	}
	now := o.cfg.Clock.Now()
	rec := fleet.Operator{Name: req.GetName(), Role: certs.RoleAdmin, KeyHash: hash, Serial: issued.Serial,
		NotAfter: issued.NotAfter, Created: now, CreatedBy: access.CallerFrom(ctx).Actor}
	if former.Revision != store.Absent {
		rec.Created, rec.CreatedBy, rec.LastSeen = former.Value.Created, former.Value.CreatedBy, former.Value.LastSeen
	}
	if err := o.writeLogin(ctx, former, rec, now, nil); err != nil {
		return nil, err
	}
	o.cfg.Log.Info("operator logged in", "operator", rec.Name, "role", rec.Role, "serial", rec.Serial)
	return &v1.LoginResponse{Identity: o.identity(rec, issued)}, nil
}

// GetIdentity implements OperatorService.
func (o *Operators) GetIdentity(ctx context.Context, _ *v1.GetIdentityRequest) (*v1.GetIdentityResponse, error) {
	id := access.CallerFrom(ctx).Identity
	return &v1.GetIdentityResponse{Site: id.Site, Name: id.Name, Role: roleOf(id.Role),
		NotAfter: timestamppb.New(id.NotAfter), ServerVersion: o.cfg.Version}, nil
}

// RenewOperator implements OperatorService.
func (o *Operators) RenewOperator(ctx context.Context, req *v1.RenewOperatorRequest) (*v1.RenewOperatorResponse, error) {
	caller := access.CallerFrom(ctx)
	hash, err := csrHash(req.GetCsr())
	if err != nil {
		return nil, err
	}
	if hash != caller.KeyHash {
		return nil, errs.New(errs.Denied, "a renewal must be signed by the key of the present certificate")
	}
	issued, err := o.cfg.Authority.IssueOperator(req.GetCsr(), caller.Identity.Name, caller.Identity.Role, OperatorLife)
	if err != nil {
		return nil, err
	}
	it, err := o.cfg.Fleet.Operators.Update(ctx, caller.Identity.Name, func(op *fleet.Operator) error {
		if op.KeyHash != hash || !op.Revoked.IsZero() {
			return errs.New(errs.Conflict, "the identity was changed meanwhile")
		}
		op.Serial, op.NotAfter = issued.Serial, issued.NotAfter
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.RenewOperatorResponse{Identity: o.identity(it.Value, issued)}, nil
}

func (o *Operators) identity(op fleet.Operator, issued *certs.Issued) *v1.OperatorIdentity {
	sessions, _ := o.cfg.Addresses()
	return &v1.OperatorIdentity{Site: o.cfg.Authority.Site(), Name: op.Name, Role: roleOf(op.Role),
		CertificatePem: issued.ChainPEM, RootPem: o.cfg.Authority.RootPEM(), ServerAddresses: sessions,
		NotAfter: timestamppb.New(issued.NotAfter)}
}

func csrHash(der []byte) (string, error) {
	if len(der) == 0 || len(der) > certs.MaxCSR {
		return "", errs.New(errs.Invalid, "a certificate request has 1 to %d bytes", certs.MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return "", errs.New(errs.Invalid, "the certificate request cannot be read: %w", err)
	}
	return fleet.KeyHash(csr.PublicKey) // the authority checks key type and signature
}
