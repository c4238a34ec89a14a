package app

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/contain"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/store"
)

func (a *App) newSweeper() (*retain.Sweeper, error) {
	return retain.New(retain.Options{
		Store: a.store, Clock: a.opt.Clock, Log: a.opt.Log, Node: a.cfg.Node,
		Policy: func() retain.Policy { return retentionOf(a.current()) },
		May:    func() bool { return a.pipe.Waits() == "" },
		Cursors: []retain.Cursor{
			{Prefix: pipeline.ObservedPrefix, Over: func(value string, now, _ staunch.Time) bool { return pipeline.ObservedOver(value, now) }},
			{Prefix: contain.SettledPrefix, Over: func(value string, _, signals staunch.Time) bool { return contain.SettledOver(value, signals) }},
		},
		Prune: pipeline.Prune,
	})
}

// retentionOf is what a set-up says of how long rows are kept, and needs them.
func retentionOf(s *Setup) retain.Policy {
	c := s.Config.Retention
	p := retain.Policy{
		Events: c.Events.Std(), Signals: c.Signals.Std(), Decisions: c.Decisions.Std(), Acted: c.DecisionsActed.Std(),
		Containments: c.Containments.Std(), Facts: c.Facts.Std(), Notices: c.Notices.Std(), Parked: c.Parked.Std(),
		Redelivery: c.Redelivery.Std(), Horizon: Params(s.Config).Horizon(), Window: s.Bundle.Correlations.Span(), MaxSize: int64(c.MaxSize),
	}
	for _, src := range s.Config.Sources {
		p.Window = max(p.Window, src.Lateness.Std())
	}
	return p
}

// Storage says what the database has and how long it is kept.
func (o operator) Storage(ctx context.Context) (api.Storage, error) {
	p := retentionOf(o.a.current()).Effective()
	out := api.Storage{MaxSize: p.MaxSize, Ages: map[string]string{}}
	for name, age := range map[string]time.Duration{
		"events": p.Events, "signals": p.Signals, "decisions": p.Decisions, "decisions_acted": p.Acted, "containments": p.Containments,
		"facts": p.Facts, "notices": p.Notices, "parked": p.Parked, "redelivery": p.Redelivery,
	} {
		out.Ages[name] = config.Age(age).String()
	}
	st := o.a.sweeper.Status()
	out.Sweeps, out.Last, out.Error = st.Sweeps, st.Last, st.Error
	err := o.a.store.View(ctx, func(r store.Reader) error {
		var err error
		if out.Size, err = r.Size(); err != nil {
			return err
		}
		out.Tables, err = r.TableSizes()
		return err
	})
	if err != nil {
		return out, fmt.Errorf("measuring the database: %w", err)
	}
	return out, nil
}

// PreviewRetention says what would be deleted now.
func (o operator) PreviewRetention(ctx context.Context) (store.Sweep, error) {
	return o.a.sweeper.Preview(ctx)
}

// checkRetention is what doctor says of it.
func (a *App) checkRetention() []connector.Finding {
	st := a.sweeper.Status()
	var out []connector.Finding
	if st.Error != "" {
		out = append(out, connector.Finding{Severity: "warning", Message: "what is old could not all be deleted: " + st.Error})
	}
	if st.Last != nil && (st.Last.OverSize || st.Last.BySize) {
		out = append(out, overSize(*st.Last, retentionOf(a.current())))
	}
	return out
}

// overSize is what doctor says of a database that is, or was, larger than it may be.
func overSize(last store.Sweep, p retain.Policy) connector.Finding {
	if !last.OverSize {
		return connector.Finding{
			Severity: "warning",
			Message: fmt.Sprintf("events younger than %s were deleted, since the database was larger than retention.max_size (%s)",
				config.Age(p.Effective().Events), config.Bytes(p.MaxSize)),
			Hint: "`staunch store` shows the oldest that is left; raise retention.max_size, or have fewer records match",
		}
	}
	return connector.Finding{
		Severity: "warning",
		Message: fmt.Sprintf("%s of the database are in use, more than retention.max_size (%s), and events younger than %s do not go",
			config.Bytes(last.Size.Used).Rounded(), config.Bytes(p.MaxSize), config.Age(p.LeastEvents())),
		Hint: "raise retention.max_size, shorten retention.redelivery, or have fewer records match; `staunch store` shows which table is large",
	}
}

// registerRetention adds the metrics of what is deleted and what is left.
func (a *App) registerRetention(gauge func(name, help string, v func() float64)) {
	for _, kind := range store.AllKept() {
		a.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "staunch", Name: "retention_deleted_total", ConstLabels: prometheus.Labels{"kind": string(kind)},
			Help: "Rows deleted since they were older than they are kept for, with what belonged to them.",
		}, func() float64 { return float64(a.sweeper.Deleted(kind)) }))
		a.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "staunch", Name: "retention_oldest_timestamp_seconds", ConstLabels: prometheus.Labels{"kind": string(kind)},
			Help: "The time of the oldest row that the last round of this node met and left; 0 for none.",
		}, func() float64 {
			if last := a.sweeper.Status().Last; last != nil {
				for _, k := range last.Kinds {
					if k.Kind == kind && k.Oldest != 0 {
						return float64(k.Oldest) / 1e6
					}
				}
			}
			return 0
		}))
	}
	last := func(f func(s *store.Sweep) float64) func() float64 {
		return func() float64 {
			if l := a.sweeper.Status().Last; l != nil {
				return f(l)
			}
			return 0
		}
	}
	gauge("store_used_bytes", "What was in use of the database after the last round of deletions of this node.", last(func(s *store.Sweep) float64 { return float64(s.Size.Used) }))
	gauge("store_free_bytes", "What could be used again of the database's file then; SQLite alone.", last(func(s *store.Sweep) float64 { return float64(s.Size.Free) }))
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("retention_by_size", "1 while events go before their age, since the database is at retention.max_size.", last(func(s *store.Sweep) float64 { return one(s.BySize) }))
	gauge("retention_over_size", "1 while the database is larger than retention.max_size and what is left is too young to go.", last(func(s *store.Sweep) float64 { return one(s.OverSize) }))
}
