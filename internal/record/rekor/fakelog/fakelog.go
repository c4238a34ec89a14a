// Package fakelog is a small transparency log in memory, which answers as Rekor v2
// does and, where a test wants it to, lies. It makes entries, trees and proofs on
// its own, from what the specifications say, so that it agrees with what it tests
// only where both are right.
package fakelog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Log is a log. It is safe for concurrent use.
type Log struct {
	// Origin is its name, Key its public key in PKIX form and base64, VerifierKey
	// the same as of signed notes; empty for ECDSA.
	Origin, Key, VerifierKey string
	// URL is where it answers, until the test ends.
	URL string

	signer note.Signer
	id     []byte

	mu      sync.Mutex
	hashes  []tlog.Hash
	entries [][]byte
	behave  func(w http.ResponseWriter, r *http.Request, honest func() []byte)
}

// Start starts an empty log with an Ed25519 key of its own.
func Start(tb testing.TB, origin string) *Log {
	tb.Helper()
	return StartSeed(tb, origin, rand.Text())
}

// StartSeed is Start with a key that is made of a text, so that it is the same in
// another process.
func StartSeed(tb testing.TB, origin, seed string) *Log {
	tb.Helper()
	sum := sha256.Sum256([]byte(seed))
	priv := ed25519.NewKeyFromSeed(sum[:])
	pub, ok := priv.Public().(ed25519.PublicKey)
	if !ok {
		tb.Fatal("an Ed25519 key is none") // crypto/ed25519 says that it is
	}
	l := start(tb, origin, pub, func(msg []byte) ([]byte, error) { return ed25519.Sign(priv, msg), nil })
	var err error
	if l.VerifierKey, err = note.NewEd25519VerifierKey(origin, pub); err != nil {
		tb.Fatal(err)
	}
	return l
}

// StartECDSA starts an empty log with an ECDSA P-256 key.
func StartECDSA(tb testing.TB, origin string) *Log {
	tb.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return start(tb, origin, priv.Public(), func(msg []byte) ([]byte, error) {
		sum := sha256.Sum256(msg)
		return ecdsa.SignASN1(rand.Reader, priv, sum[:])
	})
}

func start(tb testing.TB, origin string, pub crypto.PublicKey, sign func([]byte) ([]byte, error)) *Log {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		tb.Fatal(err)
	}
	sum := sha256.Sum256(der)
	if k, ok := pub.(ed25519.PublicKey); ok {
		sum = sha256.Sum256(bytes.Join([][]byte{[]byte(origin), {'\n', 1}, k}, nil))
	}
	l := &Log{Origin: origin, Key: base64.StdEncoding.EncodeToString(der), id: sum[:]}
	l.signer = signer{origin, binary.BigEndian.Uint32(sum[:]), sign}
	s := httptest.NewServer(l)
	tb.Cleanup(s.Close)
	l.URL = s.URL
	return l
}

type signer struct {
	name string
	hash uint32
	sign func([]byte) ([]byte, error)
}

func (s signer) Name() string                    { return s.name }
func (s signer) KeyHash() uint32                 { return s.hash }
func (s signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// Signer returns what signs the log's trees.
func (l *Log) Signer() note.Signer { return l.signer }

// Behave has fn answer requests; honest adds what was asked for and returns the
// answer, nil where it would be refused. A nil fn is an honest log.
func (l *Log) Behave(fn func(w http.ResponseWriter, r *http.Request, honest func() []byte)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behave = fn
}

// Entries returns the entries' bodies.
func (l *Log) Entries() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([][]byte(nil), l.entries...)
}

// Add adds an entry of any kind and returns its number.
func (l *Log) Add(body []byte) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(len(l.entries))
	add, err := tlog.StoredHashes(n, body, l.read())
	if err != nil {
		panic(err) // the reader is a slice
	}
	l.hashes, l.entries = append(l.hashes, add...), append(l.entries, body)
	return n
}

func (l *Log) read() tlog.HashReaderFunc {
	return func(at []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(at))
		for i, n := range at {
			out[i] = l.hashes[n]
		}
		return out, nil
	}
}

// Tree returns the signed tree of the first size entries, with further signers'
// signatures after the log's.
func (l *Log) Tree(size int64, others ...note.Signer) string {
	l.mu.Lock()
	root, err := tlog.TreeHash(size, l.read())
	l.mu.Unlock()
	if err != nil {
		panic(err)
	}
	return l.Sign(fmt.Sprintf("%s\n%d\n%s\n", l.Origin, size, base64.StdEncoding.EncodeToString(root[:])), others...)
}

// Sign signs any text as a tree.
func (l *Log) Sign(text string, others ...note.Signer) string {
	b, err := note.Sign(&note.Note{Text: text}, append([]note.Signer{l.signer}, others...)...)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Answer returns what Rekor answers for an entry of a tree, as a JSON object.
func (l *Log) Answer(index, size int64) map[string]any {
	l.mu.Lock()
	proof, err := tlog.ProveRecord(size, index, l.read())
	root, rerr := tlog.TreeHash(size, l.read())
	body := l.entries[index]
	l.mu.Unlock()
	if err = errors.Join(err, rerr); err != nil {
		panic(err)
	}
	hashes := []any{}
	for _, h := range proof {
		hashes = append(hashes, base64.StdEncoding.EncodeToString(h[:]))
	}
	b64 := base64.StdEncoding.EncodeToString
	return map[string]any{
		"logIndex": strconv.FormatInt(index, 10), "logId": map[string]any{"keyId": b64(l.id)},
		"kindVersion":    map[string]any{"kind": "hashedrekord", "version": "0.0.2"},
		"integratedTime": "0", "inclusionPromise": nil,
		"inclusionProof": map[string]any{
			"logIndex": strconv.FormatInt(index, 10), "rootHash": b64(root[:]), "treeSize": strconv.FormatInt(size, 10),
			"hashes": hashes, "checkpoint": map[string]any{"envelope": l.Tree(size)},
		},
		"canonicalizedBody": b64(body),
	}
}

// Entry checks a request as Rekor does and returns the body of its entry.
func Entry(request []byte) ([]byte, error) {
	var in struct {
		Record struct {
			Digest    []byte `json:"digest"`
			Signature struct {
				Content  []byte `json:"content"`
				Verifier struct {
					KeyDetails string `json:"keyDetails"`
					PublicKey  struct {
						RawBytes []byte `json:"rawBytes"`
					} `json:"publicKey"`
				} `json:"verifier"`
			} `json:"signature"`
		} `json:"hashedRekordRequestV002"`
	}
	d := json.NewDecoder(bytes.NewReader(request))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	v := in.Record.Signature.Verifier
	pub, err := x509.ParsePKIXPublicKey(v.PublicKey.RawBytes)
	if err != nil {
		return nil, err
	}
	key, ok := pub.(ed25519.PublicKey)
	if !ok || v.KeyDetails != "PKIX_ED25519_PH" || len(in.Record.Digest) != sha512.Size {
		return nil, errors.New("not an Ed25519ph signature of a SHA-512 digest")
	}
	if err := ed25519.VerifyWithOptions(key, in.Record.Digest, in.Record.Signature.Content, &ed25519.Options{Hash: crypto.SHA512}); err != nil {
		return nil, err
	}
	// Maps are written in the order of their names, as RFC 8785 wants it.
	return json.Marshal(map[string]any{
		"kind": "hashedrekord", "apiVersion": "0.0.2",
		"spec": map[string]any{"hashedRekordV002": map[string]any{
			"data": map[string]any{"digest": in.Record.Digest, "algorithm": "SHA2_512"},
			"signature": map[string]any{
				"content":  in.Record.Signature.Content,
				"verifier": map[string]any{"publicKey": map[string]any{"rawBytes": v.PublicKey.RawBytes}, "keyDetails": v.KeyDetails},
			},
		}},
	})
}

// ServeHTTP answers POST /api/v2/log/entries.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v2/log/entries" {
		http.NotFound(w, r)
		return
	}
	honest := func() []byte {
		body, err := Entry(request)
		if err != nil {
			return nil
		}
		n := l.Add(body)
		b, err := json.Marshal(l.Answer(n, n+1))
		if err != nil {
			panic(err)
		}
		return b
	}
	l.mu.Lock()
	behave := l.behave
	l.mu.Unlock()
	if behave != nil {
		behave(w, r, honest)
		return
	}
	b := honest()
	if b == nil {
		http.Error(w, `{"code":3,"message":"invalid request"}`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(b) // to a client that is there or not
}
