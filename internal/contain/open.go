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
	// Causes names what it is asked for by, such as "rule/R", where it may have to
	// wait for the canary of one of them; Follows has those of which so many were
	// asked for that it does; Window is which of the windows those are counted in,
	// and Wait bounds the wait.
	Causes, Follows []string
	Window          int64
	Wait            time.Duration
	// Planned, when given, has the case begin with that plan, in the same
	// transaction.
	Planned *Planned
	// Drill is the id of the exercise that the case belongs to, "" for a real one.
	Drill string
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
	look := req
	if req.Planned != nil {
		look.Approval = false // a plan file is for a subject that nothing is open on
	}
	if con, ok := extends(existing, look); ok {
		if req.Planned != nil {
			return Opened{}, fmt.Errorf("%w: %s is open on the same subject already; release it, or make a plan of what it leaves out", staunch.ErrConflict, con.ID)
		}
		return e.raise(tx, con, req, now)
	}
	con := Would(req.Subject, req.Tier, req.Playbook, req.Since)
	con.ID = staunch.ContainmentID(req.Subject, req.Opener)
	con.Names, con.Identity, con.Origin = names, req.Resolution.Identity, req.Origin
	con.Reasons, con.Caps, con.Notify, con.Requester = req.Reasons, req.Caps, req.Notify, req.Requester
	con.Opened, con.Changed, con.Drill = now, now, req.Drill
	con.Scope.Until = scopeUntil(req.Playbook, now)
	if ended, err := tx.Containment(con.ID); err == nil {
		// The same opener already made a case that has ended since: evidence that
		// was acted on once is not acted on again.
		return Opened{Containment: ended}, giveBack(tx, req.Caps)
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
	} else if err := follow(tx, &con, req, now); err != nil {
		return Opened{}, err
	}
	if req.Planned != nil {
		req.Planned.begin(&con)
	}
	said := map[string]any{
		"subject": con.Subject, "tier": con.Tier, "phase": con.Phase, "playbook": con.Playbook.Name,
		"stage": con.Stage, "origin": con.Origin, "decision": req.Decision, "reasons": con.Reasons,
		"scope": con.Scope, "scope_hash": con.Scope.Hash(), "expires": con.Expires,
	}
	if con.Drill != "" {
		said["drill"] = con.Drill
	}
	if con.Canary != "" {
		said["canary"], said["causes"], said["wait_ends"] = con.Canary, con.Causes, con.WaitEnds
	}
	if p := req.Planned; p != nil {
		said["plan_file"], said["planned_by"], said["approver"] = p.File.Hash, p.File.MadeBy, p.Approver
		if n := len(con.Approvals); n > 0 {
			said["approval"], said["approvals"], said["persons"] = con.Approvals[n-1], n, con.Asked.Persons
		}
	}
	if err := e.putCase(tx, con, actorOf(req), now, said); err != nil {
		return Opened{}, err
	}
	if req.Planned != nil && !req.Planned.waits {
		return e.openPlanned(tx, con, *req.Planned, now)
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

// extends returns the open case that a request belongs to. Evidence that comes
// during a release opens a case of its own. So does a request for more than is
// in force that a person has to approve: what is in force goes on, and the rest
// waits beside it. And so does a request for less than what waits: nobody approved
// the more by asking for less.
func extends(open []staunch.Containment, req OpenRequest) (staunch.Containment, bool) {
	best := -1
	for i, con := range open {
		waits := con.Phase.Idle()
		switch {
		case con.Phase == staunch.PhaseReleasing || con.Phase == staunch.PhaseReleased:
			continue
		case req.Approval && con.Phase != staunch.PhaseApproval && con.Tier < req.Tier:
			continue
		case !req.Approval && con.Phase == staunch.PhaseApproval && con.Tier > req.Tier:
			continue
		}
		// What is in force goes before what waits, the higher tier before the lower.
		if best >= 0 {
			was := open[best].Phase.Idle()
			if waits && !was || waits == was && con.Tier <= open[best].Tier {
				continue
			}
		}
		best = i
	}
	if best < 0 {
		return staunch.Containment{}, false
	}
	return open[best], true
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
	if req.Planned != nil && req.Planned.Approver != "" {
		return req.Planned.Approver
	}
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
	if req.Decision != "" {
		con.Decisions = append(con.Decisions, req.Decision)
	}
	if req.Since != 0 && (con.Since == 0 || req.Since < con.Since) {
		con.Since = req.Since
	}
	renewScope(&con, req.Playbook, now)
	if con.Drill != "" && req.Drill == "" {
		// From here on it is a real case, which no exercise releases.
		if err := record(tx, staunch.RecordContainment, actorOf(req), con.ID, now, map[string]any{
			"was_drill": con.Drill, "decision": req.Decision, "reasons": req.Reasons,
		}); err != nil {
			return Opened{}, err
		}
		con.Drill = ""
	}
	raised := req.Tier > con.Tier
	// What was admitted does not wait for the person that an earlier decision
	// asked for.
	freed := con.Phase == staunch.PhaseApproval && !req.Approval
	// Nor does what people ask for, or what may not wait, wait for a canary.
	unleashed := con.Phase == staunch.PhaseWaiting && !req.Approval && len(req.Causes) == 0
	if raised || freed {
		// From here on it is the decision's; what was approved was something else.
		con.PlanFile, con.Asked, con.Approvals = "", nil, nil
	}
	if raised {
		con.Tier = req.Tier
		con.Reasons = req.Reasons
		con.Scope.Highest = req.Tier
		if con.Phase == staunch.PhaseApproval && req.Requester != "" {
			con.Requester = req.Requester // who asks for more does not approve it
		}
		retake(&con, req.Playbook, now)
	}
	switch {
	case unleashed:
		con.Phase, con.WaitEnds = staunch.PhaseOpen, 0
		freed = true
		if err := keepCaps(tx, &con, req.Caps); err != nil {
			return Opened{}, err
		}
	case freed:
		con.Phase = staunch.PhaseOpen
		con.Caps = req.Caps
		if e.opt.Admit != nil && len(req.Caps) == 0 {
			// It was taken for a raise of a case that has its places.
			caps, err := e.opt.Admit(tx, con)
			if err != nil {
				return Opened{}, err
			}
			con.Caps = caps
		}
		if err := follow(tx, &con, req, now); err != nil {
			return Opened{}, err
		}
	case raised:
		if err := keepCaps(tx, &con, req.Caps); err != nil {
			return Opened{}, err
		}
	default:
		if err := giveBack(tx, req.Caps); err != nil { // the open case has its places
			return Opened{}, err
		}
	}
	raised = raised || freed
	if raised {
		con.Generation++
	}
	con.Changed = now
	var said map[string]any
	if raised {
		said = map[string]any{
			"raised_to": con.Tier, "playbook": con.Playbook.Name, "stage": con.Stage,
			"decision": req.Decision, "reasons": req.Reasons, "generation": con.Generation,
		}
	}
	if err := e.putCase(tx, con, actorOf(req), now, said); err != nil {
		return Opened{}, err
	}
	id := con.ID
	tx.OnCommit(func() { e.Kick(id) })
	return Opened{Containment: con, Raised: raised}, nil
}

// putCase puts a case with its guard holds and its timer, and a record of what was
// said of it by who, where anything was.
func (e *Engine) putCase(tx store.Tx, con staunch.Containment, who string, now staunch.Time, said map[string]any) error {
	if err := e.guardOwn(tx, con, now); err != nil {
		return err
	}
	if err := tx.PutContainment(con); err != nil {
		return err
	}
	if err := e.putTimer(tx, con); err != nil || said == nil {
		return err
	}
	return record(tx, staunch.RecordContainment, who, con.ID, now, said)
}

// keepCaps adds the places that a raise took to those of the case, and gives back
// what the case has already.
func keepCaps(tx store.Tx, con *staunch.Containment, caps []string) error {
	var twice []string
	con.Caps = slices.Clone(con.Caps)
	for _, c := range caps {
		if slices.Contains(con.Caps, c) {
			twice = append(twice, c)
		} else {
			con.Caps = append(con.Caps, c)
		}
	}
	return giveBack(tx, twice)
}

func giveBack(tx store.Tx, caps []string) error {
	for _, c := range caps {
		if err := tx.GiveBack(c); err != nil {
			return err
		}
	}
	return nil
}

// retake has an open case go by another playbook. It never takes less away than
// what is in force: stages below it are left out, and one like it denies at
// least the same.
func retake(con *staunch.Containment, p staunch.Playbook, now staunch.Time) {
	was := con.Playbook.Stages[con.Stage]
	next := firstStage(p, con.Tier)
	if !con.Phase.Idle() {
		for next+1 < len(p.Stages) && p.Stages[next].Tier < was.Tier && p.Stages[next+1].Tier <= con.Tier {
			next++
		}
	}
	if d := p.Expiry.Std(); d <= 0 {
		con.Expires = 0
	} else {
		con.Expires = max(con.Expires, now.Add(d))
	}
	con.Playbook, con.Stage = p, next
	if con.Phase.Idle() {
		return
	}
	if stage := p.Stages[next]; stage.Tier <= was.Tier {
		// In force or being put in force already, but for what the two differ in;
		// the playbook goes on from it, by way of its window where it has one.
		con.Playbook.Stages = slices.Clone(p.Stages)
		con.Playbook.Stages[next].Deny = union(was.Deny, stage.Deny)
		con.Replan = true
		if con.Phase == staunch.PhaseStuck {
			con.Phase = staunch.PhaseOpen
		}
		return
	}
	con.Phase, con.WindowEnds, con.Children = staunch.PhaseOpen, 0, 0
}

// guardOwn puts or refreshes the guard holds on everything that the case has on
// the fast plane: its subject, the accounts of an identity, and what was found
// derived.
func (e *Engine) guardOwn(tx store.Tx, con staunch.Containment, now staunch.Time) error {
	refs := []staunch.Ref{con.Subject}
	for _, root := range con.Scope.Roots {
		if root.Kind != staunch.KindIdentity {
			continue
		}
		id, err := tx.Identity(root.Value)
		if err := ignoreNotFound(err); err != nil {
			return err
		}
		refs = append(refs, id.Accounts...)
	}
	holds, err := tx.HoldsClaimedBy(con.ID)
	if err != nil {
		return err
	}
	for _, h := range holds {
		if h.Plane == staunch.PlaneGuard && claims(h, con.ID) {
			refs = append(refs, h.Target.Ref)
		}
	}
	return e.guardFor(tx, con, refs, now)
}

// guardFor puts or refreshes the guard holds that the case's present stage
// wants on the refs. A stage that denies nothing leaves the fast plane alone,
// and so does everybody what is protected or ours.
func (e *Engine) guardFor(tx store.Tx, con staunch.Containment, refs []staunch.Ref, now staunch.Time) error {
	if con.Phase.Idle() {
		return nil
	}
	stage := con.Playbook.Stages[con.Stage]
	done := map[staunch.Ref]bool{}
	for _, ref := range refs {
		if done[ref] || e.Untouchable(ref) != "" {
			continue
		}
		done[ref] = true
		t := staunch.Target{Ref: ref, Attribute: guardAttribute}
		h, err := tx.ActiveHold(staunch.PlaneGuard, t)
		switch {
		case errors.Is(err, staunch.ErrNotFound):
			if len(stage.Deny) == 0 {
				continue
			}
			h = staunch.Hold{
				V: staunch.Version, ID: staunch.HoldID(staunch.PlaneGuard, t, con.ID), Plane: staunch.PlaneGuard, Target: t,
				Verb: staunch.VerbIsolate, State: staunch.HoldInForce, Since: now,
			}
		case err != nil:
			return err
		}
		if ref == con.Subject {
			for _, n := range con.Names {
				if n != ref && !slices.Contains(h.Names, n) && e.Untouchable(n) == "" {
					h.Names = append(slices.Clone(h.Names), n)
				}
			}
		}
		h.Claims = insert(h.Claims, con.ID)
		h.Message = "contained by " + con.ID
		if err := e.putGuardHold(tx, h, &con, now); err != nil {
			return err
		}
	}
	return nil
}

// putGuardHold has a guard hold deny what its claims ask for together and puts
// it in force. con, when given, is a claiming case that is not stored yet. What
// is kept from an earlier case stays denied beside it.
func (e *Engine) putGuardHold(tx store.Tx, h staunch.Hold, con *staunch.Containment, now staunch.Time) error {
	var deny []string
	var tier staunch.Tier
	if h.State == staunch.HoldKept {
		deny, tier = h.Deny, h.Tier
	}
	for _, id := range h.Claims {
		var c staunch.Containment
		if con != nil && id == con.ID {
			c = *con
		} else {
			var err error
			if c, err = tx.Containment(id); err != nil {
				return err
			}
		}
		if c.Phase.Open() {
			stage := c.Playbook.Stages[c.Stage]
			deny, tier = union(deny, stage.Deny), max(tier, stage.Tier)
		}
	}
	h.Deny, h.Tier, h.Changed = deny, tier, now
	if h.State == staunch.HoldProven {
		h.State = staunch.HoldInForce // the guards have yet to apply what changed
	}
	h, err := tx.PutHold(h)
	if err != nil {
		return err
	}
	tx.OnCommit(func() { e.opt.Guard.Apply(h) })
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
//
// A stage that leaves the subject some access is not contradicted by its use:
// only from tier isolate on, or where everything is denied, is success residual.
func (e *Engine) Residual(tx store.Tx, id string, ev staunch.Event) error {
	con, err := tx.Containment(id)
	if err != nil {
		return err
	}
	if con.EffectAt == 0 || ev.Time <= con.EffectAt.Add(residualGrace) || ev.Outcome != staunch.OutcomeSuccess {
		return nil
	}
	if stage := con.Playbook.Stages[con.Stage]; stage.Tier < staunch.TierIsolate && !slices.Contains(stage.Deny, "*") {
		return nil
	}
	switch {
	case con.Phase == staunch.PhaseWindow, con.Phase == staunch.PhaseHeld:
	case con.Phase == staunch.PhaseActing && con.Children > 0:
	default:
		return nil // the stage is being put in force, or undone
	}
	steps, err := tx.Steps(id)
	if err != nil {
		return err
	}
	for _, s := range steps {
		// EffectAt is the first stage's; what was let through until a later one
		// was proven is not residual either.
		if s.Proven != 0 && s.State == staunch.StepProven && ev.Time <= s.Proven.Add(residualGrace) {
			return nil
		}
	}
	now := staunch.TimeOf(e.opt.Clock.Now())
	con.Residual++
	con.Changed = max(now, con.Changed+1)
	if con.Phase == staunch.PhaseWindow && (con.WindowEnds == 0 || con.WindowEnds > now) {
		con.WindowEnds = now
	}
	// A hammering thief must not make a plan of each of its successes.
	event := ""
	if con.Residual == 1 {
		event = "residual"
	}
	if con.Children < maxChildren {
		con.Replan = true
	} else if con.Trouble == "" {
		con.Trouble = fmt.Sprintf("the subject still succeeds after %d plans", con.Children)
		event = "trouble"
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
	if event != "" {
		if err := e.notices(tx, event, con, steps, now); err != nil {
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
	if con.Scope.Closure != "derived" {
		return nil
	}
	return e.lookAgain(tx, con)
}

// Seen has a case look at the platforms once more because the secret of something
// that it contains was seen for the first time, in the caller's transaction: a platform
// that revokes by the secret alone could do nothing before.
func (e *Engine) Seen(tx store.Tx, con staunch.Containment) error { return e.lookAgain(tx, con) }

// Again has the other open cases that contain what a released case has put back look
// at the platforms once more. A platform names a case only what is there: grants that
// one case had taken away were not there to be claimed by the next, and are again.
// Until their child plans are carried out, what was put back is in force.
func (e *Engine) Again(tx store.Tx, released staunch.Containment) error {
	steps, err := tx.Steps(released.ID)
	if err != nil {
		return err
	}
	done := map[string]bool{released.ID: true}
	looked := map[staunch.Ref]bool{}
	for _, s := range steps {
		ref := s.Target.Ref
		if s.State != staunch.StepReverted || looked[ref] {
			continue
		}
		looked[ref] = true
		h, err := tx.ActiveHold(staunch.PlaneGuard, staunch.Target{Ref: ref, Attribute: guardAttribute})
		if err := ignoreNotFound(err); err != nil {
			return err
		}
		cases, err := tx.OpenContainments([]staunch.Ref{ref})
		if err != nil {
			return err
		}
		ids := slices.Clone(h.Claims)
		for _, c := range cases {
			ids = append(ids, c.ID)
		}
		for _, id := range ids {
			if done[id] {
				continue
			}
			done[id] = true
			con, err := tx.Containment(id)
			if err == nil {
				err = e.lookAgain(tx, con)
			}
			if err := ignoreNotFound(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookAgain has a case make a child plan, unless it is still to be approved, is being
// undone, or made as many as it may.
func (e *Engine) lookAgain(tx store.Tx, con staunch.Containment) error {
	switch con.Phase {
	case staunch.PhaseOpen, staunch.PhaseActing, staunch.PhaseWindow, staunch.PhaseHeld:
	default:
		return nil
	}
	if con.Children >= maxChildren {
		return nil
	}
	// Also where a plan is still to be made: it may have been drafted without
	// this. The change of Changed tells the planner that there is more.
	con.Replan = true
	con.Changed = max(staunch.TimeOf(e.opt.Clock.Now()), con.Changed+1)
	if err := tx.PutContainment(con); err != nil {
		return err
	}
	if err := e.putTimer(tx, con); err != nil {
		return err
	}
	tx.OnCommit(func() { e.Kick(con.ID) })
	return nil
}
