package sqlstore_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
)

// TestOldRefsGetNumbers: what a file of an earlier release says of refs is found as
// before, together with what comes to it.
func TestOldRefsGetNumbers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staunch.db")
	account, session := storetest.Ref(1), storetest.Ref(2)
	event, signal := storetest.Event(1, 10, session, account), storetest.Signal(session, 1, 10)
	fact := storetest.Fact(session, account, 1, 10)
	quoted := func(v any) string {
		b, err := store.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return "x'" + hex.EncodeToString(b) + "'"
	}
	fill := []string{
		fmt.Sprintf("INSERT INTO events (id, at, body) VALUES ('%s', 10, %s)", event.ID, quoted(event)),
		fmt.Sprintf("INSERT INTO signals (id, accused, at, body) VALUES ('%s', '%s', 10, %s)", signal.ID, session.Key(), quoted(signal)),
	}
	for _, ref := range event.Actor {
		fill = append(fill,
			fmt.Sprintf("INSERT INTO event_actors (ref, at, event) VALUES ('%s', 10, '%s')", ref.Key(), event.ID),
			fmt.Sprintf("INSERT INTO signals_within (within, at, id) VALUES ('%s', 10, '%s')", ref.Key(), signal.ID))
	}
	links := fact.Links()
	if len(links) != 1 {
		t.Fatalf("%+v", links)
	}
	l := links[0]
	fill = append(fill, fmt.Sprintf("INSERT INTO links (fact, rel, from_ref, to_ref, since, body) VALUES ('%s', '%s', '%s', '%s', 10, %s)",
		l.Fact, l.Rel, l.From.Key(), l.To.Key(), quoted(map[string]any{"from": l.From, "to": l.To, "rel": l.Rel, "since": l.Since, "learned": l.Learned, "fact": l.Fact})))
	if err := sqlstore.OldSQLite(t.Context(), path, 6, fill...); err != nil {
		t.Fatal(err)
	}

	s := openLite(t, path)
	check := func(want int) {
		t.Helper()
		look := func(r store.Reader) error {
			for _, ref := range []staunch.Ref{account, session} {
				events, err := r.EventsNaming([]staunch.Ref{ref}, 10)
				if err != nil {
					return err
				}
				if len(events) != want || events[want-1].ID != event.ID {
					t.Errorf("%s: %d events, want %d", ref, len(events), want)
				}
			}
			signals, err := r.SignalsWithin([]staunch.Ref{session}, 0, 10)
			if err != nil {
				return err
			}
			if len(signals) != want || signals[want-1].ID != signal.ID {
				t.Errorf("%d signals, want %d", len(signals), want)
			}
			from, err := r.LinksFrom([]staunch.Ref{session}, []staunch.Rel{l.Rel}, 10)
			to, err2 := r.LinksTo([]staunch.Ref{account}, []staunch.Rel{l.Rel}, 10)
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			if len(from) != want || len(to) != want || from[0].Fact != fact.ID || to[0].Fact != fact.ID {
				t.Errorf("%d links from, %d to, want %d", len(from), len(to), want)
			}
			return nil
		}
		if err := s.View(t.Context(), look); err != nil {
			t.Fatal(err)
		}
		if err := s.Update(t.Context(), func(tx store.Tx) error { return look(tx) }); err != nil {
			t.Fatal(err)
		}
	}
	check(1)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.PutEvent(storetest.Event(2, 20, session, account))
		_, err2 := tx.PutSignal(storetest.Signal(session, 2, 20))
		_, err3 := tx.PutFact(storetest.Fact(session, account, 2, 20))
		return errors.Join(err, err2, err3)
	})
	if err != nil {
		t.Fatal(err)
	}
	check(2)
}

// TestForgottenRefsGiveTheirNumbersBack: a ref has a number for as long as something
// is stored of it, and gets another when something is again.
func TestForgottenRefsGiveTheirNumbersBack(t *testing.T) {
	s := openLite(t, filepath.Join(t.TempDir(), "staunch.db"))
	account, session := storetest.Ref(1), storetest.Ref(2)
	update := func(fn func(store.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		update(func(tx store.Tx) error {
			_, err := tx.PutEvent(storetest.Event(1, 10, session, account))
			_, err2 := tx.PutSignal(storetest.Signal(session, 1, 10))
			_, err3 := tx.PutFact(storetest.Fact(session, account, 1, 10))
			return errors.Join(err, err2, err3)
		})
		for i, kind := range []store.Kept{store.KeptSignals, store.KeptFacts, store.KeptEvents} {
			if n, err := s.Refs(); err != nil || n != 2 {
				t.Fatalf("%d of 3 kinds are deleted, and %d refs have a number: %v", i, n, err)
			}
			update(func(tx store.Tx) error {
				w, err := tx.Walk(kind, "", 100, 100, 10)
				if err != nil || len(w.Rows) != 1 {
					return fmt.Errorf("%d of the %s: %w", len(w.Rows), kind, err)
				}
				_, err = tx.Forget(kind, w.Rows)
				return err
			})
		}
		if n, err := s.Refs(); err != nil || n != 0 {
			t.Fatalf("%d refs of which nothing is stored have a number: %v", n, err)
		}
	}
}
