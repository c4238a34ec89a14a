package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

// Bundle is what decides: rules and policies, by one hash. It is never changed
// once made; a reload puts another in its place.
type Bundle struct {
	Hash  string
	Rules *sigma.Set
	// Correlations are over matches of Rules; nil for none.
	Correlations *correlate.Set
	Policy       *decide.Set
	// Groups counts declared identities by environment and purpose.
	Groups inventory.Groups
}

// Opener opens and follows cases; contain.Engine implements it.
type Opener interface {
	Open(tx store.Tx, req contain.OpenRequest) (contain.Opened, error)
	Residual(tx store.Tx, id string, ev staunch.Event) error
	Derived(tx store.Tx, id string) error
	Seen(tx store.Tx, con staunch.Containment) error
}

// Teller makes notices of decisions that did not lead to a containment but that
// people must know of: recommended, protected, capped, breaker.
type Teller interface {
	DecisionNotices(d staunch.Decision, now staunch.Time) []store.Notice
}

// Options are what the pipeline works with. Store, Inventory, Cases, Guardrails
// and Clock are required.
type Options struct {
	Store     store.Store
	Inventory *inventory.Inventory
	Cases     Opener
	Clock     staunch.Clock
	Log       *slog.Logger
	// Sealer seals secrets that a revocation will need; nil keeps none.
	Sealer interface {
		Seal(purpose string, plain []byte) ([]byte, error)
	}
	// Digest is a keyed digest for records that carry secrets.
	Digest func([]byte) string
	// IsOwn reports whether a ref is one of our own accounts or credentials.
	IsOwn func(staunch.Ref) bool
	// Own returns our own accounts and credentials.
	Own func() []staunch.Ref
	// Guardrails bound what may be contained without a person.
	Guardrails *decide.Guardrails
	Params     decide.Params
	// Mode is the engine's mode.
	Mode staunch.Mode
	// PlatformOf returns the connector's platform on a realm, "" for none, and
	// the connector's mode.
	PlatformOf func(realm string) (platform string, mode staunch.Mode)
	Teller     Teller
	Limits     ingest.Limits
	// Concurrent bounds the inputs worked on at once; 0 gives 64. More are
	// refused with staunch.ErrOverloaded.
	Concurrent int
	// EveryDecision keeps decisions that say nothing new; see quiet.go.
	EveryDecision bool
	// Observe is told of each decision, ObserveSignals of each event's signals,
	// after their commit.
	Observe        func(staunch.Decision)
	ObserveSignals func([]staunch.Signal)
	// ObserveWindows, when given, is told how each correlation stands that an
	// event contributes to, in the transaction: explanations give it.
	ObserveWindows func(correlate.Judged)
}

// Pipeline is safe for concurrent use.
type Pipeline struct {
	opt     Options
	bundle  atomic.Pointer[Bundle]
	rails   atomic.Pointer[decide.Guardrails]
	watch   *watch
	places  chan struct{}
	scratch chan *Scratch
	stats   Stats
	waits   waits
	// memory counts windows; nil where other nodes write to them too.
	memory *correlate.Memory
}

// Stats counts what went through since the start.
type Stats struct {
	Records, Rejected, Kept, Duplicates, Signals, Decisions atomic.Int64
}

// New returns a pipeline that uses b until SetBundle.
func New(opt Options, b *Bundle) (*Pipeline, error) {
	if opt.Store == nil || opt.Inventory == nil || opt.Cases == nil || opt.Clock == nil || opt.Guardrails == nil {
		return nil, errors.New("pipeline: Store, Inventory, Cases, Guardrails and Clock are required")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.IsOwn == nil {
		opt.IsOwn = func(staunch.Ref) bool { return false }
	}
	if opt.PlatformOf == nil {
		opt.PlatformOf = func(string) (string, staunch.Mode) { return "", staunch.ModeEnforce }
	}
	if opt.Concurrent <= 0 {
		opt.Concurrent = 64
	}
	opt.Limits = opt.Limits.WithDefaults()
	p := &Pipeline{opt: opt, watch: newWatch(), places: make(chan struct{}, opt.Concurrent)}
	if x, ok := opt.Store.(interface{ Exclusive() bool }); ok && x.Exclusive() {
		p.memory = correlate.NewMemory(0)
	}
	// Not a sync.Pool: which rules are for a log source is part of it, and takes
	// longer to find than a batch does. One for each processor, as there is nothing
	// in examining that waits.
	p.scratch = make(chan *Scratch, runtime.GOMAXPROCS(0))
	for range cap(p.scratch) {
		p.scratch <- nil
	}
	p.bundle.Store(b)
	p.rails.Store(opt.Guardrails)
	return p, nil
}

// SetBundle puts another bundle in place, for records that begin after.
func (p *Pipeline) SetBundle(b *Bundle) { p.bundle.Store(b) }

// SetGuardrails puts other guardrails in place.
func (p *Pipeline) SetGuardrails(g *decide.Guardrails) { p.rails.Store(g) }

// Bundle returns the bundle in place.
func (p *Pipeline) Bundle() *Bundle { return p.bundle.Load() }

// Stats returns the counters.
func (p *Pipeline) Stats() *Stats { return &p.stats }

// getScratch waits for a processor's scratch memory, which putScratch gives back.
func (p *Pipeline) getScratch() *Scratch {
	if sc := <-p.scratch; sc != nil {
		return sc
	}
	return new(Scratch)
}

func (p *Pipeline) putScratch(sc *Scratch) { p.scratch <- sc }

// Rejection is a record that could not be taken.
type Rejection struct {
	Record int    `json:"record"`
	Error  string `json:"error"`
}

// Report says what became of an input.
type Report struct {
	V int `json:"v"`
	// Accepted counts the records that were read, Kept those that were
	// committed, Duplicates those that had been before.
	Accepted   int         `json:"accepted"`
	Kept       int         `json:"kept"`
	Duplicates int         `json:"duplicates"`
	Matched    int         `json:"matched"`
	Signals    int         `json:"signals"`
	Decisions  int         `json:"decisions"`
	Rejected   []Rejection `json:"rejected,omitempty"`
	// MoreRejected counts rejections beyond the first thousand.
	MoreRejected int `json:"more_rejected,omitempty"`
}

// maxRejections bounds the rejections that a report names.
const maxRejections = 1000

func (r *Report) reject(n int, err error) {
	if len(r.Rejected) < maxRejections {
		r.Rejected = append(r.Rejected, Rejection{Record: n, Error: err.Error()})
		return
	}
	r.MoreRejected++
}

// maxBatch bounds the items of one transaction.
const maxBatch = 1000

// Ingest takes all records of an input. What was good is committed when it
// returns; what was bad is in the report. An error means that the input as a
// whole could not be read or not everything was committed, and it is to be sent
// again; the report then counts what was committed all the same.
func (p *Pipeline) Ingest(ctx context.Context, src *Source, body io.Reader, encoding string) (Report, error) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		return Report{V: staunch.Version}, fmt.Errorf("taking in records: %w", staunch.ErrOverloaded)
	}
	rep := Report{V: staunch.Version}
	if err := p.mayDecide(); err != nil {
		return rep, err
	}
	plain, err := ingest.Body(body, encoding, p.opt.Limits.Body)
	if err != nil {
		return rep, err
	}
	next, err := ingest.Cut(plain, src.Format, p.opt.Limits.Doc)
	if err != nil {
		return rep, err
	}
	b := p.Bundle()
	var items []*item
	var failed error
	keep := func() error {
		failed = p.commit(ctx, b, items, &rep)
		items = items[:0]
		return failed
	}
	err = p.examineAll(b, src, next, func(number int, s seen) error {
		if s.err != nil {
			p.stats.Rejected.Add(1)
			rep.reject(number, s.err)
			return nil
		}
		rep.Accepted++
		p.stats.Records.Add(1)
		if s.item == nil {
			return nil
		}
		s.item.number = number
		if len(s.item.signals)+len(s.item.contribs) > 0 {
			rep.Matched++
		}
		if items = append(items, s.item); len(items) >= maxBatch {
			return keep()
		}
		return nil
	})
	// What came before a break is good and stays.
	if failed == nil && keep() != nil {
		err = failed
	}
	return rep, err
}

// Lines takes whole lines of a followed file, the first of which has the number
// first. There is nobody to tell of a broken one, so it is parked. done is
// called in the transaction that commits what the lines cause.
func (p *Pipeline) Lines(ctx context.Context, src *Source, lines []byte, first int, done func(store.Tx) error) error {
	if err := p.mayDecide(); err != nil {
		return err
	}
	rd, err := ingest.NewLineReader(lines, src.Format, p.opt.Limits.Doc)
	if err != nil {
		return err
	}
	b := p.Bundle()
	sc := p.getScratch()
	defer p.putScratch(sc)
	now := staunch.TimeOf(p.opt.Clock.Now())
	var items []*item
	var parked []store.Parked
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var it *item
		if err = rec.Err; err == nil {
			if it, err = p.examine(b, src, rec.Doc, now, sc); it != nil {
				it.number = first + rec.Number - 1
			}
		}
		if err != nil {
			p.stats.Rejected.Add(1)
			row, perr := p.park(src, first+rec.Number-1, rec.Raw, err, now)
			if perr != nil {
				return perr
			}
			parked = append(parked, row)
			continue
		}
		p.stats.Records.Add(1)
		if it != nil {
			items = append(items, it)
		}
	}
	var rep Report
	return p.commitWith(ctx, b, items, &rep, func(tx store.Tx) error {
		for _, row := range parked {
			if err := tx.PutParked(row); err != nil {
				return err
			}
		}
		return done(tx)
	})
}

// maxParked bounds how much of a record that could not be taken is kept.
const maxParked = 64 << 10

// park seals a record that could not be taken, since it may carry secrets.
func (p *Pipeline) park(src *Source, number int, raw []byte, reason error, now staunch.Time) (store.Parked, error) {
	sum := strings.TrimPrefix(staunch.Digest(fmt.Appendf(nil, "%s/%d/%s", src.Name, number, raw)), "sha256:")
	row := store.Parked{ID: "prk_" + sum[:20], Source: src.Name, Number: number, Reason: reason.Error(), At: now}
	if p.opt.Sealer == nil {
		return row, nil // never in plain
	}
	var err error
	if row.Raw, err = p.opt.Sealer.Seal(ParkedPurpose(row.ID), raw[:min(len(raw), maxParked)]); err != nil {
		return row, fmt.Errorf("sealing a parked record: %w", err)
	}
	return row, nil
}

// ParkedPurpose is the purpose under which a parked record is sealed.
func ParkedPurpose(id string) string { return "parked/" + id }

// commit is T1: everything that the items cause, in one transaction.
func (p *Pipeline) commit(ctx context.Context, b *Bundle, items []*item, rep *Report) error {
	if len(items) == 0 {
		return nil
	}
	return p.commitWith(ctx, b, items, rep, nil)
}

func (p *Pipeline) commitWith(ctx context.Context, b *Bundle, items []*item, rep *Report, more func(store.Tx) error) error {
	var kept, dups, signals, decisions int
	err := p.opt.Store.Update(ctx, func(tx store.Tx) error {
		kept, dups, signals, decisions = 0, 0, 0, 0
		if err := tx.RequireBundle(b.Hash); err != nil {
			return err
		}
		var accused, joined inventory.RefSet
		var counted []*item
		for _, it := range items {
			fresh, n, err := p.put(tx, it, &accused, &joined, &counted)
			if err != nil {
				return fmt.Errorf("record %d: %w", it.number, err)
			}
			if !fresh {
				dups++
				continue
			}
			kept++
			signals += n
		}
		now := staunch.TimeOf(p.opt.Clock.Now())
		var drill *Drill
		if len(items) > 0 {
			drill = items[0].src.Drill // the items of an input have one source
		}
		n, err := p.correlate(tx, b, counted, &accused, drill, now)
		if err != nil {
			return err
		}
		signals += n
		if err := p.rejoin(tx, &accused, &joined, now); err != nil {
			return err
		}
		know := knowingOf(tx)
		for _, ref := range accused.List() {
			n, err := p.decide(tx, know, b, ref, drill, now)
			if err != nil {
				return fmt.Errorf("deciding on %s: %w", ref, err)
			}
			decisions += n
		}
		crashpoint.Here("ingest.written")
		if more != nil {
			return more(tx)
		}
		return nil
	})
	crashpoint.Here("ingest.committed")
	if err != nil {
		rep.Accepted -= len(items)
		return fmt.Errorf("committing %d records: %w", len(items), err)
	}
	rep.Kept += kept
	rep.Duplicates += dups
	rep.Signals += signals
	rep.Decisions += decisions
	p.stats.Kept.Add(int64(kept))
	p.stats.Duplicates.Add(int64(dups))
	p.stats.Signals.Add(int64(signals))
	p.stats.Decisions.Add(int64(decisions))
	return nil
}

// put commits one item's rows and follows open cases. An event that is there
// already has had all its effects. Whom its signals accuse goes to accused, what
// its facts put together to joined; the item goes to counted where it counts for
// correlations.
func (p *Pipeline) put(tx store.Tx, it *item, accused, joined *inventory.RefSet, counted *[]*item) (fresh bool, signals int, err error) {
	if fresh, err = tx.PutEvent(it.event); err != nil || !fresh {
		return fresh, 0, err
	}
	for _, s := range it.secrets {
		if err := p.seen(tx, s.ref); err != nil {
			return false, 0, err
		}
		if err := tx.PutSecret(s.ref, s.until, s.blob); err != nil {
			return false, 0, err
		}
	}
	facts, err := p.opt.Inventory.Novel(tx, it.facts)
	if err != nil {
		return false, 0, err
	}
	for _, f := range facts {
		if _, err := tx.PutFact(f); err != nil {
			return false, 0, err
		}
		for _, l := range f.Links() {
			if l.Rel == staunch.RelOf || l.Rel == staunch.RelSame {
				joined.Add(l.From)
			}
			if l.Rel == staunch.RelSame {
				joined.Add(l.To)
			}
		}
	}
	if err := p.follow(tx, it, facts); err != nil {
		return false, 0, err
	}
	refused, err := p.refused(tx, it)
	if err != nil || refused {
		return true, 0, err
	}
	if len(it.contribs) > 0 {
		*counted = append(*counted, it)
	}
	var made []staunch.Signal
	for _, s := range it.signals {
		if may, err := p.mayAccuse(tx, it.src, s.Accused); err != nil {
			return false, 0, err
		} else if !may {
			continue
		}
		in, err := tx.PutSignal(s)
		if err != nil {
			return false, 0, err
		}
		if in {
			made = append(made, s)
			accused.Add(s.Accused)
		}
	}
	if p.opt.ObserveSignals != nil && len(made) > 0 {
		tx.OnCommit(func() { p.opt.ObserveSignals(made) })
	}
	return true, len(made), nil
}

// rejoin adds to accused what the new memberships put together: evidence against
// a session weighs against its account from when it is known to be its, and
// whether that was learned before the evidence or after must not matter.
func (p *Pipeline) rejoin(tx store.Tx, accused, joined *inventory.RefSet, now staunch.Time) error {
	since := now.Add(-p.opt.Params.Horizon())
	for _, ref := range joined.List() {
		if accused.Has(ref) {
			continue
		}
		evidence, err := tx.SignalsWithin([]staunch.Ref{ref}, since, maxEvidence)
		if err != nil {
			return err
		}
		judged := slices.ContainsFunc(evidence, func(s *staunch.Signal) bool { return accused.Has(s.Accused) })
		if len(evidence) > 0 && !judged { // whoever is accused is judged with all that it belongs to
			accused.Add(ref)
		}
	}
	return nil
}

// mayAccuse reports whether a source may accuse a ref. An identity belongs to no
// realm: to accuse it is to accuse all its accounts.
func (p *Pipeline) mayAccuse(r store.Reader, src *Source, ref staunch.Ref) (bool, error) {
	if ref.Kind != staunch.KindIdentity {
		return src.mayAccuse(ref.Realm), nil
	}
	id, err := r.Identity(ref.Value)
	if errors.Is(err, staunch.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, a := range id.Accounts {
		if !src.mayAccuse(a.Realm) {
			return false, nil
		}
	}
	return true, nil
}

// refused reports whether the event is the denial of a subject that was
// contained when it acted: that it is refused is what containment is for. What
// it did before counts, whenever we learn of it. Of an event whose time is out
// of bounds nobody knows; it only informs.
func (p *Pipeline) refused(tx store.Tx, it *item) (bool, error) {
	if len(it.signals)+len(it.contribs) == 0 || it.event.Outcome != staunch.OutcomeFailure || !it.event.Standing.MayEnforce() {
		return false, nil
	}
	cases, err := p.containing(tx, it)
	if err != nil {
		return false, err
	}
	for _, c := range cases {
		if !c.Phase.Idle() && c.Opened <= it.event.Time {
			return true, nil
		}
	}
	return false, nil
}

// containing returns the open cases that contain the event's actor, as their
// subject or, as far as the watch knows, as something derived from it. Of realms
// that its source may not accuse it says nothing.
func (p *Pipeline) containing(tx store.Tx, it *item) ([]staunch.Containment, error) {
	actor := slices.DeleteFunc(slices.Clone(it.event.Actor), func(r staunch.Ref) bool {
		return r.Kind != staunch.KindIdentity && !it.src.mayAccuse(r.Realm)
	})
	cases, err := tx.OpenContainments(actor)
	if err != nil {
		return nil, err
	}
	for _, id := range p.watch.cases(actor...) {
		if slices.ContainsFunc(cases, func(c staunch.Containment) bool { return c.ID == id }) {
			continue
		}
		c, err := tx.Containment(id)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if c.Phase.Open() {
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// seen tells the open cases that contain a credential of its secret, where that was
// never seen before.
func (p *Pipeline) seen(tx store.Tx, ref staunch.Ref) error {
	cases, err := tx.OpenContainments([]staunch.Ref{ref})
	if err != nil || len(cases) == 0 {
		return err
	}
	if _, err := tx.SecretOf(ref); !errors.Is(err, staunch.ErrNotFound) {
		return err
	}
	for _, c := range cases {
		if err := p.opt.Cases.Seen(tx, c); err != nil {
			return err
		}
	}
	return nil
}

// follow tells open cases what the event means to them: success by a contained
// subject, or something new that one of theirs issued. What is outside of its
// source's time bounds says nothing of what went on after the effect.
func (p *Pipeline) follow(tx store.Tx, it *item, facts []staunch.Fact) error {
	if it.concerns && it.event.Outcome == staunch.OutcomeSuccess && it.event.Standing.MayEnforce() {
		cases, err := p.containing(tx, it)
		if err != nil {
			return err
		}
		for _, c := range cases {
			if err := p.opt.Cases.Residual(tx, c.ID, it.event); err != nil {
				return err
			}
		}
	}
	for _, f := range facts {
		if f.By.IsZero() {
			continue
		}
		// By a session that is new, of an account that is contained: who acted is more
		// than who made it.
		for _, id := range p.watch.cases(append([]staunch.Ref{f.By, f.Of}, it.event.Actor...)...) {
			if err := p.opt.Cases.Derived(tx, id); err != nil && !errors.Is(err, staunch.ErrNotFound) {
				return err
			}
		}
	}
	return nil
}
