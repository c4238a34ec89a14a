package jsondoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func mustParse(t testing.TB, s string) *Doc {
	t.Helper()
	d := New(Limits{})
	if err := d.Parse([]byte(s)); err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	return d
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct {
		in     string
		offset int
		reason string
	}{
		{``, 0, "unexpected end"},
		{`  `, 2, "unexpected end"},
		{`{`, 1, "unexpected end"},
		{`{"a`, 3, "unexpected end"},
		{`{"a"`, 4, "unexpected end"},
		{`{"a":`, 5, "unexpected end"},
		{`{"a":1`, 6, "unexpected end"},
		{`{"a":1,`, 7, "unexpected end"},
		{`[1,`, 3, "unexpected end"},
		{`[1`, 2, "unexpected end"},
		{`tru`, 3, "unexpected end"},
		{`"a\`, 3, "unexpected end"},
		{`-`, 1, "unexpected end"},
		{`1.`, 2, "unexpected end"},
		{`1e+`, 3, "unexpected end"},
		{`trux`, 0, "expected true"},
		{`nul `, 0, "expected null"},
		{`{a:1}`, 1, "expected a key"},
		{`{"a":1,}`, 7, "expected a key"},
		{`{"a" 1}`, 5, "expected ':'"},
		{`{"a":1 "b":2}`, 7, "expected ',' or '}'"},
		{`[1 2]`, 3, "expected ',' or ']'"},
		{`[1,]`, 3, "a value cannot begin with ']'"},
		{`[,1]`, 1, "a value cannot begin with ','"},
		{`[1}`, 2, "expected ',' or ']'"},
		{`{"a":1]`, 6, "expected ',' or '}'"},
		{`01`, 1, "leading zero"},
		{`-01`, 2, "leading zero"},
		{`1.x`, 2, "expected a digit"},
		{`1ex`, 2, "expected a digit"},
		{`+1`, 0, "cannot begin with '+'"},
		{`.5`, 0, "cannot begin"},
		{`1 2`, 2, "after the value"},
		{`{}{}`, 2, "after the value"},
		{`{} x`, 3, "after the value"},
		{"\"a\nb\"", 2, "control character"},
		{"\"abcdefgh\x00b\"", 9, "control character"},
		{"{\"a\x01\":1}", 3, "control character"},
		{`"\x"`, 1, "invalid escape"},
		{`"\u12"`, 1, "four hexadecimal"},
		{`"\u12g4"`, 1, "four hexadecimal"},
		{`"\ud800"`, 1, "lone surrogate"},
		{`"x\udc00"`, 2, "lone surrogate"},
		{`"\ud800\ud800"`, 1, "lone surrogate"},
		{`"\ud800A"`, 1, "lone surrogate"},
		{"\"ab\xff\"", 3, "invalid UTF-8"},
		{"\"\xc0\x80\"", 1, "invalid UTF-8"},
		{"\"\xed\xa0\x80\"", 1, "invalid UTF-8"},
		{"{\"\xff\":1}", 2, "invalid UTF-8"},
		{"\"\\\xff\"", 1, "invalid escape"},
		{"\xef\xbb\xbf{}", 0, "cannot begin with byte 0xef"},
		{`{"a":1,"a":2}`, 7, `duplicate key "a"`},
		{`{"a":1,"b":2,"\u0061":2}`, 13, `duplicate key "a"`},
		{`{"\u0061":1,"b":{"a":1},"a":2}`, 24, `duplicate key "a"`},
		{`{"":1,"":2}`, 6, `duplicate key ""`},
		{`[{"x":{"k":1,"k":1}}]`, 13, `duplicate key "k"`},
		{strings.Repeat("[", 65) + strings.Repeat("]", 65), 64, "nested deeper than 64"},
		{strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65), 320, "nested deeper than 64"},
	} {
		d := New(Limits{})
		err := d.Parse([]byte(tc.in))
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%q: got %v, want a SyntaxError", tc.in, err)
			continue
		}
		if se.Offset != tc.offset || !strings.Contains(se.Reason, tc.reason) {
			t.Errorf("%q: got %d %q, want %d %q", tc.in, se.Offset, se.Reason, tc.offset, tc.reason)
		}
		if d.Root().Exists() {
			t.Errorf("%q: a refused text left a value", tc.in)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	for _, s := range []string{
		`null`, ` true `, "\t\r\nfalse", `0`, `-0`, `-0.5e-10`, `1E5`, `""`, `"a/b\/"`, `[]`, `{}`, `[ ]`, `{ }`,
		`{"a":{"a":{"a":1}}}`, `[{"a":1},{"a":1}]`, `{"a":1,"A":2}`, "\"\x7f\"", `"\ud83d\ude00"`, `1e999`,
		strings.Repeat("[", 64) + strings.Repeat("]", 64),
	} {
		d := mustParse(t, s)
		if got, want := string(d.Root().Raw()), strings.TrimSpace(s); got != want {
			t.Errorf("%q: Raw is %q", s, got)
		}
	}
}

func TestLimits(t *testing.T) {
	d := New(Limits{Bytes: 10, Depth: 1, Nodes: 3})
	for s, want := range map[string]string{
		`"12345678"`: "", `"123456789"`: "larger than 10", `[[]]`: "deeper than 1", `[1,2]`: "", `[1,2,3]`: "more than 3 values",
	} {
		err := d.Parse([]byte(s))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", s, err, want)
		}
	}
}

func TestDuplicateKeysInLargeObjects(t *testing.T) {
	for _, n := range []int{2, 31, 32, 33, 34, 100, 5000} {
		var b strings.Builder
		b.WriteString(`{"inner":[`)
		for k := range 3 { // several large objects share the hash table
			if k > 0 {
				b.WriteByte(',')
			}
			b.WriteByte('{')
			for i := range n {
				fmt.Fprintf(&b, `"key%d":{"key%d":%d},`, i, i, i*k)
			}
			b.WriteString(`"last":0}`)
		}
		b.WriteString(`]}`)
		d := mustParse(t, b.String())
		for k := range 3 {
			o := d.Root().Get("inner").Index(k)
			for i := range n {
				key := "key" + strconv.Itoa(i)
				if got, _ := o.Get(key).Get(key).Int64(); got != int64(i*k) {
					t.Fatalf("n=%d: object %d, %s is %d", n, k, key, got)
				}
			}
			if o.Get("key"+strconv.Itoa(n)).Exists() || o.Len() != n+1 {
				t.Fatalf("n=%d: a key that is not there was found", n)
			}
		}
		dup := strings.Replace(b.String(), `"last":0}]`, `"\u006bey`+strconv.Itoa(n-1)+`":0}]`, 1)
		if err := d.Parse([]byte(dup)); err == nil || !strings.Contains(err.Error(), "duplicate key") {
			t.Fatalf("n=%d: got %v, want a duplicate key", n, err)
		}
	}
}

// A quadratic search would take minutes here.
func TestDuplicateSearchIsNotQuadratic(t *testing.T) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range 400_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"key%08d":1`, i)
	}
	b.WriteByte('}')
	d := New(Limits{})
	began := time.Now()
	if err := d.Parse(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 400_000; i += 7 {
		if !d.Root().Get(fmt.Sprintf("key%08d", i)).Exists() {
			t.Fatalf("key %d is missing", i)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestValues(t *testing.T) {
	d := mustParse(t, `{"s":"plain","e":"a\n\u00e9\ud83d\ude00\\","n":-12,"f":1.50,"big":12345678901234567890,"exp":1e3,
		"t":true,"x":null,"a":[1,[2,3],{"k":"v"}],"o":{"p":1,"q":2},"Ünï":"ß","":"empty","inf":1e999,"min":-9223372036854775808}`)
	r := d.Root()
	eq := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	eq("s", r.Get("s").String(), "plain")
	eq("e", r.Get("e").String(), "a\né😀\\")
	eq("e raw", string(r.Get("e").Raw()), `"a\n\u00e9\ud83d\ude00\\"`)
	eq("e len", r.Get("e").Len(), len("a\né😀\\"))
	eq("n text", string(r.Get("n").Bytes()), "-12")
	eq("f text", r.Get("f").String(), "1.50")
	eq("t text", r.Get("t").String(), "true")
	eq("null", r.Get("x").Bytes() == nil && r.Get("x").Exists() && r.Get("x").Kind() == Null, true)
	eq("empty key", r.Get("").String(), "empty")
	eq("case", r.Get("S").Exists(), false)
	eq("fold", r.GetFold("S").String(), "plain")
	eq("fold unicode", r.GetFold("üNÏ").String(), "ß")
	eq("fold none", r.GetFold("zz").Exists(), false)
	i64 := func(k string) string { n, ok := r.Get(k).Int64(); return fmt.Sprint(n, ok) }
	eq("int", i64("n"), "-12 true")
	eq("int of float", i64("f"), "0 false")
	eq("int overflow", i64("big"), "0 false")
	eq("int of exp", i64("exp"), "1000 true")
	eq("int min", i64("min"), "-9223372036854775808 true")
	eq("int of string", i64("s"), "0 false")
	f64 := func(k string) string { n, ok := r.Get(k).Float64(); return fmt.Sprint(n, ok) }
	eq("float", f64("f"), "1.5 true")
	eq("float big", f64("big"), "1.2345678901234567e+19 true")
	eq("float inf", strings.HasSuffix(f64("inf"), "false"), true)
	b, ok := r.Get("t").Bool()
	eq("bool", fmt.Sprint(b, ok), "true true")
	eq("index", r.Get("a").Index(1).Index(1).String(), "3")
	eq("index out", r.Get("a").Index(3).Exists() || r.Get("a").Index(-1).Exists() || r.Get("o").Index(0).Exists(), false)
	eq("len", fmt.Sprint(r.Get("a").Len(), r.Get("o").Len(), r.Get("n").Len()), "3 2 0")
	var members, items []string
	r.Get("o").Each(func(k []byte, v Value) bool {
		members = append(members, string(k)+"="+v.String()+string(v.Key()))
		return true
	})
	eq("each", members, []string{"p=1p", "q=2q"})
	r.Get("a").Items(func(v Value) bool { items = append(items, v.Kind().String()); return len(items) < 2 })
	eq("items stop", items, []string{"number", "array"})
	items = nil
	r.Get("a").Leaves(func(v Value) bool { items = append(items, v.String()); return true })
	eq("leaves", items, []string{"1", "2", "3", "v"})

	for _, k := range []string{"s", "e", "n", "x", "t"} {
		want := r.Get(k).String()
		if k == "x" {
			want = "null"
		}
		eq("text of "+k, string(r.Get(k).AppendText(nil)), want)
	}
	td := mustParse(t, `{"o":{"p":"say \"hi\"\u0021","q":[1]}}`)
	eq("text of an object", string(td.Root().Get("o").AppendText([]byte(">"))), `>{"p":"say "hi"!","q":[1]}`)
	eq("text of an array", string(td.Root().Get("o").Get("q").AppendText(nil)), `[1]`)

	var z Value
	z.Each(func([]byte, Value) bool { t.Error("called"); return true })
	z.Items(func(Value) bool { t.Error("called"); return true })
	z.Leaves(func(Value) bool { t.Error("called"); return true })
	z.Walk(ParsePath("a"), func(Value) bool { t.Error("called"); return true })
	if z.Exists() || z.Get("a").Exists() || z.GetFold("a").Exists() || z.Index(0).Exists() || z.Raw() != nil || z.Bytes() != nil ||
		z.Len() != 0 || z.At(ParsePath("a.b")).Exists() || z.Kind() != Absent || z.Offset() != -1 || z.Key() != nil {
		t.Error("the zero Value is not absent")
	}
	if (&Doc{}).Root().Exists() || (*Doc)(nil).Root().Exists() {
		t.Error("an empty Doc has a root")
	}
}

func TestPaths(t *testing.T) {
	d := mustParse(t, `{"a":{"b":1,"c.d":{"e":2}},"a.b":3,"x.y.z":4,"x":{"y":{"z":5,"w":6}},
		"l":[{"k":1},{"m":7},{"k":[8,[9]]}],"m":[[{"k":10}],[]],"i[0]":11,"i":[12,13],"sp ace":{"x":14},"nul":null,"empty":[],"dot.":15,"q":[{"a":1},[{"a":2}]]}`)
	for _, tc := range []struct {
		path, at string
		walk     string
	}{
		{"a.b", "3", "3 1"},
		{"a.c.d.e", "2", "2"},
		{"x.y.z", "4", "4 5"},
		{"x.y.w", "6", "6"},
		{"l.k", "1", "1 8 9"},
		{"l.m", "7", "7"},
		{"l[2].k", "[8,[9]]", "8 9"},
		{"l[2].k[1][0]", "9", "9"},
		{"l[3].k", "", ""},
		{"m.k", "10", "10"},
		{"m[0][0].k", "10", "10"},
		{"i[0]", "11", "11 12"},
		{"i[1]", "13", "13"},
		{"i", "[12,13]", "12 13"},
		{"sp ace.x", "14", "14"},
		{"nul", "null", "null"},
		{"nul.x", "", ""},
		{"empty", "[]", ""},
		{"dot.", "15", "15"},
		{"a.b.c", "", ""},
		{"none", "", ""},
		{"a..b", "", ""},
		{"i[x]", "", ""},
		{"q.a", "1", "1 2"},
		{"", string(d.Raw()), string(d.Raw())},
	} {
		p := ParsePath(tc.path)
		if got := string(d.Root().At(p).Raw()); got != tc.at {
			t.Errorf("At(%s) = %s, want %s", tc.path, got, tc.at)
		}
		var walked []string
		d.Root().Walk(p, func(v Value) bool { walked = append(walked, string(v.Raw())); return true })
		if got := strings.Join(walked, " "); got != tc.walk {
			t.Errorf("Walk(%s) = %s, want %s", tc.path, got, tc.walk)
		}
		var appended []string
		for _, v := range d.Root().Append(nil, p) {
			appended = append(appended, string(v.Raw()))
		}
		if got := strings.Join(appended, " "); got != tc.walk {
			t.Errorf("Append(%s) = %s, want %s", tc.path, got, tc.walk)
		}
		if p.String() != tc.path {
			t.Errorf("String of %s is %s", tc.path, p)
		}
	}
	n := 0
	d.Root().Walk(ParsePath("l.k"), func(Value) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("Walk did not stop: %d", n)
	}
}

func TestFoldPaths(t *testing.T) {
	large := `{"Big":1`
	for i := range 40 {
		large += fmt.Sprintf(`,"k%d":0`, i)
	}
	huge := large
	for i := 40; i < 1100; i++ {
		huge += fmt.Sprintf(`,"k%d":0`, i)
	}
	d := mustParse(t, `{"eventtype":1,"Actor":{"ID":2,"id":3},"both":4,"BOTH":5,"a.B":{"c":6},"A":{"b.C":7},"l":[{"K":8},{"k":9},{"kk":0}],"Ä":10,"x[":11,"x{":12,"large":`+large+`},"huge":`+huge+`}}`)
	for path, want := range map[string]string{
		"eventType": "1", "actor.id": "3", "actor.Id": "2", "both": "4", "BOTH": "5", "Both": "4", "a.b.c": "6 7", "l.k": "8 9", "l[0].k": "8",
		"ä": "", "X[": "11", "X{": "12", "eventTyp": "", "large.big": "1", "huge.big": "", "huge.Big": "1", "b.c": "",
	} {
		var got []string
		p := ParsePath(path).Fold()
		for _, v := range d.Root().Append(nil, p) {
			got = append(got, string(v.Raw()))
		}
		var walked []string
		d.Root().Walk(p, func(v Value) bool { walked = append(walked, string(v.Raw())); return true })
		if strings.Join(got, " ") != want || strings.Join(walked, " ") != want {
			t.Errorf("%s: %v and %v, want %s", path, got, walked, want)
		}
		first, _, _ := strings.Cut(want, " ")
		if at := string(d.Root().At(p).Raw()); at != first {
			t.Errorf("At %s: %s, want %s", path, at, first)
		}
	}
}

func TestAppendQuoted(t *testing.T) {
	for _, s := range []string{"", "plain", "a\"b\\c\n\t\x00\x7f\u00e9😀", "\u2028"} {
		var back string
		q := AppendQuoted(nil, []byte(s))
		if err := json.Unmarshal(q, &back); err != nil || back != s {
			t.Errorf("%q: %s: %q %v", s, q, back, err)
		}
	}
	if got := string(AppendQuoted(nil, []byte("a\xffb"))); got != "\"a\ufffdb\"" {
		t.Errorf("got %s", got)
	}
}

// toAny builds what encoding/json would have, to compare with.
func toAny(v Value) any {
	switch v.Kind() {
	case Bool:
		b, _ := v.Bool()
		return b
	case Number:
		return json.Number(v.String())
	case String:
		return v.String()
	case Array:
		a := []any{}
		v.Items(func(e Value) bool { a = append(a, toAny(e)); return true })
		return a
	case Object:
		m := map[string]any{}
		v.Each(func(k []byte, e Value) bool { m[string(k)] = toAny(e); return true })
		return m
	default:
		return nil
	}
}

func checkAgainstStandard(t *testing.T, d *Doc, in []byte) {
	t.Helper()
	err := d.Parse(in)
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.UseNumber()
	var want any
	valid := json.Valid(in)
	if err == nil {
		if !valid {
			t.Fatalf("%q is accepted, encoding/json refuses it", in)
		}
		if e := dec.Decode(&want); e != nil {
			t.Fatal(e)
		}
		got, e1 := json.Marshal(toAny(d.Root()))
		exp, e2 := json.Marshal(want)
		if e1 != nil || e2 != nil || !bytes.Equal(got, exp) {
			t.Fatalf("%q: got %s, want %s", in, got, exp)
		}
		n := 0
		checkTree(t, d.Root(), &n)
		if n != d.Nodes() {
			t.Fatalf("%q: %d of %d nodes are reached", in, n, d.Nodes())
		}
		return
	}
	var se *SyntaxError
	if !errors.As(err, &se) || se.Offset < 0 || se.Offset > len(in) {
		t.Fatalf("%q: error %v", in, err)
	}
	if !valid {
		return
	}
	for _, reason := range []string{"duplicate key", "nested deeper", "lone surrogate", "more than", "larger than"} {
		if strings.HasPrefix(se.Reason, reason) || strings.Contains(se.Reason, reason) {
			return
		}
	}
	if se.Reason == "invalid UTF-8" && !utf8.Valid(in) {
		return
	}
	t.Fatalf("%q: refused for %v, encoding/json accepts it", in, err)
}

func checkTree(t *testing.T, v Value, n *int) {
	*n++
	v.Items(func(e Value) bool { checkTree(t, e, n); return true })
	v.Each(func(k []byte, e Value) bool {
		if v.Get(string(k)) != e {
			t.Fatalf("Get(%q) finds another value than Each", k)
		}
		checkTree(t, e, n)
		return true
	})
	if !json.Valid(v.Raw()) {
		t.Fatalf("Raw %q is not JSON", v.Raw())
	}
}

var seeds = []string{
	`{"a":1,"b":[true,false,null,"x\u00e9\ud83d\ude00\n"],"c":{"d":-1.5e10}}`, `[]`, `{}`, `""`, `0`, `-`, `{"a":1,"a":2}`,
	`"\ud800"`, "\"\xff\"", `[[[[]]]]`, `{"a":{"a":{}}}`, `1e5`, ` [1 , 2 ] `, `"\\\""`, `{"\u0061":1,"a":1}`, `tru`, "\xef\xbb\xbf{}",
	`{"k0":0,"k1":0,"k2":0,"k3":0,"k4":0,"k5":0,"k6":0,"k7":0,"k8":0,"k9":0,"k10":0,"k11":0,"k12":0,"k13":0,"k14":0,"k15":0,"k16":0,"k17":0,"k18":0,"k19":0,"k20":0,"k21":0,"k22":0,"k23":0,"k24":0,"k25":0,"k26":0,"k27":0,"k28":0,"k29":0,"k30":0,"k31":0,"k32":0,"k33":0,"k1":0}`,
}

func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	d := New(Limits{Nodes: 5000}) // reused, so that leftovers would show
	f.Fuzz(func(t *testing.T, in []byte) { checkAgainstStandard(t, d, in) })
}

// Random damage to valid records, which runs with the ordinary tests.
func TestParseAgainstStandard(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	d := New(Limits{Nodes: 5000})
	texts := append([]string{}, seeds...)
	for i := range 20 {
		texts = append(texts, string(cloudTrail(i)))
	}
	for range 8_000 {
		b := []byte(texts[rng.IntN(len(texts))])
		for range rng.IntN(3) {
			if len(b) == 0 {
				break
			}
			i := rng.IntN(len(b))
			switch rng.IntN(4) {
			case 0:
				b[i] = byte(rng.IntN(256))
			case 1:
				b = append(b[:i], b[i+1:]...)
			case 2:
				b = b[:i]
			case 3:
				const alphabet = `{}[]",:\u0189truefalsn-.eE`
				b = append(b[:i], append([]byte{alphabet[rng.IntN(len(alphabet))]}, b[i:]...)...)
			}
		}
		checkAgainstStandard(t, d, b)
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	var recs [][]byte
	for i := range 50 {
		recs = append(recs, cloudTrail(i))
	}
	d := New(Limits{})
	p := ParsePath("userIdentity.sessionContext.sessionIssuer.arn")
	run := func() {
		for _, r := range recs {
			if err := d.Parse(r); err != nil {
				t.Fatal(err)
			}
			_ = d.Root().At(p).Bytes()
			_ = d.Root().Get("requestParameters").Get("policyDocument").Bytes()
		}
	}
	run()
	if n := testing.AllocsPerRun(10, run); n != 0 {
		t.Errorf("%v allocations for %d records", n, len(recs))
	}
}

// One large record does not keep its memory for the small ones after it.
func TestParseReleases(t *testing.T) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range 200_000 {
		fmt.Fprintf(&b, "\"\\u0061%d\":1,", i)
	}
	b.WriteString(`"z":0}`)
	d := New(Limits{})
	small := cloudTrail(1)
	for range 3 {
		if err := d.Parse(b.Bytes()); err != nil {
			t.Fatal(err)
		}
		if got, _ := d.Root().Get("a199999").Int64(); got != 1 {
			t.Fatal("a member is missing")
		}
		if err := d.Parse(small); err != nil {
			t.Fatal(err)
		}
		if cap(d.nodes) > keepNodes || len(d.table) > keepNodes || cap(d.arena) > keepArena {
			t.Errorf("kept %d nodes, %d slots, %d bytes", cap(d.nodes), len(d.table), cap(d.arena))
		}
	}
}

// cloudTrail makes a record shaped like CloudTrail's, of about 1.3 kB.
func cloudTrail(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	names := []string{"AssumeRole", "GetObject", "DescribeInstances", "CreateAccessKey", "PutUserPolicy", "ConsoleLogin", "ListBuckets", "Decrypt"}
	sources := []string{"sts", "s3", "ec2", "iam", "iam", "signin", "s3", "kms"}
	k := rng.IntN(len(names))
	params := `{"bucketName":"logs-` + strconv.Itoa(rng.IntN(1000)) + `","key":"2024/01/` + strconv.Itoa(rng.IntN(30)) + `/part.gz","Host":"s3.amazonaws.com"}`
	if names[k] == "PutUserPolicy" {
		params = `{"userName":"deploy","policyName":"p","policyDocument":"{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"*\", \"Resource\": \"*\"}]\n}"}`
	}
	acct := fmt.Sprintf("%012d", rng.Int64N(1e12))
	key := fmt.Sprintf("ASIA%016X", rng.Uint64())
	return fmt.Appendf(nil, `{"eventVersion":"1.08","userIdentity":{"type":"AssumedRole","principalId":"AROA%012X:session-%d","arn":"arn:aws:sts::%s:assumed-role/Deploy/session-%d","accountId":"%s","accessKeyId":"%s","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA%012X","arn":"arn:aws:iam::%s:role/Deploy","accountId":"%s","userName":"Deploy"},"webIdFederationData":{},"attributes":{"creationDate":"2024-01-02T03:04:05Z","mfaAuthenticated":"false"}}},"eventTime":"2024-01-02T03:%02d:%02dZ","eventSource":"%s.amazonaws.com","eventName":"%s","awsRegion":"eu-central-1","sourceIPAddress":"203.0.113.%d","userAgent":"aws-cli/2.15.0 Python/3.11.6 Linux/6.1.0 exe/x86_64.debian.12 prompt/off command/s3.cp","requestParameters":%s,"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4","CipherSuite":"ECDHE-RSA-AES128-GCM-SHA256","bytesTransferredIn":0,"AuthenticationMethod":"AuthHeader","x-amz-id-2":"kE7o2F1hq0t2mPq9","bytesTransferredOut":%d},"requestID":"%016X","eventID":"%08x-0000-4000-8000-%012x","readOnly":true,"resources":[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::logs/2024"},{"accountId":"%s","type":"AWS::S3::Bucket","ARN":"arn:aws:s3:::logs"}],"eventType":"AwsApiCall","managementEvent":false,"recipientAccountId":"%s","eventCategory":"Data","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"logs.s3.eu-central-1.amazonaws.com"}}`,
		rng.Uint64()>>16, i, acct, i, acct, key, rng.Uint64()>>16, acct, acct, rng.IntN(60), rng.IntN(60), sources[k], names[k], rng.IntN(256), params, rng.IntN(1e6), rng.Uint64(), rng.Uint32(), rng.Uint64()>>16, acct, acct)
}

func benchRecords() (recs [][]byte, size int64) {
	for i := range 1000 {
		r := cloudTrail(i)
		recs = append(recs, r)
		size += int64(len(r))
	}
	return recs, size
}

func BenchmarkParse(b *testing.B) {
	recs, size := benchRecords()
	d := New(Limits{})
	b.SetBytes(size / int64(len(recs)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := d.Parse(recs[i%len(recs)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkUnmarshalMap(b *testing.B) {
	recs, size := benchRecords()
	b.SetBytes(size / int64(len(recs)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var m map[string]any
		if err := json.Unmarshal(recs[i%len(recs)], &m); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkPath(b *testing.B) {
	d := mustParse(b, string(cloudTrail(1)))
	p := ParsePath("userIdentity.sessionContext.sessionIssuer.arn")
	b.ReportAllocs()
	for b.Loop() {
		if !d.Root().At(p).Exists() {
			b.Fatal("absent")
		}
	}
}
