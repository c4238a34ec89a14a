// Package memory is a store without a disk, for simulations: it keeps the whole
// contract of package store, passes its suite, and can fail at a commit in every
// way that a database can. What a DB has outlives the stores that are opened on
// it, as a database outlives processes.
//
// Rows are kept encoded, and who reads gets a copy, so that nothing that was put
// can be changed from outside. A transaction works on a copy of the table that
// shares what it does not change, so that a snapshot costs nothing.
package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidwall/btree"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Outcome is how a commit ends.
type Outcome int

// The outcomes of a commit.
const (
	// Committed: it is there, and the caller is told so.
	Committed Outcome = iota
	// Failed: it is not there, and the caller is told so.
	Failed
	// UnknownCommitted: it is there, and the caller gets staunch.ErrCommitUnknown.
	UnknownCommitted
	// UnknownLost: it is not there, and the caller gets staunch.ErrCommitUnknown.
	UnknownLost
	// Again: the function runs once more, as after a serialization failure.
	Again
)

// Options are what a DB works with; Before and After need not be given.
type Options struct {
	// Clock is the database's.
	Clock staunch.Clock
	Chain store.Chainer
	// Values keeps what is put as it is, copied, and not encoded: that takes a
	// fraction of the time, and what encoding refuses or leaves out, such as a member
	// that has no name there, is not noticed.
	Values bool
	// Before decides how a transaction of the node that wrote something ends; After
	// is called once that is so, and before the node hears of it. Either may panic,
	// which is how a process dies there.
	Before func(node string) Outcome
	After  func(node string)
}

// DB is what is durable. Its methods are safe for concurrent use.
type DB struct {
	opt Options
	// turn is taken by whoever writes.
	turn   chan struct{}
	mu     sync.Mutex
	rows   rows
	writes int
}

type rows = *btree.Map[string, *row]

// New makes an empty database.
func New(opt Options) *DB {
	return &DB{opt: opt, turn: make(chan struct{}, 1), rows: new(btree.Map[string, *row])}
}

// Writes counts the transactions that wrote something and are there.
func (d *DB) Writes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// Open opens the database as a node.
func (d *DB) Open(node string) *Store { return &Store{db: d, node: node} }

// Store is one node's way to a DB.
type Store struct {
	db     *DB
	node   string
	mu     sync.Mutex
	closed bool
}

var _ store.Store = (*Store)(nil)

var errClosed = errors.New("the store is closed")

func (s *Store) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return nil
}

// Close closes this node's way; what is under way goes on.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Now returns the database's clock.
func (s *Store) Now(context.Context) (staunch.Time, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	return staunch.TimeOf(s.db.opt.Clock.Now()), nil
}

// snapshot is what is committed, which nobody changes: whoever writes works on a
// copy and puts that in its place.
func (d *DB) snapshot() rows {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows
}

func (d *DB) put(t *tx) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows = t.rows
	if t.wrote {
		d.writes++
	}
}

func (d *DB) writable() rows {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows.Copy()
}

// View runs fn on a snapshot.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := s.open(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	r := &reader{ctx: ctx, rows: s.db.snapshot(), clock: s.db.opt.Clock}
	defer r.end()
	return fn(r)
}

// maxAgain bounds how often a transaction runs.
const maxAgain = 100

// Update runs fn alone.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := s.open(); err != nil {
		return err
	}
	select {
	case s.db.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for a turn: %w", ctx.Err())
	}
	defer func() { <-s.db.turn }() // also when fn panics
	for range maxAgain {
		again, err := s.once(ctx, fn)
		if !again {
			return err
		}
	}
	return fmt.Errorf("after %d runs of a transaction: %w", maxAgain, staunch.ErrConflict)
}

// ErrDisk is the error of a commit that Failed.
var ErrDisk = errors.New("the disk failed")

func (s *Store) once(ctx context.Context, fn func(store.Tx) error) (again bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("beginning a transaction: %w", err)
	}
	t := &tx{
		reader: reader{ctx: ctx, rows: s.db.writable(), clock: s.db.opt.Clock},
		chain:  s.db.opt.Chain, lane: s.node + "/0", values: s.db.opt.Values,
	}
	defer t.end()
	if err := fn(t); err != nil {
		return false, err
	}
	if t.failed != nil {
		return false, t.failed
	}
	outcome := Committed
	if t.wrote && s.db.opt.Before != nil {
		outcome = s.db.opt.Before(s.node)
	}
	if outcome == Again {
		return true, nil
	}
	if outcome == Committed || outcome == UnknownCommitted {
		s.db.put(t)
	}
	if t.wrote && s.db.opt.After != nil {
		s.db.opt.After(s.node)
	}
	switch outcome {
	case Failed:
		return false, fmt.Errorf("committing: %w", staunch.Transient(ErrDisk))
	case UnknownCommitted, UnknownLost:
		return false, fmt.Errorf("committing: %w", staunch.ErrCommitUnknown)
	}
	for _, fn := range t.onCommit {
		fn()
	}
	return false, nil
}
