package connectortest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
	"github.com/staunch-project/staunch/internal/connector/connectortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// harness drives the fake; wrap, when given, breaks the connector.
func harness(wrap func(*connectortest.Fake) connector.Connector) connectortest.Harness {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.AddAccount(connectortest.FakeOwn)
	var n atomic.Int64
	mk := func() *connectortest.Fake { return connectortest.NewFake(p, "fake/test") }
	as := func(f *connectortest.Fake) connector.Connector {
		if wrap == nil {
			return f
		}
		return wrap(f)
	}
	subject := func(attr string) func(testing.TB) connectortest.Subject {
		return func(testing.TB) connectortest.Subject {
			name := fmt.Sprintf("user%d", n.Add(1))
			p.AddAccount(name)
			session := p.Login(name)
			ref := staunch.Ref{Kind: staunch.KindAccount, Realm: "fake/test", Scheme: "name", Value: name}
			s := connectortest.Subject{
				Observe: func(context.Context) (string, error) { return p.Dump(name), nil },
				Works:   func(context.Context) (bool, error) { return p.Use(session), nil },
			}
			switch attr {
			case "enabled":
				s.Works = func(context.Context) (bool, error) {
					// A login that leaves no trace.
					return p.Dump(name) == "enabled "+session, nil
				}
				s.Tamper = func(context.Context) error { p.SetState(name, "locked"); return nil }
			case "session":
				ref = staunch.Ref{Kind: staunch.KindSession, Realm: "fake/test", Scheme: "id", Value: session}
			}
			s.Request = connector.ExpandRequest{Subject: ref, Tier: staunch.TierRevoke}
			s.Target = staunch.Target{Ref: ref, Attribute: attr}
			return s
		}
	}
	return connectortest.Harness{
		Factory: connectortest.FakeFactory(p),
		Realm:   "fake/test",
		New:     func(testing.TB) connector.Connector { return as(mk()) },
		Cases: []connectortest.Case{
			{Name: "suspend", Verb: staunch.VerbSuspend, Subject: subject("enabled"), Stops: true, Probes: true},
			{Name: "sessions", Verb: staunch.VerbIsolate, Subject: subject("sessions"), Stops: true, Probes: true},
			{Name: "session", Verb: staunch.VerbIsolate, Subject: subject("session"), Stops: true, Probes: true},
		},
		Missing: []staunch.Target{
			{Ref: staunch.Ref{Kind: staunch.KindAccount, Realm: "fake/test", Scheme: "name", Value: "nobody"}, Attribute: "enabled"},
			{Ref: staunch.Ref{Kind: staunch.KindSession, Realm: "fake/test", Scheme: "id", Value: "nobody.7"}, Attribute: "session"},
		},
		Denied: func(testing.TB) connector.Connector { f := mk(); f.Deny(); return as(f) },
		Down: func(testing.TB) connector.Connector {
			return connectortest.NewFake(downPlatform(), "fake/test")
		},
		Cut:    func(testing.TB) (connector.Connector, func(string)) { return as(mk()), p.LoseAnswer },
		Ledger: func(testing.TB) []string { return p.Ledger() },
		Cannot: map[string]string{"ProofApart": "memory has no connections"},
	}
}

func downPlatform() *connectortest.FakePlatform {
	p := connectortest.NewFakePlatform(staunch.SystemClock{})
	p.SetDown(true)
	return p
}

func TestFakePasses(t *testing.T) { connectortest.Run(t, harness(nil)) }
