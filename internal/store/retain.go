package store

import (
	"errors"

	"github.com/staunch-project/staunch"
)

// Kept is a kind of rows that retention bounds. What belongs to a row, such as the
// links of a fact or the steps of a containment, goes with it.
type Kept string

// The kinds of rows that retention bounds. Records and the ends of their lanes are
// none of them: the log is never cut.
const (
	KeptEvents       Kept = "events"
	KeptFacts        Kept = "facts"
	KeptSignals      Kept = "signals"
	KeptDecisions    Kept = "decisions"
	KeptContainments Kept = "containments"
	KeptDrills       Kept = "drills"
	KeptNotices      Kept = "notices"
	KeptParked       Kept = "parked"
	KeptCursors      Kept = "cursors"
	KeptBundles      Kept = "bundles"
)

// AllKept returns the kinds in the order in which they are swept: what refers to
// others first, so that these can go in the same round.
func AllKept() []Kept {
	return []Kept{
		KeptContainments, KeptDecisions, KeptSignals, KeptEvents, KeptFacts, KeptDrills, KeptNotices, KeptParked, KeptCursors, KeptBundles,
	}
}

// OldRow is a row that Walk found.
type OldRow struct {
	// ID is the row's key: an id, a cursor's name or a bundle's hash.
	ID string
	// At is the time that the row is found by: when an event, fact or signal
	// happened, a decision was made, a case or drill began, a notice was delivered (0
	// while it waits), a record was parked, a bundle was last the active one. 0 for
	// cursors.
	At staunch.Time
	// Body is what was put, as JSON; a cursor's value; nil for a bundle.
	Body []byte
}

// Walked is a part of a walk.
type Walked struct {
	Rows []OldRow
	// Next is where to go on, "" once there is no more.
	Next string
	// Arrival says that rows come in the order in which they were put, so that
	// behind the first that came too late to be old there is none that is.
	Arrival bool
}

// MostForgotten bounds the rows that one call of Forget deletes of a containment.
const MostForgotten = 500

// TableSize is how much a table has. Where counting would mean to read all of it,
// Rows and Bytes are estimates.
type TableSize struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
	// Bytes is what the rows take, on PostgreSQL with their indexes, on SQLite
	// without.
	Bytes    int64 `json:"bytes"`
	Estimate bool  `json:"estimate,omitempty"`
	// Oldest and Newest are the times of the first and the last row, 0 where the
	// table has none or they cannot be had without reading all of it.
	Oldest staunch.Time `json:"oldest,omitempty"`
	Newest staunch.Time `json:"newest,omitempty"`
}

// Size is how much the database has.
type Size struct {
	// Used is what is in use and Free what can be used again, in bytes. PostgreSQL
	// does not tell them apart: all of it is Used.
	Used int64 `json:"used"`
	Free int64 `json:"free"`
}

// Swept is what a round did with one kind of rows.
type Swept struct {
	Kind Kept `json:"kind"`
	// Deleted counts the rows that were deleted, or would be, Held those that are old
	// and needed.
	Deleted int `json:"deleted"`
	Held    int `json:"held"`
	// With counts the rows of other tables that went with them; of a preview it is 0.
	With int `json:"with,omitempty"`
	// From and To are the times of the oldest and newest that go.
	From staunch.Time `json:"from,omitempty"`
	To   staunch.Time `json:"to,omitempty"`
	// Oldest is the time of the oldest row that stays, as far as was walked.
	Oldest staunch.Time `json:"oldest,omitempty"`
}

// Sweep is what a round of deletions did, or would do.
type Sweep struct {
	At    staunch.Time     `json:"at"`
	Took  staunch.Duration `json:"took"`
	Kinds []Swept          `json:"kinds"`
	// Pruned counts the rows of windows that had ended.
	Pruned int `json:"pruned"`
	// Size is what the database had at the end.
	Size Size `json:"size"`
	// BySize says that events went, or would, that are younger than they are kept for,
	// since the database was over its size.
	BySize bool `json:"by_size,omitempty"`
	// OverSize says that the database is larger than it may be, and that what is left
	// is too young to go.
	OverSize bool `json:"over_size,omitempty"`
	// Truncated says that a preview stopped before its end.
	Truncated bool `json:"truncated,omitempty"`
}

// RetentionReader is the part of Reader that retention needs.
type RetentionReader interface {
	// Walk returns about limit rows of a kind after a place, "" for the first; a
	// database without an order of arrival may return more. Rows with At within
	// [before, now] may be left out: they are young, and a time that is yet to come
	// says nothing.
	Walk(kind Kept, after string, before, now staunch.Time, limit int) (Walked, error)
	// Size is cheap enough to be asked between two batches; TableSizes is for people.
	Size() (Size, error)
	TableSizes() ([]TableSize, error)
}

// RetentionTx is the part of Tx that retention needs.
type RetentionTx interface {
	// Forget deletes rows that Walk returned, with what belongs to them. Left as they are: what is not there any
	// more; a fact while a signal is found under its subject or another fact draws a
	// link to it; a containment that is not released, that has a hold in force, or
	// whose hold changed last of its plane's; a drill that has not ended; a notice that waits; a cursor whose
	// value is another now; a bundle that is active, or was since. Of a containment at
	// most about MostForgotten rows are deleted, its own the last: call it until
	// nothing is.
	Forget(kind Kept, rows []OldRow) (Forgotten, error)
}

// Forgotten is what Forget deleted.
type Forgotten struct {
	// Rows counts those of the kind, With those of other tables that belonged to them.
	Rows, With int
}

// Add adds other to f.
func (f *Forgotten) Add(other Forgotten) { f.Rows, f.With = f.Rows+other.Rows, f.With+other.With }

// ErrKept is of a kind that there is not.
var ErrKept = errors.New("retention knows no such rows")
