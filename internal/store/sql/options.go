package sqlstore

import (
	"fmt"
	"log/slog"
	"regexp"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Options says how a store is opened.
type Options struct {
	// Chain hashes records; it is needed.
	Chain store.Chainer
	// Log gets what no caller is told, such as a checkpoint that has to be
	// tried again. nil discards it.
	Log *slog.Logger
	// Node names this process's lanes. Processes that run at the same time
	// have names of their own. The default is "local".
	Node string
	// Lanes is how many chains of records this process keeps: as many
	// transactions as that can append at once. The default is 1 for SQLite,
	// which writes one transaction at a time anyway, and 4 for PostgreSQL.
	Lanes int
	// Clock is SQLite's clock for leases; PostgreSQL has its own. nil is the
	// machine's.
	Clock staunch.Clock
	// Ephemeral is for a SQLite store that is thrown away: commits are not
	// flushed to the disk, so that a crash of the machine may lose them.
	Ephemeral bool
	// Conns bounds the connections: for SQLite those that read, 4 by default;
	// for PostgreSQL all, 16 by default. A View that is called inside of
	// another, or of an Update, takes one more.
	Conns int
	// Fault is for tests: it is asked before every statement of a transaction, and
	// before COMMIT. What it returns is what becomes of the statement, which does
	// not run then. It is called by several goroutines.
	Fault func(statement string) error
}

func (o *Options) fault(statement string) error {
	if o.Fault == nil {
		return nil
	}
	return o.Fault(statement)
}

// failed marks an error of the database's.
func failed(err error) error { return fmt.Errorf("%w: %w", store.ErrFailed, err) }

var nodeName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

const maxLanes = 64

func (o Options) withDefaults(lanes, conns int) (Options, error) {
	if o.Chain == nil {
		return o, fmt.Errorf("opening the store: %w: no Chain", staunch.ErrInvalid)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Node == "" {
		o.Node = "local"
	}
	if !nodeName.MatchString(o.Node) {
		return o, fmt.Errorf("opening the store: %w: node name %q (letters, digits and ._- , at most 64)", staunch.ErrInvalid, o.Node)
	}
	if o.Lanes == 0 {
		o.Lanes = lanes
	}
	if o.Lanes < 0 || o.Lanes > maxLanes {
		return o, fmt.Errorf("opening the store: %w: %d lanes, at most %d", staunch.ErrInvalid, o.Lanes, maxLanes)
	}
	if o.Conns == 0 {
		o.Conns = conns
	}
	if o.Conns < 2 || o.Conns > 1000 {
		return o, fmt.Errorf("opening the store: %w: %d connections, between 2 and 1000", staunch.ErrInvalid, o.Conns)
	}
	if o.Clock == nil {
		o.Clock = staunch.SystemClock{}
	}
	return o, nil
}
