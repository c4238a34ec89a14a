// Command testsum reads the output of go test -json on standard input and
// prints what a person wants of it: go test's own line for each package, the
// whole output of what failed, and at the end every skipped test with its
// reason, so that nothing is skipped silently.
//
// It exits with 1 when a test or package failed, when a skipped test gave no
// reason or one that -forbid matches, or when no test ran at all.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// keepLines bounds what is kept of one test's output.
const keepLines = 2000

func main() {
	forbid := flag.String("forbid", "", "a regular expression: skipped tests whose reason matches are failures")
	flag.Parse()
	ok, err := run(os.Stdin, os.Stdout, *forbid)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testsum: %v\n", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
}

type key struct{ pkg, test string }

type skip struct {
	key
	reason string
}

type summary struct {
	out            io.Writer
	forbid         *regexp.Regexp
	output         map[key][]string
	passed, failed int
	skips          []skip
	failedPackages []string
	failedTests    []string
}

func run(in io.Reader, out io.Writer, forbid string) (bool, error) {
	s := &summary{out: out, output: map[key][]string{}}
	if forbid != "" {
		re, err := regexp.Compile(forbid)
		if err != nil {
			return false, fmt.Errorf("reading -forbid: %w", err)
		}
		s.forbid = re
	}
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadString('\n')
		if line != "" {
			s.line(line)
		}
		if errors.Is(err, io.EOF) {
			return s.close(), nil
		}
		if err != nil {
			return false, fmt.Errorf("reading go test's output: %w", err)
		}
	}
}

func (s *summary) line(line string) {
	var e event
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Action == "" {
		s.print(line) // what the go command says beside its JSON
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "output", "build-output":
		if e.Action == "build-output" {
			s.print(e.Output)
			return
		}
		if e.Test == "" && packageLine(e.Output) {
			s.print(e.Output)
			return
		}
		if len(s.output[k]) < keepLines {
			s.output[k] = append(s.output[k], e.Output)
		}
	case "pass":
		if e.Test != "" {
			s.passed++
		}
		delete(s.output, k)
	case "fail":
		if e.Test == "" {
			s.failedPackages = append(s.failedPackages, e.Package)
			if !slices.ContainsFunc(s.failedTests, func(name string) bool { return strings.HasPrefix(name, e.Package+" ") }) {
				s.failed++ // it does not compile, or its TestMain failed
			}
		} else {
			s.failed++
			s.failedTests = append(s.failedTests, e.Package+" "+e.Test)
		}
		s.print(strings.Join(s.output[k], ""))
		delete(s.output, k)
	case "skip":
		if e.Test != "" { // a package without tests is skipped too
			s.skips = append(s.skips, skip{k, reason(s.output[k])})
		}
		delete(s.output, k)
	}
}

// packageLine says whether go test prints a line like this to close a package.
func packageLine(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t")
}

// reason finds what a test said when it was skipped in its output: the lines
// that t.Skip logged, which begin with a file and a line number.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		text := strings.TrimSpace(line)
		switch {
		case text == "", strings.HasPrefix(text, "=== "), strings.HasPrefix(text, "--- "):
		default:
			if m := location.FindString(text); m != "" {
				text = text[len(m):]
			}
			said = append(said, text)
		}
	}
	return strings.Join(said, " ")
}

var location = regexp.MustCompile(`^[\w.-]+\.go:\d+: ?`)

func (s *summary) close() bool {
	// Tests that never ended, as after a panic or a timeout.
	var open []key
	for k := range s.output {
		if k.test != "" {
			open = append(open, k)
		}
	}
	slices.SortFunc(open, func(a, b key) int { return strings.Compare(a.pkg+" "+a.test, b.pkg+" "+b.test) })
	for _, k := range open {
		s.print(strings.Join(s.output[k], ""))
		s.failed++
		s.failedTests = append(s.failedTests, k.pkg+" "+k.test+" (did not end)")
	}

	ok := s.failed == 0 && len(s.failedPackages) == 0
	if len(s.skips) > 0 {
		s.print("\nSkipped tests, with their reasons:\n")
		byReason := map[string][]string{}
		for _, k := range s.skips {
			byReason[k.reason] = append(byReason[k.reason], k.pkg+" "+k.test)
		}
		var reasons []string
		for r := range byReason {
			reasons = append(reasons, r)
		}
		slices.Sort(reasons)
		for _, r := range reasons {
			switch {
			case r == "":
				ok = false
				s.print("  FAIL: no reason given\n")
			case s.forbid != nil && s.forbid.MatchString(r):
				ok = false
				s.print("  FAIL: must not be skipped here: " + r + "\n")
			default:
				s.print("  " + r + "\n")
			}
			for _, name := range byReason[r] {
				s.print("      " + name + "\n")
			}
		}
	}
	if len(s.failedTests)+len(s.failedPackages) > 0 {
		s.print("\nFailed:\n")
		for _, name := range slices.Concat(s.failedTests, s.failedPackages) {
			s.print("  " + name + "\n")
		}
	}
	if s.passed+s.failed == 0 && len(s.failedPackages) == 0 {
		ok = false
		s.print("\nNo test ran.\n")
	}
	s.print(fmt.Sprintf("\n%d passed, %d failed, %d skipped\n", s.passed, s.failed, len(s.skips)))
	return ok
}

func (s *summary) print(text string) { _, _ = io.WriteString(s.out, text) }
