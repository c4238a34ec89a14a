package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func TestIngest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.token(store.Token{Name: "gone", Role: "source", Source: "gone"})
	bad := []Rejection{{Record: 2, Error: "unexpected end"}}
	for _, tt := range []struct {
		name   string
		report IngestReport
		err    error
		status int
		code   string
	}{
		{name: "all good", report: IngestReport{Accepted: 3, Duplicates: 1, Matched: 1, Signals: 1}, status: 200},
		{name: "nothing", status: 200},
		{name: "some bad", report: IngestReport{Accepted: 1, Rejected: bad}, status: 200},
		{name: "all bad", report: IngestReport{Rejected: bad}, status: 400, code: CodeInvalid},
		{name: "unreadable", err: &staunch.Problem{Place: "body", Reason: "is not gzip"}, status: 400, code: CodeInvalid},
		{name: "cut off after some", report: IngestReport{Accepted: 2}, err: &staunch.Problem{Place: "body", Reason: "gzip: truncated"}, status: 400, code: CodeInvalid},
		{name: "too large unpacked", err: fmt.Errorf("reading: %w", ErrTooLarge), status: 413, code: CodeTooLarge},
		{name: "overloaded", err: fmt.Errorf("queue: %w", staunch.ErrOverloaded), status: 429, code: CodeOverloaded},
		{name: "store down", err: errors.New("disk I/O error at /var/lib/x"), status: 503, code: CodeUnavailable},
		{name: "platform class is a failure too", err: staunch.Transient(errors.New("x")), status: 503, code: CodeUnavailable},
		{name: "commit unknown", err: fmt.Errorf("x: %w", staunch.ErrCommitUnknown), status: 503, code: CodeCommitUnknown},
	} {
		r.ingest.report, r.ingest.err = tt.report, tt.err
		a := r.do("source", "POST", "/v1/ingest/trail", `{"a":1}`)
		if a.Code != tt.status {
			t.Errorf("%s: %d, want %d: %s", tt.name, a.Code, tt.status, a.Body)
			continue
		}
		if tt.status == 200 {
			var rep IngestReport
			a.into(&rep)
			if rep.V != 1 || rep.Rejected == nil || rep.Accepted != tt.report.Accepted || len(rep.Rejected) != len(tt.report.Rejected) {
				t.Errorf("%s: %+v", tt.name, rep)
			}
			continue
		}
		p := a.problem()
		if p.Code != tt.code || strings.Contains(a.Body.String(), "/var/lib") {
			t.Errorf("%s: %s", tt.name, a.Body)
		}
		if (p.Report != nil) != (tt.report.Accepted+len(tt.report.Rejected) > 0) {
			t.Errorf("%s: report %+v", tt.name, p.Report)
		}
		if tt.status == 429 || tt.status == 503 {
			if a.Header().Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", tt.name)
			}
		}
	}
	if !strings.Contains(r.logged(), "disk I/O error") {
		t.Error("the store's error is not in the log")
	}
	r.ingest.report, r.ingest.err = IngestReport{}, nil
	r.want(r.do("gone", "POST", "/v1/ingest/gone", `{}`), 404).problem()
	r.want(r.do("source", "POST", "/v1/ingest/other", `{}`), 403).problem()
	r.want(r.do("", "POST", "/v1/ingest/gone", `{}`), 401).problem()
	r.want(r.do("source", "POST", "/v1/ingest/", `{}`), 404)
}

func TestIngestReportIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range MaxRejected + 5 {
		r.ingest.report.Rejected = append(r.ingest.report.Rejected, Rejection{Record: i + 1, Error: "x"})
	}
	r.ingest.report.Accepted = 1
	var rep IngestReport
	r.want(r.do("source", "POST", "/v1/ingest/trail", `{}`), 200).into(&rep)
	if len(rep.Rejected) != MaxRejected || rep.MoreRejected != 5 {
		t.Errorf("%d listed, %d more", len(rep.Rejected), rep.MoreRejected)
	}
}

func TestIngestTooLarge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// Said beforehand: the body is not read.
	a := r.do("source", "POST", "/v1/ingest/trail", "{}", func(q *http.Request) { q.ContentLength = MaxIngest + 1 })
	r.want(a, 413).problem()
	if r.ingest.read != nil {
		t.Error("the body was read")
	}
	// Not said: found while reading, whatever the reader made of it.
	big := io.MultiReader(strings.NewReader("{"), bytes.NewReader(make([]byte, MaxIngest)))
	if p := r.want(r.do("source", "POST", "/v1/ingest/trail", big), 413).problem(); p.Code != CodeTooLarge {
		t.Errorf("%+v", p)
	}
	if n := len(r.ingest.read); n != MaxIngest {
		t.Errorf("%d bytes were read, the bound is %d", n, MaxIngest)
	}
	// As much as allowed is fine, and comes through as it is.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write([]byte(`{"a":1}`))
	must(t, z.Close())
	r.want(r.do("source", "POST", "/v1/ingest/trail", packed.Bytes(), func(q *http.Request) { q.Header.Set("Content-Encoding", "gzip") }), 200)
	if !bytes.Equal(r.ingest.read, packed.Bytes()) {
		t.Error("the body was changed on the way")
	}
	r.want(r.do("source", "POST", "/v1/ingest/trail", iotest.ErrReader(io.ErrUnexpectedEOF)), 400).problem()
}

func TestIngestsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.MostIngests = 2 })
	r.ingest.block, r.ingest.began = make(chan struct{}), make(chan struct{})
	done := make(chan int, 2)
	for range 2 {
		go func() { done <- r.do("source", "POST", "/v1/ingest/trail", `{}`).Code }()
		<-r.ingest.began
	}
	a := r.want(r.do("source", "POST", "/v1/ingest/trail", `{}`), 429)
	if a.problem(); a.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	close(r.ingest.block)
	for range 2 {
		if code := <-done; code != 200 {
			t.Errorf("%d", code)
		}
	}
	go func() { <-r.ingest.began }()
	r.want(r.do("source", "POST", "/v1/ingest/trail", `{}`), 200) // the places are free again
}

// A source whose senders never come to an end leaves places for the others.
func TestOneSourceLeavesPlaces(t *testing.T) {
	t.Parallel()
	for _, all := range []int{1, 2, 3, 5, 64} {
		p := places{free: all, held: map[string]int{}}
		took := 0
		for p.take("stolen") {
			took++
		}
		if most := max(1, all-all/4); took == 0 || took > most {
			t.Errorf("one source has %d of %d places, at most %d", took, all, most)
		}
		if left := all - took; all >= 4 && (left == 0 || !p.take("other") || left > 3 && !p.take("third")) {
			t.Errorf("of %d places one source took %d, and others get none", all, took)
		}
		for range took {
			p.give("stolen")
		}
		if p.held["stolen"] != 0 || !p.take("stolen") {
			t.Errorf("of %d places none is given back", all)
		}
	}

	r := newRig(t, func(o *Options) { o.MostIngests = 8 })
	r.token(store.Token{Name: "gone", Role: "source", Source: "gone"})
	r.ingest.block, r.ingest.began = make(chan struct{}), make(chan struct{})
	done := make(chan int, 6)
	for range 6 {
		go func() { done <- r.do("source", "POST", "/v1/ingest/trail", `{}`).Code }()
		<-r.ingest.began
	}
	r.want(r.do("source", "POST", "/v1/ingest/trail", `{}`), 429)
	r.want(r.do("gone", "POST", "/v1/ingest/gone", `{}`), 404) // it was asked
	close(r.ingest.block)
	for range 6 {
		if code := <-done; code != 200 {
			t.Errorf("%d", code)
		}
	}
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.do("source", "GET", "/v1/ingest/trail", nil, func(q *http.Request) { q.Header.Set("X-Okta-Verification-Challenge", "abc") })
	if r.want(a, 200); a.Body.String() != `{"verification":"abc"}` {
		t.Errorf("%s", a.Body)
	}
	r.want(r.do("source", "GET", "/v1/ingest/trail", nil), 404).problem()
}
