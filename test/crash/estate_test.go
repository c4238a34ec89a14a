package crash_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

const (
	realm       = "platform/crash"
	password    = "pw-of-a-crash-run"
	newPassword = "pw-after-rotation"
	// storeUser is whom staunch keeps its own database with.
	storeUser = "staunch_store"
)

// startServer starts the server that is both the platform and, for some runs,
// where staunch keeps its database. The log is the ledger.
func startServer(tb testing.TB) *pgtest.Server {
	tb.Helper()
	s := pgtest.Start(tb, pgtest.Options{
		MaxConnections: 300, LogStatements: true, JSONLog: true, Settings: map[string]string{"log_duration": "on"},
	})
	s.Exec(tb, "postgres", "CREATE ROLE "+storeUser+" LOGIN CREATEDB PASSWORD '"+password+"'",
		"ALTER ROLE "+storeUser+" SET log_statement = 'none'", "ALTER ROLE "+storeUser+" SET log_duration = off")
	return s
}

// site is what one lane of runs works on: two databases, who grants, and the
// accounts of its engine. Runs in a lane follow each other, lanes run at once.
type site struct {
	server *pgtest.Server
	n      int
	admin  map[string]*pgx.Conn // by database, "postgres" among them

	ledger  *ledger.Log
	entries []ledger.Entry // of the run that goes on
}

// platform is what a lane of runs works on.
type platform interface {
	// make makes the subject of a run, with all that it can do, and returns the
	// value of its ref; drop ends it. The ledger of the run begins at make.
	make(ctx context.Context, n int) (subject string, err error)
	drop(ctx context.Context, subject string) error
	// realm is the configuration of the realm and the scheme of the subject's ref.
	realm() (config, scheme string)
	// state is all that a release has to put back, as text.
	state(ctx context.Context, subject string, secrets bool) (string, error)
	// access says what the subject still can, "" for nothing.
	access(ctx context.Context, subject string) (string, error)
	// rotate replaces the subject's secret; works says whether the subject can do
	// its work with its present secret, and whether what was stolen works and must
	// not.
	rotate(ctx context.Context, subject string) error
	works(ctx context.Context, subject string, rotated bool) (works, stolen bool, err error)
	thief(ctx context.Context, subject string) *thief
	// judge reads the ledger of the run up to now.
	judge(ctx context.Context) (ledger.Judgement, error)
	// steps is how many steps the case has at least.
	steps() int
	// evidence is what the accusing record says beside the subject.
	evidence() map[string]any
}

// storer is a platform that can also keep staunch's database.
type storer interface {
	// database makes a database for run n; drop ends it.
	database(ctx context.Context, n int) (dsn string, drop func(context.Context) error, err error)
}

var (
	_ platform = (*site)(nil)
	_ storer   = (*site)(nil)
)

func (s *site) steps() int { return 5 } // login, sessions, grants in two databases and shared ones

func (s *site) evidence() map[string]any { return nil }

func (s *site) realm() (config, scheme string) {
	return fmt.Sprintf(`platform: postgresql
    connector: {dsn: %q, proof_dsn: %q, sweep_delay: 30ms}`,
		s.server.UserDSN(s.actor(), password, "postgres"), s.server.UserDSN(s.prover(), password, "postgres")), "role"
}

func (s *site) database(ctx context.Context, n int) (dsn string, drop func(context.Context) error, err error) {
	db := fmt.Sprintf("staunch_%d", n)
	err = s.exec(ctx, "postgres", "CREATE DATABASE "+db+" TEMPLATE template0 OWNER "+storeUser)
	return s.server.UserDSN(storeUser, password, db), func(ctx context.Context) error {
		return s.exec(ctx, "postgres", "DROP DATABASE "+db+" WITH (FORCE)")
	}, err
}

func (s *site) rotate(ctx context.Context, role string) error {
	return s.exec(ctx, "postgres", "ALTER ROLE "+role+" PASSWORD '"+newPassword+"'")
}

func (s *site) works(ctx context.Context, role string, rotated bool) (works, stolen bool, err error) {
	pw := password
	if rotated {
		pw = newPassword
		if stolen, err = s.logsIn(ctx, role, password); err != nil {
			return false, false, err
		}
	}
	works, err = s.logsIn(ctx, role, pw)
	return works, stolen, err
}

func (s *site) judge(ctx context.Context) (ledger.Judgement, error) {
	err := s.marker(ctx, s.ledger, func(es []ledger.Entry) {
		for _, e := range es {
			// What the run has to do with: its lane's engine, and any session that
			// the server ended by command.
			if e.User == s.actor() || e.User == s.prover() || e.Code == "57P01" {
				s.entries = append(s.entries, e)
			}
		}
	})
	return ledger.PostgreSQL(s.entries, s.actor(), s.prover()), err
}

func (s *site) name(what string) string { return fmt.Sprintf("%s_l%d", what, s.n) }
func (s *site) actor() string           { return s.name("staunch") }
func (s *site) prover() string          { return s.name("proof") }
func (s *site) databases() []string     { return []string{s.name("books"), s.name("ledger")} }

func newSite(tb testing.TB, server *pgtest.Server, n int) *site {
	tb.Helper()
	s := &site{server: server, n: n, admin: map[string]*pgx.Conn{}}
	pw := " LOGIN PASSWORD '" + password + "'"
	server.Exec(tb, "postgres", "CREATE ROLE "+s.actor()+" SUPERUSER"+pw, "CREATE ROLE "+s.prover()+pw, "GRANT pg_read_all_stats TO "+s.prover(),
		"CREATE ROLE "+s.name("owner"), "CREATE ROLE "+s.name("second"), "CREATE ROLE "+s.name("team"))
	for _, db := range s.databases() {
		server.Exec(tb, "postgres", "CREATE DATABASE "+db+" TEMPLATE template0 OWNER "+s.name("owner"))
		server.Exec(tb, db, "SET ROLE "+s.name("owner")+"; CREATE TABLE accounts AS SELECT g AS id, 'n' || g AS name FROM generate_series(1, 10) g; CREATE SEQUENCE ids; "+
			"GRANT SELECT, INSERT, UPDATE ON accounts TO "+s.name("second")+" WITH GRANT OPTION")
	}
	for _, db := range append(s.databases(), "postgres") {
		conn, err := pgx.Connect(tb.Context(), server.DSN(db))
		if err != nil {
			tb.Fatalf("connecting to %s: %v", db, err)
		}
		tb.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = conn.Close(ctx)
		})
		s.admin[db] = conn
	}
	return s
}

func (s *site) exec(ctx context.Context, db string, statements ...string) error {
	for _, st := range statements {
		if _, err := s.admin[db].Exec(ctx, st); err != nil {
			return fmt.Errorf("on the platform: %s: %w", st, err)
		}
	}
	return nil
}

// make makes the role of a run, with grants in both databases by two grantors,
// on a database and by a membership.
func (s *site) make(ctx context.Context, n int) (role string, err error) {
	role = fmt.Sprintf("svc_%d", n)
	s.entries = nil
	if s.ledger, err = ledger.Follow(s.server.LogPath); err != nil {
		return "", err
	}
	err = s.exec(ctx, "postgres", "CREATE ROLE "+role+" LOGIN PASSWORD '"+password+"'",
		"GRANT CONNECT ON DATABASE "+s.databases()[0]+" TO "+role, "GRANT "+s.name("team")+" TO "+role)
	for _, db := range s.databases() {
		err = errors.Join(err, s.exec(ctx, db,
			"SET ROLE "+s.name("owner"),
			"GRANT SELECT ON accounts TO "+role+" WITH GRANT OPTION", "GRANT UPDATE (name) ON accounts TO "+role, "GRANT USAGE ON SEQUENCE ids TO "+role,
			"SET ROLE "+s.name("second"),
			"GRANT INSERT ON accounts TO "+role+" WITH GRANT OPTION", "GRANT SELECT ON accounts TO "+role, "RESET ROLE"))
	}
	return role, err
}

// drop ends the role of a run.
func (s *site) drop(ctx context.Context, role string) error {
	var err error
	for _, db := range s.databases() {
		// DROP OWNED takes away only what the owner granted.
		err = errors.Join(err, s.exec(ctx, db, "SET ROLE "+s.name("second"), "REVOKE ALL ON accounts FROM "+role, "RESET ROLE", "DROP OWNED BY "+role))
	}
	return errors.Join(err, s.exec(ctx, "postgres", "DROP ROLE "+role))
}

// dumpSQL lists every access list entry of a database, those of the cluster that
// concern the lane, memberships and logins. It shares no code with the connector.
const dumpSQL = `SELECT line FROM (
  SELECT format('rel %s.%s %s %s %s %s', c.relnamespace::regnamespace, c.relname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) AS line FROM pg_class c, aclexplode(c.relacl) e
  UNION ALL SELECT format('att %s.%s %s %s %s %s', a.attrelid::regclass, a.attnum, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_attribute a, aclexplode(a.attacl) e
  UNION ALL SELECT format('nsp %s %s %s %s %s', n.nspname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_namespace n, aclexplode(n.nspacl) e
  UNION ALL SELECT format('def %s %s %s %s %s %s %s', d.defaclrole, d.defaclnamespace, d.defaclobjtype, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_default_acl d, aclexplode(d.defaclacl) e
  UNION ALL SELECT format('dat %s %s %s %s %s', d.datname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_database d, aclexplode(d.datacl) e WHERE d.datname LIKE $1
  UNION ALL SELECT format('mem %s %s %s %s', m.roleid::regrole, m.member::regrole, m.grantor::regrole, m.admin_option) FROM pg_auth_members m WHERE m.roleid::regrole::text LIKE $1
  UNION ALL SELECT format('rol %s %s %s %s', a.oid, a.rolname, a.rolcanlogin, CASE WHEN $2 THEN a.rolpassword END) FROM pg_authid a WHERE a.rolname LIKE $1 OR a.rolname = $3
) x ORDER BY line COLLATE "C"`

// state returns the lines of both databases.
func (s *site) state(ctx context.Context, role string, passwords bool) (string, error) {
	var out []string
	for _, db := range s.databases() {
		rows, err := s.admin[db].Query(ctx, dumpSQL, fmt.Sprintf(`%%\_l%d`, s.n), passwords, role)
		if err != nil {
			return "", fmt.Errorf("dumping %s: %w", db, err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return "", fmt.Errorf("dumping %s: %w", db, err)
		}
		out = append(out, "-- "+db)
		out = append(out, lines...)
	}
	return strings.Join(out, "\n"), nil
}

// access says what the role still can, "" for nothing.
func (s *site) access(ctx context.Context, role string) (string, error) {
	var left []string
	var login bool
	var sessions, members int
	err := s.admin["postgres"].QueryRow(ctx, `SELECT rolcanlogin, (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid),
  (SELECT count(*) FROM pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r WHERE rolname = $1`, role).Scan(&login, &sessions, &members)
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", role, err)
	}
	if login {
		left = append(left, "rolcanlogin is true")
	}
	if sessions > 0 {
		left = append(left, fmt.Sprintf("%d sessions", sessions))
	}
	if members > 0 {
		left = append(left, fmt.Sprintf("%d memberships", members))
	}
	for _, db := range s.databases() {
		var n int
		err := s.admin[db].QueryRow(ctx, `WITH me AS (SELECT oid FROM pg_roles WHERE rolname = $1)
SELECT (SELECT count(*) FROM pg_class c, aclexplode(c.relacl) e, me WHERE e.grantee = me.oid) +
       (SELECT count(*) FROM pg_attribute a, aclexplode(a.attacl) e, me WHERE e.grantee = me.oid) +
       (SELECT count(*) FROM pg_database d, aclexplode(d.datacl) e, me WHERE e.grantee = me.oid)`, role).Scan(&n)
		if err != nil {
			return "", fmt.Errorf("looking at the grants of %s: %w", role, err)
		}
		if n > 0 {
			left = append(left, fmt.Sprintf("%d grants in %s", n, db))
		}
	}
	works, err := s.logsIn(ctx, role, password)
	if err != nil {
		return "", err
	}
	if works {
		left = append(left, "a new login works")
	}
	return strings.Join(left, ", "), nil
}

// logsIn tries a new login and a query.
func (s *site) logsIn(ctx context.Context, role, pw string) (bool, error) {
	conn, err := pgconn.Connect(ctx, s.server.UserDSN(role, pw, s.databases()[0]))
	if refused(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("logging in as %s: %w", role, err)
	}
	_, err = conn.Exec(ctx, "SELECT count(*) FROM accounts").ReadAll()
	return err == nil, errors.Join(ignoreDenied(err), conn.Close(ctx))
}

func refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28")
}

func ignoreDenied(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42501" || pg.Code == "57P01") {
		return nil
	}
	return err
}

// marker writes a line to the log and waits until it can be read, so that all
// that was logged before can be too.
func (s *site) marker(ctx context.Context, l *ledger.Log, add func([]ledger.Entry)) error {
	mark := fmt.Sprintf("marker %d of lane %d", markers.Add(1), s.n)
	if err := s.exec(ctx, "postgres", "SELECT '"+mark+"'"); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		entries, err := l.Read()
		if err != nil {
			return err
		}
		add(entries)
		for _, e := range entries {
			if strings.Contains(e.Message, "'"+mark+"'") {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return errors.New("the marker does not come up in the server's log")
		}
	}
}

var markers atomic.Int64

// thief hammers as the role until stopped.
type thief struct {
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	success atomic.Int64
	open    chan struct{} // closed once the session worked
}

// The thief's pace. A login costs both ends some milliseconds of SCRAM.
const (
	sessionEvery = 20 * time.Millisecond
	loginEvery   = 150 * time.Millisecond
)

func newThief(ctx context.Context) (*thief, context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	return &thief{cancel: cancel, open: make(chan struct{})}, ctx
}

// every does something at a pace until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

func (s *site) thief(ctx context.Context, role string) *thief {
	th, ctx := newThief(ctx)
	dsn := s.server.UserDSN(role, password, s.databases()[1])
	ask := func(c *pgconn.PgConn) {
		if _, err := c.Exec(ctx, "SELECT count(*) FROM accounts").ReadAll(); err == nil {
			th.success.Add(1)
		}
	}
	shut := func(c *pgconn.PgConn) {
		sctx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		_ = c.Close(sctx) // it may be closed from the other end
	}
	th.wg.Go(func() {
		var c *pgconn.PgConn
		var again time.Time
		once := sync.OnceFunc(func() { close(th.open) })
		every(ctx, sessionEvery, func() {
			if c == nil || c.IsClosed() {
				if time.Now().Before(again) {
					return
				}
				again = time.Now().Add(loginEvery)
				if c, _ = pgconn.Connect(ctx, dsn); c == nil {
					return
				}
			}
			ask(c)
			once()
		})
		if c != nil {
			shut(c)
		}
	})
	th.wg.Go(func() {
		every(ctx, loginEvery, func() {
			c, err := pgconn.Connect(ctx, dsn)
			if err != nil {
				return
			}
			ask(c)
			shut(c)
		})
	})
	return th
}

func (t *thief) stop() {
	t.cancel()
	t.wg.Wait()
}
