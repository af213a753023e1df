// Package kingpin stands for github.com/alecthomas/kingpin/v2 in the agent: the few calls that node_exporter's collectors
// make. The real one renders help texts with text/template, which keeps the linker from dropping unused methods anywhere in the
// program: some 5 MB in the agent.
package kingpin

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Application is a set of flags.
type Application map[string]*FlagClause

// CommandLine is the set that Flag adds to.
var CommandLine Application = map[string]*FlagClause{}

// ParseContext is given to actions; they do not look at it.
type ParseContext struct{}

// Action is called when its flag was given.
type Action func(*ParseContext) error

// FlagClause is one flag.
type FlagClause struct {
	name     string
	defaults []string
	actions  []Action
	set      func(string) error
	reset    func()
	given    bool
}

// Flag adds a flag.
func Flag(name, _ string) *FlagClause {
	f := &FlagClause{name: name}
	CommandLine[name] = f
	return f
}

// Default sets what holds when the flag is not given.
func (f *FlagClause) Default(values ...string) *FlagClause { f.defaults = values; return f }

// Envar changes nothing: the environment of an agent decides nothing.
func (f *FlagClause) Envar(string) *FlagClause { return f }

// Hidden changes nothing: there is no help.
func (f *FlagClause) Hidden() *FlagClause { return f }

// Action adds what is called when the flag was given.
func (f *FlagClause) Action(a Action) *FlagClause { f.actions = append(f.actions, a); return f }

// PreAction is Action.
func (f *FlagClause) PreAction(a Action) *FlagClause { return f.Action(a) }

func value[T any](f *FlagClause, parse func(string) (T, error)) *T {
	v := new(T)
	f.set = func(s string) (err error) { *v, err = parse(s); return err }
	f.reset = func() { *v = *new(T) }
	return v
}

// Bool, String, Int and Duration say what the flag holds.
func (f *FlagClause) Bool() *bool { return value(f, strconv.ParseBool) }

// String: see Bool.
func (f *FlagClause) String() *string {
	return value(f, func(s string) (string, error) { return s, nil })
}

// Int: see Bool.
func (f *FlagClause) Int() *int { return value(f, strconv.Atoi) }

// Duration: see Bool.
func (f *FlagClause) Duration() *time.Duration { return value(f, time.ParseDuration) }

// Strings is a flag that may be given several times.
func (f *FlagClause) Strings() *[]string {
	v := new([]string)
	f.set = func(s string) error { *v = append(*v, s); return nil }
	f.reset = func() { *v = nil }
	return v
}

// Parse sets all flags: first to their defaults, then to what args say ("--name", "--no-name" or "--name=value").
func (a Application) Parse(args []string) (string, error) {
	for _, f := range a {
		f.given = false
		if f.reset == nil {
			continue
		}
		f.reset()
		for _, d := range f.defaults {
			if err := f.set(d); err != nil {
				return "", fmt.Errorf("default of --%s: %w", f.name, err)
			}
		}
	}
	for _, arg := range args {
		name, text, valued := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		f := a[name]
		if !valued {
			text = "true"
			if on, off := strings.CutPrefix(name, "no-"); off && f == nil {
				f, text = a[on], "false"
			}
		}
		if f == nil || f.set == nil || !strings.HasPrefix(arg, "--") {
			return "", fmt.Errorf("unknown flag %q", arg)
		}
		if !f.given {
			f.reset()
		}
		f.given = true
		if err := f.set(text); err != nil {
			return "", fmt.Errorf("%s: %w", arg, err)
		}
		for _, act := range f.actions {
			if err := act(&ParseContext{}); err != nil {
				return "", err
			}
		}
	}
	return "", nil
}
