package ocsf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds on an event: bytes of JSON, and objects and arrays within each other.
const (
	maxEvent = 16 << 20
	maxDepth = 100
)

// decodeEvent decodes one JSON value strictly: valid UTF-8, nothing after the
// value, and no key twice in an object, since readers differ on which one wins.
// The path tells where in the event an error is. Numbers stay as written.
func decodeEvent(event []byte) (value any, path string, err error) {
	if len(event) > maxEvent {
		return nil, "", fmt.Errorf("event of %d bytes is over the limit of %d", len(event), maxEvent)
	}
	if !utf8.Valid(event) {
		return nil, "", errors.New("event is not valid UTF-8")
	}
	d := &decoder{json.NewDecoder(bytes.NewReader(event))}
	d.UseNumber()
	value, path, err = d.value("", 0)
	if err != nil {
		return nil, path, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, "", errors.New("more data follows the event")
	}
	return value, "", nil
}

type decoder struct{ *json.Decoder }

func (d *decoder) value(path string, depth int) (any, string, error) {
	if depth > maxDepth {
		return nil, path, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	tok, err := d.Token()
	if err != nil {
		return nil, path, decodeError(err)
	}
	switch tok {
	case json.Delim('{'):
		return d.object(path, depth)
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, at, err := d.value(fmt.Sprintf("%s[%d]", path, len(list)), depth+1)
			if err != nil {
				return nil, at, err
			}
			list = append(list, v)
		}
		if _, err := d.Token(); err != nil {
			return nil, path, decodeError(err)
		}
		return list, "", nil
	}
	return tok, "", nil
}

func (d *decoder) object(path string, depth int) (any, string, error) {
	obj := map[string]any{}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return nil, path, decodeError(err)
		}
		key, ok := tok.(string)
		if !ok {
			return nil, path, fmt.Errorf("object key %v is no string", tok)
		}
		at := join(path, key)
		if _, dup := obj[key]; dup {
			return nil, at, errors.New("key appears twice in the object")
		}
		v, at, err := d.value(at, depth+1)
		if err != nil {
			return nil, at, err
		}
		obj[key] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, path, decodeError(err)
	}
	return obj, "", nil
}

func decodeError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("decoding event: %w", err)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return strings.Join([]string{path, name}, ".")
}
