package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
)

func TestAfterCheckpoint(t *testing.T) {
	notLogged := fmt.Errorf("%w: down", record.ErrNotLogged)
	for _, c := range []struct {
		every time.Duration
		err   error
		want  time.Duration
	}{
		{time.Hour, nil, time.Hour}, {time.Hour, record.ErrBroken, time.Hour}, {time.Hour, notLogged, logAgain}, {time.Minute, notLogged, time.Minute},
	} {
		if got := afterCheckpoint(c.every, c.err); got != c.want {
			t.Errorf("every %s, %v: %s, want %s", c.every, c.err, got, c.want)
		}
	}
}

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
