package postgresql

import (
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/staunch-project/staunch"
)

// Config is the connector's part of the configuration.
type Config struct {
	// DSN is the URL or key=value string of the account that acts. Its database
	// is where roles and sessions are changed from.
	DSN staunch.Secret `yaml:"dsn" json:"dsn"`
	// ProofDSN is another account that only reads, for proof; without it, proof
	// reads use connections of their own with DSN's account.
	ProofDSN staunch.Secret `yaml:"proof_dsn" json:"proof_dsn,omitempty"`
	// Databases lists the databases in which grants are restricted; empty means
	// all that allow connections and are not in Exclude.
	Databases []string `yaml:"databases" json:"databases,omitempty"`
	// Exclude lists databases that are left alone.
	Exclude []string `yaml:"exclude" json:"exclude,omitempty"`
	// Protect lists roles that are never touched, beside the connector's own,
	// those named pg_* and those below.
	Protect []string `yaml:"protect" json:"protect,omitempty"`
	// AllowSuperuser lets superusers be contained.
	AllowSuperuser bool `yaml:"allow_superuser" json:"allow_superuser,omitempty"`
	// AllowReplication lets roles with REPLICATION be contained.
	AllowReplication bool `yaml:"allow_replication" json:"allow_replication,omitempty"`
	// Cascade also takes away, and on release gives back, what the subject
	// granted on to others and what they can hold only through it.
	Cascade bool `yaml:"cascade" json:"cascade,omitempty"`
	// StatementTimeout bounds a statement on the server; default 10s.
	StatementTimeout staunch.Duration `yaml:"statement_timeout" json:"statement_timeout,omitempty"`
	// LockTimeout bounds waiting for a lock; default 5s.
	LockTimeout staunch.Duration `yaml:"lock_timeout" json:"lock_timeout,omitempty"`
	// ConnectTimeout bounds opening a connection; default 5s.
	ConnectTimeout staunch.Duration `yaml:"connect_timeout" json:"connect_timeout,omitempty"`
	// SweepDelay is the time before each of the two sweeps for logins that raced
	// with the first pass; default 100ms.
	SweepDelay staunch.Duration `yaml:"sweep_delay" json:"sweep_delay,omitempty"`
	// MaxConns bounds the connections per database and account; default 4.
	MaxConns int `yaml:"max_conns" json:"max_conns,omitempty"`
	// MaxGrants bounds the grants of one role in one database that the connector
	// takes on; default 20000.
	MaxGrants int `yaml:"max_grants" json:"max_grants,omitempty"`
}

// sweeps is how often all of a role's sessions are ended again.
const sweeps = 2

func (c *Config) defaults() {
	def := func(d *staunch.Duration, v time.Duration) {
		if *d == 0 {
			*d = staunch.Duration(v)
		}
	}
	def(&c.StatementTimeout, 10*time.Second)
	def(&c.LockTimeout, 5*time.Second)
	def(&c.ConnectTimeout, 5*time.Second)
	def(&c.SweepDelay, 100*time.Millisecond)
	if c.MaxConns == 0 {
		c.MaxConns = 4
	}
	if c.MaxGrants == 0 {
		c.MaxGrants = 20000
	}
}

func (c *Config) validate() error {
	for place, d := range map[string]staunch.Duration{
		"statement_timeout": c.StatementTimeout, "lock_timeout": c.LockTimeout,
		"connect_timeout": c.ConnectTimeout, "sweep_delay": c.SweepDelay,
	} {
		if d.Std() < time.Millisecond || d.Std() > 10*time.Minute {
			return &staunch.Problem{Place: place, Reason: fmt.Sprintf("%s is not between 1ms and 10m", d.Std())}
		}
	}
	switch {
	case c.DSN.Empty():
		return &staunch.Problem{Place: "dsn", Reason: "is missing", Hint: "give the URL of the account that acts, such as postgres://staunch@host/postgres"}
	case c.MaxConns < 1 || c.MaxConns > 100:
		return &staunch.Problem{Place: "max_conns", Reason: fmt.Sprintf("%d is not between 1 and 100", c.MaxConns)}
	case c.MaxGrants < 1 || c.MaxGrants > 1_000_000:
		return &staunch.Problem{Place: "max_grants", Reason: fmt.Sprintf("%d is not between 1 and 1000000", c.MaxGrants)}
	}
	for place, list := range map[string][]string{"databases": c.Databases, "exclude": c.Exclude, "protect": c.Protect} {
		if slices.Contains(list, "") {
			return &staunch.Problem{Place: place, Reason: "has an empty name"}
		}
	}
	return nil
}

// idleTime is how long an unused connection is kept: making one takes longer
// than everything that is asked on it, just when there is no time.
const idleTime = 30 * time.Minute

// pool returns the pool configuration for a DSN.
func (c *Config) pool(place string, dsn staunch.Secret, application string) (*pgxpool.Config, error) {
	// pgx fills in a password file and service file by itself; what it says of a
	// broken DSN may repeat parts of it, so it is not passed on.
	p, err := pgxpool.ParseConfig(dsn.Reveal())
	if err != nil {
		return nil, &staunch.Problem{Place: place, Reason: "is not a PostgreSQL URL or connection string"}
	}
	if p.ConnConfig.User == "" {
		return nil, &staunch.Problem{Place: place, Reason: "names no user"}
	}
	p.MaxConns = int32(c.MaxConns) // validated to be at most 100
	p.MinConns = 0
	p.MaxConnIdleTime = idleTime
	p.ConnConfig.ConnectTimeout = c.ConnectTimeout.Std()
	rp := p.ConnConfig.RuntimeParams
	rp["application_name"] = application
	// With only pg_catalog in the path, everything else is printed with its
	// schema, and nobody can put a function of their own in front.
	rp["search_path"] = "pg_catalog"
	rp["standard_conforming_strings"] = "on"
	rp["statement_timeout"] = fmt.Sprint(c.StatementTimeout.Std().Milliseconds())
	rp["idle_in_transaction_session_timeout"] = fmt.Sprint(c.StatementTimeout.Std().Milliseconds())
	// The statements are few and the same for every role, and planning the one
	// that reads access lists takes longer than running it.
	rp["plan_cache_mode"] = "force_generic_plan"
	rp["lock_timeout"] = fmt.Sprint(c.LockTimeout.Std().Milliseconds())
	return p, nil
}
