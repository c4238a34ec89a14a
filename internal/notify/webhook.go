package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/staunch-project/staunch"
)

// SecretPrefix begins a webhook's signing secret.
const SecretPrefix = "whsec_"

// webhookChannel posts JSON that is signed as Standard Webhooks 1.0 says.
type webhookChannel struct {
	c     *client
	keys  [][]byte
	clock staunch.Clock
}

var _ Channel = (*webhookChannel)(nil)

// WebhookBody is what a webhook receives.
type WebhookBody struct {
	V int `json:"v"`
	// Type is the message's kind, Timestamp when it happened (not when it is
	// sent: that is in the header).
	Type      Kind         `json:"type"`
	Timestamp staunch.Time `json:"timestamp"`
	Data      Message      `json:"data"`
}

// Send signs and posts the message. The webhook-id stays the same for every
// attempt; the timestamp is that of the attempt.
func (w *webhookChannel) Send(ctx context.Context, m Message) error {
	body, err := json.Marshal(WebhookBody{V: staunch.Version, Type: m.Kind, Timestamp: m.At, Data: m})
	if err != nil {
		return staunch.Permanent(fmt.Errorf("rendering a webhook: %w", err))
	}
	return w.c.post(ctx, body, signHeaders(m.ID, w.clock.Now(), body, w.keys), webhookRetry)
}

// signHeaders returns the three headers of Standard Webhooks, with a signature
// a key.
func signHeaders(id string, at time.Time, body []byte, keys [][]byte) http.Header {
	stamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(keys))
	for i, k := range keys {
		m := hmac.New(sha256.New, k)
		m.Write([]byte(id + "." + stamp + "."))
		m.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
	}
	// The specification writes the names in lower case; HTTP does not care.
	h := http.Header{}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
	return h
}

// parseSecret reads "whsec_" and the base64 of 24 to 64 bytes.
func parseSecret(s staunch.Secret) ([]byte, error) {
	enc, ok := strings.CutPrefix(s.Reveal(), SecretPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: does not begin with %s", staunch.ErrInvalid, SecretPrefix)
	}
	b, err := base64.StdEncoding.DecodeString(enc)
	if err != nil {
		// The library's error would name a byte of the secret's position only,
		// yet there is nothing in it that helps.
		return nil, fmt.Errorf("%w: is not base64 after %s", staunch.ErrInvalid, SecretPrefix)
	}
	if len(b) < 24 || len(b) > 64 {
		return nil, fmt.Errorf("%w: has %d bytes, 24 to 64 are allowed", staunch.ErrInvalid, len(b))
	}
	return b, nil
}

// webhookRetry says for every status whether the same message may be taken
// later. The specification counts all but 2xx as failures; among those, what a
// person may mend at the receiver while we wait (a secret, a route, a proxy, a
// rate) is tried again, and what no time mends is not: redirects, 410 (the
// receiver is gone for good), and answers that say that this request itself is
// wrong for this receiver.
func webhookRetry(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusPaymentRequired, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusGone, http.StatusLengthRequired, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong,
		http.StatusUnsupportedMediaType, http.StatusRequestedRangeNotSatisfiable, http.StatusExpectationFailed,
		http.StatusUnprocessableEntity, http.StatusUpgradeRequired, http.StatusRequestHeaderFieldsTooLarge,
		http.StatusUnavailableForLegalReasons, http.StatusNotImplemented, http.StatusHTTPVersionNotSupported,
		http.StatusNetworkAuthenticationRequired:
		return false
	}
	return status >= 400 && status <= 599
}
