// Command infractl is the command line that people use.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/infractl/infractl/cli/cmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the command in order, a second one ends the process.
	context.AfterFunc(ctx, stop)
	code := cmd.Run(ctx, os.Args[1:], cmd.Process{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	os.Exit(code)
}
