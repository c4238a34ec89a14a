package mapping

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// secretRule says which values are secrets and what they are.
type secretRule struct {
	path  *path
	when  *cond
	match *regexp.Regexp
	kind  staunch.Kind // empty: only redacted
	// scheme and realm of the credential's ref
	scheme string
	realm  *expr
	keep   bool
	// inside says that the secret is a part of a longer text, which is shown
	// with only that part hidden.
	inside bool
}

// hidden is what stands in place of a secret that is no credential.
const hidden = "***"

// Keys that by default hold secrets, lower case without '-', '_' and blanks.
var secretNames = []string{
	"authorization", "proxyauthorization", "password", "passwd", "pwd", "passphrase", "secret", "clientsecret",
	"secretkey", "secretaccesskey", "awssecretaccesskey", "privatekey", "apikey", "xapikey", "apitoken", "accesstoken",
	"refreshtoken", "idtoken", "sessiontoken", "securitytoken", "xamzsecuritytoken", "authtoken", "xauthtoken",
	"bearertoken", "xvaulttoken", "token", "cookie", "setcookie", "newpassword", "oldpassword", "masterpassword",
	"masteruserpassword", "webhooksecret", "signingsecret", "connectionstring",
}

// Values under those keys that are none: they were masked before they came, or
// only say that there was one.
var maskedPrefixes = []string{"hmac-sha256:", "sha256:", "<redacted", "[redacted", "hidden_due", "redacted", "***", "xxxx", "<sensitive", "(masked", "****"}

func masked(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	head := strings.ToLower(string(b[:min(len(b), 16)]))
	for _, p := range maskedPrefixes {
		if strings.HasPrefix(head, p) {
			return true
		}
	}
	for _, c := range b {
		if c != '*' && c != 'x' && c != 'X' {
			return false
		}
	}
	return true
}

func normalName(key []byte, buf []byte) []byte {
	for _, c := range key {
		switch {
		case c == '-' || c == '_' || c == ' ' || c == '.':
		case c >= 'A' && c <= 'Z':
			buf = append(buf, c+'a'-'A')
		default:
			buf = append(buf, c)
		}
	}
	return buf
}

// secretName reports whether a key's name says that its value is a secret.
func (f *Format) secretName(key []byte) bool {
	if len(f.secretNames) == 0 || len(key) < f.secretMin || len(key) > 64 {
		return false
	}
	var space [64]byte
	n := normalName(key, space[:0])
	if f.secretNames[string(n)] {
		return !f.notSecret[string(n)]
	}
	for _, suffix := range [...]string{"password", "secret", "passphrase"} {
		if bytes.HasSuffix(n, []byte(suffix)) {
			return !f.notSecret[string(n)]
		}
	}
	return false
}

// span is one secret that was found, before its text is taken.
type span struct {
	v    jsondoc.Value
	rule *secretRule
}

// Secrets returns the record's secrets: those at the mapping's paths, then
// those whose key's name says so.
func (f *Format) Secrets(doc *jsondoc.Doc, env format.Env) []format.SecretValue {
	r := f.begin(doc, env)
	defer f.end(r)
	return r.findSecrets()
}

func (r *run) findSecrets() []format.SecretValue {
	var spans []span
	for _, rule := range r.f.secrets {
		if rule.when != nil && !r.holds(rule.when) {
			continue
		}
		if rule.path.self {
			continue
		}
		each(r.root, rule.path.steps, r.fold, func(v jsondoc.Value) bool {
			if k := v.Kind(); k == jsondoc.String || k == jsondoc.Number {
				spans = append(spans, span{v, rule})
				return true
			}
			// Of what is in an object or array the texts are secret; counts,
			// flags and times are not.
			v.Leaves(func(leaf jsondoc.Value) bool {
				if leaf.Kind() == jsondoc.String && new(time.Time).UnmarshalText(leaf.Bytes()) != nil {
					spans = append(spans, span{leaf, rule})
				}
				return true
			})
			return true
		})
	}
	if len(r.f.secretNames) > 0 {
		r.byName(r.root, &spans)
	}
	out := make([]format.SecretValue, 0, len(spans))
	for _, s := range spans {
		if sv, ok := r.secretValue(s.rule, s.v); ok {
			out = append(out, sv)
		}
	}
	// A value that two rules name is the first one's.
	sort.SliceStable(out, func(i, j int) bool { return out[i].Start < out[j].Start })
	out = slices.CompactFunc(out, func(a, b format.SecretValue) bool { return a.Start == b.Start })
	if len(out) == 0 {
		return nil
	}
	return out
}

// byName collects the scalars under keys whose names say that they are secrets.
func (r *run) byName(v jsondoc.Value, out *[]span) {
	switch v.Kind() {
	case jsondoc.Object:
		v.Each(func(key []byte, m jsondoc.Value) bool {
			if r.f.secretName(key) {
				r.scalars(m, out)
			}
			if k := m.Kind(); k == jsondoc.Object || k == jsondoc.Array {
				r.byName(m, out)
			}
			return true
		})
	case jsondoc.Array:
		v.Items(func(m jsondoc.Value) bool {
			if k := m.Kind(); k == jsondoc.Object || k == jsondoc.Array {
				r.byName(m, out)
			}
			return true
		})
	}
}

func (r *run) scalars(v jsondoc.Value, out *[]span) {
	switch v.Kind() {
	case jsondoc.String, jsondoc.Number:
		*out = append(*out, span{v, r.f.named})
	case jsondoc.Array:
		v.Items(func(m jsondoc.Value) bool {
			if k := m.Kind(); k == jsondoc.String || k == jsondoc.Number || k == jsondoc.Array {
				r.scalars(m, out)
			}
			return true
		})
	}
}

// secretValue returns the secret that the rule sees in v; false where there is
// none.
func (r *run) secretValue(rule *secretRule, v jsondoc.Value) (format.SecretValue, bool) {
	b := v.Bytes()
	if masked(b) {
		return format.SecretValue{}, false
	}
	t := b
	if rule.match != nil {
		m := rule.match.FindSubmatchIndex(b)
		if m == nil {
			return format.SecretValue{}, false
		}
		from, to := matched(m)
		if t = b[from:to]; masked(t) {
			return format.SecretValue{}, false
		}
	}
	out := format.SecretValue{
		Start: v.Offset(), End: v.Offset() + len(v.Raw()),
		Value: staunch.NewSecret(string(t)),
	}
	if rule.kind != "" {
		realm := r.env.Realm
		if rule.realm != nil {
			if t := r.textOf(r.eval(rule.realm)); len(t) > 0 {
				realm = string(t)
			}
		}
		ref := staunch.Ref{Kind: rule.kind, Realm: realm, Scheme: rule.scheme, Value: out.Value.Digest()}
		if ref.Validate() == nil {
			out.Ref, out.Keep = ref, rule.keep
		}
	}
	return out, true
}

// redaction returns what is shown in place of a secret.
func redaction(s *format.SecretValue) string {
	if s.Ref.IsZero() {
		return hidden
	}
	return s.Ref.Value
}

// shown returns what may be shown of a value that the rule is about; ok is
// false when the value is no secret.
func (r *run) shown(rule *secretRule, v jsondoc.Value) ([]byte, bool) {
	// The same values as findSecrets takes, so that keys and the event agree.
	if k := v.Kind(); k != jsondoc.String && k != jsondoc.Number || rule.when != nil && !r.holds(rule.when) {
		return nil, false
	}
	s, ok := r.secretValue(rule, v)
	if !ok {
		return nil, false
	}
	if rule.inside {
		return r.hideInside(rule, v.Bytes()), true
	}
	return r.keep(redaction(&s)), true
}

// matched returns the bounds of the first group that took part in a match, or
// of the whole match where it has no groups.
func matched(m []int) (from, to int) {
	for i := 2; i < len(m); i += 2 {
		if m[i] >= 0 {
			return m[i], m[i+1]
		}
	}
	return m[0], m[1]
}

// hideInside replaces every part of b that the rule matches.
func (r *run) hideInside(rule *secretRule, b []byte) []byte {
	start := len(r.buf)
	last := 0
	for _, m := range rule.match.FindAllSubmatchIndex(b, -1) {
		from, to := matched(m)
		r.buf = append(r.buf, b[last:from]...)
		r.buf = append(r.buf, hidden...)
		last = to
	}
	r.buf = append(r.buf, b[last:]...)
	return r.buf[start:len(r.buf):len(r.buf)]
}

// secretAt returns the secret whose text begins at the offset, or nil.
func (r *run) secretAt(offset int) *format.SecretValue {
	i, ok := slices.BinarySearchFunc(r.secrets, offset, func(s format.SecretValue, o int) int { return s.Start - o })
	if !ok {
		return nil
	}
	return &r.secrets[i]
}

// insideRule returns the rule by which the secret at v is only a part of its
// text, or nil.
func (r *run) insideRule(v jsondoc.Value) *secretRule {
	for _, rule := range r.f.secrets {
		if !rule.inside {
			continue
		}
		found := false
		each(r.root, rule.path.steps, r.fold, func(x jsondoc.Value) bool {
			found = x.Offset() == v.Offset()
			return !found
		})
		if found {
			return rule
		}
	}
	return nil
}

// scrub hides in a text of the record whatever secret of the record it repeats:
// a token in a URL, say, that is also in a header. Secrets of fewer than six
// bytes are too short to tell from other text.
//
// Refs are not scrubbed: they have to be the same in keys, where only the values
// that the mapping calls secrets are known, and in facts.
func (r *run) scrub(t []byte) []byte {
	if r.inRef {
		return t
	}
	for i := range r.secrets {
		s := &r.secrets[i]
		v := s.Value.Reveal()
		if len(v) >= 6 && len(t) >= len(v) && bytes.Contains(t, []byte(v)) {
			t = bytes.ReplaceAll(t, []byte(v), []byte(redaction(s)))
		}
	}
	return t
}

// Redact returns raw, a record's text, with every secret replaced: by its
// digest where it is a credential, else by "***". secrets are as Secrets
// returned them for it.
func Redact(raw []byte, secrets []format.SecretValue) json.RawMessage {
	if len(secrets) == 0 {
		return slices.Clone(raw)
	}
	out := make([]byte, 0, len(raw))
	last := 0
	for i := range secrets {
		s := &secrets[i]
		if s.Start < last || s.End > len(raw) || s.End < s.Start {
			continue
		}
		out = append(out, raw[last:s.Start]...)
		out = jsondoc.AppendQuoted(out, []byte(redaction(s)))
		last = s.End
	}
	return append(out, raw[last:]...)
}
