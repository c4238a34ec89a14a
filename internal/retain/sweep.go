package retain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Bounds of one transaction: so many rows, so much time inside of it.
const (
	mostRows = 500
	mostTime = 5 * time.Millisecond
	// atOnce is how many rows are read at a time, and piece how many are deleted
	// between two looks at the clock.
	atOnce = 250
	piece  = 10
)

// The pace. Who waits for the writer gets it back after a batch for several times
// as long as the batch took, and for longer where the batch itself had to wait.
const (
	rest      = 4
	restBusy  = 16
	busyAfter = 20 * time.Millisecond
	leastRest = 2 * time.Millisecond
	mostRest  = time.Second

	// roundEvery is how long after a round the next begins; every wholeEvery one of
	// them begins at the oldest rows again, for what was needed before.
	roundEvery = time.Minute
	wholeEvery = time.Hour
	// leaseTime is how long a node sweeps without renewing its lease.
	leaseTime = time.Minute
	// needAgain is after how long cases are read again while events go by size.
	needAgain = 5 * time.Second
	// roomAgain is by how much of its size the database falls below it before events
	// go by their age alone again, in parts of a hundred.
	roomAgain = 5
	// tellAgain is how often the log says that the size is kept by deleting early, or
	// cannot be kept.
	tellAgain = time.Hour
	// previewTime bounds a preview.
	previewTime = 15 * time.Second
)

const leaseName = "retention"

// Options are what a Sweeper works with; Store, Clock, Node and Policy are needed.
type Options struct {
	Store store.Store
	Clock staunch.Clock
	Log   *slog.Logger
	// Steady is a clock that nobody sets, for the pace; nil is the machine's.
	Steady func() time.Time
	// Node names this process in the lease.
	Node string
	// Policy is asked at the beginning of each round.
	Policy func() Policy
	// May, when given, says whether this node may sweep: one whose configuration is not
	// the one that decides knows nothing of the windows that are open.
	May func() bool
	// Cursors says which cursors may go.
	Cursors []Cursor
	// Prune, when given, deletes a batch of what has an end of its own, and returns
	// how many rows it deleted. It is called until that is none.
	Prune func(tx store.Tx, now staunch.Time) (int, error)
	// Pause waits between two batches; nil waits on the machine's clock.
	Pause func(ctx context.Context, d time.Duration) error
}

// Status is what is known of sweeping on this node.
type Status struct {
	// Sweeps says that this node holds the lease.
	Sweeps bool `json:"sweeps"`
	// Last is the last round of this node that ended, nil before the first.
	Last *store.Sweep `json:"last,omitempty"`
	// Error is what ended the last one early.
	Error string `json:"error,omitempty"`
	// Deleted counts rows by kind since the start, those that went with others
	// included.
	Deleted map[store.Kept]int64 `json:"deleted"`
}

// Sweeper deletes what is old. Its methods are safe for concurrent use, but for Run
// and Round, of which there is one at a time.
type Sweeper struct {
	opt Options

	// What follows belongs to who sweeps.
	needed *needed
	// place is how far each kind was walked where rows come in the order of arrival.
	place  map[store.Kept]string
	whole  time.Time // when a round began at the oldest rows last
	leased time.Time
	told   time.Time
	// leap is set while the clock is not believed, saidLeapt is when the log said so.
	leap      *leap
	saidLeapt time.Time

	mu     sync.Mutex
	status Status
}

// New returns a sweeper that has done nothing yet.
func New(opt Options) (*Sweeper, error) {
	if opt.Store == nil || opt.Clock == nil || opt.Node == "" || opt.Policy == nil {
		return nil, errors.New("retain: Store, Clock, Node and Policy are required")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Pause == nil {
		opt.Pause = pause
	}
	if opt.Steady == nil {
		opt.Steady = time.Now
	}
	return &Sweeper{opt: opt, needed: newNeeded(), place: map[store.Kept]string{}, status: Status{Deleted: map[store.Kept]int64{}}}, nil
}

// since returns how long ago a time of Steady is.
func (s *Sweeper) since(at time.Time) time.Duration { return s.opt.Steady().Sub(at) }

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Status returns what is known now.
func (s *Sweeper) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Deleted = make(map[store.Kept]int64, len(s.status.Deleted))
	for k, n := range s.status.Deleted {
		out.Deleted[k] = n
	}
	return out
}

// Deleted returns how many rows of a kind, with what belonged to them, were deleted
// since the start.
func (s *Sweeper) Deleted(kind store.Kept) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Deleted[kind]
}

// Run sweeps round after round until ctx ends, while no other node does.
func (s *Sweeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		var mine bool
		var err error
		if s.opt.May == nil || s.opt.May() {
			mine, err = s.lease(ctx)
		}
		s.mu.Lock()
		s.status.Sweeps = mine
		s.mu.Unlock()
		if mine {
			if err = s.trust(ctx); err == nil {
				_, err = s.Round(ctx)
			} else {
				s.failed(err)
			}
		}
		if err != nil && ctx.Err() == nil && (!errors.Is(err, errLeapt) || s.since(s.saidLeapt) >= tellAgain) {
			if errors.Is(err, errLeapt) {
				s.saidLeapt = s.opt.Steady()
			}
			s.opt.Log.Error("deleting what is older than it is kept for", "error", err)
		}
		if s.opt.Pause(ctx, roundEvery) != nil {
			break
		}
	}
	s.mu.Lock()
	s.status.Sweeps = false
	s.mu.Unlock()
	// Nobody has to wait the lease out.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.opt.Store.Update(last, func(tx store.Tx) error { return tx.ReleaseLease(leaseName, s.opt.Node) }); err != nil {
		s.opt.Log.Debug("giving the lease of retention back; it runs out by itself", "error", err)
	}
}

// lease takes or renews the lease.
func (s *Sweeper) lease(ctx context.Context) (mine bool, err error) {
	at := s.opt.Steady()
	err = s.opt.Store.Update(ctx, func(tx store.Tx) error {
		var err error
		// The pause between two rounds is longer than a lease should have to last.
		_, mine, err = tx.Lease(leaseName, s.opt.Node, leaseTime+roundEvery)
		return err
	})
	if mine = mine && err == nil; mine {
		s.leased = at
	}
	return mine, err
}

// renew renews the lease where that is due, of a round that has one.
func (s *Sweeper) renew(ctx context.Context) error {
	if s.leased.IsZero() || s.since(s.leased) < leaseTime/3 {
		return nil
	}
	mine, err := s.lease(ctx)
	if err == nil && !mine {
		err = errTaken
	}
	return err
}

// errTaken says that another node sweeps.
var errTaken = errors.New("another node sweeps")

// walk is one way through the rows.
type walk struct {
	needed  *needed
	cursors []Cursor
	cut     cutoffs
	report  *store.Sweep
}

// Round deletes what is old now, and returns what it did, also beside an error.
func (s *Sweeper) Round(ctx context.Context) (store.Sweep, error) {
	began := s.opt.Steady()
	rep := store.Sweep{At: staunch.TimeOf(s.opt.Clock.Now())}
	policy := s.opt.Policy().Effective()
	w := &walk{needed: s.needed, cursors: s.opt.Cursors, cut: cutoffs{now: rep.At, policy: policy}, report: &rep}
	w.cut.events = before(rep.At, policy.Events)
	err := s.round(ctx, w)
	rep.Took = staunch.Duration(s.since(began))
	if errors.Is(err, errTaken) {
		err = nil
	}
	if err != nil {
		s.failed(err)
		return rep, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Error, s.status.Last = "", &rep
	return rep, nil
}

func (s *Sweeper) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Error = err.Error()
}

func (s *Sweeper) round(ctx context.Context, w *walk) error {
	// The ages were fixed before this.
	if err := s.needed.read(ctx, s.opt.Store); err != nil {
		return err
	}
	if now := s.opt.Steady(); now.Sub(s.whole) >= wholeEvery {
		clear(s.place)
		s.whole = now
	}
	if s.opt.Prune != nil {
		if err := s.prune(ctx, w); err != nil {
			return err
		}
	}
	for _, kind := range store.AllKept() {
		if err := s.kind(ctx, w, kind); err != nil {
			return fmt.Errorf("sweeping the %s: %w", kind, err)
		}
	}
	return s.measure(ctx, w)
}

func (s *Sweeper) prune(ctx context.Context, w *walk) error {
	for {
		n := 0
		err := s.batch(ctx, false, func(tx store.Tx, _ func() bool) error {
			var err error
			n, err = s.opt.Prune(tx, w.cut.now)
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		w.report.Pruned += n
	}
}

// kind sweeps one kind of rows.
func (s *Sweeper) kind(ctx context.Context, w *walk, kind store.Kept) error {
	swept := store.Swept{Kind: kind}
	defer func() { w.report.Kinds = append(w.report.Kinds, swept) }()
	place, reread := s.place[kind], s.opt.Steady()
	for {
		if err := s.renew(ctx); err != nil {
			return err
		}
		crowded := false
		if kind == store.KeptEvents {
			var err error
			if crowded, err = s.crowded(ctx, w); err != nil {
				return err
			}
			if crowded && s.since(reread) >= needAgain {
				if err := s.needed.read(ctx, s.opt.Store); err != nil {
					return err
				}
				reread = s.opt.Steady()
			}
		}
		step, err := w.step(ctx, s.opt.Store, kind, place, &swept)
		if err != nil {
			return err
		}
		gone, err := s.delete(ctx, kind, step.gone, crowded)
		swept.Deleted += gone.Rows
		swept.With += gone.With
		if err != nil {
			return err
		}
		if step.end {
			break
		}
		place = step.next
		if len(step.gone) == 0 {
			if err := s.opt.Pause(ctx, leastRest); err != nil {
				return err
			}
		}
	}
	if place != "" {
		s.place[kind] = place
	}
	return nil
}

// step is a part of a walk.
type step struct {
	gone []store.OldRow
	// end says that there is nothing old behind it, next where to go on.
	end  bool
	next string
}

func (w *walk) step(ctx context.Context, st store.Store, kind store.Kept, place string, swept *store.Swept) (step, error) {
	var out step
	var fates []fate
	var arrival bool
	limit := w.cut.of(kind)
	err := st.View(ctx, func(r store.Reader) error {
		found, err := r.Walk(kind, place, limit, w.cut.now, atOnce)
		if err != nil {
			return err
		}
		out = step{end: found.Next == "", next: found.Next}
		arrival = found.Arrival
		fates, err = w.judge(r, kind, found.Rows)
		return err
	})
	if err != nil {
		return out, err
	}
	young := false
	for _, f := range fates {
		switch at := f.row.At; {
		case f.old && !f.held:
			out.gone = append(out.gone, f.row)
			swept.From, swept.To = earlier(swept.From, at), max(swept.To, at)
		case f.old:
			swept.Held++
			swept.Oldest = earlier(swept.Oldest, at)
		default:
			swept.Oldest = earlier(swept.Oldest, at)
			young = young || arrival && f.came >= limit
		}
		if young {
			out.end = true
			break
		}
	}
	return out, nil
}

// delete deletes the rows in batches.
func (s *Sweeper) delete(ctx context.Context, kind store.Kept, rows []store.OldRow, hurry bool) (all store.Forgotten, err error) {
	size := piece
	if kind == store.KeptContainments {
		size = 1 // it may have many rows
	}
	for len(rows) > 0 {
		done := 0
		var gone store.Forgotten
		err := s.batch(ctx, hurry, func(tx store.Tx, over func() bool) error {
			done, gone = 0, store.Forgotten{}
			for done < len(rows) && gone.Rows+gone.With < mostRows && !over() {
				part := rows[done:min(done+size, len(rows))]
				f, err := tx.Forget(kind, part)
				if err != nil {
					return err
				}
				gone.Add(f)
				if kind == store.KeptContainments && f.Rows == 0 && f.With > 0 {
					return nil // the rest of it in the next one
				}
				done += len(part)
			}
			return nil
		})
		if err != nil {
			return all, err
		}
		rows = rows[done:]
		all.Add(gone)
		s.mu.Lock()
		s.status.Deleted[kind] += int64(gone.Rows + gone.With)
		s.mu.Unlock()
	}
	return all, nil
}

// batch runs a transaction and then rests, so that others get theirs. over reports
// that its time is up.
func (s *Sweeper) batch(ctx context.Context, hurry bool, fn func(tx store.Tx, over func() bool) error) error {
	asked := s.opt.Steady()
	var began time.Time
	var worked time.Duration
	err := s.opt.Store.Update(ctx, func(tx store.Tx) error {
		began = s.opt.Steady()
		err := fn(tx, func() bool { return s.since(began) >= mostTime })
		worked = s.since(began)
		return err
	})
	if err != nil {
		return err
	}
	times := time.Duration(rest)
	switch {
	case hurry:
		times = 1
	case began.Sub(asked) > busyAfter:
		times = restBusy
	}
	return s.opt.Pause(ctx, min(max(times*worked, leastRest), mostRest))
}

// crowded reports whether the database is over its size, and has events go before
// their age then. Once they do they go until there is some room.
func (s *Sweeper) crowded(ctx context.Context, w *walk) (bool, error) {
	most := w.cut.policy.MaxSize
	if most <= 0 {
		return false, nil
	}
	size, err := s.size(ctx)
	if err != nil {
		return false, err
	}
	byAge := before(w.cut.now, w.cut.policy.Events)
	if w.cut.events != byAge {
		most -= most / 100 * roomAgain
	}
	over := size.Used > most
	w.cut.events = byAge
	if over {
		w.cut.events = max(byAge, before(w.cut.now, w.cut.policy.LeastEvents()))
	}
	w.report.BySize = w.report.BySize || w.cut.events > byAge
	return over, nil
}

func (s *Sweeper) size(ctx context.Context) (size store.Size, err error) {
	err = s.opt.Store.View(ctx, func(r store.Reader) error {
		size, err = r.Size()
		return err
	})
	return size, err
}

// measure notes the size at the end of a round, and says where it cannot be kept.
func (s *Sweeper) measure(ctx context.Context, w *walk) error {
	size, err := s.size(ctx)
	if err != nil {
		return err
	}
	most := w.cut.policy.MaxSize
	w.report.Size, w.report.OverSize = size, most > 0 && size.Used > most
	if !w.report.BySize && !w.report.OverSize || s.since(s.told) < tellAgain {
		return nil
	}
	s.told = s.opt.Steady()
	said := "events were deleted before their age, since the database was larger than retention.max_size"
	if w.report.OverSize {
		said = "the database is larger than retention.max_size, and all events that may go are gone"
	}
	s.opt.Log.Warn(said, "used", size.Used, "max_size", most, "least_age", w.cut.policy.LeastEvents())
	return nil
}

// Preview says what a round would delete now, and changes nothing. What one leaves
// since something else is to go first is not counted.
func (s *Sweeper) Preview(ctx context.Context) (store.Sweep, error) {
	began := s.opt.Steady()
	rep := store.Sweep{At: staunch.TimeOf(s.opt.Clock.Now()), Kinds: []store.Swept{}}
	w := &walk{needed: newNeeded(), cursors: s.opt.Cursors, cut: cutoffs{now: rep.At, policy: s.opt.Policy().Effective()}, report: &rep}
	w.cut.events = before(rep.At, w.cut.policy.Events)
	if err := w.needed.read(ctx, s.opt.Store); err != nil {
		return rep, err
	}
	if _, err := s.crowded(ctx, w); err != nil {
		return rep, err
	}
	for _, kind := range store.AllKept() {
		swept := store.Swept{Kind: kind}
		for place := ""; ; {
			part, err := w.step(ctx, s.opt.Store, kind, place, &swept)
			if err != nil {
				return rep, fmt.Errorf("looking through the %s: %w", kind, err)
			}
			if swept.Deleted += len(part.gone); part.end {
				break
			}
			if place = part.next; s.since(began) > previewTime {
				rep.Truncated = true
				break
			}
		}
		rep.Kinds = append(rep.Kinds, swept)
	}
	var err error
	rep.Size, err = s.size(ctx)
	rep.OverSize = w.cut.policy.MaxSize > 0 && rep.Size.Used > w.cut.policy.MaxSize
	rep.Took = staunch.Duration(s.since(began))
	return rep, err
}
