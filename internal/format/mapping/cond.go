package mapping

import (
	"bytes"
	"regexp"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// cond is a condition: any of its alternatives, of each all of its tests.
type cond struct {
	any [][]test
}

// test compares what a path reaches. Where the path reaches several values one
// that fits is enough; with negate none may.
type test struct {
	path   *path
	op     testOp
	one    []byte
	set    map[string]bool
	re     *regexp.Regexp
	want   bool // of exists
	negate bool
}

type testOp uint8

const (
	opEquals testOp = iota
	opIn
	opExists
	opPrefix
	opSuffix
	opContains
	opMatches
	opKind
)

// holds evaluates c.
func (r *run) holds(c *cond) bool {
next:
	for _, all := range c.any {
		for i := range all {
			if !r.test(&all[i]) {
				continue next
			}
		}
		return true
	}
	return false
}

func (r *run) test(t *test) bool {
	if t.path.derived >= 0 {
		b := r.derivedText(t.path.derived)
		if t.op == opExists {
			return (len(b) > 0) == t.want
		}
		return (len(b) > 0 && t.fits(b)) != t.negate
	}
	if t.path.single || t.path.slot >= 0 && t.op == opExists {
		v := r.value(t.path)
		if t.op == opExists {
			return present(v) == t.want
		}
		return t.value(v) != t.negate
	}
	base := r.root
	if t.path.rel {
		base = r.item
	}
	found := false
	each(base, t.path.steps, r.fold, func(v jsondoc.Value) bool {
		if t.op == opExists {
			found = present(v)
		} else {
			found = t.value(v)
		}
		return !found
	})
	if t.op == opExists {
		return found == t.want
	}
	return found != t.negate
}

func (t *test) value(v jsondoc.Value) bool {
	if t.op == opKind {
		return t.set[v.Kind().String()]
	}
	b := v.Bytes()
	if v.Kind() == jsondoc.Null || v.Kind() == jsondoc.Absent {
		return false
	}
	return t.fits(b)
}

func (t *test) fits(b []byte) bool {
	switch t.op {
	case opEquals:
		return bytes.Equal(b, t.one)
	case opIn:
		return t.set[string(b)]
	case opPrefix:
		return bytes.HasPrefix(b, t.one)
	case opSuffix:
		return bytes.HasSuffix(b, t.one)
	case opContains:
		return bytes.Contains(b, t.one)
	case opMatches:
		return t.re.Match(b)
	default:
		return false
	}
}
