package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
)

// The forms of output.
const (
	formTable = "table"
	formJSON  = "json"
	formYAML  = "yaml"
)

// print writes what a command answers: v as JSON or YAML, or whatever table
// writes for people. Cells are separated by tabs.
func (g *globals) print(v any, table func(w io.Writer)) error {
	switch g.output {
	case formJSON:
		return writeJSON(g.stdout, v)
	case formYAML:
		return writeYAML(g.stdout, v)
	}
	tw := tabwriter.NewWriter(g.stdout, 2, 8, 2, ' ', 0)
	table(tw)
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// writeYAML writes v's JSON as YAML, so that both have the same names in the
// same order.
func writeYAML(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	var n yaml.Node
	// JSON is YAML, but for a character that YAML takes for a line break.
	in := bytes.ReplaceAll(b.Bytes(), []byte("\u0085"), []byte(`\u0085`))
	if err := yaml.Load(in, &n); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	plain(&n)
	out, err := yaml.Dump(&n, yaml.WithIndent(2))
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// plain takes JSON's brackets and quotes off, where YAML does without.
func plain(n *yaml.Node) {
	if n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode {
		n.Style &^= yaml.FlowStyle
	}
	// What does not print keeps its quotes, in which it is escaped.
	if n.Kind == yaml.ScalarNode && clean(n.Value) == n.Value {
		n.Style &^= yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// row writes one line of a table. Cells come from records that others wrote, so
// nothing in them reaches the terminal as a control sequence.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			_, _ = io.WriteString(w, "\t") // print's Flush tells
		}
		_, _ = io.WriteString(w, clean(text(c)))
	}
	_, _ = io.WriteString(w, "\n")
}

func text(c any) string {
	switch v := c.(type) {
	case staunch.Time:
		return shortTime(v)
	case []string:
		return strings.Join(v, ", ")
	case float64:
		return fmt.Sprintf("%.2f", v)
	case bool:
		if v {
			return "yes"
		}
		return "no"
	}
	return fmt.Sprint(c)
}

// shortTime is a time to the millisecond, "-" for none.
func shortTime(t staunch.Time) string {
	if t == 0 {
		return "-"
	}
	return t.Std().Format("2006-01-02T15:04:05.000Z")
}

// clean replaces what does not print, so that a terminal shows it and does not
// obey it.
func clean(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}

// field writes "name: value" in a table, unless the value is empty. Without a name
// the value is one more of the field above.
func field(w io.Writer, name string, v any) {
	if s := text(v); s != "" && s != "-" {
		if name != "" {
			name += ":"
		}
		row(w, name, s)
	}
}

// heading writes a title above a part of an answer.
func heading(w io.Writer, s string) { _, _ = fmt.Fprintf(w, "\n%s\n", s) }

// ms is a time since something, in milliseconds.
func ms(f float64) string {
	if f >= 100_000 {
		return time.Duration(f * float64(time.Millisecond)).Round(time.Second).String()
	}
	return fmt.Sprintf("%.1f ms", f)
}

// printTo writes a table to another place than the answer's.
func (g *globals) printTo(w io.Writer, table func(w io.Writer)) error {
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	table(tw)
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
