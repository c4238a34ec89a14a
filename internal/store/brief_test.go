package store_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
)

// drawn draws a signal with a value in every field.
func drawn() *rapid.Generator[staunch.Signal] {
	return rapid.Custom(func(t *rapid.T) staunch.Signal {
		var s staunch.Signal
		v := reflect.ValueOf(&s).Elem()
		for i := range v.NumField() {
			f, name := v.Field(i), v.Type().Field(i).Name
			switch f.Interface().(type) {
			case string, staunch.Standing:
				f.SetString(rapid.String().Draw(t, name))
			case []string:
				// JSON has no difference between none and an empty list of these.
				if list := rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, name); len(list) > 0 {
					f.Set(reflect.ValueOf(list))
				}
			case staunch.Ref:
				f.Set(reflect.ValueOf(ref().Draw(t, name)))
			case []staunch.Ref:
				f.Set(reflect.ValueOf(rapid.SliceOfN(ref(), 1, 3).Draw(t, name)))
			case float64:
				f.SetFloat(rapid.Float64Range(0, 1).Draw(t, name))
			case staunch.Tier:
				f.SetUint(uint64(rapid.SampledFrom([]staunch.Tier{staunch.TierObserve, staunch.TierRestrict, staunch.TierIsolate, staunch.TierRevoke}).Draw(t, name)))
			case staunch.Mode:
				f.SetUint(uint64(rapid.SampledFrom([]staunch.Mode{staunch.ModeShadow, staunch.ModeRecommend, staunch.ModeEnforce}).Draw(t, name)))
			case staunch.Time:
				f.SetInt(rapid.Int64Range(1, 253_402_300_799_999_999).Draw(t, name))
			case int:
				f.SetInt(staunch.Version)
			default:
				t.Fatalf("no values for %s of type %s", name, f.Type())
			}
		}
		return s
	})
}

func ref() *rapid.Generator[staunch.Ref] {
	return rapid.Custom(func(t *rapid.T) staunch.Ref {
		return staunch.Ref{
			Kind: rapid.SampledFrom([]staunch.Kind{staunch.KindSession, staunch.KindAccount}).Draw(t, "kind"), Realm: "aws/prod", Scheme: "arn",
			Value: rapid.StringMatching(`[^\x00]{1,40}`).Draw(t, "value"),
		}
	})
}

// TestBrief: what is kept of a signal comes back from its own form as from the JSON
// of the whole.
func TestBrief(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawn().Draw(t, "signal")
		want := store.Brief(s)
		body, err := store.Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"brief": store.EncodeBrief(s), "brief of a brief": store.EncodeBrief(want), "JSON": body} {
			got, err := store.DecodeBrief(b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("%s:\ngot  %+v\nwant %+v", name, *got, want)
			}
		}
	})
}

// TestBriefForm: databases have what an earlier release wrote, and nodes of two
// releases share one. Where this fails, the form needs another first byte, and the old
// one has to be read as before.
func TestBriefForm(t *testing.T) {
	b := []byte("\x01\x03\x02\x3f\xe8\x00\x00\x00\x00\x00\x00\x02\x02\x04" +
		"\x05sig_1\x01r\x07session\x03aws\x03arn\x01v\x05trail\x03aws\x01o\x05drill\x04late\x02\x05T1078\x02T1\x01\x01p")
	want := staunch.Signal{
		V: 1, ID: "sig_1", Rule: "r", Accused: staunch.Ref{Kind: staunch.KindSession, Realm: "aws", Scheme: "arn", Value: "v"},
		Confidence: 0.75, Techniques: []string{"T1078", "T1"}, Source: "trail", Realm: "aws", Origin: "o", Origins: []string{"p"},
		Drill: "drill", Ceiling: staunch.TierRevoke, Mode: staunch.ModeEnforce, Standing: staunch.StandingLate, Time: 1, Learned: 2,
	}
	got, err := store.DecodeBrief(b)
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	if again := store.EncodeBrief(want); !bytes.Equal(again, b) {
		t.Errorf("written as %q", again)
	}
	for n := range b {
		if _, err := store.DecodeBrief(b[:n]); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
	later := want
	later.V = staunch.Version + 1
	for name, b := range map[string][]byte{
		"longer": append(bytes.Clone(b), 0), "another form": append([]byte{2}, b[1:]...), "of a later version": store.EncodeBrief(later),
		"a list of too many": append(bytes.Clone(b[:len(b)-3]), 0xff, 0xff, 0xff, 0xff, 0x0f),
	} {
		if _, err := store.DecodeBrief(b); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeBrief(f *testing.F) {
	f.Add(store.EncodeBrief(staunch.Signal{V: 1, ID: "sig_1", Techniques: []string{"T1078"}}))
	f.Add([]byte(`{"v":1,"id":"sig_1"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := store.DecodeBrief(b)
		if err != nil {
			return
		}
		again, err := store.DecodeBrief(store.EncodeBrief(*s))
		if err != nil || !reflect.DeepEqual(again, s) && s.Confidence == s.Confidence {
			t.Errorf("%+v comes back as %+v, %v", s, again, err)
		}
	})
}
