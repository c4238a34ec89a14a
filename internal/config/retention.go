package config

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
)

// Age is how long something is kept: days such as 30d, Go's duration syntax such as
// 720h, or forever.
type Age time.Duration

// Forever is longer than anything.
const Forever Age = math.MaxInt64

const day = 24 * time.Hour

// Std returns a as a time.Duration; that of Forever is the longest there is.
func (a Age) Std() time.Duration { return time.Duration(a) }

// String writes whole days as days.
func (a Age) String() string {
	switch d := time.Duration(a); {
	case a == Forever:
		return "forever"
	case d != 0 && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	default:
		return d.String()
	}
}

// MarshalText writes what UnmarshalText reads.
func (a Age) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads days, Go's duration syntax, or forever.
func (a *Age) UnmarshalText(b []byte) error {
	text := string(b)
	if text == "forever" {
		*a = Forever
		return nil
	}
	if n, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.ParseUint(n, 10, 16)
		if err == nil {
			*a = Age(time.Duration(days) * day) //nolint:gosec // at most 65,535
			return nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return &staunch.Problem{Reason: strconv.Quote(text) + " is not an age (such as 30d, 12h, forever)"}
	}
	*a = Age(d)
	return nil
}

// Bytes is a size, such as 20GiB.
type Bytes int64

func units() []struct {
	name string
	size Bytes
} {
	return []struct {
		name string
		size Bytes
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}
}

// String writes it in the largest unit that it is a whole number of.
func (b Bytes) String() string {
	for _, u := range units() {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return "0"
}

// Rounded is b to two digits or more, for people.
func (b Bytes) Rounded() Bytes {
	for _, u := range units() {
		if b >= 10*u.size {
			return (b + u.size/2) / u.size * u.size
		}
	}
	return b
}

// MarshalText writes what UnmarshalText reads.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a whole number of bytes with its unit: B, KiB, MiB, GiB, TiB.
func (b *Bytes) UnmarshalText(text []byte) error {
	bad := &staunch.Problem{Reason: strconv.Quote(string(text)) + " is not a size (such as 512MiB, 20GiB)"}
	if string(text) == "0" {
		*b = 0
		return nil
	}
	for _, u := range units() {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 63)
		if err != nil || n > math.MaxInt64/uint64(u.size) { //nolint:gosec // above zero
			return bad
		}
		*b = Bytes(n) * u.size //nolint:gosec // looked at just now
		return nil
	}
	return bad
}

// Retention says how long what is stored is kept. What an open containment or a
// window needs is kept longer; records of the log are never deleted.
type Retention struct {
	// Events is how long events are kept after they were received; default 30d.
	Events Age `yaml:"events" json:"events,omitempty"`
	// Signals is how long signals are kept; default 90d.
	Signals Age `yaml:"signals" json:"signals,omitempty"`
	// Decisions is how long those are kept by which nothing was done; default 30d.
	Decisions Age `yaml:"decisions" json:"decisions,omitempty"`
	// DecisionsActed is how long the others are kept: those that contained, asked for
	// approval, or were stopped by a guardrail; default 400d.
	DecisionsActed Age `yaml:"decisions_acted" json:"decisions_acted,omitempty"`
	// Containments is how long containments and drills are kept after they ended,
	// with plans, steps, holds and the decisions, signals and events that they rest
	// on; default 400d.
	Containments Age `yaml:"containments" json:"containments,omitempty"`
	// Facts is how long it is remembered what sessions, and credentials that ran out,
	// belonged to and came from; default 400d.
	Facts Age `yaml:"facts" json:"facts,omitempty"`
	// Notices is how long messages to people are kept after their delivery; default
	// 30d.
	Notices Age `yaml:"notices" json:"notices,omitempty"`
	// Parked is how long records are kept that could not be taken; default 30d.
	Parked Age `yaml:"parked" json:"parked,omitempty"`
	// Redelivery is for how long a record that comes again is known to have come
	// before, whatever MaxSize says; default 24h.
	Redelivery Age `yaml:"redelivery" json:"redelivery,omitempty"`
	// MaxSize is how much of the database may be in use, for SQLite alone: above it
	// the oldest events go first. 0 (default) is no bound.
	MaxSize Bytes `yaml:"max_size" json:"max_size,omitempty"`
}

// Defaults of Retention.
const (
	DefaultKeepEvents         = Age(30 * day)
	DefaultKeepSignals        = Age(90 * day)
	DefaultKeepDecisions      = Age(30 * day)
	DefaultKeepDecisionsActed = Age(400 * day)
	DefaultKeepContainments   = Age(400 * day)
	DefaultKeepFacts          = Age(400 * day)
	DefaultKeepNotices        = Age(30 * day)
	DefaultKeepParked         = Age(30 * day)
	DefaultRedelivery         = Age(day)

	// LeastRedelivery is the least that a source may count on.
	LeastRedelivery = Age(time.Hour)
	// LeastMaxSize is room for what is never deleted to speak of.
	LeastMaxSize = Bytes(64 << 20)
)

func (r *Retention) defaults() {
	for _, d := range []struct {
		have *Age
		take Age
	}{
		{&r.Events, DefaultKeepEvents},
		{&r.Signals, DefaultKeepSignals},
		{&r.Decisions, DefaultKeepDecisions},
		{&r.DecisionsActed, DefaultKeepDecisionsActed},
		{&r.Containments, DefaultKeepContainments},
		{&r.Facts, DefaultKeepFacts},
		{&r.Notices, DefaultKeepNotices},
		{&r.Parked, DefaultKeepParked},
		{&r.Redelivery, DefaultRedelivery},
	} {
		if *d.have == 0 {
			*d.have = d.take
		}
	}
}

// check says what cannot be kept as it is asked for.
func (r Retention) check(c *Config, bad func(line int, field, format string, args ...any)) {
	at := func(field string) string { return "retention." + field }
	least := func(field string, have, need Age, why string) {
		if have < need {
			bad(0, at(field), "is %s, at least %s is needed: %s", have, need, why)
		}
	}
	least("redelivery", r.Redelivery, LeastRedelivery, "sources deliver again what was not acknowledged")
	least("events", r.Events, r.Redelivery, "retention.redelivery rests on events")
	least("signals", r.Signals, Age(c.Trust.For), "trust.for counts signals")
	least("decisions_acted", r.DecisionsActed, r.Decisions, "retention.decisions is for those that matter less")
	least("facts", r.Facts, r.Signals, "what a signal accuses is found by facts")
	const looked = "people look at it"
	least("decisions", r.Decisions, Age(time.Hour), looked)
	least("containments", r.Containments, Age(time.Hour), looked)
	least("notices", r.Notices, Age(time.Hour), looked)
	least("parked", r.Parked, Age(time.Hour), looked)
	if r.MaxSize != 0 && r.MaxSize < LeastMaxSize {
		bad(0, at("max_size"), "is %s, at least %s is needed", r.MaxSize, LeastMaxSize)
	}
	if r.MaxSize != 0 && !c.PostgresURL.Empty() {
		bad(0, at("max_size"), "is for SQLite: PostgreSQL does not say how much of its files is in use; give shorter ages")
	}
}
