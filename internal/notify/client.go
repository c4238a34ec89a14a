package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/outbound"
)

// Channel is one configured place to tell people. Send is safe for concurrent
// use and honours the context's deadline. nil means that the channel took the
// message. An error that is staunch.ClassPermanent will come again and is not
// retried; every other one is. An error that wraps *RetryAfter says when.
type Channel interface {
	Send(ctx context.Context, m Message) error
}

// RetryAfter is a channel's own word on when to come back.
type RetryAfter struct {
	// After is how long to wait, at most MaxRetryAfter.
	After time.Duration
	err   error
}

// Error returns what went wrong and for how long.
func (r *RetryAfter) Error() string { return fmt.Sprintf("%v (come back in %s)", r.err, r.After) }

// Unwrap returns what went wrong.
func (r *RetryAfter) Unwrap() error { return r.err }

const (
	// MaxRetryAfter bounds what a channel can make us wait.
	MaxRetryAfter = time.Hour
	// DefaultTimeout bounds one attempt, from dialling to the answer's end.
	DefaultTimeout = 15 * time.Second

	maxAnswer = 4 << 10
)

// client posts to one URL.
type client struct {
	url     string // a secret: it never goes into errors
	timeout time.Duration
	clock   staunch.Clock
	http    *http.Client
}

// newClient makes a client for a URL that checkURL passed.
func newClient(url string, timeout time.Duration, clock staunch.Clock) *client {
	return &client{url: url, timeout: timeout, clock: clock, http: outbound.Client(timeout)}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// post sends body once. retry says of a status that is not 2xx whether the same
// message may be taken later.
func (c *client) post(ctx context.Context, body []byte, header http.Header, retry func(status int) bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return staunch.Permanent(fmt.Errorf("making a request: %w", outbound.WithoutURL(err)))
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "staunch")
	resp, err := c.http.Do(req)
	if err != nil {
		err = fmt.Errorf("posting: %w", outbound.WithoutURL(err))
		if errors.Is(err, staunch.ErrForbidden) {
			return staunch.Permanent(err)
		}
		return staunch.Transient(err) // sent or not: receivers drop what they have
	}
	defer resp.Body.Close() //nolint:errcheck // it was read as far as it matters
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil // whatever became of the rest of the answer, it was taken
	}
	failed := fmt.Errorf("the channel answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if text := outbound.Printable(answer); err == nil && text != "" {
		failed = fmt.Errorf("%w: %s", failed, text)
	}
	if !retry(resp.StatusCode) {
		return staunch.Permanent(failed)
	}
	if after, ok := retryAfter(resp.Header.Get("Retry-After"), c.clock.Now()); ok {
		failed = &RetryAfter{After: after, err: failed}
	}
	return staunch.Transient(failed)
}

// retryAfter reads seconds or an HTTP date.
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, false
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, MaxRetryAfter), true
	}
	t, err := http.ParseTime(s)
	if err != nil {
		return 0, false
	}
	return max(0, min(t.Sub(now), MaxRetryAfter)), true
}

// checkURL reports why messages may not be sent to raw, never quoting it.
func checkURL(raw string, allowHTTP bool) error {
	err := outbound.CheckURL(raw)
	switch {
	case errors.Is(err, outbound.ErrPlainHTTP) && allowHTTP:
		return nil
	case errors.Is(err, outbound.ErrPlainHTTP):
		return fmt.Errorf("%w or set allow_http", err)
	}
	return err
}
