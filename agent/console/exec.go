package console

import (
	"context"
	"slices"
	"time"

	"github.com/infractl/infractl/agent/docker"
	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

const (
	// stateWait is how long the engine may take to know the exit code of a command whose output has ended.
	stateWait = 5 * time.Second
	// killWait bounds the end of a command that nobody watches any more.
	killWait = 10 * time.Second
)

// exec runs a command in a running container of a managed stack or instance.
func (c *Consoles) exec(ctx context.Context, command *v1.ExecCommand) (work, error) {
	found, err := c.containers(ctx, command)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(found, func(one docker.Container) bool { return one.State == "running" })
	if at < 0 {
		return nil, errs.New(errs.Precondition, "no container of %s runs", console.Name(command)).WithHint("%s", showHint(command))
	}
	return func(ctx context.Context, l *line) (int32, error) {
		// It is started under a context of its own: a cut must not leave a command behind whose process nobody knows.
		started, err := c.cfg.Engine.Exec(context.WithoutCancel(ctx), found[at].ID, docker.ExecOptions{
			Argv: command.GetArgv(), User: command.GetUser(), TTY: command.GetTty(), Stdin: true,
			Rows: uint(command.GetRows()), Columns: uint(command.GetColumns()),
		})
		if err != nil {
			return 0, err
		}
		return c.carry(ctx, l, started)
	}, nil
}

// carry joins a command with the operator until the command's output ends, or the operator goes away; then it is killed.
func (c *Consoles) carry(ctx context.Context, l *line, x Command) (int32, error) {
	defer x.Close()
	stop := context.AfterFunc(ctx, func() { x.Close() }) // frees Copy
	defer stop()
	over := make(chan struct{})
	defer close(over)
	go feed(ctx, l, x, over)
	err := x.Copy(writer{l, false}, writer{l, true})
	if ctx.Err() != nil || err != nil {
		c.kill(ctx, x)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, err
	}
	state, err := ended(ctx, x)
	if err != nil {
		return 0, err
	}
	if state.Running { // it closed its output and goes on, where nobody sees it
		c.kill(ctx, x)
		return 0, errs.New(errs.Timeout, "the command closed its output and did not end, so it was killed")
	}
	return int32(state.ExitCode), nil
}

// feed hands input to the command.
func feed(ctx context.Context, l *line, x Command, over <-chan struct{}) {
	for {
		select {
		case in := <-l.input:
			if in.GetRows() > 0 && in.GetColumns() > 0 {
				_ = x.Resize(ctx, uint(in.GetRows()), uint(in.GetColumns())) // a wrong size is no reason to end
			}
			if len(in.GetData()) > 0 {
				_, _ = x.Write(in.GetData()) // a command that does not read any more goes on all the same
			}
			if in.GetEof() {
				_ = x.CloseWrite()
			}
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// ended waits until the engine knows how a command ended.
func ended(ctx context.Context, x Command) (docker.ExecState, error) {
	for deadline := time.Now().Add(stateWait); ; {
		state, err := x.State(ctx)
		if err != nil || !state.Running || time.Now().After(deadline) {
			return state, err
		}
		select {
		case <-ctx.Done():
			return state, ctx.Err()
		case <-time.After(stateWait / 100):
		}
	}
}

// kill ends a command whose operator is gone: the engine has no way to, but it knows the process.
func (c *Consoles) kill(ctx context.Context, x Command) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
	defer cancel()
	state, err := x.State(ctx)
	if err == nil && state.Running && state.Pid > 1 {
		err = c.cfg.Host.EndProcess(ctx, state.Pid, func(ctx context.Context) bool {
			now, err := x.State(ctx)
			return err == nil && now.Running && now.Pid == state.Pid
		})
	}
	if err != nil {
		c.cfg.Log.Warn("a command of a console may still run", "pid", state.Pid, "error", err)
	}
}
