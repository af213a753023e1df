package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/certs"
	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/jointoken"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/fleet"
	"github.com/infractl/infractl/server/store"
)

// maxOperators is how many operators there may be.
const maxOperators = 1000

// AddOperator implements OperatorService. A former code of the operator that nobody has used is worth nothing from now on.
func (o *Operators) AddOperator(ctx context.Context, req *v1.AddOperatorRequest) (*v1.AddOperatorResponse, error) {
	name := req.GetName()
	if err := checkOperatorName(name); err != nil {
		return nil, err
	}
	ttl := defaultTTL
	if req.GetTtl() != nil {
		ttl = req.GetTtl().AsDuration()
	}
	if ttl < minTTL || ttl > fleet.MaxLoginLife {
		return nil, errs.New(errs.Invalid, "a login code lives %s to %s, not %s", minTTL, fleet.MaxLoginLife, ttl)
	}
	var resp *v1.AddOperatorResponse
	err := fleet.Retry(ctx, func() (err error) {
		resp, err = o.add(ctx, req, ttl)
		return err
	})
	return resp, err
}

func checkOperatorName(name string) error {
	if len(name) > 31 {
		return errs.New(errs.Invalid, "an operator's name has at most 31 characters")
	}
	return certs.ValidateName("operator", name)
}

func (o *Operators) add(ctx context.Context, req *v1.AddOperatorRequest, ttl time.Duration) (*v1.AddOperatorResponse, error) {
	now, caller := o.cfg.Clock.Now(), access.CallerFrom(ctx)
	former, err := o.cfg.Fleet.Operators.Get(ctx, req.GetName())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	rec := former.Value
	if former.Revision == store.Absent {
		role, err := roleFrom(req.GetRole())
		if err != nil {
			return nil, err
		}
		names, err := o.cfg.Fleet.Operators.List(ctx, store.ListOptions{NamesOnly: true})
		if err != nil {
			return nil, err
		}
		if len(names) >= maxOperators {
			return nil, errs.New(errs.Exhausted, "there are %d operators already", len(names))
		}
		rec = fleet.Operator{Name: req.GetName(), Role: role, Created: now, CreatedBy: caller.Actor}
	} else if req.GetRole() != v1.Role_ROLE_UNSPECIFIED && roleOf(rec.Role) != req.GetRole() {
		return nil, errs.New(errs.Exists, "there is an operator %s with the role %s", rec.Name, rec.Role).
			WithHint("for a new code leave the role out; to change it: infractl operator role %s ROLE", rec.Name)
	}
	code, text, err := o.newCode(rec.Name, caller.Actor, now, ttl)
	if err != nil {
		return nil, err
	}
	ops, err := o.dropCodes(ctx, rec.Name)
	if err != nil {
		return nil, err
	}
	op, err := o.cfg.Fleet.Operators.PutOp(rec.Name, rec, former.Revision)
	if err != nil {
		return nil, err
	}
	put, err := o.cfg.Fleet.LoginCodes.PutOp(code.ID, code, store.Absent)
	if err != nil {
		return nil, err
	}
	if err := o.cfg.Fleet.Write(ctx, append(ops, op, put)...); err != nil {
		return nil, err
	}
	return &v1.AddOperatorResponse{Operator: operatorMessage(rec, code.Expires), Code: text}, nil
}

// newCode makes a code and its text, which is kept nowhere.
func (o *Operators) newCode(name, by string, now time.Time, ttl time.Duration) (fleet.LoginCode, string, error) {
	raw := make([]byte, 5+32)
	if _, err := rand.Read(raw); err != nil {
		return fleet.LoginCode{}, "", errs.Wrap("make login code", err)
	}
	id, secret := hex.EncodeToString(raw[:5]), base64.RawURLEncoding.EncodeToString(raw[5:])
	_, enrolment := o.cfg.Addresses()
	text, err := jointoken.EncodeLogin(&jointoken.Token{Addresses: enrolment, Fingerprint: o.cfg.Authority.Fingerprint(),
		Site: o.cfg.Authority.Site(), ID: id, Secret: jointoken.NewSecret(secret)})
	return fleet.LoginCode{ID: id, SecretHash: secretHash(secret), Operator: name, Created: now, CreatedBy: by, Expires: now.Add(ttl)}, text, err
}

func secretHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// codesOf returns the codes of an operator, used ones too.
func (o *Operators) codesOf(ctx context.Context, name string) ([]store.Item[fleet.LoginCode], error) {
	items, err := o.cfg.Fleet.LoginCodes.List(ctx, store.ListOptions{})
	var mine []store.Item[fleet.LoginCode]
	for _, it := range items {
		if it.Value.Operator == name {
			mine = append(mine, it)
		}
	}
	return mine, err
}

func (o *Operators) dropCodes(ctx context.Context, name string) ([]store.Op, error) {
	codes, err := o.codesOf(ctx, name)
	var ops []store.Op
	for _, it := range codes {
		ops = append(ops, store.Delete{Kind: fleet.KindLoginCode, Name: it.Name, Expect: it.Revision})
	}
	return ops, err
}

// ListOperators implements OperatorService.
func (o *Operators) ListOperators(ctx context.Context, _ *v1.ListOperatorsRequest) (*v1.ListOperatorsResponse, error) {
	items, err := o.cfg.Fleet.Operators.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	codes, err := o.cfg.Fleet.LoginCodes.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	now, open := o.cfg.Clock.Now(), map[string]time.Time{}
	for _, it := range codes {
		if it.Value.Used.IsZero() && now.Before(it.Value.Expires) {
			open[it.Value.Operator] = it.Value.Expires
		}
	}
	resp := &v1.ListOperatorsResponse{}
	for _, it := range items {
		if it.Value.Revoked.IsZero() {
			resp.Operators = append(resp.Operators, operatorMessage(it.Value, open[it.Name]))
		}
	}
	return resp, nil
}

func operatorMessage(op fleet.Operator, code time.Time) *v1.Operator {
	return &v1.Operator{Name: op.Name, Role: roleOf(op.Role), Created: timestamppb.New(op.Created), CreatedBy: op.CreatedBy,
		LastSeen: stamp(op.LastSeen), NotAfter: stamp(op.NotAfter), CodeNotAfter: stamp(code)}
}

// RemoveOperator implements OperatorService: the key is withdrawn for good, and what the operator has under way ends.
func (o *Operators) RemoveOperator(ctx context.Context, req *v1.RemoveOperatorRequest) (*v1.RemoveOperatorResponse, error) {
	var gone fleet.Operator
	err := fleet.Retry(ctx, func() error {
		it, err := o.operator(ctx, req.GetName())
		if err != nil {
			return err
		}
		gone = it.Value
		ops, err := o.otherAdmin(ctx, gone, "removed")
		if err != nil {
			return err
		}
		codes, err := o.dropCodes(ctx, gone.Name)
		if err != nil {
			return err
		}
		ops = append(append(ops, codes...), store.Delete{Kind: fleet.KindOperator, Name: gone.Name, Expect: it.Revision})
		if gone.KeyHash != "" {
			rev, err := o.cfg.Fleet.Revoked.PutOp(gone.KeyHash, fleet.Revocation{Identity: "operator/" + gone.Name,
				Time: o.cfg.Clock.Now(), Reason: "removed by " + access.CallerFrom(ctx).Actor}, store.Any)
			if err != nil {
				return err
			}
			ops = append(ops, rev)
		}
		return o.cfg.Fleet.Write(ctx, ops...)
	})
	if err != nil {
		return nil, err
	}
	o.cutKey(gone)
	o.cfg.Log.Warn("operator removed", "operator", gone.Name, "by", callerName(ctx))
	return &v1.RemoveOperatorResponse{}, nil
}

// cutKey ends all that runs under an identity whose key was revoked.
func (o *Operators) cutKey(op fleet.Operator) {
	if op.KeyHash != "" && o.cfg.Live != nil {
		o.cfg.Live.Cut(op.Name, access.RevokedError(o.cfg.Authority, op.Serial, op.KeyHash, "operator/"+op.Name), nil)
	}
}

// SetOperatorRole implements OperatorService. What the new role may not do any more ends at once.
func (o *Operators) SetOperatorRole(ctx context.Context, req *v1.SetOperatorRoleRequest) (*v1.SetOperatorRoleResponse, error) {
	role, err := roleFrom(req.GetRole())
	if err != nil {
		return nil, err
	}
	var rec fleet.Operator
	err = fleet.Retry(ctx, func() error {
		it, err := o.operator(ctx, req.GetName())
		if err != nil {
			return err
		}
		rec = it.Value
		var ops []store.Op
		if role != certs.RoleAdmin {
			if ops, err = o.otherAdmin(ctx, rec, "given another role"); err != nil {
				return err
			}
		}
		rec.Role = role
		op, err := o.cfg.Fleet.Operators.PutOp(rec.Name, rec, it.Revision)
		if err != nil {
			return err
		}
		return o.cfg.Fleet.Write(ctx, append(ops, op)...)
	})
	if err != nil {
		return nil, err
	}
	if o.cfg.Live != nil {
		o.cfg.Live.Cut(rec.Name, errs.ToGRPC(errs.New(errs.Denied, "operator/%s has the role %s now, which may not do this", rec.Name, role)),
			func(rule access.Rule) bool { return rule.Allows(role) })
	}
	o.cfg.Log.Info("operator's role changed", "operator", rec.Name, "role", role, "by", callerName(ctx))
	return &v1.SetOperatorRoleResponse{Operator: operatorMessage(rec, time.Time{})}, nil
}

func (o *Operators) operator(ctx context.Context, name string) (store.Item[fleet.Operator], error) {
	it, err := o.cfg.Fleet.Operators.Get(ctx, name)
	if errs.Is(err, errs.NotFound) {
		err = errs.New(errs.NotFound, "there is no operator %.64q", name).WithHint("infractl operator list")
	}
	return it, err
}

// otherAdmin refuses to take away the last admin who can log in. It returns a check that the one who stays does stay, so that
// two admins cannot remove each other at the same time.
func (o *Operators) otherAdmin(ctx context.Context, op fleet.Operator, what string) ([]store.Op, error) {
	if op.Role != certs.RoleAdmin {
		return nil, nil
	}
	items, err := o.cfg.Fleet.Operators.List(ctx, store.ListOptions{})
	if err != nil {
		return nil, err
	}
	now := o.cfg.Clock.Now()
	for _, it := range items {
		v := it.Value
		if v.Name != op.Name && v.Role == certs.RoleAdmin && v.Revoked.IsZero() && v.KeyHash != "" && now.Before(v.NotAfter) {
			return []store.Op{store.Check{Kind: fleet.KindOperator, Name: it.Name, Expect: it.Revision}}, nil
		}
	}
	return nil, errs.New(errs.Precondition, "%s is the last admin with a valid certificate and is not %s", op.Name, what).
		WithHint("make another one first: infractl operator add NAME --role admin, and let that person log in")
}

func roleFrom(r v1.Role) (certs.Role, error) {
	for _, role := range certs.Roles() {
		if roleOf(role) == r {
			return role, nil
		}
	}
	return "", errs.New(errs.Invalid, "an operator needs a role").WithHint("--role viewer, auditor, operator or admin")
}
