package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Store is the part of a store.Store that a Dispatcher needs; of the Tx it calls
// Notices and PutNotice alone.
type Store interface {
	Update(ctx context.Context, fn func(store.Tx) error) error
	View(ctx context.Context, fn func(store.Reader) error) error
}

// Options sets up a Dispatcher. Store and Log are required; what else is zero
// takes the default.
type Options struct {
	Store Store
	Log   *slog.Logger
	Clock staunch.Clock
	// Poll is how often the outbox is looked at when nobody calls Wake. Default 1 s.
	Poll time.Duration
	// Workers is how many messages each channel sends at once. Default 2.
	Workers int
	// SendTimeout bounds one attempt. Default one minute, which is more than any
	// channel takes by itself.
	SendTimeout time.Duration
	// FirstDelay is the delay after the first failure; it doubles with each
	// attempt up to MaxDelay. Default 5 s and one hour.
	FirstDelay, MaxDelay time.Duration
	// MaxAttempts is after how many a notice is given up. Default 20: about
	// eleven hours with the default delays.
	MaxAttempts int
	// Grace is how long messages under way may take to end after Run's context
	// has. Default 5 s.
	Grace time.Duration
	// Observe, if given, is told the end of every attempt, for metrics. It is
	// called from several goroutines and must not block.
	Observe func(Attempt)
	// Random returns numbers in [0,1) for jitter. Default math/rand/v2.
	Random func() float64
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	def(&o.Poll, time.Second)
	def(&o.SendTimeout, time.Minute)
	def(&o.FirstDelay, 5*time.Second)
	def(&o.MaxDelay, time.Hour)
	def(&o.Grace, 5*time.Second)
	if o.Clock == nil {
		o.Clock = staunch.SystemClock{}
	}
	if o.Workers <= 0 {
		o.Workers = 2
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 20
	}
	if o.Observe == nil {
		o.Observe = func(Attempt) {}
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	return o
}

// Attempt is how one attempt to deliver ended.
type Attempt struct {
	Channel string
	Notice  string
	// Number counts from 1.
	Number int
	// Err is nil when the channel took it.
	Err error
	// Last says that there will be no other: it was taken or given up.
	Last bool
	Took time.Duration
}

// commitMargin is what a claim lasts longer than an attempt may take: the time
// to commit how it ended.
const commitMargin = 15 * time.Second

// crowded is for how long notices of a busy channel are put off where they fill
// a page of the outbox.
const crowded = 15 * time.Second

// page is how much of the outbox is looked at in one go.
const page = 256

// Dispatcher delivers what stands in the outbox. Run it once a node: several
// nodes share the outbox, since a notice is claimed, by moving its due time
// beyond the attempt's end, in a transaction before it is sent.
//
// Delays are kept in the notice's row and not in memory (as retry libraries have
// them), so that they outlive a restart.
type Dispatcher struct {
	o     Options
	wake  chan struct{}
	ended chan *lane
	wg    sync.WaitGroup

	mu    sync.Mutex
	lanes map[string]*lane
}

// lane is a channel's state.
type lane struct {
	Bound
	busy int
	// rests is until when the channel asked to be left alone.
	rests staunch.Time
}

// NewDispatcher makes a dispatcher for the channels.
func NewDispatcher(o Options, channels []Bound) *Dispatcher {
	d := &Dispatcher{o: o.withDefaults(), wake: make(chan struct{}, 1), ended: make(chan *lane)}
	d.Replace(channels)
	return d
}

// Replace puts other channels in the place of those that there were; messages
// under way end with the old ones. A notice of a channel that is no longer there
// is kept and tried again, in case the channel comes back.
func (d *Dispatcher) Replace(channels []Bound) {
	lanes := make(map[string]*lane, len(channels))
	for _, c := range channels {
		lanes[c.Name] = &lane{Bound: c}
	}
	d.mu.Lock()
	d.lanes = lanes
	d.mu.Unlock()
	d.Wake()
}

// Wake has the outbox looked at now. Call it from OnCommit of the transaction
// that put a notice; it never blocks.
func (d *Dispatcher) Wake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run delivers until ctx ends, then waits for what is under way: Grace at most,
// after which those attempts are broken off and come again. It starts no
// goroutine that outlives it, and is called once.
func (d *Dispatcher) Run(ctx context.Context) {
	sending, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	defer breakOff()
	tick := time.NewTicker(d.o.Poll)
	defer tick.Stop()
	for ctx.Err() == nil {
		more, err := d.poll(ctx, sending)
		if err != nil && ctx.Err() == nil {
			d.o.Log.Warn("looking at the outbox failed; it is looked at again", "error", err)
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-d.wake:
		case l := <-d.ended:
			d.free(l)
		}
	}

	all := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(all)
	}()
	grace := time.NewTimer(d.o.Grace)
	defer grace.Stop()
	for {
		select {
		case l := <-d.ended:
			d.free(l)
		case <-grace.C:
			breakOff()
		case <-all:
			return
		}
	}
}

func (d *Dispatcher) free(l *lane) {
	d.mu.Lock()
	l.busy--
	d.mu.Unlock()
}

// job is a notice that was claimed.
type job struct {
	lane    *lane
	notice  store.Notice
	message Message
}

// poll claims what is due and can be sent now, and starts sending it. more says
// that there may be more to claim at once.
func (d *Dispatcher) poll(ctx, sending context.Context) (more bool, err error) {
	now := staunch.TimeOf(d.o.Clock.Now())
	// Looking costs no write; most looks find nothing.
	found := false
	err = d.o.Store.View(ctx, func(r store.Reader) error {
		due, err := r.Notices(now, page)
		if err != nil {
			return err
		}
		rows, _ := d.plan(due, now)
		found = len(rows) > 0
		return nil
	})
	if err != nil || !found {
		return false, err
	}
	var (
		rows []store.Notice
		jobs []job
	)
	err = d.o.Store.Update(ctx, func(tx store.Tx) error {
		due, err := tx.Notices(now, page)
		if err != nil {
			return err
		}
		rows, jobs = d.plan(due, now)
		more = len(due) == page && len(rows) > 0
		for _, n := range rows {
			if err := tx.PutNotice(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		// Whether a commit whose outcome is unknown happened or not, nothing was
		// sent, and the notices come due again.
		return false, err
	}
	for _, n := range rows {
		if n.Done != 0 && n.Error != "" {
			d.o.Log.Warn("a notice was not sent", "notice", n.ID, "channel", n.Channel, "reason", n.Error)
		}
	}
	for _, j := range jobs {
		d.mu.Lock()
		j.lane.busy++
		d.mu.Unlock()
		d.wg.Go(func() {
			d.deliver(sending, j)
			d.ended <- j.lane
		})
	}
	return more, nil
}

// plan says which rows change and which of them are to be sent. It changes
// nothing itself.
func (d *Dispatcher) plan(due []store.Notice, now staunch.Time) (rows []store.Notice, jobs []job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken, waiting := map[*lane]int{}, map[*lane]int{}
	// What the lanes may keep waiting in a page leaves half of it to the others.
	keep := page / (2 * (len(d.lanes) + 1))
	for _, n := range due {
		l := d.lanes[n.Channel]
		switch {
		case l == nil:
			n.Attempts++
			n = d.failed(n, now, staunch.Transient(errors.New("no channel of this name is configured")))
		case l.rests > now:
			n.Due = l.rests
		case l.busy+taken[l] >= d.o.Workers:
			waiting[l]++
			if len(due) < page || waiting[l] <= keep {
				continue // it stays due and is seen when a worker is free
			}
			// A page full of a slow channel's notices must not hide the others'.
			n.Due = now.Add(crowded)
		default:
			m, err := messageOf(n)
			switch {
			case err != nil:
				n.Attempts, n.Done, n.Error = n.Attempts+1, now, trim(err.Error())
			case m.Tier < l.MinTier && !m.Kind.Urgent():
				n.Done, n.Error = now, fmt.Sprintf("not sent: tier %s is below the channel's minimum, %s", m.Tier, l.MinTier)
			default:
				taken[l]++
				n.Attempts++
				n.Due = now.Add(d.o.SendTimeout + commitMargin)
				jobs = append(jobs, job{lane: l, notice: n, message: m})
			}
		}
		rows = append(rows, n)
	}
	return rows, jobs
}

// deliver makes one attempt and commits how it ended.
func (d *Dispatcher) deliver(sending context.Context, j job) {
	began := d.o.Clock.Now()
	ctx, cancel := context.WithTimeout(sending, d.o.SendTimeout)
	err := j.lane.Channel.Send(ctx, j.message)
	cancel()
	now := staunch.TimeOf(d.o.Clock.Now())

	n := j.notice
	log := d.o.Log.With("notice", n.ID, "channel", n.Channel, "attempt", n.Attempts)
	switch {
	case err == nil:
		n.Done, n.Error = now, ""
	case sending.Err() != nil:
		// Broken off by the end of Run, which is nobody's failure.
		n.Attempts--
		n.Due, n.Error = now, "broken off by a shutdown"
	default:
		n = d.failed(n, now, err)
		var wait *RetryAfter
		if errors.As(err, &wait) && n.Done == 0 {
			d.mu.Lock()
			j.lane.rests = max(j.lane.rests, now.Add(wait.After))
			d.mu.Unlock()
		}
		if n.Done != 0 {
			log.Error("a notice was given up", "error", err)
		} else {
			log.Warn("a notice was not delivered and is tried again", "error", err, "due", n.Due.String())
		}
	}
	commit, cancel := context.WithTimeout(context.WithoutCancel(sending), commitMargin/2)
	defer cancel()
	if err := d.o.Store.Update(commit, func(tx store.Tx) error { return tx.PutNotice(n) }); err != nil {
		log.Warn("how a notice's delivery ended could not be kept; it may be sent again", "error", err)
	}
	d.o.Observe(Attempt{
		Channel: n.Channel, Notice: n.ID, Number: j.notice.Attempts, Err: err, Last: n.Done != 0, Took: d.o.Clock.Now().Sub(began),
	})
}

// failed returns the row after a failed attempt: due later, or given up.
func (d *Dispatcher) failed(n store.Notice, now staunch.Time, err error) store.Notice {
	n.Error = trim(err.Error())
	switch {
	case staunch.ClassOf(err) == staunch.ClassPermanent:
		n.Done = now
	case n.Attempts >= d.o.MaxAttempts:
		n.Done, n.Error = now, trim(fmt.Sprintf("given up after %d attempts: %v", n.Attempts, err))
	default:
		wait := d.delay(n.Attempts)
		var after *RetryAfter
		if errors.As(err, &after) {
			wait = max(wait, after.After)
		}
		n.Due = now.Add(wait)
	}
	return n
}

// delay returns how long to wait after the given number of failed attempts:
// doubling, capped, and between half and all of that at random, so that what
// failed together does not come back together.
func (d *Dispatcher) delay(attempts int) time.Duration {
	wait := d.o.MaxDelay
	if shift := attempts - 1; shift < 32 && d.o.FirstDelay<<shift < wait {
		wait = d.o.FirstDelay << shift
	}
	return wait/2 + time.Duration(d.o.Random()*float64(wait/2))
}

func trim(s string) string { return clip(s, 1000) }
