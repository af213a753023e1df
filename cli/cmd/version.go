package cmd

import (
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"

	"context"

	"google.golang.org/grpc"
)

func (a *app) versionCmd() *cobra.Command {
	var remote bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version, with --remote the server's too",
		Example: "  infractl version --remote",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			w, err := a.writer()
			if err != nil {
				return err
			}
			own := &v1.GetIdentityResponse{ServerVersion: ""}
			w.Printf("infractl %s\n", version.String())
			if !remote {
				return nil
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				own, err = v1.NewOperatorServiceClient(conn).GetIdentity(ctx, &v1.GetIdentityRequest{})
				if err != nil {
					return err
				}
				return w.Message(own, func() error { w.Printf("server   %s\n", own.GetServerVersion()); return nil })
			})
		},
	}
	c.Flags().BoolVar(&remote, "remote", false, "ask the server too")
	return c
}
