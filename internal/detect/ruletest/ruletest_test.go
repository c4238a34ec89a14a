package ruletest_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/staunch-project/staunch/internal/detect/ruletest"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/registry"
)

const ruleText = `title: Key made
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a11
logsource: {product: aws, service: SERVICE}
detection:
  sel:
    eventName: CreateAccessKey
  condition: sel
accuse: [ACCUSE]
`

const (
	hit = `{"eventID":"e1","eventTime":"2026-03-04T10:00:01Z","eventSource":"iam.amazonaws.com","eventName":"CreateAccessKey",` +
		`"userIdentity":{"type":"IAMUser","arn":"arn:aws:iam::411198765432:user/dana","accountId":"411198765432"}}`
	miss = `{"eventName":"ListAccessKeys"}`
)

func run(t *testing.T, service, accuse, test string) ruletest.Report {
	t.Helper()
	all, err := registry.Formats()
	if err != nil {
		t.Fatal(err)
	}
	return runWith(t, all, service, accuse, test)
}

func runWith(t *testing.T, formats []format.Format, service, accuse, test string) ruletest.Report {
	t.Helper()
	rule := strings.NewReplacer("SERVICE", service, "ACCUSE", accuse).Replace(ruleText)
	fsys := fstest.MapFS{"aws/key.yml": {Data: []byte(rule)}}
	if test != "" {
		fsys["aws/key.txtar"] = &fstest.MapFile{Data: []byte(test)}
	}
	rep, err := ruletest.Run(fsys, ruletest.Options{Formats: formats, Prefix: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func archive(parts ...string) string {
	var b strings.Builder
	for i := 0; i < len(parts); i += 2 {
		b.WriteString("-- " + parts[i] + " --\n" + parts[i+1] + "\n")
	}
	return b.String()
}

// Rules in OCSF's names are tested on the event that the product's format makes
// of the record.
func TestRunMapped(t *testing.T) {
	all, err := registry.Formats()
	if err != nil {
		t.Fatal(err)
	}
	rule := "title: Key made\nid: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a12\ntaxonomy: ocsf\nlogsource: {product: aws}\n" +
		"detection:\n  sel: {api.operation: CreateAccessKey}\n  condition: sel\naccuse: [account]\n"
	other := strings.Replace(hit, "CreateAccessKey", "ListAccessKeys", 1)
	for _, c := range []struct {
		name, test string
		formats    []format.Format
		want       string
	}{
		{"right", archive("hit-a.json", hit, "miss-a.json", other), all, ""},
		{"wrong", archive("hit-a.json", other, "miss-a.json", hit), all, "want a match, got none"},
		{"no format", archive("hit-a.json", hit, "miss-a.json", other), nil, "no format is for the rule's product"},
	} {
		fsys := fstest.MapFS{"aws/key.yml": {Data: []byte(rule)}, "aws/key.txtar": {Data: []byte(c.test)}}
		rep, err := ruletest.Run(fsys, ruletest.Options{Formats: c.formats})
		if err != nil {
			t.Fatal(err)
		}
		if rep.OK() != (c.want == "") || !strings.Contains(rep.String(), c.want) {
			t.Errorf("%s: %s", c.name, rep)
		}
	}
}

func TestRun(t *testing.T) {
	dana := "account:test:arn:arn:aws:iam::411198765432:user/dana"
	for _, c := range []struct {
		name, service, accuse, test string
		// want is in the report's text; empty means that all held.
		want string
	}{
		{"holds", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss), ""},
		{"names the accused", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "# a comment\nhit-a.json "+dana), ""},
		{"sequences", "cloudtrail", "account", archive("hit-a.ndjson", miss+"\n"+hit, "miss-a.ndjson", miss+"\n"+miss), ""},
		{"nobody is said", "cloudtrail", "session", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "hit-a.json nobody"), ""},

		{"no match", "cloudtrail", "account", archive("hit-a.json", miss, "miss-a.json", miss), "rules/aws/key.txtar:1: Key made: hit-a.json: want a match, got none\n\tsel: eventName wants CreateAccessKey, found \"ListAccessKeys\": does not hold (rules/aws/key.yml:6)"},
		{"a match", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", hit), "rules/aws/key.txtar:3: Key made: miss-a.json: want no match, got one"},
		{"a match in a sequence", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.ndjson", miss+"\n"+hit), "miss-a.ndjson: want no match, got one"},
		{"no match in a sequence", "cloudtrail", "account", archive("hit-a.ndjson", miss+"\n"+miss, "miss-a.json", miss), "hit-a.ndjson: want a match, got none"},
		{"somebody else", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "hit-a.json session:test:session-arn:x"), "want to accuse session:test:session-arn:x, got " + dana},
		{"nobody", "cloudtrail", "session", archive("hit-a.json", hit, "miss-a.json", miss), "want to accuse somebody, got nobody"},
		{"another log source", "guardduty", "account", archive("hit-a.json", hit, "miss-a.json", miss), "it goes to the log source aws/cloudtrail (format aws.cloudtrail), and the rule is for aws/guardduty"},
		{"not a record of the format", "cloudtrail", "account", archive("hit-a.json", `{"eventName":"CreateAccessKey","eventTime":"yesterday"}`, "miss-a.json", miss), "format aws.cloudtrail cannot read it"},

		{"no hit", "cloudtrail", "account", archive("miss-a.json", miss), "has no event that hits"},
		{"no near miss", "cloudtrail", "account", archive("hit-a.json", hit), "has no event that nearly hits"},
		{"not a name", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "notes.txt", ""), `rules/aws/key.txtar:5: Key made: the file "notes.txt" is not`},
		{"no name", "cloudtrail", "account", archive("hit-.json", hit, "miss-a.json", miss), `the file "hit-.json" is not`},
		{"twice", "cloudtrail", "account", archive("hit-a.json", hit, "hit-a.json", hit, "miss-a.json", miss), `rules/aws/key.txtar:3: Key made: the file "hit-a.json" stands twice`},
		{"not JSON", "cloudtrail", "account", archive("hit-a.json", "{", "miss-a.json", miss), "hit-a.json: record 1: "},
		{"accuse names no hit", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "miss-a.json "+dana), `rules/aws/key.txtar:6: Key made: there is no hit "miss-a.json"`},
		{"accuse has no ref", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "hit-a.json dana"), `ref "dana"`},
		{"accuse is not a pair", "cloudtrail", "account", archive("hit-a.json", hit, "miss-a.json", miss, "accuse", "hit-a.json"), "is not a file's name and a ref"},
		{"refused", "cloudtrail", "everybody", archive("hit-a.json", hit), "rules/aws/key.yml:8: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a11: refused: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			rep := run(t, c.service, c.accuse, c.test)
			if got := rep.String(); rep.OK() != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("ok %v, want %q in:\n%s", rep.OK(), c.want, got)
			}
		})
	}
}

func TestUntested(t *testing.T) {
	rep := run(t, "cloudtrail", "account", "")
	if rep.OK() || len(rep.Untested) != 1 || rep.Untested[0] != "rules/aws/key.yml:1" {
		t.Errorf("report %+v", rep)
	}
}

// TestStrays: a test whose rule file is called otherwise would never run.
func TestStrays(t *testing.T) {
	rule := strings.NewReplacer("SERVICE", "guardduty", "ACCUSE", "session").Replace(ruleText)
	test := archive("hit-a.json", hit, "miss-a.json", miss)
	fsys := fstest.MapFS{
		"aws/key.yaml": {Data: []byte(rule)}, "aws/key.txtar": {Data: []byte(test)}, "aws/keys.txtar": {Data: []byte(test)},
		"aws/many.sequences.txtar": {Data: []byte(archive("hit-a.ndjson", hit))}, "aws/other.txtar": {Data: []byte(archive("notes", "x"))}, ".git/a.txtar": {Data: []byte(test)},
	}
	rep, err := ruletest.Run(fsys, ruletest.Options{Prefix: "rules"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "rules/aws/keys.txtar:1: no rule file of this name stands beside it"
	if got := rep.String(); len(rep.Failures) != 2 || !strings.Contains(got, want) || !strings.Contains(got, "rules/aws/many.sequences.txtar:1: no rule file") {
		t.Errorf("want %q and one more in\n%s", want, got)
	}
	if rep, err = ruletest.Run(fsys, ruletest.Options{Roots: []string{"aws/key.yaml"}}); err != nil || !rep.OK() {
		t.Errorf("one file: %v %s", err, rep)
	}
}

// TestNoFormat: without a format for the product there is nobody to accuse, and
// the events are still matched.
func TestNoFormat(t *testing.T) {
	if rep := runWith(t, nil, "guardduty", "session", archive("hit-a.json", hit, "miss-a.json", miss)); !rep.OK() {
		t.Error(rep.String())
	}
}
