package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// Limits of "instance apply" on operations at once.
const (
	defaultParallel = 4
	maxParallel     = 32
)

type instanceApplyOptions struct {
	file, passwords string
	parallel        int
	dryRun          bool
}

func (a *app) instanceApplyCmd() *cobra.Command {
	var o instanceApplyOptions
	c := &cobra.Command{
		Use: "apply -f FILE", Short: "Create and change many instances from a file; it removes none",
		Long: `Create and change many instances from a file. The plan is shown first, and asked about. A second apply of the same file does nothing.

It creates what is missing, and changes limits, cron and language; names and modules are added, never taken away, and an instance that is
not in the file stays as it is. What a file cannot change (version, host, administrator's login) stops the whole file before anything
is done. The file:

  instances:
    acme:
      version: 19.0.4
      company: ACME SARL
      domains: [erp.acme.example]
      modules: [societe, facture]
      limits: {memory: 768M, cpus: 1.5, disk: 5G}
    beta: {company: Beta, language: en, cron: false}

Each key is optional: version, node, preprod, company, country, language, admin_login, domains, modules, cron, limits (memory, cpus,
pids, disk). Passwords of new ones are written to a folder (--passwords), one file each, or not shown at all.`,
		Example: "  infractl instance apply -f customers.yaml --dry-run\n  infractl instance apply -f customers.yaml --passwords new/ --yes", Args: arity(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.file == "" {
				return errs.New(errs.Invalid, "no file is named").WithHint("infractl instance apply -f customers.yaml; - is stdin")
			}
			if o.parallel < 1 || o.parallel > maxParallel {
				return errs.New(errs.Invalid, "--parallel is 1 to %d", maxParallel)
			}
			return a.runInstanceApply(c.Context(), &o)
		},
	}
	f := c.Flags()
	f.StringVarP(&o.file, "file", "f", "", `the file; "-" is stdin`)
	f.StringVar(&o.passwords, "passwords", "", "a folder for the passwords of new instances, one file NAME.password (mode 0600) each")
	f.IntVar(&o.parallel, "parallel", defaultParallel, "how many instances are worked on at once")
	f.BoolVar(&o.dryRun, "dry-run", false, "only show the plan")
	a.yesFlag(c)
	must(c.MarkFlagFilename("file", "yaml", "yml"))
	must(c.MarkFlagDirname("passwords"))
	exits(c, true, meaning{ExitOK, "every instance is as the file says, or with --dry-run: the plan is shown"},
		meaning{ExitFailed, "faults in the file, refused, or not confirmed: nothing was changed"},
		meaning{ExitSomeFailed, "some instances are not as the file says"},
		meaning{ExitInterrupted, "interrupted; operations that were started go on"})
	return c
}

func (a *app) runInstanceApply(ctx context.Context, o *instanceApplyOptions) error {
	file, err := a.readInstances(o.file)
	if err != nil {
		return err
	}
	return a.withServer(ctx, func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
		list, err := v1.NewInstanceServiceClient(conn).ListInstances(ctx, &v1.ListInstancesRequest{})
		if err != nil {
			return err
		}
		plans := planInstances(file, list.GetInstances())
		if o.dryRun {
			return w.Object(plannedResults(plans), func() error { showInstancePlans(w.Printf, plans); return nil })
		}
		showInstancePlans(a.printErr, plans)
		if err := blockedInstances(plans); err != nil {
			return err
		}
		if !slices.ContainsFunc(plans, func(p *instancePlan) bool { return !p.idle() }) {
			return w.Object(plannedResults(plans), func() error { return nil })
		}
		if err := a.confirm(ctx, "Do this?"); err != nil {
			return err
		}
		if o.passwords != "" {
			if err := os.MkdirAll(o.passwords, 0o700); err != nil {
				return errs.New(errs.Invalid, "cannot be made: %w", cause(err)).At(o.passwords)
			}
		}
		results := a.carryOut(ctx, conn, plans, o)
		if err := w.Object(results, func() error { return nil }); err != nil {
			return err
		}
		return a.endOfApply(ctx, results)
	})
}

// blockedInstances refuses a file that asks for what apply cannot do.
func blockedInstances(plans []*instancePlan) error {
	var names []string
	for _, p := range plans {
		if len(p.blocks) > 0 {
			names = append(names, p.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return errs.New(errs.Precondition, "the file asks for what apply cannot change: %s; nothing was changed", strings.Join(names, ", ")).
		WithHint("correct the lines that the plan names")
}

// instanceResult is what became of one instance of a file.
type instanceResult struct {
	Name   string   `json:"name"`
	Action string   `json:"action"`
	Lines  []string `json:"changes"`
	Done   bool     `json:"done"`
	Error  string   `json:"error"`
	Hint   string   `json:"hint"`
}

func plannedResults(plans []*instancePlan) []instanceResult {
	out := []instanceResult{}
	for _, p := range plans {
		out = append(out, instanceResult{Name: p.name, Action: p.word(), Lines: slices.Concat([]string{}, p.lines, p.blocks),
			Done: p.idle() && len(p.blocks) == 0})
	}
	return out
}

// carryOut works on several instances at once; one that fails takes no other with it.
func (a *app) carryOut(ctx context.Context, conn *grpc.ClientConn, plans []*instancePlan, o *instanceApplyOptions) []instanceResult {
	results := plannedResults(plans)
	board := &applyBoard{show: newProgress(a), rows: make([]row, len(plans))}
	places := make(chan struct{}, o.parallel)
	var group sync.WaitGroup
	for n, p := range plans {
		if p.idle() {
			continue
		}
		places <- struct{}{} // in the order of the file
		if ctx.Err() != nil {
			break
		}
		group.Go(func() {
			defer func() { <-places }()
			worker := &applyWorker{app: a, conn: conn, plan: p, passwords: o.passwords, board: board, row: n}
			if err := errs.FromGRPC(worker.run(ctx)); err != nil {
				results[n].Error, results[n].Hint = output.Line(err.Error()), errs.HintOf(err)
				board.set(n, p.name, "failed: "+err.Error())
				return
			}
			results[n].Done = true
			board.set(n, p.name, "done")
		})
	}
	group.Wait()
	return results
}

// applyBoard is the table of all instances at work.
type applyBoard struct {
	mu   sync.Mutex
	show *progress
	rows []row
}

func (b *applyBoard) set(n int, name, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows[n] = row{key: name, text: fmt.Sprintf("%-24s %s", name, text)}
	var shown []row
	for _, r := range b.rows {
		if r.key != "" {
			shown = append(shown, r)
		}
	}
	b.show.update(shown)
}

// applyWorker brings one instance to what the file says.
type applyWorker struct {
	app       *app
	conn      *grpc.ClientConn
	plan      *instancePlan
	passwords string
	board     *applyBoard
	row       int
}

func (k *applyWorker) run(ctx context.Context) error {
	api := v1.NewInstanceServiceClient(k.conn)
	if k.plan.create != nil {
		if err := k.make(ctx, api); err != nil {
			return err
		}
	}
	if k.plan.configure != nil {
		res, err := api.ConfigureInstance(ctx, k.plan.configure)
		if err != nil {
			return err
		}
		if err := k.follow(ctx, res.GetOperationId()); err != nil {
			return err
		}
	}
	if k.plan.enable != nil {
		_, err := api.SetModules(ctx, k.plan.enable)
		return err
	}
	return nil
}

// make creates the instance, and keeps its password where there is a folder for it.
func (k *applyWorker) make(ctx context.Context, api v1.InstanceServiceClient) error {
	path := ""
	if k.passwords != "" {
		path = filepath.Join(k.passwords, k.plan.name+".password")
	}
	file, err := openPending(path, "the password")
	if err != nil {
		return err
	}
	defer file.discard()
	res, err := api.CreateInstance(ctx, k.plan.create)
	if err != nil {
		return err
	}
	if err := k.follow(ctx, res.GetOperationId()); err != nil || path == "" {
		return err
	}
	given, err := api.ResetPassword(ctx, &v1.ResetPasswordRequest{Name: k.plan.name})
	if err != nil {
		return errs.Wrap("get the password of "+k.plan.name, err)
	}
	return file.write(given.GetPassword() + "\n")
}

// follow shows an operation's step at work until it ends.
func (k *applyWorker) follow(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	last, err := k.app.watchOperationOn(ctx, k.conn, id, k.board.show, func(now *v1.Operation) { k.board.set(k.row, k.plan.name, stepAtWork(now)) })
	if err != nil {
		return err
	}
	return endOfSteps(last)
}

// stepAtWork says where an operation stands in a few words.
func stepAtWork(o *v1.Operation) string {
	for n, s := range o.GetSteps() {
		if s.GetState() == v1.StepState_STEP_STATE_RUNNING {
			return strings.TrimSpace(fmt.Sprintf("%d of %d: %s %s", n+1, len(o.GetSteps()), s.GetName(), s.GetMessage()))
		}
	}
	return operationState(o.GetState())
}

// endOfApply says what is not as the file says.
func (a *app) endOfApply(ctx context.Context, results []instanceResult) error {
	if ctx.Err() != nil {
		a.note("operations that were started go on; infractl operation list --open shows them")
		return ctx.Err()
	}
	var failed []string
	for _, r := range results {
		if !r.Done {
			failed = append(failed, r.Name)
			a.note("%s: %s", r.Name, r.Error)
			if r.Hint != "" {
				a.note("    hint: %s", r.Hint)
			}
		}
	}
	if len(failed) == 0 {
		a.note("all %d instances are as the file says", len(results))
		return nil
	}
	text := fmt.Sprintf("%d of %d instances are not as the file says: %s; apply the file again", len(failed), len(results), strings.Join(failed, ", "))
	a.note("%s", text)
	return exitError{ExitSomeFailed, text}
}
