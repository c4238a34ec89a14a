package sigma

import (
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// TaxonomyOCSF is the taxonomy of rules whose fields are OCSF's.
const TaxonomyOCSF = "ocsf"

// Mapped reports whether the rule's fields are those of the OCSF event that a
// record is mapped to, and not those of the record.
func (r *Rule) Mapped() bool { return strings.EqualFold(r.Taxonomy, TaxonomyOCSF) }

// never is the logic of a mapped rule where records are matched as they came.
var never = &expr{op: opOr}

// mappedSet has the rules of a Set that are evaluated on the mapped event.
type mappedSet struct {
	set     *Set
	numbers []int // in the whole Set, ascending
	// wants has the rules' log sources without the category, which the event's
	// class gives, each once.
	wants []Logsource
}

func compileMapped(rules []*Rule) (*mappedSet, error) {
	m := &mappedSet{}
	var own []*Rule
	for n, r := range rules {
		if r.Mapped() {
			raw := *r
			raw.Taxonomy = ""
			own = append(own, &raw)
			m.numbers = append(m.numbers, n)
			want := r.Logsource
			want.Category = ""
			if !slices.Contains(m.wants, want) {
				m.wants = append(m.wants, want)
			}
		}
	}
	if len(own) == 0 {
		return nil, nil
	}
	var err error
	m.set, err = Compile(own)
	return m, err
}

func (m *mappedSet) explain(doc *jsondoc.Doc, rule int) *Explanation {
	n, ok := slices.BinarySearch(m.numbers, rule)
	if !ok {
		panic("sigma: rule is not among the mapped ones")
	}
	return m.set.Explain(doc, n)
}

// NeedsMapped reports whether MatchMapped could find anything for records of
// the log source.
func (s *Set) NeedsMapped(ls Logsource) bool {
	if s.mapped == nil {
		return false
	}
	for _, want := range s.mapped.wants {
		if want == (Logsource{}) || ls.Covers(want) {
			return true
		}
	}
	return false
}

// MappedScratch is what MatchMapped needs; keep one for each goroutine. The zero
// MappedScratch is ready.
type MappedScratch struct {
	scratch Scratch
	doc     *jsondoc.Doc
	own     []int
}

// MatchMapped appends to dst the numbers, in ascending order, of the mapped
// rules that the event matches, and keeps dst in order. event is the OCSF event
// as JSON, ls the record's log source; see [MappedLogsource].
func (s *Set) MatchMapped(event []byte, ls Logsource, sc *MappedScratch, dst []int) ([]int, error) {
	if s.mapped == nil {
		return dst, nil
	}
	if sc.doc == nil {
		sc.doc = jsondoc.New(jsondoc.Limits{})
	}
	if err := sc.doc.Parse(event); err != nil {
		return dst, fmt.Errorf("reading the mapped event: %w", err)
	}
	sc.own = s.mapped.set.Match(sc.doc, MappedLogsource(sc.doc, ls), &sc.scratch, sc.own[:0])
	for _, n := range sc.own {
		dst = append(dst, s.mapped.numbers[n])
	}
	if len(sc.own) > 0 {
		slices.Sort(dst)
	}
	return dst, nil
}

func orOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

var (
	pathClass     = jsondoc.ParsePath("class_name")
	pathClassID   = jsondoc.ParsePath("class_uid")
	pathOCSFModel = jsondoc.ParsePath("metadata.version")
)

// MappedLogsource is a record's log source as mapped rules see it: the event's
// class is the category, API Activity as api_activity, unless the record has one.
func MappedLogsource(event *jsondoc.Doc, ls Logsource) Logsource {
	if ls.Category == "" {
		ls.Category = strings.ReplaceAll(strings.ToLower(event.Root().At(pathClass).String()), " ", "_")
	}
	return ls
}

// IsMapped reports whether a record is an OCSF event as it came, so that it need
// not be mapped.
func IsMapped(record *jsondoc.Doc) bool {
	root := record.Root()
	return root.At(pathClassID).Kind() == jsondoc.Number && root.At(pathOCSFModel).Kind() == jsondoc.String
}
