package offline

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest"
)

// Records go through Match in batches: cut from the input by one goroutine,
// matched by several, written in their order by one.
const (
	batchBytes   = 128 << 10
	batchRecords = 1024
	// keepBatch is the memory of a batch that is kept for the next one.
	keepBatch = 1 << 20
)

// batch is some records that follow each other, and their lines.
type batch struct {
	raw  []byte
	cuts []cut
	// rest has what stands in each line behind the record's number, and ends
	// where each of these ends.
	rest []byte
	ends []int
	done chan struct{} // receives once the lines are there
}

// cut is a record that was cut from the input; its text ends at end in raw.
type cut struct {
	end int
	err error
}

func (b *batch) full() bool { return len(b.raw) >= batchBytes || len(b.cuts) >= batchRecords }

func (b *batch) reset() {
	if cap(b.raw) > keepBatch {
		b.raw = nil
	}
	if cap(b.rest) > keepBatch {
		b.rest = nil
	}
	b.raw, b.cuts, b.rest, b.ends = b.raw[:0], b.cuts[:0], b.rest[:0], b.ends[:0]
}

// Match writes, per record of in, {"record":N,"rules":[ids…]}, or for a broken
// one {"record":N,"error":…} and ErrBadRecords at the end. ls, when given,
// takes the place of the format's log source. All processors take part.
func Match(set *sigma.Set, f format.Format, ls *sigma.Logsource, in io.Reader, out io.Writer) error {
	plain, err := ingest.Body(in, "", 1<<62)
	if err != nil {
		return err
	}
	next, err := ingest.Cut(plain, f, ingest.Limits{}.Doc)
	if err != nil {
		return err
	}
	m := &matching{set: set, f: f, ls: ls}
	for _, r := range set.Rules() {
		id, err := json.Marshal(r.ID)
		if err != nil {
			return err
		}
		m.ids = append(m.ids, id)
	}
	workers := runtime.GOMAXPROCS(0)
	free := make(chan *batch, 2*workers+2)
	for range cap(free) {
		free <- &batch{done: make(chan struct{}, 1)}
	}
	work, order := make(chan *batch, cap(free)), make(chan *batch, cap(free))
	var wg sync.WaitGroup
	for range workers {
		w := m.newWorker()
		wg.Go(func() {
			for b := range work {
				w.match(b)
				b.done <- struct{}{}
			}
		})
	}
	var failed atomic.Bool
	var writeErr error
	wg.Go(func() {
		w := bufio.NewWriterSize(out, 256<<10)
		number := 0
		for b := range order {
			<-b.done
			if writeErr == nil {
				if number, writeErr = b.write(w, number); writeErr != nil {
					failed.Store(true)
				}
			}
			b.reset()
			free <- b
		}
		if writeErr == nil {
			writeErr = w.Flush()
		}
	})
	var readErr error
	for readErr == nil && !failed.Load() {
		b := <-free
		for readErr == nil && !b.full() {
			var rec jsondoc.Record
			if rec, readErr = next(); readErr == nil {
				b.raw = append(b.raw, rec.Raw...)
				b.cuts = append(b.cuts, cut{len(b.raw), rec.Err})
			}
		}
		order <- b
		work <- b
	}
	close(work)
	close(order)
	wg.Wait()
	if readErr != nil && !errors.Is(readErr, io.EOF) {
		return errors.Join(readErr, writeErr)
	}
	if writeErr != nil {
		return fmt.Errorf("writing: %w", writeErr)
	}
	if m.bad.Load() {
		return ErrBadRecords
	}
	return nil
}

// matching is what the workers share.
type matching struct {
	f   format.Format
	ls  *sigma.Logsource
	ids [][]byte // of rules, quoted
	set *sigma.Set
	bad atomic.Bool
}

type worker struct {
	*matching
	rd      *ingest.Reader
	b       *batch
	given   int
	sc      sigma.Scratch
	matched []int
}

func (m *matching) newWorker() *worker {
	w := &worker{matching: m}
	w.rd = ingest.NewCutReader(w.next, m.f, ingest.Limits{}.Doc)
	return w
}

// next gives the reader the batch's records.
func (w *worker) next() (jsondoc.Record, error) {
	if w.given == len(w.b.cuts) {
		return jsondoc.Record{}, io.EOF
	}
	from := 0
	if w.given > 0 {
		from = w.b.cuts[w.given-1].end
	}
	c := w.b.cuts[w.given]
	w.given++
	return jsondoc.Record{Number: w.given, Raw: w.b.raw[from:c.end:c.end], Err: c.err}, nil
}

// match makes the lines of a batch.
func (w *worker) match(b *batch) {
	w.b, w.given = b, 0
	for {
		rec, err := w.rd.Next()
		if err != nil {
			return // the end of the batch: next gives no other error
		}
		b.rest = append(w.line(b.rest, rec), "}\n"...)
		b.ends = append(b.ends, len(b.rest))
	}
}

// line appends what a record's line says of it.
func (w *worker) line(dst []byte, rec ingest.Record) []byte {
	if rec.Err != nil {
		w.bad.Store(true)
		return appendJSON(append(dst, `"error":`...), rec.Err.Error())
	}
	ls := w.ls
	if ls == nil {
		p := w.f.Logsource(rec.Doc)
		ls = &sigma.Logsource{Product: p.Product, Category: p.Category, Service: p.Service, All: p.All}
	}
	w.matched = w.set.Match(rec.Doc, *ls, &w.sc, w.matched[:0])
	w.set.Observe(rec.Doc)
	dst = append(dst, `"rules":[`...)
	for i, n := range w.matched {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, w.ids[n]...)
	}
	return append(dst, ']')
}

// appendJSON appends a text as JSON has it.
func appendJSON(dst []byte, s string) []byte {
	q, _ := json.Marshal(s) // a string always can be
	return append(dst, q...)
}

// write writes the batch's lines; number is that of the record before it, and
// is returned for the next one.
func (b *batch) write(w *bufio.Writer, number int) (int, error) {
	from := 0
	for _, end := range b.ends {
		number++
		line := append(w.AvailableBuffer(), `{"record":`...)
		line = strconv.AppendInt(line, int64(number), 10)
		line = append(line, ',')
		line = append(line, b.rest[from:end]...)
		if _, err := w.Write(line); err != nil {
			return number, err
		}
		from = end
	}
	return number, nil
}
