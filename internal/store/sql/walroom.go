package sqlstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// The write-ahead log is given room before it is needed: an fsync of bytes that
// lie inside of the file costs a fraction of one that also has to make the
// file's new length durable (0.4 against 1.7 ms for a decision's pages on ext4).
// SQLite ends its log where a frame's salt or checksum is wrong, so zeros behind
// the last frame mean nothing to it, also at a start after a crash.

// Room is given for some forty decisions at a time, since giving it takes time as
// well, up to what the log has before it begins anew, and is then used again and
// again.
const (
	walStep = 4 << 20
	walMost = walHeader + walPages*5/4*(walFrame+pageSize)

	walHeader, walFrame, pageSize = 32, 24, 4096
)

// walRoom keeps the write-ahead log longer than what SQLite has written of it.
// It may be used only while nobody writes to the database.
type walRoom struct {
	path string
	f    *os.File
	// length is how long the file was made last, -1 before; another length means
	// that SQLite needed more or has cut it.
	length int64
}

// make gives the log room where it has none left. It does not flush: the next
// commit does.
func (w *walRoom) make() error {
	if w.f == nil {
		f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing was written yet
		}
		if err != nil {
			return fmt.Errorf("opening the write-ahead log: %w", err)
		}
		w.f = f
	}
	st, err := w.f.Stat()
	if err != nil {
		return fmt.Errorf("looking at the write-ahead log: %w", err)
	}
	have := st.Size()
	if have == w.length || have >= walMost {
		return nil
	}
	want := min(have+walStep, walMost)
	zeros := make([]byte, 256<<10)
	for at := have; at < want; {
		n, err := w.f.WriteAt(zeros[:min(int64(len(zeros)), want-at)], at)
		at += int64(n)
		w.length = at
		if err != nil { // such as a full disk: SQLite goes on behind it, or finds the same
			return fmt.Errorf("giving the write-ahead log room: %w", err)
		}
	}
	return nil
}

func (w *walRoom) close() error {
	if w.f == nil {
		return nil
	}
	return w.f.Close()
}
