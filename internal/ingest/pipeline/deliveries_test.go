package pipeline_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

var (
	deliveries = flag.Int("deliveries", 10_000, "how many records TestDeliveries delivers, most of them again and again")
	deliverBy  = flag.Uint64("deliveries-seed", 1, "the seed of TestDeliveries")
)

const (
	// each record is delivered so often, on average.
	timesEach = 20
	// recordsOf is how many records there are of one account.
	recordsOf = 24
	posters   = 4
)

// TestDeliveries delivers records again and again, in any order, in batches of any
// size, by several at once and across restarts, and holds that all comes out as
// where each was delivered once and in order (invariant I13): the same events,
// facts and signals, the same suspicion of everybody and the tier that policy
// gives it, and, of accounts whose events are of one instant, so that no suspicion
// decays between two decisions, the same tier of what is contained. Caps aside:
// none are set.
//
//	make deliveries N=1000000
func TestDeliveries(t *testing.T) {
	began := time.Now()
	rng := rand.New(rand.NewPCG(*deliverBy, 4))
	w := makeDeliveries(rng, max(*deliveries/timesEach, recordsOf))

	once := w.rig(t, t.TempDir())
	for batch := range slices.Chunk(w.records, 500) {
		once.ingest(batch...)
	}
	want := w.end(t, once)
	inOrder := time.Since(began)

	// Each at least once, the others by chance.
	var order []int
	for i := range max(*deliveries, len(w.records)) {
		if i >= len(w.records) {
			i = rng.IntN(len(w.records))
		}
		order = append(order, i)
	}
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	var batches [][]int
	for len(order) > 0 {
		n := min(1+rng.IntN(500), len(order))
		batches, order = append(batches, order[:n]), order[n:]
	}
	dir := t.TempDir()
	const restarts = 8
	refused := 0
	r := w.rig(t, dir)
	for round := range restarts + 1 {
		some := batches[len(batches)*round/(restarts+1) : len(batches)*(round+1)/(restarts+1)]
		if round < restarts {
			// The store closes in the middle; what is not acknowledged comes again.
			left := w.post(t, r, some, len(some)/2)
			refused += len(left)
			r = w.rig(t, dir)
			some = left
		}
		if left := w.post(t, r, some, -1); len(left) > 0 {
			t.Fatalf("%d batches were not taken", len(left))
		}
	}
	got := w.end(t, r)
	for _, k := range []string{"events", "facts", "belongs", "signals", "suspicions", "tiers", "contained"} {
		a, b := want[k], got[k]
		if len(a) == 0 {
			t.Errorf("there are no %s", k)
		}
		for key, v := range a {
			if b[key] != v {
				t.Errorf("%s of %s:\n%s\nbut\n%s", k, key, v, b[key])
			}
		}
		for key, v := range b {
			if _, ok := a[key]; !ok {
				t.Errorf("%s of %s, which delivered once has none:\n%s", k, key, v)
			}
		}
	}
	t.Logf("%d records, %d deliveries in %d batches by %d at once, %d restarts (%d batches came again): %d signals, %d facts, %d of %d accounts contained; in order %s, all in %s",
		len(w.records), *deliveries, len(batches), posters, restarts, refused, len(got["signals"]), len(got["facts"])+len(got["belongs"]),
		len(got["contained"]), w.accounts, inOrder.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
}

// delivered is what TestDeliveries works with.
type delivered struct {
	records  []string
	accounts int
	// instant has the accounts whose events are all of one instant.
	instant map[staunch.Ref]bool
	refs    []staunch.Ref
}

func makeDeliveries(rng *rand.Rand, n int) *delivered {
	w := &delivered{accounts: (n + recordsOf - 1) / recordsOf, instant: map[staunch.Ref]bool{}}
	base := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	// Most accounts are accused of little, so that what matters is that all counts.
	mild := []string{"login", "belongs", "issue", "faint", "low", "low", "low", "shadow", "account", "medium"}
	grave := append(slices.Clone(mild), "other", "high", "critical", "recommend")
	named := map[staunch.Ref]bool{}
	for i := range n {
		a := i % w.accounts
		user := fmt.Sprintf("u%d", a)
		ops := mild
		if a%3 == 0 {
			ops = grave
		}
		id := fmt.Sprintf("%s.%d", user, rng.IntN(3))
		m := map[string]any{"id": fmt.Sprint(i), "op": ops[rng.IntN(len(ops))]}
		both := m["op"] == "login" || m["op"] == "belongs"
		if who := rng.IntN(3); both || who != 0 {
			m["user"] = user
			if both || who == 1 {
				m["session"] = id
			}
		} else {
			m["session"] = id
		}
		if m["op"] == "issue" {
			m["issued"] = fmt.Sprintf("sha256:%08x", i)
		}
		if rng.IntN(4) == 0 {
			m["denied"] = true
		}
		at := base.Add(-time.Duration(1+a%50) * time.Minute)
		w.instant[account(user)] = a%2 == 0
		if a%2 != 0 {
			at = base.Add(-time.Duration(rng.IntN(4000)) * time.Second) // some are late
			if rng.IntN(20) == 0 {
				at = base.Add(2 * time.Hour)
			}
		}
		if rng.IntN(40) > 0 || a%2 == 0 {
			m["time"] = at.Format(time.RFC3339Nano)
		}
		for _, ref := range []staunch.Ref{account(user), session(id)} {
			if !named[ref] {
				named[ref] = true
				w.refs = append(w.refs, ref)
			}
		}
		b, err := json.Marshal(m)
		if err != nil {
			panic(err) // of strings and a bool
		}
		w.records = append(w.records, string(b))
	}
	w.refs = append(w.refs, staunch.IdentityRef("two"))
	return w
}

// rig is staunch on the database in a folder, as after a restart where it is there
// already.
func (w *delivered) rig(t testing.TB, dir string) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, guard: &sink{holds: map[string]staunch.Hold{}}}
	r.bundle, r.src = compiled(t)
	r.open(dir, unlimited, func(r *rig, _ *decide.Limits) { r.opt.Observe = nil })
	r.setIdentity(staunch.Identity{Name: "two", Accounts: []staunch.Ref{account("u1"), account("u3")}})
	if err := r.pipe.RefreshWatch(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// post has several post batches at once, and closes the store after so many of
// them; -1 does not. It returns the batches that were not acknowledged.
func (w *delivered) post(t *testing.T, r *rig, batches [][]int, closeAfter int) [][]int {
	t.Helper()
	var mu sync.Mutex
	var left [][]int
	next, done := 0, 0
	var once sync.Once
	var wg sync.WaitGroup
	for range posters {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(batches) {
					mu.Unlock()
					return
				}
				batch := batches[next]
				next++
				mu.Unlock()
				var body strings.Builder
				for _, i := range batch {
					body.WriteString(w.records[i] + "\n")
				}
				rep, err := r.pipe.Ingest(context.Background(), r.src, strings.NewReader(body.String()), "") //nolint:usetesting // it outlives nobody
				mu.Lock()
				done++
				if err != nil {
					left = append(left, batch)
				}
				enough := done == closeAfter
				mu.Unlock()
				if len(rep.Rejected) > 0 || err == nil && rep.Accepted != len(batch) {
					t.Errorf("of %d records %d were taken, rejected %v", len(batch), rep.Accepted, rep.Rejected)
				}
				if enough {
					once.Do(r.close)
				}
			}
		})
	}
	wg.Wait()
	if closeAfter >= 0 {
		once.Do(r.close)
	}
	return left
}

// end is what counts of a database, by what it is of. It closes the rig.
func (w *delivered) end(t *testing.T, r *rig) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	for _, k := range []string{"events", "facts", "belongs", "signals", "suspicions", "tiers", "contained"} {
		out[k] = map[string]string{}
	}
	r.view(func(rd store.Reader) error {
		for _, ref := range w.refs {
			a, o, _, err := r.pipe.Judge(rd, ref)
			if err != nil {
				return err
			}
			b, err := json.Marshal(a)
			if err != nil {
				return err
			}
			out["suspicions"][ref.String()], out["tiers"][ref.String()] = string(b), o.Would.String()
		}
		return nil
	})
	r.close()
	for _, table := range []string{"events", "signals"} {
		r.rows(t, "SELECT id, body FROM "+table, func(id string, body []byte) error {
			out[table][id] = string(body)
			return nil
		})
	}
	// Of what says who belongs to whom the earliest counts, and the others may be
	// there or not.
	r.rows(t, "SELECT id, body FROM facts", func(id string, body []byte) error {
		var f staunch.Fact
		if err := json.Unmarshal(body, &f); err != nil {
			return err
		}
		if f.Type != staunch.FactBelongs {
			out["facts"][id] = string(body)
			return nil
		}
		edge := f.Subject.Key() + " of " + f.Of.Key()
		if at := fmt.Sprintf("%020d", int64(f.Time)); out["belongs"][edge] == "" || at < out["belongs"][edge] {
			out["belongs"][edge] = at
		}
		return nil
	})
	tiers := map[staunch.Ref]staunch.Tier{}
	r.rows(t, "SELECT id, body FROM containments", func(_ string, body []byte) error {
		var c staunch.Containment
		if err := json.Unmarshal(body, &c); err != nil {
			return err
		}
		name, _, _ := strings.Cut(c.Subject.Value, ".")
		if who := account(name); w.instant[who] && c.Phase != staunch.PhaseApproval {
			tiers[who] = max(tiers[who], c.Tier)
		}
		return nil
	})
	for who, tier := range tiers {
		out["contained"][who.String()] = tier.String()
	}
	return out
}

// rows reads a table of the rig's database by itself.
func (r *rig) rows(t *testing.T, query string, each func(id string, body []byte) error) {
	t.Helper()
	db, err := sql.Open("sqlite", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		var body []byte
		if err := rows.Scan(&id, &body); err != nil {
			t.Fatal(err)
		}
		if err := each(id, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}
