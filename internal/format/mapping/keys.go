package mapping

import (
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// maxTargets bounds the targets of one record.
const maxTargets = 256

// pending is a text of the keys whose string is made with all the others', in
// one piece.
type pending struct {
	what       uint8
	start, end int
}

const (
	pendID = iota
	pendOperation
	pendIP
	pendActor
	pendTarget
)

func (r *run) put(what uint8, b []byte) {
	start := len(r.arena)
	r.arena = append(r.arena, b...)
	r.pend = append(r.pend, pending{what, start, len(r.arena)})
}

// Keys extracts the record's keys.
func (f *Format) Keys(doc *jsondoc.Doc, env format.Env) (staunch.Keys, error) {
	if err := isObject(doc); err != nil {
		return staunch.Keys{}, err
	}
	r := f.begin(doc, env)
	defer f.end(r)
	return r.makeKeys()
}

// Screen says whether the record states a fact, and Keys' error.
func (f *Format) Screen(doc *jsondoc.Doc, env format.Env) (facts bool, err error) {
	if err := isObject(doc); err != nil {
		return false, err
	}
	r := f.begin(doc, env)
	defer f.end(r)
	if _, err := r.eventTime(); err != nil {
		return false, err
	}
	return r.statesFact(), nil
}

func isObject(doc *jsondoc.Doc) error {
	if k := doc.Root().Kind(); k != jsondoc.Object {
		return &staunch.Problem{Place: "record", Reason: "is " + article(k) + ", not an object"}
	}
	return nil
}

func (r *run) makeKeys() (staunch.Keys, error) {
	f := r.f
	r.arena, r.pend = r.arena[:0], r.pend[:0]
	k := &r.keys
	*k = staunch.Keys{Outcome: staunch.OutcomeUnknownValue}
	t, err := r.eventTime()
	if err != nil {
		return staunch.Keys{}, err
	}
	k.Time = t
	if f.id != nil {
		r.put(pendID, bounded(r.textOf(r.eval(f.id)), 512))
	}
	if f.operation != nil {
		r.put(pendOperation, bounded(r.textOf(r.eval(f.operation)), 512))
	}
	if f.sourceIP != nil {
		if t := r.textOf(r.eval(f.sourceIP)); len(t) > 0 {
			if a, ok := parseIP(t); ok {
				var b [64]byte
				r.put(pendIP, a.AppendTo(b[:0]))
			}
		}
	}
	k.Outcome = r.outcome()
	if n := len(f.actor); n > 0 {
		k.Actor = make([]staunch.Ref, 0, n)
		for _, s := range f.actor {
			r.appendRef(&k.Actor, s, pendActor)
		}
	}
	for _, s := range f.targets {
		if s.each == nil {
			r.appendRef(&k.Targets, s, pendTarget)
			continue
		}
		r.forEach(s.each, s.when, func() bool {
			if len(k.Targets) < maxTargets {
				r.appendRef(&k.Targets, s, pendTarget)
			}
			return len(k.Targets) < maxTargets
		})
	}
	k.Facts = r.statesFact()
	text := string(r.arena)
	actor, target := 0, 0
	for _, p := range r.pend {
		s := text[p.start:p.end]
		switch p.what {
		case pendID:
			k.VendorID = s
		case pendOperation:
			k.Operation = s
		case pendIP:
			k.SourceIP = s
		case pendActor:
			k.Actor[actor].Value = s
			actor++
		case pendTarget:
			k.Targets[target].Value = s
			target++
		}
	}
	return *k, nil
}

func bounded(b []byte, most int) []byte {
	if len(b) <= most {
		return b
	}
	// Text of a record is valid UTF-8; the cut must not end in the middle of a
	// character.
	for most > 0 && !utf8.RuneStart(b[most]) {
		most--
	}
	return b[:most]
}

// appendRef appends the ref without its value, which is put in the arena.
func (r *run) appendRef(refs *[]staunch.Ref, s *refSpec, what uint8) {
	realm, value, spec := r.refParts(s)
	if spec == nil {
		return
	}
	if what == pendActor {
		for i := range *refs {
			if x := &(*refs)[i]; x.Kind == spec.kind && x.Scheme == spec.scheme {
				return
			}
		}
	} else {
		n := 0
		for _, p := range r.pend {
			if p.what != what {
				continue
			}
			if x := &(*refs)[n]; x.Kind == spec.kind && x.Scheme == spec.scheme && string(r.arena[p.start:p.end]) == string(value) {
				return
			}
			n++
		}
	}
	*refs = append(*refs, staunch.Ref{Kind: spec.kind, Realm: realm, Scheme: spec.scheme})
	r.put(what, value)
}

// refParts evaluates a ref; spec is nil when the record does not name it or
// names it by what cannot be a ref.
func (r *run) refParts(s *refSpec) (realm string, value []byte, spec *refSpec) {
	if s.when != nil && s.each == nil && !r.holds(s.when) {
		return "", nil, nil
	}
	for _, a := range s.alts {
		if realm, value, spec = r.refParts(a); spec != nil {
			return realm, value, spec
		}
	}
	if s.value == nil {
		return "", nil, nil
	}
	value = r.textOf(r.eval(s.value))
	if len(value) == 0 || len(value) > staunch.MaxValueLen || hasNUL(value) {
		return "", nil, nil
	}
	if s.kind != staunch.KindIdentity {
		realm = r.env.Realm
		if s.realm != nil {
			t := r.textOf(r.eval(s.realm))
			if len(t) == 0 || len(t) > staunch.MaxRealmLen {
				return "", nil, nil
			}
			realm = string(t)
			if (staunch.Ref{Kind: s.kind, Realm: realm, Scheme: s.scheme, Value: "x"}).Validate() != nil {
				return "", nil, nil
			}
		}
	}
	return realm, value, s
}

func hasNUL(b []byte) bool {
	for _, c := range b {
		if c == 0 {
			return true
		}
	}
	return false
}

// ref evaluates a ref outside of the keys' arena.
func (r *run) ref(s *refSpec) staunch.Ref {
	if s == nil {
		return staunch.Ref{}
	}
	r.inRef = true
	realm, value, spec := r.refParts(s)
	r.inRef = false
	if spec == nil {
		return staunch.Ref{}
	}
	return staunch.Ref{Kind: spec.kind, Realm: realm, Scheme: spec.scheme, Value: string(value)}
}

// forEach runs fn with each item as the base of relative paths.
func (r *run) forEach(p *path, when *cond, fn func() bool) {
	base := r.root
	if p.rel {
		base = r.item
	}
	was := r.item
	one := func(v jsondoc.Value) bool {
		r.item = v
		if when != nil && !r.holds(when) {
			return true
		}
		return fn()
	}
	each(base, p.steps, r.fold, func(v jsondoc.Value) bool {
		if v.Kind() != jsondoc.Array {
			return one(v)
		}
		more := true
		v.Items(func(e jsondoc.Value) bool { more = one(e); return more })
		return more
	})
	r.item = was
}

func (r *run) eventTime() (staunch.Time, error) {
	e := r.f.time
	if e == nil {
		return 0, nil
	}
	for _, a := range e.choices() {
		v := r.eval(a)
		if v.kind == resNone {
			continue
		}
		if us, ok := a.time.parse(v); ok {
			return staunch.Time(us), nil
		}
		if e.time.lenient {
			continue
		}
		return 0, &staunch.Problem{Place: a.place(), Reason: "is not a time: " + excerpt(r, v), Hint: "the mapping's keys.time says how the format writes its times"}
	}
	return 0, nil
}

// choices returns the alternatives of a first, or e itself.
func (e *expr) choices() []*expr {
	if e.kind == exprFirst {
		return e.alts
	}
	return []*expr{e}
}

func (e *expr) place() string {
	switch e.kind {
	case exprPath:
		return e.path.text
	default:
		return "time"
	}
}

// excerpt shows the beginning of a value that was refused.
func excerpt(r *run, v result) string {
	if v.kind == resNode && v.node.Kind() != jsondoc.String && v.node.Kind() != jsondoc.Number && v.node.Kind() != jsondoc.Bool {
		return article(v.node.Kind())
	}
	return strconv.Quote(string(bounded(r.textOf(v), 40)))
}

func (r *run) outcome() staunch.Outcome {
	for i := range r.f.outcomes {
		o := &r.f.outcomes[i]
		if o.when != nil && !r.holds(o.when) {
			continue
		}
		if o.from == nil {
			return o.is
		}
		switch t := r.textOf(r.eval(o.from)); string(t) {
		case string(staunch.OutcomeSuccess):
			return staunch.OutcomeSuccess
		case string(staunch.OutcomeFailure):
			return staunch.OutcomeFailure
		}
	}
	return staunch.OutcomeUnknownValue
}

// statesFact reports whether Map would state at least one fact.
func (r *run) statesFact() bool {
	for _, i := range r.candidateFacts() {
		s := r.f.facts[i]
		if s.each == nil {
			if (s.when == nil || r.holds(s.when)) && r.names(s.subject) && (s.of == nil || !needsOf(s.typ) || r.names(s.of)) {
				return true
			}
			continue
		}
		found := false
		r.forEach(s.each, s.when, func() bool {
			found = r.names(s.subject) && (s.of == nil || !needsOf(s.typ) || r.names(s.of))
			return !found
		})
		if found {
			return true
		}
	}
	return false
}

// candidateFacts returns the facts whose conditions may hold, in their order.
func (r *run) candidateFacts() []int {
	x := &r.f.factIndex
	if x.path == nil {
		return x.others
	}
	// Bytes are nil for what is no scalar, and no value is "".
	named := x.byValue[string(r.value(x.path).Bytes())]
	switch {
	case len(named) == 0:
		return x.others
	case len(x.others) == 0:
		return named
	}
	r.facts = append(append(r.facts[:0], named...), x.others...)
	slices.Sort(r.facts)
	return r.facts
}

// needsOf says that a fact of the type states nothing without its Of.
func needsOf(t staunch.FactType) bool {
	switch t {
	case staunch.FactSameAs, staunch.FactBelongs, staunch.FactGrantAdded, staunch.FactGrantRemoved:
		return true
	}
	return false
}

// names reports whether ref would give one.
func (r *run) names(s *refSpec) bool {
	r.inRef = true
	_, _, spec := r.refParts(s)
	r.inRef = false
	return spec != nil
}

// facts states the facts of the record.
func (r *run) statedFacts(keys staunch.Keys) []staunch.Fact {
	var out []staunch.Fact
	when := keys.Time
	if when == 0 {
		when = r.env.Received
	}
	for _, i := range r.candidateFacts() {
		s := r.f.facts[i]
		one := func() bool {
			f := staunch.Fact{V: staunch.Version, Type: s.typ, Subject: r.ref(s.subject), Of: r.ref(s.of), By: r.ref(s.by), Time: when}
			if f.Subject.IsZero() || f.Of.IsZero() && needsOf(s.typ) || f.Subject == f.Of && needsOf(s.typ) {
				return true
			}
			if f.By == f.Subject {
				f.By = staunch.Ref{}
			}
			if s.time != nil {
				if us, ok := s.time.time.parse(r.eval(s.time)); ok {
					f.Time = staunch.Time(us)
				}
			}
			if s.until != nil {
				if s.until.time.relative {
					if us, ok := s.until.time.after(int64(f.Time), r.textOf(r.eval(s.until))); ok {
						f.Until = staunch.Time(us)
					}
				} else if us, ok := s.until.time.parse(r.eval(s.until)); ok {
					f.Until = staunch.Time(us)
				}
			}
			for _, a := range s.attrs {
				if t := r.textOf(r.eval(a.expr)); len(t) > 0 {
					if f.Attrs == nil {
						f.Attrs = map[string]string{}
					}
					f.Attrs[a.name] = string(t)
				}
			}
			out = append(out, f)
			return len(out) < maxTargets
		}
		if s.each != nil {
			r.forEach(s.each, s.when, one)
		} else if s.when == nil || r.holds(s.when) {
			one()
		}
	}
	return out
}

// maxTechnique bounds a technique's id, in bytes: hundreds of signals are weighed at
// once, each with its techniques.
const maxTechnique = 128

// statedFindings returns the accusations that the record makes.
func (r *run) statedFindings() []format.Finding {
	var out []format.Finding
	for _, s := range r.f.findings {
		if s.when != nil && !r.holds(s.when) {
			continue
		}
		f := format.Finding{}
		if s.id != nil {
			f.ID = string(r.textOf(r.eval(s.id)))
		}
		if s.title != nil {
			f.Title = string(bounded(r.textOf(r.eval(s.title)), 1024))
		}
		if s.evidence != nil {
			f.Evidence = string(bounded(r.textOf(r.eval(s.evidence)), 4096))
		}
		if c, err := strconv.ParseFloat(string(r.textOf(r.eval(s.confidence))), 64); err == nil {
			f.Confidence = c / s.confidence.scale
		}
		if !(f.Confidence > 0) { // NaN too
			continue
		}
		f.Confidence = min(f.Confidence, 1)
		for _, a := range s.accuse {
			if a.each == nil {
				if x := r.ref(a); !x.IsZero() {
					f.Accused = append(f.Accused, x)
				}
				continue
			}
			r.forEach(a.each, a.when, func() bool {
				if x := r.ref(a); !x.IsZero() {
					f.Accused = append(f.Accused, x)
				}
				return len(f.Accused) < maxTargets
			})
		}
		for _, t := range s.techniques {
			if t.kind == exprEach {
				r.forEach(t.each, nil, func() bool {
					if x := r.textOf(r.eval(t.val)); len(x) > 0 {
						f.Techniques = append(f.Techniques, string(bounded(x, maxTechnique)))
					}
					return len(f.Techniques) < 64
				})
			} else if x := r.textOf(r.eval(t)); len(x) > 0 {
				f.Techniques = append(f.Techniques, string(bounded(x, maxTechnique)))
			}
		}
		if len(f.Accused) > 0 {
			out = append(out, f)
		}
	}
	return out
}
