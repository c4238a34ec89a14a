package sqlstore_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
)

// TestLogHasRoom: the write-ahead log is longer than what was written, grows with
// it, and what stands behind the last commit means nothing at a start after a
// crash, which is a copy of the files here.
func TestLogHasRoom(t *testing.T) {
	dir := t.TempDir()
	chain := storetest.Chain{}
	path := filepath.Join(dir, "one.db")
	s, err := sqlstore.OpenSQLite(t.Context(), path, sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	length := func() int64 {
		st, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	first := length()
	if first < 1<<20 {
		t.Fatalf("an empty store's log has %d bytes", first)
	}
	const decisions = 120 // more than the first room holds
	for n := range decisions {
		if err := s.Update(t.Context(), func(tx store.Tx) error { return storetest.Decide(tx, n, staunch.Time(n+1)) }); err != nil {
			t.Fatal(err)
		}
	}
	if grown := length(); grown < 2*first {
		t.Errorf("the log had %d bytes and has %d", first, grown)
	}
	for _, name := range []string{"one.db", "one.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "crashed"+name[len("one"):]), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(dir, "crashed.db"), sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = after.Close() }()
	acked := make([]int, decisions)
	for n := range acked {
		acked[n] = n
	}
	if err := after.View(t.Context(), func(r store.Reader) error {
		n, err := storetest.CheckLoad(r, acked)
		if err == nil && n != decisions {
			t.Errorf("%d of %d decisions are there", n, decisions)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
