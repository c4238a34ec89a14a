package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
)

// ErrHasAdmin says that a first admin's token was made before. It is a
// staunch.ErrConflict.
var ErrHasAdmin = fmt.Errorf("%w: there is an admin's token already", staunch.ErrConflict)

// Init makes the key file, where there is none, and the first admin's token,
// and returns the token. It is shown this once. A data folder that has an
// admin's token already is ErrHasAdmin.
func Init(ctx context.Context, cfg *config.Config, name string) (staunch.Secret, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.KeyFile), 0o700); err != nil {
		return staunch.Secret{}, fmt.Errorf("making the folder of the key file: %w", err)
	}
	if err := seal.Generate(cfg.KeyFile); err != nil && !errors.Is(err, os.ErrExist) {
		return staunch.Secret{}, fmt.Errorf("making the key file: %w", err)
	}
	return withStore(ctx, cfg, func(st store.Store) (staunch.Secret, error) { return firstToken(ctx, st, name) })
}

// Another makes one more admin's token, beside those that there are, for whoever
// lost theirs, and returns it. It takes what no token guards: the database, which
// no other process may hold where it is SQLite, and the key file, which must be
// there. The record log has it as one of "init".
func Another(ctx context.Context, cfg *config.Config, name string) (staunch.Secret, error) {
	return withStore(ctx, cfg, func(st store.Store) (staunch.Secret, error) {
		secret, _, err := MakeToken(ctx, st, store.Token{Name: name, Role: string(auth.RoleAdmin)}, "init")
		return secret, err
	})
}

// withStore opens the store with the key file, for as long as the token is made.
func withStore(ctx context.Context, cfg *config.Config, mint func(store.Store) (staunch.Secret, error)) (staunch.Secret, error) {
	_, chain, err := openKeys(cfg)
	if err != nil {
		return staunch.Secret{}, err
	}
	st, err := openStore(ctx, cfg, chain, slog.New(slog.DiscardHandler))
	if err != nil {
		return staunch.Secret{}, err
	}
	secret, err := mint(st)
	return secret, errors.Join(err, st.Close())
}

func firstToken(ctx context.Context, st store.Store, name string) (staunch.Secret, error) {
	var tokens []store.Token
	if err := st.View(ctx, func(r store.Reader) error {
		var err error
		tokens, err = r.Tokens()
		return err
	}); err != nil {
		return staunch.Secret{}, err
	}
	for _, t := range tokens {
		if t.Role == string(auth.RoleAdmin) && !t.Revoked {
			return staunch.Secret{}, fmt.Errorf("%w (%s)", ErrHasAdmin, t.Name)
		}
	}
	secret, _, err := MakeToken(ctx, st, store.Token{Name: name, Role: string(auth.RoleAdmin)}, "init")
	return secret, err
}

// MakeToken stores a token and returns its secret.
func MakeToken(ctx context.Context, st store.Store, t store.Token, who string) (staunch.Secret, store.Token, error) {
	secret, hash := auth.NewToken()
	now, err := st.Now(ctx)
	if err != nil {
		return staunch.Secret{}, t, err
	}
	t.Hash, t.Created, t.CreatedBy = hash, now, who
	t.ID = "tok_" + hash[:16]
	if err := auth.CheckToken(t); err != nil {
		return staunch.Secret{}, t, err
	}
	err = st.Update(ctx, func(tx store.Tx) error {
		if err := tx.PutToken(t); err != nil {
			return err
		}
		return appendRecord(tx, staunch.RecordToken, who, t.ID, now, map[string]any{"made": t.ID, "name": t.Name, "role": t.Role, "source": t.Source})
	})
	if err != nil {
		return staunch.Secret{}, t, fmt.Errorf("storing the token: %w", err)
	}
	return secret, t, nil
}
