package app_test

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
)

// granting is a platform whose accounts have grants, which it names only as long as
// they are there, as a database names what can be revoked.
type granting struct {
	connector.Connector
	mu   *sync.Mutex
	gone map[string]bool // by account
}

const grantsKey = "grants"

func (g granting) Describe() connector.Description {
	d := g.Connector.Describe()
	v := d.Verbs[0]
	v.Verb, v.Tier, v.Attribute, v.Revives = staunch.VerbRestrict, staunch.TierRestrict, grantsKey, false
	d.Verbs = append(d.Verbs, v)
	return d
}

func (g granting) has(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.gone[name]
}

func (g granting) Expand(ctx context.Context, req connector.ExpandRequest) (connector.Expansion, error) {
	ex, err := g.Connector.Expand(ctx, req)
	if err == nil && req.Subject.Kind == staunch.KindAccount && g.has(req.Subject.Value) {
		ex.Actions = append(ex.Actions, connector.Action{Target: staunch.Target{Ref: req.Subject, Attribute: grantsKey}, Verb: staunch.VerbRestrict})
	}
	return ex, err
}

func (g granting) state(t staunch.Target, has bool) staunch.State {
	st := staunch.State{V: staunch.Version, Target: t, Exists: true, Effective: has, Body: json.RawMessage(`"none"`), Summary: "none", ReadAt: staunch.TimeOf(time.Now())}
	if has {
		st.Body, st.Summary = json.RawMessage(`"granted"`), "granted"
	}
	return st
}

func (g granting) Read(ctx context.Context, t staunch.Target, fresh bool) (staunch.State, error) {
	if t.Attribute != grantsKey {
		return g.Connector.Read(ctx, t, fresh)
	}
	return g.state(t, g.has(t.Ref.Value)), nil
}

func (g granting) Prepare(st staunch.State, verb staunch.Verb) (staunch.Intent, error) {
	if verb != staunch.VerbRestrict {
		return g.Connector.Prepare(st, verb)
	}
	return staunch.Intent{Target: st.Target, Verb: verb, Call: "revoke the grants", Undo: "grant them", Reversibility: staunch.Reversible, Expected: g.state(st.Target, false)}, nil
}

func (g granting) set(in staunch.Intent, gone bool) (staunch.Receipt, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone[in.Target.Ref.Value] = gone
	return staunch.Receipt{At: staunch.TimeOf(time.Now()), Changed: true}, nil
}

func (g granting) Apply(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if in.Target.Attribute != grantsKey {
		return g.Connector.Apply(ctx, in)
	}
	return g.set(in, true)
}

func (g granting) Revert(ctx context.Context, in staunch.Intent) (staunch.Receipt, error) {
	if in.Target.Attribute != grantsKey {
		return g.Connector.Revert(ctx, in)
	}
	return g.set(in, false)
}

// TestReleaseLeavesOthersTheirs: a case that was opened while another had taken the
// same away already, so that the platform named it nothing, takes it away itself when
// the other is released.
func TestReleaseLeavesOthersTheirs(t *testing.T) {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount("mallory")
	n := newNodeOn(t, p, map[string]string{"staunch.yaml": nodeConfig})
	if err := n.app.Stop(); err != nil {
		t.Fatal(err)
	}
	g := granting{mu: &sync.Mutex{}, gone: map[string]bool{}}
	n.wrap = func(c connector.Connector) connector.Connector { g.Connector = c; return g }
	n.start()
	until := func(what string, fn func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !fn(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("not in time: " + what)
			}
		}
	}
	open := func(subject, tier string) (path string) {
		t.Helper()
		path = "/v1/containments/" + answer[api.Opened](n, http.MethodPost, "/v1/containments", `{"subject":"`+subject+`","tier":"`+tier+`","reason":"x"}`).Containment.ID
		until(subject+" is held", func() bool {
			return answer[api.Case](n, http.MethodGet, path, "").Containment.Phase == staunch.PhaseHeld
		})
		return path
	}
	release := func(path string) {
		t.Helper()
		answer[api.Changed](n, http.MethodPost, path+"/release", `{"reason":"x","rotated":true}`)
		until(path+" is released", func() bool {
			return answer[api.Case](n, http.MethodGet, path, "").Containment.Phase == staunch.PhaseReleased
		})
	}
	wide := open("identity:mallory", "isolate")
	narrow := open("account:json/app:name:mallory", "restrict")
	if g.has("mallory") {
		t.Fatal("the grants were not taken away")
	}
	release(wide)
	until("the grants are taken away again", func() bool { return !g.has("mallory") })
	until("that is proven", func() bool {
		c := answer[api.Case](n, http.MethodGet, narrow, "")
		return len(c.Steps) == 1 && c.Steps[0].State == staunch.StepProven && c.Containment.Phase == staunch.PhaseHeld
	})
	release(narrow)
	if !g.has("mallory") {
		t.Error("the grants were not put back")
	}
}
