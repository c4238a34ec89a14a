package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// fakeStore is a table of tokens; every method of Reader but TokenByHash is nil.
type fakeStore struct {
	mu    sync.Mutex
	rows  map[string]store.Token
	looks int
	err   error
	// during runs in the middle of a look-up, after the row was read.
	during func()
}

type fakeReader struct {
	store.Reader
	get func(hash string) (store.Token, error)
}

func (r fakeReader) TokenByHash(hash string) (store.Token, error) { return r.get(hash) }

func (f *fakeStore) View(_ context.Context, fn func(store.Reader) error) error {
	return fn(fakeReader{get: func(hash string) (store.Token, error) {
		f.mu.Lock()
		f.looks++
		t, ok := f.rows[hash]
		err, during := f.err, f.during
		f.mu.Unlock()
		if during != nil {
			during()
		}
		if err != nil {
			return store.Token{}, err
		}
		if !ok {
			return store.Token{}, fmt.Errorf("token: %w", staunch.ErrNotFound)
		}
		return t, nil
	}})
}

func (f *fakeStore) put(t store.Token) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rows == nil {
		f.rows = map[string]store.Token{}
	}
	f.rows[t.Hash] = t
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func setUp(o Options) (*Authenticator, *fakeStore, *clock) {
	f, c := &fakeStore{}, &clock{now: time.Unix(1_790_000_000, 0)}
	o.Clock = c
	return New(f, o), f, c
}

// made makes a token with its row.
func made(f *fakeStore, name string, role Role) (staunch.Secret, store.Token) {
	s, h := NewToken()
	t := store.Token{ID: "tok_" + name, Name: name, Hash: h, Role: string(role), Created: 1}
	f.put(t)
	return s, t
}

func TestTokenForm(t *testing.T) {
	pattern := regexp.MustCompile(TokenPattern)
	seen := map[string]bool{}
	for range 200 {
		s, h := NewToken()
		v := s.Reveal()
		if !LooksLikeToken(v) || !pattern.MatchString("token="+v+"\n") || h != HashToken(v) || len(h) != 64 {
			t.Fatalf("token %q, hash %q", v, h)
		}
		if seen[v] {
			t.Fatal("the same token twice")
		}
		seen[v] = true
		if fmt.Sprint(s) != "***" {
			t.Fatal("a token prints itself")
		}
	}
	// The form is a promise to secret scanners.
	const fixed = "stn_0000000000000000000000000000000000000000000"
	if got := fixed + checksum(fixed); !LooksLikeToken(got) || got != fixed+"3I94LP" {
		t.Errorf("got %s", got)
	}
}

func TestLooksLikeTokenFindsEveryTypo(t *testing.T) {
	s, _ := NewToken()
	rapid.Check(t, func(t *rapid.T) {
		v := []byte(s.Reveal())
		i := rapid.IntRange(0, len(v)-1).Draw(t, "at")
		c := digits[rapid.IntRange(0, len(digits)-1).Draw(t, "digit")]
		if v[i] == c {
			t.Skip("the same")
		}
		v[i] = c
		if LooksLikeToken(string(v)) {
			t.Fatalf("%s passes", v)
		}
	})
	for _, bad := range []string{"", "stn_", s.Reveal() + "0", s.Reveal()[1:], "ghp" + s.Reveal()[3:], strings.Replace(s.Reveal(), "_", "-", 1), s.Reveal()[:20] + "é" + s.Reveal()[22:]} {
		if LooksLikeToken(bad) {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	a, f, c := setUp(Options{})
	s, row := made(f, "ana", RoleResponder)
	row.Realms = []string{"pg/prod"}
	f.put(row)
	p, err := a.Token(t.Context(), s, "10.0.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != row.ID || p.Name != "ana" || p.Role != RoleResponder || !slices.Equal(p.Realms, row.Realms) {
		t.Fatalf("principal %+v", p)
	}
	// Kept for a moment, then looked up again.
	for range 3 {
		if _, err := a.Token(t.Context(), s, "10.0.0.1:5000"); err != nil {
			t.Fatal(err)
		}
	}
	if f.looks != 1 {
		t.Fatalf("%d look-ups, want 1", f.looks)
	}
	c.add(5 * time.Second)
	if _, err := a.Token(t.Context(), s, "10.0.0.1:5000"); err != nil || f.looks != 2 {
		t.Fatalf("%v after %d look-ups", err, f.looks)
	}
}

func TestRefusals(t *testing.T) {
	for name, edit := range map[string]func(*store.Token){
		"revoked":      func(r *store.Token) { r.Revoked = true },
		"expired":      func(r *store.Token) { r.Expires = staunch.TimeOf(time.Unix(1_790_000_000, 0)) },
		"unknown role": func(r *store.Token) { r.Role = "root" },
		"no role":      func(r *store.Token) { r.Role = "" },
	} {
		a, f, _ := setUp(Options{})
		s, row := made(f, "x", RoleAdmin)
		edit(&row)
		f.put(row)
		if p, err := a.Token(t.Context(), s, "10.0.0.1:1"); !errors.Is(err, staunch.ErrUnauthenticated) || p.Role != "" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	a, f, _ := setUp(Options{})
	unknown, _ := NewToken()
	if _, err := a.Token(t.Context(), unknown, ""); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := a.Token(t.Context(), staunch.NewSecret("stn_x"), ""); !errors.Is(err, staunch.ErrUnauthenticated) || f.looks != 1 {
		t.Errorf("malformed: %v after %d look-ups", err, f.looks)
	}
	// A store that returns another row than the one asked for changes nothing.
	s, row := made(f, "y", RoleAdmin)
	other := row
	other.Hash = strings.Repeat("0", 64)
	f.rows[row.Hash] = other
	if _, err := a.Token(t.Context(), s, ""); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Errorf("another row: %v", err)
	}
	// A store that is down is not a wrong token.
	f.err = errors.New("database is down")
	if _, err := a.Token(t.Context(), s, ""); !errors.Is(err, f.err) || errors.Is(err, staunch.ErrUnauthenticated) {
		t.Errorf("store down: %v", err)
	}
}

func TestLookUpsAreObserved(t *testing.T) {
	var seen []Login
	a, f, c := setUp(Options{MaxAge: 5 * time.Second, Observe: func(l Login) { seen = append(seen, l) }})
	good, _ := made(f, "ana", RoleViewer)
	unknown, _ := NewToken()
	for range 3 { // one look-up
		if _, err := a.Token(t.Context(), good, "192.0.2.1:99"); err != nil {
			t.Fatal(err)
		}
	}
	c.add(6 * time.Second)
	_, _ = a.Token(t.Context(), good, "[2001:db8::1]:99")
	_, _ = a.Token(t.Context(), unknown, "192.0.2.1:99")
	_, _ = a.Token(t.Context(), staunch.NewSecret("stn_x"), "192.0.2.1:99") // costs no look-up
	if len(seen) != 3 || seen[0].Principal.Name != "ana" || seen[0].From.String() != "192.0.2.1/32" || seen[0].At == 0 || seen[0].Err != nil ||
		seen[1].From.String() != "2001:db8::/64" || !errors.Is(seen[2].Err, staunch.ErrUnauthenticated) || seen[2].Principal.ID != "" {
		t.Errorf("observed %+v", seen)
	}
}

func TestExpiryIsSeenWhileCached(t *testing.T) {
	a, f, c := setUp(Options{MaxAge: time.Hour})
	s, row := made(f, "x", RoleViewer)
	row.Expires = staunch.TimeOf(c.Now().Add(time.Minute))
	f.put(row)
	if _, err := a.Token(t.Context(), s, ""); err != nil {
		t.Fatal(err)
	}
	c.add(time.Minute)
	if _, err := a.Token(t.Context(), s, ""); !errors.Is(err, staunch.ErrUnauthenticated) || f.looks != 1 {
		t.Fatalf("%v after %d look-ups", err, f.looks)
	}
}

func TestRevocation(t *testing.T) {
	a, f, c := setUp(Options{MaxAge: time.Minute})
	s, row := made(f, "x", RoleViewer)
	keep, _ := made(f, "keep", RoleViewer)
	for _, s := range []staunch.Secret{s, keep} {
		if _, err := a.Token(t.Context(), s, ""); err != nil {
			t.Fatal(err)
		}
	}
	row.Revoked = true
	f.put(row)
	// Another node's revocation is seen within MaxAge, our own at once.
	if _, err := a.Token(t.Context(), s, ""); err != nil {
		t.Fatalf("before anything told us: %v", err)
	}
	a.Forget(row.ID)
	if _, err := a.Token(t.Context(), s, ""); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("after Forget: %v", err)
	}
	if _, err := a.Token(t.Context(), keep, ""); err != nil || f.looks != 3 {
		t.Fatalf("the other token: %v after %d look-ups", err, f.looks)
	}
	f.put(store.Token{ID: "tok_keep", Hash: HashToken(keep.Reveal()), Role: "viewer", Revoked: true})
	c.add(time.Minute)
	if _, err := a.Token(t.Context(), keep, ""); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("after MaxAge: %v", err)
	}
	a.Forget()
	if len(a.cached) != 0 {
		t.Fatal("Forget without ids left something")
	}
}

// A look-up that read the row before a revocation committed must not put the
// old row into the cache after it.
func TestALookUpThatARevocationOvertakesIsNotKept(t *testing.T) {
	a, f, _ := setUp(Options{MaxAge: time.Hour})
	s, row := made(f, "x", RoleViewer)
	f.during = func() {
		f.mu.Lock()
		f.during = nil
		f.mu.Unlock()
		row.Revoked = true
		f.put(row)
		a.Forget(row.ID)
	}
	if _, err := a.Token(t.Context(), s, ""); err != nil {
		t.Fatalf("the request that was under way: %v", err)
	}
	if _, err := a.Token(t.Context(), s, ""); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("the next request: %v", err)
	}
}

func TestFailuresAreLimitedByAddress(t *testing.T) {
	a, f, c := setUp(Options{FailureRate: 1, FailureBurst: 3})
	good, _ := made(f, "good", RoleSource)
	if _, err := a.Token(t.Context(), good, "10.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	try := func(remote string) error {
		s, _ := NewToken()
		_, err := a.Token(t.Context(), s, remote)
		return err
	}
	for i := range 3 {
		if err := try(fmt.Sprintf("10.0.0.1:%d", 1000+i)); !errors.Is(err, staunch.ErrUnauthenticated) {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	looks := f.looks
	if err := try("10.0.0.1:9"); !errors.Is(err, staunch.ErrOverloaded) || f.looks != looks {
		t.Fatalf("over the limit: %v, %d more look-ups", err, f.looks-looks)
	}
	if err := try("10.0.0.2:9"); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("another address: %v", err)
	}
	// Who was valid a moment ago is not locked out, even when looked up again.
	c.add(500 * time.Millisecond)
	if _, err := a.Token(t.Context(), good, "10.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	a.o.MaxAge = -1
	if _, err := a.Token(t.Context(), good, "10.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	c.add(time.Second)
	if err := try("10.0.0.1:9"); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("after a second: %v", err)
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:80": "10.0.0.1/32", "10.0.0.1": "10.0.0.1/32", "[::ffff:10.0.0.1]:80": "10.0.0.1/32",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64", "2001:db8:1:2::9": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80": "fe80::/64", "@": "invalid Prefix", "": "invalid Prefix",
	} {
		if got := network(in).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	a, f, c := setUp(Options{MaxCached: 4, MaxAddresses: 8, MaxAge: time.Minute})
	for i := range 50 {
		s, _ := made(f, fmt.Sprint(i), RoleViewer)
		if _, err := a.Token(t.Context(), s, ""); err != nil {
			t.Fatal(err)
		}
		bad, _ := NewToken()
		if _, err := a.Token(t.Context(), bad, fmt.Sprintf("10.0.0.%d:1", i)); !errors.Is(err, staunch.ErrUnauthenticated) {
			t.Fatal(err)
		}
		c.add(time.Second)
	}
	if len(a.cached) > 4 || len(a.fails.by) > 8 || a.fails.order.Len() != len(a.fails.by) {
		t.Fatalf("%d tokens, %d addresses (%d)", len(a.cached), len(a.fails.by), a.fails.order.Len())
	}
	// The address that failed last is the one that is remembered.
	if _, ok := a.fails.by[network("10.0.0.49")]; !ok {
		t.Fatal("the latest failure was forgotten")
	}
}

func TestRequest(t *testing.T) {
	a, f, _ := setUp(Options{})
	s, _ := made(f, "x", RoleViewer)
	for name, c := range map[string]struct {
		headers []string
		ok      bool
	}{
		"none":        {nil, false},
		"two":         {[]string{"Bearer " + s.Reveal(), "Bearer " + s.Reveal()}, false},
		"basic":       {[]string{"Basic " + s.Reveal()}, false},
		"bare":        {[]string{s.Reveal()}, false},
		"no token":    {[]string{"Bearer "}, false},
		"two words":   {[]string{"Bearer " + s.Reveal() + " x"}, false},
		"good":        {[]string{"Bearer " + s.Reveal()}, true},
		"lower case":  {[]string{"bearer " + s.Reveal()}, true},
		"two blanks":  {[]string{"Bearer  " + s.Reveal()}, true},
		"comma added": {[]string{"Bearer " + s.Reveal() + ","}, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, h := range c.headers {
			r.Header.Add("Authorization", h)
		}
		p, err := a.Request(r)
		if c.ok && (err != nil || p.Name != "x") || !c.ok && (!errors.Is(err, staunch.ErrUnauthenticated) || p.Role != "") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if err != nil && strings.Contains(err.Error(), s.Reveal()) {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	if f.looks != 1 {
		t.Errorf("%d look-ups, want 1: nothing malformed reaches the store", f.looks)
	}
}

func TestConcurrentUse(t *testing.T) {
	a, f, c := setUp(Options{MaxCached: 8, MaxAge: time.Millisecond})
	var wg sync.WaitGroup
	for i := range 8 {
		s, row := made(f, fmt.Sprint(i), RoleViewer)
		wg.Go(func() {
			for range 50 {
				if _, err := a.Token(context.Background(), s, "10.0.0.1:1"); err != nil {
					t.Error(err)
				}
				bad, _ := NewToken()
				if _, err := a.Token(context.Background(), bad, "10.0.0.2:1"); err == nil {
					t.Error("an unknown token passed")
				}
				a.Forget(row.ID)
				c.add(time.Millisecond)
			}
		})
	}
	wg.Wait()
}

func TestRightsTable(t *testing.T) {
	seen := map[Verb]bool{}
	for _, r := range Rights() {
		if seen[r.Verb] || r.Does == "" || len(r.Roles) == 0 || r.Whole && r.Unscoped {
			t.Errorf("row %+v", r)
		}
		seen[r.Verb] = true
		for _, role := range r.Roles {
			if !role.Valid() {
				t.Errorf("%s: unknown role %s", r.Verb, role)
			}
		}
	}
	// The table is the contract; a change of it is a change of this list.
	want := map[Role]string{
		RoleViewer:    "read metrics",
		RoleResponder: "read metrics plan contain clear advance extend release health",
		RoleApprover:  "read metrics plan contain clear advance extend release approve health trust drill",
		RoleAdmin:     "read metrics plan contain clear advance extend release approve audit identity breaker health parked config token trust drill",
		RoleSource:    "ingest",
		RolePEP:       "evaluate",
	}
	for _, role := range Roles() {
		var may []string
		for _, r := range Rights() {
			if Authorize(Principal{Name: "x", Role: role, Source: "s"}, r.Verb, Object{Source: "s"}) == nil {
				may = append(may, string(r.Verb))
			}
		}
		if got := strings.Join(may, " "); got != want[role] {
			t.Errorf("%s may: %s\nwant: %s", role, got, want[role])
		}
	}
	Rights()[0].Roles[0] = RolePEP
	if Authorize(Principal{Role: RolePEP}, Read, Object{}) == nil {
		t.Error("a caller can change the table")
	}
}

func TestAuthorizeScopes(t *testing.T) {
	obj := Object{ID: "con_1", Realms: []string{"pg/prod"}, Owner: "payments", Environment: "prod"}
	for name, c := range map[string]struct {
		p    Principal
		verb Verb
		obj  Object
		want string // part of the reason; empty is yes
	}{
		"zero principal":     {Principal{}, Read, obj, "role (none) may not read"},
		"unknown verb":       {Principal{Role: RoleAdmin}, "destroy", obj, "is not a verb"},
		"unscoped":           {Principal{Role: RoleResponder}, Contain, obj, ""},
		"realm":              {Principal{Role: RoleResponder, Realms: []string{"pg/dev", "pg/prod"}}, Contain, obj, ""},
		"other realm":        {Principal{Role: RoleResponder, Realms: []string{"pg/dev"}}, Contain, obj, "realm pg/prod is outside"},
		"no prefix":          {Principal{Role: RoleResponder, Realms: []string{"pg"}}, Contain, obj, "realm pg/prod is outside"},
		"one realm of two":   {Principal{Role: RoleResponder, Realms: []string{"pg/prod"}}, Contain, Object{Realms: []string{"pg/prod", "vault/prod"}}, "realm vault/prod"},
		"realm not said":     {Principal{Role: RoleViewer, Realms: []string{"pg/prod"}}, Read, Object{}, "nothing says which realm"},
		"owner":              {Principal{Role: RoleViewer, Owners: []string{"payments"}}, Read, obj, ""},
		"other owner":        {Principal{Role: RoleViewer, Owners: []string{"hr"}}, Read, obj, "owner payments"},
		"no owner":           {Principal{Role: RoleViewer, Owners: []string{"hr"}}, Read, Object{}, "owner (none)"},
		"environment":        {Principal{Role: RoleViewer, Environments: []string{"prod"}}, Read, obj, ""},
		"other environment":  {Principal{Role: RoleViewer, Environments: []string{"dev"}}, Read, obj, "environment prod"},
		"all must fit":       {Principal{Role: RoleViewer, Realms: []string{"pg/prod"}, Owners: []string{"payments"}, Environments: []string{"dev"}}, Read, obj, "environment prod"},
		"whole":              {Principal{Role: RoleAdmin}, Token, Object{}, ""},
		"whole when limited": {Principal{Role: RoleAdmin, Realms: []string{"pg/prod"}}, Token, obj, "whole deployment"},
		"audit when limited": {Principal{Role: RoleAdmin, Owners: []string{"payments"}}, Audit, obj, "whole deployment"},
		"metrics":            {Principal{Role: RoleViewer, Owners: []string{"payments"}}, Metrics, Object{}, ""},
		"source":             {Principal{Role: RoleSource, Source: "trail"}, Ingest, Object{Source: "trail"}, ""},
		"other source":       {Principal{Role: RoleSource, Source: "trail"}, Ingest, Object{Source: "okta"}, "bound to source trail, not okta"},
		"unbound source":     {Principal{Role: RoleSource}, Ingest, Object{}, "bound to source (none)"},
		"admin posts":        {Principal{Role: RoleAdmin, Source: "trail"}, Ingest, Object{Source: "trail"}, "role admin may not ingest"},
		"source reads":       {Principal{Role: RoleSource, Source: "trail"}, Read, obj, "may not read"},
		"pep":                {Principal{Role: RolePEP, Realms: []string{"pg/prod"}}, Evaluate, obj, ""},
		"pep elsewhere":      {Principal{Role: RolePEP, Realms: []string{"pg/dev"}}, Evaluate, obj, "realm pg/prod"},
	} {
		err := Authorize(c.p, c.verb, c.obj)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, staunch.ErrForbidden) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Narrowing a scope never allows what the wider one did not.
func TestNarrowerScopeNeverAllowsMore(t *testing.T) {
	names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		p := Principal{
			Name: "x", Role: rapid.SampledFrom(Roles()).Draw(t, "role"), Source: rapid.SampledFrom([]string{"", "a"}).Draw(t, "source"),
			Realms: names.Draw(t, "realms"), Owners: names.Draw(t, "owners"), Environments: names.Draw(t, "environments"),
		}
		o := Object{
			Realms: names.Draw(t, "in"), Owner: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "owner"),
			Environment: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "environment"), Source: rapid.SampledFrom([]string{"", "a"}).Draw(t, "of"),
		}
		verb := rapid.SampledFrom(Rights()).Draw(t, "verb").Verb
		if Authorize(p, verb, o) != nil {
			return
		}
		wide := p
		wide.Realms, wide.Owners, wide.Environments = nil, nil, nil
		if err := Authorize(wide, verb, o); err != nil {
			t.Fatalf("%+v may %s %+v, without limits not: %v", p, verb, o, err)
		}
	})
}

func TestDifferentPerson(t *testing.T) {
	for _, c := range []struct {
		requester, approver string
		ok                  bool
	}{
		{"ana", "ben", true}, {"", "ben", true}, {"ana", "ana", false}, {"ana", " Ana", false}, {"", "", false}, {"ana", " ", false},
	} {
		err := DifferentPerson(c.requester, Principal{Name: c.approver, Role: RoleAdmin})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, staunch.ErrForbidden) {
			t.Errorf("%q asked, %q approves: %v", c.requester, c.approver, err)
		}
	}
}

func TestObjectOf(t *testing.T) {
	who := staunch.Identity{Name: "ci", Owner: "build", Environment: "prod", Accounts: []staunch.Ref{
		{Kind: staunch.KindAccount, Realm: "pg/prod", Scheme: "role", Value: "ci"},
		{Kind: staunch.KindAccount, Realm: "vault/prod", Scheme: "entity", Value: "1"},
		{Kind: staunch.KindAccount, Realm: "pg/prod", Scheme: "role", Value: "ci2"},
	}}
	o := ObjectOf("con_1", who.Accounts[0], who)
	if !slices.Equal(o.Realms, []string{"pg/prod"}) || o.Owner != "build" || o.Environment != "prod" || o.ID != "con_1" {
		t.Errorf("account: %+v", o)
	}
	if o := ObjectOf("con_1", staunch.IdentityRef("ci"), who); !slices.Equal(o.Realms, []string{"pg/prod", "vault/prod"}) {
		t.Errorf("identity: %+v", o)
	}
}

func TestContext(t *testing.T) {
	if _, err := PrincipalOf(t.Context()); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Errorf("no principal: %v", err)
	}
	if p, err := PrincipalOf(WithPrincipal(t.Context(), Principal{Name: "x"})); err != nil || p.Name != "x" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestCheckToken(t *testing.T) {
	_, h := NewToken()
	good := store.Token{ID: "tok_1", Name: "ana", Hash: h, Role: "responder", Realms: []string{"pg/prod"}, Created: 1}
	if err := CheckToken(good); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*store.Token){
		"name: has 0 bytes":             func(r *store.Token) { r.Name = "" },
		"name: has 129":                 func(r *store.Token) { r.Name = strings.Repeat("a", 129) },
		"name: begins":                  func(r *store.Token) { r.Name = "ana " },
		"name: has a character":         func(r *store.Token) { r.Name = "a\u202eb" },
		"name: is not UTF-8":            func(r *store.Token) { r.Name = "a\xff" },
		"name: engine is what":          func(r *store.Token) { r.Name = "Engine" },
		"name: SIGHUP is what":          func(r *store.Token) { r.Name = "sighup" },
		"role: \"root\" is not a role":  func(r *store.Token) { r.Role = "root" },
		"source: a token of role":       func(r *store.Token) { r.Role = "source" },
		"source: a token of role sourc": func(r *store.Token) { r.Source = "trail" },
		"hash: is not":                  func(r *store.Token) { r.Hash = "abc" },
		"expires: is not after":         func(r *store.Token) { r.Expires = 1 },
		"realms[1]: has 0":              func(r *store.Token) { r.Realms = []string{"a", ""} },
		"owners: has 101":               func(r *store.Token) { r.Owners = make([]string, 101) },
	} {
		bad := good
		edit(&bad)
		if err := CheckToken(bad); err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%v, want %q…", err, want)
		}
	}
	if _, err := ParseRole("root"); !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "viewer, responder") {
		t.Errorf("ParseRole: %v", err)
	}
}

func BenchmarkAuthenticateCached(b *testing.B) {
	f := &fakeStore{}
	a := New(f, Options{MaxAge: time.Hour})
	s, _ := made(f, "x", RolePEP)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Token(b.Context(), s, "10.0.0.1:1"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAuthorize(b *testing.B) {
	p := Principal{Role: RolePEP, Realms: []string{"pg/prod"}}
	o := Object{Realms: []string{"pg/prod"}}
	b.ReportAllocs()
	for b.Loop() {
		if err := Authorize(p, Evaluate, o); err != nil {
			b.Fatal(err)
		}
	}
}
