package correlate_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"testing"

	"github.com/staunch-project/staunch/internal/detect/correlate"
)

// places makes a database in the MaxMind DB format: an IPv4 tree of 24-bit
// records whose leaves are places.
func places(nets map[string][2]float64) []byte {
	type node [2]int // child, or -1 for none, or -2-n for the n-th place
	tree := []node{{-1, -1}}
	var data bytes.Buffer
	str := func(s string) {
		data.WriteByte(2<<5 | byte(len(s)))
		data.WriteString(s)
	}
	double := func(f float64) {
		data.WriteByte(3<<5 | 8)
		_ = binary.Write(&data, binary.BigEndian, math.Float64bits(f))
	}
	object := func(n int) { data.WriteByte(7<<5 | byte(n)) }
	var offsets []int
	for cidr, at := range nets {
		p := netip.MustParsePrefix(cidr)
		leaf := -2 - len(offsets)
		offsets = append(offsets, data.Len())
		object(1)
		str("location")
		object(2)
		str("latitude")
		double(at[0])
		str("longitude")
		double(at[1])
		bits := binary.BigEndian.Uint32(p.Addr().AsSlice())
		n := 0
		for i := range p.Bits() {
			b := bits >> (31 - i) & 1
			if i == p.Bits()-1 {
				tree[n][b] = leaf
				break
			}
			if tree[n][b] < 0 {
				tree = append(tree, node{-1, -1})
				tree[n][b] = len(tree) - 1
			}
			n = tree[n][b]
		}
	}
	var out bytes.Buffer
	for _, n := range tree {
		for _, c := range n {
			switch {
			case c == -1:
				c = len(tree)
			case c < -1:
				c = len(tree) + 16 + offsets[-2-c]
			}
			out.Write([]byte{byte(c >> 16), byte(c >> 8), byte(c)})
		}
	}
	out.Write(make([]byte, 16))
	out.Write(data.Bytes())
	out.WriteString("\xab\xcd\xefMaxMind.com")
	data.Reset()
	u16 := func(n int) { data.Write([]byte{5<<5 | 2, byte(n >> 8), byte(n)}) }
	u32 := func(n int) { data.Write([]byte{6<<5 | 4, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	object(9)
	str("binary_format_major_version")
	u16(2)
	str("binary_format_minor_version")
	u16(0)
	str("build_epoch")
	data.Write([]byte{8, 2, 0, 0, 0, 0, 0x60, 0, 0, 0}) // an extended type: uint64
	str("database_type")
	str("Test")
	str("description")
	object(0)
	str("ip_version")
	u16(4)
	str("languages")
	data.Write([]byte{0, 4}) // an empty array
	str("node_count")
	u32(len(tree))
	str("record_size")
	u16(24)
	out.Write(data.Bytes())
	return out.Bytes()
}

func TestImpossibleTravel(t *testing.T) {
	geo, err := correlate.OpenGeo(places(map[string][2]float64{
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
