package auth

import (
	"container/list"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// TokenStore is the part of a store.Store that an Authenticator needs; of the
// Reader it calls TokenByHash alone.
type TokenStore interface {
	View(ctx context.Context, fn func(store.Reader) error) error
}

// Options sets up an Authenticator; what is zero takes the default.
type Options struct {
	// Clock defaults to the machine's.
	Clock staunch.Clock
	// MaxAge is how long a token that was looked up is trusted without looking
	// again, and so how late a revocation on another node is seen. Default 5 s;
	// negative looks every time.
	MaxAge time.Duration
	// MaxCached bounds the tokens kept in memory. Default 10,000.
	MaxCached int
	// FailureRate and FailureBurst bound the look-ups that one remote address may
	// cause with tokens that turn out not to be valid: the burst at once, then
	// the rate per second. Default 1 and 10.
	FailureRate  float64
	FailureBurst int
	// MaxAddresses bounds the addresses whose failures are counted; the one that
	// failed longest ago is forgotten first. Default 4,096.
	MaxAddresses int
	// Observe, if given, is told how each look-up of a token ended: for a token in
	// use once every MaxAge. It is called from several goroutines and must not
	// block.
	Observe func(Login)
}

// Login is how a look-up of a token ended.
type Login struct {
	// Principal is zero where Err is set.
	Principal Principal
	// From is the caller's address, or of IPv6 the network of 64 bits that it is
	// in; zero where it is not known.
	From netip.Prefix
	At   staunch.Time
	// Err wraps staunch.ErrUnauthenticated where the token is not valid.
	Err error
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = staunch.SystemClock{}
	}
	if o.MaxAge == 0 {
		o.MaxAge = 5 * time.Second
	}
	if o.MaxCached <= 0 {
		o.MaxCached = 10_000
	}
	if o.FailureRate <= 0 {
		o.FailureRate = 1
	}
	if o.FailureBurst <= 0 {
		o.FailureBurst = 10
	}
	if o.MaxAddresses <= 0 {
		o.MaxAddresses = 4096
	}
	return o
}

// Authenticator turns a request's bearer token into a Principal. It is safe for
// concurrent use.
//
// The limit on failures keeps a wrong or hostile client from loading the
// database; nobody guesses 256 bits. A token that was valid a moment ago is
// therefore never limited, so that one misconfigured client behind a shared
// address cannot lock the others there out.
type Authenticator struct {
	tokens TokenStore
	o      Options
	fails  *failures

	mu     sync.Mutex
	cached map[string]cachedToken // by hash
	// changes counts invalidations, so that a look-up that began before one is
	// not kept after it.
	changes uint64
}

type cachedToken struct {
	token  store.Token
	looked time.Time
}

// New makes an authenticator.
func New(tokens TokenStore, o Options) *Authenticator {
	o = o.withDefaults()
	return &Authenticator{
		tokens: tokens, o: o, cached: map[string]cachedToken{},
		fails: &failures{
			rate: rate.Limit(o.FailureRate), burst: o.FailureBurst, most: o.MaxAddresses,
			order: list.New(), by: map[netip.Prefix]*list.Element{},
		},
	}
}

// Request authenticates an HTTP request by its one Authorization header and the
// address of its connection. Headers such as X-Forwarded-For are not looked at,
// since anyone can write them. The error wraps staunch.ErrUnauthenticated (401),
// staunch.ErrOverloaded (429: too many failures from this address), or is the
// store's.
func (a *Authenticator) Request(r *http.Request) (Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return Principal{}, fmt.Errorf("%w: the request has no token", staunch.ErrUnauthenticated)
	}
	if len(values) != 1 {
		return Principal{}, fmt.Errorf("%w: %d Authorization headers, one is needed", staunch.ErrUnauthenticated, len(values))
	}
	token, err := ParseBearer(values[0])
	if err != nil {
		return Principal{}, err
	}
	return a.Token(r.Context(), token, r.RemoteAddr)
}

// ParseBearer takes the token out of an Authorization header of the form
// "Bearer TOKEN"; the scheme's case does not matter. The error wraps
// staunch.ErrUnauthenticated and never quotes the header.
func ParseBearer(header string) (staunch.Secret, error) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.Trim(token, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return staunch.Secret{}, fmt.Errorf("%w: the Authorization header is not of the form: Bearer TOKEN", staunch.ErrUnauthenticated)
	}
	return staunch.NewSecret(token), nil
}

// Token authenticates a token that came from remote, an address with or without
// a port. Its errors are those of Request.
func (a *Authenticator) Token(ctx context.Context, token staunch.Secret, remote string) (Principal, error) {
	now := a.o.Clock.Now()
	if !LooksLikeToken(token.Reveal()) {
		// That was cheap, so it counts against nobody.
		return Principal{}, fmt.Errorf("%w: that is not a token (%s…)", staunch.ErrUnauthenticated, TokenPrefix)
	}
	hash := HashToken(token.Reveal())

	a.mu.Lock()
	known, ok := a.cached[hash]
	changes := a.changes
	a.mu.Unlock()
	if ok && now.Sub(known.looked) < a.o.MaxAge && !now.Before(known.looked) {
		return judge(known.token, hash, now)
	}
	from := network(remote)
	if !ok && !a.fails.mayTry(from, now) {
		return Principal{}, fmt.Errorf("%w: too many failed attempts from this address; try again later", staunch.ErrOverloaded)
	}

	var t store.Token
	err := a.tokens.View(ctx, func(r store.Reader) (err error) {
		t, err = r.TokenByHash(hash)
		return err
	})
	var p Principal
	switch {
	case errors.Is(err, staunch.ErrNotFound):
		err = fmt.Errorf("%w: no such token", staunch.ErrUnauthenticated)
	case err != nil:
		return Principal{}, fmt.Errorf("looking up a token: %w", err)
	default:
		p, err = judge(t, hash, now)
	}
	if a.o.Observe != nil {
		a.o.Observe(Login{Principal: p, From: from, At: staunch.TimeOf(now), Err: err})
	}
	if err != nil {
		a.keep(hash, nil, changes, now)
		a.fails.count(from, now)
		return Principal{}, err
	}
	a.keep(hash, &t, changes, now)
	return p, nil
}

// judge makes a principal of a stored token.
func judge(t store.Token, hash string, now time.Time) (Principal, error) {
	// The look-up found it by the same hash; this holds whatever collation or
	// prefix match a database might have made of that.
	if subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hash)) != 1 {
		return Principal{}, fmt.Errorf("%w: no such token", staunch.ErrUnauthenticated)
	}
	switch {
	case t.Revoked:
		return Principal{}, fmt.Errorf("%w: the token was revoked", staunch.ErrUnauthenticated)
	case t.Expires != 0 && !now.Before(t.Expires.Std()):
		return Principal{}, fmt.Errorf("%w: the token expired at %s", staunch.ErrUnauthenticated, t.Expires)
	case !Role(t.Role).Valid():
		return Principal{}, fmt.Errorf("%w: the token has an unknown role", staunch.ErrUnauthenticated)
	}
	return Principal{
		ID: t.ID, Name: t.Name, Role: Role(t.Role), Source: t.Source,
		Realms: t.Realms, Owners: t.Owners, Environments: t.Environments,
	}, nil
}

// keep caches a token that was looked up, or drops one (nil), unless something
// was invalidated since the look-up began.
func (a *Authenticator) keep(hash string, t *store.Token, changes uint64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t == nil {
		delete(a.cached, hash)
		return
	}
	if a.changes != changes {
		return
	}
	if _, ok := a.cached[hash]; !ok && len(a.cached) >= a.o.MaxCached {
		a.makeRoom(now)
	}
	a.cached[hash] = cachedToken{token: *t, looked: now}
}

// makeRoom drops what is too old, and if nothing is, any one.
func (a *Authenticator) makeRoom(now time.Time) {
	last := ""
	for h, c := range a.cached {
		last = h
		if now.Sub(c.looked) >= a.o.MaxAge {
			delete(a.cached, h)
		}
	}
	if len(a.cached) >= a.o.MaxCached {
		delete(a.cached, last)
	}
}

// Forget drops what is known of the tokens with these ids, or of all where none
// is given. Call it after a change of tokens has committed.
func (a *Authenticator) Forget(ids ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes++
	if len(ids) == 0 {
		clear(a.cached)
		return
	}
	for h, c := range a.cached {
		for _, id := range ids {
			if c.token.ID == id {
				delete(a.cached, h)
			}
		}
	}
}

// failures counts failed attempts by network, the most recent first.
type failures struct {
	rate  rate.Limit
	burst int
	most  int

	mu    sync.Mutex
	order *list.List // of *counted
	by    map[netip.Prefix]*list.Element
}

type counted struct {
	from  netip.Prefix
	limit *rate.Limiter
}

// network returns what failures are counted by: an IPv4 address, or the /64 that
// an IPv6 client usually has to itself. What is no address is counted together.
func network(remote string) netip.Prefix {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		ap, err := netip.ParseAddrPort(remote)
		if err != nil {
			return netip.Prefix{}
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// mayTry reports whether from has an attempt left, without taking it.
func (f *failures) mayTry(from netip.Prefix, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.by[from]
	return !ok || e.Value.(*counted).limit.TokensAt(now) >= 1
}

// count takes an attempt from from.
func (f *failures) count(from netip.Prefix, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.by[from]
	if !ok {
		if f.order.Len() >= f.most {
			last := f.order.Back()
			delete(f.by, last.Value.(*counted).from)
			f.order.Remove(last)
		}
		e = f.order.PushFront(&counted{from: from, limit: rate.NewLimiter(f.rate, f.burst)})
		f.by[from] = e
	}
	f.order.MoveToFront(e)
	e.Value.(*counted).limit.AllowN(now, 1)
}
