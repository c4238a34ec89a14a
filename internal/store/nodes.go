package store

import (
	"errors"

	"github.com/staunch-project/staunch"
)

// ErrBundle says that another configuration bundle is the active one, so that
// this node does not decide.
var ErrBundle = errors.New("another configuration is active")

// Guard is a node's place on the fast plane: while Until lies ahead, by the
// database's clock, it answers from the holds up to Applied. A node that could
// not renew it answers with its fail mode.
type Guard struct {
	Node string `json:"node"`
	// Applied is the hold sequence up to which it has applied everything.
	Applied int64 `json:"applied_seq"`
	// Bundle is the hash of the configuration that it would decide by.
	Bundle  string `json:"bundle,omitempty"`
	Version string `json:"version,omitempty"`
	// Since is when the process took the place, Renewed when it last said that it
	// lives; both and Until are by the database's clock.
	Since   staunch.Time `json:"since"`
	Renewed staunch.Time `json:"renewed"`
	Until   staunch.Time `json:"until"`
}

// Live reports whether the guard may answer at now, by the database's clock.
func (g Guard) Live(now staunch.Time) bool { return now < g.Until }

// SealedKind is one of the places that sealed values are kept in.
type SealedKind string

// The places of sealed values.
const (
	// SealedState: pre-images and post-images, by id.
	SealedState SealedKind = "state"
	// SealedSecret: values that a revocation needs, by the key of their ref.
	SealedSecret SealedKind = "secret"
	// SealedParked: records that could not be taken, by id.
	SealedParked SealedKind = "parked"
)

// SealedKinds returns every place of sealed values.
func SealedKinds() []SealedKind { return []SealedKind{SealedState, SealedSecret, SealedParked} }

// SealedValue is a sealed value with the key of its row.
type SealedValue struct {
	Key  string
	Blob []byte
}
