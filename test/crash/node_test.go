package crash_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

const (
	configFile = `v: 1
data_dir: data
key_file: staunch.key
listen: "@LISTEN@"
node: "@NODE@"
mode: enforce
@STORE@
log: {level: warn}
no_default_policy: true
policies: [policy.yaml]
rules: [rules]
identities: identities.yaml
sources:
  - {name: detector, format: generic, mapping: detector.yaml, realm: "@REALM@", ceiling: revoke}
realms:
  - name: "@REALM@"
    rate_per_second: 1000
    @CONFIG@
@MORE@`

	// identityLine is one of a run's subjects.
	identityLine = "- {name: subject-@ROLE@, kind: service, owner: books, purpose: 'closing @ROLE@', environment: production, tier: 2, tolerance: normal, accounts: ['account:@REALM@:@SCHEME@:@ROLE@']}\n"

	// Every stage has its window, so that each way from one phase to another is
	// gone.
	policyFile = `v: 1
policies:
  - id: crash
    description: every stage, one after the other
    mode: enforce
    priority: 0
    then:
      tiers:
        - {at: 0.85, tier: revoke, playbook: stages}
      staged: stages
      revoke_sources: 1
      scope: narrowest
playbooks:
  - name: stages
    stages:
      - {tier: restrict, deny: [write], window: 60ms}
      - {tier: isolate, deny: ["*"], window: 60ms}
      - {tier: revoke, deny: ["*"]}
    derived: true
    @EXPIRY@
`

	mappingFile = `v: 1
name: detector
title: A detector's findings
product: {name: Detector, vendor_name: staunch}
logsource: {product: crash, service: detector}
refs:
  account: {kind: account, scheme: "@SCHEME@", from: account}
  lease: {kind: credential, scheme: lease-id, from: lease}
keys:
  id: id
  time: time
  operation: "{method} {path}"
  outcome: success
  source_ip: client_ip
  actor: [account]
facts:
  - {type: credential_issued, when: {lease: {exists: true}}, subject: lease, by: account}
ocsf:
  classes:
    - class: API Activity
      activity: =Read
      set:
        actor: {user: {name: account, uid: account}}
        api: {operation: "{method} {path}"}
        src_endpoint: {ip: client_ip}
`

	stolenRule = `title: Used from where it has no business
id: 0d6f3a54-3f5e-4c4e-9a0c-9c5f6e0f7a01
level: critical
status: stable
logsource: {product: crash, service: detector}
detection:
  used: {path: /export}
  own: {client_ip|cidr: 10.0.0.0/8}
  condition: used and not own
tags: [attack.t1078]
accuse: [account]
`

	seenRule = `title: Looked at
id: 0d6f3a54-3f5e-4c4e-9a0c-9c5f6e0f7a02
level: low
status: stable
logsource: {product: crash, service: detector}
detection:
  used: {path: /look}
  condition: used
tags: [attack.t1078]
accuse: [account]
`
)

// node is staunch on disk, and the process that runs it now, if one does.
type node struct {
	bin, dir      string
	addr          string
	postgres      string // the DSN of its database, "" for SQLite
	admin, source staunch.Secret

	cmd    *exec.Cmd
	ended  chan struct{}
	starts int
}

type nodeOptions struct {
	bin, dir, postgres string
	name               string // "crash" unless given
	subjects           []string
	platform           platform
	expiring           bool
	more               string // of the configuration
}

// writeNode writes a node's configuration.
func writeNode(ctx context.Context, o nodeOptions) (*node, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	n := &node{bin: o.bin, dir: o.dir, addr: fmt.Sprintf("127.0.0.1:%d", port), postgres: o.postgres}
	realmConfig, scheme := o.platform.realm()
	identities := "v: 1\nidentities:\n"
	for _, role := range o.subjects {
		identities += strings.ReplaceAll(identityLine, "@ROLE@", role)
	}
	fill := strings.NewReplacer("@LISTEN@", n.addr, "@NODE@", cmp.Or(o.name, "crash"), "@REALM@", realm, "@CONFIG@", realmConfig, "@SCHEME@", scheme,
		"@STORE@", map[bool]string{true: "postgres_url: " + o.postgres}[o.postgres != ""],
		"@EXPIRY@", map[bool]string{true: "expiry: 2500ms\n    on_expiry: keep"}[o.expiring],
		"@MORE@", strings.ReplaceAll(o.more, "@SCHEME@", scheme))
	if err := os.MkdirAll(filepath.Join(o.dir, "rules"), 0o700); err != nil {
		return nil, err
	}
	for name, content := range map[string]string{
		"staunch.yaml": configFile, "policy.yaml": policyFile, "detector.yaml": mappingFile, "identities.yaml": identities,
		"rules/stolen.yaml": stolenRule, "rules/seen.yaml": seenRule,
	} {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(fill.Replace(content)), 0o600); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// newNode writes the configuration and does what `staunch init` does.
func newNode(ctx context.Context, o nodeOptions) (*node, error) {
	n, err := writeNode(ctx, o)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(filepath.Join(o.dir, "staunch.yaml"))
	if err != nil {
		return nil, err
	}
	if n.admin, err = app.Init(ctx, cfg, "crash"); err != nil {
		return nil, err
	}
	st, err := n.open(ctx, n.database(o.dir))
	if err != nil {
		return nil, err
	}
	n.source, _, err = app.MakeToken(ctx, st, store.Token{Name: "detector", Role: "source", Source: "detector"}, "crash")
	return n, errors.Join(err, st.Close())
}

// joinNode writes the configuration of another node on the first one's database.
func joinNode(ctx context.Context, first *node, o nodeOptions) (*node, error) {
	n, err := writeNode(ctx, o)
	if err != nil {
		return nil, err
	}
	n.admin, n.source = first.admin, first.source
	key, err := os.ReadFile(filepath.Join(first.dir, "staunch.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the first node's key file: %w", err)
	}
	return n, os.WriteFile(filepath.Join(o.dir, "staunch.key"), key, 0o600)
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("looking for a port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func (n *node) url() string { return "http://" + n.addr }

// database is the SQLite file in a folder, "" on PostgreSQL.
func (n *node) database(dir string) string {
	if n.postgres != "" {
		return ""
	}
	return filepath.Join(dir, "data", "staunch.db")
}

// trace is the file that the n-th process writes what it passes to.
func (n *node) trace(start int) string { return filepath.Join(n.dir, fmt.Sprintf("trace-%d", start)) }

// start starts the process; at is a crash point with a number, or "".
func (n *node) start(ctx context.Context, at string) error {
	n.starts++
	log, err := os.OpenFile(filepath.Join(n.dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	if _, err := fmt.Fprintf(log, "---- start %d, crash at %q\n", n.starts, at); err != nil {
		return err
	}
	n.cmd = exec.CommandContext(ctx, n.bin, "serve", "--config", "staunch.yaml")
	n.cmd.Dir, n.cmd.Stdout, n.cmd.Stderr = n.dir, log, log
	n.cmd.Env = append(os.Environ(), "STAUNCH_CRASH_TRACE="+n.trace(n.starts))
	if at != "" {
		n.cmd.Env = append(n.cmd.Env, "STAUNCH_CRASH_AT="+at)
	}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("starting the binary: %w", err)
	}
	ended := make(chan struct{})
	n.ended = ended
	cmd := n.cmd
	go func() {
		_ = cmd.Wait() // how it ended is asked for in killed
		close(ended)
	}()
	return nil
}

func (n *node) dead() bool {
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}

// kill is kill -9 from outside.
func (n *node) kill() {
	_ = n.cmd.Process.Signal(syscall.SIGKILL) // it may have died already
	<-n.ended
}

// killed says that the process was killed, and did not end by itself.
func (n *node) killed() error {
	ws, ok := n.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the process ended by itself: %s", n.cmd.ProcessState)
}

// ready waits until the process answers or ends.
func (n *node) ready(ctx context.Context, client *http.Client) error {
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n.dead() {
			return nil
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 300 {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the node is not ready after a minute; last answer: %w", err)
		}
	}
}

// passed returns the points that the n-th process passed, in order.
func (n *node) passed(start int) ([]string, error) {
	b, err := os.ReadFile(n.trace(start))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // it passed none
	}
	if err != nil {
		return nil, fmt.Errorf("reading the trace: %w", err)
	}
	return strings.Fields(string(b)), nil
}

func (n *node) chain() (*record.Chain, error) {
	keys, err := seal.Load(filepath.Join(n.dir, "staunch.key"))
	if err != nil {
		return nil, fmt.Errorf("loading the key: %w", err)
	}
	return record.NewChain(keys.DeriveKey(record.KeyPurpose))
}

func (n *node) open(ctx context.Context, sqlite string) (store.Store, error) {
	chain, err := n.chain()
	if err != nil {
		return nil, err
	}
	o := sqlstore.Options{Chain: chain, Log: slog.New(slog.DiscardHandler), Node: "judge"}
	if n.postgres != "" {
		return sqlstore.OpenPostgres(ctx, staunch.NewSecret(n.postgres), o)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(pollEvery) {
		st, err := sqlstore.OpenSQLite(ctx, sqlite, o)
		if err == nil {
			return st, nil
		}
		// Another lane that is just starting a process has, until that process runs,
		// a copy of every descriptor, and with it of a lock that was let go of here.
		if !errors.Is(err, staunch.ErrConflict) || time.Now().After(deadline) {
			return nil, err
		}
	}
}

// autopsy is staunch's database as a dead process left it. On SQLite it is a
// copy, so that the next process still has its own recovery to do.
type autopsy struct {
	store store.Store
	raw   *sql.DB
	chain *record.Chain
	dir   string
}

func (n *node) autopsy(ctx context.Context) (_ *autopsy, err error) {
	a := &autopsy{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.chain, err = n.chain(); err != nil {
		return a, err
	}
	if n.postgres != "" {
		if a.store, err = n.open(ctx, ""); err != nil {
			return a, err
		}
		a.raw, err = sql.Open("pgx", n.postgres)
		return a, err
	}
	if a.dir, err = os.MkdirTemp(n.dir, "autopsy-"); err != nil {
		return a, err
	}
	db := filepath.Join(a.dir, "data", "staunch.db")
	if err = os.MkdirAll(filepath.Dir(db), 0o700); err != nil {
		return a, err
	}
	// The shared memory of the write-ahead log is made anew from the log.
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(n.database(n.dir) + suffix)
		if err != nil {
			return a, fmt.Errorf("copying the database: %w", err)
		}
		if err := os.WriteFile(db+suffix, b, 0o600); err != nil {
			return a, fmt.Errorf("copying the database: %w", err)
		}
	}
	if a.store, err = n.open(ctx, db); err != nil {
		return a, err
	}
	a.raw, err = sql.Open("sqlite", "file:"+db+"?mode=ro")
	return a, err
}

func (a *autopsy) close() error {
	var err error
	if a.raw != nil {
		err = errors.Join(err, a.raw.Close())
	}
	if a.store != nil {
		err = errors.Join(err, a.store.Close())
	}
	if a.dir != "" {
		err = errors.Join(err, os.RemoveAll(a.dir))
	}
	return err
}

// count counts rows. query has at most one parameter, spelled $1.
func (a *autopsy) count(ctx context.Context, query string, args ...any) (int, error) {
	var n int
	if err := a.raw.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	return n, nil
}

// verify checks the chain of records with its key.
func (a *autopsy) verify(ctx context.Context) error {
	v, err := record.NewVerifier(a.chain, nil, nil)
	if err != nil {
		return err
	}
	err = a.store.View(ctx, func(r store.Reader) error {
		heads, err := r.Heads()
		if err != nil {
			return err
		}
		for _, h := range heads {
			for after := int64(0); after < h.Seq; {
				page, err := r.Records(h.Lane, after, 500)
				if err != nil {
					return err
				}
				if len(page) == 0 {
					return fmt.Errorf("lane %s ends at %d and not at its head, %d", h.Lane, after, h.Seq)
				}
				for _, rec := range page {
					if err := v.Add(rec); err != nil {
						return err
					}
				}
				after = page[len(page)-1].Seq
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verifying the records: %w", err)
	}
	return v.Finish().Err()
}

// steps returns a case's steps.
func (a *autopsy) steps(ctx context.Context, id string) ([]staunch.Step, error) {
	var steps []staunch.Step
	err := a.store.View(ctx, func(r store.Reader) error {
		var err error
		steps, err = r.Steps(id)
		return err
	})
	return steps, err
}

// cases returns every case.
func (a *autopsy) cases(ctx context.Context) ([]staunch.Containment, error) {
	var list []staunch.Containment
	err := a.store.View(ctx, func(r store.Reader) error {
		var err error
		list, err = r.Containments(store.Page{}, false)
		return err
	})
	return list, err
}
