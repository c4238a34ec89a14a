package vault

import (
	"testing"

	"github.com/staunch-project/staunch/internal/format/formattest"
)

func TestConformance(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	formattest.Run(t, f, "testdata")
}
