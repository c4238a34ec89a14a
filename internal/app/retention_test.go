package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/store"
)

// TestRetentionOf: what correlations, sources and the half-life of suspicion look
// back over makes the ages longer that a file gives.
func TestRetentionOf(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"staunch.yaml": `
retention: {events: 1d, signals: 20d, decisions: 1d, max_size: 1GiB}
suspicion: {half_life: 48h}
rules: [rules.yaml]
sources:
  - {name: a, format: json, realm: r, lateness: 2h}
  - {name: b, format: json, realm: r, lateness: 72h}
`,
		"rules.yaml": `
title: Low
id: 00000000-0000-4000-8000-000000000001
name: low
level: low
status: stable
logsource: {product: generic}
detection: {s: {op: x}, condition: s}
accuse: [account]
---
title: Many
id: 00000000-0000-4000-8000-000000000002
level: high
correlation: {type: event_count, rules: [low], group-by: [user], timespan: 5d, condition: {gte: 3}}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(filepath.Join(dir, "staunch.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	p := retentionOf(s)
	if p.Horizon != 20*day || p.Window < 8*day || p.MaxSize != 1<<30 {
		t.Errorf("policy %+v", p)
	}
	if e := p.Effective(); e.Events < 28*day || e.Signals < 20*day || e.Decisions < 20*day || e.LeastEvents() < 8*day || e.LeastEvents() > 9*day {
		t.Errorf("effective %+v", e)
	}
}

// TestCheckRetention: doctor says where the size cannot be kept.
func TestCheckRetention(t *testing.T) {
	cfg, err := config.Parse([]byte("retention: {max_size: 1GiB}\n"), "c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Load(cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	a := &App{setup: s}
	if a.sweeper, err = retain.New(retain.Options{Store: noStore{}, Clock: staunch.SystemClock{}, Node: "n", Policy: func() retain.Policy { return retentionOf(s) }}); err != nil {
		t.Fatal(err)
	}
	if found := a.checkRetention(); len(found) != 0 {
		t.Errorf("before a round: %+v", found)
	}
	found := overSize(store.Sweep{OverSize: true, Size: store.Size{Used: 3 << 30}}, retentionOf(s))
	if found.Severity != "warning" || !strings.Contains(found.Message, "3GiB") || !strings.Contains(found.Message, "1GiB") || found.Hint == "" {
		t.Errorf("%+v", found)
	}
	if found := overSize(store.Sweep{BySize: true}, retentionOf(s)); found.Severity != "warning" || !strings.Contains(found.Message, "events younger than 30d were deleted") {
		t.Errorf("%+v", found)
	}
}

type noStore struct{ store.Store }
