package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/format/postgresql"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

const pgRealm = "postgresql/shop"

// shop is a PostgreSQL whose jsonlog is followed: a database with cards, the
// service role billing, which may read them through its own grants and through
// a group, and staunch's two accounts.
type shop struct {
	*pgtest.Server
	tb       testing.TB
	password string // of billing, and of the thief
	act      string // staunch's DSNs
	proof    string
	audit    bool // pgAudit is loaded
}

// newShop starts a shop that ends with tb, with pgAudit if audit.
func newShop(tb testing.TB, audit bool) *shop {
	tb.Helper()
	s := &shop{tb: tb, password: "stolen-" + rand.Text(), audit: audit, Server: pgtest.Start(tb, pgtest.Options{
		JSONLog: true, LogStatements: true, Settings: map[string]string{"log_connections": "on", "log_disconnections": "on"},
	})}
	if audit {
		s.loadAudit()
	}
	act, proof := rand.Text(), rand.Text()
	s.Exec(tb, "postgres",
		"CREATE DATABASE shop",
		"CREATE ROLE staunch SUPERUSER LOGIN PASSWORD '"+act+"'",
		"CREATE ROLE staunch_proof LOGIN PASSWORD '"+proof+"'", "GRANT pg_read_all_stats TO staunch_proof",
		"CREATE ROLE keeper", "CREATE ROLE reporting",
		"CREATE ROLE billing LOGIN CREATEROLE", "ALTER ROLE billing PASSWORD '"+s.password+"'",
		"GRANT reporting TO billing WITH ADMIN OPTION",
		"GRANT CONNECT, TEMPORARY ON DATABASE shop TO billing WITH GRANT OPTION")
	s.Exec(tb, "shop",
		"CREATE SCHEMA sales AUTHORIZATION keeper", "GRANT USAGE ON SCHEMA sales TO billing",
		"CREATE TABLE sales.cards (id int, number text, holder text)", "ALTER TABLE sales.cards OWNER TO keeper",
		"INSERT INTO sales.cards SELECT i, '4000-' || i, 'holder ' || i FROM generate_series(1, 50) i",
		"GRANT SELECT, INSERT ON sales.cards TO billing", "GRANT UPDATE (holder) ON sales.cards TO billing WITH GRANT OPTION",
		"ALTER DEFAULT PRIVILEGES FOR ROLE keeper IN SCHEMA sales GRANT SELECT ON TABLES TO billing")
	s.act, s.proof = s.UserDSN("staunch", act, "postgres"), s.UserDSN("staunch_proof", proof, "postgres")
	return s
}

// loadAudit loads pgAudit, or skips the test (fails it where PostgreSQL is
// required) when it is not installed.
func (s *shop) loadAudit() {
	s.tb.Helper()
	if s.query(s.DSN("postgres"), "SELECT count(*)::text FROM pg_available_extensions WHERE name = 'pgaudit'") != "1" {
		const why = "PostgreSQL is missing the extension pgaudit; install it (Debian: apt-get install postgresql-15-pgaudit)"
		if os.Getenv("STAUNCH_REQUIRE_POSTGRES") == "1" {
			s.tb.Fatal(why)
		}
		s.tb.Skip(why)
	}
	s.Exec(s.tb, "postgres", "ALTER SYSTEM SET shared_preload_libraries = 'pgaudit'")
	s.Stop(s.tb, pgtest.Fast)
	s.Start(s.tb)
	s.Exec(s.tb, "postgres", "CREATE EXTENSION pgaudit", "ALTER SYSTEM SET pgaudit.log = 'read, write, role, ddl'", "SELECT pg_reload_conf()")
}

// session is one client's connection.
type session struct {
	conn *pgx.Conn
	pid  uint32
}

// dial logs in as a role, as the program that it says it is.
func (s *shop) dial(role, password, program string) (*session, error) {
	cfg, err := pgx.ParseConfig(s.UserDSN(role, password, "shop"))
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = program
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, pid: conn.PgConn().PID()}, nil
}

// login logs in and fails the test where that is refused.
func (s *shop) login(role, password, program string) *session {
	s.tb.Helper()
	c, err := s.dial(role, password, program)
	if err != nil {
		s.tb.Fatalf("%s logs in as %s: %v", program, role, err)
	}
	s.tb.Cleanup(func() { _ = c.conn.Close(context.Background()) }) // it may have been cut
	return c
}

// refused fails the test unless the login is refused with the SQLSTATE.
func (s *shop) refused(role, password, state string) {
	s.tb.Helper()
	c, err := s.dial(role, password, "psql")
	if err == nil {
		_ = c.conn.Close(context.Background())
		s.tb.Errorf("%s can log in", role)
		return
	}
	if got := sqlState(err); got != state {
		s.tb.Errorf("the login of %s is refused with %q, not %s: %v", role, got, state, err)
	}
}

// sqlState returns an error's SQLSTATE, "" where the server gave none.
func sqlState(err error) string {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return pe.Code
	}
	return ""
}

// do runs a statement.
func (c *session) do(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.conn.Exec(ctx, statement)
	return err
}

// dump copies a table to nowhere, as a thief copies it to a file.
func (c *session) dump(table string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.conn.PgConn().CopyTo(ctx, io.Discard, "COPY "+table+" TO STDOUT")
	return err
}

func (s *shop) query(dsn, q string, args ...any) string {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var out string
	if err := conn.QueryRow(ctx, q, args...).Scan(&out); err != nil {
		s.tb.Fatalf("%s: %v", q, err)
	}
	return out
}

// access returns all of what a role may do, grant by grant with its grantor, in
// an order of its own: access lists come back as sets.
func (s *shop) access(role string) string {
	s.tb.Helper()
	return s.query(s.DSN("shop"), `
SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (
  SELECT 'login ' || rolcanlogin FROM pg_roles WHERE rolname = $1
  UNION ALL SELECT format('member of %s by %s, admin %s', roleid::regrole, grantor::regrole, admin_option)
    FROM pg_auth_members WHERE member = $1::regrole
  UNION ALL SELECT format('%s %s by %s, grantable %s', what, a.privilege_type, a.grantor::regrole, a.is_grantable) FROM (
      SELECT 'database ' || datname, datacl FROM pg_database
      UNION ALL SELECT 'schema ' || nspname, nspacl FROM pg_namespace
      UNION ALL SELECT 'relation ' || oid::regclass, relacl FROM pg_class
      UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname, attacl FROM pg_attribute
      UNION ALL SELECT 'default of ' || defaclrole::regrole || ' ' || defaclobjtype::text, defaclacl FROM pg_default_acl
    ) AS o(what, acl), aclexplode(acl) AS a WHERE a.grantee = $1::regrole
) AS l(line)`, role)
}

// files are the configuration for a shop; store is a line of staunch.yaml that
// says where the engine keeps its state, "" for SQLite.
func (s *shop) files(store, more string) map[string]string {
	return map[string]string{
		"staunch.yaml": fmt.Sprintf(`v: 1
listen: "@LISTEN@"
mode: enforce
%s
realms:
  - name: %s
    platform: postgresql
    connector: {dsn: %q, proof_dsn: %q}
sources:
  - {name: pg-log, format: postgresql, realm: %[2]s, ceiling: revoke, tail: {path: %[5]q}}
  - {name: leaks, format: generic, mapping: leaks.yaml, realm: %[2]s, ceiling: revoke}
rules: [rules]
identities: identities.yaml
%[6]s`, store, pgRealm, s.act, s.proof, s.LogPath, more),
		"identities.yaml": fmt.Sprintf(`v: 1
identities:
  - name: billing-sync
    kind: service
    owner: payments
    purpose: copies invoices to the ledger
    environment: production
    tier: 2
    tolerance: normal
    accounts: ["account:%s:role:billing"]
`, pgRealm),
		"leaks.yaml": `v: 1
name: leaks
title: Leak reports
product: {name: Leak watch, vendor_name: Example}
logsource: {product: leakwatch}
refs:
  # A PostgreSQL password is named by its role.
  password: {kind: credential, scheme: password, from: role}
keys: {id: id, time: time, operation: =password_leaked, outcome: success, targets: [password]}
findings:
  - {id: =leaked-password, title: "Password found in {where}", confidence: {from: confidence, as: number}, accuse: [password], evidence: "found in {where}"}
ocsf:
  classes:
    - {class: Detection Finding, activity: =Create, set: {message: "password found in {where}", finding_info: {uid: id, title: "Password found in {where}"}}}
`,
		"rules/program.yaml": `title: The billing role is used through another program
id: 4c8c6a4e-4a1d-4d55-9f0e-3f6f1f0d8c01
status: test
level: high
confidence: 0.7
logsource: {product: postgresql, service: jsonlog}
tags: [attack.t1078]
detection:
  role:
    user: billing
    message|startswith: 'statement: '
  program:
    application_name: billing-sync
  condition: role and not program
accuse: [account]
`,
		"rules/audited.yaml": `title: The billing role reads cards through another program, says pgAudit
id: 4c8c6a4e-4a1d-4d55-9f0e-3f6f1f0d8c02
status: test
level: high
logsource: {product: postgresql, service: pgaudit}
detection:
  read:
    user: billing
    message|startswith: 'AUDIT: SESSION,'
    message|contains: ',READ,SELECT,'
  cards:
    message|contains: sales.cards
  program:
    application_name: billing-sync
  condition: read and cards and not program
accuse: [account]
`,
		"rules/session.yaml": `title: An analyst's session copies a table
id: 4c8c6a4e-4a1d-4d55-9f0e-3f6f1f0d8c03
status: test
level: high
logsource: {product: postgresql, service: jsonlog}
detection:
  s:
    user: analyst
    message|re: '(?i)^statement: copy .* to stdout'
  condition: s
accuse: [session]
`,
		"rules/marker.yaml": `title: A line that is counted
id: 4c8c6a4e-4a1d-4d55-9f0e-3f6f1f0d8c04
status: test
level: informational
mode: shadow
logsource: {product: postgresql, service: jsonlog}
detection:
  s:
    user: counter
    message|startswith: "statement: SELECT 'line "
  condition: s
accuse: [account]
`,
	}
}

func role(name string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: pgRealm, Scheme: "role", Value: name}
}

// leak is a leak report about a role's password.
func leak(role string) string {
	return fmt.Sprintf(`{"id":%q,"time":%q,"role":%q,"where":"a paste site","confidence":0.7}`+"\n",
		"leak-"+rand.Text(), time.Now().UTC().Format(time.RFC3339Nano), role)
}

// logs returns what the server has logged, rotated files first.
func (s *shop) logs() []byte {
	s.tb.Helper()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(s.LogPath), "*.json*"))
	if err != nil {
		s.tb.Fatal(err)
	}
	var out []byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			s.tb.Fatal(err)
		}
		out = append(out, b[:strings.LastIndexByte(string(b), '\n')+1]...)
	}
	if dir := os.Getenv("STAUNCH_CAPTURE"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(s.tb.Name(), "/", "_")+".json"), out, 0o600); err != nil {
			s.tb.Fatal(err)
		}
	}
	return out
}

// checkLog puts the whole log through the format's conformance check.
func (s *shop) checkLog() {
	s.tb.Helper()
	f, err := postgresql.New()
	if err != nil {
		s.tb.Fatal(err)
	}
	checkLines(s.tb, f, s.logs())
}

// TestStolenPassword is the story on PostgreSQL: a thief logs in with a service's
// password and copies a table.
func TestStolenPassword(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { stolenPassword(t, newShop(t, false), "") })
	t.Run("postgresql", func(t *testing.T) {
		// Another server: one that logs what the store does into the file that is
		// followed would keep itself busy for ever.
		stolenPassword(t, newShop(t, false), fmt.Sprintf("postgres_url: %q", pgtest.NewDatabase(t)))
	})
}

func stolenPassword(t *testing.T, s *shop, store string) {
	before := s.access("billing")
	n := newNode(t, s.files(store, ""))
	workload := s.login("billing", s.password, "billing-sync")
	if err := workload.do("SELECT count(*) FROM sales.cards"); err != nil {
		t.Fatal(err)
	}

	// The thief makes a way back in and copies the cards. On a busy machine he may
	// be stopped in the middle of it.
	thief := s.login("billing", s.password, "psql")
	theft := time.Now()
	if err := thief.do("CREATE ROLE backdoor LOGIN PASSWORD 'let-me-in'"); err != nil {
		t.Fatal(err)
	}
	back, err := s.dial("backdoor", "let-me-in", "psql")
	if err != nil && sqlState(err) != "28000" {
		t.Fatal(err)
	}
	if err := thief.dump("sales.cards"); err != nil && !thief.cut() && sqlState(err) != "42501" {
		t.Fatal(err)
	}
	eventually(t, "the thief's session is cut", thief.cut)
	t.Logf("the thief's session was cut %s after his first statement", time.Since(theft))
	if back != nil {
		eventually(t, "the back door's session is cut", back.cut)
		_ = back.conn.Close(context.Background()) // it was cut
	}
	s.refused("billing", s.password, "28000")
	s.refused("backdoor", "let-me-in", "28000")
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	if c.Containment.Subject != role("billing") {
		t.Errorf("the subject is %s", c.Containment.Subject)
	}
	if got, want := s.access("billing"), "login false"; got != want {
		t.Errorf("billing still may: %s", got)
	}

	// Another source has the password from a paste site: now it is sure.
	n.post("leaks", leak("billing"))
	c = n.await(staunch.PhaseHeld, staunch.TierRevoke)
	n.proven(c)
	if len(c.Signals) < 2 {
		t.Errorf("the case rests on %d signals", len(c.Signals))
	}
	s.refused("billing", s.password, "28000")

	// The operator looks, takes the back door's password away, and gives the workload
	// a new one.
	fresh := "fresh-" + rand.Text()
	s.Exec(t, "postgres", "ALTER ROLE backdoor PASSWORD NULL", "ALTER ROLE billing PASSWORD '"+fresh+"'")
	n.release(c, api.ReleaseRequest{Reason: "the password is a new one, the back door has none", Rotated: true})
	c = n.await(staunch.PhaseReleased, staunch.TierRevoke)
	if after := s.access("billing"); after != before {
		t.Errorf("billing may not what it could before\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if err := s.login("billing", fresh, "billing-sync").do("SELECT count(*) FROM sales.cards"); err != nil {
		t.Errorf("the workload: %v", err)
	}
	s.refused("billing", s.password, "28P01")
	s.refused("backdoor", "let-me-in", "28P01")
	if k := c.Containment.Release.Kept; len(k) > 0 {
		t.Logf("what was kept: %q", k)
	}
	t.Logf("the case:\n%s", timeline(c))
	n.sound()
	n.stop()
	s.checkLog()
}

// cut reports whether the session has been ended: its next statement is answered
// with admin_shutdown, or with nothing any more.
func (c *session) cut() bool {
	err := c.do("SELECT 1")
	return err != nil && (sqlState(err) == "57P01" || c.conn.IsClosed())
}

// TestAuditedRead is the story told by pgAudit alone: the thief's program does
// not send plain statements.
func TestAuditedRead(t *testing.T) {
	s := newShop(t, true)
	before := s.access("billing")
	n := newNode(t, s.files("", ""))
	workload := s.login("billing", s.password, "billing-sync")
	if err := workload.do("SELECT number FROM sales.cards LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	thief := s.login("billing", s.password, "dbeaver")
	rows, err := thief.conn.Query(t.Context(), "SELECT number FROM sales.cards WHERE id > $1", pgx.QueryExecModeExec, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	for _, sig := range c.Signals {
		if !strings.Contains(sig.Title, "pgAudit") {
			t.Errorf("the case rests on another signal: %s", sig.Title)
		}
	}
	if !thief.cut() {
		t.Error("the thief's session goes on")
	}
	s.refused("billing", s.password, "28000")
	n.release(c, api.ReleaseRequest{Reason: "it was a colleague's drill", Revive: true})
	n.await(staunch.PhaseReleased, staunch.TierIsolate)
	if after := s.access("billing"); after != before {
		t.Errorf("billing may not what it could before\nbefore:\n%s\nafter:\n%s", before, after)
	}
	n.sound()
	n.stop()
	s.checkLog()
}

// TestOneSession has a rule that accuses a session: that backend is ended and no
// other.
func TestOneSession(t *testing.T) {
	s := newShop(t, false)
	s.Exec(t, "shop", "CREATE ROLE analyst LOGIN PASSWORD 'analyst'", "GRANT USAGE ON SCHEMA sales TO analyst", "GRANT SELECT ON sales.cards TO analyst")
	n := newNode(t, s.files("", ""))
	honest := s.login("analyst", "analyst", "metabase")
	other := s.login("billing", s.password, "billing-sync")
	thief := s.login("analyst", "analyst", "metabase")
	// A session that is told apart by its process id alone would be taken for
	// another one with the same start.
	if honest.pid == thief.pid {
		t.Fatal("two sessions have one backend")
	}
	if err := thief.dump("sales.cards"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the thief's session is cut", thief.cut)
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	subject := c.Containment.Subject
	if subject.Kind != staunch.KindSession || subject.Scheme != "session-id" {
		t.Errorf("the subject is %s, not the session\n%s", subject, timeline(c))
	}
	known, err := n.api.Identity(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(known.Resolution), role("analyst").String()) {
		t.Errorf("the session is not known to be analyst's: %+v", known.Resolution)
	}
	for name, c := range map[string]*session{"the honest session": honest, "another role's session": other} {
		if err := c.do("SELECT count(*) FROM sales.cards"); err != nil {
			t.Errorf("%s was hit: %v", name, err)
		}
	}
	s.login("analyst", "analyst", "metabase")
	n.sound()
}

// TestNoLineIsLost counts lines while the log is rotated and the node restarted.
func TestNoLineIsLost(t *testing.T) {
	s := newShop(t, false)
	s.Exec(t, "postgres", "CREATE ROLE counter LOGIN PASSWORD 'counter'")
	n := newNode(t, s.files("", ""))
	counter := s.login("counter", "counter", "counter")
	written := 0
	write := func(some int) {
		t.Helper()
		for range some {
			written++
			if err := counter.do(fmt.Sprintf("SELECT 'line %d'", written)); err != nil {
				t.Fatal(err)
			}
		}
	}
	rotations := 0
	rotate := func() {
		t.Helper()
		rotations++
		old := fmt.Sprintf("%s.%d", s.LogPath, rotations)
		if err := os.Rename(s.LogPath, old); err != nil {
			t.Fatal(err)
		}
		// Until the server reopens it, it writes into the renamed file.
		write(20)
		s.Exec(t, "postgres", "SELECT pg_rotate_logfile()")
		write(20)
		eventually(t, "the server writes a new file", func() bool {
			_, err := os.Stat(s.LogPath)
			return err == nil
		})
	}
	write(30)
	rotate()
	write(30)
	// A file that is rotated away before it was ever opened is not read (see
	// ingest.Tail), so each rotation is noticed before the next one.
	allCounted := func() {
		t.Helper()
		eventually(t, "every line so far is counted", func() bool { return len(n.signals()) >= written })
	}
	allCounted()
	write(30)
	n.stop()
	write(30)
	rotate() // while nobody looks
	write(30)
	n.start()
	write(30)
	allCounted()
	rotate()
	n.stop() // right after
	n.start()
	write(30)

	allCounted()
	seen := n.counted()
	for i := 1; i <= written; i++ {
		if got := seen[fmt.Sprint(i)]; got != 1 {
			t.Errorf("line %d was counted %d times", i, got)
		}
	}
	if len(n.cases()) != 0 {
		t.Errorf("counting led to %s", summary(n.cases()))
	}
	n.sound()
}

// counted returns how often each number of a counted line made a signal.
func (n *node) counted() map[string]int {
	t := n.tb
	t.Helper()
	seen := map[string]int{}
	for _, sig := range n.signals() {
		ev, err := n.api.Event(t.Context(), sig.Event)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(ev.Event.Raw), "SELECT 'line ")
		number, _, _ := strings.Cut(rest, "'")
		if !ok {
			t.Fatalf("the event is another's: %s", ev.Event.Raw)
		}
		seen[number]++
	}
	return seen
}

// TestPlanAndApply is a rehearsal on PostgreSQL: a plan is drawn and looked at,
// refused once the role has changed, and carried out exactly as it stands.
func TestPlanAndApply(t *testing.T) {
	s := newShop(t, false)
	n := newNode(t, s.files("", ""))
	draw := func() json.RawMessage {
		t.Helper()
		f, raw, err := n.api.PlanFile(t.Context(), api.PlanFileRequest{ContainRequest: api.ContainRequest{
			Subject: role("billing"), Tier: staunch.TierIsolate, Reason: "plan",
		}})
		if err != nil || len(f.Targets) == 0 {
			t.Fatalf("drawing a plan: %+v, %v", f, err)
		}
		return raw
	}
	apply := func(plan json.RawMessage) (api.Opened, error) { return n.api.Apply(t.Context(), plan, "a drill") }

	stale := draw()
	s.Exec(t, "shop", "GRANT DELETE ON sales.cards TO billing")
	var refused *client.Error
	if _, err := apply(stale); !errors.As(err, &refused) || refused.Code != api.CodeConflict || !strings.Contains(refused.Message, role("billing").String()+"#grants/shop: ") {
		t.Errorf("a plan of a role that has changed is answered with %v", err)
	}
	if cs := n.cases(); len(cs) != 0 {
		t.Fatalf("a plan that was refused opened %s", summary(cs))
	}

	before := s.access("billing")
	plan := draw()
	edited := json.RawMessage(strings.ReplaceAll(string(plan), "role:billing", "role:reporting"))
	if _, err := apply(edited); !errors.As(err, &refused) || refused.Code != api.CodeInvalid {
		t.Errorf("an edited plan is answered with %v", err)
	}
	// A connection more or less is no other plan: all of them are ended.
	thief := s.login("billing", s.password, "psql")
	o, err := apply(plan)
	if err != nil || !o.Created {
		t.Fatalf("applying gave %+v, %v", o, err)
	}
	eventually(t, "the thief's session is cut", thief.cut)
	c := n.await(staunch.PhaseHeld, staunch.TierIsolate)
	n.proven(c)
	s.refused("billing", s.password, "28000")
	if again, err := apply(plan); err != nil || again.Created || again.Containment.ID != o.Containment.ID {
		t.Errorf("the same plan once more gave %+v, %v", again, err)
	}
	n.release(c, api.ReleaseRequest{Reason: "a drill", Revive: true})
	n.await(staunch.PhaseReleased, staunch.TierIsolate)
	if after := s.access("billing"); after != before {
		t.Errorf("billing may not what it could before\nbefore:\n%s\nafter:\n%s", before, after)
	}
	if _, err := apply(plan); !errors.As(err, &refused) || refused.Code != api.CodeConflict {
		t.Errorf("a plan that was released is answered with %v", err)
	}
	n.sound()
}
