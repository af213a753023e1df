package cmd

import (
	"context"

	"google.golang.org/grpc"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// witness takes the place of a witness that does not exist: it opens the connections from here and reports what it saw. What
// goes wrong is told and not fatal: the commit then reverts by itself.
func (a *app) witness(ctx context.Context, conn *grpc.ClientConn, req *v1.WitnessRequest, identity string) {
	a.note("%s has no witness yet: looking from here", req.GetNode())
	_, err := v1.NewRolloutServiceClient(conn).ReportWitness(ctx, &v1.ReportWitnessRequest{CommitId: req.GetCommitId()})
	if err != nil {
		a.note("could not report as a witness of %s: %v", req.GetNode(), err)
	}
}
