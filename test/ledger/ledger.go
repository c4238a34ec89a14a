// Package ledger reads what platforms themselves wrote down of what they were
// asked to do, and judges by it what took effect, how often, and whether its
// intent was durable.
package ledger

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
	"time"
)

// Entry is a line of PostgreSQL's jsonlog.
type Entry struct {
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

// Log is a server's log, read as it grows.
type Log struct {
	path   string
	offset int64
	begun  bool
}

// Follow begins at the log's present end.
func Follow(path string) (*Log, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return &Log{path: path, offset: info.Size()}, nil
}

// Lines returns the whole lines since the last time. What the first may lack of
// its beginning is left out.
func (l *Log) Lines() ([][]byte, error) {
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

// Read returns PostgreSQL's entries since the last time.
func (l *Log) Read() ([]Entry, error) {
	lines, err := l.Lines()
	if err != nil {
		return nil, err
	}
	out := make([]Entry, 0, len(lines))
	for _, line := range lines {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("reading the server's log: %w: %s", err, line)
		}
		out = append(out, e)
	}
	return out, nil
}

// Kind is what a marked statement is about.
type Kind string

// The kinds of effects.
const (
	Suspends   Kind = "NOLOGIN"
	Restores   Kind = "LOGIN"
	Revokes    Kind = "REVOKE"
	Grants     Kind = "GRANT"
	Terminates Kind = "terminate"
)

// Undoes says that the kind is the undo of another.
func (k Kind) Undoes() bool { return k == Restores || k == Grants }

// Effect is a change that was sent.
type Effect struct {
	Key  string
	Kind Kind
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

// Judgement is what a ledger says.
type Judgement struct {
	Effects []Effect
	// Ended has the sessions that the server ended by an administrator's
	// command, the pid with its user.
	Ended map[int]string
	// Wrong has what no ledger may have.
	Wrong []string
}

// PostgreSQL reads the statements of one actor out of a ledger.
func PostgreSQL(entries []Entry, actor, prover string) Judgement {
	j := Judgement{Ended: map[int]string{}}
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
			j.Effects = append(j.Effects, Effect{Key: key, Kind: Kind(login.FindStringSubmatch(body)[1]), At: at, Took: done})
		case strings.HasPrefix(body, "SELECT pg_terminate_backend("):
			x := Effect{Key: key, Kind: Terminates, At: at, Took: done}
			for _, b := range backends.FindAllStringSubmatch(body, -1) {
				x.Backends = append(x.Backends, b[1]+"/"+b[2])
			}
			j.Effects = append(j.Effects, x)
		case strings.HasSuffix(body, "; RESET ROLE"):
			x := Effect{Key: key, Kind: Grants, At: at}
			if strings.Contains(body, "REVOKE ") {
				x.Kind = Revokes
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
func completed(rest []Entry, session string) bool {
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

// Intent is what staunch's database says of a step.
type Intent struct {
	Key string
	// Sessions says that it ends sessions, so that it may be repeated.
	Sessions bool
	// Final says that it cannot be undone.
	Final bool
	// Undo says that the intent to undo it is durable.
	Undo bool
}

// Early returns the effects whose intent is not durable.
func (j Judgement) Early(intents []Intent) []string {
	var out []string
	for _, e := range j.Effects {
		i := slices.IndexFunc(intents, func(n Intent) bool { return n.Key == e.Key })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("%s was sent and step %s is not durable", e.Kind, e.Key))
		case e.Kind.Undoes() && !intents[i].Undo:
			out = append(out, fmt.Sprintf("%s was sent and step %s has no durable intent to undo it", e.Kind, e.Key))
		}
	}
	return out
}

// Account compares the ledger of a whole run with its intents: each one that
// changes the role took effect once and was undone once, in this order, and the
// sessions that were ended are user's.
func (j Judgement) Account(intents []Intent, user string) (lost, doubled []string, repeats int) {
	took := map[string]map[bool]int{}
	undone := map[string]bool{}
	var over bool // something was undone
	named := map[string]bool{}
	for _, e := range j.Effects {
		if e.Kind == Terminates {
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
		if e.Kind.Undoes() {
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
		took[e.Key][e.Kind.Undoes()]++
		if e.Kind.Undoes() {
			undone[e.Key] = true
		}
	}
	for _, n := range intents {
		if n.Sessions {
			ended := slices.ContainsFunc(j.Effects, func(e Effect) bool { return e.Key == n.Key && e.Took })
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
		if !slices.ContainsFunc(intents, func(n Intent) bool { return n.Key == e.Key }) {
			doubled = append(doubled, fmt.Sprintf("%s under the key %s, which is no step", e.Kind, e.Key))
		}
	}
	return lost, doubled, repeats
}

// Of returns the effects of the steps with these keys.
func (j Judgement) Of(keys map[string]bool) Judgement {
	out := Judgement{Ended: j.Ended}
	for _, e := range j.Effects {
		if keys[e.Key] {
			out.Effects = append(out.Effects, e)
		}
	}
	return out
}

// Once returns the effects without those that repeat the one before of the same
// step: on a platform where a change to what is so already changes nothing.
func (j Judgement) Once() Judgement {
	out := Judgement{Ended: j.Ended, Wrong: j.Wrong}
	last := map[string]Kind{}
	for _, e := range j.Effects {
		if e.Took && last[e.Key] == e.Kind {
			continue
		}
		if e.Took {
			last[e.Key] = e.Kind
		}
		out.Effects = append(out.Effects, e)
	}
	return out
}
