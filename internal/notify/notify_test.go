package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record"
)

var update = flag.Bool("update", false, "write the golden files")

func message() Message {
	return Message{
		V: 1, ID: "msg_0123456789", Kind: KindContained, Containment: "con_4f5e6d",
		Subject:  staunch.Ref{Kind: staunch.KindCredential, Realm: "vault/prod", Scheme: "accessor", Value: "hmac-accessor-1"},
		Identity: Who{Name: "ci-deployer", Kind: staunch.IdentityService, Owner: "payments", Environment: "prod"},
		Tier:     staunch.TierRevoke, Verdict: staunch.VerdictContain,
		Why:     []string{"used from outside its address ranges (203.0.113.7)", "leak report: token found in a public repository"},
		Held:    []string{"guard denies *", "revoke credential:vault/prod:accessor:hmac-accessor-1#token: proven"},
		Release: "staunch release con_4f5e6d\nA release would revive a secret that may be stolen: rotate it first.",
		URL:     "https://staunch.example.com/containments/con_4f5e6d?a=1&b=2", At: 1_790_000_000_123_456,
	}
}

func hostile() Message {
	m := message()
	m.ID, m.Identity.Name = "msg_hostile", "<!channel> *bold* `code` ~gone~ &amp; \u202eevil\n\nnext"
	m.Identity.Owner, m.Identity.Environment = "<@U123>", ""
	m.Subject.Value = "</script><https://evil.example|click>`"
	m.Why = []string{"<https://evil.example|Release it> now", "*Why*\n• forged", strings.Repeat("&", 1000)}
	m.Held = nil
	for i := range 30 {
		m.Held = append(m.Held, fmt.Sprintf("%d %s", i, strings.Repeat("héld😀", 200)))
	}
	m.URL = "javascript:alert(1)"
	m.Release = strings.Repeat("`<&", 500)
	return m
}

func minimal() Message {
	return Message{V: 1, ID: "msg_min", Kind: "breaker.reset", Subject: staunch.IdentityRef("x")}
}

func TestGolden(t *testing.T) {
	for name, m := range map[string]Message{"contained": message(), "hostile": hostile(), "minimal": minimal()} {
		for form, v := range map[string]any{
			"slack": SlackBlocks(m), "webhook": WebhookBody{V: staunch.Version, Type: m.Kind, Timestamp: m.At, Data: m},
		} {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if err := enc.Encode(v); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+"."+form+".json")
			if *update {
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("%s differs (run with -update and read the difference):\n%s", path, b.Bytes())
			}
		}
	}
}

// Whatever a message has in it, Slack's limits hold and nothing in it becomes a
// mention or a link.
func TestSlackIsSafeWhateverIsInTheMessage(t *testing.T) {
	// Runs of what matters, with anything between.
	text := rapid.OneOf(rapid.StringN(0, 4000, -1), rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]string{"<", ">", "&", "`", "*", "😀", "\n", "a", "<!here>"}), 0, 3000),
		func(s []string) string { return strings.Join(s, "") }))
	rapid.Check(t, func(t *rapid.T) {
		m := Message{
			V: 1, ID: "x", Kind: KindContained, Containment: text.Draw(t, "case"),
			Subject:  staunch.Ref{Kind: staunch.KindAccount, Realm: "r", Scheme: "s", Value: text.Draw(t, "value")},
			Identity: Who{Name: text.Draw(t, "name"), Owner: text.Draw(t, "owner")},
			Why:      rapid.SliceOfN(text, 0, 20).Draw(t, "why"), Held: rapid.SliceOfN(text, 0, 20).Draw(t, "held"),
			Release: text.Draw(t, "release"), URL: rapid.SampledFrom([]string{"", "https://h/?a=<b>|c&d", "://"}).Draw(t, "url"),
		}
		out := SlackBlocks(m)
		check := func(what string, s *SlackText, most int) {
			if !utf8.ValidString(s.Text) || units(s.Text) > most || s.Text == "" {
				t.Fatalf("%s: %d characters, at most %d: %q", what, units(s.Text), most, s.Text)
			}
			if s.Type != "mrkdwn" {
				if strings.ContainsAny(s.Text, "<>\n") {
					t.Fatalf("%s: %q", what, s.Text)
				}
				return
			}
			rest := strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "").Replace(s.Text)
			if strings.HasPrefix(rest, "<https://h/") && strings.HasSuffix(rest, "|Open the case>") {
				rest = strings.Trim(rest, "<>")
			}
			if strings.ContainsAny(rest, "<>&\r") || !s.Verbatim {
				t.Fatalf("%s: %q", what, s.Text)
			}
		}
		if units(out.Text) > slackText || strings.ContainsAny(out.Text, "<>\n") {
			t.Fatalf("text %q", out.Text)
		}
		if len(out.Blocks) > 50 {
			t.Fatalf("%d blocks", len(out.Blocks))
		}
		for _, b := range out.Blocks {
			switch {
			case b.Type == "header":
				check("header", b.Text, 150)
			case b.Text != nil:
				check("section", b.Text, 3000)
			}
			if len(b.Fields) > 10 || len(b.Elements) > 10 {
				t.Fatalf("%d fields, %d elements", len(b.Fields), len(b.Elements))
			}
			for _, f := range append(b.Fields, b.Elements...) {
				check("field", f, 2000)
			}
		}
	})
}

func TestHeadlines(t *testing.T) {
	for _, c := range []struct {
		kind    Kind
		verdict staunch.Verdict
		want    string
	}{
		{KindContained, "", "Contained"}, {KindStage, "", "Containment raised"}, {KindApproval, "", "Waits for approval"},
		{KindReleased, "", "Released"}, {KindTrouble, "", "Containment needs a person"}, {KindResidual, "", "Contained subject still succeeds"},
		{KindExpired, "", "Containment expired"}, {KindExtended, "", "Containment extended"}, {KindTest, "", "Test message"},
		{KindDecision, "", "Decision made"}, {KindRecommend, staunch.VerdictRecommend, "Would contain"}, {KindDecision, staunch.VerdictRecommend, "Would contain"},
		{KindBreaker, staunch.VerdictProtected, "Not contained, protected"}, {KindCapped, staunch.VerdictCapped, "Not contained, cap reached"},
		{KindBreaker, staunch.VerdictBreaker, "Not contained, breaker open"}, {KindProtected, staunch.VerdictInform, "Decision protected"}, {"node.clock_jump", "", "Node clock jump"},
	} {
		if got := headline(Message{Kind: c.kind, Verdict: c.verdict}); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.verdict, got, c.want)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"a<b", 6, "a&lt;b"}, {"a<b", 5, "a…"}, {"<", 3, "…"}, {"😀😀", 4, "😀😀"}, {"😀😀", 3, "😀…"}, {"a\nb\x00c", 9, "a bc"}, {"", 1, ""},
	} {
		if got := escape(c.in, c.most); got != c.want {
			t.Errorf("%q in %d: %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

// The vector that the specification's own libraries are tested with.
func TestStandardWebhooksVector(t *testing.T) {
	k, err := parseSecret(staunch.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	h := signHeaders("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), [][]byte{k, k})
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got := h.Get("webhook-signature"); got != want+" "+want {
		t.Errorf("signature %s", got)
	}
	if h.Get("webhook-id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" || h.Get("webhook-timestamp") != "1614265330" {
		t.Errorf("headers %v", h)
	}
}

func TestParseSecret(t *testing.T) {
	enc := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for s, ok := range map[string]bool{
		enc(24): true, enc(64): true, enc(23): false, enc(65): false, "": false, "whsec_": false, enc(24)[6:]: false, "whsec_***": false,
	} {
		if _, err := parseSecret(staunch.NewSecret(s)); (err == nil) != ok || err != nil && (!errors.Is(err, staunch.ErrInvalid) || len(s) > 10 && strings.Contains(err.Error(), s[6:])) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

type fixedClock struct{ t time.Time }

func (c fixedClock) Now() time.Time { return c.t }

// open makes a channel that posts to srv; the test's end closes it.
func open(t *testing.T, typ Type, url string) Channel {
	t.Helper()
	c := Config{Name: "ops", Type: typ, URL: staunch.NewSecret(url), Timeout: 5 * time.Second}
	if typ == TypeWebhook {
		c.Secret = staunch.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	}
	b, closeIdle, err := Open(c, fixedClock{time.Unix(1_790_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeIdle)
	return b.Channel
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// Every status is a success, is tried again, or is not: no other is left.
func TestEveryStatusIsDeclared(t *testing.T) {
	const never, again = staunch.ClassPermanent, staunch.ClassTransient
	webhook, slack := map[int]staunch.Class{}, map[int]staunch.Class{}
	for s := 200; s <= 599; s++ {
		switch {
		case s < 300:
		case s < 400:
			webhook[s], slack[s] = never, never
		default:
			webhook[s] = again
			slack[s] = never
			if s >= 500 {
				slack[s] = again
			}
		}
	}
	for _, s := range []int{400, 402, 405, 406, 410, 411, 413, 414, 415, 416, 417, 422, 426, 431, 451, 501, 505, 511} {
		webhook[s] = never
	}
	for _, s := range []int{408, 425, 429} {
		slack[s] = again
	}
	for _, s := range []int{501, 505, 511} {
		slack[s] = never
	}
	status := 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "invalid_payload\x00\n")
	})
	for typ, want := range map[Type]map[int]staunch.Class{TypeWebhook: webhook, TypeSlack: slack} {
		ch := open(t, typ, url)
		for status = 200; status <= 599; status++ {
			err := ch.Send(t.Context(), message())
			if status < 300 {
				if err != nil {
					t.Errorf("%s %d: %v", typ, status, err)
				}
				continue
			}
			if err == nil || staunch.ClassOf(err) != want[status] {
				t.Errorf("%s %d: %v (%s), want %s", typ, status, err, staunch.ClassOf(err), want[status])
				continue
			}
			if !strings.Contains(err.Error(), fmt.Sprint(status)) || status != 304 && !strings.HasSuffix(err.Error(), "invalid_payload") {
				t.Errorf("%s %d: %v", typ, status, err)
			}
		}
	}
	for _, s := range []int{0, 100, 101, 199, 600, 999} {
		if webhookRetry(s) || slackRetry(s) {
			t.Errorf("%d is tried again", s)
		}
	}
}

func TestWebhookSends(t *testing.T) {
	var got *http.Request
	var body []byte
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		body, _ = io.ReadAll(r.Body)
	})
	m := message()
	if err := open(t, TypeWebhook, url+"/hook").Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got.Method != http.MethodPost || got.URL.Path != "/hook" || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s %v", got.Method, got.URL, got.Header)
	}
	key, _ := parseSecret(staunch.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	want := signHeaders(m.ID, time.Unix(1_790_000_000, 0), body, [][]byte{key})
	for name := range want {
		if got.Header.Get(name) != want.Get(name) {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want.Get(name))
		}
	}
	var back WebhookBody
	if err := json.Unmarshal(body, &back); err != nil || back.Data.ID != m.ID || back.Type != KindContained || back.Timestamp != m.At || back.Data.Subject != m.Subject {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestSlackHonoursRetryAfter(t *testing.T) {
	value := ""
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", value)
		w.WriteHeader(http.StatusTooManyRequests)
	})
	ch := open(t, TypeSlack, url)
	for v, want := range map[string]time.Duration{
		"30": 30 * time.Second, "007": 7 * time.Second, "0": 0, "99999999": MaxRetryAfter,
		time.Unix(1_790_000_060, 0).UTC().Format(http.TimeFormat): time.Minute,
		time.Unix(1_700_000_000, 0).UTC().Format(http.TimeFormat): 0,
		"": -1, "soon": -1, "-5": -1, "1.5": -1,
	} {
		value = v
		err := ch.Send(t.Context(), message())
		var after *RetryAfter
		if errors.As(err, &after) != (want >= 0) || want >= 0 && after.After != want || staunch.ClassOf(err) != staunch.ClassTransient {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	var elsewhere, delivered int
	other := serve(t, func(http.ResponseWriter, *http.Request) { elsewhere++ })
	to, status := "", 0
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/new":
			if r.Method == http.MethodPost && len(b) > 0 && r.Header.Get("Webhook-Signature") != "" {
				delivered++
			}
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		default:
			w.Header().Set("Location", to)
			w.WriteHeader(status)
		}
	})
	ch := open(t, TypeWebhook, url)
	for _, c := range []struct {
		to     string
		status int
		ok     bool
	}{
		{"/new", 307, true}, {url + "/new", 308, true}, {"/new", 302, false}, {"/new", 303, false}, {"/new", 301, false},
		{other, 307, false}, {other, 302, false}, {"https" + strings.TrimPrefix(url, "http"), 307, false}, {"/loop", 307, false}, {"", 307, false},
	} {
		to, status = c.to, c.status
		before := delivered
		err := ch.Send(t.Context(), message())
		if (err == nil) != c.ok || (delivered > before) != c.ok || err != nil && staunch.ClassOf(err) == staunch.ClassUnknown {
			t.Errorf("%d to %q: %v, delivered %d", c.status, c.to, err, delivered-before)
		}
	}
	if elsewhere != 0 {
		t.Errorf("%d requests reached another host", elsewhere)
	}
}

func TestErrorsShowNoURL(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"refused": "http://" + addr + "/services/T0/B0/verysecret", "no such host": "http://localhost:0/services/verysecret"} {
		err := open(t, TypeSlack, url).Send(t.Context(), message())
		if err == nil || strings.Contains(err.Error(), "verysecret") || staunch.ClassOf(err) != staunch.ClassTransient {
			t.Errorf("%s: %v (%s)", name, err, staunch.ClassOf(err))
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	wrote := 0
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for range 1024 { // 64 MiB, if anybody read it
			n, err := w.Write(chunk)
			wrote += n
			if err != nil {
				return
			}
		}
	})
	err := open(t, TypeSlack, url).Send(t.Context(), message())
	if err == nil || len(err.Error()) > 400 {
		t.Fatalf("got %v", err)
	}
}

func TestASlowAnswerTimesOut(t *testing.T) {
	done := make(chan struct{})
	url := serve(t, func(http.ResponseWriter, *http.Request) { <-done })
	defer close(done)
	b, closeIdle, err := Open(Config{Name: "x", Type: TypeSlack, URL: staunch.NewSecret(url), Timeout: 50 * time.Millisecond}, staunch.SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle()
	if err := b.Channel.Send(t.Context(), message()); staunch.ClassOf(err) != staunch.ClassTransient {
		t.Fatalf("got %v", err)
	}
}

func TestRefusedAddresses(t *testing.T) {
	// The dialler asks for it: a literal metadata address gets no connection.
	b, closeIdle, err := Open(Config{Name: "x", Type: TypeSlack, URL: staunch.NewSecret("http://169.254.169.254/"), AllowHTTP: true}, staunch.SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle()
	if err := b.Channel.Send(t.Context(), message()); !errors.Is(err, staunch.ErrForbidden) || staunch.ClassOf(err) != staunch.ClassPermanent {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good := Config{Name: "ops", Type: TypeWebhook, URL: staunch.NewSecret("https://hooks.example.com/x"), Secret: staunch.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}
	url := func(s string) func(*Config) { return func(c *Config) { c.URL = staunch.NewSecret(s) } }
	for name, c := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"good":            {func(*Config) {}, ""},
		"rotation":        {func(c *Config) { c.PreviousSecret = c.Secret }, ""},
		"http loopback":   {url("http://127.0.0.1:8080/x"), ""},
		"http localhost":  {url("http://localhost/x"), ""},
		"http ipv6":       {url("http://[::1]:80/x"), ""},
		"http allowed":    {func(c *Config) { url("http://receiver.internal/x")(c); c.AllowHTTP = true }, ""},
		"http":            {url("http://receiver.internal/x"), "url: invalid: is http"},
		"http lookalike":  {url("http://localhost.evil.example/x"), "url: invalid: is http"},
		"other scheme":    {url("file:///etc/passwd"), "url: invalid: is not a URL with a host"},
		"ftp":             {url("ftp://host/x"), "url: invalid: is neither"},
		"no host":         {url("https:///x"), "url: invalid: is not a URL"},
		"only a port":     {url("https://:443/x"), "url: invalid: is not a URL"},
		"empty":           {url(""), "url: invalid: is not a URL"},
		"credentials":     {url("https://user:pass@host/x"), "url: invalid: has credentials"},
		"fragment":        {url("https://host/x#y"), "url: invalid: has a fragment"},
		"no name":         {func(c *Config) { c.Name = "" }, "name: has 0"},
		"type":            {func(c *Config) { c.Type = "pager" }, "type: \"pager\" is not"},
		"no secret":       {func(c *Config) { c.Secret = staunch.Secret{} }, "secret: invalid: does not begin"},
		"previous secret": {func(c *Config) { c.PreviousSecret = staunch.NewSecret("whsec_x") }, "previous_secret: invalid: is not base64"},
		"slack secret":    {func(c *Config) { c.Type = TypeSlack }, "secret: is not used by Slack"},
		"timeout":         {func(c *Config) { c.Timeout = time.Hour }, "timeout: is 1h"},
	} {
		cfg := good
		c.edit(&cfg)
		_, closeIdle, err := Open(cfg, staunch.SystemClock{})
		if closeIdle != nil {
			closeIdle()
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || !errors.Is(err, staunch.ErrInvalid)):
			t.Errorf("%s: %v, want %q…", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "pass"):
			t.Errorf("%s: the error shows the URL: %v", name, err)
		}
	}
}

func TestMessageValidate(t *testing.T) {
	if err := message().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*Message){
		"version": func(m *Message) { m.V = 2 }, "no id": func(m *Message) { m.ID = "" }, "full stop": func(m *Message) { m.ID = "a.b" },
		"line end": func(m *Message) { m.ID = "a\r\nb" }, "long id": func(m *Message) { m.ID = strings.Repeat("a", 129) },
		"no kind": func(m *Message) { m.Kind = "" }, "kind": func(m *Message) { m.Kind = "Containment" }, "kind's end": func(m *Message) { m.Kind = "a." },
		"why": func(m *Message) { m.Why = make([]string, MaxLines+1) }, "held": func(m *Message) { m.Held = make([]string, MaxLines+1) },
	} {
		m := message()
		edit(&m)
		if _, err := m.Notice("ops", 1); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := message()
	m.Release = strings.Repeat("a", MaxBody)
	if _, err := m.Notice("ops", 1); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("long: %v", err)
	}
	n, err := message().Notice("ops", 7)
	if err != nil || n.Channel != "ops" || n.About != "con_4f5e6d" || n.Due != 7 || n.Made != 7 || n.Done != 0 {
		t.Fatalf("%+v, %v", n, err)
	}
	back, err := messageOf(n)
	if err != nil || back.Subject != message().Subject || back.Tier != staunch.TierRevoke {
		t.Errorf("%+v, %v", back, err)
	}
	if other, _ := message().Notice("other", 7); other.ID == n.ID {
		t.Error("two channels' notices have one id")
	}
}

func containment() (staunch.Containment, []staunch.Step) {
	role := staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/prod", Scheme: "role", Value: "ci"}
	step := func(attr string, v staunch.Verb, s staunch.StepState, note string) staunch.Step {
		return staunch.Step{Target: staunch.Target{Ref: role, Attribute: attr}, Verb: v, State: s, Note: note}
	}
	steps := []staunch.Step{
		step("login", staunch.VerbSuspend, staunch.StepProven, "ignored"),
		step("grants/app", staunch.VerbRestrict, staunch.StepFailed, "permission denied"),
		step("sessions", staunch.VerbIsolate, staunch.StepReverted, ""),
	}
	steps[0].Intent.Revives = true
	return staunch.Containment{
		V: 1, ID: "con_1", Subject: role, Identity: staunch.Identity{Name: "ci", Kind: staunch.IdentityService, Owner: "build", Environment: "prod"},
		Phase: staunch.PhaseHeld, Tier: staunch.TierIsolate, Reasons: []string{"used from outside"},
		Playbook: staunch.Playbook{Stages: []staunch.Stage{{Tier: staunch.TierIsolate, Deny: []string{"*"}}}},
	}, steps
}

func TestTeller(t *testing.T) {
	c, steps := containment()
	tell := Teller{Channels: []string{"ops", "siem"}, Link: func(id string) string { return "https://s.example/c/" + id }}
	rows := tell.Notices("contained", c, steps, 7)
	if len(rows) != 2 || rows[0].Channel != "ops" || rows[1].Channel != "siem" || rows[0].ID == rows[1].ID {
		t.Fatalf("rows %+v", rows)
	}
	m, err := messageOf(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	want := Message{
		V: 1, ID: m.ID, Kind: KindContained, Containment: "con_1", Subject: c.Subject, Tier: staunch.TierIsolate,
		Identity: Who{"ci", staunch.IdentityService, "build", "prod"}, Why: []string{"used from outside"},
		Held: []string{
			"guard denies *", "suspend account:pg/prod:role:ci#login: proven",
			"restrict account:pg/prod:role:ci#grants/app: failed (permission denied)",
		},
		Release: "staunch release con_1\nA release would revive a secret that may be stolen: rotate it first.",
		URL:     "https://s.example/c/con_1", At: 7,
	}
	if got, exp := fmt.Sprintf("%+v", m), fmt.Sprintf("%+v", want); got != exp {
		t.Errorf("message %s\nwant    %s", got, exp)
	}
	// The transaction runs again: the same rows. Another instant: another event.
	if again := tell.Notices("contained", c, steps, 7); again[0].ID != rows[0].ID {
		t.Error("the same event has another id")
	}
	if later := tell.Notices("contained", c, steps, 8); later[0].ID == rows[0].ID {
		t.Error("another event has the same id")
	}
	c.Notify = []string{"siem", "siem"}
	if rows := tell.Notices("contained", c, steps, 7); len(rows) != 1 || rows[0].Channel != "siem" {
		t.Errorf("named channels: %+v", rows)
	}
	// Too much is told shorter.
	c.Reasons = []string{strings.Repeat("x", MaxBody)}
	rows = tell.Notices("contained", c, steps, 7)
	if m, err := messageOf(rows[0]); err != nil || len(m.Why) != 1 || m.Why[0] != "too much to tell; see the case" {
		t.Errorf("too much: %+v, %v", m, err)
	}
	c.Reasons = make([]string, 3*MaxLines)
	if m := MessageOf("contained", c, nil, 7); len(m.Why) != MaxLines || m.Why[MaxLines-1] != "and 201 more" || m.Validate() != nil {
		t.Errorf("many reasons: %d, last %q", len(m.Why), m.Why[len(m.Why)-1])
	}
}

func TestDecisionNotices(t *testing.T) {
	tell := Teller{Channels: []string{"ops"}}
	d := staunch.Decision{
		V: 1, ID: "dec_1", Scope: staunch.IdentityRef("ci"), Tier: staunch.TierIsolate, Made: 5,
		Identity: staunch.Identity{Name: "ci"}, Reasons: []string{"used from outside"},
	}
	const at = staunch.Time(1_790_000_003_000_000)
	told := map[staunch.Verdict]Kind{
		staunch.VerdictRecommend: KindRecommend, staunch.VerdictProtected: KindProtected,
		staunch.VerdictCapped: KindCapped, staunch.VerdictBreaker: KindBreaker,
	}
	for _, v := range []staunch.Verdict{
		staunch.VerdictObserve, staunch.VerdictShadow, staunch.VerdictRecommend, staunch.VerdictContain, staunch.VerdictHeld,
		staunch.VerdictProtected, staunch.VerdictCapped, staunch.VerdictBreaker, staunch.VerdictApproval, staunch.VerdictInform,
	} {
		d.Verdict = v
		rows := tell.DecisionNotices(d, at)
		want := told[v]
		if (len(rows) == 1) != (want != "") {
			t.Errorf("%s: %d rows", v, len(rows))
			continue
		}
		if want == "" {
			continue
		}
		m, err := messageOf(rows[0])
		if err != nil || m.Kind != want || m.Subject != d.Scope || !strings.HasPrefix(m.Release, "staunch show dec_1\nNothing was done") || m.Kind.Urgent() != (v != staunch.VerdictRecommend) {
			t.Errorf("%s: %+v, %v", v, m, err)
		}
		if rows[0].About != "dec_1" || rows[0].Due != 1_790_000_010_000_000 || rows[0].Made != at {
			t.Errorf("%s: row %+v", v, rows[0])
		}
		// Another decision soon after takes its place; for a full cap, whoever it
		// is about.
		other := d
		other.ID = "dec_2"
		if again := tell.DecisionNotices(other, at+1); again[0].ID != rows[0].ID {
			t.Errorf("%s: the same subject makes another row", v)
		}
		other.Scope = staunch.IdentityRef("other")
		one := v == staunch.VerdictCapped || v == staunch.VerdictBreaker
		if again := tell.DecisionNotices(other, at); (again[0].ID == rows[0].ID) != one {
			t.Errorf("%s: another subject's row", v)
		}
		if later := tell.DecisionNotices(d, at+10_000_000); later[0].ID == rows[0].ID {
			t.Errorf("%s: a later row has the same id", v)
		}
	}
	d.Verdict, d.Notify = staunch.VerdictCapped, []string{"siem"}
	if rows := tell.DecisionNotices(d, at); len(rows) != 1 || rows[0].Channel != "siem" {
		t.Errorf("named channels: %+v", rows)
	}
}

func TestAuditMessages(t *testing.T) {
	chain, err := record.NewChain(make([]byte, record.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	heads := func(n int) []record.Head {
		out := make([]record.Head, n)
		for i := range out {
			out[i] = record.Head{Lane: fmt.Sprintf("node-%d/0", i), Seq: 7, Hash: strings.Repeat("ab", 32)}
		}
		return out
	}
	cp, err := chain.Checkpoint(time.Unix(1_790_000_000, 0), heads(2))
	if err != nil {
		t.Fatal(err)
	}
	n, err := CheckpointNotice("siem", cp)
	if err != nil || n.Channel != "siem" || n.Due != cp.At {
		t.Fatalf("%+v, %v", n, err)
	}
	m, err := messageOf(n)
	if err != nil || m.Kind != KindCheckpoint || !m.Kind.Urgent() || m.Checkpoint.Verify(chain.PublicKey()) != nil {
		t.Errorf("%+v, %v", m, err)
	}
	if again, err := CheckpointNotice("siem", cp); err != nil || again.ID != n.ID {
		t.Errorf("the same checkpoint makes another row: %v", err)
	}
	large, err := chain.Checkpoint(time.Unix(1_790_000_000, 0), heads(5000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckpointNotice("siem", large); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a checkpoint that is too long: %v", err)
	}
	// The receipt of a transparency log goes with it where there is room for both.
	cp.Logged = &record.LogReceipt{LogIndex: "7", CanonicalizedBody: []byte("{}")}
	if n, err = CheckpointNotice("siem", cp); err != nil {
		t.Fatal(err)
	}
	if m, err = messageOf(n); err != nil || m.Checkpoint.Logged == nil || m.Checkpoint.Logged.LogIndex != "7" {
		t.Errorf("%+v, %v", m.Checkpoint, err)
	}
	long, err := chain.Checkpoint(time.Unix(1_790_000_000, 0), heads(2000))
	if err != nil {
		t.Fatal(err)
	}
	long.Logged = &record.LogReceipt{CanonicalizedBody: make([]byte, MaxBody/2)}
	if n, err = CheckpointNotice("siem", long); err != nil {
		t.Fatalf("a checkpoint whose receipt is too long: %v", err)
	}
	if m, err = messageOf(n); err != nil || m.Checkpoint.Logged != nil || m.Checkpoint.Verify(chain.PublicKey()) != nil || long.Logged == nil {
		t.Errorf("a checkpoint whose receipt is too long: %v", err)
	}
	rows := Teller{Channels: []string{"ops", "siem"}}.LogChanged("lane node-1/0 record 7: truncated", 1_790_000_000_000_000)
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	if m, err = messageOf(rows[0]); err != nil || m.Kind != KindLogChanged || !m.Kind.Urgent() || m.Why[0] != "lane node-1/0 record 7: truncated" {
		t.Errorf("%+v, %v", m, err)
	}
	// They are about no subject, and Slack shows none.
	if s := SlackBlocks(m); s.Text != "The record log was changed" || s.Blocks[0].Text.Text != s.Text {
		t.Errorf("%+v", s)
	}
}

func TestWhatToDoNext(t *testing.T) {
	for name, c := range map[string]struct {
		event string
		edit  func(*staunch.Containment)
		want  string
	}{
		"held":     {"contained", func(*staunch.Containment) {}, "staunch release con_1"},
		"window":   {"stage", func(c *staunch.Containment) { c.Phase, c.WindowEnds = staunch.PhaseWindow, 1_790_000_000_000_000 }, "staunch clear con_1\nThe next stage follows at 2026-09-21T14:13:20.000000Z. What of it cannot be undone: staunch show con_1"},
		"approval": {"approval", func(c *staunch.Containment) { c.Phase = staunch.PhaseApproval }, "staunch show con_1\nNothing is done until someone approves it."},
		"released": {"released", func(c *staunch.Containment) { c.Phase = staunch.PhaseReleased }, ""},
	} {
		con, _ := containment()
		c.edit(&con)
		m := MessageOf(c.event, con, nil, 7)
		if m.Release != c.want {
			t.Errorf("%s: %q, want %q", name, m.Release, c.want)
		}
		if holds := len(m.Held) > 0; holds != (name == "held" || name == "window") {
			t.Errorf("%s: held %q", name, m.Held)
		}
	}
	con, _ := containment()
	con.Trouble = "the platform refused our credential"
	if m := MessageOf("trouble", con, nil, 7); m.Why[0] != "needs a person: the platform refused our credential" || !m.Kind.Urgent() {
		t.Errorf("trouble: %+v", m)
	}
	if m := MessageOf("Odd event!", con, nil, 7); m.Validate() != nil {
		t.Errorf("an odd event: %v", m.Validate())
	}
}

// TestCorrected: whoever was told that a containment was wrong is told that it was not,
// and where that leaves the rules.
func TestCorrected(t *testing.T) {
	con, _ := containment()
	con.Judged = &staunch.Judged{Verdict: staunch.JudgedRight, By: "ann", Reason: "the key was on a paste site", Given: 2}
	was := staunch.Judged{Verdict: staunch.JudgedWrong, By: "bob", Reason: "the backup job"}
	rows := Teller{Channels: []string{"ops", "siem"}}.Corrected(con, was, []RuleStand{
		{Rule: "dump", Mode: staunch.ModeRecommend, Declared: staunch.ModeEnforce, Right: 2},
		{Rule: "peek", Mode: staunch.ModeEnforce, Declared: staunch.ModeEnforce, Right: 1},
	}, 1_790_000_000_000_000)
	if len(rows) != 2 || rows[0].ID == rows[1].ID {
		t.Fatalf("%+v", rows)
	}
	m, err := messageOf(rows[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"it was called for, says ann: the key was on a paste site; before that bob judged it wrong: the backup job",
		"rule dump is in mode recommend (0 judged wrong, 2 right); its file says enforce",
		"rule peek is in mode enforce (0 judged wrong, 1 right)",
	}
	if !slices.Equal(m.Why, want) || m.Kind != KindCorrected || !m.Kind.Urgent() || m.Containment != con.ID ||
		!strings.HasPrefix(m.Release, "staunch trust promote dump\n") {
		t.Errorf("%+v", m)
	}
}
