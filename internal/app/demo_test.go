package app_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/demo"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// fosite's dependencies start a cache that is never stopped.
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto.(*Cache).processItems"),
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto.(*defaultPolicy).processItems"),
	)
}

// TestStolenTokenStopsWorking is the whole line: a record comes in, an identity
// is contained, proven and released.
func TestStolenTokenStopsWorking(t *testing.T) {
	estate, err := demo.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer estate.Stop()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path, err := estate.WriteConfig(t.TempDir(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := app.Init(t.Context(), cfg, "admin")
	if err != nil {
		t.Fatal(err)
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(t.Context(), setup, app.Options{Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	}()
	token := func(tok store.Token) staunch.Secret {
		s, _, err := app.MakeToken(t.Context(), a.Store(), tok, "test")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	estate.Use(demo.Engine{
		URL:         "http://" + l.Addr().String(),
		AccessLog:   token(store.Token{Name: "log", Role: "source", Source: demo.SourceAccessLog}),
		LeakReports: token(store.Token{Name: "leaks", Role: "source", Source: demo.SourceLeaks}),
		PEP:         token(store.Token{Name: "ledger", Role: "pep"}),
	})
	out, err := (&demo.Story{Estate: estate, Out: os.Stdout, Admin: admin}).Play(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ledger %s, orders %s", out.DeniedLedger, out.DeniedOrders)

	// The demo posts records, never signals: each signal is a rule's on a record of
	// the access log, or a finding in a report, and its record is kept.
	kinds := map[string]int{}
	err = a.Store().View(t.Context(), func(r store.Reader) error {
		clear(kinds)
		signals, err := r.Signals(store.Page{Limit: 100})
		if err != nil {
			return err
		}
		for _, s := range signals {
			ev, err := r.Event(s.Event)
			if err != nil {
				return err
			}
			_, byRule := setup.Bundle.Rules.Index(s.Rule)
			switch finding := strings.HasPrefix(s.Rule, "source:"); {
			case ev.Source == demo.SourceAccessLog && byRule && !finding:
				kinds["rule"]++
			case ev.Source == demo.SourceLeaks && finding && !byRule:
				kinds["finding"]++
			default:
				t.Errorf("signal %s of rule %s is of source %s", s.ID, s.Rule, ev.Source)
			}
		}
		return nil
	})
	if err != nil || kinds["rule"] == 0 || kinds["finding"] != 1 {
		t.Errorf("signals by kind: %v (%v)", kinds, err)
	}

	// Its evidence is whole, and says no more than what was done: the token was
	// revoked for good, so nothing was put back.
	n := &node{t: t, url: "http://" + l.Addr().String(), admin: admin}
	status, doc := n.call(http.MethodGet, "/v1/containments/"+out.Containment+"/evidence", admin, "")
	if status != http.StatusOK {
		t.Fatalf("the evidence: %d %s", status, doc)
	}
	keys, err := seal.Load(cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := record.NewChain(keys.DeriveKey(record.KeyPurpose))
	if err != nil {
		t.Fatal(err)
	}
	e, rep, err := record.VerifyEvidence(bytes.NewReader(doc), record.VerifyOptions{Chain: chain})
	if err != nil || rep.Err() != nil || !rep.Signed {
		t.Errorf("the evidence: %+v, %v", rep, err)
	}
	for _, c := range e.Clocks {
		whole := 7
		if strings.HasPrefix(c.Of, "hld_") {
			whole = 4
		}
		if len(c.Marks) != whole {
			t.Errorf("the clock of %s has %+v", c.Of, c.Marks)
		}
		for i, m := range c.Marks {
			if i > 0 && m.At < c.Marks[i-1].At {
				t.Errorf("the clock of %s goes backward: %+v", c.Of, c.Marks)
			}
		}
	}
	shown := map[string]bool{}
	for _, m := range e.Frameworks {
		shown[m.ID] = true
	}
	for id, want := range map[string]bool{"RS.MI-01": true, "RS.MI-02": true, "RS.MA-05": true, "RC.RP-02": true, "RC.RP-06": true, "RC.RP-05": false, "D3-CR": true, "T1528": true} {
		if shown[id] != want {
			t.Errorf("%s is shown: %v, want %v: %+v", id, shown[id], want, e.Frameworks)
		}
	}
}
