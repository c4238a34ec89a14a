// Package sequence evaluates correlations over recorded events, those of a file or
// of a test. Windows are in memory, and nothing outlives a Sequence.
package sequence

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// maxBytes bounds the memory for what records contribute.
const maxBytes = 4 << 30

// ErrUncounted says that a record counts for no correlation, because its format
// cannot read it or finds no time in it.
var ErrUncounted = errors.New("it counts for no correlation")

// Sequence collects what records contribute to correlations. It is for one
// goroutine.
type Sequence struct {
	// Tell, when not nil, is told how each window stands.
	Tell func(correlate.Judged)

	set  *correlate.Set
	env  format.Env
	rows []correlate.Contribution
	seen map[string]bool
	held int64
}

// New returns an empty sequence of records from the source and realm of env.
func New(set *correlate.Set, env format.Env) *Sequence {
	return &Sequence{set: set, env: env, seen: map[string]bool{}}
}

// Take keeps what a record contributes that matched the rules of these numbers;
// number is the record's own, by which signals name it. A record that stands twice
// counts once. An error that is no ErrUncounted ends the sequence.
func (s *Sequence) Take(number int, f format.Format, doc *jsondoc.Doc, matched []int) error {
	if len(matched) == 0 {
		return nil
	}
	keys, err := f.Keys(doc, s.env)
	if err != nil {
		return fmt.Errorf("%w: format %s cannot read it: %w", ErrUncounted, f.Name(), err)
	}
	if keys.Time == 0 {
		return fmt.Errorf("%w: format %s finds no time in it", ErrUncounted, f.Name())
	}
	mapped, err := f.Map(doc, keys, s.env)
	if err != nil {
		return fmt.Errorf("%w: format %s cannot map it: %w", ErrUncounted, f.Name(), err)
	}
	id := f.Name() + "/" + keys.VendorID + "/" + staunch.Digest(doc.Raw())
	if s.seen[id] {
		return nil
	}
	s.seen[id] = true
	secrets := f.Secrets(doc, s.env)
	ev := &correlate.Event{
		Event: staunch.Event{
			ID: fmt.Sprintf("%012d", number), Source: s.env.Source, Realm: s.env.Realm, Time: keys.Time, Standing: staunch.StandingCurrent,
			Outcome: keys.Outcome, Operation: keys.Operation, Actor: keys.Actor, Targets: keys.Targets, SourceIP: keys.SourceIP, OCSF: mapped.OCSF,
		},
		Doc: doc, Facts: mapped.Facts, Hide: accuse.Hidden(secrets),
		Accuse: func(r *correlate.Rule, narrowest staunch.Kind) []staunch.Ref {
			refs := accuse.Correlated(r.Accuse, narrowest, accuse.Record{Format: f, Realm: s.env.Realm, Doc: doc, Keys: keys, Secrets: secrets})
			if len(refs) > 0 {
				return refs
			}
			// Nobody to accuse; the correlation holds all the same.
			return []staunch.Ref{{}}
		},
	}
	for _, c := range s.set.Contribute(ev, matched) {
		if s.held += int64(len(c.Row.Body)) + 256; s.held > maxBytes {
			return &staunch.Problem{Place: fmt.Sprintf("record %d", number), Reason: fmt.Sprintf("correlations need more than %d bytes of memory", int64(maxBytes)), Hint: "take fewer records at a time"}
		}
		s.rows = append(s.rows, c)
	}
	return nil
}

// Signal is one accusation that a correlation would make.
type Signal struct {
	Rule *correlate.Rule
	// Records are the numbers of the window's records, the oldest first.
	Records []int
	Group   []string
	// Accused is empty where the record names nobody that the correlation could
	// accuse; a node then makes no signal.
	Accused staunch.Ref
	// Time is that of the record which completed the window.
	Time staunch.Time
	// Evidence says in words what was seen.
	Evidence string
	// Hidden says that a node makes no signal of it: it counts only for other
	// correlations.
	Hidden bool
}

// Signals takes the records in the order of their time and yields the signals, each
// once; those that wait for records which could still undo them come last, as if
// none came any more.
func (s *Sequence) Signals(yield func(Signal) error) error {
	slices.SortStableFunc(s.rows, func(a, b correlate.Contribution) int {
		return cmp.Or(cmp.Compare(a.Row.At, b.Row.At), strings.Compare(a.Row.Event, b.Row.Event))
	})
	app := &correlate.Applier{Set: s.set, Memory: correlate.NewMemory(0), Tell: s.Tell}
	book := correlate.NewBook()
	said := map[string]bool{}
	say := func(fired []correlate.Firing) error {
		for _, f := range fired {
			for _, ref := range f.Accused {
				id := staunch.CorrelationSignalID(f.Rule.ID, ref, f.Series, f.Window)
				if said[id] {
					continue
				}
				said[id] = true
				sg := Signal{Rule: f.Rule, Group: f.Group, Accused: ref, Time: f.At, Evidence: f.Sentence(), Hidden: f.Hidden}
				for _, e := range f.Events {
					n, err := strconv.Atoi(e)
					if err != nil {
						return fmt.Errorf("reading a record's number: %w", err)
					}
					sg.Records = append(sg.Records, n)
				}
				if err := yield(sg); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for from := 0; from < len(s.rows); {
		to := from + 1
		for to < len(s.rows) && s.rows[to].Row.Event == s.rows[from].Row.Event {
			to++
		}
		fired, err := app.Apply(book, s.rows[from:to])
		if err != nil {
			return err
		}
		if err := say(fired); err != nil {
			return err
		}
		from = to
	}
	// What settles may count for others that have to settle in turn; they are no
	// deeper than correlations may refer to each other.
	for {
		fired, n, err := app.Settle(book, math.MaxInt64, math.MaxInt)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		slices.SortStableFunc(fired, func(a, b correlate.Firing) int { return cmp.Compare(a.At, b.At) })
		if err := say(fired); err != nil {
			return err
		}
	}
}
