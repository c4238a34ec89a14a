package inventory

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Bounds of identities.yaml.
const (
	// MaxIdentitiesFile is the largest file, in bytes.
	MaxIdentitiesFile = 32 << 20
	// MaxAccounts is the most accounts of one identity.
	MaxAccounts = 10_000
	maxText     = 256
)

// identitiesFile is the shape of identities.yaml.
type identitiesFile struct {
	V          int                           `yaml:"v"`
	Identities strictyaml.List[identityYAML] `yaml:"identities"`
}

type identityYAML struct {
	Name        string                       `yaml:"name"`
	Kind        staunch.IdentityKind         `yaml:"kind"`
	Owner       string                       `yaml:"owner"`
	Purpose     string                       `yaml:"purpose"`
	Environment string                       `yaml:"environment"`
	Tier        int                          `yaml:"tier"`
	Tolerance   staunch.Tolerance            `yaml:"tolerance"`
	Shared      bool                         `yaml:"shared"`
	Protected   bool                         `yaml:"protected"`
	Accounts    strictyaml.List[accountYAML] `yaml:"accounts"`
	line        int
}

// UnmarshalYAML keeps the line for messages.
func (i *identityYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain identityYAML
	i.line = n.Line
	return n.Load((*plain)(i), yaml.WithKnownFields())
}

// accountYAML is "kind:realm:scheme:value" or a mapping of the four, whose kind
// defaults to account.
type accountYAML struct {
	ref  staunch.Ref
	err  error
	line int
}

// UnmarshalYAML takes either form.
func (a *accountYAML) UnmarshalYAML(n *yaml.Node) error {
	a.line = n.Line
	if n.Kind == yaml.ScalarNode {
		a.ref, a.err = staunch.ParseRef(n.Value)
		return nil
	}
	m := struct {
		Kind   staunch.Kind `yaml:"kind"`
		Realm  string       `yaml:"realm"`
		Scheme string       `yaml:"scheme"`
		Value  string       `yaml:"value"`
	}{Kind: staunch.KindAccount}
	if err := n.Load(&m, yaml.WithKnownFields()); err != nil {
		return err
	}
	a.ref = staunch.Ref{Kind: m.Kind, Realm: m.Realm, Scheme: m.Scheme, Value: m.Value}
	a.err = a.ref.Validate()
	return nil
}

// LoadIdentities reads and checks an identities.yaml. Errors are those of the
// file, or staunch.Problems that name file and line, joined.
func LoadIdentities(path string) ([]staunch.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening identities: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	data, err := io.ReadAll(io.LimitReader(f, MaxIdentitiesFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading identities %s: %w", path, err)
	}
	return ParseIdentities(data, path)
}

// ParseIdentities checks the text of an identities.yaml; path is what messages
// call it. Unknown and repeated keys, repeated names and accounts, and values
// outside their sets are staunch.Problems that name file and line, joined, at
// most 20 of them. The identities come back in the file's order, managed, their
// accounts sorted. Tolerance defaults to normal, and to staged for a shared
// identity.
func ParseIdentities(data []byte, path string) ([]staunch.Identity, error) {
	if len(data) > MaxIdentitiesFile {
		return nil, &staunch.Problem{Place: path, Reason: fmt.Sprintf("larger than %d bytes", MaxIdentitiesFile)}
	}
	var file identitiesFile
	if strings.TrimSpace(string(data)) == "" {
		return nil, &staunch.Problem{Place: path, Reason: "empty", Hint: "start with `v: 1` and `identities:`"}
	}
	if err := strictyaml.Load(data, path, &file); err != nil {
		return nil, err
	}
	if file.V != staunch.Version {
		return nil, &staunch.Problem{Place: path, Reason: fmt.Sprintf("v is %d; this release reads v: %d", file.V, staunch.Version)}
	}
	p := strictyaml.In(path)
	names := map[string]int{}
	accounts := map[staunch.Ref]string{}
	out := make([]staunch.Identity, 0, len(file.Identities))
	for _, y := range file.Identities {
		checkIdentity(p, y)
		if first, dup := names[y.Name]; dup {
			p.Add(y.line, "identity %q is declared already at line %d", y.Name, first)
		} else {
			names[y.Name] = y.line
		}
		id := staunch.Identity{
			V: staunch.Version, Name: y.Name, Kind: y.Kind, Owner: y.Owner, Purpose: y.Purpose,
			Environment: y.Environment, Tier: y.Tier, Tolerance: y.Tolerance, Shared: y.Shared,
			Protected: y.Protected, Managed: true,
		}
		if id.Tolerance == "" {
			id.Tolerance = staunch.ToleranceNormal
			if id.Shared {
				id.Tolerance = staunch.ToleranceStaged
			}
		}
		for _, a := range y.Accounts {
			if !checkAccount(p, a) {
				continue
			}
			if owner, dup := accounts[a.ref]; dup {
				p.AddHint("an account belongs to one identity", a.line, "account %s is already identity %q's", a.ref, owner)
				continue
			}
			accounts[a.ref] = y.Name
			id.Accounts = append(id.Accounts, a.ref)
		}
		slices.SortFunc(id.Accounts, compareRef)
		out = append(out, id)
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

func checkIdentity(p *strictyaml.Problems, y identityYAML) {
	text := func(key, v string) {
		if len(v) > maxText || strings.ContainsFunc(v, unicode.IsControl) {
			p.Add(y.line, "%s is longer than %d bytes or has control characters", key, maxText)
		}
	}
	text("name", y.Name)
	text("owner", y.Owner)
	text("purpose", y.Purpose)
	text("environment", y.Environment)
	if y.Name == "" {
		p.Add(y.line, "identity without a name")
	} else if strings.HasPrefix(y.Name, "unknown:") {
		p.Add(y.line, "name %q: names that begin with \"unknown:\" are the engine's own", y.Name)
	}
	if !y.Kind.Valid() || y.Kind == staunch.IdentityUnknown {
		p.Add(y.line, "identity %q: kind %q is not one of human, service, workload, agent", y.Name, y.Kind)
	}
	if y.Tolerance != "" && !y.Tolerance.Valid() {
		p.Add(y.line, "identity %q: tolerance %q is not one of normal, staged, never", y.Name, y.Tolerance)
	}
	if y.Tier < 0 || y.Tier > 4 {
		p.Add(y.line, "identity %q: tier %d is not between 1 (most depends on it) and 4", y.Name, y.Tier)
	}
	if len(y.Accounts) > MaxAccounts {
		p.Add(y.line, "identity %q has %d accounts, at most %d", y.Name, len(y.Accounts), MaxAccounts)
	}
}

func checkAccount(p *strictyaml.Problems, a accountYAML) bool {
	switch {
	case a.err != nil:
		p.AddHint("write account:realm:scheme:value or a mapping of realm, scheme and value", a.line, "%s", strings.TrimPrefix(a.err.Error(), staunch.ErrInvalid.Error()+": "))
	case a.ref.Kind != staunch.KindAccount && a.ref.Kind != staunch.KindCredential:
		p.Add(a.line, "%s is a %s; accounts lists accounts and credentials", a.ref, a.ref.Kind)
	default:
		return true
	}
	return false
}

// Groups counts the declared identities that can stand in for each other: those
// of one environment and purpose. Identities without a purpose are in no group.
type Groups map[[2]string]int

// CountGroups counts the groups of declared identities.
func CountGroups(ids []staunch.Identity) Groups {
	g := Groups{}
	for _, id := range ids {
		if id.Purpose != "" {
			g[[2]string{id.Environment, id.Purpose}]++
		}
	}
	return g
}

// Size returns how many identities the group of id has, id included; 0 when it
// is in none.
func (g Groups) Size(id staunch.Identity) int {
	return g[[2]string{id.Environment, id.Purpose}]
}

// IdentityTx is the part of store.Tx that Sync needs.
type IdentityTx interface {
	Identities(p store.Page) ([]staunch.Identity, error)
	PutIdentity(staunch.Identity) error
	DeleteIdentity(name string) error
}

// Changes names what a Sync changed, sorted.
type Changes struct {
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Empty reports whether nothing changed.
func (c Changes) Empty() bool { return len(c.Added)+len(c.Changed)+len(c.Removed) == 0 }

// Sync makes the store have exactly the declared identities and says what that
// changed. An account that moves from one identity to another is taken from the
// first before the second gets it. An error is the store's, and the
// transaction must not be committed then.
func Sync(tx IdentityTx, ids []staunch.Identity) (Changes, error) {
	have := map[string]staunch.Identity{}
	for page := (store.Page{Limit: store.MaxPage}); ; {
		got, err := tx.Identities(page)
		if err != nil {
			return Changes{}, fmt.Errorf("listing identities: %w", err)
		}
		for _, id := range got {
			have[id.Name] = id
		}
		if len(got) < store.MaxPage {
			break
		}
		page.After = got[len(got)-1].Name
	}
	var c Changes
	want := make(map[string]bool, len(ids))
	var puts []staunch.Identity
	for _, id := range ids {
		want[id.Name] = true
		old, ok := have[id.Name]
		if ok && equalIdentity(old, id) {
			continue
		}
		puts = append(puts, id)
		if ok {
			c.Changed = append(c.Changed, id.Name)
		} else {
			c.Added = append(c.Added, id.Name)
		}
	}
	for name := range have {
		if !want[name] {
			c.Removed = append(c.Removed, name)
		}
	}
	slices.Sort(c.Added)
	slices.Sort(c.Changed)
	slices.Sort(c.Removed)
	for _, name := range c.Removed {
		if err := tx.DeleteIdentity(name); err != nil {
			return Changes{}, fmt.Errorf("removing identity %q: %w", name, err)
		}
	}
	for _, id := range puts {
		old, ok := have[id.Name]
		if !ok {
			continue
		}
		keeps := map[staunch.Ref]bool{}
		for _, a := range id.Accounts {
			keeps[a] = true
		}
		before := len(old.Accounts)
		old.Accounts = slices.DeleteFunc(slices.Clone(old.Accounts), func(a staunch.Ref) bool { return !keeps[a] })
		if len(old.Accounts) == before {
			continue
		}
		if err := tx.PutIdentity(old); err != nil {
			return Changes{}, fmt.Errorf("taking accounts from identity %q: %w", id.Name, err)
		}
	}
	for _, id := range puts {
		if err := tx.PutIdentity(id); err != nil {
			return Changes{}, fmt.Errorf("putting identity %q: %w", id.Name, err)
		}
	}
	return c, nil
}

// equalIdentity compares without regard to the order of accounts.
func equalIdentity(a, b staunch.Identity) bool {
	sorted := func(refs []staunch.Ref) []staunch.Ref {
		if len(refs) == 0 {
			return nil
		}
		refs = slices.Clone(refs)
		slices.SortFunc(refs, compareRef)
		return refs
	}
	a.Accounts, b.Accounts = sorted(a.Accounts), sorted(b.Accounts)
	return reflect.DeepEqual(a, b)
}
