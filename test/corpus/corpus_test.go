// Package corpus measures the matcher and the rule pack on third-party rules and
// events. They are not part of the repository: STAUNCH_CORPUS names the folder,
// and without it everything here is skipped.
package corpus

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
)

// pack is the rule pack, beside this module's other folders.
const pack = "../../rules"

func folder(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("STAUNCH_CORPUS")
	if dir == "" {
		t.Skip("STAUNCH_CORPUS is not set: the third-party rules and events are not part of this repository")
	}
	return dir
}

// table prints rows to standard output, cells parted by tabs.
func table(title string, rows func(w io.Writer)) {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	rows(w)
	_ = w.Flush() // a report that nobody reads is no failure
}

func line(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			_, _ = fmt.Fprint(w, "\t")
		}
		_, _ = fmt.Fprint(w, c)
	}
	_, _ = fmt.Fprintln(w)
}

// each decodes every line of a file of JSON lines.
func each[T any](t *testing.T, path string, fn func(T)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	in := bufio.NewScanner(f)
	in.Buffer(nil, 64<<20)
	for in.Scan() {
		var v T
		if err := json.Unmarshal(in.Bytes(), &v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		fn(v)
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
}

// crossMatches says of each rule that matches the event of another, under the
// rule's id and the name of the other's file, which of its conditions hold on which
// fields of the event. None is the engine's doing: the rules are about overlapping
// acts, and one event is several of them.
var crossMatches = map[string]string{
	"2ddef153-167b-4e89-86b6-757a9e65dcac proc_creation_win_bitsadmin_download_file_sharing_domains": `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and :\Users\Public\`,
	"2ddef153-167b-4e89-86b6-757a9e65dcac proc_creation_win_bitsadmin_download_susp_extensions":      `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and \AppData\Local\`,
	"514e7e3e-b3b4-4a67-af60-be20f139198b proc_creation_win_pua_adfind_enumeration":                  `Image ends with \AdFind.exe`,
	"514e7e3e-b3b4-4a67-af60-be20f139198b proc_creation_win_pua_adfind_susp_usage":                   `Image ends with \AdFind.exe`,
	"514e7e3e-b3b4-4a67-af60-be20f139198b proc_creation_win_renamed_adfind":                          `OriginalFileName is AdFind.exe, though Image is not`,
	"5b80a791-ad9b-4b75-bcc1-ad4e1e89c200 proc_creation_win_bitsadmin_download_file_sharing_domains": `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and .dll`,
	"5b80a791-ad9b-4b75-bcc1-ad4e1e89c200 proc_creation_win_bitsadmin_download_susp_targetfolder":    `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and .dll`,
	"76f55eaa-d27f-4213-9d45-7b0e4b60bbae proc_creation_win_wmic_recon_unquoted_service_search":      `Image ends with \WMIC.exe; CommandLine has service, and nothing that its filters name`,
	"8518ed3d-f7c9-4601-a26c-f361a4256a0c proc_creation_win_bitsadmin_download_susp_extensions":      `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and github.com`,
	"8518ed3d-f7c9-4601-a26c-f361a4256a0c proc_creation_win_bitsadmin_download_susp_targetfolder":    `Image ends with \bitsadmin.exe; CommandLine has " /transfer " and github.com`,
	"8fbf3271-1ef6-4e94-8210-03c2317947f6 file_event_win_hktl_netexec_file_indicators":               `TargetFilename of one of the events ends with \procdump.exe`,
	"9a132afa-654e-11eb-ae93-0242ac130002 proc_creation_win_pua_adfind_execution":                    `CommandLine has objectcategory=`,
	"b53317a0-8acf-4fd1-8de8-a5401e776b96 proc_creation_win_wmic_uninstall_security_products":        `Image ends with \WMIC.exe; CommandLine has call and uninstall`,
	"bef37fa2-f205-4a7b-b484-0759bfd5f86f proc_creation_win_pua_advanced_port_scanner":               `CommandLine has /portable and /lng, which two products of one maker share`,
	"e62a9f0c-ca1e-46b2-85d5-a6da77f86d1a proc_creation_win_certutil_encode_susp_location":           `Image ends with \certutil.exe; CommandLine has -encode`,
}

// TestRegression has every event of the regression data match its rule. A rule that
// matches another rule's event has to be explained.
func TestRegression(t *testing.T) {
	type row struct {
		ID     string            `json:"rule_id"`
		Path   string            `json:"rule_path"`
		YAML   string            `json:"rule_yaml"`
		Source sigma.Logsource   `json:"logsource"`
		Events []json.RawMessage `json:"events"`
	}
	var rows []row
	var rules []*sigma.Rule
	each(t, filepath.Join(folder(t), "sigma_regression", "regression.ndjson"), func(r row) {
		rs, errs := sigma.Parse(r.Path, []byte(r.YAML), sigma.Options{})
		for _, e := range errs {
			t.Error(e)
		}
		rows = append(rows, r)
		if !slices.ContainsFunc(rules, func(o *sigma.Rule) bool { return len(rs) > 0 && o.ID == rs[0].ID }) {
			rules = append(rules, rs...)
		}
	})
	set, err := sigma.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	doc := jsondoc.New(jsondoc.Limits{})
	hits, events := 0, 0
	cross := map[string]string{} // the title by the key of crossMatches
	for _, r := range rows {
		found := false
		for _, e := range r.Events {
			if err := doc.Parse(e); err != nil {
				t.Fatal(err)
			}
			events++
			for _, n := range set.Match(doc, r.Source, nil, nil) {
				if id := rules[n].ID; id == r.ID {
					found = true
				} else {
					cross[id+" "+strings.TrimSuffix(filepath.Base(r.Path), ".yml")] = rules[n].Title
				}
			}
		}
		if found {
			hits++
		} else {
			t.Errorf("%s: none of its events matches", r.Path)
		}
	}
	table("Regression", func(w io.Writer) {
		line(w, "cases", "matched", "recall", "events", "cross-matches")
		line(w, len(rows), hits, share(hits, len(rows)), events, len(cross))
	})
	table("Rules that match another rule's event", func(w io.Writer) {
		line(w, "RULE", "EVENT OF", "BECAUSE")
		for _, k := range sorted(cross) {
			_, of, _ := strings.Cut(k, " ")
			line(w, cross[k], of, crossMatches[k])
		}
	})
	for _, k := range sorted(cross) {
		if crossMatches[k] == "" {
			t.Errorf("%s (%s) matches, and nothing explains it", k, cross[k])
		}
	}
	for _, k := range sorted(crossMatches) {
		if cross[k] == "" {
			t.Errorf("%s is explained and does not match", k)
		}
	}
}

// TestCloudRules loads the cloud rules, without and with placeholders.
func TestCloudRules(t *testing.T) {
	dir := filepath.Join(folder(t), "sigma")
	plain := sigma.LoadPaths(sigma.Options{}, dir)
	values := map[string][]string{}
	for _, e := range plain.Errors {
		if _, rest, ok := strings.Cut(e.Reason, "the placeholder %"); ok {
			name, _, _ := strings.Cut(rest, "%")
			values[name] = []string{"*"}
		}
		if e.Line == 0 {
			t.Errorf("refused without a line: %v", e)
		}
	}
	filled := sigma.LoadPaths(sigma.Options{Placeholders: values}, dir)
	table("Cloud rules", func(w io.Writer) {
		line(w, "placeholders", "rules", "loaded", "refused")
		line(w, "none", len(plain.Rules)+plain.Refused, len(plain.Rules), plain.Refused)
		line(w, strings.Join(sorted(values), " "), len(filled.Rules)+filled.Refused, len(filled.Rules), filled.Refused)
	})
	reasons := map[string]int{}
	for _, e := range filled.Errors {
		reasons[e.Reason]++
	}
	table("Refused for good", func(w io.Writer) {
		for _, r := range sorted(reasons) {
			line(w, reasons[r], r)
		}
	})
	if n := len(plain.Rules) + plain.Refused; n != 317 || filled.Refused != 9 {
		t.Errorf("%d rules, %d refused with placeholders", n, filled.Refused)
	}
}

// logTypes are those of the corpus whose events are about identities, with the
// format that reads them and the log source of rules for them.
var logTypes = []struct {
	name, format string
	source       sigma.Logsource
}{
	{"AWS.CloudTrail", "aws.cloudtrail", sigma.Logsource{Product: "aws", Service: "cloudtrail"}},
	{"Okta.SystemLog", "okta.system_log", sigma.Logsource{Product: "okta", Service: "okta"}},
	{"GitHub.Audit", "github.audit", sigma.Logsource{Product: "github", Service: "audit"}},
	{"GitHub.Webhook", "github.webhook", sigma.Logsource{Product: "github", Service: "webhook"}},
	{"GCP.AuditLog", "gcp.audit", sigma.Logsource{Product: "gcp"}},
	{"GSuite.ActivityEvent", "google.workspace", sigma.Logsource{Product: "gcp"}},
	{"Azure.Audit", "azure.audit", sigma.Logsource{Product: "azure"}},
	{"Azure.MonitorActivity", "azure.activity", sigma.Logsource{Product: "azure"}},
	{"Microsoft365.Audit.AzureActiveDirectory", "m365", sigma.Logsource{Product: "m365"}},
	{"Microsoft365.Audit.SharePoint", "m365", sigma.Logsource{Product: "m365"}},
	{"Amazon.EKS.Audit", "kubernetes.audit", sigma.Logsource{Product: "kubernetes"}},
	{"Auth0.Events", "auth0", sigma.Logsource{Product: "auth0"}},
	{"OneLogin.Events", "onelogin", sigma.Logsource{Product: "onelogin"}},
	{"Duo.Administrator", "duo", sigma.Logsource{Product: "cisco", Service: "duo"}},
	{"Slack.AuditLogs", "slack.audit", sigma.Logsource{Product: "slack"}},
	{"Snowflake.LoginHistory", "snowflake", sigma.Logsource{Product: "snowflake"}},
	{"Snowflake.QueryHistory", "snowflake", sigma.Logsource{Product: "snowflake"}},
	{"Gravitational.TeleportAudit", "teleport", sigma.Logsource{Product: "teleport"}},
	{"Anthropic.Activity", "anthropic", sigma.Logsource{Product: "anthropic"}},
	{"OpenAI.Audit", "openai.audit", sigma.Logsource{Product: "openai"}},
}

// labelled is an event of the corpus with what its rules say of it.
type labelled struct {
	raw json.RawMessage
	// alerting says that a rule of the corpus alerts on it, urgent that one of
	// severity high or critical does on this event alone.
	alerting, urgent bool
}

// labelledEvents returns the distinct events of a log type, in the corpus's order.
// A rule whose verdict depends on what its tests put in its place says nothing.
func labelledEvents(t *testing.T, dir, logType string) []*labelled {
	t.Helper()
	type test struct {
		Expected  bool            `json:"expected"`
		Event     json.RawMessage `json:"event"`
		Mocks     bool            `json:"has_mocks"`
		SHA       string          `json:"event_sha"`
		Severity  string          `json:"severity"`
		Threshold float64         `json:"threshold"`
	}
	var out []*labelled
	bySHA := map[string]*labelled{}
	each(t, filepath.Join(dir, "panther", "rule_tests", logType+".ndjson"), func(x test) {
		if x.Mocks {
			return
		}
		e := bySHA[x.SHA]
		if e == nil {
			e = &labelled{raw: x.Event}
			bySHA[x.SHA] = e
			out = append(out, e)
		}
		e.alerting = e.alerting || x.Expected
		severe := strings.EqualFold(x.Severity, "high") || strings.EqualFold(x.Severity, "critical")
		e.urgent = e.urgent || x.Expected && severe && x.Threshold <= 1
	})
	return out
}

// TestEvents measures the rule pack on labelled events: how many of those that
// ought to alert do, and how many of the others. An event ought to alert when
// any rule of the corpus says so of it.
func TestEvents(t *testing.T) {
	dir := folder(t)
	rules := packRules(t)
	table("Labelled events, by the rule pack", func(w io.Writer) {
		line(w, "LOG TYPE", "READ AS", "RULES", "ALERTING", "FOUND", "RECALL", "QUIET", "MATCHED", "RATE", "UNREADABLE")
		for _, lt := range logTypes {
			m := newMatcher(t, rules, lt.format, lt.source)
			var counts [2]struct{ all, hit int }
			broken := 0
			for _, e := range labelledEvents(t, dir, lt.name) {
				c := &counts[0]
				if e.alerting {
					c = &counts[1]
				}
				c.all++
				hit, err := m.matches(e.raw)
				if err != nil {
					broken++
				}
				if len(hit) > 0 {
					c.hit++
				}
			}
			line(w, lt.name, m.as, len(m.set.Rules()), counts[1].all, counts[1].hit, share(counts[1].hit, counts[1].all), counts[0].all, counts[0].hit, share(counts[0].hit, counts[0].all), broken)
		}
	})
}

// packRules are the pack's rules that tell by themselves. A rule that only feeds
// a correlation says nothing of one event.
func packRules(t *testing.T) []*sigma.Rule {
	t.Helper()
	var docs correlate.Reader
	l := sigma.LoadPaths(sigma.Options{Correlation: docs.Read}, pack)
	set, err := sigma.Compile(l.Rules)
	if err != nil {
		t.Fatal(err)
	}
	correlations, refused := docs.Compile(set, correlate.Options{Lateness: config.DefaultLateness})
	for _, e := range slices.Concat(l.Errors, refused) {
		t.Errorf("the pack: %v", e)
	}
	var out []*sigma.Rule
	for i, r := range set.Rules() {
		if !correlations.Hidden(i) {
			out = append(out, r)
		}
	}
	return out
}

// matcher matches events as a format's, or as plain JSON where there is none.
type matcher struct {
	as     string
	set    *sigma.Set
	format format.Format
	all    bool
	doc    *jsondoc.Doc
	raw    sigma.Scratch
	mapped sigma.MappedScratch
}

func newMatcher(t *testing.T, rules []*sigma.Rule, name string, source sigma.Logsource) *matcher {
	t.Helper()
	m := &matcher{as: name, doc: jsondoc.New(jsondoc.Limits{})}
	if !slices.Contains(app.FormatNames(), name) {
		name = "json"
		m.as, m.all, rules = "json, product="+source.Product, true, sigma.Within(rules, source)
		if source.Service != "" {
			m.as += ",service=" + source.Service
		}
	}
	var err error
	if m.format, err = app.NewFormat(name, ""); err != nil {
		t.Fatal(err)
	}
	if m.set, err = sigma.Compile(rules); err != nil {
		t.Fatal(err)
	}
	return m
}

// matches returns the numbers of the rules that an event matches; with an error,
// of those that could be evaluated.
func (m *matcher) matches(event []byte) ([]int, error) {
	if err := m.doc.Parse(event); err != nil {
		return nil, err
	}
	ls := sigma.Logsource{All: true}
	if !m.all {
		l := m.format.Logsource(m.doc)
		ls = sigma.Logsource{Product: l.Product, Service: l.Service, Category: l.Category, All: l.All}
	}
	got := m.set.Match(m.doc, ls, &m.raw, nil)
	if m.set.NeedsMapped(ls) {
		env := format.Env{Source: "corpus", Realm: "corpus"}
		keys, err := m.format.Keys(m.doc, env)
		if err != nil {
			return got, err
		}
		out, err := m.format.Map(m.doc, keys, env)
		if err != nil {
			return got, err
		}
		if got, err = m.set.MatchMapped(out.OCSF, ls, &m.mapped, got); err != nil {
			return got, err
		}
	}
	return got, nil
}

// TestDetonations replays each detonation of an attack technique: whether a rule
// of the pack accuses somebody, and whether that is who acted.
func TestDetonations(t *testing.T) {
	dir := folder(t)
	setup := packSetup(t)
	src := newSource(t, "aws.cloudtrail", "aws")
	type detonation struct {
		Technique string            `json:"technique"`
		Events    []json.RawMessage `json:"events"`
	}
	all, detected, right := 0, 0, 0
	table("Detonations, by the rule pack", func(w io.Writer) {
		line(w, "TECHNIQUE", "EVENTS", "SIGNALS", "WHO ACTED IS ACCUSED", "RULES")
		each(t, filepath.Join(dir, "stratus", "detonations.ndjson"), func(d detonation) {
			var in, actors strings.Builder
			for _, e := range d.Events {
				var who struct {
					UserIdentity json.RawMessage `json:"userIdentity"`
				}
				if err := json.Unmarshal(e, &who); err != nil {
					t.Fatal(err)
				}
				in.Write(e)
				in.WriteByte('\n')
				actors.Write(who.UserIdentity)
			}
			signals, wrong := 0, 0
			rules := map[string]bool{}
			err := offline.Replay(t.Context(), setup, offline.ReplayOptions{Source: src, Files: []string{"-"}, In: strings.NewReader(in.String()), Mode: staunch.ModeShadow}, func(l offline.Line) error {
				if l.Signal == nil {
					return nil
				}
				signals++
				rules[l.Signal.Title] = true
				if !strings.Contains(actors.String(), `"`+l.Signal.Accused.Value+`"`) {
					wrong++
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", d.Technique, err)
			}
			all++
			verdict := "-"
			if signals > 0 {
				detected++
				verdict = "no"
				if wrong == 0 {
					right++
					verdict = "yes"
				}
			}
			line(w, d.Technique, len(d.Events), signals, verdict, strings.Join(sorted(rules), "; "))
		})
	})
	table("Detonations", func(w io.Writer) {
		line(w, "techniques", "detected", "with who acted accused")
		line(w, all, detected, right)
	})
}

// packSetup is a node's setup with the rule pack and the default policy.
func packSetup(t *testing.T) *app.Setup {
	t.Helper()
	abs, err := filepath.Abs(pack)
	if err != nil {
		t.Fatal(err)
	}
	yaml := fmt.Sprintf("v: 1\nrules: [%q]\n", abs)
	cfg, err := config.Parse([]byte(yaml), filepath.Join(t.TempDir(), "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	setup, err := app.Load(cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	return setup
}

// newSource is a source that is trusted with everything, so that nothing but the
// signals decides.
func newSource(t *testing.T, formatName, realm string) *pipeline.Source {
	t.Helper()
	f, err := app.NewFormat(formatName, "")
	if err != nil {
		t.Fatal(err)
	}
	return &pipeline.Source{Name: "corpus", Realm: realm, Format: f, Ceiling: staunch.TierRevoke, Skew: staunch.Duration(config.DefaultSkew), Lateness: staunch.Duration(config.DefaultLateness)}
}

// trailOf makes the record of CloudTrail of a row that was exported from it as a
// table: the columns have other names, and objects are written as Python writes them.
func trailOf(t *testing.T, row json.RawMessage) []byte {
	t.Helper()
	var in struct {
		Type      string `json:"Event Type"`
		Name      string `json:"Event Name"`
		ID        string `json:"Event ID"`
		Request   string `json:"Request ID"`
		Time      string `json:"Event DateTime"`
		Address   string `json:"Source IP"`
		Agent     string `json:"Request User Agent"`
		Identity  string `json:"User ID"`
		Parameter string `json:"Request Parameters"`
	}
	if err := json.Unmarshal(row, &in); err != nil {
		t.Fatal(err)
	}
	object := func(s string) json.RawMessage { return json.RawMessage(strings.ReplaceAll(s, "'", `"`)) }
	out, err := json.Marshal(map[string]any{
		"eventVersion": "1.08", "eventType": in.Type, "eventSource": "s3.amazonaws.com", "eventName": in.Name,
		"eventID": in.ID, "requestID": in.Request, "eventTime": in.Time, "sourceIPAddress": in.Address, "userAgent": in.Agent,
		"userIdentity": object(in.Identity), "requestParameters": object(in.Parameter),
	})
	if err != nil {
		t.Fatalf("%s: %v", row, err)
	}
	return out
}

// TestBenign replays traffic in which nobody of the estate does anything wrong under
// the default policy: strangers who look into an open bucket, and people who sign in
// as they always do. Nobody may be contained.
func TestBenign(t *testing.T) {
	dir := folder(t)
	setup := packSetup(t)
	type stream struct {
		name, format, realm string
		records             []json.RawMessage
	}
	bucket := stream{name: "an open bucket", format: "aws.cloudtrail", realm: "aws"}
	each(t, filepath.Join(dir, "streams", "otrf_s3_honeybucket.ndjson"), func(r struct {
		Event json.RawMessage `json:"event"`
	}) {
		bucket.records = append(bucket.records, trailOf(t, r.Event))
	})
	all := []stream{bucket}
	each(t, filepath.Join(dir, "panther", "scenarios.ndjson"), func(r struct {
		File   string            `json:"file"`
		Events []json.RawMessage `json:"events"`
	}) {
		if r.File == "legit_login.yml" {
			all = append(all, stream{"ordinary sign-ins", "okta.system_log", "okta", r.Events})
		}
	})
	if len(all) != 2 || len(all[0].records) == 0 {
		t.Fatalf("%d streams", len(all))
	}
	table("Benign traffic, under the default policy", func(w io.Writer) {
		line(w, "STREAM", "RECORDS", "SIGNALS", "CONTAINED")
		for _, s := range all {
			var in strings.Builder
			for _, r := range s.records {
				in.Write(r)
				in.WriteByte('\n')
			}
			var sum offline.Summary
			err := offline.Replay(t.Context(), setup, offline.ReplayOptions{Source: newSource(t, s.format, s.realm), Files: []string{"-"}, In: strings.NewReader(in.String()), Mode: staunch.ModeEnforce}, func(l offline.Line) error {
				if l.Containment != nil {
					t.Errorf("%s: %s is contained", s.name, l.Containment.Subject)
				}
				if l.Summary != nil {
					sum = *l.Summary
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			if n := sum.Records + sum.Duplicates; n != len(s.records) {
				t.Errorf("%s: %d of %d records were taken", s.name, n, len(s.records))
			}
			line(w, s.name, sum.Records, sum.Signals, sum.Containments)
		}
	})
}

func share(n, of int) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(of))
}

func sorted[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
