// Package console holds what server, agent and command line agree on about logs and commands: limits and the forms of names.
package console

import (
	"regexp"
	"slices"
	"strings"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of consoles.
const (
	// MaxData is the most data in one message, in bytes.
	MaxData = 32 << 10
	// MaxTail is the most last lines that a log begins with.
	MaxTail = 10_000
	// MaxArgs and MaxArgBytes bound a command.
	MaxArgs     = 256
	MaxArgBytes = 32 << 10
	// MaxSize is the largest number of rows or columns of a terminal.
	MaxSize = 10_000
	// MaxSource and MaxError bound the texts of an output, in bytes.
	MaxSource = 256
	MaxError  = 2 << 10
)

// Kernel is the unit that stands for the kernel's log; DefaultUnit is the one that is shown when none is named.
const (
	Kernel      = "kernel"
	DefaultUnit = "infractl-agent"
)

var (
	unitPattern = regexp.MustCompile(`^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}$`)
	namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	instPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)
	userPattern = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}(:[A-Za-z0-9_.-]{1,64})?$`)
)

// Parts are the containers of an instance of Dolibarr, by the service that names them.
func Parts() []string { return []string{"app", "db", "cron"} }

// CheckLogs returns Invalid unless source names one log within limits. Without unit, stack and instance the unit becomes DefaultUnit.
func CheckLogs(source *v1.LogSource) error {
	named := 0
	for _, name := range []string{source.GetUnit(), source.GetStack(), source.GetInstance()} {
		if name != "" {
			named++
		}
	}
	switch {
	case source == nil:
		return errs.New(errs.Invalid, "no log is named")
	case named > 1:
		return errs.New(errs.Invalid, "a log is that of a unit, of a stack or of an instance, and of one only")
	case source.GetUnit() != "" && !unitPattern.MatchString(source.GetUnit()):
		return errs.New(errs.Invalid, "%.80q cannot name a unit", source.GetUnit()).WithHint("a unit's name, such as ssh or nginx.service")
	case source.GetStack() == "" && source.GetInstance() == "" && source.GetService() != "":
		return errs.New(errs.Invalid, "a service is one of a stack, and no stack is named")
	case source.GetTail() > MaxTail:
		return errs.New(errs.Invalid, "a log begins with at most %d lines, not %d", MaxTail, source.GetTail())
	case source.GetSince() != nil && source.GetSince().CheckValid() != nil:
		return errs.New(errs.Invalid, "the time to begin with is none")
	}
	if source.GetStack() != "" || source.GetInstance() != "" {
		return checkNames(source, true)
	}
	if source.GetUnit() == "" {
		source.Unit = DefaultUnit
	}
	return nil
}

// CheckExec returns Invalid unless a command is complete and within limits.
func CheckExec(c *v1.ExecCommand) error {
	if c == nil {
		return errs.New(errs.Invalid, "no command is given")
	}
	if c.GetStack() != "" && c.GetInstance() != "" {
		return errs.New(errs.Invalid, "a command runs in a container of a stack or of an instance, not of both")
	}
	if err := checkNames(c, false); err != nil {
		return err
	}
	if len(c.GetArgv()) == 0 || len(c.GetArgv()) > MaxArgs || c.GetArgv()[0] == "" {
		return errs.New(errs.Invalid, "a command has a program and at most %d arguments", MaxArgs-1)
	}
	size := 0
	for _, arg := range c.GetArgv() {
		size += len(arg)
	}
	if size > MaxArgBytes {
		return errs.New(errs.Invalid, "the command has %d bytes, more than %d", size, MaxArgBytes)
	}
	if c.GetUser() != "" && !userPattern.MatchString(c.GetUser()) {
		return errs.New(errs.Invalid, "%.80q cannot name a user in a container", c.GetUser()).WithHint("NAME, ID, or USER:GROUP")
	}
	return checkSize(c.GetRows(), c.GetColumns())
}

// Place is what names containers: a stack or an instance, and a service.
type Place interface {
	GetStack() string
	GetInstance() string
	GetService() string
}

// Name is how people call the containers of a place: stack NAME/SERVICE, or instance NAME/PART.
func Name(p Place) string {
	name := "stack " + p.GetStack()
	if p.GetInstance() != "" {
		name = "instance " + p.GetInstance()
	}
	if p.GetService() != "" {
		name += "/" + p.GetService()
	}
	return name
}

func checkNames(p Place, maybe bool) error {
	stack, service := p.GetStack(), p.GetService()
	if name := p.GetInstance(); name != "" {
		if !instPattern.MatchString(name) {
			return errs.New(errs.Invalid, "%.80q cannot name an instance", name).WithHint("infractl instance list")
		}
		if maybe && service == "" || slices.Contains(Parts(), service) {
			return nil
		}
		return errs.New(errs.Invalid, "an instance has no part %.80q", service).WithHint("one of %s", strings.Join(Parts(), ", "))
	}
	if !namePattern.MatchString(stack) {
		return errs.New(errs.Invalid, "%.80q cannot name a stack", stack).WithHint("infractl stack list")
	}
	if maybe && service == "" || namePattern.MatchString(service) {
		return nil
	}
	return errs.New(errs.Invalid, "%.80q cannot name a service", service).WithHint("infractl stack show %s", stack)
}

func checkSize(rows, columns uint32) error {
	if rows > MaxSize || columns > MaxSize {
		return errs.New(errs.Invalid, "a terminal has at most %d rows and columns", MaxSize)
	}
	return nil
}

// CheckInput returns Invalid unless an input is within limits.
func CheckInput(in *v1.ConsoleInput) error {
	if in == nil {
		return errs.New(errs.Invalid, "an empty message")
	}
	if len(in.GetData()) > MaxData {
		return errs.New(errs.Invalid, "an input has %d bytes, more than %d", len(in.GetData()), MaxData)
	}
	return checkSize(in.GetRows(), in.GetColumns())
}

// CheckOutput returns Invalid unless an output is within limits.
func CheckOutput(out *v1.ConsoleOutput) error {
	switch {
	case out == nil:
		return errs.New(errs.Invalid, "an empty message")
	case len(out.GetData()) > MaxData:
		return errs.New(errs.Invalid, "an output has %d bytes, more than %d", len(out.GetData()), MaxData)
	case len(out.GetSource()) > MaxSource || len(out.GetError()) > MaxError:
		return errs.New(errs.Invalid, "an output's texts are too long")
	}
	return nil
}
