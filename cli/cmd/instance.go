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

func (a *app) instanceCmd() *cobra.Command {
	c := group("instance", "Create, run, change and remove the customers' Dolibarr instances",
		a.instanceCreateCmd(), a.instanceListCmd(), a.instanceShowCmd(), a.instanceOpenCmd(), a.instanceSuspendCmd(), a.instanceResumeCmd(),
		a.instanceRestartCmd(), a.instanceLogsCmd(), a.instanceExecCmd(), a.instancePasswordCmd(), a.instanceModulesCmd(), a.instanceCronCmd(),
		a.instanceLimitsCmd(), a.instanceDomainsCmd(), a.instanceLanguageCmd(), a.instanceRenameCmd(), a.instanceDeleteCmd(),
		a.instancePurgeCmd(), a.instanceVerifyCmd(), a.instanceApplyCmd(), a.instanceImportCmd(), a.instanceAuditCmd())
	c.Aliases = []string{"in"}
	c.Long = `An instance is one customer's Dolibarr: an application and a database of their own, on a network of their own, with a name, a
certificate and limits. What changes it is an operation of named steps, whose progress is shown; an interrupt ends the command, not the
operation. infractl operation watch follows it again.

Removing has two steps: delete takes it out of service and keeps its data for some weeks, purge destroys the data.`
	return c
}

func (a *app) instanceListCmd() *cobra.Command {
	var req v1.ListInstancesRequest
	c := &cobra.Command{
		Use: "list", Short: "List the instances and how they are", Args: arity(0, 0),
		Example: "  infractl instance list\n  infractl instance list --node srv-prod -o json\n  infractl instance list --all",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				list, err := v1.NewInstanceServiceClient(conn).ListInstances(ctx, &req)
				if err != nil {
					return err
				}
				return w.Message(list, func() error { return a.showInstances(w, list.GetInstances()) })
			})
		},
	}
	c.Flags().StringVar(&req.Node, "node", "", "only those of one host")
	c.Flags().BoolVar(&req.All, "all", false, "purged ones too")
	a.completeNodes(c, "node")
	return c
}

func (a *app) showInstances(w *output.Writer, list []*v1.Instance) error {
	if len(list) == 0 {
		a.note("there is no instance; next: infractl instance create NAME")
		return nil
	}
	var rows [][]string
	for _, i := range list {
		rows = append(rows, []string{i.GetName(), instanceState(i.GetState()), i.GetVersion(), i.GetNode(), mainDomain(i), dash(a.instanceNote(i))})
	}
	return w.Rows([]string{"INSTANCE", "STATE", "VERSION", "NODE", "DOMAIN", "NOTE"}, rows)
}

// mainDomain is an instance's main name, and how many more it has.
func mainDomain(i *v1.Instance) string {
	switch n := len(i.GetDomains()); n {
	case 0:
		return "-"
	case 1:
		return i.GetDomains()[0]
	default:
		return fmt.Sprintf("%s +%d", i.GetDomains()[0], n-1)
	}
}

// instanceNote is what a person should know of an instance first.
func (a *app) instanceNote(i *v1.Instance) string {
	switch {
	case i.GetProblem() != "":
		return i.GetProblem()
	case i.GetState() == v1.InstanceState_INSTANCE_STATE_ARCHIVED && i.GetPurgeAfter() != nil:
		return "purge " + a.due(i)
	case i.GetState() == v1.InstanceState_INSTANCE_STATE_SUSPENDED && i.GetSuspendedAt() != nil:
		return "since " + a.ago(i.GetSuspendedAt())
	case i.GetState() == v1.InstanceState_INSTANCE_STATE_CREATING, i.GetState() == v1.InstanceState_INSTANCE_STATE_CHANGING:
		return i.GetOperationId()
	case nearFull(i.GetDisk()):
		return diskText(i.GetDisk())
	case i.GetPreprod():
		return "preprod"
	}
	return ""
}

// nearFull says that an instance's disk space is used up, or soon.
func nearFull(d *v1.InstanceDisk) bool {
	return d.GetFull() || d.GetLimitBytes() > 0 && d.GetBytes() >= d.GetLimitBytes()/10*9
}

// diskText says what an instance holds, of what it may.
func diskText(d *v1.InstanceDisk) string {
	switch {
	case d == nil:
		return "disk not measured yet"
	case d.GetLimitBytes() == 0:
		return "disk " + sizeText(d.GetBytes())
	}
	text := fmt.Sprintf("disk %s of %s (%d %%)", sizeText(d.GetBytes()), sizeText(d.GetLimitBytes()), d.GetBytes()*100/d.GetLimitBytes())
	if d.GetFull() {
		text += ": uploads are refused"
	}
	return text
}

// due says when an archived instance is purged.
func (a *app) due(i *v1.Instance) string {
	if !i.GetPurgeAfter().AsTime().After(a.clock.Now()) {
		return "is due"
	}
	return a.until(i.GetPurgeAfter())
}

func (a *app) instanceShowCmd() *cobra.Command {
	var certificate bool
	c := &cobra.Command{
		Use: "show NAME", Short: "Show all that is known of an instance",
		Long: `Show all that is known of an instance: state, host, names, limits and use. --certificate prints the certificate of destruction of one
that was purged, and nothing else.`,
		Example: "  infractl instance show acme\n  infractl instance show acme -o yaml\n  infractl instance show acme --certificate > acme.txt",
		Args:    arity(1, 1), ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				res, err := v1.NewInstanceServiceClient(conn).GetInstance(ctx, &v1.GetInstanceRequest{Name: args[0]})
				if err != nil {
					return err
				}
				if certificate && res.GetDestructionCertificate() == "" {
					return errs.New(errs.Precondition, "instance %s was not purged: there is no certificate of destruction", args[0]).
						WithHint("infractl instance list --all shows those that were")
				}
				return w.Message(res, func() error {
					if certificate {
						return w.Raw([]byte(res.GetDestructionCertificate()))
					}
					return a.showInstance(w, res.GetInstance())
				})
			})
		},
	}
	c.Flags().BoolVar(&certificate, "certificate", false, "print its certificate of destruction instead")
	return c
}

func (a *app) showInstance(w *output.Writer, i *v1.Instance) error {
	kind := "customer's"
	if i.GetPreprod() {
		kind = "preprod"
	}
	if i.GetAdopted() {
		kind += ", adopted: infractl did not make its containers"
	}
	cron := "off"
	if i.GetCron() {
		cron = "on"
	}
	pairs := [][2]string{
		{"instance", i.GetName()}, {"state", instanceState(i.GetState())}, {"problem", dash(i.GetProblem())},
		{"url", dash(i.GetUrl())}, {"domains", dash(strings.Join(i.GetDomains(), " "))}, {"certificate", dash(i.GetCertificate())},
		{"version", dash(i.GetVersion())}, {"node", i.GetNode()}, {"kind", kind}, {"company", dash(i.GetCompany())},
		{"language", dash(i.GetLanguage())}, {"admin login", dash(i.GetAdminLogin())}, {"modules", dash(strings.Join(i.GetModules(), " "))},
		{"cron", cron}, {"limits", limitsText(i.GetLimits())}, {"in use", usageText(i.GetUsage(), i.GetDisk())}, {"network", dash(i.GetSubnet())},
		{"id", i.GetId()}, {"created", a.ago(i.GetCreated()) + ", by " + dash(i.GetOperator())}, {"operation", dash(i.GetOperationId())},
	}
	if i.GetSuspendedAt() != nil {
		pairs = append(pairs, [2]string{"suspended", a.ago(i.GetSuspendedAt())})
	}
	if i.GetPurgeAfter() != nil {
		pairs = append(pairs, [2]string{"purge", a.due(i) + ", " + i.GetPurgeAfter().AsTime().Format("2006-01-02")})
	}
	return w.Pairs(pairs)
}

func limitsText(l *v1.InstanceLimits) string {
	if l == nil {
		return "-"
	}
	var parts []string
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(l.GetMemoryBytes() > 0, "memory %s", sizeText(l.GetMemoryBytes()))
	add(l.GetMilliCpus() > 0, "cpus %s", cpus(l.GetMilliCpus()))
	add(l.GetPids() > 0, "pids %d", l.GetPids())
	add(l.GetDiskBytes() > 0, "disk %s", sizeText(l.GetDiskBytes()))
	return dash(strings.Join(parts, ", "))
}

func usageText(u *v1.Usage, d *v1.InstanceDisk) string {
	if u == nil {
		return "not measured yet"
	}
	text := fmt.Sprintf("memory %s, cpus %.2f", sizeText(u.GetMemoryBytes()), u.GetCpu())
	if u.GetProcesses() > 0 {
		text += fmt.Sprintf(", pids %d", u.GetProcesses())
	}
	return text + ", " + diskText(d)
}

func (a *app) instanceOpenCmd() *cobra.Command {
	return &cobra.Command{
		Use: "open NAME", Short: "Print where people open an instance",
		Long:    "Print the address at which people open an instance, for a browser: it starts no program by itself.",
		Example: "  infractl instance open acme\n  xdg-open \"$(infractl instance open acme)\"",
		Args:    arity(1, 1), ValidArgsFunction: firstOnly(a.completer(instanceNames)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				res, err := v1.NewInstanceServiceClient(conn).GetInstance(ctx, &v1.GetInstanceRequest{Name: args[0]})
				if err != nil {
					return err
				}
				i := res.GetInstance()
				if i.GetUrl() == "" {
					return errs.New(errs.Precondition, "instance %s is %s and has no address", i.GetName(), instanceState(i.GetState()))
				}
				if i.GetState() != v1.InstanceState_INSTANCE_STATE_ACTIVE {
					a.note("warning: it is %s", instanceState(i.GetState()))
				}
				return w.Object(map[string]string{"url": i.GetUrl()}, func() error { w.Printf("%s\n", output.Line(i.GetUrl())); return nil })
			})
		},
	}
}

func instanceNames(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	list, err := v1.NewInstanceServiceClient(conn).ListInstances(ctx, &v1.ListInstancesRequest{})
	var names []string
	for _, i := range list.GetInstances() {
		names = append(names, fmt.Sprintf("%s\t%s, %s", output.Line(i.GetName()), instanceState(i.GetState()), output.Line(i.GetVersion())))
	}
	return names, err
}
