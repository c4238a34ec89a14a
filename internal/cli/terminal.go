package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-isatty"
)

// forTerminal returns w, or where a person looks at it a writer that shows what a
// terminal would obey. Tables are cleaned cell by cell; JSON, reports and logs have
// in them what others wrote as well, and go elsewhere byte for byte.
func forTerminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		return &terminal{w: w}
	}
	return w
}

// terminal writes control characters, and marks that turn the reading direction, as
// \u and four hex digits, which in JSON is the same text. It is safe for concurrent
// use: logs and what commands say share one.
type terminal struct {
	w  io.Writer
	mu sync.Mutex
	// begun is the beginning of a character that the next write goes on with.
	begun []byte
	out   bytes.Buffer
}

// Write writes all of p but the beginning of a character at its end.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in := p
	if len(t.begun) > 0 {
		in = slices.Concat(t.begun, p)
		t.begun = nil
	}
	t.out.Reset()
	for len(in) > 0 {
		if !utf8.FullRune(in) {
			t.begun = bytes.Clone(in)
			break
		}
		r, size := utf8.DecodeRune(in)
		if obeyed(r) {
			fmt.Fprintf(&t.out, "\\u%04x", r)
		} else {
			t.out.WriteRune(r) // what is not UTF-8 is shown as U+FFFD
		}
		in = in[size:]
	}
	if _, err := t.w.Write(t.out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// obeyed reports whether a terminal does something at a character other than show it
// and go on.
func obeyed(r rune) bool {
	switch r {
	case '\n', '\r', '\t':
		return false
	}
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
}
