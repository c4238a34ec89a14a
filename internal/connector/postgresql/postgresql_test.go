package postgresql_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/postgresql"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func expand(tb testing.TB, c connector.Connector, ref staunch.Ref, verbs ...staunch.Verb) connector.Expansion {
	tb.Helper()
	ex, err := c.Expand(tb.Context(), connector.ExpandRequest{Subject: ref, Tier: staunch.TierRevoke, Verbs: verbs})
	if err != nil {
		tb.Fatalf("expanding %s: %v", ref, err)
	}
	return ex
}

func gaps(ex connector.Expansion) string {
	var out []string
	for _, g := range ex.Gaps {
		out = append(out, g.Reason)
	}
	return strings.Join(out, "\n")
}

// revert undoes in the reverse order, as core does.
func revert(tb testing.TB, c connector.Connector, done []staunch.Intent) {
	tb.Helper()
	for _, in := range slices.Backward(done) {
		if _, err := c.Revert(tb.Context(), in); err != nil {
			tb.Fatalf("reverting %s: %v", in.Target, err)
		}
	}
}

// estate is a role with every sort of grant in two databases.
type estate struct {
	name, other    string // the role, and another that was granted to
	owner, grantor string
	secondDB       string
	second         *pgx.Conn
	schema, on     string
}

func (s *system) estate(t *testing.T) *estate {
	t.Helper()
	e := &estate{}
	dsn2 := s.NewDatabase(t)
	u, err := url.Parse(dsn2)
	if err != nil {
		t.Fatal(err)
	}
	e.secondDB = strings.TrimPrefix(u.Path, "/")
	e.second = s.connect(t, pgtest.Superuser, s.Password, e.secondDB)
	e.name = s.thief(t)
	e.other = s.role(t, name("bystander"), "")
	e.owner, e.grantor = s.role(t, name("owner"), ""), s.role(t, name("grantor"), "")
	group, group2 := s.role(t, name("group"), ""), s.role(t, name("group"), "")
	e.schema = q(name("schema"))
	e.on = e.schema + "." + q(name(`ta.b"le`))
	svc, owner, grantor, schema := q(e.name), q(e.owner), q(e.grantor), e.schema
	s.sql(t,
		"CREATE SCHEMA "+schema+" AUTHORIZATION "+owner,
		"GRANT USAGE ON SCHEMA "+schema+" TO "+grantor+" WITH GRANT OPTION",
		"SET ROLE "+grantor, "GRANT USAGE ON SCHEMA "+schema+" TO "+svc, "RESET ROLE",
		"GRANT CREATE ON SCHEMA "+schema+" TO "+svc+" WITH GRANT OPTION",
		"SET ROLE "+owner,
		"CREATE TABLE "+e.on+` (a int, "b ""c" int, d int)`,
		"CREATE VIEW "+schema+".v AS SELECT 1 AS x",
		"CREATE SEQUENCE "+schema+".q",
		"CREATE TYPE "+schema+".mood AS ENUM ('fine')",
		"CREATE DOMAIN "+schema+".dom AS int",
		"CREATE FUNCTION "+schema+".f(int, "+schema+".mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE PROCEDURE "+schema+".p(IN a int, OUT b int) LANGUAGE sql AS 'SELECT 1'",
		"CREATE AGGREGATE "+schema+".agg(int) (SFUNC = int4pl, STYPE = int)",
		"GRANT SELECT, INSERT, TRUNCATE ON "+e.on+" TO "+svc,
		"GRANT SELECT, UPDATE, REFERENCES ON "+e.on+" TO "+grantor+" WITH GRANT OPTION",
		`GRANT UPDATE (a), SELECT ("b ""c") ON `+e.on+" TO "+svc,
		"GRANT INSERT (d) ON "+e.on+" TO "+svc+" WITH GRANT OPTION",
		"GRANT SELECT ON "+schema+".v TO "+svc+" WITH GRANT OPTION",
		"GRANT USAGE, UPDATE ON SEQUENCE "+schema+".q TO "+svc,
		"REVOKE USAGE ON TYPE "+schema+".mood FROM PUBLIC",
		"GRANT USAGE ON TYPE "+schema+".mood TO "+svc,
		"GRANT USAGE ON DOMAIN "+schema+".dom TO "+svc,
		"REVOKE EXECUTE ON FUNCTION "+schema+".f FROM PUBLIC",
		"GRANT EXECUTE ON FUNCTION "+schema+".f TO "+svc,
		"GRANT EXECUTE ON PROCEDURE "+schema+".p TO "+svc,
		"GRANT EXECUTE ON FUNCTION "+schema+".agg(int) TO "+svc,
		"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "+svc,
		"ALTER DEFAULT PRIVILEGES IN SCHEMA "+schema+" GRANT USAGE, SELECT ON SEQUENCES TO "+svc+" WITH GRANT OPTION",
		"RESET ROLE",
		"SET ROLE "+grantor,
		"GRANT SELECT, UPDATE ON "+e.on+" TO "+svc,
		"GRANT REFERENCES (a) ON "+e.on+" TO "+svc,
		"RESET ROLE",
		// Bystanders must come through it as they are.
		"GRANT SELECT, UPDATE ON "+e.on+" TO "+q(e.other)+" WITH GRANT OPTION",
		"CREATE FOREIGN DATA WRAPPER "+q(e.owner),
		"CREATE SERVER "+q(e.owner)+" FOREIGN DATA WRAPPER "+q(e.owner),
		"GRANT USAGE ON FOREIGN DATA WRAPPER "+q(e.owner)+" TO "+svc,
		"GRANT USAGE ON FOREIGN SERVER "+q(e.owner)+" TO "+svc+" WITH GRANT OPTION",
		"GRANT USAGE ON LANGUAGE plpgsql TO "+svc,
		"SELECT lo_create(4242)", "GRANT SELECT, UPDATE ON LARGE OBJECT 4242 TO "+svc,
		"GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_reset() TO "+svc,
		"GRANT CONNECT, TEMPORARY ON DATABASE "+q(s.db)+" TO "+svc+" WITH GRANT OPTION",
		"GRANT SET, ALTER SYSTEM ON PARAMETER log_min_messages TO "+svc,
		"GRANT SET ON PARAMETER staunch.made_up TO "+svc,
		"GRANT "+q(group)+" TO "+grantor+" WITH ADMIN OPTION",
		"GRANT "+q(group)+" TO "+svc+" GRANTED BY "+grantor,
		"GRANT "+q(group2)+" TO "+svc+" WITH ADMIN OPTION",
		"GRANT pg_read_all_data TO "+svc,
	)
	t.Cleanup(func() {
		s.sql(t, "REVOKE ALL ON PARAMETER log_min_messages, staunch.made_up FROM "+svc, "REVOKE ALL ON FUNCTION pg_catalog.pg_stat_reset() FROM "+svc, "REVOKE ALL ON LANGUAGE plpgsql FROM "+svc, "SELECT lo_unlink(4242)",
			"DROP FOREIGN DATA WRAPPER "+q(e.owner)+" CASCADE")
	})
	for _, st := range []string{"CREATE TABLE t (a int)", "GRANT ALL ON t TO " + svc, "CREATE TABLE t2 (a int)", "ALTER TABLE t2 OWNER TO " + owner, "GRANT SELECT (a) ON t2 TO " + svc} {
		if _, err := e.second.Exec(t.Context(), st); err != nil {
			t.Fatalf("%s: %v", st, err)
		}
	}
	t.Cleanup(func() { // what is in the other database is not in DROP OWNED's reach
		_, _ = e.second.Exec(context.Background(), "DROP TABLE t, t2")
	})
	return e
}

// TestEveryGrantGoesAndComesBack restricts a role with every sort of grant, by
// several grantors in two databases, and puts everything back exactly.
func TestEveryGrantGoesAndComesBack(t *testing.T) {
	s := start(t)
	e := s.estate(t)
	c := open(t, s.config())
	both := func() string {
		d, err := dump(t.Context(), e.second)
		if err != nil {
			t.Fatal(err)
		}
		return s.dump(t) + "\n== second\n" + d
	}
	before := both()
	ex := expand(t, c, account(e.name), staunch.VerbRestrict)
	var attrs []string
	for _, a := range ex.Actions {
		attrs = append(attrs, a.Target.Attribute)
	}
	want := []string{postgresql.AttrGrantsIn + s.db, postgresql.AttrGrantsIn + e.secondDB, postgresql.AttrGrants}
	slices.Sort(want[:2])
	if !slices.Equal(attrs, want) {
		t.Fatalf("actions on %q, want %q; gaps: %s", attrs, want, gaps(ex))
	}
	var done []staunch.Intent
	for _, a := range ex.Actions {
		in := act(t, c, a.Target, a.Verb)
		if in.Expected.Effective || !strings.Contains(string(in.Expected.Body), `"direct":[]`) {
			t.Errorf("%s leaves %s", a.Target, in.Expected.Body)
		}
		done = append(done, in)
	}
	held := both()
	// Nothing names the role in any list now, and nobody else's entries moved.
	var oid uint32
	if err := s.admin.QueryRow(t.Context(), "SELECT oid FROM pg_roles WHERE rolname = $1", e.name).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, l := range changes(before, held) {
		f := strings.Fields(l)
		if f[1] == "def" && f[5] == f[6] || f[1] == "par" && f[3] == f[4] {
			continue // PostgreSQL drops a list with nothing but the owner's rights
		}
		if !slices.Contains(f, fmt.Sprint(oid)) {
			t.Errorf("not the role's own entry: %s", l)
		}
		if f[0] == "+" {
			t.Errorf("something was added: %s", l)
		}
		lost++
	}
	if lost < 40 {
		t.Errorf("only %d entries went; the test's estate has more", lost)
	}
	for _, l := range strings.Split(held, "\n") {
		f := strings.Fields(l)
		if len(f) > 2 && f[0] != "rol" && slices.Contains(f[2:], fmt.Sprint(oid)) {
			t.Errorf("still there: %s", l)
		}
	}
	revert(t, c, done)
	if diff := changes(before, both()); len(diff) > 0 {
		t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
	}
}

// TestDependentGrants has others' grants hang on the role's: without cascade
// they and what carries them stay, with it they go and come back as a set.
func TestDependentGrants(t *testing.T) {
	s := start(t)
	chain := func(t *testing.T) (n, b, c, on string) {
		n, a, b, c, on := granted(t, s)
		// n → a → b, and c has SELECT from both b and the owner.
		s.sql(t, "SET ROLE "+q(n), "GRANT SELECT ON "+on+" TO "+q(a)+" WITH GRANT OPTION", "GRANT SELECT (x) ON "+on+" TO PUBLIC",
			"SET ROLE "+q(a), "GRANT SELECT ON "+on+" TO "+q(b)+" WITH GRANT OPTION",
			"SET ROLE "+q(b), "GRANT SELECT ON "+on+" TO "+q(c)+" WITH GRANT OPTION", "RESET ROLE",
			"GRANT SELECT ON "+on+" TO "+q(c)+" WITH GRANT OPTION",
			"SET ROLE "+q(c), "GRANT SELECT ON "+on+" TO "+q(s.role(t, name("d"), "")), "RESET ROLE")
		return n, b, c, on
	}
	t.Run("kept without cascade", func(t *testing.T) {
		n, b, _, on := chain(t)
		c := open(t, s.config())
		before := s.dump(t)
		ex := expand(t, c, account(n), staunch.VerbRestrict)
		if g := gaps(ex); !strings.Contains(g, "others' grants hang on") || !strings.Contains(g, "granted on to others") {
			t.Errorf("gaps: %s", g)
		}
		in := act(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict)
		if !in.Expected.Effective {
			t.Error("a privilege that stays is expected to have no effect")
		}
		for priv, want := range map[string]bool{"SELECT": true, "UPDATE": false, "INSERT": false} {
			if got := s.may(t, n, on, priv); got != want {
				t.Errorf("the role's %s is %t, want %t", priv, got, want)
			}
		}
		if !s.may(t, b, on, "SELECT") {
			t.Error("a bystander lost its grant")
		}
		revert(t, c, []staunch.Intent{in})
		if diff := changes(before, s.dump(t)); len(diff) > 0 {
			t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
		}
	})
	t.Run("undone as a set with cascade", func(t *testing.T) {
		n, b, third, on := chain(t)
		c := open(t, s.config(func(c *postgresql.Config) { c.Cascade = true }))
		before := s.dump(t)
		in := act(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict)
		if in.Expected.Effective {
			t.Errorf("left: %s", in.Expected.Body)
		}
		for who, want := range map[string]bool{n: false, b: false, third: true} {
			if got := s.may(t, who, on, "SELECT"); got != want {
				t.Errorf("%s may SELECT: %t, want %t", who, got, want)
			}
		}
		revert(t, c, []staunch.Intent{in})
		if diff := changes(before, s.dump(t)); len(diff) > 0 {
			t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
		}
	})
}

func granted(t *testing.T, s *system) (n, a, b, c, on string) {
	n = s.thief(t)
	a, b, c = s.role(t, name("a"), ""), s.role(t, name("b"), ""), s.role(t, name("c"), "")
	owner := s.role(t, name("owner"), "")
	schema := q(name("schema"))
	on = schema + ".t"
	s.sql(t, "CREATE SCHEMA "+schema+" AUTHORIZATION "+q(owner),
		"GRANT USAGE ON SCHEMA "+schema+" TO "+strings.Join([]string{q(n), q(a), q(b), q(c)}, ", "),
		"CREATE TABLE "+on+" (x int, y int)", "ALTER TABLE "+on+" OWNER TO "+q(owner),
		"GRANT SELECT, UPDATE ON "+on+" TO "+q(n)+" WITH GRANT OPTION",
		"GRANT INSERT ON "+on+" TO "+q(n),
		"GRANT SELECT (x) ON "+on+" TO "+q(n)+" WITH GRANT OPTION")
	return n, a, b, c, on
}

// may asks PostgreSQL whether a role holds a privilege on a table.
func (s *system) may(tb testing.TB, role, on, priv string) bool {
	tb.Helper()
	var ok bool
	if err := s.admin.QueryRow(context.Background(), "SELECT has_table_privilege($1, $2, $3)", role, on, priv).Scan(&ok); err != nil {
		tb.Fatal(err)
	}
	return ok
}

// TestGrantorThatBecameOwner has grants that no REVOKE can address any more:
// they are left and said, and do not keep the others in force.
func TestGrantorThatBecameOwner(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	grantor, owner := s.role(t, name("grantor"), ""), s.role(t, name("owner"), "")
	table := q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)", "ALTER TABLE "+table+" OWNER TO "+q(owner),
		"GRANT SELECT ON "+table+" TO "+q(grantor)+" WITH GRANT OPTION",
		"SET ROLE "+q(grantor), "GRANT SELECT ON "+table+" TO "+q(n), "RESET ROLE",
		"GRANT UPDATE ON "+table+" TO "+q(n),
		"GRANT "+q(owner)+" TO "+q(grantor))
	c := open(t, s.config())
	before := s.dump(t)
	if g := gaps(expand(t, c, account(n), staunch.VerbRestrict)); !strings.Contains(g, "acts as the owner") {
		t.Errorf("gaps: %s", g)
	}
	in := act(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict)
	if s.may(t, n, table, "UPDATE") || !s.may(t, n, table, "SELECT") {
		t.Error("want UPDATE gone and SELECT still there")
	}
	revert(t, c, []staunch.Intent{in})
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
	}
}

// TestThirdPartyDuringApply grants something between the read and the call:
// what was read is taken away, what was not is left for the next plan, since a
// release would not know to give it back.
func TestThirdPartyDuringApply(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	table := q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)", "GRANT SELECT ON "+table+" TO "+q(n))
	c := open(t, s.config())
	in := intent(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict)
	s.sql(t, "GRANT INSERT ON "+table+" TO "+q(n))
	if _, err := c.Apply(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if s.may(t, n, table, "SELECT") || !s.may(t, n, table, "INSERT") {
		t.Error("want SELECT gone and INSERT still there")
	}
	st, err := c.Read(t.Context(), in.Target, true)
	if err != nil {
		t.Fatal(err)
	}
	if c.Matches(in.Expected, st) || !st.Effective {
		t.Errorf("the grant that came in between goes unnoticed: %s", st.Body)
	}
	if _, err := c.Revert(t.Context(), in); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("reverting: %v, want a conflict", err)
	}
}

// TestDroppedDuringHold drops one of two tables that were granted: giving back
// what there was is not possible any more, so nothing is, and a person looks.
func TestDroppedDuringHold(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	table, other := q(name("table")), q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)", "CREATE TABLE "+other+" (a int)", "GRANT SELECT ON "+table+", "+other+" TO "+q(n))
	c := open(t, s.config())
	in := act(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict)
	s.sql(t, "DROP TABLE "+other)
	before := s.dump(t)
	_, err := c.Revert(t.Context(), in)
	if !errors.Is(err, staunch.ErrConflict) || staunch.ClassOf(err) != staunch.ClassPermanent || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("reverting: class %s: %v", staunch.ClassOf(err), err)
	}
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("changed: %v", diff)
	}
}

// TestClosedDatabase has a database that does not let staunch in: a gap, and
// the rest goes on.
func TestClosedDatabase(t *testing.T) {
	s := start(t)
	lesser := s.role(t, name("lesser"), "LOGIN CREATEROLE PASSWORD '"+password+"'")
	n := s.thief(t)
	s.sql(t, "GRANT pg_signal_backend, pg_read_all_stats TO "+q(lesser), "CREATE TABLE t (a int)", "GRANT SELECT ON t TO "+q(n),
		"REVOKE CONNECT ON DATABASE "+q(s.db)+" FROM PUBLIC")
	c := open(t, s.config(func(c *postgresql.Config) { c.DSN = staunch.NewSecret(s.UserDSN(lesser, password, "postgres")) }))
	ex := expand(t, c, account(n))
	if !strings.Contains(gaps(ex), "does not let staunch in") {
		t.Errorf("gaps: %s", gaps(ex))
	}
	var attrs []string
	for _, a := range ex.Actions {
		attrs = append(attrs, a.Target.Attribute)
	}
	if !slices.Equal(attrs, []string{postgresql.AttrLogin, postgresql.AttrSessions}) {
		t.Errorf("actions on %q", attrs)
	}
}

// TestRoleMadeAgain drops the role between the read and the call and makes
// another under its name: that one was never decided on.
func TestRoleMadeAgain(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	c := open(t, s.config())
	in := intent(t, c, target(n, postgresql.AttrLogin), staunch.VerbSuspend)
	s.sql(t, "DROP ROLE "+q(n), "CREATE ROLE "+q(n)+" LOGIN")
	before := s.dump(t)
	if _, err := c.Apply(t.Context(), in); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("applying: %v, want a conflict", err)
	}
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("changed: %v", diff)
	}
}

// TestGaps has what the connector cannot take away.
func TestGaps(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	member := s.role(t, name("member"), "")
	table := q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)", "ALTER TABLE "+table+" OWNER TO "+q(n), "GRANT "+q(n)+" TO "+q(member))
	second, err := url.Parse(s.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	excluded := strings.TrimPrefix(second.Path, "/")
	conn := s.connect(t, pgtest.Superuser, s.Password, excluded)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (a int); GRANT SELECT ON t TO "+q(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Exec(context.Background(), "DROP TABLE t") })
	c := open(t, s.config(func(c *postgresql.Config) { c.Exclude = []string{excluded} }))
	ex := expand(t, c, account(n))
	got := gaps(ex)
	for _, want := range []string{"owns 1 objects in " + s.db, "PUBLIC", "can SET ROLE to it", "database " + excluded + ", where role"} {
		if !strings.Contains(got, want) {
			t.Errorf("no gap says %q: %s", want, got)
		}
	}
	for _, a := range ex.Actions {
		if strings.HasSuffix(a.Target.Attribute, excluded) {
			t.Errorf("an excluded database is acted upon: %s", a.Target)
		}
	}
	if _, err := c.Read(t.Context(), target(n, postgresql.AttrGrantsIn+excluded), false); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("reading in an excluded database: %v", err)
	}
	// A password has no identity: widen, and say why.
	ex = expand(t, c, staunch.Ref{Kind: staunch.KindCredential, Realm: realm, Scheme: postgresql.SchemePassword, Value: n})
	if len(ex.Actions) != 0 || len(ex.Gaps) != 1 || ex.Gaps[0].Widen != account(n) {
		t.Errorf("a password expands to %+v", ex)
	}
}

// TestProtected tries roles that must never be touched, with intents made as
// though they could be.
func TestProtected(t *testing.T) {
	s := start(t)
	super := s.role(t, name("super"), "SUPERUSER LOGIN")
	repl := s.role(t, name("repl"), "REPLICATION LOGIN")
	listed := s.role(t, name("listed"), "LOGIN PASSWORD '"+password+"'")
	conn := s.connect(t, listed, password, s.db)
	before := s.dump(t)
	c := open(t, s.config(func(c *postgresql.Config) { c.Protect = []string{listed} }))
	for _, n := range []string{super, repl, listed, actor, prover, pgtest.Superuser, "pg_read_all_data"} {
		ex := expand(t, c, account(n))
		if len(ex.Actions) > 0 || len(ex.Gaps) == 0 {
			t.Errorf("%s expands to %d actions, %d gaps", n, len(ex.Actions), len(ex.Gaps))
		}
		for attr, verb := range map[string]staunch.Verb{postgresql.AttrLogin: staunch.VerbSuspend, postgresql.AttrGrants: staunch.VerbRestrict, postgresql.AttrSessions: staunch.VerbIsolate} {
			in := intent(t, c, target(n, attr), verb)
			if c.Matches(in.Expected, in.PreImage) {
				continue // nothing to take away
			}
			if _, err := c.Apply(t.Context(), in); !errors.Is(err, staunch.ErrForbidden) {
				t.Errorf("%s of %s's %s: %v", verb, n, attr, err)
			}
		}
	}
	ref := s.session(t, conn)
	if ex := expand(t, c, ref); len(ex.Actions) > 0 {
		t.Error("a protected role's session is a target")
	}
	if _, err := c.Apply(t.Context(), intent(t, c, staunch.Target{Ref: ref, Attribute: postgresql.AttrBackend}, staunch.VerbIsolate)); !errors.Is(err, staunch.ErrForbidden) {
		t.Errorf("ending a protected role's session: %v", err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("a protected role's session was ended: %v", err)
	}
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("changed:\n%s", strings.Join(diff, "\n"))
	}
	// Allowed on request.
	c = open(t, s.config(func(c *postgresql.Config) { c.AllowSuperuser, c.AllowReplication = true, true }))
	for _, n := range []string{super, repl} {
		if ex := expand(t, c, account(n)); len(ex.Actions) == 0 {
			t.Errorf("%s is still protected: %s", n, gaps(ex))
		}
	}
}

// TestAnotherSessionUnderThePID ends nothing when the pid went to another.
func TestAnotherSessionUnderThePID(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	conn := s.connect(t, n, password, s.db)
	c := open(t, s.config())
	ref := s.session(t, conn)
	in := intent(t, c, staunch.Target{Ref: ref, Attribute: postgresql.AttrBackend}, staunch.VerbIsolate)
	pid, _, _ := strings.Cut(ref.Value, "/")
	ref.Value = pid + "/1700000000000001"
	for _, t := range []*staunch.Target{&in.Target, &in.PreImage.Target, &in.Expected.Target} {
		t.Ref = ref
	}
	r, err := c.Apply(t.Context(), in)
	if err != nil || r.Changed {
		t.Errorf("changed %t, %v", r.Changed, err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("another session was ended: %v", err)
	}
}

// TestSessionOfTheLog finds the session that the server's log names by its
// session_id, and no other.
func TestSessionOfTheLog(t *testing.T) {
	s := start(t)
	c := open(t, s.config())
	conn := s.connect(t, s.thief(t), password, s.db)
	want := s.session(t, conn)
	var id string
	// As PostgreSQL's documentation of log_line_prefix (%c) says to make it.
	if err := conn.QueryRow(t.Context(), "SELECT to_hex(trunc(extract(epoch FROM backend_start))::bigint) || '.' || to_hex(pid) FROM pg_stat_activity WHERE pid = pg_backend_pid()").Scan(&id); err != nil {
		t.Fatal(err)
	}
	named := func(value string) staunch.Ref {
		return staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: postgresql.SchemeSessionID, Value: value}
	}
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: named(id), Tier: staunch.TierIsolate})
	if err != nil || len(ex.Actions) != 1 || len(ex.Gaps) != 0 {
		t.Fatalf("%+v, %v", ex, err)
	}
	if a := ex.Actions[0]; a.Target.Ref != want || a.Target.Attribute != postgresql.AttrBackend || a.Verb != staunch.VerbIsolate {
		t.Errorf("action %+v, want to isolate %s", a, want)
	}
	if len(ex.Facts) != 1 || ex.Facts[0].Type != staunch.FactSameAs || ex.Facts[0].Subject != want || ex.Facts[0].Of != named(id) {
		t.Errorf("facts %+v", ex.Facts)
	}
	start, pid, _ := strings.Cut(id, ".")
	seconds, err := strconv.ParseInt(start, 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{
		strconv.FormatInt(seconds+1, 16) + "." + pid, strconv.FormatInt(seconds-1, 16) + "." + pid, // the pid was used again
		start + ".7fffffff", start, "." + pid, start + ".0", start + ".-1", "x." + pid, "7fffffffffffffff." + pid, "0." + pid, start + "." + pid + ".1",
	} {
		ex, err := c.Expand(t.Context(), connector.ExpandRequest{Subject: named(other), Tier: staunch.TierIsolate})
		if err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 || len(ex.Facts) != 0 {
			t.Errorf("%s: %+v, %v", other, ex, err)
		}
	}
	act(t, c, ex.Actions[0].Target, staunch.VerbIsolate)
	if ex, err = c.Expand(t.Context(), connector.ExpandRequest{Subject: named(id), Tier: staunch.TierIsolate}); err != nil || len(ex.Actions) != 0 || len(ex.Gaps) != 1 {
		t.Errorf("after its end: %+v, %v", ex, err)
	}
}

// TestDerivedSessionsCollapse leaves sessions out that their role's own step
// ends, and orders the steps.
func TestDerivedSessionsCollapse(t *testing.T) {
	s := start(t)
	n, other := s.thief(t), s.thief(t)
	mine, theirs := s.connect(t, n, password, s.db), s.connect(t, other, password, s.db)
	table := q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)", "GRANT SELECT ON "+table+" TO "+q(n))
	c := open(t, s.config())
	ex, err := c.Expand(t.Context(), connector.ExpandRequest{
		Subject: staunch.IdentityRef("svc"), Names: []staunch.Ref{account(n), account(n)},
		Derived: []staunch.Ref{s.session(t, mine), s.session(t, theirs)}, Tier: staunch.TierIsolate,
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range ex.Actions {
		got = append(got, string(a.Verb)+" "+a.Target.Attribute+" "+a.Target.Ref.Value)
	}
	want := []string{
		"suspend login " + n, "restrict grants/" + s.db + " " + n, "isolate sessions " + n,
		"isolate backend " + s.session(t, theirs).Value,
	}
	if !slices.Equal(got, want) {
		t.Errorf("actions %q, want %q", got, want)
	}
	if len(ex.Facts) != 1 || ex.Facts[0].Subject != s.session(t, mine) || ex.Facts[0].Of != account(n) {
		t.Errorf("facts: %+v", ex.Facts)
	}
}

// TestHammeringThief logs in without pause and holds a session open, round
// after round; suspended, ended and swept, nothing of it is left.
func TestHammeringThief(t *testing.T) {
	s := start(t)
	c := open(t, s.config())
	var sweeps []time.Duration
	for _, v := range c.Describe().Verbs {
		if v.Attribute == postgresql.AttrSessions {
			sweeps = v.Sweeps
		}
	}
	if len(sweeps) != 2 {
		t.Fatalf("%d sweeps are declared, want 2", len(sweeps))
	}
	var took []time.Duration
	for round := range 5 {
		n := s.thief(t)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var last atomic.Int64 // of the last success, in microseconds
		var count atomic.Int64
		succeed := func() { last.Store(time.Now().UnixMicro()); count.Add(1) }
		for range 3 { // new logins
			wg.Go(func() {
				for ctx.Err() == nil {
					conn, err := pgx.Connect(ctx, s.UserDSN(n, password, s.db))
					if err != nil {
						continue
					}
					for range 50 { // and uses each for as long as it lasts
						if _, err := conn.Exec(ctx, "SELECT 1"); err != nil {
							break
						}
						succeed()
					}
					_ = conn.Close(context.WithoutCancel(ctx))
				}
			})
		}
		held, err := pgx.Connect(ctx, s.UserDSN(n, password, s.db)) // an open session
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := held.Exec(ctx, "SELECT 1"); err != nil {
					break
				}
				succeed()
			}
			_ = held.Close(context.WithoutCancel(ctx))
		})
		for count.Load() < 100 {
			wait(t, time.Millisecond)
		}
		begin := time.Now()
		act(t, c, target(n, postgresql.AttrLogin), staunch.VerbSuspend)
		in := intent(t, c, target(n, postgresql.AttrSessions), staunch.VerbIsolate)
		if _, err := c.Apply(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		for _, d := range sweeps {
			wait(t, d)
			if _, err := c.Apply(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		st, err := c.Read(t.Context(), in.Target, true)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Matches(in.Expected, st) {
			t.Errorf("round %d: after the sweeps: %s", round, st.Summary)
		}
		proven := time.Now()
		wait(t, 300*time.Millisecond)
		if l := time.UnixMicro(last.Load()); l.After(proven) {
			t.Errorf("round %d: access %s after the proof", round, l.Sub(proven))
		} else {
			took = append(took, l.Sub(begin))
		}
		stop()
		wg.Wait()
	}
	slices.Sort(took)
	t.Logf("last success after the begin of the containment, sorted: %v", took)
}

// wait lets real time pass: the thief and the server are real.
func wait(tb testing.TB, d time.Duration) {
	tb.Helper()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-tb.Context().Done():
		tb.Fatal("the test is over")
	}
}

// TestManyRolesOnOneTable restricts roles that share a table at once: two
// changes of one catalogue row must not make each other fail.
func TestManyRolesOnOneTable(t *testing.T) {
	s := start(t)
	c := open(t, s.config())
	table := q(name("table"))
	s.sql(t, "CREATE TABLE "+table+" (a int)")
	var ins []staunch.Intent
	for range 12 {
		n := s.thief(t)
		s.sql(t, "GRANT SELECT ON "+table+" TO "+q(n))
		ins = append(ins, intent(t, c, target(n, postgresql.AttrGrantsIn+s.db), staunch.VerbRestrict))
	}
	before := s.dump(t)
	for what, f := range map[string]func(context.Context, staunch.Intent) (staunch.Receipt, error){"apply": c.Apply} {
		var wg sync.WaitGroup
		for _, in := range ins {
			wg.Go(func() {
				if r, err := f(t.Context(), in); err != nil || !r.Changed {
					t.Errorf("%s: changed %t, %v", what, r.Changed, err)
				}
			})
		}
		wg.Wait()
	}
	if n := len(changes(before, s.dump(t))); n != len(ins) {
		t.Errorf("%d entries went, want %d", n, len(ins))
	}
	var wg sync.WaitGroup
	for _, in := range ins {
		wg.Go(func() {
			if _, err := c.Revert(t.Context(), in); err != nil {
				t.Errorf("revert: %v", err)
			}
		})
	}
	wg.Wait()
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
	}
}

// TestServerRestart kills the server under the connector: what was not sent is
// transient, and it works again afterwards.
func TestServerRestart(t *testing.T) {
	p := pgtest.Start(t, pgtest.Options{})
	p.Exec(t, "postgres", "CREATE ROLE svc LOGIN")
	c := open(t, postgresql.Config{DSN: staunch.NewSecret(p.DSN("postgres"))})
	in := intent(t, c, target("svc", postgresql.AttrLogin), staunch.VerbSuspend)
	p.Stop(t, pgtest.Kill)
	_, err := c.Apply(t.Context(), in)
	for deadline := time.Now().Add(30 * time.Second); err == nil && time.Now().Before(deadline); _, err = c.Apply(t.Context(), in) {
		time.Sleep(10 * time.Millisecond) // its backend may answer until it notices
	}
	if staunch.ClassOf(err) != staunch.ClassTransient {
		t.Errorf("with the server gone: class %s: %v", staunch.ClassOf(err), err)
	}
	p.Start(t)
	for range 5 { // stale connections of the pool
		if _, err = c.Apply(t.Context(), in); err == nil {
			break
		}
		if staunch.ClassOf(err) != staunch.ClassTransient {
			t.Fatalf("after the restart: class %s: %v", staunch.ClassOf(err), err)
		}
	}
	if err != nil {
		t.Fatalf("after the restart: %v", err)
	}
	if st, err := c.Read(t.Context(), in.Target, true); err != nil || !c.Matches(in.Expected, st) {
		t.Errorf("after the restart: %s, %v", st.Body, err)
	}
}

// TestLeastPermissions runs the whole with an account that is no superuser.
func TestLeastPermissions(t *testing.T) {
	s := start(t)
	lesser := s.role(t, name("lesser"), "LOGIN CREATEROLE PASSWORD '"+password+"'")
	n := s.thief(t)
	owner := s.role(t, name("owner"), "")
	schema := q(name("schema"))
	s.sql(t, "GRANT pg_signal_backend, pg_read_all_stats, "+q(owner)+" TO "+q(lesser),
		"CREATE SCHEMA "+schema+" AUTHORIZATION "+q(owner), "CREATE TABLE "+schema+".t (a int)", "ALTER TABLE "+schema+".t OWNER TO "+q(owner),
		"GRANT USAGE ON SCHEMA "+schema+" TO "+q(n), "GRANT SELECT ON "+schema+".t TO "+q(n))
	conn := s.connect(t, n, password, s.db)
	c := open(t, s.config(func(c *postgresql.Config) { c.DSN = staunch.NewSecret(s.UserDSN(lesser, password, "postgres")) }))
	for _, f := range c.Check(t.Context()) {
		if f.Severity == "error" {
			t.Errorf("doctor: %s", f.Message)
		}
	}
	before := s.dump(t)
	var done []staunch.Intent
	for _, a := range expand(t, c, account(n)).Actions {
		done = append(done, act(t, c, a.Target, a.Verb))
	}
	if len(done) != 3 {
		t.Errorf("%d actions, want 3", len(done))
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the session lives")
	}
	revert(t, c, done)
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("after the release:\n%s", strings.Join(diff, "\n"))
	}
	// Without the rights: denied, and doctor says which.
	weak := s.role(t, name("weak"), "LOGIN PASSWORD '"+password+"'")
	w := open(t, s.config(func(c *postgresql.Config) { c.DSN = staunch.NewSecret(s.UserDSN(weak, password, "postgres")) }))
	if _, err := w.Apply(t.Context(), intent(t, c, target(n, postgresql.AttrLogin), staunch.VerbSuspend)); staunch.ClassOf(err) != staunch.ClassDenied {
		t.Errorf("without CREATEROLE: class %s: %v", staunch.ClassOf(err), err)
	}
	s.connect(t, n, password, s.db)
	if _, err := w.Read(t.Context(), target(n, postgresql.AttrSessions), false); staunch.ClassOf(err) != staunch.ClassDenied {
		t.Errorf("without pg_read_all_stats: class %s: %v", staunch.ClassOf(err), err)
	}
	var errs []string
	for _, f := range w.Check(t.Context()) {
		if f.Severity == "error" {
			errs = append(errs, f.Message)
		}
	}
	if len(errs) != 3 {
		t.Errorf("doctor finds %q, want three errors", errs)
	}
}

func TestConfig(t *testing.T) {
	ok := postgresql.Config{DSN: staunch.NewSecret("postgres://me:hidden@host/db")}
	for place, change := range map[string]func(*postgresql.Config){
		"dsn":               func(c *postgresql.Config) { c.DSN = staunch.Secret{} },
		"dsn#2":             func(c *postgresql.Config) { c.DSN = staunch.NewSecret("postgres://me:hidden@host:port/db") },
		"proof_dsn":         func(c *postgresql.Config) { c.ProofDSN = staunch.NewSecret("postgres://me:hidden@%zz") },
		"max_conns":         func(c *postgresql.Config) { c.MaxConns = -1 },
		"max_grants":        func(c *postgresql.Config) { c.MaxGrants = 2_000_000 },
		"sweep_delay":       func(c *postgresql.Config) { c.SweepDelay = staunch.Duration(time.Hour) },
		"statement_timeout": func(c *postgresql.Config) { c.StatementTimeout = -1 },
		"protect":           func(c *postgresql.Config) { c.Protect = []string{"a", ""} },
	} {
		c := ok
		change(&c)
		_, err := postgresql.New(deps(c))
		var p *staunch.Problem
		if !errors.As(err, &p) || p.Place != strings.TrimSuffix(place, "#2") {
			t.Errorf("%s: %v", place, err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the error shows the password: %v", place, err)
		}
	}
	if c, err := postgresql.New(deps(ok)); err != nil {
		t.Error(err)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestKeysCannotEscape refuses keys that would end the comment they stand in.
func TestKeysCannotEscape(t *testing.T) {
	s := start(t)
	n := s.thief(t)
	c := open(t, s.config())
	in := intent(t, c, target(n, postgresql.AttrLogin), staunch.VerbSuspend)
	before := s.dump(t)
	for _, k := range []string{"", "a*/ DROP TABLE x; /*", "a b", "a\nb", strings.Repeat("a", 129)} {
		in.Key = k
		if _, err := c.Apply(t.Context(), in); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("key %q: %v", k, err)
		}
	}
	if diff := changes(before, s.dump(t)); len(diff) > 0 {
		t.Errorf("changed: %v", diff)
	}
}

// BenchmarkContain takes a role with one open session out: the login suspended,
// then every session ended and seen to be gone.
func BenchmarkContain(b *testing.B) {
	s := start(b)
	c := open(b, s.config())
	var suspend, end []time.Duration
	for b.Loop() {
		b.StopTimer()
		n := s.thief(b)
		s.connect(b, n, password, s.db)
		login := intent(b, c, target(n, postgresql.AttrLogin), staunch.VerbSuspend)
		sessions := intent(b, c, target(n, postgresql.AttrSessions), staunch.VerbIsolate)
		b.StartTimer()
		t0 := time.Now()
		if _, err := c.Apply(b.Context(), login); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if _, err := c.Apply(b.Context(), sessions); err != nil {
			b.Fatal(err)
		}
		st, err := c.Read(b.Context(), sessions.Target, true)
		if err != nil || !c.Matches(sessions.Expected, st) {
			b.Fatalf("%s, %v", st.Summary, err)
		}
		end = append(end, time.Since(t1))
		suspend = append(suspend, t1.Sub(t0))
	}
	for what, l := range map[string][]time.Duration{"suspend": suspend, "sessions-proven": end} {
		slices.Sort(l)
		b.ReportMetric(float64(l[len(l)/2].Microseconds())/1000, what+"-p50-ms")
		b.ReportMetric(float64(l[len(l)*99/100].Microseconds())/1000, what+"-p99-ms")
	}
}
