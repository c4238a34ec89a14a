package load

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"go.uber.org/goleak"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/seal"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/test/binary"
	"github.com/staunch-project/staunch/test/generated"
	"github.com/staunch-project/staunch/test/systems/pgtest"
)

var (
	full     = flag.Bool("load", false, "take the measure of docs/performance.md; the flags below then have its sizes")
	lasts    = flag.Duration("for", 0, "how long records come (5s; with -load 10m)")
	rate     = flag.Int("rate", 0, "records a second (1,000; with -load 20,000)")
	size     = flag.Int("batch", 500, "records of a batch")
	ruleN    = flag.Int("rules", 0, "how many rules (1,000; with -load 3,000)")
	overload = flag.Duration("overload", 0, "how long more records come than can be taken (2s; with -load 20s)")
	restarts = flag.Int("restarts", 3, "how often PostgreSQL is killed and started again")
	stormN   = flag.Int("storm", 100, "how many identities are accused in a storm, 17 a second")
	noKill   = flag.Bool("no-kill", false, "do not kill the process in the middle")
)

// made is the binary.
var made binary.Made

func TestMain(m *testing.M) {
	if file := os.Getenv(envGenerator); file != "" {
		if err := runGenerator(file); err != nil {
			fmt.Fprintf(os.Stderr, "the generator: %v\n", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(made.Main(pgtest.Main(m)))
}

const configFile = `v: 1
data_dir: data
listen: "@LISTEN@"
rules: [rules]
log: {level: warn}
sources:
  - {name: trail, format: aws.cloudtrail, realm: aws}
`

// levels are those of the generated rules, mostly low ones, as they are in packs
// that are let loose on all of an account's records.
var levels = []string{"high", "medium", "low", "low", "low", "medium", "low", "low", "informational", "low"}

func TestLoad(t *testing.T) {
	def := func(d *time.Duration, short, long time.Duration) {
		if *d == 0 {
			if *d = short; *full {
				*d = long
			}
		}
	}
	num := func(n *int, short, long int) {
		if *n == 0 {
			if *n = short; *full {
				*n = long
			}
		}
	}
	def(lasts, 5*time.Second, 10*time.Minute)
	def(overload, 2*time.Second, 20*time.Second)
	num(rate, 1000, 20_000)
	num(ruleN, 1000, 3000)

	ctx := t.Context()
	dir := t.TempDir()
	bin := made.Path(t)
	n := newNode(t, bin, dir, "")
	forms, matches := templates(t, *ruleN)
	syscall.Sync() // the binary and the rules, or they are written out in between
	var floor []time.Duration
	if *full {
		floor = diskAlone(t, dir)
	}
	n.start(t)

	every := time.Duration(float64(*size) / float64(*rate) * float64(time.Second))
	o := order{
		URL: n.url() + "/v1/ingest/trail", Token: n.source.Reveal(), Templates: forms,
		Batches: int(*lasts / every), Size: *size, Every: every, Connections: 16, Again: 2 * time.Minute,
	}
	type finished struct {
		result
		err error
	}
	steady := make(chan finished, 1)
	began := time.Now()
	go func() {
		r, err := generate(ctx, dir, o)
		steady <- finished{r, err}
	}()
	var outage [2]time.Time
	var spent time.Duration
	var peak int
	if !*noKill {
		time.Sleep(*lasts / 2)
		outage[0] = time.Now()
		spent, peak = n.usage(t)
		n.kill(t)
		n.start(t)
		outage[1] = time.Now()
	}
	f := <-steady
	must(t, f.err)
	took := time.Since(began)
	cpu, rss := n.usage(t)
	spent, peak = spent+cpu, max(peak, rss)

	// More than it can take: it says so, and stays small.
	o.First, o.Every, o.Again, o.Connections = o.Batches, 0, 0, 256
	o.Batches = max(1000, int(overload.Seconds()*float64(*rate)*4/float64(*size)))
	flood, err := generate(ctx, dir, o)
	must(t, err)
	_, rssAfter := n.usage(t)
	n.stop(t)

	acked, late := map[int]bool{}, []time.Duration(nil)
	var all, steadyOnes []time.Duration
	for _, p := range f.Posted {
		if p.Status != http.StatusOK {
			t.Errorf("batch %d was not taken: status %d, %d refusals, %d failures", p.Batch, p.Status, p.Refused, p.Failed)
			continue
		}
		if p.Refused > 0 && !p.Hint {
			t.Errorf("batch %d was refused without a Retry-After", p.Batch)
		}
		acked[p.Batch] = true
		all = append(all, p.Took)
		// What was due before the process was back, and what waited behind it.
		if done := p.Due.Add(p.Took); !outage[0].IsZero() && done.After(outage[0]) && p.Due.Before(outage[1].Add(catchUp)) {
			late = append(late, p.Took)
		} else {
			steadyOnes = append(steadyOnes, p.Took)
		}
	}
	refused := 0
	for _, p := range flood.Posted {
		switch {
		case p.Refused > 0:
			refused++
			if !p.Hint {
				t.Errorf("batch %d was refused without a Retry-After", p.Batch)
			}
		case p.Failed > 0:
			t.Errorf("batch %d was not answered", p.Batch)
		case p.Status == http.StatusOK:
			acked[p.Batch] = true
		default:
			t.Errorf("batch %d: status %d", p.Batch, p.Status)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused under overload")
	}
	j := n.judge(t, acked, matches)
	if j.missing+j.doubled+j.wrong > 0 {
		t.Errorf("of %d acknowledged hits %d are missing, %d are there twice, %d have not the signals that their rules make", j.hits, j.missing, j.doubled, j.wrong)
	}
	t.Logf("%d rules, %d records a second in batches of %d for %s", *ruleN, *rate, *size, *lasts)
	t.Logf("taken: %.0f records a second over %s; the last batch was due at %s", float64(len(all)**size)/took.Seconds(), took.Round(time.Second), *lasts)
	t.Logf("due → decided and committed: %s", quantiles(steadyOnes))
	for from := time.Duration(0); from < *lasts; from += *lasts / 20 {
		var then []time.Duration
		for _, p := range f.Posted {
			if due := p.Due.Sub(began); p.Status == http.StatusOK && due >= from && due < from+*lasts/20 {
				then = append(then, p.Took)
			}
		}
		t.Logf("\tdue from %s: %s", from, quantiles(then))
	}
	t.Logf("of batches that the kill concerns: %s", quantiles(late))
	if !*noKill {
		t.Logf("killed at %s, ready again after %s", outage[0].Sub(began).Round(time.Millisecond), outage[1].Sub(outage[0]).Round(time.Millisecond))
	}
	if *full {
		t.Logf("the disk alone, before and after, for what a batch writes: %s", quantiles(append(floor, diskAlone(t, dir)...)))
	}
	t.Logf("processors: staunch %.2f, generator %.2f; most memory %d MiB, after overload %d MiB", spent.Seconds()/took.Seconds(), f.CPU.Seconds()/took.Seconds(), peak, rssAfter)
	t.Logf("overload: %d batches, %d refused with 429 and Retry-After", len(flood.Posted), refused)
	t.Logf("acknowledged hits %d, each there once; %d signals, %d decisions, %d facts, %d MiB on disk", j.hits, j.signals, j.decisions, j.facts, j.disk>>20)
}

// diskAlone measures what no batch can be faster than, and how steady the disk is:
// for 20 seconds it writes half a megabyte, as the log of a batch has, 40 times a
// second, each time until the disk has it.
func diskAlone(t *testing.T, dir string) []time.Duration {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "floor"))
	must(t, err)
	defer func() { must(t, errors.Join(f.Close(), os.Remove(f.Name()))) }()
	batch := make([]byte, 512<<10)
	const room = 64
	for range room {
		_, err := f.Write(batch)
		must(t, err)
	}
	must(t, f.Sync())
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	var took []time.Duration
	for i := range 800 {
		<-tick.C
		began := time.Now()
		_, err := f.WriteAt(batch, int64(i%room*len(batch)))
		must(t, errors.Join(err, syscall.Fdatasync(int(f.Fd()))))
		took = append(took, time.Since(began))
	}
	return took
}

// catchUp is how long after a restart batches count as concerned by it.
const catchUp = 5 * time.Second

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "none"
	}
	slices.Sort(d)
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, max %s (n=%d)", at(0.5), at(0.9), at(0.99), at(0.999), at(1), len(d))
}

// templates sorts generated records by what they cause, with the rules that were
// written, and returns how many rules each hit matches.
func templates(t testing.TB, rules int) (forms [kinds][][]byte, matches []int) {
	t.Helper()
	var all []*sigma.Rule
	for _, text := range generated.Rules(rules) {
		r, errs := sigma.Parse("generated.yml", text, sigma.Options{})
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		all = append(all, r...)
	}
	set, err := sigma.Compile(all)
	must(t, err)
	trail, err := app.NewFormat("aws.cloudtrail", "")
	must(t, err)
	doc := jsondoc.New(jsondoc.Limits{})
	marks := []struct {
		at   *regexp.Regexp
		mark string
	}{
		{regexp.MustCompile(`"eventID":"[^"]*"`), `"eventID":"` + markID + `"`},
		{regexp.MustCompile(`"eventTime":"[^"]*"`), `"eventTime":"` + markTime + `"`},
		{regexp.MustCompile(`"accessKeyId":"ASIA[0-9A-F]{16}"`), `"accessKeyId":"ASIA000000` + markSubject + `"`},
		{regexp.MustCompile(`"principalId":"AROA[0-9A-F]{12}`), `"principalId":"AROA00` + markSubject},
		{regexp.MustCompile(`session-[0-9]+"`), `session-` + markSubject + `"`},
	}
	most := 100
	if *full {
		most = 500
	}
	for seed := uint64(1); len(forms[hit]) < most || len(forms[fact]) < most || len(forms[quiet]) < 4*most; seed++ {
		if seed > 1000 {
			t.Fatalf("%d rules match %d records of half a million", rules, len(forms[hit]))
		}
		for i, rec := range generated.Traffic(500, seed) {
			want := quiet
			if i%5 == 0 {
				rec, want = assumed(rec), fact
			}
			must(t, doc.Parse(rec))
			keys, err := trail.Keys(doc, format.Env{Source: "trail", Realm: "aws"})
			must(t, err)
			n := len(set.Match(doc, sigma.Logsource{Product: "aws", Service: "cloudtrail"}, nil, nil))
			switch {
			case keys.Facts != (want == fact), want == fact && n > 0:
				continue
			case n > 0:
				want = hit
			}
			if len(forms[want]) >= 4*most || want != quiet && len(forms[want]) >= most {
				continue
			}
			// Each subject is a session of a role of its own.
			if own := regexp.MustCompile(`"accountId":"([0-9]{12})"`).FindSubmatch(rec); own != nil {
				rec = bytes.ReplaceAll(rec, own[1], []byte("00"+markSubject))
			}
			for _, m := range marks {
				rec = m.at.ReplaceAll(rec, []byte(m.mark))
			}
			forms[want] = append(forms[want], rec)
			if want == hit {
				matches = append(matches, n)
			}
		}
	}
	return forms, matches
}

// assumed makes a record one of a role that was assumed.
func assumed(rec []byte) []byte {
	rec = regexp.MustCompile(`"eventSource":"[^"]*","eventName":"[^"]*"`).ReplaceAll(rec, []byte(`"eventSource":"sts.amazonaws.com","eventName":"AssumeRole"`))
	rec = regexp.MustCompile(`"errorCode":"AccessDenied","errorMessage":"(\\.|[^"\\])*"`).ReplaceAll(rec, []byte(`"responseElements":null`))
	return bytes.Replace(rec, []byte(`"responseElements":null`), []byte(`"responseElements":{"credentials":{"accessKeyId":"ASIA`+markKey+`","expiration":"Jan 2, 2099, 3:04:05 PM"},"assumedRoleUser":{"assumedRoleId":"AROA000000000001:`+markKey+`","arn":"arn:aws:sts::111122223333:assumed-role/Deploy/`+markKey+`"}}`), 1)
}

// node is staunch on disk, and its process.
type node struct {
	bin, dir, addr string
	postgres       string // the DSN of its database, "" for SQLite
	source         staunch.Secret
	cmd            *exec.Cmd
}

func newNode(t testing.TB, bin, dir, postgres string) *node {
	t.Helper()
	n := &node{bin: bin, dir: dir, addr: freeAddress(t), postgres: postgres}
	must(t, os.Mkdir(filepath.Join(dir, "rules"), 0o700))
	for i, text := range generated.Rules(*ruleN) {
		text = fmt.Appendf(text, "level: %s\nstatus: stable\n", levels[i%len(levels)])
		must(t, os.WriteFile(filepath.Join(dir, "rules", fmt.Sprintf("r%d.yml", i)), text, 0o600))
	}
	file := filepath.Join(dir, "staunch.yaml")
	text := strings.ReplaceAll(configFile, "@LISTEN@", n.addr)
	if postgres != "" {
		text += fmt.Sprintf("postgres_url: %q\n", postgres)
	}
	must(t, os.WriteFile(file, []byte(text), 0o600))
	cfg, err := config.Load(file)
	must(t, err)
	_, err = app.Init(t.Context(), cfg, "load")
	must(t, err)
	st := n.open(t)
	n.source, _, err = app.MakeToken(t.Context(), st, store.Token{Name: "trail", Role: "source", Source: "trail"}, "load")
	must(t, errors.Join(err, st.Close()))
	return n
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func (n *node) url() string { return "http://" + n.addr }

func (n *node) database() string { return filepath.Join(n.dir, "data", "staunch.db") }

func (n *node) open(t testing.TB) store.Store {
	t.Helper()
	keys, err := seal.Load(filepath.Join(n.dir, "data", "staunch.key"))
	must(t, err)
	chain, err := record.NewChain(keys.DeriveKey(record.KeyPurpose))
	must(t, err)
	o := sqlstore.Options{Chain: chain, Node: "load"}
	if n.postgres != "" {
		st, err := sqlstore.OpenPostgres(t.Context(), staunch.NewSecret(n.postgres), o)
		must(t, err)
		return st
	}
	st, err := sqlstore.OpenSQLite(t.Context(), n.database(), o)
	must(t, err)
	return st
}

// start starts the process and waits until it is ready.
func (n *node) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer func() { _ = log.Close() }()
	n.cmd = exec.CommandContext(t.Context(), n.bin, "serve", "--config", "staunch.yaml")
	n.cmd.Dir, n.cmd.Stdout, n.cmd.Stderr = n.dir, log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, n.cmd.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url()+"/readyz", nil)
		must(t, err)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			if resp.StatusCode < 300 {
				return
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(filepath.Join(n.dir, "node.log")) // for the message
			t.Fatalf("the node is not ready after a minute: %v\n%s", err, b)
		}
	}
}

func (n *node) kill(t *testing.T) {
	t.Helper()
	must(t, n.cmd.Process.Kill())
	_ = n.cmd.Wait() // says that it was killed
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	must(t, n.cmd.Process.Signal(syscall.SIGTERM))
	if err := n.cmd.Wait(); err != nil {
		b, _ := os.ReadFile(filepath.Join(n.dir, "node.log")) // for the message
		t.Errorf("stopping the node: %v\n%s", err, b)
	}
}

// usage is the process's processor time, and the most memory that it had, in MiB.
func (n *node) usage(t *testing.T) (cpu time.Duration, peak int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", n.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	must(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, f := range fields[11:13] {
		ticks, err := strconv.Atoi(f)
		must(t, err)
		cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(dir + "status")
	must(t, err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return cpu, kib >> 10
}

// judgement is what the database has of the hits that were acknowledged.
type judgement struct {
	hits, missing, doubled, wrong int
	signals, decisions, facts     int
	disk                          int64
}

// judge reads the database with SQL, sharing no code with what wrote it.
func (n *node) judge(t *testing.T, acked map[int]bool, matches []int) judgement {
	t.Helper()
	var j judgement
	driver, source := "sqlite", n.database()
	if n.postgres != "" {
		driver, source = "pgx", n.postgres
	}
	db, err := sql.Open(driver, source)
	must(t, err)
	defer func() { must(t, db.Close()) }()
	rows := func(query string, each func(body []byte) error) {
		t.Helper()
		r, err := db.QueryContext(context.Background(), query) //nolint:usetesting // also once the test's own is over
		must(t, err)
		defer func() { _ = r.Close() }()
		for r.Next() {
			var b []byte
			must(t, r.Scan(&b))
			must(t, each(b))
		}
		must(t, r.Err())
	}
	signals := map[string]int{}
	rows("SELECT body FROM signals", func(b []byte) error {
		var s struct {
			Event string `json:"event"`
		}
		j.signals++
		err := json.Unmarshal(b, &s)
		signals[s.Event]++
		return err
	})
	events, times := map[string]string{}, map[string]int{}
	rows("SELECT body FROM events", func(b []byte) error {
		var e struct {
			ID       string `json:"id"`
			VendorID string `json:"vendor_id"`
		}
		err := json.Unmarshal(b, &e)
		events[e.VendorID] = e.ID
		times[e.VendorID]++
		return err
	})
	must(t, db.QueryRowContext(t.Context(), "SELECT (SELECT count(*) FROM decisions), (SELECT count(*) FROM facts)").Scan(&j.decisions, &j.facts))
	for batch := range acked {
		for place := range *size {
			if kindOf(place) != hit {
				continue
			}
			j.hits++
			id := vendorID(batch, place)
			switch {
			case times[id] == 0:
				j.missing++
			case times[id] > 1:
				j.doubled++
			case signals[events[id]] != matches[(batch**size+place)%len(matches)]:
				j.wrong++
			}
		}
	}
	if n.postgres == "" {
		info, err := os.Stat(n.database())
		must(t, err)
		j.disk = info.Size()
	}
	return j
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
