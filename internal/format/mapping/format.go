package mapping

import (
	"fmt"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Format is a compiled mapping. It is safe for concurrent use.
type Format struct {
	name    string
	fold    bool  // keys are taken without regard to case …
	unless  *path // … unless the record has this one as it is written
	opts    Options
	accused []staunch.Kind
	same    map[staunch.Kind][]string

	logsources []logsource
	envelopes  []envelope

	id, operation, sourceIP, time *expr
	outcomes                      []outcome
	actor, targets                []*refSpec
	facts                         []*factSpec
	factIndex                     factIndex
	findings                      []*findingSpec

	secrets     []*secretRule
	named       *secretRule
	secretNames map[string]bool
	notSecret   map[string]bool
	secretMin   int

	severity *expr
	classes  []*classPlan
	last     *classPlan // Base Event
	whole    bool       // unmapped has the whole record

	parents []parentPath // of the remembered paths, by slot
	runs    sync.Pool
}

var _ format.Format = (*Format)(nil)

// Options is what Go code adds to a mapping.
type Options struct {
	// Derived names values that Derive computes and the mapping reads as
	// "$name".
	Derived []string
	// Derive fills in derived values for a record; it is called at most once
	// for each of Keys, Secrets and Map, and only when the mapping asks for
	// one.
	Derive func(record jsondoc.Value, out *Derived)
	// Limits bounds records that come as text inside others.
	Limits jsondoc.Limits
}

// Derived holds the derived values of one record.
type Derived struct {
	names  []string
	values [][]byte
}

// Set gives the derived value called name. An empty text is as none; a name
// that Options.Derived does not list is an error in the format and panics.
func (d *Derived) Set(name string, text []byte) {
	for i, n := range d.names {
		if n == name {
			d.values[i] = text
			return
		}
	}
	panic(fmt.Sprintf("mapping: derived value %q is not declared", name))
}

type logsource struct {
	when *cond
	out  format.Logsource
}

type outcome struct {
	when *cond
	from *expr // a value and its table, instead of is
	is   staunch.Outcome
}

type envelope struct {
	path   *path
	when   *cond
	decode bool // the values are strings that hold JSON
}

// refSpec says how a ref is made.
type refSpec struct {
	when   *cond
	kind   staunch.Kind
	scheme string
	value  *expr
	realm  *expr
	each   *path
	// alts are tried in order instead of the above
	alts []*refSpec
}

type factSpec struct {
	typ     staunch.FactType
	when    *cond
	each    *path
	subject *refSpec
	of, by  *refSpec
	time    *expr
	until   *expr
	attrs   []namedExpr
}

// factIndex finds the facts that a record may state by the one value that most
// of their conditions ask for first, so that a record of another kind costs one
// look-up.
type factIndex struct {
	path    *path
	byValue map[string][]int // indices into facts, ascending
	others  []int
}

type namedExpr struct {
	name string
	expr *expr
}

type findingSpec struct {
	when       *cond
	id, title  *expr
	evidence   *expr
	confidence *expr
	accuse     []*refSpec
	techniques []*expr
}

// run is the state of one evaluation; it is reused.
type run struct {
	f    *Format
	env  format.Env
	doc  *jsondoc.Doc
	root jsondoc.Value
	fold bool

	item jsondoc.Value // of the each that is being evaluated

	epoch uint32
	known []uint32
	slots []jsondoc.Value

	derived     Derived
	haveDerived bool

	secrets     []format.SecretValue
	haveSecrets bool
	inRef       bool // a ref is being evaluated

	noting bool
	used   []int // offsets of the values that were assigned

	buf, tmp []byte
	keys     staunch.Keys
	facts    []int
	pend     []pending
	arena    []byte
}

func (f *Format) begin(doc *jsondoc.Doc, env format.Env) *run {
	r, _ := f.runs.Get().(*run)
	if r == nil {
		r = &run{f: f, known: make([]uint32, len(f.parents)), slots: make([]jsondoc.Value, len(f.parents))}
		r.derived.names = f.opts.Derived
		r.derived.values = make([][]byte, len(f.opts.Derived))
	}
	r.epoch++
	if r.epoch == 0 {
		clear(r.known)
		r.epoch = 1
	}
	r.env, r.doc, r.root = env, doc, doc.Root()
	r.fold = f.fold && (f.unless == nil || !present(first(r.root, f.unless.steps, false)))
	return r
}

// end gives the run back, without what it knows of the record.
func (f *Format) end(r *run) {
	r.env, r.doc, r.root, r.item = format.Env{}, nil, jsondoc.Value{}, jsondoc.Value{}
	r.haveDerived, r.haveSecrets, r.noting = false, false, false
	r.secrets = nil
	clear(r.derived.values)
	clear(r.slots) // they hold the Doc
	r.used = r.used[:0]
	if cap(r.buf) > 1<<20 {
		r.buf = nil
	}
	r.buf, r.tmp = r.buf[:0], r.tmp[:0]
	r.keys = staunch.Keys{}
	f.runs.Put(r)
}

func (r *run) derivedText(i int) []byte {
	if !r.haveDerived {
		r.haveDerived = true
		if r.f.opts.Derive != nil {
			r.f.opts.Derive(r.root, &r.derived)
		}
	}
	b := r.derived.values[i]
	if r.haveSecrets && len(r.secrets) > 0 {
		return r.scrub(b)
	}
	return b
}

func (r *run) note(v jsondoc.Value) {
	if r.noting {
		r.used = append(r.used, v.Offset())
	}
}

// Name returns the format's name.
func (f *Format) Name() string { return f.name }

// Accused returns the kinds of refs that a rule accuses by default.
func (f *Format) Accused() []staunch.Kind { return f.accused }

// Same returns, by kind, the schemes that name one and the same actor when they
// stand together in one record.
func (f *Format) Same() map[staunch.Kind][]string { return f.same }

// Logsource returns the Sigma log source of the record: the mapping's first
// whose condition holds.
func (f *Format) Logsource(doc *jsondoc.Doc) format.Logsource {
	if len(f.logsources) == 1 && f.logsources[0].when == nil {
		return f.logsources[0].out
	}
	r := f.begin(doc, format.Env{})
	defer f.end(r)
	for i := range f.logsources {
		if l := &f.logsources[i]; l.when == nil || r.holds(l.when) {
			return l.out
		}
	}
	return format.Logsource{}
}

// maxNested bounds how deep envelopes may hold envelopes as text.
const maxNested = 3

// Split yields the records inside an envelope, or the record itself.
func (f *Format) Split(doc *jsondoc.Doc, yield func(raw []byte) error) error {
	return f.split(doc, yield, 0)
}

func (f *Format) split(doc *jsondoc.Doc, yield func(raw []byte) error, depth int) error {
	if len(f.envelopes) == 0 || doc.Root().Kind() != jsondoc.Object {
		return yield(doc.Raw())
	}
	r := f.begin(doc, format.Env{})
	var open *envelope
	for i := range f.envelopes {
		e := &f.envelopes[i]
		if k := first(r.root, e.path.steps, r.fold).Kind(); k != jsondoc.Array && k != jsondoc.Object && (!e.decode || k != jsondoc.String) {
			continue
		}
		if e.when == nil || r.holds(e.when) {
			open = e
			break
		}
	}
	fold := r.fold
	f.end(r)
	if open == nil {
		return yield(doc.Raw())
	}
	var err error
	n := 0
	one := func(v jsondoc.Value) bool {
		n++
		if !open.decode {
			err = yield(v.Raw())
			return err == nil
		}
		if v.Kind() != jsondoc.String {
			err = &staunch.Problem{Place: fmt.Sprintf("%s %d", open.path.text, n), Reason: "is " + article(v.Kind()) + ", not a record as text"}
			return false
		}
		if depth >= maxNested {
			err = &staunch.Problem{Place: open.path.text, Reason: fmt.Sprintf("envelopes are nested deeper than %d", maxNested)}
			return false
		}
		inner := jsondoc.New(f.opts.Limits)
		if perr := inner.Parse(v.Bytes()); perr != nil {
			err = &staunch.Problem{Place: fmt.Sprintf("%s %d", open.path.text, n), Reason: perr.Error()}
			return false
		}
		err = f.split(inner, yield, depth+1)
		return err == nil
	}
	each(doc.Root(), open.path.steps, fold, func(v jsondoc.Value) bool {
		if v.Kind() == jsondoc.Array {
			v.Items(one)
			return err == nil
		}
		return one(v)
	})
	return err
}

func article(k jsondoc.Kind) string {
	switch k {
	case jsondoc.Array, jsondoc.Object:
		return "an " + k.String()
	default:
		return "a " + k.String()
	}
}
