package record

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// LogStore is the part of a store.Store that a Log needs; of the Reader it calls
// Heads and Records alone.
type LogStore interface {
	View(ctx context.Context, fn func(store.Reader) error) error
}

// Log reads a store's log, a page at a time, so that no snapshot stays open
// however long the log is. It is safe for concurrent use.
type Log struct {
	Store LogStore
	Chain *Chain
}

// logPage is how many records are read in one transaction.
const logPage = 500

// Heads returns the ends of all lanes that have a record.
func (l Log) Heads(ctx context.Context) ([]Head, error) {
	var heads []Head
	err := l.Store.View(ctx, func(r store.Reader) (err error) {
		heads, err = HeadsOf(r)
		return err
	})
	return heads, err
}

// HeadsOf returns the ends of all lanes that have a record, from a snapshot.
func HeadsOf(r store.Reader) ([]Head, error) {
	all, err := r.Heads()
	if err != nil {
		return nil, fmt.Errorf("reading the ends of the log: %w", err)
	}
	heads := make([]Head, 0, len(all))
	for _, h := range all {
		if h.Seq > 0 {
			heads = append(heads, Head{Lane: h.Lane, Seq: h.Seq, Hash: h.Hash})
		}
	}
	return heads, nil
}

// Records yields every lane's records up to its head.
func (l Log) Records(ctx context.Context, heads []Head) iter.Seq2[staunch.Record, error] {
	return l.records(ctx, heads, nil)
}

// records is Records, for the lanes in from beginning with the record of that
// number.
func (l Log) records(ctx context.Context, heads []Head, from map[string]int64) iter.Seq2[staunch.Record, error] {
	return func(yield func(staunch.Record, error) bool) {
		for _, h := range heads {
			for after := max(from[h.Lane]-1, 0); after < h.Seq; {
				var page []staunch.Record
				err := l.Store.View(ctx, func(r store.Reader) (err error) {
					page, err = r.Records(h.Lane, after, logPage)
					return err
				})
				if err != nil {
					yield(staunch.Record{}, fmt.Errorf("reading lane %s after %d: %w", h.Lane, after, err))
					return
				}
				if len(page) == 0 {
					break // the verifier says that the lane ends too early
				}
				for _, r := range page {
					if r.Seq > h.Seq {
						break
					}
					if !yield(r, nil) {
						return
					}
				}
				last := page[len(page)-1].Seq
				if last <= after {
					yield(staunch.Record{}, fmt.Errorf("lane %s does not go on after %d", h.Lane, after))
					return
				}
				after = last
			}
		}
	}
}

// Verify checks every lane from its first record up to the head that the store
// names now; a lane that ends before its head was cut. What past saw, where it is
// given, must still be there. What was changed stands in the report; the error is
// NewVerifier's or the store's.
func (l Log) Verify(ctx context.Context, past *Checkpoint) (Report, error) {
	return l.verify(ctx, past, false)
}

// verify checks the lanes; with resume from past's heads on.
func (l Log) verify(ctx context.Context, past *Checkpoint, resume bool) (Report, error) {
	v, err := NewVerifier(l.Chain, nil, past)
	if err != nil {
		return Report{}, err
	}
	heads, err := l.Heads(ctx)
	if err != nil {
		return Report{}, err
	}
	if past != nil && resume {
		v.resume(past.Heads)
	}
	v.mark(heads...)
	if past != nil {
		v.mark(past.Heads...) // where the two differ, the signed one counts
	}
	for r, err := range l.records(ctx, heads, v.from) {
		if err != nil {
			return Report{}, err
		}
		if err := v.Add(r); err != nil {
			return Report{}, err
		}
	}
	return v.Finish(), nil
}

// Checkpoint signs the heads of the log as it stands, after it has found whole
// what came since past, a checkpoint of the same chain, and that what past saw
// is still there; without past it reads the log from its beginning. The error
// wraps ErrBroken, with the report beside it, where the log was changed: nothing
// is signed then.
func (l Log) Checkpoint(ctx context.Context, at time.Time, past *Checkpoint) (Checkpoint, Report, error) {
	rep, err := l.verify(ctx, past, true)
	if err != nil {
		return Checkpoint{}, rep, err
	}
	if err := rep.Err(); err != nil {
		return Checkpoint{}, rep, err
	}
	cp, err := l.Chain.Checkpoint(at, rep.Heads)
	return cp, rep, err
}
