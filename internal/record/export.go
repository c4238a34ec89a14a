package record

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/staunch-project/staunch"
)

const (
	// MaxLine bounds an export's line, in bytes.
	MaxLine = 4 << 20

	exportKind = "staunch.records"
	// maxMalformed bounds how many malformed lines a report lists.
	maxMalformed = 100
)

// header is an export's first line.
type header struct {
	V    int          `json:"v"`
	Kind string       `json:"kind"`
	At   staunch.Time `json:"at"`
	// Key is the public key that the checkpoint is signed with, to tell a wrong
	// key from a changed export. It proves nothing: take the key from elsewhere.
	Key string `json:"key"`
}

// checkpointLine is an export's last line.
type checkpointLine struct {
	Checkpoint *Checkpoint `json:"checkpoint"`
}

// Export writes the whole log as NDJSON: a line that says what it is, a line a
// record with its lane's records in order, and a line with the checkpoint, which
// is signed over everything before it. The checkpoint is also returned.
//
// The records are checked on the way. A broken log is written to its end all the
// same, as evidence, but without a checkpoint: nothing vouches for it, and the
// error wraps ErrBroken. Where the sequence or w fails, the error is theirs and
// what was written is of no use.
func Export(w io.Writer, chain *Chain, at time.Time, records iter.Seq2[staunch.Record, error]) (Checkpoint, error) {
	v, err := NewVerifier(chain, nil, nil)
	if err != nil {
		return Checkpoint{}, err
	}
	buf := bufio.NewWriterSize(w, 64<<10)
	digest := sha256.New()
	var line bytes.Buffer
	write := func(value any) error {
		if err := encodeLine(&line, value); err != nil {
			return fmt.Errorf("encoding line of the export: %w", err)
		}
		digest.Write(line.Bytes())
		if _, err := buf.Write(line.Bytes()); err != nil {
			return fmt.Errorf("writing the export: %w", err)
		}
		return nil
	}

	now := staunch.TimeOf(at)
	if err := write(header{V: staunch.Version, Kind: exportKind, At: now, Key: keyText(chain.PublicKey())}); err != nil {
		return Checkpoint{}, err
	}
	for r, err := range records {
		if err != nil {
			return Checkpoint{}, fmt.Errorf("reading records to export: %w", err)
		}
		if err := v.Add(r); err != nil {
			return Checkpoint{}, err
		}
		r.Body = exportBody(r.Body)
		if err := write(r); err != nil {
			return Checkpoint{}, err
		}
	}
	report := v.Finish()
	if err := report.Err(); err != nil {
		return Checkpoint{}, errors.Join(err, buf.Flush())
	}
	cp, err := chain.checkpoint(Checkpoint{
		V: staunch.Version, At: now, Heads: report.Heads,
		Digest: digestText(digest.Sum(nil)), Records: report.Records,
	})
	if err != nil {
		return Checkpoint{}, err
	}
	if err := write(checkpointLine{Checkpoint: &cp}); err != nil {
		return Checkpoint{}, err
	}
	if err := buf.Flush(); err != nil {
		return Checkpoint{}, fmt.Errorf("writing the export: %w", err)
	}
	return cp, nil
}

// exportBody returns the canonical form. A body that has none was not written by
// us; as evidence, its beginning goes out as a string, which fits no hash.
func exportBody(raw json.RawMessage) json.RawMessage {
	body, err := Canonical(raw)
	if err == nil {
		return body
	}
	body, err = json.Marshal(string(raw[:min(len(raw), 64<<10)]))
	if err != nil { // a string always has a JSON form
		panic(err)
	}
	return body
}

// VerifyOptions says what an export is checked with: Chain, or PublicKey, and if
// there is one an earlier checkpoint.
type VerifyOptions struct {
	// Chain recomputes every hash.
	Chain *Chain
	// PublicKey checks signatures and links alone; not used where Chain is set.
	PublicKey ed25519.PublicKey
	// Past is a checkpoint from an earlier export or another place.
	Past *Checkpoint
	// Log, where it is given, is the transparency log that has to have Past.
	Log *TransparencyLog
	// Evidence is a bundle that was verified (VerifyEvidence): the export must
	// have every record that it has, and reach the heads that it names.
	Evidence *Evidence
}

// VerifyExport checks an export, a line at a time. What was changed stands in
// the report. The error says why there could be no check: it wraps ErrWrongKey,
// ErrSignature (of the earlier checkpoint or its receipt), staunch.ErrInvalid (not
// an export, a line over MaxLine, an unknown version), or is the reader's.
func VerifyExport(r io.Reader, o VerifyOptions) (Report, error) {
	key := o.PublicKey
	if o.Chain != nil {
		key = o.Chain.PublicKey()
	}
	if len(key) != ed25519.PublicKeySize {
		return Report{}, fmt.Errorf("%w: an export is checked with the chain's key or its public key", staunch.ErrInvalid)
	}
	v, err := NewVerifier(o.Chain, key, o.Past)
	if err != nil {
		return Report{}, err
	}
	if v.report.Logged, err = o.Past.logged(key, o.Log); err != nil {
		return Report{}, err
	}
	if o.Evidence != nil {
		v.mark(o.Evidence.marks()...)
	}
	c := exportCheck{v: v, key: key, digest: sha256.New()}
	in := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > MaxLine:
			return Report{}, fmt.Errorf("%w: line %d is longer than %d bytes", staunch.ErrInvalid, v.line+1, MaxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return Report{}, fmt.Errorf("reading the export's line %d: %w", v.line+1, err)
		}
		if len(line) > 0 {
			if err := c.line(line); err != nil {
				return Report{}, err
			}
		}
		if err != nil {
			return c.finish()
		}
		line = line[:0]
	}
}

// exportCheck is the state of checking one export.
type exportCheck struct {
	v      *Verifier
	key    ed25519.PublicKey
	digest hash.Hash
	again  bytes.Buffer
	begun  bool
	end    *Checkpoint
	// sum is the digest of the lines before end.
	sum       string
	malformed int
}

func (c *exportCheck) line(line []byte) error {
	c.v.line++
	switch {
	case !c.begun:
		c.begun = true
		c.digest.Write(line)
		return c.header(line)
	case c.end != nil:
		c.bad("it stands after the checkpoint, which is the last line")
		return nil
	case bytes.HasPrefix(line, []byte(`{"checkpoint":`)):
		var last checkpointLine
		if !c.decode(line, &last) || last.Checkpoint == nil || last.Checkpoint.Logged != nil {
			c.bad("it is not a checkpoint as it was written")
			return nil
		}
		c.end, c.sum = last.Checkpoint, digestText(c.digest.Sum(nil))
		return nil
	}
	c.digest.Write(line)
	var r staunch.Record
	if !c.decode(line, &r) {
		c.bad("it is not a record as it was written")
		return nil
	}
	return c.v.Add(r)
}

func (c *exportCheck) header(line []byte) error {
	var h header
	if err := json.Unmarshal(line, &h); err != nil || h.Kind != exportKind {
		return fmt.Errorf("%w: line 1 does not begin an export of records", staunch.ErrInvalid)
	}
	if h.V != staunch.Version {
		return fmt.Errorf("%w: export of version %d, this release knows %d", staunch.ErrInvalid, h.V, staunch.Version)
	}
	if h.Key != keyText(c.key) {
		return fmt.Errorf("%w: the export names %.64q, and it is checked with %s", ErrWrongKey, h.Key, keyText(c.key))
	}
	if !c.decode(line, &h) {
		c.bad("it is not a first line as it was written")
	}
	return nil
}

// decode reads a line that was written by encodeLine and nothing else: what is
// spelled in another way, has a name twice or one that is not known would be
// read by people in one way and by the chain in another.
func (c *exportCheck) decode(line []byte, to any) bool {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return false
	}
	return encodeLine(&c.again, to) == nil && bytes.Equal(c.again.Bytes(), line)
}

func (c *exportCheck) bad(reason string) {
	c.malformed++
	if c.malformed <= maxMalformed {
		c.v.broke(Break{Kind: BreakMalformed, Reason: reason})
	}
}

func (c *exportCheck) finish() (Report, error) {
	if !c.begun {
		return Report{}, fmt.Errorf("%w: the export is empty", staunch.ErrInvalid)
	}
	last := c.v.line
	report := c.v.Finish()
	reason := ""
	switch {
	case c.end == nil:
		reason = "it ends without a checkpoint: it was cut, or the log was broken when it was written"
	case c.end.Verify(c.key) != nil:
		reason = "the checkpoint's signature does not fit"
	case c.end.Digest != c.sum || c.end.Records != report.Records:
		reason = "the checkpoint was signed over other lines"
	case !slices.Equal(c.end.Heads, report.Heads):
		reason = "the lanes do not end where the checkpoint says"
	default:
		report.Signed, report.Checkpoint = true, c.end
		return report, nil
	}
	report.Breaks = append(report.Breaks, Break{Kind: BreakUnsigned, Line: last, Reason: reason})
	return report, nil
}

// encodeLine writes value as the one line that exports have for it.
func encodeLine(buf *bytes.Buffer, value any) error {
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err
	}
	if buf.Len() > MaxLine {
		return fmt.Errorf("%w: line of %d bytes, at most %d", staunch.ErrInvalid, buf.Len(), MaxLine)
	}
	return nil
}

func digestText(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }
