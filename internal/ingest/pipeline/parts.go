package pipeline

import (
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest"
)

// An input is cut into parts of some records in a row, and its parts are looked
// into by all processors: that is a third of a batch's time. What came of them is
// taken in the order of the records.

const (
	// partRecords and partBytes bound a part: it takes longer than to hand it over,
	// and leaves parts for every processor in a batch of a few hundred records.
	partRecords = 64
	partBytes   = 128 << 10
	// keepPart is how much memory a part may have to be used again.
	keepPart = 1 << 20
)

// part is some of an input's records in a row.
type part struct {
	raw  []byte
	cuts []cut
	// given is how many of the cuts the reader had.
	given int
	seen  []seen
	done  chan struct{} // has a value once seen is complete
	// thrown is what the examination panicked with.
	thrown   any
	panicked bool
}

// cut is where a record ends in a part's raw, or why it could not be cut.
type cut struct {
	end int
	err error
}

// seen is what came of a record: an item, nothing, or why it is refused.
type seen struct {
	item *item
	err  error
}

var parts = sync.Pool{New: func() any { return &part{done: make(chan struct{}, 1)} }}

func (pt *part) free() {
	if cap(pt.raw) > keepPart {
		pt.raw = nil
	}
	clear(pt.cuts)
	clear(pt.seen)
	pt.raw, pt.cuts, pt.seen, pt.given = pt.raw[:0], pt.cuts[:0], pt.seen[:0], 0
	parts.Put(pt)
}

// fill takes records until the part is full or there are no more, which the error
// tells.
func (pt *part) fill(next func() (jsondoc.Record, error)) error {
	for len(pt.cuts) < partRecords && len(pt.raw) < partBytes {
		rec, err := next()
		if err != nil {
			return err
		}
		pt.raw = append(pt.raw, rec.Raw...)
		pt.cuts = append(pt.cuts, cut{len(pt.raw), rec.Err})
	}
	return nil
}

// next gives the part's records to a reader.
func (pt *part) next() (jsondoc.Record, error) {
	if pt.given == len(pt.cuts) {
		return jsondoc.Record{}, io.EOF
	}
	from := 0
	if pt.given > 0 {
		from = pt.cuts[pt.given-1].end
	}
	c := pt.cuts[pt.given]
	pt.given++
	return jsondoc.Record{Number: pt.given, Raw: pt.raw[from:c.end:c.end], Err: c.err}, nil
}

// partReader opens the records of one part after the other. It is part of a
// Scratch: what parsing needs is large.
type partReader struct {
	src *Source
	pt  *part
	rd  *ingest.Reader
}

func (r *partReader) next() (jsondoc.Record, error) { return r.pt.next() }

// of returns the reader, set upon the part.
func (r *partReader) of(src *Source, pt *part, l jsondoc.Limits) *ingest.Reader {
	if r.src != src {
		r.src, r.rd = src, ingest.NewCutReader(r.next, src.Format, l)
	}
	r.pt = pt
	return r.rd
}

// examineAll examines the records that next cuts and gives what came of each to
// take, numbered from 1 and in their order. It returns what reading gave, nil at
// its end, after all that came before; or what take gave, which ends it.
func (p *Pipeline) examineAll(b *Bundle, src *Source, next func() (jsondoc.Record, error), take func(number int, s seen) error) error {
	number := 0
	give := func(pt *part) error {
		defer pt.free()
		if pt.panicked {
			panic(pt.thrown)
		}
		for _, s := range pt.seen {
			number++
			if err := take(number, s); err != nil {
				return err
			}
		}
		return nil
	}
	var under []*part // in the order of the records
	defer func() {
		for _, pt := range under { // nobody wants them any more
			<-pt.done
			pt.free()
		}
	}()
	first := func() error {
		pt := under[0]
		under = under[1:]
		<-pt.done
		return give(pt)
	}
	for {
		pt := parts.Get().(*part)
		readErr := pt.fill(next)
		if readErr == nil {
			go func() {
				// While the garbage collector marks or sweeps, it uses a processor that has
				// nothing to do for as long as there is nothing in the queue that all share.
				// There this part goes; in this processor's own it would wait for the others.
				runtime.Gosched()
				p.examinePart(b, src, pt)
			}()
		} else {
			p.examinePart(b, src, pt) // the last one; it would only be waited for
		}
		under = append(under, pt)
		for len(under) > 2*runtime.GOMAXPROCS(0) || readErr != nil && len(under) > 0 {
			if err := first(); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// examinePart examines a part's records, as soon as a processor is free.
func (p *Pipeline) examinePart(b *Bundle, src *Source, pt *part) {
	sc := p.getScratch()
	pt.panicked = true
	defer func() {
		if pt.panicked {
			// The goroutine that takes the part panics in this one's place.
			pt.thrown = recover()
			sc = new(Scratch) // in whatever state that one is
		}
		p.putScratch(sc)
		pt.done <- struct{}{}
	}()
	rd := sc.reader.of(src, pt, p.opt.Limits.Doc)
	for {
		rec, err := rd.Next()
		if err != nil {
			break // the end of the part: next gives no other error
		}
		var s seen
		if s.err = rec.Err; s.err == nil {
			s.item, s.err = p.examine(b, src, rec.Doc, staunch.TimeOf(p.opt.Clock.Now()), sc)
		}
		pt.seen = append(pt.seen, s)
	}
	pt.panicked = false
}
