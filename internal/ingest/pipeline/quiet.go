package pipeline

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// A flood of signals against a subject that nothing is done about makes the same
// decision over and over: to go on watching, or what would be done in another
// mode. Each signal is kept, and any decision can be made again from the signals,
// so one that says nothing new is not stored, and nobody is told of it: the same
// subject, scope, bundle, policy, tier, mode and verdict, a confidence that has not
// risen to another tenth, within quietFor of the last one that was stored.

// quietFor is how long a decision by which nothing is done speaks for those after
// it.
const quietFor = time.Hour

// ObservedPrefix begins the names of the cursors that have the last such decision of
// a subject.
const ObservedPrefix = "observed/"

// ObservedOver reports whether such a cursor speaks for no decision any more.
func ObservedOver(value string, now staunch.Time) bool {
	var last observed
	return json.Unmarshal([]byte(value), &last) == nil && now.Sub(last.At) > 2*quietFor
}

// observed is what was stored last of a subject that nothing is done about.
type observed struct {
	Decision string       `json:"decision"`
	Same     string       `json:"same"`
	Tenth    int          `json:"tenth"`
	At       staunch.Time `json:"at"`
}

// nothingNew reports whether a decision need not be stored, and otherwise notes
// that it is.
func (p *Pipeline) nothingNew(tx store.Tx, d staunch.Decision, now staunch.Time) (bool, error) {
	switch d.Verdict {
	case staunch.VerdictObserve, staunch.VerdictInform, staunch.VerdictShadow, staunch.VerdictRecommend:
	default:
		return false, nil
	}
	if p.opt.EveryDecision || d.Drill != "" {
		return false, nil
	}
	name := ObservedPrefix + d.Subject.Key()
	mine := observed{
		Decision: d.ID, Tenth: int(d.Suspicion.Confidence * 10), At: now,
		Same: staunch.Digest(fmt.Appendf(nil, "%q", []string{
			d.Scope.String(), d.Bundle, d.Policy, d.Tier.String(), d.Mode.String(), string(d.Verdict), d.Identity.Name,
		})),
	}
	last, ok, err := store.ReadCursor[observed](tx, name)
	if err != nil {
		return false, err
	}
	if ok {
		age := now.Std().Sub(last.At.Std())
		if last.Same == mine.Same && mine.Tenth <= last.Tenth && age >= 0 && age < quietFor {
			return true, nil
		}
	}
	return false, store.WriteCursor(tx, name, mine)
}
