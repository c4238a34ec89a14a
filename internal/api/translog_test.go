package api

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
)

// TestVerifyLogged: a receipt is checked with the key that comes with it, or else
// with the configured log's; that of another log is let be.
func TestVerifyLogged(t *testing.T) {
	t.Parallel()
	ours, old := fakelog.Start(t, "log.example.org/2027"), fakelog.Start(t, "log.example.org/2026")
	parsed, err := record.ParseTransparencyLog(ours.Key, ours.Origin)
	must(t, err)
	r := newRig(t, func(o *Options) { o.TransparencyLog = parsed })
	// logged is a checkpoint that a log took.
	logged := func(l *fakelog.Log) record.Checkpoint {
		t.Helper()
		cp, err := r.chain.Checkpoint(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), nil)
		must(t, err)
		req, err := r.chain.LogRequest(cp)
		must(t, err)
		entry, err := fakelog.Entry(req)
		must(t, err)
		n := l.Add(entry)
		b, err := json.Marshal(l.Answer(n, n+1))
		must(t, err)
		log, err := record.ParseTransparencyLog(l.Key, l.Origin)
		must(t, err)
		cp.Logged, _, err = log.Receipt(b, cp, r.chain.PublicKey())
		must(t, err)
		return cp
	}
	const path = "/v1/records/verify"
	with := func(l *fakelog.Log) string {
		return path + "?" + url.Values{"log_key": {l.Key}, "log_origin": {l.Origin}}.Encode()
	}
	here, before := logged(ours), logged(old)
	bare := here
	bare.Logged = nil
	bent := logged(ours)
	bent.Logged.InclusionProof.TreeSize = "9"
	edited := here
	edited.At++
	long := here
	receipt := *here.Logged
	receipt.InclusionProof.Hashes = slices.Repeat([][]byte{make([]byte, 32)}, 64)
	long.Logged = &receipt
	for name, tc := range map[string]struct {
		cp     record.Checkpoint
		path   string
		status int
		want   record.Logged // of an answer that is 200
		says   string
	}{
		"the configured log's":       {here, path, 200, record.Logged{Checked: true, Origin: ours.Origin, TreeSize: 1}, ""},
		"the log's before":           {before, path, 200, record.Logged{}, ""},
		"the log's before, with key": {before, with(old), 200, record.Logged{Checked: true, Origin: old.Origin, TreeSize: 1}, ""},
		"none":                       {bare, path, 200, record.Logged{Entry: -1}, ""},
		"none, with a key":           {bare, with(ours), 400, record.Logged{}, "has no receipt"},
		"another key":                {here, with(old), 400, record.Logged{}, "made under another key"},
		"one that does not fit":      {bent, path, 400, record.Logged{}, "signature does not fit"},
		"one that is too long":       {long, path, 400, record.Logged{}, "at most 63"},
		"an edited checkpoint":       {edited, path, 400, record.Logged{}, "not signed by this log"},
		"no key":                     {here, path + "?log_key=abc", 400, record.Logged{}, "log_key"},
	} {
		a := r.want(r.do("admin", "POST", tc.path, tc.cp), tc.status)
		if !strings.Contains(a.Body.String(), tc.says) {
			t.Errorf("%s: %s", name, a.Body)
		}
		if tc.status != 200 {
			continue
		}
		var rep record.Report
		a.into(&rep)
		if tc.want.Entry < 0 {
			if rep.Logged != nil {
				t.Errorf("%s: %+v", name, rep.Logged)
			}
		} else if rep.Logged == nil || rep.Logged.Checked != tc.want.Checked || rep.Logged.Origin != tc.want.Origin {
			t.Errorf("%s: %+v", name, rep.Logged)
		}
	}
}
