// Command infractl-compose changes a container stack with Docker's own Compose library. The agent runs it and gives it one
// request on standard input; it lives only as long as the change takes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/infractl/infractl/agent/compose"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := compose.Main(ctx, os.Stdin, os.Stdout)
	stop()
	os.Exit(code)
}
