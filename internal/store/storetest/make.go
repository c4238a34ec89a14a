package storetest

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/staunch-project/staunch"
)

// The items that the tests and benchmarks put. They are the size of real ones.

// Ref returns the n-th account of a realm.
func Ref(n int) staunch.Ref {
	return staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/test", Scheme: "role", Value: "svc_" + strconv.Itoa(n)}
}

// Signal returns a signal that accuses ref, of event number n at time at.
func Signal(ref staunch.Ref, n int, at staunch.Time) staunch.Signal {
	event := staunch.EventID("test", strconv.Itoa(n), "sha256:00", 0)
	return staunch.Signal{
		V: staunch.Version, ID: staunch.SignalID("rule-1", ref, event), Rule: "rule-1", Title: "a token used from <outside> & elsewhere",
		Bundle: "sha256:bundle", Accused: ref, Refs: []staunch.Ref{ref}, Confidence: 0.75, Techniques: []string{"T1078"},
		Event: event, Source: "test", Realm: ref.Realm, Ceiling: staunch.TierRevoke, Mode: staunch.ModeEnforce,
		Standing: staunch.StandingCurrent, Time: at, Learned: at + 5, Evidence: "seen from 203.0.113.7",
	}
}

// Event returns the n-th event by the actors at time at.
func Event(n int, at staunch.Time, actors ...staunch.Ref) staunch.Event {
	return staunch.Event{
		V: staunch.Version, ID: staunch.EventID("test", strconv.Itoa(n), "sha256:00", 0), Source: "test", VendorID: strconv.Itoa(n),
		Digest: "sha256:00", Realm: "pg/test", Format: "json", Time: at, Learned: at + 7, Standing: staunch.StandingCurrent,
		Outcome: staunch.OutcomeSuccess, Operation: "login", Actor: actors, SourceIP: "203.0.113.7",
		Raw: json.RawMessage(`{"user":"a<b>&c","n":` + strconv.Itoa(n) + `}`),
	}
}

// Fact returns a fact that ties subject to of, of event number n at time at.
func Fact(subject, of staunch.Ref, n int, at staunch.Time) staunch.Fact {
	f := staunch.Fact{
		V: staunch.Version, Type: staunch.FactSessionStarted, Subject: subject, Of: of, Time: at, Learned: at + 3,
		Source: "test", Event: staunch.EventID("test", strconv.Itoa(n), "sha256:00", 0), Attrs: map[string]string{"ip": "203.0.113.7"},
	}
	f.ID = staunch.FactID(f)
	return f
}

// Containment returns an open case about ref.
func Containment(ref staunch.Ref, opener string, at staunch.Time) staunch.Containment {
	return staunch.Containment{
		V: staunch.Version, ID: staunch.ContainmentID(ref, opener), Subject: ref, Names: []staunch.Ref{ref},
		Origin: staunch.OriginPolicy, Phase: staunch.PhaseOpen, Tier: staunch.TierIsolate, Generation: 1,
		Identity: staunch.Identity{V: staunch.Version, Name: ref.Value, Kind: staunch.IdentityService, Tolerance: staunch.ToleranceNormal},
		Playbook: staunch.Playbook{Name: "isolate", Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}},
		Scope:    staunch.Scope{Roots: []staunch.Ref{ref}, Closure: "none", Highest: staunch.TierIsolate, MostTargets: 5},
		Reasons:  []string{"confidence 0.75 by one rule"}, Opened: at, Changed: at,
	}
}

// Hold returns an active hold on ref's login, claimed by containments.
func Hold(plane staunch.Plane, ref staunch.Ref, opener string, claims ...string) staunch.Hold {
	t := staunch.Target{Ref: ref, Attribute: "login"}
	return staunch.Hold{
		V: staunch.Version, ID: staunch.HoldID(plane, t, opener), Plane: plane, Target: t, Verb: staunch.VerbSuspend,
		Tier: staunch.TierIsolate, State: staunch.HoldInForce, Names: []staunch.Ref{ref}, Deny: []string{"*"}, Claims: claims,
		Message: "contained",
	}
}

// Record returns a record about id.
func Record(about string, n int, at staunch.Time) staunch.Record {
	return staunch.Record{
		Time: at, Kind: staunch.RecordDecision, Actor: "engine", About: about,
		Body: json.RawMessage(fmt.Sprintf(`{"n":%d,"why":"a <b> & c"}`, n)),
	}
}
