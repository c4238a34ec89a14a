package inventory

import (
	"fmt"
	"slices"
	"testing"

	"github.com/staunch-project/staunch"
)

func TestRefSet(t *testing.T) {
	var s RefSet
	var want []staunch.Ref
	for i := range 3 * fewNames {
		n := staunch.Ref{Kind: staunch.KindSession, Realm: "r", Scheme: "id", Value: fmt.Sprint(i * 7 % 31)}
		fresh := !slices.Contains(want, n)
		if s.Has(n) == fresh || s.Add(n) != fresh || !s.Has(n) || s.Add(n) {
			t.Fatalf("%s, the %d., is in it or not, and it says the other", n, i)
		}
		if fresh {
			want = append(want, n)
		}
	}
	if !slices.Equal(s.List(), want) {
		t.Errorf("got %v\nwant %v", s.List(), want)
	}
}

// TestMemoIsNotChanged holds that what the caller does to an answer does not reach
// the next one.
func TestMemoIsNotChanged(t *testing.T) {
	link := staunch.Link{From: staunch.Ref{Value: "a"}, To: staunch.Ref{Value: "b"}, Rel: staunch.RelOf, Fact: "fct_1"}
	m := Memo(oneLink{link: link})
	for range 2 {
		got, err := m.LinksFrom([]staunch.Ref{link.From}, []staunch.Rel{staunch.RelOf}, 10)
		if err != nil || len(got) != 1 || got[0] != link {
			t.Fatalf("got %v, %v", got, err)
		}
		got[0] = staunch.Link{}
	}
}

type oneLink struct {
	Reader
	link staunch.Link
}

func (r oneLink) LinksFrom([]staunch.Ref, []staunch.Rel, int) ([]staunch.Link, error) {
	return []staunch.Link{r.link}, nil
}
