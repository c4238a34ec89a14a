// Package sqlstore is the one SQL implementation of package store, for SQLite
// and PostgreSQL 15 or later. OpenSQLite and OpenPostgres open it; storetest
// has the suite that both pass.
//
// # One set of texts
//
// Every statement is written once, in the SQL that both databases read: numbered
// parameters ($1), ON CONFLICT, RETURNING, row values, partial indexes. What
// differs is small and lives in sqlite.go and postgres.go: how a transaction
// begins, commits and is tried again, who gives out lanes and hold sequences,
// and whose clock is read. Migrations are one numbered set of files too; three
// words in braces ({text}, {blob}, {clustered}) and a line prefix ({postgres})
// stand for what the two call differently, so that the schemas cannot drift
// apart as two folders would.
//
// # SQLite
//
// A lock file beside the database keeps a second process out. Writers queue;
// each runs its function in a transaction that it shares with those before and
// after it, and the last one commits for all (group commit, WAL with
// synchronous=FULL). A function therefore may read what an earlier one in the
// same group wrote; nobody returns, not even with an error of its own, before
// that group is durable. A function that fails after it wrote has the group
// rolled back and the others run again, this time each in a savepoint of its
// own. Reads use their own read-only connections and see the last commit.
//
// Since nobody else writes, hold sequences and the ends of lanes are kept in
// memory from one commit to the next; whatever is rolled back has them read again.
// The log is given room in advance (walroom.go).
//
// # PostgreSQL
//
// Transactions are SERIALIZABLE and run again, with jitter, after a
// serialization failure, deadlock or lost connection. Each commit carries a
// marker in the same message, so that when its answer is lost a new connection
// can find out what happened, and fence the commit if it has not. Only when
// that fails as well does Update return staunch.ErrCommitUnknown.
//
// # Upgrades
//
// Migrations only add: tables, indexes, and columns that may be null or have a
// default. The binary before the newest migration therefore still works on the
// migrated database, and Open refuses one that is newer than that.
package sqlstore
