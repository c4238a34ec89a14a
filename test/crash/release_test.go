package crash_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// build makes the binary as `make build` does, so that what is compiled already
// is used again.
func build(tb testing.TB, name string, flags ...string) string {
	tb.Helper()
	out := filepath.Join(tb.TempDir(), name)
	args := append([]string{"build", "-buildvcs=false", "-trimpath", "-o", out}, flags...)
	cmd := exec.CommandContext(tb.Context(), "go", append(args, "github.com/staunch-project/staunch/cmd/staunch")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building the binary: %v\n%s", err, b)
	}
	return out
}

// TestReleaseHasNoCrashPoints proves that what ships cannot be made to crash:
// neither the functions nor the names of the variables are in it. The build with
// the tag shows that the test would see them.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flags []string
		want  bool
	}{{nil, false}, {[]string{"-tags", "crashpoints"}, true}} {
		bin := build(t, "staunch", c.flags...)
		symbols, err := exec.CommandContext(t.Context(), "go", "tool", "nm", bin).Output()
		if err != nil {
			t.Fatalf("reading the symbols: %v", err)
		}
		if got := bytes.Contains(symbols, []byte("internal/crashpoint.")); got != c.want {
			t.Errorf("built with %v: functions of crashpoint in the binary: %t", c.flags, got)
		}
		b, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(b, []byte("STAUNCH_CRASH")); got != c.want {
			t.Errorf("built with %v: the variable's name in the binary: %t", c.flags, got)
		}
	}
}
