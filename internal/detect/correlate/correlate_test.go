package correlate_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/store"
)

const bases = `
title: a
id: rule-a
name: a
logsource: {product: x}
detection: {s: {op: a}, condition: s}
---
title: b
id: rule-b
name: b
logsource: {product: x}
detection: {s: {op: b}, condition: s}
---
title: c
id: rule-c
name: c
logsource: {product: x}
detection: {s: {op: c}, condition: s}
---
`

const lateness = time.Hour

// compile loads the bases and the documents.
func compile(t testing.TB, docs string, opt correlate.Options) (*sigma.Set, *correlate.Set, []*sigma.RuleError) {
	t.Helper()
	if opt.Lateness == 0 {
		opt.Lateness = lateness
	}
	var rd correlate.Reader
	rules, errs := sigma.Load(fstest.MapFS{"rules.yml": {Data: []byte(bases + docs)}}, sigma.Options{Correlation: rd.Read})
	set, err := sigma.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	s, more := rd.Compile(set, opt)
	return set, s, append(errs, more...)
}

func sound(t testing.TB, docs string, opt correlate.Options) (*sigma.Set, *correlate.Set) {
	t.Helper()
	set, s, errs := compile(t, docs, opt)
	if len(errs) > 0 {
		t.Fatalf("refused: %v", errs)
	}
	return set, s
}

// ev is a record: its second, operation, user and further fields.
type ev struct {
	at   int
	op   string
	user string
	more map[string]any
}

type rig struct {
	t     testing.TB
	rules *sigma.Set
	set   *correlate.Set
	app   *correlate.Applier
	book  correlate.Ledger
	out   map[string]correlate.Firing // by signal id
}

func newRig(t testing.TB, rules *sigma.Set, set *correlate.Set) *rig {
	return &rig{t: t, rules: rules, set: set, app: &correlate.Applier{Set: set, Memory: correlate.NewMemory(0)}, book: correlate.NewBook(), out: map[string]correlate.Firing{}}
}

var start = staunch.TimeOf(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func (r *rig) contributions(e ev) []correlate.Contribution {
	r.t.Helper()
	m := map[string]any{"op": e.op, "user": e.user}
	for k, v := range e.more {
		m[k] = v
	}
	raw, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	doc := jsondoc.New(jsondoc.Limits{})
	if err := doc.Parse(raw); err != nil {
		r.t.Fatal(err)
	}
	str := func(k string) string { s, _ := m[k].(string); return s }
	var actor []staunch.Ref
	for _, a := range []staunch.Ref{
		{Kind: staunch.KindSession, Realm: "r", Scheme: "id", Value: str("session")},
		{Kind: staunch.KindCredential, Realm: "r", Scheme: "key", Value: str("key")},
		{Kind: staunch.KindAccount, Realm: "r", Scheme: "name", Value: e.user},
	} {
		if a.Value != "" {
			actor = append(actor, a)
		}
	}
	at := start + staunch.Time(e.at)*1e6
	standing := staunch.StandingCurrent
	if s := str("standing"); s != "" {
		standing = staunch.Standing(s)
	}
	x := &correlate.Event{
		Event: staunch.Event{
			ID: staunch.EventID("s", "", string(raw)+fmt.Sprint(e.at), at), Source: "s", Realm: "r", Time: at, Standing: standing,
			Actor: actor, SourceIP: str("ip"), Operation: e.op,
		},
		Doc: doc, Ceiling: staunch.TierRevoke,
		Accuse: func(_ *correlate.Rule, k staunch.Kind) []staunch.Ref {
			for _, a := range actor {
				if k == "" || a.Kind == k {
					return []staunch.Ref{a}
				}
			}
			return nil
		},
	}
	if k := str("issued"); k != "" {
		x.Facts = []staunch.Fact{{Type: staunch.FactCredentialIssued, Subject: staunch.Ref{Kind: staunch.KindCredential, Realm: "r", Scheme: "key", Value: k}}}
	}
	if k := str("reported"); k != "" {
		x.Targets = []staunch.Ref{{Kind: staunch.KindCredential, Realm: "r", Scheme: "key", Value: k}}
	}
	return r.set.Contribute(x, r.rules.Match(doc, sigma.Logsource{Product: "x"}, nil, nil))
}

func (r *rig) add(events ...ev) *rig {
	r.t.Helper()
	var cs []correlate.Contribution
	for _, e := range events {
		cs = append(cs, r.contributions(e)...)
	}
	fired, err := r.app.Apply(r.book, cs)
	if err != nil {
		r.t.Fatal(err)
	}
	r.note(fired)
	return r
}

func (r *rig) note(fired []correlate.Firing) {
	for _, f := range fired {
		if f.Hidden {
			continue
		}
		for _, ref := range f.Accused {
			id := staunch.CorrelationSignalID(f.Rule.ID, ref, f.Series, f.Window)
			if _, ok := r.out[id]; !ok {
				r.out[id] = f
			}
		}
	}
}

func (r *rig) settle() *rig {
	r.t.Helper()
	fired, _, err := r.app.Settle(r.book, math.MaxInt64, math.MaxInt)
	if err != nil {
		r.t.Fatal(err)
	}
	r.note(fired)
	return r
}

// ids are those of the signals, with what of them must not depend on the order.
func (r *rig) ids() []string {
	var out []string
	for id, f := range r.out {
		out = append(out, id+" "+f.Time.String())
	}
	slices.Sort(out)
	return out
}

// each adds the events one after the other, then lets everything settle.
func (r *rig) each(events []ev) *rig {
	for _, e := range events {
		r.add(e)
	}
	return r.settle()
}

func corr(typ, rest string) string {
	return "title: C\nid: corr\nlevel: high\ncorrelation:\n  type: " + typ + "\n" + rest
}

func times(op, user string, at ...int) []ev {
	var out []ev
	for _, t := range at {
		out = append(out, ev{at: t, op: op, user: user})
	}
	return out
}

func val(at int, user string, v any) ev {
	return ev{at: at, op: "a", user: user, more: map[string]any{"v": v}}
}

const byUser = "  rules: [a]\n  group-by: [user]\n  timespan: 10s\n"

func TestTypes(t *testing.T) {
	day := 86400
	for name, c := range map[string]struct {
		doc    string
		events []ev
		want   int // signals
	}{
		"count, the bound included":        {corr("event_count", byUser+"  condition: {gte: 3}\n"), times("a", "u", 0, 5, 10), 1},
		"count, beyond the bound":          {corr("event_count", byUser+"  condition: {gte: 3}\n"), times("a", "u", 0, 5, 11), 0},
		"count, too few":                   {corr("event_count", byUser+"  condition: {gte: 3}\n"), times("a", "u", 0, 5), 0},
		"count gt":                         {corr("event_count", byUser+"  condition: {gt: 2}\n"), times("a", "u", 0, 5, 6), 1},
		"count, groups apart":              {corr("event_count", byUser+"  condition: {gte: 3}\n"), append(times("a", "u", 0, 1), times("a", "v", 2)...), 0},
		"count, another rule":              {corr("event_count", byUser+"  condition: {gte: 2}\n"), times("b", "u", 0, 1), 0},
		"count, without the group's field": {corr("event_count", "  rules: [a]\n  group-by: [host]\n  timespan: 1m\n  condition: {gte: 1}\n"), times("a", "u", 0), 0},
		"count lt":                         {corr("event_count", byUser+"  condition: {lt: 2}\n"), times("a", "u", 0), 1},
		"count lte, repeated":              {corr("event_count", byUser+"  condition: {lte: 1}\n"), times("a", "u", 0, 0, 0), 1}, // one record thrice is one
		"count eq":                         {corr("event_count", byUser+"  condition: {eq: 2}\n"), times("a", "u", 0, 1), 1},
		"count eq, passed by":              {corr("event_count", byUser+"  condition: {eq: 4}\n"), times("a", "u", 0, 1, 2), 0},
		"count neq":                        {corr("event_count", byUser+"  condition: {neq: 1}\n"), times("a", "u", 0), 0},
		"count in a range":                 {corr("event_count", byUser+"  condition: {gt: 1, lte: 2}\n"), times("a", "u", 0, 1), 1},
		"values":                           {corr("value_count", byUser+"  condition: {field: v, gte: 2}\n"), []ev{val(0, "u", "x"), val(1, "u", "y")}, 1},
		"values, the same":                 {corr("value_count", byUser+"  condition: {field: v, gte: 2}\n"), []ev{val(0, "u", "x"), val(1, "u", "x")}, 0},
		"values of two fields":             {corr("value_count", byUser+"  condition: {field: [v, op], gte: 2}\n"), []ev{val(0, "u", "x"), val(1, "u", "y")}, 1},
		"temporal":                         {corr("temporal", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n"), append(times("b", "u", 0), times("a", "u", 10)...), 1},
		"temporal, one missing":            {corr("temporal", "  rules: [a, b, c]\n  group-by: [user]\n  timespan: 10s\n"), append(times("b", "u", 0), times("a", "u", 9)...), 0},
		"temporal, some are enough":        {corr("temporal", "  rules: [a, b, c]\n  group-by: [user]\n  timespan: 10s\n  condition: {gte: 2}\n"), append(times("b", "u", 0), times("a", "u", 9)...), 1},
		"temporal in words":                {corr("temporal", "  rules: [a, b, c]\n  group-by: [user]\n  timespan: 10s\n  condition: a and (b or c)\n"), append(times("c", "u", 0), times("a", "u", 9)...), 1},
		"temporal with not":                {corr("temporal", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n  condition: a and not b\n"), times("a", "u", 0), 1},
		"temporal with not, and it is":     {corr("temporal", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n  condition: a and not b\n"), append(times("b", "u", 0), times("a", "u", 9)...), 0},
		"ordered":                          {corr("temporal_ordered", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n"), append(times("a", "u", 0), times("b", "u", 10)...), 1},
		"ordered, the wrong way":           {corr("temporal_ordered", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n"), append(times("b", "u", 0), times("a", "u", 10)...), 0},
		"ordered, at one instant":          {corr("temporal_ordered", "  rules: [a, b]\n  group-by: [user]\n  timespan: 10s\n"), append(times("b", "u", 0), times("a", "u", 0)...), 1},
		"sum":                              {corr("value_sum", byUser+"  condition: {field: v, gt: 10}\n"), []ev{val(0, "u", 6), val(1, "u", "5")}, 1},
		"sum, equal is not more":           {corr("value_sum", byUser+"  condition: {field: v, gt: 10}\n"), []ev{val(0, "u", 5), val(1, "u", 5)}, 0},
		"sum, no number":                   {corr("value_sum", byUser+"  condition: {field: v, gt: 10}\n"), []ev{val(0, "u", "many"), val(1, "u", 9)}, 0},
		"average":                          {corr("value_avg", byUser+"  condition: {field: v, gt: 10}\n"), []ev{val(0, "u", 1), val(1, "u", 20)}, 1},
		"average, below":                   {corr("value_avg", byUser+"  condition: {field: v, gt: 11}\n"), []ev{val(0, "u", 1), val(1, "u", 20)}, 0},
		"median":                           {corr("value_median", byUser+"  condition: {field: v, eq: 2}\n"), []ev{val(0, "u", 1), val(1, "u", 2), val(2, "u", 90)}, 1},
		"percentile":                       {corr("value_percentile", byUser+"  condition: {field: v, percentile: 90, gte: 90}\n"), []ev{val(0, "u", 1), val(1, "u", 90)}, 1},
		"share":                            {corr("value_percentile", byUser+"  condition: {field: v, lte: 25}\n"), []ev{val(0, "u", "x"), val(1, "u", "x"), val(2, "u", "x"), val(3, "u", "rare")}, 1},
		"share, common":                    {corr("value_percentile", byUser+"  condition: {field: v, lte: 25}\n"), []ev{val(0, "u", "x"), val(1, "u", "x"), val(2, "u", "y")}, 0},
		"alias": {corr("temporal", "  rules: [a, b]\n  group-by: [who]\n  timespan: 10s\n  aliases: {who: {a: user, b: v}}\n"),
			[]ev{{at: 0, op: "a", user: "u"}, {at: 1, op: "b", user: "w", more: map[string]any{"v": "u"}}}, 1},
		"late":    {corr("event_count", byUser+"  condition: {gte: 2}\n"), []ev{{at: 0, op: "a", user: "u"}, {at: 1, op: "a", user: "u", more: map[string]any{"standing": "late"}}}, 0},
		"undated": {corr("event_count", byUser+"  condition: {gte: 1}\n"), []ev{{at: 1, op: "a", user: "u", more: map[string]any{"standing": "undated"}}}, 0},
		"first seen": {corr("first_seen", "  rules: [a]\n  group-by: [staunch.account]\n  field: staunch.network\n  timespan: 90d\n  learn: 7d\n"),
			[]ev{ip(0, "u", "192.0.2.1"), ip(8*day, "u", "192.0.2.9"), ip(8*day+1, "u", "198.51.100.7"), ip(8*day+2, "u", "198.51.100.8")}, 1},
		"first seen, still learning": {corr("first_seen", "  rules: [a]\n  group-by: [staunch.account]\n  field: staunch.network\n  timespan: 90d\n  learn: 7d\n"),
			[]ev{ip(0, "u", "192.0.2.1"), ip(6*day, "u", "198.51.100.7")}, 0},
		"first seen, forgotten": {corr("first_seen", "  rules: [a]\n  group-by: [staunch.account]\n  field: staunch.network\n  timespan: 30d\n  learn: 1d\n"),
			[]ev{ip(0, "u", "192.0.2.1"), ip(40*day, "u", "192.0.2.1")}, 1},
		"dormant":       {corr("dormant", "  rules: [a]\n  group-by: [staunch.account]\n  timespan: 30d\n"), times("a", "u", 0, 30*day, 30*day+1), 1},
		"not dormant":   {corr("dormant", "  rules: [a]\n  group-by: [staunch.account]\n  timespan: 30d\n"), times("a", "u", 0, 30*day-1, 40*day), 0},
		"session reuse": {corr("session_reuse", "  rules: [a]\n  timespan: 1h\n"), []ev{ses(0, "s1", "192.0.2.1"), ses(60, "s1", "198.51.100.1")}, 1},
		"session in its own network": {corr("session_reuse", "  rules: [a]\n  timespan: 1h\n"),
			[]ev{ses(0, "s1", "192.0.2.1"), ses(60, "s1", "192.0.2.200"), ses(61, "s2", "198.51.100.1")}, 0},
		"used after its report": {corr("use_after_report", "  rules: [b, a]\n  timespan: 30d\n"),
			[]ev{{at: 0, op: "b", more: map[string]any{"reported": "K1"}}, {at: 20 * day, op: "a", more: map[string]any{"key": "K1"}}}, 1},
		"used before its report": {corr("use_after_report", "  rules: [b, a]\n  timespan: 30d\n"),
			[]ev{{at: 10, op: "b", more: map[string]any{"reported": "K1"}}, {at: 5, op: "a", more: map[string]any{"key": "K1"}}, {at: 20, op: "a", more: map[string]any{"key": "K2"}}}, 0},
		"minted, used elsewhere": {corr("minted_elsewhere", "  rules: [b, a]\n  timespan: 1h\n"),
			[]ev{{at: 0, op: "b", user: "u", more: map[string]any{"issued": "K1", "ip": "192.0.2.1"}}, {at: 60, op: "a", more: map[string]any{"key": "K1", "ip": "198.51.100.1"}}}, 1},
		"minted, used where it was": {corr("minted_elsewhere", "  rules: [b, a]\n  timespan: 1h\n"),
			[]ev{{at: 0, op: "b", user: "u", more: map[string]any{"issued": "K1", "ip": "192.0.2.1"}}, {at: 60, op: "a", more: map[string]any{"key": "K1", "ip": "192.0.2.2"}}}, 0},
		"honeytoken":     {corr("honeytoken", "  rules: [a]\n  timespan: 1m\n  values: [K9]\n"), []ev{{at: 0, op: "a", more: map[string]any{"key": "K9"}}}, 1},
		"not honeytoken": {corr("honeytoken", "  rules: [a]\n  timespan: 1m\n  values: [K9]\n"), []ev{{at: 0, op: "a", more: map[string]any{"key": "K8"}}}, 0},
		"rate":           {corr("rate", "  rules: [a]\n  group-by: [user]\n  timespan: 1h\n  baseline: 1d\n  factor: 5\n  condition: {gte: 10}\n"), append(habit(day), times("a", "u", seconds(day+10, 12)...)...), 1},
		"rate as usual":  {corr("rate", "  rules: [a]\n  group-by: [user]\n  timespan: 1h\n  baseline: 1d\n  factor: 5\n  condition: {gte: 3}\n"), append(habit(day), times("a", "u", seconds(day+10, 4)...)...), 0},
		"rate of a stranger": {corr("rate", "  rules: [a]\n  group-by: [user]\n  timespan: 1h\n  baseline: 1d\n  factor: 5\n  condition: {gte: 3}\n"),
			times("a", "u", seconds(0, 50)...), 0},
		"chain": {"title: I\nid: inner\nname: inner\ncorrelation:\n" + "  type: event_count\n" + byUser + "  condition: {gte: 2}\n---\n" +
			corr("temporal_ordered", "  rules: [inner, b]\n  group-by: [user]\n  timespan: 20s\n"),
			append(times("a", "u", 0, 5), times("b", "u", 25)...), 1},
		"chain, not in order": {"title: I\nid: inner\nname: inner\ncorrelation:\n" + "  type: event_count\n" + byUser + "  condition: {gte: 2}\n---\n" +
			corr("temporal_ordered", "  rules: [inner, b]\n  group-by: [user]\n  timespan: 20s\n"),
			append(times("a", "u", 0), append(times("b", "u", 2), times("a", "u", 5)...)...), 0},
	} {
		t.Run(name, func(t *testing.T) {
			rules, set := sound(t, c.doc, correlate.Options{})
			got := newRig(t, rules, set).each(c.events)
			if len(got.out) != c.want {
				t.Errorf("%d signals, want %d: %v", len(got.out), c.want, got.out)
			}
			// All at once, and from the end to the beginning, is no different.
			if once := newRig(t, rules, set).add(c.events...).settle(); !slices.Equal(once.ids(), got.ids()) {
				t.Errorf("all at once: %v, one by one: %v", once.ids(), got.ids())
			}
		})
	}
}

func ip(at int, user, addr string) ev {
	return ev{at: at, op: "a", user: user, more: map[string]any{"ip": addr}}
}

func ses(at int, session, addr string) ev {
	return ev{at: at, op: "a", user: "u", more: map[string]any{"ip": addr, "session": session}}
}

// habit is one event an hour of a day.
func habit(day int) []ev {
	var out []ev
	for h := 0; h < day; h += 3600 {
		out = append(out, times("a", "u", h)...)
	}
	return out
}

func seconds(from, n int) []int {
	var out []int
	for i := range n {
		out = append(out, from+i)
	}
	return out
}

// TestHidden: what a correlation refers to has no signals of its own, unless one
// says generate, also where the correlation itself was refused.
func TestHidden(t *testing.T) {
	for name, c := range map[string]struct {
		docs   string
		hidden []bool // a, b, c
		errs   int
	}{
		"hidden":             {corr("event_count", byUser+"  condition: {gte: 3}\n"), []bool{true, false, false}, 0},
		"generate":           {corr("event_count", byUser+"  generate: true\n  condition: {gte: 3}\n"), []bool{false, false, false}, 0},
		"generate at top":    {"generate: true\n" + corr("event_count", byUser+"  condition: {gte: 3}\n"), []bool{false, false, false}, 0},
		"one generates":      {corr("event_count", byUser+"  condition: {gte: 3}\n") + "---\ntitle: D\nid: d\ncorrelation:\n  type: event_count\n  generate: true\n" + byUser + "  condition: {gte: 9}\n", []bool{false, false, false}, 0},
		"refused by itself":  {corr("event_count", byUser+"  condition: {many: 3}\n"), []bool{true, false, false}, 1},
		"refused for others": {corr("temporal", "  rules: [a, nobody]\n  group-by: [user]\n  timespan: 10s\n"), []bool{true, false, false}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			rules, set, errs := compile(t, c.docs, correlate.Options{})
			if len(errs) != c.errs {
				t.Errorf("errors: %v", errs)
			}
			for i, want := range c.hidden {
				if got := set.Hidden(i); got != want {
					t.Errorf("rule %s hidden: %v", rules.Rules()[i].ID, got)
				}
			}
		})
	}
}

// TestRefused: each mistake is named with its line. The bases have 21 lines.
func TestRefused(t *testing.T) {
	first := strings.Count(bases, "\n")
	for name, c := range map[string]struct {
		docs string
		line int // from the first line after the bases
		want string
	}{
		"no type":          {"title: C\ncorrelation:\n  rules: [a]\n  timespan: 1m\n", 2, "no type"},
		"wrong type":       {corr("evnt_count", byUser), 5, "must be one of"},
		"no rules":         {corr("event_count", "  timespan: 1m\n  condition: {gte: 1}\n"), 4, "names no rules"},
		"unknown rule":     {corr("event_count", "  rules:\n    - a\n    - nobody\n  timespan: 1m\n  condition: {gte: 1}\n"), 8, `"nobody"`},
		"no timespan":      {corr("event_count", "  rules: [a]\n  condition: {gte: 1}\n"), 4, "timespan"},
		"bad timespan":     {corr("event_count", "  rules: [a]\n  timespan: 1w\n  condition: {gte: 1}\n"), 7, "such as 15m"},
		"no condition":     {corr("event_count", byUser), 4, "needs condition"},
		"no field":         {corr("value_sum", byUser+"  condition: {gte: 3}\n"), 4, "needs field"},
		"unknown key":      {corr("event_count", byUser+"  condition: {gte: 3}\n  grupby: x\n"), 10, "grupby"},
		"unknown operator": {corr("event_count", byUser+"  condition: {ge: 3}\n"), 9, `"ge"`},
		"no number":        {corr("event_count", byUser+"  condition: {gte: many}\n"), 9, "must be a number"},
		"too many":         {corr("event_count", byUser+"  condition: {gte: 10001}\n"), 9, "at most 10000"},
		"own name":         {corr("event_count", "  rules: [a]\n  group-by: [staunch.acount]\n  timespan: 1m\n  condition: {gte: 3}\n"), 7, "staunch.account"},
		"alias of nobody":  {corr("event_count", byUser+"  condition: {gte: 3}\n  aliases: {x: {zz: y}}\n"), 10, `"zz"`},
		"words of nobody":  {corr("temporal", "  rules: [a, b]\n  timespan: 1m\n  condition: a and zz\n"), 8, `the condition names "zz"`},
		"more than all":    {corr("temporal", "  rules: [a, b]\n  timespan: 1m\n  condition: {gte: 3}\n"), 8, "wants gte 3 rules, but the correlation names 2"},
		"above all":        {corr("temporal_ordered", "  rules: [a, b]\n  timespan: 1m\n  condition: {gt: 2}\n"), 8, "wants gt 2 rules"},
		"words, half":      {corr("temporal", "  rules: [a, b]\n  timespan: 1m\n  condition: a and (b\n"), 8, "missing"},
		"no places":        {corr("impossible_travel", "  rules: [a]\n  timespan: 1d\n"), 1, "mmdb"},
		"same id":          {"title: C\nid: rule-a\ncorrelation:\n  type: event_count\n" + byUser + "  condition: {gte: 3}\n", 1, "taken by the rule at rules.yml"},
		"logsource":        {"logsource: {product: x}\n" + corr("event_count", byUser+"  condition: {gte: 3}\n"), 1, "no logsource"},
		"one rule short":   {corr("minted_elsewhere", "  rules: [a]\n  timespan: 1m\n"), 6, "at least 2 rules"},
		"circle": {"title: X\nid: x\ncorrelation:\n  type: event_count\n  rules:\n    - corr\n  timespan: 1m\n  condition: {gte: 2}\n---\n" +
			corr("event_count", "  rules: [x]\n  timespan: 1m\n  condition: {gte: 3}\n"), 15, "in a circle"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, errs := compile(t, c.docs, correlate.Options{})
			if len(errs) == 0 {
				t.Fatal("it is not refused")
			}
			for _, e := range errs {
				if strings.Contains(e.Reason, c.want) {
					if e.Line != first+c.line || e.Path != "rules.yml" {
						t.Errorf("%v: want line %d", e, first+c.line)
					}
					return
				}
			}
			t.Errorf("%v: want %q", errs, c.want)
		})
	}
}

// TestManyWays: what is refused because events reach it by too many ways is not
// looked through for aliases, which would take for ever.
func TestManyWays(t *testing.T) {
	var docs strings.Builder
	inner := "a, b, c"
	for level := range 16 {
		var names []string
		for i := range 8 {
			name := fmt.Sprintf("l%di%d", level, i)
			names = append(names, name)
			fmt.Fprintf(&docs, "title: T\nid: %s\ncorrelation:\n  type: event_count\n  rules: [%s]\n  timespan: 1m\n  condition: {gte: 2}\n  aliases: {x: {zz: y}}\n---\n", name, inner)
		}
		inner = strings.Join(names, ", ")
	}
	_, set, errs := compile(t, docs.String(), correlate.Options{})
	if len(set.Rules()) != 0 || len(errs) < 8*16 {
		t.Errorf("%d can be used, %d errors", len(set.Rules()), len(errs))
	}
	// Without the aliases, the lowest levels can be used.
	_, set, errs = compile(t, strings.ReplaceAll(docs.String(), "  aliases: {x: {zz: y}}\n", ""), correlate.Options{})
	if len(set.Rules()) == 0 || !slices.ContainsFunc(errs, func(e *sigma.RuleError) bool { return strings.Contains(e.Reason, "more than 1000 ways") }) {
		t.Errorf("%d can be used, errors %v", len(set.Rules()), errs)
	}
}

// TestHash: what a refused correlation silences is part of what the set means.
func TestHash(t *testing.T) {
	hash := func(docs string) string {
		_, s, _ := compile(t, docs, correlate.Options{})
		return s.Hash()
	}
	good := corr("event_count", byUser+"  condition: {gte: 3}\n")
	broken := strings.ReplaceAll(strings.Replace(good, "event_count", "evnt_count", 1), "corr\n", "broken\n")
	lost := "title: L\nid: lost\ncorrelation:\n  type: event_count\n  rules: [b, nobody]\n  timespan: 1m\n  condition: {gte: 3}\n"
	if h := hash("title: D\nid: rule-d\nlogsource: {product: x}\ndetection: {s: {op: d}, condition: s}\n"); h != "" {
		t.Errorf("without correlations the hash is %q", h)
	}
	seen := map[string]string{}
	for _, docs := range []string{good, broken, lost, good + "---\n" + lost, good + "---\n" + strings.Replace(lost, "[b,", "[c,", 1)} {
		h := hash(docs)
		if other, dup := seen[h]; dup || h == "" {
			t.Errorf("the hash %q is that of\n%s\nand of\n%s", h, docs, other)
		}
		seen[h] = docs
	}
	// a is silenced by good already.
	if hash(good+"---\n"+broken) != hash(good+"---\n"+strings.ReplaceAll(broken, "evnt", "evnnt")) {
		t.Error("how a correlation is wrong is part of the hash")
	}
}

func TestBases(t *testing.T) {
	_, s := sound(t, corr("event_count", byUser+"  condition: {gte: 3}\n")+"---\ntitle: O\nid: outer\ncorrelation:\n  type: temporal\n  rules: [corr, c]\n  timespan: 1m\n", correlate.Options{})
	got := map[string]string{}
	for _, r := range s.Rules() {
		got[r.ID] = fmt.Sprint(r.Bases(), r.Hidden())
	}
	if got["corr"] != "[0] true" || got["outer"] != "[0 2] false" {
		t.Errorf("bases %v", got)
	}
}

// TestOrderDoesNotMatter: permuting and repeating events leaves the same set of
// signals (invariant I13), also when memory is lost in between.
func TestOrderDoesNotMatter(t *testing.T) {
	docs := strings.Join([]string{
		corr("event_count", byUser+"  condition: {gte: 3}\n"),
		strings.ReplaceAll(corr("event_count", byUser+"  condition: {lt: 2}\n"), "corr\n", "lt\n"),
		strings.ReplaceAll(corr("value_count", byUser+"  condition: {field: v, gte: 2}\n"), "corr\n", "vc\n"),
		strings.ReplaceAll(corr("value_sum", byUser+"  condition: {field: v, gte: 9}\n"), "corr\n", "vs\n"),
		strings.ReplaceAll(corr("value_avg", byUser+"  condition: {field: v, gte: 4}\n"), "corr\n", "va\n"),
		strings.ReplaceAll(corr("value_percentile", byUser+"  condition: {field: v, lte: 30}\n"), "corr\n", "vp\n"),
		strings.ReplaceAll(corr("temporal", "  rules: [a, b, c]\n  group-by: [user]\n  timespan: 20s\n"), "corr\n", "te\n"),
		strings.ReplaceAll(corr("temporal_ordered", "  rules: [a, b, c]\n  group-by: [user]\n  timespan: 30s\n"), "corr\n", "to\n"),
		strings.ReplaceAll(corr("temporal_ordered", "  rules: [corr, b]\n  group-by: [user]\n  timespan: 30s\n"), "corr\n", "ch\n"),
		strings.ReplaceAll(corr("session_reuse", "  rules: [a]\n  timespan: 20s\n"), "corr\n", "sr\n"),
	}, "---\n")
	rules, set := sound(t, docs, correlate.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		var events []ev
		for range rapid.IntRange(1, 25).Draw(rt, "events") {
			events = append(events, ev{
				at: rapid.IntRange(0, 90).Draw(rt, "at"), op: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "op"),
				user: rapid.SampledFrom([]string{"u", "v"}).Draw(rt, "user"),
				more: map[string]any{"v": rapid.IntRange(0, 9).Draw(rt, "v"), "session": "s", "ip": rapid.SampledFrom([]string{"192.0.2.1", "198.51.100.1"}).Draw(rt, "ip")},
			})
		}
		one := newRig(t, rules, set).each(events)
		shuffled := rapid.Permutation(append(events, rapid.SliceOfN(rapid.SampledFrom(events), 0, 8).Draw(rt, "again")...)).Draw(rt, "order")
		two := newRig(t, rules, set)
		for len(shuffled) > 0 {
			n := rapid.IntRange(1, len(shuffled)).Draw(rt, "batch")
			two.add(shuffled[:n]...)
			shuffled = shuffled[n:]
			if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 { // memory is lost, the rows are not
				two.app = &correlate.Applier{Set: set, Memory: correlate.NewMemory(0)}
			}
		}
		two.settle()
		if !slices.Equal(one.ids(), two.ids()) {
			rt.Errorf("in order %v\nbut %v", one.ids(), two.ids())
		}
	})
}

// TestMemory: of a series that it knows, it never counts too little, whatever was
// evicted meanwhile.
func TestMemory(t *testing.T) {
	const span = 10
	rapid.Check(t, func(rt *rapid.T) {
		m := correlate.NewMemory(1)
		rows := map[uint64][]store.Contribution{}
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			// Keys that share a place with many others, so that there is eviction.
			key := rapid.Uint64Range(1, 8).Draw(rt, "key") << 20
			at := rapid.Int64Range(1000, 1080).Draw(rt, "at")
			rows[key] = append(rows[key], store.Contribution{At: staunch.Time(at)})
			n := m.Count(key, at, span)
			most := 0
			for _, end := range rows[key] {
				in := 0
				for _, r := range rows[key] {
					if r.At <= end.At && r.At >= end.At-span {
						in++
					}
				}
				if end.At >= staunch.Time(at) && end.At <= staunch.Time(at)+span {
					most = max(most, in)
				}
			}
			if n < most {
				rt.Fatalf("%d is told, %d there are", n, most)
			}
			if n < 1<<20 {
				continue
			}
			from := m.Since(key, span)
			var read []store.Contribution
			for _, r := range rows[key] {
				if int64(r.At) >= from {
					read = append(read, r)
				}
			}
			m.Know(key, span, read, true)
		}
	})
}

// TestMemoryBound: it holds no more than it was made for, and of a series that was
// evicted nothing is known.
func TestMemoryBound(t *testing.T) {
	m := correlate.NewMemory(1 << 12)
	const first = 7
	if n := m.Count(first, 1000, 10); n < 1<<20 {
		t.Errorf("%d is told of a series that is new", n)
	}
	m.Know(first, 10, nil, true)
	if n := m.Count(first, 1001, 10); n != 2 {
		t.Errorf("%d is told of two", n)
	}
	for i := range uint64(100_000) {
		m.Count((i+1)*0x9e3779b97f4a7c15, int64(1010+i), 10)
	}
	if n := m.Len(); n > 1<<12 || n < 1<<11 {
		t.Errorf("%d series are counted, want at most %d and not much less", n, 1<<12)
	}
	if n := m.Count(first, 1002, 10); n < 1<<20 {
		t.Errorf("%d is told of a series that was evicted", n)
	}
}

func BenchmarkMemory(b *testing.B) {
	const keys = 1 << 20
	m := correlate.NewMemory(2 * keys)
	for i := range uint64(keys) {
		m.Count(i*0x9e3779b97f4a7c15, 1000, 10)
	}
	b.ReportMetric(float64(m.Len()), "keys")
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		m.Count(uint64(i%keys)*0x9e3779b97f4a7c15, int64(1000+i>>20), 10)
	}
}
