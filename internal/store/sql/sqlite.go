package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
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

// walPages is how long the write-ahead log grows before it begins anew.
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
	queue  queue

	// What follows belongs to the goroutine that drains the queue.
	group    *group
	lastHook chan struct{} // closed when the last transaction's OnCommit ran
	laneNext int
	// seq is the highest sequence of a hold that was given out, 0 before the
	// first; heads has the ends of lanes, known rows that were asked for. Nobody
	// else writes, so they need not be read again until something is rolled back.
	seq     int64
	heads   map[string]store.Head
	known   *known
	careful int          // how many more transactions have savepoints
	scrub   bool         // the write-ahead log may still have what was shredded
	room    *walRoom     // nil for an ephemeral store
	copying *checkpoints // nil for an ephemeral store
	broken  error        // a commit failed in a way that only a new start resolves

	listeners listeners
}

var (
	_ store.Store = (*SQLite)(nil)
	_ engine      = (*SQLite)(nil)
)

// request is a transaction that a caller waits for.
type request struct {
	ctx context.Context
	fn  func(store.Tx) error
	// careful gives it a savepoint of its own.
	careful bool

	// What came of it, once done is closed.
	done chan struct{}
	err  error
	// thrown is what fn panicked with; exited says that it called
	// runtime.Goexit.
	panicked, exited bool
	thrown           any
	tx               *tx
	// before is closed when the OnCommit functions of the one before ran, after
	// is to be closed when this one's did. Both may be nil.
	before, after chan struct{}
}

// group is a run of transactions that share one commit.
type group struct {
	requests []*request
	size     int
	began    time.Time
	shreds   bool
}

// OpenSQLite opens the database file at path, which is made if it is not there,
// and migrates it. A second process, or a second call, fails with a
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
	s := &SQLite{opts: opts, places: make(chan struct{}, queueBound), heads: map[string]store.Head{}, known: newKnown()}
	s.known.lasting, s.cache.numbered = true, true
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
	common := []string{"foreign_keys(1)", "temp_store(2)"}
	synchronous, copyAfter := "synchronous(FULL)", 0 // see checkpoints
	if opts.Ephemeral {
		synchronous, copyAfter = "synchronous(OFF)", walPages
	}
	// Nobody else writes; the only thing the writer could wait for is a reader
	// in the way of emptying the log, and then everybody would wait.
	s.writeDB, err = openLite(path, append(common, "busy_timeout(0)", "cache_size(-32000)", "journal_mode(WAL)", synchronous, "secure_delete(1)",
		"wal_autocheckpoint("+strconv.Itoa(copyAfter)+")"))
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
	if err = s.writer.settings(ctx, opts.Ephemeral); err != nil {
		return nil, err
	}
	if s.readDB, err = openLite(path, append(common, "busy_timeout(5000)", "cache_size(-16000)", "query_only(1)")); err != nil {
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
	if !opts.Ephemeral {
		s.room = &walRoom{path: path + "-wal", length: -1}
		s.makeRoom()
		c, err := newLiteConn(ctx, s.readDB)
		if err != nil {
			return nil, err
		}
		s.copying = newCheckpoints(c, path, s.notCopied)
	}
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
func (c *liteConn) settings(ctx context.Context, ephemeral bool) error {
	synchronous := "2"
	if ephemeral {
		synchronous = "0"
	}
	for _, want := range []struct{ name, value string }{
		{"journal_mode", "wal"}, {"synchronous", synchronous}, {"secure_delete", "1"}, {"foreign_keys", "1"},
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
	st, err := c.conn.PrepareContext(context.Background(), limitParam.ReplaceAllString(text, "LIMIT CAST(${1} AS INTEGER)"))
	if err != nil {
		return nil, err
	}
	c.stmts[text] = st
	return st, nil
}

// limitParam is a parameter as a limit. SQLite's planner looks at such a one's
// value, so it plans the statement anew each time that one is bound, which costs
// several times what running it does. It does not look through a cast.
var limitParam = regexp.MustCompile(`LIMIT (\$[0-9]+)`)

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

func (c *liteConn) later(ctx context.Context, text string, args []any, rows *int64) error {
	n, err := c.exec(ctx, text, args)
	if rows != nil {
		*rows = n
	}
	return err
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

// queue has the requests that wait, in the order of asking.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	// drained says that a goroutine is at it; it ends when nothing waits.
	drained bool
	closed  bool
	idle    chan struct{} // closed by the last drainer, when there is one waiting for it
}

var errClosed = errors.New("the store is closed")

// put adds a request, and tells whether the caller has to start draining.
func (q *queue) put(r *request) (start bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, errClosed
	}
	q.waiting = append(q.waiting, r)
	start = !q.drained
	q.drained = true
	return start, nil
}

// remove takes a request back, unless it was taken out already.
func (q *queue) remove(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, r)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// take gives the next request, nil when there is none. With last, draining is
// over then.
func (q *queue) take(last bool) *request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		if last {
			q.drained = false
			if q.idle != nil {
				close(q.idle)
				q.idle = nil
			}
		}
		return nil
	}
	r := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	return r
}

// close refuses further requests and waits for those that there are; false when
// it was closed before.
func (q *queue) close() bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.closed = true
	var idle chan struct{}
	if q.drained {
		idle = make(chan struct{})
		q.idle = idle
	}
	q.mu.Unlock()
	if idle != nil {
		<-idle
	}
	return true
}

// Update implements store.Store. OnCommit functions run in the caller's
// goroutine, one transaction's after the other's in the order of the
// transactions. fn runs in another goroutine; when it panics, so does Update,
// with the same value. Neither may call Update.
func (s *SQLite) Update(ctx context.Context, fn func(store.Tx) error) error {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for careful := false; ; careful = true {
		if err := s.ask(ctx, fn, careful); !errors.Is(err, errSpoiled) {
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

// ask has the transaction run once.
func (s *SQLite) ask(ctx context.Context, fn func(store.Tx) error, careful bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{ctx: ctx, fn: fn, careful: careful, done: make(chan struct{})}
	start, err := s.queue.put(r)
	if err != nil {
		return err
	}
	if start {
		go s.drain()
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if s.queue.remove(r) {
			return ctx.Err()
		}
		<-r.done // it runs, and ends soon
	}
	if r.after != nil {
		defer close(r.after)
	}
	switch {
	case errors.Is(r.err, errSpoiled):
		return r.err
	case r.panicked:
		panic(r.thrown)
	case r.exited:
		runtime.Goexit()
	case r.err != nil:
		return r.err
	}
	if r.after != nil {
		if r.before != nil {
			<-r.before
		}
		for _, f := range r.tx.onCommit {
			f()
		}
		s.listeners.tell(r.tx.change)
	}
	return nil
}

// drain runs what waits, group by group, until nothing does.
func (s *SQLite) drain() {
	over := false
	defer func() {
		if !over { // a function called runtime.Goexit, which nothing can stop
			go s.drain()
		}
	}()
	for {
		begun := s.group != nil
		r := s.queue.take(!begun)
		if r == nil && !begun {
			over = true
			return // by now another goroutine may be at it
		}
		if r == nil {
			// Whoever was told just now of the last commit may ask again.
			runtime.Gosched()
			r = s.queue.take(false)
		}
		if r != nil {
			s.run(r)
		}
		if g := s.group; g != nil && (r == nil || len(g.requests) >= groupCount || g.size >= groupBytes || time.Since(g.began) >= groupTime) {
			s.finish(s.commit())
		}
	}
}

// run runs one transaction in the group, or in a new one.
func (s *SQLite) run(r *request) {
	if s.group == nil {
		s.group = &group{began: time.Now()}
		err := s.broken
		if err == nil {
			if err = s.writer.run("BEGIN IMMEDIATE"); err != nil {
				err = failed(staunch.Transient(fmt.Errorf("beginning a transaction: %w", err)))
			}
		}
		if err != nil {
			s.group.requests = append(s.group.requests, r)
			s.finish(err)
			return
		}
	}
	g := s.group
	g.requests = append(g.requests, r)
	saved := r.careful || s.careful > 0
	s.careful = max(s.careful-1, 0)
	if saved {
		if err := s.writer.run("SAVEPOINT one"); err != nil {
			s.finish(failed(staunch.Transient(fmt.Errorf("beginning a transaction: %w", err))))
			return
		}
	}
	t := newTx(reader{ctx: r.ctx, session: s.writer, engine: s, known: s.known}, s.opts.Chain)
	r.tx = t
	returned := false
	defer func() {
		t.end()
		if !returned {
			r.thrown = recover()
			r.panicked, r.exited = r.thrown != nil, r.thrown == nil
			if r.panicked {
				s.opts.Log.Error("a transaction panicked", "panic", r.thrown, "stack", string(debug.Stack()))
			}
		}
		s.settle(r, saved)
	}()
	if r.err = r.fn(t); r.err == nil {
		r.err = t.finish()
	}
	returned = true
}

// settle keeps or undoes what a transaction did. When it cannot undo it, the
// group must not be committed: there is no savepoint, or SQLite has ended the
// group's transaction as a whole, as it does when the disk is full.
func (s *SQLite) settle(r *request, saved bool) {
	g, t := s.group, r.tx
	if r.err == nil && !r.panicked && !r.exited {
		if saved {
			if err := s.writer.run("RELEASE one"); err != nil {
				s.finish(failed(staunch.Transient(fmt.Errorf("ending a transaction: %w", err))))
				return
			}
		}
		if t.head != nil {
			s.heads[t.head.Lane] = *t.head
		}
		g.size += t.size
		g.shreds = g.shreds || t.shreds
		if len(t.onCommit) > 0 || t.change != (Change{}) {
			r.before, r.after = s.lastHook, make(chan struct{})
			s.lastHook = r.after
		}
		return
	}
	s.forget()
	if !saved {
		// After an error of SQLite's own, the group's transaction may be gone.
		if t.wrote || t.broke {
			if len(g.requests) > 1 {
				s.careful = carefulRuns
			}
			s.finish(errSpoiled)
		}
		return
	}
	err := s.writer.run("ROLLBACK TO one")
	if err == nil {
		err = s.writer.run("RELEASE one")
	}
	if err != nil {
		s.finish(failed(staunch.Transient(fmt.Errorf("the database ended the transaction: %w", err))))
	}
}

// finish ends the group: err is what came of its commit, or why there can be
// none. Only now does anybody learn of anything, their own errors included: a
// function may have read what others in the group wrote.
func (s *SQLite) finish(err error) {
	g := s.group
	s.group = nil
	if err != nil {
		s.forget()
		// Often there is nothing left to roll back; then this fails.
		if rerr := s.writer.run("ROLLBACK"); rerr != nil {
			s.opts.Log.Debug("rolling back a failed group", "error", rerr)
		}
	}
	s.scrub = s.scrub || g.shreds && err == nil
	if s.scrub && s.broken == nil {
		s.empty()
	}
	defer s.tidy() // once nobody waits for it
	for _, r := range g.requests {
		alone := errors.Is(err, errSpoiled) && len(g.requests) == 1 && (r.err != nil || r.panicked || r.exited)
		if err != nil && !alone {
			r.err, r.panicked, r.exited = err, false, false
		}
		close(r.done)
	}
}

// forget is for when something was rolled back.
func (s *SQLite) forget() {
	clear(s.heads)
	s.known.forget()
}

// tidy keeps the write-ahead log in order between two groups.
func (s *SQLite) tidy() {
	s.makeRoom()
	if s.copying == nil || s.broken != nil {
		return
	}
	if err := s.copying.committed(s.writer); err != nil {
		s.notCopied(err)
	}
}

// notCopied tells of a failure; what is committed stands in the log.
func (s *SQLite) notCopied(err error) {
	s.opts.Log.Warn("copying the write-ahead log into the database", "error", err)
}

// makeRoom is for speed alone, so that a failure is only told.
func (s *SQLite) makeRoom() {
	if s.room == nil || s.broken != nil {
		return
	}
	if err := s.room.make(); err != nil {
		s.opts.Log.Warn("the store goes on without room in its log", "error", err)
		errs := s.room.close()
		s.room = nil
		if errs != nil {
			s.opts.Log.Debug("closing the write-ahead log", "error", errs)
		}
	}
}

func (s *SQLite) commit() error {
	err := s.opts.fault("COMMIT")
	if err == nil {
		err = s.writer.run("COMMIT")
	}
	if err == nil {
		return nil
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) && (lite.Code()&0xff == sqlite3.SQLITE_IOERR || lite.Code()&0xff == sqlite3.SQLITE_CORRUPT) {
		// The commit's frames may have reached the disk, and then come back at
		// the next start. Going on would build on what may change.
		s.broken = failed(fmt.Errorf("the store has to be started again, after a commit failed: %w", err))
		return fmt.Errorf("%w: %w", staunch.ErrCommitUnknown, err)
	}
	return failed(staunch.Transient(fmt.Errorf("committing: %w", err)))
}

// empty copies the write-ahead log into the database and cuts it to nothing, so
// that what was shredded stands nowhere. A reader can be in the way; then it is
// tried again after the next group.
func (s *SQLite) empty() {
	if s.copying != nil {
		s.copying.mu.Lock() // it would be in the way
		defer s.copying.mu.Unlock()
	}
	busy, err := s.writer.checkpoint("TRUNCATE")
	if err != nil {
		s.opts.Log.Warn("emptying the write-ahead log after shredding", "error", err)
		return
	}
	s.scrub = busy
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
		return failed(staunch.Transient(fmt.Errorf("beginning a read: %w", err)))
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
	if !s.queue.close() {
		return nil
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
	if s.copying != nil {
		errs = append(errs, s.copying.close())
		s.copying = nil // the log may still have to be emptied
	}
	if s.readDB != nil {
		errs = append(errs, s.readDB.Close())
	}
	if s.room != nil {
		errs = append(errs, s.room.close())
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

func (s *SQLite) fault(statement string) error { return s.opts.fault(statement) }

func (s *SQLite) lane(*tx) (string, *store.Head, error) {
	n := s.laneNext
	s.laneNext = (n + 1) % s.opts.Lanes
	name := s.opts.Node + "/" + strconv.Itoa(n)
	if h, ok := s.heads[name]; ok {
		return name, &h, nil
	}
	return name, nil, nil
}

// holdSeq counts on from the highest: only one transaction writes at a time.
// What is rolled back leaves a gap.
func (s *SQLite) holdSeq(t *tx) (int64, error) {
	if s.seq == 0 {
		n, err := t.HoldSeq()
		if err != nil {
			return 0, err
		}
		s.seq = n
	}
	s.seq++
	return s.seq, nil
}

func (s *SQLite) now(r *reader) (staunch.Time, error) { return s.Now(r.ctx) }
