package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
)

// Explained says why, and why not, of one record.
type Explained struct {
	V      int    `json:"v"`
	Record int    `json:"record"`
	Error  string `json:"error,omitempty"`
	// Time, Operation, Outcome and Actor are the record's keys.
	Time      staunch.Time     `json:"time,omitempty"`
	Operation string           `json:"operation,omitempty"`
	Outcome   staunch.Outcome  `json:"outcome,omitempty"`
	Actor     []staunch.Ref    `json:"actor,omitempty"`
	Logsource *sigma.Logsource `json:"logsource,omitempty"`
	Rules     []RuleWhy        `json:"rules,omitempty"`
	// Unmatched counts the rules that did not match and were left out of Rules.
	Unmatched int `json:"unmatched,omitempty"`
	// Correlations has those that the record counts for.
	Correlations []CorrelationWhy `json:"correlations,omitempty"`
	Signals      []staunch.Signal `json:"signals,omitempty"`
	// NoSignal says why a rule matched and nobody is accused.
	NoSignal string `json:"no_signal,omitempty"`
	// Subjects has what policy makes of each accused ref and what it belongs to.
	Subjects []SubjectWhy `json:"subjects,omitempty"`
}

// RuleWhy says why a rule matched or not.
type RuleWhy struct {
	Rule       string   `json:"rule"`
	Title      string   `json:"title"`
	Author     string   `json:"author,omitempty"`
	License    string   `json:"license,omitempty"`
	References []string `json:"references,omitempty"`
	Matched    bool     `json:"matched"`
	// Why has the parts that decided: for a match those that held, otherwise
	// those that did not.
	Why []string `json:"why"`
	// Explanation is the whole tree.
	Explanation *sigma.Explanation `json:"explanation,omitempty"`
}

// CorrelationWhy says how a correlation stands with the record.
type CorrelationWhy struct {
	Rule       string         `json:"rule"`
	Title      string         `json:"title"`
	Author     string         `json:"author,omitempty"`
	License    string         `json:"license,omitempty"`
	References []string       `json:"references,omitempty"`
	Type       correlate.Type `json:"type"`
	Group      []string       `json:"group,omitempty"`
	// Have is how many contributions its window has.
	Have int `json:"have"`
	// Holds says that the condition is met; Waits, that it is judged only when no
	// earlier record can come any more.
	Holds bool `json:"holds"`
	Waits bool `json:"waits,omitempty"`
}

// SubjectWhy says what policy makes of a subject.
type SubjectWhy struct {
	Subject   staunch.Ref          `json:"subject"`
	Identity  staunch.Identity     `json:"identity"`
	Suspicion staunch.Suspicion    `json:"suspicion"`
	Outcome   decide.Outcome       `json:"outcome"`
	Policies  []decide.PolicyTrace `json:"policies"`
	Decision  *staunch.Decision    `json:"decision,omitempty"`
}

// ExplainOptions say what is explained and how far.
type ExplainOptions struct {
	Source *pipeline.Source
	In     io.Reader
	Mode   staunch.Mode
	// Trust is how far rules are trusted beside their files.
	Trust []staunch.RuleTrust
	// AllRules explains the rules of other log sources as well.
	AllRules bool
}

// Explain says, record by record, which rules matched and why not, what the
// signals accuse, and what policy makes of it. Evidence adds up over the input,
// as it would if the records came one after the other.
func Explain(ctx context.Context, s *app.Setup, o ExplainOptions, emit func(Explained) error) (err error) {
	b, err := newBench(ctx, s, o.Mode, o.Trust, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	rd, err := reader(o.In, o.Source.Format)
	if err != nil {
		return err
	}
	bad := false
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		x := Explained{V: staunch.Version, Record: rec.Number}
		err = rec.Err
		var keys staunch.Keys
		if err == nil {
			keys, err = o.Source.Format.Keys(rec.Doc, format.Env{Source: o.Source.Name, Realm: o.Source.Realm})
		}
		if err != nil {
			bad = true
			x.Error = err.Error()
			if err := emit(x); err != nil {
				return err
			}
			continue
		}
		x.Time, x.Operation, x.Outcome, x.Actor = keys.Time, keys.Operation, keys.Outcome, keys.Actor
		l := logsourceOf(o.Source.Format, rec.Doc)
		x.Logsource = &l
		if x.Rules, err = whyRules(s.Bundle.Rules, o, rec.Doc, l); err != nil {
			return fmt.Errorf("record %d: %w", rec.Number, err)
		}
		at := keys.Time
		rep, err := b.feed(ctx, o.Source, at, rec.Doc.Raw())
		if err != nil {
			return fmt.Errorf("record %d: %w", rec.Number, err)
		}
		for _, r := range rep.Rejected {
			bad = true
			x.Error = r.Error
		}
		x.Signals = append(x.Signals, b.signals...)
		for _, j := range b.windows {
			x.Correlations = append(x.Correlations, CorrelationWhy{
				Rule: j.Rule.ID, Title: j.Rule.Title, Author: j.Rule.Author, License: j.Rule.License, References: j.Rule.References, Type: j.Rule.Type, Group: j.Group, Have: j.Have, Holds: j.Fired, Waits: j.Waits,
			})
		}
		if len(x.Signals) == 0 && matchedAny(x.Rules) {
			x.NoSignal = whyNobody(o.Source, keys, rep)
			if len(x.Correlations) > 0 && rep.Duplicates == 0 {
				x.NoSignal = "the rules that matched count for correlations; they make no signals of their own without generate: true"
			}
		}
		if err := b.subjects(ctx, &x); err != nil {
			return err
		}
		if err := emit(x); err != nil {
			return err
		}
	}
	if bad {
		return ErrBadRecords
	}
	return nil
}

// whyRules explains the rules for the record's log source.
func whyRules(set *sigma.Set, o ExplainOptions, doc *jsondoc.Doc, ls sigma.Logsource) ([]RuleWhy, error) {
	event, eventLogsource := doc, ls
	if set.NeedsMapped(ls) {
		raw, err := eventOf(o.Source.Format, doc, format.Env{Source: o.Source.Name, Realm: o.Source.Realm})
		if err != nil {
			return nil, err
		}
		event = jsondoc.New(jsondoc.Limits{})
		if err := event.Parse(raw); err != nil {
			return nil, fmt.Errorf("reading the mapped event: %w", err)
		}
		eventLogsource = sigma.MappedLogsource(event, ls)
	}
	var out []RuleWhy
	for i, r := range set.Rules() {
		on, of := doc, ls
		if r.Mapped() {
			on, of = event, eventLogsource
		}
		w := RuleWhy{Rule: r.ID, Title: r.Title, Author: r.Author, License: r.License, References: r.References}
		switch {
		case of.Covers(r.Logsource):
			ex := set.Explain(on, i)
			w.Matched, w.Why, w.Explanation = ex.Matched, ex.Deciding(), ex
		case o.AllRules:
			w.Why = []string{"it is for log source " + r.Logsource.Parts()}
		default:
			continue
		}
		out = append(out, w)
	}
	return out, nil
}

func matchedAny(rules []RuleWhy) bool {
	for _, r := range rules {
		if r.Matched {
			return true
		}
	}
	return false
}

func whyNobody(src *pipeline.Source, keys staunch.Keys, rep pipeline.Report) string {
	switch {
	case rep.Duplicates > 0:
		return "the same record came before; its signals stand"
	case len(keys.Actor) == 0:
		return "the record names nobody that the rule could accuse"
	default:
		return fmt.Sprintf("none of the record's refs is of a kind that the rule accuses, on a realm that source %s may accuse", src.Name)
	}
}

// subjects says what policy makes of the accused refs.
func (b *bench) subjects(ctx context.Context, x *Explained) error {
	seen := map[staunch.Ref]bool{}
	for _, sg := range x.Signals {
		if seen[sg.Accused] {
			continue
		}
		seen[sg.Accused] = true
		var refs []staunch.Ref
		err := b.store.View(ctx, func(r store.Reader) error {
			res, err := b.pipe.Resolve(r, sg.Accused)
			refs = append([]staunch.Ref{sg.Accused}, res.Up...)
			return err
		})
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if ref != sg.Accused && seen[ref] {
				continue
			}
			seen[ref] = true
			var w SubjectWhy
			err := b.store.View(ctx, func(r store.Reader) error {
				res, err := b.pipe.Resolve(r, ref)
				if err != nil {
					return err
				}
				a, out, in, err := b.pipe.Judge(r, ref)
				if err != nil {
					return err
				}
				w = SubjectWhy{Subject: ref, Identity: res.Identity, Suspicion: a.Enforce, Outcome: out, Policies: b.pipe.Bundle().Policy.Explain(in)}
				return nil
			})
			if err != nil {
				return err
			}
			for i := range b.decisions {
				if b.decisions[i].Subject == ref {
					d := b.decisions[i]
					w.Decision = &d
				}
			}
			x.Subjects = append(x.Subjects, w)
		}
	}
	return nil
}

// LeaveOut takes the rules that did not match out of Rules and counts them.
func (x *Explained) LeaveOut() {
	before := len(x.Rules)
	x.Rules = slices.DeleteFunc(x.Rules, func(r RuleWhy) bool { return !r.Matched })
	x.Unmatched = before - len(x.Rules)
}

// Text writes an explanation for people.
func (x Explained) Text(w *strings.Builder) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	if x.Error != "" {
		p("record %d: cannot be used: %s", x.Record, x.Error)
		return
	}
	when, what := x.Time.String(), x.Operation
	if x.Time == 0 {
		when = "without a time,"
	}
	if what == "" {
		what = "without an operation"
	}
	p("record %d: %s %s (%s)", x.Record, when, what, x.Outcome)
	for _, a := range x.Actor {
		p("  actor %s", a)
	}
	switch {
	case x.Unmatched > 0:
		p("  rules that did not match: %d", x.Unmatched)
	case len(x.Rules) == 0:
		p("  no rule is for its log source")
	}
	credit := func(author, license string, references []string) {
		if by := staunch.Credit(author, license); by != "" {
			p("    %s", by)
		}
		for _, ref := range references {
			p("    see %s", ref)
		}
	}
	for _, r := range x.Rules {
		mark := "did not match"
		if r.Matched {
			mark = "MATCHED"
		}
		p("  rule %s (%s) %s", r.Rule, r.Title, mark)
		if r.Matched {
			credit(r.Author, r.License, r.References)
		}
		for _, line := range r.Why {
			p("    %s", line)
		}
	}
	for _, c := range x.Correlations {
		state := "does not hold yet"
		switch {
		case c.Waits:
			state = "is judged when it has settled"
		case c.Holds:
			state = "HOLDS"
		}
		p("  correlation %s (%s) %s: %d in the window of %s", c.Rule, c.Title, state, c.Have, strings.Join(c.Group, ", "))
		if c.Holds {
			credit(c.Author, c.License, c.References)
		}
	}
	if x.NoSignal != "" {
		p("  no signal: %s", x.NoSignal)
	}
	for _, s := range x.Signals {
		p("  signal: accuses %s with confidence %.2f, at most %s alone (%s, mode %s)", s.Accused, s.Confidence, s.Ceiling, s.Standing, s.Mode)
	}
	for _, s := range x.Subjects {
		p("  subject %s, identity %s (%s)", s.Subject, s.Identity.Name, s.Identity.Kind)
		p("    suspicion %.2f", s.Suspicion.Confidence)
		for _, c := range s.Suspicion.Reasons {
			why := ""
			if c.Why != "" {
				why = ": " + c.Why
			}
			p("      %.2f from %s (source %s)%s", c.Weight, c.Rule, c.Source, why)
		}
		for _, t := range s.Policies {
			mark := "passed over"
			switch {
			case t.Chosen:
				mark = "DECIDED"
			case t.Matched:
				mark = "matched, outranked"
			}
			p("    policy %s %s%s", t.Policy, mark, because(t.Why))
		}
		if d := s.Decision; d != nil {
			p("    => %s at tier %s of %s, playbook %s", d.Verdict, d.Tier, d.Scope, d.Playbook)
			for _, r := range d.Reasons {
				p("       %s", r)
			}
			continue
		}
		// What policy would make of it by itself; a narrower or stronger subject
		// was decided on in its place.
		p("    => not decided on; by itself: %s, tier %s", s.Outcome.Verdict, s.Outcome.Tier)
		for _, r := range s.Outcome.Reasons {
			p("       %s", r)
		}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
