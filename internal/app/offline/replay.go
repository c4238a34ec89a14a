package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/inventory"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
)

// clock is the simulated clock: it stands at the time of the record in hand.
type clock struct{ at atomic.Int64 }

func (c *clock) Now() time.Time      { return staunch.Time(c.at.Load()).Std() }
func (c *clock) set(at staunch.Time) { c.at.Store(int64(at)) }

// silent seals nothing and holds nothing: a replay touches nothing outside.
type silent struct{}

func (silent) Seal(_ string, plain []byte) ([]byte, error)  { return plain, nil }
func (silent) Unseal(_ string, blob []byte) ([]byte, error) { return blob, nil }
func (silent) Apply(staunch.Hold)                           {}

type lineage struct{ inv *inventory.Inventory }

func (l lineage) Resolve(r store.Reader, ref staunch.Ref, at staunch.Time) (staunch.Resolution, error) {
	return l.inv.Resolve(r, ref, at)
}

func (l lineage) Derived(r store.Reader, roots []staunch.Ref, since staunch.Time, limit int) ([]staunch.Ref, bool, error) {
	return l.inv.Derived(r, roots, since, limit)
}

// bench is a pipeline on a throw-away store with a simulated clock.
type bench struct {
	dir    string
	clock  *clock
	store  *sqlstore.SQLite
	engine *contain.Engine
	pipe   *pipeline.Pipeline
	// signals and decisions are of the record in hand.
	signals   []staunch.Signal
	decisions []staunch.Decision
	// windows say how correlations stand; only for explanations.
	windows []correlate.Judged
}

func newBench(ctx context.Context, s *app.Setup, mode staunch.Mode, trust []staunch.RuleTrust, explain bool) (_ *bench, err error) {
	b := &bench{clock: &clock{}}
	var windows func(correlate.Judged)
	if explain {
		windows = func(j correlate.Judged) { b.windows = append(b.windows, j) }
	}
	if b.dir, err = os.MkdirTemp("", "staunch-replay-"); err != nil {
		return nil, fmt.Errorf("making a folder for the replay: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	chain, err := record.NewChain(bytes.Repeat([]byte{1}, 32)) // nothing of it is kept
	if err != nil {
		return nil, err
	}
	if b.store, err = sqlstore.OpenSQLite(ctx, filepath.Join(b.dir, "replay.db"), sqlstore.Options{Chain: chain, Clock: b.clock, Node: "replay", Ephemeral: true}); err != nil {
		return nil, err
	}
	inv := inventory.New(inventory.Limits{})
	if b.engine, err = contain.New(contain.Options{
		Store: b.store, Sealer: silent{}, Guard: silent{}, Lineage: lineage{inv}, Clock: b.clock, Node: "replay",
	}); err != nil {
		return nil, err
	}
	platforms := map[string]string{}
	for _, r := range s.Config.Realms {
		platforms[r.Name] = r.Platform
	}
	if b.pipe, err = pipeline.New(pipeline.Options{
		Store: b.store, Inventory: inv, Cases: b.engine, Clock: b.clock, Guardrails: s.Guardrails, Mode: mode,
		Params: app.Params(s.Config),
		PlatformOf: func(realm string) (string, staunch.Mode) {
			return platforms[realm], staunch.ModeEnforce
		},
		EveryDecision:  true,
		Observe:        func(d staunch.Decision) { b.decisions = append(b.decisions, d) },
		ObserveSignals: func(ss []staunch.Signal) { b.signals = append(b.signals, ss...) },
		ObserveWindows: windows,
	}, s.Bundle); err != nil {
		return nil, err
	}
	return b, b.store.Update(ctx, func(tx store.Tx) error {
		for _, t := range trust {
			if err := tx.PutTrust(t); err != nil {
				return err
			}
		}
		_, err := inventory.Sync(tx, s.Identities)
		return err
	})
}

func (b *bench) close() error {
	var err error
	if b.store != nil {
		err = b.store.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// feed takes one record at its own time.
func (b *bench) feed(ctx context.Context, src *pipeline.Source, at staunch.Time, raw []byte) (pipeline.Report, error) {
	b.clock.set(at)
	b.signals, b.decisions, b.windows = b.signals[:0], b.decisions[:0], b.windows[:0]
	// Windows that have settled by now come before what the record causes.
	if err := b.pipe.Settle(ctx); err != nil {
		return pipeline.Report{}, err
	}
	return b.pipe.Ingest(ctx, src, bytes.NewReader(raw), "")
}

// entry is one recorded event, in the order in which it is replayed.
type entry struct {
	at     staunch.Time
	id     string
	raw    []byte
	file   int
	number int
}

// ReplayOptions say what is replayed.
type ReplayOptions struct {
	Source *pipeline.Source
	// Files are paths; "-" is In.
	Files []string
	In    io.Reader
	Mode  staunch.Mode
	// Trust is how far rules are trusted beside their files.
	Trust []staunch.RuleTrust
	// MostBytes bounds the memory that the recorded events may take, since they
	// have to be put in order; 0 gives 4 GiB.
	MostBytes int64
	// Progress, when given, is told of files read and events replayed.
	Progress func(format string, args ...any)
}

// Line is one line of a replay's output. Type says which of the others is set.
type Line struct {
	V    int    `json:"v"`
	Type string `json:"type"`
	// Refs has every ref of the subject.
	Refs        []staunch.Ref        `json:"refs,omitempty"`
	Signal      *staunch.Signal      `json:"signal,omitempty"`
	Decision    *staunch.Decision    `json:"decision,omitempty"`
	Containment *staunch.Containment `json:"containment,omitempty"`
	Summary     *Summary             `json:"summary,omitempty"`
	// File, Record and Error are of a record that could not be replayed.
	File   string `json:"file,omitempty"`
	Record int    `json:"record,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Summary is the last line of a replay.
type Summary struct {
	Records      int          `json:"records"`
	Rejected     int          `json:"rejected"`
	Duplicates   int          `json:"duplicates"`
	Signals      int          `json:"signals"`
	Decisions    int          `json:"decisions"`
	Containments int          `json:"containments"`
	From         staunch.Time `json:"from,omitempty"`
	To           staunch.Time `json:"to,omitempty"`
	Bundle       string       `json:"bundle"`
	Mode         staunch.Mode `json:"mode"`
}

// Replay feeds recorded events in order of (event time, id) with a simulated
// clock and gives emit the signals, decisions and would-be containments, the
// summary last. It returns ErrBadRecords when some records could not be used.
func Replay(ctx context.Context, s *app.Setup, o ReplayOptions, emit func(Line) error) (err error) {
	if o.MostBytes == 0 {
		o.MostBytes = 4 << 30
	}
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	sum := Summary{Bundle: s.Bundle.Hash, Mode: o.Mode}
	reject := func(file string, number int, err error) error {
		sum.Rejected++
		return emit(Line{V: staunch.Version, Type: "error", File: file, Record: number, Error: err.Error()})
	}
	entries, err := readEntries(o, &sum, reject)
	if err != nil {
		return err
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		if a.at != b.at {
			if a.at < b.at {
				return -1
			}
			return 1
		}
		return strings.Compare(a.id, b.id)
	})
	// Records without a time come first and say nothing of the span.
	if i := slices.IndexFunc(entries, func(e entry) bool { return e.at != 0 }); i >= 0 {
		sum.From, sum.To = entries[i].at, entries[len(entries)-1].at
	}
	b, err := newBench(ctx, s, o.Mode, o.Trust, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	said := time.Now()
	for i, en := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		rep, err := b.feed(ctx, o.Source, en.at, en.raw)
		if err != nil {
			return fmt.Errorf("replaying record %d of %s: %w", en.number, o.Files[en.file], err)
		}
		for _, r := range rep.Rejected {
			if err := reject(o.Files[en.file], en.number, errors.New(r.Error)); err != nil {
				return err
			}
		}
		sum.Records += rep.Accepted
		sum.Duplicates += rep.Duplicates
		if err := b.tell(ctx, &sum, emit); err != nil {
			return err
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			o.Progress("replayed %d of %d records", i+1, len(entries))
		}
	}
	if len(entries) > 0 && s.Bundle.Correlations.Settles() {
		// No more records come, so what still waits for them settles.
		b.signals, b.decisions = b.signals[:0], b.decisions[:0]
		b.clock.set(sum.To.Add(s.Bundle.Correlations.Wait()))
		if err := b.pipe.Settle(ctx); err != nil {
			return err
		}
		if err := b.tell(ctx, &sum, emit); err != nil {
			return err
		}
	}
	if err := emit(Line{V: staunch.Version, Type: "summary", Summary: &sum}); err != nil {
		return err
	}
	if sum.Rejected > 0 {
		return ErrBadRecords
	}
	return nil
}

// tell emits what the record in hand caused.
func (b *bench) tell(ctx context.Context, sum *Summary, emit func(Line) error) error {
	if len(b.signals) == 0 && len(b.decisions) == 0 {
		return nil
	}
	refsOf := func(ref staunch.Ref, more []staunch.Ref) []staunch.Ref {
		refs := []staunch.Ref{ref}
		for _, r := range more {
			if !slices.Contains(refs, r) {
				refs = append(refs, r)
			}
		}
		return refs
	}
	for i := range b.signals {
		sum.Signals++
		sg := &b.signals[i]
		if err := emit(Line{V: staunch.Version, Type: "signal", Refs: refsOf(sg.Accused, sg.Refs), Signal: sg}); err != nil {
			return err
		}
	}
	for i := range b.decisions {
		sum.Decisions++
		d := &b.decisions[i]
		var names []staunch.Ref
		var con *staunch.Containment
		err := b.store.View(ctx, func(r store.Reader) error {
			con, names = nil, nil
			for _, id := range d.Signals {
				sg, err := r.Signal(id)
				if err != nil {
					return err
				}
				if sg.Accused == d.Subject {
					names = append(names, sg.Refs...)
				}
			}
			if d.Containment == "" {
				return nil
			}
			c, err := r.Containment(d.Containment)
			con = &c
			return err
		})
		if err != nil {
			return err
		}
		refs := refsOf(d.Scope, append([]staunch.Ref{d.Subject}, names...))
		if err := emit(Line{V: staunch.Version, Type: "decision", Refs: refs, Decision: d}); err != nil {
			return err
		}
		if con != nil {
			sum.Containments++
			if err := emit(Line{V: staunch.Version, Type: "containment", Refs: refsOf(con.Subject, append(con.Names, refs...)), Containment: con}); err != nil {
				return err
			}
		}
	}
	return nil
}

// readEntries reads all records with their times and ids.
func readEntries(o ReplayOptions, sum *Summary, reject func(string, int, error) error) ([]entry, error) {
	var entries []entry
	var held int64
	for i, name := range o.Files {
		in := o.In
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, fmt.Errorf("opening recorded events: %w", err)
			}
			in = f
			defer func() { _ = f.Close() }() // read only
			if st, err := f.Stat(); err == nil && st.IsDir() {
				return nil, &staunch.Problem{Place: name, Reason: "is a folder", Hint: "name its files"}
			}
		}
		rd, err := reader(in, o.Source.Format)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for {
			rec, err := rd.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if rec.Err != nil {
				if err := reject(name, rec.Number, rec.Err); err != nil {
					return nil, err
				}
				continue
			}
			keys, err := o.Source.Format.Keys(rec.Doc, format.Env{Source: o.Source.Name, Realm: o.Source.Realm})
			if err != nil {
				if err := reject(name, rec.Number, err); err != nil {
					return nil, err
				}
				continue
			}
			raw := bytes.Clone(rec.Doc.Raw())
			if held += int64(len(raw)) + 128; held > o.MostBytes {
				return nil, &staunch.Problem{Place: name, Reason: fmt.Sprintf("the recorded events take more than %d bytes", o.MostBytes), Hint: "replay fewer at a time"}
			}
			digest := staunch.Digest(raw)
			vendor := keys.VendorID
			if vendor == "" {
				vendor = digest
			}
			entries = append(entries, entry{at: keys.Time, id: staunch.EventID(o.Source.Name, vendor, digest, keys.Time), raw: raw, file: i, number: rec.Number})
		}
		o.Progress("read %s: %d records so far", name, len(entries))
	}
	return entries, nil
}
