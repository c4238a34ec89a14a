package contain

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/store"
)

// guardAttribute is the attribute that guard holds are on: whether the subject
// may act at all.
const guardAttribute = "access"

// DefaultMostTargets bounds a case's explicit targets when its playbook does
// not.
const DefaultMostTargets = 50

// OpenRequest asks for a case.
type OpenRequest struct {
	// Subject is what is to be contained, with everything known of it.
	Subject    staunch.Ref
	Resolution staunch.Resolution
	Origin     staunch.Origin
	// Opener is the decision's id, or the request's key for a manual case.
	Opener   string
	Decision string
	Tier     staunch.Tier
	Playbook staunch.Playbook
	Reasons  []string
	Caps     []string
	Notify   []string
	// Since is when the compromise is taken to have begun.
	Since     staunch.Time
	Requester string
	// Approval has the case wait for a person before anything is done.
	Approval bool
}

// Opened is what Open did.
type Opened struct {
	Containment staunch.Containment
	// Created is false where an open case was raised or already suffices.
	Created bool
	// Raised says that an open case went to a higher tier.
	Raised bool
}

// Open makes a case or raises the open one on the same subject, with its guard
// hold, record and timer, in the caller's transaction (T1). The guard hold is
// in force when the commit returns.
func (e *Engine) Open(tx store.Tx, req OpenRequest) (Opened, error) {
	if err := req.Subject.Validate(); err != nil {
		return Opened{}, err
	}
	if len(req.Playbook.Stages) == 0 {
		return Opened{}, &staunch.Problem{Place: "playbook " + req.Playbook.Name, Reason: "has no stages"}
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	names := req.Resolution.Names
	if len(names) == 0 {
		names = []staunch.Ref{req.Subject}
	}
	existing, err := tx.OpenContainments(names)
	if err != nil {
		return Opened{}, err
	}
	for _, con := range existing {
		switch con.Phase {
		case staunch.PhaseReleasing, staunch.PhaseReleased:
			continue // new evidence during a release opens a case of its own
		}
		return e.raise(tx, con, req, now)
	}
	con := Would(req.Subject, req.Tier, req.Playbook, req.Since)
	con.ID = staunch.ContainmentID(req.Subject, req.Opener)
	con.Names, con.Identity, con.Origin = names, req.Resolution.Identity, req.Origin
	con.Reasons, con.Caps, con.Notify, con.Requester = req.Reasons, req.Caps, req.Notify, req.Requester
	con.Opened, con.Changed = now, now
	if _, err := tx.Containment(con.ID); err == nil {
		// The same opener already made a case that has ended since: evidence that
		// was acted on once is not acted on again.
		return Opened{Containment: con}, nil
	} else if !errors.Is(err, staunch.ErrNotFound) {
		return Opened{}, err
	}
	if req.Decision != "" {
		con.Decisions = []string{req.Decision}
	}
	if d := req.Playbook.Expiry.Std(); d > 0 {
		con.Expires = now.Add(d)
	}
	if req.Approval {
		con.Phase = staunch.PhaseApproval
	}
	if err := e.guardFor(tx, con, []staunch.Ref{con.Subject}, now); err != nil {
		return Opened{}, err
	}
	if err := tx.PutContainment(con); err != nil {
		return Opened{}, err
	}
	if err := e.putTimer(tx, con); err != nil {
		return Opened{}, err
	}
	if err := record(tx, staunch.RecordContainment, actorOf(req), con.ID, now, map[string]any{
		"subject": con.Subject, "tier": con.Tier, "phase": con.Phase, "playbook": con.Playbook.Name,
		"stage": con.Stage, "origin": con.Origin, "decision": req.Decision, "reasons": con.Reasons,
		"scope": con.Scope, "scope_hash": con.Scope.Hash(), "expires": con.Expires,
	}); err != nil {
		return Opened{}, err
	}
	if req.Approval {
		if err := e.notices(tx, "approval", con, nil, now); err != nil {
			return Opened{}, err
		}
	}
	id := con.ID
	tx.OnCommit(func() { crashpoint.Here("open.committed") })
	tx.OnCommit(func() { e.Kick(id) })
	return Opened{Containment: con, Created: true}, nil
}

// Would returns the case that opening a subject at a tier with a playbook would
// make, for previews; Open fills in the rest.
func Would(subject staunch.Ref, tier staunch.Tier, p staunch.Playbook, since staunch.Time) staunch.Containment {
	most := p.MostTargets
	if most <= 0 {
		most = DefaultMostTargets
	}
	widest := p.Widest
	if widest == "" {
		widest = staunch.KindAccount
	}
	closure := "none"
	if p.Derived {
		closure = "derived"
	}
	return staunch.Containment{
		V: staunch.Version, Subject: subject, Names: []staunch.Ref{subject}, Phase: staunch.PhaseOpen, Tier: tier,
		Playbook: p, Stage: firstStage(p, tier), Generation: 1, Since: since,
		Scope: staunch.Scope{Roots: []staunch.Ref{subject}, Closure: closure, Highest: tier, Widest: widest, MostTargets: most},
	}
}

func actorOf(req OpenRequest) string {
	if req.Requester != "" {
		return req.Requester
	}
	return "engine"
}

// firstStage returns the stage at which a decision of a tier enters a playbook:
// the last stage of at most that tier that has no window before it, so that a
// staged playbook is walked from its beginning and an unstaged one is entered
// where the tier says.
func firstStage(p staunch.Playbook, t staunch.Tier) int {
	at := 0
	for i, s := range p.Stages {
		if s.Tier > t {
			break
		}
		at = i
		if s.Window > 0 {
			break
		}
	}
	return at
}

// raise takes an open case to what a further decision asks for.
func (e *Engine) raise(tx store.Tx, con staunch.Containment, req OpenRequest, now staunch.Time) (Opened, error) {
	if req.Decision != "" && slices.Contains(con.Decisions, req.Decision) {
		// A redelivered decision: give back what was reserved for it twice.
		return Opened{Containment: con}, giveBack(tx, req.Caps)
	}
	if err := giveBack(tx, req.Caps); err != nil { // the open case has its places
		return Opened{}, err
	}
	if req.Decision != "" {
		con.Decisions = append(con.Decisions, req.Decision)
	}
	if req.Since != 0 && (con.Since == 0 || req.Since < con.Since) {
		con.Since = req.Since
	}
	raised := req.Tier > con.Tier
	if raised {
		con.Tier = req.Tier
		con.Reasons = req.Reasons
		con.Scope.Highest = req.Tier
		con.Generation++
		next := firstStage(req.Playbook, req.Tier)
		switch {
		case con.Phase == staunch.PhaseApproval:
			con.Playbook, con.Stage = req.Playbook, next
		case req.Playbook.Stages[next].Tier > con.Playbook.Stages[con.Stage].Tier:
			con.Playbook, con.Stage = req.Playbook, next
			con.WindowEnds, con.Children = 0, 0
			con.Phase = staunch.PhaseOpen
		default:
			// The stage is in force or being put in force already; the playbook may
			// go on from it, by way of its window where it has one.
			if req.Playbook.Name != con.Playbook.Name {
				con.Stage = next
			}
			con.Playbook = req.Playbook
			if con.Phase == staunch.PhaseHeld {
				con.Phase = staunch.PhaseActing
			}
		}
	}
	con.Changed = now
	if err := e.guardFor(tx, con, []staunch.Ref{con.Subject}, now); err != nil {
		return Opened{}, err
	}
	if err := tx.PutContainment(con); err != nil {
		return Opened{}, err
	}
	if err := e.putTimer(tx, con); err != nil {
		return Opened{}, err
	}
	if raised {
		if err := record(tx, staunch.RecordContainment, actorOf(req), con.ID, now, map[string]any{
			"raised_to": con.Tier, "playbook": con.Playbook.Name, "stage": con.Stage,
			"decision": req.Decision, "reasons": req.Reasons, "generation": con.Generation,
		}); err != nil {
			return Opened{}, err
		}
	}
	id := con.ID
	tx.OnCommit(func() { e.Kick(id) })
	return Opened{Containment: con, Raised: raised}, nil
}

func giveBack(tx store.Tx, caps []string) error {
	for _, c := range caps {
		if err := tx.GiveBack(c); err != nil {
			return err
		}
	}
	return nil
}

// guardFor puts or refreshes the guard holds that the case's present stage
// wants on the refs. A stage that denies nothing leaves the fast plane alone.
func (e *Engine) guardFor(tx store.Tx, con staunch.Containment, refs []staunch.Ref, now staunch.Time) error {
	if con.Phase == staunch.PhaseApproval {
		return nil
	}
	stage := con.Playbook.Stages[con.Stage]
	for _, ref := range refs {
		t := staunch.Target{Ref: ref, Attribute: guardAttribute}
		h, err := tx.ActiveHold(staunch.PlaneGuard, t)
		switch {
		case errors.Is(err, staunch.ErrNotFound):
			if len(stage.Deny) == 0 {
				continue
			}
			h = staunch.Hold{
				V: staunch.Version, ID: staunch.HoldID(staunch.PlaneGuard, t, con.ID), Plane: staunch.PlaneGuard, Target: t,
				Verb: staunch.VerbIsolate, Since: now,
			}
			if ref == con.Subject {
				h.Names = con.Names
			}
		case err != nil:
			return err
		}
		h.Claims = insert(h.Claims, con.ID)
		deny := stage.Deny
		tier := stage.Tier
		for _, id := range h.Claims {
			if id == con.ID {
				continue
			}
			other, err := tx.Containment(id)
			if err != nil {
				return err
			}
			if other.Phase.Open() && other.Phase != staunch.PhaseReleasing {
				deny = union(deny, other.Playbook.Stages[other.Stage].Deny)
				tier = max(tier, other.Playbook.Stages[other.Stage].Tier)
			}
		}
		h.Deny, h.Tier, h.Changed = deny, tier, now
		h.State, h.Message = staunch.HoldInForce, "contained by "+con.ID
		if h, err = tx.PutHold(h); err != nil {
			return err
		}
		tx.OnCommit(func() { e.opt.Guard.Apply(h) })
	}
	return nil
}

func insert(list []string, s string) []string {
	i, found := slices.BinarySearch(list, s)
	if found {
		return list
	}
	return slices.Insert(slices.Clone(list), i, s)
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	sort.Strings(out)
	return slices.Compact(out)
}

func record(tx store.Tx, kind staunch.RecordKind, actor, about string, now staunch.Time, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding a %s record: %w", kind, err)
	}
	_, err = tx.AppendRecord(staunch.Record{Time: now, Kind: kind, Actor: actor, About: about, Body: b})
	return err
}

func (e *Engine) notices(tx store.Tx, event string, con staunch.Containment, steps []staunch.Step, now staunch.Time) error {
	if e.opt.Teller == nil {
		return nil
	}
	for _, n := range e.opt.Teller.Notices(event, con, steps, now) {
		if err := tx.PutNotice(n); err != nil {
			return err
		}
	}
	return nil
}

// Residual notes success by the contained subject after the effect: evidence
// that the containment does not hold. The window is cut short and the platform
// is asked again for what exists. Runs in the event's transaction.
func (e *Engine) Residual(tx store.Tx, id string, ev staunch.Event) error {
	con, err := tx.Containment(id)
	if err != nil {
		return err
	}
	if con.EffectAt == 0 || ev.Time <= con.EffectAt.Add(residualGrace) || ev.Outcome != staunch.OutcomeSuccess {
		return nil
	}
	switch con.Phase {
	case staunch.PhaseWindow, staunch.PhaseHeld, staunch.PhaseActing:
	default:
		return nil
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	con.Residual++
	con.Changed = now
	if con.Phase == staunch.PhaseWindow {
		con.WindowEnds = now
	}
	// A hammering thief must not make a plan of each of its successes.
	if con.Children < maxChildren {
		con.Replan = true
	}
	if err := tx.PutContainment(con); err != nil {
		return err
	}
	if err := e.putTimer(tx, con); err != nil {
		return err
	}
	if err := record(tx, staunch.RecordResidual, "engine", id, now, map[string]any{
		"event": ev.ID, "operation": ev.Operation, "time": ev.Time, "effect_at": con.EffectAt,
	}); err != nil {
		return err
	}
	if con.Residual == 1 {
		if err := e.notices(tx, "residual", con, nil, now); err != nil {
			return err
		}
	}
	tx.OnCommit(func() { e.Kick(id) })
	return nil
}

// Bounds on what evidence after the effect may cause.
const (
	// residualGrace is how long after the proven effect a success is put down to
	// the platform's clock and the record's resolution (many give seconds).
	residualGrace = 2 * time.Second
	// maxChildren bounds the child plans of one stage.
	maxChildren = 20
)

// Derived has the case's plan extended because lineage grew: one of the facts
// in the caller's transaction was issued by what the case contains.
func (e *Engine) Derived(tx store.Tx, id string) error {
	con, err := tx.Containment(id)
	if err != nil {
		return err
	}
	if con.Scope.Closure != "derived" || con.Replan || con.Children >= maxChildren {
		return nil
	}
	switch con.Phase {
	case staunch.PhaseActing, staunch.PhaseWindow, staunch.PhaseHeld:
	default:
		return nil // it is still to be planned, or is being undone
	}
	con.Replan = true
	con.Changed = staunch.TimeOf(e.opt.Clock.Now())
	if err := tx.PutContainment(con); err != nil {
		return err
	}
	tx.OnCommit(func() { e.Kick(id) })
	return nil
}
