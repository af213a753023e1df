package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// completionLimit bounds the question to the server behind a completion: nobody waits longer for a tab key.
const completionLimit = 2 * time.Second

// completer completes words with what ask gets from the server; an entry may have a description after a tab.
func (a *app) completer(ask func(context.Context, *grpc.ClientConn) ([]string, error)) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
		defer cancel()
		var words []string
		err := a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, _ *output.Writer) (err error) {
			words, err = ask(ctx, conn)
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// firstOnly completes the first argument alone.
func firstOnly(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, word)
	}
}

// completeNodes completes a flag's values with the names of live nodes.
func (a *app) completeNodes(c *cobra.Command, flags ...string) {
	for _, flag := range flags {
		must(c.RegisterFlagCompletionFunc(flag, a.completer(nodeNames)))
	}
}

func nodeNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
	var names []string
	for _, n := range list.GetNodes() {
		names = append(names, fmt.Sprintf("%s\t%s, %s", output.Line(n.GetName()), dash(n.GetRole()), nodeState(n.GetState())))
	}
	return names, err
}

func pendingEnrolments(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewNodeServiceClient(conn).ListNodes(ctx, &v1.ListNodesRequest{})
	var ids []string
	for _, n := range list.GetNodes() {
		if n.GetState() == v1.NodeState_NODE_STATE_PENDING || n.GetState() == v1.NodeState_NODE_STATE_QUARANTINED && n.GetEnrolmentId() != "" {
			ids = append(ids, output.Line(n.GetEnrolmentId())+"\tasks to be "+output.Line(n.GetName()))
		}
	}
	return ids, err
}

func operationIDs(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewOperationServiceClient(conn).ListOperations(ctx, &v1.ListOperationsRequest{})
	var ids []string
	for _, o := range list.GetOperations() {
		ids = append(ids, fmt.Sprintf("%s\t%s, %s, %s", o.GetId(), output.Line(o.GetKind()), output.Line(o.GetTarget()), operationState(o.GetState())))
	}
	return ids, err
}

func rolloutIDs(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewRolloutServiceClient(conn).ListRollouts(ctx, &v1.ListRolloutsRequest{})
	var ids []string
	for _, r := range list.GetRollouts() {
		ids = append(ids, fmt.Sprintf("%s\trevision %d, %s", r.GetId(), r.GetRevision(), rolloutState(r.GetState())))
	}
	return ids, err
}

func tokenIDs(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewTokenServiceClient(conn).ListTokens(ctx, &v1.ListTokensRequest{})
	var ids []string
	for _, t := range list.GetTokens() {
		if t.GetUsedBy() == "" && !t.GetRevoked() {
			ids = append(ids, t.GetId()+"\t"+t.GetNode()+t.GetRole())
		}
	}
	return ids, err
}

func revisionNumbers(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewSiteServiceClient(conn).ListRevisions(ctx, &v1.ListRevisionsRequest{})
	var numbers []string
	for _, r := range list.GetRevisions() {
		numbers = append(numbers, num(r.GetNumber())+"\tby "+r.GetOperator())
	}
	return numbers, err
}
