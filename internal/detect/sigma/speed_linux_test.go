package sigma

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/test/generated"
)

var (
	speed       = flag.Bool("speed", false, "measure the speed of detection, for make bench-detect")
	speedRounds = flag.Int("rounds", 15, "with -speed: rounds, of which the median counts")
	speedOnly   = flag.String("speed-only", "", "with -speed: the one row to measure")
)

// threadTime is the processor time that this thread has used. Other work on
// the machine makes it grow less than the time that passes.
func threadTime(t testing.TB) time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// contender is a row of the table.
type contender struct {
	name  string
	build time.Duration
	train time.Duration
	heap  int64
	run   func(rec []byte) int
	hits  int
	costs []float64 // ns a record, per round
}

func (c *contender) cost() float64 {
	s := slices.Sorted(slices.Values(c.costs))
	return s[len(s)/2]
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // what the first one made unreachable through finalizers and pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSpeed measures decoding and matching on one core, all rows in turn in
// each round, in processor time. The index is trained on other traffic than is
// measured. It only reports: nothing fails by time.
func TestSpeed(t *testing.T) {
	if !*speed {
		t.Skip("measures only with -speed (make bench-detect)")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	training, measured := generated.Traffic(500, 1), generated.Traffic(500, 2)
	kind := "generated"
	if os.Getenv("STAUNCH_CORPUS") != "" {
		training = corpusEvents(t, "stratus", "detonations.ndjson")
		measured = corpusEvents(t, "panther", "rule_tests", "AWS.CloudTrail.ndjson")
		kind = "corpus"
	}
	var traffic Traffic
	doc := jsondoc.New(jsondoc.Limits{})
	size := 0
	for _, r := range training {
		if err := doc.Parse(r); err != nil {
			t.Fatal(err)
		}
		traffic.Observe(doc)
	}
	measured = slices.DeleteFunc(measured, func(r []byte) bool { return doc.Parse(r) != nil })
	for _, r := range measured {
		size += len(r)
	}

	rows := []*contender{
		{name: "parse only", run: func(rec []byte) int {
			if err := doc.Parse(rec); err != nil {
				t.Fatal(err)
			}
			return 0
		}},
		{name: "json.Unmarshal", run: func(rec []byte) int {
			var m map[string]any
			if err := json.Unmarshal(rec, &m); err != nil {
				t.Fatal(err)
			}
			return 0
		}},
	}
	row := func(name string, ls Logsource, load func() []*Rule) {
		if *speedOnly != "" && *speedOnly != name {
			return
		}
		before := heapInUse()
		rules := load()
		start := threadTime(t)
		set := compile(t, rules...)
		build := threadTime(t) - start
		var trained time.Duration
		if !strings.HasSuffix(name, "not trained") {
			start = threadTime(t)
			set = set.Train(&traffic)
			trained = threadTime(t) - start
		}
		c := &contender{name: name, build: build, train: trained, heap: int64(heapInUse()) - int64(before)}
		var sc Scratch
		var dst []int
		c.run = func(rec []byte) int {
			if err := doc.Parse(rec); err != nil {
				t.Fatal(err)
			}
			dst = set.Match(doc, ls, &sc, dst[:0])
			return len(dst)
		}
		rows = append(rows, c)
	}
	if kind == "corpus" {
		all := corpusRules(t, "")
		row("57 SigmaHQ aws", trailSource, func() []*Rule { return corpusRules(t, "aws")[:57] })
		row("225 SigmaHQ, no routing", everything, func() []*Rule { return all[:225] })
		row(fmt.Sprintf("%d SigmaHQ, all", len(all)), trailSource, func() []*Rule { return corpusRules(t, "") })
		row(fmt.Sprintf("%d SigmaHQ, no routing", len(all)), everything, func() []*Rule { return corpusRules(t, "") })
	} else {
		row("57 generated", trailSource, func() []*Rule { return generatedRules(t, 57) })
		row("225 generated", trailSource, func() []*Rule { return generatedRules(t, 225) })
	}
	row("500 generated", trailSource, func() []*Rule { return generatedRules(t, 500) })
	row("3000 generated", trailSource, func() []*Rule { return generatedRules(t, 3000) })
	row("3000 generated, not trained", trailSource, func() []*Rule { return generatedRules(t, 3000) })

	for round := range *speedRounds + 1 {
		for _, c := range rows {
			c.hits = 0
			n := 0
			start := threadTime(t)
			for threadTime(t)-start < 20*time.Millisecond {
				for _, rec := range measured {
					h := c.run(rec)
					if n == 0 {
						c.hits += h
					}
				}
				n++
			}
			if cost := float64(threadTime(t)-start) / float64(n*len(measured)); round > 0 { // the first one warms up
				c.costs = append(c.costs, cost)
			}
		}
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	floor, whole := rows[0].cost(), rows[1].cost()
	_, _ = fmt.Fprintf(out, "%s records: %d of %d bytes in the mean; trained on %d others\n", kind, len(measured), size/len(measured), traffic.Len())
	_, _ = fmt.Fprintln(out, "\tevents/s/core\tns/event\t× parse\t÷ Unmarshal\tallocs\tmatches\tcompiled\ttrained\theap\t")
	for _, c := range rows {
		i := 0
		allocs := testing.AllocsPerRun(len(measured), func() { c.run(measured[i%len(measured)]); i++ })
		_, _ = fmt.Fprintf(out, "%s\t%.0f\t%.0f\t%.2f\t%.3f\t%.0f\t%d\t%v\t%v\t%.1f MiB\t\n", c.name, 1e9/c.cost(), c.cost(), c.cost()/floor, c.cost()/whole, allocs, c.hits, c.build.Round(time.Millisecond/10), c.train.Round(time.Millisecond/10), float64(c.heap)/(1<<20))
	}
	_ = out.Flush()
}
