package retain

import (
	"fmt"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// fate is what becomes of a row.
type fate struct {
	row store.OldRow
	// came is when it came, by which a walk in the order of arrival ends.
	came staunch.Time
	// old says that it is older than it is kept for, held that it stays all the same.
	old, held bool
}

// cutoffs are the times of one round.
type cutoffs struct {
	now    staunch.Time
	policy Policy
	// events is the time before which events go: that of their age, or a later one
	// while the database is over its size.
	events staunch.Time
}

func (c cutoffs) of(kind store.Kept) staunch.Time {
	if kind == store.KeptEvents {
		return c.events
	}
	return before(c.now, c.policy.age(kind))
}

// dated is the later of when something came and when it happened; a time that is
// yet to come says nothing.
func (c cutoffs) dated(came, at staunch.Time) staunch.Time {
	if at > c.now {
		return came
	}
	return max(came, at)
}

// judge says what becomes of the rows of a kind, in their order.
func (w *walk) judge(r store.Reader, kind store.Kept, rows []store.OldRow) ([]fate, error) {
	out := make([]fate, 0, len(rows))
	for _, row := range rows {
		f := fate{row: row, came: row.At}
		err := w.judgeOne(r, kind, &f)
		if err != nil {
			return nil, fmt.Errorf("judging %s of the %s: %w", row.ID, kind, err)
		}
		out = append(out, f)
	}
	return out, nil
}

func (w *walk) judgeOne(r store.Reader, kind store.Kept, f *fate) (err error) {
	cut := w.cut
	limit := cut.of(kind)
	switch kind {
	case store.KeptEvents:
		var e staunch.Event
		if err := store.Decode(f.row.Body, &e); err != nil {
			return err
		}
		f.came = e.Learned
		if f.old = cut.dated(e.Learned, e.Time) < limit; f.old {
			f.held = w.needed.has(e.ID) || w.needed.concerns(e.Actor...)
		}
	case store.KeptSignals:
		var g staunch.Signal
		if err := store.Decode(f.row.Body, &g); err != nil {
			return err
		}
		f.came = g.Learned
		if f.old = cut.dated(g.Learned, g.Time) < limit; !f.old {
			return nil
		}
		if f.held = w.needed.has(g.ID) || w.needed.concerns(g.Refs...); !f.held {
			f.held, err = w.needed.belowOpen(r, g.Accused)
		}
	case store.KeptDecisions:
		var d staunch.Decision
		if err := store.Decode(f.row.Body, &d); err != nil {
			return err
		}
		if !quiet(d) {
			limit = before(cut.now, cut.policy.Acted)
		}
		f.old, f.held = d.Made < limit, w.needed.has(d.ID)
	case store.KeptContainments:
		var c staunch.Containment
		if err := store.Decode(f.row.Body, &c); err != nil {
			return err
		}
		f.old, f.held = max(c.Opened, c.Changed) < limit, c.Phase.Open()
	case store.KeptDrills:
		var d staunch.Drill
		if err := store.Decode(f.row.Body, &d); err != nil {
			return err
		}
		if f.old = max(d.Began, d.Ended) < limit; !f.old {
			return nil
		}
		newest, err := r.Drills(d.Name, store.Page{Limit: 1})
		f.held = d.Ended == 0 || len(newest) > 0 && newest[0].ID == d.ID
		return err
	case store.KeptFacts:
		var x staunch.Fact
		if err := store.Decode(f.row.Body, &x); err != nil {
			return err
		}
		f.came = x.Learned
		if f.old = max(cut.dated(x.Learned, x.Time), x.Until) < limit; f.old {
			f.held, err = w.factNeeded(r, x)
		}
	case store.KeptCursors:
		for _, c := range w.cursors {
			if strings.HasPrefix(f.row.ID, c.Prefix) {
				f.old = c.Over(string(f.row.Body), cut.now, before(cut.now, cut.policy.Signals))
			}
		}
	default: // notices, parked records and bundles; without a time they wait or are in use
		f.old = f.row.At != 0 && f.row.At < limit
	}
	return err
}

// passing reports whether what the fact is about passes by itself, as sessions do,
// and credentials that run out. What is known of accounts, grants and credentials
// without an end is as much as there is of these, and stays.
func passing(f staunch.Fact) bool {
	if w := f.Subject.Kind.Width(); w == 0 || w >= staunch.KindAccount.Width() {
		return false
	}
	switch f.Type {
	case staunch.FactBelongs, staunch.FactSameAs:
		return true // a record that names both says it again
	case staunch.FactSessionStarted, staunch.FactSessionEnded:
		return true
	case staunch.FactCredentialIssued:
		return f.Until != 0
	}
	return false
}

func (w *walk) factNeeded(r store.Reader, f staunch.Fact) (bool, error) {
	if !passing(f) {
		return true, nil
	}
	subject := []staunch.Ref{f.Subject}
	below, err := r.LinksTo(subject, []staunch.Rel{staunch.RelOf, staunch.RelBy, staunch.RelSame, staunch.RelReach}, 1)
	if err != nil || len(below) > 0 {
		return true, err
	}
	signals, err := r.SignalsWithin(subject, 0, 1)
	if err != nil || len(signals) > 0 {
		return true, err
	}
	return w.needed.belowOpen(r, f.Subject, f.Of, f.By)
}
