// Package oauth2 revokes the tokens of an OAuth 2 authorization server (RFC
// 7009) and proves it by introspection (RFC 7662).
//
// A revocation endpoint answers 200 for tokens that it does not know, and some
// servers also for tokens that the client may not revoke, so its answer is
// never taken for proof. An introspection endpoint answers "inactive" to a
// client that may not know, so a token counts as inactive only when every
// credential at hand that could know of it says so.
package oauth2

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

// Platform is the connector's name in the configuration.
const Platform = "oauth2"

const (
	// SchemeDigest names a token by "sha256:" and its hex digest; the token
	// itself is sealed.
	SchemeDigest = "sha256"
	// SchemeClient names an account by its client_id.
	SchemeClient = "client-id"
	// SchemeSubject names an account by the sub of its tokens.
	SchemeSubject = "sub"
	// AttributeToken is whether the token is active.
	AttributeToken = "token"
	// StepHeader carries the step's key on every revocation.
	StepHeader = "X-Staunch-Step"
)

const (
	defaultTimeout = 10 * time.Second
	maxTimeout     = 5 * time.Minute
	maxClients     = 64
	maxProtected   = 10_000
)

// Config is the connector's part of the configuration.
type Config struct {
	// Issuer is the server's issuer identifier. Endpoints that are not given are
	// looked up in its metadata (RFC 8414).
	Issuer string `yaml:"issuer" json:"issuer,omitempty"`
	// RevocationEndpoint and IntrospectionEndpoint are the full addresses. Plain
	// HTTP is for loopback addresses only.
	RevocationEndpoint    string `yaml:"revocation_endpoint" json:"revocation_endpoint,omitempty"`
	IntrospectionEndpoint string `yaml:"introspection_endpoint" json:"introspection_endpoint,omitempty"`
	// Client revokes what was issued to a client that is not in Clients; the
	// server must let it.
	Client Client `yaml:"client" json:"client,omitzero"`
	// Clients are the credentials of the clients whose tokens are revoked: most
	// servers let a token be revoked only by the client it was issued to.
	Clients []Client `yaml:"clients" json:"clients,omitempty"`
	// Proof is the other credential, which introspects for proof.
	Proof Client `yaml:"proof" json:"proof,omitzero"`
	// TokenTypeHint is sent along: access_token, refresh_token or nothing.
	TokenTypeHint string `yaml:"token_type_hint" json:"token_type_hint,omitempty"`
	// ProbeURL is a resource that accepts the server's access tokens. A GET with
	// the stolen token is tried there before the effect counts as proven: 401 is
	// refused, 2xx works, anything else proves nothing.
	ProbeURL string `yaml:"probe_url" json:"probe_url,omitempty"`
	// CAFile has the certificates in PEM form that sign the server's; empty gives
	// the system's.
	CAFile string `yaml:"ca_file" json:"ca_file,omitempty"`
	// Timeout bounds every call; 0 gives 10s.
	Timeout staunch.Duration `yaml:"timeout" json:"timeout,omitempty"`
	Protect Protect          `yaml:"protect" json:"protect,omitzero"`
}

// Client is a credential at the authorization server.
type Client struct {
	ID     string         `yaml:"id" json:"id,omitempty"`
	Secret staunch.Secret `yaml:"secret" json:"secret,omitzero"`
	// Auth is how the client authenticates: "basic" (client_secret_basic, the
	// default), "post" (client_secret_post) or "none" (a public client).
	Auth string `yaml:"auth" json:"auth,omitempty"`
}

// The ways in which a client authenticates.
const (
	authBasic = "basic"
	authPost  = "post"
	authNone  = "none"
)

// Protect lists whose tokens are never revoked, whatever was decided.
type Protect struct {
	// Clients has client ids.
	Clients []string `yaml:"clients" json:"clients,omitempty"`
	// Subjects has values of sub.
	Subjects []string `yaml:"subjects" json:"subjects,omitempty"`
}

// Connector acts on one authorization server.
type Connector struct {
	realm string
	cfg   Config
	clock staunch.Clock
	deps  connector.Deps

	// act revokes and reads around it, proof reads for proof, probe is a client
	// like the thief's.
	act, proof, probe *client
	closed            atomic.Bool
	// meta is held while the metadata is fetched.
	meta chan struct{}

	mu     sync.Mutex
	found  *endpoints
	owners map[string]string // a token's digest → the client that it was issued to
	refuse map[string]time.Time
	looked map[string]sighting // by digest
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

// New makes a connector. It reads the certificate file and connects to nothing.
func New(d connector.Deps) (*Connector, error) {
	var cfg Config
	if err := d.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("decoding the configuration of oauth2 for realm %s: %w", d.Realm, err)
	}
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("configuration of oauth2 for realm %s: %w", d.Realm, err)
	}
	c := &Connector{
		realm: d.Realm, cfg: cfg, clock: d.Clock, deps: d, meta: make(chan struct{}, 1),
		owners: map[string]string{}, refuse: map[string]time.Time{}, looked: map[string]sighting{},
	}
	for _, cl := range []**client{&c.act, &c.proof, &c.probe} {
		var err error
		if *cl, err = newClient(cfg); err != nil {
			return nil, fmt.Errorf("configuration of oauth2 for realm %s: %w", d.Realm, err)
		}
	}
	return c, nil
}

// complete checks the configuration and fills in defaults.
func (c *Config) complete() error {
	var errs []error
	bad := func(place, reason string) { errs = append(errs, &staunch.Problem{Place: place, Reason: reason}) }
	address := func(place, v string) {
		if v != "" {
			if _, err := rest.ParseURL(place, v); err != nil {
				errs = append(errs, err)
			}
		}
	}
	address("issuer", c.Issuer)
	address("revocation_endpoint", c.RevocationEndpoint)
	address("introspection_endpoint", c.IntrospectionEndpoint)
	address("probe_url", c.ProbeURL)
	if u, err := url.Parse(c.Issuer); err == nil && (u.RawQuery != "" || u.Fragment != "") {
		bad("issuer", "an issuer has no query and no fragment")
	}
	if c.Issuer == "" && (c.RevocationEndpoint == "" || c.IntrospectionEndpoint == "") {
		bad("issuer", "set issuer, or both revocation_endpoint and introspection_endpoint")
	}
	if c.Client.ID == "" && len(c.Clients) == 0 {
		bad("client", "set client or clients: somebody has to revoke")
	}
	if len(c.Clients) > maxClients {
		bad("clients", fmt.Sprintf("%d clients, at most %d", len(c.Clients), maxClients))
	}
	check := func(place string, cl *Client, required bool) {
		switch {
		case cl.ID == "" && (required || !cl.Secret.Empty() || cl.Auth != ""):
			bad(place+".id", "it must be set")
		case cl.ID == "":
			return
		}
		switch cl.Auth {
		case "":
			cl.Auth = authBasic
		case authBasic, authPost, authNone:
		default:
			bad(place+".auth", fmt.Sprintf("%q is not basic, post or none", cl.Auth))
		}
		if (cl.Auth == authNone) != cl.Secret.Empty() {
			bad(place+".secret", "it must be set for auth basic and post, and must not for none")
		}
	}
	c.Clients = slices.Clone(c.Clients)
	check("client", &c.Client, false)
	check("proof", &c.Proof, false)
	for i := range c.Clients {
		place := fmt.Sprintf("clients[%d]", i)
		check(place, &c.Clients[i], true)
		if slices.ContainsFunc(c.Clients[:i], func(o Client) bool { return o.ID == c.Clients[i].ID }) {
			bad(place+".id", "it comes twice")
		}
	}
	if c.Proof.ID != "" && c.Proof.ID == c.Client.ID {
		bad("proof", "it must be another client than the one that revokes")
	}
	if !slices.Contains([]string{"", "access_token", "refresh_token"}, c.TokenTypeHint) {
		bad("token_type_hint", fmt.Sprintf("%q is not access_token or refresh_token", c.TokenTypeHint))
	}
	switch t := c.Timeout.Std(); {
	case t == 0:
		c.Timeout = staunch.Duration(defaultTimeout)
	case t < 0 || t > maxTimeout:
		bad("timeout", fmt.Sprintf("%s is not between 0 and %s", t, maxTimeout))
	}
	if n := len(c.Protect.Clients) + len(c.Protect.Subjects); n > maxProtected {
		bad("protect", fmt.Sprintf("%d entries, at most %d", n, maxProtected))
	}
	if slices.Contains(c.Protect.Clients, "") || slices.Contains(c.Protect.Subjects, "") {
		bad("protect", "an empty entry")
	}
	return errors.Join(errs...)
}

// credential returns the credential of a client, if it is configured.
func (c *Config) credential(id string) (Client, bool) {
	for _, cl := range append([]Client{c.Client}, c.Clients...) {
		if id != "" && cl.ID == id {
			return cl, true
		}
	}
	return Client{}, false
}

// Describe declares what the connector can do.
func (c *Connector) Describe() connector.Description { return describe(c.realm) }

func describe(realm string) connector.Description {
	return connector.Description{
		Platform: Platform,
		Realm:    realm,
		Verbs: []connector.VerbSpec{{
			Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke, Attribute: AttributeToken,
			Kinds: []staunch.Kind{staunch.KindCredential}, Schemes: []string{SchemeDigest},
			Reversibility: staunch.Irreversible, Narrowest: staunch.KindCredential,
			Survives: []string{
				"resource servers that validate signed tokens by themselves and ask nobody, until the token runs out",
				"resource servers that cache introspection, for as long as they cache",
				"access tokens of a revoked refresh token, where the server does not revoke them with it",
				"the refresh token and the grant of a revoked access token, where the server keeps them: a new token can be had",
				"the client's secret or the account's login that the token was got with",
			},
			Verified: "introspection with the proof client, and with the client that the token was issued to, says inactive; a GET of probe_url with the token is refused",
			Permissions: []string{
				"revocation with the credential of the client that the token was issued to, or of one that may revoke for others",
				"introspection with the proof client",
			},
			D3FEND: []string{"D3-CR"},
		}},
		Gaps: []string{
			"a token can be revoked only when it was seen itself, and is sealed",
			"a token cannot be suspended; at lower tiers the fast plane is what denies it",
			"sessions and grants behind a token have no standard interface to end them",
			"a server may not revoke access tokens at all (unsupported_token_type)",
		},
	}
}

func (c *Connector) account(scheme, value string) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: c.realm, Scheme: scheme, Value: value}
}

var errClosed = errors.New("the connector is closed")

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

// checkTarget reports why t is not a target of this connector.
func (c *Connector) checkTarget(t staunch.Target) error {
	err := t.Ref.Validate()
	switch {
	case err != nil:
	case t.Ref.Realm != c.realm:
		err = fmt.Errorf("%w: it is on another realm than %s", staunch.ErrInvalid, c.realm)
	case t.Ref.Kind != staunch.KindCredential || t.Ref.Scheme != SchemeDigest || t.Attribute != AttributeToken:
		err = fmt.Errorf("%w: no such scheme and attribute", staunch.ErrInvalid)
	case !isDigest(t.Ref.Value):
		err = fmt.Errorf("%w: not sha256: and 64 hex digits", staunch.ErrInvalid)
	}
	if err != nil {
		return staunch.Permanent(fmt.Errorf("target %s: %w", t, err))
	}
	return nil
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && !strings.ContainsFunc(hex, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'f')
	})
}

// protected returns why a token is never to be revoked, "" where it may be.
func (c *Connector) protected(b tokenBody) string {
	switch {
	case b.Client != "" && slices.Contains(c.cfg.Protect.Clients, b.Client):
		return "it was issued to a client that is protected by the configuration"
	case b.Subject != "" && slices.Contains(c.cfg.Protect.Subjects, b.Subject):
		return "it was issued to a subject that is protected by the configuration"
	}
	return ""
}

// maxRemembered bounds each of the connector's memories; they make calls fewer,
// and nothing is wrong without them.
const maxRemembered = 10_000

// remember puts into a bounded map; when it is full, anything else goes.
func remember[K comparable, V any](m map[K]V, k K, v V) {
	if _, ok := m[k]; !ok && len(m) >= maxRemembered {
		for old := range m {
			delete(m, old)
			break
		}
	}
	m[k] = v
}
