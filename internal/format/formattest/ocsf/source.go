package ocsf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// maxSourceFile bounds one schema file, in bytes. The largest real one, the
// dictionary, is about 300 KiB.
const maxSourceFile = 8 << 20

// includeKey is the attribute name that pulls in attributes of another file.
const includeKey = "$include"

// attrSource is an attribute as written in a class, object, profile or
// dictionary file. Empty fields were not written there.
type attrSource struct {
	Caption     string
	Requirement string
	Type        string
	IsArray     *bool
	Enum        map[string]enumSource
	Sibling     string
	Observable  *int
	// Profiles names the profiles the attribute belongs to. The schema tells
	// "not said" (hasProfiles false) from "explicitly none" (empty list): the
	// latter frees an attribute that a parent took from a profile.
	Profiles    []string
	hasProfiles bool
	// ext is the extension the attribute was written in, or empty for core.
	ext string
}

type enumSource struct {
	Caption string `json:"caption"`
}

// itemSource is a class, object or profile as written in one file.
type itemSource struct {
	Name        string
	Caption     string
	Extends     string
	Category    string
	UID         *int
	Observable  *int
	Observables map[string]int
	Profiles    []string
	Constraints map[string][]string // nil when the file has none
	Meta        string
	Attributes  map[string]*attrSource
	ext         string
}

func (a *attrSource) clone() *attrSource {
	c := *a
	c.Enum = maps.Clone(a.Enum)
	c.Profiles = slices.Clone(a.Profiles)
	return &c
}

func (it *itemSource) clone() *itemSource {
	c := *it
	c.Profiles = slices.Clone(it.Profiles)
	c.Attributes = make(map[string]*attrSource, len(it.Attributes))
	for name, a := range it.Attributes {
		c.Attributes[name] = a.clone()
	}
	return &c
}

// requirementRank orders requirements so that the stricter of two can win.
func requirementRank(r string) int {
	return slices.Index([]string{"", "optional", "recommended", "required"}, r)
}

// merge lays over on top of a, over winning, as inheritance, includes and
// patches do. Enumerations are united, and an attribute that two profiles
// contribute takes the stricter requirement.
func (a *attrSource) merge(over *attrSource) {
	if over.Requirement != "" {
		bothProfiled := a.hasProfiles && over.hasProfiles && len(over.Profiles) > 0
		if !bothProfiled || requirementRank(over.Requirement) > requirementRank(a.Requirement) {
			a.Requirement = over.Requirement
		}
	}
	switch {
	case !over.hasProfiles:
	case !a.hasProfiles, len(over.Profiles) == 0:
		a.hasProfiles, a.Profiles = true, slices.Clone(over.Profiles)
	case len(a.Profiles) > 0:
		a.Profiles = union(a.Profiles, over.Profiles)
	}
	if over.Caption != "" {
		a.Caption = over.Caption
	}
	if over.Type != "" {
		a.Type = over.Type
	}
	if over.IsArray != nil {
		a.IsArray = over.IsArray
	}
	if over.Sibling != "" {
		a.Sibling = over.Sibling
	}
	if over.Observable != nil {
		a.Observable = over.Observable
	}
	if over.ext != "" {
		a.ext = over.ext
	}
	if len(over.Enum) > 0 {
		merged := maps.Clone(a.Enum)
		if merged == nil {
			merged = make(map[string]enumSource, len(over.Enum))
		}
		maps.Copy(merged, over.Enum)
		a.Enum = merged
	}
}

func mergeAttributes(dst, over map[string]*attrSource) {
	for name, a := range over {
		if have, ok := dst[name]; ok {
			have.merge(a)
		} else {
			dst[name] = a.clone()
		}
	}
}

func union(a, b []string) []string {
	u := slices.Concat(a, b)
	slices.Sort(u)
	return slices.Compact(u)
}

// typeSource is a data type of the dictionary.
type typeSource struct {
	Caption    string            `json:"caption"`
	Type       string            `json:"type"`
	Regex      string            `json:"regex"`
	MaxLen     *int              `json:"max_len"`
	Range      []json.Number     `json:"range"`
	Values     []json.RawMessage `json:"values"`
	Observable *int              `json:"observable"`
}

type categorySource struct {
	UID     *int   `json:"uid"`
	Caption string `json:"caption"`
}

// part is the core schema or one extension, read but not yet combined.
type part struct {
	name       string // empty for core
	uid        int
	categories map[string]categorySource
	dictionary map[string]*attrSource
	types      map[string]typeSource
	classes    map[string]*itemSource
	objects    map[string]*itemSource
	profiles   map[string]*itemSource
	// Patches change an item of the core in place of adding one.
	classPatches  []*itemSource
	objectPatches []*itemSource
}

// reader reads the files of one schema directory.
type reader struct {
	fsys fs.FS
}

func (r reader) readJSON(name string, into any) error {
	f, err := r.fsys.Open(name)
	if err != nil {
		return fmt.Errorf("opening schema file: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose on close
	data, err := io.ReadAll(io.LimitReader(f, maxSourceFile+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) > maxSourceFile {
		return fmt.Errorf("reading %s: larger than %d bytes", name, maxSourceFile)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decoding %s: %w", name, err)
	}
	return nil
}

func (r reader) exists(name string) bool {
	st, err := fs.Stat(r.fsys, name)
	return err == nil && st.Mode().IsRegular()
}

// readPart reads the core (dir ".") or one extension directory.
func (r reader) readPart(dir, ext string, uid int) (*part, error) {
	p := &part{
		name: ext, uid: uid,
		categories: map[string]categorySource{},
		dictionary: map[string]*attrSource{},
		types:      map[string]typeSource{},
		classes:    map[string]*itemSource{},
		objects:    map[string]*itemSource{},
		profiles:   map[string]*itemSource{},
	}
	if name := path.Join(dir, "categories.json"); ext == "" || r.exists(name) {
		var c struct {
			Attributes map[string]categorySource `json:"attributes"`
		}
		if err := r.readJSON(name, &c); err != nil {
			return nil, err
		}
		p.categories = c.Attributes
	}
	if name := path.Join(dir, "dictionary.json"); ext == "" || r.exists(name) {
		if err := r.readDictionary(name, p); err != nil {
			return nil, err
		}
	}
	// Profiles come first, for they are what the other items include.
	err := r.walkItems(dir, "profiles", p, func(it *itemSource) error {
		return addItem(p.profiles, it.Name, it)
	})
	if err != nil {
		return nil, err
	}
	kinds := []struct {
		folder  string
		items   map[string]*itemSource
		patches *[]*itemSource
	}{
		{"events", p.classes, &p.classPatches},
		{"objects", p.objects, &p.objectPatches},
	}
	for _, k := range kinds {
		err := r.walkItems(dir, k.folder, p, func(it *itemSource) error {
			if it.Extends != "" && (it.Name == "" || it.Name == it.Extends) {
				if ext == "" {
					return errors.New("a core item cannot patch another")
				}
				*k.patches = append(*k.patches, it)
				return nil
			}
			return addItem(k.items, it.Name, it)
		})
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func addItem(items map[string]*itemSource, name string, it *itemSource) error {
	if name == "" {
		return errors.New("the item has no name")
	}
	if _, ok := items[name]; ok {
		return fmt.Errorf("%q is defined twice", name)
	}
	items[name] = it
	return nil
}

func (r reader) readDictionary(name string, p *part) error {
	var d struct {
		Attributes map[string]json.RawMessage `json:"attributes"`
		Types      struct {
			Attributes map[string]typeSource `json:"attributes"`
		} `json:"types"`
	}
	if err := r.readJSON(name, &d); err != nil {
		return err
	}
	for attr, raw := range d.Attributes {
		a, err := r.decodeAttr(raw, p.name)
		if err != nil {
			return fmt.Errorf("%s: attribute %s: %w", name, attr, err)
		}
		if a.Type == "" {
			return fmt.Errorf("%s: attribute %s: no type", name, attr)
		}
		p.dictionary[attr] = a
	}
	if d.Types.Attributes != nil {
		p.types = d.Types.Attributes
	}
	return nil
}

// walkItems calls add with each item under dir/folder, includes resolved. A
// missing folder holds no items.
func (r reader) walkItems(dir, folder string, p *part, add func(*itemSource) error) error {
	base := path.Join(dir, folder)
	if _, err := fs.Stat(r.fsys, base); errors.Is(err, fs.ErrNotExist) && p.name != "" {
		return nil
	}
	return fs.WalkDir(r.fsys, base, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("listing %s: %w", base, err)
		}
		if d.IsDir() || path.Ext(name) != ".json" {
			return nil
		}
		it, err := r.readItem(name, dir, p.name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := add(it); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func (r reader) readItem(name, dir, ext string) (*itemSource, error) {
	var raw struct {
		Name        string              `json:"name"`
		Caption     string              `json:"caption"`
		Extends     string              `json:"extends"`
		Category    string              `json:"category"`
		UID         *int                `json:"uid"`
		Observable  *int                `json:"observable"`
		Observables map[string]int      `json:"observables"`
		Profiles    []string            `json:"profiles"`
		Constraints map[string][]string `json:"constraints"`
		Meta        string              `json:"meta"`
		Annotations struct {
			Requirement string `json:"requirement"`
		} `json:"annotations"`
		Attributes map[string]json.RawMessage `json:"attributes"`
	}
	if err := r.readJSON(name, &raw); err != nil {
		return nil, err
	}
	if raw.Meta == "profile" && raw.Extends != "" {
		return nil, errors.New("profiles that extend profiles are not supported")
	}
	for kind := range raw.Constraints {
		if kind != atLeastOne && kind != justOne {
			return nil, fmt.Errorf("unknown constraint %q", kind)
		}
	}
	it := &itemSource{
		Name: raw.Name, Caption: raw.Caption, Extends: raw.Extends, Category: raw.Category,
		UID: raw.UID, Observable: raw.Observable, Observables: raw.Observables,
		Constraints: raw.Constraints, Meta: raw.Meta,
		Attributes: make(map[string]*attrSource, len(raw.Attributes)), ext: ext,
	}
	for _, prof := range raw.Profiles {
		it.Profiles = append(it.Profiles, r.profileName(prof, dir, ext))
	}
	own := make(map[string]*attrSource, len(raw.Attributes))
	for attr, msg := range raw.Attributes {
		if attr == includeKey {
			continue
		}
		a, err := r.decodeAttr(msg, ext)
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", attr, err)
		}
		for i, prof := range a.Profiles {
			a.Profiles[i] = r.profileName(prof, dir, ext)
		}
		if a.Requirement == "" && it.Meta == "profile" {
			a.Requirement = raw.Annotations.Requirement
		}
		own[attr] = a
	}
	if msg, ok := raw.Attributes[includeKey]; ok {
		files, err := stringOrList(msg)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", includeKey, err)
		}
		for _, file := range files {
			if err := r.include(it, file, dir, ext); err != nil {
				return nil, fmt.Errorf("including %s: %w", file, err)
			}
		}
	}
	mergeAttributes(it.Attributes, own)
	return it, nil
}

// profileName gives the name events use for a profile: extension/name for one
// that the extension itself defines.
func (r reader) profileName(name, dir, ext string) string {
	if ext != "" && !strings.Contains(name, "/") && r.exists(path.Join(dir, "profiles", name+".json")) {
		return ext + "/" + name
	}
	return name
}

// include adds the attributes of file under those of it. Attributes of a
// profile remember the profile. Extensions look in their own folder first.
func (r reader) include(it *itemSource, file, dir, ext string) error {
	name, fileExt := path.Join(dir, file), ext
	if !r.exists(name) {
		name, fileExt, dir = path.Clean(file), "", "."
	}
	if !fs.ValidPath(name) {
		return fmt.Errorf("%q is outside the schema", file)
	}
	inc, err := r.readItem(name, dir, fileExt)
	if err != nil {
		return err
	}
	if inc.Meta == "profile" {
		prof := inc.Name
		if fileExt != "" {
			prof = fileExt + "/" + prof
		}
		for _, a := range inc.Attributes {
			a.hasProfiles, a.Profiles = true, []string{prof}
		}
	}
	mergeAttributes(it.Attributes, inc.Attributes)
	return nil
}

// decodeAttr decodes one attribute, with the file it includes, if any, beneath.
func (r reader) decodeAttr(msg json.RawMessage, ext string) (*attrSource, error) {
	var raw struct {
		Include     string                `json:"$include"`
		Caption     string                `json:"caption"`
		Requirement string                `json:"requirement"`
		Type        string                `json:"type"`
		IsArray     *bool                 `json:"is_array"`
		Enum        map[string]enumSource `json:"enum"`
		Sibling     string                `json:"sibling"`
		Observable  *int                  `json:"observable"`
		Profile     json.RawMessage       `json:"profile"`
	}
	if err := json.Unmarshal(msg, &raw); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if requirementRank(raw.Requirement) < 0 {
		return nil, fmt.Errorf("unknown requirement %q", raw.Requirement)
	}
	a := &attrSource{
		Caption: raw.Caption, Requirement: raw.Requirement, Type: raw.Type, IsArray: raw.IsArray,
		Enum: raw.Enum, Sibling: raw.Sibling, Observable: raw.Observable, ext: ext,
	}
	if len(raw.Profile) > 0 {
		a.hasProfiles = true
		if !bytes.Equal(raw.Profile, []byte("null")) {
			names, err := stringOrList(raw.Profile)
			if err != nil {
				return nil, fmt.Errorf("reading profile: %w", err)
			}
			a.Profiles = names
		}
	}
	if raw.Include == "" {
		return a, nil
	}
	var inc json.RawMessage
	if err := r.readJSON(path.Clean(raw.Include), &inc); err != nil {
		return nil, err
	}
	under, err := reader{fsys: noFiles{}}.decodeAttr(inc, ext)
	if err != nil {
		return nil, fmt.Errorf("including %s: %w", raw.Include, err)
	}
	under.merge(a)
	return under, nil
}

// noFiles refuses every name: an included attribute may not include another,
// which keeps includes from going in circles.
type noFiles struct{}

func (noFiles) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("nested include")}
}

func stringOrList(msg json.RawMessage) ([]string, error) {
	var one string
	if err := json.Unmarshal(msg, &one); err == nil {
		return []string{one}, nil
	}
	var many []string
	if err := json.Unmarshal(msg, &many); err != nil {
		return nil, fmt.Errorf("want a string or a list of strings: %w", err)
	}
	return many, nil
}
