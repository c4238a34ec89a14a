package registry_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/formattest"
	"github.com/staunch-project/staunch/internal/format/registry"
)

func TestInStep(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "run", "../../gen/registry",
		"-contract", "..", "-func", "New", "-type", "Format", "-list", "Formats", "-check").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNew(t *testing.T) {
	names, err := registry.Names()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"aws.cloudtrail", "hashicorp.vault", "json", "okta.system_log", "postgresql"}
	if !slices.Equal(names, want) {
		t.Errorf("formats %v, want %v", names, want)
	}
	for _, n := range names {
		f, err := registry.New(n)
		if err != nil || f.Name() != n {
			t.Errorf("New(%q): %v", n, err)
		}
	}
	if _, err := registry.New("no.such"); !errors.Is(err, staunch.ErrNotFound) {
		t.Errorf("an unknown format gives %v", err)
	}
}

func TestGeneric(t *testing.T) {
	f, err := registry.Generic(registry.GenericName, []byte("v: 1\nname: x\nproduct: {name: X}\n"), "x.yaml")
	if err != nil || f.Name() != registry.GenericName {
		t.Errorf("Generic: %v", err)
	}
}

// TestForeignRecords feeds every format the records of every other platform in
// the corpora: a source configured with the wrong format gives valid events or
// says what is wrong, and never more.
func TestForeignRecords(t *testing.T) {
	dir := formattest.Corpus(t)
	all, err := registry.Formats()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "panther/rule_tests/*.ndjson"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no rule tests in the corpus: %v", err)
	}
	for _, f := range all {
		t.Run(f.Name(), func(t *testing.T) {
			c := formattest.NewChecker(t, f)
			n, refused := 0, 0
			for _, name := range files {
				formattest.Lines(t, filepath.Join("panther/rule_tests", filepath.Base(name)), func(v struct{ Event json.RawMessage }) {
					n++
					if c.Check(t, v.Event).Error != "" {
						refused++
					}
				})
			}
			t.Logf("%d records, %d refused", n, refused)
		})
	}
}
