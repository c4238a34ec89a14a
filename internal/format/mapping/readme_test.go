package mapping

import (
	"os"
	"strings"
	"testing"
)

// TestReadmeExample compiles the example that the reference begins with, and
// checks that the reference names every conversion and fact type.
func TestReadmeExample(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	_, rest, ok1 := strings.Cut(text, "```yaml\n")
	example, _, ok2 := strings.Cut(rest, "```")
	if !ok1 || !ok2 {
		t.Fatal("README.md has no example")
	}
	mustCompile(t, example)
	for name := range conversions {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("README.md does not name the conversion %s", name)
		}
	}
	for name := range factTypes {
		if !strings.Contains(text, string(name)) {
			t.Errorf("README.md does not name the fact type %s", name)
		}
	}
}
