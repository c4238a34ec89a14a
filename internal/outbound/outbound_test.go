package outbound

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
)

func TestRefusedAddresses(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:80": true, "10.1.2.3:443": true, "[::1]:80": true, "93.184.216.34:443": true, "[2001:db8::1]:443": true,
		"169.254.169.254:80": false, "[fe80::1]:80": false, "[fe80::1%eth0]:80": false, "[::ffff:169.254.169.254]:80": false,
		"0.0.0.0:80": false, "[::]:80": false, "224.0.0.1:80": false, "[ff02::1]:80": false, "x": false,
	} {
		if err := refuseAddress("tcp", addr, nil); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://log.example.org": true, "https://log.example.org:8443/a": true, "http://127.0.0.1:3000": true, "http://[::1]:1": true, "http://localhost": true,
		"": false, "log.example.org": false, "https://": false, "ftp://log.example.org": false, "http://log.example.org": false,
		"https://me:secret@log.example.org": false, "https://log.example.org#x": false, "http://127.0.0.1.example.org": false, "https://%zz": false,
	} {
		err := CheckURL(url)
		if (err == nil) != ok || err != nil && (!errors.Is(err, staunch.ErrInvalid) || url != "" && strings.Contains(err.Error(), url)) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// TestRedirects: the same request to the same host, and nothing else.
func TestRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other host was asked") }))
	defer other.Close()
	var to string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	c := Client(10 * time.Second)
	defer c.CloseIdleConnections()
	for target, want := range map[string]int{"/end": http.StatusNoContent, other.URL: http.StatusTemporaryRedirect, "/round": http.StatusTemporaryRedirect} {
		to = target
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("a redirect to %s ended with %d, %v", target, resp.StatusCode, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := Printable([]byte(" a\r\nb\x1b[31m\xff\u202ec ")); got != "a  b[31mc" {
		t.Errorf("got %q", got)
	}
	if got := Printable([]byte(strings.Repeat("ä", 300))); got != strings.Repeat("ä", maxPrinted-1)+"…" {
		t.Errorf("got %q", got)
	}
}
