package store

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/staunch-project/staunch"
)

// A judgement reads every signal of some days that is found under a subject, and
// again with the next one. The stores therefore have what it weighs of a signal beside
// the place where the signal is found, so that one walk along an index reads it all.

// Brief returns what a judgement weighs of a signal: all but what it says to people
// and where the whole of it is to be found.
func Brief(s staunch.Signal) staunch.Signal {
	return staunch.Signal{
		V: s.V, ID: s.ID, Rule: s.Rule, Accused: s.Accused, Confidence: s.Confidence, Techniques: s.Techniques,
		Source: s.Source, Realm: s.Realm, Origin: s.Origin, Origins: s.Origins, Drill: s.Drill,
		Ceiling: s.Ceiling, Mode: s.Mode, Standing: s.Standing, Time: s.Time, Learned: s.Learned,
	}
}

// briefForm is the first byte of a brief: the form that the rest has. Another form
// gets another byte, and never that of a JSON object.
const briefForm = 1

// EncodeBrief writes what Brief keeps of a signal. Numbers, also those of tiers and
// modes, are part of the form.
func EncodeBrief(s staunch.Signal) []byte {
	b := make([]byte, 0, 256)
	b = append(b, briefForm, byte(s.Ceiling), byte(s.Mode))
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(s.Confidence))
	for _, n := range [...]int64{int64(s.V), int64(s.Time), int64(s.Learned)} {
		b = binary.AppendVarint(b, n)
	}
	for _, text := range [...]string{
		s.ID, s.Rule, string(s.Accused.Kind), s.Accused.Realm, s.Accused.Scheme, s.Accused.Value,
		s.Source, s.Realm, s.Origin, s.Drill, string(s.Standing),
	} {
		b = appendText(b, text)
	}
	for _, list := range [...][]string{s.Techniques, s.Origins} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, text := range list {
			b = appendText(b, text)
		}
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// DecodeBrief reads what EncodeBrief wrote; what is a JSON object is a whole signal,
// of which it keeps as much. The error wraps staunch.ErrInvalid.
func DecodeBrief(b []byte) (*staunch.Signal, error) {
	s := new(staunch.Signal)
	if len(b) > 0 && b[0] == '{' {
		if err := Decode(b, s); err != nil {
			return nil, err
		}
		*s = Brief(*s)
		return s, nil
	}
	r := briefReader{rest: string(b)} // whose texts are parts of it
	if form := r.bytes(3); r.failed || form[0] != briefForm {
		return nil, fmt.Errorf("%w: a signal's brief in a form that this release does not know", staunch.ErrInvalid)
	} else {
		s.Ceiling, s.Mode = staunch.Tier(form[1]), staunch.Mode(form[2])
	}
	if bits := r.bytes(8); !r.failed {
		s.Confidence = math.Float64frombits(binary.BigEndian.Uint64([]byte(bits)))
	}
	s.V, s.Time, s.Learned = int(r.number()), staunch.Time(r.number()), staunch.Time(r.number())
	s.ID, s.Rule = r.text(), r.text()
	s.Accused = staunch.Ref{Kind: staunch.Kind(r.text()), Realm: r.text(), Scheme: r.text(), Value: r.text()}
	s.Source, s.Realm, s.Origin, s.Drill, s.Standing = r.text(), r.text(), r.text(), r.text(), staunch.Standing(r.text())
	s.Techniques, s.Origins = r.list(), r.list()
	if r.failed || r.rest != "" {
		return nil, fmt.Errorf("%w: a signal's brief of %d bytes is damaged", staunch.ErrInvalid, len(b))
	}
	if s.V > staunch.Version {
		return nil, fmt.Errorf("%w: a signal of version %d, this release knows %d", staunch.ErrInvalid, s.V, staunch.Version)
	}
	return s, nil
}

type briefReader struct {
	rest   string
	failed bool
}

func (r *briefReader) bytes(n uint64) (text string) {
	if n > uint64(len(r.rest)) {
		r.rest, r.failed = "", true
		return ""
	}
	text, r.rest = r.rest[:n], r.rest[n:]
	return text
}

func (r *briefReader) uvarint() (n uint64) {
	for shift := uint(0); shift < 64; shift += 7 {
		c := r.bytes(1)
		if r.failed {
			return 0
		}
		n |= uint64(c[0]&0x7f) << shift
		if c[0] < 0x80 {
			return n
		}
	}
	r.failed = true
	return 0
}

// number reads what binary.AppendVarint writes.
func (r *briefReader) number() int64 {
	n := r.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

func (r *briefReader) text() string { return r.bytes(r.uvarint()) }

func (r *briefReader) list() []string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) { // each has at least its length
		r.failed = true
	}
	if n == 0 || r.failed {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.text()
	}
	return list
}
