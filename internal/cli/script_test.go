package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
)

// TestMain lets the scripts run staunch itself: the test's own program, under
// another name.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"staunch": func() {
			os.Exit(Main(context.Background(), os.Args[1:], Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}))
		},
	})
}

// TestScripts tells stories, one a file. $NOW is when it began; a transparency log
// named log.example.org is at $LOG_URL, with the key $LOG_KEY or $LOG_VKEY. Beside
// testscript's own commands there are:
//
//	code N COMMAND…         run the command and want exit code N
//	engine FILE             start a node on the configuration, in this process,
//	                        and set STAUNCH_URL and STAUNCH_TOKEN (an admin's)
//	capture NAME PATTERN    set NAME to what PATTERN's group matches in stdout
//	overwrite FILE OLD NEW  replace OLD, which must be there, in FILE
//	eventually PATTERN COMMAND…
//	                        run the command until its stdout has a match
func TestScripts(t *testing.T) {
	t.Parallel()
	log := fakelog.Start(t, "log.example.org")
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/.config")
			e.Setenv("LOG_URL", log.URL)
			e.Setenv("LOG_KEY", log.Key)
			e.Setenv("LOG_VKEY", log.VerifierKey)
			e.Setenv("NOW", time.Now().UTC().Format(time.RFC3339))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": scriptCode, "engine": scriptEngine, "capture": scriptCapture, "overwrite": scriptOverwrite,
			"eventually": scriptEventually,
		},
	})
}

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		got = ee.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func scriptEngine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: engine FILE")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cfg, err := config.Load(ts.MkAbs(args[0]))
	ts.Check(err)
	secret, err := app.Init(ctx, cfg, "root")
	ts.Check(err)
	setup, err := app.Load(cfg, true)
	ts.Check(err)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	ts.Check(err)
	a, err := app.New(ctx, setup, app.Options{Listener: l, Version: "test", Log: slog.New(slog.NewTextHandler(logTo{ts}, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	ts.Check(err)
	ts.Defer(func() {
		cancel()
		if err := a.Stop(); err != nil {
			ts.Logf("stopping the node: %v", err)
		}
	})
	ts.Check(a.Start(ctx))
	ts.Setenv("STAUNCH_URL", "http://"+l.Addr().String())
	ts.Setenv("STAUNCH_TOKEN", secret.Reveal())
}

// logTo has a node's warnings in the story's log.
type logTo struct{ ts *testscript.TestScript }

func (l logTo) Write(b []byte) (int, error) {
	l.ts.Logf("node: %s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("no match of %s in stdout", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN COMMAND…")
	}
	re, err := regexp.Compile(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if re.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match of %s in stdout", args[0])
		}
	}
}

func scriptOverwrite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: overwrite FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not have %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o600))
}
