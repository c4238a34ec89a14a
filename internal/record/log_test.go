package record_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

// database is a store and the way past it.
type database struct {
	open func(t *testing.T) store.Store
	exec func(t *testing.T, query string)
}

func sqliteDatabase(t *testing.T, chain *record.Chain) database {
	path := filepath.Join(t.TempDir(), "db")
	return database{
		open: func(t *testing.T) store.Store {
			t.Helper()
			db, err := sqlstore.OpenSQLite(t.Context(), path, sqlstore.Options{Chain: chain})
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
		exec: func(t *testing.T, query string) {
			t.Helper()
			raw, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = raw.ExecContext(t.Context(), query)
			if err := errors.Join(err, raw.Close()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func postgresDatabase(t *testing.T, chain *record.Chain) database {
	dsn := pgtest.NewDatabase(t)
	return database{
		open: func(t *testing.T) store.Store {
			t.Helper()
			db, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(dsn), sqlstore.Options{Chain: chain, Node: "one"})
			if err != nil {
				t.Fatal(err)
			}
			return db
		},
		exec: func(t *testing.T, query string) {
			t.Helper()
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			_, err = conn.Exec(t.Context(), query)
			if err := errors.Join(err, conn.Close(t.Context())); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// write appends records, one a transaction.
func write(t *testing.T, db store.Store, n int) {
	t.Helper()
	for i := range n {
		err := db.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.AppendRecord(staunch.Record{
				Time: staunch.TimeOf(time.Now()), Kind: staunch.RecordIntent, Actor: "engine", About: "con_1",
				Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func export(t *testing.T, log record.Log) []byte {
	t.Helper()
	heads, err := log.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := record.Export(&out, log.Chain, time.Now(), log.Records(t.Context(), heads)); err != nil && !errors.Is(err, record.ErrBroken) {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Whoever writes the database behind our back, without the key, and edits,
// deletes, reorders or cuts off records that a checkpoint has seen is found out
// by that checkpoint: on the server, in an export with the key or with the public
// key alone, and by the next checkpoint.
func TestTamperingPastACheckpoint(t *testing.T) {
	chain, err := record.NewChain(bytes.Repeat([]byte{7}, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	databases := map[string]func(*testing.T, *record.Chain) database{"SQLite": sqliteDatabase, "PostgreSQL": postgresDatabase}
	for name, tc := range map[string]struct {
		tamper func(exec func(string), lane string, seen int64)
		want   record.BreakKind
		// next says that the next checkpoint finds it as well. It reads only what came
		// since: what stands before is held by the heads' hashes, and is found by
		// whoever reads it.
		next bool
		// postgres has it tried there as well: each takes a second.
		postgres bool
	}{
		"nothing": {postgres: true, tamper: func(func(string), string, int64) {}},
		"edited": {want: record.BreakEdited, postgres: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("UPDATE records SET actor = 'nobody' WHERE lane = '%s' AND seq = %d", lane, seen-3))
		}},
		"edited since": {want: record.BreakEdited, next: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("UPDATE records SET about = 'con_2' WHERE lane = '%s' AND seq = %d", lane, seen+1))
		}},
		"the checkpoint's own record edited": {want: record.BreakEdited, next: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("UPDATE records SET kind = 'proof' WHERE lane = '%s' AND seq = %d", lane, seen))
		}},
		"deleted": {want: record.BreakGap, postgres: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("DELETE FROM records WHERE lane = '%s' AND seq = %d", lane, seen-3))
		}},
		"deleted since": {want: record.BreakGap, next: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("DELETE FROM records WHERE lane = '%s' AND seq = %d", lane, seen+1))
		}},
		"the checkpoint's own record deleted": {want: record.BreakGap, next: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("DELETE FROM records WHERE lane = '%s' AND seq = %d", lane, seen))
		}},
		"reordered": {want: record.BreakUnlinked, postgres: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("UPDATE records SET seq = -1 WHERE lane = '%s' AND seq = %d", lane, seen-3))
			exec(fmt.Sprintf("UPDATE records SET seq = %d WHERE lane = '%s' AND seq = %d", seen-3, lane, seen-2))
			exec(fmt.Sprintf("UPDATE records SET seq = %d WHERE lane = '%s' AND seq = -1", seen-2, lane))
		}},
		"cut": {want: record.BreakTruncated, next: true, postgres: true, tamper: func(exec func(string), lane string, seen int64) {
			exec(fmt.Sprintf("DELETE FROM records WHERE lane = '%s' AND seq > %d", lane, seen-3))
			exec(fmt.Sprintf("UPDATE lanes SET seq = %d, hash = (SELECT hash FROM records WHERE lane = '%s' AND seq = %d) WHERE lane = '%s'", seen-3, lane, seen-3, lane))
		}},
		"a lane gone": {want: record.BreakTruncated, next: true, tamper: func(exec func(string), lane string, _ int64) {
			exec(fmt.Sprintf("DELETE FROM records WHERE lane = '%s'", lane))
			exec(fmt.Sprintf("DELETE FROM lanes WHERE lane = '%s'", lane))
		}},
	} {
		for kind, database := range databases {
			if kind == "PostgreSQL" && !tc.postgres {
				continue
			}
			t.Run(name+"/"+kind, func(t *testing.T) {
				d := database(t, chain)
				db := d.open(t)
				write(t, db, 40)
				log := record.Log{Store: db, Chain: chain}
				cp, _, err := log.Checkpoint(t.Context(), time.Now(), nil)
				if err != nil {
					t.Fatal(err)
				}
				write(t, db, 20)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				long := cp.Heads[0]
				for _, h := range cp.Heads {
					if h.Seq > long.Seq {
						long = h
					}
				}
				if long.Seq < 5 {
					t.Fatalf("the lanes are too short: %+v", cp.Heads)
				}
				tc.tamper(func(q string) { d.exec(t, q) }, long.Lane, long.Seq)

				db = d.open(t)
				defer func() {
					if err := db.Close(); err != nil {
						t.Error(err)
					}
				}()
				log.Store = db
				has := func(how string, rep record.Report, err error, want record.BreakKind) {
					t.Helper()
					switch {
					case err != nil:
						t.Errorf("%s: %v", how, err)
					case want == "":
						if rep.Err() != nil {
							t.Errorf("%s: %v", how, rep.Err())
						}
					case rep.Err() == nil || rep.Breaks[0].Kind != want || rep.Breaks[0].Lane != long.Lane:
						t.Errorf("%s: %v, want %s in lane %s", how, rep.Breaks, want, long.Lane)
					}
				}
				rep, err := log.Verify(t.Context(), &cp)
				has("on the server", rep, err, tc.want)
				out := export(t, log)
				rep, err = record.VerifyExport(bytes.NewReader(out), record.VerifyOptions{Chain: chain, Past: &cp})
				has("an export", rep, err, tc.want)
				// The public key finds that nothing vouches for the export.
				rep, err = record.VerifyExport(bytes.NewReader(out), record.VerifyOptions{PublicKey: chain.PublicKey(), Past: &cp})
				if err != nil || (rep.Err() == nil) != (tc.want == "") {
					t.Errorf("with the public key: %v, %v", rep.Breaks, err)
				}
				next, _, err := log.Checkpoint(t.Context(), time.Now(), &cp)
				switch {
				case tc.next && !errors.Is(err, record.ErrBroken):
					t.Errorf("the next checkpoint: %v", err)
				case tc.want == "" && err != nil:
					t.Errorf("the next checkpoint: %v", err)
				case err == nil:
					if err := next.Verify(chain.PublicKey()); err != nil || len(next.Heads) < len(cp.Heads) {
						t.Errorf("the next checkpoint is %+v, %v", next, err)
					}
				}
			})
		}
	}
}

// A checkpoint that follows another reads what came since, and no more.
func TestACheckpointReadsWhatCameSince(t *testing.T) {
	chain, err := record.NewChain(bytes.Repeat([]byte{7}, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	db := sqliteDatabase(t, chain).open(t)
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	c := &counting{LogStore: db}
	log := record.Log{Store: c, Chain: chain}
	none, _, err := log.Checkpoint(t.Context(), time.Now(), nil)
	if err != nil || len(none.Heads) != 0 {
		t.Fatalf("of an empty log: %+v, %v", none, err)
	}
	write(t, db, 1200)
	first, rep, err := log.Checkpoint(t.Context(), time.Now(), &none)
	if err != nil || rep.Records != 1200 || c.views < 4 {
		t.Fatalf("the first read %d records in %d views: %v", rep.Records, c.views, err)
	}
	again, rep, err := log.Checkpoint(t.Context(), time.Now(), &first)
	if err != nil || rep.Records != 1 || again.Heads[0] != first.Heads[0] {
		t.Fatalf("again read %d records: %+v, %v", rep.Records, again, err)
	}
	write(t, db, 3)
	next, rep, err := log.Checkpoint(t.Context(), time.Now(), &again)
	if err != nil || rep.Records != 4 || next.Heads[0].Seq != 1203 {
		t.Fatalf("the next read %d records: %+v, %v", rep.Records, next, err)
	}
	// One that somebody else signed, or that was changed, is none.
	bent := first
	bent.At++
	if _, _, err := log.Checkpoint(t.Context(), time.Now(), &bent); !errors.Is(err, record.ErrSignature) {
		t.Errorf("a checkpoint that was changed: %v", err)
	}
	if _, err := log.Verify(t.Context(), &bent); !errors.Is(err, record.ErrSignature) {
		t.Errorf("a checkpoint that was changed: %v", err)
	}
}

type counting struct {
	record.LogStore
	views int
}

func (c *counting) View(ctx context.Context, fn func(store.Reader) error) error {
	c.views++
	return c.LogStore.View(ctx, fn)
}
