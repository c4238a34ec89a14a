package oauth2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

// tokenBody is an active token's state: what introspection says of it.
type tokenBody struct {
	Client  string `json:"client_id,omitempty"`
	Expires int64  `json:"exp,omitempty"` // Unix seconds
	Issued  int64  `json:"iat,omitempty"`
	Scope   string `json:"scope,omitempty"`
	Subject string `json:"sub,omitempty"`
	Type    string `json:"token_type,omitempty"`
}

// params is what Prepare fixes for Apply.
type params struct {
	Client string `json:"client_id,omitempty"`
}

// secret opens a sealed token and checks that it is the one that ref names.
func (c *Connector) secret(ctx context.Context, ref staunch.Ref) (staunch.Secret, error) {
	if c.deps.Secrets == nil {
		return staunch.Secret{}, staunch.Permanent(fmt.Errorf("the token itself was never seen: %w", staunch.ErrNotFound))
	}
	s, err := c.deps.Secrets.Open(ctx, ref)
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		return staunch.Secret{}, staunch.Permanent(fmt.Errorf("the token itself was never seen: %w", err))
	case err != nil:
		return staunch.Secret{}, fmt.Errorf("opening the sealed token: %w", err)
	case s.Digest() != ref.Value:
		return staunch.Secret{}, staunch.Permanent(errors.New("what is sealed has another digest"))
	}
	return s, nil
}

// introspect asks about a token with one credential.
func (c *Connector) introspect(ctx context.Context, cl *client, as Client, token staunch.Secret) (body tokenBody, active bool, err error) {
	what := "introspecting as client " + as.ID
	e, err := c.endpoints(ctx)
	if err != nil {
		return tokenBody{}, false, err
	}
	a, err := cl.do(ctx, what, request{method: http.MethodPost, url: e.introspection, form: c.form(token), as: as})
	if err != nil {
		return tokenBody{}, false, err
	}
	// Exact names, and only active must be as RFC 7662 has it: the rest says
	// whose token it is, and servers differ.
	var d map[string]json.RawMessage
	if err := json.Unmarshal(a.Body, &d); err != nil {
		return tokenBody{}, false, staunch.Permanent(fmt.Errorf("%s: decoding the answer: %w", what, err))
	}
	switch string(d["active"]) {
	case "true":
	case "false":
		return tokenBody{}, false, nil
	default: // not an introspection endpoint: no proof of anything
		return tokenBody{}, false, staunch.Permanent(fmt.Errorf("%s: the answer does not say whether the token is active", what))
	}
	return tokenBody{
		Client: text(d["client_id"]), Expires: number(d["exp"]), Issued: number(d["iat"]),
		Scope: text(d["scope"]), Subject: text(d["sub"]), Type: text(d["token_type"]),
	}, true, nil
}

// text reads a JSON string, "" from anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil || len(s) > staunch.MaxValueLen || strings.IndexByte(s, 0) >= 0 {
		return ""
	}
	return s
}

// number reads a JSON number of seconds, 0 from anything that is no date.
func number(raw json.RawMessage) int64 {
	var f float64
	if json.Unmarshal(raw, &f) != nil || f < 0 || f > 253402300799 { // the year 9999
		return 0
	}
	return int64(f)
}

func (c *Connector) form(token staunch.Secret) url.Values {
	f := url.Values{"token": {token.Reveal()}}
	if c.cfg.TokenTypeHint != "" {
		f.Set("token_type_hint", c.cfg.TokenTypeHint)
	}
	return f
}

// askers returns the credentials that may know of a token, in the order in
// which they are asked.
func (c *Connector) askers(digest string, proof bool) []Client {
	c.mu.Lock()
	owner := c.owners[digest]
	c.mu.Unlock()
	var out []Client
	add := func(cl Client) {
		if cl.ID != "" && !slices.ContainsFunc(out, func(o Client) bool { return o.ID == cl.ID }) {
			out = append(out, cl)
		}
	}
	if proof {
		add(c.cfg.Proof)
	}
	known, ok := c.cfg.credential(owner)
	add(known)
	add(c.cfg.Client)
	if !ok { // any of them may be the one that it was issued to
		for _, cl := range c.cfg.Clients {
			add(cl)
		}
	}
	add(c.cfg.Proof)
	return out
}

// look asks about a token until a credential sees it as active. It is inactive
// only when every one that the server lets introspect says so: to a client that
// may not know of it, a token is inactive too.
func (c *Connector) look(ctx context.Context, token staunch.Secret, proof bool) (tokenBody, bool, error) {
	cl := c.act
	if proof {
		cl = c.proof
	}
	digest := token.Digest()
	var refused error
	answers := 0
	for _, as := range c.askers(digest, proof) {
		body, active, err := c.introspect(ctx, cl, as, token)
		switch {
		case err != nil && staunch.ClassOf(err) == staunch.ClassDenied && c.dispensable(as, digest, proof):
			refused = err
			continue
		case err != nil:
			return tokenBody{}, false, err
		case active:
			if body.Client != "" {
				c.mu.Lock()
				remember(c.owners, digest, body.Client)
				c.mu.Unlock()
			}
			return body, true, nil
		}
		answers++
	}
	if answers == 0 {
		return tokenBody{}, false, refused
	}
	return tokenBody{}, false, nil
}

// dispensable reports whether a look may do without the credential: not when
// it is the one to prove with, nor when the token was issued to it, but it may
// be a client's that has nothing to do with the token.
func (c *Connector) dispensable(as Client, digest string, proof bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return as.ID != c.owners[digest] && (!proof || as.ID != c.cfg.Proof.ID)
}

// Read introspects the token; with proof the proof client is asked first, over
// connections of its own.
func (c *Connector) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	if err := c.open(); err != nil {
		return staunch.State{}, err
	}
	if err := c.checkTarget(t); err != nil {
		return staunch.State{}, err
	}
	token, err := c.secret(ctx, t.Ref)
	if err != nil {
		return staunch.State{}, fmt.Errorf("reading %s: %w", t, err)
	}
	st, _, err := c.read(ctx, t, token, proof)
	if err != nil {
		return staunch.State{}, fmt.Errorf("reading %s: %w", t, err)
	}
	return st, nil
}

func (c *Connector) read(ctx context.Context, t staunch.Target, token staunch.Secret, proof bool) (staunch.State, tokenBody, error) {
	body, active, err := c.look(ctx, token, proof)
	if err != nil {
		return staunch.State{}, tokenBody{}, err
	}
	st := staunch.State{
		V: staunch.Version, Target: t, Exists: active, Effective: active,
		ReadAt: staunch.TimeOf(c.clock.Now()), Summary: "inactive",
	}
	if active {
		st.Summary = "active"
		if body.Client != "" {
			st.Summary += ", issued to client " + body.Client
		}
		if st.Body, err = json.Marshal(body); err != nil {
			return staunch.State{}, tokenBody{}, staunch.Permanent(fmt.Errorf("encoding the state: %w", err))
		}
	}
	return st, body, nil
}

// Prepare says which client revokes. A token that is not active is as wanted.
func (c *Connector) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	if err := c.checkTarget(st.Target); err != nil {
		return staunch.Intent{}, fmt.Errorf("preparing %s: %w", verb, err)
	}
	if verb != staunch.VerbRevoke {
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("%w: no %s of %s", staunch.ErrInvalid, verb, st.Target))
	}
	b, err := bodyOf(st)
	if err != nil {
		return staunch.Intent{}, err
	}
	p, err := json.Marshal(params{Client: b.Client})
	if err != nil {
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("preparing %s: %w", verb, err))
	}
	as := c.revoker(b.Client)
	return staunch.Intent{
		Target: st.Target, Verb: verb, Undo: "irreversible", Reversibility: staunch.Irreversible, Params: p,
		Call:     "POST to the revocation endpoint as client " + as.ID + ", token " + st.Target.Ref.Value,
		Expected: staunch.State{V: staunch.Version, Target: st.Target, Summary: "inactive"},
	}, nil
}

func bodyOf(st staunch.State) (b tokenBody, err error) {
	if len(st.Body) > 0 {
		if err := json.Unmarshal(st.Body, &b); err != nil {
			return b, staunch.Permanent(fmt.Errorf("reading the state: %w", err))
		}
	}
	return b, nil
}

// revoker returns the credential that revokes a client's tokens; its ID is
// empty where there is none.
func (c *Connector) revoker(client string) Client {
	if cl, ok := c.cfg.credential(client); ok {
		return cl
	}
	if c.cfg.Client.ID != "" {
		return c.cfg.Client
	}
	if client == "" && len(c.cfg.Clients) == 1 {
		return c.cfg.Clients[0]
	}
	return Client{}
}

// Matches compares existence, effect and body.
func (c *Connector) Matches(expected, actual staunch.State) bool {
	return expected.Exists == actual.Exists && expected.Effective == actual.Effective && bytes.Equal(expected.Body, actual.Body)
}

// sighting is an active token as Expand saw it.
type sighting struct {
	body tokenBody
	at   time.Time
}

// sightingFor is how long one Apply may rely on what Expand saw. Whose token it is
// cannot change; at worst one that has just gone is revoked once more.
const sightingFor = 5 * time.Second

// justLooked returns what Expand saw of the token a moment ago, once.
func (c *Connector) justLooked(digest string) (tokenBody, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.looked[digest]
	delete(c.looked, digest)
	return l.body, ok && c.clock.Now().Sub(l.at) < sightingFor
}

// Apply revokes the token with the credential of the client that it was issued
// to. Unless Expand has just done so, it looks first: the server's answer does
// not tell a revocation from a token that was gone.
func (c *Connector) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	r, err := c.apply(ctx, in)
	if err != nil {
		return staunch.Receipt{}, fmt.Errorf("%s of %s: %w", in.Verb, in.Target, err)
	}
	r.At = staunch.TimeOf(c.clock.Now())
	return r, nil
}

func (c *Connector) wall(in staunch.Intent) error {
	if err := c.open(); err != nil {
		return err
	}
	if err := c.checkTarget(in.Target); err != nil {
		return err
	}
	if in.Verb != staunch.VerbRevoke {
		return staunch.Permanent(fmt.Errorf("%w: no such verb", staunch.ErrInvalid))
	}
	return nil
}

func (c *Connector) apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if err := c.wall(in); err != nil {
		return staunch.Receipt{}, err
	}
	var p params
	if len(in.Params) > 0 {
		if err := json.Unmarshal(in.Params, &p); err != nil {
			return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("reading the parameters: %w", err))
		}
	}
	token, err := c.secret(ctx, in.Target.Ref)
	if err != nil {
		return staunch.Receipt{}, err
	}
	body, fresh := c.justLooked(in.Target.Ref.Value)
	if !fresh {
		var now staunch.State
		now, body, err = c.read(ctx, in.Target, token, false)
		switch {
		case err != nil:
			return staunch.Receipt{}, err
		case !now.Effective:
			return staunch.Receipt{Note: "nothing to do: the token is not active"}, nil
		}
	}
	if why := c.protected(body); why != "" {
		return staunch.Receipt{}, staunch.Permanent(errors.New(why))
	}
	if p.Client == "" {
		p.Client = body.Client
	}
	as := c.revoker(p.Client)
	if as.ID == "" {
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("the token was issued to client %q, and neither its credential nor one that may revoke for it is configured", p.Client))
	}
	e, err := c.endpoints(ctx)
	if err != nil {
		return staunch.Receipt{}, err
	}
	what := "revoking as client " + as.ID
	_, err = c.act.do(ctx, what, request{
		method: http.MethodPost, url: e.revocation, form: c.form(token), as: as,
		key: in.Key, until: in.Deadline, now: c.clock.Now(),
	})
	var se *rest.StatusError
	if errors.As(err, &se) && se.Code == "unsupported_token_type" {
		c.mu.Lock()
		remember(c.refuse, strings.ToLower(body.Type), c.clock.Now())
		c.mu.Unlock()
	}
	if err != nil && staunch.ClassOf(err) == staunch.ClassDenied && p.Client != as.ID {
		err = fmt.Errorf("%w; the token was issued to client %q: configure its credential under clients", err, p.Client)
	}
	if err != nil {
		return staunch.Receipt{}, err
	}
	return staunch.Receipt{Changed: true, Note: "the server accepted the revocation by client " + as.ID + ", which proves nothing yet"}, nil
}

// Revert fails: a revocation cannot be undone.
func (c *Connector) Revert(_ context.Context, in staunch.Intent) (staunch.Receipt, error) {
	err := c.wall(in)
	if err == nil {
		err = staunch.Permanent(errors.New("a revocation cannot be undone"))
	}
	return staunch.Receipt{}, fmt.Errorf("undoing %s of %s: %w", in.Verb, in.Target, err)
}

// Probe shows the token to the configured resource, as the thief would. A
// refresh token is never shown to a resource.
func (c *Connector) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	if err := c.open(); err != nil {
		return connector.Probe{}, err
	}
	if err := c.checkTarget(in.Target); err != nil {
		return connector.Probe{}, err
	}
	if c.cfg.ProbeURL == "" {
		return connector.Probe{How: "no probe_url is configured"}, nil
	}
	b, err := bodyOf(in.PreImage)
	if err != nil {
		return connector.Probe{}, err
	}
	if !strings.EqualFold(b.Type, "bearer") && c.cfg.TokenTypeHint != "access_token" {
		return connector.Probe{How: "not known to be an access token, so it is shown to nobody"}, nil
	}
	token, err := c.secret(ctx, in.Target.Ref)
	if err != nil {
		return connector.Probe{}, fmt.Errorf("probing %s: %w", in.Target, err)
	}
	defer c.probe.rest.CloseIdle()
	how := "GET " + c.cfg.ProbeURL + " with the token"
	_, err = c.probe.do(ctx, "probing", request{method: http.MethodGet, url: c.cfg.ProbeURL, bearer: token})
	var se *rest.StatusError
	switch {
	case err == nil:
		return connector.Probe{Works: true, Conclusive: true, How: how + " works"}, nil
	case errors.As(err, &se) && se.Status == http.StatusUnauthorized:
		return connector.Probe{Conclusive: true, How: how + " is refused"}, nil
	case errors.As(err, &se):
		return connector.Probe{How: fmt.Sprintf("%s gives status %d", how, se.Status)}, nil
	}
	// The resource is not the authorization server: that it is down neither
	// proves nor keeps anything from being proven.
	return connector.Probe{How: how + " failed: " + err.Error()}, nil
}

// refuseFor is how long unsupported_token_type is remembered.
const refuseFor = time.Hour

// Expand introspects the sealed tokens among the subject's names and those
// derived from it.
func (c *Connector) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	var out connector.Expansion
	if err := c.open(); err != nil {
		return out, err
	}
	if req.Subject.Realm != c.realm {
		return out, staunch.Permanent(fmt.Errorf("expanding %s: %w: it is on another realm than %s", req.Subject, staunch.ErrInvalid, c.realm))
	}
	var done []staunch.Ref
	visit := func(ref staunch.Ref, derived bool) error {
		if ref.Realm != c.realm || ref.Kind != staunch.KindCredential || ref.Scheme != SchemeDigest || slices.Contains(done, ref) {
			return nil
		}
		done = append(done, ref)
		if err := c.expand(ctx, ref, req, derived, &out); err != nil {
			return fmt.Errorf("expanding %s: %w", ref, err)
		}
		return nil
	}
	for _, n := range append([]staunch.Ref{req.Subject}, req.Names...) {
		if err := visit(n, false); err != nil {
			return connector.Expansion{}, err
		}
	}
	if len(done) == 0 {
		reason := "only a token that was seen itself can be revoked, and none is known under this name"
		if req.Subject.Kind == staunch.KindAccount {
			reason = "OAuth 2 has no interface to suspend an account or client: its tokens are revoked one by one, as far as they were seen"
		}
		out.Gaps = append(out.Gaps, staunch.Gap{Ref: req.Subject, Reason: reason})
	}
	for _, d := range req.Derived {
		if err := visit(d, true); err != nil {
			return connector.Expansion{}, err
		}
	}
	return out, nil
}

func (c *Connector) expand(ctx context.Context, ref staunch.Ref, req connector.ExpandRequest, derived bool, out *connector.Expansion) error {
	t := staunch.Target{Ref: ref, Attribute: AttributeToken}
	if err := c.checkTarget(t); err != nil {
		return err
	}
	gap := func(reason string) { out.Gaps = append(out.Gaps, staunch.Gap{Ref: ref, Reason: reason}) }
	token, err := c.secret(ctx, ref)
	if errors.Is(err, staunch.ErrNotFound) {
		gap("the token itself was never seen, and a digest cannot be revoked")
		return nil
	}
	if err != nil {
		return err
	}
	st, b, err := c.read(ctx, t, token, false)
	if err != nil {
		return err
	}
	if !st.Exists {
		if !derived {
			gap("the server says that the token is not active: it was revoked, has run out or is another server's")
		}
		return nil
	}
	if b.Issued > 0 {
		f := staunch.Fact{
			V: staunch.Version, Type: staunch.FactCredentialIssued, Subject: ref, Time: staunch.TimeOf(time.Unix(b.Issued, 0)),
			Learned: st.ReadAt, Source: "connector/" + Platform,
		}
		if b.Expires > 0 {
			f.Until = staunch.TimeOf(time.Unix(b.Expires, 0))
		}
		if b.Client != "" {
			f.Of = c.account(SchemeClient, b.Client)
		}
		if b.Subject != "" && b.Subject != b.Client {
			f.Of, f.By = c.account(SchemeSubject, b.Subject), f.Of
		}
		f.ID = staunch.FactID(f)
		out.Facts = append(out.Facts, f)
	}
	c.mu.Lock()
	refusedAt, refused := c.refuse[strings.ToLower(b.Type)]
	c.mu.Unlock()
	as := c.revoker(b.Client)
	switch why := c.protected(b); {
	case why != "":
		gap(why)
	case req.Tier < staunch.TierRevoke || len(req.Verbs) > 0 && !slices.Contains(req.Verbs, staunch.VerbRevoke):
		gap("a token can only be revoked; at this tier the fast plane is what denies it")
	case refused && c.clock.Now().Sub(refusedAt) < refuseFor:
		gap("the server does not revoke such tokens (unsupported_token_type)")
	case as.ID == "":
		gap(fmt.Sprintf("it was issued to client %q, and no credential that may revoke it is configured", b.Client))
	default:
		if b.Client != "" && as.ID != b.Client {
			gap(fmt.Sprintf("it was issued to client %q, whose credential is not configured: whether client %q may revoke it is the server's choice", b.Client, as.ID))
		}
		c.mu.Lock()
		remember(c.looked, ref.Value, sighting{b, c.clock.Now()})
		c.mu.Unlock()
		out.Actions = append(out.Actions, connector.Action{Target: t, Verb: staunch.VerbRevoke, State: &st})
	}
	return nil
}
