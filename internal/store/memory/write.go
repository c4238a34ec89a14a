package memory

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// tx implements store.Tx.
type tx struct {
	reader
	chain    store.Chainer
	lane     string
	onCommit []func()
	wrote    bool
	bundle   string // required to be the active one
	values   bool   // see Options
}

var _ store.Tx = (*tx)(nil)

func (t *tx) OnCommit(fn func()) {
	if t.failed == nil {
		t.onCommit = append(t.onCommit, fn)
	}
}

// set writes one row, of bytes.
func (t *tx) set(body []byte, parts ...string) error {
	if body == nil {
		return t.setRow(nothing, parts...)
	}
	if err := store.CheckBody(body); err != nil {
		return err
	}
	return t.setRow(&row{body: body}, parts...)
}

func (t *tx) setRow(w *row, parts ...string) error {
	if err := t.may(parts...); err != nil {
		return err
	}
	t.wrote = true
	t.rows.Set(key(parts...), w)
	return nil
}

func (t *tx) del(parts ...string) error {
	if err := t.may(parts...); err != nil {
		return err
	}
	t.wrote = true
	t.rows.Delete(key(parts...))
	return nil
}

func (t *tx) has(parts ...string) bool {
	_, ok := t.rows.Get(key(parts...))
	return ok
}

// put writes one row, of a value.
func put[T any](t *tx, v T, parts ...string) error {
	w, err := rowOf(t, v)
	if err != nil {
		return err
	}
	return t.setRow(w, parts...)
}

func need(what, id string) error {
	if id == "" {
		return fmt.Errorf("%w: a %s without id", staunch.ErrInvalid, what)
	}
	return nil
}

func version(v *int) {
	if *v == 0 {
		*v = staunch.Version
	}
}

// first puts what is not there yet, with its indexes, which get its row.
func first[T any](t *tx, what, table, id string, v T, index func(w *row) error) (bool, error) {
	if err := need(what, id); err != nil {
		return false, err
	}
	if err := t.may(id); err != nil {
		return false, fmt.Errorf("putting %s %s: %w", what, id, err)
	}
	w, err := rowOf(t, v)
	if err != nil {
		return false, err
	}
	if t.has(table, id) {
		return false, nil
	}
	if err := t.setRow(w, table, id); err != nil {
		return false, fmt.Errorf("putting %s %s: %w", what, id, err)
	}
	if index == nil {
		return true, nil
	}
	return true, index(w)
}

func (t *tx) PutEvent(e staunch.Event) (bool, error) {
	version(&e.V)
	return first(t, "event", "event", e.ID, e, func(*row) error {
		for _, ref := range keys(e.Actor) {
			if err := t.set(nil, "event of", ref, at(e.Time), e.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) PutFact(f staunch.Fact) (bool, error) {
	version(&f.V)
	return first(t, "fact", "fact", f.ID, f, func(*row) error {
		var err error
		for _, l := range f.Links() {
			err = errors.Join(err,
				put(t, l, "link from", l.From.Key(), string(l.Rel), at(l.Since), l.Fact),
				put(t, l, "link to", l.To.Key(), string(l.Rel), at(l.Since), l.Fact))
		}
		for _, l := range f.Links() {
			if store.Rises(l) {
				err = errors.Join(err, t.raise(l.From, l.To))
				if l.Rel == staunch.RelSame {
					err = errors.Join(err, t.raise(l.To, l.From))
				}
			}
		}
		return err
	})
}

// raise has the signals within lower found within upper.
func (t *tx) raise(lower, upper staunch.Ref) error {
	var places [][]string
	err := t.back(key("signal of", lower.Key()), "", func(rest string, _ *row) bool {
		places = append(places, strings.Split(rest, "\x00"))
		return len(places) < store.MostRisen
	})
	if err != nil || len(places) == 0 {
		return err
	}
	above, err := t.Above([]staunch.Ref{upper})
	if err != nil {
		return err
	}
	for _, u := range above[upper] {
		for _, p := range places {
			if err := t.set(nil, append([]string{"signal of", u.Ref.Key()}, p...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) PutIdentity(i staunch.Identity) error {
	if err := need("identity", i.Name); err != nil {
		return err
	}
	refs := keys(i.Accounts)
	for _, ref := range refs {
		if other, ok := t.rows.Get(key("identity of", ref)); ok && string(other.body) != i.Name {
			return fmt.Errorf("putting identity %s: %w: identity %s has one of its accounts", i.Name, staunch.ErrConflict, other.body)
		}
	}
	version(&i.V)
	w, err := rowOf(t, i)
	if err != nil {
		return err
	}
	if err := t.DeleteIdentity(i.Name); err != nil {
		return err
	}
	for _, ref := range refs {
		if err := t.set([]byte(i.Name), "identity of", ref); err != nil {
			return err
		}
	}
	return t.setRow(w, "identity", i.Name)
}

func (t *tx) DeleteIdentity(name string) error {
	var refs []string
	if err := t.scan("identity of", "", func(ref string, w *row) bool {
		if string(w.body) == name {
			refs = append(refs, ref)
		}
		return true
	}); err != nil {
		return err
	}
	for _, ref := range refs {
		if err := t.del("identity of", ref); err != nil {
			return err
		}
	}
	return t.del("identity", name)
}

func (t *tx) PutSignal(s staunch.Signal) (bool, error) {
	version(&s.V)
	return first(t, "signal", "signal", s.ID, s, func(*row) error {
		above, err := t.Above([]staunch.Ref{s.Accused})
		if err != nil {
			return err
		}
		for _, u := range above[s.Accused] {
			err = errors.Join(err, t.set(nil, "signal of", u.Ref.Key(), at(s.Time), s.ID))
		}
		if rule := store.CountedRule(s); rule != "" {
			err = errors.Join(err, t.set(nil, "rule signal", rule, at(s.Time), s.ID))
		}
		return errors.Join(err, t.set(nil, "signal at", at(s.Time), s.ID))
	})
}

func (t *tx) PutDecision(d staunch.Decision) (bool, error) {
	version(&d.V)
	return first(t, "decision", "decision", d.ID, d, func(*row) error {
		err := t.set(nil, "decision at", at(d.Made), d.ID)
		for _, rule := range store.CountedRules(d) {
			err = errors.Join(err, t.set([]byte(d.Containment), "rule decision", rule, d.ID))
			if d.Containment != "" {
				err = errors.Join(err, t.set(nil, "rule of", d.Containment, rule))
			}
		}
		return err
	})
}

func (t *tx) PutContainment(c staunch.Containment) error {
	if err := need("containment", c.ID); err != nil {
		return err
	}
	version(&c.V)
	was, err := t.Containment(c.ID)
	switch {
	case errors.Is(err, staunch.ErrNotFound):
	case err != nil:
		return err
	case was.Generation > c.Generation:
		return fmt.Errorf("putting containment %s: %w: a generation above %d is stored", c.ID, staunch.ErrConflict, c.Generation)
	default:
		err := t.del("containment at", at(was.Opened), c.ID)
		for _, ref := range openRefs(was) {
			err = errors.Join(err, t.del("containment of", ref, c.ID))
		}
		if err != nil {
			return err
		}
	}
	err = errors.Join(put(t, c, "containment", c.ID), t.set(nil, "containment at", at(c.Opened), c.ID))
	for _, ref := range openRefs(c) {
		err = errors.Join(err, t.set(nil, "containment of", ref, c.ID))
	}
	return err
}

// openRefs are the keys under which a case is found while it is open.
func openRefs(c staunch.Containment) []string {
	if !c.Phase.Open() {
		return nil
	}
	return keys(append([]staunch.Ref{c.Subject}, c.Names...))
}

func (t *tx) PutPlan(p staunch.Plan) (bool, error) {
	version(&p.V)
	return first(t, "plan", "plan", p.ID, p, func(w *row) error { return t.setRow(w, "plan of", p.Containment, p.ID) })
}

func (t *tx) PutStep(s staunch.Step) error {
	if err := need("step", s.ID); err != nil {
		return err
	}
	version(&s.V)
	was, err := t.Step(s.ID)
	switch {
	case errors.Is(err, staunch.ErrNotFound):
	case err != nil:
		return err
	case was.Generation > s.Generation:
		return fmt.Errorf("putting step %s: %w: a generation above %d is stored", s.ID, staunch.ErrConflict, s.Generation)
	case was.Containment != s.Containment:
		if err := t.del("step of", was.Containment, s.ID); err != nil {
			return err
		}
	}
	w, err := rowOf(t, s)
	if err != nil {
		return err
	}
	return errors.Join(t.setRow(w, "step", s.ID), t.setRow(w, "step of", s.Containment, s.ID))
}

func (t *tx) PutHold(h staunch.Hold) (staunch.Hold, error) {
	if err := need("hold", h.ID); err != nil {
		return staunch.Hold{}, err
	}
	if h.Plane != staunch.PlaneGuard && h.Plane != staunch.PlanePlatform {
		return staunch.Hold{}, fmt.Errorf("%w: hold %s is on no plane: %q", staunch.ErrInvalid, h.ID, h.Plane)
	}
	seq, err := t.HoldSeq()
	if err != nil {
		return staunch.Hold{}, err
	}
	other, err := t.ActiveHold(h.Plane, h.Target)
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return staunch.Hold{}, err
	}
	if h.Active() && err == nil && other.ID != h.ID {
		return staunch.Hold{}, fmt.Errorf("putting hold %s: %w: hold %s is active on %s", h.ID, staunch.ErrConflict, other.ID, h.Target)
	}
	was, err := t.Hold(h.ID)
	switch {
	case err == nil:
		err = t.del("hold at", string(was.Plane), number(was.Seq))
		if was.Active() {
			err = errors.Join(err, t.del("hold on", string(was.Plane), was.Target.Key()))
		}
	case errors.Is(err, staunch.ErrNotFound):
		err = nil
	}
	if err != nil {
		return staunch.Hold{}, err
	}
	version(&h.V)
	h.Seq = seq + 1
	err = errors.Join(t.set([]byte(strconv.FormatInt(h.Seq, 10)), "hold seq"), put(t, h, "hold", h.ID),
		t.set([]byte(h.ID), "hold at", string(h.Plane), number(h.Seq)))
	if h.Active() {
		err = errors.Join(err, t.set([]byte(h.ID), "hold on", string(h.Plane), h.Target.Key()))
	}
	for _, c := range h.Claims {
		err = errors.Join(err, t.set([]byte(h.ID), "hold of", c, h.ID))
	}
	if err != nil {
		return staunch.Hold{}, err
	}
	return h, nil
}

func (t *tx) PutTimer(m store.Timer) error {
	if err := need("timer", m.ID); err != nil {
		return err
	}
	if err := t.DeleteTimer(m.ID); err != nil {
		return err
	}
	w, err := rowOf(t, m)
	if err != nil {
		return err
	}
	return errors.Join(t.setRow(w, "timer", m.ID), t.setRow(w, "timer at", at(m.Due), m.ID))
}

func (t *tx) DeleteTimer(id string) error {
	m, err := one[store.Timer](&t.reader, "timer", "timer", id)
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(t.del("timer", id), t.del("timer at", at(m.Due), id))
}

func (t *tx) PutCursor(name, value string) error { return t.set([]byte(value), "cursor", name) }

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
	c, err := t.Cap(name)
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return false, err
	}
	c.Name, c.Limit = name, limit
	ok := c.Used < places
	if ok {
		c.Used++
	}
	return ok, put(t, c, "cap", name)
}

func (t *tx) GiveBack(name string) error {
	c, err := t.Cap(name)
	if errors.Is(err, staunch.ErrNotFound) || err == nil && c.Used == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	c.Used--
	return put(t, c, "cap", name)
}

func (t *tx) DeleteCap(name string) error { return t.del("cap", name) }

func (t *tx) PutBreaker(b store.Breaker) error {
	if err := need("breaker", b.Scope); err != nil {
		return err
	}
	return put(t, b, "breaker", b.Scope)
}

func (t *tx) PutToken(k store.Token) error {
	if err := need("token", k.ID); err != nil {
		return err
	}
	if k.Hash == "" {
		return fmt.Errorf("%w: token %s without hash", staunch.ErrInvalid, k.ID)
	}
	if other, ok := t.rows.Get(key("token by", k.Hash)); ok && string(other.body) != k.ID {
		return fmt.Errorf("putting token %s: %w: token %s has its hash", k.ID, staunch.ErrConflict, other.body)
	}
	if err := t.DeleteToken(k.ID); err != nil {
		return err
	}
	return errors.Join(put(t, token{k, k.Hash}, "token", k.ID), t.set([]byte(k.ID), "token by", k.Hash))
}

func (t *tx) DeleteToken(id string) error {
	k, err := t.Token(id)
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(t.del("token", id), t.del("token by", k.Hash))
}

func (t *tx) PutBundle(b store.Bundle, activate bool) error {
	b.Body = nonNil(b.Body)
	if _, err := first(t, "bundle", "bundle", b.Hash, b, nil); err != nil || !activate {
		return err
	}
	before, err := t.ActiveHash()
	switch {
	case err == nil && before != b.Hash:
		err = t.set([]byte(strconv.FormatInt(int64(b.Made), 10)), "bundle used", before)
	case errors.Is(err, staunch.ErrNotFound):
		err = nil
	}
	return errors.Join(err, t.del("bundle used", b.Hash), t.set([]byte(b.Hash), "active bundle"))
}

func (t *tx) RequireBundle(hash string) error {
	if t.bundle != "" && t.bundle != hash {
		return fmt.Errorf("%w: the transaction is for bundle %s, not %s", store.ErrBundle, t.bundle, hash)
	}
	t.bundle = hash // nobody else writes until the transaction is over
	active, err := t.ActiveHash()
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	if err == nil && active != hash {
		err = fmt.Errorf("%w: the transaction is for bundle %s, not %s", store.ErrBundle, hash, active)
	}
	return err
}

func (t *tx) RenewGuard(g store.Guard, ttl time.Duration, first bool) (store.Guard, error) {
	if g.Node == "" || ttl <= 0 {
		return g, fmt.Errorf("%w: guard %q over %v", staunch.ErrInvalid, g.Node, ttl)
	}
	now := staunch.TimeOf(t.clock.Now())
	if first || g.Since == 0 {
		g.Since = now
	}
	g.Renewed, g.Until = now, now.Add(ttl)
	return g, put(t, g, "guard", g.Node)
}

func (t *tx) DeleteGuard(node string) error { return t.del("guard", node) }

func (t *tx) ReplaceSealed(kind store.SealedKind, k string, old, blob []byte) (bool, error) {
	table, err := sealedTable(kind)
	if err != nil {
		return false, err
	}
	w, err := t.get("a sealed value", table, k)
	if errors.Is(err, staunch.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	have, err := blobOf(kind, w)
	if err != nil || !bytes.Equal(have, old) {
		return false, err
	}
	switch kind {
	case store.SealedSecret:
		s, err := decode[secret](w)
		if err != nil {
			return false, err
		}
		s.Blob = nonNil(blob)
		return true, put(t, s, table, k)
	case store.SealedParked:
		p, err := decode[parked](w)
		if err != nil {
			return false, err
		}
		p.Raw = nonNil(blob)
		return true, put(t, p, table, k)
	default:
		return true, t.set(slices.Clone(nonNil(blob)), table, k)
	}
}

func (t *tx) PutSealed(id string, blob []byte) error {
	if err := need("sealed value", id); err != nil {
		return err
	}
	if err := t.may(id); err != nil || t.has("sealed", id) {
		return err
	}
	return t.set(slices.Clone(nonNil(blob)), "sealed", id)
}

func (t *tx) PutSecret(ref staunch.Ref, until staunch.Time, blob []byte) error {
	if err := ref.Validate(); err != nil {
		return fmt.Errorf("putting a secret: %w", err)
	}
	s, err := one[secret](&t.reader, "a secret", "secret", ref.Key())
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		s = secret{Until: until, Blob: nonNil(blob)}
	case err != nil:
		return err
	case s.Until != 0 && (until == 0 || until > s.Until):
		s.Until = until
	}
	return put(t, s, "secret", ref.Key())
}

func (t *tx) Shred(ids ...string) error {
	for _, id := range ids {
		if err := t.del("sealed", id); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) ShredSecret(ref staunch.Ref) error { return t.del("secret", ref.Key()) }

func (t *tx) ShredExpired(now staunch.Time, limit int) (int, error) {
	var refs []string
	var bad error
	limit = min(max(limit, 0), store.MaxPage)
	if err := t.scan("secret", "", func(ref string, w *row) bool {
		var s *secret
		if s, bad = peek[secret](w); bad != nil {
			return false
		}
		if s.Until > 0 && s.Until <= now && len(refs) < limit {
			refs = append(refs, ref)
		}
		return true
	}); err != nil || bad != nil {
		return 0, errors.Join(err, bad)
	}
	for _, ref := range refs {
		if err := t.del("secret", ref); err != nil {
			return 0, err
		}
	}
	return len(refs), nil
}

func (t *tx) AppendRecord(rec staunch.Record) (staunch.Record, error) {
	head, err := one[store.Head](&t.reader, "a lane", "lane", t.lane)
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return staunch.Record{}, fmt.Errorf("appending a record: %w", err)
	}
	rec.V, rec.Lane, rec.Seq, rec.Prev, rec.Hash = staunch.Version, t.lane, head.Seq+1, head.Hash, ""
	if rec.Hash, err = t.chain.Hash(rec.Prev, rec); err != nil {
		return staunch.Record{}, fmt.Errorf("hashing record %d of lane %s: %w", rec.Seq, rec.Lane, err)
	}
	w, err := rowOf(t, rec)
	if err != nil {
		return staunch.Record{}, err
	}
	err = errors.Join(t.setRow(w, "record", rec.Lane, number(rec.Seq)),
		put(t, store.Head{Lane: rec.Lane, Seq: rec.Seq, Hash: rec.Hash, Time: rec.Time}, "lane", rec.Lane))
	if rec.About != "" {
		err = errors.Join(err, t.setRow(w, "record about", rec.About, at(rec.Time), rec.Lane, number(rec.Seq)))
	}
	return rec, err
}

func (t *tx) PutNotice(n store.Notice) error {
	if err := need("notice", n.ID); err != nil {
		return err
	}
	return put(t, n, "notice", n.ID)
}

func (t *tx) PutParked(p store.Parked) error {
	_, err := first(t, "parked record", "parked", p.ID, parked{p, nonNil(p.Raw)}, nil)
	return err
}

func (t *tx) DeleteParked(id string) error { return t.del("parked", id) }

func contributionKey(c store.Contribution) []string {
	return []string{"contribution", c.Series, at(c.At), c.Event, number(int64(c.Base))}
}

func (t *tx) PutContributions(list []store.Contribution) error {
	for _, c := range list {
		if err := errors.Join(need("contribution", c.Series), need("contribution", c.Event), store.CheckKey(c.Value)); err != nil {
			return err
		}
	}
	for _, c := range list {
		k := contributionKey(c)
		if t.has(k...) {
			continue
		}
		c.Body = nonNil(c.Body)
		if err := put(t, c, k...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) SettleContributions(list []store.Contribution) error {
	for _, c := range list {
		k := contributionKey(c)
		have, err := one[store.Contribution](&t.reader, "a contribution", k...)
		if errors.Is(err, staunch.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		have.Due = 0
		if err := put(t, have, k...); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) AddSighting(s store.Sighting) error {
	if err := need("sighting", s.Series); err != nil {
		return err
	}
	have, err := one[store.Sighting](&t.reader, "a sighting", "sighting", s.Series, s.Item)
	switch {
	case err == nil:
		s.First, s.Last, s.Until = min(s.First, have.First), max(s.Last, have.Last), max(s.Until, have.Until)
		s.Count += have.Count
	case !errors.Is(err, staunch.ErrNotFound):
		return err
	}
	return put(t, s, "sighting", s.Series, s.Item)
}

func (t *tx) PruneCorrelations(now staunch.Time, limit int) (int, error) {
	contributions, err := all[store.Contribution](&t.reader, "contribution")
	if err != nil {
		return 0, err
	}
	sightings, err := all[store.Sighting](&t.reader, "sighting")
	if err != nil {
		return 0, err
	}
	contributions = slices.DeleteFunc(contributions, func(c store.Contribution) bool { return c.Until >= now })
	slices.SortStableFunc(contributions, func(a, b store.Contribution) int { return int(a.Until - b.Until) })
	sightings = slices.DeleteFunc(sightings, func(s store.Sighting) bool { return s.Until >= now })
	slices.SortStableFunc(sightings, func(a, b store.Sighting) int { return int(a.Until - b.Until) })
	n := 0
	for _, c := range contributions[:min(limitOf(limit), len(contributions))] {
		if err := t.del(contributionKey(c)...); err != nil {
			return 0, err
		}
		n++
	}
	for _, s := range sightings[:min(limitOf(limit), len(sightings))] {
		if err := t.del("sighting", s.Series, s.Item); err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// lease is a row of leases.
type lease struct {
	Owner      string       `json:"owner"`
	Generation int64        `json:"generation"`
	Until      staunch.Time `json:"until"`
}

func (t *tx) Lease(name, owner string, ttl time.Duration) (int64, bool, error) {
	if name == "" || owner == "" || ttl <= 0 {
		return 0, false, fmt.Errorf("%w: lease %q for owner %q over %v", staunch.ErrInvalid, name, owner, ttl)
	}
	now := staunch.TimeOf(t.clock.Now())
	l, err := one[lease](&t.reader, "lease "+name, "lease", name)
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		l = lease{Generation: 1}
	case err != nil:
		return 0, false, err
	case l.Owner != owner && l.Until > now && !store.Succeeds(owner, l.Owner):
		return l.Generation, false, nil
	case l.Owner != owner:
		l.Generation++
	}
	l.Owner, l.Until = owner, now.Add(ttl)
	return l.Generation, true, put(t, l, "lease", name)
}

func (t *tx) ReleaseLease(name, owner string) error {
	l, err := one[lease](&t.reader, "lease "+name, "lease", name)
	if errors.Is(err, staunch.ErrNotFound) || err == nil && l.Owner != owner {
		return nil
	}
	if err != nil {
		return err
	}
	l.Owner, l.Until = "", 0
	return put(t, l, "lease", name)
}
