package client

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTokenStaysWhereItBelongs(t *testing.T) {
	t.Parallel()
	var elsewhere []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	defer srv.Close()
	c, err := New(Options{URL: srv.URL + "/base/", Token: staunch.NewSecret("s3cret")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Tokens(t.Context())
	var ce *Error
	if !errors.As(err, &ce) || ce.Status != http.StatusFound {
		t.Errorf("a redirect gave %v", err)
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the token is in %v", err)
	}
	if len(elsewhere) != 0 || len(got) != 1 || got[0] != "/base/v1/tokens Bearer s3cret" {
		t.Errorf("asked %v, elsewhere %v", got, elsewhere)
	}
}

func TestIDsAreIDs(t *testing.T) {
	t.Parallel()
	c, err := New(Options{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, id := range []string{"", ".", "..", "../tokens", "a/b", "a?b", "a%2fb", "a b", "é"} {
		_, err := c.Containment(t.Context(), id)
		if err2 := c.RevokeToken(t.Context(), id); !errors.Is(err, staunch.ErrInvalid) || !errors.Is(err2, staunch.ErrInvalid) {
			t.Errorf("%q: %v, %v", id, err, err2)
		}
	}
	if _, err := c.Containment(t.Context(), "con_1"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestURLs(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"http://127.0.0.1:8422": true, "https://staunch.example/base": true,
		"": false, "127.0.0.1:8422": false, "ftp://x": false, "http://": false, "https://u:p@x": false, "http://x?q": false, "http://x#f": false, "http://x\x00": false,
	} {
		c, err := New(Options{URL: url})
		if (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
		if c != nil {
			c.Close()
		}
	}
}

// A token is not sent in the clear to another machine.
func TestTokenNeedsTLS(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"http://127.0.0.1:8422": true, "http://[::1]:8422": true, "http://localhost:8422": true, "https://staunch.example": true,
		"http://staunch.example:8422": false, "http://10.0.0.1": false, "http://127.0.0.1.example.org": false, "HTTP://staunch.example": false,
	} {
		c, err := New(Options{URL: url, Token: staunch.NewSecret("s3cret")})
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", url, err)
		}
		if c != nil {
			c.Close()
		}
	}
	c, err := New(Options{URL: "http://staunch.example:8422"})
	if err != nil { // there is nothing to be taken
		t.Fatal(err)
	}
	c.Close()
}

// TestBacktestNeedsItsSummary: an answer that ends before is none.
func TestBacktestNeedsItsSummary(t *testing.T) {
	t.Parallel()
	const progress, summary = `{"v":1,"type":"progress","progress":{"decisions":1,"at":null}}` + "\n", `{"v":1,"type":"summary","summary":{"newly":1}}` + "\n"
	for answer, want := range map[string]string{
		progress + summary:             "",
		progress:                       "cut off",
		"":                             "cut off",
		progress + `{"v":1,"type":"su`: "cut off",
		progress + `{"v":1,"type":"error","error":"something failed inside"}`: "given up: something failed inside",
		`{"v":2,"type":"summary"}`: "version 2",
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
		c, err := New(Options{URL: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		err = c.Backtest(t.Context(), api.BacktestRequest{}, func(l api.BacktestLine) error {
			got = l.Type
			return nil
		})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", answer, err, want)
		}
		if want == "" && got != "summary" {
			t.Errorf("the last line told is a %s", got)
		}
		c.Close()
		srv.Close()
	}
}
