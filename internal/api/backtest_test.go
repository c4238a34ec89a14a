package api

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func TestBacktestStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "team-b", Role: "responder", Owners: []string{"team-b"}})
	lines := func(who, mode string) []BacktestLine {
		t.Helper()
		a := r.want(r.do(who, "POST", pathBacktest, BacktestRequest{Since: staunch.Duration(time.Hour), Mode: mode}), 200)
		if ct := a.Header().Get("Content-Type"); ct != "application/x-ndjson" {
			t.Errorf("of type %q", ct)
		}
		var out []BacktestLine
		for line := range strings.Lines(a.Body.String()) {
			var l BacktestLine
			must(t, json.Unmarshal([]byte(line), &l))
			out = append(out, l)
		}
		return out
	}
	ls := lines("responder", "")
	if len(ls) != 2 || ls[0].Type != "progress" || ls[1].V != 1 || ls[1].Summary == nil || ls[1].Summary.Decisions != 2 {
		t.Errorf("%+v", ls)
	}
	if ls = lines("team-b", ""); ls[1].Summary.Decisions != 1 {
		t.Errorf("a limited token: %+v", ls[1].Summary)
	}
	// What goes wrong later is a line, which tells nothing of the cause.
	if ls = lines("responder", "broken"); len(ls) != 2 || ls[1].Type != "error" || ls[1].Error == "" || strings.Contains(ls[1].Error, "10.0.0.1") {
		t.Errorf("%+v", ls)
	}
	if log := r.logged(); !strings.Contains(log, "10.0.0.1") {
		t.Errorf("the cause is not in the log: %s", log)
	}
	// What goes wrong before is a problem.
	r.want(r.do("responder", "POST", pathBacktest, `{"since":"1h","mode":"busy"}`), 429).problem()
	for body, place := range map[string]string{
		``: "body", `{`: "body", `[]`: "body", `{"since":"1h","since":"1h"}`: "body", `{"since":"1h","nosuch":1}`: "body",
		`{}`: "since", `{"since":"-1h"}`: "since", `{"since":"soon"}`: "body",
	} {
		if p := r.want(r.do("responder", "POST", pathBacktest, body), 400).problem(); p.Place != place {
			t.Errorf("%s: %+v", body, p)
		}
	}
	if p := r.want(r.do("responder", "POST", pathBacktest, `{"since":"1h","policies":[{"name":"x","text":"`+strings.Repeat("x", MaxLongBody)+`"}]}`), 413).problem(); p.Code != CodeTooLarge {
		t.Errorf("%+v", p)
	}
}
