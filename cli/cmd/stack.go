package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) stackCmd() *cobra.Command {
	return group("stack", "Show and restart container stacks", a.stackListCmd(), a.stackShowCmd(), a.stackLogsCmd(), a.stackRestartCmd())
}

func (a *app) stackListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the stacks and how they are", Example: "  infractl stack list", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewStackServiceClient(conn).ListStacks(ctx, &v1.ListStacksRequest{})
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, s := range list.GetStacks() {
						rows = append(rows, []string{s.GetName(), s.GetNode(), stackWord(s), s.GetComposeFile(), dash(s.GetState().GetProblem())})
					}
					return w.Rows([]string{"STACK", "NODE", "STATE", "FILE", "PROBLEM"}, rows)
				})
			})
		},
	}
}

// stackWord says in a word or two how a stack is.
func stackWord(s *v1.Stack) string {
	if s.GetState() == nil {
		return "not reported"
	}
	well := 0
	for _, c := range s.GetState().GetServices() {
		if isWell(c) {
			well++
		}
	}
	all := len(s.GetState().GetServices())
	if all == 0 {
		return "no containers"
	}
	if well == all && s.GetState().GetProblem() == "" {
		return fmt.Sprintf("healthy, %d of %d", well, all)
	}
	return fmt.Sprintf("%d of %d well", well, all)
}

// isWell reports whether a service's container runs, and is healthy where it has a health check.
func isWell(c *v1.ServiceState) bool {
	return c.GetState() == "running" && (c.GetHealth() == "" || c.GetHealth() == "healthy")
}

func (a *app) stackShowCmd() *cobra.Command {
	var file bool
	c := &cobra.Command{
		Use: "show STACK", Short: "Show a stack: its containers, images and secrets",
		Example: "  infractl stack show supervision\n  infractl stack show supervision --file > supervision.yml", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(stackNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				resp, err := v1.NewStackServiceClient(conn).GetStack(ctx, &v1.GetStackRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return w.Message(resp, func() error {
					if file {
						return w.Raw(resp.GetStack().GetCompose())
					}
					return a.showStack(w, resp.GetStack())
				})
			})
		},
	}
	c.Flags().BoolVar(&file, "file", false, "print its Compose file instead")
	return c
}

func (a *app) showStack(w *output.Writer, s *v1.Stack) error {
	err := w.Pairs([][2]string{
		{"stack", s.GetName()}, {"node", s.GetNode()}, {"file", s.GetComposeFile()}, {"state", stackWord(s)},
		{"problem", dash(s.GetState().GetProblem())}, {"secrets", dash(strings.Join(s.GetSecrets(), ", "))},
	})
	if err != nil {
		return err
	}
	w.Printf("\n")
	var rows [][]string
	for _, c := range s.GetState().GetServices() {
		state := c.GetState()
		if c.GetState() == "exited" {
			state = fmt.Sprintf("exited (%d)", c.GetExitCode())
		}
		rows = append(rows, []string{c.GetService(), state, dash(c.GetHealth()), fmt.Sprint(c.GetRestarts()), a.ago(c.GetStarted()), dash(c.GetMessage())})
	}
	if err := w.Rows([]string{"SERVICE", "STATE", "HEALTH", "RESTARTS", "STARTED", "MESSAGE"}, rows); err != nil {
		return err
	}
	w.Printf("\n")
	rows = nil
	for _, i := range s.GetImages() {
		use, from := i.GetUse(), "registry"
		if use == i.GetReference() {
			use = "the same"
		}
		if i.GetArchiveDigest() != "" {
			from = "archive " + short(i.GetArchiveDigest())
		}
		rows = append(rows, []string{i.GetReference(), use, from})
	}
	return w.Rows([]string{"IMAGE", "RUNS", "FROM"}, rows)
}

func (a *app) stackRestartCmd() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use: "restart STACK", Short: "Restart the containers of a stack, or of one of its services",
		Example: "  infractl stack restart supervision --service grafana", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(stackNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				if service == "" {
					if err := a.confirm(ctx, "Restart all containers of stack "+args[0]+"?"); err != nil {
						return err
					}
				}
				resp, err := v1.NewStackServiceClient(conn).RestartStack(ctx, &v1.RestartStackRequest{Name: args[0], Service: service})
				if err != nil {
					return err
				}
				return w.Message(resp, func() error {
					for _, name := range resp.GetContainers() {
						w.Printf("%s\n", output.Line(name))
					}
					a.note("%d containers restarted", len(resp.GetContainers()))
					return nil
				})
			})
		},
	}
	c.Flags().StringVar(&service, "service", "", "one of its services")
	a.yesFlag(c)
	must(c.RegisterFlagCompletionFunc("service", func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completer(servicesOf(args[0]))(c, args, word)
	}))
	return c
}

func stackNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewStackServiceClient(conn).ListStacks(ctx, &v1.ListStacksRequest{})
	var names []string
	for _, s := range list.GetStacks() {
		names = append(names, output.Line(s.GetName())+"\ton "+output.Line(s.GetNode()))
	}
	return names, err
}

func servicesOf(stack string) func(context.Context, *grpc.ClientConn) ([]string, error) {
	return func(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
		resp, err := v1.NewStackServiceClient(conn).GetStack(ctx, &v1.GetStackRequest{Name: stack})
		var names []string
		for _, c := range resp.GetStack().GetState().GetServices() {
			names = append(names, output.Line(c.GetService()))
		}
		return names, err
	}
}
