package decide

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
)

// runOutAfter is how long a counter is kept after the time that it counts in,
// far above what the clocks of two nodes may differ by.
const runOutAfter = 25 * time.Hour

// RunningOut returns the prefixes of the caps that count within a time, and are
// of no use once it is over: those of hours and of the windows.
func RunningOut() []string {
	return []string{"canary/", "had/", "hour/", "identities/", "seen/", "trip/"}
}

// RanOut reports whether a cap's time has been over for so long that nobody
// reserves a place of it any more. What it cannot read stays.
func (g *Guardrails) RanOut(name string, now staunch.Time) bool {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return false
	}
	windowed := func(p string) bool { return p != "hour/" && strings.HasPrefix(name, p) }
	switch {
	case strings.HasPrefix(name, "hour/"):
		at, err := time.Parse("2006-01-02T15", name[i+1:])
		return err == nil && now.Std().Sub(at) > time.Hour+runOutAfter
	case slices.ContainsFunc(RunningOut(), windowed):
		n, err := strconv.ParseInt(name[i+1:], 10, 64)
		if err != nil {
			return false
		}
		// A number far ahead is of a window that was shorter, before a reload.
		window := g.limits.TripWindow.Std()
		off := n - int64(now)/window.Microseconds()
		if off < 0 {
			off = -off
		}
		return off > int64(runOutAfter/window)+1
	}
	return false
}
