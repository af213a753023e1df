package console_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func TestLogs(t *testing.T) {
	for name, c := range map[string]struct {
		in   *v1.LogSource
		want errs.Code
	}{
		"default":            {&v1.LogSource{}, ""},
		"unit":               {&v1.LogSource{Unit: "ssh.service", Tail: 10_000, Since: timestamppb.New(time.Unix(1, 0))}, ""},
		"template":           {&v1.LogSource{Unit: `dev-disk-by\x2did.device`}, ""},
		"instance":           {&v1.LogSource{Unit: "user@1000.service"}, ""},
		"kernel":             {&v1.LogSource{Unit: console.Kernel}, ""},
		"stack":              {&v1.LogSource{Stack: "services"}, ""},
		"service":            {&v1.LogSource{Stack: "services", Service: "web"}, ""},
		"of an instance":     {&v1.LogSource{Instance: "acme"}, ""},
		"part":               {&v1.LogSource{Instance: "acme", Service: "db"}, ""},
		"odd part":           {&v1.LogSource{Instance: "acme", Service: "web"}, errs.Invalid},
		"odd instance":       {&v1.LogSource{Instance: "Acme"}, errs.Invalid},
		"stack and instance": {&v1.LogSource{Instance: "acme", Stack: "services"}, errs.Invalid},
		"nothing":            {nil, errs.Invalid},
		"both":               {&v1.LogSource{Unit: "ssh", Stack: "services"}, errs.Invalid},
		"option":             {&v1.LogSource{Unit: "--vacuum-size=1"}, errs.Invalid},
		"pattern":            {&v1.LogSource{Unit: "*"}, errs.Invalid},
		"path":               {&v1.LogSource{Unit: "../x"}, errs.Invalid},
		"line feed":          {&v1.LogSource{Unit: "ssh\n"}, errs.Invalid},
		"long":               {&v1.LogSource{Unit: strings.Repeat("u", 256)}, errs.Invalid},
		"tail":               {&v1.LogSource{Tail: 10_001}, errs.Invalid},
		"service alone":      {&v1.LogSource{Service: "web"}, errs.Invalid},
		"odd stack":          {&v1.LogSource{Stack: "a/b"}, errs.Invalid},
		"odd service":        {&v1.LogSource{Stack: "a", Service: "--x"}, errs.Invalid},
		"time before time":   {&v1.LogSource{Since: &timestamppb.Timestamp{Seconds: -1 << 62}}, errs.Invalid},
		"service with a dot": {&v1.LogSource{Stack: "a", Service: "x.y_z-1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := errs.CodeOf(console.CheckLogs(c.in)); got != c.want {
				t.Errorf("code %q, want %q", got, c.want)
			}
		})
	}
	in := &v1.LogSource{}
	if err := console.CheckLogs(in); err != nil || in.GetUnit() != console.DefaultUnit {
		t.Errorf("unit %q, %v", in.GetUnit(), err)
	}
}

func TestExec(t *testing.T) {
	good := func(change func(*v1.ExecCommand)) *v1.ExecCommand {
		c := &v1.ExecCommand{Stack: "services", Service: "web", Argv: []string{"sh", "-c", "echo a; echo b", ""}}
		change(c)
		return c
	}
	for name, c := range map[string]struct {
		in   *v1.ExecCommand
		want errs.Code
	}{
		"good":       {good(func(*v1.ExecCommand) {}), ""},
		"user":       {good(func(c *v1.ExecCommand) { c.User = "www-data:33" }), ""},
		"instance":   {good(func(c *v1.ExecCommand) { c.Stack, c.Instance, c.Service = "", "acme", "app" }), ""},
		"two places": {good(func(c *v1.ExecCommand) { c.Instance = "acme" }), errs.Invalid},
		"no part":    {good(func(c *v1.ExecCommand) { c.Stack, c.Instance, c.Service = "", "acme", "" }), errs.Invalid},
		"nothing":    {nil, errs.Invalid},
		"no service": {good(func(c *v1.ExecCommand) { c.Service = "" }), errs.Invalid},
		"no stack":   {good(func(c *v1.ExecCommand) { c.Stack = "" }), errs.Invalid},
		"no argv":    {good(func(c *v1.ExecCommand) { c.Argv = nil }), errs.Invalid},
		"no program": {good(func(c *v1.ExecCommand) { c.Argv = []string{""} }), errs.Invalid},
		"many":       {good(func(c *v1.ExecCommand) { c.Argv = make([]string, 257); c.Argv[0] = "x" }), errs.Invalid},
		"long":       {good(func(c *v1.ExecCommand) { c.Argv = []string{"x", strings.Repeat("x", 32<<10)} }), errs.Invalid},
		"odd user":   {good(func(c *v1.ExecCommand) { c.User = "a b" }), errs.Invalid},
		"wide":       {good(func(c *v1.ExecCommand) { c.Columns = 10_001 }), errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if got := errs.CodeOf(console.CheckExec(c.in)); got != c.want {
				t.Errorf("code %q, want %q", got, c.want)
			}
		})
	}
}

func TestFrames(t *testing.T) {
	full, over := make([]byte, console.MaxData), make([]byte, console.MaxData+1)
	for name, c := range map[string]struct {
		err  error
		want errs.Code
	}{
		"input":          {console.CheckInput(&v1.ConsoleInput{Data: full}), ""},
		"large input":    {console.CheckInput(&v1.ConsoleInput{Data: over}), errs.Invalid},
		"no input":       {console.CheckInput(nil), errs.Invalid},
		"odd size":       {console.CheckInput(&v1.ConsoleInput{Rows: 1 << 20}), errs.Invalid},
		"output":         {console.CheckOutput(&v1.ConsoleOutput{Data: full}), ""},
		"large output":   {console.CheckOutput(&v1.ConsoleOutput{Data: over}), errs.Invalid},
		"no output":      {console.CheckOutput(nil), errs.Invalid},
		"long source":    {console.CheckOutput(&v1.ConsoleOutput{Source: strings.Repeat("x", 257)}), errs.Invalid},
		"long last word": {console.CheckOutput(&v1.ConsoleOutput{Error: strings.Repeat("x", 2049)}), errs.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			if got := errs.CodeOf(c.err); got != c.want {
				t.Errorf("code %q, want %q", got, c.want)
			}
		})
	}
}
