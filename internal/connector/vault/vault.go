// Package vault acts on HashiCorp Vault: it disables identity entities and
// revokes tokens, leases and, when a person names one, all leases under a
// path. It speaks Vault's HTTP API and needs no SDK.
//
// What Vault cannot do is said aloud: batch tokens cannot be revoked, tokens
// without an entity cannot be suspended, and a disabled entity's database
// credentials live on until their leases are revoked. The README has the
// policies with the least permissions.
package vault

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

// Platform is the connector's name in the configuration.
const Platform = "vault"

// The schemes of the refs that the connector knows.
const (
	// SchemeEntity: an account named by identity/entity/id.
	SchemeEntity = "entity-id"
	// SchemeAccessor: a token named by its accessor.
	SchemeAccessor = "accessor"
	// SchemeAccessorHMAC: a token named by what an audit device writes in place
	// of its accessor.
	SchemeAccessorHMAC = "accessor-hmac"
	// SchemeTokenHMAC: a token named by what an audit device writes in its place.
	SchemeTokenHMAC = "token-hmac"
	// SchemeDigest: a token named by "sha256:" and its digest, itself sealed.
	SchemeDigest = "sha256"
	// SchemeLease: a lease named by its id.
	SchemeLease = "lease-id"
	// SchemeLeasePrefix: every lease under a path.
	SchemeLeasePrefix = "lease-prefix"
)

// The attributes of the targets.
const (
	AttributeDisabled = "entity.disabled"
	AttributeToken    = "token"
	AttributeLease    = "lease"
	AttributeLeases   = "leases"
)

// StepHeader carries the step's key on every call that changes something. It
// reaches Vault's audit log once it is registered there.
const StepHeader = "X-Staunch-Step"

// Bounds of the configuration and their defaults.
const (
	defaultTimeout      = 10 * time.Second
	maxTimeout          = 5 * time.Minute
	defaultSearchTime   = 3 * time.Second
	defaultMaxAccessors = 20_000
	limitMaxAccessors   = 200_000
	defaultPrefixDepth  = 3
	minPrefixDepth      = 2
	maxAuditDevices     = 8
	maxProtected        = 10_000
)

// Config is the connector's part of the configuration.
type Config struct {
	// Address is Vault's, such as https://vault.example.org:8200. Plain HTTP is
	// for loopback addresses only.
	Address string `yaml:"address" json:"address"`
	// Token is what staunch acts with; TokenFile, instead, is a file that has
	// it, read again when it changes, as Vault Agent writes it.
	Token     staunch.Secret `yaml:"token" json:"token,omitzero"`
	TokenFile string         `yaml:"token_file" json:"token_file,omitempty"`
	// ProofToken is the other credential, for the reads that prove an effect.
	ProofToken     staunch.Secret `yaml:"proof_token" json:"proof_token,omitzero"`
	ProofTokenFile string         `yaml:"proof_token_file" json:"proof_token_file,omitempty"`
	// Namespace is Vault Enterprise's, empty for the root namespace.
	Namespace string `yaml:"namespace" json:"namespace,omitempty"`
	// TLS says how the server is known.
	TLS rest.TLS `yaml:"tls" json:"tls,omitzero"`
	// AuditDevices are the paths of the audit devices whose HMACs of accessors
	// are resolved, such as "file".
	AuditDevices []string `yaml:"audit_devices" json:"audit_devices,omitempty"`
	// MaxAccessors bounds how many tokens are looked through for those of an
	// entity, or for an HMAC; 0 gives 20000.
	MaxAccessors int `yaml:"max_accessors" json:"max_accessors,omitempty"`
	// SearchTime bounds one such search, so that it does not hold up what is known
	// already; what was learned is kept and the next search goes on from there. 0
	// gives 3s.
	SearchTime staunch.Duration `yaml:"search_time" json:"search_time,omitempty"`
	// MinPrefixDepth is how many path segments a lease prefix must have at
	// least; 0 gives 3, as in database/creds/reader. Less than 2 is refused.
	MinPrefixDepth int `yaml:"min_prefix_depth" json:"min_prefix_depth,omitempty"`
	// Timeout bounds every call; 0 gives 10s.
	Timeout staunch.Duration `yaml:"timeout" json:"timeout,omitempty"`
	Protect Protect          `yaml:"protect" json:"protect,omitzero"`
}

// Protect lists what is never changed, whatever was decided.
type Protect struct {
	// Entities has entity ids; their tokens are protected with them.
	Entities []string `yaml:"entities" json:"entities,omitempty"`
	// Accessors has token accessors.
	Accessors []string `yaml:"accessors" json:"accessors,omitempty"`
}

// Connector acts on one Vault, or one namespace of it.
type Connector struct {
	realm string
	cfg   Config
	clock staunch.Clock
	deps  connector.Deps

	// act makes the changes and the reads around them, proof the reads that
	// prove them, and probe is a client like the thief's.
	act, proof, probe *client
	closed            atomic.Bool
	newest            connector.Newest

	mu    sync.Mutex
	owned map[string]tokenInfo         // digest of one of our tokens → what it is
	known map[string]tokenInfo         // accessor → what never changes of its token
	hmacs map[string]map[string]string // audit device → HMAC → accessor
	salts map[string]string            // audit device → HMAC of a constant
	seen  map[staunch.Ref]staunch.Ref  // accessor or entity → a sealed token of it
	alive map[staunch.Ref]bool         // sealed tokens that have worked in a probe
}

var (
	_ connector.Connector = (*Connector)(nil)
	_ connector.Prober    = (*Connector)(nil)
	_ connector.Health    = (*Connector)(nil)
	_ connector.Own       = (*Connector)(nil)
)

// Factory returns the factory of this connector.
func Factory() connector.Factory {
	return connector.Factory{
		Platform: Platform,
		New: func(d connector.Deps) (connector.Connector, error) {
			c, err := New(d)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		Config:   func() any { return new(Config) },
		Describe: func() connector.Description { return describe("") },
	}
}

// New makes a connector. It reads the certificate files and connects to
// nothing.
func New(d connector.Deps) (*Connector, error) {
	var cfg Config
	if err := d.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("decoding the configuration of vault for realm %s: %w", d.Realm, err)
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuration of vault for realm %s: %w", d.Realm, err)
	}
	act, err := newClient(cfg, source(cfg.Token, cfg.TokenFile))
	if err != nil {
		return nil, fmt.Errorf("configuration of vault for realm %s: %w", d.Realm, err)
	}
	proofToken := source(cfg.ProofToken, cfg.ProofTokenFile)
	if !cfg.hasProof() {
		proofToken = act.token
	}
	proof, err := newClient(cfg, proofToken)
	if err != nil {
		return nil, fmt.Errorf("configuration of vault for realm %s: %w", d.Realm, err)
	}
	probe, err := newClient(cfg, nil)
	if err != nil {
		return nil, fmt.Errorf("configuration of vault for realm %s: %w", d.Realm, err)
	}
	return &Connector{
		realm: d.Realm, cfg: cfg, clock: d.Clock, deps: d, act: act, proof: proof, probe: probe,
		owned: map[string]tokenInfo{}, known: map[string]tokenInfo{},
		hmacs: map[string]map[string]string{}, salts: map[string]string{},
		seen: map[staunch.Ref]staunch.Ref{}, alive: map[staunch.Ref]bool{},
	}, nil
}

func (c Config) hasProof() bool { return !c.ProofToken.Empty() || c.ProofTokenFile != "" }

// complete checks the configuration and fills in defaults.
func (c *Config) complete() error {
	var errs []error
	bad := func(place, reason string) { errs = append(errs, &staunch.Problem{Place: place, Reason: reason}) }
	if _, err := base(c.Address); err != nil {
		errs = append(errs, err)
	}
	if c.Token.Empty() == (c.TokenFile == "") {
		bad("token", "set either token or token_file")
	}
	if !c.ProofToken.Empty() && c.ProofTokenFile != "" {
		bad("proof_token", "set either proof_token or proof_token_file")
	}
	if !c.ProofToken.Empty() && c.ProofToken == c.Token || c.ProofTokenFile != "" && c.ProofTokenFile == c.TokenFile {
		bad("proof_token", "it must be another token than the one that acts")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		bad("tls", "set both cert_file and key_file, or neither")
	}
	if len(c.AuditDevices) > maxAuditDevices {
		bad("audit_devices", fmt.Sprintf("%d devices, at most %d", len(c.AuditDevices), maxAuditDevices))
	}
	for _, d := range c.AuditDevices {
		if checkPath(d, 1) != nil {
			bad("audit_devices", fmt.Sprintf("%q is not the path of an audit device", d))
		}
	}
	switch {
	case c.MaxAccessors == 0:
		c.MaxAccessors = defaultMaxAccessors
	case c.MaxAccessors < 1 || c.MaxAccessors > limitMaxAccessors:
		bad("max_accessors", fmt.Sprintf("%d is not between 1 and %d", c.MaxAccessors, limitMaxAccessors))
	}
	switch {
	case c.MinPrefixDepth == 0:
		c.MinPrefixDepth = defaultPrefixDepth
	case c.MinPrefixDepth < minPrefixDepth:
		bad("min_prefix_depth", fmt.Sprintf("%d would let a whole secrets engine be revoked; at least %d", c.MinPrefixDepth, minPrefixDepth))
	}
	bounded := func(place string, d *staunch.Duration, def time.Duration) {
		switch t := d.Std(); {
		case t == 0:
			*d = staunch.Duration(def)
		case t < 0 || t > maxTimeout:
			bad(place, fmt.Sprintf("%s is not between 0 and %s", t, maxTimeout))
		}
	}
	bounded("timeout", &c.Timeout, defaultTimeout)
	bounded("search_time", &c.SearchTime, defaultSearchTime)
	if n := len(c.Protect.Entities) + len(c.Protect.Accessors); n > maxProtected {
		bad("protect", fmt.Sprintf("%d entries, at most %d", n, maxProtected))
	}
	for _, id := range c.Protect.Entities {
		if !validID(id) {
			bad("protect.entities", fmt.Sprintf("%q is not an entity id", id))
		}
	}
	for _, a := range c.Protect.Accessors {
		if !validID(a) {
			bad("protect.accessors", fmt.Sprintf("%q is not an accessor", a))
		}
	}
	return errors.Join(errs...)
}

// Describe declares what the connector can do.
func (c *Connector) Describe() connector.Description { return describe(c.realm) }

func describe(realm string) connector.Description {
	return connector.Description{
		Platform: Platform,
		Realm:    realm,
		Verbs: []connector.VerbSpec{
			{
				Verb: staunch.VerbSuspend, Tier: staunch.TierIsolate, Attribute: AttributeDisabled,
				Kinds: []staunch.Kind{staunch.KindAccount}, Schemes: []string{SchemeEntity},
				Reversibility: staunch.Reversible, Narrowest: staunch.KindAccount, Revives: true,
				Survives: []string{
					"leases already issued, such as database users and their open sessions, until they are revoked or run out",
					"tokens that belong to no entity",
					"what the entity read before: secrets are copied, not lent",
					"all of its tokens come back to life when it is enabled again, batch tokens among them",
				},
				Verified: "the entity's disabled flag, read with the proof token; a sealed token of it tried against auth/token/lookup-self",
				Permissions: []string{
					"read and update on identity/entity/id/*",
				},
				D3FEND: []string{"D3-AL"},
			},
			{
				Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke, Attribute: AttributeToken,
				Kinds: []staunch.Kind{staunch.KindCredential}, Schemes: []string{SchemeAccessor},
				Reversibility: staunch.Irreversible, Narrowest: staunch.KindCredential,
				Survives: []string{
					"the credential that it was got with: a password, an AppRole secret-id or a role can log in again",
					"other tokens of its entity, and its orphans",
					"its leases for a moment: Vault revokes them in the background after the call returns",
					"batch tokens, which cannot be revoked",
				},
				Verified: "the accessor, looked up with the proof token, is unknown; a sealed token of it is called invalid at auth/token/lookup-self",
				Permissions: []string{
					"update on auth/token/lookup-accessor, auth/token/revoke-accessor and auth/token/lookup",
					"list and sudo on auth/token/accessors",
					"update on sys/audit-hash/DEVICE, to resolve HMACs",
				},
				D3FEND: []string{"D3-CR"},
			},
			{
				Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke, Attribute: AttributeLease,
				Kinds: []staunch.Kind{staunch.KindCredential}, Schemes: []string{SchemeLease},
				Reversibility: staunch.Irreversible, Narrowest: staunch.KindCredential,
				Survives: []string{
					"the token that it was issued to, which can ask for another",
					"credentials that the backend cannot take back, such as certificates with a relying party that reads no CRL",
				},
				Verified:    "the lease, looked up with the proof token, is unknown; Vault drops it only after the backend has agreed",
				Permissions: []string{"update on sys/leases/lookup and sys/leases/revoke"},
				D3FEND:      []string{"D3-CR"},
			},
			{
				Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke, Attribute: AttributeLeases,
				Kinds: []staunch.Kind{staunch.KindCredential}, Schemes: []string{SchemeLeasePrefix},
				Reversibility: staunch.Irreversible, Narrowest: staunch.KindCredential,
				Survives: []string{
					"the tokens that the leases were issued to, which can ask for others",
				},
				Verified:    "no lease is listed under the path with the proof token",
				Permissions: []string{"list and sudo on sys/leases/lookup/PATH", "update and sudo on sys/leases/revoke-prefix/PATH"},
				D3FEND:      []string{"D3-CR"},
			},
		},
		Gaps: []string{
			"batch tokens have no accessor and cannot be revoked; only disabling their entity stops them",
			"tokens without an entity cannot be suspended, only revoked",
			"a token that is known only by the HMAC of an audit device cannot be found; its accessor's HMAC can",
			"Vault does not list the leases of a token: only those that a log named are revoked one by one",
			"destroying an AppRole secret-id leaves its tokens valid, so it is not among the verbs",
			"revoke-force is never used: it forgets the lease even where the backend still honours the credential",
		},
	}
}

func (c *Connector) ref(kind staunch.Kind, scheme, value string) staunch.Ref {
	return staunch.Ref{Kind: kind, Realm: c.realm, Scheme: scheme, Value: value}
}

func (c *Connector) entityRef(id string) staunch.Ref {
	return c.ref(staunch.KindAccount, SchemeEntity, id)
}

func (c *Connector) tokenRef(accessor string) staunch.Ref {
	return c.ref(staunch.KindCredential, SchemeAccessor, accessor)
}

var errClosed = errors.New("the connector is closed")

// open reports whether the connector may be used.
func (c *Connector) open() error {
	if c.closed.Load() {
		return staunch.Permanent(errClosed)
	}
	return nil
}

// Close closes the connections. Calling it again does nothing.
func (c *Connector) Close() error {
	c.closed.Store(true)
	for _, cl := range []*client{c.act, c.proof, c.probe} {
		cl.rest.CloseIdle()
	}
	return nil
}

// protected returns why the token or entity is never to be touched, "" where
// it may be.
func (c *Connector) protected(entity, accessor string) string {
	switch {
	case entity != "" && slices.Contains(c.cfg.Protect.Entities, entity):
		return "its entity is protected by the configuration"
	case accessor != "" && slices.Contains(c.cfg.Protect.Accessors, accessor):
		return "it is protected by the configuration"
	}
	return ""
}
