package ocsf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The kinds of constraint the schema knows.
const (
	atLeastOne = "at_least_one"
	justOne    = "just_one"
)

// The primitive data types, and the ones treated apart.
const (
	typeBoolean   = "boolean_t"
	typeFloat     = "float_t"
	typeInteger   = "integer_t"
	typeLong      = "long_t"
	typeString    = "string_t"
	typeJSON      = "json_t"
	typeTimestamp = "timestamp_t"
	typeDatetime  = "datetime_t"
	typeIP        = "ip_t"
)

const (
	baseClass       = "base_event"
	baseCategory    = "other"
	datetimeProfile = "datetime"
	otherKey        = "99"
	otherCaption    = "Other"
)

// maxAncestors bounds chains of extends and of subtypes.
const maxAncestors = 64

// dataType is a dictionary type with what its supertypes add.
type dataType struct {
	name      string
	primitive string
	regex     *regexp.Regexp // nil for any string
	maxLen    int            // runes; 0 for no bound
	low, high int64
	hasRange  bool
	values    []string // canonical JSON; nil for any
}

// attribute is one attribute of a compiled item.
type attribute struct {
	name     string
	typ      *dataType // nil when object is set
	object   *item
	array    bool
	required bool
	enum     map[string]string // key to caption; nil when not enumerated
	sibling  string
	profiles []string // any of these makes it available; empty means always
}

// item is a compiled class or object.
type item struct {
	name        string
	caption     string
	attributes  map[string]*attribute
	names       []string // sorted keys of attributes
	constraints map[string][]string
	profiles    map[string]bool
	categoryUID int
	ext         string
}

// open reports whether any attribute is allowed, as in unmapped.
func (it *item) open() bool { return len(it.attributes) == 0 }

// compiled is the core combined with one set of extensions.
type compiled struct {
	classes  map[int64]*item
	objects  map[string]*item
	profiles map[string]bool
}

// compiler combines the core with extensions. It works on copies, so the parts
// can be compiled again with other extensions.
type compiler struct {
	parts      []*part // core first
	categories map[string]categorySource
	types      map[string]*dataType
	classes    map[string]*itemSource
	objects    map[string]*itemSource
	out        *compiled
}

func scoped(ext, name string) string {
	if ext == "" {
		return name
	}
	return ext + "/" + name
}

func compile(core *part, exts []*part) (*compiled, error) {
	c := &compiler{
		parts:      append([]*part{core}, exts...),
		categories: map[string]categorySource{},
		types:      map[string]*dataType{},
		classes:    map[string]*itemSource{},
		objects:    map[string]*itemSource{},
		out: &compiled{
			classes:  map[int64]*item{},
			objects:  map[string]*item{},
			profiles: map[string]bool{},
		},
	}
	for _, p := range c.parts {
		for name, cat := range p.categories {
			c.categories[scoped(p.name, name)] = cat
		}
		for name := range p.profiles {
			c.out.profiles[scoped(p.name, name)] = true
		}
		for name, it := range p.classes {
			c.classes[scoped(p.name, name)] = it.clone()
		}
		for name, it := range p.objects {
			c.objects[scoped(p.name, name)] = it.clone()
		}
	}
	if err := c.compileTypes(); err != nil {
		return nil, err
	}
	observables, err := c.observableTypes()
	if err != nil {
		return nil, err
	}
	for _, p := range exts {
		if err := patch(c.classes, p.classPatches); err != nil {
			return nil, fmt.Errorf("extension %s: class %w", p.name, err)
		}
		if err := patch(c.objects, p.objectPatches); err != nil {
			return nil, fmt.Errorf("extension %s: object %w", p.name, err)
		}
	}
	for _, items := range []map[string]*itemSource{c.classes, c.objects} {
		done := map[string]bool{}
		for name := range items {
			if err := inherit(items, name, done, 0); err != nil {
				return nil, err
			}
		}
	}
	if o, ok := c.objects["observable"]; ok {
		o.Attributes["type_id"].merge(&attrSource{Enum: observables})
	}
	return c.out, c.link()
}

// patch applies the changes an extension makes to existing items.
func patch(items map[string]*itemSource, patches []*itemSource) error {
	for _, p := range patches {
		base, ok := items[p.Extends]
		if !ok {
			return fmt.Errorf("patch of undefined %q", p.Extends)
		}
		base.Profiles = union(base.Profiles, p.Profiles)
		mergeAttributes(base.Attributes, p.Attributes)
		if p.Constraints != nil {
			base.Constraints = p.Constraints
		}
		if p.Observable != nil {
			base.Observable = p.Observable
		}
	}
	return nil
}

// parentName finds what an item extends: an item of its own extension if there
// is one of that name, else one of the core.
func parentName(items map[string]*itemSource, it *itemSource) string {
	if _, ok := items[scoped(it.ext, it.Extends)]; ok {
		return scoped(it.ext, it.Extends)
	}
	return it.Extends
}

// inherit lays the item over its resolved parent: attributes merge, profiles
// add up, and everything else, constraints too, replaces the parent's.
func inherit(items map[string]*itemSource, name string, done map[string]bool, depth int) error {
	it := items[name]
	if done[name] || it.Extends == "" {
		done[name] = true
		return nil
	}
	if depth > maxAncestors {
		return fmt.Errorf("%q extends more than %d ancestors", name, maxAncestors)
	}
	parent := parentName(items, it)
	if _, ok := items[parent]; !ok {
		return fmt.Errorf("%q extends undefined %q", name, it.Extends)
	}
	if err := inherit(items, parent, done, depth+1); err != nil {
		return err
	}
	whole := items[parent].clone()
	mergeAttributes(whole.Attributes, it.Attributes)
	whole.Profiles = union(whole.Profiles, it.Profiles)
	whole.Name, whole.Extends, whole.ext = it.Name, it.Extends, it.ext
	if it.Caption != "" {
		whole.Caption = it.Caption
	}
	if it.Category != "" {
		whole.Category = it.Category
	}
	if it.UID != nil {
		whole.UID = it.UID
	}
	if it.Constraints != nil {
		whole.Constraints = it.Constraints
	}
	items[name] = whole
	done[name] = true
	return nil
}

// observableTypes collects the values of observable.type_id, which the schema
// spreads over types, dictionary attributes, objects and their attributes.
func (c *compiler) observableTypes() (map[string]enumSource, error) {
	enum := map[string]enumSource{}
	add := func(id int, caption string) error {
		key := strconv.Itoa(id)
		if have, ok := enum[key]; ok && have.Caption != caption {
			return fmt.Errorf("observable type %d is both %q and %q", id, have.Caption, caption)
		}
		enum[key] = enumSource{Caption: caption}
		return nil
	}
	addItem := func(it *itemSource, caption, kind string) error {
		if it.Observable != nil {
			if err := add(*it.Observable, caption); err != nil {
				return err
			}
		}
		for name, a := range it.Attributes {
			if a.Observable == nil {
				continue
			}
			if err := add(*a.Observable, fmt.Sprintf("%s %s: %s", caption, kind, name)); err != nil {
				return err
			}
		}
		for path, id := range it.Observables {
			if err := add(id, fmt.Sprintf("%s %s: %s", caption, kind, path)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range c.parts {
		for _, t := range p.types {
			if t.Observable != nil {
				if err := add(*t.Observable, t.Caption); err != nil {
					return nil, err
				}
			}
		}
		for _, a := range p.dictionary {
			if a.Observable != nil {
				if err := add(*a.Observable, a.Caption); err != nil {
					return nil, err
				}
			}
		}
		kinds := []struct {
			kind    string
			items   map[string]*itemSource
			patches []*itemSource
			all     map[string]*itemSource
		}{
			{"Class", p.classes, p.classPatches, c.classes},
			{"Object", p.objects, p.objectPatches, c.objects},
		}
		for _, k := range kinds {
			for _, it := range k.items {
				if err := addItem(it, captionOf(k.all, it), k.kind); err != nil {
					return nil, err
				}
			}
			for _, it := range k.patches {
				if base, ok := k.all[it.Extends]; ok {
					if err := addItem(it, captionOf(k.all, base), k.kind); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return enum, nil
}

// captionOf is the item's caption, or that of its nearest ancestor with one.
func captionOf(items map[string]*itemSource, it *itemSource) string {
	for range maxAncestors {
		if it.Caption != "" || it.Extends == "" {
			break
		}
		parent, ok := items[parentName(items, it)]
		if !ok {
			break
		}
		it = parent
	}
	return it.Caption
}

func (c *compiler) compileTypes() error {
	all := map[string]typeSource{}
	for _, p := range c.parts {
		for name, t := range p.types {
			if _, ok := all[name]; ok {
				return fmt.Errorf("data type %q is defined twice", name)
			}
			all[name] = t
		}
	}
	for name := range all {
		t, err := compileType(all, name)
		if err != nil {
			return fmt.Errorf("data type %s: %w", name, err)
		}
		c.types[name] = t
	}
	for _, need := range []string{typeTimestamp, typeDatetime} {
		if c.types[need] == nil {
			return fmt.Errorf("data type %s is missing", need)
		}
	}
	return nil
}

// compileType resolves a type. What a subtype leaves out its supertype decides.
func compileType(all map[string]typeSource, name string) (*dataType, error) {
	t := &dataType{name: name, primitive: name}
	for range maxAncestors {
		src, ok := all[t.primitive]
		if !ok {
			return nil, fmt.Errorf("undefined supertype %q", t.primitive)
		}
		if t.regex == nil && src.Regex != "" {
			re, err := regexp.Compile(src.Regex)
			if err != nil {
				return nil, fmt.Errorf("compiling its pattern: %w", err)
			}
			t.regex = re
		}
		if t.maxLen == 0 && src.MaxLen != nil {
			t.maxLen = *src.MaxLen
		}
		if !t.hasRange && src.Range != nil {
			if len(src.Range) != 2 {
				return nil, fmt.Errorf("range of %d bounds", len(src.Range))
			}
			var err error
			if t.low, err = src.Range[0].Int64(); err != nil {
				return nil, fmt.Errorf("lower bound: %w", err)
			}
			if t.high, err = src.Range[1].Int64(); err != nil {
				return nil, fmt.Errorf("upper bound: %w", err)
			}
			t.hasRange = true
		}
		if t.values == nil && src.Values != nil {
			t.values = []string{}
			for _, v := range src.Values {
				var b bytes.Buffer
				if err := json.Compact(&b, v); err != nil {
					return nil, fmt.Errorf("allowed value: %w", err)
				}
				t.values = append(t.values, b.String())
			}
		}
		if src.Type == "" {
			known := []string{typeBoolean, typeFloat, typeInteger, typeLong, typeString, typeJSON}
			if !slices.Contains(known, t.primitive) {
				return nil, fmt.Errorf("unknown primitive %q", t.primitive)
			}
			return t, nil
		}
		t.primitive = src.Type
	}
	return nil, fmt.Errorf("more than %d supertypes", maxAncestors)
}

// link turns the merged sources into items that point at each other.
func (c *compiler) link() error {
	// Every object gets its place first, as objects refer to one another.
	for name, src := range c.objects {
		c.out.objects[name] = &item{name: name, caption: src.Caption, constraints: src.Constraints, ext: src.ext}
	}
	for name, src := range c.objects {
		if err := c.linkAttributes(c.out.objects[name], src); err != nil {
			return fmt.Errorf("object %s: %w", name, err)
		}
	}
	for name, src := range c.classes {
		// A class without a uid only serves to be extended.
		if src.UID == nil && name != baseClass {
			continue
		}
		cl := &item{name: name, caption: src.Caption, constraints: src.Constraints, ext: src.ext}
		uid, err := c.classify(cl, src)
		if err != nil {
			return fmt.Errorf("class %s: %w", name, err)
		}
		if have, ok := c.out.classes[uid]; ok {
			return fmt.Errorf("class %s: uid %d is that of class %s", name, uid, have.name)
		}
		if err := c.linkAttributes(cl, src); err != nil {
			return fmt.Errorf("class %s: %w", name, err)
		}
		c.out.classes[uid] = cl
	}
	// Only now is every object linked, so only now can paths through them be
	// followed and profiles be gathered.
	for _, it := range c.out.objects {
		if err := checkConstraints(it); err != nil {
			return fmt.Errorf("object %s: %w", it.name, err)
		}
	}
	for _, cl := range c.out.classes {
		if err := checkConstraints(cl); err != nil {
			return fmt.Errorf("class %s: %w", cl.name, err)
		}
		cl.profiles = map[string]bool{}
		c.gatherProfiles(cl, c.classes[cl.name], cl.profiles, map[*item]bool{})
	}
	return nil
}

// classify finds the class's uid and category and completes the enumerations
// that follow from them.
func (c *compiler) classify(cl *item, src *itemSource) (int64, error) {
	uid, categoryKey, categoryCaption := 0, "0", "Uncategorized"
	if src.UID != nil {
		uid = *src.UID
	}
	if src.Category != baseCategory {
		cat, ok := c.categories[scoped(src.ext, src.Category)]
		scopedCategory := ok && src.ext != ""
		if !ok {
			cat, ok = c.categories[src.Category]
		}
		if !ok || cat.UID == nil {
			return 0, fmt.Errorf("undefined category %q", src.Category)
		}
		cl.categoryUID = *cat.UID
		uid += *cat.UID * 1000
		if src.ext != "" && !scopedCategory {
			uid += c.extensionUID(src.ext) * 100000
		}
		categoryKey, categoryCaption = strconv.Itoa(*cat.UID), cat.Caption
	}
	activity, ok := src.Attributes["activity_id"]
	if !ok {
		return 0, errors.New("no activity_id")
	}
	types := map[string]enumSource{}
	for key, v := range activity.Enum {
		n, err := strconv.Atoi(key)
		if err != nil {
			return 0, fmt.Errorf("activity_id %q is no number", key)
		}
		types[strconv.Itoa(uid*100+n)] = enumSource{Caption: src.Caption + ": " + v.Caption}
	}
	for name, enum := range map[string]map[string]enumSource{
		"class_uid":    {strconv.Itoa(uid): {Caption: src.Caption}},
		"category_uid": {categoryKey: {Caption: categoryCaption}},
		"type_uid":     types,
	} {
		a, ok := src.Attributes[name]
		if !ok {
			return 0, fmt.Errorf("no %s", name)
		}
		a.Enum = enum
	}
	return int64(uid), nil
}

func (c *compiler) extensionUID(ext string) int {
	for _, p := range c.parts {
		if p.name == ext {
			return p.uid
		}
	}
	return 0
}

// dictionaryAttr finds the dictionary's entry: the extension's, else the core's.
func (c *compiler) dictionaryAttr(ext, name string) *attrSource {
	if ext != "" {
		for _, p := range c.parts {
			if a, ok := p.dictionary[name]; ok && p.name == ext {
				return a
			}
		}
	}
	return c.parts[0].dictionary[name]
}

func (c *compiler) linkAttributes(it *item, src *itemSource) error {
	it.attributes = make(map[string]*attribute, len(src.Attributes))
	for name, over := range src.Attributes {
		a, err := c.linkAttribute(name, over)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		it.attributes[name] = a
		if a.typ != nil && a.typ.name == typeTimestamp {
			it.attributes[name+"_dt"] = &attribute{
				name: name + "_dt", typ: c.types[typeDatetime], array: a.array,
				profiles: []string{datetimeProfile},
			}
		}
	}
	it.names = slices.Sorted(maps.Keys(it.attributes))
	return nil
}

func (c *compiler) linkAttribute(name string, over *attrSource) (*attribute, error) {
	dict := c.dictionaryAttr(over.ext, name)
	if dict == nil {
		return nil, errors.New("not in the dictionary")
	}
	whole := dict.clone()
	whole.merge(over)
	a := &attribute{
		name: name, sibling: whole.Sibling, profiles: whole.Profiles,
		array: whole.IsArray != nil && *whole.IsArray, required: whole.Requirement == "required",
	}
	if t, ok := c.types[whole.Type]; ok {
		a.typ = t
	} else if o, ok := c.out.objects[scoped(dict.ext, whole.Type)]; ok {
		a.object = o
	} else if o, ok := c.out.objects[whole.Type]; ok {
		a.object = o
	} else {
		return nil, fmt.Errorf("undefined type %q", whole.Type)
	}
	if a.object != nil && strings.HasPrefix(a.object.name, "_") {
		return nil, fmt.Errorf("type %q only serves to be extended", whole.Type)
	}
	for _, p := range a.profiles {
		if !c.out.profiles[p] {
			return nil, fmt.Errorf("undefined profile %q", p)
		}
	}
	if len(whole.Enum) > 0 {
		a.enum = make(map[string]string, len(whole.Enum))
		for key, v := range whole.Enum {
			a.enum[key] = v.Caption
		}
	}
	return a, nil
}

// checkConstraints makes sure that an event can meet each constraint, which
// takes one name that exists. It lets others pass: published schemas name a few
// attributes that the item does not have. A name can be a path into objects,
// such as device.os.sp_name.
func checkConstraints(it *item) error {
	for kind, paths := range it.constraints {
		if !slices.ContainsFunc(paths, func(path string) bool { return reaches(it, path) }) {
			return fmt.Errorf("constraint %s names no attribute of it", kind)
		}
	}
	return nil
}

func reaches(it *item, path string) bool {
	for segment := range strings.SplitSeq(path, ".") {
		if it == nil || it.attributes[segment] == nil {
			return false
		}
		it = it.attributes[segment].object
	}
	return true
}

// gatherProfiles adds the profiles of src and of every object reachable from it.
func (c *compiler) gatherProfiles(it *item, src *itemSource, into map[string]bool, seen map[*item]bool) {
	if seen[it] {
		return
	}
	seen[it] = true
	for _, p := range src.Profiles {
		into[p] = true
	}
	for _, a := range it.attributes {
		if a.typ != nil && a.typ.name == typeTimestamp {
			into[datetimeProfile] = true
		}
		if a.object != nil {
			c.gatherProfiles(a.object, c.objects[a.object.name], into, seen)
		}
	}
}
