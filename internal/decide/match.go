package decide

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"

	"github.com/staunch-project/staunch"
)

// The keys of match, in the order in which explanations give them.
const (
	keyIdentityKind = iota
	keyEnvironment
	keyTier
	keyTolerance
	keyManaged
	keyShared
	keyOwner
	keyRealm
	keyPlatform
	keySubjectKind
	keyRule
	keyTechnique
	keySource
	keyCount
)

func keyName(k int) string {
	return [keyCount]string{"identity_kind", "environment", "tier", "tolerance", "managed", "shared", "owner",
		"realm", "platform", "subject_kind", "rule", "technique", "source"}[k]
}

// term is one key with its alternatives.
type term struct {
	key    int
	values []string
}

// matcher is the terms of one policy, by key; all must hold.
type matcher []term

func (m matcher) values(key int) []string {
	for _, t := range m {
		if t.key == key {
			return t.values
		}
	}
	return nil
}

func compileMatch(y matchYAML, bad func(string, ...any)) matcher {
	var m matcher
	add := func(key int, values []string, valid func(string) bool) {
		if len(values) == 0 {
			return
		}
		if len(values) > maxMatch {
			bad("match.%s has %d values, at most %d", keyName(key), len(values), maxMatch)
			return
		}
		for _, v := range values {
			if valid != nil && !valid(v) {
				bad("match.%s: %q is not one that there is", keyName(key), v)
			}
		}
		m = append(m, term{key, values})
	}
	flag := func(key int, b *bool) {
		if b != nil {
			add(key, []string{strconv.FormatBool(*b)}, nil)
		}
	}
	add(keyIdentityKind, y.IdentityKind, func(s string) bool { return staunch.IdentityKind(s).Valid() })
	add(keyEnvironment, y.Environment, nil)
	if t := y.Tier; t != nil {
		// Tier 0 is "not said", which is no tier at all.
		lo, hi := max(t.Min, 1), t.Max
		if hi == 0 {
			hi = 4
		}
		if t.Min < 0 || lo > 4 || hi < lo || hi > 4 {
			bad("match.tier: min %d and max %d are not between 1 and 4 in this order", t.Min, t.Max)
		} else {
			var values []string
			for v := lo; v <= hi; v++ {
				values = append(values, strconv.Itoa(v))
			}
			add(keyTier, values, nil)
		}
	}
	add(keyTolerance, y.Tolerance, func(s string) bool { return staunch.Tolerance(s).Valid() })
	flag(keyManaged, y.Managed)
	flag(keyShared, y.Shared)
	add(keyOwner, y.Owner, nil)
	add(keyRealm, y.Realm, nil)
	add(keyPlatform, y.Platform, nil)
	add(keySubjectKind, y.SubjectKind, func(s string) bool { return staunch.Kind(s).Width() > 0 })
	add(keyRule, y.Rule, nil)
	var ts []string
	for _, t := range y.Technique {
		ts = append(ts, technique(t))
	}
	add(keyTechnique, ts, nil)
	add(keySource, y.Source, nil)
	return m
}

// facts are an input's values for every key. Each key has one value or a list.
type facts struct {
	one  [keyCount]string
	many [keyCount][]string
}

func (f *facts) has(key int, value string) bool {
	if isMany(key) {
		return slices.Contains(f.many[key], value)
	}
	return f.one[key] == value
}

func isMany(key int) bool { return key == keyRule || key == keyTechnique || key == keySource }

// shown is what an explanation says that the input has.
func (f *facts) shown(key int) string {
	if isMany(key) {
		return fmt.Sprint(f.many[key])
	}
	return strconv.Quote(f.one[key])
}

// fails returns why the matcher does not hold, "" when it does.
func (m matcher) fails(f *facts) string {
	for _, t := range m {
		if !slices.ContainsFunc(t.values, func(v string) bool { return f.has(t.key, v) }) {
			return fmt.Sprintf("match.%s wants one of %v, and it is %s", keyName(t.key), t.values, f.shown(t.key))
		}
	}
	return ""
}

// index finds the policies whose match holds. Policies are numbered in the
// order in which they are tried, so that the first bit that is left is the
// first to try.
type index struct {
	n, words int
	keys     []keyIndex
}

// keyIndex is one key's part. Keys that no policy uses have none.
type keyIndex struct {
	key int
	// wild has the policies that do not use the key.
	wild []uint64
	// by has those that take a value: as bits where they are many, and as a
	// list of numbers where they are few.
	by map[string]posting
}

type posting struct {
	bits []uint64
	list []uint32
}

func newIndex(policies []*policy) index {
	x := index{n: len(policies), words: (len(policies) + 63) / 64}
	for key := range keyCount {
		ki := keyIndex{key: key, wild: make([]uint64, x.words), by: map[string]posting{}}
		lists := map[string][]uint32{}
		for n, p := range policies {
			values := p.match.values(key)
			if len(values) == 0 {
				ki.wild[n/64] |= 1 << (n % 64)
				continue
			}
			for _, v := range values {
				if l := lists[v]; len(l) == 0 || l[len(l)-1] != uint32(n) { //nolint:gosec // n is at most MaxPolicies
					lists[v] = append(l, uint32(n)) //nolint:gosec // as above
				}
			}
		}
		if len(lists) == 0 {
			continue
		}
		for v, l := range lists {
			if len(l) <= x.words {
				ki.by[v] = posting{list: l}
				continue
			}
			b := make([]uint64, x.words)
			for _, n := range l {
				b[n/64] |= 1 << (n % 64)
			}
			ki.by[v] = posting{bits: b}
		}
		x.keys = append(x.keys, ki)
	}
	return x
}

// each calls fn with the number of every policy whose match holds, in order,
// until fn returns false.
func (x *index) each(f *facts, fn func(n int) bool) {
	if x.n == 0 {
		return
	}
	const onStack = 32 // 2,048 policies
	var a, b [onStack]uint64
	left, some := a[:], b[:]
	if x.words > onStack {
		left, some = make([]uint64, x.words), make([]uint64, x.words)
	}
	left, some = left[:x.words], some[:x.words]
	for i := range left {
		left[i] = ^uint64(0)
	}
	if r := x.n % 64; r != 0 {
		left[x.words-1] = 1<<r - 1
	}
	for i := range x.keys {
		k := &x.keys[i]
		copy(some, k.wild)
		if isMany(k.key) {
			for _, v := range f.many[k.key] {
				k.by[v].into(some)
			}
		} else {
			k.by[f.one[k.key]].into(some)
		}
		for w := range left {
			left[w] &= some[w]
		}
	}
	for w, word := range left {
		for ; word != 0; word &= word - 1 {
			if !fn(w*64 + bits.TrailingZeros64(word)) {
				return
			}
		}
	}
}

func (p posting) into(set []uint64) {
	for i, w := range p.bits {
		set[i] |= w
	}
	for _, n := range p.list {
		set[n/64] |= 1 << (n % 64)
	}
}
