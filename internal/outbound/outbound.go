// Package outbound has the rules for requests to addresses that an operator
// configured, such as channels that people are told by and transparency logs.
//
// Such an address comes from the configuration and never from an event, a rule or
// the API, so private addresses are allowed. What is refused: redirects to another
// host, scheme or method, and, at the moment of dialling, so that no DNS answer
// gets around it, link-local addresses (where clouds serve their machines'
// credentials), multicast and the unspecified address. A proxy from the
// environment is used, and is then what is dialled.
package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/staunch-project/staunch"
)

const (
	maxHeaders   = 64 << 10
	maxRedirects = 3
	maxPrinted   = 200 // runes
)

// Client makes a client whose requests take at most timeout, from dialling to the
// answer's end. A redirect that it does not follow is the answer.
func Client(timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, Control: refuseAddress}
	return &http.Client{
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
	}
}

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

// ErrPlainHTTP says that an address is http to another host than loopback. It is
// checked last: the address is otherwise in order.
var ErrPlainHTTP = fmt.Errorf("%w: is http, which anyone on the way can read or change; use https", staunch.ErrInvalid)

// CheckURL reports why nothing may be sent to raw, never quoting it: it is an https
// address, or an http address of loopback, without credentials and a fragment.
// Errors wrap staunch.ErrInvalid.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return fmt.Errorf("%w: is not a URL with a host", staunch.ErrInvalid)
	case u.User != nil:
		return fmt.Errorf("%w: has credentials in it", staunch.ErrInvalid)
	case u.Fragment != "":
		return fmt.Errorf("%w: has a fragment, which is never sent", staunch.ErrInvalid)
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return fmt.Errorf("%w: is neither https nor http", staunch.ErrInvalid)
	case Loopback(u.Hostname()):
		return nil
	}
	return ErrPlainHTTP
}

// Loopback reports whether a host is this machine by its name or address alone.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// WithoutURL takes the URL, which may be a secret, out of an error.
func WithoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Printable returns the beginning of an answer in one line, for people.
func Printable(b []byte) string {
	s := strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(b), "")))
	if r := []rune(s); len(r) > maxPrinted {
		return string(r[:maxPrinted-1]) + "…"
	}
	return s
}
