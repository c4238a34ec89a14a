package postgresql

import (
	"context"
	"fmt"
	"time"

	"github.com/staunch-project/staunch/internal/connector"
)

// clockSkew is how far the server's clock may be from ours unremarked: sessions
// are dated by the server.
const clockSkew = 5 * time.Second

// Check says what would keep the connector from acting.
func (c *Connector) Check(ctx context.Context) []connector.Finding {
	var out []connector.Finding
	bad := func(severity, hint, format string, args ...any) {
		out = append(out, connector.Finding{Severity: severity, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	for _, proof := range []bool{false, true} {
		name := "dsn"
		if proof {
			name = "proof_dsn"
			if c.cfg.ProofDSN.Empty() {
				bad("warning", "give proof_dsn another account that only reads", "proof reads use the account that acts")
				name = "dsn, second connection"
			}
		}
		c.checkAccount(ctx, name, proof, bad)
	}
	return out
}

func (c *Connector) checkAccount(ctx context.Context, name string, proof bool, bad func(severity, hint, format string, args ...any)) {
	conn, err := c.acquire(ctx, proof, "")
	if err != nil {
		bad("error", "check address, user and password", "%s: connecting: %v", name, err)
		return
	}
	defer conn.Release()
	var (
		version                              int
		user                                 string
		super, createrole, signal, stats, rw bool
		now                                  time.Time
	)
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, r.rolname::text, r.rolsuper, r.rolcreaterole,
       pg_has_role(r.oid, 'pg_signal_backend', 'USAGE'), pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'),
       NOT pg_is_in_recovery(), clock_timestamp()
  FROM pg_roles r WHERE r.rolname = current_user`).Scan(&version, &user, &super, &createrole, &signal, &stats, &rw, &now)
	if err != nil {
		bad("error", "", "%s: asking for the account's rights: %v", name, err)
		return
	}
	if version < MinVersion {
		bad("error", "upgrade the server", "%s: server version %d is older than %d", name, version, MinVersion)
	}
	if d := c.clock.Now().Sub(now); d > clockSkew || d < -clockSkew {
		bad("warning", "set both clocks by NTP", "%s: the server's clock is %s off", name, d.Round(time.Second))
	}
	if !stats {
		bad("error", "GRANT pg_read_all_stats TO "+ident(user), "%s: role %s cannot see when others' sessions began", name, user)
	}
	if proof {
		return
	}
	if !rw {
		bad("error", "point dsn at the primary", "%s: the server is a standby, which cannot change roles", name)
	}
	if !super && !createrole {
		bad("error", "ALTER ROLE "+ident(user)+" CREATEROLE", "%s: role %s cannot suspend logins", name, user)
	}
	if !signal {
		bad("error", "GRANT pg_signal_backend TO "+ident(user), "%s: role %s cannot end sessions", name, user)
	}
	if !super {
		bad("warning", "grant it membership in the owners and grantors, or leave restrict out of its playbooks", "%s: role %s can revoke only what roles it is a member of granted", name, user)
	}
}
