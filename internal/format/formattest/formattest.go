// Package formattest is the conformance suite of formats: golden fixtures, and
// what must hold for every record whatever it contains.
//
// [Run] checks a format against a folder of fixtures, each a txtar file with
// the section input (what a source would deliver) and the section want (what
// the format makes of each record in it). With -update the want sections are
// written anew.
//
// Where the environment variable STAUNCH_CORPUS names the corpora's folder,
// every mapped event is also validated against the whole OCSF schema.
package formattest

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/formattest/ocsf"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

var update = flag.Bool("update", false, "write the want sections of format fixtures anew")

// Env is the source that fixtures come from.
var Env = format.Env{Source: "fixture", Realm: "test/realm", Received: 1_767_225_600_000_000}

// mutations is how many broken variants of each fixture's records are tried.
const mutations = 150

// Run checks f against the fixtures in dir.
func Run(t *testing.T, f format.Format, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures in %s (%v)", dir, err)
	}
	c := NewChecker(t, f)
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { c.fixture(t, name) })
	}
}

// Checker holds what a format's outputs are checked against.
type Checker struct {
	f      format.Format
	schema *ocsf.Schema
	broken bool // records are being mutated
}

// NewChecker returns a Checker of f. Without STAUNCH_CORPUS it does not check
// validity against the schema, and says so in the test's log.
func NewChecker(t testing.TB, f format.Format) *Checker {
	t.Helper()
	s, err := loadSchema()
	if err != nil {
		t.Fatal(err)
	}
	if s == nil {
		t.Log("STAUNCH_CORPUS is not set: events are not validated against the OCSF schema")
	}
	return &Checker{f: f, schema: s}
}

// loadSchema loads the corpus's schema, once a process; nil without a corpus.
var loadSchema = sync.OnceValues(func() (*ocsf.Schema, error) {
	corpus := os.Getenv("STAUNCH_CORPUS")
	if corpus == "" {
		return nil, nil
	}
	return ocsf.Load(filepath.Join(corpus, "ocsf-schema"))
})

// want is what a format makes of one record.
type want struct {
	Record    int              `json:"record"`
	Error     string           `json:"error,omitempty"`
	Logsource format.Logsource `json:"logsource,omitzero"`
	Keys      *keys            `json:"keys,omitempty"`
	Secrets   []secret         `json:"secrets,omitempty"`
	Facts     []string         `json:"facts,omitempty"`
	Findings  []format.Finding `json:"findings,omitempty"`
	OCSF      json.RawMessage  `json:"ocsf,omitempty"`
	Raw       json.RawMessage  `json:"-"`
}

type keys struct {
	ID        string          `json:"id,omitempty"`
	Time      staunch.Time    `json:"time"`
	Outcome   staunch.Outcome `json:"outcome"`
	Operation string          `json:"operation,omitempty"`
	SourceIP  string          `json:"source_ip,omitempty"`
	Actor     []staunch.Ref   `json:"actor,omitempty"`
	Targets   []staunch.Ref   `json:"targets,omitempty"`
}

type secret struct {
	At   string      `json:"at"`
	Ref  staunch.Ref `json:"ref,omitzero"`
	Keep bool        `json:"keep,omitempty"`
}

func (c *Checker) fixture(t *testing.T, name string) {
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	ar := txtar.Parse(raw)
	var input, golden []byte
	at := -1
	for i, f := range ar.Files {
		switch f.Name {
		case "input":
			input = f.Data
		case "want":
			golden, at = f.Data, i
		default:
			t.Fatalf("%s: section %q is neither input nor want", name, f.Name)
		}
	}
	var out bytes.Buffer
	var records [][]byte
	n := 0
	sp := jsondoc.NewSplitter(bytes.NewReader(input), jsondoc.Limits{})
	for {
		rec, err := sp.Next()
		if err != nil {
			break
		}
		doc := jsondoc.New(jsondoc.Limits{})
		if err := parse(doc, rec); err != nil {
			n++
			c.write(t, &out, want{Record: n, Error: err.Error()})
			continue
		}
		err = c.f.Split(doc, func(raw []byte) error {
			n++
			own := bytes.Clone(raw)
			records = append(records, own)
			w := c.Check(t, own)
			w.Record = n
			c.write(t, &out, w)
			return nil
		})
		if err != nil {
			n++
			problem(t, err)
			c.write(t, &out, want{Record: n, Error: err.Error()})
		}
	}
	if n == 0 {
		t.Fatalf("%s: no records", name)
	}
	if *update {
		if at < 0 {
			ar.Files = append(ar.Files, txtar.File{Name: "want"})
			at = len(ar.Files) - 1
		}
		ar.Files[at].Data = out.Bytes()
		if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil { //nolint:gosec // a fixture is for everyone to read
			t.Fatal(err)
		}
	} else if !bytes.Equal(golden, out.Bytes()) {
		t.Errorf("%s: not what was wanted (run with -update and look at the difference)\n%s", name, difference(golden, out.Bytes()))
	}
	c.Mutate(t, records, mutations)
}

func (c *Checker) write(t *testing.T, out *bytes.Buffer, w want) {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(w); err != nil {
		t.Fatalf("encoding record %d: %v", w.Record, err)
	}
}

func difference(a, b []byte) string {
	x, y := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for i := 0; i < len(x) || i < len(y); i++ {
		var l, r string
		if i < len(x) {
			l = x[i]
		}
		if i < len(y) {
			r = y[i]
		}
		if l != r {
			return fmt.Sprintf("line %d of want:\n- %s\n+ %s", i+1, l, r)
		}
	}
	return ""
}

// problem fails the test unless err is what formats return.
func problem(t testing.TB, err error) {
	t.Helper()
	var p *staunch.Problem
	if !errors.As(err, &p) {
		t.Errorf("error %q is not a *staunch.Problem", err)
	} else if p.Place == "" || p.Reason == "" {
		t.Errorf("problem %q does not say where or why", err)
	}
}

// Check runs the format on one record and fails the test where the contract is
// broken. It returns what the format made of the record.
func (c *Checker) Check(t testing.TB, raw []byte) want {
	t.Helper()
	doc := jsondoc.New(jsondoc.Limits{})
	if err := doc.Parse(raw); err != nil {
		t.Fatalf("parsing a record: %v", err)
	}
	a := c.once(t, doc, raw)
	// The second result has to equal the first, which was validated.
	c = &Checker{f: c.f, broken: c.broken}
	other := jsondoc.New(jsondoc.Limits{})
	if err := other.Parse(bytes.Clone(raw)); err != nil {
		t.Fatal(err)
	}
	b := c.once(t, other, raw)
	one, _ := json.Marshal(a)
	two, _ := json.Marshal(b)
	if !bytes.Equal(one, two) {
		t.Errorf("the same record gives two results:\n%s\n%s", one, two)
	}
	return a
}

func (c *Checker) once(t testing.TB, doc *jsondoc.Doc, raw []byte) want {
	t.Helper()
	w := want{Logsource: c.f.Logsource(doc)}
	k, err := c.f.Keys(doc, Env)
	if s, ok := c.f.(format.Screener); ok {
		facts, serr := s.Screen(doc, Env)
		if fmt.Sprint(serr) != fmt.Sprint(err) || err == nil && facts != k.Facts {
			t.Errorf("Screen says %v, %v, and Keys %v, %v", facts, serr, k.Facts, err)
		}
	}
	if err != nil {
		problem(t, err)
		return want{Error: err.Error()}
	}
	seen := map[string]bool{}
	last := 0
	for _, r := range k.Actor {
		if err := r.Validate(); err != nil {
			t.Errorf("actor %v: %v", r, err)
		}
		id := string(r.Kind) + ":" + r.Scheme
		if seen[id] {
			t.Errorf("actor has two refs of %s", id)
		}
		seen[id] = true
		if r.Kind.Width() < last {
			t.Errorf("actor's refs are not narrowest first: %v", k.Actor)
		}
		last = r.Kind.Width()
	}
	for _, r := range k.Targets {
		if err := r.Validate(); err != nil {
			t.Errorf("target %v: %v", r, err)
		}
	}
	w.Keys = &keys{ID: k.VendorID, Time: k.Time, Outcome: k.Outcome, Operation: k.Operation, SourceIP: k.SourceIP, Actor: k.Actor, Targets: k.Targets}
	end := 0
	secrets := c.f.Secrets(doc, Env)
	for _, s := range secrets {
		if s.Start < end || s.End <= s.Start || s.End > len(raw) {
			t.Errorf("secret [%d,%d) overlaps another or lies outside the record", s.Start, s.End)
			continue
		}
		end = s.End
		var v any
		if err := json.Unmarshal(raw[s.Start:s.End], &v); err != nil {
			t.Errorf("secret [%d,%d) is not a JSON value: %v", s.Start, s.End, err)
		}
		if s.Keep && s.Ref.IsZero() {
			t.Error("a secret is kept without being a credential")
		}
		w.Secrets = append(w.Secrets, secret{At: keyBefore(raw, s.Start), Ref: s.Ref, Keep: s.Keep})
	}
	m, err := c.f.Map(doc, k, Env)
	if err != nil {
		problem(t, err)
		return want{Error: err.Error()}
	}
	if bytes.ContainsAny(m.OCSF, "\n\r") {
		t.Errorf("OCSF is not one line: %s", m.OCSF)
	}
	if !json.Valid(m.OCSF) {
		t.Fatalf("OCSF is not JSON: %s", m.OCSF)
	}
	if c.schema != nil {
		for _, v := range c.schema.Validate(m.OCSF) {
			t.Errorf("not valid OCSF: %s\nrecord: %s\nevent: %s", v, brief(raw), brief(m.OCSF))
		}
	}
	w.OCSF = m.OCSF
	if k.Facts != (len(m.Facts) > 0) {
		t.Errorf("keys say facts: %v, the mapping states %d\nrecord: %s", k.Facts, len(m.Facts), brief(raw))
	}
	for _, f := range m.Facts {
		for _, r := range []staunch.Ref{f.Subject, f.Of, f.By} {
			if err := r.Validate(); !r.IsZero() && err != nil {
				t.Errorf("fact %s: %v: %v", f.Type, r, err)
			}
		}
		if f.Subject.IsZero() || f.ID != "" || f.Learned != 0 || f.Source != "" || f.Event != "" {
			t.Errorf("fact %+v: has no subject, or what core sets", f)
		}
		w.Facts = append(w.Facts, describe(f))
	}
	for _, f := range m.Findings {
		if !(f.Confidence > 0 && f.Confidence <= 1) || len(f.Accused) == 0 {
			t.Errorf("finding %+v: confidence outside (0,1], or nobody accused", f)
		}
		for _, r := range f.Accused {
			if err := r.Validate(); err != nil || r.Kind.Width() == 0 {
				t.Errorf("finding accuses %v: %v", r, err)
			}
		}
	}
	w.Findings = m.Findings
	// Refs may equal a secret only where a record repeats it in a name's place,
	// as broken records do.
	out := bytes.Clone(m.OCSF)
	if !c.broken {
		out, _ = json.Marshal(w)
	}
	for _, s := range secrets {
		if c.broken && raw[s.Start] != '"' {
			continue // a number may stand in the record twice and mean two things
		}
		if v := s.Value.Reveal(); len(v) >= 8 && bytes.Contains(out, []byte(v)) {
			t.Errorf("a secret stands in the output: %s", brief(out))
		}
	}
	return w
}

func describe(f staunch.Fact) string {
	s := string(f.Type) + " " + f.Subject.String()
	if !f.Of.IsZero() {
		s += " of " + f.Of.String()
	}
	if !f.By.IsZero() {
		s += " by " + f.By.String()
	}
	s += " at " + f.Time.String()
	if f.Until != 0 {
		s += " until " + f.Until.String()
	}
	if len(f.Attrs) > 0 {
		b, _ := json.Marshal(f.Attrs)
		s += " " + string(b)
	}
	return s
}

// keyBefore returns the key of the member whose value begins at start, for
// people to read; "" in an array.
func keyBefore(raw []byte, start int) string {
	head := bytes.TrimRight(raw[:start], " \t\r\n")
	head, ok := bytes.CutSuffix(head, []byte(":"))
	if !ok {
		return "[]"
	}
	head = bytes.TrimRight(head, " \t\r\n")
	if i := bytes.LastIndexByte(head[:max(len(head)-1, 0)], '"'); i >= 0 {
		return string(bytes.Trim(head[i:], `"`))
	}
	return ""
}

func brief(b []byte) []byte {
	if len(b) > 3000 {
		return append(bytes.Clone(b[:3000]), "…"...)
	}
	return b
}

// Mutate breaks the records in n random ways each and checks that the format
// still gives valid events or says what is wrong. The seed is in the failure.
func (c *Checker) Mutate(t *testing.T, records [][]byte, n int) {
	t.Helper()
	seed := rand.Uint64()
	c = &Checker{f: c.f, schema: c.schema, broken: true}
	for i, raw := range records {
		var v any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		if err := dec.Decode(&v); err != nil {
			continue
		}
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		for range n {
			b, err := json.Marshal(mutate(rng, v, rng.IntN(4)+1))
			if err != nil {
				t.Fatal(err)
			}
			c.Check(t, b)
			if t.Failed() {
				t.Fatalf("seed %d: mutated record %d: %s", seed, i+1, brief(b))
			}
		}
	}
}

// mutate returns a copy of v with some of its values replaced or removed.
func mutate(rng *rand.Rand, v any, times int) any {
	out := clone(v)
	for range times {
		out = mutateOnce(rng, out)
	}
	return out
}

func mutateOnce(rng *rand.Rand, v any) any {
	type place struct {
		in  any
		key string
		i   int
	}
	var places []place
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			names := make([]string, 0, len(v))
			for k := range v {
				names = append(names, k)
			}
			sortStrings(names)
			for _, k := range names {
				places = append(places, place{in: v, key: k})
				walk(v[k])
			}
		case []any:
			for i, e := range v {
				places = append(places, place{in: v, i: i})
				walk(e)
			}
		}
	}
	walk(v)
	if len(places) == 0 {
		return odd(rng)
	}
	p := places[rng.IntN(len(places))]
	switch in := p.in.(type) {
	case map[string]any:
		if rng.IntN(3) == 0 {
			delete(in, p.key)
		} else {
			in[p.key] = odd(rng)
		}
	case []any:
		in[p.i] = odd(rng)
	}
	return v
}

func odd(rng *rand.Rand) any {
	switch rng.IntN(18) {
	case 0:
		return nil
	case 1:
		return ""
	case 2:
		return true
	case 3:
		return json.Number("-1")
	case 4:
		return json.Number("1e300")
	case 5:
		return json.Number("3.5")
	case 6:
		return []any{}
	case 7:
		return map[string]any{}
	case 8:
		return []any{"a", nil, json.Number("1"), map[string]any{"id": "x"}}
	case 9:
		return map[string]any{"id": json.Number("7"), "name": nil, "type": []any{}, "token": "tok-1234567890"}
	case 10:
		return strings.Repeat("long ", 14_000)
	case 11:
		return "\x00\u202e\"\\\n<>& ünï"
	case 12:
		return "2026-13-45T99:99:99Z"
	case 13:
		return "::ffff:198.51.100.7"
	case 14:
		return "[2001:db8::1%eth0]:443"
	case 15:
		return "not an address, an@email or a number"
	case 16:
		return json.Number("99999999999999999999")
	default:
		return "unknown"
	}
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = clone(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = clone(e)
		}
		return out
	default:
		return v
	}
}
