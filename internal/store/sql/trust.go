package sqlstore

import (
	"fmt"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

func (r *reader) Trust(rule string) (staunch.RuleTrust, error) {
	return get[staunch.RuleTrust](r, "the trust in rule "+rule, "SELECT body FROM trust WHERE rule = $1", rule)
}

func (r *reader) Trusts() ([]staunch.RuleTrust, error) {
	return list[staunch.RuleTrust](r, "the trust in rules", "SELECT body FROM trust WHERE rule > '' ORDER BY rule")
}

func (r *reader) SteeredRules() ([]staunch.RuleTrust, error) {
	return list[staunch.RuleTrust](r, "the trust in rules", "SELECT body FROM trust WHERE steers = 1 AND rule > '' ORDER BY rule")
}

func (r *reader) TrustEvents(rule string, limit int) ([]staunch.TrustEvent, error) {
	return list[staunch.TrustEvent](r, "the history of rule "+rule,
		"SELECT body FROM trust_events WHERE rule = $1 ORDER BY at DESC, id DESC LIMIT $2", rule, limitOf(limit))
}

func (r *reader) RuleUses(p store.Page) ([]staunch.RuleUse, error) {
	out := []staunch.RuleUse{}
	err := r.query("SELECT rule, COUNT(*), MIN(at), MAX(at) FROM signals WHERE rule > $1 GROUP BY rule ORDER BY rule LIMIT $2",
		[]any{p.After, r.page(p)}, func(scan func(...any) error) error {
			var u staunch.RuleUse
			var n, first, last int64
			if err := scan(&u.Rule, &n, &first, &last); err != nil {
				return err
			}
			u.Matches, u.First, u.Last = int(n), staunch.Time(first), staunch.Time(last)
			out = append(out, u)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("counting what rules matched: %w", err)
	}
	if len(out) == 0 {
		return out, nil
	}
	at := make(map[string]int, len(out))
	for i := range out {
		at[out[i].Rule] = i
	}
	err = r.query("SELECT rule, COUNT(*), COUNT(DISTINCT CASE WHEN containment <> '' THEN containment END) FROM decision_rules WHERE rule >= $1 AND rule <= $2 GROUP BY rule",
		[]any{out[0].Rule, out[len(out)-1].Rule}, func(scan func(...any) error) error {
			var rule string
			var decisions, containments int64
			if err := scan(&rule, &decisions, &containments); err != nil {
				return err
			}
			if i, ok := at[rule]; ok {
				out[i].Decisions, out[i].Containments = int(decisions), int(containments)
			}
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("counting what rules led to: %w", err)
	}
	return out, nil
}

func (r *reader) RuleUse(rule string) (staunch.RuleUse, error) {
	u := staunch.RuleUse{Rule: rule}
	var n, first, last, decisions, containments int64
	err := r.one("the matches of rule "+rule, "SELECT COUNT(*), COALESCE(MIN(at), 0), COALESCE(MAX(at), 0) FROM signals WHERE rule = $1 AND rule <> ''",
		[]any{rule}, &n, &first, &last)
	if err != nil {
		return u, err
	}
	err = r.one("the decisions of rule "+rule,
		"SELECT COUNT(*), COUNT(DISTINCT CASE WHEN containment <> '' THEN containment END) FROM decision_rules WHERE rule = $1",
		[]any{rule}, &decisions, &containments)
	u.Matches, u.First, u.Last = int(n), staunch.Time(first), staunch.Time(last)
	u.Decisions, u.Containments = int(decisions), int(containments)
	return u, err
}

func (r *reader) MatchesSince(rule string, since staunch.Time) (int, staunch.Time, error) {
	var n, first int64
	err := r.one("the matches of rule "+rule, "SELECT COUNT(*), COALESCE(MIN(at), 0) FROM signals WHERE rule = $1 AND rule <> '' AND at >= $2",
		[]any{rule, int64(since)}, &n, &first)
	return int(n), staunch.Time(first), err
}

func (r *reader) RulesBehind(containment string) ([]string, error) {
	out := []string{}
	if containment == "" {
		return out, nil // decisions that led to none
	}
	err := r.query("SELECT DISTINCT rule FROM decision_rules WHERE containment = $1 ORDER BY rule", []any{containment},
		func(scan func(...any) error) error {
			var rule string
			if err := scan(&rule); err != nil {
				return err
			}
			out = append(out, rule)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the rules behind %s: %w", containment, err)
	}
	return out, nil
}

func (t *tx) PutTrust(rt staunch.RuleTrust) error {
	if err := need("trust in a rule", rt.Rule); err != nil {
		return err
	}
	rt.V = version(rt.V)
	body, err := store.Encode(rt)
	if err != nil {
		return err
	}
	steers := int64(0)
	if rt.Steers() {
		steers = 1
	}
	err = t.later("INSERT INTO trust (rule, steers, body) VALUES ($1, $2, $3) ON CONFLICT (rule) DO UPDATE SET steers = excluded.steers, body = excluded.body",
		rt.Rule, steers, body)
	return wrap(err, "putting the trust in rule %s", rt.Rule)
}

func (t *tx) PutTrustEvent(e staunch.TrustEvent) (bool, error) {
	if err := need("trust event", e.ID); err != nil {
		return false, err
	}
	e.V = version(e.V)
	body, err := store.Encode(e)
	if err != nil {
		return false, err
	}
	inserted, err := t.put("INSERT INTO trust_events (id, rule, at, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
		e.ID, e.Rule, int64(e.At), body)
	return inserted, wrap(err, "putting trust event %s", e.ID)
}

func (r *reader) Drill(id string) (staunch.Drill, error) {
	return get[staunch.Drill](r, "drill "+id, "SELECT body FROM drills WHERE id = $1", id)
}

func (r *reader) Drills(name string, p store.Page) ([]staunch.Drill, error) {
	if name == "" {
		return newestFirst[staunch.Drill](r, "drills", "1 = 1", p)
	}
	before, after := int64(1<<62), ""
	if p.After != "" {
		if err := r.one("drills after "+p.After, "SELECT at FROM drills WHERE id = $1", []any{p.After}, &before); err != nil {
			return nil, err
		}
		after = p.After
	}
	return list[staunch.Drill](r, "drills", "SELECT body FROM drills WHERE name = $1 AND (at, id) < ($2, $3) ORDER BY at DESC, id DESC LIMIT $4",
		name, before, after, r.page(p))
}

func (r *reader) UnfinishedDrills() ([]staunch.Drill, error) {
	return list[staunch.Drill](r, "drills", "SELECT body FROM drills WHERE ended = 0 AND id > '' ORDER BY id")
}

func (t *tx) PutDrill(d staunch.Drill) error {
	if err := need("drill", d.ID); err != nil {
		return err
	}
	d.V = version(d.V)
	body, err := store.Encode(d)
	if err != nil {
		return err
	}
	err = t.later("INSERT INTO drills (id, name, at, ended, body) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, body = excluded.body",
		d.ID, d.Name, int64(d.Began), int64(d.Ended), body)
	return wrap(err, "putting drill %s", d.ID)
}
