package errs

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestErrorCrossesGRPCUnchanged(t *testing.T) {
	for _, code := range []Code{Invalid, NotFound, Exists, Conflict, Precondition, Unauthenticated, Denied, Revoked,
		Unavailable, Exhausted, Timeout, Canceled, RolledBack} {
		t.Run(string(code), func(t *testing.T) {
			sent := Wrap("apply", New(code, "port %d is taken", 22).At("site.yaml:3").WithHint("choose another"))
			got := FromGRPC(ToGRPC(sent))
			if CodeOf(got) != code {
				t.Errorf("code = %q, want %q", CodeOf(got), code)
			}
			if HintOf(got) != "choose another" {
				t.Errorf("hint = %q", HintOf(got))
			}
			if !strings.Contains(got.Error(), "site.yaml:3: port 22 is taken") {
				t.Errorf("message = %q", got)
			}
		})
	}
}

func TestInternalErrorKeepsItsTextAtHome(t *testing.T) {
	got := FromGRPC(ToGRPC(Wrap("open store", errors.New("secret path"))))
	if strings.Contains(got.Error(), "secret path") {
		t.Errorf("an internal error's text crossed the wire: %q", got)
	}
	if CodeOf(got) != Internal {
		t.Errorf("code = %q", CodeOf(got))
	}
}

func TestCodeOf(t *testing.T) {
	cases := map[string]struct {
		err  error
		want Code
	}{
		"nil":             {nil, ""},
		"plain":           {io.EOF, Internal},
		"context timeout": {Wrap("dial", context.DeadlineExceeded), Timeout},
		"wrapped":         {Wrap("a", Wrap("b", New(Denied, "no"))), Denied},
		"cause kept":      {New(Unavailable, "dial: %w", io.EOF), Unavailable},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := CodeOf(c.err); got != c.want {
				t.Errorf("CodeOf = %q, want %q", got, c.want)
			}
		})
	}
	if !errors.Is(New(Unavailable, "dial: %w", io.EOF), io.EOF) {
		t.Error("cause lost")
	}
}
