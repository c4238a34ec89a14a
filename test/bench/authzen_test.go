package bench_test

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/store"
)

// The fourth measure: AuthZEN over HTTP against a bare handler that
// authenticates and decodes the same JSON, and the holds alone in this process.

const (
	heldTokens  = 1000
	authzenPath = "/access/v1/evaluation"
)

func authzenBody(token string) string {
	return `{"subject":{"type":"token","id":"` + token + `"},"resource":{"type":"account","id":"123"},"action":{"name":"can_read","properties":{"method":"GET"}},"context":{"ip":"203.0.113.7"}}`
}

// bare is the floor: it compares the token's digest, decodes the request into
// the same parts, and answers.
func bare(token staunch.Secret) http.Handler {
	want := sha256.Sum256([]byte(token.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		given, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
		have := sha256.Sum256([]byte(given))
		if !ok || subtle.ConstantTimeCompare(have[:], want[:]) != 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		type entity struct {
			Type, ID, Name string
			Properties     map[string]any
		}
		var req struct {
			Subject, Action, Resource *entity
			Context                   map[string]any
		}
		b, err := io.ReadAll(io.LimitReader(q.Body, 1<<20))
		if err != nil || json.Unmarshal(b, &req) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out, err := json.Marshal(guard.EvaluationResponse{Decision: true, Context: &guard.ResponseContext{Reason: guard.ReasonNoHold}})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	})
}

// authzen is one run's figures.
type authzen struct {
	// Serial and SerialFloor are medians of one client's requests, P99 theirs,
	// in microseconds; Ratio is of the medians.
	Serial, SerialFloor, P99, P99Floor, Ratio float64
	// Rate and RateFloor are requests a second with eight clients.
	Rate, RateFloor, RateRatio float64
	// Holds is an answer in this process in microseconds, with a thousand holds,
	// HoldsP99 the same.
	Holds, HoldsP99 float64
}

func TestAuthZEN(t *testing.T) {
	n := size(20_000, 200)
	all := pieces(t, "authzen", fmt.Sprintf("n=%d holds=%d", n, heldTokens), size(5, 1), func(int) authzen {
		s := tokenAccused(t, "http://127.0.0.1:1")
		s.more += "guard:\n  subjects:\n    - {type: token, kind: credential, realm: oauth2/bench, scheme: sha256, digest: true}\n"
		e := startNode(t, s)
		pep := e.token(t, store.Token{Name: "pep", Role: "pep"})
		g := guard.New(guard.Options{Store: e.app.Store(), Clock: staunch.SystemClock{}, StaleAfter: time.Hour})
		must(t, e.app.Store().Update(t.Context(), func(tx store.Tx) error {
			for i := range heldTokens {
				ref := staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth2/bench", Scheme: "sha256", Value: staunch.NewSecret(fmt.Sprintf("held-%d", i)).Digest()}
				target := staunch.Target{Ref: ref, Attribute: "access"}
				if _, err := tx.PutHold(staunch.Hold{
					V: staunch.Version, ID: staunch.HoldID(staunch.PlaneGuard, target, "bench"), Plane: staunch.PlaneGuard, Target: target,
					Verb: staunch.VerbIsolate, Tier: staunch.TierIsolate, State: staunch.HoldInForce, Deny: []string{"*"}, Claims: []string{"con_bench"}, Since: 1, Changed: 1,
				}); err != nil {
					return err
				}
			}
			return nil
		}))
		must(t, g.Load(t.Context()))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		srv := &http.Server{Handler: bare(pep), ReadHeaderTimeout: 5 * time.Second}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(l) })
		defer wg.Wait()
		defer func() { _ = srv.Close() }()
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
		defer client.CloseIdleConnections()
		ask := func(url, body string) (bool, error) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+authzenPath, strings.NewReader(body))
			if err != nil {
				return false, err
			}
			req.Header.Set("Authorization", "Bearer "+pep.Reveal())
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				return false, err
			}
			defer func() { _ = resp.Body.Close() }()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				return false, fmt.Errorf("status %d: %s: %w", resp.StatusCode, b, err)
			}
			return strings.Contains(string(b), `"decision":true`), nil
		}
		// The engine's own guard follows the store.
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			allowed, err := ask(e.url, authzenBody("held-7"))
			must(t, err)
			if !allowed {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the engine's guard never had the holds")
			}
		}
		free := authzenBody("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzdmMifQ.c2ln")
		urls := [2]string{e.url, "http://" + l.Addr().String()}
		var took [2][]float64
		const block = 100
		for done := 0; done < n; done += block {
			for which, url := range urls {
				for range block {
					began := time.Now()
					allowed, err := ask(url, free)
					if err != nil || !allowed {
						t.Fatalf("an evaluation without a hold: %t, %v", allowed, err)
					}
					took[which] = append(took[which], us(time.Since(began)))
				}
			}
		}
		var out authzen
		out.Serial, out.SerialFloor = median(took[0]), median(took[1])
		for i, p99 := range []*float64{&out.P99, &out.P99Floor} {
			slices.Sort(took[i])
			*p99 = quantile(took[i], 0.99)
		}
		out.Ratio = out.Serial / out.SerialFloor
		var rate [2][]float64
		for range 10 {
			for which, url := range urls {
				var wg sync.WaitGroup
				began := time.Now()
				for range 8 {
					wg.Go(func() {
						for range max(n/80, 5) {
							if _, err := ask(url, free); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				rate[which] = append(rate[which], float64(8*max(n/80, 5))/time.Since(began).Seconds())
			}
		}
		out.Rate, out.RateFloor = median(rate[0]), median(rate[1])
		out.RateRatio = out.RateFloor / out.Rate
		refs := []staunch.Ref{
			{Kind: staunch.KindSession, Realm: "oauth2/bench", Scheme: "run", Value: "run-1"},
			{Kind: staunch.KindCredential, Realm: "oauth2/bench", Scheme: "sha256", Value: staunch.NewSecret("free").Digest()},
			{Kind: staunch.KindAccount, Realm: "oauth2/bench", Scheme: "client-id", Value: "billing-sync"},
		}
		var alone []float64
		for range max(n/100, 10) {
			const many = 1000
			began := time.Now()
			for range many {
				if !g.MayAct(refs, "documents.read").Allowed {
					t.Fatal("denied without a hold")
				}
			}
			alone = append(alone, us(time.Since(began))/many)
		}
		slices.Sort(alone)
		out.Holds, out.HoldsP99 = median(alone), quantile(alone, 0.99)
		progress("AuthZEN: %+v", out)
		return out
	})
	var ratio, rate, serial, floor, p99, p99Floor, holds, holdsP99 []float64
	for _, a := range all {
		ratio, rate = append(ratio, a.Ratio), append(rate, a.RateRatio)
		serial, floor, p99, p99Floor = append(serial, a.Serial), append(floor, a.SerialFloor), append(p99, a.P99), append(p99Floor, a.P99Floor)
		holds, holdsP99 = append(holds, a.Holds), append(holdsP99, a.HoldsP99)
	}
	report(t, "AuthZEN over HTTP: %.2f× a bare handler (runs %.2f), one client; p50 %.0f against %.0f µs, p99 %.0f against %.0f µs; eight clients: %.2f× (runs %.2f)",
		median(ratio), ratio, median(serial), median(floor), median(p99), median(p99Floor), median(rate), rate)
	report(t, "holds alone, in this process: %.2f µs, p99 of blocks of 1,000 %.2f µs", median(holds), median(holdsP99))
}
