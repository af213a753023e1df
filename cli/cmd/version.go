package cmd

import (
	"context"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/version"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// versions is what the version command prints.
type versions struct {
	Version       string `json:"version"`
	ServerVersion string `json:"server_version,omitempty"`
}

func (a *app) versionCmd() *cobra.Command {
	var remote bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Show the version, with --remote the server's too",
		Example: "  infractl version\n  infractl version --remote -o json",
		Args:    arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if remote {
				return a.withServer(c.Context(), a.remoteVersion)
			}
			w, err := a.writer()
			if err != nil {
				return err
			}
			return showVersions(w, versions{Version: version.String()})
		},
	}
	c.Flags().BoolVar(&remote, "remote", false, "ask the server too")
	exits(c, true)
	return c
}

func (a *app) remoteVersion(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
	id, err := v1.NewOperatorServiceClient(conn).GetIdentity(ctx, &v1.GetIdentityRequest{})
	if err != nil {
		return err
	}
	a.compareVersions(id.GetServerVersion())
	return showVersions(w, versions{Version: version.String(), ServerVersion: id.GetServerVersion()})
}

func showVersions(w *output.Writer, v versions) error {
	return w.Object(v, func() error {
		w.Printf("infractl  %s\n", v.Version)
		if v.ServerVersion != "" {
			w.Printf("server    %s\n", v.ServerVersion)
		}
		return nil
	})
}

// compareVersions warns when this command and the server are of different versions.
func (a *app) compareVersions(server string) {
	if own := version.String(); server != "" && server != own {
		a.note("warning: this is infractl %s, and the server is %s; use the same version of both", own, server)
	}
}
