package postgresql_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
	"github.com/staunch-project/staunch/internal/connector/postgresql"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

const (
	realm    = "postgresql/test"
	actor    = "staunch"
	prover   = "staunch_proof"
	password = "pw-of-a-test"
)

var (
	once    sync.Once
	counter atomic.Int64
)

// system is the shared server with one database and a look of our own at it.
type system struct {
	*pgtest.Server
	db    string
	dsn   string
	admin *pgx.Conn
	made  []string
}

func start(tb testing.TB) *system {
	tb.Helper()
	s := &system{Server: pgtest.Shared(tb)}
	once.Do(func() {
		s.Exec(tb, "postgres",
			"CREATE ROLE "+actor+" SUPERUSER LOGIN PASSWORD '"+password+"'",
			"CREATE ROLE "+prover+" LOGIN PASSWORD '"+password+"'",
			"GRANT pg_read_all_stats TO "+prover)
	})
	s.dsn = s.NewDatabase(tb)
	u, err := url.Parse(s.dsn)
	if err != nil {
		tb.Fatal(err)
	}
	s.db = strings.TrimPrefix(u.Path, "/")
	s.admin = s.connect(tb, pgtest.Superuser, s.Password, s.db)
	tb.Cleanup(func() { // roles that others' grants kept until now
		for _, n := range s.made {
			if err := s.drop(n); err != nil {
				tb.Errorf("cleaning up: %v", err)
			}
		}
	})
	return s
}

func (s *system) connect(tb testing.TB, role, pw, db string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), s.UserDSN(role, pw, db))
	if err != nil {
		tb.Fatalf("connecting as %s: %v", role, err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func (s *system) sql(tb testing.TB, statements ...string) {
	tb.Helper()
	for _, st := range statements {
		if _, err := s.admin.Exec(context.Background(), st); err != nil {
			tb.Fatalf("%s: %v", st, err)
		}
	}
}

// name makes a role's or object's name that nobody else uses. It needs quotes.
func name(what string) string {
	return fmt.Sprintf(`%s "%d'`, what, counter.Add(1))
}

func q(s string) string { return pgx.Identifier{s}.Sanitize() }

// role makes a role that goes with tb.
func (s *system) role(tb testing.TB, n, options string) string {
	tb.Helper()
	s.sql(tb, "CREATE ROLE "+q(n)+" "+options)
	tb.Cleanup(func() {
		if s.drop(n) != nil {
			s.made = append(s.made, n)
		}
	})
	return n
}

func (s *system) drop(n string) error {
	_, _ = s.admin.Exec(context.Background(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", n)
	for _, st := range []string{"DROP OWNED BY " + q(n) + " CASCADE", "DROP ROLE " + q(n)} {
		if _, err := s.admin.Exec(context.Background(), st); err != nil && !strings.Contains(err.Error(), "does not exist") {
			return fmt.Errorf("%s: %w", st, err)
		}
	}
	return nil
}

// thief makes a role that can log in.
func (s *system) thief(tb testing.TB) string {
	return s.role(tb, name("svc"), "LOGIN PASSWORD '"+password+"'")
}

func (s *system) config(change ...func(*postgresql.Config)) postgresql.Config {
	c := postgresql.Config{
		DSN:      staunch.NewSecret(s.UserDSN(actor, password, "postgres")),
		ProofDSN: staunch.NewSecret(s.UserDSN(prover, password, "postgres")),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

func deps(cfg postgresql.Config) connector.Deps {
	return connector.Deps{
		Realm: realm, Clock: staunch.SystemClock{},
		Decode: func(v any) error { *v.(*postgresql.Config) = cfg; return nil },
	}
}

func open(tb testing.TB, cfg postgresql.Config) *postgresql.Connector {
	tb.Helper()
	c, err := postgresql.New(deps(cfg))
	if err != nil {
		tb.Fatalf("making the connector: %v", err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c.(*postgresql.Connector)
}

func account(n string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: postgresql.SchemeRole, Value: n}
}

func target(n, attr string) staunch.Target {
	return staunch.Target{Ref: account(n), Attribute: attr}
}

// dump returns every access list entry of a database and the cluster, every
// membership and every role's login, sorted: what a release must put back. It
// shares no code with the connector.
func dump(ctx context.Context, conn *pgx.Conn) (string, error) {
	rows, err := conn.Query(ctx, `SELECT line FROM (
  SELECT format('rel %s.%s %s %s %s %s', c.relnamespace, c.relname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) AS line FROM pg_class c, aclexplode(c.relacl) e
  UNION ALL SELECT format('att %s.%s %s %s %s %s', a.attrelid, a.attnum, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_attribute a, aclexplode(a.attacl) e
  UNION ALL SELECT format('pro %s %s %s %s %s', p.oid, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_proc p, aclexplode(p.proacl) e
  UNION ALL SELECT format('nsp %s %s %s %s %s', n.nspname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_namespace n, aclexplode(n.nspacl) e
  UNION ALL SELECT format('typ %s %s %s %s %s', t.oid, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_type t, aclexplode(t.typacl) e
  UNION ALL SELECT format('lan %s %s %s %s %s', l.lanname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_language l, aclexplode(l.lanacl) e
  UNION ALL SELECT format('fdw %s %s %s %s %s', f.fdwname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_foreign_data_wrapper f, aclexplode(f.fdwacl) e
  UNION ALL SELECT format('srv %s %s %s %s %s', f.srvname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_foreign_server f, aclexplode(f.srvacl) e
  UNION ALL SELECT format('lob %s %s %s %s %s', m.oid, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_largeobject_metadata m, aclexplode(m.lomacl) e
  UNION ALL SELECT format('def %s %s %s %s %s %s %s', d.defaclrole, d.defaclnamespace, d.defaclobjtype, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_default_acl d, aclexplode(d.defaclacl) e
  UNION ALL SELECT format('dat %s %s %s %s %s', d.datname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_database d, aclexplode(d.datacl) e
  UNION ALL SELECT format('tbs %s %s %s %s %s', t.spcname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_tablespace t, aclexplode(t.spcacl) e
  UNION ALL SELECT format('par %s %s %s %s %s', p.parname, e.grantor, e.grantee, e.privilege_type, e.is_grantable) FROM pg_parameter_acl p, aclexplode(p.paracl) e
  UNION ALL SELECT format('mem %s %s %s %s', roleid, member, grantor, admin_option) FROM pg_auth_members
  UNION ALL SELECT format('rol %s %s %s %s', oid, rolname, rolcanlogin, rolpassword) FROM pg_authid
) x ORDER BY line COLLATE "C"`)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(lines, "\n"), err
}

func (s *system) dump(tb testing.TB) string {
	tb.Helper()
	d, err := dump(context.Background(), s.admin)
	if err != nil {
		tb.Fatalf("dumping: %v", err)
	}
	return d
}

// changes returns the lines that only one of two dumps has.
func changes(a, b string) []string {
	var out []string
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range as {
		if !slices.Contains(bs, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			out = append(out, "+ "+l)
		}
	}
	return out
}

// logsIn tries a new login.
func (s *system) logsIn(ctx context.Context, n, db string) (bool, error) {
	conn, err := pgx.Connect(ctx, s.UserDSN(n, password, db))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28") {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, conn.Close(ctx)
}

// pid returns the server process of a connection and when it began.
func (s *system) session(tb testing.TB, conn *pgx.Conn) staunch.Ref {
	tb.Helper()
	var start time.Time
	pid := conn.PgConn().PID()
	if err := s.admin.QueryRow(context.Background(), "SELECT backend_start FROM pg_stat_activity WHERE pid = $1", pid).Scan(&start); err != nil {
		tb.Fatalf("looking for session %d: %v", pid, err)
	}
	return postgresql.BackendRef(realm, int32(pid), start)
}

// act reads, prepares and applies as core does.
func act(tb testing.TB, c connector.Connector, t staunch.Target, v staunch.Verb) staunch.Intent {
	tb.Helper()
	in := intent(tb, c, t, v)
	if _, err := c.Apply(tb.Context(), in); err != nil {
		tb.Fatalf("%s %s: %v", v, t, err)
	}
	st, err := c.Read(tb.Context(), t, true)
	if err != nil {
		tb.Fatalf("proof of %s %s: %v", v, t, err)
	}
	if !c.Matches(in.Expected, st) {
		tb.Fatalf("%s %s: is %s, expected %s", v, t, st.Body, in.Expected.Body)
	}
	return in
}

func intent(tb testing.TB, c connector.Connector, t staunch.Target, v staunch.Verb) staunch.Intent {
	tb.Helper()
	pre, err := c.Read(tb.Context(), t, false)
	if err != nil {
		tb.Fatalf("reading %s: %v", t, err)
	}
	in, err := c.Prepare(pre, v)
	if err != nil {
		tb.Fatalf("preparing %s %s: %v", v, t, err)
	}
	in.Key = "stp_test" + strconv.FormatInt(counter.Add(1), 10)
	in.PreImage = pre
	// As it comes back from a store.
	b, err := json.Marshal(in)
	if err != nil {
		tb.Fatal(err)
	}
	var back staunch.Intent
	if err := json.Unmarshal(b, &back); err != nil {
		tb.Fatal(err)
	}
	back.PreImage = pre
	return back
}

func TestConformance(t *testing.T) {
	s := start(t)
	through := func(tb testing.TB, addr string) connector.Connector {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			tb.Fatal(err)
		}
		at := func(role string) staunch.Secret {
			u, err := url.Parse(s.UserDSN(role, password, "postgres"))
			if err != nil {
				tb.Fatal(err)
			}
			u.Host = net.JoinHostPort(host, port)
			return staunch.NewSecret(u.String())
		}
		return mustNew(tb, s.config(func(c *postgresql.Config) { c.DSN, c.ProofDSN = at(actor), at(prover) }))
	}
	connectortest.Run(t, connectortest.Harness{
		Factory: postgresql.Factory(),
		Realm:   realm,
		New:     func(tb testing.TB) connector.Connector { return mustNew(tb, s.config()) },
		Cases: []connectortest.Case{
			{Name: "login", Verb: staunch.VerbSuspend, Subject: s.loginSubject, Stops: true, Probes: true},
			{Name: "grants in a database", Verb: staunch.VerbRestrict, Subject: s.grantsSubject, Stops: true},
			{Name: "shared grants", Verb: staunch.VerbRestrict, Subject: s.membershipSubject, Stops: true},
			{Name: "sessions", Verb: staunch.VerbIsolate, Subject: s.sessionSubject(false), Stops: true, Probes: true},
			{Name: "backend", Verb: staunch.VerbIsolate, Subject: s.sessionSubject(true), Stops: true, Probes: true},
		},
		Missing: []staunch.Target{
			target("nobody", postgresql.AttrLogin), target("nobody", postgresql.AttrGrants),
			target("nobody", postgresql.AttrGrantsIn+s.db), target("nobody", postgresql.AttrSessions),
			{Ref: staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: postgresql.SchemeBackend, Value: "999999/1700000000000000"}, Attribute: postgresql.AttrBackend},
		},
		ProofApart: s.proofApart,
		Denied: func(tb testing.TB) connector.Connector {
			return mustNew(tb, s.config(func(c *postgresql.Config) {
				c.DSN = staunch.NewSecret(s.UserDSN(actor, "wrong", "postgres"))
				c.ProofDSN = staunch.NewSecret(s.UserDSN(prover, "wrong", "postgres"))
			}))
		},
		Down: func(tb testing.TB) connector.Connector {
			var lc net.ListenConfig
			l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err != nil {
				tb.Fatal(err)
			}
			addr := l.Addr().String()
			_ = l.Close()
			return through(tb, addr)
		},
		Cut: func(tb testing.TB) (connector.Connector, func(string)) {
			p := connectortest.NewProxy(tb, net.JoinHostPort(s.Host, strconv.Itoa(s.Port)))
			return through(tb, p.Addr()), func(key string) { p.LoseAnswer(connectortest.Containing(key)) }
		},
		Ledger: func(tb testing.TB) []string { return strings.Split(s.Log(tb), "\n") },
	})
}

func mustNew(tb testing.TB, cfg postgresql.Config) connector.Connector {
	tb.Helper()
	c, err := postgresql.New(deps(cfg))
	if err != nil {
		tb.Fatalf("making the connector: %v", err)
	}
	return c
}

func (s *system) observe(ctx context.Context) (string, error) { return dump(ctx, s.admin) }

func (s *system) loginSubject(tb testing.TB) connectortest.Subject {
	n := s.thief(tb)
	return connectortest.Subject{
		Request: connector.ExpandRequest{Subject: account(n), Tier: staunch.TierRevoke},
		Target:  target(n, postgresql.AttrLogin),
		Works:   func(ctx context.Context) (bool, error) { return s.logsIn(ctx, n, s.db) },
		Observe: s.observe,
		Tamper: func(ctx context.Context) error {
			// Another role under the same name is not the one that was contained.
			_, err := s.admin.Exec(ctx, "DROP ROLE "+q(n)+"; CREATE ROLE "+q(n)+" NOLOGIN")
			return err
		},
	}
}

// denied turns a refused privilege into false.
func denied(err error) (bool, error) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return false, nil
	}
	return err == nil, err
}

func (s *system) grantsSubject(tb testing.TB) connectortest.Subject {
	n := s.thief(tb)
	owner, other := s.role(tb, name("owner"), ""), s.role(tb, name("grantor"), "")
	schema, table := q(name("schema")), q(name("table"))
	on := schema + "." + table
	s.sql(tb, "CREATE SCHEMA "+schema+" AUTHORIZATION "+q(owner),
		"CREATE TABLE "+on+" (a int, b int)", "ALTER TABLE "+on+" OWNER TO "+q(owner),
		"GRANT USAGE ON SCHEMA "+schema+" TO "+q(n)+", "+q(other),
		"GRANT SELECT, INSERT ON "+on+" TO "+q(n),
		"GRANT SELECT, UPDATE ON "+on+" TO "+q(other)+" WITH GRANT OPTION",
		"SET ROLE "+q(other), "GRANT SELECT, UPDATE ON "+on+" TO "+q(n)+" WITH GRANT OPTION", "RESET ROLE")
	conn := s.connect(tb, n, password, s.db)
	return connectortest.Subject{
		Request: connector.ExpandRequest{Subject: account(n), Tier: staunch.TierRevoke},
		Target:  target(n, postgresql.AttrGrantsIn+s.db),
		Works: func(ctx context.Context) (bool, error) {
			_, err := conn.Exec(ctx, "SELECT count(*) FROM "+on)
			return denied(err)
		},
		Observe: s.observe,
		Tamper: func(ctx context.Context) error {
			_, err := s.admin.Exec(ctx, "GRANT DELETE ON "+on+" TO "+q(n))
			return err
		},
	}
}

func (s *system) membershipSubject(tb testing.TB) connectortest.Subject {
	n := s.thief(tb)
	group, other := s.role(tb, name("group"), ""), s.role(tb, name("other"), "")
	table := q(name("table"))
	s.sql(tb, "CREATE TABLE "+table+" (a int)", "GRANT SELECT ON "+table+" TO "+q(group),
		"GRANT "+q(group)+" TO "+q(other)+" WITH ADMIN OPTION",
		"GRANT "+q(group)+" TO "+q(n)+" WITH ADMIN OPTION GRANTED BY "+q(other),
		"GRANT CREATE, TEMPORARY ON DATABASE "+q(s.db)+" TO "+q(n))
	conn := s.connect(tb, n, password, s.db)
	return connectortest.Subject{
		Request: connector.ExpandRequest{Subject: account(n), Tier: staunch.TierRevoke},
		Target:  target(n, postgresql.AttrGrants),
		Works: func(ctx context.Context) (bool, error) {
			_, err := conn.Exec(ctx, "SELECT count(*) FROM "+table)
			return denied(err)
		},
		Observe: s.observe,
		Tamper: func(ctx context.Context) error {
			_, err := s.admin.Exec(ctx, "GRANT "+q(group)+" TO "+q(n))
			return err
		},
	}
}

func (s *system) sessionSubject(one bool) func(tb testing.TB) connectortest.Subject {
	return func(tb testing.TB) connectortest.Subject {
		n := s.thief(tb)
		conn := s.connect(tb, n, password, s.db)
		ref, attr := account(n), postgresql.AttrSessions
		if one {
			ref, attr = s.session(tb, conn), postgresql.AttrBackend
		}
		return connectortest.Subject{
			Request: connector.ExpandRequest{Subject: ref, Tier: staunch.TierRevoke},
			Target:  staunch.Target{Ref: ref, Attribute: attr},
			Works: func(ctx context.Context) (bool, error) {
				_, err := conn.Exec(ctx, "SELECT 1")
				return err == nil, nil
			},
			Observe: func(ctx context.Context) (string, error) {
				d, err := s.observe(ctx)
				if err != nil {
					return "", err
				}
				var list string
				err = s.admin.QueryRow(ctx, "SELECT coalesce(string_agg(pid || '/' || backend_start, ' ' ORDER BY pid), '') FROM pg_stat_activity WHERE usename = $1", n).Scan(&list)
				return d + "\nsessions " + list, err
			},
		}
	}
}

// proofApart finds, in the server's own view, another account's connection
// reading.
func (s *system) proofApart(tb testing.TB, c connector.Connector, t staunch.Target) {
	ctx := tb.Context()
	seen := func() (acting, proving string) {
		// Of this database's connections or the cluster's: whoever asked last.
		err := s.admin.QueryRow(ctx, `SELECT
  coalesce((SELECT string_agg(pid || ' ' || query_start, ',' ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'staunch' AND usename = $1), ''),
  coalesce((SELECT string_agg(pid || ' ' || query_start, ',' ORDER BY pid) FROM pg_stat_activity WHERE application_name = 'staunch-proof' AND usename = $2), '')`, actor, prover).Scan(&acting, &proving)
		if err != nil {
			tb.Fatal(err)
		}
		return acting, proving
	}
	if _, err := c.Read(ctx, t, false); err != nil {
		tb.Fatal(err)
	}
	a1, p1 := seen()
	if a1 == "" {
		tb.Fatal("the acting account has no connection after a read")
	}
	if _, err := c.Read(ctx, t, true); err != nil {
		tb.Fatal(err)
	}
	a2, p2 := seen()
	if a1 != a2 {
		tb.Errorf("a proof read used the acting account's connection: %s, then %s", a1, a2)
	}
	if p2 == p1 || p2 == "" {
		tb.Errorf("a proof read did not use the proof account: %q, then %q", p1, p2)
	}
}
