package record

import (
	"cmp"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
)

// Errors that end a check.
var (
	// ErrSignature says that a signature does not fit what it stands under, or
	// was made with another key.
	ErrSignature = errors.New("signature does not fit")
	// ErrWrongKey says that an export was made under another key than the one
	// that it is to be checked with.
	ErrWrongKey = errors.New("made under another key")
	// ErrBroken says that a log was changed; the report says where.
	ErrBroken = errors.New("the log was changed")
)

// BreakKind is how a log was found changed.
type BreakKind string

// The kinds of breaks.
const (
	// BreakEdited: the record's hash is not that of its content.
	BreakEdited BreakKind = "edited"
	// BreakGap: records are missing before this one.
	BreakGap BreakKind = "gap"
	// BreakReordered: the record comes after a later one, or twice.
	BreakReordered BreakKind = "reordered"
	// BreakUnlinked: the record does not follow the one before it.
	BreakUnlinked BreakKind = "unlinked"
	// BreakTruncated: the lane ends before where a checkpoint saw it.
	BreakTruncated BreakKind = "truncated"
	// BreakRewritten: the lane is whole, but is not the one that a checkpoint saw.
	BreakRewritten BreakKind = "rewritten"
	// BreakMalformed: a line of an export is not as exports are written.
	BreakMalformed BreakKind = "malformed"
	// BreakUnsigned: the export does not end in a checkpoint that was signed for
	// its content.
	BreakUnsigned BreakKind = "unsigned"
)

// Break is the first place where a lane was changed.
type Break struct {
	Kind BreakKind `json:"kind"`
	// Lane is empty for what concerns an export's line and no lane.
	Lane string `json:"lane,omitempty"`
	Seq  int64  `json:"seq,omitempty"`
	// Line is the export's line, counted from 1; 0 outside of exports.
	Line int64 `json:"line,omitempty"`
	// Reason says what was found, in a sentence.
	Reason string `json:"reason"`
}

// String returns the break as a line for people.
func (b Break) String() string {
	var at strings.Builder
	if b.Line > 0 {
		fmt.Fprintf(&at, "line %d: ", b.Line)
	}
	if b.Lane != "" {
		fmt.Fprintf(&at, "lane %s record %d: ", b.Lane, b.Seq)
	}
	return at.String() + string(b.Kind) + ": " + b.Reason
}

// Report is what a check found.
type Report struct {
	V       int   `json:"v"`
	Records int64 `json:"records"`
	// Heads has the end of every lane as far as it is whole, sorted by lane.
	Heads []Head `json:"heads"`
	// Keyed says that every hash was recomputed under the chain's key; without
	// it the links alone were compared.
	Keyed bool `json:"keyed"`
	// Signed says that an export's checkpoint and its signature fit the content.
	Signed bool `json:"signed,omitempty"`
	// Checkpoint is the export's own, once it was found signed: keep it in
	// another place to check later logs against.
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	// Logged is what the receipt of the earlier checkpoint says; nil where there
	// is none.
	Logged *Logged `json:"logged,omitempty"`
	// Breaks has the first break of every lane that has one, by line and lane.
	Breaks []Break `json:"breaks"`
}

// Err returns nil for a whole log, and otherwise an error that wraps ErrBroken
// and tells the first break.
func (r Report) Err() error {
	if len(r.Breaks) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s (breaks: %d)", ErrBroken, r.Breaks[0], len(r.Breaks))
}

type laneState struct {
	seq    int64
	hash   string
	broken bool
}

// Verifier checks a log as its records come. Lanes may be mixed in any way, but
// each lane's records come in order, from the first. It keeps a head a lane and
// is for one goroutine.
type Verifier struct {
	chain *Chain
	marks map[string]*marks
	// from has where lanes are taken up that need not be read from the first
	// record: see resume.
	from   map[string]int64
	lanes  map[string]*laneState
	report Report
	line   int64
}

// marks is what was seen of a lane before: hashes by number, and the highest.
type marks struct {
	hashes map[int64]string
	last   int64
}

// mark has the log still have to have the record with that hash.
func (v *Verifier) mark(heads ...Head) {
	for _, h := range heads {
		m := v.marks[h.Lane]
		if m == nil {
			m = &marks{hashes: map[int64]string{}}
			v.marks[h.Lane] = m
		}
		m.hashes[h.Seq] = h.Hash
		m.last = max(m.last, h.Seq)
	}
}

// resume has the lanes of a checkpoint's heads begin at the record that the head
// names in place of the first one. What stands before it was found whole when
// the checkpoint was signed, and the head's hash holds all of it.
func (v *Verifier) resume(heads []Head) {
	for _, h := range heads {
		v.from[h.Lane] = h.Seq
	}
}

// NewVerifier makes a verifier. Without a chain (nil) hashes are not recomputed:
// numbers and links alone are checked. past may be nil; if it is there, the log
// must still have what it saw. Its signature is checked against key, or against
// the chain's own where there is a chain.
func NewVerifier(chain *Chain, key ed25519.PublicKey, past *Checkpoint) (*Verifier, error) {
	v := &Verifier{
		chain: chain, lanes: map[string]*laneState{}, marks: map[string]*marks{}, from: map[string]int64{},
		report: Report{V: staunch.Version, Keyed: chain != nil, Breaks: []Break{}},
	}
	if chain != nil {
		key = chain.PublicKey()
	}
	if past != nil {
		if err := past.Verify(key); err != nil {
			return nil, err
		}
		v.mark(past.Heads...)
	}
	return v, nil
}

// Add checks the next record. What is wrong with it comes to stand in the
// report; the error, which wraps staunch.ErrInvalid, says that there are more
// than MaxLanes lanes, after which the check cannot go on. A lane is not looked
// at again after its first break.
func (v *Verifier) Add(r staunch.Record) error {
	v.report.Records++
	l := v.lanes[r.Lane]
	if l == nil {
		if len(v.lanes) >= MaxLanes {
			return fmt.Errorf("%w: more than %d lanes", staunch.ErrInvalid, MaxLanes)
		}
		l = &laneState{}
		if from := v.from[r.Lane]; from > 1 {
			// The record that is taken up says what it follows, and its hash, which
			// has to be the mark's, covers that.
			l.seq, l.hash = from-1, r.Prev
		}
		v.lanes[r.Lane] = l
	}
	if l.broken {
		return nil
	}
	if kind, reason := v.judge(l, r); kind != "" {
		l.broken = true
		v.broke(Break{Kind: kind, Lane: r.Lane, Seq: r.Seq, Reason: reason})
		return nil
	}
	l.seq, l.hash = r.Seq, r.Hash
	return nil
}

func (v *Verifier) judge(l *laneState, r staunch.Record) (kind BreakKind, reason string) {
	switch {
	case r.Seq > l.seq+1:
		return BreakGap, fmt.Sprintf("record %d was expected", l.seq+1)
	case r.Seq <= l.seq:
		return BreakReordered, fmt.Sprintf("record %d was expected", l.seq+1)
	case r.Prev != l.hash:
		return BreakUnlinked, "it does not follow the record before it"
	}
	if v.chain == nil {
		if err := check(l.hash, r); err != nil {
			return BreakEdited, err.Error()
		}
		if !validHash(r.Hash) {
			return BreakEdited, "it has no hash"
		}
	} else {
		want, err := v.chain.Hash(l.hash, r)
		if err != nil {
			return BreakEdited, err.Error()
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(r.Hash)) != 1 {
			return BreakEdited, "its hash is not that of its content"
		}
	}
	if m := v.marks[r.Lane]; m != nil && m.hashes[r.Seq] != "" && m.hashes[r.Seq] != r.Hash {
		return BreakRewritten, "the checkpoint saw another record in its place"
	}
	return "", ""
}

func (v *Verifier) broke(b Break) {
	b.Line = v.line
	v.report.Breaks = append(v.report.Breaks, b)
}

// Finish ends the check and returns the report. Lanes that end before the
// checkpoint saw them are reported now.
func (v *Verifier) Finish() Report {
	v.line = 0
	for name, m := range v.marks {
		l := v.lanes[name]
		reason := "it ends here"
		if l == nil {
			l = &laneState{}
			if v.from[name] > 1 {
				reason = "it is gone or ends earlier"
			}
		}
		if !l.broken && l.seq < m.last {
			v.broke(Break{
				Kind: BreakTruncated, Lane: name, Seq: l.seq,
				Reason: fmt.Sprintf("%s, and the checkpoint saw record %d", reason, m.last),
			})
		}
	}
	v.report.Heads = []Head{}
	for name, l := range v.lanes {
		if l.seq > 0 {
			v.report.Heads = append(v.report.Heads, Head{Lane: name, Seq: l.seq, Hash: l.hash})
		}
	}
	slices.SortFunc(v.report.Heads, func(a, b Head) int { return strings.Compare(a.Lane, b.Lane) })
	slices.SortStableFunc(v.report.Breaks, func(a, b Break) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Lane, b.Lane))
	})
	return v.report
}
