package cli

import (
	"runtime"
	"testing"
	"time"
)

func TestGrowth(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 3300, mib: 3300, 64 * mib: 300, 128 * mib: 200, 1280 * mib: 110, 1 << 40: 100} {
		if got := growth(live); got != want {
			t.Errorf("%d MiB in use may grow by %d %%, want %d", live/mib, got, want)
		}
	}
}

func TestAfterCollections(t *testing.T) {
	calls, on := make(chan struct{}), make(chan struct{})
	go afterCollections(func() {
		select {
		case calls <- struct{}{}:
		case <-on:
		}
	})
	defer close(on)
	<-calls // at once
	for n := range 3 {
		deadline := time.After(time.Minute)
		for again := true; again; {
			runtime.GC()
			select {
			case <-calls:
				again = false
			case <-deadline:
				t.Fatalf("after collection %d nothing was called", n)
			case <-time.After(time.Millisecond):
			}
		}
	}
}
