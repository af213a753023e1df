package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type execOptions struct {
	node, user          string
	tty, noTTY, noStdin bool
	command             *v1.ExecCommand
}

func (a *app) execCmd() *cobra.Command {
	var o execOptions
	c := &cobra.Command{
		Use: "exec STACK/SERVICE [flags] -- COMMAND [ARGS...]", Short: "Run a command in a container of a stack",
		Long: `Run a command in a running container of a stack, without a login on its host. No shell reads the command. It gets a terminal when stdin
and stdout are terminals (-t and --no-tty say otherwise), and stdin unless --no-stdin. When infractl ends, the command is killed.

Who ran what stands in the audit log, with all arguments: write no secret there.

Without a terminal for the command, what it writes reaches a file or a pipe as it is, and a terminal with its control characters
replaced.

The command's exit code becomes infractl's. When infractl itself fails, it says so on stderr, in a line that begins with "error:".`,
		Example: "  infractl exec services/caddy -- caddy version\n  infractl exec supervision/grafana -- sh\n" +
			"  infractl exec shop/db --no-stdin -- pg_dump -U shop shop > shop.sql",
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() == 0 || len(args) > 0 && c.ArgsLenAtDash() > 1 {
				return errs.New(errs.Invalid, "the service comes first, then --, then the command").WithHint("infractl exec STACK/SERVICE -- COMMAND")
			}
			return arity(2, math.MaxInt)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			stack, service, _ := strings.Cut(args[0], "/")
			o.command = &v1.ExecCommand{Stack: stack, Service: service, Argv: args[1:], User: o.user}
			return a.runExec(c.Context(), o)
		},
	}
	c.Flags().StringVar(&o.node, "node", "", "the host, where the stack is on several")
	a.completeNodes(c, "node")
	execFlags(c, &o)
	return c
}

// execFlags are those of every command that runs a command in a container.
func execFlags(c *cobra.Command, o *execOptions) {
	f := c.Flags()
	f.StringVarP(&o.user, "user", "u", "", "the user in the container: NAME, ID or USER:GROUP")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&o.noTTY, "no-tty", false, "give it none")
	f.BoolVarP(&o.noStdin, "no-stdin", "n", false, "give it no input")
	c.MarkFlagsMutuallyExclusive("tty", "no-tty")
	exits(c, true, meaning{ExitOK, "the command's own exit code, whatever it is"})
}

func (a *app) runExec(ctx context.Context, o execOptions) error {
	o.command.Tty = o.tty || !o.noTTY && !o.noStdin && isTerminal(a.proc.In) && isTerminal(a.proc.Out)
	if err := console.CheckExec(o.command); err != nil {
		return err
	}
	restore := func() {}
	if o.command.Tty {
		if rows, columns, ok := a.terminalSize(); ok {
			o.command.Rows, o.command.Columns = rows, columns
		}
	}
	var code int32
	err := a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := v1.NewConsoleServiceClient(conn).Exec(ctx)
		if err != nil {
			return err
		}
		// An error of Send says only that the stream ended; Recv says why.
		_ = stream.Send(&v1.ExecRequest{Message: &v1.ExecRequest_Start{Start: &v1.ExecStart{Node: o.node, Command: o.command}}})
		if o.command.Tty && isTerminal(a.proc.In) {
			if restore, err = raw(a.proc.In.(*os.File)); err != nil {
				return err
			}
			defer restore()
		}
		in := &execInput{stream: stream}
		if o.noStdin {
			in.send(&v1.ConsoleInput{Eof: true})
		} else {
			go in.copy(a.proc.In)
		}
		if o.command.Tty {
			go a.resizes(ctx, in)
		}
		code, err = a.execOutput(stream, o.command.Tty)
		return err
	})
	if err == nil && code != 0 {
		return exitError{int(code), fmt.Sprintf("the command ended with exit code %d", code)}
	}
	return err
}

// execOutput shows what the command says until it ends, and returns its exit code.
func (a *app) execOutput(stream grpc.BidiStreamingClient[v1.ExecRequest, v1.ExecResponse], tty bool) (int32, error) {
	stdout, stderr := a.execWriter(a.proc.Out, tty), a.execWriter(a.proc.Err, tty)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, errs.New(errs.Unavailable, "the stream ended before the command did")
		}
		if err != nil {
			return 0, err
		}
		out, to := m.GetOutput(), stdout
		if out.GetStderr() {
			to = stderr
		}
		if _, err := to.Write(out.GetData()); err != nil {
			return 0, errs.Wrap("write output", err)
		}
		if out.GetEnded() {
			return out.GetExitCode(), lastWord(out)
		}
	}
}

func (a *app) execWriter(w io.Writer, tty bool) io.Writer {
	if tty || !isTerminal(w) {
		return w
	}
	return &cleanWriter{to: w}
}

// cleanWriter replaces what would steer a terminal. It keeps the beginning of a character that is cut in two until its end comes.
type cleanWriter struct {
	to   io.Writer
	rest []byte
}

// Write implements io.Writer.
func (c *cleanWriter) Write(p []byte) (int, error) {
	data := append(c.rest, p...)
	whole := len(data)
	for back := 1; back < utf8.UTFMax && back <= len(data); back++ {
		if at := len(data) - back; utf8.RuneStart(data[at]) {
			if !utf8.FullRune(data[at:]) {
				whole = at
			}
			break
		}
	}
	c.rest = append([]byte(nil), data[whole:]...)
	if _, err := io.WriteString(c.to, cleanText(string(data[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// execInput sends to the command; one at a time.
type execInput struct {
	mu     sync.Mutex
	stream grpc.BidiStreamingClient[v1.ExecRequest, v1.ExecResponse]
}

func (i *execInput) send(in *v1.ConsoleInput) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stream.Send(&v1.ExecRequest{Message: &v1.ExecRequest_Input{Input: in}}) == nil
}

// copy sends what comes in until its end.
func (i *execInput) copy(from io.Reader) {
	buf := make([]byte, console.MaxData)
	for {
		n, err := from.Read(buf)
		if n > 0 && !i.send(&v1.ConsoleInput{Data: append([]byte(nil), buf[:n]...)}) {
			return
		}
		if err != nil {
			i.send(&v1.ConsoleInput{Eof: true})
			return
		}
	}
}

// raw makes every key go to the command; restore undoes it.
func raw(f *os.File) (restore func(), err error) {
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, errs.Wrap("use the terminal", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), state) }, nil
}

func (a *app) terminalSize() (rows, columns uint32, ok bool) {
	f, isFile := a.proc.Out.(*os.File)
	if !isFile {
		return 0, 0, false
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 || height <= 0 || width > console.MaxSize || height > console.MaxSize {
		return 0, 0, false
	}
	return uint32(height), uint32(width), true
}

// resizes tells the command when the terminal's size changes.
func (a *app) resizes(ctx context.Context, in *execInput) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-changed:
			if rows, columns, ok := a.terminalSize(); ok && !in.send(&v1.ConsoleInput{Rows: rows, Columns: columns}) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
