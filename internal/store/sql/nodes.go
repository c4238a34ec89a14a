package sqlstore

import (
	"errors"
	"fmt"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// What nodes tell each other: the active configuration, and how far each one's
// guard has come.

const activeHash = "SELECT hash FROM active_bundle WHERE one = 1"

func (r *reader) ActiveHash() (string, error) {
	var hash string
	err := r.one("the active bundle", activeHash, nil, &hash)
	return hash, err
}

// required is a condition on the active bundle. Its answer comes with that of
// another statement, so that the condition costs no round trip.
type required struct {
	hash string
	// rows is how many other bundles are active, -1 while it is not known.
	rows int64
}

// RequireBundle asks at once and looks at the answer before the commit. On
// PostgreSQL it takes a lock that activating a bundle waits for, and that waits
// for an activation: as LOCK takes no snapshot, a transaction that begins with
// RequireBundle never goes by what was active before it got the lock. On SQLite
// nobody else writes meanwhile.
func (t *tx) RequireBundle(hash string) error {
	if t.bundle != nil && t.bundle.hash == hash {
		return nil
	}
	if t.bundle != nil {
		return t.failedBundle(hash)
	}
	t.bundle = &required{hash: hash, rows: -1}
	if _, ok := t.session.(*conn); !ok {
		return t.checkBundle()
	}
	wrote := t.wrote
	if err := t.later("LOCK TABLE active_bundle IN ROW SHARE MODE"); err != nil {
		return fmt.Errorf("reading the active bundle: %w", err)
	}
	err := t.laterCounting(&t.bundle.rows, "SELECT 1 FROM active_bundle WHERE one = 1 AND hash <> $1", hash)
	t.wrote = wrote // it only reads
	return wrap(err, "reading the active bundle")
}

// lockBundle has this transaction be alone with the active bundle.
func (t *tx) lockBundle() error {
	if _, ok := t.session.(*conn); !ok {
		return nil
	}
	return t.later("LOCK TABLE active_bundle IN EXCLUSIVE MODE")
}

func (t *tx) failedBundle(active string) error {
	return fmt.Errorf("%w: the transaction is for bundle %s, not %s", store.ErrBundle, t.bundle.hash, active)
}

// checkBundle returns what RequireBundle left open.
func (t *tx) checkBundle() error {
	if t.bundle == nil || t.bundle.rows == 0 {
		return nil
	}
	active, err := t.ActiveHash() // what waited is sent before it
	switch {
	case t.failed != nil:
		return t.failed
	case t.bundle.rows == 0: // it was, when it was asked
		return nil
	case errors.Is(err, staunch.ErrNotFound), err == nil && active == t.bundle.hash:
		t.bundle.rows = 0
		return nil
	case err != nil:
		return err
	}
	return t.failedBundle(active)
}

func (r *reader) Guards() ([]store.Guard, staunch.Time, error) {
	now, err := r.engine.now(r)
	if err != nil {
		return nil, 0, fmt.Errorf("listing the guards: %w", err)
	}
	out, err := list[store.Guard](r, "the guards", "SELECT body FROM guards ORDER BY node")
	return out, now, err
}

func (t *tx) RenewGuard(g store.Guard, ttl time.Duration, first bool) (store.Guard, error) {
	if g.Node == "" || ttl <= 0 {
		return g, fmt.Errorf("%w: guard %q over %v", staunch.ErrInvalid, g.Node, ttl)
	}
	now, err := t.engine.now(&t.reader)
	if err != nil {
		return g, fmt.Errorf("renewing guard %s: %w", g.Node, err)
	}
	if first || g.Since == 0 {
		g.Since = now
	}
	g.Renewed, g.Until = now, now.Add(ttl)
	body, err := store.Encode(g)
	if err != nil {
		return g, err
	}
	err = t.later(`INSERT INTO guards (node, until, applied, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (node) DO UPDATE SET until = excluded.until, applied = excluded.applied, body = excluded.body`,
		g.Node, int64(g.Until), g.Applied, body)
	return g, wrap(err, "renewing guard %s", g.Node)
}

func (t *tx) DeleteGuard(node string) error {
	return wrap(t.later("DELETE FROM guards WHERE node = $1", node), "deleting guard %s", node)
}

func (r *reader) CapsNamed(prefix, after string, limit int) ([]string, error) {
	out := []string{}
	// Everything that begins with prefix lies between it and its successor.
	err := r.query("SELECT name FROM caps WHERE name > $1 AND name >= $2 AND name < $3 ORDER BY name LIMIT $4",
		[]any{after, prefix, prefix + "\U0010FFFF", limitOf(limit)}, func(scan func(...any) error) error {
			var name string
			if err := scan(&name); err != nil {
				return err
			}
			out = append(out, name)
			return nil
		})
	return out, wrap(err, "listing caps")
}

func (t *tx) DeleteCap(name string) error {
	return wrap(t.later("DELETE FROM caps WHERE name = $1", name), "deleting cap %s", name)
}

// sealedColumns are the table, key and value of each place of sealed values.
func sealedColumns(kind store.SealedKind) (table, key, value string, err error) {
	switch kind {
	case store.SealedState:
		return "sealed", "id", "blob", nil
	case store.SealedSecret:
		return "secrets", "ref", "blob", nil
	case store.SealedParked:
		return "parked", "id", "raw", nil
	}
	return "", "", "", fmt.Errorf("%w: no sealed values of kind %q", staunch.ErrInvalid, kind)
}

func (r *reader) SealedAfter(kind store.SealedKind, after string, limit int) ([]store.SealedValue, error) {
	table, key, value, err := sealedColumns(kind)
	if err != nil {
		return nil, err
	}
	out := []store.SealedValue{}
	err = r.query("SELECT "+key+", "+value+" FROM "+table+" WHERE "+key+" > $1 ORDER BY "+key+" LIMIT $2",
		[]any{after, limitOf(limit)}, func(scan func(...any) error) error {
			var v store.SealedValue
			if err := scan(&v.Key, &v.Blob); err != nil {
				return err
			}
			out = append(out, v)
			return nil
		})
	return out, wrap(err, "listing sealed values")
}

// ReplaceSealed counts as shredding: what stood there is not to be found in
// SQLite's log any more.
func (t *tx) ReplaceSealed(kind store.SealedKind, key string, old, blob []byte) (bool, error) {
	table, col, value, err := sealedColumns(kind)
	if err != nil {
		return false, err
	}
	ok, err := t.put("UPDATE "+table+" SET "+value+" = $3 WHERE "+col+" = $1 AND "+value+" = $2", key, nonNil(old), nonNil(blob))
	t.shreds = t.shreds || ok
	return ok, wrap(err, "replacing a sealed value")
}
