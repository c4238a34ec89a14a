package staunch

import (
	"context"
	"errors"
	"fmt"
)

// Sentinels for branching; wrap them with what was being done.
var (
	// ErrNotFound says that what was asked for is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that a precondition on the stored state failed.
	ErrConflict = errors.New("conflict")
	// ErrInvalid says that input does not have the shape it must have.
	ErrInvalid = errors.New("invalid")
	// ErrUnauthenticated says that no or no valid credential was shown.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrForbidden says that the principal may not do this.
	ErrForbidden = errors.New("forbidden")
	// ErrOverloaded says that a bounded queue is full; try again later.
	ErrOverloaded = errors.New("overloaded")
	// ErrCommitUnknown says that a commit was sent and its outcome never
	// learned: it may or may not have happened. Read before going on.
	ErrCommitUnknown = errors.New("commit outcome unknown")
)

// Class says what an error from the outside world means for what comes next.
type Class uint8

// The classes of errors from platforms.
const (
	// ClassPermanent: the same call will fail again; do not retry.
	ClassPermanent Class = iota
	// ClassTransient: nothing was changed, and a retry may succeed.
	ClassTransient
	// ClassUnknown: the call may have taken effect. Read before anything else.
	ClassUnknown
	// ClassDenied: the platform refused our credential; a person has to look.
	ClassDenied
)

// String returns the class's name.
func (c Class) String() string {
	switch c {
	case ClassTransient:
		return "transient"
	case ClassUnknown:
		return "outcome-unknown"
	case ClassDenied:
		return "denied"
	default:
		return "permanent"
	}
}

type classed struct {
	class Class
	err   error
}

func (c *classed) Error() string { return c.err.Error() }
func (c *classed) Unwrap() error { return c.err }

// Transient marks err as safe to retry: nothing was changed. nil stays nil.
func Transient(err error) error { return withClass(ClassTransient, err) }

// Permanent marks err as one that a retry will not mend. nil stays nil.
func Permanent(err error) error { return withClass(ClassPermanent, err) }

// OutcomeUnknown marks err as one after which the call may have taken effect.
// nil stays nil.
func OutcomeUnknown(err error) error { return withClass(ClassUnknown, err) }

// Denied marks err as a refusal of our own credential. nil stays nil.
func Denied(err error) error { return withClass(ClassDenied, err) }

func withClass(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{class: c, err: err}
}

// ClassOf returns the class that the outermost mark in err's chain gives.
// An unmarked deadline or cancellation is outcome-unknown, since the call may
// have been sent; any other unmarked error is permanent.
func ClassOf(err error) Class {
	var c *classed
	if errors.As(err, &c) {
		return c.class
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return ClassUnknown
	}
	return ClassPermanent
}

// Problem is an error that names the place in the user's input that it is
// about, so that a person can go there.
type Problem struct {
	// Place is a file:line, a field path or a record number.
	Place string
	// Reason says what is wrong, in lower case without a full stop.
	Reason string
	// Hint says what to do next; may be empty.
	Hint string
}

// Error returns "place: reason".
func (p *Problem) Error() string {
	if p.Place == "" {
		return p.Reason
	}
	return fmt.Sprintf("%s: %s", p.Place, p.Reason)
}

// Unwrap makes every Problem an ErrInvalid.
func (p *Problem) Unwrap() error { return ErrInvalid }
