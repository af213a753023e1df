package cmd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func asExit(err error, target *exitError) bool { return errors.As(err, target) }

// confirm asks before danger; --yes answers for the operator, and without a terminal nothing is done.
func (a *app) confirm(question string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.streams.In) {
		return errs.New(errs.Precondition, "%s: there is no terminal to ask on", question).WithHint("add --yes to do it without a question")
	}
	fmt.Fprintf(a.streams.Err, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(a.streams.In, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return errs.Wrap("read answer", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errs.New(errs.Canceled, "not confirmed; nothing was changed")
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
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value.String(), prefix)), "_", " ")
}

func nodeState(s v1.NodeState) string       { return word(s, "NODE_STATE_") }
func severity(s v1.Severity) string         { return word(s, "SEVERITY_") }
func risk(r v1.Risk) string                 { return word(r, "RISK_") }
func rolloutState(s v1.RolloutState) string { return word(s, "ROLLOUT_STATE_") }
func nodeRollout(s v1.NodeRolloutState) string {
	return word(s, "NODE_ROLLOUT_STATE_")
}
func phase(p v1.Phase) string { return word(p, "PHASE_") }

// dash stands for nothing in a table.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// short cuts a digest or serial to what people compare.
func short(s string) string {
	s = strings.TrimPrefix(s, "sha256:")
	if len(s) > 10 {
		return s[:10]
	}
	return dash(s)
}

// exactArgs refuses a wrong number of arguments and shows an example.
func exactArgs(n int, example string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return errs.New(errs.Invalid, "%s takes %d argument(s), got %d", c.CommandPath(), n, len(args)).WithHint("for example: %s", example)
		}
		return nil
	}
}
