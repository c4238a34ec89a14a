package notify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outbox is a table of notices; every other method of Reader and Tx is nil.
type outbox struct {
	mu   sync.Mutex
	rows map[string]store.Notice
	// fail, if set, may refuse a commit; the writes are then dropped.
	fail    func() error
	updates int
}

type outboxTx struct {
	store.Tx
	rows map[string]store.Notice
	puts []store.Notice
}

func (t *outboxTx) Notices(now staunch.Time, limit int) ([]store.Notice, error) {
	var out []store.Notice
	for _, n := range t.rows {
		if n.Done == 0 && n.Due <= now {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b store.Notice) int {
		return cmp.Or(cmp.Compare(a.Due, b.Due), strings.Compare(a.ID, b.ID))
	})
	return out[:min(len(out), limit)], nil
}

func (t *outboxTx) PutNotice(n store.Notice) error { t.puts = append(t.puts, n); return nil }

func (o *outbox) View(_ context.Context, fn func(store.Reader) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fn(&outboxTx{rows: o.rows})
}

func (o *outbox) Update(_ context.Context, fn func(store.Tx) error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.updates++
	// The contract allows the function to run more than once.
	if err := fn(&outboxTx{rows: o.rows}); err != nil {
		return err
	}
	tx := &outboxTx{rows: o.rows}
	if err := fn(tx); err != nil {
		return err
	}
	if o.fail != nil {
		if err := o.fail(); err != nil {
			return err
		}
	}
	for _, n := range tx.puts {
		o.rows[n.ID] = n
	}
	return nil
}

func (o *outbox) get(id string) store.Notice {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rows[id]
}

func (o *outbox) put(t testing.TB, channel, id string, tier staunch.Tier) string {
	t.Helper()
	m := message()
	m.ID, m.Tier, m.Kind = id, tier, KindContained
	n, err := m.Notice(channel, staunch.TimeOf(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows[n.ID] = n
	return n.ID
}

// channelFunc is a channel that does what it is told.
type channelFunc func(ctx context.Context, m Message) error

func (f channelFunc) Send(ctx context.Context, m Message) error { return f(ctx, m) }

// inbox keeps what a channel was sent, and when.
type inbox struct {
	mu  sync.Mutex
	ids []string
	at  []time.Time
}

func (i *inbox) add(m Message) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ids, i.at = append(i.ids, m.ID), append(i.at, time.Now())
	return len(i.ids)
}

func (i *inbox) got() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.ids)
}

func takes(i *inbox) Channel {
	return channelFunc(func(_ context.Context, m Message) error { i.add(m); return nil })
}

// hangs takes nothing and answers only when it is broken off.
func hangs(i *inbox) Channel {
	return channelFunc(func(ctx context.Context, m Message) error {
		i.add(m)
		<-ctx.Done()
		return staunch.Transient(ctx.Err())
	})
}

// run starts a dispatcher in the bubble and returns what stops it.
func run(t *testing.T, o *outbox, opt Options, channels ...Bound) (d *Dispatcher, stop func()) {
	t.Helper()
	opt.Store, opt.Log = o, slog.New(slog.DiscardHandler)
	if opt.Random == nil {
		opt.Random = func() float64 { return 1 }
	}
	d = NewDispatcher(opt, channels)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	return d, func() { cancel(); <-done }
}

func newOutbox() *outbox { return &outbox{rows: map[string]store.Notice{}} }

func TestDeliversAtOnceWhenWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		var seen []Attempt
		d, stop := run(t, o, Options{Poll: time.Hour, Observe: func(a Attempt) { seen = append(seen, a) }},
			Bound{Name: "ops", Channel: takes(in)})
		defer stop()
		synctest.Wait()
		began := time.Now()
		id := o.put(t, "ops", "m1", staunch.TierRevoke)
		d.Wake()
		synctest.Wait()
		if got := in.got(); !slices.Equal(got, []string{"m1"}) || !time.Now().Equal(began) {
			t.Fatalf("sent %v after %s", got, time.Since(began))
		}
		n := o.get(id)
		if n.Done == 0 || n.Error != "" || n.Attempts != 1 {
			t.Fatalf("row %+v", n)
		}
		if len(seen) != 1 || seen[0].Err != nil || !seen[0].Last || seen[0].Number != 1 || seen[0].Channel != "ops" {
			t.Fatalf("observed %+v", seen)
		}
		time.Sleep(24 * time.Hour)
		if len(in.got()) != 1 {
			t.Fatal("sent again")
		}
		// Looking at an empty outbox writes nothing.
		if o.updates != 2 {
			t.Fatalf("%d updates, want the claim and the end", o.updates)
		}
	})
}

// A channel that hangs, with more waiting than a page of the outbox holds,
// delays neither the other channels nor itself more than it must.
func TestAHangingChannelDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, bad, good := newOutbox(), &inbox{}, &inbox{}
		for i := range 5*page + 10 {
			o.put(t, "bad", fmt.Sprintf("bad-%04d", i), staunch.TierRevoke)
		}
		time.Sleep(time.Second)
		_, stop := run(t, o, Options{}, Bound{Name: "bad", Channel: hangs(bad)}, Bound{Name: "good", Channel: takes(good)})
		defer stop()
		synctest.Wait()
		for i := range 5 {
			began := time.Now()
			o.put(t, "good", fmt.Sprintf("good-%d", i), staunch.TierRevoke)
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			if len(good.got()) != i+1 || good.at[i].Sub(began) > time.Second {
				t.Fatalf("message %d: %d sent", i, len(good.got()))
			}
		}
		if n := len(bad.got()); n != 2 {
			t.Fatalf("%d sends hang at once, want 2", n)
		}
	})
}

func TestABacklogIsWorkedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		const n = 5 * page
		for i := range n {
			o.put(t, "ops", fmt.Sprintf("m-%05d", i), staunch.TierRevoke)
		}
		slow := channelFunc(func(_ context.Context, m Message) error { time.Sleep(100 * time.Millisecond); in.add(m); return nil })
		_, stop := run(t, o, Options{}, Bound{Name: "ops", Channel: slow})
		defer stop()
		// Two workers of ten a second each would take 64 s without any pause.
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		got := in.got()
		slices.Sort(got)
		if len(got) != n || len(slices.Compact(got)) != n {
			t.Fatalf("%d sent, want %d, each once", len(in.got()), n)
		}
	})
}

func TestBacksOffAndGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		id := o.put(t, "ops", "m1", staunch.TierRevoke)
		var seen []Attempt
		_, stop := run(t, o, Options{MaxAttempts: 5, FirstDelay: 4 * time.Second, MaxDelay: 20 * time.Second, Observe: func(a Attempt) { seen = append(seen, a) }},
			Bound{Name: "ops", Channel: channelFunc(func(_ context.Context, m Message) error { in.add(m); return staunch.Transient(errors.New("no route")) })})
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		var gaps []time.Duration
		for i := 1; i < len(in.at); i++ {
			gaps = append(gaps, in.at[i].Sub(in.at[i-1]))
		}
		if !slices.Equal(gaps, []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 20 * time.Second}) {
			t.Fatalf("waited %v", gaps)
		}
		n := o.get(id)
		if n.Done == 0 || n.Attempts != 5 || n.Error != "given up after 5 attempts: no route" {
			t.Fatalf("row %+v", n)
		}
		if last := seen[len(seen)-1]; len(seen) != 5 || !last.Last || last.Number != 5 || seen[3].Last {
			t.Fatalf("observed %+v", seen)
		}
	})
}

func TestJitterStaysBetweenHalfAndAll(t *testing.T) {
	for r, want := range map[float64]time.Duration{0: 5 * time.Second, 0.5: 7500 * time.Millisecond, 1: 10 * time.Second} {
		d := NewDispatcher(Options{FirstDelay: 10 * time.Second, Random: func() float64 { return r }}, nil)
		if got := d.delay(1); got != want {
			t.Errorf("random %v: %s, want %s", r, got, want)
		}
		if got := d.delay(1000); got != time.Duration(float64(time.Hour)*(0.5+r/2)) {
			t.Errorf("random %v: %s at most", r, got)
		}
	}
}

func TestAPermanentErrorIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		id := o.put(t, "ops", "m1", staunch.TierRevoke)
		_, stop := run(t, o, Options{}, Bound{Name: "ops", Channel: channelFunc(func(_ context.Context, m Message) error {
			in.add(m)
			return staunch.Permanent(errors.New("the channel answered 410 Gone"))
		})})
		defer stop()
		time.Sleep(24 * time.Hour)
		if n := o.get(id); len(in.got()) != 1 || n.Done == 0 || n.Error != "the channel answered 410 Gone" {
			t.Fatalf("%d sent, row %+v", len(in.got()), n)
		}
	})
}

func TestRetryAfterRestsTheWholeChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		for i := range 4 {
			o.put(t, "ops", fmt.Sprintf("m%d", i), staunch.TierRevoke)
		}
		began := time.Now()
		_, stop := run(t, o, Options{Workers: 1}, Bound{Name: "ops", Channel: channelFunc(func(_ context.Context, m Message) error {
			if in.add(m) == 1 {
				return staunch.Transient(&RetryAfter{After: 90 * time.Second, err: errors.New("429")})
			}
			return nil
		})})
		defer stop()
		time.Sleep(89 * time.Second)
		synctest.Wait()
		if got := in.got(); len(got) != 1 {
			t.Fatalf("sent %v while the channel rests", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := in.got(); len(got) != 5 || in.at[1].Sub(began) < 90*time.Second {
			t.Fatalf("sent %v", got)
		}
		for _, n := range o.rows { // being made to wait is no attempt
			if n.Done == 0 || n.Error != "" || n.Attempts > 2 {
				t.Errorf("row %+v", n)
			}
		}
	})
}

func TestMinimumTier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		moved := []string{}
		low := o.put(t, "ops", "low", staunch.TierRestrict)
		o.put(t, "ops", "high", staunch.TierIsolate)
		m := message()
		m.ID, m.Kind, m.Tier = "urgent", KindTrouble, staunch.TierObserve
		n, err := m.Notice("ops", staunch.TimeOf(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		o.rows[n.ID] = n
		// What is about a rule is of no tier, whichever way the rule goes.
		for _, kind := range []staunch.TrustKind{staunch.TrustPromoted, staunch.TrustDemoted} {
			for _, n := range (Teller{Channels: []string{"ops"}}).RuleMoved(staunch.TrustEvent{ID: string(kind), Kind: kind}) {
				if m, err = messageOf(n); err != nil {
					t.Fatal(err)
				}
				o.rows[n.ID] = n
				moved = append(moved, m.ID)
			}
		}
		_, stop := run(t, o, Options{}, Bound{Name: "ops", MinTier: staunch.TierIsolate, Channel: takes(in)})
		defer stop()
		time.Sleep(time.Minute)
		got, want := in.got(), append([]string{"high", "urgent"}, moved...)
		slices.Sort(got)
		slices.Sort(want)
		if len(moved) != 2 || !slices.Equal(got, want) {
			t.Fatalf("sent %v, want %v", got, want)
		}
		if n := o.get(low); n.Done == 0 || !strings.Contains(n.Error, "below the channel's minimum") || n.Attempts != 0 {
			t.Fatalf("row %+v", n)
		}
	})
}

func TestUnknownChannelAndUnreadableBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		gone := o.put(t, "gone", "m1", staunch.TierRevoke)
		for id, body := range map[string][]byte{"torn": []byte(`{"v":1,`), "later": []byte(`{"v":2,"id":"x","kind":"a"}`), "large": bytes.Repeat([]byte(" "), MaxBody+1)} {
			o.rows[id] = store.Notice{ID: id, Channel: "ops", Body: body}
		}
		d, stop := run(t, o, Options{}, Bound{Name: "ops", Channel: takes(in)})
		defer stop()
		time.Sleep(time.Second)
		synctest.Wait()
		for _, id := range []string{"torn", "later", "large"} {
			if n := o.get(id); n.Done == 0 || n.Error == "" {
				t.Errorf("%s: %+v", id, n)
			}
		}
		if n := o.get(gone); n.Done != 0 || n.Error != "no channel of this name is configured" {
			t.Errorf("gone: %+v", n)
		}
		// The channel comes back with the next configuration.
		d.Replace([]Bound{{Name: "gone", Channel: takes(in)}})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := o.get(gone); n.Done == 0 || n.Error != "" || !slices.Equal(in.got(), []string{"m1"}) {
			t.Errorf("came back: %+v, sent %v", n, in.got())
		}
	})
}

// What was claimed by a process that died is sent again once its claim is over;
// two dispatchers on one outbox send each notice once.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		for i := range 50 {
			o.put(t, "ops", fmt.Sprintf("m%02d", i), staunch.TierRevoke)
		}
		slow := channelFunc(func(_ context.Context, m Message) error { in.add(m); time.Sleep(10 * time.Second); return nil })
		_, stop1 := run(t, o, Options{Workers: 5}, Bound{Name: "ops", Channel: slow})
		_, stop2 := run(t, o, Options{Workers: 5}, Bound{Name: "ops", Channel: slow})
		time.Sleep(2 * time.Minute)
		stop1()
		stop2()
		got := in.got()
		slices.Sort(got)
		if len(got) != 50 || len(slices.Compact(got)) != 50 {
			t.Fatalf("%d sent, want 50, each once", len(in.got()))
		}

		// The end of the first attempt is never committed.
		o, in = newOutbox(), &inbox{}
		id := o.put(t, "ops", "again", staunch.TierRevoke)
		o.fail = func() error {
			if o.updates == 2 {
				return staunch.ErrCommitUnknown
			}
			return nil
		}
		_, stop := run(t, o, Options{SendTimeout: 20 * time.Second}, Bound{Name: "ops", Channel: takes(in)})
		defer stop()
		time.Sleep(34 * time.Second)
		if got := in.got(); len(got) != 1 {
			t.Fatalf("sent %v within the claim", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := o.get(id); !slices.Equal(in.got(), []string{"again", "again"}) || n.Done == 0 || n.Attempts != 2 {
			t.Fatalf("sent %v, row %+v", in.got(), n)
		}
	})
}

// A claim whose commit failed or is unknown is not sent.
func TestNothingIsSentWithoutACommittedClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		o.put(t, "ops", "m1", staunch.TierRevoke)
		down := true
		o.fail = func() error {
			if down {
				return staunch.ErrCommitUnknown
			}
			return nil
		}
		_, stop := run(t, o, Options{}, Bound{Name: "ops", Channel: takes(in)})
		defer stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := in.got(); len(got) != 0 {
			t.Fatalf("sent %v", got)
		}
		o.mu.Lock()
		down = false
		o.mu.Unlock()
		time.Sleep(2 * time.Second)
		if got := in.got(); len(got) != 1 {
			t.Fatalf("sent %v", got)
		}
	})
}

func TestShutdownWaitsAndThenBreaksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		quick, stuck := o.put(t, "quick", "q", staunch.TierRevoke), o.put(t, "stuck", "s", staunch.TierRevoke)
		_, stop := run(t, o, Options{Grace: 5 * time.Second},
			Bound{Name: "quick", Channel: channelFunc(func(_ context.Context, m Message) error { time.Sleep(3 * time.Second); in.add(m); return nil })},
			Bound{Name: "stuck", Channel: hangs(in)})
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if n := o.get(quick); n.Done == 0 || n.Error != "" {
			t.Errorf("quick: %+v", n)
		}
		if n := o.get(stuck); n.Done != 0 || n.Attempts != 0 || n.Due > staunch.TimeOf(time.Now()) {
			t.Errorf("stuck: %+v", n)
		}
	})
}

func TestAnAttemptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, in := newOutbox(), &inbox{}
		id := o.put(t, "ops", "m1", staunch.TierRevoke)
		_, stop := run(t, o, Options{SendTimeout: 10 * time.Second, FirstDelay: time.Hour}, Bound{Name: "ops", Channel: hangs(in)})
		defer stop()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if n := o.get(id); n.Error == "" || n.Attempts != 1 || n.Done != 0 {
			t.Fatalf("row %+v", n)
		}
	})
}
