package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/policies"
)

// The second measure: from the POST of the deciding record to the arrival of
// the first call that changes something, one record at a time, against the
// floor of two appended fdatasyncs of the same bytes and one read of the
// pre-image.

// issuer is an authorization server that only counts, and says when.
type issuer struct {
	*httptest.Server
	mu sync.Mutex
	// reads counts the introspections before the revocation of a token, revoked
	// has when it came.
	reads   map[string]int
	revoked map[string]time.Time
}

func newIssuer() *issuer {
	s := &issuer{reads: map[string]int{}, revoked: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		token := r.FormValue("token")
		s.mu.Lock()
		_, gone := s.revoked[token]
		if !gone {
			s.reads[token]++
		}
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if gone {
			_, _ = io.WriteString(w, `{"active":false}`)
			return
		}
		_, _ = io.WriteString(w, `{"active":true,"client_id":"billing-sync","sub":"billing-sync","scope":"ledger","token_type":"bearer","exp":4102444800,"iat":1700000000}`)
	})
	mux.HandleFunc("POST /revoke", func(_ http.ResponseWriter, r *http.Request) {
		at := time.Now()
		token := r.FormValue("token")
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.revoked[token]; !ok {
			s.revoked[token] = at
		}
	})
	s.Server = httptest.NewServer(mux)
	return s
}

// tokenAccused is the configuration under which a token that nobody declared is
// revoked.
func tokenAccused(tb testing.TB, address string) setting {
	tb.Helper()
	policy, err := fs.ReadFile(policies.FS, "default.yaml")
	must(tb, err)
	return setting{
		realm: "oauth2/bench", scheme: "client-id", accuse: "credential",
		more: "no_default_policy: true\npolicies: [policy.yaml]\nrealms:\n- name: oauth2/bench\n  platform: oauth2\n  rate_per_second: 100000\n  connector:\n" +
			"    revocation_endpoint: " + address + "/revoke\n    introspection_endpoint: " + address + "/introspect\n" +
			"    clients: [{id: billing-sync, secret: s}]\n    proof: {id: proof, secret: p}\n",
		files: map[string]string{"policy.yaml": strings.Replace(string(policy), "unmanaged: isolate", "unmanaged: revoke", 1)},
	}
}

// rows returns the bytes of what T1 and T2 of a case put, as JSON.
func rows(tb testing.TB, st store.Store, id string) (t1, t2 []byte) {
	tb.Helper()
	must(tb, st.View(tb.Context(), func(r store.Reader) error {
		t1, t2 = nil, nil
		add := func(to *[]byte, v any) {
			b, err := json.Marshal(v)
			if err != nil {
				tb.Error(err)
			}
			*to = append(*to, b...)
		}
		c, err := contain.ReadCase(r, id)
		if err != nil {
			return err
		}
		con := c.Containment
		for _, id := range con.Decisions {
			d, err := r.Decision(id)
			if err != nil {
				return err
			}
			add(&t1, d)
			for _, s := range d.Signals {
				sig, err := r.Signal(s)
				if err != nil {
					return err
				}
				ev, err := r.Event(sig.Event)
				if err != nil {
					return err
				}
				add(&t1, sig)
				add(&t1, ev)
			}
		}
		add(&t1, con)
		add(&t2, con)
		for _, h := range c.Holds {
			if h.Plane == staunch.PlaneGuard {
				add(&t1, h)
			} else {
				add(&t2, h)
			}
		}
		plans, err := r.Plans(id)
		if err != nil {
			return err
		}
		for _, p := range plans {
			add(&t2, p)
		}
		for _, s := range c.Steps {
			s.Receipt, s.After = nil, ""
			add(&t2, s)
			blob, err := r.Sealed(s.PreImage)
			if err != nil {
				return err
			}
			t2 = append(t2, blob...)
		}
		recs, err := r.RecordsAbout(id, 100)
		if err != nil {
			return err
		}
		opened := false
		for _, rec := range recs {
			switch {
			case rec.Kind == staunch.RecordDecision, rec.Kind == staunch.RecordContainment && !opened:
				opened = opened || rec.Kind == staunch.RecordContainment
				add(&t1, rec)
			case rec.Kind == staunch.RecordPlan:
				add(&t2, rec)
			}
		}
		return nil
	}))
	return t1, t2
}

// firstCall is one run's figures: medians, in microseconds.
type firstCall struct {
	N                       int
	Run, Floor, Read, Acked float64
	// Ratio is of the medians; T1 and T2 are bytes; Reads is how many reads came
	// before the call.
	Ratio, T1, T2, Reads float64
}

func TestFirstCall(t *testing.T) {
	n := size(300, 3)
	all := pieces(t, "first call", fmt.Sprintf("n=%d store=sqlite platform=oauth2", n), size(5, 1), func(int) firstCall {
		s := newIssuer()
		defer s.Close()
		e := startNode(t, tokenAccused(t, s.URL))
		floor := openAppended(t)
		reader := &http.Client{}
		defer reader.CloseIdleConnections()
		readOnce := func() time.Duration {
			began := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/introspect", strings.NewReader(url.Values{"token": {"floor"}}.Encode()))
			must(t, err)
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.SetBasicAuth("billing-sync", "s")
			resp, err := reader.Do(req)
			must(t, err)
			var body map[string]any
			must(t, json.NewDecoder(resp.Body).Decode(&body))
			_ = resp.Body.Close()
			return time.Since(began)
		}
		var run, least, reads, read, acked, t1s, t2s []float64
		const warmup = 5
		for i := range n + warmup {
			token := staunch.NewSecret(fmt.Sprintf("token-%06d-%s", i, strings.Repeat("x", 60)))
			began := time.Now()
			must(t, e.accuse(t.Context(), fmt.Sprintf("r%06d", i), "", token.Reveal()))
			ack := time.Since(began)
			id := e.spans.caseOf(staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth2/bench", Scheme: "sha256", Value: token.Digest()})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			must(t, e.spans.held(ctx, id))
			cancel()
			s.mu.Lock()
			called, ok := s.revoked[token.Reveal()]
			before := s.reads[token.Reveal()]
			s.mu.Unlock()
			if !ok {
				t.Fatalf("%s was never revoked: %s", id, e.logs)
			}
			b1, b2 := rows(t, e.app.Store(), id)
			began2 := time.Now()
			floor.write(t, b1)
			r := readOnce()
			floor.write(t, b2)
			f := time.Since(began2)
			if i < warmup {
				continue
			}
			run, least, reads = append(run, us(called.Sub(began))), append(least, us(f)), append(reads, float64(before))
			read, acked = append(read, us(r)), append(acked, us(ack))
			t1s, t2s = append(t1s, float64(len(b1))), append(t2s, float64(len(b2)))
		}
		out := firstCall{
			N: n, Run: median(run), Floor: median(least), Read: median(read), Acked: median(acked),
			T1: median(t1s), T2: median(t2s), Reads: median(reads),
		}
		out.Ratio = out.Run / out.Floor
		progress("record in → first mutating call: %+v", out)
		return out
	})
	var ratios, run, floor, read, acked []float64
	for _, f := range all {
		ratios, run, floor, read, acked = append(ratios, f.Ratio), append(run, f.Run), append(floor, f.Floor), append(read, f.Read), append(acked, f.Acked)
		if f.Run <= 0 || f.Floor <= 0 || f.T1 < 1000 || f.T2 < 1000 {
			t.Errorf("not plausible: %+v", f)
		}
	}
	report(t, "record in → first mutating call, serial: %.2f× the floor (runs %.2f); %.0f µs (acknowledged after %.0f) against %.0f µs: fdatasync of %.0f B, a read of %.0f µs, fdatasync of %.0f B; %.0f reads came before the call",
		median(ratios), ratios, median(run), median(acked), median(floor), all[0].T1, median(read), all[0].T2, all[0].Reads)
}
