// Package liar has what tests need to find out whether staunch believes a
// platform that lies: servers that stand in front of a real one and lie in every
// way that they can, one that speaks HTTP and one that speaks PostgreSQL's
// protocol, the deck that says who is told what, and the play that contains and
// releases subjects through them and judges what is said of them by the real
// platform.
package liar

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Lie is one of the ways in which a server does not do what it is asked.
type Lie string

// The lies of all servers.
const (
	// Truth is no lie.
	Truth Lie = ""
	// HangBefore keeps the request and never answers.
	HangBefore Lie = "hang before"
	// HangAfter does what it is asked and never answers.
	HangAfter Lie = "hang after"
	// ResetBefore breaks the connection without doing anything.
	ResetBefore Lie = "reset before"
	// ResetAfter does what it is asked and breaks the connection.
	ResetAfter Lie = "reset after"
	// Truncated does what it is asked and ends the answer in the middle.
	Truncated Lie = "truncated"
	// Drip does what it is asked and sends the answer a byte at a time.
	Drip Lie = "drip"
	// Late does what it is asked and holds the answer back for a while.
	Late Lie = "late"
	// Hollow says that a change was made, and makes none.
	Hollow Lie = "hollow"
	// Partial says that a change was made, and makes a part of it.
	Partial Lie = "partial"
	// Stale answers what was true up to ten seconds before.
	Stale Lie = "stale"
)

// slow says that a client that waits gets an answer all the same.
func (l Lie) slow() bool { return l == Drip || l == Late }

// always are the lies that every request can be told.
var always = []Lie{HangBefore, HangAfter, ResetBefore, ResetAfter, Truncated, Drip, Late}

const (
	staleFor  = 10 * time.Second
	dripEvery = 3 * time.Millisecond
	lateBy    = 300 * time.Millisecond
	// maxAnswer bounds a request and an answer, in bytes.
	maxAnswer = 8 << 20
	// mostOld bounds the old answers to one request that are kept.
	mostOld = 8
)

// Ask is what a request is about.
type Ask struct {
	// Op names the operation, "" for one that is always told the truth.
	Op string
	// Change says that it is to change something.
	Change bool
	// Parts says that it is to change several things, so that a part of them can
	// be.
	Parts bool
	// Reads says that another server could have answered it, some time ago.
	Reads bool
	// First says that it is asked only until it is answered: every lie is told
	// before the truth is, but for those that a patient client takes for an answer.
	First bool
	// Seldom says that it is asked after other lies alone: not every lie need be
	// told.
	Seldom bool
}

// Deck deals lies by a seed. Its methods are safe for concurrent use.
type Deck struct {
	mu     sync.Mutex
	rng    *rand.Rand
	rate   float64
	enough int
	lying  bool
	told   map[string]map[Lie]int
	// lag has nothing but Stale be a lie.
	lag bool
	// may has the lies that there are for an operation.
	may map[string]map[Lie]bool
}

// NewDeck returns a deck that lies to that share of the requests of an operation,
// 0 to 1, and to more of those that change something, until each lie that there is
// for it was told that often, and to a fifteenth of it afterwards.
func NewDeck(seed uint64, rate float64, enough int) *Deck {
	return &Deck{rng: rand.New(rand.NewPCG(seed, 5)), rate: rate, enough: enough, lying: true, told: map[string]map[Lie]int{}, may: map[string]map[Lie]bool{}}
}

// NewLag returns a deck by which that share of the reads that were answered before
// are answered so again, as by replicas that are up to ten seconds behind, one more
// than the other. It tells no other lies.
func NewLag(seed uint64, rate float64) *Deck {
	d := NewDeck(seed, rate, 1)
	d.lag = true
	return d
}

// Lie has it lie from now on, or tell the truth.
func (d *Deck) Lie(lie bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lying = lie
}

// deal draws what becomes of a request, of those lies that can be told now; there
// are others for its operation.
func (d *Deck) deal(a Ask, now, others []Lie) Lie {
	d.mu.Lock()
	defer d.mu.Unlock()
	can := slices.Contains(now, Stale)
	if a.Op == "" || !d.lying {
		return Truth
	}
	if d.lag {
		if now = []Lie{Stale}; !can {
			return Truth
		}
		others = nil
	}
	told, may := d.told[a.Op], d.may[a.Op]
	if told == nil {
		told, may = map[Lie]int{}, map[Lie]bool{}
		d.told[a.Op], d.may[a.Op] = told, may
	}
	for _, l := range slices.Concat(now, others) {
		may[l] = may[l] || !a.Seldom && !d.lag && (!a.First || !l.slow())
	}
	least := slices.Clone(now)
	d.rng.Shuffle(len(least), func(i, j int) { least[i], least[j] = least[j], least[i] })
	sort.SliceStable(least, func(i, j int) bool { return told[least[i]] < told[least[j]] })
	if a.First { // else there would be no further request
		refuses := func(l Lie) bool { return told[l] < d.enough && !l.slow() }
		sort.SliceStable(least, func(i, j int) bool { return refuses(least[i]) && !refuses(least[j]) })
	}
	rate := d.rate
	if a.Change { // there are few of them
		rate = (1 + rate) / 2
	}
	if told[least[0]] >= d.enough {
		rate /= 15
	} else if a.First {
		rate = 1
	}
	if d.lag {
		rate = d.rate
	}
	if d.rng.Float64() >= rate {
		return Truth
	}
	told[least[0]]++
	return least[0]
}

// pick returns a number below n.
func (d *Deck) pick(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.IntN(n)
}

// Untold returns the operations and lies that were not told often enough, of
// those operations that there were requests of.
func (d *Deck) Untold() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for op, may := range d.may {
		for l, must := range may {
			if must && d.told[op][l] < d.enough {
				out = append(out, fmt.Sprintf("%s: %s", op, l))
			}
		}
	}
	slices.Sort(out)
	return out
}

// Ops returns the operations that there were requests of.
func (d *Deck) Ops() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for op := range d.may {
		out = append(out, op)
	}
	slices.Sort(out)
	return out
}

// Told returns how many lies were told, of how many kinds for how many
// operations.
func (d *Deck) Told() (lies, kinds, ops int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[Lie]bool{}
	for _, told := range d.told {
		for l, n := range told {
			lies += n
			seen[l] = true
		}
	}
	return lies, len(seen), len(d.told)
}

// String tells what was told, an operation a line.
func (d *Deck) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for op, told := range d.told {
		var lies []string
		for l, n := range told {
			lies = append(lies, fmt.Sprintf("%s %d", l, n))
		}
		slices.Sort(lies)
		out = append(out, op+": "+strings.Join(lies, ", "))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// memory has old answers by request.
type memory[A any] struct {
	mu  sync.Mutex
	old map[string][]remembered[A]
}

type remembered[A any] struct {
	answer A
	at     time.Time
}

// keep keeps an answer.
func (m *memory[A]) keep(key string, a A) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.old == nil {
		m.old = map[string][]remembered[A]{}
	}
	list := m.fresh(key)
	if len(list) == mostOld {
		list = append(list[:1:1], list[2:]...) // the oldest stays
	}
	m.old[key] = append(list, remembered[A]{a, time.Now()})
}

// get returns the answers that are not too old.
func (m *memory[A]) get(key string) []A {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []A
	for _, r := range m.fresh(key) {
		out = append(out, r.answer)
	}
	return out
}

func (m *memory[A]) fresh(key string) []remembered[A] {
	return slices.DeleteFunc(slices.Clone(m.old[key]), func(r remembered[A]) bool { return time.Since(r.at) >= staleFor })
}
