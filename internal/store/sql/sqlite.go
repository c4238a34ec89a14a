package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Bounds of a group of transactions that share a commit, and of those that
// wait for their turn; what comes after waits for a place.
const (
	groupCount = 256
	groupBytes = 4 << 20
	groupTime  = 10 * time.Millisecond
	queueBound = 4096
)

// walPages is how long the write-ahead log grows before a commit also copies it
// into the database.
const walPages = 8000

const lockSuffix = ".lock"

// SQLite is a store in one SQLite file.
type SQLite struct {
	opts  Options
	lock  *os.File
	cache texts

	writeDB, readDB *sql.DB
	writer          *liteConn
	readers         chan *liteConn
	made            int // of the readers

	// places bounds the queue.
	places chan struct{}
	turn   turn

	// What follows belongs to whoever has the turn.
	group    *group
	lastHook chan struct{} // closed when the last transaction's OnCommit ran
	laneNext int
	careful  int   // how many more transactions have savepoints
	scrub    bool  // the write-ahead log may still have what was shredded
	broken   error // a commit failed in a way that only a new start resolves

	listeners listeners
}

var (
	_ store.Store = (*SQLite)(nil)
	_ engine      = (*SQLite)(nil)
)

// group is a run of transactions that share one commit.
type group struct {
	done    chan struct{} // closed when err is final
	err     error
	n, size int
	began   time.Time
	shreds  bool
}

// OpenSQLite opens the database file at path, which is made if it is not there,
// and migrates it. A second process, or a second call, fails at once with a
// staunch.ErrConflict while the file is open.
func OpenSQLite(ctx context.Context, path string, opts Options) (_ *SQLite, err error) {
	opts, err = opts.withDefaults(1, 4)
	if err != nil {
		return nil, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	s := &SQLite{opts: opts, places: make(chan struct{}, queueBound)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the store %s: %w", path, err), s.release())
		}
	}()
	if s.lock, err = lockFile(path + lockSuffix); err != nil {
		return nil, err
	}
	// Made here for its mode; SQLite gives the same to what it puts beside it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err = f.Close(); err != nil {
		return nil, err
	}
	common := []string{"busy_timeout(5000)", "foreign_keys(1)", "cache_size(-16000)", "temp_store(2)"}
	s.writeDB, err = openLite(path, append(common, "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(1)",
		"wal_autocheckpoint("+strconv.Itoa(walPages)+")"))
	if err != nil {
		return nil, err
	}
	s.writeDB.SetMaxOpenConns(1)
	if err = migrate(ctx, s.writeDB, migrationFiles, goose.DialectSQLite3); err != nil {
		return nil, err
	}
	if s.writer, err = newLiteConn(ctx, s.writeDB); err != nil {
		return nil, err
	}
	if err = s.writer.settings(ctx); err != nil {
		return nil, err
	}
	if s.readDB, err = openLite(path, append(common, "query_only(1)")); err != nil {
		return nil, err
	}
	s.readers = make(chan *liteConn, opts.Conns)
	for range opts.Conns {
		c, err := newLiteConn(ctx, s.readDB)
		if err != nil {
			return nil, err
		}
		s.readers <- c
		s.made++
	}
	// A kill may have come between a shredding commit and the emptying of the
	// log.
	s.scrub = true
	s.empty()
	return s, nil
}

func openLite(path string, pragmas []string) (*sql.DB, error) {
	q := url.Values{"_pragma": pragmas}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}
	return sql.Open("sqlite", u.String())
}

// liteConn is one connection with its prepared statements.
type liteConn struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

var _ session = (*liteConn)(nil)

func newLiteConn(ctx context.Context, db *sql.DB) (*liteConn, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &liteConn{conn: conn, stmts: map[string]*sql.Stmt{}}, nil
}

// settings makes sure of what durability rests on.
func (c *liteConn) settings(ctx context.Context) error {
	for _, want := range []struct{ name, value string }{
		{"journal_mode", "wal"}, {"synchronous", "2"}, {"secure_delete", "1"}, {"foreign_keys", "1"},
	} {
		var got string
		if err := c.conn.QueryRowContext(ctx, "PRAGMA "+want.name).Scan(&got); err != nil {
			return fmt.Errorf("reading SQLite's %s: %w", want.name, err)
		}
		if got != want.value {
			return fmt.Errorf("SQLite's %s is %s and cannot be set to %s here", want.name, got, want.value)
		}
	}
	return nil
}

func (c *liteConn) stmt(text string) (*sql.Stmt, error) {
	if st, ok := c.stmts[text]; ok {
		return st, nil
	}
	st, err := c.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	c.stmts[text] = st
	return st, nil
}

// Statements run to their end, without ctx: interrupting one would undo the
// whole group, and with it the transactions of others. ctx is looked at before
// each.

func (c *liteConn) exec(ctx context.Context, text string, args []any) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	st, err := c.stmt(text)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (c *liteConn) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := c.stmt(text)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.Background(), args...)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *liteConn) run(text string) error {
	_, err := c.exec(context.Background(), text, nil)
	return err
}

func (c *liteConn) close() error {
	if c == nil {
		return nil
	}
	var errs []error
	for _, st := range c.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, c.conn.Close())...)
}

// turn is who may write, in the order of asking.
type turn struct {
	mu      sync.Mutex
	taken   bool
	closed  bool
	waiters []chan struct{}
}

var errClosed = errors.New("the store is closed")

func (t *turn) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return errClosed
	}
	mine := t.ask()
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.waiters, mine); i >= 0 {
		t.waiters = slices.Delete(t.waiters, i, i+1)
		return ctx.Err()
	}
	return nil // it came just now; whoever has it must give it on
}

// ask queues for the turn, which has come when the channel is closed.
func (t *turn) ask() chan struct{} {
	mine := make(chan struct{})
	if t.taken {
		t.waiters = append(t.waiters, mine)
	} else {
		t.taken = true
		close(mine)
	}
	return mine
}

// close refuses further takers, takes the last turn and reports true; false
// when it was closed before.
func (t *turn) close() bool {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return false
	}
	t.closed = true
	mine := t.ask()
	t.mu.Unlock()
	<-mine
	return true
}

// give gives the turn to the next that waits, and reports whether there was
// one. With idle, the turn becomes free when there was none.
func (t *turn) give(idle bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiters) == 0 {
		if idle {
			t.taken = false
		}
		return false
	}
	next := t.waiters[0]
	t.waiters[0] = nil
	t.waiters = t.waiters[1:]
	close(next)
	return true
}

// Update implements store.Store. fn runs in the caller's goroutine. OnCommit
// functions run there too, one transaction's after the other's in the order of
// the transactions; they must not wait for another Update.
func (s *SQLite) Update(ctx context.Context, fn func(store.Tx) error) error {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for careful := false; ; careful = true {
		if err := s.try(ctx, fn, careful); !errors.Is(err, errSpoiled) {
			return err
		}
	}
}

// errSpoiled says that a group was rolled back because one transaction in it
// failed that had no savepoint. Savepoints cost a third of a small
// transaction, so there are none until one would have been needed; then all of
// the group run again, with savepoints, and so do the next ones.
var errSpoiled = errors.New("another transaction of the group failed")

// carefulRuns is how many transactions use savepoints after a group was
// spoiled, so that callers that often fail do not cost the others more.
const carefulRuns = 2000

// try runs the transaction once. With careful, it has a savepoint of its own.
// errSpoiled means that it was rolled back for another's sake.
func (s *SQLite) try(ctx context.Context, fn func(store.Tx) error, careful bool) error {
	if err := s.turn.take(ctx); err != nil {
		return err
	}
	g, saved, err := s.enter(careful)
	if err != nil {
		s.leave(g, err)
		return err
	}
	t := newTx(reader{ctx: ctx, session: s.writer, engine: s}, s.opts.Chain)
	undo := func() error {
		// After an error of SQLite's own, not even the group's transaction
		// may be there any more.
		if !saved && !t.wrote && !t.broke {
			return nil
		}
		return s.undo(saved)
	}
	var own error
	func() {
		returned := false
		defer func() {
			if !returned { // a panic, or runtime.Goexit
				t.end()
				s.leave(g, undo())
			}
		}()
		if own = fn(t); own == nil {
			own = t.finish()
		}
		t.end()
		returned = true
	}()
	if own == nil && saved {
		if err := s.writer.run("RELEASE one"); err != nil {
			own = staunch.Transient(fmt.Errorf("ending a transaction: %w", err))
		}
	}
	var before, after chan struct{}
	if own != nil {
		s.leave(g, undo())
	} else {
		g.size += t.size
		g.shreds = g.shreds || t.shreds
		if len(t.onCommit) > 0 || t.change != (Change{}) {
			before, after = s.lastHook, make(chan struct{})
			s.lastHook = after
			defer close(after)
		}
		s.leave(g, nil)
	}
	// Nobody leaves before the group is durable, not even with an error: fn may
	// have read what others in it wrote.
	<-g.done
	switch {
	case errors.Is(g.err, errSpoiled) && own != nil && g.n == 1:
		return own // it was alone
	case g.err != nil:
		return g.err
	case own != nil:
		return own
	}
	if after != nil {
		if before != nil {
			<-before
		}
		for _, f := range t.onCommit {
			f()
		}
		s.listeners.tell(t.change)
	}
	return nil
}

// enter joins the group, or begins one, and tells whether the transaction has a
// savepoint. The caller has the turn. Even when it fails, the caller must
// leave.
func (s *SQLite) enter(careful bool) (g *group, saved bool, err error) {
	if s.group == nil {
		s.group = &group{done: make(chan struct{}), began: time.Now()}
		if s.broken != nil {
			return s.group, false, s.broken
		}
		if err := s.writer.run("BEGIN IMMEDIATE"); err != nil {
			return s.group, false, staunch.Transient(fmt.Errorf("beginning a transaction: %w", err))
		}
	}
	if s.careful > 0 {
		s.careful--
	} else if !careful {
		return s.group, false, nil
	}
	if err := s.writer.run("SAVEPOINT one"); err != nil {
		return s.group, false, staunch.Transient(fmt.Errorf("beginning a transaction: %w", err))
	}
	return s.group, true, nil
}

// undo rolls the present transaction back and leaves the group's as it is. When
// it cannot, the group must not be committed: there is no savepoint, or SQLite
// has ended the group's transaction as a whole, as it does when the disk is
// full.
func (s *SQLite) undo(saved bool) error {
	if !saved {
		s.careful = carefulRuns
		return errSpoiled
	}
	if err := s.writer.run("ROLLBACK TO one"); err != nil {
		return staunch.Transient(fmt.Errorf("the database ended the transaction: %w", err))
	}
	if err := s.writer.run("RELEASE one"); err != nil {
		return staunch.Transient(fmt.Errorf("ending a transaction: %w", err))
	}
	return nil
}

// leave ends the present transaction's turn: the next joins the group, or, when
// none waits or the group is full, the group is committed. err means that the
// group cannot go on.
func (s *SQLite) leave(g *group, err error) {
	g.n++
	if err == nil && g.n < groupCount && g.size < groupBytes && time.Since(g.began) < groupTime && s.turn.give(false) {
		return
	}
	if err == nil {
		err = s.commit()
	}
	if err != nil {
		// Often there is nothing left to roll back; then this fails.
		if rerr := s.writer.run("ROLLBACK"); rerr != nil {
			s.opts.Log.Debug("rolling back a failed group", "error", rerr)
		}
	}
	g.err = err
	s.group = nil
	close(g.done)
	if g.shreds && err == nil {
		s.scrub = true
	}
	if s.scrub && s.broken == nil {
		s.empty()
	}
	s.turn.give(true)
}

func (s *SQLite) commit() error {
	err := s.writer.run("COMMIT")
	if err == nil {
		return nil
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) && (lite.Code()&0xff == sqlite3.SQLITE_IOERR || lite.Code()&0xff == sqlite3.SQLITE_CORRUPT) {
		// The commit's frames may have reached the disk, and then come back at
		// the next start. Going on would build on what may change.
		s.broken = fmt.Errorf("the store has to be started again, after a commit failed: %w", err)
		return fmt.Errorf("%w: %w", staunch.ErrCommitUnknown, err)
	}
	return staunch.Transient(fmt.Errorf("committing: %w", err))
}

// empty copies the write-ahead log into the database and cuts it to nothing, so
// that what was shredded stands nowhere. A reader can be in the way; then it is
// tried again after the next group.
func (s *SQLite) empty() {
	var busy, pages, copied int64
	err := s.writer.query(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)", nil, func(scan func(...any) error) error {
		return scan(&busy, &pages, &copied)
	})
	if err != nil {
		s.opts.Log.Warn("emptying the write-ahead log after shredding", "error", err)
		return
	}
	s.scrub = busy != 0
}

// View implements store.Store. fn runs once.
func (s *SQLite) View(ctx context.Context, fn func(store.Reader) error) (err error) {
	var c *liteConn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c == nil {
		return errClosed
	}
	defer func() { s.readers <- c }()
	if err := c.run("BEGIN"); err != nil {
		return staunch.Transient(fmt.Errorf("beginning a read: %w", err))
	}
	r := &reader{ctx: ctx, session: c, engine: s}
	defer func() {
		r.end()
		if rerr := c.run("ROLLBACK"); rerr != nil {
			err = errors.Join(err, fmt.Errorf("ending a read: %w", rerr))
		}
	}()
	return fn(r)
}

// Now implements store.Store: the clock of Options.
func (s *SQLite) Now(context.Context) (staunch.Time, error) {
	return staunch.TimeOf(s.opts.Clock.Now()), nil
}

// Listen calls fn after each of this process's commits that changed something
// to listen for, until ctx ends; then it returns nil. fn runs in the committing
// goroutine and must not block.
func (s *SQLite) Listen(ctx context.Context, fn func(Change)) error {
	defer s.listeners.add(fn)()
	<-ctx.Done()
	return nil
}

// Close implements store.Store. Updates that already wait are carried out
// first; later ones fail. A second call does nothing.
func (s *SQLite) Close() error {
	if !s.turn.close() {
		return nil
	}
	if s.group != nil {
		// The last one left its group to whoever came next.
		s.leave(s.group, nil)
	}
	return s.release()
}

func (s *SQLite) release() error {
	var errs []error
	for range s.made {
		errs = append(errs, (<-s.readers).close())
	}
	if s.made > 0 {
		close(s.readers)
	}
	if s.readDB != nil {
		errs = append(errs, s.readDB.Close())
	}
	if s.writer != nil {
		if s.scrub && s.broken == nil {
			s.empty()
		}
		errs = append(errs, s.writer.close())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *SQLite) texts() *texts { return &s.cache }

func (s *SQLite) lane(*tx) (string, error) {
	n := s.laneNext
	s.laneNext = (n + 1) % s.opts.Lanes
	return s.opts.Node + "/" + strconv.Itoa(n), nil
}

// holdSeq counts on from the highest: only one transaction writes at a time.
func (s *SQLite) holdSeq(t *tx) (int64, error) {
	n, err := t.HoldSeq()
	return n + 1, err
}

func (s *SQLite) now(r *reader) (staunch.Time, error) { return s.Now(r.ctx) }
