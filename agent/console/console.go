// Package console shows logs of this host and runs commands in containers of its stacks, for an operator at the other end of a
// stream that the agent opens to its server. When that stream ends, whatever was started for it ends too.
package console

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Engine is what consoles ask of the container engine; NewEngine makes one of docker.Engine.
type Engine interface {
	// Containers lists containers that have all of the labels.
	Containers(ctx context.Context, labels ...string) ([]docker.Container, error)
	// Logs reads a container's log.
	Logs(ctx context.Context, id string, o docker.LogOptions) (io.ReadCloser, error)
	// Exec starts a command in a container.
	Exec(ctx context.Context, id string, o docker.ExecOptions) (Command, error)
}

// Command is a command that runs in a container; *docker.Exec is one.
type Command interface {
	io.WriteCloser
	CloseWrite() error
	Copy(stdout, stderr io.Writer) error
	Resize(ctx context.Context, rows, columns uint) error
	State(ctx context.Context) (docker.ExecState, error)
}

// NewEngine makes an Engine of the real one.
func NewEngine(e *docker.Engine) Engine { return engine{e} }

type engine struct{ *docker.Engine }

// Exec implements Engine.
func (e engine) Exec(ctx context.Context, id string, o docker.ExecOptions) (Command, error) {
	x, err := e.Engine.Exec(ctx, id, o)
	if err != nil {
		return nil, err
	}
	return x, nil
}

// Stream is the agent's side of SessionService.Attach.
type Stream = grpc.BidiStreamingClient[v1.AttachRequest, v1.AttachResponse]

// Open opens a stream on a connection of its own; done frees that.
type Open = func(ctx context.Context) (s Stream, done func(), err error)

// Config is what Consoles need.
type Config struct {
	Host *host.Host
	// Engine is the container engine; nil where there is none.
	Engine Engine
	// Stacks are the names of the stacks that the applied spec knows, Instances the ids of its instances by their names: no other
	// container is touched.
	Stacks    func() []string
	Instances func() map[string]string
	// Adopted are the containers of instances that infractl did not make, by instance and part; nil means none.
	Adopted func() map[string]map[string]string
	Log     hclog.Logger
}

// maxOpen is how many consoles there are at once; the server has a lower limit.
const maxOpen = 16

// endWait is how long the server may take to end the stream after the last message.
const endWait = 10 * time.Second

// Consoles carries logs and commands.
type Consoles struct {
	cfg  Config
	open chan struct{}
}

// New returns Consoles.
func New(cfg Config) *Consoles { return &Consoles{cfg: cfg, open: make(chan struct{}, maxOpen)} }

// work carries something to its end; the code is a command's.
type work func(ctx context.Context, l *line) (code int32, err error)

// Attach does a task: it finds what is meant, opens the stream, and carries. An error before the stream is open is returned; a
// later one travels in the last message as well.
func (c *Consoles) Attach(ctx context.Context, open Open, task *v1.AttachTask) error {
	select {
	case c.open <- struct{}{}:
		defer func() { <-c.open }()
	default:
		return errs.New(errs.Exhausted, "%d consoles are open here already", maxOpen)
	}
	do, err := c.find(ctx, task)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, done, err := open(ctx)
	if err != nil {
		return errs.Wrap("open console", err)
	}
	defer done()
	if err := stream.Send(&v1.AttachRequest{Message: &v1.AttachRequest_AttachId{AttachId: task.GetAttachId()}}); err != nil {
		return errs.Wrap("open console", errs.FromGRPC(err))
	}
	l := &line{stream: stream, input: make(chan *v1.ConsoleInput), gone: make(chan struct{})}
	go l.receive(ctx, cancel)
	code, err := do(ctx, l)
	select {
	case <-l.gone: // nobody is there to hear more
		return nil
	default:
	}
	l.last(code, err)
	select {
	case <-l.gone:
	case <-time.After(endWait):
	}
	return err
}

func (c *Consoles) find(ctx context.Context, task *v1.AttachTask) (work, error) {
	switch w := task.GetWork().(type) {
	case *v1.AttachTask_Logs:
		if err := console.CheckLogs(w.Logs); err != nil {
			return nil, err
		}
		if w.Logs.GetStack() != "" || w.Logs.GetInstance() != "" {
			return c.containerLogs(ctx, w.Logs)
		}
		return c.unitLogs(w.Logs), nil
	case *v1.AttachTask_Exec:
		if err := console.CheckExec(w.Exec); err != nil {
			return nil, err
		}
		return c.exec(ctx, w.Exec)
	}
	return nil, errs.New(errs.Invalid, "this agent cannot attach to that").WithHint("upgrade the agent of this host to the server's version")
}

// line is the way to the operator.
type line struct {
	stream Stream
	input  chan *v1.ConsoleInput
	gone   chan struct{} // closed when the stream has ended

	mu sync.Mutex // one sender at a time
}

// receive hands input on until the stream ends, and then ends the work.
func (l *line) receive(ctx context.Context, cancel context.CancelFunc) {
	defer close(l.gone)
	defer cancel()
	for {
		m, err := l.stream.Recv()
		if err != nil || console.CheckInput(m.GetInput()) != nil {
			return
		}
		if !l.hand(ctx, m.GetInput()) {
			return
		}
	}
}

// probeEvery is how often the stream is tried while input waits for a command that does not read.
const probeEvery = 2 * time.Second

// hand hands one input on. While it waits nothing is received, so that the end of the stream is seen only by sending: a message
// that says nothing.
func (l *line) hand(ctx context.Context, in *v1.ConsoleInput) bool {
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		select {
		case l.input <- in:
			return true
		case <-probe.C:
			l.mu.Lock()
			err := l.put(&v1.ConsoleOutput{})
			l.mu.Unlock()
			if err != nil {
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}

// send sends data in messages within the limit; it waits as long as the operator does not read.
func (l *line) send(source string, data []byte, stderr bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(data) > 0 {
		n := min(len(data), console.MaxData)
		if err := l.put(&v1.ConsoleOutput{Source: source, Data: data[:n], Stderr: stderr}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (l *line) last(code int32, err error) {
	out := &v1.ConsoleOutput{Ended: true, ExitCode: code}
	if err != nil {
		out.Error = clip(err.Error(), console.MaxError)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.put(out) == nil {
		_ = l.stream.CloseSend()
	}
}

func (l *line) put(out *v1.ConsoleOutput) error {
	err := l.stream.Send(&v1.AttachRequest{Message: &v1.AttachRequest_Output{Output: out}})
	if errors.Is(err, io.EOF) {
		return errs.New(errs.Canceled, "the other side ended it")
	}
	return err
}

func clip(text string, limit int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return text
}

// writer sends what is written to it.
type writer struct {
	line   *line
	stderr bool
}

// Write implements io.Writer.
func (w writer) Write(p []byte) (int, error) {
	if err := w.line.send("", p, w.stderr); err != nil {
		return 0, err
	}
	return len(p), nil
}
