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
	code := cmd.Run(ctx, os.Args[1:], cmd.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
