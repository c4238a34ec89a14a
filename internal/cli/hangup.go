package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// onHangup yields each SIGHUP until ctx ends.
func onHangup(ctx context.Context) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	context.AfterFunc(ctx, func() { signal.Stop(c) })
	return c
}
