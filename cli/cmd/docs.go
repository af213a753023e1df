package cmd

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

const docsHead = `# infractl

<!-- Made from the code by "make docs"; a test checks that it is current. -->

`

// Docs returns the reference of the command line as one Markdown page: every verb with its flags, examples and exit codes.
// It depends on nothing but the code.
func Docs() string {
	root := (&app{proc: Process{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}}).root()
	root.InitDefaultHelpFlag()
	var b strings.Builder
	b.WriteString(docsHead)
	fmt.Fprintf(&b, "%s\n", root.Long)
	b.WriteString("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n")
	for _, m := range meanings() {
		fmt.Fprintf(&b, "| %d | %s |\n", m.code, m.text)
	}
	b.WriteString("\nThe codes of a verb, where they say more, stand with the verb.\n")
	fmt.Fprintf(&b, "\n## Flags of every verb\n\n```\n%s```\n", root.PersistentFlags().FlagUsages())
	b.WriteString("\n## Environment\n\n| variable | meaning |\n| --- | --- |\n" +
		"| `INFRACTL_CONFIG` | folder of identity and settings |\n" +
		"| `INFRACTL_OVERLAY` | a lab overlay for the verbs that read a site file |\n" +
		"| `INFRACTL_SSH_IDENTITY` | private SSH key for `ssh` and for logins in place of a witness |\n" +
		"| `SSH_AUTH_SOCK` | ssh-agent, whose keys are used when no key is named |\n")
	for _, group := range root.Groups() {
		for _, c := range root.Commands() {
			if c.GroupID == group.ID {
				document(&b, c, "##")
			}
		}
	}
	b.WriteString(docsTail)
	return b.String()
}

const docsTail = `
## infractl completion

Print a script that completes verbs, flags, and live names of nodes, rollouts, tokens and revisions, which it asks the server
for:

` + "```" + `
infractl completion bash > /etc/bash_completion.d/infractl
infractl completion zsh > "${fpath[1]}/_infractl"
infractl completion fish > ~/.config/fish/completions/infractl.fish
` + "```" + `
`

func document(b *strings.Builder, c *cobra.Command, level string) {
	if !c.IsAvailableCommand() || c.Name() == "help" {
		return
	}
	c.InitDefaultHelpFlag()
	fmt.Fprintf(b, "\n%s %s\n\n", level, c.CommandPath())
	if same, _, err := c.Root().Find([]string{c.Name()}); err == nil && same != c && same.Short == c.Short {
		fmt.Fprintf(b, "The same as `%s`.\n", same.CommandPath())
		return
	}
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(b, "%s\n", text)
	if c.Annotations[groupKey] == "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.UseLine())
		if c.HasExample() {
			fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", unindent(c.Example))
		}
		if flags := c.NonInheritedFlags(); flags.HasAvailableFlags() {
			fmt.Fprintf(b, "\nFlags:\n\n```\n%s```\n", flags.FlagUsages())
		}
		if codes := c.Annotations[exitsKey]; codes != "" {
			fmt.Fprintf(b, "\nExit codes:\n\n```\n%s```\n", codes)
		}
	}
	for _, sub := range c.Commands() {
		document(b, sub, level+"#")
	}
}

func unindent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
