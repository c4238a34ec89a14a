package sqlstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/store"
	"github.com/staunch-project/staunch/internal/store/storetest"
)

// TestLogBeginsAnew: however much is written without a pause, the log begins anew
// once it has what it is to have, although another connection copies it.
func TestLogBeginsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "staunch.db")
	s, err := OpenSQLite(t.Context(), path, Options{Chain: storetest.Chain{}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	value := strings.Repeat("v", 200<<10)
	index := checkpoints{index: path + "-shm"}
	defer func() { _ = index.f.Close() }()
	begun, last := 0, 0
	for n := range 4 * walPages * pageSize / len(value) {
		if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.PutCursor(fmt.Sprint(n), value) }); err != nil {
			t.Fatal(err)
		}
		pages, _, err := index.state()
		if err != nil {
			t.Fatal(err)
		}
		if pages < last {
			begun++
		}
		last = pages
	}
	st, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(lastPages+walPages) * (walFrame + pageSize); st.Size() > most {
		t.Errorf("the log has %d bytes, more than %d", st.Size(), most)
	}
	if begun == 0 {
		t.Errorf("the log has %d pages and never began anew", last)
	}
}
