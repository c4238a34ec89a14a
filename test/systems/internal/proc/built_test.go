package proc

import (
	"path/filepath"
	"testing"
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
