package sigma

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Set is a compiled bundle of rules. What it matches does not change, and any
// number of goroutines may match with it, each with its own Scratch.
type Set struct {
	rules  []*Rule
	roots  []*expr
	preds  []question
	byID   map[string]int
	ids    map[string]int32 // by the predicate's key
	fields []jsondoc.Path
	paths  *jsondoc.Paths // of the fields
	hash   string
	index  atomic.Pointer[index]
	fit    fitting
	mapped *mappedSet // rules on the mapped event; nil without any
}

// question is an interned predicate with its fields' numbers.
type question struct {
	*pred
	fieldID, refID int32
}

// Compile makes a Set of rules, whose order gives the numbers that Match
// returns. Two rules with one id are an error.
func Compile(rules []*Rule) (*Set, error) {
	if _, errs := uniqueIDs(rules); len(errs) > 0 {
		return nil, fmt.Errorf("compiling rules: %w", errs[0])
	}
	s := &Set{rules: slices.Clone(rules), ids: map[string]int32{}, byID: map[string]int{}}
	fieldIDs := map[string]int32{}
	for n, r := range rules {
		s.byID[r.ID] = n
		if r.cond == nil {
			return nil, fmt.Errorf("compiling rules: rule %q was not loaded", r.ID)
		}
		if r.Mapped() {
			s.roots = append(s.roots, never)
			continue
		}
		sels := make([]*expr, len(r.selections))
		for i, e := range r.selections {
			sels[i] = s.intern(e, fieldIDs)
		}
		s.roots = append(s.roots, s.link(r.cond, sels))
	}
	s.paths = jsondoc.NewPaths(s.fields)
	s.index.Store(s.buildIndex(nil))
	var err error
	if s.mapped, err = compileMapped(rules); err != nil {
		return nil, err
	}
	if s.hash, err = hashRules(rules); err != nil {
		return nil, fmt.Errorf("compiling rules: %w", err)
	}
	return s, nil
}

// Rules returns the rules in the order of their numbers. The slice is the
// Set's own.
func (s *Set) Rules() []*Rule { return s.rules }

// Index returns the number of the rule with this id.
func (s *Set) Index(id string) (number int, ok bool) {
	number, ok = s.byID[id]
	return number, ok
}

// Hash identifies what the bundle means: the rules' logic, placeholders filled
// in, and what staunch reads of the rest, whatever the files' layout, comments
// and order.
func (s *Set) Hash() string { return s.hash }

// intern copies a selection's expression with its predicates interned.
func (s *Set) intern(e *expr, fieldIDs map[string]int32) *expr {
	out := &expr{op: e.op, line: e.line}
	if e.op == opPred {
		id, ok := s.ids[e.pred.key]
		if !ok {
			field := func(name string, path jsondoc.Path) int32 {
				if name == "" {
					return -1
				}
				id, ok := fieldIDs[name]
				if !ok {
					id = int32(len(s.fields))
					fieldIDs[name] = id
					s.fields = append(s.fields, path)
				}
				return id
			}
			id = int32(len(s.preds))
			s.ids[e.pred.key] = id
			s.preds = append(s.preds, question{e.pred, field(e.pred.field, e.pred.path), field(e.pred.ref, e.pred.refPath)})
		}
		out.id, out.pred = id, e.pred
		return out
	}
	for _, k := range e.kids {
		out.kids = append(out.kids, s.intern(k, fieldIDs))
	}
	sortByCost(out)
	return out
}

// link copies a condition with the selections in their places. Selections that
// are named often are shared.
func (s *Set) link(e *expr, sels []*expr) *expr {
	if e.op == opRef {
		return sels[e.ref]
	}
	out := &expr{op: e.op, line: e.line}
	for _, k := range e.kids {
		out.kids = append(out.kids, s.link(k, sels))
	}
	sortByCost(out)
	return out
}

func sortByCost(e *expr) {
	sort.SliceStable(e.kids, func(i, k int) bool { return cost(e.kids[i]) < cost(e.kids[k]) })
}

// cost is at most a few levels deep in work: children are costed once when
// their parent is sorted.
func cost(e *expr) int {
	if e.op == opPred {
		return e.pred.cost()
	}
	if e.weight == 0 {
		for _, k := range e.kids {
			e.weight = min(e.weight+cost(k), 1<<20)
		}
	}
	return e.weight
}

// Scratch is what matching needs beside the record; keep one for each
// goroutine. The zero Scratch is ready.
type Scratch struct {
	set    *Set
	index  *index
	doc    *jsondoc.Doc
	root   jsondoc.Value
	found  jsondoc.Found
	epoch  uint32
	answer []answer // per predicate
	field  []fieldState
	vals   []value
	tmp    []jsondoc.Value
	arena  []byte // folded texts and texts of objects

	notedAt []uint32 // per anchor, the epoch of the last record that has it
	anchors []int32  // that the record has
	cands   []uint64

	hay, foldedHay []byte
	hayAt          uint32 // epochs for which they are right
	foldedAt       uint32

	flat, foldedFlat []byte

	routes map[Logsource]*route
	last   Logsource // the route that was asked for last
	way    *route
}

type answer struct {
	epoch uint32
	yes   bool
}

type fieldState struct {
	epoch    uint32 // of from and to
	from, to int32
}

// begin turns to another record.
func (sc *Scratch) begin(s *Set, doc *jsondoc.Doc) {
	if ix := s.index.Load(); sc.set != s || sc.index != ix {
		*sc = Scratch{
			set: s, index: ix, answer: make([]answer, len(s.preds)), field: make([]fieldState, len(s.fields)),
			notedAt: make([]uint32, ix.anchors), cands: make([]uint64, len(ix.always)), routes: map[Logsource]*route{},
		}
	}
	if sc.epoch++; sc.epoch == 0 { // wrapped: old answers would look new
		clear(sc.answer)
		clear(sc.field)
		clear(sc.notedAt)
		sc.hayAt, sc.foldedAt = 0, 0
		sc.epoch = 1
	}
	sc.doc, sc.root = doc, doc.Root()
	s.paths.Find(doc, &sc.found)
	sc.anchors = sc.anchors[:0]
	sc.vals = sc.vals[:0]
	sc.arena = sc.arena[:0]
}

// values returns the values of a field, arrays spread. The slice is valid
// until the next field is asked for.
func (sc *Scratch) values(field int32) []value {
	f := &sc.field[field]
	if f.epoch == sc.epoch {
		return sc.vals[f.from:f.to]
	}
	sc.tmp = sc.found.Append(sc.tmp[:0], field)
	f.epoch, f.from = sc.epoch, int32(len(sc.vals))
	for _, v := range sc.tmp {
		val := value{kind: v.Kind(), v: v}
		switch val.kind {
		case jsondoc.Object, jsondoc.Array:
			raw := v.Raw()
			if bytes.IndexByte(raw, '\\') < 0 {
				val.text = raw
				break
			}
			from := len(sc.arena)
			sc.arena = v.AppendText(sc.arena)
			val.text = sc.arena[from:len(sc.arena):len(sc.arena)]
		case jsondoc.Number:
			val.text = v.Bytes()
			n, ok := val.number()
			if !ok {
				break
			}
			from := len(sc.arena)
			sc.arena = n.text(sc.arena)
			if alt := sc.arena[from:len(sc.arena):len(sc.arena)]; !bytes.Equal(alt, val.text) {
				val.alt = alt
			} else {
				sc.arena = sc.arena[:from]
			}
		default:
			val.text = v.Bytes()
		}
		sc.vals = append(sc.vals, val)
	}
	f.to = int32(len(sc.vals))
	return sc.vals[f.from:f.to]
}

// exists reports whether the field is there, whatever it holds.
func (sc *Scratch) exists(field int32) bool { return sc.found.Exists(field) }

// haystack returns the record's keys and scalars with boundaries around each,
// folded unless asked for as they are.
func (sc *Scratch) haystack(asIs bool) []byte {
	if sc.hayAt != sc.epoch {
		sc.hayAt = sc.epoch
		sc.hay = append(sc.hay[:0], boundary)
		sc.root.Nested(func(v jsondoc.Value) {
			if k := v.Key(); k != nil {
				sc.hay = append(append(sc.hay, k...), boundary)
			}
			if t := v.Bytes(); t != nil {
				sc.hay = append(append(sc.hay, t...), boundary)
			}
		})
	}
	if asIs {
		return sc.hay
	}
	if sc.foldedAt != sc.epoch {
		sc.foldedAt = sc.epoch
		f, grown := fold(sc.foldedHay[:0], sc.hay)
		if len(grown) == 0 { // nothing to fold
			grown = append(grown, f...)
		}
		sc.foldedHay = grown
	}
	return sc.foldedHay
}

// ask answers a predicate, once a record.
func (s *Set) ask(sc *Scratch, id int32) bool {
	a := &sc.answer[id]
	if a.epoch != sc.epoch {
		q := &s.preds[id]
		yes := q.eval(sc, q.fieldID, q.refID)
		*a = answer{sc.epoch, yes}
	}
	return a.yes
}

func (s *Set) holds(sc *Scratch, e *expr) bool {
	switch e.op {
	case opPred:
		return s.ask(sc, e.id)
	case opNot:
		return !s.holds(sc, e.kids[0])
	case opAnd:
		for _, k := range e.kids {
			if !s.holds(sc, k) {
				return false
			}
		}
		return true
	default:
		for _, k := range e.kids {
			if s.holds(sc, k) {
				return true
			}
		}
		return false
	}
}

const maxRoutes = 256

// route is what is for the records of one log source.
type route struct {
	rules    []uint64
	fields   []bool // whether a rule has an anchor on the field
	anywhere bool
}

// route returns the rules for a log source.
func (sc *Scratch) route(ls Logsource) *route {
	if sc.way != nil && sc.last == ls {
		return sc.way
	}
	r, ok := sc.routes[ls]
	if !ok {
		if len(sc.routes) >= maxRoutes { // log sources come from configuration; this is a bound all the same
			clear(sc.routes)
		}
		r = sc.newRoute(ls)
		sc.routes[ls] = r
	}
	sc.last, sc.way = ls, r
	return r
}

func (sc *Scratch) newRoute(ls Logsource) *route {
	r := &route{rules: make([]uint64, len(sc.index.always)), fields: make([]bool, len(sc.set.fields))}
	for i, rule := range sc.set.rules {
		if ls.Covers(rule.Logsource) {
			r.rules[i/64] |= 1 << (i % 64)
		}
	}
	for id, rules := range sc.index.leads {
		for _, i := range rules {
			if r.rules[i/64]&(1<<(i%64)) == 0 {
				continue
			}
			if f := sc.index.where[id]; f >= 0 {
				r.fields[f] = true
			} else {
				r.anywhere = true
			}
			break
		}
	}
	return r
}

// Match appends to dst the numbers, in ascending order, of the rules for the
// log source that the record matches. It does not allocate for a record that
// matches nothing once scratch has grown to the records' size; regular
// expressions may, where Go's do. A nil scratch costs a new one.
func (s *Set) Match(doc *jsondoc.Doc, ls Logsource, scratch *Scratch, dst []int) []int {
	if !doc.Root().Exists() {
		return dst
	}
	if scratch == nil {
		scratch = new(Scratch)
	}
	sc := scratch
	sc.begin(s, doc)
	route := sc.route(ls)
	sc.index.find(sc, route)
	copy(sc.cands, sc.index.always)
	for _, id := range sc.anchors {
		for _, r := range sc.index.leads[id] {
			sc.cands[r/64] |= 1 << (r % 64)
		}
	}
	for w, set := range sc.cands {
		for set &= route.rules[w]; set != 0; set &= set - 1 {
			i := w*64 + bits.TrailingZeros64(set)
			if s.holds(sc, s.roots[i]) {
				dst = append(dst, i)
			}
		}
	}
	return dst
}

// canonical is what of a rule goes into the bundle's hash.
type canonical struct {
	V          int          `json:"v"`
	ID         string       `json:"id"`
	Title      string       `json:"title"`
	Level      string       `json:"level"`
	Status     string       `json:"status"`
	Confidence float64      `json:"confidence"`
	Accuse     []Accusation `json:"accuse"`
	Mode       string       `json:"mode"`
	Logsource  Logsource    `json:"logsource"`
	Mapped     bool         `json:"mapped,omitempty"`
	Tags       []string     `json:"tags"`
	Selections []string     `json:"selections"`
	Condition  string       `json:"condition"`
}

func hashRules(rules []*Rule) (string, error) {
	sorted := slices.Clone(rules)
	sort.Slice(sorted, func(i, k int) bool { return sorted[i].ID < sorted[k].ID })
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, r := range sorted {
		sels := make([]string, len(r.selections))
		for i, e := range r.selections {
			sels[i] = logic(e)
		}
		c := canonical{1, r.ID, r.Title, r.Level, r.Status, r.Confidence, r.Accuse, r.Mode, r.Logsource, r.Mapped(), r.Tags, sels, logic(r.cond)}
		if err := enc.Encode(c); err != nil {
			return "", fmt.Errorf("hashing rule %q: %w", r.ID, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// logic writes an expression as text in which the order of what an AND or OR
// joins does not show. Keys of predicates may hold bytes that are not text, so
// they go in as hexadecimal.
func logic(e *expr) string {
	switch e.op {
	case opRef:
		return "#" + strconv.Itoa(e.ref)
	case opPred:
		return hex.EncodeToString([]byte(e.pred.key))
	}
	kids := make([]string, len(e.kids))
	for i, k := range e.kids {
		kids[i] = logic(k)
	}
	sort.Strings(kids)
	return [...]string{opAnd: "and", opOr: "or", opNot: "not"}[e.op] + "(" + strings.Join(kids, " ") + ")"
}
