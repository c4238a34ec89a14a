package rules_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/ruletest"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	formats "github.com/staunch-project/staunch/internal/format/registry"
	"github.com/staunch-project/staunch/rules"
	"github.com/staunch-project/staunch/test/mmdb"
)

// honeytokens are the decoys of the tests. Where a user names none, rules about
// decoys are left out.
var honeytokens = map[string][]string{"honeytokens": {
	"AKIAZ3FQLK7NHONEYTOK", "prod/root-password-old", "arn:aws:iam::411198765432:role/prod-admin-old",
	"decoy@example.com", "decoy@contoso.example", "00Tdecoytoken", "1DecoyPayrollOld",
	"secret/data/backup/root", "decoyhash0000=", "example-org/payroll-old", "root-ca-old",
	"https://shop.vault.azure.net/secrets/root-old/*", "system:serviceaccount:shop:old-deployer",
	"old-deployer@shop-prod.iam.gserviceaccount.com", "projects/1/secrets/root-old/versions/*",
}}

// places are where the addresses of the tests are: Berlin, Potsdam and Sydney.
var places = map[string][2]float64{"192.0.2.0/24": {52.52, 13.40}, "203.0.113.0/24": {52.40, 13.06}, "198.51.100.0/24": {-33.87, 151.21}}

// report is what came of all tests of the pack.
var report = sync.OnceValues(func() (ruletest.Report, error) {
	all, err := formats.Formats()
	if err != nil {
		return ruletest.Report{}, err
	}
	geo, err := correlate.OpenGeo(mmdb.Places(places), "places")
	if err != nil {
		return ruletest.Report{}, err
	}
	return ruletest.Run(os.DirFS("."), ruletest.Options{
		Rules: sigma.Options{Placeholders: honeytokens}, Formats: all,
		Correlations: correlate.Options{Lateness: config.DefaultLateness, Geo: geo}, Prefix: "rules",
	})
})

// TestPack runs every rule's test; a rule without one does not pass.
func TestPack(t *testing.T) {
	rep, err := report()
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OK() || len(rep.Untested) > 0 {
		t.Error(rep.String())
	}
	t.Logf("%d rules, %d events", rep.Rules, rep.Events)
}

var (
	uuid   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	tactic = regexp.MustCompile(`^(attack|atlas|owasp-nhi|owasp-agentic)\.[a-z0-9.-]+$`)
)

// TestConventions holds what a reader of any rule can rely on.
func TestConventions(t *testing.T) {
	var correlations []*sigma.Rule
	loaded, refused := sigma.Load(rules.FS, sigma.Options{Placeholders: honeytokens, Correlation: func(c *sigma.Correlation) []*sigma.RuleError {
		correlations = append(correlations, c.Rule)
		return new(correlate.Reader).Read(c)
	}})
	for _, e := range refused {
		t.Error(e)
	}
	isCorrelation := func(r *sigma.Rule) bool { return slices.Contains(correlations, r) }
	titles := map[string]string{}
	for _, r := range slices.Concat(loaded, correlations) {
		bad := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s: "+format, append([]any{r.Path}, args...)...)
		}
		if !uuid.MatchString(r.ID) {
			bad("id %q is not a random UUID", r.ID)
		}
		if other, dup := titles[r.Title]; dup {
			bad("title %q is that of %s", r.Title, other)
		}
		titles[r.Title] = r.Path
		if r.Author != "staunch authors" || r.License != "Apache-2.0" {
			bad("author %q, license %q", r.Author, r.License)
		}
		if r.Status == "" || r.Level == "" || r.Logsource.Product == "" && !isCorrelation(r) {
			bad("has no status, level or product")
		}
		if n := len(r.Description); n < 40 || n > 400 || !strings.HasSuffix(r.Description, ".") {
			bad("description of %d characters: want one or two sentences", n)
		}
		if r.Confidence < 0.1 || r.Confidence > 0.95 {
			bad("confidence %v is outside 0.1 to 0.95", r.Confidence)
		}
		if len(r.References) == 0 || len(r.FalsePositives) == 0 {
			bad("has no references or falsepositives")
		}
		// CloudTrail's format accuses the narrowest that a record names: its session,
		// else its key, else its user; TestNarrowByDefault says when that is enough.
		if len(r.Accuse) == 0 && r.Logsource.Product != "aws" {
			bad("has no accuse")
		}
		if len(r.Techniques) == 0 && !slices.ContainsFunc(r.Tags, func(s string) bool { return strings.HasPrefix(s, "atlas.") }) {
			bad("has no technique among its tags")
		}
		for _, tag := range r.Tags {
			if !tactic.MatchString(tag) {
				bad("tag %q", tag)
			}
		}
	}
}

// TestNarrowByDefault holds what a rule without accuse: leaves to its format: the
// records of its hits name a session or a key. Where the choice falls through to
// the user, or to a service of the platform, the rule has to say whom it is about.
func TestNarrowByDefault(t *testing.T) {
	trail, err := formats.New("aws.cloudtrail")
	if err != nil {
		t.Fatal(err)
	}
	loaded, _ := sigma.Load(rules.FS, sigma.Options{Placeholders: honeytokens, Correlation: new(correlate.Reader).Read}, "aws")
	checked := 0
	for _, r := range loaded {
		if len(r.Accuse) > 0 {
			continue
		}
		data, err := os.ReadFile(strings.TrimSuffix(r.Path, ".yml") + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range txtar.Parse(data).Files {
			if !strings.HasPrefix(f.Name, "hit-") || !strings.HasSuffix(f.Name, ".json") {
				continue
			}
			doc := jsondoc.New(jsondoc.DefaultLimits())
			if err := doc.Parse(bytes.TrimSpace(f.Data)); err != nil {
				t.Fatalf("%s: %s: %v", r.Path, f.Name, err)
			}
			keys, err := trail.Keys(doc, format.Env{Source: "test", Realm: ruletest.Realm})
			if err != nil {
				t.Fatalf("%s: %s: %v", r.Path, f.Name, err)
			}
			checked++
			refs := accuse.Refs(nil, accuse.Record{Format: trail, Realm: ruletest.Realm, Doc: doc, Keys: keys})
			if len(refs) != 1 || refs[0].Kind == staunch.KindAccount {
				t.Errorf("%s: without accuse: %s accuses %v", r.Path, f.Name, refs)
			}
		}
	}
	if checked == 0 {
		t.Error("no rule leaves it to the format")
	}
}

// TestProducts holds the names by which rules are chosen: match --source json
// --logsource product=NAME, and the log source of the records of a format that has
// one for all of them.
func TestProducts(t *testing.T) {
	loaded, _ := sigma.Load(rules.FS, sigma.Options{Placeholders: honeytokens, Correlation: new(correlate.Reader).Read}) // what is refused, TestConventions tells
	all, err := formats.Formats()
	if err != nil {
		t.Fatal(err)
	}
	formatOf := map[string]string{"aws": "aws.cloudtrail", "okta": "okta.system_log", "vault": "hashicorp.vault"}
	for _, product := range []string{
		"anthropic", "auth0", "aws", "azure", "cisco", "gcp", "github", "gitlab", "kubernetes", "m365", "okta",
		"onelogin", "openai", "postgresql", "slack", "snowflake", "ssf", "teleport", "vault",
	} {
		own := sigma.Within(loaded, sigma.Logsource{Product: product})
		if len(own) == 0 {
			t.Errorf("no rule has the product %s", product)
		}
		i := slices.IndexFunc(all, func(f format.Format) bool { return f.Name() == formatOf[product] })
		if i < 0 {
			if formatOf[product] != "" {
				t.Errorf("there is no format %s", formatOf[product])
			}
			continue
		}
		doc := jsondoc.New(jsondoc.Limits{})
		if err := doc.Parse([]byte(`{}`)); err != nil {
			t.Fatal(err)
		}
		ls := all[i].Logsource(doc)
		for _, r := range own {
			if of := (sigma.Logsource{Product: ls.Product, Category: ls.Category, Service: ls.Service}); !of.Covers(r.Logsource) {
				t.Errorf("%s: records of %s do not get it", r.Path, formatOf[product])
			}
		}
	}
}

// TestSequences wants each correlation to hold in a sequence, and all sequences to
// come as they have to.
func TestSequences(t *testing.T) {
	rep, err := report()
	if err != nil {
		t.Fatal(err)
	}
	failed := slices.ContainsFunc(rep.Sequences, func(s ruletest.Sequence) bool { return !s.OK })
	if failed || len(rep.Sequences) == 0 || len(rep.UntestedCorrelations) > 0 {
		t.Error(rep.String())
	}
	t.Logf("%d correlations, %d sequences", rep.Correlations, len(rep.Sequences))
}
