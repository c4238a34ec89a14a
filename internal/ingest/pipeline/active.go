package pipeline

import (
	"fmt"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/store"
)

// waits has the hash of the active bundle while it is another than ours.
type waits struct{ active atomic.Pointer[string] }

// WaitFor has the pipeline take nothing in while active, the hash of the active
// bundle, is not that of its own; "" ends it. It only spares work and keeps
// records that match nothing here from being acknowledged: what commits is
// checked in its own transaction.
func (p *Pipeline) WaitFor(active string) { p.waits.active.Store(&active) }

// Waits returns the hash of the active bundle where it is not ours, "" where
// this pipeline decides.
func (p *Pipeline) Waits() string {
	a := p.waits.active.Load()
	if a == nil || *a == p.Bundle().Hash {
		return ""
	}
	return *a
}

func (p *Pipeline) mayDecide() error {
	if a := p.Waits(); a != "" {
		return fmt.Errorf("%w: %s, and this node has %s", store.ErrBundle, a, p.Bundle().Hash)
	}
	return nil
}
