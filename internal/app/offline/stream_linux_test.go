package offline_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

var (
	speed = flag.Bool("speed", false, "measure bin/staunch match, which $STAUNCH_BIN names, for make bench-detect")
	mib   = flag.Int("mib", 1024, "with -speed: size of the file in MiB")
)

// streamed returns rules and records: the corpus' where it is there, else some
// of our own.
func streamed(t testing.TB) (rulesPath string, records [][]byte) {
	dir := os.Getenv("STAUNCH_CORPUS")
	if dir == "" {
		rulesPath = t.TempDir()
		for n := range 500 {
			text := fmt.Sprintf("title: Calls %d\nid: calls-%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n    s: {eventName: [Call%d, Call%d], eventSource: s3.amazonaws.com}\n    t: {userAgent|contains: tool%d}\n    condition: s or t\n", n, n, 100*n, 100*n+1, 31*n)
			if err := os.WriteFile(filepath.Join(rulesPath, fmt.Sprintf("r%d.yml", n)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 1000 {
			records = append(records, []byte(event(n)))
		}
		return rulesPath, records
	}
	f, err := os.Open(filepath.Join(dir, "panther", "rule_tests", "AWS.CloudTrail.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var row struct {
			Event json.RawMessage `json:"event"`
		}
		var b bytes.Buffer
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if err := json.Compact(&b, row.Event); err != nil {
			t.Fatal(err)
		}
		records = append(records, b.Bytes())
	}
	return filepath.Join(dir, "sigma"), records
}

func processorTime(who int) time.Duration {
	var ru syscall.Rusage
	_ = syscall.Getrusage(who, &ru) // fails for an unknown who only
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestStream compares staunch match on a large file, the whole process, with
// decoding and matching alone on one core. It only reports: nothing fails by
// time.
func TestStream(t *testing.T) {
	if !*speed {
		t.Skip("measures only with -speed (make bench-detect)")
	}
	bin := os.Getenv("STAUNCH_BIN")
	rulesPath, records := streamed(t)
	file := filepath.Join(t.TempDir(), "events.ndjson")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	events, size := 0, 0
	for size < *mib<<20 {
		for _, r := range records {
			_, _ = w.Write(append(r, '\n')) // Flush tells
			size += len(r) + 1
			events++
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	list, _ := sigma.LoadPath(rulesPath, sigma.Options{})
	set, err := sigma.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	doc := jsondoc.New(jsondoc.Limits{})
	var sc sigma.Scratch
	var matched []int
	inProcess := func() (time.Duration, time.Duration) {
		wall, cpu := time.Now(), processorTime(syscall.RUSAGE_THREAD)
		for n := range 100_000 {
			if err := doc.Parse(records[n%len(records)]); err == nil {
				matched = set.Match(doc, sigma.Logsource{Product: "aws", Service: "cloudtrail"}, &sc, matched[:0])
			}
		}
		return time.Since(wall) / 100_000, (processorTime(syscall.RUSAGE_THREAD) - cpu) / 100_000
	}
	for range 3 {
		wall, cpu := inProcess()
		out := filepath.Join(t.TempDir(), "out.ndjson")
		o, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), bin, "match", "--rules", rulesPath, "--source", "aws.cloudtrail", file)
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = o, &said
		start := time.Now()
		if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() != 3 { // 3: the corpus has records that are broken on purpose
			t.Fatalf("%v: %s", err, said.String())
		}
		took := time.Since(start)
		_ = o.Close()
		ru, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		fmt.Printf("staunch match, %d rules, %d MiB, %d records: %.0f events/s, %.0f by processor time, %d MiB resident; in process on one core %.0f events/s, %.0f by processor time; %.0f %% and %.0f %% of it\n",
			len(list), size>>20, events, float64(events)/took.Seconds(), float64(events)/used.Seconds(), ru.Maxrss>>10,
			1/wall.Seconds(), 1/cpu.Seconds(), 100*float64(events)/took.Seconds()*wall.Seconds(), 100*float64(events)/used.Seconds()*cpu.Seconds())
	}
}
