package record

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/staunch-project/staunch"
)

// Bounds of a bundle of evidence.
const (
	// MaxEvidenceBytes bounds a bundle as JSON without blanks.
	MaxEvidenceBytes = 16 << 20
	// MaxRows bounds the plans, steps, holds and records of a bundle, each.
	MaxRows = 1000
	// MaxEvents bounds its events.
	MaxEvents = 500

	// maxEventBytes bounds what its events have as raw records and OCSF, and
	// maxRecordBytes what its records have as bodies.
	maxEventBytes  = 6 << 20
	maxRecordBytes = 4 << 20

	evidenceKind = "staunch.evidence"
)

// Moment is one line of a case's timeline.
type Moment struct {
	At staunch.Time `json:"at"`
	// AfterMS is the time since the first moment, in milliseconds.
	AfterMS float64 `json:"after_ms"`
	// Kind is record, signal, decision, case, hold, intent, call, proof, revert,
	// release, residual or notice.
	Kind string `json:"kind"`
	Text string `json:"text"`
	// ID is of what the moment is about, Actor who did it.
	ID    string `json:"id,omitempty"`
	Actor string `json:"actor,omitempty"`
}

// Evidence is everything that is kept about one containment, as one document
// that can be checked without the server. It has no sealed state: pre-images and
// post-images are there by their digests.
type Evidence struct {
	V    int    `json:"v"`
	Kind string `json:"kind"`
	// At is when it was put together.
	At staunch.Time `json:"at"`
	// Key is the public key that Signature is checked with, to tell a wrong key
	// from a changed bundle. It proves nothing: take the key from elsewhere.
	Key         string              `json:"key"`
	Containment staunch.Containment `json:"containment"`
	// ScopeHash is what an approval bound to.
	ScopeHash string             `json:"scope_hash"`
	Decisions []staunch.Decision `json:"decisions"`
	Signals   []staunch.Signal   `json:"signals"`
	// Events are what the signals rest on; in their raw records every secret is
	// replaced by its digest, as it was when they were stored.
	Events []staunch.Event `json:"events"`
	Plans  []staunch.Plan  `json:"plans"`
	Steps  []staunch.Step  `json:"steps"`
	Holds  []staunch.Hold  `json:"holds"`
	// Timeline tells it in order, for people.
	Timeline []Moment `json:"timeline"`
	// Clocks say how long each step and each hold of the fast plane took, from the
	// event on.
	Clocks []Clock `json:"clocks"`
	// Revives lists what a release would bring back to life.
	Revives []string `json:"revives"`
	// Frameworks says what of other frameworks the rows show.
	Frameworks []Mapping `json:"frameworks"`
	// Records are those of the log that are about the containment, by time.
	Records []staunch.Record `json:"records"`
	// Heads are the ends of the log's lanes in the snapshot that all of this was
	// read from.
	Heads []Head `json:"heads"`
	// Truncated says what was left out, and why.
	Truncated []string `json:"truncated"`
	// Signature is the Ed25519 signature over the document without it, in base64.
	Signature string `json:"signature,omitempty"`
}

// Clock is the times of one step, or of one hold of the fast plane.
type Clock struct {
	// Of is the step's or hold's id; Target and Verb are its own.
	Of     string       `json:"of"`
	Target string       `json:"target"`
	Verb   staunch.Verb `json:"verb,omitempty"`
	// Marks are those of which there is a row, in this order: event, received,
	// decided, intended, called, acknowledged, effective.
	Marks []Mark `json:"marks"`
}

// Mark is one instant of a Clock.
type Mark struct {
	Name string       `json:"name"`
	At   staunch.Time `json:"at"`
	// AfterMS is the time since the first mark, in milliseconds; below zero where
	// the clock of whoever reported the event is ahead of ours.
	AfterMS float64 `json:"after_ms"`
	// Row is the id of the row that has the instant.
	Row string `json:"row"`
}

// Mapping says that rows of the case show something that a framework names.
type Mapping struct {
	Framework string `json:"framework"`
	ID        string `json:"id"`
	// Says what was done or seen, in our words.
	Says string `json:"says"`
	// Rows are the ids of the rows that show it, at most 50; a record of the log is
	// "record LANE/NUMBER".
	Rows []string `json:"rows"`
	// More counts the rows beyond.
	More int `json:"more,omitempty"`
}

// Rows is what a bundle is made from; all of one snapshot.
type Rows struct {
	At          staunch.Time
	Containment staunch.Containment
	Decisions   []staunch.Decision
	Signals     []staunch.Signal
	Events      []staunch.Event
	Plans       []staunch.Plan
	Steps       []staunch.Step
	Holds       []staunch.Hold
	Timeline    []Moment
	Revives     []string
	// Records are those about the containment, by time, lane and number.
	Records []staunch.Record
	Heads   []Head
	// D3FEND returns the techniques that the step's connector declares for its
	// verb; nil where nobody knows.
	D3FEND func(staunch.Step) []string
	// LeftOut says what the reader of the rows left out already.
	LeftOut []string
}

// Evidence puts a bundle together and signs it. It is pure but for the
// signature: the same rows give the same document. What is over a bound is left
// out and said; the error wraps staunch.ErrInvalid where the rest is still over
// MaxEvidenceBytes.
func (c *Chain) Evidence(r Rows) (Evidence, error) {
	e := Evidence{
		V: staunch.Version, Kind: evidenceKind, At: r.At, Key: keyText(c.PublicKey()),
		Containment: r.Containment, ScopeHash: r.Containment.Scope.Hash(),
		Decisions: some(r.Decisions), Signals: some(r.Signals), Timeline: some(r.Timeline), Revives: some(r.Revives),
		Heads: some(r.Heads), Truncated: some(r.LeftOut),
	}
	e.Plans = cut(&e, "plans", r.Plans, MaxRows)
	e.Steps = slices.Clone(cut(&e, "steps", r.Steps, MaxRows))
	for i := range e.Steps {
		// What a state has in it is for the connector; the digests tell states apart.
		e.Steps[i].Intent.Expected.Body = nil
	}
	e.Holds = cut(&e, "holds", r.Holds, MaxRows)
	e.Records = cut(&e, "records", r.Records, MaxRows)
	e.Events = cut(&e, "events", r.Events, MaxEvents)
	e.fit()
	e.Clocks = clocks(e)
	e.Frameworks = frameworks(e, r.D3FEND)
	// What is signed is what a reader gets: text that is not UTF-8 reads as another.
	sent, err := e.encode()
	if err != nil {
		return Evidence{}, err
	}
	e = Evidence{}
	if err := json.Unmarshal(sent, &e); err != nil {
		return Evidence{}, fmt.Errorf("reading the evidence back: %w", err)
	}
	body, err := e.signed()
	if err != nil {
		return Evidence{}, err
	}
	if len(body) > MaxEvidenceBytes {
		return Evidence{}, fmt.Errorf("%w: the evidence has %d bytes, at most %d", staunch.ErrInvalid, len(body), MaxEvidenceBytes)
	}
	e.Signature = base64.StdEncoding.EncodeToString(ed25519.Sign(c.sign, evidenceDigest(body)))
	return e, nil
}

// some makes an empty list of none, so that JSON says [] and not null.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// cut keeps the first of a list and says how many were left out.
func cut[T any](e *Evidence, what string, list []T, most int) []T {
	if more := len(list) - most; more > 0 {
		e.Truncated = append(e.Truncated, fmt.Sprintf("%d of %d %s: a bundle has at most %d", more, len(list), what, most))
		list = list[:most]
	}
	return some(list)
}

// fit drops the bodies of events, and the last of the records, beyond their
// bounds.
func (e *Evidence) fit() {
	size, bare := 0, 0
	e.Events = slices.Clone(e.Events)
	for i := range e.Events {
		ev := &e.Events[i]
		if size += len(ev.Raw) + len(ev.OCSF); size > maxEventBytes {
			size -= len(ev.Raw) + len(ev.OCSF)
			ev.Raw, ev.OCSF = nil, nil
			bare++
		}
	}
	if bare > 0 {
		e.Truncated = append(e.Truncated, fmt.Sprintf("the raw record and OCSF form of %d of %d events: together they have at most %d bytes; their digests are there", bare, len(e.Events), maxEventBytes))
	}
	size = 0
	for i, r := range e.Records {
		if size += len(r.Body); size > maxRecordBytes {
			e.Truncated = append(e.Truncated, fmt.Sprintf("%d of %d records: together their bodies have at most %d bytes", len(e.Records)-i, len(e.Records), maxRecordBytes))
			e.Records = e.Records[:i]
			return
		}
	}
}

// signed returns the bytes that the signature is about: the document without it,
// in the one form that this package writes.
func (e Evidence) signed() ([]byte, error) {
	e.Signature = ""
	return e.encode()
}

func (e Evidence) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("encoding the evidence: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// evidenceDigest keeps a signature of a bundle from being one of anything else.
func evidenceDigest(body []byte) []byte {
	sum := sha256.Sum256(body)
	var f framer
	f.text("staunch/1/evidence")
	f.bytes(sum[:])
	return f.b
}

// marks are what a log must still have: the bundle's records and its heads.
func (e Evidence) marks() []Head {
	out := slices.Clone(e.Heads)
	for _, r := range e.Records {
		out = append(out, Head{Lane: r.Lane, Seq: r.Seq, Hash: r.Hash})
	}
	return out
}

// VerifyEvidence reads a bundle and checks it: that it is, but for blanks, what
// the holder of the key signed; that its records follow each other as far as they
// are neighbours; and with the chain (o.Chain) that every record's hash is that
// of its content. Against a later export it is checked by VerifyExport. What was
// changed stands in the report; the error says why there could be no check, as
// that of VerifyExport does.
func VerifyEvidence(in io.Reader, o VerifyOptions) (Evidence, Report, error) {
	key := o.PublicKey
	if o.Chain != nil {
		key = o.Chain.PublicKey()
	}
	if len(key) != ed25519.PublicKeySize {
		return Evidence{}, Report{}, fmt.Errorf("%w: evidence is checked with the chain's key or its public key", staunch.ErrInvalid)
	}
	// Indented it has more bytes than without blanks.
	raw, err := io.ReadAll(io.LimitReader(in, 4*MaxEvidenceBytes+1))
	if err != nil {
		return Evidence{}, Report{}, fmt.Errorf("reading the evidence: %w", err)
	}
	if len(raw) > 4*MaxEvidenceBytes {
		return Evidence{}, Report{}, fmt.Errorf("%w: the evidence is larger than %d bytes", staunch.ErrInvalid, 4*MaxEvidenceBytes)
	}
	var e Evidence
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Evidence{}, Report{}, fmt.Errorf("%w: it is not a bundle of evidence: %w", staunch.ErrInvalid, err)
	}
	switch {
	case e.Kind != evidenceKind:
		return Evidence{}, Report{}, fmt.Errorf("%w: it is not a bundle of evidence", staunch.ErrInvalid)
	case e.V != staunch.Version:
		return Evidence{}, Report{}, fmt.Errorf("%w: evidence of version %d, this release knows %d", staunch.ErrInvalid, e.V, staunch.Version)
	case e.Key != keyText(key):
		return Evidence{}, Report{}, fmt.Errorf("%w: the evidence names %.64q, and it is checked with %s", ErrWrongKey, e.Key, keyText(key))
	}
	rep := Report{
		V: staunch.Version, Records: int64(len(e.Records)), Heads: some(e.Heads), Keyed: o.Chain != nil, Breaks: []Break{},
	}
	if reason := e.unsigned(raw, key); reason != "" {
		rep.Breaks = append(rep.Breaks, Break{Kind: BreakUnsigned, Reason: reason})
	} else {
		rep.Signed = true
	}
	rep.Breaks = append(rep.Breaks, e.broken(o.Chain)...)
	return e, rep, nil
}

// unsigned says why the bytes are not what the key's owner signed, "" where they
// are.
func (e Evidence) unsigned(raw []byte, key ed25519.PublicKey) string {
	// What is spelled in another way, or stands twice, would be read by people in
	// one way and by this check in another.
	var plain bytes.Buffer
	again, err := e.encode()
	if err := errors.Join(err, json.Compact(&plain, raw)); err != nil || !bytes.Equal(plain.Bytes(), again) {
		return "it is not written as bundles are"
	}
	body, err := e.signed()
	if err != nil {
		return err.Error()
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(e.Signature)
	if err != nil || !ed25519.Verify(key, evidenceDigest(body), sig) {
		return "the signature does not fit"
	}
	return ""
}

// broken finds records that were changed, or that do not follow the one before
// where both are there.
func (e Evidence) broken(c *Chain) []Break {
	var out []Break
	last := map[string]staunch.Record{}
	records := slices.Clone(e.Records)
	slices.SortStableFunc(records, func(a, b staunch.Record) int {
		return cmp.Or(cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.Seq, b.Seq))
	})
	for _, r := range records {
		add := func(kind BreakKind, reason string) {
			out = append(out, Break{Kind: kind, Lane: r.Lane, Seq: r.Seq, Reason: reason})
		}
		if p, ok := last[r.Lane]; ok && p.Seq == r.Seq {
			add(BreakReordered, "it is there twice")
		} else if ok && p.Seq+1 == r.Seq && p.Hash != r.Prev {
			add(BreakUnlinked, "it does not follow the record before it")
		}
		last[r.Lane] = r
		if r.About != e.Containment.ID {
			add(BreakMalformed, "it is not about the containment")
		}
		if err := check(r.Prev, r); err != nil || !validHash(r.Hash) {
			add(BreakEdited, "it is not a record of a log")
			continue
		}
		if c == nil {
			continue
		}
		if want, err := c.Hash(r.Prev, r); err != nil || want != r.Hash {
			add(BreakEdited, "its hash is not that of its content")
		}
	}
	return out
}
