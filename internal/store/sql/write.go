package sqlstore

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// tx implements store.Tx.
type tx struct {
	reader
	chain    store.Chainer
	onCommit []func()
	// head is the end of the transaction's lane, once it has appended.
	head    *store.Head
	dirty   bool // head is not written yet
	headSeq int64
	// shreds says that something was deleted for good.
	shreds bool
	change Change // what listeners are to be told
	cases  map[string]stored
	bundle *required
}

var _ store.Tx = (*tx)(nil)

func newTx(r reader, chain store.Chainer) *tx {
	t := &tx{reader: r, chain: chain}
	t.flush = t.writeHead
	return t
}

func (t *tx) OnCommit(fn func()) {
	if t.failed == nil {
		t.onCommit = append(t.onCommit, fn)
	}
}

// finish writes what was kept back and returns the error that the transaction
// has to fail with, whatever its function made of it.
func (t *tx) finish() error {
	if t.failed == nil {
		if err := t.checkBundle(); err != nil {
			return err
		}
		if err := t.writeHead(); err != nil {
			return err
		}
	}
	return t.failed
}

func need(what, id string) error {
	if id == "" {
		return fmt.Errorf("%w: a %s without id", staunch.ErrInvalid, what)
	}
	return nil
}

func version(v int) int {
	if v == 0 {
		return staunch.Version
	}
	return v
}

func (t *tx) PutEvent(e staunch.Event) (bool, error) {
	if err := need("event", e.ID); err != nil {
		return false, err
	}
	e.V = version(e.V)
	body, err := store.Encode(e)
	if err != nil {
		return false, err
	}
	inserted, err := t.put("INSERT INTO events (id, at, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING", e.ID, int64(e.Time), body)
	if err != nil || !inserted {
		return false, wrap(err, "putting event %s", e.ID)
	}
	refs, err := t.columns(keysOf(e.Actor))
	if err != nil {
		return false, fmt.Errorf("putting event %s: %w", e.ID, err)
	}
	rows := make([][]any, len(refs))
	for i, ref := range refs {
		rows[i] = []any{ref, int64(e.Time), e.ID}
	}
	if err := t.laterRows("INSERT INTO event_actors (ref, at, event) VALUES", rows); err != nil {
		return false, fmt.Errorf("putting event %s: %w", e.ID, err)
	}
	return true, nil
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

func (t *tx) PutFact(f staunch.Fact) (bool, error) {
	if err := need("fact", f.ID); err != nil {
		return false, err
	}
	f.V = version(f.V)
	body, err := store.Encode(f)
	if err != nil {
		return false, err
	}
	inserted, err := t.put("INSERT INTO facts (id, subject, at, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
		f.ID, f.Subject.Key(), int64(f.Time), body)
	if err != nil || !inserted {
		return false, wrap(err, "putting fact %s", f.ID)
	}
	links := f.Links()
	ends := make([][]any, 0, 2*len(links))
	for _, l := range links {
		ends = append(ends, []any{l.From.Key()}, []any{l.To.Key()})
	}
	refs, err := t.columns(ends)
	if err != nil {
		return false, fmt.Errorf("putting the links of fact %s: %w", f.ID, err)
	}
	var rows [][]any
	for i, l := range links {
		if body, err = store.Encode(link(l)); err != nil {
			return false, err
		}
		rows = append(rows, []any{l.Fact, string(l.Rel), refs[2*i], refs[2*i+1], int64(l.Since), body})
		t.known.linkPut(l)
	}
	if err := t.laterRows("INSERT INTO links (fact, rel, from_ref, to_ref, since, body) VALUES", rows); err != nil {
		return false, fmt.Errorf("putting the links of fact %s: %w", f.ID, err)
	}
	for _, l := range links {
		if err := t.raise(l); err != nil {
			return false, fmt.Errorf("putting a link of fact %s: %w", f.ID, err)
		}
	}
	return true, nil
}

// raise has the signals that accuse one end of a new link found under the other.
func (t *tx) raise(l staunch.Link) error {
	if !store.Rises(l) {
		return nil
	}
	if err := t.raiseTo(l.From, l.To); err != nil || l.Rel != staunch.RelSame {
		return err
	}
	return t.raiseTo(l.To, l.From)
}

func (t *tx) raiseTo(lower, upper staunch.Ref) error {
	var id string
	found, err := t.optional("a signal within a ref", t.engine.texts().refs("SELECT id FROM signals_within WHERE within = {$1} LIMIT 1"), []any{lower.Key()}, &id)
	if err != nil || !found {
		return err
	}
	above, err := t.Above([]staunch.Ref{upper})
	if err != nil {
		return err
	}
	for _, u := range above[upper] {
		if u.Ref == lower {
			continue
		}
		at, err := t.columns([][]any{{u.Ref.Key()}})
		if err != nil {
			return err
		}
		err = t.later(t.engine.texts().refs(`INSERT INTO signals_within (within, at, id, brief)
			SELECT $1, at, id, brief FROM (SELECT at, id, brief FROM signals_within WHERE within = {$2} ORDER BY at DESC, id DESC LIMIT $3) AS newest
			WHERE 1 = 1 ON CONFLICT DO NOTHING`), at[0], lower.Key(), int64(store.MostRisen))
		t.known.within.drop(u.Ref.Key())
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) PutIdentity(i staunch.Identity) error {
	if err := need("identity", i.Name); err != nil {
		return err
	}
	keys := keysOf(i.Accounts)
	// Looked at before anything is written, so that a conflict changes nothing.
	for _, key := range keys {
		var other string
		found, err := t.optional("the identity of an account", "SELECT identity FROM identity_accounts WHERE ref = $1", key, &other)
		if err != nil {
			return fmt.Errorf("putting identity %s: %w", i.Name, err)
		}
		if found && other != i.Name {
			return fmt.Errorf("putting identity %s: %w: identity %s has one of its accounts", i.Name, staunch.ErrConflict, other)
		}
	}
	i.V = version(i.V)
	body, err := store.Encode(i)
	if err != nil {
		return err
	}
	t.known.of.clear()
	err = t.later("INSERT INTO identities (name, body) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET body = excluded.body", i.Name, body)
	if err == nil {
		err = t.later("DELETE FROM identity_accounts WHERE identity = $1", i.Name)
	}
	for _, key := range keys {
		if err == nil {
			err = t.later("INSERT INTO identity_accounts (ref, identity) VALUES ($1, $2)", key[0], i.Name)
		}
	}
	return wrap(err, "putting identity %s", i.Name)
}

func (t *tx) DeleteIdentity(name string) error {
	t.known.of.clear()
	err := t.later("DELETE FROM identity_accounts WHERE identity = $1", name)
	if err == nil {
		err = t.later("DELETE FROM identities WHERE name = $1", name)
	}
	return wrap(err, "deleting identity %s", name)
}

func (t *tx) PutSignal(s staunch.Signal) (bool, error) {
	if err := need("signal", s.ID); err != nil {
		return false, err
	}
	s.V = version(s.V)
	body, err := store.Encode(s)
	if err != nil {
		return false, err
	}
	inserted, err := t.put("INSERT INTO signals (id, accused, at, body, rule) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO NOTHING",
		s.ID, s.Accused.Key(), int64(s.Time), body, store.CountedRule(s))
	if err != nil || !inserted {
		return false, wrap(err, "putting signal %s", s.ID)
	}
	above, err := t.Above([]staunch.Ref{s.Accused})
	if err != nil {
		return false, wrap(err, "putting signal %s", s.ID)
	}
	over := above[s.Accused]
	rows, keys, within := make([][]any, len(over)), make([][]any, len(over)), make([]string, len(over))
	for i, u := range over {
		within[i] = u.Ref.Key()
		keys[i] = []any{within[i]}
	}
	refs, err := t.columns(keys)
	if err != nil {
		return false, fmt.Errorf("putting signal %s: %w", s.ID, err)
	}
	brief := store.EncodeBrief(s)
	for i, ref := range refs {
		rows[i] = []any{ref, int64(s.Time), s.ID, brief}
	}
	if err := t.laterRows("INSERT INTO signals_within (within, at, id, brief) VALUES", rows); err != nil {
		return false, wrap(err, "putting signal %s", s.ID)
	}
	t.known.accused(s, within)
	return true, nil
}

func (t *tx) PutDecision(d staunch.Decision) (bool, error) {
	if err := need("decision", d.ID); err != nil {
		return false, err
	}
	d.V = version(d.V)
	body, err := store.Encode(d)
	if err != nil {
		return false, err
	}
	inserted, err := t.put("INSERT INTO decisions (id, at, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING", d.ID, int64(d.Made), body)
	if err != nil || !inserted {
		return false, wrap(err, "putting decision %s", d.ID)
	}
	for _, rule := range store.CountedRules(d) {
		err := t.later("INSERT INTO decision_rules (rule, decision, containment) VALUES ($1, $2, $3)", rule, d.ID, d.Containment)
		if err != nil {
			return false, fmt.Errorf("putting decision %s: %w", d.ID, err)
		}
	}
	return true, nil
}

func (t *tx) PutContainment(c staunch.Containment) error {
	if err := need("containment", c.ID); err != nil {
		return err
	}
	c.V = version(c.V)
	body, err := store.Encode(c)
	if err != nil {
		return err
	}
	unreleased := int64(0)
	want := openRefs(c)
	if c.Phase.Open() {
		unreleased = 1
	}
	conflict := fmt.Errorf("putting containment %s: %w: a generation above %d is stored", c.ID, staunch.ErrConflict, c.Generation)
	was, known := t.cases[c.ID]
	if known && was.generation > c.Generation {
		return conflict
	}
	var written int64
	err = t.laterCounting(&written, `INSERT INTO containments (id, at, unreleased, generation, body) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET at = excluded.at, unreleased = excluded.unreleased, generation = excluded.generation, body = excluded.body
		WHERE containments.generation <= excluded.generation`, c.ID, int64(c.Opened), unreleased, c.Generation, body)
	if err == nil && !known {
		was.refs, err = t.containmentRefs(c.ID)
		if err == nil && written == 0 { // known since the query
			return conflict
		}
	}
	if err == nil {
		err = t.putContainmentRefs(c.ID, was.refs, want)
	}
	if err != nil {
		return fmt.Errorf("putting containment %s: %w", c.ID, err)
	}
	t.note(c.ID, c.Generation, want)
	return nil
}

// stored is what the transaction knows of a stored case: what it has read it
// need not ask for again when it puts it.
type stored struct {
	generation int64
	refs       []string
}

func (t *tx) note(id string, generation int64, refs []string) {
	if t.cases == nil {
		t.cases = map[string]stored{}
	}
	t.cases[id] = stored{generation, refs}
}

// Containment reads a case and notes what stands with it.
func (t *tx) Containment(id string) (staunch.Containment, error) {
	c, err := t.reader.Containment(id)
	switch {
	case err == nil:
		t.note(id, c.Generation, openRefs(c))
	case t.failed == nil && errors.Is(err, staunch.ErrNotFound):
		t.note(id, 0, nil)
	}
	return c, err
}

// openRefs returns the keys under which a case is found while it is open.
func openRefs(c staunch.Containment) []string {
	if !c.Phase.Open() {
		return nil
	}
	var out []string
	for _, key := range keysOf(append([]staunch.Ref{c.Subject}, c.Names...)) {
		out = append(out, key[0].(string)) // keysOf makes strings
	}
	return out
}

func (t *tx) containmentRefs(id string) ([]string, error) {
	var have []string
	err := t.query("SELECT ref FROM containment_refs WHERE containment = $1", []any{id}, func(scan func(...any) error) error {
		var ref string
		if err := scan(&ref); err != nil {
			return err
		}
		have = append(have, ref)
		return nil
	})
	return have, err
}

func (t *tx) putContainmentRefs(id string, have, want []string) error {
	for _, ref := range have {
		if !slices.Contains(want, ref) {
			if err := t.later("DELETE FROM containment_refs WHERE ref = $1 AND containment = $2", ref, id); err != nil {
				return err
			}
		}
	}
	for _, ref := range want {
		if !slices.Contains(have, ref) {
			if err := t.later("INSERT INTO containment_refs (ref, containment) VALUES ($1, $2)", ref, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) PutPlan(p staunch.Plan) (bool, error) {
	if err := need("plan", p.ID); err != nil {
		return false, err
	}
	p.V = version(p.V)
	body, err := store.Encode(p)
	if err != nil {
		return false, err
	}
	inserted, err := t.put(`INSERT INTO plans (id, containment, stage, child, generation, body) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO NOTHING`, p.ID, p.Containment, int64(p.Stage), int64(p.Child), p.Generation, body)
	return inserted, wrap(err, "putting plan %s", p.ID)
}

func (t *tx) PutStep(s staunch.Step) error {
	if err := need("step", s.ID); err != nil {
		return err
	}
	s.V = version(s.V)
	body, err := store.Encode(s)
	if err != nil {
		return err
	}
	written, err := t.put(`INSERT INTO steps (id, plan, containment, seq, generation, body) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET plan = excluded.plan, containment = excluded.containment, seq = excluded.seq,
		generation = excluded.generation, body = excluded.body WHERE steps.generation <= excluded.generation`,
		s.ID, s.Plan, s.Containment, int64(s.Seq), s.Generation, body)
	if err != nil {
		return fmt.Errorf("putting step %s: %w", s.ID, err)
	}
	if !written {
		return fmt.Errorf("putting step %s: %w: a generation above %d is stored", s.ID, staunch.ErrConflict, s.Generation)
	}
	return nil
}

func (t *tx) PutHold(h staunch.Hold) (staunch.Hold, error) {
	if err := need("hold", h.ID); err != nil {
		return staunch.Hold{}, err
	}
	if h.Plane != staunch.PlaneGuard && h.Plane != staunch.PlanePlatform {
		return staunch.Hold{}, fmt.Errorf("%w: hold %s is on no plane: %q", staunch.ErrInvalid, h.ID, h.Plane)
	}
	target, active := h.Target.Key(), int64(0)
	// The turn comes first: on PostgreSQL everything that is read for a hold is
	// then read while no other transaction can be changing one.
	seq, err := t.engine.holdSeq(t)
	if err != nil {
		return staunch.Hold{}, fmt.Errorf("putting hold %s: %w", h.ID, err)
	}
	if h.Active() {
		active = 1
		var other string
		// The unique index says the same, but its error would end the
		// transaction.
		found, err := t.optional("the active hold", "SELECT id FROM holds WHERE target = $1 AND plane = $2 AND active = 1",
			[]any{target, string(h.Plane)}, &other)
		if err != nil {
			return staunch.Hold{}, fmt.Errorf("putting hold %s: %w", h.ID, err)
		}
		if found && other != h.ID {
			return staunch.Hold{}, fmt.Errorf("putting hold %s: %w: hold %s is active on %s", h.ID, staunch.ErrConflict, other, h.Target)
		}
	}
	h.V, h.Seq = version(h.V), seq
	body, err := store.Encode(h)
	if err != nil {
		return staunch.Hold{}, err
	}
	err = t.later(`INSERT INTO holds (id, seq, plane, target, active, body) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, plane = excluded.plane, target = excluded.target,
		active = excluded.active, body = excluded.body`, h.ID, h.Seq, string(h.Plane), target, active, body)
	for _, c := range h.Claims {
		if err == nil {
			err = t.later("INSERT INTO hold_claims (containment, hold) VALUES ($1, $2) ON CONFLICT (containment, hold) DO NOTHING", c, h.ID)
		}
	}
	if err != nil {
		return staunch.Hold{}, fmt.Errorf("putting hold %s: %w", h.ID, err)
	}
	t.change.Holds = true
	return h, nil
}

func (t *tx) PutTimer(m store.Timer) error {
	if err := need("timer", m.ID); err != nil {
		return err
	}
	t.change.Work = true
	err := t.later(`INSERT INTO timers (id, due, kind, about) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET due = excluded.due, kind = excluded.kind, about = excluded.about`,
		m.ID, int64(m.Due), m.Kind, m.About)
	return wrap(err, "putting timer %s", m.ID)
}

func (t *tx) DeleteTimer(id string) error {
	err := t.later("DELETE FROM timers WHERE id = $1", id)
	return wrap(err, "deleting timer %s", id)
}

func (t *tx) PutCursor(name, value string) error {
	t.known.cursors.drop(name)
	err := t.later("INSERT INTO cursors (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
		name, []byte(value))
	return wrap(err, "putting cursor %s", name)
}

func (t *tx) Reserve(name string, limit, keep int, useKept bool) (bool, error) {
	if err := need("cap", name); err != nil {
		return false, err
	}
	if limit < 0 || keep < 0 {
		return false, fmt.Errorf("%w: cap %s with limit %d, kept %d", staunch.ErrInvalid, name, limit, keep)
	}
	places := limit
	if !useKept {
		places = max(limit-keep, 0)
	}
	taken, err := t.put("UPDATE caps SET used = used + 1, lim = $2 WHERE name = $1 AND used < $3", name, int64(limit), int64(places))
	if err != nil || taken {
		return taken, wrap(err, "reserving %s", name)
	}
	// Either it is not there yet, or it has no place left.
	first := int64(min(places, 1))
	inserted, err := t.put("INSERT INTO caps (name, used, lim) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING", name, first, int64(limit))
	if err == nil && !inserted {
		err = t.later("UPDATE caps SET lim = $2 WHERE name = $1 AND lim <> $2", name, int64(limit))
	}
	return inserted && first == 1 && err == nil, wrap(err, "reserving %s", name)
}

func (t *tx) GiveBack(name string) error {
	err := t.later("UPDATE caps SET used = used - 1 WHERE name = $1 AND used > 0", name)
	return wrap(err, "giving back %s", name)
}

func (t *tx) PutBreaker(b store.Breaker) error {
	if err := need("breaker", b.Scope); err != nil {
		return err
	}
	body, err := store.Encode(b)
	if err != nil {
		return err
	}
	err = t.later("INSERT INTO breakers (scope, body) VALUES ($1, $2) ON CONFLICT (scope) DO UPDATE SET body = excluded.body", b.Scope, body)
	return wrap(err, "putting breaker %s", b.Scope)
}

// PutToken inserts or replaces by id. A hash that another token has is a
// staunch.ErrConflict.
func (t *tx) PutToken(k store.Token) error {
	if err := need("token", k.ID); err != nil {
		return err
	}
	if k.Hash == "" {
		return fmt.Errorf("%w: token %s without hash", staunch.ErrInvalid, k.ID)
	}
	var other string
	found, err := t.optional("a token", "SELECT id FROM tokens WHERE hash = $1", []any{k.Hash}, &other)
	if err != nil {
		return fmt.Errorf("putting token %s: %w", k.ID, err)
	}
	if found && other != k.ID {
		return fmt.Errorf("putting token %s: %w: token %s has its hash", k.ID, staunch.ErrConflict, other)
	}
	body, err := store.Encode(k)
	if err != nil {
		return err
	}
	err = t.later("INSERT INTO tokens (id, hash, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET hash = excluded.hash, body = excluded.body",
		k.ID, k.Hash, body)
	return wrap(err, "putting token %s", k.ID)
}

func (t *tx) DeleteToken(id string) error {
	err := t.later("DELETE FROM tokens WHERE id = $1", id)
	return wrap(err, "deleting token %s", id)
}

func (t *tx) PutBundle(b store.Bundle, activate bool) error {
	if err := need("bundle", b.Hash); err != nil {
		return err
	}
	err := t.later("INSERT INTO bundles (hash, made, body) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING", b.Hash, int64(b.Made), nonNil(b.Body))
	if err == nil && activate {
		t.change.Holds = true // other nodes are to look
		if err := t.lockBundle(); err != nil {
			return fmt.Errorf("activating bundle %s: %w", b.Hash, err)
		}
		// The one before was in use until now, this one is.
		err = t.later("UPDATE bundles SET used = $2 WHERE hash = (SELECT hash FROM active_bundle WHERE one = 1) AND hash <> $1", b.Hash, int64(b.Made))
		if err == nil {
			err = t.later("UPDATE bundles SET used = 0 WHERE hash = $1 AND used <> 0", b.Hash)
		}
		if err != nil {
			return fmt.Errorf("activating bundle %s: %w", b.Hash, err)
		}
		err = t.later("INSERT INTO active_bundle (one, hash) VALUES (1, $1) ON CONFLICT (one) DO UPDATE SET hash = excluded.hash", b.Hash)
	}
	return wrap(err, "putting bundle %s", b.Hash)
}

// nonNil keeps an empty value from becoming NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// PutSealed keeps the first value of an id: a pre-image that was read again
// after the effect must not replace the one from before it.
func (t *tx) PutSealed(id string, blob []byte) error {
	if err := need("sealed value", id); err != nil {
		return err
	}
	err := t.later("INSERT INTO sealed (id, blob) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", id, nonNil(blob))
	return wrap(err, "putting sealed value %s", id)
}

// PutSecret keeps the first value of a ref, and the later of the times.
func (t *tx) PutSecret(ref staunch.Ref, until staunch.Time, blob []byte) error {
	if err := ref.Validate(); err != nil {
		return fmt.Errorf("putting a secret: %w", err)
	}
	err := t.later(`INSERT INTO secrets (ref, until, blob) VALUES ($1, $2, $3)
		ON CONFLICT (ref) DO UPDATE SET until = excluded.until WHERE secrets.until <> 0 AND (excluded.until = 0 OR excluded.until > secrets.until)`,
		ref.Key(), int64(until), nonNil(blob))
	return wrap(err, "putting the secret of %s", ref)
}

// Shred deletes. SQLite overwrites what is deleted and empties its write-ahead
// log right after the commit, or, while a reader is in the way, after a later
// one. PostgreSQL drops the row's bytes at its next vacuum; what stands there
// till then is sealed.
func (t *tx) Shred(ids ...string) error {
	for _, id := range ids {
		gone, err := t.put("DELETE FROM sealed WHERE id = $1", id)
		if err != nil {
			return fmt.Errorf("shredding %s: %w", id, err)
		}
		t.shreds = t.shreds || gone
	}
	return nil
}

// ShredSecret deletes as Shred does.
func (t *tx) ShredSecret(ref staunch.Ref) error {
	gone, err := t.put("DELETE FROM secrets WHERE ref = $1", ref.Key())
	if err != nil {
		return fmt.Errorf("shredding the secret of %s: %w", ref, err)
	}
	t.shreds = t.shreds || gone
	return nil
}

// ShredExpired deletes as Shred does.
func (t *tx) ShredExpired(now staunch.Time, limit int) (int, error) {
	refs, err := t.expired(now, min(max(limit, 0), store.MaxPage))
	if err != nil {
		return 0, fmt.Errorf("looking for secrets that ran out: %w", err)
	}
	for _, ref := range refs {
		gone, err := t.put("DELETE FROM secrets WHERE ref = $1", ref)
		if err != nil {
			return 0, fmt.Errorf("shredding a secret that ran out: %w", err)
		}
		t.shreds = t.shreds || gone
	}
	return len(refs), nil
}

func (t *tx) AppendRecord(rec staunch.Record) (staunch.Record, error) {
	if t.failed != nil {
		return staunch.Record{}, fmt.Errorf("appending a record: %w", t.failed)
	}
	if t.head == nil {
		if err := t.takeLane(); err != nil {
			return staunch.Record{}, fmt.Errorf("appending a record: %w", err)
		}
	}
	rec.V, rec.Lane, rec.Seq, rec.Prev, rec.Hash = staunch.Version, t.head.Lane, t.head.Seq+1, t.head.Hash, ""
	hash, err := t.chain.Hash(rec.Prev, rec)
	if err != nil {
		return staunch.Record{}, fmt.Errorf("hashing record %d of lane %s: %w", rec.Seq, rec.Lane, err)
	}
	rec.Hash = hash
	err = t.later(`INSERT INTO records (lane, seq, v, at, kind, actor, about, body, prev, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		rec.Lane, rec.Seq, int64(rec.V), int64(rec.Time), string(rec.Kind), rec.Actor, rec.About, nonNil(rec.Body), rec.Prev, rec.Hash)
	if err != nil {
		return staunch.Record{}, fmt.Errorf("appending record %d of lane %s: %w", rec.Seq, rec.Lane, err)
	}
	t.head.Seq, t.head.Hash, t.head.Time, t.dirty = rec.Seq, rec.Hash, rec.Time, true
	return rec, nil
}

// takeLane gets the lane that the transaction appends to.
func (t *tx) takeLane() error {
	lane, head, err := t.engine.lane(t)
	if err != nil {
		return err
	}
	if head == nil {
		head = &store.Head{Lane: lane}
		_, err := t.optional("the head of lane "+lane, "SELECT seq, hash FROM lanes WHERE lane = $1", []any{lane}, &head.Seq, &head.Hash)
		if err != nil {
			return err
		}
	}
	t.head, t.headSeq = head, head.Seq
	return nil
}

// writeHead moves the lane's head on, on the condition that it stands where it
// was read. Should it not, because another process uses this node's name, then
// (lane, seq) of the records is taken as well, and the transaction fails.
func (t *tx) writeHead() error {
	if !t.dirty {
		return nil
	}
	h := t.head
	err := t.later(`INSERT INTO lanes (lane, seq, hash, at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (lane) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, at = excluded.at WHERE lanes.seq = $5`,
		h.Lane, h.Seq, h.Hash, int64(h.Time), t.headSeq)
	if err != nil {
		return fmt.Errorf("moving the head of lane %s: %w", h.Lane, err)
	}
	t.dirty, t.headSeq = false, h.Seq
	return nil
}

// PutNotice inserts or replaces by id.
func (t *tx) PutNotice(n store.Notice) error {
	if err := need("notice", n.ID); err != nil {
		return err
	}
	body, err := store.Encode(n)
	if err != nil {
		return err
	}
	t.change.Work = true
	err = t.later(`INSERT INTO notices (id, due, done, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET due = excluded.due, done = excluded.done, body = excluded.body`,
		n.ID, int64(n.Due), int64(n.Done), body)
	return wrap(err, "putting notice %s", n.ID)
}

// PutParked keeps the first of an id.
func (t *tx) PutParked(p store.Parked) error {
	if err := need("parked record", p.ID); err != nil {
		return err
	}
	body, err := store.Encode(p)
	if err != nil {
		return err
	}
	err = t.later("INSERT INTO parked (id, body, raw) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING", p.ID, body, nonNil(p.Raw))
	return wrap(err, "parking record %s", p.ID)
}

func (t *tx) DeleteParked(id string) error {
	err := t.later("DELETE FROM parked WHERE id = $1", id)
	return wrap(err, "deleting parked record %s", id)
}

func (t *tx) Lease(name, owner string, ttl time.Duration) (int64, bool, error) {
	if name == "" || owner == "" || ttl <= 0 {
		return 0, false, fmt.Errorf("%w: lease %q for owner %q over %v", staunch.ErrInvalid, name, owner, ttl)
	}
	now, err := t.engine.now(&t.reader)
	if err != nil {
		return 0, false, fmt.Errorf("taking lease %s: %w", name, err)
	}
	var generation int64
	t.wrote = true
	ok, err := t.optional("lease "+name, `INSERT INTO leases (name, owner, generation, until) VALUES ($1, $2, 1, $3)
		ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until,
		generation = leases.generation + CASE WHEN leases.owner = excluded.owner THEN 0 ELSE 1 END
		WHERE leases.owner = excluded.owner OR leases.until <= $4
		RETURNING generation`, []any{name, owner, int64(now.Add(ttl)), int64(now)}, &generation)
	if err != nil {
		return 0, false, fmt.Errorf("taking lease %s: %w", name, err)
	}
	if ok {
		return generation, true, nil
	}
	var held string
	err = t.one("lease "+name, "SELECT generation, owner FROM leases WHERE name = $1", []any{name}, &generation, &held)
	if err != nil || !store.Succeeds(owner, held) {
		return generation, false, err
	}
	generation++
	err = t.later("UPDATE leases SET owner = $1, generation = $2, until = $3 WHERE name = $4", owner, generation, int64(now.Add(ttl)), name)
	return generation, err == nil, wrap(err, "taking lease %s", name)
}

// ReleaseLease lets others take the lease at once. Where owner does not hold
// it, nothing happens.
func (t *tx) ReleaseLease(name, owner string) error {
	// An owner of "" makes the generation rise whoever takes it next.
	err := t.later("UPDATE leases SET owner = '', until = 0 WHERE name = $1 AND owner = $2", name, owner)
	return wrap(err, "releasing lease %s", name)
}
