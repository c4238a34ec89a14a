package sigma

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/test/generated"
)

// naive evaluates every rule of the log source as it is written: no index, no
// shared answers, the fields looked up one by one.
func naive(s *Set, d *jsondoc.Doc, ls Logsource) []int {
	var out []int
	for n, r := range s.rules {
		if ls.Covers(r.Logsource) && naively(d, r, r.cond) {
			out = append(out, n)
		}
	}
	return out
}

func naively(d *jsondoc.Doc, r *Rule, e *expr) bool {
	switch e.op {
	case opRef:
		return naively(d, r, r.selections[e.ref])
	case opNot:
		return !naively(d, r, e.kids[0])
	case opPred:
		// Of equal paths only the first is found in the common walk, so the
		// second ones are looked up one by one.
		own := &Set{fields: []jsondoc.Path{e.pred.path, e.pred.path, e.pred.refPath, e.pred.refPath}, preds: []question{{e.pred, 1, 3}}}
		own.index.Store(&index{})
		own.paths = jsondoc.NewPaths(own.fields)
		sc := new(Scratch)
		sc.begin(own, d)
		return e.pred.eval(sc, 1, 3)
	}
	for _, k := range e.kids {
		if naively(d, r, k) != (e.op == opAnd) {
			return e.op == opOr
		}
	}
	return e.op == opAnd
}

// Words that are parts of each other, of all lengths that the index tells
// apart, with escapes in JSON and letters beyond ASCII that fold to ASCII.
var (
	genWords  = []string{"", "a", "ab", "abc", "Abcd", "abcde", "bcdefg", "ABCDEFGH", "abcdefghijkl", "cdefghijklm", "x/y\\z", "say \"hi\"", "\u212aelvin", "kelvin", "ſharp", "sharp", "größer", "GRÖSSER", "true", "5", "5.0", "10.0.0.7", "10.0.0.0", "2001:db8::1", "-enc", "a-b /c", "2024-05-06T07:08:09Z"}
	genFields = []string{"a", "b", "a.b", "A.b", "c.d.e", "longFieldName", "c.d", "list", "list[0]"}
	genKeys   = []string{"a", "b", "A", "a.b", "c", "d", "e", "D", "longFieldName", "LONGFIELDNAME", "list", "c.d", "other"}
)

func drawText(t *rapid.T) string {
	words := rapid.SliceOfN(rapid.SampledFrom(genWords), 1, 3).Draw(t, "words")
	return strings.Join(words, rapid.SampledFrom([]string{"", " ", "z"}).Draw(t, "between"))
}

func drawEvent(t *rapid.T, depth int) string {
	most := 10
	if depth == 0 {
		most = 6
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		return "null"
	case 1:
		return rapid.SampledFrom([]string{"5", "5.0", "0.5e1", "-1", "true", "false", "1e400", "1714978089"}).Draw(t, "scalar")
	case 2, 3, 4, 5, 6:
		q := string(jsondoc.AppendQuoted(nil, []byte(drawText(t))))
		if rapid.IntRange(0, 5).Draw(t, "escaped") == 0 {
			q = strings.Replace(q, "a", "\\u0061", 1)
		}
		return q
	case 7:
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, drawEvent(t, depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return drawObject(t, depth)
}

func drawObject(t *rapid.T, depth int) string {
	var members []string
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(genKeys), 0, 6, rapid.ID).Draw(t, "keys") {
		members = append(members, fmt.Sprintf("%q:%s", k, drawEvent(t, depth-1)))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func quoted(s string) string { return string(jsondoc.AppendQuoted(nil, []byte(s))) }

// drawItem makes one item of a selection.
func drawItem(t *rapid.T) string {
	field := rapid.SampledFrom(genFields).Draw(t, "field")
	value := func() string {
		text := drawText(t)
		switch rapid.IntRange(0, 5).Draw(t, "wild") {
		case 0:
			text += "*" + rapid.SampledFrom(genWords).Draw(t, "word")
		case 1:
			text = "*" + text + "?"
		case 2:
			text = "*" + text + "*"
		}
		return quoted(text)
	}
	values := func(n int) string {
		var list []string
		for range rapid.IntRange(1, n).Draw(t, "values") {
			list = append(list, value())
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	switch rapid.IntRange(0, 13).Draw(t, "item") {
	case 0, 1:
		return field + ": " + values(3)
	case 2, 3, 4:
		mods := rapid.SampledFrom([]string{"contains", "startswith", "endswith", "contains|all", "contains|cased", "endswith|cased", "cased", "contains|windash", "startswith|neq", "base64offset|contains", "all"}).Draw(t, "modifiers")
		return field + "|" + mods + ": " + values(3)
	case 5:
		re := rapid.SampledFrom([]string{"^abc", "abcd+e?f", "(?i)ABCDE(F|x)", "(abc|xyz|say).*h", "a{2,}b*", "k(e|E)lvin", "(?i)\u212aelvin|sharp", "cd(efg)+h", ".", "[ab]cde"}).Draw(t, "re")
		return field + "|re: " + quoted(re)
	case 6:
		return field + "|cidr: " + rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.4/30", "0.0.0.0/0", "'2001:db8::/32'", "10.0.0.7/32", "['10.0.0.0/24', '::/0']"}).Draw(t, "net")
	case 7:
		return field + ": null"
	case 8:
		return field + "|exists: " + rapid.SampledFrom([]string{"true", "false"}).Draw(t, "exists")
	case 9:
		return field + rapid.SampledFrom([]string{"|gt: 4", "|lte: 5", "|hour: 7", ": 5", ": 5.0", ": true", ": '*'", "|neq: 5"}).Draw(t, "number")
	case 10:
		return field + rapid.SampledFrom([]string{"|fieldref: ", "|fieldref|contains: ", "|fieldref|startswith: "}).Draw(t, "ref") + rapid.SampledFrom(genFields[:6]).Draw(t, "other")
	default:
		return "'|" + rapid.SampledFrom([]string{"contains", "startswith", "endswith", "cased", "re"}).Draw(t, "keyword") + "': " + values(2)
	}
}

func drawRule(t *rapid.T, n int) []*Rule {
	var b strings.Builder
	fmt.Fprintf(&b, "title: r%d\nid: r%d\nlogsource: {product: %s}\ndetection:\n", n, n, rapid.SampledFrom([]string{"p", "p", "q"}).Draw(t, "product"))
	names := []string{"s1", "s2", "f1", "f2"}[:rapid.IntRange(1, 4).Draw(t, "selections")]
	for _, name := range names {
		seen := map[string]bool{}
		fmt.Fprintf(&b, "    %s:\n", name)
		for range rapid.IntRange(1, 3).Draw(t, "items") {
			item := drawItem(t)
			if key, _, _ := strings.Cut(item, ":"); !seen[key] {
				seen[key] = true
				fmt.Fprintf(&b, "        %s\n", item)
			}
		}
	}
	conds := []string{"s1", "not s1", "1 of them", "all of them", "not 1 of them"}
	if len(names) >= 2 {
		conds = append(conds, "s1 and not s2", "s1 or not s2", "not (s1 and s2)", "not (s1 or not s2)")
	}
	if len(names) == 4 {
		conds = append(conds, "(s1 or s2) and not 1 of f*", "1 of s* and not all of f*", "not (not s1 or not (s2 and f1)) or f2")
	}
	fmt.Fprintf(&b, "    condition: %s\n", rapid.SampledFrom(conds).Draw(t, "condition"))
	rules, errs := Parse("r.yml", []byte(b.String()), Options{})
	if len(errs) > 0 {
		return nil // a combination that Sigma does not know
	}
	return rules
}

// Whatever the rules, the records and the traffic, the index changes nothing.
func TestMatchEqualsNaive(t *testing.T) {
	d := jsondoc.New(jsondoc.Limits{})
	loaded, matched := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var rules []*Rule
		for n := range rapid.IntRange(1, 12).Draw(t, "rules") {
			rules = append(rules, drawRule(t, n)...)
		}
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		loaded += len(rules)
		var traffic Traffic
		observe := rapid.IntRange(0, 4).Draw(t, "observe")
		var events []string
		for range 6 {
			events = append(events, drawObject(t, 3))
		}
		for _, e := range events[:observe] {
			if err := d.Parse([]byte(e)); err != nil {
				t.Fatalf("%s: %v", e, err)
			}
			traffic.Observe(d)
		}
		trained := s.Train(&traffic)
		var sc, sc2 Scratch
		for _, e := range events {
			if err := d.Parse([]byte(e)); err != nil {
				t.Fatalf("%s: %v", e, err)
			}
			for _, ls := range []Logsource{{Product: "p"}, {All: true}} {
				want := naive(s, d, ls)
				matched += len(want)
				if got := s.Match(d, ls, &sc, nil); !slices.Equal(got, want) {
					t.Fatalf("%s: matches %v, want %v", e, got, want)
				}
				if got := trained.Match(d, ls, &sc2, nil); !slices.Equal(got, want) {
					t.Fatalf("%s: trained, matches %v, want %v", e, got, want)
				}
			}
		}
	})
	if loaded < 100 || matched < 100 {
		t.Errorf("%d rules and %d matches say nothing", loaded, matched)
	}
}

// What needs nothing is evaluated for every record, what cannot hold for none.
func TestNeedsOfNothing(t *testing.T) {
	a := newAnchors(nil)
	if n := a.needs(&expr{op: opAnd}, false); n != nil {
		t.Errorf("an AND of nothing needs %+v", n)
	}
	for _, never := range []*need{a.needs(&expr{op: opOr}, false), a.needs(&expr{op: opAnd}, true)} {
		if c := never.choose(nil); len(c.anchors) > 0 || c.cost != 0 {
			t.Errorf("what cannot hold needs %+v", c)
		}
	}
}

// A Set that is shown records fits its index once, and goes on with the same
// Scratch.
func TestObserveFits(t *testing.T) {
	s := compile(t, generatedRules(t, 60)...)
	d := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	before := s.index.Load()
	for n, rec := range generated.Traffic(2*fitAfter, 3) {
		if err := d.Parse(rec); err != nil {
			t.Fatal(err)
		}
		if fitted := s.index.Load() != before; fitted != (n >= fitAfter) {
			t.Fatalf("after %d records, fitted: %v", n, fitted)
		}
		got := s.Match(d, trailSource, &sc, nil)
		if n%20 == 0 || len(got) > 0 {
			if want := naive(s, d, trailSource); !slices.Equal(got, want) {
				t.Fatalf("%s: matches %v, want %v", rec, got, want)
			}
		}
		s.Observe(d)
	}
}

// The corpus' rules match the corpus' events as they do one by one.
func TestCorpusEqualsNaive(t *testing.T) {
	rules := corpusRules(t, "")
	s := compile(t, rules...)
	var traffic Traffic
	d := jsondoc.New(jsondoc.Limits{})
	for _, e := range corpusEvents(t, "stratus", "detonations.ndjson") {
		if err := d.Parse(e); err != nil {
			t.Fatal(err)
		}
		traffic.Observe(d)
	}
	trained := s.Train(&traffic)
	var sc, sc2 Scratch
	matched := 0
	for _, log := range []string{"AWS.CloudTrail", "Okta.SystemLog", "Azure.Audit", "GitHub.Audit", "GCP.AuditLog", "Amazon.EKS.Audit"} {
		for _, e := range corpusEvents(t, "panther", "rule_tests", log+".ndjson") {
			if d.Parse(e) != nil {
				continue
			}
			want := naive(s, d, everything)
			matched += len(want)
			if got := s.Match(d, everything, &sc, nil); !slices.Equal(got, want) {
				t.Errorf("%s: matches %v, want %v", e, got, want)
			}
			if got := trained.Match(d, everything, &sc2, nil); !slices.Equal(got, want) {
				t.Errorf("%s: trained, matches %v, want %v", e, got, want)
			}
		}
	}
	if matched == 0 {
		t.Error("nothing matches")
	}
}

// Addresses are read as net/netip reads them, without allocating.
func TestParseAddr(t *testing.T) {
	cases := []string{"", "1.2.3.4", " 10.0.0.1\t", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.1.1.1", "1..2.3", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:8::", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "fe80::1%eth0", "fe80::1%", "1:2", ":1", "1:", "1:::2", "12345::", "g::", "1::2::3", "ec2.amazonaws.com", "a:b", "1.2.3.4%x", "::ffff:1.2.3.4%x"}
	check := func(text string, fail func(string, ...any)) {
		want, err := netip.ParseAddr(strings.TrimSpace(text))
		got, ok := parseAddr([]byte(text))
		if ok != (err == nil) || ok && got != want.Unmap().WithZone("") {
			fail("%q: %v %v, net/netip has %v %v", text, got, ok, want, err)
		}
	}
	for _, c := range cases {
		check(c, t.Errorf)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"0", "1", "25", "256", "ab", "ffff", ":", ":", "::", ".", ".", "%", "g"}), 0, 16).Draw(t, "parts"), ""), t.Fatalf)
	})
	text := []byte("ec2.amazonaws.com")
	if n := testing.AllocsPerRun(10, func() { parseAddr(text) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Networks inside of each other, next to each other and at the ends.
func TestNetIndex(t *testing.T) {
	nets := map[int32]netip.Prefix{}
	for i, s := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "255.0.0.0/8", "0.0.0.0/32", "2001:db8::/32", "2001:db8:1::/48", "ffff::/16", "::/128"} {
		nets[int32(i)] = netip.MustParsePrefix(s)
	}
	ix := newNetIndex(nets)
	for _, a := range []string{"10.1.2.3", "10.1.2.255", "10.1.3.0", "10.2.255.255", "11.0.0.0", "9.255.255.255", "255.255.255.255", "0.0.0.0", "0.0.0.1", "2001:db8:1::5", "2001:db8:2::", "ffff:ffff::", "::", "::2"} {
		addr := netip.MustParseAddr(a)
		sc := &Scratch{notedAt: make([]uint32, len(nets)), epoch: 1}
		ix.find(sc, addr)
		for id, net := range nets {
			if net.Contains(addr) != slices.Contains(sc.anchors, id) {
				t.Errorf("%s in %s: anchors %v", a, net, sc.anchors)
			}
		}
	}
}

// The sample is bounded and every record has its chance.
func TestTrafficIsBounded(t *testing.T) {
	var traffic Traffic
	d := jsondoc.New(jsondoc.Limits{})
	for i := range 5000 {
		if err := d.Parse(fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("x", i%100*200))); err != nil {
			t.Fatal(err)
		}
		traffic.Observe(d)
	}
	late, bytes := 0, 0
	for _, r := range traffic.records {
		var n int
		if _, err := fmt.Sscanf(string(r), `{"n":%d`, &n); err != nil {
			t.Fatal(err)
		}
		if n >= 2500 {
			late++
		}
		bytes += len(r)
	}
	if traffic.Len() == 0 || traffic.Len() > maxSample || bytes != traffic.bytes || bytes > maxSampleBytes || late == 0 {
		t.Errorf("%d records, %d bytes, %d of the second half", traffic.Len(), bytes, late)
	}
}
