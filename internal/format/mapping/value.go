package mapping

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// expr is a compiled value: where something is taken from and what is done to
// it.
type expr struct {
	when  *cond
	kind  exprKind
	text  []byte // of a constant
	path  *path
	parts []part
	alts  []*expr

	except map[string]bool
	match  *regexp.Regexp
	as     []conversion
	table  map[string]constant
	other  *constant // of the table

	// for times
	time timeSpec
	// for numbers: what is divided by
	scale float64
	// of exprEach: the array, and what is taken of each item
	each *path
	val  *expr
}

type exprKind uint8

const (
	exprConst   exprKind = iota // text
	exprLiteral                 // a number or bool
	exprPath
	exprTemplate
	exprFirst
	exprEach // an array
)

// constant is a value that is written in the mapping.
type constant struct {
	text    []byte
	literal bool // a number or bool
}

type part struct {
	text string
	path *path // nil: text
}

type conversion uint8

const (
	asIP conversion = iota
	asPort
	asNotIP
	asLower
	asUpper
	asBase
	asDir
	asHead
	asTrim
	asDigest
	asNumber
)

var conversions = map[string]conversion{
	"ip": asIP, "port": asPort, "not_ip": asNotIP, "lower": asLower, "upper": asUpper,
	"base": asBase, "dir": asDir, "head": asHead, "trim": asTrim, "digest": asDigest, "number": asNumber,
}

// result is what an expr gives for a record: nothing, a value of the record as
// it stands, or a text.
type result struct {
	kind resultKind
	node jsondoc.Value
	text []byte
}

type resultKind uint8

const (
	resNone resultKind = iota
	resNode
	resText
	resLiteral // text is a JSON number or bool
)

// eval evaluates e.
func (r *run) eval(e *expr) result {
	if e.when != nil && !r.holds(e.when) {
		return result{}
	}
	var out result
	switch e.kind {
	case exprConst:
		out = result{kind: resText, text: e.text}
	case exprLiteral:
		out = result{kind: resLiteral, text: e.text}
	case exprPath:
		out = r.read(e.path)
	case exprTemplate:
		// Reading a part may itself write to buf, so the text is put together
		// elsewhere; templates do not nest.
		r.tmp = r.tmp[:0]
		for i := range e.parts {
			p := &e.parts[i]
			if p.path == nil {
				r.tmp = append(r.tmp, p.text...)
				continue
			}
			t := r.textOf(r.read(p.path))
			if len(t) == 0 {
				return result{}
			}
			r.tmp = append(r.tmp, t...)
		}
		start := len(r.buf)
		r.buf = append(r.buf, r.tmp...)
		out = result{kind: resText, text: r.buf[start:len(r.buf):len(r.buf)]}
	case exprFirst:
		for _, a := range e.alts {
			if out = r.eval(a); out.kind != resNone {
				break
			}
		}
	default:
		return result{}
	}
	if out.kind == resNone || e.plain() {
		return out
	}
	return r.refine(e, out)
}

// plain says that nothing is done to what is read.
func (e *expr) plain() bool {
	return e.except == nil && e.match == nil && e.as == nil && e.table == nil
}

func (r *run) refine(e *expr, in result) result {
	t := r.textOf(in)
	if len(t) == 0 {
		return result{}
	}
	if e.except[string(t)] {
		return result{}
	}
	if e.match != nil {
		m := e.match.FindSubmatchIndex(t)
		if m == nil {
			return result{}
		}
		from, to := matched(m)
		if t = t[from:to]; len(t) == 0 {
			return result{}
		}
	}
	for _, c := range e.as {
		if t = r.convert(c, t); len(t) == 0 {
			return result{}
		}
	}
	if e.table != nil {
		c, ok := e.table[string(t)]
		if !ok {
			if e.other == nil {
				return result{}
			}
			c = *e.other
		}
		if c.literal {
			return result{kind: resLiteral, text: c.text}
		}
		return result{kind: resText, text: c.text}
	}
	if in.kind == resNode && e.match == nil && e.as == nil {
		return in // a number stays a number
	}
	return result{kind: resText, text: t}
}

func (r *run) convert(c conversion, t []byte) []byte {
	switch c {
	case asIP:
		a, ok := parseIP(t)
		if !ok {
			return nil
		}
		return r.keep(a.String())
	case asPort:
		if ap, err := netip.ParseAddrPort(string(t)); err == nil {
			return r.keep(strconv.Itoa(int(ap.Port())))
		}
		return nil
	case asNotIP:
		if _, ok := parseIP(t); ok {
			return nil
		}
		return t
	case asLower:
		return bytes.ToLower(t)
	case asUpper:
		return bytes.ToUpper(t)
	case asBase:
		if i := bytes.LastIndexAny(t, "/:"); i >= 0 {
			return t[i+1:]
		}
		return t
	case asDir:
		if i := bytes.LastIndexByte(t, '/'); i >= 0 {
			return t[:i]
		}
		return nil
	case asHead:
		if i := bytes.IndexAny(t, "/:"); i >= 0 {
			return t[:i]
		}
		return t
	case asTrim:
		return bytes.TrimSpace(t)
	case asDigest:
		return r.digest(t)
	case asNumber:
		if f, err := strconv.ParseFloat(string(t), 64); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil
		}
		return t
	default:
		return t
	}
}

// keep copies s into the run's buffer, so that it lives as long as the others.
func (r *run) keep(s string) []byte {
	start := len(r.buf)
	r.buf = append(r.buf, s...)
	return r.buf[start:len(r.buf):len(r.buf)]
}

func (r *run) digest(t []byte) []byte {
	h := sha256.Sum256(t)
	start := len(r.buf)
	r.buf = append(r.buf, "sha256:"...)
	r.buf = hex.AppendEncode(r.buf, h[:])
	return r.buf[start:len(r.buf):len(r.buf)]
}

// textOf returns a result's text; objects and arrays have none.
func (r *run) textOf(v result) []byte {
	switch v.kind {
	case resNode:
		return r.plainText(v.node)
	case resText, resLiteral:
		return v.text
	default:
		return nil
	}
}

// read reads a path. A secret reads as what may be shown of it.
func (r *run) read(p *path) result {
	if p.derived >= 0 {
		t := r.derivedText(p.derived)
		if len(t) == 0 {
			return result{}
		}
		return result{kind: resText, text: t}
	}
	v := r.value(p)
	if !present(v) {
		return result{}
	}
	if p.raw {
		r.note(v)
		return result{kind: resNode, node: v}
	}
	if p.secret != nil && !r.haveSecrets {
		if shown, ok := r.shown(p.secret, v); ok {
			return result{kind: resText, text: shown}
		}
	}
	if r.haveSecrets && len(r.secrets) > 0 {
		if s := r.secretAt(v.Offset()); s != nil {
			r.note(v)
			if rule := r.insideRule(v); rule != nil {
				return result{kind: resText, text: r.scrub(r.hideInside(rule, v.Bytes()))}
			}
			return result{kind: resText, text: r.keep(redaction(s))}
		}
	}
	r.note(v)
	return result{kind: resNode, node: v}
}

// value finds what the path reaches.
func (r *run) value(p *path) jsondoc.Value {
	base := r.root
	if p.rel {
		base = r.item
	} else if p.slot >= 0 {
		if r.known[p.slot] != r.epoch {
			r.known[p.slot] = r.epoch
			r.slots[p.slot] = r.lookup(p)
		}
		return r.slots[p.slot]
	}
	if p.self {
		return base
	}
	return first(base, p.steps, r.fold)
}

// lookup resolves a remembered path from its longest remembered prefix.
func (r *run) lookup(p *path) jsondoc.Value {
	if p.self {
		return r.root
	}
	parent := r.f.parents[p.slot]
	if parent.path == nil {
		return first(r.root, p.steps, r.fold)
	}
	v := r.value(parent.path)
	if !v.Exists() {
		return v
	}
	return first(v, p.steps[parent.depth:], r.fold)
}

type parentPath struct {
	path  *path
	depth int
}

// plainText returns the text of a scalar as it may be shown.
func (r *run) plainText(v jsondoc.Value) []byte {
	b := v.Bytes()
	if r.haveSecrets && len(r.secrets) > 0 {
		return r.scrub(b)
	}
	return b
}

// parseIP reads an address, with or without a port, brackets or a zone.
func parseIP(b []byte) (netip.Addr, bool) {
	if len(b) < 2 || len(b) > 64 {
		return netip.Addr{}, false
	}
	s := strings.TrimSpace(string(b))
	a, err := netip.ParseAddr(s)
	if err != nil {
		if ap, err2 := netip.ParseAddrPort(s); err2 == nil {
			a = ap.Addr()
		} else if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
			if a, err = netip.ParseAddr(s[1 : len(s)-1]); err != nil {
				return netip.Addr{}, false
			}
		} else {
			return netip.Addr{}, false
		}
	}
	return a.Unmap().WithZone(""), true
}
