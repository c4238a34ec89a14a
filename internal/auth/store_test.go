package auth_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// A token in the real store: made, used, revoked on this node, refused at once.
func TestTokensOfTheRealStore(t *testing.T) {
	chain, err := record.NewChain(make([]byte, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "db"), sqlstore.Options{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	a := auth.New(db, auth.Options{MaxAge: time.Hour})
	secret, hash := auth.NewToken()
	row := store.Token{
		ID: "tok_1", Name: "ana", Hash: hash, Role: string(auth.RoleResponder), Realms: []string{"pg/prod"}, Created: staunch.TimeOf(time.Now()),
	}
	if err := auth.CheckToken(row); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Token(t.Context(), secret, "127.0.0.1:1"); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("before it is stored: %v", err)
	}
	put := func() {
		t.Helper()
		err := db.Update(t.Context(), func(tx store.Tx) error {
			tx.OnCommit(func() { a.Forget(row.ID) })
			return tx.PutToken(row)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put()
	p, err := a.Token(t.Context(), secret, "127.0.0.1:1")
	if err != nil || p.Name != "ana" || p.Role != auth.RoleResponder || len(p.Realms) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	row.Revoked = true
	put()
	if _, err := a.Token(t.Context(), secret, "127.0.0.1:1"); !errors.Is(err, staunch.ErrUnauthenticated) {
		t.Fatalf("after its revocation: %v", err)
	}
}
