package providertest

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/infractl/infractl/agent/host"
)

// Mode says how a call fails.
type Mode int

// The modes.
const (
	// FailBefore returns an error without doing anything.
	FailBefore Mode = iota + 1
	// FailAfter does it and returns an error all the same. A file write fails before its effect.
	FailAfter
	// CrashBefore is FailBefore, and every later call fails too: the agent is dead.
	CrashBefore
	// CrashAfter is FailAfter, and every later call fails too.
	CrashAfter
	// Hang blocks until the context ends.
	Hang
)

// ErrInjected is the error of an injected fault.
var ErrInjected = errors.New("injected fault")

// Op is one call that a provider made to its host.
type Op struct {
	// Text is the command line, or "write /path", "remove /path", "rename /path", "mkdir /path".
	Text string
	// Write says that it changes a file. Of a command the suite can't know.
	Write bool
	// Err is what a command answered, as text.
	Err string
}

// Faults counts the calls of one host and fails the one that it was told to. The zero value fails none.
type Faults struct {
	mu     sync.Mutex
	ops    []Op
	target int // fails the target-th call from now; 0 means none
	mode   Mode
	dead   bool
	hung   func()
}

// Arm fails the n-th call from now, counted from 1.
func (f *Faults) Arm(n int, mode Mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops, f.target, f.mode, f.dead = nil, n, mode, false
}

// OnHang is called when a call begins to hang.
func (f *Faults) OnHang(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung = fn
}

// Reset forgets all calls and fails none.
func (f *Faults) Reset() { f.Arm(0, 0) }

// Ops returns the calls since Arm or Reset.
func (f *Faults) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Op(nil), f.ops...)
}

// hit counts a call and says whether it fails, and how.
func (f *Faults) hit(op Op) (index int, mode Mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
	index = len(f.ops) - 1
	if f.dead {
		return index, CrashBefore
	}
	if f.target == 0 || len(f.ops) != f.target {
		return index, 0
	}
	f.dead = f.mode == CrashBefore || f.mode == CrashAfter
	return index, f.mode
}

// Op is the hook for host.Config.Fault.
func (f *Faults) Op(text string) error {
	_, mode := f.hit(Op{Text: text, Write: true})
	if mode == 0 || mode == Hang {
		return nil
	}
	return ErrInjected
}

// Runner wraps a runner so that its calls count.
func (f *Faults) Runner(inner host.Runner) host.Runner { return runner{faults: f, inner: inner} }

type runner struct {
	faults *Faults
	inner  host.Runner
}

// Run implements host.Runner.
func (r runner) Run(ctx context.Context, cmd host.Cmd) (host.Output, error) {
	index, mode := r.faults.hit(Op{Text: strings.Join(append(append([]string{}, cmd.Env...), cmd.Argv...), " ")})
	if err := ctx.Err(); err != nil {
		return host.Output{Code: -1}, err
	}
	failed := host.Output{Code: 1, Stderr: []byte(ErrInjected.Error())}
	switch mode {
	case FailBefore, CrashBefore:
		return failed, ErrInjected
	case Hang:
		r.faults.mu.Lock()
		hung := r.faults.hung
		r.faults.mu.Unlock()
		if hung != nil {
			hung()
		}
		<-ctx.Done()
		return host.Output{Code: -1}, ctx.Err()
	}
	out, err := r.inner.Run(ctx, cmd)
	if mode == FailAfter || mode == CrashAfter {
		return failed, ErrInjected
	}
	if err != nil {
		r.faults.mu.Lock()
		if index < len(r.faults.ops) {
			r.faults.ops[index].Err = err.Error()
		}
		r.faults.mu.Unlock()
	}
	return out, err
}
