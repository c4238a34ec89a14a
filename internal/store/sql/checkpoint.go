package sqlstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// What has been committed is copied from the write-ahead log into the database
// now and then, and the log begun anew. Copying takes a tenth of a second for a
// full log, which nobody's commit should wait for: another connection does it,
// beside the writer. The log can begin anew only when all of it is copied, and
// the writer goes on adding to it meanwhile, so the writer copies the rest.

const (
	// copyPages is how many pages wait before they are copied. Few, because a commit
	// waits while the disk is made to keep them.
	copyPages = walPages / 32
	// restPages is how many of them the writer copies itself.
	restPages = walPages / 16
	// lastPages is how many the log has before the writer copies all that there
	// is, as long as it takes.
	lastPages = 4 * walPages
)

// checkpoints copies the log, beside the writer.
type checkpoints struct {
	conn  *liteConn
	index string
	f     *os.File // the log's index, which SQLite keeps beside it
	wake  chan struct{}
	done  sync.WaitGroup
	// mu is held by who copies.
	mu sync.Mutex
}

func newCheckpoints(conn *liteConn, path string, failed func(error)) *checkpoints {
	c := &checkpoints{conn: conn, index: path + "-shm", wake: make(chan struct{}, 1)}
	c.done.Go(func() {
		for range c.wake {
			if err := c.copy(); err != nil {
				failed(err)
			}
		}
	})
	return c
}

func (c *checkpoints) copy() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.conn.checkpoint("PASSIVE")
	return err
}

// checkpoint copies the log in the mode. busy says that another was in the way of
// all that the mode does.
func (c *liteConn) checkpoint(mode string) (busy bool, err error) {
	err = c.query(context.Background(), "PRAGMA wal_checkpoint("+mode+")", nil, func(scan func(...any) error) error {
		var blocked, pages, copied int64
		err := scan(&blocked, &pages, &copied)
		busy = blocked != 0
		return err
	})
	return busy, err
}

// state reads from the log's index how many pages the log has and how many of
// them are copied: https://www.sqlite.org/walformat.html, "The WAL-Index File
// Format", mxFrame and nBackfill. Nothing but speed depends on it.
func (c *checkpoints) state() (pages, copied int, err error) {
	if c.f == nil {
		f, err := os.Open(c.index)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, 0, nil // nothing was written yet
		}
		if err != nil {
			return 0, 0, fmt.Errorf("opening the write-ahead log's index: %w", err)
		}
		c.f = f
	}
	var b [100]byte
	if _, err := c.f.ReadAt(b[:], 0); err != nil {
		return 0, 0, fmt.Errorf("reading the write-ahead log's index: %w", err)
	}
	return int(binary.NativeEndian.Uint32(b[16:])), int(binary.NativeEndian.Uint32(b[96:])), nil
}

// committed has the log copied once enough has come to it. The writer calls it
// between two groups.
func (c *checkpoints) committed(writer *liteConn) error {
	pages, copied, err := c.state()
	if err != nil {
		return err
	}
	rest := pages - copied
	switch {
	case pages >= walPages && rest <= restPages, pages >= lastPages && rest > 0:
		if !c.mu.TryLock() {
			return nil // after the next group, then
		}
		defer c.mu.Unlock()
		_, err := writer.checkpoint("PASSIVE")
		return err
	case rest >= copyPages:
		select {
		case c.wake <- struct{}{}:
		default: // it is at it
		}
	}
	return nil
}

func (c *checkpoints) close() error {
	close(c.wake)
	c.done.Wait()
	err := c.conn.close()
	if c.f != nil {
		err = errors.Join(err, c.f.Close())
	}
	return err
}
