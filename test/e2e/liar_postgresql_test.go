package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/postgresql"
	"github.com/staunch-project/staunch/test/ledger"
	"github.com/staunch-project/staunch/test/liar"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// pgReads tells the connector's questions apart, the first that fits.
var pgReads = []struct{ text, op string }{
	{"FROM pg_roles WHERE rolname", "the role"},
	{"FROM pg_stat_activity", "sessions"},
	{"FROM pg_default_acl", "default privileges"},
	{"FROM pg_auth_members m JOIN pg_roles u", "what it owns"},
	{"FROM pg_auth_members", "memberships"},
	{"FROM pg_database d WHERE d.datacl", "grants on shared objects"},
	{"FROM pg_class c JOIN pg_namespace", "grants"},
	{"FROM pg_shdepend s JOIN pg_database", "where it has grants"},
}

// pgAsk tells what a statement of the connector is about.
func pgAsk(user, sql string) liar.Ask {
	if user != "staunch" && user != "staunch_proof" {
		return liar.Ask{}
	}
	as := " as " + user
	mark, text, marked := strings.Cut(sql, " */ ")
	switch {
	case sql == "-- ping", strings.HasPrefix(sql, "SELECT datname"): // of the pool, and of connecting ahead
		return liar.Ask{}
	case sql == "":
		return liar.Ask{Op: "log in" + as}
	case marked && strings.HasPrefix(mark, "/* staunch step="):
		switch {
		case text == "COMMIT":
			return liar.Ask{Op: "COMMIT", Change: true}
		case strings.HasSuffix(text, " NOLOGIN; COMMIT"):
			return liar.Ask{Op: "NOLOGIN", Change: true}
		case strings.HasSuffix(text, " LOGIN; COMMIT"):
			return liar.Ask{Op: "LOGIN", Change: true}
		case strings.Contains(text, "pg_terminate_backend"):
			return liar.Ask{Op: "end sessions", Change: true}
		case strings.Contains(text, "REVOKE "):
			return liar.Ask{Op: "REVOKE", Change: true, Parts: true}
		case strings.Contains(text, "GRANT "):
			return liar.Ask{Op: "GRANT", Change: true, Parts: true}
		}
	case strings.HasPrefix(sql, "BEGIN "):
		return liar.Ask{Op: "lock"}
	case sql == "ROLLBACK":
		return liar.Ask{Op: "ROLLBACK"}
	}
	if strings.HasPrefix(sql, "SELECT has_database_privilege") {
		return liar.Ask{Op: "the database" + as, Reads: true, Seldom: true}
	}
	for _, r := range pgReads {
		if strings.Contains(sql, r.text) {
			// Grants are asked for after the role, on the same connection: a server that
			// lags behind has been found out by then.
			return liar.Ask{Op: r.op + as, Reads: r.op == "the role" || r.op == "sessions"}
		}
	}
	return liar.Ask{Op: "another question" + as}
}

// TestLyingPostgreSQL contains roles and sessions of a PostgreSQL that is reached
// through one that lies.
func TestLyingPostgreSQL(t *testing.T) {
	s := &shop{tb: t, Server: pgtest.Start(t, pgtest.Options{
		JSONLog: true, LogStatements: true, MaxConnections: 300, Settings: map[string]string{"log_duration": "on"},
	})}
	act, proof := rand.Text(), rand.Text()
	s.Exec(t, "postgres",
		"CREATE DATABASE shop",
		"CREATE ROLE staunch SUPERUSER LOGIN PASSWORD '"+act+"'",
		"CREATE ROLE staunch_proof LOGIN PASSWORD '"+proof+"'", "GRANT pg_read_all_stats TO staunch_proof",
		"CREATE ROLE keeper")
	realms := ""
	deck, lag := liar.NewDeck(*lieSeed, lieRate, *lieOften), liar.NewLag(*lieSeed, lagRate)
	for realm, d := range map[string]*liar.Deck{pgRealm: deck, pgRealm + "/lag": lag} {
		d.Lie(false)
		addr := liar.Postgres{Upstream: net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), Deck: d, Ask: pgAsk}.Serve(t)
		through := func(role, password string) string {
			u, err := url.Parse(s.UserDSN(role, password, "postgres"))
			if err != nil {
				t.Fatal(err)
			}
			u.Host = addr
			return u.String()
		}
		realms += fmt.Sprintf(`  - name: %s
    platform: postgresql
    rate_per_second: 2000
    connector: {dsn: %q, proof_dsn: %q, max_conns: 12}
`, realm, through("staunch", act), through("staunch_proof", proof))
	}
	n := newHastyNode(t, map[string]string{"staunch.yaml": lyingConfig + realms}, hastily)
	log, err := ledger.Follow(s.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]liar.Outcome{}
	var mu sync.Mutex
	play := func(t *testing.T, name, realm string, p liar.Play) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			truth, err := pgx.Connect(t.Context(), s.DSN("shop"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = truth.Close(context.Background()) }) // it was only looked through
			p.API, p.Lying, p.Patience = n.api, lying(), 2*patience
			p.Subject = func(i int) liar.Subject {
				return s.subject(t, truth, realm, fmt.Sprintf("%s%d", name, i), i%6 == 5)
			}
			p.Deck.Lie(true)
			o := p.Run(t)
			mu.Lock()
			defer mu.Unlock()
			outcomes[realm] = o
		})
	}
	t.Run("play", func(t *testing.T) {
		play(t, "lies", pgRealm, liar.Play{Deck: deck, AtOnce: 24, Fewest: 24, Most: 200 * *lieOften})
		play(t, "lag", pgRealm+"/lag", liar.Play{Deck: lag, AtOnce: 8, Fewest: 8 * *lieOften, Most: 8 * *lieOften})
	})
	n.stop()
	entries, err := log.Read()
	if err != nil {
		t.Fatal(err)
	}
	j := ledger.PostgreSQL(entries, "staunch", "staunch_proof")
	j.Wrong = slices.DeleteFunc(j.Wrong, func(w string) bool { return strings.Contains(w, liar.HalfMark) })
	checkLedger(t, j, outcomes)
}

// subject makes a role with a session and grants of every kind, or a session of
// one.
func (s *shop) subject(t *testing.T, truth *pgx.Conn, realm, name string, session bool) liar.Subject {
	t.Helper()
	s.Exec(t, "shop",
		"CREATE ROLE "+name+" LOGIN PASSWORD '"+name+"'", "CREATE ROLE team_"+name, "GRANT team_"+name+" TO "+name+" WITH ADMIN OPTION",
		"CREATE SCHEMA s_"+name+" AUTHORIZATION keeper", "GRANT USAGE ON SCHEMA s_"+name+" TO "+name,
		"CREATE TABLE s_"+name+".cards (id int, holder text)", "ALTER TABLE s_"+name+".cards OWNER TO keeper",
		"CREATE TABLE s_"+name+".bills (id int)", "ALTER TABLE s_"+name+".bills OWNER TO keeper",
		"GRANT SELECT, INSERT ON s_"+name+".cards TO "+name, "GRANT SELECT, DELETE ON s_"+name+".bills TO "+name,
		"GRANT UPDATE (holder) ON s_"+name+".cards TO "+name+" WITH GRANT OPTION",
		"ALTER DEFAULT PRIVILEGES FOR ROLE keeper IN SCHEMA s_"+name+" GRANT SELECT ON TABLES TO "+name)
	thief := s.login(name, name, "psql")
	count := func(q string, args ...any) (bool, error) {
		var n int
		err := truth.QueryRow(t.Context(), "SELECT count(*)::int FROM ("+q+") x", args...).Scan(&n)
		return n > 0, err
	}
	out := liar.Subject{
		Name: "role", User: name, Ref: staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: postgresql.SchemeRole, Value: name}, Tier: staunch.TierIsolate,
		Alive: func(target staunch.Target) (bool, error) {
			role := target.Ref.Value
			switch target.Attribute {
			case postgresql.AttrLogin:
				return count("SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin", role)
			case postgresql.AttrSessions:
				return count("SELECT FROM pg_stat_activity WHERE usename = $1", role)
			case postgresql.AttrBackend:
				return count("SELECT FROM pg_stat_activity WHERE pid || '/' || (extract(epoch FROM backend_start) * 1000000)::bigint = $1", role)
			case postgresql.AttrGrants:
				return count("SELECT FROM pg_auth_members WHERE member = $1::regrole", role)
			default:
				return count(`SELECT FROM (SELECT relacl FROM pg_class UNION ALL SELECT nspacl FROM pg_namespace
  UNION ALL SELECT attacl FROM pg_attribute UNION ALL SELECT defaclacl FROM pg_default_acl) o(acl), aclexplode(acl) a WHERE a.grantee = $1::regrole`, role)
			}
		},
		State: func() (string, error) { return s.access(name), nil },
		// The thief comes back whenever it can.
		Try: func() {
			if c, err := s.dial(name, name, "psql"); err == nil {
				t.Cleanup(func() { _ = c.conn.Close(context.Background()) }) // it is cut
			}
		},
		Again: func() { s.login(name, name, "psql") },
	}
	if session {
		var start time.Time
		if err := truth.QueryRow(t.Context(), "SELECT backend_start FROM pg_stat_activity WHERE pid = $1", thief.pid).Scan(&start); err != nil {
			t.Fatal(err)
		}
		out.Try = nil // only the one is contained
		out.Name, out.Ref, out.State = "session", postgresql.BackendRef(realm, int32(thief.pid), start), nil
	}
	return out
}
