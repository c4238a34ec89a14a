package connector

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	// NewestFor is how long an answer is refused that is older than another: longer
	// than replicas and caches lag behind. After that the platform may have been put
	// back to an older state, or its clock.
	NewestFor = 15 * time.Second
	// mostNewest bounds what is remembered; nothing is wrong without it.
	mostNewest = 10_000
)

// ErrOlder says that an answer is older than one that was had before.
var ErrOlder = errors.New("it is older than an answer had before: a replica that lags behind, or a cache?")

// Newest notices answers that are older than what was known when they were asked
// for: a replica's that lags behind, or a cache's. Believed, one that says that
// the access is gone would prove what is not so, and one from before a release
// would be put back later. Its methods are safe for concurrent use.
type Newest struct {
	// Now is the clock; nil is the process's own.
	Now func() time.Time

	mu    sync.Mutex
	marks map[string]newest
}

type newest struct {
	version int64
	at      time.Time
}

func (n *Newest) now() time.Time {
	if n.Now != nil {
		return n.Now()
	}
	return time.Now()
}

// Ask is called before a question about what key names. The function that it
// returns is given the version that the answer tells, which grows with every
// change; its error wraps ErrOlder and is transient.
func (n *Newest) Ask(key string) func(version int64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.marks[key]
	return func(version int64) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		now := n.now()
		if ok && version < known.version && now.Sub(known.at) < NewestFor {
			return staunch.Transient(fmt.Errorf("the answer has version %d, not %d as %s ago: %w", version, known.version, now.Sub(known.at).Round(time.Millisecond), ErrOlder))
		}
		if m, ok := n.marks[key]; ok && version < m.version && now.Sub(m.at) < NewestFor {
			return nil // another question was answered meanwhile
		}
		if n.marks == nil {
			n.marks = map[string]newest{}
		}
		if _, ok := n.marks[key]; !ok && len(n.marks) >= mostNewest {
			for old := range n.marks {
				delete(n.marks, old)
				break
			}
		}
		n.marks[key] = newest{version, now}
		return nil
	}
}
