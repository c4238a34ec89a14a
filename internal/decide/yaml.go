package decide

import (
	"regexp"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch/internal/strictyaml"
)

// oneOrMore is a list of strings that may be written as one string.
type oneOrMore []string

// UnmarshalYAML takes a scalar or a list of them.
func (o *oneOrMore) UnmarshalYAML(n *yaml.Node) error {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		if items = n.Content; len(items) == 0 {
			return strictyaml.At(n, "an empty list matches nothing")
		}
	}
	for _, c := range items {
		if c.Kind != yaml.ScalarNode || strictyaml.IsNull(c) || c.Value == "" {
			return strictyaml.At(c, "a word or a list of words is needed here")
		}
		*o = append(*o, c.Value)
	}
	return nil
}

// text is a string that knows where it stands.
type text struct {
	s     string
	line  int
	block bool // a block scalar, whose text begins on the next line
}

// UnmarshalYAML keeps the place.
func (t *text) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || strictyaml.IsNull(n) {
		return strictyaml.At(n, "text is needed here")
	}
	*t = text{s: n.Value, line: n.Line, block: n.Style&yaml.LiteralStyle != 0}
	return nil
}

// place returns the line of the text's nth line, counted from 1. Only literal
// blocks keep their lines.
func (t text) place(nth int) int {
	if t.block {
		return t.line + nth
	}
	return t.line
}

// names are short: they go into cap names, file names and messages.
var nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
