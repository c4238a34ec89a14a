package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
)

// importReport is what an import did.
type importReport struct {
	V        int           `json:"v"`
	Into     string        `json:"into"`
	Files    []string      `json:"files"`
	Same     int           `json:"unchanged"`
	Licences []licence     `json:"licences"`
	Problems []ruleProblem `json:"problems"`
	// Notes have what was copied with a reservation, or passed over.
	Notes   []ruleProblem `json:"notes"`
	Loaded  int           `json:"loaded"`
	Refused int           `json:"refused"`
}

// licence is a licence with the authors of the rules that are under it.
type licence struct {
	License string   `json:"license"`
	Rules   int      `json:"rules"`
	Authors []string `json:"authors"`
}

// noLicence stands for the licence of rules that do not say.
const noLicence = "not stated"

// copied is one file that is to be imported.
type copied struct {
	from, name string
	data       []byte
}

func newRulesImportCmd(g *globals) *cobra.Command {
	var l ruleFlags
	var into string
	var keepGoing, replace bool
	cmd := &cobra.Command{
		Use:   "import PATH --into DIR",
		Short: "Check rules and copy them, with authors and licences",
		Long: `Check the Sigma rules of a file or folder and copy the files to DIR, byte for
byte, in the same sub-folders: author, licence and references stay with the
rules. Licence texts beside them, or above them in PATH (LICENSE*, COPYING*,
NOTICE*), are copied too.
Which licences and authors these are is said; whether that permits your use is
for you to see.

Where a rule is refused, has an id that a rule in DIR has, or a file in DIR
differs (--replace), nothing is copied. With --keep-going the other files are; a
file with a refused rule in it is left out as a whole.`,
		Example: `  staunch rules import ~/sigma/rules/cloud/okta --into rules/okta
  staunch rules import pack/ --into rules/pack --keep-going -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			opts, err := l.options()
			if err != nil {
				return err
			}
			rep, todo, err := planImport(opts, args[0], into, replace)
			if err != nil {
				return err
			}
			refused := rep.Refused > 0
			if refused && !keepGoing {
				rep.Files, todo = []string{}, nil
			}
			if err := writeFiles(into, todo); err != nil {
				return err
			}
			if err := g.print(rep, func(w io.Writer) { writeImport(w, rep, refused && !keepGoing) }); err != nil {
				return err
			}
			if refused {
				return errRulesRefused
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&into, "into", "", "the folder to copy to (needed)")
	cmd.Flags().BoolVar(&keepGoing, "keep-going", false, "copy the files without a refused rule")
	cmd.Flags().BoolVar(&replace, "replace", false, "replace files in DIR that differ")
	l.add(cmd)
	must(cmd.MarkFlagRequired("into"))
	return cmd
}

// planImport checks the rules at path beside those in the folder into, and finds
// the files that can be copied.
func planImport(opts sigma.Options, path, into string, replace bool) (importReport, []copied, error) {
	rep := importReport{V: staunch.Version, Into: into, Files: []string{}}
	// Correlations are read here, and bound to rules where they are used: the rules
	// may be in the folder already.
	reader := func(list *[]*sigma.Rule) func(*sigma.Correlation) []*sigma.RuleError {
		return func(c *sigma.Correlation) []*sigma.RuleError {
			errs := new(correlate.Reader).Read(c)
			if len(errs) == 0 {
				*list = append(*list, c.Rule)
			}
			return errs
		}
	}
	var correlations, there []*sigma.Rule
	opts.Correlation = reader(&correlations)
	loaded := sigma.LoadPaths(opts, path)
	rules := slices.Concat(loaded.Rules, correlations)
	rep.Problems, rep.Notes, rep.Refused = problemsOf(loaded.Errors), problemsOf(loaded.Notes), loaded.Refused
	out := map[string]bool{} // files that are left out
	for _, e := range loaded.Errors {
		out[e.Path] = true
	}
	refuse := func(file string, line int, rule, reason string) {
		rep.Problems = append(rep.Problems, ruleProblem{file, line, rule, reason})
		rep.Refused++
		out[file] = true
	}
	base := path
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		base = filepath.Dir(path)
	}
	target := func(file string) (string, error) {
		rel, err := filepath.Rel(base, filepath.FromSlash(file))
		if err != nil {
			return "", fmt.Errorf("importing %s: %w", file, err)
		}
		return rel, nil
	}
	taken := map[string]*sigma.Rule{}
	if _, err := os.Stat(into); err == nil {
		opts.Correlation = reader(&there)
		for _, r := range append(sigma.LoadPaths(opts, into).Rules, there...) {
			taken[r.ID] = r
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return rep, nil, fmt.Errorf("looking at %s: %w", into, err)
	}
	for _, r := range rules {
		name, err := target(r.Path)
		if err != nil {
			return rep, nil, err
		}
		if o := taken[r.ID]; r.HasID && o != nil && filepath.Clean(o.Path) != filepath.Join(into, name) {
			refuse(r.Path, r.Line, r.ID, fmt.Sprintf("its id is taken by the rule at %s:%d", o.Path, o.Line))
		}
	}
	files := slices.Concat(loaded.Files, licenceFiles(base, loaded.Files))
	var todo []copied
	for _, file := range files {
		if out[file] {
			continue
		}
		name, err := target(file)
		if err != nil {
			return rep, nil, err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return rep, nil, fmt.Errorf("importing: %w", err)
		}
		have, err := os.ReadFile(filepath.Join(into, name))
		switch {
		case err == nil && bytes.Equal(have, data):
			rep.Same++
			continue
		case err == nil && !replace:
			refuse(file, 0, "", fmt.Sprintf("%s is there and differs; --replace replaces it", filepath.Join(into, name)))
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return rep, nil, fmt.Errorf("importing: %w", err)
		}
		rep.Files = append(rep.Files, filepath.ToSlash(name))
		todo = append(todo, copied{file, name, data})
	}
	var kept []*sigma.Rule
	for _, r := range rules {
		if !out[r.Path] {
			kept = append(kept, r)
		}
	}
	rep.Loaded = len(kept)
	for _, f := range loaded.Filters {
		if !out[f.Path] {
			rep.Loaded++
		}
	}
	rep.Licences = licences(kept)
	return rep, todo, nil
}

// licenceFiles finds the licence texts that stand beside rules, or above them in
// base. Others are about something else.
func licenceFiles(base string, rules []string) []string {
	dirs := map[string]bool{}
	for _, r := range rules {
		for dir := filepath.Dir(r); !dirs[dir]; dir = filepath.Dir(dir) {
			dirs[dir] = true
			if dir == filepath.Clean(base) {
				break
			}
		}
	}
	var out []string
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		out = append(out, licencesIn(dir)...)
	}
	return out
}

func licencesIn(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // rules that cannot be read were refused
	}
	var out []string
	for _, d := range entries {
		path := filepath.Join(dir, d.Name())
		if !d.Type().IsRegular() {
			continue
		}
		if info, err := d.Info(); err != nil || info.Size() > sigma.DefaultMaxFileBytes {
			continue // a text of that size is no licence
		}
		for _, p := range []string{"LICENSE", "LICENCE", "COPYING", "NOTICE"} {
			if strings.HasPrefix(strings.ToUpper(d.Name()), p) && filepath.Ext(path) != ".yml" && filepath.Ext(path) != ".yaml" {
				out = append(out, path)
				break
			}
		}
	}
	return out
}

func licences(rules []*sigma.Rule) []licence {
	by := map[string]map[string]bool{}
	count := map[string]int{}
	for _, r := range rules {
		name := orElse(r.License, noLicence)
		if by[name] == nil {
			by[name] = map[string]bool{}
		}
		count[name]++
		for _, a := range strings.Split(r.Author, ",") {
			if a = strings.TrimSpace(a); a != "" {
				by[name][a] = true
			}
		}
	}
	out := []licence{}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		authors := append([]string{}, slices.Sorted(maps.Keys(by[name]))...)
		out = append(out, licence{name, count[name], authors})
	}
	return out
}

// writeFiles puts every file beside its place first, so that what cannot be
// written is found before anything changed.
func writeFiles(into string, files []copied) (err error) {
	var temps []string
	defer func() {
		for _, t := range temps {
			if e := os.Remove(t); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}()
	for _, f := range files {
		dir := filepath.Dir(filepath.Join(into, f.name))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("importing: %w", err)
		}
		t, err := os.CreateTemp(dir, ".import-*")
		if err != nil {
			return fmt.Errorf("importing: %w", err)
		}
		temps = append(temps, t.Name())
		_, err = t.Write(f.data)
		if err := errors.Join(err, t.Chmod(0o644), t.Sync(), t.Close()); err != nil {
			return fmt.Errorf("importing %s: %w", f.from, err)
		}
	}
	for i, f := range files {
		if err := os.Rename(temps[i], filepath.Join(into, f.name)); err != nil {
			return fmt.Errorf("importing %s: %w", f.from, err)
		}
	}
	return nil
}

func writeImport(w io.Writer, rep importReport, nothing bool) {
	for _, p := range rep.Problems {
		row(w, "refused", p.place(), orElse(p.Rule, "-"), p.Reason)
	}
	for _, p := range rep.Notes {
		row(w, "note", p.place(), orElse(p.Rule, "-"), p.Reason)
	}
	for _, f := range rep.Files {
		row(w, "copied", filepath.Join(rep.Into, f))
	}
	if rep.Same > 0 {
		row(w, "unchanged", fmt.Sprintf("%d files", rep.Same))
	}
	for _, l := range rep.Licences {
		row(w, "licence", l.License, fmt.Sprintf("%d rules", l.Rules), "by "+orElse(text(l.Authors), "nobody named"))
	}
	if nothing {
		row(w, "nothing was copied; --keep-going copies the files without a refused rule")
	}
	_, _ = fmt.Fprintf(w, "%d loaded, %d refused\n", rep.Loaded, rep.Refused) // print's Flush tells
}
