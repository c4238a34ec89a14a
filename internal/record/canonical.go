package record

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/staunch-project/staunch"
)

const (
	// MaxBody bounds a record's body, in bytes.
	MaxBody = 1 << 20
	// MaxDepth bounds how deep a body's values are nested.
	MaxDepth = 64
)

// Canonical returns the one form of a JSON value that is hashed: no blanks,
// object members sorted by the bytes of their names, strings with the fewest
// escapes, numbers as they were written. Empty input stays empty. The error
// wraps staunch.ErrInvalid where the input is not one JSON value, is longer than
// MaxBody or deeper than MaxDepth, has a name twice in an object, invalid UTF-8
// or half of a surrogate pair: everything that two readers might read in two ways.
func Canonical(raw []byte) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if len(raw) > MaxBody {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", staunch.ErrInvalid, len(raw), MaxBody)
	}
	if !utf8.Valid(raw) {
		return nil, fmt.Errorf("%w: body is not UTF-8", staunch.ErrInvalid)
	}
	if err := checkSurrogates(raw); err != nil {
		return nil, err
	}
	if !json.Valid(raw) {
		// Only the decoder says what is wrong.
		var v json.RawMessage
		err := json.Unmarshal(raw, &v)
		return nil, fmt.Errorf("%w: body: %w", staunch.ErrInvalid, err)
	}
	c := canonical{in: raw, out: make([]byte, 0, len(raw))}
	if err := c.value(0); err != nil {
		return nil, fmt.Errorf("%w: body: %w", staunch.ErrInvalid, err)
	}
	if len(c.out) > MaxBody { // U+2028 grows when it is escaped
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", staunch.ErrInvalid, len(c.out), MaxBody)
	}
	return c.out, nil
}

// canonical rewrites a value that is known to be valid JSON, so that it needs to
// look at no more than each value's first byte.
type canonical struct {
	in  []byte
	out []byte
}

// next skips blanks and returns the byte after them without taking it.
func (c *canonical) next() byte {
	for {
		switch b := c.in[0]; b {
		case ' ', '\t', '\n', '\r':
			c.in = c.in[1:]
		default:
			return b
		}
	}
}

// take skips blanks and takes the byte after them.
func (c *canonical) take() byte {
	b := c.next()
	c.in = c.in[1:]
	return b
}

func (c *canonical) value(depth int) error {
	switch c.next() {
	case '{', '[':
		if depth >= MaxDepth {
			return fmt.Errorf("nested deeper than %d", MaxDepth)
		}
		if c.take() == '[' {
			return c.array(depth + 1)
		}
		return c.object(depth + 1)
	case '"':
		_, err := c.text()
		return err
	default: // a number or a word: to the next blank or mark
		n := bytes.IndexAny(c.in, " \t\n\r,]}")
		if n < 0 {
			n = len(c.in)
		}
		c.out = append(c.out, c.in[:n]...)
		c.in = c.in[n:]
		return nil
	}
}

func (c *canonical) array(depth int) error {
	c.out = append(c.out, '[')
	if c.next() == ']' {
		c.take()
		c.out = append(c.out, ']')
		return nil
	}
	for {
		if err := c.value(depth); err != nil {
			return err
		}
		mark := c.take()
		c.out = append(c.out, mark)
		if mark == ']' {
			return nil
		}
	}
}

// object writes the members in the order in which they come, and sorts what it
// wrote only where that is not the right one.
func (c *canonical) object(depth int) error {
	type member struct {
		name       string
		start, end int // of "name":value in out
	}
	var few [16]member
	members := few[:0]
	sorted := true
	c.out = append(c.out, '{')
	begin := len(c.out)
	for mark := c.next(); mark != '}'; {
		m := member{start: len(c.out)}
		c.next()
		var err error
		if m.name, err = c.text(); err != nil {
			return err
		}
		c.out = append(c.out, c.take()) // the colon
		if err := c.value(depth); err != nil {
			return err
		}
		m.end = len(c.out)
		sorted = sorted && (len(members) == 0 || members[len(members)-1].name < m.name)
		members = append(members, m)
		if mark = c.next(); mark == ',' {
			c.take()
			c.out = append(c.out, ',')
		}
	}
	c.take()
	if !sorted {
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
		written := bytes.Clone(c.out[begin:])
		c.out = c.out[:begin]
		for i, m := range members {
			if i > 0 {
				if m.name == members[i-1].name {
					return fmt.Errorf("name %.100q is there twice", m.name)
				}
				c.out = append(c.out, ',')
			}
			c.out = append(c.out, written[m.start-begin:m.end-begin]...)
		}
	}
	c.out = append(c.out, '}')
	return nil
}

// text rewrites a string and returns what it says.
func (c *canonical) text() (string, error) {
	end, plain := 1, true
	for c.in[end] != '"' {
		switch c.in[end] {
		case '\\':
			plain = false
			end++
		case 0xE2: // begins U+2028 and U+2029, which are escaped
			plain = false
		}
		end++
	}
	raw := c.in[:end+1]
	c.in = c.in[end+1:]
	if plain {
		c.out = append(c.out, raw...)
		return string(raw[1:end]), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return "", err
	}
	c.out = append(c.out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
	return s, nil
}

// checkSurrogates refuses \uD800 to \uDFFF outside of a pair: the decoder would
// read each as U+FFFD, so that two unlike bodies had one hash. In valid JSON a
// backslash stands in strings only; what is not valid is found later.
func checkSurrogates(raw []byte) error {
	unit := func(i int) (uint64, bool) {
		if i+6 > len(raw) || raw[i] != '\\' || raw[i+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(raw[i+2:i+6]), 16, 16)
		return n, err == nil
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		u, ok := unit(i)
		if !ok || u < 0xD800 || u > 0xDFFF {
			i++ // the escaped byte, which may be a backslash
			continue
		}
		low, ok := unit(i + 6)
		if u >= 0xDC00 || !ok || low < 0xDC00 || low > 0xDFFF {
			return fmt.Errorf("%w: body has half of a surrogate pair at byte %d", staunch.ErrInvalid, i)
		}
		i += 11
	}
	return nil
}
