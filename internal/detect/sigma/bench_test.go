package sigma

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/test/generated"
)

// syntheticRules makes rules shaped like those for CloudTrail: a source with
// some event names, some with a filter or a second selection.
func syntheticRules(t testing.TB, n int) []*Rule {
	var rules []*Rule
	rng := rand.New(rand.NewPCG(3, 5))
	extra := []string{"", "requestParameters|contains: 'Suspended'", "userIdentity.arn|endswith: ':root'", "errorCode: null", "userAgent|contains: [s3browser, kali]", "userIdentity.arn|re: '.+:assumed-role/aws:.+'"}
	for i := range n {
		text := fmt.Sprintf("title: R%d\nid: r%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n    s:\n        eventSource: s%d.amazonaws.com\n        eventName: [Call%dA, Call%dB]\n        %s\n    f: {sourceIPAddress|cidr: 10.0.0.0/8}\n    condition: s and not f\n",
			i, i, rng.IntN(100), i, i, extra[i%len(extra)])
		if i%10 == 0 { // not every rule names what it wants so plainly
			text = fmt.Sprintf("title: R%d\nid: r%d\nlogsource: {product: aws}\ndetection:\n    s: {eventName|startswith: Call%d, userAgent|contains: tool%d}\n    condition: s\n", i, i, i, i)
		}
		r, errs := Parse("s.yml", []byte(text), Options{})
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		rules = append(rules, r...)
	}
	return rules
}

var trailSource = Logsource{Product: "aws", Service: "cloudtrail"}

func TestMatchDoesNotAllocate(t *testing.T) {
	s := compile(t, syntheticRules(t, 57)...)
	d := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	var dst []int
	var recs [][]byte
	for i := range 50 {
		recs = append(recs, generated.CloudTrail(i))
	}
	run := func() {
		for _, r := range recs {
			if err := d.Parse(r); err != nil {
				t.Fatal(err)
			}
			dst = s.Match(d, trailSource, &sc, dst[:0])
			if len(dst) != 0 {
				t.Fatal("matched")
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations for %d records", n, len(recs))
	}
}

func benchMatch(b *testing.B, rules []*Rule) {
	s := compile(b, rules...)
	var recs [][]byte
	size := 0
	for i := range 1000 {
		recs = append(recs, generated.CloudTrail(i))
		size += len(recs[i])
	}
	d := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	var dst []int
	b.SetBytes(int64(size / len(recs)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := d.Parse(recs[i%len(recs)]); err != nil {
			b.Fatal(err)
		}
		dst = s.Match(d, trailSource, &sc, dst[:0])
		i++
	}
}

func BenchmarkMatchSynthetic(b *testing.B) {
	for _, n := range []int{57, 500, 3000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchMatch(b, syntheticRules(b, n)) })
	}
}

// The rules of the corpus for AWS.
func BenchmarkMatchCorpus(b *testing.B) {
	rules, _ := LoadPath(filepath.Join(corpus(b), "sigma"), Options{})
	var aws []*Rule
	for _, r := range rules {
		if r.Logsource.Product == "aws" {
			aws = append(aws, r)
		}
	}
	b.Run(fmt.Sprint(len(aws)), func(b *testing.B) { benchMatch(b, aws) })
}

// The floors: reading the record only, and what most would do instead.
func BenchmarkFloor(b *testing.B) {
	var recs [][]byte
	for i := range 1000 {
		recs = append(recs, generated.CloudTrail(i))
	}
	b.Run("parse", func(b *testing.B) {
		d := jsondoc.New(jsondoc.Limits{})
		i := 0
		for b.Loop() {
			if err := d.Parse(recs[i%len(recs)]); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		i := 0
		for b.Loop() {
			var m map[string]any
			if err := json.Unmarshal(recs[i%len(recs)], &m); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}
