package sigma

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// A slow interpreter of rules, written from the specification and the package
// comment without the engine's code: it decodes rule and record into maps and
// evaluates every part, each time. The property test below holds the engine to
// it.

type refItem struct {
	field     string
	modifiers []string
	values    []any
}

func refRule(text string) (map[string][][]refItem, string, error) {
	var doc struct {
		Detection yaml.Node
	}
	if err := yaml.Load([]byte(text), &doc); err != nil {
		return nil, "", err
	}
	out := map[string][][]refItem{}
	condition := ""
	d := doc.Detection
	for i := 0; i < len(d.Content); i += 2 {
		name, body := d.Content[i].Value, d.Content[i+1]
		if name == "condition" {
			condition = body.Value
			continue
		}
		maps := []*yaml.Node{body}
		if body.Kind == yaml.SequenceNode && body.Content[0].Kind == yaml.MappingNode {
			maps = body.Content
		} else if body.Kind != yaml.MappingNode {
			out[name] = [][]refItem{{{values: refValues(body)}}}
			continue
		}
		for _, m := range maps {
			var and []refItem
			for k := 0; k < len(m.Content); k += 2 {
				parts := strings.Split(m.Content[k].Value, "|")
				and = append(and, refItem{parts[0], parts[1:], refValues(m.Content[k+1])})
			}
			out[name] = append(out[name], and)
		}
	}
	return out, condition, nil
}

func refValues(n *yaml.Node) []any {
	var v any
	if err := n.Decode(&v); err != nil {
		panic(err)
	}
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// refFind returns the values of a field, arrays spread, and whether it is there.
func refFind(v any, segs []string) (found []any, there bool) {
	if l, ok := v.([]any); ok {
		if len(segs) == 0 {
			there = true
		}
		for _, e := range l {
			f, t := refFind(e, segs)
			found, there = append(found, f...), there || t
		}
		return found, there
	}
	if len(segs) == 0 {
		return []any{v}, true
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	for n := 1; n <= len(segs); n++ {
		if e, ok := m[strings.Join(segs[:n], ".")]; ok {
			return refFind(e, segs[n:])
		}
	}
	return nil, false
}

func refTexts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case bool:
		return []string{strconv.FormatBool(v)}
	case json.Number:
		f, _ := v.Float64()
		return []string{v.String(), strconv.FormatFloat(f, 'g', -1, 64)}
	case nil:
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return []string{string(b)}
}

// refPattern turns a Sigma string into a regular expression.
func refPattern(s string, before, after, cased bool) *regexp.Regexp {
	re := ""
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		switch {
		case rs[i] == '\\' && i+1 < len(rs) && strings.ContainsRune(`*?\`, rs[i+1]):
			i++
			re += regexp.QuoteMeta(string(rs[i]))
		case rs[i] == '*':
			re += ".*"
		case rs[i] == '?':
			re += "."
		default:
			re += regexp.QuoteMeta(string(rs[i]))
		}
	}
	if before {
		re = ".*" + re
	}
	if after {
		re += ".*"
	}
	flags := "(?is)"
	if cased {
		flags = "(?s)"
	}
	return regexp.MustCompile(flags + "^" + re + "$")
}

// refSpellings gives every way to write a value's dashes.
func refSpellings(s string) []string {
	rs := []rune(s)
	out := []string{""}
	word := func(i int) bool {
		return i >= 0 && i < len(rs) && (rs[i] == '_' || rs[i] >= '0' && rs[i] <= '9' || rs[i] >= 'a' && rs[i] <= 'z' || rs[i] >= 'A' && rs[i] <= 'Z')
	}
	for i, r := range rs {
		ways := []string{string(r)}
		if strings.ContainsRune("-/–—―", r) && word(i+1) && !word(i-1) {
			ways = []string{"-", "/", "–", "—", "―"}
		}
		var next []string
		for _, o := range out {
			for _, w := range ways {
				next = append(next, o+w)
			}
		}
		out = next
	}
	return out
}

func refNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	case string:
		if strings.ContainsAny(v, "xXnNiI_pP") {
			return 0, false
		}
		f, err := strconv.ParseFloat(v, 64)
		return f, err == nil
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func refItemHolds(it refItem, record any, placeholders map[string][]string) bool {
	has := func(m string) bool { return slices.Contains(it.modifiers, m) }
	vals, there := refFind(record, strings.Split(it.field, "."))
	one := func(want any) bool {
		if has("exists") {
			return there == want.(bool)
		}
		if want == nil {
			return slices.Contains(vals, nil) || !there
		}
		for _, op := range []string{"lt", "lte", "gt", "gte", "hour"} {
			if !has(op) {
				continue
			}
			n, _ := refNumber(want)
			return slices.ContainsFunc(vals, func(v any) bool {
				f, ok := refNumber(v)
				if op == "hour" {
					s, _ := v.(string)
					at, err := time.Parse(time.RFC3339, s)
					return err == nil && at.Hour() == int(n)
				}
				return ok && map[string]bool{"lt": f < n, "lte": f <= n, "gt": f > n, "gte": f >= n}[op]
			})
		}
		if has("cidr") {
			_, network, err := net.ParseCIDR(want.(string))
			if err != nil {
				panic(err)
			}
			return slices.ContainsFunc(vals, func(v any) bool {
				s, _ := v.(string)
				ip := net.ParseIP(s)
				return ip != nil && network.Contains(ip)
			})
		}
		if has("re") {
			flags := ""
			if has("i") {
				flags = "(?i)"
			}
			re := regexp.MustCompile(flags + want.(string))
			return slices.ContainsFunc(vals, func(v any) bool {
				t := refTexts(v)
				return len(t) > 0 && re.MatchString(t[0])
			})
		}
		if has("fieldref") {
			others, _ := refFind(record, strings.Split(want.(string), "."))
			for _, v := range vals {
				for _, o := range others {
					for _, a := range refTexts(v) {
						for _, b := range refTexts(o) {
							// Only two numbers are compared by value.
							_, n1 := v.(json.Number)
							_, n2 := o.(json.Number)
							if (!n1 || !n2) && (a != refTexts(v)[0] || b != refTexts(o)[0]) {
								continue
							}
							if strings.EqualFold(a, b) {
								return true
							}
						}
					}
				}
			}
			return false
		}
		text, ok := want.(string)
		if !ok {
			text = refTexts(json.Number(fmt.Sprint(want)))[0]
			if b, is := want.(bool); is {
				text = strconv.FormatBool(b)
			}
		}
		texts := []string{text}
		if has("expand") {
			texts = nil
			for _, v := range placeholders["p"] {
				texts = append(texts, strings.ReplaceAll(text, "%p%", v))
			}
		}
		if has("windash") {
			var all []string
			for _, t := range texts {
				all = append(all, refSpellings(t)...)
			}
			texts = all
		}
		if has("wide") {
			for i, t := range texts {
				var b []byte
				for _, u := range utf16.Encode([]rune(t)) {
					b = append(b, byte(u), byte(u>>8))
				}
				texts[i] = string(b)
			}
		}
		if has("base64") {
			for i, t := range texts {
				texts[i] = base64.StdEncoding.EncodeToString([]byte(t))
			}
		}
		if has("base64offset") {
			var all []string
			for _, t := range texts {
				for i := range 3 {
					e := base64.StdEncoding.EncodeToString([]byte(strings.Repeat(" ", i) + t))
					all = append(all, e[[]int{0, 2, 3}[i]:len(e)-[]int{0, 3, 2}[(len(t)+i)%3]])
				}
			}
			texts = all
		}
		for _, t := range texts {
			if it.field == "" {
				if refKeyword(record, refPattern(t, true, true, has("cased"))) {
					return true
				}
				continue
			}
			re := refPattern(t, has("contains") || has("endswith"), has("contains") || has("startswith"), has("cased"))
			for _, v := range vals {
				got := refTexts(v)
				// A number's second text counts only where all of it is compared.
				if len(got) > 1 && (has("contains") || has("startswith") || has("endswith") || strings.ContainsAny(t, "*?")) {
					got = got[:1]
				}
				if slices.ContainsFunc(got, re.MatchString) {
					return true
				}
			}
		}
		return false
	}
	yes := slices.ContainsFunc(it.values, one)
	if has("all") {
		yes = !slices.ContainsFunc(it.values, func(v any) bool { return !one(v) })
	}
	return yes != has("neq")
}

func refKeyword(v any, re *regexp.Regexp) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if re.MatchString(k) || refKeyword(e, re) {
				return true
			}
		}
		return false
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return refKeyword(e, re) })
	}
	t := refTexts(v)
	return len(t) > 0 && re.MatchString(t[0])
}

// refCondition evaluates a condition by rewriting it until one word is left.
func refCondition(cond string, sels map[string]bool) bool {
	names := []string{}
	for n := range sels {
		names = append(names, n)
	}
	of := regexp.MustCompile(`(1|all) of (\S+)`)
	cond = of.ReplaceAllStringFunc(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(cond), func(s string) string {
		m := of.FindStringSubmatch(s)
		yes := m[1] == "all"
		for _, n := range names {
			if m[2] == "them" && !strings.HasPrefix(n, "_") || m[2] != "them" && regexp.MustCompile("^"+strings.ReplaceAll(m[2], "*", ".*")+"$").MatchString(n) {
				if m[1] == "all" {
					yes = yes && sels[n]
				} else {
					yes = yes || sels[n]
				}
			}
		}
		return strings.ToUpper(strconv.FormatBool(yes))
	})
	words := strings.Fields(cond)
	for i, w := range words {
		if v, ok := sels[w]; ok {
			words[i] = strings.ToUpper(strconv.FormatBool(v))
		}
	}
	s := strings.Join(words, " ")
	for {
		next := s
		for _, r := range [][2]string{{"( TRUE )", "TRUE"}, {"( FALSE )", "FALSE"}, {"not TRUE", "FALSE"}, {"not FALSE", "TRUE"}} {
			next = strings.ReplaceAll(next, r[0], r[1])
		}
		if next == s { // and binds closer than or
			next = regexp.MustCompile(`(TRUE|FALSE) and (TRUE|FALSE)`).ReplaceAllStringFunc(s, func(m string) string {
				return strings.ToUpper(strconv.FormatBool(m == "TRUE and TRUE"))
			})
		}
		if next == s {
			// An or is due where nothing that binds closer stands beside it.
			at := regexp.MustCompile(`(^|\( )(TRUE|FALSE) or (TRUE|FALSE)`).FindStringSubmatchIndex(s)
			if at != nil && !strings.HasPrefix(s[at[1]:], " and") {
				yes := strings.Contains(s[at[0]:at[1]], "TRUE")
				next = s[:at[3]] + strings.ToUpper(strconv.FormatBool(yes)) + s[at[1]:]
			}
		}
		if next == s {
			break
		}
		s = next
	}
	switch strings.TrimSpace(s) {
	case "TRUE":
		return true
	case "FALSE":
		return false
	}
	panic("condition left as " + s)
}

func refMatch(text, record string, placeholders map[string][]string) (bool, error) {
	sels, cond, err := refRule(text)
	if err != nil {
		return false, err
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(record)))
	dec.UseNumber()
	var rec any
	if err := dec.Decode(&rec); err != nil {
		return false, err
	}
	holds := map[string]bool{}
	for name, or := range sels {
		holds[name] = slices.ContainsFunc(or, func(and []refItem) bool {
			return !slices.ContainsFunc(and, func(it refItem) bool { return !refItemHolds(it, rec, placeholders) })
		})
	}
	return refCondition(cond, holds), nil
}

// refItems are items for random rules; F stands for a field.
var refItems = []string{
	"F: ab", "F: AB", "F: 'a*'", "F: '*b'", "F: 'a?'", "F: '*'", "F: ''", "F: null", "F: 5", "F: '5'", "F: 1.5", "F: true", "F: 'true'", `F: 'a\*'`, `F: 'c:\\*'`, `F: 'c:\x'`, "F: ä", "F: 'a*b?'",
	"F: [ab, b, 5]", "F: ['a*', 'x']", "F|contains: a", "F|contains: ['ab', '-e']", "F|contains|all: [a, b]", "F|startswith: a", "F|endswith: b", "F|startswith: ['A', '5']", "F|endswith: ''", "F|contains: 5",
	"F|cased: ab", "F|cased: AB", "F|contains|cased: A", "F|neq: ab", "F|neq: [ab, 5]", "F|contains|neq: a", "F|neq: null", "F|all: [ab, b]",
	"F|re: '^a'", "F|re: 'B$'", "F|re|i: 'B$'", "F|re: ['^5', 'x']", "F|re|neq: a",
	"F|cidr: 10.0.0.0/8", "F|cidr: '2001:db8::/32'", "F|cidr: [192.168.0.0/16, 10.0.0.0/9]", "F|cidr|neq: 10.0.0.0/8",
	"F|exists: true", "F|exists: false", "F|lt: 5", "F|lte: 5", "F|gt: 1.5", "F|gte: 5", "F|gt|neq: 3", "F|hour: 3", "F|hour: [3, 4]",
	"F|fieldref: a", "F|fieldref: b", "F|fieldref|neq: n.d", "F|fieldref: [a, b]",
	"F|windash|contains: ' -e'", "F|windash: '-e /f'", "F|windash|contains|all: [' -e', ' /f']", "F|base64: ab", "F|base64offset|contains: abcd", "F|wide|base64offset|contains: ab",
	"F|expand: '%p%'", "F|expand|contains: 'a%p%'", "'|all': [a, b]", "'': ab", "'|cased': AB",
}

var (
	refFields = []string{"a", "b", "n.d", "n.x.y", "k.l"}
	refConds  = []string{"s", "not s", "s and t", "s or t", "s and not t", "not (s or t)", "s or t and u", "(s or t) and u", "not s and t or u", "1 of them", "all of them", "1 of s*", "all of s*", "not 1 of s* and t", "s or not (t and not u)"}
	refLeaves = []string{`"ab"`, `"AB"`, `"a"`, `"b"`, `"abb"`, `"a*"`, `"c:\\x"`, `"Ä"`, `""`, `null`, `5`, `5.0`, `"5"`, `1.5`, `15`, `-1`, `true`, `false`, `"TRUE"`, `[]`, `{}`, `{"ab":"b"}`,
		`"10.1.2.3"`, `"10.200.0.1"`, `"192.168.1.1"`, `"2001:db8::1"`, `"10.1.2"`, `"2024-01-02T03:04:05Z"`, `"2024-01-02T04:04:05+02:00"`, `"x -e"`, `"x /e -f"`, `"–e ―f"`, `"-e /f"`, `"YWI="`, `"xxYWJjZAyy"`, `"eGFiY2R5"`, `"eABhAGIAeQA="`, `"p1"`, `"ap2"`}
)

func refValue(t *rapid.T) string {
	v := rapid.SampledFrom(refLeaves).Draw(t, "value")
	switch rapid.IntRange(0, 5).Draw(t, "shape") {
	case 0:
		return "[" + v + "," + rapid.SampledFrom(refLeaves).Draw(t, "value") + "]"
	case 1:
		return "[[" + v + "]]"
	}
	return v
}

func TestSetAgainstReference(t *testing.T) {
	placeholders := map[string][]string{"p": {"p1", "p*"}}
	matchedOnce, missedOnce := false, false
	rapid.Check(t, func(t *rapid.T) {
		var rules []*Rule
		var texts []string
		for i := range rapid.IntRange(1, 12).Draw(t, "rules") {
			text := fmt.Sprintf("id: r%d\ntitle: T\nlogsource: {product: p}\ndetection:\n", i)
			for _, name := range []string{"s", "s2", "t", "u"} {
				item := func() string {
					return strings.Replace(rapid.SampledFrom(refItems).Draw(t, "item"), "F", rapid.SampledFrom(refFields).Draw(t, "field"), 1)
				}
				switch rapid.IntRange(0, 4).Draw(t, "kind") {
				case 0:
					a, b := item(), item()
					text += "    " + name + ":\n        - " + a + "\n        - " + b + "\n"
				case 1:
					a, b := item(), item()
					if strings.SplitN(a, ":", 2)[0] == strings.SplitN(b, ":", 2)[0] {
						b = "zz: null"
					}
					text += "    " + name + ":\n        " + a + "\n        " + b + "\n"
				case 2:
					text += "    " + name + ": [ab, '5', 'x*e']\n"
				default:
					text += "    " + name + ":\n        " + item() + "\n"
				}
			}
			text += "    condition: " + rapid.SampledFrom(refConds).Draw(t, "condition") + "\n"
			rs, errs := Parse("t.yml", []byte(text), Options{Placeholders: placeholders})
			if len(errs) > 0 {
				t.Fatalf("%v\n%s", errs, text)
			}
			rules, texts = append(rules, rs...), append(texts, text)
		}
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		d := jsondoc.New(jsondoc.Limits{})
		var sc Scratch
		for range 4 {
			var members []string
			for _, k := range []string{`"a":%s`, `"b":%s`, `"n":{"d":%s,"x":{"y":5}}`, `"k.l":%s`, `"z":[{"q":%s}]`} {
				if rapid.Bool().Draw(t, "there") {
					members = append(members, fmt.Sprintf(k, refValue(t)))
				}
			}
			record := "{" + strings.Join(members, ",") + "}"
			if err := d.Parse([]byte(record)); err != nil {
				t.Fatal(err)
			}
			got := s.Match(d, everything, &sc, nil)
			for i := range rules {
				want, err := refMatch(texts[i], record, placeholders)
				if err != nil {
					t.Fatal(err)
				}
				matchedOnce, missedOnce = matchedOnce || want, missedOnce || !want
				if slices.Contains(got, i) != want {
					t.Fatalf("the engine says %v, the reference %v\n%s%s", !want, want, texts[i], record)
				}
			}
		}
	})
	if !matchedOnce || !missedOnce {
		t.Error("the random rules never matched, or always")
	}
}
