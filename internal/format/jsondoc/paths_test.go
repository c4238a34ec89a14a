package jsondoc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Few and similar names, so that paths, keys with dots and keys in another case
// meet.
var pathWords = rapid.SampledFrom([]string{"a", "A", "b", "B", "longer-than-eight", "Longer-Than-Eight", "_", "", "ä"})

func drawPath(t *rapid.T) string {
	words := rapid.SliceOfN(pathWords, 1, 4).Draw(t, "path")
	text := strings.Join(words, ".")
	if rapid.IntRange(0, 9).Draw(t, "indexed") == 0 {
		text += "[0]"
	}
	return text
}

func drawValue(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 {
		kind %= 3
	}
	switch kind {
	case 0:
		return `"x"`
	case 1:
		return "null"
	case 2:
		return "7"
	case 3:
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, drawValue(t, depth-1))
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var members []string
	for _, k := range rapid.SliceOfNDistinct(rapid.OneOf(pathWords, rapid.Custom(drawPath)), 0, 5, rapid.ID).Draw(t, "keys") {
		key := fmt.Sprintf("%q", k)
		if k == "b" && rapid.Bool().Draw(t, "escaped") {
			key = `"\u0062"`
		}
		members = append(members, key+":"+drawValue(t, depth-1))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// One walk finds what looking each path up finds.
func TestPathsFindWhatAppendFinds(t *testing.T) {
	d := New(Limits{})
	rapid.Check(t, func(t *rapid.T) {
		var list []Path
		for _, text := range rapid.SliceOfN(rapid.Custom(drawPath), 1, 12).Draw(t, "paths") {
			p := ParsePath(text)
			if rapid.IntRange(0, 9).Draw(t, "exactly") > 0 {
				p = p.Fold()
			}
			list = append(list, p)
		}
		paths := NewPaths(list)
		var found Found
		for range 3 {
			text := drawValue(t, 4)
			if err := d.Parse([]byte(text)); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			paths.Find(d, &found)
			there := slices.Clone(found.There())
			slices.Sort(there)
			if len(slices.Compact(there)) != len(found.There()) {
				t.Fatalf("%s: a path is there twice: %v", text, found.There())
			}
			for n, p := range list {
				exists := d.Root().At(p).Exists()
				if found.Exists(int32(n)) != exists || slices.Contains(there, int32(n)) != exists {
					t.Fatalf("%s in %s: Exists says %v, At %v", p, text, found.Exists(int32(n)), exists)
				}
				got, want := offsets(found.Append(nil, int32(n))), offsets(d.Root().Append(nil, p))
				if !slices.Equal(got, want) {
					t.Fatalf("%s in %s: found values at %v, want %v", p, text, got, want)
				}
			}
		}
	})
}

func offsets(vals []Value) []int {
	var out []int
	for _, v := range vals {
		out = append(out, v.Offset())
	}
	slices.Sort(out)
	return out
}

// Large objects are looked at exactly only.
func TestPathsInLargeObjects(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"KEY":1`)
	for i := range maxFoldMembers {
		fmt.Fprintf(&b, `,"k%d":2`, i)
	}
	d := mustParse(t, b.String()+"}")
	var found Found
	NewPaths([]Path{ParsePath("key").Fold(), ParsePath("k7").Fold()}).Find(d, &found)
	if found.Exists(0) || !found.Exists(1) {
		t.Errorf("there: %v", found.There())
	}
}

func TestFindDoesNotAllocate(t *testing.T) {
	d := mustParse(t, `{"a":{"b":[1,{"c":"x"}]},"a.b":null,"D":{"e":[]},"none":{"f":1}}`)
	paths := NewPaths([]Path{ParsePath("a.b").Fold(), ParsePath("a.b.c").Fold(), ParsePath("d.e").Fold()})
	var found Found
	if n := testing.AllocsPerRun(100, func() { paths.Find(d, &found) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(found.There()) != 3 {
		t.Errorf("there: %v", found.There())
	}
}

func TestPlain(t *testing.T) {
	for text, plain := range map[string]bool{`{"a":"b","c":[1,true]}`: true, `{"a":"ä"}`: false, `{"ä":1}`: false, `{"a":"\n"}`: false, `{"\u0061":1}`: false} {
		if got := mustParse(t, text).Plain(); got != plain {
			t.Errorf("%s: plain %v", text, got)
		}
	}
}
