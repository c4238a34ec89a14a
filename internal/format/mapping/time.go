package mapping

import (
	"bytes"
	"math"
	"strconv"
	"time"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// timeSpec says how a time is written. The zero timeSpec takes RFC 3339, the
// same with a blank or without a zone (UTC), and numbers of seconds,
// milliseconds, microseconds or nanoseconds since the epoch by their size.
type timeSpec struct {
	unit    time.Duration
	layouts []string
	zones   map[string]string // name to offset, "+02:00"
	lenient bool              // an unreadable time is as none
	// relative says that the value is a span after the event's time, in units
	// (default seconds).
	relative bool
}

// The bounds of a plausible time, in microseconds: 1973-03-03 to 9999.
const (
	minTime = int64(1e11) * 1e3
	maxTime = 253402300799 * int64(1e6)
)

// Layouts that are tried where none are given, after strict RFC 3339.
var defaultLayouts = [...]string{
	"2006-01-02T15:04:05.999999999Z0700",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02 15:04:05.999999999Z07:00",
	"2006-01-02 15:04:05.999999999",
	"2006-01-02 15:04:05.999999999 -0700",
	"2006-01-02 15:04:05.999999999 -07",
	time.RFC1123Z,
	"02/Jan/2006:15:04:05 -0700",
}

// after reads a span after from.
func (s *timeSpec) after(from int64, text []byte) (int64, bool) {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(f > 0) || f > 1e12 || from == 0 {
		return 0, false
	}
	unit := s.unit
	if unit == 0 {
		unit = time.Second
	}
	us := float64(from) + f*float64(unit)/1e3
	if us > float64(maxTime) {
		return 0, false
	}
	return int64(us), true
}

// parse reads a time; micros is in microseconds since the epoch.
func (s *timeSpec) parse(v result) (micros int64, ok bool) {
	var b []byte
	number := false
	switch v.kind {
	case resNode:
		b = v.node.Bytes()
		number = v.node.Kind() == jsondoc.Number
		if !number && v.node.Kind() != jsondoc.String {
			return 0, false
		}
	case resText:
		b = v.text
	case resLiteral:
		b, number = v.text, true
	default:
		return 0, false
	}
	if len(b) == 0 || len(b) > 64 {
		return 0, false
	}
	if !number && s.layouts == nil {
		var t time.Time
		if t.UnmarshalText(b) == nil {
			return bound(t.Unix(), t.Nanosecond())
		}
	}
	if number || numeric(b) {
		return s.epoch(b)
	}
	text := string(bytes.TrimSpace(b))
	if s.zones != nil {
		if i := lastBlank(text); i > 0 {
			if off, known := s.zones[text[i+1:]]; known {
				text = text[:i+1] + off
				for _, l := range []string{"2006-01-02 15:04:05.999999999 -07:00", "2006-01-02T15:04:05.999999999 -07:00"} {
					if t, err := time.Parse(l, text); err == nil {
						return bound(t.Unix(), t.Nanosecond())
					}
				}
			}
		}
	}
	layouts := s.layouts
	if layouts == nil {
		layouts = defaultLayouts[:]
	}
	for _, l := range layouts {
		if t, err := time.Parse(l, text); err == nil {
			return bound(t.Unix(), t.Nanosecond())
		}
	}
	return 0, false
}

func lastBlank(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ' ' {
			return i
		}
	}
	return -1
}

func numeric(b []byte) bool {
	dots := 0
	for _, c := range b {
		if c == '.' {
			dots++
		} else if c < '0' || c > '9' {
			return false
		}
	}
	return dots <= 1
}

func bound(sec int64, nanos int) (int64, bool) {
	if sec < minTime/1e6 || sec > maxTime/1e6 {
		return 0, false
	}
	return sec*1e6 + int64(nanos)/1e3, true
}

// epoch reads a count since 1970. Without a unit its size tells: seconds stay
// below 1e11 until the year 5138, milliseconds below 1e14, microseconds below
// 1e17.
func (s *timeSpec) epoch(b []byte) (int64, bool) {
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		unit := s.unit
		if unit == 0 {
			switch {
			case n < 1e11:
				unit = time.Second
			case n < 1e14:
				unit = time.Millisecond
			case n < 1e17:
				unit = time.Microsecond
			default:
				unit = time.Nanosecond
			}
		}
		var us int64
		switch unit {
		case time.Second:
			if n > maxTime/1e6 || n < 0 {
				return 0, false
			}
			us = n * 1e6
		case time.Millisecond:
			if n > maxTime/1e3 || n < 0 {
				return 0, false
			}
			us = n * 1e3
		case time.Microsecond:
			us = n
		default:
			us = n / 1e3
		}
		return us, us >= minTime && us <= maxTime
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
		return 0, false
	}
	unit := s.unit
	if unit == 0 {
		switch {
		case f < 1e11:
			unit = time.Second
		case f < 1e14:
			unit = time.Millisecond
		case f < 1e17:
			unit = time.Microsecond
		default:
			unit = time.Nanosecond
		}
	}
	us := math.Round(f * float64(unit) / 1e3)
	if us < float64(minTime) || us > float64(maxTime) {
		return 0, false
	}
	return int64(us), true
}
