package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/guard"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server on a real store, guard and executor, with a fake for what
// takes records and looks after the process.
type rig struct {
	t      testing.TB
	s      *Server
	store  store.Store
	auth   *auth.Authenticator
	guard  *guard.Guard
	ingest *fakeIngest
	oper   *fakeOperator
	engine *contain.Engine
	chain  *record.Chain
	log    *bytes.Buffer
	logMu  sync.Mutex
	tokens map[string]string // by name
}

type lockedWriter struct{ r *rig }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.r.logMu.Lock()
	defer w.r.logMu.Unlock()
	return w.r.log.Write(b)
}

func (r *rig) logged() string {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.String()
}

var (
	appRW    = staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: "app_rw"}
	billing  = staunch.Ref{Kind: staunch.KindAccount, Realm: "vault/main", Scheme: "entity", Value: "billing"}
	tokenRef = staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth/main", Scheme: "token", Value: "sha256:aa"}
)

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	chain, err := record.NewChain(bytes.Repeat([]byte{7}, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), sqlstore.Options{Chain: chain, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{
		t: t, store: st, chain: chain, log: &bytes.Buffer{}, tokens: map[string]string{},
		auth:   auth.New(st, auth.Options{FailureBurst: 100_000}),
		guard:  guard.New(guard.Options{Store: st, Clock: staunch.SystemClock{}, StaleAfter: time.Hour, Mappings: []guard.Mapping{{Type: "token", Ref: staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth/main", Scheme: "token"}, Digest: true}}}),
		ingest: &fakeIngest{}, oper: &fakeOperator{},
	}
	if err := r.guard.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.engine, err = contain.New(contain.Options{Store: st, Sealer: noSealer{}, Guard: r.guard, Lineage: fakeKnowledge{}, Clock: staunch.SystemClock{}})
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{
		Store: st, Auth: r.auth, Ingest: r.ingest, Cases: engineCases{r.engine, st}, Knowledge: fakeKnowledge{}, Guard: realGuard{r.guard},
		Operator: r.oper, Rehearse: fakeRehearser{}, Trust: fakeTruster{}, Drill: fakeDriller{}, Chain: chain, URL: "https://staunch.example/", Log: slog.New(slog.NewTextHandler(lockedWriter{r}, nil)),
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "staunch_up 1\n") }),
	}
	for _, c := range change {
		c(&opt)
	}
	if r.s, err = New(opt); err != nil {
		t.Fatal(err)
	}
	must(t, st.Update(t.Context(), func(tx store.Tx) error {
		for _, id := range declared {
			if err := tx.PutIdentity(id); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, role := range auth.Roles() {
		tk := store.Token{Name: string(role), Role: string(role)}
		if role == auth.RoleSource {
			tk.Source = "trail"
		}
		r.token(tk)
	}
	return r
}

var declared = []staunch.Identity{
	{V: 1, Name: "app", Kind: staunch.IdentityService, Owner: "team-a", Environment: "prod", Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{appRW}},
	{V: 1, Name: "billing", Kind: staunch.IdentityService, Owner: "team-b", Environment: "dev", Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: []staunch.Ref{billing}},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// token makes a token and keeps its secret under its name.
func (r *rig) token(tk store.Token) string {
	r.t.Helper()
	secret, hash := auth.NewToken()
	tk.ID, tk.Hash, tk.Created = "tok_"+tk.Name, hash, staunch.TimeOf(time.Now())
	must(r.t, auth.CheckToken(tk))
	must(r.t, r.store.Update(context.Background(), func(tx store.Tx) error { return tx.PutToken(tk) }))
	r.tokens[tk.Name] = secret.Reveal()
	return secret.Reveal()
}

// answer is what came back.
type answer struct {
	*httptest.ResponseRecorder
	t testing.TB
}

func (a answer) into(v any) {
	a.t.Helper()
	d := json.NewDecoder(bytes.NewReader(a.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		a.t.Fatalf("%v in %d %s", err, a.Code, a.Body)
	}
}

func (a answer) problem() Problem {
	a.t.Helper()
	var p Problem
	a.into(&p)
	if ct := a.Header().Get("Content-Type"); ct != "application/problem+json" {
		a.t.Errorf("a problem of type %q: %s", ct, a.Body)
	}
	if p.V != 1 || p.Status != a.Code || p.Title == "" || p.Code == "" || p.Message == "" || p.Detail != p.Message {
		a.t.Errorf("an incomplete problem: %s", a.Body)
	}
	if p.RequestID == "" || p.RequestID != a.Header().Get("X-Request-ID") {
		a.t.Errorf("request id %q in the problem, %q in the header", p.RequestID, a.Header().Get("X-Request-ID"))
	}
	return p
}

// do sends a request with the token called who ("" for none).
func (r *rig) do(who, method, path string, body any, set ...func(*http.Request)) answer {
	r.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	case []byte:
		rd = bytes.NewReader(b)
	case io.Reader:
		rd = b
	default:
		j, err := json.Marshal(b)
		must(r.t, err)
		rd = bytes.NewReader(j)
	}
	req := httptest.NewRequest(method, path, rd)
	if rd != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if who != "" {
		secret, ok := r.tokens[who]
		if !ok {
			r.t.Fatalf("no token %q", who)
		}
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	for _, f := range set {
		f(req)
	}
	w := httptest.NewRecorder()
	r.s.Handler().ServeHTTP(w, req)
	return answer{w, r.t}
}

func (r *rig) want(a answer, status int) answer {
	r.t.Helper()
	if a.Code != status {
		r.t.Fatalf("status %d, want %d: %s", a.Code, status, a.Body)
	}
	return a
}

// records returns every record of the kind.
func (r *rig) records(kind staunch.RecordKind) []staunch.Record {
	r.t.Helper()
	var out []staunch.Record
	must(r.t, r.store.View(context.Background(), func(rd store.Reader) error {
		out = nil
		heads, err := rd.Heads()
		if err != nil {
			return err
		}
		for _, h := range heads {
			recs, err := rd.Records(h.Lane, 0, 1000)
			if err != nil {
				return err
			}
			for _, rec := range recs {
				if rec.Kind == kind {
					out = append(out, rec)
				}
			}
		}
		return nil
	}))
	return out
}

// contain opens a case on ref and returns it.
func (r *rig) contain(ref staunch.Ref) staunch.Containment {
	r.t.Helper()
	var o Opened
	r.want(r.do("admin", "POST", "/v1/containments", ContainRequest{Subject: ref, Tier: staunch.TierIsolate, Reason: "a drill", Key: "k-" + ref.Value}), 201).into(&o)
	return o.Containment
}

// The fakes.

type fakeIngest struct {
	mu     sync.Mutex
	report IngestReport
	err    error
	read   []byte
	block  chan struct{} // when set, Ingest waits for it after it has begun
	began  chan struct{}
}

func (f *fakeIngest) Ingest(ctx context.Context, source string, body io.Reader, _ string) (IngestReport, error) {
	if source != "trail" {
		return IngestReport{}, fmt.Errorf("source %s: %w", source, staunch.ErrNotFound)
	}
	if f.block != nil {
		f.began <- struct{}{}
		select {
		case <-f.block:
		case <-ctx.Done():
		}
	}
	b, err := io.ReadAll(body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read = b
	if err != nil {
		// As a decompressor does: the cause is lost.
		return f.report, &staunch.Problem{Place: "body", Reason: "gzip: " + err.Error()}
	}
	return f.report, f.err
}

func (f *fakeIngest) Challenge(source string, w http.ResponseWriter, r *http.Request) bool {
	v := r.Header.Get("X-Okta-Verification-Challenge")
	if source != "trail" || v == "" {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"verification":%q}`, v)
	return true
}

// engineCases is contain.Engine with what app adds to it.
type engineCases struct {
	*contain.Engine
	store store.Store
}

func (c engineCases) containment(req ContainRequest) contain.OpenRequest {
	id := staunch.Identity{V: 1, Kind: staunch.IdentityUnknown}
	for _, d := range declared {
		for _, a := range d.Accounts {
			if a == req.Subject {
				id = d
			}
		}
	}
	return contain.OpenRequest{
		Subject: req.Subject, Resolution: staunch.Resolution{Ref: req.Subject, Names: []staunch.Ref{req.Subject}, Identity: id},
		Origin: staunch.OriginManual, Opener: req.Key, Tier: req.Tier, Reasons: []string{req.Reason},
		Playbook: staunch.Playbook{Name: "drill", Expiry: req.Expiry, Derived: req.Playbook == "wide", Stages: []staunch.Stage{{Tier: req.Tier, Deny: []string{"*"}}}},
		Approval: req.Playbook == "ask",
	}
}

func (c engineCases) Contain(tx store.Tx, req ContainRequest, who string) (Opened, error) {
	if req.Playbook == "nowhere" {
		return Opened{}, &staunch.Problem{Place: "playbook", Reason: "there is none called nowhere"}
	}
	or := c.containment(req)
	or.Requester = who
	o, err := c.Open(tx, or)
	return Opened{Containment: o.Containment, Created: o.Created, Raised: o.Raised}, err
}

func (c engineCases) Plan(_ context.Context, req ContainRequest) (Draft, error) {
	switch req.Playbook {
	case "down":
		return Draft{}, fmt.Errorf("expanding: %w", staunch.Transient(errors.New("dial tcp 10.0.0.1: refused")))
	case "denied":
		return Draft{}, staunch.Denied(errors.New("password of engine wrong"))
	}
	d := Draft{Tier: req.Tier, Playbook: "drill", Roots: []staunch.Ref{req.Subject}}
	if req.Playbook == "wide" {
		d.Items = []DraftItem{{Connector: "vault", Intent: staunch.Intent{Target: staunch.Target{Ref: billing, Attribute: "entity"}}}}
	}
	return d, nil
}

func (c engineCases) PlanFile(_ context.Context, req PlanFileRequest, who string) (staunch.PlanFile, error) {
	f := staunch.PlanFile{
		V: 1, Kind: staunch.PlanFileKind, Hash: "sha256:0", Subject: req.Subject, MadeBy: who, Made: 1, Until: staunch.Time(1).Add(req.ValidFor.Std()),
		Approval: req.Approval, Tier: req.Tier, Guard: []staunch.Ref{req.Subject}, Playbook: staunch.Playbook{Stages: []staunch.Stage{}},
		Scope: staunch.Scope{Roots: []staunch.Ref{req.Subject}}, Targets: []staunch.PlanTarget{{AskedStep: staunch.AskedStep{Target: staunch.Target{Ref: req.Subject, Attribute: "login"}}}},
	}
	if req.Playbook == "wide" {
		f.Targets[0].Target.Ref = billing
	}
	return f, nil
}

// Apply asks whether it may, and opens nothing.
func (c engineCases) Apply(ctx context.Context, req ApplyRequest, _ string, may func(store.Reader) error) (Opened, error) {
	if err := c.store.View(ctx, may); err != nil {
		return Opened{}, err
	}
	return Opened{Containment: staunch.Containment{ID: "con_1", Reasons: []string{req.Reason}}, Created: req.Plan.Hash != "sha256:again"}, nil
}

// Reach has something of another realm come from every subject.
func (c engineCases) Reach(_ store.Reader, con staunch.Containment) ([]staunch.Ref, error) {
	if con.Scope.Closure != "derived" {
		return nil, nil
	}
	return []staunch.Ref{billing}, nil
}

func (c engineCases) Revivals(r store.Reader, id string) ([]string, error) {
	cs, err := contain.ReadCase(r, id)
	if err != nil {
		return nil, err
	}
	return contain.Revivals(cs), nil
}

// Coming has one stage, on the realm of what the case is about and on another's.
func (c engineCases) Coming(_ context.Context, con staunch.Containment, _ []staunch.Step) []ComingStage {
	if con.Phase != staunch.PhaseWindow {
		return nil
	}
	step := func(ref staunch.Ref, how staunch.Reversibility) staunch.AskedStep {
		return staunch.AskedStep{Target: staunch.Target{Ref: ref, Attribute: "token"}, Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke, Reversibility: how}
	}
	return []ComingStage{{Stage: con.Stage + 1, Tier: staunch.TierRevoke, Begins: con.WindowEnds, Steps: []staunch.AskedStep{
		step(con.Subject, staunch.Irreversible), step(tokenRef, staunch.Reversible),
	}}}
}

// fakeTruster knows the rule "known" in mode recommend.
type fakeTruster struct{}

func (fakeTruster) Trusts(r store.Reader, after string, limit int, all bool) (Trusts, error) {
	return Trusts{V: staunch.Version, Items: []RuleStanding{{RuleUse: staunch.RuleUse{Rule: "known"}, Mode: staunch.ModeRecommend}}}, nil
}

func (fakeTruster) Trust(_ store.Reader, rule string) (RuleHistory, error) {
	if rule != "known" {
		return RuleHistory{}, fmt.Errorf("rule %s: %w", rule, staunch.ErrNotFound)
	}
	return RuleHistory{V: staunch.Version, History: []staunch.TrustEvent{}}, nil
}

func (fakeTruster) Move(tx store.Tx, req TrustRequest, up bool, who string) (staunch.TrustEvent, error) {
	if req.Rule != "known" {
		return staunch.TrustEvent{}, fmt.Errorf("rule %s: %w", req.Rule, staunch.ErrNotFound)
	}
	ev := staunch.TrustEvent{V: staunch.Version, ID: "tru_1", Rule: req.Rule, Kind: staunch.TrustDemoted, From: staunch.ModeRecommend, By: who, Reason: req.Reason}
	if up {
		ev.Kind, ev.To = staunch.TrustPromoted, staunch.ModeEnforce
	}
	return ev, nil
}

// fakeDriller knows the drill "canary".
type fakeDriller struct{}

func (fakeDriller) Begin(tx store.Tx, name, key, who string) (staunch.Drill, error) {
	if name != "canary" {
		return staunch.Drill{}, fmt.Errorf("drill %s: %w", name, staunch.ErrNotFound)
	}
	d := staunch.Drill{V: staunch.Version, ID: staunch.DrillID(name, who+key), Name: name, Canary: appRW, By: who, Phase: staunch.DrillInjecting, Began: 1}
	return d, tx.PutDrill(d)
}

func (fakeDriller) Configured(store.Reader) ([]DrillStanding, error) {
	return []DrillStanding{{Name: "canary", Canary: appRW}}, nil
}

// fakeRehearser has two lines and the summary, or fails where the request's mode
// says so.
type fakeRehearser struct{}

func (fakeRehearser) Backtest(_ context.Context, req BacktestRequest, may func(staunch.Decision) bool, emit func(BacktestLine) error) error {
	if req.Mode == "busy" {
		return fmt.Errorf("%w: one runs", staunch.ErrOverloaded)
	}
	if err := emit(BacktestLine{Type: "progress", Progress: &BacktestProgress{Decisions: 1}}); err != nil {
		return err
	}
	if req.Mode == "broken" {
		return errors.New("dial tcp 10.0.0.1: refused")
	}
	n := 0
	for i, ref := range []staunch.Ref{appRW, billing} {
		if may(staunch.Decision{Scope: ref, Subject: ref, Identity: declared[i]}) {
			n++
		}
	}
	return emit(BacktestLine{Type: "summary", Summary: &BacktestSummary{Decisions: n}})
}

func (engineCases) D3FEND(st staunch.Step) []string {
	if st.Connector == "" {
		return nil
	}
	return []string{"D3-AL"}
}

type realGuard struct{ g *guard.Guard }

func (g realGuard) Evaluation(b io.Reader) (any, error)  { return g.g.Evaluation(b) }
func (g realGuard) Evaluations(b io.Reader) (any, error) { return g.g.Evaluations(b) }

type noSealer struct{}

func (noSealer) Seal(_ string, b []byte) ([]byte, error)   { return b, nil }
func (noSealer) Unseal(_ string, b []byte) ([]byte, error) { return b, nil }

type fakeKnowledge struct{}

func (fakeKnowledge) Resolve(r store.Reader, ref staunch.Ref, asOf staunch.Time) (staunch.Resolution, error) {
	res := staunch.Resolution{Ref: ref, Names: []staunch.Ref{ref}, AsOf: asOf, Identity: staunch.Identity{V: 1, Kind: staunch.IdentityUnknown, Tolerance: staunch.ToleranceNormal}}
	var id staunch.Identity
	var err error
	if ref.Kind == staunch.KindIdentity {
		id, err = r.Identity(ref.Value)
	} else {
		id, err = r.IdentityOf(ref)
	}
	if errors.Is(err, staunch.ErrNotFound) {
		return res, nil
	}
	res.Identity = id
	return res, err
}

func (fakeKnowledge) Derived(store.Reader, []staunch.Ref, staunch.Time, int) ([]staunch.Ref, bool, error) {
	return nil, false, nil
}

func (fakeKnowledge) Suspicion(_ store.Reader, res staunch.Resolution, asOf staunch.Time) (staunch.Suspicion, error) {
	return staunch.Suspicion{Subject: res.Ref, Confidence: 0.5, AsOf: asOf}, nil
}

func (fakeKnowledge) Lineage(_ store.Reader, ref staunch.Ref, _ int) (Lineage, bool, error) {
	return Lineage{Ref: ref, Children: []Lineage{
		{Ref: staunch.Ref{Kind: staunch.KindSession, Realm: ref.Realm, Scheme: "pid", Value: "1"}, Rel: staunch.RelOf},
		{Ref: tokenRef, Rel: staunch.RelBy},
	}}, true, nil
}

type fakeOperator struct {
	ready      error
	reload     error
	refused    int // faults that keep a reload from its end, unless it keeps going
	checks     []Check
	checkpoint func(context.Context) (record.Checkpoint, error)
	last       *record.Checkpoint
}

func (f *fakeOperator) Checkpoint(ctx context.Context) (record.Checkpoint, error) {
	if f.checkpoint == nil {
		return record.Checkpoint{V: staunch.Version}, nil
	}
	return f.checkpoint(ctx)
}

func (f *fakeOperator) Reload(_ context.Context, _ string, keepGoing bool) (Reloaded, error) {
	r := Reloaded{Bundle: "sha256:b", Changed: true}
	for i := range f.refused {
		fault := Fault{Place: fmt.Sprintf("rules/%d.yml:3", i), Message: "unknown modifier"}
		if !keepGoing {
			return Reloaded{}, &staunch.Problem{Place: fault.Place, Reason: fault.Message}
		}
		r.Refused = append(r.Refused, fault)
	}
	return r, f.reload
}
func (f *fakeOperator) LastCheckpoint() (*record.Checkpoint, error) { return f.last, nil }
func (f *fakeOperator) Doctor(context.Context) (Diagnosis, error) {
	return Diagnosis{Checks: f.checks}, nil
}
func (f *fakeOperator) Storage(context.Context) (Storage, error) {
	return Storage{Ages: map[string]string{"events": "30d"}}, nil
}
func (f *fakeOperator) PreviewRetention(context.Context) (store.Sweep, error) {
	return store.Sweep{At: 5}, nil
}
func (f *fakeOperator) ForgetTrips(store.Tx, string) error { return nil }
func (f *fakeOperator) ReportHealth(_ store.Tx, h GroupHealth, _ string) (GroupHealthKept, error) {
	if h.Healthy > h.Of {
		return GroupHealthKept{}, &staunch.Problem{Place: "healthy", Reason: "is more than all"}
	}
	return GroupHealthKept{GroupHealth: h, Contained: 1}, nil
}
func (f *fakeOperator) Ready(context.Context) error { return f.ready }
