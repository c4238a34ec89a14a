// Package mmdb makes small databases of places for tests, in the MaxMind DB format.
package mmdb

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"net/netip"
	"slices"
)

// Places makes a database of IPv4 networks, written as CIDR, and the latitude and
// longitude in degrees of each: a tree of 24-bit records whose leaves are places.
// It panics on what is no network.
func Places(nets map[string][2]float64) []byte {
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
	for _, cidr := range slices.Sorted(maps.Keys(nets)) {
		at := nets[cidr]
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
