package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// lookers bounds the look-ups of one walk that run at once.
const lookers = 8

// expansion gathers what Expand found.
type expansion struct {
	c   *Connector
	req connector.ExpandRequest
	own owned

	entities, tokens, leases, prefixes []connector.Action
	facts                              []staunch.Fact
	gaps                               []staunch.Gap
	more                               bool
}

// Expand asks Vault for what exists of the subject: an account's entity and
// its tokens; a token's accessor, from its HMAC or its sealed value where that
// is all there is; leases that are named. Entities come first, since disabling
// one stops all of its tokens at once, then tokens, then leases.
func (c *Connector) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	if err := c.open(); err != nil {
		return connector.Expansion{}, err
	}
	if req.Subject.Realm != c.realm {
		return connector.Expansion{}, staunch.Permanent(fmt.Errorf("expanding %s: %w: it is on another realm than %s", req.Subject, staunch.ErrInvalid, c.realm))
	}
	own, err := c.own(ctx)
	if err != nil {
		return connector.Expansion{}, fmt.Errorf("expanding %s: %w", req.Subject, err)
	}
	x := &expansion{c: c, req: req, own: own}
	names := []staunch.Ref{req.Subject}
	for _, n := range req.Names {
		if n.Realm == c.realm && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if err := x.subject(ctx, names); err != nil {
		return connector.Expansion{}, fmt.Errorf("expanding %s: %w", req.Subject, err)
	}
	done := names
	for _, d := range req.Derived {
		if d.Realm != c.realm || slices.Contains(done, d) {
			continue
		}
		done = append(done, d)
		if err := x.derived(ctx, d); err != nil {
			return connector.Expansion{}, fmt.Errorf("expanding %s, derived from %s: %w", d, req.Subject, err)
		}
	}
	out := connector.Expansion{Facts: x.facts, Gaps: x.gaps, More: x.more}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range slices.Concat(x.entities, x.tokens, x.leases, x.prefixes) {
		a.Probe = c.seen[a.Target.Ref]
		if !slices.ContainsFunc(out.Actions, func(o connector.Action) bool { return o.Target == a.Target && o.Verb == a.Verb }) {
			out.Actions = append(out.Actions, a)
		}
	}
	return out, nil
}

// wants reports whether the request asks for a verb of a tier.
func (x *expansion) wants(v staunch.Verb) bool {
	return x.req.Tier >= v.Tier() && (len(x.req.Verbs) == 0 || slices.Contains(x.req.Verbs, v))
}

func (x *expansion) gap(ref staunch.Ref, reason string) {
	x.gaps = append(x.gaps, staunch.Gap{Ref: ref, Reason: reason})
}

func (x *expansion) fact(f staunch.Fact) {
	f.V, f.Learned, f.Source = staunch.Version, staunch.TimeOf(x.c.clock.Now()), "connector/"+Platform
	f.ID = staunch.FactID(f)
	x.facts = append(x.facts, f)
}

func named(names []staunch.Ref, kind staunch.Kind, scheme string) []staunch.Ref {
	var out []staunch.Ref
	for _, n := range names {
		if n.Kind == kind && n.Scheme == scheme {
			out = append(out, n)
		}
	}
	return out
}

// subject expands what is to be contained, under all of its names.
func (x *expansion) subject(ctx context.Context, names []staunch.Ref) error {
	s := x.req.Subject
	switch s.Kind {
	case staunch.KindAccount:
		entities := named(names, staunch.KindAccount, SchemeEntity)
		if len(entities) == 0 {
			x.gap(s, "no entity is known for it, and only entities can be disabled: its tokens have to be revoked one by one")
			return nil
		}
		for _, e := range entities {
			if err := x.entity(ctx, e, false); err != nil {
				return err
			}
		}
		return nil
	case staunch.KindCredential:
		return x.credential(ctx, names)
	default:
		x.gap(s, "Vault has no sessions; name the token's accessor or the entity")
		return nil
	}
}

// credential expands a token or lease. The entity that it is known to belong to
// is not acted upon: it says to what the scope could be widened.
func (x *expansion) credential(ctx context.Context, names []staunch.Ref) error {
	s := x.req.Subject
	var entity staunch.Ref
	for _, e := range named(x.req.Up, staunch.KindAccount, SchemeEntity) {
		if e.Realm == x.c.realm {
			entity = e
			break
		}
	}
	if s.Scheme == SchemeLeasePrefix {
		return x.prefix(ctx, s)
	}
	leases := named(names, staunch.KindCredential, SchemeLease)
	for _, l := range leases {
		if err := x.lease(ctx, l, false); err != nil {
			return err
		}
	}
	accessors := named(names, staunch.KindCredential, SchemeAccessor)
	// A sealed token tells the most: its accessor, its entity and whether it is
	// a batch token. It is also what a probe needs.
	for _, d := range named(names, staunch.KindCredential, SchemeDigest) {
		info, ok, err := x.sealed(ctx, d)
		switch {
		case err != nil:
			return err
		case !ok:
			if len(accessors) == 0 {
				x.gap(d, "the token itself was never seen, or Vault no longer knows it")
			}
			continue
		case info.Accessor == "":
			if info.Entity != "" {
				entity = x.c.entityRef(info.Entity)
			}
			x.batch(d, entity)
			continue
		}
		accessors = append(accessors, x.c.tokenRef(info.Accessor))
	}
	hashed := named(names, staunch.KindCredential, SchemeAccessorHMAC)
	if len(accessors) == 0 {
		for _, h := range hashed {
			accessor, why, err := x.resolve(ctx, h.Value)
			if err != nil {
				return err
			}
			if why != "" {
				x.widen(h, why, entity)
				continue
			}
			accessors = append(accessors, x.c.tokenRef(accessor))
		}
	}
	for _, a := range accessors {
		if err := x.token(ctx, a, hashed, false); err != nil {
			return err
		}
	}
	if len(accessors) == 0 && len(leases) == 0 && len(x.gaps) == 0 {
		why := "this credential's scheme names nothing that can be looked up in Vault"
		if s.Scheme == SchemeTokenHMAC {
			why = "a token is known only by the HMAC of an audit device, which cannot be turned back; a batch token has no other name"
		}
		x.widen(s, why, entity)
	}
	return nil
}

// widen states a gap that disabling the entity would cover, where one is known
// and a suspension is asked for.
func (x *expansion) widen(ref staunch.Ref, why string, entity staunch.Ref) {
	g := staunch.Gap{Ref: ref, Reason: why}
	if !entity.IsZero() && x.wants(staunch.VerbSuspend) && x.untouchable(entity.Value, "") == "" {
		g.Widen = entity
	}
	x.gaps = append(x.gaps, g)
}

func (x *expansion) batch(ref, entity staunch.Ref) {
	why := "a batch token cannot be revoked; disabling its entity stops it"
	if entity.IsZero() {
		why = "a batch token without an entity cannot be stopped before it runs out"
	}
	x.widen(ref, why, entity)
}

// untouchable returns why an entity or token is no target.
func (x *expansion) untouchable(entity, accessor string) string {
	if x.own.has(entity, accessor) {
		return "it is staunch's own"
	}
	return x.c.protected(entity, accessor)
}

// entity expands an account. quiet leaves out what is not there.
func (x *expansion) entity(ctx context.Context, ref staunch.Ref, quiet bool) error {
	t := staunch.Target{Ref: ref, Attribute: AttributeDisabled}
	if err := x.c.checkTarget(t); err != nil {
		return err
	}
	st, err := x.c.read(ctx, x.c.act, t)
	if err != nil {
		return err
	}
	if !st.Exists {
		if !quiet {
			x.gap(ref, "there is no such entity")
		}
		return nil
	}
	if why := x.untouchable(ref.Value, ""); why != "" {
		x.gap(ref, why)
		return nil
	}
	if x.wants(staunch.VerbSuspend) {
		x.entities = append(x.entities, connector.Action{Target: t, Verb: staunch.VerbSuspend, State: &st})
	}
	if !x.wants(staunch.VerbRevoke) {
		return nil
	}
	if x.req.Quick && x.wants(staunch.VerbSuspend) {
		// Disabling the entity stops its tokens at once; looking for them takes as
		// long as Vault has tokens.
		x.more = true
		return nil
	}
	tokens, why, err := x.c.tokensOf(ctx, ref.Value)
	if err != nil {
		return err
	}
	if why != "" {
		x.gap(ref, why)
	}
	for _, info := range tokens {
		x.live(info, nil)
	}
	return nil
}

// token expands one token by its accessor.
func (x *expansion) token(ctx context.Context, ref staunch.Ref, hashed []staunch.Ref, quiet bool) error {
	if err := x.c.checkTarget(staunch.Target{Ref: ref, Attribute: AttributeToken}); err != nil {
		return err
	}
	info, ok, err := x.c.act.accessor(ctx, ref.Value)
	if err != nil {
		return err
	}
	if !ok {
		if !quiet {
			x.gap(ref, "Vault knows no such token: it was revoked or has run out")
		}
		return nil
	}
	x.live(info, hashed)
	return nil
}

// live makes a token that exists a target, as far as the request goes.
func (x *expansion) live(info tokenInfo, hashed []staunch.Ref) {
	ref := x.c.tokenRef(info.Accessor)
	var entity staunch.Ref
	if info.Entity != "" {
		entity = x.c.entityRef(info.Entity)
	}
	x.fact(staunch.Fact{Type: staunch.FactCredentialIssued, Subject: ref, Of: entity, Time: info.created(), Until: info.until(),
		Attrs: map[string]string{"path": info.Path, "type": info.Type}})
	for _, h := range hashed {
		x.fact(staunch.Fact{Type: staunch.FactSameAs, Subject: ref, Of: h, Time: info.created()})
	}
	if why := x.untouchable(info.Entity, info.Accessor); why != "" {
		x.gap(ref, why)
		return
	}
	switch {
	case x.wants(staunch.VerbRevoke):
		x.tokens = append(x.tokens, connector.Action{Target: staunch.Target{Ref: ref, Attribute: AttributeToken}, Verb: staunch.VerbRevoke})
	case entity.IsZero():
		x.gap(ref, "a token without an entity cannot be suspended, only revoked")
	default:
		x.widen(ref, "one token cannot be suspended, only revoked; disabling its entity stops it with all of the entity's tokens", entity)
	}
}

// lease expands one lease.
func (x *expansion) lease(ctx context.Context, ref staunch.Ref, quiet bool) error {
	t := staunch.Target{Ref: ref, Attribute: AttributeLease}
	if err := x.c.checkTarget(t); err != nil {
		// A token's own lease, say: nothing that could be acted upon.
		x.gap(ref, err.Error())
		return nil
	}
	_, ok, err := x.c.act.lease(ctx, ref.Value)
	switch {
	case err != nil:
		return err
	case !ok && quiet:
	case !ok:
		x.gap(ref, "Vault knows no such lease: it was revoked or has run out")
	case x.wants(staunch.VerbRevoke):
		x.leases = append(x.leases, connector.Action{Target: t, Verb: staunch.VerbRevoke})
	case !quiet:
		x.gap(ref, "a lease cannot be suspended, only revoked")
	}
	return nil
}

// prefix expands a path of leases that somebody named as the subject.
func (x *expansion) prefix(ctx context.Context, ref staunch.Ref) error {
	t := staunch.Target{Ref: ref, Attribute: AttributeLeases}
	if err := x.c.checkTarget(t); err != nil {
		return err
	}
	st, err := x.c.read(ctx, x.c.act, t)
	switch {
	case err != nil:
		return err
	case !st.Exists:
		x.gap(ref, "there are no leases under this path")
	case x.wants(staunch.VerbRevoke):
		x.prefixes = append(x.prefixes, connector.Action{Target: t, Verb: staunch.VerbRevoke})
	default:
		x.gap(ref, "leases cannot be suspended, only revoked")
	}
	return nil
}

// derived expands one thing that came from the subject. What is no longer
// there needs nothing.
func (x *expansion) derived(ctx context.Context, d staunch.Ref) error {
	switch string(d.Kind) + " " + d.Scheme {
	case "account " + SchemeEntity:
		return x.entity(ctx, d, true)
	case "credential " + SchemeAccessor:
		return x.token(ctx, d, nil, true)
	case "credential " + SchemeLease:
		return x.lease(ctx, d, true)
	case "credential " + SchemeAccessorHMAC:
		accessor, why, err := x.resolve(ctx, d.Value)
		switch {
		case err != nil:
			return err
		case why != "":
			x.gap(d, why)
			return nil
		}
		return x.token(ctx, x.c.tokenRef(accessor), []staunch.Ref{d}, true)
	case "credential " + SchemeDigest:
		info, ok, err := x.sealed(ctx, d)
		switch {
		case err != nil:
			return err
		case !ok:
			return nil
		case info.Accessor == "":
			x.gap(d, "a derived batch token cannot be revoked")
			return nil
		}
		return x.token(ctx, x.c.tokenRef(info.Accessor), nil, true)
	case "credential " + SchemeLeasePrefix:
		x.gap(d, "all leases under a path are revoked only when somebody names the path itself")
	case "credential " + SchemeTokenHMAC:
		x.gap(d, "a token that is known only by its HMAC cannot be found")
	default:
		x.gap(d, "its scheme names nothing that can be acted upon in Vault")
	}
	return nil
}

// sealed asks Vault about a token whose value is sealed, and remembers it for
// probes. ok is false where the value was never seen or Vault knows it no more.
func (x *expansion) sealed(ctx context.Context, ref staunch.Ref) (info tokenInfo, ok bool, err error) {
	token, err := x.c.secret(ctx, ref)
	if errors.Is(err, staunch.ErrNotFound) {
		return tokenInfo{}, false, nil
	}
	if err != nil {
		return tokenInfo{}, false, err
	}
	a, err := x.c.act.do(ctx, call{method: http.MethodPost, path: "auth/token/lookup", body: map[string]string{"token": token.Reveal()}})
	if refused(err, http.StatusForbidden, "bad token") || refused(err, http.StatusNotFound, "") {
		return tokenInfo{}, false, nil
	}
	if err != nil {
		return tokenInfo{}, false, err
	}
	if err := decode(a, &info); err != nil {
		return tokenInfo{}, false, err
	}
	if info.dying() {
		return tokenInfo{}, false, nil
	}
	x.c.mu.Lock()
	defer x.c.mu.Unlock()
	if info.Accessor != "" {
		remember(x.c.seen, x.c.tokenRef(info.Accessor), ref)
	}
	if info.Entity != "" {
		remember(x.c.seen, x.c.entityRef(info.Entity), ref)
	}
	return info, true, nil
}

// accessorsPath is where the capabilities for listing tokens are.
const accessorsPath = "auth/token/accessors/"

// accessors lists the accessors of all live tokens but batch tokens. why says
// why the list is not whole.
func (c *Connector) accessors(ctx context.Context) (all []string, why string, err error) {
	all, err = c.act.list(ctx, "auth/token/accessors")
	switch {
	case err != nil && staunch.ClassOf(err) == staunch.ClassDenied:
		// A refusal that does not follow from what the token may is none for good.
		caps, cerr := c.act.capabilities(ctx, accessorsPath)
		if cerr != nil {
			return nil, "", cerr
		}
		if has(caps[accessorsPath], "list") && has(caps[accessorsPath], "sudo") {
			return nil, "", err
		}
		return nil, "the token may not list auth/token/accessors, so tokens that no log named stay unknown", nil
	case err != nil:
		return nil, "", err
	}
	slices.Sort(all)
	if len(all) > c.cfg.MaxAccessors {
		why = fmt.Sprintf("Vault has %d tokens and %d were looked through (max_accessors); others may be missing", len(all), c.cfg.MaxAccessors)
		all = all[:c.cfg.MaxAccessors]
	}
	return all, why, nil
}

// tokensOf returns an entity's live tokens, the oldest first. It looks each of
// the realm's tokens up once and remembers what does not change of it.
func (c *Connector) tokensOf(ctx context.Context, entity string) (out []tokenInfo, why string, err error) {
	all, why, err := c.accessors(ctx)
	if err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	known := make(map[string]tokenInfo, len(all))
	var unknown []string
	for _, a := range all {
		if info, ok := c.known[a]; ok {
			known[a] = info
		} else {
			unknown = append(unknown, a)
		}
	}
	c.mu.Unlock()
	var mu sync.Mutex
	whole, err := c.each(ctx, unknown, func(ctx context.Context, a string) (bool, error) {
		info, ok, err := c.act.accessor(ctx, a)
		if err == nil && ok {
			mu.Lock()
			known[a] = info
			mu.Unlock()
		}
		return false, err
	})
	c.mu.Lock()
	c.known = known // those that are gone are forgotten
	for _, info := range known {
		if info.Entity == entity {
			out = append(out, info)
		}
	}
	c.mu.Unlock()
	if err != nil {
		return nil, "", err
	}
	if !whole {
		why = fmt.Sprintf("%d of %d tokens were looked through in %s (search_time): others of the entity may be missing; disabling it stops them all, and the next plan goes on from here",
			len(known), len(all), c.cfg.SearchTime.Std())
	}
	slices.SortFunc(out, func(a, b tokenInfo) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), strings.Compare(a.Accessor, b.Accessor))
	})
	return out, why, nil
}

// each calls f for every item, a few at a time, until f says that it has
// found what it looked for or fails, or the time for a search is over; whole is
// false only then.
func (c *Connector) each(parent context.Context, items []string, f func(context.Context, string) (found bool, err error)) (whole bool, err error) {
	ctx, cancel := context.WithTimeout(parent, c.cfg.SearchTime.Std())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	done := false
	next := 0
	for range min(lookers, len(items)) {
		wg.Go(func() {
			for {
				mu.Lock()
				if done || first != nil || next == len(items) {
					mu.Unlock()
					return
				}
				item := items[next]
				next++
				mu.Unlock()
				found, err := f(ctx, item)
				mu.Lock()
				if err != nil && first == nil && !done {
					first = err
				}
				done = done || found && err == nil
				if done || first != nil {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	switch {
	case done, first == nil:
		return true, nil
	case errors.Is(first, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) && parent.Err() == nil:
		return false, nil
	}
	return true, first
}

// resolve finds the accessor whose HMAC an audit device wrote. The HMAC cannot
// be turned back, so Vault is asked for each accessor's and the answers are
// remembered for as long as the device keeps its salt. why says why there is
// none.
func (x *expansion) resolve(ctx context.Context, hmac string) (accessor, why string, err error) {
	c := x.c
	if len(c.cfg.AuditDevices) == 0 {
		return "", "the audit device's HMAC of an accessor cannot be resolved: audit_devices is not configured", nil
	}
	all, why, err := c.accessors(ctx)
	if err != nil || len(all) == 0 && why != "" {
		return "", why, err
	}
	for _, device := range c.cfg.AuditDevices {
		accessor, whole, err := c.search(ctx, device, all, hmac)
		switch {
		case refused(err, http.StatusBadRequest, "unknown audit backend"):
			continue // doctor says so
		case err != nil || accessor != "":
			return accessor, "", err
		case !whole:
			why = fmt.Sprintf("the accessor was not found among %d in %s (search_time); the next plan goes on from here", len(all), c.cfg.SearchTime.Std())
		}
	}
	if why == "" {
		why = "no live token has an accessor with this HMAC: it was revoked, has run out, or another device wrote it"
	}
	return "", why, nil
}

func (c *Connector) search(ctx context.Context, device string, all []string, hmac string) (accessor string, whole bool, err error) {
	salt, err := c.act.hash(ctx, device, "staunch")
	if err != nil {
		return "", false, err
	}
	c.mu.Lock()
	if c.salts[device] != salt {
		c.salts[device], c.hmacs[device] = salt, map[string]string{}
	}
	hashes := make(map[string]string, len(all)) // HMAC → accessor, of what is still there
	have := make(map[string]bool, len(all))
	for h, a := range c.hmacs[device] {
		if _, live := slices.BinarySearch(all, a); live {
			hashes[h], have[a] = a, true
		}
	}
	c.mu.Unlock()
	if a := hashes[hmac]; a != "" {
		return a, true, nil
	}
	unknown := slices.DeleteFunc(slices.Clone(all), func(a string) bool { return have[a] })
	var mu sync.Mutex
	whole, err = c.each(ctx, unknown, func(ctx context.Context, a string) (bool, error) {
		h, err := c.act.hash(ctx, device, a)
		if err != nil {
			return false, err
		}
		mu.Lock()
		defer mu.Unlock()
		hashes[h] = a
		return h == hmac, nil
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.salts[device] == salt {
		c.hmacs[device] = hashes
	}
	return hashes[hmac], whole, err
}

// hash asks an audit device for the HMAC that it writes in place of input.
func (cl *client) hash(ctx context.Context, device, input string) (string, error) {
	a, err := cl.do(ctx, call{method: http.MethodPost, path: "sys/audit-hash/" + escape(device), body: map[string]string{"input": input}})
	if err != nil {
		return "", err
	}
	var d struct {
		Hash string `json:"hash"`
	}
	if err := decode(a, &d); err != nil {
		return "", err
	}
	if d.Hash == "" {
		return "", staunch.Permanent(fmt.Errorf("audit device %s gives no HMAC", device))
	}
	return d.Hash, nil
}
