package sigma

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestIrregularFiles: a pipe among the rules is refused and not waited for, and a
// link is what it leads to.
func TestIrregularFiles(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	rule := filepath.Join(elsewhere, "rule")
	if err := os.WriteFile(rule, []byte(ruleText("s: {a: 1}\ncondition: s")), 0o600); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe.yml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"to-pipe.yml": pipe, "to-rule.yml": rule, "to-folder.yml": elsewhere, "to-nothing.yml": filepath.Join(elsewhere, "nothing"), "folder": elsewhere} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	l := LoadPaths(Options{}, dir)
	if len(l.Notes) != 1 || filepath.Base(l.Notes[0].Path) != "folder" || !strings.Contains(l.Notes[0].Reason, "link to a folder") {
		t.Errorf("notes %v", l.Notes)
	}
	rules, errs := LoadPath(dir, Options{})
	if len(rules) != 1 || rules[0].Path != filepath.Join(dir, "to-rule.yml") {
		t.Errorf("rules %v", rules)
	}
	want := map[string]bool{"pipe.yml": true, "to-pipe.yml": true, "to-folder.yml": true, "to-nothing.yml": true}
	for _, e := range errs {
		delete(want, filepath.Base(e.Path))
	}
	if len(errs) != 4 || len(want) != 0 {
		t.Errorf("errors %v", errs)
	}
}
