package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// cause takes operation and path off an error of package os; the message names the path already.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// await does something that cannot be interrupted, such as reading from a terminal, and gives it up when ctx ends.
func await[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// confirm asks before danger; --yes answers for the operator, and without a terminal nothing is done.
func (a *app) confirm(ctx context.Context, question string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.proc.In) {
		return noTerminal(question)
	}
	fmt.Fprintf(a.proc.Err, "%s [y/N] ", output.Line(question))
	answer, err := await(ctx, func() (string, error) { return readLine(a.proc.In) })
	if err != nil {
		fmt.Fprintln(a.proc.Err)
		return errs.Wrap("read answer", err)
	}
	switch strings.ToLower(answer) {
	case "y", "yes":
		return nil
	}
	a.note("not confirmed; nothing was changed")
	return exitError{ExitFailed, "not confirmed; nothing was changed"}
}

func noTerminal(question string) error {
	return errs.New(errs.Precondition, "%s: there is no terminal to ask on", strings.TrimRight(question, "?.")).
		WithHint("add --yes to do it without a question")
}

// confirmName asks for a name to be typed: for what cannot be undone.
func (a *app) confirmName(ctx context.Context, question, name string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.proc.In) {
		return noTerminal(question)
	}
	fmt.Fprintf(a.proc.Err, "%s\nType %s to go on: ", output.Clean(question), output.Line(name))
	answer, err := await(ctx, func() (string, error) { return readLine(a.proc.In) })
	if err != nil {
		fmt.Fprintln(a.proc.Err)
		return errs.Wrap("read answer", err)
	}
	if answer != name {
		a.note("not confirmed; nothing was changed")
		return exitError{ExitFailed, "not confirmed; nothing was changed"}
	}
	return nil
}

// maxLine is the longest line that is read from stdin, in bytes.
const maxLine = 4096

// readLine reads one line without the space around it; the end of input ends it too.
func readLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxLine)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return strings.TrimSpace(line), err
}

func (a *app) yesFlag(c *cobra.Command) {
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
}

// ago tells a time as its distance from now.
func (a *app) ago(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().IsZero() || t.GetSeconds() == 0 {
		return "never"
	}
	return span(a.clock.Now().Sub(t.AsTime())) + " ago"
}

// until tells a time as its distance from now.
func (a *app) until(t *timestamppb.Timestamp) string {
	if t == nil || t.GetSeconds() == 0 {
		return "-"
	}
	d := t.AsTime().Sub(a.clock.Now())
	if d < 0 {
		return "expired"
	}
	return "in " + span(d)
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// word turns an enum value into the word that people read: NODE_STATE_ONLINE becomes "online".
func word(value fmt.Stringer, prefix string) string {
	if value.String() == prefix+"UNSPECIFIED" {
		return "-"
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value.String(), prefix)), "_", " ")
}

func nodeState(s v1.NodeState) string       { return word(s, "NODE_STATE_") }
func severity(s v1.Severity) string         { return word(s, "SEVERITY_") }
func risk(r v1.Risk) string                 { return word(r, "RISK_") }
func rolloutState(s v1.RolloutState) string { return word(s, "ROLLOUT_STATE_") }
func operationState(s v1.OperationState) string {
	return word(s, "OPERATION_STATE_")
}
func stepState(s v1.StepState) string { return word(s, "STEP_STATE_") }
func nodeRollout(s v1.NodeRolloutState) string {
	return word(s, "NODE_ROLLOUT_STATE_")
}
func instanceState(s v1.InstanceState) string {
	return word(s, "INSTANCE_STATE_")
}
func phase(p v1.Phase) string { return word(p, "PHASE_") }

// parseRevision reads a revision's number.
func parseRevision(text string) (uint64, error) {
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil || number == 0 {
		return 0, errs.New(errs.Invalid, "%q is no revision number", text).WithHint("infractl site history lists them")
	}
	return number, nil
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// dash stands for nothing in a table.
func dash(s string) string { return orElse(s, "-") }

// short cuts a digest or serial to what people compare.
func short(s string) string {
	s = strings.TrimPrefix(s, "sha256:")
	if len(s) > 10 {
		return s[:10]
	}
	return dash(s)
}
