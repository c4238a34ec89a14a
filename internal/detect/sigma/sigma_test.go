package sigma

import (
	"encoding/json"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// ruleText makes a rule of a detection section, which is indented by it.
func ruleText(detection string) string {
	return "title: T\nlogsource: {product: p}\ndetection:\n" + indent(detection)
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ") + "\n"
}

func parseOne(t testing.TB, text string, opts Options) *Rule {
	t.Helper()
	rules, errs := Parse("t.yml", []byte(text), opts)
	if len(errs) > 0 {
		t.Fatalf("%v\n%s", errs[0], text)
	}
	if len(rules) != 1 {
		t.Fatalf("%d rules", len(rules))
	}
	return rules[0]
}

func compile(t testing.TB, rules ...*Rule) *Set {
	t.Helper()
	s, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parseDoc(t testing.TB, s string) *jsondoc.Doc {
	t.Helper()
	d := jsondoc.New(jsondoc.Limits{})
	if err := d.Parse([]byte(s)); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return d
}

var everything = Logsource{All: true}

func matches(t testing.TB, s *Set, record string) bool {
	t.Helper()
	d := parseDoc(t, record)
	got := s.Match(d, everything, nil, nil)
	if x := s.Explain(d, 0); x.Matched != (len(got) == 1) {
		t.Errorf("%s: Match says %v, Explain %v", record, got, x.Matched)
	}
	return len(got) == 1
}

// Each case is one item of a selection, and records that it must and must not
// match.
func TestItems(t *testing.T) {
	for _, tc := range []struct {
		item    string
		yes, no []string
	}{
		// Plain strings.
		{`f: abc`, []string{`{"f":"abc"}`, `{"f":"ABC"}`, `{"f":["x","Abc"]}`, `{"f":[["abc"]]}`},
			[]string{`{"f":"abcd"}`, `{"f":"xabc"}`, `{"f":""}`, `{"f":null}`, `{}`, `{"f":{"abc":"abc"}}`, `{"F":"x","f":"y"}`, `{"F":"abc","f":"y"}`, `{"f":[]}`}},
		{`eventType: abc`, []string{`{"eventtype":"abc"}`, `{"EventType":"abc"}`}, []string{`{"event_type":"abc"}`, `{"eventtype":"abc","eventType":"x"}`}},
		{`f: 'ÄÖß Σ'`, []string{`{"f":"äöß σ"}`, `{"f":"ÄÖß ς"}`, `{"f":"\u00c4\u00d6\u00df \u03a3"}`}, []string{`{"f":"aoss s"}`}},
		{`f: 'Kelvin s'`, []string{`{"f":"\u212aelvin \u017f"}`}, nil},
		{`f|cased: aBc`, []string{`{"f":"aBc"}`}, []string{`{"f":"abc"}`, `{"f":"ABC"}`}},
		{`f|cased|contains: Bc`, []string{`{"f":"aBcd"}`}, []string{`{"f":"abcd"}`}},
		{`f|contains|cased: Bc`, []string{`{"f":"aBcd"}`}, []string{`{"f":"abcd"}`}},
		{`f: ''`, []string{`{"f":""}`, `{"f":["a",""]}`}, []string{`{}`, `{"f":null}`, `{"f":" "}`, `{"f":[]}`, `{"f":0}`, `{"f":{}}`}},
		// Wildcards and escapes.
		{`f: a*c`, []string{`{"f":"ac"}`, `{"f":"AxxC"}`, `{"f":"a\nc"}`, `{"f":"acac"}`}, []string{`{"f":"acb"}`, `{"f":"bac"}`}},
		{`f: 'a?c'`, []string{`{"f":"axc"}`, `{"f":"aäc"}`, `{"f":"a😀c"}`}, []string{`{"f":"ac"}`, `{"f":"axxc"}`}},
		{`f: '?'`, []string{`{"f":"x"}`, `{"f":"ß"}`, `{"f":7}`}, []string{`{"f":""}`, `{"f":"xy"}`}},
		{`f: 'a*b?d*'`, []string{`{"f":"axxbcd"}`, `{"f":"abbxdzz"}`, `{"f":"abxbxd"}`}, []string{`{"f":"abd"}`, `{"f":"xabcd"}`}},
		{`f: '*a?c'`, []string{`{"f":"zzabc"}`, `{"f":"abcabc"}`}, []string{`{"f":"abcz"}`, `{"f":"bc"}`}},
		{`f: '*?aa*'`, []string{`{"f":"aaa"}`, `{"f":"xaab"}`}, []string{`{"f":"aa"}`}},
		{`f: '??'`, []string{`{"f":"ab"}`}, []string{`{"f":"a"}`, `{"f":"abc"}`}},
		{`f: 'ab*ba'`, []string{`{"f":"abba"}`, `{"f":"abxba"}`}, []string{`{"f":"aba"}`}},
		{`f: '*'`, []string{`{"f":"x"}`, `{"f":""}`, `{"f":0}`, `{"f":false}`, `{"f":{}}`}, []string{`{}`, `{"f":null}`, `{"f":[]}`}},
		{`f: 'C:\Windows\*'`, []string{`{"f":"c:\\windows*"}`}, []string{`{"f":"c:\\windows\\x"}`}},
		{`f: 'C:\Windows\\*'`, []string{`{"f":"c:\\windows\\x"}`, `{"f":"C:\\Windows\\"}`}, []string{`{"f":"c:\\windows"}`}},
		{`f: 'a\\\*b'`, []string{`{"f":"a\\*b"}`}, []string{`{"f":"a\\xb"}`, `{"f":"a\\\\b"}`}},
		{`f: 'a\b'`, []string{`{"f":"a\\b"}`}, []string{`{"f":"ab"}`, `{"f":"a\\\\b"}`}},
		{`f: 'a\\b'`, []string{`{"f":"a\\b"}`}, []string{`{"f":"a\\\\b"}`}},
		{`f: '\\\\srv'`, []string{`{"f":"\\\\srv"}`}, []string{`{"f":"\\srv"}`}},
		{`f: '\\\srv'`, []string{`{"f":"\\\\srv"}`}, []string{`{"f":"\\srv"}`}},
		{`f: 'a\?'`, []string{`{"f":"a?"}`}, []string{`{"f":"ab"}`}},
		{`f: 'a\'`, []string{`{"f":"a\\"}`}, []string{`{"f":"a"}`}},
		// Positions.
		{`f|contains: bc`, []string{`{"f":"aBCd"}`, `{"f":"bc"}`, `{"f":{"k":"abcd"}}`, `{"f":{"bc":1}}`, `{"f":[{"k":"xbc"}]}`}, []string{`{"f":"b c"}`, `{}`, `{"f":null}`}},
		{`f|contains: 'b*d'`, []string{`{"f":"abcde"}`, `{"f":"bd"}`}, []string{`{"f":"ab"}`}},
		{`f|contains: '*bc'`, []string{`{"f":"abcd"}`}, []string{`{"f":"b"}`}},
		{`f|contains: 5`, []string{`{"f":1523}`, `{"f":"a5"}`}, []string{`{"f":1}`}},
		{`f|contains: ''`, []string{`{"f":""}`, `{"f":"x"}`}, []string{`{}`, `{"f":null}`}},
		{`f|startswith: ab`, []string{`{"f":"ABc"}`, `{"f":"ab"}`}, []string{`{"f":"xab"}`, `{"f":"a"}`}},
		{`f|endswith: ab`, []string{`{"f":"cAB"}`, `{"f":"ab"}`}, []string{`{"f":"abx"}`}},
		{`f|endswith: '\cmd.exe'`, []string{`{"f":"C:\\Windows\\CMD.exe"}`}, []string{`{"f":"xcmd.exe"}`}},
		{`f|startswith: 'a?c'`, []string{`{"f":"abcd"}`}, []string{`{"f":"acd"}`}},
		{`f|contains|all: [a, b]`, []string{`{"f":"xbxa"}`, `{"f":["a","b"]}`}, []string{`{"f":"a"}`, `{"f":["a","c"]}`}},
		{`f|all|contains: [a, b]`, []string{`{"f":"ab"}`}, []string{`{"f":"a"}`}},
		{`f|contains: [a, b]`, []string{`{"f":"xa"}`, `{"f":"xb"}`}, []string{`{"f":"c"}`}},
		{`f: [a, 'b*', 3]`, []string{`{"f":"A"}`, `{"f":"bbb"}`, `{"f":3}`, `{"f":"3"}`}, []string{`{"f":"aa"}`, `{"f":33}`}},
		{`f|all: [a, b]`, []string{`{"f":["b","a"]}`}, []string{`{"f":"a"}`}},
		// Text of objects, with escapes resolved.
		{`f|contains: '"s3:GetObject"'`, []string{`{"f":{"doc":"{\"Action\":\"s3:GetObject\"}"}}`}, []string{`{"f":{"doc":"as3:GetObject"}}`}},
		// Numbers and bools.
		{`f: 5`, []string{`{"f":5}`, `{"f":"5"}`, `{"f":5.0}`, `{"f":0.5e1}`, `{"f":[4,5]}`}, []string{`{"f":55}`, `{"f":"5.0"}`, `{"f":5.5}`, `{"f":true}`, `{"f":-5}`, `{"f":null}`}},
		{`f: '5'`, []string{`{"f":5}`, `{"f":"5"}`, `{"f":5.0}`}, []string{`{"f":50}`}},
		{`f: 1.5`, []string{`{"f":1.5}`, `{"f":1.50}`, `{"f":"1.5"}`}, []string{`{"f":1}`, `{"f":15}`}},
		{`f: '1.50'`, []string{`{"f":1.50}`, `{"f":"1.50"}`}, []string{`{"f":1.5}`}},
		{`f: 0x17`, []string{`{"f":23}`, `{"f":"0x17"}`}, []string{`{"f":17}`}},
		// As it is written in the rule, too: account ids begin with 0, versions end with it.
		{`f: 012345678901`, []string{`{"f":"012345678901"}`}, []string{`{"f":"112345678901"}`}},
		{`f: 0123`, []string{`{"f":"0123"}`}, []string{`{"f":"123x"}`}},
		{`f: 1.10`, []string{`{"f":"1.10"}`, `{"f":1.1}`, `{"f":"1.1"}`}, []string{`{"f":"1.100"}`}},
		{`f: [1.10, 7]`, []string{`{"f":"1.10"}`, `{"f":7}`}, []string{`{"f":1}`}},
		// Whole numbers that no float holds equal themselves alone.
		{`f: 12345678901234567890`, []string{`{"f":12345678901234567890}`, `{"f":"12345678901234567890"}`}, []string{`{"f":12345678901234567891}`, `{"f":"12345678901234567891"}`}},
		{`f: -123456789012345678901234567890`, []string{`{"f":-123456789012345678901234567890}`}, []string{`{"f":-123456789012345678901234567891}`, `{"f":123456789012345678901234567890}`}},
		{`f: '0x17'`, []string{`{"f":"0x17"}`}, []string{`{"f":23}`}},
		{`f: 9007199254740993`, []string{`{"f":9007199254740993}`}, []string{`{"f":9007199254740992}`}},
		{`f: true`, []string{`{"f":true}`, `{"f":"true"}`, `{"f":"True"}`}, []string{`{"f":false}`, `{"f":1}`, `{}`, `{"f":null}`}},
		{`f|cased: True`, []string{`{"f":true}`, `{"f":"true"}`}, []string{`{"f":"True"}`}},
		{`f: 'True'`, []string{`{"f":true}`, `{"f":"TRUE"}`}, []string{`{"f":false}`}},
		{`f: false`, []string{`{"f":false}`, `{"f":"false"}`}, []string{`{"f":true}`, `{"f":0}`, `{"f":""}`, `{}`}},
		{`f: No`, []string{`{"f":"No"}`, `{"f":"no"}`}, []string{`{"f":false}`}},
		{`f: 2024-01-02`, []string{`{"f":"2024-01-02"}`}, []string{`{"f":"2024-01-02T00:00:00Z"}`}},
		// null, absent, exists.
		{`f: null`, []string{`{}`, `{"f":null}`, `{"f":[1,null]}`, `{"g":1}`}, []string{`{"f":""}`, `{"f":0}`, `{"f":false}`, `{"f":[]}`, `{"f":{}}`, `{"f":"null"}`}},
		{`f:`, []string{`{}`, `{"f":null}`}, []string{`{"f":""}`}},
		{`f: 'null'`, []string{`{"f":"NULL"}`}, []string{`{}`, `{"f":null}`}},
		{`f|neq: null`, []string{`{"f":""}`, `{"f":[]}`}, []string{`{}`, `{"f":null}`}},
		{`f|exists: true`, []string{`{"f":1}`, `{"f":null}`, `{"f":""}`, `{"f":[]}`}, []string{`{}`, `{"g":{"f":1}}`}},
		{`f|exists: false`, []string{`{}`}, []string{`{"f":null}`, `{"f":[]}`}},
		{`a.b|exists: true`, []string{`{"a":{"b":null}}`, `{"a":[{"b":1}]}`, `{"a.b":1}`}, []string{`{"a":{}}`, `{"a":"b"}`}},
		// neq.
		{`f|neq: a`, []string{`{"f":"b"}`, `{}`, `{"f":null}`, `{"f":["b","c"]}`}, []string{`{"f":"A"}`, `{"f":["b","a"]}`}},
		{`f|neq: [a, b]`, []string{`{"f":"c"}`}, []string{`{"f":"a"}`, `{"f":"b"}`}},
		{`f|contains|neq: a`, []string{`{"f":"bcd"}`}, []string{`{"f":"bad"}`}},
		{`f|neq: 5`, []string{`{"f":6}`}, []string{`{"f":5}`, `{"f":"5"}`}},
		// Fields.
		{`a.b.c: x`, []string{`{"a":{"b":{"c":"x"}}}`, `{"a.b":{"c":"x"}}`, `{"a":{"b.c":"x"}}`, `{"a.b.c":"x"}`, `{"a":[{"b":{"c":"y"}},{"b":[{"c":"x"}]}]}`}, []string{`{"a":{"b":"x"}}`, `{"c":"x"}`}},
		{`sp ace.k: x`, []string{`{"sp ace":{"k":"x"}}`}, []string{`{"space":{"k":"x"}}`}},
		{`'a[1].b': x`, []string{`{"a":[{"b":"y"},{"b":"x"}]}`}, []string{`{"a":[{"b":"x"},{"b":"y"}]}`}},
		// Regular expressions.
		{`f|re: 'a.c'`, []string{`{"f":"xabcx"}`, `{"f":["z","abc"]}`}, []string{`{"f":"ABC"}`, `{"f":"a\nc"}`, `{}`, `{"f":null}`}},
		{`f|re|i: 'a.c'`, []string{`{"f":"ABC"}`}, []string{`{"f":"ac"}`}},
		{`f|re|s: 'a.c'`, []string{`{"f":"a\nc"}`}, nil},
		{`f|re|m: '^b$'`, []string{`{"f":"a\nb\nc"}`}, []string{`{"f":"abc"}`}},
		{`f|re|i|s: '^A.C$'`, []string{`{"f":"a\nc"}`}, []string{`{"f":"xa\nc"}`}},
		{`f|re: '^5\d$'`, []string{`{"f":57}`}, []string{`{"f":"5x"}`}},
		{`f|re: 'a\\b\*'`, []string{`{"f":"a\\b*"}`}, []string{`{"f":"ab*"}`}},
		{`f|re: ['^a', '^b']`, []string{`{"f":"bx"}`}, []string{`{"f":"xb"}`}},
		{`f|re|all: ['a', 'b']`, []string{`{"f":"ba"}`}, []string{`{"f":"a"}`}},
		{`f|re|neq: 'a'`, []string{`{"f":"b"}`, `{}`}, []string{`{"f":"a"}`}},
		// Networks.
		{`f|cidr: 10.0.0.0/8`, []string{`{"f":"10.1.2.3"}`, `{"f":"::ffff:10.1.2.3"}`, `{"f":["x","10.0.0.0"]}`}, []string{`{"f":"11.0.0.1"}`, `{"f":"10.1.2"}`, `{"f":"10.1.2.3:80"}`, `{"f":""}`, `{}`, `{"f":"AWS Internal"}`}},
		{`f|cidr: 10.0.0.1/8`, []string{`{"f":"10.9.9.9"}`}, nil},
		{`f|cidr: 192.0.2.7`, []string{`{"f":"192.0.2.7"}`}, []string{`{"f":"192.0.2.8"}`}},
		{`f|cidr: '2001:db8::/32'`, []string{`{"f":"2001:DB8:1::1"}`, `{"f":"2001:db8::1%eth0"}`}, []string{`{"f":"2001:db9::1"}`, `{"f":"10.0.0.1"}`}},
		{`f|cidr: '::ffff:10.0.0.0/104'`, []string{`{"f":"10.1.1.1"}`}, []string{`{"f":"11.1.1.1"}`}},
		{`f|cidr: [10.0.0.0/8, 192.168.0.0/16]`, []string{`{"f":"192.168.3.4"}`}, []string{`{"f":"172.16.0.1"}`}},
		{`f|cidr|neq: 10.0.0.0/8`, []string{`{"f":"8.8.8.8"}`, `{}`}, []string{`{"f":"10.1.1.1"}`}},
		// Comparisons.
		{`f|gt: 5`, []string{`{"f":6}`, `{"f":5.1}`, `{"f":"6"}`, `{"f":[1,7]}`}, []string{`{"f":5}`, `{"f":"x"}`, `{"f":""}`, `{}`, `{"f":null}`, `{"f":true}`}},
		{`f|gte: 5`, []string{`{"f":5}`, `{"f":"5.0"}`}, []string{`{"f":4.99}`}},
		{`f|lt: 5`, []string{`{"f":-6}`, `{"f":"4e0"}`}, []string{`{"f":5}`, `{}`, `{"f":"0x1"}`, `{"f":"-inf"}`, `{"f":"NaN"}`}},
		{`f|lte: 1.5`, []string{`{"f":1.5}`}, []string{`{"f":1.51}`}},
		{`f|gt: 9007199254740992`, []string{`{"f":9007199254740993}`, `{"f":"9007199254740993"}`}, []string{`{"f":9007199254740992}`}},
		{`f|gt|neq: 5`, []string{`{"f":5}`, `{}`}, []string{`{"f":6}`}},
		{`f|lt: [1, 5]`, []string{`{"f":4}`}, []string{`{"f":5}`}},
		// Times.
		{`f|hour: 3`, []string{`{"f":"2024-01-02T03:04:05Z"}`, `{"f":"2024-01-02T03:04:05.678+05:00"}`, `{"f":"2024-01-02 03:04:05"}`, `{"f":1704164645}`, `{"f":1704164645678}`, `{"f":"2024-01-02T03:04Z"}`, `{"f":"1704164645"}`, `{"f":"1704164645678"}`}, []string{`{"f":"2024-01-02T04:04:05Z"}`, `{"f":"x"}`, `{}`, `{"f":"2024-01-02"}`, `{"f":"20240102030405"}`}},
		{`f|minute: 4`, []string{`{"f":"2024-01-02T03:04:05Z"}`, `{"f":"2024-01-02T03:04:05+0000"}`}, []string{`{"f":"2024-01-02T03:05:05Z"}`}},
		{`f|day: 2`, []string{`{"f":"2024-01-02"}`}, []string{`{"f":"2024-01-03"}`}},
		{`f|week: 1`, []string{`{"f":"2024-01-02"}`, `{"f":"2024-12-31"}`}, []string{`{"f":"2023-01-01"}`}},
		{`f|month: [1, 2]`, []string{`{"f":"2024-02-02"}`}, []string{`{"f":"2024-03-03"}`}},
		{`f|year: 2024`, []string{`{"f":"2024-01-03"}`}, []string{`{"f":"2025-01-03"}`}},
		{`f|hour|gte: 22`, []string{`{"f":"2024-01-02T23:04:05Z"}`}, []string{`{"f":"2024-01-02T03:04:05Z"}`}},
		// Field references.
		{`f|fieldref: g.h`, []string{`{"f":"a","g":{"h":"A"}}`, `{"f":5,"g":{"h":"5"}}`, `{"f":["x","y"],"g":[{"h":"y"}]}`, `{"f":5.0,"g":{"h":5}}`}, []string{`{"f":"a","g":{"h":"b"}}`, `{"f":"a"}`, `{"g":{"h":"a"}}`, `{}`, `{"f":null,"g":{"h":null}}`}},
		{`f|fieldref|cased: g`, []string{`{"f":"a","g":"a"}`}, []string{`{"f":"a","g":"A"}`}},
		{`f|fieldref|startswith: g`, []string{`{"f":"abc","g":"AB"}`}, []string{`{"f":"ab","g":"abc"}`}},
		{`f|startswith|fieldref: g`, []string{`{"f":"abc","g":"ab"}`}, []string{`{"f":"xab","g":"ab"}`}},
		{`f|fieldref|endswith: g`, []string{`{"f":"abc","g":"bc"}`}, []string{`{"f":"abc","g":"ab"}`}},
		{`f|fieldref|contains: g`, []string{`{"f":"abc","g":"b"}`}, []string{`{"f":"abc","g":"d"}`}},
		{`f|fieldref|neq: g`, []string{`{"f":"a","g":"b"}`, `{"f":"a"}`}, []string{`{"f":"a","g":"a"}`}},
		{`f|fieldref: [g, h]`, []string{`{"f":"a","h":"a"}`}, []string{`{"f":"a","g":"b"}`}},
		// windash.
		{`f|windash|contains: ' -enc'`, []string{`{"f":"ps -enc x"}`, `{"f":"ps /ENC x"}`, `{"f":"ps –enc"}`, `{"f":"ps —enc"}`, `{"f":"ps ―enc"}`}, []string{`{"f":"ps enc"}`, `{"f":"ps +enc"}`}},
		{`f|contains|windash: '-foo-bar'`, []string{`{"f":"/foo-bar"}`, `{"f":"x-foo-bar"}`}, []string{`{"f":"-foo/bar"}`}},
		{`f|contains|windash: ' /a -b'`, []string{`{"f":"x -a /b"}`, `{"f":"x –a ―b"}`}, []string{`{"f":"x -a b"}`}},
		{`f|windash: '-x'`, []string{`{"f":"/x"}`, `{"f":"-X"}`}, []string{`{"f":"a-x"}`}},
		{`f|windash|endswith: ' -c'`, []string{`{"f":"cmd /c"}`}, []string{`{"f":"cmd /cx"}`}},
		{`f|windash|contains|all: [' -a', ' -b']`, []string{`{"f":"x /b /a"}`}, []string{`{"f":"x /b"}`}},
		// Encodings.
		{`f|base64: foobar`, []string{`{"f":"Zm9vYmFy"}`, `{"f":"zm9vymfy"}`}, []string{`{"f":"foobar"}`}},
		{`f|base64|cased: foobar`, []string{`{"f":"Zm9vYmFy"}`}, []string{`{"f":"zm9vymfy"}`}},
		{`f|base64|contains: foo`, []string{`{"f":"xxZm9vxx"}`}, []string{`{"f":"foo"}`}},
		{`f|base64offset|contains: foobar`, []string{`{"f":"Zm9vYmFy"}`, `{"f":"eGZvb2Jhcng="}`, `{"f":"eHhmb29iYXJ4"}`}, []string{`{"f":"Zm9v"}`}},
		{`f|wide|base64: abc`, []string{`{"f":"YQBiAGMA"}`}, nil},
		{`f|utf16le|base64: abc`, []string{`{"f":"YQBiAGMA"}`}, nil},
		{`f|utf16be|base64: abc`, []string{`{"f":"AGEAYgBj"}`}, nil},
		{`f|utf16|base64: abc`, []string{`{"f":"//5hAGIAYwA="}`}, nil},
		{`f|wide|base64offset|contains: 'ä'`, []string{`{"f":"eADkAHgA"}`}, nil},
		{`f|wide: ab`, []string{`{"f":"a\u0000b\u0000"}`}, []string{`{"f":"ab"}`}},
		{`f|utf16be|contains: ab`, []string{`{"f":"x\u0000a\u0000b"}`}, []string{`{"f":"ab"}`}},
		{`f|utf16: a`, []string{`{"f":"\ufeffa\u0000"}`}, nil},
		{`f|windash|base64: '-a'`, []string{`{"f":"LWE="}`, `{"f":"L2E="}`, `{"f":"4oCTYQ=="}`}, []string{`{"f":"K2E="}`}},
		// Placeholders.
		{`f|expand: '%users%'`, []string{`{"f":"alice"}`, `{"f":"BOB7"}`}, []string{`{"f":"carol"}`, `{"f":"%users%"}`}},
		{`f|contains|expand: 'x%users%y'`, []string{`{"f":"..xalicey.."}`, `{"f":"xbobby"}`}, []string{`{"f":"xy"}`}},
		{`f|expand: '\%plain%users%'`, []string{`{"f":"%plainalice"}`}, []string{`{"f":"alice"}`}},
		{`f|expand: '100% %users%'`, []string{`{"f":"100% alice"}`}, nil},
		{`f|cidr|expand: '%nets%'`, []string{`{"f":"10.1.1.1"}`, `{"f":"192.0.2.1"}`}, []string{`{"f":"8.8.8.8"}`}},
		{`f|re|expand: '^%users%-[0-9]$'`, []string{`{"f":"alice-1"}`, `{"f":"bobby-2"}`}, []string{`{"f":"alice-x"}`, `{"f":"ALICE-1"}`, `{"f":"bo-1"}`}},
		{`f|expand|re|i: '^%users%$'`, []string{`{"f":"ALICE"}`}, []string{`{"f":"alices"}`}},
		{`f|re|expand: '^%nets%$'`, []string{`{"f":"10.0.0.0/8"}`}, []string{`{"f":"10x0.0.0/8"}`}},
		{`f: '%users%'`, []string{`{"f":"%users%"}`}, []string{`{"f":"alice"}`}},
		{`f|expand|all|contains: ['%users%', 'z']`, []string{`{"f":"alice z"}`, `{"f":"z bob1"}`}, []string{`{"f":"alice"}`}},
		{`f|expand: '%users%%users%'`, []string{`{"f":"alicebob"}`}, []string{`{"f":"alice"}`}},
		// Keywords.
		{`'|all': [alpha, beta]`, []string{`{"a":"xAlphax","b":["beta"]}`}, []string{`{"a":"alpha"}`}},
		{`'|contains': [alpha]`, []string{`{"a":{"b":"alphabet"}}`}, []string{`{"a":"alp","b":"ha"}`}},
		{`'|startswith': al`, []string{`{"x":"alpha"}`}, []string{`{"x":"pal"}`}},
		{`'|endswith': ha`, []string{`{"x":"alpha"}`}, []string{`{"x":"hat"}`}},
		{`'|re': '^al.ha$'`, []string{`{"x":["alpha"]}`}, []string{`{"x":"ALPHA"}`, `{"x":"alphas"}`}},
		{`'|cased': Alpha`, []string{`{"x":"an Alpha"}`}, []string{`{"x":"alpha"}`}},
		{`'|neq': alpha`, []string{`{"x":"beta"}`}, []string{`{"x":"alpha"}`}},
	} {
		r := parseOne(t, ruleText("s:\n    "+tc.item+"\ncondition: s"), Options{Placeholders: map[string][]string{"users": {"alice", "bob*"}, "nets": {"10.0.0.0/8", "192.0.2.0/24"}}})
		s := compile(t, r)
		for _, rec := range tc.yes {
			if !matches(t, s, rec) {
				t.Errorf("%s does not match %s", tc.item, rec)
			}
		}
		for _, rec := range tc.no {
			if matches(t, s, rec) {
				t.Errorf("%s matches %s", tc.item, rec)
			}
		}
	}
}

func TestSelections(t *testing.T) {
	for _, tc := range []struct {
		name, detection string
		yes, no         []string
	}{
		{"map is AND", "s: {a: 1, b: 2}\ncondition: s", []string{`{"a":1,"b":2}`}, []string{`{"a":1}`, `{"b":2}`}},
		{"list of maps is OR", "s:\n  - {a: 1, b: 2}\n  - c: 3\ncondition: s", []string{`{"a":1,"b":2}`, `{"c":3}`}, []string{`{"a":1}`}},
		{"keywords", "k: [alpha, 'be*ta', 42]\ncondition: k", []string{`{"x":"an ALPHA male"}`, `{"x":{"y":["be-ta"]}}`, `{"alpha":1}`, `{"x":42}`, `{"x":142.5}`}, []string{`{"x":"be","y":"ta"}`, `{"x":"alph","y":"a"}`}},
		{"one keyword", "k: alpha\ncondition: k", []string{`{"x":"alpha"}`}, []string{`{"x":"beta"}`}},
		{"keyword in a key with escapes", "k: ['image-policy.k8s.io/break-glass', 'a\"b']\ncondition: k", []string{`{"labels":{"image-policy.k8s.io/break-glass":true}}`, `{"x":"a\"b"}`}, []string{`{"x":"image-policy"}`}},
		{"maps and keywords", "s:\n  - a: 1\n  - word\ncondition: s", []string{`{"a":1}`, `{"z":"a word"}`}, []string{`{"a":2}`}},
		{"not", "s: {a: 1}\nf: {b: 2}\ncondition: s and not f", []string{`{"a":1}`, `{"a":1,"b":3}`}, []string{`{"a":1,"b":2}`, `{}`}},
		{"not not", "s: {a: 1}\ncondition: not not s", []string{`{"a":1}`}, []string{`{}`}},
		{"precedence", "a: {a: 1}\nb: {b: 1}\nc: {c: 1}\ncondition: a or b and c", []string{`{"a":1}`, `{"b":1,"c":1}`}, []string{`{"b":1}`, `{"c":1}`}},
		{"precedence of not", "a: {a: 1}\nb: {b: 1}\ncondition: not a and b", []string{`{"b":1}`}, []string{`{"a":1,"b":1}`, `{}`}},
		{"parentheses", "a: {a: 1}\nb: {b: 1}\nc: {c: 1}\ncondition: (a or b) and c", []string{`{"b":1,"c":1}`}, []string{`{"a":1}`}},
		{"not of parentheses", "a: {a: 1}\nb: {b: 1}\ncondition: not (a or b)", []string{`{}`}, []string{`{"a":1}`, `{"b":1}`}},
		{"upper case", "a: {a: 1}\nb: {b: 1}\ncondition: a AND NOT b", []string{`{"a":1}`}, []string{`{"a":1,"b":1}`}},
		{"1 of pattern", "s_a: {a: 1}\ns_b: {b: 1}\nx: {x: 1}\ncondition: 1 of s_*", []string{`{"a":1}`, `{"b":1}`}, []string{`{"x":1}`}},
		{"all of pattern", "s_a: {a: 1}\ns_b: {b: 1}\nx: {x: 1}\ncondition: all of s_*", []string{`{"a":1,"b":1}`}, []string{`{"a":1}`, `{"x":1}`}},
		{"1 of them", "a: {a: 1}\nb: {b: 1}\n_c: {c: 1}\ncondition: 1 of them", []string{`{"a":1}`, `{"b":1}`}, []string{`{"c":1}`}},
		{"all of them", "a: {a: 1}\nb: {b: 1}\n_c: {c: 1}\ncondition: all of them", []string{`{"a":1,"b":1}`}, []string{`{"a":1}`}},
		{"any of", "a: {a: 1}\nb: {b: 1}\ncondition: any of them", []string{`{"b":1}`}, []string{`{}`}},
		{"star alone", "a: {a: 1}\n_b: {b: 1}\ncondition: 1 of *", []string{`{"a":1}`}, []string{`{"b":1}`}},
		{"underscores on purpose", "a: {a: 1}\n_b: {b: 1}\ncondition: 1 of _*", []string{`{"b":1}`}, []string{`{"a":1}`}},
		{"star in the middle", "s_x_1: {a: 1}\ns_y_2: {b: 1}\ns_y_1: {c: 1}\ncondition: 1 of s_*_1", []string{`{"a":1}`, `{"c":1}`}, []string{`{"b":1}`}},
		{"pattern without star", "s: {a: 1}\ns2: {b: 1}\ncondition: 1 of s", []string{`{"a":1}`}, []string{`{"b":1}`}},
		{"not 1 of", "s: {a: 1}\nf_1: {b: 1}\nf_2: {c: 1}\ncondition: s and not 1 of f_*", []string{`{"a":1}`}, []string{`{"a":1,"b":1}`, `{"a":1,"c":1}`}},
		{"not all of", "s: {a: 1}\nf_1: {b: 1}\nf_2: {c: 1}\ncondition: s and not all of f_*", []string{`{"a":1}`, `{"a":1,"b":1}`}, []string{`{"a":1,"b":1,"c":1}`}},
		{"list of conditions", "a: {a: 1}\nb: {b: 1}\ncondition: [a, b]", []string{`{"a":1}`, `{"b":1}`}, []string{`{}`}},
		{"condition over lines", "a: {a: 1}\nb: {b: 1}\ncondition: |\n  a\n  and b", []string{`{"a":1,"b":1}`}, []string{`{"a":1}`}},
		{"names that look like words", "order: {a: 1}\nand-1: {b: 1}\nnothing: {c: 1}\ncondition: order and and-1 or nothing", []string{`{"a":1,"b":1}`, `{"c":1}`}, []string{`{"a":1}`}},
		{"the same field twice", "s: {a|contains: x, a|endswith: y}\ncondition: s", []string{`{"a":"xy"}`}, []string{`{"a":"yx"}`}},
		{"empty or null", "e1: {a: ''}\ne2: {a: null}\ncondition: 1 of e*", []string{`{"a":""}`, `{"a":null}`, `{}`}, []string{`{"a":"x"}`}},
		{"alias", "s: {a: &v [x, y]}\nf: {b: *v}\ncondition: s and f", []string{`{"a":"x","b":"y"}`}, []string{`{"a":"x","b":"z"}`}},
		{"records that are not objects", "s: {a: 1}\ncondition: not s", []string{`5`, `[]`, `"a"`}, []string{`[{"a":1}]`}},
	} {
		s := compile(t, parseOne(t, ruleText(tc.detection), Options{}))
		for _, rec := range tc.yes {
			if !matches(t, s, rec) {
				t.Errorf("%s: no match of %s", tc.name, rec)
			}
		}
		for _, rec := range tc.no {
			if matches(t, s, rec) {
				t.Errorf("%s: match of %s", tc.name, rec)
			}
		}
	}
}

// What is not supported or not sound is refused with its line and reason.
func TestRefusals(t *testing.T) {
	head := "title: T\nlogsource: {product: p}\n"
	det := func(d string) string { return head + "detection:\n" + indent(d) }       // d begins in line 4
	item := func(i string) string { return det("s:\n    " + i + "\ncondition: s") } // i is in line 5
	for _, tc := range []struct {
		text, reason string
		line         int
	}{
		{"title: T\nlogsource:\n\tproduct: p\n", "a tab indents this line", 3},
		{item("a|startwith: b"), `unknown modifier "startwith": did you mean startswith?`, 5},
		{det("s: {a: 1}\nt: {a: 2}\ncondition: selection"), `which detection does not define: it has s, t`, 6},
		{det("s:\n    a|re: (?<!x)y\ncondition: s"), "it looks around", 5},
		{"title: T\n  bad: [", "reading YAML", 2},
		{"- a\n- b\n", "a rule must be a mapping", 1},
		{"", "holds no rule", 1},
		{"---\n---\n", "holds no rule", 1},
		{"title: T\ntitle: U\n", "stands twice", 2},
		{"logsource: {product: p}\ndetection: {s: {a: 1}, condition: s}\n", "no title", 1},
		{"title: T\ndetection: {s: {a: 1}, condition: s}\n", "no logsource", 1},
		{"title: T\nlogsource: {product: p}\n", "no detection", 1},
		{"title: T\nlogsource: {}\ndetection: {s: {a: 1}, condition: s}\n", "names no product", 2},
		{"title: T\nlogsource: {product: p, servcie: x}\ndetection: {s: {a: 1}, condition: s}\n", `unknown key "servcie" in logsource`, 2},
		{"title: T\nlogsource: [p]\ndetection: {s: {a: 1}, condition: s}\n", "logsource must be a mapping", 2},
		{item("a: 1") + "tag: [x]\n", `unknown key "tag": did you mean tags?`, 7},
		{item("a: 1") + "Level: high\n", `unknown key "Level": did you mean level?`, 7},
		{item("a: 1") + "acuse: session\n", "did you mean accuse?", 7},
		{item("a: 1") + "level: severe\n", "must be one of", 7},
		{item("a: 1") + "status: unsupported\n", "status is unsupported", 7},
		{item("a: 1") + "status: good\n", "must be one of", 7},
		{item("a: 1") + "tags: {a: b}\n", "tags must be a list", 7},
		{item("a: 1") + "title2: x\n", "unknown key", 7},
		{item("a: 1") + "id: ''\n", "id must have", 7},
		{item("a: 1") + "confidence: 1.5\n", "confidence must be", 7},
		{item("a: 1") + "confidence: high\n", "confidence must be", 7},
		{item("a: 1") + "confidence: '0.5'\n", "confidence must be", 7},
		{item("a: 1") + "mode: on\n", "must be one of", 7},
		{item("a: 1") + "accuse: [user]\n", `accuse names "user"`, 7},
		{item("a: 1") + "accuse: [session, session]\n", "twice", 7},
		{item("a: 1") + "accuse: []\n", "accuse is empty", 7},
		{item("a: 1") + "accuse:\n  account: {fild: a}\n", "unknown key", 8},
		{item("a: 1") + "accuse:\n  account: {scheme: a}\n", "must name a field", 8},
		{item("a: 1") + "related: [{id: x, type: friend}]\n", "must be one of", 7},
		{item("a: 1") + "related: x\n", "related must be a list", 7},
		{"title: T\ncorrelation: {type: event_count}\n", "correlation rules are not supported here", 2},
		{"action: global\ntitle: T\n", "rule collections", 1},
		{det("s: {a: 1}"), "detection has no condition", 3},
		{"title: T\nlogsource: {product: p}\ndetection: [a]\n", "detection must be a mapping", 3},
		{det("s: {a: 1}\ntimeframe: 5m\ncondition: s"), "timeframe in detection", 5},
		{det("s: {a: 1}\ncondition: s | count() > 5"), "aggregation after |", 5},
		{det("s: {a: 1}\nt: {a: 2}\ncondition: s | near t"), "near operator", 6},
		{det("s: {a: 1}\nt: {a: 2}\ncondition: s near t"), `unexpected "near"`, 6},
		{det("s: {a: 1}\ncondition: s and"), "ends where a selection", 5},
		{det("s: {a: 1}\ncondition: ''"), "condition is empty", 5},
		{det("s: {a: 1}\ncondition:"), "condition must be text", 5},
		{det("s: {a: 1}\ncondition: []"), "list of conditions is empty", 5},
		{det("s: {a: 1}\ncondition: {a: b}"), "condition must be text", 5},
		{det("s: {a: 1}\ncondition:\n  - s\n  - t"), `names "t"`, 7},
		{det("s: {a: 1}\ncondition: (s"), "not closed", 5},
		{det("s: {a: 1}\ncondition: s)"), `unexpected ")"`, 5},
		{det("s: {a: 1}\ncondition: s s"), `unexpected "s"`, 5},
		{det("s: {a: 1}\ncondition: s or t"), `names "t"`, 5},
		{det("s: {a: 1}\ncondition: s*"), "needs \"1 of\"", 5},
		{det("s: {a: 1}\ncondition: 2 of s*"), `"2" of is not supported`, 5},
		{det("s: {a: 1}\ncondition: 1 of t*"), "names no selection", 5},
		{det("_s: {a: 1}\ncondition: 1 of them"), "names no selection", 5},
		{det("s: {a: 1}\ncondition: 1 of"), "ends after", 5},
		{det("s: {a: 1}\ncondition: 1 of (s)"), "needs them or a pattern", 5},
		{det("s: {a: 1}\ncondition: s && s"), "unexpected character '&'", 5},
		{det("s: {a: 1}\ncondition: " + strings.Repeat("(", 100) + "s" + strings.Repeat(")", 100)), "nests deeper", 5},
		{det("s: {a: 1}\ncondition: " + strings.Repeat("not ", 100) + "s"), "nests deeper", 5},
		{det("s: {a: 1}\nnot: {a: 1}\ncondition: s"), "cannot name a selection", 5},
		{det("s: {a: 1}\na b: {a: 1}\ncondition: s"), "cannot name a selection", 5},
		{det("s: {}\ncondition: s"), "empty map", 4},
		{det("s: []\ncondition: s"), "is empty", 4},
		{det("s: ['']\ncondition: s"), "empty keyword", 4},
		{det("s: ['*']\ncondition: s"), "empty keyword", 4},
		{det("s: {'|contains': ''}\ncondition: s"), "empty keyword", 4},
		{det("s: [[a]]\ncondition: s"), "list in a list", 4},
		{det("s: null\ncondition: s"), "null needs a field", 4},
		{item("a: []"), "list of values is empty", 5},
		{item("a: {b: c}"), "map cannot be a field's value", 5},
		{item("a: [[b]]"), "must be plain", 5},
		{item("a:\n        - x\n        - null"), "null cannot be one of several", 7},
		{item("a|contains: null"), "null does not go with contains", 5},
		{item("a|foo: 1"), `unknown modifier "foo"`, 5},
		{item("a|: 1"), "empty modifier", 5},
		{item("a||contains: 1"), "empty modifier", 5},
		{item("a|Contains: 1"), `unknown modifier "Contains"`, 5},
		{item("a|contains|contains: 1"), "stands twice", 5},
		{item("a|contains|startswith: x"), "exclude each other", 5},
		{item("a|i: x"), "flag of re", 5},
		{item("a|re|contains: x"), "does not go with re", 5},
		{item("a|re|cased: x"), "cased does not go with re", 5},
		{item("a|re: '(?=x)'"), "regular expression is not supported", 5},
		{item("a|re: '(a)\\1'"), "regular expression is not supported", 5},
		{item("a|re: '('"), "regular expression is not supported", 5},
		{item("a|re: ''"), "regular expression is empty", 5},
		{item("a|re: 'a{1000}{1000}'"), "regular expression is not supported", 5},
		{item("a|re: " + strings.Repeat("x", 9000)), "longer than 8192 bytes", 5},
		{item("a|re|expand: '%x%'"), "placeholder %x% has no values", 5},
		{item("a|cidr: 10.0.0.0/33"), "not a network", 5},
		{item("a|cidr: 10.0.0.*"), "not a network", 5},
		{item("a|cidr|contains: 10.0.0.0/8"), "does not go with cidr", 5},
		{item("a|exists: 'yes'"), "true or false", 5},
		{item("a|exists: [true, false]"), "takes one bool", 5},
		{item("a|exists|all: true"), "exists goes with neq only", 5},
		{item("'|exists': true"), "needs a field", 5},
		{item("'|gt': 5"), "needs a field", 5},
		{item("a|gt: '5'"), "takes a number", 5},
		{item("a|gt: abc"), "takes a number", 5},
		{item("a|gt: .nan"), "not a number", 5},
		{item("a|gt|lt: 5"), "two comparisons", 5},
		{item("a|gt|hour: 5"), "must stand before", 5},
		{item("a|hour|minute: 5"), "two parts of a time", 5},
		{item("a|gt|contains: 5"), "does not go with", 5},
		{item("a|fieldref: 'x*'"), "without wildcards", 5},
		{item("a|fieldref|base64: x"), "fieldref goes with", 5},
		{item("a|expand: '%nobody%'"), "placeholder %nobody% has no values", 5},
		{item("a|base64: 'a*'"), "wildcards cannot be encoded", 5},
		{item("a|contains|base64: a"), "wildcards cannot be encoded", 5},
		{item("a|base64offset: a"), "too short", 5},
		{item("a|wide: ä"), "needs base64", 5},
		{item("a|windash|base64: '-a -b -c -d -e'"), "more than 625", 5},
		{item("a|windash|base64: '-a -b -c -d " + strings.Repeat("x", 2000) + "'"), "more than 1048576 bytes", 5},
		{item("a|re: '(?:[a-z]+xyz|[0-9]+y){999}'"), "more than 10000 instructions", 5},
		{item("a|re: '(?:abcdefghij){1,}(?:abcdefghijk){999,}'"), "more than 10000 instructions", 5},
		{item("a: !!binary aGk="), "YAML tag", 5},
		{item("a: !own x"), "YAML tag", 5},
		{item("<<: {a: 1}"), "merge keys", 5},
		{item("? [a]\n    : 1"), "a key must be plain text", 5},
		{"title: " + strings.Repeat("x", 300) + "\nlogsource: {product: p}\ndetection: {s: {a: 1}, condition: s}\n", "longer than 256", 1},
		{"title: \xff\n", "not UTF-8", 1},
		{"title: T\nid: a\x00b\n", "control character U+0000", 2},
		{"title: T\n\nid: a\uffffb\n", "control character U+FFFF", 3},
	} {
		rules, errs := Parse("dir/t.yml", []byte(tc.text), Options{})
		if len(rules) != 0 || len(errs) == 0 {
			t.Errorf("not refused: %s", tc.text)
			continue
		}
		ok := false
		for _, e := range errs {
			ok = ok || strings.Contains(e.Reason, tc.reason) && e.Line == tc.line && e.Path == "dir/t.yml"
		}
		if !ok {
			t.Errorf("%s\n  got %v\n want line %d, %q", tc.text, errs, tc.line, tc.reason)
		}
	}
}

// TestBacktracking: patterns that make other engines try without end are linear
// here, so they are not refused.
func TestBacktracking(t *testing.T) {
	for _, re := range []string{"^(a+)+$", "^([a-z]+)*$", "^(a|aa)+$", "^(.*a){20}$"} {
		r := parseOne(t, ruleText("s: {f|re: '"+re+"'}\ncondition: s"), Options{})
		s, err := Compile([]*Rule{r})
		if err != nil {
			t.Fatal(err)
		}
		doc := parseDoc(t, `{"f":"`+strings.Repeat("a", 20_000)+`!"}`)
		began := time.Now()
		if got := s.Match(doc, everything, nil, nil); len(got) > 0 || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %d matches in %s", re, len(got), time.Since(began))
		}
	}
}

// TestLongLists: whoever writes a record chooses how long the lists are that
// fieldref compares, so its time must not grow with their product.
func TestLongLists(t *testing.T) {
	list := func(prefix string, more ...string) string {
		var b strings.Builder
		for i := range 200_000 {
			fmt.Fprintf(&b, `"%s%d",`, prefix, i)
		}
		return "[" + b.String() + strings.Join(append(more, "null"), ",") + "]"
	}
	for _, tc := range []struct {
		item, a, b string
		want       bool
	}{
		{"f|fieldref: g", list("x"), list("y"), false},
		{"f|fieldref: g", list("x", `"Same"`), list("y", `"sAME"`), true},
		{"f|fieldref|cased: g", list("x", `"Same"`), list("y", `"sAME"`), false},
		{"f|fieldref: g", list("x", "1e3"), list("y", "1000"), true},
		{"f|fieldref: g", list("x", "1000"), list("y", `"1000"`), true},
		{"f|fieldref|contains: g", list("x"), list("y"), false},
		{"f|fieldref|contains: g", list("x"), `["X7"]`, true},
		{"f|fieldref|endswith: g", list("x"), "[" + strings.Repeat("null,", 500_000) + "null]", false},
	} {
		s := compile(t, parseOne(t, ruleText("s: {"+tc.item+"}\ncondition: s"), Options{}))
		doc := parseDoc(t, `{"f":`+tc.a+`,"g":`+tc.b+`}`)
		began := time.Now()
		if got := len(s.Match(doc, everything, nil, nil)) == 1; got != tc.want || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %v in %s, want %v", tc.item, got, time.Since(began), tc.want)
		}
	}
}

func TestBounds(t *testing.T) {
	good := ruleText("s: {a: 1}\ncondition: s")
	bomb := "x-a: &a [1,1,1,1,1,1,1,1,1,1]\nx-b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nx-c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nx-d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\nx-e: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n" + good
	for _, tc := range []struct {
		name, text, reason string
		limits             Limits
		placeholders       map[string][]string
	}{
		{"aliases", bomb, "more than 20000 values", Limits{}, nil},
		{"an alias of itself", "x-a: &a [*a]\n" + good, "", Limits{}, nil},
		{"file", good + strings.Repeat("#", 2000), "larger than 1000 bytes", Limits{FileBytes: 1000}, nil},
		{"documents", strings.Repeat(good+"---\n", 5), "more than 3 documents", Limits{Documents: 3}, nil},
		{"depth", "x-a: " + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "\n" + good, "nests deeper than 32", Limits{}, nil},
		{"very deep", "x-a: " + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "\n" + good, "", Limits{}, nil},
		{"values", ruleText("s: {a: [" + strings.Repeat("1,", 100) + "]}\ncondition: s"), "more than 50 values", Limits{Values: 50}, nil},
		{"a value", ruleText("s: {a: " + strings.Repeat("x", 200) + "}\ncondition: s"), "longer than 100 bytes", Limits{ValueBytes: 100}, nil},
		{"a condition", ruleText("s: {a: 1}\ncondition: s" + strings.Repeat(" or s", 100)), "condition is longer than 100", Limits{ConditionBytes: 100}, nil},
		{"regular expressions", ruleText("s:\n  a|re:\n" + strings.Repeat("    - 'a{900}'\n", 20) + "condition: s"), "come to more than 10000", Limits{Regexes: 10_000}, nil},
		{"wide ranges", ruleText("s:\n  a|re:\n" + strings.Repeat("    - '[a-\\x7f\\x{100}-ſ]'\n", 6) + "condition: s"), "come to more than 10000", Limits{Regexes: 10_000}, nil},
		{"what modifiers make", ruleText("s:\n  a|base64offset|contains:\n" + strings.Repeat("    - abcdefghijklmnopqrstuvwxyz\n", 20) + "condition: s"), "make more than 1500 bytes", Limits{MadeBytes: 1500}, nil},
		{"what placeholders make", ruleText("s: {a|expand: '%x%" + strings.Repeat("y", 1000) + "'}\ncondition: s"), "make more than 90000 bytes", Limits{MadeBytes: 90_000}, map[string][]string{"x": strings.Split(strings.Repeat("a,", 99)+"a", ",")}},
		{"placeholders of a value", ruleText("s: {a|expand: '" + strings.Repeat("%x%", 101) + "'}\ncondition: s"), "more than 100 placeholders", Limits{}, map[string][]string{"x": {"a"}}},
		{"placeholders", ruleText("s: {a|expand: '%x%%x%%x%%x%'}\ncondition: s"), "placeholders give more than", Limits{}, map[string][]string{"x": strings.Split(strings.Repeat("a,", 99)+"a", ",")}},
		{"repeated selections", ruleText("s:\n  a|contains: [" + strings.Repeat("x,", 9999) + "x]\ncondition: s" + strings.Repeat(" or s", 100)), "repeats its selections", Limits{}, nil},
	} {
		rules, errs := Parse("t.yml", []byte(tc.text), Options{Limits: tc.limits, Placeholders: tc.placeholders})
		if len(errs) == 0 {
			t.Errorf("%s: not refused (%d rules)", tc.name, len(rules))
			continue
		}
		if !strings.Contains(errs[0].Reason, tc.reason) {
			t.Errorf("%s: got %v", tc.name, errs)
		}
	}
}

func TestRuleMetadata(t *testing.T) {
	r := parseOne(t, `title: A title
id: 11111111-2222-4333-8444-555555555555
name: a_name
related:
  - {id: x, type: derived}
taxonomy: sigma
status: stable
description: |
  Two
  lines
license: MIT
author: A, B
references: [https://example.com]
date: 2024-01-02
modified: 2024-02-03
logsource: {product: aws, service: cloudtrail, definition: on}
detection:
  s: {a: 1}
  condition: s
fields: [a, b]
falsepositives: [none known]
level: high
tags: [attack.initial-access, attack.t1078.004, attack.T1110, attack.g0001, cve.2024-1, atlas.AML.T0012, owasp-nhi.nhi5, owasp-agentic.asi03]
scope: [server]
accuse:
  account: userIdentity.arn
  session: {field: sid, scheme: session-id}
mode: shadow
x-mine: {anything: [goes]}
simulation: []
`, Options{})
	want := Rule{ID: "11111111-2222-4333-8444-555555555555", HasID: true, Name: "a_name", Title: "A title", Path: "t.yml", Line: 1, Author: "A, B",
		License: "MIT", Level: "high", Status: "stable", Description: "Two\nlines", Taxonomy: "sigma", Date: "2024-01-02", Modified: "2024-02-03",
		Confidence: 0.75, Accuse: []Accusation{{"account", "userIdentity.arn", ""}, {"session", "sid", "session-id"}}, Mode: "shadow",
		Logsource: Logsource{Product: "aws", Service: "cloudtrail"},
		Tags:      []string{"attack.initial-access", "attack.t1078.004", "attack.T1110", "attack.g0001", "cve.2024-1", "atlas.AML.T0012", "owasp-nhi.nhi5", "owasp-agentic.asi03"}, Techniques: []string{"T1078.004", "T1110"},
		Frameworks:     []string{"atlas.aml.t0012", "owasp-nhi.nhi5", "owasp-agentic.asi03"},
		FalsePositives: []string{"none known"}, References: []string{"https://example.com"}, Fields: []string{"a", "b"}, Scope: []string{"server"}}
	got, _ := json.Marshal(r)
	exp, _ := json.Marshal(want)
	if string(got) != string(exp) {
		t.Errorf("got  %s\nwant %s", got, exp)
	}

	base := "title: T\nlogsource: {product: p}\ndetection: {s: {a: 1}, condition: s}\n"
	if r := parseOne(t, base+"reference: x\nreferences: [y]\n", Options{}); fmt.Sprint(r.References) != "[x y]" {
		t.Errorf("references %v", r.References)
	}
	for extra, conf := range map[string]float64{"": 0.25, "level: informational\n": 0.10, "level: low\n": 0.25, "level: medium\n": 0.5, "level: high\n": 0.75, "level: critical\n": 0.9, "level: low\nconfidence: 0.99\n": 0.99, "confidence: 0\n": 0, "confidence: 1\n": 1} {
		if r := parseOne(t, base+extra, Options{}); r.Confidence != conf {
			t.Errorf("%q: confidence %v, want %v", extra, r.Confidence, conf)
		}
	}
	if r := parseOne(t, base+"accuse: [session, credential]\n", Options{}); fmt.Sprint(r.Accuse) != "[{session  } {credential  }]" || r.ID != "t.yml: T" || r.HasID {
		t.Errorf("got %v %q", r.Accuse, r.ID)
	}
	if r := parseOne(t, base+"accuse: account\n", Options{}); len(r.Accuse) != 1 || r.Accuse[0].Kind != KindAccount {
		t.Errorf("got %v", r.Accuse)
	}
}

func TestLoad(t *testing.T) {
	one := func(title, id string) string {
		s := "title: " + title + "\n"
		if id != "" {
			s += "id: " + id + "\n"
		}
		return s + "logsource: {product: p}\ndetection: {s: {a: 1}, condition: s}\n"
	}
	fsys := fstest.MapFS{
		"b/two.yaml":    {Data: []byte(one("Two", "2") + "---\n" + one("Three", "3") + "---\n" + "title: broken\n---\n" + one("Four", ""))},
		"a/one.yml":     {Data: []byte(one("One", "1"))},
		"a/dup.yml":     {Data: []byte("# first in order\n" + one("Dup", "1"))},
		"README.md":     {Data: []byte("not a rule")},
		"c/bad.yml":     {Data: []byte("title: [\n")},
		"c/half.YML":    {Data: []byte(one("Half", "5") + "---\ntitle: }\n")},
		"d/noext":       {Data: []byte(one("NoExt", "6"))},
		"e/large.yml":   {Data: []byte("\n\n" + strings.Repeat("#", DefaultMaxFileBytes))},
		"f/comment.yml": {Data: []byte("# nothing\n")},
	}
	ids := func(rules []*Rule) string {
		var l []string
		for _, r := range rules {
			l = append(l, r.ID)
		}
		return strings.Join(l, ",")
	}
	rules, errs := Load(fsys, Options{})
	if got := ids(rules); got != "1,2,3,b/two.yaml: Four,5" {
		t.Errorf("rules %s", got)
	}
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		`b/two.yaml:11: rule "b/two.yaml: broken": the rule has no logsource`, `b/two.yaml:11: rule "b/two.yaml: broken": the rule has no detection`,
		"c/bad.yml:", "c/half.YML:", "e/large.yml:3: the file is larger", "f/comment.yml:1: the file holds no rule",
		`a/one.yml:1: rule "1": its id is taken by the rule at a/dup.yml:2`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if len(errs) != 7 {
		t.Errorf("%d errors:\n%s", len(errs), all)
	}
	rules, errs = Load(fsys, Options{}, "d/noext", "a")
	if ids(rules) != "1,6" || len(errs) != 1 {
		t.Errorf("roots: %s %v", ids(rules), errs)
	}
	if _, errs = Load(fsys, Options{}, "missing"); len(errs) != 1 || errs[0].Path != "missing" {
		t.Errorf("missing root: %v", errs)
	}
	if _, errs = Load(fsys, Options{Limits: Limits{Files: 2}}); len(errs) == 0 || !strings.Contains(fmt.Sprint(errs), "more than 2 rule files") {
		t.Errorf("files: %v", errs)
	}
	if _, errs = LoadPath("no/such/path", Options{}); len(errs) != 1 {
		t.Errorf("got %v", errs)
	}

	// What two paths lead to is read once.
	l := LoadSources(Options{}, Source{Path: "x", FS: fsys, Roots: []string{"a/one.yml"}}, Source{Path: "x", FS: fsys, Roots: []string{"a/one.yml", "d/noext"}})
	if ids(l.Rules) != "1,6" || len(l.Errors) > 0 || len(l.Files) != 2 {
		t.Errorf("a file twice: %s %v %v", ids(l.Rules), l.Files, l.Errors)
	}

	a, b := parseOne(t, one("A", "1"), Options{}), parseOne(t, one("B", "1"), Options{})
	if _, err := Compile([]*Rule{a, b}); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("got %v", err)
	}
	if _, err := Compile([]*Rule{{ID: "x"}}); err == nil {
		t.Error("a rule that was not loaded compiled")
	}
}

func TestLogsources(t *testing.T) {
	trail := Logsource{Product: "aws", Service: "cloudtrail"}
	for _, tc := range []struct {
		record, rule Logsource
		want         bool
	}{
		{trail, trail, true},
		{trail, Logsource{Product: "AWS"}, true},
		{trail, Logsource{Service: "cloudtrail"}, true},
		{trail, Logsource{Product: "aws", Service: "guardduty"}, false},
		{trail, Logsource{Product: "azure"}, false},
		{trail, Logsource{Category: "process_creation"}, false},
		{trail, Logsource{Product: "aws", Category: "x"}, true},
		{Logsource{}, trail, false},
		{Logsource{All: true}, trail, true},
	} {
		if got := tc.record.Covers(tc.rule); got != tc.want {
			t.Errorf("%v covers %v: %v", tc.record, tc.rule, got)
		}
	}
	mk := func(id, ls string) *Rule {
		return parseOne(t, "title: T\nid: "+id+"\nlogsource: "+ls+"\ndetection: {s: {a: 1}, condition: s}\n", Options{})
	}
	s := compile(t, mk("a", "{product: aws}"), mk("b", "{product: okta}"), mk("c", "{product: aws, service: cloudtrail}"))
	if n, ok := s.Index("c"); n != 2 || !ok {
		t.Errorf("index of c is %d %v", n, ok)
	}
	if _, ok := s.Index("d"); ok {
		t.Error("a rule that is not there has a number")
	}
	d := parseDoc(t, `{"a":1}`)
	var sc Scratch
	for ls, want := range map[Logsource]string{trail: "[0 2]", {Product: "okta", Service: "okta"}: "[1]", everything: "[0 1 2]", {Product: "x"}: "[]"} {
		for range 2 {
			if got := fmt.Sprint(s.Match(d, ls, &sc, []int{})); got != want {
				t.Errorf("%v: %s, want %s", ls, got, want)
			}
		}
	}
}

func TestHash(t *testing.T) {
	mk := func(id, detection, extra string) *Rule {
		return parseOne(t, "id: "+id+"\n"+ruleText(detection)+extra, Options{Placeholders: map[string][]string{"p": {"v"}}})
	}
	det := "s: {a: [x, y], b|contains: z}\ncondition: s"
	a, b := mk("1", det, ""), mk("2", "s: {c|expand: '%p%'}\ncondition: s", "")
	h := compile(t, a, b).Hash()
	if h != compile(t, b, a).Hash() {
		t.Error("the order of rules changes the hash")
	}
	if h != compile(t, mk("1", "# comment\ns: {b|contains: z, a: [y, x]}\ncondition: s", "author: someone\n"), b).Hash() {
		t.Error("layout changes the hash")
	}
	if h != compile(t, mk("1", "# comment\ns:\n  a:\n    - x\n    - y\n  b|contains: z\ncondition: s", "author: someone\n"), b).Hash() {
		t.Error("layout changes the hash")
	}
	for _, c := range []*Rule{mk("1", "s: {a: [x, z], b|contains: z}\ncondition: s", ""), mk("1", "s: {a: [x, y], b|startswith: z}\ncondition: s", ""),
		mk("1", "s: {a: [x, y], b|contains: z}\ncondition: not s", ""), mk("1", det, "level: high\n"), mk("1", det, "mode: enforce\n"), mk("1", det, "accuse: [session]\n"), mk("3", det, "")} {
		if compile(t, c, b).Hash() == h {
			t.Error("another rule has the same hash")
		}
	}
	o := parseOne(t, "id: 2\n"+ruleText("s: {c|expand: '%p%'}\ncondition: s"), Options{Placeholders: map[string][]string{"p": {"w"}}})
	if compile(t, a, o).Hash() == h {
		t.Error("another placeholder has the same hash")
	}
}

func TestExplain(t *testing.T) {
	s := compile(t, parseOne(t, ruleText("s:\n  eventName|contains: [Create, Delete]\n  n|gt: 3\nf_1:\n  ip|cidr: 10.0.0.0/8\nf_2:\n  a|fieldref: b\ncondition: s and not 1 of f_*"), Options{}))
	x := s.Explain(parseDoc(t, `{"eventName":"CreateUser","n":[1,9],"ip":"8.8.8.8","a":"x","b":"y"}`), 0)
	got, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"rule":"t.yml: T","path":"t.yml","line":1,"condition":["s and not 1 of f_*"],"logsource":{"product":"p"},"matched":true,"tree":{"op":"and","result":true,"children":[` +
		`{"op":"selection","result":true,"line":5,"selection":"s","children":[{"op":"and","result":true,"line":5,"children":[` +
		`{"op":"or","result":true,"line":5,"children":[{"op":"item","result":true,"line":5,"field":"eventName","modifier":"contains","wanted":["Create"],"found":["\"CreateUser\""],"present":true},` +
		`{"op":"item","result":false,"line":5,"field":"eventName","modifier":"contains","wanted":["Delete"],"found":["\"CreateUser\""],"present":true}]},` +
		`{"op":"item","result":true,"line":6,"field":"n","modifier":"gt","wanted":["3"],"found":["1","9"],"present":true}]}]},` +
		`{"op":"not","result":true,"children":[{"op":"or","result":false,"children":[` +
		`{"op":"selection","result":false,"line":8,"selection":"f_1","children":[{"op":"item","result":false,"line":8,"field":"ip","modifier":"cidr","wanted":["10.0.0.0/8"],"found":["\"8.8.8.8\""],"present":true}]},` +
		`{"op":"selection","result":false,"line":10,"selection":"f_2","children":[{"op":"item","result":false,"line":10,"field":"a","modifier":"fieldref","wanted":["b","= \"y\""],"found":["\"x\""],"present":true}]}]}]}]}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	long := `{"eventName":[` + strings.Repeat(`"`+strings.Repeat("ü", 300)+`",`, 20) + `1]}`
	n := s.Explain(parseDoc(t, long), 0).Tree.Children[0].Children[0].Children[0].Children[0]
	if len(n.Found) != maxFound+1 || n.Found[maxFound] != "… and 11 more" || len(n.Found[0]) > maxFoundBytes+3 || !utf8.ValidString(n.Found[0]) {
		t.Errorf("found is not shortened: %q", n.Found)
	}
}

// Globs agree with the regular expressions that say the same.
func TestGlobAgainstRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pat := rapid.SliceOfN(rapid.SampledFrom([]string{"*", "?", "a", "b", "ab", "ä", "K", "\u212a", `\*`, `\\`}), 0, 8).Draw(t, "pattern")
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ä", "A", "Ä", "k", "*", `\`, "\n"}), 0, 10).Draw(t, "text"), "")
		p := parsePattern(strings.Join(pat, ""))
		re := "(?is)^"
		for _, e := range p {
			switch e.kind {
			case elemStar:
				re += ".*"
			case elemAny:
				re += "."
			default:
				re += regexp.QuoteMeta(e.text)
			}
		}
		want := regexp.MustCompile(re + "$").MatchString(text)
		q := patternPred("f", p, false)
		v := value{kind: jsondoc.String, text: []byte(text)}
		if got := q.holds(new(Scratch), &v); got != want {
			t.Fatalf("%q on %q: %v, want %v", strings.Join(pat, ""), text, got, want)
		}
		g := newGlob(parsePattern(foldString(strings.Join(pat, ""))))
		if got := g.match([]byte(foldString(text))); got != want {
			t.Fatalf("glob %q on %q: %v, want %v", strings.Join(pat, ""), text, got, want)
		}
	})
}

// The text that is looked for before a regular expression runs never hides a
// match.
func TestRequiredText(t *testing.T) {
	for re, want := range map[string]string{
		`.+:assumed-role/aws:.+`: ":assumed-role/aws:", `(?i)AbC.d`: "abc", `a|b`: "", `(abc)+x`: "abc", `(abc)*x`: "x", `(?:ab){2,3}`: "ab", `(ab)?`: "", `^$`: "", `[ab]cd`: "cd", `(?i)\x{212a}x`: "kx",
	} {
		tree, err := syntax.Parse(re, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := requiredText(tree); got != want {
			t.Errorf("%s: %q, want %q", re, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		re := rapid.SampledFrom([]string{"", "(?i)", "(?s)", "(?im)"}).Draw(t, "flags") + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "B", "k", ".", "(ab)+", "(b)*", "(a|b)", "[ab]", "x?", "^", "$", "s{2}", "(?i:K)", "ſ"}), 1, 6).Draw(t, "re"), "")
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "A", "B", "k", "K", "\u212a", "s", "ſ", "x", "ab", "\n"}), 0, 8).Draw(t, "text"), "")
		c, err := regexp.Compile(re)
		if err != nil {
			t.Skip("the parts do not make a regular expression")
		}
		left := DefaultMaxRegexes
		p := &ruleParser{limits: Limits{}.withDefaults(), regexes: &left}
		m := modifiers{re: true}
		q, err := p.regex("f", m, re)
		if err != nil {
			t.Fatal(err)
		}
		v := value{kind: jsondoc.String, text: []byte(text)}
		if got, want := q.holds(new(Scratch), &v), c.MatchString(text); got != want {
			t.Fatalf("%s on %q: %v, want %v", re, text, got, want)
		}
	})
}

func TestFoldAgainstEqualFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.String().Draw(t, "a")
		b := rapid.OneOf(rapid.Just(strings.ToUpper(a)), rapid.Just(strings.ToLower(a)), rapid.String()).Draw(t, "b")
		if got, want := foldString(a) == foldString(b), strings.EqualFold(a, b); got != want {
			t.Fatalf("%q and %q: %v, want %v", a, b, got, want)
		}
	})
}

// Whatever rules are together in a Set, and however its scratch was used
// before, each gives what it gives alone, evaluated part by part.
func TestSetAgainstSingleRules(t *testing.T) {
	items := []string{"a: x", "a: [x, y]", "a|contains: x", "a|neq: x", "b: 5", "b|gt: 3", "c: null", "c|exists: true", "a|startswith: x", "a|re: '^x'", "a|fieldref: b", "d.e: [x, 5]", "'|all': [x]", "a|cased: X", "c: true"}
	conds := []string{"s", "not s", "s and f", "s or f", "s and not f", "1 of them", "all of them", "not (s and f)"}
	vals := []string{`"x"`, `"X"`, `"y"`, `"xy"`, `5`, `5.0`, `"5"`, `null`, `true`, `[]`, `["x",5]`, `{"e":"x"}`, `[{"e":5}]`, `""`}
	rapid.Check(t, func(t *rapid.T) {
		var rules []*Rule
		for i := range rapid.IntRange(1, 70).Draw(t, "rules") {
			text := fmt.Sprintf("id: r%d\n", i) + ruleText("s:\n    "+rapid.SampledFrom(items).Draw(t, "s")+"\nf:\n    "+rapid.SampledFrom(items).Draw(t, "f")+"\ncondition: "+rapid.SampledFrom(conds).Draw(t, "cond"))
			rs, errs := Parse("t.yml", []byte(text), Options{})
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			rules = append(rules, rs...)
		}
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		var sc Scratch
		d := jsondoc.New(jsondoc.Limits{})
		for range 5 {
			rec := "{"
			for i, k := range []string{"a", "b", "c", "d"} {
				if rapid.Bool().Draw(t, k) {
					if len(rec) > 1 {
						rec += ","
					}
					rec += fmt.Sprintf("%q:%s", k, rapid.SampledFrom(vals).Draw(t, fmt.Sprint(i)))
				}
			}
			rec += "}"
			if err := d.Parse([]byte(rec)); err != nil {
				t.Fatal(err)
			}
			got := map[int]bool{}
			last := -1
			for _, i := range s.Match(d, everything, &sc, nil) {
				if i <= last {
					t.Fatal("the numbers are not in order")
				}
				got[i], last = true, i
			}
			for i := range rules {
				if want := s.Explain(d, i).Matched; want != got[i] {
					t.Fatalf("%s: rule %d (%v): %v, want %v", rec, i, rules[i].conditions, got[i], want)
				}
			}
		}
	})
}

func FuzzCondition(f *testing.F) {
	for _, s := range []string{"a", "a and not b", "1 of a*", "all of them", "not (a or b) and c", "((a", "a | count() > 5", "1 of", "*", "a\x00", "not not a", "1 of _*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names := []string{"a", "b", "c", "_d", "ab", "1"}
		e, err := parseCondition(s, names)
		if (e == nil) == (err == nil) {
			t.Fatal("neither or both of an expression and an error")
		}
		if e != nil {
			var walk func(*expr)
			walk = func(e *expr) {
				if e.op == opRef && (e.ref < 0 || e.ref >= len(names)) || e.op == opNot && len(e.kids) != 1 || e.op < opNot && len(e.kids) < 2 {
					t.Fatalf("a bad node %+v", e)
				}
				for _, k := range e.kids {
					walk(k)
				}
			}
			walk(e)
		}
	})
}

func FuzzRule(f *testing.F) {
	f.Add([]byte(ruleText("s: {a|contains|all: [x, 'y*?'], b: null}\nk: [word]\ncondition: s and not 1 of k*")))
	f.Add([]byte(ruleText("s:\n  - a|re|i: 'x.*'\n  - b|cidr: 10.0.0.0/8\n  - c|base64offset|contains: abc\n  - d|fieldref: e\ncondition: [s, not s]")))
	f.Add([]byte(ruleText("s: {a|windash|contains: ' -x', t|hour|gt: 3, u|wide|base64: z, '|all': [k, l]}\ncondition: all of them") + "accuse: {account: {field: a, scheme: b}}\nconfidence: 0.5\n---\ntitle: U\ncorrelation: {}\n"))
	f.Add([]byte("x-a: &a [*a]\ntitle: &t T\n<<: *t\n"))
	f.Add([]byte("title: T\n---\n%YAML 1.2\n---\n!!map {? a : b}\n"))
	f.Add([]byte(ruleText("s: {a: 1}\ncondition: s") + "id: r\ntaxonomy: ecs\n---\ntitle: F\ntaxonomy: ecs\nlogsource: {product: p}\nfilter: {rules: [r], s: {a: x}, condition: not s}\n---\ntitle: G\nlogsource: {product: p}\nfilter: {rules: any, s: {b: x}, t: [w], condition: s and not t}\n"))
	f.Add([]byte(ruleText("s: {a.b: 1, c|fieldref: d}\ncondition: s") + "taxonomy: ocsf\nx-y: z\nown: 1\n"))
	pipe, err := ParsePipeline("p.yaml", []byte("v: 1\nfrom: ecs\nplaceholders: {q: [v, w]}\nmaps: [{logsource: {product: p}, prefix: x., fields: {a: [a, b], c: d}}]\n"))
	if err != nil {
		f.Fatal(err)
	}
	docs := []*jsondoc.Doc{parseDoc(f, `{"a":"xy -x","b":null,"c":[1,"word",{"d":true}],"t":"2024-01-02T03:04:05Z"}`), parseDoc(f, `5`)}
	f.Fuzz(func(t *testing.T, data []byte) {
		rules, errs := Parse("f.yml", data, Options{Placeholders: map[string][]string{"p": {"v"}}, Pipelines: []*Pipeline{pipe}, Limits: Limits{FileBytes: 64 << 10}})
		for _, e := range errs {
			if e.Reason == "" || e.Path != "f.yml" || !utf8.ValidString(e.Error()) && utf8.Valid(data) {
				t.Fatalf("a poor error: %+v", e)
			}
		}
		rules, _ = uniqueIDs(rules)
		s, err := Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range docs {
			got := map[int]bool{}
			for _, i := range s.Match(d, everything, nil, nil) {
				got[i] = true
			}
			for i, r := range rules {
				if x := s.Explain(d, i); !r.Mapped() && x.Matched != got[i] {
					t.Fatalf("Match and Explain disagree on rule %d", i)
				}
			}
		}
	})
}

func FuzzPipeline(f *testing.F) {
	for _, s := range []string{
		"v: 1\nfrom: ecs\nto: sigma\nplaceholders: {a: [b]}\nmaps:\n  - {logsource: {product: p}, becomes: {service: s}, prefix: x., fields: {a: b, c: [d, e]}}\n",
		"v: 1\nmaps: [{fields: {a: }}]\n", "v: 1\nx: &a [*a]\n", "v: 1\nmaps: [{fields: {a: [[b]]}}]\n",
	} {
		f.Add([]byte(s))
	}
	text := []byte(ruleText("s: {a: 1, c|fieldref: a}\ncondition: s") + "taxonomy: ecs\n")
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePipeline("p.yaml", data)
		if (p == nil) == (err == nil) {
			t.Fatal("neither or both of a pipeline and an error")
		}
		if p == nil {
			return
		}
		rules, errs := Parse("t.yml", text, Options{Pipelines: []*Pipeline{p}})
		if (len(rules) == 0) == (len(errs) == 0) {
			t.Fatalf("%d rules, %v", len(rules), errs)
		}
	})
}
