// Package rekor has a transparency log take checkpoints of the record log: Rekor
// v2 of Sigstore, the public instance or one of the operators' own.
//
// One request adds an entry, and its answer is the receipt. Nothing in it is
// believed before record.TransparencyLog has verified it. A request that is sent
// again adds at most another entry of the same checkpoint, which does no harm.
package rekor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/outbound"
	"github.com/staunch-project/staunch/internal/record"
)

const (
	// DefaultTimeout bounds a request. Rekor answers once it has published a tree
	// that has the entry, for which it wants to be given at least 20 seconds.
	DefaultTimeout = 30 * time.Second

	entriesPath = "/api/v2/log/entries"
	maxError    = 4 << 10
)

// Client adds entries to one log. It is safe for concurrent use.
type Client struct {
	url  string
	host string
	log  *record.TransparencyLog
	http *http.Client
}

// New makes a client for the log at an address that outbound.CheckURL takes. A
// timeout of 0 is DefaultTimeout. Nothing is asked yet.
func New(address string, log *record.TransparencyLog, timeout time.Duration) (*Client, error) {
	if err := outbound.CheckURL(address); err != nil {
		return nil, err
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", staunch.ErrInvalid, err)
	}
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return &Client{url: u.JoinPath(entriesPath).String(), host: u.Host, log: log, http: outbound.Client(timeout)}, nil
}

// Close lets go of connections that are kept for the next request.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Add has the log take a checkpoint that chain signed, and returns the receipt once
// it is verified. Errors name the log. They are staunch.ClassTransient where the
// log could not be reached, was too busy or failed, and permanent where it refused
// the entry or its receipt does not fit; whatever they are, nothing is known to be
// logged.
func (c *Client) Add(ctx context.Context, chain *record.Chain, cp record.Checkpoint) (*record.LogReceipt, record.Logged, error) {
	fail := func(err error) (*record.LogReceipt, record.Logged, error) {
		return nil, record.Logged{}, fmt.Errorf("transparency log %s: %w", c.host, err)
	}
	body, err := chain.LogRequest(cp)
	if err != nil {
		return fail(err)
	}
	answer, err := c.post(ctx, body)
	if err != nil {
		return fail(err)
	}
	r, logged, err := c.log.Receipt(answer, cp, chain.PublicKey())
	if err != nil {
		return fail(staunch.Permanent(err))
	}
	return r, logged, nil
}

func (c *Client) post(ctx context.Context, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, staunch.Permanent(outbound.WithoutURL(err))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "staunch")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, staunch.Transient(outbound.WithoutURL(err))
	}
	defer resp.Body.Close() //nolint:errcheck // it was read as far as it matters
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError)) // the status says enough
		err := fmt.Errorf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
		if s := outbound.Printable(text); s != "" {
			err = fmt.Errorf("%w: %s", err, s)
		}
		switch {
		case resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
			return nil, staunch.Transient(err)
		}
		return nil, staunch.Permanent(err)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, record.MaxReceipt+1))
	switch {
	case err != nil:
		return nil, staunch.Transient(fmt.Errorf("reading its answer: %w", outbound.WithoutURL(err)))
	case len(answer) > record.MaxReceipt:
		return nil, staunch.Permanent(fmt.Errorf("%w: its answer has more than %d bytes", staunch.ErrInvalid, record.MaxReceipt))
	}
	return answer, nil
}
