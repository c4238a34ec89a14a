package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// evidence bundles what is kept about a containment that p may see.
func (s *Server) evidence(ctx context.Context, p auth.Principal, id string) (record.Evidence, error) {
	var in record.Rows
	err := s.opt.Store.View(ctx, func(r store.Reader) error {
		c, err := s.readRows(r, p, id)
		if err != nil {
			return err
		}
		in = record.Rows{
			At: s.now(), Containment: c.Containment, Decisions: c.Decisions, Signals: c.Signals, Plans: c.Plans, Steps: c.Steps,
			Holds: c.Holds, Timeline: c.Timeline, Revives: c.Revives, Records: c.records, D3FEND: s.opt.Cases.D3FEND,
		}
		if n := len(c.Containment.Decisions) - len(c.Decisions); n > 0 {
			in.LeftOut = append(in.LeftOut, fmt.Sprintf("%d of %d decisions: a bundle has at most %d, and those that are still kept", n, len(c.Containment.Decisions), MaxEvidence))
		}
		if n := countSignals(c.Decisions) - len(c.Signals); n > 0 {
			in.LeftOut = append(in.LeftOut, fmt.Sprintf("%d signals: a bundle has at most %d, and those that are still kept", n, MaxEvidence))
		}
		if len(c.records) == store.MaxPage {
			in.LeftOut = append(in.LeftOut, fmt.Sprintf("records beyond the first %d; an export of the log has them", store.MaxPage))
		}
		if err := s.addEvents(r, p, c, &in); err != nil {
			return err
		}
		in.Heads, err = record.HeadsOf(r)
		return err
	})
	if err != nil {
		return record.Evidence{}, err
	}
	return s.opt.Chain.Evidence(in)
}

// countSignals counts the signals that the decisions name, each once.
func countSignals(ds []staunch.Decision) int {
	seen := map[string]bool{}
	for _, d := range ds {
		for _, id := range d.Signals {
			seen[id] = true
		}
	}
	return len(seen)
}

// addEvents adds the events that the signals rest on, those of correlations
// included, but for what p may not see.
func (s *Server) addEvents(r store.Reader, p auth.Principal, c rows, in *record.Rows) error {
	hidden, beyond := 0, 0
	seen := map[string]bool{}
	add := func(ev staunch.Event) error {
		seen[ev.ID] = true
		if p.Scoped() {
			o, err := s.eventObject(r, p, ev)
			if err != nil {
				return err
			}
			if auth.Authorize(p, auth.Read, o) != nil {
				hidden++
				return nil
			}
		}
		in.Events = append(in.Events, ev)
		return nil
	}
	for _, ev := range c.events {
		if err := add(ev); err != nil {
			return err
		}
	}
	for _, sig := range c.Signals {
		for _, id := range sig.Events {
			if seen[id] {
				continue
			}
			if len(in.Events) >= record.MaxEvents {
				seen[id] = true
				beyond++
				continue
			}
			ev, err := r.Event(id)
			if errors.Is(err, staunch.ErrNotFound) {
				continue
			} else if err != nil {
				return err
			}
			if err := add(ev); err != nil {
				return err
			}
		}
	}
	if hidden > 0 {
		in.LeftOut = append(in.LeftOut, fmt.Sprintf("%d events that are outside of the token's scope", hidden))
	}
	if beyond > 0 {
		in.LeftOut = append(in.LeftOut, fmt.Sprintf("%d events that correlations name: a bundle has at most %d", beyond, record.MaxEvents))
	}
	return nil
}
