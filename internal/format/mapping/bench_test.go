package mapping_test

import (
	"encoding/json"
	"testing"

	"github.com/staunch-project/staunch/internal/format/cloudtrail"
	"github.com/staunch-project/staunch/internal/format/formattest"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// BenchmarkCloudTrail measures the format's steps over real records, beside
// what the standard library takes to decode one into a map.
func BenchmarkCloudTrail(b *testing.B) {
	f, err := cloudtrail.New()
	if err != nil {
		b.Fatal(err)
	}
	var records []json.RawMessage
	formattest.Lines(b, "stratus/detonations.ndjson", func(v struct{ Events []json.RawMessage }) { records = append(records, v.Events...) })
	docs := make([]*jsondoc.Doc, len(records))
	for i, r := range records {
		docs[i] = jsondoc.New(jsondoc.Limits{})
		if err := docs[i].Parse(r); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			var v map[string]any
			if err := json.Unmarshal(records[i%len(records)], &v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		d := jsondoc.New(jsondoc.Limits{})
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if err := d.Parse(records[i%len(records)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("keys", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := f.Keys(docs[i%len(docs)], formattest.Env); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("secrets", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			f.Secrets(docs[i%len(docs)], formattest.Env)
		}
	})
	b.Run("map", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			d := docs[i%len(docs)]
			k, err := f.Keys(d, formattest.Env)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.Map(d, k, formattest.Env); err != nil {
				b.Fatal(err)
			}
		}
	})
}
