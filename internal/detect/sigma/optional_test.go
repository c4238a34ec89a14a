package sigma

import (
	"fmt"
	"strings"
	"testing"
)

const decoy = `
title: A decoy is used
id: id-decoy
optional: true
logsource: {product: p}
detection:
  sel: {key|expand: '%decoys%'}
  condition: sel
`

func TestOptional(t *testing.T) {
	l := loadText(t, Options{}, decoy)
	if len(l.Rules) != 0 || len(l.Errors) != 0 || l.Refused != 0 {
		t.Errorf("without values: %v, %v, %d refused", l.Rules, l.Errors, l.Refused)
	}
	if got := fmt.Sprint(l.Notes); len(l.Notes) != 1 || !strings.Contains(got, `0.yml:7: rule "id-decoy": it is left out: `) || !strings.Contains(got, "%decoys%") {
		t.Errorf("the notes are %s", got)
	}

	l = loadText(t, Options{Placeholders: map[string][]string{"decoys": {"AK1", "AK2"}}}, decoy)
	if len(l.Errors) != 0 || len(l.Notes) != 0 {
		t.Fatalf("with values: %v, %v", l.Errors, l.Notes)
	}
	if got := matched(t, l.Rules, `{"key":"AK2"}`) + matched(t, l.Rules, `{"key":"AK3"}`); got != "id-decoy" {
		t.Errorf("it matches %q", got)
	}

	for name, doc := range map[string]string{
		"not optional":       strings.Replace(decoy, "optional: true", "optional: false", 1),
		"wrong besides":      strings.Replace(decoy, "optional: true", "optional: true\nlevel: terrible", 1),
		"neither yes nor no": strings.Replace(decoy, "optional: true", "optional: perhaps", 1),
	} {
		if l := loadText(t, Options{}, doc); l.Refused != 1 || len(l.Errors) == 0 || len(l.Notes) != 0 {
			t.Errorf("%s: %d refused, %v, %v", name, l.Refused, l.Errors, l.Notes)
		}
	}
}
