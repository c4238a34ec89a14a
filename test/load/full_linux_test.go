package load

import (
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/api"
	"github.com/staunch-project/staunch/internal/api/client"
)

// TestDiskFull has the disk under the data folder run full while records come in.
// What is refused is refused with 503, said in the log, and nothing of it is
// there; what is acknowledged is durable and contained, once, and no call is made
// without its intent on the disk. When there is space again the node goes on by
// itself. Then once more, with the process killed while the disk is full.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	must(t, os.Mkdir(data, 0o700))
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Skipf("this process may not mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(data, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	bin := made.Path(t)
	const each = 300
	e := newEstate(t, bin, dir, 2*each, raised())
	e.start(t)
	f := &fullDisk{estate: e, file: filepath.Join(data, "ballast"), acked: map[int]bool{}, never: map[int]bool{}}
	for _, kill := range []bool{false, true} {
		first := f.next
		for range 20 {
			if a := f.post(t); a.status != http.StatusOK {
				t.Fatalf("with space on the disk: %d %s", a.status, a.body)
			}
		}
		f.fill(t)
		refused := f.until(t, first+each, 20)
		f.byHand(t, refused)
		calls := len(e.auth.ledger())
		if kill {
			e.kill(t)
		}
		must(t, os.Remove(f.file))
		if kill {
			e.start(t)
		}
		began := time.Now()
		f.again(t, refused)
		t.Logf("killed %v: %d taken before the disk was full, %d refused with 503, on again %s after there was space, %d revocations until then", kill, refused[0]-first, len(refused), time.Since(began).Round(time.Millisecond), calls)
	}
	for n := range f.acked {
		eventually(t, time.Minute, "what was acknowledged is contained", func() bool { return !e.auth.revoked(e.subjects[n].token).IsZero() })
	}
	e.sound(t)
	f.verify(t)
	e.stop(t)
	f.judge(t)
}

// fullDisk is an estate on a disk that runs full.
type fullDisk struct {
	*estate
	file  string // takes up the space
	next  int    // the subject to be accused next
	acked map[int]bool
	// never was refused, and is never posted again.
	never map[int]bool
}

// post accuses the next subject.
func (f *fullDisk) post(t *testing.T) answer {
	t.Helper()
	a, err := f.accuse(t.Context(), "trusted", f.next)
	must(t, err)
	if a.status == http.StatusOK {
		f.acked[f.next] = true
	}
	f.next++
	return a
}

// fill takes what space is left.
func (f *fullDisk) fill(t *testing.T) {
	t.Helper()
	out, err := os.Create(f.file)
	must(t, err)
	defer func() { _ = out.Close() }()
	for _, size := range []int{1 << 20, 4 << 10} {
		for b := make([]byte, size); ; {
			if _, err := out.Write(b); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// until posts until so many in a row were refused, and returns all that were. The
// log's room lasts for some more at first.
func (f *fullDisk) until(t *testing.T, most, enough int) (refused []int) {
	t.Helper()
	for row := 0; row < enough; {
		if f.next == most {
			t.Fatalf("of %d records only %d were refused on a full disk", most, len(refused))
		}
		n := f.next
		a := f.post(t)
		if a.status == http.StatusOK {
			row = 0
			continue
		}
		row++
		refused = append(refused, n)
		var p api.Problem
		if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != http.StatusServiceUnavailable || a.after == "" {
			t.Errorf("on a full disk the answer is %d, Retry-After %q: %s", a.status, a.after, a.body)
		}
	}
	if b, err := os.ReadFile(filepath.Join(f.dir, "node.log")); err != nil || !strings.Contains(string(b), "full") {
		t.Errorf("the log does not speak of a full disk, %v:\n%s", err, b)
	}
	return refused
}

// byHand has a person contain somebody while the disk is full. What work under way
// gives back may be enough for a few: they are contained when their tokens are seen.
func (f *fullDisk) byHand(t *testing.T, refused []int) {
	t.Helper()
	for _, n := range refused[:len(refused)/2] {
		_, err := f.api.Contain(t.Context(), api.ContainRequest{Subject: f.subjects[n].ref(), Tier: staunch.TierRevoke, Reason: "by hand"})
		var p *client.Error
		if errors.As(err, &p) && p.Status == http.StatusServiceUnavailable {
			return
		}
		if err != nil {
			t.Errorf("containing by hand on a full disk: %v", err)
		}
	}
	t.Error("the disk is full, and people contain all the same")
}

// again posts what was refused, but for the last few.
func (f *fullDisk) again(t *testing.T, refused []int) {
	t.Helper()
	for _, n := range refused[len(refused)-3:] {
		f.never[n] = true
	}
	for i, n := range refused[:len(refused)-3] {
		eventually(t, 20*time.Second, "it goes on by itself", func() bool {
			a, err := f.accuse(t.Context(), "trusted", n)
			must(t, err)
			if a.status != http.StatusOK && (i > 0 || a.status != http.StatusServiceUnavailable) {
				t.Errorf("with space again: %d %s", a.status, a.body)
			}
			return a.status == http.StatusOK
		})
		f.acked[n] = true
	}
}

// verify runs `staunch audit verify`.
func (f *fullDisk) verify(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), f.bin, "audit", "verify")
	cmd.Env = append(os.Environ(), "STAUNCH_URL="+f.url(), "STAUNCH_TOKEN="+f.admin.Reveal())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("staunch audit verify: %v\n%s", err, out)
	}
}

// judge reads what the authorization server saw against the database, with SQL.
func (f *fullDisk) judge(t *testing.T) {
	t.Helper()
	db, err := sql.Open("sqlite", f.database())
	must(t, err)
	defer func() { must(t, db.Close()) }()
	rows, err := db.QueryContext(t.Context(), "SELECT id, body FROM steps")
	must(t, err)
	defer func() { _ = rows.Close() }()
	intended := map[string]time.Time{}
	for rows.Next() {
		var id string
		var body []byte
		must(t, rows.Scan(&id, &body))
		var s staunch.Step
		must(t, json.Unmarshal(body, &s))
		intended[id] = s.Intended.Std()
	}
	must(t, rows.Err())
	byToken := map[string]int{}
	for i, s := range f.subjects {
		byToken[s.token] = i
	}
	changed := map[int]int{}
	for _, c := range f.auth.ledger() {
		n := byToken[c.token]
		if at, ok := intended[c.step]; !ok || at.After(c.at) {
			t.Errorf("the token of %d was revoked by step %q, which was intended at %s", n, c.step, at)
		}
		if f.never[n] || !f.acked[n] {
			t.Errorf("the token of %d was revoked, and what accuses it was not acknowledged", n)
		}
		if c.changed {
			changed[n]++
		}
	}
	for n := range f.acked {
		if changed[n] != 1 {
			t.Errorf("the token of %d was revoked %d times", n, changed[n])
		}
	}
	t.Logf("%d acknowledged, each contained once; %d refused and not there", len(f.acked), len(f.never))
}
