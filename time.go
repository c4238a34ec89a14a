package staunch

import (
	"encoding/json"
	"fmt"
	"time"
)

// Time is an instant in microseconds since the Unix epoch, UTC. Zero means
// "not known" or "never", whichever the field says.
type Time int64

// TimeOf converts t, cutting it to microseconds. The zero time.Time gives 0.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMicro())
}

// Std returns t as a time.Time in UTC; zero gives the zero time.Time.
func (t Time) Std() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(t)).UTC()
}

// Add returns t shifted by d, cut to microseconds.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Microseconds()) }

// Sub returns the duration from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t-u) * time.Microsecond }

// The first and the last instant that RFC 3339 has a form for: the years 0 to 9999.
const (
	first = Time(-62_167_219_200_000_000)
	last  = Time(253_402_300_799_999_999)
)

// String returns t in RFC 3339 with microseconds, or "" for zero. What lies before
// the year 0 or after 9999 has no such form and is given as the nearest that has:
// stored as it is, it could not be read again.
func (t Time) String() string {
	if t == 0 {
		return ""
	}
	t = min(max(t, first), last)
	return t.Std().Format("2006-01-02T15:04:05.000000Z")
}

// MarshalJSON writes t as an RFC 3339 string, as String gives it, zero as null.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads an RFC 3339 string or null.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*t = 0
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("reading a time: %w", err)
	}
	if s == "" {
		*t = 0
		return nil
	}
	p, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("reading a time: %w", err)
	}
	*t = TimeOf(p)
	return nil
}

// Clock tells the time. Rooms take one so that tests, replay and simulation
// decide what time it is.
type Clock interface {
	// Now returns the present instant. It may be called concurrently.
	Now() time.Time
}

// SystemClock is the machine's own clock.
type SystemClock struct{}

// Now returns time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

var _ Clock = SystemClock{}
