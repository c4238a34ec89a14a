package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// checker returns the published schema as a check of a file's text.
func checker(t *testing.T) func(text string) error {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "staunch.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("staunch.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("staunch.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var v any
		if err := yaml.Load([]byte(text), &v); err != nil {
			return fmt.Errorf("reading it as YAML: %w", err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("making it JSON: %w", err)
		}
		inst, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			return fmt.Errorf("reading it as JSON: %w", err)
		}
		return s.Validate(inst)
	}
}

// TestSchemaAgrees holds the published schema to what Parse takes and refuses.
func TestSchemaAgrees(t *testing.T) {
	check := checker(t)
	for _, good := range []string{
		"v: 1\n",
		"sources:\n  - {name: a, format: json, realm: x/y, tail: {path: log}}\n",
		"sources: [{name: a, format: json, realm: r, skew: 0, lateness: 1h30m, ceiling: revoke, accuses: [b]}]\n",
		"placeholders: {ranges: [10.*]}\nrules: [a]\npolicies: [b]\nprotected: [\"account:x:y:*\"]\n",
		"guard: {fail_mode: allow, stale_after: 5s, subjects: [{type: user, kind: account, realm: a/b, scheme: name}]}\n",
		"notify: [{name: a, type: webhook, url: 'https://x', secret: whsec_x, min_tier: revoke}]\nlog: {level: debug, format: json}\n",
		"suspicion: {half_life: 24h, roll_up: 0.5, revoke_sources: 1}\ntrust: {matches: 5, for: 24h}\n",
		"sources: [{name: s, format: json, realm: r}]\ndrills: [{name: d, canary: 'account:r:x:y', source: s, records: ['{{id}} {{n}}', 'b {{id}} {{n}}'], repeat: 250, apart: 5s}]\n",
		"sources: [{name: s, format: json, realm: r, origin: log}]\ndrills: [{name: d, canary: 'account:r:x:y', source: s, record: '{{id}}', every: 1h, within: 5s, restore_within: 5s}]\n",
		"retention: {events: 45d, signals: forever, facts: forever, notices: 36h, max_size: 20GiB}\n",
		"audit: {transparency_log: {url: 'https://log.example.org', key: '" + logKey + "', origin: log.example.org/one}}\n",
		"audit: {checkpoint_every: 1h, checkpoint_file: x, checkpoint_channel: a}\nnotify: [{name: a, type: webhook, url: 'https://x', secret: whsec_x}]\n",
	} {
		if _, err := Parse([]byte(good), "c.yaml"); err != nil {
			t.Errorf("%q is refused: %v", good, err)
		}
		if err := check(good); err != nil {
			t.Errorf("%q is taken and not valid: %v", good, err)
		}
	}
	// What one part says of another is beyond a schema.
	beyond := []string{
		"version", "wide without tls", "metrics open wide", "realm twice", "realm name", "generic no mapping", "source slash",
		"unsigned webhook", "checkpoints often", "checkpoints nowhere", "log in the clear", "log not a key", "log other name", "environment", "file",
		"drill source", "drill canary", "drill label", "drill record", "drill both", "drill label of one", "drill same", "drill same again",
		"drill many", "drill large", "drill few", "drill apart", "drill often", "drill twice", "drill patience", "revoke sources", "trust", "origin",
		"retention order", "retention trust", "retention small", "retention postgres",
	}
	for name, tc := range refusals() {
		err := check(tc.in)
		if err == nil && !slices.Contains(beyond, name) {
			t.Errorf("%s: %q is refused by Parse and valid", name, tc.in)
		}
	}
	// An unknown key is refused at every level by both.
	for _, bad := range []string{
		"nosuch: 1\n", "tls: {nosuch: 1}\n", "log: {nosuch: 1}\n", "guard: {nosuch: 1}\n", "audit: {nosuch: 1}\n", "audit: {transparency_log: {url: 'https://x', key: '" + logKey + "', nosuch: 1}}\n", "retention: {nosuch: 1}\n", "suspicion: {nosuch: 1}\n",
		"realms: [{name: a, platform: vault, nosuch: 1}]\n", "sources: [{name: a, format: json, realm: r, nosuch: 1}]\n",
		"sources: [{name: a, format: json, realm: r, tail: {path: x, nosuch: 1}}]\n", "notify: [{name: a, type: slack, url: u, nosuch: 1}]\n",
		"guard: {subjects: [{type: t, kind: account, realm: r, scheme: s, nosuch: 1}]}\n",
	} {
		if _, err := Parse([]byte(bad), "c.yaml"); err == nil {
			t.Errorf("%q is taken", bad)
		}
		if err := check(bad); err == nil {
			t.Errorf("%q is valid", bad)
		}
	}
	// Parse leaves these parts to who uses them; the schema knows them all the same.
	for _, bad := range []string{
		"limits: {nosuch: 1}\n", "limits: {global: {nosuch: 1}}\n", "realms: [{name: a, platform: vault, connector: {nosuch: 1}}]\n",
		"realms: [{name: a, platform: postgresql, connector: {issuer: x}}]\n",
	} {
		if err := check(bad); err == nil {
			t.Errorf("%q is valid", bad)
		}
	}
}
