package record

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/staunch-project/staunch"
)

// maxCell bounds a cell of the report, in characters; the document has the whole.
const maxCell = 300

// WriteReport writes the bundle as a report in Markdown, for people. All that it
// says stands in the document. What comes from records that others wrote is
// escaped, so that it makes no link, image or markup.
func (e Evidence) WriteReport(w io.Writer) error {
	b := bufio.NewWriter(w)
	r := report{w: b}
	con := e.Containment
	r.line("# Containment %s", md(con.ID))
	r.line("")
	r.line("%s was contained at tier %s. Put together at %s from one snapshot of the store.", code(con.Subject.String()), con.Tier, e.At)
	r.line("")
	r.table("what", "is")
	r.field("subject", code(con.Subject.String()))
	r.field("identity", identity(con.Identity))
	r.field("opened by", md(string(con.Origin)))
	r.field("asked for by", md(con.Requester))
	r.field("approved by", md(con.Approver))
	r.field("drill", md(con.Drill))
	r.field("phase", md(string(con.Phase)))
	r.field("playbook", md(con.Playbook.Name))
	r.field("compromised since", con.Since.String())
	r.field("opened", con.Opened.String())
	r.field("first effect proven", con.EffectAt.String())
	r.field("runs out", con.Expires.String())
	r.field("scope", code(e.ScopeHash))
	if con.Residual > 0 {
		r.field("still succeeded", fmt.Sprintf("%d times after the proven effect", con.Residual))
	}
	r.field("trouble", md(con.Trouble))
	if rel := con.Release; rel != nil {
		r.field("released by", md(rel.By)+" at "+rel.At.String()+": "+md(rel.Reason))
		switch {
		case rel.Rotated:
			r.field("secrets", "were replaced first")
		case rel.TokenLife > 0:
			r.field("secrets", fmt.Sprintf("live for %s and have run out while they were denied", rel.TokenLife.Std()))
		case rel.Revive:
			r.field("secrets", "that come back to life were confirmed")
		}
		r.field("judged", md(string(rel.Verdict)))
		for _, k := range rel.Kept {
			r.field("stays in force", md(k))
		}
	}

	if len(e.Truncated) > 0 {
		r.heading("What is not here")
		for _, t := range e.Truncated {
			r.line("- %s", md(t))
		}
	}

	r.heading("What happened")
	if r.some(len(e.Timeline)) {
		r.table("after", "at", "what", "who", "in words")
		for _, m := range e.Timeline {
			r.row(ms(m.AfterMS), m.At.String(), md(m.Kind), md(m.Actor), md(m.Text))
		}
	}

	r.heading("Why")
	if r.some(len(e.Decisions)) {
		r.table("decision", "made", "as of", "verdict", "tier", "confidence", "policy", "signals", "reasons", "configuration")
		for _, d := range e.Decisions {
			r.row(code(d.ID), d.Made.String(), d.AsOf.String(), md(string(d.Verdict)), d.Tier.String(), fmt.Sprintf("%.2f", d.Suspicion.Confidence),
				md(d.Policy), fmt.Sprint(len(d.Signals)), md(strings.Join(d.Reasons, "; ")), code(d.Bundle))
		}
	}
	if len(e.Signals) > 0 {
		r.line("")
		r.table("signal", "at", "rule", "accuses", "confidence", "evidence", "event")
		for _, s := range e.Signals {
			name := s.Rule
			if s.Title != "" {
				name = s.Title + " (" + s.Rule + ")"
			}
			if by := staunch.Credit(s.Author, s.License); by != "" {
				name += ", " + by
			}
			r.row(code(s.ID), s.Time.String(), md(name), code(s.Accused.String()), fmt.Sprintf("%.2f", s.Confidence), md(s.Evidence), code(s.Event))
		}
	}
	if len(e.Events) > 0 {
		r.line("")
		r.table("event", "happened", "received", "source", "operation", "outcome", "from", "digest of the record")
		for _, ev := range e.Events {
			r.row(code(ev.ID), ev.Time.String(), ev.Learned.String(), md(ev.Source), md(ev.Operation), md(string(ev.Outcome)), md(ev.SourceIP), code(ev.Digest))
		}
	}

	r.heading("What was done")
	if r.some(len(e.Steps) + len(e.Holds)) {
		if len(e.Steps) > 0 {
			r.table("step", "state", "verb", "target", "call", "before", "after", "undo", "state before, digest", "state after, digest")
			for _, s := range e.Steps {
				after := s.After
				if s.Note != "" {
					after += " (" + s.Note + ")"
				}
				r.row(code(s.ID), md(string(s.State)), md(string(s.Verb)), code(s.Target.String()), code(s.Intent.Call), md(s.Before), md(after),
					md(s.Intent.Undo), code(s.PreImageDigest), code(s.PostImageDigest))
			}
			r.line("")
		}
		if len(e.Holds) > 0 {
			r.table("hold", "plane", "state", "target", "denies", "claimed by", "since", "note")
			for _, h := range e.Holds {
				r.row(code(h.ID), md(string(h.Plane)), md(string(h.State)), code(targetOf(h.Target)), md(strings.Join(h.Deny, ", ")),
					md(strings.Join(h.Claims, ", ")), h.Since.String(), md(h.Note))
			}
		}
	}
	for _, p := range e.Plans {
		for _, gap := range p.Gaps {
			r.line("")
			r.line("Not covered by plan %s: %s: %s", code(p.ID), code(gap.Ref.String()), md(gap.Reason))
		}
	}

	r.heading("How long it took")
	if r.some(len(e.Clocks)) {
		r.line("Since the event, by each row's own instant. The event's is that of whoever reported it.")
		r.line("")
		names := []string{markEvent, markReceived, markDecided, markIntended, markCalled, markAcknowledged, markEffective}
		r.table(append([]string{"of", "target"}, names...)...)
		for _, c := range e.Clocks {
			cells := []string{code(c.Of), code(c.Target)}
			for _, n := range names {
				cell := ""
				if at, ok := c.after(n); ok {
					cell = ms(at)
				}
				cells = append(cells, cell)
			}
			r.row(cells...)
		}
	}

	r.heading("What a release would bring back to life")
	if r.some(len(e.Revives)) {
		for _, v := range e.Revives {
			r.line("- %s", md(v))
		}
	}

	r.heading("Frameworks")
	if r.some(len(e.Frameworks)) {
		r.line("What these rows show, and no more. The ids are the frameworks' own, the words ours.")
		r.line("")
		r.table("framework", "id", "what was done or seen", "shown by")
		for _, m := range e.Frameworks {
			rows := make([]string, 0, len(m.Rows))
			for _, id := range m.Rows[:min(len(m.Rows), 5)] {
				rows = append(rows, code(id))
			}
			if more := len(m.Rows) - len(rows) + m.More; more > 0 {
				rows = append(rows, fmt.Sprintf("and %d more", more))
			}
			r.row(md(m.Framework), md(m.ID), md(m.Says), strings.Join(rows, ", "))
		}
	}

	r.heading("Records of the log")
	if r.some(len(e.Records)) {
		r.table("record", "at", "kind", "by", "hash", "after hash")
		for _, rec := range e.Records {
			r.row(code(fmt.Sprintf("%s/%d", rec.Lane, rec.Seq)), rec.Time.String(), md(string(rec.Kind)), md(rec.Actor), code(rec.Hash), code(rec.Prev))
		}
	}
	if len(e.Heads) > 0 {
		r.line("")
		r.line("The log's lanes ended here:")
		r.line("")
		r.table("lane", "record", "hash")
		for _, h := range e.Heads {
			r.row(code(h.Lane), fmt.Sprint(h.Seq), code(h.Hash))
		}
	}

	r.heading("How to check this")
	r.line("This report is made from evidence.json and proves nothing itself. With the log's public key, from the operators:")
	r.line("")
	r.line("```sh")
	r.line("sha256sum -c SHA256SUMS")
	r.line("staunch audit verify --evidence evidence.json --public-key KEY")
	r.line("staunch audit verify --export records.ndjson --evidence evidence.json --public-key KEY")
	r.line("```")
	r.line("")
	r.line("The first says that nobody changed a file by accident, the second that evidence.json is what the server signed, the third that a later export of the log still has every record that it names.")
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

type report struct{ w *bufio.Writer }

func (r report) line(format string, args ...any) {
	_, _ = fmt.Fprintf(r.w, format+"\n", args...) // Flush tells
}

func (r report) heading(s string) { r.line("\n## %s\n", s) }

// some says that there is nothing, where there is nothing.
func (r report) some(n int) bool {
	if n == 0 {
		r.line("Nothing.")
	}
	return n > 0
}

func (r report) table(names ...string) {
	r.row(names...)
	r.line("|%s", strings.Repeat("---|", len(names)))
}

func (r report) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "–"
		}
	}
	r.line("| %s |", strings.Join(cells, " | "))
}

// field is a row of the table at the top, unless there is nothing to say.
func (r report) field(name, value string) {
	if value != "" {
		r.row(name, value)
	}
}

func identity(i staunch.Identity) string {
	if i.Name == "" {
		return md(string(i.Kind))
	}
	parts := []string{string(i.Kind)}
	if i.Owner != "" {
		parts = append(parts, "owner "+i.Owner)
	}
	if i.Environment != "" {
		parts = append(parts, i.Environment)
	}
	return md(i.Name + " (" + strings.Join(parts, ", ") + ")")
}

// targetOf is a target as people read it; the fast plane's has no attribute.
func targetOf(t staunch.Target) string { return strings.TrimSuffix(t.String(), "#") }

func ms(f float64) string { return fmt.Sprintf("%.3f ms", f) }

// md returns s as text of one line without meaning to Markdown or HTML.
func md(s string) string {
	var b strings.Builder
	for _, c := range plain(s) {
		if strings.ContainsRune("\\`*_[]<>#|!~&$@", c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	// Some readers make links of bare addresses.
	return strings.NewReplacer("://", `\://`, "www.", `www\.`).Replace(b.String())
}

// code returns s in the type of code, in which nothing has a meaning but the
// table's bar.
func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.NewReplacer("`", "'", "|", `\|`).Replace(plain(s)) + "`"
}

// plain puts s on one line, shows what does not print, and cuts it.
func plain(s string) string {
	var b strings.Builder
	n := 0
	for _, c := range s {
		if n++; n > maxCell {
			b.WriteString("…")
			break
		}
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			b.WriteByte(' ')
		case unicode.IsPrint(c):
			b.WriteRune(c)
		default:
			fmt.Fprintf(&b, "U+%04X", c)
		}
	}
	return b.String()
}
