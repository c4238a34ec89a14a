package correlate

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Ledger is what windows are kept in: a store.Tx, or a Book.
type Ledger interface {
	Contributions(series string, from, to staunch.Time, limit int) ([]store.Contribution, error)
	DueContributions(now staunch.Time, limit int) ([]store.Contribution, error)
	Sightings(series, from, to string, limit int) ([]store.Sighting, error)
	PutContributions([]store.Contribution) error
	SettleContributions([]store.Contribution) error
	AddSighting(store.Sighting) error
}

// maxNamed bounds the events that a firing names.
const maxNamed = 50

// Firing is one correlation that holds: an accusation to be made.
type Firing struct {
	Rule *Rule
	// Signal is the id of the accusation of each of Accused.
	Accused []staunch.Ref
	Group   []string
	// Series and Window say what was accused over, and when: the same again is
	// the same signal.
	Series, Window string
	// Time is the beginning of the window's slot, which does not depend on the
	// order in which its records came.
	Time staunch.Time
	// Event completed it, at At; Events are its events, the oldest first.
	Event  string
	At     staunch.Time
	Events []string
	// Count is how many events it has, Value what was compared.
	Count int
	Value float64
	// Source, Realm and Refs are of the completing event; Ceiling is the lowest
	// of the window's.
	Source, Realm string
	Refs          []staunch.Ref
	Ceiling       staunch.Tier
	// Origin is the one that all its events come from, "" where that is Source.
	// Origins has them where they are several, sorted.
	Origin  string
	Origins []string
	// Hidden says that it only counts for other correlations.
	Hidden bool
	body   payload
}

// Judged says how a series stands after a contribution, for explanations.
type Judged struct {
	Rule *Rule
	// Event contributed.
	Event string
	Group []string
	// Have is how many contributions the window that ends with it has.
	Have int
	// Waits says that the window is judged later, when it has settled.
	Waits bool
	Fired bool
}

// Applier applies contributions to a ledger.
type Applier struct {
	Set *Set
	// Memory, when not nil, is what this process counted, of a ledger that nobody
	// else writes to. It spares looking at windows that cannot hold yet.
	Memory *Memory
	// Tell, when not nil, is told how each series stands.
	Tell func(Judged)
}

// Apply writes contributions and returns what holds with them, those of
// correlations of correlations after those that led to them. It is called
// inside the transaction that keeps the events.
func (a *Applier) Apply(l Ledger, cs []Contribution) ([]Firing, error) {
	var out []Firing
	for depth := 0; len(cs) > 0 && depth <= maxDepth; depth++ {
		fired, err := a.round(l, cs)
		if err != nil {
			return nil, err
		}
		out = append(out, fired...)
		cs = a.onward(fired)
	}
	return out, nil
}

// onward makes contributions of firings to the correlations that refer to them.
func (a *Applier) onward(fired []Firing) []Contribution {
	var out []Contribution
	for _, f := range fired {
		for _, o := range f.body.Then {
			p := payload{Source: f.Source, Realm: f.Realm, Ceiling: f.Ceiling, Refs: f.Refs, Origins: f.Origins}
			if f.Origin != "" {
				p.Origins = []string{f.Origin}
			}
			if c, ok := a.Set.contribution(o, f.Event, f.At, p); ok {
				out = append(out, c)
			}
		}
	}
	return out
}

// span is what of a series has to be judged.
type span struct {
	rule     *Rule
	from, to staunch.Time // of the new contributions
	look     bool
	cs       []Contribution
}

func (a *Applier) round(l Ledger, cs []Contribution) ([]Firing, error) {
	var rows []store.Contribution
	var order []string
	series := map[string]*span{}
	var fired []Firing
	var states []Contribution
	for _, c := range cs {
		if types[c.Rule.Type].state {
			states = append(states, c)
			continue
		}
		rows = append(rows, c.Row)
		sp := series[c.Row.Series]
		if sp == nil {
			sp = &span{rule: c.Rule, from: c.Row.At, to: c.Row.At}
			series[c.Row.Series] = sp
			order = append(order, c.Row.Series)
		}
		sp.from, sp.to = min(sp.from, c.Row.At), max(sp.to, c.Row.At)
		sp.cs = append(sp.cs, c)
		sp.look = a.mayHold(c) || sp.look
	}
	if err := l.PutContributions(rows); err != nil {
		return nil, err
	}
	for _, key := range order {
		f, err := a.window(l, key, series[key])
		if err != nil {
			return nil, err
		}
		fired = append(fired, f...)
	}
	slices.SortStableFunc(states, func(x, y Contribution) int {
		if x.Row.At != y.Row.At {
			return int(max(-1, min(1, x.Row.At-y.Row.At)))
		}
		return strings.Compare(x.Row.Event, y.Row.Event)
	})
	for _, c := range states {
		f, err := a.state(l, c)
		if err != nil {
			return nil, err
		}
		fired = append(fired, f...)
	}
	return fired, nil
}

// mayHold counts the contribution and reports whether its windows may hold.
func (a *Applier) mayHold(c Contribution) bool {
	r := c.Rule
	if r.settled {
		return a.Tell != nil
	}
	if a.Memory == nil || a.Tell != nil || r.need <= 1 {
		return true
	}
	return a.Memory.Count(c.hash, int64(c.Row.At), r.Timespan.Microseconds()) >= r.need
}

// window judges the windows of a series that new contributions are in.
func (a *Applier) window(l Ledger, key string, sp *span) ([]Firing, error) {
	if !sp.look {
		return nil, nil
	}
	r := sp.rule
	from, to := sp.from.Add(-r.Timespan), sp.to.Add(r.Timespan)
	learn := false
	first, last := from, to
	if a.Memory != nil && !r.settled && r.need > 1 && a.Tell == nil {
		since := staunch.Time(a.Memory.Since(sp.cs[0].hash, r.Timespan.Microseconds()))
		if learn = since < math.MaxInt64; learn {
			first, last = min(from, since), math.MaxInt64
		}
	}
	rows, err := l.Contributions(key, first, last, MaxWindow)
	if err != nil {
		return nil, err
	}
	if learn {
		a.Memory.Know(sp.cs[0].hash, r.Timespan.Microseconds(), rows, len(rows) < MaxWindow)
	}
	if len(rows) == MaxWindow && last > to {
		// What is newer took the place of what is looked at.
		if rows, err = l.Contributions(key, from, to, MaxWindow); err != nil {
			return nil, err
		}
	}
	var out []Firing
	done := r.judge(rows, sp.from, to)
	if !r.settled {
		out, err = a.fire(r, rows, done)
	}
	if a.Tell != nil {
		a.tell(sp, rows, done)
	}
	return out, err
}

func (a *Applier) tell(sp *span, rows []store.Contribution, done []completed) {
	for _, c := range sp.cs {
		j := Judged{Rule: sp.rule, Event: c.Row.Event, Group: c.body.Group, Waits: sp.rule.settled}
		for _, row := range rows {
			if row.At <= c.Row.At && row.At >= c.Row.At.Add(-sp.rule.Timespan) {
				j.Have++
			}
		}
		j.Fired = slices.ContainsFunc(done, func(d completed) bool { return rows[d.end].Event == c.Row.Event })
		a.Tell(j)
	}
}

// Settle judges the windows that have waited long enough by now, at most limit,
// and returns what holds and how many it judged.
func (a *Applier) Settle(l Ledger, now staunch.Time, limit int) ([]Firing, int, error) {
	due, err := l.DueContributions(now, limit)
	if err != nil || len(due) == 0 {
		return nil, 0, err
	}
	if err := l.SettleContributions(due); err != nil {
		return nil, 0, err
	}
	type place struct {
		at    staunch.Time
		event string
		base  int
	}
	bySeries := map[string]map[place]bool{}
	var order []string
	spans := map[string]*span{}
	for _, c := range due {
		r := a.ruleOf(c)
		if r == nil || !r.settled {
			continue // its correlation is gone
		}
		sp := spans[c.Series]
		if sp == nil {
			sp = &span{rule: r, from: c.At, to: c.At}
			spans[c.Series], bySeries[c.Series] = sp, map[place]bool{}
			order = append(order, c.Series)
		}
		sp.from, sp.to = min(sp.from, c.At), max(sp.to, c.At)
		bySeries[c.Series][place{c.At, c.Event, c.Base}] = true
	}
	var out []Firing
	for _, key := range order {
		sp := spans[key]
		rows, err := l.Contributions(key, sp.from.Add(-sp.rule.Timespan), sp.to, MaxWindow)
		if err != nil {
			return nil, 0, err
		}
		done := sp.rule.judge(rows, sp.from, sp.to)
		done = slices.DeleteFunc(done, func(d completed) bool {
			c := rows[d.end]
			return !bySeries[key][place{c.At, c.Event, c.Base}]
		})
		fired, err := a.fire(sp.rule, rows, done)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, fired...)
	}
	more, err := a.Apply(l, a.onward(out))
	return append(out, more...), len(due), err
}

// ruleOf finds the correlation that a row is of.
func (a *Applier) ruleOf(c store.Contribution) *Rule {
	var p payload
	if err := json.Unmarshal(c.Body, &p); err != nil {
		return nil
	}
	for _, r := range a.Set.rules {
		if digest(append([]string{r.key}, p.Group...)...) == c.Series {
			return r
		}
	}
	return nil
}

// fire makes firings of what was completed: of each slot and accused one, or
// where other correlations refer to the rule, of each completing event one.
func (a *Applier) fire(r *Rule, rows []store.Contribution, done []completed) ([]Firing, error) {
	type slotOf struct {
		window  string
		accused string
	}
	seen := map[slotOf]bool{}
	var out []Firing
	for _, d := range done {
		end := rows[d.end]
		var p payload
		if err := json.Unmarshal(end.Body, &p); err != nil {
			return nil, fmt.Errorf("reading a contribution to %q: %w", r.ID, err)
		}
		start, window := slot(end.At, r)
		var accused []staunch.Ref
		for _, ref := range p.Accused {
			k := slotOf{window, ref.String()}
			if !seen[k] {
				seen[k] = true
				accused = append(accused, ref)
			}
		}
		if len(accused) == 0 && len(p.Then) == 0 {
			continue
		}
		f := Firing{
			Rule: r, Accused: accused, Group: p.Group, Series: end.Series, Window: window, Time: start, Event: end.Event, At: end.At,
			Value: d.value, Source: p.Source, Realm: p.Realm, Refs: p.Refs, Ceiling: p.Ceiling, Hidden: r.hidden, body: p,
		}
		if err := f.name(rows[d.from : d.to+1]); err != nil {
			return nil, fmt.Errorf("reading a contribution to %q: %w", r.ID, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// maxOrigins bounds the origins that a firing names; more than one says all.
const maxOrigins = 16

// tell fills in where the events come from.
func (f *Firing) tell(origins []string) {
	slices.Sort(origins)
	switch origins = slices.Compact(origins); {
	case len(origins) > 1:
		f.Origins = origins[:min(len(origins), maxOrigins)]
	case len(origins) == 1 && origins[0] != f.Source:
		f.Origin = origins[0]
	}
}

// name fills in the events of a window, where they come from, and their lowest
// ceiling.
func (f *Firing) name(rows []store.Contribution) error {
	seen := map[string]bool{}
	var origins []string
	for _, c := range slices.Backward(rows) {
		if seen[c.Event] {
			continue
		}
		seen[c.Event] = true
		f.Count++
		if len(f.Events) < maxNamed {
			f.Events = append(f.Events, c.Event)
		}
		var p payload
		if err := json.Unmarshal(c.Body, &p); err != nil {
			return err
		}
		f.Ceiling = min(f.Ceiling, p.Ceiling)
		for _, o := range p.origins() {
			if !slices.Contains(origins, o) {
				origins = append(origins, o)
			}
		}
	}
	f.tell(origins)
	slices.Reverse(f.Events)
	return nil
}

// slot returns the beginning of the slot that an instant is in, and its name.
func slot(at staunch.Time, r *Rule) (staunch.Time, string) {
	d := r.slot.Microseconds()
	n := int64(math.Floor(float64(at) / float64(d)))
	for n*d > int64(at) {
		n--
	}
	for (n+1)*d <= int64(at) {
		n++
	}
	return staunch.Time(n * d), strconv.FormatInt(n, 10)
}

// known is the item that stands for the subject itself.
const known = ""

// state judges a contribution by what was seen before, and notes it.
func (a *Applier) state(l Ledger, c Contribution) ([]Firing, error) {
	r, at := c.Rule, c.Row.At
	span := r.Timespan
	if r.Type == Rate {
		span = r.Baseline + r.Timespan
	}
	keep := at.Add(span + r.Learn + a.Set.lateness)
	series := c.Row.Series
	subject, err := a.sighting(l, series, known)
	if err != nil {
		return nil, err
	}
	note := func(item string, first, until staunch.Time) error {
		return l.AddSighting(store.Sighting{Series: series, Item: item, First: first, Last: at, Count: 1, Until: until})
	}
	start, window := slot(at, r)
	holds, value := false, 0.0
	switch r.Type {
	case FirstSeen:
		item := "=" + c.Row.Value
		before, err := a.sighting(l, series, item)
		if err != nil {
			return nil, err
		}
		unseen := before == nil || before.First >= at || before.Last < at.Add(-r.Timespan)
		learned := r.Learn == 0 || subject != nil && subject.First <= at.Add(-r.Learn)
		holds = unseen && learned
		_, n := slot(at, &Rule{slot: r.Timespan})
		window = c.Row.Value + "/" + n
		if err := note(item, at, keep); err != nil {
			return nil, err
		}
	case Dormant:
		if subject != nil && subject.Last <= at.Add(-r.Timespan) {
			holds, value = true, at.Sub(subject.Last).Hours()
			window = "since/" + strconv.FormatInt(int64(subject.Last), 10)
		}
		// Who slept for long is remembered for longer.
		keep = at.Add(maxDormancy)
	case Rate:
		if holds, value, err = a.rate(l, c, subject); err != nil {
			return nil, err
		}
		start, window = slot(at, &Rule{slot: r.Timespan})
		window = "rate/" + window
	}
	if err := note(known, at, keep); err != nil {
		return nil, err
	}
	if a.Tell != nil {
		j := Judged{Rule: r, Event: c.Row.Event, Group: c.body.Group, Fired: holds, Have: 1}
		a.Tell(j)
	}
	if !holds || len(c.body.Accused) == 0 && len(c.body.Then) == 0 {
		return nil, nil
	}
	p := c.body
	f := Firing{
		Rule: r, Accused: p.Accused, Group: p.Group, Series: series, Window: window, Time: start, Event: c.Row.Event, At: at,
		Events: []string{c.Row.Event}, Count: 1, Value: value, Source: p.Source, Realm: p.Realm, Refs: p.Refs, Ceiling: p.Ceiling,
		Hidden: r.hidden, body: p,
	}
	f.tell(slices.Clone(p.origins()))
	return []Firing{f}, nil
}

// maxDormancy is how long a subject's last activity is remembered.
const maxDormancy = 2 * MaxTimespan

func (a *Applier) sighting(l Ledger, series, item string) (*store.Sighting, error) {
	list, err := l.Sightings(series, item, item, 1)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &list[0], nil
}

// rate counts the contribution in its timespan and compares with the timespans
// before. Those that late records could still add to are left out.
func (a *Applier) rate(l Ledger, c Contribution, subject *store.Sighting) (bool, float64, error) {
	r := c.Rule
	span := r.Timespan.Microseconds()
	bucket := int64(c.Row.At) / span
	name := func(b int64) string { return "#" + fmt.Sprintf("%020d", max(b, 0)) }
	err := l.AddSighting(store.Sighting{
		Series: c.Row.Series, Item: name(bucket), First: c.Row.At, Last: c.Row.At, Count: 1,
		Until: c.Row.At.Add(r.Baseline + r.Timespan + 2*a.Set.lateness),
	})
	if err != nil {
		return false, 0, err
	}
	last := bucket - 1 - int64(math.Ceil(float64(a.Set.lateness.Microseconds())/float64(span)))
	first := max(last-int64(r.Baseline/r.Timespan)+1, 0)
	if subject == nil || subject.First > c.Row.At.Add(-max(r.Learn, r.Timespan)) {
		return false, 0, nil // it has no habits yet
	}
	first = max(first, int64(subject.First)/span)
	if last < first {
		return false, 0, nil
	}
	rows, err := l.Sightings(c.Row.Series, name(first), name(bucket), maxBuckets+1000)
	if err != nil {
		return false, 0, err
	}
	now, sum := int64(0), int64(0)
	for _, s := range rows {
		switch {
		case s.Item == name(bucket):
			now = s.Count
		case s.Item <= name(last):
			sum += s.Count
		}
	}
	usual := float64(sum) / float64(last-first+1)
	for _, cond := range r.conds {
		if !cond.holds(float64(now)) {
			return false, float64(now), nil
		}
	}
	return float64(now) >= r.Factor*usual, float64(now), nil
}

// Sentence says in words what was seen.
func (f Firing) Sentence() string {
	r := f.Rule
	events := fmt.Sprintf("%d events", f.Count)
	if f.Count == 1 {
		events = "1 event"
	}
	if !types[r.Type].state {
		events += " within " + r.Timespan.String()
	}
	switch r.Type {
	case ValueCount, SessionReuse, ValueSum, ValueAvg, ValuePercentile, ValueMedian:
		events += fmt.Sprintf(", %s of %s is %s", strings.TrimPrefix(string(r.Type), "value_"), strings.Join(r.Fields, ", "), strconv.FormatFloat(f.Value, 'g', 6, 64))
	case ImpossibleTravel:
		events += fmt.Sprintf(", at %.0f km/h", f.Value)
	case FirstSeen:
		events += ", " + strings.Join(r.Fields, ", ") + " not seen before"
	case Dormant:
		events += fmt.Sprintf(", after %.0f hours without", f.Value)
	case Rate:
		events += fmt.Sprintf(", %.0f in %s", f.Value, r.Timespan)
	}
	for i, g := range r.GroupBy {
		if i < len(f.Group) {
			events += fmt.Sprintf(", %s %s", g, f.Group[i])
		}
	}
	return events
}
