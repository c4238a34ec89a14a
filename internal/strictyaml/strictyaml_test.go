package strictyaml_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

type inner struct {
	A string `yaml:"a"`
	B int    `yaml:"b"`
}

type word string

// UnmarshalYAML refuses every word but one.
func (w *word) UnmarshalYAML(n *yaml.Node) error {
	if n.Value != "fine" {
		return strictyaml.At(n, "%q is not fine", n.Value)
	}
	*w = word(n.Value)
	return nil
}

type document struct {
	V     int                         `yaml:"v"`
	Mode  staunch.Mode                `yaml:"mode"`
	One   inner                       `yaml:"one"`
	Ptr   *inner                      `yaml:"ptr"`
	Items strictyaml.List[inner]      `yaml:"items"`
	Words []string                    `yaml:"words"`
	Map   map[string]int              `yaml:"map"`
	Anon  struct{ X int }             `yaml:"anon"`
	Word  strictyaml.List[word]       `yaml:"word"`
	Deep  []map[string][]staunch.Tier `yaml:"deep"`
}

// problems returns the joined problems of an error, each as "place: reason".
func problems(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	if !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("%v is no ErrInvalid", err)
	}
	errs := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		errs = many.Unwrap()
	}
	var out []string
	for _, e := range errs {
		var p *staunch.Problem
		if !errors.As(e, &p) {
			t.Fatalf("%T is no Problem: %v", e, e)
		}
		out = append(out, p.Place+": "+p.Reason)
	}
	return out
}

func TestLoad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in   string
		want []string // each: the place and a part of the reason
	}{
		"fine":                                 {"v: 1\none: {a: x, b: 2}\nitems:\n- {a: y}\nwords: [a]\nmap: {k: 1}\nword: [fine]\n", nil},
		"empty":                                {" \n\n", []string{"f.yaml: empty"}},
		"unknown key":                          {"v: 1\nw: 2\n", []string{`f.yaml:2: unknown key "w"`}},
		"unknown key inside":                   {"items:\n- a: x\n- a: x\n  c: 1\n", []string{`f.yaml:4: unknown key "c"`}},
		"repeated key":                         {"v: 1\nv: 2\n", []string{`f.yaml:2: mapping key "v" already defined at line 1`}},
		"two things wrong":                     {"w: 1\none: {b: x}\n", []string{`f.yaml:1: unknown key "w"`, "f.yaml:2: cannot construct !!str `x` into int"}},
		"a word for a number":                  {"v: high\n", []string{"f.yaml:1: cannot construct !!str `high` into int"}},
		"into in the value":                    {"v: a into b\n", []string{"f.yaml:1: cannot construct !!str `a into b` into int"}},
		"a word for a struct":                  {"one: x\n", []string{"f.yaml:1: cannot construct !!str `x`: a mapping is needed here"}},
		"a word for a struct behind a pointer": {"ptr: x\n", []string{"f.yaml:1: cannot construct !!str `x`: a mapping is needed here"}},
		"a word for a struct without a name":   {"anon: x\n", []string{"f.yaml:1: cannot construct !!str `x`: a mapping is needed here"}},
		"a word for a map":                     {"map: x\n", []string{"f.yaml:1: cannot construct !!str `x`: a mapping is needed here"}},
		"a word for a list":                    {"items: x\n", []string{"f.yaml:1: cannot construct !!str `x`: a list is needed here"}},
		"a mapping for a list":                 {"words: {a: 1}\n", []string{"f.yaml:1: cannot construct !!map: a list is needed here"}},
		"a list in place of a word":            {"mode: [a]\n", []string{"f.yaml:1: cannot construct !!seq into staunch.Mode"}},
		"an item without content":              {"items:\n- a: x\n-\n", []string{"f.yaml:3: item without content"}},
		"a null item":                          {"items: [null]\n", []string{"f.yaml:1: item without content"}},
		"an error of ours":                     {"word:\n- fine\n- poor\n", []string{`f.yaml:3: "poor" is not fine`}},
		"no YAML":                              {"v: 1\none: {a: x\n", []string{"f.yaml:"}},
		"two documents":                        {"v: 1\n---\nv: 2\n", []string{"f.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var d document
			got := problems(t, strictyaml.Load([]byte(c.in), "f.yaml", &d))
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDecodeAPart(t *testing.T) {
	t.Parallel()
	var d struct {
		Rest yaml.Node `yaml:"rest"`
	}
	if err := strictyaml.Load([]byte("rest:\n  a: x\n  c: y\n"), "f.yaml", &d); err != nil {
		t.Fatal(err)
	}
	var in inner
	if got, want := problems(t, strictyaml.Decode(&d.Rest, "f.yaml", &in)), []string{`f.yaml:3: unknown key "c"`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	if err := strictyaml.Explain("f.yaml", nil); err != nil {
		t.Errorf("nil became %v", err)
	}
	other := fmt.Errorf("yaml: %w: something else", staunch.ErrInvalid)
	if got, want := problems(t, strictyaml.Explain("f.yaml", other)), []string{"f.yaml: something else"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	p := strictyaml.In("f.yaml")
	if err := p.Err(); err != nil {
		t.Fatalf("no problems give %v", err)
	}
	p.AddHint("do that", 3, "%d is odd", 3)
	p.Add(0, "poor")
	if got, want := p.Err().Error(), (&staunch.Problem{Place: "f.yaml:3", Reason: "3 is odd", Hint: "do that"}).Error()+"\n"+(&staunch.Problem{Place: "f.yaml", Reason: "poor"}).Error(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range strictyaml.MaxProblems {
		p.Add(i+4, "poor")
	}
	for range 2 { // asking twice gives the same
		got := problems(t, p.Err())
		if len(got) != strictyaml.MaxProblems+1 || got[strictyaml.MaxProblems] != "f.yaml: 2 more problems" {
			t.Errorf("%d problems, the last %q", len(got), got[len(got)-1])
		}
	}
}

// FuzzLoad holds that whatever is in a file, what is said of it are problems
// of that file.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{"v: 1\n", "w: 1\none: {b: x}\n", "items:\n-\n", "{", "\t", "&a [*a]", "v: !!binary x\n", "? {}\n: x\n", "one: {<<: {b: x}}\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 1<<12 {
			t.Skip("long documents are bounded by whoever reads the file")
		}
		var d document
		for _, p := range problems(t, strictyaml.Load([]byte(s), "f.yaml", &d)) {
			if !strings.HasPrefix(p, "f.yaml:") {
				t.Errorf("%q names no place", p)
			}
		}
	})
}
