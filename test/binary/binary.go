// Package binary builds staunch for tests that run it as a process.
package binary

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Made is a binary that is built when a test first asks for it, since linking takes
// seconds, and then there for all tests of the process.
type Made struct {
	// Flags are more flags of `go build`.
	Flags []string

	mu        sync.Mutex
	dir, path string
}

// Path returns the binary's path.
func (m *Made) Path(tb testing.TB) string {
	tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path != "" {
		return m.path
	}
	var err error
	if m.dir == "" {
		m.dir, err = os.MkdirTemp("", "staunch-binary-")
	}
	if err == nil {
		m.path, err = Build(m.dir, m.Flags...)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return m.path
}

// Main wraps a package's tests so that the binary is removed when they have run, as
// goleak.VerifyTestMain(made.Main(m)).
func (m *Made) Main(tests interface{ Run() int }) *Tests { return &Tests{made: m, tests: tests} }

// Tests are a package's tests; see Made.Main.
type Tests struct {
	made  *Made
	tests interface{ Run() int }
}

// Run runs the tests, removes the binary and returns the exit code, which is 1 at
// least if it could not be removed.
func (t *Tests) Run() int {
	code := t.tests.Run()
	t.made.mu.Lock()
	defer t.made.mu.Unlock()
	if t.made.dir == "" {
		return code
	}
	if err := os.RemoveAll(t.made.dir); err != nil {
		fmt.Fprintf(os.Stderr, "removing the binary: %v\n", err)
		code = max(code, 1)
	}
	return code
}

// Build builds cmd/staunch into a folder as `make build` does, with its table of
// symbols, so that what is compiled already is used again, and returns the binary's
// path. flags are more flags of `go build`.
func Build(dir string, flags ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out := filepath.Join(dir, "staunch")
	args := append([]string{"build", "-buildvcs=false", "-trimpath", "-ldflags=-w", "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/staunch-project/staunch/cmd/staunch")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building the binary: %w", err), errors.New(string(b)))
	}
	return out, nil
}
