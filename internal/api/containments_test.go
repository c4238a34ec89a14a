package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/store"
)

func TestContainAndRelease(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	req := ContainRequest{Subject: tokenRef, Tier: staunch.TierIsolate, Reason: "it is on a paste site", Key: "ticket-7", Expiry: staunch.Duration(4 * 3600e9)}
	var o Opened
	r.want(r.do("responder", "POST", "/v1/containments", req), 201).into(&o)
	if !o.Created || o.V != 1 || o.Containment.Requester != "responder" || o.Containment.Expires == 0 {
		t.Fatalf("%+v", o)
	}
	id := o.Containment.ID
	// The same request again is the same case.
	r.want(r.do("responder", "POST", "/v1/containments", req), 200).into(&o)
	if o.Created || o.Containment.ID != id {
		t.Fatalf("%+v", o)
	}
	// A higher tier raises it.
	req.Tier, req.Key = staunch.TierRevoke, "ticket-8"
	r.want(r.do("responder", "POST", "/v1/containments", req), 200).into(&o)
	if !o.Raised || o.Containment.ID != id || o.Containment.Tier != staunch.TierRevoke {
		t.Fatalf("%+v", o)
	}

	var c Case
	r.want(r.do("viewer", "GET", "/v1/containments/"+id, nil), 200).into(&c)
	if c.V != 1 || c.ScopeHash != c.Containment.Scope.Hash() || len(c.Holds) != 1 || len(c.Revives) != 1 || !strings.Contains(c.Revives[0], tokenRef.String()) {
		t.Fatalf("%+v", c)
	}
	// The hold is in force when the answer is there.
	if a := r.do("pep", "POST", "/access/v1/evaluation", `{"subject":{"type":"token","id":"x"},"action":{"name":"a"},"resource":{"type":"r","id":"1"}}`); !strings.Contains(a.Body.String(), "no_hold") {
		t.Errorf("another token: %s", a.Body)
	}

	// Release has to be confirmed, and says what of.
	path := "/v1/containments/" + id + "/release"
	p := r.want(r.do("responder", "POST", path, ReleaseRequest{Reason: "a false alarm"}), 409).problem()
	if p.Code != CodeRevives || len(p.Revives) != 1 || p.Hint == "" {
		t.Fatalf("%+v", p)
	}
	if n := len(r.records(staunch.RecordRelease)); n != 0 {
		t.Fatalf("%d release records after a refusal", n)
	}
	var ch Changed
	r.want(r.do("responder", "POST", path, ReleaseRequest{Reason: " a false alarm ", Revive: true}), 200).into(&ch)
	if ch.Containment.Phase != staunch.PhaseReleasing || ch.Containment.Release.By != "responder" || ch.Containment.Release.Reason != "a false alarm" {
		t.Fatalf("%+v", ch.Containment)
	}
	recs := r.records(staunch.RecordRelease)
	if len(recs) != 1 || recs[0].Actor != "responder" || recs[0].About != id {
		t.Fatalf("%+v", recs)
	}
	// A second release is a plain conflict, which nothing confirms.
	if p := r.want(r.do("responder", "POST", path, ReleaseRequest{Reason: "again", Revive: true}), 409).problem(); p.Code != CodeConflict {
		t.Errorf("%+v", p)
	}
	if p := r.want(r.do("responder", "POST", path, ReleaseRequest{Reason: "again"}), 409).problem(); p.Code == CodeInternal {
		t.Errorf("%+v", p)
	}
	r.want(r.do("responder", "POST", "/v1/containments/con_none/release", ReleaseRequest{Reason: "x"}), 404).problem()

	var l Containments
	r.want(r.do("viewer", "GET", "/v1/containments?open=true&limit=1", nil), 200).into(&l)
	if len(l.Items) != 1 || l.Items[0].ID != id {
		t.Errorf("%+v", l)
	}
}

func TestApprove(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "Approver", Role: "approver"})
	ask := func(who, key string) Case {
		var o Opened
		r.want(r.do(who, "POST", "/v1/containments", ContainRequest{Subject: staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: key}, Tier: 2, Reason: "ask", Key: key, Playbook: "ask"}), 201).into(&o)
		var c Case
		r.want(r.do("viewer", "GET", "/v1/containments/"+o.Containment.ID, nil), 200).into(&c)
		if c.Containment.Phase != staunch.PhaseApproval {
			t.Fatalf("phase %s", c.Containment.Phase)
		}
		// What is asked is drawn by the engine, which does not run here.
		path := "/v1/containments/" + c.Containment.ID
		if p := r.want(r.do("admin", "POST", path+"/approve", ApproveRequest{ScopeHash: c.ScopeHash, PlanHash: "sha256:0"}), 409).problem(); !strings.Contains(p.Message, "still being drawn") {
			t.Errorf("before the plan is drawn: %+v", p)
		}
		r.engine.Drive(t.Context(), c.Containment.ID)
		r.want(r.do("viewer", "GET", path, nil), 200).into(&c)
		return c
	}
	c := ask("responder", "one")
	path := "/v1/containments/" + c.Containment.ID + "/approve"
	hash := c.Containment.Asked.Hash
	r.want(r.do("approver", "POST", path, ApproveRequest{ScopeHash: "sha256:other", PlanHash: hash}), 409).problem()
	r.want(r.do("approver", "POST", path, ApproveRequest{ScopeHash: c.ScopeHash, PlanHash: "sha256:other"}), 409).problem()
	r.want(r.do("approver", "POST", path, ApproveRequest{ScopeHash: c.ScopeHash}), 400).problem()
	r.want(r.do("responder", "POST", path, ApproveRequest{ScopeHash: c.ScopeHash, PlanHash: hash}), 403).problem()
	var ch Changed
	r.want(r.do("approver", "POST", path, ApproveRequest{ScopeHash: c.ScopeHash, PlanHash: hash}), 200).into(&ch)
	if ch.Containment.Phase != staunch.PhaseOpen || ch.Containment.Approver != "approver" {
		t.Fatalf("%+v", ch.Containment)
	}
	// Nobody approves their own, however they spell themselves.
	own := ask("approver", "two")
	path = "/v1/containments/" + own.Containment.ID + "/approve"
	for _, who := range []string{"approver", "Approver"} {
		if p := r.want(r.do(who, "POST", path, ApproveRequest{ScopeHash: own.ScopeHash, PlanHash: own.Containment.Asked.Hash}), 403).problem(); p.Code != CodeForbidden {
			t.Errorf("%+v", p)
		}
	}
	r.want(r.do("admin", "POST", path, ApproveRequest{ScopeHash: own.ScopeHash, PlanHash: own.Containment.Asked.Hash}), 200)
	// The same request again is one of a case that waits no longer.
	r.want(r.do("admin", "POST", path, ApproveRequest{ScopeHash: own.ScopeHash, PlanHash: own.Containment.Asked.Hash}), 409).problem()
}

func TestWindows(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	con := r.contain(appRW)
	path := "/v1/containments/" + con.ID
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		c, err := tx.Containment(con.ID)
		c.Phase, c.WindowEnds = staunch.PhaseWindow, r.s.now().Add(3600e9)
		if err != nil {
			return err
		}
		return tx.PutContainment(c)
	}))
	var a, b Changed
	r.want(r.do("responder", "POST", path+"/extend", `{"by":"30m"}`), 200).into(&a)
	r.want(r.do("responder", "POST", path+"/extend", `{"by":"30m"}`), 200).into(&b)
	if d := b.Containment.WindowEnds.Sub(a.Containment.WindowEnds); d != 1800e9 {
		t.Errorf("extended by %s", d)
	}
	for _, bad := range []string{`{"by":"0s"}`, `{"by":"-1h"}`, `{"by":"soon"}`, `{"by":"900000h"}`, `{}`, `{"by":3}`} {
		if p := r.want(r.do("responder", "POST", path+"/extend", bad), 400).problem(); !strings.HasPrefix(p.Place, "by") && !strings.Contains(p.Message, "duration") && !strings.Contains(p.Message, "by") {
			t.Errorf("%s: %+v", bad, p)
		}
	}
	r.want(r.do("responder", "POST", path+"/advance", nil), 200).into(&a)
	if a.Containment.WindowEnds > r.s.now() {
		t.Error("the window goes on")
	}
	r.want(r.do("responder", "POST", path+"/clear", ReleaseRequest{Reason: "it was the backup job"}), 200).into(&a)
	if a.Containment.Phase != staunch.PhaseReleasing {
		t.Errorf("%+v", a.Containment)
	}
	actors := map[string]int{}
	for _, k := range []staunch.RecordKind{staunch.RecordContainment, staunch.RecordRelease} {
		for _, rec := range r.records(k) {
			actors[rec.Actor]++
		}
	}
	if actors["responder"] != 4 {
		t.Errorf("records by %v", actors)
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var d Draft
	r.want(r.do("responder", "POST", "/v1/plan", ContainRequest{Subject: appRW, Tier: 2, Reason: "x"}), 200).into(&d)
	if d.V != 1 || d.Items == nil || d.Playbook != "drill" {
		t.Errorf("%+v", d)
	}
	for playbook, code := range map[string]string{"down": CodePlatformUnavailable, "denied": CodePlatformDenied} {
		p := r.want(r.do("responder", "POST", "/v1/plan", ContainRequest{Subject: appRW, Tier: 2, Reason: "x", Playbook: playbook}), 502).problem()
		if p.Code != code || strings.Contains(p.Message, "10.0.0.1") || strings.Contains(p.Message, "password") {
			t.Errorf("%+v", p)
		}
	}
	if log := r.logged(); !strings.Contains(log, "10.0.0.1") {
		t.Errorf("the cause is not in the log: %s", log)
	}
	if n := len(r.records(staunch.RecordContainment)); n != 0 {
		t.Errorf("a plan left %d records", n)
	}
}

func TestBadContainments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good := `{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x"}`
	for body, place := range map[string]string{
		``:          "",
		`{`:         "body",
		`[]`:        "body",
		good + good: "body",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x","tier":"revoke"}`:                 "body",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x","playbok":"p"}`:                   "playbok",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate"}`:                                              "reason",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":" "}`:                                 "reason",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"a\u0000b"}`:                          "reason",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"` + strings.Repeat("x", 1001) + `"}`: "reason",
		`{"subject":"account:pg/main:role:app_rw","tier":"observe","reason":"x"}`:                                 "tier",
		`{"subject":"account:pg/main:role:app_rw","tier":"nuke","reason":"x"}`:                                    "tier",
		`{"subject":"resource:pg/main:table:t","tier":"isolate","reason":"x"}`:                                    "subject",
		`{"subject":"app_rw","tier":"isolate","reason":"x"}`:                                                      "body",
		`{"subject":"","tier":"isolate","reason":"x"}`:                                                            "subject",
		`{"subject":"account:*:role:*","tier":"isolate","reason":"x"}`:                                            "body",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x","expiry":"-1h"}`:                  "expiry",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x","key":"two words"}`:               "key",
		`{"subject":"account:pg/main:role:app_rw","tier":"isolate","reason":"x","playbook":"nowhere"}`:            "playbook",
		"{\"reason\":\"\xff\"}":  "body",
		strings.Repeat("[", 100): "body",
	} {
		p := r.want(r.do("admin", "POST", "/v1/containments", body), 400).problem()
		found := p.Place == place
		for _, f := range p.Problems {
			found = found || f.Place == place || strings.Contains(f.Message, place)
		}
		if !found && (place == "" || !strings.Contains(p.Message, place)) {
			t.Errorf("%.80s: place %q, want %q (%s)", body, p.Place, place, p.Message)
		}
	}
	if p := r.want(r.do("admin", "POST", "/v1/containments", `{"reason":"`+strings.Repeat("x", MaxBody)+`"}`), 413).problem(); p.Code != CodeTooLarge {
		t.Errorf("%+v", p)
	}
	r.want(r.do("admin", "POST", "/v1/containments", good, func(q *http.Request) { q.Header.Set("Content-Type", "text/plain") }), 400).problem()
	for _, q := range []string{"limit=1001", "limit=-1", "limit=x", "opne=true", "open=maybe", "after=con_none"} {
		want := 400
		if q == "after=con_none" {
			want = 404
		}
		r.want(r.do("admin", "GET", "/v1/containments?"+q, nil), want).problem()
	}
	for _, q := range []string{"", "?ref=", "?ref=x", "?ref=account:pg"} {
		r.want(r.do("admin", "GET", "/v1/identity"+q, nil), 400).problem()
	}
	r.want(r.do("admin", "GET", "/v1/holds?after=99999999999999999999", nil), 400).problem()
	r.want(r.do("admin", "GET", "/v1/events/evt_none", nil), 404).problem()
	if n := len(r.records(staunch.RecordContainment)); n != 0 {
		t.Errorf("bad input left %d records", n)
	}
	// What was refused never comes back in an answer.
	if a := r.do("admin", "POST", "/v1/tokens", `{"name":"x","role":"s3cret-value"}`); strings.Contains(a.Body.String(), "s3cret-value") {
		t.Errorf("echoed: %s", a.Body)
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	app, bill := r.contain(appRW), r.contain(billing)
	get := func(q string) []staunch.Hold {
		var h Holds
		r.want(r.do("viewer", "GET", "/v1/holds"+q, nil), 200).into(&h)
		return h.Items
	}
	if n := len(get("")); n != 2 {
		t.Errorf("%d holds", n)
	}
	if hs := get("?containment=" + app.ID); len(hs) != 1 || hs[0].Target.Ref != appRW {
		t.Errorf("%+v", hs)
	}
	if n := len(get("?plane=platform")); n != 0 {
		t.Errorf("%d platform holds", n)
	}
	first := get("?limit=1")[0]
	if hs := get(fmt.Sprintf("?after=%d", first.Seq)); len(hs) != 1 || hs[0].Seq <= first.Seq {
		t.Errorf("%+v", hs)
	}
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		h := first
		h.State = staunch.HoldReleased
		_, err := tx.PutHold(h)
		return err
	}))
	if n, all := len(get("")), len(get("?all=true")); n != 1 || all != 2 {
		t.Errorf("%d in force of %d", n, all)
	}
	_ = bill
}

// TestTimeline tells a whole case in order and in words.
func TestTimeline(t *testing.T) {
	t.Parallel()
	base := staunch.Time(1_800_000_000_000_000)
	ms := func(n int) staunch.Time { return base + staunch.Time(n*1000) }
	body := func(v any) json.RawMessage { b, _ := json.Marshal(v); return b }
	c := Case{
		Signals:   []staunch.Signal{{ID: "sig_1", Title: "Token used from elsewhere", Accused: tokenRef, Confidence: 0.9, Learned: ms(1)}},
		Decisions: []staunch.Decision{{ID: "dec_1", Verdict: staunch.VerdictContain, Tier: staunch.TierRevoke, Made: ms(2), Reasons: []string{"two sources"}, Suspicion: staunch.Suspicion{Confidence: 0.95}}},
		Holds:     []staunch.Hold{{ID: "hld_1", Plane: staunch.PlaneGuard, Target: staunch.Target{Ref: tokenRef}, Deny: []string{"*"}, Since: ms(2)}},
		Steps: []staunch.Step{
			{ID: "stp_1", Connector: "oauth2", Verb: staunch.VerbRevoke, Target: staunch.Target{Ref: tokenRef, Attribute: "token"}, Intent: staunch.Intent{Call: "POST /revoke"}, Intended: ms(3), Applied: ms(5), Proven: ms(9), After: "inactive", Receipt: &staunch.Receipt{Note: "revoked"}},
			{ID: "stp_2", Target: staunch.Target{Ref: appRW, Attribute: "login"}, Intended: ms(3), State: staunch.StepKept, Note: "the cut-off stays"},
		},
	}
	events := []staunch.Event{{ID: "evt_1", Operation: "introspect", SourceIP: "203.0.113.7", Source: "api", Time: ms(-4000), Learned: ms(0)}}
	records := []staunch.Record{
		{Kind: staunch.RecordContainment, Time: ms(2), Actor: "engine", Body: body(map[string]any{"tier": "revoke", "phase": "open", "playbook": "revoke", "origin": "policy"})},
		{Kind: staunch.RecordContainment, Time: ms(2), Actor: "ann", Body: body(map[string]any{"tier": "revoke", "phase": "acting", "playbook": "revoke", "origin": "manual", "planned_by": "bea"})},
		{Kind: staunch.RecordContainment, Time: ms(10), Actor: "engine", Body: body(map[string]any{"from": "acting", "phase": "held"})},
		{Kind: staunch.RecordContainment, Time: ms(11), Actor: "ann", Body: body(map[string]any{"request": "extend", "from": "held", "phase": "held"})},
		{Kind: staunch.RecordContainment, Time: ms(11), Actor: "engine", Body: body(map[string]any{"raised_to": "revoke", "playbook": "p"})},
		{Kind: staunch.RecordContainment, Time: ms(12), Actor: "engine", Body: body(map[string]any{"phase": "stuck", "trouble": "no route"})},
		{Kind: staunch.RecordResidual, Time: ms(12), Actor: "engine", Body: body(map[string]any{"operation": "read", "time": ms(11)})},
		{Kind: staunch.RecordRelease, Time: ms(20), Actor: "ann", Body: body(map[string]any{"request": "release", "release": staunch.Release{Reason: "done", Rotated: true}})},
		{Kind: staunch.RecordRelease, Time: ms(21), Actor: "engine", Body: []byte(`"odd"`)},
		{Kind: staunch.RecordNotice, Time: ms(13), Actor: "engine", Body: body(map[string]any{"channel": "slack"})},
		{Kind: staunch.RecordIntent, Time: ms(3), Actor: "engine"},
	}
	got := timeline(c, events, records)
	var lines []string
	for _, m := range got {
		lines = append(lines, fmt.Sprintf("%g %s %s", m.AfterMS, m.Kind, m.Text))
	}
	want := []string{
		"0 record introspect from 203.0.113.7, by source api; it happened at 2027-01-15T07:59:56.000000Z",
		"1 signal Token used from elsewhere accuses credential:oauth/main:token:sha256:aa (confidence 0.90)",
		"2 decision contain at tier revoke, confidence 0.95: two sources",
		"2 case opened by policy at tier revoke, playbook revoke, open",
		"2 case opened by manual at tier revoke, playbook revoke, acting, with the plan that bea made",
		"2 hold the fast plane denies * to credential:oauth/main:token:sha256:aa",
		"3 intent revoke on credential:oauth/main:token:sha256:aa#token: POST /revoke",
		"3 intent  on account:pg/main:role:app_rw#login: ",
		"3 revert account:pg/main:role:app_rw#login is kept: the cut-off stays",
		"5 call oauth2 answered: revoked",
		"9 proof credential:oauth/main:token:sha256:aa#token holds: inactive",
		"10 case acting → held",
		"11 case extend: held → held",
		"11 case raised to revoke, playbook p",
		"12 case now stuck; no route",
		"12 residual the subject still succeeded: read at 2027-01-15T08:00:00.011000Z",
		"13 notice told slack",
		"20 release release: done; the secrets were replaced first",
		"21 release released",
	}
	if g, w := strings.Join(lines, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
	if len(timeline(Case{}, nil, nil)) != 0 {
		t.Error("a timeline of nothing")
	}
	many := make([]staunch.Record, maxMoments+10)
	for i := range many {
		many[i] = staunch.Record{Kind: staunch.RecordResidual, Time: ms(i)}
	}
	if long := timeline(Case{}, nil, many); len(long) != maxMoments || !strings.Contains(long[maxMoments-1].Text, "11 more") {
		t.Errorf("%d moments, the last %q", len(long), long[len(long)-1].Text)
	}
}

// TestEvidence: a case shows the decisions, signals and records it rests on.
func TestEvidence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	con := r.contain(appRW)
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		ev := staunch.Event{V: 1, ID: "evt_a", Realm: "pg/main", Source: "trail", Digest: "sha256:1", Learned: 50, Time: 40, Operation: "login"}
		if _, err := tx.PutEvent(ev); err != nil {
			return err
		}
		for i, id := range []string{"sig_a", "sig_b"} {
			if _, err := tx.PutSignal(staunch.Signal{V: 1, ID: id, Accused: appRW, Realm: "pg/main", Event: "evt_a", Time: 40, Learned: staunch.Time(51 + i)}); err != nil {
				return err
			}
		}
		if _, err := tx.PutDecision(staunch.Decision{V: 1, ID: "dec_a", Subject: appRW, Scope: appRW, Signals: []string{"sig_a", "sig_b", "sig_gone"}, Made: 60}); err != nil {
			return err
		}
		c, err := tx.Containment(con.ID)
		c.Decisions, c.Scope.Closure = []string{"dec_a", "dec_gone"}, "derived"
		if err != nil {
			return err
		}
		return tx.PutContainment(c)
	}))
	var c Case
	r.want(r.do("viewer", "GET", "/v1/containments/"+con.ID, nil), 200).into(&c)
	if len(c.Decisions) != 1 || len(c.Signals) != 2 {
		t.Fatalf("%d decisions, %d signals", len(c.Decisions), len(c.Signals))
	}
	kinds := []string{}
	for _, m := range c.Timeline {
		kinds = append(kinds, m.Kind)
	}
	if got := strings.Join(kinds, " "); got != "record signal signal decision case hold" {
		t.Errorf("told: %s", got)
	}
	// The hold's clock runs from the event on.
	var marks []string
	for _, m := range c.Clocks[0].Marks {
		marks = append(marks, m.Name)
	}
	if got := strings.Join(marks, " "); len(c.Clocks) != 1 || got != "event received decided effective" {
		t.Errorf("clocks: %+v", c.Clocks)
	}
	// What came from the subject hangs below it; what only belongs to it, and was left
	// alone, does not.
	if len(c.Tree) != 1 || c.Tree[0].Ref != appRW || len(c.Tree[0].Denied) != 1 || len(c.Tree[0].Children) != 1 || c.Tree[0].Children[0].Ref != tokenRef || !c.TreeTruncated {
		t.Errorf("tree: %+v", c.Tree)
	}
	var d Decided
	r.want(r.do("viewer", "GET", "/v1/decisions/dec_a", nil), 200).into(&d)
	if d.Decision.ID != "dec_a" || len(d.Signals) != 2 {
		t.Errorf("%+v", d)
	}
	r.want(r.do("viewer", "GET", "/v1/decisions/dec_gone", nil), 404)
}

// TestKeptIsNotAsItWas: what was left in force is not said to be as it was, and each
// release says what keeps the thief out.
func TestKeptIsNotAsItWas(t *testing.T) {
	target := staunch.Target{Ref: tokenRef, Attribute: "token"}
	step := staunch.Step{
		ID: "stp_1", Target: target, Verb: staunch.VerbRevoke, State: staunch.StepKept, Before: "active", After: "read: inactive", Note: "it cannot be undone: irreversible",
		Intended: 10, Called: 20, Applied: 30, Proven: 40, Reverted: 90, Intent: staunch.Intent{Undo: "irreversible", Reversibility: staunch.Irreversible},
	}
	c := Case{
		Containment: staunch.Containment{ID: "con_1", Phase: staunch.PhaseReleased, Release: &staunch.Release{By: "ann", At: 80, Rotated: true}},
		Steps:       []staunch.Step{step},
		Holds:       []staunch.Hold{{Plane: staunch.PlaneGuard, Target: target, State: staunch.HoldKept, Deny: []string{"*"}}},
	}
	var told []string
	for _, m := range timeline(c, nil, nil) {
		if m.Kind == momentRevert || m.Kind == momentProof {
			told = append(told, fmt.Sprintf("%d %s", m.At, m.Text))
		}
	}
	want := []string{"40 " + target.String() + " holds: read: inactive", "90 " + target.String() + " is kept: it cannot be undone: irreversible"}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	want = []string{
		"rotated: ann says that the secrets were replaced first",
		"cut-off kept: the fast plane goes on denying * to " + tokenRef.String(),
		"gone for good: revoke of " + target.String() + " cannot be undone",
	}
	if got := safeguards(c); !slices.Equal(got, want) {
		t.Errorf("safeguards %q, want %q", got, want)
	}
	c.Steps, c.Holds = nil, nil
	c.Containment.Release = &staunch.Release{By: "ann", TokenLife: staunch.Duration(12 * 3600 * 1e9)}
	if got := safeguards(c); len(got) != 1 || !strings.HasPrefix(got[0], "waited out: ann says that what was denied lives for 12h") {
		t.Errorf("safeguards %q", got)
	}
	c.Containment.Release = &staunch.Release{By: "ann", Revive: true}
	if got := safeguards(c); len(got) != 1 || !strings.HasPrefix(got[0], "none for secrets: ann confirmed") {
		t.Errorf("safeguards %q", got)
	}
	c.Containment.Release.Revive = false
	if got := safeguards(c); len(got) != 1 || !strings.HasPrefix(got[0], "none needed") {
		t.Errorf("safeguards %q", got)
	}
	c.Containment.Release = nil
	if got := safeguards(c); got != nil {
		t.Errorf("safeguards %q", got)
	}
}

// TestHideComing: who may see one realm sees what is to come on that one alone.
func TestHideComing(t *testing.T) {
	cases := engineCases{}
	stages := func() []ComingStage {
		return cases.Coming(t.Context(), staunch.Containment{Phase: staunch.PhaseWindow, Subject: appRW}, nil)
	}
	all := stages()
	hideComing(auth.Principal{Role: auth.RoleViewer}, auth.Read, all)
	if len(all[0].Steps) != 2 || all[0].Error != "" || all[0].Irreversible() != 1 {
		t.Errorf("%+v", all)
	}
	some := stages()
	hideComing(auth.Principal{Role: auth.RoleViewer, Realms: []string{"pg/main"}}, auth.Read, some)
	if len(some[0].Steps) != 1 || some[0].Steps[0].Target.Ref != appRW || some[0].Error == "" {
		t.Errorf("%+v", some)
	}
}
