// Package postgresql reads PostgreSQL's jsonlog (log_destination = jsonlog,
// PostgreSQL 15 and later) and the pgAudit lines inside it. What the records
// mean is in mapping.yaml, and the names it gives in README.md; the code here
// takes apart what PostgreSQL writes as prose: a message's text, pgAudit's CSV,
// the statements about roles.
package postgresql

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"regexp"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

//go:embed mapping.yaml
var source []byte

// New returns the format postgresql.
func New() (format.Format, error) {
	return mapping.Compile(source, "internal/format/postgresql/mapping.yaml", mapping.Options{
		Derived: []string{
			"operation", "event", "account", "database", "remote_port",
			"audit_type", "audit_statement_id", "audit_class", "audit_command", "audit_object_type", "audit_object", "statement",
			"role", "role_action", "granted", "grantee", "session_id", "session_seconds",
		},
		Derive: derive,
	})
}

// maxMessage bounds how much of a message is taken apart, in bytes.
const maxMessage = 256 << 10

// The messages of a connection's life, as PostgreSQL words them in English.
// With another lc_messages these records keep their SQLSTATE and their text,
// and only what needs the words is missing.
var (
	authFailed = regexp.MustCompile(`^(?:password|[A-Za-z0-9-]+) authentication failed for user "((?:[^"]|"")*)"`)
	noRole     = regexp.MustCompile(`^role "((?:[^"]|"")*)" (?:does not exist|is not permitted to log in)`)
	noEntry    = regexp.MustCompile(`^(?:no pg_hba\.conf entry|pg_hba\.conf rejects connection) for .*?user "((?:[^"]|"")*)", database "((?:[^"]|"")*)"`)
)

func derive(rec jsondoc.Value, out *mapping.Derived) {
	msg := rec.Get("message").Bytes()
	if rec.Get("message").Kind() != jsondoc.String || len(msg) > maxMessage {
		msg = nil
	}
	text := string(msg)
	session(rec, out)
	set := func(name, value string) { out.Set(name, []byte(value)) }
	switch {
	case strings.HasPrefix(text, "AUDIT: "):
		audit(text[len("AUDIT: "):], rec, set)
	case strings.HasPrefix(text, "connection authorized: "):
		set("event", "login")
		set("operation", "connection authorized")
		set("account", field(text, "user="))
		set("database", field(text, "database="))
	case strings.HasPrefix(text, "replication connection authorized: "):
		set("event", "login")
		set("operation", "replication connection authorized")
		set("account", field(text, "user="))
	case strings.HasPrefix(text, "connection authenticated: "):
		set("event", "authenticated")
		set("operation", "connection authenticated")
	case strings.HasPrefix(text, "connection received: "):
		set("event", "connect")
		set("operation", "connection received")
		set("remote_port", field(text, "port="))
	case strings.HasPrefix(text, "disconnection: "):
		set("event", "logout")
		set("operation", "disconnection")
		set("account", field(text, "user="))
		set("database", field(text, "database="))
	case authFailed.MatchString(text):
		set("event", "login_failed")
		set("operation", "authentication failed")
		set("account", unquote(authFailed.FindStringSubmatch(text)[1]))
	case noRole.MatchString(text):
		set("event", "login_failed")
		set("operation", "authentication failed")
		set("account", unquote(noRole.FindStringSubmatch(text)[1]))
	case noEntry.MatchString(text):
		m := noEntry.FindStringSubmatch(text)
		set("event", "login_failed")
		set("operation", "authentication failed")
		set("account", unquote(m[1]))
		set("database", unquote(m[2]))
	case code(rec) == "28P01" || code(rec) == "28000" || refusedAtStart(rec):
		set("event", "login_failed")
		set("operation", "authentication failed")
	default:
		if s, ok := loggedStatement(text); ok {
			set("event", "statement")
			statement(s, rec, set)
		} else if s := rec.Get("statement"); s.Kind() == jsondoc.String && s.Len() < maxMessage {
			// An error's statement did not take effect.
			set("event", "error")
			set("operation", command(s.String()))
			set("statement", mask(s.String()))
		} else if t := rec.Get("ps"); t.Kind() == jsondoc.String {
			set("operation", t.String())
		} else {
			set("operation", rec.Get("error_severity").String())
		}
	}
}

// refusedAtStart says that a session ended before it began: its database does
// not exist, the role may not connect to it or has too many connections.
func refusedAtStart(rec jsondoc.Value) bool {
	if rec.Get("error_severity").String() != "FATAL" || rec.Get("backend_type").String() != "client backend" {
		return false
	}
	ps := rec.Get("ps").String()
	return ps == "startup" || ps == "authentication"
}

func code(rec jsondoc.Value) string { return rec.Get("state_code").String() }

// session reads the start and process id out of a session id, which is both in
// hexadecimal.
func session(rec jsondoc.Value, out *mapping.Derived) {
	id := rec.Get("session_id")
	if id.Kind() != jsondoc.String {
		return
	}
	start, pid, ok := strings.Cut(id.String(), ".")
	s, err1 := strconv.ParseInt(start, 16, 64)
	_, err2 := strconv.ParseInt(pid, 16, 64)
	if !ok || err1 != nil || err2 != nil {
		return
	}
	out.Set("session_id", id.Bytes())
	out.Set("session_seconds", strconv.AppendInt(nil, s, 10))
}

// field returns the word after key in a message such as "user=a database=b".
// Names with blanks end at the next key, as far as the message lets one tell.
func field(text, key string) string {
	i := strings.Index(text, " "+key)
	if i < 0 {
		return ""
	}
	rest := text[i+1+len(key):]
	for _, next := range []string{" database=", " application_name=", " host=", " port=", " SSL enabled", " GSS ", " identity="} {
		if j := strings.Index(rest, next); j >= 0 {
			rest = rest[:j]
		}
	}
	return strings.TrimSpace(rest)
}

func unquote(s string) string { return strings.ReplaceAll(s, `""`, `"`) }

// loggedStatement returns the statement of log_statement's or
// log_min_duration_statement's message.
func loggedStatement(text string) (string, bool) {
	if strings.HasPrefix(text, "duration: ") {
		_, rest, ok := strings.Cut(text, " ms  ")
		if !ok {
			return "", false
		}
		text = rest
	}
	if s, ok := strings.CutPrefix(text, "statement: "); ok {
		return s, true
	}
	if strings.HasPrefix(text, "execute ") || strings.HasPrefix(text, "execute fetch from ") {
		if _, s, ok := strings.Cut(text, ": "); ok {
			return s, true
		}
	}
	return "", false
}

// audit takes a pgAudit line apart: type, statement id, substatement id,
// class, command, object type, object, statement, parameter, and rows where it
// logs them.
func audit(line string, rec jsondoc.Value, set func(name, value string)) {
	set("event", "audit")
	r := csv.NewReader(strings.NewReader(line))
	r.FieldsPerRecord = -1
	r.LazyQuotes = true
	f, err := r.Read()
	if err != nil || len(f) < 5 {
		set("operation", "AUDIT")
		return
	}
	for i, name := range []string{"audit_type", "audit_statement_id", "", "audit_class", "audit_command", "audit_object_type", "audit_object"} {
		if name != "" && i < len(f) {
			set(name, f[i])
		}
	}
	if len(f) > 7 && f[7] != "<previously logged>" && f[7] != "<not logged>" {
		statement(f[7], rec, set)
	}
	set("operation", f[4])
	if f[3] != "ROLE" {
		// Only a statement of that class is about roles, whatever its text says.
		for _, n := range []string{"role", "role_action", "granted", "grantee"} {
			set(n, "")
		}
	}
}

// The statements about roles. An identifier is a word or in double quotes.
const ident = `("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*)`

var (
	createRole = regexp.MustCompile(`(?is)^\s*create\s+(?:role|user|group)\s+` + ident)
	alterRole  = regexp.MustCompile(`(?is)^\s*alter\s+(?:role|user)\s+` + ident)
	dropRole   = regexp.MustCompile(`(?is)^\s*drop\s+(?:role|user|group)\s+(?:if\s+exists\s+)?` + ident + `\s*;?\s*$`)
	grantRole  = regexp.MustCompile(`(?is)^\s*grant\s+` + ident + `\s+to\s+` + ident + `\s*(?:;|with\b|granted\b|$)`)
	revokeRole = regexp.MustCompile(`(?is)^\s*revoke\s+(?:admin\s+option\s+for\s+)?` + ident + `\s+from\s+` + ident + `\s*(?:;|cascade\b|restrict\b|granted\b|$)`)
)

// statement notes a statement, its secrets hidden, and what it does to roles.
func statement(s string, _ jsondoc.Value, set func(name, value string)) {
	set("operation", command(s))
	set("statement", mask(s))
	one := func(action string, m []string) {
		set("role_action", action)
		set("role", name(m[1]))
	}
	switch {
	case createRole.MatchString(s):
		one("create", createRole.FindStringSubmatch(s))
	case alterRole.MatchString(s):
		one("alter", alterRole.FindStringSubmatch(s))
		if password.MatchString(s) {
			set("role_action", "password")
		}
	case dropRole.MatchString(s):
		one("drop", dropRole.FindStringSubmatch(s))
	case grantRole.MatchString(s):
		m := grantRole.FindStringSubmatch(s)
		set("role_action", "grant")
		set("granted", name(m[1]))
		set("grantee", name(m[2]))
	case revokeRole.MatchString(s):
		m := revokeRole.FindStringSubmatch(s)
		set("role_action", "revoke")
		set("granted", name(m[1]))
		set("grantee", name(m[2]))
	}
}

// name folds an identifier as PostgreSQL does: to lower case unless quoted.
func name(ident string) string {
	if strings.HasPrefix(ident, `"`) {
		return unquote(strings.Trim(ident, `"`))
	}
	return strings.ToLower(ident)
}

// command returns the command of a statement: its first words in upper case.
func command(s string) string {
	s = strings.TrimSpace(s)
	for strings.HasPrefix(s, "--") || strings.HasPrefix(s, "/*") {
		end := "\n"
		if s[0] == '/' {
			end = "*/"
		}
		_, rest, ok := strings.Cut(s, end)
		if !ok {
			return "COMMENT"
		}
		s = strings.TrimSpace(rest)
	}
	words := strings.FieldsFunc(s[:min(len(s), 256)], func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_'
	})
	if len(words) == 0 {
		return "UNKNOWN"
	}
	first := strings.ToUpper(words[0])
	switch first {
	case "CREATE", "ALTER", "DROP":
		if len(words) > 1 {
			return first + " " + strings.ToUpper(words[1])
		}
	}
	return first
}

// password finds the passwords in a statement; mapping.yaml has the same
// pattern for the record's own texts.
var password = regexp.MustCompile(`(?is)\bpassword\s+(?:(?:e|u&)?'((?:[^'\\]|''|\\.)*)'|\$\w*\$(.*?)\$\w*\$)|\bpassword\s*=\s*'?([^\s'"]+)`)

// mask hides the passwords in a statement.
func mask(s string) string {
	if !strings.Contains(strings.ToLower(s), "password") {
		return s
	}
	var out bytes.Buffer
	last := 0
	for _, m := range password.FindAllStringSubmatchIndex(s, -1) {
		for i := 2; i < len(m); i += 2 {
			if m[i] >= 0 && m[i+1] > m[i] {
				out.WriteString(s[last:m[i]])
				out.WriteString("***")
				last = m[i+1]
				break
			}
		}
	}
	out.WriteString(s[last:])
	return out.String()
}
