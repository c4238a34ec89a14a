package decide

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/strictyaml"
)

// Bounds of policies.
const (
	// MaxFile is the largest policy or test file, in bytes.
	MaxFile = 4 << 20
	// MaxPolicies and MaxPlaybooks bound a set.
	MaxPolicies  = 10_000
	MaxPlaybooks = 1_000
	// MaxWhen is the longest CEL expression, in bytes.
	MaxWhen   = 4096
	maxStages = 8
	maxMatch  = 256
	maxWindow = 30 * 24 * time.Hour
	maxExpiry = 366 * 24 * time.Hour
)

// File is the text of one policy file.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// policyFile is the shape of a policy file.
type policyFile struct {
	V         int                           `yaml:"v"`
	Policies  strictyaml.List[policyYAML]   `yaml:"policies"`
	Playbooks strictyaml.List[playbookYAML] `yaml:"playbooks"`
}

type policyYAML struct {
	ID          string       `yaml:"id"`
	Description string       `yaml:"description"`
	Mode        staunch.Mode `yaml:"mode"`
	Priority    int          `yaml:"priority"`
	Match       matchYAML    `yaml:"match"`
	When        text         `yaml:"when"`
	Then        thenYAML     `yaml:"then"`
	line        int
}

// UnmarshalYAML keeps the line.
func (y *policyYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain policyYAML
	y.line = n.Line
	return n.Load((*plain)(y), yaml.WithKnownFields())
}

// matchYAML is what is indexed: all keys are required, lists are alternatives.
type matchYAML struct {
	IdentityKind oneOrMore  `yaml:"identity_kind"`
	Environment  oneOrMore  `yaml:"environment"`
	Tier         *rangeYAML `yaml:"tier"`
	Tolerance    oneOrMore  `yaml:"tolerance"`
	Managed      *bool      `yaml:"managed"`
	Shared       *bool      `yaml:"shared"`
	Owner        oneOrMore  `yaml:"owner"`
	Realm        oneOrMore  `yaml:"realm"`
	Platform     oneOrMore  `yaml:"platform"`
	SubjectKind  oneOrMore  `yaml:"subject_kind"`
	Rule         oneOrMore  `yaml:"rule"`
	Technique    oneOrMore  `yaml:"technique"`
	Source       oneOrMore  `yaml:"source"`
}

type rangeYAML struct {
	Min int `yaml:"min"`
	Max int `yaml:"max"`
}

type thenYAML struct {
	// Tier and Playbook are a ladder of one rung at 0.
	Tier     *staunch.Tier             `yaml:"tier"`
	Playbook string                    `yaml:"playbook"`
	Tiers    strictyaml.List[rungYAML] `yaml:"tiers"`
	// Staged is the playbook for tolerance staged.
	Staged string `yaml:"staged"`
	// Unmanaged is the highest tier for identities that nobody declared.
	Unmanaged *staunch.Tier `yaml:"unmanaged"`
	// RevokeSources is how many independent sources revoke needs, whatever the
	// environment; 1 asks for no second one.
	RevokeSources *int             `yaml:"revoke_sources"`
	Scope         string           `yaml:"scope"`
	Widen         widenYAML        `yaml:"widen"`
	Expiry        staunch.Duration `yaml:"expiry"`
	OnExpiry      staunch.OnExpiry `yaml:"on_expiry"`
	Notify        oneOrMore        `yaml:"notify"`
	Approve       bool             `yaml:"approve"`
}

type rungYAML struct {
	At       *float64     `yaml:"at"`
	Tier     staunch.Tier `yaml:"tier"`
	Playbook string       `yaml:"playbook"`
	line     int
}

// UnmarshalYAML keeps the line.
func (y *rungYAML) UnmarshalYAML(n *yaml.Node) error {
	type plain rungYAML
	y.line = n.Line
	return n.Load((*plain)(y), yaml.WithKnownFields())
}

type widenYAML struct {
	// SecondSession widens to the credential when a second session of it is
	// accused; it is on unless turned off.
	SecondSession *bool `yaml:"second_session"`
	// AtRevoke is the width to widen to at the revoke tier.
	AtRevoke staunch.Kind `yaml:"at_revoke"`
}

type playbookYAML struct {
	staunch.Playbook
	line int
}

// UnmarshalYAML keeps the line.
func (y *playbookYAML) UnmarshalYAML(n *yaml.Node) error {
	y.line = n.Line
	var p struct {
		Name        string                         `yaml:"name"`
		Stages      strictyaml.List[staunch.Stage] `yaml:"stages"`
		Expiry      staunch.Duration               `yaml:"expiry"`
		OnExpiry    staunch.OnExpiry               `yaml:"on_expiry"`
		Derived     bool                           `yaml:"derived"`
		MostTargets int                            `yaml:"most_targets"`
		ScopeFor    staunch.Duration               `yaml:"scope_for"`
	}
	if err := n.Load(&p, yaml.WithKnownFields()); err != nil {
		return err
	}
	y.Playbook = staunch.Playbook{Name: p.Name, Stages: p.Stages, Expiry: p.Expiry, OnExpiry: p.OnExpiry, Derived: p.Derived, MostTargets: p.MostTargets, ScopeFor: p.ScopeFor}
	return nil
}

// rung is one step of a policy's ladder.
type rung struct {
	at       float64
	tier     staunch.Tier
	playbook string
}

// policy is a compiled policy.
type policy struct {
	id          string
	description string
	place       string
	mode        staunch.Mode
	priority    int
	match       matcher
	when        *when
	rungs       []rung
	playbook    [staunch.TierRevoke + 1]string // what serves each tier, "" for nothing
	staged      string                         // for tolerance staged; "" takes the rung's own
	unmanaged   staunch.Tier
	scope       staunch.Kind // "" is the narrowest
	second      bool
	atRevoke    staunch.Kind
	expiry      staunch.Duration
	onExpiry    staunch.OnExpiry
	notify      []string
	approve     bool
	// revokeSources is how many independent sources revoke needs; 0 leaves it to the
	// input.
	revokeSources int
}

// Set is a compiled set of policies. It does not change and is safe for
// concurrent use.
type Set struct {
	policies  []*policy // in the order in which they are tried
	playbooks map[string]staunch.Playbook
	index     index
}

// PolicyInfo is what a list of policies shows.
type PolicyInfo struct {
	ID          string       `json:"id"`
	Description string       `json:"description,omitempty"`
	Place       string       `json:"place"`
	Mode        staunch.Mode `json:"mode"`
	Priority    int          `json:"priority"`
	// Rules and Sources are those that its match names, in its order; none where
	// it goes for all.
	Rules   []string `json:"rules,omitempty"`
	Sources []string `json:"sources,omitempty"`
}

// Policies lists the policies in the order in which they are tried.
func (s *Set) Policies() []PolicyInfo {
	out := make([]PolicyInfo, len(s.policies))
	for i, p := range s.policies {
		out[i] = PolicyInfo{
			ID: p.id, Description: p.description, Place: p.place, Mode: p.mode, Priority: p.priority,
			Rules: slices.Clone(p.match.values(keyRule)), Sources: slices.Clone(p.match.values(keySource)),
		}
	}
	return out
}

// Channels returns the names of all notification channels that policies use,
// sorted, so that configuration can be checked against them.
func (s *Set) Channels() []string {
	var out []string
	for _, p := range s.policies {
		out = append(out, p.notify...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Playbook returns a playbook by name, for a containment that a person opens.
func (s *Set) Playbook(name string) (staunch.Playbook, bool) {
	p, ok := s.playbooks[name]
	return clonePlaybook(p), ok
}

// Playbooks returns the names of the playbooks, sorted.
func (s *Set) Playbooks() []string { return slices.Sorted(maps.Keys(s.playbooks)) }

// ReadFiles returns the policy files (*.yaml, *.yml, in any folder, tests left
// out) of a file system, by name.
func ReadFiles(fsys fs.FS) ([]File, error) {
	return readFiles(fsys, func(name string) bool { return !isTest(name) })
}

func isTest(name string) bool {
	return strings.HasSuffix(name, "_test.yaml") || strings.HasSuffix(name, "_test.yml")
}

func readFiles(fsys fs.FS, keep func(string) bool) ([]File, error) {
	var out []File
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ext := path.Ext(name); d.IsDir() || (ext != ".yaml" && ext != ".yml") || !keep(name) {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Size() > MaxFile {
			return &staunch.Problem{Place: name, Reason: fmt.Sprintf("larger than %d bytes", MaxFile)}
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		out = append(out, File{Name: name, Data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	return out, nil
}

// Load reads and compiles the policies of a file system. What does not fit is a
// staunch.Problem that names file and line; there may be several, joined.
func Load(fsys fs.FS) (*Set, error) {
	files, err := ReadFiles(fsys)
	if err != nil {
		return nil, err
	}
	return Parse(files)
}

// Parse compiles policy files. It is all or nothing: the error has all that is
// wrong, by file and line.
func Parse(files []File) (*Set, error) {
	env, err := newEnv()
	if err != nil {
		return nil, fmt.Errorf("preparing policy expressions: %w", err)
	}
	s := &Set{playbooks: map[string]staunch.Playbook{}}
	c := compiler{env: env, set: s, ids: map[string]string{}, books: map[string]string{}}
	parsed := make([]policyFile, len(files))
	for i, f := range files {
		if err := c.file(f, &parsed[i]); err != nil {
			c.errs = append(c.errs, err)
		}
	}
	// Playbooks may stand in another file than the policy that uses them.
	for i, f := range files {
		p := strictyaml.In(f.Name)
		for _, y := range parsed[i].Policies {
			c.policy(p, y)
		}
		if err := p.Err(); err != nil {
			c.errs = append(c.errs, err)
		}
	}
	if len(s.policies) > MaxPolicies || len(s.playbooks) > MaxPlaybooks {
		c.errs = append(c.errs, &staunch.Problem{Reason: fmt.Sprintf("%d policies and %d playbooks, at most %d and %d", len(s.policies), len(s.playbooks), MaxPolicies, MaxPlaybooks)})
	}
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	slices.SortFunc(s.policies, func(a, b *policy) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.id, b.id))
	})
	s.index = newIndex(s.policies)
	return s, nil
}

type compiler struct {
	env   *celEnv
	set   *Set
	ids   map[string]string // policy id → place
	books map[string]string // playbook name → place
	errs  []error
}

// file decodes one file and takes its playbooks.
func (c *compiler) file(f File, out *policyFile) error {
	if len(f.Data) > MaxFile {
		return &staunch.Problem{Place: f.Name, Reason: fmt.Sprintf("larger than %d bytes", MaxFile)}
	}
	var y policyFile
	if err := strictyaml.Load(f.Data, f.Name, &y); err != nil {
		return err
	}
	p := strictyaml.In(f.Name)
	if y.V != staunch.Version {
		p.Add(0, "v is %d; this release reads v: %d", y.V, staunch.Version)
		return p.Err()
	}
	for _, b := range y.Playbooks {
		c.playbook(p, b)
	}
	*out = y
	return p.Err()
}

func (c *compiler) playbook(p *strictyaml.Problems, y playbookYAML) {
	if !nameShape.MatchString(y.Name) {
		p.Add(y.line, "playbook name %q: letters, digits and ._/- are allowed, at most 128", y.Name)
		return
	}
	if first, dup := c.books[y.Name]; dup {
		p.Add(y.line, "playbook %q stands already at %s", y.Name, first)
		return
	}
	c.books[y.Name] = p.Place(y.line)
	if n := len(y.Stages); n == 0 || n > maxStages {
		p.Add(y.line, "playbook %q has %d stages, at least 1 and at most %d", y.Name, n, maxStages)
	}
	last := staunch.TierObserve
	for i, st := range y.Stages {
		if st.Tier <= last {
			p.Add(y.line, "playbook %q: stage %d is %s; each stage goes above the one before, and the first above observe", y.Name, i+1, st.Tier)
		}
		last = st.Tier
		for _, v := range st.Verbs {
			if !v.Valid() || v == staunch.VerbRestore || v.Tier() > st.Tier {
				p.Add(y.line, "playbook %q: stage %d: verb %q does not belong to tier %s or below", y.Name, i+1, v, st.Tier)
			}
		}
		for _, d := range st.Deny {
			if d == "" || len(d) > 128 {
				p.Add(y.line, "playbook %q: stage %d: %q is not an action's name", y.Name, i+1, d)
			}
		}
		if w := st.Window.Std(); w < 0 || w > maxWindow {
			p.Add(y.line, "playbook %q: stage %d: window %s is not between 0 and %s", y.Name, i+1, w, maxWindow)
		}
		if i == len(y.Stages)-1 && st.Window != 0 {
			p.Add(y.line, "playbook %q: the last stage has a window, and nothing comes after it", y.Name)
		}
	}
	c.expiry(p, y.line, "playbook "+y.Name, y.Expiry, y.OnExpiry)
	if y.MostTargets < 0 || y.MostTargets > 10_000 {
		p.Add(y.line, "playbook %q: most_targets %d is not between 0 and 10000", y.Name, y.MostTargets)
	}
	if d := y.ScopeFor.Std(); d < 0 || d > maxExpiry {
		p.Add(y.line, "playbook %q: scope_for %s is not between 0 and %s", y.Name, d, maxExpiry)
	}
	c.set.playbooks[y.Name] = y.Playbook
}

func (c *compiler) expiry(p *strictyaml.Problems, line int, what string, d staunch.Duration, on staunch.OnExpiry) {
	if d < 0 || d.Std() > maxExpiry {
		p.Add(line, "%s: expiry %s is not between 0 and %s", what, d.Std(), maxExpiry)
	}
	switch on {
	case "":
	case staunch.ExpiryKeep, staunch.ExpiryRelease, staunch.ExpiryExtend:
		if d == 0 {
			p.Add(line, "%s: on_expiry without expiry", what)
		}
	default:
		p.Add(line, "%s: on_expiry %q is not one of keep, release, extend", what, on)
	}
}

func (c *compiler) policy(p *strictyaml.Problems, y policyYAML) {
	if !nameShape.MatchString(y.ID) {
		p.Add(y.line, "policy id %q: letters, digits and ._/- are allowed, at most 128", y.ID)
		return
	}
	place := p.Place(y.line)
	if first, dup := c.ids[y.ID]; dup {
		p.Add(y.line, "policy %q stands already at %s", y.ID, first)
		return
	}
	c.ids[y.ID] = place
	bad := func(format string, args ...any) { p.Add(y.line, "policy "+y.ID+": "+format, args...) }
	t := y.Then
	out := &policy{
		id: y.ID, description: y.Description, place: place, mode: y.Mode, priority: y.Priority,
		unmanaged: staunch.TierIsolate, second: true, atRevoke: t.Widen.AtRevoke,
		expiry: t.Expiry, onExpiry: t.OnExpiry, notify: t.Notify, approve: t.Approve,
	}
	if y.Priority < -1_000_000 || y.Priority > 1_000_000 {
		bad("priority %d is not between -1000000 and 1000000", y.Priority)
	}
	out.match = compileMatch(y.Match, bad)
	if y.When.s != "" {
		w, issues := c.env.compile(y.When.s)
		for _, i := range issues {
			p.Add(y.When.place(i.line), "policy %s: when: %s", y.ID, i.text)
		}
		out.when = w
	} else if y.When.line > 0 {
		p.Add(y.When.line, "policy %s: when is empty", y.ID)
	}
	if t.Unmanaged != nil {
		out.unmanaged = *t.Unmanaged
	}
	if n := t.RevokeSources; n != nil {
		if *n < 1 || *n > MaxRevokeSources {
			bad("revoke_sources %d is not between 1 and %d", *n, MaxRevokeSources)
		}
		out.revokeSources = *n
	}
	if t.Widen.SecondSession != nil {
		out.second = *t.Widen.SecondSession
	}
	switch k := staunch.Kind(t.Scope); {
	case t.Scope == "" || t.Scope == "narrowest":
	case k.Width() > 0:
		out.scope = k
	default:
		bad("scope %q is not one of narrowest, session, credential, account, identity", t.Scope)
	}
	if out.atRevoke != "" && out.atRevoke.Width() == 0 {
		bad("widen.at_revoke %q is not one of session, credential, account, identity", out.atRevoke)
	}
	c.expiry(p, y.line, "policy "+y.ID, t.Expiry, t.OnExpiry)
	for _, n := range t.Notify {
		if !nameShape.MatchString(n) {
			bad("notify: %q is not a channel's name", n)
		}
	}
	out.rungs = c.ladder(p, y)
	c.serve(out, t, bad)
	c.set.policies = append(c.set.policies, out)
}

// ladder reads the tiers; a fixed tier is a ladder of one rung at 0.
func (c *compiler) ladder(p *strictyaml.Problems, y policyYAML) []rung {
	t := y.Then
	switch {
	case t.Tier != nil && len(t.Tiers) > 0:
		p.Add(y.line, "policy %s: then has both tier and tiers", y.ID)
		return nil
	case t.Tier != nil:
		return []rung{{tier: *t.Tier, playbook: t.Playbook}}
	case t.Playbook != "":
		p.Add(y.line, "policy %s: then.playbook goes with then.tier; rungs name their own", y.ID)
	case len(t.Tiers) == 0:
		p.Add(y.line, "policy %s: then has neither tier nor tiers", y.ID)
	}
	out := make([]rung, 0, len(t.Tiers))
	for i, r := range t.Tiers {
		if r.At == nil || !(*r.At >= 0 && *r.At <= 1) {
			p.Add(r.line, "policy %s: at has to be between 0 and 1", y.ID)
			continue
		}
		if i > 0 && len(out) == i && (*r.At <= out[i-1].at || r.Tier <= out[i-1].tier) {
			p.Add(r.line, "policy %s: each rung is above the one before, in at and in tier", y.ID)
		}
		if r.Tier == staunch.TierObserve {
			p.Add(r.line, "policy %s: a rung needs a tier above observe", y.ID)
		}
		out = append(out, rung{at: *r.At, tier: r.Tier, playbook: r.Playbook})
	}
	return out
}

// serve finds the playbook for every tier that the policy may come to: the
// rung's own, or the one that is called like the tier, which is also what a
// ceiling below the rung gets.
func (c *compiler) serve(out *policy, t thenYAML, bad func(string, ...any)) {
	for _, r := range out.rungs {
		if r.tier == staunch.TierObserve {
			continue
		}
		name := cmp.Or(r.playbook, r.tier.String())
		book, ok := c.set.playbooks[name]
		switch {
		case !ok:
			bad("there is no playbook %q", name)
		case top(book) != r.tier:
			bad("tier %s takes playbook %q, whose highest stage is %s", r.tier, name, top(book))
		default:
			out.playbook[r.tier] = name
		}
	}
	highest := staunch.TierObserve
	for _, r := range out.rungs {
		highest = max(highest, r.tier)
	}
	for tier := staunch.TierRestrict; tier < highest; tier++ {
		if out.playbook[tier] == "" {
			if book, ok := c.set.playbooks[tier.String()]; ok && top(book) == tier {
				out.playbook[tier] = tier.String()
			}
		}
	}
	// A policy that names tolerance staged in its match has thought of it;
	// any other must not skip the stages.
	tolerances := out.match.values(keyTolerance)
	mayStaged := len(tolerances) == 0 || slices.Contains(tolerances, string(staunch.ToleranceStaged))
	switch {
	case t.Staged != "":
		out.staged = t.Staged
	case len(tolerances) > 0 || highest < staunch.TierIsolate:
		return
	default:
		out.staged = "staged"
	}
	book, ok := c.set.playbooks[out.staged]
	switch {
	case !mayStaged:
		bad("staged is given, but match.tolerance leaves staged identities out")
	case !ok:
		bad("there is no playbook %q for identities of tolerance staged; name one in then.staged", out.staged)
	case top(book) < highest:
		bad("the staged playbook %q goes to %s, and the policy to %s", out.staged, top(book), highest)
	case len(book.Stages) < 2:
		bad("the staged playbook %q has one stage", out.staged)
	}
}

func top(b staunch.Playbook) staunch.Tier {
	if len(b.Stages) == 0 {
		return staunch.TierObserve
	}
	return b.Stages[len(b.Stages)-1].Tier
}

func clonePlaybook(b staunch.Playbook) staunch.Playbook {
	b.Stages = slices.Clone(b.Stages)
	for i := range b.Stages {
		b.Stages[i].Verbs = slices.Clone(b.Stages[i].Verbs)
		b.Stages[i].Deny = slices.Clone(b.Stages[i].Deny)
	}
	return b
}

// upTo returns the playbook's stages up to the tier, without a window after the
// last, since nothing follows it.
func upTo(b staunch.Playbook, tier staunch.Tier) staunch.Playbook {
	b = clonePlaybook(b)
	b.Stages = slices.DeleteFunc(b.Stages, func(s staunch.Stage) bool { return s.Tier > tier })
	if n := len(b.Stages); n > 0 {
		b.Stages[n-1].Window = 0
	}
	return b
}
