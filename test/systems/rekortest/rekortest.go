// Package rekortest starts private transparency logs for tests: Sigstore's Rekor
// v2, which keeps its log in files, on free ports of the loopback address, gone at
// the end even when the test process is killed. Any number may run at once.
//
// The program is the one that scripts/build-rekor.sh puts into the cache of test
// systems, or STAUNCH_REKOR_BIN. Without it a test is skipped, or fails when
// STAUNCH_REQUIRE_REKOR=1, as under make test-systems, which builds it.
package rekortest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	_ "embed" // recipe/version
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch/test/systems/internal/proc"
)

//go:embed recipe/version
var recipeVersion string

const (
	startLimit = 60 * time.Second
	callLimit  = 10 * time.Second
	// bundle is how many entries a whole file of them has.
	bundle = 256
)

// Options says how a log is to be set up.
type Options struct {
	// Origin is the name that it signs under; the default is rekor.test.
	Origin string
	// ECDSA has it sign with an ECDSA P-256 key in place of an Ed25519 key.
	ECDSA bool
}

// Server is a running log. Its fields must not be changed.
type Server struct {
	URL    string // http://127.0.0.1:PORT
	Origin string
	Key    string // its public key, in PKIX form and base64

	storage string
}

// Start starts a log for tb, which ends with it.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	bin := require(tb)
	s, end, err := start(bin, opts)
	if err != nil {
		tb.Fatalf("starting Rekor: %v", err)
	}
	tb.Cleanup(func() {
		if err := end(); err != nil {
			tb.Errorf("stopping Rekor: %v", err)
		}
	})
	return s
}

// Binary returns the path at which Rekor is looked for.
func Binary() (string, error) {
	return proc.Built("STAUNCH_REKOR_BIN", "rekor-"+strings.TrimSpace(recipeVersion), "rekor-server")
}

func require(tb testing.TB) string {
	tb.Helper()
	bin, err := Binary()
	if err == nil {
		if _, err = os.Stat(bin); err == nil {
			return bin
		}
	}
	proc.Missing(tb, "Rekor", "STAUNCH_REQUIRE_REKOR", err, "make test-systems builds it")
	return ""
}

// newKey writes a private key to a file and returns the public one.
func newKey(path string, useECDSA bool) (public string, err error) {
	var private crypto.PrivateKey
	var pub crypto.PublicKey
	if useECDSA {
		k, kerr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if kerr != nil {
			return "", kerr
		}
		private, pub = k, k.Public()
	} else if pub, private, err = ed25519.GenerateKey(nil); err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return "", err
	}
	if der, err = x509.MarshalPKIXPublicKey(pub); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

func start(bin string, opts Options) (_ *Server, end func() error, err error) {
	dir, err := proc.TempDir("rekor")
	if err != nil {
		return nil, nil, err
	}
	watcher, err := proc.Watch(dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{Origin: opts.Origin, storage: filepath.Join(dir, "log")}
	if s.Origin == "" {
		s.Origin = "rekor.test"
	}
	client := &http.Client{Transport: &http.Transport{}, Timeout: callLimit}
	defer client.CloseIdleConnections()
	var p *proc.Process
	end = func() error {
		var err error
		if p != nil {
			err = p.Stop(syscall.SIGTERM, 20*time.Second)
		}
		err = errors.Join(err, os.RemoveAll(dir))
		return errors.Join(err, watcher.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	key := filepath.Join(dir, "key.pem")
	if s.Key, err = newKey(key, opts.ECDSA); err != nil {
		return nil, nil, fmt.Errorf("making the log's key: %w", err)
	}
	output := filepath.Join(dir, "output")
	p, err = proc.StartOnPorts(3, watcher, startLimit, func(ports []string) proc.Spec {
		s.URL = "http://" + net.JoinHostPort("127.0.0.1", ports[0])
		return proc.Spec{
			Path: bin,
			Args: []string{
				"serve", "--hostname", s.Origin, "--storage-dir", s.storage, "--signer-filepath", key,
				"--http-address", "127.0.0.1", "--http-port", ports[0], "--grpc-address", "127.0.0.1", "--grpc-port", ports[1], "--http-metrics-port", ports[2],
				// It would wait for as long as this with every answer.
				"--checkpoint-interval", "1s", "--batch-max-age", "50ms", "--log-level", "warn",
			},
			Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "TZ=UTC"}, Dir: dir, Output: output,
		}
	}, func() error {
		// A stranger on the same port has not written ours.
		if _, err := os.Stat(filepath.Join(s.storage, "checkpoint")); err != nil {
			return err
		}
		return healthy(client, s.URL)
	})
	if err != nil {
		return nil, nil, err
	}
	return s, end, nil
}

func healthy(client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// Entries returns the bodies of the entries that the log has, from its own files:
// the layout is that of C2SP's tlog-tiles. A log of more than 256 entries fails tb.
func (s *Server) Entries(tb testing.TB) [][]byte {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(s.storage, "tile", "entries", "000.p", "*"))
	if err != nil {
		tb.Fatal(err)
	}
	newest, size := "", 0
	for _, f := range files {
		if n, err := strconv.Atoi(filepath.Base(f)); err == nil && n > size && n < bundle {
			newest, size = f, n
		}
	}
	if _, err := os.Stat(filepath.Join(s.storage, "tile", "entries", "000")); err == nil {
		tb.Fatalf("the log has %d entries or more", bundle)
	}
	if newest == "" {
		return nil
	}
	b, err := os.ReadFile(newest)
	if err != nil {
		tb.Fatalf("reading Rekor's entries: %v", err)
	}
	var entries [][]byte
	for len(b) >= 2 {
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			break
		}
		entries, b = append(entries, b[2:2+n]), b[2+n:]
	}
	if len(b) > 0 || len(entries) != size {
		tb.Fatalf("Rekor's file of %d entries has %d, and %d bytes more", size, len(entries), len(b))
	}
	return entries
}
