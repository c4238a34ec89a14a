package sqlstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Old rows are found without an index of their own, which every insertion would
// have to write to. SQLite numbers the rows of these tables as they come, and a
// walk goes by that number. On PostgreSQL a walk goes through the table's blocks,
// which have rows in any order once space was used again; it reads what is old and
// passes over the rest.

// walkBlocks is how many blocks of PostgreSQL's one step of a walk reads.
const walkBlocks = 64

// keptTable says where the rows of a kind are, and by what time they are found.
type keptTable struct{ name, key, at, body string }

const noTime = "CAST(0 AS BIGINT)"

func keptTables() map[store.Kept]keptTable {
	return map[store.Kept]keptTable{
		store.KeptEvents:       {"events", "id", "at", "body"},
		store.KeptFacts:        {"facts", "id", "at", "body"},
		store.KeptSignals:      {"signals", "id", "at", "body"},
		store.KeptDecisions:    {"decisions", "id", "at", "body"},
		store.KeptContainments: {"containments", "id", "at", "body"},
		store.KeptDrills:       {"drills", "id", "at", "body"},
		store.KeptNotices:      {"notices", "id", "done", "body"},
		store.KeptParked:       {"parked", "id", noTime, "body"},
		store.KeptCursors:      {"cursors", "name", noTime, "value"},
		store.KeptBundles:      {"bundles", "hash", "used", ""},
	}
}

// postgres reports whether the database is PostgreSQL.
func (r *reader) postgres() bool {
	_, ok := r.session.(*conn)
	return ok
}

func (r *reader) Walk(kind store.Kept, after string, before, now staunch.Time, limit int) (store.Walked, error) {
	table, ok := keptTables()[kind]
	if !ok {
		return store.Walked{}, fmt.Errorf("%w: %q", store.ErrKept, kind)
	}
	at := int64(0)
	if after != "" {
		var err error
		if at, err = strconv.ParseInt(after, 10, 64); err != nil {
			return store.Walked{}, fmt.Errorf("%w: %q is no place in a walk", staunch.ErrInvalid, after)
		}
	}
	columns := table.key + ", " + table.at
	if table.body != "" {
		columns += ", " + table.body
	}
	var w store.Walked
	var err error
	if r.postgres() {
		w, err = r.walkBlocks(kind, table, columns, at, before, now)
	} else {
		w, err = r.walkRows(kind, table, columns, at, limitOf(limit))
	}
	return w, wrap(err, "walking the %s", kind)
}

func (r *reader) walkRows(kind store.Kept, table keptTable, columns string, after, limit int64) (store.Walked, error) {
	// A cursor, notice or case is written again in its place, and found by a time of
	// its own.
	w := store.Walked{Arrival: table.at == "at"}
	var last int64
	err := r.query("SELECT "+columns+", rowid FROM "+table.name+" WHERE rowid > $1 ORDER BY rowid LIMIT $2", []any{after, limit},
		func(scan func(...any) error) error {
			row, err := scanOld(kind, table, scan, &last)
			w.Rows = append(w.Rows, row)
			return err
		})
	if int64(len(w.Rows)) == limit {
		w.Next = strconv.FormatInt(last, 10)
	}
	return w, err
}

func (r *reader) walkBlocks(kind store.Kept, table keptTable, columns string, block int64, before, now staunch.Time) (store.Walked, error) {
	var w store.Walked
	var blocks int64
	err := r.one("the blocks of "+table.name, "SELECT pg_relation_size('"+table.name+"') / current_setting('block_size')::bigint", nil, &blocks)
	if err != nil {
		return w, err
	}
	place := func(n int64) string { return "(" + strconv.FormatInt(n, 10) + ",0)" }
	err = r.query("SELECT "+columns+" FROM "+table.name+" WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND ("+table.at+" < $3 OR "+table.at+" > $4)",
		[]any{place(block), place(block + walkBlocks), int64(before), int64(now)},
		func(scan func(...any) error) error {
			row, err := scanOld(kind, table, scan)
			w.Rows = append(w.Rows, row)
			return err
		})
	if block+walkBlocks < blocks {
		w.Next = strconv.FormatInt(block+walkBlocks, 10)
	}
	return w, err
}

func scanOld(kind store.Kept, table keptTable, scan func(...any) error, more ...any) (store.OldRow, error) {
	var row store.OldRow
	var at int64
	dest := []any{&row.ID, &at}
	if table.body != "" {
		dest = append(dest, &row.Body)
	}
	if len(more) > 0 {
		dest = append(dest, more...)
	}
	if err := scan(dest...); err != nil {
		return row, err
	}
	row.At = staunch.Time(at)
	if kind == store.KeptParked {
		var p store.Parked
		if err := store.Decode(row.Body, &p); err != nil {
			return row, err
		}
		row.At = p.At
	}
	return row, nil
}

func (t *tx) Forget(kind store.Kept, rows []store.OldRow) (store.Forgotten, error) {
	var forget func(store.OldRow) (store.Forgotten, error)
	one := func(text string) func(store.OldRow) (store.Forgotten, error) {
		return func(o store.OldRow) (store.Forgotten, error) { return t.gone(text, o.ID) }
	}
	switch kind {
	case store.KeptEvents:
		forget = t.forgetEvent
	case store.KeptFacts:
		forget = t.forgetFact
	case store.KeptSignals:
		forget = t.forgetSignal
	case store.KeptDecisions:
		forget = t.forgetDecision
	case store.KeptContainments:
		forget = t.forgetContainment
	case store.KeptDrills:
		forget = one("DELETE FROM drills WHERE id = $1 AND ended <> 0")
	case store.KeptNotices:
		forget = one("DELETE FROM notices WHERE id = $1 AND done <> 0")
	case store.KeptParked:
		forget = one("DELETE FROM parked WHERE id = $1")
	case store.KeptCursors:
		forget = func(o store.OldRow) (store.Forgotten, error) {
			t.known.cursors.drop(o.ID)
			return t.gone("DELETE FROM cursors WHERE name = $1 AND value = $2", o.ID, nonNil(o.Body))
		}
	case store.KeptBundles:
		forget = func(o store.OldRow) (store.Forgotten, error) {
			return t.gone("DELETE FROM bundles WHERE hash = $1 AND used = $2 AND used > 0 AND COALESCE((SELECT hash FROM active_bundle WHERE one = 1), '') <> $1", o.ID, int64(o.At))
		}
	default:
		return store.Forgotten{}, fmt.Errorf("%w: %q", store.ErrKept, kind)
	}
	var all store.Forgotten
	for _, row := range rows {
		f, err := forget(row)
		if err != nil {
			return all, fmt.Errorf("deleting of the %s: %w", kind, err)
		}
		all.Add(f)
	}
	return all, nil
}

// gone executes the deletion of rows of a kind.
func (t *tx) gone(text string, args ...any) (store.Forgotten, error) {
	n, err := t.exec(text, args...)
	return store.Forgotten{Rows: int(n)}, err
}

// with executes the deletion of a row that belongs to another, later.
func (t *tx) with(f *store.Forgotten, text string, args ...any) error {
	f.With++
	return t.later(text, args...)
}

func (t *tx) forgetEvent(o store.OldRow) (store.Forgotten, error) {
	var e staunch.Event
	if err := store.Decode(o.Body, &e); err != nil {
		return store.Forgotten{}, err
	}
	f, err := t.gone("DELETE FROM events WHERE id = $1", o.ID)
	if err != nil || f.Rows == 0 {
		return f, err
	}
	var refs []string
	for _, key := range keysOf(e.Actor) {
		refs = append(refs, key[0].(string)) // keysOf makes strings
		if err := t.with(&f, t.engine.texts().refs("DELETE FROM event_actors WHERE ref = {$1} AND at = $2 AND event = $3"), key[0], int64(e.Time), o.ID); err != nil {
			return f, err
		}
	}
	return f, t.forgetNumbers(refs)
}

func (t *tx) forgetFact(o store.OldRow) (store.Forgotten, error) {
	var x staunch.Fact
	if err := store.Decode(o.Body, &x); err != nil {
		return store.Forgotten{}, err
	}
	subject, found := x.Subject.Key(), ""
	for _, text := range []string{"SELECT id FROM signals_within WHERE within = {$1} LIMIT 1", "SELECT fact FROM links WHERE to_ref = {$1} LIMIT 1"} {
		needed, err := t.optional("what rests on a fact", t.engine.texts().refs(text), []any{subject}, &found)
		if err != nil || needed {
			return store.Forgotten{}, err
		}
	}
	f, err := t.gone("DELETE FROM facts WHERE id = $1", o.ID)
	if err != nil || f.Rows == 0 {
		return f, err
	}
	var refs []string
	for _, l := range x.Links() {
		t.known.linkPut(l)
		t.known.above.drop(l.From)
		refs = append(refs, l.From.Key(), l.To.Key())
		err := t.with(&f, t.engine.texts().refs("DELETE FROM links WHERE from_ref = {$1} AND rel = $2 AND since = $3 AND fact = $4"),
			l.From.Key(), string(l.Rel), int64(l.Since), l.Fact)
		if err != nil {
			return f, err
		}
	}
	return f, t.forgetNumbers(refs)
}

func (t *tx) forgetSignal(o store.OldRow) (store.Forgotten, error) {
	var s staunch.Signal
	if err := store.Decode(o.Body, &s); err != nil {
		return store.Forgotten{}, err
	}
	f, err := t.gone("DELETE FROM signals WHERE id = $1", o.ID)
	if err != nil || f.Rows == 0 {
		return f, err
	}
	// Facts stay while a signal is found under their subject, so that what is above
	// it now was when it was put, or came since; and with it the signal.
	above, err := t.Above([]staunch.Ref{s.Accused})
	if err != nil {
		return f, err
	}
	var refs []string
	for _, u := range above[s.Accused] {
		refs = append(refs, u.Ref.Key())
		err := t.with(&f, t.engine.texts().refs("DELETE FROM signals_within WHERE within = {$1} AND at = $2 AND id = $3"), u.Ref.Key(), int64(s.Time), o.ID)
		if err != nil {
			return f, err
		}
	}
	t.known.unaccused(o.ID, s.Time)
	return f, t.forgetNumbers(refs)
}

func (t *tx) forgetDecision(o store.OldRow) (store.Forgotten, error) {
	var d staunch.Decision
	if err := store.Decode(o.Body, &d); err != nil {
		return store.Forgotten{}, err
	}
	f, err := t.gone("DELETE FROM decisions WHERE id = $1", o.ID)
	if err != nil || f.Rows == 0 {
		return f, err
	}
	for _, rule := range store.CountedRules(d) {
		if err := t.with(&f, "DELETE FROM decision_rules WHERE rule = $1 AND decision = $2", rule, o.ID); err != nil {
			return f, err
		}
	}
	return f, nil
}

// forgetContainment deletes from the leaves on, so that what is left after a part
// is still a case.
func (t *tx) forgetContainment(o store.OldRow) (f store.Forgotten, err error) {
	c, err := t.Containment(o.ID)
	if t.failed == nil && errors.Is(err, staunch.ErrNotFound) {
		return f, nil
	}
	if err != nil || c.Phase.Open() {
		return f, err
	}
	holds, err := t.HoldsClaimedBy(o.ID)
	if err != nil {
		return f, err
	}
	for _, h := range holds {
		last, err := t.lastHold(h)
		if err != nil || last || h.Active() {
			return f, err
		}
	}
	const part = store.MostForgotten / 4 // a step has two images
	steps, err := list[staunch.Step](&t.reader, "steps of "+o.ID, "SELECT body FROM steps WHERE containment = $1 LIMIT $2", o.ID, int64(part))
	if err != nil {
		return f, err
	}
	for _, s := range steps {
		for _, image := range []string{s.PreImage, s.PostImage} {
			if image == "" {
				continue
			}
			if err := t.Shred(image); err != nil {
				return f, err
			}
		}
		if err := t.with(&f, "DELETE FROM steps WHERE id = $1", s.ID); err != nil {
			return f, err
		}
	}
	if len(steps) == part {
		return f, nil
	}
	plans, err := t.exec("DELETE FROM plans WHERE id IN (SELECT id FROM plans WHERE containment = $1 LIMIT $2)", o.ID, int64(part))
	if f.With += int(plans); err != nil || plans == part {
		return f, err
	}
	for i, h := range holds {
		if i == part {
			return f, nil
		}
		if err := t.with(&f, "DELETE FROM hold_claims WHERE containment = $1 AND hold = $2", o.ID, h.ID); err != nil {
			return f, err
		}
		// Another case that ever claimed it has steps on it, and takes it along.
		n, err := t.exec("DELETE FROM holds WHERE id = $1 AND active = 0 AND NOT EXISTS (SELECT 1 FROM hold_claims WHERE hold = $1)", h.ID)
		if f.With += int(n); err != nil {
			return f, err
		}
	}
	gone, err := t.gone("DELETE FROM containments WHERE id = $1 AND unreleased = 0", o.ID)
	delete(t.cases, o.ID)
	f.Add(gone)
	return f, err
}

// lastHold reports whether no hold of the plane changed later: by the last one's
// sequence guards know how far they have come.
func (t *tx) lastHold(h staunch.Hold) (bool, error) {
	var seq int64
	err := t.one("the highest hold sequence", "SELECT COALESCE(MAX(seq), 0) FROM holds WHERE plane = $1", []any{string(h.Plane)}, &seq)
	return seq <= h.Seq, err
}

func (r *reader) Size() (store.Size, error) {
	if r.postgres() {
		var n int64
		err := r.one("the database's size", "SELECT pg_database_size(current_database())", nil, &n)
		return store.Size{Used: n}, err
	}
	var page, pages, free int64
	for _, q := range []struct {
		pragma string
		n      *int64
	}{{"page_size", &page}, {"page_count", &pages}, {"freelist_count", &free}} {
		if err := r.one("the database's size", "PRAGMA "+q.pragma, nil, q.n); err != nil {
			return store.Size{}, err
		}
	}
	return store.Size{Used: (pages - free) * page, Free: free * page}, nil
}

// sizedTable is a table as people are shown it; at is what its times are read from
// where an index, or the order of its rows, gives the first and the last at once.
type sizedTable struct {
	name, body string
	clustered  bool
	at         string
	indexed    bool
}

func sizedTables() []sizedTable {
	return []sizedTable{
		{name: "events", body: "body", at: "at"},
		{name: "event_actors", clustered: true},
		{name: "facts", body: "body", at: "at"},
		{name: "links", body: "body"},
		{name: "signals", body: "body", at: "at", indexed: true},
		{name: "signals_within", clustered: true},
		{name: "decisions", body: "body", at: "at", indexed: true},
		{name: "decision_rules", clustered: true},
		{name: "containments", body: "body", at: "at", indexed: true},
		{name: "plans", body: "body"},
		{name: "steps", body: "body"},
		{name: "holds", body: "body"},
		{name: "hold_claims", clustered: true},
		{name: "contributions", clustered: true},
		{name: "sightings", clustered: true},
		{name: "cursors", body: "value"},
		{name: "caps", clustered: true},
		{name: "notices", body: "body"},
		{name: "parked", body: "raw"},
		{name: "drills", body: "body", at: "at", indexed: true},
		{name: "trust_events", body: "body"},
		{name: "bundles", body: "body"},
		{name: "sealed", body: "blob"},
		{name: "secrets", body: "blob"},
		{name: "records", clustered: true},
	}
}

// Bounds of counting: beyond so many rows a number is an estimate, from the bodies
// of so many.
const (
	mostCounted = 100_000
	mostSampled = 200
	// perRow is what a row takes beside its body, and one without a body in all.
	perRow = 120
)

func (r *reader) TableSizes() ([]store.TableSize, error) {
	var out []store.TableSize
	for _, t := range sizedTables() {
		s, err := r.tableSize(t)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", t.name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (r *reader) tableSize(t sizedTable) (store.TableSize, error) {
	s := store.TableSize{Name: t.name}
	var err error
	if r.postgres() {
		s.Estimate = true
		err = r.one(t.name, "SELECT GREATEST(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid) FROM pg_class c WHERE c.oid = '"+t.name+"'::regclass", nil, &s.Rows, &s.Bytes)
	} else {
		err = r.liteSize(t, &s)
	}
	if err != nil || t.at == "" || r.postgres() && !t.indexed {
		return s, err
	}
	by := "at"
	if !r.postgres() {
		by = "rowid"
	}
	for _, end := range []struct {
		order string
		at    *staunch.Time
	}{{"", &s.Oldest}, {" DESC", &s.Newest}} {
		var at int64
		if _, err := r.optional(t.name, "SELECT "+t.at+" FROM "+t.name+" ORDER BY "+by+end.order+" LIMIT 1", nil, &at); err != nil {
			return s, err
		}
		*end.at = staunch.Time(at)
	}
	return s, nil
}

// liteSize counts a table's rows where they are few, and otherwise goes by their
// numbers, which has those in it that were deleted in between.
func (r *reader) liteSize(t sizedTable, s *store.TableSize) error {
	err := r.one(t.name, "SELECT COUNT(*) FROM (SELECT 1 FROM "+t.name+" LIMIT $1)", []any{int64(mostCounted)}, &s.Rows)
	if err != nil {
		return err
	}
	s.Estimate = s.Rows == mostCounted
	if s.Estimate && !t.clustered {
		var first, last int64
		for _, end := range []struct {
			text string
			n    *int64
		}{{"MIN", &first}, {"MAX", &last}} {
			if err := r.one(t.name, "SELECT "+end.text+"(rowid) FROM "+t.name, nil, end.n); err != nil {
				return err
			}
		}
		s.Rows = max(s.Rows, last-first+1)
	}
	each := int64(perRow)
	if t.body != "" && s.Rows > 0 {
		var n, sum int64
		err := r.one(t.name, strings.ReplaceAll("SELECT COUNT(*), COALESCE(SUM(LENGTH(b)), 0) FROM (SELECT @ AS b FROM "+t.name+" ORDER BY rowid DESC LIMIT $1)", "@", t.body),
			[]any{int64(mostSampled)}, &n, &sum)
		if err != nil {
			return err
		}
		each += sum / max(n, 1)
	}
	s.Bytes = s.Rows * each
	return nil
}
