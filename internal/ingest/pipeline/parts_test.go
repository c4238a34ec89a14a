package pipeline_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// TestParts has an input of many parts, with broken records in it and a break at
// its end: what came before the break is taken, and each record has its number.
func TestParts(t *testing.T) {
	for _, size := range []int{1, 63, 64, 65, 1499} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newRig(t)
			var lines []string
			var broken []int
			matched := 0
			for n := 1; n <= size; n++ {
				if n%50 == 7 {
					lines, broken = append(lines, "{]"), append(broken, n)
					continue
				}
				what := "read"
				if n%40 == 1 {
					what, matched = "medium", matched+1
				}
				lines = append(lines, r.rec(fmt.Sprint(n), what, "bob", "session", strings.Repeat("s", n%7*100)))
			}
			off := errors.New("reset")
			body := io.MultiReader(strings.NewReader(strings.Join(lines, "\n")+"\n"), iotest.ErrReader(off))
			rep, err := r.pipe.Ingest(t.Context(), r.src, body, "")
			if !errors.Is(err, off) {
				t.Fatal(err)
			}
			var rejected []int
			for _, x := range rep.Rejected {
				rejected = append(rejected, x.Record)
			}
			if !slices.Equal(rejected, broken) || rep.Accepted != size-len(broken) || rep.Kept != matched || rep.Matched != matched {
				t.Errorf("%d accepted, %d kept, %d matched, %v refused; of %d broken are %v", rep.Accepted, rep.Kept, rep.Matched, rejected, size, broken)
			}
		})
	}
}

// panics is a format that panics at one record.
type panics struct {
	format.Format
	at string
}

func (f panics) Logsource(doc *jsondoc.Doc) format.Logsource {
	if strings.Contains(string(doc.Raw()), f.at) {
		panic(f.at)
	}
	return f.Format.Logsource(doc)
}

// TestPartPanics holds that a panic in one part is the caller's, however many
// processors take part, and that it costs nobody a place.
func TestPartPanics(t *testing.T) {
	r := newRig(t)
	src := *r.src
	src.Format = panics{r.src.Format, "mallory"}
	var lines []string
	for n := range 300 {
		name := "bob"
		if n == 100 {
			name = "mallory"
		}
		lines = append(lines, r.rec(fmt.Sprint(n), "read", name))
	}
	for range 2*runtime.GOMAXPROCS(0) + 1 {
		func() {
			defer func() {
				if thrown := recover(); thrown != "mallory" {
					t.Errorf("threw %v", thrown)
				}
			}()
			_, err := r.pipe.Ingest(t.Context(), &src, strings.NewReader(strings.Join(lines, "\n")), "")
			t.Errorf("no panic: %v", err)
		}()
	}
	if rep := r.ingest(r.rec("after", "medium", "carol")); rep.Kept != 1 {
		t.Errorf("%+v", rep)
	}
}
