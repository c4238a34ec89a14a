package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// TestEveryCommandIsDocumented: each says what it does in a line, and shows how
// it is used.
func TestEveryCommandIsDocumented(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	n := 0
	walk = func(c *cobra.Command) {
		n++
		generated := strings.HasPrefix(c.CommandPath(), "staunch completion") || c.Name() == "help"
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short %q", c.CommandPath(), c.Short)
		}
		if c.Example == "" && !generated && !c.HasSubCommands() {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			if c.Parent() == nil && sub.GroupID == "" && sub.Name() != "version" && sub.Name() != "completion" {
				t.Errorf("%s is in no group", sub.CommandPath())
			}
			walk(sub)
		}
	}
	walk(Root())
	if n < 30 {
		t.Errorf("only %d commands", n)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for i, c := range ExitCodes() {
		if c.Code != i || c.Name == "" || c.Means == "" || seen[c.Code] {
			t.Errorf("%+v at %d", c, i)
		}
		seen[c.Code] = true
	}
	answered := func(status int, code string) error {
		return fmt.Errorf("x: %w", &client.Error{Problem: api.Problem{Status: status, Code: code, Message: "m"}})
	}
	for _, tt := range []struct {
		err  error
		code int
	}{
		{nil, ExitOK},
		{errors.New("x"), ExitFailure},
		{usagef("x"), ExitUsage},
		{fmt.Errorf("x: %w", bad("y")), ExitBad},
		{&staunch.Problem{Reason: "x"}, ExitBad},
		{fmt.Errorf("x: %w", os.ErrNotExist), ExitFailure},
		{answered(400, api.CodeInvalid), ExitBad},
		{answered(401, api.CodeUnauthenticated), ExitDenied},
		{answered(403, api.CodeForbidden), ExitDenied},
		{answered(404, api.CodeNotFound), ExitNotFound},
		{answered(409, api.CodeConflict), ExitConflict},
		{answered(409, api.CodeRevives), ExitConflict},
		{answered(413, api.CodeTooLarge), ExitBad},
		{answered(429, api.CodeOverloaded), ExitUnavailable},
		{answered(500, api.CodeInternal), ExitFailure},
		{answered(502, api.CodePlatformUnavailable), ExitUnavailable},
		{answered(503, api.CodeCommitUnknown), ExitUnavailable},
		{client.ErrUnreachable, ExitUnavailable},
	} {
		if got := exitCode(tt.err); got != tt.code {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.code)
		}
	}
}

// run runs a command line against a server that gives the answers by path.
func run(t *testing.T, answers map[string]any, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers[r.Method+" "+r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if p, ok := a.(api.Problem); ok {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(p.Status)
		}
		_ = json.NewEncoder(w).Encode(a)
	}))
	defer srv.Close()
	var out, errs bytes.Buffer
	env := map[string]string{"STAUNCH_URL": srv.URL, "STAUNCH_TOKEN": "t", "HOME": t.TempDir()}
	code = Main(t.Context(), args, Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(k string) string { return env[k] }})
	return code, out.String(), errs.String()
}

// TestNothingReachesTheTerminal: what a thief wrote into a log is shown, and
// not obeyed.
func TestNothingReachesTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "\x1b]0;owned\x07\x1b[2J\u202e\nfake line"
	c := api.Case{V: 1, Containment: staunch.Containment{ID: "con_1", Reasons: []string{evil}, Subject: staunch.Ref{Kind: staunch.KindAccount, Realm: "r", Scheme: "s", Value: "x\x1b[31m"}, Trouble: evil},
		Timeline: []api.Moment{{Kind: "record", Text: evil, Actor: evil}}, Revives: []string{evil},
		Steps: []staunch.Step{{Before: evil, After: evil, Intent: staunch.Intent{Undo: evil}}},
		Plans: []staunch.Plan{{Gaps: []staunch.Gap{{Reason: evil}}}}}
	code, out, _ := run(t, map[string]any{"GET /v1/containments/con_1": c}, "show", "con_1")
	if code != 0 || strings.ContainsAny(out, "\x1b\x07") || strings.Contains(out, "\u202e") || strings.Contains(out, "\nfake line") || !strings.Contains(out, `\u001b`) {
		t.Errorf("%d %q", code, out)
	}
	code, _, errs := run(t, map[string]any{"GET /v1/containments/con_1": api.Problem{Status: 409, Code: api.CodeRevives, Message: evil, Hint: evil, Revives: []string{evil}, Problems: []api.Fault{{Place: evil, Message: evil}}}}, "show", "con_1")
	if code != ExitConflict || strings.ContainsAny(errs, "\x1b\x07") {
		t.Errorf("%d %q", code, errs)
	}
	rapid.Check(t, func(t *rapid.T) {
		s := clean(rapid.String().Draw(t, "s"))
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e }) {
			t.Fatalf("%q", s)
		}
	})
}

// TestYAML: YAML says what JSON says, whatever is in it.
func TestYAML(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{
			"v": 1, "s": rapid.String().Draw(t, "s"), "word": rapid.SampledFrom([]string{"yes", "null", "1e3", "~", "0x1", "- a", "a: b", "#", "2026-01-01", "", " ", "é\u2028", "\u0085", "a\u0085b", "\ufeff", "a\n b\n", "\t", "\x1b[2J", "\u200b", "\x7f"}).Draw(t, "w"),
			"list": rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "l"), "empty": map[string]any{}, "none": nil, "f": 0.5,
		}
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := writeYAML(&b, json.RawMessage(j)); err != nil {
			t.Fatal(err)
		}
		var fromYAML any
		if err := yaml.Load(b.Bytes(), &fromYAML); err != nil {
			t.Fatalf("%v in\n%s", err, b.Bytes())
		}
		var fromJSON any
		if err := json.Unmarshal(j, &fromJSON); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(fromJSON)
		if !bytes.Equal(again, want) {
			t.Fatalf("%s\nbecame\n%s\nby\n%s", want, again, b.Bytes())
		}
	})
}

func TestAnswersOfOthers(t *testing.T) {
	t.Parallel()
	// Not staunch at all.
	code, _, errs := run(t, nil, "list")
	if code != ExitFailure || !strings.Contains(errs, "status 418") || !strings.Contains(errs, "hint: is the URL that of staunch?") {
		t.Errorf("%d %s", code, errs)
	}
	code, _, errs = run(t, map[string]any{"GET /v1/containments": "hello"}, "list")
	if code != ExitBad || !strings.Contains(errs, "error: ") {
		t.Errorf("%d %s", code, errs)
	}
	// A later release's answer is not guessed at.
	code, _, errs = run(t, map[string]any{"GET /v1/containments": api.Containments{V: 2}}, "list")
	if code != ExitBad || !strings.Contains(errs, "version 2") {
		t.Errorf("%d %s", code, errs)
	}
	// Several problems are all told.
	code, _, errs = run(t, map[string]any{"POST /v1/reload": api.Problem{Status: 400, Code: api.CodeInvalid, Message: "2 problems", Problems: []api.Fault{{Place: "a.yml:1", Message: "x"}, {Place: "b.yml:2", Message: "y"}}}}, "reload")
	if code != ExitBad || !strings.Contains(errs, "a.yml:1: x") || !strings.Contains(errs, "b.yml:2: y") {
		t.Errorf("%d %s", code, errs)
	}
	code, _, errs = run(t, map[string]any{"GET /v1/doctor": api.Problem{Status: 500, Code: api.CodeInternal, Message: "something failed inside", RequestID: "abc"}}, "doctor")
	if code != ExitFailure || !strings.Contains(errs, "request abc") {
		t.Errorf("%d %s", code, errs)
	}
	code, out, errs := run(t, map[string]any{"GET /v1/doctor": api.Diagnosis{V: 1, Checks: []api.Check{{Name: "realm pg/main", Status: "error", Message: "no route", Hint: "open the port"}}}}, "doctor")
	if code != ExitBad || !strings.Contains(out, "no route") || !strings.Contains(errs, "error: 1 check failed") {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

// TestUntrustedCertificate: a server whose certificate is not trusted runs, so the
// hint is about the certificate.
func TestUntrustedCertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	var stderr bytes.Buffer
	env := Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr, Getenv: func(string) string { return "" }}
	if code := Main(t.Context(), []string{"list", "--token", "x", "--url", srv.URL}, env); code != ExitUnavailable || !strings.Contains(stderr.String(), "hint: the server's certificate is not trusted here: --ca-file") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

// TestTables has every listing and answer printed once with something in it.
func TestTables(t *testing.T) {
	t.Parallel()
	ref := staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: "app_rw"}
	answers := map[string]any{
		"GET /v1/containments": api.Containments{V: 1, Next: "con_9", Items: []staunch.Containment{{ID: "con_9", Subject: ref, Opened: 1}}},
		"GET /v1/signals":      api.Signals{V: 1, Items: []staunch.Signal{{ID: "sig_1", Rule: "r1", Accused: ref, Confidence: 0.5, Time: 1}}},
		"GET /v1/decisions":    api.Decisions{V: 1, Items: []staunch.Decision{{ID: "dec_1", Subject: ref, Verdict: staunch.VerdictContain}}},
		"GET /v1/holds":        api.Holds{V: 1, Items: []staunch.Hold{{ID: "hld_1", Target: staunch.Target{Ref: ref, Attribute: "login"}, Claims: []string{"con_9"}}}},
		"GET /v1/identities":   api.Identities{V: 1, Items: []staunch.Identity{{Name: "app", Kind: staunch.IdentityService}}},
		"GET /v1/identity": api.Known{V: 1, Resolution: staunch.Resolution{Ref: ref, Up: []staunch.Ref{staunch.IdentityRef("app")}}, Truncated: true,
			Suspicion: staunch.Suspicion{Confidence: 0.75, Reasons: []staunch.Contribution{{Rule: "r1", Source: "trail", Weight: 0.5, Why: "decay"}}},
			Lineage:   api.Lineage{Ref: ref, Children: []api.Lineage{{Ref: ref, Rel: staunch.RelBy, Seen: true, Children: []api.Lineage{{Ref: ref, Rel: staunch.RelOf}}}}},
			Cases:     []staunch.Containment{{ID: "con_9", Subject: ref}}},
		"POST /v1/plan": api.Draft{V: 1, Tier: 3, Playbook: "revoke", Roots: []staunch.Ref{ref}, Derived: []staunch.Ref{ref}, Deny: []string{"*"},
			Items: []api.DraftItem{{Connector: "postgresql", Found: "LOGIN", Intent: staunch.Intent{Verb: staunch.VerbSuspend, Target: staunch.Target{Ref: ref, Attribute: "login"}, Call: "ALTER ROLE", Undo: "ALTER ROLE LOGIN", Revives: true}}},
			Gaps:  []staunch.Gap{{Ref: ref, Reason: "cannot", Widen: staunch.IdentityRef("app")}}},
		"POST /v1/breakers/reset":             api.BreakerChanged{V: 1},
		"POST /v1/groups/health":              api.GroupHealthKept{V: 1, GroupHealth: api.GroupHealth{Healthy: 9, Of: 10}, Contained: 2},
		"POST /v1/containments/con_9/approve": api.Changed{V: 1, Containment: staunch.Containment{ID: "con_9", Phase: staunch.PhaseWindow, WindowEnds: 5}},
		"GET /v1/records/verify":              map[string]any{"v": 1, "records": 3, "heads": []any{}, "breaks": []any{map[string]any{"kind": "edited", "lane": "a", "seq": 2, "reason": "r"}}},
	}
	for _, tt := range []struct {
		args []string
		want []string
		code int
	}{
		{[]string{"list"}, []string{"con_9", "more: --after con_9"}, 0},
		{[]string{"list", "signals"}, []string{"sig_1", "0.50"}, 0},
		{[]string{"list", "decisions"}, []string{"dec_1", "contain"}, 0},
		{[]string{"list", "holds", "--all"}, []string{"hld_1", "#login", "con_9"}, 0},
		{[]string{"list", "identities"}, []string{"app", "service"}, 0},
		{[]string{"identity", ref.String()}, []string{"0.75", "part of", "decay", "issued by it", "shown above", "… and more", "con_9"}, 0},
		{[]string{"plan", ref.String(), "--tier", "revoke"}, []string{"1 step", "ALTER ROLE LOGIN (revives", "identity:app would cover it", "derived"}, 0},
		{[]string{"group", "report", "--purpose", "web", "--healthy", "9", "--of", "10"}, []string{"9 of 10 are healthy; the report knows of 2 containments"}, 0},
		{[]string{"approve", "con_9", "--scope-hash", "x", "--plan-hash", "y"}, []string{"con_9 is window, its window ends"}, 0},
		{[]string{"breaker", "reset", "global"}, []string{"is closed"}, 0},
		{[]string{"audit", "verify"}, []string{"lane a record 2: edited: r"}, ExitBad},
	} {
		code, out, errs := run(t, answers, tt.args...)
		if code != tt.code {
			t.Errorf("%v: %d %s", tt.args, code, errs)
		}
		for _, w := range tt.want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: %q is not in\n%s", tt.args, w, out)
			}
		}
		for _, form := range []string{"json", "yaml"} {
			if code, out, _ := run(t, answers, append(tt.args, "-o", form)...); code != tt.code || !strings.Contains(out, "v") {
				t.Errorf("%v -o %s: %d %s", tt.args, form, code, out)
			}
		}
	}
}

// TestExportThatIsCutOff leaves no file behind that looks whole.
func TestExportThatIsCutOff(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"v":1,"kind":"staunch.records"}`+"\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "records.ndjson")
	var errs bytes.Buffer
	code := Main(context.Background(), []string{"audit", "export", "--file", file, "--url", srv.URL}, Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &errs, Getenv: func(string) string { return "" }})
	if code == 0 {
		t.Error("a success")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	// One that ends without a checkpoint is kept, as evidence, and told.
	code, _, told := run(t, map[string]any{"GET /v1/records/export": map[string]any{"v": 1, "kind": "staunch.records"}}, "audit", "export", "--file", file)
	if code != ExitBad || !strings.Contains(told, "no checkpoint") {
		t.Errorf("%d %s", code, told)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
