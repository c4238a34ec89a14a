package crash_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/binary"
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
		made.bin, err = binary.Build(made.dir, "-tags", "crashpoints")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return made.bin
}

// TestReleaseHasNoCrashPoints proves that what ships cannot be made to crash:
// neither the functions nor the names of the variables are in it. The build with
// the tag shows that the test would see them.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	t.Parallel()
	ships, err := binary.Build(t.TempDir())
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
