package generic

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/formattest"
)

func TestConformance(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("testdata", "leaks.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := New("", src, "leaks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != "leaks" {
		t.Errorf("name %q, want the mapping's", f.Name())
	}
	formattest.Run(t, f, "testdata")
}

func TestName(t *testing.T) {
	f, err := New("generic", []byte("v: 1\nname: x\nproduct: {name: X}\n"), "x.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != "generic" {
		t.Errorf("name %q, want generic", f.Name())
	}
}

func TestErrorNamesThePlace(t *testing.T) {
	_, err := New("generic", []byte("v: 1\nname: x\nproduct: {name: X}\nkeyz: {}\n"), "mine.yaml")
	var p *staunch.Problem
	if !errors.As(err, &p) || p.Place != "mine.yaml:4" || !strings.Contains(p.Reason, "keyz") {
		t.Errorf("error %v does not name mine.yaml:4 and keyz", err)
	}
}
