package crashpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/staunch-project/staunch/internal/crashpoint"
)

// child is the environment variable by which the tests start themselves.
const child = "STAUNCH_CRASHPOINT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		for range 3 {
			crashpoint.Here("one")
			crashpoint.At("two", "apply")
		}
		os.Exit(17)
	}
	os.Exit(m.Run())
}

// run starts a process that passes both points three times and ends with 17.
func run(t *testing.T, at, trace string) syscall.WaitStatus {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1", "STAUNCH_CRASH_AT="+at, "STAUNCH_CRASH_TRACE="+trace)
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the child process: %v", err)
	}
	return exit.Sys().(syscall.WaitStatus)
}

// TestCrash runs in both builds: with the tag the process dies at the pass that
// was asked for, without it nothing that can be asked for has any effect.
func TestCrash(t *testing.T) {
	for _, at := range []string{"", "one:1", "one:3", "two/apply:2", "one:4", "three:1"} {
		trace := filepath.Join(t.TempDir(), "trace")
		st := run(t, at, trace)
		lives := !crashpoint.Enabled || at == "" || at == "one:4" || at == "three:1"
		switch {
		case lives && (!st.Exited() || st.ExitStatus() != 17):
			t.Errorf("%q: the process ended with %v, want its own exit code", at, st)
		case !lives && (!st.Signaled() || st.Signal() != syscall.SIGKILL):
			t.Errorf("%q: the process ended with %v, want SIGKILL", at, st)
		}
		b, err := os.ReadFile(trace)
		if !crashpoint.Enabled {
			if err == nil {
				t.Errorf("%q: a build without the tag wrote a trace", at)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		passes := strings.Fields(string(b))
		want := map[string]int{"one:1": 1, "one:3": 5, "two/apply:2": 4}[at]
		if lives {
			want = 6
		}
		if len(passes) != want {
			t.Errorf("%q: passed %v, want %d passes", at, passes, want)
		}
	}
}
