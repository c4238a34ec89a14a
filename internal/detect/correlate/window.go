package correlate

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// completed is a row at which a window holds: rows[from:to+1] are the window's,
// rows[end] is the one that completed it.
type completed struct {
	from, to, end int
	value         float64
}

// window is what of a sliding window is kept as it moves.
type window struct {
	r      *Rule
	rows   []store.Contribution
	events map[string]int
	values map[string]int
	base   []int
	// last is when a value was there last; minted counts those of the first rule.
	last   map[string]staunch.Time
	minted map[string]int
	adds   bool // the values are numbers that are added up
	sum    float64
	n      int
	from   int // first row of it
}

// judge moves the window over the rows, which are in order, and returns those
// at which it holds among those with at in [from, to]. A window reaches from
// its timespan before the row to the row, both ends included. Where settled, and
// where the order counts, it has everything of the row's own instant.
func (r *Rule) judge(rows []store.Contribution, from, to staunch.Time) []completed {
	w := &window{r: r, rows: rows, events: map[string]int{}, values: map[string]int{}, base: make([]int, len(r.operands)),
		last: map[string]staunch.Time{}, minted: map[string]int{}, adds: r.Type == ValueSum || r.Type == ValueAvg}
	var out []completed
	for i := 0; i < len(rows); {
		end := i
		w.move(rows[i].At.Add(-r.Timespan))
		w.add(i)
		if r.settled || r.Type == TemporalOrdered {
			for end+1 < len(rows) && rows[end+1].At == rows[i].At {
				end++
				w.add(end)
			}
		}
		if rows[i].At > to {
			break
		}
		if rows[i].At >= from {
			first := end
			if r.shares() || !r.settled {
				first = i
			}
			for k := first; k <= end; k++ {
				if v, ok := w.holds(k, end); ok {
					out = append(out, completed{from: w.from, to: end, end: k, value: v})
				}
			}
		}
		i = end + 1
	}
	return out
}

// shares says that a row is judged by its own value's share of all.
func (r *Rule) shares() bool { return r.Type == ValuePercentile && r.Percentile == 0 }

// move drops what is before at.
func (w *window) move(at staunch.Time) {
	for w.from < len(w.rows) && w.rows[w.from].At < at {
		c := &w.rows[w.from]
		w.from++
		drop(w.events, c.Event)
		drop(w.values, c.Value)
		w.base[c.Base]--
		w.n--
		if c.Base == 0 {
			drop(w.minted, c.Value)
		}
		if v, err := strconv.ParseFloat(c.Value, 64); w.adds && err == nil {
			w.sum -= v
		}
	}
	if w.n == 0 {
		w.sum = 0 // without what rounding left
	}
}

func drop(m map[string]int, k string) {
	if m[k]--; m[k] == 0 {
		delete(m, k)
	}
}

func (w *window) add(i int) {
	c := &w.rows[i]
	w.events[c.Event]++
	w.values[c.Value]++
	w.base[c.Base]++
	w.n++
	w.last[c.Value] = c.At
	if c.Base == 0 {
		w.minted[c.Value]++
	}
	if !w.adds {
		return
	}
	if v, err := strconv.ParseFloat(c.Value, 64); err == nil {
		w.sum += v
	}
}

// holds judges the window up to last for the row k.
func (w *window) holds(k, last int) (float64, bool) {
	r := w.r
	v := 0.0
	switch r.Type {
	case EventCount:
		v = float64(len(w.events))
	case ValueCount, SessionReuse:
		v = float64(len(w.values))
	case Temporal:
		for _, n := range w.base {
			if n > 0 {
				v++
			}
		}
		if r.cond != nil {
			return v, r.cond.holds(w.base)
		}
	case TemporalOrdered:
		v = float64(w.chain(k, last))
	case ValueSum:
		v = w.sum
	case ValueAvg:
		v = w.sum / float64(w.n)
	case ValuePercentile, ValueMedian:
		if r.shares() {
			v = 100 * float64(w.values[w.rows[k].Value]) / float64(w.n)
		} else {
			v = w.percentile(last)
		}
	case ImpossibleTravel:
		return w.fastest(k)
	case UseAfterReport:
		if w.rows[k].Base != len(r.operands)-1 {
			return 0, false
		}
		for b, n := range w.base {
			if b < len(r.operands)-1 && n > 0 {
				return 0, true
			}
		}
		return 0, false
	case MintedElsewhere:
		c := &w.rows[k]
		elsewhere := len(w.minted) > 1 || len(w.minted) == 1 && w.minted[c.Value] == 0
		return 0, c.Base > 0 && elsewhere
	case Honeytoken:
		return 1, true
	}
	for _, c := range r.conds {
		if !c.holds(v) {
			return v, false
		}
	}
	return v, true
}

// chain returns the most rules whose matches up to last stand in their order, the
// last of them that of row k; where settled, any. Matches of one instant are
// taken in the rules' order.
func (w *window) chain(k, last int) int {
	best := make([]int, len(w.base))
	reach := func(b int) int {
		n := 1
		for i := range b {
			n = max(n, best[i]+1)
		}
		return n
	}
	for i := w.from; i <= last; {
		end := i
		for end+1 <= last && w.rows[end+1].At == w.rows[i].At {
			end++
		}
		run := slices.Clone(w.rows[i : end+1])
		slices.SortStableFunc(run, func(a, b store.Contribution) int { return a.Base - b.Base })
		for _, c := range run {
			best[c.Base] = max(best[c.Base], reach(c.Base))
		}
		i = end + 1
	}
	if w.r.settled {
		return slices.Max(best)
	}
	return best[w.rows[k].Base]
}

// percentile returns the nearest-rank percentile of the values.
func (w *window) percentile(last int) float64 {
	var vals []float64
	for i := w.from; i <= last; i++ {
		if v, err := strconv.ParseFloat(w.rows[i].Value, 64); err == nil {
			vals = append(vals, v)
		}
	}
	if len(vals) == 0 {
		return math.NaN()
	}
	slices.Sort(vals)
	if w.r.Type == ValueMedian && len(vals)%2 == 0 {
		return (vals[len(vals)/2-1] + vals[len(vals)/2]) / 2
	}
	rank := int(math.Ceil(w.r.Percentile / 100 * float64(len(vals))))
	return vals[min(max(rank, 1), len(vals))-1]
}

// farEnough leaves out the inexactness of places.
const farEnough = 100 // km

// fastest returns the highest speed, in km/h, at which one would have had to
// travel to the row's place from another in the window.
func (w *window) fastest(k int) (float64, bool) {
	to, ok := parsePlace(w.rows[k].Value)
	if !ok {
		return 0, false
	}
	// The latest of each place is the nearest in time, and asks for most speed.
	top := 0.0
	for place, at := range w.last {
		from, ok := parsePlace(place)
		if !ok || place == w.rows[k].Value || at < w.rows[w.from].At {
			continue
		}
		if km := from.distance(to); km >= farEnough {
			hours := w.rows[k].At.Sub(at).Hours()
			top = max(top, km/max(hours, time.Second.Hours()))
		}
	}
	return top, top > w.r.Speed
}

// value is what a row keeps of the values of the fields.
func (s *Set) value(r *Rule, vals []string) (string, bool) {
	switch r.Type {
	case ValueSum, ValueAvg, ValueMedian, ValuePercentile:
		if r.shares() {
			break
		}
		if len(vals) != 1 {
			return "", false
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(vals[0]), 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return "", false
		}
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case ImpossibleTravel:
		if p, ok := s.geo.Find(vals[0]); ok {
			return p.String(), true
		}
		return "", false
	case Honeytoken:
		for _, v := range vals {
			if r.watched[v] {
				return v, true
			}
			// A ref is kind:realm:scheme:value; the value alone is enough.
			if ref, err := staunch.ParseRef(v); err == nil && r.watched[ref.Value] {
				return v, true
			}
		}
		return "", false
	}
	return strings.Join(vals, "\x1f"), true
}
