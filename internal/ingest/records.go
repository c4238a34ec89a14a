// Package ingest brings records in: bodies that are pushed and files that are
// tailed. It undoes compression, cuts bodies into records, opens the vendors'
// envelopes through the format, and numbers what it finds. What a record means
// is for package pipeline.
package ingest

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

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
	// Number counts records from 1 over the whole input.
	Number int
	// Doc is the parsed record, valid until the next one is asked for; nil when
	// Err is set.
	Doc *jsondoc.Doc
	// Raw is the record as it came; in an error possibly cut short.
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
	if int64(len(p)) > b.n+1 {
		p = p[:b.n+1]
	}
	n, err := b.r.Read(p)
	b.n -= int64(n)
	if b.n < 0 {
		return n + int(b.n), ErrTooLarge
	}
	return n, err
}

// Body returns a reader of the plain body. encoding is the Content-Encoding
// header; gzip is also recognised by its first bytes. Reading past limit bytes
// of plain text gives ErrTooLarge; broken compression an error that wraps
// staunch.ErrInvalid.
func Body(r io.Reader, encoding string, limit int64) (io.Reader, error) {
	br := bufio.NewReader(r)
	switch encoding {
	case "", "identity", "gzip", "x-gzip":
	default:
		return nil, &staunch.Problem{Place: "Content-Encoding", Reason: fmt.Sprintf("%q is not supported", encoding), Hint: "send gzip or plain"}
	}
	magic, err := br.Peek(2)
	zipped := err == nil && magic[0] == 0x1f && magic[1] == 0x8b
	if (encoding == "gzip" || encoding == "x-gzip") && !zipped {
		return nil, &staunch.Problem{Place: "body", Reason: "is not gzip, though Content-Encoding says so"}
	}
	if !zipped {
		return &bounded{r: br, n: limit}, nil
	}
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, &staunch.Problem{Place: "body", Reason: "gzip: " + err.Error()}
	}
	return &bounded{r: &gunzip{z}, n: limit}, nil
}

// gunzip marks broken compression as the sender's fault.
type gunzip struct{ z *gzip.Reader }

func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, ErrTooLarge):
		return n, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, &staunch.Problem{Place: "body", Reason: "gzip: the stream is truncated"}
	default:
		return n, &staunch.Problem{Place: "body", Reason: "gzip: " + err.Error()}
	}
}

// Reader yields the records of one input.
type Reader struct {
	f      format.Format
	next   func() (jsondoc.Record, error)
	outer  *jsondoc.Doc
	inner  *jsondoc.Doc
	queue  [][]byte // records of an opened envelope
	broken error    // ends the envelope that queue is of
	number int
}

// NewReader reads r's records in format f.
func NewReader(r io.Reader, f format.Format, l jsondoc.Limits) (*Reader, error) {
	rd := &Reader{f: f, outer: jsondoc.New(l), inner: jsondoc.New(l)}
	if s, ok := f.(format.Streamer); ok {
		rr, err := s.Stream(r, l)
		if err != nil {
			return nil, err
		}
		rd.next = rr.Next
		return rd, nil
	}
	rd.next = jsondoc.NewSplitter(r, l).Next
	return rd, nil
}

// Next returns the next record, io.EOF after the last, or what reading gave.
// A record that is broken comes with Err set and counts as one.
func (r *Reader) Next() (Record, error) {
	for {
		if len(r.queue) > 0 {
			raw := r.queue[0]
			r.queue = r.queue[1:]
			r.number++
			if err := r.inner.Parse(raw); err != nil {
				return Record{Number: r.number, Raw: raw, Err: err}, nil
			}
			return Record{Number: r.number, Raw: raw, Doc: r.inner}, nil
		}
		if r.broken != nil {
			err := r.broken
			r.broken = nil
			r.number++
			return Record{Number: r.number, Err: err}, nil
		}
		rec, err := r.next()
		if err != nil {
			return Record{}, err
		}
		if rec.Err != nil {
			r.number++
			return Record{Number: r.number, Raw: rec.Raw, Err: rec.Err}, nil
		}
		if err := r.outer.Parse(rec.Raw); err != nil {
			r.number++
			return Record{Number: r.number, Raw: rec.Raw, Err: err}, nil
		}
		whole := false
		err = r.f.Split(r.outer, func(raw []byte) error {
			if len(raw) == len(rec.Raw) {
				whole = true // not an envelope: the record is parsed already
				return nil
			}
			r.queue = append(r.queue, append([]byte(nil), raw...))
			return nil
		})
		if err != nil {
			r.broken = err // what came before it stands
			continue
		}
		if whole {
			r.number++
			return Record{Number: r.number, Raw: rec.Raw, Doc: r.outer}, nil
		}
		// An empty envelope holds no record; that is not an error.
	}
}
