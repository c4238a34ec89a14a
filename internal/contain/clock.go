package contain

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// mostJump is how far the clock may be off before expiries are suspended.
const mostJump = 5 * time.Minute

// clockWatch compares the clock with the time that has passed and with the
// database's. An expiry that comes because somebody set the clock would release
// a thief, so while they disagree nothing expires (windows end all the same:
// that only takes more away).
type clockWatch struct {
	wall, steady time.Time
	jumped       atomic.Bool
}

func (w *clockWatch) begin(wall, steady time.Time) {
	// Round takes the monotonic reading off, which would hide the jump.
	w.wall, w.steady = wall.Round(0), steady
}

// off returns how far the clock has moved from where the time that has passed,
// and the database's clock, put it: the larger of the two.
func (w *clockWatch) off(wall, steady, database time.Time) time.Duration {
	wall = wall.Round(0)
	jump := (wall.Sub(w.wall) - steady.Sub(w.steady)).Abs()
	return max(jump, wall.Sub(database).Abs())
}

// checkClock suspends expiries when the clock has jumped and tells people; it
// resumes them when the clock is back, or in the next process. It returns the
// database's clock, 0 where that could not be asked for.
func (e *Engine) checkClock(ctx context.Context) staunch.Time {
	database, err := e.opt.Store.Now(ctx)
	if err != nil {
		return 0 // whatever needs the store finds that out and says so
	}
	wall := e.opt.Clock.Now()
	off := e.clock.off(wall, e.opt.Steady(), database.Std())
	jumped := off > mostJump
	if e.clock.jumped.Swap(jumped) == jumped {
		return database
	}
	e.opt.Log.Warn("the clock jumped", "off", off, "expiries_suspended", jumped)
	ids, err := e.openCases(ctx)
	if err == nil {
		err = e.tellClock(ctx, ids, off, jumped, staunch.TimeOf(wall))
	}
	if err != nil && ctx.Err() == nil {
		e.opt.Log.Error("telling people that the clock jumped", "error", err)
		e.clock.jumped.Store(!jumped) // once more at the next look
		return database
	}
	for _, id := range ids {
		e.Kick(id)
	}
	return database
}

func (e *Engine) tellClock(ctx context.Context, ids []string, off time.Duration, jumped bool, now staunch.Time) error {
	return e.opt.Store.Update(ctx, func(tx store.Tx) error {
		if err := record(tx, staunch.RecordNode, "engine", e.opt.Node, now, map[string]any{
			"clock_off": off.String(), "expiries_suspended": jumped,
		}); err != nil || !jumped {
			return err
		}
		for _, id := range ids {
			con, err := tx.Containment(id)
			if err != nil {
				return err
			}
			if con.Expires == 0 || !con.Phase.Open() {
				continue
			}
			con.Trouble = fmt.Sprintf("the clock is off by %s: it does not expire until the clock is right or staunch is restarted", off.Round(time.Second))
			con.Changed = now
			if err := tx.PutContainment(con); err != nil {
				return err
			}
			if err := e.notices(tx, "trouble", con, nil, now); err != nil {
				return err
			}
		}
		return nil
	})
}
