package strictyaml

import (
	"bytes"
	"cmp"
	"errors"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Syntax says for whoever wrote data at which line, from 1 and 0 where nobody
// knows, it is no YAML, and what to do about it. err is what the YAML library
// said of data; it has no other words than the library's for errors that are
// not about syntax.
func Syntax(data []byte, err error) (line int, reason string) {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return 0, plain(err.Error())
	}
	msg := le.Message
	at := lineAt(data, le.Mark.Line)
	has := func(part string) bool { return strings.Contains(msg, part) }
	switch {
	case has("tab character"), has("spaces and tabs"), has("cannot start any token") && tabIndented(at):
		return le.Mark.Line, "a tab indents this line: YAML wants spaces"
	case has("cannot start any token"):
		if c := charAt(at, le.Mark.Column); c != "" {
			return le.Mark.Line, "a value that begins with " + c + " has to be in quotes"
		}
	case has("unknown anchor"):
		return le.Mark.Line, "a value that begins with * has to be in quotes"
	case has("mapping values are not allowed"):
		return le.Mark.Line, "a colon is not possible here: put a value that has one in quotes, or see whether the line above lacks its own, is indented otherwise or leaves a bracket open"
	case has("could not find expected ':'"):
		// The scanner finds out when the next line begins.
		return cmp.Or(le.ContextMark.Line, le.Mark.Line), "a colon is missing after the key, or the line is indented otherwise than those around it"
	case has("did not find expected key"):
		return le.Mark.Line, "the line is indented otherwise than those around it, or something follows a closing quote or bracket"
	case has("expected '-' indicator"):
		return le.Mark.Line, "a further item of the list is wanted here: its - stands below those above it"
	case has("block sequence entries are not allowed"):
		return le.Mark.Line, "an item of a list is not possible here: begin the list on a line of its own"
	case has("expected ',' or ']'"):
		return cmp.Or(le.ContextMark.Line, le.Mark.Line), "the list that begins with [ in this line is not closed, or lacks a comma"
	case has("expected ',' or '}'"):
		return cmp.Or(le.ContextMark.Line, le.Mark.Line), "the mapping that begins with { in this line is not closed, or lacks a comma"
	case has("unknown escape character"), has("expected hexadecimal number"), has("Unicode character escape code"):
		return le.Mark.Line, `in double quotes \ begins an escape: use single quotes, or write it twice`
	case has("unexpected end of stream") && strings.Contains(le.ContextMsg, "quoted scalar"):
		return cmp.Or(le.ContextMark.Line, le.Mark.Line), "the quote that begins in this line is not closed"
	}
	return le.Mark.Line, plain(msg)
}

// plain takes the library's name off a message.
func plain(msg string) string { return strings.TrimPrefix(msg, "yaml: ") }

// lineAt returns line n of data, from 1, without its end; nil where it has none.
func lineAt(data []byte, n int) []byte {
	for ; n > 1; n-- {
		_, rest, found := bytes.Cut(data, []byte("\n"))
		if !found {
			return nil
		}
		data = rest
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return line
}

// tabIndented reports whether a tab stands before the first of a line's content.
func tabIndented(line []byte) bool {
	return bytes.IndexByte(line[:len(line)-len(bytes.TrimLeft(line, " \t"))], '\t') >= 0
}

// charAt returns the character of a line that begins a value where YAML reserves
// it, "" for any other. Columns are counted from 1.
func charAt(line []byte, column int) string {
	if column < 1 || column > len(line) {
		return ""
	}
	if c := line[column-1]; strings.IndexByte("%@`", c) >= 0 {
		return string(c)
	}
	return ""
}
