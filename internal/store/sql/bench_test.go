package sqlstore_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/storetest"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// The figures are ratios to a floor that is measured in the same run, turn by
// turn, so that a busy machine slows both.

// cpu is the processor time of this process, which a busy machine changes less
// than it does the clock's.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchSignals has 64 callers put one durable signal in each transaction.
func benchSignals(b *testing.B, s store.Store) {
	var n atomic.Int64
	b.SetParallelism(32) // times GOMAXPROCS
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(n.Add(1))
			sig := storetest.Signal(storetest.Ref(i%5000), i, staunch.Time(i))
			err := s.Update(b.Context(), func(tx store.Tx) error { _, err := tx.PutSignal(sig); return err })
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signals/s")
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkSQLiteSignals(b *testing.B) {
	benchSignals(b, openLite(b, filepath.Join(b.TempDir(), "staunch.db")))
}

func BenchmarkPostgresSignals(b *testing.B) {
	server := pgtest.Start(b, pgtest.Options{Durable: true})
	benchSignals(b, openPG(b, server.NewDatabase(b), "one"))
}

// decisionBytes is what a decision's rows say, as JSON.
func decisionBytes(b *testing.B, n int) []byte {
	b.Helper()
	ref := storetest.Ref(n)
	c := storetest.Containment(ref, "load", 1)
	var out []byte
	for _, v := range []any{storetest.Event(n, 1, ref), storetest.Signal(ref, n, 1), c, storetest.Hold(staunch.PlaneGuard, ref, "load", c.ID),
		storetest.Record(c.ID, n, 1), staunch.Decision{Subject: ref, Identity: c.Identity}} {
		j, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, j...)
	}
	return out
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// against runs both in turn and reports the ratio of the medians.
func against(b *testing.B, run, floor func(n int)) {
	var took, least []time.Duration
	b.ResetTimer()
	for n := range b.N {
		t := time.Now()
		run(n)
		took = append(took, time.Since(t))
		t = time.Now()
		floor(n)
		least = append(least, time.Since(t))
	}
	b.ReportMetric(float64(median(took).Microseconds()), "µs/decision")
	b.ReportMetric(float64(median(least).Microseconds()), "µs/floor")
	b.ReportMetric(float64(median(took))/float64(median(least)), "ratio")
}

func decide(b *testing.B, s store.Store) func(n int) {
	return func(n int) {
		if err := s.Update(b.Context(), func(tx store.Tx) error { return storetest.Decide(tx, n, staunch.Time(n+1)) }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSQLiteDecision: one caller's durable decision, all of its rows,
// against the same bytes appended to a file with one fdatasync.
func BenchmarkSQLiteDecision(b *testing.B) {
	dir := b.TempDir()
	s := openLite(b, filepath.Join(dir, "staunch.db"))
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	against(b, decide(b, s), func(n int) {
		if _, err := f.Write(decisionBytes(b, n)); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkPostgresDecision: the same against PostgreSQL's own commit of one
// row.
func BenchmarkPostgresDecision(b *testing.B) {
	server := pgtest.Start(b, pgtest.Options{Durable: true})
	dsn := server.NewDatabase(b)
	s := openPG(b, dsn, "one")
	c, err := pgx.Connect(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }() //nolint:usetesting // the benchmark's context is over by then
	if _, err := c.Exec(b.Context(), "CREATE TABLE floor (n BIGINT PRIMARY KEY, body BYTEA)"); err != nil {
		b.Fatal(err)
	}
	against(b, decide(b, s), func(n int) {
		if _, err := c.Exec(b.Context(), "INSERT INTO floor VALUES ($1, $2)", n, decisionBytes(b, n)); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkPostgresCommit: a transaction of one row against PostgreSQL's own.
func BenchmarkPostgresCommit(b *testing.B) {
	server := pgtest.Start(b, pgtest.Options{Durable: true})
	dsn := server.NewDatabase(b)
	s := openPG(b, dsn, "one")
	c, err := pgx.Connect(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }() //nolint:usetesting // the benchmark's context is over by then
	if _, err := c.Exec(b.Context(), "CREATE TABLE floor (n BIGINT PRIMARY KEY, body BYTEA)"); err != nil {
		b.Fatal(err)
	}
	body := decisionBytes(b, 1)[:600]
	against(b, func(n int) {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			_, err := tx.PutSignal(storetest.Signal(storetest.Ref(n), n, 1))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}, func(n int) {
		if _, err := c.Exec(b.Context(), "INSERT INTO floor VALUES ($1, $2)", n, body); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkSQLiteEvidence reads what a judgement weighs: the signals under one of
// several thousand refs, each accused often and in turn, so that little of it is
// remembered. The floor decodes as many signals that lie in memory already.
func BenchmarkSQLiteEvidence(b *testing.B) {
	const accused, each = 2000, 24
	s := openLite(b, filepath.Join(b.TempDir(), "staunch.db"))
	update := func(fn func(tx store.Tx) error) {
		b.Helper()
		if err := s.Update(b.Context(), fn); err != nil {
			b.Fatal(err)
		}
	}
	bodies := make([][]byte, each)
	for i := range each {
		update(func(tx store.Tx) (err error) {
			for n := range accused {
				sig := storetest.Signal(storetest.Ref(n), n*each+i, staunch.Time(1+i))
				if bodies[i], err = json.Marshal(sig); err != nil {
					return err
				}
				if _, err := tx.PutSignal(sig); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.ReportAllocs()
	against(b, func(n int) {
		update(func(tx store.Tx) error {
			got, err := tx.SignalsWithin([]staunch.Ref{storetest.Ref(n % accused)}, 0, 500)
			if err == nil && len(got) != each {
				b.Fatalf("%d signals of %d", len(got), each)
			}
			return err
		})
	}, func(int) {
		for _, body := range bodies {
			var sig staunch.Signal
			if err := json.Unmarshal(body, &sig); err != nil {
				b.Fatal(err)
			}
		}
	})
}
