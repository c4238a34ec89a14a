package correlate_test

import (
	"testing"

	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/test/mmdb"
)

func TestImpossibleTravel(t *testing.T) {
	geo, err := correlate.OpenGeo(mmdb.Places(map[string][2]float64{
		"192.0.2.0/24": {52.52, 13.40}, "198.51.100.0/24": {-33.87, 151.21}, "203.0.113.0/24": {52.40, 13.06},
	}), "test.mmdb")
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := geo.Find("192.0.2.7"); !ok || p.Latitude != 52.52 || p.Longitude != 13.40 {
		t.Fatalf("the place is %v, %v", p, ok)
	}
	if _, ok := geo.Find("10.0.0.1"); ok {
		t.Fatal("an address that the database has not was found")
	}
	doc := corr("impossible_travel", "  rules: [a]\n  timespan: 2d\n")
	rules, set := sound(t, doc, correlate.Options{Geo: geo})
	for name, c := range map[string]struct {
		events []ev
		want   int
	}{
		"Berlin, Sydney an hour later":   {[]ev{ip(0, "u", "192.0.2.1"), ip(3600, "u", "198.51.100.1")}, 1},
		"another order":                  {[]ev{ip(3600, "u", "198.51.100.1"), ip(0, "u", "192.0.2.1")}, 1},
		"Sydney a day later":             {[]ev{ip(0, "u", "192.0.2.1"), ip(86400, "u", "198.51.100.1")}, 0},
		"two people":                     {[]ev{ip(0, "u", "192.0.2.1"), ip(3600, "v", "198.51.100.1")}, 0},
		"Potsdam, a second later":        {[]ev{ip(0, "u", "192.0.2.1"), ip(1, "u", "203.0.113.1")}, 0},
		"an address that is not known":   {[]ev{ip(0, "u", "192.0.2.1"), ip(1, "u", "10.0.0.1")}, 0},
		"no address":                     {[]ev{ip(0, "u", "192.0.2.1"), ip(1, "u", "")}, 0},
		"Berlin again, long before that": {[]ev{ip(0, "u", "192.0.2.1"), ip(100_000, "u", "192.0.2.1"), ip(103_600, "u", "198.51.100.1")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := newRig(t, rules, set).each(c.events); len(got.out) != c.want {
				t.Errorf("%d signals, want %d", len(got.out), c.want)
			}
		})
	}
	if _, err := correlate.OpenGeo([]byte("v: 1"), "staunch.yaml"); err == nil {
		t.Error("what is no database was opened")
	}
}
