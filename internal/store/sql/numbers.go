package sqlstore

import (
	"encoding/hex"
	"fmt"
)

// In the indexes of events, links and signals SQLite has a number where PostgreSQL
// has a ref's key (migration 7). A new ref gets the next number, so that all that is
// stored of it stands at the end of each index, and a batch about new sessions writes
// a few pages of each instead of one for every row. Only the index of the keys
// themselves grows in random places.

var numbersOfRefs = &union{
	name: "numbers of refs", own: 1,
	arm: "SELECT key, n FROM refs WHERE key = unhex(@1)",
}

// columns returns what stands for refs in the indexes, given their keys as keysOf
// makes them, in their order. Refs that have no number get one.
func (t *tx) columns(keys [][]any) ([]any, error) {
	out := make([]any, len(keys))
	if !t.engine.texts().numbered {
		for i, k := range keys {
			out[i] = k[0]
		}
		return out, t.failed
	}
	k := t.known
	var missing [][]any
	for i := range keys {
		key := keys[i][0].(string) // keysOf makes strings
		if n, ok := k.numbers.get(key); ok {
			out[i] = n
		} else {
			missing = append(missing, keys[i])
		}
	}
	if len(missing) == 0 {
		return out, t.failed
	}
	have := make(map[string]int64, len(missing))
	err := numbersOfRefs.fan(&t.reader, missing, nil, func(scan func(...any) error) error {
		var key []byte
		var n int64
		err := scan(&key, &n)
		have[hex.EncodeToString(key)] = n
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the numbers of refs: %w", err)
	}
	if err := t.number(missing, have); err != nil {
		return nil, err
	}
	for i := range keys {
		if out[i] == nil {
			key := keys[i][0].(string)
			out[i] = have[key]
			k.numbers.put(key, have[key])
		}
	}
	return out, nil
}

// number gives a number to those of the keys that have none.
func (t *tx) number(keys [][]any, have map[string]int64) error {
	var rows [][]any
	for _, k := range keys {
		key := k[0].(string)
		if _, ok := have[key]; ok {
			continue
		}
		if t.known.next == 0 {
			if err := t.one("the next number of a ref", "SELECT coalesce(max(n), 0) + 1 FROM refs", nil, &t.known.next); err != nil {
				return err
			}
		}
		bin, err := hex.DecodeString(key)
		if err != nil {
			return fmt.Errorf("the key of a ref: %w", err)
		}
		have[key] = t.known.next
		rows = append(rows, []any{t.known.next, bin})
		t.known.next++
	}
	if err := t.laterRows("INSERT INTO refs (n, key) VALUES", rows); err != nil {
		return fmt.Errorf("numbering refs: %w", err)
	}
	return nil
}

// forgetNumbers deletes the numbers of those refs, by their keys, of which nothing is
// stored any more.
func (t *tx) forgetNumbers(keys []string) error {
	if !t.engine.texts().numbered {
		return t.failed
	}
	for _, key := range keys {
		gone, err := t.put(`DELETE FROM refs WHERE key = unhex($1)
			AND NOT EXISTS (SELECT 1 FROM event_actors WHERE ref = refs.n) AND NOT EXISTS (SELECT 1 FROM signals_within WHERE within = refs.n)
			AND NOT EXISTS (SELECT 1 FROM links WHERE from_ref = refs.n) AND NOT EXISTS (SELECT 1 FROM links WHERE to_ref = refs.n)`, key)
		if err != nil {
			return fmt.Errorf("deleting the number of a ref: %w", err)
		}
		if gone {
			t.known.numbers.drop(key)
		}
	}
	return nil
}
