package ocsf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/mod/semver"
)

// The rules an event can violate.
const (
	RuleJSON       = "json"       // not one well-formed JSON object within bounds
	RuleClass      = "class"      // class_uid names no class
	RuleCategory   = "category"   // category_uid is not that of the class
	RuleTypeUID    = "type_uid"   // type_uid is not class_uid*100 + activity_id
	RuleVersion    = "version"    // metadata.version is not one this schema covers
	RuleProfile    = "profile"    // profile unknown, not for the class, or not applied
	RuleExtension  = "extension"  // extension unknown or not listed
	RuleUnknown    = "unknown"    // attribute the schema does not have there
	RuleRequired   = "required"   // required attribute missing
	RuleType       = "type"       // value of another JSON type
	RuleFormat     = "format"     // string that does not have its type's form
	RuleLength     = "length"     // string longer than its type allows
	RuleRange      = "range"      // number outside its type's range
	RuleValues     = "values"     // value not among those its type lists
	RuleEnum       = "enum"       // value not among those its attribute lists
	RuleSibling    = "sibling"    // label that disagrees with its enumerated value
	RuleConstraint = "constraint" // at_least_one or just_one not met
	RuleObservable = "observable" // observable that does not point into the event
	RuleTimestamp  = "timestamp"  // timestamp that cannot be milliseconds
)

// Timestamps outside these bounds, in milliseconds since the Unix epoch, are in
// another unit: seconds and microseconds of any recent time fall outside.
const (
	minTimestamp = 100_000_000_000     // March 1973
	maxTimestamp = 253_402_300_799_999 // end of the year 9999
)

// Violation is one way an event fails the schema.
type Violation struct {
	Path    string // such as resources[0].uid; empty for the event as a whole
	Rule    string // one of the Rule constants
	Message string
}

// String formats the violation as "path: rule: message".
func (v Violation) String() string {
	at := v.Path
	if at == "" {
		at = "(event)"
	}
	return at + ": " + v.Rule + ": " + v.Message
}

// validation is the work on one event.
type validation struct {
	schema     *Schema
	set        *compiled // with the extensions the event lists
	all        *compiled // with every extension, to explain what is missing
	class      *item
	fullClass  *item // class as of all
	event      map[string]any
	profiles   map[string]bool
	violations []Violation
}

func (v *validation) add(path, rule, format string, args ...any) {
	v.violations = append(v.violations, Violation{Path: path, Rule: rule, Message: fmt.Sprintf(format, args...)})
}

// Validate checks one event in JSON and returns what is wrong with it, in a
// stable order, or nil if the event is valid. A malformed event, or one of no
// known class, yields only that violation.
func (s *Schema) Validate(event []byte) []Violation {
	v := &validation{schema: s, profiles: map[string]bool{}}
	value, path, err := decodeEvent(event)
	if err != nil {
		v.add(path, RuleJSON, "%v", err)
		return v.violations
	}
	obj, ok := value.(map[string]any)
	if !ok {
		v.add("", RuleJSON, "event is %s, want an object", kindOf(value))
		return v.violations
	}
	v.event = obj
	if !v.findClass() {
		return v.violations
	}
	v.findProfiles()
	v.item("", v.class, obj)
	v.uids()
	v.version()
	v.observables()
	return v.violations
}

// findClass finds the event's extensions and class, reporting false if the
// class is unknown, when there is nothing to hold the event to.
func (v *validation) findClass() bool {
	exts := v.findExtensions()
	uid, ok := integer(v.event["class_uid"])
	if !ok {
		v.add("class_uid", RuleClass, "is %s, want the uid of a class", kindOf(v.event["class_uid"]))
		return false
	}
	var err error
	if v.all, err = v.schema.with(v.schema.exts); err != nil {
		v.add("", RuleExtension, "%v", err)
		return false
	}
	class, ok := v.all.classes[uid]
	if !ok {
		v.add("class_uid", RuleClass, "no class has uid %d", uid)
		return false
	}
	if class.ext != "" && !slices.ContainsFunc(exts, func(p *part) bool { return p.name == class.ext }) {
		v.add("class_uid", RuleExtension, "class %s needs extension %s in metadata.extensions", class.name, class.ext)
		for _, p := range v.schema.exts {
			if p.name == class.ext {
				exts = append(exts, p)
			}
		}
		slices.SortFunc(exts, func(a, b *part) int { return strings.Compare(a.name, b.name) })
	}
	if v.set, err = v.schema.with(exts); err != nil {
		v.add("metadata.extensions", RuleExtension, "%v", err)
		return false
	}
	v.class, v.fullClass = v.set.classes[uid], class
	return true
}

// findExtensions returns the extensions the event lists, sorted by name.
// Malformed lists are left to the checks of types.
func (v *validation) findExtensions() []*part {
	metadata, _ := v.event["metadata"].(map[string]any)
	var listed []string
	note := func(path string, value any) {
		e, _ := value.(map[string]any)
		name, ok := e["name"].(string)
		if !ok {
			return
		}
		if !slices.ContainsFunc(v.schema.exts, func(p *part) bool { return p.name == name }) {
			v.add(path+".name", RuleExtension, "the schema has no extension %q", name)
			return
		}
		listed = append(listed, name)
	}
	note("metadata.extension", metadata["extension"])
	list, _ := metadata["extensions"].([]any)
	for i, e := range list {
		note(fmt.Sprintf("metadata.extensions[%d]", i), e)
	}
	var exts []*part
	for _, p := range v.schema.exts {
		if slices.Contains(listed, p.name) {
			exts = append(exts, p)
		}
	}
	return exts
}

func (v *validation) findProfiles() {
	metadata, _ := v.event["metadata"].(map[string]any)
	list, _ := metadata["profiles"].([]any)
	for i, e := range list {
		name, ok := e.(string)
		if !ok {
			continue // reported as a type
		}
		path := fmt.Sprintf("metadata.profiles[%d]", i)
		switch {
		case !v.set.profiles[name] && v.all.profiles[name]:
			v.add(path, RuleExtension, "profile %q belongs to an extension that metadata.extensions does not list", name)
		case !v.set.profiles[name]:
			v.add(path, RuleProfile, "the schema has no profile %q", name)
		case !v.class.profiles[name]:
			v.add(path, RuleProfile, "class %s does not take profile %q", v.class.name, name)
		case v.profiles[name]:
			v.add(path, RuleProfile, "profile %q is listed twice", name)
		default:
			v.profiles[name] = true
		}
	}
}

// available reports whether the event's profiles make the attribute available.
func (v *validation) available(a *attribute) bool {
	return len(a.profiles) == 0 || slices.ContainsFunc(a.profiles, func(p string) bool { return v.profiles[p] })
}

// item checks the attributes of a class or object and its constraints.
func (v *validation) item(path string, it *item, obj map[string]any) {
	if it.open() {
		return
	}
	for _, name := range it.names {
		a := it.attributes[name]
		value, present := obj[name]
		if !v.available(a) {
			continue // if present, reported as unknown below
		}
		at := join(path, name)
		switch {
		case !present:
			if a.required {
				v.add(at, RuleRequired, "required attribute of %s is missing", it.name)
			}
		case a.array:
			v.array(at, a, value)
		default:
			v.value(at, a, value)
		}
		if a.enum != nil && present {
			v.enum(path, it, a, obj)
		}
	}
	for _, name := range sortedKeys(obj) {
		v.known(join(path, name), it, name)
	}
	for _, kind := range []string{atLeastOne, justOne} {
		v.constraint(path, it, kind, obj)
	}
}

// known reports an attribute the item does not have for this event.
func (v *validation) known(path string, it *item, name string) {
	a := it.attributes[name]
	if a != nil && v.available(a) {
		return
	}
	if a != nil {
		v.add(path, RuleProfile, "attribute of %s needs profile %s in metadata.profiles", it.name, strings.Join(a.profiles, " or "))
		return
	}
	full := v.all.objects[it.name]
	if it == v.class {
		full = v.fullClass
	}
	if full != nil && full.attributes[name] != nil {
		v.add(path, RuleExtension, "attribute of %s belongs to an extension that metadata.extensions does not list", it.name)
		return
	}
	v.add(path, RuleUnknown, "%s has no such attribute", it.name)
}

func (v *validation) constraint(path string, it *item, kind string, obj map[string]any) {
	names, ok := it.constraints[kind]
	if !ok {
		return
	}
	var have []string
	for _, n := range names {
		if len(lookup(obj, strings.Split(n, "."))) > 0 {
			have = append(have, n)
		}
	}
	switch {
	case kind == atLeastOne && len(have) == 0:
		v.add(path, RuleConstraint, "%s needs at least one of %s", it.name, strings.Join(names, ", "))
	case kind == justOne && len(have) != 1:
		v.add(path, RuleConstraint, "%s needs exactly one of %s, has [%s]", it.name, strings.Join(names, ", "), strings.Join(have, ", "))
	}
}

func (v *validation) array(path string, a *attribute, value any) {
	list, ok := value.([]any)
	if !ok {
		v.add(path, RuleType, "is %s, want an array", kindOf(value))
		return
	}
	for i, e := range list {
		v.value(fmt.Sprintf("%s[%d]", path, i), a, e)
	}
}

func (v *validation) value(path string, a *attribute, value any) {
	if a.object == nil {
		v.scalar(path, a.typ, value)
		return
	}
	obj, ok := value.(map[string]any)
	if !ok {
		v.add(path, RuleType, "is %s, want an object (%s)", kindOf(value), a.object.name)
		return
	}
	v.item(path, a.object, obj)
}

func (v *validation) scalar(path string, t *dataType, value any) {
	var canonical string
	switch t.primitive {
	case typeJSON:
		return
	case typeBoolean:
		b, ok := value.(bool)
		if !ok {
			v.add(path, RuleType, "is %s, want a boolean", kindOf(value))
			return
		}
		canonical = strconv.FormatBool(b)
	case typeString:
		s, ok := value.(string)
		if !ok {
			v.add(path, RuleType, "is %s, want a string (%s)", kindOf(value), t.name)
			return
		}
		v.text(path, t, s)
		quoted, err := json.Marshal(s)
		if err != nil {
			v.add(path, RuleType, "%v", err)
			return
		}
		canonical = string(quoted)
	case typeInteger, typeLong:
		n, ok := integer(value)
		if !ok {
			v.add(path, RuleType, "is %s, want a 64-bit integer (%s)", kindOf(value), t.name)
			return
		}
		if t.hasRange && (n < t.low || n > t.high) {
			v.add(path, RuleRange, "%d is outside %s, %d to %d", n, t.name, t.low, t.high)
		}
		if t.name == typeTimestamp && n != 0 && (n < minTimestamp || n > maxTimestamp) {
			v.add(path, RuleTimestamp, "%d cannot be milliseconds since 1970", n)
		}
		canonical = strconv.FormatInt(n, 10)
	case typeFloat:
		n, ok := value.(json.Number)
		f, err := n.Float64()
		if !ok || err != nil {
			v.add(path, RuleType, "is %s, want a floating point number", kindOf(value))
			return
		}
		if t.hasRange && (f < float64(t.low) || f > float64(t.high)) {
			v.add(path, RuleRange, "%v is outside %s, %d to %d", f, t.name, t.low, t.high)
		}
		canonical = n.String()
	}
	if t.values != nil && !slices.Contains(t.values, canonical) {
		v.add(path, RuleValues, "%s is not among the values of %s", canonical, t.name)
	}
}

func (v *validation) text(path string, t *dataType, s string) {
	if n := utf8.RuneCountInString(s); t.maxLen > 0 && n > t.maxLen {
		v.add(path, RuleLength, "%d characters, %s allows %d", n, t.name, t.maxLen)
	}
	switch {
	case t.regex != nil && !t.regex.MatchString(s):
		v.add(path, RuleFormat, "%q does not have the form of %s", s, t.name)
	case t.name == typeIP:
		if _, err := netip.ParseAddr(s); err != nil {
			v.add(path, RuleFormat, "%q is not an IP address", s)
		}
	}
}

// enum checks an enumerated attribute and the label beside it.
func (v *validation) enum(path string, it *item, a *attribute, obj map[string]any) {
	at := join(path, a.name)
	values, array := obj[a.name].([]any)
	if !array {
		values = []any{obj[a.name]}
	}
	var label any
	var labels []any
	sib := it.attributes[a.sibling]
	labelled := sib != nil && v.available(sib)
	if labelled {
		label = obj[a.sibling]
		labels, _ = label.([]any)
	}
	for i, value := range values {
		elem, sibAt := at, join(path, a.sibling)
		if array {
			elem, sibAt = fmt.Sprintf("%s[%d]", at, i), fmt.Sprintf("%s[%d]", sibAt, i)
			label = nil
			if i < len(labels) {
				label = labels[i]
			}
		}
		key, ok := enumKey(value)
		if !ok {
			continue // reported as a type
		}
		caption, ok := a.enum[key]
		if !ok {
			// The class decides these three, which have rules of their own.
			if it != v.class || !slices.Contains([]string{"class_uid", "category_uid", "type_uid"}, a.name) {
				v.add(elem, RuleEnum, "%s is not among the values of %s.%s", key, it.name, a.name)
			}
			continue
		}
		if labelled {
			v.sibling(elem, sibAt, key, caption, label, len(labels) > 0)
		}
	}
}

// sibling checks a label against the caption of its value. An array of labels
// has to be complete, a single label may be left out.
func (v *validation) sibling(at, sibAt, key, caption string, label any, complete bool) {
	text, isText := label.(string)
	// The caption tells apart the type_uid of a base event, where 99 is a sum.
	other := key == otherKey && caption == otherCaption
	switch {
	case other && label == nil:
		v.add(sibAt, RuleSibling, "%s is 99 (%s), so the source's own label is needed", at, caption)
	case other && isText && strings.TrimSpace(text) == "":
		v.add(sibAt, RuleSibling, "%s is 99 (%s), so the label cannot be empty", at, caption)
	case other:
	case label == nil && complete:
		v.add(sibAt, RuleSibling, "%s has no label, want %q", at, caption)
	case !isText || text == caption: // other kinds are reported as a type
	case at == "type_uid" && v.isOtherType(text):
	default:
		v.add(sibAt, RuleSibling, "is %q, but %s is %s (%q)", text, at, key, caption)
	}
}

// isOtherType reports whether text is the type name of an event of activity
// Other: the class's caption joined with the event's own activity name.
func (v *validation) isOtherType(text string) bool {
	id, _ := integer(v.event["activity_id"])
	name, ok := v.event["activity_name"].(string)
	return ok && strconv.FormatInt(id, 10) == otherKey && text == v.class.caption+": "+name
}

// uids checks the numbers that follow from the class and activity.
func (v *validation) uids() {
	class, _ := integer(v.event["class_uid"])
	if n, ok := integer(v.event["category_uid"]); ok && n != int64(v.class.categoryUID) {
		v.add("category_uid", RuleCategory, "is %d, class %s is of category %d", n, v.class.name, v.class.categoryUID)
	}
	activity, ok := integer(v.event["activity_id"])
	if n, isInt := integer(v.event["type_uid"]); ok && isInt && n != class*100+activity {
		v.add("type_uid", RuleTypeUID, "is %d, want class_uid*100 + activity_id = %d", n, class*100+activity)
	}
}

// version checks that the event claims a version this schema can vouch for.
func (v *validation) version() {
	metadata, _ := v.event["metadata"].(map[string]any)
	version, ok := metadata["version"].(string)
	switch {
	case !ok: // reported as required or as a type
	case !fullSemver(version):
		v.add("metadata.version", RuleVersion, "%q is not a semantic version", version)
	case semver.Compare("v"+version, "v1.0.0") < 0 || semver.Compare("v"+version, "v"+v.schema.version) > 0:
		v.add("metadata.version", RuleVersion, "%q is outside 1.0.0 to %s", version, v.schema.version)
	}
}

// observables checks that each observable points at something in the event and,
// where it is a scalar, repeats its value.
func (v *validation) observables() {
	list, _ := v.event["observables"].([]any)
	for i, e := range list {
		o, _ := e.(map[string]any)
		name, ok := o["name"].(string)
		if !ok {
			continue
		}
		at := fmt.Sprintf("observables[%d]", i)
		segments := strings.Split(name, ".")
		if !v.defined(v.class, segments) {
			v.add(at+".name", RuleObservable, "class %s has no attribute %q", v.class.name, name)
			continue
		}
		found := lookup(v.event, segments)
		if len(found) == 0 {
			v.add(at+".name", RuleObservable, "the event has nothing at %q", name)
			continue
		}
		value, ok := o["value"].(string)
		if !ok {
			continue
		}
		same := func(f any) bool {
			switch f.(type) {
			case map[string]any, []any:
				return true
			}
			return fmt.Sprint(f) == value
		}
		if !slices.ContainsFunc(found, same) {
			v.add(at+".value", RuleObservable, "%q is not the value at %q", value, name)
		}
	}
}

// split separates a path segment such as "resources[0]" into its name and index,
// which is -1 for every element ("resources" and "resources[]").
func split(segment string) (name string, index int) {
	name, rest, ok := strings.Cut(segment, "[")
	if !ok {
		return name, -1
	}
	n, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if err != nil || n < 0 {
		return name, -1
	}
	return name, n
}

func (v *validation) defined(it *item, segments []string) bool {
	if it.open() {
		return true
	}
	name, _ := split(segments[0])
	a := it.attributes[name]
	switch {
	case a == nil || !v.available(a):
		return false
	case len(segments) == 1:
		return true
	case a.object != nil:
		return v.defined(a.object, segments[1:])
	}
	return a.typ.primitive == typeJSON
}

func lookup(value any, segments []string) []any {
	if len(segments) == 0 {
		if value == nil {
			return nil
		}
		return []any{value}
	}
	switch value := value.(type) {
	case []any:
		var found []any
		for _, e := range value {
			found = append(found, lookup(e, segments)...)
		}
		return found
	case map[string]any:
		name, index := split(segments[0])
		next := value[name]
		list, isList := next.([]any)
		switch {
		case isList && index >= len(list):
			return nil
		case isList && index >= 0:
			next = list[index]
		case isList && len(segments) == 1:
			return list
		}
		return lookup(next, segments[1:])
	}
	return nil
}

func sortedKeys(obj map[string]any) []string {
	keys := make([]string, 0, len(obj))
	for k := range obj {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// integer returns a JSON number that is written as a 64-bit integer.
func integer(value any) (int64, bool) {
	n, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	return i, err == nil
}

// enumKey returns the key of an enumerated value, as the schema writes it.
func enumKey(value any) (string, bool) {
	if s, ok := value.(string); ok {
		return s, true
	}
	n, ok := integer(value)
	return strconv.FormatInt(n, 10), ok
}

func kindOf(value any) string {
	switch value := value.(type) {
	case nil:
		return "null or missing"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case json.Number:
		return "the number " + value.String()
	case []any:
		return "an array"
	}
	return "an object"
}
