package connector_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/connector"
)

func TestNewest(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	n := &connector.Newest{Now: func() time.Time { return now }}
	tell := func(key string, version int64, fresh bool) {
		t.Helper()
		err := n.Ask(key)(version)
		if (err == nil) != fresh || err != nil && staunch.ClassOf(err) != staunch.ClassTransient {
			t.Errorf("version %d of %s: %v", version, key, err)
		}
	}
	tell("a", 7, true)
	tell("b", 1, true) // another thing
	tell("a", 7, true)
	tell("a", 6, false)
	early := n.Ask("a")
	tell("a", 9, true)
	if err := early(8); err != nil {
		t.Errorf("what was asked before the newest answer was had: %v", err)
	}
	tell("a", 8, false)
	now = now.Add(connector.NewestFor)
	tell("a", 3, true) // it was put back
	tell("a", 2, false)
	tell("a", 4, true)
	for i := range 20_000 {
		tell(fmt.Sprint(i), 1, true)
	}
}
