package jsondoc

import (
	"encoding/binary"
	"math/bits"
)

// Paths looks many paths up at once, in one walk over the members that one of
// them goes through. For each path it finds what [Value.Append] and [Value.At]
// find, though not in an order of its own. It does not change, so any number of
// goroutines may use it, each with its own [Found].
type Paths struct {
	list []Path
	root *pathNode
	// alone are paths that the walk does not know: with an index, with very many
	// segments, or heeding case.
	alone []int32
}

// pathNode is a place that paths lead to: a prefix of some of them.
type pathNode struct {
	parent *pathNode
	path   int32 // of the list; -1 where none ends
	runs   []pathRun
	slots  []runSlot // hash table over the runs' folded keys; empty without runs
	shift  uint
	kids   map[string]*pathNode // by segment, while building
}

// pathRun is a key that leads on from a place: a run of segments with their
// dots.
type pathRun struct {
	key  string
	to   *pathNode
	same int32 // the next run whose key differs in case only; -1 at the end
}

type runSlot struct {
	hash uint32 // 0: free
	run  int32
}

// maxSegments bounds the runs of a path, of which there are as many as pairs of
// segments.
const maxSegments = 16

// NewPaths compiles paths. They are numbered by their place in the list.
func NewPaths(list []Path) *Paths {
	p := &Paths{list: list, root: &pathNode{path: -1}}
	for n := range list {
		if !list[n].walkable() {
			p.alone = append(p.alone, int32(n))
			continue
		}
		at := p.root
		for _, s := range list[n].segs {
			key := list[n].text[s.start:s.end]
			if at.kids == nil {
				at.kids = map[string]*pathNode{}
			}
			if at.kids[key] == nil {
				at.kids[key] = &pathNode{parent: at, path: -1}
			}
			at = at.kids[key]
		}
		if at.path >= 0 { // the same path again
			p.alone = append(p.alone, int32(n))
			continue
		}
		at.path = int32(n)
	}
	p.root.build()
	return p
}

func (p *Path) walkable() bool {
	if !p.fold || len(p.segs) == 0 || len(p.segs) > maxSegments {
		return false
	}
	for _, s := range p.segs {
		if s.index >= 0 {
			return false
		}
	}
	return true
}

// build makes the runs of a place, and of those behind it, from their
// segments.
func (t *pathNode) build() {
	var gather func(prefix string, at *pathNode)
	gather = func(prefix string, at *pathNode) {
		for key, kid := range at.kids {
			t.runs = append(t.runs, pathRun{key: prefix + key, to: kid, same: -1})
			gather(prefix+key+".", kid)
		}
	}
	gather("", t)
	if len(t.runs) > 0 {
		size := bits.Len(uint(len(t.runs) * 2))
		t.slots = make([]runSlot, 1<<size)
		t.shift = uint(32 - size)
		for i := range t.runs {
			t.insert(int32(i))
		}
	}
	for _, kid := range t.kids {
		kid.build()
	}
}

func (t *pathNode) insert(n int32) {
	r := &t.runs[n]
	h := hashKey([]byte(r.key))
	for i := h >> t.shift; ; i = (i + 1) & uint32(len(t.slots)-1) {
		s := &t.slots[i]
		if s.hash == 0 {
			*s = runSlot{h, n}
			return
		}
		if first := &t.runs[s.run]; s.hash == h && len(first.key) == len(r.key) && equalFoldASCII([]byte(first.key), r.key) {
			r.same, first.same = first.same, n
			return
		}
	}
}

// find returns the first of the runs that a key is, case disregarded; -1
// without one.
func (t *pathNode) find(h uint32, key []byte) int32 {
	for i := h >> t.shift; ; i = (i + 1) & uint32(len(t.slots)-1) {
		s := &t.slots[i]
		if s.hash == 0 {
			return -1
		}
		if s.hash == h {
			if r := &t.runs[s.run]; len(r.key) == len(key) && (r.key == string(key) || equalFoldASCII(key, r.key)) {
				return s.run
			}
		}
	}
}

const lowerCase = 0x2020202020202020

// hashKey mixes the length and the first and last eight bytes of a key, case
// disregarded. It is never 0.
func hashKey(key []byte) uint32 {
	var head, tail uint64
	if n := len(key); n >= 8 {
		head = binary.LittleEndian.Uint64(key)
		tail = binary.LittleEndian.Uint64(key[n-8:])
	} else {
		for i, c := range key {
			tail |= uint64(c) << (8 * i)
		}
	}
	return mixKey(head, tail, len(key))
}

func mixKey(head, tail uint64, n int) uint32 {
	h := (head|lowerCase)*0x9e3779b97f4a7c15 ^ (tail|lowerCase)*0xc2b2ae3d27d4eb4f ^ uint64(n)*0x165667b19e3779f9
	return uint32(h>>32) | 1
}

// hashMember is hashKey of a member's key, which is read with what stands
// before it.
func (d *Doc) hashMember(n *node) uint32 {
	size := n.kend - n.kstart
	if n.flags&flagKeyEscaped != 0 || n.kend < 8 {
		return hashKey(d.key(n))
	}
	tail := binary.LittleEndian.Uint64(d.raw[n.kend-8:])
	var head uint64
	if size >= 8 {
		head = binary.LittleEndian.Uint64(d.raw[n.kstart:])
	} else {
		tail >>= 8 * (8 - size) & 63
		if size == 0 {
			tail = 0
		}
	}
	return mixKey(head, tail, int(size))
}

// Found is what a record has for each of the paths. The zero Found is ready;
// it is reused from record to record.
type Found struct {
	paths *Paths
	doc   *Doc
	epoch uint32
	state []found // per path
	hits  []hit
	there []int32 // paths that lead to something
	// Of the objects that the walk is in: runs that are keys exactly, and those
	// that are in another case.
	exact []*pathNode
	late  []fold
	tmp   []Value
}

type found struct {
	epoch       uint32
	first, last int32 // of hits; -1 without any
}

type hit struct {
	node, next int32
}

// fold is a member whose key is a run's in another case.
type fold struct {
	member int32
	to     *pathNode
}

// Find looks all paths up from the record's top value.
func (p *Paths) Find(d *Doc, f *Found) {
	if f.paths != p {
		*f = Found{paths: p, state: make([]found, len(p.list))}
	}
	if f.epoch++; f.epoch == 0 { // wrapped: old entries would look new
		clear(f.state)
		f.epoch = 1
	}
	f.doc = d
	f.hits, f.there, f.exact, f.late = f.hits[:0], f.there[:0], f.exact[:0], f.late[:0]
	root := d.Root()
	if !root.Exists() {
		return
	}
	if !f.visit(0, p.root) {
		// Keys that are paths in two cases at once: look each path up on its own.
		for i := range f.state {
			f.state[i].epoch = 0
		}
		f.hits, f.there = f.hits[:0], f.there[:0]
		for n := range p.list {
			f.lookUp(root, int32(n))
		}
		return
	}
	for _, n := range p.alone {
		f.lookUp(root, n)
	}
}

func (f *Found) lookUp(root Value, path int32) {
	p := f.paths.list[path]
	if !root.At(p).Exists() {
		return
	}
	f.mark(path)
	f.tmp = root.Append(f.tmp[:0], p)
	for _, v := range f.tmp {
		f.add(path, v.i)
	}
}

// mark says that a path leads to something.
func (f *Found) mark(path int32) {
	if s := &f.state[path]; s.epoch != f.epoch {
		*s = found{epoch: f.epoch, first: -1, last: -1}
		f.there = append(f.there, path)
	}
}

// add gives a path, which is marked, a value.
func (f *Found) add(path, node int32) {
	s := &f.state[path]
	n := int32(len(f.hits))
	f.hits = append(f.hits, hit{node, -1})
	if s.first < 0 {
		s.first = n
	} else {
		f.hits[s.last].next = n
	}
	s.last = n
}

// visit looks at a value that a prefix of paths leads to. It returns false
// where the walk cannot tell which keys count.
func (f *Found) visit(i int32, t *pathNode) bool {
	n := &f.doc.nodes[i]
	if t.path >= 0 {
		f.mark(t.path)
		if n.kind != Array {
			f.add(t.path, i)
		}
	}
	switch n.kind {
	case Object:
		if len(t.runs) > 0 {
			return f.object(i, t)
		}
	case Array:
		if t.path >= 0 || len(t.runs) > 0 {
			nodes := f.doc.nodes
			for k, end := i+1, n.next; k < end; k = nodes[k].next {
				if !f.visit(k, t) {
					return false
				}
			}
		}
	}
	return true
}

func (f *Found) object(i int32, t *pathNode) bool {
	d := f.doc
	nodes := d.nodes
	end := nodes[i].next
	exact, late := len(f.exact), len(f.late)
	for k := i + 1; k < end; k = nodes[k].next {
		m := &nodes[k]
		h := d.hashMember(m)
		if s := &t.slots[h>>t.shift]; s.hash == 0 {
			continue
		}
		r := t.find(h, d.key(m))
		if r < 0 {
			continue
		}
		key := d.key(m)
		for ; r >= 0; r = t.runs[r].same {
			if t.runs[r].key != string(key) {
				f.late = append(f.late, fold{k, t.runs[r].to})
				continue
			}
			f.exact = append(f.exact, t.runs[r].to)
			if !f.visit(k, t.runs[r].to) {
				return false
			}
		}
	}
	ok := len(f.late) == late || nodes[i].n > maxFoldMembers || f.folded(exact, late)
	f.exact, f.late = f.exact[:exact], f.late[:late]
	return ok
}

// folded goes on from the members whose keys differ from paths in case: the
// first of each key, and only for paths of which the object has no exact key.
func (f *Found) folded(exact, late int) bool {
	exacts, lates := f.exact[exact:], f.late[late:]
next:
	for n, l := range lates {
		for _, earlier := range lates[:n] {
			if earlier.to == l.to {
				continue next
			}
		}
		for _, e := range exacts {
			if l.to.under(e) {
				continue next
			}
			if e.under(l.to) {
				return false // it counts for some of the paths behind
			}
		}
		if !f.visit(l.member, l.to) {
			return false
		}
	}
	return true
}

// under reports whether all paths through t go through top.
func (t *pathNode) under(top *pathNode) bool {
	for ; t != nil; t = t.parent {
		if t == top {
			return true
		}
	}
	return false
}

// There returns the numbers of the paths that lead to something, be it null or
// an empty array. The slice is valid until the next Find.
func (f *Found) There() []int32 { return f.there }

// Exists reports whether [Value.At] would find something.
func (f *Found) Exists(path int32) bool { return f.state[path].epoch == f.epoch }

// Append appends the values of a path, arrays spread.
func (f *Found) Append(dst []Value, path int32) []Value {
	s := &f.state[path]
	if s.epoch != f.epoch {
		return dst
	}
	for n := s.first; n >= 0; n = f.hits[n].next {
		dst = append(dst, Value{f.doc, f.hits[n].node})
	}
	return dst
}
