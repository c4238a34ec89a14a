package jsondoc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// split renders what a Splitter gives: per record "N@offset:raw", with an
// exclamation mark and the reason for one that could not be cut out whole, or
// that does not parse.
func split(t testing.TB, r io.Reader, l Limits) []string {
	t.Helper()
	s := NewSplitter(r, l)
	d := New(l)
	out := []string{}
	for {
		rec, err := s.Next()
		if errors.Is(err, io.EOF) {
			if _, err := s.Next(); !errors.Is(err, io.EOF) {
				t.Fatalf("after the end: %v", err)
			}
			return out
		}
		if err != nil {
			return append(out, "error: "+err.Error())
		}
		if rec.Number != len(out)+1 {
			t.Fatalf("record %d has number %d", len(out)+1, rec.Number)
		}
		line := fmt.Sprintf("%d:%s", rec.Offset, rec.Raw)
		if len(rec.Raw) > 100 {
			line = fmt.Sprintf("%d:%s…%d", rec.Offset, rec.Raw[:10], len(rec.Raw))
		}
		if rec.Err != nil {
			line += " ! " + rec.Err.Error()
		} else if err := d.Parse(rec.Raw); err != nil {
			line += " ? " + err.Error()
		}
		out = append(out, line)
	}
}

func TestSplitter(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"empty", "", nil},
		{"blank", " \n\t\r\n", nil},
		{"one object", `{"a":1}`, []string{`0:{"a":1}`}},
		{"byte order mark", "\xef\xbb\xbf{\"a\":1}", []string{`3:{"a":1}`}},
		{"lines", "{\"a\":1}\n\n  \r\n{\"a\":2}\r\n", []string{`0:{"a":1}`, `13:{"a":2}`}},
		{"no newline at the end", "{\"a\":1}\n{\"a\":2}", []string{`0:{"a":1}`, `8:{"a":2}`}},
		{"scalars", "1\n\"x\"\nnull", []string{`0:1`, `2:"x"`, `6:null`}},
		{"broken line", "{\"a\":1}\n{\"a\":,}\n{\"a\":3}\n", []string{`0:{"a":1}`, `8:{"a":,} ? invalid JSON at offset 5: a value cannot begin with ','`, `16:{"a":3}`}},
		{"broken first line", "{\"a\":,}\n{\"a\":3}\n", []string{`0:{"a":,} ? invalid JSON at offset 5: a value cannot begin with ','`, `8:{"a":3}`}},
		{"no JSON", "hello\n{\"a\":3}\n", []string{`0:hello ? invalid JSON at offset 0: a value cannot begin with 'h'`, `6:{"a":3}`}},
		{"first line cut in a string", "{\"a\":\"xy\n{\"a\":3}\n", []string{`0:{"a":"xy ? invalid JSON at offset 8: unexpected end of input`, `9:{"a":3}`}},
		{"first line cut in an object", "{\"a\":{\"b\":1\n{\"a\":3}\n{\"a\":4}\n", []string{`0:{"a":{"b":1 ! record is truncated`, `12:{"a":3}`, `20:{"a":4}`}},
		{"a line cut", "{\"a\":1}\n{\"a\":{\"b\n{\"a\":3}\n", []string{`0:{"a":1}`, `8:{"a":{"b ? invalid JSON at offset 8: unexpected end of input`, `17:{"a":3}`}},
		{"two values on a line of NDJSON", "{\"a\":1}\n{\"a\":2}{\"a\":3}\n", []string{`0:{"a":1}`, `8:{"a":2}{"a":3} ? invalid JSON at offset 7: unexpected '{' after the value`}},
		{"text behind the first value", "{\"a\":1} x\n{\"a\":2}\n", []string{`0:{"a":1} x ? invalid JSON at offset 8: unexpected 'x' after the value`, `10:{"a":2}`}},
		{"cut last line", "{\"a\":1}\n{\"a\":", []string{`0:{"a":1}`, `8:{"a": ! record is truncated`}},
		{"an array a line", "{\"a\":1}\n[1]\n", []string{`0:{"a":1}`, `8:[1]`}},
		{"pretty", "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n", []string{"0:{\n  \"a\": {\n    \"b\": 1\n  }\n}"}},
		{"pretty, many", "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}{\"a\":3}\n\n", []string{"0:{\n  \"a\": 1\n}", "13:{\n  \"a\": 2\n}", `25:{"a":3}`}},
		{"concatenated", `{"a":1}{"a":2} {"a":"}{"}`, []string{`0:{"a":1}`, `7:{"a":2}`, `15:{"a":"}{"}`}},
		{"concatenated, garbage", "{\"a\":1}{\"a\":2} x {\n{\"a\":3}", []string{`0:{"a":1}`, `7:{"a":2}`, `15:x { ! invalid JSON at offset 0: expected an object but found 'x'`, `19:{"a":3}`}},
		{"pretty, broken", "{\n \"a\": ]\n}\n{\n \"a\": 2\n}\n", []string{"0:{\n \"a\": ! invalid JSON at offset 8: mismatched ']'", "12:{\n \"a\": 2\n}"}},
		{"pretty, cut", "{\n \"a\": 1\n}\n{\n \"a\": ", []string{"0:{\n \"a\": 1\n}", "12:{\n \"a\": ! record is truncated"}},
		{"array", ` [ {"a":1} , {"a":[2]},3,"x]",null ] `, []string{`3:{"a":1}`, `13:{"a":[2]}`, `23:3`, `25:"x]"`, `30:null`}},
		{"empty array", "[ ]", nil},
		{"two arrays", "[1]\n[2,3]", []string{`1:1`, `5:2`, `7:3`}},
		{"array, broken element", `[{"a":1},{"a":,},{"a":3}]`, []string{`1:{"a":1}`, `9:{"a":,} ? invalid JSON at offset 5: a value cannot begin with ','`, `17:{"a":3}`}},
		{"array, no comma", `[{"a":1} {"a":2}]`, []string{`1:{"a":1}`, `9: ! invalid JSON at offset 0: expected ',' or ']' but found '{'`, `9:{"a":2}`}},
		{"array, no commas, a line each", "[{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", []string{`1:{"a":1}`, `9: ! invalid JSON at offset 0: expected ',' or ']' but found '{'`, `9:{"a":2}`, `17:{"a":3}`}},
		{"array, a broken line", "[\n{\"a\":1},\n{\"a\":[2},\n{\"a\":3},\n{\"a\":4}\n]\n", []string{`2:{"a":1}`, `11:{"a":[2 ! invalid JSON at offset 7: mismatched '}'`, `21:{"a":3}`, `30:{"a":4}`}},
		{"array, a line without its end", "[\n{\"a\":1},\n{\"a\":2,\n{\"a\":3},\n{\"a\":4}\n]\n", []string{`2:{"a":1}`, `11:{"a":2, ! invalid JSON at offset 25: mismatched ']'`, `19:{"a":3}`, `28:{"a":4}`}},
		{"array, two commas between objects", `[{"a":1},,{"a":2}]`, []string{`1:{"a":1}`, `9: ! invalid JSON at offset 0: expected a value but found ','`, `10:{"a":2}`}},
		{"a log line first", "[2026-01-02 03:04:05] started\n{\"a\":1}\n{\"a\":2}\n", []string{`0:[2026-01-02 03:04:05] started ? invalid JSON at offset 5: expected ',' or ']' but found '-'`, `30:{"a":1}`, `38:{"a":2}`}},
		{"a log line with a name first", "[info] started\n{\"a\":1}\n", []string{`0:[info] started ? invalid JSON at offset 1: a value cannot begin with 'i'`, `15:{"a":1}`}},
		{"a log line with a number first", "[1] started\n{\"a\":1}\n", []string{`0:[1] started ? invalid JSON at offset 4: unexpected 's' after the value`, `12:{"a":1}`}},
		{"array, two commas", `[1,,2]`, []string{`0:[1,,2] ? invalid JSON at offset 3: a value cannot begin with ','`}},
		{"array, comma at the end", `[{},]{"a":1}`, []string{`1:{}`, `4: ! invalid JSON at offset 0: the array has a comma before its end`, `5:{"a":1}`}},
		{"array, mismatch", `[1,{"a":[2},3]`, []string{`1:1`, `3:{"a":[2 ! invalid JSON at offset 7: mismatched '}'`}},
		{"array, brace", `[}`, []string{`1: ! invalid JSON at offset 0: unexpected '}'`}},
		{"array, cut in an element", `[{"a":1},{"a":`, []string{`1:{"a":1}`, `9:{"a": ! record is truncated`}},
		{"array, cut between", `[{"a":1},`, []string{`1:{"a":1}`, `9: ! array that began at offset 0 is not closed: record is truncated`}},
		{"array, cut in a number", `[12`, []string{`1:12`, `3: ! array that began at offset 0 is not closed: record is truncated`}},
		{"text behind an array", "[{}] x\n", []string{`1:{}`, `5:x ? invalid JSON at offset 0: a value cannot begin with 'x'`}},
		{"newline in a string", "[\"a\nb\",1]", []string{"1:\"a ! invalid JSON at offset 2: control character in a string"}},
		{"escaped quotes", `[{"a":"\"]}\\"},2]`, []string{`1:{"a":"\"]}\\"}`, `16:2`}},
	} {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(tc.in),
			"bytes": iotest.OneByteReader(strings.NewReader(tc.in)),
			"eof":   iotest.DataErrReader(strings.NewReader(tc.in)),
		} {
			got := split(t, r, Limits{})
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("%s (%s):\n got %q\nwant %q", tc.name, how, got, tc.want)
			}
		}
	}
}

func TestSplitterBounds(t *testing.T) {
	big := strings.Repeat("x", 300_000)
	l := Limits{Bytes: 200_000}
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"line", "{\"a\":1}\n{\"a\":\"" + big + "\"}\n{\"a\":3}\n", []string{`0:{"a":1}`, `8:{"a":"xxxx…1024 ! record is too large: more than 200000 bytes`, `300017:{"a":3}`}},
		{"element", "[1,{\"a\":\"" + big + "\"},{\"a\":3}]", []string{`1:1`, `3:{"a":"xxxx…1024 ! record is too large: more than 200000 bytes`, `300012:{"a":3}`}},
		{"value", "{\n\"a\":\"" + big + "\"}\n{\"a\":3}\n", []string{"0:{\n\"a\":\"xxx…200000 ! record is too large: more than 200000 bytes", `300010:{"a":3}`}},
		{"last line", "{\"a\":1}\n{\"a\":\"" + big, []string{`0:{"a":1}`, `8:{"a":"xxxx…1024 ! record is too large: more than 200000 bytes`}},
	} {
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(tc.in),
			"half":  iotest.HalfReader(strings.NewReader(tc.in)),
		} {
			got := split(t, r, l)
			for i := range got { // where a text is cut does not matter
				got[i] = withoutCut(got[i])
			}
			for i := range tc.want {
				tc.want[i] = withoutCut(tc.want[i])
			}
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("%s (%s):\n got %q\nwant %q", tc.name, how, got, tc.want)
			}
		}
	}
}

func withoutCut(s string) string {
	text, reason, ok := strings.Cut(s, " !")
	if !ok {
		return s
	}
	text, _, _ = strings.Cut(text, "…")
	return text + "… !" + reason
}

// Memory stays bounded on a stream that is one record without an end.
func TestSplitterMemory(t *testing.T) {
	for _, head := range []string{"x", "[\"", "{\n\"a\":\""} {
		s := NewSplitter(io.MultiReader(strings.NewReader(head), io.LimitReader(xs{}, 20<<20)), Limits{Bytes: 1 << 20})
		for {
			_, err := s.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if cap(s.buf) > 4<<20 {
			t.Errorf("%q: the buffer grew to %d bytes", head, cap(s.buf))
		}
	}
}

type xs struct{}

func (xs) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestSplitterReadError(t *testing.T) {
	broken := errors.New("the wire broke")
	s := NewSplitter(io.MultiReader(strings.NewReader("{\"a\":1}\n{\"b\":2}\n"), iotest.ErrReader(broken)), Limits{})
	for range 2 {
		if rec, err := s.Next(); err != nil || rec.Err != nil {
			t.Fatal(rec, err)
		}
	}
	if _, err := s.Next(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	s = NewSplitter(stuck{}, Limits{})
	if _, err := s.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// However the same valid records are laid out, the same ones come back.
func TestSplitterLayouts(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 30 {
		var recs []string
		for i := range 1 + rng.IntN(40) {
			recs = append(recs, string(cloudTrail(i+rng.IntN(1000))))
		}
		pretty := make([]string, len(recs))
		for i, r := range recs {
			pretty[i] = strings.ReplaceAll(r, `,"`, ",\n  \"") + "\n"
		}
		for how, in := range map[string]string{
			"lines":  strings.Join(recs, "\n"),
			"array":  "[" + strings.Join(recs, ",\n") + "]",
			"concat": strings.Join(recs, ""),
			"pretty": strings.Join(pretty, ""),
		} {
			s := NewSplitter(iotest.HalfReader(strings.NewReader(in)), Limits{})
			for i, want := range recs {
				rec, err := s.Next()
				if err != nil || rec.Err != nil {
					t.Fatal(how, err, rec.Err)
				}
				if got := strings.ReplaceAll(string(rec.Raw), "\n  ", ""); got != want {
					t.Fatalf("%s: record %d: got %s", how, i+1, got)
				}
				if !strings.HasPrefix(in[rec.Offset:], string(rec.Raw)) {
					t.Fatalf("%s: record %d: wrong offset %d", how, i+1, rec.Offset)
				}
			}
			if _, err := s.Next(); !errors.Is(err, io.EOF) {
				t.Fatalf("%s: got %v", how, err)
			}
		}
	}
}

func FuzzSplitter(f *testing.F) {
	for _, s := range []string{"{\"a\":1}\n{\"b\":2}\n", "[1,{},[]]", "{\n\"a\":1\n}{}", "{\"a\":{\n{\"a\":1}\n", "[1,,2]", "\xef\xbb\xbf[", "{\"a\":[\n{\"a\":[\n{"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		l := Limits{Bytes: 64, Depth: 8}
		whole := split(t, bytes.NewReader(in), l)
		pieces := split(t, iotest.OneByteReader(bytes.NewReader(in)), l)
		if len(in) < 60 && strings.Join(whole, "\n") != strings.Join(pieces, "\n") {
			t.Fatalf("reading by the byte changes the records:\n%q\n%q", whole, pieces)
		}
		if len(whole) > len(in)+1 {
			t.Fatalf("%d records from %d bytes", len(whole), len(in))
		}
	})
}

func BenchmarkSplitter(b *testing.B) {
	recs, _ := benchRecords()
	for how, in := range map[string][]byte{
		"lines": bytes.Join(recs, []byte("\n")),
		"array": append(append([]byte("["), bytes.Join(recs, []byte(","))...), ']'),
	} {
		b.Run(how, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				s := NewSplitter(bytes.NewReader(in), Limits{})
				for {
					if _, err := s.Next(); err != nil {
						break
					}
				}
			}
		})
	}
}
