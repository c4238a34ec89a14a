package staunch

import "fmt"

// Tier is how much a decision takes away. Tiers are ordered.
type Tier uint8

// The tiers, from watching to taking everything.
const (
	TierObserve Tier = iota
	TierRestrict
	TierIsolate
	TierRevoke
)

var tierNames = [...]string{"observe", "restrict", "isolate", "revoke"}

// String returns the tier's name.
func (t Tier) String() string {
	if int(t) < len(tierNames) {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// ParseTier reads a tier's name.
func ParseTier(s string) (Tier, error) {
	for i, n := range tierNames {
		if n == s {
			return Tier(i), nil
		}
	}
	return 0, fmt.Errorf("%w: %q is not a tier (observe, restrict, isolate, revoke)", ErrInvalid, s)
}

// MarshalText writes the tier's name.
func (t Tier) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a tier's name.
func (t *Tier) UnmarshalText(b []byte) (err error) { *t, err = ParseTier(string(b)); return err }

// Mode is how far a rule, policy or connector may go.
type Mode uint8

// The modes, in the order in which a team turns them on.
const (
	// ModeShadow decides and records; nobody is told, nothing is done.
	ModeShadow Mode = iota
	// ModeRecommend tells people what would be done.
	ModeRecommend
	// ModeEnforce contains.
	ModeEnforce
)

var modeNames = [...]string{"shadow", "recommend", "enforce"}

// String returns the mode's name.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	for i, n := range modeNames {
		if n == s {
			return Mode(i), nil
		}
	}
	return 0, fmt.Errorf("%w: %q is not a mode (shadow, recommend, enforce)", ErrInvalid, s)
}

// MarshalText writes the mode's name.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads a mode's name.
func (m *Mode) UnmarshalText(b []byte) (err error) { *m, err = ParseMode(string(b)); return err }

// Verb is what a step does, in D3FEND's sense.
type Verb string

// The verbs. Restore undoes the others.
const (
	VerbRestrict Verb = "restrict"
	VerbStepUp   Verb = "step_up"
	VerbIsolate  Verb = "isolate"
	VerbSuspend  Verb = "suspend"
	VerbRevoke   Verb = "revoke"
	VerbRotate   Verb = "rotate"
	VerbRestore  Verb = "restore"
)

// Tier returns the lowest tier at which policy may use the verb. Restore
// belongs to every tier and returns TierObserve, as does an unknown verb.
func (v Verb) Tier() Tier {
	switch v {
	case VerbRestrict, VerbStepUp:
		return TierRestrict
	case VerbIsolate, VerbSuspend:
		return TierIsolate
	case VerbRevoke, VerbRotate:
		return TierRevoke
	default:
		return TierObserve
	}
}

// Valid reports whether v is one of the verbs.
func (v Verb) Valid() bool { return v == VerbRestore || v.Tier() != TierObserve }

// CAEPEvent returns the CAEP or RISC event type that tells receivers what the
// verb did (OpenID CAEP 1.0 and RISC 1.0), without its URI prefix.
func (v Verb) CAEPEvent() string {
	switch v {
	case VerbRestrict:
		return "token-claims-change"
	case VerbStepUp:
		return "assurance-level-change"
	case VerbIsolate:
		return "session-revoked"
	case VerbSuspend:
		return "account-disabled"
	case VerbRevoke, VerbRotate:
		return "credential-change"
	case VerbRestore:
		return "account-enabled"
	default:
		return ""
	}
}

// Outcome is how the action that an event reports ended.
type Outcome string

// The outcomes.
const (
	OutcomeUnknownValue Outcome = "unknown"
	OutcomeSuccess      Outcome = "success"
	OutcomeFailure      Outcome = "failure"
)

// Reversibility says what a release can undo.
type Reversibility string

// The kinds of reversibility.
const (
	// Reversible: the pre-image can be written back.
	Reversible Reversibility = "reversible"
	// Compensable: the effect is gone for good, another action makes up for it.
	Compensable Reversibility = "compensable"
	// Irreversible: nothing brings it back.
	Irreversible Reversibility = "irreversible"
)
