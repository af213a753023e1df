package demo

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Explain writes what a person would look at first when something went wrong: status, rollout, and the last lines of the
// journals.
func (s *Site) Explain(ctx context.Context, out io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for _, args := range [][]string{{"status"}, {"rollout", "show"}, {"audit", "--limit", "20"}} {
		if r, err := s.Infractl(ctx, args...); err == nil {
			fmt.Fprintf(out, "--- infractl %v\n%s%s", args, r.Stdout, r.Stderr)
		}
	}
	if s.Lab == nil {
		return
	}
	for _, vm := range s.Lab.Config().VMs {
		argv := []string{"journalctl", "--no-pager", "-o", "short-precise", "-n", "25", "-u", "infractl-*", "-u", "ssh"}
		if r, err := s.Lab.VM(vm.Name).Exec(ctx, argv...); err == nil {
			fmt.Fprintf(out, "--- %s\n%s", vm.Name, r.Stdout)
		}
	}
}
