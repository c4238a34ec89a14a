package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	connectors "github.com/staunch-project/staunch/internal/connector/registry"
	"github.com/staunch-project/staunch/internal/decide"
)

const (
	module   = "github.com/staunch-project/staunch"
	schemaID = "https://raw.githubusercontent.com/staunch-project/staunch/main/docs/reference/staunch.schema.json"
)

// node is a part of a JSON Schema.
type node map[string]any

// schemer makes the schema of staunch.yaml from the types that it is decoded
// into. Keys come from their yaml tags, descriptions from their comments.
type schemer struct {
	root string // the repository
	docs map[string]map[string]string
}

// needed are the keys without which config.Load refuses a file, by type.
func needed() map[reflect.Type][]string {
	return map[reflect.Type][]string{
		reflect.TypeFor[config.TLS]():     nil,
		reflect.TypeFor[config.Realm]():   {"name", "platform"},
		reflect.TypeFor[config.Source]():  {"name", "format", "realm"},
		reflect.TypeFor[config.Tail]():    {"path"},
		reflect.TypeFor[config.Drill]():   {"name", "canary", "source"},
		reflect.TypeFor[config.Subject](): {"type", "kind", "realm", "scheme"},
		reflect.TypeFor[config.Channel](): {"name", "type", "url"},

		reflect.TypeFor[config.TransparencyLog](): {"url", "key"},
	}
}

// choices are the values of keys that are plain text in Go.
func choices() map[string][]string {
	var platforms []string
	for _, f := range connectors.Factories() {
		platforms = append(platforms, f.Platform)
	}
	return map[string][]string{
		"Realm.platform": platforms, "Source.format": app.FormatNames(), "Guard.fail_mode": {"deny", "allow"},
		"Channel.type": {"slack", "webhook"}, "Log.level": {"debug", "info", "warn", "error"}, "Log.format": {"text", "json"},
	}
}

// configSchema returns the schema as indented JSON. root is the repository.
func configSchema(root string) ([]byte, error) {
	s := &schemer{root: root, docs: map[string]map[string]string{}}
	top, err := s.object(reflect.TypeFor[config.Config]())
	if err != nil {
		return nil, err
	}
	top["$schema"], top["$id"], top["title"] = "https://json-schema.org/draft/2020-12/schema", schemaID, "staunch.yaml"
	top["type"] = []string{"object", "null"} // an empty file is one
	b, err := json.MarshalIndent(top, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	return append(b, '\n'), nil
}

func (s *schemer) of(t reflect.Type, owner reflect.Type, key string) (node, error) {
	if t.Kind() == reflect.Pointer {
		return s.of(t.Elem(), owner, key)
	}
	if owner != nil {
		if list := choices()[owner.Name()+"."+key]; list != nil {
			return node{"enum": list}, nil
		}
	}
	switch t {
	case reflect.TypeFor[staunch.Duration]():
		return node{"type": []string{"string", "integer"}, "pattern": `^\+?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`, "maximum": 0, "minimum": 0}, nil
	case reflect.TypeFor[config.Age]():
		return node{"type": []string{"string", "integer"}, "pattern": `^(forever|[0-9]{1,5}d|\+?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)$`, "maximum": 0, "minimum": 0}, nil
	case reflect.TypeFor[config.Bytes]():
		return node{"type": []string{"string", "integer"}, "pattern": `^(0|[0-9]+(B|KiB|MiB|GiB|TiB))$`, "maximum": 0, "minimum": 0}, nil
	case reflect.TypeFor[staunch.Mode]():
		return node{"enum": texts(staunch.ModeShadow, staunch.ModeRecommend, staunch.ModeEnforce)}, nil
	case reflect.TypeFor[staunch.Tier]():
		return node{"enum": texts(staunch.TierObserve, staunch.TierRestrict, staunch.TierIsolate, staunch.TierRevoke)}, nil
	case reflect.TypeFor[yaml.Node]():
		if owner == reflect.TypeFor[config.Config]() && key == "limits" {
			return s.object(reflect.TypeFor[decide.Limits]())
		}
		return node{"type": "object"}, nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || t.Kind() == reflect.String {
		return node{"type": []string{"string", "number", "boolean"}}, nil // any scalar is text to the decoder
	}
	switch t.Kind() {
	case reflect.Bool:
		return node{"type": "boolean"}, nil
	case reflect.Int, reflect.Int64:
		return node{"type": "integer"}, nil
	case reflect.Float64:
		return node{"type": "number"}, nil
	case reflect.Slice:
		items, err := s.of(t.Elem(), nil, "")
		return node{"type": []string{"array", "null"}, "items": items}, err
	case reflect.Map:
		values, err := s.of(t.Elem(), nil, "")
		return node{"type": []string{"object", "null"}, "additionalProperties": values}, err
	case reflect.Struct:
		return s.object(t)
	default:
		return nil, fmt.Errorf("no schema for %s (key %s)", t, key)
	}
}

func texts[T fmt.Stringer](vs ...T) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = v.String()
	}
	return out
}

func (s *schemer) object(t reflect.Type) (node, error) {
	docs, err := s.comments(t)
	if err != nil {
		return nil, err
	}
	props := node{}
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || key == "" || key == "-" {
			continue
		}
		p, err := s.of(f.Type, t, key)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t, f.Name, err)
		}
		if d := docs[f.Name]; d != "" {
			p["description"] = d
		}
		props[key] = p
	}
	out := node{"type": "object", "additionalProperties": false, "properties": props}
	if need := needed()[t]; len(need) > 0 {
		out["required"] = need
	}
	if t == reflect.TypeFor[config.Realm]() {
		out["allOf"], err = s.platforms()
	}
	return out, err
}

// platforms ties a realm's connector to its platform.
func (s *schemer) platforms() ([]node, error) {
	var out []node
	for _, f := range connectors.Factories() {
		c, err := s.of(reflect.TypeOf(f.Config()), nil, "connector")
		if err != nil {
			return nil, err
		}
		out = append(out, node{
			"if":   node{"properties": node{"platform": node{"const": f.Platform}}, "required": []string{"platform"}},
			"then": node{"properties": node{"connector": c}},
		})
	}
	return out, nil
}

// comments returns what stands above or beside the fields of a struct.
func (s *schemer) comments(t reflect.Type) (map[string]string, error) {
	rel, ok := strings.CutPrefix(t.PkgPath(), module)
	if !ok {
		return nil, fmt.Errorf("%s is not ours", t)
	}
	id := t.PkgPath() + "." + t.Name()
	if d, ok := s.docs[id]; ok {
		return d, nil
	}
	files, err := filepath.Glob(filepath.Join(s.root, filepath.FromSlash(rel), "*.go"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", t.PkgPath(), err)
	}
	fset := token.NewFileSet()
	for _, path := range files {
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("reading comments: %w", err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			m := map[string]string{}
			for _, f := range st.Fields.List {
				text := f.Doc.Text() + f.Comment.Text()
				for _, name := range f.Names {
					m[name.Name] = strings.Join(strings.Fields(text), " ")
				}
			}
			s.docs[t.PkgPath()+"."+spec.Name.Name] = m
			return true
		})
	}
	if s.docs[id] == nil {
		return nil, fmt.Errorf("%s is not declared in %v of %v", t, t.PkgPath(), slices.Sorted(maps.Keys(s.docs)))
	}
	return s.docs[id], nil
}
