package sim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/memory"
)

// token is what a sender shows, and its row where there is one.
type token struct {
	secret staunch.Secret
	row    store.Token
}

// makeTokens makes the source's token and some that nobody may post with.
func makeTokens() map[string]token {
	out := map[string]token{}
	for name, row := range map[string]store.Token{
		"source":  {Source: "src"},
		"expired": {Source: "src", Expires: staunch.TimeOf(time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC))},
		"revoked": {Source: "src", Revoked: true},
		"another": {Source: "other"},
		"forged":  {},
	} {
		secret, hash := auth.NewToken()
		if row.Source != "" {
			row.ID, row.Name, row.Role, row.Hash = name, name, string(auth.RoleSource), hash
		}
		out[name] = token{secret, row}
	}
	return out
}

// take is a node's answer to who posts records with a token.
func (n *node) take(token, body string) (pipeline.Report, error) {
	ctx := context.Background()
	p, err := auth.New(n.store, auth.Options{Clock: n, MaxAge: -1}).Token(ctx, n.w.tokens[token].secret, "192.0.2.1:443")
	if err == nil {
		err = auth.Authorize(p, auth.Ingest, auth.Object{Source: n.w.source.Name})
	}
	if err != nil {
		return pipeline.Report{}, err
	}
	return n.pipe.Ingest(ctx, n.w.source, strings.NewReader(body), "")
}

// broken are bodies in which there is no record that may be taken.
var broken = []string{
	`{"id":"b1","op":"critical","user":"ann"`,
	`{"id":"b2","op":"idle","op":"critical","user":"ann"}`,
	"{\"id\":\"b3\",\"op\":\"critical\",\"user\":\"\xff\xfe\"}",
	`"critical"`,
	strings.Repeat(`{"id":`, 500) + `"critical"` + strings.Repeat("}", 500),
}

// bad has somebody send what may change nothing (I12): records with a token that
// nobody made, that is over, was taken back, or is another source's; records that
// were taken before; what is no record; and approvals of what was not shown, or by
// who asked.
func (w *world) bad() {
	up := w.up()
	if len(up) == 0 {
		return
	}
	n := up[w.rng.IntN(len(up))]
	nothing := func(what string, fn func() error) {
		n.run(func() {
			before := w.db.Writes()
			err := fn()
			w.tell("%s gets %s: %v", n.name, what, err)
			if err == nil {
				w.wrong("I12: %s was taken", what)
			}
			if after := w.db.Writes(); after != before {
				w.wrong("I12: %s changed something", what)
			}
		})
	}
	fresh := fmt.Sprintf(`{"id":"bad-%d","op":"critical","user":"%s","time":"%s"}`, w.rng.Uint64(), users[w.rng.IntN(len(users))], w.steady.Format(time.RFC3339Nano))
	switch w.rng.IntN(4) {
	case 0:
		which := []string{"expired", "revoked", "another", "forged"}[w.rng.IntN(4)]
		nothing("records with a token that is "+which, func() error {
			_, err := n.take(which, fresh)
			return err
		})
	case 1:
		body := broken[w.rng.IntN(len(broken))]
		nothing("what is no record", func() error {
			rep, err := n.take("source", body)
			if err == nil && rep.Accepted == 0 && len(rep.Rejected) > 0 {
				err = fmt.Errorf("%w: %s", staunch.ErrInvalid, rep.Rejected[0].Error)
			}
			return err
		})
	case 2:
		w.replay(n)
	case 3:
		w.forgedApproval(nothing, n)
	}
}

// replay sends what was acknowledged once more.
func (w *world) replay(n *node) {
	var body strings.Builder
	for _, p := range w.posted {
		if p.acked && p.commits && w.happens(50) {
			body.WriteString(p.text + "\n")
		}
	}
	if body.Len() == 0 {
		return
	}
	n.run(func() {
		before := w.db.Writes()
		rep, err := n.take("source", body.String())
		w.tell("%s gets a replay: %d duplicates, error %v", n.name, rep.Duplicates, err)
		if w.db.Writes() != before || err != nil || rep.Kept+rep.Signals+rep.Decisions > 0 {
			w.wrong("I12: a replay made %+v, error %v", rep, err)
		}
	})
}

// forgedApproval has somebody approve a case by a scope that is not its own, or
// whoever asked for it.
func (w *world) forgedApproval(nothing func(string, func() error), n *node) {
	id := w.pick()
	if id == "" {
		return
	}
	asked, another := w.happens(50), w.happens(50)
	nothing("a forged approval", func() error {
		return n.store.Update(context.Background(), func(tx store.Tx) error {
			con, err := tx.Containment(id)
			if err != nil {
				return err
			}
			who, scope, plan := "carol", con.Scope, ""
			if con.Asked != nil {
				plan = con.Asked.Hash
			}
			switch {
			case asked && con.Requester != "":
				who = con.Requester
			case another:
				plan += "0"
			default:
				scope.MostTargets++
			}
			_, err = n.engine.Approve(tx, id, who, scope.Hash(), plan)
			return err
		})
	})
}

// grounds is the rest of I12: what policy contains rests on evidence whose time is
// within its source's bounds.
func (w *world) grounds(r store.Reader, con staunch.Containment) error {
	for _, id := range con.Decisions {
		d, err := r.Decision(id)
		if err != nil {
			return err
		}
		may := false
		for _, s := range d.Signals {
			sig, err := r.Signal(s)
			if err != nil {
				return err
			}
			may = may || sig.Standing.MayEnforce()
		}
		if !may {
			w.wrong("I12: %s rests on decision %s, whose evidence is all of another time", con.ID, id)
		}
	}
	return nil
}

// permuted delivers what was posted to two empty databases, once in order, and
// once in another order, in other batches and some of it again: who is suspected
// of what comes out the same (I13).
func (w *world) permuted() {
	var texts []string
	var refs []staunch.Ref
	for _, p := range w.posted {
		if p.commits {
			texts = append(texts, p.text)
			refs = append(refs, p.actor...)
		}
	}
	if len(texts) == 0 || w.seed%permutedEvery != 0 {
		return
	}
	for _, id := range identities() {
		refs = append(refs, staunch.IdentityRef(id.Name))
	}
	slices.SortFunc(refs, func(a, b staunch.Ref) int { return strings.Compare(a.Key(), b.Key()) })
	refs = slices.Compact(refs)
	mixed := slices.Clone(texts)
	for range w.rng.IntN(len(texts)) + 1 {
		mixed = append(mixed, texts[w.rng.IntN(len(texts))])
	}
	w.rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	var batches [][]string
	for len(mixed) > 0 {
		n := 1 + w.rng.IntN(min(len(mixed), 8))
		batches, mixed = append(batches, mixed[:n]), mixed[n:]
	}
	ordered, other := w.delivered([][]string{texts}, refs), w.delivered(batches, refs)
	for _, k := range slices.Sorted(maps.Keys(ordered)) {
		if ordered[k] != other[k] {
			w.wrong("I13: in order %s is\n%s\nand in another order\n%s", k, ordered[k], other[k])
		}
	}
}

// permutedEvery is in which of the stories I13 is looked at.
const permutedEvery = 8

type at time.Time

func (c at) Now() time.Time { return time.Time(c) }

// delivered is what is made of the refs once the batches were taken, by an engine
// that opens cases and does not act.
func (w *world) delivered(batches [][]string, refs []staunch.Ref) map[string]string {
	clock := at(w.begun.Add(30 * time.Minute)) // in the middle of what most stories tell
	db := memory.New(memory.Options{Clock: clock, Chain: w.chain, Values: !w.encoded})
	st := db.Open("one")
	inv := inventory.New(inventory.Limits{})
	out := map[string]string{}
	w.must(func() error {
		if err := st.Update(context.Background(), w.begin); err != nil {
			return err
		}
		engine, err := contain.New(contain.Options{
			Store: st, Sealer: sealer{}, Guard: &sink{holds: map[string]staunch.Hold{}}, Lineage: lineage{inv}, Clock: clock, Protected: protected,
			Queue: 1024,
		})
		if err != nil {
			return err
		}
		pipe, err := pipeline.New(pipeline.Options{
			Store: st, Inventory: inv, Cases: engine, Clock: clock, Guardrails: w.open, Mode: staunch.ModeEnforce, Sealer: sealer{},
			PlatformOf: func(string) (string, staunch.Mode) { return "fake", staunch.ModeEnforce },
		}, w.bundle)
		if err != nil {
			return err
		}
		for _, b := range batches {
			rep, err := pipe.Ingest(context.Background(), w.source, strings.NewReader(strings.Join(b, "\n")), "")
			if err != nil || len(rep.Rejected) > 0 {
				return fmt.Errorf("rejected %v: %w", rep.Rejected, err)
			}
		}
		return st.View(context.Background(), func(r store.Reader) error {
			var ids []string
			signals, err := r.Signals(store.Page{Limit: store.MaxPage})
			if err != nil {
				return err
			}
			for _, s := range signals {
				ids = append(ids, s.ID)
			}
			slices.Sort(ids)
			out["signals"] = strings.Join(ids, "\n")
			for _, ref := range refs {
				a, o, _, err := pipe.Judge(r, ref)
				if err != nil {
					return err
				}
				b, err := json.Marshal(struct {
					Assessment decide.Assessment
					Tier       staunch.Tier
				}{a, o.Would})
				if err != nil {
					return err
				}
				out[ref.String()] = string(b)
			}
			return nil
		})
	}())
	return out
}
