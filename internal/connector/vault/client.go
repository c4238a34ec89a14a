package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

const (
	// maxAnswer bounds what is read of an answer; a list of 200,000 accessors
	// has about 6 MiB.
	maxAnswer    = 16 << 20
	maxTokenFile = 16 << 10
)

// client speaks to Vault over connections of its own.
type client struct {
	base      *url.URL
	namespace string
	token     func() (staunch.Secret, error)
	rest      *rest.Client
}

// call is one request.
type call struct {
	method, path string // path without /v1/, escaped
	body         any
	// key, when set, marks a call that changes something, and goes along.
	key string
	// token, when set, is shown instead of the client's.
	token staunch.Secret
	// bare shows no token.
	bare bool
	// until ends the call; 0 is with the context.
	until staunch.Time
	now   time.Time
}

// answer is what Vault said when it did not refuse.
type answer struct {
	ID       string          `json:"request_id"`
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
	raw      []byte
}

func (a answer) warned(what string) bool {
	for _, w := range a.Warnings {
		if strings.Contains(w, what) {
			return true
		}
	}
	return false
}

// refused returns the refusal in err's chain with the status and a message
// that contains says.
func refused(err error, status int, says string) bool {
	var e *rest.StatusError
	return errors.As(err, &e) && e.Status == status && strings.Contains(e.Text, says)
}

// base checks an address and returns what paths are relative to.
func base(address string) (*url.URL, error) {
	u, err := rest.ParseURL("address", address)
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" {
		return nil, &staunch.Problem{Place: "address", Reason: "an address such as https://vault.example.org:8200 has no query"}
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/v1/"
	return u, nil
}

func newClient(cfg Config, token func() (staunch.Secret, error)) (*client, error) {
	u, err := base(cfg.Address)
	if err != nil {
		return nil, err
	}
	tc, err := cfg.TLS.Config("tls.")
	if err != nil {
		return nil, err
	}
	return &client{
		base: u, namespace: cfg.Namespace, token: token,
		rest: rest.New(rest.Options{
			Timeout: cfg.Timeout.Std(), MaxAnswer: maxAnswer, TLS: tc, KeyHeader: StepHeader,
			Words: words, Class: class,
		}),
	}, nil
}

// source returns the token, from its file when it is in one; the file is read
// again when its time or size has changed.
func source(token staunch.Secret, file string) func() (staunch.Secret, error) {
	if file == "" {
		return func() (staunch.Secret, error) { return token, nil }
	}
	var mu sync.Mutex
	var last os.FileInfo
	var value staunch.Secret
	return func() (staunch.Secret, error) {
		mu.Lock()
		defer mu.Unlock()
		info, err := os.Stat(file)
		if err != nil {
			return staunch.Secret{}, fmt.Errorf("reading the token file: %w", err)
		}
		if last != nil && info.ModTime().Equal(last.ModTime()) && info.Size() == last.Size() {
			return value, nil
		}
		if info.Size() > maxTokenFile {
			return staunch.Secret{}, fmt.Errorf("the token file %s has %d bytes, at most %d", file, info.Size(), maxTokenFile)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return staunch.Secret{}, fmt.Errorf("reading the token file: %w", err)
		}
		v := strings.TrimSpace(string(b))
		if v == "" {
			return staunch.Secret{}, fmt.Errorf("the token file %s is empty", file)
		}
		last, value = info, staunch.NewSecret(v)
		return value, nil
	}
}

// do makes one request. Its errors have the classes of the README's table.
func (c *client) do(ctx context.Context, r call) (answer, error) {
	req, err := c.request(r)
	if err != nil {
		return answer{}, err
	}
	got, err := c.rest.Do(ctx, req)
	if err != nil {
		return answer{}, err
	}
	a := answer{raw: got.Body}
	if len(bytes.TrimSpace(a.raw)) > 0 {
		if err := json.Unmarshal(a.raw, &a); err != nil {
			return answer{}, req.Unreadable(fmt.Errorf("decoding the answer: %w", err))
		}
	}
	return a, nil
}

func (c *client) request(r call) (rest.Request, error) {
	req := rest.Request{What: r.method + " " + r.path, Method: r.method, Header: http.Header{}, Key: r.key, Deadline: r.until, Now: r.now}
	if r.body != nil {
		b, err := json.Marshal(r.body)
		if err != nil {
			return req, staunch.Permanent(fmt.Errorf("%s: encoding the body: %w", req.What, err))
		}
		req.Body = b
	}
	u, err := c.base.Parse(r.path)
	if err != nil || !strings.HasPrefix(u.Path, c.base.Path) {
		return req, staunch.Permanent(fmt.Errorf("%s: %w: not a path of Vault", req.What, staunch.ErrInvalid))
	}
	req.URL = u.String()
	req.Header.Set("X-Vault-Request", "true")
	if c.namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.namespace)
	}
	token := r.token
	if token.Empty() && !r.bare {
		var err error
		if token, err = c.token(); err != nil {
			return req, staunch.Denied(fmt.Errorf("%s: %w", req.What, err))
		}
	}
	if !r.bare {
		req.Header.Set("X-Vault-Token", token.Reveal())
		req.Hide = append(req.Hide, token)
	}
	if b, ok := r.body.(map[string]string); ok && b["token"] != "" { // of another
		req.Hide = append(req.Hide, staunch.NewSecret(b["token"]))
	}
	return req, nil
}

// words reads Vault's own errors; a proxy's are in other shapes.
func words(status int, body []byte) (code, text string) {
	if status == http.StatusTemporaryRedirect || status == http.StatusPermanentRedirect {
		return "", "a standby node that does not forward requests; use the active node's address"
	}
	var b struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(body, &b) != nil {
		return "", ""
	}
	return "", strings.Join(b.Errors, "; ")
}

// class says where Vault's answers mean something else than anybody's.
func class(e *rest.StatusError, changing bool) (staunch.Class, bool) {
	says := func(what string) bool { return strings.Contains(e.Text, what) }
	switch s := e.Status; {
	case s == http.StatusTemporaryRedirect, s == http.StatusPermanentRedirect:
		return staunch.ClassTransient, true // a standby; it did nothing
	case s == http.StatusBadRequest && says("missing client token"):
		return staunch.ClassDenied, true
	case s == http.StatusBadRequest && changing && says("failed to revoke"):
		// The backend that a lease is from did not agree, perhaps after it acted.
		return staunch.ClassUnknown, true
	case s == http.StatusPreconditionFailed, s == 472, s == 473:
		return staunch.ClassTransient, true // not yet replicated; a standby: nothing was done
	case s == http.StatusServiceUnavailable && says("sealed"):
		return staunch.ClassTransient, true
	}
	return 0, false
}
