package sqlstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	randv2 "math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

const (
	// oldestServer is PostgreSQL 15, as server_version_num.
	oldestServer = 150000
	// lostTries bounds how often a transaction is begun again after its
	// connection was lost.
	lostTries = 5
	// endTime bounds a commit or rollback once it was sent, whatever the
	// caller's context does: giving up on it earlier only loses its answer.
	endTime = 15 * time.Second
	// resolveTime bounds finding out what became of a commit.
	resolveTime = 30 * time.Second
	// waitMost bounds the pause between two tries.
	waitMost = 200 * time.Millisecond
	// eagerTries is after how many conflicts a transaction waits for the others
	// of this process that had as many.
	eagerTries = 3

	// lockTime, in milliseconds, bounds waiting for a row. In a SERIALIZABLE
	// transaction such a wait ends in a conflict anyway, or else in a deadlock,
	// which the server takes a second to see.
	lockTime = "100"

	markerPrefix = "commit-"

	channel  = "staunch_holds"
	clockSQL = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
)

// Postgres is a store in a PostgreSQL database, which several nodes may share.
type Postgres struct {
	opts   Options
	config *pgx.ConnConfig
	pool   *pgxpool.Pool
	cache  texts
	closed atomic.Bool
	// instance tells this process's commit slots from all others'.
	instance string
	// slots bounds the transactions that write, so that reads inside and
	// outside of them find a connection; each has its own row in commits.
	slots chan int
	// lanes has the lanes that no transaction holds. What takes one keeps it
	// until its transaction is over, so that this process's transactions never
	// meet on a head.
	lanes chan *lane
	// holds is the turn, within this process, for putting holds.
	holds chan struct{}
	// patient is the turn of transactions that met conflicts often.
	patient   chan struct{}
	listeners listeners
}

var _ store.Store = (*Postgres)(nil)

// OpenPostgres connects to a database, given as a URL or keyword string of
// libpq's, and migrates it. Nodes that share it have different Options.Node.
func OpenPostgres(ctx context.Context, dsn staunch.Secret, opts Options) (_ *Postgres, err error) {
	opts, err = opts.withDefaults(4, 16)
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(dsn.Reveal())
	if err != nil {
		// pgx's error has the string in it, without what it takes for a
		// password; that is not sure enough.
		return nil, fmt.Errorf("opening the store: %w: the PostgreSQL URL cannot be read", staunch.ErrInvalid)
	}
	config.MaxConns = int32(opts.Conns) //nolint:gosec // bounded by withDefaults
	params := config.ConnConfig.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "staunch " + opts.Node
	}
	// A sequential scan of a small table would make SERIALIZABLE take it for a
	// read of all of it, and transactions that have nothing in common fail.
	params["enable_seqscan"] = "off"
	params["jit"] = "off"
	// What a lost connection leaves behind on the server keeps its locks until
	// the server notices.
	params["idle_in_transaction_session_timeout"] = "15000"
	params["tcp_keepalives_idle"] = "10"
	params["tcp_keepalives_interval"] = "5"
	params["tcp_keepalives_count"] = "2"
	params["tcp_user_timeout"] = "15000"
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		// Everything stricter than "on" is the operator's choice.
		_, err := c.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	p := &Postgres{
		opts: opts, config: config.ConnConfig, pool: pool, instance: opts.Node + "/" + rand.Text()[:12],
		slots: make(chan int, max(opts.Conns*3/4, 1)), lanes: make(chan *lane, opts.Lanes),
		holds: make(chan struct{}, 1), patient: make(chan struct{}, 1),
	}
	for i := range cap(p.slots) {
		p.slots <- i
	}
	for i := range opts.Lanes {
		p.lanes <- &lane{name: opts.Node + "/" + strconv.Itoa(i)}
	}
	if err := p.prepare(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return p, nil
}

func (p *Postgres) prepare(ctx context.Context) error {
	var number int
	var name string
	err := p.pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, current_setting('server_version')").Scan(&number, &name)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	if number < oldestServer {
		return fmt.Errorf("%w: PostgreSQL %s, 15 or later is needed", staunch.ErrInvalid, name)
	}
	db := stdlib.OpenDBFromPool(p.pool)
	err = migrate(ctx, db, migrationFiles, goose.DialectPostgres)
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	// Slots of processes long gone.
	_, err = p.pool.Exec(ctx, "DELETE FROM commits WHERE at < ("+clockSQL+") - $1", (7 * 24 * time.Hour).Microseconds())
	return wrap(err, "clearing old commit slots")
}

// conn is a pooled connection inside a transaction. Statements whose outcome
// nobody waits for are kept, and go out with the next one in one round trip;
// BEGIN is the first of them.
type conn struct {
	c    *pgxpool.Conn
	kept []kept
}

type kept struct {
	text string
	args []any
	rows *int64
}

var _ session = (*conn)(nil)

// mostKept bounds the memory that statements wait in.
const mostKept = 64

func (c *conn) later(ctx context.Context, text string, args []any, rows *int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.kept = append(c.kept, kept{text, args, rows})
	if len(c.kept) < mostKept {
		return nil
	}
	_, err := c.send(ctx)
	return err
}

// send sends what is kept, and returns the last one's tag.
func (c *conn) send(ctx context.Context) (last pgconn.CommandTag, err error) {
	results, n := c.batch(ctx, "", nil)
	defer func() {
		if cerr := results.Close(); err == nil {
			err = cerr
		}
	}()
	return c.read(results, n)
}

// batch sends what is kept, then text, if any.
func (c *conn) batch(ctx context.Context, text string, args []any) (pgx.BatchResults, []kept) {
	var b pgx.Batch
	for _, k := range c.kept {
		b.Queue(k.text, k.args...)
	}
	if text != "" {
		b.Queue(text, args...)
	}
	sent := c.kept
	c.kept = nil
	return c.c.SendBatch(ctx, &b), sent
}

func (c *conn) read(results pgx.BatchResults, sent []kept) (last pgconn.CommandTag, err error) {
	for _, k := range sent {
		if last, err = results.Exec(); err != nil {
			return last, err
		}
		if k.rows != nil {
			*k.rows = last.RowsAffected()
		}
	}
	return last, nil
}

func (c *conn) exec(ctx context.Context, text string, args []any) (int64, error) {
	if len(c.kept) == 0 {
		tag, err := c.c.Exec(ctx, text, args...)
		return tag.RowsAffected(), err
	}
	c.kept = append(c.kept, kept{text: text, args: args})
	tag, err := c.send(ctx)
	return tag.RowsAffected(), err
}

func (c *conn) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) (err error) {
	var rows pgx.Rows
	if len(c.kept) == 0 {
		rows, err = c.c.Query(ctx, text, args...)
	} else {
		results, sent := c.batch(ctx, text, args)
		defer func() {
			if cerr := results.Close(); err == nil {
				err = cerr
			}
		}()
		if _, err = c.read(results, sent); err != nil {
			return err
		}
		rows, err = results.Query()
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// rollback ends the transaction, if it has begun, and gives the connection
// back; where that fails the pool throws it away.
func (c *conn) rollback(ctx context.Context) {
	if p := c.c.Conn().PgConn(); !p.IsClosed() && p.TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if _, err := c.c.Exec(ctx, "ROLLBACK"); err != nil {
			_ = c.c.Conn().Close(ctx)
		}
	}
	c.c.Release()
}

// trouble is what an error means for the transaction.
type trouble int

const (
	troubleNone     trouble = iota
	troubleTurn             // somebody else has the turn; wait for it before beginning
	troubleConflict         // run again
	troubleDouble           // a unique key was taken just now; run again and see it
	troubleLost             // the connection is gone
	troubleOther
)

var errTurn = errors.New("another transaction has the turn")

func troubleOf(err error) trouble {
	if err == nil {
		return troubleNone
	}
	if errors.Is(err, errTurn) {
		return troubleTurn
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return troubleOther
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch {
		case pe.Severity == "FATAL" || pe.Severity == "PANIC" || strings.HasPrefix(pe.Code, "08") || strings.HasPrefix(pe.Code, "57P"):
			return troubleLost
		case pe.Code == "40001" || pe.Code == "40P01" || pe.Code == "55P03":
			return troubleConflict
		case pe.Code == "23505":
			return troubleDouble
		}
		return troubleOther
	}
	if errors.Is(err, staunch.ErrInvalid) || errors.Is(err, errOver) {
		return troubleOther
	}
	return troubleLost
}

// attempt is one run of a transaction.
type attempt struct {
	p    *Postgres
	conn *conn
	slot int
	// held is the lane that it holds, nil for none; hasTurn says that it has
	// the turn for holds, in this process and in the database.
	held    *lane
	hasTurn bool
	// wait has what a run before this one could not get: it is waited for
	// before the transaction begins, where waiting can block nobody.
	wait *waits
}

type waits struct{ lane, holds bool }

// lane is one of this process's lanes. head is its end as of the last commit,
// nil where that is not known.
type lane struct {
	name string
	head *store.Head
}

var _ engine = (*attempt)(nil)

func (a *attempt) texts() *texts { return &a.p.cache }

func (a *attempt) fault(statement string) error { return a.p.opts.fault(statement) }

// lane and holdSeq never wait inside a transaction. It may hold locks that the
// one they would wait for needs, and the database sees only half of that circle.

func (a *attempt) lane(t *tx) (string, *store.Head, error) {
	if a.held == nil {
		select {
		case a.held = <-a.p.lanes:
		default:
			a.wait.lane = true
			return "", nil, t.fail(errTurn)
		}
	}
	if a.held.head == nil {
		return a.held.name, nil, nil
	}
	head := *a.held.head
	return a.held.name, &head, nil
}

const lockHolds = "LOCK TABLE hold_turn IN EXCLUSIVE MODE"

// holdSeq draws from a sequence while it has a lock that lasts until the commit
// is visible. So holds become visible in the order of their sequences, across
// nodes, and a transaction that comes second does not fail for it.
func (a *attempt) holdSeq(t *tx) (int64, error) {
	if t.failed != nil {
		return 0, t.failed
	}
	locking := !a.hasTurn
	if locking {
		select {
		case a.p.holds <- struct{}{}:
			a.hasTurn = true
		default:
			a.wait.holds = true
			return 0, t.fail(errTurn)
		}
		if err := t.later(lockHolds + " NOWAIT"); err != nil {
			return 0, err
		}
	}
	t.wrote = true
	var seq int64
	err := t.one("the next hold sequence", "SELECT nextval('hold_seq')", nil, &seq)
	if locking && isLockTaken(err) {
		a.wait.holds = true
		t.failed = errTurn
	}
	return seq, err
}

func isLockTaken(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "55P03"
}

func (a *attempt) now(r *reader) (staunch.Time, error) {
	var now int64
	err := r.one("the database's clock", clockSQL, nil, &now)
	return staunch.Time(now), err
}

// begin takes what the run before had to wait for, in a fixed order, and
// begins. LOCK TABLE comes before the first statement that needs a snapshot, so
// that the snapshot has everything that the one before committed.
func (a *attempt) begin(ctx context.Context) error {
	if a.wait.holds {
		select {
		case a.p.holds <- struct{}{}:
			a.hasTurn = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if a.wait.lane {
		select {
		case a.held = <-a.p.lanes:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c, err := a.p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	a.conn = &conn{c: c}
	a.conn.keep("BEGIN ISOLATION LEVEL SERIALIZABLE")
	if a.wait.holds {
		a.conn.keep(lockHolds)
	}
	a.conn.keep("SET LOCAL lock_timeout = " + lockTime)
	return nil
}

// keep is later without the bound.
func (c *conn) keep(text string, args ...any) {
	c.kept = append(c.kept, kept{text: text, args: args})
}

// leave gives everything back. The connection must have been released.
func (a *attempt) leave() {
	if a.held != nil {
		a.p.lanes <- a.held
	}
	if a.hasTurn {
		<-a.p.holds
	}
}

// Update implements store.Store. fn and the OnCommit functions run in the
// caller's goroutine. Among the transactions of one process that put holds,
// OnCommit functions run in the order of the commits.
func (p *Postgres) Update(ctx context.Context, fn func(store.Tx) error) error {
	if p.closed.Load() {
		return errClosed
	}
	var slot int
	select {
	case slot = <-p.slots:
		defer func() { p.slots <- slot }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var wait waits
	conflicts, doubles, lost, patient := 0, 0, 0, false
	for {
		if conflicts >= eagerTries && !patient {
			select {
			case p.patient <- struct{}{}:
				patient = true
				defer func() { <-p.patient }()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		what, err := p.try(ctx, slot, &wait, fn)
		pause := 0
		switch what {
		case troubleTurn:
			continue
		case troubleConflict:
			conflicts++
			pause = conflicts
		case troubleDouble:
			if doubles++; doubles >= lostTries {
				return err
			}
			pause = doubles
		case troubleLost:
			if lost++; lost >= lostTries || p.closed.Load() {
				return failed(staunch.Transient(err))
			}
			pause = lost + 3
		default:
			return err
		}
		if werr := sleep(ctx, pause); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// sleep pauses for a random part of a time that doubles with each try.
func sleep(ctx context.Context, try int) error {
	most := min(time.Millisecond<<min(try, 10), waitMost)
	timer := time.NewTimer(randv2.N(most)) //nolint:gosec // spreading, no secret
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try runs the transaction once. Its trouble is none when the error is the one
// to return, nil included.
func (p *Postgres) try(ctx context.Context, slot int, wait *waits, fn func(store.Tx) error) (trouble, error) {
	a := &attempt{p: p, slot: slot, wait: wait}
	defer a.leave()
	if err := a.begin(ctx); err != nil {
		return troubleOf(err), fmt.Errorf("beginning a transaction: %w", err)
	}
	t := newTx(reader{ctx: ctx, session: a.conn, engine: a, known: newKnown()}, p.opts.Chain)
	own := p.call(t, a, fn)
	if own == nil {
		own = t.finish()
	}
	if own != nil {
		what := troubleOf(t.failed)
		if what == troubleDouble && a.held != nil {
			a.held.head = nil
		}
		t.end()
		a.conn.rollback(ctx)
		if what == troubleOther {
			what = troubleNone
		}
		return what, own
	}
	t.end()
	what, err := a.commit(ctx, t)
	if err != nil {
		return what, err
	}
	for _, f := range t.onCommit {
		f()
	}
	p.listeners.tell(t.change)
	return troubleNone, nil
}

// call runs fn and sees to the connection when it panics.
func (p *Postgres) call(t *tx, a *attempt, fn func(store.Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			t.end()
			a.conn.rollback(t.ctx)
		}
	}()
	err := fn(t)
	returned = true
	return err
}

// commit sends the commit and a marker in one transaction and round trip. The marker goes into a row of its own for each
// transaction at a time; see resolve.
func (a *attempt) commit(ctx context.Context, t *tx) (trouble, error) {
	if a.held != nil && t.head != nil {
		a.held.head = nil // until it is known to have been committed
	}
	if !t.wrote && a.conn.c.Conn().PgConn().TxStatus() == 'I' {
		a.conn.c.Release() // not even begun
		return troubleNone, nil
	}
	if err := a.fault("COMMIT"); err != nil {
		a.conn.rollback(ctx)
		return troubleNone, failed(fmt.Errorf("committing: %w", err))
	}
	marker := markerPrefix + rand.Text()
	if t.wrote {
		a.conn.keep("INSERT INTO commits (slot, marker, at) VALUES ($1, $2, ("+clockSQL+")) "+
			"ON CONFLICT (slot) DO UPDATE SET marker = excluded.marker, at = excluded.at", a.slotName(), marker)
	}
	if t.change.Holds {
		a.conn.keep("NOTIFY " + channel)
	}
	a.conn.keep("COMMIT")
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	tag, err := a.conn.send(cctx)
	if err == nil && tag.String() == "COMMIT" {
		a.conn.c.Release()
		a.committed(t)
		return troubleNone, nil
	}
	if err == nil {
		a.conn.rollback(ctx)
		return troubleNone, failed(fmt.Errorf("committing: the database answered %q", tag))
	}
	what := troubleOf(err)
	if what == troubleOther && errors.Is(err, context.DeadlineExceeded) {
		what = troubleLost
	}
	err = fmt.Errorf("committing: %w", err)
	if what != troubleLost {
		a.conn.rollback(ctx)
		if what == troubleOther {
			what = troubleNone
		}
		return what, err
	}
	backend := a.conn.c.Conn().PgConn().PID()
	_ = a.conn.c.Conn().Close(cctx)
	a.conn.c.Release()
	if !t.wrote {
		return troubleLost, err // there is nothing that could be half done
	}
	committed, rerr := a.p.resolve(ctx, backend, a.slotName(), marker)
	switch {
	case rerr != nil:
		return troubleNone, fmt.Errorf("%w: %w (and then: %w)", staunch.ErrCommitUnknown, err, rerr)
	case committed:
		a.committed(t)
		return troubleNone, nil
	default:
		return troubleLost, err
	}
}

// committed remembers the head of the lane.
func (a *attempt) committed(t *tx) {
	if a.held != nil && t.head != nil {
		a.held.head = t.head
	}
}

func (a *attempt) slotName() string { return a.p.instance + "/" + strconv.Itoa(a.slot) }

// resolve finds out whether the commit with the marker happened. It waits for
// the transaction if that is still being committed, since both write the slot's
// row, and when it did not commit writes that row itself, so that it never
// will: a SERIALIZABLE transaction cannot write a row that changed after it
// began.
func (p *Postgres) resolve(ctx context.Context, backend uint32, slot, marker string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	fence := "fence-" + rand.Text()
	for try := 1; ; try++ {
		committed, err := p.fence(ctx, slot, marker, fence)
		if err == nil && !committed {
			// The server may not have noticed yet, and keep the locks that the
			// next try needs. This only saves time.
			_, err = p.pool.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "+
				"WHERE pid = $1 AND usename = current_user AND state LIKE 'idle in transaction%'", int64(backend))
			if err != nil {
				p.opts.Log.Debug("ending the backend of a lost connection", "error", err)
			}
			return false, nil
		}
		if err == nil {
			return true, nil
		}
		if serr := sleep(ctx, try+3); serr != nil || p.closed.Load() {
			return false, errors.Join(serr, err)
		}
	}
}

// fence tells whether the slot has the marker, and puts mark there if not. A
// marker that is found stays, so that it is found again when this call's own
// answer is lost.
func (p *Postgres) fence(ctx context.Context, slot, marker, mark string) (committed bool, err error) {
	err = pgx.BeginTxFunc(ctx, p.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(t pgx.Tx) error {
		if _, err := t.Exec(ctx, "INSERT INTO commits (slot, marker, at) VALUES ($1, $2, ("+clockSQL+")) ON CONFLICT (slot) DO NOTHING", slot, mark); err != nil {
			return err
		}
		var found string
		if err := t.QueryRow(ctx, "SELECT marker FROM commits WHERE slot = $1 FOR UPDATE", slot).Scan(&found); err != nil {
			return err
		}
		if committed = found == marker; committed {
			return nil
		}
		_, err := t.Exec(ctx, "UPDATE commits SET marker = $2 WHERE slot = $1", slot, mark)
		return err
	})
	return committed, err
}

// View implements store.Store. fn runs again when the connection is lost.
func (p *Postgres) View(ctx context.Context, fn func(store.Reader) error) error {
	for lost := 1; ; lost++ {
		if p.closed.Load() {
			return errClosed
		}
		what, err := p.look(ctx, fn)
		if what != troubleLost && what != troubleConflict {
			return err
		}
		if lost == lostTries {
			return failed(staunch.Transient(err))
		}
		if werr := sleep(ctx, lost+3); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

func (p *Postgres) look(ctx context.Context, fn func(store.Reader) error) (trouble, error) {
	pooled, err := p.pool.Acquire(ctx)
	if err != nil {
		return troubleOf(err), fmt.Errorf("beginning a read: %w", err)
	}
	c := &conn{c: pooled}
	defer c.rollback(ctx)
	c.keep("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	r := &reader{ctx: ctx, session: c, engine: &attempt{p: p}}
	err = fn(r)
	what := troubleOf(r.failed)
	r.end()
	return what, err
}

// Now implements store.Store: the server's clock.
func (p *Postgres) Now(ctx context.Context) (staunch.Time, error) {
	var now int64
	if err := p.pool.QueryRow(ctx, clockSQL).Scan(&now); err != nil {
		return 0, fmt.Errorf("reading the database's clock: %w", err)
	}
	return staunch.Time(now), nil
}

// Listen calls fn after commits that changed something to listen for, until ctx
// ends; then it returns nil. Changes of holds are heard from every node, work
// from this one only: others find it when they look for due timers. fn is also
// called whenever the connection was made anew, since something may have been
// missed. It must not block.
func (p *Postgres) Listen(ctx context.Context, fn func(Change)) error {
	defer p.listeners.add(fn)()
	for try := 1; ; try++ {
		err := p.hear(ctx, func(c Change) {
			try = 1
			fn(c)
		})
		if ctx.Err() != nil {
			return nil
		}
		p.opts.Log.Warn("listening for changes of other nodes", "error", err)
		if sleep(ctx, try+5) != nil {
			return nil
		}
	}
}

func (p *Postgres) hear(ctx context.Context, fn func(Change)) error {
	c, err := pgx.ConnectConfig(ctx, p.config.Copy())
	if err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		_ = c.Close(cctx)
	}()
	if _, err := c.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	fn(Change{Holds: true, Work: true})
	for {
		if _, err := c.WaitForNotification(ctx); err != nil {
			return err
		}
		fn(Change{Holds: true})
	}
}

// Close implements store.Store. It waits for what is under way; a second call
// does nothing.
func (p *Postgres) Close() error {
	if p.closed.CompareAndSwap(false, true) {
		p.pool.Close()
	}
	return nil
}
