package ledger

import (
	"slices"
	"strings"
	"testing"
)

// script makes a ledger of "session|statement" lines, each followed by its
// duration unless it ends in "!", which is an error, or "?", after which the
// session says nothing more; "~" is a warning before the duration.
func script(lines ...string) []Entry {
	var out []Entry
	add := func(session, severity, code, message string) {
		user, name, ok := strings.Cut(session, "@")
		if !ok {
			user, name = "actor", session
		}
		out = append(out, Entry{Time: "2026-01-02 03:04:05.678 UTC", User: user, Session: name, PID: 100 + len(name), Severity: severity, Code: code, Message: message})
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
	intents := []Intent{{Key: "stp_l", Undo: true}, {Key: "stp_g", Undo: true}, {Key: "stp_s", Sessions: true, Undo: true}}
	without := func(list []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
	}
	for name, c := range map[string]struct {
		lines                       []string
		lost, doubled, early, wrong int
		repeats                     int
		intents                     []Intent
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
		"an undo without its durable intent": {lines: whole, intents: []Intent{{Key: "stp_l"}, intents[1], intents[2]}, early: 1},
	} {
		if c.intents == nil {
			c.intents = intents
		}
		j := PostgreSQL(script(c.lines...), "actor", "prover")
		lost, doubled, repeats := j.Account(c.intents, "victim")
		early := j.Early(c.intents)
		if len(lost) != c.lost || len(doubled) != c.doubled || len(early) != c.early || len(j.Wrong) != c.wrong || repeats != c.repeats {
			t.Errorf("%s: lost %v, doubled %v, early %v, wrong %v, %d repeats", name, lost, doubled, early, j.Wrong, repeats)
		}
	}
}

func TestParts(t *testing.T) {
	t.Parallel()
	j := Judgement{Effects: []Effect{
		{Key: "a", Kind: Suspends, Took: true}, {Key: "b", Kind: Suspends, Took: true}, {Key: "a", Kind: Suspends, Took: true},
		{Key: "a", Kind: Restores}, {Key: "a", Kind: Restores, Took: true}, {Key: "a", Kind: Suspends, Took: true},
	}}
	var told []string
	for _, e := range j.Once().Of(map[string]bool{"a": true}).Effects {
		told = append(told, string(e.Kind))
	}
	if got := strings.Join(told, " "); got != "NOLOGIN LOGIN LOGIN NOLOGIN" {
		t.Errorf("of a step: %s", got)
	}
	if got := len(j.Of(map[string]bool{"b": true}).Effects); got != 1 {
		t.Errorf("of another: %d effects", got)
	}
}
