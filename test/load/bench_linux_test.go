package load

import (
	"bytes"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
)

// BenchmarkBatch posts batches of 500 records, five of them hits and five facts,
// one after the other to a node in this process, for profiles of what a batch
// costs. In "one role" all sessions are of one role, as those of a busy service
// are.
func BenchmarkBatch(b *testing.B) {
	*ruleN = max(*ruleN, 1000)
	for _, shared := range []bool{false, true} {
		name := "own roles"
		if shared {
			name = "one role"
		}
		b.Run(name, func(b *testing.B) {
			forms, _ := templates(b, *ruleN)
			if shared {
				for k := range forms {
					for i, f := range forms[k] {
						forms[k][i] = oneRole(f)
					}
				}
			}
			batches(b, forms, nil)
		})
	}
}

// batches posts batches to a node of its own and returns how many records it took a
// second. beside, when given, is called before it is measured, and what it returns
// after it.
func batches(b *testing.B, forms [kinds][][]byte, beside func(a *app.App, post func()) (stop func())) float64 {
	dir := b.TempDir()
	n := newNode(b, "", dir, "")
	b.Chdir(dir)
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	must(b, err)
	set, err := app.Load(cfg, true)
	must(b, err)
	l, err := net.Listen("tcp", n.addr)
	must(b, err)
	a, err := app.New(b.Context(), set, app.Options{Listener: l})
	must(b, err)
	must(b, a.Start(b.Context()))
	defer func() { must(b, a.Stop()) }()
	g := newGenerator(order{URL: n.url() + "/v1/ingest/trail", Token: n.source.Reveal(), Templates: forms, Size: 500, Connections: 1})
	var body []byte
	at := 0
	post := func() {
		body = g.batch(body[:0], at)
		if p := g.post(at, body, time.Now()); p.Status != http.StatusOK {
			b.Fatalf("batch %d: status %d", at, p.Status)
		}
		at++
	}
	for range 200 {
		post()
	}
	if beside != nil {
		defer beside(a, post)()
	}
	var took []time.Duration
	b.ResetTimer()
	for b.Loop() {
		began := time.Now()
		post()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	rate := 500 * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate, "records/s")
	return rate
}

// oneRole makes a template's session one of the role that all have.
func oneRole(text []byte) []byte {
	text = bytes.ReplaceAll(text, []byte(`"AROA00`+markSubject), []byte(`"AROA000000000001`))
	return bytes.ReplaceAll(text, []byte("00"+markSubject), []byte("111122223333"))
}
