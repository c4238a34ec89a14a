// Package config reads staunch.yaml: defaults, a strict decode, and every check
// that can be made without opening anything. Errors name file and line.
//
// A scalar tagged !env or !file takes its value from an environment variable or
// a file, so that secrets need not stand in the configuration:
//
//	dsn: !env STAUNCH_PG_DSN
//	token: !file secrets/vault.token
//
// Paths are relative to the folder of the configuration file.
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/outbound"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Config is the whole of staunch.yaml. The zero value is not valid; Load fills
// in defaults.
type Config struct {
	// V is the version of the file's shape: 1.
	V int `yaml:"v" json:"v"`
	// DataDir has the database, the key file and the checkpoints that are signed by
	// themselves, and nothing else.
	DataDir string `yaml:"data_dir" json:"data_dir,omitempty"`
	// PostgresURL, when given, is used in place of SQLite.
	PostgresURL staunch.Secret `yaml:"postgres_url" json:"postgres_url,omitempty"`
	// KeyFile is the key that seals secrets; default DataDir/staunch.key.
	KeyFile string `yaml:"key_file" json:"key_file,omitempty"`
	// Listen is where the API listens; default 127.0.0.1:8422.
	Listen string `yaml:"listen" json:"listen,omitempty"`
	// TLS has the certificate and key; required when Listen is not loopback.
	TLS *TLS `yaml:"tls" json:"tls,omitempty"`
	// URL is how people and links reach this node.
	URL string `yaml:"url" json:"url,omitempty"`
	// Node names this process in leases and chains; default the host's name.
	Node string `yaml:"node" json:"node,omitempty"`
	// Mode is how far anything may go: shadow (default), recommend, enforce.
	Mode staunch.Mode `yaml:"mode" json:"mode"`
	// MetricsOpen serves /metrics without a token; only on loopback.
	MetricsOpen bool `yaml:"metrics_open" json:"metrics_open,omitempty"`

	Realms  []Realm  `yaml:"realms" json:"realms,omitempty"`
	Sources []Source `yaml:"sources" json:"sources,omitempty"`
	// Rules and Policies are files or folders; Identities is a file. The rule
	// folder builtin is the pack that staunch ships, builtin/aws a part of it.
	Rules      []string `yaml:"rules" json:"rules,omitempty"`
	Policies   []string `yaml:"policies" json:"policies,omitempty"`
	Identities string   `yaml:"identities" json:"identities,omitempty"`
	// NoDefaultPolicy leaves the built-in policy out.
	NoDefaultPolicy bool `yaml:"no_default_policy" json:"no_default_policy,omitempty"`
	// Placeholders are values for Sigma's expand modifier.
	Placeholders map[string][]string `yaml:"placeholders" json:"placeholders,omitempty"`
	// Pipelines are files that translate rules' fields and log sources.
	Pipelines []string `yaml:"pipelines" json:"pipelines,omitempty"`
	// RuleModes gives rules another mode than their own, by id.
	RuleModes map[string]staunch.Mode `yaml:"rule_modes" json:"rule_modes,omitempty"`
	// MMDB is a file in the MaxMind DB format with the places of addresses, for
	// impossible_travel.
	MMDB string `yaml:"mmdb" json:"mmdb,omitempty"`
	// Protected lists refs, with * for any run of characters, that no mutating
	// call may ever touch.
	Protected []string `yaml:"protected" json:"protected,omitempty"`
	// Limits are the guardrails' caps and breakers; they decode them.
	Limits yaml.Node `yaml:"limits" json:"-"`
	// Suspicion has the constants of suspicion.
	Suspicion Suspicion `yaml:"suspicion" json:"suspicion,omitzero"`
	// Trust has the criteria by which rules are recommended for the next mode.
	Trust Trust `yaml:"trust" json:"trust,omitzero"`
	Guard Guard `yaml:"guard" json:"guard,omitzero"`
	// Drills are exercises on canaries.
	Drills []Drill   `yaml:"drills" json:"drills,omitempty"`
	Notify []Channel `yaml:"notify" json:"notify,omitempty"`
	Audit  Audit     `yaml:"audit" json:"audit,omitzero"`
	// Retention says how long what is stored is kept.
	Retention Retention `yaml:"retention" json:"retention,omitzero"`
	Log       Log       `yaml:"log" json:"log,omitzero"`

	path string
	sum  [sha256.Size]byte
	// given are the values that !env and !file gave.
	given []string
}

// TLS names the files of the API's certificate and key.
type TLS struct {
	Cert string `yaml:"cert" json:"cert"`
	Key  string `yaml:"key" json:"key"`
}

// Audit says where signed checkpoints of the record log go.
type Audit struct {
	// CheckpointEvery is how often one is signed by itself; 0 (default) is never.
	CheckpointEvery staunch.Duration `yaml:"checkpoint_every" json:"checkpoint_every,omitempty"`
	// CheckpointFile is what they are appended to, a line each; with
	// checkpoint_every the default is DataDir/checkpoints.ndjson.
	CheckpointFile string `yaml:"checkpoint_file" json:"checkpoint_file,omitempty"`
	// CheckpointChannel is a channel of type webhook that they are sent to.
	CheckpointChannel string `yaml:"checkpoint_channel" json:"checkpoint_channel,omitempty"`
	// TransparencyLog, when given, takes every checkpoint.
	TransparencyLog *TransparencyLog `yaml:"transparency_log" json:"transparency_log,omitempty"`
}

// TransparencyLog is a log of Rekor v2 that anybody can read and nobody can take
// an entry out of.
type TransparencyLog struct {
	// URL is the log's address: https, or http of loopback.
	URL string `yaml:"url" json:"url"`
	// Key is the log's public key: a signed note's verifier key, or a PKIX public
	// key in base64 or PEM form.
	Key string `yaml:"key" json:"key"`
	// Origin is the name that the log signs under; default the key's name, or the
	// URL's host.
	Origin string `yaml:"origin" json:"origin,omitempty"`

	log *record.TransparencyLog
}

// Log returns what checks the log's signatures.
func (t *TransparencyLog) Log() *record.TransparencyLog { return t.log }

// check reads the key.
func (t *TransparencyLog) check(bad func(line int, field, format string, args ...any)) {
	const f = "audit.transparency_log."
	if err := outbound.CheckURL(t.URL); err != nil {
		bad(0, f+"url", "%v", err)
	}
	if t.Key == "" {
		bad(0, f+"key", "is missing: without it nobody knows what the log signed")
		return
	}
	var err error
	if t.log, err = record.ParseTransparencyLog(t.Key, t.Origin); err != nil && t.Origin == "" {
		// Not a key that has a name.
		if u, uerr := url.Parse(t.URL); uerr == nil {
			t.log, err = record.ParseTransparencyLog(t.Key, u.Hostname())
		}
	}
	if err != nil {
		bad(0, f+"key", "%v", err)
	}
}

// Log says how to log.
type Log struct {
	// Level is debug, info (default), warn or error; Format is text or json.
	Level  string `yaml:"level" json:"level,omitempty"`
	Format string `yaml:"format" json:"format,omitempty"`
}

// Realm is one configured instance of a platform.
type Realm struct {
	Name string `yaml:"name" json:"name"`
	// Platform is the connector's name.
	Platform string `yaml:"platform" json:"platform"`
	// Mode is how far the connector may go; default that of the engine.
	Mode *staunch.Mode `yaml:"mode" json:"mode,omitempty"`
	// DryRun has the connector read and never write.
	DryRun bool `yaml:"dry_run" json:"dry_run,omitempty"`
	// RatePerSecond bounds calls; 0 gives 200.
	RatePerSecond float64 `yaml:"rate_per_second" json:"rate_per_second,omitempty"`
	// Connector is decoded by the connector.
	Connector yaml.Node `yaml:"connector" json:"-"`

	line int
}

// Source is a configured input.
type Source struct {
	Name string `yaml:"name" json:"name"`
	// Format is a format's name; Mapping is the file for format generic.
	Format  string `yaml:"format" json:"format"`
	Mapping string `yaml:"mapping" json:"mapping,omitempty"`
	Realm   string `yaml:"realm" json:"realm"`
	// Ceiling is the highest tier that its signals can cause alone; default
	// isolate.
	Ceiling *staunch.Tier `yaml:"ceiling" json:"ceiling,omitempty"`
	// Accuses lists further realms whose subjects it may accuse.
	Accuses []string `yaml:"accuses" json:"accuses,omitempty"`
	// Origin names what it tells of, where other sources tell of the same: one log
	// that comes by two ways, two detectors that look at one log. Sources of one
	// origin are one where two independent sources are needed. Default: its own.
	Origin string `yaml:"origin" json:"origin,omitempty"`
	// Skew and Lateness bound the event time; defaults 5m and 1h.
	Skew     staunch.Duration `yaml:"skew" json:"skew,omitempty"`
	Lateness staunch.Duration `yaml:"lateness" json:"lateness,omitempty"`
	// Tail follows files; without it the source is pushed to.
	Tail *Tail `yaml:"tail" json:"tail,omitempty"`

	line int
}

// Tail follows a file through rotation.
type Tail struct {
	Path string `yaml:"path" json:"path"`
	// FromStart reads a file that was never seen from its beginning (default)
	// rather than from its end.
	FromStart *bool `yaml:"from_start" json:"from_start,omitempty"`
}

// Suspicion has the constants that turn signals into a confidence; package
// decide documents them. Zero takes the default.
type Suspicion struct {
	// HalfLife is how long a signal takes to lose half its weight; default 24h.
	HalfLife staunch.Duration `yaml:"half_life" json:"half_life,omitempty"`
	// RollUp is what is left of a weight after each membership; default 0.9.
	RollUp float64 `yaml:"roll_up" json:"roll_up,omitempty"`
	// RevokeSources is how many independent sources the revoke tier needs, by policy
	// alone, for an identity whose environment is production; default 2, and 1 asks
	// for no second one. A policy's revoke_sources goes before it.
	RevokeSources int `yaml:"revoke_sources" json:"revoke_sources,omitempty"`
}

// Trust says when staunch trust calls a rule ready for the next mode. Nothing is
// ever promoted by itself.
type Trust struct {
	// Matches is how many matches it needs in its present mode; default 20.
	Matches int `yaml:"matches" json:"matches,omitempty"`
	// For is over how long; default 336h.
	For staunch.Duration `yaml:"for" json:"for,omitempty"`
}

// Drill is an exercise on a canary.
type Drill struct {
	Name string `yaml:"name" json:"name"`
	// Canary is whom it contains and puts back: an account, credential or session
	// that nothing depends on.
	Canary staunch.Ref `yaml:"canary" json:"canary"`
	// Source is the source whose way its records go.
	Source string `yaml:"source" json:"source"`
	// Record is one record in the source's format. Its rules, or correlations over all
	// the records, accuse the canary. {{id}} is replaced by the exercise's id, {{n}} by
	// the record's number from 1, {{time}} by its time in RFC 3339, {{time:LAYOUT}} by
	// that in Go's layout, {{unix}} by that in seconds.
	Record string `yaml:"record" json:"record,omitempty"`
	// Records, in place of Record, are several, in their order.
	Records []string `yaml:"records" json:"records,omitempty"`
	// Repeat is how often Record, or all of Records, is sent; default 1.
	Repeat int `yaml:"repeat" json:"repeat,omitempty"`
	// Apart is how far the times of two records in a row are from each other; the
	// last has the present. Default 1ms.
	Apart staunch.Duration `yaml:"apart" json:"apart,omitempty"`
	// Every is how often it runs by itself; 0 is by hand alone.
	Every staunch.Duration `yaml:"every" json:"every,omitempty"`
	// Within is how long it may take to contain, RestoreWithin to put back; defaults
	// 30s and 1m.
	Within        staunch.Duration `yaml:"within" json:"within,omitempty"`
	RestoreWithin staunch.Duration `yaml:"restore_within" json:"restore_within,omitempty"`
}

// Guard configures the fast plane.
type Guard struct {
	// FailMode is what stale state answers: deny (default) or allow.
	FailMode string `yaml:"fail_mode" json:"fail_mode,omitempty"`
	// StaleAfter is how old the state may be; default 10s.
	StaleAfter staunch.Duration `yaml:"stale_after" json:"stale_after,omitempty"`
	// Subjects say how an AuthZEN subject becomes refs.
	Subjects []Subject `yaml:"subjects" json:"subjects,omitempty"`
}

// Subject maps AuthZEN subjects of one type to refs.
type Subject struct {
	// Type is the AuthZEN subject's type.
	Type string `yaml:"type" json:"type"`
	// From is "id" (default) or "properties.NAME".
	From  string       `yaml:"from" json:"from,omitempty"`
	Kind  staunch.Kind `yaml:"kind" json:"kind"`
	Realm string       `yaml:"realm" json:"realm"`
	// Scheme is the ref's scheme.
	Scheme string `yaml:"scheme" json:"scheme"`
	// Digest has the value replaced by its "sha256:" digest, for raw tokens.
	Digest bool `yaml:"digest" json:"digest,omitempty"`
}

// Channel is somewhere to tell people.
type Channel struct {
	Name string `yaml:"name" json:"name"`
	// Type is slack or webhook.
	Type   string         `yaml:"type" json:"type"`
	URL    staunch.Secret `yaml:"url" json:"url"`
	Secret staunch.Secret `yaml:"secret" json:"secret,omitempty"`
	// MinTier leaves out what is below it; default restrict.
	MinTier *staunch.Tier `yaml:"min_tier" json:"min_tier,omitempty"`
	// AllowHTTP permits http to hosts other than loopback.
	AllowHTTP bool `yaml:"allow_http" json:"allow_http,omitempty"`
}

// Defaults.
const (
	DefaultListen   = "127.0.0.1:8422"
	DefaultSkew     = 5 * time.Minute
	DefaultLateness = time.Hour
	DefaultStale    = 10 * time.Second
	// DefaultRate is calls a second: a containment takes about twenty on a platform
	// with several databases.
	DefaultRate = 200
	// LeastCheckpointEvery is how often a checkpoint may be signed by itself.
	LeastCheckpointEvery = time.Minute
	DefaultRevokeSources = 2
	DefaultTrustMatches  = 20
	DefaultDrillApart    = time.Millisecond
	DefaultDrillWithin   = 30 * time.Second
	DefaultDrillRestore  = time.Minute
	// LeastDrillEvery is how often an exercise may run by itself.
	LeastDrillEvery = time.Minute
	// MaxDrillRecords is how many records an exercise sends at most; all of them are
	// taken in by one transaction.
	MaxDrillRecords = 500
	maxDrillRecord  = 64 << 10
	maxDrillBytes   = 128 << 10
	maxDrillSpan    = time.Hour
	maxDrills       = 100

	DefaultTrustFor  = 14 * 24 * time.Hour
	maxRevokeSources = 8
	maxTrustFor      = 366 * 24 * time.Hour
	// maxConfigBytes bounds a configuration file.
	maxConfigBytes = 4 << 20
)

// Load reads, decodes and checks the file at path. All problems that can be
// found are returned together.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	if st, err := f.Stat(); err == nil && st.Size() > maxConfigBytes {
		return nil, &staunch.Problem{Place: path, Reason: fmt.Sprintf("is larger than %d bytes", maxConfigBytes)}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(data, path)
}

// Parse decodes and checks a configuration; path names it in errors and is what
// relative paths are relative to.
func Parse(data []byte, path string) (*Config, error) {
	var root yaml.Node
	if err := yaml.Load(data, &root); err != nil {
		return nil, strictyaml.ExplainIn(path, data, err)
	}
	c := &Config{path: path, sum: sha256.Sum256(data)}
	if err := resolveTags(&root, filepath.Dir(path), path, &c.given); err != nil {
		return nil, err
	}
	if root.Kind != 0 {
		if err := strictyaml.Decode(&root, path, c); err != nil {
			return nil, c.hush(err)
		}
	}
	c.findLines(&root)
	c.defaults()
	if err := c.check(); err != nil {
		return nil, c.hush(err)
	}
	return c, nil
}

// leastHushed is the length, in bytes, from which on a value is taken out of errors;
// what is shorter is no secret, and stands in every other word.
const leastHushed = 4

// hush takes out of an error what !env and !file gave: those are for secrets, and
// errors go to terminals, logs and the API.
func (c *Config) hush(err error) error {
	if len(c.given) == 0 || err == nil {
		return err
	}
	var pairs []string
	for _, v := range slices.SortedFunc(slices.Values(c.given), func(a, b string) int { return len(b) - len(a) }) {
		quoted := strconv.Quote(v)
		pairs = append(pairs, quoted[1:len(quoted)-1], "***", v, "***")
		if len(v) > shownByYAML {
			pairs = append(pairs, v[:shownByYAML]+"...", "***")
		}
	}
	said := strings.NewReplacer(pairs...)
	var walk func(error) error
	walk = func(err error) error {
		switch e := err.(type) { //nolint:errorlint // the tree is walked here, level by level
		case *staunch.Problem:
			return &staunch.Problem{Place: said.Replace(e.Place), Reason: said.Replace(e.Reason), Hint: said.Replace(e.Hint)}
		case interface{ Unwrap() []error }:
			var out []error
			for _, sub := range e.Unwrap() {
				out = append(out, walk(sub))
			}
			return errors.Join(out...)
		}
		return err
	}
	return walk(err)
}

// shownByYAML is how much the YAML library quotes of a value that is too long.
const shownByYAML = 7

// resolveTags replaces !env and !file scalars by what they name, and adds that to
// given.
func resolveTags(n *yaml.Node, dir, path string, given *[]string) error {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!env" || n.Tag == "!file") {
		place := fmt.Sprintf("%s:%d", path, n.Line)
		switch n.Tag {
		case "!env":
			v, ok := os.LookupEnv(n.Value)
			if !ok {
				return &staunch.Problem{Place: place, Reason: "environment variable " + n.Value + " is not set"}
			}
			n.Value = v
		case "!file":
			p := n.Value
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return &staunch.Problem{Place: place, Reason: "cannot read " + n.Value + ": " + errors.Unwrap(err).Error()}
			}
			if len(b) > 64<<10 {
				return &staunch.Problem{Place: place, Reason: n.Value + " is larger than 64 KiB"}
			}
			n.Value = strings.TrimRight(string(b), "\r\n")
		}
		n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
		if len(n.Value) >= leastHushed {
			*given = append(*given, n.Value)
		}
	}
	for _, c := range n.Content {
		if err := resolveTags(c, dir, path, given); err != nil {
			return err
		}
	}
	return nil
}

// findLines notes where realms and sources stand, for later errors.
func (c *Config) findLines(root *yaml.Node) {
	if len(root.Content) == 0 {
		return
	}
	m := root.Content[0]
	for i := 0; i+1 < len(m.Content); i += 2 {
		seq := m.Content[i+1]
		for j, n := range seq.Content {
			switch m.Content[i].Value {
			case "realms":
				if j < len(c.Realms) {
					c.Realms[j].line = n.Line
				}
			case "sources":
				if j < len(c.Sources) {
					c.Sources[j].line = n.Line
				}
			}
		}
	}
}

func (c *Config) defaults() {
	if c.V == 0 {
		c.V = staunch.Version
	}
	if c.DataDir == "" {
		c.DataDir = "data"
	}
	c.DataDir = c.Path(c.DataDir)
	if c.KeyFile == "" {
		c.KeyFile = filepath.Join(c.DataDir, "staunch.key")
	} else {
		c.KeyFile = c.Path(c.KeyFile)
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.URL == "" {
		scheme := "http://"
		if c.TLS != nil {
			scheme = "https://"
		}
		c.URL = scheme + c.Listen
	}
	if c.Node == "" {
		if h, err := os.Hostname(); err == nil {
			c.Node = sanitize(h)
		}
		if c.Node == "" {
			c.Node = "node"
		}
	}
	for i := range c.Realms {
		if c.Realms[i].RatePerSecond == 0 {
			c.Realms[i].RatePerSecond = DefaultRate
		}
	}
	for i := range c.Sources {
		s := &c.Sources[i]
		if s.Skew == 0 {
			s.Skew = staunch.Duration(DefaultSkew)
		}
		if s.Lateness == 0 {
			s.Lateness = staunch.Duration(DefaultLateness)
		}
		if s.Ceiling == nil {
			t := staunch.TierIsolate
			s.Ceiling = &t
		}
		if s.Mapping != "" {
			s.Mapping = c.Path(s.Mapping)
		}
		if s.Tail != nil {
			s.Tail.Path = c.Path(s.Tail.Path)
			if s.Tail.FromStart == nil {
				yes := true
				s.Tail.FromStart = &yes
			}
		}
	}
	for i := range c.Rules {
		if _, ok := BuiltinRules(c.Rules[i]); !ok {
			c.Rules[i] = c.Path(c.Rules[i])
			if _, ok := BuiltinRules(c.Rules[i]); ok { // a folder of one's own, beside the working directory
				c.Rules[i] = "./" + c.Rules[i]
			}
		}
	}
	for i := range c.Pipelines {
		c.Pipelines[i] = c.Path(c.Pipelines[i])
	}
	for i := range c.Policies {
		c.Policies[i] = c.Path(c.Policies[i])
	}
	if c.Identities != "" {
		c.Identities = c.Path(c.Identities)
	}
	if c.MMDB != "" {
		c.MMDB = c.Path(c.MMDB)
	}
	if c.TLS != nil {
		c.TLS.Cert, c.TLS.Key = c.Path(c.TLS.Cert), c.Path(c.TLS.Key)
	}
	if c.Suspicion.RevokeSources == 0 {
		c.Suspicion.RevokeSources = DefaultRevokeSources
	}
	if c.Trust.Matches == 0 {
		c.Trust.Matches = DefaultTrustMatches
	}
	if c.Trust.For == 0 {
		c.Trust.For = staunch.Duration(DefaultTrustFor)
	}
	for i := range c.Drills {
		if c.Drills[i].Repeat == 0 {
			c.Drills[i].Repeat = 1
		}
		if c.Drills[i].Apart == 0 {
			c.Drills[i].Apart = staunch.Duration(DefaultDrillApart)
		}
		if c.Drills[i].Within == 0 {
			c.Drills[i].Within = staunch.Duration(DefaultDrillWithin)
		}
		if c.Drills[i].RestoreWithin == 0 {
			c.Drills[i].RestoreWithin = staunch.Duration(DefaultDrillRestore)
		}
	}
	if c.Guard.FailMode == "" {
		c.Guard.FailMode = "deny"
	}
	if c.Guard.StaleAfter == 0 {
		c.Guard.StaleAfter = staunch.Duration(DefaultStale)
	}
	for i := range c.Guard.Subjects {
		if c.Guard.Subjects[i].From == "" {
			c.Guard.Subjects[i].From = "id"
		}
	}
	for i := range c.Notify {
		if c.Notify[i].MinTier == nil {
			t := staunch.TierRestrict
			c.Notify[i].MinTier = &t
		}
	}
	switch {
	case c.Audit.CheckpointFile != "":
		c.Audit.CheckpointFile = c.Path(c.Audit.CheckpointFile)
	case c.Audit.CheckpointEvery != 0:
		c.Audit.CheckpointFile = filepath.Join(c.DataDir, "checkpoints.ndjson")
	}
	c.Retention.defaults()
	if c.Log.Level == "" {
		c.Log.Level = "info"
	}
	if c.Log.Format == "" {
		c.Log.Format = "text"
	}
}

func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
			return r
		default:
			return '-'
		}
	}, s)
}

// Path makes p absolute relative to the configuration's folder.
func (c *Config) Path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(c.path), p)
}

// Sum returns the SHA-256 of the file as it was read. The file may have secrets in
// it, so whoever shows or keeps the sum has to key it.
func (c *Config) Sum() []byte { return c.sum[:] }

// File returns the path that the configuration was read from.
func (c *Config) File() string { return c.path }

func (c *Config) place(line int, field string) string {
	if line > 0 {
		return fmt.Sprintf("%s:%d: %s", c.path, line, field)
	}
	return c.path + ": " + field
}

func (c *Config) check() error {
	var errs []error
	bad := func(line int, field, format string, args ...any) {
		errs = append(errs, &staunch.Problem{Place: c.place(line, field), Reason: fmt.Sprintf(format, args...)})
	}
	if c.V != staunch.Version {
		bad(0, "v", "is %d; this release reads 1", c.V)
	}
	loopback := false
	if host, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad(0, "listen", "%q is not host:port", c.Listen)
	} else {
		ip := net.ParseIP(host)
		loopback = host == "localhost" || ip != nil && ip.IsLoopback()
		if !loopback && c.TLS == nil {
			bad(0, "listen", "%s is not loopback and there is no tls", c.Listen)
		}
		if c.MetricsOpen && !loopback {
			bad(0, "metrics_open", "is for loopback only")
		}
	}
	if u, err := url.Parse(c.URL); err != nil || u.Host == "" {
		bad(0, "url", "%q is not a URL", c.URL)
	}
	realms := map[string]bool{}
	for i, r := range c.Realms {
		f := fmt.Sprintf("realms[%d]", i)
		ref := staunch.Ref{Kind: staunch.KindAccount, Realm: r.Name, Scheme: "x", Value: "x"}
		if err := ref.Validate(); err != nil {
			bad(r.line, f+".name", "%q is not a realm's name (letters, digits and ._/-)", r.Name)
		}
		if realms[r.Name] {
			bad(r.line, f+".name", "%q is configured twice", r.Name)
		}
		realms[r.Name] = true
		if r.Platform == "" {
			bad(r.line, f+".platform", "is missing")
		}
		if r.RatePerSecond < 0 {
			bad(r.line, f+".rate_per_second", "must be above zero")
		}
	}
	sources := map[string]bool{}
	for i, s := range c.Sources {
		f := fmt.Sprintf("sources[%d]", i)
		ref := staunch.Ref{Kind: staunch.KindAccount, Realm: s.Name, Scheme: "x", Value: "x"}
		if err := ref.Validate(); err != nil || strings.Contains(s.Name, "/") {
			bad(s.line, f+".name", "%q is not a source's name (letters, digits and ._-)", s.Name)
		}
		if sources[s.Name] {
			bad(s.line, f+".name", "%q is configured twice", s.Name)
		}
		sources[s.Name] = true
		if s.Format == "" {
			bad(s.line, f+".format", "is missing")
		}
		if s.Format == "generic" && s.Mapping == "" {
			bad(s.line, f+".mapping", "is missing: format generic needs a mapping file")
		}
		if s.Format != "generic" && s.Mapping != "" {
			bad(s.line, f+".mapping", "is for format generic only")
		}
		if s.Realm == "" {
			bad(s.line, f+".realm", "is missing")
		}
		if s.Origin != "" && (staunch.Ref{Kind: staunch.KindAccount, Realm: s.Origin, Scheme: "x", Value: "x"}).Validate() != nil {
			bad(s.line, f+".origin", "%q is not a name (letters, digits and ._/-)", s.Origin)
		}
		if s.Tail != nil && s.Tail.Path == "" {
			bad(s.line, f+".tail.path", "is missing")
		}
		if s.Skew < 0 || s.Lateness < 0 {
			bad(s.line, f, "skew and lateness must not be negative")
		}
	}
	if n := c.Suspicion.RevokeSources; n < 0 || n > maxRevokeSources {
		bad(0, "suspicion.revoke_sources", "%d is not between 1 and %d", n, maxRevokeSources)
	}
	if c.Trust.Matches < 0 || c.Trust.For < 0 || c.Trust.For.Std() > maxTrustFor {
		bad(0, "trust", "matches and for must not be negative, and for at most %s", maxTrustFor)
	}
	c.checkDrills(sources, bad)
	if !slices.Contains([]string{"deny", "allow"}, c.Guard.FailMode) {
		bad(0, "guard.fail_mode", "%q is not deny or allow", c.Guard.FailMode)
	}
	for i, s := range c.Guard.Subjects {
		f := fmt.Sprintf("guard.subjects[%d]", i)
		if s.Type == "" {
			bad(0, f+".type", "is missing")
		}
		if s.From != "id" && !strings.HasPrefix(s.From, "properties.") {
			bad(0, f+".from", "%q is not id or properties.NAME", s.From)
		}
		if err := (staunch.Ref{Kind: s.Kind, Realm: s.Realm, Scheme: s.Scheme, Value: "x"}).Validate(); err != nil {
			bad(0, f, "%v", err)
		}
	}
	channels := map[string]bool{}
	for i, n := range c.Notify {
		f := fmt.Sprintf("notify[%d]", i)
		if n.Name == "" || channels[n.Name] {
			bad(0, f+".name", "%q is missing or given twice", n.Name)
		}
		channels[n.Name] = true
		if n.Type != "slack" && n.Type != "webhook" {
			bad(0, f+".type", "%q is not slack or webhook", n.Type)
		}
		if n.URL.Empty() {
			bad(0, f+".url", "is missing")
		}
		if n.Type == "webhook" && n.Secret.Empty() {
			bad(0, f+".secret", "is missing: webhooks are signed")
		}
	}
	if every := c.Audit.CheckpointEvery.Std(); every != 0 && every < LeastCheckpointEvery {
		bad(0, "audit.checkpoint_every", "is %s, at least %s is needed", every, LeastCheckpointEvery)
	}
	if name := c.Audit.CheckpointChannel; name != "" && !slices.ContainsFunc(c.Notify, func(n Channel) bool { return n.Name == name && n.Type == "webhook" }) {
		bad(0, "audit.checkpoint_channel", "%q is not a channel of type webhook", name)
	}
	if t := c.Audit.TransparencyLog; t != nil {
		t.check(bad)
	}
	c.Retention.check(c, bad)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad(0, "log.level", "%q is not debug, info, warn or error", c.Log.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		bad(0, "log.format", "%q is not text or json", c.Log.Format)
	}
	return errors.Join(errs...)
}

// checkDrills checks the exercises; sources has the sources' names.
func (c *Config) checkDrills(sources map[string]bool, bad func(line int, field, format string, args ...any)) {
	if len(c.Drills) > maxDrills {
		bad(0, "drills", "are %d, at most %d", len(c.Drills), maxDrills)
	}
	names := map[string]bool{}
	for i, d := range c.Drills {
		f := fmt.Sprintf("drills[%d]", i)
		if d.Name == "" || sanitize(d.Name) != d.Name || len(d.Name) > 64 {
			bad(0, f+".name", "%q is not a name (letters, digits and ._-, at most 64)", d.Name)
		}
		if names[d.Name] {
			bad(0, f+".name", "%q is configured twice", d.Name)
		}
		names[d.Name] = true
		switch err := d.Canary.Validate(); {
		case err != nil:
			bad(0, f+".canary", "%v", err)
		case d.Canary.Kind.Width() == 0 || d.Canary.Kind == staunch.KindIdentity:
			bad(0, f+".canary", "%s is not an account, credential or session", d.Canary)
		case slices.ContainsFunc(c.Drills[:i], func(o Drill) bool { return o.Canary == d.Canary }):
			bad(0, f+".canary", "%s is another drill's; two at once would be in each other's way", d.Canary)
		}
		if !sources[d.Source] {
			bad(0, f+".source", "%q is not a configured source", d.Source)
		}
		checkDrillRecords(d, func(field, format string, args ...any) { bad(0, f+field, format, args...) })
		if every := d.Every.Std(); every != 0 && every < LeastDrillEvery {
			bad(0, f+".every", "is %s, at least %s is needed", every, LeastDrillEvery)
		}
		for _, w := range []staunch.Duration{d.Within, d.RestoreWithin} {
			if w.Std() < time.Second || w.Std() > time.Hour {
				bad(0, f, "within and restore_within must be from 1s to 1h")
			}
		}
	}
}

// checkDrillRecords checks what an exercise sends.
func checkDrillRecords(d Drill, bad func(field, format string, args ...any)) {
	if (d.Record == "") == (len(d.Records) == 0) {
		bad(".record", "set either record or records")
		return
	}
	texts, size := d.Texts(), 0
	for i, text := range texts {
		field := ".record"
		if d.Record == "" {
			field = fmt.Sprintf(".records[%d]", i)
		}
		size += len(text)
		switch {
		case !strings.Contains(text, "{{id}}") || len(text) > maxDrillRecord:
			bad(field, "has to carry {{id}}, which labels it and tells one exercise from the next, and to be at most %d bytes", maxDrillRecord)
		case (d.Repeat > 1 || slices.Contains(texts[:i], text)) && !strings.Contains(text, "{{n}}"):
			bad(field, "is sent more than once and has to carry {{n}}, which tells one from the next: the same record again is the same event")
		}
	}
	most := MaxDrillRecords / len(texts)
	if size > 0 {
		most = min(most, maxDrillBytes/size)
	}
	if d.Repeat < 1 || d.Repeat > most || most == 0 {
		bad(".repeat", "is %d: an exercise sends at most %d records of %d bytes together", d.Repeat, MaxDrillRecords, maxDrillBytes)
		return
	}
	if n := time.Duration(d.Count() - 1); d.Apart.Std() < time.Microsecond || n > 0 && d.Apart.Std() > maxDrillSpan/n {
		bad(".apart", "is %s: it is at least 1µs, and the first record at most %s old", d.Apart.Std(), maxDrillSpan)
	}
}

// Texts returns what it sends, once each.
func (d Drill) Texts() []string {
	if d.Record != "" {
		return []string{d.Record}
	}
	return d.Records
}

// Count returns how many records it sends.
func (d Drill) Count() int { return len(d.Texts()) * d.Repeat }

// Drill returns the exercise called name.
func (c *Config) Drill(name string) (Drill, bool) {
	for _, d := range c.Drills {
		if d.Name == name {
			return d, true
		}
	}
	return Drill{}, false
}

// Decode decodes a part of the configuration, such as a realm's connector,
// strictly into v; errors name file and line.
func (c *Config) Decode(n yaml.Node, v any) error {
	if n.Kind == 0 {
		return nil
	}
	return c.hush(strictyaml.Decode(&n, c.path, v))
}

// PlaceOf names a realm's place in the file, for errors found later.
func (c *Config) PlaceOf(r Realm) string { return c.place(r.line, "realm "+r.Name) }

// PlaceOfSource names a source's place in the file, for errors found later.
func (c *Config) PlaceOfSource(s Source) string { return c.place(s.line, "source "+s.Name) }

// Source returns the source called name.
func (c *Config) Source(name string) (Source, bool) {
	for _, s := range c.Sources {
		if s.Name == name {
			return s, true
		}
	}
	return Source{}, false
}

// RealmNames returns every realm that the configuration speaks of, sorted: those
// with a connector, of the sources, and of the guard's subjects.
func (c *Config) RealmNames() []string {
	var names []string
	for _, r := range c.Realms {
		names = append(names, r.Name)
	}
	for _, s := range c.Sources {
		names = append(append(names, s.Realm), s.Accuses...)
	}
	for _, s := range c.Guard.Subjects {
		names = append(names, s.Realm)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// builtin is the rule folder that the binary carries.
const builtin = "builtin"

// BuiltinRules reports whether an entry of rules means the pack that staunch
// ships, and which folder of it; "." is all of it. A folder of one's own that is
// called builtin is ./builtin.
func BuiltinRules(entry string) (folder string, ok bool) {
	if entry == builtin {
		return ".", true
	}
	folder, ok = strings.CutPrefix(entry, builtin+"/")
	return folder, ok && folder != ""
}
