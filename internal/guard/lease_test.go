package guard_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// put puts a guard hold that is in force.
func putHold(t *testing.T, s store.Store, id, who string) staunch.Hold {
	t.Helper()
	var out staunch.Hold
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		var err error
		out, err = tx.PutHold(hold(id, 0, account(who), "*"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func readHold(t *testing.T, s store.Store, id string) staunch.Hold {
	t.Helper()
	var out staunch.Hold
	if err := s.View(t.Context(), func(r store.Reader) error {
		var err error
		out, err = r.Hold(id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// step has a guard do what Follow does once.
func step(t *testing.T, g *guard.Guard) int {
	t.Helper()
	if err := g.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := g.Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOneGuardProves(t *testing.T) {
	clock := newClock()
	s, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "g.db"), sqlstore.Options{Chain: storetest.Chain{}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	g := guard.New(guard.Options{Store: s, Clock: clock, Node: "a", StaleAfter: 10 * time.Second})
	h := putHold(t, s, "h", "bob")
	if n, err := g.Prove(t.Context()); n != 0 || err != nil {
		t.Errorf("without a guard %d holds were proven, %v", n, err)
	}
	if err := g.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !g.Stale() {
		t.Error("a guard without a place is not stale")
	}
	if n := step(t, g); n != 1 || g.Stale() {
		t.Errorf("%d holds were proven, stale %t", n, g.Stale())
	}
	proven := readHold(t, s, "h")
	if proven.State != staunch.HoldProven || proven.Seq <= h.Seq {
		t.Errorf("the hold is %+v", proven)
	}
	if err := s.View(t.Context(), func(r store.Reader) error {
		recs, err := r.RecordsAbout("con_1", 10)
		if len(recs) != 1 || recs[0].Kind != staunch.RecordProof {
			t.Errorf("the records are %+v", recs)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if n := step(t, g); n != 0 {
		t.Errorf("%d holds were proven a second time", n)
	}
	// More than one page.
	for i := range 450 {
		putHold(t, s, "x"+string(rune('a'+i%26))+time.Duration(i).String(), time.Duration(i).String())
	}
	if n := step(t, g); n != 450 {
		t.Errorf("%d of 450 holds were proven", n)
	}
	// Its place runs out by its own clock, whatever it still knows.
	clock.add(10 * time.Second)
	if a := g.MayAct([]staunch.Ref{account("carol")}, "read"); a.Allowed || a.Reason != guard.ReasonStale {
		t.Errorf("a guard whose place ran out says %+v", a)
	}
	if step(t, g); g.Stale() {
		t.Error("a guard that renewed its place is stale")
	}
	if err := g.Leave(t.Context()); err != nil || !g.Stale() {
		t.Errorf("after leaving: %v, stale %t", err, g.Stale())
	}
}

// TestPausedGuard has two nodes on one database: a hold is proven when both have
// applied it, and when one of them is silent for so long that it answers with
// its fail mode.
func TestPausedGuard(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	open := func(node string) *sqlstore.Postgres {
		t.Helper()
		s, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(dsn), sqlstore.Options{Chain: storetest.Chain{}, Node: node})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	const stale = 2 * time.Second
	s := open("a")
	node := func(name string, st store.Store) *guard.Guard {
		return guard.New(guard.Options{Store: st, Clock: staunch.SystemClock{}, Node: name, StaleAfter: stale, Every: time.Hour})
	}
	a, b := node("a", s), node("b", open("b"))
	step(t, a)
	step(t, b)
	putHold(t, s, "h", "bob")
	if n := step(t, a); n != 0 {
		t.Error("a hold was proven that b has not applied")
	}
	if n := step(t, b); n != 1 {
		t.Errorf("b applied it and %d holds were proven", n)
	}
	// From here on b is paused. Its place runs out before a counts on that.
	putHold(t, s, "h2", "carol")
	deadline := time.Now().Add(30 * time.Second)
	for step(t, a) == 0 {
		if readHold(t, s, "h2").State == staunch.HoldProven || time.Now().After(deadline) {
			t.Fatal("the hold was never proven without the paused guard")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if ans := b.MayAct([]staunch.Ref{account("carol")}, "read"); ans.Allowed || ans.Reason != guard.ReasonStale {
		t.Errorf("a hold was proven that the paused guard would let through: %+v", ans)
	}
	// It comes back, and has the hold before it answers otherwise.
	if err := b.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ans := b.MayAct([]staunch.Ref{account("carol")}, "read"); ans.Allowed || ans.Reason != guard.ReasonHold {
		t.Errorf("the guard that is back says %+v", ans)
	}
	all, now, err := a.Guards(t.Context())
	if err != nil || len(all) != 2 || !all[0].Live(now) || !all[1].Live(now) {
		t.Errorf("the guards are %+v, %v", all, err)
	}
}
