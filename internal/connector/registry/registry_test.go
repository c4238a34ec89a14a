package registry_test

import (
	"os/exec"
	"testing"

	"github.com/staunch-project/staunch/internal/connector/registry"
)

func TestInStep(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "run", "../../gen/registry",
		"-contract", "..", "-func", "Factory", "-type", "Factory", "-list", "Factories", "-check").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestFactories(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range registry.Factories() {
		if f.Platform == "" || seen[f.Platform] {
			t.Errorf("platform %q is empty or comes twice", f.Platform)
		}
		seen[f.Platform] = true
		if f.New == nil || f.Config == nil || f.Describe == nil {
			t.Errorf("%s: the factory lacks New, Config or Describe", f.Platform)
			continue
		}
		if d := f.Describe(); d.Platform != f.Platform || len(d.Verbs) == 0 {
			t.Errorf("%s: describes %q with %d verbs", f.Platform, d.Platform, len(d.Verbs))
		}
	}
	for _, want := range []string{"postgresql"} {
		if !seen[want] {
			t.Errorf("no %s", want)
		}
	}
}
