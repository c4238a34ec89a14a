package pipeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

// Source is a configured input as the pipeline sees it.
type Source struct {
	Name   string
	Realm  string
	Format format.Format
	// Ceiling is the highest tier that its signals can cause alone.
	Ceiling staunch.Tier
	// Skew and Lateness bound event times against the time of receipt.
	Skew, Lateness staunch.Duration
	// Accuses lists further realms whose subjects it may accuse.
	Accuses []string
	// Origin is what it tells of where other sources tell of the same, "" where it
	// is a witness of its own.
	Origin string
	// Drill, when given, has the source be an exercise's: it accuses nobody else
	// than its canaries, and all that it causes is labelled.
	Drill *Drill
}

// Drill says whose exercise a source's records are.
type Drill struct {
	// ID is the exercise's.
	ID string
	// Canaries are the refs that it may accuse, and that may be contained for it.
	Canaries []staunch.Ref
	// Decided, when given, is told of each decision that its records lead to, in the
	// transaction that keeps it.
	Decided func(tx store.Tx, d staunch.Decision) error
}

// may reports whether the exercise may accuse or contain a ref; what is none may
// do it with all.
func (d *Drill) may(ref staunch.Ref) bool { return d == nil || slices.Contains(d.Canaries, ref) }

func (d *Drill) id() string {
	if d == nil {
		return ""
	}
	return d.ID
}

// mayAccuse reports whether the source may accuse a ref of the realm.
func (s *Source) mayAccuse(realm string) bool {
	return realm == s.Realm || slices.Contains(s.Accuses, realm)
}

// mayState reports whether the source may state a fact: like an accusation, it is
// about its own realm or one that it was given. What came from a subject is contained
// with it, so that a fact about another realm would accuse there.
func (s *Source) mayState(f staunch.Fact) bool {
	for _, ref := range [...]staunch.Ref{f.Subject, f.Of, f.By} {
		if !ref.IsZero() && ref.Kind != staunch.KindIdentity && !s.mayAccuse(ref.Realm) {
			return false
		}
	}
	return true
}

// standing says how a record's time stands against the source's bounds.
func (s *Source) standing(at, received staunch.Time) staunch.Standing {
	switch {
	case at == 0:
		return staunch.StandingUndated
	case at > received.Add(s.Skew.Std()):
		return staunch.StandingFuture
	case at < received.Add(-s.Lateness.Std()):
		return staunch.StandingLate
	default:
		return staunch.StandingCurrent
	}
}

// item is one record on its way to the transaction.
type item struct {
	src     *Source
	number  int
	event   staunch.Event
	facts   []staunch.Fact
	signals []staunch.Signal
	secrets []sealedSecret
	// contribs are what it adds to the windows of correlations.
	contribs []correlate.Contribution
	// concerns says that a contained subject acted.
	concerns bool
}

type sealedSecret struct {
	ref   staunch.Ref
	until staunch.Time
	blob  []byte
}

// Scratch is the memory that one worker reuses from record to record.
type Scratch struct {
	sigma   sigma.Scratch
	mapped  sigma.MappedScratch
	matched []int
	reader  partReader
}

// examine takes one parsed record through keys, detect and mapping. It returns
// nil where the record causes nothing. The item's number is the caller's to give.
func (p *Pipeline) examine(b *Bundle, src *Source, doc *jsondoc.Doc, received staunch.Time, sc *Scratch) (*item, error) {
	env := format.Env{Source: src.Name, Realm: src.Realm, Received: received}
	ls := src.Format.Logsource(doc)
	routed := sigma.Logsource{Product: ls.Product, Category: ls.Category, Service: ls.Service, All: ls.All}
	sc.matched = b.Rules.Match(doc, routed, &sc.sigma, sc.matched[:0])
	b.Rules.Observe(doc)
	finder, findings := src.Format.(format.Finder)
	findings = findings && finder.Finds(doc)
	if len(sc.matched) == 0 && !findings && !b.Rules.NeedsMapped(routed) && p.watch.empty() {
		if s, ok := src.Format.(format.Screener); ok {
			if facts, err := s.Screen(doc, env); err != nil || !facts {
				return nil, err
			}
		}
	}
	keys, err := src.Format.Keys(doc, env)
	if err != nil {
		return nil, err
	}
	var mapped *format.Mapped
	if b.Rules.NeedsMapped(routed) {
		if mapped, err = matchMapped(b, src, doc, keys, env, routed, sc); err != nil {
			return nil, err
		}
	}
	concerns := p.watch.concerns(keys.Actor)
	if len(sc.matched) == 0 && !keys.Facts && !concerns && !findings {
		return nil, nil
	}
	return p.keep(b, src, doc, keys, env, sc, concerns, mapped)
}

// matchMapped evaluates the rules that are written in OCSF's names. It returns
// the mapping, where the record was mapped for it.
func matchMapped(b *Bundle, src *Source, doc *jsondoc.Doc, keys staunch.Keys, env format.Env, ls sigma.Logsource, sc *Scratch) (*format.Mapped, error) {
	var mapped *format.Mapped
	event := doc.Raw()
	if !sigma.IsMapped(doc) {
		m, err := src.Format.Map(doc, keys, env)
		if err != nil {
			return nil, err
		}
		mapped, event = &m, m.OCSF
	}
	var err error
	sc.matched, err = b.Rules.MatchMapped(event, ls, &sc.mapped, sc.matched)
	return mapped, err
}

// keep makes an item of a record that is to be committed, and maps it unless it
// was mapped before.
func (p *Pipeline) keep(b *Bundle, src *Source, doc *jsondoc.Doc, keys staunch.Keys, env format.Env, sc *Scratch, concerns bool, mapped *format.Mapped) (*item, error) {
	received := env.Received
	secrets := src.Format.Secrets(doc, env)
	if mapped == nil {
		m, err := src.Format.Map(doc, keys, env)
		if err != nil {
			return nil, err
		}
		mapped = &m
	}
	raw, err := redact(doc.Raw(), secrets)
	if err != nil {
		return nil, err
	}
	it := &item{src: src, concerns: concerns}
	digest := staunch.Digest(doc.Raw())
	if len(secrets) > 0 && p.opt.Digest != nil {
		// A plain digest of a record with a short secret in it could be tried out.
		digest = p.opt.Digest(doc.Raw())
	}
	vendorID := keys.VendorID
	if vendorID == "" {
		vendorID = digest // without an id, the content is the position
	}
	it.event = staunch.Event{
		V: staunch.Version, ID: staunch.EventID(src.Name, vendorID, digest, keys.Time), Source: src.Name, VendorID: keys.VendorID,
		Digest: digest, Realm: src.Realm, Format: src.Format.Name(), Time: keys.Time, Learned: received,
		Standing: src.standing(keys.Time, received), Outcome: keys.Outcome, Operation: keys.Operation,
		Actor: keys.Actor, Targets: keys.Targets, SourceIP: keys.SourceIP, OCSF: mapped.OCSF, Raw: raw,
	}
	if it.event.Time == 0 {
		it.event.Time = received
	}
	for _, s := range secrets {
		if !s.Keep || s.Ref.IsZero() || p.opt.Sealer == nil {
			continue
		}
		blob, err := p.opt.Sealer.Seal(SecretPurpose(s.Ref), []byte(s.Value.Reveal()))
		if err != nil {
			return nil, fmt.Errorf("sealing a secret: %w", err)
		}
		it.secrets = append(it.secrets, sealedSecret{ref: s.Ref, until: received.Add(secretLife), blob: blob})
	}
	if src.Drill == nil { // an exercise states nothing of the world
		var same []staunch.Fact
		if n, ok := src.Format.(format.Namer); ok {
			same = inventory.SameNames(it.event, n.Same())
		}
		facts := slices.Concat(mapped.Facts, inventory.Facts(it.event), same)
		it.facts = facts[:0]
		for _, f := range facts {
			if !src.mayState(f) {
				continue
			}
			f.V, f.Learned, f.Source, f.Event = staunch.Version, received, src.Name, it.event.ID
			if f.Time == 0 {
				f.Time = it.event.Time
			}
			f.ID = staunch.FactID(f)
			it.facts = append(it.facts, f)
		}
	}
	it.contribs = p.contributions(b, doc, keys, secrets, it, sc.matched)
	for _, m := range sc.matched {
		if b.Correlations.Hidden(m) {
			continue // it speaks through its correlations alone
		}
		it.signals = append(it.signals, p.accuse(b, b.Rules.Rules()[m], doc, keys, secrets, it)...)
	}
	for _, f := range mapped.Findings {
		it.signals = append(it.signals, p.finding(b, f, it)...)
	}
	return it, nil
}

// secretLife is how long a sealed secret is kept when its expiry is not known:
// longer than the longest life of a session that a platform documents (AWS, 36
// hours; Entra CAE, 28 hours), with room for the case.
const secretLife = 7 * 24 * time.Hour

// SecretPurpose is the purpose under which a credential's value is sealed.
func SecretPurpose(ref staunch.Ref) string { return SecretKeyPurpose(ref.Key()) }

// SecretKeyPurpose is SecretPurpose by the ref's key.
func SecretKeyPurpose(key string) string { return "secret/" + key }

// redact returns the record with every secret replaced: by its digest where it
// is a credential that a ref names, otherwise by stars.
func redact(raw []byte, secrets []format.SecretValue) (json.RawMessage, error) {
	if len(secrets) == 0 {
		return slices.Clone(raw), nil
	}
	out := make([]byte, 0, len(raw))
	at := 0
	for _, s := range secrets {
		if s.Start < at || s.End > len(raw) || s.Start > s.End {
			return nil, fmt.Errorf("the format's secrets overlap or leave the record")
		}
		out = append(out, raw[at:s.Start]...)
		// Only a credential's digest is worth keeping; that of a password could be
		// tried out.
		shown := "***"
		if !s.Ref.IsZero() {
			shown = s.Value.Digest()
		}
		d, err := json.Marshal(shown)
		if err != nil {
			return nil, err
		}
		out = append(out, d...)
		at = s.End
	}
	return append(out, raw[at:]...), nil
}

// accuse makes the signals of one matched rule.
func (p *Pipeline) accuse(b *Bundle, r *sigma.Rule, doc *jsondoc.Doc, keys staunch.Keys, secrets []format.SecretValue, it *item) []staunch.Signal {
	mode := staunch.ModeEnforce
	if r.Mode != "" {
		if m, err := staunch.ParseMode(r.Mode); err == nil {
			mode = m
		}
	}
	base := staunch.Signal{
		Rule: r.ID, Title: r.Title, Bundle: b.Hash, Confidence: r.Confidence, Techniques: r.Techniques,
		Frameworks: r.Frameworks, Mode: mode, Author: r.Author, License: r.License, References: r.References,
		Evidence: evidence(r.Title, keys),
	}
	return p.signals(base, accuse.Refs(r.Accuse, it.accusing(doc, keys, secrets)), it)
}

// accusing is what the item's record gives to accuse by.
func (it *item) accusing(doc *jsondoc.Doc, keys staunch.Keys, secrets []format.SecretValue) accuse.Record {
	return accuse.Record{Format: it.src.Format, Realm: it.src.Realm, Doc: doc, Keys: keys, Secrets: secrets}
}

func evidence(title string, k staunch.Keys) string {
	s := title
	if k.Operation != "" {
		s += ": " + k.Operation
	}
	if k.SourceIP != "" {
		s += " from " + k.SourceIP
	}
	if k.Outcome != "" {
		s += " (" + string(k.Outcome) + ")"
	}
	return s
}

// finding makes the signals of an outside detector's finding.
func (p *Pipeline) finding(b *Bundle, f format.Finding, it *item) []staunch.Signal {
	rule := "source:" + it.src.Name
	if f.ID != "" {
		rule += "/" + findingID(f.ID)
	}
	return p.signals(staunch.Signal{
		Rule: rule, Title: f.Title, Bundle: b.Hash, Confidence: f.Confidence, Techniques: f.Techniques,
		Mode: staunch.ModeEnforce, Evidence: f.Evidence,
	}, f.Accused, it)
}

// maxFindingID bounds, in bytes, a finding's id that is kept as it is.
const maxFindingID = 512

// findingID is the part that a finding's id has in the name of its rule, which caps
// and breakers have in their keys. The id comes from a record that others wrote, and
// one that is no key would have the whole batch refused: its digest stands for it.
func findingID(id string) string {
	if len(id) > maxFindingID || store.CheckKey(id) != nil {
		return staunch.Digest([]byte(id))
	}
	return id
}

// signals fills in what all signals of an event share, and leaves out what the
// source may not accuse and our own doings.
func (p *Pipeline) signals(base staunch.Signal, refs []staunch.Ref, it *item) []staunch.Signal {
	src := it.src
	if base.Confidence <= 0 {
		return nil
	}
	if slices.ContainsFunc(it.event.Actor, p.opt.IsOwn) {
		return nil // our own echo is not evidence
	}
	var out []staunch.Signal
	for _, ref := range refs {
		if ref.Validate() != nil || ref.Kind.Width() == 0 {
			continue
		}
		if ref.Kind != staunch.KindIdentity && !src.mayAccuse(ref.Realm) {
			continue // identities are looked at where their accounts are known
		}
		if !src.Drill.may(ref) {
			continue
		}
		s := base
		s.V, s.Accused, s.Event, s.Source, s.Realm = staunch.Version, ref, it.event.ID, src.Name, src.Realm
		s.Refs, s.Ceiling, s.Standing, s.Origin = it.event.Actor, src.Ceiling, it.event.Standing, src.Origin
		s.Time, s.Learned, s.Drill = it.event.Time, it.event.Learned, src.Drill.id()
		s.ID = staunch.SignalID(s.Rule, ref, it.event.ID)
		if !slices.ContainsFunc(out, func(o staunch.Signal) bool { return o.ID == s.ID }) {
			out = append(out, s)
		}
	}
	return out
}
