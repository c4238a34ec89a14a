package jsondoc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
)

// Record is one record cut out of a stream.
type Record struct {
	// Number counts records from 1. Blank lines are none; a broken record is
	// one.
	Number int
	// Offset is where Raw begins in the stream, in bytes. Adding the offset of
	// a [SyntaxError] gives the place in the stream.
	Offset int64
	// Raw is the record's text without surrounding blanks, valid until the
	// next call of Next. It is cut short in a record that is too large.
	Raw []byte
	// Err says that the record could not be cut out whole (truncated, too
	// large, brackets that do not match, no record at all). A nil Err does not
	// mean that Raw is valid JSON: that is for [Doc.Parse] to say, so that no
	// byte is checked twice.
	Err error
}

// ErrTooLarge is the cause of a record larger than Limits.Bytes.
var ErrTooLarge = errors.New("record is too large")

// ErrTruncated is the cause of a record at which the stream ended.
var ErrTruncated = errors.New("record is truncated")

type mode uint8

const (
	modeUnknown mode = iota
	modeLines        // NDJSON
	modeArray        // inside a top-level array
	modeConcat       // values one after the other, possibly over several lines
)

// Splitter cuts a stream into records, holding at most one record of
// Limits.Bytes at a time.
//
// It decides how to read the stream by its first byte that is not blank (a
// byte order mark at the very beginning is skipped):
//
//   - '[': a top-level array; every element is a record. Where the array's own
//     syntax breaks, the record at that place is reported and the array ends;
//     elements before it have been given already, and reading goes on at the
//     next line that starts with '{'. Another array may follow. Where what
//     follows the '[' is neither an object nor an array and the line is not the
//     beginning of JSON, it is a line of a log ("[2026-01-02] started"): NDJSON.
//   - '{' where the rest of the line leaves the value open, or where another
//     value begins on the same line: one object or concatenated objects, over
//     as many lines as they take. A record whose brackets do not match, or that
//     the stream ends in, is reported, and reading goes on at the first line
//     behind the record's beginning that starts with '{', where the way of
//     reading is decided anew: so NDJSON whose first line was cut off loses
//     that line only.
//   - anything else: NDJSON. Every line that is not blank is a record, whatever
//     it contains.
//
// A Splitter is not safe for concurrent use.
type Splitter struct {
	r      io.Reader
	limits Limits
	buf    []byte // window on the stream
	pos    int    // next byte to read in buf
	base   int64  // stream offset of buf[0]
	eof    bool
	err    error // of the reader, given once the buffered bytes are used up
	number int
	mode   mode
	began  bool // the byte order mark was looked for
	sep    bool // modeArray: an element was read, a comma or the end comes next
	// inArray says that an array broke, so that an object with a comma behind it
	// is one of its elements.
	inArray bool
	arrays  int64 // offset of the array's '[', for errors
}

const (
	splitBuffer  = 64 << 10
	maxEmptyRead = 100
)

// NewSplitter returns a Splitter that reads r.
func NewSplitter(r io.Reader, l Limits) *Splitter {
	return &Splitter{r: r, limits: l.withDefaults()}
}

// Next returns the next record. The error is io.EOF at the end of the stream,
// or what the reader returned; what is wrong with one record is in the record.
func (s *Splitter) Next() (Record, error) {
	if !s.began {
		s.began = true
		for len(s.buf) < 3 && s.fill() {
		}
		if bytes.HasPrefix(s.buf, []byte("\xef\xbb\xbf")) {
			s.pos = 3
		}
	}
	for {
		c, ok := s.peek()
		if !ok {
			if s.err != nil {
				return Record{}, fmt.Errorf("reading records: %w", s.err)
			}
			if s.mode == modeArray {
				s.mode = modeUnknown
				return s.record(s.pos, s.pos, fmt.Errorf("array that began at offset %d is not closed: %w", s.arrays, ErrTruncated)), nil
			}
			s.free()
			return Record{}, io.EOF
		}
		switch s.mode {
		case modeUnknown:
			s.decide(c)
		case modeLines:
			return s.line(), nil
		case modeConcat:
			if c == '[' {
				s.mode = modeUnknown
				continue
			}
			return s.value(c), nil
		case modeArray:
			switch {
			case c == ']':
				s.pos++
				s.mode, s.inArray = modeUnknown, false
			case s.sep && c == ',':
				s.pos++
				s.sep = false
				if c, ok := s.peek(); ok && c == ']' {
					return s.breakArray(c, "the array has a comma before its end"), nil
				}
			case s.sep:
				return s.breakArray(c, "expected ',' or ']' but found "+quoteByte(c)), nil
			case c == ',':
				return s.breakArray(c, "expected a value but found ','"), nil
			default:
				s.sep = true
				return s.element(), nil
			}
		}
	}
}

// decide chooses how to read from here; c is the byte at pos.
func (s *Splitter) decide(c byte) {
	switch c {
	case '[':
		if !s.opensArray() {
			s.mode = modeLines
			return
		}
		s.arrays = s.base + int64(s.pos)
		s.pos++
		s.mode, s.sep = modeArray, false
		return
	case '{':
	default:
		s.mode = modeLines
		return
	}
	b := bounds{maxDepth: s.limits.Depth}
	n, st := s.scan(&b, '\n')
	s.mode = modeLines
	switch st {
	case scanDone:
		for {
			for s.pos+n < len(s.buf) && s.buf[s.pos+n] != '\n' && charClass[s.buf[s.pos+n]]&cBlank != 0 {
				n++
			}
			if s.pos+n < len(s.buf) {
				switch c := s.buf[s.pos+n]; {
				case c == '{':
					s.mode = modeConcat
				case s.inArray && (c == ',' || c == ']'):
					s.mode, s.sep = modeArray, false
				}
				return
			}
			if n > s.limits.Bytes || !s.fill() {
				return
			}
		}
	case scanStopped, scanEnd:
		// The line leaves the value open. If what there is of it is not JSON
		// even so, it is a broken line; else the value goes on below.
		d := New(s.limits)
		var se *SyntaxError
		text := s.buf[s.pos : s.pos+n]
		if err := d.Parse(text); errors.As(err, &se) && se.Offset >= len(text) {
			s.mode = modeConcat
		}
	}
}

// opensArray says whether the '[' at pos begins an array of records and not a
// line of a log. Only a line that puts anything but an object, an array or the
// array's end behind the bracket has to be read for it.
func (s *Splitter) opensArray() bool {
	n := 1
	for {
		for s.pos+n < len(s.buf) && charClass[s.buf[s.pos+n]]&cBlank != 0 {
			n++
		}
		if s.pos+n < len(s.buf) {
			break
		}
		if n > s.limits.Bytes || !s.fill() {
			return true
		}
	}
	switch s.buf[s.pos+n] {
	case '{', '[', ']':
		return true
	}
	var b bounds
	n, st := s.scan(&b, '\n')
	if st == scanLarge {
		return true
	}
	err := New(s.limits).Parse(s.buf[s.pos : s.pos+n])
	if st != scanDone {
		var se *SyntaxError
		return errors.As(err, &se) && se.Offset >= n
	}
	if err != nil {
		return false
	}
	for {
		for ; s.pos+n < len(s.buf); n++ {
			if c := s.buf[s.pos+n]; c == '\n' || charClass[c]&cBlank == 0 {
				return c == '\n'
			}
		}
		if n > s.limits.Bytes || !s.fill() {
			return true
		}
	}
}

// line cuts out the line at pos.
func (s *Splitter) line() Record {
	start := s.pos
	for from := start; ; {
		if i := bytes.IndexByte(s.buf[from:], '\n'); i >= 0 {
			end := from + i
			s.pos = end + 1
			return s.record(start, end, s.sizeErr(end-start))
		}
		from = len(s.buf)
		if from-start > s.limits.Bytes+2 { // +2: a carriage return and the newline
			end := start + s.limits.Bytes
			rec := s.record(start, end, s.tooLarge())
			rec.Raw = excerpt(rec.Raw)
			s.skipLine(from)
			return rec
		}
		keep := start
		if !s.more(&keep) {
			end := len(s.buf)
			s.pos = end
			rec := s.record(keep, end, s.sizeErr(end-keep))
			var b bounds
			if rec.Err == nil && len(rec.Raw) > 0 && (rec.Raw[0] == '{' || rec.Raw[0] == '[') {
				if _, st := b.scan(rec.Raw, 0); st == scanMore {
					rec.Err = ErrTruncated
				}
			}
			return rec
		}
		from -= start - keep
		start = keep
	}
}

func (s *Splitter) skipLine(from int) {
	for {
		if i := bytes.IndexByte(s.buf[from:], '\n'); i >= 0 {
			s.pos = from + i + 1
			return
		}
		s.pos = len(s.buf)
		if !s.fill() {
			return
		}
		from = s.pos
	}
}

// value cuts out the value at pos in a concatenation.
func (s *Splitter) value(c byte) Record {
	if c != '{' {
		rec := s.line()
		if rec.Err == nil {
			rec.Err = fail(0, "expected an object but found "+quoteByte(c))
		}
		return rec
	}
	b := bounds{maxDepth: s.limits.Depth}
	n, st := s.scan(&b, 0)
	start := s.pos // scan may have moved the window
	end := start + n
	var err error
	switch st {
	case scanDone:
		s.pos = end
		return s.record(start, end, nil)
	case scanBroken:
		err = fail(n, b.reason)
	case scanLarge:
		err = s.tooLarge()
	default:
		err = ErrTruncated
	}
	// Go on at the next line that begins with '{', deciding anew. What is
	// reported ends there, or where the value broke.
	s.mode = modeUnknown
	if i := bytes.Index(s.buf[start:end], []byte("\n{")); i >= 0 {
		s.pos = start + i + 1
		return s.record(start, s.pos, err)
	}
	rec := s.record(start, end, err)
	if st == scanLarge {
		rec.Raw = excerpt(rec.Raw)
	} else {
		rec.Raw = bytes.Clone(rec.Raw)
	}
	s.pos = end
	s.skipToObject(s.buf[end-1])
	return rec
}

// skipToObject goes on to the next line that begins with '{', or to the end;
// last is the byte before pos.
func (s *Splitter) skipToObject(last byte) {
	for {
		rest := s.buf[s.pos:]
		if last == '\n' && len(rest) > 0 && rest[0] == '{' {
			return
		}
		if i := bytes.Index(rest, []byte("\n{")); i >= 0 {
			s.pos += i + 1
			return
		}
		if len(rest) > 0 {
			last = rest[len(rest)-1]
		}
		s.pos = len(s.buf)
		if !s.fill() {
			return
		}
	}
}

// element cuts out the array element at pos.
func (s *Splitter) element() Record {
	var b bounds
	n, st := s.scan(&b, 0)
	start := s.pos
	end := start + n
	switch st {
	case scanDone:
		s.pos = end
		return s.record(start, end, nil)
	case scanLarge:
		rec := s.record(start, end, s.tooLarge())
		rec.Raw = excerpt(rec.Raw)
		s.pos = end
		for {
			m, st := b.scan(s.buf[s.pos:], 0)
			s.pos += m
			switch st {
			case scanDone:
				return rec
			case scanBroken:
				s.resync()
				s.skipToObject(0)
				return rec
			}
			if !s.fill() {
				s.mode = modeUnknown
				rec.Err = fmt.Errorf("%w, and the array is not closed: %w", rec.Err, ErrTruncated)
				return rec
			}
		}
	}
	err := ErrTruncated
	if st == scanBroken {
		err = fail(n, b.reason)
	}
	s.resync()
	// The element may have lost its end, and the next line be another one.
	if i := bytes.Index(s.buf[start:end], []byte("\n{")); i >= 0 {
		s.pos = start + i + 1
		return s.record(start, s.pos, err)
	}
	rec := s.record(start, end, err)
	rec.Raw = bytes.Clone(rec.Raw)
	s.pos = end
	s.skipToObject(0)
	return rec
}

// breakArray reports the place where the array's own syntax broke as a record
// and goes on where the next element can be told; c is the byte at that place.
func (s *Splitter) breakArray(c byte, reason string) Record {
	rec := s.record(s.pos, s.pos, fail(0, reason))
	switch c {
	case ',', ']':
		s.pos++
		if c == ']' {
			s.mode = modeUnknown
		}
	case '{':
		s.resync()
	default:
		s.pos++
		s.resync()
		s.skipToObject(c)
	}
	return rec
}

// resync has the way of reading decided anew, by an object that may be an
// element of the array that broke.
func (s *Splitter) resync() { s.mode, s.inArray = modeUnknown, true }

// excerpt copies the beginning of a record that is too large, so that it
// survives the reading of its rest.
func excerpt(raw []byte) []byte {
	return bytes.Clone(raw[:min(len(raw), 1024)])
}

func (s *Splitter) tooLarge() error {
	return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, s.limits.Bytes)
}

func (s *Splitter) sizeErr(n int) error {
	if n > s.limits.Bytes+1 {
		return s.tooLarge()
	}
	return nil
}

func (s *Splitter) record(start, end int, err error) Record {
	s.number++
	raw := bytes.TrimRight(s.buf[start:end:end], " \t\r\n")
	return Record{Number: s.number, Offset: s.base + int64(start), Raw: raw, Err: err}
}

// peek skips blanks and returns the byte at pos.
func (s *Splitter) peek() (byte, bool) {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			if c := s.buf[s.pos]; charClass[c]&cBlank == 0 {
				return c, true
			}
		}
		if !s.fill() {
			return 0, false
		}
	}
}

// fill reads more bytes, moving what is not yet used to the front.
func (s *Splitter) fill() bool {
	return s.more(&s.pos)
}

// more reads more bytes behind those of buf, of which those from *keep on are
// kept; *keep is moved along with them.
func (s *Splitter) more(keep *int) bool {
	if s.eof {
		return false
	}
	if k := *keep; k > 0 && (k == len(s.buf) || len(s.buf) == cap(s.buf)) {
		n := copy(s.buf, s.buf[k:])
		s.buf = s.buf[:n]
		s.base += int64(k)
		*keep = 0
	}
	switch {
	case cap(s.buf) == 0:
		s.buf = windows.Get().(*window)[:0]
	case len(s.buf) == cap(s.buf):
		grown := make([]byte, len(s.buf), 2*cap(s.buf))
		copy(grown, s.buf)
		s.buf = grown
	}
	for range maxEmptyRead {
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		if err != nil {
			s.eof = true
			if !errors.Is(err, io.EOF) {
				s.err = err
			}
		}
		if n > 0 {
			return true
		}
		if s.eof {
			return false
		}
	}
	s.eof, s.err = true, io.ErrNoProgress
	return false
}

// free gives the window back at the end of the stream, where no record is in it
// any more; one that grew is left to the collector.
func (s *Splitter) free() {
	s.base += int64(s.pos)
	if cap(s.buf) == splitBuffer {
		windows.Put((*window)(s.buf[:splitBuffer]))
	}
	s.buf, s.pos = nil, 0
}

// windows has those of streams that ended: a server reads many short ones.
var windows = sync.Pool{New: func() any { return new(window) }}

type window [splitBuffer]byte

type scanState uint8

const (
	scanMore    scanState = iota // the text ended inside the value
	scanDone                     // the value ended
	scanStopped                  // the stop byte came before the value's end
	scanBroken                   // the brackets do not match, or a string has a control character
	scanLarge                    // larger than Limits.Bytes
	scanEnd                      // the stream ended inside the value
)

// scan finds the end of the value at pos, reading as much as it takes and
// returning the length looked at. A stop byte other than 0 ends it there. The
// value still begins at pos afterwards, though the window may have moved.
func (s *Splitter) scan(b *bounds, stop byte) (int, scanState) {
	for n := 0; ; {
		m, st := b.scan(s.buf[s.pos+n:], stop)
		n += m
		if n > s.limits.Bytes {
			return s.limits.Bytes, scanLarge
		}
		if st != scanMore {
			return n, st
		}
		if !s.fill() {
			if b.scalar {
				return n, scanDone
			}
			return n, scanEnd
		}
	}
}

// bounds finds the end of a value by its brackets and quotes alone; it can be
// fed in pieces.
type bounds struct {
	depth    int
	objects  [DefaultMaxDepth]bool // per depth: object or array
	scalar   bool                  // a number or a name: ends before a separator
	maxDepth int                   // breaks the value where it nests deeper; 0: go on to its end
	str      bool
	escaped  bool
	reason   string
}

func (b *bounds) scan(text []byte, stop byte) (int, scanState) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		if b.str {
			if !b.escaped {
				if i = plain(text, i); i >= len(text) {
					break
				}
				c = text[i]
			}
			switch {
			case b.escaped:
				b.escaped = false
			case c == '\\':
				b.escaped = true
			case c == '"':
				b.str = false
				if b.depth == 0 {
					return i + 1, scanDone
				}
			case c < 0x20:
				b.reason = "control character in a string"
				return i, scanBroken
			}
			continue
		}
		switch c {
		case '"':
			if b.scalar {
				b.reason = "expected ',' or ']' but found '\"'"
				return i, scanBroken
			}
			b.str = true
		case '{', '[':
			if b.scalar {
				b.reason = "expected ',' or ']' but found " + quoteByte(c)
				return i, scanBroken
			}
			if b.maxDepth > 0 && b.depth >= b.maxDepth {
				b.reason = fmt.Sprintf("nested deeper than %d", b.maxDepth)
				return i, scanBroken
			}
			// Deeper than this only the number of brackets is followed.
			if b.depth < len(b.objects) {
				b.objects[b.depth] = c == '{'
			}
			b.depth++
		case '}', ']':
			if b.depth == 0 {
				if b.scalar && c == ']' {
					return i, scanDone
				}
				b.reason = "unexpected " + quoteByte(c)
				return i, scanBroken
			}
			b.depth--
			if b.depth < len(b.objects) && b.objects[b.depth] != (c == '}') {
				b.reason = "mismatched " + quoteByte(c)
				return i, scanBroken
			}
			if b.depth == 0 {
				return i + 1, scanDone
			}
		case ' ', '\t', '\r', '\n', ',':
			if b.scalar {
				return i, scanDone
			}
			if c == stop && stop != 0 {
				return i, scanStopped
			}
		default:
			if b.depth == 0 {
				b.scalar = true
			}
		}
	}
	return len(text), scanMore
}

// plain returns the index of the first byte from i on that means something
// inside a string: a quote, a backslash or a control character.
func plain(b []byte, i int) int {
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		q := w ^ (ones * '"')
		s := w ^ (ones * '\\')
		m := (((q - ones) &^ q) | ((s - ones) &^ s) | ((w - ones*0x20) &^ w)) & highs
		if m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= 0x20 {
		i++
	}
	return i
}
