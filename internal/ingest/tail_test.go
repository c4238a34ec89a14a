package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// tail is a tail over real files and a real store, stepped by the test. What is
// taken is committed as parked rows in the transaction of the position, so that
// counting them tells what was kept.
type tail struct {
	t     testing.TB
	store store.Store
	opt   ingest.TailOptions
	step  *ingest.Stepper
	dir   string
	path  string

	mu      sync.Mutex
	offered []string // every line that Take was called with
	// before and after the commit, a fault for the next Take.
	before, after, inside error
}

var (
	errBefore = errors.New("before the commit")
	errAfter  = errors.New("after the commit")
)

func openStore(t testing.TB) store.Store {
	t.Helper()
	chain, err := record.NewChain(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), sqlstore.Options{Chain: chain, Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func newTail(t testing.TB, change ...func(*ingest.TailOptions)) *tail {
	t.Helper()
	return tailOn(t, openStore(t), t.TempDir(), change...)
}

func tailOn(t testing.TB, st store.Store, dir string, change ...func(*ingest.TailOptions)) *tail {
	l := &tail{t: t, store: st, dir: dir, path: filepath.Join(dir, "app.log")}
	l.opt = ingest.TailOptions{
		Path: l.path, Source: "app", FromStart: true, Store: st, Take: l.take,
		Every: time.Second, RotateWait: 3 * time.Second,
	}
	for _, c := range change {
		c(&l.opt)
	}
	t.Cleanup(l.crash)
	return l
}

func (l *tail) take(ctx context.Context, lines []byte, first int, done func(store.Tx) error) error {
	l.mu.Lock()
	before, after, inside := l.before, l.after, l.inside
	l.before, l.after, l.inside = nil, nil, nil
	for _, line := range strings.SplitAfter(strings.TrimSuffix(string(lines), "\n"), "\n") {
		l.offered = append(l.offered, strings.TrimSuffix(line, "\n"))
	}
	l.mu.Unlock()
	if before != nil {
		return before
	}
	err := l.store.Update(ctx, func(tx store.Tx) error {
		n, err := tx.Cursor("count")
		if err != nil && !errors.Is(err, staunch.ErrNotFound) {
			return err
		}
		var count int
		if n != "" {
			if _, err := fmt.Sscan(n, &count); err != nil {
				return err
			}
		}
		for i, line := range strings.Split(strings.TrimSuffix(string(lines), "\n"), "\n") {
			count++
			if err := tx.PutParked(store.Parked{ID: fmt.Sprintf("prk_%08d", count), Source: "app", Number: first + i, Reason: "test", Raw: []byte(line)}); err != nil {
				return err
			}
		}
		if err := tx.PutCursor("count", fmt.Sprint(count)); err != nil {
			return err
		}
		if err := done(tx); err != nil {
			return err
		}
		return inside
	})
	if err != nil {
		return err
	}
	return after
}

// kept returns the lines that were committed, in order.
func (l *tail) kept() []string {
	l.t.Helper()
	var out []string
	for _, p := range l.parked() {
		out = append(out, string(p.Raw))
	}
	return out
}

func (l *tail) parked() []store.Parked {
	l.t.Helper()
	var out []store.Parked
	err := l.store.View(context.Background(), func(r store.Reader) error {
		out = nil
		page := store.Page{Limit: store.MaxPage}
		for {
			rows, err := r.Parked(page)
			if err != nil {
				return err
			}
			out = append(out, rows...)
			if len(rows) < page.Limit {
				return nil
			}
			page.After = rows[len(rows)-1].ID
		}
	})
	if err != nil {
		l.t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b store.Parked) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// look has the tail look once, starting it where it is not running.
func (l *tail) look() {
	l.t.Helper()
	if err := l.try(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *tail) try() error {
	if l.step == nil {
		var err error
		if l.step, err = ingest.NewStepper(context.Background(), l.opt); err != nil {
			return err
		}
	}
	return l.step.Look(context.Background())
}

// settle looks until a rotated file is let go.
func (l *tail) settle() {
	l.t.Helper()
	l.look()
	for range l.step.Wait() {
		l.look()
	}
	if l.step.Draining() {
		l.t.Fatal("still draining")
	}
}

// crash forgets everything that is not stored.
func (l *tail) crash() {
	if l.step != nil {
		l.step.Close()
		l.step = nil
	}
}

func (l *tail) write(name, text string) {
	l.t.Helper()
	f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *tail) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *tail) rename(from, to string) {
	l.t.Helper()
	l.do(os.Rename(filepath.Join(l.dir, from), filepath.Join(l.dir, to)))
}

func (l *tail) want(lines string) {
	l.t.Helper()
	if got := strings.Join(l.kept(), " "); got != lines {
		l.t.Fatalf("kept %q, want %q", got, lines)
	}
}

const log = "app.log"

func TestTailFollows(t *testing.T) {
	l := newTail(t)
	l.look()
	l.want("") // there is no file yet
	l.write(log, "a\nb\n")
	l.look()
	l.want("a b")
	l.look()
	l.want("a b")
	l.write(log, "c\nd")
	l.look()
	l.want("a b c") // the last line has no end yet
	l.write(log, "d")
	l.look()
	l.want("a b c")
	l.write(log, "d\n\n")
	l.look()
	l.want("a b c ddd ")
	numbers := []int{}
	for _, p := range l.parked() {
		numbers = append(numbers, p.Number)
	}
	if !slices.Equal(numbers, []int{1, 2, 3, 4, 5}) {
		t.Errorf("numbers %v", numbers)
	}
}

func TestTailRotation(t *testing.T) {
	for name, to := range map[string]string{"numbered": "app.log.1", "dated": "app.log-20260301", "another name": "old-app", "before it": "0.app"} {
		t.Run(name+", running", func(t *testing.T) {
			l := newTail(t)
			l.write(log, "a\n")
			l.look()
			l.write(log, "b\n")
			l.rename(log, to)
			l.look()
			l.want("a b") // there is no new file yet
			l.write(to, "c\n")
			l.look()
			l.want("a b c")
			l.write(log, "d\n")
			l.look()
			l.want("a b c d")
			// The writer has not opened the new file yet.
			l.write(to, "e\n")
			l.write(log, "f\n")
			l.look()
			l.want("a b c d e f")
			l.write(to, "last") // without an end
			l.look()
			l.want("a b c d e f")
			l.settle()
			l.want("a b c d e f last")
			l.write(log, "g\n")
			l.look()
			l.want("a b c d e f last g")
		})
		t.Run(name+", stopped", func(t *testing.T) {
			for _, fromStart := range []bool{true, false} {
				l := newTail(t, func(o *ingest.TailOptions) { o.FromStart = fromStart })
				l.look()
				l.write(log, "a\n")
				l.look()
				l.crash()
				l.write(log, "b\n")
				l.rename(log, to)
				l.write(to, "c")
				l.write(log, "d\ne\n")
				l.look()
				l.want("a b d e")
				l.settle()
				l.want("a b d e c")
			}
		})
		t.Run(name+", stopped while the old one is read", func(t *testing.T) {
			l := newTail(t)
			l.write(log, "a\n")
			l.look()
			l.rename(log, to)
			l.write(log, "b\n")
			l.look()
			l.crash()
			l.write(to, "c\nd")
			l.write(log, "e\n")
			l.settle()
			l.want("a b c e d")
		})
	}
}

// TestTailRotationFromEnd: only the file that is there at the very first start
// is taken from its end; one that comes by rotation, or later, is all new.
func TestTailRotationFromEnd(t *testing.T) {
	l := newTail(t, func(o *ingest.TailOptions) { o.FromStart = false })
	l.write(log, "old\nolder\n")
	l.look()
	l.want("")
	l.write(log, "a\n")
	l.look()
	l.want("a")
	if n := l.parked()[0].Number; n != 1 {
		t.Errorf("number %d", n)
	}
	l.rename(log, "app.log.1")
	l.write(log, "b\n")
	l.look()
	l.want("a b")
	l.do(os.Remove(l.path))
	l.settle()
	l.write(log, "c\n")
	l.look()
	l.want("a b c")

	// A file that was not there at the start is new from its beginning, after a
	// restart as well.
	for _, restart := range []bool{false, true} {
		l = newTail(t, func(o *ingest.TailOptions) { o.FromStart = false })
		l.look()
		if restart {
			l.crash()
		}
		l.write(log, "a\n")
		l.look()
		l.want("a")
	}

	// The position at the end is kept, though nothing was read.
	l = newTail(t, func(o *ingest.TailOptions) { o.FromStart = false })
	l.write(log, "old\n")
	l.look()
	l.crash()
	l.write(log, "a\n")
	l.look()
	l.want("a")
}

func TestTailTwoRotationsQuickly(t *testing.T) {
	l := newTail(t)
	l.write(log, "a\n")
	l.look()
	l.rename(log, "app.log.1")
	l.write(log, "b\n")
	l.look()
	l.write("app.log.1", "late")
	l.rename("app.log.1", "app.log.2")
	l.rename(log, "app.log.1")
	l.write("app.log.1", "c\n")
	l.write(log, "d\n")
	l.look()
	l.settle()
	got := l.kept()
	slices.Sort(got)
	if fmt.Sprint(got) != "[a b c d late]" {
		t.Errorf("kept %v", got)
	}
}

func TestTailTruncation(t *testing.T) {
	truncate := func(l *tail) { l.do(os.Truncate(l.path, 0)) }
	for name, stopped := range map[string]bool{"running": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			l := newTail(t)
			pause := func() {
				if stopped {
					l.crash()
				}
			}
			l.write(log, "a1\na2\na3\n")
			l.look()
			pause()
			truncate(l)
			l.look()
			l.want("a1 a2 a3")
			l.write(log, "b1\n")
			l.look()
			l.want("a1 a2 a3 b1")
			// Grown beyond where we were before we look.
			pause()
			truncate(l)
			l.write(log, "c1\nc2\nc3\nc4\nc5\n")
			l.look()
			l.want("a1 a2 a3 b1 c1 c2 c3 c4 c5")
			// As large as it was.
			pause()
			truncate(l)
			l.write(log, "d1\nd2\nd3\nd4\nd5\n")
			l.look()
			l.want("a1 a2 a3 b1 c1 c2 c3 c4 c5 d1 d2 d3 d4 d5")
			if n := l.parked()[9].Number; n != 1 {
				t.Errorf("d1 has number %d", n)
			}
		})
	}
}

// TestTailTruncationUnseen has the guarantee that copy-and-truncate weakens: a
// file that begins with the very same bytes is taken for the one before.
func TestTailTruncationUnseen(t *testing.T) {
	l := newTail(t)
	header := "#" + strings.Repeat("=", 2000) + "\n"
	l.write(log, header+"a\n")
	l.look()
	l.do(os.Truncate(l.path, 0))
	l.write(log, header+"b\nc\n")
	l.look()
	if got := l.kept(); len(got) != 3 || got[2] != "c" {
		t.Errorf("kept %d lines: the documented weakness has changed", len(got))
	}
}

func TestTailRemoval(t *testing.T) {
	for name, stopped := range map[string]bool{"running": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			l := newTail(t)
			l.write(log, "a\n")
			l.look()
			if stopped {
				l.crash()
			}
			l.do(os.Remove(l.path))
			l.look()
			l.want("a")
			l.write(log, "b\n")
			l.settle()
			l.want("a b")
			// At once, perhaps with the same inode.
			if stopped {
				l.crash()
			}
			l.do(os.Remove(l.path))
			l.write(log, "c\nd\n")
			l.settle()
			l.want("a b c d")
		})
	}
}

func TestTailSymlink(t *testing.T) {
	l := newTail(t)
	link := filepath.Join(t.TempDir(), "link.log")
	l.do(os.Symlink(l.path, link))
	l.opt.Path = link
	l.write(log, "a\n")
	l.look()
	// What it points to is rotated while nobody looks: beside the file, not
	// beside the link.
	l.crash()
	l.write(log, "b\n")
	l.rename(log, "app.log.1")
	l.write(log, "c\n")
	l.settle()
	l.want("a b c")
	// The link is pointed elsewhere while nobody looks.
	l.crash()
	l.write(log, "d\n")
	other := filepath.Join(t.TempDir(), "1.log")
	l.do(os.WriteFile(other, []byte("e\n"), 0o600))
	l.do(os.Remove(link))
	l.do(os.Symlink(other, link))
	l.settle()
	l.want("a b c d e")
	// A link to nothing is as no file.
	l.do(os.Remove(other))
	l.settle()
	l.want("a b c d e")
}

func TestTailTakeFails(t *testing.T) {
	l := newTail(t)
	l.write(log, "a\n")
	l.look()
	l.write(log, "b\nc\n")

	// Before anything was committed: the same lines come again.
	l.before = errBefore
	if err := l.try(); !errors.Is(err, errBefore) {
		t.Fatal(err)
	}
	l.want("a")
	// In the transaction, after the position was put: neither is kept.
	l.inside = errBefore
	if err := l.try(); !errors.Is(err, errBefore) {
		t.Fatal(err)
	}
	l.want("a")
	l.look()
	l.want("a b c")
	if n := l.parked()[1].Number; n != 2 {
		t.Errorf("b has number %d", n)
	}

	// After the commit, as when its outcome is not known: a restart reads the
	// position, and nothing comes twice.
	l.write(log, "d\n")
	l.after = errAfter
	if err := l.try(); !errors.Is(err, errAfter) {
		t.Fatal(err)
	}
	l.crash()
	l.look()
	l.want("a b c d")

	// While an old file is read.
	l.rename(log, "app.log.1")
	l.write(log, "f\n")
	l.look()
	l.write("app.log.1", "e\n")
	l.before = errBefore
	if err := l.try(); !errors.Is(err, errBefore) {
		t.Fatal(err)
	}
	l.crash()
	l.settle()
	l.want("a b c d f e")
}

func TestTailLongLines(t *testing.T) {
	l := newTail(t, func(o *ingest.TailOptions) { o.Chunk, o.MaxLine = 16, 100 })
	fits := strings.Repeat("x", 99)
	l.write(log, "a\n"+fits+"\nb\n")
	l.look()
	l.want("a " + fits + " b")
	// A line that is too long is taken in part; nothing in it becomes a record of
	// its own, wherever the part ends.
	l.write(log, strings.Repeat("y", 100)+`{"forged":1}`+strings.Repeat("z", 500))
	l.look()
	cut := "a " + fits + " b " + strings.Repeat("y", 100)
	l.want(cut)
	l.write(log, "more of it")
	l.look()
	l.want(cut)
	l.crash()
	l.write(log, "and more\nc\n")
	l.look()
	l.want(cut + " c")
	if p := l.parked(); p[3].Number != 4 || p[4].Number != 5 {
		t.Errorf("numbers %d and %d", p[3].Number, p[4].Number)
	}
	if n := l.step.Buffer(); n > 100 {
		t.Errorf("a buffer of %d bytes", n)
	}
	// One that is rotated away unfinished.
	l.write(log, strings.Repeat("w", 300))
	l.look()
	l.rename(log, "app.log.1")
	l.write(log, "d\n")
	l.settle()
	l.want(cut + " c " + strings.Repeat("w", 100) + " d")
}

// TestTailLargeFile reads a file of many chunks in bounded memory.
func TestTailLargeFile(t *testing.T) {
	var size, calls, most, lines int
	l := newTail(t, func(o *ingest.TailOptions) {
		o.Chunk = 64 << 10
		o.Take = func(_ context.Context, b []byte, first int, _ func(store.Tx) error) error {
			if first != lines+1 {
				return fmt.Errorf("lines from %d, want %d", first, lines+1)
			}
			size, calls, most, lines = size+len(b), calls+1, max(most, len(b)), lines+bytes.Count(b, []byte{'\n'})
			return nil
		}
	})
	line := strings.Repeat("0123456789", 20) + "\n"
	whole := strings.Repeat(line, 100_000)
	l.write(log, whole)
	l.look()
	if size != len(whole) || lines != 100_000 || most > 64<<10 || l.step.Buffer() > 64<<10 {
		t.Errorf("%d bytes of %d, %d lines, at most %d bytes in %d calls, a buffer of %d", size, len(whole), lines, most, calls, l.step.Buffer())
	}
}

func TestTailRefuses(t *testing.T) {
	l := newTail(t)
	l.do(os.Mkdir(l.path, 0o700))
	if err := l.try(); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a folder: %v", err)
	}
	l.crash()
	l.do(os.Remove(l.path))
	l.do(syscall.Mkfifo(l.path, 0o600))
	if err := l.try(); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a pipe: %v", err)
	}
	l.crash()
	l.do(l.store.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor(ingest.CursorName("app"), "{") }))
	if err := l.try(); err == nil || !strings.Contains(err.Error(), "position of app") {
		t.Errorf("a position that cannot be read: %v", err)
	}
}

// TestTail runs the real thing, with its ticker, until it is told to stop.
func TestTail(t *testing.T) {
	l := newTail(t, func(o *ingest.TailOptions) { o.Every, o.RotateWait = time.Millisecond, 20*time.Millisecond })
	l.write(log, "a\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ingest.Tail(ctx, l.opt) }()
	await := func(lines string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); strings.Join(l.kept(), " ") != lines; {
			if time.Now().After(deadline) {
				t.Fatalf("kept %q, want %q", l.kept(), lines)
			}
			time.Sleep(time.Millisecond)
		}
	}
	await("a")
	l.write(log, "b\n")
	await("a b")
	l.rename(log, "app.log.1")
	l.write("app.log.1", "c")
	await("a b")
	l.write(log, "d\n")
	await("a b d c")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped: %v", err)
	}
	// It says what fails, and when it is not asked to stop.
	l.write(log, "e\n")
	l.mu.Lock()
	l.before = errBefore
	l.mu.Unlock()
	if err := ingest.Tail(t.Context(), l.opt); !errors.Is(err, errBefore) || !strings.Contains(err.Error(), l.path) {
		t.Errorf("a Take that fails: %v", err)
	}
}

// TestTailEveryLineOnce appends, rotates, truncates, restarts and fails at
// random: every complete line is committed exactly once, in the order of its
// file; copy-and-truncate happens after a look, since what is not read before
// it is lost by its nature.
func TestTailEveryLineOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		chain, err := record.NewChain(make([]byte, 32))
		if err != nil {
			rt.Fatal(err)
		}
		st, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(dir, "db"), sqlstore.Options{Chain: chain, Ephemeral: true})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				rt.Error(err)
			}
		}()
		logs := filepath.Join(dir, "logs")
		if err := os.Mkdir(logs, 0o700); err != nil {
			rt.Fatal(err)
		}
		l := tailOn(t, st, logs, func(o *ingest.TailOptions) {
			o.Chunk = rapid.SampledFrom([]int{7, 64, 1 << 20}).Draw(rt, "chunk")
			o.MaxLine = 4096
		})
		defer l.crash()
		var wrote []string
		open, rotations, behind := "", 0, ""
		line := func() string {
			s := fmt.Sprintf("%d-%s", len(wrote), strings.Repeat("x", rapid.IntRange(0, 40).Draw(rt, "length")))
			wrote = append(wrote, s)
			return s
		}
		look := func() {
			if err := l.try(); err != nil && !errors.Is(err, errBefore) && !errors.Is(err, errAfter) {
				rt.Fatal(err)
			} else if err != nil {
				l.crash() // as the app does
			}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "append", "part", "look", "look", "rotate", "late", "truncate", "restart", "fault"}).Draw(rt, "step") {
			case "append":
				if open != "" {
					l.write(log, "\n")
					open = ""
				}
				for range rapid.IntRange(1, 5).Draw(rt, "lines") {
					l.write(log, line()+"\n")
				}
			case "part":
				if open == "" {
					open = line()
					l.write(log, open)
				}
			case "look":
				look()
			case "rotate":
				if _, err := os.Stat(l.path); err != nil {
					continue
				}
				// One at a time: what is rotated twice while nobody looks is beyond the
				// guarantee, and so is a late writer after the wait.
				look()
				look()
				rotations++
				behind = fmt.Sprintf("app.log.%d", rotations)
				l.rename(log, behind)
				open = ""
				if rapid.Bool().Draw(rt, "new file") {
					l.write(log, "")
				}
			case "late":
				// A writer that has not opened the new file yet; the last line of what
				// was rotated may lack its end.
				if l.step != nil && l.step.Draining() && behind != "" {
					l.write(behind, "\n"+line()+"\n")
				}
			case "truncate":
				if _, err := os.Stat(l.path); err != nil || open != "" {
					continue
				}
				look()
				look()
				l.do(os.Truncate(l.path, 0))
			case "restart":
				l.crash()
			case "fault":
				switch rapid.IntRange(0, 2).Draw(rt, "where") {
				case 0:
					l.before = errBefore
				case 1:
					l.inside = errBefore
				case 2:
					l.after = errAfter
				}
			}
		}
		l.before, l.inside, l.after = nil, nil, nil
		if open != "" {
			l.write(log, "\n")
		}
		if _, err := os.Stat(l.path); err != nil {
			l.write(log, "") // the new file comes at last
		}
		look()
		for range 2 * l.step.Wait() {
			look()
		}
		count := map[string]int{}
		for _, s := range l.kept() {
			count[s]++
		}
		for _, s := range wrote {
			if count[s] != 1 {
				rt.Errorf("line %q was kept %d times; kept %q", s, count[s], l.kept())
			}
			delete(count, s)
		}
		delete(count, "") // a blank one ends a late writer's
		if len(count) > 0 {
			rt.Errorf("kept what was not written: %v", count)
		}
	})
}
