// Package bench measures the whole engine on real systems and against floors
// that are taken in the same run. It has tests only. By itself it takes every
// measure once in a small size, so that the measures stay sound:
//
//	go test ./test/bench
//
// `make bench` gives the sizes of docs/performance.md and keeps each finished
// piece as a line of JSON, so that a measure that was stopped goes on where it
// was:
//
//	go test -tags systems -count=1 -timeout 0 -v ./test/bench -args -full
//
// What is timed against a floor is timed in turn with it, so that a busy machine
// slows both; ratios are of medians within one process.
package bench
