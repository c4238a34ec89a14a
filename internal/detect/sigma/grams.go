package sigma

import (
	"encoding/binary"
	"math/bits"
)

// textIndex finds which of many texts stand in another, without looking at
// every byte where they are long enough. Of each text it knows windows of a few
// bytes (grams); a filter over those decides in a few instructions that nothing
// begins nearby. What passes is compared.
type textIndex struct {
	tables []*gramTable
}

// gramTable holds the texts whose grams have one size. Where every text has
// stride grams after each other in the table, only each stride-th place needs to
// be looked at.
type gramTable struct {
	size   int
	stride int
	shift  uint
	filter []uint64
	slots  []gramSlot // hash table over the grams
	width  uint       // of slots: 1<<width
	uses   []gramUse  // those of one gram after each other
}

// gramSlot has the uses of one gram; none where it is free.
type gramSlot struct {
	gram     uint32
	from, to int32
}

// gramUse is a text with the offset of a gram in it.
type gramUse struct {
	text   string
	anchor int32
	offset int32
	start  bool
	end    bool
}

const (
	gramBytes = 4
	maxStride = 4
	// maxGramText bounds where in a long text its grams are looked for.
	maxGramText = 256
)

// gram reads a window of size bytes. Letters lose their case, and some other
// characters become one; that only lets more through.
func gram(t []byte, size int) uint32 {
	var g uint32
	switch size {
	case 2:
		g = uint32(binary.LittleEndian.Uint16(t))
	case 3:
		g = uint32(binary.LittleEndian.Uint16(t)) | uint32(t[2])<<16
	default:
		g = binary.LittleEndian.Uint32(t)
	}
	return g | 0x20202020
}

func hashGram(g uint32) uint32 { return g * 0x9e3779b1 }

// gramCounts says how often grams occur, roughly.
type gramCounts [1 << 16]uint32

func (c *gramCounts) add(text []byte) {
	for i := 0; i+gramBytes <= len(text); i++ {
		c[hashGram(gram(text[i:], gramBytes))>>16]++
	}
}

// newTextIndex indexes texts of at least minText bytes, which the uses have.
func newTextIndex(texts []gramUse, counts *gramCounts) *textIndex {
	bySize := map[int][]gramUse{}
	for _, u := range texts {
		size := min(len(u.text), gramBytes)
		bySize[size] = append(bySize[size], u)
	}
	ix := &textIndex{}
	for size := minText; size <= gramBytes; size++ {
		if len(bySize[size]) > 0 {
			ix.tables = append(ix.tables, newGramTable(size, bySize[size], counts))
		}
	}
	return ix
}

func newGramTable(size int, texts []gramUse, counts *gramCounts) *gramTable {
	g := &gramTable{size: size, stride: maxStride}
	for _, u := range texts {
		for len(u.text) < size+g.stride-1 {
			g.stride /= 2
		}
	}
	uses := map[uint32][]gramUse{}
	for _, u := range texts {
		at := g.rarest(u.text, uses, counts)
		for i := at; i < at+g.stride; i++ {
			u.offset = int32(i)
			w := gram([]byte(u.text[i:i+size]), size)
			uses[w] = append(uses[w], u)
		}
	}
	g.width = uint(bits.Len(uint(len(uses) * 2)))
	g.slots = make([]gramSlot, 1<<g.width)
	// Some fifty bits a gram let few through that are none, and still stay near
	// the processor.
	width := min(max(bits.Len(uint(len(uses)*32)), 8), 20)
	g.shift = uint(32 - width)
	g.filter = make([]uint64, 1<<width/64)
	for w, list := range uses {
		h := hashGram(w) >> g.shift
		g.filter[h/64] |= 1 << (h % 64)
		from := int32(len(g.uses))
		g.uses = append(g.uses, list...)
		*g.slot(w) = gramSlot{w, from, int32(len(g.uses))}
	}
	return g
}

// slot returns the gram's slot, or the free one that it would have.
func (g *gramTable) slot(w uint32) *gramSlot {
	mask := uint32(len(g.slots) - 1)
	for i := hashGram(w) >> (32 - g.width); ; i++ {
		if s := &g.slots[i&mask]; s.gram == w || s.to == 0 {
			return s
		}
	}
}

// rarest returns where in a text its stride rarest grams after each other
// begin; uses are those so far.
func (g *gramTable) rarest(text string, uses map[uint32][]gramUse, counts *gramCounts) int {
	best, least := 0, ^uint64(0)
	end := min(len(text), maxGramText) - g.size - g.stride + 1
	for at := 0; at <= end; at++ {
		sum := uint64(0)
		for i := at; i < at+g.stride; i++ {
			if g.size == gramBytes {
				w := gram([]byte(text[i:i+g.size]), g.size)
				sum += uint64(counts[hashGram(w)>>16]) + uint64(len(uses[w]))
			}
		}
		if sum < least {
			best, least = at, sum
		}
	}
	return best
}

// find notes the anchors whose texts stand in t, in any case of ASCII letters;
// characters beyond ASCII must be folded.
func (ix *textIndex) find(sc *Scratch, t []byte) {
	for _, g := range ix.tables {
		if g.size == gramBytes {
			g.find4(sc, t)
			continue
		}
		for i := 0; i+g.size <= len(t); i += g.stride {
			w := gram(t[i:], g.size)
			if h := hashGram(w) >> g.shift; g.filter[h/64]&(1<<(h%64)) != 0 {
				g.compare(sc, t, i, w)
			}
		}
	}
}

// find4 is the loop of find for grams of four bytes: the one that counts.
func (g *gramTable) find4(sc *Scratch, t []byte) {
	filter, shift, stride := g.filter, g.shift, g.stride
	for i := 0; i+gramBytes <= len(t); i += stride {
		w := binary.LittleEndian.Uint32(t[i:]) | 0x20202020
		if h := hashGram(w) >> shift; filter[h/64]>>(h%64)&1 != 0 {
			g.compare(sc, t, i, w)
		}
	}
}

func (g *gramTable) compare(sc *Scratch, t []byte, at int, w uint32) {
	s := g.slot(w)
	for i := s.from; i < s.to; i++ {
		u := &g.uses[i]
		from := at - int(u.offset)
		to := from + len(u.text)
		if from < 0 || to > len(t) || u.start && from > 0 || u.end && to < len(t) || sc.noted(u.anchor) {
			continue
		}
		if string(t[from:to]) == u.text || equalLower(t[from:to], u.text) {
			sc.note(u.anchor)
		}
	}
}

// equalLower compares a text with one of the same length in lower case.
func equalLower(t []byte, lower string) bool {
	for i, c := range t {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
