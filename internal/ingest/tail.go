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
	"syscall"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// TailOptions configure Tail. Path, Source, Store and Take are required.
type TailOptions struct {
	Path   string
	Source string
	// FromStart reads a file that was never seen from its beginning rather than
	// from its end.
	FromStart bool
	Store     interface {
		View(ctx context.Context, fn func(store.Reader) error) error
		Update(ctx context.Context, fn func(store.Tx) error) error
	}
	Log *slog.Logger
	// Take takes whole lines, the first of which has the number firstLine, and
	// calls done in the transaction that commits what they cause, so that
	// position and effects never part. When it fails, the same lines come again.
	Take func(ctx context.Context, lines []byte, firstLine int, done func(store.Tx) error) error
	// Every is how often the file is looked at; 0 gives 200 ms.
	Every time.Duration
	// Chunk bounds the bytes that are taken at once; 0 gives 1 MiB. MaxLine
	// bounds one line, 0 gives 10 MiB; a longer one is taken in part, which makes
	// it a broken record that is parked.
	Chunk, MaxLine int
}

// position is where a tail stands, as it is stored.
type position struct {
	V      int    `json:"v"`
	Dev    uint64 `json:"dev"`
	Ino    uint64 `json:"ino"`
	Offset int64  `json:"offset"`
	// Line counts the lines before Offset.
	Line int `json:"line"`
	// Head is the digest of the file's first HeadLen bytes: a file that was
	// truncated and has grown again has the same inode and another head.
	Head    string `json:"head"`
	HeadLen int    `json:"head_len"`
}

// headMost bounds the bytes that Head covers.
const headMost = 1024

// CursorName is the name of the cursor that has a tail's position.
func CursorName(source string) string { return "tail/" + source }

// Tail follows a file of lines until ctx ends: through renaming rotation (the
// old file is read to its end first, found again by its inode even when the
// rotation happened while nobody looked), copy-and-truncate, removal and
// restart. A line counts once it has its end; the last line of a file that was
// rotated away counts without. Every line is taken at least once, and once
// only where its effects commit.
func Tail(ctx context.Context, o TailOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Every <= 0 {
		o.Every = 200 * time.Millisecond
	}
	if o.Chunk <= 0 {
		o.Chunk = 1 << 20
	}
	if o.MaxLine <= 0 {
		o.MaxLine = DefaultBody
	}
	t := &tailer{o: o}
	defer t.close()
	if err := t.load(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	for {
		more, err := t.turn(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("tailing %s: %w", o.Path, err)
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

type tailer struct {
	o     TailOptions
	f     *os.File
	pos   position
	known bool // pos is of a file that was seen before
	buf   []byte
}

func (t *tailer) close() {
	if t.f != nil {
		_ = t.f.Close() // read only
		t.f = nil
	}
}

func (t *tailer) load(ctx context.Context) error {
	var s string
	err := t.o.Store.View(ctx, func(r store.Reader) error {
		var err error
		s, err = r.Cursor(CursorName(t.o.Source))
		return err
	})
	if errors.Is(err, staunch.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the position of %s: %w", t.o.Source, err)
	}
	if err := json.Unmarshal([]byte(s), &t.pos); err != nil {
		return fmt.Errorf("reading the position of %s: %w", t.o.Source, err)
	}
	t.known = t.pos.Ino != 0
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
	if t.f == nil {
		opened, err := t.open(ctx)
		if err != nil || !opened {
			return false, err
		}
	}
	st, err := t.f.Stat()
	if err != nil {
		return false, err
	}
	same, err := t.sameHead()
	if err != nil {
		return false, err
	}
	if st.Size() < t.pos.Offset || !same {
		t.o.Log.Info("the file was truncated; reading from its beginning", "path", t.o.Path)
		t.begin(st)
	}
	if st.Size() > t.pos.Offset {
		took, err := t.read(ctx, false)
		if err != nil || took {
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
	// The writer may have written between our read and the renaming: once more,
	// to the very end.
	for {
		took, err := t.read(ctx, true)
		if err != nil {
			return false, err
		}
		if !took {
			break
		}
	}
	t.close()
	t.known = false
	t.pos = position{}
	return true, nil
}

// open opens the file to read: the one that was being read when it was rotated
// away while nobody looked, otherwise the one at the path.
func (t *tailer) open(ctx context.Context) (bool, error) {
	f, err := os.Open(t.o.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if t.known {
		if f == nil || !t.isOurs(f) {
			if old := t.findRotated(); old != nil {
				if f != nil {
					_ = f.Close() // read only
				}
				t.f = old
				return true, nil
			}
		}
	}
	if f == nil {
		return false, nil
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close() // read only
		return false, err
	}
	t.f = f
	dev, ino := identity(st)
	if t.known && dev == t.pos.Dev && ino == t.pos.Ino {
		return true, nil // turn looks whether it was truncated
	}
	first := t.pos.Ino == 0 && !t.o.FromStart
	t.begin(st)
	if first {
		// Never seen, and only what comes is wanted.
		t.pos.Offset = st.Size()
		if err := t.setHead(); err != nil {
			return false, err
		}
		return true, t.save(ctx)
	}
	return true, nil
}

// begin stands at the beginning of the open file.
func (t *tailer) begin(st os.FileInfo) {
	dev, ino := identity(st)
	t.pos = position{V: staunch.Version, Dev: dev, Ino: ino}
	t.known = true
}

// isOurs reports whether f is the file that the position is of.
func (t *tailer) isOurs(f *os.File) bool {
	st, err := f.Stat()
	if err != nil {
		return false
	}
	dev, ino := identity(st)
	return dev == t.pos.Dev && ino == t.pos.Ino
}

// findRotated looks beside the path for the file that the position is of.
func (t *tailer) findRotated() *os.File {
	names, err := filepath.Glob(globEscape(t.o.Path) + "*")
	if err != nil {
		return nil
	}
	dir := filepath.Dir(t.o.Path)
	if more, err := os.ReadDir(dir); err == nil && len(more) <= 10000 {
		for _, e := range more {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range names {
		st, err := os.Lstat(name)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		if dev, ino := identity(st); dev != t.pos.Dev || ino != t.pos.Ino || st.Size() < t.pos.Offset {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		keep := t.f
		t.f = f
		same, err := t.sameHead()
		t.f = keep
		if err == nil && same {
			return f
		}
		_ = f.Close() // read only
	}
	return nil
}

func globEscape(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*', '?', '[', '\\':
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return string(b)
}

// sameHead reports whether the open file still begins as the position says.
func (t *tailer) sameHead() (bool, error) {
	if t.pos.HeadLen == 0 {
		return true, nil
	}
	b := make([]byte, t.pos.HeadLen)
	n, err := t.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return n == len(b) && staunch.Digest(b) == t.pos.Head, nil
}

func (t *tailer) setHead() error {
	n := int(min(t.pos.Offset, headMost))
	if n == t.pos.HeadLen {
		return nil
	}
	b := make([]byte, n)
	if _, err := t.f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	t.pos.Head, t.pos.HeadLen = staunch.Digest(b), n
	return nil
}

// read takes the next whole lines. last says that the file is at its end for
// good, so that what has no line end counts as a line.
func (t *tailer) read(ctx context.Context, last bool) (took bool, err error) {
	size := t.o.Chunk
	for {
		if cap(t.buf) < size {
			t.buf = make([]byte, size)
		}
		n, err := t.f.ReadAt(t.buf[:size], t.pos.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n == 0 {
			return false, nil
		}
		lines := t.buf[:n]
		end := bytes.LastIndexByte(lines, '\n') + 1
		switch {
		case end > 0:
			lines = lines[:end]
		case n == size && size < t.o.MaxLine:
			size = min(size*4, t.o.MaxLine) // one long line
			continue
		case n < size && !last:
			return false, nil // the line's end is still to come
		}
		return true, t.take(ctx, lines)
	}
}

func (t *tailer) take(ctx context.Context, lines []byte) error {
	before := t.pos
	t.pos.Offset += int64(len(lines))
	t.pos.Line += bytes.Count(lines, []byte{'\n'})
	if err := t.setHead(); err != nil {
		t.pos = before
		return err
	}
	value, err := json.Marshal(t.pos)
	if err != nil {
		t.pos = before
		return err
	}
	if err := t.o.Take(ctx, lines, before.Line+1, func(tx store.Tx) error {
		return tx.PutCursor(CursorName(t.o.Source), string(value))
	}); err != nil {
		t.pos = before
		return err
	}
	return nil
}

func (t *tailer) save(ctx context.Context) error {
	value, err := json.Marshal(t.pos)
	if err != nil {
		return err
	}
	return t.o.Store.Update(ctx, func(tx store.Tx) error {
		return tx.PutCursor(CursorName(t.o.Source), string(value))
	})
}
