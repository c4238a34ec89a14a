package strictyaml_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch/internal/strictyaml"
)

// What people write by mistake is told at the line that they have to change, and
// with what to change.
func TestSyntax(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		line int
		want string // a part of the reason
	}{
		"a tab indents":            {"a:\n\tb: c\n", 2, "a tab indents this line"},
		"a tab indents further":    {"a:\n  b:\n  \tc: d\n", 3, "a tab indents this line"},
		"a tab after a block":      {"a:\n  b: c\n\td: e\n", 3, "a tab indents this line"},
		"a wildcard":               {"a:\n  b: *c*\n", 2, "begins with * has to be in quotes"},
		"a percent sign":           {"a:\n  b: %c%\n", 2, "begins with % has to be in quotes"},
		"an at sign":               {"a:\n  - @c\n", 2, "begins with @ has to be in quotes"},
		"a colon in a value":       {"a: b: c\n", 1, "a colon is not possible here"},
		"a key without a colon":    {"a:\n  b\n    c: d\n", 3, "a colon is not possible here"},
		"a last key without":       {"a: b\nc\n", 2, "a colon is missing"},
		"indented less":            {"a:\n    b: c\n   d: e\n", 3, "indented otherwise"},
		"text after a quote":       {"a: 'b' c\n", 1, "something follows a closing quote"},
		"text between items":       {"a:\n- b\nc: d\n- e\n", 4, ""},
		"an item beside a key":     {"a: - b\n", 1, "an item of a list is not possible here"},
		"a list without an end":    {"a:\n  b: [c, d\ne: f\n", 3, "leaves a bracket open"},
		"a mapping without an end": {"a:\n  b: {c: d\ne: f\n", 3, "leaves a bracket open"},
		"a last list without":      {"a:\n  b: [c, d\n", 2, "[ in this line is not closed"},
		"a last mapping without":   {"a:\n  b: {c: d\n", 2, "{ in this line is not closed"},
		"another backslash":        {"a:\n  b: \"C:\\Windows\"\n", 2, `\ begins an escape`},
		"a backslash":              {"a:\n  b: \"C:\\Users\"\n", 2, `\ begins an escape`},
		"a quote without an end":   {"a:\n  b: 'c\nd: e\n", 2, "the quote that begins in this line"},
		"another error":            {"a: 1\na: 2\n", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n yaml.Node
			err := yaml.Load([]byte(c.in), &n)
			if err == nil {
				if c.want != "" {
					t.Fatal("it is YAML")
				}
				return
			}
			line, reason := strictyaml.Syntax([]byte(c.in), err)
			if line != c.line || !strings.Contains(reason, c.want) {
				t.Errorf("line %d: %s (of %v)", line, reason, err)
			}
			if strings.Contains(reason, "go-yaml") {
				t.Errorf("%q speaks of the library", reason)
			}
		})
	}
	if got, want := problems(t, strictyaml.ExplainIn("f.yaml", []byte(" \n"), errors.New("nothing is there"))), []string{"f.yaml: empty"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	var d document
	if got, want := problems(t, strictyaml.Load([]byte("v: 1\none:\n\ta: x\n"), "f.yaml", &d)), []string{"f.yaml:3: a tab indents this line: YAML wants spaces"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzSyntax holds that the line which is told is one of the text.
func FuzzSyntax(f *testing.F) {
	for _, s := range []string{"", "a: [", "\ta", "a: *b", "a: %", "a: 'b", "a: \"\\q\"", "a:\n b: c\n  d: e\n", "a: {b", "- a\nb", "\xff\xfea"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1<<12 {
			t.Skip("long documents are bounded by whoever reads the file")
		}
		var n yaml.Node
		err := yaml.Load([]byte(s), &n)
		if err == nil {
			return
		}
		line, reason := strictyaml.Syntax([]byte(s), err)
		if line < 0 || line > len(s)+1 || reason == "" {
			t.Errorf("line %d: %q", line, reason)
		}
	})
}
