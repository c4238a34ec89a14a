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
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
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

// Match writes, per record of in, {"record":N,"rules":[ids…]}, or for a broken
// one {"record":N,"error":…} and ErrBadRecords at the end. ls, when given,
// takes the place of the format's log source. Where correlations are given, a
// line follows for each signal that they would make.
func Match(set *sigma.Set, correlations *correlate.Set, f format.Format, ls *sigma.Logsource, in io.Reader, out io.Writer) error {
	rd, err := reader(in, f)
	if err != nil {
		return err
	}
	ids := make([][]byte, len(set.Rules()))
	for i, r := range set.Rules() {
		if ids[i], err = json.Marshal(r.ID); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(out, 256<<10)
	var sc sigma.Scratch
	var matched []int
	var line []byte
	windows := newMatchWindows(correlations, f)
	bad := false
	for {
		rec, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, w.Flush())
		}
		line = fmt.Appendf(line[:0], `{"record":%d,`, rec.Number)
		if rec.Err != nil {
			bad = true
			msg, err := json.Marshal(rec.Err.Error())
			if err != nil {
				return err
			}
			line = append(append(line, `"error":`...), msg...)
			line = append(line, "}\n"...)
		} else {
			l := ls
			if l == nil {
				p := f.Logsource(rec.Doc)
				l = &sigma.Logsource{Product: p.Product, Category: p.Category, Service: p.Service, All: p.All}
			}
			matched = set.Match(rec.Doc, *l, &sc, matched[:0])
			if err := windows.take(rec, matched); err != nil {
				return errors.Join(err, w.Flush())
			}
			line = append(line, `"rules":[`...)
			for i, n := range matched {
				if i > 0 {
					line = append(line, ',')
				}
				line = append(line, ids[n]...)
			}
			line = append(line, "]}\n"...)
		}
		if _, err := w.Write(line); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
	}
	if err := windows.write(w); err != nil {
		return errors.Join(err, w.Flush())
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if bad {
		return ErrBadRecords
	}
	return nil
}
