package crash_test

import (
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

var (
	runs     = flag.Int("runs", 12, "how many runs to make")
	lanes    = flag.Int("lanes", 4, "how many runs to make at once")
	seedFlag = flag.Uint64("seed", 0, "the seed of what is crashed when; 0 takes one from the clock")
	only     = flag.String("only", "", "crash at points that contain this text alone")
)

// candidate is one pass of a point that a process without crashes makes.
type candidate struct {
	phase phase
	// first, when given, is the crash that comes before, since only who takes
	// over passes the point.
	first string
	at    string
	label string
	// expiring: only a case that runs out passes the point.
	expiring bool
}

// candidates lists the passes of a trace for which keep holds.
func candidates(trace []string, keep func(label string) bool, c candidate) []candidate {
	var out []candidate
	n := map[string]int{}
	for i, l := range labels(trace) {
		n[trace[i]]++
		if keep(l) {
			c.at, c.label = trace[i]+":"+strconv.Itoa(n[trace[i]]), l
			out = append(out, c)
		}
	}
	return out
}

// points returns the names of all points in the source, so that none can be
// added without being crashed at.
func points(tb testing.TB) []string {
	tb.Helper()
	var out []string
	add := func(call *ast.CallExpr) {
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return
		}
		if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "crashpoint" {
			return
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			tb.Fatalf("a crash point's name is not written out")
		}
		name, err := strconv.Unquote(lit.Value)
		if err != nil {
			tb.Fatal(err)
		}
		if sel.Sel.Name == "Here" {
			out = append(out, name)
			return
		}
		for _, k := range []contain.ActionKind{
			contain.DoPlan, contain.DoApply, contain.DoLook, contain.DoSweep, contain.DoProve, contain.DoWindow,
			contain.DoNextStage, contain.DoHold, contain.DoExpire, contain.DoRevert, contain.DoFinish,
		} {
			out = append(out, name+"/"+string(k))
		}
	}
	err := filepath.WalkDir("../../internal", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "crashpoint" {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				add(call)
			}
			return true
		})
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(out) < 30 {
		tb.Fatalf("only %d crash points were found: %v", len(out), out)
	}
	return out
}

// planner deals out crashes: every label in turn, and of a label every pass in
// turn.
type planner struct {
	rng    *rand.Rand
	labels []string
	by     map[string][]candidate
	next   map[string]int
	turn   int
	phases [2]time.Duration
	// postgres: every fourth run keeps staunch's database there.
	postgres bool
}

func newPlanner(rng *rand.Rand, all []candidate, phases [2]time.Duration) *planner {
	p := &planner{rng: rng, by: map[string][]candidate{}, next: map[string]int{}, phases: phases}
	for _, c := range all {
		p.by[c.label] = append(p.by[c.label], c)
	}
	p.labels = slices.Sorted(maps.Keys(p.by))
	rng.Shuffle(len(p.labels), func(i, j int) { p.labels[i], p.labels[j] = p.labels[j], p.labels[i] })
	for _, l := range p.labels {
		rng.Shuffle(len(p.by[l]), func(i, j int) { p.by[l][i], p.by[l][j] = p.by[l][j], p.by[l][i] })
	}
	return p
}

func (p *planner) outside(ph phase) crash {
	return crash{At: "kill:" + time.Duration(p.rng.Int64N(int64(p.phases[ph])+1)).String()}
}

// scenario plans the n-th run.
func (p *planner) scenario(n int) scenario {
	sc := scenario{N: n, Postgres: p.postgres && n%4 == 3, Rotate: p.rng.IntN(2) == 0}
	if n%10 == 9 && *only == "" { // from outside, in both phases, and again in who takes over
		for _, ph := range []phase{containing, releasing} {
			sc.Crashes[ph] = []crash{p.outside(ph), p.outside(ph)}
		}
		return sc
	}
	l := p.labels[p.turn%len(p.labels)]
	p.turn++
	c := p.by[l][p.next[l]%len(p.by[l])]
	p.next[l]++
	sc.Expiring = c.expiring
	if c.first != "" {
		sc.Crashes[c.phase] = append(sc.Crashes[c.phase], crash{At: c.first})
	}
	sc.Crashes[c.phase] = append(sc.Crashes[c.phase], crash{At: c.at})
	// One in three crashes again, soon after it took over.
	if p.rng.IntN(3) == 0 {
		l := p.labels[p.rng.IntN(len(p.labels))]
		if d := p.by[l][p.rng.IntN(len(p.by[l]))]; d.phase == c.phase {
			at, _, _ := strings.Cut(d.at, ":")
			sc.Crashes[c.phase] = append(sc.Crashes[c.phase], crash{At: at + ":" + strconv.Itoa(1+p.rng.IntN(3))})
		}
	}
	return sc
}

// calibrate makes runs without the crashes to be planned and returns what can be
// crashed at.
func calibrate(ctx context.Context, tb testing.TB, h *harness, st platform) ([]candidate, [2]time.Duration) {
	tb.Helper()
	play := func(sc scenario) *verdict {
		v := h.play(ctx, st, sc)
		if !v.ok() {
			tb.Fatalf("a run to calibrate: %s", v)
		}
		return v
	}
	any := func(string) bool { return true }
	clean := play(scenario{N: 9_000_001})
	all := candidates(clean.Traces[containing], any, candidate{phase: containing})
	all = append(all, candidates(clean.Traces[releasing], any, candidate{phase: releasing})...)
	// A look comes after a crash alone.
	const lookFirst = "apply.called:1"
	looked := play(scenario{N: 9_000_002, Crashes: [2][]crash{containing: {{At: lookFirst}}}})
	isLook := func(l string) bool { return strings.Contains(l, "look") }
	for k := range 5 { // of each step's call
		all = append(all, candidates(looked.Traces[containing], isLook, candidate{phase: containing, first: "apply.called:" + strconv.Itoa(k+1)})...)
	}
	expired := play(scenario{N: 9_000_003, Expiring: true})
	all = append(all, candidates(expired.Traces[containing], func(l string) bool { return strings.Contains(l, "expire") }, candidate{phase: containing, expiring: true})...)
	if *only != "" {
		all = slices.DeleteFunc(all, func(c candidate) bool { return !strings.Contains(c.label, *only) })
		if len(all) == 0 {
			tb.Fatalf("no point contains %q", *only)
		}
	}
	return all, clean.Phases
}

// tally is what is known of one label.
type tally struct{ runs, ok int }

func TestKill9(t *testing.T) {
	pgtest.Require(t)
	server := startServer(t)
	sites := make([]platform, *lanes)
	for i := range sites {
		sites[i] = newSite(t, server, i)
	}
	killAll(t, sites, "")
}

// killAll makes the runs, one lane on each site, and reports. never has the points
// that cases on the platform do not pass.
func killAll(t *testing.T, sites []platform, flags string, never ...string) {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	h := &harness{bin: made.Path(t), dir: t.TempDir()}
	all, phases := calibrate(t.Context(), t, h, sites[0])
	p := newPlanner(rand.New(rand.NewPCG(seed, 0)), all, phases)
	_, p.postgres = sites[0].(storer)
	t.Logf("seed %d; %d passes of %d boundaries to crash at; undisturbed, a case is held after %.1f s and released after %.1f s",
		seed, len(all), len(p.labels), phases[containing].Seconds(), phases[releasing].Seconds())

	jobs := make(chan scenario)
	results := make(chan *verdict)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, st := range sites {
		wg.Go(func() {
			for sc := range jobs {
				results <- h.play(ctx, st, sc)
			}
		})
	}
	go func() {
		defer close(results)
		defer wg.Wait()
		defer close(jobs)
		for n := range *runs {
			sc := p.scenario(n)
			select {
			case jobs <- sc:
			case <-ctx.Done():
				return
			}
		}
	}()

	table := map[string]*tally{}
	var done, failed, crashes, missed, postgres, repeats, kills int
	var lost, doubled, unreleased, early, wrong int
	began := time.Now()
	for v := range results {
		done++
		planned := len(v.Crashes[containing]) + len(v.Crashes[releasing])
		crashes += len(v.Hit)
		kills += len(v.Hit) + 2 // the idle kills between the phases and at the end
		if len(v.Hit) == 0 && planned > 0 {
			missed++
		}
		if v.Postgres {
			postgres++
		}
		repeats += v.Repeats
		lost, doubled, unreleased = lost+len(v.Lost), doubled+len(v.Doubled), unreleased+len(v.Unreleased)
		early, wrong = early+len(v.Early), wrong+len(v.Wrong)
		for _, l := range slices.Compact(slices.Sorted(slices.Values(v.Hit))) {
			if table[l] == nil {
				table[l] = &tally{}
			}
			table[l].runs++
			if v.ok() {
				table[l].ok++
			}
		}
		if !v.ok() {
			t.Errorf("seed %d: %s", seed, v)
			if failed++; failed == 10 {
				t.Error("ten runs failed; the rest is left out")
				cancel()
			}
		}
		if done%25 == 0 {
			fmt.Fprintf(os.Stderr, "crash: %d runs after %s, %d crashes, %d runs failed\n", done, time.Since(began).Round(time.Second), crashes, failed)
		}
	}

	var b strings.Builder
	fmt.Fprintf(&b, "%-36s %6s %6s\n", "crash point", "runs", "ok")
	for _, l := range slices.Sorted(maps.Keys(table)) {
		fmt.Fprintf(&b, "%-36s %6d %6d\n", l, table[l].runs, table[l].ok)
	}
	fmt.Fprintf(&b, "%d runs (%d with staunch's database on PostgreSQL) in %s: %d crashes of work under way, %d kills in all, %d runs whose crash never came\n",
		done, postgres, time.Since(began).Round(time.Second), crashes, kills, missed)
	fmt.Fprintf(&b, "%d lost, %d doubled, %d unreleased, %d before their intent, %d otherwise wrong; %d repeats that named a session again\n", lost, doubled, unreleased, early, wrong, repeats)
	fmt.Fprintf(&b, "go test -count=1 -timeout 0 -v %s./test/crash -run '^%s$' -args -runs %d -seed %d", flags, t.Name(), *runs, seed)
	t.Log("\n" + b.String())

	if missed > done/4 {
		t.Errorf("%d of %d runs did not crash where they should have", missed, done)
	}
	// Enough runs go through every point several times.
	hit := func(name string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(table)), func(l string) bool { return l == name || strings.HasPrefix(l, name+" (") })
	}
	for _, name := range points(t) {
		if *runs >= 3*len(p.labels) && *only == "" && !hit(name) && !slices.Contains(never, name) && !strings.HasPrefix(name, drillPoints) {
			t.Errorf("no process died at %s", name)
		}
	}
}
