package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

const (
	maxSkew = 30 * time.Second
	// lowTTL is the life left of our own token below which doctor speaks.
	lowTTL = time.Hour
)

// owned is what staunch itself acts with.
type owned []tokenInfo

// has reports whether the entity or accessor is one of ours.
func (o owned) has(entity, accessor string) bool {
	return slices.ContainsFunc(o, func(t tokenInfo) bool {
		return entity != "" && t.Entity == entity || accessor != "" && t.Accessor == accessor
	})
}

// self asks what the client's own token is.
func (cl *client) self(ctx context.Context) (info tokenInfo, err error) {
	a, err := cl.do(ctx, call{method: http.MethodGet, path: "auth/token/lookup-self"})
	if err != nil {
		return tokenInfo{}, err
	}
	return info, decode(a, &info)
}

// own returns the accessors and entities of the tokens that the connector acts
// and proves with. It asks once for each token. An unusable proof token does
// not keep staunch from acting, but one that acts must be known.
func (c *Connector) own(ctx context.Context) (owned, error) {
	var out owned
	for _, cl := range []*client{c.act, c.proof} {
		t, err := cl.token()
		if err != nil {
			if cl == c.proof {
				continue
			}
			return nil, staunch.Denied(err)
		}
		digest := t.Digest()
		c.mu.Lock()
		info, ok := c.owned[digest]
		c.mu.Unlock()
		if !ok {
			info, err = cl.self(ctx)
			if err != nil && cl == c.proof {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("looking our own token up: %w", err)
			}
			c.mu.Lock()
			remember(c.owned, digest, info)
			c.mu.Unlock()
		}
		out = append(out, info)
	}
	return out, nil
}

// OwnRefs returns the accessors and entities of the tokens in use.
func (c *Connector) OwnRefs(ctx context.Context) ([]staunch.Ref, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	own, err := c.own(ctx)
	if err != nil {
		return nil, err
	}
	var out []staunch.Ref
	add := func(r staunch.Ref) {
		if r.Value != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for _, t := range own {
		add(c.tokenRef(t.Accessor))
		add(c.entityRef(t.Entity))
	}
	return out, nil
}

// need is a path with the capabilities that a token must have there.
type need struct {
	path  string
	caps  []string
	error bool // without it nothing works
	what  string
}

func (c *Connector) needs() (act, proof []need) {
	entity := "identity/entity/id/00000000-0000-0000-0000-000000000000"
	prefix := "database/creds/example"
	act = []need{
		{entity, []string{"read", "update"}, true, "entities cannot be disabled"},
		{"auth/token/lookup-accessor", []string{"update"}, true, "tokens cannot be looked up"},
		{"auth/token/revoke-accessor", []string{"update"}, true, "tokens cannot be revoked"},
		{"sys/leases/lookup", []string{"update"}, true, "leases cannot be looked up"},
		{"sys/leases/revoke", []string{"update"}, true, "leases cannot be revoked"},
		{accessorsPath, []string{"list", "sudo"}, false, "an entity's tokens and HMACs of accessors cannot be found"},
		{"auth/token/lookup", []string{"update"}, false, "sealed tokens cannot be traced to their accessors"},
		{"sys/leases/lookup/" + prefix, []string{"list", "sudo"}, false, "leases under a path cannot be listed"},
		{"sys/leases/revoke-prefix/" + prefix, []string{"update", "sudo"}, false, "leases under a path cannot be revoked"},
	}
	for _, d := range c.cfg.AuditDevices {
		act = append(act, need{"sys/audit-hash/" + d, []string{"update"}, false, "HMACs of accessors cannot be resolved"})
	}
	proof = []need{
		{entity, []string{"read"}, true, "disabled entities cannot be proven"},
		{"auth/token/lookup-accessor", []string{"update"}, true, "revoked tokens cannot be proven"},
		{"sys/leases/lookup", []string{"update"}, true, "revoked leases cannot be proven"},
		{"sys/leases/lookup/" + prefix, []string{"list", "sudo"}, false, "revoked paths of leases cannot be proven"},
	}
	return act, proof
}

// Check looks for what would keep the connector from acting or proving.
func (c *Connector) Check(ctx context.Context) []connector.Finding {
	var out []connector.Finding
	say := func(severity, message, hint string) {
		out = append(out, connector.Finding{Severity: severity, Message: message, Hint: hint})
	}
	if err := c.open(); err != nil {
		say("error", err.Error(), "")
		return out
	}
	if !c.health(ctx, say) {
		return out
	}
	act, proof := c.needs()
	if !c.checkToken(ctx, c.act, "the token", act, say) {
		return out
	}
	if c.cfg.hasProof() {
		c.checkToken(ctx, c.proof, "the proof token", proof, say)
	} else {
		say("warning", "no proof_token is configured: effects are proven over other connections, but with the token that made them", "create a second token with the proof policy in the README")
	}
	c.checkAudit(ctx, say)
	return out
}

type sayer func(severity, message, hint string)

// health asks for the state of the node; false says that nothing more can be
// asked.
func (c *Connector) health(ctx context.Context, say sayer) bool {
	a, err := c.act.do(ctx, call{
		method: http.MethodGet, bare: true,
		path: "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200&drsecondarycode=200",
	})
	if err != nil {
		say("error", fmt.Sprintf("Vault does not answer: %v", err), "check address, network and tls")
		return false
	}
	var h struct {
		Initialized bool  `json:"initialized"`
		Sealed      bool  `json:"sealed"`
		Standby     bool  `json:"standby"`
		ServerTime  int64 `json:"server_time_utc"` // Unix seconds
	}
	if err := json.Unmarshal(a.raw, &h); err != nil || h.ServerTime == 0 {
		say("error", "sys/health does not answer as Vault does", "is address another server's?")
		return false
	}
	if !h.Initialized || h.Sealed {
		say("error", "Vault is sealed or not initialized", "unseal it; until then nothing can be contained there")
		return false
	}
	if h.Standby {
		say("warning", "this node is a standby: every call takes another hop", "point address at the active node")
	}
	if skew := c.clock.Now().Sub(time.Unix(h.ServerTime, 0)); skew.Abs() > maxSkew {
		say("warning", fmt.Sprintf("the clocks differ by %s", skew.Round(time.Second)), "keep both in step with NTP")
	}
	return true
}

// capabilities asks what the client's token may do at paths.
func (cl *client) capabilities(ctx context.Context, paths ...string) (map[string][]string, error) {
	a, err := cl.do(ctx, call{method: http.MethodPost, path: "sys/capabilities-self", body: map[string]any{"paths": paths}})
	if err != nil {
		return nil, err
	}
	var caps map[string][]string
	return caps, decode(a, &caps)
}

// has reports whether a capability is among those, or everything is.
func has(caps []string, want string) bool {
	return slices.Contains(caps, want) || slices.Contains(caps, "root")
}

// checkToken looks at one of our tokens and what it may do.
func (c *Connector) checkToken(ctx context.Context, cl *client, name string, needs []need, say sayer) bool {
	info, err := cl.self(ctx)
	if err != nil {
		say("error", fmt.Sprintf("%s does not work: %v", name, err), "create one with the policy in the README")
		return false
	}
	if slices.Contains(info.Policies, "root") {
		say("warning", name+" is a root token", "create one with the policy in the README")
	}
	if !info.Orphan {
		say("warning", name+" has a parent, and is revoked with it", "create it with -orphan, or log in with an auth method")
	}
	if ttl := time.Duration(info.TTL) * time.Second; info.TTL > 0 && ttl < lowTTL && !info.Renewable {
		say("warning", fmt.Sprintf("%s runs out in %s and cannot be renewed", name, ttl), "use a periodic token, or Vault Agent with token_file")
	}
	paths := make([]string, len(needs))
	for i, n := range needs {
		paths[i] = n.path
	}
	caps, err := cl.capabilities(ctx, paths...)
	if err != nil {
		say("error", fmt.Sprintf("%s cannot ask for its capabilities: %v", name, err), "allow update on sys/capabilities-self")
		return false
	}
	for _, n := range needs {
		var lacks []string
		for _, want := range n.caps {
			if !has(caps[n.path], want) {
				lacks = append(lacks, want)
			}
		}
		if len(lacks) == 0 {
			continue
		}
		severity := "warning"
		if n.error {
			severity = "error"
		}
		say(severity, fmt.Sprintf("%s lacks %v on %s: %s", name, lacks, n.path, n.what), "add it to its policy; the README has it whole")
	}
	return true
}

// checkAudit looks whether steps can be found in Vault's own log.
func (c *Connector) checkAudit(ctx context.Context, say sayer) {
	hint := "vault write sys/config/auditing/request-headers/" + StepHeader + " hmac=false"
	a, err := c.act.do(ctx, call{method: http.MethodGet, path: "sys/config/auditing/request-headers/" + StepHeader})
	switch {
	case refused(err, http.StatusBadRequest, "Could not find header"), refused(err, http.StatusNotFound, ""):
		say("warning", "Vault's audit log does not keep the header "+StepHeader+": it cannot be joined with staunch's", hint)
	case err != nil:
		say("warning", fmt.Sprintf("cannot tell whether the audit log keeps the header %s: %v", StepHeader, err), "allow read and sudo on sys/config/auditing/request-headers/"+StepHeader)
	default:
		var d map[string]struct {
			HMAC bool `json:"hmac"`
		}
		if err := decode(a, &d); err == nil {
			for _, h := range d {
				if h.HMAC {
					say("warning", "Vault's audit log keeps the header "+StepHeader+" only as an HMAC", hint)
				}
			}
		}
	}
	for _, dev := range c.cfg.AuditDevices {
		if _, err := c.act.hash(ctx, dev, "staunch"); err != nil {
			say("warning", fmt.Sprintf("audit device %s gives no HMACs: %v", dev, err), "check audit_devices against `vault audit list`")
		}
	}
}
