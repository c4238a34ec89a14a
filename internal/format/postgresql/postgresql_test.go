package postgresql

import (
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/format/formattest"
)

func TestConformance(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	formattest.Run(t, f, "testdata")
}

func TestMask(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"select 1", "select 1"},
		{"ALTER ROLE a PASSWORD 'hunter2'", "ALTER ROLE a PASSWORD '***'"},
		{"alter user a with encrypted password E'it\\'s' valid until 'x'", "alter user a with encrypted password E'***' valid until 'x'"},
		{"create role a password 'it''s' login", "create role a password '***' login"},
		{"create role a password $x$s3cret$x$ login", "create role a password $x$***$x$ login"},
		{"alter role a password null", "alter role a password null"},
		{"create subscription s connection 'host=h password=topsecret user=u'", "create subscription s connection 'host=h password=*** user=u'"},
	} {
		if got := mask(tc.in); got != tc.want {
			t.Errorf("mask(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestPatternIsTheMappings(t *testing.T) {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(password.String())
	if !strings.Contains(string(source), quoted) {
		t.Error("mapping.yaml has another pattern for passwords than postgresql.go")
	}
}

func TestCommand(t *testing.T) {
	for in, want := range map[string]string{
		"  select * from t":             "SELECT",
		"create  table x()":             "CREATE TABLE",
		"/* hint */ -- c\n drop role r": "DROP ROLE",
		"/* open":                       "COMMENT",
		"":                              "UNKNOWN",
	} {
		if got := command(in); got != want {
			t.Errorf("command(%q) = %q, want %q", in, got, want)
		}
	}
}
