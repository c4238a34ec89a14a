package contain

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	records "github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// A plan file is a plan that people have looked at and that is carried out as it
// stands. What it may do is fixed when it is written: its targets, their verbs,
// what is sent, and the scope. It is refused as a whole, before anything is
// written or called, where anything of that is not so any more.
//
// The state that it was planned on is a precondition. What a release would put
// back (reversible) has to be the same to the byte of its digest. What is ended
// for good, such as sessions, may have come and gone since, as long as the thing
// is there and the same call would be sent.
//
// Its case begins with its plan, in the transaction that makes the case. From
// then on it goes the way of every case, with one difference: where the scope has
// no closure, child plans do what the case has once more and add nothing.

// Signer authenticates plan files under a key that never leaves it; seal.Keyring
// implements it.
type Signer interface {
	// MAC returns 32 bytes that only an owner of the key can make of the parts.
	MAC(purpose string, parts ...[]byte) []byte
}

// The purposes that plan files use a Signer for.
const (
	planPurpose   = "plan file"
	serverPurpose = "plan file server"
)

// Planned is a plan file whose targets were found as the file expects them.
type Planned struct {
	File staunch.PlanFile
	// Approver is who applies it, where that takes an approval.
	Approver string

	draft Draft
	// waits has the case wait for the approval of others.
	waits bool
	// asked and approvals are those of a file that takes more than one person.
	asked     *staunch.Asked
	approvals []staunch.Approval
}

// File makes the draft a plan file for the case that it was previewed for. It
// lacks what is not the draft's: by whom and until when, the bundle, and what
// SignPlan fills in.
func (d Draft) File(con staunch.Containment) staunch.PlanFile {
	f := staunch.PlanFile{
		V: staunch.Version, Kind: staunch.PlanFileKind, Subject: con.Subject, Since: con.Since, Tier: con.Tier,
		Playbook: con.Playbook, Stage: con.Stage, Scope: con.Scope, ScopeHash: con.Scope.Hash(),
		Guard: []staunch.Ref{}, Targets: make([]staunch.PlanTarget, 0, len(d.Items)), Gaps: d.Gaps,
	}
	if len(con.Playbook.Stages[con.Stage].Deny) > 0 {
		for _, ref := range slices.Concat([]staunch.Ref{con.Subject}, d.Roots, d.Derived) {
			if !d.barred[ref] && !slices.Contains(f.Guard, ref) {
				f.Guard = append(f.Guard, ref)
			}
		}
	}
	for _, it := range d.Items {
		f.Targets = append(f.Targets, staunch.PlanTarget{
			AskedStep: askedStep(it), Probe: it.Intent.Probe,
			Before: staunch.PreState{
				Exists: it.Before.Exists, Effective: it.Before.Effective, Digest: staunch.Digest(it.Before.Body),
				Summary: it.Before.Summary, ReadAt: it.Before.ReadAt,
			},
		})
	}
	return f
}

// canonicalPlan returns what is hashed and signed: the file's canonical form with
// an empty hash and signature.
func canonicalPlan(f staunch.PlanFile) ([]byte, error) {
	f.Hash, f.Signature = "", ""
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encoding the plan: %w", err)
	}
	return records.Canonical(b)
}

// PlanServer names the server that signs with s.
func PlanServer(s Signer) string { return "srv_" + hex.EncodeToString(s.MAC(serverPurpose)[:8]) }

func planSignature(s Signer, canonical []byte) string {
	return "hmac-sha256:" + hex.EncodeToString(s.MAC(planPurpose, canonical))
}

// SignPlan fills in the server, the hash and the signature. A plan that no server
// would apply, because it has no target or too many, is refused here already.
func SignPlan(s Signer, f staunch.PlanFile) (staunch.PlanFile, error) {
	if err := checkPlan(f); err != nil {
		return f, err
	}
	f.Server = PlanServer(s)
	b, err := canonicalPlan(f)
	if err != nil {
		return f, err
	}
	if len(b) > staunch.MaxPlanFile*9/10 {
		return f, planProblem("is too large for a file: %d bytes of at most %d", len(b), staunch.MaxPlanFile*9/10)
	}
	f.Hash, f.Signature = staunch.Digest(b), planSignature(s, b)
	return f, nil
}

func planProblem(format string, args ...any) error {
	return &staunch.Problem{Place: "plan", Reason: fmt.Sprintf(format, args...)}
}

// VerifyPlan reports why the file is not one that the owner of the key wrote, as
// it stands. It says nothing of whether it can still be applied.
func VerifyPlan(s Signer, f staunch.PlanFile) error {
	if f.V != staunch.Version || f.Kind != staunch.PlanFileKind {
		return planProblem("is version %d of %.40q; this release reads version %d of %q", f.V, f.Kind, staunch.Version, staunch.PlanFileKind)
	}
	b, err := canonicalPlan(f)
	if err != nil {
		return err
	}
	again := &staunch.Problem{Place: "plan", Hint: "make a new one: staunch plan SUBJECT --out FILE"}
	switch server := PlanServer(s); {
	case f.Hash != staunch.Digest(b):
		again.Reason = "was edited: its content does not have the hash that it names"
		return again
	case f.Server != server:
		return &staunch.Problem{
			Place: "plan", Reason: fmt.Sprintf("was made by another server (%.40q; this one is %s)", f.Server, server),
			Hint: "apply it where it was made",
		}
	case !hmac.Equal([]byte(f.Signature), []byte(planSignature(s, b))):
		again.Reason = "was edited: this server did not sign it"
		return again
	}
	// What was signed was checked; a mistake in that must not open everything.
	return checkPlan(f)
}

// checkPlan reports why nobody may apply a plan like that.
func checkPlan(f staunch.PlanFile) error {
	switch {
	case len(f.Targets) == 0:
		return &staunch.Problem{Place: "plan", Reason: "has no target, and an empty set never means everything", Hint: "its gaps say what the platforms cannot do; staunch contain holds the subject on the fast plane"}
	case len(f.Targets) > 2*staunch.MaxPlanTargets: // a target may have two verbs
		return planProblem("has %d steps", len(f.Targets))
	case f.Stage < 0 || f.Stage >= len(f.Playbook.Stages):
		return planProblem("is of stage %d, and its playbook has %d", f.Stage, len(f.Playbook.Stages))
	case f.ScopeHash != f.Scope.Hash():
		return planProblem("has a scope hash that is not its scope's")
	case !slices.Equal(f.Scope.Roots, []staunch.Ref{f.Subject}):
		return planProblem("has a scope of another subject")
	case f.Tier > f.Scope.Highest:
		return planProblem("is of tier %s and its scope allows %s", f.Tier, f.Scope.Highest)
	}
	seen, targets := map[string]bool{}, map[string]bool{}
	for _, t := range f.Targets {
		targets[t.Target.Key()] = true
		key := t.Target.Key() + string(t.Verb)
		switch err := explicit(t.Target); {
		case err != nil:
			return planProblem("has a target that is not explicit: %v", err)
		case seen[key]:
			return planProblem("has %s on %s twice", t.Verb, t.Target)
		case t.Tier > f.Scope.Highest || t.Tier > f.Playbook.Stages[f.Stage].Tier:
			return planProblem("has %s on %s, which is above its stage", t.Verb, t.Target)
		}
		seen[key] = true
	}
	if most := min(f.Scope.MostTargets, staunch.MaxPlanTargets); len(targets) > most {
		return planProblem("has %d targets and its scope allows %d", len(targets), most)
	}
	return nil
}

// planOpener is what opens a plan file's case: the same file is the same case.
func planOpener(f staunch.PlanFile) string { return "plan/" + f.Hash }

// Applied returns the case that the file was applied as; ok is false where it was
// not, or not by as many people as it takes. A case that was released is an error:
// a plan is applied once.
func Applied(r store.Reader, f staunch.PlanFile) (con staunch.Containment, ok bool, err error) {
	con, err = r.Containment(staunch.ContainmentID(f.Subject, planOpener(f)))
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		return con, false, nil
	case err != nil:
		return con, false, err
	case con.Phase == staunch.PhaseApproval && con.PlanFile == f.Hash:
		return con, false, nil // others have to apply it as well
	case !con.Phase.Open():
		return con, false, fmt.Errorf("%w: the plan was applied already as %s, which is released; make a new one", staunch.ErrConflict, con.ID)
	}
	return con, true, nil
}

// Recheck finds out whether the plan still holds, by reading its targets. It
// changes nothing. A target that is protected or ours by now, or is not as the
// plan expects it, is a staunch.ErrConflict that names it. A platform that does
// not answer gives its own error.
func (e *Engine) Recheck(ctx context.Context, f staunch.PlanFile) (Planned, error) {
	p := Planned{File: f, draft: Draft{Roots: []staunch.Ref{f.Subject}, Gaps: f.Gaps}}
	if err := checkPlan(f); err != nil {
		return p, err
	}
	err := e.opt.Store.View(ctx, func(r store.Reader) error {
		var err error
		if p.draft.seq, err = r.HoldSeq(); err != nil {
			return err
		}
		return e.walls(r, f)
	})
	if err != nil {
		return p, err
	}
	for _, t := range f.Targets {
		conn := e.opt.Connectors[t.Target.Ref.Realm]
		if conn == nil {
			return p, fmt.Errorf("%w: %s: no connector is configured for realm %s", staunch.ErrConflict, t.Target, t.Target.Ref.Realm)
		}
		desc := conn.Describe()
		spec, ok := SpecFor(desc, t.Verb, t.Target)
		if !ok || spec.Tier != t.Tier || desc.Platform != t.Connector {
			return p, fmt.Errorf("%w: %s: its connector does not do %s as the plan says", staunch.ErrConflict, t.Target, t.Verb)
		}
		p.draft.Items = append(p.draft.Items, DraftItem{
			Connector: desc.Platform, Spec: spec, Intent: staunch.Intent{Target: t.Target, Verb: t.Verb, Probe: t.Probe},
		})
	}
	if err := e.readHolds(ctx, &p.draft); err != nil {
		return p, err
	}
	e.readAll(ctx, &p.draft)
	if err := errors.Join(slices.Concat(p.draft.outage, p.draft.refusal)...); err != nil {
		return p, fmt.Errorf("reading what the plan is about: %w", err)
	}
	p.draft.Gaps = f.Gaps
	const most = 10
	var why []string
	for i, it := range p.draft.Items {
		if d := differs(f.Targets[i], it); d != "" {
			why = append(why, f.Targets[i].Target.String()+": "+d)
		}
	}
	if n := len(why) - most; n > 0 {
		why = append(why[:most], fmt.Sprintf("and %d more", n))
	}
	if len(why) > 0 {
		return p, fmt.Errorf("%w: it is not any more as it was when the plan was made: %s; make a new one", staunch.ErrConflict, strings.Join(why, "; "))
	}
	return p, ctx.Err()
}

// differs says in what a target is not as the plan expects it, "" where it is.
func differs(t staunch.PlanTarget, it DraftItem) string {
	in := it.Intent
	same := it.Before.Exists == t.Before.Exists &&
		(in.Reversibility != staunch.Reversible || staunch.Digest(it.Before.Body) == t.Before.Digest)
	switch {
	case !same && it.Before.Summary == t.Before.Summary:
		return fmt.Sprintf("%q then and now, but what a release would put back is not the same", t.Before.Summary)
	case !same:
		return fmt.Sprintf("it was %q and is %q", t.Before.Summary, it.Before.Summary)
	case in.Call != t.Call || in.Undo != t.Undo || in.Reversibility != t.Reversibility || in.Revives != t.Revives:
		return fmt.Sprintf("what would be sent now is %q, undone by %q", in.Call, in.Undo)
	}
	return ""
}

// walls reports which of the plan's targets are protected or ours.
func (e *Engine) walls(r store.Reader, f staunch.PlanFile) error {
	now := staunch.TimeOf(e.opt.Clock.Now())
	seen := map[staunch.Ref]bool{}
	for _, ref := range append(targetRefs(f), f.Subject) {
		if seen[ref] {
			continue
		}
		seen[ref] = true
		res, err := e.opt.Lineage.Resolve(r, ref, now)
		if err != nil {
			return fmt.Errorf("resolving %s: %w", ref, err)
		}
		res.Ref = ref
		if why := e.barred(res); why != "" {
			return fmt.Errorf("%w: %s must not be touched: %s", staunch.ErrConflict, ref, why)
		}
	}
	return nil
}

func targetRefs(f staunch.PlanFile) []staunch.Ref {
	out := make([]staunch.Ref, 0, len(f.Targets)+1)
	for _, t := range f.Targets {
		out = append(out, t.Target.Ref)
	}
	return out
}

// OpenPlanned makes the case of a plan file that was rechecked, with its plan,
// intents, sealed pre-images and holds, in the caller's transaction (T1 and T2 in
// one). req says what the file does not. The error is a staunch.ErrConflict where a
// case is open on the same subject, or another case is changing one of the targets,
// and a staunch.ErrForbidden where who asked for it approves it; then, as with any
// error, nothing of it must be committed. The caller has seen that the file is
// authentic, in time, of the active bundle and not applied yet.
//
// A file that asks for approval and has something that cannot be undone takes
// several people: until the last of them applies it, its case waits.
func (e *Engine) OpenPlanned(tx store.Tx, p Planned, req OpenRequest) (Opened, error) {
	f := p.File
	if f.Approval && (p.Approver == "" || strings.EqualFold(p.Approver, f.MadeBy)) {
		return Opened{}, fmt.Errorf("%w: %s asked for this, and another person has to apply it", staunch.ErrForbidden, f.MadeBy)
	}
	if err := e.walls(tx, f); err != nil {
		return Opened{}, err
	}
	req.Subject, req.Opener, req.Tier, req.Playbook, req.Since = f.Subject, planOpener(f), f.Tier, f.Playbook, f.Since
	req.Planned = &p
	id := staunch.ContainmentID(f.Subject, planOpener(f))
	asked := staunch.Ask(id, askedOf(f), f.Gaps, e.approving().Persons, f.Made)
	if !f.Approval || asked.Persons == 1 {
		return e.Open(tx, req)
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	con, err := tx.Containment(id)
	waiting := err == nil && con.Phase == staunch.PhaseApproval
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		con = staunch.Containment{ID: id, Scope: f.Scope, Requester: f.MadeBy, Asked: asked}
	case err != nil:
		return Opened{}, err
	case !waiting:
		return e.Open(tx, req) // it was applied already
	}
	if err := mayApprove(con, p.Approver, now); err != nil {
		return Opened{}, err
	}
	if con.Asked == nil {
		con.Asked = asked
	}
	enough := e.approveAs(&con, p.Approver, now)
	p.asked, p.approvals, p.waits = con.Asked, con.Approvals, !enough
	if !enough { // what waits has no places
		if err := giveBack(tx, req.Caps); err != nil {
			return Opened{}, err
		}
		req.Caps, req.Approval = nil, true
	}
	if !waiting {
		return e.Open(tx, req)
	}
	p.Approver = approvers(con.Approvals)
	return e.applyWaiting(tx, con, req, now)
}

// applyWaiting adds an approval to the case of a plan file that waits for others,
// and carries the plan out once it is the last.
func (e *Engine) applyWaiting(tx store.Tx, con staunch.Containment, req OpenRequest, now staunch.Time) (Opened, error) {
	p := req.Planned
	if !p.waits {
		open, err := tx.OpenContainments(con.Names)
		if err != nil {
			return Opened{}, err
		}
		open = slices.DeleteFunc(open, func(o staunch.Containment) bool { return o.ID == con.ID })
		if o, ok := extends(open, req); ok {
			return Opened{}, fmt.Errorf("%w: %s is open on the same subject already; release it, or make a plan of what it leaves out", staunch.ErrConflict, o.ID)
		}
		con.Caps = req.Caps
		con.Expires = 0
		if d := con.Playbook.Expiry.Std(); d > 0 {
			con.Expires = now.Add(d)
		}
		p.begin(&con)
	}
	con.Approvals = p.approvals
	con.Generation++
	con.Changed = now
	last := p.approvals[len(p.approvals)-1]
	if err := e.putCase(tx, con, last.By, now, map[string]any{
		"request": "approve", "from": staunch.PhaseApproval, "phase": con.Phase, "generation": con.Generation,
		"approval": last, "approvals": len(p.approvals), "persons": con.Asked.Persons, "plan_file": con.PlanFile,
	}); err != nil {
		return Opened{}, err
	}
	if p.waits {
		return Opened{Containment: con}, e.notices(tx, "approval", con, nil, now)
	}
	return e.openPlanned(tx, con, *p, now)
}

// askedOf returns what a plan file asks people to approve.
func askedOf(f staunch.PlanFile) []staunch.AskedStep {
	out := make([]staunch.AskedStep, 0, len(f.Targets))
	for _, t := range f.Targets {
		out = append(out, t.AskedStep)
	}
	return out
}

// begin has a case begin with the plan in place of its own first one, or wait for
// others to approve it.
func (p *Planned) begin(con *staunch.Containment) {
	f := p.File
	con.Phase, con.Stage, con.Scope, con.PlanFile, con.Approver = staunch.PhaseActing, f.Stage, f.Scope, f.Hash, p.Approver
	con.Asked, con.Approvals = p.asked, p.approvals
	if p.waits {
		con.Phase, con.Approver = staunch.PhaseApproval, ""
		con.Expires = earliest(con.Expires, f.Until) // nobody can apply it after that
		return
	}
	// What came to light since the plan was made is for a child plan.
	con.Replan = !closed(*con)
}

// closed reports whether nothing may be done for the case beyond the plan file
// that it rests on, but for the stages that follow.
func closed(con staunch.Containment) bool {
	return con.PlanFile != "" && con.Scope.Closure != "derived"
}

// openPlanned commits the plan of a case that Open has just put.
func (e *Engine) openPlanned(tx store.Tx, con staunch.Containment, p Planned, now staunch.Time) (Opened, error) {
	f := p.File
	plan := staunch.Plan{
		V: staunch.Version, ID: staunch.PlanID(con.ID, con.Generation, con.Stage, 0), Containment: con.ID,
		Generation: con.Generation, Stage: con.Stage, Tier: con.Playbook.Stages[con.Stage].Tier, Made: now, Gaps: f.Gaps,
	}
	steps, more, err := e.claim(tx, con, Case{Containment: con}, plan, p.draft, now)
	var w *errWait
	if errors.As(err, &w) {
		return Opened{}, fmt.Errorf("%w: %w; apply it once more", staunch.ErrConflict, err)
	}
	if err != nil {
		return Opened{}, err
	}
	intents, started := intentsOf(steps)
	plan.Hash = planHash(steps)
	if _, err := tx.PutPlan(plan); err != nil {
		return Opened{}, err
	}
	if err := e.guardFor(tx, con, f.Guard, now); err != nil {
		return Opened{}, err
	}
	if more && !con.Replan {
		con.Replan = true // the second verb on a target waits for the first
		if err := tx.PutContainment(con); err != nil {
			return Opened{}, err
		}
	}
	if err := record(tx, staunch.RecordPlan, "engine", con.ID, now, map[string]any{
		"plan": plan.ID, "stage": plan.Stage, "child": plan.Child, "tier": plan.Tier, "hash": plan.Hash,
		"intents": intents, "gaps": plan.Gaps, "generation": plan.Generation, "plan_file": f.Hash,
	}); err != nil {
		return Opened{}, err
	}
	id := con.ID
	tx.OnCommit(func() { e.kickFresh(id, started) })
	return Opened{Containment: con, Created: true}, nil
}
