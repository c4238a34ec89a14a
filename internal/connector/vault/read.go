package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	maxIDLen = 256
	// Bounds of a walk through the leases under a path.
	maxLeases     = 20_000
	maxLeaseDepth = 16
)

// validID reports whether s may be an entity id or an accessor.
func validID(s string) bool {
	if s == "" || len(s) > maxIDLen || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// checkPath checks a lease id or prefix: at least depth segments, none empty
// or relative, nothing that a URL or a person would read as something else.
func checkPath(p string, depth int) error {
	parts := strings.Split(p, "/")
	for _, s := range parts {
		if s == "" || s == "." || s == ".." {
			return fmt.Errorf("%w: %q has an empty or relative segment", staunch.ErrInvalid, p)
		}
	}
	if strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`*%?#\`, r) }) {
		return fmt.Errorf("%w: %q has a character that no path of a lease has", staunch.ErrInvalid, p)
	}
	if len(parts) < depth {
		return fmt.Errorf("%w: %q has %d path segments, at least %d are asked for", staunch.ErrInvalid, p, len(parts), depth)
	}
	if parts[0] == "auth" || parts[0] == "sys" {
		// The leases there are tokens' own: their accessors name them one by one,
		// and ours may be among those under a path.
		return fmt.Errorf("%w: %q is not a secrets engine's; tokens are revoked by accessor", staunch.ErrInvalid, p)
	}
	return nil
}

// escape makes a checked path fit for a URL.
func escape(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = url.PathEscape(s)
	}
	return strings.Join(parts, "/")
}

// checkTarget reports why t is not a target of this connector.
func (c *Connector) checkTarget(t staunch.Target) error {
	if err := t.Ref.Validate(); err != nil {
		return staunch.Permanent(fmt.Errorf("target %s: %w", t, err))
	}
	var err error
	switch key := string(t.Ref.Kind) + " " + t.Ref.Scheme + " " + t.Attribute; {
	case t.Ref.Realm != c.realm:
		err = fmt.Errorf("%w: it is on another realm than %s", staunch.ErrInvalid, c.realm)
	case key == "account "+SchemeEntity+" "+AttributeDisabled, key == "credential "+SchemeAccessor+" "+AttributeToken:
		if !validID(t.Ref.Value) {
			err = fmt.Errorf("%w: not an entity id or accessor", staunch.ErrInvalid)
		}
	case key == "credential "+SchemeLease+" "+AttributeLease:
		err = checkPath(t.Ref.Value, 2)
	case key == "credential "+SchemeLeasePrefix+" "+AttributeLeases:
		err = checkPath(t.Ref.Value, c.cfg.MinPrefixDepth)
	default:
		err = fmt.Errorf("%w: no such scheme and attribute", staunch.ErrInvalid)
	}
	if err != nil {
		return staunch.Permanent(fmt.Errorf("target %s: %w", t, err))
	}
	return nil
}

// tokenInfo is what Vault says of a token and does not change.
type tokenInfo struct {
	Accessor string   `json:"accessor"`
	Entity   string   `json:"entity_id"`
	Type     string   `json:"type"`
	Path     string   `json:"path"`
	Orphan   bool     `json:"orphan"`
	Policies []string `json:"policies"`
	Created  int64    `json:"creation_time"` // Unix seconds
	// What changes is left out of states.
	Expires   *time.Time `json:"expire_time"`
	TTL       int64      `json:"ttl"` // seconds
	Renewable bool       `json:"renewable"`
	Uses      int64      `json:"num_uses"`
}

// dying reports whether the token is refused already, and is there only until
// Vault has revoked its children and leases.
func (t tokenInfo) dying() bool { return t.Uses < 0 }

func (t tokenInfo) created() staunch.Time { return staunch.TimeOf(time.Unix(t.Created, 0)) }

func (t tokenInfo) until() staunch.Time {
	if t.Expires == nil {
		return 0
	}
	return staunch.TimeOf(*t.Expires)
}

// tokenBody is a token's state.
type tokenBody struct {
	Created  int64    `json:"created"`
	Entity   string   `json:"entity,omitempty"`
	Orphan   bool     `json:"orphan"`
	Path     string   `json:"path"`
	Policies []string `json:"policies,omitempty"`
	Type     string   `json:"type"`
}

type entityBody struct {
	Disabled bool `json:"disabled"`
}

type leaseBody struct {
	Issued string `json:"issued"`
}

type leasesBody struct {
	Count int `json:"count"`
	// Digest is of the sorted ids.
	Digest string `json:"digest"`
}

// entity reads an entity; ok is false where there is none. An answer from before
// the change that is known last is refused: a performance standby lags behind.
func (c *Connector) entity(ctx context.Context, cl *client, id string) (body entityBody, name string, ok bool, err error) {
	fresh := c.newest.Ask(id)
	a, err := cl.do(ctx, call{method: http.MethodGet, path: "identity/entity/id/" + url.PathEscape(id)})
	if refused(err, http.StatusNotFound, "") {
		return entityBody{}, "", false, nil
	}
	if err != nil {
		return entityBody{}, "", false, err
	}
	var d struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		Disabled *bool  `json:"disabled"`
		// Updated is when it was changed last; other servers may not tell.
		Updated time.Time `json:"last_update_time"`
	}
	if err := decode(a, &d); err != nil {
		return entityBody{}, "", false, err
	}
	// A merged entity answers under its old id with its new one.
	if d.Disabled == nil || d.ID != id {
		return entityBody{}, "", false, staunch.Permanent(fmt.Errorf("reading entity %s: the answer is about %q", id, d.ID))
	}
	if !d.Updated.IsZero() {
		if err := fresh(d.Updated.UnixNano()); err != nil {
			return entityBody{}, "", false, err
		}
	}
	return entityBody{Disabled: *d.Disabled}, d.Name, true, nil
}

// revoking is how long Vault takes to forget the accessor of a token that it has
// revoked, most of the time.
const revoking = 50 * time.Millisecond

// accessor looks a token up; ok is false where there is none that works.
func (cl *client) accessor(ctx context.Context, accessor string) (info tokenInfo, ok bool, err error) {
	look := call{method: http.MethodPost, path: "auth/token/lookup-accessor", body: map[string]string{"accessor": accessor}}
	a, err := cl.do(ctx, look)
	if refused(err, http.StatusForbidden, "permission denied") && !gone(err) {
		// So Vault answers for a moment, too, while another is revoking the token: its
		// accessor is found, and then the token is not.
		select {
		case <-ctx.Done():
		case <-time.After(revoking):
			a, err = cl.do(ctx, look)
		}
	}
	if gone(err) {
		return tokenInfo{}, false, nil
	}
	if err != nil {
		return tokenInfo{}, false, err
	}
	if err := decode(a, &info); err != nil {
		return tokenInfo{}, false, err
	}
	if info.Accessor != accessor {
		return tokenInfo{}, false, staunch.Permanent(fmt.Errorf("looking accessor %s up: the answer is about another", accessor))
	}
	slices.Sort(info.Policies)
	return info, !info.dying(), nil
}

// gone reports whether err is Vault's way of not knowing a token by its
// accessor: "bad token" and "token not found" are the answers while one that is
// refused already is being cleaned up. A refusal of our own token reads
// "invalid token" or "permission denied".
func gone(err error) bool {
	return refused(err, http.StatusBadRequest, "invalid accessor") ||
		refused(err, http.StatusForbidden, "invalid accessor") ||
		refused(err, http.StatusNotFound, "invalid accessor") ||
		refused(err, http.StatusForbidden, "bad token") ||
		refused(err, http.StatusBadRequest, "token not found")
}

// lease looks a lease up; ok is false where there is none.
func (cl *client) lease(ctx context.Context, id string) (body leaseBody, ok bool, err error) {
	a, err := cl.do(ctx, call{method: http.MethodPost, path: "sys/leases/lookup", body: map[string]string{"lease_id": id}})
	if refused(err, http.StatusBadRequest, "invalid lease") {
		return leaseBody{}, false, nil
	}
	if err != nil {
		return leaseBody{}, false, err
	}
	var d struct {
		ID     string `json:"id"`
		Issued string `json:"issue_time"`
	}
	if err := decode(a, &d); err != nil {
		return leaseBody{}, false, err
	}
	if d.ID != id {
		return leaseBody{}, false, staunch.Permanent(fmt.Errorf("looking lease %s up: the answer is about another", id))
	}
	return leaseBody{Issued: d.Issued}, true, nil
}

// leases lists the leases under a path.
func (cl *client) leases(ctx context.Context, prefix string) ([]string, error) {
	var ids []string
	folders := []string{prefix}
	for len(folders) > 0 {
		f := folders[0]
		folders = folders[1:]
		if strings.Count(f, "/") > strings.Count(prefix, "/")+maxLeaseDepth {
			return nil, staunch.Permanent(fmt.Errorf("listing leases under %s: more than %d levels deep", prefix, maxLeaseDepth))
		}
		keys, err := cl.list(ctx, "sys/leases/lookup/"+escape(f))
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			if sub, ok := strings.CutSuffix(k, "/"); ok {
				folders = append(folders, f+"/"+sub)
			} else {
				ids = append(ids, f+"/"+k)
			}
		}
		if len(ids)+len(folders) > maxLeases {
			return nil, staunch.Permanent(fmt.Errorf("listing leases under %s: more than %d; name a longer path", prefix, maxLeases))
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// list lists the keys at a path, none where there is nothing.
func (cl *client) list(ctx context.Context, path string) ([]string, error) {
	a, err := cl.do(ctx, call{method: "LIST", path: path})
	if refused(err, http.StatusNotFound, "") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var d struct {
		Keys []string `json:"keys"`
	}
	if err := decode(a, &d); err != nil {
		return nil, err
	}
	return d.Keys, nil
}

func decode(a answer, into any) error {
	if err := json.Unmarshal(a.Data, into); err != nil {
		return staunch.Permanent(fmt.Errorf("decoding Vault's answer: %w", err))
	}
	return nil
}

// Read returns the target's state; with proof it uses the proof token over
// connections of its own.
func (c *Connector) Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error) {
	if err := c.open(); err != nil {
		return staunch.State{}, err
	}
	if err := c.checkTarget(t); err != nil {
		return staunch.State{}, err
	}
	cl := c.act
	if proof {
		cl = c.proof
	}
	st, err := c.read(ctx, cl, t)
	if err != nil {
		return staunch.State{}, fmt.Errorf("reading %s: %w", t, err)
	}
	return st, nil
}

func (c *Connector) read(ctx context.Context, cl *client, t staunch.Target) (staunch.State, error) {
	st := staunch.State{V: staunch.Version, Target: t}
	var body any
	switch t.Attribute {
	case AttributeDisabled:
		b, name, ok, err := c.entity(ctx, cl, t.Ref.Value)
		if err != nil {
			return st, err
		}
		st.Exists, st.Effective, body, st.Summary = ok, ok && !b.Disabled, b, entitySummary(b.Disabled)
		if !ok {
			st.Summary = "no such entity"
		} else if name != "" {
			st.Summary += " (" + name + ")"
		}
	case AttributeToken:
		info, ok, err := cl.accessor(ctx, t.Ref.Value)
		if err != nil {
			return st, err
		}
		st.Exists, st.Effective, st.Summary = ok, ok, "no such token"
		if ok {
			st.Summary = fmt.Sprintf("live %s token from %s", info.Type, info.Path)
		}
		body = tokenBody{
			Created: info.Created, Entity: info.Entity, Orphan: info.Orphan, Path: info.Path,
			Policies: info.Policies, Type: info.Type,
		}
	case AttributeLease:
		b, ok, err := cl.lease(ctx, t.Ref.Value)
		if err != nil {
			return st, err
		}
		st.Exists, st.Effective, body, st.Summary = ok, ok, b, "no such lease"
		if ok {
			st.Summary = "live lease, issued " + b.Issued
		}
	case AttributeLeases:
		ids, err := cl.leases(ctx, t.Ref.Value)
		if err != nil {
			return st, err
		}
		st.Exists, st.Effective = len(ids) > 0, len(ids) > 0
		body = leasesBody{Count: len(ids), Digest: staunch.Digest([]byte(strings.Join(ids, "\n")))}
		st.Summary = fmt.Sprintf("%d leases", len(ids))
	}
	st.ReadAt = staunch.TimeOf(c.clock.Now())
	if st.Exists {
		b, err := json.Marshal(body)
		if err != nil {
			return st, staunch.Permanent(fmt.Errorf("encoding the state: %w", err))
		}
		st.Body = b
	}
	return st, nil
}

func entitySummary(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// Prepare says what would be called. An entity that is not there cannot be
// disabled; a token or lease that is not there is as wanted.
func (c *Connector) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	if err := c.checkTarget(st.Target); err != nil {
		return staunch.Intent{}, fmt.Errorf("preparing %s: %w", verb, err)
	}
	v := st.Target.Ref.Value
	in := staunch.Intent{
		Target: st.Target, Verb: verb, Undo: "irreversible", Reversibility: staunch.Irreversible,
		Expected: staunch.State{V: staunch.Version, Target: st.Target},
	}
	switch {
	case verb == staunch.VerbSuspend && st.Target.Attribute == AttributeDisabled:
		if !st.Exists {
			return staunch.Intent{}, staunch.Permanent(fmt.Errorf("preparing %s of %s: %w", verb, st.Target, staunch.ErrNotFound))
		}
		in.Call, in.Undo = "POST identity/entity/id/"+v+" disabled=true", "POST identity/entity/id/"+v+" disabled=false"
		in.Reversibility, in.Revives = staunch.Reversible, true
		in.Expected.Exists, in.Expected.Summary = true, entitySummary(true)
		in.Expected.Body = json.RawMessage(`{"disabled":true}`)
	case verb == staunch.VerbRevoke && st.Target.Attribute == AttributeToken:
		in.Call, in.Expected.Summary = "POST auth/token/revoke-accessor accessor="+v, "no such token"
	case verb == staunch.VerbRevoke && st.Target.Attribute == AttributeLease:
		in.Call, in.Expected.Summary = "POST sys/leases/revoke sync=true lease_id="+v, "no such lease"
	case verb == staunch.VerbRevoke && st.Target.Attribute == AttributeLeases:
		in.Call, in.Expected.Summary = "POST sys/leases/revoke-prefix/"+v+" sync=true", "0 leases"
	default:
		return staunch.Intent{}, staunch.Permanent(fmt.Errorf("%w: no %s of %s", staunch.ErrInvalid, verb, st.Target))
	}
	return in, nil
}

// Matches compares existence, effect and body.
func (c *Connector) Matches(expected, actual staunch.State) bool {
	return expected.Exists == actual.Exists && expected.Effective == actual.Effective && bytes.Equal(expected.Body, actual.Body)
}
