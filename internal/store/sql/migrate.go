package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// ErrNewerSchema says that a database was migrated by a release too new for
// this binary.
var ErrNewerSchema = errors.New("schema from a newer staunch")

// words are what the two databases call differently in a migration.
func words(d goose.Dialect) *strings.Replacer {
	if d == goose.DialectPostgres {
		// "C" orders text by its bytes, as SQLite does.
		return strings.NewReplacer("{text}", `TEXT COLLATE "C"`, "{blob}", "BYTEA", "{clustered}", "", "{postgres}", "", "{sqlite}", "--")
	}
	return strings.NewReplacer("{text}", "TEXT", "{blob}", "BLOB", "{clustered}", "WITHOUT ROWID", "{postgres}", "--", "{sqlite}", "")
}

// migrations reads NNNNN_name.sql files. A file has no function bodies, so a
// semicolon at the end of a line ends a statement.
func migrations(fsys fs.FS, d goose.Dialect) ([]*goose.Migration, int64, error) {
	names, err := fs.Glob(fsys, "migrations/*.sql")
	if err != nil {
		return nil, 0, fmt.Errorf("listing migrations: %w", err)
	}
	var out []*goose.Migration
	var newest int64
	for _, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("migration %s: its name has no number: %w", name, err)
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, 0, fmt.Errorf("migration %s: %w", name, err)
		}
		statements := strings.Split(words(d).Replace(string(text)), ";\n")
		up := func(ctx context.Context, tx *sql.Tx) error {
			for i, st := range statements {
				if strings.TrimSpace(st) == "" {
					continue
				}
				if _, err := tx.ExecContext(ctx, st); err != nil {
					return fmt.Errorf("migration %s, statement %d: %w", name, i+1, err)
				}
			}
			return nil
		}
		out = append(out, goose.NewGoMigration(version, &goose.GoFunc{RunTx: up}, nil))
		newest = max(newest, version)
	}
	return out, newest, nil
}

// migrate brings db to the newest migration of fsys, or refuses it.
func migrate(ctx context.Context, db *sql.DB, fsys fs.FS, d goose.Dialect) error {
	list, newest, err := migrations(fsys, d)
	if err != nil {
		return err
	}
	opts := []goose.ProviderOption{goose.WithGoMigrations(list...), goose.WithDisableGlobalRegistry(true)}
	if d == goose.DialectPostgres {
		// Several nodes may start at once; each asks again every second.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
		if err != nil {
			return fmt.Errorf("migrating the database: %w", err)
		}
		opts = append(opts, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(d, db, nil, opts...)
	if err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	version, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if version > newest+1 {
		return fmt.Errorf("%w: the database is at %d, this binary knows %d and works with %d at most; start the newer release",
			ErrNewerSchema, version, newest, newest+1)
	}
	if version >= newest {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	return nil
}
