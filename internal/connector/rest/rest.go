// Package rest makes the HTTP calls of connectors that need no SDK, and says
// what follows from each outcome.
//
// A client holds connections of its own, follows no redirect (it would carry a
// credential to wherever it points), sends no credential in the clear except to
// a loopback address, and bounds the time of a call and what is read of its
// answer.
//
// Every error of Do has a class. A call that changes something has a key, and
// whatever goes wrong once a connection was had for it may have taken effect:
//
//	outcome                                          reading    changing
//	the deadline is over, or the context done,
//	before anything was sent                         transient  transient
//	no connection, or none in time                   transient  transient
//	timeout or lost connection after that            transient  outcome-unknown
//	2xx with more than MaxAnswer bytes               transient  outcome-unknown
//	other 2xx                                        no error   no error
//	1xx as the answer, 3xx                           permanent  permanent
//	401, 403                                         denied     denied
//	408, 425, 429                                    transient  transient
//	other 4xx                                        permanent  permanent
//	501                                              permanent  permanent
//	other 5xx                                        transient  outcome-unknown
//	a request that cannot be made: a bad address,
//	or a key that no header can carry                permanent  permanent
//
// A connector whose vendor says more in its answers overrides the rows of
// answers that are no success with Options.Class, and has a table of its own in
// its README.
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	// MaxKey is the longest step key, in bytes.
	MaxKey     = 128
	maxMessage = 300
	// leastHidden is the length of a secret, in bytes, from which on it is looked for
	// in what a vendor says: a shorter one stands in every other word.
	leastHidden = 4
)

// Options describe a client.
type Options struct {
	// Timeout bounds every call, from the first byte to the last.
	Timeout time.Duration
	// MaxAnswer is how much is read of an answer, in bytes.
	MaxAnswer int64
	// TLS is nil for the system's certificates and no client certificate.
	TLS *tls.Config
	// KeyHeader carries the key of calls that change something.
	KeyHeader string
	// Words reads what the vendor says in an answer that is no success, given
	// its body, into a StatusError's Code and Text; nil reads nothing. It must
	// not return what it cannot read.
	Words func(status int, body []byte) (code, text string)
	// Class overrides the package's table for an answer that is no success; ok
	// is false where the table holds. nil overrides nothing.
	Class func(e *StatusError, changing bool) (class staunch.Class, ok bool)
}

// Client makes calls. Its methods may be called concurrently.
type Client struct {
	opts      Options
	http      *http.Client
	transport *http.Transport
}

// New returns a client. It connects to nothing.
func New(o Options) *Client {
	tc := o.TLS
	if tc == nil {
		tc = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	tr := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        tc,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		MaxConnsPerHost:        64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &Client{opts: o, transport: tr, http: &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// CloseIdle closes the connections that no call uses.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }

// Request is one call.
type Request struct {
	// What names the call in errors; it has no secret in it.
	What        string
	Method, URL string
	// Header is sent as it is, and so is Body; nil sends none.
	Header http.Header
	Body   []byte
	// Hide are the secrets that are sent. A server that says them back in its answer
	// does not get them into errors, which become notes, messages and records.
	Hide []staunch.Secret
	// Key, when set, marks a call that changes something, and goes along in the
	// client's KeyHeader: at most MaxKey printable characters of ASCII.
	Key string
	// Deadline ends the call, counted from Now; 0 leaves it to the context and
	// the client's timeout.
	Deadline staunch.Time
	Now      time.Time
}

// Answer is a success.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// StatusError is an answer that is no success.
type StatusError struct {
	What   string
	Status int
	// Code and Text are what Options.Words read; "" where it read nothing.
	Code, Text string
}

// Error names the call, the status and the vendor's words, shortened.
func (e *StatusError) Error() string {
	msg := strings.Join(strings.Fields(e.Code+" "+e.Text), " ")
	if len(msg) > maxMessage {
		msg = strings.ToValidUTF8(msg[:maxMessage], "") + "…"
	}
	if msg == "" {
		msg = http.StatusText(e.Status)
	}
	return fmt.Sprintf("%s: status %d: %s", e.What, e.Status, msg)
}

// Unreadable classes the error of a success that could not be understood: a
// call that changes something may have done so.
func (r Request) Unreadable(err error) error {
	err = fmt.Errorf("%s: %w", r.What, err)
	if r.Key != "" {
		return staunch.OutcomeUnknown(err)
	}
	return staunch.Transient(err)
}

// Do makes one call and reads its answer. Errors have the classes of the
// package's table; an answer that is no success is a *StatusError.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	if len(r.Key) > MaxKey || strings.ContainsFunc(r.Key, func(x rune) bool { return x <= ' ' || x > '~' }) {
		return Answer{}, staunch.Permanent(fmt.Errorf("%s: %w: the step's key cannot be sent in a header", r.What, staunch.ErrInvalid))
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	if r.Deadline != 0 {
		left := r.Deadline.Std().Sub(r.Now)
		if left <= 0 {
			return Answer{}, staunch.Transient(fmt.Errorf("%s: the time for the call is over, nothing was sent: %w", r.What, context.DeadlineExceeded))
		}
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return Answer{}, staunch.Transient(fmt.Errorf("%s: nothing was sent: %w", r.What, err))
	}
	var sent atomic.Bool
	req, err := c.request(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}), r)
	if err != nil {
		return Answer{}, staunch.Permanent(fmt.Errorf("%s: %w", r.What, err))
	}
	lost := func(err error) error {
		if cerr := ctx.Err(); cerr != nil && !errors.Is(err, cerr) {
			err = fmt.Errorf("%w: %w", cerr, err)
		}
		if sent.Load() {
			return r.Unreadable(err)
		}
		return staunch.Transient(fmt.Errorf("%s: %w", r.What, err))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, lost(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.opts.MaxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, lost(err)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return Answer{}, c.refusal(r, resp.StatusCode, body)
	case int64(len(body)) > c.opts.MaxAnswer:
		return Answer{}, lost(fmt.Errorf("an answer of more than %d bytes", c.opts.MaxAnswer))
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, body)
	if err != nil {
		return nil, err
	}
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	if r.Key != "" {
		req.Header.Set(c.opts.KeyHeader, r.Key)
	}
	return req, nil
}

// refusal classes an answer that is no success.
func (c *Client) refusal(r Request, status int, body []byte) error {
	e := &StatusError{What: r.What, Status: status}
	if c.opts.Words != nil {
		e.Code, e.Text = c.opts.Words(status, body)
		for _, h := range r.Hide {
			if len(h.Reveal()) >= leastHidden {
				e.Code, e.Text = strings.ReplaceAll(e.Code, h.Reveal(), "***"), strings.ReplaceAll(e.Text, h.Reveal(), "***")
			}
		}
	}
	class, ok := staunch.ClassPermanent, false
	if c.opts.Class != nil {
		class, ok = c.opts.Class(e, r.Key != "")
	}
	if !ok {
		class = classOf(status, r.Key != "")
	}
	return classed(class, e)
}

// classOf is the package's table for answers that are no success.
func classOf(status int, changing bool) staunch.Class {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return staunch.ClassDenied
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return staunch.ClassTransient
	case status < 500, status == http.StatusNotImplemented:
		return staunch.ClassPermanent
	case changing:
		return staunch.ClassUnknown
	}
	return staunch.ClassTransient
}

func classed(class staunch.Class, err error) error {
	switch class {
	case staunch.ClassTransient:
		return staunch.Transient(err)
	case staunch.ClassUnknown:
		return staunch.OutcomeUnknown(err)
	case staunch.ClassDenied:
		return staunch.Denied(err)
	default:
		return staunch.Permanent(err)
	}
}

// ParseURL checks an address to which credentials are sent: https, or http to a
// loopback address, without a user and a fragment. Errors are staunch.Problems
// at the place.
func ParseURL(place, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, &staunch.Problem{Place: place, Reason: "not an address such as https://host.example.org"}
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return u, nil
	}
	return nil, &staunch.Problem{Place: place, Reason: "plain http would send secrets in the clear; use https, or a loopback address"}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// TLS says how a server is known, and how it knows us.
type TLS struct {
	// CAFile has the certificates in PEM form that sign the server's; empty
	// gives the system's.
	CAFile string `yaml:"ca_file" json:"ca_file,omitempty"`
	// ServerName is the name in the server's certificate when it is not the
	// address's.
	ServerName string `yaml:"server_name" json:"server_name,omitempty"`
	// CertFile and KeyFile are the client's certificate in PEM form, for
	// listeners that ask for one.
	CertFile string `yaml:"cert_file" json:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file" json:"key_file,omitempty"`
}

// Config reads the files. TLS 1.2 is the least. Errors name the options, which
// in the configuration have prefix, such as "tls.", before their names.
func (t TLS) Config(prefix string) (*tls.Config, error) {
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading %sca_file: %w", prefix, err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &staunch.Problem{Place: prefix + "ca_file", Reason: t.CAFile + " has no certificate in PEM form"}
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading %scert_file and %skey_file: %w", prefix, prefix, err)
		}
		tc.Certificates = []tls.Certificate{pair}
	}
	return tc, nil
}
