package notify

import (
	"fmt"
	"time"

	"github.com/staunch-project/staunch"
)

// Type is what sort of channel it is.
type Type string

// The types of channels.
const (
	// TypeSlack is a Slack incoming webhook.
	TypeSlack Type = "slack"
	// TypeWebhook is any receiver of Standard Webhooks.
	TypeWebhook Type = "webhook"
)

// Config is one configured channel.
type Config struct {
	Name string
	Type Type
	URL  staunch.Secret
	// Secret signs webhooks: "whsec_" and base64. PreviousSecret, while a secret
	// is being changed, signs too.
	Secret         staunch.Secret
	PreviousSecret staunch.Secret
	// MinTier leaves out messages below it, except those that are Urgent.
	MinTier staunch.Tier
	// AllowHTTP permits http to hosts other than loopback.
	AllowHTTP bool
	// Timeout bounds one attempt; 0 is DefaultTimeout.
	Timeout time.Duration
}

// Bound is a channel with its name and minimum tier, as a Dispatcher takes it.
type Bound struct {
	Name    string
	MinTier staunch.Tier
	Channel Channel
}

// Open checks a configuration and makes its channel. The error is a
// staunch.Problem that names the field. The returned function gives the
// channel's idle connections back.
func Open(c Config, clock staunch.Clock) (Bound, func(), error) {
	bad := func(field, format string, args ...any) (Bound, func(), error) {
		return Bound{}, nil, &staunch.Problem{Place: field, Reason: fmt.Sprintf(format, args...)}
	}
	if c.Name == "" || len(c.Name) > 128 {
		return bad("name", "has %d bytes, 1 to 128 are allowed", len(c.Name))
	}
	if err := checkURL(c.URL.Reveal(), c.AllowHTTP); err != nil {
		return bad("url", "%v", err)
	}
	if c.Timeout < 0 || c.Timeout > time.Minute {
		return bad("timeout", "is %s, at most a minute is allowed", c.Timeout)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	b := Bound{Name: c.Name, MinTier: c.MinTier}
	var cl *client
	switch c.Type {
	case TypeSlack:
		if !c.Secret.Empty() || !c.PreviousSecret.Empty() {
			return bad("secret", "is not used by Slack, whose url is the secret")
		}
		cl = newClient(c.URL.Reveal(), c.Timeout, clock)
		b.Channel = &slackChannel{c: cl}
	case TypeWebhook:
		w := &webhookChannel{clock: clock}
		for _, s := range []struct {
			field  string
			secret staunch.Secret
		}{{"secret", c.Secret}, {"previous_secret", c.PreviousSecret}} {
			if s.field == "previous_secret" && s.secret.Empty() {
				continue
			}
			k, err := parseSecret(s.secret)
			if err != nil {
				return bad(s.field, "%v", err)
			}
			w.keys = append(w.keys, k)
		}
		cl = newClient(c.URL.Reveal(), c.Timeout, clock)
		w.c = cl
		b.Channel = w
	default:
		return bad("type", "%.40q is not slack or webhook", c.Type)
	}
	return b, cl.close, nil
}
