package console_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/infractl/infractl/agent/console"
	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/agent/host"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type serverStream = grpc.BidiStreamingServer[v1.AttachRequest, v1.AttachResponse]

// rig is an agent's consoles with a server whose Attach is script, an engine and a journal that are made up.
type rig struct {
	v1.UnimplementedSessionServiceServer
	*testing.T
	consoles *console.Consoles
	conn     *grpc.ClientConn
	script   func(serverStream) error

	mu         sync.Mutex
	argv       []string
	journal    func(ctx context.Context, line func([]byte) error) error
	containers []docker.Container
	logs       map[string]string
	asked      docker.LogOptions
	command    *command
	options    docker.ExecOptions
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, logs: map[string]string{}}
	r.consoles = console.New(console.Config{Host: host.New(host.Config{Runner: r}), Engine: r, Log: hclog.NewNullLogger(),
		Stacks:    func() []string { return []string{"shop"} },
		Instances: func() map[string]string { return map[string]string{"acme": "aaaa1111", "old": "cccc3333"} },
		Adopted: func() map[string]map[string]string {
			return map[string]map[string]string{"old": {"app": "old_dolibarr", "db": "old_mariadb"}}
		}})
	server := grpc.NewServer()
	v1.RegisterSessionServiceServer(server, r)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) // ends with Stop
	t.Cleanup(server.Stop)
	if r.conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r
}

func (r *rig) Attach(s serverStream) error {
	first, err := s.Recv()
	if err != nil || first.GetAttachId() != "the-id" {
		r.Errorf("first message = %v, %v", first, err)
	}
	return r.script(s)
}

func (r *rig) Run(context.Context, host.Cmd) (host.Output, error) {
	return host.Output{}, errors.New("nothing is run here")
}

func (r *rig) Follow(ctx context.Context, cmd host.Cmd, line func([]byte) error) error {
	r.mu.Lock()
	r.argv = cmd.Argv
	r.mu.Unlock()
	return r.journal(ctx, line)
}

func (r *rig) Containers(_ context.Context, labels ...string) ([]docker.Container, error) {
	return r.containers, nil // a stupid engine: it does not choose by label
}

func (r *rig) Logs(ctx context.Context, id string, o docker.LogOptions) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = o
	return io.NopCloser(strings.NewReader(r.logs[id])), nil
}

func (r *rig) Exec(_ context.Context, id string, o docker.ExecOptions) (console.Command, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.options = o
	return r.command, nil
}

// command is a command in a container, played by run.
type command struct {
	run func(stdin io.Reader, stdout, stderr io.Writer) int

	in     *io.PipeReader
	out    *io.PipeWriter
	mu     sync.Mutex
	sizes  []string
	closed bool
	ended  bool
	code   int
}

func newCommand(run func(stdin io.Reader, stdout, stderr io.Writer) int) *command {
	c := &command{run: run}
	c.in, c.out = io.Pipe()
	return c
}

func (c *command) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *command) CloseWrite() error           { return c.out.Close() }
func (c *command) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.in.CloseWithError(io.ErrClosedPipe)
}

func (c *command) Copy(stdout, stderr io.Writer) error {
	code := c.run(c.in, stdout, stderr)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code, c.ended = code, true
	return nil
}

func (c *command) Resize(_ context.Context, rows, columns uint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, fmt.Sprintf("%dx%d", rows, columns))
	return nil
}

func (c *command) State(context.Context) (docker.ExecState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return docker.ExecState{Running: !c.ended, ExitCode: c.code}, nil
}

// attach does a task to its end.
func (r *rig) attach(ctx context.Context, task *v1.AttachTask) error {
	task.AttachId = "the-id"
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return r.consoles.Attach(ctx, func(ctx context.Context) (console.Stream, func(), error) {
		s, err := v1.NewSessionServiceClient(r.conn).Attach(ctx)
		return s, func() {}, err
	}, task)
}

// read gathers outputs to the last one: "source:text", "!" before what came on stderr.
func read(s serverStream) (parts []string, last *v1.ConsoleOutput) {
	for {
		m, err := s.Recv()
		if err != nil {
			return parts, last
		}
		out := m.GetOutput()
		if out.GetEnded() {
			return parts, out
		}
		mark := ""
		if out.GetStderr() {
			mark = "!"
		}
		if len(out.GetData()) > 0 {
			parts = append(parts, mark+out.GetSource()+":"+string(out.GetData()))
		}
	}
}

func logsOf(s *v1.LogSource) *v1.AttachTask {
	return &v1.AttachTask{Work: &v1.AttachTask_Logs{Logs: s}}
}

func execOf(c *v1.ExecCommand) *v1.AttachTask {
	return &v1.AttachTask{Work: &v1.AttachTask_Exec{Exec: c}}
}

func container(id, stack, service, number, state string) docker.Container {
	return docker.Container{ID: id, State: state, Labels: map[string]string{
		docker.LabelProject: stack, docker.LabelService: service, docker.LabelNumber: number}}
}

func wantCode(t testing.TB, err error, want errs.Code) {
	t.Helper()
	if got := errs.CodeOf(err); got != want {
		t.Errorf("code = %q, want %q (%v)", got, want, err)
	}
}

func TestTheJournalOfAUnit(t *testing.T) {
	for name, c := range map[string]struct {
		source *v1.LogSource
		argv   string
	}{
		"default": {&v1.LogSource{Tail: 10}, "--lines=10 --unit=infractl-agent"},
		"follow":  {&v1.LogSource{Unit: "ssh.service", Follow: true}, "--lines=0 --unit=ssh.service --follow"},
		"kernel":  {&v1.LogSource{Unit: "kernel", Tail: 1}, "--lines=1 --dmesg"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.journal = func(_ context.Context, line func([]byte) error) error {
				return errs.Join(line([]byte("one")), line([]byte(strings.Repeat("x", 40_000))), line([]byte("three")))
			}
			var text string
			var last *v1.ConsoleOutput
			r.script = func(s serverStream) error {
				parts, end := read(s)
				text, last = strings.ReplaceAll(strings.Join(parts, ""), ":", ""), end
				return nil
			}
			if err := r.attach(t.Context(), logsOf(c.source)); err != nil {
				t.Fatal(err)
			}
			if want := "journalctl --no-pager --quiet --output=short-iso " + c.argv; strings.Join(r.argv, " ") != want {
				t.Errorf("argv = %q, want %q", r.argv, want)
			}
			if lines := strings.Split(text, "\n"); len(lines) != 6 || lines[0] != "one" || lines[4] != "three" {
				t.Errorf("got %d lines", len(lines))
			}
			if last.GetError() != "" || !last.GetEnded() {
				t.Errorf("last = %v", last)
			}
		})
	}
}

func TestALogThatCannotBeRead(t *testing.T) {
	r := newRig(t)
	r.journal = func(context.Context, func([]byte) error) error { return errors.New("no journal files were found") }
	var last *v1.ConsoleOutput
	r.script = func(s serverStream) error { _, last = read(s); return nil }
	if err := r.attach(t.Context(), logsOf(&v1.LogSource{})); err == nil {
		t.Error("the task succeeded")
	}
	if !strings.Contains(last.GetError(), "no journal files") {
		t.Errorf("last = %v", last)
	}
}

func TestLogsOfAStack(t *testing.T) {
	r := newRig(t)
	r.containers = []docker.Container{container("w2", "shop", "web", "2", "exited"), container("w1", "shop", "web", "1", "running"),
		container("d1", "shop", "db", "1", "running"), container("x1", "other", "web", "1", "running")}
	r.logs = map[string]string{"w1": "a\nb\n", "w2": "c", "d1": "d\n", "x1": "SECRET\n"}
	got := map[string]string{}
	r.script = func(s serverStream) error {
		parts, _ := read(s)
		for _, p := range parts {
			source, text, _ := strings.Cut(p, ":")
			got[source] += text
		}
		return nil
	}
	if err := r.attach(t.Context(), logsOf(&v1.LogSource{Stack: "shop", Tail: 5})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"web-1": "a\nb\n", "web-2": "c\n", "db": "d\n"}, got); diff != "" {
		t.Error(diff)
	}
	if r.asked.Tail != 5 || r.asked.Follow {
		t.Errorf("asked for %+v", r.asked)
	}
}

// part is a container of an instance.
func part(docID, id, name string) docker.Container {
	return docker.Container{ID: docID, State: "running", Labels: map[string]string{"infractl.id": id, "infractl.part": name}}
}

func TestLogsOfAnInstance(t *testing.T) {
	r := newRig(t)
	r.containers = []docker.Container{part("d", "aaaa1111", "db"), part("a", "aaaa1111", "app"), part("x", "bbbb2222", "app"),
		container("w1", "acme", "app", "1", "running")}
	r.logs = map[string]string{"d": "d\n", "a": "a\n", "x": "SECRET\n", "w1": "SECRET\n"}
	var got []string
	r.script = func(s serverStream) error { got, _ = read(s); return nil }
	if err := r.attach(t.Context(), logsOf(&v1.LogSource{Instance: "acme"})); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"app:a\n", "db:d\n"}, got); diff != "" {
		t.Error(diff)
	}
	if err := r.attach(t.Context(), logsOf(&v1.LogSource{Instance: "acme", Service: "db"})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"db:d\n"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLogsOfAnAdoptedInstance(t *testing.T) {
	r := newRig(t)
	r.containers = []docker.Container{{ID: "d", Name: "old_mariadb", State: "running"}, {ID: "a", Name: "old_dolibarr", State: "exited"},
		{ID: "x", Name: "old_dolibarr2", State: "running"}, part("y", "cccc3333", "app")}
	r.logs = map[string]string{"d": "d\n", "a": "a\n", "x": "SECRET\n", "y": "SECRET\n"}
	var got []string
	r.script = func(s serverStream) error { got, _ = read(s); return nil }
	for service, want := range map[string][]string{"": {"app:a\n", "db:d\n"}, "app": {"app:a\n"}} {
		if err := r.attach(t.Context(), logsOf(&v1.LogSource{Instance: "old", Service: service})); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	wantCode(t, r.attach(t.Context(), execOf(&v1.ExecCommand{Instance: "old", Service: "cron", Argv: []string{"sh"}})), errs.Precondition)
}

func TestOnlyManagedStacks(t *testing.T) {
	r := newRig(t)
	r.containers = []docker.Container{container("x1", "other", "web", "1", "running"), container("w1", "shop", "web", "1", "exited")}
	for name, c := range map[string]struct {
		task *v1.AttachTask
		want errs.Code
	}{
		"log of a foreign stack":              {logsOf(&v1.LogSource{Stack: "other"}), errs.NotFound},
		"log of no such service":              {logsOf(&v1.LogSource{Stack: "shop", Service: "db"}), errs.NotFound},
		"command in a foreign stack":          {execOf(&v1.ExecCommand{Stack: "other", Service: "web", Argv: []string{"sh"}}), errs.NotFound},
		"command where none runs":             {execOf(&v1.ExecCommand{Stack: "shop", Service: "web", Argv: []string{"sh"}}), errs.Precondition},
		"log of a foreign instance":           {logsOf(&v1.LogSource{Instance: "beta"}), errs.NotFound},
		"command in a part that is not there": {execOf(&v1.ExecCommand{Instance: "acme", Service: "cron", Argv: []string{"sh"}}), errs.Precondition},
		"odd unit":                            {logsOf(&v1.LogSource{Unit: "--flush"}), errs.Invalid},
		"no command":                          {execOf(&v1.ExecCommand{Stack: "shop", Service: "web"}), errs.Invalid},
		"nothing":                             {&v1.AttachTask{}, errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, r.attach(t.Context(), c.task), c.want) // no stream is opened: script is nil
		})
	}
}

func TestACommand(t *testing.T) {
	r := newRig(t)
	r.containers = []docker.Container{container("w1", "shop", "web", "1", "running")}
	r.command = newCommand(func(stdin io.Reader, stdout, stderr io.Writer) int {
		in, _ := io.ReadAll(stdin)
		_, _ = stdout.Write(in)
		_, _ = stderr.Write(make([]byte, 70_000)) // more than one message holds
		return 42
	})
	var stdout string
	var stderr int
	var last *v1.ConsoleOutput
	r.script = func(s serverStream) error {
		for _, in := range []*v1.ConsoleInput{{Rows: 30, Columns: 100}, {Data: []byte("hello")}, {Eof: true}} {
			if err := s.Send(&v1.AttachResponse{Input: in}); err != nil {
				return err
			}
		}
		var parts []string
		parts, last = read(s)
		for _, p := range parts {
			if strings.HasPrefix(p, "!") {
				stderr += len(p) - len("!:")
			} else {
				stdout += strings.TrimPrefix(p, ":")
			}
		}
		return nil
	}
	task := execOf(&v1.ExecCommand{Stack: "shop", Service: "web", Argv: []string{"cat"}, User: "33", Tty: true, Rows: 20, Columns: 80})
	if err := r.attach(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if stdout != "hello" || stderr != 70_000 || last.GetExitCode() != 42 {
		t.Errorf("stdout %q, %d bytes of stderr, last %v", stdout, stderr, last)
	}
	want := docker.ExecOptions{Argv: []string{"cat"}, User: "33", TTY: true, Stdin: true, Rows: 20, Columns: 80}
	if diff := cmp.Diff(want, r.options); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"30x100"}, r.command.sizes); diff != "" {
		t.Error(diff)
	}
}

// TestACommandEndsWithItsOperator lets the server end the stream while the command waits, and while it reads nothing.
func TestACommandEndsWithItsOperator(t *testing.T) {
	for name, send := range map[string]int{"waiting for input": 0, "not reading its input": 4} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.containers = []docker.Container{container("w1", "shop", "web", "1", "running")}
			closed := make(chan struct{})
			r.command = newCommand(func(stdin io.Reader, _, _ io.Writer) int {
				if send > 0 {
					<-closed
				} else {
					_, _ = io.ReadAll(stdin)
				}
				return 0
			})
			r.command.out.CloseWithError(nil)
			r.command.in, r.command.out = io.Pipe()
			r.script = func(s serverStream) error {
				for range send {
					_ = s.Send(&v1.AttachResponse{Input: &v1.ConsoleInput{Data: []byte("x")}})
				}
				return errors.New("the operator went away")
			}
			go func() {
				for {
					r.command.mu.Lock()
					done := r.command.closed
					r.command.mu.Unlock()
					if done {
						close(closed)
						return
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
			_ = r.attach(t.Context(), execOf(&v1.ExecCommand{Stack: "shop", Service: "web", Argv: []string{"sh"}}))
			<-closed
		})
	}
}

func TestAFollowedLogEndsWithItsOperator(t *testing.T) {
	r := newRig(t)
	ended := make(chan struct{})
	r.journal = func(ctx context.Context, line func([]byte) error) error {
		defer close(ended)
		if err := line([]byte("begun")); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	r.script = func(s serverStream) error {
		_, err := s.Recv()
		return errs.Join(err, errors.New("revoked"))
	}
	if err := r.attach(t.Context(), logsOf(&v1.LogSource{Follow: true})); err != nil {
		t.Errorf("nobody is there any more, and the task says %v", err)
	}
	<-ended
}

// TestASlowReaderHoldsTheLogBack counts the lines that are read while nobody takes them.
func TestASlowReaderHoldsTheLogBack(t *testing.T) {
	r := newRig(t)
	const all = 100_000
	var mu sync.Mutex
	count := 0
	go1 := make(chan struct{})
	r.journal = func(_ context.Context, line func([]byte) error) error {
		for range all {
			if err := line([]byte(strings.Repeat("y", 1000))); err != nil {
				return err
			}
			mu.Lock()
			count++
			mu.Unlock()
		}
		return nil
	}
	held := 0
	r.script = func(s serverStream) error {
		<-go1
		mu.Lock()
		held = count
		mu.Unlock()
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- r.attach(t.Context(), logsOf(&v1.LogSource{Follow: true})) }()
	for before := -1; ; { // until it stands still
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		now := count
		mu.Unlock()
		if now == before && now > 0 {
			break
		}
		before = now
	}
	close(go1)
	<-done
	if held == 0 || held > all/10 {
		t.Errorf("%d of %d lines were read while nobody took them", held, all)
	}
}
