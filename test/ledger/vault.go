package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// StepHeader is what staunch sends its step's key in.
const StepHeader = "X-Staunch-Step"

// AuditEntry is a line of the audit device.
type AuditEntry struct {
	Type  string `json:"type"`
	Time  string `json:"time"`
	Error string `json:"error"`
	Auth  struct {
		Policies []string `json:"policies"`
	} `json:"auth"`
	Request struct {
		Operation string              `json:"operation"`
		Path      string              `json:"path"`
		Headers   map[string][]string `json:"headers"`
		Data      map[string]any      `json:"data"`
	} `json:"request"`
	Response struct {
		Warnings []string `json:"warnings"`
	} `json:"response"`
}

// mutates says whether a request changes something, and what.
func mutates(e AuditEntry) (Kind, bool) {
	r := e.Request
	switch {
	case r.Operation == "read" || r.Operation == "list" || r.Operation == "help":
		return "", false
	case strings.HasPrefix(r.Path, "identity/"):
		if off, ok := r.Data["disabled"].(bool); ok && !off {
			return Restores, true
		}
		return Suspends, true
	case strings.Contains(r.Path, "revoke"):
		return Revokes, true
	case slices.ContainsFunc([]string{"auth/token/lookup", "auth/token/lookup-accessor", "sys/leases/lookup", "sys/capabilities-self"},
		func(p string) bool { return r.Path == p }), strings.HasPrefix(r.Path, "sys/audit-hash/"), strings.HasPrefix(r.Path, "sys/leases/lookup/"):
		return "", false // reads that are posted
	}
	return "unknown", true
}

// Vault reads the changes that the tokens with a policy made out of the audit
// device's lines, and those of the tokens that only prove. entity is the only one
// that may be changed, "" for any. An answer without an error is a change that took
// effect.
func Vault(entries []AuditEntry, actor, prover, entity string) Judgement {
	j := Judgement{Ended: map[int]string{}}
	wrong := func(format string, args ...any) { j.Wrong = append(j.Wrong, fmt.Sprintf(format, args...)) }
	for _, e := range entries {
		acts, proves := slices.Contains(e.Auth.Policies, actor), slices.Contains(e.Auth.Policies, prover)
		if e.Type != "response" || !acts && !proves {
			continue
		}
		kind, changes := mutates(e)
		var key string
		for h, v := range e.Request.Headers {
			if strings.EqualFold(h, StepHeader) && len(v) == 1 {
				key = v[0]
			}
		}
		switch {
		case !changes:
			continue
		case proves:
			wrong("the token that only proves sent %s %s", e.Request.Operation, e.Request.Path)
		case key == "":
			wrong("a change without a key: %s %s", e.Request.Operation, e.Request.Path)
		case kind == "unknown":
			wrong("a change that is not known: %s %s", e.Request.Operation, e.Request.Path)
		case kind != Revokes && entity != "" && e.Request.Path != "identity/entity/id/"+entity:
			wrong("another's entity was changed: %s", e.Request.Path)
		}
		at, err := time.Parse(time.RFC3339Nano, e.Time)
		if err != nil {
			wrong("a line without a time: %v", err)
		}
		took := e.Error == "" && !slices.ContainsFunc(e.Response.Warnings, func(w string) bool { return strings.Contains(w, "No token found") })
		j.Effects = append(j.Effects, Effect{Key: key, Kind: kind, At: at, Took: took})
	}
	return j
}
