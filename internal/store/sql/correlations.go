package sqlstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

const contributionColumns = "series, at, event, base, value, until, due, body"

// maxRows bounds the rows of one statement; their number is a power of two, so
// that the texts are few and can be prepared. SQLite's driver takes a time for
// binding that grows with the square of the parameters.
const maxRows = 16

// putContributionsText is the insertion of so many rows.
func (c *texts) putContributions(rows int) string {
	const name = "put contributions"
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.m[name][rows]; ok {
		return t
	}
	var b strings.Builder
	b.WriteString("INSERT INTO contributions (" + contributionColumns + ") VALUES ")
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		for k := range 8 {
			b.WriteByte(",("[btoi(k == 0)])
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(i*8 + k + 1))
		}
		b.WriteByte(')')
	}
	b.WriteString(" ON CONFLICT (series, at, event, base) DO NOTHING")
	if c.m == nil {
		c.m = map[string]map[int]string{}
	}
	if c.m[name] == nil {
		c.m[name] = map[int]string{}
	}
	c.m[name][rows] = b.String()
	return b.String()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *tx) PutContributions(list []store.Contribution) error {
	for _, c := range list {
		if err := need("contribution", c.Series); err != nil {
			return err
		}
		if err := need("contribution", c.Event); err != nil {
			return err
		}
	}
	for len(list) > 0 {
		rows := maxRows
		for rows > len(list) {
			rows /= 2
		}
		args := make([]any, 0, rows*8)
		for _, c := range list[:rows] {
			args = append(args, c.Series, int64(c.At), c.Event, int64(c.Base), c.Value, int64(c.Until), int64(c.Due), nonNil(c.Body))
		}
		if err := t.later(t.engine.texts().putContributions(rows), args...); err != nil {
			return fmt.Errorf("putting contributions: %w", err)
		}
		list = list[rows:]
	}
	return nil
}

func (r *reader) contributions(rest string, args ...any) ([]store.Contribution, error) {
	out := []store.Contribution{}
	err := r.query("SELECT "+contributionColumns+" FROM contributions "+rest, args, func(scan func(...any) error) error {
		var c store.Contribution
		var at, base, until, due int64
		if err := scan(&c.Series, &at, &c.Event, &base, &c.Value, &until, &due, &c.Body); err != nil {
			return err
		}
		c.At, c.Base, c.Until, c.Due = staunch.Time(at), int(base), staunch.Time(until), staunch.Time(due)
		out = append(out, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing contributions: %w", err)
	}
	return out, nil
}

func (r *reader) Contributions(series string, from, to staunch.Time, limit int) ([]store.Contribution, error) {
	out, err := r.contributions("WHERE series = $1 AND at >= $2 AND at <= $3 ORDER BY at DESC, event DESC, base DESC LIMIT $4",
		series, int64(from), int64(to), limitOf(limit))
	slices.Reverse(out)
	return out, err
}

func (r *reader) DueContributions(now staunch.Time, limit int) ([]store.Contribution, error) {
	return r.contributions("WHERE due > 0 AND due <= $1 ORDER BY due, series, at, event, base LIMIT $2", int64(now), limitOf(limit))
}

func (t *tx) SettleContributions(list []store.Contribution) error {
	for _, c := range list {
		err := t.later("UPDATE contributions SET due = 0 WHERE series = $1 AND at = $2 AND event = $3 AND base = $4",
			c.Series, int64(c.At), c.Event, int64(c.Base))
		if err != nil {
			return fmt.Errorf("settling a contribution: %w", err)
		}
	}
	return nil
}

func (r *reader) Sightings(series, from, to string, limit int) ([]store.Sighting, error) {
	out := []store.Sighting{}
	err := r.query(`SELECT series, item, first_at, last_at, n, until FROM sightings
		WHERE series = $1 AND item >= $2 AND item <= $3 ORDER BY item DESC LIMIT $4`,
		[]any{series, from, to, limitOf(limit)}, func(scan func(...any) error) error {
			var s store.Sighting
			var first, last, until int64
			if err := scan(&s.Series, &s.Item, &first, &last, &s.Count, &until); err != nil {
				return err
			}
			s.First, s.Last, s.Until = staunch.Time(first), staunch.Time(last), staunch.Time(until)
			out = append(out, s)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("listing sightings: %w", err)
	}
	slices.Reverse(out)
	return out, nil
}

func (t *tx) AddSighting(s store.Sighting) error {
	if err := need("sighting", s.Series); err != nil {
		return err
	}
	err := t.later(`INSERT INTO sightings (series, item, first_at, last_at, n, until) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (series, item) DO UPDATE SET n = sightings.n + excluded.n,
		first_at = CASE WHEN excluded.first_at < sightings.first_at THEN excluded.first_at ELSE sightings.first_at END,
		last_at = CASE WHEN excluded.last_at > sightings.last_at THEN excluded.last_at ELSE sightings.last_at END,
		until = CASE WHEN excluded.until > sightings.until THEN excluded.until ELSE sightings.until END`,
		s.Series, s.Item, int64(s.First), int64(s.Last), s.Count, int64(s.Until))
	return wrap(err, "adding a sighting")
}

func (t *tx) PruneCorrelations(now staunch.Time, limit int) (int, error) {
	a, err := t.exec(`DELETE FROM contributions WHERE (series, at, event, base) IN
		(SELECT series, at, event, base FROM contributions WHERE until < $1 ORDER BY until LIMIT $2)`, int64(now), limitOf(limit))
	if err != nil {
		return 0, fmt.Errorf("pruning contributions: %w", err)
	}
	b, err := t.exec(`DELETE FROM sightings WHERE (series, item) IN
		(SELECT series, item FROM sightings WHERE until < $1 ORDER BY until LIMIT $2)`, int64(now), limitOf(limit))
	return int(a + b), wrap(err, "pruning sightings")
}

// Exclusive says that no other process writes to the database, so that what this
// one counted bounds what the database has.
func (*SQLite) Exclusive() bool { return true }
