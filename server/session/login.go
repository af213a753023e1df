package session

import (
	"context"
	"errors"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
	"github.com/infractl/infractl/server/access"
	"github.com/infractl/infractl/server/store"
)

// loginLimits are those of people: they are few, and a code is typed once.
func loginLimits() EnrolmentLimits {
	return EnrolmentLimits{PerAddress: 0.5, PerAddressBurst: 20, Total: 5, TotalBurst: 50}
}

// LoginOperator implements EnrolmentService.
func (e *Enrolment) LoginOperator(ctx context.Context, req *v1.LoginOperatorRequest) (*v1.LoginOperatorResponse, error) {
	if err := e.logins.allow(access.CallerFrom(ctx).Address); err != nil {
		err = errs.New(errs.Exhausted, "too many logins at once").WithHint("try again in a minute")
		e.refuseLogin(ctx, access.ReasonRate, err)
		return nil, retryLater(err, retryRate)
	}
	if len(req.GetCodeId()) > 64 || len(req.GetCodeSecret()) > 128 {
		err := errs.New(errs.Invalid, "the request exceeds its limits")
		e.refuseLogin(ctx, access.ReasonMalformed, err)
		return nil, err
	}
	if _, err := csrKey(req.GetCsr()); err != nil { // a key of a wrong kind, or a request that another key has signed
		e.refuseLogin(ctx, access.ReasonMalformed, err)
		return nil, err
	}
	id, err := e.cfg.Login(ctx, req)
	if errs.Is(err, errs.Denied) {
		e.refuseLogin(ctx, access.ReasonLogin, err)
	}
	if err != nil {
		return nil, err
	}
	return &v1.LoginOperatorResponse{Identity: id, ServerTime: timestamppb.New(e.cfg.Clock.Now())}, nil
}

// refuseLogin counts and audits. Which operator a code was for is not said: the caller has not proven to have it.
func (e *Enrolment) refuseLogin(ctx context.Context, reason access.Reason, err error) {
	c := access.CallerFrom(ctx)
	message := err.Error()
	var target *errs.Error
	if errors.As(err, &target) && target.Message != "" {
		message = target.Message
	}
	e.cfg.Recorder.Refused(ctx, reason, store.AuditEntry{Actor: c.Actor, Source: c.Address,
		Action: v1.EnrolmentService_LoginOperator_FullMethodName, Result: string(errs.CodeOf(err)), Message: message})
}
