package docs_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// TestSchema has every configuration that the documentation shows, and the one
// that init writes, valid by the published schema.
func TestSchema(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("reference", "staunch.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("staunch.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("staunch.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	initial, err := os.ReadFile(filepath.Join("..", "internal", "cli", "init.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := []block{{place: "init.yaml", body: string(initial)}}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.lang == "yaml" && b.what == "staunch.yaml" {
				blocks = append(blocks, b)
			}
		}
	}
	if len(blocks) < 10 {
		t.Fatalf("only %d configurations were found", len(blocks))
	}
	for _, b := range blocks {
		var v any
		if err := yaml.Load([]byte(b.body), &v); err != nil {
			t.Errorf("%s: %v", b.place, err)
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", b.place, err)
			continue
		}
		inst, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(inst); err != nil {
			t.Errorf("%s: %v", b.place, err)
		}
	}
}
