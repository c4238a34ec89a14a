// Package connector is the contract by which staunch acts on a platform, and
// the only way that it does.
//
// A connector maps subjects to explicit targets, reads them, and makes and
// undoes one change at a time. It never decides, retries, limits, records or
// marks its own work as done: core commits the intent before it calls, reads
// afterwards by another connection or credential, and wraps the connector for
// dry run, retry, rate limits, faults and metrics (package wrap). Connectors
// pass connectortest against the real platform.
package connector

import (
	"context"
	"log/slog"
	"time"

	"github.com/staunch-project/staunch"
)

// Connector acts on one realm. Its methods are safe for concurrent use, honour
// the context's deadline, and return errors marked with a class
// (staunch.Transient, Permanent, OutcomeUnknown, Denied). A mutating call that
// was sent and whose answer was not read is OutcomeUnknown, never Transient.
type Connector interface {
	// Describe returns the same description for the connector's whole life.
	Describe() Description
	// Expand asks the platform what exists now for the subject and returns the
	// explicit targets, in the order in which they must be acted upon. It
	// changes nothing.
	Expand(ctx context.Context, req ExpandRequest) (Expansion, error)
	// Read returns the target's present state. With proof set it uses another
	// connection, and where one is configured another credential, than Apply.
	Read(ctx context.Context, t staunch.Target, proof bool) (staunch.State, error)
	// Prepare says what would have to be called to bring the state to where the
	// verb wants it. It is pure: no I/O, no clock, same answer for same input.
	// The returned intent has Verb, Target, Call, Undo, Reversibility, Revives,
	// Params and Expected set.
	Prepare(state staunch.State, verb staunch.Verb) (staunch.Intent, error)
	// Matches reports whether the actual state is as expected in all that the
	// verb is about. It is pure.
	Matches(expected, actual staunch.State) bool
	// Apply makes the change. Calling it again with the same intent after it
	// took effect changes nothing more.
	Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error)
	// Revert writes in.PreImage back, for what Apply may have done; a receipt
	// may never have come. It does so only where the present state equals in's
	// Expected; otherwise the error wraps staunch.ErrConflict and nothing is
	// changed. Calling it again changes nothing more.
	Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error)
	// Close releases connections.
	Close() error
}

// Prober is a connector that can try whether access still works, with a
// credential or on a plane other than the one that was changed.
type Prober interface {
	// Probe reports whether the intent's subject can still act.
	Probe(ctx context.Context, in staunch.Intent) (Probe, error)
}

// Health is a connector that can say whether it could act now.
type Health interface {
	// Check returns findings for `doctor`: missing permissions, no route, clock
	// skew. An empty list is good health. It changes nothing.
	Check(ctx context.Context) []Finding
}

// Own is a connector that knows which refs are its own credentials and
// accounts; they are never targets.
type Own interface {
	// OwnRefs returns refs of the accounts and credentials it acts with.
	OwnRefs(ctx context.Context) ([]staunch.Ref, error)
}

// Warmer is a connector that can get ready ahead: what takes long to set up,
// such as a connection, is best there before it is needed.
type Warmer interface {
	// Warm sets up what the first calls would have to wait for. It is called at
	// the start and from time to time, changes nothing on the platform, and its
	// errors mean only that the first call will wait.
	Warm(ctx context.Context) error
}

// Description declares what a connector can do.
type Description struct {
	// Platform is the connector's name ("postgresql").
	Platform string `json:"platform"`
	// Realm is the configured instance.
	Realm string     `json:"realm"`
	Verbs []VerbSpec `json:"verbs"`
	// Gaps says what the platform cannot do, for documentation.
	Gaps []string `json:"gaps,omitempty"`
}

// VerbSpec declares one verb on one attribute.
type VerbSpec struct {
	Verb staunch.Verb `json:"verb"`
	// Tier is the lowest tier at which policy may use it here.
	Tier staunch.Tier `json:"tier"`
	// Attribute is the attribute that it changes; a trailing "/" means that a
	// name follows ("grants/").
	Attribute string `json:"attribute"`
	// Kinds and Schemes say which refs it acts on.
	Kinds         []staunch.Kind        `json:"kinds"`
	Schemes       []string              `json:"schemes"`
	Reversibility staunch.Reversibility `json:"reversibility"`
	// Narrowest is the narrowest kind that it can be confined to.
	Narrowest staunch.Kind `json:"narrowest"`
	// Survives lists what goes on working after it.
	Survives []string `json:"survives,omitempty"`
	// Verified says how its effect is proven.
	Verified string `json:"verified"`
	// Permissions lists the least permissions that it needs.
	Permissions []string `json:"permissions"`
	// D3FEND has the technique ids.
	D3FEND []string `json:"d3fend,omitempty"`
	// Propagation is how long after the call a read is proof.
	Propagation time.Duration `json:"propagation"`
	// Sweeps are the delays after which it is applied again, each from the one
	// before, because the platform has races that one pass does not catch.
	Sweeps []time.Duration `json:"sweeps,omitempty"`
	// Revives says that undoing it brings a possibly stolen secret back to life.
	Revives bool `json:"revives,omitempty"`
}

// ExpandRequest asks for the explicit targets of a subject.
type ExpandRequest struct {
	// Subject is what is to be contained; Names has its other refs and, for a
	// narrow subject, nothing wider than it.
	Subject staunch.Ref
	Names   []staunch.Ref
	// Up has what the subject belongs to on this realm, narrowest first: what
	// Gap.Widen may name, and never a target.
	Up []staunch.Ref
	// Derived has what lineage says came from it, on this realm.
	Derived []staunch.Ref
	// Since is when the compromise began; things issued before it are not
	// derived.
	Since staunch.Time
	// Tier is the highest tier whose verbs are wanted; Verbs, when given,
	// narrows them.
	Tier  staunch.Tier
	Verbs []staunch.Verb
	// Quick asks only for what can be told at once, because something is about
	// to be done with it: what takes a search is left out and Expansion.More
	// set, and core asks again, in full, once the quick part is in force.
	Quick bool
}

// Expansion is what exists now.
type Expansion struct {
	// Actions are the explicit targets with the verb for each, in the order in
	// which they are carried out.
	Actions []Action
	// Facts states what the platform said of sessions and credentials that the
	// logs had not.
	Facts []staunch.Fact
	// Gaps says what cannot be done for this subject and what would cover it.
	Gaps []staunch.Gap
	// More says that a quick answer left something out.
	More bool
}

// Action is one verb on one target.
type Action struct {
	Target staunch.Target
	Verb   staunch.Verb
	// State, when not nil, is what Read would have returned while Expand ran,
	// without proof: an expansion that has read all of a target anyway saves core
	// the read before the intent.
	State *staunch.State
	// Probe, where there is one, names the sealed secret that a probe of the
	// target shows to the platform. It is kept with the intent, so that a probe
	// after a restart has it too.
	Probe staunch.Ref
}

// Probe is what trying found.
type Probe struct {
	// Works says that the subject's access still works.
	Works bool
	// Conclusive is false where the platform's answer proves nothing.
	Conclusive bool
	// How says in a line what was tried.
	How string
}

// Finding is one line of `doctor`.
type Finding struct {
	// Severity is "error" or "warning".
	Severity string `json:"severity"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// Secrets opens sealed values, such as the token that a revocation needs.
type Secrets interface {
	// Open returns the secret that ref names a digest of, or an error that wraps
	// staunch.ErrNotFound.
	Open(ctx context.Context, ref staunch.Ref) (staunch.Secret, error)
}

// Deps is what core gives a connector when it is made.
type Deps struct {
	// Realm is the configured instance, which all of the connector's refs are on.
	Realm string
	// Decode decodes the connector's part of the configuration strictly into v;
	// unknown keys are errors that name file and line.
	Decode  func(v any) error
	Clock   staunch.Clock
	Log     *slog.Logger
	Secrets Secrets
}

// Factory makes a connector for a realm. It checks its configuration and opens
// nothing that cannot wait: a platform that is down must not keep the engine
// from starting.
type Factory struct {
	// Platform is the name used in configuration.
	Platform string
	New      func(Deps) (Connector, error)
	// Config returns a new value of the configuration struct, for the JSON
	// Schema and documentation.
	Config func() any
	// Describe returns the description without a realm, for documentation.
	Describe func() Description
}
