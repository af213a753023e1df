package host

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFollow(t *testing.T) {
	h := New(Config{})
	var got []string
	err := h.Follow(t.Context(), Cmd{Argv: []string{"sh", "-c", "echo one; head -c 70000 /dev/zero | tr '\\0' x; echo; echo two; echo why >&2; exit 3"}},
		func(line []byte) error { got = append(got, string(line)); return nil })
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(exit.Stderr, "why") {
		t.Errorf("err = %v", err)
	}
	if diff := cmp.Diff([]string{"one", "two"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestFollowEndsWithItsContextAndWithItsReader(t *testing.T) {
	h := New(Config{})
	endless := Cmd{Argv: []string{"sh", "-c", "while true; do echo again; sleep 0.01; done"}}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := h.Follow(ctx, endless, func([]byte) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	enough := errors.New("enough")
	if err := h.Follow(t.Context(), endless, func([]byte) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("err = %v", err)
	}
}
