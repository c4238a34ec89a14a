// Package strictyaml decodes YAML strictly and says what does not fit by file
// and line: unknown and repeated keys, values of the wrong type and list items
// without content are staunch.Problems, worded for somebody who has not read
// the code that reads the file.
//
// It does not bound the size of a document; whoever reads the file does.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
)

// MaxProblems is how many problems of one file are told; the rest is counted.
const MaxProblems = 20

// Problems collects what is wrong with one file. It is not safe for concurrent
// use.
type Problems struct {
	path string
	errs []error
	more int
}

// In starts the problems of the file that messages call path.
func In(path string) *Problems { return &Problems{path: path} }

// Place names a line of the file, or the file where line is 0.
func (p *Problems) Place(line int) string {
	if line <= 0 {
		return p.path
	}
	return fmt.Sprintf("%s:%d", p.path, line)
}

// Add notes a problem at a line, 0 for the file as a whole.
func (p *Problems) Add(line int, format string, args ...any) {
	p.AddHint("", line, format, args...)
}

// AddHint notes a problem as Add does, and what to do about it.
func (p *Problems) AddHint(hint string, line int, format string, args ...any) {
	if len(p.errs) >= MaxProblems {
		p.more++
		return
	}
	p.errs = append(p.errs, &staunch.Problem{Place: p.Place(line), Reason: fmt.Sprintf(format, args...), Hint: hint})
}

// Err joins the problems in the order in which they were added, followed by
// the number of those that were not kept; nil where there are none.
func (p *Problems) Err() error {
	if p.more == 0 {
		return errors.Join(p.errs...)
	}
	rest := &staunch.Problem{Place: p.path, Reason: fmt.Sprintf("%d more problems", p.more)}
	return errors.Join(append(p.errs[:len(p.errs):len(p.errs)], rest)...)
}

// Load decodes the one document of data into v; path is what messages call it.
// Errors are staunch.Problems, joined. A document without content is one.
func Load(data []byte, path string, v any) error {
	if strings.TrimSpace(string(data)) == "" { // the library takes some of it
		return &staunch.Problem{Place: path, Reason: "empty"}
	}
	return ExplainIn(path, data, yaml.Load(data, v, yaml.WithKnownFields()))
}

// Decode decodes a part of a document into v, as Load does.
func Decode(n *yaml.Node, path string, v any) error {
	return Explain(path, n.Load(v, yaml.WithKnownFields()))
}

// Explain turns an error of the YAML library into staunch.Problems of the file
// path, joined; nil stays nil.
func Explain(path string, err error) error { return ExplainIn(path, nil, err) }

// ExplainIn is Explain where the file's text is at hand: what is no YAML at all is
// told in words that fit it.
func ExplainIn(path string, data []byte, err error) error {
	if err == nil {
		return nil
	}
	p := In(path)
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case data != nil && strings.TrimSpace(string(data)) == "":
		p.Add(0, "empty")
	case errors.As(err, &many): // before one, which would be the first of many
		for _, e := range many.Errors {
			p.Add(e.Mark.Line, "%s", reason(e.Message))
		}
	case errors.As(err, &one):
		if one.Stage == yaml.ConstructorStage {
			p.Add(one.Mark.Line, "%s", reason(one.Message))
			break
		}
		line, said := Syntax(data, err)
		p.Add(line, "%s", said)
	default:
		line, said := Syntax(data, err)
		p.Add(line, "%s", reason(said))
	}
	return p.Err()
}

// reason words the library's message without the names of Go types.
func reason(msg string) string {
	if rest, ok := strings.CutPrefix(msg, "field "); ok {
		if key, _, ok := strings.Cut(rest, " not found in type "); ok {
			return fmt.Sprintf("unknown key %q", key)
		}
	}
	if value, typ, ok := cutLast(msg, " into "); ok && strings.HasPrefix(msg, "cannot construct ") {
		if needed := shape(strings.TrimLeft(typ, "*")); needed != "" {
			return value + ": a " + needed + " is needed here"
		}
	}
	return strings.TrimPrefix(strings.TrimPrefix(msg, "yaml: "), staunch.ErrInvalid.Error()+": ")
}

// shape says what a Go type is written as, "" for a scalar. Named types outside
// of the root package are structs wherever the library decodes them by itself;
// the root package's words are scalars.
func shape(typ string) string {
	switch {
	case strings.HasPrefix(typ, "[]"):
		return "list"
	case strings.HasPrefix(typ, "map["), strings.HasPrefix(typ, "struct {"):
		return "mapping"
	case strings.Contains(typ, ".") && !strings.HasPrefix(typ, "staunch."):
		return "mapping"
	}
	return ""
}

// cutLast cuts around the last sep, since the value that a message quotes may
// have one too.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// At is the error that an UnmarshalYAML returns for the value at a node.
func At(n *yaml.Node, format string, args ...any) error {
	return &yaml.LoadErrors{Errors: []*yaml.LoadError{{
		Stage: yaml.ConstructorStage, Message: fmt.Sprintf(format, args...),
		Mark: yaml.Mark{Line: n.Line, Column: n.Column},
	}}}
}

// IsNull reports whether a node is a null, written or left out.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// List is a sequence whose items have content; the library drops null items
// without a word.
type List[T any] []T

// UnmarshalYAML refuses null items.
func (l *List[T]) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		for _, c := range n.Content {
			if IsNull(c) {
				return At(c, "item without content")
			}
		}
	}
	return n.Load((*[]T)(l), yaml.WithKnownFields())
}
