// Package ingest brings records in: bodies that are pushed and files that are
// tailed. It undoes compression, cuts bodies into records, opens the vendors'
// envelopes through the format, and numbers what it finds. What a record means
// is for package pipeline.
package ingest

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// Limits bound what comes in. Zero fields take the defaults.
type Limits struct {
	// Body is the most bytes of a body, after decompression; default 10 MiB.
	Body int64
	// Doc bounds one record.
	Doc jsondoc.Limits
}

// DefaultBody is the most bytes of a pushed body after decompression.
const DefaultBody = 10 << 20

// WithDefaults fills in zero fields.
func (l Limits) WithDefaults() Limits {
	if l.Body == 0 {
		l.Body = DefaultBody
	}
	return l
}

// ErrTooLarge says that a body is larger than allowed.
var ErrTooLarge = errors.New("the body is too large")

// Record is one record, envelopes opened.
type Record struct {
	// Number counts records from 1 over the whole input, or its lines (see
	// NewLineReader).
	Number int
	// Doc is the parsed record, valid until the next one is asked for; nil when
	// Err is set.
	Doc *jsondoc.Doc
	// Raw is the record as it came, valid as long as Doc; in an error possibly
	// cut short.
	Raw []byte
	// Err says why the record cannot be read.
	Err error
}

// bounded fails with ErrTooLarge when more than n bytes are read, where
// io.LimitReader would silently end.
type bounded struct {
	r io.Reader
	n int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n < 0 {
		return 0, ErrTooLarge
	}
	if int64(len(p))-1 > b.n {
		p = p[:b.n+1] // one more than allowed tells a body of the limit from a larger one
	}
	n, err := b.r.Read(p)
	b.n -= int64(n)
	if b.n < 0 {
		return n - 1, ErrTooLarge
	}
	return n, err
}

// otherForms are known by their first bytes, so that they are called what they
// are and not broken records.
var otherForms = [...]struct {
	name   string
	begins []byte
	hint   string
}{
	{"zstd", []byte("\x28\xb5\x2f\xfd"), "send gzip or plain"},
	{"xz", []byte("\xfd7zXZ\x00"), "send gzip or plain"},
	{"zip", []byte("PK\x03\x04"), "send gzip or plain"},
	{"UTF-16", []byte("\xff\xfe"), "send it as UTF-8"},
	{"UTF-16", []byte("\xfe\xff"), "send it as UTF-8"},
}

// Body returns a reader of the plain body. encoding is the Content-Encoding
// header; gzip is also recognised by its first bytes. Reading past limit bytes
// of plain text gives ErrTooLarge; broken compression an error that wraps
// staunch.ErrInvalid; what reading r gives comes back as it is.
func Body(r io.Reader, encoding string, limit int64) (io.Reader, error) {
	br := bufio.NewReader(r)
	said := false
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
	case "gzip", "x-gzip":
		said = true
	default:
		return nil, &staunch.Problem{Place: "Content-Encoding", Reason: fmt.Sprintf("%.100q is not supported", encoding), Hint: "send gzip or plain"}
	}
	magic, err := br.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	zipped := len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b
	for _, other := range otherForms {
		if !bytes.HasPrefix(other.begins, magic) || len(magic) == 0 {
			continue
		}
		if begins, err := br.Peek(len(other.begins)); err == nil && bytes.Equal(begins, other.begins) {
			return nil, &staunch.Problem{Place: "body", Reason: "is " + other.name + ", which is not supported", Hint: other.hint}
		}
	}
	if said && !zipped {
		return nil, &staunch.Problem{Place: "body", Reason: "is not gzip, though Content-Encoding says so"}
	}
	if !zipped {
		return &bounded{r: br, n: limit}, nil
	}
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, unzipping(err)
	}
	return &bounded{r: &gunzip{z}, n: limit}, nil
}

// gunzip marks broken compression as the sender's fault.
type gunzip struct{ z *gzip.Reader }

func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unzipping(err)
	}
	return n, err
}

// unzipping tells what is wrong with the compression from what is wrong with
// reading, which is nobody's mistake.
func unzipping(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &staunch.Problem{Place: "body", Reason: "gzip: the stream is truncated"}
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return &staunch.Problem{Place: "body", Reason: err.Error()}
	default:
		return fmt.Errorf("reading the body: %w", err)
	}
}

// Reader yields the records of one input.
type Reader struct {
	f      format.Format
	next   func() (jsondoc.Record, error)
	byLine bool // a record's number is its line's
	outer  *jsondoc.Doc
	inner  *jsondoc.Doc
	number int
	// arena has the records of the envelope that is open, ends where each ends in
	// it, the next of them at its index given and beginning at begin.
	arena []byte
	ends  []int
	given int
	begin int
	// broken ends the envelope that is open, which envelope is.
	broken   error
	envelope []byte
	// yield is what Split is given, made once so that a record costs no memory;
	// single says that the record of this size is no envelope.
	yield  func(raw []byte) error
	size   int
	single bool
}

func newReader(f format.Format, l jsondoc.Limits) *Reader {
	r := &Reader{f: f, outer: jsondoc.New(l), inner: jsondoc.New(l)}
	r.yield = func(raw []byte) error {
		if len(raw) == r.size {
			r.single = true // the record itself, which is parsed already
			return nil
		}
		// raw is valid for this call alone.
		r.arena = append(r.arena, raw...)
		r.ends = append(r.ends, len(r.arena))
		return nil
	}
	return r
}

// excerpt is how much of a record that is too large is given.
const excerpt = 1024

// keepArena is how much of an envelope's memory is kept for the next one.
const keepArena = 1 << 20

// Cut returns a function that cuts r into records in format f, without looking
// into them. Its Raw is valid until the next call; the error is io.EOF at the
// end.
func Cut(r io.Reader, f format.Format, l jsondoc.Limits) (func() (jsondoc.Record, error), error) {
	if s, ok := f.(format.Streamer); ok {
		rr, err := s.Stream(r, l)
		if err != nil {
			return nil, err
		}
		return rr.Next, nil
	}
	return jsondoc.NewSplitter(r, l).Next, nil
}

// NewReader reads r's records in format f.
func NewReader(r io.Reader, f format.Format, l jsondoc.Limits) (*Reader, error) {
	next, err := Cut(r, f, l)
	if err != nil {
		return nil, err
	}
	return NewCutReader(next, f, l), nil
}

// NewCutReader reads records that were cut, given one by one by next. After
// io.EOF it may be asked again when next has more.
func NewCutReader(next func() (jsondoc.Record, error), f format.Format, l jsondoc.Limits) *Reader {
	rd := newReader(f, l)
	rd.next = next
	return rd
}

// NewLineReader reads the records in whole lines of a log file. Every line that
// is not blank is a record on its own, so that a broken one never takes its
// neighbours along, whatever it begins with. Records are numbered by line, from
// 1; those of an envelope have the number of its line. A format that splits
// streams itself does so here too, and its records are counted.
func NewLineReader(lines []byte, f format.Format, l jsondoc.Limits) (*Reader, error) {
	if _, ok := f.(format.Streamer); ok {
		return NewReader(bytes.NewReader(lines), f, l)
	}
	rd := newReader(f, l)
	rd.byLine = true
	most := rd.outer.Limits().Bytes
	number := 0
	rd.next = func() (jsondoc.Record, error) {
		for len(lines) > 0 {
			line := lines
			if i := bytes.IndexByte(lines, '\n'); i >= 0 {
				line, lines = lines[:i], lines[i+1:]
			} else {
				lines = nil
			}
			number++
			if number == 1 {
				line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")) // a byte order mark
			}
			line = bytes.Trim(line, " \t\r")
			if len(line) == 0 {
				continue
			}
			rec := jsondoc.Record{Number: number, Raw: line}
			if len(line) > most {
				rec.Err = fmt.Errorf("%w: %d bytes, at most %d", jsondoc.ErrTooLarge, len(line), most)
			}
			return rec, nil
		}
		return jsondoc.Record{}, io.EOF
	}
	return rd, nil
}

// count gives the next record its number.
func (r *Reader) count(rec jsondoc.Record) int {
	if r.byLine {
		r.number = rec.Number
	} else {
		r.number++
	}
	return r.number
}

// inside returns the number of the next record of an envelope.
func (r *Reader) inside() int {
	if !r.byLine {
		r.number++
	}
	return r.number
}

// Next returns the next record, io.EOF after the last, or what reading gave.
// A record that is broken comes with Err set and counts as one. What is broken
// inside of an envelope comes after the records before it, with the envelope as
// Raw.
func (r *Reader) Next() (Record, error) {
	for {
		if r.given < len(r.ends) {
			end := r.ends[r.given]
			raw := r.arena[r.begin:end:end]
			r.begin, r.given = end, r.given+1
			n := r.inside()
			if err := r.inner.Parse(raw); err != nil {
				return Record{Number: n, Raw: raw, Err: err}, nil
			}
			return Record{Number: n, Raw: raw, Doc: r.inner}, nil
		}
		if r.broken != nil {
			rec := Record{Number: r.inside(), Raw: r.envelope, Err: r.broken}
			r.broken, r.envelope = nil, nil
			return rec, nil
		}
		rec, err := r.next()
		if err != nil {
			return Record{}, err
		}
		if rec.Err != nil {
			if errors.Is(rec.Err, jsondoc.ErrTooLarge) {
				rec.Raw = rec.Raw[:min(len(rec.Raw), excerpt)]
			}
			return Record{Number: r.count(rec), Raw: rec.Raw, Err: rec.Err}, nil
		}
		if err := r.outer.Parse(rec.Raw); err != nil {
			return Record{Number: r.count(rec), Raw: rec.Raw, Err: err}, nil
		}
		if cap(r.arena) > keepArena {
			r.arena = nil
		}
		r.arena, r.ends, r.given, r.begin = r.arena[:0], r.ends[:0], 0, 0
		r.size, r.single = len(rec.Raw), false
		err = r.f.Split(r.outer, r.yield)
		if r.single && err == nil {
			return Record{Number: r.count(rec), Raw: rec.Raw, Doc: r.outer}, nil
		}
		if r.byLine {
			r.number = rec.Number
		}
		if err != nil {
			r.broken, r.envelope = err, rec.Raw // what came before it stands
		}
		// An empty envelope holds no record; that is not an error.
	}
}
