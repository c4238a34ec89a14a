package correlate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
)

// TestSpecificationSamples reads the specification's own examples. Each is sound
// but for the rules that it refers to, which are not among them.
func TestSpecificationSamples(t *testing.T) {
	root := os.Getenv("STAUNCH_CORPUS")
	if root == "" {
		t.Skip("STAUNCH_CORPUS is not set")
	}
	files, err := filepath.Glob(filepath.Join(root, "sigma-specification/tests/schema/correlation/*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, f := range files {
		var rd correlate.Reader
		_, errs := sigma.LoadPath(f, sigma.Options{Correlation: rd.Read})
		for _, e := range errs {
			t.Errorf("refused: %v", e)
		}
		none, err := sigma.Compile(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, errs = rd.Compile(none, correlate.Options{})
		if len(errs) == 0 {
			t.Errorf("%s: refers to rules that are not there, and is not refused", f)
		}
		for _, e := range errs {
			if !strings.Contains(e.Reason, "neither the id nor the name") {
				t.Errorf("refused: %v", e)
			}
		}
	}
}
