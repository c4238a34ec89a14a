package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/staunch-project/staunch"
)

// Story plays the theft, the containment and the release, and tells it.
type Story struct {
	Estate *Estate
	// Out is told the story, for a person.
	Out io.Writer
	// Admin is a token that may list and release containments.
	Admin staunch.Secret
	// Pace is a pause between the acts, so that a person can follow; 0 is none.
	Pace time.Duration
	// Patience bounds the wait for each turn of the story; 0 gives 20 s.
	Patience time.Duration
}

// Outcome is how the story ended.
type Outcome struct {
	// Containment is the case's id.
	Containment string
	// DeniedLedger and DeniedOrders are from the theft to the thief's last
	// success at each API.
	DeniedLedger, DeniedOrders time.Duration
}

// moment is one line of a case's timeline, as the API gives it.
type moment struct {
	At      staunch.Time `json:"at"`
	AfterMS float64      `json:"after_ms"`
	Kind    string       `json:"kind"`
	Text    string       `json:"text"`
}

type caseView struct {
	Containment staunch.Containment `json:"containment"`
	Timeline    []moment            `json:"timeline"`
}

func (s *Story) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Out, format+"\n", args...) // who closed it wants no more
}

func (s *Story) pause(ctx context.Context) {
	if s.Pace <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(s.Pace):
	}
}

// Play plays it. An error says which promise was not kept.
func (s *Story) Play(ctx context.Context) (Outcome, error) {
	if s.Patience <= 0 {
		s.Patience = 20 * time.Second
	}
	var out Outcome
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	token, err := s.Estate.NewToken(ctx)
	if err != nil {
		return out, err
	}
	workload := newCaller(s.Estate, WorkloadAddress, token, true, 20*time.Millisecond)
	wg.Go(func() { workload.run(ctx) })
	if err := s.until(ctx, "the workload works at both APIs", func() bool {
		o, l := workload.Seen()
		return o.Works && l.Works
	}); err != nil {
		return out, err
	}
	s.say("\n  1. %s works with its token at both APIs, from %s.", WorkloadClient, WorkloadAddress)
	s.say("     orders API: introspects every call.   ledger API: asks AuthZEN on every call.")
	s.pause(ctx)

	theft := time.Now()
	thief := newCaller(s.Estate, ThiefAddress, token, false, 10*time.Millisecond)
	wg.Go(func() { thief.run(ctx) })
	if err := s.until(ctx, "the thief used the token", func() bool {
		o, _ := thief.Seen()
		return o.Successes > 0
	}); err != nil {
		return out, err
	}
	s.say("\n  2. A thief uses the same token from %s, and gets in.", ThiefAddress)
	if err := s.until(ctx, "the ledger API refuses the thief", func() bool {
		_, l := thief.Seen()
		return l.Refusals > 0
	}); err != nil {
		return out, err
	}
	_, l := thief.Seen()
	out.DeniedLedger = max(0, l.LastSuccess.Sub(theft))
	s.say("\n  3. The orders API's access log was posted as records; a Sigma rule matched.")
	s.say("     The ledger API refuses the token: last success %s after the theft began.", ms(out.DeniedLedger))
	s.pause(ctx)

	report := time.Now()
	if err := s.Estate.ReportLeak(ctx, token); err != nil {
		return out, err
	}
	s.say("\n  4. A second source reports the token as leaked. Now it is sure enough to revoke.")
	if err := s.until(ctx, "the orders API refuses the thief", func() bool {
		o, _ := thief.Seen()
		return o.Refusals > 0 && !o.Works
	}); err != nil {
		return out, err
	}
	o, _ := thief.Seen()
	out.DeniedOrders = max(0, o.LastSuccess.Sub(theft))
	s.say("     The orders API refuses the token: last success %s after the report, %s after the theft.",
		ms(max(0, o.LastSuccess.Sub(report))), ms(out.DeniedOrders))

	c, err := s.awaitCase(ctx, func(c caseView) bool {
		return c.Containment.Phase == staunch.PhaseHeld && c.Containment.Tier == staunch.TierRevoke
	})
	if err != nil {
		return out, err
	}
	out.Containment = c.Containment.ID
	if c.Containment.Trouble != "" {
		return out, fmt.Errorf("the case is in trouble: %s", c.Containment.Trouble)
	}
	s.say("\n  The case, %s:\n", c.Containment.ID)
	s.timeline(c)
	if err := s.until(ctx, "the workload works with a new token", func() bool {
		o, l := workload.Seen()
		return o.Works && l.Works && workload.Token() != token
	}); err != nil {
		return out, err
	}
	s.say("\n  5. %s got a new token with its client secret and works on.", WorkloadClient)
	s.pause(ctx)

	if err := s.do(ctx, http.MethodPost, "/v1/containments/"+out.Containment+"/release", map[string]any{
		"reason": "the leak is cleaned up; the workload has a new token",
	}, nil); err != nil {
		return out, fmt.Errorf("releasing: %w", err)
	}
	if c, err = s.awaitCase(ctx, func(c caseView) bool { return c.Containment.Phase == staunch.PhaseReleased }); err != nil {
		return out, err
	}
	s.say("\n  6. Released. What stays in force, and why:")
	for _, k := range c.Containment.Release.Kept {
		s.say("       %s", short(k))
	}
	return out, s.settled(ctx, workload, thief)
}

// settled checks the restored state with calls that were made after it.
func (s *Story) settled(ctx context.Context, workload, thief *Caller) error {
	wo, wl := workload.Seen()
	to, tl := thief.Seen()
	if err := s.until(ctx, "calls after the release", func() bool {
		wo2, wl2 := workload.Seen()
		to2, tl2 := thief.Seen()
		const calls = 5
		return wo2.Successes >= wo.Successes+calls && wl2.Successes >= wl.Successes+calls &&
			to2.Refusals >= to.Refusals+calls && tl2.Refusals >= tl.Refusals+calls
	}); err != nil {
		return err
	}
	to2, tl2 := thief.Seen()
	if to2.Successes != to.Successes || tl2.Successes != tl.Successes {
		return errors.New("the stolen token worked after the release")
	}
	if err := s.Estate.ShipErrors(); err != nil {
		return fmt.Errorf("the access log was not taken whole: %w", err)
	}
	s.say("\n  7. After the release the workload works at both APIs, and the stolen token at neither.")
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

// timeline prints the case's moments with their milliseconds.
func (s *Story) timeline(c caseView) {
	for _, m := range c.Timeline {
		s.say("    %9.1f ms  %-9s %s", m.AfterMS, m.Kind, short(m.Text))
	}
}

// until waits for ok, looking every few milliseconds.
func (s *Story) until(ctx context.Context, what string, ok func() bool) error {
	deadline := time.NewTimer(s.Patience)
	defer deadline.Stop()
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		if ok() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return errors.Join(fmt.Errorf("it did not happen in %s: %s", s.Patience, what), s.Estate.ShipErrors())
		case <-t.C:
		}
	}
}

// awaitCase waits until the one case is as wanted.
func (s *Story) awaitCase(ctx context.Context, ok func(caseView) bool) (caseView, error) {
	var c caseView
	var last error
	err := s.until(ctx, "the case comes to where it should", func() bool {
		var list struct {
			Items []staunch.Containment `json:"items"`
		}
		if last = s.do(ctx, http.MethodGet, "/v1/containments", nil, &list); last != nil || len(list.Items) == 0 {
			return false
		}
		c = caseView{}
		last = s.do(ctx, http.MethodGet, "/v1/containments/"+list.Items[0].ID, nil, &c)
		return last == nil && ok(c)
	})
	if err != nil {
		err = errors.Join(err, last, fmt.Errorf("the case is %s, trouble %q", c.Containment.Phase, c.Containment.Trouble))
	}
	return c, err
}

// do sends a request to the engine as the admin.
func (s *Story) do(ctx context.Context, method, path string, body, out any) error {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.Estate.engineNow().URL+path, rd)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.Admin.Reveal())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if out == nil {
		out = &struct{}{}
	}
	return s.Estate.call(req, out)
}

var longDigest = regexp.MustCompile(`sha256:([0-9a-f]{8})[0-9a-f]{56}`)

// short cuts digests, which a person does not compare by eye.
func short(s string) string { return longDigest.ReplaceAllString(s, "$1…") }
