package cmd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"github.com/infractl/infractl/cli/output"
	"github.com/infractl/infractl/internal/errs"
	v1 "github.com/infractl/infractl/proto/infractl/v1"
)

// topEvery is how often a live table is drawn anew.
const topEvery = 2 * time.Second

type topFlags struct {
	once bool
	sort string
}

func (a *app) topCmd() *cobra.Command {
	var f topFlags
	c := &cobra.Command{
		Use: "top [NODE]", Short: "Show what hosts and containers use now",
		Long: `Show what hosts and containers use now: processor, memory, disk, load, network. On a terminal the table is drawn anew every
2 s, until Ctrl-C. Without a NODE all nodes are shown, a host before its containers.

CPU is in cores. A container's memory is its working set, as Kubernetes and cAdvisor count it; its limit is the host's memory
where it has none of its own.`,
		Example: "  infractl top\n  infractl top srv-prod --sort mem\n  infractl top --once -o json", Args: arity(0, 1),
		ValidArgsFunction: firstOnly(a.completer(nodeNames)),
		RunE: func(c *cobra.Command, args []string) error {
			if f.sort != "cpu" && f.sort != "mem" && f.sort != "name" {
				return errs.New(errs.Invalid, "unknown order %.20q", f.sort).WithHint("--sort cpu, mem or name")
			}
			return a.withServer(c.Context(), func(ctx context.Context, conn *grpc.ClientConn, w *output.Writer) error {
				return a.runTop(ctx, v1.NewNodeServiceClient(conn), w, args, f)
			})
		},
	}
	c.Flags().BoolVar(&f.once, "once", false, "show one table and end, also on a terminal")
	c.Flags().StringVar(&f.sort, "sort", "name", "order of nodes, and of the containers of each: cpu, mem or name")
	must(c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions([]string{"cpu", "mem", "name"}, cobra.ShellCompDirectiveNoFileComp)))
	exits(c, true, meaning{ExitOK, "all nodes have answered"}, meaning{ExitSomeFailed, "a node did not answer (not on a live table)"})
	return c
}

func (a *app) runTop(ctx context.Context, api v1.NodeServiceClient, w *output.Writer, nodes []string, f topFlags) error {
	screen, live := a.proc.Out.(*os.File)
	live = live && w.Human() && !f.once && isTerminal(screen) && os.Getenv("TERM") != "dumb"
	view := &topView{sort: f.sort, history: map[string][]float64{}}
	if live {
		return a.liveTop(ctx, api, screen, nodes, view)
	}
	usage, err := api.GetUsage(ctx, &v1.GetUsageRequest{Nodes: nodes})
	if err != nil {
		return err
	}
	view.take(usage)
	if err := w.Message(usage, func() error { return w.Rows(topHeader(), view.rows(false)) }); err != nil {
		return err
	}
	if silent := view.silent(); len(silent) > 0 {
		return exitError{ExitSomeFailed, "no answer from: " + strings.Join(silent, ", ")}
	}
	return nil
}

// liveTop draws tables over each other on the terminal's second screen until ctx ends. A lost answer is shown and asked for
// again.
func (a *app) liveTop(ctx context.Context, api v1.NodeServiceClient, screen *os.File, nodes []string, view *topView) error {
	usage, err := api.GetUsage(ctx, &v1.GetUsageRequest{Nodes: nodes})
	if err != nil {
		return err // before the screen changes: a wrong name is not for a live table
	}
	fmt.Fprint(screen, "\x1b[?1049h\x1b[?25l")
	defer fmt.Fprint(screen, "\x1b[?25h\x1b[?1049l")
	ticker := time.NewTicker(topEvery)
	defer ticker.Stop()
	for {
		if err == nil {
			view.take(usage)
		}
		columns, lines, serr := term.GetSize(int(screen.Fd()))
		if serr != nil || columns < 20 || lines < 4 {
			columns, lines = 80, 24
		}
		if werr := view.draw(screen, a.clock.Now(), err, columns, lines); werr != nil {
			return errs.Wrap("write output", werr)
		}
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how a live table ends
		case <-ticker.C:
		}
		usage, err = api.GetUsage(ctx, &v1.GetUsageRequest{Nodes: nodes})
		if ctx.Err() != nil {
			return nil
		}
	}
}

// topView is the table and what was seen before.
type topView struct {
	sort    string
	last    []*v1.NodeUsage
	history map[string][]float64 // share of the processors, by node and container
}

// maxHistory is how many looks a spark line shows.
const maxHistory = 12

func (v *topView) take(usage *v1.GetUsageResponse) {
	v.last = slices.Clone(usage.GetNodes())
	slices.SortStableFunc(v.last, func(x, y *v1.NodeUsage) int { return v.order(x.GetUsage().GetHost(), y.GetUsage().GetHost()) })
	next := map[string][]float64{}
	keep := func(key string, u *v1.Usage) {
		h := append(v.history[key], share(u.GetCpu(), u.GetCpus()))
		next[key] = h[max(0, len(h)-maxHistory):]
	}
	for _, n := range v.last {
		if n.GetUsage() == nil {
			continue
		}
		keep(n.GetNode(), n.GetUsage().GetHost())
		slices.SortStableFunc(n.GetUsage().Containers, v.order)
		for _, c := range n.GetUsage().GetContainers() {
			keep(n.GetNode()+"/"+c.GetName(), c)
		}
	}
	v.history = next
}

// order puts the largest first; with names it keeps the server's order.
func (v *topView) order(x, y *v1.Usage) int {
	switch v.sort {
	case "cpu":
		return -compareFloat(x.GetCpu(), y.GetCpu())
	case "mem":
		return -compareFloat(float64(x.GetMemoryBytes()), float64(y.GetMemoryBytes()))
	}
	return 0
}

func compareFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (v *topView) silent() (names []string) {
	for _, n := range v.last {
		if n.GetUsage() == nil {
			names = append(names, n.GetNode())
		}
	}
	return names
}

func topHeader() []string {
	return []string{"NODE", "CONTAINER", "CPU", "OF", "MEMORY", "OF", "DISK", "LOAD", "RECEIVED", "SENT", "PROCESSES"}
}

// rows are the table's; pretty adds bars and spark lines.
func (v *topView) rows(pretty bool) [][]string {
	var rows [][]string
	for _, n := range v.last {
		if n.GetUsage() == nil {
			row := make([]string, len(topHeader()))
			row[0], row[1] = n.GetNode(), n.GetError()
			rows = append(rows, row)
			continue
		}
		rows = append(rows, v.row(n.GetNode(), "", n.GetUsage().GetHost(), pretty))
		for _, c := range n.GetUsage().GetContainers() {
			rows = append(rows, v.row(n.GetNode(), c.GetName(), c, pretty))
		}
	}
	return rows
}

func (v *topView) row(node, container string, u *v1.Usage, pretty bool) []string {
	cpu, memory := fmt.Sprintf("%.2f", u.GetCpu()), bytesText(float64(u.GetMemoryBytes()))
	disk, load, key := "-", "-", node
	if container == "" {
		disk = fmt.Sprintf("%.0f %%", 100*share(float64(u.GetDiskBytes()), float64(u.GetDiskLimitBytes())))
		load = fmt.Sprintf("%.2f", u.GetLoad())
	} else {
		key += "/" + container
	}
	name := dash(container)
	if pretty {
		if container != "" {
			node = ""
		}
		cpu = bar(share(u.GetCpu(), u.GetCpus())) + " " + cpu + " " + spark(v.history[key])
		memory = bar(share(float64(u.GetMemoryBytes()), float64(u.GetMemoryLimitBytes()))) + " " + memory
	}
	return []string{node, name, cpu, fmt.Sprintf("%.3g", u.GetCpus()), memory, bytesText(float64(u.GetMemoryLimitBytes())), disk, load,
		bytesText(u.GetReceivedBytesPerSecond()) + "/s", bytesText(u.GetSentBytesPerSecond()) + "/s", fmt.Sprint(u.GetProcesses())}
}
