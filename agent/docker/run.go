package docker

import (
	"bytes"
	"context"
	"io"
	"strings"

	"github.com/infractl/infractl/internal/errs"
)

// errorOutput is how much of what a command says on stderr is kept.
const errorOutput = 4 << 10

// Run runs a command in a running container to its end. stdin and stdout may be nil. What it says on stderr stands in the error when its
// exit code is not 0: callers whose input holds secrets take them out. It is the caller's context that bounds it; the engine has no way
// to end a command, so one that hangs stays until its container ends.
func (e *Engine) Run(ctx context.Context, id string, argv []string, user string, stdin io.Reader, stdout io.Writer) (code int, err error) {
	if stdout == nil {
		stdout = io.Discard
	}
	x, err := e.Exec(ctx, id, ExecOptions{Argv: argv, User: user, Stdin: stdin != nil})
	if err != nil {
		return 0, err
	}
	defer x.Close()
	stop := context.AfterFunc(ctx, func() { _ = x.Close() })
	defer stop()
	if stdin != nil {
		go func() {
			_, _ = io.Copy(x, stdin) // a command that has ended reads no more
			_ = x.CloseWrite()
		}()
	}
	said := &lastBytes{}
	if err := x.Copy(stdout, said); err != nil {
		if ctx.Err() != nil {
			return 0, errs.New(errs.Timeout, "%s did not end in time", argv[0])
		}
		return 0, err
	}
	state, err := x.State(ctx)
	if err != nil {
		return 0, err
	}
	if state.ExitCode == 0 {
		return 0, nil
	}
	text := strings.TrimSpace(said.String())
	if text == "" {
		return state.ExitCode, nil
	}
	return state.ExitCode, errs.New(errs.Internal, "%s ended with code %d: %s", argv[0], state.ExitCode, text)
}

// lastBytes keeps the end of what is written.
type lastBytes struct{ buf bytes.Buffer }

// Write implements io.Writer.
func (l *lastBytes) Write(p []byte) (int, error) {
	l.buf.Write(p)
	if extra := l.buf.Len() - errorOutput; extra > 0 {
		l.buf.Next(extra)
	}
	return len(p), nil
}

func (l *lastBytes) String() string { return strings.ToValidUTF8(l.buf.String(), "?") }
