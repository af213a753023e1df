package cmd

import (
	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/site"
)

func (a *app) siteSchemaCmd() *cobra.Command {
	var overlay bool
	c := &cobra.Command{
		Use: "schema", Short: "Print the JSON schema of the site file, for editors",
		Long: `Print the JSON schema of the site file, or of a lab overlay: what an editor needs to complete keys and to mark mistakes. It knows the
shape, not the meaning: "infractl site check" remains the judge. Editors with a YAML language server read the first line of a site file:

    # yaml-language-server: $schema=site.schema.json`,
		Example: "  infractl site schema > site.schema.json\n  infractl site schema --overlay > overlay.schema.json",
		Args:    arity(0, 0),
		RunE: func(*cobra.Command, []string) error {
			made := site.JSONSchema
			if overlay {
				made = site.OverlayJSONSchema
			}
			out, err := made()
			if err != nil {
				return err
			}
			_, err = a.proc.Out.Write(out)
			return err
		},
	}
	c.Flags().BoolVar(&overlay, "overlay", false, "the schema of a lab overlay")
	exits(c, false)
	return c
}
