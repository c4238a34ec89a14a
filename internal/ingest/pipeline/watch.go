package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// watch has the refs of contained subjects in memory, so that the hot path can
// tell whether a record concerns one without a read. It is a cache of the open
// cases and their holds.
type watch struct {
	mu   sync.RWMutex
	refs map[staunch.Ref][]string // the cases that contain each
	of   map[string][]staunch.Ref // the refs of each case

	// What follows belongs to who refreshes.
	// seq is the highest sequence of a hold that was seen on each plane.
	seq map[staunch.Plane]int64
	// ticks counts refreshes since the last whole one.
	ticks int
}

func newWatch() *watch {
	return &watch{refs: map[staunch.Ref][]string{}, of: map[string][]staunch.Ref{}, seq: map[staunch.Plane]int64{}}
}

func (w *watch) concerns(refs []staunch.Ref) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.refs) == 0 {
		return false
	}
	for _, r := range refs {
		if _, ok := w.refs[r]; ok {
			return true
		}
	}
	return false
}

// empty reports whether no case is open.
func (w *watch) empty() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.refs) == 0
}

func (w *watch) cases(refs ...staunch.Ref) []string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	var out []string
	for _, r := range refs {
		for _, id := range w.refs[r] {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

func (w *watch) add(id string, refs []staunch.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range refs {
		if !slices.Contains(w.refs[r], id) {
			w.refs[r] = append(w.refs[r], id)
			w.of[id] = append(w.of[id], r)
		}
	}
}

// put has the case contain just these refs; none is the end of it.
func (w *watch) put(id string, refs []staunch.Ref) {
	w.mu.Lock()
	for _, r := range w.of[id] {
		if left := slices.DeleteFunc(slices.Clone(w.refs[r]), func(s string) bool { return s == id }); len(left) > 0 {
			w.refs[r] = left
		} else {
			delete(w.refs, r)
		}
	}
	delete(w.of, id)
	w.mu.Unlock()
	w.add(id, refs)
}

func (w *watch) replace(of map[string][]staunch.Ref) {
	refs := map[staunch.Ref][]string{}
	for id, list := range of {
		for _, r := range list {
			refs[r] = append(refs[r], id)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs, w.of = refs, of
}

// wholeEvery is after how many refreshes all open cases are read again: that is
// for what changed without a change of a hold, such as a case of another node
// that waits for approval.
const wholeEvery = 30

// RefreshWatch reads what has been contained and released since it was called
// last: the cases of the holds that changed, and now and then every open case.
// It is called by one goroutine at a time.
func (p *Pipeline) RefreshWatch(ctx context.Context) error {
	w := p.watch
	whole := w.ticks%wholeEvery == 0
	seq := map[staunch.Plane]int64{}
	of := map[string][]staunch.Ref{}
	err := p.opt.Store.View(ctx, func(r store.Reader) error {
		clear(of)
		if whole {
			n, err := r.HoldSeq()
			if err != nil {
				return err
			}
			seq[staunch.PlaneGuard], seq[staunch.PlanePlatform] = n, n
			return openCases(r, of)
		}
		return w.changed(r, seq, of)
	})
	if err != nil {
		return fmt.Errorf("reading what is contained: %w", err)
	}
	w.ticks++
	w.seq = seq
	if whole {
		w.replace(of)
		return nil
	}
	for id, refs := range of {
		w.put(id, refs)
	}
	return nil
}

// changed reads the cases whose holds changed after the sequences known, and
// puts the sequences up to which it looked into upTo. Who has let go of a hold is
// found by what it was on.
func (w *watch) changed(r store.Reader, upTo map[staunch.Plane]int64, of map[string][]staunch.Ref) error {
	for _, plane := range []staunch.Plane{staunch.PlaneGuard, staunch.PlanePlatform} {
		upTo[plane] = w.seq[plane]
		for more := true; more; {
			holds, err := r.HoldsAfter(plane, upTo[plane], store.MaxPage)
			if err != nil {
				return err
			}
			for _, h := range holds {
				upTo[plane] = h.Seq
				for _, id := range slices.Concat(h.Claims, w.cases(h.Target.Ref)) {
					if _, done := of[id]; done {
						continue
					}
					if err := watched(r, id, of); err != nil {
						return err
					}
				}
			}
			more = len(holds) == store.MaxPage
		}
	}
	return nil
}

// openCases reads what every open case contains.
func openCases(r store.Reader, of map[string][]staunch.Ref) error {
	page := store.Page{Limit: store.MaxPage}
	for {
		cases, err := r.Containments(page, true)
		if err != nil {
			return err
		}
		for _, c := range cases {
			if of[c.ID], err = contained(r, c); err != nil {
				return err
			}
		}
		if len(cases) < page.Limit {
			return nil
		}
		page.After = cases[len(cases)-1].ID
	}
}

// watched reads what one case contains, nothing when it is over.
func watched(r store.Reader, id string, of map[string][]staunch.Ref) error {
	of[id] = nil
	c, err := r.Containment(id)
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	if err == nil && c.Phase.Open() {
		of[id], err = contained(r, c)
	}
	return err
}

// contained returns what an open case contains: its subject by all its names and
// the targets of its holds.
func contained(r store.Reader, c staunch.Containment) ([]staunch.Ref, error) {
	refs := append([]staunch.Ref{c.Subject}, c.Names...)
	holds, err := r.HoldsClaimedBy(c.ID)
	if err != nil {
		return nil, err
	}
	for _, h := range holds {
		if h.Active() {
			refs = append(refs, h.Target.Ref)
		}
	}
	seen := map[staunch.Ref]bool{}
	return slices.DeleteFunc(refs, func(r staunch.Ref) bool {
		was := seen[r]
		seen[r] = true
		return was
	}), nil
}
