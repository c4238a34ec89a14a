package rest_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const keyHeader = "X-Step"

// client returns a client and closes its connections with the test.
func client(tb testing.TB, change func(*rest.Options)) *rest.Client {
	tb.Helper()
	o := rest.Options{Timeout: 10 * time.Second, MaxAnswer: 64, KeyHeader: keyHeader}
	if change != nil {
		change(&o)
	}
	c := rest.New(o)
	tb.Cleanup(c.CloseIdle)
	return c
}

func serve(tb testing.TB, h http.HandlerFunc) string {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	return srv.URL
}

// both makes a call that reads and one that changes, and compares the classes
// of their errors.
func both(t *testing.T, c *rest.Client, r rest.Request, reading, changing staunch.Class) {
	t.Helper()
	r.What = "asking"
	for key, want := range map[string]staunch.Class{"": reading, "stp_1": changing} {
		r.Key = key
		_, err := c.Do(t.Context(), r)
		if err == nil || staunch.ClassOf(err) != want || !strings.HasPrefix(err.Error(), "asking: ") {
			t.Errorf("key %q: class %s, want %s: %v", key, staunch.ClassOf(err), want, err)
		}
	}
}

// The table of the package's comment.
func TestStatuses(t *testing.T) {
	const permanent, transient, unknown, denied = staunch.ClassPermanent, staunch.ClassTransient, staunch.ClassUnknown, staunch.ClassDenied
	for _, s := range []struct {
		status            int
		reading, changing staunch.Class
	}{
		{300, permanent, permanent}, {301, permanent, permanent}, {302, permanent, permanent}, {303, permanent, permanent},
		{304, permanent, permanent}, {307, permanent, permanent}, {308, permanent, permanent},
		{400, permanent, permanent}, {401, denied, denied}, {402, permanent, permanent}, {403, denied, denied},
		{404, permanent, permanent}, {405, permanent, permanent}, {408, transient, transient}, {409, permanent, permanent},
		{410, permanent, permanent}, {412, permanent, permanent}, {413, permanent, permanent}, {422, permanent, permanent},
		{425, transient, transient}, {429, transient, transient}, {499, permanent, permanent},
		{500, transient, unknown}, {501, permanent, permanent}, {502, transient, unknown}, {503, transient, unknown},
		{504, transient, unknown}, {599, transient, unknown},
	} {
		t.Run(fmt.Sprint(s.status), func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(s.status) })
			c := client(t, nil)
			both(t, c, rest.Request{Method: http.MethodPost, URL: url}, s.reading, s.changing)
			_, err := c.Do(t.Context(), rest.Request{What: "asking", Method: http.MethodGet, URL: url})
			var se *rest.StatusError
			if !errors.As(err, &se) || se.Status != s.status {
				t.Errorf("%v has no status", err)
			}
		})
	}
}

func TestSuccess(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Answer", "a")
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, body, r.Header.Get("Authorization"), r.Header.Get(keyHeader))
	})
	header := http.Header{"Authorization": {"Bearer t"}}
	a, err := client(t, nil).Do(t.Context(), rest.Request{Method: http.MethodPut, URL: url, Header: header, Body: []byte("b"), Key: "stp_1"})
	if err != nil || a.Status != http.StatusAccepted || a.Header.Get("X-Answer") != "a" || string(a.Body) != "PUT b Bearer t stp_1" {
		t.Errorf("%+v, %v", a, err)
	}
	if len(header) != 1 {
		t.Errorf("the caller's header became %v", header)
	}
}

func TestVendorsWordsAndClasses(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusTeapot)
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, "busy")
	})
	c := client(t, func(o *rest.Options) {
		o.Words = func(status int, body []byte) (string, string) {
			return "code_" + string(body), strings.Repeat("é ", 400)
		}
		o.Class = func(e *rest.StatusError, changing bool) (staunch.Class, bool) {
			if e.Code != "code_busy" {
				t.Errorf("code %q", e.Code)
			}
			return staunch.ClassUnknown, changing && e.Status == http.StatusTeapot
		}
	})
	both(t, c, rest.Request{Method: http.MethodGet, URL: url}, staunch.ClassPermanent, staunch.ClassUnknown)
	_, err := c.Do(t.Context(), rest.Request{What: "asking", Method: http.MethodGet, URL: url})
	if msg := err.Error(); !strings.HasPrefix(msg, "asking: status 418: code_busy é é") || len(msg) > 400 || !strings.HasSuffix(msg, "…") {
		t.Errorf("%q", msg)
	}
	status.Store(http.StatusServiceUnavailable) // where the vendor's class does not hold, the table does
	both(t, c, rest.Request{Method: http.MethodGet, URL: url}, staunch.ClassTransient, staunch.ClassUnknown)
	plain := (&rest.StatusError{What: "asking", Status: 503}).Error()
	if plain != "asking: status 503: Service Unavailable" {
		t.Errorf("%q", plain)
	}
}

// A server that says a secret back does not get it into an error.
func TestSecretsAreNotSaidBack(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "no token "+r.Header.Get("Authorization")+" here, abc")
	})
	c := client(t, func(o *rest.Options) {
		o.Words = func(_ int, body []byte) (string, string) { return "bad_" + string(body), string(body) }
	})
	_, err := c.Do(t.Context(), rest.Request{
		What: "asking", Method: http.MethodGet, URL: url, Header: http.Header{"Authorization": {"Bearer hunter2"}},
		Hide: []staunch.Secret{staunch.NewSecret("hunter2"), {}, staunch.NewSecret("abc")},
	})
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Count(err.Error(), "***") != 2 || !strings.Contains(err.Error(), "here, abc") {
		t.Errorf("%v", err)
	}
}

func TestAnswersThatAreLost(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"too long": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 65)) },
		"cut off":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"half": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, client(t, nil), rest.Request{Method: http.MethodPost, URL: serve(t, h)}, staunch.ClassTransient, staunch.ClassUnknown)
		})
	}
	t.Run("just short enough", func(t *testing.T) {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 64)) })
		if a, err := client(t, nil).Do(t.Context(), rest.Request{Method: http.MethodGet, URL: url}); err != nil || len(a.Body) != 64 {
			t.Errorf("%d bytes, %v", len(a.Body), err)
		}
	})
	t.Run("a long refusal is a refusal", func(t *testing.T) {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, strings.Repeat("x", 65))
		})
		both(t, client(t, nil), rest.Request{Method: http.MethodPost, URL: url}, staunch.ClassDenied, staunch.ClassDenied)
	})
	t.Run("too late", func(t *testing.T) {
		end := make(chan struct{})
		url := serve(t, func(http.ResponseWriter, *http.Request) { <-end })
		defer close(end)
		c := client(t, func(o *rest.Options) { o.Timeout = 50 * time.Millisecond })
		both(t, c, rest.Request{Method: http.MethodPost, URL: url}, staunch.ClassTransient, staunch.ClassUnknown)
		_, err := c.Do(t.Context(), rest.Request{Method: http.MethodGet, URL: url})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		for key, want := range map[string]staunch.Class{"": staunch.ClassTransient, "k": staunch.ClassUnknown} {
			if err := (rest.Request{What: "asking", Key: key}).Unreadable(io.EOF); staunch.ClassOf(err) != want || !errors.Is(err, io.EOF) {
				t.Errorf("%q: %v", key, err)
			}
		}
	})
}

func TestNothingSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	both(t, client(t, nil), rest.Request{Method: http.MethodPost, URL: nobody}, staunch.ClassTransient, staunch.ClassTransient)

	var calls atomic.Int64
	url := serve(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	c := client(t, nil)
	now := time.Unix(1_700_000_000, 0)
	both(t, c, rest.Request{Method: http.MethodPost, URL: url, Deadline: staunch.TimeOf(now), Now: now}, staunch.ClassTransient, staunch.ClassTransient)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Do(ctx, rest.Request{Method: http.MethodPost, URL: url, Key: "k"}); staunch.ClassOf(err) != staunch.ClassTransient || !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is done: %v", err)
	}
	both(t, c, rest.Request{Method: "NO METHOD", URL: url}, staunch.ClassPermanent, staunch.ClassPermanent)
	for _, key := range []string{"a b", "a\nb", "é", strings.Repeat("k", rest.MaxKey+1)} {
		if _, err := c.Do(t.Context(), rest.Request{Method: http.MethodPost, URL: url, Key: key}); staunch.ClassOf(err) != staunch.ClassPermanent || !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls were made", n)
	}
	in := rest.Request{Method: http.MethodPost, URL: url, Key: strings.Repeat("k", rest.MaxKey), Deadline: staunch.TimeOf(now.Add(time.Minute)), Now: now}
	if _, err := c.Do(t.Context(), in); err != nil || calls.Load() != 1 {
		t.Errorf("in time: %v, %d calls", err, calls.Load())
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var shown atomic.Bool
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { shown.Store(true) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		url := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, status) })
		both(t, client(t, nil), rest.Request{Method: http.MethodGet, URL: url, Header: http.Header{"Authorization": {"Bearer t"}}}, staunch.ClassPermanent, staunch.ClassPermanent)
	}
	if shown.Load() {
		t.Error("a redirect was followed")
	}
}

func TestParseURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://host.example.org":        "",
		"https://host.example.org:8200/a": "",
		"https://host.example.org/a?b=c":  "",
		"http://localhost:1":              "",
		"http://127.0.0.1:1/a":            "",
		"http://[::1]:1":                  "",
		"":                                "not an address",
		"host.example.org":                "not an address",
		"/revoke":                         "not an address",
		"https://":                        "not an address",
		"https://user:pass@host":          "not an address",
		"https://host/#a":                 "not an address",
		"https://host/\x7f":               "not an address",
		"http://host.example.org":         "in the clear",
		"http://localhost.example.org":    "in the clear",
		"http://127.0.0.1.example.org":    "in the clear",
		"ftp://localhost":                 "in the clear",
	} {
		u, err := rest.ParseURL("address", s)
		var p *staunch.Problem
		switch {
		case want == "":
			if err != nil || u.String() != s {
				t.Errorf("%q: %v, %v", s, u, err)
			}
		case !errors.As(err, &p) || p.Place != "address" || !strings.Contains(p.Reason, want) || strings.Contains(p.Reason, "pass"):
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	get := func(c rest.TLS) error {
		t.Helper()
		tc, err := c.Config("tls.")
		if err != nil {
			t.Fatal(err)
		}
		_, err = client(t, func(o *rest.Options) { o.TLS = tc }).Do(t.Context(), rest.Request{Method: http.MethodGet, URL: srv.URL})
		return err
	}
	if err := get(rest.TLS{CAFile: ca}); err != nil {
		t.Errorf("a server that ca_file signs: %v", err)
	}
	for name, c := range map[string]rest.TLS{"unknown": {}, "another name": {CAFile: ca, ServerName: "other.example.net"}} {
		if err := get(c); err == nil || staunch.ClassOf(err) != staunch.ClassTransient {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (rest.TLS{CAFile: filepath.Join(dir, "none")}).Config("tls."); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "tls.ca_file") {
		t.Errorf("a missing ca_file: %v", err)
	}
	var p *staunch.Problem
	if _, err := (rest.TLS{CAFile: write("poor.pem", []byte("poor"))}).Config(""); !errors.As(err, &p) || p.Place != "ca_file" {
		t.Errorf("a ca_file without certificates: %v", err)
	}
	if _, err := (rest.TLS{CertFile: ca, KeyFile: filepath.Join(dir, "none")}).Config("tls."); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "tls.key_file") {
		t.Errorf("a missing key_file: %v", err)
	}
}
