package inventory

import (
	"testing"

	"github.com/staunch-project/staunch"
)

func TestSameNames(t *testing.T) {
	ref := func(realm, scheme, value string) staunch.Ref {
		return staunch.Ref{Kind: staunch.KindAccount, Realm: realm, Scheme: scheme, Value: value}
	}
	arn, user, sub := ref("aws/a", "arn", "arn:1"), ref("aws/a", "user", "1/bob"), ref("aws/a", "sub", "x")
	same := map[staunch.Kind][]string{staunch.KindAccount: {"arn", "user"}}
	for _, tc := range []struct {
		name  string
		actor []staunch.Ref
		want  int
	}{
		{"two names", []staunch.Ref{arn, user}, 1},
		{"one name", []staunch.Ref{arn}, 0},
		{"another scheme is another thing", []staunch.Ref{arn, sub}, 0},
		{"a scheme twice speaks of two", []staunch.Ref{arn, ref("aws/a", "arn", "arn:2"), user}, 0},
		{"another realm is another thing", []staunch.Ref{arn, ref("aws/b", "user", "1/bob")}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := SameNames(staunch.Event{ID: "evt_1", Source: "s", Time: 5, Actor: tc.actor}, same)
			if len(got) != tc.want {
				t.Fatalf("%d facts, want %d: %+v", len(got), tc.want, got)
			}
			for _, f := range got {
				if f.Type != staunch.FactSameAs || f.Subject != arn || f.Of != user || f.ID == "" {
					t.Errorf("fact is %+v", f)
				}
			}
		})
	}
	if got := SameNames(staunch.Event{Actor: []staunch.Ref{arn, user}}, nil); len(got) != 0 {
		t.Errorf("a format that says nothing taught %+v", got)
	}
}
