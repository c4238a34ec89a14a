package offline_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/staunch-project/staunch/internal/app/offline"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/format/registry"
	"github.com/staunch-project/staunch/internal/ingest"
)

func rules(t testing.TB) *sigma.Set {
	t.Helper()
	list, errs := sigma.Parse("r.yml", []byte(`title: Names an even one
id: even
logsource: {product: aws, service: cloudtrail}
detection:
    s: {eventName|endswith: ['0', '2', '4', '6', '8']}
    condition: s
---
title: Mentions a seven
id: seven
logsource: {product: aws}
detection:
    s: ['seven7']
    condition: s
`), sigma.Options{})
	if len(errs) > 0 {
		t.Fatal(errs[0])
	}
	set, err := sigma.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func cloudTrail(t testing.TB) format.Format {
	t.Helper()
	f, err := registry.New("aws.cloudtrail")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// oneByOne is Match without batches.
func oneByOne(t testing.TB, set *sigma.Set, f format.Format, in string) string {
	t.Helper()
	rd, err := ingest.NewReader(strings.NewReader(in), f, jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Err != nil {
			msg, _ := json.Marshal(rec.Err.Error())
			fmt.Fprintf(&out, `{"record":%d,"error":%s}`+"\n", rec.Number, msg)
			continue
		}
		ls := f.Logsource(rec.Doc)
		ids := []string{}
		for _, n := range set.Match(rec.Doc, sigma.Logsource{Product: ls.Product, Service: ls.Service, Category: ls.Category, All: ls.All}, nil, nil) {
			ids = append(ids, set.Rules()[n].ID)
		}
		list, _ := json.Marshal(ids)
		fmt.Fprintf(&out, `{"record":%d,"rules":%s}`+"\n", rec.Number, list)
	}
}

func event(n int) string {
	return fmt.Sprintf(`{"eventName":"Call%d","eventSource":"s3.amazonaws.com","userAgent":"seven%d","pad":%q}`, n, n%50, strings.Repeat("x", n%1000))
}

// Many batches come out as the records went in: lines, broken lines, envelopes,
// arrays, and records larger than a batch.
func TestMatchKeepsTheOrder(t *testing.T) {
	set, f := rules(t), cloudTrail(t)
	var lines, array strings.Builder
	for n := range 20_000 {
		switch {
		case n%997 == 0:
			lines.WriteString("{\"broken\":\n")
		case n%1501 == 0:
			lines.WriteString(`{"Records":[` + event(n) + "," + event(n+1) + "," + event(n+2) + "]}\n")
		case n == 7777:
			lines.WriteString(`{"eventName":"Call2","pad":"` + strings.Repeat("y", 3<<20) + "\"}\n")
		default:
			lines.WriteString(event(n) + "\n")
		}
	}
	array.WriteString("[" + event(0))
	for n := range 3000 {
		array.WriteString(",\n" + event(n))
	}
	for name, in := range map[string]string{"lines": lines.String(), "array": array.String() + "]", "open array": array.String(), "empty": "", "one": event(2)} {
		var out bytes.Buffer
		err := offline.Match(offline.MatchOptions{Set: set, Format: f, In: strings.NewReader(in), Out: &out})
		want := oneByOne(t, set, f, in)
		if bad := strings.Contains(want, `"error":`); bad != errors.Is(err, offline.ErrBadRecords) || !bad && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := out.String(); got != want {
			t.Errorf("%s: %d bytes differ from the %d wanted", name, len(got), len(want))
		}
		var told, lines []string
		_ = offline.Match(offline.MatchOptions{Set: set, Format: f, In: strings.NewReader(in), Table: func(record int, r *sigma.Rule, _ bool, broken error) {
			if broken != nil {
				told = append(told, fmt.Sprint(record, " broken"))
				return
			}
			told = append(told, fmt.Sprint(record, " ", r.ID))
		}}) // its error is that of the lines
		for line := range strings.Lines(want) {
			var x struct {
				Record int
				Error  string
				Rules  []string
			}
			if err := json.Unmarshal([]byte(line), &x); err != nil {
				t.Fatal(err)
			}
			if x.Error != "" {
				lines = append(lines, fmt.Sprint(x.Record, " broken"))
			}
			for _, id := range x.Rules {
				lines = append(lines, fmt.Sprint(x.Record, " ", id))
			}
		}
		if !slices.Equal(told, lines) {
			t.Errorf("%s: a table has %d entries, lines have %d", name, len(told), len(lines))
		}
	}
}

type fullDisk struct{ left int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errors.New("no space left")
	}
	return len(p), nil
}

func TestMatchEndsWhenItCannotGoOn(t *testing.T) {
	set, f := rules(t), cloudTrail(t)
	endless := io.MultiReader(strings.NewReader(strings.Repeat(event(3)+"\n", 50_000)), iotest.ErrReader(errors.New("read past where writing failed")))
	if err := offline.Match(offline.MatchOptions{Set: set, Format: f, In: endless, Out: &fullDisk{left: 1 << 18}}); err == nil || !strings.Contains(err.Error(), "writing: no space left") {
		t.Errorf("a full disk gives %v", err)
	}
	var out bytes.Buffer
	in := io.MultiReader(strings.NewReader(event(2)+"\n"+event(3)+"\n"), iotest.ErrReader(errors.New("the disk broke")))
	err := offline.Match(offline.MatchOptions{Set: set, Format: f, In: in, Out: &out})
	if err == nil || !strings.Contains(err.Error(), "the disk broke") {
		t.Errorf("a broken disk gives %v", err)
	}
	if want := "{\"record\":1,\"rules\":[\"even\"]}\n{\"record\":2,\"rules\":[]}\n"; out.String() != want {
		t.Errorf("records before it: %s", out.String())
	}
}
