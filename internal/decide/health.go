package decide

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// Who watches a group can report how many of it are healthy. Nothing is then
// contained as a whole of which the group could not do without (invariant I6): at
// admission, and again before each call. What was contained since a report counts
// against it.

// Health is a report of how many of a group are healthy: of the identities of one
// environment and purpose.
type Health struct {
	V           int    `json:"v"`
	Environment string `json:"environment"`
	Purpose     string `json:"purpose"`
	// Healthy of Of were seen to work at At.
	Healthy int          `json:"healthy"`
	Of      int          `json:"of"`
	At      staunch.Time `json:"at"`
	By      string       `json:"by"`
	// Contained is how many containments of the group were proven before At, so that
	// the report knows of them; all others count against it. It falls by one with
	// every containment of the group that is released after the report: nobody knows
	// whether that one works again before the next report.
	Contained int `json:"contained"`
}

// maxGroup bounds the size of a group.
const maxGroup = 1_000_000

// HealthTx is the part of store.Tx that a report needs.
type HealthTx interface {
	Reader
	Containments(p store.Page, open bool) ([]staunch.Containment, error)
	PutCursor(name, value string) error
}

func groupOf(id staunch.Identity) string { return id.Environment + "/" + id.Purpose }

// The names of a group's places and of its last report begin with these.
const (
	groupPlaces  = "group/"
	healthReport = "health/"
)

func groupCap(id staunch.Identity) string { return groupPlaces + groupOf(id) }

func healthCursor(id staunch.Identity) string { return healthReport + groupOf(id) }

// ReportHealth keeps a report in the place of the group's last one and returns it as it
// is kept. A report that is older than the one there is a staunch.ErrConflict; one
// that cannot be, a staunch.Problem.
func ReportHealth(tx HealthTx, h Health, now staunch.Time) (Health, error) {
	bad := func(place, format string, args ...any) (Health, error) {
		return h, &staunch.Problem{Place: place, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case h.Purpose == "" || len(h.Purpose) > 256 || len(h.Environment) > 256:
		return bad("purpose", "a group is of one purpose and environment, of at most 256 bytes each")
	case h.Of < 1 || h.Of > maxGroup:
		return bad("of", "%d is not a number of identities from 1 to %d", h.Of, maxGroup)
	case h.Healthy < 0 || h.Healthy > h.Of:
		return bad("healthy", "%d is not from 0 to %d", h.Healthy, h.Of)
	case h.At > now.Add(clockSlack):
		return bad("at", "%s is yet to come", h.At)
	}
	id := staunch.Identity{Environment: h.Environment, Purpose: h.Purpose}
	last, ok, err := healthOf(tx, id)
	if err != nil {
		return h, err
	}
	if ok && last.At > h.At {
		return h, fmt.Errorf("%w: a report of %s is there already", staunch.ErrConflict, last.At)
	}
	h.V = staunch.Version
	if h.Contained, err = known(tx, id, h.At); err != nil {
		return h, err
	}
	return h, store.WriteCursor(tx, healthCursor(id), h)
}

// clockSlack is how far ahead the clock of who reports may be.
const clockSlack = 60_000_000_000 // a minute

func healthOf(r Reader, id staunch.Identity) (h Health, ok bool, err error) {
	return store.ReadCursor[Health](r, healthCursor(id))
}

// known counts the group's containments that were proven, and not touched since,
// at an instant. Of one that is under way nobody can say whether a report knows of
// it: it is then counted twice, not never.
func known(tx HealthTx, id staunch.Identity, at staunch.Time) (int, error) {
	n, page := 0, store.Page{Limit: store.MaxPage}
	for {
		cs, err := tx.Containments(page, true)
		if err != nil {
			return 0, fmt.Errorf("reading what is contained of group %s: %w", groupOf(id), err)
		}
		for _, c := range cs {
			inForce := c.Phase == staunch.PhaseHeld || c.Phase == staunch.PhaseWindow
			if inForce && c.Changed <= at && slices.Contains(c.Caps, groupCap(id)) && c.Playbook.Stages[c.Stage].Tier >= staunch.TierIsolate {
				n++
			}
		}
		if len(cs) < page.Limit {
			return n, nil
		}
		page.After = cs[len(cs)-1].ID
	}
}

// Released has the last report of a group know of one containment less, since a case
// with these places ends. Otherwise the place that it gives back would hide
// one that was contained after the report. If the report did not know of the one that
// ends, it counts one too many as gone until the next report.
func Released(tx HealthTx, caps []string) error {
	for _, c := range caps {
		group, ok := strings.CutPrefix(c, groupPlaces)
		if !ok {
			continue
		}
		h, ok, err := store.ReadCursor[Health](tx, healthReport+group)
		if err != nil {
			return err
		}
		if !ok || h.Contained == 0 {
			continue
		}
		h.Contained--
		if err := store.WriteCursor(tx, healthReport+group, h); err != nil {
			return err
		}
	}
	return nil
}

// contained returns how many places of the group are taken.
func contained(r Reader, id staunch.Identity) (int, error) {
	c, err := r.Cap(groupCap(id))
	if errors.Is(err, staunch.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading how many of group %s are contained: %w", groupOf(id), err)
	}
	return c.Used, nil
}

// wholly reports whether containing a scope at a tier takes one of a group away.
func (g *Guardrails) wholly(scope staunch.Ref, t staunch.Tier, group int) bool {
	return (g.limits.MinHealthy > 0 || g.limits.GroupShare > 0) && group >= 2 &&
		scope.Kind.Width() >= staunch.KindAccount.Width() && t >= staunch.TierIsolate
}

// least returns how many of a group of n have to stay healthy.
func (g *Guardrails) least(n int) int {
	if g.limits.MinHealthy <= 0 {
		return 0
	}
	return (n*g.limits.MinHealthy + 99) / 100
}

// unhealthy says why the group of a request cannot do without what it asks for.
func (g *Guardrails) unhealthy(tx Reader, r Request, automatic bool) (string, error) {
	id := r.Resolution.Identity
	if g.limits.MinHealthy <= 0 || !g.wholly(r.Decision.Scope, r.Decision.Tier, r.Group) || slices.Contains(r.Have, groupCap(id)) {
		return "", nil
	}
	used, err := contained(tx, id)
	if err != nil {
		return "", err
	}
	return g.short(tx, id, r.Group, used+1, automatic, r.Now)
}

// Unhealthy says why a group cannot do without what a step would take away, as it
// was reported last; "" where it can, or where nobody reports. id is the
// contained identity, and group the number of those declared in its group, of
// whose places the step's case has one already.
func (g *Guardrails) Unhealthy(r Reader, id staunch.Identity, group int, o staunch.Origin, s staunch.Step, now staunch.Time) (string, error) {
	if g.limits.MinHealthy <= 0 || !g.wholly(s.Target.Ref, s.Tier, group) {
		return "", nil
	}
	used, err := contained(r, id)
	if err != nil {
		return "", err
	}
	return g.short(r, id, group, used, o != staunch.OriginManual, now)
}

// short compares the last report with what has to stay, with used places taken.
func (g *Guardrails) short(r Reader, id staunch.Identity, group, used int, automatic bool, now staunch.Time) (string, error) {
	h, ok, err := healthOf(r, id)
	if err != nil || !ok {
		return "", err
	}
	if age := now.Sub(h.At); age > g.limits.HealthAge.Std() {
		if !automatic {
			return "", nil // a person decides without it
		}
		return "nobody knows how healthy the group " + groupOf(id) + " is: the last report is of " + h.At.String() + ", and counts for " + g.limits.HealthAge.Std().String(), nil
	}
	// What is asked for now is not among what the report knows of.
	left, need := h.Healthy-max(used-h.Contained, 1), g.least(max(h.Of, group))
	if left >= need {
		return "", nil
	}
	return "of the " + strconv.Itoa(max(h.Of, group)) + " identities of " + groupOf(id) + " " + strconv.Itoa(h.Healthy) + " were healthy at " +
		h.At.String() + "; with this one contained " + strconv.Itoa(max(left, 0)) + " would be left, and " + strconv.Itoa(need) + " have to be", nil
}
