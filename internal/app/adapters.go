package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// The adapters join rooms that do not know of each other.

func appendRecord(tx store.Tx, kind staunch.RecordKind, who, about string, now staunch.Time, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding a %s record: %w", kind, err)
	}
	_, err = tx.AppendRecord(staunch.Record{Time: now, Kind: kind, Actor: who, About: about, Body: b})
	return err
}

// lineage is the inventory as the executor sees it.
type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

// secrets opens what formats sealed.
type secrets struct{ a *App }

func (s secrets) Open(ctx context.Context, ref staunch.Ref) (staunch.Secret, error) {
	var blob []byte
	err := s.a.store.View(ctx, func(r store.Reader) error {
		var err error
		blob, err = r.SecretOf(ref)
		return err
	})
	if err != nil {
		return staunch.Secret{}, fmt.Errorf("reading the sealed value of %s: %w", ref, err)
	}
	plain, err := s.a.keys.Unseal(pipeline.SecretPurpose(ref), blob)
	if err != nil {
		return staunch.Secret{}, fmt.Errorf("opening the sealed value of %s: %w", ref, err)
	}
	return staunch.NewSecret(string(plain)), nil
}

var _ connector.Secrets = secrets{}

// ingester is the pipeline as the API sees it.
type ingester struct{ a *App }

func (i ingester) source(name string) (*pipeline.Source, error) {
	c, ok := i.a.current().Config.Source(name)
	if !ok || c.Tail != nil {
		return nil, fmt.Errorf("source %q: %w", name, staunch.ErrNotFound)
	}
	return i.a.current().Sources[name], nil
}

func (i ingester) Ingest(ctx context.Context, name string, body io.Reader, encoding string) (api.IngestReport, error) {
	src, err := i.source(name)
	if err != nil {
		return api.IngestReport{}, err
	}
	rep, err := i.a.pipe.Ingest(ctx, src, body, encoding)
	out := api.IngestReport{
		V: staunch.Version, Accepted: rep.Accepted, Duplicates: rep.Duplicates, Matched: rep.Matched, Signals: rep.Signals,
		Rejected: make([]api.Rejection, 0, len(rep.Rejected)), MoreRejected: rep.MoreRejected,
	}
	for _, r := range rep.Rejected {
		out.Rejected = append(out.Rejected, api.Rejection{Record: r.Record, Error: r.Error})
	}
	if errors.Is(err, ingest.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", api.ErrTooLarge, err)
	}
	if rep.Signals > 0 {
		i.a.notify.Wake()
	}
	return out, err
}

func (i ingester) Challenge(name string, w http.ResponseWriter, r *http.Request) bool {
	src, err := i.source(name)
	if err != nil {
		return false
	}
	v, ok := src.Format.(format.PushVerifier)
	return ok && v.Challenge(w, r)
}

// evaluator is the guard as the API sees it.
type evaluator struct{ g *guard.Guard }

func (e evaluator) Evaluation(body io.Reader) (any, error) {
	r, err := e.g.Evaluation(body)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (e evaluator) Evaluations(body io.Reader) (any, error) { return e.g.Evaluations(body) }

// knowledge is the inventory and the suspicion as the API sees them.
type knowledge struct{ a *App }

func (k knowledge) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return k.a.inv.Resolve(r, ref, at)
}

func (k knowledge) Suspicion(r store.Reader, res staunch.Resolution, _ staunch.Time) (staunch.Suspicion, error) {
	a, _, _, err := k.a.pipe.Judge(r, res.Ref)
	s := a.Enforce
	if s.Subject.IsZero() {
		s.Subject = res.Ref
	}
	return s, err
}

func (k knowledge) Lineage(r store.Reader, ref staunch.Ref, limit int) (api.Lineage, bool, error) {
	n, cut, err := k.a.inv.Lineage(r, ref, limit)
	return lineageOf(n), cut, err
}

func lineageOf(n inventory.Node) api.Lineage {
	out := api.Lineage{Ref: n.Ref, Rel: n.Rel, Since: n.Since, Until: n.Until, Fact: n.Fact, Seen: n.Seen}
	for _, c := range n.Children {
		out.Children = append(out.Children, lineageOf(c))
	}
	return out
}

// cases is the executor as the API sees it.
type cases struct{ a *App }

// playbook returns the stages of a manual containment: the named playbook up to
// the tier, the one that the tier's name has, or a single stage.
func (c cases) playbook(req api.ContainRequest) (staunch.Playbook, error) {
	set := c.a.current().Bundle.Policy
	name := req.Playbook
	if name == "" {
		name = req.Tier.String()
	}
	p, ok := set.Playbook(name)
	switch {
	case !ok && req.Playbook != "":
		return p, &staunch.Problem{Place: "playbook", Reason: fmt.Sprintf("%q is not one of the policies' playbooks", name), Hint: fmt.Sprintf("one of %v", set.Playbooks())}
	case !ok:
		p = staunch.Playbook{Name: name, Derived: true, Stages: []staunch.Stage{{Tier: req.Tier, Deny: []string{"*"}}}}
	}
	if req.Expiry > 0 {
		p.Expiry = req.Expiry
	}
	if req.ScopeFor > 0 {
		p.ScopeFor = req.ScopeFor
	}
	return p, nil
}

func (c cases) check(req api.ContainRequest) error {
	if err := req.Subject.Validate(); err != nil {
		return &staunch.Problem{Place: "subject", Reason: err.Error()}
	}
	if req.Subject.Kind.Width() == 0 {
		return &staunch.Problem{Place: "subject", Reason: "a " + string(req.Subject.Kind) + " cannot be contained"}
	}
	if strings.Trim(req.Subject.Value, "*%") == "" {
		return &staunch.Problem{Place: "subject", Reason: fmt.Sprintf("%q names nobody: a subject is one, never a pattern", req.Subject.Value)}
	}
	if realms := c.a.current().Config.RealmNames(); req.Subject.Kind != staunch.KindIdentity && !slices.Contains(realms, req.Subject.Realm) {
		return &staunch.Problem{
			Place: "subject", Reason: fmt.Sprintf("the configuration has nothing of realm %.100q, so nothing would be contained", req.Subject.Realm),
			Hint: "realms: " + strings.Join(realms, ", "),
		}
	}
	if req.Tier == staunch.TierObserve {
		return &staunch.Problem{Place: "tier", Reason: "observe contains nothing", Hint: "use restrict, isolate or revoke"}
	}
	return nil
}

// declared refuses an identity that nobody declared: it has no accounts, so nothing
// would be contained, whatever a mistyped name is thought to do. Where an
// enforcement point names identities itself, the fast plane can hold such a one.
func (c cases) declared(r store.Reader, subject staunch.Ref) error {
	if subject.Kind != staunch.KindIdentity {
		return nil
	}
	for _, s := range c.a.cfg.Guard.Subjects {
		if s.Kind == staunch.KindIdentity {
			return nil
		}
	}
	_, err := r.Identity(subject.Value)
	if errors.Is(err, staunch.ErrNotFound) {
		return &staunch.Problem{
			Place: "subject", Reason: fmt.Sprintf("no identity %.100q is declared, so nothing would be contained", subject.Value),
			Hint: "staunch list identities",
		}
	}
	return err
}

// sinceForManual is how long before a manual containment its compromise is
// taken to have begun: what the subject issued in that time is derived.
const sinceForManual = 36 * time.Hour

// admitApproved reserves the places of a case that a person approved; nobody can
// approve protection away.
func (a *App) admitApproved(tx store.Tx, con staunch.Containment) ([]string, error) {
	now := staunch.TimeOf(a.opt.Clock.Now())
	res, err := a.inv.Resolve(tx, con.Subject, now)
	if err != nil {
		return nil, err
	}
	s := a.current()
	adm, err := s.Guardrails.Admit(tx, decide.Request{
		Decision: staunch.Decision{
			V: staunch.Version, ID: con.ID, Subject: con.Subject, Scope: con.Subject, Identity: res.Identity,
			Tier: con.Tier, Mode: staunch.ModeEnforce, Verdict: staunch.VerdictContain,
		},
		Resolution: res, Origin: staunch.OriginManual, Own: a.engine.OwnRefs(), Group: s.Bundle.Groups.Size(res.Identity), Now: now,
	})
	if err != nil {
		return nil, err
	}
	if adm.Verdict != staunch.VerdictContain {
		return nil, fmt.Errorf("%w: %s: %v", staunch.ErrConflict, adm.Verdict, adm.Reasons)
	}
	return adm.Caps, nil
}

// inForce reports whether one of the cases is in force or coming to be, and which
// places those have: raising them needs no more but for the new tier's.
func inForce(open []staunch.Containment) (yes bool, have []string) {
	for _, c := range open {
		if c.Phase != staunch.PhaseApproval && c.Phase != staunch.PhaseReleasing {
			yes, have = true, append(have, c.Caps...)
		}
	}
	return yes, have
}

// barredStep says why a step must not be called now, since its group could not do
// without its target.
func (a *App) barredStep(r store.Reader, con staunch.Containment, s staunch.Step) (string, error) {
	set := a.current()
	return set.Guardrails.Unhealthy(r, con.Identity, set.Bundle.Groups.Size(con.Identity), con.Origin, s, staunch.TimeOf(a.opt.Clock.Now()))
}

// approving says what approvals take at present.
func (a *App) approving() contain.Approving {
	persons, validFor := a.current().Guardrails.Approving()
	return contain.Approving{Persons: persons, For: validFor}
}

func (c cases) Contain(tx store.Tx, req api.ContainRequest, who string) (api.Opened, error) {
	if err := c.check(req); err != nil {
		return api.Opened{}, err
	}
	p, err := c.playbook(req)
	if err != nil {
		return api.Opened{}, err
	}
	if err := tx.RequireBundle(c.a.current().Bundle.Hash); err != nil {
		return api.Opened{}, err
	}
	key := req.Key
	if key == "" {
		key = fmt.Sprint(int64(staunch.TimeOf(c.a.opt.Clock.Now())))
	}
	opener := "manual/" + who + "/" + key
	m, err := c.admit(tx, req.Subject, req.Tier, p.Name, opener, who+": "+req.Reason)
	if err != nil {
		return api.Opened{}, err
	}
	m.Subject, m.Opener, m.Tier, m.Playbook, m.Requester = req.Subject, opener, req.Tier, p, who
	if c.a.current().Guardrails.AsksByHand(req.Tier) {
		m.Approval = true
		for _, name := range m.Caps { // what waits has no places
			if err := tx.GiveBack(name); err != nil {
				return api.Opened{}, err
			}
		}
		m.Caps = nil
	}
	m.Since = staunch.TimeOf(c.a.opt.Clock.Now()).Add(-sinceForManual)
	o, err := c.a.engine.Open(tx, m)
	return opened(o), err
}

// mostReached is how much Reach looks at: several times what a plan takes. What is
// beyond is not a reason to refuse, or a thief with many tokens could not be
// contained by those whose scope is limited.
const mostReached = 1000

// Reach follows the lineage as a plan does.
func (c cases) Reach(r store.Reader, con staunch.Containment) ([]staunch.Ref, error) {
	if con.Scope.Closure != "derived" {
		return nil, nil
	}
	roots := slices.Clone(con.Scope.Roots)
	for _, root := range con.Scope.Roots {
		if root.Kind != staunch.KindIdentity {
			continue
		}
		id, err := r.Identity(root.Value)
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return nil, err
		}
		roots = append(roots, id.Accounts...)
	}
	refs, _, err := c.a.inv.Derived(r, roots, con.Since, mostReached)
	if err != nil {
		return nil, fmt.Errorf("looking for what came from %s: %w", con.Subject, err)
	}
	return refs, nil
}

func opened(o contain.Opened) api.Opened {
	return api.Opened{V: staunch.Version, Containment: o.Containment, Created: o.Created, Raised: o.Raised}
}

// admit passes a containment by hand by the guardrails. It returns what Open needs
// of it, with its places taken.
func (c cases) admit(tx store.Tx, subject staunch.Ref, tier staunch.Tier, playbook, opener, reason string) (contain.OpenRequest, error) {
	if err := c.declared(tx, subject); err != nil {
		return contain.OpenRequest{}, err
	}
	s, now := c.a.current(), staunch.TimeOf(c.a.opt.Clock.Now())
	res, err := c.a.inv.Resolve(tx, subject, now)
	if err != nil {
		return contain.OpenRequest{}, err
	}
	d := staunch.Decision{
		V: staunch.Version, ID: staunch.DecisionID(subject, s.Bundle.Hash, []string{opener}), Subject: subject,
		Scope: subject, AsOf: now, Made: now, Identity: res.Identity, Bundle: s.Bundle.Hash, Tier: tier,
		Mode: staunch.ModeEnforce, Playbook: playbook, Verdict: staunch.VerdictContain, Reasons: []string{reason},
	}
	open, err := tx.OpenContainments(res.Names)
	if err != nil {
		return contain.OpenRequest{}, err
	}
	raise, have := inForce(open)
	adm, err := s.Guardrails.Admit(tx, decide.Request{
		Decision: d, Resolution: res, Origin: staunch.OriginManual, Own: c.a.engine.OwnRefs(), Raise: raise, Have: have,
		Group: s.Bundle.Groups.Size(res.Identity), Now: now,
	})
	if err != nil {
		return contain.OpenRequest{}, err
	}
	if adm.Verdict != staunch.VerdictContain {
		return contain.OpenRequest{}, fmt.Errorf("%w: %s: %v", staunch.ErrConflict, adm.Verdict, adm.Reasons)
	}
	return contain.OpenRequest{Resolution: res, Origin: staunch.OriginManual, Reasons: d.Reasons, Caps: adm.Caps}, nil
}

// preview says what a containment by hand would do, and for which case.
func (c cases) preview(ctx context.Context, req api.ContainRequest) (staunch.Containment, contain.Draft, error) {
	if err := c.check(req); err != nil {
		return staunch.Containment{}, contain.Draft{}, err
	}
	if err := c.a.store.View(ctx, func(r store.Reader) error { return c.declared(r, req.Subject) }); err != nil {
		return staunch.Containment{}, contain.Draft{}, err
	}
	p, err := c.playbook(req)
	if err != nil {
		return staunch.Containment{}, contain.Draft{}, err
	}
	con := contain.Would(req.Subject, req.Tier, p, staunch.TimeOf(c.a.opt.Clock.Now()).Add(-sinceForManual))
	d, err := c.a.engine.Preview(ctx, con)
	return con, d, err
}

func (c cases) Plan(ctx context.Context, req api.ContainRequest) (api.Draft, error) {
	con, d, err := c.preview(ctx, req)
	if err != nil {
		return api.Draft{}, err
	}
	out := api.Draft{
		V: staunch.Version, Tier: req.Tier, Playbook: con.Playbook.Name, Stage: con.Stage, Deny: con.Playbook.Stages[con.Stage].Deny,
		Roots: d.Roots, Derived: d.Derived, Gaps: d.Gaps, ScopeHash: con.Scope.Hash(), Items: []api.DraftItem{},
		Stages: con.Playbook.Stages, Coming: c.stages(ctx, con, con.Stage+1, contain.AskedSteps(d)),
	}
	for _, it := range d.Items {
		out.Items = append(out.Items, api.DraftItem{Connector: it.Connector, Intent: it.Intent, Found: it.Found})
	}
	return out, nil
}

func (c cases) PlanFile(ctx context.Context, req api.PlanFileRequest, who string) (staunch.PlanFile, error) {
	bundle := c.a.current().Bundle.Hash // before anything is looked at
	con, d, err := c.preview(ctx, req.ContainRequest)
	if err != nil {
		return staunch.PlanFile{}, err
	}
	now := staunch.TimeOf(c.a.opt.Clock.Now())
	until := now.Add(req.ValidFor.Std())
	if keep := con.Playbook.ScopeFor.Std(); keep > 0 {
		con.Scope.Until = now.Add(keep)
		until = min(until, con.Scope.Until)
	}
	f := d.File(con)
	f.Bundle, f.Made, f.MadeBy, f.Until = bundle, now, who, until
	f.Approval = req.Approval || c.a.current().Guardrails.AsksByHand(req.Tier)
	return contain.SignPlan(c.a.keys, f)
}

// Apply looks at everything that the store knows before it asks a platform, and
// once more in the transaction that opens the case.
func (c cases) Apply(ctx context.Context, req api.ApplyRequest, who string, may func(store.Reader) error) (api.Opened, error) {
	f := req.Plan
	if err := contain.VerifyPlan(c.a.keys, f); err != nil {
		return api.Opened{}, err
	}
	var was staunch.Containment
	var applied bool
	look := func(r store.Reader) error {
		if err := may(r); err != nil {
			return err
		}
		var err error
		if was, applied, err = contain.Applied(r, f); err != nil || applied {
			return err
		}
		if now := staunch.TimeOf(c.a.opt.Clock.Now()); now >= f.Until {
			return fmt.Errorf("%w: the plan was valid until %s; make a new one", staunch.ErrConflict, f.Until)
		}
		if hash := c.a.current().Bundle.Hash; hash != f.Bundle {
			return fmt.Errorf("%w: the plan was made under the configuration %s, and %s is active; make a new one", staunch.ErrConflict, f.Bundle, hash)
		}
		return nil
	}
	if err := c.a.store.View(ctx, look); err != nil {
		return api.Opened{}, err
	}
	if applied {
		return api.Opened{V: staunch.Version, Containment: was}, nil
	}
	p, err := c.a.engine.Recheck(ctx, f)
	if err != nil {
		return api.Opened{}, err
	}
	requester := who
	if f.Approval {
		requester, p.Approver = f.MadeBy, who
	}
	var out api.Opened
	err = c.a.store.Update(ctx, func(tx store.Tx) error {
		if err := look(tx); err != nil {
			return err
		}
		if applied {
			out = api.Opened{V: staunch.Version, Containment: was}
			return nil
		}
		if err := tx.RequireBundle(f.Bundle); err != nil {
			return err
		}
		m, err := c.admit(tx, f.Subject, f.Tier, f.Playbook.Name, "plan/"+f.Hash, who+": "+req.Reason)
		if err != nil {
			return err
		}
		m.Requester = requester
		o, err := c.a.engine.OpenPlanned(tx, p, m)
		out = opened(o)
		return err
	})
	if err != nil {
		return api.Opened{}, err
	}
	return out, nil
}

func (c cases) Release(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
	return c.a.engine.Release(tx, id, r)
}

func (c cases) Clear(tx store.Tx, id string, r staunch.Release) (staunch.Containment, error) {
	return c.a.engine.Clear(tx, id, r)
}

func (c cases) Judge(tx store.Tx, id, who string, j staunch.Judgement, reason string) (staunch.Containment, error) {
	return c.a.engine.Judge(tx, id, who, j, reason)
}

func (c cases) AdvanceWindow(tx store.Tx, id, who string) (staunch.Containment, error) {
	return c.a.engine.AdvanceWindow(tx, id, who)
}

func (c cases) Extend(tx store.Tx, id, who string, d time.Duration) (staunch.Containment, error) {
	return c.a.engine.Extend(tx, id, who, d)
}

func (c cases) Approve(tx store.Tx, id, who, scopeHash, planHash string) (staunch.Containment, error) {
	if err := tx.RequireBundle(c.a.current().Bundle.Hash); err != nil {
		return staunch.Containment{}, err
	}
	return c.a.engine.Approve(tx, id, who, scopeHash, planHash)
}

func (c cases) Revivals(r store.Reader, id string) ([]string, error) {
	cs, err := contain.ReadCase(r, id)
	if err != nil {
		return nil, err
	}
	return contain.Revivals(cs), nil
}

func (c cases) D3FEND(s staunch.Step) []string {
	conn := c.a.conns[s.Target.Ref.Realm]
	if conn == nil {
		return nil
	}
	spec, ok := contain.SpecFor(conn.Describe(), s.Verb, s.Target)
	if !ok {
		return nil
	}
	return spec.D3FEND
}

// operator looks after the process.
type operator struct{ a *App }

// Checkpoint signs a checkpoint of the record log.
func (o operator) Checkpoint(ctx context.Context) (record.Checkpoint, error) {
	return o.a.checkpoint(ctx)
}

// LastCheckpoint returns the newest that this node signed or has in its file.
func (o operator) LastCheckpoint() (*record.Checkpoint, error) {
	c := &o.a.checkpoints
	c.making.Lock()
	defer c.making.Unlock()
	if c.last != nil {
		last := *c.last
		return &last, nil
	}
	if o.a.cfg.Audit.CheckpointFile == "" {
		return nil, nil
	}
	return lastCheckpoint(o.a.cfg.Audit.CheckpointFile, o.a.chain)
}

// Reload reads the configuration again. Rules, policies, identities, limits and
// known sources change at once and together; what needs a restart is named.
//
// Where rules are refused nothing changes, unless keepGoing has the others put in
// place without them.
func (o operator) Reload(ctx context.Context, who string, keepGoing bool) (api.Reloaded, error) {
	o.a.nodes.reload.Lock()
	defer o.a.nodes.reload.Unlock()
	cfg, err := config.Load(o.a.cfg.File())
	if err != nil {
		return api.Reloaded{}, err
	}
	s, err := Load(cfg, !keepGoing)
	if err != nil {
		return api.Reloaded{}, err
	}
	old := o.a.current()
	restart := restartNotes(old.Config, cfg)
	if err := o.a.store.Update(ctx, func(tx store.Tx) error {
		changed, err := o.a.activate(tx, s, who)
		if err != nil || changed {
			return err
		}
		// What is not part of the bundle may have changed all the same.
		return appendRecord(tx, staunch.RecordConfig, who, "reload", staunch.TimeOf(o.a.opt.Clock.Now()), map[string]any{
			"bundle": s.Bundle.Hash, "config": o.a.digestOf(cfg), "restart": restart, "node": o.a.cfg.Node,
		})
	}); err != nil {
		return api.Reloaded{}, fmt.Errorf("activating the configuration: %w", err)
	}
	out := api.Reloaded{V: staunch.Version, Bundle: s.Bundle.Hash, Changed: s.Bundle.Hash != old.Bundle.Hash}
	for _, n := range restart {
		out.Notes = append(out.Notes, n+" changed: restart to use it")
	}
	for _, e := range s.RuleErrors {
		out.Refused = append(out.Refused, api.Fault{Place: e.Place(), Message: e.What()})
	}
	o.a.use(s)
	return out, nil
}

// restartNotes names what a reload does not change.
func restartNotes(old, now *config.Config) []string {
	var out []string
	differ := func(name string, a, b any) {
		x, err1 := json.Marshal(a)
		y, err2 := json.Marshal(b)
		if err1 != nil || err2 != nil || string(x) != string(y) {
			out = append(out, name)
		}
	}
	differ("data_dir", old.DataDir, now.DataDir)
	differ("postgres_url", old.PostgresURL.Digest(), now.PostgresURL.Digest())
	differ("listen", old.Listen, now.Listen)
	differ("tls", old.TLS, now.TLS)
	differ("mode", old.Mode, now.Mode)
	differ("realms", old.Realms, now.Realms)
	differ("guard", old.Guard, now.Guard)
	differ("notify", old.Notify, now.Notify)
	differ("audit", old.Audit, now.Audit)
	differ("suspicion", old.Suspicion, now.Suspicion)
	return out
}

// ReportHealth keeps a report of how many of a group are healthy.
func (o operator) ReportHealth(tx store.Tx, h api.GroupHealth, who string) (api.GroupHealthKept, error) {
	kept, err := decide.ReportHealth(tx, decide.Health{
		Environment: h.Environment, Purpose: h.Purpose, Healthy: h.Healthy, Of: h.Of, At: h.At, By: who,
	}, staunch.TimeOf(o.a.opt.Clock.Now()))
	return api.GroupHealthKept{V: staunch.Version, GroupHealth: h, Contained: kept.Contained}, err
}

// ForgetTrips forgets what a breaker counted.
func (o operator) ForgetTrips(tx store.Tx, scope string) error { return decide.ForgetTrips(tx, scope) }

// Ready returns nil once requests may be sent.
func (o operator) Ready(context.Context) error {
	if o.a.guard.Stale() {
		return errors.New("the guard's state is stale")
	}
	if hash := o.a.pipe.Waits(); hash != "" {
		return fmt.Errorf("%w: %s", store.ErrBundle, hash)
	}
	return nil
}

// Doctor looks at everything that has to work.
func (o operator) Doctor(ctx context.Context) (api.Diagnosis, error) {
	d := api.Diagnosis{V: staunch.Version, Healthy: true}
	check := func(name string, fn func() []connector.Finding) {
		began := o.a.opt.Clock.Now()
		found := fn()
		took := float64(o.a.opt.Clock.Now().Sub(began).Microseconds()) / 1000
		if len(found) == 0 {
			d.Checks = append(d.Checks, api.Check{Name: name, Status: "ok", TookMS: took})
		}
		for _, f := range found {
			if f.Severity == "error" {
				d.Healthy = false
			}
			d.Checks = append(d.Checks, api.Check{Name: name, Status: f.Severity, Message: f.Message, Hint: f.Hint, TookMS: took})
		}
	}
	bad := func(format string, args ...any) []connector.Finding {
		return []connector.Finding{{Severity: "error", Message: fmt.Sprintf(format, args...)}}
	}
	check("store", func() []connector.Finding {
		at, err := o.a.store.Now(ctx)
		if err != nil {
			return bad("%v", err)
		}
		if skew := at.Sub(staunch.TimeOf(o.a.opt.Clock.Now())).Abs(); skew > time.Second {
			return []connector.Finding{{Severity: "warning", Message: fmt.Sprintf("the database's clock is %s off ours", skew), Hint: "synchronise the clocks: leases and time bounds depend on them"}}
		}
		return nil
	})
	check("guard", func() []connector.Finding {
		if o.a.guard.Stale() {
			return bad("the guard's state is stale; it answers with its fail mode")
		}
		return nil
	})
	d.Checks = append(d.Checks, o.a.guardChecks(ctx)...)
	s := o.a.current()
	check("configuration", func() []connector.Finding {
		hash := o.a.pipe.Waits()
		if hash == "" {
			return nil
		}
		return []connector.Finding{{
			Severity: "error", Message: fmt.Sprintf("%s is active and this node's files make %s: it does not decide", hash, s.Bundle.Hash),
			Hint: "give this node the same rules, policies, identities and limits, or activate its own with `staunch reload`",
		}}
	})
	check("rules", func() []connector.Finding {
		var out []connector.Finding
		for _, e := range s.RuleErrors {
			out = append(out, connector.Finding{Severity: "warning", Message: e.Error(), Hint: "the rule is not used; see `staunch validate`"})
		}
		return out
	})
	check("notify", func() []connector.Finding {
		var out []connector.Finding
		for _, name := range s.unknownChannels() {
			out = append(out, connector.Finding{
				Severity: "warning", Message: fmt.Sprintf("a policy names channel %q, and there is none: what goes to it reaches nobody", name),
				Hint: "add it under notify and restart, or take it out of the policy",
			})
		}
		return out
	})
	check("checkpoints", o.a.checkCheckpoints)
	check("retention", o.a.checkRetention)
	check("mode", func() []connector.Finding {
		if s.Config.Mode != staunch.ModeEnforce {
			return []connector.Finding{{Severity: "warning", Message: "the engine is in " + s.Config.Mode.String() + " mode: nothing is contained by itself"}}
		}
		return nil
	})
	for _, r := range s.Config.Realms {
		c := o.a.conns[r.Name]
		if c == nil {
			check("realm "+r.Name, func() []connector.Finding { return bad("needs a restart to be used") })
			continue
		}
		h, ok := c.(connector.Health)
		if !ok {
			continue
		}
		check("realm "+r.Name, func() []connector.Finding {
			cctx, cancel := context.WithTimeout(ctx, 15*time.Second)
			defer cancel()
			return h.Check(cctx)
		})
	}
	for _, c := range s.Config.Sources {
		if c.Tail != nil {
			check("tail "+c.Name, func() []connector.Finding { return readable(c.Tail.Path) })
		}
		if _, ok := o.a.conns[c.Realm]; !ok {
			check("source "+c.Name, func() []connector.Finding {
				return []connector.Finding{{Severity: "warning", Message: "realm " + c.Realm + " has no connector: its subjects are held on the fast plane alone"}}
			})
		}
	}
	check("breakers", func() []connector.Finding {
		var out []connector.Finding
		err := o.a.store.View(ctx, func(r store.Reader) error {
			out = nil
			bs, err := r.Breakers()
			for _, b := range bs {
				if b.Open {
					out = append(out, connector.Finding{Severity: "warning", Message: "breaker " + b.Scope + " is open: " + b.Reason, Hint: "look why, then `staunch breaker reset " + b.Scope + "`"})
				}
			}
			return err
		})
		if err != nil {
			return bad("%v", err)
		}
		return out
	})
	return d, nil
}

// readable says what stands against following a file.
func readable(path string) []connector.Finding {
	f, err := os.Open(path)
	switch {
	case err == nil:
		_ = f.Close() // nothing was written
		return nil
	case errors.Is(err, os.ErrNotExist):
		return []connector.Finding{{Severity: "warning", Message: path + " does not exist yet"}}
	default:
		return []connector.Finding{{Severity: "error", Message: "it cannot be read: " + err.Error()}}
	}
}

// registerMetrics adds the gauges and counters of the pipeline and the guard.
func (a *App) registerMetrics() {
	st := a.pipe.Stats()
	counter := func(name, help string, v func() int64) {
		a.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "staunch", Name: name, Help: help},
			func() float64 { return float64(v()) }))
	}
	counter("records_total", "Records read.", st.Records.Load)
	counter("records_rejected_total", "Records that could not be read or mapped.", st.Rejected.Load)
	counter("records_kept_total", "Records committed as events.", st.Kept.Load)
	counter("records_duplicate_total", "Records that had been committed before.", st.Duplicates.Load)
	counter("signals_total", "Signals committed.", st.Signals.Load)
	counter("decisions_total", "Decisions committed.", st.Decisions.Load)
	gauge := func(name, help string, v func() float64) {
		a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "staunch", Name: name, Help: help}, v))
	}
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("guard_stale", "1 while the guard's state is stale or its place has run out.", func() float64 { return one(a.guard.Stale()) })
	gauge("guard_applied_seq", "The hold sequence up to which the guard has applied everything.", func() float64 { return float64(a.guard.Seq()) })
	a.registerRetention(gauge)
	gauge("bundle_active", "1 while this node's configuration is the active one, 0 while it does not decide.", func() float64 { return one(a.pipe.Waits() == "") })
}

var (
	_ api.Ingester  = ingester{}
	_ api.Cases     = cases{}
	_ api.Knowledge = knowledge{}
	_ api.Guard     = evaluator{}
	_ api.Operator  = operator{}
	_ api.Rehearser = (*rehearser)(nil)
)
