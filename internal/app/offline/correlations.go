package offline

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sequence"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// matchWindows evaluates correlations over the records of one input. nil
// evaluates none.
type matchWindows struct {
	seq     *sequence.Sequence
	f       format.Format
	details bool
	// uncounted are the records that matched and count for no correlation, why
	// says it of the first.
	uncounted int
	why       error
}

func newMatchWindows(set *correlate.Set, f format.Format, details bool) *matchWindows {
	if len(set.Rules()) == 0 {
		return nil
	}
	return &matchWindows{seq: sequence.New(set, format.Env{Source: "match", Realm: ReplayRealm}), f: f, details: details}
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
	err := m.seq.Take(number, m.f, doc, matched)
	if !errors.Is(err, sequence.ErrUncounted) {
		return err
	}
	if m.uncounted++; m.uncounted == 1 {
		m.why = fmt.Errorf("record %d: %w", number, err)
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
	// Rule tells of the correlation, where details are wanted.
	Rule *RuleInfo `json:"rule,omitempty"`
}

// write evaluates the contributions in the order of their time.
func (m *matchWindows) write(w *bufio.Writer) error {
	return m.seq.Signals(func(s sequence.Signal) error {
		if s.Hidden {
			return nil
		}
		var rule *RuleInfo
		if m.details {
			info := InfoOf(s.Rule.Rule)
			rule = &info
		}
		b, err := json.Marshal(correlationLine{Rule: rule, Correlation: s.Rule.ID, Records: s.Records, Group: s.Group, Accused: s.Accused.String(), Time: s.Time, Evidence: s.Evidence})
		if err != nil {
			return err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		return nil
	})
}
