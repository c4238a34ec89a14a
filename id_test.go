package staunch

import (
	"math"
	"strings"
	"testing"
	"time"
)

// TestIDsBeginWithTheirTime: an id depends on the time that is stated and on nothing
// that comes later, and has the order of the seconds.
func TestIDsBeginWithTheirTime(t *testing.T) {
	at := TimeOf(time.Date(2026, 11, 26, 13, 0, 0, 999_999_000, time.UTC))
	ref := Ref{Kind: KindAccount, Realm: "r", Scheme: "name", Value: "a"}
	first, second := EventID("s", "1", "d", at), EventID("s", "1", "d", at.Add(time.Second))
	if first >= second || first != EventID("s", "1", "d", at) || len(first) != len("evt_")+stampLen+hashLen {
		t.Errorf("%s, %s", first, second)
	}
	whole := at - at%1_000_000
	for _, id := range []string{
		first, SignalID("rule", ref, first), FactID(Fact{Type: FactSessionStarted, Subject: ref, Time: at}),
		DecisionID(ref, "b", []string{SignalID("rule", ref, first), CorrelationSignalID("rule", ref, "g", "w"), "sig_none"}),
	} {
		if stampOf(id) != whole {
			t.Errorf("%s is of %s", id, stampOf(id))
		}
	}
	newest := DecisionID(ref, "b", []string{SignalID("r", ref, second), SignalID("r", ref, first)})
	if stampOf(newest) != whole.Add(time.Second) {
		t.Errorf("%s is not of its newest signal", newest)
	}
	for name, id := range map[string]string{
		"undated":          EventID("s", "1", "d", 0),
		"before the epoch": EventID("s", "1", "d", -5_000_000),
		"too late":         EventID("s", "1", "d", 1<<32*1_000_000),
		"of no event":      SignalID("rule", ref, "manual/x"),
		"decision":         DecisionID(ref, "b", []string{"manual/x"}),
	} {
		if _, hash, _ := strings.Cut(id, "_"); len(hash) != hashLen || stampOf(id) != 0 {
			t.Errorf("%s: %s", name, id)
		}
	}
	if at := stampOf("evt_" + strings.Repeat("z", stampLen+hashLen)); at != 0 {
		t.Errorf("no digits, and of %s", at)
	}
}

// TestTimesCanBeReadAgain: whatever the instant, what is written of it is read, and
// within the years that have a form as the same.
func TestTimesCanBeReadAgain(t *testing.T) {
	for at, want := range map[Time]Time{
		0: 0, 1: 1, -1: -1, last: last, first: first,
		last + 1: last, first - 1: first, math.MaxInt64: last, math.MinInt64: first,
	} {
		b, err := at.MarshalJSON()
		var got Time
		if err == nil {
			err = got.UnmarshalJSON(b)
		}
		if err != nil || got != want {
			t.Errorf("%d is written as %s and read as %d, %v", at, b, got, err)
		}
	}
}
