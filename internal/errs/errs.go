// Package errs holds the one error type of infractl.
//
// An error is made where something fails, wrapped with an operation on the way up, logged once at the top, and shown to
// people as what failed, where, and what to do next. Code, message, place and hint cross gRPC unchanged: GRPCStatus
// writes them into status details, FromGRPC reads them back.
package errs

import (
	"errors"
	"fmt"
	"strings"
)

// Code classifies an error for those that must act on it. Anything without a Code is Internal.
type Code string

// The codes. Each says whose move it is.
const (
	Internal        Code = "internal"        // a defect or a broken machine; the log has more
	Invalid         Code = "invalid"         // the input is wrong; sending it again cannot help
	NotFound        Code = "not_found"       // the named thing does not exist
	Exists          Code = "exists"          // the named thing exists already
	Conflict        Code = "conflict"        // somebody else changed it first; read again and repeat
	Precondition    Code = "precondition"    // the system's state forbids it now; the hint says what must come first
	Unauthenticated Code = "unauthenticated" // no or no valid identity
	Denied          Code = "denied"          // the identity is known and may not do this
	Revoked         Code = "revoked"         // the identity was withdrawn for good
	Unavailable     Code = "unavailable"     // the other side does not answer; try again
	Exhausted       Code = "exhausted"       // a limit was reached; try later
	Timeout         Code = "timeout"         // it did not end in time; its outcome is not known
	Canceled        Code = "canceled"        // the caller gave up
	RolledBack      Code = "rolled_back"     // a change failed and the former state is back
)

// Error is the one error type. All fields but Code and Message may be empty.
type Error struct {
	// Op is the operation that failed, in words: "read site file".
	Op string
	// Code classifies the failure.
	Code Code
	// Message says what is wrong, in one sentence without a final dot.
	Message string
	// Where names the place: "site.yaml:12:3", a node, a path.
	Where string
	// Hint says what to do next, with the command to type where there is one.
	Hint string
	// Err is the cause.
	Err error
}

// New makes an error with a formatted message. A %w in format becomes the cause.
func New(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// At returns e with its place set.
func (e *Error) At(where string) *Error { e.Where = where; return e }

// WithHint returns e with its hint set.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Wrap adds an operation to err and keeps its code, place and hint. It returns nil for nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Code: CodeOf(err), Err: err, Hint: HintOf(err)}
}

// Error implements error: "op: where: message".
func (e *Error) Error() string {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Where != "" {
		parts = append(parts, e.Where)
	}
	switch {
	case e.Message != "":
		parts = append(parts, e.Message)
	case e.Err != nil:
		parts = append(parts, e.Err.Error())
	default:
		parts = append(parts, string(e.Code))
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the outermost code in err's chain, Internal where there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) && e.Code != "" {
		return e.Code
	}
	if c, ok := contextCode(err); ok {
		return c
	}
	return Internal
}

// Is reports whether err has the code.
func Is(err error, code Code) bool { return err != nil && CodeOf(err) == code }

// HintOf returns the first hint in err's chain.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Join collects several errors into one whose code is that of the first; nil entries are dropped.
func Join(list ...error) error { return errors.Join(list...) }
