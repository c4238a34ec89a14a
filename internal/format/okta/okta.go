// Package okta reads Okta's System Log, as its API, log streams and event hooks
// deliver it. What the records mean is in mapping.yaml, and the names it gives
// in README.md.
package okta

import (
	_ "embed"
	"encoding/json"
	"net/http"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/mapping"
)

//go:embed mapping.yaml
var source []byte

// Format is okta.system_log; it answers the verification of event hooks.
type Format struct{ *mapping.Format }

var (
	_ format.Format       = Format{}
	_ format.PushVerifier = Format{}
)

// New returns the format okta.system_log.
func New() (format.Format, error) {
	f, err := mapping.Compile(source, "internal/format/okta/mapping.yaml", mapping.Options{})
	if err != nil {
		return nil, err
	}
	return Format{f}, nil
}

// ChallengeHeader is the header of the one GET by which Okta makes sure that an
// event hook's owner wants it.
const ChallengeHeader = "X-Okta-Verification-Challenge"

// maxChallenge bounds the value that is sent back.
const maxChallenge = 1024

// Challenge answers Okta's verification request: the header's value, as JSON.
func (Format) Challenge(w http.ResponseWriter, r *http.Request) bool {
	v := r.Header.Get(ChallengeHeader)
	if r.Method != http.MethodGet || v == "" {
		return false
	}
	if len(v) > maxChallenge {
		http.Error(w, ChallengeHeader+" is too long", http.StatusBadRequest)
		return true
	}
	body, err := json.Marshal(map[string]string{"verification": v})
	if err != nil { // strings always marshal
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return true
	}
	w.Header().Set("Content-Type", "application/json")
	// A failed write is the caller's to notice: it asks again.
	_, _ = w.Write(body)
	return true
}
