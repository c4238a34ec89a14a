package offline

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/accuse"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// matchWindows evaluates correlations over the records of one input. nil
// evaluates none.
type matchWindows struct {
	set  *correlate.Set
	f    format.Format
	rows []correlate.Contribution
	seen map[string]bool
	held int64
}

// mostWindows bounds the memory for what records contribute.
const mostWindows = 4 << 30

func newMatchWindows(set *correlate.Set, f format.Format) *matchWindows {
	if len(set.Rules()) == 0 {
		return nil
	}
	return &matchWindows{set: set, f: f, seen: map[string]bool{}}
}

// take keeps what the record of this number contributes. A record that cannot be
// read as an event contributes nothing; its rules are printed all the same.
func (m *matchWindows) take(number int, raw []byte, matched []int) error {
	if len(matched) == 0 {
		return nil
	}
	doc := jsondoc.New(jsondoc.DefaultLimits())
	if err := doc.Parse(raw); err != nil {
		return nil // it was parsed when it matched, under the same limits
	}
	env := format.Env{Source: "match", Realm: ReplayRealm}
	keys, err := m.f.Keys(doc, env)
	if err != nil || keys.Time == 0 {
		return nil
	}
	mapped, err := m.f.Map(doc, keys, env)
	if err != nil {
		return nil
	}
	// A record that stands twice counts once.
	id := keys.VendorID + "/" + staunch.Digest(raw)
	if m.seen[id] {
		return nil
	}
	m.seen[id] = true
	secrets := m.f.Secrets(doc, env)
	ev := &correlate.Event{
		Event: staunch.Event{
			ID: fmt.Sprintf("%012d", number), Source: env.Source, Realm: env.Realm, Time: keys.Time, Standing: staunch.StandingCurrent,
			Outcome: keys.Outcome, Operation: keys.Operation, Actor: keys.Actor, Targets: keys.Targets, SourceIP: keys.SourceIP, OCSF: mapped.OCSF,
		},
		Doc: doc, Facts: mapped.Facts,
		Hide: func(v string) string {
			for _, s := range secrets {
				if s.Value.Reveal() == v {
					return s.Value.Digest()
				}
			}
			return v
		},
		Accuse: func(r *correlate.Rule, narrowest staunch.Kind) []staunch.Ref {
			var refs []staunch.Ref
			if len(r.Accuse) == 0 && narrowest != "" {
				refs = accuse.OfKind(keys.Actor, narrowest)
			}
			if len(refs) == 0 {
				refs = accuse.Refs(r.Accuse, accuse.Record{Format: m.f, Realm: env.Realm, Doc: doc, Keys: keys, Secrets: secrets})
			}
			if len(refs) > 0 {
				return refs
			}
			// Nobody to accuse; the correlation holds all the same.
			return []staunch.Ref{{}}
		},
	}
	for _, c := range m.set.Contribute(ev, matched) {
		if m.held += int64(len(c.Row.Body)) + 256; m.held > mostWindows {
			return &staunch.Problem{Place: fmt.Sprintf("record %d", number), Reason: fmt.Sprintf("correlations need more than %d bytes of memory", int64(mostWindows)), Hint: "match fewer records at a time"}
		}
		m.rows = append(m.rows, c)
	}
	return nil
}

// correlationLine is one signal that a correlation would make.
type correlationLine struct {
	Correlation string       `json:"correlation"`
	Records     []int        `json:"records"`
	Group       []string     `json:"group,omitempty"`
	Accused     string       `json:"accused,omitempty"`
	Time        staunch.Time `json:"time"`
	Evidence    string       `json:"evidence"`
}

// write evaluates the contributions in the order of their time.
func (m *matchWindows) write(w *bufio.Writer) error {
	slices.SortStableFunc(m.rows, func(a, b correlate.Contribution) int {
		return cmp.Or(cmp.Compare(a.Row.At, b.Row.At), strings.Compare(a.Row.Event, b.Row.Event))
	})
	app := &correlate.Applier{Set: m.set, Memory: correlate.NewMemory(0)}
	book := correlate.NewBook()
	said := map[string]bool{}
	say := func(fired []correlate.Firing) error {
		for _, f := range fired {
			for _, ref := range f.Accused {
				id := staunch.CorrelationSignalID(f.Rule.ID, ref, f.Series, f.Window)
				if f.Hidden || said[id] {
					continue
				}
				said[id] = true
				line := correlationLine{Correlation: f.Rule.ID, Group: f.Group, Accused: ref.String(), Time: f.At, Evidence: f.Sentence()}
				for _, e := range f.Events {
					n, err := strconv.Atoi(e)
					if err != nil {
						return err
					}
					line.Records = append(line.Records, n)
				}
				b, err := json.Marshal(line)
				if err != nil {
					return err
				}
				if _, err := w.Write(append(b, '\n')); err != nil {
					return fmt.Errorf("writing: %w", err)
				}
			}
		}
		return nil
	}
	for from := 0; from < len(m.rows); {
		to := from + 1
		for to < len(m.rows) && m.rows[to].Row.Event == m.rows[from].Row.Event {
			to++
		}
		fired, err := app.Apply(book, m.rows[from:to])
		if err == nil {
			err = say(fired)
		}
		if err != nil {
			return err
		}
		from = to
	}
	fired, _, err := app.Settle(book, math.MaxInt64, math.MaxInt)
	if err != nil {
		return err
	}
	slices.SortStableFunc(fired, func(a, b correlate.Firing) int { return cmp.Compare(a.At, b.At) })
	return say(fired)
}
