package cmd

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

type createOptions struct {
	req      v1.CreateInstanceRequest
	limits   limitFlags
	password passwordFlags
	detach   bool
}

func (a *app) instanceCreateCmd() *cobra.Command {
	var o createOptions
	c := &cobra.Command{
		Use: "create NAME", Short: "Make an instance, from its place to its login page",
		Long: `Make an instance: choose a host with room, make its secrets and its network, start its database and its application, install Dolibarr,
give it a name and a certificate, and ask for its login page until that answers with the right version: at its host, and by name at the
proxy, over TLS. When a step fails, everything is undone, and the same command may be given again. A certificate that waits for its turn
and a customer's own domain that does not lead here yet are said, and fail nothing.

The administrator's password is shown once, on a terminal or in a file (--password-file). Elsewhere it is not shown, unless
--show-password asks for it; infractl instance password gives a new one at any time.`,
		Example: "  infractl instance create acme\n" +
			"  infractl instance create acme --version 19.0.4 --company 'ACME SARL' --domain erp.acme.example --password-file acme.password\n" +
			"  infractl instance create trial --preprod --dry-run",
		Args: arity(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			o.req.Name, o.req.Limits = args[0], o.limits.message()
			return a.runCreate(c.Context(), &o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.req.Version, "version", "", "version of Dolibarr (default: the site's)")
	f.StringVar(&o.req.Node, "node", "", "the host (default: the one with most room)")
	f.BoolVar(&o.req.Preprod, "preprod", false, "on a preprod host: no customer's live instance")
	f.StringArrayVar(&o.req.Domains, "domain", nil, "a further name beside the default one; may be given again")
	f.StringVar(&o.req.Company, "company", "", "the customer's name")
	f.StringVar(&o.req.Country, "country", "", "the customer's country (default FR)")
	f.StringVar(&o.req.Language, "language", "", "the customer's language: fr or en (default fr)")
	f.StringSliceVar(&o.req.Modules, "module", nil, "modules to turn on, without \"mod\": societe,facture")
	f.StringVar(&o.req.AdminLogin, "admin-login", "", "the administrator's login (default admin)")
	o.limits.add(c)
	f.BoolVar(&o.req.Cold, "cold", false, "install it step by step, without the warm template")
	f.BoolVar(&o.req.DryRun, "dry-run", false, "only say what would happen")
	f.BoolVar(&o.detach, "detach", false, "do not wait for the end; no password is shown")
	o.password.add(c)
	a.completeNodes(c, "node")
	languageWords(c)
	stepExits(c, meaning{ExitOK, "it answers, or with --dry-run: it would be made"})
	return c
}

// languageWords completes the languages that customers' pages are written in.
func languageWords(c *cobra.Command) {
	must(c.RegisterFlagCompletionFunc("language", cobra.FixedCompletions([]string{"fr", "en"}, cobra.ShellCompDirectiveNoFileComp)))
}

func (a *app) runCreate(ctx context.Context, o *createOptions) error {
	if o.detach && o.password.wanted() {
		return errs.New(errs.Invalid, "with --detach the command ends before there is a password").
			WithHint("leave it out here; infractl instance password %s gives a new one", o.req.GetName())
	}
	file, err := o.password.open(o.req.GetDryRun())
	if err != nil {
		return err
	}
	defer file.discard()
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		api := v1.NewInstanceServiceClient(conn)
		res, err := api.CreateInstance(ctx, &o.req)
		if err != nil {
			return err
		}
		if o.req.GetDryRun() {
			return w.Message(res, func() error { showCreatePlan(w, res); return nil })
		}
		if o.detach {
			a.startedSteps(res.GetOperationId())
			return w.Message(res, func() error { return nil })
		}
		if err := a.finishSteps(ctx, conn, res.GetOperationId()); err != nil {
			return err
		}
		now, err := api.GetInstance(ctx, &v1.GetInstanceRequest{Name: o.req.GetName()})
		if err != nil {
			return err
		}
		res.Instance, res.Plan = now.GetInstance(), nil
		return a.giveInstance(ctx, api, w, res, file, &o.password)
	})
}

func showCreatePlan(w *output.Writer, res *v1.CreateInstanceResponse) {
	i := res.GetInstance()
	w.Printf("instance %s, Dolibarr %s, on %s: would be made\n", i.GetName(), dash(i.GetVersion()), dash(i.GetNode()))
	for n, step := range res.GetPlan() {
		w.Printf("  %2d. %s\n", n+1, step)
	}
}

// giveInstance hands an instance over that works now: its address, its login, and its password where somebody can keep it.
func (a *app) giveInstance(ctx context.Context, api v1.InstanceServiceClient, w *output.Writer, res *v1.CreateInstanceResponse, file *pending,
	o *passwordFlags) error {
	i := res.GetInstance()
	var given *v1.ResetPasswordResponse
	var problem error
	if a.canGive(file, o) {
		// The instance works whatever becomes of the password: a new one costs one command.
		if given, problem = api.ResetPassword(ctx, &v1.ResetPasswordRequest{Name: i.GetName()}); problem == nil && file.file != nil {
			problem = file.write(given.GetPassword() + "\n")
		}
	}
	shown := ""
	if problem == nil && file.file == nil {
		shown = given.GetPassword()
	}
	err := a.writeCreated(w, res, shown, func() error {
		pairs := [][2]string{{"url", i.GetUrl()}, {"login", i.GetAdminLogin()}}
		if shown != "" {
			pairs = append(pairs, [2]string{"password", shown})
		}
		return w.Pairs(pairs)
	})
	switch {
	case problem != nil:
		a.note("warning: instance %s works, but its password is not known: %v", i.GetName(), errs.FromGRPC(problem))
		a.note("next: infractl instance password %s", i.GetName())
	case shown != "":
		a.note("the password is not shown again")
	case file.file != nil:
		a.note("the password is in %s", o.file)
	default:
		a.note("the password was not shown; next: infractl instance password %s --password-file FILE", i.GetName())
	}
	return err
}

// writeCreated writes a new instance; password is empty unless it is to be in the output.
func (a *app) writeCreated(w *output.Writer, res *v1.CreateInstanceResponse, password string, human func() error) error {
	if password == "" || w.Human() {
		return w.Message(res, human)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(res.GetInstance())
	if err != nil {
		return errs.Wrap("write output", err)
	}
	return w.Object(struct {
		Instance    json.RawMessage `json:"instance"`
		OperationID string          `json:"operation_id"`
		Password    string          `json:"password"`
	}{raw, res.GetOperationId(), password}, human)
}

// startedSteps says how to follow what was started.
func (a *app) startedSteps(id string) {
	a.note("operation %s is at work; next: infractl operation watch %s", id, id)
}

// finishSteps follows an operation to its end and turns that into the command's. Nothing was started without an id.
func (a *app) finishSteps(ctx context.Context, conn *grpc.ClientConn, id string) error {
	if id == "" {
		return nil
	}
	last, err := a.awaitSteps(ctx, conn, id)
	if err != nil {
		return err
	}
	if err := a.concludeSteps(last); err != nil {
		return err
	}
	if last.GetCreated() != nil && last.GetEnded() != nil {
		a.note("it took %s", fmt.Sprintf("%.1f s", last.GetEnded().AsTime().Sub(last.GetCreated().AsTime()).Seconds()))
	}
	return nil
}
