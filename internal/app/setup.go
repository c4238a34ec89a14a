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
	"os"
	"path/filepath"
	"slices"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/decide"
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
		}
	}
	set, ruleErrs, ruleData, err := loadRules(cfg)
	if err != nil {
		errs = append(errs, err)
	}
	s.RuleErrors = ruleErrs
	if strict {
		for _, e := range ruleErrs {
			errs = append(errs, fmt.Errorf("%w: %w", staunch.ErrInvalid, e))
		}
	}
	files, err := policyFiles(cfg)
	if err != nil {
		errs = append(errs, err)
	}
	policy, err := decide.Parse(files)
	if err != nil {
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
	body, err := json.Marshal(struct {
		V          int                `json:"v"`
		Rules      string             `json:"rules"`
		Policies   []decide.File      `json:"policies"`
		Identities []staunch.Identity `json:"identities,omitempty"`
		Limits     decide.Limits      `json:"limits"`
		Mode       staunch.Mode       `json:"mode"`
		RuleFiles  map[string][]byte  `json:"rule_files,omitempty"`
	}{staunch.Version, set.Hash(), files, s.Identities, limits, cfg.Mode, ruleData})
	if err != nil {
		return nil, fmt.Errorf("encoding the bundle: %w", err)
	}
	sum := sha256.Sum256(body)
	s.Body = body
	s.Bundle = &pipeline.Bundle{Hash: "sha256:" + hex.EncodeToString(sum[:]), Rules: set, Policy: policy, Groups: inventory.CountGroups(s.Identities)}
	return s, nil
}

// loadRules reads the configured rule files and folders.
func loadRules(cfg *config.Config) (*sigma.Set, []*sigma.RuleError, map[string][]byte, error) {
	var rules []*sigma.Rule
	var refused []*sigma.RuleError
	data := map[string][]byte{}
	for _, path := range cfg.Rules {
		if folder, ok := config.BuiltinRules(path); ok {
			if !fs.ValidPath(folder) {
				return nil, nil, nil, &staunch.Problem{Place: cfg.File() + ": rules", Reason: fmt.Sprintf("%q is not a folder of the rules that staunch ships", path)}
			}
			if _, err := fs.Stat(packs.FS, folder); err != nil {
				return nil, nil, nil, &staunch.Problem{Place: cfg.File() + ": rules", Reason: fmt.Sprintf("staunch ships no rules called %q", folder), Hint: "builtin is all of them, builtin/aws those for AWS"}
			}
			rs, es := sigma.Load(packs.FS, sigma.Options{Placeholders: cfg.Placeholders}, folder)
			for _, r := range rs {
				b, err := fs.ReadFile(packs.FS, r.Path)
				if err != nil {
					return nil, nil, nil, fmt.Errorf("reading a rule again: %w", err)
				}
				r.Path = "builtin/" + r.Path
				data[r.Path] = b
			}
			rules, refused = append(rules, rs...), append(refused, es...)
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return nil, nil, nil, &staunch.Problem{Place: cfg.File() + ": rules", Reason: errors.Unwrap(err).Error() + ": " + path}
		}
		rs, es := sigma.LoadPath(path, sigma.Options{Placeholders: cfg.Placeholders})
		rules, refused = append(rules, rs...), append(refused, es...)
		for _, r := range rs {
			if _, ok := data[r.Path]; !ok {
				b, err := os.ReadFile(r.Path)
				if err != nil {
					return nil, nil, nil, fmt.Errorf("reading a rule again: %w", err)
				}
				data[r.Path] = b
			}
		}
	}
	set, err := sigma.Compile(rules)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("compiling the rules: %w", err)
	}
	return set, refused, data, nil
}

// policyFiles reads the default policies, unless they are turned off, and the
// configured ones.
func policyFiles(cfg *config.Config) ([]decide.File, error) {
	var files []decide.File
	if !cfg.NoDefaultPolicy {
		fs, err := decide.ReadFiles(policies.FS)
		if err != nil {
			return nil, fmt.Errorf("reading the default policies: %w", err)
		}
		for _, f := range fs {
			f.Name = "default:" + f.Name
			files = append(files, f)
		}
	}
	for _, path := range cfg.Policies {
		var fsys fs.FS
		base := path
		st, err := os.Stat(path)
		switch {
		case err != nil:
			return nil, &staunch.Problem{Place: cfg.File() + ": policies", Reason: errors.Unwrap(err).Error() + ": " + path}
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
