// Command registry writes the file that lists the implementations of a
// contract, so that a new one is a folder and nothing has to be edited by hand.
//
// It looks into the folders right below the contract's for an exported function
// without parameters that returns the contract's type, alone or with an error,
// and writes registry.go into the present folder:
//
//	//go:generate go run ../../gen/registry -contract .. -func Factory -type Factory -list Factories
//
// lists every Factory() connector.Factory as Factories(). With -check it
// compares instead of writing, and fails where the file is out of step.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// output is the file that is written.
const output = "registry.go"

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

type options struct {
	contract, fn, typ, list string
	check                   bool
}

func run(args []string, stderr io.Writer) error {
	var o options
	var dir string
	fl := flag.NewFlagSet("registry", flag.ContinueOnError)
	fl.SetOutput(stderr)
	fl.StringVar(&o.contract, "contract", "..", "the contract's folder, whose subfolders are looked into")
	fl.StringVar(&o.fn, "func", "", "the function's name")
	fl.StringVar(&o.typ, "type", "", "the contract's type that it returns")
	fl.StringVar(&o.list, "list", "", "the name of the function to write")
	fl.StringVar(&dir, "out", ".", "the folder of the file to write")
	fl.BoolVar(&o.check, "check", false, "fail instead of writing when the file is out of step")
	if err := fl.Parse(args); err != nil {
		return err
	}
	for name, v := range map[string]string{"func": o.fn, "type": o.typ, "list": o.list} {
		if !token.IsIdentifier(v) || !token.IsExported(v) {
			return fmt.Errorf("-%s %q is not an exported name", name, v)
		}
	}
	src, err := generate(dir, o)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, output)
	if o.check {
		have, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading what was generated: %w", err)
		}
		if !bytes.Equal(have, src) {
			return fmt.Errorf("%s is out of step: run make generate", file)
		}
		return nil
	}
	if err := os.WriteFile(file, src, 0o644); err != nil {
		return fmt.Errorf("writing the registry: %w", err)
	}
	return nil
}

// implementation is one folder that has the function.
type implementation struct {
	path, pkg string
	withError bool
}

func generate(dir string, o options) ([]byte, error) {
	contractDir := o.contract
	if !filepath.IsAbs(contractDir) {
		contractDir = filepath.Join(dir, contractDir)
	}
	contractPath, err := importPath(contractDir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(contractDir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("looking for implementations: %w", err)
	}
	var impls []implementation
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "_") || e.Name() == "testdata" {
			continue
		}
		i, ok, err := look(filepath.Join(contractDir, e.Name()), contractPath, o)
		if err != nil {
			return nil, err
		}
		if ok {
			i.path = path.Join(contractPath, e.Name())
			impls = append(impls, i)
		}
	}
	if len(impls) == 0 {
		return nil, fmt.Errorf("no folder below %s has a func %s() %s.%s", contractDir, o.fn, path.Base(contractPath), o.typ)
	}
	return write(impls, contractPath, o)
}

// look finds the function in a folder's files, tests left out.
func look(dir, contract string, o options) (implementation, bool, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return implementation{}, false, fmt.Errorf("listing %s: %w", dir, err)
	}
	slices.Sort(files)
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			return implementation{}, false, fmt.Errorf("parsing: %w", err) // names file and line
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != o.fn || fn.Type.TypeParams != nil || fn.Type.Params.NumFields() > 0 {
				continue
			}
			if withError, ok := returns(file, fn.Type.Results, contract, o.typ); ok {
				return implementation{pkg: file.Name.Name, withError: withError}, true, nil
			}
		}
	}
	return implementation{}, false, nil
}

// returns reports whether the results are the contract's type, alone or with
// an error.
func returns(file *ast.File, results *ast.FieldList, contract, typ string) (withError, ok bool) {
	n := results.NumFields()
	if n < 1 || n > 2 || len(results.List) != n {
		return false, false
	}
	sel, ok := results.List[0].Type.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != typ {
		return false, false
	}
	pkg, ok := sel.X.(*ast.Ident)
	if !ok {
		return false, false
	}
	if n == 2 {
		e, ok := results.List[1].Type.(*ast.Ident)
		if !ok || e.Name != "error" {
			return false, false
		}
	}
	for _, im := range file.Imports {
		p, err := strconv.Unquote(im.Path.Value)
		if err != nil || p != contract {
			continue
		}
		name := path.Base(p)
		if im.Name != nil {
			name = im.Name.Name
		}
		if name == pkg.Name {
			return n == 2, true
		}
	}
	return false, false
}

// importPath returns the import path of a folder, by the go.mod above it.
func importPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", dir, err)
	}
	for root := abs; ; root = filepath.Dir(root) {
		b, err := os.ReadFile(filepath.Join(root, "go.mod"))
		if errors.Is(err, fs.ErrNotExist) {
			if root == filepath.Dir(root) {
				return "", fmt.Errorf("no go.mod above %s", abs)
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("reading go.mod: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) >= 2 && f[0] == "module" {
				rel, err := filepath.Rel(root, abs)
				if err != nil {
					return "", fmt.Errorf("finding %s in its module: %w", dir, err)
				}
				return path.Join(strings.Trim(f[1], `"`), filepath.ToSlash(rel)), nil
			}
		}
		return "", fmt.Errorf("%s names no module", filepath.Join(root, "go.mod"))
	}
}

func write(impls []implementation, contract string, o options) ([]byte, error) {
	base := path.Base(contract)
	typ := base + "." + o.typ
	withError := slices.ContainsFunc(impls, func(i implementation) bool { return i.withError })
	var b bytes.Buffer
	b.WriteString("// Code generated by internal/gen/registry; DO NOT EDIT.\n\npackage registry\n\nimport (\n")
	if withError {
		b.WriteString("\"fmt\"\n\n")
	}
	fmt.Fprintf(&b, "%q\n", contract)
	names := map[string]string{base: contract, "fmt": "fmt"}
	for i, im := range impls {
		name := im.pkg
		for n := 2; names[name] != ""; n++ {
			name = im.pkg + strconv.Itoa(n)
		}
		names[name] = im.path
		if name != path.Base(im.path) {
			b.WriteString(name + " ")
		}
		fmt.Fprintf(&b, "%q\n", im.path)
		impls[i].pkg = name
	}
	b.WriteString(")\n\n")
	if !withError {
		fmt.Fprintf(&b, "// %s returns what every implementation of the contract in %s gives, by folder.\nfunc %s() []%s {\nreturn []%s{\n", o.list, base, o.list, typ, typ)
		for _, im := range impls {
			fmt.Fprintf(&b, "%s.%s(),\n", im.pkg, o.fn)
		}
		b.WriteString("}\n}\n")
	} else {
		fmt.Fprintf(&b, `// %s returns what every implementation of the contract in %s gives, by folder.
// The error names the folder that could not.
func %s() ([]%s, error) {
var out []%s
for _, one := range []struct {
folder string
make func() (%s, error)
}{
`, o.list, base, o.list, typ, typ, typ)
		for _, im := range impls {
			call := im.pkg + "." + o.fn
			if !im.withError {
				call = "func() (" + typ + ", error) { return " + call + "(), nil }"
			}
			fmt.Fprintf(&b, "{%q, %s},\n", path.Base(im.path), call)
		}
		b.WriteString("} {\nv, err := one.make()\nif err != nil {\nreturn nil, fmt.Errorf(\"%s: %w\", one.folder, err)\n}\nout = append(out, v)\n}\nreturn out, nil\n}\n")
	}
	src, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("formatting what was generated: %w", err)
	}
	return src, nil
}
