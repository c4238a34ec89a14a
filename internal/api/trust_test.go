package api

import (
	"net/http"
	"testing"
)

func TestTrustRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct {
		method, path string
		body         any
		want         int
	}{
		{"GET", "/v1/trust", nil, http.StatusOK},
		{"GET", "/v1/trust?all=true&limit=5", nil, http.StatusOK},
		{"GET", "/v1/trust?limit=1001", nil, http.StatusBadRequest},
		{"GET", "/v1/trust/rule?rule=known", nil, http.StatusOK},
		{"GET", "/v1/trust/rule?rule=other", nil, http.StatusNotFound},
		{"GET", "/v1/trust/rule", nil, http.StatusBadRequest},
		{"POST", "/v1/trust/promote", `{"rule":"known","reason":"ready"}`, http.StatusOK},
		{"POST", "/v1/trust/demote", `{"rule":"known","reason":"noisy","to":"shadow"}`, http.StatusOK},
		{"POST", "/v1/trust/demote", `{"rule":"other","reason":"noisy"}`, http.StatusNotFound},
		{"POST", "/v1/trust/promote", `{"rule":"known"}`, http.StatusBadRequest},
		{"POST", "/v1/trust/promote", `{"rule":"known","reason":" "}`, http.StatusBadRequest},
		{"POST", "/v1/trust/promote", `{"rule":"kn\u0000own","reason":"x"}`, http.StatusBadRequest},
		{"POST", "/v1/trust/promote", `{"rule":"known","reason":"x","to":"revoke"}`, http.StatusBadRequest},
	} {
		if a := r.do("approver", c.method, c.path, c.body); a.Code != c.want {
			t.Errorf("%s %s %v: %d, want %d: %s", c.method, c.path, c.body, a.Code, c.want, a.Body)
		}
	}
	// A release that judges says so in an enum.
	con := r.contain(appRW)
	if a := r.do("responder", "POST", "/v1/containments/"+con.ID+"/release", `{"reason":"x","verdict":"perhaps"}`); a.Code != http.StatusBadRequest {
		t.Errorf("an unknown verdict: %d %s", a.Code, a.Body)
	}
}
