package bench_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	full     = flag.Bool("full", false, "measure in the sizes of docs/performance.md")
	results  = flag.String("results", "", "keep finished pieces in this file of JSON lines, and skip those it has")
	build    = flag.String("build", "", "what is measured, such as a commit; pieces of another build are not used")
	subjects = flag.Int("subjects", 0, "subjects of each platform, in place of 1,000 on PostgreSQL and 300 on the others")
	watch    = flag.Duration("watch", 30*time.Second, "how long a contained subject is watched")
	perWave  = flag.Int("wave", 20, "subjects that are accused and watched at once")
	logins   = flag.Duration("logins", time.Second, "time between two new logins to PostgreSQL of one subject; each costs the server a process")
	spread   = flag.Duration("spread", 0, "time over which the deciding records of a wave are posted; 0 posts all at once")
	quiet    = flag.Float64("quiet", 0, "wait before each piece, at most ten minutes, until the machine's load is below this; 0 does not wait")
)

// size returns n in full, small otherwise.
func size(n, small int) int {
	if *full {
		return n
	}
	return small
}

// line is one finished piece of a measure.
type line struct {
	V       int    `json:"v"`
	Build   string `json:"build"`
	Measure string `json:"measure"`
	// Params are what the piece's figures depend on; pieces with others are not
	// put together with it.
	Params string    `json:"params"`
	Piece  int       `json:"piece"`
	At     time.Time `json:"at"`
	// Load is the machine's load average over a minute when the piece began.
	Load float64         `json:"load"`
	Data json.RawMessage `json:"data"`
}

// ledger is the file of finished pieces. With no path it keeps them in memory.
type ledger struct {
	path  string
	build string

	mu    sync.Mutex
	lines []line
}

// openLedger reads what there is. A last line that was cut off is dropped.
func openLedger(path, build string) (*ledger, error) {
	l := &ledger{path: path, build: build}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of the results: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the results: %w", err)
	}
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole < len(data) {
		if err := os.Truncate(path, int64(whole)); err != nil {
			return nil, fmt.Errorf("dropping a line that was cut off: %w", err)
		}
	}
	sc := bufio.NewScanner(bytes.NewReader(data[:whole]))
	sc.Buffer(nil, 16<<20)
	for n := 1; sc.Scan(); n++ {
		var ln line
		if err := json.Unmarshal(sc.Bytes(), &ln); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		l.lines = append(l.lines, ln)
	}
	return l, sc.Err()
}

// add keeps a finished piece; it is on the disk when add returns.
func (l *ledger) add(measure, params string, piece int, load float64, data any) error {
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("encoding a result: %w", err)
	}
	ln := line{V: 1, Build: l.build, Measure: measure, Params: params, Piece: piece, At: time.Now().UTC(), Load: load, Data: raw}
	b, err := json.Marshal(ln)
	if err != nil {
		return fmt.Errorf("encoding a result: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, ln)
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("keeping a result: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// of returns the pieces of a measure under the same build and parameters.
func (l *ledger) of(measure, params string) []line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []line
	for _, ln := range l.lines {
		if ln.Build == l.build && ln.Measure == measure && ln.Params == params {
			out = append(out, ln)
		}
	}
	return out
}

// decoded returns the data of a measure's pieces.
func decoded[T any](tb testing.TB, lines []line) []T {
	tb.Helper()
	out := make([]T, len(lines))
	for i, ln := range lines {
		if err := json.Unmarshal(ln.Data, &out[i]); err != nil {
			tb.Fatalf("reading a result of %s: %v", ln.Measure, err)
		}
	}
	return out
}

// book is the ledger of this process.
var book = sync.OnceValues(func() (*ledger, error) { return openLedger(*results, *build) })

// pieces runs the pieces of a measure that are not there yet, and returns the
// data of all.
func pieces[T any](t *testing.T, measure, params string, n int, run func(piece int) T) []T {
	t.Helper()
	l, err := book()
	if err != nil {
		t.Fatal(err)
	}
	have := l.of(measure, params)
	for i := range n {
		if slices.ContainsFunc(have, func(ln line) bool { return ln.Piece == i }) {
			continue
		}
		load := settle(t)
		began := time.Now()
		v := run(i)
		if t.Failed() {
			t.FailNow()
		}
		if err := l.add(measure, params, i, load, v); err != nil {
			t.Fatal(err)
		}
		progress("%s: %d of %d, in %.1f s at load %.1f", measure, i+1, n, time.Since(began).Seconds(), load)
	}
	return decoded[T](t, l.of(measure, params))
}

// progress tells whoever waits. Tests' own logs come too late for that.
func progress(format string, args ...any) {
	if *full {
		_, _ = fmt.Fprintf(os.Stdout, time.Now().Format("15:04:05 ")+format+"\n", args...)
	}
}

// load returns the load average over a minute, 0 where there is none.
func load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var v float64
	if _, err := fmt.Sscan(string(b), &v); err != nil {
		return 0
	}
	return v
}

// settle waits, where it was asked for, until the machine is quiet. It returns
// the load.
func settle(t *testing.T) float64 {
	t.Helper()
	now := load()
	if *quiet <= 0 {
		return now
	}
	for waited := 0; now > *quiet && waited < 120; waited++ {
		time.Sleep(5 * time.Second)
		now = load()
	}
	return now
}

// dist is a distribution of durations, in milliseconds.
type dist struct {
	N                  int
	P50, P90, P99, Max float64
}

// quantile returns the smallest value that at least the share q of the sorted
// values does not exceed.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*q+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func distOf(v []float64) dist {
	v = slices.Clone(v)
	slices.Sort(v)
	d := dist{N: len(v), P50: quantile(v, 0.5), P90: quantile(v, 0.9), P99: quantile(v, 0.99)}
	if len(v) > 0 {
		d.Max = v[len(v)-1]
	}
	return d
}

func (d dist) String() string {
	return fmt.Sprintf("p50 %.1f, p90 %.1f, p99 %.1f, max %.1f ms (n=%d)", d.P50, d.P90, d.P99, d.Max, d.N)
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return quantile(v, 0.5)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// report prints a figure where make bench shows it.
func report(t *testing.T, format string, args ...any) {
	t.Helper()
	s := fmt.Sprintf(format, args...)
	t.Log(s)
	if *full {
		_, _ = fmt.Fprintln(os.Stdout, "FIGURE "+strings.ReplaceAll(s, "\n", "\nFIGURE "))
	}
}

func TestLedgerResumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r", "results.jsonl")
	l, err := openLedger(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := l.add("m", "p", i, 0, map[string]int{"x": i}); err != nil {
			t.Fatal(err)
		}
	}
	// A run that was killed while it wrote.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	for build, want := range map[string]int{"a": 2, "b": 0} {
		l, err := openLedger(path, build)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(l.of("m", "p")); got != want {
			t.Errorf("build %s has %d pieces, want %d", build, got, want)
		}
		if got := len(l.of("m", "other")); got != 0 {
			t.Errorf("build %s has %d pieces with other parameters", build, got)
		}
	}
	l, err = openLedger(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.add("m", "p", 2, 0, map[string]int{"x": 2}); err != nil {
		t.Fatal(err)
	}
	if l, err = openLedger(path, "a"); err != nil || len(l.of("m", "p")) != 3 {
		t.Errorf("after it went on there are %d pieces, %v", len(l.of("m", "p")), err)
	}
}

func TestQuantile(t *testing.T) {
	v := make([]float64, 100)
	for i := range v {
		v[i] = float64(i + 1)
	}
	for q, want := range map[float64]float64{0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if got := distOf([]float64{3, 1, 2}); got.P50 != 2 || got.Max != 3 || got.P99 != 3 {
		t.Errorf("%+v", got)
	}
}
