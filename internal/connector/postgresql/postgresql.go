// Package postgresql contains roles and sessions of a PostgreSQL cluster:
// NOLOGIN, REVOKE of what was granted to the role directly with a snapshot that
// puts exactly that back, and the end of its sessions.
//
// Every statement that changes something carries a comment with the step's
// key, so that the server's own statement log is a ledger of what was done. It
// runs in a transaction that first reads the state under an advisory lock and
// goes on only where that state is the one that the step was prepared for.
package postgresql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// Platform is the connector's name in configuration.
const Platform = "postgresql"

// The schemes of refs and the attributes of targets.
const (
	// SchemeRole names an account by its role name.
	SchemeRole = "role"
	// SchemeBackend names a session as "pid/backend_start", the start in
	// microseconds since 1970 UTC, so that a pid that is used again names
	// another session.
	SchemeBackend = "backend"
	// SchemeSessionID names a session as the server's log does, by its
	// session_id: the start in hexadecimal seconds, a dot, the hexadecimal pid.
	// Expand turns it into a backend; it is never a target itself.
	SchemeSessionID = "session-id"
	// SchemePassword names a role's password by the role name: PostgreSQL's
	// passwords have no ids of their own.
	SchemePassword = "password"

	// AttrLogin is whether the role may log in.
	AttrLogin = "login"
	// AttrGrants is what the role was granted on shared objects: memberships,
	// databases, tablespaces and parameters.
	AttrGrants = "grants"
	// AttrGrantsIn, followed by a database, is what it was granted in there.
	AttrGrantsIn = "grants/"
	// AttrSessions is all of the role's sessions.
	AttrSessions = "sessions"
	// AttrBackend is the one session that the ref names.
	AttrBackend = "backend"
)

// MinVersion is the oldest server_version_num that the connector works with.
const MinVersion = 130000

// Connector acts on one PostgreSQL cluster.
type Connector struct {
	realm string
	cfg   Config
	clock staunch.Clock
	own   []string

	acting, proving *pgxpool.Config

	newest connector.Newest

	mu     sync.Mutex
	pools  map[poolKey]*pgxpool.Pool
	closed bool
}

type poolKey struct {
	proof    bool
	database string
}

var (
	_ connector.Connector = (*Connector)(nil)
	_ connector.Prober    = (*Connector)(nil)
	_ connector.Health    = (*Connector)(nil)
	_ connector.Own       = (*Connector)(nil)
	_ connector.Warmer    = (*Connector)(nil)
)

// Factory returns the connector's factory.
func Factory() connector.Factory {
	return connector.Factory{
		Platform: Platform,
		New:      New,
		Config:   func() any { return new(Config) },
		Describe: func() connector.Description {
			var c Config
			c.defaults()
			return describe("", c)
		},
	}
}

// New makes a connector. It connects to nothing yet.
func New(d connector.Deps) (connector.Connector, error) {
	var cfg Config
	if err := d.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("decoding the postgresql configuration: %w", err)
	}
	cfg.defaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("postgresql configuration: %w", err)
	}
	c := &Connector{realm: d.Realm, cfg: cfg, clock: d.Clock, pools: map[poolKey]*pgxpool.Pool{}}
	var err error
	if c.acting, err = cfg.pool("dsn", cfg.DSN, "staunch"); err != nil {
		return nil, fmt.Errorf("postgresql configuration: %w", err)
	}
	proof, place := cfg.DSN, "dsn"
	if !cfg.ProofDSN.Empty() {
		proof, place = cfg.ProofDSN, "proof_dsn"
	}
	if c.proving, err = cfg.pool(place, proof, "staunch-proof"); err != nil {
		return nil, fmt.Errorf("postgresql configuration: %w", err)
	}
	c.own = []string{c.acting.ConnConfig.User}
	if u := c.proving.ConnConfig.User; u != c.own[0] {
		c.own = append(c.own, u)
	}
	return c, nil
}

// Describe declares the verbs.
func (c *Connector) Describe() connector.Description { return describe(c.realm, c.cfg) }

// Close closes every connection. Calls after it fail.
func (c *Connector) Close() error {
	c.mu.Lock()
	pools := c.pools
	c.pools, c.closed = nil, true
	c.mu.Unlock()
	for _, p := range pools {
		p.Close()
	}
	return nil
}

// OwnRefs returns the roles that the connector logs in with, and their
// passwords. It asks nobody.
func (c *Connector) OwnRefs(context.Context) ([]staunch.Ref, error) {
	var out []staunch.Ref
	for _, u := range c.own {
		out = append(out,
			staunch.Ref{Kind: staunch.KindAccount, Realm: c.realm, Scheme: SchemeRole, Value: u},
			staunch.Ref{Kind: staunch.KindCredential, Realm: c.realm, Scheme: SchemePassword, Value: u})
	}
	return out, nil
}

// acquire takes a connection to a database, or to the DSN's own for "".
func (c *Connector) acquire(ctx context.Context, proof bool, database string) (*pgxpool.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errClosed
	}
	key := poolKey{proof, database}
	p := c.pools[key]
	if p == nil {
		cfg := c.acting.Copy()
		if proof {
			cfg = c.proving.Copy()
		}
		if database != "" {
			cfg.ConnConfig.Database = database
		}
		var err error
		// The context is for opening connections ahead, of which there are none.
		if p, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg); err != nil {
			c.mu.Unlock()
			return nil, fmt.Errorf("making a connection pool: %w", err)
		}
		c.pools[key] = p
	}
	c.mu.Unlock()
	conn, err := p.Acquire(ctx)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "3D000" {
			// No such database: keep no pool for names that are not there.
			c.mu.Lock()
			if c.pools[key] == p {
				delete(c.pools, key)
			}
			c.mu.Unlock()
			p.Close()
		}
		return nil, err
	}
	return conn, nil
}

// Bounds of what is kept ready: all of the connections to the DSN's own database,
// where roles and sessions are, and some to those where grants are.
const (
	warmDatabases = 8
	warmEach      = 2
)

// Warm opens connections ahead, and asks on each what a containment asks, about
// our own role. A connection costs the server a process that has read nothing
// yet, which takes longer than all that is asked on it later.
func (c *Connector) Warm(ctx context.Context) error {
	conn, err := c.acquire(ctx, false, "")
	if err != nil {
		return classify("connecting ahead", err, false)
	}
	rows, err := conn.Query(ctx, "SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname <> current_database(), datname")
	var names []string
	if err == nil {
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	conn.Release()
	if err != nil {
		return classify("listing databases", err, false)
	}
	var errs []error
	hold := func(proof bool, database string, n int) {
		n = min(n, c.cfg.MaxConns)
		if c.open(proof, database) >= n {
			return // ready, and not to be kept from who needs them
		}
		var held []*pgxpool.Conn
		for range n {
			conn, err := c.acquire(ctx, proof, database)
			if err != nil {
				errs = append(errs, err)
				break
			}
			held = append(held, conn)
			if err := c.prime(ctx, conn, database); err != nil {
				errs = append(errs, err)
			}
		}
		for _, conn := range held {
			conn.Release()
		}
	}
	hold(false, "", c.cfg.MaxConns)
	hold(true, "", warmEach)
	names = slices.DeleteFunc(names, func(n string) bool { return !c.covers(n) })
	for _, n := range names[:min(len(names), warmDatabases)] {
		hold(false, n, warmEach)
		hold(true, n, warmEach)
	}
	return classify("connecting ahead", errors.Join(errs...), false)
}

// open returns how many connections there are to a database.
func (c *Connector) open(proof bool, database string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pools[poolKey{proof, database}]; p != nil {
		return int(p.Stat().TotalConns())
	}
	return 0
}

// prime has a connection's statements prepared and the server's process know the
// catalogues that they read.
func (c *Connector) prime(ctx context.Context, conn *pgxpool.Conn, database string) error {
	us := staunch.Ref{Kind: staunch.KindAccount, Realm: c.realm, Scheme: SchemeRole, Value: conn.Conn().Config().User}
	attrs := []string{AttrGrants, AttrSessions}
	if database != "" {
		attrs = []string{AttrGrantsIn}
	}
	for _, attr := range attrs {
		if _, _, err := c.read(ctx, conn, staunch.Target{Ref: us, Attribute: attr + database}, attr, database); err != nil {
			return err
		}
	}
	return nil
}

// within bounds ctx by the intent's deadline.
func (c *Connector) within(ctx context.Context, in staunch.Intent) (context.Context, context.CancelFunc, error) {
	if in.Deadline == 0 {
		return ctx, func() {}, nil
	}
	left := in.Deadline.Sub(staunch.TimeOf(c.clock.Now()))
	if left <= 0 {
		return nil, nil, staunch.Transient(fmt.Errorf("the intent's deadline is over: %w", context.DeadlineExceeded))
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	return ctx, cancel, nil
}

// kindOf says which part of the connector a target belongs to.
func (c *Connector) kindOf(t staunch.Target) (attr, database string, err error) {
	bad := func(format string, args ...any) (string, string, error) {
		return "", "", staunch.Permanent(fmt.Errorf("%w: target %s: %s", staunch.ErrInvalid, t, fmt.Sprintf(format, args...)))
	}
	if err := t.Ref.Validate(); err != nil {
		return bad("%v", err)
	}
	if t.Ref.Realm != c.realm {
		return bad("not on realm %s", c.realm)
	}
	switch {
	case t.Ref.Kind == staunch.KindSession && t.Ref.Scheme == SchemeBackend:
		if t.Attribute != AttrBackend {
			return bad("a session has the attribute %s alone", AttrBackend)
		}
		if _, err := parseBackend(t.Ref.Value); err != nil {
			return bad("%v", err)
		}
		return AttrBackend, "", nil
	case t.Ref.Kind == staunch.KindAccount && t.Ref.Scheme == SchemeRole:
		switch t.Attribute {
		case AttrLogin, AttrGrants, AttrSessions:
			return t.Attribute, "", nil
		}
		db, ok := strings.CutPrefix(t.Attribute, AttrGrantsIn)
		if !ok || db == "" {
			return bad("a role has no such attribute")
		}
		if !c.covers(db) {
			return bad("database %s is excluded by the configuration", db)
		}
		return AttrGrantsIn, db, nil
	default:
		return bad("kind %s, scheme %s is not acted upon", t.Ref.Kind, t.Ref.Scheme)
	}
}

// covers reports whether the configuration includes a database.
func (c *Connector) covers(database string) bool {
	if slices.Contains(c.cfg.Exclude, database) {
		return false
	}
	return len(c.cfg.Databases) == 0 || slices.Contains(c.cfg.Databases, database)
}

// querier is a connection or transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Read reads a target; proof uses the proof account's connections.
func (c *Connector) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	attr, db, err := c.kindOf(t)
	if err != nil {
		return staunch.State{}, err
	}
	doing := "reading " + t.String()
	conn, err := c.acquire(ctx, proof, db)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "3D000" {
			return c.state(t, nil, false, "no such database")
		}
		return staunch.State{}, classify(doing, err, false)
	}
	defer conn.Release()
	if attr == AttrBackend {
		st, err := c.readBackend(ctx, conn, t)
		return st, classify(doing, err, false)
	}
	st, _, err := c.read(ctx, conn, t, attr, db)
	if err != nil {
		return staunch.State{}, classify(doing, err, false)
	}
	return st, nil
}

// read reads an attribute of a role, and the role.
func (c *Connector) read(ctx context.Context, q querier, t staunch.Target, attr, db string) (staunch.State, role, error) {
	r, err := c.readRole(ctx, q, t.Ref.Value)
	if errors.Is(err, pgx.ErrNoRows) {
		st, err := c.state(t, nil, false, "no such role")
		return st, role{}, err
	}
	if err != nil {
		return staunch.State{}, role{}, err
	}
	st, err := c.readOf(ctx, q, t, r, attr, db)
	return st, r, err
}

func (c *Connector) readOf(ctx context.Context, q querier, t staunch.Target, r role, attr, db string) (staunch.State, error) {
	switch attr {
	case AttrLogin:
		return c.readLogin(t, r)
	case AttrSessions:
		return c.readSessions(ctx, q, t, r)
	default:
		return c.readGrants(ctx, q, t, r, db)
	}
}

// state makes a State; a nil body is a thing that is not there.
func (c *Connector) state(t staunch.Target, body any, effective bool, summary string) (staunch.State, error) {
	st := staunch.State{V: staunch.Version, Target: t, ReadAt: staunch.TimeOf(c.clock.Now()), Summary: summary}
	if body == nil {
		return st, nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return st, fmt.Errorf("encoding the state: %w", err)
	}
	st.Exists, st.Effective, st.Body = true, effective, b
	return st, nil
}

// decode reads a state's body strictly.
func decode[T any](st staunch.State) (T, error) {
	var v T
	dec := json.NewDecoder(bytes.NewReader(st.Body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("%w: the body of the state of %s: %w", staunch.ErrInvalid, st.Target, err)
	}
	return v, nil
}

// Prepare says what has to be called.
func (c *Connector) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	attr, _, err := c.kindOf(st.Target)
	if err != nil {
		return staunch.Intent{}, err
	}
	want, ok := map[string]staunch.Verb{
		AttrLogin: staunch.VerbSuspend, AttrGrants: staunch.VerbRestrict, AttrGrantsIn: staunch.VerbRestrict,
		AttrSessions: staunch.VerbIsolate, AttrBackend: staunch.VerbIsolate,
	}[attr]
	if !ok || verb != want {
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("%w: no %s of %s", staunch.ErrInvalid, verb, st.Target))
	}
	if !st.Exists && attr != AttrBackend {
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("%s of %s: %w: %s", verb, st.Target, staunch.ErrNotFound, st.Summary))
	}
	in := staunch.Intent{Target: st.Target, Verb: verb, Expected: st}
	in.Expected.ReadAt = 0
	switch attr {
	case AttrLogin:
		err = prepareLogin(&in, st)
	case AttrSessions:
		err = prepareSessions(&in, st)
	case AttrBackend:
		err = prepareBackend(&in, st)
	default:
		err = c.prepareGrants(&in, st)
	}
	if err != nil {
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("preparing %s of %s: %w", verb, st.Target, err))
	}
	return in, nil
}

// expect sets what is expected after the call.
func expect(in *staunch.Intent, body any, effective bool, summary string) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding what is expected: %w", err)
	}
	in.Expected.Body, in.Expected.Effective, in.Expected.Summary = b, effective, summary
	return nil
}

// Matches compares all that was read but for the time and the summary.
func (c *Connector) Matches(expected, actual staunch.State) bool {
	if expected.Target != actual.Target || expected.Exists != actual.Exists || expected.Effective != actual.Effective {
		return false
	}
	if bytes.Equal(expected.Body, actual.Body) {
		return true
	}
	if expected.Target.Attribute == AttrGrants || strings.HasPrefix(expected.Target.Attribute, AttrGrantsIn) {
		a, err1 := decode[grantsBody](expected)
		b, err2 := decode[grantsBody](actual)
		return err1 == nil && err2 == nil && matchGrants(a, b)
	}
	// The body may have been through another encoder since.
	var a, b bytes.Buffer
	if json.Compact(&a, expected.Body) != nil || json.Compact(&b, actual.Body) != nil {
		return false
	}
	return bytes.Equal(a.Bytes(), b.Bytes())
}

// Apply makes the change.
func (c *Connector) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return c.change(ctx, in, false)
}

// Revert undoes it where nobody else changed the attribute since. Sessions that
// were ended do not come back; that is no error.
func (c *Connector) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	return c.change(ctx, in, true)
}

func (c *Connector) change(ctx context.Context, in staunch.Intent, undo bool) (staunch.Receipt, error) {
	attr, db, err := c.kindOf(in.Target)
	if err != nil {
		return staunch.Receipt{}, err
	}
	if in.PreImage.Target != in.Target || in.Expected.Target != in.Target {
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("%w: the intent for %s has no pre-image or expected state of it", staunch.ErrInvalid, in.Target))
	}
	// What the intent says must be what this connector would have prepared.
	if _, err := c.Prepare(in.PreImage, in.Verb); err != nil {
		return staunch.Receipt{}, err
	}
	if !validKey(in.Key) {
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("%w: the intent's key %q (letters, digits, _ and -, at most 128)", staunch.ErrInvalid, in.Key))
	}
	ctx, cancel, err := c.within(ctx, in)
	if err != nil {
		return staunch.Receipt{}, err
	}
	defer cancel()
	var changed bool
	var note string
	doing := "applying " + string(in.Verb) + " to " + in.Target.String()
	if undo {
		doing = "reverting " + string(in.Verb) + " of " + in.Target.String()
	}
	sent := false
	switch attr {
	case AttrSessions, AttrBackend:
		if undo {
			note = "sessions that were ended do not come back"
			err = ctx.Err()
			break
		}
		changed, note, err = c.terminate(ctx, in, attr, &sent)
	case AttrLogin:
		changed, note, err = c.transact(ctx, in, transaction{lock: lockRole, attr: attr, undo: undo, statements: loginStatements}, &sent)
	default:
		changed, note, err = c.transact(ctx, in, transaction{lock: lockGrants, attr: attr, database: db, undo: undo, statements: grantStatements, verify: true}, &sent)
	}
	if err != nil {
		return staunch.Receipt{}, classify(doing, err, sent)
	}
	return staunch.Receipt{At: staunch.TimeOf(c.clock.Now()), Changed: changed, Note: note}, nil
}

// The classes of advisory locks ("stau", "stav"). They keep our own steps from
// meeting: PostgreSQL answers two changes of one catalogue row with an error.
// lockGrants with the key 0 is held by all, and alone by who changes much.
const (
	lockRole   = 1937006965
	lockGrants = 1937006966
)

// transaction is one change: read under a lock, compare, change, commit.
type transaction struct {
	lock           int
	attr, database string
	undo           bool
	// statements returns what takes the state from one to the other, and a note.
	statements func(in staunch.Intent, now staunch.State, undo bool) ([]string, string, error)
	// verify reads again before the commit, since a GRANT or REVOKE that does
	// nothing is only a warning.
	verify bool
}

func (c *Connector) transact(ctx context.Context, in staunch.Intent, t transaction, sent *bool) (changed bool, note string, err error) {
	conn, err := c.acquire(ctx, false, t.database)
	if err != nil {
		return false, "", err
	}
	defer conn.Release()
	over := false
	defer func() {
		if over || conn.Conn().IsClosed() {
			return
		}
		// A connection that cannot roll back is closed by Release, which ends
		// the transaction too.
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = conn.Exec(rctx, "ROLLBACK")
	}()
	locks, err := t.locks(in)
	if err != nil {
		return false, "", err
	}
	if _, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "+locks); err != nil {
		return false, "", fmt.Errorf("locking: %w", err)
	}
	now, r, err := c.read(ctx, conn, in.Target, t.attr, t.database)
	if err != nil {
		return false, "", fmt.Errorf("reading under the lock: %w", err)
	}
	if !now.Exists {
		return false, "", fmt.Errorf("%w: %s", staunch.ErrNotFound, now.Summary)
	}
	if t.undo {
		switch {
		case c.Matches(in.PreImage, now):
			return false, "already as it was", nil
		case !c.Matches(in.Expected, now):
			return false, "", fmt.Errorf("somebody else changed it since (%s): %w", now.Summary, staunch.ErrConflict)
		}
	} else {
		if c.Matches(in.Expected, now) {
			return false, "already as wanted", nil
		}
		if why := c.protected(r); why != "" {
			return false, "", fmt.Errorf("%w: %s", staunch.ErrForbidden, why)
		}
	}
	stmts, note, err := t.statements(in, now, t.undo)
	if err != nil {
		return false, "", err
	}
	if len(stmts) == 0 {
		return false, note, nil
	}
	mark := "/* staunch step=" + in.Key + " */ "
	text := mark + strings.Join(stmts, "; ")
	if !t.verify {
		*sent = true
		if _, err := conn.Exec(ctx, text+"; COMMIT"); err != nil {
			return false, "", err
		}
		over = true
		return true, note, nil
	}
	*sent = true
	if _, err := conn.Exec(ctx, text+"; RESET ROLE"); err != nil {
		if t.undo && vanished(err) {
			return false, "", fmt.Errorf("rolled back: something that was granted, or who granted it, is gone since: %w: %w", staunch.ErrConflict, err)
		}
		return false, "", err
	}
	after, err := c.readOf(ctx, conn, in.Target, r, t.attr, t.database)
	if err != nil {
		return false, "", fmt.Errorf("reading before the commit: %w", err)
	}
	switch {
	case t.undo && !c.Matches(in.PreImage, after):
		*sent = false
		return false, "", fmt.Errorf("rolled back: what was granted again is not what there was (%s): %w", after.Summary, staunch.ErrConflict)
	case !t.undo:
		// A part that was taken away would be neither what there was nor what was
		// asked for, and could not be told from another's change when it is undone.
		left, err := remaining(in, after)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("rolled back: REVOKE left %d grants (%s): %w", len(left), first(left), errIncomplete)
		}
		if err != nil {
			*sent = false
			return false, "", err
		}
	}
	if _, err := conn.Exec(ctx, mark+"COMMIT"); err != nil {
		return false, "", err
	}
	over = true
	return true, note, nil
}

// mostLocks bounds the advisory locks of one change; they come out of a table
// that all of the server shares.
const mostLocks = 64

// locks returns the statements that take the advisory locks of a change: the
// role's; or for grants those of the objects that they are on, in an order that
// all keep, so that roles with grants on different objects do not wait for each
// other. Who has too many objects shuts out all others.
func (t transaction) locks(in staunch.Intent) (string, error) {
	one := func(fn, key string) string { return "SELECT " + fn + "(" + strconv.Itoa(t.lock) + ", " + key + ")" }
	if t.lock == lockRole {
		return one("pg_advisory_xact_lock", "hashtext("+literal(in.Target.Ref.Value)+")"), nil
	}
	b, err := decode[grantsBody](in.PreImage)
	if err != nil {
		return "", err
	}
	var keys []int32
	for _, g := range slices.Concat(b.Direct, b.Dependent) {
		keys = append(keys, g.row())
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if len(keys) > mostLocks {
		return one("pg_advisory_xact_lock", "0"), nil
	}
	stmts := []string{one("pg_advisory_xact_lock_shared", "0")}
	for _, k := range keys {
		stmts = append(stmts, one("pg_advisory_xact_lock", strconv.FormatInt(int64(k), 10)))
	}
	return strings.Join(stmts, "; "), nil
}

// validKey keeps anything that could end the comment out of it.
func validKey(k string) bool {
	if k == "" || len(k) > 128 {
		return false
	}
	for i := 0; i < len(k); i++ {
		c := k[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// literal quotes a string; standard_conforming_strings is on.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// ident quotes an identifier.
func ident(s string) string { return pgx.Identifier{s}.Sanitize() }
