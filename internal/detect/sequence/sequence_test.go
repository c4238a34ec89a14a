package sequence_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sequence"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/format/registry"
)

// rules has a count, one that can be undone over it, and one that can be undone
// over that: the last settles only after the one before it has.
const rules = `title: A read
id: read
logsource: {product: app}
detection: {s: {action: read}, condition: s}
---
title: Many
id: many
correlation: {type: event_count, rules: [read], group-by: [user], timespan: 1m, condition: {gte: 2}, generate: true}
---
title: Once many
id: once
correlation: {type: event_count, rules: [many], group-by: [user], timespan: 5m, condition: {lt: 2}, generate: true}
---
title: Once once
id: deep
correlation: {type: event_count, rules: [once], group-by: [user], timespan: 10m, condition: {lt: 2}, generate: true}
`

func set(t *testing.T) *correlate.Set {
	t.Helper()
	var docs correlate.Reader
	list, errs := sigma.Parse("r.yml", []byte(rules), sigma.Options{Correlation: docs.Read})
	set, err := sigma.Compile(list)
	if err != nil || len(errs) > 0 {
		t.Fatal(err, errs)
	}
	out, errs := docs.Compile(set, correlate.Options{Lateness: time.Hour})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return out
}

func take(t *testing.T, s *sequence.Sequence, number int, record string) error {
	t.Helper()
	f, err := registry.New("json")
	if err != nil {
		t.Fatal(err)
	}
	doc := jsondoc.New(jsondoc.DefaultLimits())
	if err := doc.Parse([]byte(record)); err != nil {
		t.Fatal(err)
	}
	return s.Take(number, f, doc, []int{0})
}

func TestSignals(t *testing.T) {
	s := sequence.New(set(t), format.Env{Source: "test", Realm: "test"})
	// Out of order, and the first twice.
	for i, second := range []int{20, 0, 20, 0} {
		if err := take(t, s, i+1, fmt.Sprintf(`{"id":"%d","time":"2026-01-02T03:00:%02dZ","user":"mallory","action":"read"}`, second, second)); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{`{"user":"mallory"}`, `5`} {
		if err := take(t, s, 9, bad); !errors.Is(err, sequence.ErrUncounted) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	var got []string
	judged := 0
	s.Tell = func(correlate.Judged) { judged++ }
	err := s.Signals(func(sg sequence.Signal) error {
		got = append(got, fmt.Sprint(sg.Rule.ID, sg.Records, sg.Accused, sg.Hidden))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const who = " account:test:name:mallory "
	want := []string{"many[2 1]" + who + "false", "once[1]" + who + "false", "deep[1]" + who + "false"}
	if !slices.Equal(got, want) || judged == 0 {
		t.Errorf("%d told, signals %q, want %q", judged, got, want)
	}
	stop := errors.New("enough")
	if err := s.Signals(func(sequence.Signal) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("yield's error gave %v", err)
	}
}
