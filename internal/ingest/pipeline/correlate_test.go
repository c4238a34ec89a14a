package pipeline_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

const lows = `
title: Many lows
id: many
level: high
tags: [attack.t1110, owasp-nhi.nhi4]
correlation:
  type: event_count
  rules: [low]
  group-by: [staunch.account]
  timespan: 10m
  condition: {gte: 3}
`

const chain = `
title: Lows, then a medium
id: chain
level: critical
correlation:
  type: temporal_ordered
  rules: [many, medium]
  group-by: [user]
  timespan: 1h
`

const few = `
title: Hardly any
id: few
level: low
correlation:
  type: event_count
  rules: [other]
  group-by: [staunch.account]
  timespan: 10m
  condition: {lte: 1}
`

// correlated puts rules with correlations in the rig's bundle.
func correlated(t testing.TB, hash string, docs ...string) *pipeline.Bundle {
	t.Helper()
	var rd correlate.Reader
	rules, errs := sigma.Load(fstest.MapFS{"rules.yml": {Data: []byte(testRules + "---" + strings.Join(docs, "---"))}}, sigma.Options{Correlation: rd.Read})
	set, err := sigma.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	cs, more := rd.Compile(set, correlate.Options{Lateness: time.Hour})
	if errs = append(errs, more...); len(errs) > 0 {
		t.Fatal(errs[0])
	}
	return &pipeline.Bundle{Hash: hash, Rules: set, Correlations: cs, Policy: defaultPolicy(t)}
}

// exclusive says, as SQLite does, that nobody else writes.
type exclusive struct{ *faulty }

func (exclusive) Exclusive() bool { return true }

func alone(r *rig, _ *decide.Limits) { r.opt.Store = exclusive{r.store} }

func rulesOf(signals []staunch.Signal) []string {
	var out []string
	for _, s := range signals {
		out = append(out, s.Rule)
	}
	slices.Sort(out)
	return out
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

// TestCorrelation counts over batches, redelivery, faults and restarts; the base
// makes no signals of its own.
func TestCorrelation(t *testing.T) {
	for name, options := range map[string][]option{"counting in memory": {alone}, "reading each time": nil} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, options...)
			r.pipe.SetBundle(correlated(t, "sha256:corr", lows))
			one, two, three := r.rec("1", "low", "mallory"), r.rec("2", "low", "mallory"), r.rec("3", "low", "mallory")
			r.ingest(one, r.rec("9", "low", "alice"))
			r.ingest(two, one)
			same(t, "signals of two", rulesOf(r.signals()), []string{})

			// A new process knows no windows.
			restarted, err := pipeline.New(r.opt, correlated(t, "sha256:corr", lows))
			if err != nil {
				t.Fatal(err)
			}
			r.pipe = restarted
			r.store.mu.Lock()
			r.store.inside = errFault
			r.store.mu.Unlock()
			if _, err := r.pipe.Ingest(context.Background(), r.src, strings.NewReader(three), ""); err == nil {
				t.Fatal("the fault did not show")
			}
			same(t, "signals of a failed commit", rulesOf(r.signals()), []string{})
			rep := r.ingest(three)
			if rep.Signals != 1 || rep.Decisions != 1 || rep.Matched != 1 {
				t.Errorf("the report is %+v", rep)
			}
			got := r.signals()
			same(t, "signals of three", rulesOf(got), []string{"many"})
			s := got[0]
			if s.Accused != account("mallory") || s.Confidence != 0.75 || len(s.Events) != 3 || s.Event == "" || s.Techniques[0] != "T1110" || s.Frameworks[0] != "owasp-nhi.nhi4" || s.Bundle != "sha256:corr" {
				t.Errorf("the signal is %+v", s)
			}
			for _, e := range s.Events {
				if !strings.Contains(s.Evidence, e) {
					t.Errorf("the evidence %q does not name %s", s.Evidence, e)
				}
				r.event(e)
			}
			before := r.state()
			r.ingest(three, two, one)
			if r.state() != before {
				t.Error("delivering all again changed something")
			}
		})
	}
}

func TestCorrelationSurvivesReload(t *testing.T) {
	r := newRig(t, alone)
	r.pipe.SetBundle(correlated(t, "sha256:first", lows))
	r.ingest(r.rec("1", "low", "mallory"), r.rec("2", "low", "mallory"))
	r.clock.add(time.Second)
	// Another threshold and another correlation: the window stays.
	r.pipe.SetBundle(correlated(t, "sha256:second", strings.Replace(lows, "gte: 3", "gt: 2", 1), chain))
	r.ingest(r.rec("3", "low", "mallory"), r.rec("4", "medium", "mallory"))
	same(t, "signals", rulesOf(r.signals()), []string{"chain"}) // many is hidden now
}

func TestCorrelationOfDenials(t *testing.T) {
	r := newRig(t)
	r.pipe.SetBundle(correlated(t, "sha256:corr", lows))
	r.ingest(r.rec("0", "critical", "mallory"))
	if len(r.cases()) != 1 {
		t.Fatalf("cases: %+v", r.cases())
	}
	r.clock.add(time.Second)
	r.ingest(r.rec("1", "low", "mallory", "denied", "true"), r.rec("2", "low", "mallory", "denied", "true"), r.rec("3", "low", "mallory", "denied", "true"))
	same(t, "signals of a contained subject's denials", rulesOf(r.signals()), []string{"critical"})
}

func TestSettle(t *testing.T) {
	r := newRig(t)
	r.pipe.SetBundle(correlated(t, "sha256:corr", few))
	r.ingest(r.rec("1", "other", "mallory"))
	at := r.clock.Now()
	settle := func() {
		t.Helper()
		if err := r.pipe.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	same(t, "signals before it has settled", rulesOf(r.signals()), []string{})
	// One comes late, and makes it two.
	r.clock.add(30 * time.Minute)
	r.ingest(r.rec("2", "other", "mallory", "time", at.Add(-time.Minute).Format(time.RFC3339Nano)), r.rec("3", "other", "alice"))
	r.clock.add(time.Hour)
	settle()
	settle()
	got := r.signals()
	// The earlier one of mallory's stood alone in its window, the later did not.
	same(t, "signals", rulesOf(got), []string{"few", "few"})
	for _, s := range got {
		if s.Accused == account("mallory") && len(s.Events) != 1 {
			t.Errorf("mallory's window has %v", s.Events)
		}
	}
	// What is over is pruned.
	r.clock.add(24 * time.Hour)
	for n := -1; n != 0; {
		r.update(func(tx store.Tx) (err error) {
			n, err = pipeline.Prune(tx, staunch.TimeOf(r.clock.Now()))
			return err
		})
	}
	r.update(func(tx store.Tx) error {
		n, err := tx.PruneCorrelations(1<<62, 1000)
		if n != 0 {
			t.Errorf("%d rows were left", n)
		}
		return err
	})
}

// TestNodesCountOnce has two nodes on one database: a window has what both saw.
func TestNodesCountOnce(t *testing.T) {
	dsn := pgtest.NewDatabase(t)
	node := func(name string) *rig {
		return newRig(t, func(r *rig, _ *decide.Limits) {
			if err := r.store.Close(); err != nil {
				t.Fatal(err)
			}
			st, err := sqlstore.OpenPostgres(context.Background(), staunch.NewSecret(dsn), sqlstore.Options{Chain: storetest.Chain{}, Node: name})
			if err != nil {
				t.Fatal(err)
			}
			r.store = &faulty{Store: st}
			r.opt.Store = r.store
		})
	}
	a, b := node("a"), node("b")
	for _, n := range []*rig{a, b} {
		n.pipe.SetBundle(correlated(t, "sha256:corr", lows))
	}
	one, two := a.rec("1", "low", "mallory"), a.rec("2", "low", "mallory")
	a.ingest(one)
	b.ingest(one, two)
	a.ingest(two)
	same(t, "signals of two", rulesOf(a.signals()), []string{})
	done := make(chan pipeline.Report)
	for _, n := range []*rig{a, b} {
		go func() {
			rep, err := n.pipe.Ingest(context.Background(), n.src, strings.NewReader(n.rec("3", "low", "mallory")), "")
			if err != nil {
				t.Error(err)
			}
			done <- rep
		}()
	}
	x, y := <-done, <-done
	if x.Signals+y.Signals != 1 {
		t.Errorf("the nodes made %d and %d signals", x.Signals, y.Signals)
	}
	same(t, "signals of three", rulesOf(b.signals()), []string{"many"})
}

// BenchmarkCorrelate is what a window costs in the transaction: batches of a
// thousand events that match one rule which accuses nobody, by a hundred
// accounts, with and without a correlation over it.
func BenchmarkCorrelate(b *testing.B) {
	const quiet = `
title: Quiet
id: quiet
confidence: 0
logsource: {product: fake}
detection: {s: {op: quiet}, condition: s}
`
	over := strings.NewReplacer("[low]", "[quiet]", "gte: 3", "gte: 10000").Replace(lows)
	for _, c := range []struct {
		name string
		docs []string
	}{
		{"without", []string{quiet}},
		{"with", []string{quiet, over}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, alone)
			r.pipe.SetBundle(correlated(b, "sha256:bench", c.docs...))
			n := 0
			for b.Loop() {
				b.StopTimer()
				var lines []string
				for range 1000 {
					n++
					lines = append(lines, r.rec(fmt.Sprint(n), "quiet", fmt.Sprintf("user%d", n%100)))
				}
				r.clock.add(time.Second)
				b.StartTimer()
				r.ingest(lines...)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/event")
		})
	}
}
