package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// watch has the refs of contained subjects in memory, so that the hot path can
// tell whether a record concerns one without a read. It is a cache of the open
// cases and their guard holds.
type watch struct {
	mu   sync.RWMutex
	refs map[staunch.Ref][]string // the cases that contain each
}

func newWatch() *watch { return &watch{refs: map[staunch.Ref][]string{}} }

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
		}
	}
}

func (w *watch) replace(refs map[staunch.Ref][]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs = refs
}

// RefreshWatch reads the open cases again: at the start, and from time to time
// for what other nodes and releases changed.
func (p *Pipeline) RefreshWatch(ctx context.Context) error {
	var refs map[staunch.Ref][]string
	err := p.opt.Store.View(ctx, func(r store.Reader) error {
		refs = map[staunch.Ref][]string{}
		page := store.Page{Limit: store.MaxPage}
		for {
			cases, err := r.Containments(page, true)
			if err != nil {
				return err
			}
			for _, c := range cases {
				for _, n := range append([]staunch.Ref{c.Subject}, c.Names...) {
					if !slices.Contains(refs[n], c.ID) {
						refs[n] = append(refs[n], c.ID)
					}
				}
				holds, err := r.HoldsClaimedBy(c.ID)
				if err != nil {
					return err
				}
				for _, h := range holds {
					if n := h.Target.Ref; h.Active() && !slices.Contains(refs[n], c.ID) {
						refs[n] = append(refs[n], c.ID)
					}
				}
			}
			if len(cases) < page.Limit {
				return nil
			}
			page.After = cases[len(cases)-1].ID
		}
	})
	if err != nil {
		return fmt.Errorf("reading what is contained: %w", err)
	}
	p.watch.replace(refs)
	return nil
}
