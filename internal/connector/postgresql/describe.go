package postgresql

import (
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

func describe(realm string, cfg Config) connector.Description {
	account := func() []staunch.Kind { return []staunch.Kind{staunch.KindAccount} }
	delays := make([]time.Duration, sweeps)
	for i := range delays {
		delays[i] = cfg.SweepDelay.Std()
	}
	restrict := func(attr, what string) connector.VerbSpec {
		return connector.VerbSpec{
			Verb: staunch.VerbRestrict, Tier: staunch.TierRestrict, Attribute: attr,
			Kinds: account(), Schemes: []string{SchemeRole},
			Reversibility: staunch.Reversible, Narrowest: staunch.KindAccount,
			Survives: []string{
				"statements that already run, until their end",
				"what PUBLIC may do",
				"what the role owns",
				"grants that others' grants hang on, unless cascade is set",
				"a SET ROLE to a group that was made before the membership ended",
			},
			Verified: "the access lists read again over the proof connection: " + what,
			Permissions: []string{
				"superuser; or membership in every owner and grantor, and for memberships of roles up to PostgreSQL 15 CREATEROLE",
			},
			D3FEND: []string{"D3-UAP"},
		}
	}
	return connector.Description{
		Platform: Platform,
		Realm:    realm,
		Verbs: []connector.VerbSpec{
			{
				Verb: staunch.VerbSuspend, Tier: staunch.TierIsolate, Attribute: AttrLogin,
				Kinds: account(), Schemes: []string{SchemeRole},
				Reversibility: staunch.Reversible, Narrowest: staunch.KindAccount, Revives: true,
				Survives: []string{
					"open sessions",
					"logins that passed the check before the commit, for a moment",
					"sessions of other roles that SET ROLE to it",
				},
				Verified:    "pg_roles.rolcanlogin over the proof connection",
				Permissions: []string{"CREATEROLE (from PostgreSQL 16 on with ADMIN on the role), or superuser"},
				D3FEND:      []string{"D3-AL"},
			},
			restrict(AttrGrantsIn, "tables, columns, sequences, routines, schemas, types, languages, foreign servers and wrappers, large objects and default privileges of one database"),
			restrict(AttrGrants, "memberships, databases, tablespaces and parameters"),
			{
				Verb: staunch.VerbIsolate, Tier: staunch.TierIsolate, Attribute: AttrSessions,
				Kinds: account(), Schemes: []string{SchemeRole},
				Reversibility: staunch.Compensable, Narrowest: staunch.KindAccount,
				Survives: []string{
					"new logins, unless the login is suspended first",
					"prepared transactions and jobs that run under the role",
					"sessions of other roles that SET ROLE to it",
					"a login that races with the first pass, until the sweeps",
				},
				Verified:    "pg_stat_activity over the proof connection",
				Permissions: []string{"pg_signal_backend, and for superusers' sessions superuser", "pg_read_all_stats"},
				D3FEND:      []string{"D3-ST"},
				Sweeps:      delays,
			},
			{
				Verb: staunch.VerbIsolate, Tier: staunch.TierIsolate, Attribute: AttrBackend,
				Kinds: []staunch.Kind{staunch.KindSession}, Schemes: []string{SchemeBackend},
				Reversibility: staunch.Compensable, Narrowest: staunch.KindSession,
				Survives:    []string{"the role's other sessions", "new logins with the same password"},
				Verified:    "pg_stat_activity over the proof connection",
				Permissions: []string{"pg_signal_backend, and for superusers' sessions superuser", "pg_read_all_stats"},
				D3FEND:      []string{"D3-ST"},
			},
		},
		Gaps: []string{
			"a password cannot be told from another of the same role: credentials widen to the account",
			"what PUBLIC was granted is everyone's and is not revoked",
			"an owner gives itself what was revoked: ownership is reported, not changed",
			"behind a pooler with one role, all of the pooler's clients are contained together",
			"a session of another role that SET ROLE to the subject is not visible",
		},
	}
}
