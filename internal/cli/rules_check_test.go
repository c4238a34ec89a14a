package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// checkRules runs rules check on a folder of files and returns the exit code and
// what it printed.
func checkRules(t *testing.T, files map[string]string, args ...string) (code int, out string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	code = Main(context.Background(), append([]string{"rules", "check", dir}, args...), Env{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" },
	})
	return code, strings.ReplaceAll(stdout.String(), dir+"/", "")
}

const goodRule = "title: Good\nid: good\nlogsource: {product: p}\ndetection: {s: {a: 1}, condition: s}\n"

// detecting is a rule whose selection, from line 5 on, is given.
func detecting(selection string) string {
	return "title: Bad\nid: bad\nlogsource: {product: p}\ndetection:\n" + selection + "\n  condition: s\n"
}

// waysTo are correlations, each of eight of the level before and with an alias
// that is for none of them: what asks every way whether it is takes for ever.
func waysTo() string {
	var b strings.Builder
	inner := "good"
	for level := range 12 {
		var names []string
		for i := range 8 {
			name := fmt.Sprintf("l%di%d", level, i)
			names = append(names, name)
			fmt.Fprintf(&b, "---\ntitle: T\nid: %s\ncorrelation:\n  type: event_count\n  rules: [%s]\n  timespan: 1m\n  condition: {gte: 2}\n  aliases: {x: {zz: y}}\n", name, inner)
		}
		inner = strings.Join(names, ", ")
	}
	return b.String()
}

// TestRulesCheckBadInput: whatever is wrong with a file is refused with file and
// line, in bounded time and memory, and the rule beside it is loaded.
func TestRulesCheckBadInput(t *testing.T) {
	const line = "refused +bad.yml:%d +"
	at := func(n int, reason string) string { return fmt.Sprintf(line, n) + ".*" + reason }
	list := func(n int, value string) string { return strings.Repeat("      - "+value+"\n", n) }
	circle := "title: One\nid: one\ncorrelation:\n  type: event_count\n  rules:\n    - two\n  timespan: 1m\n  condition: {gte: 2}\n" +
		"---\ntitle: Two\nid: two\ncorrelation:\n  type: event_count\n  rules:\n    - one\n  timespan: 1m\n  condition: {gte: 2}\n"
	for _, tc := range []struct {
		name, text, want string
		refused          int
		args             []string
	}{
		{"repeats of repeats", detecting("  s: {a|re: '(a{100}){100}'}"), at(5, "invalid repeat"), 1, nil},
		{"a long repeat", detecting("  s: {a|re: '(?:" + strings.Repeat("[ab]x", 600) + "){900}'}"), at(5, "more than 10000 instructions"), 1, nil},
		{"a repeat of an alternation", detecting("  s:\n    a|re: '(?:" + strings.Repeat("ab|cd|", 100) + "e){1,500}'"), at(6, "more than 10000 instructions"), 1, nil},
		{"back-references", detecting(`  s: {a|re: '(a+)\1+$'}`), at(5, "regular expression is not supported"), 1, nil},
		{"look-around", detecting("  s: {a|re: '(?=a)+'}"), at(5, "regular expression is not supported"), 1, nil},
		{"many long repeats", detecting("  s:\n    a|re:\n" + list(2000, "'[ab]{900}'")), at(117, "regular expressions of the file come to more than 200000"), 1, nil},
		{"many wide classes", detecting("  s:\n    a|re|i:\n" + list(19_000, `'[\x{42}-\x{1e942}]'`)), "refused +bad.yml:[0-9]+ +.*come to more than 200000", 1, nil},

		{"a huge alternation", detecting("  s: {a|re: '" + strings.Repeat("abc|", 5000) + "d'}"), at(5, "longer than 8192 bytes"), 1, nil},
		{"a huge list", detecting("  s:\n    a|contains:\n" + list(20_000, "x")), "refused +bad.yml:[0-9]+ +.*more than 20000 values", 1, nil},
		{"a huge condition", "title: Bad\nlogsource: {product: p}\ndetection:\n  s: {a: 1}\n  condition: s" + strings.Repeat(" or s", 5000) + "\n", at(5, "longer than 16384 bytes"), 1, nil},
		{"dashes", detecting("  s:\n    a|windash|base64offset|contains:\n" + list(16, "'-a -b -c -d "+strings.Repeat("x", 60_000)+"'")), at(7, "windash before an encoding gives more than"), 1, nil},
		{"placeholders", detecting("  s: {a|expand: '%x%%x%%x%%x%%x%'}"), at(5, "placeholders give more than 20000 values"), 1, strings.Split("--placeholder=x="+strings.Join(strings.Split("abcdefghijkl", ""), " --placeholder=x="), " ")},

		{"a circle", circle, at(15, "in a circle: one -> two -> one"), 2, nil},
		{"a correlation of itself", strings.ReplaceAll(strings.SplitN(circle, "---", 2)[0], "- two", "- one"), at(6, "in a circle: one -> one"), 1, nil},
		{"too many ways", waysTo(), "refused +bad.yml:[0-9]+ +.*the alias x is for", 12 * 8, nil},

		{"an unknown modifier", detecting("  s:\n    a|nosuch: 1"), at(6, `unknown modifier "nosuch"`), 1, nil},
		{"a duplicate id", strings.Replace(detecting("  s: {a: 1}"), "id: bad", "id: good", 1), "refused +good.yml:1 +good +its id is taken by the rule at bad.yml:1", 1, nil},
		{"a duplicate id of a correlation", "title: C\nid: good\ncorrelation:\n  type: event_count\n  rules: [good]\n  timespan: 1m\n  condition: {gte: 2}\n", at(1, "its id is taken by the rule at good.yml:1"), 1, nil},

		{"over a MiB", goodRule + strings.Repeat("#", 1<<20), at(5, "larger than 1048576 bytes"), 1, nil},
		{"many documents", strings.Repeat("---\na: b\n", 2000), "refused +bad.yml:[0-9]+ +.*more than 1000 documents", 1001, nil},

		{"aliases of aliases", "title: Bomb\n" + bomb() + "logsource: {product: p}\n", "refused +bad.yml:[0-9]+ +.*more than 20000 values .uses of aliases counted.", 1, nil},
		{"aliases in a correlation", bomb() + "title: Bomb\ncorrelation:\n  type: event_count\n  rules: *h\n", "refused +bad.yml:[0-9]+ +.*more than 20000 values", 1, nil},
		{"an alias of itself", "title: Bomb\nx-a: &a [*a]\n", "refused +bad.yml:2 ", 1, nil},
		{"an alias of nothing", "title: Bomb\nx-a: *a\n", "refused +bad.yml:2 ", 1, nil},
		{"a merge", "title: Bomb\nx-a: &a {b: c}\nx-b: {<<: *a}\n", at(3, "merge keys are not supported"), 1, nil},
		{"deep", "title: Deep\nx-a: " + strings.Repeat("[", 500_000) + "\n", "refused +bad.yml:2 ", 1, nil},
		{"deep and closed", "title: Deep\nx-a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n", at(2, "nests deeper than 32"), 1, nil},
		{"many values", "title: Many\nx-a: [" + strings.Repeat("1,", 500_000) + "]\n", at(2, "more than 20000 values"), 1, nil},

		{"not UTF-8", "title: Bad\nid: bad\nauthor: Ren\xe9\n", at(3, "not UTF-8"), 1, nil},
		{"UTF-16", "\xff\xfet\x00i\x00t\x00l\x00e\x00", at(1, "not UTF-8"), 1, nil},
		{"a control character", "title: Bad\nid: \x01\n", at(2, "control character U.0001"), 1, nil},
		{"nothing", "", at(1, "holds no rule"), 1, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			code, out := checkRules(t, map[string]string{"good.yml": goodRule, "bad.yml": tc.text}, tc.args...)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			// All that was taken, much of which was free again at once: a bound on the
			// most at a time.
			if mib := (after.TotalAlloc - before.TotalAlloc) >> 20; mib > 600 || took > time.Minute {
				t.Errorf("it took %d MiB and %s", mib, took)
			}
			if code != ExitBad {
				t.Errorf("exit code %d", code)
			}
			if !regexp.MustCompile("(?m)^" + tc.want).MatchString(out) {
				t.Errorf("want %s in\n%.3000s", tc.want, out)
			}
			if last := fmt.Sprintf("\n1 loaded, %d refused\n", tc.refused); !strings.HasSuffix(out, last) {
				t.Errorf("want %q at the end of\n%s", last, out[max(0, len(out)-3000):])
			}
		})
	}
}

// bomb is eight mappings, the last of which reads as 10^7 values.
func bomb() string {
	var b strings.Builder
	b.WriteString("x-a: &a [1,1,1,1,1,1,1,1,1,1]\n")
	for c := 'b'; c <= 'h'; c++ {
		fmt.Fprintf(&b, "x-%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	return b.String()
}

// TestRulesCheckCounts: rules, filters and correlations are counted one by one, and
// what they need of each other decides what is refused.
func TestRulesCheckCounts(t *testing.T) {
	corr := func(id, rule string) string {
		return "---\ntitle: C " + id + "\nid: " + id + "\ncorrelation:\n  type: event_count\n  rules: [" + rule + "]\n  timespan: 1m\n  condition: {gte: 2}\n"
	}
	filter := "---\ntitle: F\nlogsource: {product: p}\nfilter: {rules: [good], f: {b: 1}, condition: f}\n"
	for _, tc := range []struct{ name, text, last string }{
		{"a rule", goodRule, "1 loaded, 0 refused"},
		{"a rule, its filter and its correlation", goodRule + filter + corr("c", "good"), "3 loaded, 0 refused"},
		{"a filter of nobody is loaded, with a note", goodRule + strings.Replace(filter, "[good]", "[nobody]", 1), "2 loaded, 0 refused"},
		{"a filter that is wrong", goodRule + strings.Replace(filter, "condition: f", "condition: g", 1), "1 loaded, 1 refused"},
		{"a correlation of nobody", goodRule + corr("c", "nobody"), "1 loaded, 1 refused"},
		{"a correlation with two mistakes is one", goodRule + strings.Replace(corr("c", "nobody"), "[nobody]", "[nobody, neither]", 1), "1 loaded, 1 refused"},
		{"a correlation of one that is refused", goodRule + corr("c", "nobody") + corr("d", "c"), "1 loaded, 2 refused"},
		{"a rule with two mistakes is one", goodRule + "---\ntitle: Bad\nlevel: none\nlogsource: {product: p}\ndetection: {s: {a|x: 1, b|y: 2}, condition: s}\n", "1 loaded, 1 refused"},
		{"a correlation of a rule that is refused", "title: Bad\nid: good\nlogsource: {product: p}\ndetection: {s: {a|x: 1}, condition: s}\n" + corr("c", "good"), "0 loaded, 2 refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out := checkRules(t, map[string]string{"r.yml": tc.text})
			lines := strings.Split(out, "\n")
			if n := len(lines); n < 2 || lines[n-1] != "" || lines[n-2] != tc.last {
				t.Errorf("want %q as the last line of\n%s", tc.last, out)
			}
			if want := strings.HasSuffix(tc.last, " 0 refused"); (code == ExitOK) != want {
				t.Errorf("exit code %d", code)
			}
		})
	}
}
