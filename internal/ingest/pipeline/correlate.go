package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

// contributions returns what a kept record adds to the windows of correlations.
// Our own doings add nothing.
func (p *Pipeline) contributions(b *Bundle, doc *jsondoc.Doc, keys staunch.Keys, secrets []format.SecretValue, it *item, matched []int) []correlate.Contribution {
	if len(matched) == 0 || len(b.Correlations.Rules()) == 0 || slices.ContainsFunc(it.event.Actor, p.opt.IsOwn) {
		return nil
	}
	ev := &correlate.Event{Event: it.event, Doc: doc, Ceiling: it.src.Ceiling, Origin: it.src.Origin, Facts: it.facts}
	if len(secrets) > 0 {
		ev.Hide = accuse.Hidden(secrets)
	}
	ev.Accuse = func(r *correlate.Rule, narrowest staunch.Kind) []staunch.Ref {
		refs := accuse.Correlated(r.Accuse, narrowest, it.accusing(doc, keys, secrets))
		var out []staunch.Ref
		for _, s := range p.signals(staunch.Signal{Rule: r.ID, Confidence: 1}, refs, it) {
			out = append(out, s.Accused)
		}
		return out
	}
	return b.Correlations.Contribute(ev, matched)
}

func (p *Pipeline) applier(b *Bundle) *correlate.Applier {
	return &correlate.Applier{Set: b.Correlations, Memory: p.memory, Tell: p.opt.ObserveWindows}
}

// correlate writes what the items contribute to windows and puts the signals of
// the correlations that hold with it. It returns how many signals were new. The
// windows of an exercise are its own, and nobody's after this: what it counts never
// counts with what is real, nor with another exercise.
func (p *Pipeline) correlate(tx store.Tx, b *Bundle, items []*item, accused *inventory.RefSet, drill *Drill, now staunch.Time) (int, error) {
	var cs []correlate.Contribution
	for _, it := range items {
		cs = append(cs, it.contribs...)
	}
	if len(cs) == 0 {
		return 0, nil
	}
	var fired []correlate.Firing
	var err error
	if drill == nil {
		fired, err = p.applier(b).Apply(tx, cs)
	} else {
		fired, err = rehearse(b, cs)
	}
	if err != nil {
		return 0, fmt.Errorf("correlating: %w", err)
	}
	return p.putFired(tx, b, fired, accused, drill, now)
}

// rehearse returns what holds of an exercise's contributions alone. They are all
// there are, so that windows which wait until they have settled are judged at once.
func rehearse(b *Bundle, cs []correlate.Contribution) ([]correlate.Firing, error) {
	a, book := correlate.Applier{Set: b.Correlations}, correlate.NewBook()
	fired, err := a.Apply(book, cs)
	if err != nil {
		return nil, err
	}
	settled, _, err := a.Settle(book, math.MaxInt64, settleAtOnce)
	return append(fired, settled...), err
}

// putFired puts the signals of what fired, of an exercise those of its canaries.
func (p *Pipeline) putFired(tx store.Tx, b *Bundle, fired []correlate.Firing, accused *inventory.RefSet, drill *Drill, now staunch.Time) (int, error) {
	var made []staunch.Signal
	for _, f := range fired {
		if f.Hidden || f.Rule.Confidence <= 0 {
			continue
		}
		for _, ref := range f.Accused {
			if !drill.may(ref) {
				continue
			}
			s := signalOf(b, f, ref, drill, now)
			in, err := tx.PutSignal(s)
			if err != nil {
				return 0, err
			}
			if in {
				made = append(made, s)
				accused.Add(ref)
			}
		}
	}
	if p.opt.ObserveSignals != nil && len(made) > 0 {
		tx.OnCommit(func() { p.opt.ObserveSignals(made) })
	}
	return len(made), nil
}

func signalOf(b *Bundle, f correlate.Firing, ref staunch.Ref, drill *Drill, now staunch.Time) staunch.Signal {
	r, series := f.Rule, f.Series
	if drill != nil { // the same window of what is real is another signal
		series = drill.ID + "/" + series
	}
	mode := staunch.ModeEnforce
	if r.Mode != "" {
		if m, err := staunch.ParseMode(r.Mode); err == nil {
			mode = m
		}
	}
	return staunch.Signal{
		V: staunch.Version, ID: staunch.CorrelationSignalID(r.ID, ref, series, f.Window), Rule: r.ID, Title: r.Title, Bundle: b.Hash,
		Accused: ref, Refs: f.Refs, Confidence: r.Confidence, Techniques: r.Techniques, Frameworks: r.Frameworks, Event: f.Event, Events: f.Events,
		Source: f.Source, Realm: f.Realm, Ceiling: f.Ceiling, Mode: mode, Standing: staunch.StandingCurrent,
		Origin: f.Origin, Origins: f.Origins, Drill: drill.id(),
		Time: f.Time, Learned: now, Evidence: firedEvidence(f), Author: r.Author, License: r.License, References: r.References,
	}
}

// namedInEvidence is how many events the sentence names; the signal has more.
const namedInEvidence = 5

func firedEvidence(f correlate.Firing) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s: %s", f.Rule.Title, f.Sentence())
	events := f.Events
	if len(events) > namedInEvidence {
		events = events[len(events)-namedInEvidence:]
	}
	fmt.Fprintf(&w, " (%s)", strings.Join(events, ", "))
	return w.String()
}

// settleAtOnce bounds the windows that one transaction judges.
const settleAtOnce = 500

// Settle judges the windows that have waited long enough, and decides on whom
// they accuse. It is called every few seconds; several nodes may.
func (p *Pipeline) Settle(ctx context.Context) error {
	b := p.Bundle()
	if !b.Correlations.Settles() {
		return nil
	}
	for {
		judged, signals, decisions := 0, 0, 0
		err := p.opt.Store.Update(ctx, func(tx store.Tx) error {
			signals, decisions = 0, 0
			if err := tx.RequireBundle(b.Hash); err != nil {
				return err
			}
			now := staunch.TimeOf(p.opt.Clock.Now())
			fired, n, err := p.applier(b).Settle(tx, now, settleAtOnce)
			if judged = n; err != nil {
				return err
			}
			var accused inventory.RefSet
			if signals, err = p.putFired(tx, b, fired, &accused, nil, now); err != nil {
				return err
			}
			know := knowingOf(tx)
			for _, ref := range accused.List() {
				n, err := p.decide(tx, know, b, ref, nil, now)
				if err != nil {
					return fmt.Errorf("deciding on %s: %w", ref, err)
				}
				decisions += n
			}
			return nil
		})
		if errors.Is(err, store.ErrBundle) {
			return nil // whoever has the active bundle judges
		}
		if err != nil {
			return fmt.Errorf("judging settled windows: %w", err)
		}
		p.stats.Signals.Add(int64(signals))
		p.stats.Decisions.Add(int64(decisions))
		if judged < settleAtOnce {
			return nil
		}
	}
}

// pruneAtOnce bounds the rows that one step deletes, of each table.
const pruneAtOnce = 200

// Prune deletes some of what windows and detectors need no more, and returns how
// many rows it deleted. It is called until that is none.
func Prune(tx store.Tx, now staunch.Time) (int, error) { return tx.PruneCorrelations(now, pruneAtOnce) }
