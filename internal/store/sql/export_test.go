package sqlstore

import (
	"context"
	"io/fs"
	"maps"
	"slices"
	"testing/fstest"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// Statements returns the texts that the store has prepared so far. The store
// must be idle.
func (s *SQLite) Statements() []string {
	all := map[string]bool{}
	for text := range s.writer.stmts {
		all[text] = true
	}
	for range s.made {
		c := <-s.readers
		for text := range c.stmts {
			all[text] = true
		}
		s.readers <- c
	}
	return slices.Sorted(maps.Keys(all))
}

// Explain returns SQLite's plan of a statement, a line for each of its steps.
func (s *SQLite) Explain(text string) ([]string, error) {
	var out []string
	rows, err := s.readDB.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+text, make([]any, 300)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return nil, err
		}
		out = append(out, detail)
	}
	return out, rows.Err()
}

// later are the migrations of this release and more of later ones.
func later(more map[string]string) (fs.FS, error) {
	out := fstest.MapFS{}
	err := fs.WalkDir(migrationFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := migrationFiles.ReadFile(path)
		out[path] = &fstest.MapFile{Data: b}
		return err
	})
	for name, text := range more {
		out["migrations/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out, err
}

// MigrateSQLite migrates a database file as a later release would.
func MigrateSQLite(ctx context.Context, path string, more map[string]string) error {
	files, err := later(more)
	if err != nil {
		return err
	}
	db, err := openLite(path, []string{"journal_mode(WAL)"})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return migrate(ctx, db, files, goose.DialectSQLite3)
}

// OldSQLite makes a database file as an earlier release did, with the migrations up to
// newest, and executes the statements in it.
func OldSQLite(ctx context.Context, path string, newest int, fill ...string) error {
	files := fstest.MapFS{}
	all, err := later(nil)
	if err != nil {
		return err
	}
	names, err := fs.Glob(all, "migrations/*.sql")
	if err != nil {
		return err
	}
	for _, name := range names[:newest] {
		files[name] = all.(fstest.MapFS)[name]
	}
	db, err := openLite(path, []string{"journal_mode(WAL)"})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := migrate(ctx, db, files, goose.DialectSQLite3); err != nil {
		return err
	}
	for _, statement := range fill {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// MigratePostgres does the same to the store's database.
func (p *Postgres) MigratePostgres(ctx context.Context, more map[string]string) error {
	files, err := later(more)
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(p.pool)
	defer func() { _ = db.Close() }()
	return migrate(ctx, db, files, goose.DialectPostgres)
}

// Newest is the number of the newest migration.
func Newest() int64 {
	_, n, err := migrations(migrationFiles, goose.DialectSQLite3)
	if err != nil {
		panic(err)
	}
	return n
}

// Resolve finds out what became of a commit.
func (p *Postgres) Resolve(ctx context.Context, slot, marker string) (committed bool, err error) {
	return p.resolve(ctx, 0, slot, marker)
}

// Refs counts the refs that have a number.
func (s *SQLite) Refs() (n int, err error) {
	return n, s.readDB.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM refs").Scan(&n)
}
