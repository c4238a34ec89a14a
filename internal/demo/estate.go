package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
)

// Addresses that the demo's callers come from. All are loopback; the rule's
// range is the workload's.
const (
	WorkloadAddress = "127.0.10.5"
	WorkloadRange   = "127.0.10.0/24"
	ThiefAddress    = "127.66.6.6"
)

// Engine is how the estate reaches the engine.
type Engine struct {
	// URL is the API's address.
	URL string
	// AccessLog and LeakReports are the tokens of the sources of these names,
	// PEP that of the ledger API.
	AccessLog, LeakReports, PEP staunch.Secret
}

// The names of the estate's sources, its realm, and its AuthZEN subject type.
const (
	SourceAccessLog = "orders-access-log"
	SourceLeaks     = "leak-reports"
	Realm           = "oauth2/demo"
	SubjectType     = "token"
)

// Estate is the authorization server and the two APIs, on loopback.
type Estate struct {
	secrets map[string]string
	auth    *http.Server
	orders  *http.Server
	ledger  *http.Server
	// AuthURL, OrdersURL and LedgerURL are where they listen.
	AuthURL, OrdersURL, LedgerURL string

	client *http.Client

	mu     sync.RWMutex
	engine Engine
	lines  chan logLine
	wg     sync.WaitGroup
	cancel context.CancelFunc

	// shipFailures counts access-log lines that the engine did not take.
	shipMu   sync.Mutex
	shipErrs []error
}

// logLine is one line of the orders API's access log, as gateways write them.
type logLine struct {
	ID       string `json:"id"`
	Time     string `json:"time"`
	ClientIP string `json:"client_ip"`
	Method   string `json:"method"`
	Path     string `json:"path"`
	Status   int    `json:"status"`
	ClientID string `json:"client_id,omitempty"`
	Token    string `json:"token,omitempty"`
}

// New starts an estate. Stop ends it.
func New(ctx context.Context) (*Estate, error) {
	e := &Estate{
		secrets: map[string]string{}, lines: make(chan logLine, 1024),
		client: &http.Client{Timeout: 5 * time.Second},
	}
	for _, c := range []string{WorkloadClient, ResourceClient, ProofClient} {
		e.secrets[c] = rand.Text()
	}
	h, err := newAuthServer(e.secrets)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	for _, s := range []struct {
		srv **http.Server
		url *string
		h   http.Handler
	}{
		{&e.auth, &e.AuthURL, h},
		{&e.orders, &e.OrdersURL, http.HandlerFunc(e.serveOrders)},
		{&e.ledger, &e.LedgerURL, http.HandlerFunc(e.serveLedger)},
	} {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			e.Stop()
			return nil, fmt.Errorf("starting the estate: %w", err)
		}
		srv := &http.Server{Handler: s.h, ReadHeaderTimeout: 5 * time.Second}
		*s.srv, *s.url = srv, "http://"+l.Addr().String()
		e.wg.Go(func() { _ = srv.Serve(l) }) // ends with Close
	}
	e.wg.Go(func() { e.ship(run) })
	return e, nil
}

// Use tells the estate where the engine is. Until then its log lines wait.
func (e *Estate) Use(en Engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.engine = en
}

func (e *Estate) engineNow() Engine {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.engine
}

// Stop ends the estate.
func (e *Estate) Stop() {
	e.cancel()
	for _, s := range []*http.Server{e.auth, e.orders, e.ledger} {
		if s != nil {
			_ = s.Close() // nothing is worth waiting for
		}
	}
	e.wg.Wait()
	e.client.CloseIdleConnections()
}

func bearer(r *http.Request) string {
	t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return t
}

// introspect asks the authorization server about a token.
func (e *Estate) introspect(ctx context.Context, token string) (active bool, client string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.AuthURL+"/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return false, "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(ResourceClient, e.secretOf(ResourceClient))
	var out struct {
		Active   bool   `json:"active"`
		ClientID string `json:"client_id"`
	}
	if err := e.call(req, &out); err != nil {
		return false, "", err
	}
	return out.Active, out.ClientID, nil
}

// call sends a request and decodes a JSON answer.
func (e *Estate) call(req *http.Request, out any) error {
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: status %d: %s", req.Method, req.URL.Path, resp.StatusCode, bytes.TrimSpace(b))
	}
	return json.Unmarshal(b, out)
}

// serveOrders is the API that introspects every call and writes an access log.
func (e *Estate) serveOrders(w http.ResponseWriter, r *http.Request) {
	token := bearer(r)
	status, client := http.StatusUnauthorized, ""
	if token != "" {
		active, id, err := e.introspect(r.Context(), token)
		switch {
		case err != nil:
			status = http.StatusServiceUnavailable
		case active:
			status, client = http.StatusOK, id
		default:
			client = id
		}
	}
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	line := logLine{
		ID: "req-" + rand.Text(), Time: time.Now().UTC().Format(time.RFC3339Nano), ClientIP: ip, Method: r.Method,
		Path: r.URL.Path, Status: status, ClientID: client, Token: token,
	}
	select {
	case e.lines <- line:
	default: // the log shipper is behind; an access log must not stop the API
	}
	w.WriteHeader(status)
}

// serveLedger is the API that trusts a token for as long as it has seen it be
// good (many do, to save the introspection), and asks AuthZEN on every call.
func (e *Estate) serveLedger(w http.ResponseWriter, r *http.Request) {
	token := bearer(r)
	if token == "" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	en := e.engineNow()
	body, err := json.Marshal(map[string]any{
		"subject":  map[string]any{"type": SubjectType, "id": staunch.NewSecret(token).Digest()},
		"action":   map[string]any{"name": "read"},
		"resource": map[string]any{"type": "ledger", "id": "main"},
	})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, en.URL+"/access/v1/evaluation", bytes.NewReader(body))
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+en.PEP.Reveal())
	var out struct {
		Decision bool `json:"decision"`
	}
	switch err := e.call(req, &out); {
	case err != nil:
		w.WriteHeader(http.StatusServiceUnavailable) // no answer is no access
	case !out.Decision:
		w.WriteHeader(http.StatusForbidden)
	default:
		w.WriteHeader(http.StatusOK)
	}
}

// ship posts the access log's lines as records, as they come.
func (e *Estate) ship(ctx context.Context) {
	for {
		var buf bytes.Buffer
		select {
		case <-ctx.Done():
			return
		case l := <-e.lines:
			e.encode(&buf, l)
		}
	batch:
		for range 200 {
			select {
			case l := <-e.lines:
				e.encode(&buf, l)
			default:
				break batch
			}
		}
		en := e.engineNow()
		if en.URL == "" {
			continue // from before the engine; nobody is there to tell
		}
		if err := e.Post(ctx, SourceAccessLog, en.AccessLog, buf.Bytes()); err != nil && ctx.Err() == nil {
			e.shipMu.Lock()
			e.shipErrs = append(e.shipErrs, err)
			e.shipMu.Unlock()
		}
	}
}

// ShipErrors returns what went wrong with posting the access log.
func (e *Estate) ShipErrors() error {
	e.shipMu.Lock()
	defer e.shipMu.Unlock()
	return errors.Join(e.shipErrs...)
}

func (e *Estate) encode(buf *bytes.Buffer, l logLine) {
	if err := json.NewEncoder(buf).Encode(l); err != nil { // strings and a number
		panic(err)
	}
}

// Post posts records to a source of the engine.
func (e *Estate) Post(ctx context.Context, source string, token staunch.Secret, records []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.engineNow().URL+"/v1/ingest/"+source, bytes.NewReader(records))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	req.Header.Set("Content-Type", "application/x-ndjson")
	var out struct {
		Rejected []struct {
			Record int    `json:"record"`
			Error  string `json:"error"`
		} `json:"rejected"`
	}
	if err := e.call(req, &out); err != nil {
		return fmt.Errorf("posting records to %s: %w", source, err)
	}
	if len(out.Rejected) > 0 {
		return fmt.Errorf("posting records to %s: record %d was rejected: %s", source, out.Rejected[0].Record, out.Rejected[0].Error)
	}
	return nil
}

// ReportLeak posts a leak scanner's finding that a token was found in public.
func (e *Estate) ReportLeak(ctx context.Context, token staunch.Secret) error {
	b, err := json.Marshal(map[string]any{
		"id": "leak-" + rand.Text(), "time": time.Now().UTC().Format(time.RFC3339Nano),
		"token_digest": token.Digest(), "found_in": "a public repository", "confidence": 0.9,
	})
	if err != nil {
		return err
	}
	return e.Post(ctx, SourceLeaks, e.engineNow().LeakReports, b)
}

// NewToken gets a token for the workload from the authorization server.
func (e *Estate) NewToken(ctx context.Context) (staunch.Secret, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"ledger"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.AuthURL+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return staunch.Secret{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(WorkloadClient, e.secretOf(WorkloadClient))
	var out struct {
		AccessToken string `json:"access_token"`
	}
	if err := e.call(req, &out); err != nil {
		return staunch.Secret{}, fmt.Errorf("getting a token: %w", err)
	}
	if out.AccessToken == "" {
		return staunch.Secret{}, errors.New("getting a token: the answer has none")
	}
	return staunch.NewSecret(out.AccessToken), nil
}
