package sqlstore

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func (r *reader) Event(id string) (staunch.Event, error) {
	return get[staunch.Event](r, "event "+id, "SELECT body FROM events WHERE id = $1", id)
}

// fanned runs a union and merges its chunks: in the order of less, each id
// once, at most limit from the front.
func fanned[T any](r *reader, u *union, keys [][]any, shared []any, limit int, order func(a, b T) int) ([]T, error) {
	return fannedBy(r, u, keys, shared, limit, order, func(body []byte) (v T, err error) {
		return v, store.Decode(body, &v)
	})
}

func fannedBy[T any](r *reader, u *union, keys [][]any, shared []any, limit int, order func(a, b T) int, decode func([]byte) (T, error)) ([]T, error) {
	out := []T{}
	err := u.fan(r, keys, shared, func(scan func(...any) error) error {
		var body []byte
		if err := scan(&body); err != nil {
			return err
		}
		v, err := decode(body)
		if err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", u.name, err)
	}
	slices.SortStableFunc(out, order)
	out = slices.CompactFunc(out, func(a, b T) bool { return order(a, b) == 0 })
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

var eventsNaming = &union{
	name: "events naming refs", shared: 1, own: 1,
	head: "SELECT e.body FROM (SELECT at, event FROM (",
	arm:  "SELECT at, event FROM event_actors WHERE ref = {@1} ORDER BY at DESC, event DESC LIMIT $1",
	tail: ") AS u ORDER BY at DESC, event DESC LIMIT $1) AS x JOIN events e ON e.id = x.event",
}

// EventsNaming returns the newest first.
func (r *reader) EventsNaming(refs []staunch.Ref, limit int) ([]staunch.Event, error) {
	n := limitOf(limit)
	return fanned(r, eventsNaming, keysOf(refs), []any{n}, int(n), func(a, b staunch.Event) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(b.ID, a.ID))
	})
}

func (r *reader) Fact(id string) (staunch.Fact, error) {
	return get[staunch.Fact](r, "fact "+id, "SELECT body FROM facts WHERE id = $1", id)
}

func linksUnion(name, column string) *union {
	return &union{
		name: name, shared: 1, own: 2,
		head: "SELECT body FROM (",
		arm:  "SELECT since, fact, rel, body FROM links WHERE " + column + " = {@1} AND rel = @2 ORDER BY since, fact LIMIT $1",
		tail: ") AS u ORDER BY since, fact, rel LIMIT $1",
	}
}

var (
	linksFrom = linksUnion("links from refs", "from_ref")
	linksTo   = linksUnion("links to refs", "to_ref")
)

// link is the body of a link's row; staunch.Link has no names for JSON.
type link struct {
	From    staunch.Ref  `json:"from"`
	To      staunch.Ref  `json:"to"`
	Rel     staunch.Rel  `json:"rel"`
	Since   staunch.Time `json:"since"`
	Until   staunch.Time `json:"until,omitempty"`
	Learned staunch.Time `json:"learned"`
	Fact    string       `json:"fact"`
}

func compareLinks(a, b link) int {
	return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Fact, b.Fact), cmp.Compare(a.Rel, b.Rel))
}

func (r *reader) links(end linkEnd, u *union, refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	n := limitOf(limit)
	if len(rels) > 1 {
		rels = slices.Compact(slices.Sorted(slices.Values(rels)))
	}
	if r.known != nil {
		out, err := r.remembering(end, u, refs, rels, n)
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(out, func(a, b staunch.Link) int { return compareLinks(link(a), link(b)) })
		out = slices.CompactFunc(out, func(a, b staunch.Link) bool { return compareLinks(link(a), link(b)) == 0 })
		return out[:min(len(out), int(n))], nil
	}
	var keys [][]any
	for _, key := range keysOf(refs) {
		for _, rel := range rels {
			keys = append(keys, []any{key[0], string(rel)})
		}
	}
	rows, err := fanned(r, u, keys, []any{n}, int(n), compareLinks)
	if err != nil {
		return nil, err
	}
	out := make([]staunch.Link, len(rows))
	for i, l := range rows {
		out[i] = staunch.Link(l)
	}
	return out, nil
}

func (r *reader) LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return r.links(endFrom, linksFrom, refs, rels, limit)
}

func (r *reader) LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return r.links(endTo, linksTo, refs, rels, limit)
}

func (r *reader) Above(refs []staunch.Ref) (map[staunch.Ref][]store.Raised, error) {
	if r.known == nil || !r.known.lasting {
		return store.Above(r, refs)
	}
	if r.failed != nil {
		return nil, r.failed
	}
	out := make(map[staunch.Ref][]store.Raised, len(refs))
	var missing []staunch.Ref
	for _, ref := range refs {
		if list, ok := r.known.above.get(ref); ok {
			out[ref] = list
		} else {
			missing = append(missing, ref)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	found, err := store.Above(r, missing)
	if err != nil {
		return nil, err
	}
	for ref, list := range found {
		out[ref] = list
		r.known.aboveIs(ref, list)
	}
	return out, nil
}

func (r *reader) Identity(name string) (staunch.Identity, error) {
	return get[staunch.Identity](r, "identity "+name, "SELECT body FROM identities WHERE name = $1", name)
}

func (r *reader) IdentityOf(ref staunch.Ref) (staunch.Identity, error) {
	ask := func(ref staunch.Ref) (staunch.Identity, error) {
		return get[staunch.Identity](r, "identity of "+ref.String(),
			"SELECT i.body FROM identity_accounts a JOIN identities i ON i.name = a.identity WHERE a.ref = $1", ref.Key())
	}
	if r.known != nil {
		return r.isIdentityOf(ref, ask)
	}
	return ask(ref)
}

// Identities lists by name.
func (r *reader) Identities(p store.Page) ([]staunch.Identity, error) {
	return list[staunch.Identity](r, "identities",
		"SELECT body FROM identities WHERE name > $1 ORDER BY name LIMIT $2", p.After, r.page(p))
}

func (r *reader) Signal(id string) (staunch.Signal, error) {
	return get[staunch.Signal](r, "signal "+id, "SELECT body FROM signals WHERE id = $1", id)
}

// A signal that was found before there were briefs is read itself, unless it was
// deleted.
var signalsWithin = &union{
	name: "signals within refs", shared: 2, own: 1,
	head: "SELECT body FROM (SELECT coalesce(x.brief, (SELECT s.body FROM signals s WHERE s.id = x.id)) AS body FROM (SELECT at, id, brief FROM (",
	arm:  "SELECT at, id, brief FROM signals_within WHERE within = {@1} AND at >= $2 ORDER BY at DESC, id DESC LIMIT $1",
	tail: ") AS u ORDER BY at DESC, id DESC LIMIT $1) AS x) AS y WHERE body IS NOT NULL",
}

func (r *reader) SignalsWithin(refs []staunch.Ref, since staunch.Time, limit int) ([]*staunch.Signal, error) {
	n := limitOf(limit)
	if r.known == nil || !r.known.lasting {
		return fannedBy(r, signalsWithin, keysOf(refs), []any{n, int64(since)}, int(n), newestFirstSignals, store.DecodeBrief)
	}
	out := []*staunch.Signal{}
	keys := keysOf(refs)
	for _, key := range keys {
		under, err := r.foundUnder(key[0].(string), since, n) // keysOf makes strings
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", signalsWithin.name, err)
		}
		out = append(out, under...)
	}
	if len(keys) > 1 {
		slices.SortFunc(out, newestFirstSignals)
		out = slices.CompactFunc(out, func(a, b *staunch.Signal) bool { return a.ID == b.ID })
	}
	return out[:min(len(out), int(n))], r.failed
}

// foundUnder returns the signals under a ref, the newest first, and remembers them
// where they are many.
func (r *reader) foundUnder(key string, since staunch.Time, limit int64) ([]*staunch.Signal, error) {
	f, ok := r.known.within.get(key)
	if !ok || !f.has(since, int(limit)) {
		list := []*staunch.Signal{}
		err := r.query(r.engine.texts().refs(`SELECT coalesce(brief, (SELECT s.body FROM signals s WHERE s.id = w.id))
			FROM signals_within w WHERE within = {$1} AND at >= $2 ORDER BY at DESC, id DESC LIMIT $3`),
			[]any{key, int64(since), limit}, func(scan func(...any) error) error {
				var body sql.RawBytes
				if err := scan(&body); err != nil || body == nil { // deleted, as above
					return err
				}
				s, err := store.DecodeBrief(body)
				list = append(list, s)
				return err
			})
		if err != nil || len(list) <= fewFound {
			return list, err
		}
		f = &found{list: list, since: since, most: int(limit)}
		r.known.within.put(key, f)
	}
	list := f.list[:min(len(f.list), int(limit))]
	n, _ := slices.BinarySearchFunc(list, since, func(s *staunch.Signal, since staunch.Time) int {
		if s.Time >= since {
			return -1
		}
		return 1
	})
	return list[:n:n], nil
}

// newestFirst lists a table by (at, id) descending, after the item called
// p.After, which must be there.
func newestFirst[T any](r *reader, table, where string, p store.Page) ([]T, error) {
	if p.After == "" {
		return list[T](r, table, "SELECT body FROM "+table+" WHERE "+where+
			" ORDER BY at DESC, id DESC LIMIT $1", r.page(p))
	}
	var at int64
	if err := r.one(table+" after "+p.After, "SELECT at FROM "+table+" WHERE id = $1", []any{p.After}, &at); err != nil {
		return nil, err
	}
	return list[T](r, table, "SELECT body FROM "+table+" WHERE "+where+
		" AND (at, id) < ($1, $2) ORDER BY at DESC, id DESC LIMIT $3", at, p.After, r.page(p))
}

func (r *reader) Signals(p store.Page) ([]staunch.Signal, error) {
	return newestFirst[staunch.Signal](r, "signals", "1 = 1", p)
}

func (r *reader) Decision(id string) (staunch.Decision, error) {
	return get[staunch.Decision](r, "decision "+id, "SELECT body FROM decisions WHERE id = $1", id)
}

// Decisions lists by (time made, id) descending.
func (r *reader) Decisions(p store.Page) ([]staunch.Decision, error) {
	return newestFirst[staunch.Decision](r, "decisions", "1 = 1", p)
}

func (r *reader) Containment(id string) (staunch.Containment, error) {
	return get[staunch.Containment](r, "containment "+id, "SELECT body FROM containments WHERE id = $1", id)
}

var openContainments = &union{
	name: "open containments of refs", own: 1,
	head: "SELECT c.body FROM (",
	arm:  "SELECT containment FROM containment_refs WHERE ref = @1",
	tail: ") AS x JOIN containments c ON c.id = x.containment",
}

// OpenContainments returns the oldest first.
func (r *reader) OpenContainments(refs []staunch.Ref) ([]staunch.Containment, error) {
	return fanned(r, openContainments, keysOf(refs), nil, 0, func(a, b staunch.Containment) int {
		return cmp.Or(cmp.Compare(a.Opened, b.Opened), cmp.Compare(a.ID, b.ID))
	})
}

// Containments lists by (time opened, id) descending.
func (r *reader) Containments(p store.Page, open bool) ([]staunch.Containment, error) {
	where := "1 = 1"
	if open {
		where = "unreleased = 1"
	}
	return newestFirst[staunch.Containment](r, "containments", where, p)
}

// Plans returns a containment's plans by (stage, child, generation).
func (r *reader) Plans(containment string) ([]staunch.Plan, error) {
	return list[staunch.Plan](r, "plans of "+containment,
		"SELECT body FROM plans WHERE containment = $1 ORDER BY stage, child, generation, id", containment)
}

func (r *reader) Steps(containment string) ([]staunch.Step, error) {
	return list[staunch.Step](r, "steps of "+containment,
		`SELECT s.body FROM steps s LEFT JOIN plans p ON p.id = s.plan WHERE s.containment = $1
		ORDER BY COALESCE(p.stage, 0), COALESCE(p.child, 0), COALESCE(p.generation, 0), s.seq, s.id`, containment)
}

func (r *reader) Step(id string) (staunch.Step, error) {
	return get[staunch.Step](r, "step "+id, "SELECT body FROM steps WHERE id = $1", id)
}

func (r *reader) Hold(id string) (staunch.Hold, error) {
	return get[staunch.Hold](r, "hold "+id, "SELECT body FROM holds WHERE id = $1", id)
}

func (r *reader) ActiveHold(plane staunch.Plane, t staunch.Target) (staunch.Hold, error) {
	return get[staunch.Hold](r, "active hold on "+t.String(),
		"SELECT body FROM holds WHERE target = $1 AND plane = $2 AND active = 1", t.Key(), string(plane))
}

// HoldsClaimedBy returns them by id.
func (r *reader) HoldsClaimedBy(containment string) ([]staunch.Hold, error) {
	return list[staunch.Hold](r, "holds claimed by "+containment,
		"SELECT h.body FROM hold_claims c JOIN holds h ON h.id = c.hold WHERE c.containment = $1 ORDER BY h.id", containment)
}

func (r *reader) HoldsAfter(plane staunch.Plane, seq int64, limit int) ([]staunch.Hold, error) {
	return list[staunch.Hold](r, "holds",
		"SELECT body FROM holds WHERE plane = $1 AND seq > $2 ORDER BY seq LIMIT $3", string(plane), seq, limitOf(limit))
}

// highestHold walks the end of (plane, seq) for each plane.
const highestHold = `SELECT COALESCE(MAX(m), 0) FROM (
	SELECT MAX(seq) AS m FROM holds WHERE plane = 'guard' UNION ALL
	SELECT MAX(seq) AS m FROM holds WHERE plane = 'platform') AS x`

func (r *reader) HoldSeq() (int64, error) {
	var n int64
	err := r.one("the highest hold sequence", highestHold, nil, &n)
	return n, err
}

func (r *reader) DueTimers(now staunch.Time, limit int) ([]store.Timer, error) {
	out := []store.Timer{}
	err := r.query("SELECT id, due, kind, about FROM timers WHERE due <= $1 ORDER BY due, id LIMIT $2",
		[]any{int64(now), limitOf(limit)}, func(scan func(...any) error) error {
			var t store.Timer
			var due int64
			if err := scan(&t.ID, &due, &t.Kind, &t.About); err != nil {
				return err
			}
			t.Due = staunch.Time(due)
			out = append(out, t)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("listing due timers: %w", err)
	}
	return out, nil
}

func (r *reader) NextTimer() (staunch.Time, error) {
	var due int64
	_, err := r.optional("the next timer", "SELECT due FROM timers ORDER BY due, id LIMIT 1", nil, &due)
	return staunch.Time(due), err
}

func (r *reader) Cursor(name string) (string, error) {
	if r.known != nil && r.failed == nil {
		if c, ok := r.known.cursors.get(name); ok {
			return c.value, c.err
		}
	}
	var v []byte
	err := r.one("cursor "+name, "SELECT value FROM cursors WHERE name = $1", []any{name}, &v)
	if r.known != nil && r.failed == nil && (err == nil || errors.Is(err, staunch.ErrNotFound)) {
		r.known.cursors.put(name, cursor{string(v), err})
	}
	return string(v), err
}

// expired returns the keys of secrets whose time is over.
func (r *reader) expired(now staunch.Time, limit int) ([]string, error) {
	var out []string
	err := r.query("SELECT ref FROM secrets WHERE until > 0 AND until <= $1 LIMIT $2", []any{int64(now), int64(limit)},
		func(scan func(...any) error) error {
			var ref string
			if err := scan(&ref); err != nil {
				return err
			}
			out = append(out, ref)
			return nil
		})
	return out, err
}

func (r *reader) Cap(name string) (store.Cap, error) {
	c := store.Cap{Name: name}
	err := r.one("cap "+name, "SELECT used, lim FROM caps WHERE name = $1", []any{name}, &c.Used, &c.Limit)
	if err != nil {
		return store.Cap{}, err
	}
	return c, nil
}

func (r *reader) Breaker(scope string) (store.Breaker, error) {
	return get[store.Breaker](r, "breaker "+scope, "SELECT body FROM breakers WHERE scope = $1", scope)
}

// Breakers returns them by scope.
func (r *reader) Breakers() ([]store.Breaker, error) {
	return list[store.Breaker](r, "breakers", "SELECT body FROM breakers ORDER BY scope")
}

func (r *reader) tokens(what, rest string, args ...any) ([]store.Token, error) {
	out := []store.Token{}
	err := r.query("SELECT hash, body FROM tokens "+rest, args, func(scan func(...any) error) error {
		var hash string
		var body []byte
		if err := scan(&hash, &body); err != nil {
			return err
		}
		var t store.Token
		if err := store.Decode(body, &t); err != nil {
			return err
		}
		t.Hash = hash
		out = append(out, t)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	return out, nil
}

func (r *reader) token(what, rest, key string) (store.Token, error) {
	found, err := r.tokens(what, rest, key)
	if err != nil {
		return store.Token{}, err
	}
	if len(found) == 0 {
		return store.Token{}, fmt.Errorf("%s: %w", what, staunch.ErrNotFound)
	}
	return found[0], nil
}

func (r *reader) Token(id string) (store.Token, error) {
	return r.token("token "+id, "WHERE id = $1", id)
}

func (r *reader) TokenByHash(hash string) (store.Token, error) {
	return r.token("token by hash", "WHERE hash = $1", hash)
}

// Tokens returns them by id.
func (r *reader) Tokens() ([]store.Token, error) { return r.tokens("tokens", "ORDER BY id") }

func (r *reader) ActiveBundle() (store.Bundle, error) {
	var b store.Bundle
	var made int64
	err := r.one("the active bundle",
		"SELECT b.hash, b.made, b.body FROM active_bundle a JOIN bundles b ON b.hash = a.hash WHERE a.one = 1",
		nil, &b.Hash, &made, &b.Body)
	if err != nil {
		return store.Bundle{}, err
	}
	b.Made = staunch.Time(made)
	return b, nil
}

func (r *reader) Sealed(id string) ([]byte, error) {
	var b []byte
	err := r.one("sealed value "+id, "SELECT blob FROM sealed WHERE id = $1", []any{id}, &b)
	return b, err
}

func (r *reader) SecretOf(ref staunch.Ref) ([]byte, error) {
	var b []byte
	err := r.one("secret of "+ref.String(), "SELECT blob FROM secrets WHERE ref = $1", []any{ref.Key()}, &b)
	return b, err
}

func (r *reader) records(what, rest string, args ...any) ([]staunch.Record, error) {
	out := []staunch.Record{}
	err := r.query("SELECT v, lane, seq, at, kind, actor, about, body, prev, hash FROM records "+rest, args,
		func(scan func(...any) error) error {
			var rec staunch.Record
			var v, at int64
			var kind string
			var body []byte
			if err := scan(&v, &rec.Lane, &rec.Seq, &at, &kind, &rec.Actor, &rec.About, &body, &rec.Prev, &rec.Hash); err != nil {
				return err
			}
			rec.V, rec.Time, rec.Kind = int(v), staunch.Time(at), staunch.RecordKind(kind)
			if len(body) > 0 {
				rec.Body = body
			}
			out = append(out, rec)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", what, err)
	}
	return out, nil
}

func (r *reader) Records(lane string, after int64, limit int) ([]staunch.Record, error) {
	return r.records("records of lane "+lane, "WHERE lane = $1 AND seq > $2 ORDER BY seq LIMIT $3", lane, after, limitOf(limit))
}

func (r *reader) RecordsAbout(id string, limit int) ([]staunch.Record, error) {
	return r.records("records about "+id, "WHERE about = $1 ORDER BY at, lane, seq LIMIT $2", id, limitOf(limit))
}

// Heads returns them by lane.
func (r *reader) Heads() ([]store.Head, error) {
	if r.flush != nil {
		if err := r.flush(); err != nil {
			return nil, err
		}
	}
	out := []store.Head{}
	err := r.query("SELECT lane, seq, hash, at FROM lanes ORDER BY lane", nil, func(scan func(...any) error) error {
		var h store.Head
		var at int64
		if err := scan(&h.Lane, &h.Seq, &h.Hash, &at); err != nil {
			return err
		}
		h.Time = staunch.Time(at)
		out = append(out, h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing lanes: %w", err)
	}
	return out, nil
}

// Notices returns the earliest due first.
func (r *reader) Notices(now staunch.Time, limit int) ([]store.Notice, error) {
	return list[store.Notice](r, "notices",
		"SELECT body FROM notices WHERE done = 0 AND due <= $1 ORDER BY due, id LIMIT $2", int64(now), limitOf(limit))
}

// Parked lists by id.
func (r *reader) Parked(p store.Page) ([]store.Parked, error) {
	out := []store.Parked{}
	err := r.query("SELECT body, raw FROM parked WHERE id > $1 ORDER BY id LIMIT $2", []any{p.After, r.page(p)},
		func(scan func(...any) error) error {
			var body, raw []byte
			if err := scan(&body, &raw); err != nil {
				return err
			}
			var v store.Parked
			if err := store.Decode(body, &v); err != nil {
				return err
			}
			if len(raw) > 0 {
				v.Raw = raw
			}
			out = append(out, v)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("listing parked records: %w", err)
	}
	return out, nil
}
