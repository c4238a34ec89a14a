package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

// errIncomplete is a REVOKE that took less away than it was asked to, which is
// only a warning to the server: most often for want of rights.
var errIncomplete = errors.New("the server took less away than it was asked to")

var errClosed = errors.New("the connector is closed")

// classify wraps err as "doing: err" and marks it with its class. sent says
// that a statement that changes something had been sent, so that a lost
// connection leaves the outcome open.
func classify(doing string, err error, sent bool) error {
	if err == nil {
		return nil
	}
	return mark(fmt.Errorf("%s: %w", doing, err), err, sent)
}

func mark(wrapped, err error, sent bool) error {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, staunch.ErrConflict), errors.Is(err, staunch.ErrInvalid),
		errors.Is(err, staunch.ErrNotFound), errors.Is(err, staunch.ErrForbidden), errors.Is(err, errClosed):
		return staunch.Permanent(wrapped)
	case errors.Is(err, connector.ErrOlder):
		return staunch.Transient(wrapped)
	case errors.Is(err, errHidden), errors.Is(err, errIncomplete):
		return staunch.Denied(wrapped)
	case errors.As(err, &pg):
		return markState(wrapped, pg, sent)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), lost(err):
		if sent {
			return staunch.OutcomeUnknown(wrapped)
		}
		return staunch.Transient(wrapped)
	default:
		return staunch.Permanent(wrapped)
	}
}

// lost reports whether err is of the connection, not of the server.
func lost(err error) bool {
	var (
		connect *pgconn.ConnectError
		network net.Error
	)
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// vanished reports whether the server says that a named thing does not exist.
func vanished(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "42P01", "42703", "42883", "42704", "3F000", "3D000": // table, column, routine, object, schema, database
		return true
	}
	return false
}

// markState goes by the server's SQLSTATE. An error to a statement aborts its
// transaction, so nothing was changed; only when the session itself was ended
// may a commit have gone through before.
func markState(wrapped error, pg *pgconn.PgError, sent bool) error {
	class := ""
	if len(pg.Code) == 5 {
		class = pg.Code[:2]
	}
	switch {
	case class == "28", pg.Code == "42501":
		return staunch.Denied(wrapped)
	case sent && (pg.Severity == "FATAL" || pg.Severity == "PANIC"):
		return staunch.OutcomeUnknown(wrapped)
	case class == "08", class == "53", class == "57", class == "40",
		pg.Code == "55P03", // lock not available
		pg.Code == "55006", // object in use
		pg.Code == "XX000" && strings.HasPrefix(pg.Message, "tuple concurrently"):
		return staunch.Transient(wrapped)
	default:
		return staunch.Permanent(wrapped)
	}
}
