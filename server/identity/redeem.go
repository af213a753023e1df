package identity

import (
	"context"
	"crypto/subtle"
	"time"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// repeatFor is how long the same code with the same key gets the same answer: the reply may have been lost on the way.
const repeatFor = 10 * time.Minute

// Redeem exchanges an operator's login code for a certificate. A code that cannot be used is Denied, whatever the reason.
func (o *Operators) Redeem(ctx context.Context, req *v1.LoginOperatorRequest) (*v1.OperatorIdentity, error) {
	hash, err := csrHash(req.GetCsr())
	if err != nil { // before the code is used up
		return nil, err
	}
	if _, err := o.cfg.Fleet.Revoked.Get(ctx, hash); err == nil {
		return nil, errs.New(errs.Denied, "this key was revoked").WithHint("log in with a new key")
	} else if !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	var id *v1.OperatorIdentity
	err = fleet.Retry(ctx, func() (err error) {
		id, err = o.redeem(ctx, req, hash)
		return err
	})
	return id, err
}

func (o *Operators) redeem(ctx context.Context, req *v1.LoginOperatorRequest, hash string) (*v1.OperatorIdentity, error) {
	code, err := o.cfg.Fleet.LoginCodes.Get(ctx, req.GetCodeId())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	// An unknown code, a wrong secret, a used and an expired code get the same answer.
	refused := errs.New(errs.Denied, "the code is wrong, used, or has expired").
		WithHint("ask an admin for a new one: infractl operator add NAME")
	now, c := o.cfg.Clock.Now(), code.Value
	if err != nil || subtle.ConstantTimeCompare([]byte(secretHash(req.GetCodeSecret())), []byte(c.SecretHash)) != 1 {
		return nil, refused
	}
	former, err := o.cfg.Fleet.Operators.Get(ctx, c.Operator)
	if errs.Is(err, errs.NotFound) {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	if !c.Used.IsZero() {
		if c.KeyHash != hash || former.Value.KeyHash != hash || now.Sub(c.Used) > repeatFor {
			return nil, refused
		}
		return o.identity(former.Value, &certs.Issued{ChainPEM: c.Chain, NotAfter: former.Value.NotAfter}), nil
	}
	if !now.Before(c.Expires) {
		return nil, refused
	}
	rec := former.Value
	issued, err := o.cfg.Authority.IssueOperator(req.GetCsr(), rec.Name, rec.Role, OperatorLife)
	if err != nil {
		return nil, err
	}
	rec.KeyHash, rec.Serial, rec.NotAfter = hash, issued.Serial, issued.NotAfter
	c.KeyHash, c.Used, c.Chain = hash, now, issued.ChainPEM
	if err := o.writeLogin(ctx, former, rec, now, &codeUse{c, code.Revision}); err != nil {
		return nil, err
	}
	caller := access.CallerFrom(ctx)
	o.cfg.Recorder.Write(ctx, store.AuditEntry{Actor: "operator/" + rec.Name, Role: string(rec.Role), Source: caller.Address,
		Action: v1.EnrolmentService_LoginOperator_FullMethodName, Target: rec.Name, Result: "ok",
		Message: "logged in with a code made by " + c.CreatedBy + ", serial " + rec.Serial})
	o.cfg.Log.Info("operator logged in", "operator", rec.Name, "role", rec.Role, "serial", rec.Serial, "address", caller.Address)
	return o.identity(rec, issued), nil
}

// codeUse is a login code's record as the login leaves it.
type codeUse struct {
	code     fleet.LoginCode
	revision store.Revision
}

// writeLogin stores an operator's new key, and withdraws the one before it.
func (o *Operators) writeLogin(ctx context.Context, former store.Item[fleet.Operator], rec fleet.Operator, now time.Time, use *codeUse) error {
	op, err := o.cfg.Fleet.Operators.PutOp(rec.Name, rec, former.Revision)
	if err != nil {
		return err
	}
	ops := []store.Op{op}
	if use != nil {
		if op, err = o.cfg.Fleet.LoginCodes.PutOp(use.code.ID, use.code, use.revision); err != nil {
			return err
		}
		ops = append(ops, op)
	}
	replaced := former.Value.KeyHash != "" && former.Value.KeyHash != rec.KeyHash
	if replaced {
		op, err := o.cfg.Fleet.Revoked.PutOp(former.Value.KeyHash, fleet.Revocation{Identity: "operator/" + rec.Name, Time: now,
			Reason: "logged in again with a new key"}, store.Any)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	if err := o.cfg.Fleet.Write(ctx, ops...); err != nil {
		return err
	}
	if replaced {
		o.cutKey(former.Value)
	}
	return nil
}

// Prune removes login codes that nobody can use any more.
func (o *Operators) Prune(ctx context.Context) error {
	items, err := o.cfg.Fleet.LoginCodes.List(ctx, store.ListOptions{})
	if err != nil {
		return errs.Wrap("remove old login codes", err)
	}
	now := o.cfg.Clock.Now()
	for _, it := range items {
		if now.After(it.Value.Expires.Add(repeatFor)) && now.After(it.Value.Used.Add(repeatFor)) {
			if err := o.cfg.Fleet.LoginCodes.Delete(ctx, it.Name, it.Revision); err != nil && !errs.Is(err, errs.Conflict) {
				return errs.Wrap("remove old login codes", err)
			}
		}
	}
	return nil
}
