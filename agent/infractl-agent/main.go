// Command infractl-agent is the agent of one host: it keeps a session with the server and applies what the site wants.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/infractl/infractl/agent/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := app.Execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
