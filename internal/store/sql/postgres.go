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
	lanes chan int
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
		slots: make(chan int, max(opts.Conns*3/4, 1)), lanes: make(chan int, opts.Lanes),
		holds: make(chan struct{}, 1), patient: make(chan struct{}, 1),
	}
	for i := range cap(p.slots) {
		p.slots <- i
	}
	for i := range opts.Lanes {
		p.lanes <- i
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

// conn is a pooled connection inside a transaction.
type conn struct{ c *pgxpool.Conn }

var _ session = conn{}

func (c conn) exec(ctx context.Context, text string, args []any) (int64, error) {
	tag, err := c.c.Exec(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), nil
}

func (c conn) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	rows, err := c.c.Query(ctx, text, args...)
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

// script sends statements in one message and returns the last one's tag.
func (c conn) script(ctx context.Context, text string) (string, error) {
	results, err := c.c.Conn().PgConn().Exec(ctx, text).ReadAll()
	if err != nil {
		return "", err
	}
	if len(results) == 0 {
		return "", nil
	}
	return results[len(results)-1].CommandTag.String(), nil
}

// rollback ends the transaction and gives the connection back; where that
// fails the pool throws it away.
func (c conn) rollback(ctx context.Context) {
	if !c.c.Conn().IsClosed() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if _, err := c.script(ctx, "ROLLBACK"); err != nil {
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
	if errors.Is(err, staunch.ErrInvalid) || errors.Is(err, errOver) || errors.Is(err, errHeadMoved) {
		return troubleOther
	}
	return troubleLost
}

// attempt is one run of a transaction.
type attempt struct {
	p    *Postgres
	conn conn
	slot int
	// held is the lane that it holds, -1 for none; hasTurn says that it has the
	// turn for holds, in this process and in the database.
	held    int
	hasTurn bool
	// wait has what a run before this one could not get: it is waited for
	// before the transaction begins, where waiting can block nobody.
	wait *waits
}

type waits struct{ lane, holds bool }

var _ engine = (*attempt)(nil)

func (a *attempt) texts() *texts { return &a.p.cache }

func (a *attempt) laneName() string { return a.p.opts.Node + "/" + strconv.Itoa(a.held) }

// lane and holdSeq never wait inside a transaction. It may hold locks that the
// one they would wait for needs, and the database sees only half of that circle.

func (a *attempt) lane(t *tx) (string, error) {
	if a.held < 0 {
		select {
		case a.held = <-a.p.lanes:
		default:
			a.wait.lane = true
			return "", t.fail(errTurn)
		}
	}
	return a.laneName(), nil
}

// holdSeq draws from a sequence while it has a lock that lasts until the commit
// is visible. So holds become visible in the order of their sequences, across
// nodes, and a transaction that comes second does not fail for it.
func (a *attempt) holdSeq(t *tx) (int64, error) {
	if t.failed != nil {
		return 0, t.failed
	}
	if !a.hasTurn {
		select {
		case a.p.holds <- struct{}{}:
			a.hasTurn = true
		default:
			a.wait.holds = true
			return 0, t.fail(errTurn)
		}
		if _, err := a.conn.script(t.ctx, "LOCK TABLE hold_turn IN EXCLUSIVE MODE NOWAIT"); err != nil {
			var pe *pgconn.PgError
			if errors.As(err, &pe) && pe.Code == "55P03" {
				a.wait.holds = true
				return 0, t.fail(errTurn)
			}
			return 0, t.fail(err)
		}
	}
	t.wrote = true
	var seq int64
	err := t.one("the next hold sequence", "SELECT nextval('hold_seq')", nil, &seq)
	return seq, err
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
	text := "BEGIN ISOLATION LEVEL SERIALIZABLE"
	if a.wait.holds {
		select {
		case a.p.holds <- struct{}{}:
			a.hasTurn = true
		case <-ctx.Done():
			return ctx.Err()
		}
		text += "; LOCK TABLE hold_turn IN EXCLUSIVE MODE"
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
	a.conn = conn{c}
	_, err = a.conn.script(ctx, text+"; SET LOCAL lock_timeout = "+lockTime)
	return err
}

// leave gives everything back. The connection must have been released.
func (a *attempt) leave() {
	if a.held >= 0 {
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
		err, what := p.try(ctx, slot, &wait, fn)
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
				return staunch.Transient(err)
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
func (p *Postgres) try(ctx context.Context, slot int, wait *waits, fn func(store.Tx) error) (error, trouble) { //nolint:revive // the error is one of two results of equal rank
	a := &attempt{p: p, slot: slot, held: -1, wait: wait}
	defer a.leave()
	if err := a.begin(ctx); err != nil {
		if a.conn.c != nil {
			a.conn.rollback(ctx)
		}
		return fmt.Errorf("beginning a transaction: %w", err), troubleOf(err)
	}
	t := newTx(reader{ctx: ctx, session: a.conn, engine: a}, p.opts.Chain)
	own := p.call(t, a, fn)
	if own == nil {
		own = t.finish()
	}
	if own != nil {
		what := troubleOf(t.failed)
		t.end()
		a.conn.rollback(ctx)
		if what == troubleOther {
			what = troubleNone
		}
		return own, what
	}
	t.end()
	err, what := a.commit(ctx, t)
	if err != nil {
		return err, what
	}
	for _, f := range t.onCommit {
		f()
	}
	p.listeners.tell(t.change)
	return nil, troubleNone
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

// commit sends the commit and a marker in one message, so that the server has
// either both or none. The marker goes into a row of its own for each
// transaction at a time; see resolve.
func (a *attempt) commit(ctx context.Context, t *tx) (error, trouble) { //nolint:revive // see try
	marker, text := rand.Text(), "COMMIT"
	if t.wrote {
		text = "INSERT INTO commits (slot, marker, at) VALUES ('" + a.slotName() + "', '" + marker + "', (" + clockSQL + ")) " +
			"ON CONFLICT (slot) DO UPDATE SET marker = excluded.marker, at = excluded.at; COMMIT"
		if t.change.Holds {
			text = "NOTIFY " + channel + "; " + text
		}
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	tag, err := a.conn.script(cctx, text)
	if err == nil && tag == "COMMIT" {
		a.conn.c.Release()
		return nil, troubleNone
	}
	if err == nil {
		a.conn.rollback(ctx)
		return fmt.Errorf("committing: the database answered %q", tag), troubleNone
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
		return err, what
	}
	backend := a.conn.c.Conn().PgConn().PID()
	_ = a.conn.c.Conn().Close(cctx)
	a.conn.c.Release()
	if !t.wrote {
		return err, troubleLost // there is nothing that could be half done
	}
	committed, rerr := a.p.resolve(ctx, backend, a.slotName(), marker)
	switch {
	case rerr != nil:
		return fmt.Errorf("%w: %w (and then: %w)", staunch.ErrCommitUnknown, err, rerr), troubleNone
	case committed:
		return nil, troubleNone
	default:
		return err, troubleLost
	}
}

// slotName has no character that would have to be quoted.
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
		err, what := p.look(ctx, fn)
		if what != troubleLost && what != troubleConflict {
			return err
		}
		if lost == lostTries {
			return staunch.Transient(err)
		}
		if werr := sleep(ctx, lost+3); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

func (p *Postgres) look(ctx context.Context, fn func(store.Reader) error) (error, trouble) { //nolint:revive // see try
	pooled, err := p.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("beginning a read: %w", err), troubleOf(err)
	}
	c := conn{pooled}
	defer c.rollback(ctx)
	if _, err := c.script(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return fmt.Errorf("beginning a read: %w", err), troubleOf(err)
	}
	r := &reader{ctx: ctx, session: c, engine: &attempt{p: p, held: -1}}
	err = fn(r)
	what := troubleOf(r.failed)
	r.end()
	return err, what
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
