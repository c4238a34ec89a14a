package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
)

// drillOf is a configuration with a drill that sends what keys say.
func drillOf(keys string) string {
	return "sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: s, " + keys + "}]\n"
}

func TestParseDefaults(t *testing.T) {
	c, err := Parse([]byte("sources:\n  - {name: a, format: json, realm: x/y, tail: {path: log}}\n"), "/etc/staunch/staunch.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Sources[0]
	switch {
	case c.Mode != staunch.ModeShadow:
		t.Errorf("mode is %v, want shadow", c.Mode)
	case c.Listen != DefaultListen:
		t.Errorf("listen is %s", c.Listen)
	case c.KeyFile != "/etc/staunch/data/staunch.key":
		t.Errorf("key file is %s", c.KeyFile)
	case s.Skew.Std() != 5*time.Minute || s.Lateness.Std() != time.Hour || *s.Ceiling != staunch.TierIsolate:
		t.Errorf("source defaults are %+v", s)
	case s.Tail.Path != "/etc/staunch/log" || !*s.Tail.FromStart:
		t.Errorf("tail is %+v", s.Tail)
	}
}

func TestCheckpointFile(t *testing.T) {
	for in, want := range map[string]string{
		"v: 1\n":                             "",
		"audit: {checkpoint_every: 1h}\n":    "/etc/staunch/data/checkpoints.ndjson",
		"audit: {checkpoint_file: out/cp}\n": "/etc/staunch/out/cp",
		"data_dir: /var/lib/staunch\naudit: {checkpoint_every: 24h}\n": "/var/lib/staunch/checkpoints.ndjson",
	} {
		c, err := Parse([]byte(in), "/etc/staunch/staunch.yaml")
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if c.Audit.CheckpointFile != want {
			t.Errorf("%q: %q, want %q", in, c.Audit.CheckpointFile, want)
		}
	}
}

func TestRetention(t *testing.T) {
	c, err := Parse([]byte("retention: {events: 45d, signals: forever, facts: forever, decisions: 36h, max_size: 20GiB}\n"), "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := c.Retention
	if r.Events.Std() != 45*24*time.Hour || r.Signals != Forever || r.Decisions.Std() != 36*time.Hour || r.Containments != DefaultKeepContainments || r.MaxSize != 20<<30 {
		t.Errorf("retention is %+v", r)
	}
	for text, want := range map[string]string{"30d": "30d", "720h": "30d", "90m": "1h30m0s", "forever": "forever", "0": "0s"} {
		var a Age
		if err := a.UnmarshalText([]byte(text)); err != nil || a.String() != want {
			t.Errorf("%s reads as %s: %v", text, a, err)
		}
	}
	for text, want := range map[string]string{"20GiB": "20GiB", "2048MiB": "2GiB", "1500KiB": "1500KiB", "0": "0", "7B": "7B"} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b.String() != want {
			t.Errorf("%s reads as %s: %v", text, b, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "99999d", "-3h", "1w", "ever"} {
		if err := new(Age).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for an age", text)
		}
	}
	for _, text := range []string{"", "GiB", "1.5GiB", "-1GiB", "20GB", "20", "99999999999TiB"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for a size", text)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range refusals() {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.in), "c.yaml")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error is %v, want it to have %q", err, tc.want)
			}
			if !errors.Is(err, staunch.ErrInvalid) {
				t.Errorf("error is not ErrInvalid")
			}
		})
	}
}

// The same key of a transparency log in two forms.
const (
	logKey      = "MCowBQYDK2VwAyEAt8rlp1knGwjfbcXAYPYAkn0XiLz1x8O4t0YkEhie244="
	verifierKey = "log.example.org/one+9ae2219c+AbfK5adZJxsI323FwGD2AJJ9F4i89cfDuLdGJBIYntuO"
)

// TestTransparencyLog: the origin is the key's name, or else what is given, or
// else the address's host.
func TestTransparencyLog(t *testing.T) {
	for in, want := range map[string]string{
		"{url: 'https://log.example.org:8443/x', key: '" + logKey + "'}":              "log.example.org",
		"{url: 'http://127.0.0.1:3000', key: '" + logKey + "', origin: rekor.test}":   "rekor.test",
		"{url: 'https://log.example.org', key: '" + verifierKey + "'}":                "log.example.org/one",
		"{url: 'https://x', key: '" + verifierKey + "', origin: log.example.org/one}": "log.example.org/one",
	} {
		c, err := Parse([]byte("audit: {transparency_log: "+in+"}\n"), "c.yaml")
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if l := c.Audit.TransparencyLog.Log(); l.Origin() != want || l.Key() != logKey {
			t.Errorf("%s: the log is %s with the key %s", in, l.Origin(), l.Key())
		}
	}
}

// refusals are configurations that are refused, and what the error has.
func refusals() map[string]struct{ in, want string } {
	return map[string]struct{ in, want string }{
		"retention age":       {"retention: {events: soon}\n", "is not an age"},
		"retention size":      {"retention: {max_size: 20GB}\n", "is not a size"},
		"retention order":     {"retention: {events: 2h}\n", "retention.events: is 2h0m0s, at least 1d is needed"},
		"retention trust":     {"retention: {signals: 1d}\n", "trust.for counts signals"},
		"retention small":     {"retention: {max_size: 1MiB}\n", "at least 64MiB is needed"},
		"retention postgres":  {"postgres_url: postgres://x\nretention: {max_size: 1GiB}\n", "is for SQLite"},
		"unknown key":         {"v: 1\nlisten: 127.0.0.1:1\nlitsen: x\n", "c.yaml:3"},
		"unknown nested key":  {"realms:\n  - name: a\n    platform: b\n    colour: c\n", "c.yaml:4"},
		"duplicate key":       {"v: 1\nv: 1\n", "c.yaml"},
		"not yaml":            {"a: [", "c.yaml"},
		"version":             {"v: 2\n", "v: is 2"},
		"wide without tls":    {"listen: 0.0.0.0:80\n", "not loopback"},
		"metrics open wide":   {"listen: 0.0.0.0:80\ntls: {cert: a, key: b}\nmetrics_open: true\n", "loopback only"},
		"realm twice":         {"realms: [{name: a, platform: p}, {name: a, platform: p}]\n", "configured twice"},
		"realm name":          {"realms:\n\n  - {name: 'a b', platform: p}\n", "c.yaml:3"},
		"source without form": {"sources: [{name: a, realm: r}]\n", "format: is missing"},
		"generic no mapping":  {"sources: [{name: a, realm: r, format: generic}]\n", "needs a mapping"},
		"source slash":        {"sources: [{name: a/b, realm: r, format: json}]\n", "not a source's name"},
		"tier":                {"sources: [{name: a, realm: r, format: json, ceiling: total}]\n", "not a tier"},
		"duration":            {"sources: [{name: a, realm: r, format: json, skew: 5}]\n", "not a duration"},
		"fail mode":           {"guard: {fail_mode: shrug}\n", "fail_mode"},
		"unsigned webhook":    {"notify: [{name: a, type: webhook, url: 'https://x'}]\n", "signed"},
		"checkpoints often":   {"audit: {checkpoint_every: 5s}\n", "at least 1m0s"},
		"checkpoints nowhere": {"audit: {checkpoint_channel: a}\nnotify: [{name: a, type: slack, url: 'https://x'}]\n", "not a channel of type webhook"},
		"log without key":     {"audit: {transparency_log: {url: 'https://log.example.org'}}\n", "audit.transparency_log.key: is missing"},
		"log without url":     {"audit: {transparency_log: {key: '" + logKey + "'}}\n", "audit.transparency_log.url"},
		"log in the clear":    {"audit: {transparency_log: {url: 'http://log.example.org', key: '" + logKey + "'}}\n", "audit.transparency_log.url: invalid: is http"},
		"log not a key":       {"audit: {transparency_log: {url: 'https://log.example.org', key: YWJj}}\n", "audit.transparency_log.key"},
		"log other name":      {"audit: {transparency_log: {url: 'https://log.example.org', key: '" + verifierKey + "', origin: other}}\n", "is that of \"log.example.org/one\""},
		"drill source":        {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: t, record: \"{{id}}\"}]\n", "not a configured source"},
		"drill canary":        {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"identity:everybody\", source: s, record: \"{{id}}\"}]\n", "not an account, credential or session"},
		"drill label":         {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: s, record: \"x\"}]\n", "has to carry {{id}}"},
		"drill record":        {drillOf(``), "set either record or records"},
		"drill both":          {drillOf(`record: "{{id}}", records: ["{{id}}"]`), "set either record or records"},
		"drill label of one":  {drillOf(`records: ["{{id}}", x]`), "drills[0].records[1]: has to carry {{id}}"},
		"drill same":          {drillOf(`records: ["{{id}}", "{{id}}"]`), "drills[0].records[1]: is sent more than once"},
		"drill same again":    {drillOf(`record: "{{id}}", repeat: 2`), "has to carry {{n}}"},
		"drill many":          {drillOf(`records: ["{{id}} {{n}}", "{{n}} {{id}}"], repeat: 251`), "at most 500 records"},
		"drill large":         {drillOf(`record: "{{id}} {{n}} ` + strings.Repeat("x", 60<<10) + `", repeat: 20`), "131072 bytes together"},
		"drill few":           {drillOf(`record: "{{id}}", repeat: -1`), "repeat: is -1"},
		"drill apart":         {drillOf(`record: "{{id}} {{n}}", repeat: 3, apart: 31m`), "at most 1h0m0s old"},
		"drill often":         {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: s, record: \"{{id}}\", every: 5s}]\n", "at least 1m0s"},
		"drill twice":         {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: s, record: \"{{id}}\"}, {name: d, canary: \"account:r:x:y\", source: s, record: \"{{id}}\"}]\n", "configured twice"},
		"drill patience":      {"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: \"account:r:x:y\", source: s, record: \"{{id}}\", within: 2h}]\n", "from 1s to 1h"},
		"revoke sources":      {"suspicion: {revoke_sources: 9}\n", "not between 1 and 8"},
		"trust":               {"trust: {matches: -1}\n", "must not be negative"},
		"origin":              {"sources: [{name: s, format: json, realm: r, origin: 'a b'}]\n", "origin"},
		"environment":         {"postgres_url: !env STAUNCH_TEST_NOT_SET\n", "c.yaml:1"},
		"file":                {"v: 1\npostgres_url: !file nowhere\n", "c.yaml:2"},
	}
}

func TestSecretsComeFromOutside(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dsn"), []byte("postgres://from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STAUNCH_TEST_TOKEN", "from env: #1")
	c, err := Parse([]byte("postgres_url: !file dsn\nrealms:\n  - name: r\n    platform: p\n    connector: {token: !env STAUNCH_TEST_TOKEN}\n"), filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.PostgresURL.Reveal(); got != "postgres://from-file" {
		t.Errorf("the file gave %q", got)
	}
	var conn struct {
		Token staunch.Secret `yaml:"token"`
	}
	if err := c.Decode(c.Realms[0].Connector, &conn); err != nil {
		t.Fatal(err)
	}
	if got := conn.Token.Reveal(); got != "from env: #1" {
		t.Errorf("the environment gave %q", got)
	}
	var other struct {
		Else string `yaml:"else"`
	}
	if err := c.Decode(c.Realms[0].Connector, &other); err == nil || !strings.Contains(err.Error(), "c.yaml:5") {
		t.Errorf("an unknown connector key gave %v, want its line", err)
	}
}

// TestSecretsStayOutOfErrors: what comes from outside is told nowhere, wherever in
// the configuration it was put by mistake.
func TestSecretsStayOutOfErrors(t *testing.T) {
	dir := t.TempDir()
	const env, file = "hunter2-from-env", "hunter2-\"of\"\nthe file"
	t.Setenv("STAUNCH_TEST_TOKEN", env)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(file+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"!env STAUNCH_TEST_TOKEN", "!file secret"} {
		for what, in := range map[string]string{
			"number":    "v: " + from,
			"list":      "rules: " + from,
			"mode":      "mode: " + from,
			"duration":  "guard: {stale_after: " + from + "}",
			"listen":    "listen: " + from,
			"key":       from + ": 1",
			"ref":       "drills:\n  - {name: d, canary: " + from + "}",
			"log":       "log: {level: " + from + "}",
			"connector": "realms:\n  - {name: r, platform: p, connector: {count: " + from + "}}",
		} {
			c, err := Parse([]byte(in+"\n"), filepath.Join(dir, "c.yaml"))
			if err == nil {
				var conn struct {
					Count int `yaml:"count"`
				}
				err = c.Decode(c.Realms[0].Connector, &conn)
			}
			var p *staunch.Problem
			if !errors.As(err, &p) || !errors.Is(err, staunch.ErrInvalid) || !strings.Contains(err.Error(), "c.yaml") {
				t.Errorf("%s from %s gave %v, want a problem with its place", what, from, err)
				continue
			}
			if s := err.Error(); strings.Contains(s, "hunter2") || strings.Contains(s, "the file") {
				t.Errorf("%s from %s: %v", what, from, err)
			}
		}
	}
}
