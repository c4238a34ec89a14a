// Package vaulttest starts private HashiCorp Vault dev servers for tests: all
// in memory, on a free port of the loopback address, with a file audit device,
// gone at the end even when the test process is killed. Any number may run at
// once.
//
// The program is the one that scripts/build-vault.sh puts into the cache of
// test systems, or STAUNCH_VAULT_BIN. Without it a test is skipped, or fails
// when STAUNCH_REQUIRE_VAULT=1, as under make test-systems, which builds it.
// Vault is under the Business Source License: tests run against it, and
// nothing that ships contains it.
package vaulttest

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed" // recipe/version
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
	callLimit  = 30 * time.Second
	maxBody    = 8 << 20
	// DatabasePlugin is the name of the PostgreSQL database plugin, which is
	// registered when it was built beside Vault.
	DatabasePlugin = "postgresql-database-plugin"
)

// Options says how a server is to be set up.
type Options struct {
	// AuditPath is the file that the audit device writes to. The default is a
	// file in the server's own directory.
	AuditPath string
	// AuditRequestHeaders are request headers that are to appear in the audit
	// log in plain text.
	AuditRequestHeaders []string
	// NoAudit leaves the audit device off.
	NoAudit bool
}

// Server is a running Vault. Its fields must not be changed.
type Server struct {
	Addr      string // http://127.0.0.1:PORT
	Token     string // the root token
	AuditPath string

	http *http.Client
}

// Start starts a server for tb, which ends with it.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	bin := require(tb)
	s, end, err := start(bin, opts)
	if err != nil {
		tb.Fatalf("starting Vault: %v", err)
	}
	tb.Cleanup(func() {
		if err := end(); err != nil {
			tb.Errorf("stopping Vault: %v", err)
		}
	})
	return s
}

// Require skips tb, or fails it under STAUNCH_REQUIRE_VAULT=1, unless Vault is
// there.
func Require(tb testing.TB) {
	tb.Helper()
	require(tb)
}

// Binary returns the path at which Vault is looked for.
func Binary() (string, error) {
	return proc.Built("STAUNCH_VAULT_BIN", "vault-"+strings.TrimSpace(recipeVersion), "vault")
}

func require(tb testing.TB) string {
	tb.Helper()
	bin, err := Binary()
	if err == nil {
		if _, err = os.Stat(bin); err == nil {
			return bin
		}
	}
	proc.Missing(tb, "Vault", "STAUNCH_REQUIRE_VAULT", err, "make test-systems builds it")
	return ""
}

func start(bin string, opts Options) (_ *Server, end func() error, err error) {
	dir, err := proc.TempDir("vault")
	if err != nil {
		return nil, nil, err
	}
	watcher, err := proc.Watch(dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{
		Token: "root-" + rand.Text(), AuditPath: opts.AuditPath,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: callLimit},
	}
	var p *proc.Process
	end = func() error {
		s.http.CloseIdleConnections()
		var err error
		if p != nil {
			err = p.Stop(syscall.SIGTERM, 10*time.Second)
		}
		err = errors.Join(err, os.RemoveAll(dir))
		return errors.Join(err, watcher.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, end())
		}
	}()
	if s.AuditPath == "" {
		s.AuditPath = filepath.Join(dir, "audit.log")
	}
	output := filepath.Join(dir, "output")
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "VAULT_DISABLE_MLOCK=1", "TZ=UTC",
		// Not on the command line, where everybody sees it.
		"VAULT_DEV_ROOT_TOKEN_ID=" + s.Token,
	}
	args := []string{"server", "-dev", "-dev-no-store-token", "-log-level=warn"}
	plugins := filepath.Join(filepath.Dir(bin), "plugins")
	if _, err := os.Stat(plugins); err == nil {
		args = append(args, "-dev-plugin-dir="+plugins)
	}
	p, err = proc.StartOnPorts(1, watcher, startLimit, func(ports []string) proc.Spec {
		address := net.JoinHostPort("127.0.0.1", ports[0])
		s.Addr = "http://" + address
		return proc.Spec{Path: bin, Args: append(args, "-dev-listen-address="+address), Env: env, Dir: dir, Output: output}
	}, func() error {
		// Asks with the token: a stranger on the same port does not know it.
		status, err := s.Do(s.Token, http.MethodGet, "auth/token/lookup-self", nil, nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return s, end, s.setUpAudit(opts)
}

func (s *Server) setUpAudit(opts Options) error {
	if opts.NoAudit {
		return nil
	}
	for _, h := range opts.AuditRequestHeaders {
		if err := s.ok(http.MethodPut, "sys/config/auditing/request-headers/"+h, map[string]any{"hmac": false}, nil); err != nil {
			return err
		}
	}
	return s.ok(http.MethodPut, "sys/audit/file", map[string]any{
		"type": "file", "options": map[string]string{"file_path": s.AuditPath},
	}, nil)
}

// Call calls Vault's API at path, such as "sys/health", with the root token.
// in, when not nil, is sent as JSON, and the answer is decoded into out, when
// not nil. Every answer that is no success fails tb.
func (s *Server) Call(tb testing.TB, method, path string, in, out any) {
	tb.Helper()
	if err := s.ok(method, path, in, out); err != nil {
		tb.Fatalf("calling Vault: %v", err)
	}
}

func (s *Server) ok(method, path string, in, out any) error {
	var answer json.RawMessage
	status, err := s.Do(s.Token, method, path, in, &answer)
	switch {
	case err != nil:
		return err
	case status < 200 || status > 299:
		return fmt.Errorf("%s %s: status %d: %.500s", method, path, status, answer)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decoding the answer of %s %s: %w", method, path, err)
	}
	return nil
}

// Do calls Vault's API with a token, "" for none, and returns the status. The
// answer is decoded into out when it is JSON and out is not nil.
func (s *Server) Do(token, method, path string, in, out any) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, fmt.Errorf("encoding the body of %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.Addr+"/v1/"+path, body)
	if err != nil {
		return 0, fmt.Errorf("calling %s %s: %w", method, path, err)
	}
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("calling %s %s: %w", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return 0, fmt.Errorf("reading the answer of %s %s: %w", method, path, err)
	}
	if out != nil && len(b) > 0 {
		if err := json.Unmarshal(b, out); err != nil {
			return resp.StatusCode, fmt.Errorf("decoding the answer of %s %s, status %d: %w", method, path, resp.StatusCode, err)
		}
	}
	return resp.StatusCode, nil
}

// Audit returns the audit log's whole lines so far, oldest first.
func (s *Server) Audit(tb testing.TB) [][]byte {
	tb.Helper()
	b, err := os.ReadFile(s.AuditPath)
	if err != nil {
		tb.Fatalf("reading Vault's audit log: %v", err)
	}
	lines := bytes.Split(b, []byte("\n"))
	return lines[:len(lines)-1]
}
