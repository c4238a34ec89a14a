package sqlstore

import "sync"

// Change says what a commit changed.
type Change struct {
	// Holds: a hold was put, so guards should read HoldsAfter, or a bundle was
	// activated, so that nodes should see whether it is theirs.
	Holds bool
	// Work: a timer or a notice was put, so those that wait for the next one
	// should look again.
	Work bool
}

// listeners are told of this process's commits.
type listeners struct {
	mu   sync.Mutex
	next int
	m    map[int]func(Change)
}

func (l *listeners) add(fn func(Change)) (remove func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[int]func(Change){}
	}
	id := l.next
	l.next++
	l.m[id] = fn
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.m, id)
	}
}

func (l *listeners) tell(c Change) {
	if c == (Change{}) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fn := range l.m {
		fn(c)
	}
}
