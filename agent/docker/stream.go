package docker

import (
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// LogOptions chooses lines of a log.
type LogOptions struct {
	// Follow goes on with new lines until the context ends or the reader is closed.
	Follow bool
	// Tail is how many old lines to begin with; negative means all.
	Tail int
	// Since and Until bound the time; zero means no bound.
	Since, Until time.Time
	// Timestamps puts the time (RFC 3339 with nanoseconds) and a space before each line.
	Timestamps bool
}

// Logs reads a container's log, standard output and error as they came. The reader must be closed.
func (e *Engine) Logs(ctx context.Context, id string, o LogOptions) (io.ReadCloser, error) {
	detail, err := e.Inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	opts := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: o.Follow, Timestamps: o.Timestamps, Tail: "all"}
	if o.Tail >= 0 {
		opts.Tail = strconv.Itoa(o.Tail)
	}
	if !o.Since.IsZero() {
		opts.Since = o.Since.UTC().Format(time.RFC3339Nano)
	}
	if !o.Until.IsZero() {
		opts.Until = o.Until.UTC().Format(time.RFC3339Nano)
	}
	raw, err := e.client.ContainerLogs(ctx, detail.ID, opts)
	if err != nil {
		return nil, e.failed("read a log", err)
	}
	if detail.TTY {
		return raw, nil
	}
	reader, writer := io.Pipe()
	go func() {
		_, err := stdcopy.StdCopy(writer, writer, raw)
		writer.CloseWithError(err)
		raw.Close()
	}()
	return &joined{PipeReader: reader, raw: raw}, nil
}

// joined is a log without the frames in which the engine sends it.
type joined struct {
	*io.PipeReader
	raw io.Closer
}

// Close implements io.Closer.
func (j *joined) Close() error {
	_ = j.PipeReader.Close()
	return j.raw.Close()
}

// ExecOptions is a command to run in a container.
type ExecOptions struct {
	// Argv is the program and its arguments; no shell reads them.
	Argv []string
	// User is "", a name, an id, or "user:group".
	User string
	// Dir is the folder to run in; "" means the image's.
	Dir string
	// Env are NAME=value pairs. Whoever may inspect the container sees them: no secrets.
	Env []string
	// TTY gives it a terminal; its output is then one stream.
	TTY bool
	// Stdin says that input is sent.
	Stdin bool
	// Rows and Columns are the terminal's size; 0 means the engine's choice.
	Rows, Columns uint
}

// Exec is a command that runs in a container.
type Exec struct {
	// ID names it to the engine.
	ID     string
	engine *Engine
	tty    bool
	raw    types.HijackedResponse
}

// Exec starts a command in a running container.
func (e *Engine) Exec(ctx context.Context, id string, o ExecOptions) (*Exec, error) {
	bounded, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	opts := container.ExecOptions{Cmd: o.Argv, User: o.User, WorkingDir: o.Dir, Env: o.Env, Tty: o.TTY, AttachStdin: o.Stdin,
		AttachStdout: true, AttachStderr: true}
	start := container.ExecAttachOptions{Tty: o.TTY}
	if o.TTY && o.Rows > 0 && o.Columns > 0 {
		opts.ConsoleSize, start.ConsoleSize = &[2]uint{o.Rows, o.Columns}, &[2]uint{o.Rows, o.Columns}
	}
	created, err := e.client.ContainerExecCreate(bounded, id, opts)
	if err != nil {
		return nil, e.failed("run a command", err)
	}
	raw, err := e.client.ContainerExecAttach(bounded, created.ID, start)
	if err != nil {
		return nil, e.failed("run a command", err)
	}
	x := &Exec{ID: created.ID, engine: e, tty: o.TTY, raw: raw}
	if o.TTY && o.Rows > 0 && o.Columns > 0 {
		_ = x.Resize(bounded, o.Rows, o.Columns) // engines before 23 do not know the size at the start
	}
	return x, nil
}

// Conn is the connection to it, for deadlines and for input.
func (x *Exec) Conn() net.Conn { return x.raw.Conn }

// Write sends input.
func (x *Exec) Write(p []byte) (int, error) { return x.raw.Conn.Write(p) }

// CloseWrite ends the input; the output goes on.
func (x *Exec) CloseWrite() error { return x.raw.CloseWrite() }

// Copy copies the output until it ends, with a terminal all of it to stdout.
func (x *Exec) Copy(stdout, stderr io.Writer) error {
	var err error
	if x.tty {
		_, err = io.Copy(stdout, x.raw.Reader)
	} else {
		_, err = stdcopy.StdCopy(stdout, stderr, x.raw.Reader)
	}
	if err != nil {
		return x.engine.failed("read a command's output", err)
	}
	return nil
}

// Close cuts the connection. It does not end the command: the engine has no way to.
func (x *Exec) Close() error {
	x.raw.Close()
	return nil
}

// Resize sets the terminal's size.
func (x *Exec) Resize(ctx context.Context, rows, columns uint) error {
	ctx, cancel := context.WithTimeout(ctx, x.engine.timeout)
	defer cancel()
	err := x.engine.client.ContainerExecResize(ctx, x.ID, container.ResizeOptions{Height: rows, Width: columns})
	if err != nil {
		return x.engine.failed("resize a terminal", err)
	}
	return nil
}

// ExecState is how a command is.
type ExecState struct {
	// Running says that it has not ended.
	Running bool
	// ExitCode is valid when it has.
	ExitCode int
	// Pid is its process on the host, 0 when it has ended.
	Pid int
}

// State looks how it is.
func (x *Exec) State(ctx context.Context) (ExecState, error) {
	ctx, cancel := context.WithTimeout(ctx, x.engine.timeout)
	defer cancel()
	raw, err := x.engine.client.ContainerExecInspect(ctx, x.ID)
	if err != nil {
		return ExecState{}, x.engine.failed("look at a command", err)
	}
	return ExecState{Running: raw.Running, ExitCode: raw.ExitCode, Pid: raw.Pid}, nil
}
