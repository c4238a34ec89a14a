package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestTerminal writes JSON of hostile text in pieces of every size: nothing that a
// terminal obeys comes out, and it is the same JSON.
func TestTerminal(t *testing.T) {
	t.Parallel()
	hostile := "\x1b]0;owned\x07 \u009b31m \u202egnp.exe \u2066x\u2069 \u200f\u061c \x7f\x00 plain é 日本 😀"
	var line bytes.Buffer
	if err := writeJSONLine(&line, map[string]string{"operation": hostile}); err != nil {
		t.Fatal(err)
	}
	for size := 1; size <= line.Len(); size++ {
		var out bytes.Buffer
		w := &terminal{w: &out}
		for rest := line.Bytes(); len(rest) > 0; {
			n := min(size, len(rest))
			if got, err := w.Write(rest[:n]); got != n || err != nil {
				t.Fatalf("%d, %v", got, err)
			}
			rest = rest[n:]
		}
		if s := out.String(); strings.ContainsFunc(s, obeyed) || !strings.HasSuffix(s, "\n") {
			t.Fatalf("in pieces of %d: %q", size, s)
		}
		var back map[string]string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["operation"] != hostile {
			t.Fatalf("in pieces of %d: %v, %q", size, err, back["operation"])
		}
	}
	var out bytes.Buffer
	w := &terminal{w: &out}
	if _, err := w.Write([]byte("a\x9b\xffb\tc\r\n")); err != nil || out.String() != "a\uFFFD\uFFFDb\tc\r\n" {
		t.Errorf("%v, %q", err, out.String())
	}
	if _, err := (&terminal{w: failing{}}).Write([]byte("x")); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
	if forTerminal(&out) != any(&out) {
		t.Error("what is no terminal is not left alone")
	}
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }
