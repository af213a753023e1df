// Command infractl-lab builds, enters and removes a virtual site on this machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/infractl/infractl/internal/errs"
	"github.com/infractl/infractl/internal/lab"
	"github.com/infractl/infractl/internal/lab/bench"
	"github.com/infractl/infractl/internal/lab/demo"
	"github.com/infractl/infractl/internal/lab/instances"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := lab.NewCommand()
	root.AddCommand(demo.Command(), demo.StacksCommand(), instances.Command(), bench.Command())
	err := root.ExecuteContext(ctx)
	var code lab.ExitCode
	switch {
	case err == nil:
		return
	case errors.As(err, &code):
		os.Exit(int(code))
	}
	fmt.Fprintln(os.Stderr, "infractl-lab:", err)
	if hint := errs.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "  try:", hint)
	}
	os.Exit(1)
}
