package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
)

func testChain(t testing.TB, fill byte) *Chain {
	t.Helper()
	c, err := NewChain(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// add appends a record to a log the way a store does.
func add(t testing.TB, c *Chain, log []staunch.Record, r staunch.Record) []staunch.Record {
	t.Helper()
	r.V, r.Seq, r.Prev = staunch.Version, 1, ""
	for _, l := range log {
		if l.Lane == r.Lane {
			r.Seq, r.Prev = l.Seq+1, l.Hash
		}
	}
	h, err := c.Hash(r.Prev, r)
	if err != nil {
		t.Fatal(err)
	}
	r.Hash = h
	return append(log, r)
}

func sample(t testing.TB, c *Chain, lanes, each int) []staunch.Record {
	t.Helper()
	var log []staunch.Record
	for i := range each {
		for l := range lanes {
			log = add(t, c, log, staunch.Record{
				Lane: fmt.Sprintf("node-1/%d", l), Time: staunch.Time(1_790_000_000_000_000 + int64(i)),
				Kind: staunch.RecordIntent, Actor: "engine", About: "con_1",
				Body: json.RawMessage(fmt.Sprintf(`{"z":%d,"a":"<b> & é"}`, i)),
			})
		}
	}
	return log
}

func verify(t testing.TB, c *Chain, past *Checkpoint, log []staunch.Record) Report {
	t.Helper()
	v, err := NewVerifier(c, nil, past)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range log {
		if err := v.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	return v.Finish()
}

var genBody = rapid.SampledFrom([]string{``, `{}`, `null`, `{"a":1,"b":[true,null,"x"]}`, `{"state":"NOLOGIN","n":1e9}`, `"é\n"`})

// genLog draws a log of mixed lanes.
func genLog(t *rapid.T, tb testing.TB, c *Chain) []staunch.Record {
	n := rapid.IntRange(2, 14).Draw(t, "records")
	var log []staunch.Record
	for range n {
		log = add(tb, c, log, staunch.Record{
			Lane:  rapid.SampledFrom([]string{"a/1", "a/2", "b/1"}).Draw(t, "lane"),
			Time:  staunch.Time(rapid.Int64Range(0, int64(latest)).Draw(t, "time")),
			Kind:  rapid.SampledFrom([]staunch.RecordKind{staunch.RecordIntent, staunch.RecordProof}).Draw(t, "kind"),
			Actor: rapid.StringN(0, 5, 20).Draw(t, "actor"),
			About: rapid.StringN(0, 5, 20).Draw(t, "about"),
			Body:  json.RawMessage(genBody.Draw(t, "body")),
		})
	}
	return log
}

// mutate changes a whole log in one way that someone with the database but
// without the key could, and says how.
func mutate(t *rapid.T, log []staunch.Record) (how string, out []staunch.Record) {
	out = slices.Clone(log)
	i := rapid.IntRange(0, len(out)-1).Draw(t, "which")
	how = rapid.SampledFrom([]string{
		"v", "lane", "seq", "time", "kind", "actor", "about", "body", "prev", "hash",
		"swap", "drop", "twice", "copy", "other-key", "cut", "cut-lane",
	}).Draw(t, "how")
	r := &out[i]
	switch how {
	case "v":
		r.V++
	case "lane":
		r.Lane += "x"
	case "seq":
		r.Seq += rapid.SampledFrom([]int64{-1, 1, 100}).Draw(t, "by")
	case "time":
		r.Time ^= 1
	case "kind":
		r.Kind += "x"
	case "actor":
		r.Actor += "x"
	case "about":
		r.About, r.Actor = r.About+r.Actor+"x", ""
	case "body":
		r.Body = json.RawMessage(`{"edited":true}`)
	case "prev":
		r.Prev = strings.Repeat("0", hashLen)
	case "hash":
		b := []byte(r.Hash)
		b[rapid.IntRange(0, len(b)-1).Draw(t, "digit")] ^= 1
		r.Hash = string(b)
	case "swap":
		j := -1
		for k := range out {
			if k != i && out[k].Lane == r.Lane {
				j = k
			}
		}
		if j < 0 {
			t.Skip("a lane of one record")
		}
		out[i], out[j] = out[j], out[i]
	case "drop": // not the last of its lane: that is a cut
		last := true
		for k := i + 1; k < len(out); k++ {
			last = last && out[k].Lane != out[i].Lane
		}
		if last {
			t.Skip("the last of its lane")
		}
		out = slices.Delete(out, i, i+1)
	case "twice":
		out = slices.Insert(out, i, out[i])
	case "copy": // one lane's record in another lane's place, renumbered
		c := out[rapid.IntRange(0, len(out)-1).Draw(t, "from")]
		if c.Hash == r.Hash {
			t.Skip("itself")
		}
		c.Lane, c.Seq, c.Prev = r.Lane, r.Seq, r.Prev
		out[i] = c
	case "other-key": // the rest of the lane made again without the right key
		forger, _ := NewChain(bytes.Repeat([]byte{9}, KeySize))
		r.Actor += "forged"
		for k, prev := i, r.Prev; k < len(out); k++ {
			if out[k].Lane != out[i].Lane {
				continue
			}
			out[k].Prev = prev
			out[k].Hash, _ = forger.Hash(prev, out[k])
			prev = out[k].Hash
		}
	case "cut":
		keep := rapid.IntRange(0, len(out)-1).Draw(t, "keep")
		out = out[:keep]
	case "cut-lane":
		lane := r.Lane
		out = slices.DeleteFunc(out, func(r staunch.Record) bool { return r.Lane == lane })
	}
	return how, out
}

// Invariant I15: any edit, reorder or truncation of records past an exported
// checkpoint is detected.
func TestAnyChangeIsFound(t *testing.T) {
	c := testChain(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		log := genLog(rt, t, c)
		whole := verify(t, c, nil, log)
		if err := whole.Err(); err != nil {
			rt.Fatalf("a whole log: %v", err)
		}
		past, err := c.Checkpoint(time.Unix(1_790_000_000, 0), whole.Heads)
		if err != nil {
			rt.Fatal(err)
		}
		// More records after the checkpoint do no harm, and hide nothing.
		if rapid.Bool().Draw(rt, "grows") {
			longer := add(t, c, slices.Clone(log), staunch.Record{Lane: "c/1", Kind: staunch.RecordNode, Actor: "engine"})
			if err := verify(t, c, &past, longer).Err(); err != nil {
				rt.Fatalf("a longer log: %v", err)
			}
		}
		how, changed := mutate(rt, log)
		if verify(t, c, &past, changed).Err() == nil {
			rt.Fatalf("%s was not found", how)
		}
		if how != "cut" && how != "cut-lane" && verify(t, c, nil, changed).Err() == nil {
			rt.Fatalf("%s was not found without a checkpoint", how)
		}
		export := exported(t, c, log)
		bad, err := VerifyExport(bytes.NewReader(forgedExport(t, export, changed)), VerifyOptions{Chain: c})
		if err == nil && bad.Err() == nil {
			rt.Fatalf("%s was not found in an export", how)
		}
		bad, err = VerifyExport(bytes.NewReader(forgedExport(t, export, changed)), VerifyOptions{PublicKey: c.PublicKey()})
		if err == nil && bad.Err() == nil {
			rt.Fatalf("%s was not found in an export with the public key", how)
		}
	})
}

func each(log []staunch.Record) iter.Seq2[staunch.Record, error] {
	return func(yield func(staunch.Record, error) bool) {
		for _, r := range log {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func exported(t testing.TB, c *Chain, log []staunch.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Export(&b, c, time.Unix(1_790_000_000, 0), each(log)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// forgedExport puts other records between an export's first and last line.
func forgedExport(t testing.TB, export []byte, log []staunch.Record) []byte {
	t.Helper()
	ls := bytes.SplitAfter(export, []byte("\n"))
	out := bytes.Clone(ls[0])
	var line bytes.Buffer
	for _, r := range log {
		if err := encodeLine(&line, r); err != nil {
			t.Fatal(err)
		}
		out = append(out, line.Bytes()...)
	}
	return append(out, ls[len(ls)-2]...)
}

func TestBreaksAreNamed(t *testing.T) {
	c := testChain(t, 1)
	log := sample(t, c, 2, 4) // 0:a1 1:b1 2:a2 3:b2 4:a3 5:b3 6:a4 7:b4
	past, err := c.Checkpoint(time.Unix(1_790_000_000, 0), verify(t, c, nil, log).Heads)
	if err != nil {
		t.Fatal(err)
	}
	rewritten := sample(t, c, 1, 3) // by someone who has the key
	rewritten = add(t, c, rewritten, staunch.Record{Lane: "node-1/0", Kind: staunch.RecordIntent, Actor: "other"})
	for i, r := range log {
		if log[i].Lane == "node-1/1" {
			rewritten = append(rewritten, r)
		}
	}
	for name, c2 := range map[string]struct {
		log  []staunch.Record
		want Break
	}{
		"edited": {func() []staunch.Record { l := slices.Clone(log); l[2].Actor = "x"; return l }(),
			Break{Kind: BreakEdited, Lane: "node-1/0", Seq: 2}},
		"gap":       {slices.Delete(slices.Clone(log), 2, 3), Break{Kind: BreakGap, Lane: "node-1/0", Seq: 3}},
		"reordered": {append(slices.Clone(log), log[2]), Break{Kind: BreakReordered, Lane: "node-1/0", Seq: 2}},
		"unlinked": {func() []staunch.Record { l := slices.Clone(log); l[2].Prev = strings.Repeat("a", hashLen); return l }(),
			Break{Kind: BreakUnlinked, Lane: "node-1/0", Seq: 2}},
		"truncated": {log[:6], Break{Kind: BreakTruncated, Lane: "node-1/0", Seq: 3}},
		"lane gone": {rewritten[:4][:0], Break{Kind: BreakTruncated, Lane: "node-1/0", Seq: 0}},
		"rewritten": {rewritten, Break{Kind: BreakRewritten, Lane: "node-1/0", Seq: 4}},
		"twice in a body": {func() []staunch.Record {
			l := slices.Clone(log)
			l[2].Body = json.RawMessage(`{"a":1,"a":2}`)
			return l
		}(), Break{Kind: BreakEdited, Lane: "node-1/0", Seq: 2}},
	} {
		r := verify(t, c, &past, c2.log)
		if len(r.Breaks) == 0 {
			t.Errorf("%s: nothing found", name)
			continue
		}
		got := r.Breaks[0]
		if got.Reason == "" || !errors.Is(r.Err(), ErrBroken) {
			t.Errorf("%s: %+v, %v", name, got, r.Err())
		}
		got.Reason = ""
		if got != c2.want {
			t.Errorf("%s: %+v, want %+v", name, got, c2.want)
		}
	}
	// The lane that was left alone is still vouched for.
	r := verify(t, c, nil, slices.Delete(slices.Clone(log), 2, 3))
	if len(r.Breaks) != 1 || r.Records != 7 || len(r.Heads) != 2 || r.Heads[1].Seq != 4 || r.Heads[0].Seq != 1 {
		t.Errorf("report %+v", r)
	}
}

func TestExportRoundTrip(t *testing.T) {
	c := testChain(t, 1)
	log := sample(t, c, 3, 5)
	export := exported(t, c, log)
	for name, o := range map[string]VerifyOptions{"key": {Chain: c}, "public key": {PublicKey: c.PublicKey()}} {
		r, err := VerifyExport(bytes.NewReader(export), o)
		if err != nil || r.Err() != nil {
			t.Fatalf("%s: %v, %v", name, err, r.Err())
		}
		if r.Records != 15 || !r.Signed || r.Keyed != (o.Chain != nil) || r.Checkpoint == nil || len(r.Heads) != 3 {
			t.Fatalf("%s: %+v", name, r)
		}
		// The next export still has what this one saw.
		longer := add(t, c, slices.Clone(log), staunch.Record{Lane: "node-1/0", Kind: staunch.RecordNode, Actor: "engine"})
		o.Past = r.Checkpoint
		if r, err := VerifyExport(bytes.NewReader(exported(t, c, longer)), o); err != nil || r.Err() != nil {
			t.Fatalf("%s: a later export: %v, %v", name, err, r.Err())
		}
		// An export that is whole by itself, but shorter than the checkpoint.
		r, err = VerifyExport(bytes.NewReader(exported(t, c, log[:12])), o)
		if err != nil || r.Err() == nil || r.Breaks[0].Kind != BreakTruncated || !r.Signed {
			t.Fatalf("%s: a shorter export: %+v, %v", name, r, err)
		}
		// The same by someone who has the key: another record, all made again.
		other := add(t, c, slices.Clone(log[:14]), staunch.Record{Lane: "node-1/2", Kind: staunch.RecordNode, Actor: "forger"})
		r, err = VerifyExport(bytes.NewReader(exported(t, c, other)), o)
		if err != nil || r.Err() == nil || r.Breaks[0].Kind != BreakRewritten {
			t.Fatalf("%s: a rewritten export: %+v, %v", name, r, err)
		}
	}
	empty := exported(t, c, nil)
	if r, err := VerifyExport(bytes.NewReader(empty), VerifyOptions{Chain: c}); err != nil || r.Err() != nil || !r.Signed {
		t.Fatalf("an empty log: %+v, %v", r, err)
	}
}

// Every byte of an export is covered: with either key, changing, adding or
// dropping any one of them is found.
func TestEveryByteOfAnExportCounts(t *testing.T) {
	c := testChain(t, 1)
	export := exported(t, c, sample(t, c, 2, 2))
	for name, o := range map[string]VerifyOptions{"key": {Chain: c}, "public key": {PublicKey: c.PublicKey()}} {
		for i := range export {
			for how, bent := range map[string][]byte{
				"changed": func() []byte { b := bytes.Clone(export); b[i] ^= 1; return b }(),
				"dropped": slices.Delete(bytes.Clone(export), i, i+1),
				"blank":   slices.Insert(bytes.Clone(export), i, ' '),
				"cut":     export[:i],
			} {
				if r, err := VerifyExport(bytes.NewReader(bent), o); err == nil && r.Err() == nil {
					t.Fatalf("%s: byte %d %s was not found", name, i, how)
				}
			}
		}
	}
}

func TestVerifyExportRefuses(t *testing.T) {
	c, other := testChain(t, 1), testChain(t, 2)
	log := sample(t, c, 1, 2)
	export := exported(t, c, log)
	ls := bytes.SplitAfter(export, []byte("\n"))
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	past, err := other.Checkpoint(time.Unix(1, 0), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]struct {
		in   []byte
		o    VerifyOptions
		want error
	}{
		"no key":             {export, VerifyOptions{}, staunch.ErrInvalid},
		"another key":        {export, VerifyOptions{Chain: other}, ErrWrongKey},
		"another public key": {export, VerifyOptions{PublicKey: other.PublicKey()}, ErrWrongKey},
		"another checkpoint": {export, VerifyOptions{Chain: c, Past: &past}, ErrSignature},
		"empty":              {nil, VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"not an export":      {[]byte("{}\n"), VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"later version":      {bytes.Replace(export, []byte(`"v":1`), []byte(`"v":2`), 1), VerifyOptions{Chain: c}, staunch.ErrInvalid},
		"long line":          {join(ls[0], bytes.Repeat([]byte("x"), MaxLine+1)), VerifyOptions{Chain: c}, staunch.ErrInvalid},
	} {
		if _, err := VerifyExport(bytes.NewReader(k.in), k.o); !errors.Is(err, k.want) {
			t.Errorf("%s: %v, want %v", name, err, k.want)
		}
	}
	for name, k := range map[string]struct {
		in   []byte
		want BreakKind
		line int64
	}{
		"no checkpoint":    {join(ls[0], ls[1], ls[2]), BreakUnsigned, 3},
		"goes on":          {join(export, ls[1]), BreakMalformed, 5},
		"blank line":       {join(ls[0], []byte("\n"), ls[1], ls[2], ls[3]), BreakMalformed, 2},
		"name twice":       {bytes.Replace(export, []byte(`"actor":"engine"`), []byte(`"actor":"me","actor":"engine"`), 1), BreakMalformed, 2},
		"other case":       {bytes.Replace(export, []byte(`"actor"`), []byte(`"Actor"`), 1), BreakMalformed, 2},
		"unknown name":     {bytes.Replace(export, []byte(`"actor"`), []byte(`"note":1,"actor"`), 1), BreakMalformed, 2},
		"windows line end": {bytes.ReplaceAll(export, []byte("\n"), []byte("\r\n")), BreakMalformed, 1},
		"old checkpoint":   {join(ls[0], ls[1], ls[2], bytes.SplitAfter(exported(t, c, log[:1]), []byte("\n"))[2]), BreakUnsigned, 4},
	} {
		r, err := VerifyExport(bytes.NewReader(k.in), VerifyOptions{PublicKey: c.PublicKey()})
		if err != nil || len(r.Breaks) == 0 || r.Breaks[0].Kind != k.want || r.Breaks[0].Line != k.line || !strings.Contains(r.Breaks[0].String(), "line ") {
			t.Errorf("%s: %+v, %v", name, r.Breaks, err)
		}
		if r.Signed && name != "goes on" {
			t.Errorf("%s: found signed", name)
		}
	}
}

func TestExportOfABrokenLogVouchesForNothing(t *testing.T) {
	c := testChain(t, 1)
	for name, body := range map[string]string{"edited": `{"edited":true}`, "no JSON": `{`, "twice": `{"a":1,"a":1}`} {
		log := sample(t, c, 2, 3)
		log[2].Body = json.RawMessage(body)
		var b bytes.Buffer
		if _, err := Export(&b, c, time.Unix(1, 0), each(log)); !errors.Is(err, ErrBroken) {
			t.Fatalf("%s: %v", name, err)
		}
		if n := bytes.Count(b.Bytes(), []byte("\n")); n != 7 {
			t.Fatalf("%s: %d lines, want all 6 records after the first line", name, n)
		}
		r, err := VerifyExport(&b, VerifyOptions{Chain: c})
		if err != nil || r.Signed || len(r.Breaks) != 2 || r.Breaks[0].Kind != BreakEdited || r.Breaks[1].Kind != BreakUnsigned {
			t.Fatalf("%s: %+v, %v", name, r, err)
		}
	}
	boom := errors.New("boom")
	var b bytes.Buffer
	if _, err := Export(&b, c, time.Unix(1, 0), func(yield func(staunch.Record, error) bool) { yield(staunch.Record{}, boom) }); !errors.Is(err, boom) {
		t.Fatalf("a failing store: %v", err)
	}
	if _, err := Export(failing{boom}, c, time.Unix(1, 0), each(sample(t, c, 1, 1))); !errors.Is(err, boom) {
		t.Fatalf("a full disk: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestHashRefusesWhatHasNoOneForm(t *testing.T) {
	c := testChain(t, 1)
	good := staunch.Record{V: 1, Lane: "a/1", Seq: 1, Kind: staunch.RecordIntent}
	if _, err := c.Hash("", good); err != nil {
		t.Fatal(err)
	}
	h := strings.Repeat("0", hashLen)
	for name, k := range map[string]struct {
		prev string
		edit func(*staunch.Record)
	}{
		"version":       {"", func(r *staunch.Record) { r.V = 2 }},
		"no lane":       {"", func(r *staunch.Record) { r.Lane = "" }},
		"odd lane":      {"", func(r *staunch.Record) { r.Lane = "a b" }},
		"long lane":     {"", func(r *staunch.Record) { r.Lane = strings.Repeat("a", MaxLane+1) }},
		"number":        {"", func(r *staunch.Record) { r.Seq = 0 }},
		"first linked":  {h, func(*staunch.Record) {}},
		"second unlink": {"", func(r *staunch.Record) { r.Seq = 2 }},
		"short prev":    {"00", func(r *staunch.Record) { r.Seq = 2 }},
		"upper prev":    {strings.Repeat("A", hashLen), func(r *staunch.Record) { r.Seq = 2 }},
		"time":          {"", func(r *staunch.Record) { r.Time = -1 }},
		"late":          {"", func(r *staunch.Record) { r.Time = latest + 1 }},
		"no kind":       {"", func(r *staunch.Record) { r.Kind = "" }},
		"actor":         {"", func(r *staunch.Record) { r.Actor = "\xff" }},
		"about":         {"", func(r *staunch.Record) { r.About = strings.Repeat("a", MaxText+1) }},
		"body":          {"", func(r *staunch.Record) { r.Body = json.RawMessage(`{`) }},
	} {
		r := good
		k.edit(&r)
		if _, err := c.Hash(k.prev, r); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCanonical(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	for in, want := range map[string]string{
		``:                                ``,
		` null `:                          `null`,
		`{ "b": 1, "a": [ true, {} ] }`:   `{"a":[true,{}],"b":1}`,
		`"\u003c\u00e9\/<&>"`:             `"<é/<&>"`,
		`"\ud83d\ude00"`:                  `"😀"`,
		`"\\ud800"`:                       `"\\ud800"`,
		`1.50`:                            `1.50`,
		`12345678901234567890`:            `12345678901234567890`,
		`{"":"","é":1,"z":{"y":1,"x":2}}`: `{"":"","z":{"x":2,"y":1},"é":1}`,
		deep:                              deep,
	} {
		got, err := Canonical([]byte(in))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{
		`{`, `[1,]`, `{"a":1,}`, `1 2`, `{} x`, "\x01", `"` + "\xff" + `"`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"x":{"a":1,"a":2}}`,
		`"\ud800"`, `"\udc00"`, `"\ud800\u0041"`, `"\ud800x"`, `"\\\ud800"`, `[` + deep + `]`, `nul`, `01`, `-`, `"a`, ` `,
		`"` + strings.Repeat("a", MaxBody) + `"`, `"` + strings.Repeat("\u2028", MaxBody/4) + `"`,
	} {
		if got, err := Canonical([]byte(in)); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%.40q: %.40q, %v", in, got, err)
		}
	}
}

func TestHashIsTheFirstReleases(t *testing.T) {
	c := testChain(t, 1)
	r := staunch.Record{
		V: 1, Lane: "node-1/0", Seq: 2, Time: 1_790_000_000_000_000, Kind: staunch.RecordIntent,
		Actor: "engine", About: "con_1", Body: json.RawMessage(`{"verb":"suspend", "realm":"pg/prod"}`),
	}
	h, err := c.Hash(strings.Repeat("0", hashLen), r)
	if err != nil || h != "bbf8cb5e36682fd2d39b24cd756008e1a53933b2ef9335c0f121dd490e98c2ec" {
		t.Errorf("hash %s, %v", h, err)
	}
	if got := keyText(c.PublicKey()); got != "a26d591dcead114ffd9e980b763d073d90c16c0386716ae2eae656c5f198f43e" {
		t.Errorf("public key %s", got)
	}
	// The JSON that goes to people does not change the hash.
	var again staunch.Record
	b, _ := json.Marshal(r)
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	if h2, err := c.Hash(strings.Repeat("0", hashLen), again); err != nil || h2 != h {
		t.Errorf("hash after JSON %s, %v", h2, err)
	}
}

func TestCheckpoint(t *testing.T) {
	c := testChain(t, 1)
	h := strings.Repeat("0", hashLen)
	good, err := c.Checkpoint(time.Unix(1_790_000_000, 0), []Head{{"b", 1, h}, {"a", 2, h}})
	if err != nil {
		t.Fatal(err)
	}
	if good.Heads[0].Lane != "a" {
		t.Errorf("not sorted: %+v", good.Heads)
	}
	if err := good.Verify(c.PublicKey()); err != nil {
		t.Error(err)
	}
	b, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	var again Checkpoint
	if err := json.Unmarshal(b, &again); err != nil || again.Verify(c.PublicKey()) != nil {
		t.Errorf("through JSON: %v", err)
	}
	for name, edit := range map[string]func(*Checkpoint){
		"at":        func(c *Checkpoint) { c.At++ },
		"seq":       func(c *Checkpoint) { c.Heads[0].Seq-- },
		"hash":      func(c *Checkpoint) { c.Heads[0].Hash = "1" + h[1:] },
		"lane":      func(c *Checkpoint) { c.Heads[1].Lane = "c" },
		"dropped":   func(c *Checkpoint) { c.Heads = c.Heads[:1] },
		"digest":    func(c *Checkpoint) { c.Digest = "sha256:" },
		"records":   func(c *Checkpoint) { c.Records = 1 },
		"signature": func(c *Checkpoint) { c.Signature = "" },
	} {
		bent := good
		bent.Heads = slices.Clone(good.Heads)
		edit(&bent)
		if err := bent.Verify(c.PublicKey()); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := good.Verify(testChain(t, 2).PublicKey()); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	if err := good.Verify(ed25519.PublicKey{}); !errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
	for name, heads := range map[string][]Head{
		"lane twice": {{"a", 1, h}, {"a", 2, h}}, "no lane": {{"", 1, h}}, "number": {{"a", 0, h}}, "hash": {{"a", 1, "x"}},
		"many": make([]Head, MaxLanes+1),
	} {
		if _, err := c.Checkpoint(time.Unix(1, 0), heads); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k, err := ParsePublicKey(keyText(c.PublicKey())); err != nil || !k.Equal(c.PublicKey()) {
		t.Errorf("public key: %v", err)
	}
	if _, err := ParsePublicKey("00"); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a short public key: %v", err)
	}
}

func TestLanesAreBounded(t *testing.T) {
	v, err := NewVerifier(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxLanes {
		if err := v.Add(staunch.Record{Lane: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Add(staunch.Record{Lane: "one more"}); !errors.Is(err, staunch.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func TestChainPrintsNoKey(t *testing.T) {
	c := testChain(t, 1)
	for _, verb := range []string{"%v", "%+v", "%#v", "%x"} {
		if got := fmt.Sprintf(verb, c); !strings.HasPrefix(got, "chain:") || len(got) > 30 {
			t.Errorf("%s prints %q", verb, got)
		}
	}
	if _, err := NewChain(make([]byte, KeySize-1)); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a short key: %v", err)
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b":[1,2.0,{"x":null}],"a":"\ud83d\ude00\\"}`, `"\ud800"`, `[[[]]]`, ` 1 `, `{"a":1,"a":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		one, err := Canonical(b)
		if err != nil {
			return
		}
		two, err := Canonical(one)
		if err != nil || !bytes.Equal(one, two) {
			t.Fatalf("%q, then %q, %v", one, two, err)
		}
		if len(b) > 0 && !json.Valid(one) {
			t.Fatalf("%q became %q", b, one)
		}
	})
}

func FuzzVerifyExport(f *testing.F) {
	c := testChain(f, 1)
	export := exported(f, c, sample(f, c, 2, 2))
	f.Add(export)
	f.Add(export[:len(export)/2])
	f.Add([]byte("{}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := VerifyExport(bytes.NewReader(b), VerifyOptions{Chain: c})
		if err == nil && r.Err() == nil && !bytes.Equal(b, export) {
			t.Fatalf("an export that nobody wrote was found whole: %q", b)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	c := testChain(b, 1)
	r := staunch.Record{V: 1, Lane: "node-1/0", Seq: 1, Kind: staunch.RecordIntent, Actor: "engine", About: "con_1",
		Body: json.RawMessage(`{"step":"stp_0123456789","target":"account:pg/prod:role:ci-deployer#login","verb":"suspend","call":"ALTER ROLE ci-deployer NOLOGIN","pre_image":"sha256:abcd","generation":3}`)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Hash("", r); err != nil {
			b.Fatal(err)
		}
	}
}
