// Package arch holds the direction of imports: staunch ← contracts ← rooms ←
// app ← cli ← cmd. It has tests only. The same rules, as far as depguard can
// say them, stand in .golangci.yml; what differs is decided here.
package arch_test

import (
	"errors"
	"fmt"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/staunch-project/staunch"

// rule says what the packages that it is for may import of this module. A
// package always may import the packages below its own directory and those
// that it lies below: rooms arrange themselves as they like.
//
// Patterns are paths within the module: "internal/detect" is one package,
// "internal/detect/..." that and all below, "internal/format/*" every package
// right below; "." is the root package.
type rule struct {
	pkgs []string // the first rule with a matching pattern counts
	may  []string
	// alone: packages below and above are not the package's own.
	alone bool
	// stdOnly: nothing but the standard library beside what it may import.
	stdOnly bool
	// beside are packages from elsewhere that stdOnly lets in.
	beside []string
	why    string
}

// contracts may be imported by every room, and by each other.
var contracts = []string{
	".", "internal/store", "internal/seal", "internal/record", "internal/auth",
	"internal/format", "internal/format/jsondoc", "internal/connector", "internal/crashpoint",
	"internal/strictyaml", "internal/outbound",
}

// rooms do not import each other.
var rooms = []string{
	"internal/ingest", "internal/detect", "internal/inventory", "internal/decide", "internal/contain",
	"internal/guard", "internal/notify", "internal/retain", "internal/api", "internal/config", "internal/demo", "internal/sim",
}

func below(dirs []string) []string {
	out := make([]string, len(dirs))
	for i, d := range dirs {
		out[i] = d + "/..."
	}
	return out
}

func with(sets ...[]string) []string { return slices.Concat(sets...) }

var (
	registries = []string{"internal/format/registry", "internal/connector/registry"}
	// machinery is shared by the implementations of a contract, and put
	// together by app and cli.
	machinery = []string{"internal/format/mapping/...", "internal/connector/wrap/..."}
	packs     = []string{"rules/...", "policies/...", "web/..."}
	// helpers are for tests; what ships does not import them.
	helpers = []string{
		"internal/format/formattest", "internal/connector/connectortest", "internal/store/storetest", "internal/store/memory", "internal/contain/containtest", "internal/record/rekor/fakelog", "test/...",
	}
)

var rules = []rule{
	{pkgs: []string{"."}, alone: true, stdOnly: true,
		why: "the domain words know nothing of how they are stored, sent or shown"},
	{pkgs: []string{"cmd/staunch"}, may: []string{"internal/cli"}, alone: true,
		why: "main handles signals and exit codes, the rest is cli's"},

	{pkgs: helpers, may: []string{"..."}, why: "test helpers may use what they test"},
	{pkgs: []string{"internal/arch", "internal/gen/...", "scripts/..."}, stdOnly: true, why: "tools of the build work before anything compiles"},
	{pkgs: []string{"rules/...", "policies/...", "web/..."}, stdOnly: true, why: "packs are data that is embedded"},
	{pkgs: []string{"internal/crashpoint"}, alone: true, stdOnly: true, why: "a mark in the code must bring nothing with it"},
	{pkgs: []string{"internal/outbound"}, may: []string{"."}, alone: true, stdOnly: true,
		why: "the rules for requests to the outside are for whoever makes one, so they know none of them"},
	{pkgs: []string{"internal/strictyaml"}, may: []string{"."}, alone: true, stdOnly: true, beside: []string{"go.yaml.in/yaml/v4"},
		why: "whoever reads a file may decode it with this, so it knows none of them"},

	{pkgs: []string{"internal/format/registry/...", "internal/connector/registry/..."},
		may: with(contracts, []string{"internal/format/...", "internal/connector/..."}), alone: true,
		why: "the generated registry is the one place that names formats and connectors"},
	{pkgs: []string{"internal/store/sql/..."}, may: contracts,
		why: "a store implements the contract and knows no room"},
	{pkgs: with(machinery, []string{"internal/connector/rest/..."}), may: contracts,
		why: "the mapping language, the wrappers and the HTTP client know the contract, not who uses them"},
	{pkgs: contracts[1:], may: contracts, alone: true,
		why: "contracts are what rooms share, so they know no room and no implementation"},
	{pkgs: []string{"internal/format/*/..."}, may: with(contracts, []string{"internal/format/mapping"}),
		why: "a format is one folder that knows the contracts and the mapping language alone"},
	{pkgs: []string{"internal/connector/*/..."}, may: with(contracts, []string{"internal/connector/rest"}),
		why: "a connector is one folder that knows the contracts and the HTTP client alone"},
	{pkgs: []string{"internal/store/*/...", "internal/seal/...", "internal/record/...", "internal/auth/..."}, may: contracts,
		why: "parts of a contract know no room"},

	{pkgs: []string{"internal/ingest/pipeline/..."},
		may: with(contracts, below([]string{
			"internal/ingest", "internal/detect", "internal/inventory", "internal/decide", "internal/contain", "internal/guard",
		})),
		why: "the pipeline joins the rooms that a record goes through"},
	{pkgs: []string{"internal/ingest/..."}, may: contracts, why: "rooms do not import each other"},
	{pkgs: []string{"internal/demo/..."},
		may: with(contracts, registries, []string{"internal/format/*/...", "internal/connector/*/..."}, packs),
		why: "the demo is an estate around the engine; cli starts both"},
	{pkgs: []string{"internal/api/..."}, may: with(contracts, []string{"internal/config/..."}),
		why: "rooms do not import each other; the API may read the configuration"},
	{pkgs: below(rooms), may: contracts, why: "rooms do not import each other; the pipeline and app join them"},

	{pkgs: []string{"internal/app/..."},
		may: with(contracts, below(rooms), registries, machinery, packs, []string{"internal/store/sql/...", "internal/record/rekor"}),
		why: "app wires everything, and is not wired by cli or cmd in turn"},
	{pkgs: []string{"internal/cli/..."},
		may: with(contracts, below(rooms), registries, machinery, packs, []string{"internal/app/...", "internal/store/sql/..."}),
		why: "cli starts app and runs rooms offline; formats and connectors it finds in the registries"},
}

func matches(pattern, pkg string) bool {
	if pattern == "..." {
		return true
	}
	p, deep := strings.CutSuffix(pattern, "/...")
	want, got := strings.Split(p, "/"), strings.Split(pkg, "/")
	if len(got) < len(want) || len(got) > len(want) && !deep {
		return false
	}
	for i, w := range want {
		if w != "*" && w != got[i] {
			return false
		}
	}
	return true
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
}

// edge is one import: both ends are paths within the module, or the whole path
// of a package outside of it.
type edge struct {
	from, to string
	inside   bool
	file     string
}

// check returns what is wrong with an import, "" for nothing.
func check(e edge) string {
	i := slices.IndexFunc(rules, func(r rule) bool { return matchesAny(r.pkgs, e.from) })
	if i < 0 {
		return fmt.Sprintf("package %s has no rule yet: add it to the table in internal/arch", e.from)
	}
	r := rules[i]
	switch {
	case !e.inside && r.stdOnly && strings.Contains(strings.Split(e.to, "/")[0], ".") && !slices.Contains(r.beside, e.to):
		return fmt.Sprintf("%s imports %s, but only the standard library may be there: %s", e.from, e.to, r.why)
	case !e.inside:
		return ""
	case e.from == e.to || matchesAny(r.may, e.to):
		// A wildcard for implementations does not open the test helpers.
		if matchesAny(helpers, e.to) && !matchesAny(helpers, e.from) {
			return fmt.Sprintf("%s imports %s, which is for tests", e.from, e.to)
		}
		return ""
	case !r.alone && !matchesAny(helpers, e.to) && related(e.from, e.to):
		return ""
	}
	return fmt.Sprintf("%s imports %s: %s", e.from, e.to, r.why)
}

// related says whether both packages lie in one room, format, connector or
// other folder that has a rule of its own.
func related(a, b string) bool {
	ha, hb := home(a), home(b)
	return ha == hb && ha != ""
}

// home is the folder whose packages arrange themselves as they like.
func home(pkg string) string {
	parts := strings.Split(pkg, "/")
	n := 2
	if matches("internal/format/*/...", pkg) || matches("internal/connector/*/...", pkg) ||
		matches("internal/store/*/...", pkg) || matches("internal/ingest/pipeline/...", pkg) {
		n = 3
	}
	if len(parts) < n {
		return ""
	}
	return path.Join(parts[:n]...)
}

// imports reads the imports of every file that is not a test, whatever its
// build constraints, so that no tag hides one. Files that the build ignores
// are left out. It reads files itself rather than asking the go command, which
// also tells go test when a cached result is out of date.
func imports(root string) ([]edge, error) {
	var edges []edge
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(root, file, d.Name())
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return fmt.Errorf("reading imports: %w", err)
		}
		for _, group := range f.Comments {
			for _, c := range group.List {
				if expr, err := constraint.Parse(c.Text); err == nil && expr.String() == "ignore" {
					return nil
				}
			}
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return fmt.Errorf("reading imports: %w", err)
		}
		for _, s := range f.Imports {
			to, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return fmt.Errorf("reading imports of %s: %w", file, err)
			}
			e := edge{from: filepath.ToSlash(dir), to: to, file: fset.Position(s.Pos()).String()}
			if to == module {
				e.to, e.inside = ".", true
			} else if rest, ok := strings.CutPrefix(to, module+"/"); ok {
				e.to, e.inside = rest, true
			}
			edges = append(edges, e)
		}
		return nil
	})
	return edges, err
}

func skipDir(root, dir, name string) error {
	if dir == root {
		return nil
	}
	if name == "testdata" || name == "node_modules" || name == "bin" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir // another module
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	edges, err := imports("../..")
	if err != nil {
		t.Fatal(err)
	}
	froms := map[string]bool{}
	for _, e := range edges {
		froms[e.from] = true
		if wrong := check(e); wrong != "" {
			t.Errorf("%s: %s", e.file, wrong)
		}
	}
	if !froms["."] || len(edges) < 10 {
		t.Fatalf("only %d imports were read; does the test look at the right place?", len(edges))
	}
}

// TestForbiddenEdgesAreSeen holds the table itself: each of these must be
// refused, and each of the allowed ones must not.
func TestForbiddenEdgesAreSeen(t *testing.T) {
	t.Parallel()
	forbidden := map[string][]string{
		".":                   {"internal/store", "internal/seal", "golang.org/x/time/rate"},
		"cmd/staunch":         {".", "internal/app", "internal/store/sql", "internal/detect"},
		"internal/crashpoint": {".", "internal/store"},
		"internal/outbound":   {"internal/notify", "golang.org/x/time/rate"},
		"internal/strictyaml": {"internal/store", "internal/config", "github.com/google/cel-go/cel"},
		"internal/seal":       {"internal/detect", "internal/store/sql", "internal/app", "internal/config"},
		"internal/store": {
			"internal/store/sql", "internal/store/storetest", "internal/contain",
		},
		"internal/store/sql":       {"internal/contain", "internal/store/storetest", "internal/app"},
		"internal/format":          {"internal/format/vault", "internal/format/registry", "internal/format/formattest"},
		"internal/format/vault":    {"internal/format/okta", "internal/connector/vault", "internal/format/registry", "internal/detect", "internal/format/formattest"},
		"internal/format/mapping":  {"internal/format/vault", "internal/detect"},
		"internal/connector/vault": {"internal/connector/oauth2", "internal/connector/wrap", "internal/contain", "internal/connector/connectortest"},
		"internal/connector/wrap":  {"internal/connector/vault", "internal/contain"},
		"internal/connector/rest":  {"internal/connector/vault", "internal/connector/wrap", "internal/notify"},
		"internal/detect":          {"internal/decide", "internal/format/vault", "internal/format/mapping", "internal/store/sql", "internal/app", "internal/config", "internal/format/registry"},
		"internal/detect/sigma":    {"internal/inventory", "internal/ingest/pipeline"},
		"internal/contain":         {"internal/connector/vault", "internal/connector/registry", "internal/notify", "test/systems/pgtest"},
		"internal/ingest":          {"internal/detect", "internal/ingest/pipeline", "internal/format/registry"},
		"internal/ingest/tail":     {"internal/decide"},
		"internal/ingest/pipeline": {"internal/api", "internal/store/sql", "internal/format/vault", "internal/app", "internal/demo"},
		"internal/config":          {"internal/decide", "internal/app"},
		"internal/api":             {"internal/contain", "internal/app", "internal/cli"},
		"internal/demo":            {"internal/app", "internal/contain", "internal/store/sql", "internal/format/formattest"},
		"internal/sim":             {"internal/contain", "internal/app"},
		"internal/app":             {"internal/cli", "internal/format/vault", "internal/connector/vault", "internal/store/storetest"},
		"internal/cli":             {"internal/format/vault", "internal/connector/vault", "internal/connector/rest", "cmd/staunch", "test/systems/pgtest"},
		"internal/format/registry": {"internal/detect", "internal/app", "internal/format/formattest"},
		"internal/unheard-of":      {"."},
		"rules":                    {"internal/detect", "example.org/other"},
	}
	allowed := map[string][]string{
		".":                        {"time", "crypto/sha256"},
		"cmd/staunch":              {"internal/cli", "os"},
		"internal/record":          {".", "internal/store", "internal/seal", "crypto/hmac"},
		"internal/strictyaml":      {".", "strings", "go.yaml.in/yaml/v4"},
		"internal/decide":          {"internal/strictyaml"},
		"internal/record/rekor":    {".", "internal/record", "internal/outbound"},
		"internal/notify":          {"internal/outbound"},
		"internal/store/sql":       {".", "internal/store", "internal/store/sql/migrations", "github.com/jackc/pgx/v5"},
		"internal/store/storetest": {"internal/store", ".", "testing"},
		"internal/format":          {".", "internal/format/jsondoc"},
		"internal/format/vault":    {".", "internal/format", "internal/format/jsondoc", "internal/format/mapping", "internal/format/vault/inner"},
		"internal/connector/vault": {".", "internal/connector", "internal/connector/rest", "internal/seal"},
		"internal/format/registry": {"internal/format", "internal/format/vault"},
		"internal/detect":          {".", "internal/store", "internal/format", "internal/detect/sigma"},
		"internal/detect/sigma":    {"internal/detect", "internal/format/jsondoc", "internal/detect/sigma/match"},
		"internal/ingest":          {"internal/format", "internal/ingest/tail"},
		"internal/ingest/pipeline": {"internal/ingest", "internal/detect/sigma", "internal/decide", "internal/guard", "internal/store"},
		"internal/api":             {"internal/config", "internal/auth", "internal/api/console"},
		"internal/demo":            {"internal/format/vault", "internal/connector/oauth2", "internal/format/registry", "rules"},
		"internal/app":             {"internal/ingest/pipeline", "internal/store/sql", "internal/connector/registry", "internal/config", "policies"},
		"internal/cli":             {"internal/app", "internal/demo", "internal/detect/sigma", "internal/store/sql", "internal/format/registry", "internal/format/mapping", "internal/connector/wrap"},
		"test/systems/pgtest":      {"test/systems/internal/proc", "github.com/jackc/pgx/v5"},
	}
	for want, table := range map[bool]map[string][]string{true: forbidden, false: allowed} {
		for from, tos := range table {
			for _, to := range tos {
				inside := to == "." || slices.Contains([]string{"internal", "cmd", "test", "rules", "policies", "scripts"}, strings.Split(to, "/")[0])
				if wrong := check(edge{from: from, to: to, inside: inside}); (wrong != "") != want {
					t.Errorf("%s → %s: refused = %v (%s), want %v", from, to, wrong != "", wrong, want)
				}
			}
		}
	}
}

// TestForbiddenImportInAFileIsSeen goes the whole way from a file to the
// complaint.
func TestForbiddenImportInAFileIsSeen(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bad := "import _ \"" + module + "/internal/decide\"\n"
	write("internal/detect/a.go", "package detect\n\n"+bad)
	write("internal/detect/tagged.go", "//go:build sometimes\n\npackage detect\n\n"+bad)
	write("internal/detect/gen.go", "//go:build ignore\n\npackage main\n\n"+bad)
	write("internal/detect/a_test.go", "package detect\n\n"+bad)
	write("internal/detect/testdata/b.go", "package b\n\n"+bad)
	write("other/go.mod", "module other\n")
	write("other/c.go", "package other\n\n"+bad)
	edges, err := imports(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range edges {
		if check(e) != "" {
			got = append(got, filepath.Base(strings.Split(e.file, ":")[0]))
		}
	}
	slices.Sort(got)
	if want := []string{"a.go", "tagged.go"}; !slices.Equal(got, want) {
		t.Errorf("complaints about %v, want %v", got, want)
	}
}
