// Package docs_test holds the documentation to what the code does: every YAML
// snippet goes through the loader that reads such a file, every link leads
// somewhere, and the tables that could be generated agree with the code.
package docs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v4"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/cli"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	connectors "github.com/staunch-project/staunch/internal/connector/registry"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format/generic"
	formats "github.com/staunch-project/staunch/internal/format/registry"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/notify"
	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/policies"
	"github.com/staunch-project/staunch/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// page is one Markdown file; its path is relative to the repository.
type page struct {
	path   string
	text   string
	blocks []block
}

// block is a fenced block. Its info string is the language, what it is, and
// perhaps the file's name: "yaml rule rules/outside.yaml".
type block struct {
	place string
	lang  string
	what  string
	name  string
	body  string
}

var fence = regexp.MustCompile("^```([^`]*)$")

func pages(t *testing.T) []page {
	t.Helper()
	files := []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel != "." && rel != "docs" && rel != "changelog" && !strings.HasPrefix(rel, "docs/") && !strings.HasPrefix(rel, "changelog/") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(rel, ".md") && !slices.Contains(files, rel) && !generated(rel) && strings.Contains(rel, "/") {
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]page, 0, len(files))
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join("..", f))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page{path: f, text: string(b), blocks: split(t, f, string(b))})
	}
	if len(out) < 30 {
		t.Fatalf("only %d pages were found", len(out))
	}
	return out
}

func split(t *testing.T, path, text string) []block {
	t.Helper()
	var out []block
	var open *block
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case m == nil && open != nil:
			open.body += line + "\n"
		case m == nil:
		case open == nil:
			info := strings.Fields(m[1])
			open = &block{place: fmt.Sprintf("%s:%d", path, i+1)}
			for j, to := range []*string{&open.lang, &open.what, &open.name} {
				if j < len(info) {
					*to = info[j]
				}
			}
		default:
			out = append(out, *open)
			open = nil
		}
	}
	if open != nil {
		t.Fatalf("%s: the block is not closed", open.place)
	}
	return out
}

// TestSnippets loads every YAML and JSON snippet by the loader of such files.
func TestSnippets(t *testing.T) {
	seen := map[string]int{}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.lang == "json" {
				seen["json"]++
				for i, line := range values(b) {
					if !json.Valid([]byte(line)) {
						t.Errorf("%s: value %d is not JSON: %s", b.place, i+1, line)
					}
				}
			}
			if b.lang != "yaml" {
				continue
			}
			seen[b.what]++
			var err error
			switch b.what {
			case "staunch.yaml":
				err = loadConfig(t, b)
			case "policy":
				// Alone, as `policy test` does, and beside the default ones.
				f := decide.File{Name: b.place, Data: []byte(b.body)}
				if _, err = decide.Parse([]decide.File{f}); err == nil {
					_, err = decide.Parse(append(defaultPolicies(t), f))
				}
			case "policy-test":
				err = runPolicyTests(p, b)
			case "mapping":
				_, err = generic.New("", []byte(b.body), b.place)
			case "identities":
				_, err = inventory.ParseIdentities([]byte(b.body), b.place)
			case "rule":
				err = loadRules(b)
			case "pipeline":
				_, err = sigma.ParsePipeline(b.place, []byte(b.body))
			case "refused-rule":
				if err = loadRules(b); err == nil {
					err = errors.New("is shown as a rule that is refused, and is not refused")
				} else {
					err = nil
				}
			default:
				err = fmt.Errorf("the block does not say what it is: %q", b.what)
			}
			if err != nil {
				t.Errorf("%s: %v", b.place, err)
			}
		}
	}
	for _, what := range []string{"staunch.yaml", "policy", "policy-test", "mapping", "identities", "rule", "refused-rule", "json"} {
		if seen[what] == 0 {
			t.Errorf("no snippet of kind %s was found", what)
		}
	}
}

// TestPoliciesNameRules looks up every rule that a policy on a page is for: it is
// one that staunch ships, one on the page, or a finding.
func TestPoliciesNameRules(t *testing.T) {
	var correlations correlate.Reader
	loaded := sigma.LoadSources(sigma.Options{Placeholders: map[string][]string{"honeytokens": {"x"}}, Correlation: correlations.Read}, sigma.Source{FS: rules.FS})
	shipped := map[string]bool{}
	for _, r := range loaded.Rules {
		shipped[r.ID] = true
	}
	if len(shipped) < 100 {
		t.Fatalf("only %d rules are shipped", len(shipped))
	}
	named := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.lang != "yaml" || b.what != "policy" {
				continue
			}
			set, err := decide.Parse([]decide.File{{Name: b.place, Data: []byte(b.body)}})
			if err != nil {
				t.Fatal(err)
			}
			for _, policy := range set.Policies() {
				for _, id := range policy.Rules {
					named++
					shown := slices.ContainsFunc(p.blocks, func(b block) bool { return b.what == "rule" && strings.Contains(b.body, "\nid: "+id+"\n") })
					if !shipped[id] && !shown && !strings.HasPrefix(id, "source:") {
						t.Errorf("%s: policy %s is for rule %q, which is not there", b.place, policy.ID, id)
					}
				}
			}
		}
	}
	if named == 0 {
		t.Error("no policy names a rule")
	}
}

// values splits a JSON block into its values: one, or one a line.
func values(b block) []string {
	if json.Valid([]byte(b.body)) {
		return []string{b.body}
	}
	return strings.Split(strings.TrimSpace(b.body), "\n")
}

func defaultPolicies(t *testing.T) []decide.File {
	t.Helper()
	files, err := decide.ReadFiles(policies.FS)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// runPolicyTests runs the cases on the page's policies, as `policy test` does.
func runPolicyTests(p page, tests block) error {
	fsys := fstest.MapFS{"docs_test.yaml": {Data: []byte(tests.body)}}
	for i, b := range p.blocks {
		if b.lang == "yaml" && b.what == "policy" {
			fsys[fmt.Sprintf("policy%d.yaml", i)] = &fstest.MapFile{Data: []byte(b.body)}
		}
	}
	rep, err := decide.RunTests(fsys)
	if err != nil {
		return err
	}
	if !rep.OK() {
		return errors.New(rep.String())
	}
	return nil
}

func loadRules(b block) error {
	var correlations correlate.Reader
	rules, refused := sigma.Parse(b.place, []byte(b.body), sigma.Options{
		Placeholders: map[string][]string{"billing_ranges": {"10.20.*"}}, Correlation: correlations.Read,
	})
	for _, r := range refused {
		return r
	}
	set, err := sigma.Compile(rules)
	if err != nil {
		return err
	}
	_, refused = correlations.Compile(set, correlate.Options{})
	for _, r := range refused {
		return r
	}
	return nil
}

var (
	envTag  = regexp.MustCompile(`!env (\w+)`)
	fileTag = regexp.MustCompile(`!file (\S+)`)
)

// fill gives the snippet the variables and files that it takes secrets from.
func fill(t *testing.T, dir, body string) {
	t.Helper()
	for _, m := range envTag.FindAllStringSubmatch(body, -1) {
		v := "https://hooks.example.org/services/T0/B0/x"
		switch {
		case strings.Contains(m[1], "WEBHOOK_SECRET"):
			v = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
		case strings.Contains(m[1], "DSN"):
			v = "postgres://staunch@db.example.org/postgres"
		case strings.Contains(m[1], "SECRET"):
			v = "a-secret"
		}
		t.Setenv(m[1], v)
	}
	for _, m := range fileTag.FindAllStringSubmatch(body, -1) {
		if filepath.IsAbs(m[1]) {
			t.Fatalf("a snippet reads the absolute path %s", m[1])
		}
		path := filepath.Join(dir, m[1])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("a-secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// loadConfig reads a whole staunch.yaml, its connectors and channels included.
func loadConfig(t *testing.T, b block) error {
	t.Helper()
	dir := t.TempDir()
	fill(t, dir, b.body)
	cfg, err := config.Parse([]byte(b.body), filepath.Join(dir, "staunch.yaml"))
	if err != nil {
		return err
	}
	var limits decide.Limits
	if err := cfg.Decode(cfg.Limits, &limits); err != nil {
		return err
	}
	limits.Protected = append(limits.Protected, cfg.Protected...)
	if _, err := decide.NewGuardrails(limits); err != nil {
		return err
	}
	factories := map[string]connector.Factory{}
	for _, f := range connectors.Factories() {
		factories[f.Platform] = f
	}
	for _, r := range cfg.Realms {
		f, ok := factories[r.Platform]
		if !ok {
			return fmt.Errorf("realm %s: there is no platform %q", r.Name, r.Platform)
		}
		// The snippet's files are not there, so only the keys are checked.
		into := f.Config()
		if err := cfg.Decode(r.Connector, into); err != nil {
			return err
		}
	}
	for _, s := range cfg.Sources {
		if s.Format == formats.GenericName {
			continue
		}
		if _, err := formats.New(s.Format); err != nil {
			return err
		}
	}
	for i, n := range cfg.Notify {
		_, done, err := notify.Open(notify.Config{
			Name: n.Name, Type: notify.Type(n.Type), URL: n.URL, Secret: n.Secret, MinTier: *n.MinTier, AllowHTTP: n.AllowHTTP,
		}, staunch.SystemClock{})
		if err != nil {
			return fmt.Errorf("notify[%d]: %w", i, err)
		}
		done()
	}
	return nil
}

// generated names what `make generate` writes; scripts/check-generated.sh holds
// it to the code.
func generated(path string) bool {
	for _, g := range []string{"docs/reference/cli", "docs/reference/openapi.yaml", "docs/reference/exit-codes.md"} {
		if path == g || strings.HasPrefix(path, g+"/") {
			return true
		}
	}
	return false
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// slug is the anchor that GitHub gives a heading.
func slug(s string) string {
	s = notSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(s)), "")
	return strings.ReplaceAll(s, " ", "-")
}

// TestLinks follows every link inside the repository.
func TestLinks(t *testing.T) {
	all := pages(t)
	anchors := map[string][]string{}
	for _, p := range all {
		for _, m := range heading.FindAllStringSubmatch(p.text, -1) {
			anchors[p.path] = append(anchors[p.path], slug(m[1]))
		}
	}
	followed := 0
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(p.text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			target, anchor, _ := strings.Cut(m[1], "#")
			path := p.path
			if target != "" {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(p.path), target))
				if generated(path) {
					continue
				}
				if _, err := os.Stat(filepath.Join("..", path)); err != nil {
					t.Errorf("%s links to %s, which is not there", p.path, m[1])
					continue
				}
			}
			followed++
			if anchor != "" && strings.HasSuffix(path, ".md") && anchors[path] != nil && !slices.Contains(anchors[path], anchor) {
				t.Errorf("%s links to %s; %s has no such heading", p.path, m[1], path)
			}
		}
	}
	if followed < 50 {
		t.Errorf("only %d links were followed", followed)
	}
}

// row returns the cells of the table rows of a page whose first cell is code.
func rows(text string) [][]string {
	var out [][]string
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "\x00"), "| "), "|")
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "\x00", "|")
		}
		out = append(out, cells)
	}
	return out
}

func code(cell string) (string, bool) {
	s, ok := strings.CutPrefix(cell, "`")
	s, ok2 := strings.CutSuffix(s, "`")
	return s, ok && ok2 && !strings.Contains(s, "`")
}

// TestConfigurationReference compares the reference with the structs that are
// decoded, key by key, and its literal defaults with what the loader fills in.
func TestConfigurationReference(t *testing.T) {
	cfg, err := config.Parse([]byte(`
v: 1
realms: [{name: r, platform: p}]
sources: [{name: s, format: json, realm: r, tail: {path: f}}]
guard: {subjects: [{type: t, kind: account, realm: r, scheme: x}]}
notify: [{name: n, type: slack, url: u}]
drills: [{name: d, canary: "account:r:x:y", source: s, record: "{{id}}"}]
tls: {cert: c, key: k}
audit: {transparency_log: {url: "https://x", key: MCowBQYDK2VwAyEAt8rlp1knGwjfbcXAYPYAkn0XiLz1x8O4t0YkEhie244=}}
`), "staunch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	flatten(have, "", reflect.ValueOf(cfg).Elem())
	flatten(have, "limits.", reflect.ValueOf(decide.DefaultLimits()))
	delete(have, "limits")
	// Package decide fills these in.
	have["suspicion.half_life"] = (decide.Params{}.Horizon() / 10).String()
	have["url"] = config.DefaultListen // depends on tls
	text, err := os.ReadFile("reference/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented, compared := map[string]bool{}, 0
	for _, cells := range rows(string(text)) {
		key, _ := code(cells[0])
		if documented[key] {
			t.Errorf("%s stands twice", key)
		}
		documented[key] = true
		want, ok := have[key]
		if !ok {
			t.Errorf("%s is documented, and there is no such key", key)
			continue
		}
		if said, literal := code(cells[1]); literal && !slices.Contains([]string{"suspicion.roll_up", "url"}, key) {
			compared++
			a, err1 := time.ParseDuration(said)
			b, err2 := time.ParseDuration(want)
			if said != want && (err1 != nil || err2 != nil || a != b) {
				t.Errorf("%s: the default is said to be %s, and it is %s", key, said, want)
			}
		}
	}
	for key := range have {
		if !documented[key] {
			t.Errorf("%s is not documented", key)
		}
	}
	if compared < 30 {
		t.Errorf("only %d defaults were compared", compared)
	}
}

// flatten lists the keys of a configuration struct with their values as text.
func flatten(out map[string]string, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || !f.IsExported() {
			continue
		}
		x := v.Field(i)
		if x.Kind() == reflect.Pointer && !x.IsNil() {
			x = x.Elem()
		}
		key := prefix + name
		_, isNode := x.Interface().(yaml.Node)
		_, isSecret := x.Interface().(staunch.Secret)
		_, isRef := x.Interface().(staunch.Ref)
		switch {
		case x.Kind() == reflect.Struct && !isNode && !isSecret && !isRef:
			flatten(out, key+".", x)
		case x.Kind() == reflect.Slice && x.Type().Elem().Kind() == reflect.Struct && x.Len() > 0:
			flatten(out, key+"[].", x.Index(0))
		case isNode || isSecret:
			out[key] = ""
		default:
			if m, ok := x.Interface().(interface{ MarshalText() ([]byte, error) }); ok && x.Kind() != reflect.Pointer {
				b, err := m.MarshalText()
				if err != nil {
					b = []byte(err.Error())
				}
				out[key] = string(b)
				continue
			}
			out[key] = fmt.Sprint(x.Interface())
		}
	}
}

// TestRightsTable compares the table of roles with the one that Authorize
// follows.
func TestRightsTable(t *testing.T) {
	text, err := os.ReadFile("guides/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(text), "\n## Tokens and roles\n")
	if !ok {
		t.Fatal("operating.md has no heading \"Tokens and roles\"")
	}
	part, _, _ = strings.Cut(part, "\n## ")
	said := map[string]string{}
	for _, cells := range rows(part) {
		verb, _ := code(cells[0])
		if len(cells) > 2 {
			said[verb] = cells[2]
		}
	}
	for _, r := range auth.Rights() {
		names := make([]string, 0, len(r.Roles))
		for _, role := range r.Roles {
			names = append(names, string(role))
		}
		if want := strings.Join(names, ", "); said[string(r.Verb)] != want {
			t.Errorf("%s: the table says %q, the code %q", r.Verb, said[string(r.Verb)], want)
		}
		delete(said, string(r.Verb))
	}
	if len(said) > 0 {
		t.Errorf("the table has verbs that are not there: %v", said)
	}
}

var (
	inline   = regexp.MustCompile("`(staunch [a-z][^`]*)`")
	inShell  = regexp.MustCompile(`^\w+=\$\((staunch [^)]*)\)$`)
	redirect = regexp.MustCompile(` (<|>|>>|\|) `)
)

// TestCommandLines parses every command line that is shown with the real
// commands and flags, and runs none.
func TestCommandLines(t *testing.T) {
	found := 0
	for _, p := range pages(t) {
		type line struct{ place, text string }
		var lines []line
		for _, b := range p.blocks {
			if b.lang != "sh" {
				continue
			}
			for l := range strings.Lines(b.body) {
				lines = append(lines, line{b.place, strings.TrimSpace(l)})
			}
		}
		for _, m := range inline.FindAllStringSubmatch(p.text, -1) {
			lines = append(lines, line{p.path, m[1]})
		}
		for _, l := range lines {
			if m := inShell.FindStringSubmatch(l.text); m != nil {
				l.text = m[1]
			}
			words, ok := strings.CutPrefix(l.text, "staunch ")
			if !ok {
				continue
			}
			found++
			words = redirect.Split(words, 2)[0]
			if err := parses(shellWords(words), strings.Contains(l.text, "`") || l.place == p.path); err != nil {
				t.Errorf("%s: %s: %v", l.place, l.text, err)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d command lines were found", found)
	}
}

// TestExamplesParse parses the examples that --help shows.
func TestExamplesParse(t *testing.T) {
	found := 0
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for l := range strings.Lines(c.Example) {
			words, ok := strings.CutPrefix(strings.TrimSpace(l), "staunch ")
			if !ok {
				continue
			}
			found++
			if err := parses(shellWords(redirect.Split(words, 2)[0]), false); err != nil {
				t.Errorf("%s: %s: %v", c.CommandPath(), strings.TrimSpace(l), err)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(cli.Root())
	if found < 60 {
		t.Errorf("only %d examples were found", found)
	}
}

// parses reports why a command line would be refused. In running text arguments
// may be left out.
func parses(words []string, prose bool) error {
	root := cli.Root()
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	if cmd == root {
		return errors.New("there is no such command")
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	args := cmd.Flags().Args()
	if cmd.HasSubCommands() && len(args) > 0 && !strings.Contains(cmd.Use, " ") { // it takes none itself
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
	}
	if prose {
		return nil
	}
	if err := cmd.ValidateRequiredFlags(); err != nil {
		return err
	}
	return cmd.ValidateArgs(args)
}

// shellWords splits a line at blanks outside of double quotes.
func shellWords(s string) []string {
	var out []string
	var w strings.Builder
	quoted, any := false, false
	for _, r := range s {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				out = append(out, w.String())
				w.Reset()
				any = false
			}
		default:
			w.WriteRune(r)
			any = true
		}
	}
	if any {
		out = append(out, w.String())
	}
	return out
}

var testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")

// TestNamedTests looks for every test that a page names as evidence.
func TestNamedTests(t *testing.T) {
	have := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() != ".." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range decl.FindAllSubmatch(b, -1) {
			have[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, p := range pages(t) {
		for _, m := range testName.FindAllStringSubmatch(p.text, -1) {
			named++
			if !have[m[1]] {
				t.Errorf("%s names %s, which is not there", p.path, m[1])
			}
		}
	}
	if named < 50 {
		t.Errorf("only %d tests are named", named)
	}
}

// TestSupportTable holds the support table to the formats and connectors.
func TestSupportTable(t *testing.T) {
	names, err := formats.Names()
	if err != nil {
		t.Fatal(err)
	}
	want := append(slices.Clone(names), formats.GenericName)
	for _, f := range connectors.Factories() {
		want = append(want, "connector "+f.Platform)
	}
	b, err := os.ReadFile("support.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	kind := ""
	for _, line := range strings.Split(string(b), "\n") {
		switch {
		case strings.HasPrefix(line, "## Connectors"):
			kind = "connector "
		case strings.HasPrefix(line, "## "):
			kind = ""
		}
		for _, cells := range rows(line) {
			name, _ := code(cells[0])
			got = append(got, kind+name)
			if !slices.Contains([]string{"live-tested", "schema-tested", "untested", "tested"}, strings.TrimSuffix(cells[1], "*")) {
				t.Errorf("%s: %q is no status", name, cells[1])
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("the table has %v, the code %v", got, want)
	}
}

// TestGettingStarted does what guides/getting-started.md says, with its own
// files: in shadow mode a record leads to a decision and to nothing else.
func TestGettingStarted(t *testing.T) {
	dir := t.TempDir()
	var record string
	for _, p := range pages(t) {
		if p.path != "docs/guides/getting-started.md" {
			continue
		}
		for _, b := range p.blocks {
			if b.what == "record" && record == "" {
				record = strings.TrimSpace(b.body)
			}
			name := b.name
			if b.what == "staunch.yaml" {
				name = b.what
			}
			if b.lang != "yaml" || name == "" {
				continue
			}
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err == nil {
				continue // the first is the one to begin with
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(b.body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := app.Init(t.Context(), cfg, "admin")
	if err != nil {
		t.Fatal(err)
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(t.Context(), setup, app.Options{Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	}()
	source, _, err := app.MakeToken(t.Context(), a.Store(), store.Token{Name: "gateway", Role: "source", Source: "gateway"}, "test")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	call := func(method, path string, token staunch.Secret, body string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, bytes.NewBufferString(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token.Reveal())
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s %v %s", method, path, resp.Status, err, b)
		}
		return b
	}
	record = strings.ReplaceAll(record, "2026-01-02T03:04:05Z", time.Now().UTC().Format(time.RFC3339))
	var rep struct {
		Accepted, Matched, Signals int
	}
	if err := json.Unmarshal(call("POST", "/v1/ingest/gateway", source, record), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Accepted != 1 || rep.Matched != 1 || rep.Signals != 1 {
		t.Errorf("the report is %+v", rep)
	}
	var decisions struct {
		Items []staunch.Decision `json:"items"`
	}
	if err := json.Unmarshal(call("GET", "/v1/decisions", admin, ""), &decisions); err != nil {
		t.Fatal(err)
	}
	if len(decisions.Items) != 1 || decisions.Items[0].Verdict != staunch.VerdictShadow || decisions.Items[0].Tier != staunch.TierIsolate {
		t.Errorf("the decisions are %+v", decisions.Items)
	}
	var cases struct {
		Items []staunch.Containment `json:"items"`
	}
	if err := json.Unmarshal(call("GET", "/v1/containments", admin, ""), &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases.Items) != 0 {
		t.Errorf("shadow mode contained: %+v", cases.Items)
	}
}
