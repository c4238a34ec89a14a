package inventory

import (
	"fmt"
	"slices"

	"github.com/staunch-project/staunch"
)

// Facts returns what the event's own actor refs teach: that the session used
// that credential and the credential is that account's. Each ref is linked to
// those of the next wider kind that the record names, on the same realm;
// identities are left out, since only a declaration says whose an account is.
// The facts carry the event's time and, as ids, what FactID derives.
func Facts(ev staunch.Event) []staunch.Fact {
	var by [4][]staunch.Ref // by width, up to accounts
	for _, a := range ev.Actor {
		if w := a.Kind.Width(); w >= 1 && w <= 3 && !slices.Contains(by[w], a) {
			by[w] = append(by[w], a)
		}
	}
	var out []staunch.Fact
	for narrow := 1; narrow <= 2; narrow++ {
		wide := narrow + 1
		for wide <= 3 && len(by[wide]) == 0 {
			wide++
		}
		if wide > 3 {
			break
		}
		for _, n := range by[narrow] {
			for _, w := range by[wide] {
				if n.Realm != w.Realm {
					continue
				}
				f := staunch.Fact{
					V: staunch.Version, Type: staunch.FactBelongs, Subject: n, Of: w,
					Time: ev.Time, Learned: ev.Learned, Source: ev.Source, Event: ev.ID,
				}
				f.ID = staunch.FactID(f)
				out = append(out, f)
			}
		}
	}
	return out
}

// SameNames returns the facts that the event's actor refs of the given schemes
// name one thing, by kind, as its format says. Where a scheme stands twice the
// record speaks of two, and nothing is said. Refs of other realms are left out.
func SameNames(ev staunch.Event, same map[staunch.Kind][]string) []staunch.Fact {
	var out []staunch.Fact
	for _, kind := range []staunch.Kind{staunch.KindSession, staunch.KindCredential, staunch.KindAccount} {
		schemes := same[kind]
		var names []staunch.Ref
		twice := false
		for _, a := range ev.Actor {
			if a.Kind != kind || !slices.Contains(schemes, a.Scheme) || slices.Contains(names, a) {
				continue
			}
			twice = twice || slices.ContainsFunc(names, func(n staunch.Ref) bool { return n.Scheme == a.Scheme || n.Realm != a.Realm })
			names = append(names, a)
		}
		if twice || len(names) < 2 {
			continue
		}
		for _, n := range names[1:] {
			f := staunch.Fact{
				V: staunch.Version, Type: staunch.FactSameAs, Subject: names[0], Of: n,
				Time: ev.Time, Learned: ev.Learned, Source: ev.Source, Event: ev.ID,
			}
			f.ID = staunch.FactID(f)
			out = append(out, f)
		}
	}
	return out
}

// Novel returns those of the facts that would change an answer: a membership
// that is already known to have begun at or before the fact's time, and not to
// end, is left out, so that a busy session costs one row and not one a record.
// So is another statement that two names are the same. Facts of other types are
// always kept. Which memberships are known when and
// where does not depend on the order in which the facts are offered: the
// earliest is always kept.
func (i *Inventory) Novel(r LinkReader, facts []staunch.Fact) ([]staunch.Fact, error) {
	var subjects []staunch.Ref
	var named []staunch.Ref
	for _, f := range facts {
		switch {
		case f.Type == staunch.FactBelongs && !slices.Contains(subjects, f.Subject):
			subjects = append(subjects, f.Subject)
		case f.Type == staunch.FactSameAs && !slices.Contains(named, f.Subject):
			named = append(named, f.Subject)
		}
	}
	type edge struct{ from, to staunch.Ref }
	known := map[edge]staunch.Time{}
	same := map[edge]bool{}
	if len(named) > 0 {
		links, _, err := i.both(r, named, staunch.RelSame)
		if err != nil {
			return nil, fmt.Errorf("looking for known names: %w", err)
		}
		for _, l := range links {
			same[edge{l.From, l.To}], same[edge{l.To, l.From}] = true, true
		}
	}
	if len(subjects) > 0 {
		links, _, err := i.from(r, subjects, staunch.RelOf)
		if err != nil {
			return nil, fmt.Errorf("looking for known memberships: %w", err)
		}
		for _, l := range links {
			if l.Until != 0 {
				continue
			}
			e := edge{l.From, l.To}
			if t, ok := known[e]; !ok || l.Since < t {
				known[e] = l.Since
			}
		}
	}
	var out []staunch.Fact
	for _, f := range facts {
		if f.Type == staunch.FactSameAs {
			e := edge{f.Subject, f.Of}
			if same[e] {
				continue
			}
			same[e], same[edge{f.Of, f.Subject}] = true, true
		}
		if f.Type == staunch.FactBelongs && f.Until == 0 && f.By.IsZero() {
			e := edge{f.Subject, f.Of}
			// A Since of 0 is "not known when", which holds at every instant.
			if t, ok := known[e]; ok && t <= f.Time {
				continue
			}
			known[e] = f.Time
		}
		out = append(out, f)
	}
	return out, nil
}
