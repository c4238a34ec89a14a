package ingest

import (
	"context"
	"time"
)

// Stepper is a tail that looks when the test says.
type Stepper struct{ t *tailer }

// NewStepper loads the position as Tail does.
func NewStepper(ctx context.Context, o TailOptions) (*Stepper, error) {
	t := newTailer(o)
	return &Stepper{t}, t.load(ctx)
}

// Look lets a look's time pass and does everything that there is to do.
func (s *Stepper) Look(ctx context.Context) error {
	s.t.ticks++
	for {
		more, err := s.t.turn(ctx)
		if err != nil || !more {
			return err
		}
	}
}

// Turn does a single round.
func (s *Stepper) Turn(ctx context.Context) (bool, error) { return s.t.turn(ctx) }

// Wait returns how many looks a rotated file is waited for.
func (s *Stepper) Wait() int {
	return int((s.t.o.RotateWait+s.t.o.Every-1)/s.t.o.Every) + 1
}

// Draining reports whether a rotated file is still read.
func (s *Stepper) Draining() bool { return s.t.old != nil }

// Buffer returns the size of the tail's memory.
func (s *Stepper) Buffer() int { return len(s.t.buf) }

// Close closes the files.
func (s *Stepper) Close() { s.t.close() }

// DefaultRotateWait is the wait where none is set.
const DefaultRotateWait = 5 * time.Second
