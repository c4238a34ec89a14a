// Package seal is envelope encryption of what must not be read from the
// database: pre-images, tokens that a revocation needs, evidence.
//
// The keys live in a file outside of the database (see Generate for its
// format), so that a copy of the database alone opens nothing. Every value has
// a random data key of its own, which encrypts it and is itself encrypted
// ("wrapped") under the file's first sealing key. Both layers are
// XChaCha20-Poly1305 with random nonces, whose 192 bits make any number of
// values safe, and both bind the purpose: a blob sealed as a pre-image does not
// open as a token, whoever moves it there. Deleting a blob shreds it, since
// nothing else has its data key.
//
// The same file has one key for message authentication, from which MAC and
// DeriveKey take a separate key for each purpose: the record chain, and digests
// of secrets that have too little entropy for a plain hash.
//
// What is not promised: keys stay in this process's memory while it runs, and
// whoever reads the key file and the database reads everything.
package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/staunch-project/staunch"
)

// Errors that tell why a blob does not open.
var (
	// ErrWrongKey says that the blob was sealed with a key that the key file
	// does not have (any more).
	ErrWrongKey = errors.New("sealed with a key that is not in the key file")
	// ErrTampered says that the blob was changed or cut, or was sealed for
	// another purpose.
	ErrTampered = errors.New("sealed value was changed or has another purpose")
	// ErrVersion says that the blob was written by a release that this one does
	// not know.
	ErrVersion = errors.New("sealed value has an unknown version")
)

const (
	// MaxPlain bounds what Seal takes, in bytes.
	MaxPlain = 16 << 20
	// MaxPurpose bounds a purpose's length, in bytes.
	MaxPurpose = 128
	// Overhead is how many bytes longer a blob is than its plain text.
	Overhead = headerSize + chacha20poly1305.NonceSizeX + chacha20poly1305.KeySize + chacha20poly1305.Overhead +
		chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

	blobVersion = 1
	keySize     = chacha20poly1305.KeySize
	idSize      = 8
	headerSize  = 1 + idSize
	wrappedSize = chacha20poly1305.NonceSizeX + keySize + chacha20poly1305.Overhead
)

type sealingKey struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// Keyring has the keys of one key file. It never changes after Load and is safe
// for concurrent use. Printing it in any way shows its fingerprint alone.
type Keyring struct {
	keys  []sealingKey // the first seals, all open
	macID [idSize]byte
	prk   []byte // what the purposes' MAC keys are expanded from
}

// newKeyring makes a keyring of raw keys.
func newKeyring(sealing [][]byte, mac []byte) (*Keyring, error) {
	k := &Keyring{macID: keyID("mac", mac)}
	for _, raw := range sealing {
		aead, err := chacha20poly1305.NewX(raw)
		if err != nil {
			return nil, fmt.Errorf("making a cipher: %w", err)
		}
		k.keys = append(k.keys, sealingKey{id: keyID("seal", raw), aead: aead})
	}
	prk, err := hkdf.Extract(sha256.New, mac, []byte("staunch/1/mac"))
	if err != nil {
		return nil, fmt.Errorf("extracting the mac key: %w", err)
	}
	k.prk = prk
	return k, nil
}

// keyID names a key without telling anything of it: the first 64 bits of an
// HMAC under the key.
func keyID(use string, raw []byte) (id [idSize]byte) {
	m := hmac.New(sha256.New, raw)
	m.Write([]byte("staunch/1/key-id/" + use))
	copy(id[:], m.Sum(nil))
	return id
}

// Seal encrypts plain for the purpose, a constant such as "pre-image". The blob
// is Overhead bytes longer than plain. Sealing the same value twice gives two
// unlike blobs. The error wraps staunch.ErrInvalid where purpose is empty or
// longer than MaxPurpose, or plain is longer than MaxPlain.
//
// A blob is: version (1 byte), id of the wrapping key (8), nonce (24) and
// wrapped data key (48), nonce (24) and encrypted value with its tag.
func (k *Keyring) Seal(purpose string, plain []byte) ([]byte, error) {
	if err := checkPurpose(purpose); err != nil {
		return nil, err
	}
	if len(plain) > MaxPlain {
		return nil, fmt.Errorf("%w: value to seal has %d bytes, at most %d", staunch.ErrInvalid, len(plain), MaxPlain)
	}
	var dataKey [keySize]byte
	// crypto/rand.Read never fails; it ends the program where there is no
	// randomness to be had.
	_, _ = rand.Read(dataKey[:])
	defer clear(dataKey[:])
	inner, err := chacha20poly1305.NewX(dataKey[:])
	if err != nil {
		return nil, fmt.Errorf("making a cipher: %w", err)
	}

	first := k.keys[0]
	out := make([]byte, headerSize, len(plain)+Overhead)
	out[0] = blobVersion
	copy(out[1:], first.id[:])
	header := out[:headerSize:headerSize]
	out = appendSealed(out, first.aead, dataKey[:], aad("wrap", header, purpose))
	out = appendSealed(out, inner, plain, aad("value", header, purpose))
	return out, nil
}

func appendSealed(out []byte, aead cipher.AEAD, plain, aad []byte) []byte {
	n := len(out)
	out = out[:n+aead.NonceSize()]
	nonce := out[n:]
	_, _ = rand.Read(nonce)
	return aead.Seal(out, nonce, plain, aad)
}

// Unseal opens what Seal made for the same purpose. The error wraps
// ErrWrongKey, ErrTampered or ErrVersion.
func (k *Keyring) Unseal(purpose string, blob []byte) ([]byte, error) {
	if err := checkPurpose(purpose); err != nil {
		return nil, err
	}
	if len(blob) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrTampered)
	}
	if blob[0] != blobVersion {
		return nil, fmt.Errorf("%w: %d, this release knows %d", ErrVersion, blob[0], blobVersion)
	}
	if len(blob) < Overhead {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrTampered, len(blob))
	}
	header := blob[:headerSize]
	key, err := k.find([idSize]byte(header[1:]))
	if err != nil {
		return nil, err
	}
	dataKey, err := open(key.aead, blob[headerSize:headerSize+wrappedSize], aad("wrap", header, purpose))
	if err != nil {
		return nil, err
	}
	defer clear(dataKey)
	inner, err := chacha20poly1305.NewX(dataKey)
	if err != nil {
		return nil, fmt.Errorf("making a cipher: %w", err)
	}
	return open(inner, blob[headerSize+wrappedSize:], aad("value", header, purpose))
}

func (k *Keyring) find(id [idSize]byte) (sealingKey, error) {
	for _, key := range k.keys {
		if key.id == id {
			return key, nil
		}
	}
	return sealingKey{}, fmt.Errorf("%w: %s", ErrWrongKey, hex.EncodeToString(id[:]))
}

func open(aead cipher.AEAD, b, aad []byte) ([]byte, error) {
	n := aead.NonceSize()
	plain, err := aead.Open(nil, b[:n], b[n:], aad)
	if err != nil {
		return nil, ErrTampered // the library's error says no more
	}
	return plain, nil
}

// aad binds a layer to its place, the version, the wrapping key and the purpose.
func aad(layer string, header []byte, purpose string) []byte {
	return frame([]byte("staunch/1/seal"), []byte(layer), header, []byte(purpose))
}

// frame joins parts, each preceded by its length, so that no two lists of parts
// run together.
func frame(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += 8 + len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// MAC returns the 32 byte HMAC-SHA256 of the parts under the purpose's own key.
// The parts are framed by their lengths, so ("a", "bc") and ("ab", "c") differ.
// It stays the same when sealing keys are added.
func (k *Keyring) MAC(purpose string, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, k.subkey("mac", purpose))
	m.Write(frame(parts...))
	return m.Sum(nil)
}

// DeriveKey returns a 32 byte key for one purpose, for a package that does its
// own arithmetic (the record chain). From it neither the file's keys nor
// another purpose's key can be found; it differs from the key that MAC uses
// for the same purpose.
func (k *Keyring) DeriveKey(purpose string) []byte { return k.subkey("derive", purpose) }

func (k *Keyring) subkey(use, purpose string) []byte {
	b, err := hkdf.Expand(sha256.New, k.prk, string(frame([]byte(use), []byte(purpose))), keySize)
	if err != nil { // only a length over 255 hashes can fail
		panic(err)
	}
	return b
}

// Fingerprint names the key file's contents, in order, without telling any of
// it: nodes that share a database must show the same one.
func (k *Keyring) Fingerprint() string {
	h := sha256.New()
	h.Write([]byte("staunch/1/keyring"))
	h.Write(k.macID[:])
	for _, key := range k.keys {
		h.Write(key.id[:])
	}
	return "keys:" + hex.EncodeToString(h.Sum(nil)[:8])
}

// KeyIDs returns the sealing keys' ids in the file's order; the first one seals.
func (k *Keyring) KeyIDs() []string {
	ids := make([]string, len(k.keys))
	for i, key := range k.keys {
		ids[i] = hex.EncodeToString(key.id[:])
	}
	return ids
}

// KeyOf returns the id of the key that wraps the blob, so that one can see
// whether an old key is still needed.
func KeyOf(blob []byte) (string, error) {
	switch {
	case len(blob) < Overhead:
		return "", fmt.Errorf("%w: %d bytes are too few", ErrTampered, len(blob))
	case blob[0] != blobVersion:
		return "", fmt.Errorf("%w: %d, this release knows %d", ErrVersion, blob[0], blobVersion)
	}
	return hex.EncodeToString(blob[1:headerSize]), nil
}

// Format keeps the keys out of every fmt verb.
func (k *Keyring) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.Fingerprint()) }

func checkPurpose(p string) error {
	if p == "" || len(p) > MaxPurpose {
		return fmt.Errorf("%w: purpose of %d bytes (1 to %d)", staunch.ErrInvalid, len(p), MaxPurpose)
	}
	return nil
}
