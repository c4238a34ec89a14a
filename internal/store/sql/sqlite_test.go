package sqlstore_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/store"
	sqlstore "github.com/staunch-project/staunch/internal/store/sql"
	"github.com/staunch-project/staunch/internal/store/storetest"
)

func TestSQLiteSecondOpener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staunch.db")
	s := openLite(t, path)
	_, err := sqlstore.OpenSQLite(t.Context(), path, options("two"))
	if !errors.Is(err, staunch.ErrConflict) || !strings.Contains(err.Error(), fmt.Sprintf("%s is in use by process %d", path, os.Getpid())) {
		t.Errorf("a second opener: %v", err)
	}
	// Another process, too.
	out, err := child(t, "open", path).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("is in use by process")) {
		t.Errorf("a second process: %v: %s", err, out)
	}
	closeStore(t, s)
	openLite(t, path)
}

func TestSQLiteFiles(t *testing.T) {
	dir := t.TempDir()
	s := openLite(t, filepath.Join(dir, "a name with % and ?.db"))
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor("a", "b") }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 {
		t.Fatalf("%d files: %v", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || !strings.HasPrefix(e.Name(), "a name with % and ?.db") {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if _, err := sqlstore.OpenSQLite(t.Context(), filepath.Join(dir, "missing", "x.db"), options("one")); err == nil {
		t.Error("opened a file in a directory that is not there")
	}
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlstore.OpenSQLite(t.Context(), junk, options("one")); err == nil {
		t.Error("opened a file that is no database")
	}
}

// child runs this test binary again, as another process.
func child(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), "STAUNCH_TEST_CHILD="+what, "STAUNCH_TEST_PATH="+path)
	return cmd
}

// TestChild is what child runs.
func TestChild(t *testing.T) {
	what, path := os.Getenv("STAUNCH_TEST_CHILD"), os.Getenv("STAUNCH_TEST_PATH")
	switch what {
	case "":
		t.Skip("this is the other process of other tests")
	case "open":
		openLite(t, path)
	case "load":
		s := openLite(t, path)
		first, err := strconv.Atoi(os.Getenv("STAUNCH_TEST_FIRST"))
		if err != nil {
			t.Fatal(err)
		}
		// One write for each: what the parent has read was acknowledged.
		err = storetest.Load(t.Context(), s, 16, first, func(n int) {
			if _, err := fmt.Fprintf(os.Stdout, "acked %d\n", n); err != nil {
				os.Exit(3)
			}
		})
		t.Fatal(err)
	}
}

// TestSQLiteKill kills a process that writes, several times in a row on one
// database, with a checkpoint or two in between.
func TestSQLiteKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staunch.db")
	var acked []int
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		cmd := child(t, "load", path)
		cmd.Env = append(cmd.Env, "STAUNCH_TEST_FIRST="+strconv.Itoa(round*1_000_000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		before := len(acked)
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "acked "); ok {
				v, err := strconv.Atoi(n)
				if err != nil {
					t.Fatal(err)
				}
				acked = append(acked, v)
				if len(acked)-before == 150+137*round {
					if err := cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if err := cmd.Wait(); err == nil || len(acked) == before {
			t.Fatalf("round %d: the process was not killed: %v, %d acknowledged", round, err, len(acked)-before)
		}
		s := openLite(t, path)
		var count int
		err = s.View(t.Context(), func(r store.Reader) (err error) { count, err = storetest.CheckLoad(r, acked); return err })
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		t.Logf("round %d: %d acknowledged, %d there", round, len(acked), count)
		closeStore(t, s)
	}
}

// scan returns the files under dir that have needle in them.
func scan(t *testing.T, dir string, needle []byte) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, needle) {
			found = append(found, e.Name())
		}
	}
	return found
}

func TestSQLiteShredsForGood(t *testing.T) {
	dir := t.TempDir()
	s := openLite(t, filepath.Join(dir, "staunch.db"))
	needle := []byte("what-must-not-be-found")
	put := func() {
		t.Helper()
		err := s.Update(t.Context(), func(tx store.Tx) error {
			for i := range 20 {
				blob := bytes.Repeat(append(needle, byte('a'+i)), 200+i*100) // overflow pages too
				if err := errors.Join(tx.PutSealed(strconv.Itoa(i), blob), tx.PutSecret(storetest.Ref(i), 0, blob)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	shred := func(tx store.Tx) error {
		for i := range 20 {
			if err := errors.Join(tx.Shred(strconv.Itoa(i)), tx.ShredSecret(storetest.Ref(i))); err != nil {
				return err
			}
		}
		return nil
	}
	put()
	if len(scan(t, dir, needle)) == 0 {
		t.Fatal("the test does not find what is there")
	}
	if err := s.Update(t.Context(), shred); err != nil {
		t.Fatal(err)
	}
	if found := scan(t, dir, needle); found != nil {
		t.Errorf("still in %v", found)
	}
	// With a reader in the way, after the next commit without it.
	put()
	err := s.View(t.Context(), func(r store.Reader) error {
		if _, err := r.Sealed("1"); err != nil {
			return err
		}
		began := time.Now()
		err := s.Update(t.Context(), shred)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("a reader held up the writers for %v", took)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor("a", "b") }); err != nil {
		t.Fatal(err)
	}
	if found := scan(t, dir, needle); found != nil {
		t.Errorf("after a reader was in the way, still in %v", found)
	}
}

// TestSQLiteGroups: callers share commits, and one that panics or fails in the
// middle of a group leaves the others in it.
func TestSQLiteGroups(t *testing.T) {
	s := openLite(t, filepath.Join(t.TempDir(), "staunch.db"))
	hold := make(chan struct{})
	entered := make(chan struct{})
	var order []int
	var running atomic.Int64
	results := make(chan error, 65)
	go func() {
		results <- s.Update(t.Context(), func(store.Tx) error { close(entered); <-hold; return nil })
	}()
	<-entered
	for i := range 64 {
		go func() {
			results <- s.Update(t.Context(), func(tx store.Tx) error {
				if running.Add(1) != 1 {
					t.Error("two functions run at once")
				}
				defer running.Add(-1)
				tx.OnCommit(func() { order = append(order, i) })
				if i%7 == 3 {
					return staunch.ErrInvalid
				}
				return tx.PutCursor(strconv.Itoa(i), "v")
			})
		}()
	}
	close(hold)
	failed := 0
	for range 65 {
		if err := <-results; errors.Is(err, staunch.ErrInvalid) {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 9 || len(order) != 55 {
		t.Errorf("%d failed, %d callbacks", failed, len(order))
	}
}

func TestSQLiteListen(t *testing.T) {
	s := openLite(t, filepath.Join(t.TempDir(), "staunch.db"))
	testListen(t, s, s, 0)
}

type listener interface {
	Listen(ctx context.Context, fn func(sqlstore.Change)) error
}

// testListen puts a hold through writer and waits until l hears of it, after
// the greetings that l gives first.
func testListen(t *testing.T, l listener, writer store.Store, greetings int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	heard, ended := make(chan sqlstore.Change, 100), make(chan error, 1)
	go func() { ended <- l.Listen(ctx, func(c sqlstore.Change) { heard <- c }) }()
	for range greetings {
		if c := <-heard; !c.Holds || !c.Work {
			t.Errorf("greeted with %+v", c)
		}
	}
	for n := 0; ; n++ {
		// Without greetings there is no telling when it listens: put until heard.
		err := writer.Update(ctx, func(tx store.Tx) error {
			_, err := tx.PutHold(storetest.Hold(staunch.PlaneGuard, storetest.Ref(n), "x", "c"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if greetings == 0 && len(heard) == 0 {
			continue
		}
		select {
		case c := <-heard:
			if !c.Holds || c.Work {
				t.Errorf("heard %+v", c)
			}
		case <-ctx.Done():
			t.Error("heard nothing")
		}
		break
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Listen: %v", err)
	}
}

// checkPlan checks that no statement reads a table from end to end.
func checkPlan(t *testing.T, text string, plan []string) {
	t.Helper()
	// Tables that stay small, and statements that read all there is.
	small := regexp.MustCompile(`^SCAN (breakers|guards|tokens|lanes|x|u|l|c|a\d+|\(subquery-\d+\)|CONSTANT ROW|\d+ CONSTANT ROW)\b`)
	bounded := regexp.MustCompile(`^SCAN \S+ USING (COVERING )?INDEX \S+$`)
	// Of the sizes that people ask for: rows in the order that the table has them in,
	// and only so many.
	few := regexp.MustCompile(`^SELECT (at FROM \w+ ORDER BY rowid( DESC)? LIMIT 1|COUNT\(\*\).* FROM \(SELECT [^()]* LIMIT \$1\))$`)
	if few.MatchString(text) && !strings.Contains(strings.Join(plan, " "), "TEMP B-TREE") {
		return
	}
	for _, line := range plan {
		if strings.HasPrefix(line, "SCAN") && !small.MatchString(line) && (!bounded.MatchString(line) || !strings.Contains(text, "LIMIT")) {
			t.Errorf("%s\n  %s", text, strings.Join(plan, "\n  "))
			return
		}
		if strings.Contains(line, "AUTOMATIC") {
			t.Errorf("%s\n  builds an index: %s", text, line)
		}
	}
}
