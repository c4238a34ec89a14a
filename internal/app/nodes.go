package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// Several nodes on one database decide by one configuration: the bundle that is
// active in the store. A node whose files make another does not decide. It
// answers the fast plane, carries cases on, and refuses records with "come back
// later"; it looks at its files from time to time, and goes on when they make the
// active bundle. Only a start that finds no other node, and a reload, activate.

// nodes is what a node knows of the others.
type nodes struct {
	// reload is held while the configuration is read and put in place.
	reload sync.Mutex
	// foreign has the guardrails of the active bundle while it is another than
	// ours: what it protects, we do not touch either.
	foreign atomic.Pointer[decide.Guardrails]
	looked  time.Time // when our files were read last
	// process is the number of this process among the node's.
	process int64
}

// lookEvery is how often a node that does not decide reads its files again.
const lookEvery = 10 * time.Second

// activate puts the set-up's identities and bundle in the store, with a record,
// and reports whether they were others before.
func (a *App) activate(tx store.Tx, s *Setup, who string) (changed bool, err error) {
	now := staunch.TimeOf(a.opt.Clock.Now())
	before, err := tx.ActiveHash()
	if err != nil && !errors.Is(err, staunch.ErrNotFound) {
		return false, err
	}
	changes, err := inventory.Sync(tx, s.Identities)
	if err != nil {
		return false, fmt.Errorf("putting the declared identities: %w", err)
	}
	if before == s.Bundle.Hash && changes.Empty() {
		return false, nil
	}
	if err := tx.PutBundle(store.Bundle{Hash: s.Bundle.Hash, Made: now, Body: s.Body}, true); err != nil {
		return false, err
	}
	body := map[string]any{
		"bundle": s.Bundle.Hash, "before": before, "rules": len(s.Bundle.Rules.Rules()), "identities": changes,
		"mode": s.Config.Mode, "config": a.digestOf(s.Config),
	}
	if refused := refusedPlaces(s); len(refused) > 0 {
		body["refused"] = refused
	}
	return true, appendRecord(tx, staunch.RecordConfig, who, s.Bundle.Hash, now, body)
}

// mostRefused bounds the places of refused rules that a record names.
const mostRefused = 20

// refusedPlaces says where the rules stand that the set-up goes without.
func refusedPlaces(s *Setup) []string {
	var out []string
	for i, e := range s.RuleErrors {
		if i == mostRefused {
			return append(out, fmt.Sprintf("and %d more", len(s.RuleErrors)-i))
		}
		e := *e
		e.Path = relative(s.Config, e.Path)
		out = append(out, e.Place())
	}
	return out
}

// digestOf returns a keyed digest of a configuration file, which may have
// secrets in it: records show by it whether a node's own part was changed.
func (a *App) digestOf(cfg *config.Config) string {
	return fmt.Sprintf("hmac-sha256:%x", a.keys.MAC("configuration file", cfg.Sum()))
}

// started leaves a record of this node's start.
func (a *App) started(tx store.Tx, waits bool) error {
	return appendRecord(tx, staunch.RecordNode, "engine", a.cfg.Node, staunch.TimeOf(a.opt.Clock.Now()), map[string]any{
		"started": a.cfg.Node, "version": a.opt.Version, "bundle": a.setup.Bundle.Hash, "config": a.digestOf(a.cfg),
		"mode": a.cfg.Mode, "waits": waits, "process": a.nodes.process,
	})
}

// owner is what this process is called in leases, once it has begun.
func (a *App) owner() string { return store.Owner(a.cfg.Node, a.nodes.process) }

// newest ends this process where another has begun under the node's name: both
// would have one lease on a case, and one place among the guards.
func (a *App) newest(r store.Reader) error {
	err := store.NewestProcess(r, a.cfg.Node, a.nodes.process)
	if errors.Is(err, staunch.ErrConflict) {
		select {
		case a.failed <- &staunch.Problem{
			Place: a.cfg.File(), Reason: "another process has begun as node " + a.cfg.Node + " on the same database, so this one ends",
			Hint: "give each node a `node` of its own",
		}:
		default:
		}
	}
	return err
}

// admitGuard refuses the guard's place to a process that another has followed, and
// at first to one that lacks a key.
func (a *App) admitGuard(tx store.Tx, first bool) error {
	if err := a.newest(tx); err != nil || !first {
		return err
	}
	return a.sharesKeys(tx)
}

// begin activates the configuration that the node starts with, unless another
// node lives that may decide by another.
func (a *App) begin(ctx context.Context) error {
	a.nodes.reload.Lock()
	defer a.nodes.reload.Unlock()
	var active string
	err := a.store.Update(ctx, func(tx store.Tx) error {
		active = ""
		var err error
		if a.nodes.process, err = store.BeginProcess(tx, a.cfg.Node); err != nil {
			return err
		}
		guards, now, err := tx.Guards()
		if err != nil {
			return err
		}
		others := false
		for _, g := range guards {
			switch {
			case g.Node == a.cfg.Node:
			case a.cfg.PostgresURL.Empty():
				// Nobody else has the file; it is this node under its former name.
				if err := tx.DeleteGuard(g.Node); err != nil {
					return err
				}
			case g.Live(now):
				others = true
			}
		}
		if others {
			hash, err := tx.ActiveHash()
			if err != nil && !errors.Is(err, staunch.ErrNotFound) {
				return err
			}
			if err == nil && hash != a.setup.Bundle.Hash {
				active = hash
				return a.started(tx, true)
			}
		}
		if _, err := a.activate(tx, a.setup, "engine"); err != nil {
			return err
		}
		return a.started(tx, false)
	})
	if err != nil {
		return fmt.Errorf("activating the configuration: %w", err)
	}
	if active != "" {
		return a.waitFor(ctx, active)
	}
	return nil
}

// waitFor has this node decide nothing while another bundle is active.
func (a *App) waitFor(ctx context.Context, active string) error {
	if a.pipe.Waits() == active {
		return nil
	}
	a.pipe.WaitFor(active)
	a.opt.Log.Warn("another configuration is active: this node does not decide", "active", active, "ours", a.current().Bundle.Hash)
	var b store.Bundle
	if err := a.store.View(ctx, func(r store.Reader) error {
		var err error
		b, err = r.ActiveBundle()
		return err
	}); err != nil {
		return fmt.Errorf("reading the active bundle: %w", err)
	}
	var body struct {
		Limits decide.Limits `json:"limits"`
	}
	if err := json.Unmarshal(b.Body, &body); err != nil {
		return fmt.Errorf("reading the active bundle: %w", err)
	}
	g, err := decide.NewGuardrails(body.Limits)
	if err != nil {
		return fmt.Errorf("reading the active bundle: %w", err)
	}
	a.nodes.foreign.Store(g)
	return nil
}

// protected says why a ref may never be touched, by this node's configuration or
// by the active one.
func (a *App) protected(ref staunch.Ref) string {
	if why := a.current().Guardrails.Protected(nil, ref); why != "" {
		return why
	}
	if g := a.nodes.foreign.Load(); g != nil {
		return g.Protected(nil, ref)
	}
	return ""
}

// use puts a set-up in place whose bundle is the active one.
func (a *App) use(s *Setup) {
	a.mu.Lock()
	a.setup = s
	a.mu.Unlock()
	a.pipe.SetBundle(s.Bundle)
	a.pipe.SetGuardrails(s.Guardrails)
	a.pipe.WaitFor("")
	a.nodes.foreign.Store(nil)
}

// followBundle looks at the active bundle until ctx ends.
func (a *App) followBundle(ctx context.Context) {
	woken := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		a.listen(ctx, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	})
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-woken:
		}
		if err := a.checkBundle(ctx); err != nil && ctx.Err() == nil {
			a.opt.Log.Error("looking at the active configuration", "error", err)
		}
		// Holds wake as well; a flood of them is looked at now and then.
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkBundle goes on where our bundle is the active one, or our files now make
// it, and waits where they do not.
func (a *App) checkBundle(ctx context.Context) error {
	a.nodes.reload.Lock()
	defer a.nodes.reload.Unlock()
	var active string
	err := a.store.View(ctx, func(r store.Reader) error {
		var err error
		active, err = r.ActiveHash()
		return err
	})
	if err != nil {
		return err
	}
	if ours := a.current(); active == ours.Bundle.Hash {
		if a.pipe.Waits() != "" || a.nodes.foreign.Load() != nil {
			a.use(ours)
			a.opt.Log.Info("this node's configuration is the active one again", "bundle", active)
		}
		return nil
	}
	first := a.pipe.Waits() != active
	if err := a.waitFor(ctx, active); err != nil {
		return err
	}
	now := time.Now()
	if !first && now.Sub(a.nodes.looked) < lookEvery {
		return nil
	}
	a.nodes.looked = now
	cfg, err := config.Load(a.cfg.File())
	if err != nil {
		return fmt.Errorf("reading this node's files: %w", err)
	}
	// Whoever activated it chose whether to go without the rules that are refused:
	// the hash says which are used, and which are silenced.
	s, err := Load(cfg, false)
	if err != nil {
		return fmt.Errorf("reading this node's files: %w", err)
	}
	if s.Bundle.Hash != active {
		return nil // somebody is still to bring them here
	}
	a.use(s)
	a.opt.Log.Info("took the active configuration over", "bundle", active)
	return nil
}

// listen calls wake when the store hears of another node's change, until ctx
// ends.
func (a *App) listen(ctx context.Context, wake func()) {
	l, ok := a.store.(interface {
		Listen(ctx context.Context, fn func(sqlstore.Change)) error
	})
	if !ok {
		return
	}
	err := l.Listen(ctx, func(c sqlstore.Change) {
		if c.Holds {
			wake()
		}
	})
	if err != nil && ctx.Err() == nil {
		a.opt.Log.Error("listening for changes; looking for them goes on", "error", err)
	}
}

// leave gives the guard's place up, so that others do not wait for it.
func (a *App) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := a.guard.Leave(ctx); err != nil {
		a.opt.Log.Warn("giving the guard's place up; it runs out by itself", "error", err)
	}
}

// sealedBy names the cursor that has the id of the key that values are sealed
// with since the last rotation.
const sealedBy = "seal/key"

// sharesKeys refuses a node whose key file lacks the key that values are sealed
// with: it could neither undo nor prove what is held.
func (a *App) sharesKeys(tx store.Tx) error {
	id, err := tx.Cursor(sealedBy)
	if errors.Is(err, staunch.ErrNotFound) || err == nil && slices.Contains(a.keys.KeyIDs(), id) {
		return nil
	}
	if err != nil {
		return err
	}
	return &staunch.Problem{
		Place: a.cfg.KeyFile, Reason: "does not have the key " + id + ", which values are sealed with since the last rotation",
		Hint: "copy the key file from the node where `staunch seal rotate` ran",
	}
}

// guardChecks shows every node's place on the fast plane.
func (a *App) guardChecks(ctx context.Context) []api.Check {
	guards, now, err := a.guard.Guards(ctx)
	if err != nil {
		return []api.Check{{Name: "guards", Status: "error", Message: err.Error()}}
	}
	out := make([]api.Check, 0, len(guards))
	for _, g := range guards {
		c := api.Check{Name: "guard " + g.Node, Status: "ok", Message: fmt.Sprintf("applied_seq %d, bundle %s, renewed %s ago", g.Applied, g.Bundle, ago(now, g.Renewed))}
		if !g.Live(now) {
			c.Status = "warning"
			c.Message = fmt.Sprintf("its place ran out %s ago at applied_seq %d: it answers with its fail mode, and no hold waits for it", ago(now, g.Until), g.Applied)
			c.Hint = "start the node again; its place is forgotten after a day"
		}
		out = append(out, c)
	}
	return out
}

func ago(now, at staunch.Time) time.Duration { return now.Std().Sub(at.Std()).Round(time.Millisecond) }

// forgetAfter is when the place of a node that is gone is deleted.
const forgetAfter = 24 * time.Hour

// pruneCaps deletes the counters of past hours, and the places of nodes that are
// long gone.
func (a *App) pruneCaps(ctx context.Context) error {
	var stale []string
	var gone []string
	now := staunch.TimeOf(a.opt.Clock.Now())
	rails := a.current().Guardrails
	err := a.store.View(ctx, func(r store.Reader) error {
		stale, gone = nil, nil
		for _, prefix := range decide.RunningOut() {
			for after := ""; ; {
				names, err := r.CapsNamed(prefix, after, store.MaxPage)
				if err != nil {
					return err
				}
				for _, n := range names {
					if rails.RanOut(n, now) {
						stale = append(stale, n)
					}
				}
				if len(names) < store.MaxPage {
					break
				}
				after = names[len(names)-1]
			}
		}
		guards, at, err := r.Guards()
		for _, g := range guards {
			if g.Until.Add(forgetAfter) < at {
				gone = append(gone, g.Node)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(stale, 200) {
		if err := a.store.Update(ctx, func(tx store.Tx) error {
			for _, n := range part {
				if err := tx.DeleteCap(n); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, n := range gone {
		if err := a.store.Update(ctx, func(tx store.Tx) error { return tx.DeleteGuard(n) }); err != nil {
			return err
		}
	}
	return nil
}
