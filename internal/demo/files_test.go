package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/generic"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/inventory"
)

func TestFilesAreUsable(t *testing.T) {
	e, err := New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	dir := t.TempDir()
	if _, err := e.WriteConfig(dir, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := inventory.LoadIdentities(filepath.Join(dir, "identities.yaml")); err != nil {
		t.Error(err)
	}
	rules, bad := sigma.LoadPath(filepath.Join(dir, "rule-outside-range.yaml"), sigma.Options{})
	if len(bad) > 0 || len(rules) != 1 {
		t.Fatalf("rules %v, refused %v", rules, bad)
	}
	set, err := sigma.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) format.Format {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		f, err := generic.New(strings.TrimSuffix(name, ".yaml"), b, name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	env := format.Env{Source: SourceAccessLog, Realm: Realm}
	log := read("access-log.yaml")
	for _, tc := range []struct {
		ip   string
		want int
	}{{ThiefAddress, 1}, {WorkloadAddress, 0}} {
		doc := jsondoc.New(jsondoc.Limits{})
		line := `{"id":"r1","time":"2026-01-02T03:04:05.678Z","client_ip":"` + tc.ip + `","method":"GET","path":"/orders","status":200,"client_id":"billing-sync","token":"tok-en-secret-value"}`
		if err := doc.Parse([]byte(line)); err != nil {
			t.Fatal(err)
		}
		keys, err := log.Keys(doc, env)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys.Actor) != 2 || strings.Contains(keys.Actor[0].Value, "secret") {
			t.Errorf("actor is %v", keys.Actor)
		}
		ls := log.Logsource(doc)
		var sc sigma.Scratch
		got := set.Match(doc, sigma.Logsource{Product: ls.Product, Service: ls.Service}, &sc, nil)
		if len(got) != tc.want {
			t.Errorf("from %s %d rules match, want %d", tc.ip, len(got), tc.want)
		}
		if sv := log.Secrets(doc, env); len(sv) != 1 || !sv[0].Keep || sv[0].Ref != keys.Actor[0] {
			t.Errorf("secrets are %+v, actor %v", sv, keys.Actor)
		}
	}
	leaks := read("leak-report.yaml")
	doc := jsondoc.New(jsondoc.Limits{})
	if err := doc.Parse([]byte(`{"id":"l1","time":"2026-01-02T03:04:05Z","token_digest":"sha256:aa","found_in":"a repository","confidence":0.9}`)); err != nil {
		t.Fatal(err)
	}
	keys, err := leaks.Keys(doc, env)
	if err != nil {
		t.Fatal(err)
	}
	m, err := leaks.Map(doc, keys, env)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Findings) != 1 || m.Findings[0].Confidence != 0.9 || len(m.Findings[0].Accused) != 1 {
		t.Errorf("findings are %+v", m.Findings)
	}
}
