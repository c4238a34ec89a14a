package staunch

import (
	"encoding/json"
	"strconv"
)

// Keys is what every record gives up cheaply, before any mapping: when it
// happened, how it ended and whom it names. Formats make it.
type Keys struct {
	// VendorID is the vendor's own id of the event, or "" where it gives none.
	VendorID string
	// Time is when it happened by the record's account; 0 where it says nothing.
	Time Time
	// Outcome is how the action ended.
	Outcome Outcome
	// Operation is the vendor's name of the action ("ConsoleLogin").
	Operation string
	// Actor has the refs of who acted, narrowest kind first, at most one of
	// each kind and scheme.
	Actor []Ref
	// Targets has the refs that were acted upon, in the record's order.
	Targets []Ref
	// SourceIP is the address the action came from, "" where unknown.
	SourceIP string
	// Facts says that Map would state at least one fact.
	Facts bool
}

// Event is one observation as it is kept: only records that matched a rule,
// state a fact or concern a contained subject become events.
type Event struct {
	V int `json:"v"`
	// ID is EventID of the three below.
	ID       string `json:"id"`
	Source   string `json:"source"`
	VendorID string `json:"vendor_id,omitempty"`
	// Digest is of the record's bytes as they came, secrets included; it is a
	// keyed digest where the record carried one.
	Digest    string   `json:"digest"`
	Realm     string   `json:"realm"`
	Format    string   `json:"format"`
	Time      Time     `json:"time"`
	Learned   Time     `json:"learned"`
	Standing  Standing `json:"standing"`
	Outcome   Outcome  `json:"outcome"`
	Operation string   `json:"operation,omitempty"`
	Actor     []Ref    `json:"actor,omitempty"`
	Targets   []Ref    `json:"targets,omitempty"`
	SourceIP  string   `json:"source_ip,omitempty"`
	// OCSF is the mapped event, without raw data.
	OCSF json.RawMessage `json:"ocsf,omitempty"`
	// Raw is the record with every secret replaced by its digest.
	Raw json.RawMessage `json:"raw,omitempty"`
}

// Standing says how an event's time stands against the source's bounds, and so
// what it may cause.
type Standing string

// The standings.
const (
	// StandingCurrent: within the lateness and skew bounds; may enforce.
	StandingCurrent Standing = "current"
	// StandingLate: older than the lateness bound; informs, never enforces.
	StandingLate Standing = "late"
	// StandingFuture: further ahead than the skew bound; informs, never enforces.
	StandingFuture Standing = "future"
	// StandingUndated: gives no time; informs, never enforces.
	StandingUndated Standing = "undated"
)

// MayEnforce reports whether an event of this standing may cause containment.
func (s Standing) MayEnforce() bool { return s == StandingCurrent }

// EventID derives an event's id from the source instance, the vendor's id or
// position, the digest of the content, and the time that the content says, 0 where
// it says none. The same id with other content is another event, so nobody can
// pre-empt one by guessing its vendor id.
func EventID(source, vendorID, digest string, at Time) string {
	return "evt_" + stamped(at, hashID("event", source, vendorID, digest))
}

// FactType is what a fact states.
type FactType string

// The fact types. Which fields of Fact each uses is said with it.
const (
	// FactSessionStarted: Subject (session) began; Of its account or
	// credential, By what it was authenticated with or issued by; Until expiry.
	FactSessionStarted FactType = "session_started"
	// FactSessionEnded: Subject (session) ended.
	FactSessionEnded FactType = "session_ended"
	// FactCredentialIssued: Subject (credential) was issued to Of (account), by
	// By (session, credential or account); Until expiry.
	FactCredentialIssued FactType = "credential_issued"
	// FactCredentialRevoked: Subject (credential) no longer works.
	FactCredentialRevoked FactType = "credential_revoked"
	// FactAccountCreated: Subject (account) was created by By.
	FactAccountCreated FactType = "account_created"
	// FactAccountRemoved: Subject (account) was removed.
	FactAccountRemoved FactType = "account_removed"
	// FactGrantAdded: Subject (account) may reach Of (resource or account,
	// as a role or group) since then; By granted it.
	FactGrantAdded FactType = "grant_added"
	// FactGrantRemoved: the reverse.
	FactGrantRemoved FactType = "grant_removed"
	// FactOwnerSet: Attrs["owner"] owns Subject.
	FactOwnerSet FactType = "owner_set"
	// FactSameAs: Subject and Of name one entity. Nothing is rewritten.
	FactSameAs FactType = "same_as"
	// FactBelongs: Subject was seen to belong to Of (session to credential or
	// account, credential to account, account to identity).
	FactBelongs FactType = "belongs"
)

// Fact is a typed, append-only statement with its event time and the time at
// which it was learned.
type Fact struct {
	V       int      `json:"v"`
	ID      string   `json:"id"`
	Type    FactType `json:"type"`
	Subject Ref      `json:"subject"`
	// Of is what the subject belongs to or reaches; By is who brought it about.
	Of      Ref               `json:"of,omitzero"`
	By      Ref               `json:"by,omitzero"`
	Time    Time              `json:"time"`
	Learned Time              `json:"learned"`
	Until   Time              `json:"until,omitempty"`
	Source  string            `json:"source"`
	Event   string            `json:"event,omitempty"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// FactID derives a fact's id from what it states and the event that states it;
// what is learned later never changes it.
func FactID(f Fact) string {
	return "fct_" + stamped(f.Time, hashID("fact", string(f.Type), f.Subject.String(), f.Of.String(), f.By.String(),
		strconv.FormatInt(int64(f.Time), 10), f.Source, f.Event))
}

// Link is one edge that a fact draws in the inventory, from a narrower or
// younger thing to what it belongs to or came from.
type Link struct {
	// From is the child: the session, the minted key, the account.
	From Ref
	// To is the parent.
	To Ref
	// Rel is what the edge means.
	Rel Rel
	// Since is the event time; Until, when not 0, the end.
	Since, Until Time
	// Learned is when we came to know it.
	Learned Time
	// Fact is the id of the fact that states it.
	Fact string
}

// Rel is the meaning of a Link.
type Rel string

// The relations.
const (
	// RelOf: From belongs to To. Suspicion rolls up along it.
	RelOf Rel = "of"
	// RelBy: From was issued, created or authenticated by To. Lineage follows
	// it downward.
	RelBy Rel = "by"
	// RelSame: From and To name one entity; symmetric.
	RelSame Rel = "same"
	// RelReach: From (account) was granted To (resource, role, group).
	RelReach Rel = "reach"
)

// Links returns the edges that the fact draws.
func (f Fact) Links() []Link {
	mk := func(rel Rel, to Ref) Link {
		return Link{From: f.Subject, To: to, Rel: rel, Since: f.Time, Until: f.Until, Learned: f.Learned, Fact: f.ID}
	}
	var out []Link
	switch f.Type {
	case FactSessionStarted, FactCredentialIssued, FactAccountCreated, FactBelongs:
		if !f.Of.IsZero() {
			out = append(out, mk(RelOf, f.Of))
		}
		if !f.By.IsZero() {
			out = append(out, mk(RelBy, f.By))
		}
	case FactSameAs:
		if !f.Of.IsZero() {
			out = append(out, mk(RelSame, f.Of))
		}
	case FactGrantAdded:
		if !f.Of.IsZero() {
			out = append(out, mk(RelReach, f.Of))
		}
	}
	return out
}
