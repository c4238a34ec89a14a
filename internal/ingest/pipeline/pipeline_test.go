package pipeline_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
)

func TestNewRequires(t *testing.T) {
	if _, err := pipeline.New(pipeline.Options{}, nil); err == nil {
		t.Error("made of nothing")
	}
}

func TestIngest(t *testing.T) {
	r := newRig(t)
	rep := r.ingest(
		r.rec("1", "read", "bob"),
		r.rec("2", "medium", "bob", "session", "bob.1"),
		r.rec("3", "login", "alice", "session", "alice.1"),
	)
	want := pipeline.Report{V: 1, Accepted: 3, Kept: 2, Matched: 1, Signals: 1, Decisions: 1}
	if fmt.Sprint(rep) != fmt.Sprint(want) {
		t.Errorf("%+v, want %+v", rep, want)
	}
	s := r.signals()[0]
	if s.Accused != session("bob.1") || s.Rule != "medium" || s.Confidence != 0.5 || s.Bundle != "sha256:one" || s.Source != "src" ||
		s.Ceiling != staunch.TierRevoke || s.Standing != staunch.StandingCurrent || !slices.Contains(s.Refs, account("bob")) {
		t.Errorf("signal %+v", s)
	}
	ev := r.event(s.Event)
	if ev.VendorID != "2" || ev.Operation != "medium" || ev.Realm != realm || ev.Format != "fake" || !json.Valid(ev.OCSF) || !json.Valid(ev.Raw) {
		t.Errorf("event %+v", ev)
	}
	d := r.only()
	if d.Verdict != staunch.VerdictContain || d.Tier != staunch.TierRestrict || d.Subject != session("bob.1") || d.Containment == "" || d.Bundle != "sha256:one" {
		t.Errorf("decision %+v", d)
	}
	var in decide.Input
	if err := json.Unmarshal(d.Inputs, &in); err != nil || in.Views.Enforce.Count != 1 {
		t.Errorf("inputs %s: %v", d.Inputs, err)
	}
	c := r.cases()
	if len(c) != 1 || c[0].ID != d.Containment || c[0].Subject != d.Scope || c[0].Since != s.Time || len(c[0].Caps) == 0 {
		t.Errorf("cases %+v", c)
	}
	if r.guard.active() != 1 {
		t.Error("the hold is not in force when the commit returns")
	}
	if len(r.observed) != 1 || r.observed[0].ID != d.ID {
		t.Errorf("observed %+v", r.observed)
	}
	st := r.pipe.Stats()
	if st.Records.Load() != 3 || st.Kept.Load() != 2 || st.Signals.Load() != 1 || st.Decisions.Load() != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestRedelivery(t *testing.T) {
	r := newRig(t)
	records := []string{
		r.rec("1", "high", "bob", "session", "bob.1"), r.rec("2", "login", "bob", "session", "bob.2"), r.rec("3", "medium", "alice"),
	}
	r.ingest(records...)
	before := r.state()
	r.clock.add(10 * time.Minute)
	rep := r.ingest(records...)
	if rep.Accepted != 3 || rep.Duplicates != 3 || rep.Kept != 0 || rep.Signals != 0 || rep.Decisions != 0 {
		t.Errorf("redelivered: %+v", rep)
	}
	if after := r.state(); after != before {
		t.Errorf("redelivery changed\n%s\nto\n%s", before, after)
	}
	// Twice in one input is once.
	r2 := newRig(t)
	rep = r2.ingest(append(slices.Clone(records), records...)...)
	if rep.Kept != 3 || rep.Duplicates != 3 {
		t.Errorf("twice in one: %+v", rep)
	}
	// The same id with other content is another event: nobody can pre-empt one.
	rep = r.ingest(r.rec("1", "high", "mallory"))
	if rep.Kept != 1 || rep.Signals != 1 || rep.Duplicates != 0 {
		t.Errorf("the same id, other content: %+v", rep)
	}
	// Without an id the content is the position.
	anonymous := `{"op":"medium","user":"eve","time":"` + r.clock.Now().Format(time.RFC3339) + `"}`
	if rep = r.ingest(anonymous, anonymous); rep.Kept != 1 || rep.Duplicates != 1 {
		t.Errorf("without an id: %+v", rep)
	}
	// Another source's is another event.
	other := *r.src
	other.Name = "other"
	rep, err := r.pipe.Ingest(t.Context(), &other, strings.NewReader(records[0]), "")
	if err != nil || rep.Kept != 1 {
		t.Errorf("another source: %+v %v", rep, err)
	}
}

// TestStandings: what is outside of its source's time bounds informs and never
// enforces, alone or with others like it.
func TestStandings(t *testing.T) {
	for _, c := range []struct {
		name     string
		shift    time.Duration
		standing staunch.Standing
	}{
		{"current", 0, staunch.StandingCurrent},
		{"just in time", -time.Hour, staunch.StandingCurrent},
		{"late", -time.Hour - time.Microsecond, staunch.StandingLate},
		{"ahead, within the skew", 5 * time.Minute, staunch.StandingCurrent},
		{"future", 5*time.Minute + time.Microsecond, staunch.StandingFuture},
		{"undated", 0, staunch.StandingUndated},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			at := `"` + r.clock.Now().Add(c.shift).Format(time.RFC3339Nano) + `"`
			if c.standing == staunch.StandingUndated {
				at = "null"
			}
			r.ingest(r.rec("1", "critical", "bob", "time", at), r.rec("2", "high", "bob", "time", at))
			d := r.only()
			if s := r.signals()[0].Standing; s != c.standing {
				t.Errorf("standing %s", s)
			}
			if c.standing == staunch.StandingCurrent {
				if d.Verdict != staunch.VerdictContain || d.Tier != staunch.TierIsolate {
					t.Errorf("%s %s", d.Verdict, d.Tier)
				}
				return
			}
			if d.Verdict != staunch.VerdictInform || len(r.cases()) != 0 || r.guard.active() != 0 {
				t.Errorf("%s, %d cases", d.Verdict, len(r.cases()))
			}
			if a := r.suspicion(account("bob")); a.Enforce.Confidence != 0 || a.Would.Confidence < 0.9 {
				t.Errorf("suspicion %+v", a)
			}
			// One current signal counts for itself alone.
			r.ingest(r.rec("3", "medium", "bob"))
			if cases := r.cases(); len(cases) != 1 || cases[0].Tier != staunch.TierRestrict {
				t.Errorf("cases %+v", cases)
			}
		})
	}
}

func TestRealms(t *testing.T) {
	finding := func(r *rig, more ...string) string {
		return r.rec("f", "report", "", append([]string{"kind", "finding", "score", "90"}, more...)...)
	}
	t.Run("another realm", func(t *testing.T) {
		r := newRig(t)
		if rep := r.ingest(finding(r, "realm", "fake/other", "account", "eve")); rep.Signals != 0 || rep.Kept != 1 {
			t.Errorf("%+v", rep)
		}
		r.src.Accuses = []string{"fake/other"}
		if rep := r.ingest(finding(r, "realm", "fake/other", "account", "eve", "n", "2")); rep.Signals != 1 || rep.Decisions != 1 {
			t.Errorf("allowed: %+v", rep)
		}
		if s := r.signals()[0]; s.Rule != "source:src/leak" || s.Accused.Realm != "fake/other" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("an identity is all its realms", func(t *testing.T) {
		r := newRig(t)
		if rep := r.ingest(finding(r, "identity", "eve")); rep.Signals != 0 {
			t.Errorf("nobody declared it: %+v", rep)
		}
		elsewhere := account("eve")
		elsewhere.Realm = "fake/other"
		r.setIdentity(staunch.Identity{Name: "eve", Accounts: []staunch.Ref{account("eve"), elsewhere}})
		if rep := r.ingest(finding(r, "identity", "eve", "n", "2")); rep.Signals != 0 {
			t.Errorf("it has an account elsewhere: %+v", rep)
		}
		r.src.Accuses = []string{"fake/other"}
		if rep := r.ingest(finding(r, "identity", "eve", "n", "3")); rep.Signals != 1 {
			t.Errorf("allowed: %+v", rep)
		}
	})
}

// TestFactsOfOtherRealms: what came from a subject is contained with it, so a source
// states nothing of realms that it may not accuse, and takes no part in their cases.
func TestFactsOfOtherRealms(t *testing.T) {
	r := newRig(t)
	derived := func() []staunch.Ref {
		t.Helper()
		var out []staunch.Ref
		r.view(func(rd store.Reader) (err error) {
			out, _, err = inventory.New(inventory.Limits{}).Derived(rd, []staunch.Ref{{Kind: staunch.KindSession, Realm: realm, Scheme: "id", Value: "bob.1"}}, 0, 10)
			return err
		})
		return out
	}
	r.ingest(r.rec("1", "issue_abroad", "bob", "session", "bob.1", "realm", "fake/other", "abroad", "victim"))
	if refs := derived(); len(refs) != 0 {
		t.Errorf("a fact of another realm was taken: %v", refs)
	}
	r.src.Accuses = []string{"fake/other"}
	r.ingest(r.rec("2", "issue_abroad", "bob", "session", "bob.1", "realm", "fake/other", "abroad", "victim"))
	if refs := derived(); len(refs) != 1 || refs[0].Realm != "fake/other" {
		t.Errorf("a fact of a realm that it was given: %v", refs)
	}
	r.src.Accuses = nil

	victim := staunch.Ref{Kind: staunch.KindCredential, Realm: "fake/other", Scheme: "sha256", Value: "contained"}
	r.update(func(tx store.Tx) error {
		now := staunch.TimeOf(r.clock.Now())
		return tx.PutContainment(staunch.Containment{
			V: 1, ID: "con_other", Subject: victim, Names: []staunch.Ref{victim}, Phase: staunch.PhaseHeld, Tier: staunch.TierIsolate, Opened: now, EffectAt: now,
			Playbook: staunch.Playbook{Name: "x", Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}},
		})
	})
	if err := r.pipe.RefreshWatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.clock.add(time.Minute)
	used := func(id string) { r.ingest(r.rec(id, "read", "eve", "realm", "fake/other", "abroad", "contained")) }
	used("3")
	if calls := r.spy.list(); len(calls) != 0 {
		t.Errorf("a source of another realm had a case go on: %v", calls)
	}
	r.src.Accuses = []string{"fake/other"}
	used("4")
	if calls := r.spy.list(); len(calls) != 1 {
		t.Errorf("calls %v", calls)
	}
}

func TestCeiling(t *testing.T) {
	for _, c := range []staunch.Tier{staunch.TierObserve, staunch.TierRestrict, staunch.TierIsolate, staunch.TierRevoke} {
		t.Run(c.String(), func(t *testing.T) {
			r := newRig(t)
			r.setIdentity(staunch.Identity{Name: "bob", Accounts: []staunch.Ref{account("bob")}})
			r.src.Ceiling = c
			r.ingest(r.rec("1", "critical", "bob"), r.rec("2", "high", "bob"))
			if d := r.only(); d.Tier != c || (len(r.cases()) == 0) != (c == staunch.TierObserve) {
				t.Errorf("%s %s, %d cases", d.Verdict, d.Tier, len(r.cases()))
			}
		})
	}
}

func TestModes(t *testing.T) {
	policy := func(mode string) option {
		return func(r *rig, _ *decide.Limits) {
			r.bundle.Policy = defaultPolicy(r.t, decide.File{Name: "mine.yaml", Data: []byte(`
v: 1
policies:
  - id: mine
    mode: ` + mode + `
    priority: 5
    then:
      tiers: [{at: 0.3, tier: isolate, playbook: isolate}]
`)})
		}
	}
	connectorMode := func(m staunch.Mode) option {
		return func(r *rig, _ *decide.Limits) {
			r.opt.PlatformOf = func(string) (string, staunch.Mode) { return "fake", m }
		}
	}
	for _, c := range []struct {
		name    string
		op      string
		option  option
		verdict staunch.Verdict
	}{
		{"enforce", "critical", engineMode(staunch.ModeEnforce), staunch.VerdictContain},
		{"engine recommends", "critical", engineMode(staunch.ModeRecommend), staunch.VerdictRecommend},
		{"engine in the shadow", "critical", engineMode(staunch.ModeShadow), staunch.VerdictShadow},
		{"rule recommends", "recommend", engineMode(staunch.ModeEnforce), staunch.VerdictRecommend},
		{"rule in the shadow", "shadow", engineMode(staunch.ModeEnforce), staunch.VerdictShadow},
		{"rule recommends, engine in the shadow", "recommend", engineMode(staunch.ModeShadow), staunch.VerdictShadow},
		{"policy enforces", "critical", policy("enforce"), staunch.VerdictContain},
		{"policy recommends", "critical", policy("recommend"), staunch.VerdictRecommend},
		{"policy in the shadow", "critical", policy("shadow"), staunch.VerdictShadow},
		{"connector recommends", "critical", connectorMode(staunch.ModeRecommend), staunch.VerdictRecommend},
		{"connector in the shadow", "critical", connectorMode(staunch.ModeShadow), staunch.VerdictShadow},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.option)
			r.ingest(r.rec("1", c.op, "bob"))
			if d := r.only(); d.Verdict != c.verdict {
				t.Errorf("%s: %v", d.Verdict, d.Reasons)
			}
			contains := c.verdict == staunch.VerdictContain
			if n := len(r.cases()); (n == 1) != contains || (r.guard.active() == 1) != contains {
				t.Errorf("%d cases, %d holds", n, r.guard.active())
			}
		})
	}
}

// TestEcho: what our own account does is kept and never evidence.
func TestEcho(t *testing.T) {
	r := newRig(t)
	rep := r.ingest(r.rec("1", "critical", "staunch"), r.rec("2", "critical", "staunch", "session", "staunch.1"))
	if rep.Kept != 2 || rep.Signals != 0 || rep.Decisions != 0 || len(r.cases()) != 0 {
		t.Errorf("%+v", rep)
	}
	// A record of somebody else that accuses us makes no case: we are protected.
	r.ingest(r.rec("3", "field", "mallory", "owner", "staunch"))
	if d := r.only(); d.Verdict != staunch.VerdictProtected || len(r.cases()) != 0 {
		t.Errorf("%s", d.Verdict)
	}
}

// TestDenials: that a contained subject is refused is what containment is for.
func TestDenials(t *testing.T) {
	r := newRig(t)
	before := r.rec("0", "other", "bob", "denied", "true")
	r.clock.add(time.Second)
	r.ingest(r.rec("1", "medium", "bob"))
	if c := r.cases(); len(c) != 1 || c[0].Tier != staunch.TierRestrict {
		t.Fatalf("%+v", c)
	}
	confidence := r.suspicion(account("bob")).Enforce.Confidence
	r.clock.add(time.Second)
	rep := r.ingest(r.rec("2", "critical", "bob", "denied", "true"))
	if rep.Kept != 1 || rep.Signals != 0 || rep.Decisions != 0 || r.suspicion(account("bob")).Enforce.Confidence != confidence {
		t.Errorf("a denial counted: %+v", rep)
	}
	r.clock.add(time.Second)
	// What it was refused before counts, though we learn of it later.
	if rep = r.ingest(before); rep.Signals != 1 || r.suspicion(account("bob")).Enforce.Confidence <= confidence {
		t.Errorf("a denial from before: %+v", rep)
	}
	// And what it succeeds in.
	if rep = r.ingest(r.rec("3", "high", "bob")); rep.Signals != 1 {
		t.Errorf("success: %+v", rep)
	}
	// Somebody else's denials count.
	if rep = r.ingest(r.rec("4", "medium", "alice", "denied", "true")); rep.Signals != 1 {
		t.Errorf("somebody else's: %+v", rep)
	}
}

// TestDenialsOnAnotherNode: the case was opened elsewhere, and the watch does
// not know of it yet.
func TestDenialsOnAnotherNode(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "medium", "bob"))
	fresh, err := pipeline.New(r.opt, r.bundle)
	if err != nil {
		t.Fatal(err)
	}
	r.pipe = fresh
	r.clock.add(time.Second)
	if rep := r.ingest(r.rec("2", "critical", "bob", "denied", "true")); rep.Signals != 0 {
		t.Errorf("%+v", rep)
	}
}

func (r *rig) effectAt(at staunch.Time) string {
	r.t.Helper()
	c := r.cases()[0]
	c.EffectAt, c.Phase = at, staunch.PhaseHeld
	r.update(func(tx store.Tx) error { return tx.PutContainment(c) })
	return c.ID
}

func TestResidual(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "high", "bob", "session", "bob.1"))
	id := r.effectAt(staunch.TimeOf(r.clock.Now()))
	r.clock.add(10 * time.Second)
	late := r.clock.Now().Add(2 * time.Hour).Format(time.RFC3339)
	// Nothing matches these but the watch: they are kept because bob acts.
	rep := r.ingest(r.rec("2", "read", "bob", "session", "bob.1"))
	if rep.Kept != 1 || !slices.Equal(r.spy.list(), []string{"residual " + id + " read"}) || r.cases()[0].Residual != 1 {
		t.Errorf("%+v, calls %v, residual %d", rep, r.spy.list(), r.cases()[0].Residual)
	}
	rep = r.ingest(r.rec("3", "read", "bob", "session", "bob.1", "denied", "true"), r.rec("4", "read", "alice"))
	if rep.Kept != 1 || len(r.spy.list()) != 1 {
		t.Errorf("a denial and a stranger: %+v, calls %v", rep, r.spy.list())
	}
	// A date out of bounds says nothing of what went on after the effect.
	r.ingest(r.rec("5", "read", "bob", "session", "bob.1", "time", `"`+late+`"`), r.rec("6", "read", "bob", "session", "bob.1", "time", "null"))
	if n := r.cases()[0].Residual; n != 1 || len(r.spy.list()) != 1 {
		t.Errorf("out of bounds: residual %d, calls %v", n, r.spy.list())
	}
	// Redelivery does not count twice.
	again := r.rec("7", "read", "bob", "session", "bob.1")
	r.ingest(again)
	r.ingest(again)
	if n := r.cases()[0].Residual; n != 2 {
		t.Errorf("redelivered: residual %d", n)
	}
}

// TestResidualOfDerived: what was issued by a contained subject and is held with
// it is watched like it.
func TestResidualOfDerived(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "high", "bob", "session", "bob.1"))
	id := r.effectAt(staunch.TimeOf(r.clock.Now()))
	minted := staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: "sha256", Value: staunch.Digest([]byte("minted"))}
	target := staunch.Target{Ref: minted, Attribute: "access"}
	r.update(func(tx store.Tx) error {
		_, err := tx.PutHold(staunch.Hold{
			V: 1, ID: staunch.HoldID(staunch.PlaneGuard, target, id), Plane: staunch.PlaneGuard, Target: target, State: staunch.HoldInForce,
			Deny: []string{"*"}, Claims: []string{id},
		})
		return err
	})
	r.clock.add(time.Minute)
	if rep := r.ingest(r.rec("2", "read", "carol", "token", "minted")); rep.Kept != 0 {
		t.Errorf("before the watch knows: %+v", rep)
	}
	if err := r.pipe.RefreshWatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := r.ingest(r.rec("3", "read", "carol", "token", "minted")); rep.Kept != 1 || r.cases()[0].Residual != 1 {
		t.Errorf("%+v, residual %d", rep, r.cases()[0].Residual)
	}
	if rep := r.ingest(r.rec("4", "critical", "carol", "token", "minted", "denied", "true")); rep.Kept != 1 || rep.Signals != 0 {
		t.Errorf("its denial: %+v", rep)
	}
	// Released, it is a subject like any other.
	c := r.cases()[0]
	c.Phase = staunch.PhaseReleased
	c.Generation++
	r.update(func(tx store.Tx) error { return tx.PutContainment(c) })
	if rep := r.ingest(r.rec("5", "medium", "carol", "token", "minted", "denied", "true")); rep.Signals != 1 {
		t.Errorf("after the release: %+v", rep)
	}
	if err := r.pipe.RefreshWatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rep := r.ingest(r.rec("6", "read", "dave", "session", "bob.1")); rep.Kept != 0 {
		t.Errorf("after the watch knows: %+v", rep)
	}
}

func TestDerived(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "high", "bob", "session", "bob.1"))
	id := r.effectAt(staunch.TimeOf(r.clock.Now()))
	r.ingest(r.rec("2", "issue", "bob", "session", "bob.1", "issued", "sha256:aa"))
	if calls := r.spy.list(); !slices.Contains(calls, "derived "+id) || !r.cases()[0].Replan {
		t.Errorf("calls %v, replan %t", calls, r.cases()[0].Replan)
	}
	n := len(r.spy.list())
	r.ingest(r.rec("3", "issue", "alice", "session", "alice.1", "issued", "sha256:bb"))
	if len(r.spy.list()) != n {
		t.Errorf("a stranger's: %v", r.spy.list())
	}
}

// TestDerivedByAnotherSession: of an account that is contained, what a session
// makes that nobody has seen before is contained with it.
func TestDerivedByAnotherSession(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "account", "dan"))
	id := r.effectAt(staunch.TimeOf(r.clock.Now()))
	r.ingest(r.rec("2", "issue", "dan", "session", "dan.9", "issued", "sha256:cc"))
	if calls := r.spy.list(); !slices.Contains(calls, "derived "+id) {
		t.Errorf("calls %v", calls)
	}
}

func TestBrokenRecords(t *testing.T) {
	r := newRig(t)
	body := strings.Join([]string{
		r.rec("1", "medium", "bob"), "not json", r.rec("2", "login", "alice", "session", "alice.1"), `{"id":"3","id":"4"}`, `7`,
		r.rec("5", "medium", "carol"),
	}, "\n")
	rep, err := r.pipe.Ingest(t.Context(), r.src, strings.NewReader(body), "")
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, x := range rep.Rejected {
		numbers = append(numbers, x.Record)
		if x.Error == "" {
			t.Errorf("record %d: no reason", x.Record)
		}
	}
	if !slices.Equal(numbers, []int{2, 4, 5}) || rep.Accepted != 3 || rep.Kept != 3 || rep.Signals != 2 {
		t.Errorf("%+v", rep)
	}
	if n := r.pipe.Stats().Rejected.Load(); n != 3 {
		t.Errorf("%d counted", n)
	}
	// Many are counted and not all named.
	rep, err = r.pipe.Ingest(t.Context(), r.src, strings.NewReader("x\n"+strings.Repeat("x\n", 1500)), "")
	if err != nil || len(rep.Rejected) != 1000 || rep.MoreRejected != 501 {
		t.Errorf("%d named, %d more: %v", len(rep.Rejected), rep.MoreRejected, err)
	}
}

// TestBrokenInput: the valid part of a body that breaks is kept, and the sender
// is told.
func TestBrokenInput(t *testing.T) {
	broken := errors.New("connection reset")
	zipped := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err1 := io.WriteString(z, text)
		if err := errors.Join(err1, z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		body func(first string) io.Reader
		err  error
		kept int
	}{
		"breaks off":  {func(s string) io.Reader { return io.MultiReader(strings.NewReader(s), iotest.ErrReader(broken)) }, broken, 1},
		"too large":   {func(s string) io.Reader { return strings.NewReader(s + strings.Repeat("\n", 5000)) }, ingest.ErrTooLarge, 1},
		"a bomb":      {func(s string) io.Reader { return bytes.NewReader(zipped(s + strings.Repeat("\n", 1<<20))) }, ingest.ErrTooLarge, 1},
		"truncated":   {func(s string) io.Reader { z := zipped(s); return bytes.NewReader(z[:len(z)-8]) }, staunch.ErrInvalid, 1},
		"not gzip":    {func(string) io.Reader { return strings.NewReader("\x1f\x8bx") }, staunch.ErrInvalid, 0},
		"broken tail": {func(s string) io.Reader { return strings.NewReader(s + "\n{") }, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig, _ *decide.Limits) { r.opt.Limits.Body = 2000 })
			rep, err := r.pipe.Ingest(t.Context(), r.src, c.body(r.rec("1", "medium", "bob")+"\n"), "")
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("error %v", err)
			}
			if rep.Kept != c.kept || rep.Accepted != c.kept || len(r.signals()) != c.kept {
				t.Errorf("%+v", rep)
			}
		})
	}
	r := newRig(t)
	if _, err := r.pipe.Ingest(t.Context(), r.src, strings.NewReader("{}"), "br"); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("an unknown encoding: %v", err)
	}
}

func TestOverload(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(r *rig, _ *decide.Limits) { r.opt.Concurrent = 1 })
	r.store.enter = func() { entered <- struct{}{}; <-leave }
	var wg sync.WaitGroup
	wg.Go(func() { r.ingest(r.rec("1", "medium", "bob")) })
	<-entered
	rep, err := r.pipe.Ingest(t.Context(), r.src, strings.NewReader(r.rec("2", "medium", "bob")), "")
	if !errors.Is(err, staunch.ErrOverloaded) || rep.Accepted != 0 {
		t.Errorf("%+v %v", rep, err)
	}
	close(leave)
	wg.Wait()
	r.store.enter = nil
	if rep := r.ingest(r.rec("2", "medium", "bob")); rep.Kept != 1 {
		t.Errorf("after: %+v", rep)
	}
}

func TestCommitFails(t *testing.T) {
	r := newRig(t)
	records := []string{r.rec("0", "read", "x"), r.rec("1", "critical", "bob", "session", "bob.1", "token", "tok"), r.rec("2", "login", "bob", "session", "bob.2")}
	empty := r.state()
	r.store.inside = errFault
	rep, err := r.pipe.Ingest(t.Context(), r.src, strings.NewReader(strings.Join(records, "\n")), "")
	if !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	if rep.Accepted != 1 || rep.Kept != 0 || rep.Signals != 0 || rep.Decisions != 0 {
		t.Errorf("reported %+v", rep)
	}
	if after := r.state(); after != empty || r.guard.active() != 0 || len(r.observed) != 0 {
		t.Errorf("half applied: %s", after)
	}
	if rep := r.ingest(r.rec("3", "read", "bob", "session", "bob.1")); rep.Kept != 0 {
		t.Errorf("the watch has what did not commit: %+v", rep)
	}
	// Sent again it is as if it had been the first time.
	if rep := r.ingest(records...); rep.Kept != 2 || rep.Signals != 1 || rep.Decisions != 1 {
		t.Errorf("again: %+v", rep)
	}

	// Committed, and the outcome not learned: sent again nothing is doubled.
	r = newRig(t)
	r.store.after = staunch.ErrCommitUnknown
	_, err = r.pipe.Ingest(t.Context(), r.src, strings.NewReader(strings.Join(records, "\n")), "")
	if !errors.Is(err, staunch.ErrCommitUnknown) {
		t.Fatal(err)
	}
	before := r.state()
	if rep := r.ingest(records...); rep.Duplicates != 2 || rep.Kept != 0 || r.state() != before {
		t.Errorf("after an unknown commit: %+v", rep)
	}
}

// TestManyBatches has more items than one transaction takes; a failure in the
// second keeps the first.
func TestManyBatches(t *testing.T) {
	r := newRig(t)
	var records []string
	for i := range 2300 {
		records = append(records, r.rec(fmt.Sprint(i), "login", fmt.Sprintf("u%d", i), "session", fmt.Sprintf("u%d.1", i)))
	}
	n := 0
	r.store.enter = func() {
		if n++; n == 2 {
			r.store.inside = errFault // for the third
		}
	}
	rep, err := r.pipe.Ingest(t.Context(), r.src, strings.NewReader(strings.Join(records, "\n")), "")
	if !errors.Is(err, errFault) || rep.Accepted != 2000 || rep.Kept != 2000 {
		t.Errorf("%+v %v", rep, err)
	}
	r.store.enter = nil
	if rep := r.ingest(records...); rep.Duplicates != 2000 || rep.Kept != 300 || n != 3 {
		t.Errorf("%+v in %d transactions", rep, n)
	}
}

func TestSecrets(t *testing.T) {
	r := newRig(t)
	const token, password = "tok-s3cret-value", "hunter2-is-not-one"
	rec := r.rec("1", "high", "bob", "token", token, "password", password)
	r.ingest(rec, r.rec("2", "field", "eve", "token", token))
	ref := staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: "sha256", Value: staunch.Digest([]byte(token))}
	var all []string
	r.view(func(rd store.Reader) error {
		blob, err := rd.SecretOf(ref)
		if err != nil {
			return err
		}
		plain, err := r.keys.Unseal(pipeline.SecretPurpose(ref), blob)
		if err != nil || string(plain) != token {
			t.Errorf("sealed %q: %v", plain, err)
		}
		all = append(all, string(blob))
		// What is only to be redacted is not kept at all.
		ref.Value = staunch.Digest([]byte(password))
		if _, err := rd.SecretOf(ref); !errors.Is(err, staunch.ErrNotFound) {
			t.Errorf("the password: %v", err)
		}
		return nil
	})
	for _, s := range r.signals() {
		ev := r.event(s.Event)
		if !json.Valid(ev.Raw) || !strings.Contains(string(ev.Raw), staunch.Digest([]byte(token))) {
			t.Errorf("raw %s", ev.Raw)
		}
		if !strings.HasPrefix(ev.Digest, "hmac-sha256:") {
			t.Errorf("digest %s", ev.Digest)
		}
		b, err := json.Marshal([]any{ev, s})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
		if s.Rule == "field" && s.Accused.Kind == staunch.KindCredential && s.Accused.Value != staunch.Digest([]byte(token)) {
			t.Errorf("accused %s", s.Accused)
		}
	}
	all = append(all, r.state())
	for _, s := range all {
		for _, secret := range []string{token, password} {
			if strings.Contains(s, secret) {
				t.Errorf("%s is in %s", secret, s)
			}
		}
	}
	// The keyed digest is the same every time.
	if rep := r.ingest(rec); rep.Duplicates != 1 {
		t.Errorf("redelivered: %+v", rep)
	}
	// Without a sealer nothing is kept, and nothing in plain.
	r = newRig(t, func(r *rig, _ *decide.Limits) { r.opt.Sealer = nil })
	r.ingest(rec)
	ref.Value = staunch.Digest([]byte(token))
	r.view(func(rd store.Reader) error {
		if _, err := rd.SecretOf(ref); !errors.Is(err, staunch.ErrNotFound) {
			t.Errorf("without a sealer: %v", err)
		}
		return nil
	})
}

// release ends the only open case.
func (r *rig) release() {
	r.t.Helper()
	for _, c := range r.cases() {
		if c.Phase == staunch.PhaseReleased {
			continue
		}
		r.update(func(tx store.Tx) error {
			con, err := r.engine.Release(tx, c.ID, staunch.Release{Reason: "false alarm", By: "alice", Revive: true})
			if err != nil {
				return err
			}
			con.Phase = staunch.PhaseReleased
			return tx.PutContainment(con)
		})
	}
}

func TestReleaseSettles(t *testing.T) {
	r := newRig(t)
	r.ingest(r.rec("1", "high", "bob", "session", "bob.1"))
	r.clock.add(time.Minute)
	r.release()
	r.clock.add(time.Minute)
	// The same evidence again, or together with a little more, does not contain.
	r.ingest(r.rec("2", "low", "bob", "session", "bob.1"))
	for _, ref := range []staunch.Ref{session("bob.1"), account("bob")} {
		if a := r.suspicion(ref); a.Enforce.Confidence > 0.25 {
			t.Errorf("%s: %v", ref, a.Enforce.Confidence)
		}
	}
	if n := len(r.cases()); n != 1 {
		t.Fatalf("%d cases", n)
	}
	// New evidence does.
	r.ingest(r.rec("3", "high", "bob", "session", "bob.1"))
	if n := len(r.cases()); n != 2 {
		t.Errorf("%d cases after new evidence", n)
	}
}

// TestReleaseOfTheWiderSettles: evidence against a session is settled when the
// account that it was contained by is released.
func TestReleaseOfTheWiderSettles(t *testing.T) {
	r := newRig(t)
	// Too little against each session, enough against the account.
	r.ingest(r.rec("1", "medium", "bob", "session", "bob.1"))
	r.release()
	r.clock.add(time.Minute)
	r.ingest(r.rec("2", "low", "bob", "session", "bob.2"), r.rec("3", "account", "bob"))
	wide := slices.ContainsFunc(r.cases(), func(c staunch.Containment) bool { return c.Subject == account("bob") })
	if !wide {
		t.Fatalf("the account is not contained: %+v", r.cases())
	}
	r.clock.add(time.Minute)
	r.release()
	before := len(r.cases())
	r.clock.add(time.Minute)
	r.ingest(r.rec("4", "low", "bob", "session", "bob.2"))
	if a := r.suspicion(session("bob.2")); len(r.cases()) != before || len(a.Signals) != 1 {
		t.Errorf("%d cases, was %d; suspicion %+v", len(r.cases()), before, a.Enforce)
	}
}

func TestProtected(t *testing.T) {
	r := newRig(t, func(_ *rig, l *decide.Limits) { l.Protected = []string{"account:" + realm + ":name:break-glass-*"} })
	r.setIdentity(staunch.Identity{Name: "root", Accounts: []staunch.Ref{account("root")}, Protected: true})
	r.ingest(r.rec("1", "critical", "break-glass-1", "session", "break-glass-1.1"))
	r.ingest(r.rec("2", "critical", "root"))
	ds := r.decisions()
	if len(ds) != 2 || ds[0].Verdict != staunch.VerdictProtected || ds[1].Verdict != staunch.VerdictProtected || len(r.cases()) != 0 || r.guard.active() != 0 {
		t.Errorf("%d cases, %+v", len(r.cases()), ds)
	}
	r.view(func(rd store.Reader) error {
		n, err := rd.Notices(staunch.TimeOf(r.clock.Now()).Add(time.Hour), 10)
		if len(n) != 2 {
			t.Errorf("%d notices", len(n))
		}
		return err
	})
}

func TestCaps(t *testing.T) {
	r := newRig(t, func(_ *rig, l *decide.Limits) { l.Global = decide.Places{Limit: 2, Keep: -1} })
	r.ingest(r.rec("1", "high", "a"), r.rec("2", "high", "b"), r.rec("3", "high", "c"))
	verdicts := map[staunch.Verdict]int{}
	for _, d := range r.decisions() {
		verdicts[d.Verdict]++
	}
	if verdicts[staunch.VerdictContain] != 2 || verdicts[staunch.VerdictCapped] != 1 || len(r.cases()) != 2 {
		t.Errorf("%v, %d cases", verdicts, len(r.cases()))
	}
	// A further decision on one that is contained takes no further place.
	r.clock.add(time.Second)
	r.ingest(r.rec("4", "critical", "a"))
	r.view(func(rd store.Reader) error {
		c, err := rd.Cap("open/global")
		if c.Used != 2 {
			t.Errorf("used %d", c.Used)
		}
		return err
	})
	// Other guardrails, for what comes after.
	g, err := decide.NewGuardrails(decide.Limits{Global: decide.Places{Limit: 5, Keep: -1}})
	if err != nil {
		t.Fatal(err)
	}
	r.pipe.SetGuardrails(g)
	r.ingest(r.rec("5", "high", "d"))
	if n := len(r.cases()); n != 3 {
		t.Errorf("%d cases", n)
	}
}

// A finding's id comes from its record. One that no database could keep as a key
// contains like any other, and takes none of its neighbours along.
func TestIDsOfFindings(t *testing.T) {
	r := newRig(t, defaults)
	finding := func(id, user, detector string) string {
		return r.rec(id, "x", user, "kind", `"named"`, "score", "98", "detector", `"`+detector+`"`)
	}
	rep := r.ingest(
		finding("1", "a", `with\u0000NUL`), finding("2", "b", strings.Repeat("long", 1000)), finding("3", "c", "plain"),
		r.rec("4", "high", "d"),
	)
	if rep.Accepted != 4 || len(rep.Rejected) != 0 {
		t.Errorf("%+v", rep)
	}
	if n := len(r.cases()); n != 4 {
		t.Errorf("%d cases, want 4", n)
	}
	rules := map[string]bool{}
	for _, s := range r.signals() {
		rules[s.Rule] = true
		if len(s.Rule) > 600 || strings.ContainsRune(s.Rule, 0) {
			t.Errorf("rule %.100q of %d bytes", s.Rule, len(s.Rule))
		}
	}
	if len(rules) != 4 || !rules["source:src/plain"] {
		t.Errorf("rules are %v", rules)
	}
}

func TestApproval(t *testing.T) {
	r := newRig(t)
	r.setIdentity(staunch.Identity{Name: "plant", Accounts: []staunch.Ref{account("plant")}, Tolerance: staunch.ToleranceNever})
	r.ingest(r.rec("1", "critical", "plant"))
	if d, c := r.only(), r.cases(); d.Verdict != staunch.VerdictApproval || len(c) != 1 || c[0].Phase != staunch.PhaseApproval || r.guard.active() != 0 {
		t.Errorf("%s, %+v", d.Verdict, c)
	}
	// Nothing was done, so what it is refused is not our doing.
	r.clock.add(time.Second)
	if rep := r.ingest(r.rec("2", "medium", "plant", "denied", "true")); rep.Signals != 1 {
		t.Errorf("%+v", rep)
	}
}

// TestWaitingShieldsNobody: a case that waits for a person, and may wait for ever, does
// not keep policy from containing.
func TestWaitingShieldsNobody(t *testing.T) {
	r := newRig(t)
	bob := account("bob")
	r.update(func(tx store.Tx) error {
		return tx.PutContainment(staunch.Containment{
			V: 1, ID: "con_asked", Subject: bob, Names: []staunch.Ref{bob}, Phase: staunch.PhaseApproval, Tier: staunch.TierRevoke, Requester: "mallory",
			Playbook: staunch.Playbook{Name: "x", Stages: []staunch.Stage{{Tier: staunch.TierRevoke, Deny: []string{"*"}}}},
			Scope:    staunch.Scope{Roots: []staunch.Ref{bob}, Highest: staunch.TierRevoke, Widest: staunch.KindAccount, MostTargets: 50},
		})
	})
	r.ingest(r.rec("1", "high", "bob"))
	cases := map[staunch.Phase]staunch.Containment{}
	for _, c := range r.cases() {
		cases[c.Phase] = c
	}
	if len(cases) != 2 || cases[staunch.PhaseApproval].ID != "con_asked" || cases[staunch.PhaseOpen].Subject != bob || r.guard.active() != 1 {
		t.Fatalf("%+v, %d holds", cases, r.guard.active())
	}
	// From then on what is in force is enough.
	n := len(r.decisions())
	r.clock.add(time.Second)
	r.ingest(r.rec("2", "high", "bob"))
	if got := len(r.decisions()); got != n || len(r.cases()) != 2 {
		t.Errorf("%d decisions, want %d: %+v", got, n, r.decisions())
	}
}

func TestEscalation(t *testing.T) {
	r := newRig(t)
	r.setIdentity(staunch.Identity{Name: "bob", Accounts: []staunch.Ref{account("bob")}})
	for i, want := range []staunch.Tier{staunch.TierRestrict, staunch.TierIsolate, staunch.TierRevoke} {
		r.clock.add(time.Second)
		r.ingest(r.rec(fmt.Sprint(i), []string{"medium", "other", "critical"}[i], "bob"))
		if c := r.cases(); len(c) != 1 || c[0].Tier != want {
			t.Fatalf("after %d: %+v", i+1, c)
		}
	}
	// What asks for no more than is in force makes no decision of its own; its
	// signal counts.
	if rep := r.ingest(r.rec("9", "low", "bob")); rep.Signals != 1 || rep.Decisions != 0 || len(r.decisions()) != 3 || len(r.cases()) != 1 {
		t.Errorf("%+v, %d decisions, %d cases", rep, len(r.decisions()), len(r.cases()))
	}
}

// TestBundles: each input is judged by one bundle, and its signals and decisions
// name it.
func TestBundles(t *testing.T) {
	r := newRig(t)
	other := *r.bundle
	other.Hash = "sha256:two"
	other.Rules = compileRules(t, "title: new\nid: new\nlevel: high\nlogsource: {product: fake}\ndetection: {s: {op: read}, condition: s}\n")
	first, rest := r.rec("1", "high", "a"), r.rec("2", "high", "b")+"\n"+r.rec("3", "read", "c")
	swap := iotest.ErrReader(io.EOF)
	body := io.MultiReader(strings.NewReader(first+"\n"), readerFunc(func(p []byte) (int, error) {
		r.pipe.SetBundle(&other)
		return swap.Read(p)
	}), strings.NewReader(rest))
	rep, err := r.pipe.Ingest(t.Context(), r.src, body, "")
	if err != nil || rep.Signals != 2 {
		t.Fatalf("%+v %v", rep, err)
	}
	for _, s := range r.signals() {
		if s.Bundle != "sha256:one" {
			t.Errorf("%s under %s", s.Rule, s.Bundle)
		}
	}
	for _, d := range r.decisions() {
		if d.Bundle != "sha256:one" {
			t.Errorf("decided under %s", d.Bundle)
		}
	}
	if r.pipe.Bundle() != &other {
		t.Error("not in place")
	}
	if rep := r.ingest(r.rec("4", "read", "d")); rep.Signals != 1 {
		t.Errorf("after: %+v", rep)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestLines(t *testing.T) {
	r := newRig(t)
	cursor := func() string {
		var s string
		r.view(func(rd store.Reader) (err error) {
			if s, err = rd.Cursor("tail/src"); errors.Is(err, staunch.ErrNotFound) {
				err = nil
			}
			return err
		})
		return s
	}
	parked := func() []store.Parked {
		var out []store.Parked
		r.view(func(rd store.Reader) (err error) {
			out, err = rd.Parked(store.Page{})
			return err
		})
		return out
	}
	long := `{"id":"` + strings.Repeat("x", 100<<10)
	text := r.rec("1", "medium", "bob") + "\n\n[2026-03-01] not json: password=hunter2\n" + r.rec("2", "medium", "alice") + "\n" + long + "\n7\n"
	lines := func(at string) error {
		return r.pipe.Lines(t.Context(), r.src, []byte(text), 11, func(tx store.Tx) error { return tx.PutCursor("tail/src", at) })
	}
	// Nothing is kept without the position.
	r.store.inside = errFault
	if err := lines("one"); !errors.Is(err, errFault) || cursor() != "" || len(parked()) != 0 || len(r.signals()) != 0 {
		t.Fatalf("%v, cursor %q, %d parked", err, cursor(), len(parked()))
	}
	if err := lines("two"); err != nil || cursor() != "two" || len(r.signals()) != 2 {
		t.Fatalf("%v, cursor %q, %d signals", err, cursor(), len(r.signals()))
	}
	var numbers []int
	for _, p := range parked() {
		numbers = append(numbers, p.Number)
		plain, err := r.keys.Unseal(pipeline.ParkedPurpose(p.ID), p.Raw)
		if err != nil || p.Reason == "" || p.Source != "src" || strings.Contains(p.Reason, "hunter2") {
			t.Errorf("%+v: %v", p, err)
		}
		if bytes.Contains(p.Raw, []byte("hunter2")) {
			t.Error("parked in plain")
		}
		switch p.Number {
		case 13:
			if string(plain) != "[2026-03-01] not json: password=hunter2" {
				t.Errorf("parked %q", plain)
			}
		case 15:
			if len(plain) == 0 || len(plain) > 64<<10 {
				t.Errorf("parked %d bytes of a long line", len(plain))
			}
		}
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int{13, 15, 16}) {
		t.Errorf("parked %v", numbers)
	}
	// The same lines again change nothing.
	before := r.state()
	if err := lines("three"); err != nil || len(parked()) != 3 || r.state() != before || cursor() != "three" {
		t.Errorf("again: %v, %d parked", err, len(parked()))
	}
	// Lines that cause nothing still move the position.
	text = r.rec("9", "read", "bob2") + "\n"
	if err := lines("four"); err != nil || cursor() != "four" {
		t.Errorf("%v, cursor %q", err, cursor())
	}
}

// TestEndToEnd has a stolen session's record in and the session gone from the
// platform, with the engine at work.
func TestEndToEnd(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := r.engine.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		r.engine.Wait()
	}()
	r.platform.AddAccount("bob")
	stolen, other := r.platform.Login("bob"), r.platform.Login("bob")
	await := func(what string, ok func(contain.Case) bool) contain.Case {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			var c contain.Case
			id := r.cases()[0].ID
			r.view(func(rd store.Reader) (err error) {
				c, err = contain.ReadCase(rd, id)
				return err
			})
			if ok(c) {
				return c
			}
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s: %+v", what, c)
			}
		}
	}
	r.ingest(r.rec("1", "high", "bob", "session", stolen))
	c := await("the effect", func(c contain.Case) bool {
		return c.Containment.EffectAt != 0 && c.Containment.Phase == staunch.PhaseHeld
	})
	if r.platform.Use(stolen) || !r.platform.Use(other) || c.Containment.Subject != session(stolen) {
		t.Errorf("stolen works %t, the other %t", r.platform.Use(stolen), r.platform.Use(other))
	}
	// Its denial is nothing new, its success is residual access.
	r.clock.add(time.Minute)
	r.ingest(r.rec("2", "critical", "bob", "session", stolen, "denied", "true"), r.rec("3", "read", "bob", "session", stolen))
	await("the residual access", func(c contain.Case) bool { return c.Containment.Residual == 1 })
	if a := r.suspicion(session(stolen)); a.Enforce.Confidence != 0.75 {
		t.Errorf("confidence %v", a.Enforce.Confidence)
	}
}
