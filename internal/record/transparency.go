package record

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/staunch-project/staunch"
)

// A transparency log is told of a checkpoint by an entry of kind hashedrekord:
// the SHA-512 of the bytes that the checkpoint's signature covers, an Ed25519ph
// signature over that, and the chain's public key. So nothing of what the
// checkpoint says leaves the house. Ed25519 and Ed25519ph signatures of one key
// are kept apart by the prefix that RFC 8032 gives the latter.
//
// What the log answers is a LogReceipt, and is believed in nothing: the entry is made
// anew from the checkpoint, and only what the log's signature covers counts.

// Bounds of a receipt, in bytes where nothing else is said.
const (
	// MaxReceipt bounds the JSON that a log answers with.
	MaxReceipt = 1 << 20

	maxEnvelope = 16 << 10
	maxEntry    = 4 << 10
	maxProof    = 63 // hashes: a tree's size is an int64
	maxOrigin   = 255
	maxLogKey   = 4 << 10
)

// ErrNotLogged says that a checkpoint was signed, and went to where it is kept, but
// that the transparency log did not take it.
var ErrNotLogged = errors.New("the checkpoint was signed, but not logged")

const (
	entryKind    = "hashedrekord"
	entryVersion = "0.0.2"
	keyDetails   = "PKIX_ED25519_PH"
)

// LogReceipt is a transparency log's proof that it has an entry, in the JSON form of
// Sigstore's TransparencyLogEntry, so that other programs read it.
type LogReceipt struct {
	// LogIndex is the entry's number in the log, from 0, in decimal.
	LogIndex          string         `json:"logIndex"`
	LogID             ReceiptLog     `json:"logId"`
	KindVersion       ReceiptKind    `json:"kindVersion"`
	InclusionProof    InclusionProof `json:"inclusionProof"`
	CanonicalizedBody []byte         `json:"canonicalizedBody"`
}

// ReceiptLog names the log by the hash of its name and public key.
type ReceiptLog struct {
	KeyID []byte `json:"keyId"`
}

// ReceiptKind names the entry's form.
type ReceiptKind struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

// InclusionProof leads from the entry to the root of a tree that the log signed.
// LogIndex, RootHash and TreeSize repeat what stands elsewhere.
type InclusionProof struct {
	LogIndex   string            `json:"logIndex"`
	RootHash   []byte            `json:"rootHash"`
	TreeSize   string            `json:"treeSize"`
	Hashes     [][]byte          `json:"hashes"`
	Checkpoint ReceiptCheckpoint `json:"checkpoint"`
}

// ReceiptCheckpoint has the log's own checkpoint: a signed note as of C2SP's
// tlog-checkpoint.
type ReceiptCheckpoint struct {
	Envelope string `json:"envelope"`
}

// Logged is what a checkpoint's receipt says.
type Logged struct {
	// Checked says that the receipt was checked with the log's key. Where it was
	// not, nothing else is filled in.
	Checked bool `json:"checked"`
	// Origin is the log's name, Entry the entry's number in it, from 0, and
	// TreeSize how many entries it had.
	Origin   string `json:"origin,omitempty"`
	Entry    int64  `json:"entry"`
	TreeSize int64  `json:"tree_size,omitempty"`
}

// String returns it as a clause for people.
func (l Logged) String() string {
	if !l.Checked {
		return "has a receipt of a transparency log, which was not checked"
	}
	return fmt.Sprintf("logged by %s as entry %d of a tree of %d", l.Origin, l.Entry, l.TreeSize)
}

// Claims returns the log's name and the entry's number as an unchecked receipt has
// them, and "?" for what cannot be one.
func (r *LogReceipt) Claims() (origin, entry string) {
	origin, _, _ = strings.Cut(r.InclusionProof.Checkpoint.Envelope, "\n")
	if !validOrigin(origin) {
		origin = "?"
	}
	entry = r.LogIndex
	if _, ok := decimal(entry); !ok {
		entry = "?"
	}
	return origin, entry
}

// TransparencyLog knows a log by its name and its public key, and so checks what
// it signed. It implements note.Verifier.
type TransparencyLog struct {
	origin string
	id     [sha256.Size]byte
	key    crypto.PublicKey
	der    []byte
}

var _ note.Verifier = (*TransparencyLog)(nil)

// ParseTransparencyLog reads a log's public key, Ed25519 or ECDSA P-256: a
// verifier key as of C2SP's signed-note (name+hash+base64, Ed25519 alone), whose
// name is the origin, or a PKIX public key in base64 or PEM form, which needs the
// origin. Errors wrap staunch.ErrInvalid.
func ParseTransparencyLog(key, origin string) (*TransparencyLog, error) {
	key = strings.TrimSpace(key)
	if key == "" || len(key) > maxLogKey {
		return nil, fmt.Errorf("%w: a log's key of %d bytes, 1 to %d are needed", staunch.ErrInvalid, len(key), maxLogKey)
	}
	pub, err := parsePKIX(key)
	if err != nil {
		v, verr := note.NewVerifier(key)
		if verr != nil {
			return nil, fmt.Errorf("%w: a log's key is name+hash+base64, or a public key in base64 or PEM form: it is neither (%w)", staunch.ErrInvalid, err)
		}
		if origin != "" && origin != v.Name() {
			return nil, fmt.Errorf("%w: the key is that of %q, and the origin is given as %.300q", staunch.ErrInvalid, v.Name(), origin)
		}
		origin = v.Name()
		// It was decoded once, by NewVerifier: a byte for the kind, and the key.
		raw, rerr := base64.StdEncoding.DecodeString(strings.SplitN(key, "+", 3)[2])
		if rerr != nil || len(raw) != 1+ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: the key of %q is not an Ed25519 key", staunch.ErrInvalid, origin)
		}
		pub = ed25519.PublicKey(raw[1:])
	}
	if origin == "" {
		return nil, fmt.Errorf("%w: a public key has no name: the log's origin is needed", staunch.ErrInvalid)
	}
	if !validOrigin(origin) {
		return nil, fmt.Errorf("%w: %.300q is not a log's origin (1 to %d bytes, no blanks and no +)", staunch.ErrInvalid, origin, maxOrigin)
	}
	l := &TransparencyLog{origin: origin, key: pub}
	if l.der, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return nil, fmt.Errorf("%w: the log's key: %w", staunch.ErrInvalid, err)
	}
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		l.id = sha256.Sum256(append([]byte(origin+"\n\x01"), pub...))
	default: // ECDSA, which Rekor hashes without the name
		l.id = sha256.Sum256(l.der)
	}
	return l, nil
}

func parsePKIX(key string) (crypto.PublicKey, error) {
	var der []byte
	if block, rest := pem.Decode([]byte(key)); block != nil {
		if block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("the PEM text is not one PUBLIC KEY")
		}
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(key); err != nil {
			return nil, errors.New("it is not base64")
		}
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("it does not have a public key in PKIX form")
	}
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return pub, nil
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() {
			return pub, nil
		}
	}
	return nil, errors.New("it has a key that is neither Ed25519 nor ECDSA P-256")
}

func validOrigin(s string) bool {
	return s != "" && len(s) <= maxOrigin && utf8.ValidString(s) &&
		strings.IndexFunc(s, func(r rune) bool { return r == '+' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) < 0
}

// Origin returns the log's name, which is the first line of what it signs.
func (l *TransparencyLog) Origin() string { return l.origin }

// Key returns the public key, in PKIX form and base64.
func (l *TransparencyLog) Key() string { return base64.StdEncoding.EncodeToString(l.der) }

// Name returns the origin.
func (l *TransparencyLog) Name() string { return l.origin }

// KeyHash returns the number by which a signature of the log is known.
func (l *TransparencyLog) KeyHash() uint32 { return binary.BigEndian.Uint32(l.id[:]) }

// Verify reports whether the log signed msg.
func (l *TransparencyLog) Verify(msg, sig []byte) bool {
	switch key := l.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(key, sum[:], sig)
	}
	return false
}

var hashed = &ed25519.Options{Hash: crypto.SHA512}

// LogRequest returns the JSON that has a transparency log take a checkpoint that
// c signed.
func (c *Chain) LogRequest(cp Checkpoint) ([]byte, error) {
	if err := cp.Verify(c.PublicKey()); err != nil {
		return nil, err
	}
	digest := sha512.Sum512(cp.signed())
	sig, err := c.sign.Sign(nil, digest[:], hashed)
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint for the transparency log: %w", err)
	}
	key, err := x509.MarshalPKIXPublicKey(c.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("encoding the chain's public key: %w", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"hashedRekordRequestV002":{"digest":"%s","signature":{"content":"%s","verifier":{"keyDetails":"%s","publicKey":{"rawBytes":"%s"}}}}}`,
		b64(digest[:]), b64(sig), keyDetails, b64(key)), nil
}

// logEntry is a log's entry, as far as it is read.
type logEntry struct {
	Spec struct {
		Record struct {
			Signature struct {
				Content []byte `json:"content"`
			} `json:"signature"`
		} `json:"hashedRekordV002"`
	} `json:"spec"`
}

// canonicalEntry is the entry that the log has for a signature of a digest, in the
// form of RFC 8785: the names are in order, and base64 has nothing to be escaped.
func canonicalEntry(digest, sig, der []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `{"apiVersion":"%s","kind":"%s","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_512","digest":"%s"},"signature":{"content":"%s","verifier":{"keyDetails":"%s","publicKey":{"rawBytes":"%s"}}}}}}`,
		entryVersion, entryKind, b64(digest), b64(sig), keyDetails, b64(der))
}

// VerifyLogged checks, with nothing but the two keys, that the log had taken the
// checkpoint as it stands, signed by the key's owner, when it signed the tree that
// the receipt names. The error wraps ErrWrongKey for another log's receipt,
// ErrSignature for one that does not fit, and staunch.ErrInvalid where there is
// none, or it has no such form.
func (cp Checkpoint) VerifyLogged(key ed25519.PublicKey, log *TransparencyLog) (Logged, error) {
	if cp.Logged == nil {
		return Logged{}, fmt.Errorf("%w: checkpoint of %s has no receipt of a transparency log", staunch.ErrInvalid, cp.At)
	}
	if err := cp.Verify(key); err != nil {
		return Logged{}, err
	}
	r := cp.Logged
	logged, root, err := r.verify(cp, key, log)
	if err != nil {
		return Logged{}, fmt.Errorf("checkpoint of %s: receipt of %s: %w", cp.At, log.origin, err)
	}
	// What is said twice has to be said in one way, so that no reader of the one
	// place believes what is not in the other.
	p := r.InclusionProof
	if p.LogIndex != r.LogIndex || p.TreeSize != strconv.FormatInt(logged.TreeSize, 10) || !bytes.Equal(p.RootHash, root) {
		return Logged{}, fmt.Errorf("checkpoint of %s: receipt of %s: its number, size or root is not that of the signed tree: %w", cp.At, log.origin, ErrSignature)
	}
	return logged, nil
}

// logged is what VerifyExport says of an earlier checkpoint, which may be nil; with
// a log it has to have taken it.
func (cp *Checkpoint) logged(key ed25519.PublicKey, log *TransparencyLog) (*Logged, error) {
	switch {
	case cp == nil && log != nil:
		return nil, fmt.Errorf("%w: a transparency log is given, and no checkpoint that it is to have", staunch.ErrInvalid)
	case log != nil:
		l, err := cp.VerifyLogged(key, log)
		return &l, err
	case cp != nil && cp.Logged != nil:
		return &Logged{}, nil
	}
	return nil, nil
}

// Receipt reads what the log answered to a checkpoint's LogRequest and returns it,
// once it is verified, as it is kept. Errors are as VerifyLogged's.
func (l *TransparencyLog) Receipt(answer []byte, cp Checkpoint, key ed25519.PublicKey) (*LogReceipt, Logged, error) {
	if len(answer) > MaxReceipt {
		return nil, Logged{}, fmt.Errorf("%w: receipt of %d bytes, at most %d", staunch.ErrInvalid, len(answer), MaxReceipt)
	}
	var r LogReceipt
	if err := json.Unmarshal(answer, &r); err != nil {
		return nil, Logged{}, fmt.Errorf("%w: the receipt is not JSON of its form: %w", staunch.ErrInvalid, err)
	}
	if r.LogIndex == "" {
		r.LogIndex = "0" // a form of JSON that leaves zeros out
	}
	logged, root, err := r.verify(cp, key, l)
	if err != nil {
		return nil, Logged{}, fmt.Errorf("receipt of %s: %w", l.origin, err)
	}
	p := &r.InclusionProof
	p.LogIndex, p.TreeSize, p.RootHash = r.LogIndex, strconv.FormatInt(logged.TreeSize, 10), root
	if p.Hashes == nil {
		p.Hashes = [][]byte{}
	}
	return &r, logged, nil
}

// verify checks everything but what the proof says twice, and returns the root of
// the tree as well.
func (r *LogReceipt) verify(cp Checkpoint, key ed25519.PublicKey, log *TransparencyLog) (Logged, []byte, error) {
	misfit := func(what string) (Logged, []byte, error) {
		return Logged{}, nil, fmt.Errorf("%s: %w", what, ErrSignature)
	}
	invalid := func(format string, args ...any) (Logged, []byte, error) {
		return Logged{}, nil, fmt.Errorf("%w: "+format, append([]any{staunch.ErrInvalid}, args...)...)
	}
	p := r.InclusionProof
	index, ok := decimal(r.LogIndex)
	switch {
	case r.KindVersion != ReceiptKind{Kind: entryKind, Version: entryVersion}:
		return invalid("an entry of kind %.40q and version %.40q, this release knows %s %s", r.KindVersion.Kind, r.KindVersion.Version, entryKind, entryVersion)
	case !ok:
		return invalid("%.40q is not an entry's number", r.LogIndex)
	case len(p.Hashes) > maxProof:
		return invalid("a proof of %d hashes, at most %d", len(p.Hashes), maxProof)
	case len(p.Checkpoint.Envelope) > maxEnvelope:
		return invalid("a signed tree of %d bytes, at most %d", len(p.Checkpoint.Envelope), maxEnvelope)
	case len(r.CanonicalizedBody) > maxEntry:
		return invalid("an entry of %d bytes, at most %d", len(r.CanonicalizedBody), maxEntry)
	case !bytes.Equal(r.LogID.KeyID, log.id[:]):
		return Logged{}, nil, fmt.Errorf("%w: it names the log %.64x, and %x is expected", ErrWrongKey, r.LogID.KeyID, log.id)
	}

	// Of the body only the signature is taken, which nobody without the chain's key
	// can make; all else has to be as it is made anew here.
	var e logEntry
	if err := json.Unmarshal(r.CanonicalizedBody, &e); err != nil {
		return invalid("the entry is not JSON of its form")
	}
	digest, sig := sha512.Sum512(cp.signed()), e.Spec.Record.Signature.Content
	if len(key) != ed25519.PublicKeySize || ed25519.VerifyWithOptions(key, digest[:], sig, hashed) != nil {
		return misfit("the entry's signature is not one of this checkpoint")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return invalid("the chain's public key: %v", err)
	}
	entry := canonicalEntry(digest[:], sig, der)
	if !bytes.Equal(entry, r.CanonicalizedBody) {
		return misfit("the entry is not that of this checkpoint")
	}

	size, root, err := log.openTree(p.Checkpoint.Envelope)
	if err != nil {
		return Logged{}, nil, err
	}
	if index >= size {
		return misfit(fmt.Sprintf("entry %d is not in a tree of %d", index, size))
	}
	proof := make(tlog.RecordProof, len(p.Hashes))
	for i, h := range p.Hashes {
		if len(h) != tlog.HashSize {
			return invalid("hash %d of the proof has %d bytes, not %d", i+1, len(h), tlog.HashSize)
		}
		proof[i] = tlog.Hash(h)
	}
	if err := tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(entry)); err != nil {
		return misfit("the proof does not lead to the root that the log signed")
	}
	return Logged{Checked: true, Origin: log.origin, Entry: index, TreeSize: size}, root[:], nil
}

// openTree returns the size and the root of a tree that the log signed. Signatures
// of others, such as witnesses, are passed over, and so are lines after the root.
func (l *TransparencyLog) openTree(envelope string) (size int64, root tlog.Hash, err error) {
	n, err := note.Open([]byte(envelope), note.VerifierList(l))
	if err != nil {
		return 0, root, fmt.Errorf("the signed tree: %w: %w", ErrSignature, err)
	}
	lines := strings.SplitN(n.Text, "\n", 4)
	if len(lines) < 4 || lines[0] != l.origin {
		return 0, root, fmt.Errorf("the signed tree does not begin with %s: %w", l.origin, ErrSignature)
	}
	size, ok := decimal(lines[1])
	sum, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if !ok || err != nil || len(sum) != tlog.HashSize {
		return 0, root, fmt.Errorf("%w: the signed tree has no size and root", staunch.ErrInvalid)
	}
	return size, tlog.Hash(sum), nil
}

// decimal reads a number that is written in the one way that there is.
func decimal(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == s
}
