package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// The third measure: one durable decision, T1, against what the disk or the
// database needs for as many bytes in one commit.

// core is a pipeline and an executor that is not started, on a store of their
// own: T1 without HTTP and without what follows.
type core struct {
	store store.Store
	pipe  *pipeline.Pipeline
	src   *pipeline.Source
	cases map[staunch.Ref]string
	mu    sync.Mutex
}

// lineage is the inventory as the executor sees it.
type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

// startCore wires a core; open makes its store.
func startCore(tb testing.TB, open func(*record.Chain) store.Store) *core {
	tb.Helper()
	dir := tb.TempDir()
	s := tokenAccused(tb, "http://127.0.0.1:1")
	fill := strings.NewReplacer("@LISTEN@", "127.0.0.1:1", "@REALM@", s.realm, "@SCHEME@", s.scheme, "@ACCUSE@", s.accuse)
	write(tb, filepath.Join(dir, "staunch.yaml"), fill.Replace(configHead+s.more))
	write(tb, filepath.Join(dir, "detector.yaml"), fill.Replace(detectorMapping))
	write(tb, filepath.Join(dir, "rule.yaml"), fill.Replace(stolenRule))
	write(tb, filepath.Join(dir, "policy.yaml"), s.files["policy.yaml"])
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	must(tb, err)
	set, err := app.Load(cfg, true)
	must(tb, err)
	must(tb, seal.Generate(filepath.Join(dir, "key")))
	keys, err := seal.Load(filepath.Join(dir, "key"))
	must(tb, err)
	chain, err := record.NewChain(keys.DeriveKey(record.KeyPurpose))
	must(tb, err)
	c := &core{store: open(chain), src: set.Sources[sourceName], cases: map[staunch.Ref]string{}}
	inv := inventory.New(inventory.Limits{})
	engine, err := contain.New(contain.Options{
		Store: c.store, Sealer: keys, Clock: staunch.SystemClock{}, Lineage: lineage{inv},
		Guard: guard.New(guard.Options{Store: c.store, Clock: staunch.SystemClock{}}),
	})
	must(tb, err)
	c.pipe, err = pipeline.New(pipeline.Options{
		Store: c.store, Inventory: inv, Cases: engine, Clock: staunch.SystemClock{}, Sealer: keys, Guardrails: set.Guardrails,
		Digest: func(b []byte) string { return fmt.Sprintf("hmac-sha256:%x", keys.MAC("record digest", b)) },
		Mode:   staunch.ModeEnforce,
		Observe: func(d staunch.Decision) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.cases[d.Subject] = d.Containment
		},
	}, set.Bundle)
	must(tb, err)
	return c
}

// decide takes in the n-th deciding record.
func (c *core) decide(ctx context.Context, n int) error {
	body, err := json.Marshal(map[string]any{
		"id": fmt.Sprintf("r%08d", n), "time": time.Now().UTC().Format(time.RFC3339Nano), "method": "GET", "path": "/export",
		"client_ip": "203.0.113.66", "user_agent": "curl/8.5.0", "bytes": 52133, "token": theToken(n).Reveal(),
	})
	if err != nil {
		return err
	}
	rep, err := c.pipe.Ingest(ctx, c.src, strings.NewReader(string(body)), "")
	if err == nil && (rep.Signals != 1 || rep.Decisions != 1) {
		err = fmt.Errorf("the record did not decide: %+v", rep)
	}
	return err
}

func theToken(n int) staunch.Secret {
	return staunch.NewSecret(fmt.Sprintf("token-%08d-%s", n, strings.Repeat("x", 60)))
}

func (c *core) caseOf(tb testing.TB, n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.cases[staunch.Ref{Kind: staunch.KindCredential, Realm: c.src.Realm, Scheme: "sha256", Value: theToken(n).Digest()}]
	if id == "" {
		tb.Fatalf("record %d opened no case", n)
	}
	return id
}

func openSQLite(tb testing.TB) func(*record.Chain) store.Store {
	return func(chain *record.Chain) store.Store {
		s, err := sqlstore.OpenSQLite(tb.Context(), filepath.Join(tb.TempDir(), "staunch.db"), sqlstore.Options{Chain: chain})
		must(tb, err)
		tb.Cleanup(func() { _ = s.Close() })
		return s
	}
}

func openPostgres(tb testing.TB, dsn string) func(*record.Chain) store.Store {
	return func(chain *record.Chain) store.Store {
		s, err := sqlstore.OpenPostgres(tb.Context(), staunch.NewSecret(dsn), sqlstore.Options{Chain: chain, Node: "bench"})
		must(tb, err)
		tb.Cleanup(func() { _ = s.Close() })
		return s
	}
}

// durable is one run's figures: medians, in microseconds.
type durable struct {
	N     int
	Bytes float64
	// Pipeline is T1 as records cause it, parsing to acknowledgement; Rows is
	// the store's part alone; each has its floor beside it.
	Pipeline, PipelineFloor, Rows, RowsFloor float64
}

func (d durable) ratios() (pipeline, rows float64) {
	return d.Pipeline / d.PipelineFloor, d.Rows / d.RowsFloor
}

// decisions times T1 and its rows in turn with a floor that is given as many
// bytes.
func decisions(tb testing.TB, n int, c *core, floor func([]byte)) durable {
	var whole, wholeFloor, rowsOnly, rowsFloor, size []float64
	const warmup = 5
	for i := range n + warmup {
		began := time.Now()
		must(tb, c.decide(tb.Context(), i))
		a := time.Since(began)
		b, _ := rows(tb, c.store, c.caseOf(tb, i))
		began = time.Now()
		floor(b)
		f := time.Since(began)
		began = time.Now()
		must(tb, c.store.Update(tb.Context(), func(tx store.Tx) error { return storetest.Decide(tx, i, staunch.Time(i+1)) }))
		r := time.Since(began)
		lean := storetestBytes(tb, i)
		began = time.Now()
		floor(lean)
		rf := time.Since(began)
		if i < warmup {
			continue
		}
		whole, wholeFloor, size = append(whole, us(a)), append(wholeFloor, us(f)), append(size, float64(len(b)))
		rowsOnly, rowsFloor = append(rowsOnly, us(r)), append(rowsFloor, us(rf))
	}
	return durable{N: n, Bytes: median(size), Pipeline: median(whole), PipelineFloor: median(wholeFloor), Rows: median(rowsOnly), RowsFloor: median(rowsFloor)}
}

// storetestBytes is what storetest.Decide's rows say, as JSON.
func storetestBytes(tb testing.TB, n int) []byte {
	ref := storetest.Ref(n)
	c := storetest.Containment(ref, "load", 1)
	var out []byte
	for _, v := range []any{storetest.Event(n, 1, ref), storetest.Signal(ref, n, 1), c, storetest.Hold(staunch.PlaneGuard, ref, "load", c.ID),
		storetest.Record(c.ID, n, 1), staunch.Decision{Subject: ref, Identity: c.Identity}} {
		j, err := json.Marshal(v)
		must(tb, err)
		out = append(out, j...)
	}
	return out
}

func reportDecisions(t *testing.T, what, floor string, all []durable) {
	t.Helper()
	var p, r, whole, wf, rows, rf []float64
	for _, d := range all {
		a, b := d.ratios()
		p, r = append(p, a), append(r, b)
		whole, wf, rows, rf = append(whole, d.Pipeline), append(wf, d.PipelineFloor), append(rows, d.Rows), append(rf, d.RowsFloor)
	}
	report(t, "one durable decision on %s: rows %.2f× %s (runs %.2f; %.0f against %.0f µs); with parsing, rules, policy and look-ups %.2f× (runs %.2f; %.0f against %.0f µs, %.0f B)",
		what, median(r), floor, r, median(rows), median(rf), median(p), p, median(whole), median(wf), all[0].Bytes)
}

func TestDecisionSQLite(t *testing.T) {
	n := size(500, 5)
	reportDecisions(t, "SQLite", "one appended fdatasync of the same bytes", pieces(t, "decision/sqlite", fmt.Sprintf("n=%d", n), size(5, 1), func(int) durable {
		floor := openAppended(t)
		d := decisions(t, n, startCore(t, openSQLite(t)), func(b []byte) { floor.write(t, b) })
		progress("decision on SQLite: %+v", d)
		return d
	}))
}

func TestDecisionPostgreSQL(t *testing.T) {
	pgtest.Require(t)
	n := size(500, 5)
	reportDecisions(t, "PostgreSQL", "its own commit of one row of the same bytes", pieces(t, "decision/postgresql", fmt.Sprintf("n=%d", n), size(5, 1), func(int) durable {
		dsn := pgtest.Start(t, pgtest.Options{Durable: true}).NewDatabase(t)
		conn, err := pgx.Connect(t.Context(), dsn)
		must(t, err)
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		_, err = conn.Exec(t.Context(), "CREATE TABLE floor (n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body BYTEA)")
		must(t, err)
		d := decisions(t, n, startCore(t, openPostgres(t, dsn)), func(b []byte) {
			_, err := conn.Exec(t.Context(), "INSERT INTO floor (body) VALUES ($1)", b)
			must(t, err)
		})
		progress("decision on PostgreSQL: %+v", d)
		return d
	}))
}

// rates is one run of 64 callers.
type rates struct {
	// Signals and Decisions are transactions per second, each waited for until
	// it is durable; Syncs is how many appended fdatasyncs a second the disk did
	// just before.
	Signals, Decisions, Syncs float64
}

func TestSignals64(t *testing.T) {
	const callers = 64
	n, m := size(40_000, 200), size(4_000, 100)
	all := pieces(t, "signals/sqlite", fmt.Sprintf("callers=%d n=%d m=%d", callers, n, m), size(5, 1), func(int) rates {
		var r rates
		floor := openAppended(t)
		block := make([]byte, 600)
		began := time.Now()
		for range size(300, 10) {
			floor.write(t, block)
		}
		r.Syncs = float64(size(300, 10)) / time.Since(began).Seconds()
		c := startCore(t, openSQLite(t))
		parallel := func(n int, do func(i int) error) float64 {
			var next atomic.Int64
			var wg sync.WaitGroup
			began := time.Now()
			for range callers {
				wg.Go(func() {
					for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
						if err := do(i); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			return float64(n) / time.Since(began).Seconds()
		}
		r.Signals = parallel(n, func(i int) error {
			s := storetest.Signal(storetest.Ref(i%5000), i, staunch.Time(i))
			return c.store.Update(t.Context(), func(tx store.Tx) error { _, err := tx.PutSignal(s); return err })
		})
		r.Decisions = parallel(m, func(i int) error { return c.decide(t.Context(), i) })
		progress("64 callers: %+v", r)
		return r
	})
	var s, d, f []float64
	for _, r := range all {
		s, d, f = append(s, r.Signals), append(d, r.Decisions), append(f, r.Syncs)
	}
	report(t, "64 callers on SQLite: %.0f durable signals/s (runs %.0f), %.0f whole decisions/s (runs %.0f); one caller's appended fdatasyncs: %.0f/s", median(s), s, median(d), d, median(f))
}
