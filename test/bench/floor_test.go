package bench_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// appended is a file that bytes are appended to, each time followed by one
// fdatasync: the least that making them durable can cost.
type appended struct{ f *os.File }

func openAppended(tb testing.TB) *appended {
	tb.Helper()
	f, err := os.OpenFile(filepath.Join(tb.TempDir(), "floor"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(tb, err)
	tb.Cleanup(func() { _ = f.Close() })
	return &appended{f}
}

func (a *appended) write(tb testing.TB, b []byte) {
	if _, err := a.f.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Fdatasync(int(a.f.Fd())); err != nil {
		tb.Fatal(err)
	}
}
