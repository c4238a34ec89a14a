package pipeline_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

// end is what a set of records comes to.
type end struct {
	// Suspicions and Tiers by subject, as they stand at the end.
	Suspicions map[string]decide.Assessment
	Tiers      map[string]staunch.Tier
	// Decided is the highest tier at which anybody was to be contained, Contained
	// the highest that is in force.
	Decided, Contained staunch.Tier
}

// TestOrderDoesNotMatter delivers the same records in another order, in other
// batches and some of them again: the suspicion of everybody, and the highest
// tier, come out the same (invariant I13), caps aside. Where all events are of
// one instant, so that no suspicion decays between two decisions, the highest
// tier at which anybody was contained is the same as well. All records match a rule or
// state a fact: one that is kept only because it concerns a contained subject is
// kept or not by when it comes, and so is what it teaches.
func TestOrderDoesNotMatter(t *testing.T) {
	bundle, src := compiled(t)
	deliver := func(rt *rapid.T, batches [][]string) end {
		r := &rig{
			t: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, guard: &sink{holds: map[string]staunch.Hold{}},
			bundle: bundle, src: src, brief: true,
		}
		return r.deliver(rt, batches)
	}
	rapid.Check(t, func(rt *rapid.T) {
		base := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		instant := rapid.Bool().Draw(rt, "one instant")
		var records []string
		for i := range rapid.IntRange(1, 12).Draw(rt, "records") {
			op := rapid.SampledFrom([]string{"low", "medium", "other", "high", "critical", "account", "shadow", "recommend", "login", "belongs", "issue"}).Draw(rt, "op")
			m := map[string]any{"id": fmt.Sprint(i), "op": op}
			user := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "user")
			who := rapid.SampledFrom([]string{"session", "user", "both"}).Draw(rt, "named by")
			if who != "session" || op == "login" || op == "belongs" {
				m["user"] = user
			}
			if who != "user" || op == "login" || op == "belongs" {
				m["session"] = user + "." + rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "session")
			}
			if op == "issue" {
				m["issued"] = fmt.Sprintf("sha256:%02x", i)
			}
			if rapid.IntRange(0, 3).Draw(rt, "denied") == 0 {
				m["denied"] = true
			}
			// Some are late, ahead or without a time.
			at := base.Add(-time.Minute)
			if !instant {
				at = base.Add(-time.Duration(rapid.IntRange(1, 4000).Draw(rt, "age")) * time.Second)
				switch rapid.IntRange(0, 9).Draw(rt, "oddity") {
				case 0:
					at = base.Add(2 * time.Hour)
				case 1:
					at = time.Time{}
				}
			}
			if !at.IsZero() {
				m["time"] = at.Format(time.RFC3339Nano)
			}
			b, err := json.Marshal(m)
			if err != nil {
				rt.Fatal(err)
			}
			records = append(records, string(b))
		}
		first := deliver(rt, [][]string{records})
		shuffled := rapid.Permutation(append(records, rapid.SliceOfN(rapid.SampledFrom(records), 0, 6).Draw(rt, "again")...)).Draw(rt, "order")
		var batches [][]string
		for len(shuffled) > 0 {
			n := rapid.IntRange(1, len(shuffled)).Draw(rt, "batch")
			batches, shuffled = append(batches, shuffled[:n]), shuffled[n:]
		}
		second := deliver(rt, batches)
		if !instant {
			first.Decided, first.Contained, second.Decided, second.Contained = 0, 0, 0, 0
		}
		a, err1 := json.Marshal(first)
		b, err2 := json.Marshal(second)
		if err1 != nil || err2 != nil {
			rt.Fatal(err1, err2)
		}
		if string(a) != string(b) {
			rt.Errorf("in order\n%s\nbut\n%s\nfor\n%s", a, b, strings.Join(records, "\n"))
		}
	})
}

func (r *rig) deliver(rt *rapid.T, batches [][]string) end {
	dir, err := os.MkdirTemp(r.t.TempDir(), "")
	if err != nil {
		rt.Fatal(err)
	}
	r.open(dir, unlimited)
	defer r.close()
	r.setIdentity(staunch.Identity{Name: "a", Accounts: []staunch.Ref{account("a")}})
	for _, batch := range batches {
		r.ingest(batch...)
	}
	out := end{Suspicions: map[string]decide.Assessment{}, Tiers: map[string]staunch.Tier{}}
	r.view(func(rd store.Reader) error {
		for _, ref := range []staunch.Ref{account("a"), account("b"), session("a.1"), session("a.2"), session("b.1"), session("b.2"), staunch.IdentityRef("a")} {
			a, o, _, err := r.pipe.Judge(rd, ref)
			if err != nil {
				return err
			}
			out.Suspicions[ref.String()] = a
			out.Tiers[ref.String()] = o.Would
		}
		return nil
	})
	for _, d := range r.decisions() {
		// What is only recommended depends on what already enforces.
		if d.Verdict == staunch.VerdictContain {
			out.Decided = max(out.Decided, d.Tier)
		}
	}
	for _, c := range r.cases() {
		out.Contained = max(out.Contained, c.Tier)
	}
	return out
}
