package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) operationCmd() *cobra.Command {
	c := group("operation", "List, show, watch and steer rollouts and operations",
		a.operationListCmd(), a.operationShowCmd(), a.operationWatchCmd(), a.operationCancelCmd(),
		a.operationSteerCmd("pause", "Let it stop before its next node or step",
			"Let a rollout stop before its next node, or an operation before its next step. What is at work ends; a server that restarts\n"+
				"leaves it paused.", "%s pauses before its next node or step",
			func(ctx context.Context, api v1.OperationServiceClient, id string) (*v1.Operation, error) {
				res, err := api.PauseOperation(ctx, &v1.PauseOperationRequest{Id: id})
				return res.GetOperation(), err
			}),
		a.operationSteerCmd("resume", "Let what is paused go on", "Let a paused rollout or operation go on.", "%s goes on",
			func(ctx context.Context, api v1.OperationServiceClient, id string) (*v1.Operation, error) {
				res, err := api.ResumeOperation(ctx, &v1.ResumeOperationRequest{Id: id})
				return res.GetOperation(), err
			}),
		a.operationSteerCmd("retry", "Try again what failed or is missing",
			"Try again what failed or is missing: the nodes of a rollout that halted, was canceled or is incomplete, the step of an\n"+
				"operation that halted, the undoing of one that is stuck. Content that is known to be bad on a node is refused until\n"+
				"infractl node clear NODE.", "%s is tried again",
			func(ctx context.Context, api v1.OperationServiceClient, id string) (*v1.Operation, error) {
				res, err := api.RetryOperation(ctx, &v1.RetryOperationRequest{Id: id})
				return res.GetOperation(), err
			}))
	c.Aliases = []string{"op"}
	return c
}

func (a *app) operationListCmd() *cobra.Command {
	var req v1.ListOperationsRequest
	c := &cobra.Command{
		Use: "list", Short: "List rollouts and operations, newest first", Args: arity(0, 0),
		Example: "  infractl operation list\n  infractl operation list --open",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewOperationServiceClient(conn).ListOperations(ctx, &req)
				if err != nil {
					return err
				}
				return w.Message(list, func() error {
					var rows [][]string
					for _, o := range list.GetOperations() {
						rows = append(rows, []string{o.GetId(), o.GetKind(), o.GetTarget(), operationState(o.GetState()), a.ago(o.GetCreated()),
							dash(o.GetOperator()), dash(o.GetMessage())})
					}
					return w.Rows([]string{"OPERATION", "KIND", "TARGET", "STATE", "STARTED", "OPERATOR", "MESSAGE"}, rows)
				})
			})
		},
	}
	c.Flags().Uint32Var(&req.Limit, "limit", 20, "greatest number")
	c.Flags().StringVar(&req.Kind, "kind", "", "only this kind, such as rollout")
	c.Flags().BoolVar(&req.Open, "open", false, "only what has not ended")
	return c
}

func (a *app) operationShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show [OPERATION]", Short: "Show a rollout or operation, the newest unless named",
		Example: "  infractl operation show", Args: arity(0, 1), ValidArgsFunction: firstOnly(a.completer(operationIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				id, err := operationID(ctx, conn, args)
				if err != nil {
					return err
				}
				res, err := v1.NewOperationServiceClient(conn).GetOperation(ctx, &v1.GetOperationRequest{Id: id})
				if err != nil {
					return err
				}
				return w.Message(res, func() error {
					if !isRollout(id) {
						return a.showOperation(w, res.GetOperation())
					}
					// People see a rollout in its own words.
					r, err := v1.NewRolloutServiceClient(conn).GetRollout(ctx, &v1.GetRolloutRequest{Id: id})
					if err != nil {
						return err
					}
					return a.showRollout(w, r.GetRollout())
				})
			})
		},
	}
}

// operationID is the one that was named, else the newest.
func operationID(ctx context.Context, conn *grpc.ClientConn, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	list, err := v1.NewOperationServiceClient(conn).ListOperations(ctx, &v1.ListOperationsRequest{Limit: 1})
	if err != nil {
		return "", err
	}
	if len(list.GetOperations()) == 0 {
		return "", errs.New(errs.NotFound, "there was no rollout and no operation yet").WithHint("infractl apply -f site.yaml")
	}
	return list.GetOperations()[0].GetId(), nil
}

// isRollout tells the ids of rollouts from those of operations of steps.
func isRollout(id string) bool { return strings.HasPrefix(id, "r") }

func (a *app) showOperation(w *output.Writer, o *v1.Operation) error {
	w.Printf("operation %s, %s %s: %s, started %s by %s\n", o.GetId(), o.GetKind(), o.GetTarget(), operationState(o.GetState()),
		a.ago(o.GetCreated()), dash(o.GetOperator()))
	if o.GetMessage() != "" {
		w.Printf("%s\n", o.GetMessage())
	}
	if o.GetHint() != "" {
		w.Printf("hint: %s\n", o.GetHint())
	}
	var rows [][]string
	for _, s := range o.GetSteps() {
		rows = append(rows, []string{s.GetName(), dash(s.GetNode()), stepState(s.GetState()), num(uint64(s.GetAttempts())), dash(s.GetMessage())})
	}
	return w.Rows([]string{"STEP", "NODE", "STATE", "ATTEMPTS", "MESSAGE"}, rows)
}

func (a *app) operationWatchCmd() *cobra.Command {
	var identity string
	c := &cobra.Command{
		Use: "watch [OPERATION]", Short: "Follow a rollout or operation to its end, the newest unless named",
		Long: `Follow a rollout or operation to its end, the newest unless named. On a terminal the table is drawn over itself, elsewhere each
change is a line. An interrupt ends this command alone: what it watches goes on. Where a rollout needs a witness that does not
exist yet, this command takes its place, as apply does. With -o json or -o yaml it is printed as it ended.`,
		Example: "  infractl operation watch\n  infractl op watch r000012-a1b2c3", Args: arity(0, 1),
		ValidArgsFunction: firstOnly(a.completer(operationIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				id, err := operationID(ctx, conn, args)
				if err != nil {
					return err
				}
				if isRollout(id) {
					return a.watchToEnd(ctx, conn, w, id, identity)
				}
				return a.watchStepsToEnd(ctx, conn, w, id)
			})
		},
	}
	addIdentity(c, &identity)
	exits(c, true, meaning{ExitOK, "it succeeded"},
		meaning{ExitFailed, "failed, canceled, superseded, or it waits for a person"},
		meaning{ExitSomeFailed, "some nodes are missing or degraded"},
		meaning{ExitRolledBack, "it failed, and what was done is undone"},
		meaning{ExitInterrupted, "interrupted; what was watched goes on"})
	return c
}

// watchStepsToEnd watches an operation of steps, and turns how it ended into the command's end.
func (a *app) watchStepsToEnd(ctx context.Context, conn *grpc.ClientConn, w *output.Writer, id string) error {
	last, err := a.awaitSteps(ctx, conn, id)
	if err != nil {
		return err
	}
	if err := w.Message(last, func() error { return nil }); err != nil {
		return err
	}
	return a.concludeSteps(last)
}

// awaitSteps shows an operation of steps until it moves no further by itself, and returns it as it is then.
func (a *app) awaitSteps(ctx context.Context, conn *grpc.ClientConn, id string) (*v1.Operation, error) {
	last, err := a.watchOperation(ctx, conn, id)
	if err == nil || errs.Is(errs.FromGRPC(err), errs.NotFound) || errs.Is(errs.FromGRPC(err), errs.Invalid) {
		return last, err
	}
	a.note("the operation goes on without this command; follow it with: infractl operation watch %s", orElse(last.GetId(), id))
	return last, err
}

// concludeSteps says how an operation ended and turns it into an exit code.
func (a *app) concludeSteps(last *v1.Operation) error {
	err := endOfSteps(last)
	var exit exitError
	if err == nil || errors.As(err, &exit) {
		a.note("%s", stepsText(last))
	}
	return err
}

// endOfSteps is nil for an operation that succeeded, else what became of it.
func endOfSteps(last *v1.Operation) error {
	switch last.GetState() {
	case v1.OperationState_OPERATION_STATE_SUCCEEDED:
		return nil
	case v1.OperationState_OPERATION_STATE_FAILED:
		return errs.New(errs.RolledBack, "%s", stepsText(last)).WithHint("%s", last.GetHint())
	case v1.OperationState_OPERATION_STATE_HALTED, v1.OperationState_OPERATION_STATE_STUCK:
		return errs.New(errs.Precondition, "%s", stepsText(last)).WithHint("%s", last.GetHint())
	}
	return exitError{ExitFailed, stepsText(last)}
}

// stepsText says in a line where an operation of steps stands.
func stepsText(o *v1.Operation) string {
	text := fmt.Sprintf("operation %s, %s %s: %s", o.GetId(), o.GetKind(), o.GetTarget(), operationState(o.GetState()))
	if o.GetMessage() != "" {
		text += ": " + o.GetMessage()
	}
	return text
}

// stepExits are the exit codes of a command that follows an operation of steps.
func stepExits(c *cobra.Command, special ...meaning) {
	exits(c, true, append([]meaning{
		{ExitOK, "done"},
		{ExitFailed, "refused, not confirmed, canceled, or it waits for a person"},
		{ExitRolledBack, "it failed, and what was done is undone"},
		{ExitInterrupted, "interrupted; what was started goes on"}}, special...)...)
}

func (a *app) operationCancelCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "cancel OPERATION", Short: "Stop it: an operation is undone, a rollout stays where it is",
		Long: `Stop a rollout before its next node: what is confirmed stays, and a node at work finishes its pass. Stop an operation when its
step at work has ended: what was done is undone. One that is stuck is given up as it is.`,
		Example: "  infractl operation cancel r000012-a1b2c3", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(operationIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				api := v1.NewOperationServiceClient(conn)
				now, err := api.GetOperation(ctx, &v1.GetOperationRequest{Id: args[0]})
				if err != nil {
					return err
				}
				o := now.GetOperation()
				question := fmt.Sprintf("Cancel operation %s and undo what it did?", o.GetId())
				switch {
				case isRollout(o.GetId()):
					question = fmt.Sprintf("Cancel rollout %s?", o.GetId())
				case o.GetState() == v1.OperationState_OPERATION_STATE_STUCK:
					question = fmt.Sprintf("Give operation %s up as it is, with nothing more undone?", o.GetId())
				}
				if err := a.confirm(ctx, question); err != nil {
					return err
				}
				res, err := api.CancelOperation(ctx, &v1.CancelOperationRequest{Id: o.GetId()})
				if err != nil {
					return err
				}
				return w.Message(res, func() error {
					a.note("%s stops before its next node or step", o.GetId())
					return nil
				})
			})
		},
	}
	a.yesFlag(c)
	return c
}

func (a *app) operationSteerCmd(verb, short, long, told string,
	call func(context.Context, v1.OperationServiceClient, string) (*v1.Operation, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " OPERATION", Short: short, Long: long, Example: "  infractl operation " + verb + " r000012-a1b2c3",
		Args: arity(1, 1), ValidArgsFunction: firstOnly(a.completer(operationIDs)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				o, err := call(ctx, v1.NewOperationServiceClient(conn), args[0])
				if err != nil {
					return err
				}
				return w.Message(o, func() error {
					a.note(told, o.GetId())
					return nil
				})
			})
		},
	}
}
