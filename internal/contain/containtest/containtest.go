// Package containtest has what must hold of containment in every world that a test
// makes for the engine, whatever its clocks, faults and people.
package containtest

import (
	"maps"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
)

// World is what the invariants have to know of a test's world, whose platform is a
// connectortest.FakePlatform.
type World struct {
	// Dump says what an account is on the platform, Third how often others changed
	// it, and Logins how many sessions began.
	Dump   func(account string) string
	Third  map[string]int
	Logins int
	// Protected says why a ref must not be touched, "" where it may be.
	Protected func(staunch.Ref) string
	// Within reports whether a case may touch a ref.
	Within func(con staunch.Containment, ref staunch.Ref) bool
	// Wrong is told of everything that does not hold.
	Wrong func(format string, args ...any)
}

// Ledger judges what reached the platform: I2, I3 and I5. untouched are parts of
// targets that no line may have.
func (w World) Ledger(r store.Reader, lines []string, untouched ...string) {
	changes := map[string]int{}
	for _, l := range lines {
		key, rest, _ := strings.Cut(l, " ")
		op, target, _ := strings.Cut(rest, " ")
		changes[key+" "+op]++
		if slices.ContainsFunc(untouched, func(part string) bool { return strings.Contains(target, part) }) {
			w.Wrong("I5: %s", l)
		}
	}
	for _, change := range slices.Sorted(maps.Keys(changes)) {
		key, _, _ := strings.Cut(change, " ")
		s, err := r.Step(key)
		if err != nil {
			w.Wrong("I3: the ledger's %s: %v", change, err)
			continue
		}
		name, _, _ := strings.Cut(s.Target.Ref.Value, ".")
		most := 1 + w.Third[name]
		if s.Target.Attribute == "sessions" {
			most += w.Logins // each makes something to end again
		}
		if n := changes[change]; n > most {
			w.Wrong("I2: %s happened %d times", change, n)
		}
	}
}

// Case looks at one case: I7, I10, I11 and what its steps say. over says that nobody
// may want to write a pre-image back any more.
func (w World) Case(r store.Reader, c contain.Case, over bool) error {
	con := c.Containment
	records, err := r.RecordsAbout(con.ID, 10_000)
	if err != nil {
		return err
	}
	said := map[staunch.RecordKind]string{}
	for _, rec := range records {
		said[rec.Kind] += string(rec.Body)
	}
	for _, s := range c.Steps {
		if !w.Within(con, s.Target.Ref) {
			w.Wrong("I7: %s is on %s, outside of %+v", s.ID, s.Target, con.Scope)
		}
		if s.Generation > con.Generation {
			w.Wrong("I11: step %s is of generation %d, its case of %d", s.ID, s.Generation, con.Generation)
		}
		if !strings.Contains(said[staunch.RecordPlan], s.ID) {
			w.Wrong("no plan record names step %s", s.ID)
		}
		if s.State == staunch.StepProven && !strings.Contains(said[staunch.RecordProof], s.ID) {
			w.Wrong("I10: no proof record names step %s", s.ID)
		}
		h, err := r.Hold(s.Hold)
		if err != nil {
			return err
		}
		if s.State == staunch.StepShared && (con.Phase == staunch.PhaseHeld || con.Phase == staunch.PhaseWindow) && h.State != staunch.HoldProven {
			w.Wrong("%s is %s with step %s shared on hold %s, which is %s", con.ID, con.Phase, s.ID, h.ID, h.State)
		}
		if con.Phase.Open() && (s.State == staunch.StepProven || s.State == staunch.StepShared) {
			name := s.Target.Ref.Value
			if got := w.Dump(name); s.Target.Attribute == "enabled" && w.Third[name] == 0 && strings.HasPrefix(got, "enabled") {
				w.Wrong("I10: %s is %s with step %s %s, and %s is %q", con.ID, con.Phase, s.ID, s.State, name, got)
			}
			if !h.Active() || !slices.Contains(h.Claims, con.ID) {
				w.Wrong("step %s of %s is %s on hold %s, which is %s and claimed by %v", s.ID, con.ID, s.State, h.ID, h.State, h.Claims)
			}
		}
		if over && s.PreImage != "" && (!h.Active() || h.State == staunch.HoldKept) {
			if _, err := r.Sealed(s.PreImage); err == nil {
				w.Wrong("the pre-image of %s (%s) on hold %s (%s) was not shredded", s.ID, s.State, h.ID, h.State)
			}
		}
	}
	return nil
}

// Holds looks at the holds of both planes and returns those of the fast one.
func (w World) Holds(r store.Reader) (guard []staunch.Hold, err error) {
	for _, plane := range []staunch.Plane{staunch.PlanePlatform, staunch.PlaneGuard} {
		if guard, err = r.HoldsAfter(plane, 0, 100_000); err != nil {
			return nil, err
		}
		for _, h := range guard {
			if h.Active() && len(h.Claims) == 0 && h.State != staunch.HoldKept {
				w.Wrong("hold %s on %s is %s and nobody's", h.ID, h.Target, h.State)
			}
			if h.State == staunch.HoldReleasing {
				w.Wrong("hold %s on %s is left releasing", h.ID, h.Target)
			}
			if h.Active() && w.Protected(h.Target.Ref) != "" {
				w.Wrong("I5: hold on %s", h.Target)
			}
			if err := w.claims(r, h); err != nil {
				return nil, err
			}
		}
	}
	return guard, nil
}

// claims looks at whose a hold is, and on the fast plane at whether it denies what
// they ask for.
func (w World) claims(r store.Reader, h staunch.Hold) error {
	want := map[string]bool{}
	for _, id := range h.Claims {
		con, err := r.Containment(id)
		if err != nil {
			return err
		}
		if h.Active() && !con.Phase.Open() {
			w.Wrong("hold %s on %s (%s) is claimed by %s, which is released", h.ID, h.Target, h.State, id)
		}
		for _, d := range con.Playbook.Stages[con.Stage].Deny {
			want[d] = true
		}
	}
	if h.Plane != staunch.PlaneGuard || h.State != staunch.HoldInForce {
		return nil
	}
	for _, d := range h.Deny {
		if !want[d] {
			w.Wrong("the fast plane's hold on %s denies %q, which none of %v asks for", h.Target, d, h.Claims)
		}
		delete(want, d)
	}
	for _, d := range slices.Sorted(maps.Keys(want)) {
		w.Wrong("the fast plane's hold on %s does not deny %q, which one of %v asks for", h.Target, d, h.Claims)
	}
	return nil
}

// Follows looks at whether a guard has a hold of the fast plane as the store has it.
func (w World) Follows(guard string, has, stored staunch.Hold) {
	if has.Active() != stored.Active() || has.Seq != stored.Seq && stored.Active() {
		w.Wrong("%s has %s on %s as %s (seq %d), the store as %s (seq %d)", guard, stored.ID, stored.Target, has.State, has.Seq, stored.State, stored.Seq)
	}
}
