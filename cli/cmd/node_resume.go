package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) nodeResumeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "resume NODE", Short: "Let a node be managed again that was paused after a restore of the server",
		Long: `Let a node be managed again that was paused after a restore of the server. Such a node reports a newer revision than the backup
knew, and nothing is applied to it, so that nobody puts it back by accident.

Apply the newest site file first: what the server wants is applied to the node as soon as it is resumed.`,
		Example: "  infractl apply -f site.yaml\n  infractl node resume srv-prod",
	}
	return a.nodeAction(c, func(name string) string {
		return "Let " + name + " be managed again? What this server wants now is applied to it."
	}, func(ctx context.Context, api v1.NodeServiceClient, name string) (proto.Message, string, error) {
		n, err := api.ResumeNode(ctx, &v1.ResumeNodeRequest{Name: name})
		return n, name + " is managed again; what it lacks is applied within moments, or with: infractl apply", err
	})
}
