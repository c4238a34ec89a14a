package sigma

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// elemKind is the kind of one element of a pattern.
type elemKind uint8

const (
	elemLit  elemKind = iota
	elemStar          // any text
	elemAny           // one character
	elemDash          // one of the characters that windash exchanges
)

type elem struct {
	kind elemKind
	text string
}

// pattern is a Sigma string with its wildcards told apart from its text.
type pattern []elem

// parsePattern reads a Sigma string: a backslash makes a following *, ? or
// backslash literal, and is literal before anything else.
func parsePattern(s string) pattern {
	var p pattern
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			p = append(p, elem{elemLit, lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\\':
			if i+1 < len(s) && (s[i+1] == '*' || s[i+1] == '?' || s[i+1] == '\\') {
				i++
			}
			lit.WriteByte(s[i])
		case '*', '?':
			flush()
			k := elemStar
			if c == '?' {
				k = elemAny
			}
			p = append(p, elem{kind: k})
		default:
			lit.WriteByte(c)
		}
	}
	flush()
	return p
}

// plain returns the pattern's text if it has no wildcards.
func (p pattern) plain() (string, bool) {
	switch {
	case len(p) == 0:
		return "", true
	case len(p) == 1 && p[0].kind == elemLit:
		return p[0].text, true
	}
	return "", false
}

// regex writes the pattern as a part of a regular expression.
func (p pattern) regex() string {
	var b strings.Builder
	b.WriteString("(?:")
	for _, e := range p {
		switch e.kind {
		case elemStar:
			b.WriteString("(?s:.*)")
		case elemAny:
			b.WriteString("(?s:.)")
		default:
			b.WriteString(regexp.QuoteMeta(e.text))
		}
	}
	b.WriteString(")")
	return b.String()
}

func (p pattern) open(start, end bool) pattern {
	out := make(pattern, 0, len(p)+2)
	if start && (len(p) == 0 || p[0].kind != elemStar) {
		out = append(out, elem{kind: elemStar})
	}
	out = append(out, p...)
	if end && out.last() != elemStar {
		out = append(out, elem{kind: elemStar})
	}
	return out
}

func (p pattern) last() elemKind {
	if len(p) == 0 {
		return elemLit
	}
	return p[len(p)-1].kind
}

// dashes are the characters that windash exchanges.
var dashes = [...]rune{'-', '/', '\u2013', '\u2014', '\u2015'}

func isDash(r rune) bool {
	for _, d := range dashes {
		if r == d {
			return true
		}
	}
	return false
}

func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// windash replaces every dash that begins a word, and is not inside one, by an
// element for all of them.
func (p pattern) windash() pattern {
	var out pattern
	for _, e := range p {
		if e.kind != elemLit {
			out = append(out, e)
			continue
		}
		runes := []rune(e.text)
		from := 0
		for i, r := range runes {
			if !isDash(r) || i+1 >= len(runes) || !isWord(runes[i+1]) || i > 0 && isWord(runes[i-1]) {
				continue
			}
			if i > from {
				out = append(out, elem{elemLit, string(runes[from:i])})
			}
			out = append(out, elem{kind: elemDash})
			from = i + 1
		}
		if from < len(runes) {
			out = append(out, elem{elemLit, string(runes[from:])})
		}
	}
	return out
}

const (
	maxDashVariants = 625 // four dashes
	maxDashBytes    = 1 << 20
)

// size is the length of the pattern's text in bytes.
func (p pattern) size() int {
	n := 0
	for _, e := range p {
		n += len(e.text)
	}
	return n
}

// spellDashes writes the dash elements out, for modifiers that encode.
func (p pattern) spellDashes() ([]pattern, error) {
	out := []pattern{nil}
	size := p.size()
	for _, e := range p {
		if e.kind != elemDash {
			for i := range out {
				out[i] = out[i].add(e)
			}
			continue
		}
		if len(out)*len(dashes) > maxDashVariants {
			return nil, fmt.Errorf("windash before an encoding gives more than %d values", maxDashVariants)
		}
		if len(out)*len(dashes)*size > maxDashBytes {
			return nil, fmt.Errorf("windash before an encoding gives more than %d bytes", maxDashBytes)
		}
		var next []pattern
		for _, o := range out {
			for _, d := range dashes {
				next = append(next, append(pattern(nil), o...).add(elem{elemLit, string(d)}))
			}
		}
		out = next
	}
	return out, nil
}

// add appends an element, joining literals.
func (p pattern) add(e elem) pattern {
	if n := len(p); e.kind == elemLit && n > 0 && p[n-1].kind == elemLit {
		out := append(pattern(nil), p...)
		out[n-1].text += e.text
		return out
	}
	return append(p[:len(p):len(p)], e)
}

var errWildcardEncoded = errors.New("a value with wildcards cannot be encoded in base64 (put contains, startswith and endswith behind it)")

func utf16Bytes(s string, big bool) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			b = append(b, byte(u>>8), byte(u))
		} else {
			b = append(b, byte(u), byte(u>>8))
		}
	}
	return string(b)
}

// encodeWide applies utf16le, utf16be or utf16 to the literal text.
func (p pattern) encodeWide(name string) pattern {
	var out pattern
	if name == "utf16" {
		out = append(out, elem{elemLit, "\xff\xfe"})
	}
	for _, e := range p {
		if e.kind == elemLit {
			e.text = utf16Bytes(e.text, name == "utf16be")
		}
		out = out.add(e)
	}
	return out
}

func (p pattern) encodeBase64() (pattern, error) {
	s, ok := p.plain()
	if !ok {
		return nil, errWildcardEncoded
	}
	return pattern{{elemLit, base64.StdEncoding.EncodeToString([]byte(s))}}, nil
}

// encodeBase64Offset gives, for each of the three ways the value can lie in
// the encoded text's groups, the characters that depend on the value alone.
func (p pattern) encodeBase64Offset() ([]pattern, error) {
	s, ok := p.plain()
	if !ok {
		return nil, errWildcardEncoded
	}
	var out []pattern
	for shift := range 3 {
		enc := base64.StdEncoding.EncodeToString(append(make([]byte, shift), s...))
		// shift bytes before the value touch the first ceil(8*shift/6)
		// characters; a last group that is not full touches the next bytes.
		start := [3]int{0, 2, 3}[shift]
		end := len(enc) - [3]int{0, 3, 2}[(len(s)+shift)%3]
		if start >= end {
			return nil, fmt.Errorf("the value is too short for base64offset: nothing of it is the same at every offset")
		}
		out = append(out, pattern{{elemLit, enc[start:end]}})
	}
	return out, nil
}

// settle checks that what encodings left is text, and gives utf16's byte order
// mark back as the character that it is in decoded text.
func (p pattern) settle() (pattern, error) {
	out := append(pattern(nil), p...)
	for i := range out {
		if out[i].kind != elemLit {
			continue
		}
		if strings.HasPrefix(out[i].text, "\xff\xfe") {
			out[i].text = "\ufeff" + out[i].text[2:]
		}
		if !utf8.ValidString(out[i].text) {
			return nil, errors.New("a UTF-16 value with other than ASCII characters needs base64 or base64offset behind it")
		}
	}
	return out, nil
}

// foldRune gives the same rune for all runes that are equal under simple case
// folding, and the lower-case letter where an ASCII letter is among them.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}

// fold returns s folded; where that changes nothing, s itself, else a copy at
// the end of arena. Bytes that are not UTF-8 are kept.
func fold(arena, s []byte) (folded, grown []byte) {
	i := 0
	for i+8 <= len(s) && !mayFold(binary.LittleEndian.Uint64(s[i:])) {
		i += 8
	}
	for i < len(s) && s[i] < utf8.RuneSelf && (s[i] < 'A' || s[i] > 'Z') {
		i++
	}
	if i == len(s) {
		return s, arena
	}
	from := len(arena)
	arena = append(arena, s[:i]...)
	for i < len(s) {
		for i+8 <= len(s) {
			w := binary.LittleEndian.Uint64(s[i:])
			if w&highBits != 0 {
				break
			}
			arena = binary.LittleEndian.AppendUint64(arena, w|upperBits(w)>>2)
			i += 8
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			arena = append(arena, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && n == 1 {
			arena = append(arena, c)
		} else {
			arena = utf8.AppendRune(arena, foldRune(r))
		}
		i += n
	}
	return arena[from:len(arena):len(arena)], arena
}

const (
	lowBits  = 0x0101010101010101
	highBits = 0x8080808080808080
)

// upperBits sets the highest bit of each of eight ASCII bytes that is an
// upper-case letter.
func upperBits(w uint64) uint64 {
	return ((w + (0x80-'A')*lowBits) &^ (w + (0x7f-'Z')*lowBits)) & highBits
}

// mayFold reports whether folding may change one of eight bytes.
func mayFold(w uint64) bool { return w&highBits != 0 || upperBits(w) != 0 }

func foldString(s string) string {
	f, _ := fold(nil, []byte(s))
	return string(f)
}

// glob matches a text against a pattern that is more than one literal with
// stars around it.
type glob struct {
	segs       []segment // between stars
	start, end bool      // the first and last segment are bound to the ends
}

// segment is a run of elements without a star.
type segment struct {
	elems  []elem
	anchor int // the longest literal; -1 without one
}

// newGlob compiles a pattern, already folded where case does not count.
func newGlob(p pattern) *glob {
	g := &glob{start: len(p) == 0 || p[0].kind != elemStar, end: len(p) == 0 || p.last() != elemStar}
	var cur []elem
	flush := func() {
		if len(cur) == 0 {
			return
		}
		s := segment{elems: cur, anchor: -1}
		for i, e := range cur {
			if e.kind == elemLit && (s.anchor < 0 || len(e.text) > len(cur[s.anchor].text)) {
				s.anchor = i
			}
		}
		g.segs = append(g.segs, s)
		cur = nil
	}
	for _, e := range p {
		if e.kind == elemStar {
			flush()
			continue
		}
		cur = append(cur, e)
	}
	flush()
	return g
}

func (g *glob) match(t []byte) bool {
	segs := g.segs
	if len(segs) == 0 {
		return !g.start || len(t) == 0
	}
	if g.start {
		n := segs[0].forward(t, 0)
		if n < 0 {
			return false
		}
		if g.end && len(segs) == 1 {
			return n == len(t)
		}
		t = t[n:]
		segs = segs[1:]
	}
	if g.end && len(segs) > 0 {
		last := segs[len(segs)-1]
		n := last.backward(t, len(last.elems))
		if n < 0 {
			return false
		}
		t = t[:n]
		segs = segs[:len(segs)-1]
	}
	for i := range segs {
		n := segs[i].find(t)
		if n < 0 {
			return false
		}
		t = t[n:]
	}
	return true
}

// forward matches the elements from index i on at the beginning of t and
// returns the bytes taken, or -1.
func (s *segment) forward(t []byte, i int) int {
	pos := 0
	for _, e := range s.elems[i:] {
		if e.kind == elemLit {
			if !bytes.HasPrefix(t[pos:], []byte(e.text)) {
				return -1
			}
			pos += len(e.text)
			continue
		}
		if pos >= len(t) {
			return -1
		}
		r, n := utf8.DecodeRune(t[pos:])
		if e.kind == elemDash && !isDash(r) {
			return -1
		}
		pos += n
	}
	return pos
}

// backward matches the first i elements at the end of t and returns where they
// begin, or -1.
func (s *segment) backward(t []byte, i int) int {
	pos := len(t)
	for i--; i >= 0; i-- {
		e := s.elems[i]
		if e.kind == elemLit {
			if !bytes.HasSuffix(t[:pos], []byte(e.text)) {
				return -1
			}
			pos -= len(e.text)
			continue
		}
		if pos <= 0 {
			return -1
		}
		r, n := utf8.DecodeLastRune(t[:pos])
		if e.kind == elemDash && !isDash(r) {
			return -1
		}
		pos -= n
	}
	return pos
}

// find returns the end of the first place in t where the segment fits, or -1.
func (s *segment) find(t []byte) int {
	if s.anchor < 0 {
		for at := 0; at < len(t); {
			if n := s.forward(t[at:], 0); n >= 0 {
				return at + n
			}
			_, n := utf8.DecodeRune(t[at:])
			at += n
		}
		return -1
	}
	lit := s.elems[s.anchor].text
	for at := 0; ; {
		i := bytes.Index(t[at:], []byte(lit))
		if i < 0 {
			return -1
		}
		at += i
		if s.backward(t[:at], s.anchor) >= 0 {
			if n := s.forward(t[at:], s.anchor); n >= 0 {
				return at + n
			}
		}
		at++
	}
}
