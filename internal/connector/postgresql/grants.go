package postgresql

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
)

// The classes of things that privileges are on.
const (
	classTable     = "table"
	classColumn    = "column"
	classSequence  = "sequence"
	classRoutine   = "routine"
	classSchema    = "schema"
	classDefault   = "default"
	classRole      = "role"
	classDatabase  = "database"
	classParameter = "parameter"
)

// keywords say how GRANT names a class. Table also covers views, materialized
// views, partitioned and foreign tables; routine covers functions, procedures
// and aggregates.
var keywords = map[string]string{
	classTable: "TABLE", classColumn: "TABLE", classSequence: "SEQUENCE", classRoutine: "ROUTINE", classSchema: "SCHEMA",
	"type": "TYPE", "language": "LANGUAGE", "fdw": "FOREIGN DATA WRAPPER", "server": "FOREIGN SERVER", "largeobject": "LARGE OBJECT",
	classDatabase: "DATABASE", "tablespace": "TABLESPACE", classParameter: "PARAMETER",
}

// defaultKeywords are pg_default_acl's object types.
var defaultKeywords = map[string]string{"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS", "L": "LARGE OBJECTS"}

// grant is one privilege that one grantor gave to one grantee.
type grant struct {
	Class string `json:"class"`
	// Object is the quoted, schema-qualified name as GRANT takes it; for a
	// membership the role's plain name, for default privileges the object type.
	Object string `json:"object"`
	// Sub is the plain name of the column, or the schema of default privileges.
	Sub       string `json:"sub,omitempty"`
	Privilege string `json:"privilege"`
	Grantor   string `json:"grantor"`
	// Grantee is empty for PUBLIC.
	Grantee string `json:"grantee"`
	// Option is WITH GRANT OPTION, or WITH ADMIN OPTION for a membership.
	Option bool `json:"option,omitempty"`
	// Owner owns the object.
	Owner string `json:"owner,omitempty"`
	// Stuck says why REVOKE cannot take it away; empty when it can.
	Stuck string `json:"stuck,omitempty"`
	// Inherit and Set are a membership's further options from PostgreSQL 16 on,
	// nil before.
	Inherit *bool `json:"inherit,omitempty"`
	Set     *bool `json:"set,omitempty"`
}

func (g grant) what() string {
	on := g.Class + " " + g.Object
	if g.Sub != "" {
		on += " (" + g.Sub + ")"
	}
	return g.Privilege + " on " + on + " by " + g.Grantor
}

func compareGrants(a, b grant) int {
	return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Sub, b.Sub),
		cmp.Compare(a.Privilege, b.Privilege), cmp.Compare(a.Grantor, b.Grantor), cmp.Compare(a.Grantee, b.Grantee))
}

// row names the catalogue rows that a change of the grant writes, by a hash
// that is not 0: an object's with its columns', one of default privileges, or a
// membership.
func (g grant) row() int32 {
	class := g.Class
	parts := []string{g.Object}
	switch class {
	case classColumn:
		class = classTable
	case classDefault:
		parts = append(parts, g.Sub, g.Grantor)
	case classRole:
		parts = append(parts, g.Grantee)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(class + "\x00" + strings.Join(parts, "\x00"))) // never fails
	return int32(h.Sum32() | 1)
}

// grantsBody is what a role was granted, sorted. Only what was granted to the
// role by name is here: not what it owns, nor what PUBLIC or its groups have.
type grantsBody struct {
	V        int    `json:"v"`
	Role     string `json:"role"`
	OID      uint32 `json:"oid"`
	Database string `json:"database,omitempty"`
	// Direct has the grants to the role.
	Direct []grant `json:"direct"`
	// Dependent has what hangs on them: grants of the same privilege that the
	// role made, and those made in turn by who holds it only through the role.
	Dependent []grant `json:"dependent"`
}

// namedIn is what narrows the access lists of the connected database to those
// that name the role $1, by the server's own index of them: a look through all
// lists costs tens of milliseconds where there are a thousand tables, and there
// are five on the way to a proven revocation. %s is the catalogue.
const namedIn = `= ANY (ARRAY(SELECT s.objid FROM pg_shdepend s
    WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND s.deptype = 'a' AND s.classid = '%s'::regclass))`

// pinned is the end of the oids of what PostgreSQL keeps no dependencies on:
// the first superuser and the predefined roles.
const pinned = 16384

// localACLs lists the access lists in the connected database that may name a
// role: all of them for one whose dependencies are not kept.
func localACLs(oid uint32) string {
	in := func(column, catalogue string) string {
		if oid < pinned {
			return ""
		}
		return " AND " + column + " " + fmt.Sprintf(namedIn, catalogue)
	}
	return `
  SELECT CASE WHEN c.relkind = 'S' THEN 'sequence' ELSE 'table' END AS class, c.relowner AS owner, c.relnamespace AS nsp, c.relacl AS acl,
         quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS object, '' AS sub
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relacl IS NOT NULL AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')` + in("c.oid", "pg_class") + `
  UNION ALL
  SELECT 'column', c.relowner, c.relnamespace, a.attacl, quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname::text
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE a.attacl IS NOT NULL AND NOT a.attisdropped` + in("a.attrelid", "pg_class") + `
  UNION ALL
  SELECT 'routine', p.proowner, p.pronamespace, p.proacl, (pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity, ''
    FROM pg_proc p WHERE p.proacl IS NOT NULL` + in("p.oid", "pg_proc") + `
  UNION ALL
  SELECT 'schema', n.nspowner, 0, n.nspacl, quote_ident(n.nspname), '' FROM pg_namespace n WHERE n.nspacl IS NOT NULL
  UNION ALL
  SELECT 'type', t.typowner, t.typnamespace, t.typacl, quote_ident(n.nspname) || '.' || quote_ident(t.typname), ''
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typacl IS NOT NULL` + in("t.oid", "pg_type") + `
  UNION ALL
  SELECT 'language', l.lanowner, 0, l.lanacl, quote_ident(l.lanname), '' FROM pg_language l WHERE l.lanacl IS NOT NULL
  UNION ALL
  SELECT 'fdw', f.fdwowner, 0, f.fdwacl, quote_ident(f.fdwname), '' FROM pg_foreign_data_wrapper f WHERE f.fdwacl IS NOT NULL
  UNION ALL
  SELECT 'server', s.srvowner, 0, s.srvacl, quote_ident(s.srvname), '' FROM pg_foreign_server s WHERE s.srvacl IS NOT NULL
  UNION ALL
  SELECT 'largeobject', m.lomowner, 0, m.lomacl, m.oid::text, '' FROM pg_largeobject_metadata m WHERE m.lomacl IS NOT NULL` + in("m.oid", "pg_largeobject") + `
`
}

// sharedACLs lists those of the cluster.
const sharedACLs = `
  SELECT 'database' AS class, d.datdba AS owner, 0::oid AS nsp, d.datacl AS acl, quote_ident(d.datname) AS object, '' AS sub
    FROM pg_database d WHERE d.datacl IS NOT NULL
  UNION ALL
  SELECT 'tablespace', t.spcowner, 0, t.spcacl, quote_ident(t.spcname), '' FROM pg_tablespace t WHERE t.spcacl IS NOT NULL`

// parameterACLs came with PostgreSQL 15; 10 is the first superuser's oid, who
// owns them.
const parameterACLs = `
  UNION ALL
  SELECT 'parameter', 10, 0, p.paracl, p.parname, '' FROM pg_parameter_acl p`

// aclRows explodes the lists that name the role as grantee. Where the role has
// granted on, all entries of the list are wanted, to find what hangs on it. A
// list of the role's own object is not: an owner gives itself what it likes.
//
// A grantor that is not the owner but has the owner's rights acts as the owner,
// so its old grants cannot be addressed; neither can those of one who may not
// look into the schema.
func aclRows(lists string) string {
	return `WITH acls AS (` + lists + `),
touched AS (
  SELECT l.*, EXISTS (SELECT 1 FROM aclexplode(l.acl) e WHERE e.grantor = $1) AS given
    FROM acls l
   WHERE l.owner <> $1 AND EXISTS (SELECT 1 FROM aclexplode(l.acl) e WHERE e.grantee = $1))
SELECT t.class, t.object, t.sub, e.privilege_type, pg_get_userbyid(e.grantor)::text,
       CASE WHEN e.grantee = 0 THEN '' ELSE pg_get_userbyid(e.grantee)::text END, e.is_grantable, pg_get_userbyid(t.owner)::text,
       CASE WHEN e.grantor = t.owner THEN ''
            WHEN pg_has_role(e.grantor, t.owner, 'USAGE') THEN 'its grantor has the owner''s rights by now, and acts as the owner'
            WHEN t.nsp <> 0 AND NOT has_schema_privilege(e.grantor, t.nsp, 'USAGE') THEN 'its grantor may not use the schema'
            ELSE '' END
  FROM touched t, aclexplode(t.acl) e
 WHERE e.grantee = $1 OR t.given
 LIMIT $2`
}

const defaultRows = `SELECT 'default', d.defaclobjtype::text, coalesce(n.nspname, '')::text, e.privilege_type, pg_get_userbyid(d.defaclrole)::text,
       pg_get_userbyid(e.grantee)::text, e.is_grantable, pg_get_userbyid(d.defaclrole)::text, ''
  FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) e
 WHERE e.grantee = $1 AND d.defaclrole <> $1
 LIMIT $2`

func scanGrant(row pgx.CollectableRow) (grant, error) {
	var g grant
	err := row.Scan(&g.Class, &g.Object, &g.Sub, &g.Privilege, &g.Grantor, &g.Grantee, &g.Option, &g.Owner, &g.Stuck)
	return g, err
}

// entries is more rows than a role may have grants, as others' grants are read
// along where the role granted on.
const entries = 4

func (c *Connector) readGrants(ctx context.Context, q querier, t staunch.Target, r role, database string) (staunch.State, error) {
	most := c.cfg.MaxGrants * entries
	var all []grant
	collect := func(what, sql string, f func(pgx.CollectableRow) (grant, error), args ...any) error {
		rows, err := q.Query(ctx, sql, args...)
		if err != nil {
			return fmt.Errorf("reading %s: %w", what, err)
		}
		list, err := pgx.CollectRows(rows, f)
		if err != nil {
			return fmt.Errorf("reading %s: %w", what, err)
		}
		all = append(all, list...)
		return nil
	}
	var err error
	if database != "" {
		if err = collect("access lists", aclRows(localACLs(r.oid)), scanGrant, r.oid, most+1); err == nil {
			err = collect("default privileges", defaultRows, scanGrant, r.oid, most+1)
		}
	} else {
		lists := sharedACLs
		if r.version >= 150000 {
			lists += parameterACLs
		}
		if err = collect("shared access lists", aclRows(lists), scanGrant, r.oid, most+1); err == nil {
			sql, scan := memberRows(r.version)
			err = collect("memberships", sql, scan, r.oid, most+1)
		}
	}
	if err != nil {
		return staunch.State{}, err
	}
	b := grantsBody{V: staunch.Version, Role: r.name, OID: r.oid, Database: database, Direct: []grant{}, Dependent: []grant{}}
	for _, g := range all {
		if g.Grantee == r.name {
			b.Direct = append(b.Direct, g)
		}
	}
	if len(b.Direct) > c.cfg.MaxGrants || len(all) > most {
		return staunch.State{}, fmt.Errorf("%w: role %s has more grants than max_grants (%d)", staunch.ErrInvalid, r.name, c.cfg.MaxGrants)
	}
	slices.SortFunc(b.Direct, compareGrants)
	b.Dependent = dependents(r.name, all)
	return c.state(t, b, len(b.Direct) > 0, grantsSummary(b))
}

func grantsSummary(b grantsBody) string {
	where := "on shared objects"
	if b.Database != "" {
		where = "in " + b.Database
	}
	return fmt.Sprintf("%d direct grants %s, %d that hang on them", len(b.Direct), where, len(b.Dependent))
}

// memberRows reads memberships. Before PostgreSQL 16 there is one row for a
// role and member, whose grantor may be gone, and nothing hangs on it.
func memberRows(version int) (string, func(pgx.CollectableRow) (grant, error)) {
	if version < 160000 {
		return `SELECT r.rolname::text, coalesce(g.rolname, '')::text, me.rolname::text, m.admin_option
  FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid LEFT JOIN pg_roles g ON g.oid = m.grantor, pg_roles me
 WHERE m.member = $1 AND me.oid = $1 LIMIT $2`, func(row pgx.CollectableRow) (grant, error) {
				g := grant{Class: classRole, Privilege: "MEMBER"}
				err := row.Scan(&g.Object, &g.Grantor, &g.Grantee, &g.Option)
				if g.Grantor == "" {
					g.Stuck = "its grantor is gone, so it could not be given back as it was"
				}
				return g, err
			}
	}
	return `SELECT r.rolname::text, g.rolname::text, e.rolname::text, m.admin_option, m.inherit_option, m.set_option
  FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles g ON g.oid = m.grantor JOIN pg_roles e ON e.oid = m.member
 WHERE m.member = $1 OR (m.roleid IN (SELECT roleid FROM pg_auth_members WHERE member = $1) AND EXISTS (SELECT 1 FROM pg_auth_members x WHERE x.roleid = m.roleid AND x.grantor = $1))
 LIMIT $2`, func(row pgx.CollectableRow) (grant, error) {
			g := grant{Class: classRole, Privilege: "MEMBER", Inherit: new(bool), Set: new(bool)}
			err := row.Scan(&g.Object, &g.Grantor, &g.Grantee, &g.Option, g.Inherit, g.Set)
			return g, err
		}
}

// place is what entries must share to hang on one another.
type place struct{ class, object, sub, privilege string }

func (g grant) place() place { return place{g.Class, g.Object, g.Sub, g.Privilege} }

// dependents returns the grants that would be without basis if the role lost
// everything that it was granted: those it made, and, where their grantee has
// no grant option left from another, those in turn.
func dependents(name string, all []grant) []grant {
	out := []grant{}
	at := map[place][]grant{}
	for _, g := range all {
		at[g.place()] = append(at[g.place()], g)
	}
	for _, list := range at {
		lost := make([]bool, len(list))
		for i, g := range list {
			lost[i] = g.Grantee == name
		}
		for again := true; again; {
			again = false
			for i, g := range list {
				if lost[i] || g.Grantor == g.Owner && g.Class != classRole {
					continue
				}
				// Who still holds the option keeps what it granted.
				holds, held := false, false
				for j, h := range list {
					if h.Grantee == g.Grantor && h.Option {
						held = true
						holds = holds || !lost[j]
					}
				}
				if held && !holds {
					lost[i], again = true, true
					out = append(out, g)
				}
			}
		}
	}
	slices.SortFunc(out, compareGrants)
	return out
}

// split returns which direct and dependent grants a restriction takes away and
// which it leaves, as the configuration says.
func (c *Connector) split(b grantsBody) (take, keep grantsBody) {
	return splitGrants(b, c.cfg.Cascade)
}

func splitGrants(b grantsBody, cascade bool) (take, keep grantsBody) {
	take, keep = b, b
	take.Direct, take.Dependent, keep.Direct, keep.Dependent = []grant{}, []grant{}, []grant{}, []grant{}
	// blocked has the places at which something is in the way: REVOKE fails on a
	// grant option that others' grants hang on, and one of a whole table also
	// revokes the columns'.
	blocked := map[place]bool{}
	for _, g := range b.Dependent {
		if !cascade || g.Stuck != "" || g.Class == classRole {
			blocked[g.place()] = true
			if g.Class == classColumn {
				blocked[place{classTable, g.Object, "", g.Privilege}] = true
			}
		}
	}
	for _, g := range b.Direct {
		if g.Stuck != "" || blocked[g.place()] {
			keep.Direct = append(keep.Direct, g)
		} else {
			take.Direct = append(take.Direct, g)
		}
	}
	for _, g := range b.Dependent {
		if blocked[g.place()] {
			keep.Dependent = append(keep.Dependent, g)
		} else {
			take.Dependent = append(take.Dependent, g)
		}
	}
	// A stuck direct grant with option goes on carrying what hangs on it.
	carried := map[place]bool{}
	for _, g := range keep.Direct {
		if g.Option {
			carried[g.place()] = true
		}
	}
	taken := take.Dependent
	take.Dependent = []grant{}
	for _, g := range taken {
		if carried[g.place()] {
			keep.Dependent = append(keep.Dependent, g)
		} else {
			take.Dependent = append(take.Dependent, g)
		}
	}
	slices.SortFunc(keep.Dependent, compareGrants)
	return take, keep
}

func (c *Connector) prepareGrants(in *staunch.Intent, st staunch.State) error {
	b, err := decode[grantsBody](st)
	if err != nil {
		return err
	}
	take, keep := c.split(b)
	in.Reversibility = staunch.Reversible
	by := map[string]int{}
	for _, g := range slices.Concat(take.Direct, take.Dependent) {
		by[g.Grantor]++
	}
	var parts []string
	for g, n := range by {
		parts = append(parts, fmt.Sprintf("%d by %s", n, ident(g)))
	}
	slices.Sort(parts)
	where := "shared objects"
	if b.Database != "" {
		where = "database " + ident(b.Database)
	}
	in.Call = fmt.Sprintf("REVOKE %d grants of %s on %s (%s)", len(take.Direct)+len(take.Dependent), ident(b.Role), where, strings.Join(parts, ", "))
	in.Undo = "GRANT exactly these again, each by its grantor"
	return expect(in, keep, len(keep.Direct) > 0, grantsSummary(keep))
}

// grantStatements returns what takes a role's grants away or gives them back.
func grantStatements(in staunch.Intent, now staunch.State, undo bool) ([]string, string, error) {
	pre, err := decode[grantsBody](in.PreImage)
	if err != nil {
		return nil, "", err
	}
	want, err := decode[grantsBody](in.Expected)
	if err != nil {
		return nil, "", err
	}
	cur, err := decode[grantsBody](now)
	if err != nil {
		return nil, "", err
	}
	if cur.OID != pre.OID {
		return nil, "", fmt.Errorf("role %s was dropped and made again since: %w", pre.Role, staunch.ErrConflict)
	}
	keep := map[grantKey]bool{}
	for _, g := range slices.Concat(want.Direct, want.Dependent) {
		keep[g.key()] = true
	}
	has := map[grantKey]bool{}
	for _, g := range slices.Concat(cur.Direct, cur.Dependent) {
		has[g.key()] = true
	}
	// What came after the pre-image was read is left: an undo would not give it
	// back. The read that follows tells of it.
	list := []grant{}
	for _, g := range slices.Concat(pre.Direct, pre.Dependent) {
		if !keep[g.key()] && has[g.key()] != undo {
			list = append(list, g)
		}
	}
	ordered := order(pre.Role, list)
	if undo {
		slices.Reverse(ordered)
		return groupGrants(ordered, grantStatement), fmt.Sprintf("%d grants given back", len(list)), nil
	}
	return groupGrants(ordered, revokeStatement), fmt.Sprintf("%d grants revoked", len(list)), nil
}

// remaining names the grants of the pre-image that are there in a state although
// they were to be taken away.
func remaining(in staunch.Intent, st staunch.State) ([]string, error) {
	pre, err := decode[grantsBody](in.PreImage)
	if err != nil {
		return nil, err
	}
	want, err := decode[grantsBody](in.Expected)
	if err != nil {
		return nil, err
	}
	b, err := decode[grantsBody](st)
	if err != nil {
		return nil, err
	}
	taken := map[grantKey]bool{}
	for _, g := range slices.Concat(pre.Direct, pre.Dependent) {
		taken[g.key()] = true
	}
	for _, g := range slices.Concat(want.Direct, want.Dependent) {
		delete(taken, g.key())
	}
	var out []string
	for _, g := range slices.Concat(b.Direct, b.Dependent) {
		if taken[g.key()] {
			out = append(out, g.what())
		}
	}
	return out, nil
}

// grantKey tells grants apart. Whether one is stuck is not part of it: that
// follows from other things, such as who may use the schema.
type grantKey struct {
	place
	grantor, grantee, owner string
	option                  bool
	inherit, set            string
}

func (g grant) key() grantKey {
	flag := func(b *bool) string {
		if b == nil {
			return ""
		}
		return fmt.Sprint(*b)
	}
	return grantKey{g.place(), g.Grantor, g.Grantee, g.Owner, g.Option, flag(g.Inherit), flag(g.Set)}
}

// matchGrants compares two bodies but for what is stuck.
func matchGrants(a, b grantsBody) bool {
	same := func(g, h grant) bool { return g.key() == h.key() }
	return a.V == b.V && a.Role == b.Role && a.OID == b.OID && a.Database == b.Database &&
		slices.EqualFunc(a.Direct, b.Direct, same) && slices.EqualFunc(a.Dependent, b.Dependent, same)
}

// order sorts grants so that each is revoked before what it hangs on, and
// schemas last, as who grants needs to reach the object.
func order(role string, list []grant) []grant {
	at := map[place][]grant{}
	for _, g := range list {
		at[g.place()] = append(at[g.place()], g)
	}
	type ranked struct {
		grant
		depth int
	}
	var out []ranked
	for _, l := range at {
		depth := map[string]int{role: 0}
		// Grants have no cycles; as many passes as grants reach every depth.
		for range l {
			for _, g := range l {
				if d, ok := depth[g.Grantor]; ok && g.Grantee != role {
					depth[g.Grantee] = max(depth[g.Grantee], d+1)
				}
			}
		}
		for _, g := range l {
			out = append(out, ranked{g, depth[g.Grantee]})
		}
	}
	last := func(g ranked) int {
		switch g.Class {
		case classSchema:
			return 1
		default:
			return 0
		}
	}
	slices.SortFunc(out, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(b.depth, a.depth), compareGrants(a.grant, b.grant))
	})
	res := make([]grant, len(out))
	for i, g := range out {
		res[i] = g.grant
	}
	return res
}

// groupGrants joins neighbours that differ in the privilege alone into one
// statement, and sets the role for each grantor.
func groupGrants(list []grant, build func(grant, []string) string) []string {
	var out []string
	acting := ""
	for i := 0; i < len(list); {
		g := list[i]
		privs := []string{}
		j := i
		for ; j < len(list); j++ {
			h := list[j]
			if h.Class != g.Class || h.Object != g.Object || h.Sub != g.Sub || h.Grantor != g.Grantor || h.Grantee != g.Grantee || h.Option != g.Option {
				break
			}
			privs = append(privs, h.Privilege)
		}
		i = j
		// The owner's grants are made and revoked by us in its stead, default
		// privileges and memberships name who made them.
		as := g.Grantor
		if g.Grantor == g.Owner || g.Class == classDefault || g.Class == classRole {
			as = ""
		}
		if as != acting {
			if as == "" {
				out = append(out, "RESET ROLE")
			} else {
				out = append(out, "SET LOCAL ROLE "+ident(as))
			}
			acting = as
		}
		out = append(out, build(g, privs))
	}
	return out
}

func grantee(g grant) string {
	if g.Grantee == "" {
		return "PUBLIC"
	}
	return ident(g.Grantee)
}

// on returns "SELECT, UPDATE ON TABLE t".
func on(g grant, privs []string) string {
	list := slices.Clone(privs)
	if g.Class == classColumn {
		for i := range list {
			list[i] += " (" + ident(g.Sub) + ")"
		}
	}
	object := g.Object
	if g.Class == classParameter {
		object = pgx.Identifier(strings.Split(g.Object, ".")).Sanitize()
	}
	return strings.Join(list, ", ") + " ON " + keywords[g.Class] + " " + object
}

func defaults(g grant) string {
	s := "ALTER DEFAULT PRIVILEGES FOR ROLE " + ident(g.Grantor)
	if g.Sub != "" {
		s += " IN SCHEMA " + ident(g.Sub)
	}
	return s
}

func revokeStatement(g grant, privs []string) string {
	switch g.Class {
	case classDefault:
		return defaults(g) + " REVOKE " + strings.Join(privs, ", ") + " ON " + defaultKeywords[g.Object] + " FROM " + grantee(g)
	case classRole:
		s := "REVOKE " + ident(g.Object) + " FROM " + grantee(g)
		if g.Inherit != nil {
			s += " GRANTED BY " + ident(g.Grantor)
		}
		return s
	default:
		return "REVOKE " + on(g, privs) + " FROM " + grantee(g)
	}
}

func grantStatement(g grant, privs []string) string {
	opt := ""
	if g.Option {
		opt = " WITH GRANT OPTION"
	}
	switch g.Class {
	case classDefault:
		return defaults(g) + " GRANT " + strings.Join(privs, ", ") + " ON " + defaultKeywords[g.Object] + " TO " + grantee(g) + opt
	case classRole:
		switch {
		case g.Inherit != nil && g.Set != nil:
			opt = fmt.Sprintf(" WITH ADMIN %t, INHERIT %t, SET %t", g.Option, *g.Inherit, *g.Set)
		case g.Option:
			opt = " WITH ADMIN OPTION"
		}
		return "GRANT " + ident(g.Object) + " TO " + grantee(g) + opt + " GRANTED BY " + ident(g.Grantor)
	default:
		return "GRANT " + on(g, privs) + " TO " + grantee(g) + opt
	}
}
