package staunch

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
)

// Secret is a value that must not be printed, logged or marshalled. Every way
// of formatting it gives "***"; Reveal is the one way to the value, so that a
// search for it finds each place that handles the plain text.
type Secret struct{ value string }

// NewSecret wraps v.
func NewSecret(v string) Secret { return Secret{value: v} }

// Reveal returns the plain value.
func (s Secret) Reveal() string { return s.value }

// Empty reports whether there is no value.
func (s Secret) Empty() bool { return s.value == "" }

// Digest returns "sha256:" and the hex digest of the value: the form in which
// a secret may stand in refs, hashes and logs.
func (s Secret) Digest() string { return Digest([]byte(s.value)) }

// String returns "***", or "" when there is no value.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return "***"
}

// GoString returns the same as String, for %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue keeps the value out of structured logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the value out of JSON, YAML and every other encoding.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the value as it stands, so that configuration can be
// decoded straight into a Secret.
func (s *Secret) UnmarshalText(b []byte) error {
	s.value = string(b)
	return nil
}

// Digest returns "sha256:" followed by the lower-case hex SHA-256 of b.
func Digest(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}
