package proc_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/systems/internal/proc"
)

func TestMain(m *testing.M) {
	if os.Getenv("STAUNCH_PROC_ABANDON") != "" {
		abandon()
	}
	goleak.VerifyTestMain(m)
}

// abandon is the test process that goes away without cleaning up.
func abandon() {
	dir := os.Getenv("STAUNCH_PROC_ABANDON")
	w, err := proc.Watch(dir)
	if err != nil {
		panic(err)
	}
	p, err := proc.Start(sleeper(dir))
	if err != nil {
		panic(err)
	}
	if err := w.Follow(p.PID()); err != nil {
		panic(err)
	}
	_, _ = os.Stdout.WriteString(strconv.Itoa(p.PID()) + "\n")
	time.Sleep(time.Hour) // until it is killed
}

func sleeper(dir string) proc.Spec {
	return proc.Spec{
		Path: "/bin/sh", Args: []string{"-c", "echo up; exec sleep 600"},
		Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, Output: filepath.Join(dir, "out"),
	}
}

func TestWatcherEndsWhatAKilledTestLeft(t *testing.T) {
	dir, err := proc.TempDir("proctest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), "STAUNCH_PROC_ABANDON="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("process %d should run: %v", pid, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	deadline := time.Now().Add(20 * time.Second)
	for {
		_, statErr := os.Stat(dir)
		if errors.Is(statErr, os.ErrNotExist) && !runs(pid) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("twenty seconds after the test process was killed: process %d runs = %v, directory: %v",
				pid, runs(pid), statErr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// runs is false for a zombie, which nobody may be there to collect.
func runs(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestStopAndExited(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := proc.Start(sleeper(dir))
	if err != nil {
		t.Fatal(err)
	}
	if done, how := p.Exited(); done {
		t.Fatalf("ended early: %s", how)
	}
	if err := p.Stop(syscall.SIGTERM, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if done, how := p.Exited(); !done || how != "ended by terminated" {
		t.Fatalf("Exited() = %v, %q", done, how)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("a signal to an ended process: %v", err)
	}
}

func TestStopKillsWhatIgnoresTheSignal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := sleeper(dir)
	spec.Args = []string{"-c", "trap '' TERM; echo up; while :; do sleep 600; done"}
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Ready(10*time.Second, func() error {
		if !strings.Contains(proc.Tail(spec.Output, 100), "up") {
			return errors.New("no output yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(syscall.SIGTERM, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if done, how := p.Exited(); !done || how != "ended by killed" {
		t.Fatalf("Exited() = %v, %q", done, how)
	}
}

func TestReadyReportsAnEarlyEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := sleeper(dir)
	spec.Args = []string{"-c", "exit 7"}
	p, err := proc.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Ready(10*time.Second, func() error { return errors.New("never") })
	if err == nil || !strings.Contains(err.Error(), "exit code 7") {
		t.Fatalf("Ready() = %v, want one that says exit code 7", err)
	}
}
