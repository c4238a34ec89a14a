package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/staunch-project/staunch"
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

	maxAnswer    = 4 << 10
	maxHeaders   = 64 << 10
	maxRedirects = 3
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
	dialer := &net.Dialer{Timeout: timeout, Control: refuseAddress}
	return &client{url: url, timeout: timeout, clock: clock, http: &http.Client{
		Timeout:       timeout,
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        30 * time.Second,
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: maxHeaders,
		},
	}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refuseAddress sees each address that is about to be dialled, after DNS.
func refuseAddress(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dialling %q: %w", address, err)
	}
	ip := ap.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return staunch.Permanent(fmt.Errorf("%w: address %s is link-local, multicast or unspecified", staunch.ErrForbidden, ip))
	}
	return nil
}

// checkRedirect follows a redirect only where the same request goes to the same
// host again. Otherwise the redirect itself is the answer, and is not a success.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > maxRedirects || req.Method != first.Method || req.URL.Scheme != first.URL.Scheme || req.URL.Host != first.URL.Host {
		return http.ErrUseLastResponse
	}
	return nil
}

// post sends body once. retry says of a status that is not 2xx whether the same
// message may be taken later.
func (c *client) post(ctx context.Context, body []byte, header http.Header, retry func(status int) bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return staunch.Permanent(fmt.Errorf("making a request: %w", withoutURL(err)))
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "staunch")
	resp, err := c.http.Do(req)
	if err != nil {
		err = fmt.Errorf("posting: %w", withoutURL(err))
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
	if text := printable(answer); err == nil && text != "" {
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

// withoutURL takes the URL, which may be a secret, out of an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
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

// printable returns the beginning of an answer in one line, for people.
func printable(b []byte) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(b), ""))
	return clip(strings.TrimSpace(s), 200)
}

// checkURL reports why messages may not be sent to raw, never quoting it.
func checkURL(raw string, allowHTTP bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return fmt.Errorf("%w: is not a URL with a host", staunch.ErrInvalid)
	case u.User != nil:
		return fmt.Errorf("%w: has credentials in it; webhooks are signed instead", staunch.ErrInvalid)
	case u.Fragment != "":
		return fmt.Errorf("%w: has a fragment, which is never sent", staunch.ErrInvalid)
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("%w: is neither https nor http", staunch.ErrInvalid)
	case allowHTTP || loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%w: is http, which anyone on the way can read; use https or set allow_http", staunch.ErrInvalid)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
