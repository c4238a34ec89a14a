package retain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// What is old is old by the node's clock, and a clock that is wrong by years would
// make all of it old at once. So a clock that is further on than it should be is
// believed only once it has gone on like this for a while, in which somebody may set
// it right. A node that did not run for longer than mostLeap waits as well.
const (
	// mostLeap is how far the clock may be past the last round.
	mostLeap = 72 * time.Hour
	// believeAfter is how long a node runs by a clock that leapt before it deletes.
	believeAfter = 24 * time.Hour
	// noteEvery is how often the time of a round is noted.
	noteEvery = time.Hour

	clockCursor = "retention/clock"
)

// errLeapt says that the clock is not believed.
var errLeapt = errors.New("the clock has leapt")

// leap is a clock's that is further on than it should be.
type leap struct {
	// to is what the clock showed when it was noticed, at when that was by a clock
	// that nobody sets.
	to staunch.Time
	at time.Time
}

// trust returns an error while the clock is not believed, and notes its time where
// it is.
func (s *Sweeper) trust(ctx context.Context) error {
	now := staunch.TimeOf(s.opt.Clock.Now())
	var noted staunch.Time
	var known bool
	if err := s.opt.Store.View(ctx, func(r store.Reader) error {
		var err error
		noted, known, err = store.ReadCursor[staunch.Time](r, clockCursor)
		return err
	}); err != nil {
		return err
	}
	if known && now > noted.Add(mostLeap) {
		if s.leap == nil || now > s.leap.to.Add(s.since(s.leap.at)+mostLeap) {
			s.leap = &leap{to: now, at: s.opt.Steady()}
		}
		if left := believeAfter - s.since(s.leap.at); left > 0 {
			return fmt.Errorf("%w: it shows %s, and the last round was at %s: deleting waits for %s more, in case the clock is wrong",
				errLeapt, now, noted, left.Round(time.Minute))
		}
	}
	s.leap = nil
	if known && now >= noted && now < noted.Add(noteEvery) {
		return nil
	}
	return s.opt.Store.Update(ctx, func(tx store.Tx) error { return store.WriteCursor(tx, clockCursor, now) })
}
