package retain

import (
	"math"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Forever is an age that nothing reaches.
const Forever = time.Duration(math.MaxInt64)

// Policy says how long rows are kept. The zero value of an age deletes what is not
// needed, so that a caller fills in all of them.
type Policy struct {
	// Events and Signals are ages since they were received, Decisions and Acted since
	// they were made: Decisions of those by which nothing was done.
	Events, Signals, Decisions, Acted time.Duration
	// Containments is the age since a case was released, or a drill ended.
	Containments time.Duration
	Facts        time.Duration
	// Notices is the age since the delivery, Parked since a record was put aside.
	Notices, Parked time.Duration
	// Redelivery is for how long a record that comes again is found.
	Redelivery time.Duration
	// Horizon is how long a signal counts; Window is the longest time that a
	// correlation looks back, with the lateness of the records that it takes.
	Horizon, Window time.Duration
	// MaxSize is how many bytes of the database may be in use; 0 is no bound.
	MaxSize int64
}

// slack is what clocks of nodes, and of those who say when something happened, may
// be off.
const slack = time.Hour

func add(ds ...time.Duration) time.Duration {
	var sum time.Duration
	for _, d := range ds {
		if d > Forever-sum {
			return Forever
		}
		sum += d
	}
	return sum
}

// Effective returns the ages that are gone by: none is shorter than what is still
// to be judged needs.
func (p Policy) Effective() Policy {
	p.Signals = max(p.Signals, add(p.Horizon, slack))
	p.Events = max(p.Events, p.Redelivery, add(p.Horizon, p.Window, slack))
	p.Decisions = max(p.Decisions, add(p.Horizon, slack))
	p.Acted = max(p.Acted, p.Decisions)
	p.Facts = max(p.Facts, p.Signals)
	return p
}

// LeastEvents is the age below which no event is deleted, however large the
// database is.
func (p Policy) LeastEvents() time.Duration { return max(p.Redelivery, add(p.Window, slack)) }

// bundles is the age since a bundle was last the active one: what was decided by it
// is gone by then.
func (p Policy) bundles() time.Duration {
	return add(max(p.Decisions, p.Acted, p.Containments, p.Signals), slack)
}

// age is by how much a row of a kind has to be older than now to be looked at. Of
// decisions it is that of those by which nothing was done.
func (p Policy) age(kind store.Kept) time.Duration {
	switch kind {
	case store.KeptEvents:
		return p.Events
	case store.KeptSignals:
		return p.Signals
	case store.KeptDecisions:
		return p.Decisions
	case store.KeptContainments, store.KeptDrills:
		return p.Containments
	case store.KeptFacts:
		return p.Facts
	case store.KeptNotices:
		return p.Notices
	case store.KeptParked:
		return p.Parked
	case store.KeptBundles:
		return p.bundles()
	}
	return 0 // cursors have times of their own
}

// before returns the time of now less an age, the earliest there is for Forever.
func before(now staunch.Time, age time.Duration) staunch.Time {
	if age == Forever {
		return math.MinInt64
	}
	return now.Add(-age)
}

// Cursor says which cursors may be deleted.
type Cursor struct {
	// Prefix begins their names.
	Prefix string
	// Over reports whether a value is of no more use; signals is the time before
	// which there are no signals that count. What it cannot read stays.
	Over func(value string, now, signals staunch.Time) bool
}

// quiet reports whether nothing was done by the decision.
func quiet(d staunch.Decision) bool {
	switch d.Verdict {
	case staunch.VerdictObserve, staunch.VerdictInform, staunch.VerdictShadow, staunch.VerdictRecommend, staunch.VerdictHeld:
		return d.Containment == ""
	}
	return false
}
