package wrap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// ErrInjected is wrapped by every error that Faults makes.
var ErrInjected = errors.New("injected fault")

// Fault is what happens to a call; the zero value lets it pass.
type Fault struct {
	// Delay passes before the call, or until its context ends.
	Delay time.Duration
	// Before keeps the call from being sent, with a transient error.
	Before bool
	// Lost sends the call and loses its answer: outcome-unknown for what
	// changes the platform, transient for what reads.
	Lost bool
}

// Faults returns a connector to which faults happen. decide is told the call
// and how many there were with the same method and key before; it is called
// concurrently.
func Faults(c connector.Connector, decide func(call Call, before int) Fault) connector.Connector {
	var mu sync.Mutex
	counts := map[Call]int{}
	return intercept(c, func(ctx context.Context, call Call, next func(context.Context) error) error {
		mu.Lock()
		n := counts[call]
		counts[call]++
		mu.Unlock()
		f := decide(call, n)
		if f.Delay > 0 {
			t := time.NewTimer(f.Delay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return staunch.Transient(fmt.Errorf("%s %s: delayed: %w", call.Method, call.Key, ctx.Err()))
			}
		}
		if f.Before {
			return staunch.Transient(fmt.Errorf("%s %s: not sent: %w", call.Method, call.Key, ErrInjected))
		}
		err := next(ctx)
		if !f.Lost {
			return err
		}
		lost := fmt.Errorf("%s %s: answer lost: %w", call.Method, call.Key, ErrInjected)
		if call.Method.Mutates() {
			return staunch.OutcomeUnknown(lost)
		}
		return staunch.Transient(lost)
	})
}

// Rates are the shares of calls, from 0 to 1, to which each fault happens.
type Rates struct {
	Before, Lost, Delayed float64
	// MostDelay bounds the delays.
	MostDelay time.Duration
}

// Seeded returns a decision for Faults that depends on the seed, the call and
// its count alone, so that a run repeats whatever the order of its calls.
func Seeded(seed uint64, r Rates) func(Call, int) Fault {
	return func(call Call, before int) Fault {
		draw := func(what string) float64 {
			h := fnv.New64a()
			var b [16]byte
			binary.BigEndian.PutUint64(b[:8], seed)
			binary.BigEndian.PutUint64(b[8:], uint64(before))
			_, _ = h.Write(b[:])
			_, _ = fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", what, call.Method, call.Verb, call.Key)
			// FNV alone mixes the high bits of short inputs badly.
			x := h.Sum64()
			x ^= x >> 33
			x *= 0xff51afd7ed558ccd
			x ^= x >> 33
			return float64(x>>11) / (1 << 53)
		}
		var f Fault
		f.Before = draw("before") < r.Before
		f.Lost = draw("lost") < r.Lost
		if draw("delayed") < r.Delayed {
			f.Delay = time.Duration(draw("delay") * float64(r.MostDelay))
		}
		return f
	}
}
