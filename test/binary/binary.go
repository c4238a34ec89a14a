// Package binary builds staunch for tests that run it as a process.
package binary

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Build builds cmd/staunch into a folder as `make build` does, so that what is
// compiled already is used again, and returns the binary's path. flags are more
// flags of `go build`.
func Build(dir string, flags ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out := filepath.Join(dir, "staunch")
	args := append([]string{"build", "-buildvcs=false", "-trimpath", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/staunch-project/staunch/cmd/staunch")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building the binary: %w", err), errors.New(string(b)))
	}
	return out, nil
}
