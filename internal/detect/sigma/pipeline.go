package sigma

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Pipeline translates rules as they are read: names of fields and log sources
// from one taxonomy to another, and values for placeholders.
type Pipeline struct {
	path         string
	from, to     string
	placeholders map[string][]string
	maps         []*fieldMap
}

// fieldMap is what a pipeline does with rules of one log source.
type fieldMap struct {
	match, becomes Logsource
	prefix         string
	fields         map[string][]string
}

// Bounds on a pipeline.
const (
	maxPipelineBytes = 1 << 20
	maxFieldNames    = 16
)

// names is one name or a list of them.
type names []string

func (l *names) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && !strictyaml.IsNull(n) {
		*l = names{n.Value}
		return nil
	}
	var list strictyaml.List[string]
	if err := n.Load(&list, yaml.WithKnownFields()); err != nil {
		return err
	}
	if len(list) == 0 || len(list) > maxFieldNames {
		return strictyaml.At(n, "one to %d names are needed", maxFieldNames)
	}
	for _, s := range list {
		if s == "" {
			return strictyaml.At(n, "an empty name")
		}
	}
	*l = names(list)
	return nil
}

type pipelineLogsource struct {
	Product  string `yaml:"product"`
	Category string `yaml:"category"`
	Service  string `yaml:"service"`
}

type pipelineFile struct {
	V            int                  `yaml:"v"`
	Title        string               `yaml:"title"`
	From         string               `yaml:"from"`
	To           string               `yaml:"to"`
	Placeholders map[string][]string  `yaml:"placeholders"`
	Maps         []pipelineMapSection `yaml:"maps"`
}

type pipelineMapSection struct {
	Logsource pipelineLogsource `yaml:"logsource"`
	Becomes   pipelineLogsource `yaml:"becomes"`
	Prefix    string            `yaml:"prefix"`
	Fields    map[string]names  `yaml:"fields"`
}

// LoadPipelines reads pipeline files. Errors are staunch.Problems that name file
// and line.
func LoadPipelines(paths ...string) ([]*Pipeline, error) {
	var out []*Pipeline
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading a pipeline: %w", err)
		}
		st, err := f.Stat()
		_ = f.Close() // only looked at
		if err == nil && st.Size() > maxPipelineBytes {
			return nil, &staunch.Problem{Place: path, Reason: fmt.Sprintf("is larger than %d bytes", maxPipelineBytes)}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading a pipeline: %w", err)
		}
		p, err := ParsePipeline(path, data)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// ParsePipeline reads one pipeline; name is what errors call it.
func ParsePipeline(name string, data []byte) (*Pipeline, error) {
	if len(data) > maxPipelineBytes {
		return nil, &staunch.Problem{Place: name, Reason: fmt.Sprintf("is larger than %d bytes", maxPipelineBytes)}
	}
	var file pipelineFile
	if err := strictyaml.Load(data, name, &file); err != nil {
		return nil, err
	}
	switch {
	case file.V != staunch.Version:
		return nil, &staunch.Problem{Place: name + ": v", Reason: fmt.Sprintf("is %d; this release reads %d", file.V, staunch.Version)}
	case len(file.Maps) == 0 && len(file.Placeholders) == 0:
		return nil, &staunch.Problem{Place: name, Reason: "has neither maps nor placeholders"}
	}
	p := &Pipeline{path: name, from: file.From, to: file.To, placeholders: file.Placeholders}
	for i, m := range file.Maps {
		if m.Prefix == "" && len(m.Fields) == 0 && m.Becomes == (pipelineLogsource{}) {
			return nil, &staunch.Problem{Place: fmt.Sprintf("%s: maps[%d]", name, i), Reason: "changes nothing: it has no fields, prefix or becomes"}
		}
		out := &fieldMap{match: m.Logsource.logsource(), becomes: m.Becomes.logsource(), prefix: m.Prefix, fields: map[string][]string{}}
		for from, to := range m.Fields {
			if from == "" {
				return nil, &staunch.Problem{Place: fmt.Sprintf("%s: maps[%d].fields", name, i), Reason: "has an empty name"}
			}
			if len(to) == 0 {
				return nil, &staunch.Problem{Place: fmt.Sprintf("%s: maps[%d].fields.%s", name, i, from), Reason: "has no name"}
			}
			out.fields[from] = to
		}
		p.maps = append(p.maps, out)
	}
	return p, nil
}

func (l pipelineLogsource) logsource() Logsource {
	return Logsource{Product: l.Product, Category: l.Category, Service: l.Service}
}

// sigmaTaxonomy is the taxonomy of a rule that names none.
const sigmaTaxonomy = "sigma"

// translate finds the pipelines' parts that are for the document, whose taxonomy
// and log source were read, and gives it those that it gets by them.
func (p *ruleParser) translate() {
	r := p.rule
	for _, pl := range p.opts.Pipelines {
		if !strings.EqualFold(orOf(pl.from, sigmaTaxonomy), orOf(r.Taxonomy, sigmaTaxonomy)) {
			continue
		}
		for _, m := range pl.maps {
			if !m.match.within(r.Logsource) {
				continue
			}
			p.maps = append(p.maps, m)
			if m.becomes != (Logsource{}) {
				r.Logsource = m.becomes
			}
			r.Taxonomy = orOf(pl.to, sigmaTaxonomy)
			break
		}
	}
	if r.Taxonomy != "" && !strings.EqualFold(r.Taxonomy, sigmaTaxonomy) && !r.Mapped() {
		p.note(r.Line, "no pipeline translates the taxonomy %q; the fields are looked up by the names that the rule has", r.Taxonomy)
	}
}

// within reports whether other has all parts that l names.
func (l Logsource) within(other Logsource) bool {
	for _, part := range [...][2]string{{l.Product, other.Product}, {l.Category, other.Category}, {l.Service, other.Service}} {
		if part[0] != "" && !strings.EqualFold(part[0], part[1]) {
			return false
		}
	}
	return true
}

// Within keeps the rules whose log source has all parts that l names.
func Within(rules []*Rule, l Logsource) []*Rule {
	var out []*Rule
	for _, r := range rules {
		if l.within(r.Logsource) {
			out = append(out, r)
		}
	}
	return out
}

// fields returns the names that a field has after the pipelines.
func (p *ruleParser) fields(name string) []string {
	out := []string{name}
	for _, m := range p.maps {
		var next []string
		for _, n := range out {
			if to := m.fields[n]; len(to) > 0 {
				next = append(next, to...)
				continue
			}
			next = append(next, m.prefix+n)
		}
		if out = next; len(out) > maxFieldNames {
			p.errorf(p.rule.Line, "pipelines give the field %q more than %d names", name, maxFieldNames)
			return out[:1]
		}
	}
	return out
}
