package record_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"iter"
	"path/filepath"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// all reads every lane of a store, a page at a time.
func all(t *testing.T, r store.Reader) iter.Seq2[staunch.Record, error] {
	return func(yield func(staunch.Record, error) bool) {
		heads, err := r.Heads()
		if err != nil {
			t.Error(err)
			return
		}
		for _, h := range heads {
			for after := int64(0); ; {
				page, err := r.Records(h.Lane, after, 7)
				if err != nil {
					yield(staunch.Record{}, err)
					return
				}
				for _, rec := range page {
					if !yield(rec, nil) {
						return
					}
					after = rec.Seq
				}
				if len(page) == 0 {
					break
				}
			}
		}
	}
}

// The real store's log exports and verifies, and someone who edits or cuts the
// database behind our back is found out.
func TestTheRealStoresLog(t *testing.T) {
	chain, err := record.NewChain(bytes.Repeat([]byte{7}, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	export := func() (*record.Checkpoint, []byte, error) {
		t.Helper()
		db, err := sqlstore.OpenSQLite(t.Context(), path, sqlstore.Options{Chain: chain})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		var out bytes.Buffer
		var cp record.Checkpoint
		err = db.View(t.Context(), func(r store.Reader) (err error) {
			out.Reset()
			cp, err = record.Export(&out, chain, time.Now(), all(t, r))
			return err
		})
		return &cp, out.Bytes(), err
	}
	db, err := sqlstore.OpenSQLite(t.Context(), path, sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		err := db.Update(t.Context(), func(tx store.Tx) error {
			for range 2 {
				_, err := tx.AppendRecord(staunch.Record{
					Time: staunch.TimeOf(time.Now()), Kind: staunch.RecordIntent, Actor: "engine", About: "con_1",
					Body: json.RawMessage(fmt.Sprintf(`{ "z": %d, "a": "<é>" }`, i)),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cp, whole, err := export()
	if err != nil {
		t.Fatal(err)
	}
	r, err := record.VerifyExport(bytes.NewReader(whole), record.VerifyOptions{PublicKey: chain.PublicKey()})
	if err != nil || r.Err() != nil || r.Records != 40 {
		t.Fatalf("%+v, %v", r, err)
	}

	tamper := func(query string) {
		t.Helper()
		raw, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
		if err := raw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// The newest records cut off, heads and all: whole by itself, but not what
	// the checkpoint saw.
	tamper("DELETE FROM records WHERE seq > 30")
	tamper("UPDATE lanes SET seq = 30, hash = (SELECT hash FROM records WHERE seq = 30)")
	_, cut, err := export()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := record.VerifyExport(bytes.NewReader(cut), record.VerifyOptions{Chain: chain}); err != nil || r.Err() != nil {
		t.Fatalf("without the checkpoint: %v, %v", r.Err(), err)
	}
	r, err = record.VerifyExport(bytes.NewReader(cut), record.VerifyOptions{Chain: chain, Past: cp})
	if err != nil || len(r.Breaks) != 1 || r.Breaks[0].Kind != record.BreakTruncated || r.Breaks[0].Seq != 30 {
		t.Fatalf("%+v, %v", r.Breaks, err)
	}
	// An edit shows without any checkpoint.
	tamper("UPDATE records SET actor = 'nobody' WHERE seq = 12")
	_, edited, err := export()
	if err == nil {
		t.Fatal("a broken log was vouched for")
	}
	r, err = record.VerifyExport(bytes.NewReader(edited), record.VerifyOptions{Chain: chain})
	if err != nil || len(r.Breaks) != 2 || r.Breaks[0].Kind != record.BreakEdited || r.Breaks[0].Seq != 12 {
		t.Fatalf("%+v, %v", r.Breaks, err)
	}
}
