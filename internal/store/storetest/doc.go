// Package storetest is the conformance suite of package store. An
// implementation calls Run from its tests; one that does not pass does not
// merge. Load and CheckLoad are for tests that kill a process which writes.
package storetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Harness is a store under test, on an empty database of its own. What opens it
// also closes it, at the test's end.
type Harness struct {
	// Store hashes records with Chain.
	Store store.Store
	// Other opens the same database a second time, as another node; nil where
	// that has to be refused.
	Other func(t *testing.T, node string) store.Store
	// Reopen closes Store, opens the database again and returns the new store.
	Reopen func(t *testing.T) store.Store
	// Values says that Store is for simulations and keeps values as they are: what
	// encoding refuses, it takes.
	Values bool
}

// Chain is the way of hashing records that the suite expects of Harness.Store:
// HMAC-SHA-256 over prev and the record's JSON.
type Chain struct{}

// Hash hashes r after prev.
func (Chain) Hash(prev string, r staunch.Record) (string, error) {
	r.Hash = ""
	b, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encoding a record: %w", err)
	}
	m := hmac.New(sha256.New, []byte("storetest"))
	m.Write([]byte(prev))
	m.Write(b)
	return hex.EncodeToString(m.Sum(nil)), nil
}

// VerifyChains reads every lane from its first record to its head and returns
// the number of records, or where a chain is broken.
func VerifyChains(r store.Reader) (int, error) {
	heads, err := r.Heads()
	if err != nil {
		return 0, err
	}
	total := 0
	for _, h := range heads {
		prev, seq := "", int64(0)
		for {
			page, err := r.Records(h.Lane, seq, 500)
			if err != nil {
				return 0, err
			}
			if len(page) == 0 {
				break
			}
			for _, rec := range page {
				seq++
				if rec.Lane != h.Lane || rec.Seq != seq || rec.Prev != prev {
					return 0, fmt.Errorf("lane %s: record %d says lane %s, seq %d, prev %q; expected prev %q", h.Lane, seq, rec.Lane, rec.Seq, rec.Prev, prev)
				}
				want, err := Chain{}.Hash(prev, rec)
				if err != nil {
					return 0, err
				}
				if rec.Hash != want {
					return 0, fmt.Errorf("lane %s: record %d has hash %s, expected %s", h.Lane, seq, rec.Hash, want)
				}
				prev = rec.Hash
				total++
			}
		}
		if h.Seq != seq || h.Hash != prev {
			return 0, fmt.Errorf("lane %s: the head is %d %s, the last record %d %s", h.Lane, h.Seq, h.Hash, seq, prev)
		}
	}
	return total, nil
}
