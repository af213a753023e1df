package cmd

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
)

// groupKey is the annotation of a command that only holds others.
const groupKey = "group"

// group returns a command that only holds others: alone it shows its help, and a word that it does not know is an error.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Annotations: map[string]string{groupKey: "yes"},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := errs.New(errs.Invalid, "%s has no command %q", c.CommandPath(), args[0])
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			// Whoever typed the beginning of a command meant that one.
			begun := slices.IndexFunc(near, func(n string) bool { return strings.HasPrefix(n, args[0]) })
			return err.WithHint("did you mean: %s %s", c.CommandPath(), near[max(begun, 0)])
		}
		return err.WithHint("%s --help lists the commands", c.CommandPath())
	}
	c.AddCommand(verbs...)
	return c
}

// arity refuses a wrong number of arguments and shows the command's first example.
func arity(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		wanted := fmt.Sprintf("%d argument(s)", most)
		switch {
		case most == 0:
			wanted = "no arguments"
		case most == math.MaxInt:
			wanted = fmt.Sprintf("at least %d argument(s)", least)
		case least != most:
			wanted = fmt.Sprintf("%d to %d arguments", least, most)
		}
		example, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n")
		return errs.New(errs.Invalid, "%s takes %s, got %d", c.CommandPath(), wanted, len(args)).WithHint("for example: %s", example)
	}
}

// usage writes how a command is used: the part of its help below the description.
func usage(c *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if c.Annotations[groupKey] == "" {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND\n", c.CommandPath())
		for _, g := range c.Groups() {
			subCommands(&b, c, g.Title, g.ID)
		}
		if len(c.Groups()) == 0 {
			subCommands(&b, c, "Commands:", "")
		}
	}
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
	}
	flags := func(title string, f flagSet) {
		if f.HasAvailableFlags() {
			fmt.Fprintf(&b, "\n%s:\n%s", title, f.FlagUsages())
		}
	}
	flags("Flags", c.LocalFlags())
	flags("Global flags", c.InheritedFlags())
	if codes := c.Annotations[exitsKey]; codes != "" {
		fmt.Fprintf(&b, "\nExit codes:\n%s", codes)
	} else if !c.HasParent() {
		fmt.Fprintf(&b, "\nExit codes:\n%s", exitTable(meanings()))
	}
	_, err := fmt.Fprint(c.OutOrStderr(), b.String())
	return err
}

// flagSet is what is shown of flags.
type flagSet interface {
	HasAvailableFlags() bool
	FlagUsages() string
}

func subCommands(b *strings.Builder, c *cobra.Command, title, group string) {
	fmt.Fprintf(b, "\n%s\n", title)
	for _, sub := range c.Commands() {
		if sub.GroupID == group && (sub.IsAvailableCommand() || sub.Name() == "help") {
			fmt.Fprintf(b, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
		}
	}
}
