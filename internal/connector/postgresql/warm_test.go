package postgresql_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch/internal/connector/postgresql"
)

// TestWarm: the connections are there before anything is asked, and a second time
// the same ones are left as they are.
func TestWarm(t *testing.T) {
	s := start(t)
	backends := func() []int32 {
		t.Helper()
		rows, err := s.admin.Query(t.Context(), "SELECT pid FROM pg_stat_activity WHERE application_name = 'staunch' ORDER BY pid")
		if err != nil {
			t.Fatal(err)
		}
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		if err != nil {
			t.Fatal(err)
		}
		return pids
	}
	before := len(backends())
	c := open(t, s.config(func(cfg *postgresql.Config) { cfg.MaxConns = 3 }))
	if n := len(backends()); n != before {
		t.Fatalf("%d connections before it was asked to get ready", n-before)
	}
	if err := c.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := backends()
	if n := len(first) - before; n < 3 {
		t.Errorf("%d connections are ready, want at least the 3 to the DSN's own database", n)
	}
	if err := c.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := backends(); !slices.Equal(again, first) {
		t.Errorf("the second time there are %v, not %v", again, first)
	}
}
