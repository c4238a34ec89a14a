// Package crash kills the real binary with kill -9 at every boundary of its
// work and judges what became of it by the platform's own ledger. It has tests
// only. By itself it makes a few runs; `make crash` makes 500:
//
//	go test -count=1 -timeout 0 -v ./test/crash -args -runs 500
//
// A run makes a PostgreSQL role with grants in two databases by two grantors, an
// open session and a thief who hammers with both the session and new logins. It
// starts the binary (build tag crashpoints, see package crashpoint), posts the
// record that accuses the role, and lets the process die: at a named boundary,
// at a second one in the process that took over, or at a random moment by a
// kill -9 from outside. The process is started again until the case is held and
// proven; then the case is released, with crashes too, and everything is
// compared.
//
// # What is judged
//
// The ledger is the server's statement log (log_statement = all, log_duration):
// each statement with the session that sent it and whether it completed. Every
// change carries its step's key as a comment. A change has taken effect when its
// statement completed and, where it stood in an open transaction, when that
// transaction's COMMIT, which carries the key as well, completed.
//
//   - Early: a key in the ledger that is, after a crash and before anything is
//     started again, not the id of a step in staunch's database; or a statement
//     that undoes whose step's intent to undo is not durable.
//   - Doubled: for a login or grants step, a second change that took effect in
//     the same direction under one key, whatever it found. A second case for
//     the record, or a second copy of an acknowledged record, counts as well.
//     Ending sessions may be repeated, since a sweep is for those that came in
//     between: what counts there is that no session of anybody else is ended,
//     and nothing after the release. Repeats that named a session again are
//     reported apart.
//   - Lost: an intent without exactly one change that took effect, an undo
//     without one, an acknowledged record that is not there, a case that does
//     not come to be held and proven, access that still works while it is held.
//   - Unreleased: after the release, a phase other than released, an active hold
//     that is not kept with a reason, a step neither undone nor kept with a
//     reason, a cap not given back, a sealed pre-image, lease or timer that is
//     left, a role that cannot log in, an access list that is not what it was.
//
// Beside these every run checks the chain of records after each crash, that no
// change was sent without a key, and that records sent again change nothing.
package crash
