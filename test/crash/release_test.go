package crash_test

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/binary"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// made is the binary with crash points.
var made = binary.Made{Flags: []string{"-tags", "crashpoints"}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(made.Main(pgtest.Main(m))) }

// TestReleaseHasNoCrashPoints proves that what ships cannot be made to crash:
// neither the functions nor the names of the variables are in it. The build with
// the tag shows that the test would see them.
func TestReleaseHasNoCrashPoints(t *testing.T) {
	t.Parallel()
	ships, err := binary.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for bin, want := range map[string]bool{ships: false, made.Path(t): true} {
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
