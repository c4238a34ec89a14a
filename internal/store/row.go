package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/staunch-project/staunch"
)

// Chainer computes the keyed hash of a record that follows the one whose hash
// is prev; prev is "" for a lane's first. V, Lane, Seq and Prev are set when it
// is called, Hash is not. It must be safe for concurrent use.
type Chainer interface {
	Hash(prev string, r staunch.Record) (string, error)
}

// Limits of what goes into key columns and bodies; the same in every
// implementation, so that what one keeps all of them keep.
const (
	MaxKey  = 2500     // PostgreSQL indexes no more
	MaxBody = 64 << 20 // far above what a bounded input makes
)

// CheckKey refuses a key that one of the databases could not keep.
func CheckKey(s string) error {
	if len(s) > MaxKey {
		return fmt.Errorf("%w: a key of %d bytes, at most %d", staunch.ErrInvalid, len(s), MaxKey)
	}
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%w: a key that is not UTF-8 text without NUL: %q", staunch.ErrInvalid, s)
	}
	return nil
}

// CheckBody refuses a value that is too large.
func CheckBody(b []byte) error {
	if len(b) > MaxBody {
		return fmt.Errorf("%w: a value of %d bytes, at most %d", staunch.ErrInvalid, len(b), MaxBody)
	}
	return nil
}

// Encode makes a body. Unlike json.Marshal it leaves <, > and & alone, so that
// raw parts come back as they were put.
func Encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: encoding a %T: %w", staunch.ErrInvalid, v, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads a body and refuses a version that this release does not know.
func Decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decoding a %T: %w", v, err)
	}
	version := 0
	switch x := v.(type) {
	case *staunch.Event:
		version = x.V
	case *staunch.Fact:
		version = x.V
	case *staunch.Identity:
		version = x.V
	case *staunch.Signal:
		version = x.V
	case *staunch.Decision:
		version = x.V
	case *staunch.Containment:
		version = x.V
	case *staunch.Plan:
		version = x.V
	case *staunch.Step:
		version = x.V
	case *staunch.Hold:
		version = x.V
	case *staunch.RuleTrust:
		version = x.V
	case *staunch.TrustEvent:
		version = x.V
	case *staunch.Drill:
		version = x.V
	}
	if version > staunch.Version {
		return fmt.Errorf("%w: a %T of version %d, this release knows %d", staunch.ErrInvalid, v, version, staunch.Version)
	}
	return nil
}
