package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// memory is the part of a store that this package needs, with the semantics
// that the store's contract gives them.
type memory struct {
	links    []staunch.Link
	ids      map[string]staunch.Identity
	accounts map[staunch.Ref]string
}

var (
	_ Reader     = (*memory)(nil)
	_ Reader     = store.Reader(nil)
	_ IdentityTx = (*memory)(nil)
	_ IdentityTx = store.Tx(nil)
)

func newMemory(facts ...staunch.Fact) *memory {
	m := &memory{ids: map[string]staunch.Identity{}, accounts: map[staunch.Ref]string{}}
	m.learn(facts...)
	return m
}

func (m *memory) learn(facts ...staunch.Fact) {
	for _, f := range facts {
		if f.ID == "" {
			f.ID = staunch.FactID(f)
		}
		for _, l := range f.Links() {
			if !slices.Contains(m.links, l) {
				m.links = append(m.links, l)
			}
		}
	}
	slices.SortFunc(m.links, func(a, b staunch.Link) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.Fact, b.Fact))
	})
}

func (m *memory) find(end func(staunch.Link) staunch.Ref, refs []staunch.Ref, rels []staunch.Rel, limit int) []staunch.Link {
	var out []staunch.Link
	for _, l := range m.links {
		if len(out) < limit && slices.Contains(rels, l.Rel) && slices.Contains(refs, end(l)) {
			out = append(out, l)
		}
	}
	return out
}

func (m *memory) LinksFrom(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return m.find(func(l staunch.Link) staunch.Ref { return l.From }, refs, rels, limit), nil
}

func (m *memory) LinksTo(refs []staunch.Ref, rels []staunch.Rel, limit int) ([]staunch.Link, error) {
	return m.find(func(l staunch.Link) staunch.Ref { return l.To }, refs, rels, limit), nil
}

func (m *memory) Above(refs []staunch.Ref) (map[staunch.Ref][]store.Raised, error) {
	return store.Above(m, refs)
}

func (m *memory) Identity(name string) (staunch.Identity, error) {
	id, ok := m.ids[name]
	if !ok {
		return id, fmt.Errorf("identity %q: %w", name, staunch.ErrNotFound)
	}
	return id, nil
}

func (m *memory) IdentityOf(ref staunch.Ref) (staunch.Identity, error) {
	name, ok := m.accounts[ref]
	if !ok {
		return staunch.Identity{}, fmt.Errorf("identity of %s: %w", ref, staunch.ErrNotFound)
	}
	return m.ids[name], nil
}

func (m *memory) Identities(p store.Page) ([]staunch.Identity, error) {
	var out []staunch.Identity
	for _, name := range slices.Sorted(maps.Keys(m.ids)) {
		if name > p.After && len(out) < p.Limit {
			out = append(out, m.ids[name])
		}
	}
	return out, nil
}

func (m *memory) PutIdentity(id staunch.Identity) error {
	for _, a := range id.Accounts {
		if owner, ok := m.accounts[a]; ok && owner != id.Name {
			return fmt.Errorf("account %s is %s's: %w", a, owner, staunch.ErrConflict)
		}
	}
	if err := m.DeleteIdentity(id.Name); err != nil {
		return err
	}
	m.ids[id.Name] = id
	for _, a := range id.Accounts {
		m.accounts[a] = id.Name
	}
	return nil
}

func (m *memory) DeleteIdentity(name string) error {
	for _, a := range m.ids[name].Accounts {
		delete(m.accounts, a)
	}
	delete(m.ids, name)
	return nil
}

func ref(kind staunch.Kind, value string) staunch.Ref {
	return staunch.Ref{Kind: kind, Realm: "aws/prod", Scheme: "id", Value: value}
}
func sess(v string) staunch.Ref { return ref(staunch.KindSession, v) }
func cred(v string) staunch.Ref { return ref(staunch.KindCredential, v) }
func acct(v string) staunch.Ref { return ref(staunch.KindAccount, v) }

func belongs(from, to staunch.Ref, since, until staunch.Time) staunch.Fact {
	return staunch.Fact{V: 1, Type: staunch.FactBelongs, Subject: from, Of: to, Time: since, Until: until, Source: "t"}
}
func same(a, b staunch.Ref) staunch.Fact {
	return staunch.Fact{V: 1, Type: staunch.FactSameAs, Subject: a, Of: b, Time: 1, Source: "t"}
}
func issued(c, of, by staunch.Ref, at staunch.Time) staunch.Fact {
	return staunch.Fact{V: 1, Type: staunch.FactCredentialIssued, Subject: c, Of: of, By: by, Time: at, Source: "t"}
}

func TestResolve(t *testing.T) {
	const hour = staunch.Time(3600e6)
	m := newMemory(
		belongs(sess("s"), cred("k"), 10*hour, 20*hour),
		belongs(cred("k"), acct("a"), 0, 0),
		same(acct("a"), acct("a-arn")),
		same(acct("a"), sess("s")), // nonsense: ignored
		belongs(acct("lonely"), staunch.IdentityRef("carol"), 1, 0),
		belongs(acct("a"), staunch.IdentityRef("carol"), 1, 0),
	)
	for _, id := range []staunch.Identity{
		{V: 1, Name: "deployer", Kind: staunch.IdentityService, Managed: true, Tolerance: staunch.ToleranceNormal, Accounts: []staunch.Ref{acct("a-arn")}},
		{V: 1, Name: "carol", Kind: staunch.IdentityHuman, Managed: true, Tolerance: staunch.ToleranceNormal, Protected: true},
		{V: 1, Name: "keyholder", Kind: staunch.IdentityService, Managed: true, Tolerance: staunch.ToleranceNormal, Protected: true, Accounts: []staunch.Ref{cred("vault"), acct("kh")}},
		{V: 1, Name: "tenant", Kind: staunch.IdentityService, Managed: true, Tolerance: staunch.ToleranceNormal, Accounts: []staunch.Ref{cred("t-key")}},
	} {
		if err := m.PutIdentity(id); err != nil {
			t.Fatal(err)
		}
	}
	m.learn(belongs(cred("t-key"), acct("kh"), 0, 0))

	inv := New(Limits{})
	for _, tt := range []struct {
		name      string
		ref       staunch.Ref
		asOf      staunch.Time
		names, up []staunch.Ref
		who       string
		managed   bool
		protected bool
	}{
		{name: "up through names to the declared identity", ref: sess("s"), asOf: 15 * hour, names: []staunch.Ref{sess("s")},
			up: []staunch.Ref{cred("k"), acct("a"), acct("a-arn"), staunch.IdentityRef("carol"), staunch.IdentityRef("deployer")}, who: "deployer", managed: true},
		{name: "before it began", ref: sess("s"), asOf: 9 * hour, names: []staunch.Ref{sess("s")}, who: "unknown:" + sess("s").String()},
		{name: "within the skew", ref: sess("s"), asOf: 10*hour - staunch.Time(4*time.Minute/time.Microsecond), names: []staunch.Ref{sess("s")},
			up: []staunch.Ref{cred("k"), acct("a"), acct("a-arn"), staunch.IdentityRef("carol"), staunch.IdentityRef("deployer")}, who: "deployer", managed: true},
		{name: "after it ended", ref: sess("s"), asOf: 21 * hour, names: []staunch.Ref{sess("s")}, who: "unknown:" + sess("s").String()},
		{name: "a membership of unknown beginning holds", ref: cred("k"), asOf: 1, names: []staunch.Ref{cred("k")},
			up: []staunch.Ref{acct("a"), acct("a-arn"), staunch.IdentityRef("carol"), staunch.IdentityRef("deployer")}, who: "deployer", managed: true},
		{name: "names go both ways", ref: acct("a-arn"), asOf: 1, names: []staunch.Ref{acct("a"), acct("a-arn")},
			up: []staunch.Ref{staunch.IdentityRef("carol"), staunch.IdentityRef("deployer")}, who: "deployer", managed: true},
		{name: "only facts say who", ref: acct("lonely"), asOf: hour, names: []staunch.Ref{acct("lonely")},
			up: []staunch.Ref{staunch.IdentityRef("carol")}, who: "carol", managed: true, protected: true},
		{name: "the narrowest claim wins, any protection counts", ref: cred("t-key"), asOf: hour, names: []staunch.Ref{cred("t-key")},
			up: []staunch.Ref{acct("kh"), staunch.IdentityRef("tenant")}, who: "tenant", managed: true, protected: true},
		{name: "an identity itself", ref: staunch.IdentityRef("deployer"), asOf: hour, names: []staunch.Ref{staunch.IdentityRef("deployer")}, who: "deployer", managed: true},
		{name: "nothing known", ref: sess("?"), asOf: hour, names: []staunch.Ref{sess("?")}, who: "unknown:" + sess("?").String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := inv.Resolve(m, tt.ref, tt.asOf)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Names, tt.names) || !slices.Equal(got.Up, tt.up) {
				t.Errorf("names %v up %v, want %v and %v", got.Names, got.Up, tt.names, tt.up)
			}
			if got.Identity.Name != tt.who || got.Identity.Managed != tt.managed || got.Identity.Protected != tt.protected {
				t.Errorf("identity %+v, want %s, managed %v, protected %v", got.Identity, tt.who, tt.managed, tt.protected)
			}
			if !tt.managed && (got.Identity.Kind != staunch.IdentityUnknown || got.Identity.Tolerance != staunch.ToleranceNormal) {
				t.Errorf("unknown identity is %+v", got.Identity)
			}
		})
	}
}

// A log line that claims an account for a protected identity does not protect
// an account that was declared as somebody else's.
func TestResolveDoesNotBorrowProtection(t *testing.T) {
	m := newMemory(belongs(acct("a"), staunch.IdentityRef("break-glass"), 1, 0))
	for _, id := range []staunch.Identity{
		{V: 1, Name: "break-glass", Kind: staunch.IdentityHuman, Managed: true, Protected: true, Tolerance: staunch.ToleranceNever},
		{V: 1, Name: "app", Kind: staunch.IdentityService, Managed: true, Tolerance: staunch.ToleranceNormal, Accounts: []staunch.Ref{acct("a")}},
	} {
		if err := m.PutIdentity(id); err != nil {
			t.Fatal(err)
		}
	}
	got, err := New(Limits{}).Resolve(m, acct("a"), 10)
	if err != nil {
		t.Fatal(err)
	}
	if got.Identity.Name != "app" || got.Identity.Protected {
		t.Errorf("identity is %+v", got.Identity)
	}
}

func TestWithin(t *testing.T) {
	m := newMemory(
		belongs(sess("s1"), cred("k"), 10, 20),
		belongs(sess("s2"), cred("k"), 10, 0),
		same(sess("s2"), sess("s2-alias")),
		belongs(cred("k"), acct("a"), 5, 0),
		belongs(sess("direct"), acct("a"), 5, 0),
		belongs(sess("later"), cred("k"), staunch.Time(3600e6), 0),
	)
	if err := m.PutIdentity(staunch.Identity{V: 1, Name: "app", Accounts: []staunch.Ref{acct("a"), acct("b")}}); err != nil {
		t.Fatal(err)
	}
	got, cut, err := New(Limits{}).within(m, []staunch.Ref{staunch.IdentityRef("app")}, 30, 100)
	if err != nil || cut {
		t.Fatal(cut, err)
	}
	want := []Member{
		{Ref: staunch.IdentityRef("app"), Entity: staunch.IdentityRef("app")},
		{Ref: acct("a"), Hops: 1, Entity: acct("a")},
		{Ref: acct("b"), Hops: 1, Entity: acct("b")},
		{Ref: cred("k"), Hops: 2, Entity: cred("k")},
		{Ref: sess("direct"), Hops: 2, Entity: sess("direct")},
		{Ref: sess("s1"), Hops: 3, Entity: sess("s1")},
		{Ref: sess("s2"), Hops: 3, Entity: sess("s2")},
		{Ref: sess("s2-alias"), Hops: 3, Entity: sess("s2")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	got, cut, err = New(Limits{}).within(m, []staunch.Ref{staunch.IdentityRef("app")}, 30, 3)
	if err != nil || !cut || len(got) != 3 {
		t.Errorf("limit 3 gives %v, truncated %v, %v", got, cut, err)
	}
}

func TestDerived(t *testing.T) {
	m := newMemory(
		belongs(sess("s"), cred("k"), 10, 0),
		issued(cred("old"), acct("a"), sess("s"), 90),
		issued(cred("minted"), acct("b"), sess("s"), 110),
		belongs(sess("m1"), cred("minted"), 120, 0),
		issued(cred("again"), acct("c"), sess("m1"), 130),
		issued(cred("undated"), acct("c"), cred("k"), 0),
		issued(cred("other"), acct("c"), sess("unrelated"), 130),
		issued(cred("k"), acct("a"), cred("again"), 140), // a cycle
	)
	inv := New(Limits{})
	got, cut, err := inv.Derived(m, []staunch.Ref{cred("k")}, 100, 0)
	if err != nil || cut {
		t.Fatal(cut, err)
	}
	want := []staunch.Ref{cred("again"), cred("minted"), cred("undated"), sess("m1")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, cut, err := inv.Derived(m, []staunch.Ref{cred("k")}, 100, 2); err != nil || !cut || len(got) != 2 {
		t.Errorf("limit 2 gives %v, truncated %v, %v", got, cut, err)
	}
	// A chain longer than the depth is cut, and says so.
	long := newMemory()
	for i := range 50 {
		long.learn(issued(cred(fmt.Sprint(i+1)), acct("a"), cred(fmt.Sprint(i)), 10))
	}
	if got, cut, err := New(Limits{Depth: 10}).Derived(long, []staunch.Ref{cred("0")}, 1, 0); err != nil || !cut || len(got) != 10 {
		t.Errorf("depth 10 gives %d refs, truncated %v, %v", len(got), cut, err)
	}

	tree, cut, err := inv.Lineage(m, cred("k"), 0)
	if err != nil || cut {
		t.Fatal(cut, err)
	}
	seen := map[string]int{}
	var walk func(Node)
	walk = func(n Node) {
		seen[n.Ref.Value]++
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(tree)
	if seen["again"] == 0 || seen["k"] != 2 || seen["other"] != 0 {
		t.Errorf("the tree has %v: every ref once, the cycle closed by a leaf", seen)
	}
	two := newMemory(belongs(sess("a"), cred("k"), 2, 0), belongs(sess("z"), cred("k"), 1, 0))
	if tree, _, err := inv.Lineage(two, cred("k"), 0); err != nil || len(tree.Children) != 2 || tree.Children[0].Ref != sess("z") || tree.Children[0].Rel != staunch.RelOf {
		t.Errorf("the oldest comes first: %+v, %v", tree, err)
	}
	if _, cut, err := inv.Lineage(m, cred("k"), 3); err != nil || !cut {
		t.Errorf("a tree of 3 nodes: truncated %v, %v", cut, err)
	}
}

// estate draws facts over few refs, so that cycles, aliases and shared parents
// are common.
func estate() *rapid.Generator[[]staunch.Fact] {
	return rapid.Custom(func(t *rapid.T) []staunch.Fact {
		any := rapid.Custom(func(t *rapid.T) staunch.Ref {
			v := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "value"))
			return rapid.SampledFrom([]staunch.Ref{sess(v), cred(v), acct(v)}).Draw(t, "ref")
		})
		at := rapid.Map(rapid.IntRange(0, 6), func(i int) staunch.Time { return staunch.Time(i) * staunch.Time(time.Hour/time.Microsecond) })
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) staunch.Fact {
			f := staunch.Fact{V: 1, Subject: any.Draw(t, "subject"), Of: any.Draw(t, "of"), Time: at.Draw(t, "at"), Source: "t"}
			f.Type = rapid.SampledFrom([]staunch.FactType{staunch.FactBelongs, staunch.FactBelongs, staunch.FactSameAs, staunch.FactCredentialIssued}).Draw(t, "type")
			if f.Type == staunch.FactCredentialIssued {
				f.By = any.Draw(t, "by")
			}
			if rapid.Bool().Draw(t, "ends") {
				f.Until = at.Draw(t, "until")
			}
			f.ID = staunch.FactID(f)
			return f
		}), 0, 25).Draw(t, "facts")
	})
}

// everybody is all that an estate has.
var everybody = func() (refs []staunch.Ref) {
	for n := range 5 {
		v := fmt.Sprint(n)
		refs = append(refs, sess(v), cred(v), acct(v))
	}
	return refs
}()

// Looking upwards from each finds what looking downwards finds.
func TestBelow(t *testing.T) {
	inv := New(Limits{})
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(estate().Draw(t, "estate")...)
		if err := m.PutIdentity(staunch.Identity{V: 1, Name: "app", Accounts: []staunch.Ref{acct("0"), acct("3")}}); err != nil {
			t.Fatal(err)
		}
		for _, r := range append(slices.Clone(everybody), staunch.IdentityRef("app")) {
			down, cut, err := inv.within(m, []staunch.Ref{r}, 0, 1000)
			if err != nil || cut {
				t.Fatal(cut, err)
			}
			want := map[staunch.Ref]Member{}
			for _, d := range down {
				if slices.Contains(everybody, d.Ref) {
					want[d.Ref] = d
				}
			}
			got, err := inv.Below(m, r, everybody)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, want) {
				t.Fatalf("below %s are\n%v\nwant\n%v", r, got, want)
			}
		}
	})
}

// Invariant I13, for the inventory's part: the answers do not depend on the
// order or number of times in which facts are learned.
func TestFactsInAnyOrder(t *testing.T) {
	inv := New(Limits{})
	rapid.Check(t, func(t *rapid.T) {
		facts := estate().Draw(t, "estate")
		other := rapid.Permutation(facts).Draw(t, "permuted")
		if len(facts) > 0 {
			other = append(other, rapid.SliceOf(rapid.SampledFrom(facts)).Draw(t, "again")...)
		}
		// Novelty is filtered on the way in, as the pipeline does.
		a, b, all := newMemory(), newMemory(), newMemory(facts...)
		for _, f := range facts {
			learnNovel(t, inv, a, f)
		}
		for _, f := range other {
			learnNovel(t, inv, b, f)
		}
		for _, r := range []staunch.Ref{sess("0"), cred("1"), acct("2")} {
			asOf := staunch.Time(rapid.IntRange(0, 7).Draw(t, "as of")) * staunch.Time(time.Hour/time.Microsecond)
			ask := func(m *memory) string {
				res, err := inv.Resolve(m, r, asOf)
				if err != nil {
					t.Fatal(err)
				}
				in, err := inv.Below(m, r, everybody)
				if err != nil {
					t.Fatal(err)
				}
				der, _, err := inv.Derived(m, []staunch.Ref{r}, asOf, 0)
				if err != nil {
					t.Fatal(err)
				}
				return fmt.Sprintf("%+v\n%+v\n%v", res, in, der)
			}
			want := ask(all)
			if got := ask(a); got != want {
				t.Fatalf("novel facts alone give\n%s\nall give\n%s", got, want)
			}
			if got := ask(b); got != want {
				t.Fatalf("permuted gives\n%s\nwant\n%s", got, want)
			}
		}
	})
}

func learnNovel(t *rapid.T, inv *Inventory, m *memory, f staunch.Fact) {
	novel, err := inv.Novel(m, []staunch.Fact{f})
	if err != nil {
		t.Fatal(err)
	}
	m.learn(novel...)
}

// Derived equals a closure computed by going over all links until nothing
// changes.
func TestDerivedIsTheClosure(t *testing.T) {
	inv := New(Limits{})
	rapid.Check(t, func(t *rapid.T) {
		facts := estate().Draw(t, "estate")
		m := newMemory(facts...)
		since := staunch.Time(rapid.IntRange(0, 6).Draw(t, "since")) * staunch.Time(time.Hour/time.Microsecond)
		roots := []staunch.Ref{cred("0"), sess("1")}
		members := func(set map[staunch.Ref]bool) map[staunch.Ref]bool {
			set = maps.Clone(set)
			for grew := true; grew; {
				grew = false
				add := func(r staunch.Ref) {
					if !set[r] {
						set[r], grew = true, true
					}
				}
				for _, l := range m.links {
					switch {
					case l.Rel == staunch.RelSame && l.From.Kind == l.To.Kind && (set[l.From] || set[l.To]):
						add(l.From)
						add(l.To)
					case l.Rel == staunch.RelOf && set[l.To] && l.From.Kind.Width() < l.To.Kind.Width():
						add(l.From)
					}
				}
			}
			return set
		}
		own := members(map[staunch.Ref]bool{roots[0]: true, roots[1]: true})
		all := maps.Clone(own)
		for grew := true; grew; {
			grew = false
			for _, l := range m.links {
				if l.Rel == staunch.RelBy && all[l.To] && !all[l.From] && (l.Since == 0 || l.Since >= since) {
					for r := range members(map[staunch.Ref]bool{l.From: true}) {
						all[r] = true
					}
					grew = true
				}
			}
		}
		var want []staunch.Ref
		for r := range all {
			if !own[r] {
				want = append(want, r)
			}
		}
		slices.SortFunc(want, compareRef)
		got, cut, err := inv.Derived(m, roots, since, 0)
		if err != nil || cut {
			t.Fatal(cut, err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("derived %v, closure %v", got, want)
		}
	})
}

func TestFacts(t *testing.T) {
	far := staunch.Ref{Kind: staunch.KindAccount, Realm: "other", Scheme: "id", Value: "x"}
	ev := staunch.Event{ID: "evt_1", Source: "trail", Time: 100, Learned: 200,
		Actor: []staunch.Ref{sess("s"), cred("k"), acct("a"), acct("a2"), far, staunch.IdentityRef("boss")}}
	got := Facts(ev)
	var pairs []string
	for _, f := range got {
		if f.Type != staunch.FactBelongs || f.Time != 100 || f.Learned != 200 || f.Source != "trail" || f.Event != "evt_1" || f.ID != staunch.FactID(f) || f.V != 1 {
			t.Errorf("fact %+v", f)
		}
		pairs = append(pairs, f.Subject.Value+">"+f.Of.Value)
	}
	if want := []string{"s>k", "k>a", "k>a2"}; !slices.Equal(pairs, want) {
		t.Errorf("got %v, want %v", pairs, want)
	}
	ev.Actor = []staunch.Ref{sess("s"), acct("a")}
	if got := Facts(ev); len(got) != 1 || got[0].Of != acct("a") {
		t.Errorf("a session without a credential is the account's: %+v", got)
	}
	if got := Facts(staunch.Event{Actor: []staunch.Ref{acct("a")}}); got != nil {
		t.Errorf("one ref teaches nothing: %+v", got)
	}
}

func TestParseIdentities(t *testing.T) {
	ids, err := ParseIdentities([]byte(`v: 1
identities:
  - name: deployer
    kind: service
    owner: platform
    environment: production
    tier: 1
    shared: true
    accounts:
      - account:aws/prod:arn:arn:aws:iam::123456789012:user/deployer
      - {realm: pg/main, scheme: role, value: deployer}
  - {name: carol, kind: human, tolerance: never, protected: true}
`), "identities.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := []staunch.Identity{
		{V: 1, Name: "deployer", Kind: "service", Owner: "platform", Environment: "production", Tier: 1, Shared: true, Tolerance: "staged", Managed: true, Accounts: []staunch.Ref{
			{Kind: "account", Realm: "aws/prod", Scheme: "arn", Value: "arn:aws:iam::123456789012:user/deployer"},
			{Kind: "account", Realm: "pg/main", Scheme: "role", Value: "deployer"}}},
		{V: 1, Name: "carol", Kind: "human", Tolerance: "never", Protected: true, Managed: true},
	}
	if !reflect.DeepEqual(ids, want) {
		t.Errorf("got %+v", ids)
	}
}

func TestParseIdentitiesRefuses(t *testing.T) {
	const head = "v: 1\nidentities:\n"
	for _, tt := range []struct{ name, in, place, want string }{
		{"empty", "", "i.yaml", "empty"},
		{"version", "v: 2\n", "i.yaml", "v is 2"},
		{"no version", "identities: []\n", "i.yaml", "v is 0"},
		{"unknown key at the top", "v: 1\nidentitys: []\n", "i.yaml:2", `unknown key "identitys"`},
		{"unknown key", head + "- name: a\n  kind: human\n  tolerate: never\n", "i.yaml:5", `unknown key "tolerate"`},
		{"unknown key of an account", head + "- name: a\n  kind: human\n  accounts:\n  - {realm: r, schema: s, value: v}\n", "i.yaml:6", `unknown key "schema"`},
		{"repeated key", head + "- name: a\n  kind: human\n  name: b\n", "i.yaml:5", "already defined"},
		{"no name", head + "- kind: human\n", "i.yaml:3", "without a name"},
		{"reserved name", head + "- {name: 'unknown:x', kind: human}\n", "i.yaml:3", "engine's own"},
		{"duplicate name", head + "- {name: a, kind: human}\n- {name: a, kind: human}\n", "i.yaml:4", "declared already at line 3"},
		{"bad kind", head + "- {name: a, kind: robot}\n", "i.yaml:3", `kind "robot"`},
		{"kind unknown", head + "- {name: a, kind: unknown}\n", "i.yaml:3", `kind "unknown"`},
		{"bad tolerance", head + "- {name: a, kind: human, tolerance: some}\n", "i.yaml:3", `tolerance "some"`},
		{"bad tier", head + "- {name: a, kind: human, tier: 5}\n", "i.yaml:3", "tier 5"},
		{"tier is a word", head + "- {name: a, kind: human, tier: high}\n", "i.yaml:3", "cannot construct"},
		{"bad ref", head + "- name: a\n  kind: human\n  accounts:\n  - account:x\n", "i.yaml:6", "kind:realm:scheme:value"},
		{"session", head + "- name: a\n  kind: human\n  accounts:\n  - session:r:s:v\n", "i.yaml:6", "is a session"},
		{"duplicate account", head + "- name: a\n  kind: human\n  accounts: ['account:r:s:v']\n- name: b\n  kind: human\n  accounts:\n  - account:r:s:v\n", "i.yaml:9", `already identity "a"'s`},
		{"null item", head + "- ~\n", "i.yaml:3", "without content"},
		{"null account", head + "- {name: a, kind: human, accounts: [~]}\n", "i.yaml:3", "item without content"},
		{"syntax", head + "- {name: a\n", "i.yaml:", ""},
		{"scalar item", head + "- a\n", "i.yaml:3", "mapping is needed"},
		{"two documents", "v: 1\n---\nv: 1\n", "i.yaml", "single document"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseIdentities([]byte(tt.in), "i.yaml")
			var p *staunch.Problem
			if !errors.As(err, &p) || !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("got %v, want a problem", err)
			}
			if !strings.HasPrefix(p.Place, tt.place) || !strings.Contains(p.Reason, tt.want) {
				t.Errorf("got %q at %q, want %q at %q", p.Reason, p.Place, tt.want, tt.place)
			}
		})
	}
}

func TestLoadIdentitiesNamesTheFile(t *testing.T) {
	if _, err := LoadIdentities(t.TempDir() + "/none.yaml"); err == nil || !strings.Contains(err.Error(), "none.yaml") {
		t.Errorf("got %v", err)
	}
}

func TestSync(t *testing.T) {
	m := newMemory()
	person := func(name string, accounts ...staunch.Ref) staunch.Identity {
		return staunch.Identity{V: 1, Name: name, Kind: staunch.IdentityHuman, Tolerance: staunch.ToleranceNormal, Managed: true, Accounts: accounts}
	}
	step := func(want Changes, ids ...staunch.Identity) {
		t.Helper()
		got, err := Sync(m, ids)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("changes %+v, want %+v", got, want)
		}
		if len(m.ids) != len(ids) {
			t.Errorf("the store has %d identities, want %d", len(m.ids), len(ids))
		}
		for _, id := range ids {
			if !equalIdentity(m.ids[id.Name], id) {
				t.Errorf("stored %+v, want %+v", m.ids[id.Name], id)
			}
		}
	}
	step(Changes{Added: []string{"a", "b"}}, person("b", acct("2")), person("a", acct("1")))
	step(Changes{}, person("a", acct("1")), person("b", acct("2")))
	// Two identities swap accounts; a third gets one that was removed.
	step(Changes{Changed: []string{"a", "b"}}, person("a", acct("2")), person("b", acct("1")))
	step(Changes{Added: []string{"c"}, Removed: []string{"a"}}, person("c", acct("2")), person("b", acct("1")))
	many := make([]staunch.Identity, 0, 2500)
	for i := range 2500 {
		many = append(many, person(fmt.Sprintf("n%04d", i)))
	}
	if _, err := Sync(m, many); err != nil {
		t.Fatal(err)
	}
	if got, err := Sync(m, many); err != nil || !got.Empty() {
		t.Errorf("a second sync of several pages changes %d, %v", len(got.Added)+len(got.Changed)+len(got.Removed), err)
	}
}

func TestGroups(t *testing.T) {
	in := func(env, purpose string) staunch.Identity {
		return staunch.Identity{Environment: env, Purpose: purpose, Managed: true}
	}
	g := CountGroups([]staunch.Identity{in("prod", "web"), in("prod", "web"), in("dev", "web"), in("prod", ""), in("prod", "")})
	for want, id := range map[int]staunch.Identity{2: in("prod", "web"), 1: in("dev", "web"), 0: in("prod", "")} {
		if got := g.Size(id); got != want {
			t.Errorf("group of %s/%s is %d, want %d", id.Environment, id.Purpose, got, want)
		}
	}
}

func FuzzParseIdentities(f *testing.F) {
	f.Add([]byte("v: 1\nidentities:\n- {name: a, kind: human, accounts: ['account:r:s:v', {realm: r, scheme: s, value: w}]}\n"))
	f.Add([]byte("v: 1\nidentities: [~, {name: a}]\n"))
	f.Add([]byte("v: 1\nidentities:\n- &a {name: a, kind: human}\n- *a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ids, err := ParseIdentities(data, "f.yaml")
		if err != nil {
			if !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("%v is not an ErrInvalid", err)
			}
			return
		}
		names := map[string]bool{}
		for _, id := range ids {
			if names[id.Name] || !id.Kind.Valid() || !id.Tolerance.Valid() || !id.Managed {
				t.Fatalf("accepted %+v", id)
			}
			names[id.Name] = true
		}
	})
}
