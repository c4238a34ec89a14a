// Package offline has what the commands do that need no server: normalize,
// match, explain and replay. They read and write streams and touch nothing
// outside.
package offline

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest"
)

// ErrBadRecords says that some records could not be read or mapped; each was
// reported in its place.
var ErrBadRecords = errors.New("some records were bad")

// ReplayRealm is the realm of records that are read by a format's name.
const ReplayRealm = "replay"

type badRecord struct {
	Error  string `json:"error"`
	Record int    `json:"record"`
}

// reader opens plain or gzipped input of any length.
func reader(in io.Reader, f format.Format) (*ingest.Reader, error) {
	plain, err := ingest.Body(in, "", 1<<62)
	if err != nil {
		return nil, err
	}
	return ingest.NewReader(plain, f, ingest.Limits{}.Doc)
}

// Normalize writes one line of OCSF JSON per record of in, in order. A record
// that cannot be mapped gives {"error":…,"record":N} in its place and
// ErrBadRecords at the end.
func Normalize(f format.Format, in io.Reader, out io.Writer, now staunch.Time) error {
	rd, err := reader(in, f)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 64<<10)
	env := format.Env{Source: "normalize", Realm: ReplayRealm, Received: now}
	bad := false
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		line, err := normalized(f, rec, env)
		if err != nil {
			bad = true
			if line, err = json.Marshal(badRecord{Error: err.Error(), Record: rec.Number}); err != nil {
				return err
			}
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if bad {
		return ErrBadRecords
	}
	return nil
}

func normalized(f format.Format, rec ingest.Record, env format.Env) ([]byte, error) {
	if rec.Err != nil {
		return nil, rec.Err
	}
	keys, err := f.Keys(rec.Doc, env)
	if err != nil {
		return nil, err
	}
	m, err := f.Map(rec.Doc, keys, env)
	if err != nil {
		return nil, err
	}
	return m.OCSF, nil
}

// MatchOptions say what is matched and how it is told.
type MatchOptions struct {
	Set    *sigma.Set
	Format format.Format
	// All evaluates every rule, whatever the record's log source.
	All bool
	// Details adds "matches" to a line, which tell of each rule.
	Details bool
	In      io.Reader
	Out     io.Writer
	// Table, when given, is told of each match and each broken record in place of
	// lines on Out.
	Table func(record int, r *sigma.Rule, broken error)
}

// RuleInfo is what is told of a rule wherever a match of it is shown.
type RuleInfo struct {
	ID         string   `json:"id"`
	Title      string   `json:"title,omitempty"`
	Level      string   `json:"level,omitempty"`
	Mode       string   `json:"mode,omitempty"`
	Author     string   `json:"author,omitempty"`
	License    string   `json:"license,omitempty"`
	References []string `json:"references,omitempty"`
}

// InfoOf returns what is told of a rule.
func InfoOf(r *sigma.Rule) RuleInfo {
	return RuleInfo{ID: r.ID, Title: r.Title, Level: r.Level, Mode: r.Mode, Author: r.Author, License: r.License, References: r.References}
}

// matcher matches records, mapping those that rules in OCSF's names want.
type matcher struct {
	set    *sigma.Set
	f      format.Format
	all    bool
	raw    sigma.Scratch
	mapped sigma.MappedScratch
	hits   []int
}

func (m *matcher) match(doc *jsondoc.Doc) error {
	ls := sigma.Logsource{All: true}
	if !m.all {
		ls = logsourceOf(m.f, doc)
	}
	m.hits = m.set.Match(doc, ls, &m.raw, m.hits[:0])
	if !m.set.NeedsMapped(ls) {
		return nil
	}
	event, err := eventOf(m.f, doc, format.Env{Source: "match", Realm: ReplayRealm})
	switch {
	case err != nil && m.f.Logsource(doc).All:
		return nil // any JSON is a record of this format, and not all of it says who and when
	case err != nil:
		return err
	}
	m.hits, err = m.set.MatchMapped(event, ls, &m.mapped, m.hits)
	return err
}

func logsourceOf(f format.Format, doc *jsondoc.Doc) sigma.Logsource {
	l := f.Logsource(doc)
	return sigma.Logsource{Product: l.Product, Category: l.Category, Service: l.Service, All: l.All}
}

// eventOf returns the OCSF event of a record: the record itself where it is one.
func eventOf(f format.Format, doc *jsondoc.Doc, env format.Env) ([]byte, error) {
	if sigma.IsMapped(doc) {
		return doc.Raw(), nil
	}
	keys, err := f.Keys(doc, env)
	if err != nil {
		return nil, err
	}
	m, err := f.Map(doc, keys, env)
	return m.OCSF, err
}

// Match writes, per record, {"record":N,"rules":[ids…]}, or for a broken record
// {"record":N,"error":…} and ErrBadRecords at the end.
func Match(o MatchOptions) error {
	rd, err := reader(o.In, o.Format)
	if err != nil {
		return err
	}
	rules := o.Set.Rules()
	ids, infos := make([][]byte, len(rules)), make([][]byte, len(rules))
	for i, r := range rules {
		if ids[i], err = json.Marshal(r.ID); err != nil {
			return err
		}
		if infos[i], err = json.Marshal(InfoOf(r)); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(o.Out, 256<<10)
	m := &matcher{set: o.Set, f: o.Format, all: o.All}
	var line []byte
	bad := false
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		err = rec.Err
		if err == nil {
			err = m.match(rec.Doc)
		}
		bad = bad || err != nil
		if o.Table != nil {
			if err != nil {
				o.Table(rec.Number, nil, err)
				continue
			}
			for _, n := range m.hits {
				o.Table(rec.Number, rules[n], nil)
			}
			continue
		}
		line = fmt.Appendf(line[:0], `{"record":%d,`, rec.Number)
		if err != nil {
			msg, err := json.Marshal(err.Error())
			if err != nil {
				return err
			}
			line = append(append(line, `"error":`...), msg...)
		} else {
			line = appendList(append(line, `"rules":`...), ids, m.hits)
			if o.Details && len(m.hits) > 0 {
				line = appendList(append(line, `,"matches":`...), infos, m.hits)
			}
		}
		line = append(line, "}\n"...)
		if _, err := w.Write(line); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if bad {
		return ErrBadRecords
	}
	return nil
}

// appendList writes a JSON list of those of texts that are picked.
func appendList(dst []byte, texts [][]byte, picked []int) []byte {
	dst = append(dst, '[')
	for i, n := range picked {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, texts[n]...)
	}
	return append(dst, ']')
}
