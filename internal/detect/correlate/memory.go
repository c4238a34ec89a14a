package correlate

import (
	"sync"

	"github.com/staunch-project/staunch/internal/store"
)

// Memory counts, per series, what this process put into windows. It never counts
// too little of a series that it knows, so that a window which cannot hold need
// not be looked at; where it counts too much, a look shows. It holds at most
// the entries that it was made for, and evicts of four neighbours the one whose
// contributions are oldest: of a series that was evicted nothing is known, and
// the next contribution has its rows read. It is safe for concurrent use.
type Memory struct {
	mu   sync.Mutex
	most int
	used int
	sets [][ways]entry
}

const (
	ways = 4
	// parts is how many timespans an entry tells apart.
	parts = 4
	// DefaultMemory is how many series are counted by default: about 32 MB.
	DefaultMemory = 1 << 20
	firstSets     = 1 << 8
	// unknown is a count that has every window looked at.
	unknown = 1 << 30
)

// entry counts a series' contributions in its newest timespans, which are
// aligned: count[i] is of newest-i.
type entry struct {
	key    uint64
	newest int64
	count  [parts]uint16
	known  bool
}

// NewMemory returns a memory of at most so many series; 0 gives DefaultMemory.
func NewMemory(most int) *Memory {
	if most <= 0 {
		most = DefaultMemory
	}
	return &Memory{most: most, sets: make([][ways]entry, firstSets)}
}

func (m *Memory) set(key uint64) *[ways]entry { return &m.sets[key&uint64(len(m.sets)-1)] }

func (m *Memory) find(key uint64) *entry {
	set := m.set(key)
	for i := range set {
		if set[i].key == key {
			return &set[i]
		}
	}
	return nil
}

// place finds or makes the entry of a key.
func (m *Memory) place(key uint64) *entry {
	for {
		if e := m.find(key); e != nil {
			return e
		}
		set := m.set(key)
		oldest := &set[0]
		for i := range set {
			if set[i].key == 0 {
				m.used++
				set[i] = entry{key: key}
				return &set[i]
			}
			if set[i].newest < oldest.newest {
				oldest = &set[i]
			}
		}
		if 2*len(m.sets)*ways <= max(m.most, firstSets*ways) {
			m.grow()
			continue
		}
		*oldest = entry{key: key}
		return oldest
	}
}

// grow doubles the sets; every entry finds a place in one of two.
func (m *Memory) grow() {
	old := m.sets
	m.sets = make([][ways]entry, 2*len(old))
	for i := range old {
		for _, e := range old[i] {
			if e.key == 0 {
				continue
			}
			set := m.set(e.key)
			for k := range set {
				if set[k].key == 0 {
					set[k] = e
					break
				}
			}
		}
	}
}

// Len returns how many series are counted.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// advance makes b the newest timespan, where it is newer.
func (e *entry) advance(b int64) {
	switch ahead := b - e.newest; {
	case e.newest == 0:
		e.newest = b
	case ahead >= parts:
		e.count = [parts]uint16{}
		e.newest = b
	case ahead > 0:
		copy(e.count[ahead:], e.count[:parts-ahead])
		clear(e.count[:ahead])
		e.newest = b
	}
}

// Count counts a contribution at an instant to a series whose windows have this
// timespan, and returns a bound on the contributions in any window with it.
func (m *Memory) Count(key uint64, at, timespan int64) int {
	key = max(key, 1) // 0 is a free place
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.place(key)
	b := at / timespan
	e.advance(b)
	i := e.newest - b
	if i >= parts {
		return unknown
	}
	if e.count[i] < 1<<16-1 {
		e.count[i]++
	}
	if !e.known || i+1 >= parts {
		return unknown
	}
	n := int(e.count[i]) + int(e.count[i+1])
	if i > 0 {
		n += int(e.count[i-1])
	}
	return n
}

// Since returns from when a series' rows have to be read to know it; it is after
// every instant where it is known.
func (m *Memory) Since(key uint64, timespan int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(max(key, 1))
	if e == nil || e.known {
		return 1<<63 - 1
	}
	return (e.newest - parts + 1) * timespan
}

// Know takes over the counts of the rows that were read from Since on, however
// new; whole says that there were no more.
func (m *Memory) Know(key uint64, timespan int64, rows []store.Contribution, whole bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.find(max(key, 1))
	if e == nil || e.known || !whole {
		return
	}
	e.known = true
	for _, r := range rows {
		e.advance(int64(r.At) / timespan)
		if i := e.newest - int64(r.At)/timespan; i >= 0 && i < parts && e.count[i] < 1<<16-1 {
			e.count[i]++
		}
	}
}
