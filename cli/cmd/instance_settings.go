package cmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

func (a *app) instanceModulesCmd() *cobra.Command {
	var req v1.SetModulesRequest
	c := &cobra.Command{
		Use: "modules NAME", Short: "Show an instance's modules, or turn modules on and off",
		Long: `Show the modules that are on, or turn modules on and off. A module is named without the "mod" before its class: societe, facture.
Turning one off keeps its data.`,
		Example: "  infractl instance modules acme\n  infractl instance modules acme --enable societe,facture --disable don", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			req.Name = args[0]
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				return a.runModules(ctx, v1.NewInstanceServiceClient(conn), w, &req)
			})
		},
	}
	c.Flags().StringSliceVar(&req.Enable, "enable", nil, "modules to turn on")
	c.Flags().StringSliceVar(&req.Disable, "disable", nil, "modules to turn off")
	return c
}

func (a *app) runModules(ctx context.Context, api v1.InstanceServiceClient, w *output.Writer, req *v1.SetModulesRequest) error {
	if len(req.GetEnable())+len(req.GetDisable()) == 0 {
		now, err := api.GetInstance(ctx, &v1.GetInstanceRequest{Name: req.GetName()})
		if err != nil {
			return err
		}
		return showModules(w, &v1.SetModulesResponse{Modules: now.GetInstance().GetModules()})
	}
	res, err := api.SetModules(ctx, req)
	if err != nil {
		return err
	}
	a.note("%d modules are on", len(res.GetModules()))
	return showModules(w, res)
}

func showModules(w *output.Writer, res *v1.SetModulesResponse) error {
	return w.Message(res, func() error {
		for _, m := range res.GetModules() {
			w.Printf("%s\n", output.Line(m))
		}
		return nil
	})
}

func (a *app) instanceCronCmd() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use: "cron NAME on|off", Short: "Turn an instance's scheduled jobs on or off",
		Long: `Turn an instance's scheduled jobs on or off: reminders, recurring invoices, mail that is collected. They run every 5 minutes, in a
container of their own.`,
		Example: "  infractl instance cron acme off", Args: arity(2, 2),
		ValidArgsFunction: a.secondWord(instanceNames, "on", "off"),
		RunE: func(c *cobra.Command, args []string) error {
			on := args[1] == "on"
			if !on && args[1] != "off" {
				return errs.New(errs.Invalid, "scheduled jobs are on or off, not %.20q", args[1]).WithHint("infractl instance cron %s on", args[0])
			}
			return a.configureInstance(c.Context(), &v1.ConfigureInstanceRequest{Name: args[0], Cron: &on}, detach, nil, func(i *v1.Instance) {
				a.note("scheduled jobs of %s are %s", i.GetName(), args[1])
			})
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	stepExits(c)
	return c
}

// secondWord completes a name, then one of some words.
func (a *app) secondWord(names func(context.Context, *grpc.ClientConn) ([]string, error), words ...string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return a.completer(names)(c, args, word)
		case 1:
			return words, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) configureInstance(ctx context.Context, req *v1.ConfigureInstanceRequest, detach bool,
	ask func(context.Context, *v1.GetInstanceResponse) error, done func(*v1.Instance)) error {
	return a.changeInstance(ctx, &instanceChange{name: req.GetName(), detach: detach, ask: ask, done: done,
		call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
			return api.ConfigureInstance(ctx, req)
		}})
}

func (a *app) instanceLimitsCmd() *cobra.Command {
	var limits limitFlags
	var detach bool
	c := &cobra.Command{
		Use: "limits NAME", Short: "Show what an instance may use, or change it",
		Long: `Show what an instance may use and what it uses, or change it. What is not named stays. Memory, processors and processes change while it
works; memory is for application and database together, and so is disk space, whose excess is reported.`,
		Example: "  infractl instance limits acme\n  infractl instance limits acme --memory 1G --cpus 1.5", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			wanted := limits.message()
			if wanted == nil {
				return a.showLimits(c.Context(), args[0])
			}
			return a.configureInstance(c.Context(), &v1.ConfigureInstanceRequest{Name: args[0], Limits: wanted}, detach, nil, func(i *v1.Instance) {
				a.note("limits of %s: %s", i.GetName(), limitsText(i.GetLimits()))
			})
		},
	}
	limits.add(c)
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	stepExits(c)
	return c
}

func (a *app) showLimits(ctx context.Context, name string) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		res, err := v1.NewInstanceServiceClient(conn).GetInstance(ctx, &v1.GetInstanceRequest{Name: name})
		if err != nil {
			return err
		}
		return w.Message(res, func() error {
			l, u := res.GetInstance().GetLimits(), res.GetInstance().GetUsage()
			use := func(known bool, text string) string {
				if u == nil || !known {
					return "-"
				}
				return text
			}
			return w.Rows([]string{"WHAT", "LIMIT", "IN USE"}, [][]string{
				{"memory", sizeText(l.GetMemoryBytes()), use(true, sizeText(u.GetMemoryBytes()))},
				{"cpus", cpus(l.GetMilliCpus()), use(true, fmt.Sprintf("%.2f", u.GetCpu()))},
				{"pids", num(uint64(l.GetPids())), use(u.GetProcesses() > 0, num(uint64(u.GetProcesses())))},
				{"disk", sizeText(l.GetDiskBytes()), use(u.GetDiskBytes() > 0, sizeText(u.GetDiskBytes()))},
			})
		})
	})
}

func (a *app) instanceDomainsCmd() *cobra.Command {
	var add, remove []string
	var detach bool
	c := &cobra.Command{
		Use: "domains NAME", Short: "Show an instance's names, or add and remove some",
		Long: `Show the names that an instance answers to, or add and remove some. The default one stays. A customer's own name must point to the
site's public address before it is added: its certificate is asked for at once, and an authority allows few a week.`,
		Example: "  infractl instance domains acme\n  infractl instance domains acme --add erp.acme.example\n" +
			"  infractl instance domains acme --remove erp.acme.example",
		Args: arity(1, 1), ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if len(add)+len(remove) == 0 {
				return a.showDomains(c.Context(), args[0])
			}
			var ask func(context.Context, *v1.GetInstanceResponse) error
			if len(remove) > 0 {
				ask = func(ctx context.Context, _ *v1.GetInstanceResponse) error {
					return a.confirm(ctx, fmt.Sprintf("Take %s from %s? Nobody reaches it there any more.", strings.Join(remove, ", "), args[0]))
				}
			}
			req := &v1.ConfigureInstanceRequest{Name: args[0], AddDomains: add, RemoveDomains: remove}
			return a.configureInstance(c.Context(), req, detach, ask, func(i *v1.Instance) {
				a.note("%s answers to %s; certificate: %s", i.GetName(), strings.Join(i.GetDomains(), ", "), dash(i.GetCertificate()))
			})
		},
	}
	c.Flags().StringArrayVar(&add, "add", nil, "a further name; may be given again")
	c.Flags().StringArrayVar(&remove, "remove", nil, "a name that goes; may be given again")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	a.yesFlag(c)
	stepExits(c)
	return c
}

func (a *app) showDomains(ctx context.Context, name string) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		res, err := v1.NewInstanceServiceClient(conn).GetInstance(ctx, &v1.GetInstanceRequest{Name: name})
		if err != nil {
			return err
		}
		return w.Message(res, func() error {
			for _, d := range res.GetInstance().GetDomains() {
				w.Printf("%s\n", output.Line(d))
			}
			return nil
		})
	})
}

func (a *app) instanceLanguageCmd() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use: "language NAME fr|en", Short: "Choose the language of the pages that an instance's users see from us",
		Long: `Choose the language of the pages that an instance's users see from us, such as the one while it is suspended. What Dolibarr speaks is
each user's own choice.`,
		Example: "  infractl instance language acme en", Args: arity(2, 2),
		ValidArgsFunction: a.secondWord(instanceNames, "fr", "en"),
		RunE: func(c *cobra.Command, args []string) error {
			req := &v1.ConfigureInstanceRequest{Name: args[0], Language: args[1]}
			return a.configureInstance(c.Context(), req, detach, nil, func(i *v1.Instance) {
				a.note("pages for the users of %s are in %s", i.GetName(), i.GetLanguage())
			})
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	stepExits(c)
	return c
}
