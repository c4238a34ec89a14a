package sqlstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// cutter is what a proxy does with the message that commits.
type cutter int

const (
	cutNever  cutter = iota
	cutBefore        // the server never gets it
	cutAfter         // the server gets it, and its answer is lost
	cutLate          // as cutBefore, but it is delivered later: see deliver
)

// proxy stands between a store and its server, so that a test can take away
// the answer to a commit.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	dsn      string

	mu     sync.Mutex
	mode   cutter // for the next commit that has a marker
	closed bool   // refuses new connections
	cuts   int
	late   func() []byte // delivers what was held back and returns the answer
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

func newProxy(t *testing.T, dsn string) *proxy {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: u.Host, conns: map[net.Conn]bool{}}
	u.Host = l.Addr().String()
	p.dsn = u.String()
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.closed
		p.conns[client] = true
		p.mu.Unlock()
		if refuse {
			_ = client.Close()
			continue
		}
		var dialer net.Dialer
		server, err := dialer.DialContext(p.t.Context(), "tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[server] = true
		p.mu.Unlock()
		drop := &dropping{answer: make(chan []byte, 1)}
		p.wg.Go(func() { p.toServer(client, server, drop) })
		p.wg.Go(func() { toClient(client, server, drop) })
	}
}

// dropping says that the server's next answer goes to the test instead of the
// client.
type dropping struct {
	on     atomic.Bool
	answer chan []byte
}

func toClient(client, server net.Conn, d *dropping) {
	defer func() { _, _ = client.Close(), server.Close() }()
	buf := make([]byte, 1<<16)
	for {
		n, err := server.Read(buf)
		if d.on.Load() {
			d.answer <- bytes.Clone(buf[:n])
			return
		}
		if n > 0 {
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) toServer(client, server net.Conn, d *dropping) {
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			if !d.on.Load() {
				_ = server.Close()
			}
			return
		}
		mode := cutNever
		if bytes.Contains(buf[:n], []byte("commit-")) {
			p.mu.Lock()
			if mode = p.mode; mode != cutNever {
				p.mode = cutNever
				p.cuts++
			}
			p.mu.Unlock()
		}
		switch mode {
		case cutBefore:
			_, _ = client.Close(), server.Close()
			return
		case cutLate:
			d.on.Store(true)
			held := bytes.Clone(buf[:n])
			p.mu.Lock()
			p.late = func() []byte {
				if _, err := server.Write(held); err != nil {
					return []byte(err.Error())
				}
				return <-d.answer
			}
			p.mu.Unlock()
			_ = client.Close()
			return
		case cutAfter:
			d.on.Store(true)
		case cutNever:
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) next(mode cutter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode, p.cuts = mode, 0
}

func (p *proxy) refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = yes
}

// count adds one to a cursor, and counts its runs.
func count(ctx context.Context, s store.Store, name string, runs *int) error {
	return s.Update(ctx, func(tx store.Tx) error {
		*runs++
		v, err := tx.Cursor(name)
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return err
		}
		n, _ := strconv.Atoi(v) // "" is 0
		return tx.PutCursor(name, strconv.Itoa(n+1))
	})
}

func value(t *testing.T, s store.Store, name string) int {
	t.Helper()
	var v string
	err := s.View(t.Context(), func(r store.Reader) (err error) { v, err = r.Cursor(name); return err })
	if errors.Is(err, staunch.ErrNotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPostgresCommitUnknown takes away the answer to a commit, in every way
// that a network can.
func TestPostgresCommitUnknown(t *testing.T) {
	for _, c := range []struct {
		name string
		mode cutter
		runs int
	}{
		{"committed, the answer lost", cutAfter, 1},
		{"the commit lost", cutBefore, 2},
		{"the commit late", cutLate, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProxy(t, pgtest.NewDatabase(t))
			s := openPG(t, p.dsn, "one")
			for round := 1; round <= 3; round++ {
				p.next(c.mode)
				runs := 0
				if err := count(t.Context(), s, "n", &runs); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if p.cuts != 1 || runs != c.runs || value(t, s, "n") != round {
					t.Fatalf("round %d: %d cuts, %d runs instead of %d, value %d", round, p.cuts, runs, c.runs, value(t, s, "n"))
				}
				if c.mode != cutLate {
					continue
				}
				answer := p.late()
				// The backend is gone by then, or its transaction fenced.
				if bytes.Contains(answer, []byte("COMMIT")) || value(t, s, "n") != round {
					t.Fatalf("round %d: the late commit was answered %q, value %d", round, answer, value(t, s, "n"))
				}
			}
		})
	}
	t.Run("nobody to ask", func(t *testing.T) {
		for mode, want := range map[cutter]int{cutAfter: 1, cutBefore: 0} {
			p := newProxy(t, pgtest.NewDatabase(t))
			s := openPG(t, p.dsn, "one")
			p.next(mode)
			p.refuse(true)
			ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
			runs, called := 0, false
			err := s.Update(ctx, func(tx store.Tx) error {
				tx.OnCommit(func() { called = true })
				runs++
				return tx.PutCursor("n", "1")
			})
			cancel()
			if !errors.Is(err, staunch.ErrCommitUnknown) || runs != 1 || called {
				t.Errorf("mode %d: %v after %d runs, OnCommit called: %v", mode, err, runs, called)
			}
			p.refuse(false)
			if got := value(t, s, "n"); got != want {
				t.Errorf("mode %d: value %d, want %d", mode, got, want)
			}
		}
	})
	t.Run("a read", func(t *testing.T) {
		// Nothing was written, so there is nothing that could be half done.
		p := newProxy(t, pgtest.NewDatabase(t))
		s := openPG(t, p.dsn, "one")
		p.next(cutAfter)
		err := s.Update(t.Context(), func(tx store.Tx) error { _, err := tx.HoldSeq(); return err })
		if err != nil || p.cuts != 0 {
			t.Errorf("%v, %d cuts", err, p.cuts)
		}
	})
}

// TestPostgresFence: what resolve says is so, and stays so, whatever the
// transaction in question does next.
func TestPostgresFence(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	s := openPG(t, dsn, "one")
	begin := func() *pgx.Conn {
		t.Helper()
		c, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) }) //nolint:usetesting // the test's context is over by then
		if _, err := c.Exec(t.Context(), "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO cursors (name, value) VALUES ('x', 'v') ON CONFLICT (name) DO UPDATE SET value = excluded.value"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const mark = "INSERT INTO commits (slot, marker, at) VALUES ('slot', '%s', 1) ON CONFLICT (slot) DO UPDATE SET marker = excluded.marker"
	for round, slotThere := range []bool{false, true} {
		// Still open: fenced, and can no longer commit.
		c := begin()
		if committed, err := s.Resolve(t.Context(), "slot", "m1"); committed || err != nil {
			t.Fatalf("round %d: an open transaction: %v, %v", round, committed, err)
		}
		_, err := c.Exec(t.Context(), fmt.Sprintf(mark+"; COMMIT", "m1"))
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "40001" {
			t.Fatalf("round %d (a row there: %v): a fenced transaction committed: %v", round, slotThere, err)
		}
		if _, err := c.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []string{"COMMIT", "ROLLBACK"} {
		// Being committed: waited for, and told as it ended.
		c := begin()
		if _, err := c.Exec(t.Context(), fmt.Sprintf(mark, "m2")); err != nil {
			t.Fatal(err)
		}
		told := make(chan string, 1)
		go func() {
			committed, err := s.Resolve(t.Context(), "slot", "m2")
			told <- fmt.Sprint(committed, err)
		}()
		waiting := 0
		for waiting == 0 {
			err := c.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid IS NOT NULL").Scan(&waiting)
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(told) != 0 {
			t.Errorf("told before the end: %s", <-told)
		}
		if _, err := c.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if got, want := <-told, fmt.Sprint(end == "COMMIT", nil); got != want {
			t.Errorf("%s: resolved as %s", end, got)
		}
		if again, err := s.Resolve(t.Context(), "slot", "m2"); again != (end == "COMMIT") || err != nil {
			t.Errorf("%s: the second time resolved as %v, %v", end, again, err)
		}
		if _, err := s.Resolve(t.Context(), "slot", "m3"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPostgresTerminated has backends terminated at any moment while callers
// count: each Update that returns nil counted once, each other not at all.
func TestPostgresTerminated(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	s := openPG(t, dsn, "one")
	began := time.Now()
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.Background()) }() //nolint:usetesting // the test's context is over by then
	// Leave room for finding out, which needs connections as well: where one takes
	// long, killing the next at once would let nobody ever get an answer.
	room := max(4*time.Millisecond, time.Since(began))
	const workers, each = 8, 100
	var counted, not atomic.Int64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for i := range workers {
		wg.Go(func() {
			for range each {
				runs := 0
				err := count(t.Context(), s, strconv.Itoa(i), &runs)
				switch {
				case err == nil:
					counted.Add(1)
				case errors.Is(err, staunch.ErrCommitUnknown):
					t.Errorf("unknown although the server can be asked: %v", err)
				case staunch.ClassOf(err) == staunch.ClassTransient:
					not.Add(1)
				default:
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	killed := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			var n int
			err := admin.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'staunch one' AND state <> 'idle' ORDER BY random() LIMIT 1) AS x`).Scan(&n)
			if err != nil {
				t.Fatal(err)
			}
			killed += n
			if _, err := admin.Exec(t.Context(), "SELECT pg_sleep($1)", room.Seconds()); err != nil {
				t.Fatal(err)
			}
		}
	}
	total := 0
	for i := range workers {
		total += value(t, s, strconv.Itoa(i))
	}
	if int64(total) != counted.Load() || killed == 0 {
		t.Errorf("%d were counted, %d returned nil, %d failed, %d backends killed", total, counted.Load(), not.Load(), killed)
	}
	t.Logf("%d counted, %d failed, %d backends killed", counted.Load(), not.Load(), killed)
}

// TestPostgresServerKilled kills the server under load and starts it again.
func TestPostgresServerKilled(t *testing.T) {
	server := pgtest.Start(t, pgtest.Options{})
	s := openPG(t, server.NewDatabase(t), "one")
	var acked []int
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		enough := make(chan struct{})
		ended := make(chan error, 1)
		var once sync.Once
		before := len(acked)
		go func() {
			ended <- storetest.Load(ctx, s, 8, round*1_000_000, func(n int) {
				if acked = append(acked, n); len(acked) > before+100 {
					once.Do(func() { close(enough) })
				}
			})
		}()
		<-enough
		server.Stop(t, pgtest.Kill)
		// Workers give up, or find the server again.
		err := <-ended
		cancel()
		if err == nil {
			t.Error("the load ended without an error while the server was down")
		}
		server.Start(t)
		err = s.View(t.Context(), func(r store.Reader) error {
			n, err := storetest.CheckLoad(r, acked)
			t.Logf("round %d: %d acknowledged, %d there", round, len(acked), n)
			return err
		})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

func TestPostgresListen(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	testListen(t, openPG(t, dsn, "one"), openPG(t, dsn, "two"), 1)
}

// TestPostgresOpenAtOnce: nodes that start at once on an empty database all
// find it migrated.
func TestPostgresOpenAtOnce(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(dsn), options("n"+strconv.Itoa(i)))
			if err != nil {
				t.Errorf("node %d: %v", i, err)
				return
			}
			if err := s.Update(t.Context(), func(tx store.Tx) error { return storetest.Decide(tx, i, 1) }); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
			closeStore(t, s)
		})
	}
	wg.Wait()
}

func TestPostgresOpenErrors(t *testing.T) {
	const password = "hunter2-in-the-url"
	for _, dsn := range []string{
		"postgres://u:" + password + "@127.0.0.1:1/x?sslmode=disable&connect_timeout=2",
		"postgres://u:" + password + "@127.0.0.1:notaport/x",
		"host=127.0.0.1 port=1 password=" + password + " sslmode=nonsense",
	} {
		_, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(dsn), options("one"))
		if err == nil || strings.Contains(err.Error(), password) {
			t.Errorf("%v", err)
		}
	}
	for name, o := range map[string]sqlstore.Options{
		"no chain":       {},
		"a bad node":     {Chain: storetest.Chain{}, Node: "a/b"},
		"too many lanes": {Chain: storetest.Chain{}, Lanes: 1000},
		"one connection": {Chain: storetest.Chain{}, Conns: 1},
	} {
		if _, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret("postgres://127.0.0.1:1/x"), o); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// additive is what a later release's migration may look like.
const additive = `ALTER TABLE signals ADD COLUMN later {text};
ALTER TABLE holds ADD COLUMN later BIGINT NOT NULL DEFAULT 7;
CREATE TABLE laters (id {text} NOT NULL PRIMARY KEY, body {blob});
CREATE INDEX signals_later ON signals (later);
`

// TestNewerSchema: this binary works on what the next one migrated, and refuses
// what comes after.
func TestNewerSchema(t *testing.T) {
	next := map[string]string{fmt.Sprintf("%05d_next.sql", sqlstore.Newest()+1): additive}
	tooNew := map[string]string{fmt.Sprintf("%05d_next.sql", sqlstore.Newest()+1): additive,
		fmt.Sprintf("%05d_after.sql", sqlstore.Newest()+2): "CREATE TABLE after_that (id BIGINT)"}
	t.Run("sqlite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Harness {
			path := t.TempDir() + "/staunch.db"
			if err := sqlstore.MigrateSQLite(t.Context(), path, next); err != nil {
				t.Fatal(err)
			}
			s := openLite(t, path)
			return storetest.Harness{Store: s, Reopen: func(t *testing.T) store.Store {
				closeStore(t, s)
				return openLite(t, path)
			}}
		})
		path := t.TempDir() + "/staunch.db"
		if err := sqlstore.MigrateSQLite(t.Context(), path, tooNew); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlstore.OpenSQLite(t.Context(), path, options("one")); !errors.Is(err, sqlstore.ErrNewerSchema) {
			t.Errorf("two migrations ahead: %v", err)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		dsn := pgtest.NewDatabase(t)
		s := openPG(t, dsn, "one")
		decide := func(s store.Store, n int) {
			t.Helper()
			if err := s.Update(t.Context(), func(tx store.Tx) error { return storetest.Decide(tx, n, 1) }); err != nil {
				t.Fatal(err)
			}
		}
		decide(s, 1)
		if err := s.MigratePostgres(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		decide(s, 2) // while it runs
		again := openPG(t, dsn, "two")
		decide(again, 3)
		err := again.View(t.Context(), func(r store.Reader) error { _, err := storetest.CheckLoad(r, []int{1, 2, 3}); return err })
		if err != nil {
			t.Error(err)
		}
		if err := s.MigratePostgres(t.Context(), tooNew); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(dsn), options("three")); !errors.Is(err, sqlstore.ErrNewerSchema) {
			t.Errorf("two migrations ahead: %v", err)
		}
	})
}

// TestPostgresWithoutBriefs: a node of a release before there were briefs puts rows
// that have none.
func TestPostgresWithoutBriefs(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	s := openPG(t, dsn, "one")
	ref := storetest.Ref(1)
	first, second := storetest.Signal(ref, 1, 10), storetest.Signal(ref, 2, 20)
	if err := s.Update(t.Context(), func(tx store.Tx) error {
		_, err := tx.PutSignal(first)
		_, err2 := tx.PutSignal(second)
		return errors.Join(err, err2)
	}); err != nil {
		t.Fatal(err)
	}
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }() //nolint:usetesting // the test's context is over by then
	found := func(change string) (got []staunch.Signal) {
		t.Helper()
		if _, err := c.Exec(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		err := s.View(t.Context(), func(r store.Reader) error {
			list, err := r.SignalsWithin([]staunch.Ref{ref, storetest.Ref(2)}, 0, 10)
			for _, s := range list {
				got = append(got, *s)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	both := []staunch.Signal{store.Brief(second), store.Brief(first)}
	if got := found("UPDATE signals_within SET brief = NULL WHERE at = 10"); !reflect.DeepEqual(got, both) {
		t.Errorf("got %+v, want %+v", got, both)
	}
	if got := found("DELETE FROM signals WHERE at = 10"); !reflect.DeepEqual(got, both[:1]) {
		t.Errorf("once deleted: %+v, want %+v", got, both[:1])
	}
}
