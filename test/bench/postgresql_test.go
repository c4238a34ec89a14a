package bench_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

const (
	pgRealm    = "postgresql/bench"
	pgPassword = "pw-of-a-bench"
	pgDatabase = "app"
)

// pgSessionEvery is how often an open session asks. How often there are new
// logins is a flag, since one costs both ends SCRAM and the server a process:
// three milliseconds of a processor here, forty on some virtual machines.
const pgSessionEvery = 25 * time.Millisecond

type pgEstate struct {
	server *pgtest.Server
	node   *node
}

func (e *pgEstate) name(i int) string { return fmt.Sprintf("svc_%04d", i) }

func (e *pgEstate) subject(i int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: pgRealm, Scheme: "role", Value: e.name(i)}
}

func (e *pgEstate) engine() *node { return e.node }

func (e *pgEstate) accuse(ctx context.Context, n *node, i int) error {
	return n.accuse(ctx, "pg-"+e.name(i), e.name(i), "")
}

// startPG starts a durable server with roles that may read one table each, and
// an engine that knows them.
func startPG(t *testing.T, count int) estate {
	e := &pgEstate{server: pgtest.Start(t, pgtest.Options{Durable: true, MaxConnections: 60 + 6**perWave})}
	e.server.Exec(t, "postgres", "CREATE DATABASE "+pgDatabase,
		"CREATE ROLE staunch SUPERUSER LOGIN PASSWORD '"+pgPassword+"'",
		"CREATE ROLE staunch_proof LOGIN PASSWORD '"+pgPassword+"'", "GRANT pg_read_all_stats TO staunch_proof")
	var ids strings.Builder
	ids.WriteString("v: 1\nidentities:\n")
	var sql []string
	for i := range count {
		n := e.name(i)
		fmt.Fprintf(&ids, "- {name: %s, kind: service, owner: team%d, purpose: export %d, environment: production, tier: 2, tolerance: normal, accounts: ['account:%s:role:%s']}\n", n, i%40, i%40, pgRealm, n)
		sql = append(sql, fmt.Sprintf("CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s'; CREATE TABLE t_%[1]s AS SELECT g AS a FROM generate_series(1, 10) g; GRANT SELECT ON t_%[1]s TO %[1]s", n, pgPassword))
	}
	e.server.Exec(t, pgDatabase, sql...)
	e.node = startNode(t, setting{
		realm: pgRealm, scheme: "role", accuse: "account",
		more: "identities: identities.yaml\nrealms:\n- name: " + pgRealm + "\n  platform: postgresql\n  rate_per_second: 100000\n  connector:\n    dsn: " +
			e.server.UserDSN("staunch", pgPassword, "postgres") + "\n    proof_dsn: " + e.server.UserDSN("staunch_proof", pgPassword, "postgres") + "\n",
		files: map[string]string{"identities.yaml": ids.String()},
	})
	return e
}

// pgAnswer says what an error of PostgreSQL means to a thief.
func pgAnswer(err error) (answer, error) {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return success, nil
	case errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "42501" || pg.Code == "57P01"):
		return denied, nil // no login, no privilege, session terminated
	default:
		return trouble, err
	}
}

func (e *pgEstate) thieves(i int) []*thief {
	name := e.name(i)
	dsn := e.server.UserDSN(name, pgPassword, pgDatabase)
	query := "SELECT count(*) FROM t_" + name
	ask := func(ctx context.Context, c *pgconn.PgConn) (answer, error) {
		_, err := c.Exec(ctx, query).ReadAll()
		return pgAnswer(err)
	}
	shut := func(c *pgconn.PgConn) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx) // it may be closed from the other end
	}
	var open *pgconn.PgConn
	var next time.Time
	session := &thief{name: "open session", every: pgSessionEvery}
	session.try = func(ctx context.Context) (answer, error) {
		if open == nil {
			if wait := time.Until(next); wait > 0 {
				// A session that was ended comes back as often as others log in.
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return trouble, ctx.Err()
				}
			}
			next = time.Now().Add(*logins)
			c, err := pgconn.Connect(ctx, dsn)
			if err != nil {
				return pgAnswer(err)
			}
			open = c
		}
		a, err := ask(ctx, open)
		if open.IsClosed() {
			if a == trouble {
				a = denied // the server closed the connection before it could say why
			}
			open = nil
		}
		return a, err
	}
	session.stop = func() {
		if open != nil {
			shut(open)
		}
	}
	logins := &thief{name: "new logins", every: *logins, stop: func() {}}
	logins.try = func(ctx context.Context) (answer, error) {
		c, err := pgconn.Connect(ctx, dsn)
		if err != nil {
			return pgAnswer(err)
		}
		defer shut(c)
		a, err := ask(ctx, c)
		if a == trouble && c.IsClosed() {
			a = denied
		}
		return a, err
	}
	return []*thief{session, logins}
}

func TestContainPostgreSQL(t *testing.T) {
	pgtest.Require(t)
	containment(t, "postgresql", 1000, fmt.Sprintf("session=%s logins=%s", pgSessionEvery, *logins), startPG)
}
