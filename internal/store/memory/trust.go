package memory

import (
	"errors"
	"slices"
	"strings"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func (r *reader) Trust(rule string) (staunch.RuleTrust, error) {
	return one[staunch.RuleTrust](r, "the trust in rule "+rule, "trust", rule)
}

func (r *reader) Trusts() ([]staunch.RuleTrust, error) { return all[staunch.RuleTrust](r, "trust") }

func (r *reader) SteeredRules() ([]staunch.RuleTrust, error) {
	list, err := r.Trusts()
	return slices.DeleteFunc(list, func(t staunch.RuleTrust) bool { return !t.Steers() }), err
}

func (r *reader) TrustEvents(rule string, limit int) ([]staunch.TrustEvent, error) {
	if err := r.may(rule); err != nil {
		return nil, err
	}
	out := []staunch.TrustEvent{}
	var bad error
	err := r.back(key("trust event of", rule), "", func(rest string, _ *row) bool {
		var e staunch.TrustEvent
		if e, bad = one[staunch.TrustEvent](r, "trust event", "trust event", last(rest)); bad != nil {
			return false
		}
		out = append(out, e)
		return len(out) < limitOf(limit)
	})
	return out, errors.Join(err, bad)
}

func (r *reader) RuleUses(p store.Page) ([]staunch.RuleUse, error) {
	out := []staunch.RuleUse{}
	var rules []string
	if err := r.scan("rule signal", p.After, func(rest string, _ *row) bool {
		rule, _, _ := strings.Cut(rest, "\x00")
		if rule > p.After && (len(rules) == 0 || rules[len(rules)-1] != rule) {
			rules = append(rules, rule)
		}
		return len(rules) <= pageOf(p)
	}); err != nil {
		return nil, err
	}
	for _, rule := range rules[:min(len(rules), pageOf(p))] {
		u, err := r.RuleUse(rule)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

func (r *reader) RuleUse(rule string) (staunch.RuleUse, error) {
	u := staunch.RuleUse{Rule: rule}
	if err := r.may(rule); err != nil {
		return u, err
	}
	latest := ""
	var err error
	if u.Matches, u.First, err = r.MatchesSince(rule, always); err != nil {
		return u, err
	}
	if err := r.back(key("rule signal", rule), "", func(rest string, _ *row) bool {
		latest = last(rest)
		return false
	}); err != nil {
		return u, err
	}
	if latest != "" {
		s, err := r.Signal(latest)
		if err != nil {
			return u, err
		}
		u.Last = s.Time
	}
	cases := map[string]bool{}
	err = r.scan(key("rule decision", rule), "", func(_ string, w *row) bool {
		u.Decisions++
		if len(w.body) > 0 {
			cases[string(w.body)] = true
		}
		return true
	})
	u.Containments = len(cases)
	return u, err
}

func (r *reader) MatchesSince(rule string, since staunch.Time) (n int, first staunch.Time, err error) {
	if err := r.may(rule); err != nil {
		return 0, 0, err
	}
	var bad error
	err = r.scan(key("rule signal", rule), at(since), func(rest string, _ *row) bool {
		if n == 0 {
			var s staunch.Signal
			if s, bad = r.Signal(last(rest)); bad != nil {
				return false
			}
			first = s.Time
		}
		n++
		return true
	})
	return n, first, errors.Join(err, bad)
}

func (r *reader) RulesBehind(containment string) ([]string, error) {
	if err := r.may(containment); err != nil {
		return nil, err
	}
	out := []string{}
	err := r.scan(key("rule of", containment), "", func(rule string, _ *row) bool {
		out = append(out, rule)
		return true
	})
	return out, err
}

func (t *tx) PutTrust(rt staunch.RuleTrust) error {
	if err := need("trust in a rule", rt.Rule); err != nil {
		return err
	}
	version(&rt.V)
	return put(t, rt, "trust", rt.Rule)
}

func (t *tx) PutTrustEvent(e staunch.TrustEvent) (bool, error) {
	version(&e.V)
	return first(t, "trust event", "trust event", e.ID, e, func(*row) error { return t.set(nil, "trust event of", e.Rule, at(e.At), e.ID) })
}

func (r *reader) Drill(id string) (staunch.Drill, error) {
	return one[staunch.Drill](r, "drill "+id, "drill", id)
}

func (r *reader) Drills(name string, p store.Page) ([]staunch.Drill, error) {
	return listed(r, "drills", "drill", p, func(d staunch.Drill) staunch.Time { return d.Began },
		func(d staunch.Drill) bool { return name == "" || d.Name == name })
}

func (r *reader) UnfinishedDrills() ([]staunch.Drill, error) {
	list, err := all[staunch.Drill](r, "drill")
	return slices.DeleteFunc(list, func(d staunch.Drill) bool { return d.Ended != 0 }), err
}

func (t *tx) PutDrill(d staunch.Drill) error {
	if err := need("drill", d.ID); err != nil {
		return err
	}
	version(&d.V)
	return errors.Join(put(t, d, "drill", d.ID), t.set(nil, "drill at", at(d.Began), d.ID))
}
