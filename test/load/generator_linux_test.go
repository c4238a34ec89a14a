package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The places of a template that each record fills in, as long as what comes in.
const (
	markID      = "@@@@@@@@-0000-4000-8000-@@@@@@@@@@@@"
	markTime    = "@@@@-@@-@@T@@:@@:@@Z"
	markSubject = "@subject@@"
	markKey     = "@newkey@@@@@@@@@"
)

// kind is what a record causes.
type kind int

const (
	quiet kind = iota // nothing
	hit               // signals
	fact              // facts
	kinds
)

// kindOf says what the record at a place of a batch causes: one in a hundred is a
// hit, one a fact.
func kindOf(place int) kind {
	switch place % 100 {
	case 7:
		return hit
	case 57:
		return fact
	}
	return quiet
}

// subjects is how many sessions hits come from; one in twenty comes from the
// first.
const subjects = 5000

func subjectOf(batch, place int) int {
	n := batch*131 + place/100
	if n%20 == 0 {
		return 0
	}
	return n % subjects
}

// vendorID is the id of a record.
func vendorID(batch, place int) string {
	return fmt.Sprintf("%08x-0000-4000-8000-%012x", batch, place)
}

// order is what a generator is to do.
type order struct {
	URL, Token string
	// Templates are the records by kind, with marks in them.
	Templates [kinds][][]byte
	// Batches of Size records are due Every; 0 is as fast as they are answered.
	// First is the number of the first batch.
	First, Batches, Size int
	Every                time.Duration
	Connections          int
	// Again posts a batch that was not taken until it is, for as long as this;
	// 0 takes the first answer.
	Again time.Duration
	// Stop, when given, is a file whose coming ends it early.
	Stop string
	// Log is the file to which a line is written for each batch.
	Log string
}

// posted is what became of a batch.
type posted struct {
	Batch int
	// Due is when it was due and Took how long it then took until it was taken.
	Due  time.Time
	Took time.Duration
	// Refused counts answers of 429 and 5xx, Failed requests without an answer.
	Refused, Failed int
	// Hint says that every 429 had a Retry-After.
	Hint bool
	// Status is that of the last answer.
	Status int
}

// result is what a generator reports.
type result struct {
	Posted []posted
	// CPU is the processor time of the generator's process.
	CPU time.Duration
}

const envGenerator = "STAUNCH_LOAD_ORDER"

// generate runs a generator in a process of its own.
func generate(ctx context.Context, dir string, o order) (result, error) {
	var r result
	o.Log = filepath.Join(dir, fmt.Sprintf("posted-%d", o.First))
	b, err := json.Marshal(o)
	if err != nil {
		return r, fmt.Errorf("encoding an order: %w", err)
	}
	file := o.Log + ".order"
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("finding the test's binary: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), envGenerator+"="+file)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("the generator: %w", err)
	}
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	f, err := os.Open(o.Log)
	if err != nil {
		return r, err
	}
	defer func() { _ = f.Close() }()
	for in := json.NewDecoder(bufio.NewReader(f)); ; {
		var p posted
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return r, nil
		} else if err != nil {
			return r, fmt.Errorf("reading what the generator did: %w", err)
		}
		r.Posted = append(r.Posted, p)
	}
}

// runGenerator is the other process.
func runGenerator(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	g := newGenerator(o)
	out, err := os.Create(o.Log)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	var workers sync.WaitGroup
	began := time.Now()
	next := make(chan int)
	failed := make(chan error, o.Connections)
	for range o.Connections {
		workers.Go(func() {
			var body []byte
			for n := range next {
				due := began.Add(time.Duration(n) * o.Every)
				if o.Every == 0 {
					due = time.Now()
				}
				time.Sleep(time.Until(due))
				body = g.batch(body[:0], o.First+n)
				p := g.post(o.First+n, body, due)
				mu.Lock()
				err := enc.Encode(p)
				mu.Unlock()
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
feed:
	for n := range o.Batches {
		if _, gone := os.Stat(o.Stop); o.Stop != "" && gone == nil {
			break
		}
		select {
		case next <- n:
		case err = <-failed:
			break feed
		}
	}
	close(next)
	workers.Wait()
	return errors.Join(err, w.Flush(), out.Close())
}

type generator struct {
	order
	forms  [kinds][]form
	client *http.Client
}

func newGenerator(o order) *generator {
	g := &generator{order: o, client: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: max(o.Connections, 1), DisableCompression: true},
	}}
	for k, list := range o.Templates {
		for _, text := range list {
			g.forms[k] = append(g.forms[k], newForm(text))
		}
	}
	return g
}

// batch appends a batch's records, a line each.
func (g *generator) batch(dst []byte, batch int) []byte {
	now := time.Now().UTC().Format("2006-01-02T15:04:05Z")
	for place := range g.Size {
		k := kindOf(place)
		f := g.forms[k][(batch*g.Size+place)%len(g.forms[k])]
		dst = f.fill(dst, batch, place, now)
	}
	return dst
}

// post posts a batch until it is taken.
func (g *generator) post(batch int, body []byte, due time.Time) posted {
	p := posted{Batch: batch, Due: due, Hint: true}
	for {
		status, hint, err := g.once(body)
		p.Took, p.Status = time.Since(due), status
		wait := 20 * time.Millisecond
		switch {
		case err != nil:
			p.Failed++
		case status == http.StatusTooManyRequests || status >= http.StatusInternalServerError:
			p.Refused++
			s, err := strconv.Atoi(hint)
			p.Hint = p.Hint && (err == nil || status != http.StatusTooManyRequests)
			wait = min(max(wait, time.Duration(s)*time.Second), time.Second)
		default:
			return p
		}
		if p.Took+wait > g.Again {
			return p
		}
		time.Sleep(wait)
	}
}

func (g *generator) once(body []byte) (status int, retryAfter string, err error) {
	req, err := http.NewRequest(http.MethodPost, g.URL, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+g.Token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	resp, err := g.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, "", err
	}
	return resp.StatusCode, resp.Header.Get("Retry-After"), nil
}

// form is a template and where its marks are.
type form struct {
	text                   []byte
	ids, times, whos, keys []int
}

func newForm(text []byte) form {
	f := form{text: append(bytes.Clone(text), '\n')}
	for mark, list := range map[string]*[]int{markID: &f.ids, markTime: &f.times, markSubject: &f.whos, markKey: &f.keys} {
		for at := 0; ; {
			n := strings.Index(string(text[at:]), mark)
			if n < 0 {
				break
			}
			*list = append(*list, at+n)
			at += n + len(mark)
		}
	}
	return f
}

func (f form) fill(dst []byte, batch, place int, now string) []byte {
	start := len(dst)
	dst = append(dst, f.text...)
	rec := dst[start:]
	put := func(at []int, v string) {
		for _, n := range at {
			copy(rec[n:], v)
		}
	}
	put(f.ids, vendorID(batch, place))
	put(f.times, now)
	put(f.whos, fmt.Sprintf("%010d", subjectOf(batch, place)))
	put(f.keys, fmt.Sprintf("%08X%08X", batch, place))
	return dst
}
