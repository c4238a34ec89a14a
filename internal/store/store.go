// Package store is the contract between the rooms and the one SQL
// implementation: a single transaction contract over everything durable.
//
// SQL is the truth. Update runs a function in a serializable transaction that
// may run again, so the function has no outside effects; what must happen after
// the commit is given to OnCommit. View reads a consistent snapshot. Memory
// elsewhere is a cache of what stands here.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/staunch-project/staunch"
)

// Store is safe for concurrent use.
type Store interface {
	// Update runs fn in a serializable transaction and commits when fn returns
	// nil. fn may run more than once, on either database; it must keep no state
	// between runs, do nothing outside, and not call Update, nor may what it gives
	// to OnCommit. When fn fails, nothing is kept and its error comes back
	// as it is. An error that wraps staunch.ErrCommitUnknown means that the
	// commit may or may not have happened: the caller reads before it goes on.
	// Functions given to OnCommit by the run that committed are called once, in
	// order, after the commit and before Update returns.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on a consistent snapshot; fn may run more than once.
	View(ctx context.Context, fn func(Reader) error) error
	// Now returns the database's clock, by which leases are judged.
	Now(ctx context.Context) (staunch.Time, error)
	// Close waits for what is under way and closes the database.
	Close() error
}

// ErrFailed is wrapped by the errors that are the database's own, such as of a
// disk that is full: nothing of the transaction is kept, unless
// staunch.ErrCommitUnknown is wrapped as well, and it may go better later.
var ErrFailed = errors.New("the store failed")

// Page bounds a listing. After is the last id of the page before ("" for the
// first); Limit is at most MaxPage, 0 gives DefaultPage.
type Page struct {
	After string
	Limit int
}

// Bounds of a listing.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Reader reads. A single item that is not there gives an error that wraps
// staunch.ErrNotFound; a listing gives an empty slice.
type Reader interface {
	Event(id string) (staunch.Event, error)
	// EventsNaming returns the newest events whose actor has one of the refs.
	EventsNaming(refs []staunch.Ref, limit int) ([]staunch.Event, error)
	Fact(id string) (staunch.Fact, error)
	// LinksFrom returns the links of one of the relations that start at one of
	// the refs; LinksTo those that end there. Both are ordered by (since, fact)
	// and return at most limit, in a slice that is the caller's.
	LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
	LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error)
	// Above returns what is above each of refs; see the function.
	Above(refs []staunch.Ref) (map[staunch.Ref][]Raised, error)
	// Identity returns a declared identity by name; IdentityOf the one that has
	// ref among its accounts.
	Identity(name string) (staunch.Identity, error)
	IdentityOf(ref staunch.Ref) (staunch.Identity, error)
	Identities(p Page) ([]staunch.Identity, error)

	Signal(id string) (staunch.Signal, error)
	// SignalsWithin returns the signals that accuse one of refs, another name of
	// one, or what belongs or once belonged to one (see Above; identities that were
	// declared are not followed), with event time not before since, by (time, id)
	// descending, at most limit. A few more may be among them. Of each it gives what
	// Brief keeps, and they must not be changed.
	SignalsWithin(refs []staunch.Ref, since staunch.Time, limit int) ([]*staunch.Signal, error)
	// Signals lists by (time, id) descending from Page.After.
	Signals(p Page) ([]staunch.Signal, error)
	Decision(id string) (staunch.Decision, error)
	Decisions(p Page) ([]staunch.Decision, error)

	Containment(id string) (staunch.Containment, error)
	// OpenContainments returns the cases not released that have one of the refs
	// among their subject and names.
	OpenContainments(refs []staunch.Ref) ([]staunch.Containment, error)
	// Containments lists newest first; open restricts to those not released.
	Containments(p Page, open bool) ([]staunch.Containment, error)
	Plans(containment string) ([]staunch.Plan, error)
	// Steps returns a containment's steps in the order they are carried out:
	// (plan's stage, child, generation, seq).
	Steps(containment string) ([]staunch.Step, error)
	Step(id string) (staunch.Step, error)

	Hold(id string) (staunch.Hold, error)
	// ActiveHold returns the hold that is active on the plane's target.
	ActiveHold(plane staunch.Plane, t staunch.Target) (staunch.Hold, error)
	// HoldsClaimedBy returns the holds that the containment claims or claimed.
	HoldsClaimedBy(containment string) ([]staunch.Hold, error)
	// HoldsAfter returns the holds of a plane that changed after seq, by seq.
	HoldsAfter(plane staunch.Plane, seq int64, limit int) ([]staunch.Hold, error)
	// HoldSeq returns the highest sequence given out.
	HoldSeq() (int64, error)

	// DueTimers returns timers due at now, the earliest first.
	DueTimers(now staunch.Time, limit int) ([]Timer, error)
	// NextTimer returns when the earliest timer is due, 0 when there is none.
	NextTimer() (staunch.Time, error)
	Cursor(name string) (string, error)
	Cap(name string) (Cap, error)
	Breaker(scope string) (Breaker, error)
	Breakers() ([]Breaker, error)
	Token(id string) (Token, error)
	TokenByHash(hash string) (Token, error)
	Tokens() ([]Token, error)
	// ActiveBundle returns the configuration bundle that decides, ActiveHash its
	// hash alone.
	ActiveBundle() (Bundle, error)
	ActiveHash() (string, error)
	// Guards returns every node's place on the fast plane, by name, and the
	// database's clock, by which they live.
	Guards() ([]Guard, staunch.Time, error)
	Sealed(id string) ([]byte, error)
	// SealedAfter lists the sealed values of a place by their rows' keys.
	SealedAfter(kind SealedKind, after string, limit int) ([]SealedValue, error)
	// CapsNamed lists the names of caps that begin with prefix, after one.
	CapsNamed(prefix, after string, limit int) ([]string, error)
	// SecretOf returns the sealed value that ref names a digest of.
	SecretOf(ref staunch.Ref) ([]byte, error)
	// Records lists a lane's records after seq; About those about an id, in the
	// order (time, lane, seq).
	Records(lane string, after int64, limit int) ([]staunch.Record, error)
	RecordsAbout(id string, limit int) ([]staunch.Record, error)
	// Heads returns the last (seq, hash) of every lane.
	Heads() ([]Head, error)
	// Notices returns notices that are still to be delivered and due.
	Notices(now staunch.Time, limit int) ([]Notice, error)
	Parked(p Page) ([]Parked, error)

	// Contributions returns those of a series with from <= At <= to, ordered by
	// (At, Event, Base), at most limit, the newest kept.
	Contributions(series string, from, to staunch.Time, limit int) ([]Contribution, error)
	// DueContributions returns those whose Due is set and not after now, ordered
	// by (Due, Series, At, Event, Base).
	DueContributions(now staunch.Time, limit int) ([]Contribution, error)
	// Trust returns what was made of a rule, Trusts that of every rule that anything
	// was made of, by rule, and SteeredRules those whose mode was changed, by rule.
	Trust(rule string) (staunch.RuleTrust, error)
	Trusts() ([]staunch.RuleTrust, error)
	SteeredRules() ([]staunch.RuleTrust, error)
	// TrustEvents returns a rule's history by (At, ID) descending, at most limit.
	TrustEvents(rule string, limit int) ([]staunch.TrustEvent, error)
	// RuleUses lists what rules have done, by rule, after p.After; rules without a
	// signal are not in it. Of what was stored before this was counted, it has the
	// signals alone.
	RuleUses(p Page) ([]staunch.RuleUse, error)
	// RuleUse is that of one rule, all of it zero where it has done nothing.
	RuleUse(rule string) (staunch.RuleUse, error)
	// MatchesSince counts the signals of a rule with event time not before since,
	// and returns the event time of the earliest, 0 for none. Drills are left out.
	MatchesSince(rule string, since staunch.Time) (n int, first staunch.Time, err error)
	// RulesBehind returns the rules that were a meaningful part of the decisions that
	// opened or raised a containment, sorted.
	RulesBehind(containment string) ([]string, error)

	// Drill returns an exercise; Drills lists those of a name, or of all where it is
	// "", by (Began, ID) descending, and UnfinishedDrills those that have not ended,
	// by ID.
	Drill(id string) (staunch.Drill, error)
	Drills(name string, p Page) ([]staunch.Drill, error)
	UnfinishedDrills() ([]staunch.Drill, error)

	// Sightings returns those of a series with from <= Item <= to in the order of
	// their bytes, at most limit, the last kept.
	Sightings(series, from, to string, limit int) ([]Sighting, error)

	RetentionReader
}

// Tx reads and writes. Methods that put something with an id that is already
// there change nothing and return false, unless they say otherwise.
type Tx interface {
	Reader
	RetentionTx
	// OnCommit has fn called after this transaction has committed.
	OnCommit(fn func())

	PutEvent(staunch.Event) (inserted bool, err error)
	// PutFact keeps the fact and the links that it draws.
	PutFact(staunch.Fact) (inserted bool, err error)
	// PutIdentity inserts or replaces a declared identity and its accounts; an
	// account that another identity has is a staunch.ErrConflict.
	PutIdentity(staunch.Identity) error
	DeleteIdentity(name string) error
	PutSignal(staunch.Signal) (inserted bool, err error)
	// PutDecision keeps the decision and, where it is above observe and no drill's,
	// which rules were a meaningful part of it.
	PutDecision(staunch.Decision) (inserted bool, err error)
	// PutTrust inserts or replaces by rule.
	PutTrust(staunch.RuleTrust) error
	PutTrustEvent(staunch.TrustEvent) (inserted bool, err error)
	// PutDrill inserts or replaces by ID.
	PutDrill(staunch.Drill) error

	// PutContainment inserts, or replaces when the stored generation is not
	// higher than c's; otherwise staunch.ErrConflict (invariant I11).
	PutContainment(c staunch.Containment) error
	PutPlan(staunch.Plan) (inserted bool, err error)
	// PutStep inserts or replaces; a stored step of a higher generation is a
	// staunch.ErrConflict.
	PutStep(staunch.Step) error
	// PutHold inserts or replaces, gives the hold the next sequence and returns
	// it. Two active holds on one plane's target are a staunch.ErrConflict.
	PutHold(staunch.Hold) (staunch.Hold, error)

	// PutTimer inserts or replaces by ID.
	PutTimer(Timer) error
	DeleteTimer(id string) error
	PutCursor(name, value string) error
	// Reserve takes one place of the cap by a conditional update and reports
	// whether there was one. limit is stored with it; keep are places that only
	// callers with useKept may take.
	Reserve(name string, limit, keep int, useKept bool) (bool, error)
	// GiveBack returns one place; below zero it stays zero.
	GiveBack(name string) error
	PutBreaker(Breaker) error
	PutToken(Token) error
	DeleteToken(id string) error
	PutBundle(b Bundle, activate bool) error
	// RequireBundle has the transaction fail with ErrBundle unless the bundle is
	// the active one when it commits. Where none is active every bundle is. It
	// may say so at once or at the end.
	RequireBundle(hash string) error
	// RenewGuard takes or renews a node's place on the fast plane for ttl from
	// the database's now, and returns it; Since is kept unless first.
	RenewGuard(g Guard, ttl time.Duration, first bool) (Guard, error)
	DeleteGuard(node string) error
	// ReplaceSealed puts a value in the place of another; ok is false where what
	// stands there is not old any more.
	ReplaceSealed(kind SealedKind, key string, old, blob []byte) (ok bool, err error)
	DeleteCap(name string) error
	PutSealed(id string, blob []byte) error
	// PutSecret keeps the sealed value that ref names a digest of.
	PutSecret(ref staunch.Ref, until staunch.Time, blob []byte) error
	// Shred deletes sealed values for good.
	Shred(ids ...string) error
	ShredSecret(ref staunch.Ref) error
	// ShredExpired deletes at most limit secrets whose time (until) is over, and
	// returns how many it deleted.
	ShredExpired(now staunch.Time, limit int) (int, error)
	// AppendRecord chains a record onto this transaction's lane. V, Lane, Seq,
	// Prev and Hash are filled in.
	AppendRecord(staunch.Record) (staunch.Record, error)
	// PutNotice inserts or replaces by ID; one that was delivered is delivered
	// again when it is put without Done.
	PutNotice(Notice) error
	PutParked(Parked) error
	DeleteParked(id string) error

	// PutContributions puts many at once; those that are there stay as they are.
	PutContributions([]Contribution) error
	// SettleContributions sets Due to 0.
	SettleContributions([]Contribution) error
	// AddSighting inserts, or widens what is there: the earliest First, the latest
	// Last and Until, the sum of Count.
	AddSighting(Sighting) error
	// PruneCorrelations deletes at most limit contributions and limit sightings
	// whose Until is before now, and returns how many it deleted.
	PruneCorrelations(now staunch.Time, limit int) (int, error)

	// Lease takes or renews the lease for owner until ttl from the database's
	// now. When another holds it that owner does not succeed (see Succeeds), ok is
	// false. generation rises with each change of owner.
	Lease(name, owner string, ttl time.Duration) (generation int64, ok bool, err error)
	ReleaseLease(name, owner string) error
}

// Contribution is the part of one event in a correlation's window. The windows
// are these rows; memory is a cache of them.
type Contribution struct {
	// Series names the correlation and the group; Event and Base tell the
	// contributions of one instant apart.
	Series string
	At     staunch.Time
	Event  string
	// Base is the number, among the correlation's rules, of the one that matched.
	Base int
	// Value is what the correlation counts or compares.
	Value string
	// Until is when the row is of no more use. Due, when not 0, is when the window
	// that ends here is to be judged.
	Until, Due staunch.Time
	// Body has what a signal needs beside; package correlate writes and reads it.
	Body []byte
}

// Sighting is what is remembered of an item of a series beyond any window.
type Sighting struct {
	Series, Item string
	First, Last  staunch.Time
	Count        int64
	Until        staunch.Time
}

// Timer is a row that makes something be looked at again.
type Timer struct {
	ID   string
	Due  staunch.Time
	Kind string
	// About is the id of what is to be looked at.
	About string
}

// Cap is a bounded number of places.
type Cap struct {
	Name  string
	Used  int
	Limit int
}

// Breaker stops new automatic containments in a scope until a person resets it.
type Breaker struct {
	// Scope is "source/NAME", "rule/ID", "connector/REALM" or "global".
	Scope   string       `json:"scope"`
	Open    bool         `json:"open"`
	Reason  string       `json:"reason,omitempty"`
	Changed staunch.Time `json:"changed"`
	By      string       `json:"by,omitempty"`
}

// Token is an API token; only its hash is kept.
type Token struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Hash is the hex SHA-256 of the token, which has 256 bits of randomness.
	Hash string `json:"-"`
	// Role is one of auth's roles.
	Role string `json:"role"`
	// Source binds a source token to its source.
	Source string `json:"source,omitempty"`
	// Realms, Owners, Environments scope what it may touch; empty is all.
	Realms       []string     `json:"realms,omitempty"`
	Owners       []string     `json:"owners,omitempty"`
	Environments []string     `json:"environments,omitempty"`
	Created      staunch.Time `json:"created"`
	CreatedBy    string       `json:"created_by,omitempty"`
	Expires      staunch.Time `json:"expires,omitempty"`
	Revoked      bool         `json:"revoked,omitempty"`
}

// Bundle is a set of rules, policies and identities, by its hash.
type Bundle struct {
	Hash string       `json:"hash"`
	Made staunch.Time `json:"made"`
	// Body is what is needed to decide again, as JSON.
	Body []byte `json:"body,omitempty"`
}

// Head is the end of a lane.
type Head struct {
	Lane string       `json:"lane"`
	Seq  int64        `json:"seq"`
	Hash string       `json:"hash"`
	Time staunch.Time `json:"time"`
}

// Notice is a message to people that waits for its delivery. It is put in the
// transaction that it tells about and delivered after.
type Notice struct {
	ID       string       `json:"id"`
	Channel  string       `json:"channel"`
	About    string       `json:"about"`
	Body     []byte       `json:"body"`
	Made     staunch.Time `json:"made"`
	Due      staunch.Time `json:"due"`
	Attempts int          `json:"attempts"`
	// Done is when it was delivered or given up; 0 while it waits.
	Done  staunch.Time `json:"done,omitempty"`
	Error string       `json:"error,omitempty"`
}

// Parked is a record that could not be taken, kept so that nothing is lost.
type Parked struct {
	ID     string       `json:"id"`
	Source string       `json:"source"`
	Number int          `json:"number"`
	Reason string       `json:"reason"`
	At     staunch.Time `json:"at"`
	// Raw is sealed, since a record that cannot be read may carry secrets.
	Raw []byte `json:"-"`
}
