package correlate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/store"
)

// maxSlot bounds the time within which a correlation accuses the same subject
// over the same group once. A shorter timespan is the slot itself.
const maxSlot = 15 * time.Minute

// maxPaths bounds the ways in which one event can reach a correlation.
const maxPaths = 1000

// feed is a correlation that a rule's matches go to, and as which of its rules.
type feed struct {
	corr *Rule
	base int
}

// Set is the compiled correlations of a bundle. It does not change.
type Set struct {
	rules    []*Rule
	byKey    map[string]*Rule
	feeds    map[int][]feed // by the number of a rule in the sigma.Set
	hidden   map[int]bool
	lateness time.Duration
	geo      *Geo
	hash     string
	left     []*sigma.RuleError
	// waiting are rules that an optional correlation which was left out refers to,
	// and no other.
	waiting map[int]bool
}

// Options say how correlations are compiled.
type Options struct {
	// Lateness is the longest that a record may come after its event.
	Lateness time.Duration
	// Geo finds places of addresses; nil where the user has no database.
	Geo *Geo
}

// Compile binds the documents to the rules that they refer to. A correlation
// that cannot be used is left out, with its reason; so is one that refers to it.
// The rules that it refers to make no signals of their own all the same. Called
// again, with other rules, it ends the use of the Set that it returned before.
func (rd *Reader) Compile(rules *sigma.Set, opt Options) (*Set, []*sigma.RuleError) {
	for _, r := range rd.rules {
		r.feeds, r.hidden = nil, false
		for i := range r.operands {
			r.operands[i].corr, r.operands[i].rule = nil, -1
		}
	}
	c := &compiler{rules: rules, opt: opt, byRef: map[string][]target{}, state: map[*Rule]int{}}
	for i, r := range rules.Rules() {
		c.name(r.ID, target{rule: i})
		c.name(r.Name, target{rule: i})
	}
	taken := map[string]*Rule{}
	for _, r := range rd.rules {
		switch n, dup := rules.Index(r.ID); {
		case dup:
			o := rules.Rules()[n]
			c.refuse(r, r.Line, "its id is taken by the rule at %s:%d", o.Path, o.Line)
			continue
		case taken[r.ID] != nil:
			c.refuse(r, r.Line, "its id is taken by the rule at %s:%d", taken[r.ID].Path, taken[r.ID].Line)
			continue
		}
		taken[r.ID] = r
		c.name(r.ID, target{rule: -1, corr: r})
		c.name(r.Name, target{rule: -1, corr: r})
		c.all = append(c.all, r)
	}
	s := &Set{byKey: map[string]*Rule{}, feeds: map[int][]feed{}, hidden: map[int]bool{}, waiting: map[int]bool{}, lateness: opt.Lateness, geo: opt.Geo}
	for _, r := range c.all {
		c.bind(r, 0)
	}
	for _, r := range c.all {
		if c.state[r] == usable {
			s.rules = append(s.rules, r)
			s.byKey[r.key] = r
		}
	}
	s.left = c.left
	s.link(c)
	for _, ref := range rd.refused {
		for _, t := range c.byRef[ref] {
			if t.corr == nil {
				s.hidden[t.rule] = true
			} else {
				t.corr.hidden = true
			}
		}
	}
	s.reveal(c)
	s.hash = s.meaning(rules, len(c.errs)+len(c.left)+len(rd.refused) > 0)
	return s, c.errs
}

// meaning is the hash over what the correlations mean. What was refused is not
// among them and silences rules all the same, so with refused those count too.
func (s *Set) meaning(rules *sigma.Set, refused bool) string {
	var parts []string
	for _, r := range s.rules {
		parts = append(parts, r.canonical(true))
	}
	if refused {
		for i, r := range rules.Rules() {
			if s.hidden[i] {
				parts = append(parts, "hidden "+r.ID)
			}
		}
		for _, r := range s.rules {
			if r.hidden {
				parts = append(parts, "hidden "+r.ID)
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// link leads from rules to the correlations that refer to them.
func (s *Set) link(c *compiler) {
	for _, r := range c.all {
		for i, o := range r.operands {
			switch {
			case o.corr != nil:
				o.corr.hidden = o.corr.hidden || !r.Generate
				if c.state[r] == usable {
					o.corr.feeds = append(o.corr.feeds, feed{r, i})
				}
			case o.rule >= 0:
				s.hidden[o.rule] = s.hidden[o.rule] || !r.Generate
				if c.state[r] == usable {
					s.feeds[o.rule] = append(s.feeds[o.rule], feed{r, i})
				}
				if waits, known := s.waiting[o.rule]; waits || !known {
					s.waiting[o.rule] = c.state[r] != usable && r.Optional
				}
			}
		}
	}
}

// reveal lets rules speak for which one correlation says generate: true.
func (s *Set) reveal(c *compiler) {
	for _, r := range c.all {
		if !r.Generate {
			continue
		}
		for _, o := range r.operands {
			switch {
			case o.corr != nil:
				o.corr.hidden = false
			case o.rule >= 0:
				delete(s.hidden, o.rule)
			}
		}
	}
}

type target struct {
	rule int
	corr *Rule
}

// States of a correlation while it is bound.
const (
	binding = iota + 1
	usable
	unusable
)

type compiler struct {
	rules *sigma.Set
	opt   Options
	byRef map[string][]target
	all   []*Rule
	state map[*Rule]int
	path  []*Rule
	errs  []*sigma.RuleError
	left  []*sigma.RuleError
}

func (c *compiler) name(ref string, t target) {
	if ref != "" && !slices.Contains(c.byRef[ref], t) {
		c.byRef[ref] = append(c.byRef[ref], t)
	}
}

func (c *compiler) refuse(r *Rule, line int, format string, args ...any) {
	c.state[r] = unusable
	c.left = slices.DeleteFunc(c.left, func(e *sigma.RuleError) bool { return e.Path == r.Path && e.Rule == r.ID })
	c.errs = append(c.errs, r.errorf(line, format, args...))
}

// lack refuses a correlation that needs what the configuration does not give; an
// optional one is only left out.
func (c *compiler) lack(r *Rule, line int, format string, args ...any) {
	if !r.Optional {
		c.refuse(r, line, format, args...)
		return
	}
	if c.state[r] == unusable {
		return // the first reason is enough
	}
	c.state[r] = unusable
	c.left = append(c.left, r.errorf(line, "it is left out: "+format, args...))
}

// bind finds what a correlation refers to, what those refer to before it.
func (c *compiler) bind(r *Rule, depth int) {
	if c.state[r] != 0 {
		return
	}
	c.state[r] = binding
	c.path = append(c.path, r)
	defer func() { c.path = c.path[:len(c.path)-1] }()
	for i := range r.operands {
		o := &r.operands[i]
		of := c.byRef[o.Ref]
		switch {
		case len(of) == 0:
			c.lack(r, o.Line, "it refers to %q, which is neither the id nor the name of a rule that can be used", o.Ref)
			continue
		case len(of) > 1:
			c.refuse(r, o.Line, "it refers to %q, which %d rules are called; refer to one by its id", o.Ref, len(of))
			continue
		case of[0].corr == nil:
			b := c.rules.Rules()[of[0].rule]
			o.rule, o.id, o.name = of[0].rule, b.ID, b.Name
			continue
		}
		inner := of[0].corr
		o.corr, o.id, o.name = inner, inner.ID, inner.Name
		if types[r.Type].state {
			c.refuse(r, o.Line, "%s cannot refer to a correlation", r.Type)
			continue
		}
		if depth >= maxDepth {
			c.refuse(r, o.Line, "correlations refer to each other more than %d deep", maxDepth)
			continue
		}
		c.bind(inner, depth+1)
		switch c.state[inner] {
		case binding:
			at := slices.Index(c.path, inner)
			var names []string
			for _, p := range append(slices.Clone(c.path[at:]), inner) {
				names = append(names, p.ID)
			}
			c.refuse(r, o.Line, "correlations refer to each other in a circle: %s", strings.Join(names, " -> "))
		case unusable:
			c.refuse(r, o.Line, "it refers to %q, which cannot be used", o.Ref)
		}
	}
	r.paths = 0
	for _, o := range r.operands {
		r.paths++
		if o.corr != nil {
			r.paths += o.corr.paths
		}
	}
	if r.paths > maxPaths && c.state[r] == binding {
		c.refuse(r, r.Line, "events reach it by more than %d ways through other correlations", maxPaths)
	}
	if r.Type == ImpossibleTravel && c.opt.Geo == nil {
		c.lack(r, r.Line, "%s needs a database of places: give mmdb: FILE in the configuration, or --mmdb FILE", r.Type)
	}
	if c.state[r] == binding { // what was refused may refer to more than can be looked through
		c.aliases(r)
	}
	if c.state[r] == binding {
		c.state[r] = usable
		r.key = digest("key", r.canonical(false))
	}
}

// aliases refuses those that are for none of the rules.
func (c *compiler) aliases(r *Rule) {
	for _, alias := range slices.Sorted(maps.Keys(r.Aliases)) {
		for _, ref := range slices.Sorted(maps.Keys(r.Aliases[alias])) {
			if !c.aliasOf(r, ref, 0) {
				c.refuse(r, r.aliasLine, "the alias %s is for %q, which is not among the rules", alias, ref)
			}
		}
	}
}

// aliasOf reports whether an alias may be for ref: one of the rules, or of the
// rules that those refer to.
func (c *compiler) aliasOf(r *Rule, ref string, depth int) bool {
	for _, o := range r.operands {
		if o.Ref == ref || o.name == ref || o.id == ref || o.corr != nil && depth < maxDepth && c.aliasOf(o.corr, ref, depth+1) {
			return true
		}
	}
	return false
}

// canonical is what a window is made of, or with all everything that counts.
func (r *Rule) canonical(all bool) string {
	type form struct {
		V                         int
		ID                        string
		Type                      Type
		Rules, Group, Fields      []string
		Aliases                   map[string]map[string]string
		Timespan                  time.Duration
		Title, Mode, Cond         string
		Confidence                float64
		Accuse                    []sigma.Accusation
		Conds                     []comparison
		Settle, Learn, Baseline   time.Duration
		Percentile, Factor, Speed float64
		Values, Tags              []string
		Generate                  bool
	}
	f := form{V: 1, ID: r.ID, Type: r.Type, Group: r.GroupBy, Fields: r.Fields, Aliases: r.Aliases, Timespan: r.Timespan, Baseline: r.Baseline, Values: r.Values}
	for _, o := range r.operands {
		id := o.id
		if o.corr != nil {
			id = o.corr.key // another inner window, another window
		}
		f.Rules = append(f.Rules, id)
	}
	if all {
		f.Title, f.Mode, f.Confidence, f.Accuse, f.Conds, f.Settle, f.Learn = r.Title, r.Mode, r.Confidence, r.Accuse, r.conds, r.Settle, r.Learn
		f.Percentile, f.Factor, f.Speed, f.Tags, f.Generate = r.Percentile, r.Factor, r.Speed, r.Tags, r.Generate
		if r.cond != nil {
			f.Cond = r.cond.String()
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		panic(fmt.Sprintf("correlate: encoding a rule: %v", err)) // plain data always encodes
	}
	return string(b)
}

// digest is 128 bits of the hash over parts, each after its length.
func digest(parts ...string) string {
	var buf [512]byte
	b := buf[:0]
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// Rules returns the correlations that can be used.
func (s *Set) Rules() []*Rule {
	if s == nil {
		return nil
	}
	return s.rules
}

// Idle reports whether matches of the rule of this number lead to nothing, because
// only optional correlations that were left out refer to it.
func (s *Set) Idle(rule int) bool { return s.Hidden(rule) && s.waiting[rule] }

// Left returns the optional correlations that are not used because the
// configuration does not give what they need: one note of each.
func (s *Set) Left() []*sigma.RuleError {
	if s == nil {
		return nil
	}
	return s.left
}

// Hash identifies what the correlations mean, rules included that only refused
// ones silence. It is empty where that is nothing.
func (s *Set) Hash() string { return s.hash }

// Hidden reports whether the rule of this number makes no signals of its own,
// because a correlation refers to it and none that does says generate: true.
func (s *Set) Hidden(rule int) bool { return s != nil && s.hidden[rule] }

// Settles reports whether some windows are judged later than their records come.
func (s *Set) Settles() bool {
	return s != nil && slices.ContainsFunc(s.rules, func(r *Rule) bool { return r.settled })
}

// settle is how long the window of a correlation is waited with.
func (s *Set) settle(r *Rule) time.Duration {
	if r.Settle >= 0 {
		return r.Settle
	}
	return s.lateness
}

// Span is the longest that a record counts in a window, from when it happened, 0
// without correlations.
func (s *Set) Span() time.Duration {
	var span time.Duration
	if s != nil {
		for _, r := range s.rules {
			span = max(span, r.Timespan+max(s.lateness, s.settle(r)))
		}
	}
	return span
}

// Wait is the longest that a window is waited with.
func (s *Set) Wait() time.Duration {
	var d time.Duration
	for _, r := range s.Rules() {
		if r.settled {
			d = max(d, s.settle(r))
		}
	}
	return d
}

// Contribution is the part of one event in one window, before it is written.
type Contribution struct {
	Rule *Rule
	Row  store.Contribution
	body payload
	hash uint64
}

// payload is what a row keeps beside what the window needs.
type payload struct {
	Source  string        `json:"s"`
	Realm   string        `json:"r"`
	Ceiling staunch.Tier  `json:"c"`
	Accused []staunch.Ref `json:"a,omitempty"`
	Refs    []staunch.Ref `json:"x,omitempty"`
	Group   []string      `json:"g,omitempty"`
	Then    []onward      `json:"n,omitempty"`
	// Origins are the origins that it comes from, where that is not Source alone.
	Origins []string `json:"o,omitempty"`
}

// origins are the origins that the contribution comes from.
func (p *payload) origins() []string {
	if len(p.Origins) > 0 {
		return p.Origins
	}
	return []string{p.Source}
}

// onward is what the event would contribute to a correlation of correlations,
// should it complete this window.
type onward struct {
	Key     string        `json:"k"`
	Base    int           `json:"b"`
	Value   string        `json:"v,omitempty"`
	Accused []staunch.Ref `json:"a,omitempty"`
	Group   []string      `json:"g,omitempty"`
	Then    []onward      `json:"n,omitempty"`
}

// Contribute returns what an event that matched the rules of these numbers adds
// to windows. One whose time is out of its source's bounds adds nothing.
func (s *Set) Contribute(ev *Event, matched []int) []Contribution {
	if s == nil || !ev.Standing.MayEnforce() {
		return nil
	}
	var out []Contribution
	for _, n := range matched {
		for _, f := range s.feeds[n] {
			o, ok := s.onward(ev, f, nil)
			if !ok {
				continue
			}
			p := payload{Source: ev.Source, Realm: ev.Realm, Ceiling: ev.Ceiling, Refs: ev.Actor}
			if ev.Origin != "" {
				p.Origins = []string{ev.Origin}
			}
			if c, ok := s.contribution(o, ev.ID, ev.Time, p); ok {
				out = append(out, c)
			}
		}
	}
	return out
}

// onward works out group, value and accused; inner are the names of the rules
// that led here.
func (s *Set) onward(ev *Event, f feed, inner []operand) (onward, bool) {
	r := f.corr
	via := slices.Concat(inner, []operand{r.operands[f.base]})
	o := onward{Key: r.key, Base: f.base}
	for _, g := range r.GroupBy {
		v, ok := ev.field(r.resolve(g, via, f.base))
		if !ok {
			return o, false // it belongs to no group
		}
		o.Group = append(o.Group, bounded(v))
	}
	var vals []string
	for _, name := range r.Fields {
		v, ok := ev.field(r.resolve(name, via, f.base))
		if !ok {
			return o, false
		}
		vals = append(vals, bounded(v))
	}
	var ok bool
	if o.Value, ok = s.value(r, vals); !ok {
		return o, false
	}
	if ev.Accuse != nil {
		o.Accused = ev.Accuse(r, r.narrowest())
	}
	for _, next := range r.feeds {
		if n, ok := s.onward(ev, next, via); ok {
			o.Then = append(o.Then, n)
		}
	}
	return o, true
}

// resolve is the field that a name stands for in an event that came by the given
// rules: what an alias says of the nearest of them.
func (r *Rule) resolve(name string, via []operand, base int) string {
	if of, ok := r.Aliases[name]; ok {
		for _, o := range slices.Backward(via) {
			for _, ref := range []string{o.Ref, o.name, o.id} {
				if f, ok := of[ref]; ok && ref != "" {
					return f
				}
			}
		}
		return name
	}
	// The credential that is minted or reported is not the actor's own.
	if name == FieldCredential && (r.Type == MintedElsewhere && base == 0 || r.Type == UseAfterReport && base < len(r.operands)-1) {
		return FieldIssued
	}
	return name
}

// narrowest is the narrowest kind of ref that the group names, "" for none.
func (r *Rule) narrowest() staunch.Kind {
	for _, k := range []struct {
		kind   staunch.Kind
		fields []string
	}{
		{staunch.KindSession, []string{FieldSession, FieldSessionValue}},
		{staunch.KindCredential, []string{FieldCredential, FieldCredentialValue}},
		{staunch.KindAccount, []string{FieldAccount, FieldAccountValue}},
	} {
		for _, g := range r.GroupBy {
			if slices.Contains(k.fields, g) {
				return k.kind
			}
			for _, f := range r.Aliases[g] {
				if slices.Contains(k.fields, f) {
					return k.kind
				}
			}
		}
	}
	return ""
}

// maxText bounds a value that is kept as it is; a longer one is kept as a digest.
const maxText = 256

func bounded(v string) string {
	if len(v) <= maxText && strings.IndexByte(v, 0) < 0 {
		return strings.ToValidUTF8(v, "\uFFFD")
	}
	return staunch.Digest([]byte(v))
}

// contribution makes the row of one.
func (s *Set) contribution(o onward, event string, at staunch.Time, p payload) (Contribution, bool) {
	r := s.byKey[o.Key]
	if r == nil || o.Base >= len(r.operands) {
		return Contribution{}, false
	}
	p.Accused, p.Group, p.Then = o.Accused, o.Group, o.Then
	body, err := json.Marshal(p)
	if err != nil {
		return Contribution{}, false // refs that the format made always encode
	}
	c := Contribution{Rule: r, body: p, Row: store.Contribution{
		Series: digest(append([]string{r.key}, o.Group...)...), At: at, Event: event, Base: o.Base, Value: o.Value, Body: body,
	}}
	span := r.Timespan
	if r.Type == UseAfterReport && o.Base == len(r.operands)-1 {
		span = 0 // a use matters to reports that are still to come, no longer than those may be late
	}
	c.Row.Until = at.Add(span + max(s.lateness, s.settle(r)))
	if r.settled {
		c.Row.Due = at.Add(s.settle(r))
	}
	if h, err := hex.DecodeString(c.Row.Series[:16]); err == nil {
		c.hash = binary.BigEndian.Uint64(h)
	}
	return c, true
}
