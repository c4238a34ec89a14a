package ocsf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/mod/semver"
)

// Schema is a loaded OCSF schema. It is safe for concurrent use.
type Schema struct {
	version string
	core    *part
	exts    []*part // sorted by name

	mu sync.Mutex
	// compiled holds one entry for each set of extensions seen so far, by
	// comma-joined name. Only the schema's own extensions count, so there are
	// never more than their subsets.
	compiled map[string]*compiled
}

// Load reads the uncompiled schema in dir and compiles it with all of its
// extensions and with none. The error names the file, class or object at fault.
func Load(dir string) (*Schema, error) {
	s, err := loadFS(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("loading OCSF schema from %s: %w", dir, err)
	}
	return s, nil
}

func loadFS(fsys fs.FS) (*Schema, error) {
	r := reader{fsys: fsys}
	var v struct {
		Version string `json:"version"`
	}
	if err := r.readJSON("version.json", &v); err != nil {
		return nil, err
	}
	if !fullSemver(v.Version) {
		return nil, fmt.Errorf("version.json: %q is not a semantic version", v.Version)
	}
	core, err := r.readPart(".", "", 0)
	if err != nil {
		return nil, fmt.Errorf("reading core: %w", err)
	}
	s := &Schema{version: v.Version, core: core, compiled: map[string]*compiled{}}
	dirs, err := fs.ReadDir(fsys, "extensions")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing extensions: %w", err)
	}
	for _, d := range dirs {
		dir := path.Join("extensions", d.Name())
		if !d.IsDir() || !r.exists(path.Join(dir, "extension.json")) {
			continue
		}
		var e struct {
			Name string `json:"name"`
			UID  int    `json:"uid"`
		}
		if err := r.readJSON(path.Join(dir, "extension.json"), &e); err != nil {
			return nil, err
		}
		p, err := r.readPart(dir, e.Name, e.UID)
		if err != nil {
			return nil, fmt.Errorf("reading extension %s: %w", e.Name, err)
		}
		s.exts = append(s.exts, p)
	}
	slices.SortFunc(s.exts, func(a, b *part) int { return strings.Compare(a.name, b.name) })
	for _, exts := range [][]*part{nil, s.exts} {
		if _, err := s.with(exts); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Version returns the schema's version, such as 1.5.0 or 1.9.0-dev.
func (s *Schema) Version() string { return s.version }

// with returns the core compiled with exts, which are sorted by name.
func (s *Schema) with(exts []*part) (*compiled, error) {
	names := make([]string, len(exts))
	for i, p := range exts {
		names[i] = p.name
	}
	key := strings.Join(names, ",")
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.compiled[key]; ok {
		return c, nil
	}
	c, err := compile(s.core, exts)
	if err != nil {
		return nil, fmt.Errorf("compiling with extensions [%s]: %w", key, err)
	}
	s.compiled[key] = c
	return c, nil
}

// fullSemver reports whether v is a semantic version with all three numbers.
func fullSemver(v string) bool {
	return semver.IsValid("v"+v) && semver.Canonical("v"+v)+semver.Build("v"+v) == "v"+v
}
