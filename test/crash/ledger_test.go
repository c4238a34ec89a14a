package crash_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// entry is a line of PostgreSQL's jsonlog.
type entry struct {
	Time      string `json:"timestamp"`
	User      string `json:"user"`
	Database  string `json:"dbname"`
	PID       int    `json:"pid"`
	Session   string `json:"session_id"`
	Severity  string `json:"error_severity"`
	Code      string `json:"state_code"`
	Message   string `json:"message"`
	Statement string `json:"statement"`
}

// ledger is the server's log, read as it grows.
type ledger struct {
	path   string
	offset int64
	begun  bool
}

// follow begins at the log's present end.
func follow(path string) (ledger, error) {
	info, err := os.Stat(path)
	if err != nil {
		return ledger{}, fmt.Errorf("reading the log: %w", err)
	}
	return ledger{path: path, offset: info.Size()}, nil
}

// lines returns the whole lines since the last time. What the first may lack of
// its beginning is left out.
func (l *ledger) lines() ([][]byte, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(l.offset, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	if end == 0 {
		return nil, nil
	}
	l.offset += int64(end)
	out := bytes.Split(b[:end-1], []byte("\n"))
	if !l.begun && len(out) > 0 && !bytes.HasPrefix(out[0], []byte("{")) {
		out = out[1:]
	}
	l.begun = true
	return out, nil
}

// read returns PostgreSQL's entries since the last time.
func (l *ledger) read() ([]entry, error) {
	lines, err := l.lines()
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(lines))
	for _, line := range lines {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("reading the server's log: %w: %s", err, line)
		}
		out = append(out, e)
	}
	return out, nil
}

// effectKind is what a marked statement is about.
type effectKind string

const (
	suspends   effectKind = "NOLOGIN"
	restores   effectKind = "LOGIN"
	revokes    effectKind = "REVOKE"
	grants     effectKind = "GRANT"
	terminates effectKind = "terminate"
)

// undoes says that the kind is the undo of another.
func (k effectKind) undoes() bool { return k == restores || k == grants }

// effect is a change that was sent.
type effect struct {
	Key  string
	Kind effectKind
	At   time.Time
	// Took says that it took effect: completed and committed.
	Took bool
	// Backends are the sessions that a termination names, as "pid/start".
	Backends []string
}

var (
	// marked is what every change must look like.
	marked = regexp.MustCompile(`^statement: /\* staunch step=([A-Za-z0-9_-]+) \*/ (.*)$`)
	// changes is what no statement of the connector may have without a mark.
	changes  = regexp.MustCompile(`(?i)\b(ALTER|GRANT|REVOKE|CREATE|DROP|INSERT|UPDATE|DELETE|TRUNCATE|COPY|DO|CALL|pg_terminate_backend|pg_cancel_backend)\b`)
	backends = regexp.MustCompile(`\((\d+), (\d+)\)`)
	login    = regexp.MustCompile(`^ALTER ROLE \S+ (NOLOGIN|LOGIN); COMMIT$`)
)

// judgement is what a ledger says.
type judgement struct {
	Effects []effect
	// Ended has the sessions that the server ended by an administrator's
	// command, the pid with its user.
	Ended map[int]string
	// Wrong has what no ledger may have.
	Wrong []string
}

// judge reads the statements of one actor out of a ledger.
func judge(entries []entry, actor, prover string) judgement {
	j := judgement{Ended: map[int]string{}}
	wrong := func(format string, args ...any) { j.Wrong = append(j.Wrong, fmt.Sprintf(format, args...)) }
	pending := map[string][]int{} // session → effects in its open transaction
	for i, e := range entries {
		if e.Code == "57P01" {
			j.Ended[e.PID] = e.User
		}
		if e.User == prover && strings.Contains(e.Message, "staunch step=") {
			wrong("the account that only proves sent %s", e.Message)
		}
		if e.User != actor && e.User != prover || e.Severity != "LOG" {
			continue
		}
		_, text, isStatement := strings.Cut(e.Message, ": ")
		if !isStatement || strings.HasPrefix(e.Message, "duration") {
			continue
		}
		m := marked.FindStringSubmatch(e.Message)
		if m == nil {
			if changes.MatchString(text) {
				wrong("a change without a key: %s", e.Message)
			}
			if strings.HasPrefix(text, "ROLLBACK") || strings.HasPrefix(text, "BEGIN") || strings.HasPrefix(text, "COMMIT") {
				delete(pending, e.Session)
			}
			continue
		}
		key, body := m[1], m[2]
		at, err := time.Parse("2006-01-02 15:04:05.000 MST", e.Time)
		if err != nil {
			wrong("a line without a time: %v", err)
		}
		done := completed(entries[i+1:], e.Session)
		switch {
		case body == "COMMIT":
			if done {
				for _, n := range pending[e.Session] {
					if j.Effects[n].Key == key {
						j.Effects[n].Took = true
					} else {
						wrong("the COMMIT of %s ends a transaction of %s", key, j.Effects[n].Key)
					}
				}
			}
			delete(pending, e.Session)
		case login.MatchString(body):
			j.Effects = append(j.Effects, effect{Key: key, Kind: effectKind(login.FindStringSubmatch(body)[1]), At: at, Took: done})
		case strings.HasPrefix(body, "SELECT pg_terminate_backend("):
			x := effect{Key: key, Kind: terminates, At: at, Took: done}
			for _, b := range backends.FindAllStringSubmatch(body, -1) {
				x.Backends = append(x.Backends, b[1]+"/"+b[2])
			}
			j.Effects = append(j.Effects, x)
		case strings.HasSuffix(body, "; RESET ROLE"):
			x := effect{Key: key, Kind: grants, At: at}
			if strings.Contains(body, "REVOKE ") {
				x.Kind = revokes
			}
			j.Effects = append(j.Effects, x)
			if done {
				pending[e.Session] = append(pending[e.Session], len(j.Effects)-1)
			}
		default:
			wrong("a marked statement that is not known: %s", e.Message)
		}
	}
	return j
}

// completed says whether the session's statement came to its end without an
// error: before anything else is sent, its duration is told.
func completed(rest []entry, session string) bool {
	for _, e := range rest {
		if e.Session != session {
			continue
		}
		switch {
		case e.Severity == "LOG" && strings.HasPrefix(e.Message, "duration: "):
			return true
		case e.Severity == "LOG", e.Severity == "ERROR", e.Severity == "FATAL", e.Severity == "PANIC":
			return false
		}
		// A warning, such as that a session to be ended had just gone by itself.
	}
	return false
}

// intent is what staunch's database says of a step.
type intent struct {
	Key string
	// Sessions says that it ends sessions, so that it may be repeated.
	Sessions bool
	// Final says that it cannot be undone.
	Final bool
	// Undo says that the intent to undo it is durable.
	Undo bool
}

// early returns the effects whose intent is not durable.
func (j judgement) early(intents []intent) []string {
	var out []string
	for _, e := range j.Effects {
		i := slices.IndexFunc(intents, func(n intent) bool { return n.Key == e.Key })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("%s was sent and step %s is not durable", e.Kind, e.Key))
		case e.Kind.undoes() && !intents[i].Undo:
			out = append(out, fmt.Sprintf("%s was sent and step %s has no durable intent to undo it", e.Kind, e.Key))
		}
	}
	return out
}

// account compares the ledger of a whole run with its intents: each one that
// changes the role took effect once and was undone once, in this order, and the
// sessions that were ended are user's.
func (j judgement) account(intents []intent, user string) (lost, doubled []string, repeats int) {
	took := map[string]map[bool]int{}
	undone := map[string]bool{}
	var over bool // something was undone
	named := map[string]bool{}
	for _, e := range j.Effects {
		if e.Kind == terminates {
			for _, b := range e.Backends {
				if named[b] {
					repeats++
				}
				named[b] = true
				pid, err := strconv.Atoi(strings.Split(b, "/")[0])
				if err != nil {
					doubled = append(doubled, "a session that cannot be read: "+b)
				}
				if who, ended := j.Ended[pid]; ended && who != user {
					doubled = append(doubled, fmt.Sprintf("a session of %s was ended", who))
				}
			}
			if over {
				doubled = append(doubled, "sessions were ended after the release began: "+e.Key)
			}
			continue
		}
		if e.Kind.undoes() {
			over = true
		} else if undone[e.Key] && e.Took {
			doubled = append(doubled, fmt.Sprintf("%s of %s took effect after it was undone", e.Kind, e.Key))
		}
		if !e.Took {
			continue
		}
		if took[e.Key] == nil {
			took[e.Key] = map[bool]int{}
		}
		took[e.Key][e.Kind.undoes()]++
		if e.Kind.undoes() {
			undone[e.Key] = true
		}
	}
	for _, n := range intents {
		if n.Sessions {
			ended := slices.ContainsFunc(j.Effects, func(e effect) bool { return e.Key == n.Key && e.Took })
			if !ended {
				lost = append(lost, "step "+n.Key+" ended no session")
			}
			continue
		}
		for _, undo := range []bool{false, true} {
			if undo && n.Final {
				if took[n.Key][undo] > 0 {
					doubled = append(doubled, "what cannot be undone was: step "+n.Key)
				}
				continue
			}
			what := map[bool]string{false: "the change", true: "the undo"}[undo]
			switch c := took[n.Key][undo]; {
			case c == 0:
				lost = append(lost, what+" of step "+n.Key+" took no effect")
			case c > 1:
				doubled = append(doubled, fmt.Sprintf("%s of step %s took effect %d times", what, n.Key, c))
			}
		}
	}
	for _, e := range j.Effects {
		if !slices.ContainsFunc(intents, func(n intent) bool { return n.Key == e.Key }) {
			doubled = append(doubled, fmt.Sprintf("%s under the key %s, which is no step", e.Kind, e.Key))
		}
	}
	return lost, doubled, repeats
}

// ---- the judge is judged

// script makes a ledger of "session|statement" lines, each followed by its
// duration unless it ends in "!", which is an error, or "?", after which the
// session says nothing more; "~" is a warning before the duration.
func script(lines ...string) []entry {
	var out []entry
	add := func(session, severity, code, message string) {
		user, name, ok := strings.Cut(session, "@")
		if !ok {
			user, name = "actor", session
		}
		out = append(out, entry{Time: "2026-01-02 03:04:05.678 UTC", User: user, Session: name, PID: 100 + len(name), Severity: severity, Code: code, Message: message})
	}
	for _, l := range lines {
		session, text, _ := strings.Cut(l, "|")
		switch {
		case text == "ended":
			add(session, "FATAL", "57P01", "terminating connection due to administrator command")
		case strings.HasSuffix(text, "!"):
			add(session, "LOG", "00000", "statement: "+strings.TrimSuffix(text, "!"))
			add(session, "ERROR", "42501", "permission denied")
		case strings.HasSuffix(text, "~"):
			add(session, "LOG", "00000", "statement: "+strings.TrimSuffix(text, "~"))
			add(session, "WARNING", "01000", "PID 102 is not a PostgreSQL backend process")
			add(session, "LOG", "00000", "duration: 0.1 ms")
		case strings.HasSuffix(text, "?"):
			add(session, "LOG", "00000", "statement: "+strings.TrimSuffix(text, "?"))
		default:
			add(session, "LOG", "00000", "statement: "+text)
			add(session, "LOG", "00000", "duration: 0.1 ms")
		}
	}
	return out
}

func TestJudge(t *testing.T) {
	t.Parallel()
	const (
		nologin = "s1|/* staunch step=stp_l */ ALTER ROLE x NOLOGIN; COMMIT"
		back    = "s1|/* staunch step=stp_l */ ALTER ROLE x LOGIN; COMMIT"
		begin   = "s2|BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock(1, 0)"
		revoke  = "s2|/* staunch step=stp_g */ SET LOCAL ROLE o; REVOKE SELECT ON TABLE t FROM x; RESET ROLE"
		grant   = "s2|/* staunch step=stp_g */ GRANT SELECT ON TABLE t TO x; RESET ROLE"
		commit  = "s2|/* staunch step=stp_g */ COMMIT"
		end     = "s1|/* staunch step=stp_s */ SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE (a.pid, 1) IN ((101, 5))"
		ended   = "victim@v|ended"
	)
	whole := []string{nologin, begin, revoke, commit, end, ended, begin, grant, commit, back}
	intents := []intent{{Key: "stp_l", Undo: true}, {Key: "stp_g", Undo: true}, {Key: "stp_s", Sessions: true, Undo: true}}
	without := func(list []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
	}
	for name, c := range map[string]struct {
		lines                       []string
		lost, doubled, early, wrong int
		repeats                     int
		intents                     []intent
	}{
		"all is well":                        {lines: whole},
		"a crash before the commit":          {lines: append([]string{begin, revoke + "?"}, whole...)},
		"an error, then again":               {lines: append([]string{nologin + "!"}, whole...)},
		"rolled back, then again":            {lines: append([]string{begin, revoke, "s2|ROLLBACK"}, whole...)},
		"the login twice":                    {lines: append([]string{nologin}, whole...), doubled: 1},
		"the grants twice":                   {lines: append([]string{begin, revoke, commit}, whole...), doubled: 1},
		"the undo twice":                     {lines: append(slices.Clone(whole), back), doubled: 1},
		"again after the undo":               {lines: append(slices.Clone(whole), nologin), doubled: 2},
		"no login":                           {lines: without(whole, nologin), lost: 1},
		"the commit is missing":              {lines: []string{nologin, begin, revoke, end, ended, begin, grant, commit, back}, lost: 1},
		"the commit's answer is missing":     {lines: append([]string{nologin, begin, revoke, commit + "?", end, ended}, whole[6:]...), lost: 1},
		"never undone":                       {lines: whole[:6], lost: 2},
		"no session ended":                   {lines: without(whole, end), lost: 1},
		"a session went by itself":           {lines: append(without(whole, end)[:4:4], append([]string{end + "~"}, without(whole, end)[4:]...)...)},
		"a session named again":              {lines: append([]string{end}, whole...), repeats: 1},
		"sessions ended after the release":   {lines: append(slices.Clone(whole), strings.Replace(end, "101", "999", 1)), doubled: 1},
		"another's session ended":            {lines: append(without(whole, ended), "other@v|ended"), doubled: 1},
		"no key":                             {lines: append(slices.Clone(whole), "s3|ALTER ROLE x NOLOGIN"), wrong: 1},
		"a key with an unknown statement":    {lines: append(slices.Clone(whole), "s3|/* staunch step=stp_l */ DROP ROLE x"), wrong: 1},
		"the prover changes something":       {lines: append(slices.Clone(whole), "prover@s3|/* staunch step=stp_l */ ALTER ROLE x LOGIN; COMMIT!"), wrong: 1},
		"the commit is another's":            {lines: append([]string{begin, revoke, "s2|/* staunch step=stp_l */ COMMIT"}, whole...), wrong: 1},
		"a key that is no step":              {lines: append(slices.Clone(whole), "s3|/* staunch step=stp_x */ ALTER ROLE x LOGIN; COMMIT!"), doubled: 1, early: 1},
		"a step that is not durable":         {lines: whole, intents: intents[1:], doubled: 2, early: 2},
		"an undo without its durable intent": {lines: whole, intents: []intent{{Key: "stp_l"}, intents[1], intents[2]}, early: 1},
	} {
		if c.intents == nil {
			c.intents = intents
		}
		j := judge(script(c.lines...), "actor", "prover")
		lost, doubled, repeats := j.account(c.intents, "victim")
		early := j.early(c.intents)
		if len(lost) != c.lost || len(doubled) != c.doubled || len(early) != c.early || len(j.Wrong) != c.wrong || repeats != c.repeats {
			t.Errorf("%s: lost %v, doubled %v, early %v, wrong %v, %d repeats", name, lost, doubled, early, j.Wrong, repeats)
		}
	}
}
