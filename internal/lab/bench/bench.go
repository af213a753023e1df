// Package bench measures the product in the lab: counts and ratios of one run, never a timed assertion.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/infractl/infractl/internal/errs"
)

// Number is one thing that was measured.
type Number struct {
	// Name says what it is.
	Name string `json:"name"`
	// Value is what was measured.
	Value float64 `json:"value"`
	// Unit is the value's unit.
	Unit string `json:"unit"`
	// Goal is what it should be, such as "<= 1" or "= 20".
	Goal string `json:"goal"`
	// Anchor is what it is compared with: a number of another product, or how it was measured.
	Anchor string `json:"anchor"`
	// OK says whether the goal is met.
	OK bool `json:"ok"`
}

// Report collects numbers and writes them.
type Report struct {
	Numbers []Number
	mu      sync.Mutex
	out     io.Writer
	started time.Time
}

// AtMost adds a number that should not be greater than a limit.
func (r *Report) AtMost(name string, value, limit float64, unit, anchor string) {
	r.add(Number{Name: name, Value: value, Unit: unit, Goal: fmt.Sprintf("<= %g", limit), Anchor: anchor, OK: value <= limit})
}

// AtLeast adds a number that should not be less than a limit.
func (r *Report) AtLeast(name string, value, limit float64, unit, anchor string) {
	r.add(Number{Name: name, Value: value, Unit: unit, Goal: fmt.Sprintf(">= %g", limit), Anchor: anchor, OK: value >= limit})
}

// All adds a count that should be whole.
func (r *Report) All(name string, value, of int, anchor string) {
	r.add(Number{Name: name, Value: float64(value), Unit: fmt.Sprintf("of %d", of), Goal: fmt.Sprintf("= %d", of), Anchor: anchor, OK: value == of && of > 0})
}

// Stated adds a number that has no goal.
func (r *Report) Stated(name string, value float64, unit, anchor string) {
	r.add(Number{Name: name, Value: value, Unit: unit, Goal: "-", Anchor: anchor, OK: true})
}

// Failed adds a measurement that could not be made; it counts as a goal that is not met.
func (r *Report) Failed(name string, err error) {
	r.add(Number{Name: name, Unit: "-", Goal: "measured", Anchor: err.Error(), OK: false})
}

func (r *Report) add(n Number) {
	r.mu.Lock()
	r.Numbers = append(r.Numbers, n)
	r.mu.Unlock()
	mark := "ok  "
	if !n.OK {
		mark = "MISS"
	}
	r.say("%s %s: %.3g %s (goal %s)", mark, n.Name, n.Value, n.Unit, n.Goal)
}

func (r *Report) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%7.1fs  %s\n", time.Since(r.started).Seconds(), fmt.Sprintf(format, args...))
}

// Write writes the table to the report's stream and the JSON to a file.
func (r *Report) Write(path string) error {
	w := tabwriter.NewWriter(r.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nNUMBER\tVALUE\tUNIT\tGOAL\tOK\tANCHOR")
	for _, n := range r.Numbers {
		ok := "yes"
		if !n.OK {
			ok = "NO"
		}
		fmt.Fprintf(w, "%s\t%.3g\t%s\t%s\t%s\t%s\n", n.Name, n.Value, n.Unit, n.Goal, ok, n.Anchor)
	}
	if err := w.Flush(); err != nil {
		return errs.Wrap("write the table", err)
	}
	data, err := json.MarshalIndent(r.Numbers, "", "  ")
	if err != nil {
		return errs.Wrap("write the numbers", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errs.Wrap("write the numbers", err)
	}
	return errs.Wrap("write the numbers", os.WriteFile(path, append(data, '\n'), 0o644))
}

// Options say what to measure and where.
type Options struct {
	Root, Bin, Dir string
	// File gets the JSON.
	File string
	// Only limits the run to some parts; empty means all.
	Only []string
	// Trials is how often each kind of lock-out is tried.
	Trials int
	// Edits is how many random edits are tried in namespaces, LabEdits how many in the lab.
	Edits, LabEdits int
	Out             io.Writer
}

// part is one part of the benchmark.
type part struct {
	name string
	run  func(context.Context, Options, *Report) error
}

// parts are in the order of the run; those of one row run side by side. What is timed runs alone. Lock-outs mostly wait for
// their windows, so they fit beside each other and the random edits beside them.
func parts() [][]part {
	return [][]part{
		{{name: "footprint", run: footprint}},
		{{name: "fleet", run: fleet}},
		{{name: "metrics", run: watching}},
		{{name: "restore", run: restore}},
		{{name: "stacks", run: stackNumbers}},
		{{name: "names", run: dnsNumbers}},
		{{name: "instances", run: instanceNumbers}},
		{{name: "lockout", run: lockout}, {name: "relay", run: cutOff}, {name: "edits", run: edits}},
	}
}

// Run measures everything that was asked for and writes the report. Its error says that something could not be measured or
// that a goal is not met.
func Run(ctx context.Context, o Options) error {
	r := &Report{out: o.Out, started: time.Now()}
	for _, row := range parts() {
		var wg sync.WaitGroup
		for _, p := range row {
			if len(o.Only) > 0 && !slices.Contains(o.Only, p.name) {
				continue
			}
			wg.Go(func() {
				r.say("--- %s", p.name)
				if err := p.run(ctx, o, r); err != nil {
					r.Failed(p.name, err)
				}
			})
		}
		wg.Wait()
		if ctx.Err() != nil {
			break
		}
	}
	if err := r.Write(o.File); err != nil {
		return err
	}
	var missed []string
	for _, n := range r.Numbers {
		if !n.OK {
			missed = append(missed, n.Name)
		}
	}
	if len(missed) > 0 {
		return errs.New(errs.Precondition, "goals not met: %s", strings.Join(missed, "; "))
	}
	return nil
}

// Command returns the bench subcommand of infractl-lab.
func Command() *cobra.Command {
	var o Options
	c := &cobra.Command{
		Use: "bench", Short: "Measure the product in the lab", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return Run(ctx, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Root, "root", ".", "the project's folder")
	f.StringVar(&o.Bin, "bin", "bin", "folder of the built programs")
	f.StringVar(&o.Dir, "dir", ".lab-bench", "folder of the labs' state")
	f.StringVar(&o.File, "out", ".lab/bench.json", "file for the numbers")
	f.StringSliceVar(&o.Only, "only", nil, "only these parts: footprint, fleet, metrics, restore, stacks, names, instances, lockout, relay, edits")
	f.IntVar(&o.Trials, "trials", 20, "trials of each kind of lock-out")
	f.IntVar(&o.Edits, "edits", 500, "random edits in namespaces")
	f.IntVar(&o.LabEdits, "lab-edits", 25, "random edits in the lab")
	return c
}
