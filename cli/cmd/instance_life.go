package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// changed is the answer of every call that starts an operation on an instance.
type changed interface {
	GetInstance() *v1.Instance
	GetOperationId() string
}

// instanceChange is one change of one instance.
type instanceChange struct {
	name string
	// ask asks the operator, with the instance as it is; nil where nothing is lost.
	ask func(ctx context.Context, now *v1.GetInstanceResponse) error
	// call starts the change.
	call func(ctx context.Context, api v1.InstanceServiceClient) (changed, error)
	// done is what people are told at the end.
	done func(now *v1.Instance)
	// newName is its name afterwards, where that is another.
	newName string
	detach  bool
}

// changeInstance asks, starts a change, follows it, and writes the instance as it is then.
func (a *app) changeInstance(ctx context.Context, o *instanceChange) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewInstanceServiceClient(conn)
		if o.ask != nil && !a.yes {
			now, err := api.GetInstance(ctx, &v1.GetInstanceRequest{Name: o.name})
			if err != nil {
				return err
			}
			if err := o.ask(ctx, now); err != nil {
				return err
			}
		}
		res, err := o.call(ctx, api)
		if err != nil {
			return err
		}
		if o.detach && res.GetOperationId() != "" {
			a.startedSteps(res.GetOperationId())
			return w.Message(&v1.GetInstanceResponse{Instance: res.GetInstance()}, func() error { return nil })
		}
		if err := a.finishSteps(ctx, conn, res.GetOperationId()); err != nil {
			return err
		}
		now, err := api.GetInstance(ctx, &v1.GetInstanceRequest{Name: orElse(o.newName, o.name)})
		if err != nil {
			return err
		}
		return w.Message(now, func() error { o.done(now.GetInstance()); return nil })
	})
}

// instanceVerb completes the command of a change: one name, --yes where it asks, --detach, exit codes.
func (a *app) instanceVerb(c *cobra.Command, asks bool, change func(name string) *instanceChange) *cobra.Command {
	var detach bool
	c.Args = arity(1, 1)
	c.ValidArgsFunction = firstOnly(a.completer(instanceNames))
	c.RunE = func(c *cobra.Command, args []string) error {
		o := change(args[0])
		o.name, o.detach = args[0], detach
		return a.changeInstance(c.Context(), o)
	}
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	if asks {
		a.yesFlag(c)
	}
	stepExits(c)
	return c
}

func (a *app) instanceSuspendCmd() *cobra.Command {
	return a.instanceVerb(&cobra.Command{
		Use: "suspend NAME", Short: "Show an instance's users a page instead, and stop it",
		Long: `Show an instance's users a page in the customer's language, with status 503, and stop its containers. Its data, names and certificate
stay. infractl instance resume lets it work again.`,
		Example: "  infractl instance suspend acme",
	}, true, func(name string) *instanceChange {
		return &instanceChange{
			ask: func(ctx context.Context, now *v1.GetInstanceResponse) error {
				return a.confirm(ctx, fmt.Sprintf("Suspend %s? Whoever works in it is cut off; unsaved work is lost. Its data stay.", name))
			},
			call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
				return api.SuspendInstance(ctx, &v1.SuspendInstanceRequest{Name: name})
			},
			done: func(i *v1.Instance) {
				a.note("%s answers with a page and 503; infractl instance resume %s lets it work again", i.GetUrl(), i.GetName())
			},
		}
	})
}

func (a *app) instanceResumeCmd() *cobra.Command {
	return a.instanceVerb(&cobra.Command{
		Use: "resume NAME", Short: "Let a suspended or archived instance work again",
		Example: "  infractl instance resume acme",
	}, false, func(name string) *instanceChange {
		return &instanceChange{
			call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
				return api.ResumeInstance(ctx, &v1.ResumeInstanceRequest{Name: name})
			},
			done: func(i *v1.Instance) { a.note("%s works again", i.GetUrl()) },
		}
	})
}

func (a *app) instanceRestartCmd() *cobra.Command {
	return a.instanceVerb(&cobra.Command{
		Use: "restart NAME", Short: "Restart an instance's containers",
		Example: "  infractl instance restart acme --yes",
	}, true, func(name string) *instanceChange {
		return &instanceChange{
			ask: func(ctx context.Context, _ *v1.GetInstanceResponse) error {
				return a.confirm(ctx, fmt.Sprintf("Restart %s? Whoever works in it waits for some seconds; unsaved work is lost.", name))
			},
			call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
				return api.RestartInstance(ctx, &v1.RestartInstanceRequest{Name: name})
			},
			done: func(i *v1.Instance) { a.note("%s works again", i.GetUrl()) },
		}
	})
}

func (a *app) instanceRenameCmd() *cobra.Command {
	var detach bool
	c := &cobra.Command{
		Use: "rename NAME NEW-NAME", Short: "Give an instance another name, and another default address",
		Long: `Give an instance another name. Its default address follows, with a certificate of its own; the former one is not answered any more.
Its data, its id and its other domains stay.`,
		Example: "  infractl instance rename acme acme-sarl", Args: arity(2, 2),
		ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			name, next := args[0], args[1]
			return a.changeInstance(c.Context(), &instanceChange{name: name, newName: next, detach: detach,
				ask: func(ctx context.Context, now *v1.GetInstanceResponse) error {
					return a.confirm(ctx, fmt.Sprintf("Rename %s to %s? %s is not answered any more, and links to it break.", name, next,
						now.GetInstance().GetUrl()))
				},
				call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
					return api.RenameInstance(ctx, &v1.RenameInstanceRequest{Name: name, NewName: next})
				},
				done: func(i *v1.Instance) { a.note("%s is %s now: %s", name, i.GetName(), i.GetUrl()) },
			})
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	a.yesFlag(c)
	stepExits(c)
	return c
}

// maxKeepDays is the longest time between delete and purge, in days; defaultKeepDays is the usual one.
const (
	maxKeepDays     = 365
	defaultKeepDays = 21
)

func (a *app) instanceDeleteCmd() *cobra.Command {
	var keep uint32
	var disown bool
	c := a.instanceVerb(&cobra.Command{
		Use: "delete NAME", Short: "Take an instance out of service; its data are kept for some weeks",
		Long: `Take an instance out of service: it is suspended and archived, with all its data. When its time is over it is purged by itself; until
then infractl instance resume brings it back as it was.

--disown is for one that was adopted (infractl instance import): infractl forgets it at once, and leaves its containers, data and network
as they are.`,
		Example: "  infractl instance delete acme\n  infractl instance delete acme --keep-days 90\n  infractl instance delete dupont --disown",
	}, true, func(name string) *instanceChange {
		return &instanceChange{
			ask: func(ctx context.Context, now *v1.GetInstanceResponse) error {
				if now.GetInstance().GetState() == v1.InstanceState_INSTANCE_STATE_PURGED {
					return nil // the server says what is wrong
				}
				until := a.clock.Now().Add(time.Duration(keep) * 24 * time.Hour).Format("2006-01-02")
				return a.confirm(ctx, fmt.Sprintf("Delete %s? Its users see a page from now on. Its data are kept until %s; then they are destroyed.",
					name, until))
			},
			call: func(ctx context.Context, api v1.InstanceServiceClient) (changed, error) {
				return api.DeleteInstance(ctx, &v1.DeleteInstanceRequest{Name: name, KeepDays: &keep})
			},
			done: func(i *v1.Instance) {
				a.note("%s is archived; its purge %s (%s); infractl instance resume %s brings it back", i.GetName(), a.due(i),
					i.GetPurgeAfter().AsTime().Format("2006-01-02"), i.GetName())
			},
		}
	})
	c.Flags().Uint32Var(&keep, "keep-days", defaultKeepDays, "days until it is purged")
	c.Flags().BoolVar(&disown, "disown", false, "forget an adopted one and leave it as it is")
	c.MarkFlagsMutuallyExclusive("disown", "keep-days")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if disown {
			return a.runDisown(c.Context(), args[0])
		}
		if keep > maxKeepDays {
			return errs.New(errs.Invalid, "data are kept for at most %d days, not %d", maxKeepDays, keep)
		}
		return run(c, args)
	}
	return c
}

// runDisown lets go of an adopted instance, of which nothing is known afterwards.
func (a *app) runDisown(ctx context.Context, name string) error {
	question := fmt.Sprintf("Let go of %s? infractl forgets it, and the front and the proxy answer for it no longer; its containers and data stay as they are.", name)
	if err := a.confirm(ctx, question); err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		res, err := v1.NewInstanceServiceClient(conn).DeleteInstance(ctx, &v1.DeleteInstanceRequest{Name: name, Disown: true})
		if err != nil {
			return err
		}
		if err := a.finishSteps(ctx, conn, res.GetOperationId()); err != nil {
			return err
		}
		return w.Message(res, func() error {
			a.note("%s is no instance of infractl any more; what is there of it is as it was", name)
			return nil
		})
	})
}

func (a *app) instancePurgeCmd() *cobra.Command {
	var early, detach bool
	c := &cobra.Command{
		Use: "purge NAME", Short: "Destroy an archived instance's data for good",
		Long: `Destroy an archived instance for good: containers, database, documents, custom modules, network, secrets, names and proxy host. Nothing
brings them back. What is left is a certificate of destruction, which is printed, and which infractl instance show --certificate prints
again.

Before its time is over that needs --early. The name is asked for, unless --yes.`,
		Example: "  infractl instance purge acme\n  infractl instance purge acme --early --yes > acme-destroyed.txt", Args: arity(1, 1),
		ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE:              func(c *cobra.Command, args []string) error { return a.runPurge(c.Context(), args[0], early, detach) },
	}
	c.Flags().BoolVar(&early, "early", false, "also before its time is over")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	a.yesFlag(c)
	stepExits(c)
	return c
}

func (a *app) runPurge(ctx context.Context, name string, early, detach bool) error {
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewInstanceServiceClient(conn)
		now, err := api.GetInstance(ctx, &v1.GetInstanceRequest{Name: name})
		if err != nil {
			return err
		}
		i := now.GetInstance()
		// What the server would refuse is not worth a question.
		if i.GetState() == v1.InstanceState_INSTANCE_STATE_ARCHIVED {
			if err := a.confirmName(ctx, purgeQuestion(i), name); err != nil {
				return err
			}
		}
		res, err := api.PurgeInstance(ctx, &v1.PurgeInstanceRequest{Name: name, Early: early})
		if err != nil {
			return err
		}
		if detach {
			a.startedSteps(res.GetOperationId())
			return w.Message(res, func() error { return nil })
		}
		if err := a.finishSteps(ctx, conn, res.GetOperationId()); err != nil {
			return err
		}
		if now, err = api.GetInstance(ctx, &v1.GetInstanceRequest{Name: name}); err != nil {
			return err
		}
		return w.Message(now, func() error {
			a.note("%s is destroyed; this is the certificate", name)
			return w.Raw([]byte(now.GetDestructionCertificate()))
		})
	})
}

// purgeQuestion names what is lost.
func purgeQuestion(i *v1.Instance) string {
	what := "its database, documents, custom modules and secrets"
	if n := len(i.GetDomains()); n > 0 {
		what += ", and its names " + strings.Join(i.GetDomains(), ", ")
	}
	return fmt.Sprintf("Purge %s (%s, on %s)? This destroys %s. Nothing brings them back.", i.GetName(), dash(i.GetCompany()), i.GetNode(), what)
}
