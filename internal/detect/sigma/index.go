package sigma

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// index finds the anchors that a record has.
type index struct {
	fields []*fieldIndex // per field; nil where there is nothing to look for
	// anywhere has texts that are looked for in the whole record.
	anywhere *textIndex
	anchors  int
	where    []int32 // per anchor, its field; -1 for anywhere
	// leads are, per anchor, the rules that need it.
	leads [][]int32
	// always are the rules that need none.
	always []uint64
}

// fieldIndex is what one field's values are looked up in.
type fieldIndex struct {
	present int32 // anchor; -1 without one
	equal   map[string]int32
	maxLen  int // of the texts in equal
	text    *textIndex
	nets    *netIndex
}

// newIndex makes an index of those of the anchors that are wanted.
func newIndex(list []anchor, wanted func(int32) bool, fields int, counts *gramCounts) *index {
	ix := &index{fields: make([]*fieldIndex, fields), anchors: len(list)}
	for _, an := range list {
		ix.where = append(ix.where, an.field)
	}
	texts := map[int32][]gramUse{}
	nets := map[int32]map[int32]netip.Prefix{}
	for n, an := range list {
		id := int32(n)
		if !wanted(id) {
			continue
		}
		var f *fieldIndex
		if an.field >= 0 {
			if f = ix.fields[an.field]; f == nil {
				f = &fieldIndex{present: -1}
				ix.fields[an.field] = f
			}
		}
		switch an.kind {
		case anchorEqual:
			if f.equal == nil {
				f.equal = map[string]int32{}
			}
			f.equal[an.text] = id
			f.maxLen = max(f.maxLen, len(an.text))
		case anchorPresent:
			f.present = id
		case anchorNet:
			if nets[an.field] == nil {
				nets[an.field] = map[int32]netip.Prefix{}
			}
			nets[an.field][id] = an.net
		default:
			texts[an.field] = append(texts[an.field], gramUse{text: an.text, anchor: id, start: an.start, end: an.end})
		}
	}
	for field, uses := range texts {
		t := newTextIndex(uses, counts)
		if field < 0 {
			ix.anywhere = t
		} else {
			ix.fields[field].text = t
		}
	}
	for field, n := range nets {
		ix.fields[field].nets = newNetIndex(n)
	}
	return ix
}

// find notes in the scratch the anchors that its record has.
func (ix *index) find(sc *Scratch, r *route) {
	for _, field := range sc.found.There() {
		f := ix.fields[field]
		if f == nil || r != nil && !r.fields[field] {
			continue
		}
		if f.present >= 0 {
			sc.note(f.present)
		}
		if f.equal == nil && f.text == nil && f.nets == nil {
			continue
		}
		vals := sc.values(field)
		for i := range vals {
			if v := &vals[i]; v.kind != jsondoc.Null {
				f.find(sc, v)
			}
		}
	}
	if ix.anywhere != nil && (r == nil || r.anywhere) {
		ix.anywhere.find(sc, sc.whole())
	}
}

func (f *fieldIndex) find(sc *Scratch, v *value) {
	if f.equal != nil {
		if !tooLong(v.text, f.maxLen) {
			if id, ok := f.equal[string(sc.foldedText(v))]; ok {
				sc.note(id)
			}
		}
		if v.alt != nil {
			if id, ok := f.equal[string(v.alt)]; ok {
				sc.note(id)
			}
		}
	}
	if f.text != nil {
		f.text.find(sc, sc.foldedText(v))
	}
	if f.nets != nil {
		if a, ok := parseAddr(v.text); ok {
			f.nets.find(sc, a)
		}
	}
}

// note says that the record has an anchor.
func (sc *Scratch) note(anchor int32) {
	if sc.noted(anchor) {
		return
	}
	sc.notedAt[anchor] = sc.epoch
	sc.anchors = append(sc.anchors, anchor)
}

func (sc *Scratch) noted(anchor int32) bool { return sc.notedAt[anchor] == sc.epoch }

// whole returns text in which every key and value of the record stands, its
// characters beyond ASCII folded.
func (sc *Scratch) whole() []byte {
	if sc.doc.Plain() {
		return sc.doc.Raw()
	}
	sc.flat = sc.root.AppendText(sc.flat[:0])
	folded, grown := fold(sc.foldedFlat[:0], sc.flat)
	sc.foldedFlat = grown
	return folded
}

// buildIndex chooses each rule's anchors, by their frequency in traffic where
// that is given.
func (s *Set) buildIndex(traffic *Traffic) *index {
	all := newAnchors(s.preds)
	needs := make([]*need, len(s.roots))
	for i, root := range s.roots {
		needs[i] = all.needs(root, false)
	}
	share := all.guess()
	counts := new(gramCounts)
	for _, an := range all.list {
		if an.kind == anchorText || an.kind == anchorAnywhere {
			counts.add([]byte(an.text[:min(len(an.text), maxGramText)]))
		}
	}
	if traffic != nil && len(traffic.records) > 0 {
		traffic.measure(s, all.list, share, counts)
	}
	for i, an := range all.list {
		share[i] += work[an.kind]
	}
	leads := make([][]int32, len(all.list))
	always := make([]uint64, (len(s.rules)+63)/64)
	for i, n := range needs {
		var c *clause
		if n != nil {
			c = n.choose(share)
		}
		if c == nil || math.IsInf(c.cost, 1) {
			always[i/64] |= 1 << (i % 64)
			continue
		}
		for _, id := range c.anchors {
			if l := leads[id]; len(l) == 0 || l[len(l)-1] != int32(i) {
				leads[id] = append(l, int32(i))
			}
		}
	}
	ix := newIndex(all.list, func(id int32) bool { return len(leads[id]) > 0 }, len(s.fields), counts)
	ix.leads, ix.always = leads, always
	return ix
}

// Traffic is a sample of records by which [Set.Train] chooses what to look for
// first. The zero Traffic is ready; it is not safe for concurrent use.
type Traffic struct {
	records [][]byte
	bytes   int
	seen    uint64
	random  uint64
}

// How much of the traffic is kept.
const (
	maxSample      = 512
	maxSampleBytes = 1 << 20
	maxSampled     = 16 << 10 // size of one record
)

// Observe may keep a copy of the record: of many records, each with the same
// chance. Very large ones are left out.
func (t *Traffic) Observe(doc *jsondoc.Doc) {
	raw := doc.Raw()
	if len(raw) == 0 || len(raw) > maxSampled {
		return
	}
	t.seen++
	if len(t.records) < maxSample && t.bytes+len(raw) <= maxSampleBytes {
		t.records = append(t.records, append([]byte(nil), raw...))
		t.bytes += len(raw)
		return
	}
	t.random = t.random*6364136223846793005 + 1442695040888963407 // which record is kept is no secret
	n := t.random >> 11 % t.seen
	if n >= uint64(len(t.records)) || t.bytes-len(t.records[n])+len(raw) > maxSampleBytes {
		return
	}
	t.bytes += len(raw) - len(t.records[n])
	t.records[n] = append(t.records[n][:0], raw...)
}

// Len returns how many records are kept.
func (t *Traffic) Len() int { return len(t.records) }

// prior is how many records a guess counts for.
const prior = 4

// measure replaces the guessed shares by what the sample says and counts its
// grams.
func (t *Traffic) measure(s *Set, list []anchor, share []float64, counts *gramCounts) {
	ix := newIndex(list, func(int32) bool { return true }, len(s.fields), counts)
	sample := &Set{preds: s.preds, fields: s.fields, paths: s.paths}
	sample.index.Store(ix)
	doc := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	hits := make([]int, len(list))
	for _, raw := range t.records {
		if doc.Parse(raw) != nil {
			continue // parsed when it was observed, under other limits
		}
		sc.begin(sample, doc)
		ix.find(&sc, nil)
		for _, id := range sc.anchors {
			hits[id]++
		}
		counts.add(raw)
	}
	for i := range share {
		share[i] = (float64(hits[i]) + share[i]*prior) / (float64(len(t.records)) + prior)
	}
}

// Train returns the same Set with an index that fits the traffic. What it
// matches stays the same, whatever the traffic was.
func (s *Set) Train(traffic *Traffic) *Set {
	t := &Set{rules: s.rules, roots: s.roots, preds: s.preds, byID: s.byID, ids: s.ids, fields: s.fields, paths: s.paths, hash: s.hash, mapped: s.mapped}
	t.fit.done.Store(true)
	t.index.Store(t.buildIndex(traffic))
	return t
}

// fitting is how far a Set is with fitting its index by itself.
type fitting struct {
	done    atomic.Bool
	mu      sync.Mutex
	traffic Traffic
	seen    int
}

// fitAfter is how many records an index is fitted to.
const fitAfter = 512

// Observe shows the Set a record that it is used on. After some hundred of them
// it fits its index to those, once, which takes about as long as compiling it;
// nobody else waits for that. Calling it is not necessary, and does not change
// what the Set matches. It is safe for concurrent use.
func (s *Set) Observe(doc *jsondoc.Doc) {
	f := &s.fit
	if f.done.Load() || !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	if f.done.Load() {
		return
	}
	f.traffic.Observe(doc)
	if f.seen++; f.seen < fitAfter {
		return
	}
	s.index.Store(s.buildIndex(&f.traffic))
	f.done.Store(true)
	f.traffic = Traffic{}
}
