package app

import (
	"testing"
	"time"

	"github.com/staunch-project/staunch"
)

func TestUntilCheckpoint(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		every, ago, want time.Duration
	}{
		{time.Hour, 0, time.Hour}, {time.Hour, 20 * time.Minute, 40 * time.Minute}, {time.Hour, 24 * time.Hour, firstCheckpoint},
		{time.Hour, -24 * time.Hour, time.Hour}, // our clock was set back
	} {
		if got := untilCheckpoint(c.every, staunch.TimeOf(now.Add(-c.ago)), now); got != c.want {
			t.Errorf("every %s, %s ago: %s, want %s", c.every, c.ago, got, c.want)
		}
	}
	if got := untilCheckpoint(time.Hour, 0, now); got != firstCheckpoint {
		t.Errorf("the first: %s", got)
	}
}
