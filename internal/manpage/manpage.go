// Package manpage writes a program's manual page from its commands: one page with all of them.
//
// It is what cobra/doc does, without a Markdown parser in every program that has a page.
package manpage

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/infractl/infractl/internal/version"
)

// Command returns the hidden command "man", which prints the page of the program that it was added to. section is 1 for
// people's commands and 8 for administrators' and daemons.
func Command(section int) *cobra.Command {
	return &cobra.Command{
		Use: "man", Short: "Print the manual page", Hidden: true, Args: cobra.NoArgs,
		Long: "Print the manual page as troff, for packages.",
		RunE: func(c *cobra.Command, _ []string) error {
			return Write(c.OutOrStdout(), c.Root(), section, version.String())
		},
	}
}

// Write writes the page of root. The same commands give the same bytes: there is no date in it.
func Write(w io.Writer, root *cobra.Command, section int, version string) error {
	var b bytes.Buffer
	root.InitDefaultHelpFlag()
	name := root.Name()
	fmt.Fprintf(&b, ".TH %s %d \"\" \"%s\" \"infractl\"\n.nh\n.ad l\n", quote(strings.ToUpper(name)), section, quote(name+" "+version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", quote(name), quote(root.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.I command\n[flags]\n", quote(name))
	b.WriteString(".SH DESCRIPTION\n")
	text(&b, describe(root))
	if flags := root.PersistentFlags(); flags.HasAvailableFlags() {
		b.WriteString(".SH OPTIONS\n")
		options(&b, flags)
	}
	b.WriteString(".SH COMMANDS\n")
	for _, c := range root.Commands() {
		command(&b, c)
	}
	b.WriteString(".SH SEE ALSO\nhttps://github.com/infractl/infractl\n")
	_, err := w.Write(b.Bytes())
	return err
}

func describe(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short + "."
}

func command(b *bytes.Buffer, c *cobra.Command) {
	if !c.IsAvailableCommand() || c.Name() == "help" || c.Name() == "completion" {
		return
	}
	if c.Runnable() {
		fmt.Fprintf(b, ".SS %s\n", quote(c.UseLine()))
		text(b, describe(c))
		if flags := c.NonInheritedFlags(); flags.HasAvailableFlags() {
			options(b, flags)
		}
		if c.HasExample() {
			fmt.Fprintf(b, ".PP\nExamples:\n.PP\n.nf\n.RS\n%s\n.RE\n.fi\n", quote(c.Example))
		}
	}
	for _, sub := range c.Commands() {
		command(b, sub)
	}
}

func text(b *bytes.Buffer, s string) {
	for _, paragraph := range strings.Split(strings.TrimSpace(s), "\n\n") {
		fmt.Fprintf(b, ".PP\n%s\n", quote(paragraph))
	}
}

func options(b *bytes.Buffer, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" && f.DefValue != "0" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(b, ".TP\n.B %s %s\n%s\n", quote(name), quote(kind), quote(usage))
	})
}

// quote makes plain text of what troff would take for its own: backslashes, hyphens, and control lines.
func quote(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
