package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// wall refuses what is not a target, is protected or is ours. Core has asked
// already; a mistake here would lock staunch out.
func (c *Connector) wall(ctx context.Context, in staunch.Intent) error {
	if err := c.open(); err != nil {
		return err
	}
	if err := c.checkTarget(in.Target); err != nil {
		return err
	}
	if _, err := c.Prepare(staunch.State{Target: in.Target, Exists: true}, in.Verb); err != nil {
		return err
	}
	var entity, accessor string
	switch in.Target.Attribute {
	case AttributeDisabled:
		entity = in.Target.Ref.Value
	case AttributeToken:
		accessor = in.Target.Ref.Value
		var b tokenBody
		if len(in.PreImage.Body) > 0 {
			if err := json.Unmarshal(in.PreImage.Body, &b); err != nil {
				return staunch.Permanent(fmt.Errorf("reading the pre-image: %w", err))
			}
		}
		entity = b.Entity
	default:
		return nil
	}
	if why := c.protected(entity, accessor); why != "" {
		return staunch.Permanent(errors.New(why))
	}
	own, err := c.own(ctx)
	if err != nil {
		return err
	}
	if own.has(entity, accessor) {
		return staunch.Permanent(errors.New("it is staunch's own"))
	}
	return nil
}

// Apply makes the change. It looks first where Vault's answer would not tell
// whether anything was changed.
func (c *Connector) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	r, err := c.apply(ctx, in)
	if err != nil {
		return staunch.Receipt{}, fmt.Errorf("%s of %s: %w", in.Verb, in.Target, err)
	}
	r.At = staunch.TimeOf(c.clock.Now())
	return r, nil
}

func (c *Connector) apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if err := c.wall(ctx, in); err != nil {
		return staunch.Receipt{}, err
	}
	v := in.Target.Ref.Value
	done := call{method: http.MethodPost, key: in.Key, until: in.Deadline, now: c.clock.Now()}
	if in.Target.Attribute == AttributeToken {
		done.path, done.body = "auth/token/revoke-accessor", map[string]any{"accessor": v}
		a, err := c.act.do(ctx, done)
		if gone(err) || err == nil && a.warned("No token found") {
			return staunch.Receipt{Note: "there is no such token, or it is being revoked already", Vendor: a.ID}, nil
		}
		return staunch.Receipt{Changed: true, Vendor: a.ID, Note: "revoked, with its children"}, err
	}
	now, err := c.read(ctx, c.act, in.Target)
	if err != nil {
		return staunch.Receipt{}, err
	}
	if !now.Effective {
		if in.Target.Attribute == AttributeDisabled && !now.Exists {
			return staunch.Receipt{}, staunch.Permanent(staunch.ErrNotFound)
		}
		return staunch.Receipt{Note: "nothing to do: " + now.Summary}, nil
	}
	note := "revoked"
	switch in.Target.Attribute {
	case AttributeDisabled:
		done.path, done.body, note = entityPath(v), entityBody{Disabled: true}, "disabled"
	case AttributeLease:
		done.path, done.body = "sys/leases/revoke", map[string]any{"lease_id": v, "sync": true}
	case AttributeLeases:
		done.path, done.body = "sys/leases/revoke-prefix/"+escape(v), map[string]any{"sync": true}
		note = "revoked " + now.Summary
	}
	done.now = c.clock.Now()
	a, err := c.act.do(ctx, done)
	return staunch.Receipt{Changed: true, Vendor: a.ID, Note: note}, err
}

func entityPath(id string) string { return "identity/entity/id/" + url.PathEscape(id) }

// Revert enables an entity again where it is still as Apply left it. Nothing
// else can be undone.
func (c *Connector) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	r, err := c.revert(ctx, in)
	if err != nil {
		return staunch.Receipt{}, fmt.Errorf("undoing %s of %s: %w", in.Verb, in.Target, err)
	}
	r.At = staunch.TimeOf(c.clock.Now())
	return r, nil
}

func (c *Connector) revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if err := c.wall(ctx, in); err != nil {
		return staunch.Receipt{}, err
	}
	if in.Target.Attribute != AttributeDisabled {
		return staunch.Receipt{}, staunch.Permanent(errors.New("a revocation cannot be undone"))
	}
	now, err := c.read(ctx, c.act, in.Target)
	switch {
	case err != nil:
		return staunch.Receipt{}, err
	case c.Matches(in.PreImage, now):
		return staunch.Receipt{Note: "nothing to do: " + now.Summary}, nil
	case !c.Matches(in.Expected, now):
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("it is %q now: %w", now.Summary, staunch.ErrConflict))
	}
	var b entityBody
	if err := json.Unmarshal(in.PreImage.Body, &b); err != nil {
		return staunch.Receipt{}, staunch.Permanent(fmt.Errorf("reading the pre-image: %w", err))
	}
	a, err := c.act.do(ctx, call{
		method: http.MethodPost, path: entityPath(in.Target.Ref.Value), body: b,
		key: in.Key, until: in.Deadline, now: c.clock.Now(),
	})
	return staunch.Receipt{Changed: true, Vendor: a.ID, Note: entitySummary(b.Disabled)}, err
}

// Probe shows a sealed token of the subject to Vault, as the thief would. A
// plain refusal proves nothing of a token that may never have been allowed to
// look itself up, so it counts only when Vault calls the token invalid or the
// token has worked in an earlier probe.
func (c *Connector) Probe(ctx context.Context, in staunch.Intent) (connector.Probe, error) {
	if err := c.open(); err != nil {
		return connector.Probe{}, err
	}
	if err := c.checkTarget(in.Target); err != nil {
		return connector.Probe{}, err
	}
	none := connector.Probe{How: "no token of it is at hand"}
	ref := in.Probe
	if ref.IsZero() {
		return none, nil
	}
	token, err := c.secret(ctx, ref)
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		return none, nil
	case err != nil:
		return connector.Probe{}, fmt.Errorf("probing %s: %w", in.Target, err)
	}
	// The stolen token's connections are not kept.
	defer c.probe.rest.CloseIdle()
	how := "auth/token/lookup-self with the sealed token " + ref.Value
	_, err = c.probe.do(ctx, call{method: http.MethodGet, path: "auth/token/lookup-self", token: token})
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		remember(c.alive, ref, true)
		return connector.Probe{Works: true, Conclusive: true, How: how + " works"}, nil
	case refused(err, http.StatusForbidden, "invalid token"):
		return connector.Probe{Conclusive: true, How: how + " is refused as invalid"}, nil
	case refused(err, http.StatusForbidden, "") && c.alive[ref]:
		return connector.Probe{Conclusive: true, How: how + " is refused, and worked before"}, nil
	case staunch.ClassOf(err) == staunch.ClassDenied:
		return connector.Probe{How: how + " is refused, which it may always have been"}, nil
	}
	return connector.Probe{}, fmt.Errorf("probing %s: %w", in.Target, err)
}

// secret opens a sealed token and checks that it is the one that ref names.
func (c *Connector) secret(ctx context.Context, ref staunch.Ref) (staunch.Secret, error) {
	if c.deps.Secrets == nil {
		return staunch.Secret{}, fmt.Errorf("opening %s: %w", ref, staunch.ErrNotFound)
	}
	s, err := c.deps.Secrets.Open(ctx, ref)
	if err != nil {
		return staunch.Secret{}, fmt.Errorf("opening %s: %w", ref, err)
	}
	if s.Digest() != ref.Value {
		return staunch.Secret{}, staunch.Permanent(fmt.Errorf("opening %s: what is sealed has another digest", ref))
	}
	return s, nil
}

// maxRemembered bounds each of the connector's memories; they make probes
// possible and calls fewer, and nothing is wrong without them.
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
