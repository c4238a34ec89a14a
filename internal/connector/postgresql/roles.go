package postgresql

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// role is what the connector needs to know of a role.
type role struct {
	oid                           uint32
	name                          string
	version                       int // the server's
	login, superuser, replication bool
}

// readRole reads a role. The answer tells which transaction comes next, so that
// one from before what is known already is noticed.
func (c *Connector) readRole(ctx context.Context, q querier, name string) (role, error) {
	r := role{name: name}
	var next int64
	fresh := c.newest.Ask("")
	err := q.QueryRow(ctx, "SELECT oid, rolcanlogin, rolsuper, rolreplication, current_setting('server_version_num')::int, pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM pg_roles WHERE rolname = $1", name).
		Scan(&r.oid, &r.login, &r.superuser, &r.replication, &r.version, &next)
	if err != nil {
		return r, err
	}
	return r, fresh(next)
}

// protected returns why a role is never touched, or "".
func (c *Connector) protected(r role) string {
	switch {
	case slices.Contains(c.own, r.name):
		return fmt.Sprintf("role %s is one that staunch itself logs in with", r.name)
	case strings.HasPrefix(r.name, "pg_"):
		return fmt.Sprintf("role %s belongs to PostgreSQL", r.name)
	case slices.Contains(c.cfg.Protect, r.name):
		return fmt.Sprintf("role %s is protected by the configuration", r.name)
	case r.superuser && !c.cfg.AllowSuperuser:
		return fmt.Sprintf("role %s is a superuser and allow_superuser is off", r.name)
	case r.replication && !c.cfg.AllowReplication:
		return fmt.Sprintf("role %s has REPLICATION and allow_replication is off", r.name)
	}
	return ""
}

// protectedSession returns why a session's role is never touched, or "". A role
// that was dropped under its session protects nothing any more.
func (c *Connector) protectedSession(ctx context.Context, q querier, b backendBody) (string, error) {
	if b.Role == "" {
		return "", nil
	}
	r, err := c.readRole(ctx, q, b.Role)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading role %s: %w", b.Role, err)
	}
	return c.protected(r), nil
}

// ---- login

// loginBody is the state of the attribute login. The oid tells a role from
// another that was made under its name.
type loginBody struct {
	V        int    `json:"v"`
	Role     string `json:"role"`
	OID      uint32 `json:"oid"`
	CanLogin bool   `json:"can_login"`
}

func (c *Connector) readLogin(t staunch.Target, r role) (staunch.State, error) {
	return c.state(t, loginBody{V: staunch.Version, Role: r.name, OID: r.oid, CanLogin: r.login}, r.login, loginSummary(r.login))
}

func loginSummary(can bool) string {
	if can {
		return "may log in"
	}
	return "may not log in"
}

func prepareLogin(in *staunch.Intent, st staunch.State) error {
	b, err := decode[loginBody](st)
	if err != nil {
		return err
	}
	in.Reversibility = staunch.Reversible
	in.Revives = b.CanLogin
	in.Call = "ALTER ROLE " + ident(b.Role) + " NOLOGIN"
	in.Undo = "ALTER ROLE " + ident(b.Role) + " LOGIN"
	if !b.CanLogin {
		in.Undo = "nothing: it could not log in before"
	}
	b.CanLogin = false
	return expect(in, b, false, loginSummary(false))
}

func loginStatements(in staunch.Intent, now staunch.State, undo bool) ([]string, string, error) {
	pre, err := decode[loginBody](in.PreImage)
	if err != nil {
		return nil, "", err
	}
	cur, err := decode[loginBody](now)
	if err != nil {
		return nil, "", err
	}
	if cur.OID != pre.OID {
		return nil, "", fmt.Errorf("role %s was dropped and made again since: %w", pre.Role, staunch.ErrConflict)
	}
	word := "NOLOGIN"
	if undo {
		word = "LOGIN"
	}
	return []string{"ALTER ROLE " + ident(pre.Role) + " " + word}, "role altered to " + word, nil
}

// ---- sessions

// backend is one session as it was when it began: nothing in it changes while
// it lives.
type backend struct {
	PID int32 `json:"pid"`
	// Start is when it began, in microseconds.
	Start int64 `json:"start"`
}

func (b backend) String() string {
	return strconv.FormatInt(int64(b.PID), 10) + "/" + strconv.FormatInt(b.Start, 10)
}

func parseBackend(s string) (backend, error) {
	p, st, ok := strings.Cut(s, "/")
	pid, err1 := strconv.ParseInt(p, 10, 32)
	start, err2 := strconv.ParseInt(st, 10, 64)
	b := backend{PID: int32(pid), Start: start}
	if !ok || err1 != nil || err2 != nil || pid <= 0 || start <= 0 || b.String() != s {
		return backend{}, fmt.Errorf("%q is not pid/backend_start in microseconds", s)
	}
	return b, nil
}

// parseSessionID reads the log's session_id: the start in hexadecimal seconds
// since 1970, a dot, the hexadecimal process id.
func parseSessionID(s string) (backend, error) {
	st, p, ok := strings.Cut(s, ".")
	start, err1 := strconv.ParseInt(st, 16, 64)
	pid, err2 := strconv.ParseInt(p, 16, 32)
	if !ok || err1 != nil || err2 != nil || pid <= 0 || start <= 0 || start > math.MaxInt64/1_000_000 {
		return backend{}, fmt.Errorf("%q is not a session_id: hexadecimal start, a dot, hexadecimal pid", s)
	}
	return backend{PID: int32(pid), Start: start * 1_000_000}, nil
}

// BackendRef names a session by its pid and backend_start, as the scheme
// SchemeBackend does.
func BackendRef(realm string, pid int32, start time.Time) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindSession, Realm: realm, Scheme: SchemeBackend, Value: backend{PID: pid, Start: start.UnixMicro()}.String()}
}

type sessionsBody struct {
	V        int       `json:"v"`
	Role     string    `json:"role"`
	OID      uint32    `json:"oid"`
	Backends []backend `json:"backends"`
}

type backendBody struct {
	V        int    `json:"v"`
	Role     string `json:"role"`
	OID      uint32 `json:"oid"`
	Database string `json:"database"`
	Client   string `json:"client"`
	backend
}

// errHidden is pg_stat_activity without the rights to see others' sessions.
var errHidden = errors.New("pg_stat_activity hides when sessions began; grant pg_read_all_stats")

// clients are the backends of sessions, but for the one that asks.
const clients = "a.pid <> pg_backend_pid() AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'walsender')"

const activity = `SELECT a.pid, a.backend_start, coalesce(a.usename, ''), coalesce(a.usesysid, 0), coalesce(a.datname, ''), coalesce(host(a.client_addr), '')
  FROM pg_stat_activity a
 WHERE ` + clients

func backends(ctx context.Context, q querier, where string, arg any) ([]backendBody, error) {
	rows, err := q.Query(ctx, activity+" AND "+where+" ORDER BY a.backend_start, a.pid", arg)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (backendBody, error) {
		b := backendBody{V: staunch.Version}
		var start *time.Time
		if err := row.Scan(&b.PID, &start, &b.Role, &b.OID, &b.Database, &b.Client); err != nil {
			return b, err
		}
		if start == nil {
			return b, errHidden
		}
		b.Start = start.UnixMicro()
		return b, nil
	})
}

func (c *Connector) readSessions(ctx context.Context, q querier, t staunch.Target, r role) (staunch.State, error) {
	list, err := backends(ctx, q, "a.usesysid = $1", r.oid)
	if err != nil {
		return staunch.State{}, err
	}
	return c.sessionsState(t, r, list)
}

func (c *Connector) sessionsState(t staunch.Target, r role, list []backendBody) (staunch.State, error) {
	b := sessionsBody{V: staunch.Version, Role: r.name, OID: r.oid, Backends: []backend{}}
	for _, x := range list {
		b.Backends = append(b.Backends, x.backend)
	}
	return c.state(t, b, len(list) > 0, fmt.Sprintf("%d open sessions", len(list)))
}

func (c *Connector) readBackend(ctx context.Context, q querier, t staunch.Target) (staunch.State, error) {
	want, err := parseBackend(t.Ref.Value)
	if err != nil {
		return staunch.State{}, fmt.Errorf("%w: %w", staunch.ErrInvalid, err)
	}
	list, err := backends(ctx, q, "a.pid = $1", want.PID)
	if err != nil {
		return staunch.State{}, err
	}
	for _, b := range list {
		if b.backend == want {
			return c.backendState(t, b)
		}
	}
	return c.state(t, nil, false, "no such session")
}

func (c *Connector) backendState(t staunch.Target, b backendBody) (staunch.State, error) {
	return c.state(t, b, true, fmt.Sprintf("session of %s in %s", b.Role, b.Database))
}

func prepareSessions(in *staunch.Intent, st staunch.State) error {
	b, err := decode[sessionsBody](st)
	if err != nil {
		return err
	}
	in.Reversibility = staunch.Compensable
	in.Call = "pg_terminate_backend on every session of " + ident(b.Role)
	in.Undo = "nothing: the client connects again"
	b.Backends = []backend{}
	return expect(in, b, false, "0 open sessions")
}

func prepareBackend(in *staunch.Intent, st staunch.State) error {
	in.Reversibility = staunch.Compensable
	in.Call = "pg_terminate_backend on session " + st.Target.Ref.Value
	in.Undo = "nothing: the client connects again"
	in.Expected.Exists, in.Expected.Effective, in.Expected.Body, in.Expected.Summary = false, false, nil, "no such session"
	return nil
}

// rounds is how often one Apply looks again for sessions that began meanwhile.
const rounds = 3

// terminate ends one session, or all that the role has now, and waits until
// they are gone. Which they are is read anew: a sweep is for those that the
// pre-image does not know.
func (c *Connector) terminate(ctx context.Context, in staunch.Intent, attr string, sent *bool) (changed bool, note string, err error) {
	conn, err := c.acquire(ctx, false, "")
	if err != nil {
		return false, "", err
	}
	defer conn.Release()
	list := func() ([]backendBody, error) {
		if attr == AttrBackend {
			want, err := parseBackend(in.Target.Ref.Value)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", staunch.ErrInvalid, err)
			}
			l, err := backends(ctx, conn, "a.pid = $1", want.PID)
			return slices.DeleteFunc(l, func(b backendBody) bool { return b.backend != want }), err
		}
		pre, err := decode[sessionsBody](in.PreImage)
		if err != nil {
			return nil, err
		}
		return backends(ctx, conn, "a.usesysid = $1", pre.OID)
	}
	ended := 0
	now, err := list()
	if err != nil {
		return false, "", fmt.Errorf("listing sessions: %w", err)
	}
	for round := 0; round < rounds && len(now) > 0; round++ {
		why, err := c.protectedSession(ctx, conn, now[0])
		if err != nil {
			return ended > 0, "", err
		}
		if why != "" {
			return ended > 0, "", fmt.Errorf("%w: %s", staunch.ErrForbidden, why)
		}
		var which []string
		for _, b := range now {
			which = append(which, fmt.Sprintf("(%d, %d)", b.PID, b.Start))
		}
		*sent = true
		// The start is compared again, so that a pid that went to another client
		// in between is left alone.
		if _, err := conn.Exec(ctx, "/* staunch step="+in.Key+" */ SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE (a.pid, (extract(epoch FROM a.backend_start) * 1000000)::bigint) IN ("+strings.Join(which, ", ")+")"); err != nil {
			return ended > 0, "", fmt.Errorf("ending %d sessions: %w", len(now), err)
		}
		ended += len(now)
		if now, err = gone(ctx, list, now); err != nil {
			return true, "", fmt.Errorf("waiting for sessions to end: %w", err)
		}
	}
	if ended == 0 && attr == AttrSessions {
		// The list may be from before: whoever is there now is ended all the same.
		pre, err := decode[sessionsBody](in.PreImage)
		if err != nil {
			return false, "", err
		}
		why, err := c.protectedSession(ctx, conn, backendBody{Role: pre.Role})
		if err == nil && why != "" {
			err = fmt.Errorf("%w: %s", staunch.ErrForbidden, why)
		}
		if err != nil {
			return false, "", err
		}
		*sent = true
		tag, err := conn.Exec(ctx, fmt.Sprintf("/* staunch step=%s */ SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE a.usesysid = %d AND %s", in.Key, pre.OID, clients))
		if err != nil {
			return false, "", fmt.Errorf("ending sessions: %w", err)
		}
		ended = int(tag.RowsAffected())
	}
	if ended == 0 {
		return false, "no session to end", nil
	}
	return true, fmt.Sprintf("%d sessions ended", ended), nil
}

// longestWait bounds how long a session may take to notice that it is over; the
// proof read tells whether it did.
const longestWait = time.Second

// gone waits until none of the sessions is there any more, and returns those that
// are there then.
func gone(ctx context.Context, list func() ([]backendBody, error), were []backendBody) ([]backendBody, error) {
	old := map[backend]bool{}
	for _, b := range were {
		old[b.backend] = true
	}
	limit := time.NewTimer(longestWait)
	defer limit.Stop()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		now, err := list()
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(now, func(b backendBody) bool { return old[b.backend] }) {
			return now, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-limit.C:
			t.Stop()
			return now, nil
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// Probe asks, with the proof account, whether the role may log in and which
// sessions it has. For grants that says nothing, so it is inconclusive.
func (c *Connector) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	attr, _, err := c.kindOf(in.Target)
	if err != nil {
		return connector.Probe{}, err
	}
	doing := "probing " + in.Target.String()
	conn, err := c.acquire(ctx, true, "")
	if err != nil {
		return connector.Probe{}, classify(doing, err, false)
	}
	defer conn.Release()
	if attr == AttrBackend {
		st, err := c.readBackend(ctx, conn, in.Target)
		if err != nil {
			return connector.Probe{}, classify(doing, err, false)
		}
		return connector.Probe{Works: st.Exists, Conclusive: true, How: "looked for the session in pg_stat_activity: " + st.Summary}, nil
	}
	r, err := c.readRole(ctx, conn, in.Target.Ref.Value)
	if errors.Is(err, pgx.ErrNoRows) {
		return connector.Probe{Conclusive: true, How: "no such role"}, nil
	}
	if err != nil {
		return connector.Probe{}, classify(doing, err, false)
	}
	list, err := backends(ctx, conn, "a.usesysid = $1", r.oid)
	if err != nil {
		return connector.Probe{}, classify(doing, err, false)
	}
	p := connector.Probe{How: fmt.Sprintf("asked pg_roles and pg_stat_activity: %s, %d open sessions", loginSummary(r.login), len(list)), Conclusive: true}
	switch attr {
	case AttrLogin:
		p.Works = r.login
	case AttrSessions:
		p.Works = len(list) > 0
	default:
		p.Works, p.Conclusive = r.login || len(list) > 0, false
	}
	return p, nil
}
