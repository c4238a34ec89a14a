package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(&tests{pgtest.Main(m)}) }

// tests removes what all tests share once they have run.
type tests struct{ m *pgtest.Tests }

func (t *tests) Run() int {
	code := t.m.Run()
	if made.dir != "" {
		if err := os.RemoveAll(made.dir); err != nil {
			fmt.Fprintf(os.Stderr, "removing the binary: %v\n", err)
			code = max(code, 1)
		}
	}
	return code
}

// made is the binary with crash points, which linking takes seconds for: one for
// the whole test process by intention.
var made struct {
	sync.Mutex
	dir, bin string
}

// withCrashPoints returns the binary that can crash itself.
func withCrashPoints(tb testing.TB) string {
	tb.Helper()
	made.Lock()
	defer made.Unlock()
	if made.bin != "" {
		return made.bin
	}
	var err error
	if made.dir, err = os.MkdirTemp("", "staunch-crash-"); err == nil {
		made.bin, err = build(made.dir, "-tags", "crashpoints")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return made.bin
}

// build makes the binary as `make build` does, so that what is compiled already
// is used again.
func build(dir string, flags ...string) (string, error) {
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

// TestReleaseHasNoCrashPoints proves that what ships cannot be made to crash:
// neither the functions nor the names of the variables are in it. The build with
// the tag shows that the test would see them.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	t.Parallel()
	ships, err := build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for bin, want := range map[string]bool{ships: false, withCrashPoints(t): true} {
		symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", bin).Output()
		if err != nil {
			t.Fatalf("reading the symbols: %v", err)
		}
		if got := bytes.Contains(symbols, []byte("internal/crashpoint.")); got != want {
			t.Errorf("functions of crashpoint in the binary: %t, want %t", got, want)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, []byte("STAUNCH_CRASH")); got != want {
			t.Errorf("the variable's name in the binary: %t, want %t", got, want)
		}
	}
}
