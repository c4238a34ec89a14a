package mapping

import (
	_ "embed"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// SchemaVersion is the version of the OCSF schema that mapped events follow.
const SchemaVersion = "1.9.0-dev"

//go:embed ocsf.txt
var schemaText string

// attrType is the type of an attribute's values.
type attrType uint8

const (
	typeString attrType = iota
	typeInt
	typeLong
	typeFloat
	typeBool
	typeTime
	typeIP
	typePort
	typeEmail
	typeUUID
	typeURL
	typeMAC
	typeSubnet
	typeBytes
	typeDatetime
	typeJSON
	typeObject
)

var attrTypes = map[string]attrType{
	"string": typeString, "int": typeInt, "long": typeLong, "float": typeFloat, "bool": typeBool,
	"time": typeTime, "ip": typeIP, "port": typePort, "email": typeEmail, "uuid": typeUUID, "url": typeURL,
	"mac": typeMAC, "subnet": typeSubnet, "bytes": typeBytes, "datetime": typeDatetime, "json": typeJSON,
}

// attribute is one attribute of a class or object.
type attribute struct {
	name     string
	kind     attrType
	object   *object // of typeObject
	array    bool
	required bool
	profile  string
	sibling  string
	ids      map[int64]string // captions by number, of int enumerations
	words    map[string]bool  // allowed words, of string enumerations
	captions map[string]int64 // numbers by lower-cased caption
}

// object is an object or, with uid and captions, a class.
type object struct {
	name            string
	caption         string
	uid             int64
	categoryUID     int64
	categoryCaption string
	class           bool
	attrs           map[string]*attribute
	names           []string // sorted
	required        []string
	any             []string // at least one of them, when not empty
}

type schema struct {
	classes map[string]*object
	objects map[string]*object
}

// loadSchema parses the embedded table once; what it returns is never written
// to again.
var loadSchema = sync.OnceValues(func() (*schema, error) { return parseSchema(schemaText) })

func parseSchema(text string) (*schema, error) {
	s := &schema{classes: map[string]*object{}, objects: map[string]*object{}}
	type pending struct {
		attr *attribute
		name string
	}
	var cur *object
	var refs []pending
	for i, line := range strings.Split(text, "\n") {
		bad := func(why string) error { return fmt.Errorf("reading the schema table: line %d: %s", i+1, why) }
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "class "):
			parts := strings.SplitN(line, `"`, 5)
			head := strings.Fields(parts[0])
			if len(parts) != 5 || len(head) != 3 {
				return nil, bad("not a class")
			}
			uid, err1 := strconv.ParseInt(head[2], 10, 64)
			cat, err2 := strconv.ParseInt(strings.TrimSpace(parts[2]), 10, 64)
			if err1 != nil || err2 != nil {
				return nil, bad("not a class number")
			}
			cur = &object{name: head[1], class: true, uid: uid, caption: parts[1], categoryUID: cat, categoryCaption: parts[3], attrs: map[string]*attribute{}, any: anyOf(parts[4])}
			s.classes[cur.name] = cur
		case strings.HasPrefix(line, "object "):
			name, rest, _ := strings.Cut(line[len("object "):], " ")
			cur = &object{name: name, attrs: map[string]*attribute{}, any: anyOf(rest)}
			s.objects[cur.name] = cur
		case cur == nil:
			return nil, bad("an attribute before the first class")
		default:
			a, obj, err := parseAttribute(strings.TrimSpace(line))
			if err != nil {
				return nil, bad(err.Error())
			}
			cur.attrs[a.name] = a
			if obj != "" {
				refs = append(refs, pending{a, obj})
			}
		}
	}
	for _, p := range refs {
		o := s.objects[p.name]
		if o == nil {
			return nil, fmt.Errorf("reading the schema table: no object %s", p.name)
		}
		p.attr.object = o
	}
	base := s.classes["base_event"]
	if base == nil {
		return nil, fmt.Errorf("reading the schema table: no base_event")
	}
	for _, c := range s.classes {
		for n, a := range base.attrs {
			if c.attrs[n] == nil {
				c.attrs[n] = a
			}
		}
	}
	for _, set := range []map[string]*object{s.classes, s.objects} {
		for _, o := range set {
			for n, a := range o.attrs {
				o.names = append(o.names, n)
				if a.required && a.profile == "" {
					o.required = append(o.required, n)
				}
			}
			sort.Strings(o.names)
			sort.Strings(o.required)
		}
	}
	return s, nil
}

func anyOf(s string) []string {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "any(") {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s[len("any("):], ")"), ",")
}

func parseAttribute(line string) (*attribute, string, error) {
	name, rest, ok := strings.Cut(line, ": ")
	if !ok {
		return nil, "", fmt.Errorf("%q is not an attribute", line)
	}
	a := &attribute{name: name}
	decl, enum, hasEnum := strings.Cut(rest, " = ")
	fields := strings.Fields(decl)
	t := fields[0]
	for _, f := range fields[1:] {
		switch f[0] {
		case '@':
			a.profile = f[1:]
		case '~':
			a.sibling = f[1:]
		default:
			return nil, "", fmt.Errorf("%q is not a part of a type", f)
		}
	}
	t, a.required = strings.CutSuffix(t, "!")
	t, a.array = strings.CutSuffix(t, "[]")
	obj := ""
	if strings.HasPrefix(t, "$") {
		a.kind, obj = typeObject, t[1:]
	} else if a.kind, ok = attrTypes[t]; !ok {
		return nil, "", fmt.Errorf("%q is not a type", t)
	}
	if !hasEnum {
		a.sibling = ""
		return a, obj, nil
	}
	a.captions = map[string]int64{}
	for _, e := range strings.Split(enum, "; ") {
		v, caption, _ := strings.Cut(e, " ")
		if a.kind == typeString {
			if a.words == nil {
				a.words = map[string]bool{}
			}
			a.words[v] = true
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, "", fmt.Errorf("%q is not a number", v)
		}
		if a.ids == nil {
			a.ids = map[int64]string{}
		}
		a.ids[n] = caption
		a.captions[strings.ToLower(caption)] = n
	}
	return a, obj, nil
}

// class turns how a mapping may write a class ("API Activity",
// "api_activity", 6003) into the class.
func (s *schema) class(text string) *object {
	key := strings.ReplaceAll(strings.ToLower(text), " ", "_")
	if c := s.classes[key]; c != nil {
		return c
	}
	for _, c := range s.classes {
		if strconv.FormatInt(c.uid, 10) == text || strings.EqualFold(c.caption, text) {
			return c
		}
	}
	return nil
}
