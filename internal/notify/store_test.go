package notify

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// The outbox of the real store: a notice is put in the transaction that it tells
// about, is delivered after it, and is not due again.
func TestDeliversFromTheRealStore(t *testing.T) {
	chain, err := record.NewChain(make([]byte, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	var in inbox
	ended := make(chan Attempt, 10)
	d := NewDispatcher(Options{
		Store: db, Log: slog.New(slog.DiscardHandler), Poll: time.Hour, Observe: func(a Attempt) { ended <- a },
	}, []Bound{{Name: "ops", Channel: takes(&in)}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	defer func() { cancel(); <-done }()

	c, steps := containment()
	tell := Teller{Channels: []string{"ops"}}
	err = db.Update(t.Context(), func(tx store.Tx) error {
		for _, n := range tell.Notices("contained", c, steps, staunch.TimeOf(time.Now())) {
			if err := tx.PutNotice(n); err != nil {
				return err
			}
		}
		tx.OnCommit(d.Wake)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-ended:
		if a.Err != nil || !a.Last || a.Number != 1 {
			t.Fatalf("attempt %+v", a)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was sent")
	}
	if len(in.got()) != 1 {
		t.Fatalf("sent %v", in.got())
	}
	err = db.View(t.Context(), func(r store.Reader) error {
		left, err := r.Notices(staunch.TimeOf(time.Now().Add(time.Hour)), 10)
		if err == nil && len(left) != 0 {
			t.Errorf("still due: %+v", left)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
