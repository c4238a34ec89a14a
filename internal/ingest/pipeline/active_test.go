package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/store"
)

func activate(r *rig, hash string) {
	r.update(func(tx store.Tx) error { return tx.PutBundle(store.Bundle{Hash: hash, Made: 1}, true) })
}

// TestAnotherBundleDecides: nothing is committed by a bundle that is not the
// active one, whether the pipeline has heard of that or not.
func TestAnotherBundleDecides(t *testing.T) {
	r := newRig(t)
	activate(r, "sha256:two")
	line := r.rec("1", "critical", "bob")
	post := func() (pipeline.Report, error) {
		return r.pipe.Ingest(context.Background(), r.src, strings.NewReader(line), "")
	}
	rep, err := post()
	if !errors.Is(err, store.ErrBundle) || rep.Accepted != 0 || rep.Kept != 0 {
		t.Errorf("before it has heard: %+v, %v", rep, err)
	}
	r.pipe.WaitFor("sha256:two")
	line = r.rec("2", "nothing", "bob")
	if _, err := post(); !errors.Is(err, store.ErrBundle) {
		t.Errorf("a record that matches nothing here: %v", err)
	}
	err = r.pipe.Lines(t.Context(), r.src, []byte(line+"\n"), 1, func(store.Tx) error {
		t.Error("a followed file went on")
		return nil
	})
	if !errors.Is(err, store.ErrBundle) {
		t.Errorf("a followed file: %v", err)
	}
	if n := len(r.signals()) + len(r.decisions()) + len(r.cases()); n != 0 || r.guard.active() != 0 {
		t.Errorf("%d rows were committed by another bundle", n)
	}
	// Once it has the active one, the same record is taken.
	other := *r.bundle
	other.Hash = "sha256:two"
	r.pipe.SetBundle(&other)
	line = r.rec("1", "critical", "bob")
	if rep, err := post(); err != nil || rep.Signals != 1 || r.pipe.Waits() != "" {
		t.Errorf("with the active bundle: %+v, %v", rep, err)
	}
}

// TestFloodOfWeakSignals: decisions that say the same are stored once an hour,
// while every signal is kept and the first that says more is decided on.
func TestFloodOfWeakSignals(t *testing.T) {
	r := newRig(t)
	for i := range 60 {
		r.ingest(r.rec(fmt.Sprint("l", i), "faint", "bob"))
	}
	watching := 0
	for _, d := range r.decisions() {
		if d.Verdict == staunch.VerdictObserve {
			watching++
		}
	}
	if n := len(r.signals()); n != 60 {
		t.Errorf("%d of 60 signals were kept", n)
	}
	if watching == 0 || watching > 5 {
		t.Errorf("%d decisions to observe were stored of 60", watching)
	}
	before := len(r.decisions())
	r.clock.add(2 * time.Hour)
	r.ingest(r.rec("later", "faint", "bob"))
	if n := len(r.decisions()); n != before+1 {
		t.Errorf("after an hour there are %d decisions, want %d", n, before+1)
	}
	r.ingest(r.rec("more", "critical", "bob"))
	if len(r.cases()) == 0 {
		t.Error("the flood kept a real accusation from being decided on")
	}
	// One that says the same of somebody else is another.
	n := len(r.decisions())
	r.ingest(r.rec("other", "faint", "carol"))
	if len(r.decisions()) != n+1 {
		t.Error("another subject's decision was not stored")
	}
}
