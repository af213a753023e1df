package errs

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the domain of every ErrorInfo that infractl sends.
const Domain = "infractl"

// toGRPC maps codes to gRPC codes; several of ours share one, so the reason in ErrorInfo is what is read back.
func toGRPC(c Code) codes.Code {
	switch c {
	case Invalid:
		return codes.InvalidArgument
	case NotFound:
		return codes.NotFound
	case Exists:
		return codes.AlreadyExists
	case Conflict:
		return codes.Aborted
	case Precondition, RolledBack:
		return codes.FailedPrecondition
	case Unauthenticated:
		return codes.Unauthenticated
	case Denied, Revoked:
		return codes.PermissionDenied
	case Unavailable:
		return codes.Unavailable
	case Exhausted:
		return codes.ResourceExhausted
	case Timeout:
		return codes.DeadlineExceeded
	case Canceled:
		return codes.Canceled
	default:
		return codes.Internal
	}
}

func fromGRPC(c codes.Code) Code {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return Invalid
	case codes.NotFound:
		return NotFound
	case codes.AlreadyExists:
		return Exists
	case codes.Aborted:
		return Conflict
	case codes.FailedPrecondition:
		return Precondition
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.PermissionDenied, codes.Unimplemented:
		return Denied
	case codes.Unavailable:
		return Unavailable
	case codes.ResourceExhausted:
		return Exhausted
	case codes.DeadlineExceeded:
		return Timeout
	case codes.Canceled:
		return Canceled
	default:
		return Internal
	}
}

func contextCode(err error) (Code, bool) {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout, true
	case errors.Is(err, context.Canceled):
		return Canceled, true
	}
	return "", false
}

// GRPCStatus lets gRPC send e with its reason, place and hint as details. An Internal error travels without its text:
// the operator reads the log, a peer does not.
func (e *Error) GRPCStatus() *status.Status {
	code := CodeOf(e)
	message := e.Error()
	if code == Internal {
		message = "internal error; the server's log has more"
	}
	info := &errdetails.ErrorInfo{Reason: string(code), Domain: Domain, Metadata: map[string]string{}}
	if e.Where != "" {
		info.Metadata["where"] = e.Where
	}
	st := status.New(toGRPC(code), message)
	if hint := HintOf(e); hint != "" {
		info.Metadata["hint"] = hint
	}
	if with, err := st.WithDetails(info); err == nil {
		st = with
	}
	return st
}

// ToGRPC turns any error into one that gRPC sends with its code.
func ToGRPC(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		outer := &Error{Code: CodeOf(err), Message: err.Error(), Where: e.Where, Hint: HintOf(err)}
		return outer.GRPCStatus().Err()
	}
	if c, ok := contextCode(err); ok {
		return status.Error(toGRPC(c), err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return (&Error{Code: Internal}).GRPCStatus().Err()
}

// FromGRPC turns a status that came over gRPC into an Error; other errors are returned as they are.
func FromGRPC(err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	out := &Error{Code: fromGRPC(st.Code()), Message: st.Message(), Err: err}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			out.Code = Code(info.Reason)
			out.Hint = info.Metadata["hint"]
		}
	}
	return out
}
