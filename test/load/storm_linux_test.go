package load

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/decide"
	"github.com/staunch-project/staunch/internal/store"
)

const (
	// between two accusations of a storm: a thousand in a minute.
	stormEvery = 60 * time.Millisecond
	// urgentOnes are genuine critical events in the middle of a forged storm; the
	// guardrails keep room for so many.
	urgentOnes = 5
	mostMiB    = 512
	mostUrgent = 5 * time.Second
)

// accused is a subject and when it was posted that it is accused.
type accused struct {
	subject
	at time.Time
}

// blow has a source accuse the first n subjects one after the other, and another
// others after them, spread over the middle of it. It returns when each was
// posted.
func (e *estate) blow(t *testing.T, source string, n, others int) (storm, urgent []accused) {
	t.Helper()
	storm, urgent = make([]accused, n), make([]accused, others)
	began := time.Now()
	lasts := time.Duration(n) * stormEvery
	var wg sync.WaitGroup
	post := func(to *accused, source string, i int, due time.Duration) {
		wg.Go(func() {
			time.Sleep(time.Until(began.Add(due)))
			*to = accused{e.subjects[i], time.Now()}
			if a, err := e.accuse(context.WithoutCancel(t.Context()), source, i); err != nil || a.status != 200 {
				t.Errorf("%s accuses %d: %d %s, %v", source, i, a.status, a.body, err)
			}
		})
	}
	for i := range n {
		post(&storm[i], source, i, time.Duration(i)*stormEvery)
	}
	for i := range others {
		post(&urgent[i], "urgent", n+i, lasts/5+lasts*3/5*time.Duration(i)/time.Duration(others))
	}
	wg.Wait()
	return storm, urgent
}

// contained waits until the tokens are revoked, and returns how long it took from
// the post.
func (e *estate) contained(t *testing.T, what string, list []accused) []time.Duration {
	t.Helper()
	var took []time.Duration
	for _, a := range list {
		eventually(t, time.Minute, what+": the token of "+a.client+" is revoked", func() bool { return !e.auth.revoked(a.token).IsZero() })
		took = append(took, e.auth.revoked(a.token).Sub(a.at))
	}
	return took
}

// urgently holds that all were contained in time.
func urgently(t *testing.T, took []time.Duration) {
	t.Helper()
	for _, d := range took {
		if d > mostUrgent {
			t.Errorf("a genuine critical event was contained after %s", d)
		}
	}
}

// TestStormForged has a source that somebody else writes to accuse many within a
// minute, with the guardrails as they are by default. The caps hold and the
// source's breaker opens at once; what others report in earnest meanwhile is
// contained, and people contain and release.
func TestStormForged(t *testing.T) {
	bin := made.Path(t)
	n := *stormN
	const manual = 3
	e := newEstate(t, bin, t.TempDir(), n+urgentOnes+manual, "")
	e.start(t)
	limits := decide.DefaultLimits()
	if n <= limits.TripSource {
		t.Fatalf("-storm %d: the breaker opens after %d", n, limits.TripSource)
	}

	// People watch, release and contain while it blows.
	var people sync.WaitGroup
	var opened time.Time
	var released, byHand []time.Duration
	over := make(chan struct{})
	people.Go(func() {
		ctx := context.WithoutCancel(t.Context())
		for opened.IsZero() {
			got, err := e.api.Breakers(ctx)
			if err != nil {
				t.Errorf("listing the breakers: %v", err)
			}
			for _, b := range got.Items {
				if b.Open && strings.HasPrefix(b.Scope, "source/") {
					opened = b.Changed.Std()
				}
			}
			select {
			case <-over:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		cases, err := e.all(ctx)
		if err != nil {
			t.Errorf("listing the cases: %v", err)
		}
		for _, c := range cases {
			if c.Phase != staunch.PhaseHeld || len(released) == 5 {
				continue
			}
			at := time.Now()
			if err := e.release(ctx, c.ID); err != nil {
				t.Errorf("releasing in the storm: %v", err)
			}
			released = append(released, time.Since(at))
		}
		for i := range manual {
			s := e.subjects[n+urgentOnes+i]
			at := time.Now()
			// Nobody has seen the token, so that the fast plane alone denies it.
			o, err := e.api.Contain(ctx, api.ContainRequest{Subject: s.ref(), Tier: staunch.TierRevoke, Reason: "by hand in the storm"})
			if err != nil || !o.Created {
				t.Errorf("containing by hand in the storm: %+v, %v", o, err)
			}
			byHand = append(byHand, time.Since(at))
		}
	})
	storm, urgent := e.blow(t, "forged", n, urgentOnes)
	close(over)
	people.Wait()

	took := e.contained(t, "in earnest", urgent)
	urgently(t, took)
	cases, err := e.all(t.Context())
	must(t, err)
	held := 0
	for _, c := range cases {
		if slices.ContainsFunc(storm, func(a accused) bool { return a.ref() == c.Subject }) {
			held++
		}
	}
	for _, a := range storm {
		if !e.auth.revoked(a.token).IsZero() {
			t.Errorf("the token of %s was revoked on a forger's word", a.client)
		}
	}
	if held == 0 || held > limits.TripSource {
		t.Errorf("%d of %d were contained on a forger's word, at most %d may be", held, n, limits.TripSource)
	}
	var late time.Duration
	if opened.IsZero() {
		t.Error("no breaker of a source opened")
	} else if late = opened.Sub(storm[limits.TripSource].at); late > time.Second {
		t.Errorf("the breaker opened %s after the record that was one too many", late)
	}
	if len(released) == 0 || len(byHand) != manual {
		t.Errorf("%d cases were released in the storm and %d made by hand", len(released), len(byHand))
	}
	breakers, err := e.api.Breakers(t.Context())
	must(t, err)
	e.sound(t)
	_, peak := e.usage(t)
	e.stop(t)
	if peak > mostMiB {
		t.Errorf("it took %d MiB", peak)
	}
	t.Logf("%d identities accused by a forger in %s: %d contained (the breaker opens after %d), breaker open %s after the record that was one too many: %s",
		n, time.Duration(n)*stormEvery, held, limits.TripSource, late.Round(time.Millisecond), scopes(breakers.Items))
	t.Logf("in earnest meanwhile, post → revoked: %s", quantiles(took))
	t.Logf("in the storm: released in %s, contained by hand in %s; most memory %d MiB", quantiles(released), quantiles(byHand), peak)
}

func scopes(list []store.Breaker) string {
	var out []string
	for _, b := range list {
		out = append(out, fmt.Sprintf("%s open %v", b.Scope, b.Open))
	}
	return strings.Join(out, ", ")
}

// release releases a case and waits until it is.
func (e *estate) release(ctx context.Context, id string) error {
	if _, err := e.api.Release(ctx, id, api.ReleaseRequest{Reason: "forged", Rotated: true}); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := e.api.Containment(ctx, id)
		if err != nil || c.Containment.Phase == staunch.PhaseReleased {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s after 30 s", id, c.Containment.Phase)
		}
	}
}

// TestStormGenuine has a source accuse many within a minute in earnest, with
// raised caps: every one is contained, and so is what another source reports
// meanwhile.
func TestStormGenuine(t *testing.T) {
	bin := made.Path(t)
	n := *stormN
	others := max(urgentOnes, n/20)
	e := newEstate(t, bin, t.TempDir(), n+others, raised())
	e.start(t)
	storm, urgent := e.blow(t, "trusted", n, others)
	took := e.contained(t, "the storm", storm)
	meanwhile := e.contained(t, "in earnest", urgent)
	urgently(t, meanwhile)
	last := time.Now()
	var held int
	eventually(t, 2*time.Minute, "all cases are held", func() bool {
		cases, err := e.all(t.Context())
		must(t, err)
		held = 0
		for _, c := range cases {
			if c.Phase == staunch.PhaseHeld && c.Trouble == "" {
				held++
			}
		}
		return held == n+others
	})
	settled := time.Since(last)
	for _, c := range e.auth.ledger() {
		if !c.changed {
			t.Errorf("a token was revoked again, by step %s", c.step)
		}
	}
	e.sound(t)
	_, peak := e.usage(t)
	e.stop(t)
	if peak > mostMiB {
		t.Errorf("it took %d MiB", peak)
	}
	t.Logf("%d identities accused in earnest in %s, post → revoked: %s; all %d held %s after the last", n, time.Duration(n)*stormEvery, quantiles(took), held, settled.Round(time.Millisecond))
	t.Logf("another source meanwhile: %s; most memory %d MiB", quantiles(meanwhile), peak)
}

// TestTokenSeenLater contains a token by its digest before anybody has shown it: it is
// revoked as soon as a record does, not when it is used once more.
func TestTokenSeenLater(t *testing.T) {
	e := newEstate(t, made.Path(t), t.TempDir(), 1, raised())
	e.start(t)
	who := e.subjects[0]
	o, err := e.api.Contain(t.Context(), api.ContainRequest{Subject: who.ref(), Tier: staunch.TierRevoke, Reason: "by hand"})
	must(t, err)
	eventually(t, time.Minute, "the case is held", func() bool {
		c, err := e.api.Containment(t.Context(), o.Containment.ID)
		must(t, err)
		return c.Containment.Phase == staunch.PhaseHeld
	})
	if !e.auth.revoked(who.token).IsZero() {
		t.Fatal("a token was revoked that nobody had shown")
	}
	a, err := e.accuse(t.Context(), "trusted", 0)
	must(t, err)
	if a.status != http.StatusOK {
		t.Fatalf("the record is answered with %d: %s", a.status, a.body)
	}
	eventually(t, time.Minute, "the token is revoked", func() bool { return !e.auth.revoked(who.token).IsZero() })
	e.stop(t)
}
