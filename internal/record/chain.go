package record

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/staunch-project/staunch"
)

// Bounds of a record's fields, in bytes, and of a log.
const (
	MaxLane  = 128
	MaxText  = 4096 // kind, actor, about: each
	MaxLanes = 10_000

	// KeySize is the length of a chain's key.
	KeySize = 32
	// KeyPurpose is what a keyring derives the chain's key for.
	KeyPurpose = "record-chain"

	hashLen = 2 * sha256.Size
)

// latest is the end of the year 9999: what comes after has no RFC 3339 form.
const latest = staunch.Time(253402300799999999)

// Chain hashes records and signs checkpoints under one key. It is safe for
// concurrent use, and printing it shows no key.
type Chain struct {
	mac  []byte
	sign ed25519.PrivateKey
}

// NewChain makes a chain of a key of KeySize bytes, from a keyring's
// DeriveKey(KeyPurpose) or a file that was written from it.
func NewChain(key []byte) (*Chain, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("%w: chain key of %d bytes, not %d", staunch.ErrInvalid, len(key), KeySize)
	}
	mac, err := hkdf.Key(sha256.New, key, nil, "staunch/1/record/mac", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the chain's key: %w", err)
	}
	seed, err := hkdf.Key(sha256.New, key, nil, "staunch/1/record/sign", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("deriving the chain's key: %w", err)
	}
	return &Chain{mac: mac, sign: ed25519.NewKeyFromSeed(seed)}, nil
}

// Format keeps the key out of every fmt verb.
func (c *Chain) Format(s fmt.State, _ rune) {
	_, _ = io.WriteString(s, "chain:"+keyText(c.PublicKey())[:16])
}

// PublicKey returns the key that checks what the chain signs and forges nothing.
func (c *Chain) PublicKey() ed25519.PublicKey {
	// The dynamic type is fixed by crypto/ed25519.
	return c.sign.Public().(ed25519.PublicKey)
}

// Hash returns the hex hash that r has after the record whose hash is prev; prev
// is "" for the first of a lane. It covers V, Lane, Seq, Time, Kind, Actor, About,
// the canonical form of Body, and prev; r.Prev and r.Hash are not looked at. The
// error wraps staunch.ErrInvalid where r cannot be hashed in one way only:
// fields out of bounds, text that is not UTF-8, a body that Canonical refuses.
func (c *Chain) Hash(prev string, r staunch.Record) (string, error) {
	if err := check(prev, r); err != nil {
		return "", err
	}
	body, err := Canonical(r.Body)
	if err != nil {
		return "", err
	}
	return c.hash(prev, r, body), nil
}

// hash hashes checked fields and a canonical body.
func (c *Chain) hash(prev string, r staunch.Record, body []byte) string {
	f := framer{b: make([]byte, 0, 256+len(r.Lane)+len(r.Actor)+len(r.About)+len(body))}
	f.text("staunch/1/record")
	f.number(int64(r.V))
	f.text(r.Lane)
	f.number(r.Seq)
	f.number(int64(r.Time))
	f.text(string(r.Kind))
	f.text(r.Actor)
	f.text(r.About)
	f.bytes(body)
	f.text(prev)
	m := hmac.New(sha256.New, c.mac)
	m.Write(f.b)
	return hex.EncodeToString(m.Sum(nil))
}

func check(prev string, r staunch.Record) error {
	switch {
	case r.V != staunch.Version:
		return fmt.Errorf("%w: record of version %d, this release knows %d", staunch.ErrInvalid, r.V, staunch.Version)
	case !validLane(r.Lane):
		return fmt.Errorf("%w: lane %.140q (letters, digits and ._:/- , 1 to %d bytes)", staunch.ErrInvalid, r.Lane, MaxLane)
	case r.Seq < 1:
		return fmt.Errorf("%w: record number %d, the first is 1", staunch.ErrInvalid, r.Seq)
	case (r.Seq == 1) != (prev == ""):
		return fmt.Errorf("%w: record %d after hash %q: the first has none before it, and every other one has", staunch.ErrInvalid, r.Seq, prev)
	case prev != "" && !validHash(prev):
		return fmt.Errorf("%w: %.80q is not a hash", staunch.ErrInvalid, prev)
	case r.Time < 0 || r.Time > latest:
		return fmt.Errorf("%w: time %d is not between 1970 and 9999", staunch.ErrInvalid, int64(r.Time))
	case r.Kind == "":
		return fmt.Errorf("%w: record without a kind", staunch.ErrInvalid)
	}
	for _, f := range [...]struct{ name, text string }{{"kind", string(r.Kind)}, {"actor", r.Actor}, {"about", r.About}} {
		if len(f.text) > MaxText || !utf8.ValidString(f.text) {
			return fmt.Errorf("%w: record's %s has %d bytes (UTF-8, at most %d)", staunch.ErrInvalid, f.name, len(f.text), MaxText)
		}
	}
	return nil
}

func validLane(s string) bool {
	if s == "" || len(s) > MaxLane {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._:/-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func validHash(s string) bool {
	if len(s) != hashLen {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// framer builds an encoding in which no two lists of fields run together.
type framer struct{ b []byte }

func (f *framer) number(n int64) { f.b = binary.BigEndian.AppendUint64(f.b, uint64(n)) }

func (f *framer) bytes(b []byte) {
	f.number(int64(len(b)))
	f.b = append(f.b, b...)
}

func (f *framer) text(s string) {
	f.number(int64(len(s)))
	f.b = append(f.b, s...)
}

// Head is the end of a lane: its last record's number and hash.
type Head struct {
	Lane string `json:"lane"`
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// Checkpoint is the signed heads of every lane as of one instant.
type Checkpoint struct {
	V  int          `json:"v"`
	At staunch.Time `json:"at"`
	// Heads is sorted by lane.
	Heads []Head `json:"heads"`
	// Digest is the SHA-256 of the export's lines before the checkpoint, each
	// with its line feed ("sha256:…"), and Records counts the records among
	// them; empty and 0 in a checkpoint that ends no export.
	Digest  string `json:"digest,omitempty"`
	Records int64  `json:"records,omitempty"`
	// Signature is the Ed25519 signature over everything above, in base64.
	Signature string `json:"signature"`
	// Logged is a transparency log's receipt, where it has one. It proves itself
	// (VerifyLogged), so that no signature of ours covers it.
	Logged *LogReceipt `json:"logged,omitempty"`
}

// Checkpoint signs heads, in any order. Sign only what a Verifier has just
// found whole: a checkpoint over broken lanes would vouch for the break.
func (c *Chain) Checkpoint(at time.Time, heads []Head) (Checkpoint, error) {
	return c.checkpoint(Checkpoint{V: staunch.Version, At: staunch.TimeOf(at), Heads: heads})
}

func (c *Chain) checkpoint(cp Checkpoint) (Checkpoint, error) {
	cp.Heads = slices.Clone(cp.Heads)
	if cp.Heads == nil {
		cp.Heads = []Head{}
	}
	slices.SortFunc(cp.Heads, func(a, b Head) int { return strings.Compare(a.Lane, b.Lane) })
	if err := cp.check(); err != nil {
		return Checkpoint{}, err
	}
	cp.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(c.sign, cp.signed()))
	return cp, nil
}

// Verify reports why the checkpoint was not signed by the key's owner as it
// stands; the error wraps ErrSignature, or staunch.ErrInvalid for what is no
// checkpoint at all.
func (cp Checkpoint) Verify(key ed25519.PublicKey) error {
	if err := cp.check(); err != nil {
		return err
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(cp.Signature)
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, cp.signed(), sig) {
		return fmt.Errorf("checkpoint of %s: %w", cp.At, ErrSignature)
	}
	return nil
}

func (cp Checkpoint) signed() []byte {
	var f framer
	f.text("staunch/1/checkpoint")
	f.number(int64(cp.V))
	f.number(int64(cp.At))
	f.text(cp.Digest)
	f.number(cp.Records)
	f.number(int64(len(cp.Heads)))
	for _, h := range cp.Heads {
		f.text(h.Lane)
		f.number(h.Seq)
		f.text(h.Hash)
	}
	return f.b
}

func (cp Checkpoint) check() error {
	switch {
	case cp.V != staunch.Version:
		return fmt.Errorf("%w: checkpoint of version %d, this release knows %d", staunch.ErrInvalid, cp.V, staunch.Version)
	case cp.At < 0 || cp.At > latest:
		return fmt.Errorf("%w: checkpoint's time %d is not between 1970 and 9999", staunch.ErrInvalid, int64(cp.At))
	case len(cp.Heads) > MaxLanes:
		return fmt.Errorf("%w: checkpoint with %d lanes, at most %d", staunch.ErrInvalid, len(cp.Heads), MaxLanes)
	case cp.Records < 0:
		return fmt.Errorf("%w: checkpoint counts %d records", staunch.ErrInvalid, cp.Records)
	}
	for i, h := range cp.Heads {
		if !validLane(h.Lane) || h.Seq < 1 || !validHash(h.Hash) {
			return fmt.Errorf("%w: checkpoint's head %d is not lane, number and hash", staunch.ErrInvalid, i+1)
		}
		if i > 0 && h.Lane <= cp.Heads[i-1].Lane {
			return fmt.Errorf("%w: checkpoint's heads are not sorted by lane, each once", staunch.ErrInvalid)
		}
	}
	return nil
}

func keyText(k ed25519.PublicKey) string { return hex.EncodeToString(k) }

// ParsePublicKey reads the hex text of a public key, as an export's first line
// has it. Take it from the operators, never from the export that it is to check.
func ParsePublicKey(s string) (ed25519.PublicKey, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: a public key is %d hex digits", staunch.ErrInvalid, 2*ed25519.PublicKeySize)
	}
	return b, nil
}
