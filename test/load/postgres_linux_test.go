package load

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/staunch-project/staunch/test/systems/pgtest"
)

// own is where the numbers of the batches begin that the test itself posts.
const own = 1 << 24

// TestPostgresRestarts kills PostgreSQL under load and starts it again, many
// times: nothing that was acknowledged is lost or there twice, and the node goes
// on by itself.
func TestPostgresRestarts(t *testing.T) {
	pgtest.Require(t)
	server := pgtest.Start(t, pgtest.Options{})
	if *ruleN == 0 {
		*ruleN = 1000
	}
	dir := t.TempDir()
	bin := made.Path(t)
	n := newNode(t, bin, dir, server.NewDatabase(t))
	forms, matches := templates(t, *ruleN)
	n.start(t)
	defer func() { *size = 500 }()
	*size = 100 // one hit, one fact
	o := order{
		URL: n.url() + "/v1/ingest/trail", Token: n.source.Reveal(), Templates: forms,
		Batches: 1 << 20, Size: *size, Every: 100 * time.Millisecond, Connections: 8, Again: 2 * time.Minute, Stop: filepath.Join(dir, "stop"),
	}
	type finished struct {
		result
		err error
	}
	posting := make(chan finished, 1)
	go func() {
		r, err := generate(t.Context(), dir, o)
		posting <- finished{r, err}
	}()
	probe := newGenerator(o)
	defer probe.client.CloseIdleConnections()
	acked := map[int]bool{}
	var resumed []time.Duration
	for i := range *restarts {
		time.Sleep(200*time.Millisecond + rand.N(time.Second))
		server.Stop(t, []pgtest.Mode{pgtest.Kill, pgtest.Immediate, pgtest.Fast}[i%3])
		time.Sleep(rand.N(500 * time.Millisecond))
		server.Start(t)
		began := time.Now()
		body := probe.batch(nil, own+i)
		for {
			status, _, err := probe.once(body)
			if err == nil && status == http.StatusOK {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("a minute after PostgreSQL was there again the answer is %d, %v", status, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		resumed = append(resumed, time.Since(began))
		acked[own+i] = true
	}
	must(t, os.WriteFile(o.Stop, nil, 0o600))
	f := <-posting
	must(t, f.err)
	n.stop(t)
	for _, p := range f.Posted {
		if p.Status != http.StatusOK {
			t.Errorf("batch %d was not taken: status %d, %d refusals, %d failures", p.Batch, p.Status, p.Refused, p.Failed)
			continue
		}
		acked[p.Batch] = true
	}
	j := n.judge(t, acked, matches)
	if j.missing+j.doubled+j.wrong > 0 {
		t.Errorf("of %d acknowledged hits %d are missing, %d are there twice, %d have not the signals that their rules make", j.hits, j.missing, j.doubled, j.wrong)
	}
	t.Logf("PostgreSQL was killed %d times; the node went on after %s; %d acknowledged hits, each there once", *restarts, quantiles(resumed), j.hits)
}
