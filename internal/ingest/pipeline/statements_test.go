package pipeline_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

var everyStatement = flag.Int("every", 7, "TestFailingStatements fails every n-th statement of the way, the whole with 1")

// failing fails statements: the left-th from now on and as many after it as burst
// says.
type failing struct {
	armed       bool
	left, burst int
	hit         string
	with        error
}

func (f *failing) fault(statement string) error {
	if !f.armed {
		return nil
	}
	if f.left--; f.left > 0 || f.left+f.burst <= 0 {
		return nil
	}
	if f.hit == "" {
		f.hit, _, _ = strings.Cut(statement, "(")
	}
	return f.with
}

// off runs what looks on.
func (f *failing) off(fn func()) {
	was := f.armed
	f.armed = false
	fn()
	f.armed = was
}

// TestFailingStatements takes one account after another from the record that
// accuses it through containment, proof and release, and has another statement of
// the way fail each time, COMMIT included, on both databases. Whatever fails, who
// asked asks again, as senders and people do. Each account comes to be contained
// and is put back, each change reaches the platform once, and the log is whole.
//
//	go test ./internal/ingest/pipeline -run TestFailingStatements -args -every 1
func TestFailingStatements(t *testing.T) {
	for _, c := range []struct {
		name     string
		postgres bool
		with     error
	}{
		{"SQLite", false, errors.New("disk I/O error")},
		{"PostgreSQL", true, &pgconn.PgError{Severity: "ERROR", Code: "53100", Message: "could not extend file: No space left on device"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rig{t: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, guard: &sink{holds: map[string]staunch.Hold{}}}
			if c.postgres {
				pgtest.Require(t)
				r.postgres = pgtest.NewDatabase(t)
			}
			f := &failing{with: c.with}
			r.fault = f.fault
			r.bundle, r.src = compiled(t)
			r.open(t.TempDir(), unlimited)
			defer r.close()
			n, runs := 0, 0
			for hit := "begin"; hit != ""; runs++ {
				n += *everyStatement
				// Now and then for longer than one try.
				f.left, f.burst, f.hit = n, 1+runs%3*4, ""
				r.wholeWay(t, f, fmt.Sprintf("s%d", n))
				if hit = f.hit; t.Failed() {
					t.Fatalf("with statement %d failing, %s…", n, hit)
				}
			}
			if runs < 3 {
				t.Errorf("only %d runs", runs)
			}
			t.Logf("%d statements of %d failed on the way, one or some in each of %d runs: each account was contained and put back, each change made once", runs-1, n, runs)
			r.chained(t)
		})
	}
}

// wholeWay takes an account the whole way while statements fail.
func (r *rig) wholeWay(t *testing.T, f *failing, name string) {
	t.Helper()
	ctx := t.Context()
	var before []string
	f.off(func() {
		r.platform.AddAccount(name)
		r.platform.Login(name)
		before = r.platform.Ledger()
	})
	// again asks until it is done, as senders and people do.
	again := func(what string, fn func() error) {
		for try := 0; ; try++ {
			err := fn()
			if err == nil {
				return
			}
			if !errors.Is(err, store.ErrFailed) || try == 20 {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	body := r.rec(name, "critical", name)
	f.armed = true
	defer func() { f.armed = false }()
	again("posting", func() error {
		_, err := r.pipe.Ingest(ctx, r.src, strings.NewReader(body), "")
		return err
	})
	var id string
	f.off(func() {
		r.view(func(rd store.Reader) error {
			list, err := rd.OpenContainments([]staunch.Ref{account(name)})
			if len(list) == 1 {
				id = list[0].ID
			}
			return err
		})
		if id == "" {
			t.Fatalf("%s was acknowledged, and there is no case", name)
		}
	})
	r.drive(t, f, id, staunch.PhaseHeld)
	f.off(func() {
		if got := r.platform.Dump(name); !strings.HasPrefix(got, "disabled ") {
			t.Errorf("%s is held and is %q", name, got)
		}
	})
	again("releasing", func() error {
		return r.store.Update(ctx, func(tx store.Tx) error {
			_, err := r.engine.Release(tx, id, staunch.Release{Reason: "over", By: "alice", Revive: true})
			return err
		})
	})
	r.drive(t, f, id, staunch.PhaseReleased)
	f.off(func() {
		if got := r.platform.Dump(name); !strings.HasPrefix(got, "enabled ") {
			t.Errorf("%s is released and is %q", name, got)
		}
		times := map[string]int{}
		for _, l := range r.platform.Ledger()[len(before):] {
			times[l]++
		}
		for l, n := range times {
			if n > 1 {
				t.Errorf("%d times: %s", n, l)
			}
		}
		if len(times) < 2 {
			t.Errorf("the platform saw %v", times)
		}
	})
}

// drive works on a case until it is in the phase, with the clock as it needs it.
func (r *rig) drive(t *testing.T, f *failing, id string, phase staunch.Phase) {
	t.Helper()
	var con staunch.Containment
	for range 2000 {
		f.off(func() {
			r.view(func(rd store.Reader) (err error) {
				con, err = rd.Containment(id)
				return err
			})
		})
		if con.Phase == phase {
			return
		}
		wait := r.engine.Drive(context.Background(), id) //nolint:usetesting // it outlives nobody
		switch now := staunch.TimeOf(r.clock.Now()); {
		case wait > now:
			r.clock.add(wait.Sub(now))
		case wait == 0:
			r.clock.add(time.Second)
		}
	}
	t.Fatalf("%s is %s and does not come to be %s, trouble %q", id, con.Phase, phase, con.Trouble)
}

// chained verifies the log.
func (r *rig) chained(t *testing.T) {
	t.Helper()
	chain, err := record.NewChain(r.keys.DeriveKey("records"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := record.NewVerifier(chain, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.view(func(rd store.Reader) error {
		heads, err := rd.Heads()
		if err != nil {
			return err
		}
		for _, h := range heads {
			for seq := int64(0); seq < h.Seq; {
				page, err := rd.Records(h.Lane, seq, 500)
				if err != nil {
					return err
				}
				for _, rec := range page {
					if err := v.Add(rec); err != nil {
						return err
					}
					seq = rec.Seq
				}
			}
		}
		return nil
	})
	if err := v.Finish().Err(); err != nil {
		t.Error(err)
	}
}
