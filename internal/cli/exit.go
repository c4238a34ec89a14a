package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/record"
)

// The exit codes.
const (
	// ExitOK: done.
	ExitOK = 0
	// ExitFailure: it did not work, for a reason that no other code has.
	ExitFailure = 1
	// ExitUsage: the command line is wrong; nothing was done.
	ExitUsage = 2
	// ExitBad: the command did its work, and found that some of what it was given
	// is bad.
	ExitBad = 3
	// ExitNotFound: there is no such thing.
	ExitNotFound = 4
	// ExitDenied: no valid token, or one that may not.
	ExitDenied = 5
	// ExitConflict: something stands against it as things are.
	ExitConflict = 6
	// ExitUnavailable: no answer, or none for now.
	ExitUnavailable = 7
)

// ExitCode is one row of the table of exit codes.
type ExitCode struct {
	Code  int
	Name  string
	Means string
}

// ExitCodes returns the table that the documentation prints.
func ExitCodes() []ExitCode {
	return []ExitCode{
		{ExitOK, "ok", "The command did what it was asked to."},
		{ExitFailure, "failure", "It did not work, for a reason that no other code has; the error says which."},
		{ExitUsage, "usage", "The command line is wrong: an unknown command or flag, a missing argument, a value that cannot be. Nothing was done."},
		{ExitBad, "bad input", "The command did its work and found that some of what it looked at is not as it must be: records that were rejected, a configuration, rule or policy that is not valid, a rule or policy test that failed, a record log that was changed, a plan file that was edited or is another server's, a check of doctor that failed."},
		{ExitNotFound, "not found", "There is no containment, token, event or breaker of that name."},
		{ExitDenied, "denied", "The server wants a token and got none that is valid, or the token may not do this (HTTP 401 and 403)."},
		{ExitConflict, "conflict", "It cannot be done as things stand: the case is in another phase, a release would bring a stolen secret back to life and nobody confirmed that, a plan file does not hold any more, the answer to a question was no (HTTP 409)."},
		{ExitUnavailable, "unavailable", "No server answered, or it or a platform cannot do this for now: try again (HTTP 429, 502, 503)."},
	}
}

// exitError is an error with an exit code of its own and a hint.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef is an error in the command line.
func usagef(format string, args ...any) error {
	return &exitError{code: ExitUsage, err: fmt.Errorf(format, args...)}
}

// bad says that something that was looked at is not as it must be.
func bad(format string, args ...any) error {
	return &exitError{code: ExitBad, err: fmt.Errorf(format, args...)}
}

// exitCode returns the code for err.
func exitCode(err error) int {
	var ee *exitError
	var ce *client.Error
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &ee):
		return ee.code
	case errors.As(err, &ce):
		switch ce.Code {
		case api.CodeOverloaded, api.CodeTimeout, api.CodeCommitUnknown, api.CodeUnavailable, api.CodePlatformUnavailable, api.CodePlatformDenied:
			return ExitUnavailable
		}
	}
	switch {
	case errors.Is(err, client.ErrUnreachable):
		return ExitUnavailable
	case errors.Is(err, staunch.ErrUnauthenticated), errors.Is(err, staunch.ErrForbidden):
		return ExitDenied
	case errors.Is(err, staunch.ErrNotFound):
		return ExitNotFound
	case errors.Is(err, staunch.ErrConflict):
		return ExitConflict
	case errors.Is(err, record.ErrBroken), errors.Is(err, record.ErrSignature), errors.Is(err, record.ErrWrongKey), errors.Is(err, staunch.ErrInvalid),
		errors.Is(err, offline.ErrBadRecords), errors.Is(err, errTestsFailed), errors.Is(err, errRulesRefused):
		return ExitBad
	case errors.Is(err, staunch.ErrOverloaded), errors.Is(err, staunch.ErrCommitUnknown), errors.Is(err, context.DeadlineExceeded):
		return ExitUnavailable
	}
	return ExitFailure
}

// tell prints err for people: what failed, each further place, and a hint.
func (g *globals) tell(err error) {
	text := err.Error()
	hint := ""
	var ee *exitError
	var ce *client.Error
	var sp *staunch.Problem
	_, _ = errors.As(err, &ee), errors.As(err, &ce)
	switch {
	case ee != nil && ee.hint != "":
		hint = ee.hint
	case ce != nil:
		hint = ce.Hint
	case errors.As(err, &sp):
		hint = sp.Hint
	case errors.Is(err, client.ErrUnreachable):
		hint = "is staunch running, and is this its URL? See --url and STAUNCH_URL"
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) {
			hint = "the server's certificate is not trusted here: --ca-file or STAUNCH_CA_FILE names what to trust in place of the system's"
		}
	}
	if errors.Is(err, staunch.ErrUnauthenticated) { // the server's hint is for programs
		hint = "give a valid token with --token-file, --token or STAUNCH_TOKEN"
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		if i == 0 {
			g.errf("error: %s\n", clean(l))
		} else {
			g.errf("       %s\n", clean(l))
		}
	}
	if ce != nil {
		for _, f := range ce.Problems {
			g.errf("       %s: %s\n", clean(f.Place), clean(f.Message))
		}
		for _, r := range ce.Revives {
			g.errf("       would work again: %s\n", clean(r))
		}
		if ce.Status >= 500 && ce.RequestID != "" {
			g.errf("       request %s\n", clean(ce.RequestID))
		}
	}
	if hint != "" {
		g.errf("hint: %s\n", clean(hint))
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
