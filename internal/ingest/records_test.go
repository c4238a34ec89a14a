package ingest_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/cloudtrail"
	"github.com/staunch-project/staunch/internal/format/json"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/format/okta"
	"github.com/staunch-project/staunch/internal/format/postgresql"
	"github.com/staunch-project/staunch/internal/format/vault"
	"github.com/staunch-project/staunch/internal/ingest"
)

func zip(t testing.TB, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts { // each a gzip member of its own
		z := gzip.NewWriter(&b)
		if _, err := io.WriteString(z, p); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// errBad stands for a problem that is the sender's.
var errBad = staunch.ErrInvalid

func TestBody(t *testing.T) {
	const plain = `{"a":1}`
	zipped := zip(t, plain)
	big := strings.Repeat("0123456789", 1000)
	corrupt := []byte(zip(t, big))
	corrupt[len(corrupt)/2] ^= 0xff
	sum := []byte(zipped)
	sum[len(sum)-6] ^= 1
	huge := int64(1 << 20)
	for name, c := range map[string]struct {
		body, encoding string
		limit          int64
		want           string
		err            error
	}{
		"plain":                    {plain, "", huge, plain, nil},
		"identity":                 {plain, "identity", huge, plain, nil},
		"empty":                    {"", "", huge, "", nil},
		"one byte":                 {"x", "", huge, "x", nil},
		"by header":                {zipped, "gzip", huge, plain, nil},
		"by the old name":          {zipped, "x-gzip", huge, plain, nil},
		"in capitals":              {zipped, " GZip ", huge, plain, nil},
		"by its first bytes":       {zipped, "", huge, plain, nil},
		"several members":          {zip(t, plain, "\n", plain), "", huge, plain + "\n" + plain, nil},
		"not gzip":                 {plain, "gzip", huge, "", errBad},
		"empty, not gzip":          {"", "gzip", huge, "", errBad},
		"unknown":                  {plain, "br", huge, "", errBad},
		"zstd":                     {"\x28\xb5\x2f\xfd\x00", "", huge, "", errBad},
		"xz":                       {"\xfd7zXZ\x00\x00", "", huge, "", errBad},
		"zip":                      {"PK\x03\x04\x00", "", huge, "", errBad},
		"UTF-16":                   {"\xff\xfe{\x00", "", huge, "", errBad},
		"UTF-16, the other way":    {"\xfe\xff\x00{", "", huge, "", errBad},
		"nearly zstd":              {"\x28\xb5", "", huge, "\x28\xb5", nil},
		"two":                      {zipped, "gzip, gzip", huge, "", errBad},
		"header alone":             {zipped[:2], "", huge, "", errBad},
		"truncated":                {zipped[:len(zipped)-9], "", huge, "", errBad},
		"checksum":                 {string(sum), "", huge, plain, errBad},
		"corrupt":                  {string(corrupt), "", huge, "", errBad},
		"garbage behind":           {zipped + "garbage that is no gzip", "", huge, plain, errBad},
		"at the limit":             {plain, "", int64(len(plain)), plain, nil},
		"at the limit, zipped":     {zipped, "", int64(len(plain)), plain, nil},
		"one beyond":               {plain, "", int64(len(plain)) - 1, plain[:len(plain)-1], ingest.ErrTooLarge},
		"one beyond, zipped":       {zipped, "", int64(len(plain)) - 1, plain[:len(plain)-1], ingest.ErrTooLarge},
		"a bomb":                   {zip(t, strings.Repeat(big, 1000)), "", 5000, big[:5000], ingest.ErrTooLarge},
		"nothing allowed":          {"x", "", 0, "", ingest.ErrTooLarge},
		"nothing allowed, nothing": {"", "", 0, "", nil},
		"no limit worth the name":  {plain, "", math.MaxInt64, plain, nil},
	} {
		t.Run(name, func(t *testing.T) {
			for how, wrap := range map[string]func(io.Reader) io.Reader{
				"whole": func(r io.Reader) io.Reader { return r }, "by the byte": iotest.OneByteReader, "with the error": iotest.DataErrReader,
			} {
				var got []byte
				r, err := ingest.Body(wrap(strings.NewReader(c.body)), c.encoding, c.limit)
				if err == nil {
					got, err = io.ReadAll(r)
					// It stays what it was.
					if n, again := r.Read(make([]byte, 10)); c.err != nil && (n != 0 || again == nil) {
						t.Errorf("%s: read on: %d %v", how, n, again)
					}
				}
				if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Errorf("%s: error %v, want %v", how, err, c.err)
				}
				if c.want != "" && string(got) != c.want || c.err == nil && string(got) != c.want {
					t.Errorf("%s: %.50q, want %.50q", how, got, c.want)
				}
				if int64(len(got)) > c.limit {
					t.Errorf("%s: %d bytes, at most %d", how, len(got), c.limit)
				}
			}
		})
	}
}

// TestBodyReadError checks that a connection that breaks is not taken for the
// sender's mistake.
func TestBodyReadError(t *testing.T) {
	broken := errors.New("connection reset")
	zipped := zip(t, strings.Repeat("0123456789", 100))
	for name, start := range map[string]string{"at once": "", "in the magic": "x", "plain": `{"a":1}`, "in the header": zipped[:5], "zipped": zipped[:len(zipped)/2]} {
		for _, encoding := range []string{"", "gzip"} {
			if encoding == "gzip" && (name == "plain" || name == "in the magic") {
				continue
			}
			r, err := ingest.Body(io.MultiReader(strings.NewReader(start), iotest.ErrReader(broken)), encoding, 1<<20)
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if !errors.Is(err, broken) || errors.Is(err, staunch.ErrInvalid) {
				t.Errorf("%s, encoding %q: %v", name, encoding, err)
			}
		}
	}
}

// parts is a format whose envelope is {"records":[…]}; an element that is not
// an object breaks the envelope, and so does {"fail":true} beside them.
type parts struct{ format.Format }

func (parts) Split(doc *jsondoc.Doc, yield func([]byte) error) error {
	list := doc.Root().Get("records")
	if list.Kind() != jsondoc.Array {
		return yield(doc.Raw())
	}
	var err error
	var scratch []byte
	list.Items(func(v jsondoc.Value) bool {
		if v.Kind() != jsondoc.Object {
			err = &staunch.Problem{Place: "records", Reason: "is of type " + v.Kind().String()}
			return false
		}
		// The memory is used over, as the contract allows.
		scratch = append(scratch[:0], v.Raw()...)
		err = yield(scratch)
		for i := range scratch {
			scratch[i] = '#'
		}
		return err == nil
	})
	return err
}

// lines writes down what a reader yields: the number and the record, or "!"
// with the beginning of the error.
func lines(t testing.TB, rd *ingest.Reader) []string {
	t.Helper()
	var out []string
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			return append(out, "error: "+err.Error())
		}
		switch {
		case rec.Err != nil && rec.Doc != nil:
			t.Errorf("record %d is broken and parsed", rec.Number)
		case rec.Err != nil:
			out = append(out, fmt.Sprintf("%d !%s", rec.Number, rec.Raw))
		default:
			if !bytes.Equal(rec.Doc.Raw(), rec.Raw) {
				t.Errorf("record %d is %q and parsed %q", rec.Number, rec.Raw, rec.Doc.Raw())
			}
			out = append(out, fmt.Sprintf("%d %s", rec.Number, rec.Raw))
		}
	}
}

func TestReader(t *testing.T) {
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	for name, c := range map[string]struct {
		body    string
		stream  []string
		byLines []string // nil where it is the same
	}{
		"nothing":       {"", nil, nil},
		"blanks":        {" \r\n\n\t\n", nil, nil},
		"an object":     {`{"a":1}`, []string{`1 {"a":1}`}, nil},
		"an array":      {`[{"a":1}, {"a":2}]`, []string{`1 {"a":1}`, `2 {"a":2}`}, []string{`1 [{"a":1}, {"a":2}]`}},
		"lines":         {"{\"a\":1}\n{\"a\":2}\r\n{\"a\":3}", []string{`1 {"a":1}`, `2 {"a":2}`, `3 {"a":3}`}, nil},
		"blank lines":   {"\n\n{\"a\":1}\n \n{\"a\":2}\n", []string{`1 {"a":1}`, `2 {"a":2}`}, []string{`3 {"a":1}`, `5 {"a":2}`}},
		"broken lines":  {"{\"a\":1}\nnot json\n{\"a\":2}\n{\"a\":\n{\"a\":3}\n", []string{`1 {"a":1}`, `2 !not json`, `3 {"a":2}`, `4 !{"a":`, `5 {"a":3}`}, nil},
		"byte order":    {"\xef\xbb\xbf{\"a\":1}\n", []string{`1 {"a":1}`}, nil},
		"same key":      {"{\"a\":1,\"a\":2}\n{\"b\":1}\n", []string{`1 !{"a":1,"a":2}`, `2 {"b":1}`}, nil},
		"hidden key":    {`{"a":1,"\u0061":2}`, []string{`1 !{"a":1,"\u0061":2}`}, nil},
		"not UTF-8":     {"{\"a\":\"\xff\"}\n{\"b\":1}\n", []string{"1 !{\"a\":\"\xff\"}", `2 {"b":1}`}, nil},
		"too deep":      {`{"a":` + deep + "}\n{\"b\":1}\n", []string{`1 !{"a":` + deep + "}", `2 {"b":1}`}, nil},
		"deep enough":   {`{"a":` + deep[7:len(deep)-7] + "}", []string{`1 {"a":` + deep[7:len(deep)-7] + "}"}, nil},
		"an envelope":   {`{"records":[{"a":1},{"a":2}]}`, []string{`1 {"a":1}`, `2 {"a":2}`}, []string{`1 {"a":1}`, `1 {"a":2}`}},
		"no records":    {"{\"records\":[]}\n{\"a\":1}\n", []string{`1 {"a":1}`}, []string{`2 {"a":1}`}},
		"in all":        {"{\"records\":[{\"a\":1},{\"a\":2}]}\nx\n{\"records\":[{\"a\":3}]}\n{\"a\":4}\n", []string{`1 {"a":1}`, `2 {"a":2}`, `3 !x`, `4 {"a":3}`, `5 {"a":4}`}, []string{`1 {"a":1}`, `1 {"a":2}`, `2 !x`, `3 {"a":3}`, `4 {"a":4}`}},
		"breaks inside": {"{\"records\":[{\"a\":1},{\"a\":2},3,{\"a\":4}]}\n{\"a\":5}\n", []string{`1 {"a":1}`, `2 {"a":2}`, `3 !{"records":[{"a":1},{"a":2},3,{"a":4}]}`, `4 {"a":5}`}, []string{`1 {"a":1}`, `1 {"a":2}`, `1 !{"records":[{"a":1},{"a":2},3,{"a":4}]}`, `2 {"a":5}`}},
		// A line that begins like a list must not take those behind it along.
		"a bracket":    {"[2026-03-01] started\n{\"a\":1}\n{\"a\":2}\n", nil, []string{"1 ![2026-03-01] started", `2 {"a":1}`, `3 {"a":2}`}},
		"open bracket": {"[\n{\"a\":1}\n", nil, []string{"1 ![", `2 {"a":1}`}},
		"open object":  {"{\"a\":{\n{\"a\":1}\n", nil, []string{`1 !{"a":{`, `2 {"a":1}`}},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.byLines
			if want == nil {
				want = c.stream
			}
			rd, err := ingest.NewLineReader([]byte(c.body), parts{}, jsondoc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(t, rd); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
				t.Errorf("by lines\n%q\nwant\n%q", got, want)
			}
			if c.stream == nil && c.byLines != nil {
				return
			}
			for _, r := range []io.Reader{strings.NewReader(c.body), iotest.OneByteReader(strings.NewReader(c.body))} {
				rd, err := ingest.NewReader(r, parts{}, jsondoc.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if got := lines(t, rd); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.stream) {
					t.Errorf("\n%q\nwant\n%q", got, c.stream)
				}
			}
		})
	}
}

func TestReaderLimits(t *testing.T) {
	l := jsondoc.Limits{Bytes: 50}
	long := `{"a":"` + strings.Repeat("x", 2000) + `"}`
	body := "{\"a\":1}\n" + long + "\n{\"a\":2}\n"
	for name, open := range map[string]func() (*ingest.Reader, error){
		"stream": func() (*ingest.Reader, error) { return ingest.NewReader(strings.NewReader(body), parts{}, l) },
		"lines":  func() (*ingest.Reader, error) { return ingest.NewLineReader([]byte(body), parts{}, l) },
	} {
		rd, err := open()
		if err != nil {
			t.Fatal(err)
		}
		var good, bad int
		for {
			rec, err := rd.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if rec.Err == nil {
				good++
				continue
			}
			bad++
			if rec.Number != 2 || !errors.Is(rec.Err, jsondoc.ErrTooLarge) || len(rec.Raw) > 1024 {
				t.Errorf("%s: record %d, %d bytes: %v", name, rec.Number, len(rec.Raw), rec.Err)
			}
		}
		if good != 2 || bad != 1 {
			t.Errorf("%s: %d good and %d bad", name, good, bad)
		}
	}
	// What reading gives comes back, after the records before it.
	rd, err := ingest.NewReader(io.MultiReader(strings.NewReader("{\"a\":1}\n"), iotest.ErrReader(ingest.ErrTooLarge)), parts{}, l)
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := rd.Next(); err != nil || rec.Err != nil {
		t.Errorf("before the break: %v %v", rec, err)
	}
	if _, err := rd.Next(); !errors.Is(err, ingest.ErrTooLarge) {
		t.Errorf("the break: %v", err)
	}
}

func formats(t testing.TB) []format.Format {
	t.Helper()
	var out []format.Format
	for _, open := range []func() (format.Format, error){json.New, cloudtrail.New, okta.New, vault.New, postgresql.New} {
		f, err := open()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// TestCloudTrailEnvelopes opens what CloudTrail writes to S3.
func TestCloudTrailEnvelopes(t *testing.T) {
	f, err := cloudtrail.New()
	if err != nil {
		t.Fatal(err)
	}
	rd, err := ingest.NewReader(strings.NewReader(`{"Records":[{"eventName":"A"},{"eventName":"B"}]}`+"\n"+`{"eventName":"C"}`), f, jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(lines(t, rd)), `[1 {"eventName":"A"} 2 {"eventName":"B"} 3 {"eventName":"C"}]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestReaderDoesNotAllocate reads the records of one envelope after another.
func TestReaderDoesNotAllocate(t *testing.T) {
	body := strings.Repeat(`{"records":[`+strings.Repeat(`{"a":1},`, 50)+`{"a":2}]}`+"\n", 40)
	count := func() float64 {
		return testing.AllocsPerRun(5, func() {
			rd, err := ingest.NewReader(strings.NewReader(body), parts{}, jsondoc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for {
				if _, err := rd.Next(); err != nil {
					break
				}
				n++
			}
			if n != 40*51 {
				t.Fatalf("%d records", n)
			}
		})
	}
	// An envelope may cost a few allocations in the format, a record none.
	if n := count(); n > 400 {
		t.Errorf("%v allocations for 2,040 records in 40 envelopes", n)
	}
}

func FuzzReader(f *testing.F) {
	for _, s := range []string{
		"", "{}", "[]", `[{"a":1},{"b":2}]`, "{\"a\":1}\n{\"a\":2}\n", `{"Records":[{"eventName":"A"},1]}`, "{\"a\":\n1}\n{", "[1\n{}",
		`{"records":[{"a":1},{"a":2}]}`, "\xef\xbb\xbf{}", "{\"a\":1,\"a\":2}\n\n\r\n[", `{"Message":"{\"Records\":[{}]}"}`,
		zip(f, `{"Records":[{"eventName":"A"}]}`), "\x1f\x8b", "\x1f\x8b\x08\x00",
	} {
		f.Add([]byte(s))
	}
	all := append(formats(f), parts{})
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 64 << 10
		for _, fm := range all {
			r, err := ingest.Body(bytes.NewReader(body), "", limit)
			if err != nil {
				if !errors.Is(err, staunch.ErrInvalid) {
					t.Fatalf("opening: %v", err)
				}
				return
			}
			whole, err := ingest.NewReader(r, fm, jsondoc.Limits{Bytes: 4096})
			if err != nil {
				t.Fatal(err)
			}
			byLine, err := ingest.NewLineReader(body, fm, jsondoc.Limits{Bytes: 4096})
			if err != nil {
				t.Fatal(err)
			}
			for what, rd := range map[string]*ingest.Reader{"stream": whole, "lines": byLine} {
				last := 0
				for n := 0; ; n++ {
					rec, err := rd.Next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						if what == "lines" || !errors.Is(err, staunch.ErrInvalid) && !errors.Is(err, ingest.ErrTooLarge) {
							t.Fatalf("%s: %v", what, err)
						}
						break
					}
					if n > limit+1 {
						t.Fatalf("%s: more records than bytes", what)
					}
					switch {
					case (rec.Doc == nil) != (rec.Err != nil):
						t.Fatalf("%s: record %d: doc %v, error %v", what, rec.Number, rec.Doc, rec.Err)
					case what == "stream" && rec.Number != last+1, rec.Number < last, rec.Number == 0:
						t.Fatalf("%s: record %d after %d", what, rec.Number, last)
					}
					last = rec.Number
				}
			}
		}
	})
}
