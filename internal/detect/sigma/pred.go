package sigma

import (
	"bytes"
	"math"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

type predKind uint8

const (
	predEq predKind = iota // one of a set of texts
	predPrefix
	predSuffix
	predContains
	predGlob
	predAny // there and not null
	predRegex
	predCIDR
	predExists
	predNull
	predCompare
	predPart // a part of a time, compared
	predRef
	predKeyword // text searched in the whole record; match says how
)

type cmpOp uint8

const (
	cmpEq cmpOp = iota
	cmpLt
	cmpLte
	cmpGt
	cmpGte
)

type timePart uint8

const (
	partMinute timePart = iota
	partHour
	partDay
	partWeek
	partMonth
	partYear
)

// pred is one question about a record. Equal questions have equal keys.
type pred struct {
	kind     predKind
	field    string
	path     jsondoc.Path
	cased    bool
	texts    []string // predEq, sorted
	set      map[string]struct{}
	maxLen   int // of texts in bytes
	lit      []byte
	glob     *glob
	re       *regexp.Regexp
	reText   string
	must     string // predRegex: text without which re cannot match; folded with mustFold
	mustFold bool
	net      netip.Prefix
	cmp      cmpOp
	num      number
	part     timePart
	ref      string
	refPath  jsondoc.Path
	match    predKind // predRef, predKeyword: predEq, predPrefix, predSuffix, predContains, predGlob or predRegex
	want     bool     // predExists

	key      string
	modifier string   // for Explain, as written in the rule
	wanted   []string // for Explain
	line     int
}

// number is a number of a rule or a record: exact where it is a whole number
// that fits.
type number struct {
	whole bool
	i     int64
	f     float64
}

func (a number) compare(b number) int {
	if a.whole && b.whole {
		switch {
		case a.i < b.i:
			return -1
		case a.i > b.i:
			return 1
		}
		return 0
	}
	switch {
	case a.f < b.f:
		return -1
	case a.f > b.f:
		return 1
	}
	return 0
}

func (o cmpOp) holds(c int) bool {
	switch o {
	case cmpLt:
		return c < 0
	case cmpLte:
		return c <= 0
	case cmpGt:
		return c > 0
	case cmpGte:
		return c >= 0
	default:
		return c == 0
	}
}

// text is the number's shortest decimal text.
func (a number) text(dst []byte) []byte {
	if a.whole {
		return strconv.AppendInt(dst, a.i, 10)
	}
	return strconv.AppendFloat(dst, a.f, 'g', -1, 64)
}

func wholeNumber(i int64) number { return number{whole: true, i: i, f: float64(i)} }

func floatNumber(f float64) number {
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return wholeNumber(int64(f))
	}
	return number{f: f}
}

// parseNumber reads decimal text as a number.
func parseNumber(b []byte) (number, bool) {
	if len(b) == 0 || len(b) > 64 {
		return number{}, false
	}
	whole := true
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
		case (c == '-' || c == '+') && i == 0:
		case c == '.' || c == 'e' || c == 'E' || c == '-' || c == '+':
			whole = false
		default:
			return number{}, false
		}
	}
	if whole {
		if i, err := strconv.ParseInt(string(b), 10, 64); err == nil {
			return wholeNumber(i), true
		}
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return number{}, false
	}
	return floatNumber(f), true
}

// makeKey gives equal questions equal keys.
func (p *pred) makeKey() {
	var b strings.Builder
	put := func(s string) {
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	num := func(n int) { put(strconv.Itoa(n)) }
	num(int(p.kind))
	num(int(p.match))
	put(p.field)
	put(strconv.FormatBool(p.cased))
	switch p.kind {
	case predEq:
		num(len(p.texts))
		for _, t := range p.texts {
			put(t)
		}
	case predRegex:
		put(p.reText)
	case predCIDR:
		put(p.net.String())
	case predExists:
		put(strconv.FormatBool(p.want))
	case predCompare, predPart:
		num(int(p.part))
		num(int(p.cmp))
		put(string(p.num.text(nil)))
	case predRef:
		put(p.ref)
	}
	put(string(p.lit))
	put(p.reText)
	if p.glob != nil {
		put(strconv.FormatBool(p.glob.start))
		put(strconv.FormatBool(p.glob.end))
		for _, s := range p.glob.segs {
			num(len(s.elems))
			for _, e := range s.elems {
				num(int(e.kind))
				put(e.text)
			}
		}
	}
	p.key = b.String()
}

// patternPred makes the predicate for a pattern on a field, or for a keyword
// where field is empty.
func patternPred(field string, p pattern, cased bool) *pred {
	if !cased {
		folded := append(pattern(nil), p...)
		for i := range folded {
			folded[i].text = foldString(folded[i].text)
		}
		p = folded
	}
	// Stars next to each other are one.
	compact := p[:0:0]
	for _, e := range p {
		if e.kind != elemStar || compact.last() != elemStar || len(compact) == 0 {
			compact = append(compact, e)
		}
	}
	p = compact
	out := &pred{field: field, cased: cased}
	stars := func(lead, tail bool) (string, bool) {
		q := p
		if lead {
			if len(q) == 0 || q[0].kind != elemStar {
				return "", false
			}
			q = q[1:]
		}
		if tail {
			if len(q) == 0 || q.last() != elemStar {
				return "", false
			}
			q = q[:len(q)-1]
		}
		if len(q) == 0 {
			return "", false
		}
		return q.plain()
	}
	if len(p) == 1 && p[0].kind == elemStar {
		out.kind = predAny
	} else if s, ok := p.plain(); ok {
		out.kind = predEq
		out.setTexts([]string{s})
	} else if s, ok := stars(true, true); ok {
		out.kind, out.lit = predContains, []byte(s)
	} else if s, ok := stars(false, true); ok {
		out.kind, out.lit = predPrefix, []byte(s)
	} else if s, ok := stars(true, false); ok {
		out.kind, out.lit = predSuffix, []byte(s)
	} else {
		out.kind, out.glob = predGlob, newGlob(p)
	}
	return out
}

func (p *pred) setTexts(texts []string) {
	sort.Strings(texts)
	p.texts = p.texts[:0]
	p.set = make(map[string]struct{}, len(texts))
	for _, t := range texts {
		if _, dup := p.set[t]; dup {
			continue
		}
		p.set[t] = struct{}{}
		p.texts = append(p.texts, t)
		p.maxLen = max(p.maxLen, len(t))
	}
}

// cost orders the members of an AND or OR: cheap questions first.
func (p *pred) cost() int {
	switch p.kind {
	case predEq, predExists, predNull, predAny:
		return 1
	case predPrefix, predSuffix, predCompare, predCIDR:
		return 2
	case predContains:
		return 3
	case predGlob, predRef, predPart:
		return 4
	case predRegex:
		return 8
	default:
		return 16 // the whole record
	}
}

// value is one value of a field in the record at hand.
type value struct {
	kind   jsondoc.Kind
	v      jsondoc.Value
	text   []byte // decoded; the JSON text of an object; nil for null
	alt    []byte // a number's shortest text where it differs from text
	folded []byte
	done   bool // folded is set
}

// foldedText returns the value's text folded, folding it the first time.
func (sc *Scratch) foldedText(v *value) []byte {
	if !v.done {
		v.folded, sc.arena = fold(sc.arena, v.text)
		v.done = true
	}
	return v.folded
}

// tooLong reports whether a text cannot equal any of texts up to max bytes:
// folding shortens a character to a third at most.
func tooLong(text []byte, maxLen int) bool { return len(text) > 3*maxLen }

// eval answers the question for the record in sc.
func (p *pred) eval(sc *Scratch, field, ref int32) bool {
	switch p.kind {
	case predKeyword:
		return p.evalKeyword(sc)
	case predExists:
		return sc.exists(field) == p.want
	case predNull:
		vals := sc.values(field)
		for i := range vals {
			if vals[i].kind == jsondoc.Null {
				return true
			}
		}
		return len(vals) == 0 && !sc.exists(field)
	case predRef:
		return p.evalRef(sc, field, ref)
	}
	vals := sc.values(field)
	for i := range vals {
		if v := &vals[i]; v.kind != jsondoc.Null && p.holds(sc, v) {
			return true
		}
	}
	return false
}

func (p *pred) holds(sc *Scratch, v *value) bool {
	switch p.kind {
	case predAny:
		return true
	case predRegex:
		if p.must != "" {
			in := v.text
			if p.mustFold {
				in = sc.foldedText(v)
			}
			if !bytes.Contains(in, []byte(p.must)) {
				return false
			}
		}
		return p.re.Match(v.text)
	case predCIDR:
		return inPrefix(p.net, v.text)
	case predCompare:
		n, ok := v.number()
		return ok && p.cmp.holds(n.compare(p.num))
	case predPart:
		t, ok := v.time()
		return ok && p.cmp.holds(partOf(t, p.part).compare(p.num))
	case predEq:
		if v.alt == nil && tooLong(v.text, p.maxLen) {
			return false
		}
	}
	text := v.text
	if !p.cased {
		text = sc.foldedText(v)
	}
	switch p.kind {
	case predEq:
		if _, ok := p.set[string(text)]; ok {
			return true
		}
		if v.alt != nil {
			_, ok := p.set[string(v.alt)]
			return ok
		}
		return false
	case predPrefix:
		return bytes.HasPrefix(text, p.lit)
	case predSuffix:
		return bytes.HasSuffix(text, p.lit)
	case predContains:
		return bytes.Contains(text, p.lit)
	case predGlob:
		return p.glob.match(text)
	}
	return false
}

func (p *pred) evalRef(sc *Scratch, field, ref int32) bool {
	// Resolving the second field may move the first one's values, so both are
	// resolved before either is held.
	sc.values(field)
	others := sc.values(ref)
	vals := sc.values(field)
	if p.match == predEq && len(vals)*len(others) > maxRefPairs {
		return p.shareText(sc, vals, others)
	}
	pairs := 0
	for i := range vals {
		if vals[i].kind == jsondoc.Null {
			continue
		}
		for k := range others {
			if pairs++; pairs > maxRefPairs {
				return false
			}
			if others[k].kind == jsondoc.Null {
				continue
			}
			a, b := vals[i].text, others[k].text
			if !p.cased {
				a, b = sc.foldedText(&vals[i]), sc.foldedText(&others[k])
			}
			ok := false
			switch p.match {
			case predPrefix:
				ok = bytes.HasPrefix(a, b)
			case predSuffix:
				ok = bytes.HasSuffix(a, b)
			case predContains:
				ok = bytes.Contains(a, b)
			default:
				ok = bytes.Equal(a, b)
				if !ok && vals[i].kind == jsondoc.Number && others[k].kind == jsondoc.Number {
					m, ok1 := vals[i].number()
					n, ok2 := others[k].number()
					ok = ok1 && ok2 && m.compare(n) == 0
				}
			}
			if ok {
				return true
			}
		}
	}
	return false
}

// maxRefPairs bounds the pairs of values that fieldref compares in one record, where
// both fields hold lists: whoever writes the record chooses how long these are.
// contains, startswith and endswith see no more of them; equality finds all.
const maxRefPairs = 1 << 18

// shareText is fieldref's equality for long lists.
func (p *pred) shareText(sc *Scratch, vals, others []value) bool {
	text := func(v *value) string {
		if p.cased {
			return string(v.text)
		}
		return string(sc.foldedText(v))
	}
	type key struct {
		number bool
		text   string
	}
	have := make(map[key]struct{}, len(others))
	each := func(v *value, take func(key) bool) bool {
		if v.kind == jsondoc.Null {
			return false
		}
		if take(key{text: text(v)}) {
			return true
		}
		if n, ok := v.number(); ok && v.kind == jsondoc.Number {
			return take(key{number: true, text: string(n.text(nil))})
		}
		return false
	}
	for k := range others {
		each(&others[k], func(k key) bool { have[k] = struct{}{}; return false })
	}
	for i := range vals {
		if each(&vals[i], func(k key) bool { _, ok := have[k]; return ok }) {
			return true
		}
	}
	return false
}

// boundary stands between the keys and scalars in the text that keywords are
// searched in; it cannot be part of one, because it is not UTF-8.
const boundary = 0xff

func (p *pred) evalKeyword(sc *Scratch) bool {
	hay := sc.haystack(p.cased || p.match == predRegex)
	if p.match != predGlob && p.match != predRegex {
		return bytes.Contains(hay, p.lit) // with boundaries where it is bound
	}
	for rest := hay[1:]; len(rest) > 0; {
		i := bytes.IndexByte(rest, boundary)
		if i < 0 {
			return false
		}
		if p.match == predGlob && p.glob.match(rest[:i]) || p.match == predRegex && p.re.Match(rest[:i]) {
			return true
		}
		rest = rest[i+1:]
	}
	return false
}

// requiredText returns the longest literal text that every match of a regular
// expression contains, and whether in any case (then it is folded); empty when
// none is found. Looking for it is much cheaper than running the expression.
func requiredText(re *syntax.Regexp) (text string, folded bool) {
	switch re.Op {
	case syntax.OpLiteral:
		text, folded = string(re.Rune), re.Flags&syntax.FoldCase != 0
		if !utf8.ValidString(text) {
			return "", false
		}
		if folded {
			text = foldString(text)
		}
		return text, folded
	case syntax.OpCapture, syntax.OpPlus:
		return requiredText(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return requiredText(re.Sub[0])
		}
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if t, f := requiredText(sub); len(t) > len(text) {
				text, folded = t, f
			}
		}
	}
	return text, folded
}

// keywordPred makes a keyword's predicate of a pattern that has its stars.
func keywordPred(p pattern, cased bool) *pred {
	q := patternPred("", p, cased)
	q.match = q.kind
	switch q.kind {
	case predEq:
		q.match = predContains
		q.lit = append(append([]byte{boundary}, q.texts[0]...), boundary)
		q.texts, q.set = nil, nil
	case predPrefix:
		q.lit = append([]byte{boundary}, q.lit...)
	case predSuffix:
		q.lit = append(q.lit, boundary)
	case predAny:
		q.match, q.lit = predContains, []byte{boundary}
	}
	q.kind = predKeyword
	return q
}

func inPrefix(net netip.Prefix, text []byte) bool {
	a, ok := parseAddr(text)
	return ok && net.Contains(a)
}

func (v *value) number() (number, bool) {
	switch v.kind {
	case jsondoc.Number:
		if i, ok := v.v.Int64(); ok {
			return wholeNumber(i), true
		}
		f, ok := v.v.Float64()
		return number{f: f}, ok
	case jsondoc.String:
		return parseNumber(v.text)
	}
	return number{}, false
}

// timeLayouts are tried in order; Go reads fractions of seconds with each.
var timeLayouts = [...]string{
	time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00",
	"2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05 MST", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02",
}

func (v *value) time() (time.Time, bool) {
	switch v.kind {
	case jsondoc.Number:
		n, ok := v.number()
		if !ok || math.Abs(n.f) > 9e18 {
			return time.Time{}, false
		}
		return unixTime(n), true
	case jsondoc.String:
		if len(v.text) > 64 {
			return time.Time{}, false
		}
		if n, ok := unixText(v.text); ok {
			return unixTime(n), true
		}
		s := string(bytes.TrimSpace(v.text))
		for _, l := range timeLayouts {
			if t, err := time.Parse(l, s); err == nil {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

// unixTime reads seconds, milli-, micro- or nanoseconds, told apart by size.
func unixTime(n number) time.Time {
	switch a := math.Abs(n.f); {
	case a < 1e11 && !n.whole:
		s, frac := math.Modf(n.f)
		return time.Unix(int64(s), int64(frac*1e9)).UTC()
	case a < 1e11:
		return time.Unix(n.i, 0).UTC()
	case a < 1e14:
		return time.UnixMilli(int64(n.f)).UTC()
	case a < 1e17:
		return time.UnixMicro(int64(n.f)).UTC()
	default:
		return time.Unix(0, int64(n.f)).UTC()
	}
}

// unixText reads a Unix time that is a string: digits alone, as many as one of this
// century has. Other numbers of digits are dates without separators.
func unixText(b []byte) (number, bool) {
	switch len(b) {
	case len("1700000000"), len("1700000000000"), len("1700000000000000"), len("1700000000000000000"):
	default:
		return number{}, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return number{}, false
		}
	}
	return parseNumber(b)
}

func partOf(t time.Time, p timePart) number {
	var n int
	switch p {
	case partMinute:
		n = t.Minute()
	case partHour:
		n = t.Hour()
	case partDay:
		n = t.Day()
	case partWeek:
		_, n = t.ISOWeek()
	case partMonth:
		n = int(t.Month())
	default:
		n = t.Year()
	}
	return wholeNumber(int64(n))
}
