package mapping

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Bounds of a mapping file.
const (
	maxSource   = 1 << 20
	maxNodes    = 50_000
	maxProblems = 20
)

// reader walks YAML nodes strictly and collects what is wrong with them.
type reader struct {
	file     string
	problems []error
	nodes    int
}

func (d *reader) fail(n *yaml.Node, format string, args ...any) {
	if len(d.problems) >= maxProblems {
		return
	}
	line := 0
	if n != nil {
		line = n.Line
	}
	d.problems = append(d.problems, &staunch.Problem{Place: fmt.Sprintf("%s:%d", d.file, line), Reason: fmt.Sprintf(format, args...)})
}

func (d *reader) err() error { return errors.Join(d.problems...) }

// deref follows an alias and counts what is visited, so that aliases cannot
// blow a small file up.
func (d *reader) deref(n *yaml.Node) *yaml.Node {
	d.nodes++
	if d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.fail(n, "more than %d values, aliases followed", maxNodes)
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line}
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// document parses the source into its one document's root.
func (d *reader) document(src []byte) *yaml.Node {
	if len(src) > maxSource {
		d.fail(nil, "is larger than %d bytes", maxSource)
		return nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(src, &doc); err != nil {
		line, reason := strictyaml.Syntax(src, err)
		d.fail(&yaml.Node{Line: line}, "is not YAML: %s", strings.ReplaceAll(reason, "\n", " "))
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		d.fail(&yaml.Node{Line: 1}, "is empty")
		return nil
	}
	return doc.Content[0]
}

// fields calls the handler of each key of a mapping; unknown and repeated keys
// are problems. It returns false when n is no mapping.
func (d *reader) fields(n *yaml.Node, what string, handlers map[string]func(*yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s has to be a mapping", what)
		return false
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], d.deref(n.Content[i+1])
		h := handlers[k.Value]
		switch {
		case h == nil:
			d.fail(k, "%s has no key %q (%s)", what, k.Value, keyList(handlers))
		case seen[k.Value]:
			d.fail(k, "key %q is given twice", k.Value)
		default:
			h(v)
		}
		seen[k.Value] = true
	}
	return true
}

func keyList(m map[string]func(*yaml.Node)) string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	sortStrings(names)
	return strings.Join(names, ", ")
}

// pairs calls fn for each key and value of a mapping.
func (d *reader) pairs(n *yaml.Node, what string, fn func(k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, "%s has to be a mapping", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if seen[k.Value] {
			d.fail(k, "key %q is given twice", k.Value)
			continue
		}
		seen[k.Value] = true
		fn(k, d.deref(n.Content[i+1]))
	}
}

// list calls fn for each element of a sequence, or for n itself where a single
// thing stands in place of a list of one.
func (d *reader) list(n *yaml.Node, fn func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		fn(n)
		return
	}
	for _, e := range n.Content {
		fn(d.deref(e))
	}
}

func (d *reader) str(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.fail(n, "%s has to be a text", what)
		return ""
	}
	return n.Value
}

func (d *reader) strs(n *yaml.Node, what string) []string {
	var out []string
	d.list(n, func(e *yaml.Node) { out = append(out, d.str(e, what)) })
	return out
}

func (d *reader) boolean(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		d.fail(n, "%s has to be true or false", what)
		return false
	}
	return strings.EqualFold(n.Value, "true")
}

// constant reads a scalar as it stands.
func (d *reader) constant(n *yaml.Node, what string) constant {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.fail(n, "%s has to be a text, number or bool", what)
		return constant{}
	}
	switch n.Tag {
	case "!!int", "!!float":
		if !jsonNumber(n.Value) {
			d.fail(n, "%s: %q is not a JSON number", what, n.Value)
		}
		return constant{text: []byte(n.Value), literal: true}
	case "!!bool":
		return constant{text: []byte(strings.ToLower(n.Value)), literal: true}
	default:
		return constant{text: []byte(n.Value)}
	}
}

func jsonNumber(s string) bool {
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return false
	}
	t := strings.TrimPrefix(s, "-")
	if t == "" || t[0] < '0' || t[0] > '9' || len(t) > 1 && t[0] == '0' && t[1] != '.' && t[1] != 'e' {
		return false
	}
	return !strings.ContainsAny(t, "_xXoObBpP") && t[len(t)-1] != '.'
}
