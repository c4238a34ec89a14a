package memory

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Walk goes by the keys of rows, in their order.
func (r *reader) Walk(kind store.Kept, after string, _, _ staunch.Time, limit int) (store.Walked, error) {
	table, read, err := walker(kind)
	if err != nil {
		return store.Walked{}, err
	}
	var w store.Walked
	n := limitOf(limit)
	var bad error
	err = r.scan(table, after, func(id string, have *row) bool {
		if id == after && after != "" {
			return true
		}
		if len(w.Rows) == n {
			w.Next = w.Rows[n-1].ID
			return false
		}
		var o store.OldRow
		if o, bad = read(have); bad != nil {
			return false
		}
		o.ID = id
		w.Rows = append(w.Rows, o)
		return true
	})
	return w, errors.Join(err, bad)
}

// old makes the reader of a table's rows, which are put as JSON.
func old[T any](at func(*T) staunch.Time) func(*row) (store.OldRow, error) {
	return func(w *row) (store.OldRow, error) {
		v, err := peek[T](w)
		if err != nil {
			return store.OldRow{}, err
		}
		body, err := store.Encode(v)
		return store.OldRow{At: at(v), Body: body}, err
	}
}

func walker(kind store.Kept) (table string, read func(*row) (store.OldRow, error), err error) {
	switch kind {
	case store.KeptEvents:
		return "event", old(func(e *staunch.Event) staunch.Time { return e.Time }), nil
	case store.KeptFacts:
		return "fact", old(func(f *staunch.Fact) staunch.Time { return f.Time }), nil
	case store.KeptSignals:
		return "signal", old(func(s *staunch.Signal) staunch.Time { return s.Time }), nil
	case store.KeptDecisions:
		return "decision", old(func(d *staunch.Decision) staunch.Time { return d.Made }), nil
	case store.KeptContainments:
		return "containment", old(func(c *staunch.Containment) staunch.Time { return c.Opened }), nil
	case store.KeptDrills:
		return "drill", old(func(d *staunch.Drill) staunch.Time { return d.Began }), nil
	case store.KeptNotices:
		return "notice", old(func(n *store.Notice) staunch.Time { return n.Done }), nil
	case store.KeptParked:
		return "parked", func(w *row) (store.OldRow, error) {
			p, err := peek[parked](w)
			if err != nil {
				return store.OldRow{}, err
			}
			body, err := store.Encode(p.Parked)
			return store.OldRow{At: p.Parked.At, Body: body}, err
		}, nil
	case store.KeptCursors:
		return "cursor", func(w *row) (store.OldRow, error) { return store.OldRow{Body: bytes.Clone(w.body)}, nil }, nil
	case store.KeptBundles: // those that were replaced
		return "bundle used", func(w *row) (store.OldRow, error) {
			n, err := strconv.ParseInt(string(w.body), 10, 64)
			return store.OldRow{At: staunch.Time(n)}, err
		}, nil
	}
	return "", nil, fmt.Errorf("%w: %q", store.ErrKept, kind)
}

// drop deletes a row and returns 1, or 0 where it is not there.
func (t *tx) drop(parts ...string) (int, error) {
	if err := t.may(parts...); err != nil || !t.has(parts...) {
		return 0, err
	}
	return 1, t.del(parts...)
}

// only is of a row that nothing else belongs to.
func (t *tx) only(parts ...string) (store.Forgotten, error) {
	n, err := t.drop(parts...)
	return store.Forgotten{Rows: n}, err
}

// stays is of what is not there any more, or stays.
func stays(err error) (store.Forgotten, error) {
	if errors.Is(err, staunch.ErrNotFound) {
		err = nil
	}
	return store.Forgotten{}, err
}

func (t *tx) Forget(kind store.Kept, rows []store.OldRow) (store.Forgotten, error) {
	var all store.Forgotten
	if _, _, err := walker(kind); err != nil {
		return all, err
	}
	for _, o := range rows {
		f, err := t.forget(kind, o)
		if err != nil {
			return all, fmt.Errorf("deleting of the %s: %w", kind, err)
		}
		all.Add(f)
	}
	return all, nil
}

func (t *tx) forget(kind store.Kept, o store.OldRow) (store.Forgotten, error) {
	switch kind {
	case store.KeptEvents:
		e, err := t.Event(o.ID)
		if err != nil {
			return stays(err)
		}
		f, err := t.only("event", o.ID)
		for _, ref := range keys(e.Actor) {
			n, derr := t.drop("event of", ref, at(e.Time), o.ID)
			f.With, err = f.With+n, errors.Join(err, derr)
		}
		return f, err
	case store.KeptFacts:
		return t.forgetFact(o.ID)
	case store.KeptSignals:
		return t.forgetSignal(o.ID)
	case store.KeptDecisions:
		return t.forgetDecision(o.ID)
	case store.KeptContainments:
		return t.forgetContainment(o.ID)
	case store.KeptDrills:
		d, err := t.Drill(o.ID)
		if err != nil || d.Ended == 0 {
			return stays(err)
		}
		if err := t.del("drill at", at(d.Began), o.ID); err != nil {
			return stays(err)
		}
		return t.only("drill", o.ID)
	case store.KeptNotices:
		if n, err := one[store.Notice](&t.reader, "notice "+o.ID, "notice", o.ID); err != nil || n.Done == 0 {
			return stays(err)
		}
		return t.only("notice", o.ID)
	case store.KeptParked:
		return t.only("parked", o.ID)
	case store.KeptCursors:
		if v, err := t.Cursor(o.ID); err != nil || v != string(o.Body) {
			return stays(err)
		}
		return t.only("cursor", o.ID)
	}
	used, err := t.text("bundle "+o.ID, "bundle used", o.ID)
	if err != nil || used != strconv.FormatInt(int64(o.At), 10) {
		return stays(err)
	}
	if err := t.del("bundle used", o.ID); err != nil {
		return stays(err)
	}
	return t.only("bundle", o.ID)
}

func (t *tx) forgetFact(id string) (store.Forgotten, error) {
	x, err := t.Fact(id)
	if err != nil {
		return stays(err)
	}
	needed := false
	for _, below := range []string{"signal of", "link to"} {
		if err := t.scan(key(below, x.Subject.Key()), "", func(string, *row) bool {
			needed = true
			return false
		}); err != nil {
			return stays(err)
		}
	}
	if needed {
		return stays(nil)
	}
	f, err := t.only("fact", id)
	for _, l := range x.Links() {
		n, ferr := t.drop("link from", l.From.Key(), string(l.Rel), at(l.Since), l.Fact)
		_, terr := t.drop("link to", l.To.Key(), string(l.Rel), at(l.Since), l.Fact)
		f.With, err = f.With+n, errors.Join(err, ferr, terr)
	}
	return f, err
}

func (t *tx) forgetSignal(id string) (store.Forgotten, error) {
	s, err := t.Signal(id)
	if err != nil {
		return stays(err)
	}
	above, err := t.Above([]staunch.Ref{s.Accused})
	if err != nil {
		return stays(err)
	}
	f, err := t.only("signal", id)
	for _, u := range above[s.Accused] {
		n, derr := t.drop("signal of", u.Ref.Key(), at(s.Time), id)
		f.With, err = f.With+n, errors.Join(err, derr)
	}
	err = errors.Join(err, t.del("signal at", at(s.Time), id))
	if rule := store.CountedRule(s); rule != "" {
		err = errors.Join(err, t.del("rule signal", rule, at(s.Time), id))
	}
	return f, err
}

func (t *tx) forgetDecision(id string) (store.Forgotten, error) {
	d, err := t.Decision(id)
	if err != nil {
		return stays(err)
	}
	f, err := t.only("decision", id)
	err = errors.Join(err, t.del("decision at", at(d.Made), id))
	for _, rule := range store.CountedRules(d) {
		n, derr := t.drop("rule decision", rule, id)
		f.With, err = f.With+n, errors.Join(err, derr)
		if d.Containment == "" {
			continue
		}
		others := false
		serr := t.scan(key("rule decision", rule), "", func(_ string, w *row) bool {
			others = others || string(w.body) == d.Containment
			return !others
		})
		if !others {
			serr = errors.Join(serr, t.del("rule of", d.Containment, rule))
		}
		err = errors.Join(err, serr)
	}
	return f, err
}

func (t *tx) forgetContainment(id string) (store.Forgotten, error) {
	c, err := t.Containment(id)
	if err != nil || c.Phase.Open() {
		return stays(err)
	}
	holds, err := t.HoldsClaimedBy(id)
	if err != nil {
		return stays(err)
	}
	for _, h := range holds {
		later, err := t.HoldsAfter(h.Plane, h.Seq, 1)
		if err != nil || h.Active() || len(later) == 0 {
			return stays(err)
		}
	}
	steps, serr := t.Steps(id)
	plans, perr := t.Plans(id)
	if err := errors.Join(serr, perr); err != nil {
		return stays(err)
	}
	var f store.Forgotten
	drop := func(parts ...string) {
		n, derr := t.drop(parts...)
		f.With, err = f.With+n, errors.Join(err, derr)
	}
	for _, s := range steps {
		err = errors.Join(err, t.del("step of", id, s.ID), t.Shred(s.PreImage, s.PostImage))
		drop("step", s.ID)
	}
	for _, p := range plans {
		err = errors.Join(err, t.del("plan of", id, p.ID))
		drop("plan", p.ID)
	}
	for _, h := range holds {
		drop("hold of", id, h.ID)
		others := false // another case that ever claimed it has steps on it, and takes it along
		serr := t.scan("hold of", "", func(_ string, w *row) bool {
			others = others || string(w.body) == h.ID
			return !others
		})
		if err = errors.Join(err, serr); !others {
			err = errors.Join(err, t.del("hold at", string(h.Plane), number(h.Seq)))
			drop("hold", h.ID)
		}
	}
	err = errors.Join(err, t.del("containment at", at(c.Opened), id), t.del("containment", id))
	f.Rows = 1
	return f, err
}

// Size has only what rows hold, and nothing that is free.
func (r *reader) Size() (store.Size, error) {
	sizes, err := r.TableSizes()
	var s store.Size
	for _, t := range sizes {
		s.Used += t.Bytes
	}
	return s, err
}

func (r *reader) TableSizes() ([]store.TableSize, error) {
	if err := r.may(); err != nil {
		return nil, err
	}
	by := map[string]*store.TableSize{}
	r.rows.Scan(func(k string, w *row) bool {
		name, _, _ := bytes.Cut([]byte(k), []byte{0})
		t := by[string(name)]
		if t == nil {
			t = &store.TableSize{Name: string(name)}
			by[t.Name] = t
		}
		t.Rows++
		t.Bytes += int64(len(k) + len(w.body))
		return true
	})
	out := make([]store.TableSize, 0, len(by))
	for _, t := range by {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b store.TableSize) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}
