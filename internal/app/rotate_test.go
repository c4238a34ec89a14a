package app_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// openLite opens a stopped node's store with its keys.
func openLite(t *testing.T, cfg *config.Config) (*sqlstore.SQLite, *seal.Keyring) {
	t.Helper()
	keys, err := seal.Load(cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := record.NewChain(keys.DeriveKey(record.KeyPurpose))
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(cfg.DataDir, "staunch.db"), sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	return st, keys
}

func TestRotateKey(t *testing.T) {
	n := newNode(t)
	cfg, err := config.Load(filepath.Join(n.dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// While the node runs the database is its own.
	if _, err := app.RotateKey(t.Context(), cfg, "test"); !errors.Is(err, staunch.ErrConflict) {
		t.Errorf("rotating beside a running node gave %v", err)
	}
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	ref := staunch.Ref{Kind: staunch.KindCredential, Realm: "json/app", Scheme: "sha256", Value: "sha256:aa"}
	st, old := openLite(t, cfg)
	sealed := func(purpose, plain string) []byte {
		b, err := old.Seal(purpose, []byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if err := st.Update(t.Context(), func(tx store.Tx) error {
		for i := range 120 {
			id := "pre/" + strings.Repeat("x", i+1)
			if err := tx.PutSealed(id, sealed(id, id)); err != nil {
				return err
			}
		}
		return errors.Join(tx.PutSecret(ref, 0, sealed(pipeline.SecretPurpose(ref), "hunter2")),
			tx.PutParked(store.Parked{ID: "prk_1", Raw: sealed(pipeline.ParkedPurpose("prk_1"), "raw")}),
			tx.PutParked(store.Parked{ID: "prk_2"}))
	}); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}

	// One that is interrupted has added its key, and is gone on with.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := app.RotateKey(ctx, cfg, "test"); err == nil {
		t.Fatal("an interrupted rotation gave no error")
	}
	if _, err := seal.AddKey(cfg.KeyFile); err != nil {
		t.Fatal(err)
	}
	rep, err := app.RotateKey(t.Context(), cfg, "test")
	if err != nil || rep.Added || rep.Sealed != 122 || len(rep.Dropped) != 1 || rep.Dropped[0] != old.KeyIDs()[0] || rep.Keys[rep.Key] != 122 {
		t.Fatalf("the rotation did %+v, %v", rep, err)
	}
	st, fresh := openLite(t, cfg)
	if ids := fresh.KeyIDs(); len(ids) != 1 || ids[0] != rep.Key {
		t.Errorf("the key file has %v", ids)
	}
	if err := st.View(t.Context(), func(r store.Reader) error {
		b, err := r.SecretOf(ref)
		if err != nil {
			return err
		}
		plain, err := fresh.Unseal(pipeline.SecretPurpose(ref), b)
		if err != nil || string(plain) != "hunter2" {
			t.Errorf("the secret is %q, %v", plain, err)
		}
		if _, err := old.Unseal(pipeline.SecretPurpose(ref), b); !errors.Is(err, seal.ErrWrongKey) {
			t.Errorf("the old key file opens it: %v", err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// A value that does not open keeps the old keys.
	if err := st.Update(t.Context(), func(tx store.Tx) error { return tx.PutSealed("pre/bad", sealed("another purpose", "x")) }); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	rep, err = app.RotateKey(t.Context(), cfg, "test")
	if err == nil || !rep.Added || rep.Sealed != 122 || len(rep.Unreadable) != 1 || !strings.Contains(rep.Unreadable[0], "pre/bad") || len(rep.Dropped) != 0 {
		t.Errorf("with a value that does not open it did %+v, %v", rep, err)
	}
	status, err := app.SealStatus(t.Context(), cfg)
	if err != nil || status.Key != rep.Key || status.Keys[rep.Key] != 122 || len(status.Keys) != 3 {
		t.Errorf("the status is %+v, %v", status, err)
	}
	// A node with the key file of before must not start: it could undo nothing.
	n.start()
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.KeyFile, before, 0o600); err != nil {
		t.Fatal(err)
	}
	setup, err := app.Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	a, err := app.New(t.Context(), setup, app.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "since the last rotation") {
		t.Errorf("a node with the old key file started: %v", err)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
}
