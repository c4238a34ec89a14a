package jsondoc

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Value is one value of a Doc. The zero Value is absent; every method is safe
// on it. A Value is valid until the Doc's next Parse.
type Value struct {
	d *Doc
	i int32
}

// Kind returns the value's kind.
func (v Value) Kind() Kind {
	if v.d == nil {
		return Absent
	}
	return v.d.nodes[v.i].kind
}

// Exists reports whether the value is there; null is.
func (v Value) Exists() bool { return v.d != nil }

// Index returns the element i of an array, counted from 0, or the absent
// value.
func (v Value) Index(i int) Value {
	if v.Kind() != Array || i < 0 {
		return Value{}
	}
	n := v.d.nodes[v.i]
	if i >= int(n.n) {
		return Value{}
	}
	c := v.i + 1
	for ; i > 0; i-- {
		c = v.d.nodes[c].next
	}
	return Value{v.d, c}
}

// Len returns the number of an array's elements or an object's members, the
// length in bytes of a string's decoded text, and 0 for anything else.
func (v Value) Len() int {
	switch v.Kind() {
	case Array, Object:
		return int(v.d.nodes[v.i].n)
	case String:
		return len(v.Bytes())
	default:
		return 0
	}
}

// Get returns the member with exactly this key, or the absent value.
func (v Value) Get(key string) Value {
	if v.d == nil {
		return Value{}
	}
	d := v.d
	n := &d.nodes[v.i]
	if n.kind != Object {
		return Value{}
	}
	if n.flags&flagHashed != 0 {
		return d.lookup(v.i, key)
	}
	for i := v.i + 1; i < n.next; {
		c := &d.nodes[i]
		if int(c.kend-c.kstart) == len(key) && string(d.key(c)) == key {
			return Value{d, i}
		}
		i = c.next
	}
	return Value{}
}

// GetFold returns the member with this key exactly, else the first whose key
// equals it under Unicode case folding, else the absent value.
func (v Value) GetFold(key string) Value {
	if m := v.Get(key); m.Exists() || v.Kind() != Object {
		return m
	}
	k := []byte(key)
	for i, end := v.i+1, v.d.nodes[v.i].next; i < end; i = v.d.nodes[i].next {
		if bytes.EqualFold(v.d.key(&v.d.nodes[i]), k) {
			return Value{v.d, i}
		}
	}
	return Value{}
}

// Raw returns the value's JSON text as it stands in the record; nil when
// absent.
func (v Value) Raw() []byte {
	if v.d == nil {
		return nil
	}
	n := &v.d.nodes[v.i]
	return v.d.raw[n.start:n.end:n.end]
}

// Bytes returns the decoded text of a string, the literal text of a number or
// a bool, and nil for anything else. The result must not be written to.
func (v Value) Bytes() []byte {
	if v.d == nil {
		return nil
	}
	n := &v.d.nodes[v.i]
	switch n.kind {
	case String:
		if n.flags&flagEscaped != 0 {
			end := uint32(n.n) + n.alen
			return v.d.arena[n.n:end:end]
		}
		return v.d.raw[n.start+1 : n.end-1 : n.end-1]
	case Number, Bool:
		return v.d.raw[n.start:n.end:n.end]
	default:
		return nil
	}
}

// String returns Bytes as a string, which it copies.
func (v Value) String() string { return string(v.Bytes()) }

// Key returns the decoded key of an object's member, and nil for an element of
// an array or the top value.
func (v Value) Key() []byte {
	if v.d == nil {
		return nil
	}
	n := &v.d.nodes[v.i]
	if n.kstart == 0 && n.kend == 0 && n.flags&flagKeyEscaped == 0 {
		return nil // a member's key has a quote before it
	}
	return v.d.key(n)
}

// Offset returns where the value's text begins in the record, in bytes; -1
// when absent.
func (v Value) Offset() int {
	if v.d == nil {
		return -1
	}
	return int(v.d.nodes[v.i].start)
}

// Bool returns a bool's value; ok is false for any other kind.
func (v Value) Bool() (value, ok bool) {
	if v.Kind() != Bool {
		return false, false
	}
	return v.d.raw[v.d.nodes[v.i].start] == 't', true
}

// Int64 returns a number's value if it is a whole number that fits, however
// it is written (1e3 and 5.0 are whole); ok is false otherwise and for any
// other kind.
func (v Value) Int64() (value int64, ok bool) {
	if v.Kind() != Number {
		return 0, false
	}
	b := v.Bytes()
	if n, ok := plainInt(b); ok {
		return n, true
	}
	if !bytes.ContainsAny(b, ".eE") {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			return 0, false
		}
		return n, true
	}
	f, ok := v.Float64()
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// plainInt reads up to eighteen digits, which cannot overflow.
func plainInt(b []byte) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}

// Float64 returns a number's nearest float64; ok is false when it is out of
// range and for any other kind.
func (v Value) Float64() (value float64, ok bool) {
	if v.Kind() != Number {
		return 0, false
	}
	b := v.Bytes()
	if n, ok := plainInt(b); ok && n > -1<<53 && n < 1<<53 && (n != 0 || b[0] != '-') {
		return float64(n), true
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return 0, false
	}
	return f, true
}

// Each calls fn for an object's members in their order until fn returns
// false. It does nothing for other kinds.
func (v Value) Each(fn func(key []byte, member Value) bool) {
	if v.Kind() != Object {
		return
	}
	d := v.d
	for i, end := v.i+1, d.nodes[v.i].next; i < end; i = d.nodes[i].next {
		if !fn(d.key(&d.nodes[i]), Value{d, i}) {
			return
		}
	}
}

// Items calls fn for an array's elements in their order until fn returns
// false. It does nothing for other kinds.
func (v Value) Items(fn func(element Value) bool) {
	if v.Kind() != Array {
		return
	}
	d := v.d
	for i, end := v.i+1, d.nodes[v.i].next; i < end; i = d.nodes[i].next {
		if !fn(Value{d, i}) {
			return
		}
	}
}

// Leaves calls fn for every scalar in the value's subtree, the value itself
// included, in the order of the text, until fn returns false.
func (v Value) Leaves(fn func(leaf Value) bool) {
	if v.d == nil {
		return
	}
	d := v.d
	end := d.nodes[v.i].next
	for i := v.i; i < end; i++ {
		if k := d.nodes[i].kind; k == Array || k == Object {
			continue
		}
		if !fn(Value{d, i}) {
			return
		}
	}
}

// AppendText appends the value as text to search in: the decoded text of a
// string, the literal of a number, a bool or null, and for an array or object
// its JSON text with the escapes inside its strings resolved (so it need not be
// JSON any more). Absent appends nothing.
func (v Value) AppendText(dst []byte) []byte {
	if v.Kind() == String {
		return append(dst, v.Bytes()...)
	}
	raw := v.Raw()
	if bytes.IndexByte(raw, '\\') < 0 {
		return append(dst, raw...)
	}
	// Parse has checked the escapes, and outside strings there are none.
	dst, _ = appendUnescaped(dst, raw, 0, len(raw))
	return dst
}

// Nested calls fn for every value in the value's subtree, itself first, in the
// order of the text.
func (v Value) Nested(fn func(Value)) {
	if v.d == nil {
		return
	}
	for i, end := v.i, v.d.nodes[v.i].next; i < end; i++ {
		fn(Value{v.d, i})
	}
}

// Path is a compiled dotted path such as
// userIdentity.sessionContext.sessionIssuer.arn or items[0].name.
//
// Keys may contain the dots literally: at every object the longest run of
// segments that is one of its keys is tried first, so a.b finds both
// {"a":{"b":1}} and {"a.b":1}. The zero Path is the value itself.
type Path struct {
	text string
	segs []segment
	fold bool
}

type segment struct {
	start, end int // in text, without the dot
	index      int // of [n]; -1 for a key
}

// ParsePath compiles a path. Every text is a path: what does not read as
// segments is a literal key.
func ParsePath(s string) Path {
	p := Path{text: s}
	if s == "" {
		return p
	}
	start := 0
	for {
		end := strings.IndexByte(s[start:], '.')
		if end < 0 {
			end = len(s)
		} else {
			end += start
		}
		p.segs = appendSegments(p.segs, s, start, end)
		if end == len(s) {
			return p
		}
		start = end + 1
	}
}

// appendSegments cuts the [n] off the end of a segment's key.
func appendSegments(segs []segment, s string, start, end int) []segment {
	key := end
	for key > start && s[key-1] == ']' {
		open := strings.LastIndexByte(s[start:key], '[')
		if open < 0 {
			break
		}
		if _, err := strconv.ParseUint(s[start+open+1:key-1], 10, 31); err != nil {
			break
		}
		key = start + open
	}
	if key > start || key == end {
		segs = append(segs, segment{start, key, -1})
	}
	for key < end {
		stop := key + strings.IndexByte(s[key:end], ']') + 1
		n, _ := strconv.ParseUint(s[key+1:stop-1], 10, 31) // checked above
		segs = append(segs, segment{key, stop, int(n)})
		key = stop
	}
	return segs
}

// Fold returns the path with keys compared without regard to the case of ASCII
// letters where an object has none of the exact ones. Objects of more than 1024
// members are still looked at exactly only, so that a record cannot make
// looking expensive.
func (p Path) Fold() Path {
	p.fold = true
	return p
}

const maxFoldMembers = 1024

// String returns the path as it was written.
func (p Path) String() string { return p.text }

// At returns the first value that the path reaches from v, or the absent
// value. Where the path meets an array without an index it goes on in the
// first element that has the rest; a value that is itself an array is
// returned as one.
func (v Value) At(p Path) Value {
	if v.d == nil {
		return Value{}
	}
	return v.at(&p, 0)
}

func (v Value) at(p *Path, pos int) Value {
	if pos == len(p.segs) {
		return v
	}
	n := &v.d.nodes[v.i]
	switch n.kind {
	case Object:
		fold := false
		for q := len(p.segs); ; q-- {
			var m Value
			if m, q, fold = v.member(p, pos, q, fold); q == pos {
				return Value{}
			}
			if r := m.at(p, q); r.Exists() {
				return r
			}
		}
	case Array:
		if i := p.segs[pos].index; i >= 0 {
			if e := v.Index(i); e.Exists() {
				return e.at(p, pos+1)
			}
			return Value{}
		}
		for i, end := v.i+1, n.next; i < end; i = v.d.nodes[i].next {
			if r := (Value{v.d, i}).at(p, pos); r.Exists() {
				return r
			}
		}
	}
	return Value{}
}

// member returns the object's member whose key is the longest run of the
// path's segments from pos to at most last, and the position behind that run;
// without one the position is pos. When the first call for an object finds no
// exact key and the path allows it, case is disregarded, then and in the calls
// after it, which pass on what was returned.
func (v Value) member(p *Path, pos, last int, fold bool) (Value, int, bool) {
	if last <= pos {
		return Value{}, pos, fold
	}
	if fold {
		m, at := v.foldMember(p, pos, last)
		return m, at, true
	}
	m, at := v.exactMember(p, pos, last)
	if at == pos && p.fold && last == len(p.segs) && v.d.nodes[v.i].n <= maxFoldMembers {
		m, at = v.foldMember(p, pos, last)
		return m, at, true
	}
	return m, at, false
}

func (v Value) exactMember(p *Path, pos, last int) (Value, int) {
	d := v.d
	start := p.segs[pos].start
	n := &d.nodes[v.i]
	if n.flags&flagHashed != 0 {
		for q := last; q > pos; q-- {
			if m := v.Get(p.text[start:p.segs[q-1].end]); m.Exists() {
				return m, q
			}
		}
		return Value{}, pos
	}
	least := uint32(p.segs[pos].end - start)
	rest := p.text[start:p.segs[last-1].end]
	found, at := Value{}, pos
	for i := v.i + 1; i < n.next; {
		c := &d.nodes[i]
		if l := c.kend - c.kstart; l >= least && l <= uint32(len(rest)) && string(d.key(c)) == rest[:l] {
			if q := p.runEnd(start+int(l), at, last); q > at {
				found, at = Value{d, i}, q
			}
		}
		i = c.next
	}
	return found, at
}

func (v Value) foldMember(p *Path, pos, last int) (Value, int) {
	d := v.d
	start := p.segs[pos].start
	n := &d.nodes[v.i]
	least := uint32(p.segs[pos].end - start)
	rest := p.text[start:p.segs[last-1].end]
	found, at := Value{}, pos
	for i := v.i + 1; i < n.next; {
		c := &d.nodes[i]
		if l := c.kend - c.kstart; l >= least && l <= uint32(len(rest)) && equalFoldASCII(d.key(c), rest[:l]) {
			if q := p.runEnd(start+int(l), at, last); q > at {
				found, at = Value{d, i}, q
			}
		}
		i = c.next
	}
	return found, at
}

// runEnd returns the position behind the segment that ends at this byte of the
// path, if it is more than at and at most last, else at.
func (p *Path) runEnd(end, at, last int) int {
	for q := last; q > at; q-- {
		if p.segs[q-1].end == end {
			return q
		}
	}
	return at
}

func equalFoldASCII(a []byte, b string) bool {
	for i := range a { // of equal length
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}

// Walk calls fn for every value that the path reaches from v until fn returns
// false: arrays on the way and at the end are spread, however deep they nest;
// an empty one gives no value.
func (v Value) Walk(p Path, fn func(Value) bool) {
	if v.d != nil {
		v.walk(&p, 0, fn)
	}
}

func (v Value) walk(p *Path, pos int, fn func(Value) bool) bool {
	k := v.d.nodes[v.i].kind
	switch {
	case k == Array && pos < len(p.segs) && p.segs[pos].index >= 0:
		if e := v.Index(p.segs[pos].index); e.Exists() {
			return e.walk(p, pos+1, fn)
		}
	case k == Array:
		for i, end := v.i+1, v.d.nodes[v.i].next; i < end; i = v.d.nodes[i].next {
			if !(Value{v.d, i}).walk(p, pos, fn) {
				return false
			}
		}
	case pos == len(p.segs):
		return fn(v)
	case k == Object:
		fold := false
		for q := len(p.segs); ; q-- {
			var m Value
			if m, q, fold = v.member(p, pos, q, fold); q == pos {
				return true
			}
			if !m.walk(p, q, fn) {
				return false
			}
		}
	}
	return true
}

// Append appends to dst every value that Walk would give, without the cost of
// a call for each.
func (v Value) Append(dst []Value, p Path) []Value {
	if v.d == nil {
		return dst
	}
	return v.append(dst, &p, 0)
}

func (v Value) append(dst []Value, p *Path, pos int) []Value {
	k := v.d.nodes[v.i].kind
	switch {
	case k == Array && pos < len(p.segs) && p.segs[pos].index >= 0:
		if e := v.Index(p.segs[pos].index); e.Exists() {
			return e.append(dst, p, pos+1)
		}
	case k == Array:
		for i, end := v.i+1, v.d.nodes[v.i].next; i < end; i = v.d.nodes[i].next {
			dst = (Value{v.d, i}).append(dst, p, pos)
		}
	case pos == len(p.segs):
		return append(dst, v)
	case k == Object:
		fold := false
		for q := len(p.segs); ; q-- {
			var m Value
			if m, q, fold = v.member(p, pos, q, fold); q == pos {
				return dst
			}
			dst = m.append(dst, p, q)
		}
	}
	return dst
}

// AppendQuoted appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD.
func AppendQuoted(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for len(s) > 0 {
		c := s[0]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s)
			dst = utf8.AppendRune(dst, r)
			s = s[n:]
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c < 0x20 || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
		s = s[1:]
	}
	return append(dst, '"')
}
