package app

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/crashpoint"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
)

// An exercise is a row that one node at a time takes from phase to phase, so that
// whoever holds its lease goes on where another died. When one is due is a row
// too. Everything that an exercise does is done by the rooms that do it for real:
// its record goes through the pipeline, its case through the executor.

const (
	// drillEvery is how often rows are looked at, drillBusy while one of ours runs.
	drillEvery = time.Second
	drillBusy  = 100 * time.Millisecond
	// drillLease is how long a node that died keeps an exercise from others.
	drillLease = 30 * time.Second
	// drillActor is who releases an exercise's case.
	drillActor = "drill"
)

// drillDue names the row that has when an exercise is due.
func drillDue(name string) string { return "drill due/" + name }

// drills is what a node keeps of its exercises.
type drills struct {
	wake    chan struct{}
	runs    *prometheus.CounterVec
	contain *prometheus.HistogramVec
	restore *prometheus.HistogramVec
	passed  *prometheus.GaugeVec
}

func newDrills(reg prometheus.Registerer) drills {
	buckets := []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}
	d := drills{
		wake: make(chan struct{}, 1),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "staunch", Name: "drill_runs_total", Help: "Exercises that ended on this node."}, []string{"drill", "result"}),
		contain: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "staunch", Name: "drill_contain_seconds", Help: "From before an exercise's record was taken in to the proven effect.", Buckets: buckets,
		}, []string{"drill"}),
		restore: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "staunch", Name: "drill_restore_seconds", Help: "From an exercise's release to what was there before.", Buckets: buckets,
		}, []string{"drill"}),
		passed: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "staunch", Name: "drill_passed_timestamp_seconds", Help: "When the exercise passed last on this node."}, []string{"drill"}),
	}
	reg.MustRegister(d.runs, d.contain, d.restore, d.passed)
	return d
}

func (a *App) wakeDrills() {
	select {
	case a.drills.wake <- struct{}{}:
	default:
	}
}

// keepDrills runs exercises until ctx ends.
func (a *App) keepDrills(ctx context.Context) {
	t := time.NewTimer(drillEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-a.drills.wake:
		}
		busy, err := a.runDrills(ctx)
		if err != nil && ctx.Err() == nil {
			a.opt.Log.Error("running exercises", "error", err)
		}
		wait := drillEvery
		if busy && err == nil {
			wait = drillBusy
		}
		t.Reset(wait)
	}
}

// runDrills begins what is due and takes what is under way one step further. busy
// says that an exercise of this node goes on.
func (a *App) runDrills(ctx context.Context) (busy bool, err error) {
	if a.pipe.Waits() != "" {
		return false, nil // another configuration decides, on another node
	}
	s := a.current()
	now := staunch.TimeOf(a.opt.Clock.Now())
	var open []staunch.Drill
	var due []config.Drill
	err = a.store.View(ctx, func(r store.Reader) error {
		due = due[:0]
		var err error
		if open, err = r.UnfinishedDrills(); err != nil {
			return err
		}
		for _, d := range s.Config.Drills {
			if d.Every == 0 {
				continue
			}
			at, err := dueAt(r, d.Name)
			if err != nil {
				return err
			}
			if at == 0 || at <= now || at > now.Add(d.Every.Std()) {
				due = append(due, d)
			}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, d := range due {
		if err := a.beginDue(ctx, d, now); err != nil {
			return busy, err
		}
		busy = true
	}
	for _, d := range open {
		if _, ok := s.Config.Drill(d.Name); !ok && d.Phase == staunch.DrillInjecting && now <= d.Due {
			continue // another node may have it in its configuration
		}
		mine := false
		err := a.store.Update(ctx, func(tx store.Tx) (err error) {
			_, mine, err = tx.Lease("drill/"+d.ID, a.owner(), drillLease)
			return err
		})
		if err != nil {
			return busy, err
		}
		if !mine {
			continue
		}
		busy = true
		if err := a.advanceDrill(ctx, d.ID); err != nil {
			return busy, fmt.Errorf("drill %s: %w", d.Name, err)
		}
	}
	return busy, nil
}

func dueAt(r store.Reader, name string) (staunch.Time, error) {
	n, _, err := store.ReadCursor[int64](r, drillDue(name))
	return staunch.Time(n), err
}

// beginDue begins an exercise that is due and puts off the next, in one
// transaction: of several nodes one does it. One that was never due is due in one
// turn; so is one that is further off than that, since its clock or turn changed.
func (a *App) beginDue(ctx context.Context, d config.Drill, now staunch.Time) error {
	return a.store.Update(ctx, func(tx store.Tx) error {
		if err := tx.RequireBundle(a.current().Bundle.Hash); err != nil {
			return err
		}
		at, err := dueAt(tx, d.Name)
		if err != nil {
			return err
		}
		next := now.Add(d.Every.Std())
		if at > now && at <= next {
			return nil // another node was first
		}
		if err := store.WriteCursor(tx, drillDue(d.Name), int64(next)); err != nil {
			return err
		}
		if at == 0 || at > next {
			return nil
		}
		_, err = a.beginDrill(tx, d, "schedule", at.String(), now)
		if errors.Is(err, staunch.ErrConflict) {
			return nil // the one before is still under way; it fails in its own time
		}
		return err
	})
}

// beginDrill puts an exercise's row. The error wraps staunch.ErrConflict where one
// of the name is under way.
func (a *App) beginDrill(tx store.Tx, d config.Drill, by, key string, now staunch.Time) (staunch.Drill, error) {
	open, err := tx.UnfinishedDrills()
	if err != nil {
		return staunch.Drill{}, err
	}
	for _, o := range open {
		if o.Name == d.Name {
			return staunch.Drill{}, fmt.Errorf("%w: drill %s is under way as %s", staunch.ErrConflict, d.Name, o.ID)
		}
	}
	row := staunch.Drill{
		V: staunch.Version, ID: staunch.DrillID(d.Name, key), Name: d.Name, Canary: d.Canary, Source: d.Source, By: by,
		Phase: staunch.DrillInjecting, Began: now, Due: now.Add(d.Within.Std()), Within: d.Within, RestoreWithin: d.RestoreWithin,
	}
	row.Record = fillRecords(d, row.ID, now)
	return row, a.putDrill(tx, row, by, now)
}

var drillField = regexp.MustCompile(`\{\{(id|n|unix|time(?::[^{}]*)?)\}\}`)

// fillRecords returns the records of an exercise, a line break after each but the
// last. The last is of the present, so that none is of the future.
func fillRecords(d config.Drill, id string, now staunch.Time) string {
	texts, count := d.Texts(), d.Count()
	out := make([]string, count)
	for i := range out {
		at := now.Add(-time.Duration(count-1-i) * d.Apart.Std())
		out[i] = fillRecord(texts[i%len(texts)], id, i+1, at)
	}
	return strings.Join(out, "\n")
}

// fillRecord replaces what stands for the exercise, for the record's number and for
// its time.
func fillRecord(text, id string, n int, now staunch.Time) string {
	return drillField.ReplaceAllStringFunc(text, func(m string) string {
		switch name, layout, _ := strings.Cut(strings.Trim(m, "{}"), ":"); {
		case name == "id":
			return id
		case name == "n":
			return strconv.Itoa(n)
		case name == "unix":
			return strconv.FormatInt(now.Std().Unix(), 10)
		case layout != "":
			return now.Std().Format(layout)
		default:
			return now.Std().Format(time.RFC3339Nano)
		}
	})
}

// putDrill keeps the row and leaves a record of where it stands.
func (a *App) putDrill(tx store.Tx, d staunch.Drill, who string, now staunch.Time) error {
	if err := tx.PutDrill(d); err != nil {
		return err
	}
	return appendRecord(tx, staunch.RecordDrill, who, d.ID, now, map[string]any{
		"drill": d.ID, "name": d.Name, "canary": d.Canary, "source": d.Source, "by": d.By, "phase": d.Phase, "decision": d.Decision,
		"containment": d.Containment, "time_to_contain_ms": d.ContainMS, "time_to_restore_ms": d.RestoreMS, "kept": d.Kept, "failure": d.Failure,
	})
}

// advanceDrill takes an exercise one step further, if it can go on now.
func (a *App) advanceDrill(ctx context.Context, id string) error {
	var d staunch.Drill
	if err := a.store.View(ctx, func(r store.Reader) (err error) {
		d, err = r.Drill(id)
		return err
	}); err != nil {
		return err
	}
	switch d.Phase {
	case staunch.DrillInjecting:
		return a.inject(ctx, d)
	case staunch.DrillContaining:
		return a.changeDrill(ctx, id, a.watchContained)
	case staunch.DrillRestoring:
		return a.changeDrill(ctx, id, a.watchRestored)
	}
	return nil
}

// changeDrill reads the row, lets fn change it and keeps it where its phase
// changed, in one transaction. A phase that is over ends the exercise.
func (a *App) changeDrill(ctx context.Context, id string, fn func(tx store.Tx, d *staunch.Drill, now staunch.Time) error) error {
	changed := false
	err := a.store.Update(ctx, func(tx store.Tx) error {
		changed = false
		d, err := tx.Drill(id)
		if err != nil {
			return err
		}
		now := staunch.TimeOf(a.opt.Clock.Now())
		was := d.Phase
		if was.Over() {
			return nil
		}
		if err := fn(tx, &d, now); err != nil || d.Phase == was {
			return err
		}
		if d.Phase.Over() {
			d.Ended, d.Due = now, 0
			if err := a.endDrill(tx, d); err != nil {
				return err
			}
		}
		changed = true
		return a.putDrill(tx, d, "engine", now)
	})
	if changed && err == nil {
		crashpoint.Here("drill.committed")
	}
	return err
}

// endDrill tells people of a failure, and the metrics of the end.
func (a *App) endDrill(tx store.Tx, d staunch.Drill) error {
	if d.Phase == staunch.DrillFailed {
		for _, n := range a.teller().DrillFailed(d) {
			if err := tx.PutNotice(n); err != nil {
				return err
			}
		}
	}
	if err := tx.ReleaseLease("drill/"+d.ID, a.owner()); err != nil {
		return err
	}
	tx.OnCommit(func() {
		a.notify.Wake()
		m := &a.drills
		m.runs.WithLabelValues(d.Name, string(d.Phase)).Inc()
		if d.ContainMS > 0 {
			m.contain.WithLabelValues(d.Name).Observe(d.ContainMS / 1000)
		}
		if d.RestoreMS > 0 {
			m.restore.WithLabelValues(d.Name).Observe(d.RestoreMS / 1000)
		}
		if d.Phase == staunch.DrillPassed {
			m.passed.WithLabelValues(d.Name).Set(float64(d.Ended) / 1e6)
		}
	})
	return nil
}

func failDrill(d *staunch.Drill, format string, args ...any) {
	d.Phase = staunch.DrillFailed
	if d.Failure == "" {
		d.Failure = fmt.Sprintf(format, args...)
	}
}

// inject takes the exercise's records in, and finds the case that it led to. After
// a crash it may do so again: the same record is the same event.
func (a *App) inject(ctx context.Context, d staunch.Drill) error {
	s := a.current()
	fail := func(format string, args ...any) error {
		return a.changeDrill(ctx, d.ID, func(_ store.Tx, d *staunch.Drill, _ staunch.Time) error {
			failDrill(d, format, args...)
			return nil
		})
	}
	// What the configuration does not declare (any more) is never touched.
	c, ok := s.Config.Drill(d.Name)
	src := s.Sources[d.Source]
	if !ok || c.Canary != d.Canary || src == nil {
		return fail("the configuration does not have this drill with this canary and source any more")
	}
	if now := staunch.TimeOf(a.opt.Clock.Now()); now > d.Due {
		return fail("its record was not taken in within %s", d.Within.Std())
	}
	var other string
	if err := a.store.View(ctx, func(r store.Reader) error {
		res, err := a.inv.Resolve(r, d.Canary, d.Began)
		if err != nil {
			return err
		}
		open, err := r.OpenContainments(append(slices.Clone(res.Names), d.Canary))
		for _, con := range open {
			if con.Drill != d.ID {
				other = con.ID
			}
		}
		return err
	}); err != nil {
		return err
	}
	if other != "" {
		return fail("the canary is contained by %s, which is not this drill's", other)
	}
	exercise := *src
	exercise.Drill = &pipeline.Drill{ID: d.ID, Canaries: []staunch.Ref{d.Canary}, Decided: drillDecided}
	crashpoint.Here("drill.inject")
	sent := staunch.TimeOf(a.opt.Clock.Now())
	rep, err := a.pipe.Ingest(ctx, &exercise, strings.NewReader(d.Record), "")
	crashpoint.Here("drill.injected")
	switch {
	case errors.Is(err, store.ErrBundle), errors.Is(err, staunch.ErrOverloaded), ctx.Err() != nil:
		return nil // once more, until it is too late
	case err != nil && !errors.Is(err, staunch.ErrInvalid):
		return err
	}
	return a.changeDrill(ctx, d.ID, func(tx store.Tx, d *staunch.Drill, _ staunch.Time) error {
		switch {
		case err != nil:
			d.Failure = fmt.Sprintf("its record cannot be read: %v", err)
		case len(rep.Rejected) > 0:
			d.Failure = fmt.Sprintf("its record %d was refused: %s", rep.Rejected[0].Record, rep.Rejected[0].Error)
		}
		// What the good ones led to is put back all the same.
		return findCase(tx, d, sent)
	})
}

// drillDecided notes in the exercise's row what was decided, in the transaction of
// the decision: whoever goes on with it after a crash finds it there, however much
// was decided meanwhile. Of several the first that contains counts.
func drillDecided(tx store.Tx, made staunch.Decision) error {
	d, err := tx.Drill(made.Drill)
	if err != nil || d.Containment != "" || d.Decision != "" && made.Containment == "" {
		return err
	}
	d.Decision, d.Containment = made.ID, made.Containment
	return tx.PutDrill(d)
}

// findCase has the exercise go on with what its records led to that were sent at an
// instant.
func findCase(tx store.Tx, d *staunch.Drill, sent staunch.Time) error {
	if d.Decision == "" {
		d.Mark(staunch.DrillMarkInjected, sent)
		failDrill(d, "nobody decided anything: no rule matched its record, or none accuses %s", d.Canary)
		return nil
	}
	made, err := tx.Decision(d.Decision)
	if err != nil {
		return err
	}
	d.Mark(staunch.DrillMarkInjected, min(sent, made.Made)) // it may have been sent once more
	d.Mark(staunch.DrillMarkDecided, made.Made)
	if made.Containment == "" {
		failDrill(d, "nothing was contained: the verdict was %s (%s)", made.Verdict, strings.Join(made.Reasons, "; "))
		return nil
	}
	d.Phase = staunch.DrillContaining
	return nil
}

// drillCase reads the exercise's case, and fails the exercise where it is not its
// own any more.
func drillCase(tx store.Tx, d *staunch.Drill) (staunch.Containment, bool, error) {
	con, err := tx.Containment(d.Containment)
	if err != nil {
		return con, false, err
	}
	if con.Drill != d.ID {
		failDrill(d, "its case %s became a real one: it is left to people", con.ID)
		return con, false, nil
	}
	return con, true, nil
}

// watchContained waits for the proven effect and asks for the release then, or when
// it is too late.
func (a *App) watchContained(tx store.Tx, d *staunch.Drill, now staunch.Time) error {
	con, ok, err := drillCase(tx, d)
	if err != nil || !ok {
		return err
	}
	steps, err := tx.Steps(con.ID)
	if err != nil {
		return err
	}
	d.Mark(staunch.DrillMarkOpened, con.Opened)
	held := con.Phase == staunch.PhaseHeld || con.Phase == staunch.PhaseWindow
	switch {
	case con.Phase == staunch.PhaseApproval:
		d.Failure = "nothing was done: a person has to approve it"
	case con.Trouble != "" || con.Phase == staunch.PhaseStuck:
		d.Failure = "it could not be contained: " + con.Trouble
	case held && con.EffectAt != 0:
		for _, st := range steps {
			if st.Called != 0 {
				d.Mark(staunch.DrillMarkCalled, st.Called)
				break
			}
		}
		d.Mark(staunch.DrillMarkProven, con.EffectAt)
		d.ContainMS = float64(con.EffectAt-d.Began) / 1000
		if took := con.EffectAt.Sub(d.Began); took > d.Within.Std() {
			d.Failure = fmt.Sprintf("it took %s to contain, and %s are allowed", took.Round(time.Millisecond), d.Within.Std())
		}
	case now > d.Due:
		d.Failure = fmt.Sprintf("not contained within %s: its case is %s", d.Within.Std(), con.Phase)
	default:
		return nil
	}
	if con.Phase != staunch.PhaseReleasing && con.Phase != staunch.PhaseReleased {
		reason := "drill " + d.Name + " (" + d.ID + ")"
		if _, err := a.engine.Release(tx, con.ID, staunch.Release{Reason: reason, By: drillActor, Revive: true}); err != nil {
			return err
		}
	}
	d.Mark(staunch.DrillMarkReleased, now)
	d.Phase, d.Due = staunch.DrillRestoring, now.Add(d.RestoreWithin.Std())
	return nil
}

// watchRestored waits for what was there before.
func (a *App) watchRestored(tx store.Tx, d *staunch.Drill, now staunch.Time) error {
	con, ok, err := drillCase(tx, d)
	if err != nil || !ok {
		return err
	}
	if con.Phase != staunch.PhaseReleased {
		switch {
		case con.Phase == staunch.PhaseStuck:
			failDrill(d, "it could not be put back: %s", con.Trouble)
		case now > d.Due:
			failDrill(d, "not put back within %s: its case is %s", d.RestoreWithin.Std(), con.Phase)
		}
		return nil
	}
	steps, err := tx.Steps(con.ID)
	if err != nil {
		return err
	}
	at := staunch.Time(0)
	for _, st := range steps {
		at = max(at, st.Reverted)
		if st.State == staunch.StepDiverged || st.State == staunch.StepFailed {
			failDrill(d, "%s on %s is %s: %s", st.Verb, st.Target, st.State, st.Note)
		}
	}
	if at == 0 {
		at = con.Changed
	}
	d.Mark(staunch.DrillMarkRestored, at)
	if asked := d.At(staunch.DrillMarkReleased); asked != 0 {
		d.RestoreMS = float64(at-asked) / 1000
	}
	if con.Release != nil {
		d.Kept = con.Release.Kept
	}
	if d.Failure != "" {
		d.Phase = staunch.DrillFailed
		return nil
	}
	d.Phase = staunch.DrillPassed
	return nil
}

// driller is the exercises as the API sees them.
type driller struct{ a *App }

// Begin implements api.Driller.
func (dr driller) Begin(tx store.Tx, name, key, who string) (staunch.Drill, error) {
	s := dr.a.current()
	if err := tx.RequireBundle(s.Bundle.Hash); err != nil {
		return staunch.Drill{}, err
	}
	d, ok := s.Config.Drill(name)
	if !ok {
		return staunch.Drill{}, fmt.Errorf("drill %s: %w", name, staunch.ErrNotFound)
	}
	tx.OnCommit(dr.a.wakeDrills)
	return dr.a.beginDrill(tx, d, who, who+"/"+key, staunch.TimeOf(dr.a.opt.Clock.Now()))
}

// drillRuns is how many of an exercise's last runs its figures are of.
const drillRuns = 100

// Configured implements api.Driller.
func (dr driller) Configured(r store.Reader) ([]api.DrillStanding, error) {
	out := []api.DrillStanding{}
	for _, d := range dr.a.current().Config.Drills {
		s := api.DrillStanding{Name: d.Name, Canary: d.Canary, Source: d.Source, Every: d.Every, Within: d.Within, RestoreWithin: d.RestoreWithin}
		if d.Every > 0 {
			var err error
			if s.Next, err = dueAt(r, d.Name); err != nil {
				return nil, err
			}
		}
		runs, err := r.Drills(d.Name, store.Page{Limit: drillRuns})
		if err != nil {
			return nil, err
		}
		var took []float64
		for i, run := range runs {
			if i == 0 {
				s.Last, s.LastPhase = run.Began, run.Phase
			}
			switch run.Phase {
			case staunch.DrillPassed:
				s.Passed++
			case staunch.DrillFailed:
				s.Failed++
			}
			if run.ContainMS > 0 {
				took = append(took, run.ContainMS)
			}
		}
		if n := len(took); n > 0 {
			slices.Sort(took)
			s.ContainP50MS, s.ContainMaxMS = took[n/2], took[n-1]
		}
		out = append(out, s)
	}
	return out, nil
}

var _ api.Driller = driller{}
