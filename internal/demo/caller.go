package demo

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
)

// Caller calls both APIs again and again with its token, from its own address.
type Caller struct {
	estate *Estate
	client *http.Client
	// renew, when set, gets a new token after a refusal, as a rightful workload
	// does.
	renew bool
	every time.Duration

	mu     sync.Mutex
	token  staunch.Secret
	orders Seen
	ledger Seen
}

// Seen is what a caller saw at one API.
type Seen struct {
	// Successes and Refusals count answers; the times are of the newest.
	Successes, Refusals     int
	LastSuccess, LastRefuse time.Time
	// Works says that the newest answer was a success.
	Works bool
}

// newCaller returns a caller from address that has token.
func newCaller(e *Estate, address string, token staunch.Secret, renew bool, every time.Duration) *Caller {
	d := &net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &Caller{
		estate: e, renew: renew, every: every, token: token,
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: d.DialContext, MaxIdleConnsPerHost: 2}},
	}
}

// run calls until ctx ends.
func (c *Caller) run(ctx context.Context) {
	defer c.client.CloseIdleConnections()
	t := time.NewTicker(c.every)
	defer t.Stop()
	for {
		refused := c.call(ctx, c.estate.OrdersURL+"/orders", &c.orders)
		refused = c.call(ctx, c.estate.LedgerURL+"/ledger", &c.ledger) || refused
		if refused && c.renew {
			if token, err := c.estate.NewToken(ctx); err == nil {
				c.mu.Lock()
				c.token = token
				c.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// call makes one call and reports whether it was refused.
func (c *Caller) call(ctx context.Context, url string, seen *Seen) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", "Bearer "+c.Token().Reveal())
	resp, err := c.client.Do(req)
	if err != nil {
		return false // the demo is ending
	}
	_ = resp.Body.Close() // the APIs answer without a body
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch resp.StatusCode {
	case http.StatusOK:
		seen.Successes++
		seen.LastSuccess, seen.Works = now, true
	case http.StatusUnauthorized, http.StatusForbidden:
		seen.Refusals++
		seen.LastRefuse, seen.Works = now, false
		return true
	}
	return false
}

// Token returns the token that the caller has now.
func (c *Caller) Token() staunch.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// Seen returns what it saw at the orders and at the ledger API.
func (c *Caller) Seen() (orders, ledger Seen) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orders, c.ledger
}
