package postgresql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// expansion gathers what Expand finds.
type expansion struct {
	req   connector.ExpandRequest
	out   connector.Expansion
	seen  map[string]bool
	whole map[uint32]bool // roles all of whose sessions are ended
	tiers map[staunch.Verb]staunch.Tier
}

func (x *expansion) wants(v staunch.Verb) bool {
	return x.tiers[v] <= x.req.Tier && (len(x.req.Verbs) == 0 || slices.Contains(x.req.Verbs, v))
}

// add adds an action on what was just read.
func (x *expansion) add(st staunch.State, v staunch.Verb) {
	if key := st.Target.Key(); x.wants(v) && !x.seen[key] {
		x.seen[key] = true
		x.out.Actions = append(x.out.Actions, connector.Action{Target: st.Target, Verb: v, State: &st})
	}
}

func (x *expansion) gap(r, widen staunch.Ref, format string, args ...any) {
	x.out.Gaps = append(x.out.Gaps, staunch.Gap{Ref: r, Reason: fmt.Sprintf(format, args...), Widen: widen})
}

// Expand returns a role's login, grants by database, grants on shared objects
// and sessions, in this order, or one session. A session that the server's log
// named is looked up among the live backends.
func (c *Connector) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	doing := "expanding " + req.Subject.String()
	x := &expansion{req: req, seen: map[string]bool{}, whole: map[uint32]bool{}, tiers: map[staunch.Verb]staunch.Tier{}}
	for _, v := range c.Describe().Verbs {
		x.tiers[v.Verb] = v.Tier
	}
	var accounts, sessions []staunch.Ref
	done := map[staunch.Ref]bool{}
	for _, r := range slices.Concat([]staunch.Ref{req.Subject}, req.Names, req.Derived) {
		if done[r] || r.Realm != c.realm {
			continue
		}
		done[r] = true
		switch {
		case r.Kind == staunch.KindAccount && r.Scheme == SchemeRole:
			accounts = append(accounts, r)
		case r.Kind == staunch.KindSession && (r.Scheme == SchemeBackend || r.Scheme == SchemeSessionID):
			sessions = append(sessions, r)
		case r.Kind == staunch.KindCredential && r.Scheme == SchemePassword:
			x.gap(r, staunch.Ref{Kind: staunch.KindAccount, Realm: c.realm, Scheme: SchemeRole, Value: r.Value},
				"a PostgreSQL password has no identity of its own: the sessions that it opened cannot be told from others of the role")
		default:
			x.gap(r, staunch.Ref{}, "the postgresql connector does not act on %s %s", r.Kind, r.Scheme)
		}
	}
	if len(accounts)+len(sessions) == 0 {
		if len(x.out.Gaps) == 0 {
			x.gap(req.Subject, staunch.Ref{}, "nothing of it is known on realm %s", c.realm)
		}
		if err := ctx.Err(); err != nil {
			return connector.Expansion{}, classify(doing, err, false)
		}
		return x.out, nil
	}
	conn, err := c.acquire(ctx, false, "")
	if err != nil {
		return connector.Expansion{}, classify(doing, err, false)
	}
	defer conn.Release()
	for _, r := range accounts {
		if err := c.expandRole(ctx, conn, x, r); err != nil {
			return connector.Expansion{}, classify(doing, err, false)
		}
	}
	for _, r := range sessions {
		if err := c.expandBackend(ctx, conn, x, r); err != nil {
			return connector.Expansion{}, classify(doing, err, false)
		}
	}
	return x.out, nil
}

func (c *Connector) expandBackend(ctx context.Context, q querier, x *expansion, ref staunch.Ref) error {
	parse, same := parseBackend, func(a, b backend) bool { return a == b }
	if ref.Scheme == SchemeSessionID {
		// The log tells the start in whole seconds only.
		parse, same = parseSessionID, func(a, b backend) bool { return a.PID == b.PID && a.Start/1e6 == b.Start/1e6 }
	}
	want, err := parse(ref.Value)
	if err != nil {
		x.gap(ref, staunch.Ref{}, "%v", err)
		return nil
	}
	list, err := backends(ctx, q, "a.pid = $1", want.PID)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(b backendBody) bool { return !same(b.backend, want) })
	switch len(list) {
	case 0:
		x.gap(ref, staunch.Ref{}, "the session is over")
		return nil
	case 1:
	default:
		x.gap(ref, staunch.Ref{}, "%d live sessions have this name", len(list))
		return nil
	}
	b := list[0]
	if ref.Scheme == SchemeSessionID {
		named := ref
		ref.Scheme, ref.Value = SchemeBackend, b.String()
		x.out.Facts = append(x.out.Facts, staunch.Fact{
			V: staunch.Version, Type: staunch.FactSameAs, Time: staunch.Time(b.Start), Subject: ref, Of: named,
		})
	}
	why, err := c.protectedSession(ctx, q, b)
	if err != nil {
		return err
	}
	if why != "" {
		x.gap(ref, staunch.Ref{}, "%s", why)
		return nil
	}
	if x.whole[b.OID] {
		return nil
	}
	st, err := c.backendState(staunch.Target{Ref: ref, Attribute: AttrBackend}, b)
	if err != nil {
		return err
	}
	x.add(st, staunch.VerbIsolate)
	return nil
}

func (c *Connector) expandRole(ctx context.Context, q querier, x *expansion, ref staunch.Ref) error {
	r, err := c.readRole(ctx, q, ref.Value)
	if errors.Is(err, pgx.ErrNoRows) {
		x.gap(ref, staunch.Ref{}, "no such role")
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the role: %w", err)
	}
	if why := c.protected(r); why != "" {
		x.gap(ref, staunch.Ref{}, "%s", why)
		return nil
	}
	st, err := c.readLogin(staunch.Target{Ref: ref, Attribute: AttrLogin}, r)
	if err != nil {
		return err
	}
	x.add(st, staunch.VerbSuspend)
	if x.wants(staunch.VerbRestrict) {
		if err := c.expandGrants(ctx, q, x, ref, r); err != nil {
			return err
		}
	}
	list, err := backends(ctx, q, "a.usesysid = $1", r.oid)
	if err != nil {
		return err
	}
	if st, err = c.sessionsState(staunch.Target{Ref: ref, Attribute: AttrSessions}, r, list); err != nil {
		return err
	}
	x.add(st, staunch.VerbIsolate)
	if x.wants(staunch.VerbIsolate) {
		x.whole[r.oid] = true
	}
	for _, b := range list {
		f := staunch.Fact{
			V: staunch.Version, Type: staunch.FactSessionStarted, Time: staunch.Time(b.Start), Of: ref,
			Subject: staunch.Ref{Kind: staunch.KindSession, Realm: c.realm, Scheme: SchemeBackend, Value: b.String()},
			Attrs:   map[string]string{"database": b.Database},
		}
		if b.Client != "" {
			f.Attrs["client"] = b.Client
		}
		x.out.Facts = append(x.out.Facts, f)
	}
	return nil
}

// expandGrants adds the databases in which the role has grants: the shared
// dependencies name them without a look into each.
func (c *Connector) expandGrants(ctx context.Context, q querier, x *expansion, ref staunch.Ref, r role) error {
	rows, err := q.Query(ctx, `SELECT d.datname::text, d.datallowconn,
       count(*) FILTER (WHERE s.deptype = 'a'), count(*) FILTER (WHERE s.deptype = 'o')
  FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
 WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1
 GROUP BY 1, 2 ORDER BY 1`, r.oid)
	if err != nil {
		return fmt.Errorf("asking where the role has grants: %w", err)
	}
	type where struct {
		Database string
		Connects bool
		Grants   int
		Owned    int
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[where])
	if err != nil {
		return fmt.Errorf("asking where the role has grants: %w", err)
	}
	for _, w := range list {
		if w.Owned > 0 {
			x.gap(ref, staunch.Ref{}, "role %s owns %d objects in %s, and an owner gives itself what is revoked; suspending the login and ending the sessions covers it", r.name, w.Owned, w.Database)
		}
		switch {
		case w.Grants == 0:
		case !c.covers(w.Database):
			x.gap(ref, staunch.Ref{}, "database %s, where role %s has grants, is excluded by the configuration", w.Database, r.name)
		case !w.Connects:
			// Nobody can use what was granted there.
		default:
			st, err := c.Read(ctx, staunch.Target{Ref: ref, Attribute: AttrGrantsIn + w.Database}, false)
			closed := false
			if staunch.ClassOf(err) == staunch.ClassDenied {
				var qerr error
				if closed, qerr = shut(ctx, q, w.Database, err); qerr != nil {
					return fmt.Errorf("asking whether database %s lets staunch in: %w", w.Database, qerr)
				}
			}
			if closed {
				// One closed database must not keep the rest from being acted upon.
				x.gap(ref, staunch.Ref{}, "database %s, where role %s has grants, does not let staunch in: %v", w.Database, r.name, err)
				continue
			}
			if err != nil {
				return err
			}
			if err := c.expandGrantsOf(x, st); err != nil {
				return err
			}
		}
	}
	// On the connection at hand: who holds one of a pool's connections must not
	// wait for another.
	st, err := c.readGrants(ctx, q, staunch.Target{Ref: ref, Attribute: AttrGrants}, r, "")
	if err != nil {
		return err
	}
	if err := c.expandGrantsOf(x, st); err != nil {
		return err
	}
	var owned int
	var members []string
	err = q.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = $1 AND deptype = 'o' AND dbid = 0),
       (SELECT coalesce(array_agg(u.rolname::text ORDER BY u.rolname), '{}') FROM (SELECT DISTINCT u.rolname FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member WHERE m.roleid = $1) u)`, r.oid).
		Scan(&owned, &members)
	if err != nil {
		return fmt.Errorf("asking what the role owns and who is in it: %w", err)
	}
	if owned > 0 {
		x.gap(ref, staunch.Ref{}, "role %s owns %d databases or tablespaces, and an owner gives itself what is revoked; suspending the login and ending the sessions covers it", r.name, owned)
	}
	if len(members) > 0 {
		x.gap(ref, staunch.Ref{}, "members of role %s (%s) can SET ROLE to it, in sessions that are theirs", r.name, first(members))
	}
	x.gap(ref, staunch.Ref{}, "what PUBLIC may do remains for role %s", r.name)
	return nil
}

// shut reports whether a refusal is because the database is closed to us, by what
// we were granted or by the server's pg_hba.conf: another may pass.
func shut(ctx context.Context, q querier, database string, refusal error) (bool, error) {
	var pg *pgconn.PgError
	if errors.As(refusal, &pg) && pg.Code == "28000" {
		return true, nil
	}
	var may bool
	err := q.QueryRow(ctx, "SELECT has_database_privilege(current_user, $1, 'CONNECT')", database).Scan(&may)
	return !may, err
}

func (c *Connector) expandGrantsOf(x *expansion, st staunch.State) error {
	ref := st.Target.Ref
	if !st.Exists {
		return nil
	}
	b, err := decode[grantsBody](st)
	if err != nil {
		return err
	}
	take, keep := c.split(b)
	if len(take.Direct)+len(take.Dependent) > 0 {
		x.add(st, staunch.VerbRestrict)
	}
	var stuck, hang []string
	for _, g := range keep.Direct {
		if g.Stuck != "" {
			stuck = append(stuck, g.what()+": "+g.Stuck)
		} else {
			hang = append(hang, g.what())
		}
	}
	if len(stuck) > 0 {
		x.gap(ref, staunch.Ref{}, "REVOKE cannot take away %d grants of role %s (%s)", len(stuck), b.Role, first(stuck))
	}
	if len(hang) > 0 {
		x.gap(ref, staunch.Ref{}, "others' grants hang on %d grants of role %s, which stay (%s); cascade: true takes both away and gives both back", len(hang), b.Role, first(hang))
	}
	if len(keep.Dependent) > 0 {
		names := map[string]bool{}
		for _, g := range keep.Dependent {
			names[g.Grantee] = true
		}
		var list []string
		for n := range names {
			if n == "" {
				n = "PUBLIC"
			}
			list = append(list, n)
		}
		slices.Sort(list)
		x.gap(ref, staunch.Ref{}, "role %s granted on to others (%s), who keep it", b.Role, first(list))
	}
	return nil
}

// first joins the first few of a list.
func first(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, "; ")
	}
	return strings.Join(list[:most], "; ") + fmt.Sprintf("; and %d more", len(list)-most)
}
