//go:build systems

package rekortest_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/record/rekor"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
	"github.com/staunch-project/staunch/test/systems/rekortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asks returns a client that takes s for log, and whose checkpoints it is told of.
func asks(t *testing.T, s *rekortest.Server, log *record.TransparencyLog) (*rekor.Client, *record.Chain) {
	t.Helper()
	client, err := rekor.New(s.URL, log, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	chain, err := record.NewChain(bytes.Repeat([]byte{7}, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return client, chain
}

// TestRekorTakesCheckpoints: the receipts of a real Rekor fit, with either kind of
// key, and it has the very entries that the fake log makes.
func TestRekorTakesCheckpoints(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]rekortest.Options{"ed25519": {}, "ecdsa": {Origin: "rekor.example.org/ecdsa", ECDSA: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := rekortest.Start(t, opts)
			log, err := record.ParseTransparencyLog(s.Key, s.Origin)
			if err != nil {
				t.Fatal(err)
			}
			client, chain := asks(t, s, log)
			var want [][]byte
			for i := range int64(3) {
				cp, err := chain.Checkpoint(time.Date(2026, 1, 2, 3, int(i), 0, 0, time.UTC), nil)
				if err != nil {
					t.Fatal(err)
				}
				receipt, logged, err := client.Add(t.Context(), chain, cp)
				if err != nil || logged.Entry != i || logged.TreeSize < i+1 || logged.Origin != s.Origin {
					t.Fatalf("%v, %+v", err, logged)
				}
				cp.Logged = receipt
				if again, err := cp.VerifyLogged(chain.PublicKey(), log); err != nil || again != logged {
					t.Errorf("kept, it is %+v, %v", again, err)
				}
				request, err := chain.LogRequest(cp)
				if err != nil {
					t.Fatal(err)
				}
				entry, err := fakelog.Entry(request)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, entry)
			}
			got := s.Entries(t)
			if len(got) != len(want) {
				t.Fatalf("it has %d entries", len(got))
			}
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("entry %d is %s, and the fake log's %s", i, got[i], want[i])
				}
			}
		})
	}
}

// TestAnotherLog: the receipt of a log that signs under another name is none.
func TestAnotherLog(t *testing.T) {
	t.Parallel()
	s := rekortest.Start(t, rekortest.Options{})
	other, err := record.ParseTransparencyLog(s.Key, "another.test")
	if err != nil {
		t.Fatal(err)
	}
	client, chain := asks(t, s, other)
	cp, err := chain.Checkpoint(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), nil)
	if err != nil {
		t.Fatal(err)
	}
	if receipt, _, err := client.Add(t.Context(), chain, cp); !errors.Is(err, record.ErrWrongKey) || receipt != nil {
		t.Errorf("a log of another name gave %+v, %v", receipt, err)
	}
}
