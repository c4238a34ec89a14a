package decide

import (
	"fmt"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
)

func TestRanOut(t *testing.T) {
	g, err := NewGuardrails(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	now := staunch.TimeOf(time.Date(2026, 3, 10, 12, 30, 0, 0, time.UTC))
	window := int64(now) / (10 * time.Minute).Microseconds()
	for name, want := range map[string]bool{
		"hour/global/2026-03-10T12":          false,
		"hour/global/2026-03-09T12":          false,
		"hour/global/2026-03-09T10":          true,
		"hour/source/a/b/2025-01-01T00":      true,
		"hour/global/later":                  false,
		fmt.Sprint("trip/rule/x/", window):   false,
		fmt.Sprint("trip/rule/x/", window+1): false,
		fmt.Sprint("trip/x/", window-150):    false,
		fmt.Sprint("trip/x/", window-152):    true,
		fmt.Sprint("trip/x/", window*600):    true,
		"trip/x/y":                           false,
		"open/global":                        false,
		"open/source/2025-01-01T00":          false,
		"trip":                               false,
	} {
		if got := g.RanOut(name, now); got != want {
			t.Errorf("%s ran out: %t, want %t", name, got, want)
		}
	}
}
