// Package sim plays stories: nodes that take in records, decide, contain and
// release, on a platform, a network and a database that fail in every way they
// may, with processes that die anywhere and clocks that jump. All of it runs on
// one goroutine with a clock of its own, and everything that happens is drawn
// from one seed, so that a story that goes wrong goes wrong again:
//
//	go test ./internal/sim -args -seed 4711 -tell
//
// What a story posts it also delivers to an empty database in another order, and
// some of it twice; and it posts what may change nothing.
//
// The package has tests only. `make sim SEEDS=200000` plays many stories, and
// docs/reliability.md says what they hold.
//
// What is real in a story is the pipeline, the decision, the guardrails, the
// executor, the inventory and the record chain. What is not: the database is
// package memory, which keeps the store's whole contract; the platform is
// connectortest's; a node's workers and timers are the story's own loop, which
// carries out one action at a time and may let another node act in the middle of
// any call. A process dies by a panic out of a call or a commit, after which
// nothing of its memory is used again.
package sim
