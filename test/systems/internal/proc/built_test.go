package proc

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBuilt(t *testing.T) {
	home := t.TempDir()
	for _, step := range []struct{ variable, value, want string }{
		{"HOME", home, filepath.Join(home, ".cache", "staunch-systems", "thing-1", "thing")},
		{"XDG_CACHE_HOME", "/elsewhere", "/elsewhere/staunch-systems/thing-1/thing"},
		{"STAUNCH_SYSTEMS_CACHE", "/systems", "/systems/thing-1/thing"},
		{"STAUNCH_THING_BIN", "/opt/thing", "/opt/thing"},
	} {
		if step.variable == "HOME" {
			t.Setenv("XDG_CACHE_HOME", "")
			t.Setenv("STAUNCH_SYSTEMS_CACHE", "")
		}
		t.Setenv(step.variable, step.value)
		got, err := Built("STAUNCH_THING_BIN", "thing-1", "thing")
		if err != nil || got != step.want {
			t.Errorf("with %s: %s, %v, want %s", step.variable, got, err, step.want)
		}
	}
}

// TestStartOnPorts: other ports are tried where these were taken, and nothing else
// is tried again.
func TestStartOnPorts(t *testing.T) {
	dir := t.TempDir()
	watcher, err := Watch(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := watcher.Close(); err != nil {
			t.Error(err)
		}
	}()
	for name, c := range map[string]struct {
		script string
		tries  int
		says   string // "" for one that starts
	}{
		"taken":      {"echo listen: address already in use; exit 1", 5, "five times"},
		"broken":     {"echo no such option; exit 1", 1, "no such option"},
		"taken once": {`if [ -e "$0.once" ]; then exec sleep 60; fi; : >"$0.once"; echo address already in use; exit 1`, 2, ""},
	} {
		tries := 0
		p, err := StartOnPorts(2, watcher, 10*time.Second, func(ports []string) Spec {
			tries++
			if len(ports) != 2 || ports[0] == ports[1] {
				t.Errorf("%s: ports %v", name, ports)
			}
			output := filepath.Join(dir, name+strconv.Itoa(tries))
			return Spec{Path: "/bin/sh", Args: []string{"-c", c.script, filepath.Join(dir, name)}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, Output: output}
		}, func() error {
			if tries < c.tries || c.says != "" {
				return errors.New("not yet")
			}
			return nil
		})
		if tries != c.tries {
			t.Errorf("%s: %d tries, want %d", name, tries, c.tries)
		}
		switch {
		case c.says != "" && (p != nil || err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v", name, err)
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says == "":
			if err := p.Stop(syscall.SIGTERM, 10*time.Second); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
