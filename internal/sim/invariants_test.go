package sim_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/contain/containtest"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// always holds at every moment.
func (w *world) always() {
	w.must(w.view(func(r store.Reader) error {
		caps, err := held(r)
		for _, c := range caps {
			if c.Used > c.Limit {
				w.wrong("I4: %d of %d places of %s are taken", c.Used, c.Limit, c.Name)
			}
		}
		return err
	}))
	w.healthy()
}

// held are the caps whose places are given back at a release.
func held(r store.Reader) ([]store.Cap, error) {
	var out []store.Cap
	for _, prefix := range []string{"open/", "group/"} {
		names, err := r.CapsNamed(prefix, "", 1000)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			c, err := r.Cap(name)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// healthy is I6: of the workers, whom nobody contains by hand, enough are left to
// work. One that was left as it is, since it could not be put back, is not ours
// any more.
func (w *world) healthy() {
	var down []string
	for _, name := range workers {
		if w.third[name] == 0 && !strings.HasPrefix(w.platform.Dump(name), "enabled ") {
			down = append(down, name)
		}
	}
	if len(down) <= mostWorkers {
		return
	}
	left := w.leftAsIs()
	down = slices.DeleteFunc(down, func(name string) bool { return left[name] })
	if len(down) > mostWorkers {
		w.wrong("I6: of %d workers %v are disabled, at most %d may be:%s", len(workers), down, mostWorkers, w.busy(func(contain.Case) bool { return false }))
	}
}

// invariants looks at everything, once all is calm.
func (w *world) invariants(released bool) {
	w.tell("what holds, released %v", released)
	w.must(w.view(func(r store.Reader) error {
		of := w.shared()
		of.Ledger(remembering{r, w.gone}, w.platform.Ledger(), ":"+vip, ":"+connectortest.FakeOwn+"#")
		if err := w.acknowledged(r); err != nil {
			return err
		}
		caps := map[string]int{}
		for _, id := range w.cases() {
			c, err := contain.ReadCase(r, id)
			if err != nil {
				return err
			}
			con := c.Containment
			for _, name := range con.Caps {
				caps[name]++
			}
			if con.Phase.Open() && con.Expires != 0 && con.Expires < staunch.TimeOf(w.steady) && con.Phase != staunch.PhaseReleasing && con.Phase != staunch.PhaseStuck {
				w.wrong("I8: %s is %s and ran out at %s", id, con.Phase, con.Expires)
			}
			if con.Approver != "" && strings.Contains(con.Approver, con.Requester) && con.Requester != "" {
				w.wrong("I7: %s was approved by who asked for it, %s", id, con.Approver)
			}
			// Before, another case may still want to write a pre-image back.
			if err := of.Case(r, c, released); err != nil {
				return err
			}
			if err := w.grounds(r, con); err != nil {
				return err
			}
		}
		list, err := held(r)
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Used != caps[c.Name] {
				w.wrong("I4: %d places of %s are taken, the cases have %d", c.Used, c.Name, caps[c.Name])
			}
		}
		if err := w.planes(r, of); err != nil {
			return err
		}
		return w.chained(r)
	}))
	if released {
		left := w.leftAsIs()
		for _, name := range slices.Concat(users, workers) {
			if got := w.platform.Dump(name); w.third[name] == 0 && !left[name] && !strings.HasPrefix(got, "enabled ") {
				w.wrong("I9: %s was enabled and is %q:%s", name, got, w.busy(func(contain.Case) bool { return false }))
			}
		}
	}
}

// leftAsIs are the accounts that could not be put back as they were, such as in an
// outage that outlasted two releases: people were told, and the case says so.
func (w *world) leftAsIs() map[string]bool {
	out := maps.Clone(w.left)
	w.must(w.view(func(r store.Reader) error {
		for _, id := range w.cases() {
			c, err := contain.ReadCase(r, id)
			if err != nil {
				return err
			}
			for _, s := range c.Steps {
				// A case that came while the undo of one before was given up took what it
				// found for what there was before.
				givenUp := s.State == staunch.StepDiverged ||
					s.State == staunch.StepKept && (strings.HasPrefix(s.Note, "it was given up") || strings.HasPrefix(s.Note, "the undo failed"))
				if givenUp && c.Containment.Release != nil && len(c.Containment.Release.Kept) > 0 {
					out[s.Target.Ref.Value] = true
				}
			}
		}
		return nil
	}))
	return out
}

// acknowledged is I1: what was acknowledged and matters is there.
func (w *world) acknowledged(r store.Reader) error {
	for _, p := range w.posted {
		if !p.acked || !p.commits {
			continue
		}
		events, err := r.EventsNaming(p.actor, 1000)
		if err != nil {
			return err
		}
		n := 0
		for _, e := range events {
			if e.VendorID == p.id {
				n++
			}
		}
		if n != 1 {
			w.wrong("I1: record %s was acknowledged and is there %d times", p.id, n)
		}
	}
	return nil
}

// shared is what the invariants of every world have to know of this one.
func (w *world) shared() containtest.World {
	return containtest.World{
		Dump: w.platform.Dump, Third: w.third, Logins: w.logins, Protected: protected, Wrong: w.wrong,
		Within: func(con staunch.Containment, ref staunch.Ref) bool {
			roots := slices.Clone(con.Scope.Roots)
			if con.Subject == staunch.IdentityRef("robert") {
				roots = append(roots, account("ann"), account("ben"))
			}
			if con.Subject == staunch.IdentityRef("books") {
				roots = append(roots, account("cat"))
			}
			if name, ok := strings.CutPrefix(con.Subject.Value, "worker "); ok && con.Subject.Kind == staunch.KindIdentity {
				roots = append(roots, account(name))
			}
			return slices.Contains(roots, ref) || w.minted[ref] || under(ref, roots)
		},
	}
}

// under reports whether a session is one of the roots' accounts.
func under(ref staunch.Ref, roots []staunch.Ref) bool {
	name, _, ok := strings.Cut(ref.Value, ".")
	return ok && slices.Contains(roots, account(name))
}

// planes looks at the holds, and whether every node's fast plane has them.
func (w *world) planes(r store.Reader, of containtest.World) error {
	holds, err := of.Holds(r)
	if err != nil {
		return err
	}
	for _, n := range w.up() {
		if err := n.guard.follow(r); err != nil {
			return err
		}
		for _, h := range holds {
			of.Follows(n.name+"'s fast plane", n.guard.holds[h.ID], h)
		}
	}
	return nil
}

// chained is I15: the log is whole, and whatever is done to what a checkpoint has
// seen is found.
func (w *world) chained(r store.Reader) error {
	var all []staunch.Record
	for rec, err := range wholeLog(r) {
		if err != nil {
			return err
		}
		all = append(all, rec)
	}
	verify := func(records []staunch.Record) error {
		v, err := record.NewVerifier(w.chain, nil, w.past)
		if err != nil {
			return err
		}
		for _, rec := range records {
			if err := v.Add(rec); err != nil {
				return fmt.Errorf("not read: %w", err)
			}
		}
		return v.Finish().Err()
	}
	if err := verify(all); err != nil {
		w.wrong("I15: the log is broken: %v", err)
	}
	if w.past == nil {
		return nil
	}
	// What the checkpoint has seen is the beginning of every lane.
	seen := slices.DeleteFunc(slices.Clone(all), func(rec staunch.Record) bool {
		i := slices.IndexFunc(w.past.Heads, func(h record.Head) bool { return h.Lane == rec.Lane })
		return i < 0 || rec.Seq > w.past.Heads[i].Seq
	})
	if len(seen) < 2 {
		return nil
	}
	victim := seen[w.rng.IntN(len(seen))]
	at := slices.IndexFunc(all, func(rec staunch.Record) bool { return rec.Lane == victim.Lane && rec.Seq == victim.Seq })
	forged := slices.Clone(all)
	how := []string{"edited", "deleted", "moved", "cut off"}[w.rng.IntN(4)]
	switch how {
	case "edited":
		forged[at].Actor += "x"
	case "deleted":
		forged = slices.Delete(forged, at, at+1)
	case "moved":
		other := (at + 1) % len(forged)
		if forged[other].Lane != victim.Lane { // the lanes' order means nothing
			forged[at].Seq += 1000
			break
		}
		forged[at], forged[other] = forged[other], forged[at]
	case "cut off":
		forged = slices.DeleteFunc(forged, func(rec staunch.Record) bool { return rec.Lane == victim.Lane && rec.Seq >= victim.Seq })
	}
	if err := verify(forged); err == nil {
		w.wrong("I15: record %d of %s was %s and nobody noticed", victim.Seq, victim.Lane, how)
	}
	return nil
}
