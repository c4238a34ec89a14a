package cli

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A serving process uses a few dozen megabytes, most of them rules and what the store
// remembers, and makes as much anew every second under load. At the usual 100 percent
// it would be collected every second, and what is decided on meanwhile takes up to twice
// as long. So the heap may grow by what is in use, as usual, and by an allowance
// that a small heap is given as well as a large one: a fixed percentage that is kind
// to small heaps would double the memory of large ones.
const allowance = 128 << 20

// allowHeap has the heap grow by the allowance beyond what is usual, from now on.
func allowHeap() {
	set := 0
	afterCollections(func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		percent := growth(live[0].Value.Uint64())
		// Setting it stops all goroutines for a moment.
		if percent > set+set/10 || percent < set-set/10 {
			debug.SetGCPercent(percent)
			set = percent
		}
	})
}

// growth is by how many percent a heap may grow that has so many bytes in use.
func growth(live uint64) int {
	const least = 4 << 20 // what the runtime takes for the smallest heap
	return 100 + int(100*allowance/max(live, least))
}

// afterCollections calls fn now and after each collection, in a goroutine of the
// runtime's.
func afterCollections(fn func()) {
	fn()
	type cell struct{ _ [64]byte } // tiny ones are kept together, and live longer
	var again func(func())
	again = func(fn func()) {
		fn()
		runtime.AddCleanup(new(cell), again, fn)
	}
	runtime.AddCleanup(new(cell), again, fn)
}
