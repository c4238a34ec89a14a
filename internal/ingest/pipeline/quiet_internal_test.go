package pipeline

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
)

// TestObservedOver: a note on a quiet subject may go once it speaks for nothing, and
// not before; what cannot be read stays.
func TestObservedOver(t *testing.T) {
	now := staunch.TimeOf(time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC))
	for ago, want := range map[time.Duration]bool{0: false, quietFor: false, 3 * quietFor: true, -24 * time.Hour: false} {
		b, err := json.Marshal(observed{Decision: "dec_1", At: now.Add(-ago)})
		if err != nil {
			t.Fatal(err)
		}
		if got := ObservedOver(string(b), now); got != want {
			t.Errorf("%s ago: %v, want %v", ago, got, want)
		}
	}
	if ObservedOver("x", now) {
		t.Error("what cannot be read is over")
	}
}
