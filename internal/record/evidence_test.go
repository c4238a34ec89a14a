package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
)

var update = flag.Bool("update", false, "write the golden files")

const base = staunch.Time(1_800_000_000_000_000)

func at(ms int64) staunch.Time { return base + staunch.Time(ms*1000) }

var (
	token = staunch.Ref{Kind: staunch.KindCredential, Realm: "oauth/main", Scheme: "token", Value: "sha256:aa"}
	role  = staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: "app_rw"}
)

// theft is a case that was contained by policy, and released.
func theft(t testing.TB, c *Chain) Rows {
	t.Helper()
	body := func(v any) json.RawMessage {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var log []staunch.Record
	for _, r := range []staunch.Record{
		{Time: at(2), Kind: staunch.RecordDecision, Actor: "engine", Body: body(map[string]any{"decision": "dec_1", "tier": "revoke"})},
		{Time: at(2), Kind: staunch.RecordContainment, Actor: "engine", Body: body(map[string]any{"tier": "revoke", "phase": "open", "playbook": "revoke"})},
		{Time: at(3), Kind: staunch.RecordPlan, Actor: "engine", Body: body(map[string]any{"plan": "pln_1"})},
		{Time: at(40), Kind: staunch.RecordReceipt, Actor: "engine", Body: body(map[string]any{"step": "stp_1"})},
		{Time: at(55), Kind: staunch.RecordProof, Actor: "engine", Body: body(map[string]any{"step": "stp_1", "how": "read: inactive"})},
		{Time: at(9000), Kind: staunch.RecordContainment, Actor: "ann", Body: body(map[string]any{"request": "extend", "from": "held", "phase": "held"})},
		{Time: at(60000), Kind: staunch.RecordRelease, Actor: "ann", Body: body(map[string]any{"request": "release", "from": "held", "phase": "releasing"})},
		{Time: at(60100), Kind: staunch.RecordRevert, Actor: "engine", Body: body(map[string]any{"step": "stp_2", "state": "reverting"})},
		{Time: at(60200), Kind: staunch.RecordRevert, Actor: "engine", Body: body(map[string]any{"step": "stp_2", "of": "stp_2", "state": "reverted"})},
		{Time: at(60300), Kind: staunch.RecordRelease, Actor: "engine", Body: body(map[string]any{"from": "releasing", "phase": "released"})},
	} {
		r.Lane, r.About = "node-1/0", "con_1"
		log = add(t, c, log, r)
	}
	last := log[len(log)-1]
	return Rows{
		At: at(70000),
		Containment: staunch.Containment{
			V: 1, ID: "con_1", Subject: token, Origin: staunch.OriginPolicy, Phase: staunch.PhaseReleased, Tier: staunch.TierRevoke,
			Identity: staunch.Identity{V: 1, Name: "billing", Kind: staunch.IdentityService, Owner: "team-a", Environment: "prod"},
			Playbook: staunch.Playbook{Name: "revoke"}, Decisions: []string{"dec_1"}, Opened: at(2), EffectAt: at(55), Since: at(-4000),
			Requester: "ann", Release: &staunch.Release{Reason: "the key was replaced", By: "ann", At: at(60000), Rotated: true, Kept: []string{"stp_1: it cannot be undone"}},
		},
		Decisions: []staunch.Decision{{
			V: 1, ID: "dec_1", Subject: token, Scope: token, Signals: []string{"sig_1"}, Made: at(2), AsOf: at(-4000), Tier: staunch.TierRevoke,
			Verdict: staunch.VerdictContain, Policy: "default/high", Bundle: "sha256:b", Reasons: []string{"two sources agree"},
			Suspicion: staunch.Suspicion{Subject: token, Confidence: 0.95}, Inputs: json.RawMessage(`{"signal":{"rule":"r-1","evidence":"a < b"}}`),
		}},
		Signals: []staunch.Signal{{
			V: 1, ID: "sig_1", Rule: "r-1", Title: "Token used from elsewhere", Accused: token, Confidence: 0.9, Event: "evt_1", Time: at(-4000), Learned: at(1),
			Techniques: []string{"T1528", "t1078.004", "AML.T0012", "nonsense"}, Frameworks: []string{"owasp-nhi.nhi2", "owasp-agentic.asi03", "atlas.aml.t0034", "owasp-nhi.nhi11"},
			Evidence: "introspect from 203.0.113.7", Author: "somebody", License: "MIT",
		}},
		Events: []staunch.Event{{
			V: 1, ID: "evt_1", Source: "api", Digest: "sha256:1", Realm: "oauth/main", Format: "json", Time: at(-4000), Learned: at(0),
			Outcome: staunch.OutcomeSuccess, Operation: "introspect", SourceIP: "203.0.113.7", Raw: json.RawMessage(`{"token":"sha256:aa","html":"<b>&"}`),
		}},
		Plans: []staunch.Plan{{V: 1, ID: "pln_1", Containment: "con_1", Made: at(3), Hash: "sha256:p", Gaps: []staunch.Gap{{Ref: role, Reason: "a password cannot be told from another"}}}},
		Steps: []staunch.Step{
			{V: 1, ID: "stp_1", Plan: "pln_1", Containment: "con_1", Connector: "oauth2", Target: staunch.Target{Ref: token, Attribute: "token"}, Verb: staunch.VerbRevoke, Tier: staunch.TierRevoke,
				State: staunch.StepKept, Note: "it cannot be undone", Intent: staunch.Intent{Key: "stp_1", Call: "POST /revoke", Undo: "irreversible", Reversibility: staunch.Irreversible},
				PreImageDigest: "sha256:c1", PostImageDigest: "sha256:c2", Before: "active", After: "read: inactive",
				Receipt: &staunch.Receipt{At: at(38), Changed: true}, Intended: at(3), Called: at(20), Applied: at(38), Proven: at(55), Reverted: at(60100)},
			{V: 1, ID: "stp_2", Plan: "pln_1", Containment: "con_1", Connector: "postgresql", Target: staunch.Target{Ref: role, Attribute: "login"}, Verb: staunch.VerbSuspend, Tier: staunch.TierIsolate,
				State: staunch.StepReverted, Intent: staunch.Intent{Key: "stp_2", Expected: staunch.State{V: 1, Body: json.RawMessage(`{"password":"md5x"}`)}, Call: "ALTER ROLE app_rw NOLOGIN", Undo: "ALTER ROLE app_rw LOGIN", Reversibility: staunch.Reversible, Revives: true},
				PreImageDigest: "sha256:d1", PostImageDigest: "sha256:d2", Before: "may log in", After: "may log in",
				Receipt: &staunch.Receipt{At: at(48), Changed: true}, Intended: at(3), Called: at(41), Applied: at(48), Proven: at(58), Reverted: at(60200)},
		},
		Holds: []staunch.Hold{
			{V: 1, ID: "hld_1", Plane: staunch.PlaneGuard, Target: staunch.Target{Ref: token}, State: staunch.HoldKept, Deny: []string{"*"}, Since: at(2), Note: "a possibly stolen secret"},
			{V: 1, ID: "hld_2", Plane: staunch.PlanePlatform, Target: staunch.Target{Ref: role, Attribute: "login"}, State: staunch.HoldReleased, Since: at(3)},
		},
		Timeline: []Moment{{At: at(0), Kind: "record", Text: "introspect from 203.0.113.7, by source api", ID: "evt_1"}, {At: at(55), AfterMS: 55, Kind: "proof", Text: "it holds", ID: "stp_1"}},
		Records:  log, Heads: []Head{{Lane: "node-1/0", Seq: last.Seq, Hash: last.Hash}, {Lane: "node-2/0", Seq: 3, Hash: strings.Repeat("ab", 32)}},
		D3FEND: func(s staunch.Step) []string {
			return map[string][]string{"oauth2": {"D3-CR"}, "postgresql": {"D3-AL"}}[s.Connector]
		},
	}
}

func bundle(t testing.TB, c *Chain, r Rows) (Evidence, []byte) {
	t.Helper()
	e, err := c.Evidence(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	return e, b
}

// The report and the mapping are held by a file to read.
func TestReport(t *testing.T) {
	e, _ := bundle(t, testChain(t, 1), theft(t, testChain(t, 1)))
	var b bytes.Buffer
	if err := e.WriteReport(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "report.md")
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%s differs (run with -update and read the difference):\n%s", path, b.Bytes())
	}
}

// What is in records can be chosen by whoever is accused.
func TestTheReportIsSafeWhateverIsInIt(t *testing.T) {
	c := testChain(t, 1)
	rows := theft(t, c)
	evil := "a | b\n# x [l](javascript:1) <img src=x> ![i](http://h/) `code` **b** \x1b[31m http://e.example www.e.example \u202e" + strings.Repeat("z", 1000)
	rows.Containment.Trouble, rows.Containment.Identity.Name = evil, evil
	rows.Timeline[0].Text, rows.Steps[0].Intent.Call, rows.Signals[0].Title, rows.Events[0].Operation = evil, evil, evil, evil
	rows.Revives, rows.LeftOut, rows.Containment.Subject.Value = []string{evil}, []string{evil}, evil
	e, _ := bundle(t, c, rows)
	var b bytes.Buffer
	if err := e.WriteReport(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	// Nothing has a meaning in what is set as code, which none of this can end, nor
	// what stands after a backslash.
	prose := regexp.MustCompile("`[^`\n]*`").ReplaceAllString(strings.ReplaceAll(text, "\\`", ""), "")
	prose = regexp.MustCompile(`\\[[:punct:]]`).ReplaceAllString(prose, "")
	for _, bad := range []string{"[", "]", "<", "*", "_", "://e", "www."} {
		if strings.Contains(prose, bad) {
			t.Errorf("the report has %q: %s", bad, prose)
		}
	}
	for _, bad := range []string{"\x1b", "\u202e", strings.Repeat("z", maxCell), "\n# x"} {
		if strings.Contains(text, bad) {
			t.Errorf("the report has %q", bad)
		}
	}
	columns := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") {
			columns = 0
			continue
		}
		n := strings.Count(line, "|") - strings.Count(line, `\|`)
		if columns != 0 && n != columns {
			t.Errorf("%d bars, want %d: %s", n, columns, line)
		}
		columns = n
	}
}

func TestFrameworksSayWhatRowsShow(t *testing.T) {
	c := testChain(t, 1)
	e, _ := bundle(t, c, theft(t, c))
	got := map[string][]string{}
	for _, m := range e.Frameworks {
		got[m.Framework+" "+m.ID] = m.Rows
		if m.Says == "" {
			t.Errorf("%+v says nothing", m)
		}
	}
	want := map[string][]string{
		"NIST CSF 2.0 RS.MA-01": {"pln_1"}, "NIST CSF 2.0 RS.MA-02": {"dec_1"}, "NIST CSF 2.0 RS.MA-03": {"dec_1"},
		"NIST CSF 2.0 RS.MA-04": {"record node-1/0/6"}, "NIST CSF 2.0 RS.MA-05": {"record node-1/0/7"},
		"NIST CSF 2.0 RS.MI-01": {"hld_1", "stp_2"}, "NIST CSF 2.0 RS.MI-02": {"stp_1"},
		"NIST CSF 2.0 RC.RP-01": {"record node-1/0/8", "record node-1/0/9"}, "NIST CSF 2.0 RC.RP-02": {"stp_1", "stp_2"},
		"NIST CSF 2.0 RC.RP-05": {"record node-1/0/9", "stp_2"}, "NIST CSF 2.0 RC.RP-06": {"record node-1/0/10"},
		"MITRE D3FEND D3-AL": {"stp_2"}, "MITRE D3FEND D3-CR": {"stp_1"},
		"MITRE ATT&CK T1078.004": {"sig_1"}, "MITRE ATT&CK T1528": {"sig_1"},
		"MITRE ATLAS AML.T0012": {"sig_1"}, "MITRE ATLAS AML.T0034": {"sig_1"},
		"OWASP NHI Top 10 2025 NHI2:2025": {"sig_1"}, "OWASP Agentic Top 10 2026 ASI03": {"sig_1"},
	}
	for k, w := range want {
		if !slices.Equal(got[k], w) {
			t.Errorf("%s is shown by %v, want %v", k, got[k], w)
		}
		delete(got, k)
	}
	for k, rows := range got {
		t.Errorf("%s is shown by %v, which show nothing of it", k, rows)
	}
	// A case in which nothing was done shows nothing of it.
	e, _ = bundle(t, c, Rows{At: at(1), Containment: staunch.Containment{V: 1, ID: "con_2", Subject: token, Origin: staunch.OriginManual, Phase: staunch.PhaseApproval, Opened: at(0)},
		Plans: []staunch.Plan{{V: 1, ID: "pln_9"}}, Steps: []staunch.Step{{V: 1, ID: "stp_9", Target: staunch.Target{Ref: role}, Verb: staunch.VerbRevoke, State: staunch.StepFailed, Intended: at(1)}},
		D3FEND: func(staunch.Step) []string { return []string{"D3-CR"} }})
	if len(e.Frameworks) != 0 {
		t.Errorf("nothing was done, and it shows %+v", e.Frameworks)
	}
}

func TestClocks(t *testing.T) {
	c := testChain(t, 1)
	rows := theft(t, c)
	// A second decision came after the first step's intent; a later signal of the
	// first came after it was made.
	rows.Decisions[0].Signals = append(rows.Decisions[0].Signals, "sig_2")
	rows.Signals = append(rows.Signals, staunch.Signal{V: 1, ID: "sig_2", Accused: token, Event: "evt_2", Time: at(4), Learned: at(5)})
	rows.Decisions = append(rows.Decisions, staunch.Decision{V: 1, ID: "dec_2", Subject: token, Scope: token, Made: at(6), Signals: []string{"sig_2"}})
	rows.Steps = append(rows.Steps, staunch.Step{V: 1, ID: "stp_3", Target: staunch.Target{Ref: role, Attribute: "x"}, Intended: at(7)})
	e, _ := bundle(t, c, rows)
	got := map[string]string{}
	for _, k := range e.Clocks {
		var parts []string
		for _, m := range k.Marks {
			parts = append(parts, fmt.Sprintf("%s +%g %s", m.Name, m.AfterMS, m.Row))
		}
		got[k.Of] = strings.Join(parts, ", ")
	}
	want := map[string]string{
		"hld_1": "event +0 evt_1, received +4000 evt_1, decided +4002 dec_1, effective +4002 hld_1",
		"stp_1": "event +0 evt_1, received +4000 evt_1, decided +4002 dec_1, intended +4003 stp_1, called +4020 stp_1, acknowledged +4038 stp_1, effective +4055 stp_1",
		"stp_2": "event +0 evt_1, received +4000 evt_1, decided +4002 dec_1, intended +4003 stp_2, called +4041 stp_2, acknowledged +4048 stp_2, effective +4058 stp_2",
		// The event itself was not kept: the signal has its times.
		"stp_3": "event +0 sig_2, received +1 sig_2, decided +2 dec_2, intended +3 stp_3",
	}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s: %s\nwant %s", k, got[k], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("clocks of %v", got)
	}
	manual := theft(t, c)
	manual.Decisions, manual.Containment.Origin = nil, staunch.OriginManual
	e, _ = bundle(t, c, manual)
	if m := e.Clocks[0].Marks; m[0].Name != markDecided || m[0].Row != "con_1" {
		t.Errorf("by hand: %+v", m)
	}
}

func TestVerifyEvidence(t *testing.T) {
	c := testChain(t, 1)
	_, doc := bundle(t, c, theft(t, c))
	if bytes.Contains(doc, []byte("md5x")) {
		t.Error("the bundle has what a state has in it")
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, doc, "", "  "); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]VerifyOptions{"key": {Chain: c}, "public key": {PublicKey: c.PublicKey()}} {
		for form, b := range map[string][]byte{"plain": doc, "indented": indented.Bytes()} {
			e, rep, err := VerifyEvidence(bytes.NewReader(b), o)
			if err != nil || rep.Err() != nil || !rep.Signed || rep.Keyed != (o.Chain != nil) || rep.Records != 10 || e.Containment.ID != "con_1" {
				t.Errorf("%s, %s: %+v, %v", name, form, rep, err)
			}
		}
		for how, edit := range map[string]func(string) string{
			"a word":         func(s string) string { return strings.Replace(s, "the key was replaced", "all was well", 1) },
			"a time":         func(s string) string { return strings.Replace(s, `"effect_at":"2027`, `"effect_at":"2026`, 1) },
			"a raw record":   func(s string) string { return strings.Replace(s, `"html":"<b>&"`, `"html":"<i>&"`, 1) },
			"a row less":     func(s string) string { return strings.Replace(s, `"truncated":[]`, `"truncated":["x"]`, 1) },
			"a name twice":   func(s string) string { return strings.Replace(s, `"id":"con_1"`, `"id":"con_9","id":"con_1"`, 1) },
			"other spelling": func(s string) string { return strings.Replace(s, "MIT", `\u004dIT`, 1) },
			"the order": func(s string) string {
				return strings.Replace(s, `{"v":1,"kind":"staunch.evidence"`, `{"kind":"staunch.evidence","v":1`, 1)
			},
			"no signature":     func(s string) string { return s[:strings.LastIndex(s, `,"signature"`)] + "}" },
			"another's":        func(s string) string { i := strings.LastIndex(s, `":"`); return s[:i+3] + "AAAA" + s[i+7:] },
			"something behind": func(s string) string { return s + "{}" },
		} {
			bent := edit(string(doc))
			if bent == string(doc) {
				t.Fatalf("%s changed nothing", how)
			}
			if _, rep, err := VerifyEvidence(strings.NewReader(bent), o); err != nil || rep.Err() == nil || rep.Signed || rep.Breaks[0].Kind != BreakUnsigned {
				t.Errorf("%s, %s: %+v, %v", name, how, rep, err)
			}
		}
	}
	for how, tc := range map[string]struct {
		in   string
		o    VerifyOptions
		want error
	}{
		"no key":           {string(doc), VerifyOptions{}, staunch.ErrInvalid},
		"another key":      {string(doc), VerifyOptions{Chain: testChain(t, 2)}, ErrWrongKey},
		"not JSON":         {"x", VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"an unknown name":  {strings.Replace(string(doc), `{"v":1`, `{"note":1,"v":1`, 1), VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"something else":   {`{"v":1,"kind":"staunch.records"}`, VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"a later version":  {strings.Replace(string(doc), `{"v":1`, `{"v":2`, 1), VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"nothing whatever": {"", VerifyOptions{Chain: c}, staunch.ErrInvalid},
	} {
		if _, _, err := VerifyEvidence(strings.NewReader(tc.in), tc.o); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", how, err, tc.want)
		}
	}
}

// Records that whoever signed the bundle had bent are found with the key, and
// their links without it.
func TestBentRecordsInEvidence(t *testing.T) {
	c := testChain(t, 1)
	for how, tc := range map[string]struct {
		bend func(r []staunch.Record) []staunch.Record
		want BreakKind
		key  bool // only the key finds it
	}{
		"edited":    {func(r []staunch.Record) []staunch.Record { r[3].Actor = "nobody"; return r }, BreakEdited, true},
		"unlinked":  {func(r []staunch.Record) []staunch.Record { r[3].Prev = r[1].Hash; return r }, BreakUnlinked, false},
		"twice":     {func(r []staunch.Record) []staunch.Record { return append(r, r[4]) }, BreakReordered, false},
		"another's": {func(r []staunch.Record) []staunch.Record { r[3].About = "con_9"; return r }, BreakMalformed, false},
		"no record": {func(r []staunch.Record) []staunch.Record { r[3].Hash = "x"; return r }, BreakEdited, false},
	} {
		rows := theft(t, c)
		rows.Records = tc.bend(rows.Records)
		_, doc := bundle(t, c, rows)
		for name, o := range map[string]VerifyOptions{"key": {Chain: c}, "public key": {PublicKey: c.PublicKey()}} {
			_, rep, err := VerifyEvidence(bytes.NewReader(doc), o)
			found := err == nil && slices.ContainsFunc(rep.Breaks, func(b Break) bool { return b.Kind == tc.want })
			if !rep.Signed || found == (tc.key && o.Chain == nil) {
				t.Errorf("%s with the %s: %+v, %v", how, name, rep.Breaks, err)
			}
		}
	}
	// Records between which others are left out are no break.
	rows := theft(t, c)
	rows.Records = slices.Delete(rows.Records, 2, 4)
	_, doc := bundle(t, c, rows)
	if _, rep, err := VerifyEvidence(bytes.NewReader(doc), VerifyOptions{Chain: c}); err != nil || rep.Err() != nil {
		t.Errorf("with records between: %+v, %v", rep.Breaks, err)
	}
}

// An export must have what a bundle has.
func TestAnExportAgainstEvidence(t *testing.T) {
	c := testChain(t, 1)
	rows := theft(t, c)
	rows.Heads = rows.Heads[:1]
	log := rows.Records
	e, _ := bundle(t, c, rows)
	o := VerifyOptions{PublicKey: c.PublicKey(), Evidence: &e}
	longer := add(t, c, slices.Clone(log), staunch.Record{Lane: "node-1/0", Kind: staunch.RecordNode, Actor: "engine"})
	for n, l := range [][]staunch.Record{log, longer} {
		if rep, err := VerifyExport(bytes.NewReader(exported(t, c, l)), o); err != nil || rep.Err() != nil {
			t.Errorf("export %d: %+v, %v", n, rep.Breaks, err)
		}
	}
	rep, err := VerifyExport(bytes.NewReader(exported(t, c, log[:8])), o)
	if err != nil || len(rep.Breaks) != 1 || rep.Breaks[0].Kind != BreakTruncated {
		t.Errorf("a shorter export: %+v, %v", rep.Breaks, err)
	}
	// Written anew by someone who has the key, in the middle of what the bundle saw.
	other := slices.Clone(log[:4])
	for range 6 {
		other = add(t, c, other, staunch.Record{Lane: "node-1/0", Kind: staunch.RecordProof, Actor: "forger", About: "con_1"})
	}
	rep, err = VerifyExport(bytes.NewReader(exported(t, c, other)), o)
	if err != nil || len(rep.Breaks) == 0 || rep.Breaks[0].Kind != BreakRewritten || rep.Breaks[0].Seq != 5 {
		t.Errorf("an export written anew: %+v, %v", rep.Breaks, err)
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	c := testChain(t, 1)
	rows := theft(t, c)
	for i := range MaxRows + 5 {
		rows.Holds = append(rows.Holds, staunch.Hold{V: 1, ID: fmt.Sprintf("hld_x%d", i), Plane: staunch.PlanePlatform, Target: staunch.Target{Ref: role}})
	}
	big := json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
	for i := range 10 {
		rows.Events = append(rows.Events, staunch.Event{V: 1, ID: fmt.Sprintf("evt_x%d", i), Raw: big})
	}
	for i := range 6 {
		rows.Records = add(t, c, rows.Records, staunch.Record{Lane: "node-1/0", Time: at(60400), Kind: staunch.RecordReceipt, About: "con_1", Body: json.RawMessage(fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("x", 1<<20-100)))})
	}
	e, doc := bundle(t, c, rows)
	if len(e.Holds) != MaxRows || len(doc) > MaxEvidenceBytes || len(e.Truncated) != 3 {
		t.Fatalf("%d holds, %d bytes, left out: %q", len(e.Holds), len(doc), e.Truncated)
	}
	bare := 0
	for _, ev := range e.Events {
		if len(ev.Raw) == 0 {
			bare++
		}
	}
	if len(e.Events) != 11 || bare != 5 || len(e.Records) < 12 || len(e.Records) > 14 {
		t.Errorf("%d events, %d without their record, %d records", len(e.Events), bare, len(e.Records))
	}
	if _, rep, err := VerifyEvidence(bytes.NewReader(doc), VerifyOptions{Chain: c}); err != nil || rep.Err() != nil {
		t.Errorf("%+v, %v", rep.Breaks, err)
	}
	// What cannot be cut is refused.
	rows = theft(t, c)
	for range 17 {
		rows.Timeline = append(rows.Timeline, Moment{Text: strings.Repeat("x", 1<<20)})
	}
	if _, err := c.Evidence(rows); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a bundle without a bound: %v", err)
	}
}

// Text that is not UTF-8 is signed as a reader gets it.
func TestEvidenceOfOddText(t *testing.T) {
	c := testChain(t, 1)
	rows := theft(t, c)
	rows.Containment.Trouble, rows.Timeline[0].Text = "a\xffb\u2028", "x\xed\xa0\x80"
	_, doc := bundle(t, c, rows)
	if _, rep, err := VerifyEvidence(bytes.NewReader(doc), VerifyOptions{Chain: c}); err != nil || rep.Err() != nil {
		t.Errorf("%+v, %v", rep.Breaks, err)
	}
}
