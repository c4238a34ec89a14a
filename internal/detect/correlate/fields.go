package correlate

import (
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// namespace begins the names of the event's own keys, which stand in group-by,
// field and aliases beside the record's fields.
const namespace = "staunch."

// The names of the event's own keys.
const (
	FieldSession    = "staunch.session"
	FieldCredential = "staunch.credential"
	FieldAccount    = "staunch.account"
	// The values alone, to compare with fields of other records.
	FieldSessionValue    = "staunch.session.value"
	FieldCredentialValue = "staunch.credential.value"
	FieldAccountValue    = "staunch.account.value"

	FieldIssued    = "staunch.issued"
	FieldTarget    = "staunch.target"
	FieldSourceIP  = "staunch.source_ip"
	FieldNetwork   = "staunch.network"
	FieldOperation = "staunch.operation"
	FieldOutcome   = "staunch.outcome"
	FieldUserAgent = "staunch.user_agent"
	FieldRealm     = "staunch.realm"
	FieldSource    = "staunch.source"
)

var fieldNames = []string{
	FieldSession, FieldCredential, FieldAccount, FieldSessionValue, FieldCredentialValue, FieldAccountValue, FieldIssued, FieldTarget, FieldSourceIP, FieldNetwork, FieldOperation,
	FieldOutcome, FieldUserAgent, FieldRealm, FieldSource,
}

// Bits of a network that count as one.
const (
	network4 = 24
	network6 = 48
)

// Network returns the network that an address belongs to: its /24, or its /48
// for IPv6; "" for what is no address.
func Network(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return ""
	}
	bits := network6
	if a = a.Unmap().WithZone(""); a.Is4() {
		bits = network4
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

// Event is a kept record as correlations see it.
type Event struct {
	staunch.Event
	Doc *jsondoc.Doc
	// Ceiling is its source's.
	Ceiling staunch.Tier
	// Origin is its source's, "" where that is the source itself.
	Origin string
	// Facts are those that it states.
	Facts []staunch.Fact
	// Hide returns what stands for a value of the record that must not be kept
	// in plain, or the value itself. nil hides nothing.
	Hide func(string) string
	// Accuse returns the refs that the rule accuses and the source may accuse:
	// those of accuse:, or the format's default where the rule has none and
	// narrowest names no kind; otherwise the event's ref of that kind.
	Accuse func(r *Rule, narrowest staunch.Kind) []staunch.Ref
	paths  map[string]jsondoc.Path
}

// field is the text of a field, and whether it is there and no null, object or
// empty list.
func (e *Event) field(name string) (string, bool) {
	if strings.HasPrefix(name, namespace) {
		v := e.own(name)
		return v, v != ""
	}
	p, ok := e.paths[name]
	if !ok {
		if e.paths == nil {
			e.paths = map[string]jsondoc.Path{}
		}
		p = jsondoc.ParsePath(name).Fold()
		e.paths[name] = p
	}
	v, found := "", false
	e.Doc.Root().Walk(p, func(x jsondoc.Value) bool {
		switch x.Kind() {
		case jsondoc.String, jsondoc.Number, jsondoc.Bool:
			v, found = x.String(), true
			return false
		}
		return true
	})
	if found && e.Hide != nil {
		v = e.Hide(v)
	}
	return v, found
}

func (e *Event) own(name string) string {
	switch name {
	case FieldSession:
		return e.actor(staunch.KindSession).String()
	case FieldCredential:
		return e.actor(staunch.KindCredential).String()
	case FieldAccount:
		return e.actor(staunch.KindAccount).String()
	case FieldSessionValue:
		return e.actor(staunch.KindSession).Value
	case FieldCredentialValue:
		return e.actor(staunch.KindCredential).Value
	case FieldAccountValue:
		return e.actor(staunch.KindAccount).Value
	case FieldIssued:
		for _, f := range e.Facts {
			if f.Type == staunch.FactCredentialIssued || f.Type == staunch.FactSessionStarted && f.Subject.Kind == staunch.KindCredential {
				return f.Subject.String()
			}
		}
		return e.target(staunch.KindCredential)
	case FieldTarget:
		return e.target("")
	case FieldSourceIP:
		return e.SourceIP
	case FieldNetwork:
		return Network(e.SourceIP)
	case FieldOperation:
		return e.Operation
	case FieldOutcome:
		return string(e.Outcome)
	case FieldUserAgent:
		return e.userAgent()
	case FieldRealm:
		return e.Realm
	case FieldSource:
		return e.Source
	}
	return ""
}

// userAgent is the one that the format maps, or what the record calls so.
func (e *Event) userAgent() string {
	var o struct {
		HTTPRequest struct {
			UserAgent string `json:"user_agent"`
		} `json:"http_request"`
	}
	if err := json.Unmarshal(e.OCSF, &o); err == nil && o.HTTPRequest.UserAgent != "" {
		return o.HTTPRequest.UserAgent
	}
	for _, name := range []string{"userAgent", "user_agent"} {
		if v, ok := e.field(name); ok {
			return v
		}
	}
	return ""
}

// actor returns the actor's first ref of a kind.
func (e *Event) actor(k staunch.Kind) staunch.Ref {
	for _, r := range e.Actor {
		if r.Kind == k {
			return r
		}
	}
	return staunch.Ref{}
}

// target returns the first ref acted upon, of a kind where one is given.
func (e *Event) target(k staunch.Kind) string {
	for _, r := range e.Targets {
		if k == "" || r.Kind == k {
			return r.String()
		}
	}
	return ""
}
