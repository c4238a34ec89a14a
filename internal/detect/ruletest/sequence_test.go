package ruletest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/ruletest"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/registry"
)

const (
	readRule = `title: A read
name: read
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a21
logsource: {product: store}
detection: {s: {action: read}, condition: s}
---
`
	manyReads = `title: Many reads
name: many
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a22
correlation:
  type: event_count
  rules: [read]
  group-by: [user]
  timespan: 1m
  condition: {gte: 3}
accuse: [account]
---
`
	// manyThenWrite refers to the one before.
	manyThenWrite = `title: A write
name: write
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a23
logsource: {product: store}
detection: {s: {action: write}, condition: s}
---
title: Many reads, then a write
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a24
correlation:
  type: temporal_ordered
  rules: [many, write]
  group-by: [user]
  timespan: 5m
accuse: [account]
---
`
	// fewReads can be undone by records that come later.
	fewReads = `title: Few reads
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a25
correlation:
  type: event_count
  rules: [read]
  group-by: [user]
  timespan: 1m
  condition: {lt: 2}
---
`
)

var hardlyEver = strings.NewReplacer("Few reads", "A hundred reads", "lt: 2", "gte: 100").Replace(fewReads)

// did is records of mallory's, one a second, each of one of the actions.
func did(actions ...string) string {
	var b strings.Builder
	for i, a := range actions {
		fmt.Fprintf(&b, `{"id":"%d","time":"2026-01-02T03:00:%02dZ","user":"mallory","action":%q}`+"\n", i, i, a)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// sequences runs the files, with all formats and those given before them.
func sequences(t *testing.T, files map[string]string, formats ...format.Format) ruletest.Report {
	t.Helper()
	all, err := registry.Formats()
	if err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	rep, err := ruletest.Run(fsys, ruletest.Options{
		Formats: append(formats, all...), Correlations: correlate.Options{Lateness: time.Hour}, Prefix: "rules",
	})
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestSequences(t *testing.T) {
	three, two := did("read", "read", "read"), did("read", "read")
	good := archive("hit-a.ndjson", three, "miss-a.ndjson", two)
	const mallory = "account:test:name:mallory"
	for _, c := range []struct {
		name        string
		rules, test string
		more        map[string]string
		// want is in the report's text; ok says that nothing failed.
		want string
		ok   bool
	}{
		{"holds", readRule + manyReads, good, nil, "rules/app/many.sequences.txtar:1: hit-a.ndjson: 3 events, held: Many reads\nrules/app/many.sequences.txtar:5: miss-a.ndjson: 2 events, held: none\n", true},
		{"the summary", readRule + manyReads, good, nil, "1 rules, 0 events in 0 test files, 1 correlations, 2 sequences, 1 without a test, 0 failures\n", true},
		{"its rules elsewhere", manyReads, good, map[string]string{"bases/read.yml": readRule}, "3 events, held: Many reads", true},
		{"names the accused", readRule + manyReads, good + archive("accuse", "hit-a.ndjson "+mallory), nil, "0 failures", true},
		{"what settles", readRule + fewReads, archive("hit-a.ndjson", did("read"), "miss-a.ndjson", did("write")), nil, "1 events, held: Few reads", true},
		{"a hidden one before another", readRule + manyReads + manyThenWrite, archive("hit-a.ndjson", did("read", "read", "read", "write"), "miss-a.ndjson", three), nil, "4 events, held: Many reads, then a write", true},
		{"a hidden one alone", readRule + manyReads, good, map[string]string{"b.yml": manyThenWrite}, "3 events, held: Many reads", true},

		{"none", readRule + manyReads, "", nil, "rules/app/many.yml:7: Many reads: has no sequence (many.sequences.txtar)", false},
		{"never holds", readRule + manyReads + hardlyEver, archive("hit-a.ndjson", three, "miss-a.ndjson", did("write")), nil, "rules/app/many.yml:18: A hundred reads: holds in no sequence that has to hit", true},
		{"a named one never holds", readRule + manyReads + strings.Replace(manyThenWrite, "[many, write]", "[read, write]", 1), archive("hit-a.ndjson", did("read", "write"), "miss-a.ndjson", did("write")), nil, "rules/app/many.yml:7: Many reads: holds in no", true},

		{"too few", readRule + manyReads, archive("hit-a.ndjson", two, "miss-a.ndjson", two), nil, "rules/app/many.sequences.txtar:1: Many reads: hit-a.ndjson: want a correlation to hold, got none\n\tMany reads: at most 2 records count in a window of mallory\n", false},
		{"none counts", readRule + manyReads, archive("hit-a.ndjson", did("write"), "miss-a.ndjson", two), nil, "\tMany reads: no record counts for it\n", false},
		{"one too many", readRule + manyReads, archive("hit-a.ndjson", three, "miss-a.ndjson", three), nil, "rules/app/many.sequences.txtar:5: Many reads: miss-a.ndjson: want no correlation to hold, got one\n\tMany reads: 3 events within 1m0s, user mallory (records 1, 2, 3)\n", false},
		{"somebody else", readRule + manyReads, good + archive("accuse", "hit-a.ndjson account:test:name:dana"), nil, "want to accuse account:test:name:dana, got " + mallory, false},
		{"no hit", readRule + manyReads, archive("miss-a.ndjson", two), nil, "rules/app/many.sequences.txtar: Many reads: has no sequence that hits (hit-NAME.ndjson)", false},
		{"no near miss", readRule + manyReads, archive("hit-a.ndjson", three), nil, "has no sequence that nearly hits", false},
		{"an event in place of a sequence", readRule + manyReads, good + archive("hit-b.json", three), nil, `the file "hit-b.json" is not hit-NAME.ndjson, miss-NAME.ndjson or accuse`, false},
		{"no name", readRule + manyReads, good + archive("hit-.ndjson", three), nil, `the file "hit-.ndjson" is not hit-NAME.ndjson`, false},
		{"not JSON", readRule + manyReads, archive("hit-a.ndjson", two+"\n{", "miss-a.ndjson", two), nil, "hit-a.ndjson: record 3: ", false},
		{"no time", readRule + manyReads, archive("hit-a.ndjson", three, "miss-a.ndjson", `{"user":"mallory","action":"read"}`), nil, "miss-a.ndjson: record 1: it counts for no correlation: format json finds no time in it", false},
		{"no correlation", readRule, good, nil, "rules/app/many.sequences.txtar: has sequences, and many.yml has no correlation", false},
		{"a rule that is not there", strings.Replace(manyReads, "[read]", "[raed]", 1), good, nil, `rules/app/many.yml:6: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a22: refused: it refers to "raed"`, false},
		{"a correlation that is refused", readRule + strings.Replace(manyReads, "event_count", "evnt_count", 1), good, nil, `refused: type is "evnt_count"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"app/many.yml": c.rules}
			if c.test != "" {
				files["app/many.sequences.txtar"] = c.test
			}
			for name, text := range c.more {
				files[name] = text
			}
			rep := sequences(t, files)
			if got := rep.String(); rep.OK() != c.ok || !strings.Contains(got, c.want) {
				t.Errorf("ok %v, want %q in:\n%s", rep.OK(), c.want, got)
			}
			if c.ok && strings.Contains(c.want, "held: none\n") {
				b, err := json.Marshal(rep)
				if want := `"signals":[{"correlation":"0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a22","title":"Many reads","records":[1,2,3],"accused":"` + mallory + `"}]`; err != nil || !strings.Contains(string(b), want) {
					t.Errorf("%s (%v): want %s", b, err, want)
				}
			}
		})
	}
}

// TestSequencesOfFormats: each record is read by the format for the product of the
// rule that it matches, a user's own before staunch's.
func TestSequencesOfFormats(t *testing.T) {
	const (
		aws = `title: A key is made
name: made
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a31
logsource: {product: aws, service: SERVICE}
detection: {s: {eventName: CreateAccessKey}, condition: s}
---
`
		gateway = `title: A call
name: call
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a32
logsource: {product: gateway}
detection: {s: {what: call}, condition: s}
---
`
		corr = `title: Both
id: 0d7d4d6e-3f0b-4b57-9c2e-2f6f0a2b9a33
correlation:
  type: temporal
  rules: [RULES]
  timespan: 1d
accuse: [ACCUSE]
`
		mapping = "v: 1\nname: own\nproduct: {name: Gateway, vendor_name: Example}\nlogsource: {product: gateway}\n" +
			"refs:\n  token: {kind: credential, scheme: jti, from: tok}\nkeys:\n  id: nr\n  time: {from: at, unit: s}\n  outcome: success\n  operation: what\n  actor: [token]\nocsf: {}\n"
		call = `{"nr":"7","at":1772618460,"tok":"t-1","what":"call"}`
	)
	own, err := registry.Generic("", []byte(mapping), "own.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files := func(service, rules, accuse, test string) map[string]string {
		text := strings.NewReplacer("SERVICE", service, "RULES", rules, "ACCUSE", accuse).Replace(aws + gateway + corr)
		return map[string]string{"x.yml": text, "x.sequences.txtar": test}
	}
	key := strings.Replace(hit, "2026-03-04T10:00:01Z", "2026-03-04T10:00:00Z", 1)
	for _, c := range []struct {
		name  string
		files map[string]string
		more  []format.Format
		want  string
		ok    bool
	}{
		{"a format of staunch's", files("cloudtrail", "made", "account", archive("hit-a.ndjson", hit, "miss-a.ndjson", miss, "accuse", "hit-a.ndjson account:test:arn:arn:aws:iam::411198765432:user/dana")), nil, "1 events, held: Both", true},
		{"nobody", files("cloudtrail", "made", "session", archive("hit-a.ndjson", hit, "miss-a.ndjson", miss)), nil, "want to accuse somebody, got nobody", false},
		{"nobody is said", files("cloudtrail", "made", "session", archive("hit-a.ndjson", hit, "miss-a.ndjson", miss, "accuse", "hit-a.ndjson nobody")), nil, "1 events, held: Both", true},
		{"another log source", files("guardduty", "made", "account", archive("hit-a.ndjson", hit, "miss-a.ndjson", miss)), nil, "\trecord 1 matches A key is made, but it goes to the log source aws/cloudtrail (format aws.cloudtrail), and the rule is for aws/guardduty", false},
		{"not a record of the format", files("cloudtrail", "made", "account", archive("hit-a.ndjson", `{"eventName":"CreateAccessKey","eventTime":"yesterday"}`, "miss-a.ndjson", miss)), nil, "record 1: it counts for no correlation: format aws.cloudtrail cannot read it", false},
		{"a format of one's own", files("cloudtrail", "call", "credential", archive("hit-a.ndjson", call, "miss-a.ndjson", miss, "accuse", "hit-a.ndjson credential:test:jti:t-1")), []format.Format{own}, "1 events, held: Both", true},
		{"without it", files("cloudtrail", "call", "credential", archive("hit-a.ndjson", call, "miss-a.ndjson", miss)), nil, "format json finds no time in it", false},
		{"two formats", files("cloudtrail", "made, call", "credential", archive("hit-a.ndjson", key+"\n"+call, "miss-a.ndjson", call, "accuse", "hit-a.ndjson credential:test:jti:t-1")), []format.Format{own}, "2 events, held: Both", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rep := sequences(t, c.files, c.more...)
			if got := rep.String(); rep.OK() != c.ok || !strings.Contains(got, c.want) {
				t.Errorf("ok %v, want %q in:\n%s", rep.OK(), c.want, got)
			}
		})
	}
}

// TestSequencesWithoutFormats: nothing can be told of records that nothing reads.
func TestSequencesWithoutFormats(t *testing.T) {
	fsys := fstest.MapFS{
		"a.yml":             {Data: []byte(readRule + manyReads)},
		"a.sequences.txtar": {Data: []byte(archive("hit-a.ndjson", did("read"), "miss-a.ndjson", did("write")))},
	}
	rep, err := ruletest.Run(fsys, ruletest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.String(); rep.OK() || !strings.Contains(got, `hit-a.ndjson: record 1: no format is for the product "store"`) {
		t.Error(got)
	}
}
