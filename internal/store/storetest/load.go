package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Decide puts all of a decision's rows in the transaction: event, signal, cap,
// decision, containment, guard hold, timer and record.
func Decide(tx store.Tx, n int, at staunch.Time) error {
	ref := Ref(n)
	e, s, c := Event(n, at, ref), Signal(ref, n, at), Containment(ref, "load", at)
	if _, err := tx.PutEvent(e); err != nil {
		return err
	}
	if inserted, err := tx.PutSignal(s); err != nil || !inserted {
		return err
	}
	if ok, err := tx.Reserve("load", 1<<40, 0, false); err != nil || !ok {
		return errors.Join(err, errors.New("no place in a cap that cannot be full"))
	}
	d := staunch.Decision{V: 1, ID: staunch.DecisionID(ref, "sha256:bundle", []string{s.ID}), Subject: ref, Scope: ref, AsOf: at, Made: at,
		Signals: []string{s.ID}, Identity: c.Identity, Bundle: "sha256:bundle", Policy: "default", Tier: staunch.TierIsolate,
		Mode: staunch.ModeEnforce, Verdict: staunch.VerdictContain, Containment: c.ID}
	if _, err := tx.PutDecision(d); err != nil {
		return err
	}
	if err := tx.PutContainment(c); err != nil {
		return err
	}
	if _, err := tx.PutHold(Hold(staunch.PlaneGuard, ref, "load", c.ID)); err != nil {
		return err
	}
	if err := tx.PutTimer(store.Timer{ID: "plan/" + c.ID, Due: at, Kind: "plan", About: c.ID}); err != nil {
		return err
	}
	_, err := tx.AppendRecord(Record(c.ID, n, at))
	return err
}

// Load has workers decide on the numbers from first on, until ctx ends or an
// Update fails, and calls acked, one call at a time, after each that was
// committed.
func Load(ctx context.Context, s store.Store, workers, first int, acked func(n int)) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	next := first
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				n := next
				next++
				stop := failed != nil
				mu.Unlock()
				if stop {
					return
				}
				err := s.Update(ctx, func(tx store.Tx) error { return Decide(tx, n, staunch.Time(n+1)) })
				mu.Lock()
				if err == nil {
					acked(n)
				} else if ctx.Err() == nil {
					failed = errors.Join(failed, fmt.Errorf("decision %d: %w", n, err))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return failed
}

// CheckLoad checks what Load left behind: everything that was acknowledged is
// there, nothing is there by halves, nothing twice. It returns the number of
// decisions that are there.
func CheckLoad(r store.Reader, acked []int) (int, error) {
	for _, n := range acked {
		if _, err := r.Containment(staunch.ContainmentID(Ref(n), "load")); err != nil {
			return 0, fmt.Errorf("decision %d was acknowledged: %w", n, err)
		}
	}
	count := 0
	p := store.Page{Limit: store.MaxPage}
	for {
		page, err := r.Containments(p, true)
		if err != nil {
			return 0, err
		}
		if len(page) == 0 {
			break
		}
		p.After = page[len(page)-1].ID
		for _, c := range page {
			n, err := strconv.Atoi(c.Subject.Value[len("svc_"):])
			if err != nil {
				return 0, fmt.Errorf("containment of %s: %w", c.Subject, err)
			}
			count++
			if err := checkOne(r, c, n); err != nil {
				return 0, fmt.Errorf("decision %d by halves: %w", n, err)
			}
		}
	}
	used, err := r.Cap("load")
	if err != nil && (count > 0 || !errors.Is(err, staunch.ErrNotFound)) {
		return 0, err
	}
	records, err := VerifyChains(r)
	if err != nil {
		return 0, err
	}
	holds, err := r.HoldsAfter(staunch.PlaneGuard, 0, count+1)
	if err != nil {
		return 0, err
	}
	timers, err := r.DueTimers(1<<60, count+1)
	if err != nil {
		return 0, err
	}
	if used.Used != count || records != count || len(holds) != count || len(timers) != count {
		return 0, fmt.Errorf("%d decisions with %d places, %d records, %d holds, %d timers", count, used.Used, records, len(holds), len(timers))
	}
	return count, nil
}

func checkOne(r store.Reader, c staunch.Containment, n int) error {
	e := staunch.EventID("test", strconv.Itoa(n), "sha256:00", 0)
	_, err1 := r.Event(e)
	_, err2 := r.Signal(staunch.SignalID("rule-1", c.Subject, e))
	h, err3 := r.ActiveHold(staunch.PlaneGuard, staunch.Target{Ref: c.Subject, Attribute: "login"})
	recs, err4 := r.RecordsAbout(c.ID, 2)
	_, err5 := r.Decision(staunch.DecisionID(c.Subject, "sha256:bundle", []string{staunch.SignalID("rule-1", c.Subject, e)}))
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	if len(recs) != 1 || len(h.Claims) != 1 || h.Claims[0] != c.ID {
		return fmt.Errorf("%d records, claims %v", len(recs), h.Claims)
	}
	return nil
}
