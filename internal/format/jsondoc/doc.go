// Package jsondoc provides the decoded JSON record that key extraction, the
// matcher and the mapping share: the bytes are read and checked once, and
// values are then found by walking a flat list of nodes.
//
// A [Doc] is parsed strictly: RFC 8259 syntax, valid UTF-8 everywhere, no lone
// surrogates, no object with the same key twice (compared after unescaping),
// no bytes after the value, and bounds on size, depth and number of nodes. What
// a Doc accepts therefore has one reading only, which matters where one
// component decides and another acts.
//
// A Doc is made to be reused: after a few records of similar size Parse does
// not allocate. Between two calls of Parse a Doc is read-only, so any number of
// goroutines may read it; Parse itself must not run beside readers. Values and
// the byte slices they hand out are valid until the next Parse, and as long as
// the caller leaves the parsed bytes alone.
//
// [Splitter] cuts a stream into records; see its comment for how it tells
// NDJSON, a top-level array and concatenated objects apart.
package jsondoc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// Default bounds of a record, used where [Limits] leaves a field zero.
const (
	DefaultMaxBytes = 10 << 20
	DefaultMaxDepth = 64
	DefaultMaxNodes = 1 << 20
)

// maxBytes keeps every offset, in the text and in the arena of decoded
// strings, inside an int32.
const maxBytes = 1 << 30

// Limits bounds what Parse accepts. A zero or negative field means its
// default.
type Limits struct {
	Bytes int // size of one record's text in bytes
	Depth int // arrays and objects around a value; a scalar at the top has depth 0
	Nodes int // values in the record, containers included
}

// DefaultLimits returns the bounds used for a zero Limits: 10 MiB, depth 64,
// 1<<20 nodes.
func DefaultLimits() Limits {
	return Limits{Bytes: DefaultMaxBytes, Depth: DefaultMaxDepth, Nodes: DefaultMaxNodes}
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultMaxBytes
	}
	if l.Depth <= 0 {
		l.Depth = DefaultMaxDepth
	}
	if l.Nodes <= 0 {
		l.Nodes = DefaultMaxNodes
	}
	l.Bytes = min(l.Bytes, maxBytes)
	l.Nodes = min(l.Nodes, math.MaxInt32-1)
	return l
}

// SyntaxError says where and why a text was refused.
type SyntaxError struct {
	Offset int // byte offset of the problem in the parsed text, from 0
	Reason string
}

// Error returns the reason with its offset.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("invalid JSON at offset %d: %s", e.Offset, e.Reason)
}

// Kind is the type of a value.
type Kind uint8

// The kinds of values. Absent is the kind of the zero Value.
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "bool"
	case Number:
		return "number"
	case String:
		return "string"
	case Array:
		return "array"
	case Object:
		return "object"
	default:
		return "absent"
	}
}

const (
	flagEscaped    uint8 = 1 << iota // the string's decoded text is in the arena
	flagKeyEscaped                   // the key's decoded text is in the arena
	flagHashed                       // the object's members are in the hash table
)

// node is one value. Children follow their container; next skips a subtree.
type node struct {
	start, end   uint32 // the value's JSON text in raw
	kstart, kend uint32 // the member's key, without quotes, in raw or the arena
	next         int32  // index of the first node after this value's subtree
	n            int32  // children of a container; arena offset of an escaped string
	alen         uint32 // decoded length of an escaped string
	kind         Kind
	flags        uint8
}

type frame struct {
	seen [4]uint64 // a filter over the keys seen: no bit, no duplicate
	node int32
	n    int32
	obj  bool
}

// hashAbove is the number of members above which an object's keys go to the
// hash table; below it comparing is cheaper.
const hashAbove = 32

type slot struct {
	epoch  uint32
	hash   uint32
	parent int32
	node   int32
}

// Doc is one parsed record. Make it with [New]; the zero Doc holds nothing and
// accepts nothing.
type Doc struct {
	limits Limits
	raw    []byte
	nodes  []node
	arena  []byte
	stack  []frame

	seed  maphash.Seed
	table []slot // power of two, at most half full
	used  int
	epoch uint32
	plain bool
}

// New returns an empty Doc with the given bounds.
func New(l Limits) *Doc {
	return &Doc{limits: l.withDefaults(), seed: maphash.MakeSeed()}
}

// Limits returns the bounds in force.
func (d *Doc) Limits() Limits { return d.limits }

// Raw returns the text given to the last successful Parse.
func (d *Doc) Raw() []byte { return d.raw }

// Root returns the record's top value; it is absent before the first
// successful Parse and after a failed one.
func (d *Doc) Root() Value {
	if d == nil || len(d.nodes) == 0 {
		return Value{}
	}
	return Value{d, 0}
}

// Nodes returns the number of values in the record.
func (d *Doc) Nodes() int { return len(d.nodes) }

// Plain reports that no string and no key of the record has escapes or
// characters beyond ASCII, so that all of them stand in Raw as they are. It may
// be false for a record that has neither.
func (d *Doc) Plain() bool { return d.plain }

// Parse reads raw, which the Doc keeps and does not copy. Values of an earlier
// Parse become invalid. A refused text gives a [*SyntaxError] and leaves the
// Doc empty.
func (d *Doc) Parse(raw []byte) error {
	d.raw = raw
	d.release(len(raw))
	d.nodes = d.nodes[:0]
	d.arena = d.arena[:0]
	d.stack = d.stack[:0]
	d.used = 0
	d.plain = true
	d.epoch++
	if d.epoch == 0 { // wrapped: old entries would look new
		clear(d.table)
		d.epoch = 1
	}
	var err error
	if d.nodes, err = d.parse(raw); err != nil {
		d.nodes = d.nodes[:0]
		d.raw = nil
		return err
	}
	return nil
}

// What a Doc keeps for the next record at most, unless that is large as well.
const (
	keepNodes = 1 << 15
	keepArena = 1 << 20
)

// release lets go of memory that a record of this size cannot need: a node and
// a byte of decoded text each take at least a byte of text.
func (d *Doc) release(size int) {
	if cap(d.nodes) > keepNodes && size < cap(d.nodes) {
		d.nodes = nil
	}
	if len(d.table) > keepNodes && size < len(d.table) {
		d.table = nil
	}
	if cap(d.arena) > keepArena && size < cap(d.arena) {
		d.arena = nil
	}
}

// charClass marks the bytes that end a run of digits, blanks and so on.
const (
	cBlank = 1 << iota
	cDigit
)

var charClass = [256]uint8{
	' ': cBlank, '\t': cBlank, '\n': cBlank, '\r': cBlank,
	'0': cDigit, '1': cDigit, '2': cDigit, '3': cDigit, '4': cDigit,
	'5': cDigit, '6': cDigit, '7': cDigit, '8': cDigit, '9': cDigit,
}

func fail(offset int, reason string) *SyntaxError {
	return &SyntaxError{Offset: offset, Reason: reason}
}

const truncated = "unexpected end of input"

// parse returns the record's nodes, also those before an error: the slice is
// worked on as a local one, so that the loop does not write through d for every
// node.
func (d *Doc) parse(raw []byte) ([]node, error) {
	if len(raw) > d.limits.Bytes {
		return d.nodes, fail(d.limits.Bytes, fmt.Sprintf("record of %d bytes is larger than %d", len(raw), d.limits.Bytes))
	}
	var (
		p            int
		kstart, kend uint32
		kflag        uint8
		nodes        = d.nodes
		stack        = d.stack
		maxNodes     = d.limits.Nodes
		maxDepth     = d.limits.Depth
	)

value:
	for p < len(raw) && charClass[raw[p]]&cBlank != 0 {
		p++
	}
	if p >= len(raw) {
		return nodes, fail(p, truncated)
	}
	if len(nodes) >= maxNodes {
		return nodes, fail(p, fmt.Sprintf("more than %d values", maxNodes))
	}
	switch c := raw[p]; c {
	case '"':
		end, special, err := scanString(raw, p+1)
		if err != nil {
			return nodes, err
		}
		nd := node{start: uint32(p), end: uint32(end + 1), kstart: kstart, kend: kend,
			next: int32(len(nodes) + 1), kind: String, flags: kflag}
		if special != 0 {
			d.plain = false
			if special&strHigh != 0 {
				if err := checkUTF8(raw, p+1, end); err != nil {
					return nodes, err
				}
			}
			if special&strEscape != 0 {
				off := len(d.arena)
				if err := d.unescape(raw, p+1, end); err != nil {
					return nodes, err
				}
				nd.n = int32(off)
				nd.alen = uint32(len(d.arena) - off)
				nd.flags |= flagEscaped
			}
		}
		nodes = append(nodes, nd)
		p = end + 1
	case '{', '[':
		if len(stack) >= maxDepth {
			return nodes, fail(p, fmt.Sprintf("nested deeper than %d", maxDepth))
		}
		nd := node{start: uint32(p), kstart: kstart, kend: kend, kind: Array, flags: kflag}
		if c == '{' {
			nd.kind = Object
		}
		stack = append(stack, frame{node: int32(len(nodes)), obj: c == '{'})
		d.stack = stack // for its memory
		nodes = append(nodes, nd)
		kstart, kend, kflag = 0, 0, 0
		p++
		for p < len(raw) && charClass[raw[p]]&cBlank != 0 {
			p++
		}
		if p >= len(raw) {
			return nodes, fail(p, truncated)
		}
		if c == '{' {
			if raw[p] != '}' {
				goto key
			}
		} else if raw[p] != ']' {
			stack[len(stack)-1].n = 1
			goto value
		}
		goto closing
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		end, err := scanNumber(raw, p)
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, node{start: uint32(p), end: uint32(end), kstart: kstart, kend: kend,
			next: int32(len(nodes) + 1), kind: Number, flags: kflag})
		p = end
	case 't', 'f', 'n':
		lit, kind := "true", Bool
		switch c {
		case 'f':
			lit = "false"
		case 'n':
			lit, kind = "null", Null
		}
		if len(raw)-p < len(lit) || string(raw[p:p+len(lit)]) != lit {
			return nodes, badLiteral(raw, p, lit)
		}
		nodes = append(nodes, node{start: uint32(p), end: uint32(p + len(lit)), kstart: kstart, kend: kend,
			next: int32(len(nodes) + 1), kind: kind, flags: kflag})
		p += len(lit)
	default:
		return nodes, fail(p, "a value cannot begin with "+quoteByte(c))
	}

after:
	for p < len(raw) && charClass[raw[p]]&cBlank != 0 {
		p++
	}
	if len(stack) == 0 {
		if p < len(raw) {
			return nodes, fail(p, "unexpected "+quoteByte(raw[p])+" after the value")
		}
		return nodes, nil
	}
	if p >= len(raw) {
		return nodes, fail(p, truncated)
	}
	if f := &stack[len(stack)-1]; raw[p] == ',' {
		p++
		if !f.obj {
			f.n++
			kstart, kend, kflag = 0, 0, 0
			goto value
		}
		for p < len(raw) && charClass[raw[p]]&cBlank != 0 {
			p++
		}
		if p >= len(raw) {
			return nodes, fail(p, truncated)
		}
		goto key
	} else if f.obj && raw[p] != '}' {
		return nodes, fail(p, "expected ',' or '}' but found "+quoteByte(raw[p]))
	} else if !f.obj && raw[p] != ']' {
		return nodes, fail(p, "expected ',' or ']' but found "+quoteByte(raw[p]))
	}

closing:
	{
		f := &stack[len(stack)-1]
		nd := &nodes[f.node]
		p++
		nd.end = uint32(p)
		nd.next = int32(len(nodes))
		nd.n = f.n
		stack = stack[:len(stack)-1]
		goto after
	}

key:
	{
		if raw[p] != '"' {
			return nodes, fail(p, "expected a key but found "+quoteByte(raw[p]))
		}
		at := p
		end, special, err := scanString(raw, p+1)
		if err != nil {
			return nodes, err
		}
		kstart, kend, kflag = uint32(p+1), uint32(end), 0
		key := raw[p+1 : end]
		if special != 0 {
			d.plain = false
			if special&strHigh != 0 {
				if err := checkUTF8(raw, p+1, end); err != nil {
					return nodes, err
				}
			}
			if special&strEscape != 0 {
				off := len(d.arena)
				if err := d.unescape(raw, p+1, end); err != nil {
					return nodes, err
				}
				kstart, kend, kflag = uint32(off), uint32(len(d.arena)), flagKeyEscaped
				key = d.arena[off:]
			}
		}
		f := &stack[len(stack)-1]
		f.n++
		if f.n <= hashAbove {
			var h uint32
			if n := len(key); n > 0 {
				h = (uint32(n)*0x01000193 ^ uint32(key[0])*0x85ebca6b ^ uint32(key[n/2])*0xc2b2ae35 ^ uint32(key[n-1])*0x27d4eb2f) * 0x9e3779b1 >> 24
			}
			if f.seen[h>>6]&(1<<(h&63)) != 0 {
				for i := f.node + 1; i < int32(len(nodes)); i = nodes[i].next {
					if bytes.Equal(d.key(&nodes[i]), key) {
						return nodes, fail(at, "duplicate key "+quoteKey(key))
					}
				}
			}
			f.seen[h>>6] |= 1 << (h & 63)
		} else {
			if f.n == hashAbove+1 {
				nodes[f.node].flags |= flagHashed
				for i := f.node + 1; i < int32(len(nodes)); i = nodes[i].next {
					d.insert(f.node, i, d.key(&nodes[i]))
				}
			}
			if d.find(nodes, f.node, d.hash(f.node, key), key) >= 0 {
				return nodes, fail(at, "duplicate key "+quoteKey(key))
			}
			// The member's node is the next one appended; its key is compared
			// only after that, because the very next thing is its value.
			d.insert(f.node, int32(len(nodes)), key)
		}
		p = end + 1
		for p < len(raw) && charClass[raw[p]]&cBlank != 0 {
			p++
		}
		if p >= len(raw) {
			return nodes, fail(p, truncated)
		}
		if raw[p] != ':' {
			return nodes, fail(p, "expected ':' but found "+quoteByte(raw[p]))
		}
		p++
		goto value
	}
}

const (
	strEscape = 1 << iota
	strHigh
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scanString finds the quote that closes the string whose text begins at p,
// eight bytes at a time, and reports whether there are escapes (still to be
// checked) or bytes above 0x7f (perhaps falsely: a few bytes behind the quote
// are looked at as well).
func scanString(b []byte, p int) (end, special int, err error) {
	var high uint64
	for {
		for p+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[p:])
			high |= w
			q := w ^ (ones * '"')
			s := w ^ (ones * '\\')
			// The lowest set bit is exact; a borrow can only make false ones
			// above it.
			m := ((q - ones) &^ q) | ((s - ones) &^ s) | ((w - ones*0x20) &^ w)
			m &= highs
			if m != 0 {
				p += bits.TrailingZeros64(m) >> 3
				goto found
			}
			p += 8
		}
		for p < len(b) {
			c := b[p]
			if c == '"' || c == '\\' || c < 0x20 {
				goto found
			}
			high |= uint64(c)
			p++
		}
		return 0, 0, fail(len(b), truncated)
	found:
		switch b[p] {
		case '"':
			if high&highs != 0 {
				special |= strHigh
			}
			return p, special, nil
		case '\\':
			special |= strEscape
			if p+1 >= len(b) {
				return 0, 0, fail(len(b), truncated)
			}
			// The escaped byte is judged by unescape; it may be the first of
			// several bytes above 0x7f, which it refuses.
			p += 2
		default:
			return 0, 0, fail(p, "control character in a string")
		}
	}
}

func checkUTF8(b []byte, start, end int) error {
	if utf8.Valid(b[start:end]) {
		return nil
	}
	for p := start; p < end; {
		r, n := utf8.DecodeRune(b[p:end])
		if r == utf8.RuneError && n <= 1 {
			return fail(p, "invalid UTF-8")
		}
		p += n
	}
	return fail(start, "invalid UTF-8")
}

// unescape appends the decoded text of b[p:end] to the arena.
func (d *Doc) unescape(b []byte, p, end int) error {
	a, err := appendUnescaped(d.arena, b, p, end)
	if err != nil {
		return err
	}
	d.arena = a
	return nil
}

func appendUnescaped(a, b []byte, p, end int) ([]byte, error) {
	for p < end {
		i := bytes.IndexByte(b[p:end], '\\')
		if i < 0 {
			a = append(a, b[p:end]...)
			break
		}
		a = append(a, b[p:p+i]...)
		p += i
		switch b[p+1] {
		case '"', '\\', '/':
			a = append(a, b[p+1])
		case 'b':
			a = append(a, '\b')
		case 'f':
			a = append(a, '\f')
		case 'n':
			a = append(a, '\n')
		case 'r':
			a = append(a, '\r')
		case 't':
			a = append(a, '\t')
		case 'u':
			r, ok := hex4(b, p+2, end)
			if !ok {
				return nil, fail(p, "\\u needs four hexadecimal digits")
			}
			if r >= 0xd800 && r < 0xe000 {
				lo, ok := rune(0), false
				if r < 0xdc00 && p+7 < end && b[p+6] == '\\' && b[p+7] == 'u' {
					lo, ok = hex4(b, p+8, end)
				}
				if !ok || lo < 0xdc00 || lo >= 0xe000 {
					return nil, fail(p, "lone surrogate")
				}
				r = 0x10000 + (r-0xd800)<<10 + (lo - 0xdc00)
				p += 6
			}
			a = utf8.AppendRune(a, r)
			p += 4
		default:
			return nil, fail(p, "invalid escape")
		}
		p += 2
	}
	return a, nil
}

func hex4(b []byte, p, end int) (rune, bool) {
	if p+4 > end {
		return 0, false
	}
	var r rune
	for _, c := range b[p : p+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func scanNumber(b []byte, p int) (int, error) {
	if b[p] == '-' {
		p++
	}
	digits := func() bool {
		from := p
		for p < len(b) && charClass[b[p]]&cDigit != 0 {
			p++
		}
		return p > from
	}
	if p < len(b) && b[p] == '0' {
		p++
		if p < len(b) && charClass[b[p]]&cDigit != 0 {
			return 0, fail(p, "leading zero in a number")
		}
	} else if !digits() {
		return 0, badNumber(b, p)
	}
	if p < len(b) && b[p] == '.' {
		p++
		if !digits() {
			return 0, badNumber(b, p)
		}
	}
	if p < len(b) && b[p]|0x20 == 'e' {
		p++
		if p < len(b) && (b[p] == '+' || b[p] == '-') {
			p++
		}
		if !digits() {
			return 0, badNumber(b, p)
		}
	}
	return p, nil
}

func badNumber(b []byte, p int) error {
	if p >= len(b) {
		return fail(p, truncated)
	}
	return fail(p, "expected a digit but found "+quoteByte(b[p]))
}

func badLiteral(b []byte, p int, lit string) error {
	for i := range len(lit) {
		if p+i >= len(b) {
			return fail(len(b), truncated)
		}
		if b[p+i] != lit[i] {
			break
		}
	}
	return fail(p, "expected "+lit)
}

func quoteByte(c byte) string {
	if c < utf8.RuneSelf {
		return strconv.QuoteRune(rune(c))
	}
	return fmt.Sprintf("byte 0x%02x", c)
}

// quoteKey quotes a key for an error, shortened: keys come from outside.
func quoteKey(k []byte) string {
	if len(k) > 64 {
		return strconv.Quote(string(k[:64])) + "…"
	}
	return strconv.Quote(string(k))
}

// key returns the decoded key of a member.
func (d *Doc) key(n *node) []byte {
	if n.flags&flagKeyEscaped != 0 {
		return d.arena[n.kstart:n.kend]
	}
	return d.raw[n.kstart:n.kend]
}

// hash mixes the object into the key's hash, because one table serves every
// large object of a record. The seed is random per Doc, so nobody can choose
// keys that collide.
func (d *Doc) hash(parent int32, key []byte) uint32 {
	return mix(parent, maphash.Bytes(d.seed, key))
}

func mix(parent int32, h uint64) uint32 {
	h ^= uint64(uint32(parent)) * 0x9e3779b97f4a7c15
	return uint32(h ^ h>>32)
}

func (d *Doc) find(nodes []node, parent int32, h uint32, key []byte) int32 {
	mask := uint32(len(d.table) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := &d.table[i]
		if s.epoch != d.epoch {
			return -1
		}
		if s.hash == h && s.parent == parent && bytes.Equal(d.key(&nodes[s.node]), key) {
			return s.node
		}
	}
}

// lookup is find for a reader's key, which is a string.
func (d *Doc) lookup(parent int32, key string) Value {
	h := mix(parent, maphash.String(d.seed, key))
	mask := uint32(len(d.table) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		s := &d.table[i]
		if s.epoch != d.epoch {
			return Value{}
		}
		if s.hash == h && s.parent == parent && string(d.key(&d.nodes[s.node])) == key {
			return Value{d, s.node}
		}
	}
}

func (d *Doc) insert(parent, n int32, key []byte) {
	if (d.used+1)*2 > len(d.table) {
		d.grow()
	}
	h := d.hash(parent, key)
	d.place(slot{epoch: d.epoch, hash: h, parent: parent, node: n})
	d.used++
}

func (d *Doc) place(s slot) {
	mask := uint32(len(d.table) - 1)
	i := s.hash & mask
	for d.table[i].epoch == d.epoch {
		i = (i + 1) & mask
	}
	d.table[i] = s
}

func (d *Doc) grow() {
	old := d.table
	d.table = make([]slot, max(256, 2*len(old)))
	for _, s := range old {
		if s.epoch == d.epoch {
			d.place(s)
		}
	}
}
