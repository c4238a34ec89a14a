package mapping

import (
	"bytes"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// maxString bounds the text of one OCSF attribute, in bytes; a longer value
// stays in unmapped.
const maxString = 64 << 10

// maxItems bounds the elements of one array that a mapping builds.
const maxItems = 1024

// classPlan is how an event of one class is put together.
type classPlan struct {
	class    *object
	when     *cond
	activity *expr
	meta     *node
	cloud    *node
	root     *node // without metadata and cloud
}

// node assigns one attribute.
type node struct {
	attr    *attribute
	key     []byte // "name":
	sibling []byte // ,"name":
	// scalars
	expr    *expr
	caption *expr // of the sibling when the number is 99
	// objects
	children []*node
	required uint64 // by child
	any      uint64
	// arrays
	items []*itemPlan
}

type itemPlan struct {
	when *cond
	each *path
	obj  *node
	val  *expr
}

// Map maps the record.
func (f *Format) Map(doc *jsondoc.Doc, keys staunch.Keys, env format.Env) (format.Mapped, error) {
	if k := doc.Root().Kind(); k != jsondoc.Object {
		return format.Mapped{}, &staunch.Problem{Place: "record", Reason: "is " + article(k) + ", not an object"}
	}
	r := f.begin(doc, env)
	defer f.end(r)
	r.secrets = r.findSecrets()
	r.haveSecrets = true
	out := format.Mapped{OCSF: r.event(keys)}
	out.Facts = r.statedFacts(keys)
	out.Findings = r.statedFindings()
	return out, nil
}

// Normalize returns the record as one line of OCSF JSON, without a newline.
// The error is a *staunch.Problem.
func Normalize(f format.Format, doc *jsondoc.Doc, env format.Env) ([]byte, error) {
	keys, err := f.Keys(doc, env)
	if err != nil {
		return nil, err
	}
	m, err := f.Map(doc, keys, env)
	if err != nil {
		return nil, err
	}
	return m.OCSF, nil
}

// eventState is what is known of the event while it is written.
type eventState struct {
	cloud, host bool
}

func (r *run) event(keys staunch.Keys) []byte {
	for _, c := range r.f.classes {
		if c.when != nil && !r.holds(c.when) {
			continue
		}
		if out, ok := r.tryClass(c, keys); ok {
			return out
		}
	}
	out, _ := r.tryClass(r.f.last, keys)
	return out
}

func (r *run) tryClass(c *classPlan, keys staunch.Keys) ([]byte, bool) {
	r.noting = true
	r.used = r.used[:0]
	var st eventState
	var cloud []byte
	if c.cloud != nil {
		if b, ok := r.writeObject(nil, c.cloud, &st); ok {
			cloud, st.cloud = b, true
		}
	}
	st.host = false
	body, ok := r.writeObject(nil, c.root, &st)
	if !ok && (c.root.required != 0 || c.root.any != 0) {
		r.noting = false
		return nil, false
	}
	if !ok {
		body = []byte("{")
	}

	out := make([]byte, 0, len(body)+len(r.root.Raw())+1024)
	activity, name := r.activity(c, keys)
	out = append(out, `{"class_uid":`...)
	out = strconv.AppendInt(out, c.class.uid, 10)
	out = appendMember(out, "class_name", c.class.caption)
	out = append(out, `,"category_uid":`...)
	out = strconv.AppendInt(out, c.class.categoryUID, 10)
	out = appendMember(out, "category_name", c.class.categoryCaption)
	out = append(out, `,"activity_id":`...)
	out = strconv.AppendInt(out, activity, 10)
	out = appendMember(out, "activity_name", name)
	out = append(out, `,"type_uid":`...)
	out = strconv.AppendInt(out, c.class.uid*100+activity, 10)
	out = appendMember(out, "type_name", c.class.caption+": "+c.class.attrs["activity_id"].ids[activity])

	severity, caption := r.severity(c)
	out = append(out, `,"severity_id":`...)
	out = strconv.AppendInt(out, severity, 10)
	out = appendMember(out, "severity", caption)
	out = r.writeStatus(out, c, keys.Outcome)
	at := keys.Time
	if at == 0 {
		at = r.env.Received
	}
	out = append(out, `,"time":`...)
	out = strconv.AppendInt(out, int64(at)/1000, 10)

	out = append(out, `,"metadata":{"version":"`+SchemaVersion+`"`...)
	if st.cloud || st.host {
		out = append(out, `,"profiles":[`...)
		if st.cloud {
			out = append(out, `"cloud"`...)
		}
		if st.host {
			if st.cloud {
				out = append(out, ',')
			}
			out = append(out, `"host"`...)
		}
		out = append(out, ']')
	}
	r.noteKeys()
	if keys.VendorID != "" {
		out = appendMember(out, "uid", string(r.scrub([]byte(keys.VendorID))))
	}
	if keys.Operation != "" {
		out = appendMember(out, "event_code", string(r.scrub([]byte(keys.Operation))))
	}
	if r.f.time != nil && keys.Time != 0 {
		if t := r.textOf(r.evalTime()); len(t) > 0 {
			out = appendMember(out, "original_time", string(bounded(t, 64)))
		}
	}
	out, _ = r.writeChildren(out, c.meta, &st)
	out = append(out, '}')
	if cloud != nil {
		out = append(out, `,"cloud":`...)
		out = append(out, cloud...)
	}
	if len(body) > 2 {
		out = append(out, ',')
		out = append(out, body[1:len(body)-1]...)
	}
	r.noting = false
	if r.f.whole {
		r.used = r.used[:0]
	}
	slices.Sort(r.used)
	mark := len(out)
	out = append(out, `,"unmapped":`...)
	var wrote bool
	if out, wrote = r.writeUnmapped(out, r.root); !wrote {
		out = out[:mark]
	}
	return append(out, '}'), true
}

// evalTime returns the value that the event's time was taken from.
func (r *run) evalTime() result {
	for _, a := range r.f.time.choices() {
		if v := r.eval(a); v.kind != resNone {
			if _, ok := a.time.parse(v); ok {
				return v
			}
		}
	}
	return result{}
}

// noteKeys marks what the keys were taken from as assigned.
func (r *run) noteKeys() {
	for _, e := range []*expr{r.f.id, r.f.operation} {
		if e != nil {
			r.eval(e)
		}
	}
}

func (r *run) activity(c *classPlan, keys staunch.Keys) (int64, string) {
	attr := c.class.attrs["activity_id"]
	if c.activity != nil {
		t := r.textOf(r.eval(c.activity))
		if len(t) > 0 {
			if n, ok := attr.number(t); ok && n != 99 {
				return n, attr.ids[n]
			}
		}
	}
	if keys.Operation != "" {
		return 99, string(r.scrub([]byte(keys.Operation)))
	}
	return 0, attr.ids[0]
}

func (r *run) severity(c *classPlan) (int64, string) {
	attr := c.class.attrs["severity_id"]
	n := int64(1)
	if r.f.severity != nil {
		n = 0
		if v, ok := attr.number(r.textOf(r.eval(r.f.severity))); ok && v != 99 {
			n = v
		}
	}
	return n, attr.ids[n]
}

// number reads an enumerated value by its number or its caption.
func (a *attribute) number(t []byte) (int64, bool) {
	if len(t) == 0 || len(t) > 64 {
		return 0, false
	}
	if n, err := strconv.ParseInt(string(t), 10, 64); err == nil {
		_, ok := a.ids[n]
		return n, ok
	}
	n, ok := a.captions[strings.ToLower(string(t))]
	return n, ok
}

func (r *run) writeStatus(out []byte, c *classPlan, o staunch.Outcome) []byte {
	attr := c.class.attrs["status_id"]
	n := int64(0)
	switch {
	case attr.ids[1] == "New":
		n = 1
	case o == staunch.OutcomeSuccess:
		n = 1
	case o == staunch.OutcomeFailure:
		n = 2
	}
	out = append(out, `,"status_id":`...)
	out = strconv.AppendInt(out, n, 10)
	return appendMember(out, "status", attr.ids[n])
}

func appendMember(out []byte, key, value string) []byte {
	out = append(out, ',', '"')
	out = append(out, key...)
	out = append(out, '"', ':')
	return jsondoc.AppendQuoted(out, []byte(value))
}

// writeObject appends the object; ok is false, and nothing assigned, when it
// lacks what the schema requires.
func (r *run) writeObject(out []byte, n *node, st *eventState) (_ []byte, ok bool) {
	start, used := len(out), len(r.used)
	out = append(out, '{')
	out, mask := r.writeChildren(out, n, st)
	if mask == 0 || n.required&^mask != 0 || n.any != 0 && n.any&mask == 0 {
		r.used = r.used[:used]
		return out[:start], false
	}
	return append(out, '}'), true
}

func (r *run) writeChildren(out []byte, n *node, st *eventState) (_ []byte, mask uint64) {
	for i, c := range n.children {
		if c.attr.profile == "cloud" && !st.cloud {
			continue
		}
		mark, used := len(out), len(r.used)
		if out[len(out)-1] != '{' {
			out = append(out, ',')
		}
		out = append(out, c.key...)
		var ok bool
		if out, ok = r.writeAttr(out, c, st); !ok {
			out = out[:mark]
			r.used = r.used[:used]
			continue
		}
		if c.attr.profile == "host" {
			st.host = true
		}
		mask |= 1 << i
	}
	return out, mask
}

func (r *run) writeAttr(out []byte, n *node, st *eventState) ([]byte, bool) {
	switch {
	case n.attr.array:
		return r.writeArray(out, n, st)
	case n.attr.kind == typeObject:
		return r.writeObject(out, n, st)
	case n.attr.ids != nil:
		return r.writeEnum(out, n)
	default:
		return r.writeScalar(out, n.attr, n.expr, r.eval(n.expr))
	}
}

func (r *run) writeArray(out []byte, n *node, st *eventState) ([]byte, bool) {
	out = append(out, '[')
	count := 0
	one := func(it *itemPlan) {
		if count >= maxItems {
			return
		}
		mark, used := len(out), len(r.used)
		if count > 0 {
			out = append(out, ',')
		}
		var ok bool
		if it.obj != nil {
			out, ok = r.writeObject(out, it.obj, st)
		} else {
			out, ok = r.writeScalar(out, n.attr, it.val, r.eval(it.val))
		}
		if !ok {
			out, r.used = out[:mark], r.used[:used]
			return
		}
		count++
	}
	for _, it := range n.items {
		if it.each == nil {
			if it.when == nil || r.holds(it.when) {
				one(it)
			}
			continue
		}
		r.forEach(it.each, it.when, func() bool { one(it); return count < maxItems })
	}
	return append(out, ']'), count > 0
}

// writeEnum appends a number of an enumeration and its caption.
func (r *run) writeEnum(out []byte, n *node) ([]byte, bool) {
	t := r.textOf(r.eval(n.expr))
	if len(t) == 0 {
		return out, false
	}
	v, ok := n.attr.number(t)
	caption := []byte(n.attr.ids[v])
	if !ok || v == 99 {
		// 99 needs the source's own label.
		if _, has := n.attr.ids[99]; !has {
			return out, false
		}
		label := []byte(nil)
		if n.caption != nil {
			label = r.textOf(r.eval(n.caption))
		} else if !ok && !numeric(t) {
			label = t
		}
		if len(label) == 0 || len(label) > 256 {
			return out, false
		}
		v, caption = 99, label
	} else if n.caption != nil {
		r.eval(n.caption) // its value is told by the number
	}
	out = strconv.AppendInt(out, v, 10)
	if n.sibling != nil {
		out = append(out, n.sibling...)
		out = jsondoc.AppendQuoted(out, caption)
	}
	return out, true
}

// writeScalar appends a value as the attribute's type; ok is false when it
// cannot be read as one.
func (r *run) writeScalar(out []byte, a *attribute, e *expr, v result) ([]byte, bool) {
	if v.kind == resNone {
		return out, false
	}
	if a.kind == typeJSON {
		switch v.kind {
		case resNode:
			// The schema takes what is empty for what is not there.
			if k := v.node.Kind(); (k == jsondoc.Object || k == jsondoc.Array) && v.node.Len() == 0 {
				return out, false
			}
			return r.writeJSON(out, v.node), true
		case resLiteral:
			return append(out, v.text...), true
		default:
			return jsondoc.AppendQuoted(out, v.text), true
		}
	}
	if a.kind == typeTime {
		us, ok := e.time.parse(v)
		if !ok {
			return out, false
		}
		return strconv.AppendInt(out, us/1000, 10), true
	}
	t := r.textOf(v)
	if len(t) == 0 || len(t) > maxString {
		return out, false
	}
	switch a.kind {
	case typeString:
		if a.words != nil && !a.words[string(t)] {
			return out, false
		}
		return jsondoc.AppendQuoted(out, t), true
	case typeInt, typeLong, typePort:
		n, ok := wholeNumber(t)
		if !ok || a.kind == typePort && (n < 0 || n > math.MaxUint16) || a.kind == typeInt && (n < math.MinInt32 || n > math.MaxInt32) {
			return out, false
		}
		return strconv.AppendInt(out, n, 10), true
	case typeFloat:
		f, err := strconv.ParseFloat(string(t), 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return out, false
		}
		return strconv.AppendFloat(out, f, 'f', -1, 64), true
	case typeBool:
		switch string(bytes.ToLower(t)) {
		case "true", "yes":
			return append(out, "true"...), true
		case "false", "no":
			return append(out, "false"...), true
		}
		return out, false
	case typeIP:
		addr, ok := parseIP(t)
		if !ok {
			return out, false
		}
		return jsondoc.AppendQuoted(out, []byte(addr.String())), true
	case typeEmail:
		if !isEmail(t) {
			return out, false
		}
	case typeUUID:
		if !isUUID(t) {
			return out, false
		}
	case typeURL:
		if u, err := url.Parse(string(t)); err != nil || u.Scheme == "" {
			return out, false
		}
	case typeMAC:
		if !isMAC(t) {
			return out, false
		}
	case typeSubnet:
		if _, err := netip.ParsePrefix(string(t)); err != nil {
			return out, false
		}
	case typeDatetime:
		if _, err := time.Parse(time.RFC3339Nano, string(t)); err != nil {
			return out, false
		}
	default:
		return out, false
	}
	return jsondoc.AppendQuoted(out, t), true
}

func wholeNumber(t []byte) (int64, bool) {
	if n, err := strconv.ParseInt(string(t), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(t), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// isEmail accepts plain addresses: one @, an ordinary local part, a domain
// with a dot.
func isEmail(t []byte) bool {
	at := bytes.IndexByte(t, '@')
	if at <= 0 || len(t) > 254 {
		return false
	}
	for _, c := range t[:at] {
		if !alnum(c) && strings.IndexByte("!#$%&'*+-/=?^_`{|}~.", c) < 0 {
			return false
		}
	}
	domain := t[at+1:]
	dot := bytes.IndexByte(domain, '.')
	if dot <= 0 || dot == len(domain)-1 {
		return false
	}
	for _, c := range domain {
		if !alnum(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isUUID(t []byte) bool {
	if len(t) != 36 {
		return false
	}
	for i, c := range t {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !hexDigit(c) {
			return false
		}
	}
	return true
}

func isMAC(t []byte) bool {
	if len(t) != 17 {
		return false
	}
	for i, c := range t {
		if i%3 == 2 {
			if c != ':' && c != '-' {
				return false
			}
		} else if !hexDigit(c) {
			return false
		}
	}
	return true
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// writeJSON appends a value of the record on one line, its secrets hidden.
func (r *run) writeJSON(out []byte, v jsondoc.Value) []byte {
	switch v.Kind() {
	case jsondoc.Object:
		out = append(out, '{')
		n := 0
		v.Each(func(key []byte, m jsondoc.Value) bool {
			if n > 0 {
				out = append(out, ',')
			}
			n++
			out = jsondoc.AppendQuoted(out, key)
			out = append(out, ':')
			out = r.writeJSON(out, m)
			return true
		})
		return append(out, '}')
	case jsondoc.Array:
		out = append(out, '[')
		n := 0
		v.Items(func(m jsondoc.Value) bool {
			if n > 0 {
				out = append(out, ',')
			}
			n++
			out = r.writeJSON(out, m)
			return true
		})
		return append(out, ']')
	default:
		return r.writeLeaf(out, v)
	}
}

func (r *run) writeLeaf(out []byte, v jsondoc.Value) []byte {
	if len(r.secrets) > 0 {
		if s := r.secretAt(v.Offset()); s != nil {
			if rule := r.insideRule(v); rule != nil {
				return jsondoc.AppendQuoted(out, r.scrub(r.hideInside(rule, v.Bytes())))
			}
			return jsondoc.AppendQuoted(out, []byte(redaction(s)))
		}
		if v.Kind() == jsondoc.String {
			return jsondoc.AppendQuoted(out, r.scrub(v.Bytes()))
		}
	}
	return append(out, v.Raw()...)
}

// writeUnmapped appends what of v was not assigned; false when nothing is left.
func (r *run) writeUnmapped(out []byte, v jsondoc.Value) ([]byte, bool) {
	if _, used := slices.BinarySearch(r.used, v.Offset()); used && v.Offset() != r.root.Offset() {
		return out, false
	}
	start, n := len(out), 0
	member := func(key []byte, m jsondoc.Value, keyed bool) {
		mark := len(out)
		if n > 0 {
			out = append(out, ',')
		}
		if keyed {
			out = jsondoc.AppendQuoted(out, key)
			out = append(out, ':')
		}
		var wrote bool
		if out, wrote = r.writeUnmapped(out, m); !wrote {
			out = out[:mark]
			return
		}
		n++
	}
	switch v.Kind() {
	case jsondoc.Object:
		if v.Len() == 0 && v.Offset() != r.root.Offset() {
			return append(out, "{}"...), true
		}
		out = append(out, '{')
		v.Each(func(key []byte, m jsondoc.Value) bool { member(key, m, true); return true })
		out = append(out, '}')
	case jsondoc.Array:
		if v.Len() == 0 {
			return append(out, "[]"...), true
		}
		out = append(out, '[')
		v.Items(func(m jsondoc.Value) bool { member(nil, m, false); return true })
		out = append(out, ']')
	default:
		return r.writeLeaf(out, v), true
	}
	if n == 0 {
		return out[:start], false
	}
	return out, true
}
