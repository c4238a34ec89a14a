package sigma

import (
	"bytes"
	"net/netip"
	"slices"
)

// parseAddr reads an IP address as netip.ParseAddr does, blanks around it
// allowed, without a zone and not as IPv4 inside of IPv6. Records often have
// other things where an address is looked for, so it must not allocate to say
// no.
func parseAddr(text []byte) (netip.Addr, bool) {
	if len(text) > 64 {
		return netip.Addr{}, false
	}
	text = bytes.TrimSpace(text)
	if bytes.IndexByte(text, ':') < 0 {
		a, ok := parseIPv4(text)
		return netip.AddrFrom4(a), ok
	}
	if zone := bytes.IndexByte(text, '%'); zone >= 0 {
		if zone == len(text)-1 {
			return netip.Addr{}, false
		}
		text = text[:zone]
	}
	a, ok := parseIPv6(text)
	return netip.AddrFrom16(a).Unmap(), ok
}

func parseIPv4(t []byte) (a [4]byte, ok bool) {
	for i := range a {
		n, digits := 0, 0
		for digits < len(t) && t[digits] >= '0' && t[digits] <= '9' {
			n = n*10 + int(t[digits]-'0')
			if digits++; n > 255 || digits > 3 {
				return a, false
			}
		}
		if digits == 0 || digits > 1 && t[0] == '0' {
			return a, false
		}
		a[i] = byte(n)
		t = t[digits:]
		if i < 3 {
			if len(t) == 0 || t[0] != '.' {
				return a, false
			}
			t = t[1:]
		}
	}
	return a, len(t) == 0
}

func parseIPv6(t []byte) (a [16]byte, ok bool) {
	gap := -1 // where :: stands
	n := 0
	if len(t) >= 2 && t[0] == ':' && t[1] == ':' {
		gap, t = 0, t[2:]
	}
	for n < 16 && len(t) > 0 {
		v, digits := 0, 0
		for digits < len(t) {
			d := hexDigit(t[digits])
			if d < 0 {
				break
			}
			v = v<<4 | d
			if digits++; digits > 4 {
				return a, false
			}
		}
		if digits == 0 {
			return a, false
		}
		if digits < len(t) && t[digits] == '.' { // IPv4 at the end
			v4, ok := parseIPv4(t)
			if !ok || gap < 0 && n != 12 || n > 12 {
				return a, false
			}
			n += copy(a[n:], v4[:])
			t = nil
			break
		}
		a[n], a[n+1] = byte(v>>8), byte(v)
		n += 2
		if t = t[digits:]; len(t) == 0 {
			break
		}
		if t[0] != ':' || len(t) == 1 {
			return a, false
		}
		if t = t[1:]; t[0] == ':' {
			if gap >= 0 {
				return a, false
			}
			gap, t = n, t[1:]
		}
	}
	if len(t) > 0 {
		return a, false
	}
	if n < 16 {
		if gap < 0 {
			return a, false
		}
		moved := n - gap
		copy(a[16-moved:], a[gap:n])
		clear(a[gap : 16-moved])
	} else if gap >= 0 {
		return a, false // :: stands for at least one group
	}
	return a, true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// netIndex finds which of many networks an address is in. The networks' first
// addresses, and those behind their last, cut all addresses into ranges; every
// range lies in the networks that its list has, or in none.
type netIndex struct {
	starts []netip.Addr
	nets   [][]int32 // per range, anchors
}

func newNetIndex(nets map[int32]netip.Prefix) *netIndex {
	ix := &netIndex{}
	for _, net := range nets {
		ix.starts = append(ix.starts, net.Addr())
		if next := lastAddr(net).Next(); next.IsValid() {
			ix.starts = append(ix.starts, next)
		}
	}
	slices.SortFunc(ix.starts, netip.Addr.Compare)
	ix.starts = slices.Compact(ix.starts)
	ix.nets = make([][]int32, len(ix.starts))
	for id, net := range nets {
		from, _ := slices.BinarySearchFunc(ix.starts, net.Addr(), netip.Addr.Compare)
		last := lastAddr(net)
		for i := from; i < len(ix.starts) && ix.starts[i].Compare(last) <= 0; i++ {
			ix.nets[i] = append(ix.nets[i], id)
		}
	}
	return ix
}

func lastAddr(net netip.Prefix) netip.Addr {
	b := net.Addr().AsSlice()
	for i := net.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (ix *netIndex) find(sc *Scratch, a netip.Addr) {
	i, found := slices.BinarySearchFunc(ix.starts, a, netip.Addr.Compare)
	if !found {
		i--
	}
	if i < 0 {
		return
	}
	for _, id := range ix.nets[i] {
		sc.note(id)
	}
}
