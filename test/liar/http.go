package liar

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

// The lies of HTTP alone: answers without the request being done.
const (
	Unauthorized Lie = "401"
	Forbidden    Lie = "403"
	// TooMany has a Retry-After.
	TooMany Lie = "429"
	Broken  Lie = "500"
	// Unavailable has a Retry-After.
	Unavailable Lie = "503"
)

var statuses = []Lie{Unauthorized, Forbidden, TooMany, Broken, Unavailable}

// HTTP says how a platform is lied about that speaks HTTP.
type HTTP struct {
	// Upstream is the URL of the real one, without a path.
	Upstream string
	Deck     *Deck
	// Ask says what a request is about.
	Ask func(r *http.Request, body []byte) Ask
	// Hollow is the answer of a change that was made.
	Hollow func(r *http.Request) (status int, body string)
	// Part makes a part of a change that has several.
	Part func(r *http.Request) error
	// Refusal is the body of an answer with that status; nil is none of the
	// platform's own.
	Refusal func(status int) string
}

// httpServer lies.
type httpServer struct {
	HTTP
	client *http.Client
	ended  chan struct{}
	old    memory[answer]
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// Serve starts the server on loopback and returns its URL. It ends with tb.
func (h HTTP) Serve(tb testing.TB) string {
	tb.Helper()
	s := &httpServer{
		HTTP: h, ended: make(chan struct{}),
		client: &http.Client{
			Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	server := httptest.NewServer(s)
	tb.Cleanup(func() {
		close(s.ended)
		server.CloseClientConnections()
		server.Close()
		s.client.CloseIdleConnections()
	})
	return server.URL
}

// ServeHTTP passes a request on, or lies.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return
	}
	ask := s.Ask(r, body)
	// Who asks does not matter to a server that lags behind.
	key := fmt.Sprintf("%s %s %x", r.Method, r.URL, sha256.Sum256(body))
	now := append(append([]Lie{}, always...), statuses...)
	var others []Lie
	old := s.old.get(key)
	switch {
	case ask.Change:
		now = append(now, Hollow)
		if ask.Parts {
			now = append(now, Partial)
		}
	case ask.Reads && len(old) > 0:
		now = append(now, Stale)
	case ask.Reads:
		others = []Lie{Stale}
	}
	lie := s.Deck.deal(ask, now, others)
	switch lie {
	case HangBefore:
		s.hang(r)
		return
	case ResetBefore:
		reset(w)
		return
	case Unauthorized, Forbidden, TooMany, Broken, Unavailable:
		s.refuse(w, lie)
		return
	case Hollow, Partial:
		if lie == Partial {
			if err := s.Part(r); err != nil {
				panic(err) // the test's own
			}
		}
		status, text := s.Hollow(r)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	case Stale:
		s.write(w, old[s.Deck.pick(len(old))], "")
		return
	}
	a, err := s.pass(r, body)
	if err != nil {
		reset(w)
		return
	}
	if ask.Reads {
		s.old.keep(key, a)
	}
	switch lie {
	case HangAfter:
		s.hang(r)
	case ResetAfter:
		reset(w)
	case Late:
		if s.wait(lateBy) {
			s.write(w, a, "")
		}
	default:
		s.write(w, a, lie)
	}
}

func (s *httpServer) refuse(w http.ResponseWriter, lie Lie) {
	code, err := strconv.Atoi(string(lie))
	if err != nil { // our own texts
		panic(err)
	}
	if lie == TooMany || lie == Unavailable {
		w.Header().Set("Retry-After", "1")
	}
	text := "no"
	if s.Refusal != nil {
		text = s.Refusal(code)
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text)
}

func (s *httpServer) pass(r *http.Request, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, s.Upstream+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = r.Header.Clone()
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return answer{status: resp.StatusCode, header: resp.Header, body: b}, err
}

func (s *httpServer) write(w http.ResponseWriter, a answer, lie Lie) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	if a.status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	switch {
	case lie == Truncated && len(a.body) == 0: // in the middle of the head
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 20")
			_ = conn.Close()
		}
	case lie == Truncated:
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body[:len(a.body)/2])
		reset(w)
	case lie == Drip:
		w.WriteHeader(a.status)
		c := http.NewResponseController(w)
		for i := range a.body {
			if _, err := w.Write(a.body[i : i+1]); err != nil {
				return
			}
			_ = c.Flush()
			if !s.wait(dripEvery) {
				return
			}
		}
	default:
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
	}
}

// hang waits until the client gives up.
func (s *httpServer) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.ended:
	}
}

// wait reports whether the server is still there afterwards.
func (s *httpServer) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ended:
		return false
	}
}

// reset breaks the connection.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // HTTP/2, or gone
	}
	_ = conn.Close()
}
