// Package client calls the API of package api. Its methods return the API's own
// types; an answer that is an error comes back as an *Error.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/record"
)

// Options say where the API is and who calls.
type Options struct {
	// URL is the API's base, such as https://staunch.example:8422.
	URL   string
	Token staunch.Secret
	// CAFile has PEM certificates that are trusted in place of the system's.
	CAFile string
	// UserAgent names the caller in the server's log.
	UserAgent string
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base  *url.URL
	token staunch.Secret
	agent string
	http  *http.Client
}

// Error is an answer that says no.
type Error struct {
	api.Problem
	// Method and Path say what was asked.
	Method, Path string
}

// Error returns the message with its place.
func (e *Error) Error() string { return e.Problem.Error() }

// Unwrap gives the package staunch's sentinel for the answer's code, so that
// callers branch as they would on the server.
func (e *Error) Unwrap() error {
	switch e.Code {
	case api.CodeUnauthenticated:
		return staunch.ErrUnauthenticated
	case api.CodeForbidden:
		return staunch.ErrForbidden
	case api.CodeNotFound:
		return staunch.ErrNotFound
	case api.CodeConflict, api.CodeRevives:
		return staunch.ErrConflict
	case api.CodeInvalid, api.CodeTooLarge:
		return staunch.ErrInvalid
	case api.CodeOverloaded:
		return staunch.ErrOverloaded
	case api.CodeCommitUnknown:
		return staunch.ErrCommitUnknown
	}
	return nil
}

// ErrUnreachable says that no answer came.
var ErrUnreachable = errors.New("no answer")

// maxAnswer bounds what is read of an answer, but for exports.
const maxAnswer = 64 << 20

// How long an answer may take: a little more than the server allows itself.
const (
	usualTimeout = 3 * time.Minute
	auditTimeout = 31 * time.Minute

	pathVerify     = "/v1/records/verify"
	pathCheckpoint = "/v1/records/checkpoint"
)

// New makes a client. It sends nothing. The error is a staunch.Problem for a URL that
// is none, or to which a token would go in the clear: http is for loopback addresses.
func New(opt Options) (*Client, error) {
	base, err := url.Parse(opt.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, &staunch.Problem{Place: "url", Reason: fmt.Sprintf("%q is not an http or https URL", opt.URL), Hint: "such as http://127.0.0.1:8422"}
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, &staunch.Problem{Place: "url", Reason: "must have no user, query or fragment"}
	}
	if !opt.Token.Empty() && base.Scheme == "http" && !loopback(base.Hostname()) {
		return nil, &staunch.Problem{Place: "url", Reason: fmt.Sprintf("%q is plain http, and whoever is on the way could take the token", opt.URL), Hint: "use https, or a loopback address"}
	}
	tr := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
		ForceAttemptHTTP2:   true,
	}
	if opt.CAFile != "" {
		pem, err := os.ReadFile(opt.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &staunch.Problem{Place: opt.CAFile, Reason: "has no PEM certificate"}
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &Client{
		base: base, token: opt.Token, agent: opt.UserAgent,
		http: &http.Client{
			Transport: tr,
			// A token is for the server that it was given for.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// send sends a request and returns the answer, whose status is not an error's.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, in any) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawPath = ""
	u.RawQuery = q.Encode()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !c.token.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) { // its text repeats the method and URL
			err = ue.Err
		}
		return nil, fmt.Errorf("%w from %s: %w", ErrUnreachable, c.base.Redacted(), err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	return nil, refusal(method, path, resp)
}

// refusal reads an answer that says no, from us or from what stands between.
func refusal(method, path string, resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%w: reading it: %w", ErrUnreachable, err)
	}
	e := &Error{Method: method, Path: path}
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if t != "application/problem+json" || json.Unmarshal(b, &e.Problem) != nil || e.Code == "" {
		e.Problem = api.Problem{
			V: staunch.Version, Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode), Code: codeOf(resp.StatusCode),
			Message: fmt.Sprintf("status %d, and not an answer of staunch's API", resp.StatusCode), Hint: "is the URL that of staunch?",
		}
	}
	return e
}

func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return api.CodeUnauthenticated
	case http.StatusForbidden:
		return api.CodeForbidden
	case http.StatusNotFound:
		return api.CodeNotFound
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return api.CodeUnavailable
	}
	return api.CodeInternal
}

// call sends a request and decodes the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any) error {
	limit := usualTimeout
	if path == pathVerify || path == pathCheckpoint {
		limit = auditTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := c.send(ctx, method, path, q, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%w: reading it: %w", ErrUnreachable, err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("%w: an answer of more than %d bytes", staunch.ErrInvalid, maxAnswer)
	}
	if out == nil {
		return nil
	}
	var v struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%w: the answer is not JSON: %w; is the URL that of staunch?", staunch.ErrInvalid, err)
	}
	if v.V != staunch.Version {
		return fmt.Errorf("%w: an answer of version %d, this release knows %d", staunch.ErrInvalid, v.V, staunch.Version)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decoding the answer: %w", err)
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, q, nil, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, http.MethodPost, path, nil, in, &out)
	return out, err
}

// Page bounds a listing: the cursor of the page before, and at most how many.
type Page struct {
	After string
	Limit int
}

func (p Page) query() url.Values {
	q := url.Values{}
	if p.After != "" {
		q.Set("after", p.After)
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

func casePath(id, what string) string { return "/v1/containments/" + id + what }

// checkID keeps an id from being another path.
func checkID(id string) error {
	if id == "" || strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}) {
		return &staunch.Problem{Place: "id", Reason: fmt.Sprintf("%.80q is not an id", id), Hint: "ids are shown by staunch list"}
	}
	return nil
}

// Containments lists containments, newest first.
func (c *Client) Containments(ctx context.Context, open bool, p Page) (api.Containments, error) {
	q := p.query()
	if open {
		q.Set("open", "true")
	}
	return get[api.Containments](ctx, c, "/v1/containments", q)
}

// Containment returns everything about one containment.
func (c *Client) Containment(ctx context.Context, id string) (api.Case, error) {
	if err := checkID(id); err != nil {
		return api.Case{}, err
	}
	return get[api.Case](ctx, c, casePath(id, ""), nil)
}

// Evidence returns everything that is kept about one containment, signed.
func (c *Client) Evidence(ctx context.Context, id string) (record.Evidence, error) {
	if err := checkID(id); err != nil {
		return record.Evidence{}, err
	}
	return get[record.Evidence](ctx, c, casePath(id, "/evidence"), nil)
}

// Contain opens a containment by hand.
func (c *Client) Contain(ctx context.Context, req api.ContainRequest) (api.Opened, error) {
	return post[api.Opened](ctx, c, "/v1/containments", req)
}

// Plan says what Contain would do.
func (c *Client) Plan(ctx context.Context, req api.ContainRequest) (api.Draft, error) {
	return post[api.Draft](ctx, c, "/v1/plan", req)
}

// PlanFile says what Contain would do as a file that Apply takes. raw is the file
// as it came, which a client that knows less of it must not write anew.
func (c *Client) PlanFile(ctx context.Context, req api.PlanFileRequest) (f staunch.PlanFile, raw json.RawMessage, err error) {
	if raw, err = post[json.RawMessage](ctx, c, "/v1/plan/file", req); err != nil {
		return f, nil, err
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, nil, fmt.Errorf("decoding the plan: %w", err)
	}
	return f, raw, nil
}

// Apply has a plan file carried out.
func (c *Client) Apply(ctx context.Context, plan json.RawMessage, reason string) (api.Opened, error) {
	return post[api.Opened](ctx, c, "/v1/plan/apply", struct {
		Plan   json.RawMessage `json:"plan"`
		Reason string          `json:"reason"`
	}{plan, reason})
}

// Backtest asks what other policies would have contained, and gives each line to
// tell, the summary last. An answer that was cut off gives an error.
func (c *Client) Backtest(ctx context.Context, req api.BacktestRequest, tell func(api.BacktestLine) error) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodPost, "/v1/backtest", nil, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	for d := json.NewDecoder(resp.Body); ; {
		var l api.BacktestLine
		if err := d.Decode(&l); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%w: the backtest's answer was cut off: %w", ErrUnreachable, err)
		}
		if l.V != staunch.Version {
			return fmt.Errorf("%w: an answer of version %d, this release knows %d", staunch.ErrInvalid, l.V, staunch.Version)
		}
		if l.Type == "error" {
			return fmt.Errorf("the backtest was given up: %s", l.Error)
		}
		if err := tell(l); err != nil || l.Type == "summary" {
			return err
		}
	}
}

func (c *Client) change(ctx context.Context, id, what string, in any) (api.Changed, error) {
	if err := checkID(id); err != nil {
		return api.Changed{}, err
	}
	return post[api.Changed](ctx, c, casePath(id, what), in)
}

// Release releases a containment. Where that has to be confirmed the error is
// an *Error with the code api.CodeRevives and the list.
func (c *Client) Release(ctx context.Context, id string, req api.ReleaseRequest) (api.Changed, error) {
	return c.change(ctx, id, "/release", req)
}

// Judge says whether a containment that was released was called for, or corrects
// what was said.
func (c *Client) Judge(ctx context.Context, id string, req api.JudgeRequest) (api.Changed, error) {
	return c.change(ctx, id, "/judge", req)
}

// Clear ends a window in the subject's favour, under the same rule.
func (c *Client) Clear(ctx context.Context, id string, req api.ReleaseRequest) (api.Changed, error) {
	return c.change(ctx, id, "/clear", req)
}

// Advance cuts a window short.
func (c *Client) Advance(ctx context.Context, id string) (api.Changed, error) {
	return c.change(ctx, id, "/advance", nil)
}

// Extend puts a window or an expiry off.
func (c *Client) Extend(ctx context.Context, id string, by time.Duration) (api.Changed, error) {
	return c.change(ctx, id, "/extend", api.ExtendRequest{By: staunch.Duration(by)})
}

// Approve approves a containment, under the scope and the plan with those hashes.
func (c *Client) Approve(ctx context.Context, id, scopeHash, planHash string) (api.Changed, error) {
	return c.change(ctx, id, "/approve", api.ApproveRequest{ScopeHash: scopeHash, PlanHash: planHash})
}

// Signals lists signals, newest first.
func (c *Client) Signals(ctx context.Context, p Page) (api.Signals, error) {
	return get[api.Signals](ctx, c, "/v1/signals", p.query())
}

// Decisions lists decisions, newest first.
func (c *Client) Decisions(ctx context.Context, p Page) (api.Decisions, error) {
	return get[api.Decisions](ctx, c, "/v1/decisions", p.query())
}

// Decision returns one decision, with the signals that it rests on.
func (c *Client) Decision(ctx context.Context, id string) (api.Decided, error) {
	if err := checkID(id); err != nil {
		return api.Decided{}, err
	}
	return get[api.Decided](ctx, c, "/v1/decisions/"+id, nil)
}

// Event returns one event.
func (c *Client) Event(ctx context.Context, id string) (api.Observed, error) {
	if err := checkID(id); err != nil {
		return api.Observed{}, err
	}
	return get[api.Observed](ctx, c, "/v1/events/"+id, nil)
}

// Holds lists holds as they changed; all has those that are over as well.
func (c *Client) Holds(ctx context.Context, all bool, p Page) (api.Holds, error) {
	q := p.query()
	if all {
		q.Set("all", "true")
	}
	return get[api.Holds](ctx, c, "/v1/holds", q)
}

// Identities lists the declared identities.
func (c *Client) Identities(ctx context.Context, p Page) (api.Identities, error) {
	return get[api.Identities](ctx, c, "/v1/identities", p.query())
}

// Identity tells what is known of a ref.
func (c *Client) Identity(ctx context.Context, ref staunch.Ref) (api.Known, error) {
	return get[api.Known](ctx, c, "/v1/identity", url.Values{"ref": {ref.String()}})
}

// Parked lists the records that could not be taken.
func (c *Client) Parked(ctx context.Context, p Page) (api.ParkedRecords, error) {
	return get[api.ParkedRecords](ctx, c, "/v1/parked", p.query())
}

// Tokens lists the tokens.
func (c *Client) Tokens(ctx context.Context) (api.Tokens, error) {
	return get[api.Tokens](ctx, c, "/v1/tokens", nil)
}

// CreateToken makes a token; the answer has its secret.
func (c *Client) CreateToken(ctx context.Context, req api.TokenRequest) (api.NewToken, error) {
	return post[api.NewToken](ctx, c, "/v1/tokens", req)
}

// RevokeToken revokes a token.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+id, nil, nil, nil)
}

// Breakers lists the breakers.
func (c *Client) Breakers(ctx context.Context) (api.Breakers, error) {
	return get[api.Breakers](ctx, c, "/v1/breakers", nil)
}

// ResetBreaker closes a breaker.
func (c *Client) ResetBreaker(ctx context.Context, scope string) (api.BreakerChanged, error) {
	return post[api.BreakerChanged](ctx, c, "/v1/breakers/reset", api.BreakerRequest{Scope: scope})
}

// Trusts lists how far rules are trusted, by id; all has those that have done
// nothing as well.
func (c *Client) Trusts(ctx context.Context, all bool, p Page) (api.Trusts, error) {
	q := p.query()
	if all {
		q.Set("all", "true")
	}
	return get[api.Trusts](ctx, c, "/v1/trust", q)
}

// Trust returns one rule with its history.
func (c *Client) Trust(ctx context.Context, rule string) (api.RuleHistory, error) {
	return get[api.RuleHistory](ctx, c, "/v1/trust/rule", url.Values{"rule": {rule}})
}

// Promote lets a rule go further, Demote less far.
func (c *Client) Promote(ctx context.Context, req api.TrustRequest) (api.TrustMoved, error) {
	return post[api.TrustMoved](ctx, c, "/v1/trust/promote", req)
}

// Demote is the reverse of Promote.
func (c *Client) Demote(ctx context.Context, req api.TrustRequest) (api.TrustMoved, error) {
	return post[api.TrustMoved](ctx, c, "/v1/trust/demote", req)
}

// Drills lists exercises, newest first; name restricts to those of one name.
func (c *Client) Drills(ctx context.Context, name string, p Page) (api.Drills, error) {
	q := p.query()
	if name != "" {
		q.Set("name", name)
	}
	return get[api.Drills](ctx, c, "/v1/drills", q)
}

// Drill returns one exercise.
func (c *Client) Drill(ctx context.Context, id string) (api.DrillStory, error) {
	if err := checkID(id); err != nil {
		return api.DrillStory{}, err
	}
	return get[api.DrillStory](ctx, c, "/v1/drills/"+id, nil)
}

// RunDrill begins the configured exercise of that name.
func (c *Client) RunDrill(ctx context.Context, name string) (api.DrillStory, error) {
	return post[api.DrillStory](ctx, c, "/v1/drills", api.DrillRequest{Name: name})
}

// ReportHealth reports how many of a group are healthy.
func (c *Client) ReportHealth(ctx context.Context, h api.GroupHealth) (api.GroupHealthKept, error) {
	return post[api.GroupHealthKept](ctx, c, "/v1/groups/health", h)
}

// Verify checks the record log on the server.
func (c *Client) Verify(ctx context.Context) (record.Report, error) {
	return get[record.Report](ctx, c, pathVerify, nil)
}

// VerifyPast checks the record log on the server against an earlier checkpoint,
// which has to have the log's receipt where a transparency log is given.
func (c *Client) VerifyPast(ctx context.Context, past record.Checkpoint, log *record.TransparencyLog) (record.Report, error) {
	q := url.Values{}
	if log != nil {
		q.Set("log_key", log.Key())
		q.Set("log_origin", log.Origin())
	}
	var rep record.Report
	err := c.call(ctx, http.MethodPost, pathVerify, q, past, &rep)
	return rep, err
}

// Checkpoint signs a checkpoint of the record log on the server.
func (c *Client) Checkpoint(ctx context.Context) (record.Checkpoint, error) {
	return post[record.Checkpoint](ctx, c, pathCheckpoint, nil)
}

// Export copies the record log to w. An export that was cut off gives an error;
// whether the log is whole is for record.VerifyExport to say.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/v1/records/export", nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("copying the record log: %w", err)
	}
	return nil
}

// Doctor looks at everything that has to work.
func (c *Client) Doctor(ctx context.Context) (api.Diagnosis, error) {
	return get[api.Diagnosis](ctx, c, "/v1/doctor", nil)
}

// Storage says what the database has and how long it is kept.
func (c *Client) Storage(ctx context.Context) (api.Storage, error) {
	return get[api.Storage](ctx, c, "/v1/store", nil)
}

// PreviewRetention says what would be deleted now.
func (c *Client) PreviewRetention(ctx context.Context) (api.StoragePreview, error) {
	return get[api.StoragePreview](ctx, c, "/v1/store/preview", nil)
}

// Reload has the server read its configuration again, with keepGoing without the
// rules that are refused.
func (c *Client) Reload(ctx context.Context, keepGoing bool) (api.Reloaded, error) {
	q := url.Values{}
	if keepGoing {
		q.Set("keep_going", "true")
	}
	var out api.Reloaded
	err := c.call(ctx, http.MethodPost, "/v1/reload", q, nil, &out)
	return out, err
}

// Ingest posts a body of records for a source.
func (c *Client) Ingest(ctx context.Context, source string, body io.Reader) (api.IngestReport, error) {
	if err := checkID(strings.ReplaceAll(source, ".", "")); err != nil {
		return api.IngestReport{}, &staunch.Problem{Place: "source", Reason: fmt.Sprintf("%.80q is not a source's name", source)}
	}
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/ingest/" + source
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return api.IngestReport{}, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	resp, err := c.http.Do(req)
	if err != nil {
		return api.IngestReport{}, fmt.Errorf("%w from %s: %w", ErrUnreachable, c.base.Redacted(), err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if resp.StatusCode >= 300 {
		return api.IngestReport{}, refusal(http.MethodPost, u.Path, resp)
	}
	var rep api.IngestReport
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&rep); err != nil {
		return api.IngestReport{}, fmt.Errorf("decoding the answer: %w", err)
	}
	return rep, nil
}
