package staunch

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Kind is what a ref names.
type Kind string

// The kinds of refs, from the narrowest to the widest.
const (
	// KindSession is one authenticated use; for an agent, a run.
	KindSession Kind = "session"
	// KindCredential is what proves an identity: a key, token, password.
	KindCredential Kind = "credential"
	// KindAccount is an identity's presence on one realm.
	KindAccount Kind = "account"
	// KindIdentity is the canonical who; it belongs to no realm.
	KindIdentity Kind = "identity"
	// KindResource is something that is acted upon; it is never accused.
	KindResource Kind = "resource"
)

// Width orders kinds by how much a containment of one takes away: session 1,
// credential 2, account 3, identity 4; 0 for what cannot be contained.
func (k Kind) Width() int {
	switch k {
	case KindSession:
		return 1
	case KindCredential:
		return 2
	case KindAccount:
		return 3
	case KindIdentity:
		return 4
	default:
		return 0
	}
}

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool { return k.Width() > 0 || k == KindResource }

// Limits of a ref's parts, in bytes.
const (
	MaxRealmLen  = 128
	MaxSchemeLen = 64
	MaxValueLen  = 2048
)

// Ref is a name for something, taken from a record alone. Everything stored
// about the past keeps refs, never entities, so that later learning cannot
// rewrite it. A Ref is comparable and may be a map key.
type Ref struct {
	// Kind is what is named.
	Kind Kind
	// Realm is the configured instance of a platform ("aws/prod"); empty for
	// identities.
	Realm string
	// Scheme is how the value names it ("access-key-id", "arn", "role").
	Scheme string
	// Value is the name itself, byte for byte as the format's README says.
	Value string
}

// IdentityRef returns the ref of the canonical identity called name.
func IdentityRef(name string) Ref {
	return Ref{Kind: KindIdentity, Scheme: "name", Value: name}
}

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String returns "kind:realm:scheme:value"; an identity is "identity:name".
// ParseRef reads it back.
func (r Ref) String() string {
	if r.IsZero() {
		return ""
	}
	if r.Kind == KindIdentity && r.Realm == "" && r.Scheme == "name" {
		return "identity:" + r.Value
	}
	return string(r.Kind) + ":" + r.Realm + ":" + r.Scheme + ":" + r.Value
}

// ParseRef reads what String writes.
func ParseRef(s string) (Ref, error) {
	kind, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Ref{}, fmt.Errorf("%w: ref %q is not kind:realm:scheme:value", ErrInvalid, s)
	}
	var r Ref
	if Kind(kind) == KindIdentity {
		r = IdentityRef(rest)
	} else {
		realm, rest, ok1 := strings.Cut(rest, ":")
		scheme, value, ok2 := strings.Cut(rest, ":")
		if !ok1 || !ok2 {
			return Ref{}, fmt.Errorf("%w: ref %q is not kind:realm:scheme:value", ErrInvalid, s)
		}
		r = Ref{Kind: Kind(kind), Realm: realm, Scheme: scheme, Value: value}
	}
	if err := r.Validate(); err != nil {
		return Ref{}, fmt.Errorf("ref %q: %w", s, err)
	}
	return r, nil
}

// Validate reports why r is not a ref; the error is an ErrInvalid.
func (r Ref) Validate() error {
	switch {
	case !r.Kind.Valid():
		return fmt.Errorf("%w: %q is not a kind (session, credential, account, identity, resource)", ErrInvalid, r.Kind)
	case r.Kind == KindIdentity && r.Realm != "":
		return fmt.Errorf("%w: an identity has no realm", ErrInvalid)
	case r.Kind != KindIdentity && !validName(r.Realm, MaxRealmLen):
		return fmt.Errorf("%w: realm %q (letters, digits and ._/- , at most %d bytes)", ErrInvalid, r.Realm, MaxRealmLen)
	case !validName(r.Scheme, MaxSchemeLen):
		return fmt.Errorf("%w: scheme %q (letters, digits and ._/- , at most %d bytes)", ErrInvalid, r.Scheme, MaxSchemeLen)
	case r.Value == "":
		return fmt.Errorf("%w: empty value", ErrInvalid)
	case len(r.Value) > MaxValueLen:
		return fmt.Errorf("%w: value of %d bytes, at most %d", ErrInvalid, len(r.Value), MaxValueLen)
	}
	// NUL separates nothing here, but PostgreSQL's text cannot hold it.
	if strings.IndexByte(r.Value, 0) >= 0 {
		return errors.Join(ErrInvalid, errors.New("value has a NUL byte"))
	}
	return nil
}

func validName(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '/', c == '-':
		default:
			return false
		}
	}
	return true
}

// MarshalText lets a Ref be a JSON object key.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes; empty text gives the zero Ref.
func (r *Ref) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*r = Ref{}
		return nil
	}
	p, err := ParseRef(string(b))
	if err != nil {
		return err
	}
	*r = p
	return nil
}

// Key returns a fixed-length digest of r (32 hex digits): the column that
// stores index, since values may be long.
func (r Ref) Key() string { return hashID("ref", string(r.Kind), r.Realm, r.Scheme, r.Value) }

// stamped puts an instant before the hash of an id: its second, in eight hex digits.
// Ids of what happens one after another then stand side by side in the stores'
// indexes, so that writing them touches few pages. An instant that is 0, or that
// eight digits do not hold, puts nothing there.
func stamped(at Time, hash string) string {
	s := int64(at) / 1_000_000
	if s <= 0 || s > math.MaxUint32 {
		return hash
	}
	var b [stampLen]byte
	for i := range b {
		b[i] = "0123456789abcdef"[s>>(4*(stampLen-1-i))&15]
	}
	return string(b[:]) + hash
}

const (
	stampLen = 8
	hashLen  = 32
)

// stampOf returns the instant that an id begins with, cut to its second, and 0 for an
// id that has none.
func stampOf(id string) Time {
	_, rest, _ := strings.Cut(id, "_")
	if len(rest) != stampLen+hashLen {
		return 0
	}
	s, err := strconv.ParseUint(rest[:stampLen], 16, 32)
	if err != nil {
		return 0
	}
	return Time(s) * 1_000_000
}

// hashID returns the first 128 bits of the SHA-256 over the parts, each
// preceded by its length, so that no two part lists run together.
func hashID(domain string, parts ...string) string {
	const prefix = "staunch/1/"
	b := make([]byte, 0, 512) // room for most, so that hashing allocates nothing
	b = binary.BigEndian.AppendUint64(b, uint64(len(prefix)+len(domain)))
	b = append(append(b, prefix...), domain...)
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
