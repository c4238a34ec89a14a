package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
)

const pathBacktest = "/v1/backtest"

// Rehearser says what would have been, from what is kept.
type Rehearser interface {
	// Backtest decides what was decided once more, and gives emit its lines: how
	// far it is now and then, the subjects, the summary last. Decisions that may
	// refuses are left out. It changes nothing. staunch.ErrOverloaded says that
	// another one runs.
	Backtest(ctx context.Context, req BacktestRequest, may func(staunch.Decision) bool, emit func(BacktestLine) error) error
}

// BacktestRequest asks what other policies would have contained.
type BacktestRequest struct {
	// Since is how far back to go.
	Since staunch.Duration `json:"since" doc:"such as 720h" example:"720h"`
	// Policies take the place of those that the configuration names; none keeps
	// them. The default policies stay as the configuration has them.
	Policies []PolicyFile `json:"policies,omitempty" maxItems:"1000"`
	// Rules gives rules another mode, by their ids; off leaves their signals out.
	Rules map[string]string `json:"rules,omitempty" doc:"off, shadow, recommend or enforce, by rule id"`
	// Mode is what the engine's mode is taken to be; empty is enforce.
	Mode string `json:"mode,omitempty" enum:"shadow,recommend,enforce"`
	// Diff leaves out the subjects for which nothing differs.
	Diff bool `json:"diff,omitempty"`
}

// PolicyFile is the text of a policy file.
type PolicyFile struct {
	Name string `json:"name" minLength:"1" maxLength:"1024"`
	Text string `json:"text"`
}

// BacktestLine is one line of a backtest's answer. Type says which of the others
// is set: progress, subject, summary, error.
type BacktestLine struct {
	V        int               `json:"v"`
	Type     string            `json:"type" enum:"progress,subject,summary,error"`
	Progress *BacktestProgress `json:"progress,omitempty"`
	Subject  *BacktestSubject  `json:"subject,omitempty"`
	Summary  *BacktestSummary  `json:"summary,omitempty"`
	Error    string            `json:"error,omitempty"`
}

// BacktestProgress says how far a backtest is: it goes from now into the past.
type BacktestProgress struct {
	Decisions int          `json:"decisions"`
	At        staunch.Time `json:"at"`
}

// What differs for a subject.
const (
	// BacktestNewly: only the new policies contain it.
	BacktestNewly = "newly"
	// BacktestNoLonger: only the active ones do.
	BacktestNoLonger = "no_longer"
	// BacktestTier: both do, at other tiers.
	BacktestTier = "tier"
	// BacktestSame: both do, at one tier.
	BacktestSame = "same"
)

// Why a containment by the new policies would hurt.
const (
	// HurtFalseAlarm: a containment of it was released as a false alarm.
	HurtFalseAlarm = "false_alarm"
	// HurtProtected: it is protected; the guardrails would stop it.
	HurtProtected = "protected"
	// HurtProduction: its environment is production.
	HurtProduction = "production"
	// HurtShared: more than one uses the identity.
	HurtShared = "shared"
)

// BacktestSubject is somebody who is contained by the active policies or by the
// new ones.
type BacktestSubject struct {
	// Subject is the identity where it is declared, otherwise the widest thing that
	// was known of the accused.
	Subject     staunch.Ref `json:"subject"`
	Owner       string      `json:"owner,omitempty"`
	Environment string      `json:"environment,omitempty"`
	Tolerance   string      `json:"tolerance,omitempty"`
	Shared      bool        `json:"shared,omitempty"`
	// Change is newly, no_longer, tier or same.
	Change string `json:"change" enum:"newly,no_longer,tier,same"`
	// Active and New are what the policies make of it.
	Active BacktestOutcome `json:"active"`
	New    BacktestOutcome `json:"new"`
	// Hurts says why the new outcome would hurt.
	Hurts []string `json:"hurts,omitempty"`
	// Cases are the containments that there were, at most MaxBacktestCases.
	Cases []BacktestCase `json:"cases,omitempty"`
}

// MaxBacktestCases bounds the containments that a BacktestSubject lists.
const MaxBacktestCases = 20

// BacktestOutcome is the most that policies make of a subject's decisions.
type BacktestOutcome struct {
	// Tier is observe where nothing is contained.
	Tier staunch.Tier `json:"tier"`
	// Approval says that a person is asked first.
	Approval bool        `json:"approval,omitempty"`
	Policy   string      `json:"policy,omitempty"`
	Playbook string      `json:"playbook,omitempty"`
	Scope    staunch.Ref `json:"scope,omitzero"`
	// Decision is the earliest that comes to this, At when it was made.
	Decision string       `json:"decision,omitempty"`
	At       staunch.Time `json:"at,omitempty"`
	// Decisions counts those that contain.
	Decisions int `json:"decisions,omitempty"`
}

// BacktestCase is a containment that there was.
type BacktestCase struct {
	ID    string        `json:"id"`
	Tier  staunch.Tier  `json:"tier"`
	Phase staunch.Phase `json:"phase"`
	// Reason is of its release.
	Reason string `json:"reason,omitempty"`
	// FalseAlarm says that a person ended it in the subject's favour.
	FalseAlarm bool `json:"false_alarm,omitempty"`
}

// BacktestSummary is the last line.
type BacktestSummary struct {
	Since staunch.Time `json:"since"`
	Until staunch.Time `json:"until"`
	// Bundle is the active configuration's hash, Policies the new ones' digest.
	Bundle   string       `json:"bundle"`
	Policies string       `json:"policies"`
	Mode     staunch.Mode `json:"mode"`
	// Decisions counts those that were decided again, Skipped those that could not
	// be: they were stored without inputs that this release reads.
	Decisions int `json:"decisions"`
	Skipped   int `json:"skipped,omitempty"`
	// UnseenRules lists the rules with another mode that no decision rests on.
	UnseenRules []string `json:"unseen_rules,omitempty"`
	// Trust lists the rules whose mode is not what their files say now. Decisions are
	// decided again with what it was then.
	Trust []staunch.RuleTrust `json:"trust,omitempty"`
	// Truncated says that there was more than one backtest looks at.
	Truncated bool `json:"truncated,omitempty"`
	// The subjects, by what differs.
	Newly    int `json:"newly"`
	NoLonger int `json:"no_longer"`
	Tier     int `json:"tier"`
	Same     int `json:"same"`
	// Hurt counts, by reason, those that are contained newly or at a higher tier.
	Hurt map[string]int `json:"hurt,omitempty"`
	// Spared counts the false alarms among those no longer contained, Missed those
	// of them that were contained and not released as a false alarm.
	Spared int `json:"spared,omitempty"`
	Missed int `json:"missed,omitempty"`
}

func (s *Server) registerBacktest() {
	s.handle(Route{Method: "POST", Path: pathBacktest, Verb: auth.Plan, Limit: auditTimeout, Body: MaxLongBody}, s.backtest)
}

// maxBacktest is how far back a backtest goes at most: ten years.
const maxBacktest = maxDuration

func readBacktest(r *http.Request) (req BacktestRequest, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return req, place("body", "must be application/json")
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return req, err
	}
	var raw json.RawMessage
	if err := unmarshal(b, &raw); err != nil { // one reading only
		return req, place("body", "%v", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return req, place("body", "%v", err)
	}
	if d := req.Since.Std(); d <= 0 || d > maxBacktest {
		return req, place("since", "must be more than zero and at most ten years")
	}
	if len(req.Policies) > 1000 {
		return req, place("policies", "are %d files, at most 1000", len(req.Policies))
	}
	return req, nil
}

// backtest streams its lines. What goes wrong after the first of them is a line
// of its own, and there is no summary.
func (s *Server) backtest(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	p, err := auth.PrincipalOf(ctx)
	if err != nil {
		writeProblem(w, s.fail(ctx, err))
		return
	}
	req, err := readBacktest(r)
	if err != nil {
		writeProblem(w, s.fail(ctx, err))
		return
	}
	began := false
	control := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	emit := func(l BacktestLine) error {
		if !began {
			began = true
			w.Header().Set("Content-Type", "application/x-ndjson")
		}
		l.V = staunch.Version
		// Who stops reading must not keep others from asking.
		if err := control.SetWriteDeadline(time.Now().Add(slowTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("writing the answer: %w", err)
		}
		if err := enc.Encode(l); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
		if l.Type != "progress" {
			return nil
		}
		if err := control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("writing the answer: %w", err)
		}
		return nil
	}
	err = s.opt.Rehearse.Backtest(ctx, req, func(d staunch.Decision) bool {
		return !p.Scoped() || auth.Authorize(p, auth.Plan, decisionObject(d)) == nil
	}, emit)
	switch {
	case err == nil:
	case !began:
		writeProblem(w, s.fail(ctx, err))
	default:
		if err := emit(BacktestLine{Type: "error", Error: s.fail(ctx, err).Message}); err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}
