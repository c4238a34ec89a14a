// Package load puts the whole line under load: the real binary with thousands of
// rules takes in records at a steady rate, is killed in the middle, started
// again, and then given more than it can take. It has tests only. By itself it
// runs for seconds at a low rate and judges what has to hold at any speed:
//
//	go test ./test/load
//
// `make load` takes the measure of docs/performance.md:
//
//	go test -count=1 -timeout 0 -v ./test/load -args -load
//
// The records are posted by a process of its own on the same processors, whose
// time is reported apart. A batch's latency runs from the moment it was due to
// the answer, which comes after the commit of all its decisions, so that waiting
// for a slow node counts.
//
// It is also where the binary meets what load does to it: PostgreSQL that is killed
// (`make restarts`), storms of accusations, forged and in earnest (`make storm`),
// and a disk that runs full. docs/reliability.md has what was measured.
package load
