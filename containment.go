package staunch

import (
	"encoding/json"
	"strconv"
	"time"
)

// Phase is where a containment stands. The arrows that contain.Advance may
// take are documented there.
type Phase string

// The phases of a containment.
const (
	// PhaseApproval: waits for a person; nothing has been done.
	PhaseApproval Phase = "approval"
	// PhaseWaiting: admitted, and waits for the canary of its cause to be proven;
	// nothing has been done.
	PhaseWaiting Phase = "waiting"
	// PhaseOpen: admitted and held on the fast plane; the next stage is to be
	// planned.
	PhaseOpen Phase = "open"
	// PhaseActing: a plan's intents are durable and being carried out.
	PhaseActing Phase = "acting"
	// PhaseWindow: a stage is in force and its verification window runs.
	PhaseWindow Phase = "window"
	// PhaseHeld: every stage is in force; waits for release or expiry.
	PhaseHeld Phase = "held"
	// PhaseReleasing: being undone.
	PhaseReleasing Phase = "releasing"
	// PhaseReleased: undone; what stays in force says why.
	PhaseReleased Phase = "released"
	// PhaseStuck: a person has to look; what is in force stays in force.
	PhaseStuck Phase = "stuck"
)

// Open reports whether the case still holds or may come to hold something.
func (p Phase) Open() bool { return p != PhaseReleased }

// Idle reports whether nothing has been done for the case yet, since it waits for
// people or for its canary.
func (p Phase) Idle() bool { return p == PhaseApproval || p == PhaseWaiting }

// Origin says who opened a containment.
type Origin string

// The origins.
const (
	OriginPolicy Origin = "policy"
	OriginManual Origin = "manual"
)

// Containment is the durable case: one subject, its plans, holds and timeline.
type Containment struct {
	V       int    `json:"v"`
	ID      string `json:"id"`
	Subject Ref    `json:"subject"`
	// Names has every ref that named the subject when the case was opened.
	Names    []Ref    `json:"names,omitempty"`
	Identity Identity `json:"identity"`
	Origin   Origin   `json:"origin"`
	Phase    Phase    `json:"phase"`
	// Tier is the highest that was decided; Stage is the index of the playbook's
	// stage that is in force or being put in force.
	Tier     Tier     `json:"tier"`
	Playbook Playbook `json:"playbook"`
	Stage    int      `json:"stage"`
	// Scope bounds everything that may be done for this case, child plans
	// included; approvals bind to its hash.
	Scope Scope `json:"scope"`
	// Generation rises whenever a decision or a person changes the case's
	// course; work of a lower generation never commits (invariant I11).
	Generation int64    `json:"generation"`
	Decisions  []string `json:"decisions,omitempty"`
	Reasons    []string `json:"reasons,omitempty"`
	// Caps names the places it reserved, given back at release.
	Caps    []string `json:"caps,omitempty"`
	Opened  Time     `json:"opened"`
	Changed Time     `json:"changed"`
	// WindowEnds is when the present stage's window ends; 0 outside of one.
	WindowEnds Time `json:"window_ends,omitempty"`
	// Expires is when the case as a whole runs out; 0 is never.
	Expires Time `json:"expires,omitempty"`
	// EffectAt is when the first effect was proven; success by the subject after
	// it is residual access.
	EffectAt Time `json:"effect_at,omitempty"`
	// Residual counts such successes.
	Residual int `json:"residual,omitempty"`
	// Since is when the compromise is taken to have begun: the event time of the
	// earliest contributing signal. What was issued before is not derived.
	Since Time `json:"since"`
	// Replan says that something derived came to light and a child plan is to be
	// made; Children counts those made in the present stage.
	Replan   bool `json:"replan,omitempty"`
	Children int  `json:"children,omitempty"`
	// Requester opened, changed or asked to release it: a principal's name.
	Requester string `json:"requester,omitempty"`
	// Approver names who approved it, several separated by commas.
	Approver string `json:"approver,omitempty"`
	// Asked is what people are asked to approve, or have approved; nil where the
	// case does not rest on an approval, or its plan is still to be drawn.
	Asked *Asked `json:"asked,omitempty"`
	// Approvals has those that count so far, one a person.
	Approvals []Approval `json:"approvals,omitempty"`
	// Canary is the case that this one waits for, or waited for; Causes has what
	// both were asked for by, such as "rule/R".
	Canary string   `json:"canary,omitempty"`
	Causes []string `json:"causes,omitempty"`
	// WaitEnds is when it waits no longer; 0 outside of PhaseWaiting.
	WaitEnds Time `json:"wait_ends,omitempty"`
	// PlanFile is the hash of the plan file that it was opened with, until a
	// decision raises it: what it does rests on that file.
	PlanFile string `json:"plan_file,omitempty"`
	// Release is how it is to be released, once it is.
	Release *Release `json:"release,omitempty"`
	// Judged is what people say of it, the newest word; nil where nobody has said
	// anything.
	Judged *Judged `json:"judged,omitempty"`
	// Trouble says what a person has to look at.
	Trouble string   `json:"trouble,omitempty"`
	Notify  []string `json:"notify,omitempty"`
	// Drill is the id of the exercise that it belongs to, "" for a real case.
	Drill string `json:"drill,omitempty"`
}

// ContainmentID derives the id of a case from its subject and what opened it: a
// decision's id, or a request's key for a manual one.
func ContainmentID(subject Ref, opener string) string {
	return "con_" + hashID("containment", subject.String(), opener)[:20]
}

// Asked is the plan that people are asked to approve: what would be done in the
// present stage and those after it, as the platforms were when it was drawn. Of a
// case that was approved, nothing that cannot be undone is done beyond it.
type Asked struct {
	Drawn Time `json:"drawn"`
	// Hash is the digest of the case's id and the steps. Approvals bind to it and
	// to the scope's.
	Hash  string      `json:"hash"`
	Steps []AskedStep `json:"steps"`
	Gaps  []Gap       `json:"gaps,omitempty"`
	// Persons is how many different people have to approve it, none of them who
	// asked for it.
	Persons int `json:"persons"`
}

// AskedStep is one step that people are asked to approve: one verb on one target.
type AskedStep struct {
	// Connector is the platform's.
	Connector string `json:"connector"`
	Target    Target `json:"target"`
	Verb      Verb   `json:"verb"`
	Tier      Tier   `json:"tier"`
	// Call and Undo say in one line each what is sent and what undoes it.
	Call          string        `json:"call"`
	Undo          string        `json:"undo"`
	Reversibility Reversibility `json:"reversibility"`
	Revives       bool          `json:"revives,omitempty"`
}

// Ask makes what people are asked to approve for a case. persons is how many have
// to, where something of it cannot be undone; otherwise it is one.
func Ask(containment string, steps []AskedStep, gaps []Gap, persons int, drawn Time) *Asked {
	a := &Asked{Drawn: drawn, Steps: steps, Gaps: gaps, Persons: 1}
	if a.Steps == nil {
		a.Steps = []AskedStep{}
	}
	for _, s := range a.Steps {
		if s.Reversibility == Irreversible {
			a.Persons = max(persons, 1)
		}
	}
	b, err := json.Marshal(struct {
		Containment string      `json:"containment"`
		Steps       []AskedStep `json:"steps"`
	}{containment, a.Steps})
	if err != nil { // it has nothing that can fail to marshal
		panic(err)
	}
	a.Hash = Digest(b)
	return a
}

// What an approval takes where nobody says otherwise: how many different people have
// to approve what cannot be undone, and how long one person's counts while others are
// missing.
const (
	DefaultApprovers   = 2
	DefaultApprovalFor = 4 * time.Hour
)

// Approval is one person's.
type Approval struct {
	By string `json:"by"`
	At Time   `json:"at"`
	// ScopeHash and PlanHash are what the person saw.
	ScopeHash string `json:"scope_hash"`
	PlanHash  string `json:"plan_hash"`
	// Until is when it counts no longer, if the others are not there by then.
	Until Time `json:"until"`
}

// Release says how a case ends.
type Release struct {
	Reason string `json:"reason"`
	By     string `json:"by"`
	At     Time   `json:"at"`
	// Revive confirms that effects whose release revives a possibly stolen
	// secret are to be undone all the same.
	Revive bool `json:"revive,omitempty"`
	// Rotated says that the secret was replaced first, so that nothing stolen
	// comes back to life.
	Rotated bool `json:"rotated,omitempty"`
	// TokenLife says that no session or credential that was denied lives longer than
	// this; it was denied for as long, so that it is worth nothing any more.
	TokenLife Duration `json:"token_life,omitempty"`
	// Verdict says whether the containment was called for, where whoever released
	// it said so. The case's Judged has what people say of it by now.
	Verdict Judgement `json:"verdict,omitempty"`
	// Kept lists effects that stay in force and why.
	Kept []string `json:"kept,omitempty"`
}

// Scope bounds what a case may touch.
type Scope struct {
	// Roots are the refs that were decided on.
	Roots []Ref `json:"roots"`
	// Closure says what follows from the roots: "none", "derived".
	Closure string `json:"closure"`
	// Highest is the highest tier that may be used.
	Highest Tier `json:"highest"`
	// Widest is the widest kind that may be reached from the roots where a
	// platform cannot act so narrowly.
	Widest Kind `json:"widest"`
	// MostTargets bounds the explicit targets over all plans.
	MostTargets int `json:"most_targets"`
	// Until ends the approval; 0 is with the case.
	Until Time `json:"until,omitempty"`
}

// Hash returns the digest that approvals bind to.
func (s Scope) Hash() string {
	b, err := json.Marshal(s)
	if err != nil { // a Scope has nothing that can fail to marshal
		panic(err)
	}
	return Digest(b)
}

// Playbook is a decision's stages, copied into the case so that a reload never
// changes what is under way.
type Playbook struct {
	Name   string  `json:"name" yaml:"name"`
	Stages []Stage `json:"stages" yaml:"stages"`
	// Expiry is how long the case lasts before OnExpiry; 0 is for ever.
	Expiry   Duration `json:"expiry,omitempty" yaml:"expiry"`
	OnExpiry OnExpiry `json:"on_expiry,omitempty" yaml:"on_expiry"`
	// Derived says whether what the subject issued is contained with it.
	Derived bool `json:"derived" yaml:"derived"`
	// Widest is the widest kind that may be contained without a new decision
	// when a platform cannot act so narrowly; empty gives account.
	Widest Kind `json:"widest,omitempty" yaml:"widest"`
	// MostTargets bounds the explicit targets; 0 gives the default of 50.
	MostTargets int `json:"most_targets,omitempty" yaml:"most_targets"`
	// ScopeFor is how long what is found derived later may be contained without a
	// new decision; 0 is as long as the case lasts.
	ScopeFor Duration `json:"scope_for,omitempty" yaml:"scope_for"`
}

// OnExpiry says what happens when a case runs out.
type OnExpiry string

// The choices at expiry. Keep is the default.
const (
	// ExpiryKeep keeps everything in force and tells people.
	ExpiryKeep OnExpiry = "keep"
	// ExpiryRelease releases.
	ExpiryRelease OnExpiry = "release"
	// ExpiryExtend extends by the same time and tells people.
	ExpiryExtend OnExpiry = "extend"
)

// Stage is one step up in a playbook.
type Stage struct {
	// Tier is the highest tier of verbs that the stage uses.
	Tier Tier `json:"tier" yaml:"tier"`
	// Verbs, when given, narrows the verbs of that tier and below.
	Verbs []Verb `json:"verbs,omitempty" yaml:"verbs"`
	// Deny lists the AuthZEN actions that the fast plane denies in this stage:
	// whole words of an action's name ("write" covers can_write and docs.write),
	// or patterns with * ("s3:put*"); "*" is all. Empty leaves the fast plane
	// alone.
	Deny []string `json:"deny,omitempty" yaml:"deny"`
	// Window is how long the stage stays before the next one; a person may
	// clear, extend or cut it short. 0 goes on at once.
	Window Duration `json:"window,omitempty" yaml:"window"`
}

// Duration is a time.Duration that reads and prints as "30m".
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText writes Go's duration syntax.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's duration syntax.
func (d *Duration) UnmarshalText(b []byte) error {
	p, err := time.ParseDuration(string(b))
	if err != nil {
		return &Problem{Reason: strconv.Quote(string(b)) + " is not a duration (such as 90s, 30m, 24h)"}
	}
	*d = Duration(p)
	return nil
}

// Target is one attribute of one thing on one realm: what a step changes and a
// hold holds.
type Target struct {
	// Ref names the thing the way its connector does.
	Ref Ref `json:"ref"`
	// Attribute is which of its attributes ("login", "grants/appdb", "token").
	Attribute string `json:"attribute"`
}

// Key identifies the target in stores and locks.
func (t Target) Key() string {
	return hashID("target", t.Ref.String(), t.Attribute)
}

// String returns "ref#attribute".
func (t Target) String() string { return t.Ref.String() + "#" + t.Attribute }

// State is what a read of a target found. Body is canonical JSON that only the
// connector reads; it is sealed before it is stored.
type State struct {
	V      int    `json:"v"`
	Target Target `json:"target"`
	// Exists is false when the platform says that there is no such thing.
	Exists bool `json:"exists"`
	// Effective says that the subject can still act through this attribute.
	Effective bool            `json:"effective"`
	Body      json.RawMessage `json:"body,omitempty"`
	ReadAt    Time            `json:"read_at"`
	// Summary says in a few words what was found, without secrets.
	Summary string `json:"summary"`
}

// Plan is one stage's explicit targets.
type Plan struct {
	V           int    `json:"v"`
	ID          string `json:"id"`
	Containment string `json:"containment"`
	Generation  int64  `json:"generation"`
	Stage       int    `json:"stage"`
	// Child is 0 for the stage's own plan and counts those that were added for
	// what was found derived later.
	Child int  `json:"child,omitempty"`
	Tier  Tier `json:"tier"`
	Made  Time `json:"made"`
	// Gaps lists what the platforms cannot do for this subject.
	Gaps []Gap `json:"gaps,omitempty"`
	// Hash binds approvals to the explicit targets.
	Hash string `json:"hash"`
}

// PlanID derives a plan's id.
func PlanID(containment string, generation int64, stage, child int) string {
	return "pln_" + hashID("plan", containment, strconv.FormatInt(generation, 10), strconv.Itoa(stage), strconv.Itoa(child))[:20]
}

// Gap is something that a platform cannot do, said aloud.
type Gap struct {
	Ref    Ref    `json:"ref"`
	Reason string `json:"reason"`
	// Widen, when set, is the wider ref that would cover it.
	Widen Ref `json:"widen,omitzero"`
}

// StepState is where a step stands.
type StepState string

// The states of a step.
const (
	// StepIntended: the intent and pre-image are durable; the call may have been
	// sent or not.
	StepIntended StepState = "intended"
	// StepApplied: a receipt is durable.
	StepApplied StepState = "applied"
	// StepUnknown: the call's outcome is unknown; read before anything else.
	StepUnknown StepState = "unknown"
	// StepRead: the state after the call is durable and as expected.
	StepRead StepState = "read"
	// StepProven: an independent read after propagation agreed.
	StepProven StepState = "proven"
	// StepFailed: it did not take effect and will not be tried again.
	StepFailed StepState = "failed"
	// StepReverting: the intent to undo is durable.
	StepReverting StepState = "reverting"
	// StepReverted: the pre-image is back, read and agreed.
	StepReverted StepState = "reverted"
	// StepKept: release leaves it in force, for the reason in Note.
	StepKept StepState = "kept"
	// StepDiverged: a third party changed the attribute; a person has to look.
	StepDiverged StepState = "diverged"
	// StepShared: another containment's step did the work; this one only claims.
	StepShared StepState = "shared"
	// StepVoid: it was superseded before anything was sent.
	StepVoid StepState = "void"
)

// Step is one verb on one target by one connector, with the durable intent.
type Step struct {
	V           int       `json:"v"`
	ID          string    `json:"id"`
	Plan        string    `json:"plan"`
	Containment string    `json:"containment"`
	Seq         int       `json:"seq"`
	Connector   string    `json:"connector"`
	Target      Target    `json:"target"`
	Verb        Verb      `json:"verb"`
	Tier        Tier      `json:"tier"`
	State       StepState `json:"state"`
	Generation  int64     `json:"generation"`
	// Hold is the id of the platform hold that the step claims.
	Hold string `json:"hold"`
	// Intent is what Apply and Revert are given, without the sealed pre-image.
	Intent Intent `json:"intent"`
	// PreImage, PostImage are ids of sealed states; their digests let a person
	// compare without opening.
	PreImage        string `json:"pre_image,omitempty"`
	PreImageDigest  string `json:"pre_image_digest,omitempty"`
	PostImage       string `json:"post_image,omitempty"`
	PostImageDigest string `json:"post_image_digest,omitempty"`
	// Before and After are the states' summaries.
	Before   string   `json:"before,omitempty"`
	After    string   `json:"after,omitempty"`
	Receipt  *Receipt `json:"receipt,omitempty"`
	Attempts int      `json:"attempts,omitempty"`
	// Refused counts the times in a row that the platform refused our credential.
	Refused int `json:"refused,omitempty"`
	// Sweeps counts the delayed repeats that are done.
	Sweeps int `json:"sweeps,omitempty"`
	// NotBefore delays what comes next: propagation, sweep or retry.
	NotBefore Time `json:"not_before,omitempty"`
	Intended  Time `json:"intended"`
	// Called is when the newest call was sent, Applied when the platform answered.
	Called   Time   `json:"called,omitempty"`
	Applied  Time   `json:"applied,omitempty"`
	Proven   Time   `json:"proven,omitempty"`
	Reverted Time   `json:"reverted,omitempty"`
	Note     string `json:"note,omitempty"`
}

// StepID derives a step's id from its plan, target and verb. It is also the
// key that goes along with every call, so that the platform's own log can be
// joined with ours.
func StepID(plan string, t Target, v Verb) string {
	return "stp_" + hashID("step", plan, t.Key(), string(v))[:20]
}

// Intent is what is about to be done, fixed before any call.
type Intent struct {
	// Key is the step's id; connectors send it along where the platform lets
	// them, as the idempotency key.
	Key        string `json:"key"`
	Generation int64  `json:"generation"`
	Target     Target `json:"target"`
	Verb       Verb   `json:"verb"`
	// Call says in one line what is sent, for people and dry runs.
	Call string `json:"call"`
	// Undo says in one line what undoes it, or "irreversible".
	Undo          string        `json:"undo"`
	Reversibility Reversibility `json:"reversibility"`
	// Revives says that undoing it brings a possibly stolen secret back to life.
	Revives bool `json:"revives,omitempty"`
	// Probe names the sealed secret that a probe shows to the platform, as the
	// thief would; zero where there is none.
	Probe Ref `json:"probe,omitzero"`
	// Params is the connector's own; no secrets.
	Params json.RawMessage `json:"params,omitempty"`
	// Expected is the state that the call should bring about.
	Expected State `json:"expected"`
	// PreImage is the state before; core fills it in when it calls, and keeps it
	// sealed otherwise.
	PreImage State `json:"-"`
	// Deadline is when the call must be over; shorter than the lease.
	Deadline Time `json:"deadline,omitempty"`
}

// Receipt is what the platform answered.
type Receipt struct {
	At Time `json:"at"`
	// Vendor is the platform's own id of the request, where it gives one.
	Vendor string `json:"vendor,omitempty"`
	// Changed is false where the platform said that there was nothing to do.
	Changed bool `json:"changed"`
	// Note says what was done, in a line, without secrets.
	Note string `json:"note,omitempty"`
}

// Plane is where a hold is in force.
type Plane string

// The planes.
const (
	// PlaneGuard is ours: in force on the committing node when commit returns.
	PlaneGuard Plane = "guard"
	// PlanePlatform is the platform's own.
	PlanePlatform Plane = "platform"
)

// HoldState is where a hold stands.
type HoldState string

// The states of a hold.
const (
	// HoldPending: its intent is durable.
	HoldPending HoldState = "pending"
	// HoldInForce: the effect was made (platform) or committed (guard).
	HoldInForce HoldState = "in_force"
	// HoldProven: an independent read, or every live guard, agrees.
	HoldProven HoldState = "proven"
	// HoldReleasing: the last claim is gone and the undo is under way.
	HoldReleasing HoldState = "releasing"
	// HoldReleased: no longer in force.
	HoldReleased HoldState = "released"
	// HoldKept: no claim is left, and it stays in force for the reason in Note.
	HoldKept HoldState = "kept"
	// HoldFailed: it never came into force.
	HoldFailed HoldState = "failed"
)

// Hold is one effect on one target, claimed by one or more containments. The
// first claim owns the pre-image, the last release undoes it.
type Hold struct {
	V  int    `json:"v"`
	ID string `json:"id"`
	// Seq rises with every change of any hold; guards follow it.
	Seq    int64     `json:"seq"`
	Plane  Plane     `json:"plane"`
	Target Target    `json:"target"`
	Verb   Verb      `json:"verb"`
	Tier   Tier      `json:"tier"`
	State  HoldState `json:"state"`
	// Names has the further refs that the hold applies to (guard plane).
	Names []Ref `json:"names,omitempty"`
	// Deny lists the actions that it denies (guard plane); "*" is all.
	Deny []string `json:"deny,omitempty"`
	// Claims has the ids of the containments that want it, sorted.
	Claims []string `json:"claims"`
	// Steps has the steps that made the effect, in order (platform). The first
	// has the pre-image; a release undoes them from the last to the first.
	Steps   []string `json:"steps,omitempty"`
	Message string   `json:"message,omitempty"`
	Since   Time     `json:"since"`
	Changed Time     `json:"changed"`
	// Expires ends a guard hold by itself; 0 is with its claims.
	Expires Time   `json:"expires,omitempty"`
	Note    string `json:"note,omitempty"`
}

// Active reports whether the hold takes something away now, or may.
func (h Hold) Active() bool {
	switch h.State {
	case HoldPending, HoldInForce, HoldProven, HoldReleasing, HoldKept:
		return true
	}
	return false
}

// HoldID derives a hold's id from the plane and target it is on and the
// attempt that made it, so that a target can be held again after a release.
func HoldID(p Plane, t Target, opener string) string {
	return "hld_" + hashID("hold", string(p), t.Key(), opener)[:20]
}
