//go:build systems

package e2e

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/cli"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/test/systems/rekortest"
)

// TestCheckpointsAreLogged: a checkpoint goes to a real Rekor, its receipt is
// checked with two public keys and nothing else, and whatever is changed of either
// is found. What the log has is told by its own files.
func TestCheckpointsAreLogged(t *testing.T) {
	t.Parallel()
	log := rekortest.Start(t, rekortest.Options{})
	n := newNode(t, map[string]string{"staunch.yaml": fmt.Sprintf(`v: 1
listen: "@LISTEN@"
node: counting-house
audit:
  checkpoint_every: 1h
  transparency_log:
    url: %s
    key: %s
    origin: %s
`, log.URL, log.Key, log.Origin)})
	dir := t.TempDir()
	run := func(want int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		code := cli.Main(context.WithoutCancel(t.Context()), args, cli.Env{
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
			Getenv: func(name string) string {
				return map[string]string{"STAUNCH_URL": "http://" + n.addr, "STAUNCH_TOKEN": n.admin.Reveal()}[name]
			},
		})
		if code != want {
			t.Fatalf("staunch %s ended with %d: %s%s", strings.Join(args, " "), code, &out, &errs)
		}
		return out.String() + errs.String()
	}
	has := func(text, part string) {
		t.Helper()
		if !strings.Contains(text, part) {
			t.Errorf("it does not say %q: %s", part, text)
		}
	}

	has(run(cli.ExitOK, "audit", "checkpoint"), "logged by "+log.Origin+":")
	line := run(cli.ExitOK, "audit", "checkpoint", "-o", "json")
	has(run(cli.ExitOK, "audit", "verify"), "the checkpoint was logged by "+log.Origin+" as entry 1 of a tree of 2")

	// Somebody elsewhere has the file and two public keys.
	export := filepath.Join(dir, "records.ndjson")
	run(cli.ExitOK, "audit", "export", "--file", export)
	b, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(b[:bytes.IndexByte(b, '\n')], &head); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(filepath.Dir(n.path), "data", "checkpoints.ndjson")
	pub := filepath.Join(dir, "log.pub")
	if err := os.WriteFile(pub, []byte(log.Key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := []string{"--public-key", head.Key, "--log-key", pub, "--log-origin", log.Origin}
	verify := func(want int, file string, more ...string) string {
		t.Helper()
		return run(want, append(append([]string{"audit", "verify", "--checkpoint", file}, keys...), more...)...)
	}
	has(verify(cli.ExitOK, file), "logged by "+log.Origin+" as entry 1 of a tree of 2")
	has(verify(cli.ExitOK, file, "--export", export), "logged by "+log.Origin+" as entry 1 of a tree of 2")

	// What the log itself has is the digest of what our signature covers, and no
	// word of it.
	key, err := record.ParsePublicKey(head.Key)
	if err != nil {
		t.Fatal(err)
	}
	var cp record.Checkpoint
	if err := json.Unmarshal([]byte(line), &cp); err != nil {
		t.Fatal(err)
	}
	entries := log.Entries(t)
	if len(entries) != 2 {
		t.Fatalf("the log has %d entries", len(entries))
	}
	if !bytes.Equal(entries[1], cp.Logged.CanonicalizedBody) {
		t.Errorf("the log has %s, and the receipt %s", entries[1], cp.Logged.CanonicalizedBody)
	}
	var entry struct {
		Spec struct {
			Record struct {
				Data struct {
					Algorithm string `json:"algorithm"`
					Digest    []byte `json:"digest"`
				} `json:"data"`
				Signature struct {
					Verifier struct {
						PublicKey struct {
							RawBytes []byte `json:"rawBytes"`
						} `json:"publicKey"`
					} `json:"verifier"`
				} `json:"signature"`
			} `json:"hashedRekordV002"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(entries[1], &entry); err != nil {
		t.Fatal(err)
	}
	if r := entry.Spec.Record; r.Data.Algorithm != "SHA2_512" || len(r.Data.Digest) != sha512.Size || !bytes.HasSuffix(r.Signature.Verifier.PublicKey.RawBytes, key) {
		t.Errorf("the log has %s", entries[1])
	}
	for _, e := range entries {
		for _, h := range cp.Heads {
			if bytes.Contains(e, []byte("counting-house")) || bytes.Contains(e, []byte(h.Lane)) || bytes.Contains(e, []byte(h.Hash)) {
				t.Errorf("the log was told of %s: %s", h.Lane, e)
			}
		}
	}

	// Whatever is changed is found.
	for name, change := range map[string]func(cp *record.Checkpoint){
		"the checkpoint":      func(cp *record.Checkpoint) { cp.Heads[0].Seq++ },
		"its time":            func(cp *record.Checkpoint) { cp.At++ },
		"the number":          func(cp *record.Checkpoint) { cp.Logged.LogIndex, cp.Logged.InclusionProof.LogIndex = "0", "0" },
		"a hash of the proof": func(cp *record.Checkpoint) { cp.Logged.InclusionProof.Hashes[0][0] ^= 1 },
		"the tree's size": func(cp *record.Checkpoint) {
			e := &cp.Logged.InclusionProof.Checkpoint.Envelope
			*e = strings.Replace(*e, "\n2\n", "\n3\n", 1)
		},
		"the entry": func(cp *record.Checkpoint) {
			cp.Logged.CanonicalizedBody = bytes.Replace(cp.Logged.CanonicalizedBody, []byte(base64.StdEncoding.EncodeToString(entry.Spec.Record.Data.Digest)[:8]), []byte("AAAAAAAA"), 1)
		},
		"the receipt is gone": func(cp *record.Checkpoint) { cp.Logged = nil },
	} {
		var bent record.Checkpoint
		if err := json.Unmarshal([]byte(line), &bent); err != nil {
			t.Fatal(err)
		}
		change(&bent)
		b, err := json.Marshal(bent)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "bent.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s", name, verify(cli.ExitBad, path))
		if name != "the receipt is gone" { // which the server's own check lets be
			run(cli.ExitBad, "audit", "verify", "--checkpoint", path)
		}
	}
}
