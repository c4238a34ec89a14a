package sqlstore_test

import (
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(pgtest.Main(m))
}

func options(node string) sqlstore.Options {
	return sqlstore.Options{Chain: storetest.Chain{}, Node: node}
}

func openLite(tb testing.TB, path string) *sqlstore.SQLite {
	tb.Helper()
	s, err := sqlstore.OpenSQLite(tb.Context(), path, options("one"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeStore(tb, s) })
	return s
}

func openPG(tb testing.TB, dsn, node string) *sqlstore.Postgres {
	tb.Helper()
	s, err := sqlstore.OpenPostgres(tb.Context(), staunch.NewSecret(dsn), options(node))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeStore(tb, s) })
	return s
}

func closeStore(tb testing.TB, s store.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Errorf("Close: %v", err)
	}
}

func TestSQLite(t *testing.T) {
	statements := map[string]bool{}
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		path := filepath.Join(t.TempDir(), "staunch.db")
		s := openLite(t, path)
		if !strings.HasSuffix(t.Name(), "/Close") && !strings.HasSuffix(t.Name(), "/Reopen") {
			t.Cleanup(func() {
				for _, text := range s.Statements() {
					statements[text] = true
				}
			})
		}
		return storetest.Harness{Store: s, Reopen: func(t *testing.T) store.Store {
			closeStore(t, s)
			return openLite(t, path)
		}}
	})
	t.Run("Plans", func(t *testing.T) {
		s := openLite(t, filepath.Join(t.TempDir(), "staunch.db"))
		explained := 0
		for text := range statements {
			if kind, _, _ := strings.Cut(text, " "); kind == "SELECT" || kind == "UPDATE" || kind == "DELETE" {
				plan, err := s.Explain(text)
				if err != nil {
					t.Errorf("%s: %v", text, err)
				}
				checkPlan(t, text, plan)
				explained++
			}
		}
		if explained < 50 {
			t.Errorf("only %d statements were explained", explained)
		}
	})
}

func TestPostgres(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		dsn := pgtest.NewDatabase(t)
		s := openPG(t, dsn, "one")
		return storetest.Harness{
			Store: s,
			Other: func(t *testing.T, node string) store.Store { return openPG(t, dsn, node) },
			Reopen: func(t *testing.T) store.Store {
				closeStore(t, s)
				return openPG(t, dsn, "one")
			},
		}
	})
}
