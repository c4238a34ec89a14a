// Package app wires the rooms together: it loads what the configuration names,
// opens the store and the connectors, and starts and stops the engine, the
// guard, the pipeline, the transports and the API. Tests and the demo start the
// same app in their own process.
package app

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	formats "github.com/staunch-project/staunch/internal/format/registry"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/policies"
	packs "github.com/staunch-project/staunch/rules"
)

// Setup is everything that a configuration names and that can be read without
// opening anything.
type Setup struct {
	Config     *config.Config
	Sources    map[string]*pipeline.Source
	Bundle     *pipeline.Bundle
	Guardrails *decide.Guardrails
	Identities []staunch.Identity
	// RuleErrors has the rules that were refused.
	RuleErrors []*sigma.RuleError
	// Body is what is stored of the bundle, to decide again later.
	Body []byte
}

// NewFormat returns the format called name; generic needs a mapping file.
func NewFormat(name, mapping string) (format.Format, error) {
	if name != formats.GenericName {
		return formats.New(name)
	}
	if mapping == "" {
		return nil, &staunch.Problem{Place: "format generic", Reason: "needs a mapping file", Hint: "give --mapping FILE, or mapping: in the source"}
	}
	data, err := os.ReadFile(mapping)
	if err != nil {
		return nil, fmt.Errorf("reading the mapping: %w", err)
	}
	return formats.Generic("", data, mapping)
}

// GenericFormat is the format that a mapping file of the user's own gives.
const GenericFormat = formats.GenericName

// FormatNames returns the names of all formats, sorted; generic is the last.
func FormatNames() []string {
	names, err := formats.Names()
	if err != nil {
		return []string{formats.GenericName} // a build whose mappings do not compile fails its tests
	}
	return append(names, formats.GenericName)
}

// Load reads everything that the configuration names. Refused rules do not make
// it fail; strict makes them.
func Load(cfg *config.Config, strict bool) (*Setup, error) {
	s := &Setup{Config: cfg, Sources: map[string]*pipeline.Source{}}
	var errs []error
	for _, c := range cfg.Sources {
		f, err := NewFormat(c.Format, c.Mapping)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cfg.PlaceOfSource(c), err))
			continue
		}
		s.Sources[c.Name] = &pipeline.Source{
			Name: c.Name, Realm: c.Realm, Format: f, Ceiling: *c.Ceiling, Skew: c.Skew, Lateness: c.Lateness, Accuses: c.Accuses,
			Origin: c.Origin,
		}
	}
	set, correlations, ruleErrs, ruleData, err := loadRules(cfg)
	if err != nil {
		errs = append(errs, err)
	}
	s.RuleErrors = ruleErrs
	if strict {
		for _, e := range ruleErrs {
			errs = append(errs, &staunch.Problem{Place: e.Place(), Reason: e.What()})
		}
	}
	files, err := policyFiles(cfg)
	if err != nil {
		errs = append(errs, err)
	}
	policy, err := decide.Parse(files)
	if err != nil {
		errs = append(errs, err)
	} else if err := harmless(policy); err != nil {
		errs = append(errs, err)
	}
	if cfg.Identities != "" {
		if s.Identities, err = inventory.LoadIdentities(cfg.Identities); err != nil {
			errs = append(errs, err)
		}
	}
	var limits decide.Limits
	if err := cfg.Decode(cfg.Limits, &limits); err != nil {
		errs = append(errs, err)
	} else {
		limits.Protected = append(slices.Clone(limits.Protected), cfg.Protected...)
		if s.Guardrails, err = decide.NewGuardrails(limits); err != nil {
			errs = append(errs, fmt.Errorf("%s: limits: %w", cfg.File(), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// The same files give the same bundle wherever a node has them.
	relFiles := slices.Clone(files)
	for i := range relFiles {
		relFiles[i].Name = relative(cfg, relFiles[i].Name)
	}
	relRules := make(map[string][]byte, len(ruleData))
	for path, data := range ruleData {
		relRules[relative(cfg, path)] = data
	}
	body, err := json.Marshal(struct {
		V          int                `json:"v"`
		Rules      string             `json:"rules"`
		Policies   []decide.File      `json:"policies"`
		Identities []staunch.Identity `json:"identities,omitempty"`
		Limits     decide.Limits      `json:"limits"`
		Mode       staunch.Mode       `json:"mode"`
		RuleFiles  map[string][]byte  `json:"rule_files,omitempty"`
		// Correlations is left out where there are none, so that a bundle without
		// them has the hash that it had before there were any.
		Correlations string `json:"correlations,omitempty"`
		// RevokeSources likewise: 0 is the default.
		RevokeSources int `json:"revoke_sources,omitempty"`
	}{staunch.Version, set.Hash(), relFiles, s.Identities, limits, cfg.Mode, relRules, correlations.Hash(), unless(cfg.Suspicion.RevokeSources, config.DefaultRevokeSources)})
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	sum := sha256.Sum256(body)
	s.Body = body
	s.Bundle = &pipeline.Bundle{Hash: "sha256:" + hex.EncodeToString(sum[:]), Rules: set, Correlations: correlations, Policy: policy, Groups: inventory.CountGroups(s.Identities)}
	return s, nil
}

// faint is a confidence that is evidence of nothing: a fifth of that of a rule of
// level low.
const faint = 0.05

// harmless refuses policies that would contain everything: whoever one faint signal
// names, without anything that says whom they are about. One that matches a rule, an
// environment or an owner, or that has people approve, may do without a threshold.
func harmless(set *decide.Set) error {
	v := decide.View{Confidence: faint, Ceiling: staunch.TierRevoke, Count: 1, Independent: 1}
	for _, id := range []decide.IdentityFacts{
		{Kind: string(staunch.IdentityUnknown), Tolerance: string(staunch.ToleranceNormal)},
		{Kind: string(staunch.IdentityService), Tolerance: string(staunch.ToleranceNormal), Managed: true},
		{Kind: string(staunch.IdentityHuman), Tolerance: string(staunch.ToleranceNormal), Managed: true},
	} {
		out := set.Decide(decide.Input{
			V: staunch.Version, Subject: staunch.Ref{Kind: staunch.KindAccount, Realm: "any", Scheme: "name", Value: "anyone"},
			Identity: id, Views: decide.Views{Enforce: v}, Mode: staunch.ModeEnforce,
		})
		if out.Verdict != staunch.VerdictContain {
			continue
		}
		place := ""
		for _, p := range set.Policies() {
			if p.ID == out.Policy {
				place = p.Place
			}
		}
		return &staunch.Problem{
			Place: place, Reason: fmt.Sprintf("policy %s would contain everything: tier %s of confidence %.2f, whoever it is about", out.Policy, out.Tier, faint),
			Hint: "give it thresholds (then.tiers with at), or say whom it is about (match, when); mode: shadow tries it out",
		}
	}
	return nil
}

// unless is n, or 0 where that is the default.
func unless(n, usual int) int {
	if n == usual {
		return 0
	}
	return n
}

// relative names a file from the configuration's folder on.
func relative(cfg *config.Config, path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	dir, err := filepath.Abs(filepath.Dir(cfg.File()))
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return path
	}
	return filepath.ToSlash(rel)
}

// loadRules reads the configured rule files and folders, and what of the pack is
// named.
func loadRules(cfg *config.Config) (*sigma.Set, *correlate.Set, []*sigma.RuleError, map[string][]byte, error) {
	fail := func(err error) (*sigma.Set, *correlate.Set, []*sigma.RuleError, map[string][]byte, error) {
		return nil, nil, nil, nil, err
	}
	sources, err := ruleSources(cfg)
	if err != nil {
		return fail(err)
	}
	pipelines, err := sigma.LoadPipelines(cfg.Pipelines...)
	if err != nil {
		return fail(err)
	}
	var docs correlate.Reader
	var correlating []*sigma.Rule
	loaded := sigma.LoadSources(sigma.Options{Placeholders: cfg.Placeholders, Pipelines: pipelines, Correlation: func(c *sigma.Correlation) []*sigma.RuleError {
		correlating = append(correlating, c.Rule)
		return docs.Read(c)
	}}, sources...)
	if err := setModes(cfg, loaded, correlating); err != nil {
		return fail(err)
	}
	data := map[string][]byte{}
	for _, r := range loaded.Rules {
		data[r.Path] = loaded.Data[r.Path]
	}
	for _, f := range loaded.Filters {
		data[f.Path] = loaded.Data[f.Path]
	}
	for _, path := range cfg.Pipelines {
		if data[path], err = os.ReadFile(path); err != nil {
			return fail(fmt.Errorf("reading a pipeline again: %w", err))
		}
	}
	set, err := sigma.Compile(loaded.Rules)
	if err != nil {
		return fail(fmt.Errorf("compiling the rules: %w", err))
	}
	opt := correlate.Options{Lateness: config.DefaultLateness}
	for i, s := range cfg.Sources {
		if i == 0 {
			opt.Lateness = 0
		}
		opt.Lateness = max(opt.Lateness, s.Lateness.Std())
	}
	if cfg.MMDB != "" {
		if opt.Geo, err = OpenGeo(cfg.MMDB); err != nil {
			return fail(&staunch.Problem{Place: cfg.File() + ": mmdb", Reason: err.Error()})
		}
	}
	correlations, refused := docs.Compile(set, opt)
	if len(correlations.Left()) > 0 {
		// What only those refer to would be matched, and its records kept, for nothing.
		var used []*sigma.Rule
		for i, r := range set.Rules() {
			if !correlations.Idle(i) {
				used = append(used, r)
			}
		}
		if set, err = sigma.Compile(used); err != nil {
			return fail(fmt.Errorf("compiling the rules: %w", err))
		}
		correlations, refused = docs.Compile(set, opt)
	}
	for _, r := range correlations.Rules() {
		data[r.Path] = loaded.Data[r.Path]
	}
	return set, correlations, append(loaded.Errors, refused...), data, nil
}

// OpenGeo reads a database of places.
func OpenGeo(path string) (*correlate.Geo, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the database of places: %w", err)
	}
	return correlate.OpenGeo(data, path)
}

// ruleSources says where the entries of rules are read from. The pack comes last,
// and once: rules of one's own come before those with the same id in it.
func ruleSources(cfg *config.Config) ([]sigma.Source, error) {
	problem := func(reason, hint string) error {
		return &staunch.Problem{Place: cfg.File() + ": rules", Reason: reason, Hint: hint}
	}
	var own []sigma.Source
	pack := sigma.Source{FS: packs.FS, Path: "builtin"}
	for _, path := range cfg.Rules {
		folder, ok := config.BuiltinRules(path)
		if !ok {
			if _, err := os.Stat(path); err != nil {
				return nil, problem(errors.Unwrap(err).Error()+": "+path, "")
			}
			own = append(own, sigma.Source{Path: path})
			continue
		}
		if !fs.ValidPath(folder) {
			return nil, problem(fmt.Sprintf("%q is not a folder of the rules that staunch ships", path), "")
		}
		if _, err := fs.Stat(packs.FS, folder); err != nil {
			return nil, problem(fmt.Sprintf("staunch ships no rules called %q", folder), "builtin is all of them, builtin/aws those for AWS")
		}
		pack.Roots = append(pack.Roots, folder)
	}
	if len(pack.Roots) > 0 {
		own = append(own, pack)
	}
	return own, nil
}

// setModes gives rules and correlations the modes that the configuration has for
// their ids. An id that none has is an error: a rule that was meant to be in
// shadow would not be.
func setModes(cfg *config.Config, loaded *sigma.Loaded, correlating []*sigma.Rule) error {
	left := maps.Clone(cfg.RuleModes)
	for _, r := range slices.Concat(loaded.Rules, correlating) {
		if m, ok := cfg.RuleModes[r.ID]; ok {
			r.Mode = m.String()
			delete(left, r.ID)
		}
	}
	for _, e := range slices.Concat(loaded.Errors, loaded.Notes) {
		delete(left, e.Rule) // it is told that the rule was refused, or left out
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(left)) {
		errs = append(errs, &staunch.Problem{Place: cfg.File() + ": rule_modes", Reason: fmt.Sprintf("no rule has the id %q", id)})
	}
	return errors.Join(errs...)
}

// defaultPolicies reads the default policies, unless they are turned off.
func defaultPolicies(cfg *config.Config) ([]decide.File, error) {
	if cfg.NoDefaultPolicy {
		return nil, nil
	}
	files, err := decide.ReadFiles(policies.FS)
	if err != nil {
		return nil, fmt.Errorf("reading the default policies: %w", err)
	}
	for i := range files {
		files[i].Name = "default:" + files[i].Name
	}
	return files, nil
}

// policyFiles reads the default policies, unless they are turned off, and the
// configured ones.
func policyFiles(cfg *config.Config) ([]decide.File, error) {
	files, err := defaultPolicies(cfg)
	if err != nil {
		return nil, err
	}
	own, err := ReadPolicies(cfg.File()+": policies", cfg.Policies...)
	if err != nil {
		return nil, err
	}
	return append(files, own...), nil
}

// ReadPolicies reads policy files, and those in folders but for tests. place is
// where the paths are from, for what is wrong with them.
func ReadPolicies(place string, paths ...string) ([]decide.File, error) {
	var files []decide.File
	for _, path := range paths {
		var fsys fs.FS
		base := path
		st, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, &staunch.Problem{Place: place, Reason: errors.Unwrap(err).Error() + ": " + path}
		case st.IsDir():
			fsys = os.DirFS(path)
		default:
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("reading a policy: %w", err)
			}
			files = append(files, decide.File{Name: path, Data: data})
			continue
		}
		fs, err := decide.ReadFiles(fsys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, f := range fs {
			f.Name = filepath.Join(base, f.Name)
			files = append(files, f)
		}
	}
	return files, nil
}
