package mapping

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// path is a compiled path. Unlike jsondoc.Path a key with dots has to be
// quoted, so that looking a value up costs one search an object.
type path struct {
	text    string
	steps   []step
	root    bool // begins at the record even inside an each
	rel     bool // begins at the item of the each that it is in
	self    bool // "." or "$" alone
	derived int  // index into the derived values of "$name"; -1 for others
	slot    int  // where the value is remembered; -1 for none
	single  bool // only keys and indices: at most one value
	secret  *secretRule
	raw     bool // read as it is, since only its digest goes on
}

type stepKind uint8

const (
	stepKey stepKind = iota
	stepIndex
	stepAll
	stepFilter
)

type step struct {
	kind   stepKind
	key    string
	index  int
	path   []step // of a filter, what is compared
	values []string
}

// parsePath compiles a path; derived are the names that "$name" may give.
func parsePath(s string, derived []string) (*path, error) {
	p := &path{text: s, derived: -1, slot: -1, single: true}
	rest := s
	switch {
	case s == ".":
		p.self = true
		return p, nil
	case s == "$":
		p.self, p.root = true, true
		return p, nil
	case strings.HasPrefix(s, "$") && !strings.HasPrefix(s, "$."):
		for i, d := range derived {
			if d == s[1:] {
				p.derived = i
				return p, nil
			}
		}
		return nil, fmt.Errorf("this format has no derived value %s", s)
	case strings.HasPrefix(s, "$."):
		p.root = true
		rest = s[2:]
	}
	steps, err := parseSteps(rest)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", s, err)
	}
	p.steps = steps
	for _, st := range steps {
		if st.kind == stepAll || st.kind == stepFilter {
			p.single = false
		}
	}
	return p, nil
}

func parseSteps(s string) ([]step, error) {
	if s == "" {
		return nil, fmt.Errorf("is empty")
	}
	var out []step
	for i := 0; i < len(s); {
		switch s[i] {
		case '[':
			end := strings.IndexByte(s[i:], ']')
			if end < 0 {
				return nil, fmt.Errorf("a [ without ]")
			}
			in := s[i+1 : i+end]
			i += end + 1
			switch key, val, isFilter := strings.Cut(in, "="); {
			case in == "" || in == "*":
				out = append(out, step{kind: stepAll})
			case isFilter:
				sub, err := parseSteps(key)
				if err != nil {
					return nil, err
				}
				out = append(out, step{kind: stepFilter, path: sub, values: strings.Split(val, "|")})
			default:
				n, err := strconv.ParseUint(in, 10, 31)
				if err != nil {
					return nil, fmt.Errorf("[%s] is neither an index, [] nor [key=value]", in)
				}
				out = append(out, step{kind: stepIndex, index: int(n)})
			}
		default:
			if s[i] == '.' {
				if len(out) == 0 {
					return nil, fmt.Errorf("begins with a dot")
				}
				i++
			} else if len(out) > 0 {
				return nil, fmt.Errorf("a dot is missing before %q", s[i:])
			}
			key := ""
			if i < len(s) && s[i] == '"' {
				end := strings.IndexByte(s[i+1:], '"')
				if end < 0 {
					return nil, fmt.Errorf("a quote is not closed")
				}
				key = s[i+1 : i+1+end]
				i += end + 2
			} else {
				end := strings.IndexAny(s[i:], ".[")
				if end < 0 {
					end = len(s) - i
				}
				key = s[i : i+end]
				i += end
				if strings.ContainsAny(key, " {}\"=|") {
					return nil, fmt.Errorf("key %q needs quotes", key)
				}
			}
			if key == "" {
				return nil, fmt.Errorf("an empty key")
			}
			out = append(out, step{kind: stepKey, key: key})
		}
	}
	return out, nil
}

// lastKey returns the last key of the path.
func (p *path) lastKey() string {
	for i := len(p.steps) - 1; i >= 0; i-- {
		if p.steps[i].kind == stepKey {
			return p.steps[i].key
		}
	}
	return ""
}

// keysOnly returns the path's keys, joined: the form in which paths are
// compared without their indices and filters.
func (p *path) keysOnly() string {
	var b strings.Builder
	for _, st := range p.steps {
		if st.kind == stepKey {
			b.WriteByte('\x00')
			b.WriteString(st.key)
		}
	}
	return b.String()
}

func get(v jsondoc.Value, key string, fold bool) jsondoc.Value {
	if fold {
		return v.GetFold(key)
	}
	return v.Get(key)
}

// first returns the first value that the steps reach from v.
func first(v jsondoc.Value, steps []step, fold bool) jsondoc.Value {
	for i := range steps {
		st := &steps[i]
		switch st.kind {
		case stepKey:
			v = get(v, st.key, fold)
		case stepIndex:
			v = v.Index(st.index)
		default:
			var found jsondoc.Value
			rest := steps[i+1:]
			v.Items(func(e jsondoc.Value) bool {
				if st.kind == stepFilter && !st.accepts(e, fold) {
					return true
				}
				found = first(e, rest, fold)
				return !present(found)
			})
			return found
		}
		if !v.Exists() {
			return v
		}
	}
	return v
}

// each calls fn for every value that the steps reach from v until fn returns
// false. An array at the end is given as one value.
func each(v jsondoc.Value, steps []step, fold bool, fn func(jsondoc.Value) bool) bool {
	for i := range steps {
		st := &steps[i]
		switch st.kind {
		case stepKey:
			v = get(v, st.key, fold)
		case stepIndex:
			v = v.Index(st.index)
		default:
			more := true
			v.Items(func(e jsondoc.Value) bool {
				if st.kind == stepFilter && !st.accepts(e, fold) {
					return true
				}
				more = each(e, steps[i+1:], fold, fn)
				return more
			})
			return more
		}
		if !v.Exists() {
			return true
		}
	}
	return fn(v)
}

func (st *step) accepts(e jsondoc.Value, fold bool) bool {
	b := first(e, st.path, fold).Bytes()
	for _, want := range st.values {
		if string(b) == want {
			return true
		}
	}
	return false
}

// present reports whether the value says something: null and the empty string
// do not.
func present(v jsondoc.Value) bool {
	switch v.Kind() {
	case jsondoc.Absent, jsondoc.Null:
		return false
	case jsondoc.String:
		return len(v.Bytes()) > 0
	default:
		return true
	}
}
