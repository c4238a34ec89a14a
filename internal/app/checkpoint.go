package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/notify"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// checkpoints is what a node knows of the checkpoints that it signs. Each is
// checked against the one before, so that a log that was cut or written anew
// between two is found by itself, and nothing is signed over it.
type checkpoints struct {
	// making is held while one is made: the log is read once, not twice.
	making sync.Mutex
	last   *record.Checkpoint
	looked bool // at the file
	told   staunch.Time

	mu sync.Mutex
	// at is when the newest was signed, failed why none could be signed since.
	at     staunch.Time
	failed error
	// unlogged is since when none was taken by the transparency log, 0 for the
	// newest was, and notLogged why.
	unlogged  staunch.Time
	notLogged error
}

// tellAgain is how often people are told of a log that was changed.
const tellAgain = time.Hour

// logAgain is how soon another checkpoint is signed after one that the
// transparency log did not take.
const logAgain = 5 * time.Minute

// channelTimeout bounds how long it takes to have a checkpoint in the outbox.
const channelTimeout = 15 * time.Second

// logOf returns what checks the configured transparency log, nil for none.
func logOf(cfg *config.Config) *record.TransparencyLog {
	if t := cfg.Audit.TransparencyLog; t != nil {
		return t.Log()
	}
	return nil
}

// checkpoint signs a checkpoint and takes it to the configured transparency log,
// file and channel. Where only the first did not take it, it is returned all the
// same, and the error wraps record.ErrNotLogged.
func (a *App) checkpoint(ctx context.Context) (record.Checkpoint, error) {
	c := &a.checkpoints
	c.making.Lock()
	defer c.making.Unlock()
	cp, err := a.makeCheckpoint(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case errors.Is(err, record.ErrNotLogged):
		c.at, c.failed, c.notLogged = cp.At, nil, err
		if c.unlogged == 0 {
			c.unlogged = cp.At
		}
	case err == nil:
		c.at, c.failed, c.unlogged, c.notLogged = cp.At, nil, 0, nil
	default:
		c.failed = err
	}
	return cp, err
}

func (a *App) makeCheckpoint(ctx context.Context) (record.Checkpoint, error) {
	c := &a.checkpoints
	file := a.cfg.Audit.CheckpointFile
	if file != "" && !c.looked {
		last, err := lastCheckpoint(file, a.chain)
		if err != nil {
			return record.Checkpoint{}, err
		}
		c.last, c.looked = last, true
	}
	log := record.Log{Store: a.store, Chain: a.chain}
	cp, _, err := log.Checkpoint(ctx, a.opt.Clock.Now(), c.last)
	if errors.Is(err, record.ErrBroken) {
		return record.Checkpoint{}, errors.Join(err, a.tellLogChanged(ctx, err))
	}
	if err != nil {
		return record.Checkpoint{}, err
	}
	var notLogged error
	if a.rekor != nil {
		if cp.Logged, _, err = a.rekor.Add(ctx, a.chain, cp); err != nil {
			// Whatever is wrong with the log, the file and the channel get theirs.
			notLogged = fmt.Errorf("%w: %w", record.ErrNotLogged, err)
		}
	}
	if file != "" {
		if err := appendCheckpoint(file, cp); err != nil {
			return record.Checkpoint{}, err
		}
	}
	if name := a.cfg.Audit.CheckpointChannel; name != "" {
		n, err := notify.CheckpointNotice(name, cp)
		// The log may have taken all the time that the caller had.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), channelTimeout)
		defer cancel()
		if err == nil {
			err = a.put(ctx, n)
		}
		if err != nil {
			return record.Checkpoint{}, fmt.Errorf("sending a checkpoint to %s: %w", name, err)
		}
	}
	c.last = &cp
	return cp, notLogged
}

// put puts notices in the outbox and has it looked at.
func (a *App) put(ctx context.Context, notices ...store.Notice) error {
	return a.store.Update(ctx, func(tx store.Tx) error {
		for _, n := range notices {
			if err := tx.PutNotice(n); err != nil {
				return err
			}
		}
		tx.OnCommit(a.notify.Wake)
		return nil
	})
}

// tellLogChanged tells people, now and then.
func (a *App) tellLogChanged(ctx context.Context, why error) error {
	c := &a.checkpoints
	now := staunch.TimeOf(a.opt.Clock.Now())
	if c.told != 0 && now.Sub(c.told) < tellAgain {
		return nil
	}
	if err := a.put(ctx, a.teller().LogChanged(why.Error(), now)...); err != nil {
		return fmt.Errorf("telling people that the log was changed: %w", err)
	}
	c.told = now
	return nil
}

// firstCheckpoint is how long after the start the first one may be signed, so
// that a start is not held up by reading the log.
const firstCheckpoint = 30 * time.Second

// untilCheckpoint is how long after the start the first one is due, so that a node
// that is often restarted goes on where it was. last is 0 where there was none.
func untilCheckpoint(every time.Duration, last staunch.Time, now time.Time) time.Duration {
	if last == 0 {
		return firstCheckpoint
	}
	return min(max(every-now.Sub(last.Std()), firstCheckpoint), every)
}

// afterCheckpoint is how long after one the next is due, err being what became of
// it.
func afterCheckpoint(every time.Duration, err error) time.Duration {
	if errors.Is(err, record.ErrNotLogged) {
		return min(every, logAgain)
	}
	return every
}

// keepCheckpoints signs a checkpoint every so often until ctx ends.
func (a *App) keepCheckpoints(ctx context.Context) {
	every := a.cfg.Audit.CheckpointEvery.Std()
	var last staunch.Time
	due := every
	if cp, err := lastCheckpoint(a.cfg.Audit.CheckpointFile, a.chain); err == nil && cp != nil {
		last = cp.At
		if a.rekor != nil && cp.Logged == nil {
			due = afterCheckpoint(every, record.ErrNotLogged)
		}
		a.checkpoints.mu.Lock()
		a.checkpoints.at = last
		a.checkpoints.mu.Unlock()
	}
	t := time.NewTimer(untilCheckpoint(due, last, a.opt.Clock.Now()))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		_, err := a.checkpoint(ctx)
		if err != nil && ctx.Err() == nil {
			a.opt.Log.Error("signing a checkpoint of the record log", "error", err)
		}
		t.Reset(afterCheckpoint(every, err))
	}
}

// checkCheckpoints is what doctor says of them.
func (a *App) checkCheckpoints() []connector.Finding {
	c := &a.checkpoints
	c.mu.Lock()
	defer c.mu.Unlock()
	every := a.cfg.Audit.CheckpointEvery.Std()
	switch age := a.opt.Clock.Now().Sub(c.at.Std()).Round(time.Second); {
	case errors.Is(c.failed, record.ErrBroken):
		return []connector.Finding{{Severity: "error", Message: c.failed.Error(), Hint: "staunch audit verify, and an earlier export or checkpoint, say where"}}
	case c.failed != nil:
		return []connector.Finding{{Severity: "error", Message: "none could be signed: " + c.failed.Error()}}
	case every > 0 && c.at != 0 && age > 2*every:
		return []connector.Finding{{Severity: "warning", Message: fmt.Sprintf("the newest is %s old, and one is due every %s", age, every)}}
	case c.notLogged != nil:
		return []connector.Finding{{
			Severity: "error", Message: fmt.Sprintf("none was logged since %s: %v", c.unlogged, c.notLogged),
			Hint: "they are signed and kept all the same; see audit.transparency_log",
		}}
	}
	return nil
}

// lastCheckpoint returns the newest checkpoint of a file that was signed with
// the chain's key, nil where there is none. A line that was torn by a crash is
// passed over.
func lastCheckpoint(path string, chain *record.Chain) (*record.Checkpoint, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoints: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoints: %w", err)
	}
	// Two lines of any length, the last of which may be torn.
	tail := make([]byte, min(size, 2*record.MaxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("reading the checkpoints: %w", err)
	}
	lines := bytes.Split(tail, []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		var cp record.Checkpoint
		if json.Unmarshal(lines[i], &cp) == nil && cp.Verify(chain.PublicKey()) == nil {
			return &cp, nil
		}
	}
	return nil, nil
}

// appendCheckpoint adds a line to the file and returns once it is durable.
func appendCheckpoint(path string, cp record.Checkpoint) (err error) {
	fail := func(err error) error { return fmt.Errorf("writing the checkpoint to %s: %w", path, err) }
	line, err := json.Marshal(cp)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	_, err = os.Stat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fail(cerr)
		}
	}()
	// A line that a crash has torn gets its end, so that ours is a line.
	if size, err := f.Seek(0, io.SeekEnd); err != nil {
		return fail(err)
	} else if size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return fail(err)
		}
		if last[0] != '\n' {
			line = append([]byte("\n"), line...)
		}
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if !isNew {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fail(err)
	}
	return nil
}
