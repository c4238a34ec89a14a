package store

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/staunch-project/staunch"
)

// ReadCursor decodes a cursor's value from JSON; ok is false where there is none.
func ReadCursor[T any](r interface {
	Cursor(name string) (string, error)
}, name string) (v T, ok bool, err error) {
	text, err := r.Cursor(name)
	if errors.Is(err, staunch.ErrNotFound) || err == nil && text == "" {
		return v, false, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &v)
	}
	if err != nil {
		return v, false, fmt.Errorf("reading cursor %s: %w", name, err)
	}
	return v, true, nil
}

// WriteCursor puts a value that ReadCursor reads.
func WriteCursor(tx interface {
	PutCursor(name, value string) error
}, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding cursor %s: %w", name, err)
	}
	return tx.PutCursor(name, string(b))
}
