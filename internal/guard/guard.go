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
// yes. So is a raw token that is a JWT in another spelling than its issuer's.
//
// # What the answers mean
//
// No hold means true, with the reason "no_hold": the guard takes away, it never
// grants, so an enforcement point asks it beside its own authorization. A hold
// that denies the action means false with the reason "hold", the hold's id and
// message. Stale state takes the configured fail mode, by default false, with
// the reason "stale".
//
// # What a hold denies
//
// Deny lists what a hold denies, in any case of letters. "*" is every action. A
// word denies the actions that have it as a whole word: "write" denies "write",
// "write:all", "can_write" and "documents.write", and leaves "rewrite" and
// "overwrite" alone; so does a run of words such as "user.delete". Words are
// parted by : . _ - / and blanks. With a * anywhere else it is a pattern for
// the whole name, * standing for any run of characters ("s3:put*",
// "*.delete").
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
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
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
	ReasonInvalid    Reason = "invalid_request"
)

// Subject is who wants to act, in AuthZEN's terms.
type Subject struct {
	Type, ID string
	// Property returns the property called name, "" where there is none or it is
	// not a text. nil is a subject without properties.
	Property func(name string) string
}

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
	// 500 ms. It is at most a third of StaleAfter, so that one look that fails
	// does not make the state stale.
	Every time.Duration
	// Node, when given, is the name under which the guard has a place in the
	// store; see Renew. Version and Bundle, which may be nil, are told with it.
	Node    string
	Version string
	Bundle  func() string
	// Admit, when given, may refuse the place that the guard is about to take for
	// the first time, to renew or to leave, in the same transaction.
	Admit func(tx store.Tx, first bool) error
	// Listen, when given, calls wake whenever another node may have changed
	// something, until ctx ends; what it misses is found by looking.
	Listen func(ctx context.Context, wake func())
}

// Guard has the guard holds in memory. It is safe for concurrent use.
type Guard struct {
	opt      Options
	mappings map[string][]Mapping
	scratch  sync.Pool

	mu    sync.RWMutex
	holds map[string]*held // by id, the active ones
	byRef map[staunch.Ref][]*held
	seq   int64 // the highest sequence read from the store in order
	// gone has the sequence at which a hold ended that is above seq: what comes
	// about it later and is older must not bring it back.
	gone map[string]int64

	fresh atomic.Pointer[time.Time] // when the state was last known whole

	placeMu sync.Mutex
	place   store.Guard
	until   atomic.Pointer[time.Time] // until when the place runs, at the least
}

// held is an active hold, ready to be asked.
type held struct {
	staunch.Hold
	deny []string // in lower case
	all  bool
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
	opt.Every = max(min(opt.Every, opt.StaleAfter/3), time.Millisecond)
	g := &Guard{
		opt: opt, mappings: map[string][]Mapping{}, holds: map[string]*held{}, byRef: map[staunch.Ref][]*held{}, gone: map[string]int64{},
	}
	for _, m := range opt.Mappings {
		g.mappings[m.Type] = append(g.mappings[m.Type], m)
	}
	return g
}

// Apply has the hold in force, or out of it, when it returns. What is older
// than what is known of the hold is ignored: commits of two transactions may
// call Apply in any order.
func (g *Guard) Apply(h staunch.Hold) {
	if h.Plane != staunch.PlaneGuard {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// Up to seq everything was read in order, so a hold that is not known there
	// has ended.
	if _, known := g.holds[h.ID]; !known && h.Seq <= g.seq {
		return
	}
	g.apply(h)
}

func (g *Guard) apply(h staunch.Hold) {
	old := g.holds[h.ID]
	if old != nil && old.Seq >= h.Seq || g.gone[h.ID] >= h.Seq {
		return
	}
	if old != nil {
		g.unindex(old)
		delete(g.holds, h.ID)
	}
	if !h.Active() {
		g.gone[h.ID] = h.Seq
		return
	}
	delete(g.gone, h.ID)
	n := &held{Hold: h}
	for _, d := range h.Deny {
		n.all = n.all || d == "*"
		if d != "" {
			n.deny = append(n.deny, strings.ToLower(d))
		}
	}
	g.holds[h.ID] = n
	for _, ref := range refsOf(h) {
		g.byRef[ref] = append(g.byRef[ref], n)
	}
}

func (g *Guard) unindex(h *held) {
	for _, ref := range refsOf(h.Hold) {
		kept := slices.DeleteFunc(g.byRef[ref], func(o *held) bool { return o.ID == h.ID })
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
		if !slices.Contains(refs, n) {
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
		began := g.opt.Clock.Now()
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
		for id, seq := range g.gone {
			if seq <= g.seq {
				delete(g.gone, id)
			}
		}
		g.mu.Unlock()
		if len(holds) < page {
			g.fresh.Store(&began)
			return nil
		}
	}
}

// Follow keeps the state in step with the store until ctx ends: it reads what
// changed, renews the guard's place and proves what every guard has applied.
func (g *Guard) Follow(ctx context.Context) {
	t := time.NewTicker(g.opt.Every)
	defer t.Stop()
	woken := make(chan struct{}, 1)
	if g.opt.Listen != nil {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			g.opt.Listen(ctx, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		})
	}
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-woken:
		}
		err := g.follow(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			g.opt.Log.Error("the guard cannot keep in step with the store", "error", err)
		}
		failed = err != nil
		// Many changes at once are followed together.
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(settle, g.opt.Every)):
		}
	}
}

// settle is the least time between two looks.
const settle = 20 * time.Millisecond

func (g *Guard) follow(ctx context.Context) error {
	// A guard that cannot read does not say that it lives.
	if err := g.catchUp(ctx); err != nil {
		return err
	}
	if g.renewDue() {
		if err := g.Renew(ctx); err != nil {
			return err
		}
	}
	_, err := g.Prove(ctx)
	return err
}

// Stale reports whether the state is older than allowed, or the guard's place
// ran out.
func (g *Guard) Stale() bool { return g.staleAt(g.opt.Clock.Now()) }

func (g *Guard) staleAt(now time.Time) bool {
	fresh := g.fresh.Load()
	if fresh == nil || g.opt.Node != "" && !g.placed(now) {
		return true
	}
	// The system's clock counts on by itself here when it is set anew; a clock
	// that went back cannot tell an age, so the state counts as old.
	age := now.Sub(*fresh)
	return age > g.opt.StaleAfter || age < -g.opt.StaleAfter
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
	at := g.opt.Clock.Now()
	if h := g.denying(refs, action, staunch.TimeOf(at)); h != nil {
		// A hold is not changed once it is indexed.
		return Answer{Reason: ReasonHold, Hold: h.ID, Message: h.Message, Cases: h.Claims}
	}
	// A hold denies even when the state is stale; only its absence is in doubt.
	if g.staleAt(at) {
		return Answer{Allowed: g.opt.FailOpen, Reason: ReasonStale}
	}
	return Answer{Allowed: true, Reason: ReasonNoHold}
}

// denying returns the first hold on the refs that denies the action.
func (g *Guard) denying(refs []staunch.Ref, action string, now staunch.Time) *held {
	g.mu.RLock()
	defer g.mu.RUnlock()
	lowered := false
	for _, ref := range refs {
		for _, h := range g.byRef[ref] {
			if h.Expires != 0 && now >= h.Expires {
				continue
			}
			if h.all {
				return h
			}
			if !lowered {
				action, lowered = strings.ToLower(action), true
			}
			for _, p := range h.deny {
				if denies(p, action) {
					return h
				}
			}
		}
	}
	return nil
}

// separators part the words of an action's name.
const separators = ":._-/ "

// denies reports whether a pattern covers the action, both in lower case; the
// package comment says how.
func denies(pattern, action string) bool {
	if strings.Contains(pattern, "*") {
		return glob(pattern, action)
	}
	for from := 0; ; {
		i := strings.Index(action[from:], pattern)
		if i < 0 {
			return false
		}
		begin := from + i
		end := begin + len(pattern)
		if (begin == 0 || strings.IndexByte(separators, action[begin-1]) >= 0) &&
			(end == len(action) || strings.IndexByte(separators, action[end]) >= 0) {
			return true
		}
		from = begin + 1
	}
}

// glob reports whether s is as the pattern says, in which * stands for any run
// of characters.
func glob(pattern, s string) bool {
	head, rest, _ := strings.Cut(pattern, "*")
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, more, found := strings.Cut(rest, "*")
		if !found {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// respelled reports whether a raw token is a JWT (or JWE) in another spelling than
// its issuer gave it. The last part is not signed itself, and many decoders take
// what no encoder writes: bits that are left over, padding, characters that they
// pass over. Each such spelling is the same token to them and has another digest, by
// which its bearer would slip a hold.
func respelled(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 && len(parts) != 5 {
		return false
	}
	if header, err := base64.RawURLEncoding.DecodeString(parts[0]); err != nil || len(header) == 0 || header[0] != '{' {
		return false // its issuer's own form
	}
	_, err := base64.RawURLEncoding.Strict().DecodeString(parts[len(parts)-1])
	// It passes over line ends.
	return err != nil || strings.ContainsAny(token, "\r\n")
}

// Resolve makes refs of an AuthZEN subject; none means that it is unresolved. One
// that shows a raw token in another spelling than its issuer's is.
func (g *Guard) Resolve(s Subject) []staunch.Ref {
	var refs []staunch.Ref
	for _, m := range g.mappings[s.Type] {
		v := s.ID
		if m.Property != "" {
			if v = ""; s.Property != nil {
				v = s.Property(m.Property)
			}
		}
		if v == "" {
			continue
		}
		ref := m.Ref
		ref.Value = v
		if m.Digest {
			if respelled(v) {
				return nil
			}
			ref.Value = staunch.Digest([]byte(v))
		}
		if ref.Validate() == nil {
			refs = append(refs, ref)
		}
	}
	return refs
}
