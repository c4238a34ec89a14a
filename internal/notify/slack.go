package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/staunch-project/staunch"
)

// Slack's limits, in characters; ours are lower where messages would get hard
// to read long before.
const (
	slackHeader  = 150
	slackSection = 2900 // of 3,000
	slackField   = 400  // of 2,000
	slackLine    = 300
	slackLines   = 10
	slackURL     = 2000 // of 3,000
	slackText    = 300
)

// slackChannel posts to a Slack incoming webhook.
type slackChannel struct{ c *client }

var _ Channel = (*slackChannel)(nil)

// Send posts the message.
func (s *slackChannel) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(SlackBlocks(m))
	if err != nil {
		return staunch.Permanent(fmt.Errorf("rendering for Slack: %w", err))
	}
	return s.c.post(ctx, body, http.Header{}, slackRetry)
}

// slackRetry says for every status whether the same message may be taken later.
// Slack answers 400 to a payload that it does not understand, 403, 404 and 410
// to a webhook or channel that is not there (any more): a person has to change
// the configuration, which brings a new URL with it.
func slackRetry(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return status > http.StatusHTTPVersionNotSupported && status <= 599 && status != http.StatusNetworkAuthenticationRequired
}

// SlackMessage is a message in Slack's Block Kit.
type SlackMessage struct {
	// Text is what notifications and screen readers show.
	Text   string       `json:"text"`
	Blocks []SlackBlock `json:"blocks"`
}

// SlackBlock is a header, section or context block.
type SlackBlock struct {
	Type     string       `json:"type"`
	Text     *SlackText   `json:"text,omitempty"`
	Fields   []*SlackText `json:"fields,omitempty"`
	Elements []*SlackText `json:"elements,omitempty"`
}

// SlackText is a text object.
type SlackText struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Verbatim keeps Slack from making links and mentions of names.
	Verbatim bool `json:"verbatim,omitempty"`
}

// SlackBlocks renders m. Whatever the message has in it (names are chosen by
// those who are accused) it makes no mention, no link and no formatting, and
// stays within Slack's limits.
func SlackBlocks(m Message) SlackMessage {
	title, name := headline(m), headline(m)
	fields := []*SlackText{}
	if !m.Subject.IsZero() || m.Identity.Name != "" { // else it is about the deployment as a whole
		title, name = title+": "+subjectText(m), name+": "+shortName(m)
		fields = append(fields, field("Subject", m.Subject.String()))
	}
	out := SlackMessage{
		Text:   escape(title, slackText),
		Blocks: []SlackBlock{{Type: "header", Text: &SlackText{Type: "plain_text", Text: heading(name, slackHeader)}}},
	}
	for _, f := range []struct{ name, value string }{
		{"Identity", identityText(m.Identity)}, {"Owner", m.Identity.Owner}, {"Environment", m.Identity.Environment},
		{"Tier", m.Tier.String()}, {"Verdict", string(m.Verdict)}, {"Case", m.Containment},
	} {
		if f.value != "" {
			fields = append(fields, field(f.name, f.value))
		}
	}
	out.Blocks = append(out.Blocks, SlackBlock{Type: "section", Fields: fields})
	for _, part := range []struct {
		name  string
		lines []string
	}{{"Why", m.Why}, {"What is held", m.Held}} {
		if text := list(part.lines); text != "" {
			out.Blocks = append(out.Blocks, section("*"+part.name+"*\n"+text))
		}
	}
	if m.Release != "" {
		command, about, _ := strings.Cut(m.Release, "\n")
		out.Blocks = append(out.Blocks, section(strings.TrimSpace("*What to do*\n"+code(command, slackLine)+"\n"+escape(about, 2*slackLine))))
	}
	if link := slackLink(m.URL); link != "" {
		out.Blocks = append(out.Blocks, section(link))
	}
	foot := "staunch · "
	if m.At != 0 {
		foot += m.At.String() + " · "
	}
	out.Blocks = append(out.Blocks, SlackBlock{Type: "context", Elements: []*SlackText{markdown(foot + code(m.ID, slackLine))}})
	return out
}

func headline(m Message) string {
	switch m.Kind {
	case KindContained:
		return "Contained"
	case KindStage:
		return "Containment raised"
	case KindApproval:
		return "Waits for approval"
	case KindReleased:
		return "Released"
	case KindTrouble:
		return "Containment needs a person"
	case KindResidual:
		return "Contained subject still succeeds"
	case KindExpired:
		return "Containment expired"
	case KindExtended:
		return "Containment extended"
	case KindTest:
		return "Test message"
	case KindCheckpoint:
		return "Checkpoint of the record log"
	case KindLogChanged:
		return "The record log was changed"
	}
	if strings.HasPrefix(string(m.Kind), "decision.") {
		switch m.Verdict {
		case staunch.VerdictRecommend:
			return "Would contain"
		case staunch.VerdictProtected:
			return "Not contained, protected"
		case staunch.VerdictCapped:
			return "Not contained, cap reached"
		case staunch.VerdictBreaker:
			return "Not contained, breaker open"
		}
	}
	words := strings.NewReplacer(".", " ", "_", " ").Replace(string(m.Kind))
	return strings.ToUpper(words[:min(1, len(words))]) + words[min(1, len(words)):]
}

func shortName(m Message) string {
	if m.Identity.Name != "" {
		return m.Identity.Name
	}
	return m.Subject.Value
}

func subjectText(m Message) string {
	if m.Identity.Name == "" {
		return m.Subject.String()
	}
	return m.Identity.Name + " (" + m.Subject.String() + ")"
}

func identityText(w Who) string {
	if w.Name != "" && w.Kind != "" {
		return w.Name + " (" + string(w.Kind) + ")"
	}
	return w.Name + string(w.Kind)
}

func field(name, value string) *SlackText {
	return markdown("*" + name + "*\n" + code(value, slackField))
}

func section(text string) SlackBlock { return SlackBlock{Type: "section", Text: markdown(text)} }

func markdown(text string) *SlackText {
	return &SlackText{Type: "mrkdwn", Text: text, Verbatim: true}
}

// list makes a bulleted list within a section's limit.
func list(lines []string) string {
	var b strings.Builder
	for i, l := range lines {
		line := "• " + escape(l, slackLine) + "\n"
		if i == slackLines || b.Len()+len(line) > slackSection-100 {
			fmt.Fprintf(&b, "• and %d more", len(lines)-i)
			break
		}
		b.WriteString(line)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// code renders s as code, in which nothing is formatted.
func code(s string, most int) string {
	// Nothing is put between the characters here: people copy commands from it.
	s = shorten(s, most, func(r rune) string {
		if r == '`' {
			return "'"
		}
		return entity(r)
	})
	if s == "" {
		return "-"
	}
	return "`" + s + "`"
}

// slackLink makes the link to the case; an address that is not http or https,
// or is too long, makes none.
func slackLink(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	s := strings.NewReplacer("|", "%7C", "<", "%3C", ">", "%3E", "&", "&amp;").Replace(u.String())
	if len(s) > slackURL {
		return ""
	}
	return "<" + s + "|Open the case>"
}

// escape makes s harmless in Slack's mrkdwn and cuts it to at most most
// characters as Slack counts them (UTF-16 units, after escaping), never within
// an entity. The marks for bold, struck-through and code get a zero-width space
// after them, so that they show as they are.
func escape(s string, most int) string {
	return shorten(s, most, func(r rune) string {
		if r == '*' || r == '~' || r == '`' {
			return string(r) + "\u200b"
		}
		return entity(r)
	})
}

// entity returns r, or what Slack wants in the place of the three characters
// that begin and end its mentions and links.
func entity(r rune) string {
	switch r {
	case '&':
		return "&amp;"
	case '<':
		return "&lt;"
	case '>':
		return "&gt;"
	}
	return string(r)
}

// heading is escape for plain text, which has no entities: what would begin or
// end a mention is shown by its like.
func heading(s string, most int) string {
	return shorten(s, most, func(r rune) string {
		switch r {
		case '<':
			return "‹"
		case '>':
			return "›"
		}
		return string(r)
	})
}

// clip cuts a line for people who read it elsewhere than in Slack.
func clip(s string, most int) string {
	return shorten(s, most, func(r rune) string { return string(r) })
}

func shorten(s string, most int, form func(rune) string) string {
	var b strings.Builder
	n, cut := 0, 0
	for _, r := range s {
		if r == '\n' || r == '\r' || r == '\t' {
			r = ' '
		}
		if !unicode.IsPrint(r) { // controls, and marks that turn the reading direction
			continue
		}
		f := form(r)
		w := units(f)
		if n+w > most {
			return b.String()[:cut] + "…"
		}
		b.WriteString(f)
		n += w
		if n < most { // room for the ellipsis after it
			cut = b.Len()
		}
	}
	return b.String()
}

func units(s string) int {
	n := 0
	for _, r := range s {
		n++
		if r > 0xFFFF {
			n++
		}
	}
	return n
}
