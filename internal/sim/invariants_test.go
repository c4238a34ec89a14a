package sim_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/contain"
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
		if err := w.ledger(r); err != nil {
			return err
		}
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
			if err := w.caseHolds(r, c, released); err != nil {
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
		if err := w.planes(r); err != nil {
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
	out := map[string]bool{}
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

// ledger judges what reached the platform: I2, I3 and I5.
func (w *world) ledger(r store.Reader) error {
	changes := map[string]int{}
	for _, l := range w.platform.Ledger() {
		key, rest, _ := strings.Cut(l, " ")
		op, target, _ := strings.Cut(rest, " ")
		changes[key+" "+op]++
		if strings.Contains(target, ":"+vip) || strings.Contains(target, ":"+connectortest.FakeOwn+"#") {
			w.wrong("I5: %s", l)
		}
	}
	for _, change := range slices.Sorted(maps.Keys(changes)) {
		key, _, _ := strings.Cut(change, " ")
		s, err := r.Step(key)
		if err != nil {
			w.wrong("I3: the ledger's %s: %v", change, err)
			continue
		}
		name, _, _ := strings.Cut(s.Target.Ref.Value, ".")
		most := 1 + w.third[name]
		if s.Target.Attribute == "sessions" {
			most += w.logins // each makes something to end again
		}
		if n := changes[change]; n > most {
			w.wrong("I2: %s happened %d times", change, n)
		}
	}
	return nil
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

// caseHolds looks at one case: I7, I10, I11 and what its steps say.
func (w *world) caseHolds(r store.Reader, c contain.Case, released bool) error {
	con := c.Containment
	records, err := r.RecordsAbout(con.ID, 10_000)
	if err != nil {
		return err
	}
	said := map[staunch.RecordKind]string{}
	for _, rec := range records {
		said[rec.Kind] += string(rec.Body)
	}
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
	for _, s := range c.Steps {
		if !slices.Contains(roots, s.Target.Ref) && !w.minted[s.Target.Ref] && !w.under(s.Target.Ref, roots) {
			w.wrong("I7: %s is on %s, outside of %+v", s.ID, s.Target, con.Scope)
		}
		if s.Generation > con.Generation {
			w.wrong("I11: step %s is of generation %d, its case of %d", s.ID, s.Generation, con.Generation)
		}
		if !strings.Contains(said[staunch.RecordPlan], s.ID) {
			w.wrong("no plan record names step %s", s.ID)
		}
		if s.State == staunch.StepProven && !strings.Contains(said[staunch.RecordProof], s.ID) {
			w.wrong("I10: no proof record names step %s", s.ID)
		}
		h, err := r.Hold(s.Hold)
		if err != nil {
			return err
		}
		if s.State == staunch.StepShared && (con.Phase == staunch.PhaseHeld || con.Phase == staunch.PhaseWindow) && h.State != staunch.HoldProven {
			w.wrong("%s is %s with step %s shared on hold %s, which is %s", con.ID, con.Phase, s.ID, h.ID, h.State)
		}
		if s.State == staunch.StepProven || s.State == staunch.StepShared {
			name := s.Target.Ref.Value
			if got := w.platform.Dump(name); con.Phase.Open() && s.Target.Attribute == "enabled" && w.third[name] == 0 && strings.HasPrefix(got, "enabled") {
				w.wrong("I10: %s is %s with step %s %s, and %s is %q", con.ID, con.Phase, s.ID, s.State, name, got)
			}
			if con.Phase.Open() && (!h.Active() || !slices.Contains(h.Claims, con.ID)) {
				w.wrong("step %s of %s is %s on hold %s, which is %s and claimed by %v", s.ID, con.ID, s.State, h.ID, h.State, h.Claims)
			}
		}
		// Before, another case may still want to write it back.
		if released && s.PreImage != "" && (!h.Active() || h.State == staunch.HoldKept) {
			if _, err := r.Sealed(s.PreImage); err == nil {
				w.wrong("the pre-image of %s (%s) on hold %s (%s) was not shredded", s.ID, s.State, h.ID, h.State)
			}
		}
	}
	return nil
}

// under reports whether a session is one of the roots' accounts.
func (w *world) under(ref staunch.Ref, roots []staunch.Ref) bool {
	name, _, ok := strings.Cut(ref.Value, ".")
	return ok && slices.Contains(roots, account(name))
}

// planes looks at the holds, and whether every node's fast plane has them.
func (w *world) planes(r store.Reader) error {
	for _, plane := range []staunch.Plane{staunch.PlaneGuard, staunch.PlanePlatform} {
		holds, err := r.HoldsAfter(plane, 0, 100_000)
		if err != nil {
			return err
		}
		for _, h := range holds {
			if h.Active() && len(h.Claims) == 0 && h.State != staunch.HoldKept {
				w.wrong("hold %s on %s is %s and nobody's", h.ID, h.Target, h.State)
			}
			if h.State == staunch.HoldReleasing {
				w.wrong("hold %s on %s is left releasing", h.ID, h.Target)
			}
			if h.Active() && protected(h.Target.Ref) != "" {
				w.wrong("I5: hold on %s", h.Target)
			}
			for _, id := range h.Claims {
				con, err := r.Containment(id)
				if err != nil {
					return err
				}
				if h.Active() && !con.Phase.Open() {
					w.wrong("hold %s on %s (%s) is claimed by %s, which is released", h.ID, h.Target, h.State, id)
				}
			}
			if plane != staunch.PlaneGuard {
				continue
			}
			if err := w.denies(r, h); err != nil {
				return err
			}
			for _, n := range w.up() {
				if err := n.guard.follow(r); err != nil {
					return err
				}
				if got := n.guard.holds[h.ID]; got.Active() != h.Active() || got.Seq != h.Seq && h.Active() {
					w.wrong("%s's fast plane has %s on %s as %s (seq %d), the store as %s (seq %d)", n.name, h.ID, h.Target, got.State, got.Seq, h.State, h.Seq)
				}
			}
		}
	}
	return nil
}

// denies looks at whether a guard hold denies what its claims ask for.
func (w *world) denies(r store.Reader, h staunch.Hold) error {
	if h.State != staunch.HoldInForce {
		return nil
	}
	want := map[string]bool{}
	for _, id := range h.Claims {
		con, err := r.Containment(id)
		if err != nil {
			return err
		}
		for _, d := range con.Playbook.Stages[con.Stage].Deny {
			want[d] = true
		}
	}
	for _, d := range h.Deny {
		if !want[d] {
			w.wrong("the fast plane's hold on %s denies %q, which none of %v asks for", h.Target, d, h.Claims)
		}
		delete(want, d)
	}
	for _, d := range sorted(want) {
		w.wrong("the fast plane's hold on %s does not deny %q, which one of %v asks for", h.Target, d, h.Claims)
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
