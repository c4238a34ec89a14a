package store

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
)

// The processes of a node are numbered in the order in which they began, so that
// one can tell that another has begun under its name: because its machine was held
// up and somebody replaced it, or because two nodes were given one name. What the
// process before had a lease on is the next one's at once, and not the other way
// round.

// processes names the cursor with the number of a node's newest process.
func processes(node string) string { return "node/" + node }

// BeginProcess takes the next number of the node's processes, from 1 on.
func BeginProcess(tx Tx, node string) (number int64, err error) {
	n, _, err := ReadCursor[int64](tx, processes(node))
	if err != nil {
		return 0, err
	}
	return n + 1, WriteCursor(tx, processes(node), n+1)
}

// NewestProcess reports a conflict where another process of the node began after
// the one with this number.
func NewestProcess(r Reader, node string, number int64) error {
	n, _, err := ReadCursor[int64](r, processes(node))
	if err == nil && n > number {
		err = fmt.Errorf("%w: another process runs as node %s", staunch.ErrConflict, node)
	}
	return err
}

// Owner is what the process with this number is called in leases.
func Owner(node string, number int64) string { return node + "#" + strconv.FormatInt(number, 10) }

// Succeeds reports whether owner is a later process of the node that held is a
// process of, so that it takes over what that one had.
func Succeeds(owner, held string) bool {
	a, i := process(owner)
	b, j := process(held)
	return a == b && i > j
}

// process splits what an owner is called; a name without a number is from before
// there were any.
func process(owner string) (node string, number int64) {
	at := strings.LastIndexByte(owner, '#')
	if at < 0 {
		return owner, 0
	}
	n, err := strconv.ParseInt(owner[at+1:], 10, 64)
	if err != nil {
		return owner, 0
	}
	return owner[:at], n
}
