package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// A guard that shares its store with others holds a place there, which says how
// far it has applied the holds, and renews it. While its place runs it counts:
// no hold is proven before it has applied it. When it cannot renew it, others
// stop waiting for it, and it answers with its fail mode by then: its own clock
// counts from before the renewal was sent, the database's from when it came.

// provenCursor has the sequence up to which every guard hold was proven, or has
// a later sequence.
const provenCursor = "guards/proven"

// provePage bounds the holds that one transaction proves.
const provePage = 200

// Renew takes or renews the guard's place in the store. It does nothing for a
// guard without a node's name.
func (g *Guard) Renew(ctx context.Context) error {
	if g.opt.Node == "" {
		return nil
	}
	began := g.opt.Clock.Now()
	place := store.Guard{Node: g.opt.Node, Applied: g.Seq(), Version: g.opt.Version}
	if g.opt.Bundle != nil {
		place.Bundle = g.opt.Bundle()
	}
	g.placeMu.Lock()
	defer g.placeMu.Unlock()
	first, lapsed := g.place.Since == 0, !g.placed(began)
	place.Since = g.place.Since
	err := g.opt.Store.Update(ctx, func(tx store.Tx) error {
		if g.opt.Admit != nil {
			if err := g.opt.Admit(tx, first); err != nil {
				return err
			}
		}
		var err error
		place, err = tx.RenewGuard(place, g.opt.StaleAfter, first)
		return err
	})
	if err != nil {
		return fmt.Errorf("renewing the guard's place: %w", err)
	}
	g.place = place
	if lapsed {
		// Without a place nobody waited for this guard; from here on they do.
		if err := g.catchUp(ctx); err != nil {
			return err
		}
	}
	until := began.Add(g.opt.StaleAfter)
	g.until.Store(&until)
	return nil
}

// Leave gives the guard's place up, so that nobody waits for it.
func (g *Guard) Leave(ctx context.Context) error {
	if g.opt.Node == "" {
		return nil
	}
	g.placeMu.Lock()
	defer g.placeMu.Unlock()
	if g.place.Since == 0 {
		return nil
	}
	g.until.Store(&time.Time{})
	g.place = store.Guard{}
	return g.opt.Store.Update(ctx, func(tx store.Tx) error {
		if g.opt.Admit != nil {
			if err := g.opt.Admit(tx, false); err != nil {
				return err
			}
		}
		return tx.DeleteGuard(g.opt.Node)
	})
}

// placed reports whether the guard has a place at now. A clock that went back
// cannot tell.
func (g *Guard) placed(now time.Time) bool {
	until := g.until.Load()
	if until == nil {
		return false
	}
	left := until.Sub(now)
	return left > 0 && left <= g.opt.StaleAfter
}

// Guards returns the nodes' places, and the database's clock.
func (g *Guard) Guards(ctx context.Context) (all []store.Guard, now staunch.Time, err error) {
	err = g.opt.Store.View(ctx, func(r store.Reader) error {
		all, now, err = r.Guards()
		return err
	})
	return all, now, err
}

// renewDue reports whether the place has to be renewed: because a third of its
// time is over, or because it says of less than was applied or of another
// bundle, which somebody may wait for.
func (g *Guard) renewDue() bool {
	if g.opt.Node == "" {
		return false
	}
	until := g.until.Load()
	if until == nil || until.Sub(g.opt.Clock.Now()) < g.opt.StaleAfter*2/3 {
		return true
	}
	g.placeMu.Lock()
	defer g.placeMu.Unlock()
	return g.place.Applied != g.Seq() || g.opt.Bundle != nil && g.place.Bundle != g.opt.Bundle()
}

// Prove marks the guard holds proven that every live guard has applied, and
// returns how many. Any node may do it; one that does it a second time finds
// nothing.
func (g *Guard) Prove(ctx context.Context) (int, error) {
	if g.opt.Node == "" {
		return 0, nil
	}
	var proven int
	for {
		some := false
		// Most often there is nothing, which a read tells.
		err := g.opt.Store.View(ctx, func(r store.Reader) error {
			_, upTo, holds, err := provable(r)
			some = len(holds) == provePage || slices.ContainsFunc(holds, func(h staunch.Hold) bool {
				return h.Seq <= upTo && h.State == staunch.HoldInForce
			})
			return err
		})
		if err != nil || !some {
			return proven, wrapProve(err)
		}
		n, more := 0, false
		err = g.opt.Store.Update(ctx, func(tx store.Tx) error {
			n = 0
			live, upTo, holds, err := provable(tx)
			if err != nil || len(holds) == 0 {
				return err
			}
			more = len(holds) == provePage
			var last int64
			for _, h := range holds {
				if h.Seq > upTo {
					more = false
					break
				}
				last = h.Seq
				if h.State != staunch.HoldInForce {
					continue
				}
				if err := g.prove(tx, h, live); err != nil {
					return err
				}
				n++
			}
			if last == 0 {
				return nil
			}
			return tx.PutCursor(provenCursor, fmt.Sprint(last))
		})
		if err != nil {
			return proven, wrapProve(err)
		}
		if proven += n; !more {
			return proven, nil
		}
	}
}

func (g *Guard) prove(tx store.Tx, h staunch.Hold, live []string) error {
	now := staunch.TimeOf(g.opt.Clock.Now())
	h.State, h.Changed = staunch.HoldProven, now
	body, err := json.Marshal(map[string]any{"hold": h.ID, "target": h.Target.Ref.String(), "deny": h.Deny, "guards": live})
	if err != nil {
		return fmt.Errorf("encoding a proof's record: %w", err)
	}
	if h, err = tx.PutHold(h); err != nil {
		return err
	}
	tx.OnCommit(func() { g.Apply(h) })
	for _, id := range h.Claims {
		rec := staunch.Record{Time: now, Kind: staunch.RecordProof, Actor: "engine", About: id, Body: body}
		if _, err := tx.AppendRecord(rec); err != nil {
			return err
		}
	}
	return nil
}

func wrapProve(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("proving holds on the fast plane: %w", err)
}

// provable returns the live guards' names, the sequence that all of them have
// applied, and the holds up to it that nobody has looked at yet.
func provable(r store.Reader) (live []string, upTo int64, holds []staunch.Hold, err error) {
	guards, now, err := r.Guards()
	if err != nil {
		return nil, 0, nil, err
	}
	for _, p := range guards {
		if !p.Live(now) {
			continue // it answers with its fail mode
		}
		if len(live) == 0 || p.Applied < upTo {
			upTo = p.Applied
		}
		live = append(live, p.Node)
	}
	if len(live) == 0 {
		return nil, 0, nil, nil
	}
	after, err := readCursor(r)
	if err != nil || after >= upTo {
		return live, upTo, nil, err
	}
	holds, err = r.HoldsAfter(staunch.PlaneGuard, after, provePage)
	if len(holds) > 0 && holds[0].Seq > upTo {
		holds = nil
	}
	return live, upTo, holds, err
}

func readCursor(r store.Reader) (int64, error) {
	s, err := r.Cursor(provenCursor)
	if errors.Is(err, staunch.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var n int64
	if _, err := fmt.Sscan(s, &n); err != nil {
		return 0, fmt.Errorf("cursor %s is %q: %w", provenCursor, s, err)
	}
	return n, nil
}
