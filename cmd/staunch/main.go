// Command staunch contains compromised identities.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/staunch-project/staunch/internal/cli"
)

func main() { os.Exit(run()) }

// run ends the command's context at the first signal; a second one ends the
// process as the system does.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, os.Args[1:], cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv})
}
