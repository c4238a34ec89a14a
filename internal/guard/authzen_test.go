package guard_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/guard"
)

var mappings = []guard.Mapping{
	{Type: "user", Ref: account("")},
	{Type: "agent", Property: "run", Ref: session("")},
	{Type: "agent", Ref: account("")},
	{Type: "bearer", Property: "token", Ref: staunch.Ref{Kind: staunch.KindCredential, Realm: "agents", Scheme: "sha256"}, Digest: true},
}

// pdp is a guard that holds bob and carol (for writing), a run and a token.
func pdp(t testing.TB) fixture {
	f := fresh(t, guard.Options{Mappings: mappings})
	f.Apply(hold("bob", 1, account("bob"), "*"))
	f.Apply(hold("carol", 2, account("carol"), "write"))
	f.Apply(hold("run", 3, session("r1"), "*"))
	f.Apply(hold("token", 4, staunch.Ref{Kind: staunch.KindCredential, Realm: "agents", Scheme: "sha256", Value: staunch.Digest([]byte("s3cret"))}, "*"))
	return f
}

const (
	alice    = `{"type":"user","id":"alice"}`
	bob      = `{"type":"user","id":"bob"}`
	read     = `{"name":"read"}`
	document = `{"type":"document","id":"1"}`
)

func single(subject, action string) string {
	return `{"subject":` + subject + `,"action":` + action + `,"resource":` + document + `}`
}

func TestEvaluation(t *testing.T) {
	f := pdp(t)
	for name, c := range map[string]struct {
		body   string
		allow  bool
		reason guard.Reason
		hold   string
	}{
		"no hold":             {single(alice, read), true, guard.ReasonNoHold, ""},
		"hold":                {single(bob, read), false, guard.ReasonHold, "bob"},
		"hold on writing":     {single(`{"type":"user","id":"carol"}`, `{"name":"can_write"}`), false, guard.ReasonHold, "carol"},
		"not held on reading": {single(`{"type":"user","id":"carol"}`, read), true, guard.ReasonNoHold, ""},
		"property":            {single(`{"type":"agent","id":"alice","properties":{"run":"r1","n":{"a":[1]}}}`, read), false, guard.ReasonHold, "run"},
		"id beside property":  {single(`{"type":"agent","id":"bob","properties":{"run":"r2"}}`, read), false, guard.ReasonHold, "bob"},
		"property left out":   {single(`{"type":"agent","id":"alice"}`, read), true, guard.ReasonNoHold, ""},
		"property not a text": {single(`{"type":"agent","id":"alice","properties":{"run":1}}`, read), true, guard.ReasonNoHold, ""},
		"digest":              {single(`{"type":"bearer","id":"x","properties":{"token":"s3cret"}}`, read), false, guard.ReasonHold, "token"},
		"another digest":      {single(`{"type":"bearer","id":"x","properties":{"token":"other"}}`, read), true, guard.ReasonNoHold, ""},
		// Whoever cannot be told is denied.
		"unknown type":    {single(`{"type":"robot","id":"alice"}`, read), false, guard.ReasonUnresolved, ""},
		"no property":     {single(`{"type":"bearer","id":"x"}`, read), false, guard.ReasonUnresolved, ""},
		"empty property":  {single(`{"type":"bearer","id":"x","properties":{"token":""}}`, read), false, guard.ReasonUnresolved, ""},
		"too long an id":  {single(`{"type":"user","id":"`+strings.Repeat("x", staunch.MaxValueLen+1)+`"}`, read), false, guard.ReasonUnresolved, ""},
		"escaped":         {single(`{"type":"user","id":"\u0062ob"}`, read), false, guard.ReasonHold, "bob"},
		"context":         {`{"context":{"time":"2025-06-27T18:03-07:00"},` + single(alice, read)[1:], true, guard.ReasonNoHold, ""},
		"null context":    {`{"context":null,` + single(alice, read)[1:], true, guard.ReasonNoHold, ""},
		"unknown members": {`{"foo":"bar","futureField":{"nested":true},` + single(alice, read)[1:], true, guard.ReasonNoHold, ""},
		"more properties": {`{"subject":{"type":"user","id":"alice","properties":{"role":"manager"}},"action":{"name":"read","properties":{"method":"GET"}},"resource":{"type":"record","id":"record-1","properties":{"owner":"bob"}}}`, true, guard.ReasonNoHold, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := f.Evaluation(strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if a.Decision != c.allow || a.Context.Reason != c.reason || a.Context.Hold != c.hold || a.Context.Error != nil {
				t.Errorf("%+v %+v", a, a.Context)
			}
			// Without evaluations the other endpoint answers the same.
			for _, more := range []string{"", `,"evaluations":[]`, `,"evaluations":null`} {
				b, err := f.Evaluations(strings.NewReader(strings.TrimSuffix(c.body, "}") + more + "}"))
				if err != nil {
					t.Fatal(err)
				}
				if encode(t, a) != encode(t, b) {
					t.Errorf("evaluations%s: %s, want %s", more, encode(t, b), encode(t, a))
				}
			}
		})
	}
	a, err := f.Evaluation(strings.NewReader(single(bob, read)))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"decision":false,"context":{"reason":"hold","hold":"bob","message":"contained by con_1","containments":["con_1"]}}`
	if got := encode(t, a); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestBadRequests has what is answered with status 400, with the place of it.
// TestRespelledTokens: a thief who spells the end of a JWT in another way, which
// many decoders take for the same token, does not slip the hold on its digest.
func TestRespelledTokens(t *testing.T) {
	g := guard.New(guard.Options{Clock: newClock(), Store: &memory{}, Mappings: []guard.Mapping{
		{Type: "bearer", Property: "token", Ref: staunch.Ref{Kind: staunch.KindCredential, Realm: "agents", Scheme: "sha256"}, Digest: true},
		{Type: "bearer", Ref: staunch.Ref{Kind: staunch.KindAccount, Realm: "agents", Scheme: "name"}},
	}})
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.AAECAwQFBgcICQoLDA0ODw" // 16 bytes: 4 bits are left over
	for token, want := range map[string]int{
		jwt:                    2,
		jwt[:len(jwt)-1] + "x": 0, // in the bits that are left over
		jwt + "==":             0,
		jwt + "!":              0,
		jwt + "\n":             0,
		strings.Replace(jwt, "CAwQ", "CA\r\nwQ", 1):            0,
		"eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.":                 2,
		"eyJhbGciOiJkaXIifQ..AAAA.AAAA.AAECAwQFBgcICQoLDA0ODx": 0, // a JWE
		"ya29.a0Af!.x":         2, // opaque tokens are as their issuers like
		"v1.AAECAw.x!":         2,
		"eyJhbGciOiJSUzI1NiJ9": 2,
		"opaque":               2,
	} {
		refs := g.Resolve(guard.Subject{Type: "bearer", ID: "ana", Property: func(string) string { return token }})
		if len(refs) != want {
			t.Errorf("%q gives %v, want %d refs", token, refs, want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	f := pdp(t)
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for name, c := range map[string]struct{ body, place string }{
		"empty":                {"", "body"},
		"blank":                {" \n", "body"},
		"not JSON":             {"{", "body"},
		"trailing":             {single(alice, read) + "x", "body"},
		"two values":           {single(alice, read) + single(alice, read), "body"},
		"not an object":        {"[]", "body"},
		"a name twice":         {`{"subject":` + alice + `,` + single(bob, read)[1:], "body"},
		"a name twice, hidden": {`{"subject":` + alice + `,"\u0073ubject":` + bob + `,"action":` + read + `,"resource":` + document + `}`, "body"},
		"not UTF-8":            {strings.Replace(single(alice, read), "alice", "al\xffice", 1), "body"},
		"too deep":             {`{"context":` + deep + `,` + single(alice, read)[1:], "body"},
		"too large":            {single(alice, read) + strings.Repeat(" ", guard.MaxRequest), "body"},
		"no subject":           {`{"action":` + read + `,"resource":` + document + `}`, "subject"},
		"other case":           {`{"Subject":` + alice + `,"action":` + read + `,"resource":` + document + `}`, "subject"},
		"null subject":         {single("null", read), "subject"},
		"no action":            {`{"subject":` + alice + `,"resource":` + document + `}`, "action"},
		"no resource":          {`{"subject":` + alice + `,"action":` + read + `}`, "resource"},
		"no subject type":      {single(`{"id":"alice"}`, read), "subject.type"},
		"no subject id":        {single(`{"type":"user"}`, read), "subject.id"},
		"null subject id":      {single(`{"type":"user","id":null}`, read), "subject.id"},
		"empty subject id":     {single(`{"type":"user","id":""}`, read), "subject.id"},
		"no action name":       {single(alice, `{}`), "action.name"},
		"no resource type":     {`{"subject":` + alice + `,"action":` + read + `,"resource":{"id":"1"}}`, "resource.type"},
		"no resource id":       {`{"subject":` + alice + `,"action":` + read + `,"resource":{"type":"document"}}`, "resource.id"},
		"subject is a text":    {single(`"alice"`, read), "subject"},
		"name is a number":     {single(alice, `{"name":123}`), "action.name"},
		"id is a number":       {single(`{"type":"user","id":7}`, read), "subject.id"},
		"properties":           {single(`{"type":"user","id":"alice","properties":[]}`, read), "subject.properties"},
		"context":              {`{"context":"now",` + single(alice, read)[1:], "context"},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(what string, err error) {
				t.Helper()
				var p *staunch.Problem
				if !errors.As(err, &p) || p.Place != c.place || p.Reason == "" {
					t.Errorf("%s: %v, want a problem at %s", what, err, c.place)
				}
			}
			_, err := f.Evaluation(strings.NewReader(c.body))
			check("evaluation", err)
			_, err = f.Evaluations(strings.NewReader(c.body))
			check("evaluations", err)
		})
	}
	for name, c := range map[string]struct{ body, place string }{
		"not a list":      {`{"evaluations":{}}`, "evaluations"},
		"options":         {`{"options":[],"evaluations":[{}]}`, "options"},
		"semantic":        {`{"options":{"evaluations_semantic":"some"},"evaluations":[{}]}`, "options.evaluations_semantic"},
		"semantic's type": {`{"options":{"evaluations_semantic":1},"evaluations":[{}]}`, "options.evaluations_semantic"},
		"a bad default":   {`{"subject":"alice","evaluations":[{}]}`, "subject"},
		"too many":        {`{"evaluations":[{}` + strings.Repeat(",{}", guard.MaxEvaluations) + `]}`, "evaluations"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.Evaluations(strings.NewReader(c.body))
			var p *staunch.Problem
			if !errors.As(err, &p) || p.Place != c.place {
				t.Errorf("%v, want a problem at %s", err, c.place)
			}
		})
	}
	// What could not be read is not the sender's mistake.
	broken := errors.New("broken")
	_, err := f.Evaluation(iotest.ErrReader(broken))
	var p *staunch.Problem
	if !errors.Is(err, broken) || errors.As(err, &p) {
		t.Errorf("a reader that fails: %v", err)
	}
	// The largest body is still read.
	body := single(alice, read)
	if _, err := f.Evaluation(strings.NewReader(body + strings.Repeat(" ", guard.MaxRequest-len(body)))); err != nil {
		t.Errorf("a body of the largest size: %v", err)
	}
}

func TestEvaluations(t *testing.T) {
	f := pdp(t)
	many := `{"subject":` + alice + `,"action":` + read + `,"resource":` + document + `,"evaluations":[{}` + strings.Repeat(",{}", guard.MaxEvaluations-1) + `]}`
	three := `"evaluations":[{"subject":` + alice + `},{"subject":` + bob + `},{"subject":` + alice + `}]}`
	top := `{"action":` + read + `,"resource":` + document + `,`
	for name, c := range map[string]struct {
		body string
		want string // t, f and e for true, false, false with an error
	}{
		"no defaults":          {`{"evaluations":[` + single(alice, read) + `,` + single(bob, read) + `]}`, "tf"},
		"defaults":             {top + three, "tft"},
		"all":                  {`{"options":{"evaluations_semantic":"execute_all","other":1},` + top[1:] + three, "tft"},
		"null options":         {`{"options":null,` + top[1:] + three, "tft"},
		"first deny":           {`{"options":{"evaluations_semantic":"deny_on_first_deny"},` + top[1:] + three, "tf"},
		"first permit":         {`{"options":{"evaluations_semantic":"permit_on_first_permit"},` + top[1:] + three, "t"},
		"none permits":         {`{"subject":` + bob + `,"options":{"evaluations_semantic":"permit_on_first_permit"},` + top[1:] + `"evaluations":[{},{},{}]}`, "fff"},
		"an action of its own": {`{"subject":{"type":"user","id":"carol"},` + top[1:] + `"evaluations":[{},{"action":{"name":"write"}}]}`, "tf"},
		"context of its own":   {`{"subject":` + alice + `,"context":{"a":1},` + top[1:] + `"evaluations":[{"context":{"b":2}}]}`, "t"},
		// Errors in one do not fail the others; they count as denials.
		"one lacks a resource":  {`{"subject":` + alice + `,"action":` + read + `,"evaluations":[{"resource":` + document + `},{}]}`, "te"},
		"one is not an object":  {`{"subject":` + alice + `,` + top[1:] + `"evaluations":[{},7,"x",[],{}]}`, "teeet"},
		"one is null":           {`{"subject":` + alice + `,` + top[1:] + `"evaluations":[null]}`, "t"},
		"one has a wrong type":  {`{"subject":` + alice + `,` + top[1:] + `"evaluations":[{"subject":"bob"},{"action":{"name":1}},{"context":[]},{}]}`, "eeet"},
		"one has an empty id":   {`{"subject":` + alice + `,` + top[1:] + `"evaluations":[{"subject":{"type":"user","id":""}}]}`, "e"},
		"an error denies first": {`{"options":{"evaluations_semantic":"deny_on_first_deny"},"subject":` + alice + `,"action":` + read + `,"evaluations":[{"resource":` + document + `},{},{"resource":` + document + `}]}`, "te"},
		"an error permits not":  {`{"options":{"evaluations_semantic":"permit_on_first_permit"},"subject":` + alice + `,"action":` + read + `,"evaluations":[{},{"resource":` + document + `},{}]}`, "et"},
		// A required text that is left out is the default's; its properties are not.
		"the type by default":    {`{"subject":{"type":"user"},"action":` + read + `,"resource":{"type":"document"},"evaluations":[{"subject":{"id":"alice"},"resource":{"id":"1"}},{"subject":{"id":"bob"},"resource":{"id":"1"}},{"subject":{"id":"bob"}}]}`, "tfe"},
		"no properties are lent": {`{"subject":{"type":"agent","id":"alice","properties":{"run":"r1"}},` + top[1:] + `"evaluations":[{},{"subject":{"id":"alice"}}]}`, "ft"},
		"as many as may be":      {many, strings.Repeat("t", guard.MaxEvaluations)},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := f.Evaluations(strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			out, ok := v.(guard.EvaluationsResponse)
			if !ok {
				t.Fatalf("a %T", v)
			}
			var got strings.Builder
			for i, a := range out.Evaluations {
				switch {
				case a.Decision:
					got.WriteByte('t')
				case a.Context.Reason == guard.ReasonInvalid:
					got.WriteByte('e')
					if a.Context.Error.Status != 400 || !strings.Contains(a.Context.Error.Message, fmt.Sprintf("evaluations[%d]", i)) {
						t.Errorf("evaluation %d: %+v", i, a.Context.Error)
					}
				default:
					got.WriteByte('f')
				}
			}
			if got.String() != c.want {
				t.Errorf("%s, want %s", got.String(), c.want)
			}
		})
	}
}

// TestAnswersDoNotShareMemory asks for one thing after another and compares the
// first answer again: requests use memory over.
func TestAnswersDoNotShareMemory(t *testing.T) {
	f := pdp(t)
	first, err := f.Evaluation(strings.NewReader(single(bob, read)))
	if err != nil {
		t.Fatal(err)
	}
	before := encode(t, first)
	for range 10 {
		if _, err := f.Evaluation(strings.NewReader(strings.ReplaceAll(single(alice, read), "alice", "zzzzz"))); err != nil {
			t.Fatal(err)
		}
	}
	if after := encode(t, first); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

func FuzzEvaluations(f *testing.F) {
	for _, s := range []string{
		single(alice, read), single(bob, read), `{"evaluations":[` + single(alice, read) + `,{}]}`, `{"evaluations":[{},1,null]}`,
		`{"subject":{"type":"user"},"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[{"subject":{"id":"bob"}}]}`,
		`{"subject":{"type":"agent","id":"bob","properties":{"run":"r1"}},"evaluations":[]}`, `[]`, `{`, "\xff",
	} {
		f.Add(s)
	}
	g := pdp(f)
	f.Fuzz(func(t *testing.T, body string) {
		v, err := g.Evaluations(strings.NewReader(body))
		if err != nil {
			var p *staunch.Problem
			if !errors.As(err, &p) {
				t.Fatalf("%v is not the sender's fault", err)
			}
			return
		}
		if !json.Valid([]byte(body)) {
			t.Fatal("answered what is not JSON")
		}
		a, err := g.Evaluation(strings.NewReader(body))
		switch out := v.(type) {
		case guard.EvaluationResponse:
			if err != nil || encode(t, a) != encode(t, out) {
				t.Fatalf("the endpoints differ: %+v %v", a, err)
			}
		case guard.EvaluationsResponse:
			if len(out.Evaluations) == 0 || len(out.Evaluations) > guard.MaxEvaluations {
				t.Fatalf("%d answers", len(out.Evaluations))
			}
		default:
			t.Fatalf("a %T", v)
		}
	})
}

// BenchmarkEvaluation has the bytes of a request to its answer, without HTTP.
func BenchmarkEvaluation(b *testing.B) {
	f := pdp(b)
	body := `{"subject":{"type":"agent","id":"alice@example.com","properties":{"run":"run-7"}},"action":{"name":"can_read"},"resource":{"type":"document","id":"boxcarring.md"},"context":{"time":"2025-06-27T18:03-07:00"}}`
	r := strings.NewReader(body)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		a, err := f.Evaluation(r)
		if err != nil || !a.Decision {
			b.Fatal(a, err)
		}
	}
}
