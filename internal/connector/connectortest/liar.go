package connectortest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Lie is one of the ways in which a Liar does not do what it is asked.
type Lie string

// The lies.
const (
	// HangBefore keeps the request and never answers.
	HangBefore Lie = "hang before"
	// HangAfter does what it asks for and never answers.
	HangAfter Lie = "hang after"
	// ResetBefore breaks the connection without doing anything.
	ResetBefore Lie = "reset before"
	// ResetAfter does what it asks for and breaks the connection.
	ResetAfter Lie = "reset after"
	// Truncated ends the answer in the middle.
	Truncated Lie = "truncated"
	// Drip sends the answer a byte at a time.
	Drip Lie = "drip"
	// Unauthorized and those that follow are answers without the request being
	// done.
	Unauthorized Lie = "401"
	// Forbidden is one of them.
	Forbidden Lie = "403"
	// TooMany is one of them, with a Retry-After.
	TooMany Lie = "429"
	// Broken is one of them.
	Broken Lie = "500"
	// Unavailable is one of them, with a Retry-After.
	Unavailable Lie = "503"
	// Hollow says that a change was made, and makes none.
	Hollow Lie = "hollow"
	// Stale gives an answer to a read that was true up to ten seconds before.
	Stale Lie = "stale"
)

// Lies returns all of them.
func Lies() []Lie {
	return []Lie{HangBefore, HangAfter, ResetBefore, ResetAfter, Truncated, Drip, Unauthorized, Forbidden, TooMany, Broken, Unavailable, Hollow, Stale}
}

const (
	staleFor  = 10 * time.Second
	dripEvery = 20 * time.Millisecond
	maxAnswer = 8 << 20
)

// Liar is an HTTP server in front of another that lies, by a seed. Its methods
// are safe for concurrent use.
type Liar struct {
	upstream string
	// hollow returns the answer that a request to change something would get, or
	// false for a request that changes nothing.
	hollow func(*http.Request) (status int, body string, ok bool)
	server *httptest.Server
	client *http.Client
	ended  chan struct{}

	mu    sync.Mutex
	rng   *rand.Rand
	rate  float64
	lies  []Lie
	told  map[Lie]int
	stale map[string]answer
}

type answer struct {
	status int
	header http.Header
	body   []byte
	at     time.Time
}

// NewLiar starts a server on loopback in front of upstream, a URL without a path,
// which lies to that share of requests, 0 to 1. It ends with tb.
func NewLiar(tb testing.TB, upstream string, seed uint64, rate float64, hollow func(*http.Request) (status int, body string, ok bool)) *Liar {
	tb.Helper()
	l := &Liar{
		upstream: upstream, hollow: hollow, rng: rand.New(rand.NewPCG(seed, 5)), rate: rate, lies: Lies(),
		told: map[Lie]int{}, stale: map[string]answer{}, ended: make(chan struct{}),
		client: &http.Client{
			Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	l.server = httptest.NewServer(l)
	tb.Cleanup(func() {
		close(l.ended)
		l.server.CloseClientConnections()
		l.server.Close()
		l.client.CloseIdleConnections()
	})
	return l
}

// URL is where it listens.
func (l *Liar) URL() string { return l.server.URL }

// Calm has it tell the truth from now on.
func (l *Liar) Calm() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = 0
}

// Told returns how often each lie was told.
func (l *Liar) Told() map[Lie]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.told)
}

// next draws what becomes of a request, "" for the truth.
func (l *Liar) next(changes bool, old bool) Lie {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Requests that change something are few: the first of them is answered so.
	if changes && l.rate > 0 && l.told[Hollow] == 0 {
		l.told[Hollow]++
		return Hollow
	}
	if l.rng.Float64() >= l.rate {
		return ""
	}
	for {
		lie := l.lies[l.rng.IntN(len(l.lies))]
		if lie == Hollow && !changes || lie == Stale && !old {
			continue
		}
		l.told[lie]++
		return lie
	}
}

// ServeHTTP passes a request on, or lies.
func (l *Liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return
	}
	key := fmt.Sprintf("%s %s %x", r.Method, r.URL, sha256.Sum256(body))
	status, text, changes := l.hollow(r)
	l.mu.Lock()
	old, known := l.stale[key]
	l.mu.Unlock()
	known = known && !changes && time.Since(old.at) < staleFor

	lie := l.next(changes, known)
	switch lie {
	case HangBefore:
		l.hang(r)
		return
	case ResetBefore:
		reset(w)
		return
	case Unauthorized, Forbidden, TooMany, Broken, Unavailable:
		code, err := strconv.Atoi(string(lie))
		if err != nil { // our own texts
			panic(err)
		}
		if lie == TooMany || lie == Unavailable {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "no", code)
		return
	case Hollow:
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	case Stale:
		l.write(w, old, "")
		return
	}
	a, err := l.pass(r, body)
	if err != nil {
		reset(w)
		return
	}
	if !changes && !known {
		l.mu.Lock()
		l.stale[key] = a
		l.mu.Unlock()
	}
	switch lie {
	case HangAfter:
		l.hang(r)
	case ResetAfter:
		reset(w)
	default:
		l.write(w, a, lie)
	}
}

func (l *Liar) pass(r *http.Request, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, l.upstream+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = r.Header.Clone()
	resp, err := l.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return answer{status: resp.StatusCode, header: resp.Header, body: b, at: time.Now()}, err
}

func (l *Liar) write(w http.ResponseWriter, a answer, lie Lie) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	switch lie {
	case Truncated:
		_, _ = w.Write(a.body[:len(a.body)/2])
		reset(w)
	case Drip:
		c := http.NewResponseController(w)
		for i := range a.body {
			if _, err := w.Write(a.body[i : i+1]); err != nil {
				return
			}
			_ = c.Flush()
			select {
			case <-time.After(dripEvery):
			case <-l.ended:
				return
			}
		}
	default:
		_, _ = w.Write(a.body)
	}
}

// hang waits until the client gives up.
func (l *Liar) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-l.ended:
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
