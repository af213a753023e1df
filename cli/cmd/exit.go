package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
)

// Exit codes. 2 is left to the Go runtime.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitSomeFailed  = 3
	ExitDrift       = 4
	ExitUnreachable = 10
	ExitDenied      = 11
	ExitRolledBack  = 12
	ExitInterrupted = 130
)

// meaning is what an exit code says.
type meaning struct {
	code int
	text string
}

// meanings lists all exit codes in general words.
func meanings() []meaning {
	return []meaning{
		{ExitOK, "done, in sync, or nothing to do"},
		{ExitFailed, "failed, refused, or not confirmed"},
		{ExitSomeFailed, "some nodes are missing, degraded, or could not be looked at"},
		{ExitDrift, "a host differs from what is wanted"},
		{ExitUnreachable, "the server does not answer, or not in time"},
		{ExitDenied, "not logged in, or not allowed"},
		{ExitRolledBack, "a change failed and the former state is back"},
		{ExitInterrupted, "interrupted"},
	}
}

// exitsKey is the annotation of a command with its exit codes.
const exitsKey = "exit codes"

// exits documents a command's exit codes: 0, 1 and 130 always, 10 and 11 where it calls the server, and its special ones.
func exits(c *cobra.Command, remote bool, special ...meaning) {
	list := special
	for _, m := range meanings() {
		usual := m.code == ExitOK || m.code == ExitFailed || m.code == ExitInterrupted ||
			remote && (m.code == ExitUnreachable || m.code == ExitDenied)
		if usual && !slices.ContainsFunc(special, func(s meaning) bool { return s.code == m.code }) {
			if m.code == ExitOK {
				m.text = "done"
			}
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b meaning) int { return a.code - b.code })
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	c.Annotations[exitsKey] = exitTable(list)
}

func exitTable(list []meaning) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "  %3d  %s\n", m.code, m.text)
	}
	return b.String()
}

// exitError ends the command with a code. People have been told why already; programs get the text.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }

func exitCode(ctx context.Context, err error) int {
	var exit exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return exit.code
	case ctx.Err() != nil:
		return ExitInterrupted
	}
	switch errs.CodeOf(err) {
	case errs.Unavailable, errs.Timeout:
		return ExitUnreachable
	case errs.Denied, errs.Unauthenticated, errs.Revoked:
		return ExitDenied
	case errs.RolledBack:
		return ExitRolledBack
	}
	return ExitFailed
}

// exitReport is how programs are told of an error: the last line of stderr.
type exitReport struct {
	MessageType string    `json:"message_type"`
	Code        int       `json:"code"`
	Reason      errs.Code `json:"reason"`
	Message     string    `json:"message"`
	Hint        string    `json:"hint"`
}

// report writes an error: what failed, where, and what to do next; with a machine format, as one JSON object.
func (a *app) report(err error, code int) {
	var exit exitError
	told := errors.As(err, &exit)
	if a.machine() {
		r := exitReport{MessageType: "exit_error", Code: code, Message: output.Line(err.Error()), Hint: errs.HintOf(err)}
		if !told {
			r.Reason = errs.CodeOf(err)
		}
		line, _ := json.Marshal(r) // strings and a number always marshal
		a.note("%s", line)
		return
	}
	if told {
		return
	}
	if code == ExitInterrupted {
		a.note("interrupted")
		return
	}
	a.note("error: %v", err)
	if hint := errs.HintOf(err); hint != "" {
		a.note("hint: %s", hint)
	}
}
