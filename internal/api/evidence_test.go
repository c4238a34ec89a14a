package api

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// TestEvidenceBundle: the bundle has what the case has and more, is signed, and
// the log has what it says.
func TestEvidenceBundle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "pg", Role: "viewer", Realms: []string{"pg/main"}})
	r.token(store.Token{Name: "vault", Role: "viewer", Realms: []string{"vault/main"}})
	con := r.contain(appRW)
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		for _, ev := range []staunch.Event{
			{V: 1, ID: "evt_a", Realm: "pg/main", Source: "trail", Digest: "sha256:1", Learned: 50, Time: 40, Operation: "login", Actor: []staunch.Ref{appRW}, Raw: json.RawMessage(`{"q":"<1>"}`)},
			{V: 1, ID: "evt_b", Realm: "vault/main", Source: "trail", Digest: "sha256:2", Learned: 45, Time: 35, Operation: "read"},
		} {
			if _, err := tx.PutEvent(ev); err != nil {
				return err
			}
		}
		if _, err := tx.PutSignal(staunch.Signal{V: 1, ID: "sig_a", Accused: appRW, Realm: "pg/main", Event: "evt_a", Events: []string{"evt_b", "evt_a", "evt_gone"}, Time: 40, Learned: 51, Techniques: []string{"T1078"}, Frameworks: []string{"owasp-nhi.nhi5"}}); err != nil {
			return err
		}
		if _, err := tx.PutDecision(staunch.Decision{V: 1, ID: "dec_a", Subject: appRW, Scope: appRW, Signals: []string{"sig_a", "sig_gone"}, Made: 60, Inputs: json.RawMessage(`{"tier":2}`)}); err != nil {
			return err
		}
		c, err := tx.Containment(con.ID)
		if err != nil {
			return err
		}
		c.Decisions = []string{"dec_a", "dec_gone"}
		if err := tx.PutContainment(c); err != nil {
			return err
		}
		return tx.PutStep(staunch.Step{V: 1, ID: "stp_a", Plan: "pln_a", Containment: con.ID, Connector: "postgresql", Target: staunch.Target{Ref: appRW, Attribute: "login"}, Verb: staunch.VerbSuspend, State: staunch.StepProven, Intended: 70, Called: 80, Applied: 90, Proven: 100, Receipt: &staunch.Receipt{At: 90}})
	}))
	path := "/v1/containments/" + con.ID
	var c Case
	r.want(r.do("viewer", "GET", path, nil), 200).into(&c)
	a := r.want(r.do("viewer", "GET", path+"/evidence", nil), 200)
	e, rep, err := record.VerifyEvidence(bytes.NewReader(a.Body.Bytes()), record.VerifyOptions{Chain: r.chain})
	if err != nil || rep.Err() != nil || !rep.Signed || rep.Records == 0 {
		t.Fatalf("%+v, %v: %s", rep, err, a.Body)
	}
	if e.Containment.ID != con.ID || e.ScopeHash != c.ScopeHash || len(e.Decisions) != 1 || len(e.Signals) != 1 || len(e.Steps) != 1 || len(e.Holds) != len(c.Holds) || !slices.Equal(e.Timeline, c.Timeline) || !slices.Equal(e.Revives, c.Revives) {
		t.Errorf("the bundle is not the case: %s", a.Body)
	}
	if string(e.Decisions[0].Inputs) != `{"tier":2}` || len(e.Events) != 2 || string(e.Events[0].Raw) != `{"q":"<1>"}` || e.Events[1].ID != "evt_b" {
		t.Errorf("decisions %+v, events %+v", e.Decisions, e.Events)
	}
	if len(e.Clocks) != 2 || len(e.Clocks[1].Marks) != 7 {
		t.Errorf("clocks %+v", e.Clocks)
	}
	named := map[string]bool{}
	for _, m := range e.Frameworks {
		named[m.ID] = true
	}
	for _, id := range []string{"RS.MA-02", "RS.MA-03", "RS.MI-01", "D3-AL", "T1078", "NHI5:2025"} {
		if !named[id] {
			t.Errorf("%s is not named in %+v", id, e.Frameworks)
		}
	}
	// What is gone is said.
	if text := strings.Join(e.Truncated, "\n"); !strings.Contains(text, "1 of 2 decisions") || !strings.Contains(text, "1 signals") {
		t.Errorf("left out: %q", e.Truncated)
	}
	// A later export has it all.
	out := r.want(r.do("admin", "GET", pathExport, nil), 200).Body
	if rep, err := record.VerifyExport(out, record.VerifyOptions{PublicKey: r.chain.PublicKey(), Evidence: &e}); err != nil || rep.Err() != nil {
		t.Errorf("%+v, %v", rep, err)
	}

	// A token that is limited to the case's realm sees no event of another; one of
	// another realm sees nothing, as of the case.
	a = r.want(r.do("pg", "GET", path+"/evidence", nil), 200)
	e, rep, err = record.VerifyEvidence(bytes.NewReader(a.Body.Bytes()), record.VerifyOptions{PublicKey: r.chain.PublicKey()})
	if err != nil || rep.Err() != nil || len(e.Events) != 1 || e.Events[0].ID != "evt_a" || !strings.Contains(strings.Join(e.Truncated, "\n"), "1 events that are outside") {
		t.Errorf("%+v, %v, %+v, %q", rep, err, e.Events, e.Truncated)
	}
	if got, want := r.do("vault", "GET", path+"/evidence", nil).Code, r.do("vault", "GET", path, nil).Code; got != want || got != 403 {
		t.Errorf("another realm's viewer gets %d, and %d for the case", got, want)
	}
	r.want(r.do("viewer", "GET", "/v1/containments/con_none/evidence", nil), 404).problem()
}

func TestCheckpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.contain(appRW)
	log := record.Log{Store: r.store, Chain: r.chain}
	r.oper.checkpoint = func(ctx context.Context) (record.Checkpoint, error) {
		cp, _, err := log.Checkpoint(ctx, time.Now(), nil)
		return cp, err
	}
	var cp record.Checkpoint
	r.want(r.do("admin", "POST", "/v1/records/checkpoint", nil), 200).into(&cp)
	if err := cp.Verify(r.chain.PublicKey()); err != nil || len(cp.Heads) == 0 {
		t.Fatalf("%+v, %v", cp, err)
	}
	con := r.contain(billing)
	var rep record.Report
	r.want(r.do("admin", "POST", "/v1/records/verify", cp), 200).into(&rep)
	if rep.Err() != nil || !rep.Keyed {
		t.Errorf("%+v", rep)
	}
	bent := cp
	bent.At++
	if p := r.want(r.do("admin", "POST", "/v1/records/verify", bent), 400).problem(); p.Place != "signature" {
		t.Errorf("%+v", p)
	}
	// The log ends before what the checkpoint saw.
	ahead, err := r.chain.Checkpoint(time.Now(), []record.Head{{Lane: cp.Heads[0].Lane, Seq: 1000, Hash: cp.Heads[0].Hash}})
	must(t, err)
	r.want(r.do("admin", "POST", "/v1/records/verify", ahead), 200).into(&rep)
	if rep.Err() == nil || rep.Breaks[0].Kind != record.BreakTruncated {
		t.Errorf("%+v", rep)
	}
	// Over a log that was changed none is signed.
	log.Store = forger{r.store, con.ID}
	if p := r.want(r.do("admin", "POST", "/v1/records/checkpoint", nil), 409).problem(); p.Code != CodeConflict || p.Hint == "" {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(r.logged(), "changed") {
		t.Error("nothing in the log")
	}
}
