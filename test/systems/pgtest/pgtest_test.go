package pgtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestSharedDatabasesAreApart(t *testing.T) {
	t.Parallel()
	first, second := pgtest.NewDatabase(t), pgtest.NewDatabase(t)
	a, b := connect(t, first), connect(t, second)
	if _, err := a.Exec(t.Context(), "CREATE TABLE only_here (n int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Exec(t.Context(), "SELECT * FROM only_here"); err == nil {
		t.Fatal("a table of one database is seen in the other")
	}
	var preload string
	if err := a.QueryRow(t.Context(), "SHOW shared_preload_libraries").Scan(&preload); err != nil || preload != "" {
		t.Fatalf("shared_preload_libraries = %q, %v", preload, err)
	}
	if log := pgtest.Shared(t).Log(t); !strings.Contains(log, "CREATE TABLE only_here") {
		t.Fatal("the shared server's log lacks a statement")
	}
}

func TestNewDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("inner", func(t *testing.T) {
		dsn = pgtest.NewDatabase(t)
		connect(t, dsn) // stays open past the drop: cleanups run last in, first out
	})
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("the database outlived its test")
	}
}

func TestPasswordIsAsked(t *testing.T) {
	t.Parallel()
	s := pgtest.Shared(t)
	if conn, err := pgx.Connect(t.Context(), s.UserDSN(pgtest.Superuser, "wrong", "postgres")); err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("a wrong password is accepted")
	}
}

func TestPrivateServerWithJSONLogSurvivesKill(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{
		JSONLog: true, LogStatements: true, Durable: true, MaxConnections: 30,
		Settings: map[string]string{"log_connections": "on"},
	})
	dsn := s.NewDatabase(t)
	conn := connect(t, dsn)
	for _, q := range []string{"CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)"} {
		if _, err := conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []pgtest.Mode{pgtest.Kill, pgtest.Immediate, pgtest.Fast} {
		before := s.PID()
		s.Stop(t, mode)
		if s.Running() || s.PID() != 0 {
			t.Fatalf("runs after Stop(%d)", mode)
		}
		s.Start(t)
		if s.PID() == before {
			t.Fatalf("the same process %d after a restart", before)
		}
		var n, limit int
		again := connect(t, dsn)
		if err := again.QueryRow(t.Context(), "SELECT n, current_setting('max_connections')::int FROM kept").Scan(&n, &limit); err != nil {
			t.Fatal(err)
		}
		if n != 7 || limit != 30 {
			t.Fatalf("n = %d, max_connections = %d", n, limit)
		}
	}

	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(s.Log(t)), "\n") {
		var entry struct {
			Message string `json:"message"`
			User    string `json:"user"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("a log line is not JSON: %v: %s", err, line)
		}
		if strings.Contains(entry.Message, "INSERT INTO kept VALUES (7)") && entry.User == pgtest.Superuser {
			seen["statement"] = true
		}
		if strings.HasPrefix(entry.Message, "connection received") {
			seen["connection"] = true
		}
		if strings.Contains(entry.Message, "automatic recovery") {
			seen["recovery"] = true
		}
	}
	for _, want := range []string{"statement", "connection", "recovery"} {
		if !seen[want] {
			t.Errorf("the log has no %s", want)
		}
	}
}

func TestServersInParallel(t *testing.T) {
	t.Parallel()
	var servers [3]*pgtest.Server
	t.Run("started", func(t *testing.T) {
		for i := range servers {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				servers[i] = pgtest.Start(t, pgtest.Options{})
				servers[i].Exec(t, "postgres", "SELECT 1")
			})
		}
	})
	for _, s := range servers {
		if s.Running() {
			t.Error("a server outlived its test")
		}
		if _, err := os.Stat(s.DataDir); !os.IsNotExist(err) {
			t.Errorf("its directory is still there: %v", err)
		}
	}
}

func TestMissingPostgres(t *testing.T) {
	t.Setenv("STAUNCH_POSTGRES_BIN", t.TempDir())
	t.Setenv("STAUNCH_REQUIRE_POSTGRES", "")
	if tb := run(t, pgtest.Require); !tb.skipped || tb.failed {
		t.Errorf("without the requirement: %+v, want a skip", tb)
	}
	t.Setenv("STAUNCH_REQUIRE_POSTGRES", "1")
	tb := run(t, pgtest.Require)
	if !tb.failed || tb.skipped || !strings.Contains(tb.said, "apt-get install postgresql") {
		t.Errorf("with the requirement: %+v, want a failure that says what to install", tb)
	}
}

// recorder is a testing.TB that notes how it was ended.
type recorder struct {
	testing.TB
	skipped, failed bool
	said            string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed, r.said = true, fmt.Sprintf(format, args...)
	panic(r)
}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped, r.said = true, fmt.Sprintf(format, args...)
	panic(r)
}

func run(t *testing.T, f func(testing.TB)) (r *recorder) {
	t.Helper()
	r = &recorder{TB: t}
	defer func() {
		if p := recover(); p != nil && p != any(r) {
			panic(p)
		}
	}()
	f(r)
	return r
}

func TestRefusesASecondStart(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	if err := syscall.Kill(s.PID(), 0); err != nil {
		t.Fatalf("the server's process: %v", err)
	}
	r := run(t, func(tb testing.TB) { s.Start(tb) })
	if !r.failed {
		t.Fatal("a running server was started again")
	}
}
