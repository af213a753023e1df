package cmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/console"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type logsOptions struct {
	node, unit, stack, instance, service, since string
	tail                                        uint32
	follow, allLines                            bool
}

// defaultTail is how many last lines are shown unless said otherwise.
const defaultTail = 100

func (a *app) logsCmd() *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use: "logs NODE [UNIT] | --stack STACK [SERVICE]", Short: "Show the log of a unit of a host, or of a stack's containers",
		Long: `Show the log of a systemd unit of a host (infractl-agent unless another is named; "kernel" is the kernel's), or of the containers of
a stack. It needs no login on the host; who looked at what stands in the audit log.

Control characters are replaced: what a log says cannot steer the terminal. A log that is followed goes on until Ctrl-C, but not
over the end of a container: one that is made anew has a new log.`,
		Example: "  infractl logs srv-prod\n  infractl logs srv-prod ssh -f\n  infractl logs srv-prod kernel --since 1h\n" +
			"  infractl logs --stack services caddy --tail 20",
		Args: arity(0, 2),
		RunE: func(c *cobra.Command, args []string) error {
			o.allLines = o.since != "" && !c.Flags().Changed("tail")
			if o.stack != "" {
				if len(args) > 1 {
					return errs.New(errs.Invalid, "with --stack there is one argument at most, a service").WithHint("infractl logs --stack %s SERVICE", o.stack)
				}
				o.service = strings.Join(args, "")
				return a.runLogs(c.Context(), o)
			}
			if len(args) == 0 {
				return errs.New(errs.Invalid, "a log is that of a node or of a stack").WithHint("infractl logs NODE [UNIT], or infractl logs --stack STACK")
			}
			o.node = args[0]
			if len(args) > 1 {
				o.unit = args[1]
			}
			return a.runLogs(c.Context(), o)
		},
	}
	c.ValidArgsFunction = firstOnly(a.completer(nodeNames))
	c.Flags().StringVar(&o.stack, "stack", "", "a container stack instead of a unit")
	logsFlags(c, &o)
	return c
}

// stackLogsCmd is the same for a stack; it belongs to the group "stack".
func (a *app) stackLogsCmd() *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use: "logs STACK [SERVICE]", Short: "Show the logs of a stack's containers",
		Example: "  infractl stack logs services\n  infractl stack logs services caddy -f", Args: arity(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			o.allLines = o.since != "" && !c.Flags().Changed("tail")
			o.stack = args[0]
			if len(args) > 1 {
				o.service = args[1]
			}
			return a.runLogs(c.Context(), o)
		},
	}
	logsFlags(c, &o)
	return c
}

func logsFlags(c *cobra.Command, o *logsOptions) {
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with new lines until Ctrl-C")
	c.Flags().Uint32Var(&o.tail, "tail", defaultTail, "last lines to begin with, of each container; 10000 at most")
	c.Flags().StringVar(&o.since, "since", "", "only what came after a time: 10m, 2h, or 2030-01-31T12:00:00Z; without --tail, all of it")
}

func (o *logsOptions) source(now time.Time) (*v1.LogSource, error) {
	s := &v1.LogSource{Unit: o.unit, Stack: o.stack, Instance: o.instance, Service: o.service, Tail: o.tail, Follow: o.follow}
	if o.allLines {
		s.Tail = console.MaxTail
	}
	if o.since != "" {
		since, err := parseSince(o.since, now)
		if err != nil {
			return nil, err
		}
		s.Since = timestamppb.New(since)
	}
	return s, console.CheckLogs(s)
}

func parseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	return time.Time{}, errs.New(errs.Invalid, "%q is no time to begin with", text).WithHint("--since 10m, or --since 2030-01-31T12:00:00Z")
}

func (a *app) runLogs(ctx context.Context, o logsOptions) error {
	source, err := o.source(a.clock.Now())
	if err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		stream, err := v1.NewConsoleServiceClient(conn).StreamLogs(ctx, &v1.StreamLogsRequest{Node: o.node, Source: source})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return errs.New(errs.Unavailable, "the log ended before its end")
			}
			if err != nil {
				return err
			}
			out := m.GetOutput()
			if err := showLines(w, out); err != nil {
				return err
			}
			if out.GetEnded() {
				return lastWord(out)
			}
		}
	})
}

// lastWord is the error in the last message of a console.
func lastWord(out *v1.ConsoleOutput) error {
	if out.GetError() == "" {
		return nil
	}
	return errs.New(errs.Internal, "%s", out.GetError())
}

// logLine is a line as programs get it.
type logLine struct {
	Source string `json:"source"`
	Line   string `json:"line"`
}

func showLines(w *output.Writer, out *v1.ConsoleOutput) error {
	for line := range bytes.Lines(out.GetData()) {
		text := cleanText(strings.TrimSuffix(string(line), "\n"))
		err := w.Object(logLine{out.GetSource(), text}, func() error {
			prefix := ""
			if out.GetSource() != "" {
				prefix = output.Line(out.GetSource()) + "  "
			}
			return w.Raw([]byte(prefix + text + "\n"))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// steering are sequences that steer a terminal: colours, the cursor, titles.
var steering = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\r`)

// cleanText takes whole steering sequences out and replaces what is left of them.
func cleanText(s string) string { return output.Clean(steering.ReplaceAllString(s, "")) }
