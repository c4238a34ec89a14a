package decide

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
)

const maxProblems = 20

// problems collects what is wrong with one file.
type problems struct {
	path string
	errs []error
	more int
}

func (p *problems) add(line int, format string, args ...any) {
	if len(p.errs) >= maxProblems {
		p.more++
		return
	}
	place := p.path
	if line > 0 {
		place = fmt.Sprintf("%s:%d", p.path, line)
	}
	p.errs = append(p.errs, &staunch.Problem{Place: place, Reason: fmt.Sprintf(format, args...)})
}

func (p *problems) err() error {
	if p.more > 0 {
		p.errs = append(p.errs, &staunch.Problem{Place: p.path, Reason: fmt.Sprintf("%d more problems", p.more)})
		p.more = 0
	}
	return errors.Join(p.errs...)
}

// load decodes one strict document into v and reports what does not fit by
// file and line.
func load(data []byte, path string, v any) error {
	p := problems{path: path}
	if strings.TrimSpace(string(data)) == "" {
		p.add(0, "empty")
		return p.err()
	}
	err := yaml.Load(data, v, yaml.WithKnownFields())
	if err == nil {
		return nil
	}
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &many):
		for _, e := range many.Errors {
			p.add(e.Mark.Line, "%s", reason(e.Message))
		}
	case errors.As(err, &one):
		p.add(one.Mark.Line, "%s", reason(one.Message))
	default:
		p.add(0, "%s", err.Error())
	}
	return p.err()
}

// reason words the library's message for somebody who has not read our code.
func reason(msg string) string {
	if rest, ok := strings.CutPrefix(msg, "field "); ok {
		if key, _, ok := strings.Cut(rest, " not found in type "); ok {
			return fmt.Sprintf("unknown key %q", key)
		}
	}
	if before, _, ok := strings.Cut(msg, " into decide."); ok {
		return before + ": a mapping or list is needed here"
	}
	return strings.TrimPrefix(strings.TrimPrefix(msg, "yaml: "), staunch.ErrInvalid.Error()+": ")
}

// at is the error of a value at a node.
func at(n *yaml.Node, format string, args ...any) error {
	return &yaml.LoadErrors{Errors: []*yaml.LoadError{{
		Stage: yaml.ConstructorStage, Message: fmt.Sprintf(format, args...),
		Mark: yaml.Mark{Line: n.Line, Column: n.Column},
	}}}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// list is a sequence whose items have content; the library drops null items
// without a word.
type list[T any] []T

// UnmarshalYAML refuses null items.
func (l *list[T]) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			if isNull(c) {
				return at(c, "item without content")
			}
		}
	}
	return n.Load((*[]T)(l), yaml.WithKnownFields())
}

// oneOrMore is a list of strings that may be written as one string.
type oneOrMore []string

// UnmarshalYAML takes a scalar or a list of them.
func (o *oneOrMore) UnmarshalYAML(n *yaml.Node) error {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		if items = n.Content; len(items) == 0 {
			return at(n, "an empty list matches nothing")
		}
	}
	for _, c := range items {
		if c.Kind != yaml.ScalarNode || isNull(c) || c.Value == "" {
			return at(c, "a word or a list of words is needed here")
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
	if n.Kind != yaml.ScalarNode || isNull(n) {
		return at(n, "text is needed here")
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
