package api

import (
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// IngestReport is what became of a body of records.
type IngestReport struct {
	V int `json:"v"`
	// Accepted counts the records that were read; what had to be kept of them is
	// committed. Duplicates counts those among them that were known already.
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	// Matched counts the records that matched a rule, Signals what they made.
	Matched int `json:"matched"`
	Signals int `json:"signals"`
	// Rejected lists the records that were not taken, at most MaxRejected;
	// MoreRejected counts those beyond.
	Rejected     []Rejection `json:"rejected"`
	MoreRejected int         `json:"more_rejected,omitempty"`
}

// Rejection is one record that was not taken.
type Rejection struct {
	// Record counts the records of the body from 1.
	Record int    `json:"record"`
	Error  string `json:"error"`
}

// MaxRejected bounds the rejections that a report lists.
const MaxRejected = 1000

// ContainRequest asks for a containment by hand.
type ContainRequest struct {
	// Subject is what is to be contained.
	Subject staunch.Ref `json:"subject" doc:"kind:realm:scheme:value, or identity:NAME" example:"account:pg/main:role:app_rw"`
	// Tier is how much is to be taken away.
	Tier staunch.Tier `json:"tier"`
	// Playbook names one of the policies' playbooks; empty lets the tier choose.
	Playbook string `json:"playbook,omitempty" maxLength:"128"`
	// Reason is for people and the record.
	Reason string `json:"reason" minLength:"1" maxLength:"1000"`
	// Key makes a repeated request the same request, for as long as the containment
	// is kept that the first one opened; empty makes a new one.
	Key string `json:"key,omitempty" maxLength:"128" pattern:"^[!-~]*$" doc:"idempotency key: known until the containment that it opened is deleted (retention.containments after its end), so not to be used for another incident"`
	// Expiry, when given, takes the place of the playbook's.
	Expiry staunch.Duration `json:"expiry,omitempty" doc:"such as 4h" example:"4h"`
	// ScopeFor, when given, takes the place of the playbook's.
	ScopeFor staunch.Duration `json:"scope_for,omitempty" doc:"how long what is found derived later is contained without a new decision" example:"2h"`
}

// Opened is what Contain did.
type Opened struct {
	V           int                 `json:"v"`
	Containment staunch.Containment `json:"containment"`
	// Created is false where an open case was raised or already suffices.
	Created bool `json:"created"`
	// Raised says that an open case went to a higher tier.
	Raised bool `json:"raised"`
}

// Draft is what a containment would do now.
type Draft struct {
	V int `json:"v"`
	// Tier, Playbook and Stage say which stage this is a plan of; the stages
	// after it are planned when their time comes.
	Tier     staunch.Tier `json:"tier"`
	Playbook string       `json:"playbook"`
	Stage    int          `json:"stage"`
	// Deny lists the actions that the fast plane would deny.
	Deny    []string      `json:"deny,omitempty"`
	Roots   []staunch.Ref `json:"roots"`
	Derived []staunch.Ref `json:"derived,omitempty"`
	Items   []DraftItem   `json:"items"`
	Gaps    []staunch.Gap `json:"gaps,omitempty"`
	// ScopeHash is the digest of the scope that the case would have.
	ScopeHash string `json:"scope_hash,omitempty"`
	// Stages has the playbook's, Coming what those after this one would do.
	Stages []staunch.Stage `json:"stages,omitempty"`
	Coming []ComingStage   `json:"coming,omitempty"`
}

// ComingStage is what a stage that has not begun would do, as the platforms are
// now. It is planned anew when it begins.
type ComingStage struct {
	// Stage counts the playbook's from 0.
	Stage int          `json:"stage"`
	Tier  staunch.Tier `json:"tier"`
	// Begins is when it does, unless a person clears the case or cuts the wait
	// short; 0 where that is not known yet.
	Begins staunch.Time `json:"begins,omitempty"`
	// Window is how long it stays before the one after it.
	Window staunch.Duration `json:"window,omitempty"`
	// Deny lists the actions that the fast plane would deny.
	Deny []string `json:"deny,omitempty"`
	// Steps are those that the stages before it do not have. What cannot be undone
	// has the reversibility "irreversible".
	Steps []staunch.AskedStep `json:"steps"`
	Gaps  []staunch.Gap       `json:"gaps,omitempty"`
	// Error says why it is not known what it would do: Steps may be missing some.
	Error string `json:"error,omitempty"`
}

// Irreversible counts the steps that cannot be undone.
func (c ComingStage) Irreversible() int {
	n := 0
	for _, s := range c.Steps {
		if s.Reversibility == staunch.Irreversible {
			n++
		}
	}
	return n
}

// DraftItem is one would-be step.
type DraftItem struct {
	Connector string         `json:"connector"`
	Intent    staunch.Intent `json:"intent"`
	// Found says what is there now.
	Found string `json:"found"`
}

// PlanFileRequest asks for a plan as a file.
type PlanFileRequest struct {
	ContainRequest
	// ValidFor is how long it can be applied.
	ValidFor staunch.Duration `json:"valid_for,omitempty" doc:"at most 168h; 1h when it is not given" example:"1h"`
	// Approval wants another person, who may approve, to apply it.
	Approval bool `json:"approval,omitempty"`
}

// How long a plan file is valid.
const (
	DefaultPlanValid = time.Hour
	MaxPlanValid     = 7 * 24 * time.Hour
)

// ApplyRequest has a plan file carried out.
type ApplyRequest struct {
	// Plan is the file, as it was written.
	Plan staunch.PlanFile `json:"plan"`
	// Reason is for people and the record.
	Reason string `json:"reason" minLength:"1" maxLength:"1000"`
}

// Case is everything about one containment.
type Case struct {
	V           int                 `json:"v"`
	Containment staunch.Containment `json:"containment"`
	// ScopeHash is what an approval binds to.
	ScopeHash string         `json:"scope_hash"`
	Plans     []staunch.Plan `json:"plans"`
	Steps     []staunch.Step `json:"steps"`
	Holds     []staunch.Hold `json:"holds"`
	// Decisions and Signals are what the case rests on, at most MaxEvidence each.
	Decisions []staunch.Decision `json:"decisions"`
	Signals   []staunch.Signal   `json:"signals"`
	// Timeline tells it in order, for people.
	Timeline []Moment `json:"timeline"`
	// Clocks say how long each step and each hold of the fast plane took: event,
	// received, decided, intended, called, acknowledged, effective.
	Clocks []record.Clock `json:"clocks"`
	// Tree is what was contained, and what came from it, each with its steps.
	Tree []CaseNode `json:"tree"`
	// TreeTruncated says that there is more than the tree shows.
	TreeTruncated bool `json:"tree_truncated,omitempty"`
	// Coming is what the stages that have not begun would do, while the case waits
	// in a verification window or for its canary.
	Coming []ComingStage `json:"coming,omitempty"`
	// Revives lists what a release would bring back to life, so that it has to be
	// confirmed.
	Revives []string `json:"revives,omitempty"`
	// Safeguards says, of a case whose release was asked for, what keeps the thief out
	// of what is put back: secrets replaced first, cut-offs that stay, or nothing.
	Safeguards []string `json:"safeguards,omitempty"`
}

// CaseNode is one thing of a case's tree: a subject, or what belongs to it or came
// from it.
type CaseNode struct {
	Ref staunch.Ref `json:"ref"`
	// Rel is how it hangs on the one above; empty for a subject, and for what a
	// platform named and no record did.
	Rel   staunch.Rel  `json:"rel,omitempty"`
	Since staunch.Time `json:"since,omitempty"`
	// Before says that it is from before the first suspicious moment, and was left
	// alone.
	Before bool `json:"before,omitempty"`
	// Seen says that what is below it stands where it was met first.
	Seen bool `json:"seen,omitempty"`
	// Denied lists the actions that the fast plane denies it.
	Denied   []string   `json:"denied,omitempty"`
	Steps    []NodeStep `json:"steps,omitempty"`
	Children []CaseNode `json:"children,omitempty"`
}

// NodeStep is what was done to a CaseNode, and what undoes it.
type NodeStep struct {
	ID            string                `json:"id"`
	State         staunch.StepState     `json:"state"`
	Verb          staunch.Verb          `json:"verb"`
	Attribute     string                `json:"attribute"`
	Undo          string                `json:"undo"`
	Reversibility staunch.Reversibility `json:"reversibility,omitempty"`
	Note          string                `json:"note,omitempty"`
}

// MaxEvidence bounds the decisions and signals that a Case lists.
const MaxEvidence = 200

// Moment is one line of a case's timeline.
type Moment = record.Moment

// ReleaseRequest asks for a release, or a clearance.
type ReleaseRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"1000"`
	// Revive confirms that what would come back to life may.
	Revive bool `json:"revive,omitempty"`
	// Rotated says that the secrets were replaced first.
	Rotated bool `json:"rotated,omitempty"`
	// TokenLife says that no session or credential that the fast plane denies lives
	// longer than this. It has to have been denied for as long.
	TokenLife staunch.Duration `json:"token_life,omitempty" doc:"such as 12h" example:"12h"`
	// Verdict says whether the containment was called for. Wrong takes the rules
	// behind it one mode down at once: from enforce to recommend to shadow.
	Verdict staunch.Judgement `json:"verdict,omitempty" enum:"wrong,right"`
}

// JudgeRequest says of a containment that was released whether it was called for,
// or corrects what was said.
type JudgeRequest struct {
	// Verdict: wrong takes the rules behind it one mode down at once, from enforce to
	// recommend to shadow; right counts in their favour.
	Verdict staunch.Judgement `json:"verdict" enum:"wrong,right"`
	Reason  string            `json:"reason" minLength:"1" maxLength:"1000"`
}

// ExtendRequest puts a window or expiry off.
type ExtendRequest struct {
	By staunch.Duration `json:"by" doc:"such as 30m" example:"30m"`
}

// ApproveRequest lets a case go on.
type ApproveRequest struct {
	// ScopeHash is the hash of the scope that the person saw, PlanHash that of the
	// plan: scope_hash and containment.asked.hash of the case.
	ScopeHash string `json:"scope_hash" minLength:"1" maxLength:"128"`
	PlanHash  string `json:"plan_hash" minLength:"1" maxLength:"128"`
}

// Changed is a case after a change.
type Changed struct {
	V           int                 `json:"v"`
	Containment staunch.Containment `json:"containment"`
}

// The listings. Next, when given, is the "after" of the next page.
type (
	// Containments is a page of containments, newest first.
	Containments struct {
		V     int                   `json:"v"`
		Items []staunch.Containment `json:"items"`
		Next  string                `json:"next,omitempty"`
	}
	// Signals is a page of signals, newest first.
	Signals struct {
		V     int              `json:"v"`
		Items []staunch.Signal `json:"items"`
		Next  string           `json:"next,omitempty"`
	}
	// Decisions is a page of decisions, newest first.
	Decisions struct {
		V     int                `json:"v"`
		Items []staunch.Decision `json:"items"`
		Next  string             `json:"next,omitempty"`
	}
	// Holds is a page of holds in the order in which they changed.
	Holds struct {
		V     int            `json:"v"`
		Items []staunch.Hold `json:"items"`
		Next  string         `json:"next,omitempty"`
	}
	// Identities is a page of declared identities, by name.
	Identities struct {
		V     int                `json:"v"`
		Items []staunch.Identity `json:"items"`
		Next  string             `json:"next,omitempty"`
	}
	// ParkedRecords is a page of records that could not be taken.
	ParkedRecords struct {
		V     int            `json:"v"`
		Items []store.Parked `json:"items"`
		Next  string         `json:"next,omitempty"`
	}
	// Breakers lists every breaker that was ever opened.
	Breakers struct {
		V     int             `json:"v"`
		Items []store.Breaker `json:"items"`
	}
	// Tokens lists every token, without its secret.
	Tokens struct {
		V     int           `json:"v"`
		Items []store.Token `json:"items"`
	}
)

// Decided is one decision.
type Decided struct {
	V        int              `json:"v"`
	Decision staunch.Decision `json:"decision"`
	// Signals are those that it rests on and that are still kept, at most MaxEvidence.
	Signals []staunch.Signal `json:"signals"`
}

// Observed is one event.
type Observed struct {
	V     int           `json:"v"`
	Event staunch.Event `json:"event"`
}

// Known is what is known of a ref now.
type Known struct {
	V          int                `json:"v"`
	Resolution staunch.Resolution `json:"resolution"`
	Suspicion  staunch.Suspicion  `json:"suspicion"`
	Lineage    Lineage            `json:"lineage"`
	// Truncated says that the lineage has more than is shown.
	Truncated bool `json:"truncated,omitempty"`
	// Cases has the open containments of it, or of what it belongs to.
	Cases []staunch.Containment `json:"cases"`
}

// Lineage is one thing in the tree of what belongs to a ref and came from it.
type Lineage struct {
	Ref staunch.Ref `json:"ref"`
	// Rel is how it hangs on the one above.
	Rel   staunch.Rel  `json:"rel,omitempty"`
	Since staunch.Time `json:"since,omitempty"`
	Until staunch.Time `json:"until,omitempty"`
	Fact  string       `json:"fact,omitempty"`
	// Seen says that its children stand where it was met first.
	Seen     bool      `json:"seen,omitempty"`
	Children []Lineage `json:"children,omitempty"`
}

// TokenRequest asks for a token.
type TokenRequest struct {
	// Name is what records call whoever has it.
	Name string `json:"name" minLength:"1" maxLength:"128"`
	Role string `json:"role" enum:"viewer,responder,approver,admin,source,pep"`
	// Source is the source that a token of role source posts for.
	Source       string   `json:"source,omitempty" maxLength:"128"`
	Realms       []string `json:"realms,omitempty" maxItems:"100"`
	Owners       []string `json:"owners,omitempty" maxItems:"100"`
	Environments []string `json:"environments,omitempty" maxItems:"100"`
	// TTL is how long it is good for; empty is until it is revoked.
	TTL staunch.Duration `json:"ttl,omitempty" doc:"such as 720h" example:"720h"`
}

// NewToken is a token that was made. Its secret is shown this once.
type NewToken struct {
	V      int         `json:"v"`
	Token  store.Token `json:"token"`
	Secret string      `json:"secret"`
}

// GroupHealth is a report of how many of a group are healthy: of the identities of
// one environment and purpose.
type GroupHealth struct {
	Environment string `json:"environment,omitempty" maxLength:"256" example:"production"`
	Purpose     string `json:"purpose" minLength:"1" maxLength:"256" example:"checkout"`
	// Healthy of Of were seen to work.
	Healthy int `json:"healthy" minimum:"0" maximum:"1000000"`
	Of      int `json:"of" minimum:"1" maximum:"1000000"`
	// At is when; leave it out for now.
	At staunch.Time `json:"at,omitempty"`
}

// GroupHealthKept is a report as it is kept.
type GroupHealthKept struct {
	V int `json:"v"`
	GroupHealth
	// Contained is how many of the group's containments were proven before it, so that
	// it knows of them; all others count against it.
	Contained int `json:"contained"`
}

// BreakerRequest names a breaker's scope.
type BreakerRequest struct {
	Scope string `json:"scope" minLength:"1" maxLength:"256" example:"source/cloudtrail"`
}

// BreakerChanged is a breaker after a change.
type BreakerChanged struct {
	V       int           `json:"v"`
	Breaker store.Breaker `json:"breaker"`
}

// Reloaded is what a reload did.
type Reloaded struct {
	V int `json:"v"`
	// Bundle is the hash of what decides now; Changed is false where it was the
	// same before.
	Bundle  string `json:"bundle"`
	Changed bool   `json:"changed"`
	// Notes say what a person should know: what needs a restart, what was left
	// out.
	Notes []string `json:"notes,omitempty"`
	// Refused has what is wrong with rules that are not used, each with its place.
	Refused []Fault `json:"refused,omitempty"`
}

// Storage is what the database has, and how long it is kept.
type Storage struct {
	V    int        `json:"v"`
	Size store.Size `json:"size"`
	// MaxSize is how many bytes may be in use; 0 is no bound.
	MaxSize int64             `json:"max_size,omitempty"`
	Tables  []store.TableSize `json:"tables"`
	// Ages has how long each kind of rows is kept, as it is gone by ("30d",
	// "forever"): none is shorter than what is still to be judged needs.
	Ages map[string]string `json:"ages"`
	// Sweeps says that it is this node that deletes what is older.
	Sweeps bool `json:"sweeps"`
	// Last is the last round of deletions of this node, Error what ended one early
	// since.
	Last  *store.Sweep `json:"last,omitempty"`
	Error string       `json:"error,omitempty"`
}

// StoragePreview is what the next round of deletions would delete.
type StoragePreview struct {
	V     int         `json:"v"`
	Sweep store.Sweep `json:"sweep"`
}

// Diagnosis is what doctor found.
type Diagnosis struct {
	V int `json:"v"`
	// Healthy says that there is no check with status error.
	Healthy bool    `json:"healthy"`
	Checks  []Check `json:"checks"`
}

// Check is one thing that doctor looked at.
type Check struct {
	// Name says what was looked at ("realm vault/main").
	Name string `json:"name"`
	// Status is ok, warning or error.
	Status  string `json:"status" enum:"ok,warning,error"`
	Message string `json:"message,omitempty"`
	Hint    string `json:"hint,omitempty"`
	// TookMS is how long it took, in milliseconds.
	TookMS float64 `json:"took_ms,omitempty"`
}
