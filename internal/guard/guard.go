// Package guard is the fast plane: it answers, from the guard holds in memory,
// whether an action may go on. Policy enforcement points ask it through OpenID
// AuthZEN 1.0 (see [Guard.Evaluation] and [Guard.Evaluations]).
//
// # How a subject becomes refs
//
// An AuthZEN subject has a type, an id and properties. The configured subject
// mappings for its type each make one ref of it: from its id or from one of its
// properties, as a value or, for raw tokens, as the token's digest. A hold on
// any of those refs denies. A type without a mapping, or a mapped property that
// is missing while no other mapping gives a ref, is answered with false and the
// reason "subject_unresolved": a guard that cannot tell who asks must not say
// yes.
//
// # What the answers mean
//
// No hold means true, with the reason "no_hold": the guard takes away, it never
// grants, so an enforcement point asks it beside its own authorization. A hold
// that denies the action means false with the reason "hold", the hold's id and
// message. Stale state takes the configured fail mode, by default false, with
// the reason "stale".
//
// # When a hold is in force
//
// Apply is called when the transaction that made the hold has committed and
// before the commit returns to its caller, so on the committing node the hold
// is in force when the commit returns. Other nodes follow the holds' sequence
// through Follow.
package guard

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Reason says why an answer is what it is.
type Reason string

// The reasons.
const (
	ReasonNoHold     Reason = "no_hold"
	ReasonHold       Reason = "hold"
	ReasonStale      Reason = "stale"
	ReasonUnresolved Reason = "subject_unresolved"
)

// Mapping makes a ref of an AuthZEN subject of one type.
type Mapping struct {
	// Type is the AuthZEN subject's type.
	Type string
	// Property is the property that has the value; "" is the subject's id.
	Property string
	// Ref has the kind, realm and scheme; the value is filled in.
	Ref staunch.Ref
	// Digest has the value replaced by its "sha256:" digest.
	Digest bool
}

// Options configure a Guard.
type Options struct {
	Store store.Store
	Clock staunch.Clock
	Log   *slog.Logger
	// Mappings say how subjects become refs.
	Mappings []Mapping
	// FailOpen answers true when the state is stale; the default is false.
	FailOpen bool
	// StaleAfter is how old the state may be; 0 gives 10 s.
	StaleAfter time.Duration
	// Every is how often Follow looks for what other nodes changed; 0 gives
	// 500 ms.
	Every time.Duration
}

// Guard has the guard holds in memory. It is safe for concurrent use.
type Guard struct {
	opt      Options
	mappings map[string][]Mapping

	mu    sync.RWMutex
	holds map[string]staunch.Hold // by id
	byRef map[staunch.Ref][]*staunch.Hold
	seq   int64 // the highest sequence read from the store in order

	fresh atomic.Int64 // staunch.Time at which the state was last known whole
}

// New returns a guard that is stale until Load.
func New(opt Options) *Guard {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.StaleAfter <= 0 {
		opt.StaleAfter = 10 * time.Second
	}
	if opt.Every <= 0 {
		opt.Every = 500 * time.Millisecond
	}
	g := &Guard{opt: opt, mappings: map[string][]Mapping{}, holds: map[string]staunch.Hold{}, byRef: map[staunch.Ref][]*staunch.Hold{}}
	for _, m := range opt.Mappings {
		g.mappings[m.Type] = append(g.mappings[m.Type], m)
	}
	return g
}

// Apply has the hold in force, or out of it, when it returns. A hold with a
// lower sequence than the one in memory is ignored.
func (g *Guard) Apply(h staunch.Hold) {
	if h.Plane != staunch.PlaneGuard {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.apply(h)
}

func (g *Guard) apply(h staunch.Hold) {
	old, known := g.holds[h.ID]
	if known && old.Seq >= h.Seq {
		return
	}
	if known {
		g.unindex(old)
		delete(g.holds, h.ID)
	}
	if !h.Active() {
		return
	}
	g.holds[h.ID] = h
	for _, ref := range refsOf(h) {
		g.byRef[ref] = append(g.byRef[ref], &h)
	}
}

func (g *Guard) unindex(h staunch.Hold) {
	for _, ref := range refsOf(h) {
		list := g.byRef[ref]
		kept := make([]*staunch.Hold, 0, len(list))
		for _, o := range list {
			if o.ID != h.ID {
				kept = append(kept, o)
			}
		}
		if len(kept) == 0 {
			delete(g.byRef, ref)
		} else {
			g.byRef[ref] = kept
		}
	}
}

func refsOf(h staunch.Hold) []staunch.Ref {
	refs := []staunch.Ref{h.Target.Ref}
	for _, n := range h.Names {
		if n != h.Target.Ref {
			refs = append(refs, n)
		}
	}
	return refs
}

// page is how many holds are read at once.
const page = 1000

// Load reads every hold. Until it has succeeded the guard is stale.
func (g *Guard) Load(ctx context.Context) error { return g.catchUp(ctx) }

func (g *Guard) catchUp(ctx context.Context) error {
	for {
		began := staunch.TimeOf(g.opt.Clock.Now())
		g.mu.RLock()
		after := g.seq
		g.mu.RUnlock()
		var holds []staunch.Hold
		err := g.opt.Store.View(ctx, func(r store.Reader) error {
			var err error
			holds, err = r.HoldsAfter(staunch.PlaneGuard, after, page)
			return err
		})
		if err != nil {
			return fmt.Errorf("reading the guard's holds: %w", err)
		}
		g.mu.Lock()
		for _, h := range holds {
			g.apply(h)
			g.seq = max(g.seq, h.Seq)
		}
		g.mu.Unlock()
		if len(holds) < page {
			g.fresh.Store(int64(began))
			return nil
		}
	}
}

// Follow keeps the state in step with the store until ctx ends.
func (g *Guard) Follow(ctx context.Context) {
	t := time.NewTicker(g.opt.Every)
	defer t.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		err := g.catchUp(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			g.opt.Log.Error("the guard cannot read its holds", "error", err)
		}
		failed = err != nil
	}
}

// Stale reports whether the state is older than allowed.
func (g *Guard) Stale() bool {
	fresh := staunch.Time(g.fresh.Load())
	return fresh == 0 || staunch.TimeOf(g.opt.Clock.Now()).Sub(fresh) > g.opt.StaleAfter
}

// Seq returns the sequence up to which the store has been applied in order.
func (g *Guard) Seq() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.seq
}

// Answer is what the guard says of one action.
type Answer struct {
	Allowed bool
	Reason  Reason
	// Hold is the hold that denies, with its message and containments.
	Hold    string
	Message string
	Cases   []string
}

// MayAct answers for a subject that is already known by its refs.
func (g *Guard) MayAct(refs []staunch.Ref, action string) Answer {
	now := staunch.TimeOf(g.opt.Clock.Now())
	g.mu.RLock()
	for _, ref := range refs {
		for _, h := range g.byRef[ref] {
			if h.Expires != 0 && now >= h.Expires {
				continue
			}
			if denies(h.Deny, action) {
				a := Answer{Reason: ReasonHold, Hold: h.ID, Message: h.Message, Cases: h.Claims}
				g.mu.RUnlock()
				return a
			}
		}
	}
	g.mu.RUnlock()
	// A hold denies even when the state is stale; only its absence is in doubt.
	if g.Stale() {
		return Answer{Allowed: g.opt.FailOpen, Reason: ReasonStale}
	}
	return Answer{Allowed: true, Reason: ReasonNoHold}
}

// denies reports whether one of the patterns covers the action. "*" covers all,
// "write" covers "write" and what begins with "write" followed by a separator,
// and "*.delete" what ends with ".delete". Case does not count.
func denies(patterns []string, action string) bool {
	action = strings.ToLower(action)
	for _, p := range patterns {
		if p == "*" {
			return true
		}
		p = strings.ToLower(p)
		if strings.HasPrefix(p, "*") && strings.HasSuffix(action, p[1:]) {
			return true
		}
		if strings.HasPrefix(action, p) && (len(action) == len(p) || strings.IndexByte(":._-/ ", action[len(p)]) >= 0) {
			return true
		}
	}
	return false
}

// Resolve makes refs of an AuthZEN subject; none means that it is unresolved.
func (g *Guard) Resolve(s Subject) []staunch.Ref {
	var refs []staunch.Ref
	for _, m := range g.mappings[s.Type] {
		v := s.ID
		if m.Property != "" {
			p, ok := s.Properties[m.Property].(string)
			if !ok {
				continue
			}
			v = p
		}
		if v == "" {
			continue
		}
		ref := m.Ref
		ref.Value = v
		if m.Digest {
			ref.Value = staunch.Digest([]byte(v))
		}
		if ref.Validate() == nil {
			refs = append(refs, ref)
		}
	}
	return refs
}
