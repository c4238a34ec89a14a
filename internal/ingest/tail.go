package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// TailOptions configure Tail. Path, Source, Store and Take are required.
type TailOptions struct {
	Path   string
	Source string
	// FromStart reads a file that is there at the very first start from its
	// beginning rather than from its end. A file that comes later is read from
	// its beginning in any case.
	FromStart bool
	Store     interface {
		View(ctx context.Context, fn func(store.Reader) error) error
		Update(ctx context.Context, fn func(store.Tx) error) error
	}
	Log *slog.Logger
	// Take takes whole lines, the first of which has the number firstLine, and
	// calls done in the transaction that commits what they cause, so that
	// position and effects never part. When it fails, the same lines come again.
	// lines is valid during the call.
	Take func(ctx context.Context, lines []byte, firstLine int, done func(store.Tx) error) error
	// Every is how often the file is looked at; 0 gives 200 ms.
	Every time.Duration
	// RotateWait is how long a file that was rotated away is still read after its
	// last line, beside the new one, since its writer goes on with it until it
	// opens the new one; 0 gives 5 s.
	RotateWait time.Duration
	// Chunk bounds the bytes that are taken at once; 0 gives 1 MiB. MaxLine
	// bounds one line, 0 gives 10 MiB; of a longer one its beginning is taken,
	// which makes it a broken record, and the rest is passed over.
	Chunk, MaxLine int
}

// position is where a tail stands in one file.
type position struct {
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`
	Offset int64  `json:"offset"`
	// Line counts the lines before Offset.
	Line int `json:"line"`
	// Cut says that Offset is inside of a line whose rest is passed over.
	Cut bool `json:"cut,omitempty"`
	// Head is the digest of the file's first HeadLen bytes: a file that was
	// truncated and has grown again has the same inode and another head.
	Head    string `json:"head,omitempty"`
	HeadLen int    `json:"head_len,omitempty"`
	// Path is where the file was when it was opened, symbolic links resolved.
	Path string `json:"path,omitempty"`
}

// cursor is what is stored of a tail.
type cursor struct {
	V int `json:"v"`
	position
	// Old is the file before, while it is still read.
	Old *position `json:"old,omitempty"`
}

// headMost bounds the bytes that Head covers.
const headMost = 1024

// CursorName is the name of the cursor that has a tail's position.
func CursorName(source string) string { return "tail/" + source }

// Tail follows a file of lines until ctx ends: through renaming rotation (the
// old file is read until it is quiet, and found again by its inode even when
// the rotation happened while nobody looked), removal, copy-and-truncate and
// restart. A line counts once it has its end; the last line of a file that was
// rotated away counts without. Every line is taken at least once, and once only
// where its effects commit.
//
// Some guarantees are weaker than that. Copying and truncating loses what was
// written and not read before the truncation, and what was written between the
// copy and the truncation; where the file has grown beyond the old position
// again before it is looked at and begins with the very bytes that it began
// with (at most the first 1024 are compared), the truncation is not seen. When
// a file is rotated more than once while nobody looks, what was never open is
// not read. A rotated file is lost when, while nobody looks, it is removed,
// compressed, moved to another folder or truncated before. The log says what
// could be told.
func Tail(ctx context.Context, o TailOptions) error {
	t := newTailer(o)
	defer t.close()
	err := t.load(ctx)
	if err == nil {
		err = t.follow(ctx)
	}
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("tailing %s: %w", o.Path, err)
}

// tailer is a tail at work.
type tailer struct {
	o TailOptions
	// cur is the file at the path, or the one that was there before when there
	// is none; old is the one before, while it is still read.
	cur, old *tailed
	saved    cursor
	started  bool // saved was looked at
	first    bool // there never was a position
	buf      []byte
	// ticks counts looks; quiet has the one at which old was last busy.
	ticks, quiet int
}

// tailed is one open file.
type tailed struct {
	*os.File
	pos position
}

func newTailer(o TailOptions) *tailer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.RotateWait <= 0 {
		o.RotateWait = 5 * time.Second
	}
	if o.Chunk <= 0 {
		o.Chunk = 1 << 20
	}
	if o.MaxLine <= 0 {
		o.MaxLine = DefaultBody
	}
	o.Chunk = min(o.Chunk, o.MaxLine)
	return &tailer{o: o}
}

func (t *tailer) follow(ctx context.Context) error {
	tick := time.NewTicker(t.o.Every)
	defer tick.Stop()
	for {
		more, err := t.turn(ctx)
		if err != nil {
			return err
		}
		if more && ctx.Err() == nil {
			select {
			case <-tick.C:
				t.ticks++
			default:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.ticks++
		}
	}
}

func (t *tailer) close() {
	t.cur = t.cur.close()
	t.old = t.old.close()
}

func (f *tailed) close() *tailed {
	if f != nil {
		_ = f.Close() // read only
	}
	return nil
}

func (t *tailer) load(ctx context.Context) error {
	var s string
	err := t.o.Store.View(ctx, func(r store.Reader) error {
		var err error
		s, err = r.Cursor(CursorName(t.o.Source))
		return err
	})
	if errors.Is(err, staunch.ErrNotFound) {
		t.first = true
		return nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(s), &t.saved)
	}
	if err != nil {
		return fmt.Errorf("reading the position of %s: %w", t.o.Source, err)
	}
	return nil
}

// identity returns a file's device and inode.
func identity(st os.FileInfo) (dev, ino uint64) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0
	}
	return uint64(s.Dev), s.Ino //nolint:unconvert // Dev is int32 on some platforms
}

// turn does one round: it opens what is to be read, reads a chunk, and reports
// whether there may be more at once.
func (t *tailer) turn(ctx context.Context) (more bool, err error) {
	if !t.started {
		if err := t.start(ctx); err != nil {
			return false, err
		}
		t.started = true
	}
	if t.old != nil {
		if took, err := t.drain(ctx); err != nil || took {
			return took, err
		}
	}
	if t.cur == nil {
		if t.cur, err = t.openPath(); err != nil || t.cur == nil {
			return false, err
		}
		// Kept at once: this file may be rotated away before anything is read.
		if err := t.save(ctx); err != nil {
			return false, err
		}
	}
	st, err := t.cur.Stat()
	if err != nil {
		return false, err
	}
	same, err := t.cur.sameHead()
	if err != nil {
		return false, err
	}
	if st.Size() < t.cur.pos.Offset || !same {
		t.o.Log.Warn("the file was truncated; reading from its beginning", "path", t.o.Path, "was_at", t.cur.pos.Offset, "size", st.Size())
		t.cur.pos = position{Dev: t.cur.pos.Dev, Ino: t.cur.pos.Ino, Path: t.cur.pos.Path}
		// Kept at once: the file could not be told again by what it was before.
		if err := t.save(ctx); err != nil {
			return false, err
		}
	}
	if st.Size() > t.cur.pos.Offset {
		if took, err := t.read(ctx, t.cur, false); err != nil || took {
			return took, err
		}
	}
	// Everything so far is taken: has another file come in its place?
	now, err := os.Stat(t.o.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil // between the renaming and the new file
	case err != nil:
		return false, err
	case os.SameFile(st, now):
		return false, nil
	}
	if err := t.finish(ctx); err != nil { // one that is older still
		return false, err
	}
	t.old, t.cur, t.quiet = t.cur, nil, t.ticks
	return true, nil
}

// drain reads on in the file that was rotated away, until it has been quiet for
// long enough.
func (t *tailer) drain(ctx context.Context) (took bool, err error) {
	took, err = t.read(ctx, t.old, false)
	switch {
	case err != nil:
		return false, err
	case took:
		t.quiet = t.ticks
		return true, nil
	case time.Duration(t.ticks-t.quiet)*t.o.Every >= t.o.RotateWait:
		return false, t.finish(ctx)
	}
	return false, nil
}

// finish reads the old file to its very end, a last line without an end
// included, and lets it go.
func (t *tailer) finish(ctx context.Context) error {
	for t.old != nil {
		took, err := t.read(ctx, t.old, true)
		if err != nil {
			return err
		}
		if !took {
			t.old = t.old.close()
		}
	}
	return nil
}

// start takes up the work where the stored position says.
func (t *tailer) start(ctx context.Context) (err error) {
	if t.first {
		if t.cur, err = t.openPath(); err != nil {
			return err
		}
		if t.cur != nil && !t.o.FromStart {
			st, err := t.cur.Stat()
			if err != nil {
				return err
			}
			t.cur.pos.Offset = st.Size()
			if err := t.cur.setHead(); err != nil {
				return err
			}
		}
		// Also where there is no file: when one comes, all of it is new.
		return t.save(ctx)
	}
	if t.saved.Old != nil {
		if t.old, err = t.find(*t.saved.Old); err != nil {
			return err
		}
		t.quiet = t.ticks
	}
	if t.saved.Ino == 0 {
		return nil
	}
	t.cur, err = t.openPath()
	if err != nil {
		return err
	}
	if t.cur != nil && t.cur.pos.Dev == t.saved.Dev && t.cur.pos.Ino == t.saved.Ino {
		path := t.cur.pos.Path
		t.cur.pos = t.saved.position // turn looks whether it was truncated
		t.cur.pos.Path = path
		return nil
	}
	rotated, err := t.find(t.saved.position)
	if err != nil {
		return err
	}
	if rotated == nil {
		t.o.Log.Warn("the file that was read last is gone; what was not read of it is lost", "path", t.o.Path, "line", t.saved.Line)
		return nil
	}
	// turn goes on from it to the one at the path.
	t.cur.close()
	t.cur = rotated
	return nil
}

// openPath opens the file at the path at its beginning; nil where there is
// none.
func (t *tailer) openPath() (*tailed, error) {
	st, err := os.Stat(t.o.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Opening a pipe would wait for its writer.
	if !st.Mode().IsRegular() {
		return nil, &staunch.Problem{Place: t.o.Path, Reason: "is not a regular file"}
	}
	f, err := os.Open(t.o.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := &tailed{File: f}
	if st, err = f.Stat(); err != nil {
		return out.close(), err
	}
	out.pos.Dev, out.pos.Ino = identity(st)
	if real, err := filepath.EvalSymlinks(t.o.Path); err == nil {
		out.pos.Path = real
	}
	return out, nil
}

// maxEntries bounds how many names of a folder are looked at.
const maxEntries = 100_000

// find opens the file that a position is of, where it is now: at its path or
// beside it. nil where it cannot be found.
func (t *tailer) find(pos position) (*tailed, error) {
	dirs := []string{filepath.Dir(t.o.Path)}
	if real, err := filepath.EvalSymlinks(t.o.Path); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	if pos.Path != "" {
		dirs = append(dirs, filepath.Dir(pos.Path))
	}
	for i, dir := range dirs {
		if slices.Contains(dirs[:i], dir) {
			continue
		}
		f, err := findIn(dir, pos)
		if err != nil || f != nil {
			return f, err
		}
	}
	return nil, nil
}

func findIn(dir string, pos position) (*tailed, error) {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the rotated file: %w", err)
	}
	defer func() { _ = d.Close() }() // read only
	for seen := 0; seen < maxEntries; {
		entries, err := d.ReadDir(1000)
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the rotated file: %w", err)
		}
		seen += len(entries)
		for _, e := range entries {
			st, err := e.Info()
			if err != nil || !st.Mode().IsRegular() || st.Size() < pos.Offset {
				continue
			}
			if dev, ino := identity(st); dev != pos.Dev || ino != pos.Ino {
				continue
			}
			f, err := os.Open(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, fmt.Errorf("opening the rotated file: %w", err)
			}
			out := &tailed{File: f, pos: pos}
			out.pos.Path = f.Name()
			if same, err := out.sameHead(); err != nil || !same {
				return out.close(), err
			}
			return out, nil
		}
	}
	return nil, nil
}

// sameHead reports whether the file still begins as its position says.
func (f *tailed) sameHead() (bool, error) {
	if f.pos.HeadLen <= 0 {
		return true, nil
	}
	var b [headMost]byte
	want := b[:min(f.pos.HeadLen, headMost)]
	n, err := f.ReadAt(want, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return n == len(want) && staunch.Digest(want) == f.pos.Head, nil
}

func (f *tailed) setHead() error {
	n := int(min(f.pos.Offset, headMost))
	if n == f.pos.HeadLen {
		return nil
	}
	var b [headMost]byte
	if _, err := f.ReadAt(b[:n], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	f.pos.Head, f.pos.HeadLen = staunch.Digest(b[:n]), n
	return nil
}

// read takes the next whole lines. last says that the file is at its end for
// good, so that what has no line end counts as a line.
func (t *tailer) read(ctx context.Context, f *tailed, last bool) (took bool, err error) {
	size := t.o.Chunk
	for {
		if len(t.buf) < size {
			t.buf = make([]byte, size)
		}
		n, err := f.ReadAt(t.buf[:size], f.pos.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n == 0 {
			return false, nil
		}
		lines := t.buf[:n]
		if f.pos.Cut {
			// The rest of a line that was too long: a later one may not begin in it.
			i := bytes.IndexByte(lines, '\n')
			if i < 0 {
				f.pos.Offset += int64(n)
				continue
			}
			f.pos.Offset += int64(i) + 1
			f.pos.Line++
			f.pos.Cut = false
			continue
		}
		end := bytes.LastIndexByte(lines, '\n') + 1
		switch {
		case end > 0:
			return true, t.take(ctx, f, lines[:end], false)
		case n == size && size < t.o.MaxLine:
			size = min(size*4, t.o.MaxLine) // one long line
		case n == size:
			t.o.Log.Warn("a line is too long; its rest is passed over", "path", t.o.Path, "line", f.pos.Line+1, "most", t.o.MaxLine)
			return true, t.take(ctx, f, lines, true)
		case last:
			return true, t.take(ctx, f, lines, false)
		default:
			return false, nil // the line's end is still to come
		}
	}
}

// take has the lines taken and moves on behind them.
func (t *tailer) take(ctx context.Context, f *tailed, lines []byte, cut bool) (err error) {
	before := f.pos
	defer func() {
		if err != nil {
			f.pos = before
		}
	}()
	f.pos.Offset += int64(len(lines))
	f.pos.Line += bytes.Count(lines, []byte{'\n'})
	f.pos.Cut = cut
	if err := f.setHead(); err != nil {
		return err
	}
	value, err := t.encode()
	if err != nil {
		return err
	}
	return t.o.Take(ctx, lines, before.Line+1, func(tx store.Tx) error {
		return tx.PutCursor(CursorName(t.o.Source), value)
	})
}

// encode returns the position as it is stored.
func (t *tailer) encode() (string, error) {
	c := cursor{V: staunch.Version}
	if t.cur != nil {
		c.position = t.cur.pos
	}
	if t.old != nil {
		c.Old = &t.old.pos
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encoding a position: %w", err)
	}
	return string(b), nil
}

func (t *tailer) save(ctx context.Context) error {
	value, err := t.encode()
	if err != nil {
		return err
	}
	return t.o.Store.Update(ctx, func(tx store.Tx) error {
		return tx.PutCursor(CursorName(t.o.Source), value)
	})
}
