package staunch

import "encoding/json"

// RecordKind is what a record states.
type RecordKind string

// The kinds of records.
const (
	RecordDecision    RecordKind = "decision"
	RecordContainment RecordKind = "containment"
	RecordPlan        RecordKind = "plan"
	RecordIntent      RecordKind = "intent"
	RecordReceipt     RecordKind = "receipt"
	RecordProof       RecordKind = "proof"
	RecordRevert      RecordKind = "revert"
	RecordHold        RecordKind = "hold"
	RecordRelease     RecordKind = "release"
	RecordResidual    RecordKind = "residual"
	RecordNotice      RecordKind = "notice"
	RecordToken       RecordKind = "token"
	RecordConfig      RecordKind = "config"
	RecordBreaker     RecordKind = "breaker"
	RecordHealth      RecordKind = "health"
	RecordNode        RecordKind = "node"
	RecordLogin       RecordKind = "login"
	// RecordTrust: a rule was promoted, demoted or judged.
	RecordTrust RecordKind = "trust"
	// RecordDrill: an exercise began, passed one of its marks, or ended.
	RecordDrill RecordKind = "drill"
)

// Record is one line of the append-only, chained log. Lane, Seq, Prev and Hash
// are filled in by the store when it is appended.
type Record struct {
	V    int        `json:"v"`
	Lane string     `json:"lane"`
	Seq  int64      `json:"seq"`
	Time Time       `json:"time"`
	Kind RecordKind `json:"kind"`
	// Actor is who: "engine", or a principal's name.
	Actor string `json:"actor"`
	// About is the id of the containment (or other thing) it is about.
	About string `json:"about,omitempty"`
	// Body is canonical JSON without secrets.
	Body json.RawMessage `json:"body,omitempty"`
	// Prev is the hash of the lane's record before; Hash covers everything
	// above and Prev, keyed.
	Prev string `json:"prev"`
	Hash string `json:"hash"`
}
