package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

var errOver = errors.New("the transaction is over")

// reader implements store.Reader. It is not safe for concurrent use.
type reader struct {
	ctx   context.Context
	rows  rows
	clock staunch.Clock
	// failed is the first error that ends the transaction.
	failed error
}

var _ store.Reader = (*reader)(nil)

func (r *reader) end() {
	if r.failed == nil {
		r.failed = errOver
	}
}

// Keys of rows are parts with a NUL between them; the first names the table.
func key(parts ...string) string { return strings.Join(parts, "\x00") }

// at is a time as a part of a key, in the order of time.
func at(t staunch.Time) string { return number(int64(t)) }

func number(n int64) string {
	const digits = 16
	s := strconv.FormatUint(uint64(n)^(1<<63), 16)
	return strings.Repeat("0", digits-len(s)) + s
}

// may says whether the transaction may go on, with these parts of keys.
func (r *reader) may(parts ...string) error {
	if r.failed != nil {
		return r.failed
	}
	if err := r.ctx.Err(); err != nil {
		r.failed = err
		return err
	}
	for _, p := range parts {
		if err := store.CheckKey(p); err != nil {
			return err
		}
	}
	return nil
}

// get reads one row.
func (r *reader) get(what string, parts ...string) (*row, error) {
	if err := r.may(parts...); err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	w, ok := r.rows.Get(key(parts...))
	if !ok {
		return nil, fmt.Errorf("%s: %w", what, staunch.ErrNotFound)
	}
	return w, nil
}

// text reads one row whose body is text.
func (r *reader) text(what string, parts ...string) (string, error) {
	w, err := r.get(what, parts...)
	if err != nil {
		return "", err
	}
	return string(w.body), nil
}

func one[T any](r *reader, what string, parts ...string) (T, error) {
	w, err := r.get(what, parts...)
	if err != nil {
		var none T
		return none, err
	}
	return decode[T](w)
}

// scan calls fn for the rows below a prefix that come after from, in their order,
// until it returns false.
func (r *reader) scan(prefix, from string, fn func(rest string, w *row) bool) error {
	if err := r.may(); err != nil {
		return err
	}
	prefix += "\x00"
	r.rows.Ascend(prefix+from, func(k string, w *row) bool {
		rest, ok := strings.CutPrefix(k, prefix)
		return ok && fn(rest, w)
	})
	return nil
}

// back is scan from the end; before, when not empty, is where to begin below.
func (r *reader) back(prefix, before string, fn func(rest string, w *row) bool) error {
	if err := r.may(); err != nil {
		return err
	}
	prefix += "\x00"
	pivot := prefix + "\xff"
	if before != "" {
		pivot = prefix + before
	}
	r.rows.Descend(pivot, func(k string, w *row) bool {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok || before != "" && rest >= before {
			return ok
		}
		return fn(rest, w)
	})
	return nil
}

func last(rest string) string { return rest[strings.LastIndexByte(rest, 0)+1:] }

// all decodes the rows below a prefix.
func all[T any](r *reader, prefix string) ([]T, error) {
	out := []T{}
	var bad error
	err := r.scan(prefix, "", func(_ string, w *row) bool {
		var v T
		if v, bad = decode[T](w); bad != nil {
			return false
		}
		out = append(out, v)
		return true
	})
	return out, errors.Join(err, bad)
}

// keys are the refs' keys, each once.
func keys(refs []staunch.Ref) []string {
	var out []string
	for _, ref := range refs {
		if k := ref.Key(); !ref.IsZero() && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func limitOf(n int) int {
	if n <= 0 {
		return store.DefaultPage
	}
	return n
}

func pageOf(p store.Page) int { return min(limitOf(p.Limit), store.MaxPage) }

func (r *reader) Event(id string) (staunch.Event, error) {
	return one[staunch.Event](r, "event "+id, "event", id)
}

// newest returns the items of several indexes by (time, id), newest first, at
// most limit.
func newest[T any](r *reader, what, table, index string, refs []string, since staunch.Time, limit int) ([]T, error) {
	var found []string // "time NUL id"
	for _, ref := range refs {
		if err := r.may(ref); err != nil {
			return nil, fmt.Errorf("listing %s: %w", what, err)
		}
		n := 0
		if err := r.back(key(index, ref), "", func(rest string, _ *row) bool {
			if rest < at(since) {
				return false
			}
			found = append(found, rest)
			n++
			return n < limit
		}); err != nil {
			return nil, fmt.Errorf("listing %s: %w", what, err)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(b, a) })
	found = slices.Compact(found)
	out := []T{}
	for _, f := range found[:min(limit, len(found))] {
		v, err := one[T](r, what, table, last(f))
		if errors.Is(err, staunch.ErrNotFound) {
			continue // deleted, when it was in more indexes than is known now
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

const always = staunch.Time(-1 << 63)

func (r *reader) EventsNaming(refs []staunch.Ref, limit int) ([]staunch.Event, error) {
	return newest[staunch.Event](r, "events", "event", "event of", keys(refs), always, limitOf(limit))
}

func (r *reader) Fact(id string) (staunch.Fact, error) {
	return one[staunch.Fact](r, "fact "+id, "fact", id)
}

func (r *reader) links(table string, refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	out := []staunch.Link{}
	rels = slices.Compact(slices.Sorted(slices.Values(rels)))
	var bad error
	for _, ref := range keys(refs) {
		for _, rel := range rels {
			if err := r.scan(key(table, ref, string(rel)), "", func(_ string, w *row) bool {
				var l staunch.Link
				if l, bad = decode[staunch.Link](w); bad != nil {
					return false
				}
				out = append(out, l)
				return true
			}); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(out, func(a, b staunch.Link) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Fact, b.Fact), cmp.Compare(a.Rel, b.Rel))
	})
	out = slices.CompactFunc(out, func(a, b staunch.Link) bool { return a.Fact == b.Fact && a.Rel == b.Rel })
	return out[:min(limitOf(limit), len(out))], bad
}

func (r *reader) LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return r.links("link from", refs, rels, limit)
}

func (r *reader) LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return r.links("link to", refs, rels, limit)
}

func (r *reader) Above(refs []staunch.Ref) (map[staunch.Ref][]store.Raised, error) {
	return store.Above(r, refs)
}

func (r *reader) Identity(name string) (staunch.Identity, error) {
	return one[staunch.Identity](r, "identity "+name, "identity", name)
}

func (r *reader) IdentityOf(ref staunch.Ref) (staunch.Identity, error) {
	name, err := r.text("identity of "+ref.String(), "identity of", ref.Key())
	if err != nil {
		return staunch.Identity{}, err
	}
	return r.Identity(name)
}

// after decodes the rows of a table whose last part comes after an id.
func after[T any](r *reader, table string, p store.Page) ([]T, error) {
	out := []T{}
	var bad error
	err := r.scan(table, p.After, func(rest string, w *row) bool {
		if rest <= p.After {
			return true
		}
		var v T
		if v, bad = decode[T](w); bad != nil {
			return false
		}
		out = append(out, v)
		return len(out) < pageOf(p)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) Identities(p store.Page) ([]staunch.Identity, error) {
	return after[staunch.Identity](r, "identity", p)
}

func (r *reader) Signal(id string) (staunch.Signal, error) {
	return one[staunch.Signal](r, "signal "+id, "signal", id)
}

func (r *reader) SignalsWithin(refs []staunch.Ref, since staunch.Time, limit int) ([]*staunch.Signal, error) {
	all, err := newest[staunch.Signal](r, "signals", "signal", "signal of", keys(refs), since, limitOf(limit))
	out := make([]*staunch.Signal, len(all))
	for i := range all {
		all[i] = store.Brief(all[i])
		out[i] = &all[i]
	}
	return out, err
}

// listed lists a table by (time, id) descending, after the item called p.After,
// which must be there; keep, when given, picks.
func listed[T any](r *reader, what, table string, p store.Page, when func(T) staunch.Time, keep func(T) bool) ([]T, error) {
	before := ""
	if p.After != "" {
		v, err := one[T](r, what+" after "+p.After, table, p.After)
		if err != nil {
			return nil, err
		}
		before = key(at(when(v)), p.After)
	}
	out := []T{}
	var bad error
	err := r.back(key(table+" at"), before, func(rest string, _ *row) bool {
		var w *row
		if w, bad = r.get(what, table, last(rest)); bad != nil {
			return false
		}
		var v *T
		if v, bad = peek[T](w); bad != nil {
			return false
		}
		if keep == nil || keep(*v) {
			out = append(out, *owned(*v, false))
		}
		return len(out) < pageOf(p)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) Signals(p store.Page) ([]staunch.Signal, error) {
	return listed(r, "signals", "signal", p, func(s staunch.Signal) staunch.Time { return s.Time }, nil)
}

func (r *reader) Decision(id string) (staunch.Decision, error) {
	return one[staunch.Decision](r, "decision "+id, "decision", id)
}

func (r *reader) Decisions(p store.Page) ([]staunch.Decision, error) {
	return listed(r, "decisions", "decision", p, func(d staunch.Decision) staunch.Time { return d.Made }, nil)
}

func (r *reader) Containment(id string) (staunch.Containment, error) {
	return one[staunch.Containment](r, "containment "+id, "containment", id)
}

func (r *reader) OpenContainments(refs []staunch.Ref) ([]staunch.Containment, error) {
	out := []staunch.Containment{}
	var ids []string
	for _, ref := range keys(refs) {
		if err := r.scan(key("containment of", ref), "", func(rest string, _ *row) bool {
			ids = append(ids, rest)
			return true
		}); err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		c, err := r.Containment(id)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b staunch.Containment) int {
		return cmp.Or(cmp.Compare(a.Opened, b.Opened), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func (r *reader) Containments(p store.Page, open bool) ([]staunch.Containment, error) {
	return listed(r, "containments", "containment", p, func(c staunch.Containment) staunch.Time { return c.Opened },
		func(c staunch.Containment) bool { return !open || c.Phase.Open() })
}

// plans are a case's, in their order, not to be changed.
func (r *reader) plans(containment string) ([]*staunch.Plan, error) {
	if err := r.may(containment); err != nil {
		return nil, err
	}
	var out []*staunch.Plan
	var bad error
	err := r.scan(key("plan of", containment), "", func(_ string, w *row) bool {
		var p *staunch.Plan
		if p, bad = peek[staunch.Plan](w); bad != nil {
			return false
		}
		out = append(out, p)
		return true
	})
	slices.SortFunc(out, func(a, b *staunch.Plan) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Child, b.Child), cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.ID, b.ID))
	})
	return out, errors.Join(err, bad)
}

func (r *reader) Plans(containment string) ([]staunch.Plan, error) {
	list, err := r.plans(containment)
	if err != nil {
		return nil, err
	}
	out := make([]staunch.Plan, len(list))
	for i, p := range list {
		out[i] = *owned(*p, false)
	}
	return out, nil
}

func (r *reader) Steps(containment string) ([]staunch.Step, error) {
	plans, err := r.plans(containment)
	if err != nil {
		return nil, err
	}
	out := []staunch.Step{}
	if err := r.scan(key("step of", containment), "", func(_ string, w *row) bool {
		var s staunch.Step
		if s, err = decode[staunch.Step](w); err == nil {
			out = append(out, s)
		}
		return err == nil
	}); err != nil {
		return nil, err
	}
	// One of a plan that is not there comes first.
	order := func(s staunch.Step) int {
		return slices.IndexFunc(plans, func(p *staunch.Plan) bool { return p.ID == s.Plan })
	}
	slices.SortFunc(out, func(a, b staunch.Step) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.ID, b.ID))
	})
	return out, err
}

func (r *reader) Step(id string) (staunch.Step, error) {
	return one[staunch.Step](r, "step "+id, "step", id)
}

func (r *reader) Hold(id string) (staunch.Hold, error) {
	return one[staunch.Hold](r, "hold "+id, "hold", id)
}

func (r *reader) ActiveHold(plane staunch.Plane, t staunch.Target) (staunch.Hold, error) {
	id, err := r.text("active hold on "+t.String(), "hold on", string(plane), t.Key())
	if err != nil {
		return staunch.Hold{}, err
	}
	return r.Hold(id)
}

func (r *reader) holds(prefix, from string, limit int) ([]staunch.Hold, error) {
	out := []staunch.Hold{}
	var bad error
	err := r.scan(prefix, from, func(_ string, w *row) bool {
		var h staunch.Hold
		if h, bad = r.Hold(string(w.body)); bad != nil {
			return false
		}
		out = append(out, h)
		return limit == 0 || len(out) < limit
	})
	return out, errors.Join(err, bad)
}

func (r *reader) HoldsClaimedBy(containment string) ([]staunch.Hold, error) {
	if err := r.may(containment); err != nil {
		return nil, err
	}
	return r.holds(key("hold of", containment), "", 0)
}

func (r *reader) HoldsAfter(plane staunch.Plane, seq int64, limit int) ([]staunch.Hold, error) {
	if last, err := r.HoldSeq(); err != nil || seq >= last {
		return []staunch.Hold{}, err // most often nothing is new
	}
	return r.holds(key("hold at", string(plane)), number(seq+1), limitOf(limit))
}

func (r *reader) HoldSeq() (int64, error) {
	if err := r.may(); err != nil {
		return 0, err
	}
	w, ok := r.rows.Get("hold seq")
	if !ok {
		return 0, nil
	}
	return strconv.ParseInt(string(w.body), 10, 64)
}

func (r *reader) DueTimers(now staunch.Time, limit int) ([]store.Timer, error) {
	out := []store.Timer{}
	var bad error
	until := key(at(now), "\xff")
	err := r.scan("timer at", "", func(rest string, w *row) bool {
		if rest > until {
			return false
		}
		var t store.Timer
		if t, bad = decode[store.Timer](w); bad != nil {
			return false
		}
		out = append(out, t)
		return len(out) < limitOf(limit)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) NextTimer() (staunch.Time, error) {
	due, err := r.DueTimers(1<<62, 1)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	return due[0].Due, nil
}

func (r *reader) Cursor(name string) (string, error) {
	return r.text("cursor "+name, "cursor", name)
}

func (r *reader) Cap(name string) (store.Cap, error) {
	return one[store.Cap](r, "cap "+name, "cap", name)
}

func (r *reader) Breaker(scope string) (store.Breaker, error) {
	return one[store.Breaker](r, "breaker "+scope, "breaker", scope)
}

func (r *reader) Breakers() ([]store.Breaker, error) { return all[store.Breaker](r, "breaker") }

// token is a store.Token with its hash, which its own encoding leaves out.
type token struct {
	Token store.Token `json:"token"`
	Hash  string      `json:"hash"`
}

func (r *reader) Token(id string) (store.Token, error) {
	t, err := one[token](r, "token "+id, "token", id)
	t.Token.Hash = t.Hash
	return t.Token, err
}

func (r *reader) TokenByHash(hash string) (store.Token, error) {
	id, err := r.text("token by hash", "token by", hash)
	if err != nil {
		return store.Token{}, err
	}
	return r.Token(id)
}

func (r *reader) Tokens() ([]store.Token, error) {
	list, err := all[token](r, "token")
	out := make([]store.Token, len(list))
	for i, t := range list {
		out[i], out[i].Hash = t.Token, t.Hash
	}
	return out, err
}

func (r *reader) ActiveBundle() (store.Bundle, error) {
	hash, err := r.ActiveHash()
	if err != nil {
		return store.Bundle{}, err
	}
	return one[store.Bundle](r, "bundle "+hash, "bundle", hash)
}

func (r *reader) ActiveHash() (string, error) {
	return r.text("the active bundle", "active bundle")
}

func (r *reader) Guards() ([]store.Guard, staunch.Time, error) {
	out, err := all[store.Guard](r, "guard")
	return out, staunch.TimeOf(r.clock.Now()), err
}

func (r *reader) Sealed(id string) ([]byte, error) {
	w, err := r.get("sealed value "+id, "sealed", id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(w.body), nil
}

// secret is a sealed value with its time.
type secret struct {
	Until staunch.Time `json:"until"`
	Blob  []byte       `json:"blob"`
}

func (r *reader) SecretOf(ref staunch.Ref) ([]byte, error) {
	s, err := one[secret](r, "secret of "+ref.String(), "secret", ref.Key())
	return s.Blob, err
}

// parked is a store.Parked with its raw record, which its own encoding leaves
// out.
type parked struct {
	Parked store.Parked `json:"parked"`
	Raw    []byte       `json:"raw"`
}

func (r *reader) Parked(p store.Page) ([]store.Parked, error) {
	list, err := after[parked](r, "parked", p)
	out := make([]store.Parked, len(list))
	for i, v := range list {
		if out[i] = v.Parked; len(v.Raw) > 0 {
			out[i].Raw = v.Raw
		}
	}
	return out, err
}

func (r *reader) SealedAfter(kind store.SealedKind, after string, limit int) ([]store.SealedValue, error) {
	table, err := sealedTable(kind)
	if err != nil {
		return nil, err
	}
	out := []store.SealedValue{}
	var bad error
	err = r.scan(table, after, func(rest string, w *row) bool {
		if rest <= after {
			return true
		}
		v := store.SealedValue{Key: rest}
		if v.Blob, bad = blobOf(kind, w); bad != nil {
			return false
		}
		out = append(out, v)
		return len(out) < limitOf(limit)
	})
	return out, errors.Join(err, bad)
}

func sealedTable(kind store.SealedKind) (string, error) {
	switch kind {
	case store.SealedState:
		return "sealed", nil
	case store.SealedSecret:
		return "secret", nil
	case store.SealedParked:
		return "parked", nil
	}
	return "", fmt.Errorf("%w: no sealed values of kind %q", staunch.ErrInvalid, kind)
}

// blobOf returns the sealed value in a row.
func blobOf(kind store.SealedKind, w *row) ([]byte, error) {
	switch kind {
	case store.SealedSecret:
		s, err := decode[secret](w)
		return s.Blob, err
	case store.SealedParked:
		p, err := decode[parked](w)
		return nonNil(p.Raw), err
	default:
		return slices.Clone(nonNil(w.body)), nil
	}
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (r *reader) CapsNamed(prefix, after string, limit int) ([]string, error) {
	out := []string{}
	err := r.scan("cap", max(prefix, after), func(rest string, _ *row) bool {
		if !strings.HasPrefix(rest, prefix) {
			return false
		}
		if rest > after {
			out = append(out, rest)
		}
		return len(out) < limitOf(limit)
	})
	return out, err
}

func (r *reader) Records(lane string, after int64, limit int) ([]staunch.Record, error) {
	out := []staunch.Record{}
	var bad error
	err := r.scan(key("record", lane), number(after+1), func(_ string, w *row) bool {
		var rec staunch.Record
		if rec, bad = decode[staunch.Record](w); bad != nil {
			return false
		}
		out = append(out, rec)
		return len(out) < limitOf(limit)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) RecordsAbout(id string, limit int) ([]staunch.Record, error) {
	out := []staunch.Record{}
	var bad error
	err := r.scan(key("record about", id), "", func(_ string, w *row) bool {
		var rec staunch.Record
		if rec, bad = decode[staunch.Record](w); bad != nil {
			return false
		}
		out = append(out, rec)
		return len(out) < limitOf(limit)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) Heads() ([]store.Head, error) { return all[store.Head](r, "lane") }

func (r *reader) Notices(now staunch.Time, limit int) ([]store.Notice, error) {
	list, err := all[store.Notice](r, "notice")
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(n store.Notice) bool { return n.Done != 0 || n.Due > now })
	slices.SortFunc(list, func(a, b store.Notice) int { return cmp.Or(cmp.Compare(a.Due, b.Due), cmp.Compare(a.ID, b.ID)) })
	return list[:min(limitOf(limit), len(list))], nil
}

func (r *reader) Contributions(series string, from, to staunch.Time, limit int) ([]store.Contribution, error) {
	out := []store.Contribution{}
	var bad error
	err := r.back(key("contribution", series), key(at(to+1)), func(rest string, w *row) bool {
		if rest < at(from) {
			return false
		}
		var c store.Contribution
		if c, bad = decode[store.Contribution](w); bad != nil {
			return false
		}
		out = append(out, c)
		return len(out) < limitOf(limit)
	})
	slices.Reverse(out)
	return out, errors.Join(err, bad)
}

func (r *reader) DueContributions(now staunch.Time, limit int) ([]store.Contribution, error) {
	list, err := all[store.Contribution](r, "contribution")
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(c store.Contribution) bool { return c.Due <= 0 || c.Due > now })
	slices.SortStableFunc(list, func(a, b store.Contribution) int { return cmp.Compare(a.Due, b.Due) })
	return list[:min(limitOf(limit), len(list))], nil
}

func (r *reader) Sightings(series, from, to string, limit int) ([]store.Sighting, error) {
	list, err := all[store.Sighting](r, key("sighting", series))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(s store.Sighting) bool { return s.Item < from || s.Item > to })
	return list[max(0, len(list)-limitOf(limit)):], nil
}
