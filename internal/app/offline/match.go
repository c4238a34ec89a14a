package offline

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/staunch-project/staunch/internal/detect/correlate"
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
	told []told
	done chan struct{} // receives once the lines are there
}

// cut is a record that was cut from the input; its text ends at end in raw.
type cut struct {
	end int
	err error
}

// told is what Table and correlations are told of a record; raw is for those.
type told struct {
	err   error
	rules []int
	raw   []byte
}

func (b *batch) full() bool { return len(b.raw) >= batchBytes || len(b.cuts) >= batchRecords }

func (b *batch) reset() {
	if cap(b.raw) > keepBatch {
		b.raw = nil
	}
	if cap(b.rest) > keepBatch {
		b.rest = nil
	}
	b.raw, b.cuts, b.rest, b.ends, b.told = b.raw[:0], b.cuts[:0], b.rest[:0], b.ends[:0], b.told[:0]
}

// MatchOptions say what is matched and how it is told.
type MatchOptions struct {
	Set *sigma.Set
	// Referring, when given, are the correlations that refer to rules of Set: matches
	// of rules that make no signals of their own are told apart.
	Referring *correlate.Set
	// Correlations, when given, are evaluated over all records, and a line follows
	// them for each signal that they would make.
	Correlations *correlate.Set
	Format       format.Format
	// All evaluates every rule, whatever the record's log source.
	All bool
	// Details adds "matches" to a line, which tell of each rule.
	Details bool
	In      io.Reader
	Out     io.Writer
	// Table, when given, is told of each match and each broken record in place of
	// lines on Out, one at a time and in the order of the records. base says that the
	// rule makes no signals of its own.
	Table func(record int, r *sigma.Rule, base bool, broken error)
	// Uncounted, when given, is told at the end how many records matched and count
	// for no correlation, where there are any, and of the first one why.
	Uncounted func(n int, first error)
}

// RuleInfo is what is told of a rule wherever a match of it is shown.
type RuleInfo struct {
	ID         string   `json:"id"`
	Title      string   `json:"title,omitempty"`
	Level      string   `json:"level,omitempty"`
	Mode       string   `json:"mode,omitempty"`
	Author     string   `json:"author,omitempty"`
	License    string   `json:"license,omitempty"`
	References []string `json:"references,omitempty"`
}

// InfoOf returns what is told of a rule.
func InfoOf(r *sigma.Rule) RuleInfo {
	return RuleInfo{ID: r.ID, Title: r.Title, Level: r.Level, Mode: r.Mode, Author: r.Author, License: r.License, References: r.References}
}

// Match writes, per record, {"record":N,"rules":[ids…]}, with "base":[ids…] of those
// that count for correlations alone, or for a broken one {"record":N,"error":…} and
// ErrBadRecords at the end. All processors take part.
func Match(o MatchOptions) error {
	plain, err := ingest.Body(o.In, "", 1<<62)
	if err != nil {
		return err
	}
	next, err := ingest.Cut(plain, o.Format, ingest.Limits{}.Doc)
	if err != nil {
		return err
	}
	m := &matching{MatchOptions: o, windows: newMatchWindows(o.Correlations, o.Format, o.Details)}
	for _, r := range o.Set.Rules() {
		id, err := json.Marshal(r.ID)
		if err != nil {
			return err
		}
		info, err := json.Marshal(InfoOf(r))
		if err != nil {
			return err
		}
		m.ids, m.infos = append(m.ids, id), append(m.infos, info)
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
		w := bufio.NewWriterSize(o.Out, 256<<10)
		number := 0
		for b := range order {
			<-b.done
			if writeErr == nil {
				if number, writeErr = m.write(w, b, number); writeErr != nil {
					failed.Store(true)
				}
			}
			b.reset()
			free <- b
		}
		if err := w.Flush(); err != nil && writeErr == nil {
			writeErr = fmt.Errorf("writing: %w", err)
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
		return writeErr
	}
	if m.windows != nil {
		w := bufio.NewWriter(o.Out)
		if err := m.windows.write(w); err != nil {
			return errors.Join(err, w.Flush())
		}
		if err := w.Flush(); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		if m.windows.uncounted > 0 && o.Uncounted != nil {
			o.Uncounted(m.windows.uncounted, m.windows.why)
		}
	}
	if m.bad.Load() {
		return ErrBadRecords
	}
	return nil
}

// matching is what the workers share.
type matching struct {
	MatchOptions
	ids, infos [][]byte // of rules, as JSON
	windows    *matchWindows
	bad        atomic.Bool
}

type worker struct {
	*matching
	rd      *ingest.Reader
	b       *batch
	given   int
	sc      sigma.Scratch
	mapped  sigma.MappedScratch
	matched []int
	// own and base are the parts of matched that are told apart.
	own, base []int
}

func (m *matching) newWorker() *worker {
	w := &worker{matching: m}
	w.rd = ingest.NewCutReader(w.next, m.Format, ingest.Limits{}.Doc)
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
		err = rec.Err
		if err == nil {
			err = w.find(rec.Doc)
		}
		if err != nil {
			w.bad.Store(true)
		}
		if w.Table != nil || w.windows != nil {
			t := told{err: err}
			if err == nil && len(w.matched) > 0 {
				t.rules = slices.Clone(w.matched)
				if w.windows != nil {
					t.raw = slices.Clone(rec.Doc.Raw())
				}
			}
			b.told = append(b.told, t)
		}
		if w.Table != nil {
			continue
		}
		b.rest = append(w.line(b.rest, err), "}\n"...)
		b.ends = append(b.ends, len(b.rest))
	}
}

// find puts the rules that match into matched, mapping a record that rules in
// OCSF's names want.
func (w *worker) find(doc *jsondoc.Doc) error {
	ls := sigma.Logsource{All: true}
	if !w.All {
		ls = logsourceOf(w.Format, doc)
	}
	w.matched = w.Set.Match(doc, ls, &w.sc, w.matched[:0])
	w.Set.Observe(doc)
	if !w.Set.NeedsMapped(ls) {
		return nil
	}
	event, err := eventOf(w.Format, doc, format.Env{Source: "match", Realm: ReplayRealm})
	switch {
	case err != nil && w.Format.Logsource(doc).All:
		return nil // any JSON is a record of this format, and not all of it says who and when
	case err != nil:
		return err
	}
	w.matched, err = w.Set.MatchMapped(event, ls, &w.mapped, w.matched)
	return err
}

func logsourceOf(f format.Format, doc *jsondoc.Doc) sigma.Logsource {
	l := f.Logsource(doc)
	return sigma.Logsource{Product: l.Product, Category: l.Category, Service: l.Service, All: l.All}
}

// eventOf returns the OCSF event of a record: the record itself where it is one.
func eventOf(f format.Format, doc *jsondoc.Doc, env format.Env) ([]byte, error) {
	if sigma.IsMapped(doc) {
		return doc.Raw(), nil
	}
	keys, err := f.Keys(doc, env)
	if err != nil {
		return nil, err
	}
	m, err := f.Map(doc, keys, env)
	return m.OCSF, err
}

// line appends what a record's line says of it.
func (w *worker) line(dst []byte, broken error) []byte {
	if broken != nil {
		return appendJSON(append(dst, `"error":`...), broken.Error())
	}
	w.own, w.base = w.own[:0], w.base[:0]
	for _, n := range w.matched {
		if w.Referring.Hidden(n) {
			w.base = append(w.base, n)
		} else {
			w.own = append(w.own, n)
		}
	}
	dst = appendList(append(dst, `"rules":`...), w.ids, w.own)
	if len(w.base) > 0 {
		dst = appendList(append(dst, `,"base":`...), w.ids, w.base)
	}
	if w.Details && len(w.matched) > 0 {
		dst = appendList(append(dst, `,"matches":`...), w.infos, w.matched)
	}
	return dst
}

// appendList writes a JSON list of those of texts that are picked.
func appendList(dst []byte, texts [][]byte, picked []int) []byte {
	dst = append(dst, '[')
	for i, n := range picked {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, texts[n]...)
	}
	return append(dst, ']')
}

// appendJSON appends a text as JSON has it.
func appendJSON(dst []byte, s string) []byte {
	q, _ := json.Marshal(s) // a string always can be
	return append(dst, q...)
}

// write writes the batch's lines, or tells of its records; number is that of the
// record before it, and is returned for the next one.
func (m *matching) write(w *bufio.Writer, b *batch, number int) (int, error) {
	for i, t := range b.told {
		if m.windows != nil {
			if err := m.windows.take(number+i+1, t.raw, t.rules); err != nil {
				return number, err
			}
		}
		if m.Table == nil {
			continue
		}
		if t.err != nil {
			m.Table(number+i+1, nil, false, t.err)
		}
		for _, n := range t.rules {
			m.Table(number+i+1, m.Set.Rules()[n], m.Referring.Hidden(n), nil)
		}
	}
	if m.Table != nil {
		return number + len(b.told), nil
	}
	from := 0
	for _, end := range b.ends {
		number++
		line := append(w.AvailableBuffer(), `{"record":`...)
		line = strconv.AppendInt(line, int64(number), 10)
		line = append(line, ',')
		line = append(line, b.rest[from:end]...)
		if _, err := w.Write(line); err != nil {
			return number, fmt.Errorf("writing: %w", err)
		}
		from = end
	}
	return number, nil
}
