package ledger

import "testing"

func TestJudgeAudit(t *testing.T) {
	t.Parallel()
	line := func(policy, key, op, path string, data map[string]any, problem string) AuditEntry {
		var e AuditEntry
		e.Type, e.Time, e.Error, e.Auth.Policies = "response", "2026-01-02T03:04:05.678Z", problem, []string{policy}
		e.Request.Operation, e.Request.Path, e.Request.Data = op, path, data
		if key != "" {
			e.Request.Headers = map[string][]string{"x-staunch-step": {key}}
		}
		return e
	}
	off := line("act", "stp_e", "update", "identity/entity/id/E", map[string]any{"disabled": true}, "")
	on := line("act", "stp_e", "update", "identity/entity/id/E", map[string]any{"disabled": false}, "")
	revoke := line("act", "stp_t", "update", "auth/token/revoke-accessor", nil, "")
	gone := line("act", "stp_t", "update", "auth/token/revoke-accessor", nil, "invalid accessor")
	intents := []Intent{{Key: "stp_e", Undo: true}, {Key: "stp_t", Final: true}}
	for name, c := range map[string]struct {
		lines                []AuditEntry
		lost, doubled, wrong int
	}{
		"all is well":             {lines: []AuditEntry{off, revoke, on}},
		"refused, since it is so": {lines: []AuditEntry{off, revoke, gone, on}},
		"disabled twice":          {lines: []AuditEntry{off, off, revoke, on}, doubled: 1},
		"revoked twice":           {lines: []AuditEntry{off, revoke, revoke, on}, doubled: 1},
		"never revoked":           {lines: []AuditEntry{off, gone, on}, lost: 1},
		"never enabled":           {lines: []AuditEntry{off, revoke}, lost: 1},
		"no key":                  {lines: []AuditEntry{off, revoke, on, line("act", "", "update", "auth/token/revoke", nil, "")}, wrong: 1, doubled: 1},
		"the prover acts":         {lines: []AuditEntry{off, revoke, on, line("proof", "stp_t", "update", "sys/leases/revoke", nil, "denied")}, wrong: 1},
		"another's entity":        {lines: []AuditEntry{off, revoke, on, line("act", "stp_e", "update", "identity/entity/id/F", nil, "denied")}, wrong: 1},
		"a policy is written":     {lines: []AuditEntry{off, revoke, on, line("act", "stp_e", "update", "sys/policies/acl/x", nil, "denied")}, wrong: 1},
		"others are left alone":   {lines: []AuditEntry{off, revoke, on, line("root", "", "delete", "identity/entity/id/F", nil, "")}},
		"reads are no changes":    {lines: []AuditEntry{off, revoke, on, line("act", "", "update", "auth/token/lookup-accessor", nil, "")}},
	} {
		j := Vault(c.lines, "act", "proof", "E")
		lost, doubled, _ := j.Account(intents, "E")
		if len(lost) != c.lost || len(doubled) != c.doubled || len(j.Wrong) != c.wrong {
			t.Errorf("%s: lost %v, doubled %v, wrong %v", name, lost, doubled, j.Wrong)
		}
	}
}
