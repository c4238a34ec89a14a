package app

import (
	"net/netip"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
)

// TestLoginsAreBounded: however often and from wherever tokens are used, an hour
// writes so much and no more.
func TestLoginsAreBounded(t *testing.T) {
	now := staunch.TimeOf(time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC))
	from := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	var l logins
	in := func(id string, i int, at staunch.Time) {
		l.note(auth.Login{Principal: auth.Principal{ID: id, Name: id}, From: from(i), At: at})
	}
	for range 100 {
		in("a", 1, now)
	}
	in("a", 2, now)
	in("b", 1, now)
	w, r := l.take(now, false)
	if len(w) != 3 || r.n != 0 {
		t.Fatalf("%d logins, %+v", len(w), r)
	}
	in("a", 1, now.Add(time.Minute))
	if w, _ := l.take(now, false); len(w) != 0 {
		t.Errorf("the same hour: %d", len(w))
	}
	in("a", 1, now.Add(time.Hour))
	if w, _ := l.take(now, false); len(w) != 1 {
		t.Errorf("the next hour: %d", len(w))
	}
	for i := range 3 * mostLogins {
		in("c", i, now.Add(2*time.Hour))
	}
	w, _ = l.take(now, false)
	if len(w) != mostLogins {
		t.Errorf("%d logins in an hour", len(w))
	}
	// What could not be written waits, within the bound.
	in("d", 1, now.Add(3*time.Hour))
	l.back(w)
	if again, _ := l.take(now, false); len(again) != mostLogins {
		t.Errorf("%d wait", len(again))
	}

	for i := range 50 {
		for range 3 {
			l.note(auth.Login{From: from(i), At: now, Err: staunch.ErrUnauthenticated})
		}
	}
	if _, r := l.take(now.Add(time.Minute), false); r.n != 0 {
		t.Errorf("told at once: %+v", r)
	}
	_, r = l.take(now.Add(tellRefused), false)
	if r.n != 150 || len(r.networks) != mostNetworks+1 || r.networks["others"] != 90 || r.networks["10.0.0.7"] != 3 || r.since != now {
		t.Errorf("refused: %+v", r)
	}
	l.note(auth.Login{At: now, Err: staunch.ErrUnauthenticated})
	if _, r := l.take(now, true); r.n != 1 || r.networks["unknown"] != 1 {
		t.Errorf("at the end: %+v", r)
	}
	for in, want := range map[string]string{"2001:db8::/64": "2001:db8::/64", "192.0.2.1/32": "192.0.2.1"} {
		if got := addressOf(netip.MustParsePrefix(in)); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}
