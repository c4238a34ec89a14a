package bench_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
)

// The first measure: from the POST of the deciding record to the last success by
// any client of what is contained, every client hammering before, meanwhile and
// until the end of the watch.

// answer is what a client got.
type answer int

const (
	success answer = iota
	denied
	// trouble is neither: what could not be asked says nothing of access.
	trouble
)

// thief is one client of a contained subject.
type thief struct {
	name  string
	every time.Duration
	// try makes one request and returns when it is answered.
	try func(context.Context) (answer, error)
	// stop ends what try keeps open.
	stop func()
}

// estate is a platform with subjects.
type estate interface {
	// subject names the i-th.
	subject(i int) staunch.Ref
	// thieves returns its clients, which together make at most 50 requests a
	// second.
	thieves(i int) []*thief
	// accuse posts the record that accuses it.
	accuse(ctx context.Context, n *node, i int) error
	engine() *node
}

// seen is what a thief saw, in milliseconds from the POST.
type seen struct {
	Name string
	// Successes and Denials count answers before and after the POST; Troubles
	// what was neither, with the first such error.
	Before, Successes, Denials, Troubles int
	Trouble                              string `json:",omitempty"`
	// Last is when the last success was answered, 0 for none after the POST.
	Last float64
	// Settled says that its last answer was a denial.
	Settled bool
}

// subjectResult is one subject's, in milliseconds from the POST.
type subjectResult struct {
	Subject string
	// Last is the last success by any client.
	Last   float64
	Denied bool
	// Acked is when the POST was answered, Opened when T1 was under way, Planning
	// and Planned when the plan was begun and durable (T2).
	Acked, Opened, Planning, Planned float64
	// Applying and Applied are when each attribute's call was begun, and read
	// back and durable.
	Applying, Applied map[string]float64
	// Held is when everything was proven.
	Held   float64
	Errors []string `json:",omitempty"`
	Seen   []seen
}

// waveResult is what is kept of a wave.
type waveResult struct {
	Subjects []subjectResult
	// Calls are the engine's calls to the platform during the wave.
	Calls map[string]callTime
	// Clients is how many processors the clients and the platform kept busy
	// before the POST, Busy those that anything on the machine did.
	Clients, Busy float64
}

// hammer has a thief at it until ctx ends.
type hammer struct {
	*thief
	mu     sync.Mutex
	posted time.Time
	seen   seen
	last   time.Time
	ready  chan struct{} // closed at the first success
}

func (h *hammer) run(ctx context.Context) {
	defer h.stop()
	// Not all in step.
	wait := time.NewTimer(rand.N(h.every))
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C:
	}
	t := time.NewTicker(h.every)
	defer t.Stop()
	for {
		a, err := h.try(ctx)
		if ctx.Err() != nil {
			return
		}
		h.note(a, err, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (h *hammer) note(a answer, err error, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.seen
	if h.posted.IsZero() {
		if a == success {
			if s.Before == 0 {
				close(h.ready)
			}
			s.Before++
		}
		return
	}
	switch a {
	case success:
		s.Successes++
		s.Settled = false
		h.last = at
	case denied:
		s.Denials++
		s.Settled = true
	default:
		s.Troubles++
		if s.Trouble == "" && err != nil {
			s.Trouble = err.Error()
		}
	}
}

func (h *hammer) post(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.posted = at
}

func (h *hammer) result() seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seen
	s.Name = h.name
	if !h.last.IsZero() {
		s.Last = ms(h.last.Sub(h.posted))
	}
	return s
}

// warm is how long everybody works before the theft is told of.
const warm = time.Second

// wave accuses the subjects from first on at once and watches them.
func wave(t *testing.T, e estate, first, count int, watched time.Duration) waveResult {
	t.Helper()
	n := e.engine()
	before := n.calls(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	hammers := make([][]*hammer, count)
	for i := range hammers {
		for _, th := range e.thieves(first + i) {
			h := &hammer{thief: th, ready: make(chan struct{})}
			hammers[i] = append(hammers[i], h)
			wg.Go(func() { h.run(ctx) })
		}
	}
	defer wg.Wait()
	defer cancel()
	for i := range hammers {
		for _, h := range hammers[i] {
			select {
			case <-h.ready:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s of %s never worked: %+v", h.name, e.subject(first+i), h.result())
			}
		}
	}
	out := waveResult{Subjects: make([]subjectResult, count), Calls: map[string]callTime{}}
	idle, since := cpuUsage(), time.Now()
	time.Sleep(warm)
	out.Clients, out.Busy = cores(idle, cpuUsage(), time.Since(since))
	posted := make([]time.Time, count)
	errs := make([]error, count)
	var posts sync.WaitGroup
	for i := range count {
		delay := time.Duration(0)
		if *spread > 0 {
			delay = rand.N(*spread)
		}
		posts.Go(func() {
			time.Sleep(delay)
			at := time.Now()
			posted[i] = at
			for _, h := range hammers[i] {
				h.post(at)
			}
			errs[i] = e.accuse(ctx, n, first+i)
			out.Subjects[i].Acked = ms(time.Since(at))
		})
	}
	posts.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("%s: %v", e.subject(first+i), err)
		}
	}
	// The watch ends for all when it does for the last.
	time.Sleep(watched)
	if !*full {
		patience(hammers)
	}
	cancel()
	wg.Wait()
	for i := range count {
		r := &out.Subjects[i]
		r.Subject = e.subject(first + i).Value
		r.Denied = true
		for _, h := range hammers[i] {
			s := h.result()
			r.Seen = append(r.Seen, s)
			r.Last = max(r.Last, s.Last)
			r.Denied = r.Denied && s.Settled
		}
		timeline(t, n, e.subject(first+i), posted[i], r)
	}
	for k, after := range n.calls(t) {
		out.Calls[k] = callTime{after.N - before[k].N, after.Seconds - before[k].Seconds}
	}
	if w := n.logs.String(); w != "" {
		progress("the engine warned: %s", strings.TrimSpace(w))
	}
	return out
}

// patience waits, at most a minute, until everybody was denied: a small run is
// for whether things work, also on a machine that is busy with other tests.
func patience(hammers [][]*hammer) {
	settled := func(h *hammer) bool { return h.result().Settled }
	for range 600 {
		if !slices.ContainsFunc(slices.Concat(hammers...), func(h *hammer) bool { return !settled(h) }) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// timeline fills in what the engine did for a subject.
func timeline(t *testing.T, n *node, subject staunch.Ref, posted time.Time, r *subjectResult) {
	t.Helper()
	id := n.spans.caseOf(subject)
	if id == "" {
		r.Errors = append(r.Errors, "no containment was opened")
		return
	}
	con, steps := n.steps(t, id)
	r.Opened = ms(con.Opened.Std().Sub(posted))
	attr := map[string]string{}
	for _, s := range steps {
		a := s.Target.Attribute
		if i := strings.IndexByte(a, '/'); i >= 0 {
			a = a[:i] + "/…"
		}
		attr[s.ID] = a
	}
	if con.Trouble != "" {
		r.Errors = append(r.Errors, con.Trouble)
	}
	r.Applying, r.Applied = map[string]float64{}, map[string]float64{}
	for _, sp := range n.spans.list(id) {
		if sp.Err != "" {
			r.Errors = append(r.Errors, string(sp.Kind)+": "+sp.Err)
			continue
		}
		began, ended := ms(sp.Began.Sub(posted)), ms(sp.Ended.Sub(posted))
		switch a := attr[sp.Step]; {
		case sp.Kind == contain.DoPlan && r.Planned == 0:
			r.Planning, r.Planned = began, ended
		case sp.Kind == contain.DoApply:
			if _, ok := r.Applying[a]; !ok {
				r.Applying[a] = began
			}
			r.Applied[a] = ended // the last of several targets
		case sp.Kind == contain.DoHold:
			r.Held = ended
		}
	}
}

// containment runs a platform's waves and reports.
func containment(t *testing.T, platform string, most int, rates string, start func(*testing.T, int) estate) {
	t.Helper()
	count, each, watched := most, *perWave, *watch
	if *subjects > 0 {
		count = *subjects
	}
	if !*full {
		count, each, watched = 2, 2, time.Second
	}
	count = (count + each - 1) / each * each
	params := fmt.Sprintf("watch=%s wave=%d spread=%s %s", watched, each, *spread, rates)
	var e estate
	all := pieces(t, "contain/"+platform, params, count/each, func(piece int) waveResult {
		if e == nil {
			e = start(t, count)
		}
		w := wave(t, e, piece*each, each, watched)
		var last []float64
		for _, s := range w.Subjects {
			last = append(last, s.Last)
			if !s.Denied {
				progress("%s: a client was not denied: %+v", s.Subject, s)
			}
			if len(s.Errors) > 0 {
				progress("%s: %v", s.Subject, s.Errors)
			}
		}
		progress("%s wave %d: last success %s", platform, piece+1, distOf(last))
		return w
	})
	summarize(t, platform, params, all)
}

// stages are the parts of the way that are reported, in order.
func stagesOf(s subjectResult) map[string]float64 {
	out := map[string]float64{
		"1 POST → T1 under way":        s.Opened,
		"2 POST → acknowledged":        s.Acked,
		"3 POST → plan begun":          s.Planning,
		"4 plan: expand, read, T2":     s.Planned - s.Planning,
		"9 POST → all steps proven":    s.Held,
		"8 POST → last effect durable": 0,
	}
	for a, at := range s.Applying {
		out["5 "+a+": call, read, commit"] = s.Applied[a] - at
		out["8 POST → last effect durable"] = max(out["8 POST → last effect durable"], s.Applied[a])
	}
	return out
}

func summarize(t *testing.T, platform, params string, all []waveResult) {
	t.Helper()
	var last, clients, busy []float64
	byThief := map[string][]float64{}
	stages := map[string][]float64{}
	calls := map[string]callTime{}
	var open, troubles, failures, requests int
	for _, w := range all {
		clients, busy = append(clients, w.Clients), append(busy, w.Busy)
		for k, c := range w.Calls {
			calls[k] = callTime{calls[k].N + c.N, calls[k].Seconds + c.Seconds}
		}
		for _, s := range w.Subjects {
			last = append(last, s.Last)
			if !s.Denied {
				open++
			}
			failures += len(s.Errors)
			for _, c := range s.Seen {
				byThief[c.Name] = append(byThief[c.Name], c.Last)
				troubles += c.Troubles
				requests += c.Successes + c.Denials + c.Troubles
			}
			for k, v := range stagesOf(s) {
				stages[k] = append(stages[k], v)
			}
		}
	}
	report(t, "%s, %s\n  POST → last success by any client: %s\n  not denied at the end: %d of %d; requests after the POST: %d, of which neither success nor denial: %d; errors of actions: %d",
		platform, params, distOf(last), open, len(last), requests, troubles, failures)
	report(t, "  before the POST the clients and the platform kept %.2f processors busy, everything on the machine %.2f (medians over the waves)", median(clients), median(busy))
	for _, k := range slices.Sorted(maps.Keys(byThief)) {
		report(t, "  %s: %s", k, distOf(byThief[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(stages)) {
		report(t, "  %s: %s", k[2:], distOf(stages[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(calls)) {
		if c := calls[k]; c.N > 0 {
			report(t, "  connector %s: %.1f a subject, %.2f ms each", k, c.N/float64(len(last)), 1000*c.Seconds/c.N)
		}
	}
	if open > 0 {
		t.Errorf("%d of %d subjects had a client that was not denied at the end of the watch", open, len(last))
	}
}
