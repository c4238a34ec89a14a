package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
)

const pathIngest = "/v1/ingest/{source}"

func (s *Server) registerIngest() {
	s.handle(Route{Method: "POST", Path: pathIngest, Verb: auth.Ingest, Limit: bodyTimeout + usualTimeout, unread: true}, s.ingest)
	s.handle(Route{Method: "GET", Path: pathIngest, Verb: auth.Ingest}, s.challenge)
}

// places are for the bodies that are read at once. A body takes as long as its
// sender likes, up to bodyTimeout, so a stolen token of one source could hold them
// all and have nobody else heard.
type places struct {
	mu   sync.Mutex
	free int
	held map[string]int // by source
}

// take takes a place for the source, unless it holds three times as many as are
// free already: whatever one source does, there is a place for the next.
func (p *places) take(source string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[source] >= 3*p.free {
		return false
	}
	p.free--
	p.held[source]++
	return true
}

func (p *places) give(source string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.held[source]--; p.held[source] == 0 {
		delete(p.held, source)
	}
}

// Bounds of what is read of a body that is refused.
const (
	drainBytes = 1 << 20
	drainTime  = 2 * time.Second
)

// drain reads what the sender is still sending, within bounds, so that it gets to
// read the answer: a connection that is closed under it would reset.
func drain(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, r.Body, drainBytes) // what is not read does no harm
}

// source returns the request's source, once its principal may post for it.
func source(r *http.Request) (string, error) {
	p, err := auth.PrincipalOf(r.Context())
	if err != nil {
		return "", err
	}
	name := r.PathValue("source")
	if err := auth.Authorize(p, auth.Ingest, auth.Object{Source: name}); err != nil {
		return "", err
	}
	if !sourceName(name) {
		return "", fmt.Errorf("source %.140q: %w", name, staunch.ErrNotFound)
	}
	return name, nil
}

func (s *Server) ingest(w http.ResponseWriter, r *http.Request) {
	name, err := source(r)
	if err != nil {
		writeProblem(w, s.fail(r.Context(), err))
		return
	}
	if r.ContentLength > MaxIngest {
		writeProblem(w, s.fail(r.Context(), fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, r.ContentLength, MaxIngest)))
		return
	}
	if s.bodies.take(name) {
		defer s.bodies.give(name)
	} else {
		drain(w, r)
		writeProblem(w, s.fail(r.Context(), fmt.Errorf("%w: too many bodies are being read", staunch.ErrOverloaded)))
		return
	}
	// What unpacks the body may hide why it could not be read on.
	body := &watched{r: http.MaxBytesReader(w, r.Body, MaxIngest)}
	rep, err := s.opt.Ingest.Ingest(r.Context(), name, body, r.Header.Get("Content-Encoding"))
	rep = tidy(rep)
	if err != nil {
		if body.tooLarge != nil {
			err = body.tooLarge
		}
		p := *s.fail(r.Context(), storeFault(r.Context(), err))
		if rep.Accepted > 0 || len(rep.Rejected) > 0 {
			p.Report = &rep
			_ = p.hint("what was accepted is kept; sending all of it again does no harm")
		}
		writeProblem(w, &p)
		return
	}
	status := http.StatusOK
	if rep.Accepted == 0 && len(rep.Rejected) > 0 {
		p := *s.fail(r.Context(), &staunch.Problem{
			Place: fmt.Sprintf("record %d", rep.Rejected[0].Record), Reason: rep.Rejected[0].Error, Hint: "no record of the body could be taken",
		})
		p.Report = &rep
		writeProblem(w, &p)
		return
	}
	writeJSON(w, status, rep)
}

// storeFault has a failure of ours answered with 503, so that senders keep what
// they have and send it again.
func storeFault(ctx context.Context, err error) error {
	p := problemOf(err)
	if p.Status != http.StatusInternalServerError && p.Status != http.StatusBadGateway {
		return err
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return err
	}
	return errors.Join(newProblem(http.StatusServiceUnavailable, CodeUnavailable, "the records could not be kept").
		header("Retry-After", "2").hint("send them again"), err)
}

// tidy completes a report.
func tidy(rep IngestReport) IngestReport {
	rep.V = staunch.Version
	if rep.Rejected == nil {
		rep.Rejected = []Rejection{}
	}
	if more := len(rep.Rejected) - MaxRejected; more > 0 {
		rep.Rejected = rep.Rejected[:MaxRejected]
		rep.MoreRejected += more
	}
	return rep
}

// watched notes that a body was larger than allowed.
type watched struct {
	r        io.Reader
	tooLarge error
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		b.tooLarge = err
	}
	return n, err
}

func (s *Server) challenge(w http.ResponseWriter, r *http.Request) {
	name, err := source(r)
	if err != nil {
		writeProblem(w, s.fail(r.Context(), err))
		return
	}
	if !s.opt.Ingest.Challenge(name, w, r) {
		writeProblem(w, s.fail(r.Context(), fmt.Errorf("a verification request for source %s: %w", name, staunch.ErrNotFound)))
	}
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // our own types
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // whoever asked may be gone
}
