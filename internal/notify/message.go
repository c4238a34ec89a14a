package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

// Kind is what a message tells, as a full-stop delimited event type.
type Kind string

// The kinds that have a title of their own; any other one is shown by its words.
const (
	KindContained Kind = "containment.contained"
	KindStage     Kind = "containment.stage"
	KindApproval  Kind = "containment.approval"
	KindReleased  Kind = "containment.released"
	KindTrouble   Kind = "containment.trouble"
	KindResidual  Kind = "containment.residual"
	KindExpired   Kind = "containment.expired"
	KindExtended  Kind = "containment.extended"
	KindDecision  Kind = "decision.made"
	KindRecommend Kind = "decision.recommend"
	KindProtected Kind = "decision.protected"
	KindCapped    Kind = "decision.capped"
	KindBreaker   Kind = "decision.breaker"
	KindTest      Kind = "test.message"
	// KindCheckpoint carries a signed checkpoint of the record log.
	KindCheckpoint Kind = "audit.checkpoint"
	// KindLogChanged tells that the record log was changed.
	KindLogChanged Kind = "audit.log_changed"
	// KindDemoted and KindPromoted tell that a rule may go less far, or further.
	KindDemoted  Kind = "trust.demoted"
	KindPromoted Kind = "trust.promoted"
	// KindCorrected tells that a containment which was judged wrong is judged right.
	KindCorrected Kind = "trust.corrected"
	// KindDrillFailed tells that an exercise failed: what it exercises may not work.
	KindDrillFailed Kind = "drill.failed"
)

// Urgent reports whether a person has to act whatever the tier, the channel was
// named for such messages, or they are of no tier: they pass every channel's
// minimum tier.
func (k Kind) Urgent() bool {
	switch k {
	case KindApproval, KindTrouble, KindResidual, KindExpired, KindProtected, KindCapped, KindBreaker, KindTest,
		KindCheckpoint, KindLogChanged, KindDemoted, KindPromoted, KindCorrected, KindDrillFailed:
		return true
	}
	return false
}

// Who is the identity behind a message's subject, as far as people need it.
type Who struct {
	Name        string               `json:"name,omitempty"`
	Kind        staunch.IdentityKind `json:"kind,omitempty"`
	Owner       string               `json:"owner,omitempty"`
	Environment string               `json:"environment,omitempty"`
}

// Bounds of a message that is accepted for delivery.
const (
	MaxBody  = 256 << 10 // bytes of its JSON
	MaxLines = 100       // entries of Why and of Held
)

// Message is what people are told. It carries no secrets.
type Message struct {
	V int `json:"v"`
	// ID stays the same however often the message is sent: letters, digits, _
	// and -, since a full stop would let signed parts run together.
	ID          string          `json:"id"`
	Kind        Kind            `json:"kind"`
	Containment string          `json:"containment,omitempty"`
	Subject     staunch.Ref     `json:"subject"`
	Identity    Who             `json:"identity"`
	Tier        staunch.Tier    `json:"tier"`
	Verdict     staunch.Verdict `json:"verdict,omitempty"`
	// Why has a sentence a reason, Held a line an effect that is in force.
	Why  []string `json:"why,omitempty"`
	Held []string `json:"held,omitempty"`
	// Release says how it is undone or what to do next: a command in its first
	// line, what to know about it in the others.
	Release string `json:"release,omitempty"`
	// URL leads to the case; may be empty.
	URL string       `json:"url,omitempty"`
	At  staunch.Time `json:"at"`
	// Checkpoint is what a message of KindCheckpoint carries.
	Checkpoint *record.Checkpoint `json:"checkpoint,omitempty"`
}

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	kindPattern = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)*$`)
)

// Validate reports why m cannot be sent; the error is an ErrInvalid.
func (m Message) Validate() error {
	switch {
	case m.V != staunch.Version:
		return fmt.Errorf("%w: message of version %d, this release knows %d", staunch.ErrInvalid, m.V, staunch.Version)
	case !idPattern.MatchString(m.ID):
		return fmt.Errorf("%w: message id %.140q (letters, digits, _ and -, 1 to 128)", staunch.ErrInvalid, m.ID)
	case len(m.Kind) > 128 || !kindPattern.MatchString(string(m.Kind)):
		return fmt.Errorf("%w: message kind %.140q (words of a-z, 0-9 and _, with full stops between)", staunch.ErrInvalid, m.Kind)
	case len(m.Why) > MaxLines || len(m.Held) > MaxLines:
		return fmt.Errorf("%w: message with %d reasons and %d holds, at most %d each", staunch.ErrInvalid, len(m.Why), len(m.Held), MaxLines)
	}
	return nil
}

// Notice returns the outbox row that has m delivered to the channel as soon as
// the transaction that puts it has committed.
func (m Message) Notice(channel string, now staunch.Time) (store.Notice, error) {
	if err := m.Validate(); err != nil {
		return store.Notice{}, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return store.Notice{}, fmt.Errorf("encoding a message: %w", err)
	}
	if len(body) > MaxBody {
		return store.Notice{}, fmt.Errorf("%w: message of %d bytes, at most %d", staunch.ErrInvalid, len(body), MaxBody)
	}
	return store.Notice{
		ID: newID("ntc", m.ID, channel), Channel: channel, About: m.Containment, Body: body, Made: now, Due: now,
	}, nil
}

// messageOf reads a notice's body.
func messageOf(n store.Notice) (Message, error) {
	var m Message
	if len(n.Body) > MaxBody {
		return m, fmt.Errorf("%w: message of %d bytes, at most %d", staunch.ErrInvalid, len(n.Body), MaxBody)
	}
	if err := json.Unmarshal(n.Body, &m); err != nil {
		return m, fmt.Errorf("%w: reading a message: %w", staunch.ErrInvalid, err)
	}
	return m, m.Validate()
}

func newID(prefix string, parts ...string) string {
	var framed []byte
	for _, p := range parts {
		framed = fmt.Appendf(framed, "%d:%s", len(p), p)
	}
	h := sha256.Sum256(framed)
	return prefix + "_" + hex.EncodeToString(h[:12])
}

// Teller turns what happens into outbox rows. Its methods are pure and safe for
// concurrent use.
type Teller struct {
	// Channels has the names of all configured channels.
	Channels []string
	// Link returns the address of a case in the console; nil leaves it out.
	Link func(containment string) string
}

// Notices returns one row for each channel that the case names, or for every
// channel where it names none. A message's id is derived from the case, the
// event and the instant, so that a transaction that runs again makes the same.
//
// Of an exercise's case nobody is told: DrillFailed tells of its end.
func (t Teller) Notices(event string, c staunch.Containment, steps []staunch.Step, now staunch.Time) []store.Notice {
	if c.Drill != "" {
		return nil
	}
	m := MessageOf(event, c, steps, now)
	if t.Link != nil {
		m.URL = t.Link(c.ID)
	}
	return t.rows(m, c.Notify, now)
}

// gather is how long notices of decisions that led to no containment are held
// back, so that a flood of them becomes few messages.
const gather = 10 * time.Second

// DecisionNotices returns rows for a decision that led to no containment although
// one was called for, and that nobody else tells of: the mode only recommends,
// the subject is protected, a cap is full or a breaker open. Any other decision
// gives none.
//
// Whoever can cause signals can cause these, so they are gathered: within ten
// seconds the latest takes the place of those before it that concern the same
// subject, or for a full cap or open breaker any subject, and is sent at the end
// of them. No row is read for that: the later one has the earlier one's id.
func (t Teller) DecisionNotices(d staunch.Decision, now staunch.Time) []store.Notice {
	about, what := d.Scope.Key(), ""
	switch d.Verdict {
	case staunch.VerdictRecommend:
		what = "Nothing was done: the mode is recommend."
	case staunch.VerdictProtected:
		what = "Nothing was done: the subject is protected, and a person has to act."
	case staunch.VerdictCapped:
		about, what = "", "Nothing was done: a cap has no place left. There may be others."
	case staunch.VerdictBreaker:
		about, what = "", "Nothing was done: a breaker is open until a person resets it. There may be others."
	default:
		return nil
	}
	end := now - now%staunch.Time(gather.Microseconds()) + staunch.Time(gather.Microseconds())
	m := Message{
		V: staunch.Version, ID: newID("msg", string(d.Verdict), about, end.String()), Kind: Kind("decision." + string(d.Verdict)),
		Subject: d.Scope, Tier: d.Tier, Verdict: d.Verdict, At: d.Made,
		Identity: Who{Name: d.Identity.Name, Kind: d.Identity.Kind, Owner: d.Identity.Owner, Environment: d.Identity.Environment},
		Why:      firstLines(d.Reasons), Release: "staunch show " + d.ID + "\n" + what,
	}
	rows := t.rows(m, d.Notify, now)
	for i := range rows {
		rows[i].About, rows[i].Due = d.ID, end
	}
	return rows
}

// CheckpointNotice returns the row that has a checkpoint of the record log sent to
// a channel of type webhook, without its receipt where there is no room for it. The
// error wraps staunch.ErrInvalid where the log has so many lanes that it is too
// long for a message.
func CheckpointNotice(channel string, cp record.Checkpoint) (store.Notice, error) {
	m := Message{
		V: staunch.Version, ID: newID("msg", string(KindCheckpoint), channel, cp.Signature), Kind: KindCheckpoint,
		Why: []string{"a signed checkpoint of the record log: keep it"}, At: cp.At, Checkpoint: &cp,
	}
	n, err := m.Notice(channel, cp.At)
	if errors.Is(err, staunch.ErrInvalid) && cp.Logged != nil {
		// The receipt is no reason to keep it from the channel.
		m.Checkpoint.Logged = nil
		n, err = m.Notice(channel, cp.At)
	}
	return n, err
}

// LogChanged returns rows that tell every channel that the record log is not what
// it was.
func (t Teller) LogChanged(why string, now staunch.Time) []store.Notice {
	return t.rows(Message{
		V: staunch.Version, ID: newID("msg", string(KindLogChanged), now.String()), Kind: KindLogChanged, At: now,
		Why: []string{why}, Release: "staunch audit verify\nNo checkpoint is signed until a person has looked.",
	}, nil, now)
}

// RuleMoved returns rows that tell every channel of a rule's promotion or demotion.
func (t Teller) RuleMoved(ev staunch.TrustEvent) []store.Notice {
	kind := KindDemoted
	if ev.Kind == staunch.TrustPromoted {
		kind = KindPromoted
	}
	m := Message{
		V: staunch.Version, ID: newID("msg", string(kind), ev.ID), Kind: kind, Containment: ev.Containment, At: ev.At,
		Why:     []string{fmt.Sprintf("rule %s goes from %s to %s, by %s: %s", ev.Rule, ev.From, ev.To, ev.By, ev.Reason)},
		Release: "staunch trust " + ev.Rule + "\nOnly a person promotes a rule.",
	}
	if t.Link != nil && ev.Containment != "" {
		m.URL = t.Link(ev.Containment)
	}
	return t.rows(m, nil, ev.At)
}

// RuleStand is where a rule stands.
type RuleStand struct {
	Rule string
	// Mode is how far it may go, Declared what its file says.
	Mode, Declared staunch.Mode
	// Wrong and Right count the containments that were judged so.
	Wrong, Right int
}

// Corrected returns rows that tell every channel that a case was called for after all,
// and where the rules stand that it counted against until then.
func (t Teller) Corrected(con staunch.Containment, was staunch.Judged, rules []RuleStand, now staunch.Time) []store.Notice {
	v := con.Judged
	m := Message{
		V: staunch.Version, ID: newID("msg", string(KindCorrected), con.ID, fmt.Sprint(v.Given)), Kind: KindCorrected, Containment: con.ID,
		Subject: con.Subject, At: now, Release: "staunch show " + con.ID,
		Identity: Who{Name: con.Identity.Name, Kind: con.Identity.Kind, Owner: con.Identity.Owner, Environment: con.Identity.Environment},
		Why:      []string{fmt.Sprintf("it was called for, says %s: %s; before that %s judged it wrong: %s", v.By, v.Reason, was.By, was.Reason)},
	}
	for _, r := range rules {
		line := fmt.Sprintf("rule %s is in mode %s (%d judged wrong, %d right)", r.Rule, r.Mode, r.Wrong, r.Right)
		if r.Mode < r.Declared {
			if !strings.Contains(m.Release, "promote") {
				m.Release = "staunch trust promote " + r.Rule + "\nA correction gives no rule its mode back: only a person promotes one."
			}
			line += fmt.Sprintf("; its file says %s", r.Declared)
		}
		m.Why = append(m.Why, line)
	}
	m.Why = firstLines(m.Why)
	if t.Link != nil {
		m.URL = t.Link(con.ID)
	}
	return t.rows(m, nil, now)
}

// DrillFailed returns rows that tell every channel of an exercise that failed.
func (t Teller) DrillFailed(d staunch.Drill) []store.Notice {
	m := Message{
		V: staunch.Version, ID: newID("msg", string(KindDrillFailed), d.ID), Kind: KindDrillFailed, Containment: d.Containment,
		Subject: d.Canary, At: d.Ended, Why: []string{"drill " + d.Name + ": " + d.Failure},
		Release: "staunch drill show " + d.ID + "\nWhat it exercises may not work when it is needed.",
	}
	return t.rows(m, nil, d.Ended)
}

// rows returns one row for each of the named channels, or for all where none is
// named.
func (t Teller) rows(m Message, channels []string, now staunch.Time) []store.Notice {
	if len(channels) == 0 {
		channels = t.Channels
	}
	var out []store.Notice
	for _, name := range channels {
		n, err := m.Notice(name, now)
		if err != nil {
			// What is too long for one message is told shorter, never dropped:
			// the containment must not fail for it.
			m.Why, m.Held = []string{"too much to tell; see the case"}, nil
			if n, err = m.Notice(name, now); err != nil {
				continue
			}
		}
		if !slices.ContainsFunc(out, func(o store.Notice) bool { return o.ID == n.ID }) {
			out = append(out, n)
		}
	}
	return out
}

// MessageOf says in words what happened to a containment. event is a word such
// as "contained"; the message's kind is "containment." and that word.
func MessageOf(event string, c staunch.Containment, steps []staunch.Step, now staunch.Time) Message {
	kind := Kind("containment." + event)
	if !kindPattern.MatchString(string(kind)) {
		kind = "containment.changed"
	}
	m := Message{
		V: staunch.Version, ID: newID("msg", string(kind), c.ID, now.String()), Kind: kind, Containment: c.ID,
		Subject: c.Subject, Tier: c.Tier, At: now,
		Identity: Who{Name: c.Identity.Name, Kind: c.Identity.Kind, Owner: c.Identity.Owner, Environment: c.Identity.Environment},
		Why:      firstLines(c.Reasons), Held: firstLines(held(c, steps)), Release: howTo(kind, c, steps),
	}
	if c.Trouble != "" {
		m.Why = firstLines(append([]string{"needs a person: " + c.Trouble}, c.Reasons...))
	}
	return m
}

// held says what is in force, an effect a line.
func held(c staunch.Containment, steps []staunch.Step) []string {
	var out []string
	if c.Phase.Open() && !c.Phase.Idle() && c.Stage >= 0 && c.Stage < len(c.Playbook.Stages) {
		if deny := c.Playbook.Stages[c.Stage].Deny; len(deny) > 0 {
			out = append(out, "guard denies "+strings.Join(deny, ", "))
		}
	}
	for _, s := range steps {
		state := ""
		switch s.State {
		case staunch.StepProven:
			state = "proven"
		case staunch.StepApplied, staunch.StepRead, staunch.StepShared:
			state = "in force, not yet proven"
		case staunch.StepUnknown, staunch.StepIntended:
			state = "under way"
		case staunch.StepFailed:
			state = "failed"
		case staunch.StepReverting:
			state = "being undone"
		case staunch.StepDiverged:
			state = "changed by someone else"
		case staunch.StepKept:
			state = "stays in force after release"
		default: // reverted and void take nothing away
			continue
		}
		line := fmt.Sprintf("%s %s: %s", s.Verb, s.Target, state)
		if s.Note != "" && s.State != staunch.StepProven {
			line += " (" + s.Note + ")"
		}
		out = append(out, line)
	}
	return out
}

// howTo says what a person can do next.
func howTo(kind Kind, c staunch.Containment, steps []staunch.Step) string {
	switch {
	case kind == KindReleased || c.Phase == staunch.PhaseReleased:
		return ""
	case c.Phase == staunch.PhaseApproval:
		who := "someone approves it"
		if a := c.Asked; a != nil && a.Persons > 1 {
			who = fmt.Sprintf("%d people approve it; %d did", a.Persons, len(c.Approvals))
		}
		return "staunch show " + c.ID + "\nNothing is done until " + who + "."
	case c.Phase == staunch.PhaseWaiting:
		return "staunch show " + c.ID + "\nNothing is done until " + c.Canary + " is proven, or " + c.WaitEnds.String() + "."
	}
	out := "staunch release " + c.ID
	if c.Phase == staunch.PhaseWindow {
		next := ""
		if n := c.Stage + 1; n < len(c.Playbook.Stages) {
			next = " (tier " + c.Playbook.Stages[n].Tier.String() + ")"
		}
		out = "staunch clear " + c.ID + "\nThe next stage" + next + " follows at " + c.WindowEnds.String() +
			". What of it cannot be undone: staunch show " + c.ID
	}
	if slices.ContainsFunc(steps, func(s staunch.Step) bool {
		return s.Intent.Revives && s.State != staunch.StepReverted && s.State != staunch.StepVoid
	}) {
		out += "\nA release would revive a secret that may be stolen: rotate it first."
	}
	return out
}

func firstLines(lines []string) []string {
	if len(lines) <= MaxLines {
		return slices.Clone(lines)
	}
	out := slices.Clone(lines[:MaxLines-1])
	return append(out, fmt.Sprintf("and %d more", len(lines)-len(out)))
}
